//! A cursor over one bucket, in key order.
//!
//! Every walk ends: the depth is bounded, one step visits at most as many
//! pages as there are, and a leaf whose keys do not follow those of the leaf
//! before it stops the walk, so that neither a cycle nor a page with two
//! parents can repeat entries.

use super::PageSource;
use super::bucket::Bucket;
use super::database::{Database, ReadError};
use super::page::{LeafElement, Page, PageId, PageKind};

/// No real tree is deeper: with two children a branch it has 2^64 leaves.
pub const MAX_DEPTH: usize = 64;

/// Iterates over the entries of a bucket. Entries borrow the cursor's buffers,
/// so nothing is allocated per entry.
#[derive(Debug)]
pub struct Cursor<'b, S> {
    database: &'b Database<S>,
    root: PageId,
    inline: Option<&'b [u8]>,
    /// Pages from the root down; those at and above `depth` keep their buffers
    /// for the next descent.
    frames: Vec<Frame>,
    depth: usize,
    state: State,
    /// The last key of the leaf that was left, to hold the next one against.
    edge: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    At,
    End,
}

#[derive(Debug, Default)]
struct Frame {
    id: PageId,
    bytes: Vec<u8>,
    index: usize,
    len: usize,
    leaf: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forward,
    Backward,
}

impl<'b, S: PageSource> Cursor<'b, S> {
    pub(super) fn new(bucket: &'b Bucket<'_, S>) -> Self {
        Self {
            database: bucket.database,
            root: bucket.header.root,
            inline: bucket.inline.as_deref(),
            frames: Vec::new(),
            depth: 0,
            state: State::Start,
            edge: Vec::new(),
        }
    }

    /// Moves to the first entry.
    pub fn first(&mut self) -> Result<Option<LeafElement<'_>>, ReadError> {
        self.go_to_end(Direction::Forward)
    }

    /// Moves to the last entry.
    pub fn last(&mut self) -> Result<Option<LeafElement<'_>>, ReadError> {
        self.go_to_end(Direction::Backward)
    }

    /// Moves to the next entry; to the first one when the cursor is new.
    #[expect(clippy::should_implement_trait, reason = "entries borrow the cursor")]
    pub fn next(&mut self) -> Result<Option<LeafElement<'_>>, ReadError> {
        match self.state {
            State::Start => return self.first(),
            State::End => return Ok(None),
            State::At => {}
        }
        self.step(Direction::Forward)
    }

    /// Moves to the entry before; past the start there is none.
    pub fn prev(&mut self) -> Result<Option<LeafElement<'_>>, ReadError> {
        match self.state {
            State::Start | State::End => return Ok(None),
            State::At => {}
        }
        self.step(Direction::Backward)
    }

    /// Moves to the first entry whose key is at or after `key`.
    pub fn seek(&mut self, key: &[u8]) -> Result<Option<LeafElement<'_>>, ReadError> {
        self.reset();
        let mut id = self.root;
        loop {
            self.push(id)?;
            let depth = self.depth;
            let frame = &mut self.frames[depth - 1];
            let page = Page::parse(&frame.bytes)
                .map_err(|source| ReadError::Page { page: frame.id, source })?;
            let at = |source| ReadError::Page { page: frame.id, source };
            let (mut low, mut high) = (0, frame.len);
            if frame.leaf {
                while low < high {
                    let middle = low.midpoint(high);
                    if page.leaf(middle).map_err(at)?.key < key {
                        low = middle + 1;
                    } else {
                        high = middle;
                    }
                }
                frame.index = low;
                break;
            }
            // The last child whose lower bound is at or before the key.
            while low < high {
                let middle = low.midpoint(high);
                if page.branch(middle).map_err(at)?.key <= key {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            let index = low.saturating_sub(1);
            id = page.branch(index).map_err(at)?.child;
            frame.index = index;
        }
        let frame = &self.frames[self.depth - 1];
        if frame.index < frame.len {
            self.state = State::At;
            return self.entry();
        }
        self.settle(Direction::Forward)
    }

    /// The page and element index of the current entry; page 0 is inline.
    pub fn position(&self) -> Option<(PageId, usize)> {
        (self.state == State::At).then(|| {
            let frame = &self.frames[self.depth - 1];
            (frame.id, frame.index)
        })
    }

    /// The pages from the bucket's root to the current leaf with the element
    /// index taken in each; empty when the cursor stands nowhere.
    pub fn path(&self) -> impl Iterator<Item = (PageId, usize)> + '_ {
        let depth = if self.state == State::At { self.depth } else { 0 };
        self.frames[..depth].iter().map(|frame| (frame.id, frame.index))
    }

    fn reset(&mut self) {
        self.depth = 0;
        self.state = State::End;
        self.edge.clear();
    }

    fn go_to_end(&mut self, direction: Direction) -> Result<Option<LeafElement<'_>>, ReadError> {
        self.reset();
        self.descend(self.root, direction)?;
        let frame = &self.frames[self.depth - 1];
        if frame.len > 0 {
            self.state = State::At;
            return self.entry();
        }
        self.settle(direction)
    }

    /// Loads the page into the next frame.
    fn push(&mut self, id: PageId) -> Result<(), ReadError> {
        if self.depth >= MAX_DEPTH {
            return Err(ReadError::TooDeep { page: id, limit: MAX_DEPTH });
        }
        if self.depth == self.frames.len() {
            self.frames.push(Frame::default());
        }
        let frame = &mut self.frames[self.depth];
        match self.inline {
            Some(inline) if self.depth == 0 => {
                frame.bytes.clear();
                frame.bytes.extend_from_slice(inline);
            }
            _ => {
                self.database.load(id, &mut frame.bytes)?;
            }
        }
        let page =
            Page::parse(&frame.bytes).map_err(|source| ReadError::Page { page: id, source })?;
        let kind = page.header().kind().map_err(|source| ReadError::Page { page: id, source })?;
        frame.leaf = match kind {
            PageKind::Leaf => true,
            PageKind::Branch if page.is_empty() => {
                return Err(ReadError::EmptyBranch { page: id });
            }
            PageKind::Branch => false,
            found => return Err(ReadError::WrongKind { page: id, found }),
        };
        frame.id = id;
        frame.len = page.len();
        frame.index = 0;
        self.depth += 1;
        Ok(())
    }

    /// From page `id` down to its first or last leaf.
    fn descend(&mut self, mut id: PageId, direction: Direction) -> Result<(), ReadError> {
        loop {
            self.push(id)?;
            let frame = &mut self.frames[self.depth - 1];
            frame.index = match direction {
                Direction::Forward => 0,
                Direction::Backward => frame.len.saturating_sub(1),
            };
            if frame.leaf {
                return Ok(());
            }
            id = frame.child()?;
        }
    }

    fn step(&mut self, direction: Direction) -> Result<Option<LeafElement<'_>>, ReadError> {
        let frame = &mut self.frames[self.depth - 1];
        match direction {
            Direction::Forward if frame.index + 1 < frame.len => frame.index += 1,
            Direction::Backward if frame.index > 0 => frame.index -= 1,
            _ => return self.settle(direction),
        }
        self.entry()
    }

    /// From an exhausted leaf to the next one that has entries.
    fn settle(&mut self, direction: Direction) -> Result<Option<LeafElement<'_>>, ReadError> {
        let left = &self.frames[self.depth - 1];
        if left.len > 0 {
            let index = match direction {
                Direction::Forward => left.len - 1,
                Direction::Backward => 0,
            };
            let key = left.leaf_element(index)?.key;
            self.edge.clear();
            self.edge.extend_from_slice(key);
        }
        let has_edge = left.len > 0;
        // Until the next entry is found: an error leaves the cursor at its end.
        self.state = State::End;
        let mut budget = self.database.meta().high_water;
        loop {
            // Up to the first branch that has a further child.
            self.depth -= 1;
            while let Some(frame) = self.depth.checked_sub(1).map(|at| &mut self.frames[at]) {
                match direction {
                    Direction::Forward if frame.index + 1 < frame.len => {
                        frame.index += 1;
                        break;
                    }
                    Direction::Backward if frame.index > 0 => {
                        frame.index -= 1;
                        break;
                    }
                    _ => self.depth -= 1,
                }
            }
            let Some(at) = self.depth.checked_sub(1) else {
                return Ok(None);
            };
            let child = self.frames[at].child()?;
            self.descend(child, direction)?;
            let frame = &self.frames[self.depth - 1];
            if frame.len > 0 {
                let key = frame.leaf_element(frame.index)?.key;
                let follows = match direction {
                    Direction::Forward => key > self.edge.as_slice(),
                    Direction::Backward => key < self.edge.as_slice(),
                };
                if has_edge && !follows {
                    return Err(ReadError::Order { page: frame.id });
                }
                self.state = State::At;
                return self.entry();
            }
            budget = match budget.checked_sub(1) {
                Some(budget) => budget,
                None => return Err(ReadError::Endless { page: frame.id }),
            };
        }
    }

    fn entry(&self) -> Result<Option<LeafElement<'_>>, ReadError> {
        let frame = &self.frames[self.depth - 1];
        frame.leaf_element(frame.index).map(Some)
    }
}

impl Frame {
    fn leaf_element(&self, index: usize) -> Result<LeafElement<'_>, ReadError> {
        let page = Page::parse(&self.bytes);
        page.and_then(|page| page.leaf(index))
            .map_err(|source| ReadError::Page { page: self.id, source })
    }

    fn child(&self) -> Result<PageId, ReadError> {
        let page = Page::parse(&self.bytes);
        page.and_then(|page| page.branch(self.index))
            .map(|element| element.child)
            .map_err(|source| ReadError::Page { page: self.id, source })
    }
}
