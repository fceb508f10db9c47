//! What is said of a node and of its cluster beside the files, as plain data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vault::manifest::{ContentSchema, Manifest};

use crate::etcd::cluster::ClusterView;
use crate::types::HexId;

/// How a program runs on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "as", rename_all = "snake_case")]
pub enum Runs {
    /// As a systemd unit.
    Unit {
        /// The unit's name.
        name: String,
    },
    /// As a static pod of the kubelet.
    StaticPod {
        /// The manifest's path.
        manifest: String,
    },
    /// As a process that belongs to neither.
    Process,
}

impl std::fmt::Display for Runs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unit { name } => write!(f, "external, unit {name}"),
            Self::StaticPod { manifest } => write!(f, "embedded, static pod {manifest}"),
            Self::Process => f.write_str("a process of its own"),
        }
    }
}

/// etcd or the API server on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// What runs it.
    pub runs: Runs,
    /// Whether it ran.
    pub running: bool,
    /// The image of its container.
    pub image: Option<String>,
    /// What tells its place in the cluster, by the names of the flags: names, addresses,
    /// directories. No secrets.
    pub options: BTreeMap<String, String>,
}

/// A unit as systemd knew it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitSeen {
    /// `active`, `inactive`, `failed` …
    pub active: String,
    /// `enabled`, `disabled`, `static` …
    pub enabled: String,
}

/// A node as it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Its host name.
    pub hostname: String,
    /// Its machine id.
    pub machine_id: Option<String>,
    /// Its system, as it names itself.
    pub os: String,
    /// Its processor.
    pub arch: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// etcd, where there is one.
    pub etcd: Option<Program>,
    /// kube-apiserver, where there is one.
    pub apiserver: Option<Program>,
    /// Units of etcd, Kubernetes and flannel.
    pub units: BTreeMap<String, UnitSeen>,
    /// Where etcd's data is.
    pub data_dirs: Vec<String>,
    /// What could not be looked at, and why.
    pub unseen: Vec<String>,
}

/// A member as the cluster knew it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberSeen {
    /// Its id.
    pub id: HexId,
    /// Its name.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// Whether it is a learner.
    pub is_learner: bool,
    /// Its version, where it answered.
    pub version: Option<String>,
}

/// The cluster as its members told it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSeen {
    /// The cluster's id.
    pub cluster_id: HexId,
    /// The highest revision that a member told.
    pub revision: Option<u64>,
    /// Its members by id.
    pub members: Vec<MemberSeen>,
}

impl ClusterSeen {
    /// What `view` shows, when at least one member answered and all belong to one
    /// cluster.
    pub fn of(view: &ClusterView) -> Option<Self> {
        let mut ids = view.rows.iter().filter_map(|row| Some(row.status()?.cluster_id));
        let cluster_id = ids.next()?;
        if ids.any(|id| id != cluster_id) {
            return None;
        }
        let mut members: Vec<MemberSeen> = view
            .rows
            .iter()
            .filter_map(|row| {
                let listed = row.listed.as_ref()?;
                Some(MemberSeen {
                    id: listed.id,
                    name: listed.name.clone(),
                    peer_urls: listed.peer_urls.clone(),
                    client_urls: listed.client_urls.clone(),
                    is_learner: row.is_learner(),
                    version: row.status().map(|status| status.version.clone()),
                })
            })
            .collect();
        members.sort_by_key(|member| member.id.0);
        members.dedup_by_key(|member| member.id.0);
        let revisions = view.rows.iter().filter_map(|row| row.status());
        let revision = revisions.filter_map(|status| u64::try_from(status.revision).ok()).max();
        Some(Self { cluster_id, revision, members })
    }
}

/// What a manifest says of a node whose state is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSummary {
    /// The node.
    pub node: String,
    /// Files, directories and links in its archive.
    pub entries: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Files that changed while they were read.
    pub changed: u64,
    /// Bytes of its data directories, where they were copied.
    pub data_bytes: Option<u64>,
}

/// A node whose state could not be stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingNode {
    /// The node.
    pub node: String,
    /// Why.
    pub why: String,
}

/// What a manifest says of the states in a backup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateContent {
    /// The cluster, where a member answered.
    pub cluster: Option<ClusterSeen>,
    /// The nodes.
    pub nodes: Vec<NodeSummary>,
    /// Nodes that were asked for and could not be stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<MissingNode>,
}

const SCHEMA_NAME: &str = "node-states";
const SCHEMA_VERSION: u32 = 1;

impl StateContent {
    /// The schema of the content of a backup of states alone.
    pub fn schema() -> ContentSchema {
        ContentSchema { name: SCHEMA_NAME.to_owned(), version: SCHEMA_VERSION }
    }

    /// What `manifest` says of states; `None` where it says nothing, an error where it
    /// cannot be read.
    pub fn of(manifest: &Manifest) -> Result<Option<Self>, String> {
        let schema = &manifest.content_schema;
        let value = if schema.name == SCHEMA_NAME {
            if schema.version > SCHEMA_VERSION {
                return Err(format!(
                    "its content has schema version {}; this etcdvault reads {SCHEMA_VERSION}",
                    schema.version
                ));
            }
            Some(&manifest.content)
        } else {
            manifest.content.get("state").filter(|value| !value.is_null())
        };
        let Some(value) = value else { return Ok(None) };
        serde_json::from_value(value.clone())
            .map(Some)
            .map_err(|error| format!("its content does not follow its schema: {error}"))
    }

    /// The JSON of a manifest.
    pub fn to_value(&self) -> serde_json::Value {
        // Plain data with text keys: it has no way to fail.
        let mut value = serde_json::to_value(self).unwrap_or_default();
        super::super::content::make_printable(&mut value);
        value
    }
}
