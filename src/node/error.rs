//! Why something could not be done on a node.

use super::NodeName;

/// What kind of failure it was; decides what is tried next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeErrorKind {
    /// The connection is gone, or never came to be: nothing is known of the call.
    Lost,
    /// The node answers, the call did not end within its deadline.
    Slow,
    /// There is nothing at that path, or no such unit or container.
    NotFound,
    /// Something stands there already.
    AlreadyExists,
    /// The node's user may not do that.
    Permission,
    /// No space left.
    NoSpace,
    /// The file system is read-only.
    ReadOnly,
    /// What stands there is not what was expected, or too large.
    Unexpected,
    /// A unit or pod did not come to the state that was asked for.
    Failed,
    /// The node runs another etcdvault, or cannot do this at all.
    Unsupported,
    /// Anything else.
    Other,
}

/// A failed call: which node, which act, why, and what to do.
#[derive(Debug, Clone, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("{node}: {act}: {why}")]
pub struct NodeError {
    /// The node.
    pub node: NodeName,
    /// What kind of failure it was.
    pub kind: NodeErrorKind,
    /// What was to be done, as a fragment: `rename /a to /b`.
    pub act: String,
    /// Why it was not, as a fragment. Never holds a secret.
    pub why: String,
    /// More lines, such as the last of a unit's journal.
    pub details: Vec<String>,
    /// What a person can do.
    pub hint: Option<String>,
}

impl NodeError {
    /// A failure of `kind` to do `act` on `node`.
    pub fn new(
        node: &NodeName,
        kind: NodeErrorKind,
        act: impl Into<String>,
        why: impl Into<String>,
    ) -> Self {
        Self {
            node: node.clone(),
            kind,
            act: act.into(),
            why: why.into(),
            details: Vec::new(),
            hint: None,
        }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
