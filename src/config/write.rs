//! Writes an `etcdvault.toml` with comments: what [`super::read::parse`] reads back as
//! the same configuration, whatever the texts in it are.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use super::model::{ClusterConfig, Config, NodeConfig, Role, SecretSource, VaultConfig};

/// Comments by section (`cluster.prod`) and key. The key "" is the section itself; the
/// section "" with the key "" is the head of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comments(BTreeMap<(String, String), String>);

impl Comments {
    /// Puts `text`, of any number of lines, above `key` of `section`.
    pub fn add(&mut self, section: impl Into<String>, key: impl Into<String>, text: &str) {
        let comment = self.0.entry((section.into(), key.into())).or_default();
        if !comment.is_empty() {
            comment.push('\n');
        }
        comment.push_str(text);
    }

    fn write(&self, section: &str, key: &str, text: &mut String) {
        let Some(comment) = self.0.get(&(section.to_owned(), key.to_owned())) else { return };
        for line in comment.split(['\n', '\r']) {
            // TOML takes no control characters in a comment, and a terminal should not.
            let line: String = line.chars().filter(|c| !c.is_control()).collect();
            text.push_str(format!("# {line}").trim_end());
            text.push('\n');
        }
    }
}

/// The file's text.
pub fn write(config: &Config, comments: &Comments) -> String {
    let mut text = String::new();
    comments.write("", "", &mut text);
    let mut section = |kind: &str, name: &str, entries: Entries| {
        if !text.is_empty() {
            text.push('\n');
        }
        let path = format!("{kind}.{name}");
        comments.write(&path, "", &mut text);
        let _ = writeln!(text, "[{kind}.{}]", bare(name));
        for (key, value) in entries.0 {
            comments.write(&path, &key, &mut text);
            let _ = writeln!(text, "{key} = {value}");
        }
    };
    for (name, cluster) in &config.clusters {
        section("cluster", name.as_str(), entries_of_cluster(cluster));
    }
    for (name, node) in &config.nodes {
        section("node", name, entries_of_node(node));
    }
    for (name, vault) in &config.vaults {
        section("vault", name, entries_of_vault(vault));
    }
    text
}

/// Keys with their values as TOML.
#[derive(Default)]
struct Entries(Vec<(String, String)>);

impl Entries {
    fn text(&mut self, key: &str, value: Option<impl AsRef<str>>) {
        self.raw(key, value.map(|value| quoted(value.as_ref())));
    }

    fn path(&mut self, key: &str, value: Option<impl AsRef<Path>>) {
        self.text(key, value.map(|path| path.as_ref().display().to_string()));
    }

    fn list<T: AsRef<str>>(&mut self, key: &str, values: impl IntoIterator<Item = T>) {
        let values: Vec<String> = values.into_iter().map(|v| quoted(v.as_ref())).collect();
        match values.len() {
            0 => {}
            1 => self.raw(key, Some(format!("[{}]", values[0]))),
            _ => self.raw(key, Some(format!("[\n    {},\n]", values.join(",\n    ")))),
        }
    }

    fn raw(&mut self, key: &str, value: Option<impl ToString>) {
        self.0.extend(value.map(|value| (key.to_owned(), value.to_string())));
    }

    fn secret(&mut self, what: &str, source: Option<&SecretSource>) {
        match source {
            Some(SecretSource::File(path)) => self.path(&format!("{what}-file"), Some(path)),
            Some(SecretSource::Env(name)) => self.text(&format!("{what}-env"), Some(name)),
            Some(SecretSource::Credential(name)) => {
                self.text(&format!("{what}-credential"), Some(name));
            }
            Some(SecretSource::Command(command)) => {
                self.text(&format!("{what}-command"), Some(command));
            }
            None => {}
        }
    }
}

fn entries_of_cluster(cluster: &ClusterConfig) -> Entries {
    let mut entries = Entries::default();
    entries.list("endpoints", &cluster.endpoints);
    entries.text("discovery-srv", cluster.discovery_srv.as_ref());
    entries.text("discovery-srv-name", cluster.discovery_srv_name.as_ref());
    let nameserver = cluster.discovery_srv_nameserver.map(|server| server.to_string());
    entries.text("discovery-srv-nameserver", nameserver);
    entries.path("cacert", cluster.cacert.as_ref());
    entries.path("cert", cluster.cert.as_ref());
    entries.path("key", cluster.key.as_ref());
    entries.text("user", cluster.user.as_ref());
    entries.secret("password", cluster.password.as_ref());
    entries.text("dial-timeout", cluster.dial_timeout.as_ref());
    entries.text("command-timeout", cluster.command_timeout.as_ref());
    entries.path("kubeconfig", cluster.kubeconfig.as_ref());
    entries.text("vault", cluster.vault.as_ref());
    entries.list("nodes", &cluster.nodes);
    entries.list("state-paths", cluster.state_paths.iter().map(|path| path.display().to_string()));
    entries.raw("allow-unencrypted-state", cluster.allow_unencrypted_state);
    entries.text("owner", cluster.owner.as_ref());
    entries
}

fn entries_of_node(node: &NodeConfig) -> Entries {
    let mut entries = Entries::default();
    entries.text("address", node.address.as_ref());
    entries.text("ssh", node.ssh.as_ref());
    entries.raw("sudo", node.sudo);
    entries.path("agent", node.agent.as_ref());
    entries.list("roles", node.roles.iter().copied().map(Role::name));
    entries
}

fn entries_of_vault(vault: &VaultConfig) -> Entries {
    let mut entries = Entries::default();
    entries.text("location", Some(&vault.location));
    for (name, value) in &vault.s3 {
        entries.text(&format!("s3-{name}"), Some(value));
    }
    entries.list("recipients", &vault.recipients);
    entries.secret("identity", vault.identity.as_ref());
    entries.secret("passphrase", vault.passphrase.as_ref());
    entries.raw("compression-level", vault.compression_level);
    entries.raw("workers", vault.workers);
    entries.path("spool-dir", vault.spool_dir.as_ref());
    entries.raw("spool-limit", vault.spool_limit);
    entries
}

/// A name as it stands in a section's head.
fn bare(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if !name.is_empty() && name.bytes().all(plain) { name.to_owned() } else { quoted(name) }
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests;
