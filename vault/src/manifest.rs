//! The description of one backup: an envelope that the vault understands, and a
//! `content` that belongs to the caller.
//!
//! What parses has been checked whole: bounded, of a format that this reader
//! knows, every name and key within its rule, no text unfit for a terminal, and
//! bytes that match the digest in the manifest's own name.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, SubsecRound as _, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::Sha256;
use crate::document::{self, DocumentError};
use crate::layout::{
    BackupId, ClusterName, InvalidName, Kind, LineageName, ManifestKey, Place, Role,
};
use crate::store::Key;

/// The version of the vault's format that this code writes.
pub const FORMAT: u32 = 1;

/// The most objects in one backup.
const MAX_OBJECTS: usize = 1_000;
/// The most labels, reasons and recipients.
const MAX_ITEMS: usize = 100;
/// The longest text of the envelope, in bytes.
const MAX_TEXT: usize = 1_000;

/// The version of a file's format, and the oldest reader that can use the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FormatVersion {
    /// The version it was written as.
    pub version: u32,
    /// The smallest [`FORMAT`] of a reader that understands all that matters.
    pub oldest_reader: u32,
}

impl FormatVersion {
    /// What this code writes.
    pub const CURRENT: Self = Self { version: FORMAT, oldest_reader: 1 };
}

/// The program that wrote something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// What is known of the truth of a backup's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProofState {
    /// It was compared with its origin and is the same.
    Proven,
    /// It could not be compared; the reasons say why.
    NotProven,
    /// It was compared and differs. Never chosen as `latest`.
    Mismatch,
    /// Nobody asked: an import, for example.
    Unknown,
}

/// [`ProofState`] with the reasons for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The outcome.
    pub state: ProofState,
    /// Why, one sentence each.
    #[serde(default)]
    pub reasons: Vec<String>,
}

/// How an object's plain bytes became frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Codec {
    /// Independent zstd frames and a seek table (see [`crate::compression`]).
    ZstdFrames,
}

/// How an object is encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "kebab-case")]
pub enum ObjectEncryption {
    /// Not at all.
    None,
    /// With age, to X25519 recipients.
    AgeRecipients {
        /// Their public keys, `age1…`.
        recipients: Vec<String>,
    },
    /// With age, to a passphrase.
    AgePassphrase,
}

impl ObjectEncryption {
    /// Whether a key is needed to read the object.
    pub fn is_encrypted(&self) -> bool {
        !matches!(self, Self::None)
    }
}

/// A stored object, as a manifest describes it. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRecord {
    /// What it is within the backup.
    pub role: Role,
    /// Where it is: under the objects of its backup's id.
    pub key: String,
    /// Its size as stored.
    pub stored_size: u64,
    /// The digest of its stored bytes.
    pub stored_sha256: Sha256,
    /// The size of what was given to store.
    pub plain_size: u64,
    /// The digest of what was given to store.
    pub plain_sha256: Sha256,
    /// How the one became the other.
    pub codec: Codec,
    /// How it was encrypted after that.
    pub encryption: ObjectEncryption,
    /// The number of frames, the seek table not counted.
    pub frames: u64,
    /// The digest of the seek table: of the whole skippable frame.
    pub frame_table_sha256: Sha256,
}

/// Which schema the `content` follows; the caller's affair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentSchema {
    /// The schema's name.
    pub name: String,
    /// Its version.
    pub version: u32,
}

/// The description of one backup.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The backup's id.
    pub id: BackupId,
    /// What sort of backup.
    pub kind: Kind,
    /// Of which cluster.
    pub cluster: ClusterName,
    /// Of which lineage of it.
    pub lineage: LineageName,
    /// The caller's number within the lineage: etcd's revision.
    pub sequence: u64,
    /// When it was begun; kept to the millisecond.
    pub started: DateTime<Utc>,
    /// When its last object was stored; kept to the millisecond.
    pub finished: DateTime<Utc>,
    /// What wrote it.
    pub tool: Tool,
    /// Whether its content was compared with its origin.
    pub proof: Proof,
    /// Whatever the user attached.
    pub labels: BTreeMap<String, String>,
    /// Its objects.
    pub objects: Vec<ObjectRecord>,
    /// The schema of `content`.
    pub content_schema: ContentSchema,
    /// The caller's part.
    pub content: Value,
}

/// Why bytes are not the manifest that their name promises.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The name of the manifest breaks the rule for such names.
    #[error("the manifest's name is damaged")]
    Name(#[from] InvalidName),
    /// The bytes do not match the digest in the name.
    #[error("the manifest's bytes do not match its name: SHA-256 is {actual}")]
    WrongDigest {
        /// The digest of the bytes as they are.
        actual: Sha256,
    },
    /// Too large, too deep, no JSON, of another shape, or unfit for a terminal.
    #[error("the manifest cannot be used")]
    Document(#[from] DocumentError),
    /// Written for newer readers.
    #[error(
        "the manifest was written in format {version} and needs a reader of format {needs}; \
         this one reads format {FORMAT}"
    )]
    TooNew {
        /// The format that it was written in.
        version: u32,
        /// The format that a reader must know.
        needs: u32,
    },
    /// A member breaks a rule of the format.
    #[error("the manifest's {member} is wrong: {why}")]
    Member {
        /// The member.
        member: &'static str,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// Name and content of the manifest contradict each other.
    #[error("the manifest's {member} is not the one in its name")]
    NameDisagrees {
        /// The member.
        member: &'static str,
    },
}

/// The JSON of a manifest, in the order in which it is written.
#[derive(Serialize, Deserialize)]
struct Wire {
    format: FormatVersion,
    id: BackupId,
    kind: Kind,
    cluster: ClusterName,
    lineage: LineageName,
    sequence: u64,
    #[serde(with = "millis")]
    started: DateTime<Utc>,
    #[serde(with = "millis")]
    finished: DateTime<Utc>,
    tool: Tool,
    proof: Proof,
    labels: BTreeMap<String, String>,
    objects: Vec<ObjectRecord>,
    content_schema: ContentSchema,
    content: Value,
}

/// The members of a manifest of format 1; any other is refused in that format.
const MEMBERS: [&str; 14] = [
    "format",
    "id",
    "kind",
    "cluster",
    "lineage",
    "sequence",
    "started",
    "finished",
    "tool",
    "proof",
    "labels",
    "objects",
    "content_schema",
    "content",
];
/// The same for one of its objects.
const OBJECT_MEMBERS: [&str; 10] = [
    "role",
    "key",
    "stored_size",
    "stored_sha256",
    "plain_size",
    "plain_sha256",
    "codec",
    "encryption",
    "frames",
    "frame_table_sha256",
];

impl Manifest {
    /// Where this backup belongs.
    pub fn place(&self) -> Place {
        Place { cluster: self.cluster.clone(), lineage: self.lineage.clone() }
    }

    /// The object of this role, if the backup has one.
    pub fn object(&self, role: &str) -> Option<&ObjectRecord> {
        self.objects.iter().find(|object| object.role.as_str() == role)
    }

    /// The manifest's bytes and the key under which they belong. Fails on a
    /// manifest that could not be read back.
    pub fn encode(&self) -> Result<(ManifestKey, Vec<u8>), ManifestError> {
        let wire = Wire {
            format: FormatVersion::CURRENT,
            id: self.id,
            kind: self.kind.clone(),
            cluster: self.cluster.clone(),
            lineage: self.lineage.clone(),
            sequence: self.sequence,
            started: self.started,
            finished: self.finished,
            tool: self.tool.clone(),
            proof: self.proof.clone(),
            labels: self.labels.clone(),
            objects: self.objects.clone(),
            content_schema: self.content_schema.clone(),
            content: self.content.clone(),
        };
        let bytes = document::to_bytes(&wire)?;
        let key = ManifestKey {
            taken: self.started.trunc_subsecs(0),
            id: self.id,
            place: self.place(),
            kind: self.kind.clone(),
            sequence: self.sequence,
            digest: ManifestKey::digest_of(&bytes),
        };
        Self::decode(&key, &bytes)?;
        Ok((key, bytes))
    }

    /// The manifest stored as `bytes` under `key`, checked whole.
    pub fn decode(key: &ManifestKey, bytes: &[u8]) -> Result<Self, ManifestError> {
        document::check_size(bytes.len() as u64)?;
        let actual = Sha256::of(bytes);
        if actual.0[..8] != key.digest {
            return Err(ManifestError::WrongDigest { actual });
        }
        let manifest = Self::parse(bytes)?;
        let disagrees = |member| Err(ManifestError::NameDisagrees { member });
        if manifest.id != key.id {
            return disagrees("id");
        }
        if manifest.place() != key.place {
            return disagrees("cluster or lineage");
        }
        if manifest.kind != key.kind {
            return disagrees("kind");
        }
        if manifest.sequence != key.sequence {
            return disagrees("sequence");
        }
        if manifest.started.trunc_subsecs(0) != key.taken {
            return disagrees("start time");
        }
        Ok(manifest)
    }

    /// The manifest in `bytes`, whatever its name: everything is checked but
    /// that. Never panics, whatever the bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let value = document::parse(bytes)?;
        let format = read_format(&value)?;
        if format.oldest_reader > FORMAT {
            return Err(ManifestError::TooNew {
                version: format.version,
                needs: format.oldest_reader,
            });
        }
        if format.version <= FORMAT {
            check_members(&value)?;
        }
        let wire = Wire::deserialize(value).map_err(DocumentError::Json)?;
        let manifest = Self {
            id: wire.id,
            kind: wire.kind,
            cluster: wire.cluster,
            lineage: wire.lineage,
            sequence: wire.sequence,
            started: wire.started,
            finished: wire.finished,
            tool: wire.tool,
            proof: wire.proof,
            labels: wire.labels,
            objects: wire.objects,
            content_schema: wire.content_schema,
            content: wire.content,
        };
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), ManifestError> {
        let wrong = |member, why| Err(ManifestError::Member { member, why });
        // Later years have five digits, and the names would not sort.
        let last = DateTime::from_timestamp(253_402_300_799, 0).unwrap_or(DateTime::<Utc>::MAX_UTC);
        for (member, time) in [("start time", self.started), ("end time", self.finished)] {
            if time < DateTime::UNIX_EPOCH || time > last {
                return wrong(member, "it lies outside the years 1970 to 9999");
            }
        }
        let texts = [&self.tool.name, &self.tool.version, &self.content_schema.name];
        if texts.iter().any(|text| text.is_empty() || text.len() > MAX_TEXT) {
            return wrong("tool or content schema", "a text is empty or longer than 1,000 bytes");
        }
        if self.proof.reasons.len() > MAX_ITEMS
            || self.proof.reasons.iter().any(|reason| reason.len() > MAX_TEXT)
        {
            return wrong("proof", "more than 100 reasons, or one longer than 1,000 bytes");
        }
        if self.labels.len() > MAX_ITEMS
            || self.labels.iter().any(|(name, value)| {
                name.is_empty() || name.len() > MAX_TEXT || value.len() > MAX_TEXT
            })
        {
            return wrong("labels", "more than 100, or one empty or longer than 1,000 bytes");
        }
        if self.objects.len() > MAX_OBJECTS {
            return wrong("list of objects", "it has more than 1,000");
        }
        let folder = self.place().objects(self.id);
        let (mut keys, mut roles) = (BTreeSet::new(), BTreeSet::new());
        for object in &self.objects {
            object.check(&folder)?;
            if !keys.insert(&object.key) || !roles.insert(&object.role) {
                return wrong("list of objects", "a key or role stands twice");
            }
        }
        Ok(())
    }
}

impl ObjectRecord {
    /// The key, which is known to be valid once the record's manifest was parsed.
    pub fn key(&self) -> Result<Key, ManifestError> {
        Key::new(&*self.key).map_err(|_| ManifestError::Member {
            member: "object key",
            why: "it is not a valid object name",
        })
    }

    fn check(&self, folder: &str) -> Result<(), ManifestError> {
        let wrong = |member, why| Err(ManifestError::Member { member, why });
        self.key()?;
        match self.key.strip_prefix(folder) {
            Some(name) if !name.contains('/') => {}
            _ => return wrong("object key", "it lies outside the backup's own folder"),
        }
        if self.key.ends_with(".age") != self.encryption.is_encrypted() {
            return wrong("object key", "it ends in .age exactly when the object is encrypted");
        }
        // What cannot be is refused here, so that sums over records cannot overflow.
        if self.stored_size > i64::MAX as u64 || self.plain_size > i64::MAX as u64 {
            return wrong("object size", "it is larger than any file can be");
        }
        if self.frames == 0 || self.frames > crate::compression::MAX_FRAMES {
            return wrong("number of frames", "it is zero or more than a table can hold");
        }
        if self.plain_size > self.frames.saturating_mul(crate::compression::MAX_FRAME_SIZE as u64) {
            return wrong("object size", "it is larger than its frames can hold");
        }
        if let ObjectEncryption::AgeRecipients { recipients } = &self.encryption
            && (recipients.is_empty()
                || recipients.len() > MAX_ITEMS
                || recipients.iter().any(|recipient| recipient.len() > MAX_TEXT))
        {
            return wrong("recipients", "none, more than 100, or one longer than 1,000 bytes");
        }
        Ok(())
    }
}

/// The format of a document, read before anything else of it.
pub(crate) fn read_format(value: &Value) -> Result<FormatVersion, DocumentError> {
    let number = |name: &str| value.get("format")?.get(name)?.as_u64();
    match (number("version"), number("oldest_reader")) {
        (Some(version), Some(oldest)) if (1..=version).contains(&oldest) => {
            // Beyond 32 bits it is too new in any case.
            let clamp = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
            Ok(FormatVersion { version: clamp(version), oldest_reader: clamp(oldest) })
        }
        _ => Err(DocumentError::Json(<serde_json::Error as serde::de::Error>::custom(
            "no format version with an oldest reader",
        ))),
    }
}

fn check_members(value: &Value) -> Result<(), ManifestError> {
    let unknown = |value: &Value, known: &[&str]| {
        value.as_object().is_none_or(|map| map.keys().any(|name| !known.contains(&name.as_str())))
    };
    let wrong = |member| Err(ManifestError::Member { member, why: "a member that format 1 lacks" });
    if unknown(value, &MEMBERS) {
        return wrong("envelope");
    }
    if unknown(&value["tool"], &["name", "version"]) {
        return wrong("tool");
    }
    if unknown(&value["proof"], &["state", "reasons"]) {
        return wrong("proof");
    }
    if unknown(&value["content_schema"], &["name", "version"]) {
        return wrong("content schema");
    }
    for object in value["objects"].as_array().into_iter().flatten() {
        if unknown(object, &OBJECT_MEMBERS)
            || unknown(&object["encryption"], &["mode", "recipients"])
        {
            return wrong("object");
        }
    }
    Ok(())
}

/// RFC 3339 in UTC to the millisecond: `2026-11-21T01:02:03.004Z`.
pub(crate) mod millis {
    use chrono::{DateTime, SecondsFormat, Utc};
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        time: &DateTime<Utc>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Millis, true))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<DateTime<Utc>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time = DateTime::parse_from_rfc3339(&text)
            .map_err(serde::de::Error::custom)?
            .with_timezone(&Utc);
        if time.to_rfc3339_opts(SecondsFormat::Millis, true) == text {
            Ok(time)
        } else {
            Err(serde::de::Error::custom("a time is written as 2026-11-21T01:02:03.004Z"))
        }
    }
}

#[cfg(test)]
mod tests;
