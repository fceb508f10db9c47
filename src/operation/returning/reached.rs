//! What a return of data asks of the vault and of the cluster's members.

use std::path::Path;

use futures_util::StreamExt as _;
use vault::repository::{ObjectReader, ReadOptions, Repository};

use super::below::below;
use crate::etcd::cluster::{Reach, observe};
use crate::etcd::{ConnectionSettings, Connector};
use crate::node::{ByteStream, NodeError, NodeErrorKind, NodeName};
use crate::operation::content::SNAPSHOT_ROLE;
use crate::operation::failure::{Failure, FailureKind, chain};
use crate::operation::step::MemberAnswer;
use crate::operation::vaults::storage_failure;
use crate::operation::{find, state};

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
    Ok(chunks(reader, node, format!("read the snapshot of {backup}")))
}

/// What lies below `from` in the copy of `node`'s data in `backup`, as it was stored or with
/// an error at the end.
pub async fn copy(
    repository: &Repository,
    backup: &str,
    node: &NodeName,
    from: &Path,
) -> Result<ByteStream, Failure> {
    let found = state::find::find(repository, None, backup).await?;
    let what = format!("read the copy of the data of {node} in {backup}");
    let object = state::find::object(&found.manifest, state::Part::Data, node)
        .ok_or_else(|| Failure::new(FailureKind::Error, &what).detail("the backup holds none"))?;
    let options = ReadOptions { hash_plain: true, workers: 1 };
    let reader = repository.open_object(object, &options).await;
    let reader = reader.map_err(|error| storage_failure(&what, error))?;
    Ok(below(chunks(reader, node, what), node, from))
}

/// An object as chunks for `node`; an error is the last of them.
fn chunks(reader: ObjectReader, node: &NodeName, what: String) -> ByteStream {
    let state = Some((reader, node.clone(), what));
    futures_util::stream::unfold(state, async |state| {
        let (mut reader, node, what) = state?;
        match reader.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some((reader, node, what)))),
            Ok(None) => None,
            Err(error) => {
                let why = chain(&error).join(": ");
                let error = NodeError::new(&node, NodeErrorKind::Other, what, why);
                Some((Err(error), None))
            }
        }
    })
    .boxed()
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
        let mut hash = client.clone().hash_kv(ask).await;
        let mut present = ask == 0;
        if !present && hash.is_err() && status.revision == lowest {
            // All may be compacted up to the present one, as after a restore.
            hash = client.clone().hash_kv(0).await;
            present = true;
        }
        let moved = |current: i64| format!("it came to revision {current} meanwhile");
        let (hash_kv, why) = match hash {
            Ok(answer) if present && answer.current_revision != at => {
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
