//! The steps of operations over nodes.
//!
//! What holds for each: looking changes nothing; doing and undoing can be repeated
//! and find their work half done; what is undone needs the nodes alone, no vault.
//!
//! - Files: what stood there is copied to [`ASIDE`] before it is replaced, and the
//!   write names the digest of what it replaces. A file that somebody changed since
//!   the plan was made stops the step. Links and empty directories are in the plan
//!   with all that they are.
//! - Services of several nodes are stopped one after the other and started at the
//!   same time: a member of etcd is ready only beside others.
//! - A plan has digests, never content: that is read from the vault when needed.

mod act;
pub(crate) mod aside;
pub mod configure;
mod data;
mod fence;
mod file;
mod health;
mod join;
pub mod membership;
mod remains;
mod restart;
mod service;

pub(super) use health::is_ready;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use configure::{Edit, NewSetting, Said};
pub use membership::{MemberChange, MemberNow, Membership, Refused, Says};

use super::content::StoredHash;
use super::failure::{Failure, FailureKind};
use crate::node::{ByteStream, Node, NodeName};
use crate::plan::shell::Command;
use crate::plan::{self, Description, Place, PlanId, Reversal};

/// Where nodes keep what was set aside: `<plan id>/…`.
pub const ASIDE: &str = "/var/lib/etcdvault/aside";

/// The output with the backup that holds the state before.
pub const SAVED: &str = "saved";

/// The output with the id of the member that was added.
pub const MEMBER_ID: &str = "member-id";

/// A file of configuration is at most so large.
pub const MAX_FILE: u64 = 16 << 20;

/// What steps need of the vault and, to look at the result, of the cluster.
#[async_trait]
pub trait Contents: std::fmt::Debug + Send + Sync {
    /// The bytes of the file `path` of `node` in a backup, checked.
    async fn content(&self, backup: &str, node: &str, path: &str) -> Result<Vec<u8>, Failure>;
    /// Stores the state of `nodes`, and with `data` the cluster's, and returns the
    /// backup's id. The backup says which plan it is for.
    async fn save(&self, nodes: &[Place], plan: PlanId, data: bool) -> Result<String, Failure>;
    /// The backup that was stored for `plan`.
    async fn saved(&self, plan: PlanId) -> Result<Option<String>, Failure>;
    /// The plain snapshot in a backup, as `node` takes it.
    async fn snapshot(&self, backup: &str, node: &NodeName) -> Result<ByteStream, Failure>;
    /// The copy of `node`'s data in a backup, as a tar stream of what lies below `from`.
    async fn copy(
        &self,
        backup: &str,
        node: &NodeName,
        from: &Path,
    ) -> Result<ByteStream, Failure> {
        let what = format!("{} of {node} was not read from {backup}", from.display());
        Err(Failure::new(FailureKind::Error, what).detail("there is no copy of data"))
    }
    /// What each member of the cluster answers now, its HashKV at `revision` or, where
    /// something was written since, at a later one.
    async fn members(&self, revision: i64) -> Result<Vec<MemberAnswer>, Failure>;
    /// Writes something through the cluster's log, and takes it back.
    async fn write(&self) -> Result<(), Failure>;
    /// The cluster's members, to be changed; `None` where no way leads to them.
    fn membership(&self) -> Option<&dyn Membership> {
        None
    }
}

/// What a member answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberAnswer {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// The cluster's id.
    pub cluster: String,
    /// The store's revision.
    pub revision: i64,
    /// Its HashKV.
    pub hash_kv: Option<u32>,
    /// At which revision: the same for all members.
    pub hashed_at: i64,
    /// Why there is none.
    pub why: Option<String>,
}

/// What steps act on.
#[derive(Debug)]
pub struct World {
    /// The nodes by name.
    pub nodes: BTreeMap<String, Arc<dyn Node>>,
    /// The vault; `None` where there is only the way back.
    pub contents: Option<Arc<dyn Contents>>,
}

/// Owner, mode and extended attributes as data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mode {
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// Extended attributes: values escaped as in an index.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, String>,
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum What {
    /// Nothing.
    Nothing,
    /// A regular file.
    File {
        /// SHA-256 of its content, in hexadecimal.
        sha256: String,
        /// Owner, mode and attributes.
        mode: Mode,
        /// When its content was last changed, in nanoseconds since 1970; `None` where
        /// that does not matter.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        modified: Option<i64>,
    },
    /// A directory, whatever is in it.
    Directory {
        /// Owner, mode and attributes.
        mode: Mode,
    },
    /// A symbolic link.
    Link {
        /// Where it leads, escaped.
        target: String,
        /// Owner and attributes; it has no mode of its own.
        mode: Mode,
        /// When it was made, as of a file.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        modified: Option<i64>,
    },
}

/// A file system may keep times less exactly than another: nanoseconds that do not
/// count.
const SAME_TIME: u64 = 1_000_000_000;

impl What {
    /// When its content was last changed, where that is known.
    pub fn modified(&self) -> Option<i64> {
        match self {
            Self::File { modified, .. } | Self::Link { modified, .. } => *modified,
            Self::Nothing | Self::Directory { .. } => None,
        }
    }

    /// The same, whenever it was made.
    #[must_use]
    pub fn timeless(&self) -> Self {
        let mut what = self.clone();
        if let Self::File { modified, .. } | Self::Link { modified, .. } = &mut what {
            *modified = None;
        }
        what
    }

    /// Whether both are the same, whenever they were made.
    pub fn same(&self, other: &Self) -> bool {
        self.timeless() == other.timeless()
    }

    /// Whether it is all of `wanted`, the time where that says one.
    pub fn is(&self, wanted: &Self) -> bool {
        self.same(wanted)
            && match (self.modified(), wanted.modified()) {
                (Some(is), Some(wanted)) => is.abs_diff(wanted) < SAME_TIME,
                _ => true,
            }
    }

    /// Whether both are of one kind: then one can be put in the place of the other
    /// without a moment in which nothing stands there.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// A directory and its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moment {
    /// The directory.
    pub path: PathBuf,
    /// When something in it was last made or taken away, in nanoseconds since 1970.
    pub modified: i64,
}

/// A path and what it is turned from and into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Where on the node.
    pub path: PathBuf,
    /// Its path in the state, where that is another: a manifest that was taken out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_as: Option<PathBuf>,
    /// What stands there.
    pub before: What,
    /// What is to stand there.
    pub after: What,
}

/// A path and what has to stand there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Where on the node.
    pub path: PathBuf,
    /// What.
    pub what: What,
}

/// The cluster that data directories are built for: one that never was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewCluster {
    /// Its id.
    pub id: String,
    /// `name=url,…`: all its members.
    pub initial_cluster: String,
    /// In all ids, and used once.
    pub token: String,
    /// How far the revision is raised above the snapshot's, which is then compacted.
    pub bump_revision: u64,
    /// The revision that its members start with.
    pub revision: i64,
    /// Bytes of the snapshot.
    pub size: u64,
    /// SHA-256 of the snapshot, in hexadecimal.
    pub sha256: String,
    /// The snapshot's HashKV, where it is known.
    pub hash_kv: Option<StoredHash>,
    /// The oldest etcd that will run it, where it is known.
    pub etcd_version: Option<String>,
}

/// A member of the new cluster on its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewMember {
    /// The node.
    pub node: Place,
    /// Its name in the cluster.
    pub name: String,
    /// Its id; empty where the cluster gives it one when it joins.
    pub id: String,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Its log's directory where that does not lie in the data directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_dir: Option<PathBuf>,
    /// Whose the files are: user and group.
    pub owner: (u32, u32),
    /// Whether the data directory is there.
    pub has_data_dir: bool,
    /// Directories above it that are not there, the topmost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<PathBuf>,
    /// Whether there is data now.
    pub had: bool,
    /// Whether there is a log's directory elsewhere now.
    #[serde(default)]
    pub had_wal: bool,
}

/// A member's directory as a backup has a copy of it, made while all members were stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopiedMember {
    /// The member on its node; it has no other id than that in the copy.
    pub member: NewMember,
    /// Its directory `member` in the copy.
    pub from: PathBuf,
    /// Its log's directory in the copy, where that lies elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_from: Option<PathBuf>,
}

/// A node on which nothing of an old cluster may run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fenced {
    /// The node.
    pub node: Place,
    /// Ports that have to be closed.
    pub ports: Vec<u16>,
    /// Programs of which none may run.
    pub programs: Vec<String>,
    /// Directories in which nobody may have a file open.
    pub directories: Vec<PathBuf>,
}

/// A node that was declared dead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Absent {
    /// Its name.
    pub node: String,
    /// `host:port` at which it must not answer.
    pub address: String,
}

/// Where the log of a member ended when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Left {
    /// The node.
    pub node: Place,
    /// The member's data directory.
    pub data_dir: PathBuf,
    /// Its log's directory where that does not lie in the data directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_dir: Option<PathBuf>,
    /// Term and index of the last entry; `None` where none could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<(u64, u64)>,
}

/// A program that nodes run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// etcd.
    Etcd,
    /// kube-apiserver.
    ApiServer,
    /// The kubelet, by its unit.
    Kubelet,
}

impl Service {
    /// The program's name, and its container's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::Kubelet => "kubelet",
        }
    }
}

/// How a service is kept running on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case", deny_unknown_fields)]
pub enum How {
    /// By systemd.
    Unit {
        /// The unit.
        unit: String,
    },
    /// By systemd, which starts it at boot. Stopped, it is disabled first, and started, it
    /// is enabled first: so a node that boots in between starts it exactly where it is to
    /// run.
    BootUnit {
        /// The unit.
        unit: String,
    },
    /// By the kubelet.
    Pod {
        /// The manifest.
        manifest: PathBuf,
        /// Where it is while the pod is out.
        aside: PathBuf,
        /// Ports that are open while it runs.
        ports: Vec<u16>,
    },
}

/// A service on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// The node.
    pub node: Place,
    /// How it runs there.
    pub how: How,
    /// Whether it ran well when the plan was made: then the way back makes sure that
    /// it does again, else it tries.
    pub healthy: bool,
}

/// A step of an operation over nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Step {
    /// Stores the state of the nodes in the vault.
    SaveState {
        /// The nodes.
        nodes: Vec<Place>,
        /// Whether the data is stored, too.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        data: bool,
    },
    /// Builds every member's directory beside the present one.
    BuildData {
        /// The backup with the snapshot.
        backup: String,
        /// The cluster.
        cluster: NewCluster,
        /// All its members.
        members: Vec<NewMember>,
    },
    /// Unpacks the copy of every member's directory beside the present one.
    UnpackData {
        /// The backup with the copies.
        backup: String,
        /// All members.
        members: Vec<CopiedMember>,
    },
    /// Sets every member's data aside and puts what was built in its place.
    SwapData {
        /// All members.
        members: Vec<NewMember>,
    },
    /// Asks every member whether it is of the new cluster and holds what was built, and
    /// whether the cluster takes writes.
    CheckData {
        /// The cluster's id.
        cluster: String,
        /// All its members.
        members: Vec<NewMember>,
        /// The revision that they start with.
        revision: i64,
        /// Whether nobody may have written: all who do are stopped.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        quiet: bool,
    },
    /// Asks every member whether all are of one cluster and hold the same, and whether the
    /// cluster takes writes.
    CheckCopies {
        /// All its members.
        members: Vec<NewMember>,
    },
    /// Stops a service, in this order.
    Stop {
        /// Which.
        service: Service,
        /// Where; the leader last.
        instances: Vec<Instance>,
    },
    /// Proves that nothing of the old cluster runs or answers.
    Fence {
        /// Where to look.
        nodes: Vec<Fenced>,
        /// Who must not answer any of them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        absent: Vec<Absent>,
    },
    /// Proves that no stopped member wrote since its log was looked at.
    CheckLeft {
        /// All members.
        members: Vec<Left>,
    },
    /// Starts programs anew that remember what the cluster held, where they run and are
    /// older than their node's API server.
    Restart {
        /// Where.
        nodes: Vec<Place>,
        /// Which, in this order.
        programs: Vec<String>,
    },
    /// Sets files as a state has them.
    SetFiles {
        /// The node.
        node: Place,
        /// The backup with the contents.
        backup: String,
        /// What changes, in this order.
        changes: Vec<Change>,
        /// Units whose files are among them: systemd reads them again.
        reload: Vec<String>,
        /// Times of directories, which change with what is in them: set at the end, and
        /// not held against anything.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        times: Vec<Moment>,
    },
    /// Changes settings of etcd where its files say them.
    Configure {
        /// The node.
        node: Place,
        /// The files.
        edits: Vec<Edit>,
        /// Units whose files are among them: systemd reads them again.
        reload: Vec<String>,
    },
    /// Sets the data of a member that is stopped aside.
    SetAside {
        /// The node.
        node: Place,
        /// What is renamed: `member`, and the log's directory where that lies elsewhere.
        paths: Vec<PathBuf>,
    },
    /// Changes the membership, or looks at it.
    Membership {
        /// What.
        what: MemberChange,
    },
    /// Lets a unit start at boot, or not.
    Enable {
        /// The node.
        node: Place,
        /// The unit.
        unit: String,
        /// Whether it is to start.
        enabled: bool,
    },
    /// Starts a member that begins without data. What it wrote is kept under another name
    /// when it is taken back.
    StartNew {
        /// Where.
        instance: Instance,
        /// Where it writes: `member`, and the log's directory where that lies elsewhere.
        paths: Vec<PathBuf>,
    },
    /// Lets a member join the cluster that this plan began: without data, and with a vote
    /// when it is in step.
    Join {
        /// The member.
        member: NewMember,
        /// How it runs.
        instance: Instance,
        /// Where its peers reach it.
        peer_urls: Vec<String>,
    },
    /// Starts a service on all nodes at the same time.
    Start {
        /// Which.
        service: Service,
        /// Where.
        instances: Vec<Instance>,
    },
    /// Compares files with the state and looks at ports.
    Check {
        /// The node.
        node: Place,
        /// What has to stand where.
        files: Vec<Expected>,
        /// Ports that have to be open.
        ports: Vec<u16>,
        /// Units that have to run and go on running: systemd calls one active as soon as
        /// it was started, if it does not say itself when it is ready.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        units: Vec<String>,
    },
}

fn nodes(instances: &[Instance]) -> Vec<Place> {
    instances.iter().map(|instance| instance.node.clone()).collect()
}

impl plan::Step for Step {
    const VERSION: u32 = 4;

    fn describe(&self) -> Description {
        let undoable = |by: &str| Reversal::Undoable { by: by.to_owned() };
        let (what, reason, nodes, reversal) = match self {
            Self::SaveState { nodes, data } => (
                format!(
                    "save the present state{} to the vault",
                    if *data { " and data" } else { "" }
                ),
                "so that it can be returned to".to_owned(),
                nodes.clone(),
                Reversal::Nothing,
            ),
            Self::BuildData { backup, members, .. } => (
                format!("build the data directory of {backup} beside the present one"),
                "etcd goes on meanwhile".to_owned(),
                places(members),
                undoable("take it away"),
            ),
            Self::UnpackData { backup, members } => (
                format!("unpack the copies of the data directories in {backup} beside the present"),
                "nothing that runs is touched meanwhile".to_owned(),
                members.iter().map(|copied| copied.member.node.clone()).collect(),
                undoable("take them away"),
            ),
            Self::SwapData { members } => (
                "set the present data aside, put what was built in its place".to_owned(),
                "all members begin with the same data".to_owned(),
                places(members),
                undoable("rename back"),
            ),
            Self::CheckData { members, revision, quiet, .. } => (
                format!(
                    "compare members, HashKV and revision {revision} on all; write something{}",
                    if *quiet { "; make sure that nobody else did" } else { "" }
                ),
                "the result is looked at, not assumed".to_owned(),
                places(members),
                Reversal::Nothing,
            ),
            Self::CheckCopies { members } => (
                "compare members, revision and HashKV on all; write something".to_owned(),
                "the result is looked at, not assumed".to_owned(),
                places(members),
                Reversal::Nothing,
            ),
            Self::Stop { service, instances } => (
                format!("stop {}; wait until it is gone", service.name()),
                match instances.iter().any(|it| matches!(it.how, How::BootUnit { .. })) {
                    true => "its files change; until it is started no boot starts it either",
                    false => "its files change",
                }
                .to_owned(),
                nodes(instances),
                undoable("start it"),
            ),
            Self::Fence { nodes, absent } => (
                fence_text(nodes, absent),
                "whoever still wrote would write to data that is set aside".to_owned(),
                nodes.iter().map(|fenced| fenced.node.clone()).collect(),
                Reversal::Nothing,
            ),
            Self::CheckLeft { members } => (
                "make sure that no member wrote since it was looked at".to_owned(),
                "the backup has what they had then".to_owned(),
                members.iter().map(|left| left.node.clone()).collect(),
                Reversal::Nothing,
            ),
            Self::Restart { nodes, programs } => (
                format!("start {} anew, where they run", programs.join(", ")),
                "they remember what the cluster held before".to_owned(),
                nodes.clone(),
                Reversal::Nothing,
            ),
            Self::SetFiles { node, changes, .. } => (
                format!("set files as in the state: {}", summary(changes)),
                "they differ from the state".to_owned(),
                vec![node.clone()],
                undoable("set them back"),
            ),
            Self::Configure { node, edits, .. } => (
                format!("set {}", configure::summary(edits)),
                "the member is to start so".to_owned(),
                vec![node.clone()],
                undoable("set them back"),
            ),
            Self::SetAside { node, .. } => (
                "set the member's data aside".to_owned(),
                "a new member begins without data".to_owned(),
                vec![node.clone()],
                undoable("rename it back"),
            ),
            Self::Membership { what } => {
                let (what, reason, reversal) = what.describe();
                (what, reason, Vec::new(), reversal)
            }
            Self::Enable { node, unit, enabled } => (
                format!("{} {unit}", if *enabled { "enable" } else { "disable" }),
                match enabled {
                    true => "it started at boot in the state",
                    false => "a boot in the midst must not start it on files that are half set",
                }
                .to_owned(),
                vec![node.clone()],
                undoable(if *enabled { "disable it" } else { "enable it" }),
            ),
            Self::StartNew { instance, .. } => (
                "start etcd; wait until it is ready".to_owned(),
                "it gets all data from the others".to_owned(),
                vec![instance.node.clone()],
                undoable("stop it, set aside what it wrote"),
            ),
            Self::Join { member, peer_urls, .. } => (
                format!(
                    "let {} join at {}; start it without data; give it its vote when it is in step",
                    member.name,
                    peer_urls.join(",")
                ),
                "it gets all data from those that run".to_owned(),
                vec![member.node.clone()],
                undoable("take it out, stop it, set aside what it wrote"),
            ),
            Self::Start { service, instances } => (
                format!("start {}; wait until it is ready", service.name()),
                "it ran in the state".to_owned(),
                nodes(instances),
                undoable("stop it"),
            ),
            Self::Check { node, files, ports, units } => (
                check_text(files.len(), ports, units),
                "the result is looked at, not assumed".to_owned(),
                vec![node.clone()],
                Reversal::Nothing,
            ),
        };
        Description { what, reason, nodes, reversal }
    }

    fn shell(&self) -> Vec<Command> {
        let mut commands = Vec::new();
        match self {
            Self::BuildData { backup, cluster, members } => {
                commands.extend(data::shell_build(members, cluster, backup));
            }
            Self::SwapData { members } => {
                commands.extend(members.iter().flat_map(data::shell_swap));
            }
            Self::CheckLeft { members } => {
                commands.extend(members.iter().map(remains::shell));
            }
            Self::UnpackData { backup, members } => {
                commands.extend(members.iter().flat_map(|it| data::shell_unpack(it, backup)));
            }
            Self::CheckData { .. } | Self::CheckCopies { .. } => {
                commands.push(data::shell_check());
            }
            Self::SaveState { nodes, data } => {
                let words = ["etcdvault", "state", "save"].map(str::to_owned).into_iter();
                let words = words.chain(data.then(|| "--with-data".to_owned()));
                let named = nodes.iter().flat_map(|node| ["--node".to_owned(), node.to_string()]);
                commands.push(Command::new(None, words.chain(named)));
            }
            Self::Stop { service, instances } => {
                commands.extend(service::shell_stop(*service, instances));
            }
            Self::StartNew { instance, .. } => {
                let instances = std::slice::from_ref(instance);
                commands.extend(service::shell_start(Service::Etcd, instances));
            }
            Self::Join { member, instance, peer_urls } => {
                commands.extend(join::shell(member, instance, peer_urls));
            }
            Self::Start { service, instances } => {
                commands.extend(service::shell_start(*service, instances));
            }
            Self::Fence { nodes, .. } => {
                for fenced in nodes.iter().filter(|fenced| !fenced.programs.is_empty()) {
                    // It prints what runs, and fails where anything does.
                    let script = "! pgrep -ax 'etcd|kube-apiserver'";
                    commands.push(Command::new(Some(&fenced.node), ["sh", "-c", script]));
                }
            }
            Self::Restart { nodes, programs } => {
                let script = "systemctl try-restart \"$1\" 2>/dev/null || \
                              crictl ps -q --name \"^$1\\$\" | xargs -r crictl stop";
                for node in nodes {
                    let each = programs.iter().map(|program| {
                        let words = ["sh", "-c", script, "restart", program];
                        Command::new(Some(node), words)
                    });
                    commands.extend(each);
                }
            }
            Self::SetFiles { node, backup, changes, reload, .. } => {
                commands.extend(file::shell_before(node, backup, changes));
                for (number, change) in changes.iter().enumerate() {
                    commands.extend(file::shell(node, number, change));
                }
                commands.extend(file::shell_after(node, changes));
                if !reload.is_empty() {
                    commands.push(Command::new(Some(node), ["systemctl", "daemon-reload"]));
                }
            }
            Self::Configure { node, edits, reload } => {
                commands.extend(configure::shell(node, edits));
                if !reload.is_empty() {
                    commands.push(Command::new(Some(node), ["systemctl", "daemon-reload"]));
                }
            }
            Self::SetAside { node, paths } => commands.extend(aside::shell(node, paths)),
            Self::Membership { what } => commands.extend(what.shell()),
            Self::Enable { node, unit, enabled } => {
                let verb = if *enabled { "enable" } else { "disable" };
                commands.push(Command::new(Some(node), ["systemctl", verb, unit]));
            }
            Self::Check { node, files, .. } => {
                let digests: String = files
                    .iter()
                    .filter_map(|Expected { path, what }| match what {
                        What::File { sha256, .. } => {
                            Some(format!("{sha256}  {}\n", path.display()))
                        }
                        _ => None,
                    })
                    .collect();
                if !digests.is_empty() {
                    let compare = Command::new(Some(node), ["sha256sum", "-c", "-"]);
                    commands.push(compare.input(digests));
                }
            }
        }
        commands
    }

    fn provides(&self) -> Vec<String> {
        match self {
            Self::SaveState { .. } => vec![SAVED.to_owned()],
            Self::BuildData { .. } => vec![data::HASH_KV.to_owned()],
            Self::Membership { what } => what.provides(),
            _ => Vec::new(),
        }
    }

    fn needs(&self) -> Vec<String> {
        match self {
            Self::CheckData { .. } => vec![data::HASH_KV.to_owned()],
            Self::Membership { what } => what.needs(),
            _ => Vec::new(),
        }
    }
}

impl Step {
    /// Whether it only looks.
    pub fn is_look(&self) -> bool {
        matches!(
            self,
            Self::Check { .. }
                | Self::Fence { .. }
                | Self::CheckLeft { .. }
                | Self::CheckData { .. }
                | Self::CheckCopies { .. }
                | Self::Membership { what: MemberChange::Check { .. } }
        )
    }

    /// Whether it needs a way to the cluster's members, done or taken back.
    pub fn needs_cluster(&self) -> bool {
        matches!(self, Self::Membership { .. } | Self::Join { .. })
    }

    /// Whether it reads the vault or stores in it.
    pub fn needs_vault(&self) -> bool {
        matches!(
            self,
            Self::SaveState { .. }
                | Self::BuildData { .. }
                | Self::UnpackData { .. }
                | Self::CheckData { .. }
                | Self::CheckCopies { .. }
                | Self::SetFiles { .. }
        )
    }
}

fn places(members: &[NewMember]) -> Vec<Place> {
    members.iter().map(|member| member.node.clone()).collect()
}

fn fence_text(nodes: &[Fenced], absent: &[Absent]) -> String {
    let mut parts = Vec::new();
    if nodes.iter().any(|fenced| !fenced.programs.is_empty() || !fenced.ports.is_empty()) {
        parts.push("no member and no kube-apiserver runs".to_owned());
    }
    let mut dead: Vec<&str> = absent.iter().map(|absent| absent.node.as_str()).collect();
    dead.dedup();
    if !dead.is_empty() {
        parts.push(format!("{} does not answer", dead.join(", ")));
    }
    format!("make sure that {}", parts.join(", and "))
}

fn check_text(files: usize, ports: &[u16], units: &[String]) -> String {
    let plural = if files == 1 { "" } else { "s" };
    let mut text = match files {
        0 => "look at what was started".to_owned(),
        _ => format!("compare {files} file{plural} with the state"),
    };
    if !ports.is_empty() {
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        text.push_str(&format!("; ports {} are open", ports.join(", ")));
    }
    if !units.is_empty() {
        text.push_str(&format!("; {} runs", units.join(", ")));
    }
    text
}

/// `2 written, 1 set aside`.
fn summary(changes: &[Change]) -> String {
    let count = |wanted: fn(&Change) -> bool| changes.iter().filter(|c| wanted(c)).count();
    let gone = count(|change| change.after == What::Nothing);
    let times = count(|change| change.before.same(&change.after));
    let links = count(|change| {
        matches!(change.after, What::Link { .. }) && !change.before.same(&change.after)
    });
    let modes = count(|change| match (&change.before, &change.after) {
        (What::File { sha256: a, .. }, What::File { sha256: b, .. }) => {
            a == b && !change.before.same(&change.after)
        }
        (What::Directory { .. }, What::Directory { .. }) => true,
        _ => false,
    });
    let written = changes.len() - gone - modes - links - times;
    let parts =
        [(written, "written"), (links, "linked"), (modes, "owner or mode"), (gone, "set aside")];
    let parts = parts.iter().filter(|(count, _)| *count > 0);
    parts.map(|(count, what)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}
