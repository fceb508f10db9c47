//! Trees into a tar stream.

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::super::archive::{Kind, Member, Outcome, Writer};
use super::super::{FileKind, TreeSpec};
use super::fault::{Fault, Task};
use super::owner::Owners;
use super::walk::{Found, Visitor, walk};
use super::{at, sparse};

/// A stream ends with at most so many notes.
const MAX_NOTES: usize = 10_000;

/// Where the members' names begin, and the roots, none below another.
pub(super) fn plan(spec: &TreeSpec) -> Result<(PathBuf, Vec<PathBuf>), Fault> {
    let base = spec.base.clone().unwrap_or_else(|| PathBuf::from("/"));
    let mut roots: Vec<PathBuf> = Vec::new();
    // As paths are ordered, what is below another comes after it.
    let mut sorted: Vec<PathBuf> =
        spec.roots.iter().map(|root| root.components().collect()).collect();
    sorted.sort();
    for root in sorted {
        if !root.is_absolute()
            || root.components().any(|part| part == std::path::Component::ParentDir)
        {
            return Err(Fault::unexpected("a root is not absolute, or leads upwards").at(&root));
        }
        if !root.starts_with(&base) {
            let why = format!("it is not below {}", base.display());
            return Err(Fault::unexpected(why).at(&root));
        }
        if !roots.iter().any(|above| root.starts_with(above)) {
            roots.push(root);
        }
    }
    Ok((base, roots))
}

/// Writes what `spec` names to `out`.
pub(super) fn save(spec: &TreeSpec, out: impl Write, task: &Task) -> Result<(), Fault> {
    let (base, roots) = plan(spec)?;
    let mut saver = Saver {
        out: Writer::new(out),
        base: &base,
        exclude: &spec.exclude,
        owners: Owners::load(),
        links: HashMap::new(),
        notes: Vec::new(),
    };
    for root in &roots {
        if saver.excluded(root) || root.symlink_metadata().is_err_and(|error| gone(&error)) {
            continue;
        }
        walk(root, task, &mut saver)?;
    }
    let Saver { out, notes, .. } = saver;
    out.finish(&notes)?;
    Ok(())
}

fn gone(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

struct Saver<'a, W> {
    out: Writer<W>,
    base: &'a Path,
    exclude: &'a [PathBuf],
    owners: Owners,
    /// Files with several names: device and inode, and the first name stored.
    links: HashMap<(u64, u64), PathBuf>,
    notes: Vec<String>,
}

impl<W> Saver<'_, W> {
    fn excluded(&self, path: &Path) -> bool {
        self.exclude.iter().any(|exclude| path.starts_with(exclude))
    }

    fn note(&mut self, path: &Path, what: &str) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(format!("{}: {what}", path.display()));
        } else if self.notes.len() == MAX_NOTES {
            self.notes.push("and more".to_owned());
        }
    }
}

impl<W: Write> Visitor for Saver<'_, W> {
    fn visit(&mut self, found: &Found<'_>) -> Result<bool, Fault> {
        if self.excluded(found.path) {
            return Ok(false);
        }
        let path = found.path.strip_prefix(self.base).unwrap_or(found.path).to_owned();
        if path.as_os_str().is_empty() && found.kind != FileKind::Directory {
            return Err(Fault::unexpected(
                "names in the stream would begin at what is no directory",
            ));
        }
        let attributes = at::attributes(found.handle, found.metadata, &self.owners)?;
        let mut member = Member {
            path,
            kind: Kind::Directory,
            uid: attributes.uid,
            gid: attributes.gid,
            owner: attributes.owner.unwrap_or_default(),
            group: attributes.group.unwrap_or_default(),
            mode: attributes.mode,
            modified: at::modified(found.metadata),
            xattrs: attributes.xattrs,
        };
        match found.kind {
            FileKind::Directory => self.out.append(&member)?,
            FileKind::Symlink => {
                member.kind = Kind::Symlink(at::target(found.handle)?);
                self.out.append(&member)?;
            }
            FileKind::File => self.file(found, member)?,
            FileKind::Other => {
                self.note(found.path, "left out: it is a socket, device or pipe");
            }
        }
        Ok(true)
    }

    fn vanished(&mut self, path: &Path) -> Result<(), Fault> {
        self.note(path, "left out: it was removed meanwhile");
        Ok(())
    }
}

impl<W: Write> Saver<'_, W> {
    fn file(&mut self, found: &Found<'_>, mut member: Member) -> Result<(), Fault> {
        if found.metadata.nlink() > 1 {
            let inode = (found.metadata.dev(), found.metadata.ino());
            if let Some(first) = self.links.get(&inode) {
                member.kind = Kind::HardLink(first.clone());
                return Ok(self.out.append(&member)?);
            }
            self.links.insert(inode, member.path.clone());
        }
        let file = at::reopen(found.handle)?;
        let before = file.metadata()?;
        let size = before.len();
        member.modified = at::modified(&before);
        member.kind = Kind::File { size, extents: sparse::extents(&file, size) };
        let outcome = self.out.append_file(&member, &file)?;
        let after = file.metadata()?;
        let time = |data: &std::fs::Metadata| (data.mtime(), data.mtime_nsec());
        if let Outcome::Padded(missing) = outcome {
            let what = format!("changed while it was read: {missing} bytes were gone, now zeros");
            self.note(found.path, &what);
        } else if after.len() != size {
            let what = format!("changed while it was read: cut to the {size} bytes it had");
            self.note(found.path, &what);
        } else if time(&before) != time(&after) {
            self.note(found.path, "changed while it was read");
        }
        Ok(())
    }
}
