//! What stands in the way of bringing a cluster back, found before anything changes.
//!
//! [`look`] asks all nodes at once and changes nothing; [`judge`] and [`foreign`] are
//! pure over what it saw. A [`Severity::Problem`] stands in the way of a restore, a
//! warning should be mended, a note be known. Each finding says what to do.
//!
//! | module | judges |
//! |---|---|
//! | `network` | every pair of nodes on the ports of peers and clients |
//! | `disk` | room, mount points, read-only disks, owners |
//! | `servers` | versions, quota, certificates, ports, settings of the members |
//! | `members` | members that no node has, other clusters' members, alarms, dead nodes |
//! | `content` | the backup: whose it is, what is in it, what it is too new for |

mod content;
mod disk;
mod look;
mod members;
mod network;
mod servers;

#[cfg(test)]
pub(in crate::operation) mod tests;

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::Serialize;
use vault::manifest::Proof;

use crate::datadir::schema::Content;
use crate::node::{Entry, Listener, NodeName, Space};
use crate::observe::node::FORCED;
use crate::observe::{EtcdService, NodeObservation};
use crate::operation::discover::{SeenNode as Discovered, judge as discovered};
use crate::operation::state::describe::MemberSeen;
use crate::types::{HexId, Version};

pub use self::look::{Wanted, look};
pub(in crate::operation) use self::members::{dead_node, peer_urls};
pub use crate::observe::{Finding, Severity};

/// Beside the database there is the log, which etcd allocates ahead.
const LOG: u64 = 192 << 20;

/// Everything that is judged.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The nodes that answer.
    pub nodes: Vec<SeenNode>,
    /// Those that do not.
    pub unreached: Vec<Unreached>,
    /// This machine's clock before and after the nodes were asked, in nanoseconds since
    /// 1970.
    pub asked: (i128, i128),
    /// What members that answer tell.
    pub live: Live,
    /// What is to be restored, where that is known.
    pub backup: Option<SeenBackup>,
}

/// A node that answers.
#[derive(Debug, Clone)]
pub struct SeenNode {
    /// What runs there.
    pub seen: NodeObservation,
    /// Where its member's data is, where it has a member.
    pub data: Option<SeenData>,
    /// The version of etcd there, where it can be known.
    pub version: Option<Version>,
    /// Who listens there.
    pub listeners: Vec<Listener>,
    /// What it reaches of the others.
    pub reached: Vec<Reached>,
    /// Files that API servers there need to read what is encrypted at rest, with the
    /// digest of each that is there.
    pub encryption: Vec<(PathBuf, Option<[u8; 32]>)>,
}

impl SeenNode {
    /// Its name.
    pub fn name(&self) -> &NodeName {
        &self.seen.name
    }

    /// Its member.
    pub fn etcd(&self) -> Option<&EtcdService> {
        self.seen.member()
    }

    /// Whether etcd's process runs there.
    pub fn is_up(&self) -> bool {
        self.etcd().is_some_and(|etcd| etcd.running.is_some() || etcd.runs.is_running())
    }
}

/// A member's data directory as it is found.
#[derive(Debug, Clone)]
pub struct SeenData {
    /// The data directory, where it is there.
    pub dir: Option<Entry>,
    /// `member` in it.
    pub member: Option<Entry>,
    /// The log's directory, where that lies elsewhere.
    pub wal: Option<Entry>,
    /// The nearest directory that is there, from the data directory upwards.
    pub above: Entry,
    /// Directories between that one and the data directory, the topmost first.
    pub missing: Vec<PathBuf>,
    /// The room for the data.
    pub space: Space,
    /// The room for a log elsewhere.
    pub wal_space: Option<Space>,
    /// As whom etcd runs, or is set up to: user and group.
    pub runs_as: Option<(u32, u32)>,
}

impl SeenData {
    /// Whose the new data is to be: as it was; where nothing is left, whoever etcd runs
    /// as.
    pub fn owner(&self) -> (u32, u32) {
        let of = |entry: &Entry| (entry.attributes.uid, entry.attributes.gid);
        let there = self.member.as_ref().or(self.dir.as_ref()).map(of);
        there.or(self.runs_as).unwrap_or_else(|| of(&self.above))
    }
}

/// Whether a node reaches an address of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// The other node.
    pub to: NodeName,
    /// Whether it is for peers; else for clients.
    pub peer: bool,
    /// `host:port`.
    pub address: String,
    /// Why it is not reached.
    pub error: Option<String>,
}

/// A node that does not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unreached {
    /// Its name.
    pub node: String,
    /// Why.
    pub why: String,
    /// Whether it was declared dead.
    pub dead: bool,
    /// Names and addresses by which others know it.
    pub known_as: Vec<String>,
}

/// What members tell that answer; all empty where none does.
#[derive(Debug, Clone, Default)]
pub struct Live {
    /// Which clusters those that answer belong to, by their names.
    pub clusters: Vec<(String, HexId)>,
    /// The member list.
    pub members: Vec<MemberSeen>,
    /// Alarms: the member's name, and the alarm's.
    pub alarms: Vec<(String, String)>,
    /// The leader's name.
    pub leader: Option<String>,
    /// The highest revision that is told.
    pub revision: Option<i64>,
    /// Bytes of the largest database.
    pub db_size: Option<u64>,
}

impl Live {
    /// The one cluster that they are of.
    pub fn cluster(&self) -> Option<HexId> {
        let (_, first) = self.clusters.first()?;
        self.clusters.iter().all(|(_, id)| id == first).then_some(*first)
    }
}

/// What is to be restored.
#[derive(Debug, Clone)]
pub struct SeenBackup {
    /// Its id.
    pub id: String,
    /// Whose it is, by the name in the vault.
    pub cluster: String,
    /// The name of the cluster that is to be restored.
    pub wanted: String,
    /// The lineage: the id of the cluster that it is of.
    pub lineage: String,
    /// When it was taken.
    pub taken: DateTime<Utc>,
    /// Bytes of the snapshot.
    pub size: u64,
    /// Its revision.
    pub revision: i64,
    /// Whether it was compared with the cluster.
    pub proof: Proof,
    /// What the database holds beside keys.
    pub content: Content,
    /// Whether keys of the v2 API were there, which no snapshot holds.
    pub had_v2_keys: bool,
    /// All clusters of the vault with the ids that they had.
    pub known: Vec<(String, String)>,
    /// A newer backup of the same lineage: id, time, revision.
    pub newer: Option<(String, DateTime<Utc>, i64)>,
}

/// What was looked at, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Looked {
    /// Nodes that answered.
    pub nodes: usize,
    /// Nodes with a member among them.
    pub members: usize,
    /// Nodes with an API server among them.
    pub api_servers: usize,
    /// Connections between nodes that were tried.
    pub connections: usize,
    /// Certificates that were read.
    pub certificates: usize,
}

impl Seen {
    /// What was looked at.
    pub fn looked(&self) -> Looked {
        let count = |is: fn(&SeenNode) -> bool| self.nodes.iter().filter(|node| is(node)).count();
        Looked {
            nodes: self.nodes.len(),
            members: count(|node| node.etcd().is_some()),
            api_servers: count(|node| !node.seen.api_servers.is_empty()),
            connections: self.nodes.iter().map(|node| node.reached.len()).sum(),
            certificates: self.nodes.iter().map(|node| node.seen.certificates.len()).sum(),
        }
    }

    /// Bytes of each directory that is to be built, as far as that is known.
    pub fn size(&self) -> u64 {
        let backup = self.backup.as_ref().map(|backup| backup.size);
        backup.or(self.live.db_size).unwrap_or(0)
    }

    fn node(&self, name: &NodeName) -> Option<&SeenNode> {
        self.nodes.iter().find(|node| node.name() == name)
    }
}

/// All that is to be said of nodes and cluster, the worst first.
pub fn judge(seen: &Seen) -> Vec<Finding> {
    // A restore sees to that itself, and says so.
    let other = |finding: &&Finding| finding.what != FORCED;
    let of_nodes = seen.nodes.iter().flat_map(|node| node.seen.findings.iter().filter(other));
    let mut findings: Vec<Finding> = of_nodes.cloned().collect();
    findings.extend(members::judge(seen));
    findings.extend(network::judge(seen));
    findings.extend(disk::judge(seen));
    findings.extend(servers::judge(seen));
    findings.extend(content::judge(seen));
    let nodes: Vec<Discovered> =
        seen.nodes.iter().map(|node| Discovered { ssh: None, seen: node.seen.clone() }).collect();
    findings.extend(discovered::clocks(&nodes, seen.asked.0, seen.asked.1));
    // The order within one severity is that in which it was found: stable.
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let mut once: Vec<Finding> = Vec::new();
    for finding in findings {
        if !once.contains(&finding) {
            once.push(finding);
        }
    }
    once
}

/// What speaks for a backup of another cluster than these nodes are of. With `mapped` it is
/// known that names and members are others: then only a cluster that runs here and is
/// neither the one that is to be restored nor that of the backup.
pub fn foreign(seen: &Seen, mapped: bool) -> Vec<Finding> {
    content::foreign(seen, mapped)
}

/// Whether any of them stands in the way.
pub fn is_blocked(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == Severity::Problem)
}

fn about(severity: Severity, what: impl Into<String>) -> Finding {
    Finding { node: None, severity, what: what.into(), hint: None }
}
