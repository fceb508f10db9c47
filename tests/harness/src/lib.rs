//! Real servers for the tests.
//!
//! Everything here listens on loopback with ports chosen free, ends with the
//! test process whatever way that ends, and keeps its logs when a test fails.

pub mod cache;
pub mod cli;
pub mod etcd;
pub mod fill;
pub mod hosts;
pub mod port;
pub mod process;
pub mod proxy;
pub mod s3;
pub mod tls;

use std::error::Error as StdError;
use std::fmt;

/// Why a test server or what is asked of it failed.
///
/// `Debug` prints the same text as the whole chain of `Display`, so that
/// `unwrap` in a test shows the tail of a server's log as lines.
pub struct Error {
    act: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A failed act without a deeper cause.
    pub fn new(act: impl Into<String>) -> Self {
        Self { act: act.into(), source: None }
    }

    /// A failed act and what it failed of.
    pub fn because(
        act: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { act: act.into(), source: Some(source.into()) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.act)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.act)?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(f, "\n  because: {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// What everything here returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;
