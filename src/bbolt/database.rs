//! A database opened for reading: the current meta and the pages below it.
//!
//! Nothing here trusts the file: a page is handed out only when it names its
//! own id, is of a known kind and lies, with its overflow, below the
//! high-water mark and within the file. Memory is one page run at a time.

use std::io;

use super::PageSource;
use super::bucket::Bucket;
use super::meta::{META_SIZE, Meta, MetaError};
use super::page::{HEADER_SIZE, PAGE_SIZES, Page, PageError, PageHeader, PageId, PageKind};

/// Bytes of the SHA-256 that the Snapshot RPC appends to the database.
pub const TRAILER_SIZE: u64 = 32;

/// The largest page run that is read. bbolt puts at most a few values into one
/// leaf when they are large, and etcd warns above requests of 10 MiB.
pub const MAX_RUN: u64 = 1 << 30;

/// Why a database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file could not be read.
    #[error("cannot read the database")]
    Io(#[source] io::Error),
    /// No bytes at all.
    #[error("the file is empty")]
    Empty,
    /// Neither meta page is usable.
    #[error("no valid meta page: page 0: {first}; page 1: {second}")]
    NoMeta {
        /// What is wrong with page 0.
        first: MetaError,
        /// What is wrong with page 1, wherever it was looked for.
        second: MetaError,
    },
    /// The file ends before its high-water mark.
    #[error("the file is truncated: {have} bytes, the database has {need}")]
    Truncated {
        /// Bytes of the file, without a trailer.
        have: u64,
        /// Bytes below the high-water mark.
        need: u64,
    },
    /// The meta is whole but cannot be true.
    #[error("the meta page names {what} {id}, outside the database of {high_water} pages")]
    OutOfRange {
        /// Which field.
        what: &'static str,
        /// Its value.
        id: PageId,
        /// The high-water mark.
        high_water: PageId,
    },
}

/// Why a part of the tree cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file could not be read.
    #[error("cannot read page {page}")]
    Io {
        /// The page.
        page: PageId,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A page that breaks the format.
    #[error("page {page}: {source}")]
    Page {
        /// The page; 0 for an inline page.
        page: PageId,
        /// What is wrong.
        source: PageError,
    },
    /// A page id outside the database.
    #[error("page {page} is outside the database of {high_water} pages")]
    OutOfRange {
        /// The page.
        page: PageId,
        /// The high-water mark.
        high_water: PageId,
    },
    /// The header names another page.
    #[error("page {page} names itself page {found}")]
    WrongId {
        /// The page.
        page: PageId,
        /// The id in its header.
        found: PageId,
    },
    /// A page of another kind than its place asks for.
    #[error("page {page} is a {found:?} page where a branch or leaf belongs")]
    WrongKind {
        /// The page.
        page: PageId,
        /// Its kind.
        found: PageKind,
    },
    /// Overflow beyond the high-water mark, or absurdly long.
    #[error("page {page} claims {overflow} overflow pages")]
    Overflow {
        /// The page.
        page: PageId,
        /// The overflow count of its header.
        overflow: u32,
    },
    /// A branch without children.
    #[error("branch page {page} has no elements")]
    EmptyBranch {
        /// The page.
        page: PageId,
    },
    /// The tree is deeper than any real one: it has a cycle.
    #[error("the tree at page {page} is deeper than {limit} levels")]
    TooDeep {
        /// The page where the walk stopped.
        page: PageId,
        /// The bound.
        limit: usize,
    },
    /// More pages than the database has were visited for one step.
    #[error("the walk at page {page} visits more pages than the database has")]
    Endless {
        /// The page where the walk stopped.
        page: PageId,
    },
    /// Keys do not ascend from one leaf to the next.
    #[error("the keys of page {page} do not follow those of the leaf before it")]
    Order {
        /// The later leaf in the direction of the walk.
        page: PageId,
    },
    /// A bucket's value is too short for its header or inline page.
    #[error("page {page}: the value of element {index} is not a bucket")]
    NotABucket {
        /// The leaf that holds it.
        page: PageId,
        /// Which element.
        index: usize,
    },
}

/// A database opened for reading.
#[derive(Debug)]
pub struct Database<S> {
    source: S,
    file_size: u64,
    has_trailer: bool,
    meta: Meta,
    metas: [Result<Meta, MetaError>; 2],
}

impl<S: PageSource> Database<S> {
    /// Picks the valid meta with the higher transaction id and checks it
    /// against the file's size. Bytes above the high-water mark are ignored.
    pub fn open(source: S) -> Result<Self, OpenError> {
        let file_size = source.size().map_err(OpenError::Io)?;
        if file_size == 0 {
            return Err(OpenError::Empty);
        }
        let metas = read_metas(&source, file_size)?;
        let meta = match Meta::current(&metas) {
            Some(meta) => meta,
            None => {
                let [first, second] = metas;
                return Err(OpenError::NoMeta {
                    first: first.expect_err("no valid meta"),
                    second: second.expect_err("no valid meta"),
                });
            }
        };
        let has_trailer = has_trailer(file_size);
        let have = if has_trailer { file_size - TRAILER_SIZE } else { file_size };
        let Some(need) = meta.size() else {
            return Err(OpenError::OutOfRange {
                what: "the high-water mark",
                id: meta.high_water,
                high_water: meta.high_water,
            });
        };
        if have < need {
            return Err(OpenError::Truncated { have, need });
        }
        if meta.root < 2 || meta.root >= meta.high_water {
            return Err(OpenError::OutOfRange {
                what: "the root page",
                id: meta.root,
                high_water: meta.high_water,
            });
        }
        Ok(Self { source, file_size, has_trailer, meta, metas })
    }

    /// The current meta.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Both meta pages as found.
    pub fn metas(&self) -> &[Result<Meta, MetaError>; 2] {
        &self.metas
    }

    /// Bytes of a page.
    pub fn page_size(&self) -> u32 {
        self.meta.page_size
    }

    /// Bytes of the database: high-water mark times page size, without trailer.
    pub fn size(&self) -> u64 {
        self.meta.size().expect("checked when opened")
    }

    /// Bytes of the file, with trailer and whatever lies above the high-water mark.
    pub fn file_size(&self) -> u64 {
        self.file_size
    }

    /// Whether the file's size says that a SHA-256 follows the database, as in
    /// snapshots (`etcdutl/snapshot/v3_snapshot.go @ v3.5.30`, `hasChecksum`).
    pub fn has_trailer(&self) -> bool {
        self.has_trailer
    }

    /// The bytes under the database.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// Gives the source back.
    pub fn into_source(self) -> S {
        self.source
    }

    /// Reads page `id` with its overflow pages into `buffer`, which is resized
    /// and can be used again.
    pub fn page<'b>(&self, id: PageId, buffer: &'b mut Vec<u8>) -> Result<Page<'b>, ReadError> {
        self.load(id, buffer)?;
        Page::parse(buffer).map_err(|source| ReadError::Page { page: id, source })
    }

    /// Like [`Database::page`], without borrowing the buffer; gives the header.
    pub(super) fn load(&self, id: PageId, buffer: &mut Vec<u8>) -> Result<PageHeader, ReadError> {
        let high_water = self.meta.high_water;
        if id >= high_water {
            return Err(ReadError::OutOfRange { page: id, high_water });
        }
        let page_size = u64::from(self.meta.page_size);
        // id < high_water, and high_water * page_size was checked when opened.
        let offset = id * page_size;
        buffer.resize(page_size as usize, 0);
        let io = |source| ReadError::Io { page: id, source };
        self.source.read_at(offset, buffer).map_err(io)?;
        let header =
            PageHeader::parse(buffer).map_err(|source| ReadError::Page { page: id, source })?;
        if header.id != id {
            return Err(ReadError::WrongId { page: id, found: header.id });
        }
        header.kind().map_err(|source| ReadError::Page { page: id, source })?;
        let run = (u64::from(header.overflow) + 1) * page_size;
        if u64::from(header.overflow) >= high_water - id || run > MAX_RUN {
            return Err(ReadError::Overflow { page: id, overflow: header.overflow });
        }
        if header.overflow > 0 {
            buffer.resize(run as usize, 0);
            self.source
                .read_at(offset + page_size, &mut buffer[page_size as usize..])
                .map_err(io)?;
        }
        Ok(header)
    }

    /// The bucket that holds the top-level buckets.
    pub fn root(&self) -> Bucket<'_, S> {
        Bucket::at(self, self.meta.root, self.meta.root_sequence)
    }

    /// The top-level bucket `name`, if there is one.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket<'_, S>>, ReadError> {
        self.root().bucket(name)
    }
}

/// Whether a file of this size ends in a SHA-256 that is no part of the
/// database: pages are multiples of 512 bytes.
pub fn has_trailer(file_size: u64) -> bool {
    file_size % 512 == TRAILER_SIZE
}

/// Reads both metas; probes for the page size when page 0 is broken.
fn read_metas<S: PageSource>(
    source: &S,
    file_size: u64,
) -> Result<[Result<Meta, MetaError>; 2], OpenError> {
    let mut bytes = [0; HEADER_SIZE + META_SIZE];
    let mut read = |offset: u64| -> Result<Result<Meta, MetaError>, OpenError> {
        let have = file_size.saturating_sub(offset).min(bytes.len() as u64) as usize;
        let part = &mut bytes[..have];
        source.read_at(offset, part).map_err(OpenError::Io)?;
        Ok(Meta::parse(part))
    };
    let first = read(0)?;
    if let Ok(meta) = &first {
        let second = read(u64::from(meta.page_size))?;
        // Another page size there means other bytes than this file's meta.
        let second = match second {
            Ok(other) if other.page_size != meta.page_size => {
                Err(MetaError::PageSize { found: other.page_size })
            }
            other => other,
        };
        return Ok([first, second]);
    }
    let mut second = None;
    let mut page_size = *PAGE_SIZES.start();
    while page_size <= *PAGE_SIZES.end() && u64::from(page_size) < file_size {
        match read(u64::from(page_size))? {
            Ok(meta) if meta.page_size == page_size => return Ok([first, Ok(meta)]),
            Ok(meta) => second = Some(MetaError::PageSize { found: meta.page_size }),
            Err(error) => {
                second.get_or_insert(error);
            }
        }
        page_size <<= 1;
    }
    let need = HEADER_SIZE + META_SIZE;
    let second = second.unwrap_or(MetaError::Page(PageError::Short { have: 0, need }));
    Ok([first, Err(second)])
}
