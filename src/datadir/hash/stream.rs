//! The forward pass: finds pages in a stream of bytes and hands them to the
//! keeper.
//!
//! Which pages are live is known only at the end, and free pages may hold
//! anything, so every page that names its own id is looked at, also within the
//! overflow of another. Bounds: a run is gathered up to [`ScanOptions::max_run`]
//! bytes, and at most [`MAX_NESTING`] runs may cover the same page, so that
//! each byte is read a bounded number of times whatever the free pages claim.
//! What falls outside these bounds is left out, and becomes a problem only if
//! it turns out to be live.

use std::io;
use std::path::PathBuf;

use super::arena::Arena;
use super::keeper::{Keeper, Unkept};
use super::scan::Scan;
use super::trailer::{Digests, TrailerHasher};
use crate::bbolt::OpenError;
use crate::bbolt::database::{TRAILER_SIZE, has_trailer};
use crate::bbolt::meta::{META_SIZE, Meta, MetaError, NO_FREELIST};
use crate::bbolt::page::{
    FLAG_BRANCH, FLAG_FREELIST, FLAG_LEAF, HEADER_SIZE, PAGE_SIZES, PageError, PageHeader, u64_at,
};

/// How many runs of several pages may cover one page.
pub(super) const MAX_NESTING: usize = 32;

/// Settings of a scan.
#[derive(Debug, Clone)]
pub struct ScanOptions {
    /// Whether the scan hashes the bytes with SHA-256. Not needed where the
    /// caller runs a [`TrailerHasher`] of its own, on another thread.
    pub sha256: bool,
    /// Bytes of records kept in memory before they move to a file.
    pub memory: usize,
    /// Where an unlinked temporary file may be made; without one, a database
    /// with more records than fit into `memory` is an error.
    pub spill_directory: Option<PathBuf>,
    /// The largest such file.
    pub spill_limit: u64,
    /// The longest run of pages that is gathered.
    pub max_run: u64,
}

impl Default for ScanOptions {
    fn default() -> Self {
        Self {
            sha256: true,
            memory: 256 << 20,
            spill_directory: None,
            spill_limit: 64 << 30,
            max_run: 64 << 20,
        }
    }
}

/// Why a stream gives no scan at all. Damage within a database that can be
/// walked is told by [`Scan::problems`] instead.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// Not a database, or one without a usable meta page, or truncated.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The temporary file could not be used, or would be too large.
    #[error("cannot keep the records of the scan")]
    Spill(#[source] io::Error),
}

/// What the meta pages say.
#[derive(Debug)]
struct Layout {
    metas: [Result<Meta, MetaError>; 2],
    meta: Meta,
    page_size: u64,
    /// Where the pages end.
    end: u64,
}

/// A run of pages whose end has not arrived.
#[derive(Debug, Clone, Copy)]
struct Run {
    start: u64,
    end: u64,
}

/// A scan in progress.
#[derive(Debug)]
pub struct StreamScan {
    received: u64,
    layout: Option<Layout>,
    /// No meta page was found where one must be: the rest is only counted.
    hopeless: bool,
    /// Bytes carried over from earlier chunks, from `window_at` on.
    window: Vec<u8>,
    window_at: u64,
    /// The next page to look at.
    next: u64,
    /// Runs that wait for their end, by start.
    open: Vec<Run>,
    /// Ends of all runs that cover `next`.
    covers: Vec<u64>,
    max_run: u64,
    keeper: Keeper,
    sha256: Option<TrailerHasher>,
}

impl StreamScan {
    /// A scan that has seen nothing.
    pub fn new(options: ScanOptions) -> Self {
        Self {
            received: 0,
            layout: None,
            hopeless: false,
            window: Vec::new(),
            window_at: 0,
            next: 0,
            open: Vec::new(),
            covers: Vec::new(),
            max_run: options.max_run,
            keeper: Keeper::new(Arena::new(
                options.memory,
                options.spill_limit,
                options.spill_directory,
            )),
            sha256: options.sha256.then(TrailerHasher::new),
        }
    }

    /// Takes the next bytes of the snapshot or database file, in any portions.
    pub fn write(&mut self, chunk: &[u8]) -> Result<(), ScanError> {
        if let Some(sha256) = &mut self.sha256 {
            sha256.write(chunk);
        }
        let at = self.received;
        self.received += chunk.len() as u64;
        if self.hopeless {
            return Ok(());
        }
        if self.layout.is_none() {
            self.window.extend_from_slice(chunk);
            self.find_layout(false);
            if self.layout.is_none() {
                if self.hopeless {
                    self.window = Vec::new();
                }
                return Ok(());
            }
            let window = std::mem::take(&mut self.window);
            return self.pages(&window, 0).map_err(ScanError::Spill);
        }
        self.pages(chunk, at).map_err(ScanError::Spill)
    }

    /// Ends the stream: walks the trees from the current meta and checks them.
    pub fn finish(mut self) -> Result<Scan, ScanError> {
        let digests: Option<Digests> = self.sha256.take().map(TrailerHasher::finish);
        if self.received == 0 {
            return Err(OpenError::Empty.into());
        }
        if self.layout.is_none() && !self.hopeless {
            self.find_layout(true);
        }
        let has_trailer = has_trailer(self.received);
        let have = self.received - if has_trailer { TRAILER_SIZE } else { 0 };
        let Some(layout) = self.layout else {
            let missing = MetaError::Page(PageError::Short { have: 0, need: META_LENGTH });
            let metas =
                read_metas(&self.window, true).unwrap_or([Err(missing.clone()), Err(missing)]);
            let [first, second] = metas.map(|meta| meta.err().unwrap_or(MetaError::Checksum));
            return Err(OpenError::NoMeta { first, second }.into());
        };
        let Layout { meta, metas, .. } = layout;
        let size = meta.size().filter(|_| meta.high_water >= 2);
        let Some(need) = size else {
            let high_water = meta.high_water;
            let what = "the high-water mark";
            return Err(OpenError::OutOfRange { what, id: high_water, high_water }.into());
        };
        if have < need {
            return Err(OpenError::Truncated { have, need }.into());
        }
        if meta.root < 2 || meta.root >= meta.high_water {
            return Err(OpenError::OutOfRange {
                what: "the root page",
                id: meta.root,
                high_water: meta.high_water,
            }
            .into());
        }
        self.window = Vec::new();
        self.keeper.seal();
        Scan::build(self.keeper, meta, metas, self.received, has_trailer, digests)
            .map_err(ScanError::Spill)
    }

    /// Reads the metas once both are in the window.
    fn find_layout(&mut self, all: bool) {
        let Some(metas) = read_metas(&self.window, all) else { return };
        let Some(meta) = Meta::current(&metas) else {
            self.hopeless = true;
            return;
        };
        let page_size = u64::from(meta.page_size);
        // An impossible high-water mark is told at the end.
        let end = meta.size().unwrap_or(0);
        self.next = 2 * page_size;
        self.keeper.expect(end / page_size);
        self.layout = Some(Layout { metas, meta, page_size, end });
    }

    /// Takes bytes that start at file offset `at`, right after the window.
    fn pages(&mut self, mut chunk: &[u8], mut at: u64) -> io::Result<()> {
        let Some(layout) = &self.layout else { return Ok(()) };
        let page_size = layout.page_size;
        while !self.window.is_empty() && !chunk.is_empty() {
            // Up to where something becomes complete, no further: what follows
            // is read in place.
            let target = self
                .open
                .iter()
                .map(|run| run.end)
                .chain((self.next < layout_end(&self.layout)).then_some(self.next + page_size))
                .min()
                .unwrap_or(at);
            let take = usize::try_from(target.saturating_sub(at))
                .map_or(chunk.len(), |take| take.min(chunk.len()));
            self.window.extend_from_slice(&chunk[..take]);
            chunk = &chunk[take..];
            at += take as u64;
            if at < target {
                return Ok(());
            }
            let window = std::mem::take(&mut self.window);
            let result = self.look(&window, self.window_at);
            self.window = window;
            let keep_from = result?;
            let done = usize::try_from(keep_from - self.window_at).unwrap_or(usize::MAX);
            if done >= self.window.len() {
                self.window.clear();
            } else if done > self.window.len() / 2 {
                self.window.drain(..done);
                self.window_at = keep_from;
            }
        }
        if chunk.is_empty() {
            return Ok(());
        }
        let keep_from = self.look(chunk, at)?;
        if let Some(rest) = usize::try_from(keep_from - at).ok().and_then(|from| chunk.get(from..))
            && !rest.is_empty()
        {
            self.window.clear();
            self.window.extend_from_slice(rest);
            self.window_at = keep_from;
        }
        Ok(())
    }

    /// Looks at the pages that are complete in `view`, which starts at file
    /// offset `base`. Gives the offset from which bytes are still needed.
    fn look(&mut self, view: &[u8], base: u64) -> io::Result<u64> {
        let Some(layout) = &self.layout else { return Ok(base) };
        let Layout { page_size, end, .. } = *layout;
        let view_end = base + view.len() as u64;
        let part = |from: u64, to: u64| &view[(from - base) as usize..(to - base) as usize];

        let keeper = &mut self.keeper;
        let mut result = Ok(());
        self.open.retain(|run| {
            if run.end > view_end || result.is_err() {
                return true;
            }
            result = keeper.keep(run.start / page_size, part(run.start, run.end));
            false
        });
        result?;

        while self.next + page_size <= view_end.min(end) {
            let start = self.next;
            self.next += page_size;
            if start < base {
                // The two metas may lie before what was carried over.
                continue;
            }
            let bytes = part(start, start + page_size);
            let id = start / page_size;
            if u64_at(bytes, 0) != id {
                continue;
            }
            let Ok(header) = PageHeader::parse(bytes) else { continue };
            let wanted = match header.flags {
                FLAG_BRANCH | FLAG_LEAF => true,
                FLAG_FREELIST => {
                    self.layout.as_ref().is_some_and(|l| l.meta.freelist == id) && id != NO_FREELIST
                }
                _ => false,
            };
            if !wanted {
                self.keeper.skip(id, Unkept::Kind);
                continue;
            }
            if header.overflow == 0 {
                self.keeper.keep(id, bytes)?;
                continue;
            }
            let length = (u64::from(header.overflow) + 1) * page_size;
            if length > end - start {
                self.keeper.skip(id, Unkept::Overflow);
                continue;
            }
            if length > self.max_run {
                self.keeper.skip(id, Unkept::TooLong);
                continue;
            }
            self.covers.retain(|&end| end > start);
            if self.covers.len() >= MAX_NESTING {
                self.keeper.skip(id, Unkept::Crowded);
                continue;
            }
            let run = Run { start, end: start + length };
            self.covers.push(run.end);
            if run.end <= view_end {
                self.keeper.keep(id, part(run.start, run.end))?;
            } else {
                self.open.push(run);
            }
        }
        let next = if self.next < end { self.next } else { view_end };
        let first_open = self.open.iter().map(|run| run.start).min();
        Ok(first_open.map_or(next, |start| start.min(next)).clamp(base, view_end))
    }
}

fn layout_end(layout: &Option<Layout>) -> u64 {
    layout.as_ref().map_or(0, |layout| layout.end)
}

/// Bytes of a meta page that are looked at.
const META_LENGTH: usize = HEADER_SIZE + META_SIZE;

/// The metas at the start of a file, `None` when more bytes are needed; with
/// `all`, there are no more.
fn read_metas(bytes: &[u8], all: bool) -> Option<[Result<Meta, MetaError>; 2]> {
    let read = |offset: usize| {
        let part = bytes.get(offset..).unwrap_or_default();
        Meta::parse(&part[..part.len().min(META_LENGTH)])
    };
    if !all && bytes.len() < META_LENGTH {
        return None;
    }
    let first = read(0);
    if let Ok(meta) = &first {
        let offset = meta.page_size as usize;
        if !all && bytes.len() < offset + META_LENGTH {
            return None;
        }
        let second = match read(offset) {
            Ok(other) if other.page_size != meta.page_size => {
                Err(MetaError::PageSize { found: other.page_size })
            }
            other => other,
        };
        return Some([first, second]);
    }
    // Page 0 is broken: the other meta lies where it says that pages end.
    let mut second = Err(MetaError::Page(PageError::Short { have: 0, need: META_LENGTH }));
    let mut page_size = *PAGE_SIZES.start();
    while page_size <= *PAGE_SIZES.end() {
        let offset = page_size as usize;
        if bytes.len() < offset + META_LENGTH {
            if all {
                break;
            }
            return None;
        }
        match read(offset) {
            Ok(meta) if meta.page_size == page_size => return Some([first, Ok(meta)]),
            Ok(meta) => second = Err(MetaError::PageSize { found: meta.page_size }),
            Err(error) if page_size == *PAGE_SIZES.start() => second = Err(error),
            Err(_) => {}
        }
        page_size <<= 1;
    }
    Some([first, second])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bbolt::patch::Patch;
    use crate::bbolt::patch::tests::{apply, empty_database};
    use crate::datadir::schema::bucket;

    /// The kept pages of a sound database cannot be read back: no scan, rather than
    /// one that calls the database damaged.
    #[test]
    fn a_lost_spill_is_no_damage() {
        let mut patch = Patch::new();
        for key in 0..500_u32 {
            patch.put(bucket::META, &key.to_be_bytes(), &[7; 40]);
        }
        patch.put(bucket::KEY, &[0; 17], b"");
        let bytes = apply(empty_database(4096), &patch).expect("a database");
        let directory = tempfile::tempdir().expect("a directory");
        let scan = |lost: bool| {
            let spill_directory = Some(directory.path().to_owned());
            let mut scan = StreamScan::new(ScanOptions { spill_directory, ..Default::default() });
            scan.write(&bytes).expect("write");
            if lost {
                scan.keeper.arena_mut().lose();
            }
            scan.finish()
        };
        assert!(scan(false).is_ok());
        let error = scan(true).expect_err("nothing can be read");
        assert!(matches!(error, ScanError::Spill(_)), "{error:?}");
    }
}
