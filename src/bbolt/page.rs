//! Pages: header, branch and leaf elements.
//!
//! Every offset and size below comes from a file that may be damaged or
//! hostile: each is checked against the page before it is used.

/// Identifies a page: its file offset divided by the page size.
pub type PageId = u64;

/// Bytes of a page header.
pub const HEADER_SIZE: usize = FIELD_OVERFLOW + 4;
const FIELD_ID: usize = 0;
const FIELD_FLAGS: usize = FIELD_ID + 8;
const FIELD_COUNT: usize = FIELD_FLAGS + 2;
const FIELD_OVERFLOW: usize = FIELD_COUNT + 2;

/// Bytes of a branch element: pos u32, ksize u32, child u64.
pub const BRANCH_ELEMENT_SIZE: usize = 16;
/// Bytes of a leaf element: flags u32, pos u32, ksize u32, vsize u32.
pub const LEAF_ELEMENT_SIZE: usize = 16;

/// Flag of a page that holds branch elements.
pub const FLAG_BRANCH: u16 = 0x01;
/// Flag of a page that holds leaf elements.
pub const FLAG_LEAF: u16 = 0x02;
/// Flag of the two meta pages.
pub const FLAG_META: u16 = 0x04;
/// Flag of a page that lists free pages.
pub const FLAG_FREELIST: u16 = 0x10;

/// Flag of a leaf element whose value is a bucket.
pub const LEAF_FLAG_BUCKET: u32 = 0x01;

/// The page sizes that bbolt can have written: powers of two from 1 KiB to 16 MiB.
pub const PAGE_SIZES: std::ops::RangeInclusive<u32> = 1 << 10..=1 << 24;

/// What a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageKind {
    /// Branch elements.
    Branch,
    /// Leaf elements.
    Leaf,
    /// One of the two roots of the file.
    Meta,
    /// A list of free pages.
    Freelist,
}

/// A page that breaks the format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// Fewer bytes than the header or the elements need.
    #[error("the page ends after {have} bytes, {need} are needed")]
    Short {
        /// Bytes there are.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// None or several of the four kinds.
    #[error("unknown page flags {flags:#06x}")]
    Flags {
        /// The flags as stored.
        flags: u16,
    },
    /// An element whose key or value lies outside the page.
    #[error("element {index} points outside its page")]
    Element {
        /// Which element.
        index: usize,
    },
    /// A page that a forward scan saw and could not use.
    #[error("{why}")]
    NotKept {
        /// Why.
        why: &'static str,
    },
    /// An element asked for that the page does not have, or of another kind of page.
    #[error("there is no element {index} of that kind")]
    NoElement {
        /// Which element.
        index: usize,
    },
}

/// The first 16 bytes of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// The page's own id.
    pub id: PageId,
    /// Raw flags; see [`PageHeader::kind`].
    pub flags: u16,
    /// Number of elements.
    pub count: u16,
    /// Number of further pages that belong to this one.
    pub overflow: u32,
}

impl PageHeader {
    /// Reads the header at the start of `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, PageError> {
        if bytes.len() < HEADER_SIZE {
            return Err(PageError::Short { have: bytes.len(), need: HEADER_SIZE });
        }
        Ok(Self {
            id: u64_at(bytes, FIELD_ID),
            flags: u16_at(bytes, FIELD_FLAGS),
            count: u16_at(bytes, FIELD_COUNT),
            overflow: u32_at(bytes, FIELD_OVERFLOW),
        })
    }

    /// The kind that the flags name; exactly one of the four is valid.
    pub fn kind(&self) -> Result<PageKind, PageError> {
        match self.flags {
            FLAG_BRANCH => Ok(PageKind::Branch),
            FLAG_LEAF => Ok(PageKind::Leaf),
            FLAG_META => Ok(PageKind::Meta),
            FLAG_FREELIST => Ok(PageKind::Freelist),
            flags => Err(PageError::Flags { flags }),
        }
    }

    /// Writes the header to the start of `bytes`, which must have room for it.
    pub fn write(&self, bytes: &mut [u8]) {
        bytes[FIELD_ID..FIELD_FLAGS].copy_from_slice(&self.id.to_le_bytes());
        bytes[FIELD_FLAGS..FIELD_COUNT].copy_from_slice(&self.flags.to_le_bytes());
        bytes[FIELD_COUNT..FIELD_OVERFLOW].copy_from_slice(&self.count.to_le_bytes());
        bytes[FIELD_OVERFLOW..HEADER_SIZE].copy_from_slice(&self.overflow.to_le_bytes());
    }
}

/// A key and its value in a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafElement<'a> {
    /// Raw flags; see [`LeafElement::is_bucket`].
    pub flags: u32,
    /// The key.
    pub key: &'a [u8],
    /// The value, or the bucket's header with its inline page.
    pub value: &'a [u8],
}

impl LeafElement<'_> {
    /// Whether the value is a nested bucket.
    pub fn is_bucket(&self) -> bool {
        self.flags & LEAF_FLAG_BUCKET != 0
    }
}

/// A key and the page below it in a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BranchElement<'a> {
    /// A lower bound of the keys below `child`.
    pub key: &'a [u8],
    /// The page below.
    pub child: PageId,
}

/// A page with all its overflow pages, or an inline page within a bucket's value.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    header: PageHeader,
    bytes: &'a [u8],
}

impl<'a> Page<'a> {
    /// Reads the header and checks that the element table fits into `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PageError> {
        let header = PageHeader::parse(bytes)?;
        let element = match header.kind()? {
            PageKind::Branch => BRANCH_ELEMENT_SIZE,
            PageKind::Leaf => LEAF_ELEMENT_SIZE,
            PageKind::Meta | PageKind::Freelist => 0,
        };
        // count is 16 bits wide: no overflow.
        let need = HEADER_SIZE + usize::from(header.count) * element;
        if bytes.len() < need {
            return Err(PageError::Short { have: bytes.len(), need });
        }
        Ok(Self { header, bytes })
    }

    /// The header.
    pub fn header(&self) -> PageHeader {
        self.header
    }

    /// All bytes of the page, header and overflow included.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        usize::from(self.header.count)
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.header.count == 0
    }

    /// The `index`-th element of a leaf.
    pub fn leaf(&self, index: usize) -> Result<LeafElement<'a>, PageError> {
        if self.header.flags != FLAG_LEAF || index >= self.len() {
            return Err(PageError::NoElement { index });
        }
        let at = HEADER_SIZE + index * LEAF_ELEMENT_SIZE;
        let flags = u32_at(self.bytes, at);
        let start = at + u32_at(self.bytes, at + 4) as usize;
        let key_end = start + u32_at(self.bytes, at + 8) as usize;
        let end = key_end + u32_at(self.bytes, at + 12) as usize;
        // usize has 64 bits on every target this builds for: sums of three u32 fit.
        const { assert!(usize::BITS >= 64) };
        if end > self.bytes.len() {
            return Err(PageError::Element { index });
        }
        Ok(LeafElement {
            flags,
            key: &self.bytes[start..key_end],
            value: &self.bytes[key_end..end],
        })
    }

    /// Where `part`, a key or value of this page, starts in it.
    pub(crate) fn offset_of(&self, part: &[u8]) -> usize {
        part.as_ptr().addr() - self.bytes.as_ptr().addr()
    }

    /// The `index`-th element of a branch.
    pub fn branch(&self, index: usize) -> Result<BranchElement<'a>, PageError> {
        if self.header.flags != FLAG_BRANCH || index >= self.len() {
            return Err(PageError::NoElement { index });
        }
        let at = HEADER_SIZE + index * BRANCH_ELEMENT_SIZE;
        let start = at + u32_at(self.bytes, at) as usize;
        let end = start + u32_at(self.bytes, at + 4) as usize;
        if end > self.bytes.len() {
            return Err(PageError::Element { index });
        }
        Ok(BranchElement { key: &self.bytes[start..end], child: u64_at(self.bytes, at + 8) })
    }
}

/// The little-endian u16 at `at`; the caller has checked the bounds.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

/// The little-endian u32 at `at`; the caller has checked the bounds.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// The little-endian u64 at `at`; the caller has checked the bounds.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
