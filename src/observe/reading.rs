//! Reading a node's files: what is absent is `None`, what cannot be read is a
//! finding.

use std::path::Path;

use super::{Finding, Severity};
use crate::node::{Node, NodeError, NodeErrorKind};

/// No file that configures anything is larger.
const LIMIT: u64 = 4 << 20;

/// Reads files of one node and keeps what went wrong.
#[derive(Debug)]
pub struct Reading<'n> {
    /// The node.
    pub node: &'n dyn Node,
    /// What should be known.
    pub findings: Vec<Finding>,
}

impl<'n> Reading<'n> {
    /// Of `node`.
    pub fn new(node: &'n dyn Node) -> Self {
        Self { node, findings: Vec::new() }
    }

    /// Adds a finding about the node.
    pub fn found(&mut self, severity: Severity, what: impl Into<String>) {
        self.findings.push(Finding::on(self.node.name(), severity, what));
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
        // A file of configuration may be a link, as /etc/kubernetes often is: it is
        // followed once, by what the link says.
        let mut at = path.to_owned();
        for _ in 0..8 {
            match self.node.stat(&at).await {
                Ok(None) => return Ok(None),
                Ok(Some(entry)) => match entry.target {
                    Some(target) => at = at.parent().unwrap_or(Path::new("/")).join(target),
                    None => break,
                },
                Err(error) => return self.unread(path, error),
            }
        }
        match self.node.read(&at, LIMIT).await {
            Ok(file) => Ok(Some(file.bytes)),
            Err(error) if error.kind == NodeErrorKind::NotFound => Ok(None),
            Err(error) => self.unread(path, error),
        }
    }

    fn unread<T>(&mut self, path: &Path, error: NodeError) -> Result<Option<T>, NodeError> {
        if matches!(error.kind, NodeErrorKind::Lost | NodeErrorKind::Slow) {
            return Err(error);
        }
        if error.kind != NodeErrorKind::NotFound {
            self.found(
                Severity::Warning,
                format!("{} could not be read: {}", path.display(), error.why),
            );
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
        match result {
            Ok(value) => Ok(value),
            Err(error) if matches!(error.kind, NodeErrorKind::Lost | NodeErrorKind::Slow) => {
                Err(error)
            }
            Err(error) => {
                self.found(Severity::Note, format!("{what} could not be asked: {}", error.why));
                Ok(T::default())
            }
        }
    }
}
