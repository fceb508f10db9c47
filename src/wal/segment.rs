//! The segments of a log as one: their names, their order, and the checksum and
//! the metadata that go through all of them.
//!
//! Source: `server/wal/wal.go`, `util.go @ v3.5.30` (`ReadAll`, `walName`,
//! `parseWALName`, `isValidSeq`).

use std::io::Read;
use std::{fmt, str};

use super::decoder::{DecodeError, Decoder, End};
use super::record::{Entry, HardState, Metadata, RecordError, RecordKind, SnapshotMark};

/// A segment's file name: `<sequence>-<index>.wal`, 16 hex digits each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// Counts the segments of a log; no number is left out.
    pub sequence: u64,
    /// Index of the first entry that may lie in it.
    pub index: u64,
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}.wal", self.sequence, self.index)
    }
}

impl SegmentName {
    /// Reads a file name; `None` for one that is not a segment's.
    pub fn parse(name: &str) -> Option<Self> {
        let (sequence, index) = name.strip_suffix(".wal")?.split_once('-')?;
        let number = |digits: &str| {
            let canonical = digits.len() == 16
                && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            canonical.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        Some(Self { sequence: number(sequence)?, index: number(index)? })
    }
}

/// A segment to be read.
pub struct Segment<R> {
    /// Its name.
    pub name: SegmentName,
    /// Bytes of the file.
    pub size: u64,
    /// The file from its start; buffered, for records are small.
    pub reader: R,
}

/// Where a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The segment.
    pub segment: SegmentName,
    /// Offset of the record's frame in it.
    pub offset: u64,
}

/// What a log says, record by record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// Whose log it is; the same in every segment.
    Metadata(Metadata),
    /// An entry. One with an index at or below an earlier one replaces it and all after it.
    Entry(Entry<'a>),
    /// A hard state; the last one counts.
    HardState(HardState),
    /// A snapshot's mark.
    Snapshot(SnapshotMark),
}

/// Where a log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEnd {
    /// Whose log it is.
    pub metadata: Option<Metadata>,
    /// The last segment and the offset after its last record. Who appends there
    /// must fill the rest of the file with zeros: etcd does, as a torn write can
    /// have left bytes behind the first zero.
    pub position: Position,
    /// The running checksum there.
    pub crc: u32,
    /// How the last segment ends.
    pub end: End,
}

/// A log that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// No segment was given.
    #[error("there is no segment")]
    Empty,
    /// A number is missing between two segments.
    #[error("segment {found} does not follow {before}")]
    Sequence {
        /// The segment before.
        before: SegmentName,
        /// The one that should follow.
        found: SegmentName,
    },
    /// A segment cannot be decoded.
    #[error("read segment {segment}")]
    Segment {
        /// Which.
        segment: SegmentName,
        /// Why.
        #[source]
        source: DecodeError,
    },
    /// A record's message cannot be decoded, though its checksum is right.
    #[error("read the message at offset {} of segment {}", position.offset, position.segment)]
    Message {
        /// Where.
        position: Position,
        /// Why.
        #[source]
        source: RecordError,
    },
    /// A segment names another member or cluster than the ones before.
    #[error("segment {segment} belongs to another member")]
    Metadata {
        /// Which.
        segment: SegmentName,
    },
}

/// Reads `segments`, which are in the order of their names, and hands every
/// record to `visit`. Reading may begin with any segment of a log.
pub fn read_log<R: Read>(
    segments: Vec<Segment<R>>,
    visit: &mut dyn FnMut(Position, Event<'_>),
) -> Result<LogEnd, LogError> {
    let count = segments.len();
    let mut before: Option<SegmentName> = None;
    let mut metadata = None;
    let mut crc = None;
    let mut log_end = None;
    for (number, segment) in segments.into_iter().enumerate() {
        let name = segment.name;
        if let Some(before) = before
            && before.sequence.checked_add(1) != Some(name.sequence)
        {
            return Err(LogError::Sequence { before, found: name });
        }
        before = Some(name);
        let mut decoder = Decoder::new(segment.reader, segment.size, crc, number + 1 == count);
        loop {
            let item = match decoder.next_record() {
                Ok(Some(item)) => item,
                Ok(None) => break,
                Err(source) => return Err(LogError::Segment { segment: name, source }),
            };
            let position = Position { segment: name, offset: item.offset };
            let data = item.record.data.unwrap_or_default();
            let message = |source| LogError::Message { position, source };
            let event = match item.record.kind {
                RecordKind::Crc => continue,
                RecordKind::Metadata => {
                    let found = Metadata::parse(data).map_err(message)?;
                    if metadata.is_some_and(|known| known != found) {
                        return Err(LogError::Metadata { segment: name });
                    }
                    metadata = Some(found);
                    Event::Metadata(found)
                }
                RecordKind::Entry => Event::Entry(Entry::parse(data).map_err(message)?),
                RecordKind::HardState => Event::HardState(HardState::parse(data).map_err(message)?),
                RecordKind::Snapshot => {
                    Event::Snapshot(SnapshotMark::parse(data).map_err(message)?)
                }
            };
            visit(position, event);
        }
        crc = decoder.crc().or(crc);
        log_end = Some(LogEnd {
            metadata,
            position: Position { segment: name, offset: decoder.offset() },
            crc: crc.unwrap_or(0),
            end: decoder.end().unwrap_or(End::File),
        });
    }
    log_end.ok_or(LogError::Empty)
}

/// What a whole log amounts to; feed it every event of [`read_log`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// Whose log it is.
    pub metadata: Option<Metadata>,
    /// The last hard state.
    pub hard_state: Option<HardState>,
    /// Where it lies.
    pub hard_state_at: Option<Position>,
    /// The snapshot mark with the highest index.
    pub snapshot: Option<SnapshotMark>,
    /// Number of snapshot marks.
    pub snapshots: u64,
    /// Index of the first entry that is there.
    pub first_index: Option<u64>,
    /// Index and term of the last entry.
    pub last: Option<(u64, u64)>,
    /// Number of entry records, replaced ones included.
    pub entries: u64,
    /// Entry records that replaced an earlier one.
    pub replaced: u64,
}

impl Summary {
    /// Takes one event into account.
    pub fn add(&mut self, position: Position, event: &Event<'_>) {
        match event {
            Event::Metadata(metadata) => self.metadata = Some(*metadata),
            Event::HardState(state) => {
                self.hard_state = Some(*state);
                self.hard_state_at = Some(position);
            }
            Event::Snapshot(mark) => {
                self.snapshots += 1;
                if self.snapshot.as_ref().is_none_or(|known| known.index <= mark.index) {
                    self.snapshot = Some(mark.clone());
                }
            }
            Event::Entry(entry) => {
                self.entries += 1;
                if self.last.is_some_and(|(index, _)| entry.index <= index) {
                    self.replaced += 1;
                }
                self.first_index = match self.first_index {
                    Some(first) => Some(first.min(entry.index)),
                    None => Some(entry.index),
                };
                self.last = Some((entry.index, entry.term));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::encoder::Encoder;
    use crate::wal::record::EntryKind;

    const METADATA: Metadata = Metadata { member_id: 3, cluster_id: 4 };

    fn name(sequence: u64) -> SegmentName {
        SegmentName { sequence, index: sequence * 10 }
    }

    /// Two segments of a log, the second opened as etcd opens it.
    fn log() -> [Vec<u8>; 2] {
        let state = HardState { term: 2, vote: 3, commit: 1 };
        let entry = |index, term| Entry { kind: EntryKind::Normal, term, index, data: b"request" };
        let mut first = Vec::new();
        let mut encoder = Encoder::open(0, &mut first);
        encoder.metadata(&METADATA, &mut first);
        encoder.snapshot(&SnapshotMark::default(), &mut first);
        for index in 1..=3 {
            encoder.entry(&entry(index, 1), &mut first);
        }
        encoder.hard_state(&state, &mut first);
        let mut second = Vec::new();
        let mut encoder = Encoder::open(encoder.crc(), &mut second);
        encoder.metadata(&METADATA, &mut second);
        encoder.hard_state(&state, &mut second);
        encoder.entry(&entry(3, 2), &mut second);
        encoder.hard_state(&HardState { commit: 3, ..state }, &mut second);
        [first, second]
    }

    fn read(segments: &[(u64, &[u8])]) -> Result<(LogEnd, Summary), LogError> {
        let segments = segments
            .iter()
            .map(|&(sequence, bytes)| Segment {
                name: name(sequence),
                size: bytes.len() as u64,
                reader: bytes,
            })
            .collect();
        let mut summary = Summary::default();
        let end = read_log(segments, &mut |position, event| summary.add(position, &event))?;
        Ok((end, summary))
    }

    #[test]
    fn names() {
        let text = "00000000000000ff-0000000000abcdef.wal";
        let parsed = SegmentName::parse(text).unwrap();
        assert_eq!(parsed, SegmentName { sequence: 0xff, index: 0xab_cdef });
        assert_eq!(parsed.to_string(), text);
        for wrong in
            ["0.tmp", "ff-ab.wal", "00000000000000FF-0000000000abcdef.wal", ".wal", "-.wal"]
        {
            assert_eq!(SegmentName::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_log_goes_on_over_segments() {
        let [first, second] = log();
        let (end, summary) = read(&[(0, &first), (1, &second)]).unwrap();
        assert_eq!(end.metadata, Some(METADATA));
        assert_eq!(end.position, Position { segment: name(1), offset: second.len() as u64 });
        assert_eq!(summary.hard_state.unwrap().commit, 3);
        assert_eq!((summary.first_index, summary.last), (Some(1), Some((3, 2))));
        assert_eq!((summary.entries, summary.replaced, summary.snapshots), (4, 1, 1));

        // What is appended at the end is read as part of the log.
        let mut longer = second.clone();
        let state = HardState { term: 2, vote: 3, commit: 9 };
        Encoder::resume(end.crc).hard_state(&state, &mut longer);
        let (_, summary) = read(&[(0, &first), (1, &longer)]).unwrap();
        assert_eq!(summary.hard_state, Some(state));
        assert_eq!(summary.hard_state_at.unwrap().offset, second.len() as u64);

        // A log can be read from a later segment on.
        let (_, summary) = read(&[(1, &second)]).unwrap();
        assert_eq!(summary.first_index, Some(3));
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let [first, second] = log();
        assert!(matches!(read(&[]), Err(LogError::Empty)));
        assert!(matches!(read(&[(0, &first), (2, &second)]), Err(LogError::Sequence { .. })));
        assert!(matches!(
            read(&[(0, &second), (1, &first)]),
            Err(LogError::Segment { source: DecodeError::Crc { offset: 0, .. }, .. })
        ));
        let mut other = Vec::new();
        let crc = read(&[(0, &first)]).unwrap().0.crc;
        let metadata = Metadata { member_id: 9, ..METADATA };
        Encoder::open(crc, &mut other).metadata(&metadata, &mut other);
        assert!(matches!(read(&[(0, &first), (1, &other)]), Err(LogError::Metadata { .. })));
    }

    #[test]
    fn any_bytes_return() {
        let [first, second] = log();
        super::super::fuzz(&first);
        super::super::fuzz(&second);
        let mut seed = 1u64;
        for _ in 0..2000 {
            let mut bytes = first.clone();
            for _ in 0..3 {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let at = (seed >> 33) as usize % bytes.len();
                bytes[at] = (seed >> 17) as u8;
            }
            super::super::fuzz(&bytes);
        }
    }
}
