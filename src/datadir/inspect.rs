//! What a person or a script asks of a snapshot file, a database file, a
//! stopped data directory or a scan that was made on the way: one answer with
//! the same fields for all of them.
//!
//! With SHA-256 asked for, the file is read once from start to end; without,
//! only its pages in use are. Memory is bounded by the scan's.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;

use serde::{Deserialize, Serialize};

use super::hash::{
    BucketStats, Digests, HashError, Scan, ScanError, ScanOptions, StreamScan, TrailerHasher,
};
use super::schema::{Content, VersionEvidence};
use crate::bbolt::Database;

/// Bytes read at a time; two such buffers go round.
const CHUNK: usize = 1 << 20;

/// Where the database lies within a data directory.
const DATABASE: [&str; 3] = ["member", "snap", "db"];

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The file or directory cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory that is no etcd data directory.
    #[error("{} has no {}", path.display(), DATABASE.join("/"))]
    NoDatabase {
        /// The directory.
        path: PathBuf,
    },
    /// A pipe, a device or the like.
    #[error("{} is neither a file nor a directory", path.display())]
    NotAFile {
        /// What was given.
        path: PathBuf,
    },
    /// The bytes are no database.
    #[error("{} cannot be inspected", path.display())]
    Scan {
        /// The database file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ScanError,
    },
    /// The scan's temporary file failed.
    #[error("cannot tell the HashKV of the database")]
    Hash(#[source] HashError),
}

/// Where the database came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A database with a SHA-256 behind it.
    Snapshot,
    /// A database without.
    Database,
    /// The data directory of a stopped member.
    DataDirectory,
}

/// Verdict on the SHA-256 behind a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trailer {
    /// There is none, as in a database file.
    Absent,
    /// It is that of the database.
    Right,
    /// It is not.
    Wrong,
    /// It was not computed.
    Unchecked,
}

/// Everything known of a database.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// What was inspected.
    pub kind: Kind,
    /// Whether structure, entries and trailer are right.
    pub sound: bool,
    /// What is wrong, at most a hundred.
    pub problems: Vec<String>,
    /// How many problems there are.
    pub problem_count: u64,
    /// The SHA-256 behind the database.
    pub trailer: Trailer,
    /// SHA-256 of the database without trailer, hex; when computed.
    pub sha256: Option<String>,

    /// Bytes of the file.
    pub file_size: u64,
    /// Bytes of the database.
    pub size: u64,
    /// Bytes of the pages in use.
    pub size_in_use: u64,
    /// Share of free pages, 0 to 1.
    pub fragmentation: f64,
    /// Bytes of a page.
    pub page_size: u32,
    /// bbolt's transaction.
    pub txid: u64,

    /// The store's revision.
    pub revision: i64,
    /// Last compaction, finished or asked for.
    pub compact_revision: Option<i64>,
    /// Whether a compaction was asked for and not finished.
    pub compaction_unfinished: bool,
    /// HashKV at the revision above for that compaction; `None` when damaged.
    pub hash_kv: Option<u32>,
    /// The hash of `etcdutl snapshot status`; `None` when damaged.
    pub status_hash: Option<u32>,
    /// Keys that exist; the total of `etcdutl snapshot status` from 3.6 on.
    pub keys: u64,
    /// Entries of all buckets; the same program's total up to 3.5.
    pub entries: u64,
    /// Records: every kept version of every key.
    pub records: u64,
    /// Records that are deletions.
    pub tombstones: u64,

    /// Which etcd wrote it, as far as it shows.
    pub version: VersionEvidence,
    /// Leases, users, roles, members, alarms, raft's state.
    #[serde(flatten)]
    pub content: Content,
    /// The top-level buckets.
    pub buckets: Vec<BucketStats>,
}

impl Inspection {
    /// The answer from a finished scan. `digests` are those of the caller's own
    /// [`TrailerHasher`] when the scan has none.
    pub fn of(scan: &Scan, kind: Kind, digests: Option<&Digests>) -> Result<Self, HashError> {
        let digests = digests.or(scan.digests.as_ref());
        let trailer = match (scan.has_trailer, digests.and_then(Digests::trailer_ok)) {
            (false, _) => Trailer::Absent,
            (true, Some(true)) => Trailer::Right,
            (true, Some(false)) => Trailer::Wrong,
            (true, None) => Trailer::Unchecked,
        };
        let content = &scan.content;
        let compact_revision = content.compact_revision();
        let hash_kv = if scan.is_sound() { Some(scan.hash_kv(0, compact_revision)?) } else { None };
        let mut problems: Vec<String> =
            scan.problems.iter().map(|problem| chain(problem)).collect();
        let mut problem_count = scan.problem_count;
        if trailer == Trailer::Wrong {
            problems.insert(0, "the SHA-256 behind the database is not that of its bytes".into());
            problem_count += 1;
        }
        if !scan.has_trailer && !scan.file_size.is_multiple_of(SMALLEST_PAGE) {
            problems.insert(
                0,
                "the file ends neither after a page nor after the SHA-256 of a snapshot: it is \
                 cut short"
                    .into(),
            );
            problem_count += 1;
        }
        let page_size = u64::from(scan.meta.page_size);
        Ok(Self {
            kind,
            sound: problem_count == 0,
            problems,
            problem_count,
            trailer,
            sha256: digests.map(|digests| hex(&digests.database)),
            file_size: scan.file_size,
            size: scan.size,
            size_in_use: scan.used_pages * page_size,
            fragmentation: scan.free_pages as f64 / scan.meta.high_water.max(1) as f64,
            page_size: scan.meta.page_size,
            txid: scan.meta.txid,
            revision: scan.revision,
            compact_revision,
            compaction_unfinished: content.scheduled_compact > content.finished_compact,
            hash_kv,
            status_hash: scan.is_sound().then_some(scan.status_hash),
            keys: scan.live_keys,
            entries: scan.entries,
            records: scan.records,
            tombstones: scan.tombstones,
            version: content.version_evidence(),
            content: content.clone(),
            buckets: scan.buckets.clone(),
        })
    }
}

/// Every page size is a multiple of this.
const SMALLEST_PAGE: u64 = 512;

/// Inspects a snapshot, a database file or a data directory. The directory's
/// member must be stopped: a running one writes while this reads.
pub fn inspect(path: &Path, options: ScanOptions) -> Result<Inspection, InspectError> {
    inspect_with(path, options, |_| {}).map(|(inspection, _)| inspection)
}

/// Like [`inspect`]; `progress` is told the bytes read so far, and the scan is
/// given back for further questions.
pub fn inspect_with(
    path: &Path,
    options: ScanOptions,
    progress: impl FnMut(u64),
) -> Result<(Inspection, Scan), InspectError> {
    let (path, directory) = database_of(path)?;
    let (scan, digests) = scan_file(&path, options, progress)?;
    let kind = match (directory, scan.has_trailer) {
        (true, _) => Kind::DataDirectory,
        (false, true) => Kind::Snapshot,
        (false, false) => Kind::Database,
    };
    let inspection = Inspection::of(&scan, kind, digests.as_ref()).map_err(InspectError::Hash)?;
    Ok((inspection, scan))
}

/// The database file of what was given, and whether that was a directory.
fn database_of(path: &Path) -> Result<(PathBuf, bool), InspectError> {
    let io = |source| InspectError::Io { path: path.to_owned(), source };
    let metadata = path.metadata().map_err(io)?;
    if metadata.is_file() {
        return Ok((path.to_owned(), false));
    }
    if !metadata.is_dir() {
        return Err(InspectError::NotAFile { path: path.to_owned() });
    }
    let database: PathBuf = std::iter::once(path).chain(DATABASE.map(Path::new)).collect();
    if !database.is_file() {
        return Err(InspectError::NoDatabase { path: path.to_owned() });
    }
    Ok((database, true))
}

/// Reads what is needed; SHA-256, when asked for, runs beside the scan.
fn scan_file(
    path: &Path,
    options: ScanOptions,
    mut progress: impl FnMut(u64),
) -> Result<(Scan, Option<Digests>), InspectError> {
    let io = |source| InspectError::Io { path: path.to_owned(), source };
    let failed = |source| InspectError::Scan { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    if !options.sha256 {
        let database = Database::open(file).map_err(|source| failed(source.into()))?;
        let scan = Scan::of(&database, options).map_err(failed)?;
        progress(scan.file_size);
        return Ok((scan, None));
    }
    let mut scan = StreamScan::new(ScanOptions { sha256: false, ..options });
    // Each chunk is read by both sides and comes back to be filled again.
    thread::scope(|scope| {
        let (to_hash, hashed) = mpsc::sync_channel::<Arc<Vec<u8>>>(2);
        let hasher = scope.spawn(move || {
            let mut hasher = TrailerHasher::new();
            for chunk in hashed {
                hasher.write(&chunk);
            }
            hasher.finish()
        });
        let mut spare: Vec<Arc<Vec<u8>>> = Vec::new();
        let mut done = 0;
        loop {
            let free = spare.iter().position(|chunk| Arc::strong_count(chunk) == 1);
            let mut chunk = match free.map(|at| spare.swap_remove(at)) {
                Some(chunk) => Arc::try_unwrap(chunk).unwrap_or_default(),
                None => Vec::new(),
            };
            chunk.resize(CHUNK, 0);
            let length = file.read(&mut chunk).map_err(io)?;
            chunk.truncate(length);
            if length == 0 {
                break;
            }
            let chunk = Arc::new(chunk);
            if to_hash.send(chunk.clone()).is_err() {
                // The hasher only ends early by a panic, which join reports.
                break;
            }
            scan.write(&chunk).map_err(failed)?;
            spare.push(chunk);
            done += length as u64;
            progress(done);
        }
        drop(to_hash);
        let digests =
            hasher.join().map_err(|_| io(io::Error::other("the hashing thread ended")))?;
        Ok((scan.finish().map_err(failed)?, Some(digests)))
    })
}

/// An error with its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
