//! A simulated kubelet that watches its directory of manifests.
//!
//! A manifest that appears becomes a container after a while; one that is gone
//! takes its container with it, and the ports are closed a little later. A changed
//! one is another pod. Every name that does not begin with a dot counts, a stray
//! backup copy too.

use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::super::Container;
use super::program::Running;

/// Where manifests are.
pub(super) const MANIFESTS: &str = "/etc/kubernetes/manifests";

/// From a manifest to its container.
pub(super) const START: Duration = Duration::from_secs(2);
/// From the manifest's end to the container's.
pub(super) const STOP: Duration = Duration::from_secs(1);
/// From the container's end until its ports are closed.
pub(super) const CLOSE: Duration = Duration::from_millis(300);
/// From a crash to the next attempt.
pub(super) const BACK_OFF: Duration = Duration::from_secs(10);

/// A manifest, so far as the simulation reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) pod: String,
    pub(super) namespace: String,
    pub(super) container: String,
    pub(super) image: String,
    pub(super) command: Vec<String>,
    pub(super) uid: String,
}

/// What a pod does at which moment, in nanoseconds of the node's uptime.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// Its container starts then.
    Starts(u64),
    /// It runs.
    Runs(Running),
    /// Its container ends then; the ports are closed a little later.
    Stops(u64, Running),
    /// The container is gone, its ports are closed then.
    Closes(u64, Running),
}

/// A pod and its containers.
#[derive(Debug, Clone)]
pub(super) struct Pod {
    pub(super) path: PathBuf,
    pub(super) manifest: Manifest,
    pub(super) phase: Phase,
    /// The manifest is gone.
    pub(super) unwanted: bool,
    pub(super) attempt: u32,
    pub(super) containers: Vec<Container>,
}

/// Reads a manifest; `None` when it is no pod.
pub(super) fn manifest(path: &std::path::Path, text: &str) -> Option<Manifest> {
    let is_pod = text.lines().any(|line| line.trim_end() == "kind: Pod");
    if !is_pod {
        return None;
    }
    let (mut pod, mut container, mut namespace, mut image) = (None, None, None, None);
    let (mut command, mut in_command, mut in_metadata, mut in_containers) =
        (Vec::new(), false, false, false);
    for line in text.lines() {
        let trimmed = line.trim();
        if !line.starts_with([' ', '-', '#']) && !trimmed.is_empty() {
            in_metadata = trimmed == "metadata:";
            in_containers = false;
        }
        if trimmed == "containers:" {
            in_containers = true;
        }
        if in_command {
            if let Some(word) = trimmed.strip_prefix("- ") {
                command.push(word.trim_matches(['"', '\'']).to_owned());
                continue;
            }
            in_command = false;
        }
        let item = trimmed.strip_prefix("- ").unwrap_or(trimmed);
        let Some((key, value)) = item.split_once(':') else { continue };
        let value = value.trim().trim_matches(['"', '\'']).to_owned();
        match key {
            "name" if in_metadata && pod.is_none() => pod = Some(value),
            "namespace" if in_metadata => namespace = Some(value),
            // Volumes, which have names too, follow the command.
            "name" if in_containers && container.is_none() => container = Some(value),
            "image" if image.is_none() => image = Some(value),
            "command" if command.is_empty() => in_command = true,
            _ => {}
        }
    }
    let mut sha = Sha256::new();
    sha.update(path.as_os_str().as_encoded_bytes());
    sha.update(text);
    let uid = sha.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let pod = pod?;
    Some(Manifest {
        container: container.unwrap_or_else(|| pod.clone()),
        pod,
        namespace: namespace.unwrap_or("default".into()),
        image: image.unwrap_or_default(),
        command,
        uid,
    })
}
