//! Opening without following, and what is known of what was opened.
//!
//! A handle (`O_PATH`) names one inode whatever happens to its path; attributes
//! and content are then had through `/proc/self/fd`, so that nothing can be put
//! in between.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use super::super::{Attributes, Entry, FileKind};
use super::fault::Fault;
use super::owner::Owners;

/// At most so many names are read of one directory.
const MAX_NAMES: usize = 1 << 20;

/// Labels that the kernel makes itself for one inode, and overlay's bookkeeping.
fn is_foreign(name: &str) -> bool {
    matches!(name, "security.evm" | "security.ima") || name.starts_with("trusted.overlay.")
}

/// The path through which an open handle is named.
pub(super) fn magic(handle: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", handle.as_fd().as_raw_fd()))
}

/// The directory that holds `path`, opened, and the name there; `.` for the root.
pub(super) fn parent(path: &Path) -> Result<(OwnedFd, OsString), Fault> {
    let plain = path.components().all(|part| !matches!(part, Component::ParentDir));
    if !path.is_absolute() || !plain || path.as_os_str().as_bytes().contains(&0) {
        return Err(Fault::unexpected("the path is not absolute, or leads upwards"));
    }
    let name = path.file_name().unwrap_or(OsStr::new(".")).to_owned();
    // Links further up are followed, as `/var/run` often is one.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = path.parent().unwrap_or(path);
    Ok((rustix::fs::open(directory, flags, Mode::empty())?, name))
}

/// A handle of what `name` is in `directory`.
pub(super) fn handle(directory: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

/// The same, `None` where there is nothing.
pub(super) fn handle_if(directory: impl AsFd, name: &OsStr) -> Result<Option<OwnedFd>, Fault> {
    match handle(directory, name) {
        Ok(handle) => Ok(Some(handle)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What a handle is of.
pub(super) fn metadata(handle: &OwnedFd) -> io::Result<Metadata> {
    // Through a copy of the descriptor, which is closed again.
    File::from(handle.try_clone()?).metadata()
}

/// Opens for reading what `handle` names, a regular file or a directory.
pub(super) fn reopen(handle: &OwnedFd) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(File::from(rustix::fs::open(magic(handle), flags, Mode::empty())?))
}

/// The names in a directory, in the order of their bytes.
pub(super) fn names(directory: &OwnedFd) -> Result<Vec<OsString>, Fault> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        if names.len() >= MAX_NAMES {
            return Err(Fault::unexpected("the directory has too many entries"));
        }
        names.push(OsString::from_vec(name.to_vec()));
    }
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    Ok(names)
}

pub(super) fn kind(metadata: &Metadata) -> FileKind {
    let found = metadata.file_type();
    if found.is_file() {
        FileKind::File
    } else if found.is_dir() {
        FileKind::Directory
    } else if found.is_symlink() {
        FileKind::Symlink
    } else {
        FileKind::Other
    }
}

pub(super) fn modified(metadata: &Metadata) -> i128 {
    i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec())
}

/// A time of modification for the system; the time of access stays.
pub(super) fn times(modified: i128) -> Result<Timestamps, Fault> {
    let seconds = i64::try_from(modified.div_euclid(1_000_000_000));
    let tv_sec = seconds.map_err(|_| Fault::unexpected("a time that is out of bounds"))?;
    // Below 1e9, so it fits whatever the field's type is.
    let tv_nsec = modified.rem_euclid(1_000_000_000) as _;
    Ok(Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ },
        last_modification: Timespec { tv_sec, tv_nsec },
    })
}

/// Where a symbolic link leads.
pub(super) fn target(handle: &OwnedFd) -> io::Result<PathBuf> {
    let target = rustix::fs::readlinkat(handle, "", Vec::new())?;
    Ok(OsString::from_vec(target.into_bytes()).into())
}

/// All extended attributes that can be carried elsewhere.
pub(super) fn xattrs(handle: &OwnedFd) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let path = magic(handle);
    let mut found = BTreeMap::new();
    let mut list = vec![0; 64 << 10];
    let count = match rustix::fs::listxattr(&path, &mut list[..]) {
        Ok(count) => count,
        Err(Errno::NOTSUP | Errno::NOSYS | Errno::PERM | Errno::ACCESS) => return Ok(found),
        Err(error) => return Err(error.into()),
    };
    let mut value = Vec::new();
    for name in list[..count].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        // Names come from the kernel; one that is no text cannot be set by it either.
        let Ok(name) = std::str::from_utf8(name) else { continue };
        if is_foreign(name) {
            continue;
        }
        value.resize(64 << 10, 0);
        match rustix::fs::getxattr(&path, name, &mut value[..]) {
            Ok(count) => {
                found.insert(name.to_owned(), value[..count].to_vec());
            }
            // Removed meanwhile, or a label that this kernel does not give out.
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// Owner, mode and extended attributes of what a handle names.
pub(super) fn attributes(
    handle: &OwnedFd,
    metadata: &Metadata,
    owners: &Owners,
) -> io::Result<Attributes> {
    Ok(Attributes {
        uid: metadata.uid(),
        gid: metadata.gid(),
        owner: owners.user(metadata.uid()),
        group: owners.group(metadata.gid()),
        mode: metadata.mode() & 0o7777,
        xattrs: xattrs(handle)?,
    })
}

/// Everything known of what a handle names, which was found at `path`.
pub(super) fn entry(
    handle: &OwnedFd,
    path: &Path,
    owners: &Owners,
    mount_points: &BTreeSet<PathBuf>,
) -> io::Result<Entry> {
    let metadata = metadata(handle)?;
    let kind = kind(&metadata);
    let target = if kind == FileKind::Symlink { Some(target(handle)?) } else { None };
    let real = || -> Option<PathBuf> {
        let parent = path.parent()?.canonicalize().ok()?;
        Some(parent.join(path.file_name()?))
    };
    let mountable = kind != FileKind::Symlink && !mount_points.is_empty();
    let real = if mountable { real().or_else(|| Some(path.to_owned())) } else { None };
    Ok(Entry {
        path: path.to_owned(),
        kind,
        size: if kind == FileKind::File { metadata.len() } else { 0 },
        modified: modified(&metadata),
        attributes: attributes(handle, &metadata, owners)?,
        target,
        mount_point: real.is_some_and(|path| mount_points.contains(&path)),
    })
}

/// Gives owner, mode and extended attributes; what the file inherited and does
/// not have in `wanted` is removed, except its SELinux label.
pub(super) fn apply(handle: &OwnedFd, wanted: &Attributes) -> Result<(), Fault> {
    let metadata = metadata(handle)?;
    if (metadata.uid(), metadata.gid()) != (wanted.uid, wanted.gid) {
        let owner = Some(Uid::from_raw(wanted.uid));
        let group = Some(Gid::from_raw(wanted.gid));
        rustix::fs::chownat(handle, "", owner, group, AtFlags::EMPTY_PATH)
            .map_err(|error| because("change the owner", error.into()))?;
    }
    let path = magic(handle);
    let present = xattrs(handle)?;
    for name in present.keys() {
        if !wanted.xattrs.contains_key(name) && name != "security.selinux" {
            rustix::fs::removexattr(&path, name.as_str())
                .map_err(|error| because(&format!("remove the attribute {name}"), error.into()))?;
        }
    }
    for (name, value) in &wanted.xattrs {
        if present.get(name) != Some(value) {
            rustix::fs::setxattr(&path, name.as_str(), value, XattrFlags::empty())
                .map_err(|error| because(&format!("set the attribute {name}"), error.into()))?;
        }
    }
    // Last: a change of owner takes set-user-id bits away, an ACL sets others.
    if kind(&metadata) != FileKind::Symlink {
        let mode = Mode::from_raw_mode(wanted.mode & 0o7777);
        rustix::fs::chmod(&path, mode).map_err(|error| because("set the mode", error.into()))?;
    }
    Ok(())
}

fn because(act: &str, mut fault: Fault) -> Fault {
    fault.why = format!("{act}: {}", fault.why);
    fault
}
