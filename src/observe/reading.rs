//! Reading a node's files: what is absent is `None`, what cannot be read is a
//! finding.
//!
//! Files that will be wanted are fetched together, so that over SSH a look takes a
//! few round trips and not one for each file; what reads them afterwards finds them
//! here, in any order, each read once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use futures_util::{StreamExt as _, stream};

use super::{Finding, Places, Severity};
use crate::node::{Node, NodeError, NodeErrorKind};

/// No file that configures anything is larger.
const LIMIT: u64 = 4 << 20;
/// All of them together are not larger.
const LIMIT_TOGETHER: u64 = 64 << 20;
/// Files that are asked for at the same time.
const AT_ONCE: usize = 64;
/// Links that lead on to links.
const MAX_LINKS: usize = 8;

type Read = Result<Option<Vec<u8>>, NodeError>;

/// Reads files of one node and keeps what went wrong.
#[derive(Debug)]
pub struct Reading<'n> {
    /// The node.
    pub node: &'n dyn Node,
    /// Where its usual places are.
    pub places: &'n Places,
    /// What should be known.
    pub findings: Vec<Finding>,
    /// What could not be asked, and why.
    unseen: BTreeSet<String>,
    files: BTreeMap<PathBuf, Read>,
    bytes: u64,
}

impl<'n> Reading<'n> {
    /// Of `node`.
    pub fn new(node: &'n dyn Node, places: &'n Places) -> Self {
        Self {
            node,
            places,
            findings: Vec::new(),
            unseen: BTreeSet::new(),
            files: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// Adds a finding about the node.
    pub fn found(&mut self, severity: Severity, what: impl Into<String>) {
        self.findings.push(Finding::on(self.node.name(), severity, what));
    }

    /// Reads those of `paths` that were not read yet, many at once. What goes wrong is
    /// said to whoever wants the file.
    pub async fn fetch(&mut self, paths: impl IntoIterator<Item = PathBuf>) {
        let paths: BTreeSet<PathBuf> =
            paths.into_iter().filter(|path| !self.files.contains_key(path)).collect();
        let node = self.node;
        let room = LIMIT_TOGETHER.saturating_sub(self.bytes);
        let reads = stream::iter(paths).map(|path| async move {
            let read = fetched(node, &path).await;
            (path, read)
        });
        let mut reads = reads.buffer_unordered(AT_ONCE);
        let mut taken = 0;
        while let Some((path, mut read)) = reads.next().await {
            if let Ok(Some(bytes)) = &read {
                let size = bytes.len() as u64;
                if taken + size > room {
                    let act = format!("read {}", path.display());
                    let why = "files of configuration have more than 64 MiB together";
                    read = Err(NodeError::new(node.name(), NodeErrorKind::Unexpected, act, why));
                } else {
                    taken += size;
                }
            }
            self.files.insert(path, read);
        }
        self.bytes += taken;
    }

    /// A text that was read, where it was and is one. Nothing is said of any other.
    pub fn known(&self, path: &Path) -> Option<&str> {
        let bytes = self.files.get(path)?.as_ref().ok()?.as_ref()?;
        std::str::from_utf8(bytes).ok()
    }

    /// Every text that was read so far, by its path.
    pub fn texts(&self) -> BTreeMap<PathBuf, String> {
        let known = self.files.keys().filter_map(|path| Some((path, self.known(path)?)));
        known.map(|(path, text)| (path.clone(), text.to_owned())).collect()
    }

    /// A text file; `None` where there is none, or where it cannot be read, which
    /// is then a finding.
    ///
    /// # Errors
    /// The node is lost.
    pub async fn text(&mut self, path: &Path) -> Result<Option<String>, NodeError> {
        let Some(bytes) = self.bytes(path).await? else { return Ok(None) };
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(_) => {
                self.found(Severity::Warning, format!("{} is not UTF-8", path.display()));
                Ok(None)
            }
        }
    }

    /// A file's bytes, as [`text`](Self::text).
    ///
    /// # Errors
    /// The node is lost.
    pub async fn bytes(&mut self, path: &Path) -> Result<Option<Vec<u8>>, NodeError> {
        self.fetch([path.to_owned()]).await;
        match self.files.get(path).cloned() {
            Some(Ok(bytes)) => Ok(bytes),
            Some(Err(error)) => self.unread(path, error),
            None => Ok(None),
        }
    }

    fn unread<T>(&mut self, path: &Path, error: NodeError) -> Result<Option<T>, NodeError> {
        if error.kind == NodeErrorKind::Lost {
            return Err(error);
        }
        let what = format!("{} could not be read: {}", path.display(), error.why);
        // It may be wanted more than once.
        if !self.findings.iter().any(|finding| finding.what == what) {
            self.found(Severity::Warning, what);
        }
        Ok(None)
    }

    /// The value of a call that only some nodes can answer; a finding otherwise.
    ///
    /// # Errors
    /// The node is lost.
    pub fn optional<T: Default>(
        &mut self,
        what: &str,
        result: Result<T, NodeError>,
    ) -> Result<T, NodeError> {
        let error = match result {
            Ok(value) => return Ok(value),
            Err(error) if error.kind == NodeErrorKind::Lost => return Err(error),
            Err(error) => error,
        };
        self.unasked(&error);
        let severity = match error.kind {
            NodeErrorKind::Slow => Severity::Warning,
            _ => Severity::Note,
        };
        let what = format!("{what} could not be asked: {}", error.why);
        if !self.findings.iter().any(|finding| finding.what == what) {
            self.found(severity, what);
        }
        Ok(T::default())
    }

    /// Keeps what could not be asked, unless that is no loss.
    fn unasked(&mut self, error: &NodeError) {
        if !matches!(error.kind, NodeErrorKind::NotFound | NodeErrorKind::Unsupported) {
            self.unseen.insert(format!("{}: {}", error.act, error.why));
        }
    }

    /// Everything that could not be seen, and why.
    pub fn unseen(&self) -> Vec<String> {
        let unread = self.files.values().filter_map(|read| read.as_ref().err());
        let unread = unread.map(|error| format!("{}: {}", error.act, error.why));
        let all: BTreeSet<String> = self.unseen.iter().cloned().chain(unread).collect();
        all.into_iter().collect()
    }
}

async fn fetched(node: &dyn Node, path: &Path) -> Read {
    follow(node, path, LIMIT).await.map(|found| found.map(|(_, bytes)| bytes))
}

/// A file of configuration may be a link, as `/etc/kubernetes` often is: it is followed
/// by what the link says. Returns where that leads and what is there; `None` where there
/// is nothing.
///
/// # Errors
/// The node does not answer, or what is there is no file of at most `limit` bytes.
pub async fn follow(
    node: &dyn Node,
    path: &Path,
    limit: u64,
) -> Result<Option<(PathBuf, Vec<u8>)>, NodeError> {
    let mut at = path.to_owned();
    for _ in 0..=MAX_LINKS {
        let error = match node.read(&at, limit).await {
            Ok(file) => return Ok(Some((at, file.bytes))),
            Err(error) if error.kind == NodeErrorKind::NotFound => return Ok(None),
            // What is no file may be a link.
            Err(error) if error.kind == NodeErrorKind::Unexpected => error,
            Err(error) => return Err(error),
        };
        match node.stat(&at).await? {
            None => return Ok(None),
            Some(entry) => match entry.target {
                Some(target) => at = led(&at, &target),
                None => return Err(error),
            },
        }
    }
    let act = format!("read {}", path.display());
    let why = format!("more than {MAX_LINKS} links lead on from there");
    Err(NodeError::new(node.name(), NodeErrorKind::Unexpected, act, why))
}

/// Where the link `link` leads with `target`, upward steps taken by name.
pub fn led(link: &Path, target: &Path) -> PathBuf {
    let mut at = PathBuf::from("/");
    let whole = link.parent().unwrap_or(Path::new("/")).join(target);
    for part in whole.components() {
        match part {
            Component::Normal(name) => at.push(name),
            Component::ParentDir => drop(at.pop()),
            _ => {}
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_on() {
        for (link, target, to) in [
            ("/etc/etcd/server.crt", "/srv/pki/server.crt", "/srv/pki/server.crt"),
            ("/etc/etcd/server.crt", "live/server.crt", "/etc/etcd/live/server.crt"),
            ("/etc/live/x/cert.pem", "../../archive/x/1.pem", "/etc/archive/x/1.pem"),
            ("/a", "../../b/./c", "/b/c"),
        ] {
            assert_eq!(led(Path::new(link), Path::new(target)), Path::new(to));
        }
    }
}
