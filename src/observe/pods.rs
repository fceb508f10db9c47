//! Static pods: the kubelet, its manifests, and the containers of them.

use std::path::PathBuf;

use super::reading::Reading;
use super::{ConfiguredBy, Dialect, Kubelet, Places, Runs, Severity};
use crate::dialect::{Invocation, KubeletSettings, Manifest, Mount, kubelet_config_of};
use crate::node::{
    Container, ContainerQuery, Entry, FileKind, Node, NodeError, NodeErrorKind, Process, Unit,
};

/// Where kubeadm puts the kubelet's configuration.
const KUBELET_CONFIG: &str = "/var/lib/kubelet/config.yaml";
/// Where kubeadm puts the kubelet's flags.
const KUBELET_FLAGS: &str = "/var/lib/kubelet/kubeadm-flags.env";
/// Where kubeadm has static pods.
const MANIFESTS: &str = "/etc/kubernetes/manifests";
/// More files are no directory of static pods.
const MAX_MANIFESTS: usize = 256;

/// A container of a manifest.
#[derive(Debug)]
pub(super) struct ReadPod {
    pub(super) runs: Runs,
    pub(super) files: Vec<ConfiguredBy>,
    pub(super) invocation: Invocation,
    pub(super) manifest: Manifest,
    pub(super) container: crate::dialect::Container,
}

impl ReadPod {
    /// The node's path of a path in the container.
    pub(super) fn node_path(&self, path: &str) -> Option<PathBuf> {
        self.manifest.node_path(&self.container, path).map(PathBuf::from)
    }
}

/// What a container of a static pod is started with, and what of the node it sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodCommand {
    /// The manifest.
    pub manifest: PathBuf,
    /// The program and its arguments, as the manifest has them; none where that cannot
    /// be read.
    pub words: Vec<String>,
    /// The paths of the node that it sees.
    pub mounts: Vec<Mount>,
}

/// All static pods.
#[derive(Debug, Default)]
pub(super) struct Pods {
    /// Those that run one of the programs that were asked for.
    pub(super) found: Vec<(String, ReadPod)>,
    /// Every container.
    pub(super) commands: Vec<PodCommand>,
}

/// Where a kubelet's configuration is, as it runs, else usually.
pub(super) fn configured_at(reading: &Reading<'_>, processes: &[Process]) -> Option<PathBuf> {
    match command(processes) {
        Some(invocation) => kubelet_config_of(&invocation).map(PathBuf::from),
        None => Some(reading.places.at(KUBELET_CONFIG)),
    }
}

/// Where its flags are, where it does not run.
pub(super) fn flags_at(reading: &Reading<'_>) -> PathBuf {
    reading.places.at(KUBELET_FLAGS)
}

fn command(processes: &[Process]) -> Option<Invocation> {
    let is = |process: &&Process| super::node::is_program(process, "kubelet");
    let running = processes.iter().filter(is).find(|process| process.root.is_none())?;
    Some(Invocation::running::<_, String>(&running.arguments, &[]))
}

/// The kubelet, where there is one: as it runs, else as its files say.
pub(super) async fn kubelet(
    reading: &mut Reading<'_>,
    unit: Option<&Unit>,
    processes: &[Process],
) -> Result<Option<Kubelet>, NodeError> {
    let invocation = command(processes);
    let mut file = KubeletSettings::default();
    let mut config_read = None;
    if let Some(path) = configured_at(reading, processes)
        && let Some(text) = reading.text(&path).await?
    {
        match KubeletSettings::of_file(&text) {
            Ok(settings) => file = settings,
            Err(error) => {
                reading.found(Severity::Warning, format!("{}: {error}", path.display()));
            }
        }
        config_read = Some(path);
    }
    let mut flags = invocation.as_ref().map(KubeletSettings::of).unwrap_or_default();
    if invocation.is_none()
        && let Some(text) = reading.text(&flags_at(reading)).await?
        && let Ok(read) = KubeletSettings::of_flags_file(&text)
    {
        flags = read;
    }
    if unit.is_none() && invocation.is_none() && config_read.is_none() {
        return Ok(None);
    }
    let settings = KubeletSettings::flags_over_file(flags, file);
    Ok(Some(Kubelet {
        active: unit.map(|unit| unit.active_state.clone()).unwrap_or_default(),
        manifests: settings.static_pod_path.map(PathBuf::from),
        runtime: settings.container_runtime_endpoint,
        config: config_read,
    }))
}

/// What the directory of static pods was found to be.
pub(super) struct Listed {
    directory: PathBuf,
    entries: Result<Vec<Entry>, NodeError>,
}

/// Lists the directory that the kubelet has, or the usual one where no kubelet is seen.
pub(super) async fn list(node: &dyn Node, places: &Places, kubelet: Option<&Kubelet>) -> Listed {
    let named = kubelet.and_then(|kubelet| kubelet.manifests.clone());
    let directory = named.unwrap_or_else(|| places.at(MANIFESTS));
    let entries = match node.list(&directory).await {
        Err(error) if error.kind == NodeErrorKind::NotFound => Ok(Vec::new()),
        listed => listed,
    };
    Listed { directory, entries }
}

/// The manifests of static pods that the kubelet would read.
pub(super) fn manifests(
    reading: &mut Reading<'_>,
    listed: Listed,
) -> Result<Vec<PathBuf>, NodeError> {
    let directory = listed.directory.display();
    let mut entries = reading.optional(&directory.to_string(), listed.entries)?;
    // The kubelet reads every file whose name does not begin with a dot.
    let is_read = |entry: &Entry| {
        let name = entry.path.file_name().unwrap_or_default();
        !name.as_encoded_bytes().starts_with(b".")
            && matches!(entry.kind, FileKind::File | FileKind::Symlink)
    };
    entries.retain(is_read);
    if entries.len() > MAX_MANIFESTS {
        let what = format!(
            "{directory} holds {} files: the first {MAX_MANIFESTS} are read",
            entries.len()
        );
        reading.found(Severity::Warning, what);
        entries.truncate(MAX_MANIFESTS);
    }
    Ok(entries.into_iter().map(|entry| entry.path).collect())
}

/// The containers that the runtime has, where it is to be `asked`.
pub(super) async fn containers(node: &dyn Node, asked: bool) -> Result<Vec<Container>, NodeError> {
    match asked {
        true => node.containers(ContainerQuery::default()).await,
        false => Ok(Vec::new()),
    }
}

/// The pods in `manifests`, those that run one of `programs` in detail.
pub(super) async fn read_pods(
    reading: &mut Reading<'_>,
    manifests: &[PathBuf],
    containers: &[Container],
    programs: &[&str],
) -> Result<Pods, NodeError> {
    let mut read = Pods::default();
    let pods = &mut read.found;
    for path in manifests {
        let Some(text) = reading.text(path).await? else { continue };
        let manifest = match Manifest::parse(&path.to_string_lossy(), &text) {
            Ok(manifest) => manifest,
            Err(error) => {
                let what = format!("{} is no manifest: {error}", path.display());
                reading.found(Severity::Warning, what);
                continue;
            }
        };
        for container in manifest.containers() {
            let words = manifest.invocation(&container).map(|found| words(&found));
            let words = words.unwrap_or_default();
            let mounts = manifest.mounts(&container);
            read.commands.push(PodCommand { manifest: path.clone(), words, mounts });
        }
        for program in programs {
            let Some(container) = manifest.container_of(program) else { continue };
            let invocation = match manifest.invocation(&container) {
                Ok(invocation) => invocation,
                Err(error) => {
                    reading.found(
                        Severity::Warning,
                        format!("what {} starts cannot be read: {error}", path.display()),
                    );
                    continue;
                }
            };
            let pod = manifest.pod().unwrap_or_default().to_owned();
            let stray = pods.iter().find(|(other, read)| {
                other == program
                    && matches!(&read.runs, Runs::StaticPod { pod: known, .. } if *known == pod)
            });
            if let Some((_, Runs::StaticPod { manifest: first, .. })) =
                stray.map(|(program, read)| (program, &read.runs))
            {
                let what = format!(
                    "{} and {} both describe the pod {pod}: the kubelet runs both or either",
                    first.display(),
                    path.display()
                );
                reading.findings.push(
                    super::Finding::on(reading.node.name(), Severity::Problem, what)
                        .hint("move the copy out of the directory: a copy kept there is no backup but a second pod"),
                );
                continue;
            }
            let running = running(containers, program, &pod);
            let runs = Runs::StaticPod { manifest: path.clone(), pod, container: running.cloned() };
            let files = vec![ConfiguredBy { path: path.clone(), dialect: Dialect::StaticPod }];
            let read = ReadPod { runs, files, invocation, manifest: manifest.clone(), container };
            pods.push(((*program).to_owned(), read));
        }
    }
    Ok(read)
}

fn words(invocation: &Invocation) -> Vec<String> {
    let arguments = invocation.arguments().iter().map(|argument| argument.value.clone());
    std::iter::once(invocation.program().to_owned()).chain(arguments).collect()
}

/// The newest running container of a static pod, whose name carries the node's
/// behind the manifest's.
fn running<'c>(containers: &'c [Container], name: &str, pod: &str) -> Option<&'c Container> {
    let of_pod = |container: &&Container| {
        container.running
            && container.name == name
            && container
                .pod
                .strip_prefix(pod)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    containers.iter().filter(of_pod).max_by_key(|container| container.created)
}
