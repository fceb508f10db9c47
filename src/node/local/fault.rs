//! Why something failed here, before the node's name and the act are known.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::io::Errno;

use super::super::{NodeError, NodeErrorKind, NodeName};

/// A kind and a reason.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) kind: NodeErrorKind,
    pub(super) why: String,
    pub(super) details: Vec<String>,
    pub(super) hint: Option<String>,
}

impl Fault {
    pub(super) fn new(kind: NodeErrorKind, why: impl Into<String>) -> Self {
        Self { kind, why: why.into(), details: Vec::new(), hint: None }
    }

    pub(super) fn unexpected(why: impl Into<String>) -> Self {
        Self::new(NodeErrorKind::Unexpected, why)
    }

    pub(super) fn unsupported(why: impl Into<String>) -> Self {
        Self::new(NodeErrorKind::Unsupported, why)
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same, saying at which path below the one that was asked for.
    pub(super) fn at(mut self, path: &Path) -> Self {
        self.why = format!("{}: {}", path.display(), self.why);
        self
    }

    pub(super) fn of(self, node: &NodeName, act: &str) -> NodeError {
        let mut error = NodeError::new(node, self.kind, act, self.why);
        error.details = self.details;
        error.hint = self.hint.or_else(|| remedy(self.kind).map(str::to_owned));
        error
    }
}

/// What a person can do where the kind alone tells.
fn remedy(kind: NodeErrorKind) -> Option<&'static str> {
    match kind {
        NodeErrorKind::NoSpace => Some("make room on the node: df -h shows which disk is full"),
        NodeErrorKind::ReadOnly => Some(
            "the disk takes no writes: findmnt on the node shows how it is mounted, dmesg whether \
             it has failed",
        ),
        _ => None,
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl From<Errno> for Fault {
    fn from(error: Errno) -> Self {
        Self::from(io::Error::from(error))
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        let kind = match Errno::from_io_error(&error) {
            Some(Errno::NOENT) => NodeErrorKind::NotFound,
            Some(Errno::EXIST | Errno::NOTEMPTY) => NodeErrorKind::AlreadyExists,
            Some(Errno::ACCESS | Errno::PERM) => NodeErrorKind::Permission,
            Some(Errno::NOSPC | Errno::DQUOT) => NodeErrorKind::NoSpace,
            Some(Errno::ROFS) => NodeErrorKind::ReadOnly,
            Some(Errno::NOTDIR | Errno::ISDIR) => NodeErrorKind::Unexpected,
            Some(Errno::LOOP) => {
                return Self::unexpected("a symbolic link stands there, which is not followed");
            }
            Some(Errno::XDEV) => {
                return Self::unsupported("the two are on different file systems");
            }
            Some(Errno::NOTSUP | Errno::NOSYS) => NodeErrorKind::Unsupported,
            _ => match error.kind() {
                io::ErrorKind::NotFound => NodeErrorKind::NotFound,
                io::ErrorKind::TimedOut => NodeErrorKind::Slow,
                _ => NodeErrorKind::Other,
            },
        };
        Self::new(kind, words(&error))
    }
}

/// The system's message without Rust's `(os error N)`.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    let mut chars = text[..end].chars();
    let first = chars.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(chars).collect()
}

/// Work on a thread: whether it goes on, and whether it shall.
#[derive(Debug, Default)]
pub(super) struct Task {
    done: AtomicU64,
    cancelled: AtomicBool,
}

impl Task {
    /// Says that something was done; fails when nobody waits for it any more.
    pub(super) fn tick(&self) -> Result<(), Fault> {
        self.done.fetch_add(1, Ordering::Relaxed);
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Fault::new(NodeErrorKind::Lost, "whoever asked for it is gone"));
        }
        Ok(())
    }

    pub(super) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}
