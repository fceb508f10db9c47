//! What can go wrong with a vault.

use std::io;

use crate::compression::reader::ReadError;
use crate::document::DocumentError;
use crate::encryption::EncryptionError;
use crate::layout::BackupId;
use crate::manifest::ManifestError;
use crate::store::StoreError;

/// `Result` of the repository.
pub type Result<T, E = RepositoryError> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// A failed act of the repository. The exit code of a command follows from the
/// variant alone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepositoryError {
    /// There is no vault.
    #[error("{location} is not a vault")]
    NotAVault {
        /// Where.
        location: String,
    },
    /// There is a vault already.
    #[error("{location} is a vault already")]
    AlreadyAVault {
        /// Where.
        location: String,
    },
    /// There is something else.
    #[error("{location} is not empty: {found} is there")]
    NotEmpty {
        /// Where.
        location: String,
        /// One of the things that are there.
        found: String,
    },
    /// Written for newer readers.
    #[error("{object} was written in format {version} and needs a reader of format {needs}")]
    TooNew {
        /// What.
        object: String,
        /// The format that it was written in.
        version: u32,
        /// The format that a reader must know.
        needs: u32,
    },
    /// Bytes are not what they were, or are missing.
    #[error("{object} is corrupt{}: {why}", at(*frame, *offset))]
    Corrupt {
        /// The key of the object.
        object: String,
        /// The frame, counted from 0, if it is known.
        frame: Option<u64>,
        /// Where it begins in the object: before encryption when `frame` is
        /// known, in the stored bytes otherwise.
        offset: Option<u64>,
        /// What is wrong.
        why: String,
        /// The rule that was broken.
        #[source]
        source: Option<Source>,
    },
    /// The key does not open it.
    #[error("the key does not open {object}")]
    WrongKey {
        /// What: the vault, or one object of it.
        object: String,
    },
    /// It is encrypted and no key was given.
    #[error("{object} is encrypted and no key was given")]
    KeyNeeded {
        /// What.
        object: String,
    },
    /// A key, recipient or setting of encryption that cannot be used.
    #[error("use encryption as asked")]
    Encryption(#[source] EncryptionError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store was too slow for too long.
    #[error("the store lags by more than the {limit} bytes that may be spooled")]
    SpoolFull {
        /// The spool's limit, in bytes.
        limit: u64,
    },
    /// The spool itself failed.
    #[error("spool output for a slow store")]
    Spool(#[source] io::Error),
    /// No backup fits.
    #[error("there is no backup {wanted}")]
    NoBackup {
        /// What was looked for.
        wanted: String,
    },
    /// Several backups fit.
    #[error("{prefix} is the start of several backups: {}", ids(candidates))]
    Ambiguous {
        /// What was looked for.
        prefix: String,
        /// Some of those that fit.
        candidates: Vec<BackupId>,
    },
    /// `latest` of several clusters.
    #[error("the vault holds several clusters: {}", clusters.join(", "))]
    SeveralClusters {
        /// Their names.
        clusters: Vec<String>,
    },
    /// What should be written breaks a rule of the format.
    #[error("{what} cannot be written")]
    Invalid {
        /// What.
        what: String,
        /// The rule that it breaks.
        #[source]
        source: Source,
    },
    /// A range beyond an object.
    #[error("bytes {start} to {end} lie outside {object}")]
    Range {
        /// The object.
        object: String,
        /// The range's start.
        start: u64,
        /// The range's end.
        end: u64,
    },
    /// The object was given up before.
    #[error("writing {object} was given up")]
    GivenUp {
        /// The object.
        object: String,
    },
    /// A thread or a codec failed: nothing that data could cause.
    #[error("work on {object}")]
    Internal {
        /// The object.
        object: String,
        /// What failed.
        #[source]
        source: Source,
    },
}

fn at(frame: Option<u64>, offset: Option<u64>) -> String {
    match (frame, offset) {
        (Some(frame), Some(offset)) => format!(" in frame {frame} at offset {offset}"),
        (None, Some(offset)) => format!(" before stored offset {offset}"),
        _ => String::new(),
    }
}

fn ids(candidates: &[BackupId]) -> String {
    candidates.iter().map(BackupId::to_string).collect::<Vec<_>>().join(", ")
}

impl RepositoryError {
    /// A document `object` that cannot be used as what it should be.
    pub(super) fn document(object: &str, error: DocumentError) -> Self {
        Self::corrupt_because(object, "it is not what was written", error)
    }

    /// A manifest that cannot be used.
    pub(super) fn manifest(object: &str, error: ManifestError) -> Self {
        match error {
            ManifestError::TooNew { version, needs } => {
                Self::TooNew { object: object.to_owned(), version, needs }
            }
            error => {
                Self::corrupt_because(object, "it is not the manifest that was written", error)
            }
        }
    }

    pub(super) fn corrupt(object: &str, why: impl Into<String>) -> Self {
        let object = object.to_owned();
        Self::Corrupt { object, frame: None, offset: None, why: why.into(), source: None }
    }

    fn corrupt_because(object: &str, why: &str, source: impl Into<Source>) -> Self {
        Self::Corrupt {
            object: object.to_owned(),
            frame: None,
            offset: None,
            why: why.to_owned(),
            source: Some(source.into()),
        }
    }

    pub(super) fn internal(object: &str, source: impl Into<Source>) -> Self {
        Self::Internal { object: object.to_owned(), source: source.into() }
    }

    /// An object that cannot be read.
    pub(super) fn read(object: &str, error: ReadError) -> Self {
        match error {
            ReadError::Store(error) => Self::Store(error),
            ReadError::Key(error) => Self::key(object, error),
            ReadError::Corrupt { what, frame, offset } => {
                Self::Corrupt { object: object.to_owned(), frame, offset, why: what, source: None }
            }
            error @ (ReadError::Thread(_) | ReadError::Ended) => Self::internal(object, error),
        }
    }

    /// Something that a key does not open.
    pub(super) fn key(object: &str, error: EncryptionError) -> Self {
        match error {
            EncryptionError::WrongKey => Self::WrongKey { object: object.to_owned() },
            EncryptionError::Damaged => Self::corrupt(object, "its encryption header is damaged"),
            error => Self::Encryption(error),
        }
    }

    /// Whether this says that stored bytes are damaged or missing.
    pub fn is_corruption(&self) -> bool {
        match self {
            Self::Corrupt { .. } => true,
            Self::Store(error) => error.kind == crate::store::ErrorKind::Corrupt,
            _ => false,
        }
    }
}
