//! Tar archives as they pass by: checked, bounded, without a copy of any file.
//!
//! [`TarReader`] takes the bytes of a tar stream in whatever pieces they come and
//! tells a [`Visitor`] of every entry and its content. It reads what `tar
//! --format=pax`, GNU tar and POSIX ustar write, sparse files included. What it
//! hands on has been checked:
//!
//! - a path is relative, has no empty, `.` or `..` part and at most [`MAX_PATH`] bytes;
//! - no path comes twice, and nothing lies below what came as a link or a file;
//! - a hard link leads to a regular file that came before it;
//! - no other kinds than files, directories and links;
//! - sizes are within [`Limits`] and add up to what the stream holds.
//!
//! Comments of global pax headers are handed on as notes: by them whoever wrote the
//! archive says which files changed while they were read.
//!
//! What breaks a rule ends the reading: an archive is whole and sound, or of no use.

mod header;
mod index;
mod reader;
mod sparse;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use self::index::{Contents, IndexedEntry, Indexer};
pub use self::reader::{TarReader, Visitor};

/// The longest path or link target, in bytes.
pub const MAX_PATH: usize = 4096;
/// The most bytes of one entry's extended header: names, times and attributes.
pub const MAX_EXTENDED: u64 = 8 << 20;
/// The most bytes of one note, and the most notes.
const MAX_NOTE: usize = 8192;
const MAX_NOTES: usize = 10_000;

/// What an archive may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Bytes of the tar stream.
    pub stream: u64,
    /// Bytes of one file, holes counted.
    pub file: u64,
    /// Bytes of all holes.
    pub holes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 500_000, stream: 1 << 40, file: 1 << 40, holes: 1 << 36 }
    }
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Another name of a file that came before.
    HardLink,
}

/// One entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path without a slash in front: bytes, as on the file system.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes of a file with its holes; 0 for all else.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The owner's name; empty where it is not known.
    pub owner: String,
    /// The group's name; empty where it is not known.
    pub group: String,
    /// When its content was last changed, in nanoseconds since 1970.
    pub modified: i128,
    /// Where a link leads: of a hard link a path as [`Entry::path`], of a symbolic
    /// one whatever is written in it.
    pub target: Option<Vec<u8>>,
    /// Extended attributes by name.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// Whether it was stored with holes.
    pub sparse: bool,
    /// Where its stored content begins in the tar stream. Of a file without holes
    /// the next `size` bytes are its content.
    pub content_at: u64,
}

/// What is wrong with an archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the archive is damaged at byte {at}{}: {why}", of(path))]
pub struct ArchiveError {
    /// Where in the tar stream.
    pub at: u64,
    /// Of which entry, printable; empty where it is not known.
    pub path: String,
    /// The rule that is broken.
    pub why: &'static str,
}

fn of(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!(" ({path})") }
}

/// A path for people and for JSON: valid UTF-8 as it is, with backslashes doubled;
/// other bytes, and what a terminal should not get, as `\xNN`. [`unescape`] reverts it.
pub fn escape(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' {
                text.push_str("\\\\");
            } else if !crate::document::is_harmful(c) {
                text.push(c);
            } else {
                let mut bytes = [0; 4];
                escape_bytes(c.encode_utf8(&mut bytes).as_bytes(), &mut text);
            }
        }
        escape_bytes(chunk.invalid(), &mut text);
    }
    text
}

fn escape_bytes(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        text.push_str(&format!("\\x{byte:02x}"));
    }
}

/// The bytes that [`escape`] wrote as `text`; `None` for any other text.
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte != b'\\' {
            bytes.push(byte);
            rest = tail;
        } else if let [b'\\', tail @ ..] = tail {
            bytes.push(b'\\');
            rest = tail;
        } else if let [b'x', high, low, tail @ ..] = tail {
            let digit = |d: u8| match d {
                b'0'..=b'9' => Some(d - b'0'),
                b'a'..=b'f' => Some(d - b'a' + 10),
                _ => None,
            };
            bytes.push(digit(*high)? << 4 | digit(*low)?);
            rest = tail;
        } else {
            return None;
        }
    }
    (escape(&bytes) == text).then_some(bytes)
}
