//! Files in memory, what is durable kept apart from what is not.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::super::{
    Attributes, Entry, FileKind, LinkHow, Mount, NodeErrorKind, SetHow, Space, TreeDigest,
    WriteHow, WriteLike,
};
use super::Fault;

const BLOCK: usize = 64 << 10;

/// A path leads through at most so many links, as in Linux.
const MAX_LINKS: usize = 40;

/// Something with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Inode {
    pub(super) kind: FileKind,
    pub(super) bytes: Vec<u8>,
    pub(super) attributes: Attributes,
    pub(super) modified: i128,
    pub(super) target: Option<PathBuf>,
}

/// A mounted file system with its room.
#[derive(Debug, Clone)]
pub(super) struct Volume {
    pub(super) mount: Mount,
    pub(super) total: u64,
    pub(super) device: u64,
}

type Names = BTreeMap<PathBuf, Inode>;

/// A node's files. Paths compare by their components, so what is below a directory
/// follows it without a gap.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    pub(super) now: Names,
    durable: Names,
    pub(super) volumes: Vec<Volume>,
    /// Grows with every change outside `/var`: what systemd and the kubelet look at lies
    /// elsewhere.
    pub(super) changes: u64,
}

fn fault<T>(kind: NodeErrorKind, why: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::new(kind, why))
}

fn below<'a>(names: &'a Names, root: &'a Path) -> impl Iterator<Item = (&'a PathBuf, &'a Inode)> {
    names.range(root.to_owned()..).take_while(move |(path, _)| path.starts_with(root))
}

pub(super) fn plain(uid: u32, gid: u32, mode: u32) -> Attributes {
    Attributes { uid, gid, owner: None, group: None, mode, xattrs: BTreeMap::new() }
}

impl Tree {
    pub(super) fn new(total: u64) -> Self {
        let mut tree =
            Self { now: Names::new(), durable: Names::new(), volumes: Vec::new(), changes: 0 };
        tree.mount(Path::new("/"), total);
        tree.put(PathBuf::from("/"), directory(0), true);
        tree
    }

    pub(super) fn mount(&mut self, point: &Path, total: u64) {
        let mount = Mount {
            point: point.to_owned(),
            fs_type: "ext4".to_owned(),
            source: format!("/dev/sim{}", self.volumes.len()),
            read_only: false,
        };
        let device = self.volumes.len() as u64 + 1;
        self.volumes.push(Volume { mount, total, device });
    }

    /// What the power cut left.
    pub(super) fn crash(&mut self) {
        self.now = self.durable.clone();
        self.changes += 1;
    }

    pub(super) fn put(&mut self, path: PathBuf, inode: Inode, synced: bool) {
        if synced {
            self.durable.insert(path.clone(), inode.clone());
        }
        self.touched(&path);
        self.now.insert(path, inode);
    }

    fn take(&mut self, path: &Path) {
        self.now.remove(path);
        self.durable.remove(path);
        self.touched(path);
    }

    fn touched(&mut self, path: &Path) {
        self.changes += u64::from(!path.starts_with("/var"));
    }

    /// Makes everything below `path` durable.
    pub(super) fn sync(&mut self, path: &Path) {
        let gone: Vec<PathBuf> = below(&self.durable, path).map(|(p, _)| p.clone()).collect();
        for path in gone {
            self.durable.remove(&path);
        }
        let there: Vec<_> = below(&self.now, path).map(|(p, i)| (p.clone(), i.clone())).collect();
        self.durable.extend(there);
    }

    fn volume_at(&self, path: &Path) -> usize {
        let found = self.volumes.iter().enumerate();
        let found = found.filter(|(_, volume)| path.starts_with(&volume.mount.point));
        found.max_by_key(|(_, v)| v.mount.point.components().count()).map_or(0, |(at, _)| at)
    }

    fn available(&self, volume: usize) -> u64 {
        let on = |path: &Path| self.volume_at(path) == volume;
        let used: usize = self.now.iter().filter(|(p, _)| on(p)).map(|(_, i)| i.bytes.len()).sum();
        self.volumes[volume].total.saturating_sub(used as u64)
    }

    pub(super) fn writable(&self, path: &Path, more: usize) -> Result<(), Fault> {
        let volume = self.volume_at(path);
        if self.volumes[volume].mount.read_only {
            return fault(NodeErrorKind::ReadOnly, "read-only file system");
        }
        if self.available(volume) < more as u64 {
            return fault(NodeErrorKind::NoSpace, "no space left on device");
        }
        Ok(())
    }

    /// The path without links on the way; the last part is not followed.
    pub(super) fn resolve(&self, path: &Path) -> Result<PathBuf, Fault> {
        let mut parts: Vec<OsString> = Vec::new();
        for component in path.components() {
            match component {
                Component::RootDir => {}
                Component::Normal(name) => parts.push(name.to_owned()),
                _ => return fault(NodeErrorKind::Unexpected, "it is not a plain absolute path"),
            }
        }
        if !path.is_absolute() {
            return fault(NodeErrorKind::Unexpected, "it is not a plain absolute path");
        }
        parts.reverse();
        let (mut at, mut links) = (PathBuf::from("/"), 0);
        while let Some(part) = parts.pop() {
            if part == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&part);
            if parts.is_empty() {
                return Ok(next);
            }
            match self.now.get(&next) {
                None => return fault(NodeErrorKind::NotFound, "no such file or directory"),
                Some(inode) if inode.kind == FileKind::Directory => at = next,
                Some(Inode { target: Some(target), .. }) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return fault(NodeErrorKind::Unexpected, "too many links");
                    }
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    let names = target.components().filter_map(|part| match part {
                        Component::Normal(name) => Some(name.to_owned()),
                        Component::ParentDir => Some("..".into()),
                        _ => None,
                    });
                    let names: Vec<OsString> = names.collect();
                    parts.extend(names.into_iter().rev());
                }
                Some(_) => return fault(NodeErrorKind::Unexpected, "not a directory"),
            }
        }
        Ok(at)
    }

    fn existing(&self, path: &Path) -> Result<(PathBuf, &Inode), Fault> {
        let path = self.resolve(path)?;
        match self.now.get(&path) {
            Some(inode) => Ok((path, inode)),
            None => fault(NodeErrorKind::NotFound, "nothing stands there"),
        }
    }

    fn file(&self, path: &Path) -> Result<(PathBuf, &Inode), Fault> {
        let (path, inode) = self.existing(path)?;
        match inode.kind {
            FileKind::File => Ok((path, inode)),
            _ => fault(NodeErrorKind::Unexpected, "no regular file stands there"),
        }
    }

    /// A place for something new: nothing stands there, and its directory does.
    pub(super) fn place(&self, path: &Path) -> Result<PathBuf, Fault> {
        let path = self.resolve(path)?;
        if self.now.contains_key(&path) {
            return fault(NodeErrorKind::AlreadyExists, "something stands there already");
        }
        match path.parent().and_then(|parent| self.now.get(parent)) {
            Some(inode) if inode.kind == FileKind::Directory => Ok(path),
            Some(_) => fault(NodeErrorKind::Unexpected, "not a directory"),
            None => fault(NodeErrorKind::NotFound, "no such directory"),
        }
    }

    fn entry(&self, shown: &Path, path: &Path, inode: &Inode) -> Entry {
        Entry {
            path: shown.to_owned(),
            kind: inode.kind,
            size: inode.bytes.len() as u64,
            modified: inode.modified,
            attributes: inode.attributes.clone(),
            target: inode.target.clone(),
            mount_point: self.volumes.iter().any(|volume| volume.mount.point == *path),
        }
    }

    pub(super) fn stat(&self, path: &Path) -> Result<Option<Entry>, Fault> {
        let resolved = match self.resolve(path) {
            Ok(path) => path,
            Err(error) if error.kind == NodeErrorKind::NotFound => return Ok(None),
            Err(_) if self.stands_below_a_file(path) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(self.now.get(&resolved).map(|inode| self.entry(path, &resolved, inode)))
    }

    fn stands_below_a_file(&self, path: &Path) -> bool {
        let plain = path.components().all(|part| !matches!(part, Component::ParentDir));
        let above = path.ancestors().skip(1).find_map(|above| self.now.get(above));
        path.is_absolute() && plain && above.is_some_and(|above| above.kind == FileKind::File)
    }

    pub(super) fn list(&self, path: &Path) -> Result<Vec<Entry>, Fault> {
        let (resolved, inode) = self.existing(path)?;
        if inode.kind != FileKind::Directory {
            return fault(NodeErrorKind::Unexpected, "no directory stands there");
        }
        let inside = below(&self.now, &resolved).filter(|(p, _)| p.parent() == Some(&resolved));
        let shown = |p: &Path| path.join(p.file_name().unwrap_or_default());
        Ok(inside.map(|(p, inode)| self.entry(&shown(p), p, inode)).collect())
    }

    pub(super) fn read(&self, path: &Path, limit: u64) -> Result<(Entry, Vec<u8>), Fault> {
        let (resolved, inode) = self.file(path)?;
        if inode.bytes.len() as u64 > limit {
            let why = format!("it has {} bytes, more than {limit}", inode.bytes.len());
            return fault(NodeErrorKind::Unexpected, why);
        }
        Ok((self.entry(path, &resolved, inode), inode.bytes.clone()))
    }

    fn like(&self, path: &Path, like: &WriteLike) -> Result<Attributes, Fault> {
        let other = match like {
            WriteLike::Attributes(attributes) => return Ok(attributes.clone()),
            WriteLike::Itself => path,
            WriteLike::Path(other) => other,
        };
        let (_, inode) = self.existing(other)?;
        match inode.kind {
            FileKind::Symlink => fault(NodeErrorKind::Unexpected, "a link has no mode to take"),
            _ => Ok(inode.attributes.clone()),
        }
    }

    fn check_hash(&self, path: &Path, expected: [u8; 32]) -> Result<PathBuf, Fault> {
        let (path, inode) = self.file(path)?;
        let found: [u8; 32] = Sha256::digest(&inode.bytes).into();
        if found == expected {
            Ok(path)
        } else {
            fault(NodeErrorKind::Unexpected, "its content is not what was expected")
        }
    }

    pub(super) fn write(
        &mut self,
        path: &Path,
        bytes: &[u8],
        how: &WriteHow,
        now: i128,
    ) -> Result<(), Fault> {
        let place = match how.replaces {
            None => self.place(path)?,
            Some(expected) => self.check_hash(path, expected)?,
        };
        let attributes = self.like(path, &how.like)?;
        // The old content stays until the rename, so both need room.
        self.writable(&place, bytes.len())?;
        let (kind, target) = (FileKind::File, None);
        let inode = Inode { kind, bytes: bytes.to_vec(), attributes, modified: now, target };
        self.put(place, inode, true);
        Ok(())
    }

    pub(super) fn make_dir(
        &mut self,
        path: &Path,
        like: &WriteLike,
        now: i128,
    ) -> Result<(), Fault> {
        let place = self.place(path)?;
        let attributes = self.like(path, like)?;
        self.writable(&place, 0)?;
        self.put(place, Inode { attributes, ..directory(now) }, true);
        Ok(())
    }

    pub(super) fn make_link(&mut self, path: &Path, how: &LinkHow, now: i128) -> Result<(), Fault> {
        if how.target.as_os_str().is_empty() || how.target.as_os_str().as_bytes().contains(&0) {
            return fault(NodeErrorKind::Unexpected, "it is no target of a link");
        }
        let place = match &how.replaces {
            None => self.place(path)?,
            Some(expected) => self.check_target(path, expected)?,
        };
        self.writable(&place, 0)?;
        // A link has no mode of its own.
        let attributes = Attributes { mode: 0o777, ..how.attributes.clone() };
        let inode = Inode {
            kind: FileKind::Symlink,
            bytes: Vec::new(),
            attributes,
            modified: how.modified.unwrap_or(now),
            target: Some(how.target.clone()),
        };
        self.put(place, inode, true);
        Ok(())
    }

    fn check_target(&self, path: &Path, expected: &Path) -> Result<PathBuf, Fault> {
        let (path, inode) = self.existing(path)?;
        match &inode.target {
            Some(target) if target.as_os_str() == expected.as_os_str() => Ok(path),
            Some(_) => fault(NodeErrorKind::Unexpected, "it leads elsewhere than was expected"),
            None => fault(NodeErrorKind::Unexpected, "no link stands there"),
        }
    }

    pub(super) fn set(&mut self, path: &Path, how: &SetHow) -> Result<(), Fault> {
        let (path, inode) = self.existing(path)?;
        if inode.kind != how.kind || !matches!(how.kind, FileKind::File | FileKind::Directory) {
            return fault(NodeErrorKind::Unexpected, "something else stands there");
        }
        self.writable(&path, 0)?;
        let mut inode = inode.clone();
        if let Some(attributes) = &how.attributes {
            inode.attributes = attributes.clone();
        }
        if let Some(modified) = how.modified {
            inode.modified = modified;
        }
        self.put(path, inode, true);
        Ok(())
    }

    pub(super) fn remove_link(&mut self, path: &Path, target: &Path) -> Result<(), Fault> {
        let path = self.check_target(path, target)?;
        self.writable(&path, 0)?;
        self.take(&path);
        Ok(())
    }

    pub(super) fn remove_dir(&mut self, path: &Path) -> Result<(), Fault> {
        let (path, inode) = self.existing(path)?;
        if inode.kind != FileKind::Directory || path == Path::new("/") {
            return fault(NodeErrorKind::Unexpected, "no directory stands there");
        }
        if self.volumes.iter().any(|volume| volume.mount.point == path) {
            return fault(NodeErrorKind::Other, "device or resource busy");
        }
        if below(&self.now, &path).nth(1).is_some() {
            return fault(NodeErrorKind::AlreadyExists, "directory not empty");
        }
        self.writable(&path, 0)?;
        self.take(&path);
        Ok(())
    }

    pub(super) fn remove_own_tree(&mut self, path: &Path, expected: [u8; 32]) -> Result<(), Fault> {
        if self.digest(path)?.sha256 != expected {
            return fault(NodeErrorKind::Unexpected, "it is not what was expected");
        }
        let (path, _) = self.existing(path)?;
        if path == Path::new("/") {
            return fault(NodeErrorKind::Unexpected, "the root directory cannot be removed");
        }
        self.writable(&path, 0)?;
        self.touched(&path);
        for names in [&mut self.now, &mut self.durable] {
            let gone: Vec<PathBuf> = below(names, &path).map(|(p, _)| p.clone()).collect();
            for path in gone {
                names.remove(&path);
            }
        }
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> Result<(), Fault> {
        let (from, _) = self.existing(from)?;
        let to = self.resolve(to)?;
        if to.starts_with(&from) && to != from {
            return fault(NodeErrorKind::Unexpected, "a directory cannot be moved below itself");
        }
        let to = self.place(&to)?;
        self.writable(&from, 0)?;
        self.writable(&to, 0)?;
        if self.volumes.iter().any(|volume| volume.mount.point == from) {
            return fault(NodeErrorKind::Other, "device or resource busy");
        }
        if self.volume_at(&from) != self.volume_at(&to) {
            return fault(NodeErrorKind::Unsupported, "the two are on different file systems");
        }
        self.touched(&from);
        self.touched(&to);
        for names in [&mut self.now, &mut self.durable] {
            let moved: Vec<PathBuf> = below(names, &from).map(|(p, _)| p.clone()).collect();
            for old in moved {
                let Some(inode) = names.remove(&old) else { continue };
                let new = match old.strip_prefix(&from) {
                    Ok(rest) if !rest.as_os_str().is_empty() => to.join(rest),
                    _ => to.clone(),
                };
                names.insert(new, inode);
            }
        }
        Ok(())
    }

    pub(super) fn remove_own(&mut self, path: &Path, expected: [u8; 32]) -> Result<(), Fault> {
        let path = self.check_hash(path, expected)?;
        self.writable(&path, 0)?;
        self.take(&path);
        Ok(())
    }

    /// Removes a link, durably.
    pub(super) fn unlink(&mut self, path: &Path) {
        if let Ok(path) = self.resolve(path) {
            self.take(&path);
        }
    }

    /// In the format of a real node's digest.
    pub(super) fn digest(&self, root: &Path) -> Result<TreeDigest, Fault> {
        let (root, _) = self.existing(root)?;
        let mut sha = Sha256::new();
        sha.update(b"etcdvault tree 1\n");
        let (mut entries, mut size) = (0, 0);
        for (path, inode) in below(&self.now, &root) {
            entries += 1;
            sha.update(match inode.kind {
                FileKind::File => b"f",
                FileKind::Directory => b"d",
                FileKind::Symlink => b"l",
                FileKind::Other => b"o",
            });
            let name = path.strip_prefix(&root).unwrap_or(path);
            text(&mut sha, name.as_os_str().as_bytes());
            let attributes = &inode.attributes;
            let mode = if inode.kind == FileKind::Symlink { 0 } else { attributes.mode };
            for number in [attributes.uid, attributes.gid, mode] {
                sha.update(number.to_le_bytes());
            }
            sha.update((attributes.xattrs.len() as u32).to_le_bytes());
            for (name, value) in &attributes.xattrs {
                text(&mut sha, name.as_bytes());
                text(&mut sha, value);
            }
            if inode.kind == FileKind::File {
                size += inode.bytes.len() as u64;
                sha.update((inode.bytes.len() as u64).to_le_bytes());
                sha.update(content(&inode.bytes));
            }
            if let Some(target) = &inode.target {
                text(&mut sha, target.as_os_str().as_bytes());
            }
        }
        Ok(TreeDigest { sha256: sha.finalize().into(), entries, bytes: size })
    }

    pub(super) fn space(&self, path: &Path) -> Result<Space, Fault> {
        let (path, _) = self.existing(path)?;
        let at = self.volume_at(&path);
        let volume = &self.volumes[at];
        Ok(Space {
            available: self.available(at),
            total: volume.total,
            read_only: volume.mount.read_only,
            device: volume.device,
        })
    }

    /// A regular file's text, links on the way followed; nothing where there is none.
    pub(super) fn text(&self, path: &Path) -> Option<String> {
        let (_, inode) = self.file(path).ok()?;
        Some(String::from_utf8_lossy(&inode.bytes).into_owned())
    }

    /// The names directly below a directory that hold regular files.
    pub(super) fn files_in(&self, path: &Path) -> Vec<PathBuf> {
        let listed = self.list(path).unwrap_or_default();
        listed.into_iter().filter(|e| e.kind == FileKind::File).map(|entry| entry.path).collect()
    }
}

pub(super) fn directory(now: i128) -> Inode {
    Inode {
        kind: FileKind::Directory,
        bytes: Vec::new(),
        attributes: plain(0, 0, 0o755),
        modified: now,
        target: None,
    }
}

fn text(sha: &mut Sha256, text: &[u8]) {
    sha.update((text.len() as u32).to_le_bytes());
    sha.update(text);
}

fn content(bytes: &[u8]) -> [u8; 32] {
    let mut sha = Sha256::new();
    for (number, block) in (0u64..).zip(bytes.chunks(BLOCK)) {
        if block.iter().any(|byte| *byte != 0) {
            let mut whole = block.to_vec();
            whole.resize(BLOCK, 0);
            sha.update(number.to_le_bytes());
            sha.update(&whole);
        }
    }
    sha.finalize().into()
}
