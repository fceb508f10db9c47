//! What is known of a machine, its files, units, containers and processes.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::datadir::remains::Remains;

/// A node's name: 1 to 63 characters of `a-z A-Z 0-9 . _ -`, beginning with a
/// letter or digit, so that it can stand in a file's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(String);

/// A text that is no node's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a node's name: 1 to 63 letters, digits, dots, underscores and hyphens")]
pub struct InvalidNodeName(String);

impl NodeName {
    /// The name `text`.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidNodeName> {
        let text = text.into();
        let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        let rest = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if first && rest && text.len() <= 63 { Ok(Self(text)) } else { Err(InvalidNodeName(text)) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NodeName {
    type Error = InvalidNodeName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(text)
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a machine is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Its host name.
    pub hostname: String,
    /// `/etc/machine-id`, where there is one.
    pub machine_id: Option<String>,
    /// The kernel's id of this boot.
    pub boot_id: String,
    /// `PRETTY_NAME` of `/etc/os-release`.
    pub os: String,
    /// The processor as `uname -m` names it.
    pub arch: String,
    /// The effective user; 0 is root.
    pub uid: u32,
    /// The etcdvault that answers.
    pub version: String,
    /// Its clock, in nanoseconds since 1970 UTC.
    pub now: i128,
    /// Its own IP addresses, the loopback's left out.
    pub addresses: Vec<std::net::IpAddr>,
    /// Whether systemd is its init.
    pub systemd: bool,
    /// Whether SELinux labels are in force.
    pub selinux: bool,
}

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A socket, a device and the like.
    Other,
}

/// Owner, group, mode and extended attributes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The owner's name on the node, where it has one.
    pub owner: Option<String>,
    /// The group's name on the node, where it has one.
    pub group: Option<String>,
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// Extended attributes, `security.selinux` among them.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// What is known of a path without opening it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The path that was asked for, or found.
    pub path: PathBuf,
    /// What it is.
    pub kind: FileKind,
    /// Its size in bytes; 0 for what is no regular file.
    pub size: u64,
    /// When its content was last changed, in nanoseconds since 1970 UTC.
    pub modified: i128,
    /// Owner, mode and the like.
    pub attributes: Attributes,
    /// Where a symbolic link leads, as written in it.
    pub target: Option<PathBuf>,
    /// Whether it is a mount point.
    pub mount_point: bool,
}

/// A file that was read whole. `Debug` leaves out the content, which may be a key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileContent {
    /// What is known of it.
    pub entry: Entry,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for FileContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileContent").field("entry", &self.entry).finish_non_exhaustive()
    }
}

/// Whose owner, mode and label something new gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WriteLike {
    /// What stands at the path itself now; an error when nothing does.
    Itself,
    /// What stands at another path.
    Path(PathBuf),
    /// These.
    Attributes(Attributes),
}

/// How a file is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteHow {
    /// Whose owner, mode and label it gets.
    pub like: WriteLike,
    /// `None`: nothing may stand there yet. `Some`: the SHA-256 of what stands
    /// there and is replaced; with anything else there the write is refused.
    pub replaces: Option<[u8; 32]>,
}

/// How a symbolic link is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkHow {
    /// Where it leads, as written in it.
    pub target: PathBuf,
    /// Its owner, group and extended attributes; a link has no mode of its own.
    pub attributes: Attributes,
    /// The time that it gets, in nanoseconds since 1970 UTC; `None` for now.
    pub modified: Option<i128>,
    /// `None`: nothing may stand there yet. `Some`: where the link leads that stands
    /// there and is replaced; with anything else there it is refused.
    pub replaces: Option<PathBuf>,
}

/// What is set of a file or directory that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetHow {
    /// What has to stand there: a regular file or a directory.
    pub kind: FileKind,
    /// The owner, group, mode and extended attributes that it gets; `None` leaves them.
    pub attributes: Option<Attributes>,
    /// When its content was last changed, in nanoseconds since 1970 UTC; `None` leaves
    /// that.
    pub modified: Option<i128>,
}

/// The `member` directory of a data directory that is built from a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberSpec {
    /// The member's name in the initial cluster.
    pub name: String,
    /// `name=url,…`: every member of the new cluster.
    pub initial_cluster: String,
    /// Goes into all ids; of a cluster that never was.
    pub token: String,
    /// How far to raise the revision, which is then compacted; 0 keeps it.
    pub bump_revision: u64,
    /// Where the log's directory is built when it does not lie in the data directory.
    pub wal: Option<PathBuf>,
    /// The owner's and the group's number.
    pub owner: (u32, u32),
    /// The etcd that shall run it, such as `3.5.16`; a newer store is refused.
    pub etcd_version: Option<String>,
    /// Bytes of the snapshot, trailer included.
    pub size: u64,
    /// SHA-256 of the snapshot, trailer included.
    pub sha256: [u8; 32],
    /// The HashKV that the snapshot has to have.
    pub hash_kv: Option<SpecHash>,
}

/// A HashKV as members returned it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecHash {
    /// At which revision.
    pub revision: i64,
    /// With everything up to this one compacted; `None` when nothing was.
    pub compact_revision: Option<i64>,
    /// The hash.
    pub hash: u32,
}

/// A `member` directory that was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltMember {
    /// The new cluster's id.
    pub cluster_id: u64,
    /// The member's id.
    pub member_id: u64,
    /// The revision that the member starts with.
    pub revision: i64,
    /// What it answers to HashKV at that revision.
    pub hash_kv: u32,
    /// Bytes of its database.
    pub database_size: u64,
    /// The digest of the directory.
    pub digest: TreeDigest,
}

/// Which member's remains are looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemainsSpec {
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Its log's directory, where that does not lie in the data directory.
    pub wal_dir: Option<PathBuf>,
    /// Whether its database is read, too: that takes as long as reading all of it.
    pub database: bool,
}

/// What is left of a member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberRemains {
    /// Whether a process had the database open: then more may have come since.
    pub in_use: bool,
    /// What was found.
    pub remains: Remains,
}

/// A snapshot of what a member left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoverSpec {
    /// The member's data directory.
    pub data_dir: PathBuf,
    /// Its log's directory, where that does not lie in the data directory.
    pub wal_dir: Option<PathBuf>,
    /// etcd's program on the node: a path, a name in `PATH`, or `/proc/PID/exe`.
    pub etcd: PathBuf,
    /// Term and index of the last entry of its log: another one is refused.
    pub last: Option<(u64, u64)>,
    /// Whether entries behind the commit are left out.
    pub drop_uncommitted: bool,
}

/// What became of them; its snapshot follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveredMember {
    /// Bytes of the snapshot, trailer included.
    pub size: u64,
    /// Its revision.
    pub revision: i64,
    /// The HashKV that etcd told of it, alone over the copy; `None` where it was not
    /// asked or told another revision's.
    pub served: Option<SpecHash>,
    /// The version of that etcd; `None` where none could start.
    pub etcd: Option<String>,
    /// Entries of the log that were not in the database and are now.
    pub replayed: u64,
    /// Entries behind the commit that are in it.
    pub kept: u64,
    /// Entries behind the commit that are not.
    pub dropped: u64,
}

/// The digest of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeDigest {
    /// SHA-256 over the whole.
    pub sha256: [u8; 32],
    /// Entries in it, the root counted.
    pub entries: u64,
    /// Bytes of all regular files.
    pub bytes: u64,
}

/// A file system's room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Bytes that may still be written.
    pub available: u64,
    /// Bytes in all.
    pub total: u64,
    /// Whether it is mounted read-only.
    pub read_only: bool,
    /// The device's number: equal for paths between which a rename works.
    pub device: u64,
}

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where.
    pub point: PathBuf,
    /// Its type, such as `ext4`.
    pub fs_type: String,
    /// What is mounted.
    pub source: String,
    /// Whether read-only.
    pub read_only: bool,
}

/// What a tar stream takes in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeSpec {
    /// Absolute paths of files and directories. Links among them are stored as
    /// links; nothing outside is followed.
    pub roots: Vec<PathBuf>,
    /// Absolute paths that are left out with everything below them.
    pub exclude: Vec<PathBuf>,
    /// Names in the stream begin below this directory, which is or holds every
    /// root; `None` is `/`. With it a data directory can be unpacked in a new place.
    #[serde(default)]
    pub base: Option<PathBuf>,
}

/// A systemd unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// Its name with the suffix.
    pub name: String,
    /// `LoadState`: loaded, not-found, masked …
    pub load_state: String,
    /// `ActiveState`: active, inactive, failed, activating …
    pub active_state: String,
    /// `SubState`: running, dead, auto-restart …
    pub sub_state: String,
    /// `UnitFileState`: enabled, disabled, static … Empty where there is no file.
    pub file_state: String,
    /// `Result` of the last run: success, exit-code, timeout …
    pub result: String,
    /// The main process, 0 for none.
    pub main_pid: u32,
    /// `FragmentPath`.
    pub fragment: Option<PathBuf>,
    /// `DropInPaths`, in the order in which they are read.
    pub drop_ins: Vec<PathBuf>,
    /// `NeedDaemonReload`: files changed since systemd read them.
    pub needs_reload: bool,
    /// `InvocationID`: another one means another start.
    pub invocation: String,
}

/// What to do with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnitAction {
    /// Starts it; done when active.
    Start,
    /// Stops it; done when inactive or failed and its processes are gone.
    Stop,
    /// Starts it at boot.
    Enable,
    /// Does not start it at boot.
    Disable,
    /// Reads all unit files again; the name is not used.
    DaemonReload,
    /// Forgets that it failed.
    ResetFailed,
}

/// Which containers are wanted; what is `None` matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerQuery {
    /// The pod's namespace.
    pub namespace: Option<String>,
    /// The container's name, such as `etcd`.
    pub name: Option<String>,
    /// Whether ended ones are wanted too.
    pub ended: bool,
}

/// A container of the kubelet's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// The runtime's id.
    pub id: String,
    /// Its name, such as `etcd`.
    pub name: String,
    /// Its pod's name.
    pub pod: String,
    /// Its pod's namespace.
    pub namespace: String,
    /// Its pod's uid: for a static pod the hash of the manifest.
    pub pod_uid: String,
    /// Whether it runs.
    pub running: bool,
    /// How often it was restarted.
    pub attempt: u32,
    /// When it was created, in nanoseconds since 1970 UTC.
    pub created: i64,
    /// The image, as the pod names it.
    pub image: String,
}

/// Which processes are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProcessQuery {
    /// Those whose program's file has this name, such as `etcd`.
    Program(String),
    /// This one.
    Pid(u32),
    /// Those with an open or mapped file below this directory.
    Holding(PathBuf),
}

/// A running process. Its environment holds the variables of etcd, kube-apiserver
/// and flannel alone, and of these no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// When it started, in clock ticks since boot: with the id it is unique.
    pub started: u64,
    /// Its program.
    pub program: PathBuf,
    /// Its arguments, the program first.
    pub arguments: Vec<String>,
    /// `ETCD_*`, `KUBE_*` and `FLANNEL*` variables.
    pub environment: BTreeMap<String, String>,
    /// Its working directory as it sees it itself.
    pub cwd: PathBuf,
    /// Its root directory where that is not the node's: it runs in a container.
    pub root: Option<PathBuf>,
    /// The control group that tells its unit or pod.
    pub cgroup: String,
    /// Its effective user.
    pub uid: u32,
}

/// A listening TCP socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Where it listens.
    pub address: std::net::SocketAddr,
    /// Who holds it, where that can be known.
    pub pid: Option<u32>,
}

/// A question after the health of a program on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthQuery {
    /// Where it listens, `host:port` as the node reaches it.
    pub address: String,
    /// What is asked for, such as `/readyz`: visible ASCII.
    pub path: String,
    /// Whether it speaks TLS. Whoever answers is taken.
    pub tls: bool,
    /// Files of the node with a certificate and its key in PEM, for one who wants to know
    /// who asks.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthAnswer {
    /// It answered.
    Answered {
        /// The status of HTTP.
        status: u16,
        /// What else it said, cut where it is long.
        text: String,
    },
    /// It did not.
    Silent {
        /// Why, as a fragment.
        why: String,
    },
}

/// Whether an address could be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// The address, `host:port`.
    pub address: String,
    /// Why it could not, as a fragment; `None` when it could.
    pub error: Option<String>,
}
