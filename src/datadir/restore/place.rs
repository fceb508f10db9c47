//! Where the directories of a restore are built, and how they come to stand
//! where they belong.
//!
//! Everything is built under a name that carries this process's tag, beside its
//! target on the same file system, and gets its name by one rename that replaces
//! nothing. A target that is there already (an empty directory, a mount point)
//! is never renamed: `member` is built inside and renamed there. With a log
//! directory of its own, the log is put in place first, with a note of what it
//! belongs to; the rename of the data commits; the note goes. Until then,
//! whatever fails is taken away again, and what a killed run left is taken away
//! by the next one, as far as it is provably of a dead process.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::tag::{Life, Tag};
use super::{Ownership, RestoreError, Target, files};
use vault::durable::{self, File, FileSystem, FileType};

/// A directory that mkfs makes.
const LOST_AND_FOUND: &str = "lost+found";
/// Between a target's name and the tag of who builds it.
const STAGING: &str = ".tmp-";
/// The note beside a log that waits for its data: etcd passes over names that
/// end in `.tmp` in a log directory.
const NOTE: (&str, &str) = ("restore-", ".tmp");
/// How many names an error lists.
const LISTED: usize = 10;
/// A note is shorter.
const MAX_NOTE: usize = 16 << 10;

/// Where the parts of one member are built.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// What becomes `member`.
    pub(super) member: PathBuf,
    /// The directory for the log's segment.
    pub(super) wal: PathBuf,
    /// Who gets it all; whoever runs this when not said.
    owner: Option<(u32, u32)>,
}

/// What stands at a path, a symbolic link followed.
#[derive(Debug, Clone, Copy)]
struct Found {
    directory: bool,
    length: u64,
    uid: u32,
    gid: u32,
}

/// A rename that puts something in its place.
#[derive(Debug)]
struct Rename {
    from: PathBuf,
    to: PathBuf,
    /// Whether the data stands when this is done.
    commits: bool,
}

/// What is taken back, last first, when the restore fails.
#[derive(Debug)]
enum Undo {
    Tree(PathBuf),
    File(PathBuf),
    EmptyDirectory(PathBuf),
    /// Back under the name that says whose it is, for the tree to be removed.
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
}

/// All places of a restore. Dropped before [`Places::commit`], it takes away
/// everything that it made.
pub(super) struct Places {
    fs: Arc<dyn FileSystem>,
    tag: Tag,
    ownership: Ownership,
    places: Vec<Place>,
    /// Directories that must be synced before anything is renamed.
    built: Vec<PathBuf>,
    renames: Vec<Rename>,
    /// What goes when all is done.
    cleanup: Vec<Undo>,
    undo: Vec<Undo>,
}

impl Places {
    /// Checks the targets, clears what a killed run left, and makes the
    /// directories to build in.
    pub(super) fn prepare(
        fs: Arc<dyn FileSystem>,
        targets: &[Target],
        ownership: Ownership,
        tag: Tag,
    ) -> Result<Self, RestoreError> {
        let mut this = Self {
            fs,
            tag,
            ownership,
            places: Vec::new(),
            built: Vec::new(),
            renames: Vec::new(),
            cleanup: Vec::new(),
            undo: Vec::new(),
        };
        check_overlaps(targets)?;
        for target in targets {
            this.check_wal(target)?;
            this.check_data(target)?;
        }
        match this.common_base(targets)? {
            Some(base) => this.stage_together(&base, targets)?,
            None => {
                for target in targets {
                    this.stage(target)?;
                }
            }
        }
        Ok(this)
    }

    /// The places, in the order of the targets.
    pub(super) fn all(&self) -> &[Place] {
        &self.places
    }

    /// Makes a file in `place`.
    pub(super) fn create(&self, place: &Place, path: &Path) -> Result<Box<dyn File>, RestoreError> {
        let file = self
            .fs
            .create_new(path, self.ownership.file_mode)
            .map_err(|source| io_error("create", path, source))?;
        self.give(path, place.owner)?;
        Ok(file)
    }

    /// Writes a file in `place`, durably.
    pub(super) fn write(
        &self,
        place: &Place,
        path: &Path,
        content: &[u8],
    ) -> Result<(), RestoreError> {
        let mut file = self.create(place, path)?;
        file.write(content)
            .and_then(|()| file.sync())
            .map_err(|source| io_error("write", path, source))
    }

    fn give(&self, path: &Path, owner: Option<(u32, u32)>) -> Result<(), RestoreError> {
        let Some((uid, gid)) = owner else { return Ok(()) };
        self.fs
            .set_owner(path, Some(uid), Some(gid))
            .map_err(|source| io_error("give away", path, source))
    }

    /// Makes everything durable and renames it into place. The files must be
    /// synced.
    pub(super) fn commit(mut self) -> Result<(), RestoreError> {
        // Inner directories were made after outer ones.
        for directory in self.built.iter().rev() {
            self.sync(directory)?;
        }
        // Until the last rename all of them can be taken back.
        let mut data = Vec::new();
        if let Err(error) = self.rename_all(&mut data) {
            self.take_back();
            data.retain(|path| !matches!(self.find(path), Ok(None)));
            return Err(match data.is_empty() {
                true => error,
                false => RestoreError::Partly { stand: data, source: Box::new(error) },
            });
        }
        // A note that stays does no harm: the next run sees that its data stands.
        self.undo = std::mem::take(&mut self.cleanup);
        let mut synced = Vec::new();
        for path in data {
            let directory = parent(&path).to_path_buf();
            if !synced.contains(&directory) {
                if let Err(source) = self.fs.sync_dir(&directory) {
                    return Err(RestoreError::NotDurable { path, source });
                }
                synced.push(directory);
            }
        }
        Ok(())
    }

    /// Renames everything into place, and notes in `data` what stands then.
    fn rename_all(&mut self, data: &mut Vec<PathBuf>) -> Result<(), RestoreError> {
        for Rename { from, to, commits } in std::mem::take(&mut self.renames) {
            self.fs
                .rename_no_replace(&from, &to)
                .map_err(|source| io_error("rename into place", &to, source))?;
            self.undo.push(Undo::Rename { from: to.clone(), to: from });
            if commits {
                data.push(to);
            } else {
                self.sync(parent(&to))?;
            }
        }
        Ok(())
    }

    /// The log directory must be missing or empty, or hold what a killed run left.
    fn check_wal(&self, target: &Target) -> Result<(), RestoreError> {
        let Some(wal) = &target.wal_dir else { return Ok(()) };
        self.sweep_beside(wal)?;
        let Some(names) = self.names(wal)? else { return Ok(()) };
        let mut notes = Vec::new();
        for name in &names {
            if let Some(tag) = between(name, NOTE.0, NOTE.1) {
                notes.push((wal.join(name), tag));
            }
        }
        if let [(note, tag)] = notes.as_slice() {
            let ours = names.iter().all(|name| {
                let path = wal.join(name);
                path == *note
                    || *name == *files::LOG.to_string()
                    || name == LOST_AND_FOUND
                    || between(name, "wal.tmp-", "").as_ref() == Some(tag)
            });
            let segment = wal.join(files::LOG.to_string());
            let found = self.find(&segment)?;
            let waits = match self.read_note(note)? {
                // etcd extends the segment as soon as it starts on it.
                Some((length, data)) => {
                    found.is_none_or(|found| !found.directory && found.length == length)
                        && self.find(&data)?.is_none()
                }
                // Killed while it was written.
                None => found.is_none(),
            };
            if ours && waits {
                self.must_be_dead(note, tag)?;
                // The note goes last: as long as it is there, all of it is ours.
                if found.is_some() {
                    self.remove_file(&segment)?;
                    self.sync(wal)?;
                }
                self.remove_file(note)?;
                self.sync(wal)?;
            }
        }
        self.must_be_empty(wal, None)
    }

    /// The length of the log's segment and the path of its data.
    fn read_note(&self, note: &Path) -> Result<Option<(u64, PathBuf)>, RestoreError> {
        let failed = |source| io_error("read", note, source);
        let file = self.fs.open(note).map_err(failed)?;
        let mut text = vec![0; MAX_NOTE];
        let mut length = 0;
        loop {
            match file.read_at(length as u64, &mut text[length..]).map_err(failed)? {
                0 => break,
                read => length += read,
            }
        }
        text.truncate(length);
        let Some(at) = text.iter().position(|&byte| byte == b'\n') else { return Ok(None) };
        let length = std::str::from_utf8(&text[..at]).ok().and_then(|text| text.parse().ok());
        let data = PathBuf::from(OsStr::from_bytes(&text[at + 1..]));
        Ok(length.filter(|_| data.is_absolute()).map(|length| (length, data)))
    }

    /// The data directory must be missing or empty, or hold what a killed run left.
    fn check_data(&self, target: &Target) -> Result<(), RestoreError> {
        self.sweep_beside(&target.data_dir)?;
        // Its own log directory has been looked at.
        let own = target.wal_dir.as_deref().filter(|wal| parent(wal) == target.data_dir);
        self.must_be_empty(&target.data_dir, own)
    }

    fn must_be_empty(&self, directory: &Path, but: Option<&Path>) -> Result<(), RestoreError> {
        let Some(names) = self.names(directory)? else { return Ok(()) };
        let mut there = Vec::new();
        for name in names {
            let path = directory.join(&name);
            if name == LOST_AND_FOUND || but == Some(path.as_path()) {
                continue;
            }
            if self.sweep(&path, &name)? {
                continue;
            }
            there.push(name.to_string_lossy().into_owned());
        }
        if there.is_empty() {
            return Ok(());
        }
        there.sort_unstable();
        let more = there.len().saturating_sub(LISTED);
        there.truncate(LISTED);
        Err(RestoreError::Occupied { path: directory.into(), there, more })
    }

    /// Clears what killed runs left beside a target that was missing.
    fn sweep_beside(&self, target: &Path) -> Result<(), RestoreError> {
        let (Some(name), directory) = (target.file_name(), parent(target)) else { return Ok(()) };
        let Some(names) = self.names(directory)? else { return Ok(()) };
        for beside in names {
            let rest = beside.as_bytes().strip_prefix(name.as_bytes());
            if rest.is_some_and(|rest| rest.starts_with(STAGING.as_bytes())) {
                // Another's work beside the target is in nobody's way.
                match self.sweep(&directory.join(&beside), &beside) {
                    Ok(_) | Err(RestoreError::Busy { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Removes `path` if its name says that a dead process was building it.
    fn sweep(&self, path: &Path, name: &OsStr) -> Result<bool, RestoreError> {
        let Some(tag) = name
            .to_str()
            .and_then(|name| name.rsplit_once(STAGING))
            .and_then(|(_, tag)| Tag::parse(tag))
        else {
            return Ok(false);
        };
        self.must_be_dead(path, &tag)?;
        self.remove_tree(path)?;
        self.sync(parent(path))?;
        Ok(true)
    }

    fn must_be_dead(&self, path: &Path, tag: &Tag) -> Result<(), RestoreError> {
        match tag.life() {
            Life::Dead => Ok(()),
            life => Err(RestoreError::Busy { path: path.into(), alive: life == Life::Alive }),
        }
    }

    /// The directory that all targets lie in, when it has to be made: then one
    /// rename puts all of them in place.
    fn common_base(&self, targets: &[Target]) -> Result<Option<PathBuf>, RestoreError> {
        let [first, _, ..] = targets else { return Ok(None) };
        let base = parent(&first.data_dir);
        let together = targets.iter().all(|target| {
            parent(&target.data_dir) == base
                && target.wal_dir.as_deref().is_none_or(|wal| parent(wal) == target.data_dir)
        });
        Ok((together && self.find(base)?.is_none()).then(|| base.to_path_buf()))
    }

    /// Who gets a missing directory: whoever was asked for, else the owner of the
    /// directory that it will lie in, as a service's own parent directory has its
    /// owner, where files can be given to another than root.
    fn owner_below(&self, target: &Path) -> Result<Option<(u32, u32)>, RestoreError> {
        if self.ownership.owner.is_some() || !self.ownership.may_give_away {
            return Ok(self.ownership.owner);
        }
        let mut above = parent(target);
        let found = loop {
            match self.find(above)? {
                Some(found) => break found,
                None => above = parent(above),
            }
        };
        Ok((found.uid != 0).then_some((found.uid, found.gid)))
    }

    fn stage_together(&mut self, base: &Path, targets: &[Target]) -> Result<(), RestoreError> {
        let owner = self.owner_below(base)?;
        self.sweep_beside(base)?;
        let staging = self.stage_missing(base, owner)?;
        for target in targets {
            let directory = staging.join(file_name(&target.data_dir)?);
            self.make(&directory, owner)?;
            self.build_in(&directory, target, owner)?;
        }
        self.renames.push(Rename { from: staging, to: base.into(), commits: true });
        Ok(())
    }

    fn stage(&mut self, target: &Target) -> Result<(), RestoreError> {
        let data_dir = &target.data_dir;
        let wal = target.wal_dir.as_deref();
        let found = self.find(data_dir)?;
        let (staging, to, owner) = match found {
            None => {
                let owner = self.owner_below(data_dir)?;
                let staging = self.stage_missing(data_dir, owner)?;
                self.build_in(&staging, target, owner)?;
                (staging, data_dir.clone(), owner)
            }
            Some(found) => {
                self.give(data_dir, self.ownership.owner)?;
                // Not asked for: as the directory itself, where that can be done.
                let theirs = self.ownership.may_give_away.then_some((found.uid, found.gid));
                let owner = self.ownership.owner.or(theirs);
                let to = data_dir.join("member");
                let staging = self.staging(&to)?;
                self.make(&staging, owner)?;
                self.undo.push(Undo::Tree(staging.clone()));
                self.make(&staging.join("snap"), owner)?;
                let inner = staging.join("wal");
                if wal.is_none() {
                    self.make(&inner, owner)?;
                }
                self.places.push(Place { member: staging.clone(), wal: inner, owner });
                (staging, to, owner)
            }
        };
        if let Some(wal) = wal
            && (found.is_some() || parent(wal) != data_dir)
        {
            self.stage_wal(wal, owner)?;
        }
        self.renames.push(Rename { from: staging, to, commits: true });
        Ok(())
    }

    /// Makes the directories of one member in `directory`, which becomes its
    /// data directory; a log directory elsewhere is left out.
    fn build_in(
        &mut self,
        directory: &Path,
        target: &Target,
        owner: Option<(u32, u32)>,
    ) -> Result<(), RestoreError> {
        let member = directory.join("member");
        self.make(&member, owner)?;
        self.make(&member.join("snap"), owner)?;
        let wal = match target.wal_dir.as_deref() {
            None => member.join("wal"),
            Some(wal) => directory.join(file_name(wal)?),
        };
        if target.wal_dir.as_deref().is_none_or(|wal| parent(wal) == target.data_dir) {
            self.make(&wal, owner)?;
        }
        self.places.push(Place { member, wal, owner });
        Ok(())
    }

    /// Stages a log directory of its own for the last place.
    fn stage_wal(&mut self, wal: &Path, owner: Option<(u32, u32)>) -> Result<(), RestoreError> {
        let segment = files::LOG.to_string();
        let (staging, rename) = if self.find(wal)?.is_none() {
            let staging = self.stage_missing(wal, owner)?;
            (staging.clone(), Rename { from: staging, to: wal.into(), commits: false })
        } else {
            let staging = self.staging(&wal.join("wal"))?;
            self.make(&staging, owner)?;
            self.undo.push(Undo::Tree(staging.clone()));
            self.cleanup.push(Undo::EmptyDirectory(staging.clone()));
            let (from, to) = (staging.join(&segment), wal.join(&segment));
            (staging, Rename { from, to, commits: false })
        };
        self.renames.push(rename);
        self.cleanup.push(Undo::File(wal.join(self.note_name())));
        if let Some(place) = self.places.last_mut() {
            place.wal = staging;
        }
        Ok(())
    }

    /// Writes beside a log of its own what it belongs to, before anything is
    /// renamed. `length` is that of the log's segment.
    pub(super) fn note(
        &mut self,
        place: &Place,
        target: &Target,
        length: usize,
    ) -> Result<(), RestoreError> {
        let Some(wal) = &target.wal_dir else { return Ok(()) };
        // Where the log is part of the directory that is renamed, none is needed.
        let Some(rename) =
            self.renames.iter().find(|r| !r.commits && r.from.starts_with(&place.wal))
        else {
            return Ok(());
        };
        let with_directory = rename.to == *wal;
        let directory = if with_directory { place.wal.clone() } else { wal.clone() };
        let data = match self.find(&target.data_dir)? {
            None => target.data_dir.clone(),
            Some(_) => target.data_dir.join("member"),
        };
        let path = directory.join(self.note_name());
        self.undo.push(Undo::File(path.clone()));
        let mut text = format!("{length}\n").into_bytes();
        text.extend_from_slice(data.as_os_str().as_bytes());
        self.write(place, &path, &text)?;
        self.sync(&directory)
    }

    /// A staged directory for a target that is missing; missing parents are made.
    fn stage_missing(
        &mut self,
        target: &Path,
        owner: Option<(u32, u32)>,
    ) -> Result<PathBuf, RestoreError> {
        let mut missing = Vec::new();
        let mut above = parent(target);
        while self.find(above)?.is_none() {
            missing.push(above.to_path_buf());
            above = parent(above);
        }
        for directory in missing.into_iter().rev() {
            self.make_plain(&directory, owner)?;
            self.sync(parent(&directory))?;
            self.undo.push(Undo::EmptyDirectory(directory));
        }
        let staging = self.staging(target)?;
        self.make(&staging, owner)?;
        self.undo.push(Undo::Tree(staging.clone()));
        Ok(staging)
    }

    fn staging(&self, target: &Path) -> Result<PathBuf, RestoreError> {
        let mut name = file_name(target)?.to_os_string();
        name.push(format!("{STAGING}{}", self.tag));
        Ok(target.with_file_name(name))
    }

    fn note_name(&self) -> String {
        format!("{}{}{}", NOTE.0, self.tag, NOTE.1)
    }

    /// Makes a directory that will be part of the result.
    fn make(&mut self, path: &Path, owner: Option<(u32, u32)>) -> Result<(), RestoreError> {
        self.make_plain(path, owner)?;
        self.built.push(path.into());
        Ok(())
    }

    fn make_plain(&self, path: &Path, owner: Option<(u32, u32)>) -> Result<(), RestoreError> {
        self.fs
            .create_dir(path, self.ownership.directory_mode)
            .map_err(|source| io_error("create", path, source))?;
        self.give(path, owner)
    }

    /// The names in a directory, `None` when it is missing.
    fn names(&self, path: &Path) -> Result<Option<Vec<std::ffi::OsString>>, RestoreError> {
        match self.find(path)? {
            None => Ok(None),
            Some(found) if !found.directory => {
                Err(RestoreError::NotADirectory { path: path.into() })
            }
            Some(_) => {
                let entries =
                    self.fs.read_dir(path).map_err(|source| io_error("list", path, source))?;
                Ok(Some(entries.into_iter().map(|entry| entry.name).collect()))
            }
        }
    }

    fn find(&self, path: &Path) -> Result<Option<Found>, RestoreError> {
        let failed = |source| io_error("look at", path, source);
        let mut found = match self.fs.metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(failed)?,
        };
        // A link to a directory is as good as one; any other stands in the way.
        if found.file_type == FileType::Symlink
            && let Ok(inner) = self.fs.metadata(&path.join("."))
        {
            found = inner;
        }
        let directory = found.file_type == FileType::Directory;
        Ok(Some(Found { directory, length: found.size, uid: found.uid, gid: found.gid }))
    }

    fn sync(&self, path: &Path) -> Result<(), RestoreError> {
        self.fs.sync_dir(path).map_err(|source| io_error("sync", path, source))
    }

    fn remove_file(&self, path: &Path) -> Result<(), RestoreError> {
        self.fs.remove_file(path).map_err(|source| io_error("remove", path, source))
    }

    fn remove_tree(&self, path: &Path) -> Result<(), RestoreError> {
        durable::remove_all(self.fs.as_ref(), path)
            .map_err(|source| io_error("remove", path, source))
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        self.take_back();
    }
}

impl Places {
    /// What cannot be removed now is removed by the next run.
    fn take_back(&mut self) {
        let mut stuck = false;
        for undo in std::mem::take(&mut self.undo).into_iter().rev() {
            // Data that cannot be taken back keeps its log.
            if stuck && matches!(undo, Undo::Rename { .. }) {
                continue;
            }
            let (path, done) = match &undo {
                Undo::Tree(path) => (path, self.remove_tree(path).is_ok()),
                Undo::File(path) => (path, self.fs.remove_file(path).is_ok()),
                Undo::EmptyDirectory(path) => (path, self.fs.remove_dir(path).is_ok()),
                Undo::Rename { from, to } => (from, self.fs.rename_no_replace(from, to).is_ok()),
            };
            if done {
                let _ = self.fs.sync_dir(parent(path));
            } else {
                stuck |= matches!(undo, Undo::Rename { .. });
            }
        }
    }
}

/// No target may lie in another; a log directory may lie right in its own
/// member's data directory, where etcd takes any name for it.
fn check_overlaps(targets: &[Target]) -> Result<(), RestoreError> {
    let paths: Vec<(usize, bool, &Path)> = targets
        .iter()
        .enumerate()
        .flat_map(|(number, target)| {
            let data = (number, false, target.data_dir.as_path());
            std::iter::once(data).chain(target.wal_dir.as_deref().map(|wal| (number, true, wal)))
        })
        .collect();
    for (index, &(number, wal, path)) in paths.iter().enumerate() {
        for &(other, _, above) in paths.iter().take(index).chain(&paths[index + 1..]) {
            let own = wal && number == other && parent(path) == above && {
                let name = path.file_name();
                name != Some(OsStr::new("member")) && name != Some(OsStr::new(LOST_AND_FOUND))
            };
            if path.starts_with(above) && !own {
                return Err(RestoreError::Overlap { inner: path.into(), outer: above.into() });
            }
        }
    }
    Ok(())
}

/// The tag in a name of the form `<before><tag><after>`.
fn between(name: &OsStr, before: &str, after: &str) -> Option<Tag> {
    Tag::parse(name.to_str()?.strip_prefix(before)?.strip_suffix(after)?)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        // The root is its own parent; relative paths were made absolute.
        _ => Path::new("/"),
    }
}

fn file_name(path: &Path) -> Result<&OsStr, RestoreError> {
    path.file_name().ok_or_else(|| RestoreError::NotADirectory { path: path.into() })
}

pub(super) fn io_error(act: &'static str, path: &Path, source: io::Error) -> RestoreError {
    RestoreError::Io { act, path: path.into(), source }
}
