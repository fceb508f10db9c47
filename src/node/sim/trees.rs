//! Trees of a simulated machine as archives, in and out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::archive::{Extent, Kind, Member, Reader, Writer};
use super::super::{FileKind, NodeErrorKind, TreeSpec};
use super::Fault;
use super::files::{Inode, Tree, plain};

/// A file in a stream for a simulation is at most so large.
const MAX_FILE: u64 = 64 << 20;

fn unexpected(why: impl std::fmt::Display) -> Fault {
    Fault::new(NodeErrorKind::Unexpected, why.to_string())
}

/// The stream of what `spec` names.
pub(super) fn save(tree: &Tree, spec: &TreeSpec) -> Result<Vec<u8>, Fault> {
    let base = spec.base.clone().unwrap_or_else(|| PathBuf::from("/"));
    let mut notes = Vec::new();
    let mut wanted: BTreeMap<PathBuf, &Inode> = BTreeMap::new();
    for root in &spec.roots {
        if !root.starts_with(&base) {
            return Err(unexpected(format!("{} is not below the base", root.display())));
        }
        let root = match tree.resolve(root) {
            Err(fault) if fault.kind != NodeErrorKind::NotFound => return Err(fault),
            Ok(root) if tree.now.contains_key(&root) => root,
            _ => {
                notes.push(format!("{}: nothing stands there", root.display()));
                continue;
            }
        };
        let below = tree.now.range(root.clone()..).take_while(|(path, _)| path.starts_with(&root));
        let kept = below.filter(|(path, inode)| {
            inode.kind != FileKind::Other && !spec.exclude.iter().any(|out| path.starts_with(out))
        });
        wanted.extend(kept.map(|(path, inode)| (path.clone(), inode)));
    }
    let mut writer = Writer::new(Vec::new());
    for (path, inode) in wanted {
        let size = inode.bytes.len() as u64;
        let kind = match (&inode.target, inode.kind) {
            (Some(target), _) => Kind::Symlink(target.clone()),
            (None, FileKind::Directory) => Kind::Directory,
            (None, _) if size == 0 => Kind::File { size, extents: Vec::new() },
            (None, _) => Kind::File { size, extents: vec![Extent { offset: 0, length: size }] },
        };
        let attributes = &inode.attributes;
        let member = Member {
            path: path.strip_prefix(&base).unwrap_or(&path).to_owned(),
            kind,
            uid: attributes.uid,
            gid: attributes.gid,
            owner: attributes.owner.clone().unwrap_or_default(),
            group: attributes.group.clone().unwrap_or_default(),
            mode: attributes.mode,
            modified: inode.modified,
            xattrs: attributes.xattrs.clone(),
        };
        let done = match member.kind {
            Kind::File { .. } => writer.append_file(&member, &inode.bytes.as_slice()).map(|_| ()),
            _ => writer.append(&member),
        };
        done.map_err(unexpected)?;
    }
    writer.finish(&notes).map_err(unexpected)
}

/// What a stream holds, by names below its root; refused as a whole or taken.
pub(super) fn read(tar: &[u8], now: i128) -> Result<BTreeMap<PathBuf, Inode>, Fault> {
    let mut reader = Reader::new(tar);
    let root = Inode { attributes: plain(0, 0, 0o700), ..super::files::directory(now) };
    let mut found = BTreeMap::from([(PathBuf::new(), root)]);
    let mut seen_root = false;
    while let Some(member) = reader.next_member().map_err(unexpected)? {
        let path = member.path.clone();
        for above in path.ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
            match found.get(above) {
                Some(inode) if inode.kind == FileKind::Directory => {}
                Some(_) => return Err(unexpected("a member lies below what is no directory")),
                None => {
                    let made = super::files::directory(now);
                    found.insert(above.to_owned(), made);
                }
            }
        }
        let is_root = path.as_os_str().is_empty();
        let (kind, bytes, target) = match &member.kind {
            Kind::Directory => (FileKind::Directory, Vec::new(), None),
            Kind::Symlink(target) => (FileKind::Symlink, Vec::new(), Some(target.clone())),
            Kind::File { size, .. } => {
                let whole = reader.read_whole(*size, MAX_FILE).map_err(unexpected)?;
                let bytes = whole.ok_or_else(|| unexpected("a file is too large"))?;
                (FileKind::File, bytes, None)
            }
            Kind::HardLink(other) => match found.get(other) {
                Some(inode) if inode.kind == FileKind::File => {
                    let inode = inode.clone();
                    if found.insert(path, inode).is_some() {
                        return Err(unexpected("a member comes twice"));
                    }
                    continue;
                }
                _ => return Err(unexpected("a hard link leads to no file before it")),
            },
        };
        if is_root && kind != FileKind::Directory {
            return Err(unexpected("the root is no directory"));
        }
        // A directory may have been made for what lies below it.
        let again = found.get(&path).is_some_and(|there| {
            there.kind != FileKind::Directory || kind != FileKind::Directory || is_root && seen_root
        });
        if again {
            return Err(unexpected("a member comes twice"));
        }
        seen_root |= is_root;
        let attributes = super::super::Attributes {
            uid: member.uid,
            gid: member.gid,
            owner: None,
            group: None,
            mode: member.mode,
            xattrs: member.xattrs.clone(),
        };
        found.insert(path, Inode { kind, bytes, attributes, modified: member.modified, target });
    }
    Ok(found)
}

/// Puts what [`read`] found at `root`, where nothing may stand.
pub(super) fn unpack(
    tree: &mut Tree,
    root: &Path,
    found: BTreeMap<PathBuf, Inode>,
) -> Result<(), Fault> {
    let root = tree.place(root)?;
    let size = found.values().map(|inode| inode.bytes.len()).sum();
    tree.writable(&root, size)?;
    for (path, inode) in found {
        let path = if path.as_os_str().is_empty() { root.clone() } else { root.join(path) };
        tree.put(path, inode, true);
    }
    Ok(())
}
