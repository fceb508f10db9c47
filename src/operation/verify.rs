//! `verify`: is what the vault holds still what was stored, and is that a snapshot?

use chrono::Utc;
use serde::Serialize;
use serde_json::json;
use vault::layout::Level as LevelName;
use vault::manifest::Proof;
use vault::repository::{Backup, ReadOptions, Receipt, Repository, RepositoryError};

use super::content::{SNAPSHOT_ROLE, SnapshotContent};
use super::failure::{Failure, chain};
use super::feed::ScanFeed;
use super::inspect::scan_failure;
use super::vaults::storage_failure;
use crate::datadir::hash::{HashError, Scan, ScanError};
use crate::datadir::inspect::{Inspection, Kind, Trailer};
use crate::event::Events;

/// How deep to look; each level holds the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The manifest against its own name, and that its objects are there.
    Manifest,
    /// Every stored byte against its digest.
    Stored,
    /// The database inside: structure, schema, trailer, counts, HashKV.
    Content,
}

impl Level {
    /// Its name, as in receipts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Stored => "stored",
            Self::Content => "content",
        }
    }
}

/// What was found of one backup.
#[derive(Debug, Serialize)]
pub struct Verified {
    /// Its id.
    pub id: String,
    /// Its cluster.
    pub cluster: String,
    /// The store's revision.
    pub revision: u64,
    /// How deep it was looked.
    pub level: Level,
    /// What the backup itself says: whether it is what the cluster held. A verification
    /// compares with what was stored, and cannot better that.
    pub proof: Proof,
    /// What is wrong; empty when all is well.
    pub problems: Vec<String>,
    /// Stored bytes read.
    pub stored_bytes: u64,
    /// Frames checked; `None` when none were opened.
    pub frames: Option<u64>,
    /// HashKV found inside, at level `content`.
    pub hash_kv: Option<u32>,
    /// Why no receipt was written, when it could not be.
    pub receipt_error: Option<String>,
    /// How long it took.
    pub seconds: f64,
}

impl Verified {
    /// Whether all is well.
    pub fn good(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Verifies one backup and writes the receipt. Damage is a result; an `Err` means
/// that it could not be looked at.
pub async fn verify(
    repository: &Repository,
    backup: &Backup,
    level: Level,
    options: &ReadOptions,
    events: &Events,
) -> Result<Verified, Failure> {
    let begun = std::time::Instant::now();
    let manifest = &backup.manifest;
    let mut found = Verified {
        id: manifest.id.to_string(),
        cluster: manifest.cluster.to_string(),
        revision: manifest.sequence,
        level,
        proof: manifest.proof.clone(),
        problems: Vec::new(),
        stored_bytes: 0,
        frames: None,
        hash_kv: None,
        receipt_error: None,
        seconds: 0.0,
    };
    for object in &manifest.objects {
        let what = || format!("backup {} was not verified", manifest.id);
        let scanned = level == Level::Content && object.role.as_str() == SNAPSHOT_ROLE;
        let result = match level {
            Level::Manifest => present(repository, object, &mut found).await,
            _ if scanned => match content(repository, backup, options, events, &mut found).await {
                Ok(looked) => Ok(looked.map_err(|error| scan_failure(what(), error))?),
                Err(error) => Err(error),
            },
            Level::Content if super::state::Part::of(object.role.as_str()).is_some() => {
                events.started(format!("verify {}", object.key), None);
                let checked =
                    super::state::check::check(repository, manifest, object, options).await;
                events.finished();
                checked.map(|problems| {
                    found.problems.extend(problems);
                    found.stored_bytes += object.stored_size;
                    found.frames = Some(found.frames.unwrap_or(0) + object.frames);
                })
            }
            _ => {
                events.started(format!("verify {}", object.key), Some(object.stored_size));
                let mut progress = |done| events.progress(done);
                let report = repository.verify_stored(object, options, &mut progress).await;
                events.finished();
                report.map(|report| {
                    found.stored_bytes += report.stored;
                    found.frames = match (found.frames, report.frames) {
                        (Some(before), Some(now)) => Some(before + now),
                        (before, now) => now.or(before),
                    };
                })
            }
        };
        match result {
            Ok(()) => {}
            Err(error) if error.is_corruption() => found.problems.push(chain(&error).join(": ")),
            Err(error) => return Err(storage_failure(what(), error)),
        }
    }
    found.seconds = begun.elapsed().as_secs_f64();
    found.receipt_error = write_receipt(repository, backup, &found).await;
    Ok(found)
}

/// Whether the object is there with the size that the manifest says.
async fn present(
    repository: &Repository,
    object: &vault::manifest::ObjectRecord,
    found: &mut Verified,
) -> Result<(), RepositoryError> {
    // A manifest that was read has valid keys only.
    let Ok(key) = vault::store::Key::new(object.key.clone()) else { return Ok(()) };
    match repository.store().head(&key).await? {
        None => found.problems.push(format!("{key} is missing")),
        Some(info) if info.size != object.stored_size => found.problems.push(format!(
            "{key} has {} bytes, the manifest says {}",
            info.size, object.stored_size
        )),
        Some(_) => {}
    }
    Ok(())
}

/// Streams the snapshot through the scan, and compares with the manifest. The inner
/// error says that this machine could not look, and nothing of the snapshot.
async fn content(
    repository: &Repository,
    backup: &Backup,
    options: &ReadOptions,
    events: &Events,
    found: &mut Verified,
) -> Result<Result<(), ScanError>, RepositoryError> {
    let manifest = &backup.manifest;
    let Some(object) = manifest.object(SNAPSHOT_ROLE) else { return Ok(Ok(())) };
    events.started(format!("verify {}", object.key), Some(object.plain_size));
    let scanned = scan_object(repository, object, options, events).await;
    events.finished();
    let scanned = scanned?;
    found.stored_bytes += object.stored_size;
    found.frames = Some(found.frames.unwrap_or(0) + object.frames);
    Ok(judge(manifest, scanned, found))
}

/// Tells damage, which goes to `found`, from a scan that could not be done.
fn judge(
    manifest: &vault::manifest::Manifest,
    scanned: Result<Scan, ScanError>,
    found: &mut Verified,
) -> Result<(), ScanError> {
    match scanned {
        Ok(scan) => return compare(manifest, &scan, found),
        Err(ScanError::Spill(error)) => return Err(ScanError::Spill(error)),
        Err(error @ ScanError::Open(_)) => {
            found.problems.push(format!("the snapshot is damaged: {}", chain(&error).join(": ")));
        }
    }
    Ok(())
}

/// Streams an object's plain bytes through a scan. The outer error is the vault's,
/// the inner one says that the bytes are no database.
pub(super) async fn scan_object(
    repository: &Repository,
    object: &vault::manifest::ObjectRecord,
    options: &ReadOptions,
    events: &Events,
) -> Result<Result<Scan, ScanError>, RepositoryError> {
    // The scan hashes every byte anyway, for etcd's own checksum.
    let options = ReadOptions { hash_plain: false, ..options.clone() };
    let mut reader = repository.open_object(object, &options).await?;
    let feed = ScanFeed::begin(super::inspect::spilling_options());
    let mut done = 0;
    let read = loop {
        match reader.next().await {
            Ok(Some(chunk)) => {
                done += chunk.len() as u64;
                // Of what is no database the rest is read too, against its digests.
                feed.take(chunk).await;
                events.progress(done);
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    let scanned = feed.end().await;
    read?;
    if let Ok(scan) = &scanned
        && scan.digests.as_ref().is_none_or(|digests| digests.whole != object.plain_sha256.0)
    {
        return Err(RepositoryError::Corrupt {
            object: object.key.clone(),
            frame: None,
            offset: None,
            why: "its plain bytes do not match their SHA-256".to_owned(),
            source: None,
        });
    }
    Ok(scanned)
}

/// Holds what was found against what the manifest says.
fn compare(
    manifest: &vault::manifest::Manifest,
    scan: &Scan,
    found: &mut Verified,
) -> Result<(), ScanError> {
    let now = match Inspection::of(scan, Kind::Snapshot, None) {
        Ok(now) => now,
        Err(HashError::Spill(error)) => return Err(ScanError::Spill(error)),
        Err(error) => {
            found.problems.push(chain(&error).join(": "));
            return Ok(());
        }
    };
    if now.trailer == Trailer::Absent {
        found.problems.push("the snapshot has no SHA-256 at its end".to_owned());
    }
    let damage = now.problems.iter().map(|problem| format!("the snapshot is damaged: {problem}"));
    let content = match SnapshotContent::of(manifest) {
        Ok(content) => content,
        Err(error) => {
            found.problems.extend(damage);
            found.problems.push(error);
            return Ok(());
        }
    };
    found.problems.extend(damage);
    found.hash_kv = now.hash_kv;
    let mut differ = |what: &str, stored: String, is: String| {
        if stored != is {
            found.problems.push(format!("{what}: the manifest says {stored}, the snapshot {is}"));
        }
    };
    let was = &content.database;
    differ("revision", manifest.sequence.to_string(), now.revision.to_string());
    differ("HashKV", shown(was.hash_kv), shown(now.hash_kv));
    differ("status hash", shown(was.status_hash), shown(now.status_hash));
    differ("keys", was.keys.to_string(), now.keys.to_string());
    differ("records", was.records.to_string(), now.records.to_string());
    differ("leases", was.content.leases.to_string(), now.content.leases.to_string());
    differ("users", was.content.users.to_string(), now.content.users.to_string());
    differ("roles", was.content.roles.to_string(), now.content.roles.to_string());
    Ok(())
}

fn shown(hash: Option<u32>) -> String {
    hash.map_or_else(|| "none".to_owned(), |hash| format!("{hash:08x}"))
}

/// Writes the receipt; a vault that only takes backups from this host refuses it,
/// which is no failure of the verification.
async fn write_receipt(
    repository: &Repository,
    backup: &Backup,
    found: &Verified,
) -> Option<String> {
    let level = match LevelName::new(found.level.as_str()) {
        Ok(level) => level,
        Err(error) => return Some(error.to_string()),
    };
    let receipt = Receipt {
        id: backup.manifest.id,
        time: Utc::now(),
        level,
        body: json!({
            "ok": found.good(),
            "problems": found.problems,
            "stored_bytes": found.stored_bytes,
            "hash_kv": found.hash_kv,
            "seconds": found.seconds,
            "tool": super::vaults::tool(),
        }),
    };
    let written = repository.put_receipt(&backup.manifest.place(), &receipt).await;
    written.err().map(|error| chain(&error).join(": "))
}
