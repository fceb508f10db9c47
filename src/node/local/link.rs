//! Symbolic links: made and replaced by a rename, removed.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::AtFlags;
use vault::durable;

use super::super::{FileKind, LinkHow, NodeErrorKind};
use super::at;
use super::fault::Fault;
use super::file::{existing, expect};
use super::temporary::{self, Temporary};

/// The name of a link that is being made, in a temporary directory: there it is swept
/// with it when its maker dies.
const NAME: &str = "link";

pub(super) fn make(path: &Path, how: &LinkHow) -> Result<(), Fault> {
    let (directory, name) = at::parent(path)?;
    let target = how.target.as_os_str().as_bytes();
    if path.file_name().is_none() || target.is_empty() || target.contains(&0) {
        return Err(Fault::unexpected("it is no name or no target of a link"));
    }
    temporary::sweep(&directory);
    match &how.replaces {
        None if at::handle_if(&directory, &name)?.is_some() => {
            return Err(Fault::new(NodeErrorKind::AlreadyExists, "something stands there already"));
        }
        None => {}
        Some(expected) => check(&directory, &name, expected)?,
    }
    let temporary = Temporary::directory(&directory)?;
    let inside = temporary.handle()?;
    rustix::fs::symlinkat(&how.target, &inside, NAME)?;
    at::apply(&at::handle(&inside, OsStr::new(NAME))?, &how.attributes)?;
    if let Some(modified) = how.modified {
        // Before the rename: what is durable then is the link with its time.
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(&inside, NAME, &at::times(modified)?, flags)?;
    }
    let fs = durable::real();
    let new = at::magic(&inside).join(NAME);
    let place = at::magic(&directory);
    match &how.replaces {
        Some(expected) => {
            // Once more, as late as can be: what comes between this and the rename is lost.
            check(&directory, &name, expected)?;
            fs.rename(&new, &place.join(&name))?;
        }
        None => fs.rename_no_replace(&new, &place.join(&name))?,
    }
    Ok(fs.sync_dir(&place)?)
}

pub(super) fn remove(path: &Path, target: &Path) -> Result<(), Fault> {
    let (directory, name) = at::parent(path)?;
    check(&directory, &name, target)?;
    rustix::fs::unlinkat(&directory, &name, AtFlags::empty())?;
    Ok(durable::real().sync_dir(&at::magic(&directory))?)
}

/// A link stands there and leads to `expected`.
fn check(directory: &OwnedFd, name: &OsStr, expected: &Path) -> Result<(), Fault> {
    let handle = existing(directory, name)?;
    expect(&handle, FileKind::Symlink)?;
    // By bytes: paths compare equal that are written differently.
    if at::target(&handle)?.as_os_str() == expected.as_os_str() {
        return Ok(());
    }
    Err(Fault::unexpected("it leads elsewhere than was expected: somebody changed it"))
}
