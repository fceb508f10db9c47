//! `recover data-dir`: what is left of members without a quorum and without a
//! backup becomes a snapshot.
//!
//! - Nothing that was given is changed: the best directory is copied, and everything
//!   else happens in the copy, which is removed at the end.
//! - etcd's own program brings the log's entries into the database, started alone on
//!   loopback with `--force-new-cluster`: no client and no old member can reach it.
//! - Entries that nobody knows to be committed are kept unless that is refused, and
//!   counted in both cases.
//! - A snapshot appears complete and checked, or not at all.

pub mod cluster;

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::failure::{Failure, FailureKind};
use super::files::{Snapshot, as_snapshot};
use super::inspect::spilling_options;
use super::interrupt::Interrupt;
use crate::datadir::inspect::{Inspection, inspect};
use crate::datadir::layout::DataDir;
use crate::datadir::remains::{LogRemains, Remains, Use, copy_member, keep_tail, rank};
use crate::etcd::alone::{AloneError, Program};
use crate::event::Events;
use crate::types::HexId;

const WHAT: &str = "nothing was recovered";

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// What is left: data directories, `member` directories or databases.
    pub places: Vec<PathBuf>,
    /// Where the log of the only place lies, if not inside.
    pub wal_dir: Option<PathBuf>,
    /// The snapshot's file; `None` only looks.
    pub output: Option<PathBuf>,
    /// The etcd program.
    pub etcd: PathBuf,
    /// Whether entries behind the commit are left out.
    pub drop_uncommitted: bool,
}

/// What is left at a place.
#[derive(Debug, Serialize)]
pub struct Place {
    /// As it was given; on a node, `NODE:DIRECTORY`.
    pub path: PathBuf,
    /// The node, where it is on one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Whether a process has it open.
    pub running: bool,
    /// The member's name, as its database has it.
    pub name: Option<String>,
    /// What can be made of it.
    pub usable: Use,
    /// Why not more.
    pub why: Option<String>,
    /// Its log.
    pub log: Option<LogRemains>,
    /// Its database's revision.
    pub revision: Option<i64>,
    /// The last entry in its database.
    pub consistent_index: Option<u64>,
    /// Its keys.
    pub keys: Option<u64>,
    /// The etcd that wrote it, as far as it shows.
    pub version: Option<String>,
    /// What could not be read.
    pub problems: Vec<String>,
}

/// What was found and done.
#[derive(Debug, Serialize)]
pub struct RecoverReport {
    /// What is left, the best first.
    pub places: Vec<Place>,
    /// Why the first is the best.
    pub reason: String,
    /// Places of another cluster than the first.
    pub strangers: Vec<PathBuf>,
    /// What was made of it; `None` when only looked at.
    pub recovered: Option<Recovered>,
}

/// The snapshot that was made.
#[derive(Debug, Serialize)]
pub struct Recovered {
    /// Its file.
    pub path: PathBuf,
    /// Its bytes.
    pub size: u64,
    /// SHA-256 of all of them.
    pub sha256: String,
    /// Its revision.
    pub revision: i64,
    /// Its keys.
    pub keys: u64,
    /// Its HashKV at that revision.
    pub hash_kv: Option<u32>,
    /// Entries of the log that were not in the database and are now.
    pub replayed: u64,
    /// Entries behind the commit that are in it.
    pub uncommitted_kept: u64,
    /// Entries behind the commit that are not.
    pub uncommitted_dropped: u64,
    /// The version of the etcd that did it; `None` when the database had everything.
    pub etcd: Option<String>,
}

struct Found {
    place: Place,
    remains: Remains,
    directory: Option<DataDir>,
}

/// Looks at what is left and, with an output, makes a snapshot of the best of it.
pub async fn data_dir(
    options: Options,
    events: &Events,
    interrupt: &mut Interrupt,
) -> Result<RecoverReport, Failure> {
    check(&options)?;
    let looked = interrupt.or(WHAT, look(&options, events)).await??;
    let Looked { mut found, order } = looked;
    let reason = reason(&found, &order);
    let best = order[0];
    let strangers = strangers(&found, best);
    let recovered = match &options.output {
        None => None,
        Some(output) => {
            refuse(&found[best], &strangers)?;
            let work = recover(&found[best], output, &options, events);
            Some(interrupt.or(WHAT, work).await??)
        }
    };
    let mut places: Vec<(usize, Place)> = Vec::new();
    for (position, found) in found.drain(..).enumerate() {
        places.push((order.iter().position(|&at| at == position).unwrap_or(position), found.place));
    }
    places.sort_by_key(|(rank, _)| *rank);
    let places = places.into_iter().map(|(_, place)| place).collect();
    Ok(RecoverReport { places, reason, strangers, recovered })
}

/// Mistakes that can be told before anything is read.
fn check(options: &Options) -> Result<(), Failure> {
    let usage = |why: String| Failure::new(FailureKind::Usage, format!("{WHAT}: {why}"));
    if options.wal_dir.is_some() && options.places.len() != 1 {
        return Err(usage("--wal-dir belongs to one directory, and there are several".into())
            .hint("copy each log to member/wal of its directory"));
    }
    if let Some(output) = &options.output
        && output.symlink_metadata().is_ok()
    {
        return Err(usage(format!("{} exists", output.display()))
            .hint("name a file that does not exist; nothing is overwritten"));
    }
    for (at, place) in options.places.iter().enumerate() {
        if options.places[..at].contains(place) {
            return Err(usage(format!("{} is given twice", place.display())));
        }
    }
    Ok(())
}

struct Looked {
    found: Vec<Found>,
    /// Positions, the best first.
    order: Vec<usize>,
}

async fn look(options: &Options, events: &Events) -> Result<Looked, Failure> {
    let mut found = Vec::new();
    for path in &options.places {
        events.started(format!("read {}", path.display()), None);
        let (owned, wal_dir) = (path.clone(), options.wal_dir.clone());
        let read = tokio::task::spawn_blocking(move || read(owned, wal_dir)).await;
        events.finished();
        found.push(read.map_err(|error| Failure::new(FailureKind::Error, WHAT).because(error))??);
    }
    let order = rank(found.iter().map(|found| &found.remains));
    Ok(Looked { found, order })
}

/// What stands at `path`.
fn read(path: PathBuf, wal_dir: Option<PathBuf>) -> Result<Found, Failure> {
    let usage = |why: String| Failure::new(FailureKind::Usage, format!("{WHAT}: {why}"));
    let shown = path.display().to_string();
    let metadata =
        path.metadata().map_err(|error| usage(format!("{shown} cannot be read")).because(error))?;
    let directory = if metadata.is_file() {
        None
    } else if path.join("member").is_dir() {
        Some(DataDir::new(&path, wal_dir))
    } else if path.join("snap").is_dir() {
        Some(DataDir::of_member(&path, wal_dir))
    } else {
        return Err(usage(format!("{shown} is no data directory of etcd")).hint(
            "a data directory (in it is member), a member directory (in it are snap and wal), or \
             a database file",
        ));
    };
    if let Some(directory) = &directory
        && directory.is_in_use().map_err(|error| usage(shown.clone()).because(error))?
    {
        return Err(Failure::new(FailureKind::Busy, format!("{WHAT}: a process has {shown} open"))
            .hint("stop that etcd first, or give a copy that was made while it was stopped"));
    }
    let remains = match &directory {
        Some(directory) => Remains::read(directory, spilling_options()),
        None => Remains::of_database(&path, spilling_options()),
    };
    Ok(Found { place: place(path, &remains), remains, directory })
}

fn place(path: PathBuf, remains: &Remains) -> Place {
    let (usable, why) = remains.usable();
    let database = remains.database.as_ref();
    let of_log = remains.log.as_ref().and_then(|log| log.member);
    let member = |database: &Inspection| {
        let members = &database.content.members;
        let mut mine = members.iter().filter(|member| Some(HexId(member.id)) == of_log);
        mine.next().map(|member| member.name.clone())
    };
    Place {
        path,
        node: None,
        running: false,
        name: database.and_then(member).filter(|name| !name.is_empty()),
        usable,
        why,
        log: remains.log.clone(),
        revision: database.map(|database| database.revision),
        consistent_index: database.and_then(|database| database.content.consistent_index),
        keys: database.map(|database| database.keys),
        version: database.and_then(|database| {
            let content = &database.content;
            content.storage_version.clone().or_else(|| content.cluster_version.clone())
        }),
        problems: remains.problems.clone(),
    }
}

/// Why the first of `order` is the best.
fn reason(found: &[Found], order: &[usize]) -> String {
    let best = &found[order[0]].place;
    let path = best.path.display();
    let Some(second) = order.get(1).map(|&at| &found[at].place) else {
        return format!("{path} is all there is");
    };
    if best.usable != second.usable {
        return format!("{path} is the only one from which etcd starts, or the best of those");
    }
    let last = |place: &Place| {
        place.log.as_ref().map(|log| (log.last_term.unwrap_or(0), log.last_index.unwrap_or(0)))
    };
    match (last(best), last(second)) {
        (Some((term, _)), Some((other, _))) if term > other => {
            format!("the last entry of {path} is of the latest term, {term}")
        }
        (Some((term, index)), Some((other, less))) if term == other && index > less => {
            format!("{path} has the longest log: {} entries more than the next", index - less)
        }
        (Some(a), Some(b)) if a == b => {
            format!("{path} and the next have the same last entry; the first that was given counts")
        }
        _ => format!("{path} came farthest"),
    }
}

/// Places whose log names another cluster than that of `best`.
fn strangers(found: &[Found], best: usize) -> Vec<PathBuf> {
    let cluster = |found: &Found| found.remains.log.as_ref().and_then(|log| log.cluster);
    let Some(ours) = cluster(&found[best]) else { return Vec::new() };
    let other = |found: &&Found| cluster(found).is_some_and(|cluster| cluster != ours);
    found.iter().filter(other).map(|found| found.place.path.clone()).collect()
}

/// What must not be gone on from.
fn refuse(best: &Found, strangers: &[PathBuf]) -> Result<(), Failure> {
    if let Some(stranger) = strangers.first() {
        let why = format!(
            "{WHAT}: {} and {} are of different clusters",
            best.place.path.display(),
            stranger.display()
        );
        return Err(Failure::new(FailureKind::Usage, why)
            .hint("give the directories of one cluster's members only"));
    }
    if best.place.usable == Use::Nothing {
        let why = best.place.why.clone().unwrap_or_default();
        let mut failure = Failure::new(FailureKind::Corrupt, WHAT)
            .detail(format!("{}: {why}", best.place.path.display()));
        for problem in &best.place.problems {
            failure = failure.detail(problem.clone());
        }
        return Err(failure.hint(
            "look for another copy: member/snap/db of any member, or a file of etcdctl snapshot \
             save",
        ));
    }
    Ok(())
}

async fn recover(
    best: &Found,
    output: &Path,
    options: &Options,
    events: &Events,
) -> Result<Recovered, Failure> {
    let failed = |what: &str| Failure::new(FailureKind::Error, format!("{WHAT}: {what}"));
    let (applied, commit, last) = best.remains.extent();
    let behind = last - commit;
    let kept = if options.drop_uncommitted { 0 } else { behind };
    let target = commit + kept;
    let directory = output.parent().filter(|at| !at.as_os_str().is_empty());
    let scratch = tempfile::Builder::new()
        .prefix(".etcdvault-recover-")
        .tempdir_in(directory.unwrap_or(Path::new(".")))
        .map_err(|error| failed("a folder beside the snapshot cannot be made").because(error))?;
    let (source, etcd) = match &best.directory {
        Some(from) if target > applied => {
            let copy = DataDir::new(scratch.path(), None);
            events.started(format!("copy {}", best.place.path.display()), None);
            let (from, to) = (from.clone(), copy.clone());
            let copied = tokio::task::spawn_blocking(move || {
                copy_member(&from, &to, &mut || Ok(()))?;
                if kept > 0 {
                    keep_tail(&to)?;
                }
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
            });
            let copied = copied.await;
            events.finished();
            copied
                .map_err(|error| failed("the copy failed").because(error))?
                .map_err(|error| failed("the copy failed").because(error).hint(ROOM))?;
            let program = Program::find(&options.etcd, best.remains.version()).await;
            let program = program.map_err(not_replayed)?;
            let version = program.version();
            events.started(format!("replay the log with etcd {version}"), None);
            let log = scratch.path().join("etcd.log");
            let replayed = program.replay(copy.path(), target, &log, false).await;
            events.finished();
            replayed.map_err(not_replayed)?;
            (copy.database(), Some(version.to_string()))
        }
        Some(from) => (from.database(), None),
        None => (best.place.path.clone(), None),
    };
    events.started(format!("write {}", output.display()), None);
    let owned = output.to_owned();
    let written = tokio::task::spawn_blocking(move || {
        let snapshot = as_snapshot(&source, &owned)?;
        Ok::<_, Failure>((inspect(snapshot.file.path(), spilling_options()), snapshot))
    })
    .await;
    events.finished();
    let (inspected, snapshot) =
        written.map_err(|error| failed("the snapshot was not written").because(error))??;
    let inspected =
        inspected.map_err(|error| Failure::new(FailureKind::Corrupt, WHAT).because(error))?;
    if !inspected.sound {
        let mut failure = Failure::new(FailureKind::Corrupt, format!("{WHAT}: it is damaged"));
        for problem in inspected.problems.iter().take(10) {
            failure = failure.detail(problem.clone());
        }
        return Err(failure);
    }
    let reached = inspected.content.consistent_index.unwrap_or(0);
    if reached < target {
        return Err(failed(&format!(
            "the database ends at entry {reached}, where entry {target} was to be in it"
        )));
    }
    let Snapshot { file, size, sha256 } = snapshot;
    let io = |error: std::io::Error| failed("the snapshot was not written").because(error);
    file.as_file().sync_all().map_err(io)?;
    file.persist_noclobber(output).map_err(|error| io(error.error))?;
    super::files::sync_parent(output).map_err(io)?;
    Ok(Recovered {
        path: output.to_owned(),
        size,
        sha256,
        revision: inspected.revision,
        keys: inspected.keys,
        hash_kv: inspected.hash_kv,
        replayed: target - applied,
        uncommitted_kept: kept,
        uncommitted_dropped: behind - kept,
        etcd,
    })
}

const ROOM: &str = "the snapshot's folder needs room for a copy of the data directory and for the \
     snapshot";

/// Why etcd did not do it.
fn not_replayed(error: AloneError) -> Failure {
    let kind = if error.program { FailureKind::Usage } else { FailureKind::Error };
    let mut failure = Failure::new(kind, format!("{WHAT}: {}", error.why));
    for line in error.log {
        failure = failure.detail(format!("etcd: {line}"));
    }
    failure.hint = error.hint;
    match error.source {
        Some(source) => failure.because(source),
        None => failure,
    }
}
