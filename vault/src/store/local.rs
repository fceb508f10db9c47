//! A vault in a directory.
//!
//! - An object is written to a temporary file beside its place (0600, in
//!   directories of 0700), synced, renamed without replacing, and its directory
//!   synced: visible completely or not at all, and durable once visible to the
//!   caller.
//! - Temporary names start with a dot, which no key does, and carry their writer:
//!   [`Store::sweep`] removes those of dead ones only.
//! - No symbolic link below the root is followed.

mod walk;
mod writer;

use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::Utc;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};

use self::walk::Walk;
use self::writer::Writer;
use super::{
    Capabilities, Download, ErrorKind, Key, ObjectInfo, Result, SizeHint, Store, StoreError, Upload,
};
use crate::durable::{self, File, FileSystem, FileType};

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// What is read at once.
const READ: u64 = 256 * 1024;
/// How many names a listing looks at before it lets others run.
const BATCH: usize = 256;
/// A temporary file of a writer that cannot be asked after is left for this long
/// after its last change: nothing waits as long between two writes.
const FOREIGN_AGE: std::time::Duration = std::time::Duration::from_secs(7 * 24 * 3600);

/// Numbers the temporary files of this process, whatever store they are in: two
/// stores may be the same directory.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct LocalStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    fs: Arc<dyn FileSystem>,
    writer: Writer,
    /// Directories of which the name is known to be durable.
    settled: Mutex<HashSet<PathBuf>>,
}

impl LocalStore {
    /// The store in an existing directory. Creates nothing.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        Self::open_on(durable::real(), root)
    }

    /// The same on any file system.
    pub fn open_on(fs: Arc<dyn FileSystem>, root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        let act = || format!("open {}", shown(&root));
        // The root itself may be a link: whoever named it chose it.
        fs.read_dir(&root).map_err(|error| failed(act(), error))?;
        let writer = Writer::current().map_err(|error| failed(act(), error))?;
        let shared = Shared { root, fs, writer, settled: Mutex::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The store in a directory that is made if it is missing. Refuses one that
    /// holds anything but what a vault, or an interrupted attempt to make one,
    /// leaves; `lost+found` is no matter.
    pub fn create(root: impl Into<PathBuf>) -> Result<Self> {
        Self::create_on(durable::real(), root)
    }

    /// The same on any file system.
    pub fn create_on(fs: Arc<dyn FileSystem>, root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        let act = || format!("create a vault in {}", shown(&root));
        match fs.read_dir(&root) {
            Ok(entries) => {
                let is_vault = entries.iter().any(|entry| entry.name == crate::layout::VAULT_JSON);
                let foreign = entries.iter().find(|entry| {
                    let name = entry.name.to_string_lossy();
                    name != "lost+found"
                        && name != crate::layout::RESTORE_TXT
                        && Writer::parse(&name).is_none()
                });
                if let (false, Some(foreign)) = (is_vault, foreign) {
                    let name = crate::document::printable(&foreign.name.to_string_lossy());
                    return Err(StoreError::with_source(
                        ErrorKind::Configuration,
                        act(),
                        format!("the directory is not empty: {name} is there"),
                    ));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                durable::create_dir_all(&*fs, &root, DIR_MODE)
                    .map_err(|error| failed(act(), error))?;
            }
            Err(error) => return Err(failed(act(), error)),
        }
        Self::open_on(fs, root)
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.shared.root
    }

    async fn blocking<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> String + Send + 'static,
        body: impl FnOnce(&Shared) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(&self.shared);
        run(move || body(&shared).map_err(|error| failed(act(), error))).await
    }
}

/// Runs file work off the runtime's threads.
async fn run<T: Send + 'static>(body: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(body).await {
        Ok(result) => result,
        Err(error) => Err(StoreError::with_source(ErrorKind::Io, "wait for file work", error)),
    }
}

fn shown(path: &Path) -> String {
    crate::document::printable(&path.to_string_lossy())
}

fn failed(act: String, error: io::Error) -> StoreError {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            ErrorKind::PermissionDenied
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::OutOfSpace,
        io::ErrorKind::TimedOut => ErrorKind::Timeout,
        _ => ErrorKind::Io,
    };
    StoreError::with_source(kind, act, error)
}

/// An error that says that there is nothing of this name.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

impl Shared {
    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    fn act(&self, verb: &str, key: &Key) -> String {
        format!("{verb} {key} in {}", shown(&self.root))
    }

    /// Refuses a path of which a directory below the root is a link or a file.
    fn check_parents(&self, key: &Key) -> io::Result<()> {
        let mut path = self.root.clone();
        let mut segments: Vec<&str> = key.as_str().split('/').collect();
        segments.pop();
        for segment in segments {
            path.push(segment);
            self.check_directory(&path)?;
        }
        Ok(())
    }

    fn check_directory(&self, path: &Path) -> io::Result<()> {
        match self.fs.metadata(path)?.file_type {
            FileType::Directory => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::NotADirectory,
                format!("{} is not a directory", shown(path)),
            )),
        }
    }

    /// Makes the directory of `key` and makes sure that its name and those above
    /// are durable, whoever made them.
    fn settle_parents(&self, key: &Key) -> io::Result<PathBuf> {
        let mut path = self.root.clone();
        let mut segments: Vec<&str> = key.as_str().split('/').collect();
        segments.pop();
        for segment in segments {
            let above = path.clone();
            path.push(segment);
            let lock = || self.settled.lock().unwrap_or_else(PoisonError::into_inner);
            if lock().contains(&path) {
                continue;
            }
            match self.fs.create_dir(&path, DIR_MODE) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    self.check_directory(&path)?;
                }
                other => other?,
            }
            self.fs.sync_dir(&above)?;
            lock().insert(path.clone());
        }
        Ok(path)
    }

    fn info(&self, key: &Key) -> io::Result<Option<ObjectInfo>> {
        let found = match self.check_parents(key).and_then(|()| self.fs.metadata(&self.path(key))) {
            Ok(found) => found,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok((found.file_type == FileType::File).then(|| ObjectInfo {
            key: key.clone(),
            size: found.size,
            modified: found.modified.into(),
        }))
    }
}

#[async_trait]
impl Store for LocalStore {
    fn location(&self) -> String {
        shown(&self.shared.root)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { put_new: true }
    }

    async fn put_new(&self, key: &Key, size: SizeHint) -> Result<Box<dyn Upload>> {
        let (key_a, key_b) = (key.clone(), key.clone());
        let shared = Arc::clone(&self.shared);
        let owner = Arc::clone(&self.shared);
        let upload = self
            .blocking(
                move || shared.act("write", &key_a),
                move |shared| {
                    let directory = shared.settle_parents(&key_b)?;
                    let path = shared.path(&key_b);
                    match shared.fs.metadata(&path) {
                        Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => return Err(error),
                    }
                    if let SizeHint::Exact(size) = size
                        && shared.fs.available(&directory)? < size
                    {
                        return Err(io::ErrorKind::StorageFull.into());
                    }
                    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
                    let temporary = directory.join(shared.writer.temporary_name(number));
                    let file = shared.fs.create_new(&temporary, FILE_MODE)?;
                    // Whoever waits for it may be gone by now: then it vanishes here.
                    Ok((path, Temporary { shared: owner, path: temporary }, file))
                },
            )
            .await;
        let (path, temporary, file) = upload?;
        Ok(Box::new(LocalUpload {
            file: Some(file),
            place: Some(temporary),
            path,
            key: key.clone(),
            size: 0,
        }))
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Download> {
        let act = self.shared.act("read", key);
        let (key_a, act_a) = (key.clone(), act.clone());
        let opened = self
            .blocking(
                move || act_a,
                move |shared| {
                    if shared.info(&key_a)?.is_none() {
                        return Err(io::ErrorKind::NotFound.into());
                    }
                    let file = shared.fs.open(&shared.path(&key_a))?;
                    let size = file.size()?;
                    Ok((file, size))
                },
            )
            .await;
        let (file, size) = opened?;
        let range = range.unwrap_or(0..size);
        if range.start > range.end || range.end > size {
            return Err(StoreError::new(ErrorKind::InvalidRange, act));
        }
        let begin = (file, range.start);
        let stream = stream::try_unfold(begin, move |(file, at)| {
            let (end, act) = (range.end, act.clone());
            async move {
                if at == end {
                    return Ok(None);
                }
                let read = move || {
                    let mut chunk = vec![0; READ.min(end - at) as usize];
                    let mut filled = 0;
                    while filled < chunk.len() {
                        let count = file
                            .read_at(at + filled as u64, &mut chunk[filled..])
                            .map_err(|error| failed(act.clone(), error))?;
                        if count == 0 {
                            return Err(failed(act, io::ErrorKind::UnexpectedEof.into()));
                        }
                        filled += count;
                    }
                    Ok((Bytes::from(chunk), file))
                };
                let (chunk, file) = run(read).await?;
                let at = at + chunk.len() as u64;
                Ok(Some((chunk, (file, at))))
            }
        });
        Ok(Download { size, stream: stream.boxed() })
    }

    async fn head(&self, key: &Key) -> Result<Option<ObjectInfo>> {
        let act = self.shared.act("look at", key);
        let key = key.clone();
        self.blocking(move || act, move |shared| shared.info(&key)).await
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        start_after: Option<&'a str>,
    ) -> BoxStream<'a, Result<ObjectInfo>> {
        let walk = Walk::new(prefix, start_after.unwrap_or(""));
        let batches = stream::try_unfold(walk, move |mut walk| async move {
            let step = self
                .blocking(
                    || "list the vault".to_owned(),
                    move |shared| {
                        let batch = walk.next_batch(&*shared.fs, &shared.root, BATCH)?;
                        Ok((batch, walk))
                    },
                )
                .await?;
            Ok(step.0.map(|batch| (batch, step.1)))
        });
        batches
            .flat_map(|batch| match batch {
                Ok(batch) => stream::iter(batch.into_iter().map(Ok).collect::<Vec<_>>()),
                Err(error) => stream::iter(vec![Err(error)]),
            })
            .boxed()
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let act = self.shared.act("delete", key);
        let key = key.clone();
        self.blocking(
            move || act,
            move |shared| {
                let path = shared.path(&key);
                let removed =
                    shared.check_parents(&key).and_then(|()| shared.fs.remove_file(&path));
                match removed {
                    Ok(()) => shared.fs.sync_dir(durable::parent(&path)),
                    Err(error) if is_absent(&error) => Ok(()),
                    Err(error) => Err(error),
                }
            },
        )
        .await
    }

    async fn sweep(&self) -> Result<u64> {
        self.blocking(
            || "sweep temporary files".to_owned(),
            |shared| {
                let mut swept = 0;
                walk::temporary_files(&*shared.fs, &shared.root, |path, name| {
                    let Some(other) = Writer::parse(name) else { return Ok(()) };
                    let dead = match shared.writer.knows_dead(&other) {
                        Some(dead) => dead,
                        None => match shared.fs.metadata(path) {
                            Ok(found) => {
                                found.modified.elapsed().is_ok_and(|age| age > FOREIGN_AGE)
                            }
                            Err(_) => false,
                        },
                    };
                    if dead {
                        match shared.fs.remove_file(path) {
                            Ok(()) => swept += 1,
                            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                            Err(error) => return Err(error),
                        }
                    }
                    Ok(())
                })?;
                Ok(swept)
            },
        )
        .await
    }
}

/// A temporary file that vanishes with its owner.
struct Temporary {
    shared: Arc<Shared>,
    path: PathBuf,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing of this name; what cannot be removed
        // now is swept later.
        let _ = self.shared.fs.remove_file(&self.path);
    }
}

struct LocalUpload {
    file: Option<Box<dyn File>>,
    place: Option<Temporary>,
    path: PathBuf,
    key: Key,
    size: u64,
}

impl LocalUpload {
    fn act(&self) -> String {
        match &self.place {
            Some(place) => place.shared.act("write", &self.key),
            None => format!("write {}", self.key),
        }
    }
}

#[async_trait]
impl Upload for LocalUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        let act = self.act();
        let Some(mut file) = self.file.take() else {
            return Err(StoreError::new(ErrorKind::Io, format!("{act}: it failed before")));
        };
        let size = chunk.len() as u64;
        let write = move || match file.write(&chunk) {
            Ok(()) => Ok(file),
            Err(error) => Err(failed(act, error)),
        };
        self.file = Some(run(write).await?);
        self.size += size;
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<ObjectInfo> {
        let act = self.act();
        let (Some(mut file), Some(place)) = (self.file.take(), self.place.take()) else {
            return Err(StoreError::new(ErrorKind::Io, format!("{act}: it failed before")));
        };
        let path = self.path;
        let finish = move || {
            let fs = &*place.shared.fs;
            file.sync()?;
            drop(file);
            fs.rename_no_replace(&place.path, &path)?;
            fs.sync_dir(durable::parent(&path))
        };
        run(move || finish().map_err(|error| failed(act, error))).await?;
        Ok(ObjectInfo { key: self.key, size: self.size, modified: Utc::now() })
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        let (file, place) = (self.file.take(), self.place.take());
        run(move || {
            drop((file, place));
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests;
