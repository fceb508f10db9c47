//! What the scan remembers of the pages that went by.

use std::hash::RandomState;
use std::io;

use super::arena::{Arena, At};
use super::branch;
use super::records::{self, LeafFault, LeafHead, MAX_HEAD, RECORD, Summary};
use crate::bbolt::ReadError;
use crate::bbolt::check::{Loaded, Pages};
use crate::bbolt::page::{
    FLAG_BRANCH, FLAG_FREELIST, FLAG_LEAF, HEADER_SIZE, Page, PageError, PageHeader, PageId,
};

/// Why a page that names its own id was not kept. It matters only when the
/// page turns out to be in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unkept {
    /// Neither branch nor leaf.
    Kind,
    /// Overflow beyond the database.
    Overflow,
    /// Longer than the scan gathers.
    TooLong,
    /// Within too many other runs.
    Crowded,
    /// Elements outside the page.
    Elements,
    /// Keys not ascending.
    Order,
}

/// An entry of the index: what is known of one page.
#[derive(Debug, Clone, Copy)]
struct Entry {
    page: PageId,
    /// Kind in the top two bits; the rest is an address or a reason.
    what: u64,
}

const KIND: u32 = 62;
const RECORDS: u64 = 0;
const PAGE: u64 = 1;
const UNKEPT: u64 = 2;
const BRANCH: u64 = 3;

/// The pages kept, by id.
#[derive(Debug)]
pub(super) struct Keeper {
    arena: Arena,
    index: Vec<Entry>,
    unkept: Vec<(PageId, Unkept)>,
    hasher: RandomState,
}

/// Appends with little room to spare: a vector that doubles can take twice of what it
/// holds.
fn push<T>(to: &mut Vec<T>, item: T) {
    if to.len() == to.capacity() {
        to.reserve_exact((to.len() / 8).max(1024));
    }
    to.push(item);
}

/// Entries that are made room for before they come; more make room as they do.
const MAX_EXPECTED: u64 = 1 << 20;

/// How many reasons are kept; of further pages only that there was one.
const MAX_REASONS: usize = 10_000;

impl Keeper {
    pub(super) fn new(arena: Arena) -> Self {
        Self { arena, index: Vec::new(), unkept: Vec::new(), hasher: RandomState::new() }
    }

    /// Makes room for the entries of so many pages at once, within reason: a file may
    /// say what it likes. Memory is taken as they come.
    pub(super) fn expect(&mut self, pages: u64) {
        self.index.reserve_exact(pages.min(MAX_EXPECTED) as usize);
    }

    /// How many leaves of records are kept.
    pub(super) fn leaves(&self) -> usize {
        self.index.iter().filter(|entry| entry.what >> KIND == RECORDS).count()
    }

    /// The hash under which records of this user key are kept.
    pub(super) fn key_hash(&self, key: &[u8]) -> u64 {
        records::key_hash(&self.hasher, key)
    }

    pub(super) fn arena(&self) -> &Arena {
        &self.arena
    }

    #[cfg(test)]
    pub(super) fn arena_mut(&mut self) -> &mut Arena {
        &mut self.arena
    }

    /// Notes a page that is not kept.
    pub(super) fn skip(&mut self, page: PageId, why: Unkept) {
        if self.unkept.len() < MAX_REASONS {
            self.unkept.push((page, why));
        }
        push(&mut self.index, Entry { page, what: UNKEPT << KIND });
    }

    /// Takes a page with its overflow; the header has been looked at.
    pub(super) fn keep(&mut self, id: PageId, bytes: &[u8]) -> io::Result<()> {
        let Ok(page) = Page::parse(bytes) else {
            self.skip(id, Unkept::Elements);
            return Ok(());
        };
        let (kind, at) = match page.header().flags {
            FLAG_LEAF => match self.leaf(&page)? {
                Ok(kept) => kept,
                Err(why) => {
                    self.skip(id, why);
                    return Ok(());
                }
            },
            flags => match used(&page) {
                Some(used) if flags == FLAG_BRANCH => self.branch(id, &page, used)?,
                Some(used) => (PAGE, self.raw(&bytes[..used])?),
                None => {
                    self.skip(id, Unkept::Elements);
                    return Ok(());
                }
            },
        };
        push(&mut self.index, Entry { page: id, what: kind << KIND | at.to_bits() });
        Ok(())
    }

    fn leaf(&mut self, page: &Page<'_>) -> io::Result<Result<(u64, At), Unkept>> {
        let mut summary = Summary::Other;
        let hasher = &self.hasher;
        let capacity = MAX_HEAD + page.len() * RECORD;
        let at =
            self.arena.append(capacity, |to| summary = records::summarize(hasher, page, to))?;
        Ok(match summary {
            Summary::Records => Ok((RECORDS, at)),
            Summary::Other => match used(page) {
                Some(used) => Ok((PAGE, self.raw(&page.bytes()[..used])?)),
                None => Err(Unkept::Elements),
            },
            Summary::Bad(LeafFault::Page) => Err(Unkept::Elements),
            Summary::Bad(LeafFault::Order) => Err(Unkept::Order),
        })
    }

    /// Keeps the records of an inline page, which has no id of its own.
    pub(super) fn inline_records(&mut self, page: &Page<'_>) -> io::Result<Option<At>> {
        Ok(match self.leaf(page)? {
            Ok((RECORDS, at)) => Some(at),
            _ => None,
        })
    }

    /// Keeps a branch, packed where that loses nothing.
    fn branch(&mut self, id: PageId, page: &Page<'_>, used: usize) -> io::Result<(u64, At)> {
        let mut packed = false;
        let at = self.arena.append(4 + branch::max_size(page.len()), |to| {
            let start = to.len();
            to.extend_from_slice(&[0; 4]);
            packed = branch::pack(id, page, used, to);
            if packed {
                let length = (to.len() - start - 4) as u32;
                to[start..start + 4].copy_from_slice(&length.to_le_bytes());
            } else {
                to.truncate(start);
            }
        })?;
        Ok(match packed {
            true => (BRANCH, at),
            false => (PAGE, self.raw(&page.bytes()[..used])?),
        })
    }

    /// Length first, then the bytes.
    fn raw(&mut self, bytes: &[u8]) -> io::Result<At> {
        self.arena.append(bytes.len() + 8, |to| {
            to.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            to.extend_from_slice(bytes);
        })
    }

    /// Sorts the index; pages are complete.
    pub(super) fn seal(&mut self) {
        // Every page has one entry; sorting in place takes no memory.
        self.index.sort_unstable_by_key(|entry| entry.page);
    }

    /// Frees the index, which only the walk needs.
    pub(super) fn drop_index(&mut self) {
        self.index = Vec::new();
        self.unkept = Vec::new();
    }

    /// Head and records of a leaf of records.
    pub(super) fn leaf_at<'a>(
        &'a self,
        at: At,
        scratch: &'a mut Vec<u8>,
    ) -> io::Result<(LeafHead, &'a [u8])> {
        let head = LeafHead::parse(self.arena.read_up_to(at, MAX_HEAD, scratch)?);
        let (head, length) = head.ok_or(io::ErrorKind::UnexpectedEof)?;
        let records = self.arena.read(at, length, head.count as usize * RECORD, scratch)?;
        Ok((head, records))
    }

    fn why(&self, page: PageId) -> ReadError {
        let why = self.unkept.iter().find(|(id, _)| *id == page).map(|(_, why)| *why);
        let source = match why {
            None => PageError::NotKept { why: "it is damaged" },
            Some(Unkept::Kind) => PageError::NotKept { why: "it is neither branch nor leaf" },
            Some(Unkept::Overflow) => {
                PageError::NotKept { why: "its overflow leaves the database" }
            }
            Some(Unkept::TooLong) => {
                PageError::NotKept { why: "it is too long to be gathered from a stream" }
            }
            Some(Unkept::Crowded) => PageError::NotKept {
                why: "too many stale pages claim the same bytes to tell in one pass",
            },
            Some(Unkept::Elements) => {
                PageError::NotKept { why: "an element points outside the page" }
            }
            Some(Unkept::Order) => PageError::NotKept { why: "its keys do not ascend" },
        };
        ReadError::Page { page, source }
    }
}

impl Pages for &Keeper {
    fn load(&mut self, id: PageId, buffer: &mut Vec<u8>) -> Result<Loaded, ReadError> {
        let Ok(found) = self.index.binary_search_by_key(&id, |entry| entry.page) else {
            return Err(ReadError::Page {
                page: id,
                source: PageError::NotKept { why: "it does not name its own id" },
            });
        };
        let what = self.index[found].what;
        let at = At::from_bits(what & ((1 << KIND) - 1));
        let io = |source| ReadError::Io { page: id, source };
        match what >> KIND {
            RECORDS => {
                let mut scratch = Vec::new();
                let (head, bytes) = self.leaf_at(at, &mut scratch).map_err(io)?;
                let [first, last] = records::edges(&head, bytes)
                    .ok_or_else(|| io(io::ErrorKind::UnexpectedEof.into()))?
                    .map(|key| key.to_bytes());
                buffer.clear();
                buffer.extend_from_slice(&first);
                buffer.extend_from_slice(&last);
                Ok(Loaded::Summary {
                    token: at.to_bits(),
                    overflow: head.overflow,
                    split: first.len(),
                })
            }
            BRANCH => {
                let mut scratch = Vec::new();
                let length = self.arena.read(at, 0, 4, &mut scratch).map_err(io)?;
                let length = length.try_into().map(u32::from_le_bytes);
                let length = length.map_err(|_| io(io::ErrorKind::UnexpectedEof.into()))?;
                let packed = self.arena.read(at, 4, length as usize, &mut scratch).map_err(io)?;
                buffer.clear();
                branch::unpack(id, packed, buffer)
                    .ok_or_else(|| io(io::ErrorKind::UnexpectedEof.into()))?;
                Ok(Loaded::Page)
            }
            PAGE => {
                let mut scratch = Vec::new();
                let length = self.arena.read(at, 0, 8, &mut scratch).map_err(io)?;
                let length = u64::from_le_bytes(
                    length.try_into().map_err(|_| io(io::ErrorKind::UnexpectedEof.into()))?,
                );
                let bytes = self.arena.read(at, 8, length as usize, &mut scratch).map_err(io)?;
                buffer.clear();
                buffer.extend_from_slice(bytes);
                Ok(Loaded::Page)
            }
            _ => Err(self.why(id)),
        }
    }
}

/// Bytes of the page up to the end of its last element; `None` when an element
/// lies outside.
fn used(page: &Page<'_>) -> Option<usize> {
    let mut used = HEADER_SIZE;
    match page.header().flags {
        FLAG_BRANCH => {
            for index in 0..page.len() {
                let key = page.branch(index).ok()?.key;
                used = used.max(page.offset_of(key) + key.len());
            }
            Some(used.max(table(page.header())))
        }
        FLAG_LEAF => {
            for index in 0..page.len() {
                let element = page.leaf(index).ok()?;
                let end = page.offset_of(element.key) + element.key.len() + element.value.len();
                used = used.max(end);
            }
            Some(used.max(table(page.header())))
        }
        FLAG_FREELIST => Some(page.bytes().len()),
        _ => None,
    }
}

/// Where the table of elements ends; both kinds have elements of 16 bytes.
fn table(header: PageHeader) -> usize {
    HEADER_SIZE + usize::from(header.count) * 16
}
