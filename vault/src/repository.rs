//! The vault itself: a store in which every object is written once, every byte
//! is covered by a digest, and what no manifest names does not exist.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::encryption::{EncryptionChoice, Identities};
use crate::layout::{BackupId, ClusterName, Level, ManifestKey, Place, Role};
use crate::manifest::{Manifest, ObjectRecord, ProofState, Tool};
use crate::store::{SizeHint, Store};

/// `Result` of the repository.
pub type Result<T, E = RepositoryError> = std::result::Result<T, E>;

/// A failed act of the repository.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepositoryError {
    /// There is no vault.
    #[error("{location} is not a vault")]
    NotAVault {
        /// Where.
        location: String,
    },
}

/// What `init` is told.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// The new vault's id.
    pub id: BackupId,
    /// The time.
    pub now: DateTime<Utc>,
    /// What creates it.
    pub tool: Tool,
    /// How objects are to be encrypted.
    pub encryption: EncryptionChoice,
    /// What a probe of the store found, to be recorded: any JSON.
    pub store: Value,
    /// Lines for `RESTORE.txt` after the commands that yield an object's plain
    /// bytes: what those bytes are, and what to do with them.
    pub restore_text: String,
}

/// An open vault. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Repository {
    store: Arc<dyn Store>,
}

/// What a new object is.
#[derive(Debug, Clone)]
pub struct NewObject {
    /// The cluster and lineage.
    pub place: Place,
    /// The backup that it is part of.
    pub id: BackupId,
    /// What it is within the backup.
    pub role: Role,
    /// Its name without the endings of compression and encryption: `snapshot.db`.
    pub name: String,
    /// What is known of the size of its plain bytes.
    pub plain_size: SizeHint,
}

/// A bounded, unlinked file that takes what the store is too slow for.
#[derive(Debug, Clone)]
pub struct Spool {
    /// The directory of the file.
    pub directory: PathBuf,
    /// The most bytes that may wait in it.
    pub limit: u64,
}

/// How an object is written.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// zstd's level.
    pub level: i32,
    /// Threads that compress.
    pub workers: usize,
    /// Where output waits for a slow store. Without, the writer waits itself.
    pub spool: Option<Spool>,
}

/// How an object is read.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    /// Threads that decompress.
    pub workers: usize,
}

/// An object on its way into the vault.
pub struct ObjectWriter {}

/// What finishing an object showed, beside its record.
pub struct WrittenObject {
    /// Its record, for the manifest.
    pub record: ObjectRecord,
    /// The most bytes that waited in the spool.
    pub spooled: u64,
}

impl ObjectWriter {
    /// Takes the next plain bytes. Waits while the pipeline is full.
    pub async fn write(&mut self, _chunk: Bytes) -> Result<()> {
        todo!()
    }
    /// Makes the object durable.
    pub async fn finish(self) -> Result<WrittenObject> {
        todo!()
    }
    /// Gives up; nothing stays visible.
    pub async fn abort(self) -> Result<()> {
        todo!()
    }
}

/// An object's plain bytes, verified on the way: the end is reported only after
/// sizes, digests, frames and seek table have all matched.
pub struct ObjectReader {}

impl ObjectReader {
    /// The next bytes, at most one frame; `None` when everything has matched.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        todo!()
    }
    /// The same, for a thread outside the runtime.
    pub fn next_blocking(&mut self) -> Result<Option<Bytes>> {
        todo!()
    }
    /// Stored bytes read so far.
    pub fn stored_read(&self) -> u64 {
        todo!()
    }
}

/// Which backups are looked at.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this cluster only.
    pub cluster: Option<ClusterName>,
    /// Begun at this time or later.
    pub from: Option<DateTime<Utc>>,
    /// Begun before this time.
    pub before: Option<DateTime<Utc>>,
}

/// A manifest with its key.
#[derive(Debug, Clone, PartialEq)]
pub struct Backup {
    /// Its key.
    pub key: ManifestKey,
    /// What it says.
    pub manifest: Manifest,
}

/// A manifest that cannot be used.
#[derive(Debug)]
pub struct CorruptEntry {
    /// Its key in the store.
    pub key: String,
    /// Why.
    pub error: RepositoryError,
}

/// What a vault holds.
#[derive(Debug, Default)]
pub struct Listing {
    /// Usable backups, newest last.
    pub backups: Vec<Backup>,
    /// Names and manifests that are damaged. Not empty: exit code 20.
    pub corrupt: Vec<CorruptEntry>,
}

/// How a person names a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The newest that is no mismatch.
    Latest,
    /// The newest begun before this time that is no mismatch.
    LatestBefore(DateTime<Utc>),
    /// An id or the start of one that is unique, in either case.
    Id(String),
}

/// The result of a verification, stored beside the backup.
#[derive(Debug, Clone, PartialEq)]
pub struct Receipt {
    /// Which backup.
    pub id: BackupId,
    /// When.
    pub time: DateTime<Utc>,
    /// How deep.
    pub level: Level,
    /// The caller's part: a JSON object.
    pub body: Value,
}

/// A history of sequences that never forks.
#[derive(Debug, Clone, PartialEq)]
pub struct Lineage {
    /// Where.
    pub place: Place,
    /// When it was first seen.
    pub created: DateTime<Utc>,
    /// The lineage that it was forked from, and where.
    pub parent: Option<LineageParent>,
    /// The caller's part: a JSON object.
    pub body: Value,
}

/// Where a lineage forked off.
#[derive(Debug, Clone, PartialEq)]
pub struct LineageParent {
    /// The lineage that it came from.
    pub lineage: String,
    /// The last common sequence.
    pub sequence: u64,
    /// A hash of the content there, if known.
    pub hash: Option<String>,
}

/// What reading every stored byte showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredReport {
    /// Stored bytes read, all matching their digest.
    pub stored: u64,
    /// Frames checked; `None` when there was no key to look inside.
    pub frames: Option<u64>,
}

impl Repository {
    /// Makes a vault of an empty place. Never over a vault, never among other
    /// things.
    pub async fn init(store: Arc<dyn Store>, options: InitOptions) -> Result<Self> {
        let _ = options;
        Ok(Self { store })
    }
    /// Opens a vault. Never creates anything.
    pub async fn open(store: Arc<dyn Store>) -> Result<Self> {
        Ok(Self { store })
    }
    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }
    /// Checks `identities` against the vault's canary and keeps them for reading
    /// (and, with a passphrase, for writing). A key that does not fit fails with
    /// [`RepositoryError::WrongKey`]. On a vault without encryption: does nothing.
    pub async fn unlock(&mut self, _identities: Identities) -> Result<()> {
        todo!()
    }
    /// Begins an object. Must be called within a tokio runtime.
    pub async fn create_object(
        &self,
        _object: NewObject,
        _options: &WriteOptions,
    ) -> Result<ObjectWriter> {
        todo!()
    }
    /// Writes the manifest: from here on the backup exists.
    pub async fn commit(&self, _manifest: &Manifest) -> Result<ManifestKey> {
        todo!()
    }
    /// Every backup within `filter`, each manifest read and checked.
    pub async fn list(&self, _filter: &Filter) -> Result<Listing> {
        todo!()
    }
    /// The backup under this key.
    pub async fn load(&self, _key: &ManifestKey) -> Result<Backup> {
        todo!()
    }
    /// The backup that `selector` names, in `cluster` or in all.
    pub async fn find(
        &self,
        _cluster: Option<&ClusterName>,
        _selector: &Selector,
    ) -> Result<Backup> {
        todo!()
    }
    /// Streams an object's plain bytes, verified. Must be called within a tokio runtime.
    pub async fn open_object(
        &self,
        _record: &ObjectRecord,
        _options: &ReadOptions,
    ) -> Result<ObjectReader> {
        todo!()
    }
    /// Some of an object's plain bytes. Only the frames that hold them are read,
    /// decrypted and checked.
    pub async fn read_range(
        &self,
        _record: &ObjectRecord,
        _range: std::ops::Range<u64>,
    ) -> Result<Bytes> {
        todo!()
    }
    /// Reads every stored byte against its digest, and every frame where the
    /// object is not encrypted or the vault is unlocked. `progress` is told the
    /// stored bytes read so far.
    pub async fn verify_stored(
        &self,
        _record: &ObjectRecord,
        _options: &ReadOptions,
        _progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<StoredReport> {
        todo!()
    }
    /// Stores the result of a verification.
    pub async fn put_receipt(&self, _place: &Place, _receipt: &Receipt) -> Result<()> {
        todo!()
    }
    /// The receipts of a backup, oldest first; damaged ones apart.
    pub async fn receipts(
        &self,
        _place: &Place,
        _id: BackupId,
    ) -> Result<(Vec<Receipt>, Vec<CorruptEntry>)> {
        todo!()
    }
    /// Writes `lineage.json` if there is none, and returns the one that is there.
    pub async fn ensure_lineage(&self, _lineage: &Lineage) -> Result<Lineage> {
        todo!()
    }
    /// The lineage of this place, if it has been written.
    pub async fn lineage(&self, _place: &Place) -> Result<Option<Lineage>> {
        todo!()
    }
}
