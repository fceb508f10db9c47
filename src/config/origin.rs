//! Where the value of a setting came from.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// Who said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A flag, with its dashes.
    Flag(String),
    /// A variable of the environment.
    Environment(String),
    /// A systemd credential of the unit.
    Credential(String),
    /// The configuration.
    File {
        /// Which.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
    /// Nobody.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Credential(name) => write!(f, "systemd credential {name}"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A value and who said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picked<T = String> {
    /// The value.
    pub value: T,
    /// Who said so.
    pub origin: Origin,
}

/// A setting as `config show` prints it. Never a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Effective {
    /// Its name, as in the configuration.
    pub name: String,
    /// Its value; of a secret only where it comes from.
    pub value: String,
    /// Who said so.
    pub origin: Origin,
}
