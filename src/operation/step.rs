//! The steps of operations over nodes.
//!
//! What holds for each: looking changes nothing; doing and undoing can be repeated
//! and find their work half done; what is undone needs the nodes alone, no vault.
//!
//! - Files: what stood there is copied to [`ASIDE`] before it is replaced, and the
//!   write names the digest of what it replaces. A file that somebody changed since
//!   the plan was made stops the step.
//! - Services of several nodes are stopped one after the other and started at the
//!   same time: a member of etcd is ready only beside others.
//! - A plan has digests, never content: that is read from the vault when needed.

mod act;
mod file;
mod service;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::failure::Failure;
use crate::node::Node;
use crate::plan::shell::Command;
use crate::plan::{self, Description, Place, PlanId, Reversal};

/// Where nodes keep what was set aside: `<plan id>/…`.
pub const ASIDE: &str = "/var/lib/etcdvault/aside";

/// The output with the backup that holds the state before.
pub const SAVED: &str = "saved";

/// A file of configuration is at most so large.
pub const MAX_FILE: u64 = 16 << 20;

/// What steps need of the vault.
#[async_trait]
pub trait Contents: std::fmt::Debug + Send + Sync {
    /// The bytes of the file `path` of `node` in a backup, checked.
    async fn content(&self, backup: &str, node: &str, path: &str) -> Result<Vec<u8>, Failure>;
    /// Stores the state of `nodes` and returns the backup's id. The backup says which
    /// plan it is for.
    async fn save(&self, nodes: &[Place], plan: PlanId) -> Result<String, Failure>;
    /// The backup that was stored for `plan`.
    async fn saved(&self, plan: PlanId) -> Result<Option<String>, Failure>;
}

/// What steps act on.
#[derive(Debug)]
pub struct World {
    /// The nodes by name.
    pub nodes: BTreeMap<String, Arc<dyn Node>>,
    /// The vault; `None` where there is only the way back.
    pub contents: Option<Arc<dyn Contents>>,
}

/// Owner, mode and extended attributes as data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mode {
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// Extended attributes: values escaped as in an index.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, String>,
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum What {
    /// Nothing.
    Nothing,
    /// A regular file.
    File {
        /// SHA-256 of its content, in hexadecimal.
        sha256: String,
        /// Owner, mode and attributes.
        mode: Mode,
    },
    /// A directory, whatever is in it.
    Directory {
        /// Owner, mode and attributes.
        mode: Mode,
    },
    /// A symbolic link.
    Link {
        /// Where it leads, escaped.
        target: String,
    },
}

/// A path and what it is turned from and into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Where on the node.
    pub path: PathBuf,
    /// Its path in the state, where that is another: a manifest that was taken out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_as: Option<PathBuf>,
    /// What stands there.
    pub before: What,
    /// What is to stand there.
    pub after: What,
}

/// A path and what has to stand there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Where on the node.
    pub path: PathBuf,
    /// What.
    pub what: What,
}

/// A program that nodes run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// etcd.
    Etcd,
    /// kube-apiserver.
    ApiServer,
}

impl Service {
    /// The program's name, and its container's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
        }
    }
}

/// How a service is kept running on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case", deny_unknown_fields)]
pub enum How {
    /// By systemd.
    Unit {
        /// The unit.
        unit: String,
    },
    /// By the kubelet.
    Pod {
        /// The manifest.
        manifest: PathBuf,
        /// Where it is while the pod is out.
        aside: PathBuf,
        /// Ports that are open while it runs.
        ports: Vec<u16>,
    },
}

/// A service on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// The node.
    pub node: Place,
    /// How it runs there.
    pub how: How,
    /// Whether it ran well when the plan was made: then the way back makes sure that
    /// it does again, else it tries.
    pub healthy: bool,
}

/// A step of an operation over nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Step {
    /// Stores the state of the nodes in the vault.
    SaveState {
        /// The nodes.
        nodes: Vec<Place>,
    },
    /// Stops a service, in this order.
    Stop {
        /// Which.
        service: Service,
        /// Where; the leader last.
        instances: Vec<Instance>,
    },
    /// Sets files as a state has them.
    SetFiles {
        /// The node.
        node: Place,
        /// The backup with the contents.
        backup: String,
        /// What changes, in this order.
        changes: Vec<Change>,
        /// Units whose files are among them: systemd reads them again.
        reload: Vec<String>,
    },
    /// Lets a unit start at boot, or not.
    Enable {
        /// The node.
        node: Place,
        /// The unit.
        unit: String,
        /// Whether it is to start.
        enabled: bool,
    },
    /// Starts a service on all nodes at the same time.
    Start {
        /// Which.
        service: Service,
        /// Where.
        instances: Vec<Instance>,
    },
    /// Compares files with the state and looks at ports.
    Check {
        /// The node.
        node: Place,
        /// What has to stand where.
        files: Vec<Expected>,
        /// Ports that have to be open.
        ports: Vec<u16>,
    },
}

fn nodes(instances: &[Instance]) -> Vec<Place> {
    instances.iter().map(|instance| instance.node.clone()).collect()
}

impl plan::Step for Step {
    const VERSION: u32 = 1;

    fn describe(&self) -> Description {
        let undoable = |by: &str| Reversal::Undoable { by: by.to_owned() };
        let (what, reason, nodes, reversal) = match self {
            Self::SaveState { nodes } => (
                "save the present state to the vault".to_owned(),
                "so that it can be returned to".to_owned(),
                nodes.clone(),
                Reversal::Nothing,
            ),
            Self::Stop { service, instances } => (
                format!("stop {}; wait until it is gone", service.name()),
                "its files change".to_owned(),
                nodes(instances),
                undoable("start it"),
            ),
            Self::SetFiles { node, changes, .. } => (
                format!("set files as in the state: {}", summary(changes)),
                "they differ from the state".to_owned(),
                vec![node.clone()],
                undoable("set them back"),
            ),
            Self::Enable { node, unit, enabled } => (
                format!("{} {unit}", if *enabled { "enable" } else { "disable" }),
                match enabled {
                    true => "it started at boot in the state",
                    false => "a boot in the midst must not start it on files that are half set",
                }
                .to_owned(),
                vec![node.clone()],
                undoable(if *enabled { "disable it" } else { "enable it" }),
            ),
            Self::Start { service, instances } => (
                format!("start {}; wait until it is ready", service.name()),
                "it ran in the state".to_owned(),
                nodes(instances),
                undoable("stop it"),
            ),
            Self::Check { node, files, ports } => (
                check_text(files.len(), ports),
                "the result is looked at, not assumed".to_owned(),
                vec![node.clone()],
                Reversal::Nothing,
            ),
        };
        Description { what, reason, nodes, reversal }
    }

    fn shell(&self) -> Vec<Command> {
        let mut commands = Vec::new();
        match self {
            Self::SaveState { nodes } => {
                let words = ["etcdvault", "state", "save"].map(str::to_owned).into_iter();
                let named = nodes.iter().flat_map(|node| ["--node".to_owned(), node.to_string()]);
                commands.push(Command::new(None, words.chain(named)));
            }
            Self::Stop { instances, .. } => {
                commands.extend(instances.iter().map(|instance| service::shell(instance, true)));
            }
            Self::Start { instances, .. } => {
                commands.extend(instances.iter().map(|instance| service::shell(instance, false)));
            }
            Self::SetFiles { node, backup, changes, reload } => {
                commands.extend(file::shell_before(node, backup, changes));
                for (number, change) in changes.iter().enumerate() {
                    commands.extend(file::shell(node, number, change));
                }
                if !reload.is_empty() {
                    commands.push(Command::new(Some(node), ["systemctl", "daemon-reload"]));
                }
            }
            Self::Enable { node, unit, enabled } => {
                let verb = if *enabled { "enable" } else { "disable" };
                commands.push(Command::new(Some(node), ["systemctl", verb, unit]));
            }
            Self::Check { node, files, .. } => {
                let digests: String = files
                    .iter()
                    .filter_map(|Expected { path, what }| match what {
                        What::File { sha256, .. } => {
                            Some(format!("{sha256}  {}\n", path.display()))
                        }
                        _ => None,
                    })
                    .collect();
                if !digests.is_empty() {
                    let compare = Command::new(Some(node), ["sha256sum", "-c", "-"]);
                    commands.push(compare.input(digests));
                }
            }
        }
        commands
    }

    fn provides(&self) -> Vec<String> {
        match self {
            Self::SaveState { .. } => vec![SAVED.to_owned()],
            _ => Vec::new(),
        }
    }
}

fn check_text(files: usize, ports: &[u16]) -> String {
    let plural = if files == 1 { "" } else { "s" };
    let mut text = format!("compare {files} file{plural} with the state");
    if !ports.is_empty() {
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        text.push_str(&format!("; ports {} are open", ports.join(", ")));
    }
    text
}

/// `2 written, 1 set aside`.
fn summary(changes: &[Change]) -> String {
    let count = |wanted: fn(&Change) -> bool| changes.iter().filter(|c| wanted(c)).count();
    let gone = count(|change| change.after == What::Nothing);
    let modes = count(|change| {
        matches!((&change.before, &change.after),
            (What::File { sha256: a, .. }, What::File { sha256: b, .. }) if a == b)
    });
    let written = changes.len() - gone - modes;
    let parts = [(written, "written"), (modes, "owner or mode"), (gone, "set aside")];
    let parts = parts.iter().filter(|(count, _)| *count > 0);
    parts.map(|(count, what)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}
