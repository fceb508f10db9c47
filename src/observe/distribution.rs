//! Whose Kubernetes a node runs: some keep etcd in a way of their own.

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use super::Places;
use crate::node::{Node, NodeError, NodeErrorKind};

/// Whose Kubernetes it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// None was seen.
    None,
    /// kubeadm's.
    Kubeadm,
    /// k3s: etcd runs inside the server's process.
    K3s,
    /// RKE2: etcd in a static pod that rke2-server writes anew at each start.
    Rke2,
    /// OpenShift: etcd under an operator of its own.
    Openshift,
    /// Talos: no shell, etcd under machined.
    Talos,
}

/// Files that only one of them has; the first that is there decides.
const MARKS: [(&str, Distribution); 8] = [
    ("/var/lib/rancher/rke2/server", Distribution::Rke2),
    ("/etc/rancher/rke2", Distribution::Rke2),
    ("/var/lib/rancher/k3s/server", Distribution::K3s),
    ("/etc/rancher/k3s", Distribution::K3s),
    ("/etc/kubernetes/static-pod-resources", Distribution::Openshift),
    ("/system/etc/machined", Distribution::Talos),
    ("/var/lib/kubelet/kubeadm-flags.env", Distribution::Kubeadm),
    ("/etc/kubernetes/admin.conf", Distribution::Kubeadm),
];

impl Distribution {
    /// Looks for the marks, for all at once.
    ///
    /// # Errors
    /// The node is lost.
    pub async fn detect(node: &dyn Node, places: &Places) -> Result<Self, NodeError> {
        let paths = MARKS.map(|(path, _)| places.at(path));
        let found = join_all(paths.iter().map(|path| node.stat(path))).await;
        for (found, (_, distribution)) in found.into_iter().zip(MARKS) {
            match found {
                Ok(Some(_)) => return Ok(distribution),
                Err(error) if error.kind == NodeErrorKind::Lost => return Err(error),
                // What cannot be told of one mark another may tell.
                Ok(None) | Err(_) => {}
            }
        }
        Ok(Self::None)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Kubeadm => "kubeadm",
            Self::K3s => "k3s",
            Self::Rke2 => "RKE2",
            Self::Openshift => "OpenShift",
            Self::Talos => "Talos",
        }
    }

    /// Where it has a way of its own to restore etcd: that way's command. Its
    /// files must not be changed behind its back.
    pub fn own_restore(self) -> Option<&'static str> {
        match self {
            Self::None | Self::Kubeadm => None,
            Self::K3s => Some(
                "systemctl stop k3s && k3s server --cluster-reset \
                 --cluster-reset-restore-path=SNAPSHOT.db",
            ),
            Self::Rke2 => Some(
                "systemctl stop rke2-server && rke2 server --cluster-reset \
                 --cluster-reset-restore-path=SNAPSHOT.db",
            ),
            Self::Openshift => Some(
                "/usr/local/bin/cluster-restore.sh DIRECTORY on the recovery control-plane host, \
                 with SNAPSHOT.db as DIRECTORY/snapshot_TIME.db beside static_kuberesources_TIME.tar.gz",
            ),
            Self::Talos => Some("talosctl bootstrap --recover-from=SNAPSHOT.db"),
        }
    }
}
