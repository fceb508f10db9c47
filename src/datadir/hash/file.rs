//! The scan of a database that can be read at any place: only the pages in use
//! are read, level by level and in file order, so that a file of which half is
//! free costs half.

use std::io;

use super::arena::Arena;
use super::keeper::Keeper;
use super::scan::Scan;
use super::stream::{ScanError, ScanOptions};
use crate::bbolt::bucket::BucketHeader;
use crate::bbolt::meta::NO_FREELIST;
use crate::bbolt::page::{Page, PageId, PageKind};
use crate::bbolt::{Database, PageSource, ReadError};

impl Scan {
    /// Scans an opened database. Digests are not computed: that takes every
    /// byte, and a [`StreamScan`](super::StreamScan).
    pub fn of<S: PageSource>(
        database: &Database<S>,
        options: ScanOptions,
    ) -> Result<Self, ScanError> {
        let arena = Arena::new(options.memory, options.spill_limit, options.spill_directory);
        let mut keeper = Keeper::new(arena);
        gather(database, &mut keeper).map_err(ScanError::Spill)?;
        keeper.seal();
        let metas = database.metas().clone();
        let (size, trailer) = (database.file_size(), database.has_trailer());
        Self::build(keeper, *database.meta(), metas, size, trailer, None).map_err(ScanError::Spill)
    }
}

/// Keeps every page that can be reached. What is damaged is left out here and
/// told by the walk that follows.
fn gather<S: PageSource>(database: &Database<S>, keeper: &mut Keeper) -> io::Result<()> {
    let meta = database.meta();
    let mut seen = vec![0_u64; meta.high_water.div_ceil(64) as usize];
    let mut level = vec![meta.root];
    if meta.freelist != NO_FREELIST {
        level.push(meta.freelist);
    }
    let mut below: Vec<PageId> = Vec::new();
    let mut buffer = Vec::new();
    while !level.is_empty() {
        level.sort_unstable();
        for id in level.drain(..) {
            let Some(word) = seen.get_mut((id / 64) as usize) else { continue };
            if id < 2 || id >= meta.high_water || *word >> (id % 64) & 1 == 1 {
                continue;
            }
            *word |= 1 << (id % 64);
            let page = match database.page(id, &mut buffer) {
                Ok(page) => page,
                Err(ReadError::Io { source, .. }) => return Err(source),
                Err(_) => continue,
            };
            children(&page, &mut below);
            keeper.keep(id, page.bytes())?;
        }
        std::mem::swap(&mut level, &mut below);
    }
    Ok(())
}

/// Pages that a page leads to: children of a branch, roots of buckets in a leaf.
fn children(page: &Page<'_>, to: &mut Vec<PageId>) {
    match page.header().kind() {
        Ok(PageKind::Branch) => {
            let elements = (0..page.len()).filter_map(|index| page.branch(index).ok());
            to.extend(elements.map(|element| element.child));
        }
        Ok(PageKind::Leaf) => {
            let elements = (0..page.len()).filter_map(|index| page.leaf(index).ok());
            to.extend(elements.filter(|element| element.is_bucket()).filter_map(|element| {
                let (header, inline) = BucketHeader::parse(element.value)?;
                inline.is_none().then_some(header.root)
            }));
        }
        _ => {}
    }
}
