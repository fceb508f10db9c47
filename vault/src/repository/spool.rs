//! The queue between the pipeline and the store: a little memory, and behind it
//! a bounded, unlinked file for a store that lags.
//!
//! Chunks come out in the order in which they went in. The file is a ring: it
//! never grows beyond its limit, whatever passes through.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rustix::fs::{Mode, OFlags};
use tokio::sync::Notify;

use super::Spool;

/// What waits in memory before the file is used, or the producer waits.
const MEMORY: usize = 2 << 20;
/// What is read from the file at once.
const READ: u64 = 1 << 20;

/// Why a chunk was not taken.
#[derive(Debug)]
pub(super) enum QueueError {
    Cancelled,
    Full { limit: u64 },
    Io(io::Error),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    Chunk(Bytes),
    /// Everything has been taken out; upload what was.
    End,
    /// Somebody gave up; nothing must become visible.
    Cancelled,
}

#[derive(Default)]
struct State {
    memory: VecDeque<Bytes>,
    in_memory: usize,
    /// Positions in the stream of spooled bytes; modulo the limit, in the file.
    head: u64,
    tail: u64,
    peak: u64,
    file: Option<Arc<File>>,
    closed: bool,
    cancelled: bool,
}

pub(super) struct Queue {
    state: Mutex<State>,
    room: Condvar,
    readable: Notify,
    spool: Option<Spool>,
}

impl Queue {
    pub(super) fn new(spool: Option<Spool>) -> Self {
        let spool = spool.filter(|spool| spool.limit > 0);
        Self { state: Mutex::default(), room: Condvar::new(), readable: Notify::new(), spool }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change below leaves the state whole, so a panic elsewhere is none here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a chunk. Without a spool, waits while the memory is full.
    pub(super) fn push(&self, chunk: Bytes) -> Result<(), QueueError> {
        let mut state = self.lock();
        loop {
            if state.cancelled {
                return Err(QueueError::Cancelled);
            }
            let spooling = state.head < state.tail;
            let fits = state.in_memory == 0 || state.in_memory + chunk.len() <= MEMORY;
            if !spooling && fits {
                state.in_memory += chunk.len();
                state.memory.push_back(chunk);
                break;
            }
            if let Some(spool) = &self.spool {
                return self.spill(state, spool, &chunk);
            }
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        self.readable.notify_one();
        Ok(())
    }

    fn spill(
        &self,
        mut state: MutexGuard<'_, State>,
        spool: &Spool,
        chunk: &[u8],
    ) -> Result<(), QueueError> {
        let waiting = state.tail - state.head + chunk.len() as u64;
        if waiting > spool.limit {
            return Err(QueueError::Full { limit: spool.limit });
        }
        let file = match &state.file {
            Some(file) => Arc::clone(file),
            None => {
                let file = Arc::new(unlinked(&spool.directory).map_err(QueueError::Io)?);
                state.file = Some(Arc::clone(&file));
                file
            }
        };
        let tail = state.tail;
        drop(state);
        // One producer: nobody else moves the tail, and the consumer stays before it.
        for (offset, part) in ring(tail, chunk.len() as u64, spool.limit) {
            let part = &chunk[part.start as usize..part.end as usize];
            file.write_all_at(part, offset).map_err(QueueError::Io)?;
        }
        let mut state = self.lock();
        state.tail += chunk.len() as u64;
        state.peak = state.peak.max(waiting);
        drop(state);
        self.readable.notify_one();
        Ok(())
    }

    /// No more chunks follow.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.readable.notify_one();
    }

    /// Gives up, unless everything had been put in already.
    pub(super) fn cancel(&self) {
        {
            let mut state = self.lock();
            if state.closed {
                return;
            }
            state.cancelled = true;
        }
        self.room.notify_all();
        self.readable.notify_one();
    }

    /// The consumer is gone: whoever waits to add must not wait on.
    pub(super) fn abandon(&self) {
        self.lock().cancelled = true;
        self.room.notify_all();
    }

    /// The most bytes that waited in the file.
    pub(super) fn peak(&self) -> u64 {
        self.lock().peak
    }

    /// The next chunk, waiting for it.
    pub(super) async fn pop(&self) -> io::Result<Item> {
        loop {
            let (file, head, count) = {
                let mut state = self.lock();
                if state.cancelled {
                    return Ok(Item::Cancelled);
                }
                if let Some(chunk) = state.memory.pop_front() {
                    state.in_memory -= chunk.len();
                    drop(state);
                    self.room.notify_all();
                    return Ok(Item::Chunk(chunk));
                }
                match &state.file {
                    Some(file) if state.head < state.tail => {
                        (Some(Arc::clone(file)), state.head, READ.min(state.tail - state.head))
                    }
                    _ if state.closed => return Ok(Item::End),
                    _ => (None, 0, 0),
                }
            };
            let (Some(file), Some(spool)) = (file, &self.spool) else {
                self.readable.notified().await;
                continue;
            };
            let limit = spool.limit;
            let chunk = tokio::task::spawn_blocking(move || read_ring(&file, head, count, limit))
                .await
                .map_err(io::Error::other)??;
            self.lock().head += count;
            return Ok(Item::Chunk(chunk));
        }
    }
}

fn read_ring(file: &File, head: u64, count: u64, limit: u64) -> io::Result<Bytes> {
    let mut chunk = vec![0; count as usize];
    for (offset, part) in ring(head, count, limit) {
        file.read_exact_at(&mut chunk[part.start as usize..part.end as usize], offset)?;
    }
    Ok(chunk.into())
}

/// Where `count` bytes of the stream from `position` on are in a ring of `limit`
/// bytes: file offset, and which of the bytes. `count` is at most `limit`.
fn ring(
    position: u64,
    count: u64,
    limit: u64,
) -> impl Iterator<Item = (u64, std::ops::Range<u64>)> {
    let offset = position % limit;
    let first = count.min(limit - offset);
    [(offset, 0..first), (0, first..count)].into_iter().filter(|(_, part)| !part.is_empty())
}

/// A file without a name, which vanishes with the process.
fn unlinked(directory: &Path) -> io::Result<File> {
    let mode = Mode::from_raw_mode(0o600);
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(directory, flags, mode) {
        Ok(file) => return Ok(file.into()),
        // Not every file system has it; an old kernel takes it for a directory.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {
        }
        Err(error) => return Err(error.into()),
    }
    let path = directory.join(format!(".etcdvault-spool-{}", ulid::Ulid::generate()));
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(&path, flags, mode)?;
    std::fs::remove_file(&path)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(number: usize, size: usize) -> Bytes {
        (0..size).map(|at| (number * 31 + at) as u8).collect::<Vec<_>>().into()
    }

    fn spool(directory: &Path, limit: u64) -> Option<Spool> {
        Some(Spool { directory: directory.to_owned(), limit })
    }

    async fn take(queue: &Queue) -> Bytes {
        match queue.pop().await.unwrap() {
            Item::Chunk(chunk) => chunk,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn order_is_kept_through_memory_ring_and_memory_again() {
        let directory = tempfile::tempdir().unwrap();
        let size = 1_000_003;
        let queue = Queue::new(spool(directory.path(), 3 * size as u64));
        let (mut expected, mut got) = (Vec::new(), Vec::new());
        let mut number = 0;
        for round in 0..6 {
            // Two in memory and three in the ring.
            for _ in 0..if round == 0 { 5 } else { 3 } {
                let next = chunk(number, size);
                number += 1;
                expected.extend_from_slice(&next);
                queue.push(next).unwrap();
            }
            if round == 0 {
                assert!(matches!(
                    queue.push(chunk(0, size)),
                    Err(QueueError::Full { limit }) if limit == 3 * size as u64
                ));
            }
            while got.len() < expected.len() - size / 2 {
                got.extend_from_slice(&take(&queue).await);
            }
        }
        queue.close();
        queue.cancel();
        while let Item::Chunk(chunk) = queue.pop().await.unwrap() {
            got.extend_from_slice(&chunk);
        }
        assert_eq!(got.len(), expected.len());
        assert!(got == expected);
        assert_eq!(queue.peak(), 3 * size as u64);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "the file has no name");
    }

    #[tokio::test]
    async fn without_a_spool_the_producer_waits() {
        let queue = Arc::new(Queue::new(None));
        let producer = Arc::clone(&queue);
        let thread = std::thread::spawn(move || {
            for number in 0..20 {
                producer.push(chunk(number, 1 << 20)).unwrap();
            }
            producer.close();
        });
        for number in 0..20 {
            let most = queue.lock().in_memory;
            assert!(most <= MEMORY, "{most}");
            assert_eq!(take(&queue).await, chunk(number, 1 << 20));
        }
        assert_eq!(queue.pop().await.unwrap(), Item::End);
        thread.join().unwrap();
    }

    #[tokio::test]
    async fn giving_up_wakes_both_sides() {
        let queue = Arc::new(Queue::new(None));
        let producer = Arc::clone(&queue);
        let thread = std::thread::spawn(move || {
            loop {
                if let Err(error) = producer.push(chunk(0, 1 << 20)) {
                    return error;
                }
            }
        });
        take(&queue).await;
        queue.cancel();
        assert!(matches!(thread.join().unwrap(), QueueError::Cancelled));
        assert_eq!(queue.pop().await.unwrap(), Item::Cancelled);
    }
}
