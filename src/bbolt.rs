//! The bbolt database file: reading, checking and patching it, without etcd's
//! meaning of what is inside. Pure over bytes; `docs/format/etcd-files.md` has
//! the layout.
//!
//! Source: bbolt `page.go`, `db.go`, `bucket.go`, `tx.go` at v1.3.12 (moved to
//! `internal/common` in 1.4).

pub mod bucket;
pub mod check;
pub mod cursor;
pub mod database;
pub mod meta;
pub mod page;
pub mod patch;

pub use bucket::Bucket;
pub use cursor::Cursor;
pub use database::{Database, OpenError, ReadError};

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Random access to the bytes of a database file.
pub trait PageSource {
    /// How many bytes there are.
    fn size(&self) -> io::Result<u64>;

    /// Fills `buffer` from `offset` on, or fails with `UnexpectedEof`.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

impl PageSource for [u8] {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let bytes = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..start.checked_add(buffer.len())?))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

impl PageSource for Vec<u8> {
    fn size(&self) -> io::Result<u64> {
        self.as_slice().size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        PageSource::read_at(self.as_slice(), offset, buffer)
    }
}

impl PageSource for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
}

impl<S: PageSource + ?Sized> PageSource for &S {
    fn size(&self) -> io::Result<u64> {
        (**self).size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, buffer)
    }
}
