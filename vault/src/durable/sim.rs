//! A file system in memory that keeps what is durable apart from what is not.
//!
//! Content becomes durable by a sync of the file, names by a sync of their
//! directory, and nothing else. [`SimFs::fail_at`] makes the n-th call and every
//! one after it fail, as if the machine had stopped there; [`SimFs::after_crash`]
//! gives the file system that a reboot would find. There is no symbolic link.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::{DirEntry, File, FileSystem, FileType, Metadata};

/// What becomes of changes that were not synced before a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsynced {
    /// All are lost.
    Lost,
    /// All are kept.
    Kept,
    /// Names are kept, and contents cut in the middle of what was not synced: a
    /// rename that overtook its data.
    Torn,
    /// Contents are kept and names are lost.
    Unnamed,
    /// Every second file and directory keeps its changes, counted from this.
    Mixed(u64),
}

impl Unsynced {
    /// The cases that a test should go through.
    pub const ALL: [Self; 6] =
        [Self::Lost, Self::Kept, Self::Torn, Self::Unnamed, Self::Mixed(0), Self::Mixed(1)];
}

type Inode = u64;
type Names = BTreeMap<OsString, Inode>;
const ROOT: Inode = 0;

#[derive(Debug, Clone, Default)]
struct Content {
    bytes: Vec<u8>,
}

#[derive(Debug, Clone)]
enum Body {
    File { now: Content, durable: Content },
    Directory { now: Names, durable: Names },
}

#[derive(Debug, Clone)]
struct Node {
    body: Body,
    mode: u32,
    uid: u32,
    gid: u32,
    modified: SystemTime,
}

#[derive(Debug)]
struct State {
    nodes: BTreeMap<Inode, Node>,
    next: Inode,
    calls: u64,
    fail_at: Option<u64>,
    failed: bool,
    capacity: u64,
}

/// See the module's documentation. Clones are the same file system.
#[derive(Debug, Clone)]
pub struct SimFs {
    state: Arc<Mutex<State>>,
}

impl Default for SimFs {
    fn default() -> Self {
        Self::new()
    }
}

fn error(kind: io::ErrorKind) -> io::Error {
    io::Error::from(kind)
}

impl SimFs {
    /// An empty file system.
    pub fn new() -> Self {
        let root = Node {
            body: Body::Directory { now: Names::new(), durable: Names::new() },
            mode: 0o755,
            uid: 0,
            gid: 0,
            modified: SystemTime::UNIX_EPOCH,
        };
        Self::from_nodes(BTreeMap::from([(ROOT, root)]), ROOT + 1)
    }

    fn from_nodes(nodes: BTreeMap<Inode, Node>, next: Inode) -> Self {
        let state =
            State { nodes, next, calls: 0, fail_at: None, failed: false, capacity: u64::MAX };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of calls that changed something or could have, so far: of
    /// files as well.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// From the `number`-th such call on, counted from 1, every call fails.
    pub fn fail_at(&self, number: u64) {
        self.lock().fail_at = Some(number);
    }

    /// Whether that call has come.
    pub fn has_failed(&self) -> bool {
        self.lock().failed
    }

    /// Bounds the bytes in all files; beyond, writing fails with
    /// [`io::ErrorKind::StorageFull`].
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().capacity = bytes;
    }

    /// What a reboot would find, everything in it durable.
    pub fn after_crash(&self, unsynced: Unsynced) -> Self {
        let state = self.lock();
        let keeps = |inode: Inode| match unsynced {
            Unsynced::Mixed(first) => inode % 2 == first % 2,
            _ => false,
        };
        let mut nodes = state.nodes.clone();
        for (&inode, node) in &mut nodes {
            match &mut node.body {
                Body::File { now, durable } => {
                    match unsynced {
                        Unsynced::Kept | Unsynced::Unnamed => *durable = now.clone(),
                        Unsynced::Torn if now.bytes != durable.bytes => {
                            let same = now.bytes.iter().zip(&durable.bytes);
                            let same = same.take_while(|(a, b)| a == b).count();
                            let cut = same + (now.bytes.len() - same) / 2;
                            durable.bytes = now.bytes[..cut].to_vec();
                        }
                        Unsynced::Mixed(_) if keeps(inode) => *durable = now.clone(),
                        _ => {}
                    }
                    *now = durable.clone();
                }
                Body::Directory { now, durable } => {
                    if matches!(unsynced, Unsynced::Kept | Unsynced::Torn) || keeps(inode) {
                        *durable = now.clone();
                    }
                    *now = durable.clone();
                }
            }
        }
        Self::from_nodes(nodes, state.next)
    }
}

impl State {
    /// Counts a call that changes something.
    fn step(&mut self) -> io::Result<()> {
        self.calls += 1;
        if self.fail_at.is_some_and(|at| self.calls >= at) {
            self.failed = true;
        }
        self.alive()
    }

    fn alive(&self) -> io::Result<()> {
        if self.failed { Err(io::Error::other("simulated crash")) } else { Ok(()) }
    }

    fn resolve(&self, path: &Path) -> io::Result<Inode> {
        path.components().try_fold(ROOT, |inode, component| match component {
            Component::RootDir | Component::CurDir => Ok(inode),
            Component::Normal(name) => {
                self.names(inode)?.get(name).copied().ok_or_else(|| error(io::ErrorKind::NotFound))
            }
            Component::ParentDir | Component::Prefix(_) => Err(error(io::ErrorKind::InvalidInput)),
        })
    }

    /// The directory and the name of `path`.
    fn place<'p>(&self, path: &'p Path) -> io::Result<(Inode, &'p OsStr)> {
        let name = path.file_name().ok_or_else(|| error(io::ErrorKind::InvalidInput))?;
        let directory = self.resolve(super::parent(path))?;
        self.names(directory)?;
        Ok((directory, name))
    }

    fn node(&self, inode: Inode) -> io::Result<&Node> {
        self.nodes.get(&inode).ok_or_else(|| error(io::ErrorKind::NotFound))
    }

    fn node_mut(&mut self, inode: Inode) -> io::Result<&mut Node> {
        self.nodes.get_mut(&inode).ok_or_else(|| error(io::ErrorKind::NotFound))
    }

    fn names(&self, inode: Inode) -> io::Result<&Names> {
        match &self.node(inode)?.body {
            Body::Directory { now, .. } => Ok(now),
            Body::File { .. } => Err(error(io::ErrorKind::NotADirectory)),
        }
    }

    fn names_mut(&mut self, inode: Inode) -> io::Result<&mut Names> {
        match &mut self.node_mut(inode)?.body {
            Body::Directory { now, .. } => Ok(now),
            Body::File { .. } => Err(error(io::ErrorKind::NotADirectory)),
        }
    }

    fn content(&self, inode: Inode) -> io::Result<&Content> {
        match &self.node(inode)?.body {
            Body::File { now, .. } => Ok(now),
            Body::Directory { .. } => Err(error(io::ErrorKind::InvalidInput)),
        }
    }

    fn content_mut(&mut self, inode: Inode) -> io::Result<&mut Content> {
        let node = self.node_mut(inode)?;
        node.modified = SystemTime::now();
        match &mut node.body {
            Body::File { now, .. } => Ok(now),
            Body::Directory { .. } => Err(error(io::ErrorKind::InvalidInput)),
        }
    }

    fn used(&self) -> u64 {
        self.nodes
            .values()
            .map(|node| match &node.body {
                Body::File { now, .. } => now.bytes.len() as u64,
                Body::Directory { .. } => 0,
            })
            .sum()
    }

    fn grow(&mut self, inode: Inode, size: usize) -> io::Result<()> {
        let before = self.content(inode)?.bytes.len();
        let more = size.saturating_sub(before) as u64;
        if more > 0 && self.capacity.saturating_sub(self.used()) < more {
            return Err(error(io::ErrorKind::StorageFull));
        }
        self.content_mut(inode)?.bytes.resize(size.max(before), 0);
        Ok(())
    }

    fn write(&mut self, inode: Inode, offset: u64, data: &[u8]) -> io::Result<()> {
        self.step()?;
        let start = usize::try_from(offset).map_err(|_| error(io::ErrorKind::FileTooLarge))?;
        let end =
            start.checked_add(data.len()).ok_or_else(|| error(io::ErrorKind::FileTooLarge))?;
        self.grow(inode, end)?;
        self.content_mut(inode)?.bytes[start..end].copy_from_slice(data);
        Ok(())
    }

    fn add(&mut self, path: &Path, body: Body, mode: u32) -> io::Result<Inode> {
        let (directory, name) = self.place(path)?;
        if self.names(directory)?.contains_key(name) {
            return Err(error(io::ErrorKind::AlreadyExists));
        }
        let inode = self.next;
        self.next += 1;
        let modified = SystemTime::now();
        self.nodes.insert(inode, Node { body, mode, uid: 0, gid: 0, modified });
        self.names_mut(directory)?.insert(name.to_owned(), inode);
        Ok(inode)
    }

    fn rename(&mut self, from: &Path, to: &Path, replace: bool) -> io::Result<()> {
        let (from_directory, from_name) = self.place(from)?;
        let (to_directory, to_name) = self.place(to)?;
        let missing = || error(io::ErrorKind::NotFound);
        let inode = *self.names(from_directory)?.get(from_name).ok_or_else(missing)?;
        if to.starts_with(from) && to != from {
            return Err(error(io::ErrorKind::InvalidInput));
        }
        if let Some(&there) = self.names(to_directory)?.get(to_name) {
            if !replace {
                return Err(error(io::ErrorKind::AlreadyExists));
            }
            match (&self.node(inode)?.body, &self.node(there)?.body) {
                (Body::File { .. }, Body::File { .. }) => {}
                (Body::Directory { .. }, Body::Directory { now, .. }) if now.is_empty() => {}
                (Body::Directory { .. }, Body::Directory { .. }) => {
                    return Err(error(io::ErrorKind::DirectoryNotEmpty));
                }
                (Body::File { .. }, Body::Directory { .. }) => {
                    return Err(error(io::ErrorKind::IsADirectory));
                }
                (Body::Directory { .. }, Body::File { .. }) => {
                    return Err(error(io::ErrorKind::NotADirectory));
                }
            }
        }
        self.names_mut(from_directory)?.remove(from_name);
        self.names_mut(to_directory)?.insert(to_name.to_owned(), inode);
        Ok(())
    }

    fn sync(&mut self, inode: Inode) -> io::Result<()> {
        self.step()?;
        match &mut self.node_mut(inode)?.body {
            Body::File { now, durable } => durable.clone_from(now),
            Body::Directory { now, durable } => durable.clone_from(now),
        }
        Ok(())
    }
}

impl FileSystem for SimFs {
    fn create_new(&self, path: &Path, mode: u32) -> io::Result<Box<dyn File>> {
        let mut state = self.lock();
        state.step()?;
        let body = Body::File { now: Content::default(), durable: Content::default() };
        let inode = state.add(path, body, mode)?;
        Ok(Box::new(SimFile { fs: self.clone(), inode, at: 0, writable: true }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let state = self.lock();
        state.alive()?;
        let inode = state.resolve(path)?;
        state.content(inode)?;
        Ok(Box::new(SimFile { fs: self.clone(), inode, at: 0, writable: false }))
    }

    fn open_write(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let state = self.lock();
        state.alive()?;
        let inode = state.resolve(path)?;
        state.content(inode)?;
        Ok(Box::new(SimFile { fs: self.clone(), inode, at: 0, writable: true }))
    }

    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        let mut state = self.lock();
        state.step()?;
        let body = Body::Directory { now: Names::new(), durable: Names::new() };
        state.add(path, body, mode).map(drop)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step()?;
        state.rename(from, to, true)
    }

    fn rename_no_replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step()?;
        state.rename(from, to, false)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step()?;
        let inode = state.resolve(path)?;
        if matches!(state.node(inode)?.body, Body::Directory { .. }) {
            return Err(error(io::ErrorKind::IsADirectory));
        }
        let (directory, name) = state.place(path)?;
        state.names_mut(directory)?.remove(name);
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step()?;
        let inode = state.resolve(path)?;
        if !state.names(inode)?.is_empty() {
            return Err(error(io::ErrorKind::DirectoryNotEmpty));
        }
        let (directory, name) = state.place(path)?;
        state.names_mut(directory)?.remove(name);
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        let inode = state.resolve(path)?;
        state.names(inode)?;
        state.sync(inode)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.lock();
        state.alive()?;
        let inode = state.resolve(path)?;
        let entries = state.names(inode)?.iter().map(|(name, inode)| {
            let file_type = match state.node(*inode)?.body {
                Body::File { .. } => FileType::File,
                Body::Directory { .. } => FileType::Directory,
            };
            Ok(DirEntry { name: name.clone(), file_type })
        });
        entries.collect()
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let state = self.lock();
        state.alive()?;
        let node = state.node(state.resolve(path)?)?;
        let (file_type, size) = match &node.body {
            Body::File { now, .. } => (FileType::File, now.bytes.len() as u64),
            Body::Directory { .. } => (FileType::Directory, 0),
        };
        let (mode, uid, gid) = (node.mode, node.uid, node.gid);
        Ok(Metadata { file_type, size, mode, uid, gid, modified: node.modified })
    }

    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        let mut state = self.lock();
        state.step()?;
        let inode = state.resolve(path)?;
        state.node_mut(inode)?.mode = mode;
        Ok(())
    }

    fn set_owner(&self, path: &Path, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        let mut state = self.lock();
        state.step()?;
        let inode = state.resolve(path)?;
        let node = state.node_mut(inode)?;
        node.uid = uid.unwrap_or(node.uid);
        node.gid = gid.unwrap_or(node.gid);
        Ok(())
    }

    fn available(&self, path: &Path) -> io::Result<u64> {
        let state = self.lock();
        state.alive()?;
        state.resolve(path)?;
        Ok(state.capacity.saturating_sub(state.used()))
    }
}

#[derive(Debug)]
struct SimFile {
    fs: SimFs,
    inode: Inode,
    at: u64,
    writable: bool,
}

impl SimFile {
    fn writable(&self) -> io::Result<()> {
        // What the operating system says to a write on a handle for reading (EBADF).
        if self.writable { Ok(()) } else { Err(rustix::io::Errno::BADF.into()) }
    }
}

impl File for SimFile {
    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.write_at(self.at, data)?;
        self.at += data.len() as u64;
        Ok(())
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.writable()?;
        self.fs.lock().write(self.inode, offset, data)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let state = self.fs.lock();
        state.alive()?;
        let bytes = &state.content(self.inode)?.bytes;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let take = buf.len().min(bytes.len() - start);
        buf[..take].copy_from_slice(&bytes[start..start + take]);
        Ok(take)
    }

    fn set_len(&mut self, size: u64) -> io::Result<()> {
        // EINVAL, as of a handle for reading.
        self.writable().map_err(|_| error(io::ErrorKind::InvalidInput))?;
        let mut state = self.fs.lock();
        state.step()?;
        let size = usize::try_from(size).map_err(|_| error(io::ErrorKind::FileTooLarge))?;
        state.grow(self.inode, size)?;
        state.content_mut(self.inode)?.bytes.truncate(size);
        Ok(())
    }

    fn allocate(&mut self, size: u64) -> io::Result<()> {
        self.writable()?;
        let mut state = self.fs.lock();
        state.step()?;
        let size = usize::try_from(size).map_err(|_| error(io::ErrorKind::FileTooLarge))?;
        state.grow(self.inode, size)
    }

    fn size(&self) -> io::Result<u64> {
        let state = self.fs.lock();
        state.alive()?;
        Ok(state.content(self.inode)?.bytes.len() as u64)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.fs.lock().sync(self.inode)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.sync()
    }
}
