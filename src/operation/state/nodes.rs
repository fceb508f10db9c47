//! Which machines are meant, and how they are reached.
//!
//! A machine is this one where its section names one of this machine's addresses, or
//! has this machine's name and no address of another; all others are reached over SSH.
//! So one configuration serves the operator's machine and every node.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Choice;
use crate::config::model::NodeConfig;
use crate::node::local::LocalNode;
use crate::node::ssh::{AgentProgram, NodeSpec, Place, SshSpec, connect_all};
use crate::node::{Node, NodeError, NodeErrorKind, NodeName};
use crate::operation::failure::{Failure, FailureKind};

mod lost;

pub use lost::Lost;

/// Nodes that are connected to at once.
const AT_ONCE: usize = 16;

/// Names and addresses of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Here {
    /// Its name without the domain.
    pub name: NodeName,
    /// Its whole host name.
    pub hostname: String,
    /// Its addresses without the loopback's.
    pub addresses: Vec<IpAddr>,
}

impl Here {
    /// Asks this machine.
    pub async fn look() -> Result<Self, Failure> {
        let name = this_name()?;
        let node = LocalNode::new(name.clone());
        let facts = node.facts().await.map_err(|error| failure(&error))?;
        Ok(Self { name, hostname: facts.hostname, addresses: facts.addresses })
    }

    /// This machine as a node.
    pub fn spec(&self) -> NodeSpec {
        NodeSpec { name: self.name.clone(), place: Place::Local }
    }

    /// Whether a section is about this machine.
    fn is(&self, name: &str, node: &NodeConfig) -> bool {
        let own_name = |host: &str| host == self.name.as_str() || host == self.hostname;
        match &node.address {
            Some(address) => match address.parse::<IpAddr>() {
                Ok(ip) => ip.is_loopback() || self.addresses.contains(&ip),
                Err(_) => own_name(address) || address == "localhost",
            },
            None => own_name(name),
        }
    }
}

fn this_name() -> Result<NodeName, Failure> {
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy();
    let short = host.split('.').next().unwrap_or_default();
    NodeName::new(short).map_err(|error| {
        Failure::new(FailureKind::Usage, "this machine has no usable name").because(error)
    })
}

/// This machine, known by its host name without the domain.
pub fn this_machine() -> Result<Arc<dyn Node>, Failure> {
    Ok(Arc::new(LocalNode::new(this_name()?)))
}

/// How the named nodes are reached: sections of the configuration, or this machine.
/// Without names all nodes of the cluster that is meant, and where it has none this
/// machine.
pub fn specs(choice: &Choice<'_>, names: &[String], here: &Here) -> Result<Vec<NodeSpec>, Failure> {
    let configured = choice.file().map(|file| &file.config.nodes);
    let of_cluster = choice.entry().map_or(&[][..], |(_, cluster)| &cluster.nodes);
    let meant = if names.is_empty() { of_cluster } else { names };
    if meant.is_empty() {
        return Ok(vec![here.spec()]);
    }
    let mut specs: Vec<NodeSpec> = Vec::new();
    for text in meant {
        let name = NodeName::new(text)
            .map_err(|error| Failure::new(FailureKind::Usage, error.to_string()))?;
        if specs.iter().any(|spec| spec.name == name) {
            continue;
        }
        let place = match configured.and_then(|nodes| nodes.get(text)) {
            Some(node) if here.is(text, node) => Place::Local,
            Some(node) => Place::Ssh(Box::new(ssh(text, node, choice.ssh_config()))),
            None if *text == here.hostname || name == here.name => Place::Local,
            None => return Err(unknown(text, choice, here)),
        };
        specs.push(NodeSpec { name, place });
    }
    Ok(specs)
}

fn unknown(name: &str, choice: &Choice<'_>, here: &Here) -> Failure {
    let mut known: Vec<&str> = Vec::new();
    if let Some(file) = choice.file() {
        known.extend(file.config.nodes.keys().map(String::as_str));
    }
    let what = format!("it is not known how to reach node {name:?}");
    let known = match known.as_slice() {
        [] => "the configuration has no nodes".to_owned(),
        names => format!("the configuration has {}", names.join(", ")),
    };
    Failure::new(FailureKind::Usage, what).hint(format!(
        "this machine is {}; {known}: add [node.{name}] to etcdvault.toml, or write it with \
         etcdvault discover",
        here.name
    ))
}

/// How a section's node is reached.
fn ssh(name: &str, node: &NodeConfig, config: Option<PathBuf>) -> SshSpec {
    let destination = node.ssh.as_ref().or(node.address.as_ref());
    let mut spec = SshSpec::new(destination.map_or(name, String::as_str));
    spec.config = config;
    spec.sudo = node.sudo.unwrap_or(true);
    if let Some(agent) = &node.agent {
        spec.agent = AgentProgram::Installed(agent.clone());
    }
    spec
}

/// The named nodes, connected to; see [`specs`] for which they are.
///
/// # Errors
/// A name that is not known, or nodes that could not be reached: all of them are named.
pub async fn named(choice: &Choice<'_>, names: &[String]) -> Result<Vec<Arc<dyn Node>>, Failure> {
    let here = Here::look().await?;
    let connected = connect_all(&specs(choice, names, &here)?, AT_ONCE).await;
    let mut nodes = Vec::new();
    let mut errors = Vec::new();
    for result in connected {
        match result {
            Ok(node) => nodes.push(node),
            Err(error) => errors.push(error),
        }
    }
    let Some(first) = errors.first() else { return Ok(nodes) };
    let mut failed = failure(first);
    for other in errors.iter().skip(1) {
        failed = failed.detail(other.to_string());
    }
    Err(failed)
}

/// The same, but a node that cannot be reached is there as one that answers every call
/// with the reason, so that the others are not held up.
pub async fn each(choice: &Choice<'_>, names: &[String]) -> Result<Vec<Arc<dyn Node>>, Failure> {
    let here = Here::look().await?;
    Ok(connected(&specs(choice, names, &here)?).await)
}

/// Connects to each; see [`each`].
pub async fn connected(specs: &[NodeSpec]) -> Vec<Arc<dyn Node>> {
    let connected = connect_all(specs, AT_ONCE).await;
    connected
        .into_iter()
        .zip(specs)
        .map(|(result, spec)| match result {
            Ok(node) => node,
            Err(error) => Arc::new(Lost::new(spec.name.clone(), error)) as Arc<dyn Node>,
        })
        .collect()
}

/// The configured nodes of the cluster that are this machine: what a timed run there
/// saves, so that no node needs a key to another.
pub async fn local_only(choice: &Choice<'_>) -> Result<Vec<Arc<dyn Node>>, Failure> {
    let here = Here::look().await?;
    let mut specs = specs(choice, &[], &here)?;
    specs.retain(|spec| spec.place == Place::Local);
    Ok(connected(&specs).await)
}

/// Destinations that a person gives to look at: names of the configuration's nodes, or
/// what `ssh` takes. With them their name: the host's part of the destination.
pub fn at(
    choice: &Choice<'_>,
    destinations: &[String],
    here: &Here,
) -> Result<Vec<NodeSpec>, Failure> {
    let configured = choice.file().map(|file| &file.config.nodes);
    let mut found: Vec<NodeSpec> = Vec::new();
    for text in destinations {
        let known = configured.and_then(|nodes| nodes.get(text));
        let (host, node) = match known {
            Some(node) => (text.clone(), node.clone()),
            None => {
                let host = host_of(text);
                let ssh = (host != *text).then(|| text.clone());
                let address = host.parse::<IpAddr>().ok().map(|ip| ip.to_string());
                (host, NodeConfig { address, ssh, ..NodeConfig::default() })
            }
        };
        // IPv6 has colons, which no name has.
        let name = NodeName::new(host.replace(':', "-")).map_err(|_| {
            Failure::new(FailureKind::Usage, format!("{text:?} is no address of a node"))
                .hint("give what ssh takes: host, user@host, or a name of ssh_config")
        })?;
        let place = if here.is(&host, &node) {
            Place::Local
        } else {
            Place::Ssh(Box::new(ssh(&host, &node, choice.ssh_config())))
        };
        if !found.iter().any(|spec| spec.name == name) {
            found.push(NodeSpec { name, place });
        }
    }
    Ok(found)
}

/// The host in `user@host`, `ssh://user@host:22`, `[fd00::1]`.
fn host_of(destination: &str) -> String {
    let url = destination.strip_prefix("ssh://");
    let rest = url.unwrap_or(destination);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    if let Some((host, _)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return host.to_owned();
    }
    let rest = if url.is_some() { rest.split([':', '/']).next().unwrap_or(rest) } else { rest };
    rest.to_owned()
}

/// A node's error as the failure of a command.
fn failure(error: &NodeError) -> Failure {
    let kind = match error.kind {
        NodeErrorKind::Permission => FailureKind::Key,
        _ => FailureKind::Error,
    };
    let mut failed = Failure::new(kind, format!("node {} could not be looked at", error.node))
        .detail(format!("{}: {}", error.act, error.why));
    for line in &error.details {
        failed = failed.detail(line.clone());
    }
    failed.hint(error.hint.clone().unwrap_or_else(|| {
        format!("try: ssh {} true; [node.{}] says how it is reached", error.node, error.node)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Here {
        Here {
            name: NodeName::new("n1").unwrap(),
            hostname: "n1.example.org".to_owned(),
            addresses: vec!["10.0.0.11".parse().unwrap()],
        }
    }

    #[test]
    fn a_section_is_this_machine_by_address_or_name() {
        let with = |address: Option<&str>| NodeConfig {
            address: address.map(str::to_owned),
            ssh: Some("admin@elsewhere".to_owned()),
            ..NodeConfig::default()
        };
        for (name, address, local) in [
            ("n1", None, true),
            ("n1.example.org", None, true),
            ("n2", None, false),
            ("cp", Some("10.0.0.11"), true),
            ("cp", Some("n1.example.org"), true),
            // Another machine that only has the same name.
            ("n1", Some("10.0.0.12"), false),
        ] {
            assert_eq!(here().is(name, &with(address)), local, "{name} {address:?}");
        }
    }

    #[test]
    fn hosts_of_destinations() {
        for (destination, host) in [
            ("cp1", "cp1"),
            ("admin@cp1.example.org", "cp1.example.org"),
            ("ssh://root@cp1:2222", "cp1"),
            ("root@[fd00::1]", "fd00::1"),
            ("fd00::1", "fd00::1"),
            ("10.0.0.11", "10.0.0.11"),
        ] {
            assert_eq!(host_of(destination), host);
        }
    }
}
