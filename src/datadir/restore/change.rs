//! What a restore changes in the database.

use super::RestoreError;
use super::files::{TERM, last_index};
use crate::bbolt::patch::Patch;
use crate::datadir::membership::Membership;
use crate::datadir::schema::{RecordKey, bucket, meta_key};

/// A revision bump, worked out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bump {
    /// The revision afterwards, compacted up to itself.
    pub(super) to: i64,
}

impl Bump {
    /// `amount` above `from`, if that is a revision and leaves room for more.
    pub(super) fn new(from: i64, amount: u64) -> Result<Self, RestoreError> {
        let to = i64::try_from(amount).ok().and_then(|amount| from.checked_add(amount));
        match to {
            Some(to) if to < i64::MAX / 2 => Ok(Self { to }),
            _ => Err(RestoreError::Bump { revision: from, amount }),
        }
    }

    /// The key of the record that stands at the new revision. The value is
    /// empty: a record of the empty key, which no client can write.
    pub(super) fn record(&self) -> RecordKey {
        RecordKey { main: self.to, sub: 0, tombstone: false }
    }
}

/// The changes of the membership, the raft position and, with a bump, of the
/// revision. Alarms, leases, users and versions stay as they are.
pub(super) fn patch(membership: &Membership, bump: Option<Bump>) -> Patch {
    let mut patch = Patch::new();
    patch.empty(bucket::MEMBERS).empty(bucket::MEMBERS_REMOVED).bucket(bucket::CLUSTER);
    for member in membership.members() {
        patch.put(bucket::MEMBERS, member.id_hex().as_bytes(), member.to_json().as_bytes());
    }
    // Entries up to the consistent index count as applied: a larger one, left
    // from the old cluster, would swallow the first writes.
    let index = last_index(membership).to_be_bytes();
    patch
        .put(bucket::META, meta_key::CONSISTENT_INDEX, &index)
        .put(bucket::META, meta_key::TERM, &TERM.to_be_bytes())
        .put(bucket::META, meta_key::CONF_STATE, membership.conf_state_json().as_bytes());
    if let Some(bump) = bump {
        let record = bump.record().to_bytes();
        patch.put(bucket::KEY, &record, b"").put(
            bucket::META,
            meta_key::SCHEDULED_COMPACT,
            &record,
        );
    }
    patch
}
