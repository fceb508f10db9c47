//! The proof of a snapshot: its HashKV against what the live members return for the
//! same revision.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::datadir::hash::Scan;
use crate::etcd::cluster::Row;
use crate::etcd::{EtcdError, EtcdErrorKind, HashKv, MemberClient};
use crate::event::Events;
use crate::types::{HexId, Revision};

/// Which members are asked. Each holds its writes back while it computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// The member that gave the snapshot, then every other voter, the leader last.
    #[default]
    All,
    /// Only the member that gave the snapshot.
    Source,
    /// Nobody: the backup stays unproven.
    None,
}

/// What a member's HashKV says of the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The member holds what was stored.
    Same,
    /// The member holds something else.
    Different,
    /// It could not be compared.
    Unknown,
}

/// The comparison with one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberProof {
    /// Its name, or its address where the name is not known.
    pub member: String,
    /// Its id.
    pub member_id: Option<HexId>,
    /// The outcome.
    pub verdict: Verdict,
    /// What it returned, when it did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hash: Option<u32>,
    /// The compact revision that went into its hash.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub compact_revision: Option<Revision>,
    /// How long it took: so long the member did not write.
    pub milliseconds: u64,
    /// Why it could not be compared, or what differs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
}

/// A member that lags is asked again so often.
const CATCH_UP_TRIES: u32 = 10;
const CATCH_UP_WAIT: Duration = Duration::from_millis(300);

/// Asks the members one after another: a compaction beyond the revision makes the
/// comparison impossible, so this is to run as soon as the stream has ended.
pub async fn ask(
    rows: &[Row],
    source: HexId,
    scan: &Scan,
    policy: Policy,
    events: &Events,
) -> Vec<MemberProof> {
    let mut voters: Vec<&Row> = match policy {
        Policy::None => Vec::new(),
        Policy::Source => rows.iter().filter(|row| row.member_id() == Some(source)).collect(),
        Policy::All => rows.iter().filter(|row| !row.is_learner()).collect(),
    };
    voters.sort_by_key(|row| {
        let leader = row.status().is_some_and(|status| status.is_leader());
        (row.member_id() != Some(source), leader, row.label())
    });
    let mut proofs = Vec::new();
    for row in voters {
        events.started(format!("HashKV of {}", row.label()), None);
        let proof = ask_one(row, scan).await;
        events.finished();
        proofs.push(proof);
    }
    proofs
}

async fn ask_one(row: &Row, scan: &Scan) -> MemberProof {
    let mut proof = MemberProof {
        member: row.label(),
        member_id: row.member_id(),
        verdict: Verdict::Unknown,
        hash: None,
        compact_revision: None,
        milliseconds: 0,
        reason: None,
    };
    let mut client = match &row.answer {
        Ok((client, _)) => client.clone(),
        Err(silence) => {
            proof.reason = Some(silence.to_string());
            return proof;
        }
    };
    let begun = Instant::now();
    let answer = hash_at(&mut client, scan.revision).await;
    proof.milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    match answer {
        Ok(answer) => {
            proof.hash = Some(answer.hash);
            proof.compact_revision = Some(answer.compact_revision);
            let compact = Some(answer.compact_revision).filter(|&revision| revision >= 0);
            match scan.hash_kv(scan.revision, compact) {
                Ok(ours) if ours == answer.hash => proof.verdict = Verdict::Same,
                Ok(ours) => {
                    proof.verdict = Verdict::Different;
                    proof.reason = Some(format!(
                        "its HashKV at revision {} is {:08x}, the snapshot's is {ours:08x}",
                        scan.revision, answer.hash
                    ));
                }
                Err(error) => proof.reason = Some(error.to_string()),
            }
        }
        Err(reason) => proof.reason = Some(reason),
    }
    proof
}

/// The member's HashKV at exactly `revision`, comparable with an offline one.
async fn hash_at(client: &mut MemberClient, revision: Revision) -> Result<HashKv, String> {
    let mut tries = 0;
    let answer = loop {
        match client.hash_kv(revision).await {
            Err(EtcdError { kind: EtcdErrorKind::FutureRevision, .. })
                if tries < CATCH_UP_TRIES =>
            {
                tries += 1;
                tokio::time::sleep(CATCH_UP_WAIT).await;
            }
            other => break other,
        }
    };
    match answer {
        Ok(answer) if answer.compact_revision < revision => Ok(answer),
        // At the compact revision itself the server may answer from a cache, with the
        // hash of before the compaction. The present revision is never cached.
        Ok(_) | Err(EtcdError { kind: EtcdErrorKind::Compacted, .. }) => {
            match client.hash_kv(0).await {
                Ok(now) if now.current_revision == revision => Ok(now),
                Ok(_) => Err(format!("revision {revision} was compacted before it could be asked")),
                Err(error) => Err(error.detail),
            }
        }
        Err(EtcdError { kind: EtcdErrorKind::FutureRevision, .. }) => {
            Err(format!("it has not reached revision {revision}"))
        }
        Err(error) => Err(error.detail),
    }
}
