//! The plan that brings a cluster back: pure, from a backup and what was seen.
//!
//! - All members are built from one snapshot at the same time, as a cluster that never
//!   was, with a revision above all that is known to have been served: no member of
//!   before is taken for one of it, and who watched is told to read anew.
//! - Or one is ([`Mode::Sequential`]): the others join it without data, one after the
//!   other, each with a vote only when it is in step.
//! - What members are told of their cluster is set as it is afterwards: `existing`, so that
//!   no start over an empty directory makes a cluster of its own.
//! - What still runs goes on while they are built. Then nothing starts at a boot, the API
//!   servers stop, the members stop, the leader last.
//! - Data moves only after it was proven that nobody writes any more ([`Step::Fence`]),
//!   whoever started it, and that nodes which were declared dead do not answer.
//! - It is gone back by undoing until the first API server starts.

use chrono::{DateTime, TimeDelta, Utc};

use crate::datadir::membership::{Membership, MembershipError};
use crate::operation::content::StoredHash;
use crate::operation::returning::data::{DataNode, MARGIN, Running, initial_cluster};
use crate::operation::step::{
    Absent, Edit, Fenced, How, Instance, Left, MemberChange, NewCluster, NewMember, Service, Step,
};
use crate::plan::{Place, Plan, PlanId, Stage};
use crate::types::HexId;

/// Nodes that are worked on at the same time where their order does not matter.
const AT_ONCE: u32 = 8;

/// What reads the API servers and acts on what it remembers.
pub(in crate::operation) const FOLLOWERS: [&str; 3] =
    ["kube-controller-manager", "kube-scheduler", "kubelet"];

/// The operation, as it is typed.
pub const OPERATION: &str = "restore cluster";
/// The same without a backup, as it is typed.
pub const RECOVERY: &str = "recover cluster";

/// What a backup was made of where there was none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remnant {
    /// The node whose member left it.
    pub node: String,
    /// Why that one.
    pub reason: String,
    /// Entries that nobody knows to be committed and that are in it.
    pub kept: u64,
    /// Entries that nobody knows to be committed and that are not.
    pub dropped: u64,
    /// Where the logs of all members ended.
    pub left: Vec<Left>,
}

/// How the members come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// All at once, each built from the backup.
    Parallel,
    /// The first is built from the backup; the others join it.
    Sequential,
}

/// What a member is told of its cluster, as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alignment {
    /// The node.
    pub node: Place,
    /// Files that change before the member starts.
    pub edits: Vec<Edit>,
    /// Files that change when all members are there.
    pub then: Vec<Edit>,
    /// The unit, where its files are among them.
    pub reload: Vec<String>,
}

/// An API server on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiNode {
    /// The node.
    pub node: Place,
    /// How it runs.
    pub running: Running,
    /// Its ports.
    pub ports: Vec<u16>,
}

/// A node that is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadNode {
    /// Its name.
    pub node: String,
    /// Where its member was: `host:port`.
    pub addresses: Vec<String>,
}

/// What is stored before anything changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Save {
    /// Nothing.
    Nothing,
    /// The configuration of the nodes: nobody answers who could give a snapshot.
    State,
    /// A last backup with it.
    Backup,
}

/// How much is lost, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// So many revisions were written after the backup.
    Revisions(i64),
    /// At least so many: a newer backup has them.
    AtLeast(i64),
    /// The cluster that answers does not go on from the backup.
    Another,
    /// No member answers.
    Unknown,
}

/// What the plan is made from.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The plan's id.
    pub id: PlanId,
    /// When it is made.
    pub made: DateTime<Utc>,
    /// The cluster's name.
    pub cluster: String,
    /// The backup.
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
    /// Keys in it.
    pub keys: u64,
    /// The highest revision that is known to have been served.
    pub served: Option<i64>,
    /// How far the revision is raised; `None` decides by what was served.
    pub bump_revision: Option<u64>,
    /// The oldest etcd of the members, where it is known.
    pub etcd_version: Option<String>,
    /// All nodes with a member; their API servers stand in `api_servers`.
    pub nodes: Vec<DataNode>,
    /// Ports of each member, in the same order.
    pub ports: Vec<Vec<u16>>,
    /// Whether nobody may write before API servers do: all who write are stopped.
    pub quiet: bool,
    /// How they come back; one after the other in their order.
    pub mode: Mode,
    /// Settings that change.
    pub alignment: Vec<Alignment>,
    /// All API servers.
    pub api_servers: Vec<ApiNode>,
    /// Other nodes of the cluster: they keep the journal and the lock, too.
    pub keepers: Vec<Place>,
    /// Nodes that are left out.
    pub dead: Vec<DeadNode>,
    /// The node with the leader, where it is known.
    pub leader: Option<Place>,
    /// What is stored first.
    pub save: Save,
    /// What the backup was made of, where the members left nothing else.
    pub remnant: Option<Remnant>,
    /// What is lost.
    pub lost: Lost,
    /// What else a person should know, by the name of the fact.
    pub facts: Vec<(String, String)>,
}

/// How far a revision is raised above the snapshot's by the policy: above all that is
/// known to have been served, and far above it, as more may have been served than is
/// known.
pub fn bump(revision: i64, served: Option<i64>) -> u64 {
    let served = served.unwrap_or(revision).max(revision);
    served.abs_diff(revision).saturating_add(MARGIN)
}

/// Plans it. An error where the members make no cluster.
pub fn plan(inputs: &Inputs) -> Result<Plan<Step>, MembershipError> {
    let (cluster, members) = new_cluster(inputs)?;
    let (operation, title) = match &inputs.remnant {
        None => {
            let title = format!(
                "Restore {} from {} ({}, revision {}, {} keys)",
                inputs.cluster,
                inputs.backup,
                inputs.taken.format("%Y-%m-%d %H:%M UTC"),
                inputs.revision,
                inputs.keys
            );
            (OPERATION, title)
        }
        Some(remnant) => {
            let title = format!(
                "Recover {} from what {} has left, stored as {} (revision {}, {} keys)",
                inputs.cluster, remnant.node, inputs.backup, inputs.revision, inputs.keys
            );
            (RECOVERY, title)
        }
    };
    let mut nodes: Vec<Place> = inputs.nodes.iter().map(|it| it.member.node.clone()).collect();
    for api in &inputs.api_servers {
        if !nodes.contains(&api.node) {
            nodes.push(api.node.clone());
        }
    }
    let touched = nodes.clone();
    nodes.extend(inputs.keepers.iter().cloned());
    let plan = Plan::new(inputs.id, &*inputs.cluster, operation, title, inputs.made, nodes);
    let mut plan = facts(plan, inputs, &cluster);

    let (etcds, idle) = members_of_today(inputs);
    let started: Vec<Instance> = inputs
        .nodes
        .iter()
        .filter(|node| members.iter().any(|member| member.node == node.member.node))
        .map(as_started)
        .collect();
    let servers: Vec<Instance> =
        inputs.api_servers.iter().map(|api| instance(&api.node, &api.running)).collect();
    let absent = absent(inputs);

    let mut stage = |at_once: u32, steps: Vec<Step>| {
        if !steps.is_empty() {
            plan.stages.push(Stage { at_once, steps });
        }
    };
    match inputs.save {
        Save::Nothing => {}
        save => {
            let data = save == Save::Backup;
            stage(1, vec![Step::SaveState { nodes: touched.clone(), data }]);
        }
    }
    let (backup, built) = (inputs.backup.clone(), members.clone());
    stage(1, vec![Step::BuildData { backup, cluster: cluster.clone(), members: built }]);
    stage(AT_ONCE, idle);
    if !servers.is_empty() {
        let instances = servers.clone();
        stage(1, vec![Step::Stop { service: Service::ApiServer, instances }]);
    }
    if !etcds.is_empty() {
        stage(1, vec![Step::Stop { service: Service::Etcd, instances: etcds }]);
    }
    stage(1, vec![Step::Fence { nodes: fenced(inputs, &touched), absent: absent.clone() }]);
    if let Some(remnant) = &inputs.remnant {
        stage(1, vec![Step::CheckLeft { members: remnant.left.clone() }]);
    }
    stage(1, vec![Step::SwapData { members: members.clone() }]);
    let joining = &inputs.nodes[members.len()..];
    stage(AT_ONCE, joining.iter().filter_map(set_aside).collect());
    stage(AT_ONCE, configure(&inputs.alignment, |alignment| &alignment.edits));
    stage(1, vec![Step::Start { service: Service::Etcd, instances: started }]);
    let check = Step::CheckData {
        cluster: cluster.id,
        members: members.clone(),
        revision: cluster.revision,
        quiet: inputs.quiet,
    };
    stage(1, vec![check]);
    let mut voters: Vec<String> = members.iter().map(|member| member.name.clone()).collect();
    for node in joining {
        let (member, peer_urls) = (node.member.clone(), node.peer_urls.clone());
        voters.push(member.name.clone());
        stage(1, vec![Step::Join { member, instance: as_started(node), peer_urls }]);
        let what = MemberChange::Check { voters: voters.clone(), silent: Vec::new() };
        stage(1, vec![Step::Membership { what }]);
    }
    stage(AT_ONCE, configure(&inputs.alignment, |alignment| &alignment.then));
    if !absent.is_empty() {
        stage(1, vec![Step::Fence { nodes: bare(&touched), absent }]);
    }
    if servers.is_empty() {
        return Ok(plan);
    }
    plan = plan.no_return_from_here(
        "the API servers write to the restored data",
        "go on with the restored cluster, or restore the backup that this plan stored first: \
         etcdvault list shows it",
    );
    let instances = servers.into_iter().map(|it| Instance { healthy: true, ..it }).collect();
    plan =
        plan.stage(Stage::in_order(vec![Step::Start { service: Service::ApiServer, instances }]));
    let checks = inputs.api_servers.iter().map(|api| Step::Check {
        node: api.node.clone(),
        files: Vec::new(),
        ports: api.ports.clone(),
        units: Vec::new(),
    });
    plan = plan.stage(Stage::at_once(AT_ONCE, checks.collect()));
    let mut nodes: Vec<Place> = Vec::new();
    for api in &inputs.api_servers {
        if !nodes.contains(&api.node) {
            nodes.push(api.node.clone());
        }
    }
    let programs = FOLLOWERS.map(str::to_owned).to_vec();
    Ok(plan.stage(Stage::in_order(vec![Step::Restart { nodes, programs }])))
}

/// As it is to run.
fn as_started(node: &DataNode) -> Instance {
    Instance { healthy: true, ..instance(&node.member.node, &node.etcd) }
}

/// The data of a member that joins: what there is.
fn set_aside(node: &DataNode) -> Option<Step> {
    let member = &node.member;
    let log = member.wal_dir.clone().filter(|_| member.had_wal);
    let paths: Vec<_> =
        log.into_iter().chain(member.had.then(|| member.data_dir.join("member"))).collect();
    let node = member.node.clone();
    (!paths.is_empty()).then_some(Step::SetAside { node, paths })
}

fn configure(all: &[Alignment], which: fn(&Alignment) -> &Vec<Edit>) -> Vec<Step> {
    let edited = all.iter().filter(|alignment| !which(alignment).is_empty());
    let step = |alignment: &Alignment| Step::Configure {
        node: alignment.node.clone(),
        edits: which(alignment).clone(),
        reload: alignment.reload.clone(),
    };
    edited.map(step).collect()
}

fn instance(node: &Place, running: &Running) -> Instance {
    Instance { node: node.clone(), how: running.how.clone(), healthy: running.healthy }
}

/// The cluster that is built, and those of its members that are, with their ids.
fn new_cluster(inputs: &Inputs) -> Result<(NewCluster, Vec<NewMember>), MembershipError> {
    let token = format!("etcdvault-{}", inputs.id);
    // All of them have to make one, whoever is built.
    let all = Membership::from_initial_cluster(&initial_cluster(&inputs.nodes), &token)?;
    for node in &inputs.nodes {
        all.check_advertised(&node.member.name, &node.peer_urls)?;
    }
    let built = match inputs.mode {
        Mode::Parallel => &inputs.nodes[..],
        Mode::Sequential => &inputs.nodes[..inputs.nodes.len().min(1)],
    };
    let initial_cluster = initial_cluster(built);
    let membership = Membership::from_initial_cluster(&initial_cluster, &token)?;
    let mut members = Vec::new();
    for node in built {
        let id = HexId(membership.member(&node.member.name)?.id).to_string();
        members.push(NewMember { id, ..node.member.clone() });
    }
    let bump_revision =
        inputs.bump_revision.unwrap_or_else(|| bump(inputs.revision, inputs.served));
    let by = i64::try_from(bump_revision).unwrap_or(i64::MAX);
    let cluster = NewCluster {
        id: HexId(membership.cluster_id()).to_string(),
        initial_cluster,
        token,
        bump_revision,
        revision: inputs.revision.saturating_add(by),
        size: inputs.size,
        sha256: inputs.sha256.clone(),
        hash_kv: inputs.hash_kv,
        etcd_version: inputs.etcd_version.clone(),
    };
    Ok((cluster, members))
}

/// Members that run now, the leader last; and for those that do not, what keeps a boot
/// from starting them.
fn members_of_today(inputs: &Inputs) -> (Vec<Instance>, Vec<Step>) {
    let (mut running, mut idle) = (Vec::new(), Vec::new());
    for node in &inputs.nodes {
        let it = instance(&node.member.node, &node.etcd);
        match it.how {
            _ if node.etcd.runs => running.push(it),
            How::BootUnit { unit } => {
                idle.push(Step::Enable { node: it.node, unit, enabled: false });
            }
            _ => {}
        }
    }
    // False sorts first.
    running.sort_by_key(|it| Some(&it.node) == inputs.leader.as_ref());
    (running, idle)
}

fn fenced(inputs: &Inputs, touched: &[Place]) -> Vec<Fenced> {
    let one = |place: &Place| {
        let mut fenced = Fenced {
            node: place.clone(),
            ports: Vec::new(),
            programs: vec![Service::ApiServer.name().to_owned()],
            directories: Vec::new(),
        };
        for (node, ports) in inputs.nodes.iter().zip(&inputs.ports) {
            if node.member.node == *place {
                fenced.ports.extend(ports);
                fenced.directories.push(node.member.data_dir.clone());
                fenced.directories.extend(node.member.wal_dir.clone());
            }
        }
        for api in inputs.api_servers.iter().filter(|api| api.node == *place) {
            fenced.ports.extend(&api.ports);
        }
        fenced
    };
    touched.iter().map(one).collect()
}

/// Nodes that only try addresses.
fn bare(nodes: &[Place]) -> Vec<Fenced> {
    let one = |node: &Place| Fenced {
        node: node.clone(),
        ports: Vec::new(),
        programs: Vec::new(),
        directories: Vec::new(),
    };
    nodes.iter().map(one).collect()
}

fn absent(inputs: &Inputs) -> Vec<Absent> {
    let each = inputs.dead.iter().flat_map(|dead| {
        let node = dead.node.clone();
        dead.addresses
            .iter()
            .map(move |address| Absent { node: node.clone(), address: address.clone() })
    });
    each.collect()
}

/// `1 h 12 min`.
fn ago(time: TimeDelta) -> String {
    let minutes = time.num_minutes().max(0);
    match minutes {
        0 => "less than a minute ago".to_owned(),
        1..60 => format!("{minutes} min ago"),
        60..2880 => format!("{} h {} min ago", minutes / 60, minutes % 60),
        _ => format!("{} days ago", minutes / 1440),
    }
}

/// What goes by the backup's age.
fn lost(plan: Plan<Step>, inputs: &Inputs) -> Plan<Step> {
    let since = format!(
        "everything written after {}, {}",
        inputs.taken.format("%Y-%m-%d %H:%M:%S UTC"),
        ago(inputs.made - inputs.taken)
    );
    plan.fact(
        "Lost",
        match inputs.lost {
            Lost::Revisions(0) => {
                "nothing: no revision was served after the backup was taken".to_owned()
            }
            Lost::Revisions(count) => format!("{since}: {count} revisions"),
            Lost::AtLeast(count) => format!(
                "{since}: at least {count} revisions, which a newer backup has; no member answers \
                 that could tell how many more"
            ),
            Lost::Another => format!(
                "{since}; how much that is cannot be told: the cluster that runs now does not go \
                 on from this backup"
            ),
            Lost::Unknown => {
                format!("{since}; how much that is cannot be told, as no member answers")
            }
        },
    )
}

/// What is known of the end of a log that nobody else has.
fn remains(plan: Plan<Step>, remnant: &Remnant) -> Plan<Step> {
    let entries = |count: u64| match count {
        1 => "1 entry".to_owned(),
        count => format!("{count} entries"),
    };
    let plan = plan.fact("Why", remnant.reason.clone());
    let plan = match (remnant.kept, remnant.dropped) {
        (0, 0) => plan,
        (0, dropped) => plan.fact(
            "Dropped",
            format!("{} of its log that it did not know to be committed", entries(dropped)),
        ),
        (kept, _) => plan.fact(
            "Doubtful",
            format!(
                "{} of its log that it did not know to be committed: kept, as others may have \
                 acknowledged them",
                entries(kept)
            ),
        ),
    };
    plan.fact(
        "Lost",
        format!(
            "what {} never had: writes that other members alone acknowledged; how many cannot be \
             told",
            remnant.node
        ),
    )
}

fn facts(mut plan: Plan<Step>, inputs: &Inputs, cluster: &NewCluster) -> Plan<Step> {
    plan = match &inputs.remnant {
        Some(remnant) => remains(plan, remnant),
        None => lost(plan, inputs),
    };
    let kept = inputs.nodes.iter().flat_map(|node| {
        let place = &node.member.node;
        let paths = node.member.kept(inputs.id);
        paths.into_iter().map(move |path| format!("{place}:{}", path.display()))
    });
    let kept: Vec<String> = kept.collect();
    plan = match kept.is_empty() {
        true => plan.fact("Kept", "no data: there is none now"),
        false => plan.fact("Kept", format!("the present data, as {}", kept.join(", "))),
    };
    let up = inputs.nodes.iter().any(|node| node.etcd.runs);
    plan = plan.fact(
        "Down",
        match (inputs.api_servers.is_empty(), up) {
            (false, _) => "kube-apiserver and etcd, from their stop to their start",
            (true, true) => "etcd, from its stop to its start",
            (true, false) => "etcd is down now, and comes up with the restored data",
        },
    );
    plan = match cluster.bump_revision {
        0 => plan.fact(
            "Revision",
            format!(
                "{}, as in the backup: who watched a higher one may be misled, and has to be \
                 restarted",
                cluster.revision
            ),
        ),
        by => plan.fact(
            "Revision",
            format!(
                "{}, raised by {by}, all before it compacted: who watches sees that it has to \
                 read anew",
                cluster.revision
            ),
        ),
    };
    if let (Mode::Sequential, [first, others @ ..]) = (inputs.mode, &inputs.nodes[..]) {
        let names: Vec<&str> = others.iter().map(|node| node.member.name.as_str()).collect();
        plan = plan.fact(
            "Order",
            match names[..] {
                [] => format!("{} is the only member", first.member.name),
                _ => format!(
                    "{} alone, from the backup; then {} join it, each without data",
                    first.member.name,
                    names.join(", ")
                ),
            },
        );
    }
    if inputs.api_servers.is_empty() {
        plan = plan.fact(
            "Clients",
            "whoever else uses this etcd is not stopped: stop it before, start it again after; \
             rolled back, revisions begin again where they were",
        );
    }
    if !inputs.api_servers.is_empty() {
        plan = plan.fact(
            "By hand",
            "kubelets of nodes without an API server, and controllers of your own, keep what they \
             read before: restart them afterwards",
        );
    }
    for dead in &inputs.dead {
        let node = &dead.node;
        plan = plan.fact(
            "Left out",
            format!(
                "{node}, declared dead: before it comes back, disable its etcd and kube-apiserver \
                 and set its data aside"
            ),
        );
    }
    for (name, text) in &inputs.facts {
        plan = plan.fact(name, text);
    }
    plan
}
