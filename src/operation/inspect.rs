//! `inspect`: what is inside a snapshot, a database, a stopped data directory or a
//! backup.

use std::path::{Path, PathBuf};

use serde::Serialize;
use vault::repository::{Backup, ReadOptions, Repository};

use super::content::SNAPSHOT_ROLE;
use super::failure::{Failure, FailureKind, chain};
use super::vaults::storage_failure;
use super::verify::scan_object;
use crate::datadir::hash::{HashError, Scan, ScanError, ScanOptions};
use crate::datadir::inspect::{self, InspectError, Inspection};
use crate::datadir::layout::DataDir;
use crate::datadir::remains::LogRemains;
use crate::event::Events;

/// What was found.
#[derive(Debug, Serialize)]
pub struct InspectReport {
    /// What was inspected: a path or a backup's id.
    pub what: String,
    /// Everything known of the database.
    #[serde(flatten)]
    pub database: Inspection,
    /// HashKV at a revision that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash_kv_at: Option<HashAt>,
    /// What a data directory's log says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<LogRemains>,
    /// Why a data directory's log cannot be read at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_problem: Option<String>,
}

impl InspectReport {
    /// Whether etcd would take everything that was inspected.
    pub fn is_sound(&self) -> bool {
        let log_is = |log: &LogRemains| log.problem.is_none();
        self.database.sound && self.log.as_ref().is_none_or(log_is)
    }
}

/// HashKV at a revision that was asked for.
#[derive(Debug, Serialize)]
pub struct HashAt {
    /// The revision.
    pub revision: i64,
    /// The hash, with the database's own compact revision.
    pub hash: u32,
}

/// Inspects a file or a directory; the trailing SHA-256 of a snapshot on request.
pub async fn path(
    path: &Path,
    revision: Option<i64>,
    check_trailer: bool,
    events: &Events,
) -> Result<InspectReport, Failure> {
    let what = path.display().to_string();
    let owned: PathBuf = path.to_owned();
    events.started(format!("inspect {what}"), path.metadata().ok().map(|m| m.len()));
    let progress = events.clone();
    let inspected = tokio::task::spawn_blocking(move || {
        let options = ScanOptions { sha256: check_trailer, ..spilling_options() };
        inspect::inspect_with(&owned, options, |done| progress.progress(done))
    })
    .await;
    events.finished();
    let (database, scan) = inspected
        .map_err(|error| not_inspected(&what, FailureKind::Error).because(error))?
        .map_err(|error| {
            let kind = match &error {
                InspectError::Io { .. }
                | InspectError::Hash(_)
                | InspectError::Scan { source: ScanError::Spill(_), .. } => FailureKind::Error,
                InspectError::Scan { .. } => FailureKind::Corrupt,
                _ => FailureKind::Usage,
            };
            let hint = match &error {
                InspectError::Scan { source: ScanError::Spill(_), .. }
                | InspectError::Hash(HashError::Spill(_)) => ROOM_HINT,
                _ => {
                    "a snapshot file, a member/snap/db file, or the data directory of a stopped \
                     member"
                }
            };
            not_inspected(&what, kind).because(error).hint(hint)
        })?;
    let log = (database.kind == inspect::Kind::DataDirectory)
        .then(|| LogRemains::read(&DataDir::new(path, None)));
    let mut report = report(what, database, &scan, revision)?;
    match log {
        Some(Ok(log)) => report.log = Some(log),
        Some(Err(error)) => report.log_problem = Some(chain(&error).join(": ")),
        None => {}
    }
    Ok(report)
}

/// Inspects a backup's snapshot.
pub async fn backup(
    repository: &Repository,
    backup: &Backup,
    revision: Option<i64>,
    options: &ReadOptions,
    events: &Events,
) -> Result<InspectReport, Failure> {
    let id = backup.manifest.id.to_string();
    let object = backup.manifest.object(SNAPSHOT_ROLE).ok_or_else(|| {
        not_inspected(&id, FailureKind::Usage).detail("it holds no snapshot".to_owned())
    })?;
    events.started(format!("inspect {id}"), Some(object.plain_size));
    let scanned = scan_object(repository, object, options, events).await;
    events.finished();
    let scan = scanned
        .map_err(|error| storage_failure(format!("{id} was not inspected"), error))?
        .map_err(|error| scan_failure(format!("{id} was not inspected"), error))?;
    let database = Inspection::of(&scan, inspect::Kind::Snapshot, None)
        .map_err(|error| not_inspected(&id, FailureKind::Error).because(error))?;
    report(id, database, &scan, revision)
}

fn report(
    what: String,
    database: Inspection,
    scan: &Scan,
    revision: Option<i64>,
) -> Result<InspectReport, Failure> {
    let hash_kv_at = match revision {
        Some(revision) => {
            let hash = scan.hash_kv(revision, database.compact_revision).map_err(|error| {
                let kind = match error {
                    HashError::Future { .. } => FailureKind::Usage,
                    HashError::Damaged => FailureKind::Corrupt,
                    HashError::Spill(_) => FailureKind::Error,
                };
                Failure::new(kind, format!("HashKV of {what} is not known")).because(error)
            })?;
            Some(HashAt { revision, hash })
        }
        None => None,
    };
    Ok(InspectReport { what, database, hash_kv_at, log: None, log_problem: None })
}

/// Without a scan: the bytes are no database, or this machine could not keep what it
/// needs to tell.
pub(super) fn scan_failure(what: String, error: ScanError) -> Failure {
    match error {
        ScanError::Spill(_) => {
            Failure::new(FailureKind::Error, what).because(error).hint(ROOM_HINT)
        }
        ScanError::Open(_) => Failure::new(FailureKind::Corrupt, what).because(error),
    }
}

/// What helps a scan that found no room.
const ROOM_HINT: &str = "the scan of many records needs room for temporary files: in --spool-dir \
     where there is that flag, else in TMPDIR (without it in /var/tmp); of the snapshot nothing is \
     said";

fn not_inspected(what: &str, kind: FailureKind) -> Failure {
    Failure::new(kind, format!("{what} was not inspected"))
}

/// Where large temporary files without a name go: not `/tmp`, which is memory on many
/// machines, unless that is all there is or was chosen.
pub fn scratch_dir() -> PathBuf {
    let chosen = std::env::temp_dir();
    let disk = Path::new("/var/tmp");
    if chosen == Path::new("/tmp") && disk.is_dir() { disk.to_owned() } else { chosen }
}

/// Records of a scan beyond this many bytes go to an unlinked file.
const SCAN_MEMORY: usize = 32 << 20;

/// A scan that moves its records to an unlinked temporary file where there are many.
pub(super) fn spilling_options() -> ScanOptions {
    ScanOptions {
        memory: SCAN_MEMORY,
        spill_directory: Some(scratch_dir()),
        ..ScanOptions::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bbolt::OpenError;

    #[test]
    fn a_full_disk_is_not_a_damaged_snapshot() {
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let failure = scan_failure("x".to_owned(), ScanError::Spill(full()));
        assert_eq!(failure.kind, FailureKind::Error);
        let failure = scan_failure("x".to_owned(), ScanError::Open(OpenError::Empty));
        assert_eq!(failure.kind, FailureKind::Corrupt);
    }
}
