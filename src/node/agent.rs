//! The agent: serves a [`Node`] over one stream of bytes, and ends with it.
//!
//! - Nothing but the protocol is written to the stream.
//! - When the stream ends, or its other end answers no ping, every call under way
//!   is dropped; [`serve`] returns when they are gone.
//! - A call whose other side went away is dropped, and with it what it wrote: a
//!   stream that was cut reaches the node as an error, never as an end.
//! - What is asked is read with the bounds of [`wire`]; the operator's side is
//!   trusted, for it may become this machine's root anyway.

// An error of a node is made once per call and carries its whole story.
#![allow(clippy::result_large_err)]

pub mod stdio;

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;
use tonic::codegen::http;
use tonic::server::StreamingService;
use tonic::{Request, Response, Status, Streaming};

use super::remote::Keepalive;
use super::remote::preamble::{self, Identity, LINE_LIMIT};
use super::remote::wire::{self, Call, Frame, FrameCodec, PROTOCOL};
use super::{ByteStream, Node, NodeError, NodeErrorKind, NodeName};

/// The largest file that [`Node::write`] takes over the wire, in bytes.
pub const WRITE_LIMIT: u64 = 256 << 20;

/// How long the operator's line, and then a call's first frame, may take.
const GREETING_BOUND: Duration = Duration::from_secs(60);
/// How long dropped calls may take to end.
const SETTLE_BOUND: Duration = Duration::from_secs(10);

/// Why an agent ended otherwise than by the end of its stream.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The stream failed before the protocol began.
    #[error("cannot talk to the operator's side")]
    Stream(#[source] io::Error),
    /// What came is not from an operator's side.
    #[error("this command is started by etcdvault on another machine, and speaks to it alone")]
    NoOperator,
    /// The operator's side speaks another protocol.
    #[error("the operator's side speaks protocol {0}, this agent {PROTOCOL}")]
    Protocol(u32),
    /// The connection failed.
    #[error("the connection failed")]
    Connection(#[source] hyper::Error),
}

/// Serves `node` over `reader` and `writer` until they end.
pub async fn serve<R, W>(
    reader: R,
    mut writer: W,
    node: Arc<dyn Node>,
    identity: &Identity,
    keepalive: Keepalive,
) -> Result<(), AgentError>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let mut reader = tokio::io::BufReader::with_capacity(128 << 10, reader);
    writer.write_all(identity.line().as_bytes()).await.map_err(AgentError::Stream)?;
    writer.flush().await.map_err(AgentError::Stream)?;
    let line = tokio::time::timeout(GREETING_BOUND, operator(&mut reader)).await;
    let (protocol, name) = line.map_err(|_| AgentError::NoOperator)??;
    if protocol != PROTOCOL {
        return Err(AgentError::Protocol(protocol));
    }
    let tasks = Tasks::default();
    let service = Service { node, name };
    let connection = hyper::server::conn::http2::Builder::new(tasks.clone())
        .timer(TokioTimer::new())
        .initial_stream_window_size(wire::WINDOW)
        .initial_connection_window_size(wire::WINDOW)
        .max_frame_size(wire::FRAME_SIZE)
        .max_concurrent_streams(wire::CALLS_AT_ONCE)
        .max_send_buf_size(1 << 20)
        .keep_alive_interval(keepalive.every)
        .keep_alive_timeout(keepalive.within)
        .serve_connection(TokioIo::new(tokio::io::join(reader, writer)), service);
    let result = connection.await;
    tasks.settle().await;
    match result {
        Err(error) if !is_gone(&error) => Err(AgentError::Connection(error)),
        _ => Ok(()),
    }
}

/// Whether the operator's side closed the stream while something was still to be
/// written: an end like any other.
fn is_gone(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    let cause = source.and_then(|source| source.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| {
        matches!(cause.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
    })
}

/// Reads the operator's line and not a byte more.
async fn operator<R: AsyncRead + Unpin>(reader: &mut R) -> Result<(u32, NodeName), AgentError> {
    let mut line = Vec::new();
    loop {
        match reader.read_u8().await.map_err(AgentError::Stream)? {
            b'\n' => return preamble::parse_operator(&line).ok_or(AgentError::NoOperator),
            byte if line.len() < LINE_LIMIT => line.push(byte),
            _ => return Err(AgentError::NoOperator),
        }
    }
}

/// The connection's tasks, one a call, so that none outlives it.
#[derive(Debug, Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let mut set = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while set.try_join_next().is_some() {}
        set.spawn(task);
    }
}

impl Tasks {
    async fn settle(&self) {
        let mut set = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        // Past the bound they are dropped all the same, by the runtime's end.
        let _ = tokio::time::timeout(SETTLE_BOUND, set.shutdown()).await;
    }
}

/// The one gRPC method.
#[derive(Debug, Clone)]
struct Service {
    node: Arc<dyn Node>,
    name: NodeName,
}

impl hyper::service::Service<http::Request<hyper::body::Incoming>> for Service {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: http::Request<hyper::body::Incoming>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != wire::METHOD {
                return Ok(Status::unimplemented("no such method").into_http());
            }
            let mut grpc = tonic::server::Grpc::new(FrameCodec)
                .max_decoding_message_size(wire::MESSAGE_LIMIT)
                .max_encoding_message_size(wire::MESSAGE_LIMIT);
            Ok(grpc.streaming(service, request).await)
        })
    }
}

type Answer = BoxStream<'static, Result<Frame, Status>>;

impl StreamingService<Frame> for Service {
    type Response = Frame;
    type ResponseStream = Answer;
    type Future = std::future::Ready<Result<Response<Answer>, Status>>;

    fn call(&mut self, request: Request<Streaming<Frame>>) -> Self::Future {
        // The work is done while the answer is read, so that who drops the answer
        // drops the work.
        let work = answer(self.clone(), request.into_inner());
        std::future::ready(Ok(Response::new(stream::once(work).flatten().boxed())))
    }
}

async fn answer(service: Service, mut request: Streaming<Frame>) -> Answer {
    let first = tokio::time::timeout(GREETING_BOUND, request.message()).await;
    let call = match first {
        Ok(Ok(Some(Frame::Value(text)))) => wire::parse::<Call>(&text),
        _ => Err("the first frame is not a call".to_owned()),
    };
    let call = match call {
        Ok(call) => call,
        Err(why) => {
            let status = Status::invalid_argument(why);
            return stream::once(async { Err(status) }).boxed();
        }
    };
    match service.dispatch(call, request).await {
        Ok(answer) => answer.map(Ok).boxed(),
        Err(error) => frames([Frame::failure(&error)]),
    }
}

fn frames<const N: usize>(frames: [Frame; N]) -> Answer {
    stream::iter(frames.map(Ok)).boxed()
}

type Frames = BoxStream<'static, Frame>;

impl Service {
    async fn dispatch(&self, call: Call, body: Streaming<Frame>) -> Result<Frames, NodeError> {
        let node = &self.node;
        match call {
            Call::Facts => self.value("facts", &node.facts().await?),
            Call::Stat { path } => self.value("stat", &node.stat(&path).await?),
            Call::List { path } => self.value("list", &node.list(&path).await?),
            Call::Read { path, limit } => {
                let content = node.read(&path, limit).await?;
                let entry = self.value("read", &content.entry)?;
                let bytes = stream::once(async { Ok(content.bytes.into()) }).boxed();
                Ok(entry.chain(pack(bytes)).boxed())
            }
            Call::Write { path, length, how } => {
                let content = self.whole(&path, length, body).await?;
                self.value("write", &node.write(&path, &content, how).await?)
            }
            Call::Rename { from, to } => self.value("rename", &node.rename(&from, &to).await?),
            Call::MakeDir { path, like } => {
                self.value("make directory", &node.make_dir(&path, like).await?)
            }
            Call::MakeLink { path, how } => {
                self.value("make link", &node.make_link(&path, how).await?)
            }
            Call::Set { path, how } => self.value("set", &node.set(&path, how).await?),
            Call::RemoveOwn { path, expected } => {
                self.value("remove", &node.remove_own(&path, expected).await?)
            }
            Call::RemoveLink { path, target } => {
                self.value("remove", &node.remove_link(&path, &target).await?)
            }
            Call::RemoveDir { path } => self.value("remove", &node.remove_dir(&path).await?),
            Call::RemoveOwnTree { path, expected } => {
                self.value("remove", &node.remove_own_tree(&path, expected).await?)
            }
            Call::Digest { path } => self.value("digest", &node.digest(&path).await?),
            Call::Space { path } => self.value("space", &node.space(&path).await?),
            Call::Mounts => self.value("mounts", &node.mounts().await?),
            Call::SaveTree { spec } => {
                let tar = pack(node.save_tree(spec).await?);
                Ok(self.value("save the tree", &())?.chain(tar).boxed())
            }
            Call::UnpackTree { root } => {
                let tar = incoming(self.name.clone(), "unpack the tree", body);
                self.value("unpack", &node.unpack_tree(&root, tar).await?)
            }
            Call::BuildMember { path, spec } => {
                let snapshot = incoming(self.name.clone(), "build the member", body);
                self.value("build", &node.build_member(&path, spec, snapshot).await?)
            }
            Call::Remains { spec } => {
                self.value("look at what is left", &node.remains(spec).await?)
            }
            Call::RecoverMember { spec } => {
                let (recovered, snapshot) = node.recover_member(spec).await?;
                Ok(self.value("recover", &recovered)?.chain(pack(snapshot)).boxed())
            }
            Call::Unit { name } => self.value("unit", &node.unit(&name).await?),
            Call::Units { glob } => self.value("units", &node.units(&glob).await?),
            Call::UnitDo { name, action, deadline } => {
                self.value("unit", &node.unit_do(&name, action, deadline).await?)
            }
            Call::Containers { query } => self.value("containers", &node.containers(query).await?),
            Call::StopContainer { id, grace } => {
                self.value("stop container", &node.stop_container(&id, grace).await?)
            }
            Call::Processes { query } => self.value("processes", &node.processes(query).await?),
            Call::Listeners => self.value("listeners", &node.listeners().await?),
            Call::Reach { addresses, timeout } => {
                self.value("reach", &node.reach(addresses, timeout).await?)
            }
            Call::Health { query, timeout } => {
                self.value("health", &node.health(query, timeout).await?)
            }
        }
    }

    fn value<T: Serialize>(&self, act: &str, value: &T) -> Result<Frames, NodeError> {
        let frame = Frame::value(value).map_err(|why| {
            NodeError::new(
                &self.name,
                NodeErrorKind::Unexpected,
                act,
                format!("the answer cannot be sent: {why}"),
            )
        })?;
        Ok(stream::once(async { frame }).boxed())
    }

    /// A body of exactly `length` bytes.
    async fn whole(
        &self,
        path: &std::path::Path,
        length: u64,
        body: Streaming<Frame>,
    ) -> Result<Vec<u8>, NodeError> {
        let act = format!("write {}", path.display());
        let refuse = |why| NodeError::new(&self.name, NodeErrorKind::Unexpected, &act, why);
        if length > WRITE_LIMIT {
            return Err(refuse(format!("{length} bytes, at most {WRITE_LIMIT} are taken")));
        }
        let mut content = Vec::new();
        let mut body = incoming(self.name.clone(), &act, body);
        while let Some(piece) = body.next().await {
            let piece = piece?;
            if (content.len() + piece.len()) as u64 > length {
                return Err(refuse(format!("more came than the {length} bytes announced")));
            }
            content.extend_from_slice(&piece);
        }
        if content.len() as u64 != length {
            return Err(refuse(format!("{} came of {length} bytes", content.len())));
        }
        Ok(content)
    }
}

/// A stream of the node's as frames: an error is the last one.
fn pack(bytes: ByteStream) -> Frames {
    wire::pack(bytes).map(|frame| frame.unwrap_or_else(|error| Frame::failure(&error))).boxed()
}

/// The bytes of a request's body. It ends only with [`Frame::Finish`]: anything
/// else is an error, after which nothing comes.
fn incoming(name: NodeName, act: &str, body: Streaming<Frame>) -> ByteStream {
    let act = act.to_owned();
    stream::unfold(Some(body), move |body| {
        let (name, act) = (name.clone(), act.clone());
        async move {
            let mut body = body?;
            let lost = |kind, why: String| NodeError::new(&name, kind, &act, why);
            let piece: Result<Bytes, NodeError> = match body.message().await {
                Ok(Some(Frame::Plain(piece))) => Ok(piece),
                Ok(Some(Frame::Packed(piece))) => {
                    wire::unpack(&piece).map_err(|why| lost(NodeErrorKind::Unexpected, why))
                }
                Ok(Some(Frame::Finish)) => return None,
                Ok(Some(Frame::Failure(_))) => {
                    Err(lost(NodeErrorKind::Other, "the operator's side gave it up".to_owned()))
                }
                Ok(Some(Frame::Value(_))) => {
                    Err(lost(NodeErrorKind::Unexpected, "a value within a stream".to_owned()))
                }
                Ok(None) | Err(_) => {
                    Err(lost(NodeErrorKind::Lost, "the stream was cut before its end".to_owned()))
                }
            };
            let next = piece.is_ok().then_some(body);
            Some((piece, next))
        }
    })
    .boxed()
}

/// The SHA-256 of the running program's file, in hex.
pub async fn own_digest() -> io::Result<String> {
    let path = PathBuf::from("/proc/self/exe");
    let digest = tokio::task::spawn_blocking(move || super::ssh::program::digest(&path)).await;
    digest.map_err(io::Error::other)?
}
