//! The tar stream in which trees of files travel, pure over bytes.
//!
//! POSIX tar with extended headers, which GNU tar reads, and GNU tar's own output
//! can be read. What a caller may rely on:
//!
//! - names are relative, have no `..`, and are kept byte for byte; what a
//!   [`Reader`] returns obeys that, or it fails;
//! - modification times are in nanoseconds (`mtime`), extended attributes raw
//!   (`SCHILY.xattr.*`; GNU tar's `RHT.security.selinux` is understood);
//! - holes are not in the stream (GNU sparse format 1.0 is written; 0.0, 0.1, 1.0
//!   and the old GNU format are read);
//! - a stream without its end marker is an error: it was cut;
//! - notes of what was left out or changed meanwhile follow the last member, as
//!   `comment` records of global headers, which tar programs ignore.
//!
//! Every size is checked against a bound before it is used. The tar crate encodes
//! and decodes the fields of a header; extended records are handled here, because
//! their values are binary.

mod pax;
mod read;
mod write;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

pub use read::Reader;
pub use write::{Outcome, ReadAt, Writer};

/// The unit of a tar stream.
const BLOCK: usize = 512;

/// At most so many bytes of extended header before one member.
const MAX_PAX: u64 = 8 << 20;

/// A path is at most so long, as everywhere in Linux.
const MAX_PATH: usize = 4095;

/// At most so many pieces of data are in one sparse file.
const MAX_EXTENTS: usize = 1 << 20;

/// An attribute's value is at most so long in Linux.
const MAX_XATTR: usize = 64 << 10;

/// A piece of data in a file; between pieces are holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
}

/// What a member of the archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File {
        /// Its size, holes counted.
        size: u64,
        /// Where data is, ascending and without overlap. One piece of the whole
        /// size where the file has no holes.
        extents: Vec<Extent>,
    },
    /// A directory.
    Directory,
    /// A symbolic link and where it leads.
    Symlink(PathBuf),
    /// Another name of a regular file that is an earlier member.
    HardLink(PathBuf),
}

/// A member of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Relative, without `.` and `..`; empty for the root itself.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The owner's name where it was packed; empty where it had none.
    pub owner: String,
    /// The group's name where it was packed; empty where it had none.
    pub group: String,
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// When its content was last changed, in nanoseconds since 1970 UTC.
    pub modified: i128,
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// Why a stream could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The bytes could not be had.
    #[error("read the tar stream")]
    Read(#[source] io::Error),
    /// It ends before its end marker.
    #[error("the tar stream ends before its end marker")]
    Truncated,
    /// It is no tar stream, or it is damaged.
    #[error("the tar stream is damaged near byte {at}: {what}")]
    Malformed {
        /// Where, counted from the stream's beginning.
        at: u64,
        /// What is wrong.
        what: String,
    },
    /// A member that is never accepted.
    #[error("the tar stream holds {path:?}, which is refused: {why}")]
    Refused {
        /// Its name, as written there.
        path: String,
        /// Why, as a fragment.
        why: String,
    },
}

#[cfg(test)]
mod tests;
