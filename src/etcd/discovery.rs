//! Members by DNS: the SRV records that etcd and etcdctl ask for.
//!
//! Clients: `_etcd-client-ssl[-NAME]._tcp.DOMAIN` (https), then
//! `_etcd-client[-NAME]._tcp.DOMAIN` (http), as `client/pkg/srv` of etcd has it; peers the
//! same with `etcd-server`. Ports come from the records. etcdctl ends a host in the dot
//! that the record has; here it is dropped, so that certificates and HTTP see the plain
//! name. A member's certificate is checked against its own name, as etcdctl does unless
//! `--insecure-discovery=false` is given.
//!
//! Answers are taken from the network as they come: hosts and ports are checked, the
//! number is bounded, the order is that of priority, weight and name.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use serde::Serialize;

use crate::types::{Endpoint, SrvDomain, Version};

/// More members than any cluster has; the rest of an answer is not used.
const MAX_RECORDS: usize = 64;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// Client port with TLS.
    ClientTls,
    /// Client port without TLS.
    ClientPlain,
    /// Peer port with TLS.
    PeerTls,
    /// Peer port without TLS.
    PeerPlain,
}

impl Service {
    /// The record's name: `_etcd-client-ssl-NAME._tcp.DOMAIN`.
    pub fn record(self, srv: &SrvDomain) -> String {
        let service = match self {
            Self::ClientTls => "etcd-client-ssl",
            Self::ClientPlain => "etcd-client",
            Self::PeerTls => "etcd-server-ssl",
            Self::PeerPlain => "etcd-server",
        };
        let suffix = srv.name.as_ref().map_or_else(String::new, |name| format!("-{name}"));
        format!("_{service}{suffix}._tcp.{}", srv.domain)
    }

    fn is_tls(self) -> bool {
        matches!(self, Self::ClientTls | Self::PeerTls)
    }
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SrvTarget {
    /// The host, without the dot at its end.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Lower comes first.
    pub priority: u16,
    /// Higher comes first among those of one priority.
    pub weight: u16,
}

/// How a question was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// There are such records.
    Found,
    /// There are none, and the name servers say so.
    Absent,
    /// It is not known: the name servers did not answer or failed.
    Failed(String),
}

/// What was asked and answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SrvAnswer {
    /// The record's name.
    pub query: String,
    /// How it went.
    pub outcome: Outcome,
    /// The records that can be used, in the order in which to try them.
    pub targets: Vec<SrvTarget>,
    /// Records that cannot be used, with the reason.
    pub rejected: Vec<String>,
}

/// All four questions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SrvRecords {
    /// `_etcd-client-ssl`
    pub client_tls: SrvAnswer,
    /// `_etcd-client`
    pub client_plain: SrvAnswer,
    /// `_etcd-server-ssl`
    pub peer_tls: SrvAnswer,
    /// `_etcd-server`
    pub peer_plain: SrvAnswer,
}

/// A resolver that cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot ask for SRV records: {why}")]
pub struct ResolverError {
    /// Why.
    why: String,
}

impl SrvAnswer {
    /// What it says in a few words, for an error.
    pub fn summary(&self) -> String {
        match &self.outcome {
            Outcome::Found => match (self.targets.len(), self.rejected.first()) {
                (0, Some(why)) => format!("{}: {why}", self.query),
                (1, _) => format!("{}: 1 record", self.query),
                (n, _) => format!("{}: {n} records", self.query),
            },
            Outcome::Absent => format!("{}: no such records", self.query),
            Outcome::Failed(why) => format!("{}: {why}", self.query),
        }
    }

    fn endpoints(&self, tls: bool) -> impl Iterator<Item = Endpoint> {
        let scheme = if tls { "https" } else { "http" };
        self.targets.iter().filter_map(move |target| {
            Endpoint::parse(&format!("{scheme}://{}:{}", target.host, target.port), tls).ok()
        })
    }
}

impl SrvRecords {
    /// Where clients are served: those with TLS first, then the plain ones.
    pub fn client_endpoints(&self) -> Vec<Endpoint> {
        both(&self.client_tls, &self.client_plain)
    }

    /// Where peers are served, in the same order.
    pub fn peer_endpoints(&self) -> Vec<Endpoint> {
        both(&self.peer_tls, &self.peer_plain)
    }
}

fn both(tls: &SrvAnswer, plain: &SrvAnswer) -> Vec<Endpoint> {
    let mut all: Vec<Endpoint> = Vec::new();
    for endpoint in tls.endpoints(true).chain(plain.endpoints(false)) {
        if !all.contains(&endpoint) {
            all.push(endpoint);
        }
    }
    all
}

/// Asks for all four kinds of record at once. A question that fails is an outcome, not
/// an error. `bound` is for the whole.
pub async fn lookup(srv: &SrvDomain, bound: Duration) -> Result<SrvRecords, ResolverError> {
    let resolver = resolver(srv.nameserver, bound)?;
    let ask = |service| ask(&resolver, srv, service, bound);
    let (client_tls, client_plain, peer_tls, peer_plain) = tokio::join!(
        ask(Service::ClientTls),
        ask(Service::ClientPlain),
        ask(Service::PeerTls),
        ask(Service::PeerPlain),
    );
    Ok(SrvRecords { client_tls, client_plain, peer_tls, peer_plain })
}

fn resolver(
    nameserver: Option<SocketAddr>,
    bound: Duration,
) -> Result<TokioResolver, ResolverError> {
    let wrong = |error: NetError| ResolverError { why: error.to_string() };
    let mut builder = match nameserver {
        Some(server) => {
            let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
            for connection in &mut connections {
                connection.port = server.port();
            }
            let server = NameServerConfig::new(server.ip(), true, connections);
            let config = ResolverConfig::from_name_servers(vec![server]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
        None => TokioResolver::builder_tokio()
            .map_err(|error| ResolverError { why: format!("/etc/resolv.conf: {error}") })?,
    };
    let options = builder.options_mut();
    options.cache_size = 0;
    options.attempts = options.attempts.clamp(1, 3);
    options.timeout = options.timeout.min(bound);
    // An answer of several members does not fit into one datagram everywhere.
    options.try_tcp_on_error = true;
    builder.build().map_err(wrong)
}

async fn ask(
    resolver: &TokioResolver,
    srv: &SrvDomain,
    service: Service,
    bound: Duration,
) -> SrvAnswer {
    let query = service.record(srv);
    let mut answer =
        SrvAnswer { query, outcome: Outcome::Absent, targets: Vec::new(), rejected: Vec::new() };
    // With the dot at its end the search list of /etc/resolv.conf is left alone.
    let name = match Name::from_ascii(format!("{}.", answer.query)) {
        Ok(name) => name,
        Err(error) => {
            answer.outcome = Outcome::Failed(error.to_string());
            return answer;
        }
    };
    let found = tokio::time::timeout(bound, resolver.lookup(name, RecordType::SRV)).await;
    let lookup = match found {
        Err(_) => {
            answer.outcome = Outcome::Failed(format!("no answer within {} s", bound.as_secs()));
            return answer;
        }
        Ok(Err(NetError::Dns(DnsError::NoRecordsFound(_)))) => return answer,
        Ok(Err(error)) => {
            answer.outcome = Outcome::Failed(error.to_string());
            return answer;
        }
        Ok(Ok(lookup)) => lookup,
    };
    for record in lookup.answers() {
        if let RData::SRV(record) = &record.data {
            let host = record.target.to_ascii();
            answer.add(service, host, record.port, record.priority, record.weight);
        }
    }
    answer.sort();
    answer
}

impl SrvAnswer {
    fn add(&mut self, service: Service, host: String, port: u16, priority: u16, weight: u16) {
        self.outcome = Outcome::Found;
        let host = host.strip_suffix('.').unwrap_or(&host).to_owned();
        if self.targets.len() + self.rejected.len() >= MAX_RECORDS {
            return;
        }
        // A lone dot says that the service is not there (RFC 2782).
        if host.is_empty() {
            self.rejected.push("the record says that there is no such service".to_owned());
            return;
        }
        let scheme = if service.is_tls() { "https" } else { "http" };
        let plain = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        let endpoint = Endpoint::parse(&format!("{scheme}://{host}:{port}"), service.is_tls());
        if !plain || port == 0 || endpoint.is_err() {
            let shown: String = host.chars().filter(|c| !c.is_control()).take(80).collect();
            self.rejected.push(format!("{shown:?} with port {port} is no address of a member"));
            return;
        }
        self.targets.push(SrvTarget { host, port, priority, weight });
    }

    fn sort(&mut self) {
        self.targets.sort_by(|a, b| {
            (a.priority, b.weight, &a.host, a.port).cmp(&(b.priority, a.weight, &b.host, b.port))
        });
        self.targets.dedup();
    }
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// Good to know.
    Note,
    /// It may do harm.
    Warning,
    /// A member does not start with it.
    Fatal,
}

/// What is wrong with a set of records, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub weight: Weight,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

/// What members of `version` make of `records` when they bootstrap by
/// `--discovery-srv`, and what clients do.
///
/// etcd 3.4 (`embed/config.go`, `GetDNSClusterNames`) returns the error of the TLS lookup
/// whatever the plain one says, and leaves the plain records out when that lookup
/// succeeds; 3.5 and newer take what either lookup has.
pub fn diagnose_srv(version: Version, records: &SrvRecords) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (tls, plain) = (&records.peer_tls, &records.peer_plain);
    let is_3_4 = version.minor_line() <= (3, 4);
    let has = |answer: &SrvAnswer| !answer.targets.is_empty();
    let mut add = |weight, problem: String, remedy: String| {
        findings.push(Finding { weight, problem, remedy });
    };
    match (has(tls), has(plain)) {
        (false, true) if is_3_4 => add(
            Weight::Fatal,
            format!(
                "etcd {version} does not bootstrap from these records: the lookup of {} fails \
                 ({}), and 3.4 gives up there although {} exists",
                tls.query,
                reason(tls),
                plain.query
            ),
            "upgrade to etcd 3.5 or newer, or start the members with --initial-cluster in place \
             of --discovery-srv, or use TLS between peers and publish its records"
                .to_owned(),
        ),
        (true, true) if is_3_4 => add(
            Weight::Warning,
            format!(
                "{} and {} stand side by side: etcd {version} takes the TLS records alone, and \
                 does not bootstrap where their lookup fails",
                tls.query, plain.query
            ),
            format!("remove {} when all peers use TLS; etcd 3.5 takes either", plain.query),
        ),
        (true, true) => add(
            Weight::Warning,
            format!(
                "{} and {} stand side by side: etcd {version} puts both together, and a member \
                 in both has two peer URLs with different schemes",
                tls.query, plain.query
            ),
            format!("remove the records of the scheme that the peers do not use ({})", plain.query),
        ),
        _ => {}
    }
    for answer in [tls, plain, &records.client_tls, &records.client_plain] {
        if let Outcome::Failed(why) = &answer.outcome {
            add(
                Weight::Warning,
                format!("the lookup of {} failed: {why}", answer.query),
                "ask again; if it stays so, look at the name servers in /etc/resolv.conf"
                    .to_owned(),
            );
        }
        for why in &answer.rejected {
            add(
                Weight::Warning,
                format!("a record of {} is not used: {why}", answer.query),
                "correct the record: priority, weight, port, host".to_owned(),
            );
        }
    }
    let (tls, plain) = (&records.client_tls, &records.client_plain);
    if has(tls) && has(plain) {
        add(
            Weight::Note,
            format!("clients find {} and {}: TLS is tried first", tls.query, plain.query),
            format!("remove {} when all members serve TLS", plain.query),
        );
    }
    findings
}

fn reason(answer: &SrvAnswer) -> String {
    match &answer.outcome {
        Outcome::Failed(why) => why.clone(),
        Outcome::Absent => "no such records".to_owned(),
        Outcome::Found => "no record can be used".to_owned(),
    }
}

#[cfg(test)]
mod tests;
