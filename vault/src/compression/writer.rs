//! Plain bytes in, stored bytes out: gather → SHA-256 → zstd frames on several
//! threads → seek table → age → SHA-256.
//!
//! Frame `n` goes to worker `n mod workers` and is collected from there, so that
//! order needs no sorting. The number of plain buffers bounds everything before
//! the collector; what follows it is bounded by whatever takes the output.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{Builder, JoinHandle};

use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zstd::zstd_safe::{CParameter, Strategy};

use super::frame::{self, FrameError};
use super::table::FrameTable;
use super::{FRAME_SIZE, LEVEL};
use crate::digest::{Sha256, Tally};
use crate::encryption::{EncryptionError, Encryptor};

/// Frames that came as such and are in the pipeline at once.
const READY: usize = 8;

/// Encrypted output is handed on in pieces of this size.
const OUTPUT_CHUNK: usize = 1 << 20;

/// Where the pipeline's output goes; called on the collecting thread.
pub(crate) trait Sink: Send + 'static {
    /// Takes the next stored bytes; waits while there is no room.
    fn accept(&mut self, chunk: Bytes) -> io::Result<()>;
}

/// What the pipeline made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) plain_size: u64,
    /// `None` where the caller hashes the plain bytes itself.
    pub(crate) plain_sha256: Option<Sha256>,
    pub(crate) stored_size: u64,
    pub(crate) stored_sha256: Sha256,
    pub(crate) frames: u64,
    pub(crate) frame_table_sha256: Sha256,
}

/// Why the pipeline stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PipelineError {
    #[error("compress a frame")]
    Compress(#[source] FrameError),
    #[error("encrypt the object")]
    Encrypt(#[source] EncryptionError),
    #[error("hand on stored bytes")]
    Output(#[source] io::Error),
    #[error("start a thread")]
    Thread(#[source] io::Error),
    #[error("the object has more frames than a seek table holds")]
    TooManyFrames,
    #[error("a thread of the pipeline ended early")]
    Ended,
}

/// An encoder that is reused from frame to frame.
pub(crate) struct FrameEncoder(zstd::bulk::Compressor<'static>);

impl FrameEncoder {
    pub(crate) fn new(level: i32) -> Result<Self, FrameError> {
        let set = || -> io::Result<_> {
            let mut encoder = zstd::bulk::Compressor::new(level)?;
            encoder.set_parameter(CParameter::ChecksumFlag(true))?;
            encoder.set_parameter(CParameter::ContentSizeFlag(true))?;
            if level == LEVEL {
                // What repeats in a store of Kubernetes objects repeats at length: one
                // table of long matches finds it in two thirds of the time, and misses
                // only what would have saved one or two per cent of other data.
                encoder.set_parameter(CParameter::Strategy(Strategy::ZSTD_fast))?;
                encoder.set_parameter(CParameter::WindowLog(21))?;
                encoder.set_parameter(CParameter::HashLog(17))?;
                encoder.set_parameter(CParameter::MinMatch(7))?;
            }
            Ok(encoder)
        };
        set().map(Self).map_err(|_| FrameError { why: "the encoder does not take its settings" })
    }

    /// Replaces `out` with the frame of `plain`.
    pub(crate) fn encode(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
        out.clear();
        out.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        self.0
            .compress_to_buffer(plain, out)
            .map(drop)
            .map_err(|_| FrameError { why: "the encoder failed" })
    }
}

enum Feed {
    Frame(Vec<u8>),
    Ready(Bytes, Ready),
    Finish,
}

/// A frame that came as one.
struct Ready {
    frame: Bytes,
    plain: u32,
    /// Bounds how many there are.
    _place: OwnedSemaphorePermit,
}

/// What a worker gets.
enum Work {
    Plain(Vec<u8>),
    Ready(Ready),
}

/// What the hashing thread knows when all frames have passed.
struct End {
    frames: u64,
    size: u64,
    sha256: Option<Sha256>,
}

/// The plain end of a running pipeline. Dropped without `finish`, the pipeline
/// ends in [`PipelineError::Ended`].
pub(crate) struct Pipeline {
    frame: Vec<u8>,
    feed: Sender<Feed>,
    free: UnboundedReceiver<Vec<u8>>,
    buffers_left: usize,
    ready: Arc<Semaphore>,
    fed: u64,
}

/// The far end of a pipeline; join it for the result.
pub(crate) type Collector = JoinHandle<Result<Written, PipelineError>>;

impl Pipeline {
    /// Starts the threads.
    pub(crate) fn start(
        level: i32,
        workers: usize,
        hash: bool,
        encryptor: Option<Encryptor>,
        sink: impl Sink,
    ) -> Result<(Self, Collector), PipelineError> {
        let workers = workers.clamp(1, 64);
        let (feed, fed) = channel();
        let (free_sender, free) = unbounded_channel();
        let (end_sender, end) = channel();
        let (mut to_workers, mut from_workers) = (Vec::new(), Vec::new());
        for _ in 0..workers {
            let (to, input) = channel();
            let (output, from) = sync_channel(1);
            let free = free_sender.clone();
            spawn("vault-compress", move || compress(level, &input, &output, &free))?;
            to_workers.push(to);
            from_workers.push(from);
        }
        spawn("vault-plain-hash", move || {
            distribute(&fed, hash, &to_workers, &end_sender);
        })?;
        let collector = Builder::new()
            .name("vault-collect".into())
            .spawn(move || collect(from_workers, &end, encryptor, sink))
            .map_err(PipelineError::Thread)?;
        let (frame, ready) = (Vec::new(), Arc::new(Semaphore::new(READY)));
        let pipeline = Self { frame, feed, free, buffers_left: workers + 1, ready, fed: 0 };
        Ok((pipeline, collector))
    }

    /// Takes plain bytes. `false` when the pipeline has stopped: its collector
    /// says why.
    pub(crate) async fn write(&mut self, mut chunk: &[u8]) -> bool {
        while !chunk.is_empty() {
            if self.frame.capacity() == 0 {
                match self.buffer().await {
                    Some(buffer) => self.frame = buffer,
                    None => return false,
                }
            }
            let take = chunk.len().min(FRAME_SIZE - self.frame.len());
            self.frame.extend_from_slice(&chunk[..take]);
            chunk = &chunk[take..];
            if self.frame.len() == FRAME_SIZE && !self.feed_frame() {
                return false;
            }
        }
        true
    }

    /// Takes `plain`, the content of `frame`, which is stored as it is. `false` as with
    /// [`Pipeline::write`].
    pub(crate) async fn write_ready(&mut self, plain: Bytes, frame: Bytes) -> bool {
        if !self.frame.is_empty() && !self.feed_frame() {
            return false;
        }
        // It is never closed.
        let Ok(place) = Arc::clone(&self.ready).acquire_owned().await else { return false };
        self.fed += 1;
        let ready = Ready { frame, plain: plain.len() as u32, _place: place };
        self.feed.send(Feed::Ready(plain, ready)).is_ok()
    }

    /// No more bytes follow. An object without any has one empty frame.
    pub(crate) fn finish(mut self) -> bool {
        if (!self.frame.is_empty() || self.fed == 0) && !self.feed_frame() {
            return false;
        }
        self.feed.send(Feed::Finish).is_ok()
    }

    fn feed_frame(&mut self) -> bool {
        self.fed += 1;
        self.feed.send(Feed::Frame(std::mem::take(&mut self.frame))).is_ok()
    }

    async fn buffer(&mut self) -> Option<Vec<u8>> {
        if let Ok(buffer) = self.free.try_recv() {
            return Some(buffer);
        }
        if self.buffers_left > 0 {
            self.buffers_left -= 1;
            return Some(Vec::with_capacity(FRAME_SIZE));
        }
        self.free.recv().await
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), PipelineError> {
    Builder::new().name(name.into()).spawn(body).map(drop).map_err(PipelineError::Thread)
}

/// Counts frames, hashes them when asked to, and hands each to its worker.
fn distribute(fed: &Receiver<Feed>, hash: bool, workers: &[Sender<Work>], end: &Sender<End>) {
    let (mut tally, mut size, mut frames) = (hash.then(Tally::default), 0, 0u64);
    let mut count = |plain: &[u8]| {
        size += plain.len() as u64;
        if let Some(tally) = &mut tally {
            tally.update(plain);
        }
    };
    while let Ok(message) = fed.recv() {
        let work = match message {
            Feed::Frame(frame) => {
                count(&frame);
                Work::Plain(frame)
            }
            Feed::Ready(plain, ready) => {
                count(&plain);
                Work::Ready(ready)
            }
            Feed::Finish => {
                let sha256 = tally.map(|tally| tally.finish().1);
                // A collector that is gone has said why.
                let _ = end.send(End { frames, size, sha256 });
                return;
            }
        };
        let worker = (frames % workers.len() as u64) as usize;
        frames += 1;
        if workers[worker].send(work).is_err() {
            return;
        }
    }
}

type Compressed = Result<(Bytes, u32), FrameError>;

fn compress(
    level: i32,
    input: &Receiver<Work>,
    output: &SyncSender<Compressed>,
    free: &UnboundedSender<Vec<u8>>,
) {
    let mut encoder = match FrameEncoder::new(level) {
        Ok(encoder) => encoder,
        Err(error) => return drop(output.send(Err(error))),
    };
    let mut scratch = Vec::new();
    while let Ok(work) = input.recv() {
        let mut plain = match work {
            Work::Plain(plain) => plain,
            Work::Ready(ready) => {
                if output.send(Ok((ready.frame.clone(), ready.plain))).is_err() {
                    return;
                }
                continue;
            }
        };
        let size = plain.len() as u32;
        let encoded = encoder.encode(&plain, &mut scratch);
        plain.clear();
        // The writer may be done and gone.
        let _ = free.send(plain);
        // A copy of the exact size: what waits further on costs what it holds.
        if output.send(encoded.map(|()| (Bytes::copy_from_slice(&scratch), size))).is_err() {
            return;
        }
    }
}

/// Counts, hashes and hands on stored bytes; small writes are gathered.
struct Output<S> {
    sink: S,
    tally: Tally,
    gathered: Vec<u8>,
}

impl<S: Sink> Output<S> {
    fn put(&mut self, chunk: Bytes) -> io::Result<()> {
        self.tally.update(&chunk);
        self.sink.accept(chunk)
    }
}

impl<S: Sink> Write for Output<S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.gathered.capacity() == 0 {
            self.gathered.reserve_exact(OUTPUT_CHUNK);
        }
        let take = buf.len().min(OUTPUT_CHUNK - self.gathered.len());
        self.gathered.extend_from_slice(&buf[..take]);
        if self.gathered.len() == OUTPUT_CHUNK {
            self.flush()?;
        }
        Ok(take)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::take(&mut self.gathered);
        self.put(chunk.into())
    }
}

fn collect<S: Sink>(
    workers: Vec<Receiver<Compressed>>,
    end: &Receiver<End>,
    encryptor: Option<Encryptor>,
    sink: S,
) -> Result<Written, PipelineError> {
    let output = Output { sink, tally: Tally::default(), gathered: Vec::new() };
    match encryptor {
        None => {
            let (frames, mut output) =
                collect_frames(workers, end, output, |output, frame| output.put(frame))?;
            output.flush().map_err(PipelineError::Output)?;
            Ok(frames.written(output.tally))
        }
        Some(encryptor) => {
            let writer = encryptor.wrap(output).map_err(PipelineError::Encrypt)?;
            let (frames, writer) =
                collect_frames(workers, end, writer, |writer, frame| writer.write_all(&frame))?;
            let mut output = writer.finish().map_err(PipelineError::Output)?;
            output.flush().map_err(PipelineError::Output)?;
            Ok(frames.written(output.tally))
        }
    }
}

struct Collected {
    end: End,
    frame_table_sha256: Sha256,
}

impl Collected {
    fn written(self, stored: Tally) -> Written {
        let (stored_size, stored_sha256) = stored.finish();
        Written {
            plain_size: self.end.size,
            plain_sha256: self.end.sha256,
            stored_size,
            stored_sha256,
            frames: self.end.frames,
            frame_table_sha256: self.frame_table_sha256,
        }
    }
}

fn collect_frames<O>(
    workers: Vec<Receiver<Compressed>>,
    end: &Receiver<End>,
    mut output: O,
    put: impl Fn(&mut O, Bytes) -> io::Result<()>,
) -> Result<(Collected, O), PipelineError> {
    let mut table = FrameTable::default();
    for worker in workers.iter().cycle() {
        let Ok(compressed) = worker.recv() else { break };
        let (frame, plain) = compressed.map_err(PipelineError::Compress)?;
        if table.frames.len() as u64 == super::MAX_FRAMES {
            return Err(PipelineError::TooManyFrames);
        }
        table.frames.push(frame::entry(&frame, plain));
        put(&mut output, frame).map_err(PipelineError::Output)?;
    }
    // Where a worker was lost, the others must not wait for this thread.
    drop(workers);
    // Without an end somebody gave up; with another count a worker was lost.
    let end = end.recv().map_err(|_| PipelineError::Ended)?;
    if end.frames != table.frames.len() as u64 {
        return Err(PipelineError::Ended);
    }
    let table = table.encode();
    let frame_table_sha256 = Sha256::of(&table);
    put(&mut output, table.into()).map_err(PipelineError::Output)?;
    Ok((Collected { end, frame_table_sha256 }, output))
}
