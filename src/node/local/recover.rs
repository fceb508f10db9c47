//! What is left of a member on this machine, and a snapshot of a copy of it.
//!
//! - What the member left is only read: all else happens in a directory beside its data,
//!   which goes when the snapshot was sent or nobody takes it any more.
//! - A copy counts only where the database was not written meanwhile, and the log ends
//!   where whoever asks has seen it end.
//! - The snapshot is sent after it was checked, and after etcd, where it could start, told
//!   its HashKV.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::FlockOperation;

use super::super::{
    ByteStream, MemberRemains, NodeError, NodeErrorKind, RecoverSpec, RecoveredMember, RemainsSpec,
    SpecHash,
};
use super::fault::{Fault, Task};
use super::{LocalNode, file, stream, temporary};
use crate::datadir::hash::ScanOptions;
use crate::datadir::inspect::{Inspection, chain, inspect_with};
use crate::datadir::layout::DataDir;
use crate::datadir::remains::{
    CopyError, LogRemains, Remains, Use, copy_member, keep_tail, snapshot_size, write_snapshot,
};
use crate::etcd::alone::{AloneError, Program};

/// What a scan may hold in memory; beyond it goes to a file without a name.
const SCAN_MEMORY: usize = 32 << 20;
/// Where that file is, while nothing may be written beside the data.
const SPILL: &str = "/var/tmp";
/// etcd allocates two segments of the log ahead, and its database grows a little.
const ROOM: u64 = 192 << 20;
/// Leases end while etcd runs, and with them keys: so often it is asked again.
const TRIES: u32 = 4;

const ACT: &str = "recover what is left";

fn scan(spill: &Path) -> ScanOptions {
    ScanOptions {
        memory: SCAN_MEMORY,
        spill_directory: Some(spill.to_owned()),
        ..ScanOptions::default()
    }
}

/// Looks at it.
pub(super) fn remains(spec: &RemainsSpec) -> Result<MemberRemains, Fault> {
    let directory = DataDir::new(&spec.data_dir, spec.wal_dir.clone());
    let in_use = directory.is_in_use().map_err(|error| Fault::unexpected(chain(&error)))?;
    let remains = if spec.database {
        Remains::read(&directory, scan(Path::new(SPILL)))
    } else {
        let mut problems = Vec::new();
        let log = LogRemains::read(&directory).map_err(|error| problems.push(chain(&error)));
        Remains { log: log.ok(), database: None, problems }
    };
    Ok(MemberRemains { in_use, remains })
}

/// The directory that all happens in.
struct Scratch {
    directory: tempfile::TempDir,
    /// Held so that no other writer takes it for a leftover.
    _lock: File,
}

impl Scratch {
    fn beside(data_dir: &Path) -> Result<Self, Fault> {
        let directory = tempfile::Builder::new().prefix(temporary::PREFIX).tempdir_in(data_dir)?;
        let lock = File::open(directory.path())?;
        // A file system without locks has no sweeping either.
        let _ = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive);
        Ok(Self { directory, _lock: lock })
    }

    fn copy(&self) -> DataDir {
        DataDir::new(self.directory.path().join("copy"), None)
    }
}

/// A copy that was looked at.
struct Copied {
    scratch: Scratch,
    remains: Remains,
    kept: u64,
}

fn copy(spec: &RecoverSpec, task: &Task) -> Result<Copied, Fault> {
    let from = DataDir::new(&spec.data_dir, spec.wal_dir.clone());
    let needed = size(&from).saturating_add(ROOM);
    let space = file::space(&spec.data_dir)?;
    if space.available < needed {
        let why = format!(
            "{} has room for {} MiB, a copy to work on needs {}",
            spec.data_dir.display(),
            space.available >> 20,
            needed.div_ceil(1 << 20)
        );
        let hint = "make room there; or copy the data directory to a machine with room, and see \
                    etcdvault recover data-dir";
        return Err(Fault::new(NodeErrorKind::NoSpace, why).hint(hint));
    }
    let scratch = Scratch::beside(&spec.data_dir)?;
    let to = scratch.copy();
    let mut go_on = || task.tick().map_err(|fault| io::Error::other(fault.why));
    copy_member(&from, &to, &mut go_on).map_err(|error| match error {
        CopyError::Written(_) => Fault::unexpected(chain(&error))
            .hint("a member with a leader writes: stop etcd on this node, and try again"),
        CopyError::Io { ref source, .. } => {
            let kind = Fault::from(io::Error::from(source.kind())).kind;
            Fault::new(kind, chain(&error))
        }
        CopyError::Database { .. } => Fault::unexpected(chain(&error)),
    })?;
    task.tick()?;
    let remains = Remains::read(&to, scan(scratch.directory.path()));
    let last = remains.log.as_ref().and_then(LogRemains::last);
    if last != spec.last {
        let why = "its log does not end any more where it was seen to end";
        return Err(Fault::unexpected(why).hint("something writes to it: stop it, and try again"));
    }
    let (usable, why) = remains.usable();
    if usable == Use::Nothing {
        return Err(Fault::unexpected(why.unwrap_or_default()));
    }
    let (_, commit, end) = remains.extent();
    let kept = if spec.drop_uncommitted { 0 } else { end - commit };
    if kept > 0 {
        keep_tail(&to).map_err(|error| Fault::unexpected(chain(&error)))?;
    }
    Ok(Copied { scratch, remains, kept })
}

/// Bytes of what is copied, as far as that is known.
fn size(from: &DataDir) -> u64 {
    let length = |path: &Path| path.metadata().map_or(0, |found| found.len());
    let log = from.segments().unwrap_or_default();
    let log = log.iter().map(|name| length(&from.wal().join(name.to_string())));
    let snapshots = from.raft_snapshots().unwrap_or_default();
    let snapshots = snapshots.iter().map(|snapshot| length(&snapshot.path));
    log.chain(snapshots).fold(length(&from.database()), u64::saturating_add)
}

fn checked(database: &Path, spill: &Path, task: &Task) -> Result<Inspection, Fault> {
    let told = |_| {
        // Who is gone is noticed by the next step.
        let _ = task.tick();
    };
    let (found, _) = inspect_with(database, scan(spill), told)
        .map_err(|error| Fault::unexpected(chain(&error)))?;
    task.tick()?;
    match found.problems.first() {
        Some(problem) => Err(Fault::unexpected(format!("the copy is damaged: {problem}"))),
        None => Ok(found),
    }
}

fn not_replayed(error: AloneError) -> Fault {
    let why = match &error.source {
        Some(source) => format!("{}: {source}", error.why),
        None => error.why,
    };
    let kind = match error.program {
        true => NodeErrorKind::Unsupported,
        false => NodeErrorKind::Failed,
    };
    let mut fault = Fault::new(kind, why);
    fault.details = error.log.into_iter().map(|line| format!("etcd: {line}")).collect();
    fault.hint = error.hint;
    fault
}

/// Makes the snapshot of `spec`.
pub(super) async fn recover(
    node: &LocalNode,
    spec: RecoverSpec,
) -> Result<(RecoveredMember, ByteStream), NodeError> {
    let failed = |fault: Fault| fault.of(&node.name, ACT);
    let etcd = spec.etcd.clone();
    let work = move |task: &Task| copy(&spec, task);
    let Copied { scratch, remains, kept } = node.long(ACT.into(), Default::default(), work).await?;
    let (applied, commit, end) = remains.extent();
    let target = commit + kept;
    let program = match remains.usable().0 {
        Use::Start => {
            let found = Program::find(&etcd, remains.version()).await;
            Some(found.map_err(|error| failed(not_replayed(error)))?)
        }
        _ => None,
    };
    let mut state = (scratch, None);
    let mut served = None;
    for number in 0..TRIES {
        if let Some(program) = &program {
            let log = state.0.directory.path().join(format!("etcd-{number}.log"));
            let copy = state.0.copy();
            let said = program.replay(copy.path(), target, &log, true).await;
            served = said.map_err(|error| failed(not_replayed(error)))?;
        }
        let scratch = state.0;
        let look = move |task: &Task| {
            let found = checked(&scratch.copy().database(), scratch.directory.path(), task)?;
            Ok((scratch, Some(found)))
        };
        state = node.long(ACT.into(), Default::default(), look).await?;
        let revision = state.1.as_ref().map_or(0, |found| found.revision);
        match &served {
            // Something ended between its word and its end.
            Some(said) if said.current_revision != revision => {}
            _ => break,
        }
    }
    let (scratch, found) = state;
    let found = found.ok_or_else(|| failed(Fault::unexpected("the copy was not read")))?;
    let reached = found.content.consistent_index.unwrap_or(0);
    if reached < target {
        let why = format!("the copy ends at entry {reached}, where {target} was to be in it");
        return Err(failed(Fault::unexpected(why)));
    }
    let served = served.filter(|said| said.current_revision == found.revision);
    let recovered = RecoveredMember {
        size: snapshot_size(found.size),
        revision: found.revision,
        served: served.map(|said| SpecHash {
            revision: said.current_revision,
            compact_revision: (said.compact_revision >= 0).then_some(said.compact_revision),
            hash: said.hash,
        }),
        etcd: program.map(|program| program.version().to_string()),
        replayed: target - applied,
        kept,
        dropped: end - commit - kept,
    };
    let size = found.size;
    let work = move |out: &mut dyn Write, task: &Task| {
        let mut go_on = || task.tick().map_err(|fault| io::Error::other(fault.why));
        Ok(write_snapshot(&scratch.copy().database(), size, out, &mut go_on)?)
    };
    Ok((recovered, stream::written_by(node.name.clone(), ACT, node.deadline, work)))
}
