//! The settings of an etcd member, by the names of its flags, whatever form
//! they were found in.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::config_file::ConfigFile;
use super::invocation::{Invocation, Style};
use super::text::{Form, Origin};
use super::urls::{InitialCluster, urls};
use super::versions::{Kind, known};

/// A setting and where it comes from. Shown or serialised, a secret is masked.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Shown")]
pub struct Setting {
    /// The flag's name, without dashes.
    pub name: String,
    /// The value as text; a secret one too.
    pub value: String,
    /// Where it stands.
    pub origin: Origin,
}

/// A setting as it leaves the program.
#[derive(Serialize)]
struct Shown {
    name: String,
    value: String,
    origin: Origin,
}

impl From<Setting> for Shown {
    fn from(setting: Setting) -> Self {
        let value = setting.shown().to_owned();
        Self { name: setting.name, value, origin: setting.origin }
    }
}

impl Setting {
    /// The value for people: a secret is masked.
    pub fn shown(&self) -> &str {
        if is_secret(&self.name) { "(secret)" } else { &self.value }
    }
}

impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={:?} ({}, {})", self.name, self.shown(), self.origin, self.origin.form)
    }
}

/// Something about a set of settings that a person should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Finding {
    /// A flag and its variable are both set: etcd 3.4 and newer do not start,
    /// older ones take the flag.
    Conflict {
        /// The flag, which is listed as in force.
        flag: Setting,
        /// The variable.
        variable: Setting,
    },
    /// Set beside a configuration file, and without effect.
    Ignored {
        /// What has no effect.
        setting: Setting,
        /// The configuration file that etcd takes alone.
        config_file: String,
    },
    /// No release of the table knows it.
    Unknown {
        /// What is not known.
        setting: Setting,
    },
    /// Set twice in one place; the last one counts.
    Repeated {
        /// The one without effect.
        setting: Setting,
    },
    /// A word on the command line where etcd takes flags only.
    Word {
        /// The word.
        word: String,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict { flag, variable } => write!(
                f,
                "{} is set by a flag ({}) and by a variable ({}): etcd 3.4 and newer do not start so",
                flag.name, flag.origin, variable.origin
            ),
            Self::Ignored { setting, config_file } => write!(
                f,
                "{} ({}) has no effect: etcd takes {config_file} alone",
                setting.name, setting.origin
            ),
            Self::Unknown { setting } => {
                write!(f, "{} ({}) is no setting of etcd", setting.name, setting.origin)
            }
            Self::Repeated { setting } => write!(
                f,
                "{} ({}) has no effect: it is set again behind",
                setting.name, setting.origin
            ),
            Self::Word { word } => write!(f, "{word:?} stands where etcd takes flags only"),
        }
    }
}

/// What a member is configured with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdSettings {
    settings: BTreeMap<String, Setting>,
    findings: Vec<Finding>,
    config_file: Option<String>,
}

/// The settings that etcd reads from the command line although it was given a
/// configuration file.
const BESIDE_A_CONFIG_FILE: [&str; 2] = ["raft-read-timeout", "raft-write-timeout"];

impl EtcdSettings {
    /// What etcd takes from a command and its environment: a flag, then a
    /// variable; with a configuration file (`--config-file`, or
    /// `ETCD_CONFIG_FILE`) that file alone, and two flags about timeouts.
    ///
    /// `config` is the file that [`config_file_of`](Self::config_file_of)
    /// names, if it could be read.
    pub fn of(invocation: &Invocation, config: Option<&ConfigFile>) -> Self {
        let mut new = Self::default();
        let (flags, words) = invocation.flags(Style::Go, is_switch);
        new.findings.extend(words.iter().map(|word| Finding::Word { word: word.value.clone() }));
        let mut of_flags = BTreeMap::new();
        for flag in flags {
            let setting = Setting { name: flag.name, value: flag.value, origin: flag.origin };
            if known(&setting.name).is_none() {
                new.findings.push(Finding::Unknown { setting: setting.clone() });
            }
            if let Some(setting) = of_flags.insert(setting.name.clone(), setting) {
                new.findings.push(Finding::Repeated { setting });
            }
        }
        let mut of_variables = BTreeMap::new();
        for variable in invocation.variables() {
            let Some(name) = variable.name.strip_prefix("ETCD_") else { continue };
            // Not etcd's own: etcdctl's come by another prefix.
            let name = name.to_ascii_lowercase().replace('_', "-");
            let setting = Setting {
                name: name.clone(),
                value: variable.value.clone(),
                origin: variable.origin.clone(),
            };
            if known(&name).is_none() {
                // etcd reads this one itself, it is no flag.
                if name != "unsupported-arch" {
                    new.findings.push(Finding::Unknown { setting });
                }
                continue;
            }
            of_variables.insert(name, setting);
        }
        let path = |settings: &BTreeMap<String, Setting>| {
            settings
                .get("config-file")
                .map(|found| found.value.clone())
                .filter(|path| !path.is_empty())
        };
        new.config_file = path(&of_flags).or_else(|| path(&of_variables));
        if let Some(path) = new.config_file.clone() {
            let beside = of_flags.into_values().chain(of_variables.into_values());
            for setting in beside.filter(|setting| setting.name != "config-file") {
                let counts = BESIDE_A_CONFIG_FILE.contains(&setting.name.as_str());
                if counts && setting.origin.form == Form::Flag {
                    new.settings.insert(setting.name.clone(), setting);
                } else {
                    new.findings.push(Finding::Ignored { setting, config_file: path.clone() });
                }
            }
            if let Some(config) = config {
                new.add_file(config);
            }
            return new;
        }
        for (name, variable) in of_variables {
            match of_flags.get(&name) {
                // Even an empty variable stops etcd beside its flag.
                Some(flag) => {
                    new.findings.push(Finding::Conflict { flag: flag.clone(), variable });
                }
                // An empty variable alone is none.
                None if variable.value.is_empty() => {}
                None => {
                    new.settings.insert(name, variable);
                }
            }
        }
        new.settings.extend(of_flags);
        new
    }

    /// What a configuration file alone says.
    pub fn of_file(config: &ConfigFile) -> Self {
        let mut new = Self { config_file: Some(config.name().to_owned()), ..Self::default() };
        new.add_file(config);
        new
    }

    fn add_file(&mut self, config: &ConfigFile) {
        for setting in config.settings() {
            if known(&setting.name).is_none() && !ConfigFile::has_key(&setting.name) {
                self.findings.push(Finding::Unknown { setting: setting.clone() });
            }
            if let Some(setting) = self.settings.insert(setting.name.clone(), setting) {
                self.findings.push(Finding::Repeated { setting });
            }
        }
    }

    /// The configuration file that a command names, to be read for
    /// [`of`](Self::of).
    pub fn config_file_of(invocation: &Invocation) -> Option<String> {
        Self::of(invocation, None).config_file
    }

    /// The configuration file in force, if there is one.
    pub fn config_file(&self) -> Option<&str> {
        self.config_file.as_deref()
    }

    /// The settings in force, by name. What is not set is not listed.
    pub fn iter(&self) -> impl Iterator<Item = &Setting> {
        self.settings.values()
    }

    /// What should be known about them.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// A setting in force.
    pub fn get(&self, name: &str) -> Option<&Setting> {
        self.settings.get(name)
    }

    /// The value of a setting in force.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(|setting| setting.value.as_str())
    }

    /// A switch in force; what Go takes for true.
    pub fn is_on(&self, name: &str) -> bool {
        self.value(name).is_some_and(is_true)
    }

    /// The member's name; `default` if none is set.
    pub fn name(&self) -> &str {
        self.value("name").unwrap_or("default")
    }

    /// The data directory as set, or `NAME.etcd` in the working directory.
    pub fn data_dir(&self) -> String {
        self.value("data-dir").map_or_else(|| format!("{}.etcd", self.name()), str::to_owned)
    }

    /// The directory of the log, if it is not in the data directory.
    pub fn wal_dir(&self) -> Option<&str> {
        self.value("wal-dir").filter(|path| !path.is_empty())
    }

    /// The URLs of a setting that is a list of them, or etcd's default.
    fn url_list(&self, name: &str, default: &str) -> Vec<String> {
        urls(self.value(name).unwrap_or(default))
    }

    /// Where clients are listened for.
    pub fn listen_client_urls(&self) -> Vec<String> {
        self.url_list("listen-client-urls", "http://localhost:2379")
    }

    /// Where peers are listened for.
    pub fn listen_peer_urls(&self) -> Vec<String> {
        self.url_list("listen-peer-urls", "http://localhost:2380")
    }

    /// What clients are told; etcd refuses to start when only the listening
    /// side is set, so there is no default then.
    pub fn advertise_client_urls(&self) -> Vec<String> {
        let default = match self.value("listen-client-urls") {
            Some(_) => "",
            None => "http://localhost:2379",
        };
        self.url_list("advertise-client-urls", default)
    }

    /// What peers are told when the cluster is made.
    pub fn initial_advertise_peer_urls(&self) -> Vec<String> {
        self.url_list("initial-advertise-peer-urls", "http://localhost:2380")
    }

    /// The members when the cluster is made. Without the setting it is this
    /// member alone, and none under discovery.
    pub fn initial_cluster(&self) -> InitialCluster {
        match self.value("initial-cluster") {
            Some(value) => InitialCluster::parse(value),
            None if self.is_discovered() => InitialCluster::default(),
            None => {
                let urls = self.initial_advertise_peer_urls();
                InitialCluster::of(urls.into_iter().map(|url| (self.name().to_owned(), url)))
            }
        }
    }

    /// `new` or `existing`.
    pub fn initial_cluster_state(&self) -> &str {
        self.value("initial-cluster-state").unwrap_or("new")
    }

    /// The token; `etcd-cluster` if none is set.
    pub fn initial_cluster_token(&self) -> &str {
        self.value("initial-cluster-token").unwrap_or("etcd-cluster")
    }

    /// Whether members find each other by SRV records or a discovery service.
    pub fn is_discovered(&self) -> bool {
        ["discovery", "discovery-srv", "discovery-srv-name", "discovery-endpoints"]
            .iter()
            .any(|name| self.value(name).is_some_and(|value| !value.is_empty()))
    }

    /// Whether the member is told to make a new cluster of itself.
    pub fn is_forced_new(&self) -> bool {
        self.is_on("force-new-cluster")
    }

    /// Certificates on the side of clients.
    pub fn client_tls(&self) -> Tls<'_> {
        self.tls("")
    }

    /// Certificates on the side of peers.
    pub fn peer_tls(&self) -> Tls<'_> {
        self.tls("peer-")
    }

    fn tls(&self, side: &str) -> Tls<'_> {
        let file =
            |name: &str| self.value(&format!("{side}{name}")).filter(|path| !path.is_empty());
        Tls {
            cert_file: file("cert-file"),
            key_file: file("key-file"),
            trusted_ca_file: file("trusted-ca-file"),
            client_cert_auth: self.is_on(&format!("{side}client-cert-auth")),
            auto_tls: self.is_on(&format!("{side}auto-tls")),
        }
    }

    /// The quota in bytes; 0 and nothing mean etcd's own 2 GiB.
    pub fn quota_backend_bytes(&self) -> Option<i64> {
        self.value("quota-backend-bytes").and_then(|value| value.parse().ok())
    }
}

/// The certificates of one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tls<'s> {
    /// The certificate.
    pub cert_file: Option<&'s str>,
    /// Its key.
    pub key_file: Option<&'s str>,
    /// What signs the other side's.
    pub trusted_ca_file: Option<&'s str>,
    /// Whether the other side must show one.
    pub client_cert_auth: bool,
    /// Whether etcd makes its own, which lie in the data directory.
    pub auto_tls: bool,
}

/// What `strconv.ParseBool` takes for true.
pub(crate) fn is_true(value: &str) -> bool {
    matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// Whether a flag of etcd may stand without a value.
pub(crate) fn is_switch(name: &str) -> bool {
    matches!(name, "version" | "help" | "h")
        || known(name).is_some_and(|row| matches!(row.kind, Kind::Switch | Kind::Ignored))
}

/// Settings whose values are not shown.
pub(crate) fn is_secret(name: &str) -> bool {
    matches!(name, "discovery-password" | "discovery-user" | "discovery-token")
}
