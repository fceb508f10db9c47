//! A member's directory from a snapshot, by [`datadir::restore`](crate::datadir::restore).
//!
//! It is built in a temporary directory beside its place, that is on the file system
//! of the data that it replaces, and gets its name at the end, the log's directory
//! before the other where it lies elsewhere.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vault::durable;

use super::super::member;
use super::super::{BuiltMember, MemberSpec, NodeErrorKind};
use super::fault::{Fault, Task};
use super::temporary::{self, Temporary};
use super::unpack::Carried;
use super::{at, digest};
use crate::datadir::restore::{Expected, Restore, RestoreError, Restored};

/// Bytes handed on at a time.
const CHUNK: usize = 1 << 20;

/// The end of a restore reads and syncs what was written without a word; it may take
/// so long.
const END: Duration = Duration::from_secs(3600);

/// How often it is said meanwhile that something is done.
const PULSE: Duration = Duration::from_millis(500);

/// Builds the member at `path`, where nothing may stand, from the snapshot `from`.
pub(super) fn build(
    path: &Path,
    spec: &MemberSpec,
    mut from: impl Read,
    task: &Task,
) -> Result<BuiltMember, Fault> {
    let (parent, name) = free(path)?;
    let wal = spec.wal.as_deref().map(free).transpose()?;
    temporary::sweep(&parent);
    let data = Temporary::directory(&parent)?;
    let data_dir = beside(path, &data);
    let log = match &wal {
        Some((parent, _)) => Some(Temporary::directory(parent)?),
        None => None,
    };
    let log_dir = match (&spec.wal, &log) {
        (Some(wal), Some(log)) => Some(beside(wal, log).join("wal")),
        _ => None,
    };
    let options =
        member::options(spec, &data_dir, log_dir.as_deref()).map_err(Fault::unexpected)?;
    let mut restore = Restore::begin(durable::real(), options).map_err(refused)?;
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = fill(&mut from, &mut buffer)?;
        if count == 0 {
            break;
        }
        task.tick()?;
        restore.write(&buffer[..count]).map_err(refused)?;
    }
    let restored = finish(restore, &member::expected(spec), task)?;
    let member = data_dir.join("member");
    let built = member::built(&restored, spec, digest::digest(&member, task)?).map_err(refused)?;
    task.tick()?;
    let mut log_stands = None;
    if let (Some((parent, name)), Some(from)) = (&wal, &log_dir) {
        let place = at::magic(parent);
        rename(from, &place, name)?;
        log_stands = Some(place.join(name));
    }
    let done = rename(&member, &at::magic(&parent), &name);
    if let (Err(_), Some(log)) = (&done, log_stands) {
        // Best effort: alone it is of no use, and says itself what it is.
        let _ = durable::remove_all(&*durable::real(), &log);
    }
    done.map(|()| built)
}

fn rename(from: &Path, place: &Path, name: &OsString) -> Result<(), Fault> {
    let fs = durable::real();
    fs.rename_no_replace(from, &place.join(name))?;
    Ok(fs.sync_dir(place)?)
}

/// The directory of `path`, opened, and the name there, which is free.
fn free(path: &Path) -> Result<(OwnedFd, OsString), Fault> {
    let (parent, name) = at::parent(path)?;
    if path.file_name().is_none() || at::handle_if(&parent, &name)?.is_some() {
        let fault = Fault::new(NodeErrorKind::AlreadyExists, "something stands there already");
        return Err(fault.at(path));
    }
    Ok((parent, name))
}

fn beside(path: &Path, temporary: &Temporary<'_>) -> PathBuf {
    path.with_file_name(temporary.file_name())
}

/// As many bytes as there are, at most a buffer full; 0 at the end.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> Result<usize, Fault> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(match error.downcast::<Carried>() {
                    Ok(Carried(fault)) => fault,
                    Err(error) => error.into(),
                });
            }
        }
    }
    Ok(filled)
}

/// Ends the restore, and says meanwhile that it goes on, as long as it may.
fn finish(restore: Restore, expected: &Expected, task: &Task) -> Result<Restored, Fault> {
    task.tick()?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let pulse = scope.spawn(|| {
            for _ in 0..END.as_millis() / PULSE.as_millis() {
                std::thread::park_timeout(PULSE);
                if done.load(Ordering::Relaxed) || task.tick().is_err() {
                    return;
                }
            }
        });
        let restored = restore.finish(expected);
        done.store(true, Ordering::Relaxed);
        pulse.thread().unpark();
        restored.map_err(refused)
    })
}

fn refused(error: RestoreError) -> Fault {
    let (why, system) = member::refusal(&error);
    let kind = system.map_or(member::REFUSED, |error| Fault::from(error).kind);
    Fault::new(kind, why)
}
