//! `state return`: nodes set up again as a state has them.
//!
//! - The plan is made from the stored index, the nodes as they are now, and what is
//!   seen to run; it names what differs so that files alone do not bring it back.
//! - Services whose files do not change are not touched. Neither is data, unless it is
//!   asked for ([`data`]), and then of all members at once: one
//!   member's old data in a living cluster would lose or fork what was agreed on.
//! - What stood in the place of a file is kept, and rolling back needs no vault.

mod below;
pub mod copies;
pub mod data;
pub mod looked;
pub mod planner;
pub mod reached;
pub mod vaulted;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use vault::layout::BackupId;
use vault::repository::{Backup, Repository};

use self::planner::{Inputs, NodeInput, OtherData, Planned, Voters};
use crate::etcd::cluster::{Reach, observe as observe_members};
use crate::etcd::{ConnectionSettings, Connector};
use crate::node::{Node, NodeError, NodeName};
use crate::observe;
use crate::operation::failure::{Failure, FailureKind, chain};
use crate::operation::own_way;
use crate::operation::state::describe::{ClusterSeen, Description, MemberSeen, StateContent};
use crate::operation::state::index::NodeIndex;
use crate::operation::state::save::{SaveOptions, captured};
use crate::operation::state::{find, nodes_of};
use crate::operation::step::{ASIDE, Service, What, is_ready};
use crate::plan::{self, Place, Plan, PlanId};

pub use crate::event::{StepEvent, StepPhase};
pub use crate::operation::step::{Step, World};
pub use crate::plan::shell::as_shell;
pub use crate::plan::table::{Row, rows};

/// What is asked of a return.
#[derive(Debug, Clone)]
pub struct ReturnOptions {
    /// Whether the present state is stored first.
    pub save: bool,
    /// Whether it goes on although the topology differs.
    pub force_topology: bool,
    /// Other nodes of the cluster, which keep the journal and the lock, too.
    pub keepers: Vec<NodeName>,
    /// What is looked at and stored of nodes.
    pub look: SaveOptions,
}

impl ReturnOptions {
    /// The keepers as places of the plan.
    fn places(&self) -> Result<Vec<Place>, Failure> {
        let places = self.keepers.iter().map(|name| Place::new(name.as_str()));
        let places: Result<Vec<Place>, _> = places.collect();
        places.map_err(|error| Failure::new(FailureKind::Usage, error.to_string()))
    }
}

const WHAT: &str = "nothing was returned";

/// The nodes that a return is about: those that are named, else all of the state.
pub fn wanted(backup: &Backup, named: &[String]) -> Result<Vec<String>, Failure> {
    let held: Vec<String> = nodes_of(&backup.manifest).iter().map(NodeName::to_string).collect();
    if let Some(other) = named.iter().find(|name| !held.contains(name)) {
        let what = format!("{WHAT}: backup {} holds no state of {other}", backup.manifest.id);
        return Err(
            Failure::new(FailureKind::Usage, what).hint(format!("it holds {}", held.join(", ")))
        );
    }
    Ok(if named.is_empty() { held } else { named.to_vec() })
}

/// What a return looks at, and its plan.
pub async fn prepare(
    repository: &Repository,
    backup: &Backup,
    nodes: &[Arc<dyn Node>],
    connector: &Connector,
    connection: &ConnectionSettings,
    options: &ReturnOptions,
) -> Result<Planned, Failure> {
    let manifest = &backup.manifest;
    let view = observe_members(connector, connection, Reach::AllMembers).await;
    let mut drift = match StateContent::of(manifest).ok().flatten().and_then(|c| c.cluster) {
        Some(was) => cluster_drift(&was, ClusterSeen::of(&view).as_ref()),
        None => Vec::new(),
    };
    let mut inputs = Vec::new();
    for node in nodes {
        let input = look(repository, backup, node.as_ref(), options).await?;
        drift.extend(planner::drift(&input.state, &input.now));
        drift.extend(planner::data_drift(&input));
        inputs.push(input);
    }
    if !drift.is_empty() && !options.force_topology {
        let mut failure = Failure::new(
            FailureKind::Error,
            format!("{WHAT}: the topology is not that of state {}", manifest.id),
        );
        for line in drift {
            failure = failure.detail(line);
        }
        return Err(failure.state("the nodes are as they were").hint(
            "etcdvault state diff shows all of it; --force-topology sets the files nevertheless",
        ));
    }
    let old: Vec<String> = inputs.iter().flat_map(planner::left_behind).collect();
    if !old.is_empty() {
        return Err(left_behind(manifest.id, old));
    }
    let leader = leader(&view, &inputs);
    let keepers = options.places()?;
    let voters = view.rows.iter().filter(|row| row.listed.is_some() && !row.is_learner());
    let (of, up) =
        voters.fold((0, 0), |(of, up), row| (of + 1, up + usize::from(row.answer.is_ok())));
    Ok(planner::plan(&Inputs {
        id: PlanId::generate(),
        made: Utc::now(),
        cluster: manifest.cluster.to_string(),
        backup: manifest.id.to_string(),
        taken: manifest.started,
        nodes: inputs,
        keepers,
        leader,
        voters: (of > 0).then_some(Voters { of, up }),
        save: options.save,
        drift,
    }))
}

/// Another way of running would meet what it left behind.
fn left_behind(id: BackupId, old: Vec<String>) -> Failure {
    let what = format!("{WHAT}: etcd would start on data that it left behind");
    let mut failure = Failure::new(FailureKind::Error, what);
    for line in old {
        failure = failure.detail(line);
    }
    failure.state("the nodes are as they were").hint(format!(
        "set it aside on its node (mv DIRECTORY/member DIRECTORY/member.old, and the log where it \
         lies elsewhere), give the same command again, and return the data next: etcdvault state \
         return {id} --only data"
    ))
}

/// What the plan looks at when all is done, a line each: what it verified where every
/// step is done.
pub fn checks(plan: &Plan<Step>) -> Vec<String> {
    let looks = rows(plan).into_iter().filter(|row| {
        let mut steps = row.steps.iter().filter_map(|id| plan.step(*id));
        steps.all(Step::is_look)
    });
    let nodes = |row: &Row| row.nodes.iter().map(Place::as_str).collect::<Vec<_>>().join(" ");
    let line = |row: Row| match row.nodes.is_empty() {
        true => row.what,
        false => format!("{}: {}", nodes(&row), row.what),
    };
    looks.map(line).collect()
}

/// Where what stood in the place of files is kept, and on which nodes, where there is any.
pub fn set_aside(plan: &Plan<Step>) -> Option<(String, Vec<String>)> {
    let kept = plan.steps().filter_map(|(_, step)| match step {
        Step::SetFiles { node, changes, .. }
            if changes.iter().any(|change| change.before != What::Nothing) =>
        {
            Some(node.to_string())
        }
        _ => None,
    });
    let nodes: Vec<String> = kept.collect();
    (!nodes.is_empty()).then(|| (format!("{ASIDE}/{}", plan.id), nodes))
}

/// Where the data of before is kept, by node.
pub fn data_set_aside(plan: &Plan<Step>) -> Vec<(String, PathBuf)> {
    let swapped = plan.steps().filter_map(|(_, step)| match step {
        Step::SwapData { members } => Some(members),
        _ => None,
    });
    let kept = swapped.flatten().flat_map(|member| {
        let paths = member.kept(plan.id).into_iter();
        paths.map(|path| (member.node.to_string(), path))
    });
    let mut kept: Vec<(String, PathBuf)> = kept.collect();
    // Beside it others may begin without data: a plan of members alone says that itself.
    if plan.steps().any(|(_, step)| matches!(step, Step::SwapData { .. })) {
        kept.extend(crate::operation::member::kept(plan));
    }
    kept
}

/// The nodes that a step touches.
pub fn nodes_of_step(step: &Step) -> Vec<String> {
    plan::Step::describe(step).nodes.iter().map(ToString::to_string).collect()
}

async fn look(
    repository: &Repository,
    backup: &Backup,
    node: &dyn Node,
    options: &ReturnOptions,
) -> Result<NodeInput, Failure> {
    let name = node.name();
    let state = find::index(repository, &backup.manifest, name).await?;
    // All that the state has is looked at, whatever is found by itself now.
    let mut look = options.look.clone();
    look.extra.extend(roots(&state));
    let failed = |why: String| {
        Failure::new(FailureKind::Error, format!("{WHAT}: {name} was not looked at")).detail(why)
    };
    let captured = captured(node, &look).await;
    let (now, seen) = captured.map_err(|error| failed(chain(&error).join(": ")))?;
    own_way::refused(seen.distribution, name, WHAT)?;
    let mut used: BTreeMap<Service, BTreeSet<PathBuf>> = BTreeMap::new();
    for etcd in &seen.etcd {
        let paths = used.entry(Service::Etcd).or_default();
        paths.extend(etcd.files.iter().map(|file| file.path.clone()));
        paths.extend(etcd.tls_files.iter().map(|file| file.path.clone()));
    }
    for server in &seen.api_servers {
        let paths = used.entry(Service::ApiServer).or_default();
        paths.extend(server.files.iter().map(|file| file.path.clone()));
        paths.extend(server.tls_files.iter().map(|file| file.path.clone()));
    }
    let place = Place::new(name.as_str()).map_err(|error| failed(error.to_string()))?;
    let mut unready = BTreeSet::new();
    let etcd = seen.etcd.iter().map(|etcd| (Service::Etcd, &etcd.runs));
    let servers = seen.api_servers.iter().map(|server| (Service::ApiServer, &server.runs));
    for (service, runs) in etcd.chain(servers) {
        if let observe::Runs::StaticPod { manifest, .. } = runs
            && runs.is_running()
            && !is_ready(node, service, manifest).await
        {
            unready.insert(service);
        }
    }
    let other_data = other_data(node, &state.description, &now.description).await;
    let other_data = other_data.map_err(|error| failed(error.to_string()))?;
    Ok(NodeInput { node: place, state, now, used, unready, other_data })
}

/// Other data than it has now, on which etcd would start as it was set up `then`. Nothing
/// where it has none now: then what was its data is its data still.
pub async fn other_data(
    node: &dyn Node,
    then: &Description,
    now: &Description,
) -> Result<Option<OtherData>, NodeError> {
    if then.etcd.is_none() || now.etcd.is_none() {
        return Ok(None);
    }
    let (was, is) = (unescaped(&then.data_dirs), unescaped(&now.data_dirs));
    if was == is {
        return Ok(None);
    }
    if standing(node, &is).await?.is_empty() {
        return Ok(None);
    }
    let others: Vec<PathBuf> = was.iter().filter(|path| !is.contains(path)).cloned().collect();
    let stands = standing(node, &others).await?;
    Ok(Some(OtherData { was, is, stands }))
}

/// Which of `places` hold a member or a log, and when it was last written.
async fn standing(
    node: &dyn Node,
    places: &[PathBuf],
) -> Result<Vec<(PathBuf, DateTime<Utc>)>, NodeError> {
    let mut found = Vec::new();
    for place in places {
        let member = place.join("member");
        let mut newest = None;
        for path in [member.join("snap/db"), member.join("wal"), member] {
            newest = newest.max(node.stat(&path).await?.map(|entry| entry.modified));
        }
        if newest.is_none() && node.stat(place).await?.is_some() {
            // A log alone.
            let entries = node.list(place).await?.into_iter();
            let logs = entries.filter(|it| it.path.extension() == Some(OsStr::new("wal")));
            newest = logs.map(|entry| entry.modified).max();
        }
        let Some(newest) = newest else { continue };
        let seconds = i64::try_from(newest.div_euclid(1_000_000_000)).unwrap_or_default();
        found.push((place.clone(), DateTime::from_timestamp(seconds, 0).unwrap_or_default()));
    }
    Ok(found)
}

fn unescaped(paths: &[String]) -> Vec<PathBuf> {
    use std::os::unix::ffi::OsStringExt as _;
    let paths = paths.iter().filter_map(|path| vault::archive::unescape(path));
    paths.map(|bytes| std::ffi::OsString::from_vec(bytes).into()).collect()
}

fn roots(index: &NodeIndex) -> Vec<PathBuf> {
    unescaped(&index.state.roots)
}

/// Where the members are not those of the state. Nothing where none answers: then it
/// cannot be told, and a state is wanted most.
fn cluster_drift(was: &ClusterSeen, is: Option<&ClusterSeen>) -> Vec<String> {
    let Some(is) = is else { return Vec::new() };
    let mut found = Vec::new();
    for member in &was.members {
        match is.members.iter().find(|other| same_member(member, other)) {
            None => found.push(format!("member {} ({}) is gone", member.name, member.id)),
            Some(other) => {
                if other.peer_urls != member.peer_urls {
                    let (was, is) = (member.peer_urls.join(","), other.peer_urls.join(","));
                    found.push(format!("peers of {} were {was}, and are {is}", member.name));
                }
                if let (Some(was), Some(is)) = (&member.version, &other.version)
                    && was != is
                {
                    found.push(format!("{} was etcd {was}, and is {is}", member.name));
                }
            }
        }
    }
    for other in &is.members {
        if !was.members.iter().any(|member| same_member(member, other)) {
            found.push(format!("member {} ({}) is new", other.name, other.id));
        }
    }
    found
}

/// Whether one seat is meant: every return of data gives the cluster and its members new
/// ids, and leaves their names and places. A member without a name never started.
fn same_member(was: &MemberSeen, is: &MemberSeen) -> bool {
    if was.name.is_empty() || is.name.is_empty() { was.id == is.id } else { was.name == is.name }
}

/// The node of the leader, by the addresses that it gives to clients.
fn leader(view: &crate::etcd::cluster::ClusterView, nodes: &[NodeInput]) -> Option<Place> {
    let id = view.rows.iter().find_map(|row| row.status()?.leader)?;
    let mut listed = view.rows.iter().filter_map(|row| row.listed.as_ref());
    let member = listed.find(|member| member.id == id)?;
    let on = |node: &&NodeInput| {
        let addresses = &node.now.description.addresses;
        let mut urls = member.client_urls.iter().chain(&member.peer_urls);
        urls.any(|url| addresses.iter().any(|address| url.contains(&format!("//{address}:"))))
    };
    nodes.iter().find(on).map(|node| node.node.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::HexId;

    fn cluster(first_id: u64) -> ClusterSeen {
        let member = |number: u64| MemberSeen {
            id: HexId(first_id + number),
            name: format!("n{number}"),
            peer_urls: vec![format!("https://10.0.0.{number}:2380")],
            client_urls: vec![format!("https://10.0.0.{number}:2379")],
            is_learner: false,
            version: Some("3.5.16".into()),
        };
        let members = (1..=3).map(member).collect();
        ClusterSeen { cluster_id: HexId(first_id), revision: Some(9), members }
    }

    #[test]
    fn other_ids_alone_are_no_other_topology() {
        let was = cluster(100);
        assert_eq!(cluster_drift(&was, None), [""; 0]);
        assert_eq!(cluster_drift(&was, Some(&cluster(100))), [""; 0]);
        assert_eq!(cluster_drift(&was, Some(&cluster(200))), [""; 0], "data was returned");

        let changed = |change: fn(&mut ClusterSeen)| {
            let mut is = cluster(200);
            change(&mut is);
            cluster_drift(&was, Some(&is))
        };
        let gone = changed(|is| drop(is.members.remove(1)));
        assert_eq!(gone, ["member n2 (66) is gone"]);
        let new = changed(|is| is.members[2].name = "n4".into());
        assert_eq!(new, ["member n3 (67) is gone", "member n4 (cb) is new"]);
        let moved = changed(|is| is.members[0].peer_urls = vec!["https://10.0.0.9:2380".into()]);
        assert_eq!(
            moved,
            ["peers of n1 were https://10.0.0.1:2380, and are https://10.0.0.9:2380"]
        );
        let upgraded = changed(|is| is.members[0].version = Some("3.6.0".into()));
        assert_eq!(upgraded, ["n1 was etcd 3.5.16, and is 3.6.0"]);
    }
}
