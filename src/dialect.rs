//! How etcd and its clients are configured, in every form found in the field:
//! text → typed → edited by byte span → the same text elsewhere.
//!
//! Everything here is a pure function over text. What it guarantees:
//!
//! - Reading never panics, and follows the program that reads the file for
//!   real (systemd, etcd, the kubelet), not the look of the file.
//! - An edit changes the lines it is about and no other byte. The new text is
//!   read again before it is handed out; where it does not say exactly what
//!   was demanded, the edit is refused and says why.
//! - Every value knows its file, its bytes, its line and its form.
//!
//! | file | reader | edits |
//! |---|---|---|
//! | `/etc/default/etcd`, `/etc/etcd/etcd.conf`, `/etc/kubernetes/apiserver`, `/etc/sysconfig/flanneld`, `kubeadm-flags.env` | [`EnvFile`] | variables, flags inside a variable |
//! | units and drop-ins | [`UnitFile`], merged to a [`Unit`] | flags of `ExecStart=`, `Environment=` |
//! | etcd's `--config-file` | [`ConfigFile`] | settings |
//! | static pods of etcd and kube-apiserver | [`Manifest`] | flags, annotations, image |
//! | `kubeadm-config` | [`ConfigMap`], [`ClusterConfiguration`] | where etcd is |
//! | the kubelet's `config.yaml` and command | [`KubeletSettings`] | |
//!
//! Units, pods and running processes become an [`Invocation`]: a command with
//! its environment. From it come [`EtcdSettings`], [`ApiServerSettings`] and
//! [`FlanneldSettings`]. [`drift`] compares files with a running member,
//! [`misfits`] settings with a version of etcd.

mod apiserver;
mod clients;
mod config_file;
mod drift;
mod env_file;
mod invocation;
mod kubeadm;
mod pod;
mod settings;
mod text;
mod unit;
mod urls;
mod versions;
mod words;
pub mod yaml;

#[cfg(test)]
mod tests;

pub use apiserver::{ApiServerSettings, ServersOverride};
pub use clients::FlanneldSettings;
pub use config_file::ConfigFile;
pub use drift::{Difference, drift};
pub use env_file::{Assignment, EnvFile};
pub use invocation::{Argument, Invocation, Variable};
pub use kubeadm::{
    ADVERTISE_CLIENT_URLS, ClusterConfiguration, ConfigMap, EtcdPlace, KubeletSettings,
    kubelet_config_of,
};
pub use pod::{Container, Manifest, Mount};
pub use settings::{EtcdSettings, Finding, Setting, Tls};
pub use text::{EditError, Form, Origin, ParseError};
pub use unit::{Directive, EnvironmentFile, Specifiers, Unit, UnitFile, order_drop_ins};
pub use urls::{InitialCluster, host, port, replace_host, urls};
pub use versions::{
    Gone, KNOWN, Kind, Known, Misfit, Series, known, misfits, settings_deprecated_in,
    settings_gone_in,
};

/// The variable that sets a flag of etcd: `initial-cluster` is
/// `ETCD_INITIAL_CLUSTER`.
pub fn variable_of(flag: &str) -> String {
    format!("ETCD_{}", flag.to_ascii_uppercase().replace('-', "_"))
}

/// Whether systemd and shells take a text as the name of a variable.
pub(crate) fn is_variable_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
