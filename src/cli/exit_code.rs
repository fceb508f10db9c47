//! The exit codes: a documented set, see `docs/guide/exit-codes.md`.

use std::process::ExitCode;

use crate::operation::FailureKind;

/// Why the program ended, as a shell sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything that was asked for was done and verified.
    Ok,
    /// Done, but not all of it: not proven, or a member did not answer.
    Partial,
    /// Done, and what was found is bad: corruption or a mismatch.
    Corrupt,
    /// Not done.
    Failed(FailureKind),
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Partial => 3,
            Self::Corrupt => 20,
            Self::Failed(kind) => match kind {
                FailureKind::Error => 1,
                FailureKind::Usage => 2,
                FailureKind::NoVault => 10,
                FailureKind::Busy => 11,
                FailureKind::Key => 12,
                FailureKind::Corrupt => 20,
                FailureKind::Etcd => 30,
                FailureKind::Storage => 40,
                // As a shell reports a process that the signal ended.
                FailureKind::Signal(signal) => 128 + u8::try_from(signal).unwrap_or(0),
            },
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
