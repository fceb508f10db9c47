//! What follows from nodes and cluster together: which member is which node, clients
//! that would not survive a loss, settings that differ between nodes. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Observation, SeenCluster, SeenMember, SeenNode};
use crate::dialect::{host, port};
use crate::etcd::discovery::Weight;
use crate::node::NodeName;
use crate::observe::{Finding, Severity};
use crate::types::Version;

/// How serious what is wrong with SRV records is.
pub fn severity(weight: Weight) -> Severity {
    match weight {
        Weight::Note => Severity::Note,
        Weight::Warning => Severity::Warning,
        Weight::Fatal => Severity::Problem,
    }
}

/// The node that a member runs on: one of its URLs leads there; where it has none that
/// does, the only node whose settings have its name.
pub fn node_of(member: &SeenMember, nodes: &[SeenNode]) -> Option<NodeName> {
    let urls = member.peer_urls.iter().chain(&member.client_urls);
    let hosts: Vec<&str> = urls.filter_map(|url| host(url)).collect();
    let leads = |node: &&SeenNode| {
        let facts = &node.seen.facts;
        hosts.iter().any(|host| match host.parse::<IpAddr>() {
            Ok(ip) => facts.addresses.contains(&ip),
            Err(_) => *host == facts.hostname || *host == node.seen.name.as_str(),
        })
    };
    let named =
        |node: &&SeenNode| node.seen.etcd.iter().any(|etcd| etcd.settings.name() == member.name);
    let by_address: Vec<&SeenNode> = nodes.iter().filter(leads).collect();
    let found: Vec<&SeenNode> = match by_address.len() {
        0 => nodes.iter().filter(named).collect(),
        1 => by_address,
        _ => by_address.into_iter().filter(named).collect(),
    };
    match found.as_slice() {
        [one] => Some(one.seen.name.clone()),
        _ => None,
    }
}

/// All that is to be said beside what each node's own picture says.
pub fn judge(seen: &Observation) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &seen.cluster {
        Some(cluster) => {
            members(&mut findings, cluster, !seen.nodes.is_empty());
            clients(&mut findings, &seen.nodes, cluster);
            settings(&mut findings, &seen.nodes, cluster);
        }
        None => {
            let mut found = about(
                None,
                Severity::Warning,
                format!("the cluster was not reached: {}", why(seen)),
            );
            found.hint = Some(
                "give --endpoints and certificates, or run etcdvault discover on a node".to_owned(),
            );
            findings.push(found);
            on_loopback(&mut findings, &seen.nodes);
        }
    }
    aligned(&mut findings, &seen.nodes);
    findings
}

/// Members that only their own machine reaches: nobody else asks them anything.
fn on_loopback(findings: &mut Vec<Finding>, nodes: &[SeenNode]) {
    for node in nodes.iter().filter(|node| node.ssh.is_some()) {
        for etcd in &node.seen.etcd {
            let urls = etcd.settings.listen_client_urls();
            if urls.is_empty() || !urls.iter().all(|url| is_loopback(url)) {
                continue;
            }
            let what = format!(
                "member {} serves its own machine alone: {}",
                etcd.settings.name(),
                urls.join(",")
            );
            let mut found = about(Some(&node.seen.name), Severity::Warning, what);
            found.hint = Some(format!(
                "run etcdvault discover on {}; for others set listen-client-urls and \
                 advertise-client-urls there",
                node.seen.name
            ));
            findings.push(found);
        }
    }
}

fn is_loopback(url: &str) -> bool {
    let host = host(url).unwrap_or_default();
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn why(seen: &Observation) -> String {
    match seen.silence.as_slice() {
        [] => "nobody answered".to_owned(),
        [one] => one.clone(),
        [one, more @ ..] => format!("{one} (and {} more)", more.len()),
    }
}

fn about(node: Option<&NodeName>, severity: Severity, what: impl Into<String>) -> Finding {
    Finding { node: node.cloned(), severity, what: what.into(), hint: None }
}

fn members(findings: &mut Vec<Finding>, cluster: &SeenCluster, looked: bool) {
    for member in &cluster.members {
        let name = label(member);
        if let Some(error) = &member.error {
            let what = format!("member {name} does not answer: {error}");
            findings.push(about(member.node.as_ref(), Severity::Warning, what));
        }
        if member.node.is_none() && looked {
            let what = format!("the node of member {name} was not looked at");
            let at = member.peer_urls.iter().chain(&member.client_urls).find_map(|url| host(url));
            let mut found = about(None, Severity::Note, what);
            found.hint = at.map(|at| format!("name it too: etcdvault discover … {at}"));
            findings.push(found);
        }
        if let Some(url) = member.peer_urls.iter().find(|url| is_loopback(url)) {
            let what = format!("member {name} tells its peers {url}: no other machine reaches it");
            let severity = match cluster.members.len() {
                1 => Severity::Note,
                _ => Severity::Problem,
            };
            findings.push(about(member.node.as_ref(), severity, what));
        }
    }
    let lines: BTreeSet<(u32, u32)> = cluster
        .members
        .iter()
        .filter_map(|member| Some(member.version.as_ref()?.parse::<Version>().ok()?.minor_line()))
        .collect();
    if lines.len() > 1 {
        let lines: Vec<String> = lines.iter().map(|(a, b)| format!("{a}.{b}")).collect();
        let what = format!("members run different versions: {}", lines.join(" and "));
        findings.push(about(None, Severity::Note, what));
    }
}

fn label(member: &SeenMember) -> String {
    if member.name.is_empty() { member.id.to_string() } else { member.name.clone() }
}

/// Clients survive the loss of any one member when they name more than one, and no
/// member that is gone.
fn clients(findings: &mut Vec<Finding>, nodes: &[SeenNode], cluster: &SeenCluster) {
    for node in nodes {
        for server in &node.seen.api_servers {
            let file = server.files.first().map(|file| file.path.display().to_string());
            let named = server.settings.etcd_servers();
            client(findings, node, cluster, "kube-apiserver", file.as_deref(), &named);
            for other in server.settings.servers_overrides() {
                let what = format!("kube-apiserver for {}", other.resource);
                client(findings, node, cluster, &what, file.as_deref(), &other.servers);
            }
        }
        for other in &node.seen.clients {
            let file = other.file.display().to_string();
            client(findings, node, cluster, &other.what, Some(&file), &other.endpoints);
        }
    }
}

fn client(
    findings: &mut Vec<Finding>,
    node: &SeenNode,
    cluster: &SeenCluster,
    what: &str,
    file: Option<&str>,
    named: &[String],
) {
    let place = file.map_or_else(String::new, |file| format!(" ({file})"));
    let on = Some(&node.seen.name);
    let mut reached = BTreeSet::new();
    for url in named {
        match member_at(url, node, cluster) {
            Some(member) => drop(reached.insert(member.id)),
            None if is_address(url) => {
                let text = format!("{what} names {url}{place}, where no member is");
                let mut found = about(on, Severity::Problem, text);
                found.hint = Some(format!("take it out; the members: {}", urls(cluster)));
                findings.push(found);
            }
            // A name may lead anywhere: a load balancer, a name of a member.
            None => {
                let text = format!("{what} names {url}{place}, which no member advertises");
                findings.push(about(on, Severity::Note, text));
            }
        }
    }
    let voters = cluster.members.iter().filter(|member| !member.learner).count();
    // kubeadm's way: each API server uses the member beside it, and goes with it.
    let beside = node.seen.is_embedded() && named.len() == 1;
    if named.len() == 1 && reached.len() == 1 && voters > 1 && !beside {
        let text = format!("{what} names only {}{place}: it does not survive its loss", named[0]);
        let mut found = about(on, Severity::Warning, text);
        found.hint = Some(format!("name all: {}", urls(cluster)));
        findings.push(found);
    }
}

fn urls(cluster: &SeenCluster) -> String {
    let all = cluster.members.iter().flat_map(|member| &member.client_urls);
    all.map(String::as_str).collect::<Vec<_>>().join(",")
}

fn is_address(url: &str) -> bool {
    host(url).is_some_and(|host| host.parse::<IpAddr>().is_ok())
}

/// The member that `url` leads to from `node`.
fn member_at<'c>(url: &str, node: &SeenNode, cluster: &'c SeenCluster) -> Option<&'c SeenMember> {
    let at = host(url)?;
    let its_port = port(url).unwrap_or(2379);
    let loopback = at == "localhost" || at.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    cluster.members.iter().find(|member| {
        if loopback && member.node.as_ref() == Some(&node.seen.name) {
            return true;
        }
        member.client_urls.iter().any(|known| {
            let same =
                match (at.parse::<IpAddr>(), host(known).unwrap_or_default().parse::<IpAddr>()) {
                    (Ok(a), Ok(b)) => a == b,
                    _ => host(known) == Some(at),
                };
            same && port(known).unwrap_or(2379) == its_port
        })
    })
}

/// What a node's files say of its member against what the cluster knows of it.
fn settings(findings: &mut Vec<Finding>, nodes: &[SeenNode], cluster: &SeenCluster) {
    for node in nodes {
        let member = cluster.members.iter().find(|m| m.node.as_ref() == Some(&node.seen.name));
        let Some(etcd) = node.seen.member() else { continue };
        let Some(member) = member else {
            let what = format!(
                "etcd is set up here as {} and is no member of the cluster",
                etcd.settings.name()
            );
            findings.push(about(Some(&node.seen.name), Severity::Warning, what));
            continue;
        };
        let files: BTreeSet<String> = etcd.settings.advertise_client_urls().into_iter().collect();
        let list: BTreeSet<String> = member.client_urls.iter().cloned().collect();
        if !files.is_empty() && !list.is_empty() && files != list && etcd.drift.is_empty() {
            let join = |urls: &BTreeSet<String>| {
                urls.iter().map(String::as_str).collect::<Vec<_>>().join(",")
            };
            let what = format!(
                "advertise-client-urls: the files say {}, the cluster knows {}",
                join(&files),
                join(&list)
            );
            findings.push(about(Some(&node.seen.name), Severity::Warning, what));
        }
    }
}

/// `initial-cluster` equal everywhere.
fn aligned(findings: &mut Vec<Finding>, nodes: &[SeenNode]) {
    let mut lists: BTreeMap<Vec<(String, String)>, Vec<&NodeName>> = BTreeMap::new();
    for node in nodes {
        let Some(etcd) = node.seen.member() else { continue };
        let list = etcd.settings.initial_cluster();
        let mut list: Vec<(String, String)> =
            list.iter().map(|(name, url)| (name.to_owned(), url.to_owned())).collect();
        list.sort();
        lists.entry(list).or_default().push(&node.seen.name);
    }
    // kubeadm's members name those that were there when they joined.
    let embedded = nodes.iter().any(|node| node.seen.is_embedded());
    if lists.len() > 1 && !embedded {
        let groups: Vec<String> = lists
            .values()
            .map(|nodes| nodes.iter().map(|n| n.as_str()).collect::<Vec<_>>().join(","))
            .collect();
        let what = format!("initial-cluster differs between nodes: {}", groups.join(" | "));
        findings.push(about(None, Severity::Warning, what));
    }
}
