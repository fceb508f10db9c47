//! Names under which something is built before it is visible.
//!
//! They begin with a dot, so that the kubelet does not take one for a manifest.
//! Their maker holds a lock on what stands there as long as it lives: what can be
//! locked was left behind by one that died, and the next writer sweeps it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use vault::durable;

use super::super::FileKind;
use super::at;
use super::fault::Fault;

pub(super) const PREFIX: &str = ".etcdvault-tmp-";

/// At most so many leftovers are looked at by one call.
const MAX_SWEEP: usize = 64;

/// Something that is removed again unless it was given its name.
#[derive(Debug)]
pub(super) struct Temporary<'a> {
    directory: &'a OwnedFd,
    name: OsString,
    /// The file, writable, or the directory.
    pub(super) file: File,
    named: bool,
}

impl<'a> Temporary<'a> {
    /// An empty file that only its owner reads.
    pub(super) fn file(directory: &'a OwnedFd) -> Result<Self, Fault> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
        Self::make(directory, |name| {
            let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)
        })
    }

    /// An empty directory that only its owner enters.
    pub(super) fn directory(directory: &'a OwnedFd) -> Result<Self, Fault> {
        Self::make(directory, |name| {
            rustix::fs::mkdirat(directory, name, Mode::RWXU)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            rustix::fs::openat(directory, name, flags, Mode::empty())
        })
    }

    fn make(
        directory: &'a OwnedFd,
        open: impl Fn(&OsStr) -> Result<OwnedFd, Errno>,
    ) -> Result<Self, Fault> {
        for _ in 0..8 {
            let name = OsString::from(format!("{PREFIX}{}", ulid::Ulid::generate()));
            let file = match open(&name) {
                Ok(file) => File::from(file),
                // Swept by another between making and opening.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            let made = Self { directory, name, file, named: false };
            // Nobody else may hold it, and it must still stand under its name.
            match rustix::fs::flock(&made.file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) | Err(Errno::NOTSUP | Errno::NOLCK | Errno::INVAL) => {}
                Err(_) => continue,
            }
            let here = at::handle_if(directory, &made.name)?;
            let here = here.and_then(|here| at::metadata(&here).ok());
            let mine = made.file.metadata()?;
            if here.is_some_and(|here| (here.dev(), here.ino()) == (mine.dev(), mine.ino())) {
                return Ok(made);
            }
        }
        Err(Fault::unexpected("temporary files are removed by somebody else"))
    }

    /// The name that it has for now.
    pub(super) fn file_name(&self) -> &OsStr {
        &self.name
    }

    /// A handle of it.
    pub(super) fn handle(&self) -> Result<OwnedFd, Fault> {
        Ok(self.file.try_clone()?.into())
    }

    /// Gives it its name; with `replace` whatever file has that now is replaced.
    /// Then makes the name durable.
    pub(super) fn name(mut self, name: &OsStr, replace: bool) -> Result<(), Fault> {
        let directory = at::magic(self.directory);
        let (from, to) = (directory.join(&self.name), directory.join(name));
        let fs = durable::real();
        if replace {
            fs.rename(&from, &to)?;
        } else {
            fs.rename_no_replace(&from, &to)?;
        }
        self.named = true;
        Ok(fs.sync_dir(&directory)?)
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.named {
            remove(self.directory, &self.name);
        }
    }
}

/// Removes what dead writers left in `directory`. What cannot be removed stays:
/// it is in nobody's way.
pub(super) fn sweep(directory: &OwnedFd) {
    let Ok(names) = at::names(directory) else { return };
    let left = names.iter().filter(|name| name.as_bytes().starts_with(PREFIX.as_bytes()));
    for name in left.take(MAX_SWEEP) {
        let Ok(handle) = at::handle(directory, name) else { continue };
        let kind = at::metadata(&handle).map(|metadata| at::kind(&metadata));
        if !matches!(kind, Ok(FileKind::File | FileKind::Directory)) {
            continue;
        }
        let Ok(file) = at::reopen(&handle) else { continue };
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            remove(directory, name);
        }
    }
}

fn remove(directory: &OwnedFd, name: &OsStr) {
    // A failure leaves what the next writer sweeps.
    if rustix::fs::unlinkat(directory, name, AtFlags::empty()).is_err() {
        let path = at::magic(directory).join(name);
        let _ = durable::remove_all(&*durable::real(), &path);
    }
}
