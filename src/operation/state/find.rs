//! Which backups hold states of nodes; `state list`.

use chrono::{DateTime, Utc};
use serde::Serialize;
use vault::layout::ClusterName;
use vault::manifest::{Manifest, ObjectRecord};
use vault::repository::{Backup, Repository, Selector};

use super::describe::StateContent;
use super::index::{IndexError, NodeIndex};
use super::{Part, nodes_of};
use crate::node::NodeName;
use crate::operation::failure::{Failure, FailureKind};
use crate::operation::find::{self, CorruptManifest};
use crate::operation::vaults::storage_failure;
use crate::plan::PlanId;

/// A row of `state list`.
#[derive(Debug, Serialize)]
pub struct ListedState {
    /// The backup's id.
    pub id: String,
    /// The shortest start of it that is unique here.
    pub short_id: String,
    /// Its cluster.
    pub cluster: String,
    /// When it was begun.
    pub taken: DateTime<Utc>,
    /// The nodes.
    pub nodes: Vec<String>,
    /// Nodes that were asked for and are not in it.
    pub missing: Vec<String>,
    /// The plan that stored it before it changed the nodes.
    pub plan: Option<PlanId>,
    /// What of the data is in it.
    pub data: DataHeld,
    /// Files, directories and links of all nodes.
    pub entries: u64,
    /// Files that changed while they were read.
    pub changed: u64,
    /// Bytes of the states in the vault.
    pub stored_size: u64,
}

/// What of the cluster's data a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DataHeld {
    /// Nothing.
    None,
    /// A snapshot, from which every data directory can be built.
    Snapshot,
    /// Copies of data directories, made while all members were stopped.
    Directories,
}

impl DataHeld {
    /// What `manifest` holds.
    pub fn of(manifest: &Manifest) -> Self {
        let has = |wanted: Part| {
            let roles = manifest.objects.iter().filter_map(|o| Part::of(o.role.as_str()));
            roles.into_iter().any(|(part, _)| part == wanted)
        };
        if manifest.object(crate::operation::content::SNAPSHOT_ROLE).is_some() {
            Self::Snapshot
        } else if has(Part::Data) {
            Self::Directories
        } else {
            Self::None
        }
    }
}

/// What `state list` shows.
#[derive(Debug, Serialize)]
pub struct StateList {
    /// Backups with states, newest last.
    pub states: Vec<ListedState>,
    /// Manifests that are damaged, with the reason.
    pub corrupt: Vec<CorruptManifest>,
}

/// Lists the backups that hold states.
pub async fn list(
    repository: &Repository,
    cluster: Option<ClusterName>,
) -> Result<StateList, Failure> {
    let (all, corrupt) = find::all(repository, cluster).await?;
    let ids: Vec<String> = all.iter().map(|backup| backup.manifest.id.to_string()).collect();
    let states = all
        .iter()
        .filter(|backup| holds_states(&backup.manifest))
        .map(|backup| row(&backup.manifest, &ids))
        .collect();
    Ok(StateList { states, corrupt })
}

/// Whether a backup holds the state of any node.
pub fn holds_states(manifest: &Manifest) -> bool {
    !nodes_of(manifest).is_empty()
}

fn row(manifest: &Manifest, ids: &[String]) -> ListedState {
    let content = StateContent::of(manifest).ok().flatten().unwrap_or_default();
    let id = manifest.id.to_string();
    let sum = |number: fn(&super::describe::NodeSummary) -> u64| {
        content.nodes.iter().map(number).fold(0, u64::saturating_add)
    };
    ListedState {
        short_id: find::shorten(&id, ids),
        id,
        cluster: manifest.cluster.to_string(),
        taken: manifest.started,
        nodes: nodes_of(manifest).iter().map(ToString::to_string).collect(),
        missing: content.missing.iter().map(|missing| missing.node.clone()).collect(),
        plan: stored_by_plan(manifest),
        data: DataHeld::of(manifest),
        entries: sum(|node| node.entries),
        changed: sum(|node| node.changed),
        stored_size: manifest
            .objects
            .iter()
            .filter(|object| Part::of(object.role.as_str()).is_some())
            .fold(0, |sum, object| sum.saturating_add(object.stored_size)),
    }
}

/// The label that says for which plan a state was stored.
pub const PLAN_LABEL: &str = "plan";

/// The plan that stored this state before it changed the nodes, if one did.
pub fn stored_by_plan(manifest: &Manifest) -> Option<PlanId> {
    manifest.labels.get(PLAN_LABEL)?.parse().ok()
}

/// The backup with states that `text` names. `latest` is the newest one that was saved
/// on purpose: what a plan stored before it changed the nodes is named by its id, or else
/// returning twice would bring back what was returned from.
pub async fn find(
    repository: &Repository,
    cluster: Option<&ClusterName>,
    text: &str,
) -> Result<Backup, Failure> {
    let selector = find::selector(text)?;
    let latest = selector == Selector::Latest;
    let fits = |manifest: &Manifest| {
        holds_states(manifest) && !(latest && stored_by_plan(manifest).is_some())
    };
    let found = repository.find_newest(cluster, &selector, &fits).await;
    let backup = found.map_err(|error| {
        let mut failure = storage_failure(format!("state {text:?} was not found"), error);
        if failure.kind == FailureKind::Usage {
            let shows = "etcdvault state list shows the states; etcdvault state save makes one";
            failure.hint = Some(shows.to_owned());
        }
        failure
    })?;
    if holds_states(&backup.manifest) {
        return Ok(backup);
    }
    Err(Failure::new(
        FailureKind::Usage,
        format!("backup {} holds no state of a node", backup.manifest.id),
    )
    .hint("etcdvault state list shows those that do"))
}

/// The object of a part of `node`.
pub fn object<'a>(manifest: &'a Manifest, part: Part, node: &NodeName) -> Option<&'a ObjectRecord> {
    manifest.objects.iter().find(|object| {
        Part::of(object.role.as_str()).is_some_and(|(found, name)| found == part && name == *node)
    })
}

/// Reads the index of `node`.
pub async fn index(
    repository: &Repository,
    manifest: &Manifest,
    node: &NodeName,
) -> Result<NodeIndex, Failure> {
    let what = format!("the state of {node} in backup {} was not read", manifest.id);
    let object = object(manifest, Part::Index, node).ok_or_else(|| {
        Failure::new(FailureKind::Corrupt, what.clone()).detail("it has no index")
    })?;
    NodeIndex::read(repository, object).await.map_err(|error| match error {
        IndexError::Vault(error) => storage_failure(what, error),
        IndexError::TooNew { .. } => {
            Failure::new(FailureKind::Error, what).because(error).hint("use a newer etcdvault")
        }
        error => Failure::new(FailureKind::Corrupt, what).because(error),
    })
}
