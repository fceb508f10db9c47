//! What a node's kubelet was told: where static pods' manifests lie and which
//! socket its container runtime answers at.
//!
//! The running kubelet's own arguments count; where it does not run, kubeadm's
//! files do. A flag counts more than the configuration file.

use std::path::{Path, PathBuf};

use super::{FileKind, Node, NodeError, NodeErrorKind, ProcessQuery};
use crate::dialect::{Invocation, KubeletSettings, kubelet_config_of};

/// Where kubeadm puts them.
const CONFIG: &str = "/var/lib/kubelet/config.yaml";
const FLAGS: &str = "/var/lib/kubelet/kubeadm-flags.env";

/// The sockets of container runtimes in use, when nothing was configured.
const SOCKETS: [&str; 3] =
    ["/run/containerd/containerd.sock", "/run/crio/crio.sock", "/run/cri-dockerd.sock"];

/// A configuration file is never larger.
const LIMIT: u64 = 4 << 20;

/// What the kubelet was told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kubelet {
    /// Its configuration file, where there is one.
    pub config: Option<PathBuf>,
    /// The directory of the static pods' manifests.
    pub manifests: Option<PathBuf>,
    /// The container runtime's socket, without `unix://`.
    pub runtime: Option<PathBuf>,
}

impl Kubelet {
    /// Reads what the kubelet of `node` was told; `None` where there is no kubelet.
    ///
    /// # Errors
    /// The node could not be asked, a file is no YAML, or the endpoint is no
    /// socket of this machine.
    pub async fn of(node: &dyn Node) -> Result<Option<Self>, NodeError> {
        let act = "read the kubelet's configuration";
        let fail = |why: String| NodeError::new(node.name(), NodeErrorKind::Unexpected, act, why);
        let running = node.processes(ProcessQuery::Program("kubelet".to_owned())).await?;
        let running = running.into_iter().find(|process| process.root.is_none());
        let (flags, named, dir) = match &running {
            Some(process) => {
                let invocation = Invocation::running::<_, &str>(&process.arguments, &[]);
                let named = kubelet_config_of(&invocation);
                (KubeletSettings::of(&invocation), named, process.cwd.clone())
            }
            None => {
                let text = text(node, Path::new(FLAGS)).await?.unwrap_or_default();
                let flags = KubeletSettings::of_flags_file(&text);
                let flags = flags.map_err(|error| fail(format!("{FLAGS}: {error}")))?;
                (flags, Some(CONFIG.to_owned()), PathBuf::from("/"))
            }
        };
        let config = named.map(|named| dir.join(named));
        let content = match &config {
            Some(config) => text(node, config).await?,
            None => None,
        };
        if running.is_none() && content.is_none() && flags == KubeletSettings::default() {
            return Ok(None);
        }
        let file = match (&content, &config) {
            (Some(content), Some(config)) => KubeletSettings::of_file(content)
                .map_err(|error| fail(format!("{}: {error}", config.display())))?,
            _ => KubeletSettings::default(),
        };
        let settings = KubeletSettings::flags_over_file(flags, file);
        let runtime = settings.container_runtime_endpoint.as_deref().map(socket).transpose();
        Ok(Some(Self {
            config: config.filter(|_| content.is_some()),
            manifests: settings.static_pod_path.map(|path| dir.join(path)),
            runtime: runtime.map_err(fail)?,
        }))
    }

    /// The socket of the container runtime on `node`: the kubelet's, or else the
    /// only usual one that exists.
    ///
    /// # Errors
    /// [`NodeErrorKind::Unsupported`] where there is none, or more than one.
    pub async fn runtime_of(node: &dyn Node) -> Result<PathBuf, NodeError> {
        if let Some(runtime) = Self::of(node).await?.and_then(|kubelet| kubelet.runtime) {
            return Ok(runtime);
        }
        let mut found = Vec::new();
        for socket in SOCKETS.map(Path::new) {
            if node.stat(socket).await?.is_some_and(|entry| entry.kind == FileKind::Other) {
                found.push(socket.to_owned());
            }
        }
        let act = "find the container runtime";
        let fail = |why: String| NodeError::new(node.name(), NodeErrorKind::Unsupported, act, why);
        match found.as_slice() {
            [only] => Ok(only.clone()),
            [] => Err(fail("no kubelet is configured, and no usual socket is there".to_owned())),
            several => {
                let shown: Vec<_> = several.iter().map(|path| path.display().to_string()).collect();
                let why = format!("the kubelet names none, and there are {}", shown.join(", "));
                let hint = "set containerRuntimeEndpoint in the kubelet's configuration";
                Err(fail(why).hint(hint))
            }
        }
    }

    /// The directory of the static pods' manifests of `node`.
    ///
    /// # Errors
    /// [`NodeErrorKind::Unsupported`] where the kubelet runs none.
    pub async fn manifests_of(node: &dyn Node) -> Result<PathBuf, NodeError> {
        let kubelet = Self::of(node).await?;
        kubelet.and_then(|kubelet| kubelet.manifests).ok_or_else(|| {
            let why = "no kubelet here reads manifests from a directory";
            let act = "find the static pods";
            NodeError::new(node.name(), NodeErrorKind::Unsupported, act, why)
        })
    }
}

async fn text(node: &dyn Node, path: &Path) -> Result<Option<String>, NodeError> {
    match node.read(path, LIMIT).await {
        Ok(read) => Ok(Some(String::from_utf8_lossy(&read.bytes).into_owned())),
        Err(error) if error.kind == NodeErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The path of an endpoint: `unix:///run/x.sock`, or, as older kubelets took it, a
/// plain path.
fn socket(endpoint: &str) -> Result<PathBuf, String> {
    let path = endpoint.strip_prefix("unix://").or_else(|| endpoint.strip_prefix("unix:"));
    let path = path.unwrap_or(endpoint);
    if path.starts_with('/') && !path.contains('\0') {
        return Ok(PathBuf::from(path));
    }
    Err(format!("its container runtime {endpoint:?} is no socket of this machine"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_socket_here() {
        let path = Path::new("/run/containerd/containerd.sock");
        for text in [
            "unix:///run/containerd/containerd.sock",
            "unix:/run/containerd/containerd.sock",
            "/run/containerd/containerd.sock",
        ] {
            assert_eq!(socket(text).unwrap(), path, "{text}");
        }
        for text in ["tcp://10.0.0.1:3735", "npipe:////./pipe/x", "", "unix://relative"] {
            assert!(socket(text).is_err(), "{text}");
        }
    }
}
