//! A backup of what a member left: a node makes a snapshot of a copy, and it goes into the
//! vault as one of a member does, scanned on the way.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::Utc;
use futures_util::StreamExt as _;
use serde::Serialize;
use vault::layout::{BackupId, ClusterName, Kind, LineageName, Place, Role};
use vault::manifest::{Manifest, Proof, ProofState};
use vault::repository::{NewObject, Repository, WriteOptions};
use vault::store::SizeHint;

use super::WHAT;
use crate::datadir::hash::{Digests, Scan};
use crate::datadir::remains::LogRemains;
use crate::event::Events;
use crate::node::{Node, NodeError, NodeErrorKind, RecoverSpec, RecoveredMember};
use crate::operation::backup::commit;
use crate::operation::content::{self, Origin, SnapshotContent, Way};
use crate::operation::failure::{Failure, FailureKind};
use crate::operation::feed::ScanFeed;
use crate::operation::inspect::{scan_failure, spilling_options};
use crate::operation::proof::{MemberProof, Verdict};
use crate::operation::vaults::{self, storage_failure};

/// The lineage where no log tells whose the remains are.
const UNKNOWN_LINEAGE: &str = "recovered";
/// The label that tells whose remains a backup was made of.
const LABEL: &str = "recovered-from";

/// The backup that was made.
#[derive(Debug, Clone, Serialize)]
pub struct RecoveredBackup {
    /// Its id.
    pub id: String,
    /// Its revision.
    pub revision: i64,
    /// Its keys.
    pub keys: u64,
    /// Bytes of the snapshot.
    pub size: u64,
    /// Entries of the log that were not in the database and are now.
    pub replayed: u64,
    /// Entries behind the commit that are in it.
    pub uncommitted_kept: u64,
    /// Entries behind the commit that are not.
    pub uncommitted_dropped: u64,
    /// The version of the etcd that did it; `None` where none could.
    pub etcd: Option<String>,
    /// Whether it is what that etcd held.
    pub proof: Proof,
}

/// Of what it is made.
pub(super) struct Chosen<'a> {
    pub(super) cluster: &'a ClusterName,
    /// `NODE:DIRECTORY`.
    pub(super) place: String,
    /// The member's name.
    pub(super) member: Option<String>,
    pub(super) log: Option<&'a LogRemains>,
}

pub(super) struct Stored {
    pub(super) backup: RecoveredBackup,
    pub(super) kept: u64,
    pub(super) dropped: u64,
}

fn lost(error: NodeError) -> Failure {
    let kind = match error.kind {
        // Another program, or more room, is a person's to give.
        NodeErrorKind::Unsupported => FailureKind::Usage,
        _ => FailureKind::Error,
    };
    let mut failure = Failure::new(kind, WHAT);
    failure.details = error.details.clone();
    failure.hint = error.hint.clone();
    failure.because(error).state("the members' directories are as they were")
}

fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
    Failure::new(FailureKind::Error, WHAT)
        .because(error)
        .state("the members' directories are as they were")
}

/// Makes it and stores it.
pub(super) async fn store(
    repository: &Repository,
    node: &Arc<dyn Node>,
    spec: RecoverSpec,
    chosen: Chosen<'_>,
    write: &WriteOptions,
    events: &Events,
) -> Result<Stored, Failure> {
    let started = Utc::now();
    events.started(format!("{}: copy, and bring the log into the copy", node.name()), None);
    let made = node.recover_member(spec).await;
    events.finished();
    let (recovered, mut snapshot) = made.map_err(lost)?;
    let log = chosen.log;
    let cluster_id = log.and_then(|log| log.cluster);
    let lineage = cluster_id.map_or_else(|| UNKNOWN_LINEAGE.to_owned(), |id| id.to_string());
    let lineage = LineageName::new(lineage).map_err(failed)?;
    let place = Place { cluster: chosen.cluster.clone(), lineage };
    let id = BackupId::generate();
    let object = NewObject {
        place: place.clone(),
        id,
        role: Role::new(content::SNAPSHOT_ROLE).map_err(failed)?,
        name: content::SNAPSHOT_NAME.to_owned(),
        plain_size: SizeHint::Exact(recovered.size),
    };
    let storage = |error| storage_failure(WHAT, error);
    // The scan hashes every byte anyway.
    let how = WriteOptions { hash_plain: false, ..write.clone() };
    let mut writer = repository.create_object(object, &how).await.map_err(storage)?;
    events.started(format!("store the snapshot of {}", chosen.place), Some(recovered.size));
    let feed = ScanFeed::begin(spilling_options());
    let mut received = 0_u64;
    let pumped = loop {
        let chunk = match snapshot.next().await {
            None => break Ok(()),
            Some(Ok(chunk)) => chunk,
            Some(Err(error)) => break Err(lost(error)),
        };
        received = received.saturating_add(chunk.len() as u64);
        if received > recovered.size {
            break Err(failed("more came than the node said"));
        }
        let goes_on = feed.take(chunk.clone()).await;
        if let Err(error) = writer.write(chunk).await {
            break Err(storage(error));
        }
        events.progress(received);
        if !goes_on {
            break Ok(());
        }
    };
    events.finished();
    drop(snapshot);
    let scanned = feed.end().await;
    let checked = pumped.and_then(|()| {
        let scan = scanned.map_err(|error| scan_failure(WHAT.to_owned(), error))?;
        let proof = check(&scan, &recovered, &chosen)?;
        Ok((scan, proof))
    });
    let (scan, members, proof) = match checked {
        Ok((scan, (member, proof))) => (scan, vec![member], proof),
        Err(failure) => {
            // Best effort: what stays is swept later and never listed.
            let _ = writer.abort().await;
            return Err(failure);
        }
    };
    let whole = scan.digests.as_ref().map(|digests| vault::digest::Sha256(digests.whole));
    let whole = whole.ok_or_else(|| failed("the snapshot was not hashed"))?;
    let written = writer.finish_with(whole).await.map_err(storage)?;
    let origin = Origin {
        way: Way::Recovered,
        member: chosen.member.clone(),
        place: chosen.place.clone(),
        member_id: log.and_then(|log| log.member),
        cluster_id,
        etcd_version: recovered.etcd.clone(),
        raft_term: log.and_then(|log| log.last_term),
        raft_applied_index: scan.content.consistent_index,
        was_leader: None,
        asked_at: Some(started),
        time_source: None,
    };
    let content = SnapshotContent::new(origin, &scan, members, None).map_err(failed)?;
    let manifest = Manifest {
        id,
        kind: Kind::new(content::SNAPSHOT_KIND).map_err(failed)?,
        cluster: place.cluster.clone(),
        lineage: place.lineage.clone(),
        sequence: u64::try_from(scan.revision).unwrap_or(0),
        started,
        finished: Utc::now(),
        tool: vaults::tool(),
        proof: proof.clone(),
        labels: BTreeMap::from([(LABEL.to_owned(), node.name().to_string())]),
        objects: vec![written.record.clone()],
        content_schema: content::schema(),
        content: content.to_value(),
    };
    commit(repository, &manifest, &place).await.map_err(storage)?;
    let RecoveredMember { replayed, kept, dropped, etcd, .. } = recovered;
    let backup = RecoveredBackup {
        id: id.to_string(),
        revision: scan.revision,
        keys: scan.live_keys,
        size: written.record.plain_size,
        replayed,
        uncommitted_kept: kept,
        uncommitted_dropped: dropped,
        etcd,
        proof,
    };
    Ok(Stored { backup, kept, dropped })
}

/// Holds what came against what the node and its etcd said of it.
fn check(
    scan: &Scan,
    recovered: &RecoveredMember,
    chosen: &Chosen<'_>,
) -> Result<(MemberProof, Proof), Failure> {
    let corrupt = |why: String| {
        Failure::new(FailureKind::Corrupt, WHAT)
            .detail(why)
            .state("the members' directories are as they were")
    };
    if scan.digests.as_ref().and_then(Digests::trailer_ok) != Some(true) {
        return Err(corrupt("the SHA-256 at the end of the snapshot does not match".to_owned()));
    }
    if !scan.is_sound() {
        let mut failure = corrupt("the snapshot is damaged".to_owned());
        for problem in scan.problems.iter().take(10) {
            failure = failure.detail(crate::operation::failure::chain(problem).join(": "));
        }
        return Err(failure);
    }
    if scan.revision != recovered.revision {
        let (is, said) = (scan.revision, recovered.revision);
        return Err(corrupt(format!("the snapshot is of revision {is}, the node said {said}")));
    }
    let mut member = MemberProof {
        member: chosen.member.clone().unwrap_or_else(|| chosen.place.clone()),
        member_id: chosen.log.and_then(|log| log.member),
        verdict: Verdict::Unknown,
        hash: None,
        compact_revision: None,
        milliseconds: 0,
        reason: None,
    };
    let state = match &recovered.served {
        None => {
            let why = match &recovered.etcd {
                Some(_) => "etcd, alone over the copy, told no HashKV of this revision",
                None => "no etcd could start from what is left: it is the database as it lay there",
            };
            member.reason = Some(why.to_owned());
            ProofState::NotProven
        }
        Some(served) => {
            let ours = scan.hash_kv(served.revision, served.compact_revision).map_err(failed)?;
            if ours != served.hash {
                return Err(corrupt(format!(
                    "etcd, alone over the copy, told HashKV {:08x}; the snapshot's is {ours:08x}",
                    served.hash
                )));
            }
            member.verdict = Verdict::Same;
            member.hash = Some(served.hash);
            member.compact_revision = Some(served.compact_revision.unwrap_or(-1));
            ProofState::Proven
        }
    };
    let reasons = member.reason.iter().map(|why| format!("{}: {why}", member.member)).collect();
    Ok((member, Proof { state, reasons }))
}
