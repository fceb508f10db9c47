//! Static pods: the kubelet, its manifests, and the containers of them.

use std::path::{Path, PathBuf};

use super::reading::Reading;
use super::{ConfiguredBy, Dialect, Kubelet, Runs, Severity};
use crate::dialect::{Invocation, KubeletSettings, Manifest, kubelet_config_of};
use crate::node::{Container, ContainerQuery, NodeError, ProcessQuery};

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

/// The kubelet, where there is one: as it runs, else as its files say.
pub(super) async fn kubelet(reading: &mut Reading<'_>) -> Result<Option<Kubelet>, NodeError> {
    let asked = reading.node.unit("kubelet.service").await;
    let unit = reading.optional("the unit kubelet.service", asked)?;
    let asked = reading.node.processes(ProcessQuery::Program("kubelet".to_owned())).await;
    let running = reading.optional("processes", asked)?;
    let running = running.into_iter().find(|process| process.root.is_none());
    let invocation =
        running.map(|process| Invocation::running::<_, String>(&process.arguments, &[]));
    let config = match &invocation {
        Some(invocation) => kubelet_config_of(invocation).map(PathBuf::from),
        None => Some(PathBuf::from(KUBELET_CONFIG)),
    };
    let mut file = KubeletSettings::default();
    let mut config_read = None;
    if let Some(path) = config
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
        && let Some(text) = reading.text(Path::new(KUBELET_FLAGS)).await?
        && let Ok(read) = KubeletSettings::of_flags_file(&text)
    {
        flags = read;
    }
    if unit.is_none() && invocation.is_none() && config_read.is_none() {
        return Ok(None);
    }
    let settings = KubeletSettings::flags_over_file(flags, file);
    Ok(Some(Kubelet {
        active: unit.map(|unit| unit.active_state).unwrap_or_default(),
        manifests: settings.static_pod_path.map(PathBuf::from),
        runtime: settings.container_runtime_endpoint,
        config: config_read,
    }))
}

/// The pods in the kubelet's manifests that run one of `programs`.
pub(super) async fn read_pods(
    reading: &mut Reading<'_>,
    kubelet: &Kubelet,
    programs: &[&str],
) -> Result<Vec<(String, ReadPod)>, NodeError> {
    let directory = kubelet.manifests.clone().unwrap_or_else(|| PathBuf::from(MANIFESTS));
    let listed = match reading.node.stat(&directory).await? {
        Some(_) => reading.node.list(&directory).await,
        None => return Ok(Vec::new()),
    };
    let mut entries = reading.optional(&format!("{}", directory.display()), listed)?;
    if entries.len() > MAX_MANIFESTS {
        reading.found(
            Severity::Warning,
            format!(
                "{} holds {} files: the first 256 are read",
                directory.display(),
                entries.len()
            ),
        );
        entries.truncate(MAX_MANIFESTS);
    }
    let asked = reading.node.containers(ContainerQuery::default()).await;
    let containers = reading.optional("the container runtime", asked)?;
    let mut pods: Vec<(String, ReadPod)> = Vec::new();
    for entry in entries {
        let name = entry.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // The kubelet reads every file whose name does not begin with a dot.
        if name.starts_with('.') || entry.kind == crate::node::FileKind::Directory {
            continue;
        }
        let Some(text) = reading.text(&entry.path).await? else { continue };
        let manifest = match Manifest::parse(&entry.path.to_string_lossy(), &text) {
            Ok(manifest) => manifest,
            Err(error) => {
                reading.found(
                    Severity::Warning,
                    format!("{} is no manifest: {error}", entry.path.display()),
                );
                continue;
            }
        };
        for program in programs {
            let Some(container) = manifest.container_of(program) else { continue };
            let invocation = match manifest.invocation(&container) {
                Ok(invocation) => invocation,
                Err(error) => {
                    reading.found(
                        Severity::Warning,
                        format!("what {} starts cannot be read: {error}", entry.path.display()),
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
                    entry.path.display()
                );
                reading.findings.push(
                    super::Finding::on(reading.node.name(), Severity::Problem, what)
                        .hint("move the copy out of the directory: a copy kept there is no backup but a second pod"),
                );
                continue;
            }
            let running = running(&containers, program, &pod);
            let runs =
                Runs::StaticPod { manifest: entry.path.clone(), pod, container: running.cloned() };
            let files =
                vec![ConfiguredBy { path: entry.path.clone(), dialect: Dialect::StaticPod }];
            let read = ReadPod { runs, files, invocation, manifest: manifest.clone(), container };
            pods.push(((*program).to_owned(), read));
        }
    }
    Ok(pods)
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
