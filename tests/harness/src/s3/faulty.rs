//! An S3 server in this process that can be told to misbehave. Without a script
//! it is a plain one: the same contract suite runs over it as over real servers.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming};
use hyper::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::Access;
use super::memory::Memory;
use crate::{Error, Result};

const USER: &str = "vaultadmin";
const PASSWORD: &str = "vault-admin-secret";
/// The size of the pieces that a body is sent in.
const PIECE: usize = 64 * 1024;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// PutObject.
    Put,
    /// GetObject.
    Get,
    /// HeadObject.
    Head,
    /// DeleteObject.
    Delete,
    /// ListObjectsV2.
    List,
    /// CreateMultipartUpload.
    Create,
    /// UploadPart.
    Part,
    /// CompleteMultipartUpload.
    Complete,
    /// AbortMultipartUpload.
    Abort,
    /// ListMultipartUploads.
    Uploads,
    /// Anything else.
    Other,
}

/// How a request goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// An error is answered; nothing else happens.
    Answer(u16, &'static str),
    /// The bucket is said to be in another region; nothing else happens.
    Redirect(&'static str),
    /// The connection is closed at once; nothing else happens.
    Reset,
    /// No answer ever comes; nothing else happens.
    Stall,
    /// The request has its effect, then the connection is closed.
    LoseAnswer,
    /// The connection is closed after so many bytes of the answer's body.
    ResetBody(usize),
    /// After so many bytes of the answer's body no more come.
    StallBody(usize),
    /// One bit of the answer's body is another.
    WrongBytes,
    /// Another writer is faster under the same name: the object is replaced by
    /// these bytes, then the request is handled.
    Overtake(&'static [u8]),
}

#[derive(Debug)]
struct Rule {
    op: Op,
    fault: Fault,
    times: u32,
}

#[derive(Debug)]
struct State {
    memory: Memory,
    rules: Mutex<Vec<Rule>>,
    seen: Mutex<Vec<Op>>,
}

/// A running server; stopped on drop.
#[derive(Debug)]
pub struct FaultyS3 {
    state: Arc<State>,
    access: Access,
    listening: JoinHandle<()>,
}

impl FaultyS3 {
    /// Starts one on the present runtime.
    pub async fn start() -> Result<Self> {
        let failed = |source| Error::because("listening for the faulting S3 server", source);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let memory = Memory::new();
        let mut builder = S3ServiceBuilder::new(memory.clone());
        builder.set_auth(SimpleAuth::from_single(USER, PASSWORD));
        let service = builder.build();
        let state = Arc::new(State { memory, rules: Mutex::default(), seen: Mutex::default() });
        let listening = tokio::spawn(accept(listener, service, state.clone()));
        Ok(Self { state, access: access(address), listening })
    }

    /// How it is reached.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// The next `times` requests of this kind go wrong so; rules for the same kind
    /// take effect one after another.
    pub fn fault(&self, op: Op, fault: Fault, times: u32) {
        lock(&self.state.rules).push(Rule { op, fault, times });
    }

    /// How often requests of this kind came, since the start or the last `forget`.
    pub fn count(&self, op: Op) -> usize {
        lock(&self.state.seen).iter().filter(|seen| **seen == op).count()
    }

    /// Forgets the requests that came and the rules that are left.
    pub fn forget(&self) {
        lock(&self.state.seen).clear();
        lock(&self.state.rules).clear();
    }

    /// The server's clock goes so far before this machine's. Signatures are still
    /// judged by this machine's, so more than 15 minutes make it refuse a client
    /// that corrects its own.
    pub fn set_clock_ahead(&self, by: Duration) {
        self.state.memory.change_habits(|habits| habits.clock_ahead = by);
    }

    /// From now on `If-None-Match` is ignored on PutObject, on
    /// CompleteMultipartUpload, or on both.
    pub fn overwrite_silently(&self, put: bool, complete: bool) {
        self.state.memory.change_habits(|habits| {
            habits.overwrites_on_put = put;
            habits.overwrites_on_complete = complete;
        });
    }

    /// From now on checksums that are sent are ignored.
    pub fn ignore_checksums(&self) {
        self.state.memory.change_habits(|habits| habits.ignores_checksums = true);
    }

    /// From now on listings do not come in the order of bytes.
    pub fn list_disordered(&self) {
        self.state.memory.change_habits(|habits| habits.disordered = true);
    }

    /// The most objects on a page of a listing.
    pub fn set_page(&self, objects: usize) {
        self.state.memory.change_habits(|habits| habits.page = objects);
    }

    /// Every write is refused with this code from now on.
    pub fn fill(&self, code: &'static str) {
        self.state.memory.change_habits(|habits| habits.full = Some(code));
    }

    /// Replaces an object as another writer would.
    pub fn replace(&self, bucket: &str, key: &str, bytes: &'static [u8]) {
        self.state.memory.replace(bucket, key, Bytes::from_static(bytes));
    }

    /// The bytes of an object.
    pub fn bytes(&self, bucket: &str, key: &str) -> Option<Bytes> {
        self.state.memory.bytes(bucket, key)
    }

    /// The keys of all objects in a bucket, sorted.
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        self.state.memory.keys(bucket)
    }

    /// Forbids deleting an object for so long.
    pub fn retain(&self, bucket: &str, key: &str, time: Duration) {
        self.state.memory.retain(bucket, key, time);
    }

    /// How many multipart uploads are open.
    pub fn uploads(&self) -> usize {
        self.state.memory.uploads()
    }

    /// Makes all open multipart uploads older.
    pub fn age_uploads(&self, time: Duration) {
        self.state.memory.age_uploads(time);
    }
}

impl Drop for FaultyS3 {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

fn access(address: SocketAddr) -> Access {
    Access {
        url: format!("http://{address}"),
        access_key: USER.to_owned(),
        secret_key: PASSWORD.to_owned(),
        session_token: None,
        ca: None,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, service: S3Service, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                let (service, state) = (service.clone(), state.clone());
                connections.spawn(async move {
                    let handler = hyper::service::service_fn(move |request| {
                        handle(request, service.clone(), state.clone())
                    });
                    // A connection that a fault breaks is no failure here.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), handler)
                        .await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Ends the connection without an answer.
#[derive(Debug)]
struct Closed;

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("closed on purpose")
    }
}

impl std::error::Error for Closed {}

async fn handle(
    request: Request<Incoming>,
    service: S3Service,
    state: Arc<State>,
) -> Result<Response<Script>, Closed> {
    let op = operation(&request);
    lock(&state.seen).push(op);
    let fault = next_fault(&state, op);
    let path = request.uri().path().trim_start_matches('/').to_owned();
    match &fault {
        Some(Fault::Answer(status, code)) => return Ok(refuse(&state, *status, code, None)),
        Some(Fault::Redirect(region)) => {
            return Ok(refuse(&state, 301, "PermanentRedirect", Some(region)));
        }
        Some(Fault::Reset) => return Err(Closed),
        Some(Fault::Stall) => std::future::pending().await,
        Some(Fault::Overtake(bytes)) => {
            let (bucket, key) = path.split_once('/').unwrap_or((&path, ""));
            state.memory.replace(bucket, key, Bytes::from_static(bytes));
        }
        _ => {}
    }
    let answer = service.call(request.map(s3s::Body::from)).await.map_err(|_| Closed)?;
    let (mut parts, body) = answer.into_parts();
    let mut bytes = body.collect().await.map_err(|_| Closed)?.to_bytes();
    let mut end = End::Complete;
    let mut cut = bytes.len();
    match fault {
        Some(Fault::LoseAnswer) => return Err(Closed),
        Some(Fault::ResetBody(at)) => (cut, end) = (at.min(bytes.len()), End::Break),
        Some(Fault::StallBody(at)) => (cut, end) = (at.min(bytes.len()), End::Hang),
        Some(Fault::WrongBytes) => {
            let mut wrong = bytes.to_vec();
            if let Some(byte) = wrong.get_mut(bytes.len() / 2) {
                *byte ^= 1;
            }
            bytes = wrong.into();
        }
        _ => {}
    }
    date(&state, &mut parts.headers);
    let length = bytes.len();
    Ok(Response::from_parts(parts, Script::new(bytes.slice(..cut), length, end)))
}

fn operation(request: &Request<Incoming>) -> Op {
    let query = request.uri().query().unwrap_or("");
    let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    let object = request.uri().path().trim_matches('/').contains('/');
    match (request.method(), object) {
        (&Method::PUT, true) if has("partNumber") => Op::Part,
        (&Method::PUT, true) => Op::Put,
        (&Method::POST, true) if has("uploads") => Op::Create,
        (&Method::POST, true) if has("uploadId") => Op::Complete,
        (&Method::GET, true) => Op::Get,
        (&Method::GET, false) if has("uploads") => Op::Uploads,
        (&Method::GET, false) if has("list-type") => Op::List,
        (&Method::HEAD, true) => Op::Head,
        (&Method::DELETE, true) if has("uploadId") => Op::Abort,
        (&Method::DELETE, true) => Op::Delete,
        _ => Op::Other,
    }
}

fn next_fault(state: &State, op: Op) -> Option<Fault> {
    let mut rules = lock(&state.rules);
    let rule = rules.iter_mut().find(|rule| rule.op == op && rule.times > 0)?;
    rule.times -= 1;
    Some(rule.fault.clone())
}

fn refuse(state: &State, status: u16, code: &str, region: Option<&str>) -> Response<Script> {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>\
         <Message>asked for by the test</Message><RequestId>R1</RequestId></Error>"
    );
    let length = text.len();
    let mut answer = Response::new(Script::new(text.into(), length, End::Complete));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    if let Some(region) = region.and_then(|region| HeaderValue::from_str(region).ok()) {
        answer.headers_mut().insert("x-amz-bucket-region", region);
    }
    date(state, answer.headers_mut());
    answer
}

fn date(state: &State, headers: &mut header::HeaderMap) {
    let now = DateTime::<Utc>::from(state.memory.now());
    let text = now.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.insert(header::DATE, value);
    }
}

/// What follows the last byte of a [`Script`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Complete,
    Break,
    Hang,
}

/// A body that may end otherwise than it announces.
#[derive(Debug)]
struct Script {
    pieces: VecDeque<Bytes>,
    announced: u64,
    end: End,
    paused: bool,
}

impl Script {
    fn new(mut bytes: Bytes, announced: usize, end: End) -> Self {
        let mut pieces = VecDeque::new();
        while !bytes.is_empty() {
            pieces.push_back(bytes.split_to(PIECE.min(bytes.len())));
        }
        Self { pieces, announced: announced as u64, end, paused: false }
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = Closed;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Closed>>> {
        if let Some(piece) = self.pieces.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match self.end {
            End::Complete => Poll::Ready(None),
            End::Hang => Poll::Pending,
            // Once round, so that what was given is sent before the end.
            End::Break if !self.paused => {
                self.paused = true;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            End::Break => Poll::Ready(Some(Err(Closed))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && self.end == End::Complete
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self.end {
            End::Complete => {
                hyper::body::SizeHint::with_exact(self.pieces.iter().map(|p| p.len() as u64).sum())
            }
            End::Break | End::Hang => hyper::body::SizeHint::with_exact(self.announced),
        }
    }
}
