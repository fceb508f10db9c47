//! What is there: one plain, serialisable picture of nodes and cluster.
//!
//! Observing changes nothing. Everything that could not be seen is said in the
//! picture itself ([`Finding`]), beside what was seen; only a node that does not
//! answer at all is an error. Nothing secret is kept: of keys their paths, of
//! certificates what they say in public.

pub mod certificate;
pub mod distribution;
pub mod look;
pub mod node;
pub mod places;
pub mod pods;
pub mod reading;
pub mod services;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::dialect::{ApiServerSettings, Difference, EtcdSettings, FlanneldSettings};
use crate::node::{Container, Facts, NodeName};

pub use certificate::Certificate;
pub use distribution::Distribution;
pub use look::{Look, look, observe};
pub use places::Places;
pub use pods::PodCommand;

/// How a file takes part in a service's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// A systemd unit.
    Unit,
    /// A drop-in of a unit.
    DropIn,
    /// A file of variables that a unit reads.
    EnvironmentFile,
    /// etcd's own YAML file.
    ConfigFile,
    /// A manifest that the kubelet runs.
    StaticPod,
}

impl std::fmt::Display for Dialect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unit => "unit",
            Self::DropIn => "drop-in",
            Self::EnvironmentFile => "environment file",
            Self::ConfigFile => "configuration file",
            Self::StaticPod => "static pod",
        })
    }
}

/// A file that configures a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfiguredBy {
    /// Where it lies on the node.
    pub path: PathBuf,
    /// In which way it counts.
    pub dialect: Dialect,
}

/// How a service is kept running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Runs {
    /// By systemd.
    Unit {
        /// The unit's name.
        unit: String,
        /// `ActiveState`.
        active: String,
        /// `UnitFileState`: whether it starts at boot.
        enabled: String,
        /// Whether systemd has read its files as they are now.
        stale: bool,
    },
    /// By the kubelet, from a manifest.
    StaticPod {
        /// The manifest.
        manifest: PathBuf,
        /// The pod's name in the manifest.
        pod: String,
        /// The running container, where the runtime could be asked.
        container: Option<Container>,
    },
    /// By neither: only the process was found.
    Process,
}

impl Runs {
    /// Whether it runs now, as far as systemd or the kubelet's runtime say.
    pub fn is_running(&self) -> bool {
        match self {
            Self::Unit { active, .. } => active == "active",
            Self::StaticPod { container, .. } => {
                container.as_ref().is_some_and(|container| container.running)
            }
            Self::Process => true,
        }
    }
}

/// A running process of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its id on the node.
    pub pid: u32,
    /// Clock ticks since boot: with the id it is unique.
    pub started: u64,
    /// Its effective user.
    pub uid: u32,
}

/// An etcd member as a node has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdService {
    /// How it is kept running.
    pub runs: Runs,
    /// The files that configure it, in the order in which they count.
    pub files: Vec<ConfiguredBy>,
    /// What it is told by them.
    pub settings: EtcdSettings,
    /// Where its data lies on the node.
    pub data_dir: PathBuf,
    /// Where its log lies, when not in the data directory.
    pub wal_dir: Option<PathBuf>,
    /// Certificates and keys on the node, by the setting that names them.
    pub tls_files: Vec<TlsFile>,
    /// The process.
    pub running: Option<Running>,
    /// Where files and process differ.
    pub drift: Vec<Difference>,
}

/// A certificate or key that a setting names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsFile {
    /// The flag's name, such as `peer-cert-file`.
    pub setting: String,
    /// Where it lies on the node.
    pub path: PathBuf,
}

/// A kube-apiserver as a node has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiServer {
    /// How it is kept running.
    pub runs: Runs,
    /// The files that configure it.
    pub files: Vec<ConfiguredBy>,
    /// What it is told by them.
    pub settings: ApiServerSettings,
    /// Certificates and keys of its connection to etcd, and its encryption
    /// configuration, on the node.
    pub tls_files: Vec<TlsFile>,
    /// The process.
    pub running: Option<Running>,
}

/// Another client of etcd on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherClient {
    /// What it is, such as `flanneld`.
    pub what: String,
    /// The file with its endpoints.
    pub file: PathBuf,
    /// The setting that holds them.
    pub setting: String,
    /// Its endpoints.
    pub endpoints: Vec<String>,
}

/// The kubelet of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kubelet {
    /// Its unit's `ActiveState`; empty without a unit.
    pub active: String,
    /// The directory of its static pods.
    pub manifests: Option<PathBuf>,
    /// The runtime's socket, as the kubelet has it.
    pub runtime: Option<String>,
    /// The file that it is configured with.
    pub config: Option<PathBuf>,
}

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Should be mended.
    Warning,
    /// Stands in the way of a restore.
    Problem,
}

/// Something that a person should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The node, where it is about one.
    pub node: Option<NodeName>,
    /// How serious it is.
    pub severity: Severity,
    /// What, as a sentence's fragment.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Finding {
    /// About a node.
    pub fn on(node: &NodeName, severity: Severity, what: impl Into<String>) -> Self {
        Self { node: Some(node.clone()), severity, what: what.into(), hint: None }
    }

    /// The same with what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// What a node runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeObservation {
    /// The node.
    pub name: NodeName,
    /// What machine it is.
    pub facts: Facts,
    /// Whose Kubernetes it is.
    pub distribution: Distribution,
    /// The kubelet, where there is one.
    pub kubelet: Option<Kubelet>,
    /// The members; more than one is a finding.
    pub etcd: Vec<EtcdService>,
    /// The API servers.
    pub api_servers: Vec<ApiServer>,
    /// Other clients of etcd.
    pub clients: Vec<OtherClient>,
    /// Certificates of all of these.
    pub certificates: Vec<Certificate>,
    /// What should be known.
    pub findings: Vec<Finding>,
}

impl NodeObservation {
    /// The one member of the node: the only one that is set up, else the only one that
    /// runs.
    pub fn member(&self) -> Option<&EtcdService> {
        if let [one] = self.etcd.as_slice() {
            return Some(one);
        }
        let mut running =
            self.etcd.iter().filter(|etcd| etcd.running.is_some() || etcd.runs.is_running());
        running.next().filter(|_| running.next().is_none())
    }

    /// Whether etcd runs in a static pod here.
    pub fn is_embedded(&self) -> bool {
        self.etcd.iter().any(|etcd| matches!(etcd.runs, Runs::StaticPod { .. }))
    }
}

/// Endpoints of flanneld.
pub(crate) fn flanneld(path: PathBuf, settings: &FlanneldSettings) -> Option<OtherClient> {
    let setting = settings.endpoints.as_ref()?;
    Some(OtherClient {
        what: "flanneld".to_owned(),
        file: path,
        setting: setting.name.clone(),
        endpoints: settings.etcd_endpoints(),
    })
}
