//! Objects on their way out of the vault, every byte checked.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::{ReadOptions, Repository, RepositoryError, Result};
use crate::compression::frame::{FrameDecoder, FrameSplitter, RawFrame};
use crate::compression::reader::{self, Depth, Expected, Out, ReadError};
use crate::compression::table::FrameTable;
use crate::digest::Sha256;
use crate::encryption::{self, Identities};
use crate::manifest::ObjectRecord;
use crate::store::{Download, ErrorKind, Key, Store, StoreError};

/// Chunks that are fetched ahead.
const AHEAD: usize = 8;
/// What is read at once where decryption jumps about.
const BLOCK: u64 = 256 * 1024;
/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(100);

/// An object's plain bytes, verified on the way: the end is reported only after
/// sizes, digests, frames and seek table have all matched.
#[derive(Debug)]
pub struct ObjectReader {
    object: String,
    out: mpsc::Receiver<Out>,
    ended: bool,
    progress: Arc<AtomicU64>,
}

impl ObjectReader {
    /// The next bytes, at most one frame; `None` when everything has matched.
    /// After an error there is nothing more but that error's like.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        let out = self.out.recv().await;
        self.take(out)
    }

    /// The same for a thread outside the runtime; panics inside one.
    pub fn next_blocking(&mut self) -> Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        let out = self.out.blocking_recv();
        self.take(out)
    }

    fn take(&mut self, out: Option<Out>) -> Result<Option<Bytes>> {
        match out {
            Some(Ok(Some(chunk))) => Ok(Some(chunk)),
            Some(Ok(None)) => {
                self.ended = true;
                Ok(None)
            }
            Some(Err(error)) => Err(RepositoryError::read(&self.object, error)),
            None => Err(RepositoryError::read(&self.object, ReadError::Ended)),
        }
    }

    /// Stored bytes read so far.
    pub fn stored_read(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }
}

/// What reading every stored byte showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredReport {
    /// Stored bytes read, all matching their digest.
    pub stored: u64,
    /// Frames decoded and matching; `None` when there was no key to look inside.
    pub frames: Option<u64>,
}

impl Repository {
    /// Streams an object's plain bytes, verified. Must be called within a tokio
    /// runtime.
    pub async fn open_object(
        &self,
        record: &ObjectRecord,
        options: &ReadOptions,
    ) -> Result<ObjectReader> {
        let depth = self.depth(record)?;
        self.open_at(record, depth, options).await
    }

    /// Reads every stored byte against its digest, and every frame where the
    /// object is not encrypted or the vault is unlocked. `progress` is told the
    /// stored bytes read so far, ten times a second.
    pub async fn verify_stored(
        &self,
        record: &ObjectRecord,
        options: &ReadOptions,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<StoredReport> {
        let depth = match self.depth(record) {
            Err(RepositoryError::KeyNeeded { .. }) => Depth::Stored,
            other => other?,
        };
        let frames = (!matches!(depth, Depth::Stored)).then_some(record.frames);
        let mut reader = self.open_at(record, depth, options).await?;
        let mut ticks = tokio::time::interval(PROGRESS);
        loop {
            tokio::select! {
                next = reader.next() => if next?.is_none() { break },
                _ = ticks.tick() => progress(reader.stored_read()),
            }
        }
        progress(reader.stored_read());
        Ok(StoredReport { stored: record.stored_size, frames })
    }

    /// Some of an object's plain bytes, which the caller has memory for. Only the
    /// frames that hold them, and the seek table, are read, decrypted and checked.
    pub async fn read_range(&self, record: &ObjectRecord, range: Range<u64>) -> Result<Bytes> {
        if range.start > range.end || range.end > record.plain_size {
            let (start, end) = (range.start, range.end);
            return Err(RepositoryError::Range { object: record.key.clone(), start, end });
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let depth = self.depth(record)?;
        let key = record.key().map_err(|error| RepositoryError::manifest(&record.key, error))?;
        let stored = Ranged {
            handle: Handle::current(),
            store: Arc::clone(&self.store),
            key,
            size: record.stored_size,
            at: 0,
            block: (0, Bytes::new()),
            block_size: BLOCK,
            failed: Arc::default(),
        };
        let record = record.clone();
        let work = move || read_range(stored, &record, range, &depth);
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => Err(RepositoryError::internal("a range of an object", error)),
        }
    }

    fn depth(&self, record: &ObjectRecord) -> Result<Depth> {
        match (&self.identities, record.encryption.is_encrypted()) {
            (_, false) => Ok(Depth::Plain),
            (Some(identities), true) => Ok(Depth::Encrypted(identities.clone())),
            (None, true) => Err(RepositoryError::KeyNeeded { object: record.key.clone() }),
        }
    }

    async fn open_at(
        &self,
        record: &ObjectRecord,
        depth: Depth,
        options: &ReadOptions,
    ) -> Result<ObjectReader> {
        let object = record.key.clone();
        let key = record.key().map_err(|error| RepositoryError::manifest(&object, error))?;
        let download = match self.store.get(&key, None).await {
            Err(error) if error.kind == ErrorKind::NotFound => {
                return Err(RepositoryError::corrupt(&object, "it is missing"));
            }
            other => other?,
        };
        if download.size != record.stored_size {
            let why = format!("{} bytes are stored of {}", download.size, record.stored_size);
            return Err(RepositoryError::corrupt(&object, why));
        }
        let expected = Expected {
            stored_size: record.stored_size,
            stored_sha256: record.stored_sha256,
            plain_size: record.plain_size,
            plain_sha256: options.hash_plain.then_some(record.plain_sha256),
            frames: record.frames,
            frame_table_sha256: record.frame_table_sha256,
        };
        let progress = Arc::new(AtomicU64::new(0));
        let (fetched, input) = mpsc::channel(AHEAD);
        let out = reader::start(expected, depth, options.workers, input, Arc::clone(&progress))
            .map_err(|error| RepositoryError::read(&object, error))?;
        tokio::spawn(fetch(download, fetched));
        Ok(ObjectReader { object, out, ended: false, progress })
    }
}

/// Feeds the threads until the end, an error, or nobody wants more.
async fn fetch(mut download: Download, to: mpsc::Sender<Result<Bytes, StoreError>>) {
    while let Some(chunk) = download.stream.next().await {
        let last = chunk.is_err();
        if to.send(chunk).await.is_err() || last {
            return;
        }
    }
}

fn read_range(
    mut stored: Ranged,
    record: &ObjectRecord,
    range: Range<u64>,
    depth: &Depth,
) -> Result<Bytes> {
    let failed = Arc::clone(&stored.failed);
    let result = match depth {
        Depth::Encrypted(identities) => read_encrypted_range(stored, record, range, identities),
        Depth::Plain | Depth::Stored => {
            // Frames and table are read in one piece each.
            stored.block_size = 0;
            read_frames(&mut stored, record, range)
        }
    };
    // What the store said is more than that reading failed.
    let stored_error = failed.lock().ok().and_then(|mut failed| failed.take());
    match (result, stored_error) {
        (Err(_), Some(error)) if error.kind == ErrorKind::NotFound => {
            Err(RepositoryError::corrupt(&record.key, "it is missing"))
        }
        (Err(_), Some(error)) if error.kind == ErrorKind::InvalidRange => {
            Err(RepositoryError::corrupt(&record.key, "it was cut short"))
        }
        (Err(_), Some(error)) => Err(error.into()),
        (result, _) => result,
    }
}

fn read_encrypted_range(
    stored: Ranged,
    record: &ObjectRecord,
    range: Range<u64>,
    identities: &Identities,
) -> Result<Bytes> {
    let mut reader = encryption::decrypt(stored, identities)
        .map_err(|error| RepositoryError::key(&record.key, error))?;
    read_frames(&mut reader, record, range)
}

/// Reads a range through the seek table of the frames in `source`.
fn read_frames<R: Read + Seek>(
    source: &mut R,
    record: &ObjectRecord,
    range: Range<u64>,
) -> Result<Bytes> {
    let object = &record.key;
    let corrupt = |why: &str| RepositoryError::corrupt(object, why);
    let unreadable = |_: io::Error| corrupt("its bytes were changed or cut short");
    let size = FrameTable::encoded_size(record.frames)
        .ok_or_else(|| corrupt("it has more frames than allowed"))?;
    let end = source.seek(SeekFrom::End(0)).map_err(unreadable)?;
    let begin = end.checked_sub(size).ok_or_else(|| corrupt("it has no room for its table"))?;
    source.seek(SeekFrom::Start(begin)).map_err(unreadable)?;
    let mut bytes = vec![0; size as usize];
    source.read_exact(&mut bytes).map_err(unreadable)?;
    if Sha256::of(&bytes) != record.frame_table_sha256 {
        return Err(corrupt("the seek table does not match its SHA-256"));
    }
    let table = FrameTable::decode(&bytes).map_err(|error| corrupt(error.why))?;
    if table.sizes() != (begin, record.plain_size) {
        return Err(corrupt("the seek table does not add up to the object's size"));
    }
    let found = table.covering(range.clone());
    let mut plain = Vec::with_capacity((range.end - range.start) as usize);
    let (mut stored, mut content) = (Vec::new(), Vec::new());
    let mut decoder =
        FrameDecoder::new().map_err(|error| RepositoryError::internal(object, error))?;
    for frame in found {
        let damaged = |why: &str| RepositoryError::Corrupt {
            object: object.clone(),
            frame: Some(frame.number),
            offset: Some(frame.stored_offset),
            why: why.to_owned(),
            source: None,
        };
        source.seek(SeekFrom::Start(frame.stored_offset)).map_err(unreadable)?;
        stored.resize(frame.entry.stored as usize, 0);
        source
            .read_exact(&mut stored)
            .map_err(|_| damaged("its bytes were changed or cut short"))?;
        match FrameSplitter::new(0).push(&mut &stored[..], Vec::new) {
            Ok(Some(RawFrame::Data { bytes, plain }))
                if bytes.len() == stored.len() && plain == frame.entry.plain => {}
            _ => return Err(damaged("it is not the frame that the table describes")),
        }
        if crate::compression::frame::stated_checksum(&stored) != frame.entry.checksum {
            return Err(damaged("its checksum is not the one in the table"));
        }
        decoder
            .decode(&stored, frame.entry.plain, &mut content)
            .map_err(|error| damaged(error.why))?;
        let from = range.start.saturating_sub(frame.plain_offset) as usize;
        let to = (range.end - frame.plain_offset).min(content.len() as u64) as usize;
        plain.extend_from_slice(&content[from..to]);
    }
    Ok(plain.into())
}

/// An object as something to jump about in, for a thread outside the runtime.
struct Ranged {
    handle: Handle,
    store: Arc<dyn Store>,
    key: Key,
    size: u64,
    at: u64,
    /// Where the bytes at hand begin, and those bytes.
    block: (u64, Bytes),
    /// At least this much is read at once.
    block_size: u64,
    failed: Arc<std::sync::Mutex<Option<StoreError>>>,
}

impl Ranged {
    fn fetch(&mut self, wanted: u64) -> io::Result<()> {
        let end = self.size.min(self.at.saturating_add(wanted.max(self.block_size)));
        let range = self.at..end;
        let fetched = self.handle.block_on(async {
            let mut download = self.store.get(&self.key, Some(range.clone())).await?;
            let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
            while let Some(chunk) = download.stream.next().await {
                bytes.extend_from_slice(&chunk?);
                if bytes.len() as u64 > range.end - range.start {
                    break;
                }
            }
            if download.size != self.size || bytes.len() as u64 != range.end - range.start {
                let act = format!("read a range of {}", self.key);
                return Err(StoreError::new(ErrorKind::InvalidRange, act));
            }
            Ok(bytes)
        });
        match fetched {
            Ok(bytes) => {
                self.block = (self.at, bytes.into());
                Ok(())
            }
            Err(error) => {
                if let Ok(mut failed) = self.failed.lock() {
                    *failed = Some(error);
                }
                Err(io::Error::other("the store failed"))
            }
        }
    }
}

impl Read for Ranged {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.size || buf.is_empty() {
            return Ok(0);
        }
        let inside = |block: &(u64, Bytes), at: u64| {
            at.checked_sub(block.0).filter(|within| *within < block.1.len() as u64)
        };
        if inside(&self.block, self.at).is_none() {
            self.fetch(buf.len() as u64)?;
        }
        let Some(within) = inside(&self.block, self.at) else { return Ok(0) };
        let rest = &self.block.1[within as usize..];
        let take = rest.len().min(buf.len());
        buf[..take].copy_from_slice(&rest[..take]);
        self.at += take as u64;
        Ok(take)
    }
}

impl Seek for Ranged {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = to.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}
