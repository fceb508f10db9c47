//! etcd's write-ahead log: reading it record by record with every offset, and
//! writing what etcd itself would write, byte for byte. Pure over bytes;
//! `docs/format/etcd-files.md` has the layout.
//!
//! Source: `server/wal/{wal,encoder,decoder,repair}.go @ v3.5.30` (moved to
//! `server/storage/wal` in 3.6), `raft/raftpb/raft.proto`, `walpb/record.proto`.

pub mod decoder;
pub mod encoder;
pub mod record;
pub mod segment;

pub use decoder::{DecodeError, Decoder, End, Item};
pub use encoder::Encoder;
pub use record::{
    ConfChange, ConfState, Entry, EntryKind, HardState, Metadata, Record, RecordKind, SnapshotMark,
};
pub use segment::{Event, LogEnd, LogError, Position, Segment, SegmentName, Summary, read_log};

/// Decodes `bytes` as one segment and everything in it. For fuzzing: whatever
/// comes in, this returns, and what was decoded encodes to something that
/// decodes to the same.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    // Behind a checksum few inputs get far: the messages once more by themselves.
    let _ = Record::parse(bytes);
    let _ = Entry::parse(bytes);
    let _ = HardState::parse(bytes);
    let _ = ConfChange::parse(bytes);
    if let Ok(mark) = SnapshotMark::parse(bytes) {
        let mut again = Vec::new();
        mark.encode(&mut again);
        assert_eq!(SnapshotMark::parse(&again), Ok(mark));
    }
    let name = SegmentName { sequence: 0, index: 0 };
    let segment = Segment { name, size: bytes.len() as u64, reader: bytes };
    let _ = read_log(vec![segment], &mut |_, event| {
        let mut again = Vec::new();
        match event {
            Event::Metadata(metadata) => {
                metadata.encode(&mut again);
                assert_eq!(Metadata::parse(&again).expect("own encoding"), metadata);
            }
            Event::HardState(state) => {
                state.encode(&mut again);
                assert_eq!(HardState::parse(&again).expect("own encoding"), state);
            }
            Event::Snapshot(mark) => {
                mark.encode(&mut again);
                assert_eq!(SnapshotMark::parse(&again).expect("own encoding"), mark);
            }
            Event::Entry(entry) => {
                entry.encode(&mut again);
                assert_eq!(Entry::parse(&again).expect("own encoding"), entry);
                if entry.kind == EntryKind::ConfChange
                    && let Ok(change) = ConfChange::parse(entry.data)
                {
                    again.clear();
                    change.encode(&mut again);
                    assert_eq!(ConfChange::parse(&again).expect("own encoding"), change);
                }
            }
        }
    });
}
