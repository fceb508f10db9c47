//! Two states, or a state and what the nodes are now: the topology first, then each
//! file. Only files that differ are read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;
use vault::digest::Sha256;
use vault::repository::{Backup, Repository};

use super::describe::{ClusterSeen, Description, Program};
use super::index::{File, Kind, NodeIndex};
use super::mask::{self, Salt};
use super::save::{SaveOptions, capture};
use super::{find, show};
use crate::node::{Node, NodeErrorKind, NodeName};
use crate::operation::failure::{Failure, FailureKind, chain};

/// The largest text that is compared line by line.
const MAX_TEXT: u64 = 1 << 20;
/// The longest difference of one file that is kept, in bytes.
const MAX_DIFF: usize = 256 << 10;
/// Lines around a difference.
const CONTEXT: usize = 3;
/// Bound on comparing two texts.
const DIFF_TIME: std::time::Duration = std::time::Duration::from_secs(5);

/// One of the two states that are compared.
#[derive(Debug)]
pub enum Side<'a> {
    /// A stored one.
    Stored(&'a Backup),
    /// The nodes as they are now.
    Now {
        /// The nodes.
        nodes: &'a [Arc<dyn Node>],
        /// What is looked at.
        options: &'a SaveOptions,
        /// The cluster, where a member answers.
        cluster: Option<ClusterSeen>,
    },
}

/// What was compared.
#[derive(Debug, Clone, Serialize)]
pub struct Compared {
    /// The backup's id; `None` for now.
    pub id: Option<String>,
    /// When it was taken.
    pub taken: DateTime<Utc>,
}

/// A difference of what runs where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drift {
    /// The node; `None` for the cluster.
    pub node: Option<String>,
    /// What differs, as a fragment.
    pub what: String,
    /// What it was; `None` where it was not there.
    pub was: Option<String>,
    /// What it is; `None` where it is gone.
    pub is: Option<String>,
}

/// How a file differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It is only in the later state.
    Added,
    /// It is only in the earlier state.
    Removed,
    /// Its content differs, or what it is.
    Changed,
    /// Only owner, mode or extended attributes differ.
    Attributes,
}

/// A file that differs.
#[derive(Debug, Clone, Serialize)]
pub struct FileDiff {
    /// Its path.
    pub path: String,
    /// How it differs.
    pub change: Change,
    /// What differs beside the content, one line each.
    pub attributes: Vec<String>,
    /// A unified diff of the texts, secrets hidden.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Why there is no text: it is binary, too large, or not to be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_text: Option<String>,
}

/// A node of either state.
#[derive(Debug, Clone, Serialize)]
pub struct NodeDiff {
    /// The node.
    pub node: String,
    /// Whether it is only in one state: `Added` or `Removed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub only: Option<Change>,
    /// Files that differ, by path.
    pub files: Vec<FileDiff>,
    /// Why it could not be compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How two states differ.
#[derive(Debug, Clone, Serialize)]
pub struct DiffReport {
    /// The earlier one, or the one that was named first.
    pub from: Compared,
    /// The other one.
    pub to: Compared,
    /// Whether nothing differs.
    pub equal: bool,
    /// What runs where.
    pub topology: Vec<Drift>,
    /// Nodes with differences, or that could not be compared.
    pub nodes: Vec<NodeDiff>,
}

impl DiffReport {
    /// Whether every node could be compared.
    pub fn complete(&self) -> bool {
        self.nodes.iter().all(|node| node.error.is_none())
    }
}

/// A side, read.
struct Read<'a> {
    compared: Compared,
    cluster: Option<ClusterSeen>,
    nodes: BTreeMap<String, Result<NodeIndex, String>>,
    side: &'a Side<'a>,
}

/// Compares two states: of one node, or of all that either holds.
pub async fn diff(
    repository: &Repository,
    from: &Side<'_>,
    to: &Side<'_>,
    node: Option<&NodeName>,
) -> Result<DiffReport, Failure> {
    let (from, to) = (read(repository, from, node).await?, read(repository, to, node).await?);
    let salt = Salt::generate();
    let mut topology = cluster_drift(from.cluster.as_ref(), to.cluster.as_ref());
    let names: BTreeSet<&String> = from.nodes.keys().chain(to.nodes.keys()).collect();
    let mut nodes = Vec::new();
    for name in names {
        let mut found = NodeDiff { node: name.clone(), only: None, files: Vec::new(), error: None };
        match (from.nodes.get(name), to.nodes.get(name)) {
            (Some(Ok(was)), Some(Ok(is))) => {
                topology.extend(drift(name, &was.description, &is.description));
                let both = Both { repository, from: &from, to: &to, was, is, salt: &salt };
                found.files = both.files().await?;
            }
            (Some(Err(why)), _) | (_, Some(Err(why))) => found.error = Some(why.clone()),
            (Some(Ok(_)), None) => found.only = Some(Change::Removed),
            (None, Some(Ok(_))) => found.only = Some(Change::Added),
            (None, None) => {}
        }
        if !found.files.is_empty() || found.only.is_some() || found.error.is_some() {
            nodes.push(found);
        }
    }
    Ok(DiffReport {
        equal: topology.is_empty() && nodes.is_empty(),
        from: from.compared,
        to: to.compared,
        topology,
        nodes,
    })
}

async fn read<'a>(
    repository: &Repository,
    side: &'a Side<'a>,
    only: Option<&NodeName>,
) -> Result<Read<'a>, Failure> {
    let mut nodes = BTreeMap::new();
    match side {
        Side::Stored(backup) => {
            let manifest = &backup.manifest;
            for name in show::wanted(manifest, only)? {
                let index = find::index(repository, manifest, &name).await?;
                nodes.insert(name.to_string(), Ok(index));
            }
            Ok(Read {
                compared: Compared { id: Some(manifest.id.to_string()), taken: manifest.started },
                cluster: show::content(manifest)?.cluster,
                nodes,
                side,
            })
        }
        Side::Now { nodes: live, options, cluster } => {
            let wanted: Vec<_> =
                live.iter().filter(|node| only.is_none_or(|only| node.name() == only)).collect();
            if wanted.is_empty() {
                return Err(Failure::new(FailureKind::Usage, "there is no node to compare with")
                    .hint("name nodes with --node, or in the configuration"));
            }
            let taken = Utc::now();
            let looks = wanted.iter().map(|node| capture(node.as_ref(), options));
            for (node, index) in wanted.iter().zip(futures_util::future::join_all(looks).await) {
                let index = index.map_err(|error| chain(&error).join(": "));
                nodes.insert(node.name().to_string(), index);
            }
            let compared = Compared { id: None, taken };
            Ok(Read { compared, cluster: cluster.clone(), nodes, side })
        }
    }
}

/// What differs between two views of the cluster. Where nobody answered on one side,
/// nothing is known and nothing is said.
fn cluster_drift(was: Option<&ClusterSeen>, is: Option<&ClusterSeen>) -> Vec<Drift> {
    let (Some(was), Some(is)) = (was, is) else { return Vec::new() };
    let mut found = Vec::new();
    let mut tell = |what: String, was: Option<String>, is: Option<String>| {
        if was != is {
            found.push(Drift { node: None, what, was, is });
        }
    };
    tell("cluster id".into(), Some(was.cluster_id.to_string()), Some(is.cluster_id.to_string()));
    let by_id = |seen: &ClusterSeen| -> BTreeMap<u64, super::describe::MemberSeen> {
        seen.members.iter().map(|member| (member.id.0, member.clone())).collect()
    };
    let (was, is) = (by_id(was), by_id(is));
    for id in was.keys().chain(is.keys()).copied().collect::<BTreeSet<_>>() {
        let id_text = crate::types::HexId(id).to_string();
        match (was.get(&id), is.get(&id)) {
            (Some(was), Some(is)) => {
                let member = format!("member {} ({id_text})", is.name);
                tell(format!("{member}: name"), Some(was.name.clone()), Some(is.name.clone()));
                let join = |urls: &[String]| Some(urls.join(","));
                tell(format!("{member}: peer URLs"), join(&was.peer_urls), join(&is.peer_urls));
                tell(
                    format!("{member}: client URLs"),
                    join(&was.client_urls),
                    join(&is.client_urls),
                );
                let learner =
                    |learner: bool| Some(if learner { "learner" } else { "voter" }.into());
                tell(format!("{member}: role"), learner(was.is_learner), learner(is.is_learner));
                // A member that did not answer has a version all the same.
                if was.version.is_some() && is.version.is_some() {
                    tell(format!("{member}: version"), was.version.clone(), is.version.clone());
                }
            }
            (was, is) => {
                let shown = |member: &super::describe::MemberSeen| {
                    format!("{} at {}", member.name, member.peer_urls.join(","))
                };
                tell(format!("member {id_text}"), was.map(shown), is.map(shown));
            }
        }
    }
    found
}

/// What differs in how a node runs its programs.
fn drift(node: &str, was: &Description, is: &Description) -> Vec<Drift> {
    let mut found = Vec::new();
    let mut tell = |what: &str, was: Option<String>, is: Option<String>| {
        if was != is {
            found.push(Drift { node: Some(node.to_owned()), what: what.to_owned(), was, is });
        }
    };
    for (name, was, is) in
        [("etcd", &was.etcd, &is.etcd), ("kube-apiserver", &was.apiserver, &is.apiserver)]
    {
        let runs = |program: &Option<Program>| program.as_ref().map(|p| p.runs.to_string());
        tell(name, runs(was), runs(is));
        let (Some(was), Some(is)) = (was, is) else { continue };
        let running = |running: bool| Some(if running { "running" } else { "stopped" }.to_owned());
        tell(name, running(was.running), running(is.running));
        tell(&format!("{name} image"), was.image.clone(), is.image.clone());
        for option in was.options.keys().chain(is.options.keys()).collect::<BTreeSet<_>>() {
            let what = format!("{name} --{option}");
            tell(&what, was.options.get(option).cloned(), is.options.get(option).cloned());
        }
    }
    tell("machine id", was.machine_id.clone(), is.machine_id.clone());
    tell("host name", Some(was.hostname.clone()), Some(is.hostname.clone()));
    tell("addresses", Some(was.addresses.join(", ")), Some(is.addresses.join(", ")));
    for unit in was.units.keys().chain(is.units.keys()).collect::<BTreeSet<_>>() {
        let shown = |description: &Description| {
            let unit = description.units.get(unit)?;
            Some(format!("{}, {}", unit.active, unit.enabled))
        };
        tell(&format!("unit {unit}"), shown(was), shown(is));
    }
    tell("data directories", Some(was.data_dirs.join(", ")), Some(is.data_dirs.join(", ")));
    found
}

/// A node in both states.
struct Both<'a> {
    repository: &'a Repository,
    from: &'a Read<'a>,
    to: &'a Read<'a>,
    was: &'a NodeIndex,
    is: &'a NodeIndex,
    salt: &'a Salt,
}

impl Both<'_> {
    async fn files(&self) -> Result<Vec<FileDiff>, Failure> {
        let by_path = |index: &'_ NodeIndex| -> BTreeMap<String, File> {
            index.state.files.iter().map(|file| (file.path.clone(), file.clone())).collect()
        };
        let (was, is) = (by_path(self.was), by_path(self.is));
        let mut found = Vec::new();
        for path in was.keys().chain(is.keys()).collect::<BTreeSet<_>>() {
            let (old, new) = (was.get(path), is.get(path));
            let change = match (old, new) {
                (None, _) => Change::Added,
                (_, None) => Change::Removed,
                (Some(old), Some(new)) if !same_content(old, new) => Change::Changed,
                (Some(old), Some(new)) if !attributes(old, new).is_empty() => Change::Attributes,
                _ => continue,
            };
            let mut diff = FileDiff {
                path: path.clone(),
                change,
                attributes: match (old, new) {
                    (Some(old), Some(new)) => attributes(old, new),
                    _ => Vec::new(),
                },
                text: None,
                no_text: None,
            };
            let is_file = |file: Option<&File>| {
                file.is_none_or(|file| matches!(file.kind, Kind::File | Kind::HardLink))
            };
            if change != Change::Attributes && is_file(old) && is_file(new) {
                self.texts(path, old, new, &mut diff).await?;
            }
            found.push(diff);
        }
        Ok(found)
    }

    async fn texts(
        &self,
        path: &str,
        old: Option<&File>,
        new: Option<&File>,
        diff: &mut FileDiff,
    ) -> Result<(), Failure> {
        let digests = || {
            let digest = |file: Option<&File>| {
                file.and_then(|file| file.sha256)
                    .map_or_else(|| "nothing".to_owned(), |d| d.short())
            };
            format!("{} → {}", digest(old), digest(new))
        };
        if [old, new].into_iter().flatten().any(|file| file.size > MAX_TEXT) {
            diff.no_text = Some(format!("too large to be shown: {}", digests()));
            return Ok(());
        }
        let was = self.content(self.from, self.was, old).await?;
        let is = self.content(self.to, self.is, new).await?;
        let (was, is) = match (was, is) {
            (Ok(was), Ok(is)) => (was, is),
            (Err(why), _) | (_, Err(why)) => {
                diff.no_text = Some(why);
                return Ok(());
            }
        };
        let (Ok(was), Ok(is)) = (String::from_utf8(was), String::from_utf8(is)) else {
            diff.no_text = Some(format!("binary: {}", digests()));
            return Ok(());
        };
        if was.contains('\0') || is.contains('\0') {
            diff.no_text = Some(format!("binary: {}", digests()));
            return Ok(());
        }
        let (was, is) = (mask::mask(path, &was, self.salt), mask::mask(path, &is, self.salt));
        diff.text = Some(unified(path, old.is_some(), new.is_some(), &was, &is));
        Ok(())
    }

    /// The content of a file, which is empty where there is none; the inner error says
    /// why it is not to be had.
    async fn content(
        &self,
        read: &Read<'_>,
        index: &NodeIndex,
        file: Option<&File>,
    ) -> Result<Result<Vec<u8>, String>, Failure> {
        let Some(file) = file else { return Ok(Ok(Vec::new())) };
        let Some(file) = show::source(&index.state, file) else {
            return Ok(Err("it is no file".to_owned()));
        };
        match read.side {
            Side::Stored(backup) => {
                let name = NodeName::new(index.node.clone())
                    .map_err(|error| Failure::new(FailureKind::Corrupt, error.to_string()))?;
                show::read(self.repository, &backup.manifest, &name, file).await.map(Ok)
            }
            Side::Now { nodes, .. } => {
                let node = nodes.iter().find(|node| node.name().as_str() == index.node);
                let (Some(node), Some(path)) = (node, file.real_path()) else {
                    return Ok(Err("it is not to be had".to_owned()));
                };
                Ok(match node.read(&path, MAX_TEXT).await {
                    Ok(content) if file.sha256 != Some(Sha256::of(&content.bytes)) => {
                        Err("it changed while it was compared".to_owned())
                    }
                    Ok(content) => Ok(content.bytes),
                    Err(error) if error.kind == NodeErrorKind::NotFound => {
                        Err("it went away while it was compared".to_owned())
                    }
                    Err(error) => Err(error.to_string()),
                })
            }
        }
    }
}

/// Whether content and kind are the same. What a hard link is called does not matter.
fn same_content(old: &File, new: &File) -> bool {
    let kind = |file: &File| match file.kind {
        Kind::HardLink => Kind::File,
        kind => kind,
    };
    if kind(old) != kind(new) {
        return false;
    }
    match kind(old) {
        Kind::Symlink => old.target == new.target,
        Kind::Directory => true,
        Kind::File | Kind::HardLink => old.sha256 == new.sha256,
    }
}

/// What differs beside the content. Times are left out: content tells more.
fn attributes(old: &File, new: &File) -> Vec<String> {
    let mut found = Vec::new();
    if old.kind != new.kind {
        found.push(format!("{:?} → {:?}", old.kind, new.kind).to_lowercase());
    }
    // A link's own mode means nothing.
    if old.mode != new.mode && old.kind != Kind::Symlink {
        found.push(format!("mode {:04o} → {:04o}", old.mode, new.mode));
    }
    let owner = |file: &File| {
        let name = |name: &str, id: u32| {
            if name.is_empty() { id.to_string() } else { format!("{name} ({id})") }
        };
        format!("{}:{}", name(&file.owner, file.uid), name(&file.group, file.gid))
    };
    if owner(old) != owner(new) {
        found.push(format!("owner {} → {}", owner(old), owner(new)));
    }
    if old.kind == Kind::Symlink && new.kind == Kind::Symlink && old.target != new.target {
        let target = |file: &File| file.target.clone().unwrap_or_default();
        found.push(format!("leads to {} → {}", target(old), target(new)));
    }
    let names: BTreeSet<&String> = old.xattrs.keys().chain(new.xattrs.keys()).collect();
    for name in names {
        let (was, is) = (old.xattrs.get(name), new.xattrs.get(name));
        if was != is {
            let shown = |value: Option<&String>| {
                value.map_or("none", |value| value.trim_end_matches("\\x00")).to_owned()
            };
            found.push(format!("{name} {} → {}", shown(was), shown(is)));
        }
    }
    found
}

/// A unified diff, as `diff -u` prints it.
fn unified(path: &str, was_there: bool, is_there: bool, was: &str, is: &str) -> String {
    let header = |there: bool, side: &str| {
        if there { format!("{side}{path}") } else { "/dev/null".to_owned() }
    };
    let diff = similar::TextDiff::configure().timeout(DIFF_TIME).diff_lines(was, is);
    let mut text = diff
        .unified_diff()
        .context_radius(CONTEXT)
        .header(&header(was_there, "a"), &header(is_there, "b"))
        .to_string();
    if text.len() > MAX_DIFF {
        let end = (0..=MAX_DIFF).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push_str("\n… cut here: the difference is longer\n");
    }
    text
}

#[cfg(test)]
mod tests;
