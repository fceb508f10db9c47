//! Whether a cluster works, is stopped, or is something in between: of the first a
//! snapshot is its data, of the second its directories are, of the last neither.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use crate::dialect::{host, port};
use crate::etcd::cluster::{Reach, observe};
use crate::etcd::{ConnectionSettings, Connector};
use crate::node::{Node, NodeError, ProcessQuery, TreeSpec};
use crate::observe::NodeObservation;

/// A peer that runs accepts a connection within this.
const PEER_TIMEOUT: Duration = Duration::from_secs(3);

/// Whether a member that has a leader answers: one that lost its quorum may be behind
/// what the others keep.
pub async fn is_led(connector: &Connector, settings: &ConnectionSettings) -> bool {
    let view = observe(connector, settings, Reach::AllMembers).await;
    view.rows.iter().filter_map(|row| row.status()).any(|status| status.leader.is_some())
}

/// Where etcd runs, or it cannot be told, a line for each of these nodes.
pub async fn not_stopped(nodes: &[Arc<dyn Node>]) -> Vec<String> {
    let looks = nodes.iter().map(|node| node.processes(ProcessQuery::Program("etcd".to_owned())));
    let looks = join_all(looks).await;
    let told = nodes.iter().zip(looks).filter_map(|(node, found)| match found {
        Ok(found) => {
            let process = found.first()?;
            Some(format!("{}: etcd runs as process {}", node.name(), process.pid))
        }
        Err(error) => Some(format!("{}: it cannot be told: {}", node.name(), error.why)),
    });
    told.collect()
}

/// A peer of the node's member that answers, as `name at host:port`: then the cluster is
/// not stopped, whatever nodes were named.
pub(super) async fn running_peer(
    node: &dyn Node,
    seen: &NodeObservation,
) -> Result<Option<String>, NodeError> {
    let mut peers: BTreeMap<String, String> = BTreeMap::new();
    for etcd in &seen.etcd {
        let own = etcd.settings.name().to_owned();
        for (name, url) in etcd.settings.initial_cluster().iter().filter(|(name, _)| *name != own) {
            if let Some(at) = host(url) {
                let at = if at.contains(':') { format!("[{at}]") } else { at.to_owned() };
                peers.insert(format!("{at}:{}", port(url).unwrap_or(2380)), name.to_owned());
            }
        }
    }
    if peers.is_empty() {
        return Ok(None);
    }
    let tried = node.reach(peers.keys().cloned().collect(), PEER_TIMEOUT).await?;
    let answers = tried.iter().find(|tried| tried.error.is_none());
    let name = |at: &str| peers.get(at).map_or_else(String::new, |name| format!("{name} at "));
    Ok(answers.map(|tried| format!("{}{}", name(&tried.address), tried.address)))
}

/// Whether anything stands at one of `paths`.
pub(super) async fn any_there(node: &dyn Node, paths: &[PathBuf]) -> Result<bool, NodeError> {
    for path in paths {
        if node.stat(path).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether anything of etcd runs, or holds one of the data directories.
pub(super) async fn is_running(node: &dyn Node, data: &TreeSpec) -> Result<bool, NodeError> {
    if !node.processes(ProcessQuery::Program("etcd".to_owned())).await?.is_empty() {
        return Ok(true);
    }
    for path in &data.roots {
        if !node.processes(ProcessQuery::Holding(path.clone())).await?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}
