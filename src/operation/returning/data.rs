//! The plan of a return of data: pure, from what a backup holds and what nodes run now.
//!
//! - All members or none. The directories are of one snapshot and of one cluster that
//!   never was, with a revision above all that was served.
//! - They are built while etcd goes on. Then nothing starts at a boot, the API servers
//!   stop, the members stop, and only then data is moved.
//! - Once the API servers write again there is no way back by undoing: they would see
//!   revisions a second time.

use chrono::{DateTime, Utc};

use crate::datadir::membership::{Membership, MembershipError};
use crate::operation::content::StoredHash;
use crate::operation::step::{How, Instance, NewCluster, NewMember, Service, Step};
use crate::plan::{Place, Plan, PlanId, Stage};
use crate::types::HexId;

/// Nodes that are looked at at the same time.
const AT_ONCE: u32 = 8;

/// A revision is raised at least so far above all that are known to have been served:
/// etcd serves more of them between the plan and its stop.
pub const MARGIN: u64 = 1_000_000_000;

/// A service as it runs on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// How.
    pub how: How,
    /// Whether it runs, or tries to.
    pub runs: bool,
    /// Whether it runs well.
    pub healthy: bool,
}

/// A node with a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataNode {
    /// The member on it; its id is set by the plan.
    pub member: NewMember,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// etcd.
    pub etcd: Running,
    /// The API server, where one runs.
    pub api_server: Option<(Running, Vec<u16>)>,
}

/// What a return of data is planned from.
#[derive(Debug, Clone)]
pub struct DataInputs {
    /// The plan's id.
    pub id: PlanId,
    /// When it is made.
    pub made: DateTime<Utc>,
    /// The cluster's name.
    pub cluster: String,
    /// The backup with the snapshot.
    pub backup: String,
    /// When it was taken.
    pub taken: DateTime<Utc>,
    /// Bytes of the snapshot.
    pub size: u64,
    /// SHA-256 of the snapshot, in hexadecimal.
    pub sha256: String,
    /// Its HashKV, where it is known.
    pub hash_kv: Option<StoredHash>,
    /// Its revision.
    pub revision: i64,
    /// The highest revision that is known to have been served.
    pub served: Option<i64>,
    /// The oldest etcd of the members.
    pub etcd_version: Option<String>,
    /// All nodes with a member.
    pub nodes: Vec<DataNode>,
    /// Other nodes of the cluster: they keep the journal and the lock, too.
    pub keepers: Vec<Place>,
    /// The node with the leader, where it is known.
    pub leader: Option<Place>,
    /// Whether the present state is stored first.
    pub save: bool,
    /// What else a person should know, by the name of the fact.
    pub facts: Vec<(String, String)>,
}

/// The members as `name=url,…`, in the order of their names.
pub(in crate::operation) fn initial_cluster(nodes: &[DataNode]) -> String {
    let mut members: Vec<String> = nodes
        .iter()
        .flat_map(|node| node.peer_urls.iter().map(|url| format!("{}={url}", node.member.name)))
        .collect();
    members.sort();
    members.join(",")
}

/// Plans the return. An error where the members make no cluster.
pub fn plan(inputs: &DataInputs) -> Result<Plan<Step>, MembershipError> {
    let token = format!("etcdvault-{}", inputs.id);
    let initial_cluster = initial_cluster(&inputs.nodes);
    let membership = Membership::from_initial_cluster(&initial_cluster, &token)?;
    let mut members = Vec::new();
    for node in &inputs.nodes {
        membership.check_advertised(&node.member.name, &node.peer_urls)?;
        let id = HexId(membership.member(&node.member.name)?.id).to_string();
        members.push(NewMember { id, ..node.member.clone() });
    }
    let served = inputs.served.unwrap_or(inputs.revision).max(inputs.revision);
    let bump_revision = served.abs_diff(inputs.revision).saturating_add(MARGIN);
    let revision = inputs.revision.saturating_add(i64::try_from(bump_revision).unwrap_or(i64::MAX));
    let cluster = NewCluster {
        id: HexId(membership.cluster_id()).to_string(),
        initial_cluster,
        token,
        bump_revision,
        revision,
        size: inputs.size,
        sha256: inputs.sha256.clone(),
        hash_kv: inputs.hash_kv,
        etcd_version: inputs.etcd_version.clone(),
    };
    let mut nodes: Vec<Place> = inputs.nodes.iter().map(|node| node.member.node.clone()).collect();
    nodes.extend(inputs.keepers.iter().cloned());
    let title = format!(
        "Return the data of {} to {} ({}, revision {})",
        inputs.cluster,
        inputs.backup,
        inputs.taken.format("%Y-%m-%d %H:%M UTC"),
        inputs.revision
    );
    let (name, made) = (inputs.cluster.clone(), inputs.made);
    let mut plan = Plan::new(inputs.id, name, "state return --only data", title, made, nodes);
    plan = facts(plan, inputs, revision);

    let (backup, built) = (inputs.backup.clone(), members.clone());
    let build = Step::BuildData { backup, cluster: cluster.clone(), members: built };
    let (ids, quiet) = (members.clone(), false);
    let check = Step::CheckData { cluster: cluster.id, members: ids, revision, quiet };
    let leader = inputs.leader.as_ref();
    let work = Work { nodes: &inputs.nodes, leader, save: inputs.save, build, check, members };
    Ok(stages(plan, work))
}

/// What all returns of data have in common.
pub(super) struct Work<'a> {
    /// All nodes with a member.
    pub(super) nodes: &'a [DataNode],
    /// The node with the leader, where it is known.
    pub(super) leader: Option<&'a Place>,
    /// Whether the present state is stored first.
    pub(super) save: bool,
    /// Makes the directories beside the present ones.
    pub(super) build: Step,
    /// Looks at the members at the end.
    pub(super) check: Step,
    /// The members.
    pub(super) members: Vec<NewMember>,
}

/// The stages of a return of data.
pub(super) fn stages(mut plan: Plan<Step>, work: Work<'_>) -> Plan<Step> {
    let Work { nodes, leader, save, build, check, members } = work;
    let instance = |node: &DataNode, running: &Running| Instance {
        node: node.member.node.clone(),
        how: running.how.clone(),
        healthy: running.healthy,
    };
    let api_servers: Vec<Instance> = nodes
        .iter()
        .filter_map(|node| Some(instance(node, &node.api_server.as_ref()?.0)))
        .collect();
    let mut etcds: Vec<Instance> = nodes.iter().map(|node| instance(node, &node.etcd)).collect();
    // False sorts first: the leader is the last to go.
    etcds.sort_by_key(|instance| Some(&instance.node) == leader);
    let started: Vec<Instance> =
        etcds.iter().map(|it| Instance { healthy: true, ..it.clone() }).collect();
    // One that does not run is not started on the way back, and not by a boot either.
    let runs =
        |place: &Place| nodes.iter().any(|node| node.member.node == *place && node.etcd.runs);
    let (etcds, idle): (Vec<Instance>, Vec<Instance>) =
        etcds.into_iter().partition(|instance| runs(&instance.node));
    let idle = idle.into_iter().filter_map(|instance| match instance.how {
        How::BootUnit { unit } => Some(Step::Enable { node: instance.node, unit, enabled: false }),
        _ => None,
    });
    let idle: Vec<Step> = idle.collect();

    let mut stage = |at_once: u32, steps: Vec<Step>| {
        if !steps.is_empty() {
            plan.stages.push(Stage { at_once, steps });
        }
    };
    if save {
        let nodes = nodes.iter().map(|node| node.member.node.clone()).collect();
        stage(1, vec![Step::SaveState { nodes, data: true }]);
    }
    stage(1, vec![build]);
    stage(AT_ONCE, idle);
    if !api_servers.is_empty() {
        let instances = api_servers.clone();
        stage(1, vec![Step::Stop { service: Service::ApiServer, instances }]);
    }
    if !etcds.is_empty() {
        stage(1, vec![Step::Stop { service: Service::Etcd, instances: etcds }]);
    }
    stage(1, vec![Step::SwapData { members }]);
    stage(1, vec![Step::Start { service: Service::Etcd, instances: started }]);
    stage(1, vec![check]);
    if !api_servers.is_empty() {
        plan = plan.no_return_from_here(
            "the API servers write to the returned data",
            "return to what this plan stored first: etcdvault state return ID --only data, with \
             the id that etcdvault state list shows",
        );
        let mut instances = api_servers;
        instances.iter_mut().for_each(|instance| instance.healthy = true);
        plan = plan
            .stage(Stage::in_order(vec![Step::Start { service: Service::ApiServer, instances }]));
        let checks = nodes.iter().filter_map(|node| {
            let (_, ports) = node.api_server.as_ref()?;
            Some(Step::Check {
                node: node.member.node.clone(),
                files: Vec::new(),
                ports: ports.clone(),
                units: Vec::new(),
            })
        });
        plan = plan.stage(Stage::at_once(AT_ONCE, checks.collect()));
    }
    plan
}

/// What becomes of clients that are no API server of these nodes.
pub(super) const CLIENTS: &str = "whoever else uses this etcd is not stopped: stop it before, start it again after; rolled \
     back, revisions begin again where they were";

/// What is kept of the present data, and what is down meanwhile.
pub(super) fn kept(plan: Plan<Step>, id: PlanId, nodes: &[DataNode]) -> Plan<Step> {
    let kept = nodes.iter().flat_map(|node| {
        let paths = node.member.kept(id).into_iter();
        paths.map(|path| format!("{}:{}", node.member.node, path.display()))
    });
    let kept: Vec<String> = kept.collect();
    let plan = match kept.is_empty() {
        true => plan.fact("Kept", "nothing: there is no data now"),
        false => plan.fact("Kept", format!("the present data, as {}", kept.join(", "))),
    };
    let down = match nodes.iter().any(|node| node.api_server.is_some()) {
        true => "kube-apiserver and etcd, from their stop to their start",
        false => "etcd, from its stop to its start",
    };
    plan.fact("Down", down)
}

fn facts(mut plan: Plan<Step>, inputs: &DataInputs, revision: i64) -> Plan<Step> {
    let at = inputs.taken.format("%Y-%m-%d %H:%M:%S UTC");
    let lost = match inputs.served {
        Some(served) if served > inputs.revision => {
            format!("everything written after {at}: {} revisions", served - inputs.revision)
        }
        Some(_) => format!("nothing: no revision was served after {at}"),
        None => format!("everything written after {at}"),
    };
    plan = kept(plan.fact("Lost", lost), inputs.id, &inputs.nodes);
    plan = plan.fact(
        "Revision",
        format!("{revision}, above all that was served: who watches sees that it has to read anew"),
    );
    if inputs.nodes.iter().all(|node| node.api_server.is_none()) {
        plan = plan.fact("Clients", CLIENTS);
    }
    for (name, text) in &inputs.facts {
        plan = plan.fact(name, text);
    }
    plan
}
