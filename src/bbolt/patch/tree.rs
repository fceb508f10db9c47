//! Rewrites the part of a tree that changes.
//!
//! What comes out keeps bbolt's invariants: leaves all at one depth, keys
//! ascending, every branch with at least two children (bbolt's `rebalance`
//! asserts it), an element alone in its run of pages when it is larger than one.

use std::collections::BTreeMap;

use super::page_builder::{LeafBuilder, MAX_ELEMENTS, branch_size, write_branch};
use super::{Change, PageSink, PatchError};
use crate::bbolt::PageSource;
use crate::bbolt::database::Database;
use crate::bbolt::meta::Meta;
use crate::bbolt::page::{BRANCH_ELEMENT_SIZE, Page, PageId, PageKind};

/// A tree of this height would hold more than any file can.
const MAX_DEPTH: usize = 64;

/// Where the content of a small bucket ended up.
pub(super) enum Small {
    /// In an inline page.
    Inline(Vec<u8>),
    /// In a tree of its own.
    Root(PageId),
}

/// A page, or a branch that is not written yet.
enum Node {
    Page { key: Vec<u8>, page: PageId },
    Branch(Vec<Node>),
}

/// Appends pages to a database.
pub(super) struct Writer<'a, S> {
    database: &'a Database<S>,
    sink: &'a mut dyn PageSink,
    page_size: u32,
    high_water: PageId,
    /// The branches written so far: a neighbour may have to be joined with one.
    written: BTreeMap<PageId, Vec<(Vec<u8>, PageId)>>,
    out: Vec<u8>,
}

impl<'a, S: PageSource> Writer<'a, S> {
    pub(super) fn new(database: &'a Database<S>, sink: &'a mut dyn PageSink) -> Self {
        let meta = database.meta();
        let (page_size, high_water) = (meta.page_size, meta.high_water);
        Self { database, sink, page_size, high_water, written: BTreeMap::new(), out: Vec::new() }
    }

    pub(super) fn high_water(&self) -> PageId {
        self.high_water
    }

    /// Writes the metas, each on its page, after everything else is durable.
    pub(super) fn finish(&mut self, metas: [Meta; 2]) -> Result<(), PatchError> {
        self.sink.sync().map_err(PatchError::Sync)?;
        for meta in metas {
            let offset = (meta.txid % 2) * u64::from(self.page_size);
            self.write(offset, &meta.to_page())?;
        }
        self.sink.sync().map_err(PatchError::Sync)
    }

    /// Applies `changes`, which ascend, to the tree at `root`. Gives the new
    /// root, or `None` when nothing is left.
    pub(super) fn rewrite_tree(
        &mut self,
        root: PageId,
        changes: &[Change<'_>],
    ) -> Result<Option<PageId>, PatchError> {
        if changes.is_empty() {
            return Ok(Some(root));
        }
        self.written.clear();
        let nodes = self.rewrite(root, changes, 0)?;
        self.grow(nodes)
    }

    /// Applies `changes` to the inline page of a bucket.
    pub(super) fn rewrite_inline(
        &mut self,
        page: &[u8],
        changes: &[Change<'_>],
    ) -> Result<Small, PatchError> {
        let page = Page::parse(page).map_err(|source| PatchError::Page { page: 0, source })?;
        let mut pages = Vec::new();
        let mut builder = LeafBuilder::new(self.page_size);
        self.merge(0, &page, changes, &mut builder, &mut pages)?;
        if pages.is_empty() && builder.inlineable() {
            let mut inline = Vec::new();
            builder.write_inline(&mut inline);
            return Ok(Small::Inline(inline));
        }
        self.flush(&mut builder, &mut pages)?;
        // Not inlineable, so there is something.
        self.grow(pages)?.map(Small::Root).ok_or(PatchError::Shape { page: 0 })
    }

    /// Writes one leaf and gives its page.
    pub(super) fn leaf(&mut self, mut builder: LeafBuilder) -> Result<PageId, PatchError> {
        let pages = builder.pages();
        let id = self.allocate(pages)?;
        let mut out = std::mem::take(&mut self.out);
        builder.write(id, &mut out);
        let result = self.write(id * u64::from(self.page_size), &out);
        self.out = out;
        result.map(|()| id)
    }

    /// Adds levels until one page holds all, and takes away those that hold one.
    fn grow(&mut self, mut nodes: Vec<Node>) -> Result<Option<PageId>, PatchError> {
        loop {
            nodes = self.settle(nodes)?;
            match nodes.pop() {
                None => return Ok(None),
                Some(Node::Page { page, .. }) if nodes.is_empty() => return Ok(Some(page)),
                Some(Node::Branch(children)) if nodes.is_empty() => nodes = children,
                Some(last) => {
                    nodes.push(last);
                    nodes = vec![Node::Branch(nodes)];
                }
            }
        }
    }

    /// What takes the place of `page`: for a leaf the new leaves, for a branch
    /// one unwritten branch.
    fn rewrite(
        &mut self,
        page: PageId,
        changes: &[Change<'_>],
        depth: usize,
    ) -> Result<Vec<Node>, PatchError> {
        if depth >= MAX_DEPTH {
            return Err(PatchError::Shape { page });
        }
        let mut buffer = Vec::new();
        let content = self.database.page(page, &mut buffer)?;
        match content.header().kind() {
            Ok(PageKind::Leaf) => {
                let mut pages = Vec::new();
                let mut builder = LeafBuilder::new(self.page_size);
                self.merge(page, &content, changes, &mut builder, &mut pages)?;
                self.flush(&mut builder, &mut pages)?;
                Ok(pages)
            }
            Ok(PageKind::Branch) => {
                let children = branch_children(page, &content)?;
                drop(buffer);
                let nodes = self.rewrite_children(children, changes, depth)?;
                Ok(vec![Node::Branch(nodes)])
            }
            _ => Err(PatchError::Shape { page }),
        }
    }

    fn rewrite_children(
        &mut self,
        children: Vec<(Vec<u8>, PageId)>,
        mut changes: &[Change<'_>],
        depth: usize,
    ) -> Result<Vec<Node>, PatchError> {
        let mut nodes = Vec::with_capacity(children.len() + 1);
        let mut children = children.into_iter().peekable();
        while let Some((key, page)) = children.next() {
            // Keys below the first separator belong to the first child.
            let here = match children.peek() {
                Some((next, _)) => changes.partition_point(|change| change.key < next.as_slice()),
                None => changes.len(),
            };
            let (mine, rest) = changes.split_at(here);
            changes = rest;
            if mine.is_empty() {
                nodes.push(Node::Page { key, page });
            } else {
                nodes.extend(self.rewrite(page, mine, depth + 1)?);
            }
        }
        self.settle(nodes)
    }

    /// Joins unwritten branches that have fewer than two children with a
    /// neighbour and writes the others. A single node that is too small stays
    /// unwritten, for the level above to join or to take away.
    fn settle(&mut self, mut nodes: Vec<Node>) -> Result<Vec<Node>, PatchError> {
        nodes.retain(|node| !matches!(node, Node::Branch(children) if children.is_empty()));
        while nodes.len() > 1 {
            let small = |node: &Node| matches!(node, Node::Branch(children) if children.len() < 2);
            let Some(index) = nodes.iter().position(small) else { break };
            let left = index.saturating_sub(1);
            let right = nodes.remove(left + 1);
            let mut children =
                self.open(std::mem::replace(&mut nodes[left], Node::Branch(Vec::new())))?;
            children.extend(self.open(right)?);
            nodes[left] = Node::Branch(self.settle(children)?);
        }
        let mut settled = Vec::with_capacity(nodes.len());
        for node in nodes {
            match node {
                Node::Branch(children) if children.len() >= 2 => {
                    self.branches(children, &mut settled)?;
                }
                node => settled.push(node),
            }
        }
        Ok(settled)
    }

    /// The children of a branch, written or not.
    fn open(&self, node: Node) -> Result<Vec<Node>, PatchError> {
        match node {
            Node::Branch(children) => Ok(children),
            Node::Page { page, .. } => {
                let children = match self.written.get(&page) {
                    Some(children) => children.clone(),
                    None => {
                        let mut buffer = Vec::new();
                        let content = self.database.page(page, &mut buffer)?;
                        if content.header().kind() != Ok(PageKind::Branch) {
                            return Err(PatchError::Shape { page });
                        }
                        branch_children(page, &content)?
                    }
                };
                Ok(children.into_iter().map(|(key, page)| Node::Page { key, page }).collect())
            }
        }
    }

    /// Writes `children`, two or more, as one or several branches.
    fn branches(&mut self, children: Vec<Node>, into: &mut Vec<Node>) -> Result<(), PatchError> {
        let mut pairs = Vec::with_capacity(children.len());
        for child in children {
            match child {
                Node::Page { key, page } => pairs.push((key, page)),
                // Settled before: only a lone node may still be unwritten.
                Node::Branch(_) => return Err(PatchError::Shape { page: self.high_water }),
            }
        }
        let mut rest = pairs.as_slice();
        while !rest.is_empty() {
            let (run, tail) = rest.split_at(self.branch_run(rest));
            rest = tail;
            let id = self.high_water;
            let mut out = std::mem::take(&mut self.out);
            let pages = write_branch(id, self.page_size, run, &mut out);
            let result =
                self.allocate(pages).and_then(|_| self.write(id * u64::from(self.page_size), &out));
            self.out = out;
            result?;
            into.push(Node::Page { key: run[0].0.clone(), page: id });
            self.written.insert(id, run.to_vec());
        }
        Ok(())
    }

    /// How many of `children` go into the next branch: as many as fit, at least
    /// two, and never so that one is left.
    fn branch_run(&self, children: &[(Vec<u8>, PageId)]) -> usize {
        let mut size = branch_size(std::iter::empty());
        let mut count = 0;
        for (key, _) in children.iter().take(MAX_ELEMENTS) {
            size += BRANCH_ELEMENT_SIZE + key.len();
            if count >= 2 && size > self.page_size as usize {
                break;
            }
            count += 1;
        }
        match children.len() - count {
            1 if count > 2 => count - 1,
            1 => count + 1,
            _ => count,
        }
    }

    /// Merges the elements of a leaf with the changes; full leaves are written.
    fn merge(
        &mut self,
        id: PageId,
        page: &Page<'_>,
        changes: &[Change<'_>],
        builder: &mut LeafBuilder,
        pages: &mut Vec<Node>,
    ) -> Result<(), PatchError> {
        let mut changes = changes.iter().peekable();
        for index in 0..page.len() {
            let element =
                page.leaf(index).map_err(|source| PatchError::Page { page: id, source })?;
            while let Some(change) = changes.next_if(|change| change.key < element.key) {
                self.put(change, builder, pages)?;
            }
            match changes.next_if(|change| change.key == element.key) {
                None => self.push(element.flags, element.key, element.value, builder, pages)?,
                Some(change) => {
                    let flags = change.new.as_ref().map_or(0, |(flags, _)| *flags);
                    if element.flags != flags {
                        let bucket = element.is_bucket();
                        return Err(PatchError::Kind { page: id, index, bucket });
                    }
                    self.put(change, builder, pages)?;
                }
            }
        }
        for change in changes {
            self.put(change, builder, pages)?;
        }
        Ok(())
    }

    fn put(
        &mut self,
        change: &Change<'_>,
        builder: &mut LeafBuilder,
        pages: &mut Vec<Node>,
    ) -> Result<(), PatchError> {
        match &change.new {
            Some((flags, value)) => self.push(*flags, change.key, value, builder, pages),
            None => Ok(()),
        }
    }

    fn push(
        &mut self,
        flags: u32,
        key: &[u8],
        value: &[u8],
        builder: &mut LeafBuilder,
        pages: &mut Vec<Node>,
    ) -> Result<(), PatchError> {
        if !builder.fits(key, value) {
            self.flush(builder, pages)?;
        }
        builder.push(flags, key, value);
        Ok(())
    }

    /// Writes the leaf, if there is anything in it.
    fn flush(
        &mut self,
        builder: &mut LeafBuilder,
        pages: &mut Vec<Node>,
    ) -> Result<(), PatchError> {
        if builder.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(builder, LeafBuilder::new(self.page_size));
        let key = full.first_key.clone();
        let page = self.leaf(full)?;
        pages.push(Node::Page { key, page });
        Ok(())
    }

    fn allocate(&mut self, pages: u64) -> Result<PageId, PatchError> {
        let id = self.high_water;
        self.high_water = id.checked_add(pages).ok_or(PatchError::TooLarge)?;
        self.high_water.checked_mul(u64::from(self.page_size)).ok_or(PatchError::TooLarge)?;
        Ok(id)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), PatchError> {
        self.sink.write_at(offset, bytes).map_err(|source| PatchError::Write {
            offset,
            length: bytes.len(),
            source,
        })
    }
}

/// The children of a branch, with the keys that lead to them.
fn branch_children(id: PageId, page: &Page<'_>) -> Result<Vec<(Vec<u8>, PageId)>, PatchError> {
    if page.is_empty() {
        return Err(PatchError::Shape { page: id });
    }
    (0..page.len())
        .map(|index| {
            let element =
                page.branch(index).map_err(|source| PatchError::Page { page: id, source })?;
            Ok((element.key.to_vec(), element.child))
        })
        .collect()
}
