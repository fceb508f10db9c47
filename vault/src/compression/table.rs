//! The seek table: which frame holds which plain bytes, and where it is stored.
//!
//! ```text
//! 4  skippable magic 0x184D2A5E, little-endian
//! 4  size of what follows
//! 12 per frame: stored size, plain size, checksum of the plain bytes
//! 4  number of frames
//! 1  descriptor 0x80: with checksums
//! 4  seekable magic 0x8F92EAB1
//! ```

use super::{MAX_FRAME_SIZE, MAX_FRAMES};

/// The first bytes of the skippable frame.
pub const SKIPPABLE_MAGIC: u32 = 0x184D_2A5E;
/// The last bytes of the seek table.
pub const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;

const HEADER: usize = 8;
const ENTRY: usize = 12;
const FOOTER: usize = 9;
const WITH_CHECKSUMS: u8 = 0x80;

/// One frame of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameEntry {
    /// Its size as stored (before encryption), in bytes.
    pub stored: u32,
    /// The size of its plain bytes.
    pub plain: u32,
    /// The low 32 bits of XXH64 of its plain bytes.
    pub checksum: u32,
}

/// All frames of an object, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrameTable {
    /// The frames.
    pub frames: Vec<FrameEntry>,
}

/// Where a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located {
    /// Its number, from 0.
    pub number: u64,
    /// Where its stored bytes begin (before encryption).
    pub stored_offset: u64,
    /// Where its plain bytes begin.
    pub plain_offset: u64,
    /// The frame.
    pub entry: FrameEntry,
}

/// Why bytes are no seek table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the seek table is damaged: {why}")]
pub struct TableError {
    /// What is wrong with it.
    pub why: &'static str,
}

impl FrameTable {
    /// The size in bytes of the table of that many frames; `None` beyond
    /// [`MAX_FRAMES`].
    pub fn encoded_size(frames: u64) -> Option<u64> {
        (frames <= MAX_FRAMES).then(|| (HEADER + FOOTER) as u64 + frames * ENTRY as u64)
    }

    /// The skippable frame.
    pub fn encode(&self) -> Vec<u8> {
        let content = self.frames.len() * ENTRY + FOOTER;
        let mut bytes = Vec::with_capacity(HEADER + content);
        bytes.extend_from_slice(&SKIPPABLE_MAGIC.to_le_bytes());
        bytes.extend_from_slice(&(content as u32).to_le_bytes());
        for frame in &self.frames {
            bytes.extend_from_slice(&frame.stored.to_le_bytes());
            bytes.extend_from_slice(&frame.plain.to_le_bytes());
            bytes.extend_from_slice(&frame.checksum.to_le_bytes());
        }
        bytes.extend_from_slice(&(self.frames.len() as u32).to_le_bytes());
        bytes.push(WITH_CHECKSUMS);
        bytes.extend_from_slice(&SEEKABLE_MAGIC.to_le_bytes());
        bytes
    }

    /// The table in `bytes`, which must be the skippable frame and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Self, TableError> {
        let wrong = |why| Err(TableError { why });
        let word = |at: usize| {
            bytes
                .get(at..at + 4)
                .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        };
        let Some(content) = bytes.len().checked_sub(HEADER) else {
            return wrong("it is too short");
        };
        if word(0) != Some(SKIPPABLE_MAGIC) {
            return wrong("it does not begin as one");
        }
        if word(4).map(u64::from) != Some(content as u64) || content < FOOTER {
            return wrong("its size is not the one it states");
        }
        let footer = bytes.len() - FOOTER;
        if word(footer + 5) != Some(SEEKABLE_MAGIC) || bytes[footer + 4] != WITH_CHECKSUMS {
            return wrong("it does not end as one with checksums");
        }
        let entries = &bytes[HEADER..footer];
        let count = (entries.len() / ENTRY) as u64;
        if !entries.len().is_multiple_of(ENTRY)
            || word(footer).map(u64::from) != Some(count)
            || count > MAX_FRAMES
        {
            return wrong("its number of frames is not the one it states");
        }
        let mut frames = Vec::with_capacity(entries.len() / ENTRY);
        for entry in entries.chunks_exact(ENTRY) {
            let word = |at: usize| {
                u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]])
            };
            let frame = FrameEntry { stored: word(0), plain: word(4), checksum: word(8) };
            if frame.plain as usize > MAX_FRAME_SIZE
                || frame.stored as usize > super::frame::MAX_STORED
            {
                return wrong("a frame in it is larger than allowed");
            }
            frames.push(frame);
        }
        Ok(Self { frames })
    }

    /// The sums of stored and plain sizes.
    pub fn sizes(&self) -> (u64, u64) {
        self.frames.iter().fold((0, 0), |(stored, plain), frame| {
            (stored + u64::from(frame.stored), plain + u64::from(frame.plain))
        })
    }

    /// The frames that hold plain bytes of `range`.
    pub fn covering(&self, range: std::ops::Range<u64>) -> Vec<Located> {
        let (mut stored_offset, mut plain_offset) = (0, 0);
        let mut found = Vec::new();
        if range.is_empty() {
            return found;
        }
        for (number, &entry) in (0u64..).zip(&self.frames) {
            let end = plain_offset + u64::from(entry.plain);
            if plain_offset < range.end && range.start < end {
                found.push(Located { number, stored_offset, plain_offset, entry });
            }
            stored_offset += u64::from(entry.stored);
            plain_offset = end;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry() -> impl Strategy<Value = FrameEntry> {
        (0u32..1 << 24, 0u32..1 << 24, any::<u32>())
            .prop_map(|(stored, plain, checksum)| FrameEntry { stored, plain, checksum })
    }

    proptest! {
        #[test]
        fn tables_round_trip(frames in prop::collection::vec(entry(), 0..40)) {
            let table = FrameTable { frames };
            let bytes = table.encode();
            prop_assert_eq!(
                Some(bytes.len() as u64),
                FrameTable::encoded_size(table.frames.len() as u64)
            );
            prop_assert_eq!(FrameTable::decode(&bytes), Ok(table));
        }

        #[test]
        fn any_bytes_are_refused_or_are_the_table_itself(
            frames in prop::collection::vec(entry(), 0..5),
            at in any::<prop::sample::Index>(),
            value in any::<u8>(),
            cut in 0usize..20,
        ) {
            let mut bytes = FrameTable { frames }.encode();
            let at = at.index(bytes.len());
            bytes[at] = value;
            bytes.truncate(bytes.len().saturating_sub(cut));
            if let Ok(table) = FrameTable::decode(&bytes) {
                prop_assert_eq!(table.encode(), bytes);
            }
        }
    }

    #[test]
    fn covering_finds_the_frames_of_a_range() {
        let frame = |stored, plain| FrameEntry { stored, plain, checksum: 0 };
        let table = FrameTable { frames: vec![frame(5, 10), frame(7, 10), frame(9, 3)] };
        let numbers = |range| -> Vec<(u64, u64, u64)> {
            table
                .covering(range)
                .iter()
                .map(|found| (found.number, found.stored_offset, found.plain_offset))
                .collect()
        };
        assert_eq!(numbers(0..1), [(0, 0, 0)]);
        assert_eq!(numbers(9..11), [(0, 0, 0), (1, 5, 10)]);
        assert_eq!(numbers(20..23), [(2, 12, 20)]);
        assert_eq!(numbers(23..99), []);
        assert_eq!(numbers(4..4), []);
        assert_eq!(table.sizes(), (21, 23));
    }
}
