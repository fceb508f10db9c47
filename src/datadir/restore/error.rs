//! Why a restore did not happen.

use std::io;
use std::path::PathBuf;

use super::version::TooNew;
use crate::bbolt::OpenError;
use crate::bbolt::patch::PatchError;
use crate::datadir::hash::{HashError, ScanError};
use crate::datadir::membership::MembershipError;

/// A restore that did not happen. Unless said otherwise nothing is left of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The new cluster is not a possible one.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// No directory was asked for.
    #[error("there is no directory to restore to")]
    NoTarget,
    /// A bump without a mark, or a mark without a bump.
    #[error("a revision bump and mark-compacted go together: one was given without the other")]
    BumpFlags,
    /// The bump leads beyond what a revision can be.
    #[error("revision {revision} cannot be raised by {amount}")]
    Bump {
        /// The snapshot's revision.
        revision: i64,
        /// By how much.
        amount: u64,
    },
    /// There is something in the target.
    #[error(
        "{} is not empty: it holds {}{}", .path.display(), .there.join(", "),
        if *.more > 0 { format!(" and {} more", .more) } else { String::new() }
    )]
    Occupied {
        /// The target.
        path: PathBuf,
        /// What is there, the first few names.
        there: Vec<String>,
        /// How many more.
        more: usize,
    },
    /// Another restore builds there.
    #[error(
        "{} is the work of another restore that {}", .path.display(),
        if *.alive { "is running" } else { "ran on another host and may still be running" }
    )]
    Busy {
        /// What it builds.
        path: PathBuf,
        /// Whether it is known to run.
        alive: bool,
    },
    /// A file, a link to nowhere, or no name at all.
    #[error("{} is not a directory", .path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// Two of the directories cannot stand where they shall.
    #[error("{} lies within {}", .inner.display(), .outer.display())]
    Overlap {
        /// The inner one.
        inner: PathBuf,
        /// The outer one.
        outer: PathBuf,
    },
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
    /// The directory stands complete under its name, but a power cut may undo that.
    #[error("{} is complete, but it is not certain that it would survive a power cut", .path.display())]
    NotDurable {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Several directories were asked for, one could not be put in place, and
    /// these that stood already could not be taken back.
    #[error(
        "not all directories could be put in place; {} stands complete",
        .stand.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    Partly {
        /// What stands.
        stand: Vec<PathBuf>,
        /// Why the others do not.
        #[source]
        source: Box<RestoreError>,
    },
    /// The process cannot tell its own identity.
    #[error("cannot tell which process this is")]
    Process(#[source] io::Error),
    /// The stream is no database.
    #[error("the snapshot cannot be read")]
    Scan(#[from] ScanError),
    /// What was written is no database.
    #[error("the written database cannot be opened")]
    Open(#[from] OpenError),
    /// The length says that no digest follows the database.
    #[error(
        "the snapshot of {size} bytes has no digest at its end: it is cut off, or a database file \
         copied from a data directory, which needs skip-hash-check"
    )]
    NoTrailer {
        /// Bytes that came.
        size: u64,
    },
    /// The digest at the end is not that of the database.
    #[error("the digest at the snapshot's end is not that of its content")]
    Trailer,
    /// Not as long as the caller knows it to be.
    #[error("the snapshot has {found} bytes instead of {expected}")]
    Size {
        /// As long as it should be.
        expected: u64,
        /// As long as it is.
        found: u64,
    },
    /// Not the bytes that the caller knows.
    #[error("the snapshot's digest is not the expected one")]
    Digest,
    /// Not the content that was proven.
    #[error("HashKV at revision {revision} is {found} instead of {expected}")]
    Hash {
        /// The revision.
        revision: i64,
        /// What members had returned.
        expected: u32,
        /// What the snapshot gives.
        found: u32,
    },
    /// The structure or the entries are damaged.
    #[error("the snapshot is damaged in {count} places, first: {first}")]
    Damaged {
        /// How many.
        count: u64,
        /// The first.
        first: String,
    },
    /// The store is newer than the etcd that shall run it.
    #[error(transparent)]
    TooNew(#[from] TooNew),
    /// The hash could not be computed.
    #[error("the hash of the restored store cannot be told")]
    Predict(#[from] HashError),
    /// The database could not be changed.
    #[error("the database cannot be made that of a new cluster")]
    Patch(#[from] PatchError),
    /// Something failed before, and what was written is not whole.
    #[error("an earlier part of the snapshot could not be written")]
    AfterFailure,
}
