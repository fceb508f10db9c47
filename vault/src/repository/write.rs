//! Objects on their way into the vault: pipeline → queue (and spool) → store.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::spool::{Item, Queue, QueueError};
use super::{NewObject, Repository, RepositoryError, Result, VaultEncryption, WriteOptions};
use crate::compression::frame::stated_size;
use crate::compression::writer::{Collector, Pipeline, PipelineError, Sink, Written};
use crate::digest::Sha256;
use crate::layout::Role;
use crate::manifest::{Codec, ObjectEncryption, ObjectRecord};
use crate::store::{Key, ObjectInfo, SizeHint, Upload};

/// An object on its way into the vault. Dropped without [`ObjectWriter::finish`],
/// it is given up in the background.
pub struct ObjectWriter {
    key: Key,
    role: Role,
    encryption: ObjectEncryption,
    queue: Arc<Queue>,
    lost: Arc<Mutex<Option<QueueError>>>,
    running: Option<Running>,
    given_up: watch::Sender<bool>,
}

/// Gives an object up from outside, even while [`ObjectWriter::finish`] waits for a
/// store that hangs.
#[derive(Debug, Clone)]
pub struct Canceller(watch::Sender<bool>);

impl Canceller {
    /// Gives the object up; who waits for it gets [`RepositoryError::GivenUp`].
    pub fn cancel(&self) {
        self.0.send_replace(true);
    }
}

struct Running {
    pipeline: Pipeline,
    collector: Collector,
    uploader: JoinHandle<Result<ObjectInfo>>,
}

impl std::fmt::Debug for ObjectWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectWriter").field("key", &self.key).finish_non_exhaustive()
    }
}

/// A finished object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenObject {
    /// Its record, for the manifest.
    pub record: ObjectRecord,
    /// The most bytes that waited in the spool.
    pub spooled: u64,
}

/// Puts output into the queue and remembers why it could not.
struct QueueSink {
    queue: Arc<Queue>,
    lost: Arc<Mutex<Option<QueueError>>>,
}

impl Sink for QueueSink {
    fn accept(&mut self, chunk: Bytes) -> io::Result<()> {
        self.queue.push(chunk).map_err(|error| {
            *self.lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            io::Error::other("the queue takes no more")
        })
    }
}

/// An upper bound of the stored size of so many plain bytes: what zstd adds to
/// incompressible ones (1/256), age's tags (1/4096), headers and table.
fn stored_bound(plain: u64) -> u64 {
    plain.saturating_add(plain / 128).saturating_add(1 << 20)
}

impl Repository {
    /// Begins an object. Must be called within a tokio runtime.
    pub async fn create_object(
        &self,
        object: NewObject,
        options: &WriteOptions,
    ) -> Result<ObjectWriter> {
        let encryptor = self.file.encryptor(self.identities.as_ref())?;
        let encryption = match &self.file.encryption {
            VaultEncryption::None => ObjectEncryption::None,
            VaultEncryption::AgeRecipients { recipients, .. } => {
                ObjectEncryption::AgeRecipients { recipients: recipients.clone() }
            }
            VaultEncryption::AgePassphrase { .. } => ObjectEncryption::AgePassphrase,
        };
        let ending = if encryption.is_encrypted() { ".zst.age" } else { ".zst" };
        let key = format!("{}{}{ending}", object.place.objects(object.id), object.name);
        let key = Key::new(key).map_err(|error| RepositoryError::Invalid {
            what: "the object".to_owned(),
            source: error.into(),
        })?;
        let size = match object.plain_size {
            SizeHint::Exact(size) | SizeHint::AtMost(size) => SizeHint::AtMost(stored_bound(size)),
            SizeHint::Unknown => SizeHint::Unknown,
        };
        let upload = self.store.put_new(&key, size).await?;
        let queue = Arc::new(Queue::new(options.spool.clone()));
        let lost = Arc::new(Mutex::new(None));
        let sink = QueueSink { queue: Arc::clone(&queue), lost: Arc::clone(&lost) };
        let started =
            Pipeline::start(options.level, options.workers, options.hash_plain, encryptor, sink);
        let (pipeline, collector) = match started {
            Ok(started) => started,
            Err(error) => {
                upload.abort().await?;
                return Err(RepositoryError::internal(key.as_str(), error));
            }
        };
        let (given_up, watched) = watch::channel(false);
        let uploading = run_upload(upload, Arc::clone(&queue), key.clone(), watched);
        let uploader = tokio::spawn(uploading);
        let running = Some(Running { pipeline, collector, uploader });
        Ok(ObjectWriter { key, role: object.role, encryption, queue, lost, running, given_up })
    }
}

async fn run_upload(
    mut upload: Box<dyn Upload>,
    queue: Arc<Queue>,
    key: Key,
    mut given_up: watch::Receiver<bool>,
) -> Result<ObjectInfo> {
    let error = loop {
        let item = tokio::select! {
            biased;
            () = cancelled(&mut given_up) => Ok(Item::Cancelled),
            item = queue.pop() => item,
        };
        match item {
            Ok(Item::Chunk(chunk)) => {
                let written = tokio::select! {
                    biased;
                    () = cancelled(&mut given_up) => break gone(&key),
                    written = upload.write(chunk) => written,
                };
                if let Err(error) = written {
                    break RepositoryError::Store(error);
                }
            }
            Ok(Item::End) => {
                let finished = tokio::select! {
                    biased;
                    // What was begun is called off by the upload's destructor.
                    () = cancelled(&mut given_up) => Err(gone(&key)),
                    finished = upload.finish() => finished.map_err(RepositoryError::Store),
                };
                queue.abandon();
                return finished;
            }
            Ok(Item::Cancelled) => break gone(&key),
            Err(error) => break RepositoryError::Spool(error),
        }
    };
    queue.abandon();
    // The first error says more than one about giving up.
    let _ = upload.abort().await;
    Err(error)
}

fn gone(key: &Key) -> RepositoryError {
    RepositoryError::GivenUp { object: key.to_string() }
}

/// Waits until the object is given up, or nobody is left who wants it.
async fn cancelled(given_up: &mut watch::Receiver<bool>) {
    let _ = given_up.wait_for(|given_up| *given_up).await;
}

impl ObjectWriter {
    /// What gives the object up from outside.
    pub fn canceller(&self) -> Canceller {
        Canceller(self.given_up.clone())
    }

    /// The object's key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Takes the next plain bytes. Waits while the pipeline is full. After an
    /// error the object is given up.
    pub async fn write(&mut self, chunk: Bytes) -> Result<()> {
        let Some(running) = &mut self.running else { return Err(self.given_up()) };
        if running.pipeline.write(&chunk).await { Ok(()) } else { Err(self.failed().await) }
    }

    /// Takes the next plain bytes as a frame that whoever sent them made, so that they are
    /// not compressed again: `frame` decoded to `plain`, which the caller has seen. What is
    /// no frame of a vault is taken as plain bytes.
    pub async fn write_frame(&mut self, plain: Bytes, frame: Bytes) -> Result<()> {
        if plain.is_empty() || stated_size(&frame).map(u64::from) != Some(plain.len() as u64) {
            return self.write(plain).await;
        }
        let Some(running) = &mut self.running else { return Err(self.given_up()) };
        let taken = running.pipeline.write_ready(plain, frame).await;
        if taken { Ok(()) } else { Err(self.failed().await) }
    }

    /// Makes the object durable. It is not part of any backup until a manifest
    /// with its record is committed.
    pub async fn finish(self) -> Result<WrittenObject> {
        self.finish_as(None).await
    }

    /// The same where [`WriteOptions::hash_plain`] is off and the caller has hashed
    /// the very bytes that it wrote. What is read back is held against this digest.
    pub async fn finish_with(self, plain_sha256: Sha256) -> Result<WrittenObject> {
        self.finish_as(Some(plain_sha256)).await
    }

    async fn finish_as(mut self, given: Option<Sha256>) -> Result<WrittenObject> {
        let Some(running) = self.running.take() else { return Err(self.given_up()) };
        let Running { pipeline, collector, uploader } = running;
        pipeline.finish();
        let written = match join(collector).await {
            Ok(written) => written,
            Err(error) => return Err(self.why(Some(error), uploader).await),
        };
        self.queue.close();
        let info = match uploader.await {
            Ok(result) => result?,
            Err(error) => return Err(RepositoryError::internal(self.key.as_str(), error)),
        };
        if info.size != written.stored_size {
            let why = format!("the store took {} of {} bytes", info.size, written.stored_size);
            return Err(RepositoryError::corrupt(self.key.as_str(), why));
        }
        // Whoever hashes wins; a writer that nobody hashed for is a mistake of ours.
        let Some(plain_sha256) = written.plain_sha256.or(given) else {
            return Err(RepositoryError::internal(self.key.as_str(), "nobody hashed its bytes"));
        };
        let record = self.record(&written, plain_sha256);
        Ok(WrittenObject { record, spooled: self.queue.peak() })
    }

    /// Gives up; nothing becomes visible.
    pub async fn abort(mut self) -> Result<()> {
        let Some(running) = self.running.take() else { return Ok(()) };
        match self.stop(running).await {
            RepositoryError::GivenUp { .. } => Ok(()),
            error => Err(error),
        }
    }

    fn record(&self, written: &Written, plain_sha256: Sha256) -> ObjectRecord {
        ObjectRecord {
            role: self.role.clone(),
            key: self.key.to_string(),
            stored_size: written.stored_size,
            stored_sha256: written.stored_sha256,
            plain_size: written.plain_size,
            plain_sha256,
            codec: Codec::ZstdFrames,
            encryption: self.encryption.clone(),
            frames: written.frames,
            frame_table_sha256: written.frame_table_sha256,
        }
    }

    fn given_up(&self) -> RepositoryError {
        RepositoryError::GivenUp { object: self.key.to_string() }
    }

    async fn failed(&mut self) -> RepositoryError {
        match self.running.take() {
            Some(running) => self.stop(running).await,
            None => self.given_up(),
        }
    }

    /// Stops everything and says why it had to, if it had.
    async fn stop(&mut self, running: Running) -> RepositoryError {
        let Running { pipeline, collector, uploader } = running;
        drop(pipeline);
        self.queue.cancel();
        self.given_up.send_replace(true);
        let error = join(collector).await.err();
        self.why(error, uploader).await
    }

    /// The first cause: of the store, of the queue, of the pipeline, in this order.
    async fn why(
        &mut self,
        pipeline: Option<PipelineError>,
        uploader: JoinHandle<Result<ObjectInfo>>,
    ) -> RepositoryError {
        self.queue.cancel();
        // The store may hang: an upload that nobody wants any more must not wait for it.
        self.given_up.send_replace(true);
        let uploaded = uploader.await;
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (uploaded, lost, pipeline) {
            (Ok(Err(error)), _, _) if !matches!(error, RepositoryError::GivenUp { .. }) => error,
            (Err(error), _, _) => RepositoryError::internal(self.key.as_str(), error),
            (_, Some(QueueError::Full { limit }), _) => RepositoryError::SpoolFull { limit },
            (_, Some(QueueError::Io(error)), _) => RepositoryError::Spool(error),
            (_, _, Some(PipelineError::Ended)) | (_, _, None) => self.given_up(),
            (_, Some(QueueError::Cancelled), _) => self.given_up(),
            (_, None, Some(error)) => RepositoryError::internal(self.key.as_str(), error),
        }
    }
}

impl Drop for ObjectWriter {
    fn drop(&mut self) {
        if self.running.take().is_some() {
            self.queue.cancel();
        }
    }
}

/// Waits for the collecting thread off the runtime's threads.
async fn join(collector: Collector) -> Result<Written, PipelineError> {
    match tokio::task::spawn_blocking(move || collector.join()).await {
        Ok(Ok(result)) => result,
        _ => Err(PipelineError::Ended),
    }
}
