//! kube-apiserver's settings that concern etcd, from its command in a unit, a
//! pod or a running process. Its environment sets nothing; the variables of
//! `/etc/kubernetes/apiserver` come in through the unit's command.

use serde::{Deserialize, Serialize};

use super::invocation::{Flag, Invocation, Style};
use super::settings::Setting;
use super::urls::urls;

/// Flags that may stand without a value.
const SWITCHES: [&str; 12] = [
    "allow-privileged",
    "anonymous-auth",
    "enable-aggregator-routing",
    "enable-bootstrap-token-auth",
    "etcd-quorum-read",
    "help",
    "kubelet-https",
    "logtostderr",
    "alsologtostderr",
    "profiling",
    "version",
    "watch-cache",
];

/// kube-apiserver's settings that concern etcd.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiServerSettings {
    flags: Vec<Setting>,
}

/// An override of `--etcd-servers-overrides`: a resource that has its own
/// etcd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServersOverride {
    /// `group/resource`, as `/events` of the core group.
    pub resource: String,
    /// Its servers.
    pub servers: Vec<String>,
}

impl ApiServerSettings {
    /// Reads a command.
    pub fn of(invocation: &Invocation) -> Self {
        let (flags, _) = invocation.flags(Style::Posix, |name| SWITCHES.contains(&name));
        let setting =
            |flag: Flag| Setting { name: flag.name, value: flag.value, origin: flag.origin };
        Self { flags: flags.into_iter().map(setting).collect() }
    }

    /// Every flag in order, repeated ones too.
    pub fn iter(&self) -> impl Iterator<Item = &Setting> {
        self.flags.iter()
    }

    /// The flag that counts where one is taken: the last one.
    pub fn get(&self, name: &str) -> Option<&Setting> {
        self.flags.iter().rfind(|flag| flag.name == name)
    }

    /// The value that counts where one is taken.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(|flag| flag.value.as_str())
    }

    /// The servers; repeated flags add up.
    pub fn etcd_servers(&self) -> Vec<String> {
        self.list("etcd-servers").flat_map(urls).collect()
    }

    fn list<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s str> {
        self.flags.iter().filter(move |flag| flag.name == name).map(|flag| flag.value.as_str())
    }

    /// Resources with an etcd of their own.
    pub fn servers_overrides(&self) -> Vec<ServersOverride> {
        let entries = self.list("etcd-servers-overrides").flat_map(|value| value.split(','));
        let overrides = entries.filter_map(|entry| {
            let (resource, servers) = entry.split_once('#')?;
            Some(ServersOverride {
                resource: resource.trim().to_owned(),
                servers: servers.split(';').map(|url| url.trim().to_owned()).collect(),
            })
        });
        overrides.collect()
    }

    /// What stands in front of every key; `/registry` if nothing is set.
    pub fn etcd_prefix(&self) -> &str {
        self.value("etcd-prefix").unwrap_or("/registry")
    }

    /// The file of the authority that signed etcd's certificates.
    pub fn etcd_cafile(&self) -> Option<&str> {
        self.value("etcd-cafile")
    }

    /// The certificate that etcd is shown.
    pub fn etcd_certfile(&self) -> Option<&str> {
        self.value("etcd-certfile")
    }

    /// Its key.
    pub fn etcd_keyfile(&self) -> Option<&str> {
        self.value("etcd-keyfile")
    }

    /// `--storage-backend`; none means `etcd3` on every release since 1.6.
    pub fn storage_backend(&self) -> Option<&str> {
        self.value("storage-backend")
    }

    /// Whether objects are kept as v2 keys, which no snapshot holds.
    pub fn stores_v2_keys(&self) -> bool {
        self.storage_backend() == Some("etcd2")
    }

    /// `--apiserver-count`, which the endpoints of `kubernetes` follow where
    /// leases do not keep them.
    pub fn apiserver_count(&self) -> Option<u32> {
        self.value("apiserver-count").and_then(|value| value.parse().ok())
    }
}
