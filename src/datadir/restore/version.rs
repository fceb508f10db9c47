//! Whether an etcd of some version can run what a database holds.
//!
//! etcd goes up from one minor version to the next and not down: 3.6 and 3.7
//! refuse a store or a cluster version above their own at the start; 3.4 and
//! 3.5 do not look and run on what they may not understand.
//!
//! Source: `server/storage/schema/schema.go` (`UnsafeMigrate`, `Validate`),
//! `server/etcdserver/api/membership/downgrade.go` (`mustDetectDowngrade`) @ v3.6.14.

use std::fmt;
use std::str::FromStr;

use crate::datadir::schema::{Content, VersionEvidence};

/// A version of etcd, as far as compatibility goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EtcdVersion {
    /// 3.
    pub major: u32,
    /// 4 to 7 so far.
    pub minor: u32,
}

/// Text that is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a version such as 3.6 or 3.6.16")]
pub struct VersionError(String);

impl FromStr for EtcdVersion {
    type Err = VersionError;

    /// Reads `3.6`, `3.6.16` or `v3.6.16-rc.0`.
    fn from_str(text: &str) -> Result<Self, VersionError> {
        let error = || VersionError(text.chars().take(40).collect());
        let mut parts = text.strip_prefix('v').unwrap_or(text).splitn(3, '.');
        let mut number = || {
            let part = parts.next()?;
            let digits = (1..=4).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| part.parse().ok()).flatten()
        };
        Ok(Self { major: number().ok_or_else(error)?, minor: number().ok_or_else(error)? })
    }
}

impl fmt::Display for EtcdVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The first version that looks at the versions in the store.
const LOOKS: EtcdVersion = EtcdVersion { major: 3, minor: 6 };

/// A store that is newer than the etcd that shall run it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TooNew {
    /// `meta/storageVersion` is above the target.
    #[error("the store has the schema of etcd {found}; etcd {target} {}", verdict(.target))]
    Storage {
        /// The store's version.
        found: EtcdVersion,
        /// The version asked for.
        target: EtcdVersion,
    },
    /// `cluster/clusterVersion` is above the target.
    #[error("the cluster had agreed on version {found}; etcd {target} {}", verdict(.target))]
    Cluster {
        /// The cluster's version.
        found: EtcdVersion,
        /// The version asked for.
        target: EtcdVersion,
    },
    /// Fields that 3.5 writes, and an older target.
    #[error("the store was written by etcd 3.5 or later; etcd {target} {}", verdict(.target))]
    Since3_5 {
        /// The version asked for.
        target: EtcdVersion,
    },
    /// A version in the store that cannot be read.
    #[error("the store names a version that cannot be read")]
    Unreadable(#[source] VersionError),
}

fn verdict(target: &EtcdVersion) -> &'static str {
    if *target >= LOOKS {
        "refuses to start on it"
    } else {
        "would start without looking, on content that it may misread"
    }
}

/// Checks a store against the version that shall run it. All that the store
/// says of itself is taken into account, not the strongest evidence alone.
pub fn check(content: &Content, target: EtcdVersion) -> Result<(), TooNew> {
    let read = |text: &Option<String>| {
        text.as_deref().map(EtcdVersion::from_str).transpose().map_err(TooNew::Unreadable)
    };
    if let Some(found) = read(&content.storage_version)?
        && found > target
    {
        return Err(TooNew::Storage { found, target });
    }
    if let Some(found) = read(&content.cluster_version)?
        && found > target
    {
        return Err(TooNew::Cluster { found, target });
    }
    let since_3_5 = EtcdVersion { major: 3, minor: 5 };
    // A cluster version that was agreed on is better evidence than a field
    // that one member, tried for a while, has left behind.
    if content.version_evidence() == VersionEvidence::Since3_5 && target < since_3_5 {
        return Err(TooNew::Since3_5 { target });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(storage: Option<&str>, cluster: Option<&str>, term: Option<u64>) -> Content {
        Content {
            storage_version: storage.map(Into::into),
            cluster_version: cluster.map(Into::into),
            term,
            ..Content::default()
        }
    }

    #[test]
    fn versions() {
        let version = |text: &str| text.parse::<EtcdVersion>().unwrap().to_string();
        assert_eq!(version("3.6"), "3.6");
        assert_eq!(version("v3.10.2-rc.0"), "3.10");
        assert!(EtcdVersion { major: 3, minor: 10 } > EtcdVersion { major: 3, minor: 9 });
        for wrong in ["", "3", "3.x", "3.", "-3.4", "3.+4", "3.99999", "latest"] {
            assert!(wrong.parse::<EtcdVersion>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn newer_stores_are_refused_with_the_reason() {
        let target = |text: &str| text.parse::<EtcdVersion>().unwrap();
        let newer = content(Some("3.7.0"), Some("3.7.0"), Some(4));
        assert_eq!(check(&newer, target("3.7.3")), Ok(()));
        assert_eq!(
            check(&newer, target("3.6.16")).unwrap_err().to_string(),
            "the store has the schema of etcd 3.7; etcd 3.6 refuses to start on it"
        );
        let error = check(&newer, target("3.5")).unwrap_err().to_string();
        assert!(error.ends_with("would start without looking, on content that it may misread"));
        let agreed = content(Some("3.6.0"), Some("3.7.0"), None);
        assert!(matches!(check(&agreed, target("3.6")), Err(TooNew::Cluster { .. })));
        let old = content(None, Some("3.4.0"), None);
        assert_eq!(check(&old, target("3.4")), Ok(()));
        assert_eq!(check(&old, target("3.7")), Ok(()));
        let fresh = content(None, None, Some(2));
        assert!(matches!(check(&fresh, target("3.4")), Err(TooNew::Since3_5 { .. })));
        assert_eq!(check(&fresh, target("3.5")), Ok(()));
        let hostile = content(Some("\u{1b}[2J"), None, None);
        assert!(matches!(check(&hostile, target("3.6")), Err(TooNew::Unreadable(_))));
    }
}
