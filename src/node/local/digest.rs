//! The digest of a tree, format 1.
//!
//! SHA-256 over `etcdvault tree 1\n` and a record for each entry, a directory
//! before what is in it, each directory in the order of its names' bytes. Numbers
//! are little-endian; a *text* is its length as `u32` and its bytes.
//!
//! | field | as |
//! |---|---|
//! | kind | `f`, `d`, `l` or `o`, one byte |
//! | path below the root, `/` between names, empty for the root | text |
//! | owner, group, mode (`0o7777`) | `u32` each; mode 0 for `l` |
//! | count of extended attributes, then each, in the order of names | `u32`; text and text |
//! | `f`: size | `u64` |
//! | `f`: content | SHA-256 over each block of 64 KiB that has a byte other than zero: its number as `u64`, its bytes, the last block filled with zeros |
//! | `l`: where it leads | text |
//! | `o`: mode with its type, device | `u32`, `u64` |
//!
//! So holes count as the zeros that they read as, and cost nothing. Times, names
//! of owners, hard links and the name of the root do not count.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use vault::durable;

use super::super::archive::{Extent, ReadAt as _};
use super::super::{FileKind, TreeDigest};
use super::fault::{Fault, Task};
use super::walk::{Found, Visitor, walk};
use super::{at, sparse, temporary};

const BLOCK: usize = 64 << 10;

static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Content hashes that are known already, by the number of the inode.
pub(super) type Known = HashMap<u64, [u8; 32]>;

/// The digest of what is at `root`.
pub(super) fn digest(root: &Path, task: &Task) -> Result<TreeDigest, Fault> {
    run(root, task, &Known::new(), false)
}

/// The same for a tree that only this process changes: contents in `known` are
/// not read again, and everything is synced, so that a write that failed shows.
pub(super) fn digest_and_sync(
    root: &Path,
    task: &Task,
    known: &Known,
) -> Result<TreeDigest, Fault> {
    run(root, task, known, true)
}

/// Removes the tree at `root` if its digest is `expected`. What a kill leaves of it has
/// a temporary name, and the next writer sweeps it.
pub(super) fn remove_own_tree(root: &Path, expected: [u8; 32], task: &Task) -> Result<(), Fault> {
    let (parent, name) = at::parent(root)?;
    if root.file_name().is_none() {
        return Err(Fault::unexpected("the root directory cannot be removed"));
    }
    if digest(root, task)?.sha256 != expected {
        return Err(Fault::unexpected("it is not what was expected: somebody changed it"));
    }
    let temporary = OsString::from(format!("{}{}", temporary::PREFIX, ulid::Ulid::generate()));
    let fs = durable::real();
    let place = at::magic(&parent);
    fs.rename_no_replace(&place.join(&name), &place.join(&temporary))?;
    fs.sync_dir(&place)?;
    task.tick()?;
    durable::remove_all(&*fs, &place.join(&temporary))?;
    Ok(fs.sync_dir(&place)?)
}

fn run(root: &Path, task: &Task, known: &Known, sync: bool) -> Result<TreeDigest, Fault> {
    let mut sha = Sha256::new();
    sha.update(b"etcdvault tree 1\n");
    let mut walker = Walker { sha, task, known, sync, entries: 0, bytes: 0 };
    walk(root, task, &mut walker)?;
    let Walker { sha, entries, bytes, .. } = walker;
    Ok(TreeDigest { sha256: sha.finalize().into(), entries, bytes })
}

struct Walker<'a> {
    sha: Sha256,
    task: &'a Task,
    known: &'a Known,
    sync: bool,
    entries: u64,
    bytes: u64,
}

impl Walker<'_> {
    fn text(&mut self, text: &[u8]) {
        // Nothing that the kernel gives comes near the bound of the number.
        self.sha.update((text.len() as u32).to_le_bytes());
        self.sha.update(text);
    }
}

impl Visitor for Walker<'_> {
    fn visit(&mut self, found: &Found<'_>) -> Result<bool, Fault> {
        let (kind, metadata) = (found.kind, found.metadata);
        self.entries += 1;
        self.sha.update(match kind {
            FileKind::File => b"f",
            FileKind::Directory => b"d",
            FileKind::Symlink => b"l",
            FileKind::Other => b"o",
        });
        self.text(found.below.as_os_str().as_bytes());
        let mode = if kind == FileKind::Symlink { 0 } else { metadata.mode() & 0o7777 };
        for number in [metadata.uid(), metadata.gid(), mode] {
            self.sha.update(number.to_le_bytes());
        }
        let xattrs = at::xattrs(found.handle)?;
        self.sha.update((xattrs.len() as u32).to_le_bytes());
        for (name, value) in &xattrs {
            self.text(name.as_bytes());
            self.text(value);
        }
        match kind {
            FileKind::File => {
                let file = at::reopen(found.handle)?;
                let size = file.metadata()?.len();
                self.sha.update(size.to_le_bytes());
                self.bytes = self.bytes.saturating_add(size);
                let content = match self.known.get(&metadata.ino()) {
                    Some(content) => *content,
                    None => file_content(&file, size, self.task)?,
                };
                self.sha.update(content);
                if self.sync {
                    file.sync_all()?;
                }
            }
            FileKind::Directory if self.sync => at::reopen(found.handle)?.sync_all()?,
            FileKind::Directory => {}
            FileKind::Symlink => {
                let target = at::target(found.handle)?;
                self.text(target.as_os_str().as_bytes());
            }
            FileKind::Other => {
                self.sha.update(metadata.mode().to_le_bytes());
                self.sha.update(metadata.rdev().to_le_bytes());
            }
        }
        Ok(true)
    }

    fn vanished(&mut self, path: &Path) -> Result<(), Fault> {
        Err(Fault::unexpected("it was removed meanwhile").at(path))
    }
}

fn file_content(file: &File, size: u64, task: &Task) -> Result<[u8; 32], Fault> {
    let mut content = Content::new();
    let mut buffer = vec![0; 4 * BLOCK];
    for Extent { offset, length } in sparse::extents(file, size) {
        let (mut at, end) = (offset, offset.saturating_add(length));
        while at < end {
            task.tick()?;
            let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let count = file.read_at(at, &mut buffer[..want])?;
            if count == 0 {
                return Err(Fault::unexpected("it became shorter while it was read"));
            }
            content.data(at, &buffer[..count]);
            at += count as u64;
        }
    }
    Ok(content.finish())
}

/// The hash of a file's content, given its pieces in ascending order.
#[derive(Debug)]
pub(super) struct Content {
    sha: Sha256,
    block: Box<[u8]>,
    number: u64,
}

impl Content {
    pub(super) fn new() -> Self {
        Self { sha: Sha256::new(), block: vec![0; BLOCK].into(), number: 0 }
    }

    pub(super) fn data(&mut self, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let number = offset / BLOCK as u64;
            if number != self.number {
                self.flush();
                self.number = number;
            }
            let from = (offset % BLOCK as u64) as usize;
            let count = bytes.len().min(BLOCK - from);
            self.block[from..from + count].copy_from_slice(&bytes[..count]);
            offset += count as u64;
            bytes = &bytes[count..];
        }
    }

    fn flush(&mut self) {
        if *self.block != ZEROS {
            self.sha.update(self.number.to_le_bytes());
            self.sha.update(&self.block);
            self.block.fill(0);
        }
    }

    pub(super) fn finish(mut self) -> [u8; 32] {
        self.flush();
        self.sha.finalize().into()
    }
}
