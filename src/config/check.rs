//! What `config check` looks at beyond the text: files that are named, the vaults'
//! directories. Reads no secret, runs no command, asks no network.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Env;
use super::file::Loaded;
use super::model::{Config, SecretSource};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// It may be meant, or it shows only where the file is used.
    Warning,
    /// It cannot work.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Its section and key: `cluster.prod cacert`.
    pub what: String,
    /// The line in the file, from 1.
    pub line: Option<usize>,
    /// How it ended.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
}

/// The result of `config check`.
#[derive(Debug, Clone, Serialize)]
pub struct CheckReport {
    /// The file.
    pub file: PathBuf,
    /// How many clusters it has.
    pub clusters: usize,
    /// How many nodes.
    pub nodes: usize,
    /// How many vaults.
    pub vaults: usize,
    /// Everything that was looked at.
    pub checked: Vec<Checked>,
}

impl CheckReport {
    /// Whether nothing is bad.
    pub fn good(&self) -> bool {
        self.checked.iter().all(|checked| checked.verdict != Verdict::Bad)
    }
}

/// Checks what a file that was read names.
pub fn check(loaded: &Loaded, env: &Env) -> CheckReport {
    let config = &loaded.config;
    let mut checks = Checks { loaded, env, list: Vec::new() };
    checks.clusters(config);
    checks.nodes(config);
    checks.vaults(config);
    CheckReport {
        file: loaded.path.clone(),
        clusters: config.clusters.len(),
        nodes: config.nodes.len(),
        vaults: config.vaults.len(),
        checked: checks.list,
    }
}

struct Checks<'a> {
    loaded: &'a Loaded,
    env: &'a Env,
    list: Vec<Checked>,
}

impl Checks<'_> {
    fn add(&mut self, section: &str, key: &str, verdict: Verdict, found: impl Into<String>) {
        let what = format!("{section} {key}").trim_end().to_owned();
        let line = self.loaded.position(section, key).map(|position| position.line);
        self.list.push(Checked { what, line, verdict, found: found.into() });
    }

    fn clusters(&mut self, config: &Config) {
        for (name, cluster) in &config.clusters {
            let section = format!("cluster.{name}");
            if !cluster.endpoints.is_empty() {
                let list = cluster.endpoints.join(", ");
                self.add(&section, "endpoints", Verdict::Good, list);
            } else if let Some(domain) = &cluster.discovery_srv {
                let found = format!("{domain} (not asked)");
                self.add(&section, "discovery-srv", Verdict::Good, found);
            } else {
                let found = "no endpoints: 127.0.0.1:2379 is asked";
                self.add(&section, "", Verdict::Warning, found);
            }
            for (key, path, label) in [
                ("cacert", &cluster.cacert, Some("CERTIFICATE")),
                ("cert", &cluster.cert, Some("CERTIFICATE")),
                ("key", &cluster.key, Some("PRIVATE KEY")),
                ("kubeconfig", &cluster.kubeconfig, None),
            ] {
                if let Some(path) = path {
                    self.file(&section, key, path, label);
                }
            }
            self.secret(&section, "password", cluster.password.as_ref());
            if let Some(vault) = &cluster.vault {
                self.add(&section, "vault", Verdict::Good, format!("[vault.{vault}]"));
            } else if config.vaults.len() > 1 {
                let found = "no vault is named, and there are several: --vault is needed";
                self.add(&section, "", Verdict::Warning, found);
            }
            if !cluster.nodes.is_empty() {
                let names: Vec<_> =
                    cluster.nodes.iter().map(|name| format!("[node.{name}]")).collect();
                self.add(&section, "nodes", Verdict::Good, names.join(", "));
            }
            if cluster.allow_unencrypted_state == Some(true) {
                let found = "private keys of the nodes may be stored readable";
                self.add(&section, "allow-unencrypted-state", Verdict::Warning, found);
            }
        }
    }

    fn nodes(&mut self, config: &Config) {
        for name in config.nodes.keys() {
            let used = config.clusters.values().any(|c| c.nodes.iter().any(|node| node == name));
            let (verdict, found) = match used {
                true => (Verdict::Good, "in use (not connected to)"),
                false => (Verdict::Warning, "no cluster names it under nodes"),
            };
            self.add(&format!("node.{name}"), "", verdict, found);
        }
    }

    fn vaults(&mut self, config: &Config) {
        for (name, vault) in &config.vaults {
            let section = format!("vault.{name}");
            if vault.is_directory() {
                self.directory_vault(&section, Path::new(&vault.location));
            } else {
                let found = format!("{} (not connected to)", vault.location);
                self.add(&section, "location", Verdict::Good, found);
            }
            if let Some(path) = vault.s3.get("ca-file") {
                self.file(&section, "s3-ca-file", Path::new(path), Some("CERTIFICATE"));
            }
            self.secret(&section, "identity", vault.identity.as_ref());
            self.secret(&section, "passphrase", vault.passphrase.as_ref());
            if let Some(path) = &vault.spool_dir {
                let (verdict, found) = match path.metadata() {
                    Ok(metadata) if metadata.is_dir() => (Verdict::Good, describe(path)),
                    Ok(_) => (Verdict::Bad, format!("{} is no directory", path.display())),
                    Err(error) => (Verdict::Bad, format!("{}: {error}", path.display())),
                };
                self.add(&section, "spool-dir", verdict, found);
            }
        }
    }

    fn directory_vault(&mut self, section: &str, path: &Path) {
        let shown = path.display();
        let (verdict, found) = match path.join("vault.json").metadata() {
            Ok(_) => (Verdict::Good, format!("{shown} is a vault")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                (Verdict::Warning, format!("{shown} is no vault yet: etcdvault init makes it"))
            }
            Err(error) => (Verdict::Bad, format!("{shown}: {error}")),
        };
        self.add(section, "location", verdict, found);
    }

    /// A file that must be readable and, where `label` is given, hold such a PEM block.
    fn file(&mut self, section: &str, key: &str, path: &Path, label: Option<&str>) {
        let (verdict, found) = match read(path) {
            Err(why) => (Verdict::Bad, format!("{}: {why}", path.display())),
            Ok(text) => {
                let block = |label: &str| {
                    text.lines().any(|line| line.starts_with("-----BEGIN ") && line.contains(label))
                };
                match label {
                    Some(label) if !block(label) => {
                        (Verdict::Bad, format!("{} has no PEM block {label:?}", path.display()))
                    }
                    _ => (Verdict::Good, describe(path)),
                }
            }
        };
        self.add(section, key, verdict, found);
        if verdict == Verdict::Good && label == Some("PRIVATE KEY") {
            self.privacy(section, key, path);
        }
    }

    fn secret(&mut self, section: &str, what: &str, source: Option<&SecretSource>) {
        let Some(source) = source else { return };
        let key = format!("{what}-{}", super::keys::kind(source));
        match source {
            SecretSource::File(path) => {
                let (verdict, found) = match read(path) {
                    Ok(text) if text.trim().is_empty() => {
                        (Verdict::Bad, format!("{} is empty", path.display()))
                    }
                    Ok(_) => (Verdict::Good, describe(path)),
                    Err(why) => (Verdict::Bad, format!("{}: {why}", path.display())),
                };
                self.add(section, &key, verdict, found);
                if verdict == Verdict::Good {
                    self.privacy(section, &key, path);
                }
            }
            SecretSource::Env(name) => {
                let (verdict, found) = match self.env.get(name) {
                    Some(_) => (Verdict::Good, format!("{name} is set")),
                    None => (Verdict::Warning, format!("{name} is not set here")),
                };
                self.add(section, &key, verdict, found);
            }
            SecretSource::Credential(name) => {
                let (verdict, found) = match super::credential(self.env, name) {
                    Some(_) => (Verdict::Good, format!("{name} is there")),
                    None => (Verdict::Warning, format!("{name} is not there outside its unit")),
                };
                self.add(section, &key, verdict, found);
            }
            SecretSource::Command(_) => {
                self.add(section, &key, Verdict::Good, "a command (not run)");
            }
        }
    }

    /// Warns where others may read a secret.
    fn privacy(&mut self, section: &str, key: &str, path: &Path) {
        if path.metadata().is_ok_and(|metadata| metadata.mode() & 0o004 != 0) {
            let found = format!("{} can be read by everybody: chmod 600", path.display());
            self.add(section, key, Verdict::Warning, found);
        }
    }
}

fn describe(path: &Path) -> String {
    path.display().to_string()
}

/// The start of a file: none of them is long, and a device has no end.
fn read(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| {
            if file.metadata()?.is_dir() {
                return Err(std::io::ErrorKind::IsADirectory.into());
            }
            file.take(1 << 20).read_to_end(&mut bytes)
        })
        .map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
