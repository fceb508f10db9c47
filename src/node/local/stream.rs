//! Between a thread that reads or writes and a stream of chunks.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use tokio::sync::mpsc;

use super::super::{ByteStream, NodeError, NodeErrorKind, NodeName};
use super::fault::{Fault, Task};
use super::unpack::Carried;

/// Chunks are of this size; a few are in flight.
const CHUNK: usize = 1 << 20;
const IN_FLIGHT: usize = 4;

/// Collects small writes into chunks and hands them over.
struct Chunks {
    buffer: BytesMut,
    to: mpsc::Sender<Result<Bytes, NodeError>>,
}

impl Chunks {
    fn hand_over(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = self.buffer.split().freeze();
        self.to.blocking_send(Ok(chunk)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Chunks {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let room = CHUNK - self.buffer.len();
        self.buffer.reserve(room);
        let count = data.len().min(room);
        self.buffer.extend_from_slice(&data[..count]);
        if self.buffer.len() == CHUNK {
            self.hand_over()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hand_over()
    }
}

/// The stream of what `work` writes, on a thread of its own. It ends with an
/// error when `work` fails, or does nothing for `patience`.
pub(super) fn written_by(
    node: NodeName,
    act: &'static str,
    patience: Duration,
    work: impl FnOnce(&mut dyn Write, &Task) -> Result<(), Fault> + Send + 'static,
) -> ByteStream {
    let (to, from) = mpsc::channel(IN_FLIGHT);
    let name = node.clone();
    tokio::task::spawn_blocking(move || {
        let mut out = Chunks { buffer: BytesMut::with_capacity(CHUNK), to: to.clone() };
        if let Err(fault) = work(&mut out, &Task::default()) {
            // Nobody to tell when the other side is gone.
            let _ = to.blocking_send(Err(fault.of(&name, act)));
        }
    });
    let state = (from, node, false);
    futures_util::stream::unfold(state, move |(mut from, node, ended)| async move {
        if ended {
            return None;
        }
        match tokio::time::timeout(patience, from.recv()).await {
            Ok(item) => {
                let ended = matches!(item, Some(Err(_)));
                item.map(|item| (item, (from, node, ended)))
            }
            Err(_) => {
                let why = format!("nothing was read for {} s", patience.as_secs());
                let slow = Fault::new(NodeErrorKind::Slow, why).of(&node, act);
                Some((Err(slow), (from, node, true)))
            }
        }
    })
    .boxed()
}

/// What a thread reads: the chunks of a stream, its error, or its end. When
/// whoever feeds it goes away without an end, reading fails.
pub(super) struct Fed {
    from: mpsc::Receiver<Result<Option<Bytes>, Fault>>,
    chunk: Bytes,
    ended: bool,
}

impl Read for Fed {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && !self.ended {
            match self.from.blocking_recv() {
                Some(Ok(Some(chunk))) => self.chunk = chunk,
                Some(Ok(None)) => self.ended = true,
                Some(Err(fault)) => return Err(io::Error::other(Carried(fault))),
                None => {
                    let why = "whoever sent the stream is gone";
                    let fault = Fault::new(NodeErrorKind::Lost, why);
                    return Err(io::Error::other(Carried(fault)));
                }
            }
        }
        let count = buf.len().min(self.chunk.len());
        buf[..count].copy_from_slice(&self.chunk.split_to(count));
        Ok(count)
    }
}

/// A reader for a thread, and the future that feeds it from `stream`.
pub(super) fn fed(
    mut stream: ByteStream,
    patience: Duration,
    task: Arc<Task>,
) -> (Fed, impl Future<Output = ()> + Send) {
    let (to, from) = mpsc::channel(IN_FLIGHT);
    let feed = async move {
        loop {
            let item = match tokio::time::timeout(patience, stream.next()).await {
                Ok(Some(Ok(chunk))) => Ok(Some(chunk)),
                Ok(Some(Err(error))) => {
                    let mut fault = Fault::new(error.kind, format!("{}: {}", error.act, error.why));
                    fault.details = error.details;
                    fault.hint = error.hint;
                    Err(fault)
                }
                Ok(None) => Ok(None),
                Err(_) => {
                    let why = format!("nothing came for {} s", patience.as_secs());
                    Err(Fault::new(NodeErrorKind::Slow, why))
                }
            };
            let last = !matches!(item, Ok(Some(_)));
            // A reader that failed does not take more; its own error counts.
            if to.send(item).await.is_err() || last {
                return;
            }
            let _ = task.tick();
        }
    };
    (Fed { from, chunk: Bytes::new(), ended: false }, feed)
}
