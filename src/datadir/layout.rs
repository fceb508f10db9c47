//! Where things lie in a member's data directory, and what its log says.
//!
//! Nothing here writes. A running member changes its files while they are read:
//! ask [`DataDir::is_in_use`] first.
//!
//! Source: `server/storage/datadir/datadir.go @ v3.6.16`,
//! `server/etcdserver/api/snap/snapshotter.go`.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::wal::{LogEnd, LogError, Segment, SegmentName, Summary, read_log};

/// Bytes read from a segment at a time.
const BUFFER: usize = 1 << 18;

/// A data directory that cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The file system refused.
    #[error("cannot {act} {}", .path.display())]
    Io {
        /// What was to be done.
        act: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The log cannot be read.
    #[error("cannot read the log in {}", .path.display())]
    Log {
        /// The log's directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: LogError,
    },
}

/// The paths of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDir {
    data_dir: PathBuf,
    member: PathBuf,
    wal_dir: Option<PathBuf>,
}

/// A raft snapshot, as its name says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RaftSnapshot {
    /// Term of its last entry.
    pub term: u64,
    /// Index of its last entry.
    pub index: u64,
    /// The file.
    pub path: PathBuf,
}

impl DataDir {
    /// The directory of etcd's `--data-dir`, and that of `--wal-dir` if it has one.
    pub fn new(data_dir: impl Into<PathBuf>, wal_dir: Option<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        Self { member: data_dir.join("member"), data_dir, wal_dir }
    }

    /// A directory that is a `member` directory itself, whatever its name: as people
    /// copy or rename it.
    pub fn of_member(member: impl Into<PathBuf>, wal_dir: Option<PathBuf>) -> Self {
        let member = member.into();
        Self { data_dir: member.clone(), member, wal_dir }
    }

    /// The data directory itself.
    pub fn path(&self) -> &Path {
        &self.data_dir
    }

    /// What a restore replaces: everything that etcd keeps in the directory.
    pub fn member(&self) -> PathBuf {
        self.member.clone()
    }

    /// The directory of the database and of the raft snapshots.
    pub fn snap(&self) -> PathBuf {
        self.member().join("snap")
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.snap().join("db")
    }

    /// The log's directory.
    pub fn wal(&self) -> PathBuf {
        self.wal_dir.clone().unwrap_or_else(|| self.member().join("wal"))
    }

    /// Whether a process has the database open: bbolt locks the file.
    pub fn is_in_use(&self) -> Result<bool, LayoutError> {
        let path = self.database();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(LayoutError::Io { act: "open", path, source }),
        };
        // The lock goes when the file is closed.
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(LayoutError::Io { act: "lock", path, source: error.into() }),
        }
    }

    /// The log's segments in their order; other files are passed over, as etcd does.
    pub fn segments(&self) -> Result<Vec<SegmentName>, LayoutError> {
        let mut names: Vec<_> =
            list(&self.wal())?.filter_map(|name| SegmentName::parse(name.to_str()?)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The raft snapshots in the order of term and index.
    pub fn raft_snapshots(&self) -> Result<Vec<RaftSnapshot>, LayoutError> {
        let directory = self.snap();
        let mut found: Vec<_> = list(&directory)?
            .filter_map(|name| {
                let (term, index) = name.to_str()?.strip_suffix(".snap")?.split_once('-')?;
                let number = |digits: &str| {
                    let plain = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit());
                    plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
                };
                let (term, index) = (number(term)?, number(index)?);
                Some(RaftSnapshot { term, index, path: directory.join(&name) })
            })
            .collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Reads the whole log from its first segment on.
    pub fn read_log(&self) -> Result<(LogEnd, Summary), LayoutError> {
        let read = self.read_log_so_far()?;
        match read.end {
            Ok(end) => Ok((end, read.summary)),
            Err(source) => Err(LayoutError::Log { path: self.wal(), source }),
        }
    }

    /// Reads the log from its first segment to its end or to its first damage.
    pub fn read_log_so_far(&self) -> Result<LogRead, LayoutError> {
        let directory = self.wal();
        let mut segments = Vec::new();
        for name in self.segments()? {
            let path = directory.join(name.to_string());
            let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
            let (size, file) =
                opened.map_err(|source| LayoutError::Io { act: "open", path, source })?;
            segments.push(Segment { name, size, reader: BufReader::with_capacity(BUFFER, file) });
        }
        let mut summary = Summary::default();
        let end = read_log(segments, &mut |position, event| summary.add(position, &event));
        Ok(LogRead { summary, end })
    }
}

/// A log that was read as far as it goes.
#[derive(Debug)]
pub struct LogRead {
    /// What it says up to there.
    pub summary: Summary,
    /// Where it ends, or why no further.
    pub end: Result<LogEnd, LogError>,
}

fn list(path: &Path) -> Result<impl Iterator<Item = std::ffi::OsString>, LayoutError> {
    let failed = |source| LayoutError::Io { act: "list", path: path.into(), source };
    let names: io::Result<Vec<_>> =
        fs::read_dir(path).map_err(failed)?.map(|entry| Ok(entry?.file_name())).collect();
    Ok(names.map_err(failed)?.into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_found_in_order() {
        let root = tempfile::tempdir().expect("temporary directory");
        let directory = DataDir::new(root.path(), None);
        fs::create_dir_all(directory.snap()).expect("make");
        fs::create_dir_all(directory.wal()).expect("make");
        assert!(!directory.is_in_use().expect("no database"));
        for name in [
            "0000000000000001-0000000000000010.wal",
            "0000000000000000-0000000000000000.wal",
            "0.tmp",
        ] {
            fs::write(directory.wal().join(name), b"").expect("write");
        }
        for name in [
            "db",
            "0000000000000002-0000000000000001.snap",
            "0000000000000001-000000000000000f.snap",
        ] {
            fs::write(directory.snap().join(name), b"").expect("write");
        }
        let sequences: Vec<_> =
            directory.segments().expect("list").iter().map(|name| name.sequence).collect();
        assert_eq!(sequences, [0, 1]);
        let snapshots: Vec<_> = directory.raft_snapshots().expect("list");
        let found: Vec<_> = snapshots.iter().map(|s| (s.term, s.index)).collect();
        assert_eq!(found, [(1, 15), (2, 1)]);

        assert!(!directory.is_in_use().expect("ask"));
        let file = File::open(directory.database()).expect("open");
        rustix::fs::flock(&file, FlockOperation::LockExclusive).expect("lock");
        assert!(directory.is_in_use().expect("ask"));
        drop(file);
        assert!(!directory.is_in_use().expect("ask"));

        // Two empty segments are no log.
        assert!(directory.read_log().is_ok());
        fs::remove_file(directory.wal().join("0000000000000000-0000000000000000.wal"))
            .expect("remove");
        assert_eq!(directory.segments().expect("list").len(), 1);
        let elsewhere = DataDir::new(root.path(), Some(root.path().join("nowhere")));
        assert!(matches!(elsewhere.segments(), Err(LayoutError::Io { act: "list", .. })));
    }
}
