//! `discover`: what runs etcd and uses it, on nodes and as the cluster tells it.
//!
//! Changes nothing. What could not be reached is said in the picture, beside what was.
//!
//! | module | what it does |
//! |---|---|
//! | [`access`] | endpoints and certificates that the nodes themselves name |
//! | [`judge`] | what follows from nodes and cluster together: pure |
//! | [`file`] | the configuration that finds all of it again: pure |

pub mod access;
pub mod file;
pub mod judge;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde::Serialize;

use super::state::describe::MissingNode;
use crate::etcd::cluster::{ClusterView, Row, Silence};
use crate::etcd::discovery::{SrvRecords, diagnose_srv, lookup};
use crate::node::ssh::{NodeSpec, Place};
use crate::node::{Node, NodeError, NodeName};
use crate::observe::{Finding, NodeObservation, Severity, observe};
use crate::types::{ConnectionSettings, HexId, SrvDomain, Version};
use access::{Asked, Credential};

/// A node that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct SeenNode {
    /// How it is reached: `None` for this machine.
    pub ssh: Option<String>,
    /// What was seen.
    #[serde(flatten)]
    pub seen: NodeObservation,
}

/// A member as the cluster and the nodes have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SeenMember {
    /// Its id.
    pub id: HexId,
    /// Its name; empty until it started for the first time.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// Its version, where it answered.
    pub version: Option<String>,
    /// Whether it leads; unknown where it did not answer.
    pub leader: Option<bool>,
    /// Whether it is a learner.
    pub learner: bool,
    /// Bytes of its database.
    pub db_size: Option<u64>,
    /// The node that it runs on, where that was looked at.
    pub node: Option<NodeName>,
    /// Why it did not answer.
    pub error: Option<String>,
}

/// The cluster as its members tell it.
#[derive(Debug, Clone, Serialize)]
pub struct SeenCluster {
    /// Its id.
    pub id: HexId,
    /// Its members by name.
    pub members: Vec<SeenMember>,
    /// With which certificates it was asked.
    pub credential: Credential,
}

/// SRV records that members find each other by.
#[derive(Debug, Clone, Serialize)]
pub struct SeenSrv {
    /// The domain.
    pub domain: String,
    /// The suffix of the service.
    pub name: Option<String>,
    /// Who was asked, where not this machine's name servers.
    pub nameserver: Option<SocketAddr>,
    /// What the name servers say.
    pub records: SrvRecords,
    /// Where clients are served by these records.
    pub endpoints: Vec<String>,
}

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct Observation {
    /// The nodes that were looked at.
    pub nodes: Vec<SeenNode>,
    /// Nodes that could not be.
    pub unreached: Vec<MissingNode>,
    /// The endpoints that were asked.
    pub endpoints: Vec<String>,
    /// The cluster, where a member answered.
    pub cluster: Option<SeenCluster>,
    /// Why none did.
    pub silence: Vec<String>,
    /// SRV records, where a member's settings name a domain.
    pub srv: Option<SeenSrv>,
    /// What a person should know, the worst first.
    pub findings: Vec<Finding>,
}

impl Observation {
    /// Whether everything that was asked for, and every member, answered.
    pub fn complete(&self) -> bool {
        let members = self.cluster.as_ref().map_or(&[][..], |cluster| &cluster.members);
        self.unreached.is_empty()
            && self.cluster.is_some()
            && members.iter().all(|member| member.error.is_none())
    }
}

/// How many nodes are looked at, at once, is the caller's affair: each is one connection.
/// `given` is how etcd is reached as far as flags, variables or the configuration say
/// so; `named` whether they name the members. `nameserver` is asked for SRV records in
/// place of this machine's.
pub async fn discover(
    specs: &[NodeSpec],
    nodes: &[Arc<dyn Node>],
    given: &ConnectionSettings,
    named: bool,
    nameserver: Option<SocketAddr>,
) -> Observation {
    let from = now();
    let looked = join_all(nodes.iter().map(|node| observe(&**node))).await;
    let to = now();
    let mut seen = Vec::new();
    let mut reached: Vec<Arc<dyn Node>> = Vec::new();
    let mut unreached = Vec::new();
    for ((result, spec), node) in looked.into_iter().zip(specs).zip(nodes) {
        let ssh = match &spec.place {
            Place::Local => None,
            Place::Ssh(ssh) => Some(ssh.destination.clone()),
        };
        match result {
            Ok(observed) => {
                seen.push(SeenNode { ssh, seen: observed });
                reached.push(node.clone());
            }
            Err(error) => unreached.push(missing(&error)),
        }
    }
    give_names(&mut seen);
    let settings = ConnectionSettings {
        endpoints: if named { given.endpoints.clone() } else { access::endpoints(&seen) },
        ..given.clone()
    };
    let credentials = access::credentials(&seen, &reached, given).await;
    let asked = access::ask(&settings, credentials).await;
    let mut observation = Observation {
        nodes: seen,
        unreached,
        endpoints: settings.endpoints.iter().map(ToString::to_string).collect(),
        cluster: None,
        silence: Vec::new(),
        srv: None,
        findings: Vec::new(),
    };
    match asked {
        Asked::Answered { view, credential } => {
            observation.cluster = cluster(&view, credential, &observation.nodes);
            if observation.cluster.is_none() {
                observation.silence.push("members of different clusters answered".to_owned());
            }
        }
        Asked::Silent(why) => observation.silence = why,
    }
    let (srv, more) = srv(&observation, nameserver, given.command_timeout).await;
    observation.srv = srv;
    observation.findings = observation
        .nodes
        .iter()
        .flat_map(|node| node.seen.findings.iter().cloned())
        .chain(more)
        .chain(judge::judge(&observation))
        .chain(judge::clocks(&observation.nodes, from, to))
        .collect();
    // The order within one severity is that of nodes: stable.
    observation.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    observation
}

/// This machine's clock, in nanoseconds since 1970.
fn now() -> i128 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i128::try_from(since.as_nanos()).unwrap_or(i128::MAX))
}

fn missing(error: &NodeError) -> MissingNode {
    let mut why = format!("{}: {}", error.act, error.why);
    if let Some(hint) = &error.hint {
        why = format!("{why} ({hint})");
    }
    MissingNode { node: error.node.to_string(), why }
}

/// A node that was named by its address is called by its host name, where no other is.
fn give_names(nodes: &mut [SeenNode]) {
    for at in 0..nodes.len() {
        if nodes[at].seen.name.as_str().parse::<IpAddr>().is_err() {
            continue;
        }
        let short = nodes[at].seen.facts.hostname.split('.').next().unwrap_or_default();
        let Ok(name) = NodeName::new(short) else { continue };
        let taken = |other: &SeenNode| {
            other.seen.name == name || other.seen.facts.hostname == nodes[at].seen.facts.hostname
        };
        if nodes.iter().enumerate().any(|(other, node)| other != at && taken(node)) {
            continue;
        }
        for finding in &mut nodes[at].seen.findings {
            finding.node = Some(name.clone());
        }
        nodes[at].seen.name = name;
    }
}

fn cluster(view: &ClusterView, credential: Credential, nodes: &[SeenNode]) -> Option<SeenCluster> {
    let mut ids = view.rows.iter().filter_map(|row| Some(row.status()?.cluster_id));
    let id = ids.next()?;
    if ids.any(|other| other != id) {
        return None;
    }
    let rows = view.rows.iter().filter(|row| !view.list_known || row.listed.is_some());
    let mut members: Vec<SeenMember> = rows.filter_map(|row| member(row, nodes)).collect();
    members.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    Some(SeenCluster { id, members, credential })
}

fn member(row: &Row, nodes: &[SeenNode]) -> Option<SeenMember> {
    let id = row.member_id()?;
    let listed = row.listed.as_ref();
    let status = row.status();
    let mut member = SeenMember {
        id,
        name: listed.map(|listed| listed.name.clone()).unwrap_or_default(),
        peer_urls: listed.map(|listed| listed.peer_urls.clone()).unwrap_or_default(),
        client_urls: listed.map(|listed| listed.client_urls.clone()).unwrap_or_default(),
        version: status.map(|status| status.version.clone()),
        leader: status.map(|status| status.is_leader()),
        learner: row.is_learner(),
        db_size: status.map(|status| status.db_size),
        node: None,
        error: match &row.answer {
            Ok(_) => None,
            Err(Silence::Unstarted) => Some("has never started".to_owned()),
            Err(silence) => Some(silence.to_string()),
        },
    };
    member.node = judge::node_of(&member, nodes);
    Some(member)
}

/// The records of the domain that the members' settings name, and what is wrong there.
async fn srv(
    seen: &Observation,
    nameserver: Option<SocketAddr>,
    bound: Duration,
) -> (Option<SeenSrv>, Vec<Finding>) {
    let setting = |name: &str| {
        let mut services = seen.nodes.iter().flat_map(|node| &node.seen.etcd);
        services.find_map(|etcd| etcd.settings.value(name).filter(|value| !value.is_empty()))
    };
    let Some(domain) = setting("discovery-srv") else { return (None, Vec::new()) };
    let srv = SrvDomain {
        domain: domain.trim_end_matches('.').to_owned(),
        name: setting("discovery-srv-name").map(str::to_owned),
        nameserver,
    };
    let finding = |severity, what: String, hint: String| Finding {
        node: None,
        severity,
        what,
        hint: Some(hint),
    };
    let records = match lookup(&srv, bound).await {
        Ok(records) => records,
        Err(error) => {
            let hint = "look at /etc/resolv.conf of this machine, or name another server: \
                        --discovery-srv-nameserver IP"
                .to_owned();
            return (None, vec![finding(Severity::Warning, error.to_string(), hint)]);
        }
    };
    let members = seen.cluster.iter().flat_map(|cluster| &cluster.members);
    let versions: Vec<Version> =
        members.filter_map(|member| member.version.as_ref()?.parse().ok()).collect();
    let findings = versions.iter().min().map_or_else(Vec::new, |oldest| {
        diagnose_srv(*oldest, &records)
            .into_iter()
            .map(|found| finding(judge::severity(found.weight), found.problem, found.remedy))
            .collect()
    });
    let endpoints = records.client_endpoints().iter().map(ToString::to_string).collect();
    let SrvDomain { domain, name, nameserver } = srv;
    (Some(SeenSrv { domain, name, nameserver, records, endpoints }), findings)
}
