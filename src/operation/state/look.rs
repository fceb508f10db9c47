//! Asks a node how it runs etcd and the API server, and which files tell so.
//!
//! Looking changes nothing, and what cannot be looked at is said, not an error: a node
//! that is half broken is one whose state is wanted most.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use vault::document::printable;

use super::describe::{Description, Program, Runs, UnitSeen};
use super::mention;
use super::roots::{Mention, Places, Seen};
use crate::node::{
    Container, ContainerQuery, FileKind, Node, NodeError, NodeErrorKind, Process, ProcessQuery,
    Unit,
};
use crate::observe::{self, NodeObservation, observe};

/// Units that matter.
const UNITS: [&str; 4] = ["*etcd*.service", "kube*.service", "flannel*.service", "rke2*.service"];
/// Programs that matter.
const PROGRAMS: [&str; 4] = ["etcd", "kube-apiserver", "kubelet", "flanneld"];
/// Files that configure these where no unit names them.
const CONFIGURATION: [&str; 10] = [
    "/etc/default/etcd",
    "/etc/etcd/etcd.conf",
    "/etc/etcd.env",
    "/etc/sysconfig/etcd",
    "/etc/kubernetes/apiserver",
    "/etc/default/kube-apiserver",
    "/etc/sysconfig/flanneld",
    "/etc/default/flanneld",
    "/etc/default/kubelet",
    "/var/lib/kubelet/kubeadm-flags.env",
];
/// The largest file of configuration that is looked into.
const MAX_TEXT: u64 = 1 << 20;
/// The most files that are looked into.
const MAX_FILES: usize = 500;
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
    /// The node's clock.
    pub now: DateTime<Utc>,
    /// Whether anything of etcd runs here.
    pub etcd_runs: bool,
    /// What is wrong with the node and should not wait for a discovery.
    pub problems: Vec<String>,
}

/// A text of configuration and where it is.
struct Text {
    path: PathBuf,
    text: String,
}

/// Looks at `node`.
pub async fn look(node: &dyn Node, places: &Places) -> Result<Looked, NodeError> {
    let facts = node.facts().await?;
    let mut unseen = BTreeSet::new();
    let (mut units, mut processes, mut containers) = (Vec::new(), Vec::new(), Vec::new());
    if places.are_the_machines() {
        if facts.systemd {
            units = self::units(node, &mut unseen).await;
        }
        processes = self::processes(node, &mut unseen).await;
        containers = self::containers(node, &mut unseen).await;
    }

    let mut paths: BTreeSet<PathBuf> = CONFIGURATION.iter().map(|path| places.at(path)).collect();
    for unit in &units {
        paths.extend(unit.fragment.iter().cloned());
        paths.extend(unit.drop_ins.iter().cloned());
    }
    let manifests = manifests(node, places, &mut unseen).await;
    paths.extend(manifests.iter().cloned());
    let mut texts = read_all(node, &paths, &mut unseen).await;
    // What units and command lines name: environment files, and etcd's own file.
    let mut named: BTreeSet<PathBuf> =
        texts.iter().flat_map(|text| mention::environment_files(&text.text)).collect();
    named.extend(files_of(&mentions(&texts, &processes), "config-file"));
    let named: BTreeSet<PathBuf> = named.difference(&paths).cloned().collect();
    texts.extend(read_all(node, &named, &mut unseen).await);

    let mentions = mentions(&texts, &processes);
    let observed = match places.are_the_machines() {
        true => observe(node).await.map_err(|error| note(&mut unseen, &error)).ok(),
        false => None,
    };
    let found = observed.as_ref().map(Found::of).unwrap_or_default();
    let findings = observed.iter().flat_map(|seen| &seen.findings);
    let problems = findings.filter(|finding| finding.severity == observe::Severity::Problem);
    let problems = problems.map(|finding| printable(&finding.what)).collect();
    let etcd = found
        .etcd
        .or_else(|| program("etcd", ETCD_OPTIONS, &units, &processes, &containers, &texts));
    let apiserver = found.apiserver.or_else(|| {
        program("kube-apiserver", APISERVER_OPTIONS, &units, &processes, &containers, &texts)
    });
    let data = match found.data.is_empty() {
        true => data_dirs(&mentions, &processes, places),
        false => found.data,
    };
    let etcd_runs = etcd.as_ref().is_some_and(|etcd| etcd.running);
    let seen = Seen {
        files: texts.iter().map(|text| text.path.clone()).chain(found.files).collect(),
        mentions,
        data: data.clone(),
        extra: Vec::new(),
    };
    let description = Description {
        hostname: printable(&facts.hostname),
        machine_id: facts.machine_id.as_deref().map(printable),
        os: printable(&facts.os),
        arch: printable(&facts.arch),
        addresses: facts.addresses.iter().map(ToString::to_string).collect(),
        etcd,
        apiserver,
        units: units
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
        unseen: unseen.into_iter().collect(),
    };
    let seconds = facts.now.div_euclid(1_000_000_000);
    let now = i64::try_from(seconds).ok().and_then(|s| DateTime::from_timestamp(s, 0));
    Ok(Looked { seen, description, now: now.unwrap_or_default(), etcd_runs, problems })
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

/// What could not be looked at, unless that is no loss.
fn note(unseen: &mut BTreeSet<String>, error: &NodeError) {
    if !matches!(error.kind, NodeErrorKind::NotFound | NodeErrorKind::Unsupported) {
        unseen.insert(printable(&format!("{}: {}", error.act, error.why)));
    }
}

async fn units(node: &dyn Node, unseen: &mut BTreeSet<String>) -> Vec<Unit> {
    let mut names = BTreeSet::new();
    for found in join_all(UNITS.iter().map(|glob| node.units(glob))).await {
        match found {
            Ok(found) => names.extend(found),
            Err(error) => note(unseen, &error),
        }
    }
    let mut units = Vec::new();
    for found in join_all(names.iter().take(MAX_FILES).map(|name| node.unit(name))).await {
        match found {
            Ok(found) => units.extend(found),
            Err(error) => note(unseen, &error),
        }
    }
    units
}

async fn processes(node: &dyn Node, unseen: &mut BTreeSet<String>) -> Vec<Process> {
    let mut processes = Vec::new();
    let asked = PROGRAMS.iter().map(|name| node.processes(ProcessQuery::Program((*name).into())));
    for found in join_all(asked).await {
        match found {
            Ok(found) => processes.extend(found),
            Err(error) => note(unseen, &error),
        }
    }
    processes
}

async fn containers(node: &dyn Node, unseen: &mut BTreeSet<String>) -> Vec<Container> {
    let query = ContainerQuery { namespace: Some("kube-system".to_owned()), ..Default::default() };
    match node.containers(query).await {
        Ok(found) => found,
        Err(error) => {
            // A node without a kubelet has no socket to ask.
            note(unseen, &error);
            Vec::new()
        }
    }
}

/// The manifests of static pods, where the kubelet has them.
async fn manifests(
    node: &dyn Node,
    places: &Places,
    unseen: &mut BTreeSet<String>,
) -> Vec<PathBuf> {
    let usual = places.at("/etc/kubernetes/manifests");
    let config = BTreeSet::from([places.at("/var/lib/kubelet/config.yaml")]);
    let texts = read_all(node, &config, unseen).await;
    let named = texts
        .iter()
        .flat_map(|text| mention::keys(&text.text))
        .find(|mention| mention.option == "staticPodPath")
        .map(|mention| PathBuf::from(mention.value))
        .filter(|path| path.is_absolute());
    match node.list(named.as_deref().unwrap_or(&usual)).await {
        Ok(entries) => entries
            .into_iter()
            .filter(|entry| entry.kind == FileKind::File)
            .map(|entry| entry.path)
            .filter(|path| {
                path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
            })
            .take(MAX_FILES)
            .collect(),
        Err(error) => {
            note(unseen, &error);
            Vec::new()
        }
    }
}

/// The texts of those files that exist and are text.
async fn read_all(
    node: &dyn Node,
    paths: &BTreeSet<PathBuf>,
    unseen: &mut BTreeSet<String>,
) -> Vec<Text> {
    let read = paths.iter().take(MAX_FILES).map(|path| node.read(path, MAX_TEXT));
    let mut texts = Vec::new();
    for (path, read) in paths.iter().zip(join_all(read).await) {
        match read {
            Ok(content) => {
                if let Ok(text) = String::from_utf8(content.bytes) {
                    texts.push(Text { path: path.clone(), text });
                }
            }
            Err(error) => note(unseen, &error),
        }
    }
    texts
}

/// What a file says, whatever dialect it is in.
fn mentions_of(text: &Text) -> Vec<Mention> {
    let mut found = mention::flags(&text.text);
    found.extend(mention::variables(&text.text));
    if text.path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "conf") {
        found.extend(mention::keys(&text.text));
    }
    found
}

fn mentions_of_process(process: &Process) -> Vec<Mention> {
    let mut found = mention::arguments(&process.arguments);
    found.extend(
        process.environment.iter().filter_map(|(name, value)| mention::variable(name, value)),
    );
    found
}

fn mentions(texts: &[Text], processes: &[Process]) -> Vec<Mention> {
    let all = texts.iter().flat_map(mentions_of);
    let all: BTreeSet<Mention> =
        all.chain(processes.iter().flat_map(mentions_of_process)).collect();
    all.into_iter().collect()
}

/// The absolute paths that `option` names.
fn files_of<'a>(mentions: &'a [Mention], option: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
    mentions
        .iter()
        .filter(move |mention| mention.option == option && mention.value.starts_with('/'))
        .map(|mention| PathBuf::from(&mention.value))
}

fn data_dirs(mentions: &[Mention], processes: &[Process], places: &Places) -> Vec<PathBuf> {
    let mut found: BTreeSet<PathBuf> = files_of(mentions, "data-dir").collect();
    found.extend(files_of(mentions, "wal-dir"));
    // A relative one is relative to where etcd was started.
    for process in processes.iter().filter(|p| is_program(p, "etcd") && p.root.is_none()) {
        let said = mentions_of_process(process);
        for mention in said.iter().filter(|m| m.option == "data-dir" || m.option == "wal-dir") {
            if !mention.value.starts_with('/') && !mention.value.is_empty() {
                found.insert(process.cwd.join(mention.value.trim_start_matches("./")));
            }
        }
    }
    if found.is_empty() {
        found.insert(places.at("/var/lib/etcd"));
    }
    // The root of a container's file system is not the node's.
    found.retain(|path| path.components().count() > 1);
    found.into_iter().collect()
}

fn is_program(process: &Process, name: &str) -> bool {
    process.program.file_name().is_some_and(|file| file == name)
}

/// How `name` runs here, if it does or is meant to.
fn program(
    name: &str,
    options: &[&str],
    units: &[Unit],
    processes: &[Process],
    containers: &[Container],
    texts: &[Text],
) -> Option<Program> {
    let process = processes.iter().find(|process| is_program(process, name));
    let container = containers.iter().find(|container| container.name == name);
    let manifest = texts.iter().find(|text| is_manifest_of(text, name));
    let unit = units
        .iter()
        .filter(|unit| unit_runs(unit, name, process))
        .max_by_key(|unit| unit.active_state == "active");
    let active = unit.is_some_and(|unit| unit.active_state == "active");
    let running = process.is_some() || container.is_some_and(|c| c.running) || active;
    let runs = match (unit, manifest, process) {
        // A unit that only lies there does not count against a manifest.
        (Some(unit), None, _) => Runs::Unit { name: printable(&unit.name) },
        (Some(unit), Some(_), _) if active => Runs::Unit { name: printable(&unit.name) },
        (_, Some(manifest), _) => {
            Runs::StaticPod { manifest: super::index::escaped(&manifest.path) }
        }
        (None, None, Some(_)) => Runs::Process,
        (None, None, None) => return None,
    };
    let texts: Vec<&Text> = match &runs {
        Runs::StaticPod { .. } => manifest.into_iter().collect(),
        _ => texts.iter().filter(|text| !is_manifest(text)).collect(),
    };
    Some(Program {
        runs,
        running,
        image: container.map(|container| printable(&container.image)),
        options: told(options, process, &texts),
    })
}

/// Whether `unit` is what runs the program.
fn unit_runs(unit: &Unit, name: &str, process: Option<&Process>) -> bool {
    let by_pid = process.is_some_and(|process| process.pid == unit.main_pid && unit.main_pid != 0);
    by_pid || unit.name.strip_suffix(".service") == Some(name) && unit.load_state == "loaded"
}

fn is_manifest(text: &Text) -> bool {
    text.path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json")
        && text.text.contains("Pod")
        && text.text.contains("containers")
}

fn is_manifest_of(text: &Text, name: &str) -> bool {
    is_manifest(text)
        && text.text.lines().any(|line| {
            let word = line.trim().trim_start_matches("- ").trim_matches(['"', '\'', ',']);
            word == name || Path::new(word).file_name().is_some_and(|file| file == name)
        })
}

/// What counts of `options`: what the process was started with, else what files say.
fn told(options: &[&str], process: Option<&Process>, texts: &[&Text]) -> BTreeMap<String, String> {
    let mut told = BTreeMap::new();
    let mut take = |mentions: Vec<Mention>| {
        for mention in mentions {
            if options.contains(&mention.option.as_str()) {
                told.entry(mention.option).or_insert_with(|| printable(&mention.value));
            }
        }
    };
    if let Some(process) = process {
        take(mentions_of_process(process));
    }
    if process.is_none() {
        texts.iter().for_each(|text| take(mentions_of(text)));
    }
    told
}
