//! `restore cluster`: a cluster stands again from a backup, all members at once or one
//! after the other; and `preflight`, which only looks.
//!
//! - Everything that can be known is known before anything changes ([`preflight`]); what
//!   stands in the way is refused with its remedy.
//! - The plan is pure over what was seen ([`planner`]); its steps are those of all plans.
//! - `latest` never means what a plan stored before it changed the nodes: whoever tries
//!   twice gets the same backup twice.

mod align;
mod known;
mod map;
pub mod planner;

use std::sync::Arc;

use chrono::Utc;
use vault::layout::ClusterName;
use vault::repository::{Backup, Repository};

use self::planner::{ApiNode, DeadNode, Inputs, Lost, Mode, Remnant, Save};
use super::content::{SNAPSHOT_ROLE, SnapshotContent};
use super::failure::{Failure, FailureKind};
use super::member::planner::has_learners;
use super::own_way;
use super::preflight::{self, Finding, Looked, Seen, SeenBackup, SeenNode, Severity};
use super::returning::data::{DataNode, Running};
use super::returning::looked::{running, set_aside};
use super::step::{How, NewMember, Service, Step};
use crate::dialect::port;
use crate::etcd::cluster::{Reach, observe as observe_members};
use crate::etcd::{ConnectionSettings, Connector};
use crate::node::{Node, NodeName};
use crate::plan::{Place, Plan, PlanId};

pub use self::known::find;

const WHAT: &str = "nothing was restored";

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The cluster, by its name in the vault and in the configuration.
    pub cluster: ClusterName,
    /// Nodes that are gone for good.
    pub dead: Vec<NodeName>,
    /// Whether the present state is stored first.
    pub save: bool,
    /// Whether it goes on although something stands in the way.
    pub force: bool,
    /// Whether a backup of another cluster is taken.
    pub other_cluster: bool,
    /// How far the revision is raised; `None` decides by what was served.
    pub bump_revision: Option<u64>,
    /// What the backup was made of, where it was made of what members left.
    pub remnant: Option<Remnant>,
    /// How the members come back.
    pub mode: Mode,
    /// Which member of the backup's cluster which node stands for, where that cluster was
    /// elsewhere. How the members are called and reached the nodes' own settings say.
    pub map: Vec<(String, NodeName)>,
}

/// What is reached.
pub struct Reached<'a> {
    /// The nodes that are restored; one that is not reached answers with why.
    pub nodes: &'a [Arc<dyn Node>],
    /// How others know a node besides, by its name: addresses of the configuration.
    pub known_as: &'a dyn Fn(&NodeName) -> Vec<String>,
    /// Other nodes of the cluster, which keep the journal and the lock, too.
    pub keepers: Vec<NodeName>,
    /// Connects to the members.
    pub connector: &'a Connector,
    /// How they are reached.
    pub connection: &'a ConnectionSettings,
}

/// What a look found.
#[derive(Debug)]
pub struct Checked {
    /// All that should be known, the worst first.
    pub findings: Vec<Finding>,
    /// What was looked at.
    pub looked: Looked,
}

/// A plan, and what should be known before it is confirmed.
#[derive(Debug)]
pub struct Prepared {
    /// The plan.
    pub plan: Plan<Step>,
    /// What was found; nothing that stands in the way, unless that was insisted on.
    pub checked: Checked,
}

/// Looks at all nodes and, where one is named, at the backup.
pub async fn check(
    repository: Option<(&Repository, &Backup)>,
    cluster: &ClusterName,
    dead: &[NodeName],
    reached: &Reached<'_>,
) -> Result<Checked, Failure> {
    let backup = match repository {
        Some((repository, backup)) => Some(known::backup(repository, backup, cluster).await?.0),
        None => None,
    };
    let seen = look(backup, dead, reached).await?;
    let mut findings = preflight::foreign(&seen, false);
    findings.extend(preflight::judge(&seen));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Ok(Checked { findings, looked: seen.looked() })
}

pub(super) async fn look(
    backup: Option<SeenBackup>,
    dead: &[NodeName],
    reached: &Reached<'_>,
) -> Result<Seen, Failure> {
    let usage = |why: String| {
        Failure::new(FailureKind::Usage, WHAT).detail(why).state("everything is as it was")
    };
    for name in dead {
        if !reached.nodes.iter().any(|node| node.name() == name) {
            return Err(usage(format!("{name}, declared dead, is none of the nodes")));
        }
    }
    let view = observe_members(reached.connector, reached.connection, Reach::AllMembers).await;
    let wanted = preflight::Wanted {
        nodes: reached.nodes,
        dead,
        known_as: reached.known_as,
        view: &view,
        backup,
    };
    let seen = preflight::look(wanted).await;
    if let Some(node) = seen.nodes.iter().find(|node| dead.contains(node.name())) {
        let why = format!("{} was declared dead, and answers", node.name());
        return Err(usage(why).hint("leave --dead away: its etcd can be stopped like the others'"));
    }
    Ok(seen)
}

/// Looks at everything and makes the plan.
pub async fn prepare(
    repository: &Repository,
    backup: &Backup,
    reached: &Reached<'_>,
    options: &Options,
) -> Result<Prepared, Failure> {
    let manifest = &backup.manifest;
    let Some(object) = manifest.object(SNAPSHOT_ROLE) else {
        return Err(refused(format!("{} holds no snapshot", manifest.id))
            .hint("etcdvault list shows the backups that do"));
    };
    let content = SnapshotContent::of(manifest).map_err(refused)?;
    let (about, mut served) = known::backup(repository, backup, &options.cluster).await?;
    let seen = look(Some(about), &options.dead, reached).await?;
    for node in &seen.nodes {
        own_way::refused(node.seen.distribution, node.name(), WHAT)?;
    }
    let foreign = preflight::foreign(&seen, !options.map.is_empty());
    let findings = preflight::judge(&seen);
    let mapped = map::mapped(&seen, &options.map)?;
    unblocked(&seen, &foreign, &findings, options)?;
    let planned = known::by_plans(reached.nodes).await;
    served = [served, planned, seen.live.revision].into_iter().flatten().max();
    let id = PlanId::generate();
    let members = members(&seen, id)?;
    let (nodes, ports): (Vec<DataNode>, Vec<Vec<u16>>) = members.into_iter().unzip();
    if options.mode == Mode::Sequential {
        one_by_one(&seen, &nodes)?;
    }
    let aligning = align::alignment(&seen, &nodes, reached.nodes, options.mode);
    let (alignment, by_hand) = aligning.await?;
    let mut facts = facts(&seen, options, served);
    facts.extend(mapped);
    facts.extend(at_once(&seen, options.mode));
    for (node, what) in by_hand {
        facts.push(("By hand".to_owned(), format!("{node}: {what}")));
    }
    let place = |name: &NodeName| Place::new(name.as_str()).map_err(|e| refused(e.to_string()));
    let keepers: Result<Vec<Place>, Failure> = reached.keepers.iter().map(place).collect();
    let led = seen.live.leader.as_ref();
    let api_servers = api_servers(&seen, id)?;
    let inputs = Inputs {
        id,
        made: Utc::now(),
        cluster: options.cluster.to_string(),
        backup: manifest.id.to_string(),
        taken: manifest.started,
        size: object.plain_size,
        sha256: object.plain_sha256.to_string(),
        hash_kv: content.hash_kv,
        revision: content.database.revision,
        keys: content.database.keys,
        served,
        bump_revision: options.bump_revision,
        etcd_version: seen
            .nodes
            .iter()
            .filter_map(|node| node.version)
            .min()
            .map(|v| v.to_string()),
        leader: led
            .and_then(|name| nodes.iter().find(|node| node.member.name == *name))
            .map(|node| node.member.node.clone()),
        nodes,
        ports,
        // Where no API server is stopped, others are the clients.
        quiet: !api_servers.is_empty() && !options.force,
        mode: options.mode,
        alignment,
        api_servers,
        keepers: keepers?,
        dead: dead(&seen),
        save: save(&seen, options),
        remnant: options.remnant.clone(),
        lost: lost(&seen),
        facts,
    };
    let plan = planner::plan(&inputs)
        .map_err(|error| refused("the members make no cluster").because(error))?;
    let mut findings = [foreign, findings].concat();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Ok(Prepared { plan, checked: Checked { findings, looked: seen.looked() } })
}

/// A cluster that answers gives a last backup: one that most of the members are in. One
/// that a single member began anew does not speak for the others.
fn save(seen: &Seen, options: &Options) -> Save {
    let members = seen.nodes.iter().filter(|node| node.etcd().is_some()).count();
    let answering = seen.live.clusters.len();
    match (options.save, seen.live.leader.is_some() && seen.live.cluster().is_some()) {
        (false, _) => Save::Nothing,
        (true, true) if answering * 2 > members => Save::Backup,
        (true, _) => Save::State,
    }
}

/// Whether members can join one after the other: they have to be told who is there so far.
fn one_by_one(seen: &Seen, nodes: &[DataNode]) -> Result<(), Failure> {
    let hint = "leave --sequential away: all members come back at once";
    for node in nodes {
        let name = &node.member.node;
        if matches!(node.etcd.how, How::Pod { .. }) {
            let why = format!("{name}: a member in a static pod does not join by itself");
            return Err(refused(why).hint(hint));
        }
        let is = |it: &&SeenNode| it.name().as_str() == name.as_str();
        let etcd = seen.nodes.iter().find(is).and_then(SeenNode::etcd);
        if nodes.len() > 1 && etcd.is_some_and(|etcd| etcd.settings.is_discovered()) {
            let why = format!(
                "{name}: members that find each other by records have to be there all at once"
            );
            return Err(refused(why).hint(hint));
        }
    }
    Ok(())
}

/// Said where members join with a vote, as their etcd forgets what learners become.
fn at_once(seen: &Seen, mode: Mode) -> Option<(String, String)> {
    let versions = seen.nodes.iter().filter_map(|node| node.version);
    let version = versions.filter(|version| !has_learners(*version)).min()?;
    let text = format!(
        "etcd {version} does not keep promotions: each member joins with a vote at once, and until \
         the second one runs nothing is written"
    );
    (mode == Mode::Sequential).then(|| ("Warning".to_owned(), text))
}

fn refused(why: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Error, WHAT).detail(why.into()).state("everything is as it was")
}

/// An error where something stands in the way that was not insisted on.
pub(super) fn unblocked(
    seen: &Seen,
    foreign: &[Finding],
    findings: &[Finding],
    options: &Options,
) -> Result<(), Failure> {
    let blocked = |what: &str, findings: &[Finding]| {
        let mut failure = Failure::new(FailureKind::Error, format!("{WHAT}: {what}"));
        for finding in findings.iter().filter(|found| found.severity == Severity::Problem) {
            let node = finding.node.as_ref().map_or_else(String::new, |node| format!("{node}: "));
            failure = failure.detail(format!("{node}{}", finding.what));
            if let Some(hint) = &finding.hint {
                failure = failure.detail(format!("  | {hint}"));
            }
        }
        failure.state("everything is as it was")
    };
    // What is not seen cannot be stopped, whoever insists.
    if seen.unreached.iter().any(|node| !node.dead) {
        let failure = blocked("not every node is reached", findings);
        return Err(failure.hint("etcdvault preflight looks again; --dead NAME leaves one out"));
    }
    if preflight::is_blocked(foreign) && !options.other_cluster {
        let failure = blocked("the backup seems to be another cluster's", foreign);
        return Err(failure.hint(
            "name another backup; where it is meant: for other nodes than it was of, \
                 --map OLD=NODE says which stands for which member, else insist with \
                 --other-cluster",
        ));
    }
    if preflight::is_blocked(findings) && !options.force {
        let failure = blocked("something stands in the way", findings);
        return Err(
            failure.hint("mend it and look again with etcdvault preflight; or insist with --force")
        );
    }
    Ok(())
}

fn ports(urls: impl IntoIterator<Item = String>) -> Vec<u16> {
    let mut ports: Vec<u16> = urls.into_iter().filter_map(|url| port(&url)).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn place(node: &SeenNode) -> Result<Place, Failure> {
    Place::new(node.name().as_str()).map_err(|error| refused(error.to_string()))
}

/// Whether members answer and none of them leads: nothing that runs over them is ready,
/// and the way back does not wait for it.
fn leaderless(seen: &Seen) -> bool {
    !seen.live.clusters.is_empty() && seen.live.leader.is_none()
}

/// The nodes with a member, each with the member's ports.
fn members(seen: &Seen, id: PlanId) -> Result<Vec<(DataNode, Vec<u16>)>, Failure> {
    let mut found = Vec::new();
    for node in &seen.nodes {
        let (Some(etcd), Some(data)) = (node.etcd(), &node.data) else { continue };
        let urls = etcd.settings.listen_client_urls().into_iter();
        let ports = ports(urls.chain(etcd.settings.listen_peer_urls()));
        let Some(mut running) = running(&etcd.runs, Service::Etcd, ports.clone()) else {
            let why = format!("{}: etcd runs neither in a unit nor in a static pod", node.name());
            return Err(refused(why));
        };
        set_aside(&mut running, id);
        running.healthy &= !leaderless(seen);
        let member = NewMember {
            node: place(node)?,
            name: etcd.settings.name().to_owned(),
            id: String::new(),
            data_dir: etcd.data_dir.clone(),
            wal_dir: etcd.wal_dir.clone(),
            owner: data.owner(),
            has_data_dir: data.dir.is_some(),
            missing: data.missing.clone(),
            had: data.member.is_some(),
            had_wal: data.wal.is_some(),
        };
        let peer_urls = preflight::peer_urls(seen, node);
        found.push((DataNode { member, peer_urls, etcd: running, api_server: None }, ports));
    }
    if found.is_empty() {
        return Err(refused("none of the nodes runs etcd, or is set up to"));
    }
    Ok(found)
}

/// All API servers that run, or that the kubelet tries to run.
fn api_servers(seen: &Seen, id: PlanId) -> Result<Vec<ApiNode>, Failure> {
    let mut found = Vec::new();
    for node in &seen.nodes {
        for server in &node.seen.api_servers {
            let port = server.settings.value("secure-port").and_then(|port| port.parse().ok());
            let ports = vec![port.unwrap_or(6443)];
            let Some(mut it) = running(&server.runs, Service::ApiServer, ports.clone()) else {
                let why = "kube-apiserver runs neither in a unit nor in a static pod";
                return Err(refused(format!("{}: {why}", node.name())));
            };
            if !it.runs {
                continue;
            }
            set_aside(&mut it, id);
            it.healthy &= !leaderless(seen);
            found.push(ApiNode { node: place(node)?, running: Running { ..it }, ports });
        }
    }
    Ok(found)
}

/// Nodes that are left out, with the addresses of their members.
fn dead(seen: &Seen) -> Vec<DeadNode> {
    let address = |url: &str, usual: u16| {
        let host = crate::dialect::host(url)?;
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        Some(format!("{host}:{}", port(url).unwrap_or(usual)))
    };
    let each = seen.unreached.iter().filter(|node| node.dead).map(|node| {
        let is = |name: &str, urls: &[String]| {
            preflight::dead_node(seen, name, urls).is_some_and(|found| found.node == node.node)
        };
        let mut addresses = Vec::new();
        for member in &seen.live.members {
            if is(&member.name, &member.peer_urls) {
                addresses.extend(member.peer_urls.iter().filter_map(|url| address(url, 2380)));
                addresses.extend(member.client_urls.iter().filter_map(|url| address(url, 2379)));
            }
        }
        for etcd in seen.nodes.iter().filter_map(SeenNode::etcd) {
            for (name, url) in etcd.settings.initial_cluster().iter() {
                if is(name, &[url.to_owned()]) {
                    addresses.extend(address(url, 2380));
                }
            }
        }
        if addresses.is_empty() {
            let known =
                node.known_as.iter().filter(|known| known.parse::<std::net::IpAddr>().is_ok());
            addresses.extend(known.flat_map(|ip| [address(ip, 2380), address(ip, 2379)]).flatten());
        }
        addresses.sort();
        addresses.dedup();
        DeadNode { node: node.node.clone(), addresses }
    });
    each.collect()
}

fn lost(seen: &Seen) -> Lost {
    let Some(backup) = &seen.backup else { return Lost::Unknown };
    let goes_on = seen.live.cluster().is_some_and(|id| id.to_string() == backup.lineage);
    match (seen.live.revision, &backup.newer) {
        (Some(revision), _) if goes_on && revision >= backup.revision => {
            Lost::Revisions(revision.saturating_sub(backup.revision))
        }
        (Some(_), _) => Lost::Another,
        (None, Some((_, _, newer))) => Lost::AtLeast(newer.saturating_sub(backup.revision)),
        (None, None) => Lost::Unknown,
    }
}

/// What a person has decided against advice stands in the plan.
fn facts(seen: &Seen, options: &Options, served: Option<i64>) -> Vec<(String, String)> {
    let mut facts = Vec::new();
    if let (Some(by), Some(served), Some(backup)) = (options.bump_revision, served, &seen.backup) {
        let reached = backup.revision.saturating_add(i64::try_from(by).unwrap_or(i64::MAX));
        if reached <= served {
            facts.push((
                "Risk".to_owned(),
                format!(
                    "revision {served} is known to have been served: caches of clients that saw it \
                     stay wrong until they are restarted; leave --bump-revision away to exceed it"
                ),
            ));
        }
    }
    facts
}
