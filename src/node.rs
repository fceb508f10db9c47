//! One machine: this one, one over SSH, or a simulated one.
//!
//! [`Node`] is what every operation knows of a machine. What holds for each of
//! them:
//!
//! - a change is durable when its call returns, or it has not happened;
//! - nothing is followed through a symbolic link in the last part of a path;
//! - a name that exists is never replaced, except the content of a file by
//!   [`Node::write`] and a link by [`Node::make_link`] when they were asked to;
//! - every call ends within its deadline, and a node that was lost is told from
//!   one that is slow ([`NodeErrorKind`]).
//!
//! Paths are absolute. All ids, owners and times are those of the node.

pub mod agent;
pub mod archive;
pub mod error;
pub mod kubelet;
pub mod local;
mod member;
pub mod remote;
pub mod sim;
pub mod ssh;
pub mod static_pod;
pub mod types;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt as _};

pub use error::{NodeError, NodeErrorKind};
pub use types::{
    Attributes, BuiltMember, Container, ContainerQuery, Entry, Facts, FileContent, FileKind,
    HealthAnswer, HealthQuery, LinkHow, Listener, MemberRemains, MemberSpec, Mount, NodeName,
    Process, ProcessQuery, Reach, RecoverSpec, RecoveredMember, RemainsSpec, SetHow, Space,
    SpecHash, TreeDigest, TreeSpec, Unit, UnitAction, WriteHow, WriteLike,
};

/// A stream of bytes from or to a node.
pub type ByteStream = BoxStream<'static, Result<Bytes, NodeError>>;

/// A piece of such a stream, and the zstd frame in which it came, where it did: whoever
/// stores it as frames need not compress it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The bytes.
    pub plain: Bytes,
    /// A frame that decoded to just these bytes.
    pub frame: Option<Bytes>,
}

/// A stream of pieces from a node.
pub type PieceStream = BoxStream<'static, Result<Piece, NodeError>>;

/// One machine. See the module for what holds for every call.
#[async_trait]
pub trait Node: fmt::Debug + Send + Sync {
    /// The name that people know it by.
    fn name(&self) -> &NodeName;

    /// What the machine is, and what time it has.
    async fn facts(&self) -> Result<Facts, NodeError>;

    /// What stands at `path`, or `None`.
    async fn stat(&self, path: &Path) -> Result<Option<Entry>, NodeError>;
    /// What stands in the directory `path`, in the order of the names' bytes.
    async fn list(&self, path: &Path) -> Result<Vec<Entry>, NodeError>;
    /// A regular file of at most `limit` bytes with its attributes.
    async fn read(&self, path: &Path, limit: u64) -> Result<FileContent, NodeError>;
    /// Writes a whole file: temporary dot-name in the same directory, `fsync`,
    /// rename, `fsync` of the directory. Owner, group, mode, extended attributes
    /// and SELinux label are as `how` says.
    async fn write(&self, path: &Path, content: &[u8], how: WriteHow) -> Result<(), NodeError>;
    /// Renames a file or directory on one file system, replacing nothing, and
    /// makes both names durable.
    async fn rename(&self, from: &Path, to: &Path) -> Result<(), NodeError>;
    /// Creates one directory whose parent exists.
    async fn make_dir(&self, path: &Path, like: WriteLike) -> Result<(), NodeError>;
    /// Makes a symbolic link, or one that leads elsewhere in the place of one, by a
    /// rename: at no time is there none. Where it leads is not looked at.
    async fn make_link(&self, path: &Path, how: LinkHow) -> Result<(), NodeError>;
    /// Sets owner, group, mode and extended attributes of a regular file or directory
    /// that is there, and its time. A link is refused, not followed. It can be seen
    /// half done.
    async fn set(&self, path: &Path, how: SetHow) -> Result<(), NodeError>;
    /// Removes a regular file whose SHA-256 is `expected`: what this program wrote
    /// itself and nobody changed since. Data is renamed aside, never removed.
    async fn remove_own(&self, path: &Path, expected: [u8; 32]) -> Result<(), NodeError>;
    /// Removes a symbolic link that leads to `target`.
    async fn remove_link(&self, path: &Path, target: &Path) -> Result<(), NodeError>;
    /// Removes a directory in which nothing is; [`NodeErrorKind::AlreadyExists`] where
    /// there is something in it.
    async fn remove_dir(&self, path: &Path) -> Result<(), NodeError>;
    /// Removes a tree whose [`Node::digest`] is `expected`: what this program built
    /// itself and nobody changed since.
    async fn remove_own_tree(&self, path: &Path, expected: [u8; 32]) -> Result<(), NodeError>;
    /// A digest over names, kinds, owners, modes, extended attributes, link
    /// targets and contents below `path`, in the order of the names' bytes.
    async fn digest(&self, path: &Path) -> Result<TreeDigest, NodeError>;
    /// The file system that holds `path`.
    async fn space(&self, path: &Path) -> Result<Space, NodeError>;
    /// What is mounted where.
    async fn mounts(&self) -> Result<Vec<Mount>, NodeError>;

    /// The trees and files of `spec` as an uncompressed tar stream (pax headers;
    /// owners by number and name, modes, times in nanoseconds, extended
    /// attributes, links, sparse maps), as [`archive`] describes it. A root that
    /// does not exist is left out; so are sockets and devices, of which, as of files
    /// that changed meanwhile, notes at the end of the stream tell.
    async fn save_tree(&self, spec: TreeSpec) -> Result<ByteStream, NodeError>;
    /// The same stream with the frames in which it comes.
    async fn save_pieces(&self, spec: TreeSpec) -> Result<PieceStream, NodeError> {
        let plain = |plain| Piece { plain, frame: None };
        Ok(self.save_tree(spec).await?.map(move |bytes| bytes.map(plain)).boxed())
    }
    /// Unpacks such a stream below `root`, which must not exist: beside its place,
    /// durable, then renamed. With a failure nothing stands at `root`.
    async fn unpack_tree(&self, root: &Path, tar: ByteStream) -> Result<TreeDigest, NodeError>;
    /// Builds the `member` directory of a member of etcd at `path`, which must not
    /// exist, from the stream of a snapshot, which is checked while it is written:
    /// beside its place, durable, then renamed. With a failure nothing stands at
    /// `path`.
    async fn build_member(
        &self,
        path: &Path,
        spec: MemberSpec,
        snapshot: ByteStream,
    ) -> Result<BuiltMember, NodeError>;

    /// What is left of a member of etcd, whatever its state; nothing is changed. What
    /// cannot be read stands in the answer.
    async fn remains(&self, spec: RemainsSpec) -> Result<MemberRemains, NodeError>;
    /// A snapshot of what a member left: its directory is copied beside itself, etcd
    /// alone brings the log into the copy, the copy is checked and sent as it is stored,
    /// its SHA-256 at the end, and removed. What the member left is not changed. A
    /// database that is written meanwhile is refused.
    async fn recover_member(
        &self,
        spec: RecoverSpec,
    ) -> Result<(RecoveredMember, ByteStream), NodeError>;

    /// A systemd unit with its drop-ins and state; `None` where systemd does not
    /// know it.
    async fn unit(&self, name: &str) -> Result<Option<Unit>, NodeError>;
    /// The names of loaded or installed units that match a glob such as
    /// `*etcd*.service`.
    async fn units(&self, glob: &str) -> Result<Vec<String>, NodeError>;
    /// Acts on a unit and waits until it is so, at most `deadline`. The error
    /// carries the unit's result and its last journal lines.
    async fn unit_do(
        &self,
        name: &str,
        action: UnitAction,
        deadline: Duration,
    ) -> Result<(), NodeError>;

    /// Containers that the kubelet's container runtime knows, by its CRI socket.
    async fn containers(&self, query: ContainerQuery) -> Result<Vec<Container>, NodeError>;
    /// Stops a container, giving it `grace` before it is killed.
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), NodeError>;

    /// Running processes that match.
    async fn processes(&self, query: ProcessQuery) -> Result<Vec<Process>, NodeError>;
    /// Listening TCP sockets and who holds them.
    async fn listeners(&self) -> Result<Vec<Listener>, NodeError>;
    /// Tries a TCP connection from the node to each `host:port`, all at once.
    async fn reach(
        &self,
        addresses: Vec<String>,
        timeout: Duration,
    ) -> Result<Vec<Reach>, NodeError>;
    /// Asks a program of the node how it is, and waits at most `timeout`.
    async fn health(
        &self,
        query: HealthQuery,
        timeout: Duration,
    ) -> Result<HealthAnswer, NodeError>;
}
