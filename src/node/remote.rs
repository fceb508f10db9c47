//! A node at the other end of a stream: what [`agent`](super::agent) serves.
//!
//! - A call ends within its deadline with [`NodeErrorKind::Slow`] while the
//!   connection lives, and with [`NodeErrorKind::Lost`] when it does not. There is
//!   no reconnecting: after a loss every call fails, and nothing is known of those
//!   that were under way.
//! - Dropping a call or a stream ends it on the node.
//! - The node may be in foreign hands. What it sends is bounded before it is kept,
//!   names are checked before they are given on ([`check`]), its texts are rid of
//!   control characters, and nothing that it says leads to a write here.

// An error of a node is made once per call and carries its whole story.
#![allow(clippy::result_large_err)]

mod check;
pub(crate) mod link;
pub mod preamble;
pub mod wire;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

use super::{
    BuiltMember, ByteStream, Container, ContainerQuery, Entry, Facts, FileContent, HealthAnswer,
    HealthQuery, LinkHow, Listener, MemberRemains, MemberSpec, Mount, Node, NodeError,
    NodeErrorKind, NodeName, Piece, PieceStream, Process, ProcessQuery, Reach, RecoverSpec,
    RecoveredMember, RemainsSpec, SetHow, Space, TreeDigest, TreeSpec, Unit, UnitAction, WriteHow,
    WriteLike,
};
use link::Link;
use preamble::Identity;
use wire::{Call, Frame};

pub use link::{Cause, Expect};

/// Pings, by which a lost peer is noticed: after `every` + `within` at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// How long nothing comes before a ping is sent.
    pub every: Duration,
    /// How long its answer may take. Over a slow line it waits behind what ssh has
    /// buffered, some megabytes.
    pub within: Duration,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self { every: Duration::from_secs(10), within: Duration::from_secs(30) }
    }
}

/// How long calls may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Until the agent has greeted; the sending of a program not counted.
    pub connect: Duration,
    /// What looks something up or changes one name.
    pub quick: Duration,
    /// What carries or syncs a file, and the end of an unpacking.
    pub bulk: Duration,
    /// What reads a whole tree.
    pub tree: Duration,
    /// How long a stream may stand still on the node's side.
    pub idle: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(60),
            quick: Duration::from_secs(30),
            bulk: Duration::from_secs(600),
            tree: Duration::from_secs(3600),
            idle: Duration::from_secs(120),
        }
    }
}

/// More time for what carries a deadline of its own.
const MARGIN: Duration = Duration::from_secs(15);

/// A node over a stream.
pub struct RemoteNode {
    link: Arc<Link>,
    deadlines: Deadlines,
}

impl fmt::Debug for RemoteNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteNode").field("name", &self.link.name).finish_non_exhaustive()
    }
}

impl RemoteNode {
    /// The node whose agent is at the other end of `reader` and `writer`.
    pub async fn over<R, W>(
        name: NodeName,
        reader: R,
        writer: W,
        expect: &Expect,
        deadlines: Deadlines,
        keepalive: Keepalive,
    ) -> Result<Self, NodeError>
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let slow = NodeError::new(
            &name,
            NodeErrorKind::Lost,
            "connect",
            format!("no agent answered within {:?}", deadlines.connect),
        );
        let steps = async {
            let (reader, greeting) = link::greeting(&name, reader).await?;
            let identity = link::agent(&name, greeting, expect)?;
            Link::start(name.clone(), reader, writer, identity, keepalive, None).await
        };
        let link = timeout(deadlines.connect, steps).await.unwrap_or(Err(slow))?;
        Ok(Self::new(link, deadlines))
    }

    pub(crate) fn new(link: Link, deadlines: Deadlines) -> Self {
        Self { link: Arc::new(link), deadlines }
    }

    /// Which program answers.
    pub fn identity(&self) -> &Identity {
        &self.link.identity
    }

    /// Waits until the connection has ended, and says why.
    pub async fn ended(&self) -> Cause {
        self.link.ended().await
    }

    fn error(&self, kind: NodeErrorKind, act: &str, why: impl Into<String>) -> NodeError {
        NodeError::new(&self.link.name, kind, act, why)
    }

    fn unexpected(&self, act: &str, why: impl fmt::Display) -> NodeError {
        let why = check::clean(&format!("the node's answer is refused: {why}"), 1000);
        self.error(NodeErrorKind::Unexpected, act, why)
    }

    /// What a call that ended without an answer means.
    async fn broken(&self, act: &str, status: &Status) -> NodeError {
        match status.code() {
            Code::DataLoss | Code::OutOfRange | Code::ResourceExhausted => {
                return self.unexpected(act, status.message());
            }
            Code::InvalidArgument | Code::Unimplemented => {
                let why = check::clean(status.message(), 1000);
                return self
                    .error(
                        NodeErrorKind::Unsupported,
                        act,
                        format!("the agent does not know the call: {why}"),
                    )
                    .hint("run the same etcdvault on both sides");
            }
            _ => {}
        }
        match self.link.ended_soon().await {
            Some(cause) => cause.error(&self.link.name, NodeErrorKind::Lost, act),
            None => self.error(
                NodeErrorKind::Lost,
                act,
                check::clean(&format!("the agent broke the call off: {}", status.message()), 1000),
            ),
        }
    }

    /// Runs a call within its bound.
    async fn within<T>(
        &self,
        act: &str,
        bound: Duration,
        call: impl Future<Output = Result<T, NodeError>>,
    ) -> Result<T, NodeError> {
        match timeout(bound, call).await {
            Ok(result) => result,
            Err(_) => Err(self.late(act, bound).await),
        }
    }

    async fn late(&self, act: &str, bound: Duration) -> NodeError {
        if self.link.is_up() {
            return self.error(NodeErrorKind::Slow, act, format!("no answer within {bound:?}"));
        }
        self.broken(act, &Status::cancelled("")).await
    }

    /// Sends a call and what follows it.
    async fn open(
        &self,
        act: &str,
        call: &Call,
        body: Option<BoxStream<'static, Frame>>,
    ) -> Result<Answer, NodeError> {
        let first = Frame::value(call).map_err(|why| {
            self.error(NodeErrorKind::Unexpected, act, format!("cannot be asked: {why}"))
        })?;
        let first = stream::once(async { first });
        // hyper sends on while there is something to send, even when nobody waits for
        // the answer any more: who drops the answer ends the sending, without a finish.
        let (upload, dropped) = oneshot::channel();
        let frames = match body {
            Some(body) => first.chain(body.take_until(dropped)).boxed(),
            None => first.boxed(),
        };
        match self.link.call(frames).await {
            Ok(frames) => Ok(Answer { frames, _upload: upload }),
            Err(status) => Err(self.broken(act, &status).await),
        }
    }

    /// The next frame of an answer.
    async fn next(&self, act: &str, answer: &mut Answer) -> Result<Frame, NodeError> {
        match answer.frames.message().await {
            Ok(Some(Frame::Failure(text))) => Err(match wire::parse::<NodeError>(&text) {
                Ok(error) => check::foreign_error(&self.link.name, error),
                Err(why) => self.unexpected(act, why),
            }),
            Ok(Some(frame)) => Ok(frame),
            Ok(None) => Err(self.unexpected(act, "it ends too early")),
            Err(status) => Err(self.broken(act, &status).await),
        }
    }

    async fn value<T: DeserializeOwned>(
        &self,
        act: &str,
        answer: &mut Answer,
    ) -> Result<T, NodeError> {
        match self.next(act, answer).await? {
            Frame::Value(text) => wire::parse(&text).map_err(|why| self.unexpected(act, why)),
            _ => Err(self.unexpected(act, "no value came")),
        }
    }

    /// A call with one value for an answer, which `check` lets through.
    async fn ask<T: DeserializeOwned>(
        &self,
        act: &str,
        bound: Duration,
        call: Call,
        check: impl FnOnce(T) -> Result<T, String>,
    ) -> Result<T, NodeError> {
        self.within(act, bound, async {
            let mut answer = self.open(act, &call, None).await?;
            let value = self.value(act, &mut answer).await?;
            check(value).map_err(|why| self.unexpected(act, why))
        })
        .await
    }

    /// A call that is followed by a stream and answered by one value.
    async fn send<T: DeserializeOwned>(
        &self,
        act: &str,
        call: &Call,
        source: ByteStream,
    ) -> Result<T, NodeError> {
        let upload = Arc::new(Upload::default());
        let body = upload.clone().frames(source);
        let node = self.deadlines;
        let mut answer = self.within(act, node.idle, self.open(act, call, Some(body))).await?;
        let value = self.value(act, &mut answer);
        tokio::pin!(value);
        let mut seen = None;
        let result = loop {
            let bound = if upload.finished() { node.bulk } else { node.idle };
            if let Ok(result) = timeout(bound, &mut value).await {
                break result;
            }
            // Only what the node has not taken counts against it.
            let now = (upload.moved.load(Ordering::Relaxed), upload.finished());
            if !upload.waits_for_source() && seen == Some(now) || !self.link.is_up() {
                break Err(self.late(act, bound).await);
            }
            seen = Some(now);
        };
        match upload.source_error() {
            Some(error) => Err(error),
            None => result,
        }
    }

    /// The stream that follows in an answer.
    fn pieces(&self, act: &'static str, answer: Answer) -> PieceStream {
        let idle = self.deadlines.idle;
        let node = Self { link: self.link.clone(), deadlines: self.deadlines };
        stream::unfold(Some((node, answer)), move |state| async move {
            let (node, mut answer) = state?;
            let next = node.within(act, idle, node.next(act, &mut answer)).await;
            let next = next.and_then(|f| piece(f).map_err(|why| node.unexpected(act, why)));
            match next {
                Ok(Some(piece)) => Some((Ok(piece), Some((node, answer)))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }

    /// A call that is asked and done.
    async fn tell(&self, act: &str, bound: Duration, call: Call) -> Result<(), NodeError> {
        self.ask(act, bound, call, Ok).await
    }
}

/// An answer as it comes.
struct Answer {
    frames: Streaming<Frame>,
    _upload: oneshot::Sender<()>,
}

/// A piece of an answer's stream; `None` at its end.
fn piece(frame: Frame) -> Result<Option<Piece>, String> {
    match frame {
        Frame::Plain(plain) => Ok(Some(Piece { plain, frame: None })),
        Frame::Packed(frame) => {
            Ok(Some(Piece { plain: wire::unpack(&frame)?, frame: Some(frame) }))
        }
        Frame::Finish => Ok(None),
        Frame::Value(_) | Frame::Failure(_) => Err("a value within a stream".to_owned()),
    }
}

#[async_trait]
impl Node for RemoteNode {
    fn name(&self) -> &NodeName {
        &self.link.name
    }

    async fn facts(&self) -> Result<Facts, NodeError> {
        self.ask("read the facts", self.deadlines.quick, Call::Facts, check::facts).await
    }

    async fn stat(&self, path: &Path) -> Result<Option<Entry>, NodeError> {
        let call = Call::Stat { path: path.to_owned() };
        let check = |entry: Option<Entry>| entry.map(|e| check::entry(e, path)).transpose();
        self.ask(&act("stat", path), self.deadlines.quick, call, check).await
    }

    async fn list(&self, path: &Path) -> Result<Vec<Entry>, NodeError> {
        let call = Call::List { path: path.to_owned() };
        let check = |entries| check::entries(entries, path);
        self.ask(&act("list", path), self.deadlines.quick, call, check).await
    }

    async fn read(&self, path: &Path, limit: u64) -> Result<FileContent, NodeError> {
        let act = act("read", path);
        let call = Call::Read { path: path.to_owned(), limit };
        self.within(&act, self.deadlines.bulk, async {
            let mut answer = self.open(&act, &call, None).await?;
            let entry = self.value::<Entry>(&act, &mut answer).await?;
            let entry = check::entry(entry, path).map_err(|why| self.unexpected(&act, why))?;
            let mut bytes = Vec::new();
            loop {
                let frame = self.next(&act, &mut answer).await?;
                let Some(piece) = piece(frame).map_err(|why| self.unexpected(&act, why))? else {
                    return Ok(FileContent { entry, bytes });
                };
                let piece = piece.plain;
                if (bytes.len() + piece.len()) as u64 > limit {
                    return Err(self.unexpected(&act, format!("it is larger than {limit} bytes")));
                }
                bytes.extend_from_slice(&piece);
            }
        })
        .await
    }

    async fn write(&self, path: &Path, content: &[u8], how: WriteHow) -> Result<(), NodeError> {
        let act = act("write", path);
        let call = Call::Write { path: path.to_owned(), length: content.len() as u64, how };
        let content = Bytes::copy_from_slice(content);
        let body = wire::pack(stream::once(async { Ok(content) }).boxed());
        // The source cannot fail.
        let body = body.filter_map(async |frame| frame.ok()).boxed();
        self.within(&act, self.deadlines.bulk, async {
            let mut answer = self.open(&act, &call, Some(body)).await?;
            self.value(&act, &mut answer).await
        })
        .await
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), NodeError> {
        let act = format!("rename {} to {}", from.display(), to.display());
        let call = Call::Rename { from: from.to_owned(), to: to.to_owned() };
        self.tell(&act, self.deadlines.bulk, call).await
    }

    async fn make_dir(&self, path: &Path, like: WriteLike) -> Result<(), NodeError> {
        let call = Call::MakeDir { path: path.to_owned(), like };
        self.tell(&act("make the directory", path), self.deadlines.quick, call).await
    }

    async fn make_link(&self, path: &Path, how: LinkHow) -> Result<(), NodeError> {
        let call = Call::MakeLink { path: path.to_owned(), how };
        self.tell(&act("make the link", path), self.deadlines.quick, call).await
    }

    async fn set(&self, path: &Path, how: SetHow) -> Result<(), NodeError> {
        let call = Call::Set { path: path.to_owned(), how };
        self.tell(&act("set the owner and mode of", path), self.deadlines.quick, call).await
    }

    async fn remove_own(&self, path: &Path, expected: [u8; 32]) -> Result<(), NodeError> {
        let call = Call::RemoveOwn { path: path.to_owned(), expected };
        self.tell(&act("remove", path), self.deadlines.bulk, call).await
    }

    async fn remove_link(&self, path: &Path, target: &Path) -> Result<(), NodeError> {
        let call = Call::RemoveLink { path: path.to_owned(), target: target.to_owned() };
        self.tell(&act("remove the link", path), self.deadlines.quick, call).await
    }

    async fn remove_dir(&self, path: &Path) -> Result<(), NodeError> {
        let call = Call::RemoveDir { path: path.to_owned() };
        self.tell(&act("remove the directory", path), self.deadlines.quick, call).await
    }

    async fn remove_own_tree(&self, path: &Path, expected: [u8; 32]) -> Result<(), NodeError> {
        let call = Call::RemoveOwnTree { path: path.to_owned(), expected };
        self.tell(&act("remove the tree", path), self.deadlines.tree, call).await
    }

    async fn digest(&self, path: &Path) -> Result<TreeDigest, NodeError> {
        let call = Call::Digest { path: path.to_owned() };
        self.ask(&act("digest", path), self.deadlines.tree, call, Ok).await
    }

    async fn space(&self, path: &Path) -> Result<Space, NodeError> {
        let call = Call::Space { path: path.to_owned() };
        self.ask(&act("look at the room of", path), self.deadlines.quick, call, Ok).await
    }

    async fn mounts(&self) -> Result<Vec<Mount>, NodeError> {
        self.ask("list the mounts", self.deadlines.quick, Call::Mounts, check::mounts).await
    }

    async fn save_tree(&self, spec: TreeSpec) -> Result<ByteStream, NodeError> {
        let pieces = self.save_pieces(spec).await?;
        Ok(pieces.map(|piece| piece.map(|piece| piece.plain)).boxed())
    }

    async fn save_pieces(&self, spec: TreeSpec) -> Result<PieceStream, NodeError> {
        let act = "save the tree";
        let idle = self.deadlines.idle;
        let call = Call::SaveTree { spec };
        let answer = self.within(act, idle, async {
            let mut answer = self.open(act, &call, None).await?;
            // What is refused at once is known before a byte is asked for.
            self.value::<()>(act, &mut answer).await?;
            Ok(answer)
        });
        Ok(self.pieces(act, answer.await?))
    }

    async fn unpack_tree(&self, root: &Path, tar: ByteStream) -> Result<TreeDigest, NodeError> {
        let act = act("unpack below", root);
        let call = Call::UnpackTree { root: root.to_owned() };
        self.send(&act, &call, tar).await
    }

    async fn build_member(
        &self,
        path: &Path,
        spec: MemberSpec,
        snapshot: ByteStream,
    ) -> Result<BuiltMember, NodeError> {
        let call = Call::BuildMember { path: path.to_owned(), spec };
        self.send(&act("build the member at", path), &call, snapshot).await
    }

    async fn remains(&self, spec: RemainsSpec) -> Result<MemberRemains, NodeError> {
        let act = act("look at what is left in", &spec.data_dir);
        let bound = if spec.database { self.deadlines.tree } else { self.deadlines.bulk };
        self.ask(&act, bound, Call::Remains { spec }, check::remains).await
    }

    async fn recover_member(
        &self,
        spec: RecoverSpec,
    ) -> Result<(RecoveredMember, ByteStream), NodeError> {
        const ACT: &str = "recover what is left";
        let call = Call::RecoverMember { spec };
        let recovered = self.within(ACT, self.deadlines.tree, async {
            let mut answer = self.open(ACT, &call, None).await?;
            let recovered = self.value::<RecoveredMember>(ACT, &mut answer).await?;
            let recovered = check::recovered(recovered).map_err(|why| self.unexpected(ACT, why))?;
            Ok((recovered, answer))
        });
        let (recovered, answer) = recovered.await?;
        let pieces = self.pieces(ACT, answer).map(|piece| piece.map(|piece| piece.plain));
        Ok((recovered, pieces.boxed()))
    }

    async fn unit(&self, name: &str) -> Result<Option<Unit>, NodeError> {
        let call = Call::Unit { name: name.to_owned() };
        let act = format!("look at the unit {name}");
        self.ask(&act, self.deadlines.quick, call, check::unit).await
    }

    async fn units(&self, glob: &str) -> Result<Vec<String>, NodeError> {
        let call = Call::Units { glob: glob.to_owned() };
        self.ask("list the units", self.deadlines.quick, call, check::units).await
    }

    async fn unit_do(
        &self,
        name: &str,
        action: UnitAction,
        deadline: Duration,
    ) -> Result<(), NodeError> {
        let call = Call::UnitDo { name: name.to_owned(), action, deadline };
        let act = format!("{action:?} {name}").to_lowercase();
        self.tell(&act, deadline.saturating_add(MARGIN), call).await
    }

    async fn containers(&self, query: ContainerQuery) -> Result<Vec<Container>, NodeError> {
        let call = Call::Containers { query };
        self.ask("list the containers", self.deadlines.quick, call, check::containers).await
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), NodeError> {
        let call = Call::StopContainer { id: id.to_owned(), grace };
        let bound = grace.saturating_add(self.deadlines.quick).saturating_add(MARGIN);
        self.tell(&format!("stop the container {id}"), bound, call).await
    }

    async fn processes(&self, query: ProcessQuery) -> Result<Vec<Process>, NodeError> {
        self.ask("list the processes", self.deadlines.quick, Call::Processes { query }, Ok).await
    }

    async fn listeners(&self) -> Result<Vec<Listener>, NodeError> {
        self.ask("list the listeners", self.deadlines.quick, Call::Listeners, Ok).await
    }

    async fn reach(
        &self,
        addresses: Vec<String>,
        timeout: Duration,
    ) -> Result<Vec<Reach>, NodeError> {
        let call = Call::Reach { addresses: addresses.clone(), timeout };
        let check = |found| check::reach(found, &addresses);
        self.ask("reach addresses", timeout.saturating_add(MARGIN), call, check).await
    }

    async fn health(
        &self,
        query: HealthQuery,
        timeout: Duration,
    ) -> Result<HealthAnswer, NodeError> {
        let act = format!("ask {} how it is", query.address);
        let call = Call::Health { query, timeout };
        self.ask(&act, timeout.saturating_add(MARGIN), call, check::health).await
    }
}

fn act(verb: &str, path: &Path) -> String {
    format!("{verb} {}", path.display())
}

/// How far the sending of a stream is.
#[derive(Debug, Default)]
struct Upload {
    moved: AtomicU64,
    waiting: AtomicBool,
    done: AtomicBool,
    error: Mutex<Option<NodeError>>,
}

impl Upload {
    /// The stream as frames. An error of the source goes to the node as a failure,
    /// and is kept.
    fn frames(self: Arc<Self>, tar: ByteStream) -> BoxStream<'static, Frame> {
        stream::unfold(Some((self, wire::pack(tar))), |state| async move {
            let (upload, mut frames) = state?;
            upload.waiting.store(true, Ordering::Relaxed);
            let next = frames.next().await;
            upload.waiting.store(false, Ordering::Relaxed);
            upload.moved.fetch_add(1, Ordering::Relaxed);
            match next? {
                Ok(frame) => {
                    upload.done.store(frame == Frame::Finish, Ordering::Relaxed);
                    Some((frame, Some((upload, frames))))
                }
                Err(error) => {
                    let frame = Frame::failure(&error);
                    *upload.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    Some((frame, None))
                }
            }
        })
        .boxed()
    }

    fn finished(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    fn waits_for_source(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    fn source_error(&self) -> Option<NodeError> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The path of the running program's file.
pub(crate) fn own_program() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}
