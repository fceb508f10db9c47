//! Going through a tree, each directory in the order of its names' bytes, itself
//! before what is in it. Every step is taken from the open directory above, so
//! that a directory swapped for a link in the meantime leads nowhere.

use std::fs::Metadata;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::super::{FileKind, NodeErrorKind};
use super::at;
use super::fault::{Fault, Task};

/// Each level holds an open directory.
const MAX_DEPTH: usize = 200;

/// Something that was found.
#[derive(Debug)]
pub(super) struct Found<'a> {
    /// Its absolute path.
    pub(super) path: &'a Path,
    /// Its path below the root of the walk; empty for the root.
    pub(super) below: &'a Path,
    pub(super) kind: FileKind,
    pub(super) handle: &'a OwnedFd,
    pub(super) metadata: &'a Metadata,
}

/// Who is told.
pub(super) trait Visitor {
    /// Something was found; whether to go into it, if it is a directory.
    fn visit(&mut self, found: &Found<'_>) -> Result<bool, Fault>;

    /// Something was gone when it was looked at.
    fn vanished(&mut self, path: &Path) -> Result<(), Fault>;
}

struct Level {
    directory: OwnedFd,
    names: std::vec::IntoIter<std::ffi::OsString>,
    path: PathBuf,
    below: PathBuf,
}

/// Visits `root` and everything below it.
pub(super) fn walk(root: &Path, task: &Task, visitor: &mut dyn Visitor) -> Result<(), Fault> {
    let (directory, name) = at::parent(root)?;
    let handle = at::handle(&directory, &name)?;
    let mut levels = Vec::new();
    levels.extend(enter(&handle, root.to_owned(), PathBuf::new(), task, visitor)?);
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.next() else {
            levels.pop();
            continue;
        };
        let (path, below) = (level.path.join(&name), level.below.join(&name));
        let Some(handle) = at::handle_if(&level.directory, &name)? else {
            visitor.vanished(&path)?;
            continue;
        };
        let entered = enter(&handle, path, below, task, visitor)?;
        if entered.is_some() && levels.len() >= MAX_DEPTH {
            return Err(Fault::unexpected(format!("it is deeper than {MAX_DEPTH} levels")));
        }
        levels.extend(entered);
    }
    Ok(())
}

fn enter(
    handle: &OwnedFd,
    path: PathBuf,
    below: PathBuf,
    task: &Task,
    visitor: &mut dyn Visitor,
) -> Result<Option<Level>, Fault> {
    task.tick()?;
    let metadata = at::metadata(handle)?;
    let kind = at::kind(&metadata);
    let found = Found { path: &path, below: &below, kind, handle, metadata: &metadata };
    if !visitor.visit(&found).map_err(|fault| named(fault, &path))? || kind != FileKind::Directory {
        return Ok(None);
    }
    let directory: OwnedFd = match at::reopen(handle) {
        Ok(directory) => directory.into(),
        Err(error) => {
            let fault = Fault::from(error);
            if fault.kind != NodeErrorKind::NotFound {
                return Err(fault.at(&path));
            }
            visitor.vanished(&path)?;
            return Ok(None);
        }
    };
    let names = at::names(&directory).map_err(|fault| fault.at(&path))?.into_iter();
    Ok(Some(Level { directory, names, path, below }))
}

fn named(fault: Fault, path: &Path) -> Fault {
    // That the asker is gone has nothing to do with the path.
    if fault.kind == NodeErrorKind::Lost { fault } else { fault.at(path) }
}
