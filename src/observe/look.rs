//! A look at a node: everything that tells what it runs, read once.
//!
//! Each round of questions is asked at once, and each needs what the one before told:
//! over SSH a look takes about as many round trips as there are rounds, not files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use futures_util::future::join_all;

use super::reading::Reading;
use super::{
    Distribution, Finding, Kubelet, NodeObservation, Places, PodCommand, Severity, node, pods,
    services,
};
use crate::node::{Container, Facts, Node, NodeError, Process, ProcessQuery, Unit};

/// Units that matter.
const UNITS: [&str; 6] = [
    "*etcd*.service",
    "*apiserver*.service",
    "kube*.service",
    "flannel*.service",
    "k3s*.service",
    "rke2*.service",
];
/// More units than any machine has of them.
const MAX_UNITS: usize = 500;
/// Programs that matter.
const PROGRAMS: [&str; 5] = ["etcd", "kube-apiserver", "kubelet", "flanneld", "hyperkube"];
/// Files that configure these where no unit names them.
const CONFIGURATION: [&str; 9] = [
    "/etc/default/etcd",
    "/etc/etcd/etcd.conf",
    "/etc/etcd.env",
    "/etc/sysconfig/etcd",
    "/etc/kubernetes/apiserver",
    "/etc/default/kube-apiserver",
    "/etc/sysconfig/flanneld",
    "/etc/default/flanneld",
    "/etc/default/kubelet",
];

/// What a look showed: the picture, and what it was made of.
#[derive(Debug, Clone)]
pub struct Look {
    /// The picture.
    pub seen: NodeObservation,
    /// Units of etcd, Kubernetes and flannel by name.
    pub units: Vec<Unit>,
    /// Processes of these.
    pub processes: Vec<Process>,
    /// The texts that configure these, by where they lie: units, drop-ins, environment
    /// files, configuration files, manifests.
    pub texts: BTreeMap<PathBuf, String>,
    /// What static pods run, and what of the node they see.
    pub pods: Vec<PodCommand>,
    /// What could not be looked at, and why.
    pub unseen: Vec<String>,
}

/// What a node answered.
pub(super) struct Answers {
    pub(super) facts: Facts,
    pub(super) distribution: Distribution,
    pub(super) kubelet: Option<Kubelet>,
    pub(super) units: Vec<Unit>,
    pub(super) processes: Vec<Process>,
    pub(super) manifests: Vec<PathBuf>,
    pub(super) containers: Vec<Container>,
}

/// Looks at a node.
///
/// # Errors
/// The node does not answer. What cannot be looked at alone is said in the picture.
pub async fn look(node: &dyn Node, places: &Places) -> Result<Look, NodeError> {
    let mut reading = Reading::new(node, places);
    let answers = ask(&mut reading).await?;
    let (mut seen, pods) = node::picture(&mut reading, &answers).await?;
    let texts = reading.texts();
    node::changed_since_start(&mut reading, &seen).await?;
    seen.certificates = node::certificates(&mut reading, &seen, answers.facts.now).await?;
    let unseen = reading.unseen();
    seen.findings = reading.findings;
    let Answers { units, processes, .. } = answers;
    Ok(Look { seen, units, processes, texts, pods, unseen })
}

/// The picture alone.
///
/// # Errors
/// As [`look`].
pub async fn observe(node: &dyn Node) -> Result<NodeObservation, NodeError> {
    Ok(look(node, &Places::default()).await?.seen)
}

async fn ask(reading: &mut Reading<'_>) -> Result<Answers, NodeError> {
    let (node, places) = (reading.node, reading.places);
    let runs = places.are_the_machines();
    let (facts, distribution, names, processes) = tokio::join!(
        node.facts(),
        Distribution::detect(node, places),
        join_all(UNITS.iter().filter(|_| runs).map(|glob| node.units(glob))),
        join_all(
            PROGRAMS
                .iter()
                .filter(|_| runs)
                .map(|name| { node.processes(ProcessQuery::Program((*name).to_owned())) })
        ),
    );
    let facts = facts?;
    if facts.uid != 0 {
        let what = "it is looked at without root: files and processes of others stay unseen";
        reading.findings.push(
            Finding::on(node.name(), Severity::Warning, what).hint("run as root, or allow sudo -n"),
        );
    }
    let distribution = distribution?;
    if let Some(own) = distribution.own_restore() {
        let name = distribution.name();
        let what = format!("this is {name}: backing up works, a restore is {name}'s own");
        reading.findings.push(Finding::on(node.name(), Severity::Warning, what).hint(own));
    }
    let names = all(reading, "systemd", names)?;
    let mut processes: Vec<Process> = all(reading, "processes", processes)?;
    // One process may be known by two of the names.
    processes.sort_by_key(|process| process.pid);
    processes.dedup_by_key(|process| process.pid);

    let is_service = |name: &String| name.ends_with(".service") && !name.contains("@.");
    let names: BTreeSet<String> = names.into_iter().filter(is_service).take(MAX_UNITS).collect();
    let usual = CONFIGURATION.iter().map(|path| places.at(path));
    let kubelet = [pods::configured_at(reading, &processes), Some(pods::flags_at(reading))];
    let wanted: Vec<PathBuf> = usual.chain(kubelet.into_iter().flatten()).collect();
    let (asked, ()) =
        tokio::join!(join_all(names.iter().map(|name| node.unit(name))), reading.fetch(wanted));
    let mut units = Vec::new();
    for (name, asked) in names.iter().zip(asked) {
        units.extend(reading.optional(&format!("the unit {name}"), asked)?);
    }

    let kubelet_unit = units.iter().find(|unit| unit.name == "kubelet.service");
    let kubelet = pods::kubelet(reading, kubelet_unit, &processes).await?;
    let (listed, containers, ()) = tokio::join!(
        pods::list(node, places, kubelet.as_ref()),
        pods::containers(node, runs && kubelet.is_some()),
        reading.fetch(services::files_of(&units)),
    );
    let manifests = pods::manifests(reading, listed)?;
    let containers = reading.optional("the container runtime", containers)?;

    let named = services::environment_files(reading, &units, &facts.hostname);
    reading.fetch(named.into_iter().chain(manifests.iter().cloned())).await;
    Ok(Answers { facts, distribution, kubelet, units, processes, manifests, containers })
}

/// What several calls of one kind found together.
fn all<T>(
    reading: &mut Reading<'_>,
    what: &str,
    asked: Vec<Result<Vec<T>, NodeError>>,
) -> Result<Vec<T>, NodeError> {
    let mut found = Vec::new();
    for answer in asked {
        found.extend(reading.optional(what, answer)?);
    }
    Ok(found)
}
