//! Every pair of nodes on the ports of peers and clients. Pure.
//!
//! A port on which nothing listens refuses, and so shows that the way there is good. It
//! does not show that a firewall lets etcd's own traffic through: one that refuses looks
//! the same, and that is said.

use super::{Finding, Reached, Seen, SeenNode, Severity, about};
use crate::dialect::port;
use crate::node::NodeName;

/// What TCP says where nobody listens.
const REFUSED: &str = "refused";

pub(super) fn judge(seen: &Seen) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut quiet: Vec<&NodeName> = Vec::new();
    for node in &seen.nodes {
        for reached in &node.reached {
            let Some(error) = &reached.error else { continue };
            let Some(target) = seen.node(&reached.to) else { continue };
            match answer(reached, error, target) {
                Answer::Nobody => {
                    if !quiet.contains(&&reached.to) {
                        quiet.push(&reached.to);
                    }
                }
                Answer::Broken(why, hint) => findings.push(broken(node, reached, &why, hint)),
            }
        }
    }
    if !quiet.is_empty() {
        let names: Vec<&str> = quiet.iter().map(|name| name.as_str()).collect();
        let what = format!(
            "nothing listens at etcd's ports on {}: the way there is open, and whether a firewall \
             refuses its traffic is seen only when it runs",
            names.join(", ")
        );
        findings.push(about(Severity::Note, what));
    }
    findings
}

enum Answer {
    Nobody,
    Broken(String, String),
}

/// What an error on the way to `target` means.
fn answer(reached: &Reached, error: &str, target: &SeenNode) -> Answer {
    let (from, to) = (&reached.to, &reached.address);
    if !error.to_ascii_lowercase().contains(REFUSED) {
        let host = crate::dialect::host(to).unwrap_or(to);
        let hint = format!(
            "compare routes, netmasks and firewalls of both: ip route get {host} on the first, \
             iptables -S INPUT or nft list ruleset on {from}"
        );
        return Answer::Broken(error.to_owned(), hint);
    }
    let number = port(to);
    let there: Vec<_> =
        target.listeners.iter().filter(|it| Some(it.address.port()) == number).collect();
    // Whoever else holds a port of a member that is down is judged elsewhere.
    if there.is_empty() || !target.is_up() {
        return Answer::Nobody;
    }
    let setting = if reached.peer { "listen-peer-urls" } else { "listen-client-urls" };
    if there.iter().all(|listener| listener.address.ip().is_loopback()) {
        let why = format!("etcd there listens on {} alone", there[0].address);
        return Answer::Broken(why, format!("set {setting} on {from} to an address of its own"));
    }
    let why = "it is refused, although somebody listens there".to_owned();
    let hint = format!(
        "a firewall refuses it, or {setting} names another address: iptables -S INPUT on {from}"
    );
    Answer::Broken(why, hint)
}

fn broken(node: &SeenNode, reached: &Reached, why: &str, hint: String) -> Finding {
    let whose = if reached.peer { "peer" } else { "client" };
    let what = format!(
        "does not reach {} at {} ({whose} port of etcd): {why}",
        reached.to, reached.address
    );
    // Clients may have another way; without peers there is no cluster.
    let severity = match reached.peer {
        true => Severity::Problem,
        false => Severity::Warning,
    };
    Finding::on(node.name(), severity, what).hint(hint)
}
