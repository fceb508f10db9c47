//! The log and the raft snapshot of a member that begins with a restored
//! database: what etcdutl 3.5 and 3.6 write, the log byte for byte.
//!
//! Source: `etcdutl/snapshot/v3_snapshot.go @ v3.5.35` (`saveWALAndSnap`),
//! `server/etcdserver/api/snap/snapshotter.go` (`save`).

use crate::datadir::membership::{Member, Membership};
use crate::wal::record::{put_bytes, put_varint};
use crate::wal::{
    ConfChange, Encoder, Entry, EntryKind, HardState, Metadata, SegmentName, SnapshotMark,
};

/// The term that the members are added in.
pub(super) const TERM: u64 = 1;

/// The name of the log's only segment.
pub(super) const LOG: SegmentName = SegmentName { sequence: 0, index: 0 };

/// Index of the last entry: one for each member.
pub(super) fn last_index(membership: &Membership) -> u64 {
    membership.members().len() as u64
}

/// The log of `member`: every member is added by an entry, all are committed,
/// and a snapshot covers them.
pub fn log(membership: &Membership, member: &Member) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = Encoder::open(0, &mut out);
    let cluster_id = membership.cluster_id();
    encoder.metadata(&Metadata { member_id: member.id, cluster_id }, &mut out);
    encoder.snapshot(&SnapshotMark::default(), &mut out);
    let mut change = Vec::new();
    for (index, added) in (1..).zip(membership.members()) {
        let context = added.to_json();
        change.clear();
        ConfChange { id: 0, kind: 0, node_id: added.id, context: context.as_bytes() }
            .encode(&mut change);
        let entry = Entry { kind: EntryKind::ConfChange, term: TERM, index, data: &change };
        encoder.entry(&entry, &mut out);
    }
    let commit = last_index(membership);
    // The members ascend, so the first has the smallest id.
    let vote = membership.members().first().map_or(0, |first| first.id);
    encoder.hard_state(&HardState { term: TERM, vote, commit }, &mut out);
    let conf_state = Some(membership.conf_state());
    encoder.snapshot(&SnapshotMark { index: commit, term: TERM, conf_state }, &mut out);
    out
}

/// The name of the raft snapshot: term and index of its last entry.
pub fn snapshot_name(membership: &Membership) -> String {
    format!("{TERM:016x}-{:016x}.snap", last_index(membership))
}

/// The raft snapshot: the v2 store with the members, and the configuration.
pub fn snapshot(membership: &Membership) -> Vec<u8> {
    let mut conf_state = Vec::new();
    membership.conf_state().encode(&mut conf_state);
    let mut metadata = Vec::new();
    put_bytes(&mut metadata, 1, &conf_state);
    put_varint(&mut metadata, 2, last_index(membership));
    put_varint(&mut metadata, 3, TERM);
    let mut inner = Vec::new();
    put_bytes(&mut inner, 1, membership.v2_store_json().as_bytes());
    put_bytes(&mut inner, 2, &metadata);
    let mut out = Vec::new();
    put_varint(&mut out, 1, u64::from(crc32c::crc32c(&inner)));
    put_bytes(&mut out, 2, &inner);
    out
}
