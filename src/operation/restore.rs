//! `restore data-dir`: data directories that etcd boots from, straight out of the
//! vault.

use std::path::PathBuf;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;
use vault::manifest::Proof;
use vault::repository::{Backup, ReadOptions, Repository};

use super::content::{SNAPSHOT_ROLE, SnapshotContent};
use super::failure::{Failure, FailureKind};
use super::interrupt::{Interrupt, stopped};
use super::vaults::storage_failure;
use crate::datadir::hash::ScanError;
use crate::datadir::restore::{Expected, ExpectedHash, Options, Restore, RestoreError, Restored};
use crate::event::Events;
use crate::types::HexId;

/// Where the snapshot comes from.
#[derive(Debug)]
pub enum Source<'a> {
    /// A backup in a vault.
    Backup(&'a Repository, &'a Backup),
    /// A plain snapshot in a file.
    File(PathBuf),
    /// A plain snapshot on standard input.
    Stdin,
}

/// What a restore made.
#[derive(Debug, Serialize)]
pub struct RestoreReport {
    /// The backup's id or the file.
    pub source: String,
    /// The directories, complete and on disk.
    pub members: Vec<RestoredMember>,
    /// The new cluster's id.
    pub cluster_id: HexId,
    /// The token in its ids.
    pub cluster_token: String,
    /// The snapshot's revision.
    pub snapshot_revision: i64,
    /// The revision that the members start with.
    pub revision: i64,
    /// The revision below which they answer "compacted".
    pub compact_revision: Option<i64>,
    /// What each member answers to HashKV before the first write.
    pub hash_kv: u32,
    /// Bytes of each database file.
    pub database_size: u64,
    /// Keys in the store.
    pub keys: u64,
    /// What is known of the truth of the source; `None` for a file.
    pub proof: Option<Proof>,
    /// How long it took.
    pub seconds: f64,
}

/// One restored member.
#[derive(Debug, Serialize)]
pub struct RestoredMember {
    /// Its name.
    pub name: String,
    /// Its new id.
    pub member_id: HexId,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Its log's directory, when it is not inside.
    pub wal_dir: Option<PathBuf>,
}

/// Bytes read from a file at a time.
const CHUNK: usize = 1 << 20;
/// Chunks on their way to the builder: a frame each, and frames are what costs memory.
const QUEUE: usize = 1;

/// Builds the directories.
pub async fn data_dir(
    source: Source<'_>,
    options: Options,
    events: &Events,
    interrupt: &mut Interrupt,
) -> Result<RestoreReport, Failure> {
    let begun = std::time::Instant::now();
    let (name, expected, total) = match &source {
        Source::Backup(_, backup) => expected(backup)?,
        Source::File(path) => {
            (path.display().to_string(), Expected::default(), path.metadata().ok().map(|m| m.len()))
        }
        Source::Stdin => ("standard input".to_owned(), Expected::default(), None),
    };
    let proof = match &source {
        Source::Backup(_, backup) => Some(backup.manifest.proof.clone()),
        Source::File(_) | Source::Stdin => None,
    };
    let what = format!("{name} was not restored");
    let targets = options.targets.clone();
    let cluster_token = options.initial_cluster_token.clone();
    let (sender, receiver) = mpsc::channel(QUEUE);
    let building = tokio::task::spawn_blocking(move || build(options, receiver, &expected));
    events.started(format!("restore {name}"), total);
    let from_file = !matches!(source, Source::Backup(..));
    // Given up, the builder's end of the channel goes, and it takes away what it made.
    let fed = tokio::select! {
        biased;
        signal = interrupt.signalled() => Err(stopped(&what, signal)),
        fed = feed(source, &what, sender, events) => fed,
    };
    events.finished();
    let built =
        building.await.map_err(|error| Failure::new(FailureKind::Error, &what).because(error))?;
    let restored = match (built, fed) {
        // The builder's own word first: a feed that it ended has no other reason.
        (Err(BuildError::Restore(error)), _) => {
            return Err(restore_failure(what, error, from_file));
        }
        (_, Err(failure)) => return Err(failure.state("nothing was left behind")),
        (Err(BuildError::Cut), Ok(())) => {
            return Err(Failure::new(FailureKind::Error, what).detail("the stream was cut"));
        }
        (Ok(restored), Ok(())) => restored,
    };
    let mut members = Vec::with_capacity(targets.len());
    for target in targets {
        let member = restored
            .membership
            .member(&target.name)
            .map_err(|error| Failure::new(FailureKind::Error, &what).because(error))?;
        members.push(RestoredMember {
            name: target.name,
            member_id: HexId(member.id),
            data_dir: target.data_dir,
            wal_dir: target.wal_dir,
        });
    }
    Ok(RestoreReport {
        source: name,
        members,
        cluster_id: HexId(restored.membership.cluster_id()),
        cluster_token,
        snapshot_revision: restored.scan.revision,
        revision: restored.revision,
        compact_revision: restored.compact_revision,
        hash_kv: restored.hash,
        database_size: restored.database_size,
        keys: restored.scan.live_keys,
        proof,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

fn expected(backup: &Backup) -> Result<(String, Expected, Option<u64>), Failure> {
    let id = backup.manifest.id.to_string();
    let object = backup.manifest.object(SNAPSHOT_ROLE).ok_or_else(|| {
        Failure::new(FailureKind::Usage, format!("{id} was not restored: it holds no snapshot"))
    })?;
    let content = SnapshotContent::of(&backup.manifest).map_err(|why| {
        Failure::new(FailureKind::Error, format!("{id} was not restored")).detail(why)
    })?;
    let expected = Expected {
        size: Some(object.plain_size),
        sha256: Some(object.plain_sha256.0),
        hash: content.hash_kv.map(|hash| ExpectedHash {
            revision: hash.revision,
            compact_revision: (hash.compact_revision >= 0).then_some(hash.compact_revision),
            hash: hash.hash,
        }),
    };
    Ok((id, expected, Some(object.plain_size)))
}

/// What is sent to the builder: bytes, or the word that there are no more. A channel
/// that ends without that word was cut.
enum Piece {
    Bytes(Bytes),
    End,
}

enum BuildError {
    Restore(RestoreError),
    Cut,
}

/// Dropped half-way, the restore takes away all that it made.
fn build(
    options: Options,
    mut pieces: mpsc::Receiver<Piece>,
    expected: &Expected,
) -> Result<Restored, BuildError> {
    let mut restore =
        Restore::begin(vault::durable::real(), options).map_err(BuildError::Restore)?;
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Bytes(bytes)) => restore.write(&bytes).map_err(BuildError::Restore)?,
            Some(Piece::End) => return restore.finish(expected).map_err(BuildError::Restore),
            None => return Err(BuildError::Cut),
        }
    }
}

async fn feed(
    source: Source<'_>,
    what: &str,
    sender: mpsc::Sender<Piece>,
    events: &Events,
) -> Result<(), Failure> {
    match source {
        Source::Backup(repository, backup) => {
            let Some(object) = backup.manifest.object(SNAPSHOT_ROLE) else { return Ok(()) };
            let storage = |error| storage_failure(what, error);
            // The builder hashes what it is given and knows what to expect. It also takes
            // longer for a frame than one thread does to decompress it: more of them
            // would only hold more frames in memory.
            let options = ReadOptions { hash_plain: false, workers: 1 };
            let mut reader = repository.open_object(object, &options).await.map_err(storage)?;
            let mut done = 0;
            while let Some(chunk) = reader.next().await.map_err(storage)? {
                done += chunk.len() as u64;
                if sender.send(Piece::Bytes(chunk)).await.is_err() {
                    // The builder has failed and says why.
                    return Ok(());
                }
                events.progress(done);
            }
        }
        Source::File(path) => {
            let file = std::fs::File::open(&path).map_err(|error| {
                let kind = match error.kind() {
                    std::io::ErrorKind::NotFound => FailureKind::Usage,
                    _ => FailureKind::Error,
                };
                Failure::new(kind, what)
                    .because(error)
                    .hint("a backup is named by its id, latest or a time; a file by its path")
            })?;
            pump(file, what, &sender, events).await?;
        }
        Source::Stdin => pump(std::io::stdin(), what, &sender, events).await?,
    }
    let _ = sender.send(Piece::End).await;
    Ok(())
}

/// Reads on a thread. That thread may hang in a pipe for ever, so it never holds the
/// builder's channel itself.
async fn pump(
    mut from: impl std::io::Read + Send + 'static,
    what: &str,
    sender: &mpsc::Sender<Piece>,
    events: &Events,
) -> Result<(), Failure> {
    let (to_feed, mut from_thread) = mpsc::channel(1);
    let reading = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
        loop {
            let mut chunk = vec![0; CHUNK];
            let mut filled = 0;
            while filled < chunk.len() {
                match from.read(&mut chunk[filled..]) {
                    Ok(0) => break,
                    Ok(read) => filled += read,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            if filled == 0 {
                return Ok(());
            }
            chunk.truncate(filled);
            if to_feed.blocking_send(Bytes::from(chunk)).is_err() {
                return Ok(());
            }
        }
    });
    let mut done = 0;
    while let Some(chunk) = from_thread.recv().await {
        done += chunk.len() as u64;
        if sender.send(Piece::Bytes(chunk)).await.is_err() {
            // The builder has failed and says why; the thread may wait for ever.
            return Ok(());
        }
        events.progress(done);
    }
    reading
        .await
        .map_err(|error| Failure::new(FailureKind::Error, what).because(error))?
        .map_err(|error| Failure::new(FailureKind::Error, what).because(error))
}

fn restore_failure(what: String, error: RestoreError, from_file: bool) -> Failure {
    let damaged = if from_file {
        "etcdvault inspect tells more of a file; a whole snapshot ends in its SHA-256"
    } else {
        "other backups may be good: etcdvault verify --all; keep the damaged one"
    };
    let (kind, hint) = match &error {
        RestoreError::Scan(ScanError::Spill(_)) => (FailureKind::Error, None),
        RestoreError::Open(_)
        | RestoreError::Scan(_)
        | RestoreError::Size { .. }
        | RestoreError::Digest
        | RestoreError::Trailer
        | RestoreError::Damaged { .. }
        | RestoreError::Hash { .. } => (FailureKind::Corrupt, Some(damaged)),
        RestoreError::NoTrailer { .. } => (
            FailureKind::Corrupt,
            Some(
                "a database copied from a data directory has no checksum: --skip-hash-check \
                 accepts it; a snapshot without one was cut short",
            ),
        ),
        RestoreError::BumpFlags => {
            (FailureKind::Usage, Some("--bump-revision 0 alone turns both off"))
        }
        RestoreError::Bump { .. } => {
            (FailureKind::Usage, Some("--bump-revision takes a smaller number, or 0"))
        }
        RestoreError::Membership(_) => (
            FailureKind::Usage,
            Some(
                "--initial-cluster m1=https://10.0.0.11:2380,m2=… names every member, --name one \
                 of them, --initial-advertise-peer-urls its URLs there; or --all-members",
            ),
        ),
        RestoreError::Occupied { .. } => (
            FailureKind::Usage,
            Some("nothing there was touched; name another directory, or move this one away first"),
        ),
        RestoreError::NoTarget
        | RestoreError::NotADirectory { .. }
        | RestoreError::Overlap { .. } => (FailureKind::Usage, None),
        RestoreError::TooNew(_) => (
            FailureKind::Usage,
            Some("--etcd-version names the etcd that will run; take one that is new enough"),
        ),
        RestoreError::Busy { .. } => (
            FailureKind::Busy,
            Some("wait for it; if it runs nowhere, remove what it builds and try again"),
        ),
        _ => (FailureKind::Error, None),
    };
    let state = match error {
        RestoreError::NotDurable { .. } => "every directory asked for is complete; check the disk",
        RestoreError::Partly { .. } => "what is named was left behind, and nothing else",
        _ => "nothing was left behind",
    };
    let mut failure = Failure::new(kind, what).because(error).state(state);
    failure.hint = hint.map(str::to_owned);
    failure
}
