//! The check of a whole database, at least as strict as bbolt's own
//! (`tx_check.go @ v1.4.3`): every page below the high-water mark is reachable
//! exactly once or free, keys ascend strictly within and across pages and stay
//! within the bounds of the branches above them, elements lie within their
//! page and after its element table, inline pages are held to the same rules.
//!
//! Memory: one bit a page, one page run a level. A tree with cycles or shared
//! pages ends the walk at the second visit.

use std::io;

use super::PageSource;
use super::bucket::BucketHeader;
use super::cursor::MAX_DEPTH;
use super::database::{Database, ReadError};
use super::meta::NO_FREELIST;
use super::page::{
    BRANCH_ELEMENT_SIZE, FLAG_FREELIST, FLAG_LEAF, HEADER_SIZE, LEAF_ELEMENT_SIZE,
    LEAF_FLAG_BUCKET, Page, PageError, PageId, PageKind, u64_at,
};

/// First and last key of a page, `None` when it has no element.
pub type Ends<'a> = Option<(&'a [u8], &'a [u8])>;

/// How many problems are kept; the rest is counted.
pub const MAX_PROBLEMS: usize = 100;

/// Something in a database that bbolt cannot have written.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// A page that cannot be read as what its place asks for.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Two parents, a cycle, or a run that overlaps another.
    #[error("page {page} is referenced more than once (now as part of page {run})")]
    Twice {
        /// The page.
        page: PageId,
        /// First page of the run that claims it now.
        run: PageId,
    },
    /// Keys out of order within a page.
    #[error("page {page}: key {index} is not above the key before it")]
    KeyOrder {
        /// The page.
        page: PageId,
        /// Which element.
        index: usize,
    },
    /// The first key is below the key of the branch element that leads here.
    #[error("page {page}: the first key is below that of the branch above")]
    BelowBranch {
        /// The page.
        page: PageId,
    },
    /// A key at or above the next key of a branch above.
    #[error("page {page}: the last key is not below the next key of the branch above")]
    AboveBranch {
        /// The page.
        page: PageId,
    },
    /// The first key does not follow the last key of the leaf before.
    #[error("page {page}: the first key is not above the last key of the leaf before it")]
    LeafOrder {
        /// The page.
        page: PageId,
    },
    /// A key without bytes.
    #[error("page {page}: key {index} is empty")]
    EmptyKey {
        /// The page.
        page: PageId,
        /// Which element.
        index: usize,
    },
    /// Flags other than 0 and 1 on a leaf element.
    #[error("page {page}: element {index} has unknown flags {flags:#x}")]
    ElementFlags {
        /// The page.
        page: PageId,
        /// Which element.
        index: usize,
        /// As stored.
        flags: u32,
    },
    /// Key or value lie over the page's table of elements.
    #[error("page {page}: element {index} points into the table of elements")]
    ElementInTable {
        /// The page.
        page: PageId,
        /// Which element.
        index: usize,
    },
    /// A bucket whose inline page is broken.
    #[error("page {page}: the inline bucket of element {index} is damaged: {what}")]
    Inline {
        /// The leaf that holds it.
        page: PageId,
        /// Which element.
        index: usize,
        /// What is wrong.
        what: String,
    },
    /// The stored freelist is damaged.
    #[error("freelist page {page}: {what}")]
    Freelist {
        /// The page.
        page: PageId,
        /// What is wrong.
        what: &'static str,
    },
    /// A page that the freelist names is also in the tree, or named twice.
    #[error("page {page} is listed as free but is {instead}")]
    NotFree {
        /// The page.
        page: PageId,
        /// What it is.
        instead: &'static str,
    },
    /// Pages neither in the tree nor in the stored freelist.
    #[error("page {page} is neither reachable nor free")]
    Lost {
        /// The page.
        page: PageId,
    },
}

impl Problem {
    /// Whether it is one of the medium and not of the database.
    fn is_unread(&self) -> bool {
        matches!(self, Self::Read(ReadError::Io { .. }))
    }
}

/// A bounded list of problems.
#[derive(Debug, Default)]
pub struct Problems {
    kept: Vec<Problem>,
    total: u64,
}

impl Problems {
    /// Adds one.
    pub fn push(&mut self, problem: impl Into<Problem>) {
        self.total += 1;
        let problem = problem.into();
        if self.kept.len() < MAX_PROBLEMS {
            self.kept.push(problem);
        } else if problem.is_unread()
            && !self.kept.iter().any(Problem::is_unread)
            && let Some(last) = self.kept.last_mut()
        {
            *last = problem;
        }
    }

    /// Takes out the first page that could not be read at all: then the others
    /// say nothing of the database. One is always among those that are kept.
    pub fn take_unread(&mut self) -> Option<io::Error> {
        let at = self.kept.iter().position(Problem::is_unread)?;
        match self.kept.remove(at) {
            Problem::Read(ReadError::Io { source, .. }) => Some(source),
            _ => None,
        }
    }

    /// The first [`MAX_PROBLEMS`] of them.
    pub fn as_slice(&self) -> &[Problem] {
        &self.kept
    }

    /// The first [`MAX_PROBLEMS`] of them.
    pub fn into_vec(self) -> Vec<Problem> {
        self.kept
    }

    /// How many there are.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }
}

/// What a check found.
#[derive(Debug)]
pub struct Report {
    /// What is wrong; empty for a sound database.
    pub problems: Problems,
    /// Pages in the trees, with the two meta pages and a stored freelist.
    pub used_pages: u64,
    /// Pages below the high-water mark that are not in use.
    pub free_pages: u64,
}

impl<S: PageSource> Database<S> {
    /// Checks the whole file below the high-water mark.
    pub fn check(&self) -> Report {
        let meta = self.meta();
        let mut checker = Checker::new(meta.high_water);
        // Each root is visited once, so the queue holds no more than the file does.
        let mut queue = vec![meta.root];
        while let Some(root) = queue.pop() {
            checker.tree(&mut &*self, root, &mut |_, leaf| {
                let Leaf::Page(page) = leaf else { return };
                for element in (0..page.len()).filter_map(|index| page.leaf(index).ok()) {
                    if element.is_bucket()
                        && let Some((header, None)) = BucketHeader::parse(element.value)
                    {
                        queue.push(header.root);
                    }
                }
            });
        }
        checker.freelist(&mut &*self, meta.freelist);
        checker.finish()
    }
}

/// Where a [`Checker`] gets its pages.
pub trait Pages {
    /// Loads page `id` with its overflow into `buffer`.
    fn load(&mut self, id: PageId, buffer: &mut Vec<u8>) -> Result<Loaded, ReadError>;
}

/// What [`Pages::load`] left in the buffer.
#[derive(Debug, Clone, Copy)]
pub enum Loaded {
    /// The page itself; bytes after the last element may be missing.
    Page,
    /// Only the first and last key of a leaf whose inside was already checked.
    Summary {
        /// Given back with [`Leaf::Summary`].
        token: u64,
        /// Overflow pages of the leaf.
        overflow: u32,
        /// The first key is `buffer[..split]`, the last `buffer[split..]`.
        split: usize,
    },
}

/// A leaf that the walk reached, in key order.
#[derive(Debug, Clone, Copy)]
pub enum Leaf<'a> {
    /// Its page.
    Page(Page<'a>),
    /// The token of [`Loaded::Summary`].
    Summary(u64),
}

impl<S: PageSource> Pages for &Database<S> {
    fn load(&mut self, id: PageId, buffer: &mut Vec<u8>) -> Result<Loaded, ReadError> {
        Database::load(self, id, buffer)?;
        Ok(Loaded::Page)
    }
}

/// Walks trees and keeps count of the pages.
#[derive(Debug)]
pub struct Checker {
    high_water: PageId,
    used: Bitmap,
    stored_freelist: bool,
    problems: Problems,
}

#[derive(Debug)]
struct Frame {
    id: PageId,
    bytes: Vec<u8>,
    index: usize,
    len: usize,
}

impl Frame {
    fn key(&self, index: usize) -> &[u8] {
        Page::parse(&self.bytes).and_then(|page| page.branch(index)).map_or(&[], |e| e.key)
    }
}

impl Checker {
    /// For a database of `high_water` pages, which the caller has held against
    /// the file's size. The two meta pages are in use from the start.
    pub fn new(high_water: PageId) -> Self {
        let mut used = Bitmap::new(high_water);
        (0..high_water.min(2)).for_each(|page| {
            used.set(page);
        });
        Self { high_water, used, stored_freelist: false, problems: Problems::default() }
    }

    /// Adds a problem found by the caller.
    pub fn problem(&mut self, problem: impl Into<Problem>) {
        self.problems.push(problem);
    }

    /// Walks the tree at `root` and hands every sound leaf to `visit` in key
    /// order. Damaged pages become problems and are left out.
    pub fn tree(
        &mut self,
        pages: &mut impl Pages,
        root: PageId,
        visit: &mut dyn FnMut(PageId, Leaf<'_>),
    ) {
        let mut stack: Vec<Frame> = Vec::new();
        let mut spare: Vec<Vec<u8>> = Vec::new();
        let mut last = None::<Vec<u8>>;
        let mut next = Some((root, root));
        loop {
            let Some((id, parent)) = next.take() else {
                // On to the next child, up as far as needed.
                let Some(frame) = stack.last_mut() else { return };
                frame.index += 1;
                if frame.index >= frame.len {
                    spare.extend(stack.pop().map(|frame| frame.bytes));
                    continue;
                }
                next = self.child(frame);
                continue;
            };
            let mut bytes = spare.pop().unwrap_or_default();
            let Some(loaded) = self.claim(pages, id, parent, &mut bytes) else {
                spare.push(bytes);
                continue;
            };
            let lower = stack.last().map(|frame| frame.key(frame.index));
            let upper = stack
                .iter()
                .rev()
                .find(|frame| frame.index + 1 < frame.len)
                .map(|frame| frame.key(frame.index + 1));
            match loaded {
                Loaded::Summary { token, split, .. } => {
                    let (first, end) = bytes.split_at(split.min(bytes.len()));
                    self.bounds(id, first, end, lower, upper, last.as_deref());
                    let last = last.get_or_insert_default();
                    last.clear();
                    last.extend_from_slice(end);
                    visit(id, Leaf::Summary(token));
                }
                Loaded::Page => {
                    // Parsed by `claim` already.
                    let Ok(page) = Page::parse(&bytes) else { continue };
                    if page.header().flags == FLAG_LEAF {
                        if let Some((first, end)) = self.leaf(id, &page) {
                            self.bounds(id, first, end, lower, upper, last.as_deref());
                            let last = last.get_or_insert_default();
                            last.clear();
                            last.extend_from_slice(end);
                            visit(id, Leaf::Page(page));
                        } else if page.is_empty() {
                            visit(id, Leaf::Page(page));
                        }
                    } else if let Some((first, end)) = self.branch(id, &page) {
                        self.bounds(id, first, end, lower, upper, None);
                        if stack.len() + 1 >= MAX_DEPTH {
                            self.problem(ReadError::TooDeep { page: id, limit: MAX_DEPTH });
                        } else {
                            let len = page.len();
                            let frame = Frame { id, bytes, index: 0, len };
                            next = self.child(&frame);
                            stack.push(frame);
                            continue;
                        }
                    }
                }
            }
            spare.push(bytes);
        }
    }

    fn child(&mut self, frame: &Frame) -> Option<(PageId, PageId)> {
        match Page::parse(&frame.bytes).and_then(|page| page.branch(frame.index)) {
            Ok(element) => Some((element.child, frame.id)),
            Err(source) => {
                self.problem(ReadError::Page { page: frame.id, source });
                None
            }
        }
    }

    /// Loads the page and marks its run as used; `None` when either fails.
    fn claim(
        &mut self,
        pages: &mut impl Pages,
        id: PageId,
        parent: PageId,
        bytes: &mut Vec<u8>,
    ) -> Option<Loaded> {
        let high_water = self.high_water;
        if id < 2 || id >= high_water {
            self.problem(ReadError::OutOfRange { page: id, high_water });
            return None;
        }
        if self.used.get(id) {
            self.problem(Problem::Twice { page: id, run: parent });
            return None;
        }
        let found = pages.load(id, bytes).and_then(|loaded| match loaded {
            Loaded::Summary { overflow, .. } => Ok((loaded, overflow)),
            Loaded::Page => {
                let page =
                    Page::parse(bytes).map_err(|source| ReadError::Page { page: id, source })?;
                let header = page.header();
                match header.kind().map_err(|source| ReadError::Page { page: id, source })? {
                    PageKind::Branch | PageKind::Leaf => Ok((loaded, header.overflow)),
                    found => Err(ReadError::WrongKind { page: id, found }),
                }
            }
        });
        let (loaded, overflow) = match found {
            Ok(found) => found,
            Err(error) => {
                // Known to be referenced, so not also reported as lost.
                self.mark(id);
                self.problem(error);
                return None;
            }
        };
        self.mark_run(id, overflow).then_some(loaded)
    }

    fn mark(&mut self, id: PageId) -> bool {
        self.used.set(id)
    }

    fn mark_run(&mut self, id: PageId, overflow: u32) -> bool {
        if u64::from(overflow) >= self.high_water - id {
            self.mark(id);
            self.problem(ReadError::Overflow { page: id, overflow });
            return false;
        }
        for page in id..=id + u64::from(overflow) {
            if !self.mark(page) {
                self.problem(Problem::Twice { page, run: id });
                return false;
            }
        }
        true
    }

    fn bounds(
        &mut self,
        page: PageId,
        first: &[u8],
        end: &[u8],
        lower: Option<&[u8]>,
        upper: Option<&[u8]>,
        before: Option<&[u8]>,
    ) {
        if lower.is_some_and(|lower| first < lower) {
            self.problem(Problem::BelowBranch { page });
        }
        if upper.is_some_and(|upper| end >= upper) {
            self.problem(Problem::AboveBranch { page });
        }
        if before.is_some_and(|before| first <= before) {
            self.problem(Problem::LeafOrder { page });
        }
    }

    /// First and last key of a sound branch.
    fn branch<'a>(&mut self, id: PageId, page: &Page<'a>) -> Option<(&'a [u8], &'a [u8])> {
        if page.is_empty() {
            self.problem(ReadError::EmptyBranch { page: id });
            return None;
        }
        let table = HEADER_SIZE + page.len() * BRANCH_ELEMENT_SIZE;
        let mut ends = None;
        for index in 0..page.len() {
            let element = match page.branch(index) {
                Ok(element) => element,
                Err(source) => {
                    self.problem(ReadError::Page { page: id, source });
                    return None;
                }
            };
            if page.offset_of(element.key) < table {
                self.problem(Problem::ElementInTable { page: id, index });
                return None;
            }
            ends = self.key(id, index, element.key, ends)?;
        }
        ends
    }

    /// First and last key of a sound leaf that is not empty.
    fn leaf<'a>(&mut self, id: PageId, page: &Page<'a>) -> Option<(&'a [u8], &'a [u8])> {
        match check_leaf(id, page) {
            Ok(ends) => ends,
            Err(problem) => {
                self.problem(*problem);
                None
            }
        }
    }
    fn key<'a>(
        &mut self,
        page: PageId,
        index: usize,
        key: &'a [u8],
        ends: Ends<'a>,
    ) -> Option<Ends<'a>> {
        match next_key(page, index, key, ends) {
            Ok(ends) => Some(ends),
            Err(problem) => {
                self.problem(*problem);
                None
            }
        }
    }

    /// Checks a stored freelist: its pages are used, those it names are not.
    pub fn freelist(&mut self, pages: &mut impl Pages, id: PageId) {
        if id == NO_FREELIST {
            return;
        }
        let high_water = self.high_water;
        if id < 2 || id >= high_water {
            self.problem(ReadError::OutOfRange { page: id, high_water });
            return;
        }
        if self.used.get(id) {
            self.problem(Problem::Twice { page: id, run: id });
            return;
        }
        let mut bytes = Vec::new();
        if let Err(error) = pages.load(id, &mut bytes) {
            self.problem(error);
            return;
        }
        let page = match Page::parse(&bytes) {
            Ok(page) if page.header().flags == FLAG_FREELIST => page,
            Ok(page) => {
                let flags = page.header().flags;
                self.problem(ReadError::Page { page: id, source: PageError::Flags { flags } });
                return;
            }
            Err(source) => {
                self.problem(ReadError::Page { page: id, source });
                return;
            }
        };
        if !self.mark_run(id, page.header().overflow) {
            return;
        }
        let Some(ids) = freelist_ids(&page) else {
            self.problem(Problem::Freelist { page: id, what: "it ends before its last entry" });
            return;
        };
        let mut free = Bitmap::new(high_water);
        for page in ids {
            if page < 2 || page >= high_water {
                self.problem(Problem::NotFree { page, instead: "outside the database" });
            } else if self.used.get(page) {
                self.problem(Problem::NotFree { page, instead: "in use" });
            } else if !free.set(page) {
                self.problem(Problem::NotFree { page, instead: "listed before" });
            }
        }
        self.stored_freelist = true;
        for page in 0..high_water {
            if !free.get(page) && !self.used.get(page) {
                self.problem(Problem::Lost { page });
            }
        }
    }

    /// Pages found in use so far.
    pub fn used_pages(&self) -> u64 {
        self.used.ones()
    }

    /// The result.
    pub fn finish(self) -> Report {
        let used_pages = self.used.ones();
        Report { problems: self.problems, used_pages, free_pages: self.high_water - used_pages }
    }
}

/// Checks the inside of a leaf, inline pages of buckets included. Gives its
/// first and last key, `None` when it has no element.
pub fn check_leaf<'a>(id: PageId, page: &Page<'a>) -> Result<Ends<'a>, Box<Problem>> {
    let ends = check_elements(id, page)?;
    for index in 0..page.len() {
        let Ok(element) = page.leaf(index) else { continue };
        if element.is_bucket() {
            check_bucket(element.value).map_err(|what| Problem::Inline {
                page: id,
                index,
                what,
            })?;
        }
    }
    Ok(ends)
}
fn check_elements<'a>(id: PageId, page: &Page<'a>) -> Result<Ends<'a>, Box<Problem>> {
    let table = HEADER_SIZE + page.len() * LEAF_ELEMENT_SIZE;
    let mut ends = None;
    for index in 0..page.len() {
        let element = page
            .leaf(index)
            .map_err(|source| Problem::Read(ReadError::Page { page: id, source }))?;
        if element.flags & !LEAF_FLAG_BUCKET != 0 {
            let flags = element.flags;
            return Err(Problem::ElementFlags { page: id, index, flags }.into());
        }
        if page.offset_of(element.key) < table {
            return Err(Problem::ElementInTable { page: id, index }.into());
        }
        ends = next_key(id, index, element.key, ends)?;
    }
    Ok(ends)
}

/// Checks a bucket element's value: its header, and the inline page if it has one.
fn check_bucket(value: &[u8]) -> Result<(), String> {
    let Some((_, inline)) = BucketHeader::parse(value) else {
        return Err("the value is too short".into());
    };
    let Some(inline) = inline else { return Ok(()) };
    let page = Page::parse(inline).map_err(|error| error.to_string())?;
    let header = page.header();
    if header.flags != FLAG_LEAF || header.overflow != 0 || header.id != 0 {
        return Err("the inline page is not a plain leaf".into());
    }
    check_elements(0, &page).map_err(|problem| problem.to_string())?;
    // bbolt gives a bucket that has nested ones pages of its own.
    let nested = (0..page.len()).any(|index| page.leaf(index).is_ok_and(|e| e.is_bucket()));
    if nested { Err("it has a bucket within".into()) } else { Ok(()) }
}
fn next_key<'a>(
    page: PageId,
    index: usize,
    key: &'a [u8],
    ends: Ends<'a>,
) -> Result<Ends<'a>, Box<Problem>> {
    if key.is_empty() {
        return Err(Problem::EmptyKey { page, index }.into());
    }
    match ends {
        None => Ok(Some((key, key))),
        Some((first, last)) if last < key => Ok(Some((first, key))),
        Some(_) => Err(Problem::KeyOrder { page, index }.into()),
    }
}

/// The page ids of a freelist page; `None` when it is shorter than its count.
fn freelist_ids<'a>(page: &Page<'a>) -> Option<impl Iterator<Item = PageId> + use<'a>> {
    let ids = &page.bytes()[HEADER_SIZE..];
    // 0xFFFF: the count did not fit and stands first.
    let (count, ids) = match page.header().count {
        u16::MAX => (u64_at(ids.get(..8)?, 0), &ids[8..]),
        count => (u64::from(count), ids),
    };
    let bytes = usize::try_from(count).ok()?.checked_mul(8)?;
    Some(ids.get(..bytes)?.chunks_exact(8).map(|id| u64_at(id, 0)))
}

/// One bit a page.
#[derive(Debug)]
struct Bitmap {
    words: Vec<u64>,
}

impl Bitmap {
    fn new(bits: u64) -> Self {
        // The caller has held the number of pages against the file's size.
        Self { words: vec![0; bits.div_ceil(64) as usize] }
    }

    fn get(&self, bit: u64) -> bool {
        self.words[(bit / 64) as usize] >> (bit % 64) & 1 == 1
    }

    fn ones(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Sets the bit; whether it was clear.
    fn set(&mut self, bit: u64) -> bool {
        let word = &mut self.words[(bit / 64) as usize];
        let mask = 1 << (bit % 64);
        let new = *word & mask == 0;
        *word |= mask;
        new
    }
}
