//! What a look at a node tells of its state: which files belong to it, and what is said
//! of it beside them.
//!
//! What cannot be looked at is said, not an error: a node that is half broken is one
//! whose state is wanted most.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use vault::document::printable;

use super::describe::{Description, Program, Runs, UnitSeen};
use super::mention;
use super::roots::{Mention, Places, Seen};
use crate::node::{Node, NodeError, Process};
use crate::observe::{self, Look, NodeObservation, PodCommand};

/// Options that tell a member's place in its cluster.
const ETCD_OPTIONS: &[&str] = &[
    "name",
    "data-dir",
    "wal-dir",
    "listen-peer-urls",
    "listen-client-urls",
    "advertise-client-urls",
    "initial-advertise-peer-urls",
    "initial-cluster",
    "initial-cluster-state",
    "force-new-cluster",
    "discovery-srv",
    "discovery-srv-name",
    "config-file",
];
/// Options that tell which etcd an API server uses.
const APISERVER_OPTIONS: &[&str] = &[
    "etcd-servers",
    "etcd-servers-overrides",
    "etcd-prefix",
    "etcd-cafile",
    "etcd-certfile",
    "etcd-keyfile",
    "storage-backend",
    "advertise-address",
    "secure-port",
    "encryption-provider-config",
    "apiserver-count",
];

/// What a look showed.
#[derive(Debug, Clone)]
pub struct Looked {
    /// What tells which files matter.
    pub seen: Seen,
    /// What is said of the node beside its files.
    pub description: Description,
    /// All that was seen of what runs.
    pub observed: NodeObservation,
    /// The node's clock.
    pub now: DateTime<Utc>,
    /// Whether anything of etcd runs here.
    pub etcd_runs: bool,
}

/// Looks at `node`.
///
/// # Errors
/// The node does not answer.
pub async fn look(node: &dyn Node, places: &Places) -> Result<Looked, NodeError> {
    Ok(Looked::of(observe::look(node, places).await?, places))
}

impl Looked {
    /// What `look` tells.
    pub fn of(look: Look, places: &Places) -> Self {
        let mentions = mentions(&look);
        let found = Found::of(&look.seen);
        let data = match found.data.is_empty() {
            true => data_dirs(&mentions, places),
            false => found.data,
        };
        let facts = &look.seen.facts;
        let description = Description {
            hostname: printable(&facts.hostname),
            machine_id: facts.machine_id.as_deref().map(printable),
            os: printable(&facts.os),
            arch: printable(&facts.arch),
            addresses: facts.addresses.iter().map(ToString::to_string).collect(),
            etcd: found.etcd,
            apiserver: found.apiserver,
            units: look
                .units
                .iter()
                .map(|unit| {
                    let seen = UnitSeen {
                        active: printable(&unit.active_state),
                        enabled: printable(&unit.file_state),
                    };
                    (printable(&unit.name), seen)
                })
                .collect(),
            data_dirs: data.iter().map(|path| super::index::escaped(path)).collect(),
            unseen: look.unseen.iter().map(|line| printable(line)).collect(),
        };
        let seconds = facts.now.div_euclid(1_000_000_000);
        let now = i64::try_from(seconds).ok().and_then(|s| DateTime::from_timestamp(s, 0));
        let running =
            |etcd: &observe::EtcdService| etcd.running.is_some() || etcd.runs.is_running();
        let etcd_runs = look.seen.etcd.iter().any(running);
        let read = look.pods.iter().flat_map(|pod| &pod.mounts).filter(|mount| mount.read_only);
        let seen = Seen {
            files: look.texts.keys().cloned().chain(found.files).collect(),
            mentions,
            mounted: read.map(|mount| PathBuf::from(&mount.node)).collect(),
            data,
            extra: Vec::new(),
            links: BTreeMap::new(),
        };
        Self { seen, description, observed: look.seen, now: now.unwrap_or_default(), etcd_runs }
    }
}

/// What the observation of a node tells of its state.
#[derive(Default)]
struct Found {
    etcd: Option<Program>,
    apiserver: Option<Program>,
    files: BTreeSet<PathBuf>,
    data: Vec<PathBuf>,
}

impl Found {
    /// Paths are the node's own: those of containers are led through their mounts.
    fn of(seen: &NodeObservation) -> Self {
        let mut found = Self::default();
        let mut data = BTreeSet::new();
        for etcd in &seen.etcd {
            found.files.extend(etcd.files.iter().map(|file| file.path.clone()));
            found.files.extend(etcd.tls_files.iter().map(|file| file.path.clone()));
            data.insert(etcd.data_dir.clone());
            data.extend(etcd.wal_dir.clone());
        }
        for server in &seen.api_servers {
            found.files.extend(server.files.iter().map(|file| file.path.clone()));
            found.files.extend(server.tls_files.iter().map(|file| file.path.clone()));
        }
        found.files.extend(seen.clients.iter().map(|client| client.file.clone()));
        data.retain(|path| path.components().count() > 1);
        found.data = data.into_iter().collect();
        // What runs tells more than what only lies there.
        let etcd = seen.member().or(seen.etcd.first());
        found.etcd = etcd.map(|etcd| {
            let mut options = options(ETCD_OPTIONS, |name| etcd.settings.value(name));
            for difference in &etcd.drift {
                if let (Some(value), Some(running)) =
                    (options.get_mut(&difference.setting), &difference.running)
                {
                    *value = printable(&running.value);
                }
            }
            of_program(&etcd.runs, etcd.running.is_some(), options)
        });
        let server = seen.api_servers.iter().max_by_key(|server| server.running.is_some());
        found.apiserver = server.map(|server| {
            let options = options(APISERVER_OPTIONS, |name| server.settings.value(name));
            of_program(&server.runs, server.running.is_some(), options)
        });
        found
    }
}

fn options<'s>(
    names: &[&str],
    value: impl Fn(&str) -> Option<&'s str>,
) -> BTreeMap<String, String> {
    let told = names.iter().filter_map(|name| Some(((*name).to_owned(), printable(value(name)?))));
    told.collect()
}

fn of_program(
    seen: &observe::Runs,
    has_process: bool,
    options: BTreeMap<String, String>,
) -> Program {
    let (runs, image) = match seen {
        observe::Runs::Unit { unit, .. } => (Runs::Unit { name: printable(unit) }, None),
        observe::Runs::StaticPod { manifest, container, .. } => (
            Runs::StaticPod { manifest: super::index::escaped(manifest) },
            container.as_ref().map(|container| printable(&container.image)),
        ),
        observe::Runs::Process => (Runs::Process, None),
    };
    Program { runs, running: has_process || seen.is_running(), image, options }
}

/// What texts, static pods and processes say, paths as the node has them.
fn mentions(look: &Look) -> Vec<Mention> {
    let of_pods: BTreeSet<&Path> = look.pods.iter().map(|pod| pod.manifest.as_path()).collect();
    let mut all = BTreeSet::new();
    for (path, text) in &look.texts {
        if !of_pods.contains(path.as_path()) {
            all.extend(of_text(path, text));
        }
    }
    for pod in &look.pods {
        let said = match look.texts.get(&pod.manifest) {
            Some(text) if pod.words.is_empty() => mention::flags(text),
            _ => mention::arguments(&pod.words),
        };
        all.extend(said.into_iter().map(|mention| on_node(mention, pod)));
    }
    // What runs in a container has its paths, not the node's: manifests have both.
    let own = |process: &&Process| process.root.is_none() || look.pods.is_empty();
    for process in look.processes.iter().filter(own) {
        all.extend(mention::arguments(&process.arguments));
        let variables = process.environment.iter();
        all.extend(variables.filter_map(|(name, value)| mention::variable(name, value)));
    }
    all.into_iter().collect()
}

/// What a text says, whatever dialect it is in.
fn of_text(path: &Path, text: &str) -> Vec<Mention> {
    let mut found = mention::flags(text);
    found.extend(mention::variables(text));
    if path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "conf") {
        found.extend(mention::keys(text));
    }
    found
}

/// The same with the node's paths in place of the container's. What is not mounted from
/// the node is not the node's and goes.
fn on_node(mention: Mention, pod: &PodCommand) -> Mention {
    let separators = [',', '=', ':'];
    if !mention.value.split(separators).any(|part| part.starts_with('/')) {
        return mention;
    }
    let mut value = String::new();
    for part in mention.value.split_inclusive(separators) {
        let bare = part.trim_end_matches(separators);
        match bare.starts_with('/') {
            true => value.push_str(&mounted(bare, pod).unwrap_or_default()),
            false => value.push_str(bare),
        }
        value.push_str(&part[bare.len()..]);
    }
    Mention { value, ..mention }
}

fn mounted(path: &str, pod: &PodCommand) -> Option<String> {
    let fits = pod.mounts.iter().filter_map(|mount| {
        let below = path.strip_prefix(mount.container.trim_end_matches('/'))?;
        let fits = below.is_empty() || below.starts_with('/');
        fits.then(|| {
            (mount.container.len(), format!("{}{below}", mount.node.trim_end_matches('/')))
        })
    });
    fits.max_by_key(|(length, _)| *length).map(|(_, path)| path)
}

/// Where data is, where nothing tells of a member: as some file says, or usually.
fn data_dirs(mentions: &[Mention], places: &Places) -> Vec<PathBuf> {
    let says = |mention: &&Mention| mention.option == "data-dir" || mention.option == "wal-dir";
    let named = mentions.iter().filter(says).map(|mention| PathBuf::from(&mention.value));
    let mut found: BTreeSet<PathBuf> =
        named.filter(|path| path.is_absolute() && path.components().count() > 1).collect();
    if found.is_empty() {
        found.insert(places.at("/var/lib/etcd"));
    }
    found.into_iter().collect()
}
