//! What vault and nodes know of the history of a cluster: its backups, and the revisions
//! that were served.

use std::sync::Arc;

use vault::layout::ClusterName;
use vault::manifest::Manifest;
use vault::repository::{Backup, Filter, Repository};

use super::planner::{OPERATION, RECOVERY};
use crate::node::Node;
use crate::operation::content::{SNAPSHOT_ROLE, SnapshotContent};
use crate::operation::failure::{Failure, FailureKind};
use crate::operation::find::selector;
use crate::operation::journal;
use crate::operation::preflight::SeenBackup;
use crate::operation::state::find::stored_by_plan;
use crate::operation::step::Step;
use crate::operation::vaults::listing_failure;

/// So many newer backups are looked at for one that was made on purpose.
const NEWER: usize = 4;
/// So many plans are read.
const PLANS: usize = 50;

/// The backup that `text` names. `latest` and times mean the newest snapshot that was
/// taken on purpose: what a plan stored before it changed the nodes is named by its id.
pub async fn find(
    repository: &Repository,
    cluster: Option<&ClusterName>,
    text: &str,
) -> Result<Backup, Failure> {
    let selector = selector(text)?;
    let fits = |manifest: &Manifest| {
        manifest.object(SNAPSHOT_ROLE).is_some() && stored_by_plan(manifest).is_none()
    };
    repository.find_where(cluster, &selector, &fits).await.map_err(|error| {
        listing_failure(repository, cluster, format!("backup {text:?} was not found"), error)
    })
}

/// What is judged of a backup, and the highest revision of any backup of the cluster.
pub(super) async fn backup(
    repository: &Repository,
    backup: &Backup,
    wanted: &ClusterName,
) -> Result<(SeenBackup, Option<i64>), Failure> {
    let manifest = &backup.manifest;
    let unusable = |why: String| Failure::new(FailureKind::Error, super::WHAT).detail(why);
    let content = SnapshotContent::of(manifest).map_err(unusable)?;
    let failed = |error| {
        listing_failure(repository, None, "the backups of the vault were not listed", error)
    };
    let places = repository.places(None).await.map_err(failed)?;
    let filter = Filter { cluster: Some(manifest.cluster.clone()), ..Filter::default() };
    let mut names = repository.names(&filter).await.map_err(failed)?.names;
    let revisions = names.iter().filter_map(|name| i64::try_from(name.sequence).ok());
    let highest = revisions.max();
    names.retain(|name| {
        name.place.lineage == manifest.lineage
            && name.taken > manifest.started
            && name.id != manifest.id
    });
    names.sort_by_key(|name| std::cmp::Reverse(name.taken));
    let mut newer = None;
    for name in names.iter().take(NEWER) {
        let Ok(found) = repository.load(name).await else { continue };
        let found = found.manifest;
        if found.object(SNAPSHOT_ROLE).is_some() && stored_by_plan(&found).is_none() {
            let revision = i64::try_from(found.sequence).unwrap_or(i64::MAX);
            newer = Some((found.id.to_string(), found.started, revision));
            break;
        }
    }
    let seen = SeenBackup {
        id: manifest.id.to_string(),
        cluster: manifest.cluster.to_string(),
        wanted: wanted.to_string(),
        lineage: manifest.lineage.to_string(),
        taken: manifest.started,
        size: manifest.object(SNAPSHOT_ROLE).map_or(0, |object| object.plain_size),
        revision: content.database.revision,
        had_v2_keys: content.v2_keys.as_deref() == Some("present"),
        proof: manifest.proof.clone(),
        content: content.database.content,
        known: places
            .into_iter()
            .map(|place| (place.cluster.to_string(), place.lineage.to_string()))
            .collect(),
        newer,
    };
    Ok((seen, highest))
}

/// The highest revision that a plan on record gave to members: served since then, though
/// no backup may have it.
pub(super) async fn by_plans(nodes: &[Arc<dyn Node>]) -> Option<i64> {
    let places = journal::places(nodes).ok()?;
    let stores = journal::stores(&places);
    // What cannot be read is no reason to give up: the margin is for what is not known.
    let (listed, _) = journal::list(&stores).await;
    let built = [OPERATION, RECOVERY, "state return --only data"];
    let ours = listed.iter().filter(|listed| {
        listed.begun && listed.head.as_ref().is_ok_and(|head| built.contains(&&*head.operation))
    });
    let mut highest = None;
    for listed in ours.take(PLANS) {
        let Ok(history) = journal::load::<Step>(&stores, listed.id).await else { continue };
        let given = history.plan.steps().filter_map(|(_, step)| match step {
            Step::BuildData { cluster, .. } => Some(cluster.revision),
            _ => None,
        });
        highest = given.chain(highest).max();
    }
    highest
}
