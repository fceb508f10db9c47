//! The meta pages: where the tree starts, and which of the two is current.

use super::page::{
    FLAG_META, HEADER_SIZE, PAGE_SIZES, PageError, PageHeader, PageId, u32_at, u64_at,
};

/// Bytes of the meta after the page header.
pub const META_SIZE: usize = FIELD_CHECKSUM + 8;
const FIELD_MAGIC: usize = 0;
const FIELD_VERSION: usize = FIELD_MAGIC + 4;
const FIELD_PAGE_SIZE: usize = FIELD_VERSION + 4;
const FIELD_FLAGS: usize = FIELD_PAGE_SIZE + 4;
const FIELD_ROOT: usize = FIELD_FLAGS + 4;
const FIELD_ROOT_SEQUENCE: usize = FIELD_ROOT + 8;
const FIELD_FREELIST: usize = FIELD_ROOT_SEQUENCE + 8;
const FIELD_HIGH_WATER: usize = FIELD_FREELIST + 8;
const FIELD_TXID: usize = FIELD_HIGH_WATER + 8;
const FIELD_CHECKSUM: usize = FIELD_TXID + 8;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;

/// The freelist's page id when the list is not stored: etcd opens bbolt so on Linux.
pub const NO_FREELIST: PageId = PageId::MAX;

/// A meta page that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// The page's header or size is wrong.
    #[error(transparent)]
    Page(#[from] PageError),
    /// Not a bbolt file.
    #[error("the magic number is {found:#010x}, not that of a bbolt database")]
    Magic {
        /// What stands there.
        found: u32,
    },
    /// A format that this code does not know.
    #[error("bbolt format {found} is not supported (2 is)")]
    Version {
        /// What stands there.
        found: u32,
    },
    /// Not a power of two between 1 KiB and 16 MiB.
    #[error("page size {found} is not possible")]
    PageSize {
        /// What stands there.
        found: u32,
    },
    /// The meta was damaged or half-written.
    #[error("the checksum does not match")]
    Checksum,
}

/// A meta whose checksum was right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Bytes of a page.
    pub page_size: u32,
    /// Root page of the root bucket.
    pub root: PageId,
    /// Sequence of the root bucket.
    pub root_sequence: u64,
    /// Page of the freelist, [`NO_FREELIST`] when not stored.
    pub freelist: PageId,
    /// First page id that was never allocated.
    pub high_water: PageId,
    /// The transaction that wrote this; it lies on page `txid % 2`.
    pub txid: u64,
}

impl Meta {
    /// Reads a whole meta page.
    pub fn parse(page: &[u8]) -> Result<Self, MetaError> {
        let header = PageHeader::parse(page)?;
        let need = HEADER_SIZE + META_SIZE;
        if page.len() < need {
            return Err(PageError::Short { have: page.len(), need }.into());
        }
        let bytes = &page[HEADER_SIZE..need];
        // The magic first: it tells a damaged database from something else.
        match u32_at(bytes, FIELD_MAGIC) {
            MAGIC => {}
            found => return Err(MetaError::Magic { found }),
        }
        if header.flags != FLAG_META {
            return Err(PageError::Flags { flags: header.flags }.into());
        }
        match u32_at(bytes, FIELD_VERSION) {
            VERSION => {}
            found => return Err(MetaError::Version { found }),
        }
        if u64_at(bytes, FIELD_CHECKSUM) != fnv1a(&bytes[..FIELD_CHECKSUM]) {
            return Err(MetaError::Checksum);
        }
        let page_size = u32_at(bytes, FIELD_PAGE_SIZE);
        if !page_size.is_power_of_two() || !PAGE_SIZES.contains(&page_size) {
            return Err(MetaError::PageSize { found: page_size });
        }
        Ok(Self {
            page_size,
            root: u64_at(bytes, FIELD_ROOT),
            root_sequence: u64_at(bytes, FIELD_ROOT_SEQUENCE),
            freelist: u64_at(bytes, FIELD_FREELIST),
            high_water: u64_at(bytes, FIELD_HIGH_WATER),
            txid: u64_at(bytes, FIELD_TXID),
        })
    }

    /// The one of the two metas that counts: the valid one with the higher
    /// transaction id; of equal ones the first.
    pub fn current(metas: &[Result<Self, MetaError>; 2]) -> Option<Self> {
        match metas {
            [Ok(first), Ok(second)] if second.txid > first.txid => Some(*second),
            [Ok(meta), _] | [_, Ok(meta)] => Some(*meta),
            _ => None,
        }
    }

    /// Bytes below the high-water mark; `None` when that is no possible file size.
    pub fn size(&self) -> Option<u64> {
        self.high_water.checked_mul(self.page_size.into()).filter(|&size| size <= i64::MAX as u64)
    }

    /// The meta as a whole page, on the page that its transaction id asks for.
    pub fn to_page(&self) -> Vec<u8> {
        let mut page = vec![0; self.page_size as usize];
        PageHeader { id: self.txid % 2, flags: FLAG_META, count: 0, overflow: 0 }.write(&mut page);
        let bytes = &mut page[HEADER_SIZE..HEADER_SIZE + META_SIZE];
        bytes[FIELD_MAGIC..FIELD_VERSION].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[FIELD_VERSION..FIELD_PAGE_SIZE].copy_from_slice(&VERSION.to_le_bytes());
        bytes[FIELD_PAGE_SIZE..FIELD_FLAGS].copy_from_slice(&self.page_size.to_le_bytes());
        bytes[FIELD_ROOT..FIELD_ROOT_SEQUENCE].copy_from_slice(&self.root.to_le_bytes());
        bytes[FIELD_ROOT_SEQUENCE..FIELD_FREELIST]
            .copy_from_slice(&self.root_sequence.to_le_bytes());
        bytes[FIELD_FREELIST..FIELD_HIGH_WATER].copy_from_slice(&self.freelist.to_le_bytes());
        bytes[FIELD_HIGH_WATER..FIELD_TXID].copy_from_slice(&self.high_water.to_le_bytes());
        bytes[FIELD_TXID..FIELD_CHECKSUM].copy_from_slice(&self.txid.to_le_bytes());
        let checksum = fnv1a(&bytes[..FIELD_CHECKSUM]);
        bytes[FIELD_CHECKSUM..].copy_from_slice(&checksum.to_le_bytes());
        page
    }
}

/// FNV-1a, 64 bits: bbolt's checksum of a meta.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
