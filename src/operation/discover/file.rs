//! The `etcdvault.toml` that finds a cluster and its nodes again. It says only what
//! cannot be found out each time: no versions, no ids, no dates, so that the same cluster
//! gives the same bytes.

use std::io;
use std::path::{Path, PathBuf};

use vault::durable;
use vault::layout::ClusterName;

use super::access::Credential;
use super::{Observation, SeenNode};
use crate::config::Config;
use crate::config::model::{ClusterConfig, NodeConfig};
use crate::config::write::{Comments, write};
use crate::observe::Runs;
use crate::operation::failure::{Failure, FailureKind};

/// The text of the configuration; the cluster is called `name`, else as a backup would
/// call it that is told no name.
pub fn text(seen: &Observation, name: Option<&ClusterName>) -> Result<String, Failure> {
    let name = match (name, &seen.cluster) {
        (Some(name), _) => name.clone(),
        (None, Some(cluster)) => ClusterName::new(format!("etcd-{}", cluster.id))
            .map_err(|error| Failure::new(FailureKind::Error, "name the cluster").because(error))?,
        (None, None) => {
            return Err(Failure::new(
                FailureKind::Etcd,
                "the configuration was not written: the cluster was not reached",
            )
            .hint("--cluster NAME writes what is known without it"));
        }
    };
    let section = format!("cluster.{name}");
    let mut comments = Comments::default();
    comments.add(
        "",
        "",
        "Written by etcdvault discover. It holds no secret, and nothing that is found",
    );
    comments.add("", "", "out each time. docs/guide/configuration.md has every key.");
    let mut config = Config::default();
    let mut cluster = ClusterConfig::default();
    members(seen, &mut cluster, &mut comments, &section);
    certificates(seen, &mut cluster, &mut comments, &section);
    for node in &seen.nodes {
        let name = node.seen.name.to_string();
        cluster.nodes.push(name.clone());
        comments.add(format!("node.{name}"), "", &runs(node));
        config.nodes.insert(name, of_node(node));
    }
    for missing in &seen.unreached {
        comments.add(&section, "nodes", &format!("{} was not reached.", missing.node));
    }
    let unseen: Vec<&str> = seen
        .cluster
        .iter()
        .flat_map(|cluster| &cluster.members)
        .filter(|member| member.node.is_none())
        .map(|member| if member.name.is_empty() { "one not started" } else { &member.name })
        .collect();
    if !unseen.is_empty() {
        let line = format!("Not looked at: the nodes of {}.", unseen.join(", "));
        comments.add(&section, "nodes", &line);
    }
    let vault = "Where backups go: vault = \"main\" here, and below\n[vault.main]\nlocation = \
                 \"/srv/etcd-vault\"\nafter etcdvault init /srv/etcd-vault.";
    comments.add(&section, "", vault);
    config.clusters.insert(name, cluster);
    Ok(write(&config, &comments))
}

fn members(
    seen: &Observation,
    cluster: &mut ClusterConfig,
    comments: &mut Comments,
    section: &str,
) {
    if let Some(srv) = seen.srv.as_ref().filter(|srv| !srv.endpoints.is_empty()) {
        cluster.discovery_srv = Some(srv.domain.clone());
        cluster.discovery_srv_name = srv.name.clone();
        cluster.discovery_srv_nameserver = srv.nameserver;
        comments.add(section, "discovery-srv", "As the members' own settings have it.");
        return;
    }
    cluster.endpoints = match &seen.cluster {
        Some(known) => known.members.iter().flat_map(|m| m.client_urls.iter().cloned()).collect(),
        None => seen.endpoints.clone(),
    };
    let why = match &seen.cluster {
        Some(_) => "Every member, so that any of them may be down.",
        None => "As the nodes' settings name them; none answered from here.",
    };
    comments.add(section, "endpoints", why);
}

fn certificates(
    seen: &Observation,
    cluster: &mut ClusterConfig,
    comments: &mut Comments,
    section: &str,
) {
    let Some(known) = &seen.cluster else { return };
    match &known.credential {
        Credential::None => {}
        Credential::Given { ca, cert, key } => {
            cluster.cacert = ca.as_deref().map(absolute);
            cluster.cert = cert.as_deref().map(absolute);
            cluster.key = key.as_deref().map(absolute);
        }
        Credential::Node { here: true, ca, cert, key, .. } => {
            cluster.cacert = Some(ca.clone());
            cluster.cert = cert.clone();
            cluster.key = key.clone();
            comments.add(section, "cacert", "The files that lie on this machine.");
        }
        Credential::Node { here: false, node, ca, .. } => {
            let line = format!(
                "Certificates are read from the nodes each time (here {node}, {}),\nand never \
                 written to this machine; cacert, cert and key would come first.",
                ca.display()
            );
            comments.add(section, "", &line);
        }
    }
}

/// A path of this machine that means the same from everywhere.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn of_node(node: &SeenNode) -> NodeConfig {
    let name = node.seen.name.as_str();
    NodeConfig {
        // What ssh is told where that is more than the name.
        ssh: node.ssh.clone().filter(|destination| destination != name),
        ..NodeConfig::default()
    }
}

fn runs(node: &SeenNode) -> String {
    let by = |runs: &Runs| match runs {
        Runs::Unit { unit, .. } => unit.clone(),
        Runs::StaticPod { manifest, .. } => format!("static pod {}", manifest.display()),
        Runs::Process => "a process of its own".to_owned(),
    };
    let mut parts: Vec<String> = Vec::new();
    for etcd in &node.seen.etcd {
        parts.push(format!("member {} ({})", etcd.settings.name(), by(&etcd.runs)));
    }
    for server in &node.seen.api_servers {
        parts.push(format!("kube-apiserver ({})", by(&server.runs)));
    }
    parts.extend(node.seen.clients.iter().map(|client| client.what.clone()));
    match parts.is_empty() {
        true => "Nothing of etcd was seen here.".to_owned(),
        false => parts.join(", "),
    }
}

/// What became of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Written {
    /// There was none.
    New,
    /// It said the same.
    Same,
    /// Another one was there.
    Replaced,
}

/// Writes the file as a whole, durably. One that differs is replaced with `force` alone.
pub fn store(path: &Path, text: &str, force: bool) -> Result<Written, Failure> {
    let shown = path.display();
    let what = format!("{shown} was not written");
    let failed = |error: io::Error| Failure::new(FailureKind::Error, &what).because(error);
    let written = match std::fs::read(path) {
        Ok(there) if there == text.as_bytes() => return Ok(Written::Same),
        Ok(_) if force => Written::Replaced,
        Ok(_) => {
            return Err(Failure::new(FailureKind::Usage, &what)
                .detail("another file is there, and it differs")
                .state("it is unchanged")
                .hint(format!(
                    "compare: etcdvault discover -o - | diff {shown} -; --force replaces it"
                )));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Written::New,
        Err(error) => return Err(failed(error)),
    };
    let fs = durable::real();
    let directory = durable::parent(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!(".{name}.{}", std::process::id()));
    let put = || -> io::Result<()> {
        let mut file = fs.create_new(&temporary, 0o644)?;
        file.write(text.as_bytes())?;
        file.sync()?;
        drop(file);
        if written == Written::New {
            fs.rename_no_replace(&temporary, path)
        } else {
            fs.rename(&temporary, path)
        }?;
        fs.sync_dir(directory)
    };
    put().map_err(|error| {
        // It is ours alone; what cannot be removed is only a left-over.
        let _ = std::fs::remove_file(&temporary);
        failed(error)
    })?;
    Ok(written)
}
