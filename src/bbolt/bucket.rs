//! Buckets: a tree of pages of their own, or one inline page in a leaf's value.

use super::PageSource;
use super::cursor::Cursor;
use super::database::{Database, ReadError};
use super::page::{HEADER_SIZE, PageHeader, PageId, u64_at};

/// Bytes of a bucket's header within its leaf element: root u64, sequence u64.
pub const BUCKET_HEADER_SIZE: usize = 16;

/// The header of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketHeader {
    /// Root page; 0 when an inline page follows.
    pub root: PageId,
    /// The bucket's counter; etcd does not use it.
    pub sequence: u64,
}

impl BucketHeader {
    /// Splits a bucket element's value into the header and the inline page,
    /// which is there exactly when `root` is 0. `None` when it is too short.
    pub fn parse(value: &[u8]) -> Option<(Self, Option<&[u8]>)> {
        let (header, rest) = value.split_at_checked(BUCKET_HEADER_SIZE)?;
        let header = Self { root: u64_at(header, 0), sequence: u64_at(header, 8) };
        if header.root != 0 {
            return Some((header, None));
        }
        if rest.len() < HEADER_SIZE {
            return None;
        }
        Some((header, Some(rest)))
    }

    /// The header as it stands at the start of the element's value.
    pub fn to_bytes(&self) -> [u8; BUCKET_HEADER_SIZE] {
        let mut bytes = [0; BUCKET_HEADER_SIZE];
        bytes[..8].copy_from_slice(&self.root.to_le_bytes());
        bytes[8..].copy_from_slice(&self.sequence.to_le_bytes());
        bytes
    }
}

/// A bucket of an opened database.
#[derive(Debug)]
pub struct Bucket<'d, S> {
    pub(super) database: &'d Database<S>,
    pub(super) header: BucketHeader,
    pub(super) inline: Option<Vec<u8>>,
}

impl<'d, S: PageSource> Bucket<'d, S> {
    /// The bucket whose tree starts at page `root`.
    pub(super) fn at(database: &'d Database<S>, root: PageId, sequence: u64) -> Self {
        Self { database, header: BucketHeader { root, sequence }, inline: None }
    }

    /// The bucket's header.
    pub fn header(&self) -> BucketHeader {
        self.header
    }

    /// The inline page, when the bucket has no page of its own.
    pub fn inline(&self) -> Option<&[u8]> {
        self.inline.as_deref()
    }

    /// A cursor, before the first entry.
    pub fn cursor(&self) -> Cursor<'_, S> {
        Cursor::new(self)
    }

    /// The value of `key`; `None` when there is none or it is a bucket.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        let mut cursor = self.cursor();
        Ok(cursor.seek(key)?.filter(|e| e.key == key && !e.is_bucket()).map(|e| e.value.to_vec()))
    }

    /// The nested bucket `name`; `None` when there is none or it is a plain value.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket<'d, S>>, ReadError> {
        let mut cursor = self.cursor();
        let value = match cursor.seek(name)? {
            Some(entry) if entry.key == name && entry.is_bucket() => entry.value.to_vec(),
            _ => return Ok(None),
        };
        let (page, index) = cursor.position().unwrap_or((0, 0));
        Self::nested(self.database, value, page, index).map(Some)
    }

    fn nested(
        database: &'d Database<S>,
        mut value: Vec<u8>,
        page: PageId,
        index: usize,
    ) -> Result<Self, ReadError> {
        let Some((header, inline)) = BucketHeader::parse(&value) else {
            return Err(ReadError::NotABucket { page, index });
        };
        let has_inline = match inline {
            None => false,
            Some(bytes) => {
                PageHeader::parse(bytes).map_err(|source| ReadError::Page { page, source })?;
                true
            }
        };
        let inline = has_inline.then(|| value.split_off(BUCKET_HEADER_SIZE));
        Ok(Self { database, header, inline })
    }

    /// The names of the buckets directly in this one, in order.
    pub fn buckets(&self) -> Result<Vec<Vec<u8>>, ReadError> {
        let mut names = Vec::new();
        let mut cursor = self.cursor();
        while let Some(entry) = cursor.next()? {
            if entry.is_bucket() {
                names.push(entry.key.to_vec());
            }
        }
        Ok(names)
    }
}
