//! etcd's own configuration file (`--config-file`): YAML whose keys are the
//! names of flags, but for the certificates, which lie in
//! `client-transport-security` and `peer-transport-security`.

use super::settings::Setting;
use super::text::{EditError, Form, Origin, ParseError};
use super::versions::{Kind as SettingKind, known};
use super::yaml::{Kind, Node, Step, Yaml};

/// Keys in a group, and the flags that say the same
/// (`embed.securityConfig`, `transport.SocketOpts`).
const GROUPS: [(&str, &str, &str); 20] = [
    ("client-transport-security", "cert-file", "cert-file"),
    ("client-transport-security", "key-file", "key-file"),
    ("client-transport-security", "client-cert-file", "client-cert-file"),
    ("client-transport-security", "client-key-file", "client-key-file"),
    ("client-transport-security", "client-cert-auth", "client-cert-auth"),
    ("client-transport-security", "trusted-ca-file", "trusted-ca-file"),
    ("client-transport-security", "auto-tls", "auto-tls"),
    ("client-transport-security", "allowed-hostname", "client-cert-allowed-hostname"),
    ("peer-transport-security", "cert-file", "peer-cert-file"),
    ("peer-transport-security", "key-file", "peer-key-file"),
    ("peer-transport-security", "client-cert-file", "peer-client-cert-file"),
    ("peer-transport-security", "client-key-file", "peer-client-key-file"),
    ("peer-transport-security", "client-cert-auth", "peer-client-cert-auth"),
    ("peer-transport-security", "trusted-ca-file", "peer-trusted-ca-file"),
    ("peer-transport-security", "auto-tls", "peer-auto-tls"),
    ("peer-transport-security", "allowed-hostname", "peer-cert-allowed-hostname"),
    ("peer-transport-security", "allowed-cn", "peer-cert-allowed-cn"),
    (
        "peer-transport-security",
        "skip-client-san-verification",
        "peer-skip-client-san-verification",
    ),
    ("socket-options", "reuse-port", "socket-reuse-port"),
    ("socket-options", "reuse-address", "socket-reuse-address"),
];

/// Keys that are no flags.
const OTHER_KEYS: [&str; 2] = ["discovery-config", "experimental-snapshot-catch-up-entries"];

/// etcd's configuration file.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    name: String,
    yaml: Yaml,
}

impl ConfigFile {
    /// Reads a file. `name` is what origins call it, usually its path.
    ///
    /// # Errors
    /// It is no YAML, or no mapping.
    pub fn parse(name: &str, text: &str) -> Result<Self, ParseError> {
        let yaml = Yaml::parse(text)?;
        match yaml.documents().first().map(|node| &node.kind) {
            None | Some(Kind::Mapping(..)) => Ok(Self { name: name.to_owned(), yaml }),
            Some(Kind::Scalar(value, _)) if value.is_empty() => {
                Ok(Self { name: name.to_owned(), yaml })
            }
            Some(_) => Err(ParseError::at(text, 0, "not a mapping of settings")),
        }
    }

    /// What origins call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text, byte for byte.
    pub fn text(&self) -> &str {
        self.yaml.text()
    }

    /// Whether etcd reads a key that is no flag.
    pub(crate) fn has_key(name: &str) -> bool {
        OTHER_KEYS.iter().any(|key| name == *key || name.starts_with(&format!("{key}.")))
    }

    /// Every setting by the flag's name, in the order in which etcd takes them:
    /// of two with one name the second counts. A list is
    /// joined with commas. A key of a group that no flag says is `group.key`.
    pub fn settings(&self) -> Vec<Setting> {
        let mut settings = Vec::new();
        let Some(document) = self.yaml.documents().first() else { return settings };
        for (key, value) in in_order(document) {
            let Some(key) = key.text() else { continue };
            // Go's decoder of JSON, which reads the file in the end, takes keys
            // in any case.
            let key = key.to_ascii_lowercase();
            if value.entries().is_empty() {
                settings.extend(self.setting(key, value));
                continue;
            }
            for (inner, value) in in_order(value) {
                let Some(inner) = inner.text() else { continue };
                let inner = inner.to_ascii_lowercase();
                let flag = GROUPS.iter().find(|(group, name, _)| (*group, *name) == (&key, &inner));
                let name =
                    flag.map_or_else(|| format!("{key}.{inner}"), |(.., flag)| (*flag).to_owned());
                settings.extend(self.setting(name, value));
            }
        }
        settings
    }

    fn setting(&self, name: String, node: &Node) -> Option<Setting> {
        let value = match &node.kind {
            Kind::Scalar(..) => node.value()?.to_owned(),
            Kind::Sequence(items, _) => {
                items.iter().filter_map(Node::value).collect::<Vec<_>>().join(",")
            }
            _ => return None,
        };
        let origin = Origin {
            file: Some(self.name.clone()),
            span: node.span.clone(),
            line: self.yaml.line(node),
            form: Form::Yaml,
            composed: !matches!(node.kind, Kind::Scalar(..)),
        };
        Some(Setting { name, value, origin })
    }

    /// The way to a setting, as the file writes its keys.
    fn path(&self, name: &str) -> Vec<Step> {
        let written = |node: Option<&Node>, key: &str| {
            let entries = node.map(Node::entries).unwrap_or_default();
            let mut keys = entries.iter().filter_map(|(key, _)| key.text());
            keys.find(|found| found.eq_ignore_ascii_case(key)).unwrap_or(key).to_owned()
        };
        let document = self.yaml.documents().first();
        match GROUPS.iter().find(|(.., flag)| *flag == name) {
            Some((group, key, _)) => {
                let group = written(document, group);
                let key = written(document.and_then(|node| node.get(&group)), key);
                vec![Step::Key(group), Step::Key(key)]
            }
            None => vec![Step::Key(written(document, name))],
        }
    }

    /// The text with a setting, changed where it stands or added behind the
    /// last entry.
    ///
    /// # Errors
    /// etcd knows no such key; the value is of another type than the key; the
    /// place holds an anchor, an alias, a list or a text of several lines; the
    /// group it belongs to is not there.
    pub fn set(&self, name: &str, value: &str) -> Result<String, EditError> {
        let refused = |reason: &str| EditError::refused(name, reason);
        let row = known(name).ok_or_else(|| refused("etcd has no such setting"))?;
        let number = || value.parse::<u64>().is_ok();
        let (fits, quote) = match row.kind {
            SettingKind::Switch => (matches!(value, "true" | "false"), false),
            SettingKind::Number => (number(), false),
            SettingKind::Duration if !number() => {
                return Err(refused("the file takes durations in nanoseconds"));
            }
            SettingKind::Duration => (true, false),
            SettingKind::Ignored => (false, true),
            SettingKind::Text | SettingKind::Urls | SettingKind::Members => (true, true),
        };
        if !fits {
            return Err(refused("the value is not of the setting's type"));
        }
        let path = self.path(name);
        match self.yaml.set(0, &path, value, quote) {
            Err(EditError::Absent(_)) => {
                let Some((Step::Key(key), parent)) = path.split_last() else {
                    return Err(refused("it has no key"));
                };
                self.yaml.add_entry(0, parent, key, value, quote)
            }
            done => done,
        }
    }

    /// The text without a setting.
    ///
    /// # Errors
    /// It is not set; it is alone in its group; or as [`set`](Self::set).
    pub fn remove(&self, name: &str) -> Result<String, EditError> {
        self.yaml.remove(0, &self.path(name))
    }
}

/// The entries in the order of their keys, in which Go decodes them: of a key
/// in two cases the lower one counts, of a repeated key the last.
fn in_order(node: &Node) -> Vec<&(Node, Node)> {
    let mut entries: Vec<_> = node.entries().iter().collect();
    entries.sort_by(|a, b| a.0.text().cmp(&b.0.text()));
    entries
}
