//! A tar stream into a new tree.
//!
//! It is built in a temporary directory beside its place, which only its owner
//! enters, and given its name when everything is durable. Each name is reached
//! from that directory step by step without following a link, so that nothing is
//! written through one, whatever the stream says.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::super::archive::{ArchiveError, Kind, Member, Reader};
use super::super::{Attributes, FileKind, NodeErrorKind, TreeDigest};
use super::at;
use super::digest::{self, Content, Known};
use super::fault::{Fault, Task};
use super::temporary::{self, Temporary};

/// A stream has at most so many members.
const MAX_MEMBERS: u64 = 4_000_000;

/// Files of this size are synced one by one as they are written, so that the
/// sync at the end does not have everything left to do.
const SYNC_AT_ONCE: u64 = 4 << 20;

/// Unpacks the stream at `root`, where nothing may stand.
pub(super) fn unpack(root: &Path, from: impl Read, task: &Task) -> Result<TreeDigest, Fault> {
    let (parent, name) = at::parent(root)?;
    if root.file_name().is_none() || at::handle_if(&parent, &name)?.is_some() {
        return Err(Fault::new(NodeErrorKind::AlreadyExists, "something stands there already"));
    }
    temporary::sweep(&parent);
    let temporary = Temporary::directory(&parent)?;
    let mut unpacker = Unpacker {
        root: temporary.handle()?,
        task,
        directories: BTreeMap::new(),
        known: Known::new(),
        last: None,
        buffer: vec![0; 256 << 10],
    };
    unpacker.directories.insert(PathBuf::new(), None);
    let mut reader = Reader::new(from);
    let mut members = 0;
    while let Some(member) = reader.next_member()? {
        task.tick()?;
        members += 1;
        if members > MAX_MEMBERS {
            return Err(Fault::unexpected("the tar stream has too many members"));
        }
        let path = member.path.clone();
        unpacker.member(member, &mut reader).map_err(|fault| match fault.kind {
            NodeErrorKind::Lost => fault,
            _ => fault.at(&path),
        })?;
    }
    unpacker.finish_directories()?;
    rustix::fs::syncfs(&temporary.file)?;
    let tree = at::magic(&parent).join(temporary.file_name());
    let digest = digest::digest_and_sync(&tree, task, &unpacker.known)?;
    task.tick()?;
    temporary.name(&name, false)?;
    Ok(digest)
}

impl From<ArchiveError> for Fault {
    fn from(error: ArchiveError) -> Self {
        match error {
            ArchiveError::Read(source) => match source.downcast::<Carried>() {
                Ok(Carried(fault)) => fault,
                Err(source) => Self::from(source),
            },
            other => Self::unexpected(other.to_string()),
        }
    }
}

/// A fault on its way through a reader.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Carried(pub(super) Fault);

struct Unpacker<'a> {
    root: OwnedFd,
    task: &'a Task,
    /// Directories that were made, with what they get at the end; `None` for
    /// those that have no member of their own.
    directories: BTreeMap<PathBuf, Option<Member>>,
    /// Hashes of what was written, by inode.
    known: Known,
    /// The directory of the member before, which is mostly that of the next.
    last: Option<(PathBuf, OwnedFd)>,
    buffer: Vec<u8>,
}

impl Unpacker<'_> {
    fn member<R: Read>(&mut self, member: Member, reader: &mut Reader<R>) -> Result<(), Fault> {
        let Some(name) = member.path.file_name().map(OsStr::to_owned) else {
            return self.directory_member(member);
        };
        let parent = member.path.parent().unwrap_or(Path::new("")).to_owned();
        let directory = self.directory(&parent)?;
        match &member.kind {
            Kind::Directory => {
                match rustix::fs::mkdirat(&directory, &name, Mode::RWXU) {
                    // Made before, for something in it.
                    Err(Errno::EXIST) if self.directories.contains_key(&member.path) => {}
                    other => other?,
                }
                self.directory_member(member)
            }
            Kind::Symlink(to) => {
                rustix::fs::symlinkat(to, &directory, &name)?;
                let handle = at::handle(&directory, &name)?;
                at::apply(&handle, &attributes(&member))?;
                let times = times(member.modified)?;
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                Ok(rustix::fs::utimensat(&directory, &name, &times, flags)?)
            }
            Kind::HardLink(to) => self.hard_link(&directory, &name, to),
            Kind::File { size, .. } => {
                let size = *size;
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
                let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mode = Mode::RUSR | Mode::WUSR;
                let file = File::from(rustix::fs::openat(&directory, &name, flags, mode)?);
                let hash = self.content(&file, size, reader)?;
                self.known.insert(file.metadata()?.ino(), hash);
                let handle: OwnedFd = file.try_clone()?.into();
                at::apply(&handle, &attributes(&member))?;
                rustix::fs::futimens(&file, &times(member.modified)?)?;
                if size >= SYNC_AT_ONCE {
                    file.sync_all()?;
                }
                Ok(())
            }
        }
    }

    fn directory_member(&mut self, member: Member) -> Result<(), Fault> {
        match self.directories.insert(member.path.clone(), Some(member)) {
            Some(Some(_)) => Err(Fault::unexpected("the stream has it twice")),
            _ => Ok(()),
        }
    }

    /// The directory `path` below the root, made where it is missing.
    fn directory(&mut self, path: &Path) -> Result<OwnedFd, Fault> {
        if let Some((_, directory)) = self.last.as_ref().filter(|(last, _)| last == path) {
            return Ok(directory.try_clone()?);
        }
        let mut directory = self.root.try_clone()?;
        let mut below = PathBuf::new();
        for part in path.components() {
            let name = part.as_os_str();
            below.push(name);
            if !self.directories.contains_key(&below) {
                match rustix::fs::mkdirat(&directory, name, Mode::RWXU) {
                    Ok(()) => {
                        self.directories.insert(below.clone(), None);
                    }
                    // A link or a file: opening it as a directory fails.
                    Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            directory = enter(&directory, name)?;
        }
        self.last = Some((path.to_owned(), directory.try_clone()?));
        Ok(directory)
    }

    fn hard_link(&mut self, directory: &OwnedFd, name: &OsStr, to: &Path) -> Result<(), Fault> {
        let wrong = || Fault::unexpected("it is a link to what is no file of the stream");
        let other = to.file_name().ok_or_else(wrong)?;
        let mut place = self.root.try_clone()?;
        for part in to.parent().unwrap_or(Path::new("")).components() {
            place = enter(&place, part.as_os_str())?;
        }
        let handle = at::handle_if(&place, other)?.ok_or_else(wrong)?;
        let metadata = at::metadata(&handle)?;
        if at::kind(&metadata) != FileKind::File || !self.known.contains_key(&metadata.ino()) {
            return Err(wrong());
        }
        Ok(rustix::fs::linkat(&place, other, directory, name, AtFlags::empty())?)
    }

    fn content<R: Read>(
        &mut self,
        file: &File,
        size: u64,
        reader: &mut Reader<R>,
    ) -> Result<[u8; 32], Fault> {
        let mut content = Content::new();
        while let Some((offset, count)) = reader.next_data(&mut self.buffer)? {
            self.task.tick()?;
            let data = &self.buffer[..count];
            file.write_all_at(data, offset)?;
            content.data(offset, data);
        }
        // Also makes the hole at the end.
        file.set_len(size)?;
        Ok(content.finish())
    }

    /// Owner, mode and time of directories, the deepest first: a directory's time
    /// changes with what is made in it, and its mode may forbid to enter it.
    fn finish_directories(&mut self) -> Result<(), Fault> {
        for (path, member) in std::mem::take(&mut self.directories).into_iter().rev() {
            self.task.tick()?;
            let mut directory = self.root.try_clone()?;
            for part in path.components() {
                directory = enter(&directory, part.as_os_str())?;
            }
            let Some(member) = member else {
                rustix::fs::fchmod(&directory, Mode::from_raw_mode(0o755))?;
                continue;
            };
            at::apply(&directory, &attributes(&member)).map_err(|fault| fault.at(&path))?;
            rustix::fs::futimens(&directory, &times(member.modified)?)?;
        }
        Ok(())
    }
}

fn enter(directory: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Fault> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Err(Errno::LOOP | Errno::NOTDIR) => {
            let name = OsString::from(name);
            Err(Fault::unexpected(format!(
                "the stream would write through {name:?}, which is no directory"
            )))
        }
        other => Ok(other?),
    }
}

fn attributes(member: &Member) -> Attributes {
    Attributes {
        uid: member.uid,
        gid: member.gid,
        owner: None,
        group: None,
        mode: member.mode,
        xattrs: member.xattrs.clone(),
    }
}

fn times(modified: i128) -> Result<Timestamps, Fault> {
    let seconds = i64::try_from(modified.div_euclid(1_000_000_000));
    let tv_sec = seconds.map_err(|_| Fault::unexpected("a time that is out of bounds"))?;
    // Below 1e9, so it fits whatever the field's type is.
    let tv_nsec = modified.rem_euclid(1_000_000_000) as _;
    let time = Timespec { tv_sec, tv_nsec };
    Ok(Timestamps { last_access: time, last_modification: time })
}
