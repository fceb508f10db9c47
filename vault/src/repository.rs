//! The vault itself: a store in which every object is written once, every byte
//! is covered by a digest, and what no manifest names does not exist.
//!
//! A backup is made by [`Repository::create_object`] for each of its objects and
//! one [`Repository::commit`] of its manifest at the end. Any number of backups
//! may be made at once: names carry ids, and nothing is replaced.

mod error;
mod find;
mod read;
mod sidecar;
mod spool;
mod vault_file;
mod write;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, SubsecRound as _, Utc};
use serde_json::Value;

pub use self::error::{RepositoryError, Result};
pub use self::find::{Backup, CorruptEntry, Filter, Listing, Names, Selector};
pub use self::read::{ObjectReader, StoredReport};
pub use self::sidecar::{Lineage, LineageParent, Receipt};
pub use self::vault_file::{VaultEncryption, VaultFile};
pub use self::write::{Canceller, ObjectWriter, WrittenObject};

use crate::compression;
use crate::encryption::{EncryptionChoice, Identities};
use crate::layout::{BackupId, ManifestKey, Place, RESTORE_TXT, Role, VAULT_JSON};
use crate::manifest::{Manifest, Tool};
use crate::store::{ErrorKind, Key, SizeHint, Store};

/// What [`Repository::init`] is told.
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
    /// What `RESTORE.txt` says after the commands that make the file `restored`:
    /// what that is, and what to do with it. Commands as in the rest of the text:
    /// four spaces, `$ `, command.
    pub restore_text: String,
}

/// An open vault. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Repository {
    store: Arc<dyn Store>,
    file: Arc<VaultFile>,
    identities: Option<Identities>,
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

/// A bounded file without a name, which takes what the store is too slow for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spool {
    /// The directory of the file.
    pub directory: PathBuf,
    /// The most bytes that may wait in it.
    pub limit: u64,
}

/// How an object is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteOptions {
    /// zstd's level.
    pub level: i32,
    /// Threads that compress.
    pub workers: usize,
    /// Where output waits for a slow store. Without, the writer waits itself.
    pub spool: Option<Spool>,
    /// Whether the writer hashes the plain bytes. Off where the caller does it anyway
    /// and ends with [`ObjectWriter::finish_with`].
    pub hash_plain: bool,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { level: compression::LEVEL, workers: workers(), spool: None, hash_plain: true }
    }
}

/// How an object is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOptions {
    /// Threads that decompress.
    pub workers: usize,
    /// Whether the reader holds the plain bytes against their SHA-256. Off where the
    /// caller does it anyway. The stored bytes, every frame's checksum and all sizes
    /// are checked always.
    pub hash_plain: bool,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { workers: workers(), hash_plain: true }
    }
}

/// One thread for each processor, within reason: each costs some 10 MB.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(1, 4)
}

fn root_key(name: &'static str) -> Key {
    Key::new(name).expect("the names of files at the root are valid keys")
}

impl Repository {
    /// Makes a vault of an empty place. Never over a vault, and never among other
    /// things: only the `RESTORE.txt` of an interrupted attempt may be there.
    /// With a passphrase, the vault is unlocked already.
    pub async fn init(store: Arc<dyn Store>, options: InitOptions) -> Result<Self> {
        let (vault_key, text_key) = (root_key(VAULT_JSON), root_key(RESTORE_TXT));
        let location = store.location();
        if store.head(&vault_key).await?.is_some() {
            return Err(RepositoryError::AlreadyAVault { location });
        }
        let mut leftover = false;
        {
            use futures_util::TryStreamExt as _;
            let mut listed = store.list("", None);
            while let Some(info) = listed.try_next().await? {
                if info.key == vault_key {
                    return Err(RepositoryError::AlreadyAVault { location });
                }
                if info.key != text_key {
                    let found = info.key.to_string();
                    return Err(RepositoryError::NotEmpty { location, found });
                }
                leftover = true;
            }
        }
        let prepared = options.clone();
        let prepared = tokio::task::spawn_blocking(move || VaultFile::create(&prepared)).await;
        let (file, text) =
            prepared.map_err(|error| RepositoryError::internal(VAULT_JSON, error))??;
        let bytes = file.encode()?;
        if leftover {
            store.delete(&text_key).await?;
        }
        // The vault exists from the moment that `vault.json` does: it comes last.
        put(&*store, &text_key, text.into()).await?;
        match put(&*store, &vault_key, bytes.into()).await {
            Err(RepositoryError::Store(error)) if error.kind == ErrorKind::AlreadyExists => {
                return Err(RepositoryError::AlreadyAVault { location });
            }
            other => other?,
        }
        let identities = match options.encryption {
            EncryptionChoice::Passphrase { passphrase, .. } => {
                Some(Identities::from_passphrase(passphrase))
            }
            EncryptionChoice::None | EncryptionChoice::Recipients(_) => None,
        };
        Ok(Self { store, file: Arc::new(file), identities })
    }

    /// Opens a vault. Never creates anything.
    pub async fn open(store: Arc<dyn Store>) -> Result<Self> {
        match find::read_small(&*store, &root_key(VAULT_JSON)).await? {
            None => Err(RepositoryError::NotAVault { location: store.location() }),
            Some(bytes) => {
                let file = Arc::new(VaultFile::decode(&bytes)?);
                Ok(Self { store, file, identities: None })
            }
        }
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// What `vault.json` says.
    pub fn vault_file(&self) -> &VaultFile {
        &self.file
    }

    /// Whether a key is needed to read objects.
    pub fn is_encrypted(&self) -> bool {
        self.file.encryption != VaultEncryption::None
    }

    /// Whether the key that is needed to write objects is missing: of a vault with
    /// a passphrase that was not unlocked.
    pub fn needs_key_to_write(&self) -> bool {
        matches!(self.file.encryption, VaultEncryption::AgePassphrase { .. })
            && self.identities.as_ref().is_none_or(|key| key.passphrase().is_none())
    }

    /// Checks `identities` against the vault's canary and keeps them, for reading
    /// and, where there is a passphrase, for writing. A key that does not fit
    /// fails with [`RepositoryError::WrongKey`]. Does nothing to a vault without
    /// encryption.
    pub async fn unlock(&mut self, identities: Identities) -> Result<()> {
        if !self.is_encrypted() {
            return Ok(());
        }
        let (file, key) = (Arc::clone(&self.file), identities.clone());
        match tokio::task::spawn_blocking(move || file.check_key(&key)).await {
            Ok(result) => result?,
            Err(error) => return Err(RepositoryError::internal(VAULT_JSON, error)),
        }
        self.identities = Some(identities);
        Ok(())
    }

    /// Whether `RESTORE.txt` is there as it was written.
    pub async fn check_restore_text(&self) -> Result<()> {
        let key = root_key(RESTORE_TXT);
        match self.read_small(&key).await? {
            None => Err(RepositoryError::corrupt(RESTORE_TXT, "it is missing")),
            Some(text) if crate::digest::Sha256::of(&text) == self.file.restore_txt_sha256 => {
                Ok(())
            }
            Some(_) => Err(RepositoryError::corrupt(RESTORE_TXT, "it is not what was written")),
        }
    }

    /// Writes the manifest: from here on the backup exists. Refuses one that
    /// could not be read back, or of which an object is not there in its full
    /// size. Repeating it with the same manifest is no error.
    pub async fn commit(&self, manifest: &Manifest) -> Result<ManifestKey> {
        let (key, bytes) = manifest.encode().map_err(vault_file::unfit)?;
        for record in &manifest.objects {
            let object = record.key().map_err(vault_file::unfit)?;
            let size = self.store.head(&object).await?.map(|info| info.size);
            if size != Some(record.stored_size) {
                let why = match size {
                    None => "it is missing".to_owned(),
                    Some(size) => format!("{size} bytes are stored of {}", record.stored_size),
                };
                return Err(RepositoryError::corrupt(&record.key, why));
            }
        }
        self.put_same(&key.key(), bytes).await?;
        Ok(key)
    }

    /// Writes a small file; one with the same bytes already there is as good.
    async fn put_same(&self, key: &Key, bytes: Vec<u8>) -> Result<()> {
        let bytes = Bytes::from(bytes);
        match put(&*self.store, key, bytes.clone()).await {
            Err(RepositoryError::Store(error)) if error.kind == ErrorKind::AlreadyExists => {
                match self.read_small(key).await? {
                    Some(there) if there == bytes => Ok(()),
                    _ => Err(RepositoryError::Store(error)),
                }
            }
            other => other,
        }
    }
}

async fn put(store: &dyn Store, key: &Key, bytes: Bytes) -> Result<()> {
    let mut upload = store.put_new(key, SizeHint::Exact(bytes.len() as u64)).await?;
    if let Err(error) = upload.write(bytes).await {
        // The first error says more.
        let _ = upload.abort().await;
        return Err(error.into());
    }
    upload.finish().await?;
    Ok(())
}

/// Whole milliseconds: what files keep of a time.
fn millis(time: DateTime<Utc>) -> DateTime<Utc> {
    time.trunc_subsecs(3)
}
