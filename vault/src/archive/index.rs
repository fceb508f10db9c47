//! What an archive holds, with a digest of every file, made while it passes by.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256 as Hasher};

use super::{ArchiveError, Entry, EntryKind, Limits, TarReader, Visitor};
use crate::digest::Sha256;

/// An entry and what its content is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedEntry {
    /// What the archive says of it.
    pub entry: Entry,
    /// SHA-256 of a file's content, holes as zeros; of a hard link that of the file
    /// which it leads to. `None` for all else.
    pub sha256: Option<Sha256>,
}

/// What an archive holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Every entry, in the archive's order.
    pub entries: Vec<IndexedEntry>,
    /// What its writer wanted to say, printable.
    pub notes: Vec<String>,
}

/// Makes the index of a tar stream in whatever pieces it comes.
#[derive(Debug)]
pub struct Indexer {
    reader: TarReader,
    list: List,
}

#[derive(Debug, Default)]
struct List {
    entries: Vec<IndexedEntry>,
    notes: Vec<String>,
    at: HashMap<Vec<u8>, usize>,
    hasher: Hasher,
    hashed: u64,
}

impl Indexer {
    /// An index of nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self { reader: TarReader::new(limits), list: List::default() }
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.reader.push(bytes, &mut self.list)
    }

    /// Entries that have begun so far.
    pub fn entries(&self) -> &[IndexedEntry] {
        &self.list.entries
    }

    /// Ends the stream, which must be whole.
    pub fn finish(self) -> Result<Contents, ArchiveError> {
        self.reader.finish()?;
        Ok(Contents { entries: self.list.entries, notes: self.list.notes })
    }
}

impl List {
    /// Hashes the hole up to `offset`.
    fn hole(&mut self, offset: u64) {
        static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
        while self.hashed < offset {
            let piece = (offset - self.hashed).min(ZEROS.len() as u64);
            self.hasher.update(&ZEROS[..piece as usize]);
            self.hashed += piece;
        }
    }
}

impl Visitor for List {
    fn entry(&mut self, entry: &Entry) -> Result<(), &'static str> {
        let sha256 = match entry.kind {
            EntryKind::HardLink => entry
                .target
                .as_ref()
                .and_then(|target| self.at.get(target))
                .and_then(|&at| self.entries.get(at))
                .and_then(|linked| linked.sha256),
            _ => None,
        };
        if entry.kind == EntryKind::File {
            self.at.insert(entry.path.clone(), self.entries.len());
        }
        self.entries.push(IndexedEntry { entry: entry.clone(), sha256 });
        self.hasher = Hasher::new();
        self.hashed = 0;
        Ok(())
    }

    fn content(&mut self, offset: u64, bytes: &[u8]) -> Result<(), &'static str> {
        self.hole(offset);
        self.hasher.update(bytes);
        self.hashed += bytes.len() as u64;
        Ok(())
    }

    fn ended(&mut self) -> Result<(), &'static str> {
        let Some(entry) = self.entries.last() else { return Ok(()) };
        if entry.entry.kind == EntryKind::File {
            self.hole(entry.entry.size);
            let digest = Sha256(std::mem::take(&mut self.hasher).finalize().into());
            if let Some(entry) = self.entries.last_mut() {
                entry.sha256 = Some(digest);
            }
        }
        Ok(())
    }

    fn note(&mut self, text: &str) -> Result<(), &'static str> {
        self.notes.push(crate::document::printable(text));
        Ok(())
    }
}
