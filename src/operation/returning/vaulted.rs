//! The vault as steps need it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use vault::layout::ClusterName;
use vault::repository::{Backup, Repository};

use super::reached;
use crate::etcd::cluster::Reach;
use crate::etcd::{ConnectionSettings, Connector};
use crate::event::Events;
use crate::node::{ByteStream, Node, NodeName};
use crate::operation::backup::{BackupOptions, Strategy, backup};
use crate::operation::failure::{Failure, FailureKind};
use crate::operation::find as backups;
use crate::operation::interrupt::Interrupt;
use crate::operation::member::live::Live;
use crate::operation::proof::Policy;
use crate::operation::state::index::NodeIndex;
use crate::operation::state::save::{SaveOptions, observe_cluster, save};
use crate::operation::state::{find, show};
use crate::operation::step::{Contents, MemberAnswer, Membership};
use crate::plan::{Place, PlanId};

/// A backup and a node's index in it, by the id of the one and the name of the other.
type Indexes = BTreeMap<(String, String), Arc<(Backup, NodeIndex)>>;

/// A repository with what a save needs.
pub struct Vaulted {
    /// The vault.
    pub repository: Arc<Repository>,
    /// The nodes by name.
    pub nodes: BTreeMap<String, Arc<dyn Node>>,
    /// The cluster.
    pub cluster: ClusterName,
    /// The members, to be described, asked and changed.
    pub live: Live,
    /// What is stored of nodes.
    pub options: SaveOptions,
    /// Where events go.
    pub events: Events,
    /// Backups and indexes of nodes that were read.
    indexes: tokio::sync::Mutex<Indexes>,
}

impl Vaulted {
    /// The vault for plans of `cluster`.
    pub fn new(
        repository: Arc<Repository>,
        nodes: BTreeMap<String, Arc<dyn Node>>,
        cluster: &str,
        connector: Connector,
        connection: ConnectionSettings,
        options: SaveOptions,
        events: Events,
    ) -> Result<Self, Failure> {
        let cluster = ClusterName::new(cluster)
            .map_err(|error| Failure::new(FailureKind::Error, error.to_string()))?;
        let indexes = tokio::sync::Mutex::default();
        let live = Live { connector, connection };
        Ok(Self { repository, nodes, cluster, live, options, events, indexes })
    }
}

impl fmt::Debug for Vaulted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vaulted").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

#[async_trait]
impl Contents for Vaulted {
    async fn content(&self, backup: &str, node: &str, path: &str) -> Result<Vec<u8>, Failure> {
        let name = NodeName::new(node)
            .map_err(|error| Failure::new(FailureKind::Error, error.to_string()))?;
        let key = (backup.to_owned(), node.to_owned());
        let read = {
            let mut indexes = self.indexes.lock().await;
            match indexes.get(&key) {
                Some(read) => read.clone(),
                None => {
                    let found = find::find(&self.repository, None, backup).await?;
                    let index = find::index(&self.repository, &found.manifest, &name).await?;
                    let read = Arc::new((found, index));
                    indexes.insert(key, read.clone());
                    read
                }
            }
        };
        let (found, index) = &*read;
        show::content_of(&self.repository, &found.manifest, &name, index, path).await
    }

    async fn snapshot(&self, backup: &str, node: &NodeName) -> Result<ByteStream, Failure> {
        reached::snapshot(&self.repository, backup, node).await
    }

    async fn copy(
        &self,
        backup: &str,
        node: &NodeName,
        from: &Path,
    ) -> Result<ByteStream, Failure> {
        reached::copy(&self.repository, backup, node, from).await
    }

    async fn members(&self, revision: i64) -> Result<Vec<MemberAnswer>, Failure> {
        self.live.members(revision).await
    }

    async fn write(&self) -> Result<(), Failure> {
        self.live.write().await
    }

    fn membership(&self) -> Option<&dyn Membership> {
        Some(&self.live)
    }

    async fn save(&self, nodes: &[Place], plan: PlanId, data: bool) -> Result<String, Failure> {
        let named = nodes.iter().filter_map(|place| self.nodes.get(place.as_str()).cloned());
        let named: Vec<Arc<dyn Node>> = named.collect();
        let labels = BTreeMap::from([(find::PLAN_LABEL.to_owned(), plan.to_string())]);
        let (repository, cluster) = (self.repository.clone(), self.cluster.clone());
        let (connector, connection) = (self.live.connector.clone(), self.live.connection.clone());
        let options = self.options.clone();
        let events = self.events.clone();
        // A save keeps to one thread; steps may move between threads.
        let runtime = tokio::runtime::Handle::current();
        let saving = tokio::task::spawn_blocking(move || {
            runtime.block_on(async {
                if data && observe_cluster(&connector, &connection).await.is_some() {
                    // A running cluster: its data is one snapshot, as of any backup.
                    let options = BackupOptions {
                        cluster: Some(cluster),
                        strategy: Strategy::default(),
                        reach: Reach::AllMembers,
                        proof: Policy::All,
                        labels,
                        write: options.write.clone(),
                        nodes: Some((named, options)),
                    };
                    let interrupt = &mut Interrupt::never();
                    let made =
                        backup(&repository, &connector, &connection, &options, &events, interrupt);
                    let made = made.await?;
                    return Ok((
                        made.id,
                        made.state.map(|state| state.missing).unwrap_or_default(),
                    ));
                }
                let options = SaveOptions { data, ..options };
                let saved = save(
                    &repository,
                    &named,
                    &connector,
                    &connection,
                    Some(cluster),
                    labels,
                    &options,
                    &events,
                    &mut Interrupt::never(),
                )
                .await?;
                Ok::<_, Failure>((saved.id, saved.content.missing))
            })
        });
        let (id, missing) = saving.await.map_err(|error| {
            Failure::new(FailureKind::Error, "no state was stored").because(error)
        })??;
        match missing.first() {
            // What could not be stored could not be returned to.
            Some(missing) => {
                let what = format!("the state of {} was not stored", missing.node);
                Err(Failure::new(FailureKind::Error, what).detail(missing.why.clone()))
            }
            None => Ok(id),
        }
    }

    async fn saved(&self, plan: PlanId) -> Result<Option<String>, Failure> {
        let (all, _) = backups::all(&self.repository, Some(self.cluster.clone())).await?;
        let mut ours = all.iter().filter(|backup| {
            let content = super::super::state::describe::StateContent::of(&backup.manifest);
            let whole = content.ok().flatten().is_some_and(|content| content.missing.is_empty());
            whole && find::stored_by_plan(&backup.manifest) == Some(plan)
        });
        Ok(ours.next().map(|backup| backup.manifest.id.to_string()))
    }
}
