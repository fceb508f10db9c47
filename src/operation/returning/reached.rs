//! What a return of data asks of the vault and of the cluster's members.

use futures_util::StreamExt as _;
use vault::repository::{ReadOptions, Repository};

use crate::etcd::cluster::{Reach, observe};
use crate::etcd::{ConnectionSettings, Connector};
use crate::node::{ByteStream, NodeError, NodeErrorKind, NodeName};
use crate::operation::content::SNAPSHOT_ROLE;
use crate::operation::failure::{Failure, FailureKind, chain};
use crate::operation::find;
use crate::operation::step::MemberAnswer;
use crate::operation::vaults::storage_failure;

/// The plain snapshot in `backup` for `node`. A frame that is not what was stored ends
/// it with an error; the node checks the whole.
pub async fn snapshot(
    repository: &Repository,
    backup: &str,
    node: &NodeName,
) -> Result<ByteStream, Failure> {
    // A backup of data alone holds no state of a node.
    let found = find::find_snapshot(repository, None, backup).await?;
    let what = format!("the snapshot of {backup} was not read");
    let object = found.manifest.object(SNAPSHOT_ROLE).ok_or_else(|| {
        Failure::new(FailureKind::Error, &what).detail("the backup holds no snapshot")
    })?;
    let options = ReadOptions { hash_plain: false, workers: 1 };
    let reader = repository.open_object(object, &options).await;
    let reader = reader.map_err(|error| storage_failure(&what, error))?;
    let state = Some((reader, node.clone(), backup.to_owned()));
    Ok(futures_util::stream::unfold(state, async |state| {
        let (mut reader, node, backup) = state?;
        match reader.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some((reader, node, backup)))),
            Ok(None) => None,
            Err(error) => {
                let act = format!("read the snapshot of {backup}");
                let why = chain(&error).join(": ");
                let error = NodeError::new(&node, NodeErrorKind::Other, act, why);
                Some((Err(error), None))
            }
        }
    })
    .boxed())
}

/// What each member answers, asked one after the other: a member does not write while it
/// computes its HashKV.
pub async fn members(
    connector: &Connector,
    connection: &ConnectionSettings,
    revision: i64,
) -> Result<Vec<MemberAnswer>, Failure> {
    let view = observe(connector, connection, Reach::AllMembers).await;
    let statuses = view.rows.iter().filter_map(|row| row.status());
    let lowest = statuses.map(|status| status.revision).min().unwrap_or(revision);
    // At the revision up to which all is compacted a member tells its hash only while that
    // is the present one: asked without a revision.
    let (ask, at) = if lowest > revision { (lowest, lowest) } else { (0, revision) };
    let mut answers = Vec::new();
    // A learner may be far behind, and answers for nobody.
    for row in view.rows.iter().filter(|row| !row.is_learner()) {
        let name = row.label();
        let Ok((client, status)) = &row.answer else { continue };
        let hash = client.clone().hash_kv(ask).await;
        let moved = |current: i64| format!("it came to revision {current} meanwhile");
        let (hash_kv, why) = match hash {
            Ok(answer) if ask == 0 && answer.current_revision != at => {
                (None, Some(moved(answer.current_revision)))
            }
            Ok(answer) => (Some(answer.hash), None),
            Err(error) => (None, Some(error.to_string())),
        };
        answers.push(MemberAnswer {
            name,
            id: status.member_id.to_string(),
            cluster: status.cluster_id.to_string(),
            revision: status.revision,
            hash_kv,
            hashed_at: at,
            why,
        });
    }
    if answers.is_empty() {
        let mut failure = Failure::new(FailureKind::Etcd, "no member answers");
        for row in &view.rows {
            if let Err(silence) = &row.answer {
                failure = failure.detail(format!("{}: {silence}", row.label()));
            }
        }
        return Err(failure);
    }
    Ok(answers)
}

/// Grants a lease and revokes it: a write through the log of the cluster, of which
/// nothing stays.
pub async fn write(connector: &Connector, connection: &ConnectionSettings) -> Result<(), Failure> {
    let view = observe(connector, connection, Reach::AllMembers).await;
    let mut voters = view.rows.iter().filter(|row| !row.is_learner());
    let client = voters.find_map(|row| Some(row.answer.as_ref().ok()?.0.clone()));
    let what = "the cluster took no write";
    let client = client.ok_or_else(|| Failure::new(FailureKind::Etcd, what))?;
    client
        .pass_a_lease()
        .await
        .map_err(|error| Failure::new(FailureKind::Etcd, what).because(error))
}
