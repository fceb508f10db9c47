//! What etcd keeps in its database: buckets, keys and values, typed.
//!
//! Every decoder borrows, is bounded by the bytes it is given, and accepts the
//! forms of etcd 3.4 to 3.7 (`server/storage/schema @ v3.6.14`,
//! `mvcc/kvstore.go`, `lease/lessor.go`, `auth/store.go @ v3.4.23`).

mod content;
mod proto;

pub use content::{Alarm, AlarmKind, Content, Member, VersionEvidence};
pub use proto::{Fields, ProtoError, Value};

/// Names of the top-level buckets.
pub mod bucket {
    /// Key-value records by revision.
    pub const KEY: &[u8] = b"key";
    /// Consistent index, term, compact revisions, versions.
    pub const META: &[u8] = b"meta";
    /// Leases by id.
    pub const LEASE: &[u8] = b"lease";
    /// Whether authentication is on, and its revision.
    pub const AUTH: &[u8] = b"auth";
    /// Users by name.
    pub const AUTH_USERS: &[u8] = b"authUsers";
    /// Roles by name.
    pub const AUTH_ROLES: &[u8] = b"authRoles";
    /// Members by id.
    pub const MEMBERS: &[u8] = b"members";
    /// Ids of members that were removed.
    pub const MEMBERS_REMOVED: &[u8] = b"members_removed";
    /// Cluster version and downgrade.
    pub const CLUSTER: &[u8] = b"cluster";
    /// Raised alarms.
    pub const ALARM: &[u8] = b"alarm";
}

/// Keys of the bucket `meta`.
pub mod meta_key {
    /// u64 BE: the last raft index that is applied to the database.
    pub const CONSISTENT_INDEX: &[u8] = b"consistent_index";
    /// u64 BE: the raft term of that index; since 3.5.
    pub const TERM: &[u8] = b"term";
    /// JSON of raft's ConfState; since 3.5.
    pub const CONF_STATE: &[u8] = b"confState";
    /// Text such as `3.6.0`; since 3.6.
    pub const STORAGE_VERSION: &[u8] = b"storageVersion";
    /// 17 revision bytes: the last compaction asked for.
    pub const SCHEDULED_COMPACT: &[u8] = b"scheduledCompactRev";
    /// 17 revision bytes: the last compaction that was finished.
    pub const FINISHED_COMPACT: &[u8] = b"finishedCompactRev";
}

/// Keys of the bucket `cluster`.
pub mod cluster_key {
    /// Text such as `3.5.0`.
    pub const VERSION: &[u8] = b"clusterVersion";
    /// JSON `{"target-version":"","enabled":false}`; since 3.5.
    pub const DOWNGRADE: &[u8] = b"downgrade";
}

/// Keys of the bucket `auth`.
pub mod auth_key {
    /// One byte, 0 or 1.
    pub const ENABLED: &[u8] = b"authEnabled";
    /// u64 BE.
    pub const REVISION: &[u8] = b"authRevision";
}

/// A value of one of etcd's buckets that etcd cannot have written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// A revision key of another length or form.
    #[error("{0} bytes are not a revision")]
    Revision(usize),
    /// A protobuf message that does not decode.
    #[error("the {what} does not decode")]
    Proto {
        /// Which message.
        what: &'static str,
        /// Why.
        #[source]
        source: ProtoError,
    },
    /// A field of a fixed form.
    #[error("{what} is not of its form")]
    Field {
        /// Which one.
        what: &'static str,
    },
}

/// Bytes of a revision without the tombstone's mark.
pub const REVISION_SIZE: usize = 17;

/// The key of a record: main and sub revision as i64 BE with `_` between, and
/// `t` after it when the record deletes its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordKey {
    /// The transaction.
    pub main: i64,
    /// Which change of the transaction.
    pub sub: i64,
    /// Whether it is a deletion.
    pub tombstone: bool,
}

impl RecordKey {
    /// Reads a record's key.
    pub fn parse(bytes: &[u8]) -> Result<Self, SchemaError> {
        let tombstone = match bytes.len() {
            REVISION_SIZE => false,
            18 if bytes[REVISION_SIZE] == b't' => true,
            other => return Err(SchemaError::Revision(other)),
        };
        if bytes[8] != b'_' {
            return Err(SchemaError::Revision(bytes.len()));
        }
        let i64_at = |at: usize| i64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        Ok(Self { main: i64_at(0), sub: i64_at(9), tombstone })
    }

    /// The key as stored: 17 bytes, 18 for a tombstone.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(REVISION_SIZE + 1);
        bytes.extend_from_slice(&self.main.to_be_bytes());
        bytes.push(b'_');
        bytes.extend_from_slice(&self.sub.to_be_bytes());
        if self.tombstone {
            bytes.push(b't');
        }
        bytes
    }
}

/// `mvccpb.KeyValue`, borrowed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyValue<'a> {
    /// The user's key; empty in the record that a revision bump adds.
    pub key: &'a [u8],
    /// Revision of the key's creation.
    pub create_revision: i64,
    /// Revision of this change: the record's main.
    pub mod_revision: i64,
    /// Changes since the creation.
    pub version: i64,
    /// The value.
    pub value: &'a [u8],
    /// The lease, 0 for none.
    pub lease: i64,
}

impl<'a> KeyValue<'a> {
    /// Decodes the message; empty bytes are the message of zeros. As protobuf
    /// has it, the last of a repeated field counts and unknown ones are skipped.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, SchemaError> {
        let error = |source| SchemaError::Proto { what: "key-value record", source };
        let mut kv = Self::default();
        for field in Fields::new(bytes) {
            match field.map_err(error)? {
                (1, Value::Bytes(key)) => kv.key = key,
                (2, Value::Varint(n)) => kv.create_revision = n as i64,
                (3, Value::Varint(n)) => kv.mod_revision = n as i64,
                (4, Value::Varint(n)) => kv.version = n as i64,
                (5, Value::Bytes(value)) => kv.value = value,
                (6, Value::Varint(n)) => kv.lease = n as i64,
                (1..=6, _) => return Err(error(ProtoError::WireType)),
                _ => {}
            }
        }
        Ok(kv)
    }
}

/// `leasepb.Lease`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lease {
    /// The lease's id, as in its key.
    pub id: i64,
    /// Seconds to live when granted or renewed.
    pub ttl: i64,
    /// Seconds left at the last checkpoint, 0 without one.
    pub remaining_ttl: i64,
}

impl Lease {
    /// Decodes the message.
    pub fn decode(bytes: &[u8]) -> Result<Self, SchemaError> {
        let error = |source| SchemaError::Proto { what: "lease", source };
        let mut lease = Self::default();
        for field in Fields::new(bytes) {
            match field.map_err(error)? {
                (1, Value::Varint(n)) => lease.id = n as i64,
                (2, Value::Varint(n)) => lease.ttl = n as i64,
                (3, Value::Varint(n)) => lease.remaining_ttl = n as i64,
                (1..=3, _) => return Err(error(ProtoError::WireType)),
                _ => {}
            }
        }
        Ok(lease)
    }
}

/// `authpb.User` without the password, which nobody here needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User<'a> {
    /// The user's name.
    pub name: &'a [u8],
    /// Names of the roles granted.
    pub roles: Vec<&'a [u8]>,
    /// Whether the user has no password and comes in by certificate only.
    pub no_password: bool,
}

impl<'a> User<'a> {
    /// Decodes the message.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, SchemaError> {
        let error = |source| SchemaError::Proto { what: "user", source };
        let mut user = Self::default();
        for field in Fields::new(bytes) {
            match field.map_err(error)? {
                (1, Value::Bytes(name)) => user.name = name,
                (3, Value::Bytes(role)) => user.roles.push(role),
                (4, Value::Bytes(options)) => {
                    for option in Fields::new(options) {
                        if let (1, Value::Varint(n)) = option.map_err(error)? {
                            user.no_password = n != 0;
                        }
                    }
                }
                (1 | 3 | 4, _) => return Err(error(ProtoError::WireType)),
                _ => {}
            }
        }
        Ok(user)
    }
}

/// `authpb.Role`, its name and the number of its permissions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Role<'a> {
    /// The role's name.
    pub name: &'a [u8],
    /// How many key ranges it grants.
    pub permissions: u64,
}

impl<'a> Role<'a> {
    /// Decodes the message.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, SchemaError> {
        let error = |source| SchemaError::Proto { what: "role", source };
        let mut role = Self::default();
        for field in Fields::new(bytes) {
            match field.map_err(error)? {
                (1, Value::Bytes(name)) => role.name = name,
                (2, Value::Bytes(_)) => role.permissions += 1,
                (1 | 2, _) => return Err(error(ProtoError::WireType)),
                _ => {}
            }
        }
        Ok(role)
    }
}

#[cfg(test)]
mod tests;
