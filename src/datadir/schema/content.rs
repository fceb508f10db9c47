//! What a database says beside its key-value records, gathered entry by entry.

use serde::{Deserialize, Serialize};

use super::{
    Fields, Lease, ProtoError, RecordKey, Role, SchemaError, User, Value, auth_key, bucket,
    cluster_key, meta_key,
};
use crate::bbolt::{Database, PageSource, ReadError};
use crate::types::HexId;

/// Lists longer than this are cut; real clusters have a handful of members.
const MAX_LISTED: usize = 1000;

/// A member as the database records it; field names are those of etcd's JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The member's id: a number in etcd's JSON, hexadecimal text in ours, as other
    /// readers of JSON round numbers of 64 bits.
    #[serde(serialize_with = "hex_id", deserialize_with = "number_or_hex_id")]
    pub id: u64,
    /// Where the other members reach it.
    #[serde(rename = "peerURLs", default)]
    pub peer_urls: Vec<String>,
    /// Whether it does not vote.
    #[serde(rename = "isLearner", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_learner: bool,
    /// Its name; empty before its first start.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where clients reach it; empty before its first start.
    #[serde(rename = "clientURLs", default, skip_serializing_if = "Vec::is_empty")]
    pub client_urls: Vec<String>,
}

/// What an alarm warns of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlarmKind {
    /// The quota is reached: the cluster takes no writes.
    NoSpace,
    /// A member's data differs.
    Corrupt,
    /// A number that this code does not know.
    Other(u64),
}

/// A raised alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// The member it concerns.
    #[serde(serialize_with = "hex_id", deserialize_with = "number_or_hex_id")]
    pub member: u64,
    /// What it warns of.
    pub kind: AlarmKind,
}

/// What shows which etcd wrote the database, strongest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VersionEvidence {
    /// `meta/storageVersion`: 3.6 or later, and the version whose schema it is.
    StorageVersion(String),
    /// `cluster/clusterVersion`: the lowest version in the cluster when it was last agreed on.
    ClusterVersion(String),
    /// `meta/term` or `meta/confState` is there: 3.5 or later.
    Since3_5,
    /// None of these: 3.4 or older, or a store that never agreed on a version.
    None,
}

/// Everything beside the bucket `key`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Content {
    /// Number of leases.
    pub leases: u64,
    /// Number of users.
    pub users: u64,
    /// Number of roles.
    pub roles: u64,
    /// Whether authentication is on.
    pub auth_enabled: bool,
    /// Revision of the authentication store.
    pub auth_revision: Option<u64>,
    /// Raised alarms.
    pub alarms: Vec<Alarm>,
    /// Members as the v3 store has them.
    pub members: Vec<Member>,
    /// Ids of members that were removed.
    pub members_removed: Vec<HexId>,
    /// `cluster/clusterVersion`.
    pub cluster_version: Option<String>,
    /// Target of a downgrade in progress.
    pub downgrade_target: Option<String>,
    /// `meta/storageVersion`.
    pub storage_version: Option<String>,
    /// Last raft index applied.
    pub consistent_index: Option<u64>,
    /// Raft term of that index.
    pub term: Option<u64>,
    /// Raft's ConfState as stored JSON.
    pub conf_state: Option<serde_json::Value>,
    /// Last finished compaction.
    pub finished_compact: Option<i64>,
    /// Last compaction asked for.
    pub scheduled_compact: Option<i64>,
}

impl Content {
    /// Takes one entry of a top-level bucket. Entries of `key` and of buckets
    /// unknown here are passed over. On an error the entry is left out.
    pub fn add(&mut self, name: &[u8], key: &[u8], value: &[u8]) -> Result<(), SchemaError> {
        match name {
            bucket::META => self.add_meta(key, value)?,
            bucket::LEASE => {
                self.leases += 1;
                let lease = Lease::decode(value)?;
                if key != lease.id.to_be_bytes() {
                    return Err(SchemaError::Field { what: "the id of a lease" });
                }
            }
            bucket::AUTH => match key {
                auth_key::ENABLED => self.auth_enabled = value == [1],
                auth_key::REVISION => {
                    self.auth_revision = Some(number(value, "authRevision")?);
                }
                _ => {}
            },
            bucket::AUTH_USERS => {
                self.users += 1;
                User::decode(value)?;
            }
            bucket::AUTH_ROLES => {
                self.roles += 1;
                Role::decode(value)?;
            }
            bucket::MEMBERS => {
                let member: Member = json(value, "a member")?;
                if id(key) != Some(member.id) {
                    return Err(SchemaError::Field { what: "the id of a member" });
                }
                push(&mut self.members, member);
            }
            bucket::MEMBERS_REMOVED => {
                let id =
                    id(key).ok_or(SchemaError::Field { what: "the id of a removed member" })?;
                push(&mut self.members_removed, HexId(id));
            }
            bucket::CLUSTER => match key {
                cluster_key::VERSION => {
                    self.cluster_version = Some(text(value, "clusterVersion")?);
                }
                cluster_key::DOWNGRADE => {
                    #[derive(Deserialize)]
                    struct Downgrade {
                        #[serde(rename = "target-version", default)]
                        target: String,
                        #[serde(default)]
                        enabled: bool,
                    }
                    let downgrade: Downgrade = json(value, "downgrade")?;
                    self.downgrade_target = downgrade.enabled.then_some(downgrade.target);
                }
                _ => {}
            },
            bucket::ALARM => push(&mut self.alarms, alarm(key)?),
            _ => {}
        }
        Ok(())
    }

    fn add_meta(&mut self, key: &[u8], value: &[u8]) -> Result<(), SchemaError> {
        match key {
            meta_key::CONSISTENT_INDEX => {
                self.consistent_index = Some(number(value, "consistent_index")?);
            }
            meta_key::TERM => self.term = Some(number(value, "term")?),
            meta_key::CONF_STATE => self.conf_state = Some(json(value, "confState")?),
            meta_key::STORAGE_VERSION => {
                self.storage_version = Some(text(value, "storageVersion")?);
            }
            meta_key::SCHEDULED_COMPACT => {
                self.scheduled_compact = Some(RecordKey::parse(value)?.main);
            }
            meta_key::FINISHED_COMPACT => {
                self.finished_compact = Some(RecordKey::parse(value)?.main);
            }
            _ => {}
        }
        Ok(())
    }

    /// Counts entries of a bucket whose content was not kept.
    pub fn count(&mut self, name: &[u8], entries: u64) {
        match name {
            bucket::LEASE => self.leases += entries,
            bucket::AUTH_USERS => self.users += entries,
            bucket::AUTH_ROLES => self.roles += entries,
            _ => {}
        }
    }

    /// Reads all of it from an opened database. Entries that etcd cannot have
    /// written are given beside it, as bucket and error.
    #[expect(clippy::type_complexity, reason = "a pair with a list of pairs")]
    pub fn read<S: PageSource>(
        database: &Database<S>,
    ) -> Result<(Self, Vec<(&'static str, SchemaError)>), ReadError> {
        let mut content = Self::default();
        let mut errors = Vec::new();
        for name in [
            "meta",
            "lease",
            "auth",
            "authUsers",
            "authRoles",
            "members",
            "members_removed",
            "cluster",
            "alarm",
        ] {
            let Some(bucket) = database.bucket(name.as_bytes())? else { continue };
            let mut cursor = bucket.cursor();
            while let Some(entry) = cursor.next()? {
                if let Err(error) = content.add(name.as_bytes(), entry.key, entry.value)
                    && errors.len() < MAX_LISTED
                {
                    errors.push((name, error));
                }
            }
        }
        Ok((content, errors))
    }

    /// The revision that a member reports as compacted: the later of both.
    pub fn compact_revision(&self) -> Option<i64> {
        self.finished_compact.max(self.scheduled_compact)
    }

    /// The store's revision, given the main revision of its last record: a
    /// compaction can be above it where its last tombstones were dropped.
    pub fn revision(&self, last_record: Option<i64>) -> i64 {
        last_record.max(self.compact_revision()).map_or(1, |revision| revision.max(1))
    }

    /// What shows which etcd wrote it.
    pub fn version_evidence(&self) -> VersionEvidence {
        if let Some(version) = &self.storage_version {
            VersionEvidence::StorageVersion(version.clone())
        } else if let Some(version) = &self.cluster_version {
            VersionEvidence::ClusterVersion(version.clone())
        } else if self.term.is_some() || self.conf_state.is_some() {
            VersionEvidence::Since3_5
        } else {
            VersionEvidence::None
        }
    }
}

fn hex_id<S: serde::Serializer>(id: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    HexId(*id).serialize(serializer)
}

fn number_or_hex_id<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Id {
        Number(u64),
        Text(HexId),
    }
    Id::deserialize(deserializer).map(|id| match id {
        Id::Number(id) | Id::Text(HexId(id)) => id,
    })
}

fn push<T>(list: &mut Vec<T>, item: T) {
    if list.len() < MAX_LISTED {
        list.push(item);
    }
}

fn number(value: &[u8], what: &'static str) -> Result<u64, SchemaError> {
    value.try_into().map(u64::from_be_bytes).map_err(|_| SchemaError::Field { what })
}

fn text(value: &[u8], what: &'static str) -> Result<String, SchemaError> {
    std::str::from_utf8(value).map(str::to_owned).map_err(|_| SchemaError::Field { what })
}

fn json<'a, T: Deserialize<'a>>(value: &'a [u8], what: &'static str) -> Result<T, SchemaError> {
    serde_json::from_slice(value).map_err(|_| SchemaError::Field { what })
}

/// A member's id as it stands in keys: lower-case hex without leading zeros.
fn id(key: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(key).ok()?;
    if text.is_empty() || text.starts_with('+') {
        return None;
    }
    u64::from_str_radix(text, 16).ok()
}

fn alarm(key: &[u8]) -> Result<Alarm, SchemaError> {
    let error = |source| SchemaError::Proto { what: "alarm", source };
    let mut alarm = Alarm { member: 0, kind: AlarmKind::Other(0) };
    for field in Fields::new(key) {
        match field.map_err(error)? {
            (1, Value::Varint(n)) => alarm.member = n,
            (2, Value::Varint(1)) => alarm.kind = AlarmKind::NoSpace,
            (2, Value::Varint(2)) => alarm.kind = AlarmKind::Corrupt,
            (2, Value::Varint(n)) => alarm.kind = AlarmKind::Other(n),
            (1 | 2, _) => return Err(error(ProtoError::WireType)),
            _ => {}
        }
    }
    Ok(alarm)
}
