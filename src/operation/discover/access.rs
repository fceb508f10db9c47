//! How the cluster is asked: endpoints that the nodes' own settings name, and
//! certificates that lie there. Texts of certificates and keys are read into memory and
//! never written anywhere.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::SeenNode;
use crate::dialect::host;
use crate::etcd::client::Pems;
use crate::etcd::cluster::{ClusterView, Reach, Row, Silence, observe};
use crate::etcd::{ConnectionSettings, Connector, EtcdErrorKind};
use crate::node::{Node, NodeName};
use crate::observe::TlsFile;
use crate::observe::reading::follow;
use crate::types::Endpoint;

/// No more sets of certificates are tried.
const MAX_TRIED: usize = 12;
/// No certificate or key is longer, in bytes.
const MAX_PEM: u64 = 1 << 20;
/// No more endpoints are asked.
const MAX_ENDPOINTS: usize = 64;

/// Which certificates opened the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "from")]
pub enum Credential {
    /// None: connections without TLS, or with the system's authorities.
    None,
    /// Those that flags, variables or the configuration name, on this machine.
    Given {
        /// The CA.
        ca: Option<PathBuf>,
        /// The client certificate.
        cert: Option<PathBuf>,
        /// Its key.
        key: Option<PathBuf>,
    },
    /// Files on a node.
    Node {
        /// The node.
        node: NodeName,
        /// Whether that is this machine.
        here: bool,
        /// The CA.
        ca: PathBuf,
        /// The client certificate.
        cert: Option<PathBuf>,
        /// Its key.
        key: Option<PathBuf>,
    },
}

/// Certificates to try.
#[derive(Debug)]
pub struct Tried {
    /// Where they are.
    pub credential: Credential,
    /// Their texts; `None` where the files of the settings are meant.
    pub pems: Option<Pems>,
}

/// What asking led to.
#[derive(Debug)]
pub enum Asked {
    /// A member answered.
    Answered {
        /// What could be seen.
        view: Box<ClusterView>,
        /// With which certificates.
        credential: Credential,
    },
    /// Nobody did; why.
    Silent(Vec<String>),
}

fn is_loopback(url: &str) -> bool {
    let Some(host) = host(url) else { return false };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn is_unspecified(url: &str) -> bool {
    host(url).and_then(|host| host.parse::<IpAddr>().ok()).is_some_and(|ip| ip.is_unspecified())
}

/// The endpoints that the nodes' settings name: what members advertise, then what API
/// servers and other clients use. A loopback address counts on this machine alone.
pub fn endpoints(nodes: &[SeenNode]) -> Vec<Endpoint> {
    let mut found: Vec<Endpoint> = Vec::new();
    let mut add = |node: &SeenNode, url: &str| {
        let elsewhere = is_loopback(url) && node.ssh.is_some();
        let usable = !elsewhere && !is_unspecified(url);
        if let Ok(endpoint) = Endpoint::parse(url, false)
            && usable
            && !found.contains(&endpoint)
            && found.len() < MAX_ENDPOINTS
        {
            found.push(endpoint);
        }
    };
    for node in nodes {
        for etcd in &node.seen.etcd {
            etcd.settings.advertise_client_urls().iter().for_each(|url| add(node, url));
        }
    }
    for node in nodes {
        for etcd in &node.seen.etcd {
            let listens = etcd.settings.listen_client_urls();
            listens.iter().filter(|url| is_loopback(url)).for_each(|url| add(node, url));
        }
        for server in &node.seen.api_servers {
            server.settings.etcd_servers().iter().for_each(|url| add(node, url));
        }
        for client in &node.seen.clients {
            client.endpoints.iter().for_each(|url| add(node, url));
        }
    }
    found
}

/// Certificates to try, the likeliest first: those that were given, then what the API
/// servers use, kubeadm's for probes, and the members' own.
pub async fn credentials(
    seen: &[SeenNode],
    nodes: &[Arc<dyn Node>],
    given: &ConnectionSettings,
) -> Vec<Tried> {
    let mut found = Vec::new();
    if given.ca_file.is_some() || given.cert_file.is_some() {
        let credential = Credential::Given {
            ca: given.ca_file.clone(),
            cert: given.cert_file.clone(),
            key: given.key_file.clone(),
        };
        found.push(Tried { credential, pems: None });
    }
    let mut known = HashSet::new();
    // First the client certificates of every node, then the servers'.
    for rank in 0..2 {
        for (seen, node) in seen.iter().zip(nodes) {
            for [ca, cert, key] in triples(seen, rank) {
                if found.len() >= MAX_TRIED {
                    return found;
                }
                found.extend(read(seen, &**node, ca, cert, key, &mut known).await);
            }
        }
    }
    found
}

type Triple = [PathBuf; 3];

fn triples(node: &SeenNode, rank: usize) -> Vec<Triple> {
    let of = |files: &[TlsFile], names: [&str; 3]| -> Option<Triple> {
        let file = |name: &str| {
            files.iter().find(|file| file.setting == name).map(|file| file.path.clone())
        };
        Some([file(names[0])?, file(names[1])?, file(names[2])?])
    };
    let mut found = Vec::new();
    if rank == 0 {
        for server in &node.seen.api_servers {
            let names = ["etcd-cafile", "etcd-certfile", "etcd-keyfile"];
            found.extend(of(&server.tls_files, names));
        }
        for etcd in &node.seen.etcd {
            // kubeadm makes it beside the member's own.
            let ca = etcd.tls_files.iter().find(|file| file.setting == "trusted-ca-file");
            if let Some((ca, directory)) = ca.and_then(|ca| Some((&ca.path, ca.path.parent()?))) {
                let client = |end: &str| directory.join(format!("healthcheck-client.{end}"));
                found.push([ca.clone(), client("crt"), client("key")]);
            }
        }
    } else {
        for etcd in &node.seen.etcd {
            let names = ["trusted-ca-file", "cert-file", "key-file"];
            found.extend(of(&etcd.tls_files, names));
            let names = ["trusted-ca-file", "peer-cert-file", "peer-key-file"];
            found.extend(of(&etcd.tls_files, names));
        }
    }
    found
}

/// Reads three files of a node; nothing where one is not there, is no PEM, or the set is
/// known.
async fn read(
    seen: &SeenNode,
    node: &dyn Node,
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
    known: &mut HashSet<[u8; 32]>,
) -> Option<Tried> {
    let (ca_text, cert_text, key_text) =
        tokio::join!(text(node, &ca), text(node, &cert), text(node, &key));
    let texts = [ca_text?, cert_text?, key_text?];
    let mut digest = Sha256::new();
    texts.iter().for_each(|text| digest.update(Sha256::digest(text)));
    if !known.insert(digest.finalize().into()) {
        return None;
    }
    let [ca_text, chain, private] = texts;
    let identity = [(cert.clone(), chain), (key.clone(), private)];
    let pems = Pems::of_texts(Some((ca.clone(), ca_text)), Some(identity)).ok()?;
    let credential = Credential::Node {
        node: seen.seen.name.clone(),
        here: seen.ssh.is_none(),
        ca,
        cert: Some(cert),
        key: Some(key),
    };
    Some(Tried { credential, pems: Some(pems) })
}

/// A certificate is often a link to the current one.
async fn text(node: &dyn Node, path: &Path) -> Option<Vec<u8>> {
    let found = follow(node, path, MAX_PEM).await.ok()?;
    found.map(|(_, bytes)| bytes)
}

/// Asks with each until a member answers.
pub async fn ask(settings: &ConnectionSettings, tried: Vec<Tried>) -> Asked {
    if settings.endpoints.is_empty() {
        return Asked::Silent(vec!["no setting names an endpoint of etcd".to_owned()]);
    }
    let mut tried = tried;
    // Without TLS certificates do not matter; with it the system's may do, at last.
    tried.push(Tried { credential: Credential::None, pems: Some(Pems::default()) });
    if settings.endpoints.iter().all(|endpoint| !endpoint.is_tls()) {
        tried.rotate_right(1);
        tried.truncate(1);
    }
    let mut said: Vec<String> = Vec::new();
    for Tried { credential, pems } in tried {
        let connector = match &pems {
            Some(pems) => Connector::from_pems(pems, settings),
            None => Connector::new(settings),
        };
        let connector = match connector {
            Ok(connector) => connector,
            Err(error) => {
                said.push(error.to_string());
                continue;
            }
        };
        let view = observe(&connector, settings, Reach::AllMembers).await;
        if view.rows.iter().any(|row| row.status().is_some()) {
            return Asked::Answered { view: Box::new(view), credential };
        }
        let errors = view.rows.iter().filter_map(|row| match &row.answer {
            Err(Silence::Failed(error)) => Some(error),
            _ => None,
        });
        let errors: Vec<_> = errors.collect();
        for error in &errors {
            let line = format!("{}: {}: {}", error.endpoint, error.act, error.detail);
            if !said.contains(&line) && said.len() < 2 * MAX_ENDPOINTS {
                said.push(line);
            }
        }
        // Another certificate does not make a machine answer.
        let gone = [EtcdErrorKind::Unreachable, EtcdErrorKind::Timeout, EtcdErrorKind::NoLeader];
        if errors.iter().all(|error| gone.contains(&error.kind)) {
            break;
        }
    }
    Asked::Silent(said)
}

/// A connection to the members of a cluster whose configuration names no certificates:
/// with those that lie on its nodes, read into memory. Where nobody is there to say
/// whether they open it, the likeliest are taken, for when somebody is. `None` where none
/// of them opens it.
pub async fn through_nodes(
    nodes: &[Arc<dyn Node>],
    settings: &ConnectionSettings,
) -> Option<Connector> {
    let mut likeliest = None;
    for node in nodes {
        let Ok(seen) = crate::observe::observe(&**node).await else { continue };
        let seen = [SeenNode { ssh: Some(String::new()), seen }];
        let nodes = [node.clone()];
        for Tried { pems, .. } in credentials(&seen, &nodes, settings).await {
            let Some(pems) = pems else { continue };
            let Ok(connector) = Connector::from_pems(&pems, settings) else { continue };
            let view = observe(&connector, settings, Reach::Given).await;
            if view.rows.iter().any(|row| row.status().is_some()) {
                return Some(connector);
            }
            let is_gone = |row: &Row| match &row.answer {
                Err(Silence::Failed(error)) => {
                    [EtcdErrorKind::Unreachable, EtcdErrorKind::Timeout].contains(&error.kind)
                }
                _ => false,
            };
            if likeliest.is_none() && view.rows.iter().all(is_gone) {
                likeliest = Some(connector);
            }
        }
    }
    likeliest
}
