//! Stored bytes in, plain bytes out, everything checked on the way:
//! SHA-256 → age → frames → decoding on several threads → SHA-256.
//!
//! The end is reported only after both sizes, both digests, every frame and the
//! seek table have matched what the manifest says.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::Builder;

use bytes::Bytes;
use tokio::sync::mpsc as tokio_mpsc;

use super::frame::{self, FrameDecoder, FrameSplitter, RawFrame};
use super::table::{FrameEntry, FrameTable};
use crate::digest::{Sha256, Tally};
use crate::encryption::{self, EncryptionError, Identities};
use crate::store::StoreError;

/// What an object must turn out to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) stored_size: u64,
    pub(crate) stored_sha256: Sha256,
    pub(crate) plain_size: u64,
    /// `None` where the caller hashes the plain bytes itself.
    pub(crate) plain_sha256: Option<Sha256>,
    pub(crate) frames: u64,
    pub(crate) frame_table_sha256: Sha256,
}

/// How deep the reading goes.
#[derive(Debug, Clone)]
pub(crate) enum Depth {
    /// Stored bytes only; yields nothing but the end.
    Stored,
    /// Through the frames, unencrypted.
    Plain,
    /// Through encryption and frames.
    Encrypted(Identities),
}

/// Why an object cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("read stored bytes")]
    Store(#[source] StoreError),
    #[error("open it")]
    Key(#[source] EncryptionError),
    #[error("{what}")]
    Corrupt { what: String, frame: Option<u64>, offset: Option<u64> },
    #[error("start a thread")]
    Thread(#[source] io::Error),
    #[error("a thread of the pipeline ended early")]
    Ended,
}

fn corrupt<T>(what: impl Into<String>) -> Result<T, ReadError> {
    Err(ReadError::Corrupt { what: what.into(), frame: None, offset: None })
}

/// Plain buffers that come back when the last reader of their bytes is done.
#[derive(Clone)]
struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

const POOL: usize = 8;

impl Pool {
    fn take(&self) -> Vec<u8> {
        self.0.lock().ok().and_then(|mut spare| spare.pop()).unwrap_or_default()
    }
}

struct Pooled {
    bytes: Vec<u8>,
    pool: Pool,
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if let Ok(mut spare) = self.pool.0.lock()
            && spare.len() < POOL
        {
            spare.push(std::mem::take(&mut self.bytes));
        }
    }
}

/// What comes out: plain bytes, `None` once at the good end.
pub(crate) type Out = Result<Option<Bytes>, ReadError>;
/// Stored bytes on their way in.
pub(crate) type In = Result<Bytes, StoreError>;

/// Starts the threads. `progress` counts stored bytes.
pub(crate) fn start(
    expected: Expected,
    depth: Depth,
    workers: usize,
    input: tokio_mpsc::Receiver<In>,
    progress: Arc<AtomicU64>,
) -> Result<tokio_mpsc::Receiver<Out>, ReadError> {
    let workers = workers.clamp(1, 64);
    let (out, received) = tokio_mpsc::channel(1);
    let (ended, end) = channel();
    let (spare_sender, spare) = channel();
    let pool = Pool(Arc::default());
    let (mut to_workers, mut from_workers) = (Vec::new(), Vec::new());
    for _ in 0..workers {
        let (to, frames) = sync_channel(1);
        // Handed over, not queued: each waiting frame would cost its 4 MiB.
        let (plain, from) = sync_channel(0);
        let (pool, spare) = (pool.clone(), spare_sender.clone());
        spawn("vault-decompress", move || decode(&frames, &plain, &spare, &pool))?;
        to_workers.push(to);
        from_workers.push(from);
    }
    let source = Source {
        input,
        tally: Tally::default(),
        current: Bytes::new(),
        limit: expected.stored_size,
        failed: None,
        progress,
    };
    let through = !matches!(depth, Depth::Stored);
    spawn("vault-stored", move || {
        let splitting = Splitting { expected, workers: to_workers, spare };
        let result = read_stored(source, &depth, splitting);
        // A reader that is gone does not want to know.
        let _ = ended.send(result);
    })?;
    spawn("vault-plain", move || deliver(expected, through, from_workers, &end, &out))?;
    Ok(received)
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), ReadError> {
    Builder::new().name(name.into()).spawn(body).map(drop).map_err(ReadError::Thread)
}

struct Job {
    number: u64,
    offset: u64,
    bytes: Vec<u8>,
    plain: u32,
}

type Decoded = Result<Bytes, ReadError>;

fn decode(jobs: &Receiver<Job>, plain: &SyncSender<Decoded>, spare: &Sender<Vec<u8>>, pool: &Pool) {
    let Ok(mut decoder) = FrameDecoder::new() else { return };
    while let Ok(job) = jobs.recv() {
        let mut out = pool.take();
        let result = decoder.decode(&job.bytes, job.plain, &mut out);
        let decoded = match result {
            Ok(()) => Ok(Bytes::from_owner(Pooled { bytes: out, pool: pool.clone() })),
            Err(error) => Err(ReadError::Corrupt {
                what: error.why.into(),
                frame: Some(job.number),
                offset: Some(job.offset),
            }),
        };
        let _ = spare.send(job.bytes);
        if plain.send(decoded).is_err() {
            return;
        }
    }
}

/// The stored bytes, counted and hashed as they are taken.
struct Source {
    input: tokio_mpsc::Receiver<In>,
    tally: Tally,
    current: Bytes,
    limit: u64,
    failed: Option<ReadError>,
    progress: Arc<AtomicU64>,
}

impl Source {
    fn next_chunk(&mut self) -> Result<Option<Bytes>, ReadError> {
        let chunk = match self.input.blocking_recv() {
            None => return Ok(None),
            Some(Ok(chunk)) => chunk,
            Some(Err(error)) => return Err(ReadError::Store(error)),
        };
        self.tally.update(&chunk);
        self.progress.store(self.tally.size(), Ordering::Relaxed);
        if self.tally.size() > self.limit {
            return corrupt(format!("it is longer than the {} bytes that were stored", self.limit));
        }
        Ok(Some(chunk))
    }

    fn drain(&mut self) -> Result<(), ReadError> {
        while self.next_chunk()?.is_some() {}
        Ok(())
    }

    fn check(self, expected: &Expected) -> Result<(), ReadError> {
        let (size, sha256) = self.tally.finish();
        if size != expected.stored_size {
            return corrupt(format!("{size} bytes are stored of {}", expected.stored_size));
        }
        if sha256 != expected.stored_sha256 {
            return corrupt("its stored bytes do not match their SHA-256");
        }
        Ok(())
    }
}

impl Read for Source {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.next_chunk() {
                Ok(Some(chunk)) => self.current = chunk,
                Ok(None) => return Ok(0),
                Err(error) => {
                    self.failed = Some(error);
                    return Err(io::Error::other("the store failed"));
                }
            }
        }
        let take = buf.len().min(self.current.len());
        buf[..take].copy_from_slice(&self.current[..take]);
        bytes::Buf::advance(&mut self.current, take);
        Ok(take)
    }
}

struct Splitting {
    expected: Expected,
    workers: Vec<SyncSender<Job>>,
    spare: Receiver<Vec<u8>>,
}

fn read_stored(mut source: Source, depth: &Depth, splitting: Splitting) -> Result<(), ReadError> {
    let expected = splitting.expected;
    match depth {
        Depth::Stored => source.drain()?,
        Depth::Plain => {
            let mut splitter = splitting.begin()?;
            while let Some(chunk) = source.next_chunk()? {
                splitter.push(&chunk)?;
            }
            splitter.finish()?;
        }
        Depth::Encrypted(identities) => read_encrypted(&mut source, identities, splitting)?,
    }
    source.check(&expected)
}

fn read_encrypted(
    source: &mut Source,
    identities: &Identities,
    splitting: Splitting,
) -> Result<(), ReadError> {
    let expected = splitting.expected;
    let opened = encryption::decrypt(&mut *source, identities);
    let mut reader = match opened {
        Ok(reader) => reader,
        Err(error) => return Err(unopened(source, error, &expected)),
    };
    let mut splitter = splitting.begin()?;
    let mut buffer = vec![0; 64 * 1024];
    let result = loop {
        match reader.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(count) => splitter.push(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
    };
    drop(reader);
    match result {
        Ok(()) => splitter.finish(),
        Err(_) => Err(source.failed.take().unwrap_or_else(|| ReadError::Corrupt {
            what: "its encrypted bytes were changed or cut short".into(),
            frame: None,
            offset: Some(source.tally.size()),
        })),
    }
}

/// Whether the key or the header is wrong: a damaged header looks like the wrong
/// key, and only the digest of the whole tells them apart.
fn unopened(source: &mut Source, error: EncryptionError, expected: &Expected) -> ReadError {
    if let Some(failed) = source.failed.take() {
        return failed;
    }
    let whole = source.drain().and_then(|()| {
        let taken = Source {
            input: tokio_mpsc::channel(1).1,
            tally: std::mem::take(&mut source.tally),
            current: Bytes::new(),
            limit: source.limit,
            failed: None,
            progress: Arc::clone(&source.progress),
        };
        taken.check(expected)
    });
    match (whole, error) {
        (Err(failed), _) => failed,
        (Ok(()), EncryptionError::Damaged) => ReadError::Corrupt {
            what: "its encryption header is damaged".into(),
            frame: None,
            offset: Some(0),
        },
        (Ok(()), error) => ReadError::Key(error),
    }
}

impl Splitting {
    fn begin(self) -> Result<Splitter, ReadError> {
        let limit = FrameTable::encoded_size(self.expected.frames)
            .and_then(|size| usize::try_from(size).ok());
        let Some(limit) = limit else { return corrupt("it has more frames than allowed") };
        Ok(Splitter {
            frames: FrameSplitter::new(limit),
            entries: Vec::new(),
            offset: 0,
            plain: 0,
            table_seen: false,
            to: self,
        })
    }
}

struct Splitter {
    to: Splitting,
    frames: FrameSplitter,
    entries: Vec<FrameEntry>,
    /// Where the next frame begins.
    offset: u64,
    plain: u64,
    table_seen: bool,
}

impl Splitter {
    fn here(&self, what: impl Into<String>) -> ReadError {
        ReadError::Corrupt {
            what: what.into(),
            frame: Some(self.entries.len() as u64),
            offset: Some(self.offset),
        }
    }

    fn push(&mut self, mut chunk: &[u8]) -> Result<(), ReadError> {
        loop {
            let spare = || self.to.spare.try_recv().unwrap_or_default();
            match self.frames.push(&mut chunk, spare) {
                Ok(None) => return Ok(()),
                Ok(Some(RawFrame::Data { bytes, plain })) => self.frame(bytes, plain)?,
                Ok(Some(RawFrame::Table(bytes))) => self.table(&bytes)?,
                Err(error) => return Err(self.here(error.why)),
            }
        }
    }

    fn frame(&mut self, bytes: Vec<u8>, plain: u32) -> Result<(), ReadError> {
        let number = self.entries.len() as u64;
        self.plain += u64::from(plain);
        if number == self.to.expected.frames || self.plain > self.to.expected.plain_size {
            return Err(self.here("there is more content than the manifest says"));
        }
        let entry = frame::entry(&bytes, plain);
        let offset = self.offset;
        self.offset += bytes.len() as u64;
        self.entries.push(entry);
        let worker = (number % self.to.workers.len() as u64) as usize;
        self.to.workers[worker]
            .send(Job { number, offset, bytes, plain })
            .map_err(|_| ReadError::Ended)
    }

    fn table(&mut self, bytes: &[u8]) -> Result<(), ReadError> {
        self.table_seen = true;
        let table = FrameTable::decode(bytes).map_err(|error| self.here(error.why))?;
        if table.frames != self.entries || table.frames.len() as u64 != self.to.expected.frames {
            return Err(self.here("the seek table does not describe the frames before it"));
        }
        if Sha256::of(bytes) != self.to.expected.frame_table_sha256 {
            return Err(self.here("the seek table does not match its SHA-256"));
        }
        Ok(())
    }

    fn finish(self) -> Result<(), ReadError> {
        self.frames.finish().map_err(|error| self.here(error.why))?;
        if self.table_seen { Ok(()) } else { Err(self.here("there is no seek table")) }
    }
}

fn deliver(
    expected: Expected,
    through: bool,
    workers: Vec<Receiver<Decoded>>,
    end: &Receiver<Result<(), ReadError>>,
    out: &tokio_mpsc::Sender<Out>,
) {
    let mut tally = expected.plain_sha256.map(|_| Tally::default());
    let mut size = 0;
    for worker in workers.iter().cycle() {
        match worker.recv() {
            Err(_) => break,
            Ok(Ok(plain)) => {
                size += plain.len() as u64;
                if let Some(tally) = &mut tally {
                    tally.update(&plain);
                }
                // An empty frame is no chunk.
                if !plain.is_empty() && out.blocking_send(Ok(Some(plain))).is_err() {
                    return;
                }
            }
            Ok(Err(error)) => {
                let _ = out.blocking_send(Err(error));
                return;
            }
        }
    }
    // Where a worker was lost, the others must not wait for this thread.
    drop(workers);
    let last = match end.recv() {
        Err(_) => Err(ReadError::Ended),
        Ok(Err(error)) => Err(error),
        Ok(Ok(())) => {
            let sha256 = tally.map(|tally| tally.finish().1);
            if !through {
                Ok(None)
            } else if size != expected.plain_size {
                corrupt(format!("{size} plain bytes of {} came out", expected.plain_size))
            } else if sha256 != expected.plain_sha256 {
                corrupt("its plain bytes do not match their SHA-256")
            } else {
                Ok(None)
            }
        }
    };
    let _ = out.blocking_send(last);
}
