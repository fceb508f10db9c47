//! Static pods of any node: taken out and put back by moving their manifest, the
//! only way the kubelet knows.
//!
//! What a caller may rely on:
//!
//! - a pod is out when its container is gone *and* nobody listens on its ports;
//! - it is back when a container that did not run before runs and its ports are
//!   open: an old container, still ending, never counts;
//! - both can be repeated: what is done already is not done again;
//! - nothing is waited for without a bound, and the error says what was missing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::kubelet::Kubelet;
use super::{Container, ContainerQuery, FileKind, Node, NodeError, NodeErrorKind};
use crate::dialect::Manifest;

/// The namespace of a control plane's pods.
const NAMESPACE: &str = "kube-system";

/// How often the node is looked at while something is waited for.
const PAUSE: Duration = Duration::from_millis(250);

/// A container that was ended past the kubelet must stay gone for so long: a
/// kubelet that has not seen yet that the manifest is out starts another.
const SETTLED: Duration = Duration::from_secs(2);

/// A manifest is never larger.
const LIMIT: u64 = 4 << 20;

/// A static pod of the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticPod {
    /// Its manifest in the kubelet's directory.
    pub manifest: PathBuf,
    /// Where the manifest lies while the pod is out: on the same file system, and
    /// where the kubelet does not take it for a manifest.
    pub aside: PathBuf,
    /// The container that matters, such as `etcd`.
    pub container: String,
    /// The ports on which it listens.
    pub ports: Vec<u16>,
}

/// How long is waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Until the container is gone and its ports are closed.
    pub out: Duration,
    /// Until a new one runs and its ports are open.
    pub back: Duration,
    /// `Some` ends the container by the runtime with this grace once its manifest
    /// is out, instead of waiting for the kubelet's: a kube-apiserver takes all of
    /// its 30 seconds.
    pub grace: Option<Duration>,
}

impl Default for Bounds {
    fn default() -> Self {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        Self { out: minutes(2), back: minutes(4), grace: None }
    }
}

/// What is being waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// For these containers to be gone.
    Gone(Vec<String>),
    /// For these ports to be closed.
    Closed(Vec<u16>),
    /// For the kubelet not to start another.
    Settled,
    /// For a container that is none of those that ran before.
    New,
    /// For these ports to be open.
    Open(Vec<u16>),
}

impl std::fmt::Display for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |ports: &[u16]| ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Self::Gone(ids) => write!(f, "{} of its containers still run", ids.len()),
            Self::Closed(ports) => write!(f, "port {} is still open", list(ports)),
            Self::Settled => f.write_str("the kubelet may still start another container"),
            Self::New => f.write_str("no new container runs"),
            Self::Open(ports) => write!(f, "port {} is not open", list(ports)),
        }
    }
}

/// Told of each change in what is waited for.
pub type Progress<'a> = &'a mut (dyn FnMut(&Waiting) + Send);

/// Something in the manifests' directory that the kubelet runs, or tries to, and
/// that is not the pod's own manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// The file.
    pub path: PathBuf,
    /// Why it is one, as a fragment.
    pub why: String,
}

impl StaticPod {
    /// The ids of all containers that the runtime knows for this pod, ended ones
    /// too: none of them is a new one later.
    ///
    /// # Errors
    /// The runtime could not be asked.
    pub async fn known(&self, node: &dyn Node) -> Result<Vec<String>, NodeError> {
        let found = node.containers(self.query(true)).await?;
        Ok(found.into_iter().map(|container| container.id).collect())
    }

    fn query(&self, ended: bool) -> ContainerQuery {
        ContainerQuery {
            namespace: Some(NAMESPACE.to_owned()),
            name: Some(self.container.clone()),
            ended,
        }
    }

    fn act(&self, what: &str) -> String {
        format!("{what} the static pod {}", self.container)
    }
}

/// Moves the manifest aside and waits until the container is gone and its ports
/// are closed. Returns the containers that were known before, for [`put_back`].
///
/// # Errors
/// [`NodeErrorKind::NotFound`] when the manifest is in neither place,
/// [`NodeErrorKind::AlreadyExists`] when it is in both, [`NodeErrorKind::Slow`]
/// when the bound is over: the manifest is out then.
pub async fn take_out(
    node: &dyn Node,
    pod: &StaticPod,
    bounds: Bounds,
    progress: Progress<'_>,
) -> Result<Vec<String>, NodeError> {
    let act = pod.act("take out");
    check_aside(node, pod, &act)?;
    let known = pod.known(node).await?;
    move_manifest(node, &pod.manifest, &pod.aside, &act).await?;
    let until = Instant::now() + bounds.out;
    let (mut shown, mut asked, mut gone_since) = (None, Vec::new(), None);
    loop {
        let running = node.containers(pod.query(false)).await?;
        let mut running: Vec<String> = running.into_iter().map(|found| found.id).collect();
        if let Some(grace) = bounds.grace {
            for id in running.iter().filter(|id| !asked.contains(*id)) {
                match node.stop_container(id, grace).await {
                    // The kubelet was faster.
                    Err(error) if error.kind == NodeErrorKind::NotFound => {}
                    other => other?,
                }
            }
            asked.append(&mut running.clone());
            let left = node.containers(pod.query(false)).await?;
            running = left.into_iter().map(|found| found.id).collect();
        }
        let open = open_ports(node, &pod.ports).await?;
        let waiting = match (running.is_empty(), open.is_empty()) {
            (false, _) => Waiting::Gone(running),
            (true, false) => Waiting::Closed(open),
            (true, true) => {
                let since = *gone_since.get_or_insert_with(Instant::now);
                if asked.is_empty() || since.elapsed() >= SETTLED {
                    return Ok(known);
                }
                Waiting::Settled
            }
        };
        if waiting != Waiting::Settled {
            gone_since = None;
        }
        wait(node, &act, waiting, &mut shown, until, bounds.out, progress).await?;
    }
}

/// Moves the manifest back and waits until a container runs that is none of
/// `known`, and its ports are open.
///
/// # Errors
/// As [`take_out`]; the manifest is in its place when the bound is over.
pub async fn put_back(
    node: &dyn Node,
    pod: &StaticPod,
    known: &[String],
    bounds: Bounds,
    progress: Progress<'_>,
) -> Result<Container, NodeError> {
    let act = pod.act("put back");
    check_aside(node, pod, &act)?;
    move_manifest(node, &pod.aside, &pod.manifest, &act).await?;
    let until = Instant::now() + bounds.back;
    let mut shown = None;
    loop {
        let running = node.containers(pod.query(false)).await?;
        let new = running.into_iter().rfind(|container| !known.contains(&container.id));
        let waiting = match new {
            None => Waiting::New,
            Some(new) => {
                let open = open_ports(node, &pod.ports).await?;
                let closed: Vec<u16> =
                    pod.ports.iter().copied().filter(|port| !open.contains(port)).collect();
                if closed.is_empty() {
                    return Ok(new);
                }
                Waiting::Open(closed)
            }
        };
        wait(node, &act, waiting, &mut shown, until, bounds.back, progress).await?;
    }
}

/// What else lies in the kubelet's directory that it takes for a manifest: a second
/// file of the same pod (a backup copy made there), a link, or what is none.
///
/// # Errors
/// The kubelet's configuration or the directory could not be read.
pub async fn strays(node: &dyn Node) -> Result<Vec<Stray>, NodeError> {
    let directory = Kubelet::manifests_of(node).await?;
    strays_in(node, &directory).await
}

/// The same in a directory that is known.
///
/// # Errors
/// The directory could not be read.
pub async fn strays_in(node: &dyn Node, directory: &Path) -> Result<Vec<Stray>, NodeError> {
    let mut found = Vec::new();
    let mut pods: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for entry in node.list(directory).await? {
        let name = entry.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // The kubelet passes over directories and names with a dot in front.
        if name.starts_with('.') || entry.kind == FileKind::Directory {
            continue;
        }
        let mut stray = |why: String| found.push(Stray { path: entry.path.clone(), why });
        match entry.kind {
            FileKind::File => {}
            FileKind::Symlink => {
                stray("a link, which the kubelet follows".to_owned());
                continue;
            }
            _ => {
                stray("no regular file".to_owned());
                continue;
            }
        }
        let read = match node.read(&entry.path, LIMIT).await {
            Ok(read) => read,
            // Moved away meanwhile.
            Err(error) if error.kind == NodeErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let text = String::from_utf8_lossy(&read.bytes).into_owned();
        match Manifest::parse(&name, &text) {
            Ok(manifest) => {
                let pod = manifest.pod().unwrap_or_default().to_owned();
                pods.entry(pod).or_default().push(entry.path.clone());
            }
            Err(error) => stray(format!("no manifest: {error}")),
        }
    }
    for (pod, mut files) in pods {
        // The one with the plainest name is the pod's own.
        files.sort_by_key(|path| (!is_own(path, &pod), path.as_os_str().len(), path.clone()));
        let mut files = files.into_iter();
        let Some(own) = files.next() else { continue };
        let own = own.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for path in files {
            let why = format!("a second manifest of the pod {pod}, beside {own}");
            found.push(Stray { path, why });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Whether this is the name that kubeadm gives the manifest of `pod`.
fn is_own(path: &Path, pod: &str) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    matches!(name.strip_prefix(pod), Some(".yaml" | ".yml" | ".json"))
}

/// Refuses a place where the kubelet would run the manifest that was taken out.
fn check_aside(node: &dyn Node, pod: &StaticPod, act: &str) -> Result<(), NodeError> {
    let hidden = |path: &Path| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
    };
    if pod.aside.parent() == pod.manifest.parent() && !hidden(&pod.aside) {
        let why = format!("{} would still be run by the kubelet", pod.aside.display());
        let error = NodeError::new(node.name(), NodeErrorKind::Unexpected, act, why);
        return Err(error.hint("choose another directory on the same file system"));
    }
    Ok(())
}

/// Renames the manifest unless that was done before.
async fn move_manifest(
    node: &dyn Node,
    from: &Path,
    to: &Path,
    act: &str,
) -> Result<(), NodeError> {
    let (there, done) = (node.stat(from).await?, node.stat(to).await?);
    match (there, done) {
        (Some(_), None) => node.rename(from, to).await,
        (None, Some(_)) => Ok(()),
        (Some(_), Some(_)) => {
            let why = format!("both {} and {} are there", from.display(), to.display());
            Err(NodeError::new(node.name(), NodeErrorKind::AlreadyExists, act, why))
        }
        (None, None) => {
            let why = format!("neither {} nor {} is there", from.display(), to.display());
            Err(NodeError::new(node.name(), NodeErrorKind::NotFound, act, why))
        }
    }
}

/// Which of `ports` somebody listens on, in ascending order.
async fn open_ports(node: &dyn Node, ports: &[u16]) -> Result<Vec<u16>, NodeError> {
    if ports.is_empty() {
        return Ok(Vec::new());
    }
    let listeners = node.listeners().await?;
    let mut open: Vec<u16> = listeners.iter().map(|listener| listener.address.port()).collect();
    open.retain(|port| ports.contains(port));
    open.sort_unstable();
    open.dedup();
    Ok(open)
}

/// Tells what is waited for when that changed, and sleeps, or gives up.
async fn wait(
    node: &dyn Node,
    act: &str,
    waiting: Waiting,
    shown: &mut Option<Waiting>,
    until: Instant,
    bound: Duration,
    progress: Progress<'_>,
) -> Result<(), NodeError> {
    if Instant::now() >= until {
        let why = format!("{waiting} after {} s", bound.as_secs());
        return Err(NodeError::new(node.name(), NodeErrorKind::Slow, act, why));
    }
    if shown.as_ref() != Some(&waiting) {
        progress(&waiting);
        *shown = Some(waiting);
    }
    tokio::time::sleep(PAUSE).await;
    Ok(())
}
