//! Reads the records of one segment, with the offset of each, and says how the
//! segment ends.
//!
//! No length is believed before it was held against what the file still has; a
//! record is given out only when its checksum continues the chain. At the end
//! of the last segment a half-written record is told from a damaged one by the
//! rule that etcd uses: a sector of zeros inside it means that the write was
//! torn, so nobody was told that it happened.
//!
//! Source: `server/wal/decoder.go @ v3.5.30` (`decodeRecord`, `isTornEntry`).

use std::io::{self, Read};

use super::encoder::FRAME_SIZE;
use super::record::{Record, RecordError, RecordKind};

/// A record longer than this is not read, whatever the file's size. etcd's
/// largest request is a fraction of it.
pub const MAX_RECORD: u64 = 512 << 20;

/// What a disk writes whole or not at all.
const SECTOR: u64 = 512;

/// A segment that cannot be read further.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The source failed.
    #[error("read at offset {offset}")]
    Read {
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The checksum of the data does not continue the chain.
    #[error(
        "the record at offset {offset} has checksum {found:#010x}, the data gives {computed:#010x}"
    )]
    Crc {
        /// Where the record's frame begins.
        offset: u64,
        /// What the record says.
        found: u32,
        /// What its data and all before give.
        computed: u32,
    },
    /// The frame holds no record.
    #[error("the record at offset {offset} cannot be read")]
    Record {
        /// Where the record's frame begins.
        offset: u64,
        /// Why.
        #[source]
        source: RecordError,
    },
    /// A length above [`MAX_RECORD`].
    #[error("the record at offset {offset} claims {length} bytes")]
    Length {
        /// Where the record's frame begins.
        offset: u64,
        /// What its length field says.
        length: u64,
    },
    /// The first record must carry the checksum so far.
    #[error("the segment does not begin with a checksum record")]
    NoChecksum,
    /// A segment that is not the last ends within a record.
    #[error("the segment ends within the record at offset {offset}, but another segment follows")]
    CutOff {
        /// Where the record's frame begins.
        offset: u64,
    },
}

/// How a segment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// At a length of zero: preallocated space follows.
    Zero,
    /// With the file.
    File,
    /// Within a record that was being written when the member died.
    Torn,
}

/// A record and where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item<'a> {
    /// Offset of the record's frame in the segment.
    pub offset: u64,
    /// Offset after its padding.
    pub next: u64,
    /// The record; its checksum was right.
    pub record: Record<'a>,
}

/// Reads one segment.
pub struct Decoder<R> {
    reader: R,
    size: u64,
    last: bool,
    offset: u64,
    crc: Option<u32>,
    end: Option<End>,
    buffer: Vec<u8>,
}

impl<R: Read> Decoder<R> {
    /// Reads a segment of `size` bytes from its start. `crc` is the checksum
    /// that the segment before reached, `None` when reading begins here; `last`
    /// says that no segment follows, so that the end may be torn.
    pub fn new(reader: R, size: u64, crc: Option<u32>, last: bool) -> Self {
        Self { reader, size, last, offset: 0, crc, end: None, buffer: Vec::new() }
    }

    /// The next record, or `None` at the end, and again after it.
    pub fn next_record(&mut self) -> Result<Option<Item<'_>>, DecodeError> {
        if self.end.is_some() {
            return Ok(None);
        }
        let offset = self.offset;
        let remaining = self.size.saturating_sub(offset);
        if remaining == 0 {
            self.end = Some(End::File);
            return Ok(None);
        }
        if remaining < FRAME_SIZE as u64 {
            return self.cut_off();
        }
        let mut frame = [0; FRAME_SIZE];
        if !self.fill(&mut frame)? {
            return self.cut_off();
        }
        let field = u64::from_le_bytes(frame);
        if field == 0 {
            self.end = Some(End::Zero);
            return Ok(None);
        }
        let length = field & ((1 << 56) - 1);
        let padding = if field >> 63 == 1 { field >> 56 & 7 } else { 0 };
        // Both are below 2^57: no overflow.
        let total = length + padding;
        if total > remaining - FRAME_SIZE as u64 {
            return self.cut_off();
        }
        if length > MAX_RECORD {
            return Err(DecodeError::Length { offset, length });
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(total as usize, 0);
        let whole = self.fill(&mut buffer);
        self.buffer = buffer;
        if !whole? {
            return self.cut_off();
        }

        let crc = match self.check(length as usize) {
            Ok(crc) => crc,
            Err(_) if self.last && has_zero_sector(&self.buffer, offset + FRAME_SIZE as u64) => {
                self.end = Some(End::Torn);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        self.crc = Some(crc);
        self.offset += FRAME_SIZE as u64 + total;
        let next = self.offset;
        let record = Record::parse(&self.buffer[..length as usize])
            .map_err(|source| DecodeError::Record { offset, source })?;
        Ok(Some(Item { offset, next, record }))
    }

    /// How the segment ended, once `next_record` has returned `None`.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Where the last good record ends: here appending goes on.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The running checksum after the last good record.
    pub fn crc(&self) -> Option<u32> {
        self.crc
    }

    /// The checksum after the record in the buffer, if it is right.
    fn check(&self, length: usize) -> Result<u32, DecodeError> {
        let offset = self.offset;
        let record = Record::parse(&self.buffer[..length])
            .map_err(|source| DecodeError::Record { offset, source })?;
        let computed = match (record.kind, self.crc) {
            // Opens the segment: to be believed when reading begins here.
            (RecordKind::Crc, None) => record.crc,
            (RecordKind::Crc, Some(crc)) => crc,
            (_, None) => return Err(DecodeError::NoChecksum),
            (_, Some(_)) if offset == 0 => return Err(DecodeError::NoChecksum),
            (_, Some(crc)) => crc32c::crc32c_append(crc, record.data.unwrap_or_default()),
        };
        if record.crc != computed {
            return Err(DecodeError::Crc { offset, found: record.crc, computed });
        }
        Ok(computed)
    }

    /// The file ends within a record.
    fn cut_off(&mut self) -> Result<Option<Item<'_>>, DecodeError> {
        if !self.last {
            return Err(DecodeError::CutOff { offset: self.offset });
        }
        self.end = Some(End::Torn);
        Ok(None)
    }

    /// Fills `buffer`; false when the source ends before its size.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<bool, DecodeError> {
        match self.reader.read_exact(buffer) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(source) => Err(DecodeError::Read { offset: self.offset, source }),
        }
    }
}

/// Whether one of the sectors that `bytes`, lying at `offset`, touches is all zeros.
fn has_zero_sector(bytes: &[u8], offset: u64) -> bool {
    let first = ((SECTOR - offset % SECTOR) as usize).min(bytes.len());
    let (head, rest) = bytes.split_at(first);
    std::iter::once(head)
        .chain(rest.chunks(SECTOR as usize))
        .any(|sector| !sector.is_empty() && sector.iter().all(|&byte| byte == 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::encoder::Encoder;
    use crate::wal::record::{Entry, EntryKind};

    fn entry(index: u64, data: &[u8]) -> Entry<'_> {
        Entry { kind: EntryKind::Normal, term: 1, index, data }
    }

    /// Ten entries, the last of 2,000 bytes without a zero among them.
    fn sample() -> (Vec<u8>, Vec<u64>) {
        let mut out = Vec::new();
        let mut encoder = Encoder::open(0, &mut out);
        let mut offsets = vec![0];
        for index in 1..=9 {
            offsets.push(out.len() as u64);
            encoder.entry(&entry(index, &vec![index as u8; index as usize * 3]), &mut out);
        }
        offsets.push(out.len() as u64);
        encoder.entry(&entry(10, &[0xab; 2000]), &mut out);
        (out, offsets)
    }

    type Read = (Vec<u64>, Result<(End, u64), DecodeError>);

    fn read(bytes: &[u8], last: bool) -> Read {
        let mut decoder = Decoder::new(bytes, bytes.len() as u64, None, last);
        let mut offsets = Vec::new();
        let result = loop {
            match decoder.next_record() {
                Ok(Some(item)) => offsets.push(item.offset),
                Ok(None) => break Ok((decoder.end().unwrap(), decoder.offset())),
                Err(error) => break Err(error),
            }
        };
        (offsets, result)
    }

    #[test]
    fn reads_what_was_written_with_and_without_preallocation() {
        let (mut bytes, offsets) = sample();
        let size = bytes.len() as u64;
        let (found, end) = read(&bytes, true);
        assert_eq!((found, end.unwrap()), (offsets.clone(), (End::File, size)));
        bytes.resize(1 << 16, 0);
        let (found, end) = read(&bytes, true);
        assert_eq!((found, end.unwrap()), (offsets, (End::Zero, size)));
    }

    #[test]
    fn every_truncation_is_an_end_within_the_last_record() {
        let (bytes, offsets) = sample();
        for cut in 0..bytes.len() {
            let (found, end) = read(&bytes[..cut], true);
            let mut starts = offsets.iter().copied().chain([bytes.len() as u64]);
            let boundary = starts.rfind(|&at| at <= cut as u64).unwrap();
            let kind = if boundary == cut as u64 { End::File } else { End::Torn };
            assert_eq!(end.unwrap(), (kind, boundary), "cut at {cut}");
            assert!(found.len() <= offsets.len());
            if kind == End::Torn {
                let error = read(&bytes[..cut], false).1.unwrap_err();
                assert!(matches!(error, DecodeError::CutOff { offset } if offset == boundary));
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let (bytes, offsets) = sample();
        for at in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            let (found, end) = read(&damaged, true);
            let hit = *offsets.iter().rev().find(|&&offset| offset <= at as u64 / 8).unwrap();
            let padding = matches!(&end, Ok((End::File, _))) && found == offsets;
            // A flip in the padding, or in the padding's length, changes nothing that is read.
            if padding {
                continue;
            }
            // Nothing behind the damage is given out, and the damaged record only
            // where its padding's length was hit, or where it is the first, whose
            // checksum the second proves.
            let allowed = u64::from(hit == 0 || at as u64 / 8 == hit + 7);
            assert!(found.iter().all(|&offset| offset < hit + allowed), "bit {at}: {found:?}");
            assert!(!matches!(end, Ok((End::File, _))), "bit {at}: {end:?}");
        }
    }

    #[test]
    fn a_sector_of_zeros_in_the_last_record_is_a_torn_write() {
        let (mut bytes, offsets) = sample();
        let record = offsets[10];
        // The second whole sector that the record covers never reached the disk.
        let sector = (record as usize + 600).next_multiple_of(512);
        bytes[sector..sector + 512].fill(0);
        let (found, end) = read(&bytes, true);
        assert_eq!((found.len(), end.unwrap()), (10, (End::Torn, record)));
        assert!(
            matches!(read(&bytes, false).1, Err(DecodeError::Crc { offset, .. }) if offset == record)
        );
        // Half a sector of zeros is damage, not a torn write.
        let (mut bytes, _) = sample();
        bytes[sector..sector + 256].fill(0);
        assert!(matches!(read(&bytes, true).1, Err(DecodeError::Crc { .. })));
    }

    #[test]
    fn the_chain_must_continue() {
        let mut out = Vec::new();
        Encoder::open(7, &mut out);
        let size = out.len() as u64;
        assert!(Decoder::new(&out[..], size, Some(7), true).next_record().is_ok());
        assert!(matches!(
            Decoder::new(&out[..], size, Some(8), true).next_record(),
            Err(DecodeError::Crc { offset: 0, found: 7, computed: 8 })
        ));
        let mut out = Vec::new();
        Encoder::resume(0).entry(&entry(1, b"x"), &mut out);
        let size = out.len() as u64;
        assert!(matches!(
            Decoder::new(&out[..], size, Some(0), true).next_record(),
            Err(DecodeError::NoChecksum)
        ));
    }

    #[test]
    fn lengths_are_not_believed() {
        for length in [u64::MAX, 1 << 55, 1 << 40, 1 << 30] {
            let mut bytes = length.to_le_bytes().to_vec();
            bytes.extend([1; 64]);
            assert_eq!(read(&bytes, true).1.unwrap(), (End::Torn, 0));
        }
        // A file that claims to be as long as the record says.
        let bytes = (1u64 << 40).to_le_bytes();
        let mut decoder = Decoder::new(&bytes[..], 1 << 50, None, true);
        assert!(matches!(decoder.next_record(), Err(DecodeError::Length { offset: 0, .. })));
    }
}
