//! The index of a node's archives: a JSON document with the node's description and a
//! line for each file, so that states are compared without reading the archives.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use vault::archive::{self, Contents, EntryKind, IndexedEntry};
use vault::digest::Sha256;
use vault::document::printable;
use vault::manifest::{FormatVersion, ObjectRecord};
use vault::repository::{ReadOptions, Repository, RepositoryError};

use super::describe::Description;
use crate::node::TreeSpec;

/// The version of the index's format that is written.
pub const FORMAT: u32 = 1;
/// The largest index that is read, in bytes.
pub const MAX_INDEX: u64 = 256 << 20;

/// What a note says behind the path of a file that changed.
const CHANGED: &str = ": changed while it was read";

/// What a file of an archive is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Another name of a file.
    HardLink,
}

/// A file, directory or link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its absolute path, escaped as [`vault::archive::escape`] does.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The owner's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// The group's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// When its content was last changed: seconds and nanoseconds since 1970.
    pub modified: (i64, u32),
    /// Bytes of a file.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub size: u64,
    /// SHA-256 of a file's content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256>,
    /// Where a link leads, escaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Extended attributes: values escaped.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, String>,
    /// Where its content begins in the tar archive; `None` where it is not one piece.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_at: Option<u64>,
    /// Whether it changed while it was read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub changed: bool,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl File {
    /// What the archive says of an entry.
    pub fn of(indexed: &IndexedEntry) -> Self {
        let IndexedEntry { entry, sha256 } = indexed;
        let rooted = |path: &[u8]| format!("/{}", archive::escape(path));
        let seconds = entry.modified.div_euclid(1_000_000_000);
        Self {
            path: rooted(&entry.path),
            kind: match entry.kind {
                EntryKind::File => Kind::File,
                EntryKind::Directory => Kind::Directory,
                EntryKind::Symlink => Kind::Symlink,
                EntryKind::HardLink => Kind::HardLink,
            },
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            owner: printable(&entry.owner),
            group: printable(&entry.group),
            modified: (
                i64::try_from(seconds).unwrap_or(0),
                entry.modified.rem_euclid(1_000_000_000) as u32,
            ),
            size: entry.size,
            sha256: *sha256,
            target: entry.target.as_ref().map(|target| match entry.kind {
                EntryKind::HardLink => rooted(target),
                _ => archive::escape(target),
            }),
            xattrs: entry
                .xattrs
                .iter()
                .map(|(name, value)| (printable(name), archive::escape(value)))
                .collect(),
            content_at: (entry.kind == EntryKind::File && !entry.sparse)
                .then_some(entry.content_at),
            changed: false,
        }
    }

    /// Its path on the node; `None` where the text is no escaped path.
    pub fn real_path(&self) -> Option<PathBuf> {
        use std::os::unix::ffi::OsStringExt as _;
        archive::unescape(&self.path).map(|bytes| std::ffi::OsString::from_vec(bytes).into())
    }
}

/// One archive: what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    /// The paths that were asked for, escaped.
    pub roots: Vec<String>,
    /// Those that were left out, escaped.
    pub exclude: Vec<String>,
    /// Its files, in its order.
    pub files: Vec<File>,
    /// What the node said of it: what was left out, what changed meanwhile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Archive {
    /// The list of what came for `spec`.
    pub fn new(spec: &TreeSpec, contents: &Contents) -> Self {
        let escaped = |paths: &[PathBuf]| paths.iter().map(|path| escaped(path)).collect();
        let changed: HashSet<&str> =
            contents.notes.iter().filter_map(|note| Some(note.split_once(CHANGED)?.0)).collect();
        let mut files: Vec<File> = contents.entries.iter().map(File::of).collect();
        if !changed.is_empty() {
            for file in &mut files {
                let shown = file.real_path().map(|path| printable(&path.display().to_string()));
                file.changed = shown.is_some_and(|path| changed.contains(&path[..]));
            }
        }
        Self {
            roots: escaped(&spec.roots),
            exclude: escaped(&spec.exclude),
            files,
            notes: contents.notes.clone(),
        }
    }

    /// The file of this path.
    pub fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }
}

/// A path as indexes have it.
pub fn escaped(path: &Path) -> String {
    archive::escape(path.as_os_str().as_encoded_bytes())
}

/// The index of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeIndex {
    /// The format, and the oldest reader that can use it.
    pub format: FormatVersion,
    /// The node's name.
    pub node: String,
    /// The node's clock when it was asked.
    pub taken: DateTime<Utc>,
    /// What was seen of it.
    pub description: Description,
    /// Its configuration.
    pub state: Archive,
    /// Its data directories, where they were copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Archive>,
}

/// Why bytes are no index.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The vault could not give it.
    #[error("read the index")]
    Vault(#[from] RepositoryError),
    /// It is larger than any that is written.
    #[error("the index has {0} bytes, at most {MAX_INDEX} are read")]
    TooLarge(u64),
    /// It was written for newer readers.
    #[error("the index needs a reader of format {needs}; this one reads format {FORMAT}")]
    TooNew {
        /// The format that a reader must know.
        needs: u32,
    },
    /// It is no index.
    #[error("the index does not follow its format")]
    Malformed(#[source] serde_json::Error),
}

impl NodeIndex {
    /// The bytes of the object.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads an index.
    pub fn decode(bytes: &[u8]) -> Result<Self, IndexError> {
        #[derive(Deserialize)]
        struct Head {
            format: FormatVersion,
        }
        let head: Head = serde_json::from_slice(bytes).map_err(IndexError::Malformed)?;
        if head.format.oldest_reader > FORMAT {
            return Err(IndexError::TooNew { needs: head.format.oldest_reader });
        }
        serde_json::from_slice(bytes).map_err(IndexError::Malformed)
    }

    /// Reads the index in `object`, every byte checked.
    pub async fn read(repository: &Repository, object: &ObjectRecord) -> Result<Self, IndexError> {
        if object.plain_size > MAX_INDEX {
            return Err(IndexError::TooLarge(object.plain_size));
        }
        let options = ReadOptions { workers: 1, ..ReadOptions::default() };
        let mut reader = repository.open_object(object, &options).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = reader.next().await? {
            bytes.extend_from_slice(&chunk);
        }
        Self::decode(&bytes)
    }
}
