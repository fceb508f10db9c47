//! What `etcdvault.toml` says, typed. Reading is [`super::read`], writing [`super::write`].
//!
//! A value that is not there is `None` or empty: what holds then is decided where
//! settings are resolved, not here. There is no field for a secret, only for where it
//! comes from.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use vault::layout::ClusterName;

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// `[cluster.NAME]`, by the name that its backups have in the vault.
    pub clusters: BTreeMap<ClusterName, ClusterConfig>,
    /// `[node.NAME]`.
    pub nodes: BTreeMap<String, NodeConfig>,
    /// `[vault.NAME]`.
    pub vaults: BTreeMap<String, VaultConfig>,
}

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// `…-file`: a file that holds it.
    File(PathBuf),
    /// `…-env`: a variable of the environment.
    Env(String),
    /// `…-credential`: a systemd credential of the unit.
    Credential(String),
    /// `…-command`: what a command prints.
    Command(String),
}

/// `[cluster.NAME]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterConfig {
    /// `endpoints`: where the members serve clients, as written.
    pub endpoints: Vec<String>,
    /// `discovery-srv`, in place of `endpoints`.
    pub discovery_srv: Option<String>,
    /// `discovery-srv-name`.
    pub discovery_srv_name: Option<String>,
    /// `discovery-srv-nameserver`.
    pub discovery_srv_nameserver: Option<SocketAddr>,
    /// `cacert`.
    pub cacert: Option<PathBuf>,
    /// `cert`.
    pub cert: Option<PathBuf>,
    /// `key`: the file of the client certificate's key.
    pub key: Option<PathBuf>,
    /// `user`.
    pub user: Option<String>,
    /// `password-file` and its like.
    pub password: Option<SecretSource>,
    /// `dial-timeout`, as written.
    pub dial_timeout: Option<String>,
    /// `command-timeout`, as written.
    pub command_timeout: Option<String>,
    /// `kubeconfig` of the Kubernetes that stands on this cluster.
    pub kubeconfig: Option<PathBuf>,
    /// `vault`: the name of a `[vault.NAME]`.
    pub vault: Option<String>,
    /// `nodes`: names of `[node.NAME]`.
    pub nodes: Vec<String>,
    /// `state-paths`: what a state archive holds besides what is found; absolute, on the
    /// nodes.
    pub state_paths: Vec<PathBuf>,
    /// `allow-unencrypted-state`: state archives may go to a vault without encryption.
    pub allow_unencrypted_state: Option<bool>,
    /// `owner` of restored files, `user[:group]`.
    pub owner: Option<String>,
}

/// What runs on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A member of the cluster.
    Etcd,
    /// A kube-apiserver that uses the cluster.
    Apiserver,
    /// Another client of the cluster, flanneld for example.
    Client,
}

impl Role {
    /// Every role with its name in the file.
    pub const ALL: &[(&str, Self)] =
        &[("etcd", Self::Etcd), ("apiserver", Self::Apiserver), ("client", Self::Client)];

    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Apiserver => "apiserver",
            Self::Client => "client",
        }
    }
}

/// `[node.NAME]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeConfig {
    /// `address`: a host name or IP address; the node's name where it is not given.
    pub address: Option<String>,
    /// `ssh`: a destination as `ssh` takes it; the address where it is not given.
    pub ssh: Option<String>,
    /// `sudo`: whether the login needs `sudo -n`.
    pub sudo: Option<bool>,
    /// `agent`: an etcdvault that is installed on the node.
    pub agent: Option<PathBuf>,
    /// `roles`, where they cannot be discovered.
    pub roles: Vec<Role>,
}

/// `[vault.NAME]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VaultConfig {
    /// `location`: a directory or `s3://bucket/prefix`.
    pub location: String,
    /// `s3-…`: options of the store by the names in [`vault::store::s3::OPTIONS`].
    pub s3: BTreeMap<&'static str, String>,
    /// `recipients` that `init` encrypts to.
    pub recipients: Vec<String>,
    /// `identity-file` and its like.
    pub identity: Option<SecretSource>,
    /// `passphrase-file` and its like.
    pub passphrase: Option<SecretSource>,
    /// `compression-level`: 1 to 19.
    pub compression_level: Option<i32>,
    /// `workers`: threads that compress, 1 to 64.
    pub workers: Option<u16>,
    /// `spool-dir`.
    pub spool_dir: Option<PathBuf>,
    /// `spool-limit` in MiB.
    pub spool_limit: Option<u32>,
}

impl ClusterConfig {
    /// Whether connections without a scheme use TLS, as etcdctl decides it.
    pub(super) fn tls_default(&self) -> bool {
        self.cacert.is_some() || self.cert.is_some() || self.key.is_some()
    }
}

impl VaultConfig {
    /// Whether it is a directory, not a bucket.
    pub(super) fn is_directory(&self) -> bool {
        !self.location.contains("://")
    }
}

impl Config {
    /// The same with paths of this machine made absolute: they are relative to `base`,
    /// the directory that the file lies in.
    pub fn rebased(mut self, base: &Path) -> Self {
        let path = |path: &mut Option<PathBuf>| {
            if let Some(path) = path {
                *path = base.join(&*path);
            }
        };
        let secret = |source: &mut Option<SecretSource>| {
            if let Some(SecretSource::File(path)) = source {
                *path = base.join(&*path);
            }
        };
        for cluster in self.clusters.values_mut() {
            path(&mut cluster.cacert);
            path(&mut cluster.cert);
            path(&mut cluster.key);
            path(&mut cluster.kubeconfig);
            secret(&mut cluster.password);
        }
        for vault in self.vaults.values_mut() {
            if vault.is_directory() {
                vault.location = base.join(&vault.location).display().to_string();
            }
            if let Some(ca_file) = vault.s3.get_mut("ca-file") {
                *ca_file = base.join(&*ca_file).display().to_string();
            }
            path(&mut vault.spool_dir);
            secret(&mut vault.identity);
            secret(&mut vault.passphrase);
        }
        self
    }
}
