//! Which key holds what. Every key of a vault is made and parsed here, and every
//! key that parses formats to the same text again.
//!
//! ```text
//! vault.json
//! RESTORE.txt
//! clusters/<cluster>/<lineage>/lineage.json
//! clusters/<cluster>/<lineage>/manifests/2026/11/20261121T010203Z-snapshot-r<sequence>-<id>-<digest>.json
//! clusters/<cluster>/<lineage>/objects/<id>/snapshot.db.zst[.age]
//! clusters/<cluster>/<lineage>/receipts/<id>/20261121T010203.004Z-<level>-<digest>.json
//! clusters/<cluster>/<lineage>/tombstones/<id>.json
//! ```

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, NaiveDateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ulid::Ulid;

use crate::digest::{Sha256, hex, unhex};
use crate::store::Key;

/// The key of the file that makes a place a vault.
pub const VAULT_JSON: &str = "vault.json";
/// The key of the text that tells how to restore with plain tools.
pub const RESTORE_TXT: &str = "RESTORE.txt";
/// What every key of a cluster starts with.
pub const CLUSTERS: &str = "clusters/";
/// Sorts after every character that a key can have: `start_after` a folder's
/// name and this skips the folder.
pub const PAST: &str = "~";

/// A text that breaks the rule for what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {what}: {rule}")]
pub struct InvalidName {
    /// What it should have been.
    pub what: &'static str,
    /// The text as it was given, shortened.
    pub text: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

impl InvalidName {
    fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        Self { what, text: text.chars().take(120).collect(), rule }
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Checks `text` against the rule.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
                let text = text.into();
                let check: fn(&str) -> bool = $check;
                if check(&text) { Ok(Self(text)) } else { Err(InvalidName::new($what, &text, $rule)) }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

fn is_plain_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.as_bytes()[0].is_ascii_alphanumeric()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

name!(
    /// The name of a cluster: `[A-Za-z0-9][A-Za-z0-9._-]{0,62}`.
    ClusterName,
    "cluster name",
    "1 to 63 letters, digits, '.', '_' and '-', the first a letter or digit",
    is_plain_name
);
name!(
    /// The name of a lineage, under the same rule as a cluster's.
    LineageName,
    "lineage name",
    "1 to 63 letters, digits, '.', '_' and '-', the first a letter or digit",
    is_plain_name
);
name!(
    /// What sort of backup: `[a-z]([a-z-]{0,30}[a-z])?`, for example `snapshot`.
    Kind,
    "kind of backup",
    "1 to 32 lower-case letters and '-', letters at both ends",
    |text| {
        (1..=32).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-')
    }
);
name!(
    /// What an object is within a backup: `snapshot`, `node-<name>`. Longer than other
    /// names, as it may hold one.
    Role,
    "object role",
    "1 to 80 letters, digits, '.', '_' and '-', the first a letter or digit",
    |text| {
        text.len() <= 80
            && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    }
);
name!(
    /// How deep a verification went: `[a-z]([a-z-]{0,30}[a-z])?`.
    Level,
    "level of verification",
    "1 to 32 lower-case letters and '-', letters at both ends",
    |text| Kind::new(text).is_ok()
);

impl ClusterName {
    /// The folder of everything that belongs to the cluster, with a slash at its end.
    pub fn folder(&self) -> String {
        format!("{CLUSTERS}{self}/")
    }
}

/// The id of a backup: a ULID, 26 characters of Crockford's base 32 in upper case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupId(Ulid);

impl BackupId {
    /// An id from a ULID.
    pub fn new(ulid: Ulid) -> Self {
        Self(ulid)
    }

    /// A fresh id: the clock of this machine and 80 random bits.
    pub fn generate() -> Self {
        Self(Ulid::generate())
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for BackupId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        const RULE: &str = "26 digits and upper-case letters without I, L, O and U";
        let ulid =
            Ulid::from_string(text).map_err(|_| InvalidName::new("backup id", text, RULE))?;
        // The decoder takes lower case and look-alikes; a name has one spelling.
        if ulid.to_string() == text {
            Ok(Self(ulid))
        } else {
            Err(InvalidName::new("backup id", text, RULE))
        }
    }
}

impl Serialize for BackupId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BackupId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where the backups of one lineage of one cluster are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The cluster.
    pub cluster: ClusterName,
    /// Its lineage.
    pub lineage: LineageName,
}

impl Place {
    /// `clusters/<cluster>/<lineage>/`
    pub fn prefix(&self) -> String {
        format!("{CLUSTERS}{}/{}/", self.cluster, self.lineage)
    }

    /// The key of `lineage.json`.
    pub fn lineage(&self) -> Key {
        key(format!("{}lineage.json", self.prefix()))
    }

    /// The folder of an object: `…/objects/<id>/`.
    pub fn objects(&self, id: BackupId) -> String {
        format!("{}objects/{id}/", self.prefix())
    }

    /// The folder of the manifests.
    pub fn manifests(&self) -> String {
        format!("{}manifests/", self.prefix())
    }

    /// The folder of a backup's receipts.
    pub fn receipts(&self, id: BackupId) -> String {
        format!("{}receipts/{id}/", self.prefix())
    }

    /// The key of a backup's tombstone.
    pub fn tombstone(&self, id: BackupId) -> Key {
        key(format!("{}tombstones/{id}.json", self.prefix()))
    }

    /// The cluster and lineage that `key` belongs to, if it belongs to any.
    pub fn of(key: &str) -> Option<Self> {
        let mut parts = key.strip_prefix(CLUSTERS)?.splitn(3, '/');
        let cluster = ClusterName::new(parts.next()?).ok()?;
        let lineage = LineageName::new(parts.next()?).ok()?;
        parts.next()?;
        Some(Self { cluster, lineage })
    }
}

/// Everything that a manifest's key says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ManifestKey {
    /// When the backup was begun, in whole seconds, years 1970 to 9999.
    pub taken: DateTime<Utc>,
    /// The backup's id.
    pub id: BackupId,
    /// Where it belongs.
    pub place: Place,
    /// What sort of backup it is.
    pub kind: Kind,
    /// The caller's number within the lineage: etcd's revision.
    pub sequence: u64,
    /// The first eight bytes of the SHA-256 of the manifest's bytes.
    pub digest: [u8; 8],
}

const SECONDS: &str = "%Y%m%dT%H%M%SZ";

/// `20261121T010203Z` for a time of the years 1970 to 9999, cut to seconds.
pub(crate) fn stamp(time: DateTime<Utc>) -> String {
    time.format(SECONDS).to_string()
}

/// `20261121T010203.004Z`, cut to milliseconds.
pub(crate) fn stamp_millis(time: DateTime<Utc>) -> String {
    time.format("%Y%m%dT%H%M%S%.3fZ").to_string()
}

impl ManifestKey {
    /// The first 16 hexadecimal digits of the SHA-256 of `bytes`, as in names.
    pub fn digest_of(bytes: &[u8]) -> [u8; 8] {
        let mut short = [0; 8];
        short.copy_from_slice(&Sha256::of(bytes).0[..8]);
        short
    }

    /// The key.
    pub fn key(&self) -> Key {
        key(self.to_string())
    }

    /// `manifests/2026/11/20261121T010203Z` under its place: what a listing from
    /// a time starts after.
    pub fn time_prefix(place: &Place, time: DateTime<Utc>) -> String {
        format!("{}{:04}/{:02}/{}", place.manifests(), time.year(), time.month(), stamp(time))
    }
}

impl fmt::Display for ManifestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}-{}-r{:016x}-{}-{}.json",
            Self::time_prefix(&self.place, self.taken),
            self.kind,
            self.sequence,
            self.id,
            hex(&self.digest)
        )
    }
}

impl FromStr for ManifestKey {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = |rule| InvalidName::new("manifest name", text, rule);
        let place = Place::of(text).ok_or_else(|| invalid("it lies under no cluster"))?;
        let rest = text
            .strip_prefix(&place.manifests())
            .ok_or_else(|| invalid("it lies outside the folder of manifests"))?;
        let name = rest.rsplit('/').next().unwrap_or(rest);
        let shape = || invalid("<time>-<kind>-r<sequence>-<id>-<digest>.json");
        let stem = name.strip_suffix(".json").ok_or_else(shape)?;
        let (time, stem) = stem.split_once('-').ok_or_else(shape)?;
        let (stem, digest_text) = stem.rsplit_once('-').ok_or_else(shape)?;
        let (stem, id) = stem.rsplit_once('-').ok_or_else(shape)?;
        let (kind, sequence) = stem.rsplit_once("-r").ok_or_else(shape)?;
        let taken = NaiveDateTime::parse_from_str(time, SECONDS).map_err(|_| shape())?.and_utc();
        let mut sequence_bytes = [0; 8];
        unhex(sequence, &mut sequence_bytes).ok_or_else(shape)?;
        let mut digest = [0; 8];
        unhex(digest_text, &mut digest).ok_or_else(shape)?;
        let key = Self {
            taken,
            id: id.parse()?,
            place,
            kind: Kind::new(kind)?,
            sequence: u64::from_be_bytes(sequence_bytes),
            digest,
        };
        // One spelling, and the right folder for the month.
        if key.to_string() == text {
            Ok(key)
        } else {
            Err(invalid("it lies in the wrong folder or is spelt differently"))
        }
    }
}

/// A key from parts that were all checked: their alphabets are within a key's
/// and their lengths add up to less than its longest.
fn key(text: String) -> Key {
    Key::new(text).expect("checked parts make a valid key")
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone as _;
    use proptest::prelude::*;

    use super::*;

    fn sample() -> ManifestKey {
        ManifestKey {
            taken: Utc.with_ymd_and_hms(2026, 11, 21, 1, 2, 3).unwrap(),
            id: "01JD2X9A000000000000000000".parse().unwrap(),
            place: Place {
                cluster: ClusterName::new("prod").unwrap(),
                lineage: LineageName::new("cdf818194e3a8c32").unwrap(),
            },
            kind: Kind::new("snapshot").unwrap(),
            sequence: 0x1234,
            digest: [0xab; 8],
        }
    }

    #[test]
    fn manifest_key_is_spelt_as_documented() {
        assert_eq!(
            sample().to_string(),
            "clusters/prod/cdf818194e3a8c32/manifests/2026/11/20261121T010203Z-snapshot-\
             r0000000000001234-01JD2X9A000000000000000000-abababababababab.json"
        );
    }

    #[test]
    fn wrong_spellings_are_refused() {
        let good = sample().to_string();
        for (from, to) in [
            ("/2026/11/", "/2026/12/"),
            ("/2026/11/", "/"),
            ("20261121T", "20261321T"),
            ("-r0000000000001234", "-r1234"),
            ("01JD2X9A", "01jd2x9a"),
            ("abababababababab.json", "ABABABABABABABAB.json"),
            ("abababababababab.json", "ab.json"),
            (".json", ".jsn"),
            ("-snapshot-", "-Snapshot-"),
            ("clusters/", "cluster/"),
            ("manifests/", "objects/"),
            ("20261121T010203Z", "20261121T010203+00:00"),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good);
            bad.parse::<ManifestKey>().expect_err(&bad);
        }
        assert_eq!(good.parse::<ManifestKey>().unwrap(), sample());
    }

    #[test]
    fn names_that_could_leave_the_vault_are_refused() {
        for bad in ["", ".", "..", "a/b", ".a", "-a", "a b", "a\n", "é", &"a".repeat(64)] {
            ClusterName::new(bad).expect_err(bad);
        }
        ClusterName::new("a".repeat(63)).unwrap();
        for bad in ["", "-", "a-", "-a", "A", "a1", "node_x"] {
            Kind::new(bad).expect_err(bad);
        }
    }

    proptest! {
        #[test]
        fn manifest_keys_round_trip(
            seconds in 0i64..253_402_300_800,
            id in any::<u128>(),
            sequence in any::<u64>(),
            digest in any::<[u8; 8]>(),
            cluster in "[A-Za-z0-9][A-Za-z0-9._-]{0,62}",
            lineage in "[A-Za-z0-9][A-Za-z0-9._-]{0,62}",
            kind in "[a-z](-r|[a-z-]{0,8})[a-z]",
        ) {
            let key = ManifestKey {
                taken: DateTime::from_timestamp(seconds, 0).unwrap(),
                id: BackupId::new(Ulid(id)),
                place: Place {
                    cluster: ClusterName::new(cluster).unwrap(),
                    lineage: LineageName::new(lineage).unwrap(),
                },
                kind: Kind::new(kind).unwrap(),
                sequence,
                digest,
            };
            prop_assert_eq!(key.key().as_str().parse::<ManifestKey>().unwrap(), key);
        }

        #[test]
        fn any_text_is_refused_or_is_its_own_spelling(text in ".{0,80}", cut in 0usize..150) {
            let mut near = sample().to_string();
            let cut = cut.min(near.len());
            near.replace_range(cut..cut, &text);
            if let Ok(key) = near.parse::<ManifestKey>() {
                prop_assert_eq!(key.to_string(), near);
            }
        }

        #[test]
        fn newer_backups_sort_later(a in 0i64..253_402_300_800, b in 0i64..253_402_300_800) {
            let with = |s| ManifestKey { taken: DateTime::from_timestamp(s, 0).unwrap(), ..sample() };
            prop_assert_eq!(with(a).to_string().cmp(&with(b).to_string()), a.cmp(&b));
        }
    }
}
