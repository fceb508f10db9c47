//! One run's settings: flags, environment and `etcdvault.toml` together.
//!
//! `--cluster` picks a cluster of the file, and the only one there needs no flag; its
//! vault is the vault. What flags and variables say goes before. Where it is not plain
//! which cluster or vault is meant, nothing is guessed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::OnceLock;

use serde::Serialize;
use vault::encryption::{Identities, Passphrase};
use vault::layout::ClusterName;
use vault::store::s3::OPTIONS;

use super::connection::{self, Connection, Entry, RawConnection};
use super::file::{self, ConfigError, Loaded};
use super::keys::{self, RawKeys, Wanted};
use super::model::{ClusterConfig, VaultConfig};
use super::origin::{Effective, Origin, Picked};
use super::place::{self, Place, RawPlace};
use super::read::suggestion;
use super::{Env, SettingError};

/// The environment and the configuration; the latter is read when it is first needed,
/// so that a command that needs none works with a broken one.
#[derive(Debug)]
pub struct Setup {
    env: Env,
    named: Option<PathBuf>,
    loaded: OnceLock<Option<Loaded>>,
}

impl Setup {
    /// With the configuration that `--config` names, if any.
    pub fn new(env: Env, config: Option<PathBuf>) -> Self {
        Self { env, named: config, loaded: OnceLock::new() }
    }

    /// The environment.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// The configuration, if there is one.
    pub fn file(&self) -> Result<Option<&Loaded>, SettingError> {
        if let Some(loaded) = self.loaded.get() {
            return Ok(loaded.as_ref());
        }
        let loaded = file::load(self.named.as_deref(), &self.env)?;
        Ok(self.loaded.get_or_init(|| loaded).as_ref())
    }

    /// The settings for the cluster that `--cluster` or `ETCDVAULT_CLUSTER` names, else
    /// for the only one of the configuration.
    pub fn choose(&self, cluster: Option<&str>) -> Result<Choice<'_>, SettingError> {
        let file = self.file()?;
        let named = match cluster {
            Some(name) => Some(Picked {
                value: place::cluster(name)?,
                origin: Origin::Flag("--cluster".to_owned()),
            }),
            None => match self.env.own("CLUSTER") {
                Some(name) => Some(Picked {
                    value: place::cluster(&name)?,
                    origin: Origin::Environment("ETCDVAULT_CLUSTER".to_owned()),
                }),
                None => None,
            },
        };
        let entry = file.and_then(|file| match &named {
            Some(named) => file.config.clusters.get_key_value(&named.value),
            None if file.config.clusters.len() == 1 => file.config.clusters.iter().next(),
            None => None,
        });
        Ok(Choice { env: &self.env, file, named, entry })
    }
}

/// The settings of one cluster.
#[derive(Debug, Clone)]
pub struct Choice<'a> {
    env: &'a Env,
    file: Option<&'a Loaded>,
    named: Option<Picked<ClusterName>>,
    entry: Option<(&'a ClusterName, &'a ClusterConfig)>,
}

/// Which vault is meant.
#[derive(Debug, Clone)]
struct ChosenVault<'a> {
    location: Picked,
    /// Its section, where it is one of the configuration.
    entry: Option<(&'a str, &'a VaultConfig)>,
}

/// How objects are written; `None` is the default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteSettings {
    /// zstd level.
    pub compression_level: Option<i32>,
    /// Threads that compress.
    pub workers: Option<u16>,
    /// Where compressed output waits.
    pub spool_dir: Option<PathBuf>,
    /// The most MiB that may wait there.
    pub spool_limit: Option<u32>,
}

impl WriteSettings {
    /// zstd level when nobody says otherwise.
    pub const COMPRESSION_LEVEL: i32 = 3;
    /// MiB that may wait when nobody says otherwise.
    pub const SPOOL_LIMIT: u32 = 4096;
}

/// What `config show` prints.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// The configuration that was read.
    pub file: Option<PathBuf>,
    /// The cluster whose settings these are.
    pub cluster: Option<Effective>,
    /// How etcd is reached.
    pub connection: Vec<Effective>,
    /// What the configuration says of the cluster besides.
    pub details: Vec<Effective>,
    /// The vault and its keys; empty when none is named.
    pub vault: Vec<Effective>,
    /// Why a part of it is not known.
    pub unknown: Vec<String>,
}

impl<'a> Choice<'a> {
    /// The cluster that was named by flag or variable: what commands filter by.
    pub fn named(&self) -> Option<&ClusterName> {
        self.named.as_ref().map(|named| &named.value)
    }

    /// The cluster's name and section in the configuration.
    pub fn entry(&self) -> Option<(&'a ClusterName, &'a ClusterConfig)> {
        self.entry
    }

    /// The configuration.
    pub fn file(&self) -> Option<&'a Loaded> {
        self.file
    }

    /// The cluster that new backups belong to: the one that was named, else the only
    /// one of the configuration, unless its members were named elsewhere.
    pub fn backup_name(&self, connection: &Connection) -> Option<ClusterName> {
        let implied = self.entry.filter(|_| !connection.elsewhere).map(|(name, _)| name);
        self.named().or(implied).cloned()
    }

    /// The cluster that is meant where one must be: `latest` of a vault with several.
    pub fn meant(&self) -> Option<&ClusterName> {
        self.named().or(self.entry.map(|(name, _)| name))
    }

    /// Another ssh_config than the user's, from `ETCDVAULT_SSH_CONFIG`.
    pub fn ssh_config(&self) -> Option<PathBuf> {
        self.env.own("SSH_CONFIG").map(PathBuf::from)
    }

    /// The same as [`connection`](Self::connection), where the members may be found out
    /// elsewhere: no error where the configuration has several clusters.
    pub async fn connection_if_any(&self, raw: &RawConnection) -> Result<Connection, SettingError> {
        let entry = self.section();
        connection::choose(raw, self.env, entry)?.resolve(self.env).await
    }

    /// The name server to ask for SRV records, whatever the domain.
    pub fn nameserver(&self, raw: &RawConnection) -> Result<Option<SocketAddr>, SettingError> {
        connection::nameserver_of(raw, self.env, self.section())
    }

    fn section(&self) -> Option<Entry<'a>> {
        self.file.zip(self.entry).map(|(file, (name, cluster))| Entry {
            file,
            name: name.as_str(),
            cluster,
        })
    }

    /// How the members are reached.
    pub async fn connection(&self, raw: &RawConnection) -> Result<Connection, SettingError> {
        self.chosen_connection(raw)?.resolve(self.env).await
    }

    fn chosen_connection(&self, raw: &RawConnection) -> Result<connection::Chosen, SettingError> {
        if self.entry.is_none() && !connection::names_members(raw, self.env) {
            self.must_know_cluster()?;
        }
        connection::choose(raw, self.env, self.section())
    }

    /// An error when the configuration has clusters, and none of them is meant: the
    /// default endpoint would be another cluster than the person thinks of.
    fn must_know_cluster(&self) -> Result<(), SettingError> {
        let Some(file) = self.file.filter(|file| !file.config.clusters.is_empty()) else {
            return Ok(());
        };
        let names: Vec<&str> = file.config.clusters.keys().map(ClusterName::as_str).collect();
        let path = file.path.display();
        Err(match self.named() {
            Some(name) => {
                let hint = suggestion(name.as_str(), &names);
                SettingError::new(format!("there is no [cluster.{name}] in {path}")).hint(
                    hint.unwrap_or_else(|| {
                        format!(
                            "it has {}; or say where the members are: --endpoints",
                            names.join(", ")
                        )
                    }),
                )
            }
            None => SettingError::new(format!("{path} has {} clusters", names.len()))
                .hint(format!("say which one with --cluster: {}", names.join(", "))),
        })
    }

    fn vault(&self, raw: &RawPlace) -> Result<ChosenVault<'a>, SettingError> {
        let flag = raw.vault.clone().map(|value| (value, Origin::Flag("--vault".to_owned())));
        let variable = || {
            let origin = Origin::Environment("ETCDVAULT_VAULT".to_owned());
            self.env.own("VAULT").map(|value| (value, origin))
        };
        let vaults = self.file.map(|file| &file.config.vaults);
        if let Some((text, origin)) = flag.or_else(variable) {
            // A name of the file, or a place that the file describes.
            let found = vaults.and_then(|vaults| {
                vaults.iter().find(|(name, vault)| **name == text || vault.location == text)
            });
            let entry = found.map(|(name, vault)| (name.as_str(), vault));
            let value = entry.map_or(text, |(_, vault)| vault.location.clone());
            return Ok(ChosenVault { location: Picked { value, origin }, entry });
        }
        let (Some(file), Some(vaults)) = (self.file, vaults.filter(|vaults| !vaults.is_empty()))
        else {
            return Err(place::missing());
        };
        let of_cluster = self.entry.and_then(|(_, cluster)| cluster.vault.as_ref());
        let chosen = match of_cluster {
            Some(name) => vaults.get_key_value(name),
            None if vaults.len() == 1 => vaults.iter().next(),
            None => None,
        };
        let Some((name, vault)) = chosen else {
            if self.entry.is_none() {
                self.must_know_cluster()?;
            }
            let names: Vec<&str> = vaults.keys().map(String::as_str).collect();
            let what = format!("{} has {} vaults", file.path.display(), names.len());
            return Err(SettingError::new(what).hint(format!(
                "say which one with --vault: {}; or add vault = \"…\" to the cluster",
                names.join(", ")
            )));
        };
        let origin = self.origin(&format!("vault.{name}"), "location");
        let location = Picked { value: vault.location.clone(), origin };
        Ok(ChosenVault { location, entry: Some((name, vault)) })
    }

    fn origin(&self, section: &str, key: &str) -> Origin {
        match self.file {
            Some(file) => Origin::File {
                path: file.path.clone(),
                line: file.position(section, key).map_or(0, |position| position.line),
            },
            None => Origin::Default,
        }
    }

    /// Where the vault is.
    pub fn place(&self, raw: &RawPlace) -> Result<Place, SettingError> {
        let vault = self.vault(raw)?;
        let file = vault.entry.map(|(_, vault)| vault);
        place::resolve(&vault.location.value, raw, self.env, file)
    }

    fn vault_section(&self, raw: &RawPlace) -> Option<&'a VaultConfig> {
        self.vault(raw).ok()?.entry.map(|(_, vault)| vault)
    }

    /// What opens the vault's objects, if anything was given.
    pub async fn identities(
        &self,
        place: &RawPlace,
        raw: &RawKeys,
    ) -> Result<Option<Identities>, SettingError> {
        keys::resolve(raw, self.env, self.vault_section(place)).await
    }

    /// The vault's passphrase, if one was given.
    pub async fn passphrase(
        &self,
        place: &RawPlace,
        raw: &RawKeys,
    ) -> Result<Option<Passphrase>, SettingError> {
        keys::passphrase(raw, self.env, self.vault_section(place)).await
    }

    /// The recipients that the configuration names for the vault.
    pub fn recipients(&self, place: &RawPlace) -> Vec<String> {
        self.vault_section(place).map_or_else(Vec::new, |vault| vault.recipients.clone())
    }

    /// How objects are written: `given` by flag or variable, else by the configuration.
    pub fn write(&self, place: &RawPlace, given: WriteSettings) -> WriteSettings {
        let Some(file) = self.vault_section(place) else { return given };
        WriteSettings {
            compression_level: given.compression_level.or(file.compression_level),
            workers: given.workers.or(file.workers),
            spool_dir: given.spool_dir.or_else(|| file.spool_dir.clone()),
            spool_limit: given.spool_limit.or(file.spool_limit),
        }
    }

    /// The owner of restored files, `user[:group]`, as the cluster's section has it.
    pub fn owner(&self) -> Option<&'a str> {
        self.entry.and_then(|(_, cluster)| cluster.owner.as_deref())
    }

    /// Every setting with who said so, for `config show`.
    pub fn show(&self, raw: &RawConnection, place: &RawPlace, raw_keys: &RawKeys) -> Shown {
        let mut shown = Shown {
            file: self.file.map(|file| file.path.clone()),
            cluster: None,
            connection: Vec::new(),
            details: Vec::new(),
            vault: Vec::new(),
            unknown: Vec::new(),
        };
        shown.cluster = match (&self.named, self.entry) {
            (Some(named), _) => Some(Effective {
                name: "cluster".to_owned(),
                value: named.value.to_string(),
                origin: named.origin.clone(),
            }),
            (None, Some((name, _))) => Some(Effective {
                name: "cluster".to_owned(),
                value: name.to_string(),
                origin: self.origin(&format!("cluster.{name}"), ""),
            }),
            (None, None) => None,
        };
        match self.chosen_connection(raw) {
            Ok(chosen) => shown.connection = chosen.effective(),
            Err(error) => shown.unknown.push(error.what),
        }
        if let Some((name, cluster)) = self.entry {
            shown.details = self.details(name, cluster);
        }
        match self.vault(place) {
            Ok(vault) => shown.vault = self.show_vault(&vault, place, raw_keys),
            Err(error) => shown.unknown.push(error.what),
        }
        shown
    }

    fn details(&self, name: &ClusterName, cluster: &ClusterConfig) -> Vec<Effective> {
        let paths = |paths: &[PathBuf]| {
            paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
        };
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        [
            ("kubeconfig", cluster.kubeconfig.as_ref().map(|path| path.display().to_string())),
            ("nodes", some(cluster.nodes.join(", "))),
            ("state-paths", some(paths(&cluster.state_paths))),
            ("allow-unencrypted-state", cluster.allow_unencrypted_state.map(|b| b.to_string())),
            ("owner", cluster.owner.clone()),
        ]
        .into_iter()
        .filter_map(|(key, value)| {
            let origin = self.origin(&format!("cluster.{name}"), key);
            Some(Effective { name: key.to_owned(), value: value?, origin })
        })
        .collect()
    }

    fn show_vault(
        &self,
        vault: &ChosenVault<'_>,
        place: &RawPlace,
        raw_keys: &RawKeys,
    ) -> Vec<Effective> {
        let entry = vault.entry;
        let in_file = |key: &str| {
            self.origin(&entry.map_or_else(String::new, |(name, _)| format!("vault.{name}")), key)
        };
        let section = entry.map(|(_, section)| section);
        let effective = |name: &str, value: String, origin: Origin| Effective {
            name: name.to_owned(),
            value,
            origin,
        };
        let mut list = vec![effective(
            "location",
            vault.location.value.clone(),
            vault.location.origin.clone(),
        )];
        for &(name, _) in OPTIONS {
            let key = format!("s3-{name}");
            if let Some((origin, value)) = place::option(name, place, self.env) {
                list.push(effective(&key, value, origin));
            } else if let Some(value) = section.and_then(|section| section.s3.get(name)) {
                list.push(effective(&key, value.clone(), in_file(&key)));
            }
        }
        if let Some(recipients) = section.map(|s| &s.recipients).filter(|list| !list.is_empty()) {
            list.push(effective("recipients", recipients.join(", "), in_file("recipients")));
        }
        if let Some(key) = keys::source(Wanted::Any, raw_keys, self.env, section) {
            let name = if key.is_identity { "identity" } else { "passphrase" };
            let kind = keys::kind(&key.source);
            let origin = key.origin.unwrap_or_else(|| in_file(&format!("{name}-{kind}")));
            list.push(effective(name, connection::describe(&key.source), origin));
        }
        let file = |key: &str, value: Option<String>| value.map(|value| (value, in_file(key)));
        let writing = [
            (
                "compression-level",
                section.and_then(|s| s.compression_level).map(|n| n.to_string()),
                Some(WriteSettings::COMPRESSION_LEVEL.to_string()),
            ),
            ("workers", section.and_then(|s| s.workers).map(|n| n.to_string()), None),
            (
                "spool-dir",
                section.and_then(|s| s.spool_dir.as_ref()).map(|path| path.display().to_string()),
                None,
            ),
            (
                "spool-limit",
                section.and_then(|s| s.spool_limit).map(|n| n.to_string()),
                Some(WriteSettings::SPOOL_LIMIT.to_string()),
            ),
        ];
        for (key, in_section, default) in writing {
            let variable = format!("ETCDVAULT_{}", key.to_uppercase().replace('-', "_"));
            let value = self
                .env
                .get(&variable)
                .map(|value| (value, Origin::Environment(variable)))
                .or_else(|| file(key, in_section))
                .or_else(|| Some((default?, Origin::Default)));
            list.extend(value.map(|(value, origin)| effective(key, value, origin)));
        }
        list
    }
}

impl From<ConfigError> for SettingError {
    fn from(error: ConfigError) -> Self {
        let setting = match &error {
            ConfigError::Read { source, .. } => Self::new(format!("{error}: {source}"))
                .hint("--config or ETCDVAULT_CONFIG names it; without them it may be missing"),
            ConfigError::Unsafe { .. } => Self::new(error.to_string())
                .hint("it can name commands: chmod o-w, or chown it to yourself or root"),
            ConfigError::Alien { .. } => Self::new(error.to_string()),
            ConfigError::Invalid { path, .. } => Self::new(error.to_string()).hint(format!(
                "docs/guide/configuration.md has every key; then etcdvault config check {}",
                path.display()
            )),
        };
        let details = match &error {
            ConfigError::Invalid { problems, .. } => {
                problems.iter().map(ToString::to_string).collect()
            }
            _ => Vec::new(),
        };
        Self { details, ..setting }
    }
}
