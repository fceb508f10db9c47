//! What etcdvault writes into the `content` of a manifest: everything known of a
//! snapshot without reading it again. `docs/format/manifest.md` describes it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use vault::document::printable;
use vault::manifest::{ContentSchema, Manifest};

use super::proof::MemberProof;
use super::state::describe::StateContent;
use crate::datadir::hash::{HashError, Scan};
use crate::datadir::inspect::{Inspection, Kind};
use crate::etcd::MemberStatus;
use crate::etcd::cluster::Row;
use crate::etcd::v2::V2Keys;
use crate::types::{HexId, Revision};

/// The kind of a backup that holds a snapshot.
pub const SNAPSHOT_KIND: &str = "snapshot";
/// The role of the snapshot among a backup's objects.
pub const SNAPSHOT_ROLE: &str = "snapshot";
/// The snapshot's name without the endings of compression and encryption.
pub const SNAPSHOT_NAME: &str = "snapshot.db";

const SCHEMA_NAME: &str = "etcd-snapshot";
const SCHEMA_VERSION: u32 = 1;

/// The schema that [`SnapshotContent`] follows.
pub fn schema() -> ContentSchema {
    ContentSchema { name: SCHEMA_NAME.to_owned(), version: SCHEMA_VERSION }
}

/// Where a snapshot came from. Beside the times these are the server's words; all
/// else in a manifest is read from the database itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// How it was got.
    pub way: Way,
    /// The member's name, or its address.
    pub member: Option<String>,
    /// Where it was reached, or the file.
    pub place: String,
    /// Its id, from the response header.
    pub member_id: Option<HexId>,
    /// The cluster's id, from the response header.
    pub cluster_id: Option<HexId>,
    /// etcd's version, as the member said it.
    pub etcd_version: Option<String>,
    /// The raft term, as the member said it: 3.4 does not store it.
    pub raft_term: Option<u64>,
    /// The last applied index shortly before, as the member said it.
    pub raft_applied_index: Option<u64>,
    /// Whether it was the leader.
    pub was_leader: Option<bool>,
    /// When the snapshot was asked for.
    pub asked_at: Option<DateTime<Utc>>,
    /// How the time in the envelope is known, where no member was asked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub time_source: Option<TimeSource>,
}

/// How a snapshot was got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// By the Snapshot RPC of a member.
    SnapshotRpc,
    /// From a file.
    Import,
    /// By etcd's own program, alone over a copy of what a member left.
    Recovered,
}

/// How the time of a snapshot from a file is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeSource {
    /// It is the file's modification time.
    ModificationTime,
    /// It is not known: it is the time of the import.
    ImportTime,
}

impl Origin {
    /// What a member says of itself.
    pub fn of_member(row: &Row, status: &MemberStatus, asked_at: &DateTime<Utc>) -> Self {
        Self {
            way: Way::SnapshotRpc,
            member: Some(row.label()),
            place: row.endpoint.as_ref().map(ToString::to_string).unwrap_or_default(),
            member_id: Some(status.member_id),
            cluster_id: Some(status.cluster_id),
            etcd_version: Some(status.version.clone()),
            raft_term: Some(status.raft_term),
            raft_applied_index: Some(status.raft_applied_index),
            was_leader: Some(status.is_leader()),
            asked_at: Some(*asked_at),
            time_source: None,
        }
    }

    /// A file: nothing is known of its cluster.
    pub fn of_file(place: String, time_source: TimeSource) -> Self {
        Self {
            way: Way::Import,
            member: None,
            place,
            member_id: None,
            cluster_id: None,
            etcd_version: None,
            raft_term: None,
            raft_applied_index: None,
            was_leader: None,
            asked_at: None,
            time_source: Some(time_source),
        }
    }
}

/// HashKV of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredHash {
    /// At this revision.
    pub revision: Revision,
    /// With this compact revision, -1 for none.
    pub compact_revision: Revision,
    /// CRC-32C by etcd's rules.
    pub hash: u32,
}

/// The `content` of a snapshot's manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotContent {
    /// Where it came from.
    pub origin: Origin,
    /// Its HashKV; `None` when the database is damaged.
    pub hash_kv: Option<StoredHash>,
    /// What the database says of itself.
    pub database: Inspection,
    /// What each member said of it.
    pub members: Vec<MemberProof>,
    /// What the v2 API of a member held, where it has one: no snapshot contains it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub v2_keys: Option<String>,
    /// The states of nodes that were stored with it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub state: Option<StateContent>,
}

impl SnapshotContent {
    /// Puts together what a scan and the members showed.
    pub fn new(
        origin: Origin,
        scan: &Scan,
        members: Vec<MemberProof>,
        v2: Option<V2Keys>,
    ) -> Result<Self, HashError> {
        let database = Inspection::of(scan, Kind::Snapshot, None)?;
        Ok(Self {
            origin,
            hash_kv: database.hash_kv.map(|hash| StoredHash {
                revision: database.revision,
                compact_revision: database.compact_revision.unwrap_or(-1),
                hash,
            }),
            database,
            members,
            v2_keys: v2.map(|keys| {
                match keys {
                    V2Keys::Disabled => "disabled",
                    V2Keys::Empty => "empty",
                    V2Keys::Present => "present",
                }
                .to_owned()
            }),
            state: None,
        })
    }

    /// The JSON of a manifest.
    pub fn to_value(&self) -> serde_json::Value {
        // Plain data with text keys: it has no way to fail.
        let mut value = serde_json::to_value(self).unwrap_or_default();
        make_printable(&mut value);
        value
    }

    /// Reads the content of `manifest`; an error says which schema it has.
    pub fn of(manifest: &Manifest) -> Result<Self, String> {
        let schema = &manifest.content_schema;
        if schema.name != SCHEMA_NAME {
            return Err(format!("its content is {:?}, not an etcd snapshot", schema.name));
        }
        if schema.version > SCHEMA_VERSION {
            return Err(format!(
                "its content has schema version {}; this etcdvault reads {SCHEMA_VERSION}",
                schema.version
            ));
        }
        serde_json::from_value(manifest.content.clone())
            .map_err(|error| format!("its content does not follow its schema: {error}"))
    }
}

/// Escapes what a manifest refuses in texts: names in a database and of files may hold
/// anything.
pub(super) fn make_printable(value: &mut serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::String(text) => *text = printable(text),
        Value::Array(values) => values.iter_mut().for_each(make_printable),
        Value::Object(members) => {
            *members = std::mem::take(members)
                .into_iter()
                .map(|(name, mut value)| {
                    make_printable(&mut value);
                    (printable(&name), value)
                })
                .collect();
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
