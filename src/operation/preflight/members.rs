//! Members that no node has, members of other clusters, alarms, nodes that do not answer.
//! Pure.

use std::collections::BTreeMap;

use super::{Finding, Seen, SeenNode, Severity, Unreached, about};
use crate::dialect::host;

pub(super) fn judge(seen: &Seen) -> Vec<Finding> {
    let mut findings = Vec::new();
    unreached(&mut findings, seen);
    names(&mut findings, seen);
    unknown(&mut findings, seen);
    clusters(&mut findings, seen);
    alarms(&mut findings, seen);
    findings
}

fn unreached(findings: &mut Vec<Finding>, seen: &Seen) {
    for node in &seen.unreached {
        let (severity, what, hint) = match node.dead {
            true => (
                Severity::Warning,
                format!("{} is declared dead and left out: {}", node.node, node.why),
                "before it comes back: disable its etcd and kube-apiserver, and set its data aside"
                    .to_owned(),
            ),
            false => (
                Severity::Problem,
                format!("{} is not reached: {}", node.node, node.why),
                format!(
                    "what runs there could go on writing; bring it back, or where it is gone for \
                     good declare it dead: --dead {}",
                    node.node
                ),
            ),
        };
        findings.push(Finding { hint: Some(hint), ..about(severity, what) });
    }
}

/// Members without a name of their own, or with an address that nobody else can use.
fn names(findings: &mut Vec<Finding>, seen: &Seen) {
    let members: Vec<_> = seen.nodes.iter().filter_map(|node| Some((node, node.etcd()?))).collect();
    if members.is_empty() && !seen.nodes.is_empty() {
        let finding = about(Severity::Problem, "none of the nodes runs etcd, or is set up to");
        let hint = "[cluster.NAME] nodes in etcdvault.toml are to be those with the members";
        findings.push(Finding { hint: Some(hint.to_owned()), ..finding });
    }
    let mut by_name: BTreeMap<&str, Vec<&SeenNode>> = BTreeMap::new();
    for (node, etcd) in &members {
        by_name.entry(etcd.settings.name()).or_default().push(node);
    }
    for (name, nodes) in by_name.iter().filter(|(_, nodes)| nodes.len() > 1) {
        let nodes: Vec<&str> = nodes.iter().map(|node| node.name().as_str()).collect();
        let what = format!("{} all call their member {name}", nodes.join(", "));
        let hint = "give each member a name of its own (ETCD_NAME or --name)".to_owned();
        findings.push(Finding { hint: Some(hint), ..about(Severity::Problem, what) });
    }
    if members.len() < 2 {
        return;
    }
    for (node, etcd) in members {
        for url in peer_urls(seen, node) {
            let local = host(&url).is_some_and(|host| {
                host == "localhost"
                    || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
            });
            if local {
                let what = format!(
                    "{} tells the others to reach it at {url}, which is their own address",
                    etcd.settings.name()
                );
                let hint = "set initial-advertise-peer-urls and listen-peer-urls to its address";
                findings.push(Finding::on(node.name(), Severity::Problem, what).hint(hint));
            }
        }
    }
}

/// Where the peers of a node's member reach it: as the cluster knows it, else as it is set
/// up.
pub(in crate::operation) fn peer_urls(seen: &Seen, node: &SeenNode) -> Vec<String> {
    let Some(etcd) = node.etcd() else { return Vec::new() };
    let name = etcd.settings.name();
    let listed = seen.live.members.iter().find(|member| member.name == name);
    match listed.filter(|member| !member.peer_urls.is_empty()) {
        Some(member) => member.peer_urls.clone(),
        None => etcd.settings.initial_advertise_peer_urls(),
    }
}

/// The node that was declared dead and has the member `name` at `urls`.
pub(in crate::operation) fn dead_node<'a>(
    seen: &'a Seen,
    name: &str,
    urls: &[String],
) -> Option<&'a Unreached> {
    seen.unreached.iter().filter(|node| node.dead).find(|node| {
        let is = |text: &str| node.node == text || node.known_as.iter().any(|known| known == text);
        is(name) || urls.iter().any(|url| host(url).is_some_and(is))
    })
}

/// Members that are on none of the nodes: they would go on with the data of now.
fn unknown(findings: &mut Vec<Finding>, seen: &Seen) {
    let ours = |name: &str| {
        seen.nodes.iter().any(|node| node.etcd().is_some_and(|etcd| etcd.settings.name() == name))
    };
    let dead = |name: &str, urls: &[String]| dead_node(seen, name, urls).is_some();
    let mut said: Vec<&str> = Vec::new();
    for member in &seen.live.members {
        if ours(&member.name) || dead(&member.name, &member.peer_urls) {
            continue;
        }
        said.push(&member.name);
        let what = format!(
            "member {} ({}) at {} is on none of the nodes: it would go on with the data of now",
            member.name,
            member.id,
            member.peer_urls.join(",")
        );
        let hint = "add its node to [cluster.NAME] nodes in etcdvault.toml".to_owned();
        findings.push(Finding { hint: Some(hint), ..about(Severity::Problem, what) });
    }
    if !seen.live.members.is_empty() {
        return;
    }
    // Nobody can be asked: the settings tell who was there.
    let mut others: BTreeMap<String, (String, Vec<&str>)> = BTreeMap::new();
    for node in &seen.nodes {
        let Some(etcd) = node.etcd() else { continue };
        for (name, url) in etcd.settings.initial_cluster().iter() {
            if !ours(name) && !dead(name, &[url.to_owned()]) {
                let entry = others.entry(name.to_owned());
                let (_, nodes) = entry.or_insert_with(|| (url.to_owned(), Vec::new()));
                nodes.push(node.name().as_str());
            }
        }
    }
    for (name, (url, nodes)) in others {
        let what = format!(
            "initial-cluster on {} names member {name} at {url}, which is on none of the nodes",
            nodes.join(", ")
        );
        let hint = "add its node to [cluster.NAME] nodes in etcdvault.toml; where the member was \
                    removed long ago, take it out of initial-cluster"
            .to_owned();
        findings.push(Finding { hint: Some(hint), ..about(Severity::Problem, what) });
    }
}

fn clusters(findings: &mut Vec<Finding>, seen: &Seen) {
    if seen.live.clusters.is_empty() || seen.live.cluster().is_some() {
        return;
    }
    let each: Vec<String> =
        seen.live.clusters.iter().map(|(name, id)| format!("{name} of {id}")).collect();
    let what = format!("members of different clusters answer: {}", each.join(", "));
    let hint = "--endpoints, or endpoints in etcdvault.toml, are to be those of one cluster; \
                members that were started on empty directories make clusters of their own"
        .to_owned();
    findings.push(Finding { hint: Some(hint), ..about(Severity::Warning, what) });
}

fn alarms(findings: &mut Vec<Finding>, seen: &Seen) {
    for (member, alarm) in &seen.live.alarms {
        let what = format!("alarm {alarm} is raised for member {member}");
        let hint = match alarm.as_str() {
            "NOSPACE" => "the cluster takes no writes: compact, defragment, etcdctl alarm disarm",
            _ => "the member's data differs from that of the others",
        };
        let finding = about(Severity::Warning, what);
        findings.push(Finding { hint: Some(hint.to_owned()), ..finding });
    }
}
