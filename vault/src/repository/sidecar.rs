//! The small files beside backups: receipts of verifications, and lineages.

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{CorruptEntry, Repository, RepositoryError, Result};
use crate::document::{self, DocumentError};
use crate::layout::{self, BackupId, ClusterName, Level, LineageName, ManifestKey, Place};
use crate::manifest::{FORMAT, FormatVersion, millis, read_format};
use crate::store::{ErrorKind, Key};

/// The result of a verification, stored beside the backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// Which backup.
    pub id: BackupId,
    /// When; kept to the millisecond.
    #[serde(with = "millis")]
    pub time: DateTime<Utc>,
    /// How deep.
    pub level: Level,
    /// The caller's part.
    pub body: Value,
}

/// A history of sequences that never forks.
#[derive(Debug, Clone, PartialEq)]
pub struct Lineage {
    /// Where.
    pub place: Place,
    /// When it was first seen; kept to the millisecond.
    pub created: DateTime<Utc>,
    /// The lineage that it was forked from, where that is known.
    pub parent: Option<LineageParent>,
    /// The caller's part.
    pub body: Value,
}

/// Where a lineage forked off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineageParent {
    /// The lineage that it came from.
    pub lineage: LineageName,
    /// The last common sequence.
    pub sequence: u64,
    /// A hash of the content there, if known.
    pub hash: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct ReceiptFile {
    format: FormatVersion,
    #[serde(flatten)]
    receipt: Receipt,
}

#[derive(Serialize, Deserialize)]
struct LineageFile {
    format: FormatVersion,
    cluster: ClusterName,
    lineage: LineageName,
    #[serde(with = "millis")]
    created: DateTime<Utc>,
    parent: Option<LineageParent>,
    body: Value,
}

fn encode<T: Serialize>(what: &str, file: &T) -> Result<Vec<u8>> {
    document::seal(file)
        .map_err(|error| RepositoryError::Invalid { what: what.to_owned(), source: error.into() })
}

fn decode<'de, T: Deserialize<'de>>(object: &str, bytes: &[u8]) -> Result<T> {
    let damaged = |error: DocumentError| RepositoryError::document(object, error);
    let value = document::unseal(bytes).map_err(damaged)?;
    let format = read_format(&value).map_err(damaged)?;
    if format.oldest_reader > FORMAT {
        let (version, needs) = (format.version, format.oldest_reader);
        return Err(RepositoryError::TooNew { object: object.to_owned(), version, needs });
    }
    T::deserialize(value).map_err(|error| damaged(DocumentError::Json(error)))
}

impl Repository {
    /// Stores the result of a verification.
    pub async fn put_receipt(&self, place: &Place, receipt: &Receipt) -> Result<()> {
        let receipt = Receipt { time: super::millis(receipt.time), ..receipt.clone() };
        let (id, level, time) = (receipt.id, receipt.level.clone(), receipt.time);
        let bytes =
            encode("the receipt", &ReceiptFile { format: FormatVersion::CURRENT, receipt })?;
        // The digest keeps two verifications of one millisecond apart.
        let digest = crate::digest::hex(&ManifestKey::digest_of(&bytes));
        let name = format!("{}-{level}-{digest}.json", layout::stamp_millis(time));
        let key = Key::new(format!("{}{name}", place.receipts(id))).map_err(|error| {
            RepositoryError::Invalid { what: "the receipt".to_owned(), source: error.into() }
        })?;
        self.put_same(&key, bytes).await
    }

    /// The receipts of a backup, oldest first, and the damaged ones.
    pub async fn receipts(
        &self,
        place: &Place,
        id: BackupId,
    ) -> Result<(Vec<Receipt>, Vec<CorruptEntry>)> {
        let (mut receipts, mut corrupt) = (Vec::new(), Vec::new());
        let prefix = place.receipts(id);
        let mut listed = self.store.list(&prefix, None);
        while let Some(info) = listed.try_next().await? {
            let name = info.key.as_str();
            let Some(bytes) = self.read_small(&info.key).await? else { continue };
            match decode::<ReceiptFile>(name, &bytes) {
                Ok(file) if file.receipt.id == id => receipts.push(file.receipt),
                Ok(_) => corrupt.push(CorruptEntry {
                    key: name.to_owned(),
                    error: RepositoryError::corrupt(name, "it is of another backup"),
                }),
                Err(error) => corrupt.push(CorruptEntry { key: name.to_owned(), error }),
            }
        }
        receipts.sort_by_key(|receipt| receipt.time);
        Ok((receipts, corrupt))
    }

    /// Writes `lineage.json` unless there is one, and says whether it did. The one that
    /// is there is not read: a backup reads nothing of what it stores.
    pub async fn ensure_lineage(&self, lineage: &Lineage) -> Result<bool> {
        let key = lineage.place.lineage();
        if self.store.head(&key).await?.is_some() {
            return Ok(false);
        }
        let file = LineageFile {
            format: FormatVersion::CURRENT,
            cluster: lineage.place.cluster.clone(),
            lineage: lineage.place.lineage.clone(),
            created: lineage.created,
            parent: lineage.parent.clone(),
            body: lineage.body.clone(),
        };
        let bytes = encode("the lineage", &file)?;
        match super::put(&*self.store, &key, bytes.into()).await {
            // Another backup was faster.
            Err(RepositoryError::Store(error)) if error.kind == ErrorKind::AlreadyExists => {
                Ok(false)
            }
            other => other.map(|()| true),
        }
    }

    /// The lineage of this place, if it has been written.
    pub async fn lineage(&self, place: &Place) -> Result<Option<Lineage>> {
        let key = place.lineage();
        let Some(bytes) = self.read_small(&key).await? else { return Ok(None) };
        let file: LineageFile = decode(key.as_str(), &bytes)?;
        let found = Place { cluster: file.cluster, lineage: file.lineage };
        if found != *place {
            return Err(RepositoryError::corrupt(key.as_str(), "it is of another lineage"));
        }
        let (created, parent, body) = (file.created, file.parent, file.body);
        Ok(Some(Lineage { place: found, created, parent, body }))
    }
}
