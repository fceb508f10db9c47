//! The file system, as narrow as durable writing needs it, real or simulated.
//!
//! What a caller may rely on:
//!
//! - the content of a file survives a crash after [`File::sync`];
//! - its name survives after [`FileSystem::sync_dir`] of the directory, and so
//!   does a rename or removal;
//! - [`FileSystem::rename_no_replace`] never replaces what is there;
//! - nothing follows a symbolic link in the last part of a path.
//!
//! [`real::RealFs`] is the operating system's; [`sim::SimFs`] keeps what is durable
//! apart from what is not and can crash at every call. One test holds them
//! against each other.

pub mod real;
pub mod sim;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

pub use real::RealFs;
pub use sim::SimFs;

/// What an entry of a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A socket, a device and the like.
    Other,
}

/// What is known of a file without opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// What it is.
    pub file_type: FileType,
    /// Its size in bytes.
    pub size: u64,
    /// Its permission bits, `0o7777` at most.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When its content was last changed.
    pub modified: SystemTime,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name, which need not be UTF-8.
    pub name: std::ffi::OsString,
    /// What it is.
    pub file_type: FileType,
}

/// An open file.
pub trait File: fmt::Debug + Send {
    /// Writes all of `data` behind what this handle wrote sequentially before.
    fn write(&mut self, data: &[u8]) -> io::Result<()>;
    /// Writes all of `data` at `offset`; a gap before it reads as zeros.
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Reads up to `buf.len()` bytes at `offset`; 0 only at the end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Cuts or extends (with zeros) the file.
    fn set_len(&mut self, size: u64) -> io::Result<()>;
    /// Reserves space for the first `size` bytes, so that writing there cannot
    /// fail for lack of it; extends the file to `size`. Where the file system
    /// cannot reserve, only extends.
    fn allocate(&mut self, size: u64) -> io::Result<()>;
    /// Its size in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Makes content and size durable (`fsync`).
    fn sync(&mut self) -> io::Result<()>;
    /// Makes content durable, and of the rest what is needed to read it
    /// (`fdatasync`).
    fn sync_data(&mut self) -> io::Result<()>;
}

/// A file system. Paths are absolute or relative to the process, as with the
/// operating system.
pub trait FileSystem: fmt::Debug + Send + Sync {
    /// Creates a file that must not exist, for reading and writing, with exactly
    /// these permission bits.
    fn create_new(&self, path: &Path, mode: u32) -> io::Result<Box<dyn File>>;
    /// Opens a regular file for reading.
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// Opens a regular file for reading and writing.
    fn open_write(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// Creates a directory that must not exist, with exactly these permission
    /// bits.
    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()>;
    /// Renames, replacing a file (or an empty directory by a directory).
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames, and fails with [`io::ErrorKind::AlreadyExists`] when there is
    /// something at `to`.
    fn rename_no_replace(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file or symbolic link.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// What is in a directory, in the order of the names' bytes.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
    /// What is known of `path`; a symbolic link is not followed.
    fn metadata(&self, path: &Path) -> io::Result<Metadata>;
    /// Sets the permission bits of a file or directory.
    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()>;
    /// Sets owner and group of a file or directory; `None` leaves one as it is.
    fn set_owner(&self, path: &Path, uid: Option<u32>, gid: Option<u32>) -> io::Result<()>;
    /// Bytes that this process may still write on the file system of `path`.
    fn available(&self, path: &Path) -> io::Result<u64>;
}

/// The operating system's file system.
pub fn real() -> Arc<dyn FileSystem> {
    Arc::new(RealFs::new())
}

/// Creates `path` and what is missing above it, each with `mode`, and makes each
/// new name durable. One that exists is left as it is.
pub fn create_dir_all(fs: &dyn FileSystem, path: &Path, mode: u32) -> io::Result<()> {
    let mut missing: Vec<&Path> = Vec::new();
    let mut next = Some(path);
    while let Some(path) = next.filter(|path| !path.as_os_str().is_empty()) {
        match fs.metadata(path) {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(path),
            Err(error) => return Err(error),
        }
        next = path.parent();
    }
    for path in missing.into_iter().rev() {
        match fs.create_dir(path, mode) {
            // Somebody else made it meanwhile, and may not have synced it yet.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        fs.sync_dir(parent(path))?;
    }
    Ok(())
}

/// Removes `path` and everything below it, links not followed. One that does not
/// exist is no error.
pub fn remove_all(fs: &dyn FileSystem, path: &Path) -> io::Result<()> {
    // A list instead of recursion: the depth is whatever lies there.
    let mut pending: Vec<(PathBuf, bool)> = vec![(path.to_owned(), false)];
    while let Some((path, emptied)) = pending.pop() {
        let done = if emptied {
            fs.remove_dir(&path)
        } else {
            match fs.metadata(&path) {
                Ok(metadata) if metadata.file_type == FileType::Directory => {
                    let entries = fs.read_dir(&path)?;
                    pending.push((path.clone(), true));
                    pending.extend(entries.iter().map(|entry| (path.join(&entry.name), false)));
                    Ok(())
                }
                Ok(_) => fs.remove_file(&path),
                Err(error) => Err(error),
            }
        };
        match done {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

/// The directory that holds the name of `path`.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}
