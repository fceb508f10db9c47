//! Changes a database copy-on-write: the changed leaves and their ancestors are
//! appended, and the two metas are written last.
//!
//! Until the metas are written the file holds the old database, after that the
//! new one; no page that the old one uses is overwritten. Only the pages on the
//! way to a change are read, so the cost does not grow with the file. The old
//! pages become free ones: the new metas say that no list of free pages is
//! stored, and whoever opens the database finds them again.
//!
//! Source of the rules: bbolt `node.go` (`split`, `spill`, `rebalance`),
//! `bucket.go` (`inlineable`), `tx.go` (`Commit`) at v1.3.12.

mod page_builder;
mod tree;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;

use super::PageSource;
use super::bucket::BucketHeader;
use super::database::{Database, ReadError};
use super::meta::{Meta, NO_FREELIST};
use super::page::{HEADER_SIZE, LEAF_FLAG_BUCKET, PageError, PageId};
use page_builder::LeafBuilder;
use tree::Writer;

/// Longest key that bbolt takes (`bucket.go`, `MaxKeySize`).
pub const MAX_KEY: usize = 32768;
/// Longest value that bbolt takes (`bucket.go`, `MaxValueSize`).
pub const MAX_VALUE: usize = (1 << 31) - 2;

/// A patch that could not be applied. The database is as it was unless the
/// error is [`PatchError::Write`].
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// A page on the way to a change cannot be read.
    #[error("read the page to be changed")]
    Read(#[from] ReadError),
    /// A page that was read breaks the format.
    #[error("page {page} cannot be changed")]
    Page {
        /// The page.
        page: PageId,
        /// Why.
        #[source]
        source: PageError,
    },
    /// The sink failed.
    #[error("write {length} bytes at offset {offset}")]
    Write {
        /// Where.
        offset: u64,
        /// How many bytes.
        length: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The sink could not be made durable.
    #[error("sync the patched database")]
    Sync(#[source] io::Error),
    /// bbolt takes no empty key and none above 32,768 bytes.
    #[error("a key of {length} bytes is not possible")]
    Key {
        /// Its length.
        length: usize,
    },
    /// bbolt takes no value of 2 GiB.
    #[error("a value of {length} bytes is not possible")]
    Value {
        /// Its length.
        length: usize,
    },
    /// A plain value where a bucket should be, or the reverse.
    #[error("page {page}: element {index} is {} bucket", if *.bucket { "a" } else { "not a" })]
    Kind {
        /// The leaf; 0 for an inline page.
        page: PageId,
        /// The element in it.
        index: usize,
        /// What was found there.
        bucket: bool,
    },
    /// The tree is deeper than any real one, or has leaves at different depths.
    #[error("the tree at page {page} is not a balanced one")]
    Shape {
        /// The page where that was seen.
        page: PageId,
    },
    /// A file beyond what offsets can express.
    #[error("the database would become too large")]
    TooLarge,
}

/// Where patched pages go.
pub trait PageSink {
    /// Writes all of `bytes` at `offset`.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything written so far durable before anything that follows.
    fn sync(&mut self) -> io::Result<()>;
}

/// Changes to the top-level buckets of a database, in no particular order.
#[derive(Debug, Clone, Default)]
pub struct Patch {
    buckets: BTreeMap<Vec<u8>, BucketPatch>,
}

#[derive(Debug, Clone, Default)]
struct BucketPatch {
    emptied: bool,
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Patch {
    /// A patch that changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes sure that the bucket exists.
    pub fn bucket(&mut self, bucket: &[u8]) -> &mut Self {
        self.buckets.entry(bucket.to_vec()).or_default();
        self
    }

    /// Removes everything from the bucket, creating it when missing; what is put
    /// afterwards is its new content.
    pub fn empty(&mut self, bucket: &[u8]) -> &mut Self {
        let emptied = BucketPatch { emptied: true, changes: BTreeMap::new() };
        self.buckets.insert(bucket.to_vec(), emptied);
        self
    }

    /// Sets a key, creating the bucket when missing.
    pub fn put(&mut self, bucket: &[u8], key: &[u8], value: &[u8]) -> &mut Self {
        let bucket = self.buckets.entry(bucket.to_vec()).or_default();
        bucket.changes.insert(key.to_vec(), Some(value.to_vec()));
        self
    }

    /// Removes a key, if it is there.
    pub fn delete(&mut self, bucket: &[u8], key: &[u8]) -> &mut Self {
        let bucket = self.buckets.entry(bucket.to_vec()).or_default();
        bucket.changes.insert(key.to_vec(), None);
        self
    }

    /// Applies the patch to `database`, whose bytes `sink` writes, and gives the
    /// new meta. The file is then at least `high_water * page_size` bytes long;
    /// bytes beyond mean nothing.
    pub fn apply<S: PageSource>(
        &self,
        database: &Database<S>,
        sink: &mut dyn PageSink,
    ) -> Result<Meta, PatchError> {
        let old = *database.meta();
        let mut writer = Writer::new(database, sink);
        let mut changes = Vec::with_capacity(self.buckets.len());
        for (name, patch) in &self.buckets {
            check_key(name)?;
            let value = patch.apply(name, database, &mut writer)?;
            let new = Some((LEAF_FLAG_BUCKET, Cow::Owned(value)));
            changes.push(Change { key: name, new });
        }
        let root = match writer.rewrite_tree(old.root, &changes)? {
            Some(root) => root,
            // The root bucket cannot be inline: an empty leaf stands for it.
            None => writer.leaf(LeafBuilder::new(old.page_size))?,
        };
        let high_water = writer.high_water();
        // Two metas with the same root, as in a snapshot: either is enough.
        let txid = old.txid.checked_add(1).ok_or(PatchError::TooLarge)?;
        let new = Meta { root, freelist: NO_FREELIST, high_water, txid, ..old };
        new.high_water.checked_mul(u64::from(new.page_size)).ok_or(PatchError::TooLarge)?;
        writer.finish([new, Meta { txid: old.txid, ..new }])?;
        Ok(new)
    }
}

impl BucketPatch {
    /// Writes the bucket's changed pages and gives its new element value.
    fn apply<S: PageSource>(
        &self,
        name: &[u8],
        database: &Database<S>,
        writer: &mut Writer<'_, S>,
    ) -> Result<Vec<u8>, PatchError> {
        let mut changes = Vec::with_capacity(self.changes.len());
        for (key, value) in &self.changes {
            check_key(key)?;
            if let Some(value) = value
                && value.len() > MAX_VALUE
            {
                return Err(PatchError::Value { length: value.len() });
            }
            let new = value.as_deref().map(|value| (0, Cow::Borrowed(value)));
            changes.push(Change { key, new });
        }
        let old = database.bucket(name)?;
        let sequence = old.as_ref().map_or(0, |bucket| bucket.header().sequence);
        let mut empty = Vec::new();
        let inline = match old {
            Some(bucket) if !self.emptied => match bucket.inline() {
                Some(page) => page.to_vec(),
                None => match writer.rewrite_tree(bucket.header().root, &changes)? {
                    Some(root) => return Ok(BucketHeader { root, sequence }.to_bytes().to_vec()),
                    None => {
                        LeafBuilder::new(database.page_size()).write_inline(&mut empty);
                        return Ok(inline_value(sequence, &empty));
                    }
                },
            },
            _ => {
                LeafBuilder::new(database.page_size()).write_inline(&mut empty);
                empty
            }
        };
        match writer.rewrite_inline(&inline, &changes)? {
            tree::Small::Inline(page) => Ok(inline_value(sequence, &page)),
            tree::Small::Root(root) => Ok(BucketHeader { root, sequence }.to_bytes().to_vec()),
        }
    }
}

/// A bucket element's value with an inline page.
fn inline_value(sequence: u64, page: &[u8]) -> Vec<u8> {
    debug_assert!(page.len() >= HEADER_SIZE);
    let mut value = BucketHeader { root: 0, sequence }.to_bytes().to_vec();
    value.extend_from_slice(page);
    value
}

fn check_key(key: &[u8]) -> Result<(), PatchError> {
    match key.len() {
        1..=MAX_KEY => Ok(()),
        length => Err(PatchError::Key { length }),
    }
}

/// One key of a tree: its new flags and value, or `None` to remove it.
struct Change<'a> {
    key: &'a [u8],
    new: Option<(u32, Cow<'a, [u8]>)>,
}

#[cfg(test)]
pub(crate) mod tests;
