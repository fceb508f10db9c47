//! What is left of a member: what its log and its database say about how far it
//! came, which of several members to go on from, and the change that keeps the
//! entries that nobody knows to be committed.
//!
//! Only stopped members are read: a running one writes meanwhile.
//!
//! Source: `server/wal/wal.go`, `server/wal/repair.go @ v3.5.30` (what etcd itself
//! mends when it starts: a torn end of the last segment, nothing else);
//! `raft/log.go` (`isUpToDate`: the higher last term wins, then the longer log).

use std::cmp::Reverse;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, FileExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::hash::ScanOptions;
use super::inspect::{Inspection, chain, inspect};
use super::layout::{DataDir, LayoutError};
use crate::bbolt::Database;
use crate::bbolt::database::TRAILER_SIZE;
use crate::types::{HexId, Version};
use crate::wal::{Encoder, End, HardState};

/// What a member's log says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRemains {
    /// The member whose log it is.
    pub member: Option<HexId>,
    /// Its cluster.
    pub cluster: Option<HexId>,
    /// Index of the first entry that is there.
    pub first_index: Option<u64>,
    /// Index of the last entry.
    pub last_index: Option<u64>,
    /// Term of the last entry.
    pub last_term: Option<u64>,
    /// Highest index that the member knew to be committed.
    pub commit: u64,
    /// The member's term when it last wrote.
    pub term: u64,
    /// Index of the latest raft snapshot that the log knows.
    pub snapshot_index: u64,
    /// Entries behind the commit: perhaps acknowledged through other members.
    pub beyond_commit: u64,
    /// How it ends.
    pub end: LogEnding,
    /// Why it could not be read to its end; what stands above is what lies before.
    pub problem: Option<String>,
}

/// How a log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogEnding {
    /// After a whole record.
    Whole,
    /// Within a record that was being written when the member died: etcd drops it.
    Torn,
    /// Somewhere else: etcd does not start from it.
    Damaged,
}

impl LogRemains {
    /// Reads the log of a stopped member, as far as it can be read.
    pub fn read(directory: &DataDir) -> Result<Self, LayoutError> {
        let read = directory.read_log_so_far()?;
        let summary = read.summary;
        let state = summary.hard_state.unwrap_or_default();
        let last = summary.last;
        let (end, problem) = match &read.end {
            Ok(end) if end.end == End::Torn => (LogEnding::Torn, None),
            Ok(_) => (LogEnding::Whole, None),
            Err(error) => (LogEnding::Damaged, Some(chain(error))),
        };
        Ok(Self {
            member: summary.metadata.map(|metadata| HexId(metadata.member_id)),
            cluster: summary.metadata.map(|metadata| HexId(metadata.cluster_id)),
            first_index: summary.first_index,
            last_index: last.map(|(index, _)| index),
            last_term: last.map(|(_, term)| term),
            commit: state.commit,
            term: state.term,
            snapshot_index: summary.snapshot.map_or(0, |mark| mark.index),
            beyond_commit: last.map_or(0, |(index, _)| index.saturating_sub(state.commit)),
            end,
            problem,
        })
    }

    /// Term and index of its last entry.
    pub fn last(&self) -> Option<(u64, u64)> {
        Some((self.last_term?, self.last_index?))
    }

    /// Term and index of the last thing that the log knows: its last entry, or the
    /// snapshot where no entry follows it.
    fn reach(&self) -> (u64, u64) {
        match (self.last_term, self.last_index) {
            (Some(term), Some(index)) => (term, index.max(self.snapshot_index)),
            _ => (self.term, self.snapshot_index),
        }
    }
}

/// What is left of a member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Remains {
    /// Its log; `None` when there is none.
    pub log: Option<LogRemains>,
    /// Its database; `None` when there is none or it is no database.
    pub database: Option<Inspection>,
    /// Why there is no log or no database.
    pub problems: Vec<String>,
}

/// What can be made of remains, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Use {
    /// etcd starts from them: everything in log and database comes back.
    Start,
    /// The database alone: the store up to its consistent index.
    Database,
    /// Nothing can be made of them.
    Nothing,
}

impl Remains {
    /// Reads what is left of a stopped member; what cannot be read is a problem, not
    /// an error.
    pub fn read(directory: &DataDir, options: ScanOptions) -> Self {
        let mut problems = Vec::new();
        let log = LogRemains::read(directory).map_err(|error| problems.push(chain(&error)));
        let mut this = Self::of_database(&directory.database(), options);
        this.problems.splice(0..0, problems);
        Self { log: log.ok(), ..this }
    }

    /// Reads a bare database.
    pub fn of_database(path: &Path, options: ScanOptions) -> Self {
        match inspect(path, options) {
            Ok(database) => Self { log: None, database: Some(database), problems: Vec::new() },
            Err(error) => Self { log: None, database: None, problems: vec![chain(&error)] },
        }
    }

    /// The version of etcd that their store is of, as far as it says.
    pub fn version(&self) -> Option<Version> {
        let content = &self.database.as_ref()?.content;
        let text = content.cluster_version.as_ref().or(content.storage_version.as_ref())?;
        text.parse().ok()
    }

    /// How far their entries go: those in the database, those known to be committed,
    /// those in the log. Without a usable log all three are the first.
    pub fn extent(&self) -> (u64, u64, u64) {
        let database = self.database.as_ref();
        let applied = database.and_then(|it| it.content.consistent_index).unwrap_or(0);
        match &self.log {
            // etcd takes what is in the database for committed, whatever the log says.
            Some(log) if self.usable().0 == Use::Start => {
                let commit = log.commit.max(applied);
                (applied, commit, log.last_index.unwrap_or(0).max(commit))
            }
            _ => (applied, applied, applied),
        }
    }

    /// What can be made of them, and why not more.
    pub fn usable(&self) -> (Use, Option<String>) {
        let Some(database) = &self.database else {
            return (Use::Nothing, Some("there is no database".to_owned()));
        };
        if !database.sound {
            let problem = database.problems.first().map_or("", String::as_str);
            return (Use::Nothing, Some(format!("the database is damaged: {problem}")));
        }
        let Some(log) = &self.log else {
            return (Use::Database, Some("there is no log".to_owned()));
        };
        if let Some(problem) = &log.problem {
            return (Use::Database, Some(format!("the log is damaged: {problem}")));
        }
        // Entries up to the consistent index are applied; etcd needs those after it.
        let applied = database.content.consistent_index.unwrap_or(0);
        match log.first_index {
            Some(first) if first > applied.saturating_add(1) => (
                Use::Database,
                Some(format!(
                    "the log begins at entry {first}, the database ends at {applied}: entries are \
                     missing"
                )),
            ),
            _ if log.member.is_none() => {
                (Use::Database, Some("the log does not say whose it is".to_owned()))
            }
            _ => (Use::Start, None),
        }
    }

    /// The index up to which the store would come back.
    fn reach(&self) -> (Use, u64, u64, u64) {
        let (usable, _) = self.usable();
        let applied = self.database.as_ref().map_or((0, 0), |database| {
            let content = &database.content;
            (content.term.unwrap_or(0), content.consistent_index.unwrap_or(0))
        });
        let (term, index) = match (usable, &self.log) {
            (Use::Start, Some(log)) => log.reach(),
            _ => applied,
        };
        let commit = self.log.as_ref().map_or(applied.1, |log| log.commit);
        (usable, term, index, commit)
    }
}

/// The order in which to go on from remains: positions in `remains`, the best
/// first. Those from which etcd starts come before bare databases; then raft's own
/// rule: the higher last term, then the longer log, then the higher commit. Equals
/// keep their order.
pub fn rank<'a>(remains: impl IntoIterator<Item = &'a Remains>) -> Vec<usize> {
    let mut order: Vec<_> = remains.into_iter().map(Remains::reach).enumerate().collect();
    order.sort_by_key(|&(_, (usable, term, index, commit))| {
        (usable, Reverse(term), Reverse(index), Reverse(commit))
    });
    order.into_iter().map(|(position, _)| position).collect()
}

/// A copy that was not made.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The file system refused.
    #[error("copy {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no database that could be read.
    #[error("read {}", path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: crate::bbolt::OpenError,
    },
    /// A process wrote to it meanwhile.
    #[error("{} was written while it was copied", .0.display())]
    Written(PathBuf),
}

/// Bytes copied at a time.
const CHUNK: usize = 1 << 20;

/// Copies what etcd starts from: database, raft snapshots and log, these where they are
/// there. `to` is new, its log inside. Nothing else is read of `from`; a database that
/// was written meanwhile is refused. `go_on` is asked after each megabyte.
pub fn copy_member(
    from: &DataDir,
    to: &DataDir,
    go_on: &mut dyn FnMut() -> io::Result<()>,
) -> Result<(), CopyError> {
    for path in [to.snap(), to.wal()] {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|source| CopyError::Io { path, source })?;
    }
    let database = from.database();
    let before = txid(&database)?;
    copy_file(&database, &to.database(), go_on)?;
    // A commit writes into pages that the one before did not use: as long as it is the
    // same one, the pages below it are.
    if txid(&database)? != before {
        return Err(CopyError::Written(database));
    }
    for snapshot in from.raft_snapshots().unwrap_or_default() {
        let name = snapshot.path.file_name().unwrap_or_default();
        copy_file(&snapshot.path, &to.snap().join(name), go_on)?;
    }
    for segment in from.segments().unwrap_or_default() {
        let name = segment.to_string();
        copy_file(&from.wal().join(&name), &to.wal().join(&name), go_on)?;
    }
    Ok(())
}

/// Bytes of the snapshot that [`write_snapshot`] makes of a database of `size` bytes.
pub fn snapshot_size(size: u64) -> u64 {
    size.saturating_add(TRAILER_SIZE)
}

/// Writes the database at `path`, of which `size` bytes count, and its SHA-256 behind it:
/// what stock tools take for a snapshot. `go_on` is asked after each megabyte.
pub fn write_snapshot(
    path: &Path,
    size: u64,
    out: &mut dyn Write,
    go_on: &mut dyn FnMut() -> io::Result<()>,
) -> io::Result<()> {
    let mut reader = File::open(path)?.take(size);
    let mut digest = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) if reader.limit() > 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(0) => break,
            Ok(count) => {
                digest.update(&buffer[..count]);
                out.write_all(&buffer[..count])?;
                go_on()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    out.write_all(&digest.finalize())?;
    out.flush()
}

fn txid(path: &Path) -> Result<u64, CopyError> {
    let file = File::open(path);
    let file = file.map_err(|source| CopyError::Io { path: path.to_owned(), source })?;
    let opened = Database::open(file);
    let database =
        opened.map_err(|source| CopyError::Database { path: path.to_owned(), source })?;
    Ok(database.meta().txid)
}

fn copy_file(
    from: &Path,
    to: &Path,
    go_on: &mut dyn FnMut() -> io::Result<()>,
) -> Result<(), CopyError> {
    let mut copy = || -> io::Result<()> {
        let mut reader = File::open(from)?;
        let mut writer = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            writer.write_all(&buffer[..count])?;
            go_on()?;
        }
    };
    copy().map_err(|source| CopyError::Io { path: from.to_owned(), source })
}

/// A tail that could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// A process has the directory open.
    #[error("{} is in use by a running member", .0.display())]
    InUse(PathBuf),
    /// The log cannot be read.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The log's last segment cannot be written.
    #[error("write {}", path.display())]
    Write {
        /// The segment.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Makes the entries behind the commit of a **copy** of a member's directory count:
/// appends a hard state whose commit is the last entry. Returns how many entries
/// that are; 0 changes nothing. A member started from it applies them, where it
/// would drop them with `--force-new-cluster`. Doing it again changes nothing.
pub fn keep_tail(copy: &DataDir) -> Result<u64, KeepError> {
    if copy.is_in_use()? {
        return Err(KeepError::InUse(copy.path().to_owned()));
    }
    let (end, summary) = copy.read_log()?;
    let state = summary.hard_state.unwrap_or_default();
    let Some((index, term)) = summary.last.filter(|&(index, _)| index > state.commit) else {
        return Ok(0);
    };
    let mut record = Vec::new();
    let kept = HardState { term: state.term.max(term), commit: index, ..state };
    Encoder::resume(end.crc).hard_state(&kept, &mut record);
    let path = copy.wal().join(end.position.segment.to_string());
    let written = OpenOptions::new().write(true).open(&path).and_then(|file| {
        let size = file.metadata()?.len();
        let behind = end.position.offset + record.len() as u64;
        // A torn write can have left bytes behind the first zero.
        file.set_len(end.position.offset)?;
        file.write_all_at(&record, end.position.offset)?;
        file.set_len(size.max(behind))?;
        file.sync_all()
    });
    written.map_err(|source| KeepError::Write { path, source })?;
    Ok(index - state.commit)
}
