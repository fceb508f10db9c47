//! Simulated systemd: units from files, with drop-ins and environment files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::files::Tree;
use super::program::Running;

/// Where unit files are, the first before the others.
pub(super) const DIRECTORIES: [&str; 3] =
    ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];

/// Where units are linked that start at boot.
pub(super) const WANTS: &str = "/etc/systemd/system/multi-user.target.wants";

/// A unit's files as systemd read them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Loaded {
    pub(super) fragment: PathBuf,
    pub(super) drop_ins: Vec<PathBuf>,
    /// The texts, in the order in which they are read.
    pub(super) texts: Vec<String>,
}

/// A unit that systemd knows.
#[derive(Debug, Clone)]
pub(super) struct SimUnit {
    pub(super) loaded: Loaded,
    pub(super) active: &'static str,
    pub(super) sub: &'static str,
    pub(super) result: &'static str,
    pub(super) running: Option<Running>,
    pub(super) invocation: String,
    pub(super) journal: Vec<String>,
}

impl SimUnit {
    pub(super) fn new(loaded: Loaded) -> Self {
        Self {
            loaded,
            active: "inactive",
            sub: "dead",
            result: "success",
            running: None,
            invocation: String::new(),
            journal: Vec::new(),
        }
    }
}

/// The files of the unit `name` as they are now.
pub(super) fn load(tree: &Tree, name: &str) -> Option<Loaded> {
    let places = DIRECTORIES.iter().map(|directory| Path::new(directory).join(name));
    let (fragment, text) =
        places.into_iter().find_map(|path| Some((path.clone(), tree.text(&path)?)))?;
    // By name, the first directory before the others.
    let mut found: BTreeMap<std::ffi::OsString, PathBuf> = BTreeMap::new();
    for directory in DIRECTORIES {
        for path in tree.files_in(&Path::new(directory).join(format!("{name}.d"))) {
            let Some(file) =
                path.file_name().filter(|_| path.extension().is_some_and(|e| e == "conf"))
            else {
                continue;
            };
            found.entry(file.to_owned()).or_insert(path);
        }
    }
    let drop_ins: Vec<PathBuf> = found.into_values().collect();
    let mut texts = vec![text];
    texts.extend(drop_ins.iter().filter_map(|path| tree.text(path)));
    Some(Loaded { fragment, drop_ins, texts })
}

/// What a unit starts.
#[derive(Debug, Default)]
pub(super) struct Service {
    pub(super) exec: Vec<String>,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) user: Option<String>,
}

/// Understands the `[Service]` part of a unit, so far as the simulation needs it.
pub(super) fn service(loaded: &Loaded, tree: &Tree) -> Result<Service, String> {
    let mut service = Service::default();
    let mut exec = String::new();
    let mut files: Vec<String> = Vec::new();
    for text in &loaded.texts {
        let text = text.replace("\\\n", " ");
        for line in text.lines().map(str::trim) {
            let Some((key, value)) = line.split_once('=') else { continue };
            let (key, value) = (key.trim(), value.trim());
            match key {
                "ExecStart" => exec = value.to_owned(),
                "User" => service.user = (!value.is_empty()).then(|| value.to_owned()),
                "EnvironmentFile" if value.is_empty() => files.clear(),
                "EnvironmentFile" => files.push(value.to_owned()),
                "Environment" => {
                    let pairs = words(value);
                    let pairs = pairs.iter().filter_map(|pair| pair.split_once('='));
                    service.environment.extend(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())));
                }
                _ => {}
            }
        }
    }
    for file in files {
        let (path, optional) = match file.strip_prefix('-') {
            Some(path) => (path, true),
            None => (file.as_str(), false),
        };
        let Some(text) = tree.text(Path::new(path)) else {
            if optional {
                continue;
            }
            return Err(format!("Failed to load environment files: {path}"));
        };
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            if let Some((key, value)) = line.split_once('=') {
                let value = value.trim().trim_matches(['"', '\'']);
                service.environment.insert(key.trim().to_owned(), value.to_owned());
            }
        }
    }
    for word in words(&exec) {
        match word.strip_prefix('$') {
            // A variable that is a word of its own is split, as systemd does it.
            Some(name) if !name.starts_with('{') => {
                service
                    .exec
                    .extend(words(service.environment.get(name).map_or("", String::as_str)));
            }
            _ => {
                let mut text = word;
                for (name, value) in &service.environment {
                    text = text.replace(&format!("${{{name}}}"), value);
                }
                service.exec.push(text);
            }
        }
    }
    if service.exec.is_empty() {
        return Err("Unit has no ExecStart= setting. Refusing.".into());
    }
    Ok(service)
}

/// Words with quotes around some of them.
fn words(text: &str) -> Vec<String> {
    let (mut found, mut word, mut quote, mut open) = (Vec::new(), String::new(), None, false);
    for c in text.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => (quote, open) = (Some(c), true),
            (None, c) if c.is_whitespace() => {
                if open || !word.is_empty() {
                    found.push(std::mem::take(&mut word));
                }
                open = false;
            }
            (_, c) => word.push(c),
        }
    }
    if open || !word.is_empty() {
        found.push(word);
    }
    found
}

/// Whether `name` matches a glob of `*` and `?`.
pub(super) fn matches(glob: &[u8], name: &[u8]) -> bool {
    match (glob.first(), name.first()) {
        (None, None) => true,
        (Some(b'*'), _) => {
            matches(&glob[1..], name) || !name.is_empty() && matches(glob, &name[1..])
        }
        (Some(b'?'), Some(_)) => matches(&glob[1..], &name[1..]),
        (Some(a), Some(b)) => a == b && matches(&glob[1..], &name[1..]),
        _ => false,
    }
}
