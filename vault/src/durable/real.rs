//! The operating system's file system.

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::{DirEntry, File, FileSystem, FileType, Metadata};

/// See the module's documentation.
#[derive(Debug, Clone, Copy)]
pub struct RealFs {
    renaming: Renaming,
}

/// Which of the ways to rename without replacing is tried first; each falls back
/// to the next where the file system lacks it. Tests start further down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Renaming {
    /// `renameat2` with `RENAME_NOREPLACE`.
    Flag,
    /// `link`, then `unlink` of the old name.
    Link,
    /// An empty file created exclusively as a reservation, then replaced.
    Reserve,
}

impl Default for RealFs {
    fn default() -> Self {
        Self::new()
    }
}

impl RealFs {
    /// The operating system's file system.
    pub fn new() -> Self {
        Self { renaming: Renaming::Flag }
    }

    /// The same, as on a file system without the rename flag (NFS and others).
    pub fn without_rename_flag() -> Self {
        Self { renaming: Renaming::Link }
    }

    /// The same, as on a file system without hard links either.
    pub fn without_links() -> Self {
        Self { renaming: Renaming::Reserve }
    }
}

fn unsupported(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::NOSYS | Errno::NOTSUP | Errno::PERM | Errno::MLINK)
}

fn open(path: &Path, flags: OFlags, mode: u32) -> io::Result<fs::File> {
    // Without NONBLOCK a named pipe in the way would block for ever.
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let fd: OwnedFd = rustix::fs::open(path, flags, Mode::from_raw_mode(mode))?;
    Ok(fd.into())
}

fn open_regular(path: &Path, flags: OFlags) -> io::Result<Box<dyn File>> {
    let file = open(path, flags, 0)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(Box::new(RealFile(file)))
}

impl FileSystem for RealFs {
    fn create_new(&self, path: &Path, mode: u32) -> io::Result<Box<dyn File>> {
        let file = open(path, OFlags::CREATE | OFlags::EXCL | OFlags::RDWR, mode)?;
        // Whatever the umask took away, or a default ACL added.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        Ok(Box::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        open_regular(path, OFlags::RDONLY)
    }

    fn open_write(&self, path: &Path) -> io::Result<Box<dyn File>> {
        open_regular(path, OFlags::RDWR)
    }

    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        rustix::fs::mkdir(path, Mode::from_raw_mode(mode & 0o700))?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn rename_no_replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.renaming == Renaming::Flag {
            match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
                Ok(()) => return Ok(()),
                // Renaming a directory below itself is INVAL too; the ways below
                // refuse that as well.
                Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if fs::symlink_metadata(from)?.is_dir() {
            // No link for directories; an empty one is the reservation, and only
            // an empty one can be replaced.
            rustix::fs::mkdir(to, Mode::RWXU)?;
            return fs::rename(from, to).inspect_err(|_| drop(fs::remove_dir(to)));
        }
        if self.renaming <= Renaming::Link {
            match rustix::fs::linkat(CWD, from, CWD, to, AtFlags::empty()) {
                Ok(()) => return fs::remove_file(from),
                Err(error) if unsupported(error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        drop(open(to, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY, 0o600)?);
        fs::rename(from, to).inspect_err(|_| drop(fs::remove_file(to)))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty())?;
        match rustix::fs::fsync(&directory) {
            // Some network file systems have no fsync of directories and need none.
            Err(Errno::INVAL | Errno::NOTSUP) => Ok(()),
            other => other.map_err(io::Error::from),
        }
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let file_type = file_type(entry.file_type()?);
            entries.push(DirEntry { name: entry.file_name(), file_type });
        }
        entries.sort_by(|a, b| a.name.as_encoded_bytes().cmp(b.name.as_encoded_bytes()));
        Ok(entries)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let found = fs::symlink_metadata(path)?;
        Ok(Metadata {
            file_type: file_type(found.file_type()),
            size: found.len(),
            mode: found.mode() & 0o7777,
            uid: found.uid(),
            gid: found.gid(),
            modified: found.modified()?,
        })
    }

    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        // Through a handle that follows no link: `chmod` of a path would.
        let handle = open(path, OFlags::RDONLY, 0)?;
        Ok(rustix::fs::fchmod(&handle, Mode::from_raw_mode(mode))?)
    }

    fn set_owner(&self, path: &Path, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        std::os::unix::fs::lchown(path, uid, gid)
    }

    fn available(&self, path: &Path) -> io::Result<u64> {
        let found = rustix::fs::statvfs(path)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

fn file_type(found: fs::FileType) -> FileType {
    if found.is_file() {
        FileType::File
    } else if found.is_dir() {
        FileType::Directory
    } else if found.is_symlink() {
        FileType::Symlink
    } else {
        FileType::Other
    }
}

#[derive(Debug)]
struct RealFile(fs::File);

impl File for RealFile {
    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.0.write_all(data)
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read_at(buf, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn set_len(&mut self, size: u64) -> io::Result<()> {
        self.0.set_len(size)
    }

    fn allocate(&mut self, size: u64) -> io::Result<()> {
        if size == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(self.0.as_fd(), FallocateFlags::empty(), 0, size) {
            Err(Errno::NOTSUP | Errno::NOSYS) => {
                if self.size()? < size {
                    self.set_len(size)
                } else {
                    Ok(())
                }
            }
            other => other.map_err(io::Error::from),
        }
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}
