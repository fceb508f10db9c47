//! Reads the text of an `etcdvault.toml`: every mistake in it is found in one go, each
//! with its line and column, and an unknown key with what was probably meant. No
//! message repeats a value that may be a secret.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use vault::layout::ClusterName;
use vault::store::s3::{OPTIONS, S3Config};

use super::model::{ClusterConfig, Config, NodeConfig, Role, SecretSource, VaultConfig};
use super::{duration, place};
use crate::types::Endpoint;

/// A place in the file, both from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// A mistake in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub position: Position,
    /// What is wrong. Never a secret.
    pub what: String,
    /// What to write instead.
    pub remedy: Option<String>,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Position { line, column } = self.position;
        write!(f, "{} at line {line}, column {column}", self.what)?;
        match &self.remedy {
            Some(remedy) => write!(f, ": {remedy}"),
            None => Ok(()),
        }
    }
}

/// A file that was read.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// What it says, with paths as written.
    pub config: Config,
    positions: BTreeMap<(String, String), Position>,
}

impl Parsed {
    /// Where `key` stands in `section` (`cluster.prod`); a section itself has the key "".
    pub fn position(&self, section: &str, key: &str) -> Option<Position> {
        self.positions.get(&(section.to_owned(), key.to_owned())).copied()
    }
}

/// Reads `text`; `Err` has every problem in the order of the file, at least one.
pub fn parse(text: &str) -> Result<Parsed, Vec<Problem>> {
    let mut reader =
        Reader { text, problems: Vec::new(), positions: BTreeMap::new(), keys: Vec::new() };
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            reader.problem(at, format!("this is no TOML: {}", error.message()), None);
        }
        return Err(reader.sorted());
    }
    let config = reader.document(table.get_ref());
    if reader.problems.is_empty() {
        Ok(Parsed { config, positions: reader.positions })
    } else {
        Err(reader.sorted())
    }
}

/// What people may write where the store's options stand.
const S3_SECRETS: [&str; 6] = [
    "s3-access-key",
    "s3-access-key-id",
    "s3-secret-key",
    "s3-secret-access-key",
    "s3-session-token",
    "s3-credentials",
];

/// Every key with the kind of section that it stands in: `("cluster", "endpoints")`.
pub fn keys() -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    for kind in KINDS {
        let mut reader =
            Reader { text: "", problems: Vec::new(), positions: BTreeMap::new(), keys: Vec::new() };
        let entries = DeTable::new();
        let section = Section {
            reader: &mut reader,
            name: kind.into(),
            entries: &entries,
            known: Vec::new(),
        };
        match kind {
            "cluster" => drop(section.cluster()),
            "node" => drop(section.node()),
            _ => drop(section.vault(0)),
        }
        all.extend(reader.keys.into_iter().map(|key| (kind, key)));
    }
    all
}

const KINDS: [&str; 3] = ["cluster", "node", "vault"];

struct Reader<'t> {
    text: &'t str,
    problems: Vec<Problem>,
    positions: BTreeMap<(String, String), Position>,
    /// The keys of the section that was read last.
    keys: Vec<String>,
}

/// What is read of one section. A key that nobody took is unknown.
struct Section<'r, 't, 'd> {
    reader: &'r mut Reader<'t>,
    name: String,
    entries: &'d DeTable<'d>,
    known: Vec<String>,
}

/// A value, and where it stands in the text.
struct Found<'d> {
    value: &'d DeValue<'d>,
    at: usize,
}

impl Reader<'_> {
    fn document(&mut self, table: &DeTable<'_>) -> Config {
        let mut config = Config::default();
        for (key, value) in table {
            let kind = key.get_ref().as_ref();
            if !KINDS.contains(&kind) {
                let remedy = suggestion(kind, &KINDS).unwrap_or_else(|| {
                    "a file has the sections [cluster.NAME], [node.NAME] and [vault.NAME]".into()
                });
                let what = format!("unknown key `{}`", shown(kind));
                self.problem(key.span().start, what, Some(remedy));
                continue;
            }
            let DeValue::Table(named) = value.get_ref() else {
                let what = format!("`{kind}` is no table");
                self.problem(key.span().start, what, Some(format!("write [{kind}.NAME]")));
                continue;
            };
            for (name, value) in named {
                self.named(kind, name, value, &mut config);
            }
        }
        self.references(&config);
        config
    }

    fn named(
        &mut self,
        kind: &str,
        name: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
        config: &mut Config,
    ) {
        let at = name.span().start;
        let text = name.get_ref().as_ref();
        let DeValue::Table(entries) = value.get_ref() else {
            let what = format!("`{}` is no name of a {kind}", shown(text));
            let remedy = format!("the settings of a {kind} stand below [{kind}.NAME]");
            self.problem(at, what, Some(remedy));
            return;
        };
        let cluster = match ClusterName::new(text) {
            Ok(name) => name,
            Err(_) => {
                let what = format!("`{}` cannot be the name of a {kind}", shown(text));
                let remedy = "1 to 63 letters, digits, dots, underscores and hyphens".to_owned();
                self.problem(at, what, Some(remedy));
                return;
            }
        };
        let section = format!("{kind}.{text}");
        let position = self.locate(at);
        self.positions.insert((section.clone(), String::new()), position);
        let section = Section { reader: self, name: section, entries, known: Vec::new() };
        match kind {
            "cluster" => {
                let read = section.cluster();
                config.clusters.insert(cluster, read);
            }
            "node" => {
                let read = section.node();
                config.nodes.insert(text.to_owned(), read);
            }
            _ => {
                let read = section.vault(at);
                config.vaults.insert(text.to_owned(), read);
            }
        }
    }

    /// Names that lead to another section.
    fn references(&mut self, config: &Config) {
        let vaults: Vec<&str> = config.vaults.keys().map(String::as_str).collect();
        let nodes: Vec<&str> = config.nodes.keys().map(String::as_str).collect();
        for (name, cluster) in &config.clusters {
            let section = format!("cluster.{name}");
            if let Some(vault) = &cluster.vault {
                self.reference(&section, "vault", vault, &vaults);
            }
            for node in &cluster.nodes {
                self.reference(&section, "nodes", node, &nodes);
            }
        }
    }

    fn reference(&mut self, section: &str, key: &str, name: &str, known: &[&str]) {
        if known.contains(&name) {
            return;
        }
        let kind = key.trim_end_matches('s');
        let position = self.positions.get(&(section.to_owned(), key.to_owned())).copied();
        self.problems.push(Problem {
            position: position.unwrap_or(Position { line: 1, column: 1 }),
            what: format!("`{key}` in [{section}] names `{}`, which is not there", shown(name)),
            remedy: Some(
                suggestion(name, known)
                    .unwrap_or_else(|| format!("add a section [{kind}.{}]", shown(name))),
            ),
        });
    }

    fn problem(&mut self, at: usize, what: String, remedy: Option<String>) {
        let position = self.locate(at);
        self.problems.push(Problem { position, what, remedy });
    }

    fn locate(&self, at: usize) -> Position {
        let before = self.text.get(..at).unwrap_or(self.text);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Position {
            line: before.matches('\n').count() + 1,
            column: before[start..].chars().count() + 1,
        }
    }

    fn sorted(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|problem| problem.position);
        self.problems
    }
}

impl<'d> Section<'_, '_, 'd> {
    fn cluster(mut self) -> ClusterConfig {
        self.refuse_inline("password", "password");
        let read = ClusterConfig {
            endpoints: self.strings("endpoints"),
            discovery_srv: self.string("discovery-srv"),
            discovery_srv_name: self.string("discovery-srv-name"),
            discovery_srv_nameserver: self.nameserver(),
            cacert: self.path("cacert"),
            cert: self.path("cert"),
            key: self.path("key"),
            user: self.string("user"),
            password: self.secret("password"),
            dial_timeout: self.duration("dial-timeout"),
            command_timeout: self.duration("command-timeout"),
            kubeconfig: self.path("kubeconfig"),
            vault: self.string("vault"),
            nodes: self.strings("nodes"),
            state_paths: self.state_paths(),
            allow_unencrypted_state: self.boolean("allow-unencrypted-state"),
            owner: self.string("owner"),
        };
        for text in &read.endpoints {
            if let Err(error) = Endpoint::parse(text, read.tls_default()) {
                self.wrong("endpoints", error.to_string(), "https://10.0.0.11:2379, for example");
            }
        }
        if !read.endpoints.is_empty() && read.discovery_srv.is_some() {
            let what = "`discovery-srv` stands beside `endpoints`".to_owned();
            self.wrong("discovery-srv", what, "the members come from one of them");
        }
        if let Some(domain) = &read.discovery_srv
            && let Err(why) = super::connection::check_domain(domain)
        {
            self.wrong("discovery-srv", why, "example.com, for example");
        }
        if let Some(name) = &read.discovery_srv_name
            && let Err(why) = super::connection::check_label(name)
        {
            self.wrong("discovery-srv-name", why, "letters, digits and hyphens");
        }
        for (key, is_there) in [
            ("discovery-srv-name", read.discovery_srv_name.is_some()),
            ("discovery-srv-nameserver", read.discovery_srv_nameserver.is_some()),
        ] {
            if is_there && read.discovery_srv.is_none() {
                let what = format!("`{key}` stands without `discovery-srv`");
                self.wrong(key, what, "add discovery-srv = \"DOMAIN\"");
            }
        }
        for (one, other, missing) in [
            ("cert", "key", read.cert.is_some() && read.key.is_none()),
            ("key", "cert", read.key.is_some() && read.cert.is_none()),
        ] {
            if missing {
                let what = format!("`{one}` stands without `{other}`");
                self.wrong(one, what, &format!("add {other} = \"FILE\""));
            }
        }
        if read.user.as_ref().is_some_and(|user| user.contains(':')) {
            let what = "`user` holds a password".to_owned();
            self.wrong("user", what, "user = \"NAME\" and password-file = \"FILE\"");
        }
        if read.password.is_some() && read.user.is_none() {
            let at = self.secret_key("password");
            self.wrong(&at, "a password stands without a user".to_owned(), "add user = \"NAME\"");
        }
        self.end();
        read
    }

    fn node(mut self) -> NodeConfig {
        let read = NodeConfig {
            address: self.string("address"),
            ssh: self.string("ssh"),
            sudo: self.boolean("sudo"),
            agent: self.path("agent"),
            roles: self.roles(),
        };
        // The destination is an argument of ssh: it must not be taken for an option.
        for (key, value) in [("address", &read.address), ("ssh", &read.ssh)] {
            let Some(value) = value else { continue };
            if value.starts_with('-') || value.chars().any(|c| c.is_whitespace() || c.is_control())
            {
                let what = format!("`{key}` is no name or address of a machine");
                self.wrong(key, what, "10.0.0.11, cp1.example.com or, with ssh, user@cp1");
            }
        }
        if read.agent.as_ref().is_some_and(|path| !path.is_absolute()) {
            let what = "`agent` is no absolute path, and it is one on the node".to_owned();
            self.wrong("agent", what, "/usr/bin/etcdvault, for example");
        }
        self.end();
        read
    }

    fn vault(mut self, at: usize) -> VaultConfig {
        for secret in ["identity", "passphrase"] {
            self.refuse_inline(secret, secret);
        }
        for name in S3_SECRETS {
            if let Some(found) = self.peek(name) {
                let remedy = "the credentials of S3 come from the AWS variables, a profile \
                    (s3-profile) or the machine's role";
                let what = format!("the key itself does not belong into this file: `{name}`");
                self.reader.problem(found.at, what, Some(remedy.to_owned()));
            }
        }
        let mut read = VaultConfig {
            location: self.string("location").unwrap_or_default(),
            s3: BTreeMap::new(),
            recipients: self.strings("recipients"),
            identity: self.secret("identity"),
            passphrase: self.secret("passphrase"),
            compression_level: self.number("compression-level", 1, 19),
            workers: self.number("workers", 1, 64),
            spool_dir: self.path("spool-dir"),
            spool_limit: self.number("spool-limit", 0, i64::from(u32::MAX)),
        };
        let mut s3 = S3Config::from_url("s3://bucket").ok();
        for &(name, _) in OPTIONS {
            let key = format!("s3-{name}");
            let Some(value) = self.text_or_number(&key) else { continue };
            if let Some(Err(error)) = s3.as_mut().map(|config| config.set(name, &value)) {
                self.wrong(&key, error.to_string(), "docs/s3.md says what it takes");
            }
            read.s3.insert(name, value);
        }
        if self.entries.keys().all(|key| key.get_ref() != "location") {
            let what = format!("[{}] has no location", self.name);
            let remedy = "add location = \"/srv/etcd-vault\" or \"s3://bucket/prefix\"";
            self.reader.problem(at, what, Some(remedy.to_owned()));
        } else if !read.location.is_empty()
            && let Err(error) = place::location(&read.location)
        {
            self.wrong("location", error.what, "a directory, or s3://bucket/prefix");
        } else if !read.location.starts_with("s3://")
            && let Some(name) = read.s3.keys().next()
        {
            let what = format!("`s3-{name}` stands beside a location that is not on S3");
            self.wrong(&format!("s3-{name}"), what, "a vault on S3 is named s3://bucket/prefix");
        }
        if !read.recipients.is_empty()
            && vault::encryption::parse_recipients(&read.recipients).is_err()
        {
            let what = "`recipients` holds something else than age public keys".to_owned();
            self.wrong("recipients", what, "age1…, as age-keygen prints them");
        }
        if read.identity.is_some() && read.passphrase.is_some() {
            let at = self.secret_key("passphrase");
            let what = "a passphrase stands beside an identity".to_owned();
            self.wrong(&at, what, "a vault is opened by one of them");
        }
        self.end();
        read
    }

    fn peek(&self, key: &str) -> Option<Found<'d>> {
        let (key, value) = self.entries.iter().find(|(found, _)| found.get_ref() == key)?;
        Some(Found { value: value.get_ref(), at: key.span().start })
    }

    /// The value of `key`, which is known from now on.
    fn take(&mut self, key: &str) -> Option<Found<'d>> {
        self.known.push(key.to_owned());
        let found = self.peek(key)?;
        let position = self.reader.locate(found.at);
        self.reader.positions.insert((self.name.clone(), key.to_owned()), position);
        Some(found)
    }

    /// Says that `key`, which is there, is wrong.
    fn wrong(&mut self, key: &str, what: String, remedy: &str) {
        let at = self.peek(key).map_or(0, |found| found.at);
        let what = format!("{what}, in [{}]", self.name);
        self.reader.problem(at, what, Some(remedy.to_owned()));
    }

    fn string(&mut self, key: &str) -> Option<String> {
        let found = self.take(key)?;
        let text = match found.value {
            DeValue::String(text) => text.as_ref(),
            _ => {
                self.wrong(key, format!("`{key}` is no text"), &format!("{key} = \"…\""));
                return None;
            }
        };
        self.plain(key, text)
    }

    /// A text that can be used: not empty, no control characters, no secret.
    fn plain(&mut self, key: &str, text: &str) -> Option<String> {
        if let Some(what) = secret_inside(text) {
            let remedy = format!("give the name of a file that holds it; `{key}` takes no {what}");
            self.wrong(key, format!("a {what} does not belong into this file"), &remedy);
            return None;
        }
        if text.trim().is_empty() {
            self.wrong(key, format!("`{key}` is empty"), "leave the line out");
            return None;
        }
        if text.chars().any(char::is_control) {
            let what = format!("`{key}` holds control characters");
            self.wrong(key, what, "write it on one line, without \\ escapes");
            return None;
        }
        Some(text.to_owned())
    }

    fn strings(&mut self, key: &str) -> Vec<String> {
        let Some(found) = self.take(key) else { return Vec::new() };
        let list = match found.value {
            DeValue::Array(list) => list,
            _ => {
                self.wrong(key, format!("`{key}` is no list"), &format!("{key} = [\"…\", \"…\"]"));
                return Vec::new();
            }
        };
        let mut texts = Vec::new();
        for value in list.iter() {
            match value.get_ref() {
                DeValue::String(text) => texts.extend(self.plain(key, text)),
                _ => self.wrong(key, format!("`{key}` holds something else than texts"), "\"…\""),
            }
        }
        if list.is_empty() {
            self.wrong(key, format!("`{key}` is empty"), "leave the line out");
        }
        for (i, text) in texts.iter().enumerate() {
            if texts[..i].contains(text) {
                let what = format!("`{key}` holds `{}` twice", shown(text));
                self.wrong(key, what, "name each once");
            }
        }
        texts
    }

    fn text_or_number(&mut self, key: &str) -> Option<String> {
        self.known.push(key.to_owned());
        match self.peek(key)?.value {
            DeValue::Integer(number) if number.radix() == 10 => {
                self.take(key);
                Some(number.as_str().to_owned())
            }
            _ => self.string(key),
        }
    }

    fn path(&mut self, key: &str) -> Option<PathBuf> {
        let text = self.string(key)?;
        if text.starts_with("~/") || text.contains("$HOME") {
            let what = format!("`{key}` begins in a home directory, and no shell reads this file");
            self.wrong(key, what, "write the whole path");
            return None;
        }
        Some(PathBuf::from(text))
    }

    fn boolean(&mut self, key: &str) -> Option<bool> {
        match self.take(key)?.value {
            DeValue::Boolean(value) => Some(*value),
            _ => {
                self.wrong(key, format!("`{key}` is neither true nor false"), "without quotes");
                None
            }
        }
    }

    fn number<T: TryFrom<i64>>(&mut self, key: &str, least: i64, most: i64) -> Option<T> {
        let found = self.take(key)?;
        let number = match found.value {
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        let fits = number.filter(|number| (least..=most).contains(number));
        let converted = fits.and_then(|number| T::try_from(number).ok());
        if converted.is_none() {
            let what = format!("`{key}` is no number from {least} to {most}");
            self.wrong(key, what, "without quotes");
        }
        converted
    }

    fn duration(&mut self, key: &str) -> Option<String> {
        let text = self.string(key)?;
        if let Err(error) = duration(&format!("`{key}`"), &text) {
            let remedy = error.hint.unwrap_or_default();
            self.wrong(key, error.what, &remedy);
        }
        Some(text)
    }

    fn nameserver(&mut self) -> Option<std::net::SocketAddr> {
        const KEY: &str = "discovery-srv-nameserver";
        let text = self.string(KEY)?;
        let server = super::connection::nameserver(&text);
        if server.is_none() {
            self.wrong(KEY, format!("`{KEY}` is no IP address"), "10.0.0.2 or 10.0.0.2:53");
        }
        server
    }

    fn state_paths(&mut self) -> Vec<PathBuf> {
        const KEY: &str = "state-paths";
        let paths: Vec<PathBuf> = self.strings(KEY).into_iter().map(PathBuf::from).collect();
        for path in &paths {
            let dots = path.components().any(|part| part == std::path::Component::ParentDir);
            if !path.is_absolute() || dots {
                let what = format!("`{}` is no absolute path", shown(&path.display().to_string()));
                self.wrong(KEY, what, "these are paths on the nodes");
            }
        }
        paths
    }

    fn roles(&mut self) -> Vec<Role> {
        let mut roles = Vec::new();
        for text in self.strings("roles") {
            match Role::ALL.iter().find(|(name, _)| *name == text) {
                Some((_, role)) => roles.push(*role),
                None => {
                    let what = format!("`{}` is no role", shown(&text));
                    self.wrong("roles", what, "etcd, apiserver or client");
                }
            }
        }
        roles
    }

    /// The source of a secret: at most one of `…-file`, `-env`, `-credential`, `-command`.
    fn secret(&mut self, what: &str) -> Option<SecretSource> {
        let key = |kind: &str| format!("{what}-{kind}");
        let mut sources = Vec::new();
        sources.extend(self.path(&key("file")).map(|v| (key("file"), SecretSource::File(v))));
        sources.extend(self.string(&key("env")).map(|v| (key("env"), SecretSource::Env(v))));
        if let Some(SecretSource::Env(name)) = sources.last().map(|(_, source)| source)
            && !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        {
            let wrong = format!("`{}` is no name of a variable", key("env"));
            self.wrong(&key("env"), wrong, "ETCD_PASSWORD, for example, without $");
        }
        let credential = self.string(&key("credential"));
        if credential.as_ref().is_some_and(|name| name.contains('/') || name.starts_with('.')) {
            let wrong = format!("`{}` is no name of a credential", key("credential"));
            self.wrong(&key("credential"), wrong, "the name in LoadCredential=, without a path");
        }
        sources.extend(credential.map(|v| (key("credential"), SecretSource::Credential(v))));
        let command = self.string(&key("command"));
        sources.extend(command.map(|v| (key("command"), SecretSource::Command(v))));
        if let [(first, _), (second, _), ..] = &sources[..] {
            let wrong = format!("`{second}` stands beside `{first}`");
            let second = second.clone();
            self.wrong(&second, wrong, &format!("the {what} comes from one place"));
        }
        sources.into_iter().next().map(|(_, source)| source)
    }

    /// The key by which a secret's source was given.
    fn secret_key(&self, what: &str) -> String {
        ["file", "env", "credential", "command"]
            .iter()
            .map(|kind| format!("{what}-{kind}"))
            .find(|key| self.peek(key).is_some())
            .unwrap_or_else(|| what.to_owned())
    }

    /// Refuses a secret where only its source may stand.
    fn refuse_inline(&mut self, key: &str, what: &str) {
        let Some(found) = self.peek(key) else { return };
        let remedy = format!("write {key}-file, {key}-env, {key}-credential or {key}-command");
        let wrong = format!("the {what} itself does not belong into this file: `{key}`");
        self.reader.problem(found.at, wrong, Some(remedy));
        self.known.push(key.to_owned());
    }

    /// Whatever nobody took is unknown.
    fn end(self) {
        let hidden = ["password", "identity", "passphrase"];
        let known: Vec<&str> =
            self.known.iter().map(String::as_str).filter(|key| !hidden.contains(key)).collect();
        for key in self.entries.keys() {
            let name = key.get_ref().as_ref();
            if self.known.iter().any(|known| known == name) || S3_SECRETS.contains(&name) {
                continue;
            }
            let what = format!("unknown key `{}` in [{}]", shown(name), self.name);
            let remedy = suggestion(name, &known);
            self.reader.problem(key.span().start, what, remedy);
        }
        self.reader.keys = known.into_iter().map(str::to_owned).collect();
        self.reader.keys.sort();
        self.reader.keys.dedup();
    }
}

/// What sort of secret `text` is, if it looks like one.
fn secret_inside(text: &str) -> Option<&'static str> {
    if text.to_ascii_uppercase().contains("AGE-SECRET-KEY-") {
        Some("secret age identity")
    } else if text.contains("-----BEGIN ") && text.contains("PRIVATE KEY") {
        Some("private key")
    } else if text.contains("-----BEGIN ") {
        Some("PEM block")
    } else {
        None
    }
}

/// A text of the file in a message: short and on one line.
fn shown(text: &str) -> String {
    let mut short: String = text.chars().filter(|c| !c.is_control()).take(60).collect();
    if secret_inside(text).is_some() {
        return "…".to_owned();
    }
    if text.chars().count() > 60 {
        short.push('…');
    }
    short
}

/// `did you mean …?`, when one of `known` is near.
pub(super) fn suggestion(name: &str, known: &[&str]) -> Option<String> {
    let plain = name.to_ascii_lowercase().replace('_', "-");
    let best = known.iter().map(|other| (distance(&plain, other), *other)).min()?;
    let bound = (plain.chars().count() / 3).clamp(1, 3);
    (best.0 <= bound).then(|| format!("did you mean `{}`?", best.1))
}

/// Edits between two words: insert, delete, replace, swap of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let b: Vec<char> = b.chars().take(64).collect();
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests;
