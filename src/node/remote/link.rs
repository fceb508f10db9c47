//! A connection to an agent: greeting, HTTP/2, and how it ended.

use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::http;
use tonic::{Request, Status, Streaming};

use super::preamble::{self, Greeting, Identity};
use super::wire::{self, Frame, FrameCodec, PROTOCOL};
use super::{Keepalive, check};
use crate::node::{NodeError, NodeErrorKind, NodeName};

/// How long a call that broke waits to learn why the connection ended.
const CAUSE_BOUND: Duration = Duration::from_secs(10);

/// Which agent is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// This version of the program, whatever its file.
    Version,
    /// The file with this SHA-256, in hex, of this version.
    Digest(String),
}

/// Why a connection is no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// What kind of failure it is when the connection never came to be.
    pub kind: NodeErrorKind,
    /// As a fragment.
    pub why: String,
    /// What ssh or the agent said.
    pub details: Vec<String>,
    /// What a person can do.
    pub hint: Option<String>,
}

impl Cause {
    pub(crate) fn new(kind: NodeErrorKind, why: impl Into<String>) -> Self {
        Self { kind, why: why.into(), details: Vec::new(), hint: None }
    }

    /// The failure of `act` by this cause.
    pub(crate) fn error(&self, node: &NodeName, kind: NodeErrorKind, act: &str) -> NodeError {
        let mut error = NodeError::new(node, kind, act, self.why.clone());
        error.details.clone_from(&self.details);
        error.hint.clone_from(&self.hint);
        error
    }
}

#[derive(Debug, Clone)]
enum State {
    Up,
    /// The connection is gone; why is being found out.
    Ending,
    Ended(Cause),
}

/// What else ended with the connection, and knows more of why.
pub(crate) type Aftermath = BoxFuture<'static, Option<Cause>>;

/// A connection to an agent.
pub(crate) struct Link {
    pub(crate) name: NodeName,
    pub(crate) identity: Identity,
    sender: SendRequest<Body>,
    state: watch::Receiver<State>,
}

/// Reads up to the end of the greeting; what comes after it stays in the reader.
pub(crate) async fn greeting<R: AsyncRead + Send + Unpin + 'static>(
    name: &NodeName,
    mut reader: R,
) -> Result<(impl AsyncRead + Send + Unpin + 'static, Greeting), NodeError> {
    let lost = |why: String| NodeError::new(name, NodeErrorKind::Lost, "connect", why);
    let mut read = Vec::with_capacity(4096);
    loop {
        let found = preamble::find(&read).map_err(|error| {
            let hint = "see what the login prints and what is started on the node";
            NodeError::new(name, NodeErrorKind::Unexpected, "connect", format!("the node {error}"))
                .hint(hint)
        })?;
        if let Some((greeting, end)) = found {
            let rest = std::io::Cursor::new(read.split_off(end));
            return Ok((rest.chain(reader), greeting));
        }
        // Bounded by what `find` takes.
        match (&mut reader).take(16 << 10).read_buf(&mut read).await {
            Ok(0) => return Err(lost("the connection ended before an agent answered".to_owned())),
            Ok(_) => {}
            Err(error) => return Err(lost(format!("the connection failed: {error}"))),
        }
    }
}

/// The agent of a greeting, when it is one that can be worked with.
pub(crate) fn agent(
    name: &NodeName,
    greeting: Greeting,
    expect: &Expect,
) -> Result<Identity, NodeError> {
    let own = env!("CARGO_PKG_VERSION");
    let refuse = |why: String| {
        NodeError::new(name, NodeErrorKind::Unsupported, "connect", why).hint(format!(
            "put etcdvault {own} at the configured agent path, or configure none and let this \
             one be uploaded"
        ))
    };
    let Greeting::Agent(identity) = greeting else {
        return Err(refuse("the node asks for a program instead of running one".to_owned()));
    };
    if identity.protocol != PROTOCOL {
        return Err(refuse(format!(
            "the agent is etcdvault {} and speaks protocol {}, this is {own} with protocol \
             {PROTOCOL}",
            identity.version, identity.protocol
        )));
    }
    if identity.version != own {
        return Err(refuse(format!("the agent is etcdvault {}, this is {own}", identity.version)));
    }
    match expect {
        Expect::Digest(digest) if *digest != identity.digest => Err(refuse(format!(
            "the agent's file has the digest {}, sent was {digest}",
            identity.digest
        ))),
        _ => Ok(identity),
    }
}

impl Link {
    /// Speaks to the agent that greeted.
    pub(crate) async fn start<R, W>(
        name: NodeName,
        reader: R,
        mut writer: W,
        identity: Identity,
        keepalive: Keepalive,
        aftermath: Option<Aftermath>,
    ) -> Result<Self, NodeError>
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let lost = |why: String| NodeError::new(&name, NodeErrorKind::Lost, "connect", why);
        let line = preamble::operator_line(&name);
        let sent = async {
            writer.write_all(line.as_bytes()).await?;
            writer.flush().await
        };
        sent.await.map_err(|error| lost(format!("the connection failed: {error}")))?;
        let handshake = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(wire::WINDOW)
            .initial_connection_window_size(wire::WINDOW)
            .max_frame_size(wire::FRAME_SIZE)
            .max_send_buf_size(1 << 20)
            .max_header_list_size(16 << 10)
            // Nothing is pushed to this side.
            .max_concurrent_streams(0)
            .keep_alive_interval(keepalive.every)
            .keep_alive_timeout(keepalive.within)
            .keep_alive_while_idle(true)
            .handshake::<_, Body>(TokioIo::new(tokio::io::join(reader, writer)));
        let (sender, connection) =
            handshake.await.map_err(|error| lost(format!("no HTTP/2: {error}")))?;
        let (report, state) = watch::channel(State::Up);
        tokio::spawn(async move {
            let result = connection.await;
            report.send_replace(State::Ending);
            let learned = match aftermath {
                Some(aftermath) => aftermath.await,
                None => None,
            };
            let cause = learned.unwrap_or_else(|| Cause::new(NodeErrorKind::Lost, why(result)));
            report.send_replace(State::Ended(cause));
        });
        Ok(Self { name, identity, sender, state })
    }

    /// Sends a request; its answer as it comes.
    pub(crate) async fn call(
        &self,
        frames: BoxStream<'static, Frame>,
    ) -> Result<Streaming<Frame>, Status> {
        let origin = http::Uri::from_static("http://node");
        let mut grpc = tonic::client::Grpc::with_origin(Caller(self.sender.clone()), origin)
            .max_decoding_message_size(wire::MESSAGE_LIMIT)
            .max_encoding_message_size(wire::MESSAGE_LIMIT);
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = http::uri::PathAndQuery::from_static(wire::METHOD);
        let answer = grpc.streaming(Request::new(frames), path, FrameCodec).await?;
        Ok(answer.into_inner())
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(*self.state.borrow(), State::Up)
    }

    /// Waits for the end.
    pub(crate) async fn ended(&self) -> Cause {
        let mut state = self.state.clone();
        let ended = state.wait_for(|state| matches!(state, State::Ended(_))).await;
        match ended.as_deref() {
            Ok(State::Ended(cause)) => cause.clone(),
            _ => Cause::new(NodeErrorKind::Lost, "the connection was given up"),
        }
    }

    /// Why the connection ended, unless it lives on.
    pub(crate) async fn ended_soon(&self) -> Option<Cause> {
        if self.is_up() {
            // The call may learn of the end before the connection's own task does.
            let mut state = self.state.clone();
            let down = state.wait_for(|state| !matches!(state, State::Up));
            tokio::time::timeout(Duration::from_secs(1), down).await.ok();
            if self.is_up() {
                return None;
            }
        }
        let gone = Cause::new(NodeErrorKind::Lost, "the connection is gone");
        Some(tokio::time::timeout(CAUSE_BOUND, self.ended()).await.unwrap_or(gone))
    }
}

fn why(result: Result<(), hyper::Error>) -> String {
    let Err(error) = result else { return "the connection is gone".to_owned() };
    if error.is_timeout() {
        return "the node answers no pings".to_owned();
    }
    let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
    check::clean(&format!("{error}{}", source.unwrap_or_default()), 500)
}

/// hyper's end of the connection as tonic wants it.
struct Caller(SendRequest<Body>);

impl GrpcService<Body> for Caller {
    type ResponseBody = hyper::body::Incoming;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<http::Response<hyper::body::Incoming>, hyper::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
