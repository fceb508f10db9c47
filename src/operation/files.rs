//! `export` and `import`: plain snapshots out of the vault and into it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Serialize;
use sha2::{Digest, Sha256};
use vault::layout::{BackupId, ClusterName, Kind, LineageName, Place, Role};
use vault::manifest::{Manifest, Proof, ProofState};
use vault::repository::{Backup, NewObject, ReadOptions, Repository, WriteOptions};
use vault::store::SizeHint;

use super::content::{self, Origin, SNAPSHOT_ROLE, SnapshotContent, TimeSource};
use super::failure::{Failure, FailureKind};
use super::feed::ScanFeed;
use super::inspect::scan_failure;
use super::vaults::{self, storage_failure};
use crate::bbolt::{Database, OpenError};
use crate::event::Events;

/// Where an export goes.
pub enum Target {
    /// A new file.
    File(PathBuf),
    /// Wherever this leads, standard output for example.
    Writer(Box<dyn Write + Send>),
}

/// What an export did.
#[derive(Debug, Serialize)]
pub struct ExportReport {
    /// The backup.
    pub id: String,
    /// The file; `None` for standard output.
    pub path: Option<PathBuf>,
    /// Bytes written.
    pub size: u64,
    /// SHA-256 of all bytes written.
    pub sha256: String,
    /// Whether it is what the cluster held, as the backup says.
    pub proof: Proof,
}

/// Writes an object of a backup as stock tools take it: its snapshot, or the one with
/// `role`. A file appears under its name
/// only when every byte was checked and is on disk.
pub async fn export(
    repository: &Repository,
    backup: &Backup,
    role: Option<&str>,
    target: Target,
    options: &ReadOptions,
    events: &Events,
) -> Result<ExportReport, Failure> {
    let id = backup.manifest.id;
    let what = format!("backup {id} was not exported");
    let wanted = role.unwrap_or(SNAPSHOT_ROLE);
    let object = backup.manifest.object(wanted).ok_or_else(|| {
        let held: Vec<&str> = backup.manifest.objects.iter().map(|o| o.role.as_str()).collect();
        Failure::new(FailureKind::Usage, format!("{what}: it holds no {wanted}"))
            .hint(format!("it holds {}; --object names one", held.join(", ")))
    })?;
    if let Target::File(path) = &target
        && path.symlink_metadata().is_ok()
    {
        return Err(Failure::new(FailureKind::Usage, format!("{what}: {} exists", path.display()))
            .hint("name a file that does not exist; nothing is overwritten"));
    }
    let mut reader = repository
        .open_object(object, options)
        .await
        .map_err(|error| storage_failure(what.clone(), error))?;
    let io = |error: std::io::Error| Failure::new(FailureKind::Error, what.clone()).because(error);
    let mut sink = match target {
        Target::File(path) => {
            let file = temporary_beside(&path).map_err(&io)?;
            Sink::File(file, path)
        }
        Target::Writer(writer) => Sink::Writer(writer),
    };
    events.started(format!("export {id}"), Some(object.plain_size));
    let mut size = 0;
    while let Some(chunk) =
        reader.next().await.map_err(|error| storage_failure(what.clone(), error))?
    {
        size += chunk.len() as u64;
        sink = tokio::task::spawn_blocking(move || sink.write(&chunk).map(|()| sink))
            .await
            .map_err(std::io::Error::other)
            .flatten()
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::BrokenPipe => Failure::new(
                    FailureKind::Error,
                    format!("{what}: the reader of standard output went away"),
                ),
                _ => io(error),
            })?;
        events.progress(size);
    }
    events.finished();
    let path = match sink {
        Sink::File(file, path) => {
            file.as_file().sync_all().map_err(&io)?;
            file.persist_noclobber(&path).map_err(|error| io(error.error))?;
            sync_parent(&path).map_err(&io)?;
            Some(path)
        }
        Sink::Writer(_) => None,
    };
    Ok(ExportReport {
        id: id.to_string(),
        path,
        size,
        sha256: object.plain_sha256.to_string(),
        proof: backup.manifest.proof.clone(),
    })
}

enum Sink {
    /// A file without its name yet, and that name.
    File(tempfile::NamedTempFile, PathBuf),
    Writer(Box<dyn Write + Send>),
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::File(file, _) => file.write_all(bytes),
            Self::Writer(writer) => {
                writer.write_all(bytes)?;
                writer.flush()
            }
        }
    }
}

fn temporary_beside(path: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Mode 0600 from the start: a snapshot holds every secret of the cluster.
    tempfile::Builder::new().prefix(".etcdvault-export-").tempfile_in(directory)
}

pub(super) fn sync_parent(path: &Path) -> std::io::Result<()> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

/// A snapshot that has no name yet.
pub(super) struct Snapshot {
    /// Its file, beside the place that it is for; removed unless it gets its name.
    pub(super) file: tempfile::NamedTempFile,
    /// Bytes of it.
    pub(super) size: u64,
    /// SHA-256 of all of them.
    pub(super) sha256: String,
}

/// Writes a database, or a snapshot, as a snapshot for `target`: as stock tools take it,
/// with its SHA-256 at the end.
pub(super) fn as_snapshot(from: &Path, target: &Path) -> Result<Snapshot, Failure> {
    let what = || format!("no snapshot was made of {}", from.display());
    let io = |error: std::io::Error| Failure::new(FailureKind::Error, what()).because(error);
    let mut source = Source::open(from).map_err(|error| match error {
        SourceError::Io(error) => io(error),
        SourceError::NotAFile => {
            Failure::new(FailureKind::Usage, what()).detail("it is no regular file")
        }
        SourceError::Damaged(why) => Failure::new(FailureKind::Corrupt, what()).because(why),
    })?;
    let mut file = temporary_beside(target).map_err(&io)?;
    let (mut size, mut whole) = (0, Sha256::new());
    source
        .each_chunk(|chunk| {
            size += chunk.len() as u64;
            whole.update(&chunk);
            file.write_all(&chunk).map(|()| true)
        })
        .map_err(&io)?;
    let sha256 = vault::digest::Sha256(whole.finalize().into()).to_string();
    Ok(Snapshot { file, size, sha256 })
}

/// What an import is told.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// The cluster's name in the vault.
    pub cluster: ClusterName,
    /// The cluster's id where it is known: it names the lineage.
    pub lineage: Option<LineageName>,
    /// Whatever the user attaches.
    pub labels: BTreeMap<String, String>,
    /// How it is written.
    pub write: WriteOptions,
}

/// The lineage of imports of which nothing is known.
const UNKNOWN_LINEAGE: &str = "imported";

/// What an import did.
#[derive(Debug, Serialize)]
pub struct ImportReport {
    /// The new backup.
    pub id: String,
    /// The file.
    pub path: PathBuf,
    /// When it was taken, as far as that can be known.
    pub taken: DateTime<Utc>,
    /// How that is known.
    pub time_source: TimeSource,
    /// The store's revision.
    pub revision: i64,
    /// Bytes of the snapshot.
    pub size: u64,
    /// Bytes in the vault.
    pub stored_size: u64,
    /// Whether the file carried its own SHA-256, which was right.
    pub had_checksum: bool,
    /// Where the manifest is in the vault.
    pub manifest: String,
}

/// Bytes read from a file at a time.
const CHUNK: usize = 1 << 20;
/// Chunks that wait for the scan and the vault.
const QUEUE: usize = 2;

/// Stores a plain snapshot, or a copied `member/snap/db`, after checking it as
/// `verify` would. A database without a trailing SHA-256 gets one, so that stock
/// tools take what is exported.
pub async fn import(
    repository: &Repository,
    path: &Path,
    options: &ImportOptions,
    events: &Events,
) -> Result<ImportReport, Failure> {
    let what = format!("{} was not imported", path.display());
    let fail = |kind| Failure::new(kind, what.clone());
    let source = Source::open(path).map_err(|error| match error {
        SourceError::Io(error) if error.kind() == std::io::ErrorKind::NotFound => {
            fail(FailureKind::Usage).because(error)
        }
        SourceError::Io(error) => fail(FailureKind::Error).because(error),
        SourceError::NotAFile => fail(FailureKind::Usage)
            .detail("it is no regular file")
            .hint("of a data directory, give its member/snap/db while etcd is stopped"),
        SourceError::Damaged(why) => fail(FailureKind::Corrupt)
            .because(why)
            .hint("a snapshot is what etcdctl snapshot save writes, or a member/snap/db file"),
    })?;
    vaults::sweep(repository).await;
    let (taken, time_source) = taken(source.modified, Utc::now());
    let id = BackupId::generate();
    let lineage = match &options.lineage {
        Some(lineage) => lineage.clone(),
        None => LineageName::new(UNKNOWN_LINEAGE)
            .map_err(|error| fail(FailureKind::Error).because(error))?,
    };
    let place = Place { cluster: options.cluster.clone(), lineage };
    let mut writer = repository
        .create_object(
            NewObject {
                place: place.clone(),
                id,
                role: Role::new(SNAPSHOT_ROLE)
                    .map_err(|error| fail(FailureKind::Error).because(error))?,
                name: content::SNAPSHOT_NAME.to_owned(),
                plain_size: SizeHint::Exact(source.plain_size()),
            },
            // The scan hashes every byte anyway, for the checksum at the end.
            &WriteOptions { hash_plain: false, ..options.write.clone() },
        )
        .await
        .map_err(|error| storage_failure(what.clone(), error))?;

    events.started(format!("import {}", path.display()), Some(source.plain_size()));
    let had_checksum = source.has_trailer;
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<Bytes>(QUEUE);
    let reading = tokio::task::spawn_blocking(move || source.read(&sender));
    let feed = ScanFeed::begin(super::inspect::spilling_options());
    let mut done = 0;
    let mut stored = Ok(());
    while let Some(chunk) = receiver.recv().await {
        done += chunk.len() as u64;
        let goes_on = feed.take(chunk.clone()).await;
        stored = writer.write(chunk).await;
        events.progress(done);
        if stored.is_err() || !goes_on {
            break;
        }
    }
    // The reader ends when nobody takes what it reads.
    drop(receiver);
    events.finished();
    let read = reading.await.map_err(std::io::Error::other).flatten();
    let scanned = match read {
        Ok(()) => feed.end().await.map_err(|error| scan_failure(what.clone(), error)),
        Err(error) => Err(fail(FailureKind::Error).because(error)),
    };
    let checked = match (stored, scanned) {
        (Err(error), _) => Err(storage_failure(what.clone(), error)),
        (Ok(()), Err(failure)) => Err(failure),
        (Ok(()), Ok(scan)) if !scan.is_sound() => {
            let mut failure = Failure::new(FailureKind::Corrupt, format!("{what}: it is damaged"));
            for problem in scan.problems.iter().take(10) {
                failure = failure.detail(super::failure::chain(problem).join(": "));
            }
            Err(failure)
        }
        (Ok(()), Ok(scan)) => match &scan.digests {
            Some(digests) if digests.trailer_ok() == Some(true) => {
                let whole = vault::digest::Sha256(digests.whole);
                Ok((scan, whole))
            }
            _ => Err(Failure::new(FailureKind::Corrupt, what.clone())
                .detail("the SHA-256 at its end is not that of its bytes")),
        },
    };
    let (scan, whole) = match checked {
        Ok(checked) => checked,
        Err(failure) => {
            let _ = writer.abort().await;
            return Err(failure);
        }
    };
    let written =
        writer.finish_with(whole).await.map_err(|error| storage_failure(what.clone(), error))?;
    let origin = Origin::of_file(path.display().to_string(), time_source);
    let content = SnapshotContent::new(origin, &scan, Vec::new(), None)
        .map_err(|error| fail(FailureKind::Error).because(error))?;
    let manifest = Manifest {
        id,
        kind: Kind::new(content::SNAPSHOT_KIND)
            .map_err(|error| fail(FailureKind::Error).because(error))?,
        cluster: place.cluster.clone(),
        lineage: place.lineage.clone(),
        sequence: u64::try_from(scan.revision).unwrap_or(0),
        started: taken,
        finished: Utc::now(),
        tool: vaults::tool(),
        proof: Proof {
            state: ProofState::Unknown,
            reasons: vec!["imported from a file: there was no cluster to ask".to_owned()],
        },
        labels: options.labels.clone(),
        objects: vec![written.record.clone()],
        content_schema: content::schema(),
        content: content.to_value(),
    };
    let key = super::backup::commit(repository, &manifest, &place)
        .await
        .map_err(|error| storage_failure(what, error))?;
    Ok(ImportReport {
        id: id.to_string(),
        path: path.to_owned(),
        taken,
        time_source,
        revision: scan.revision,
        size: written.record.plain_size,
        stored_size: written.record.stored_size,
        had_checksum,
        manifest: key,
    })
}

/// When a snapshot in a file was taken: nothing inside tells, so it is the time at which
/// the file was last written, where that can be.
fn taken(modified: Option<SystemTime>, now: DateTime<Utc>) -> (DateTime<Utc>, TimeSource) {
    // Foreign: a file system may hold times beyond every calendar.
    let modified = modified
        .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
        .and_then(|since| i64::try_from(since.as_millis()).ok())
        .and_then(DateTime::from_timestamp_millis);
    // A file without a time has that of the epoch; one of the future is of another clock.
    match modified.filter(|&time| time > DateTime::UNIX_EPOCH && time <= now) {
        Some(time) => (time, TimeSource::ModificationTime),
        None => (now, TimeSource::ImportTime),
    }
}

/// A file with a database, with or without the trailing SHA-256.
struct Source {
    file: File,
    /// When it was last written, where the file system knows.
    modified: Option<SystemTime>,
    /// Bytes of the database that count.
    database: u64,
    has_trailer: bool,
}

/// Why a file cannot be imported.
enum SourceError {
    Io(std::io::Error),
    NotAFile,
    Damaged(Box<dyn std::error::Error + Send + Sync>),
}

impl Source {
    fn open(path: &Path) -> Result<Self, SourceError> {
        let damaged = |why: &str| SourceError::Damaged(why.into());
        // Looked at first: opening a pipe would wait for its writer.
        if !path.metadata().map_err(SourceError::Io)?.is_file() {
            return Err(SourceError::NotAFile);
        }
        let file = File::open(path).map_err(SourceError::Io)?;
        let metadata = file.metadata().map_err(SourceError::Io)?;
        let (size, modified) = (metadata.len(), metadata.modified().ok());
        if size == 0 {
            return Err(damaged("it is empty"));
        }
        // etcd's own rule: a database is whole pages, a snapshot has 32 bytes more.
        let has_trailer = size % PAGES == TRAILER;
        let database = if has_trailer {
            size - TRAILER
        } else {
            // Pages above the high-water mark were never part of it.
            let database = Database::open(&file).map_err(|error| match error {
                OpenError::Io(error) => SourceError::Io(error),
                error => SourceError::Damaged(error.into()),
            })?;
            let meta = database.meta();
            meta.high_water
                .checked_mul(u64::from(meta.page_size))
                .filter(|&end| end <= size)
                .ok_or_else(|| damaged("it is shorter than its own pages: truncated"))?
        };
        if !has_trailer && !size.is_multiple_of(PAGES) {
            return Err(damaged(
                "it ends neither after a page nor after the SHA-256 of a snapshot: truncated",
            ));
        }
        Ok(Self { file, modified, database, has_trailer })
    }

    fn plain_size(&self) -> u64 {
        self.database + TRAILER
    }

    /// Reads the file once into `sender`, and adds the SHA-256 where it has none. Ends
    /// early, without an error, when nobody takes any more.
    fn read(mut self, sender: &tokio::sync::mpsc::Sender<Bytes>) -> std::io::Result<()> {
        self.each_chunk(|chunk| Ok(sender.blocking_send(chunk).is_ok()))
    }

    /// Hands the file's bytes on, and the SHA-256 where it has none, until `take` returns
    /// `false`.
    fn each_chunk(
        &mut self,
        mut take: impl FnMut(Bytes) -> std::io::Result<bool>,
    ) -> std::io::Result<()> {
        let mut digest = (!self.has_trailer).then(Sha256::new);
        self.file.seek(SeekFrom::Start(0))?;
        let mut left = if self.has_trailer { self.plain_size() } else { self.database };
        while left > 0 {
            let mut chunk = vec![0; CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
            self.file.read_exact(&mut chunk)?;
            left -= chunk.len() as u64;
            if let Some(digest) = &mut digest {
                digest.update(&chunk);
            }
            if !take(Bytes::from(chunk))? {
                return Ok(());
            }
        }
        if let Some(digest) = digest {
            take(Bytes::copy_from_slice(&digest.finalize()))?;
        }
        Ok(())
    }
}

/// Every page size is a multiple of this.
const PAGES: u64 = 512;
/// Bytes of the SHA-256 at the end of a snapshot.
const TRAILER: u64 = 32;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_file_says_when_it_was_taken_unless_that_cannot_be() {
        let now: DateTime<Utc> = "2026-11-21T05:00:00Z".parse().unwrap();
        let at = |seconds: i64| {
            let time = now + chrono::TimeDelta::seconds(seconds);
            (Some(SystemTime::from(time)), time)
        };
        for seconds in [0, -1, -86_400 * 365 * 3] {
            let (modified, time) = at(seconds);
            assert_eq!(taken(modified, now), (time, TimeSource::ModificationTime));
        }
        let epoch = SystemTime::UNIX_EPOCH;
        let wrong = [
            at(1).0,
            at(86_400 * 400).0,
            Some(epoch),
            Some(epoch - Duration::from_secs(5)),
            epoch.checked_add(Duration::from_secs(1 << 62)),
            None,
        ];
        for wrong in wrong {
            assert_eq!(taken(wrong, now), (now, TimeSource::ImportTime), "{wrong:?}");
        }
    }
}
