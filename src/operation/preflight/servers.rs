//! The members' programs and settings: versions, quota, certificates, ports, whether they
//! can be driven at all. Pure.

use std::net::IpAddr;

use super::{Finding, Seen, SeenNode, Severity, about};
use crate::dialect::{host, port};
use crate::observe::node::FORCED;
use crate::observe::{Certificate, EtcdService, Runs, TlsFile};
use crate::operation::status::known_bad;
use crate::types::Version;

/// etcd's quota where none is set.
const QUOTA: u64 = 2 << 30;

pub(super) fn judge(seen: &Seen) -> Vec<Finding> {
    let mut findings = Vec::new();
    for node in &seen.nodes {
        driven(&mut findings, node);
        forced(&mut findings, node);
        held(&mut findings, node);
        certificates(&mut findings, seen, node);
        quota(&mut findings, seen, node);
        encryption(&mut findings, node);
    }
    versions(&mut findings, seen);
    same_encryption(&mut findings, seen);
    findings
}

/// What is neither a unit nor a static pod can neither be stopped nor started.
fn driven(findings: &mut Vec<Finding>, node: &SeenNode) {
    if node.seen.facts.uid != 0 {
        let what = "the login is not root and has no sudo: nothing can be changed there";
        let hint = "let the login use sudo without a password, or log in as root";
        findings.push(Finding::on(node.name(), Severity::Problem, what).hint(hint));
    }
    if node.etcd().is_none() && !node.seen.etcd.is_empty() {
        let what = "several etcd are set up here, and it cannot be told which is the member";
        let hint = "stop and disable those that are not of this cluster";
        findings.push(Finding::on(node.name(), Severity::Problem, what).hint(hint));
    }
    let etcd = node.etcd().map(|etcd| ("etcd", &etcd.runs));
    let servers = node.seen.api_servers.iter().map(|server| ("kube-apiserver", &server.runs));
    for (what, runs) in etcd.into_iter().chain(servers) {
        if *runs == Runs::Process {
            let what = format!(
                "{what} runs neither in a unit nor in a static pod: nobody can \
                                stop it and start it again"
            );
            let hint = "make a systemd unit of it, or stop it by hand and declare it nowhere";
            findings.push(Finding::on(node.name(), Severity::Problem, what).hint(hint));
        }
    }
}

/// Row 5: told to begin a cluster of its own, from a recovery that was not ended. A restore
/// takes that out; where it would have to put it back, it is in the way.
fn forced(findings: &mut Vec<Finding>, node: &SeenNode) {
    if !node.etcd().is_some_and(|etcd| etcd.settings.is_forced_new()) {
        return;
    }
    let (severity, what) = match node.is_up() {
        true => (Severity::Problem, FORCED),
        false => (
            Severity::Warning,
            "force-new-cluster is set: a restore takes it out; at any other start this member \
             makes a cluster of its own",
        ),
    };
    let hint = "remove it from the file that sets it";
    findings.push(Finding::on(node.name(), severity, what).hint(hint));
}

/// Ports that somebody else has.
fn held(findings: &mut Vec<Finding>, node: &SeenNode) {
    let Some(etcd) = node.etcd() else { return };
    let own = etcd.running.as_ref().map(|running| running.pid);
    let urls = etcd.settings.listen_client_urls().into_iter();
    let mut said: Vec<u16> = Vec::new();
    for url in urls.chain(etcd.settings.listen_peer_urls()) {
        let Some(number) = port(&url).filter(|number| !said.contains(number)) else { continue };
        let at = host(&url).and_then(|host| host.parse::<IpAddr>().ok());
        let same = |listener: &&crate::node::Listener| {
            let ip = listener.address.ip();
            listener.address.port() == number
                && (ip.is_unspecified() || at.is_none_or(|at| at.is_unspecified() || at == ip))
        };
        let other = node.listeners.iter().filter(same).find(|listener| match listener.pid {
            Some(pid) => Some(pid) != own,
            None => own.is_none(),
        });
        let Some(other) = other else { continue };
        said.push(number);
        let who = match other.pid {
            Some(pid) => format!("process {pid}"),
            None => "a process that cannot be seen".to_owned(),
        };
        let what = format!("port {number}, which etcd needs, is held by {who}");
        let hint = format!("ss -ltnp 'sport = :{number}' shows it; stop it");
        findings.push(Finding::on(node.name(), Severity::Problem, what).hint(hint));
    }
}

/// Whether a name of a certificate is `host`.
pub(super) fn holds_for(certificate: &Certificate, wanted: &str) -> bool {
    let ip = wanted.parse::<IpAddr>().ok();
    certificate.names.iter().any(|name| match (ip, name.parse::<IpAddr>()) {
        (Some(wanted), Ok(ip)) => wanted == ip,
        (None, Err(_)) => match name.strip_prefix("*.") {
            Some(domain) => {
                wanted.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(domain))
            }
            None => name.trim_end_matches('.').eq_ignore_ascii_case(wanted.trim_end_matches('.')),
        },
        _ => false,
    })
}

fn named<'a>(node: &'a SeenNode, etcd: &'a EtcdService, setting: &str) -> Option<&'a Certificate> {
    let file: &TlsFile = etcd.tls_files.iter().find(|file| file.setting == setting)?;
    node.seen.certificates.iter().find(|certificate| certificate.path == file.path)
}

/// Certificates that do not hold yet, or not for the addresses that others connect to.
fn certificates(findings: &mut Vec<Finding>, seen: &Seen, node: &SeenNode) {
    let now = node.seen.facts.now;
    for certificate in &node.seen.certificates {
        let from = i128::from(certificate.not_before.timestamp()) * 1_000_000_000;
        if from > now {
            let what = format!(
                "{} holds from {} on, which is in the future by this node's clock",
                certificate.path.display(),
                certificate.not_before.format("%Y-%m-%d %H:%M UTC")
            );
            let hint = "timedatectl there shows whether the clock is right";
            findings.push(Finding::on(node.name(), Severity::Problem, what).hint(hint));
        }
    }
    let Some(etcd) = node.etcd() else { return };
    let sides = [
        ("peer-cert-file", super::members::peer_urls(seen, node), Severity::Problem),
        ("cert-file", etcd.settings.advertise_client_urls(), Severity::Warning),
    ];
    for (setting, urls, severity) in sides {
        let Some(certificate) = named(node, etcd, setting) else { continue };
        let mut hosts: Vec<&str> = urls
            .iter()
            .filter(|url| url.starts_with("https"))
            .filter_map(|url| host(url))
            .collect();
        hosts.sort_unstable();
        hosts.dedup();
        for host in hosts.into_iter().filter(|host| !holds_for(certificate, host)) {
            let what = format!(
                "{} ({setting}) does not hold for {host}, where others connect to; it holds for {}",
                certificate.path.display(),
                match certificate.names.is_empty() {
                    true => "nothing".to_owned(),
                    false => certificate.names.join(", "),
                }
            );
            let hint = "issue it anew with that address among its subjectAltName";
            findings.push(Finding::on(node.name(), severity, what).hint(hint));
        }
    }
}

fn quota(findings: &mut Vec<Finding>, seen: &Seen, node: &SeenNode) {
    let Some(etcd) = node.etcd() else { return };
    let set = etcd.settings.quota_backend_bytes().filter(|quota| *quota != 0);
    // Below zero etcd has none.
    if set.is_some_and(|quota| quota < 0) {
        return;
    }
    let quota = set.and_then(|quota| u64::try_from(quota).ok()).unwrap_or(QUOTA);
    let size = seen.size();
    let percent = (u128::from(size) * 100 / u128::from(quota.max(1))).min(100_000);
    let severity = match percent {
        0..80 => return,
        80..100 => Severity::Warning,
        _ => Severity::Problem,
    };
    let what = format!(
        "the database would fill {percent} % of the quota of {} MB: beyond it no write is taken",
        quota / 1_000_000
    );
    let hint = "raise quota-backend-bytes (ETCD_QUOTA_BACKEND_BYTES), at most 8589934592";
    findings.push(Finding::on(node.name(), severity, what).hint(hint));
}

fn versions(findings: &mut Vec<Finding>, seen: &Seen) {
    let known: Vec<(&SeenNode, Version)> =
        seen.nodes.iter().filter_map(|node| Some((node, node.version?))).collect();
    for (node, version) in &known {
        if let Some(why) = known_bad(*version) {
            let what = format!("etcd {version} {why}");
            let finding = Finding::on(node.name(), Severity::Warning, what);
            findings.push(finding.hint("upgrade to the newest patch of its series afterwards"));
        }
    }
    let mut lines: Vec<(u32, u32)> =
        known.iter().map(|(_, version)| version.minor_line()).collect();
    lines.sort_unstable();
    lines.dedup();
    if lines.len() > 1 {
        let each: Vec<String> =
            known.iter().map(|(node, version)| format!("{} {version}", node.name())).collect();
        let what = format!("the members run different versions: {}", each.join(", "));
        let hint = "the restored cluster works as the oldest; bring all to one version".to_owned();
        findings.push(Finding { hint: Some(hint), ..about(Severity::Warning, what) });
    }
    let unknown: Vec<&str> = seen
        .nodes
        .iter()
        .filter(|node| node.etcd().is_some() && node.version.is_none())
        .map(|node| node.name().as_str())
        .collect();
    if !unknown.is_empty() {
        let what = format!(
            "the version of etcd on {} is not known, as it does not run",
            unknown.join(", ")
        );
        let hint = "etcd --version there tells it; one older than the backup's may not start on it"
            .to_owned();
        findings.push(Finding { hint: Some(hint), ..about(Severity::Note, what) });
    }
}

fn encryption(findings: &mut Vec<Finding>, node: &SeenNode) {
    for (path, digest) in &node.encryption {
        if digest.is_none() {
            let what = format!(
                "{}, with the keys of what is encrypted at rest, is not there",
                path.display()
            );
            let hint = "bring it back first: etcdvault state return, or from another node; without \
                        it Secrets of the backup cannot be read";
            findings.push(Finding::on(node.name(), Severity::Problem, what).hint(hint));
        }
    }
}

fn same_encryption(findings: &mut Vec<Finding>, seen: &Seen) {
    let servers: Vec<&SeenNode> =
        seen.nodes.iter().filter(|node| !node.seen.api_servers.is_empty()).collect();
    let digests = |node: &SeenNode| -> Vec<[u8; 32]> {
        node.encryption.iter().filter_map(|(_, digest)| *digest).collect()
    };
    let Some(first) = servers.first() else { return };
    let others: Vec<&str> = servers
        .iter()
        .filter(|node| digests(node) != digests(first))
        .map(|node| node.name().as_str())
        .collect();
    if !others.is_empty() {
        let what = format!(
            "the configuration of encryption at rest on {} is not that on {}",
            others.join(", "),
            first.name()
        );
        let hint =
            "what one API server encrypts the others must be able to read: the same file on \
                    all"
            .to_owned();
        findings.push(Finding { hint: Some(hint), ..about(Severity::Warning, what) });
    }
}
