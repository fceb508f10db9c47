//! Where a machine's files are.

use std::path::{Path, PathBuf};

/// The root below which the usual places are: `/`, or another in tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places(pub PathBuf);

impl Default for Places {
    fn default() -> Self {
        Self(PathBuf::from("/"))
    }
}

impl Places {
    /// Whether they are a machine's own: below another root nothing that runs on the
    /// machine counts.
    pub fn are_the_machines(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// The place that is usually at the absolute path `usual`.
    pub fn at(&self, usual: &str) -> PathBuf {
        self.0.join(usual.trim_start_matches('/'))
    }
}
