//! Turns a snapshot into data directories that etcd boots from, without etcd.
//!
//! The snapshot streams straight into `member/snap/db`, is checked while it is
//! written, and is then changed into the first state of a new cluster; log and
//! raft snapshot are written beside it. All of it is built under a temporary
//! name, synced, and renamed: whatever fails or is killed, at the end there is
//! either nothing under the target's name or the complete directory. What the
//! restored members will answer to HashKV is computed before they start.
//!
//! Memory is bounded: nothing grows with the snapshot but what the scan keeps of
//! each record, up to [`Options::scan_memory`].
//!
//! Source: `etcdutl/snapshot/v3_snapshot.go @ v3.5.35`; `docs/format/etcd-files.md`
//! says what each version needs to boot.

mod change;
mod error;
pub mod files;
mod place;
mod tag;
pub mod version;

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::change::Bump;
pub use self::error::RestoreError;
use self::place::{Places, io_error};
use self::tag::Tag;
pub use self::version::{EtcdVersion, TooNew, VersionError};
use crate::bbolt::database::TRAILER_SIZE;
use crate::bbolt::patch::PageSink;
use crate::bbolt::{Database, PageSource};
use crate::datadir::hash::{Scan, ScanOptions, StreamScan};
use crate::datadir::membership::{Member, Membership};
use vault::durable::{File, FileSystem};

/// Bytes of a snapshot's trailer: the SHA-256 of the database before it.
const TRAILER: usize = TRAILER_SIZE as usize;

/// One data directory to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The member's name in the initial cluster.
    pub name: String,
    /// What etcd gets as `--data-dir`.
    pub data_dir: PathBuf,
    /// What etcd gets as `--wal-dir`; `member/wal` when there is none.
    pub wal_dir: Option<PathBuf>,
    /// The member's `--initial-advertise-peer-urls`, held against the initial
    /// cluster as etcdutl does; not looked at when empty.
    pub advertised_peer_urls: Vec<String>,
}

/// What to restore, with the meanings of etcdutl's flags.
#[derive(Debug, Clone)]
pub struct Options {
    /// `name=url,…`: every member of the new cluster.
    pub initial_cluster: String,
    /// Goes into all ids: a token that was never used keeps members of the old
    /// cluster from being taken for members of the new one.
    pub initial_cluster_token: String,
    /// The directories to make, at least one.
    pub targets: Vec<Target>,
    /// How far to raise the revision; 0 keeps it.
    pub bump_revision: u64,
    /// Marks the raised revision as compacted; needed with a bump and
    /// impossible without, as with etcdutl.
    pub mark_compacted: bool,
    /// Takes a database without a trailer, or with a wrong one.
    pub skip_hash_check: bool,
    /// The etcd that shall run it; a newer store is refused.
    pub target_version: Option<EtcdVersion>,
    /// Owner and group of everything made; `None` leaves them to the process,
    /// or to the owner of an existing target, or of the directory that a missing one
    /// will lie in unless that is root's, where the process may give files away.
    pub owner: Option<(u32, u32)>,
    /// Mode of directories; etcd insists on 0700.
    pub directory_mode: u32,
    /// Mode of files.
    pub file_mode: u32,
    /// Bytes of records that the scan keeps in memory; more goes to an unlinked
    /// file beside what is built.
    pub scan_memory: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            initial_cluster: String::new(),
            initial_cluster_token: String::new(),
            targets: Vec::new(),
            bump_revision: 0,
            mark_compacted: false,
            skip_hash_check: false,
            target_version: None,
            owner: None,
            directory_mode: 0o700,
            file_mode: 0o600,
            scan_memory: 32 << 20,
        }
    }
}

/// Who owns what is made.
#[derive(Debug, Clone, Copy)]
struct Ownership {
    owner: Option<(u32, u32)>,
    /// Whether files can be given to the owner of what is there.
    may_give_away: bool,
    directory_mode: u32,
    file_mode: u32,
}

/// What the snapshot must turn out to be; nothing is expected by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// Bytes of the whole snapshot, trailer included.
    pub size: Option<u64>,
    /// SHA-256 of the whole snapshot, trailer included.
    pub sha256: Option<[u8; 32]>,
    /// The HashKV that was proven when it was taken.
    pub hash: Option<ExpectedHash>,
}

/// A HashKV as a member returned it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectedHash {
    /// At which revision.
    pub revision: i64,
    /// With everything up to this one compacted; `None` when nothing was.
    pub compact_revision: Option<i64>,
    /// The hash.
    pub hash: u32,
}

/// A restore that is done.
#[derive(Debug)]
#[non_exhaustive]
pub struct Restored {
    /// The new cluster.
    pub membership: Membership,
    /// The revision that the members start with.
    pub revision: i64,
    /// The revision below which they answer "compacted".
    pub compact_revision: Option<i64>,
    /// What every member answers to HashKV at revision 0 before the first write.
    pub hash: u32,
    /// Bytes of each database file.
    pub database_size: u64,
    /// The snapshot as it came in, before anything was changed.
    pub scan: Scan,
}

/// A restore in progress. Dropped before [`Restore::finish`] has returned, it
/// takes away all that it made.
pub struct Restore {
    options: Options,
    membership: Membership,
    members: Vec<Member>,
    scan: StreamScan,
    /// The last bytes so far, which may be the trailer.
    tail: Vec<u8>,
    written: u64,
    failed: bool,
    // In this order: files are closed before their directories go.
    databases: Vec<Box<dyn File>>,
    places: Places,
}

impl std::fmt::Debug for Restore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Restore").field("written", &self.written).finish_non_exhaustive()
    }
}

impl Restore {
    /// Checks everything that can be known before the first byte, and makes the
    /// directories to build in.
    pub fn begin(fs: Arc<dyn FileSystem>, options: Options) -> Result<Self, RestoreError> {
        Self::begin_as(fs, options, Tag::of_this_process().map_err(RestoreError::Process)?)
    }

    /// As a process of this tag.
    fn begin_as(
        fs: Arc<dyn FileSystem>,
        mut options: Options,
        tag: Tag,
    ) -> Result<Self, RestoreError> {
        if (options.bump_revision > 0) != options.mark_compacted {
            return Err(RestoreError::BumpFlags);
        }
        let membership = Membership::from_initial_cluster(
            &options.initial_cluster,
            &options.initial_cluster_token,
        )?;
        if options.targets.is_empty() {
            return Err(RestoreError::NoTarget);
        }
        let mut members = Vec::with_capacity(options.targets.len());
        for target in &mut options.targets {
            members.push(membership.member(&target.name)?.clone());
            if !target.advertised_peer_urls.is_empty() {
                membership.check_advertised(&target.name, &target.advertised_peer_urls)?;
            }
            target.data_dir = absolute(&target.data_dir)?;
            if let Some(wal_dir) = &mut target.wal_dir {
                *wal_dir = absolute(wal_dir)?;
            }
        }
        let ownership = Ownership {
            owner: options.owner,
            may_give_away: rustix::process::geteuid().is_root(),
            directory_mode: options.directory_mode,
            file_mode: options.file_mode,
        };
        let places = Places::prepare(fs, &options.targets, ownership, tag)?;
        let mut databases = Vec::with_capacity(options.targets.len());
        for place in places.all() {
            databases.push(places.create(place, &place.member.join("snap/db"))?);
        }
        let scan = StreamScan::new(ScanOptions {
            sha256: true,
            memory: options.scan_memory,
            spill_directory: places.all().first().map(|place| place.member.clone()),
            ..ScanOptions::default()
        });
        Ok(Self {
            options,
            membership,
            members,
            scan,
            tail: Vec::with_capacity(TRAILER),
            written: 0,
            failed: false,
            databases,
            places,
        })
    }

    /// The new cluster.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Takes the next bytes of the plain snapshot, in any portions; a megabyte
    /// at a time is a good measure.
    pub fn write(&mut self, chunk: &[u8]) -> Result<(), RestoreError> {
        // A chunk that failed half-way cannot be followed by another.
        if std::mem::replace(&mut self.failed, true) {
            return Err(RestoreError::AfterFailure);
        }
        self.scan.write(chunk)?;
        if let Some(surplus) = chunk.len().checked_sub(TRAILER) {
            let tail = std::mem::take(&mut self.tail);
            self.store(&tail)?;
            self.store(&chunk[..surplus])?;
            self.tail = tail;
            self.tail.clear();
            self.tail.extend_from_slice(&chunk[surplus..]);
        } else {
            self.tail.extend_from_slice(chunk);
            if let Some(surplus) = self.tail.len().checked_sub(TRAILER) {
                let head: Vec<u8> = self.tail.drain(..surplus).collect();
                self.store(&head)?;
            }
        }
        self.failed = false;
        Ok(())
    }

    /// Ends the stream: checks it, makes it the first state of the new cluster,
    /// and puts the directories in place.
    pub fn finish(mut self, expected: &Expected) -> Result<Restored, RestoreError> {
        if self.failed {
            return Err(RestoreError::AfterFailure);
        }
        let tail = std::mem::take(&mut self.tail);
        let scan = std::mem::replace(&mut self.scan, StreamScan::new(ScanOptions::default()));
        let scan = scan.finish()?;
        if !scan.has_trailer {
            self.store(&tail)?;
        }
        self.check(&scan, expected)?;

        let bump = match self.options.bump_revision {
            0 => None,
            amount => Some(Bump::new(scan.revision, amount)?),
        };
        let compact_revision = scan.content.compact_revision();
        let (revision, compact_revision, hash) = match bump {
            None => (scan.revision, compact_revision, scan.hash_kv(0, compact_revision)?),
            Some(bump) => {
                let record = [(bump.record(), &b""[..])];
                (bump.to, Some(bump.to), scan.hash_kv_with(0, Some(bump.to), &record)?)
            }
        };
        let database_size = self.patch(bump)?;
        self.write_members()?;
        for (database, place) in self.databases.iter_mut().zip(self.places.all()) {
            database.sync().map_err(|e| io_error("sync", &place.member.join("snap/db"), e))?;
        }
        self.databases.clear();
        self.places.commit()?;
        let membership = self.membership;
        Ok(Restored { membership, revision, compact_revision, hash, database_size, scan })
    }

    /// Writes at the end of all databases.
    fn store(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        if bytes.is_empty() {
            return Ok(());
        }
        for (database, place) in self.databases.iter_mut().zip(self.places.all()) {
            database
                .write_at(self.written, bytes)
                .map_err(|source| io_error("write", &place.member.join("snap/db"), source))?;
        }
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn check(&self, scan: &Scan, expected: &Expected) -> Result<(), RestoreError> {
        if let Some(size) = expected.size
            && size != scan.file_size
        {
            return Err(RestoreError::Size { expected: size, found: scan.file_size });
        }
        let digests = scan.digests.as_ref();
        if let Some(sha256) = expected.sha256
            && digests.is_none_or(|digests| digests.whole != sha256)
        {
            return Err(RestoreError::Digest);
        }
        if !self.options.skip_hash_check {
            match digests.and_then(|digests| digests.trailer_ok()) {
                Some(true) => {}
                Some(false) => return Err(RestoreError::Trailer),
                None => return Err(RestoreError::NoTrailer { size: scan.file_size }),
            }
        }
        if !scan.is_sound() {
            let first = scan.problems.first().map(ToString::to_string).unwrap_or_default();
            return Err(RestoreError::Damaged { count: scan.problem_count, first });
        }
        if let Some(expected) = expected.hash {
            let found = scan.hash_kv(expected.revision, expected.compact_revision)?;
            if found != expected.hash {
                return Err(RestoreError::Hash {
                    revision: expected.revision,
                    expected: expected.hash,
                    found,
                });
            }
        }
        if let Some(target) = self.options.target_version {
            version::check(&scan.content, target)?;
        }
        Ok(())
    }

    /// Changes all databases in the same way and gives their new size.
    fn patch(&mut self, bump: Option<Bump>) -> Result<u64, RestoreError> {
        let files = RefCell::new(self.databases.as_mut_slice());
        let database = Database::open(Source { files: &files, length: self.written })?;
        let mut sink = Sink { files: &files };
        let patch = change::patch(&self.membership, bump);
        let meta = patch.apply(&database, &mut sink)?;
        // What lay above the high-water mark means nothing.
        let size = meta.size().ok_or(crate::bbolt::patch::PatchError::TooLarge)?;
        for (database, place) in self.databases.iter_mut().zip(self.places.all()) {
            let path = place.member.join("snap/db");
            database.set_len(size).map_err(|source| io_error("cut", &path, source))?;
        }
        Ok(size)
    }

    /// Writes log and raft snapshot of every member.
    fn write_members(&mut self) -> Result<(), RestoreError> {
        let snapshot = files::snapshot(&self.membership);
        let places = self.places.all().to_vec();
        for ((place, member), target) in places.iter().zip(&self.members).zip(&self.options.targets)
        {
            let log = files::log(&self.membership, member);
            let name = files::snapshot_name(&self.membership);
            for (path, content) in [
                (place.member.join("snap").join(name), &snapshot),
                (place.wal.join(files::LOG.to_string()), &log),
            ] {
                self.places.write(place, &path, content)?;
            }
            self.places.note(place, target, log.len())?;
        }
        Ok(())
    }
}

/// The databases that are being built. The patch reads and writes them in turn.
type Files<'a> = RefCell<&'a mut [Box<dyn File>]>;

/// The first of them, for reading: they are all the same.
struct Source<'a> {
    files: &'a Files<'a>,
    length: u64,
}

impl PageSource for Source<'_> {
    fn size(&self) -> io::Result<u64> {
        Ok(self.length)
    }

    fn read_at(&self, offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        let files = self.files.borrow();
        let file = files.first().ok_or(io::ErrorKind::NotFound)?;
        let mut at = offset;
        while !buffer.is_empty() {
            match file.read_at(at, buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => {
                    at += read as u64;
                    buffer = &mut buffer[read..];
                }
            }
        }
        Ok(())
    }
}

/// All of them at once.
struct Sink<'a> {
    files: &'a Files<'a>,
}

impl PageSink for Sink<'_> {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.files.borrow_mut().iter_mut().try_for_each(|file| file.write_at(offset, bytes))
    }

    fn sync(&mut self) -> io::Result<()> {
        // Nobody sees the file before it is renamed: one sync at the end is enough.
        Ok(())
    }
}

fn absolute(path: &Path) -> Result<PathBuf, RestoreError> {
    std::path::absolute(path).map_err(|source| io_error("resolve", path, source))
}

#[cfg(test)]
mod tests;
