//! What kubeadm leaves behind: the `kubeadm-config` ConfigMap with its
//! ClusterConfiguration, the kubelet's configuration, `kubeadm-flags.env`.

use serde::{Deserialize, Serialize};

use super::env_file::EnvFile;
use super::invocation::{Invocation, Style};
use super::text::{EditError, ParseError, Traced};
use super::words::{Escapes, split};
use super::yaml::{Node, Step, Yaml};

/// The annotation with the URLs at which a kubeadm member's clients find it.
pub const ADVERTISE_CLIENT_URLS: &str = "kubeadm.kubernetes.io/etcd.advertise-client-urls";

/// Where kubeadm's cluster has its etcd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EtcdPlace {
    /// In static pods on the control-plane nodes.
    Local {
        /// The data directory on the node.
        data_dir: String,
    },
    /// On machines of its own.
    External {
        /// Its endpoints.
        endpoints: Vec<String>,
        /// The file of the authority.
        ca_file: Option<String>,
        /// The certificate that etcd is shown.
        cert_file: Option<String>,
        /// Its key.
        key_file: Option<String>,
    },
}

/// kubeadm's ClusterConfiguration.
#[derive(Debug, Clone)]
pub struct ClusterConfiguration {
    yaml: Yaml,
    document: usize,
}

impl ClusterConfiguration {
    /// Reads the text that the ConfigMap has under `ClusterConfiguration`.
    ///
    /// # Errors
    /// It is no YAML, or holds no ClusterConfiguration.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let yaml = Yaml::parse(text)?;
        let document = yaml
            .documents()
            .iter()
            .position(|node| node.get("kind").and_then(Node::text) == Some("ClusterConfiguration"))
            .ok_or_else(|| ParseError::at(text, 0, "no ClusterConfiguration"))?;
        Ok(Self { yaml, document })
    }

    /// The text, byte for byte.
    pub fn text(&self) -> &str {
        self.yaml.text()
    }

    fn root(&self) -> &Node {
        &self.yaml.documents()[self.document]
    }

    fn value(&self, keys: &[&str]) -> Option<String> {
        self.root()
            .at(keys)
            .and_then(Node::value)
            .filter(|value| !value.is_empty())
            .map(str::to_owned)
    }

    /// `certificatesDir`; `/etc/kubernetes/pki` if none is set.
    pub fn certificates_dir(&self) -> String {
        self.value(&["certificatesDir"]).unwrap_or_else(|| "/etc/kubernetes/pki".to_owned())
    }

    /// `controlPlaneEndpoint`: the address in front of all API servers.
    pub fn control_plane_endpoint(&self) -> Option<String> {
        self.value(&["controlPlaneEndpoint"])
    }

    /// `kubernetesVersion`.
    pub fn kubernetes_version(&self) -> Option<String> {
        self.value(&["kubernetesVersion"])
    }

    /// `clusterName`.
    pub fn cluster_name(&self) -> Option<String> {
        self.value(&["clusterName"])
    }

    /// Where etcd is; without an entry kubeadm puts it into static pods.
    pub fn etcd(&self) -> EtcdPlace {
        match self.root().at(&["etcd", "external"]) {
            Some(external) if !external.entries().is_empty() => {
                let endpoints = external.get("endpoints").map(Node::items).unwrap_or_default();
                EtcdPlace::External {
                    endpoints: endpoints.iter().filter_map(Node::text).map(str::to_owned).collect(),
                    ca_file: self.value(&["etcd", "external", "caFile"]),
                    cert_file: self.value(&["etcd", "external", "certFile"]),
                    key_file: self.value(&["etcd", "external", "keyFile"]),
                }
            }
            _ => EtcdPlace::Local {
                data_dir: self
                    .value(&["etcd", "local", "dataDir"])
                    .unwrap_or_else(|| "/var/lib/etcd".to_owned()),
            },
        }
    }

    /// The text with another place of etcd; the lines of `etcd:` are replaced,
    /// all others stay.
    ///
    /// # Errors
    /// There is no `etcd:`, or it is behind an anchor.
    pub fn set_etcd(&self, place: &EtcdPlace) -> Result<String, EditError> {
        let quoted = |text: &str| {
            let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "_-./:".contains(c));
            match plain && text.starts_with(|c: char| c == '/' || c.is_ascii_alphabetic()) {
                true => text.to_owned(),
                false => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
            }
        };
        let mut lines = Vec::new();
        match place {
            EtcdPlace::Local { data_dir } => {
                lines.push("local:".to_owned());
                lines.push(format!("  dataDir: {}", quoted(data_dir)));
            }
            EtcdPlace::External { endpoints, ca_file, cert_file, key_file } => {
                lines.push("external:".to_owned());
                let files = [("caFile", ca_file), ("certFile", cert_file)];
                for (key, file) in files {
                    lines.extend(file.as_ref().map(|file| format!("  {key}: {}", quoted(file))));
                }
                lines.push("  endpoints:".to_owned());
                lines.extend(endpoints.iter().map(|url| format!("  - {}", quoted(url))));
                lines.extend(key_file.as_ref().map(|file| format!("  keyFile: {}", quoted(file))));
            }
        }
        self.yaml.replace_entry(self.document, &["etcd".into()], &(lines.join("\n") + "\n"))
    }
}

/// A ConfigMap as YAML, as `kubectl get -o yaml` writes it.
#[derive(Debug, Clone)]
pub struct ConfigMap {
    yaml: Yaml,
}

impl ConfigMap {
    /// Reads a ConfigMap.
    ///
    /// # Errors
    /// It is no YAML or no ConfigMap.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let yaml = Yaml::parse(text)?;
        let kind = yaml.documents().first().and_then(|node| node.get("kind")).and_then(Node::text);
        match kind {
            Some("ConfigMap") => Ok(Self { yaml }),
            _ => Err(ParseError::at(text, 0, "no ConfigMap")),
        }
    }

    /// The text under a key of `data`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.yaml.documents().first()?.at(&["data", key]).and_then(Node::text)
    }

    /// The ConfigMap's text with another text under a key.
    ///
    /// # Errors
    /// It is not there, or not written as a literal block (`|`).
    pub fn set(&self, key: &str, text: &str) -> Result<String, EditError> {
        let path: [Step; 2] = ["data".into(), key.into()];
        self.yaml.set_block(0, &path, text)
    }
}

/// The kubelet's settings that matter for static pods.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubeletSettings {
    /// The folder of the static pods' manifests.
    pub static_pod_path: Option<String>,
    /// The container runtime's socket.
    pub container_runtime_endpoint: Option<String>,
}

impl KubeletSettings {
    /// From the kubelet's configuration file (`/var/lib/kubelet/config.yaml`).
    ///
    /// # Errors
    /// It is no YAML.
    pub fn of_file(text: &str) -> Result<Self, ParseError> {
        let yaml = Yaml::parse(text)?;
        let value = |key: &str| {
            let node = yaml.documents().first()?.get(key)?;
            node.value().filter(|value| !value.is_empty()).map(str::to_owned)
        };
        Ok(Self {
            static_pod_path: value("staticPodPath"),
            container_runtime_endpoint: value("containerRuntimeEndpoint"),
        })
    }

    /// From the kubelet's command, of its unit or of the running process. The
    /// path of its configuration file is `--config`.
    pub fn of(invocation: &Invocation) -> Self {
        let (flags, _) = invocation.flags(Style::Posix, |_| false);
        let value = |name: &str| {
            let found = flags.iter().rfind(|flag| flag.name == name);
            found.map(|flag| flag.value.clone()).filter(|value| !value.is_empty())
        };
        Self {
            static_pod_path: value("pod-manifest-path"),
            container_runtime_endpoint: value("container-runtime-endpoint"),
        }
    }

    /// From `kubeadm-flags.env`, whose `KUBELET_KUBEADM_ARGS` kubeadm's unit
    /// puts on the kubelet's command line.
    ///
    /// # Errors
    /// It is no environment file.
    pub fn of_flags_file(text: &str) -> Result<Self, ParseError> {
        let file = EnvFile::parse(text)?;
        let value = file.value("KUBELET_KUBEADM_ARGS").unwrap_or("");
        let words = split(&Traced::nowhere(value), Escapes::Relaxed).unwrap_or_default();
        let mut argv = vec!["kubelet".to_owned()];
        argv.extend(words.into_iter().map(|word| word.text));
        Ok(Self::of(&Invocation::running::<_, &str>(&argv, &[])))
    }

    /// Where both say something the flag counts.
    pub fn flags_over_file(flags: Self, file: Self) -> Self {
        Self {
            static_pod_path: flags.static_pod_path.or(file.static_pod_path),
            container_runtime_endpoint: flags
                .container_runtime_endpoint
                .or(file.container_runtime_endpoint),
        }
    }
}

/// The path of the kubelet's configuration file, from its command.
pub fn kubelet_config_of(invocation: &Invocation) -> Option<String> {
    let (flags, _) = invocation.flags(Style::Posix, |_| false);
    flags.into_iter().rfind(|flag| flag.name == "config").map(|flag| flag.value)
}
