//! What goes over the wire: frames, calls, and bytes in frames.
//!
//! Every gRPC message is one frame, and every frame is bounded: a value by
//! [`VALUE_LIMIT`], a piece of a stream by [`PIECE_LIMIT`] both as it is sent and
//! as it is unpacked. A stream that was cut is never taken for a whole one: its
//! end is a frame of its own. `docs/format/node-protocol.md` describes it all.

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::CParameter;

use crate::node::{
    ByteStream, ContainerQuery, HealthQuery, LinkHow, MemberSpec, NodeError, ProcessQuery,
    RecoverSpec, RemainsSpec, SetHow, TreeSpec, UnitAction, WriteHow, WriteLike,
};

/// The version of the protocol; both sides have the same or do not talk.
pub const PROTOCOL: u32 = 4;
/// The path of the one gRPC method.
pub const METHOD: &str = "/etcdvault.node.v1.Node/Call";
/// The longest JSON text of a value, in bytes.
pub const VALUE_LIMIT: usize = 8 << 20;
/// The longest piece of a stream in one frame, in bytes.
pub const PIECE_LIMIT: usize = 1 << 20;
/// The longest gRPC message: a value and its tag.
pub const MESSAGE_LIMIT: usize = VALUE_LIMIT + 1;
/// HTTP/2 windows, of a stream and of the connection, in bytes.
pub const WINDOW: u32 = 4 << 20;
/// HTTP/2's largest frame, in bytes.
pub const FRAME_SIZE: u32 = 256 << 10;
/// Calls that may be under way at once on one connection.
pub const CALLS_AT_ONCE: u32 = 64;

/// The size of the pieces that this side makes, in bytes: the larger they are the better
/// they compress.
const PIECE: usize = PIECE_LIMIT;
/// What an encoder sends at once, and its buffer grows by, in bytes.
const BUFFER: usize = 256 << 10;
/// Pieces that are compressed at once, ahead of the one that is sent.
const PACKING: usize = 2;
/// After how many pieces that did not shrink the next one is tried, at most.
const PATIENCE: u32 = 32;

/// One gRPC message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// `v`: the JSON text of a value.
    Value(Bytes),
    /// `e`: the JSON text of a [`NodeError`]; nothing follows.
    Failure(Bytes),
    /// `b`: a piece of a stream.
    Plain(Bytes),
    /// `z`: a piece of a stream as one zstd frame.
    Packed(Bytes),
    /// `f`: the stream is complete.
    Finish,
}

impl Frame {
    /// A value as a frame.
    pub(crate) fn value<T: Serialize>(value: &T) -> Result<Self, String> {
        let text = serde_json::to_vec(value).map_err(|error| error.to_string())?;
        if text.len() > VALUE_LIMIT {
            return Err(format!("it takes {} bytes, at most {VALUE_LIMIT} are sent", text.len()));
        }
        Ok(Self::Value(text.into()))
    }

    /// A failure as a frame.
    pub(crate) fn failure(error: &NodeError) -> Self {
        let short = |text: &str| text.chars().take(4096).collect::<String>();
        let mut error = error.clone();
        error.act = short(&error.act);
        error.why = short(&error.why);
        error.details = error.details.iter().take(200).map(|line| short(line)).collect();
        error.hint = error.hint.as_deref().map(short);
        // Strings and an enum: this cannot fail.
        Self::Failure(serde_json::to_vec(&error).unwrap_or_default().into())
    }

    fn parts(&self) -> (u8, &[u8]) {
        match self {
            Self::Value(text) => (b'v', text),
            Self::Failure(text) => (b'e', text),
            Self::Plain(bytes) => (b'b', bytes),
            Self::Packed(bytes) => (b'z', bytes),
            Self::Finish => (b'f', &[]),
        }
    }

    fn parse(mut message: Bytes) -> Result<Self, String> {
        if message.is_empty() {
            return Err("an empty frame".to_owned());
        }
        let tag = message.get_u8();
        let limit = match tag {
            b'v' | b'e' => VALUE_LIMIT,
            b'b' | b'z' => PIECE_LIMIT,
            b'f' => 0,
            _ => return Err(format!("a frame with the unknown tag {tag:#04x}")),
        };
        if message.len() > limit {
            return Err(format!("a frame of {} bytes where {limit} are allowed", message.len()));
        }
        Ok(match tag {
            b'v' => Self::Value(message),
            b'e' => Self::Failure(message),
            b'b' => Self::Plain(message),
            b'z' => Self::Packed(message),
            _ => Self::Finish,
        })
    }
}

/// The text of a value, read as `T`.
pub(crate) fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    serde_json::from_slice(text).map_err(|error| error.to_string())
}

/// What is asked; the first frame of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Call {
    Facts,
    Stat { path: PathBuf },
    List { path: PathBuf },
    Read { path: PathBuf, limit: u64 },
    Write { path: PathBuf, length: u64, how: WriteHow },
    Rename { from: PathBuf, to: PathBuf },
    MakeDir { path: PathBuf, like: WriteLike },
    MakeLink { path: PathBuf, how: LinkHow },
    Set { path: PathBuf, how: SetHow },
    RemoveOwn { path: PathBuf, expected: [u8; 32] },
    RemoveLink { path: PathBuf, target: PathBuf },
    RemoveDir { path: PathBuf },
    RemoveOwnTree { path: PathBuf, expected: [u8; 32] },
    Digest { path: PathBuf },
    Space { path: PathBuf },
    Mounts,
    SaveTree { spec: TreeSpec },
    UnpackTree { root: PathBuf },
    BuildMember { path: PathBuf, spec: MemberSpec },
    Remains { spec: RemainsSpec },
    RecoverMember { spec: RecoverSpec },
    Unit { name: String },
    Units { glob: String },
    UnitDo { name: String, action: UnitAction, deadline: Duration },
    Containers { query: ContainerQuery },
    StopContainer { id: String, grace: Duration },
    Processes { query: ProcessQuery },
    Listeners,
    Reach { addresses: Vec<String>, timeout: Duration },
    Health { query: HealthQuery, timeout: Duration },
}

/// gRPC messages that are frames.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FrameCodec;

impl Codec for FrameCodec {
    type Encode = Frame;
    type Decode = Frame;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for FrameCodec {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, frame: Frame, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let (tag, bytes) = frame.parts();
        buffer.reserve(1 + bytes.len());
        buffer.put_u8(tag);
        buffer.put_slice(bytes);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER + 1024, BUFFER)
    }
}

impl Decoder for FrameCodec {
    type Item = Frame;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Frame>, Status> {
        let message = buffer.copy_to_bytes(buffer.remaining());
        Frame::parse(message).map(Some).map_err(Status::data_loss)
    }
}

/// A stream of bytes as frames, the closing one included. Compression runs beside
/// the sending, and rests while it does not pay.
pub(crate) fn pack(bytes: ByteStream) -> BoxStream<'static, Result<Frame, NodeError>> {
    let rest = Arc::new(Rest::default());
    pieces(bytes)
        .map(move |piece| {
            let rest = rest.clone();
            async move {
                let piece = piece?;
                if rest.skips() {
                    return Ok(Frame::Plain(piece));
                }
                let plain = piece.clone();
                let task = tokio::task::spawn_blocking(move || compress(&plain));
                match task.await {
                    Ok(Ok(packed)) if packed.len() < piece.len() / 16 * 15 => {
                        rest.paid();
                        Ok(Frame::Packed(packed.into()))
                    }
                    _ => {
                        rest.did_not_pay();
                        Ok(Frame::Plain(piece))
                    }
                }
            }
        })
        .buffered(PACKING)
        .chain(stream::once(async { Ok(Frame::Finish) }))
        // An error ends the stream: what follows it is no part of it.
        .scan(false, |failed, frame| {
            let item = (!*failed).then_some(frame);
            *failed |= matches!(item, Some(Err(_)));
            async move { item }
        })
        .boxed()
}

/// How long compression rests.
#[derive(Debug, Default)]
struct Rest {
    left: AtomicU32,
    next: AtomicU32,
}

impl Rest {
    fn skips(&self) -> bool {
        let less = |left: u32| left.checked_sub(1);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn paid(&self) {
        self.next.store(0, Ordering::Relaxed);
    }

    fn did_not_pay(&self) {
        let next = (self.next.load(Ordering::Relaxed) * 2).clamp(1, PATIENCE);
        self.next.store(next, Ordering::Relaxed);
        self.left.store(next, Ordering::Relaxed);
    }
}

/// The same bytes in pieces of [`PIECE`], the last one as it comes.
fn pieces(bytes: ByteStream) -> impl futures_util::Stream<Item = Result<Bytes, NodeError>> {
    struct State {
        bytes: ByteStream,
        current: Bytes,
        gathered: BytesMut,
        ended: bool,
    }
    let state = State { bytes, current: Bytes::new(), gathered: BytesMut::new(), ended: false };
    stream::unfold(state, async |mut state| {
        loop {
            if state.gathered.is_empty() && state.current.len() >= PIECE {
                return Some((Ok(state.current.split_to(PIECE)), state));
            }
            let take = state.current.len().min(PIECE - state.gathered.len());
            if take > 0 {
                state.gathered.put(state.current.split_to(take));
            }
            if state.gathered.len() == PIECE || (state.ended && !state.gathered.is_empty()) {
                return Some((Ok(state.gathered.split().freeze()), state));
            }
            if state.ended {
                return None;
            }
            match state.bytes.next().await {
                Some(Ok(next)) => state.current = next,
                Some(Err(error)) => {
                    state.ended = true;
                    state.gathered.clear();
                    state.current = Bytes::new();
                    return Some((Err(error), state));
                }
                None => state.ended = true,
            }
        }
    })
}

/// A piece as one zstd frame with its size and a checksum, as a vault stores them.
fn compress(plain: &[u8]) -> io::Result<Vec<u8>> {
    // An encoder's tables cost more to make than a small piece to compress.
    thread_local! {
        static ENCODER: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    }
    ENCODER.with_borrow_mut(|kept| {
        let encoder = match kept {
            Some(encoder) => encoder,
            None => {
                let mut encoder = Compressor::new(1)?;
                encoder.set_parameter(CParameter::ChecksumFlag(true))?;
                kept.insert(encoder)
            }
        };
        encoder.compress(plain)
    })
}

/// A piece as it was before it was packed.
pub(crate) fn unpack(packed: &[u8]) -> Result<Bytes, String> {
    thread_local! {
        static DECODER: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
    }
    let size = zstd::zstd_safe::get_frame_content_size(packed).ok().flatten();
    let size = size.and_then(|size| usize::try_from(size).ok()).unwrap_or(PIECE_LIMIT);
    if size > PIECE_LIMIT {
        return Err(format!("a packed piece holds {size} bytes where {PIECE_LIMIT} are allowed"));
    }
    DECODER
        .with_borrow_mut(|kept| {
            let decoder = match kept {
                Some(decoder) => decoder,
                None => kept.insert(Decompressor::new()?),
            };
            decoder.decompress(packed, size)
        })
        .map(Bytes::from)
        .map_err(|error: io::Error| format!("a packed piece does not unpack: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{NodeErrorKind, NodeName};

    fn encode(frame: &Frame) -> Bytes {
        let (tag, bytes) = frame.parts();
        let mut message = vec![tag];
        message.extend_from_slice(bytes);
        message.into()
    }

    async fn through(chunks: Vec<Bytes>) -> (Vec<Frame>, Vec<u8>) {
        let frames: Vec<_> = pack(stream::iter(chunks.into_iter().map(Ok)).boxed())
            .map(|frame| Frame::parse(encode(&frame.unwrap())).unwrap())
            .collect()
            .await;
        let mut bytes = Vec::new();
        for frame in &frames {
            match frame {
                Frame::Plain(piece) => bytes.extend_from_slice(piece),
                Frame::Packed(piece) => bytes.extend_from_slice(&unpack(piece).unwrap()),
                Frame::Finish => {}
                other => panic!("{other:?}"),
            }
        }
        (frames, bytes)
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        };
        std::iter::repeat_with(next).take(length).collect()
    }

    #[tokio::test]
    async fn chunks_of_any_size_come_out_as_they_went_in() {
        for sizes in [vec![], vec![0], vec![1], vec![PIECE], vec![3 * PIECE + 1, 5, 0, 70_000]] {
            let chunks: Vec<Bytes> = sizes.iter().map(|n| Bytes::from(noise(*n))).collect();
            let whole: Vec<u8> = chunks.iter().flatten().copied().collect();
            let (frames, bytes) = through(chunks).await;
            assert_eq!(bytes, whole, "{sizes:?}");
            assert_eq!(frames.last(), Some(&Frame::Finish));
            assert_eq!(frames.len(), whole.len().div_ceil(PIECE) + 1, "{sizes:?}");
        }
    }

    #[tokio::test]
    async fn zeros_are_packed_and_noise_is_not() {
        let (frames, _) = through(vec![vec![0; 4 * PIECE].into()]).await;
        assert!(frames[..4].iter().all(|frame| matches!(frame, Frame::Packed(_))), "{frames:?}");
        let (frames, _) = through(vec![noise(4 * PIECE).into()]).await;
        assert!(frames[..4].iter().all(|frame| matches!(frame, Frame::Plain(_))));
    }

    #[tokio::test]
    async fn an_error_in_the_source_ends_the_frames_without_a_finish() {
        let node = NodeName::new("n1").unwrap();
        let error = NodeError::new(&node, NodeErrorKind::Other, "read", "no");
        let source = stream::iter([Ok(Bytes::from_static(b"abc")), Err(error)]).boxed();
        let frames: Vec<_> = pack(source).collect().await;
        assert!(matches!(frames.last(), Some(Err(_))), "{frames:?}");
        assert!(!frames.iter().any(|frame| matches!(frame, Ok(Frame::Finish))), "{frames:?}");
    }

    #[test]
    fn frames_beyond_their_limit_and_unknown_ones_are_refused() {
        for (tag, length) in [(b'v', VALUE_LIMIT + 1), (b'b', PIECE_LIMIT + 1), (b'f', 1)] {
            let mut message = vec![tag];
            message.resize(1 + length, 0);
            assert!(Frame::parse(message.into()).is_err(), "{}", tag as char);
        }
        assert!(Frame::parse(Bytes::new()).is_err());
        assert!(Frame::parse(Bytes::from_static(b"?")).is_err());
    }

    #[test]
    fn a_packed_piece_that_unpacks_beyond_the_limit_is_refused() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
        assert!(bomb.len() < PIECE_LIMIT, "{}", bomb.len());
        assert!(unpack(&bomb).is_err());
        assert!(unpack(b"no zstd at all").is_err());
        let most = zstd::bulk::compress(&vec![7; PIECE_LIMIT], 1).unwrap();
        assert_eq!(unpack(&most).unwrap().len(), PIECE_LIMIT);
    }

    /// The texts stand in the protocol's document: another text is another protocol.
    #[test]
    fn calls_are_written_as_documented() {
        let text = |call: &Call| serde_json::to_string(call).unwrap();
        assert_eq!(text(&Call::Facts), r#""facts""#);
        let call = Call::Read { path: "/a b".into(), limit: 9 };
        assert_eq!(text(&call), r#"{"read":{"path":"/a b","limit":9}}"#);
        let how = WriteHow { like: WriteLike::Path("/b".into()), replaces: None };
        let call = Call::Write { path: "/a".into(), length: 3, how };
        assert_eq!(
            text(&call),
            r#"{"write":{"path":"/a","length":3,"how":{"like":{"path":"/b"},"replaces":null}}}"#
        );
        let call = Call::UnitDo {
            name: "etcd.service".into(),
            action: UnitAction::DaemonReload,
            deadline: Duration::from_millis(1500),
        };
        assert_eq!(
            text(&call),
            r#"{"unit-do":{"name":"etcd.service","action":"daemon-reload","deadline":{"secs":1,"nanos":500000000}}}"#
        );
        assert_eq!(parse::<Call>(text(&call).as_bytes()).unwrap(), call);
    }
}
