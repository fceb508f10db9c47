//! Lays out the elements of one page.

use crate::bbolt::page::{
    BRANCH_ELEMENT_SIZE, FLAG_BRANCH, FLAG_LEAF, HEADER_SIZE, LEAF_ELEMENT_SIZE, PageHeader, PageId,
};

/// bbolt refuses a page of 0xFFFF elements or more (`node.go`, `write`).
pub(super) const MAX_ELEMENTS: usize = 0xFFFE;

/// Collects the elements of a leaf. Keys and values lie in `data` as they will
/// lie in the page: each value behind its key.
pub(super) struct LeafBuilder {
    page_size: usize,
    elements: Vec<(u32, u32, u32)>,
    data: Vec<u8>,
    pub(super) first_key: Vec<u8>,
    buckets: bool,
}

impl LeafBuilder {
    pub(super) fn new(page_size: u32) -> Self {
        Self {
            page_size: page_size as usize,
            elements: Vec::new(),
            data: Vec::new(),
            first_key: Vec::new(),
            buckets: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    /// Bytes of the page with these elements, before rounding up.
    fn size(&self) -> usize {
        HEADER_SIZE + self.elements.len() * LEAF_ELEMENT_SIZE + self.data.len()
    }

    /// Whether one more element keeps the leaf within a page.
    pub(super) fn fits(&self, key: &[u8], value: &[u8]) -> bool {
        self.elements.len() < MAX_ELEMENTS
            && self.size() + LEAF_ELEMENT_SIZE + key.len() + value.len() <= self.page_size
    }

    pub(super) fn push(&mut self, flags: u32, key: &[u8], value: &[u8]) {
        if self.elements.is_empty() {
            self.first_key.clear();
            self.first_key.extend_from_slice(key);
        }
        self.buckets |= flags != 0;
        // Both come from a page or were checked against bbolt's limits: 31 bits.
        self.elements.push((flags, key.len() as u32, value.len() as u32));
        self.data.extend_from_slice(key);
        self.data.extend_from_slice(value);
    }

    /// Whether bbolt would keep a bucket with this content inside its element
    /// (`bucket.go`, `inlineable`).
    pub(super) fn inlineable(&self) -> bool {
        !self.buckets && self.size() <= self.page_size / 4
    }

    /// Number of pages that the leaf takes.
    pub(super) fn pages(&self) -> u64 {
        self.size().div_ceil(self.page_size) as u64
    }

    /// Writes the leaf as page `id` over whole pages, and becomes empty.
    pub(super) fn write(&mut self, id: PageId, out: &mut Vec<u8>) {
        let pages = self.pages();
        self.layout(
            PageHeader {
                id,
                flags: FLAG_LEAF,
                count: self.elements.len() as u16,
                overflow: (pages - 1) as u32,
            },
            out,
        );
        out.resize(pages as usize * self.page_size, 0);
        self.elements.clear();
        self.data.clear();
        self.buckets = false;
    }

    /// Writes the leaf as the inline page of a bucket.
    pub(super) fn write_inline(&self, out: &mut Vec<u8>) {
        let count = self.elements.len() as u16;
        self.layout(PageHeader { id: 0, flags: FLAG_LEAF, count, overflow: 0 }, out);
    }

    fn layout(&self, header: PageHeader, out: &mut Vec<u8>) {
        out.clear();
        out.resize(HEADER_SIZE, 0);
        header.write(out);
        let mut at = 0;
        for (index, &(flags, key, value)) in self.elements.iter().enumerate() {
            let table = (self.elements.len() - index) * LEAF_ELEMENT_SIZE;
            for field in [flags, (table + at) as u32, key, value] {
                out.extend_from_slice(&field.to_le_bytes());
            }
            at += key as usize + value as usize;
        }
        out.extend_from_slice(&self.data);
    }
}

/// Bytes that a branch with these keys takes.
pub(super) fn branch_size<'a>(keys: impl Iterator<Item = &'a [u8]>) -> usize {
    keys.fold(HEADER_SIZE, |size, key| size + BRANCH_ELEMENT_SIZE + key.len())
}

/// Writes a branch as page `id` over whole pages.
pub(super) fn write_branch(
    id: PageId,
    page_size: u32,
    children: &[(Vec<u8>, PageId)],
    out: &mut Vec<u8>,
) -> u64 {
    let page_size = page_size as usize;
    let size = branch_size(children.iter().map(|(key, _)| key.as_slice()));
    let pages = size.div_ceil(page_size);
    out.clear();
    out.resize(HEADER_SIZE, 0);
    let count = children.len() as u16;
    let overflow = (pages - 1) as u32;
    PageHeader { id, flags: FLAG_BRANCH, count, overflow }.write(out);
    let mut at = 0;
    for (index, (key, child)) in children.iter().enumerate() {
        let position = (children.len() - index) * BRANCH_ELEMENT_SIZE + at;
        out.extend_from_slice(&(position as u32).to_le_bytes());
        out.extend_from_slice(&(key.len() as u32).to_le_bytes());
        out.extend_from_slice(&child.to_le_bytes());
        at += key.len();
    }
    for (key, _) in children {
        out.extend_from_slice(key);
    }
    out.resize(pages * page_size, 0);
    pages as u64
}
