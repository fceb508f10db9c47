//! Writes records as etcd frames them: little-endian length with the padding in
//! its top byte, the record, zeros up to the next multiple of eight.
//!
//! Source: `server/wal/encoder.go @ v3.5.30` (`encode`, `encodeFrameSize`).

use super::record::{Entry, HardState, Metadata, Record, RecordKind, SnapshotMark};

/// Bytes of the length field in front of every record.
pub const FRAME_SIZE: usize = 8;

/// Frames records and carries the running checksum on.
#[derive(Debug, Clone)]
pub struct Encoder {
    crc: u32,
    /// Reused for the message and for the record around it.
    message: Vec<u8>,
    record: Vec<u8>,
}

impl Encoder {
    /// Opens a file: appends the checksum record that every segment begins with.
    /// `crc` is what the segment before reached, 0 for the first.
    pub fn open(crc: u32, out: &mut Vec<u8>) -> Self {
        let mut this = Self::resume(crc);
        this.frame(Record { kind: RecordKind::Crc, crc, data: None }, out);
        this
    }

    /// Goes on in a file whose last record has the checksum `crc`.
    pub fn resume(crc: u32) -> Self {
        Self { crc, message: Vec::new(), record: Vec::new() }
    }

    /// The running checksum after the last record.
    pub fn crc(&self) -> u32 {
        self.crc
    }

    /// Appends whose log it is.
    pub fn metadata(&mut self, metadata: &Metadata, out: &mut Vec<u8>) {
        self.append(RecordKind::Metadata, |message| metadata.encode(message), out);
    }

    /// Appends an entry.
    pub fn entry(&mut self, entry: &Entry<'_>, out: &mut Vec<u8>) {
        self.append(RecordKind::Entry, |message| entry.encode(message), out);
    }

    /// Appends a hard state.
    pub fn hard_state(&mut self, state: &HardState, out: &mut Vec<u8>) {
        self.append(RecordKind::HardState, |message| state.encode(message), out);
    }

    /// Appends a snapshot's mark.
    pub fn snapshot(&mut self, mark: &SnapshotMark, out: &mut Vec<u8>) {
        self.append(RecordKind::Snapshot, |message| mark.encode(message), out);
    }

    fn append(&mut self, kind: RecordKind, write: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) {
        let mut message = std::mem::take(&mut self.message);
        message.clear();
        write(&mut message);
        self.crc = crc32c::crc32c_append(self.crc, &message);
        self.frame(Record { kind, crc: self.crc, data: Some(&message) }, out);
        self.message = message;
    }

    fn frame(&mut self, record: Record<'_>, out: &mut Vec<u8>) {
        self.record.clear();
        record.encode(&mut self.record);
        let padding = self.record.len().wrapping_neg() % 8;
        let mut length = self.record.len() as u64;
        if padding != 0 {
            length |= (0x80 | padding as u64) << 56;
        }
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&self.record);
        out.resize(out.len() + padding, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_opens_with_its_checksum() {
        let mut out = Vec::new();
        Encoder::open(0, &mut out);
        // Length 4, 4 bytes of padding; type 4, crc 0.
        assert_eq!(out, [4, 0, 0, 0, 0, 0, 0, 0x84, 8, 4, 0x10, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn no_padding_no_flag() {
        let mut out = Vec::new();
        let mut encoder = Encoder::resume(0);
        // type (2) + crc (1 + 5) + data (2 + 6): 16 bytes when the crc needs five.
        encoder.hard_state(&HardState { term: 1, vote: 2, commit: 3 }, &mut out);
        assert_eq!(encoder.crc(), crc32c::crc32c(&[8, 1, 16, 2, 24, 3]));
        assert!(encoder.crc() >= 1 << 28, "the crc of these bytes takes five bytes");
        assert_eq!(out[..8], 16u64.to_le_bytes());
        assert_eq!(out.len(), 24);
    }
}
