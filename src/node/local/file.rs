//! Single files and directories: stat, list, read, write, rename, remove.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, StatVfsMountFlags};
use sha2::{Digest as _, Sha256};
use vault::durable;

use super::super::{
    Attributes, Entry, FileContent, FileKind, NodeErrorKind, SetHow, Space, WriteHow, WriteLike,
};
use super::fault::Fault;
use super::owner::Owners;
use super::temporary::{self, Temporary};
use super::{at, mount};

/// How often a file is read again that changes meanwhile.
const READS: usize = 3;

pub(super) fn stat(path: &Path) -> Result<Option<Entry>, Fault> {
    let (directory, name) = match at::parent(path) {
        Ok(parent) => parent,
        Err(fault) if fault.kind == NodeErrorKind::NotFound => return Ok(None),
        Err(fault) => {
            // Above it stands something that is no directory: nothing is there.
            let above = path.ancestors().skip(1).find_map(|above| above.metadata().ok());
            return if path.is_absolute() && above.is_some_and(|above| !above.is_dir()) {
                Ok(None)
            } else {
                Err(fault)
            };
        }
    };
    let Some(handle) = at::handle_if(&directory, &name)? else { return Ok(None) };
    Ok(Some(at::entry(&handle, path, &Owners::load(), &mount::points())?))
}

pub(super) fn list(path: &Path) -> Result<Vec<Entry>, Fault> {
    let (directory, name) = at::parent(path)?;
    let handle = at::handle(&directory, &name)?;
    expect(&handle, FileKind::Directory)?;
    let directory: OwnedFd = at::reopen(&handle)?.into();
    let (owners, points) = (Owners::load(), mount::points());
    let mut entries = Vec::new();
    for name in at::names(&directory)? {
        // What vanished since its name was read is not there.
        let Some(handle) = at::handle_if(&directory, &name)? else { continue };
        entries.push(at::entry(&handle, &path.join(name), &owners, &points)?);
    }
    Ok(entries)
}

pub(super) fn read(path: &Path, limit: u64) -> Result<FileContent, Fault> {
    let (directory, name) = at::parent(path)?;
    let handle = at::handle(&directory, &name)?;
    let bytes = content(&handle, limit)?;
    let mut entry = at::entry(&handle, path, &Owners::load(), &mount::points())?;
    entry.size = bytes.len() as u64;
    Ok(FileContent { entry, bytes })
}

/// The bytes of a regular file, all of one moment.
fn content(handle: &OwnedFd, limit: u64) -> Result<Vec<u8>, Fault> {
    expect(handle, FileKind::File)?;
    let same = |a: &Metadata, b: &Metadata| {
        a.len() == b.len() && (a.ctime(), a.ctime_nsec()) == (b.ctime(), b.ctime_nsec())
    };
    for _ in 0..READS {
        let mut file = at::reopen(handle)?;
        let before = file.metadata()?;
        let mut bytes = Vec::new();
        (&mut file).take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit || before.len() > limit {
            let size = before.len().max(bytes.len() as u64);
            return Err(Fault::unexpected(format!(
                "it has {size} bytes, more than the {limit} that are read of such a file"
            )));
        }
        if same(&before, &file.metadata()?) && before.len() == bytes.len() as u64 {
            return Ok(bytes);
        }
        // Files of /proc and /sys say that they are empty.
        if before.len() == 0 && before.blocks() == 0 && !bytes.is_empty() {
            return Ok(bytes);
        }
    }
    Err(Fault::unexpected("it changes while it is read"))
}

pub(super) fn expect(handle: &OwnedFd, wanted: FileKind) -> Result<(), Fault> {
    let found = at::kind(&at::metadata(handle)?);
    if found == wanted {
        return Ok(());
    }
    let name = |kind| match kind {
        FileKind::File => "a regular file",
        FileKind::Directory => "a directory",
        FileKind::Symlink => "a symbolic link, which is not followed",
        FileKind::Other => "a socket, device or pipe",
    };
    Err(Fault::unexpected(format!("{} stands there, not {}", name(found), name(wanted))))
}

/// The SHA-256 of a regular file of any size.
fn hash(handle: &OwnedFd) -> Result<[u8; 32], Fault> {
    expect(handle, FileKind::File)?;
    let mut file = at::reopen(handle)?;
    let mut sha = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(sha.finalize().into()),
            Ok(count) => sha.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

pub(super) fn existing(directory: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Fault> {
    at::handle_if(directory, name)?
        .ok_or_else(|| Fault::new(NodeErrorKind::NotFound, "nothing stands there"))
}

fn check_hash(directory: &OwnedFd, name: &OsStr, expected: [u8; 32]) -> Result<(), Fault> {
    if hash(&existing(directory, name)?)? == expected {
        return Ok(());
    }
    Err(Fault::unexpected("its content is not what was expected: somebody changed it"))
}

/// Whose attributes something new at `path` gets.
fn like(path: &Path, like: &WriteLike) -> Result<Attributes, Fault> {
    let other = match like {
        WriteLike::Attributes(attributes) => return Ok(attributes.clone()),
        WriteLike::Itself => path,
        WriteLike::Path(other) => other,
    };
    let of = |fault: Fault| fault.at(other);
    let (directory, name) = at::parent(other).map_err(of)?;
    let handle = existing(&directory, &name).map_err(of)?;
    let metadata = at::metadata(&handle)?;
    if at::kind(&metadata) == FileKind::Symlink {
        return Err(of(Fault::unexpected("a symbolic link has no mode to take")));
    }
    Ok(at::attributes(&handle, &metadata, &Owners::default())?)
}

pub(super) fn write(path: &Path, bytes: &[u8], how: &WriteHow) -> Result<(), Fault> {
    let (directory, name) = at::parent(path)?;
    if path.file_name().is_none() {
        return Err(Fault::unexpected("it is no name of a file"));
    }
    temporary::sweep(&directory);
    match how.replaces {
        None if at::handle_if(&directory, &name)?.is_some() => {
            return Err(Fault::new(NodeErrorKind::AlreadyExists, "something stands there already"));
        }
        None => {}
        Some(expected) => check_hash(&directory, &name, expected)?,
    }
    let attributes = like(path, &how.like)?;
    let mut temporary = Temporary::file(&directory)?;
    temporary.file.write_all(bytes)?;
    at::apply(&temporary.handle()?, &attributes)?;
    temporary.file.sync_all()?;
    if let Some(expected) = how.replaces {
        // Once more, as late as can be: what comes between this and the rename is lost.
        check_hash(&directory, &name, expected)?;
    }
    temporary.name(&name, how.replaces.is_some())
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<(), Fault> {
    let (from_directory, from_name) = at::parent(from).map_err(|fault| fault.at(from))?;
    let (to_directory, to_name) = at::parent(to).map_err(|fault| fault.at(to))?;
    if from.file_name().is_none() || to.file_name().is_none() {
        return Err(Fault::unexpected("the root directory cannot be renamed"));
    }
    existing(&from_directory, &from_name).map_err(|fault| fault.at(from))?;
    if to.starts_with(from) && to != from {
        return Err(Fault::unexpected("a directory cannot be moved below itself"));
    }
    if at::handle_if(&to_directory, &to_name)?.is_some() {
        let fault = Fault::new(NodeErrorKind::AlreadyExists, "something stands there already");
        return Err(fault.at(to));
    }
    let fs = durable::real();
    let (old, new) = (at::magic(&from_directory), at::magic(&to_directory));
    fs.rename_no_replace(&old.join(&from_name), &new.join(&to_name)).map_err(|error| {
        let fault = Fault::from(error);
        if fault.kind == NodeErrorKind::Unsupported {
            return fault.hint("choose a name on the same file system, and within one mount");
        }
        fault
    })?;
    fs.sync_dir(&new)?;
    Ok(fs.sync_dir(&old)?)
}

pub(super) fn make_dir(path: &Path, how: &WriteLike) -> Result<(), Fault> {
    let (directory, name) = at::parent(path)?;
    if path.file_name().is_none() || at::handle_if(&directory, &name)?.is_some() {
        return Err(Fault::new(NodeErrorKind::AlreadyExists, "something stands there already"));
    }
    temporary::sweep(&directory);
    let attributes = like(path, how)?;
    let temporary = Temporary::directory(&directory)?;
    at::apply(&temporary.handle()?, &attributes)?;
    durable::real().sync_dir(&at::magic(&temporary.file))?;
    temporary.name(&name, false)
}

pub(super) fn set(path: &Path, how: &SetHow) -> Result<(), Fault> {
    let (directory, name) = at::parent(path)?;
    if !matches!(how.kind, FileKind::File | FileKind::Directory) {
        return Err(Fault::unexpected("only a regular file or a directory has what can be set"));
    }
    let handle = existing(&directory, &name)?;
    expect(&handle, how.kind)?;
    // Opened before its mode may forbid that.
    let file = at::reopen(&handle)?;
    if let Some(attributes) = &how.attributes {
        at::apply(&handle, attributes)?;
    }
    if let Some(modified) = how.modified {
        rustix::fs::futimens(&file, &at::times(modified)?)?;
    }
    Ok(file.sync_all()?)
}

pub(super) fn remove_dir(path: &Path) -> Result<(), Fault> {
    let (directory, name) = at::parent(path)?;
    if path.file_name().is_none() {
        return Err(Fault::unexpected("the root directory cannot be removed"));
    }
    expect(&existing(&directory, &name)?, FileKind::Directory)?;
    rustix::fs::unlinkat(&directory, &name, AtFlags::REMOVEDIR)?;
    Ok(durable::real().sync_dir(&at::magic(&directory))?)
}

pub(super) fn remove_own(path: &Path, expected: [u8; 32]) -> Result<(), Fault> {
    let (directory, name) = at::parent(path)?;
    check_hash(&directory, &name, expected)?;
    rustix::fs::unlinkat(&directory, &name, AtFlags::empty())?;
    Ok(durable::real().sync_dir(&at::magic(&directory))?)
}

pub(super) fn space(path: &Path) -> Result<Space, Fault> {
    let (directory, name) = at::parent(path)?;
    let handle = at::handle(&directory, &name)?;
    let found = rustix::fs::fstatvfs(&handle)?;
    Ok(Space {
        available: found.f_bavail.saturating_mul(found.f_frsize),
        total: found.f_blocks.saturating_mul(found.f_frsize),
        read_only: found.f_flag.contains(StatVfsMountFlags::RDONLY),
        device: at::metadata(&handle)?.dev(),
    })
}
