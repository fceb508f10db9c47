//! One zstd frame: found in a stream without decoding it, and decoded into
//! exactly as many bytes as it states.
//!
//! Of all that RFC 8878 allows, a vault uses frames that state their content
//! size, end in a checksum and need no dictionary; any other is refused.

use super::MAX_FRAME_SIZE;
use super::table::{FrameEntry, SKIPPABLE_MAGIC};

const MAGIC: u32 = 0xFD2F_B528;
/// The longest header: magic, descriptor, window, dictionary id, content size.
const MAX_HEADER: usize = 4 + 1 + 1 + 4 + 8;
/// The most stored bytes of a frame: plain ones, three for each block of 128 KiB,
/// header and checksum, with room to spare.
pub const MAX_STORED: usize = MAX_FRAME_SIZE + (MAX_FRAME_SIZE >> 8) + 1024;

/// Why bytes are no frame of a vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct FrameError {
    /// What is wrong.
    pub why: &'static str,
}

fn wrong<T>(why: &'static str) -> Result<T, FrameError> {
    Err(FrameError { why })
}

/// A whole frame or skippable frame, still encoded.
#[derive(Debug, PartialEq, Eq)]
pub enum RawFrame {
    /// A frame with content of the size given.
    Data {
        /// Its bytes.
        bytes: Vec<u8>,
        /// The size of its plain bytes; at most [`MAX_FRAME_SIZE`].
        plain: u32,
    },
    /// The seek table: magic, size and all. Nothing may follow it.
    Table(Vec<u8>),
}

#[derive(Debug, Clone, Copy)]
enum State {
    Header,
    /// At a block's header, this far into the frame.
    Block {
        at: usize,
        plain: u32,
    },
    /// In the last four bytes.
    Checksum {
        end: usize,
        plain: u32,
    },
    Skippable {
        end: usize,
    },
    Done,
}

/// Cuts a stream into frames, push-style. Holds at most one frame.
#[derive(Debug)]
pub struct FrameSplitter {
    buffer: Vec<u8>,
    state: State,
    table_limit: usize,
}

impl FrameSplitter {
    /// For a stream whose seek table has at most `table_limit` bytes.
    pub fn new(table_limit: usize) -> Self {
        Self { buffer: Vec::new(), state: State::Header, table_limit }
    }

    /// Takes bytes from the front of `input` until a frame is complete. Returns
    /// it, or `None` when `input` is used up. `spare` gives an empty buffer for
    /// the next frame.
    pub fn push(
        &mut self,
        input: &mut &[u8],
        spare: impl FnOnce() -> Vec<u8>,
    ) -> Result<Option<RawFrame>, FrameError> {
        loop {
            let need = self.need()?;
            let missing = need.saturating_sub(self.buffer.len());
            if missing > 0 {
                if matches!(self.state, State::Done) {
                    return if input.is_empty() {
                        Ok(None)
                    } else {
                        wrong("there are bytes after the seek table")
                    };
                }
                if input.is_empty() {
                    return Ok(None);
                }
                let take = missing.min(input.len());
                self.buffer.extend_from_slice(&input[..take]);
                *input = &input[take..];
                continue;
            }
            match self.state {
                State::Checksum { plain, .. } => {
                    self.state = State::Header;
                    let bytes = std::mem::replace(&mut self.buffer, spare());
                    self.buffer.clear();
                    return Ok(Some(RawFrame::Data { bytes, plain }));
                }
                State::Skippable { .. } => {
                    self.state = State::Done;
                    return Ok(Some(RawFrame::Table(std::mem::take(&mut self.buffer))));
                }
                State::Header | State::Block { .. } | State::Done => self.advance()?,
            }
        }
    }

    /// Checks that the stream may end here: after the seek table.
    pub fn finish(&self) -> Result<(), FrameError> {
        if matches!(self.state, State::Done) {
            Ok(())
        } else {
            wrong("the object ends before its seek table")
        }
    }

    /// How many bytes of the frame are needed to go on.
    fn need(&self) -> Result<usize, FrameError> {
        Ok(match self.state {
            State::Header => header_need(&self.buffer)?,
            State::Block { at, .. } => at + 3,
            State::Checksum { end, .. } | State::Skippable { end } => end,
            State::Done => 1,
        })
    }

    fn advance(&mut self) -> Result<(), FrameError> {
        self.state = match self.state {
            State::Header if magic(&self.buffer) == Some(SKIPPABLE_MAGIC) => {
                let size = little(&self.buffer[4..8]) as usize;
                if size > self.table_limit {
                    return wrong("the seek table is larger than the object's frames allow");
                }
                State::Skippable { end: 8 + size }
            }
            State::Header => {
                let (at, plain) = parse_header(&self.buffer)?;
                State::Block { at, plain }
            }
            State::Block { at, plain } => {
                let header = little(&self.buffer[at..at + 3]);
                let (last, kind, size) = (header & 1 == 1, header >> 1 & 3, (header >> 3) as usize);
                let stored = match kind {
                    0 | 2 => size,
                    1 => 1,
                    _ => return wrong("a block has the reserved type"),
                };
                if size > 128 * 1024 {
                    return wrong("a block is larger than a block can be");
                }
                let next = at + 3 + stored;
                if next > MAX_STORED {
                    return wrong("a frame is larger than allowed");
                }
                if last {
                    State::Checksum { end: next + 4, plain }
                } else {
                    State::Block { at: next, plain }
                }
            }
            other => other,
        };
        Ok(())
    }
}

fn little(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn magic(bytes: &[u8]) -> Option<u32> {
    bytes.get(..4).map(|bytes| little(bytes) as u32)
}

/// Sizes of the optional fields of a header, by its descriptor: window, content
/// size.
fn header_fields(descriptor: u8) -> Result<(usize, usize), FrameError> {
    if descriptor & 0b11 != 0 {
        return wrong("a frame needs a dictionary");
    }
    if descriptor & 0b1000 != 0 {
        return wrong("a frame's header uses a reserved bit");
    }
    if descriptor & 0b100 == 0 {
        return wrong("a frame has no checksum");
    }
    let single = descriptor & 0b10_0000 != 0;
    let size = match descriptor >> 6 {
        0 if single => 1,
        0 => return wrong("a frame does not state its size"),
        1 => 2,
        2 => 4,
        _ => 8,
    };
    Ok((usize::from(!single), size))
}

fn header_need(buffer: &[u8]) -> Result<usize, FrameError> {
    match magic(buffer) {
        None => Ok(4),
        Some(SKIPPABLE_MAGIC) => Ok(8),
        Some(MAGIC) => match buffer.get(4) {
            None => Ok(5),
            Some(&descriptor) => {
                let (window, size) = header_fields(descriptor)?;
                debug_assert!(5 + window + size <= MAX_HEADER);
                Ok(5 + window + size)
            }
        },
        Some(_) => wrong("there is no zstd frame here"),
    }
}

/// Where the first block of a frame begins, and the size of its content.
fn parse_header(buffer: &[u8]) -> Result<(usize, u32), FrameError> {
    let (window, size) = header_fields(buffer[4])?;
    let at = 5 + window;
    let mut plain = little(&buffer[at..at + size]);
    if size == 2 {
        plain += 256;
    }
    match u32::try_from(plain) {
        Ok(plain) if plain as usize <= MAX_FRAME_SIZE => Ok((at + size, plain)),
        _ => wrong("a frame states a larger content than allowed"),
    }
}

/// The size of the content that `bytes` state, when they are one frame of a vault and
/// nothing else. Their content is not looked at.
pub fn stated_size(bytes: &[u8]) -> Option<u32> {
    let mut splitter = FrameSplitter::new(0);
    let mut rest = bytes;
    match splitter.push(&mut rest, Vec::new) {
        Ok(Some(RawFrame::Data { plain, .. })) if rest.is_empty() => Some(plain),
        _ => None,
    }
}

/// The low 32 bits of XXH64 of a frame's content, as the frame states it.
pub fn stated_checksum(frame: &[u8]) -> u32 {
    frame.last_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// The seek table's entry for a frame.
pub(crate) fn entry(frame: &[u8], plain: u32) -> FrameEntry {
    FrameEntry { stored: frame.len() as u32, plain, checksum: stated_checksum(frame) }
}

/// A decoder that is reused from frame to frame.
pub struct FrameDecoder(zstd::bulk::Decompressor<'static>);

impl std::fmt::Debug for FrameDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FrameDecoder")
    }
}

impl FrameDecoder {
    /// A decoder.
    pub fn new() -> Result<Self, FrameError> {
        zstd::bulk::Decompressor::new().map(Self).or_else(|_| wrong("no memory for a decoder"))
    }

    /// Decodes one frame into `out`, which it replaces, and checks its content
    /// against its checksum and `plain`, the size that it states.
    pub fn decode(
        &mut self,
        frame: &[u8],
        plain: u32,
        out: &mut Vec<u8>,
    ) -> Result<(), FrameError> {
        out.clear();
        // One byte more than needed would be room for a frame that lies.
        out.reserve_exact(plain as usize);
        match self.0.decompress_to_buffer(frame, out) {
            Ok(size) if size == plain as usize => Ok(()),
            Ok(_) => wrong("a frame's content is not as long as it states"),
            Err(_) => wrong("a frame does not decode, or its content does not match its checksum"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::compression::table::FrameTable;
    use crate::compression::writer::FrameEncoder;

    fn encode(plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        FrameEncoder::new(3).unwrap().encode(plain, &mut out).unwrap();
        out
    }

    fn split(bytes: &[u8], step: usize) -> Result<Vec<RawFrame>, FrameError> {
        let mut splitter = FrameSplitter::new(1 << 20);
        let mut frames = Vec::new();
        for mut chunk in bytes.chunks(step) {
            while let Some(frame) = splitter.push(&mut chunk, Vec::new)? {
                frames.push(frame);
            }
        }
        splitter.finish()?;
        Ok(frames)
    }

    #[test]
    fn frames_are_found_whatever_the_chunks() {
        let random: Vec<u8> =
            (0u32..300_000).flat_map(|n| (n.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
        let contents: [&[u8]; 5] = [b"", b"x", &[7; 1_000_000], &random, &random[..255]];
        let mut stream = Vec::new();
        let mut table = FrameTable::default();
        for plain in contents {
            let bytes = encode(plain);
            table.frames.push(entry(&bytes, plain.len() as u32));
            stream.extend_from_slice(&bytes);
        }
        stream.extend_from_slice(&table.encode());
        for step in [1, 3, 4096, stream.len()] {
            let frames = split(&stream, step).unwrap();
            assert_eq!(frames.len(), contents.len() + 1);
            let mut decoder = FrameDecoder::new().unwrap();
            for (frame, plain) in frames.iter().zip(contents) {
                let RawFrame::Data { bytes, plain: size } = frame else { panic!("{frame:?}") };
                let mut out = Vec::new();
                decoder.decode(bytes, *size, &mut out).unwrap();
                assert_eq!(out, plain);
            }
            assert_eq!(frames.last(), Some(&RawFrame::Table(table.encode())));
        }
        split(&stream[..stream.len() - 1], 100).unwrap_err();
        split(&[&stream[..], b"x"].concat(), 100).unwrap_err();
    }

    #[test]
    fn checksum_is_the_low_half_of_xxh64() {
        // XXH64 of nothing, seed 0, is ef46db3751d8e999.
        assert_eq!(stated_checksum(&encode(b"")), 0x51d8_e999);
    }

    #[test]
    fn frames_of_other_makers_are_refused() {
        let mut plain = zstd::bulk::Compressor::new(3).unwrap();
        assert!(split(&plain.compress(b"no checksum").unwrap(), 100).is_err());
        let streamed = zstd::stream::encode_all(&b"no size"[..], 3).unwrap();
        assert!(split(&streamed, 100).is_err());
        assert!(split(b"PK\x03\x04whatever", 100).is_err());
        // States 4 GiB - 1.
        let bomb = [0x28, 0xb5, 0x2f, 0xfd, 0xa4, 0xff, 0xff, 0xff, 0xff, 0, 0, 0];
        assert_eq!(
            split(&bomb, 100).unwrap_err().why,
            "a frame states a larger content than allowed"
        );
        let mut big_table = SKIPPABLE_MAGIC.to_le_bytes().to_vec();
        big_table.extend_from_slice(&u32::MAX.to_le_bytes());
        assert!(split(&big_table, 100).is_err());
    }

    #[test]
    fn a_frame_that_lies_about_its_size_is_refused() {
        let plain = [1u8; 1000];
        let bytes = encode(&plain);
        let mut decoder = FrameDecoder::new().unwrap();
        for size in [0, 999, 1001] {
            decoder.decode(&bytes, size, &mut Vec::new()).unwrap_err();
        }
        for at in 0..bytes.len() {
            let mut out = Vec::new();
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            if decoder.decode(&changed, 1000, &mut out).is_ok() {
                assert_eq!(out, plain, "byte {at}");
            }
        }
        decoder.decode(&bytes, 1000, &mut Vec::new()).unwrap();
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_splitter_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            step in 1usize..50,
        ) {
            let mut bytes = encode(b"some content, some content, some content");
            bytes.extend_from_slice(&FrameTable::default().encode());
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Ok(frames) = split(&bytes, step) {
                for frame in frames {
                    if let RawFrame::Data { bytes, plain } = frame {
                        let _ = FrameDecoder::new().unwrap().decode(&bytes, plain, &mut Vec::new());
                    }
                }
            }
        }
    }
}
