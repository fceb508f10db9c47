//! The narrow interface to the places where a vault can live.
//!
//! A store keeps objects under keys and guarantees, whatever it is made of:
//!
//! - an object is visible under its key completely or not at all;
//! - `put_new` never replaces what is there (where the medium cannot promise
//!   that, [`Capabilities::put_new`] says so and unique names must do);
//! - what `finish` returned for is durable.
//!
//! One contract suite (`tests/store_contract.rs`) runs over every store.

pub mod fault;
pub mod local;
pub mod memory;
pub mod s3;

use std::fmt;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::stream::BoxStream;

/// What a store answers, or why it cannot.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// The name of an object inside a store: `/`-separated segments of
/// `[A-Za-z0-9._-]`, none empty, none starting with a dot, at most 512 bytes.
///
/// The restriction is what makes a key safe as a path of a file system, as an
/// S3 key and in a terminal.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// A text that is no [`Key`].
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text:?} is not a valid object name: {why}")]
pub struct InvalidKey {
    /// The text as it was given.
    pub text: String,
    /// The rule that it breaks.
    pub why: &'static str,
}

impl Key {
    /// The longest key, in bytes: S3 takes 1,024 and a prefix has to fit too.
    pub const MAX_LEN: usize = 512;

    /// Checks `text` against the rules for keys.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidKey> {
        let text = text.into();
        let why = if text.is_empty() {
            Some("it is empty")
        } else if text.len() > Self::MAX_LEN {
            Some("it is longer than 512 bytes")
        } else if text.split('/').any(str::is_empty) {
            Some("it has an empty segment")
        } else if text.split('/').any(|segment| segment.starts_with('.')) {
            Some("a segment starts with a dot")
        } else if !text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/'))
        {
            Some("only letters, digits, '.', '_', '-' and '/' are allowed")
        } else {
            None
        };
        match why {
            Some(why) => Err(InvalidKey { text, why }),
            None => Ok(Self(text)),
        }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after the last `/`.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// What is known of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name.
    pub key: Key,
    /// Its size in bytes, as stored.
    pub size: u64,
    /// When it was last written, by the store's clock.
    pub modified: DateTime<Utc>,
}

/// What the writer knows of the size of an object before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeHint {
    /// The exact number of bytes.
    Exact(u64),
    /// An upper bound; the object may be much smaller.
    AtMost(u64),
    /// Nothing is known.
    Unknown,
}

/// What a store promises beyond the minimum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// `put_new` is refused by the store itself when the key exists.
    pub put_new: bool,
}

/// A place that keeps objects. See the module's documentation for what every
/// implementation guarantees.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync {
    /// Where this is, for people: a path or a URL, never with a secret in it.
    fn location(&self) -> String;

    /// What this store promises beyond the minimum.
    fn capabilities(&self) -> Capabilities;

    /// Begins a new object. Nothing is visible under `key` until
    /// [`Upload::finish`] has returned. Fails with [`ErrorKind::AlreadyExists`]
    /// here or in `finish` when the key is taken.
    async fn put_new(&self, key: &Key, size: SizeHint) -> Result<Box<dyn Upload>>;

    /// Opens an object, or the bytes `range` of it. A range that ends beyond the
    /// object fails with [`ErrorKind::InvalidRange`].
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Download>;

    /// What is known of an object; `None` when there is none.
    async fn head(&self, key: &Key) -> Result<Option<ObjectInfo>>;

    /// Every object whose key starts with `prefix` (plain text, need not end at
    /// a `/`) and sorts after `start_after`, in ascending order of the keys'
    /// bytes.
    fn list<'a>(
        &'a self,
        prefix: &'a str,
        start_after: Option<&'a str>,
    ) -> BoxStream<'a, Result<ObjectInfo>>;

    /// Removes an object; one that is not there is no error.
    async fn delete(&self, key: &Key) -> Result<()>;

    /// Removes what dead processes left half-written, and says how many. Must not
    /// touch what another live process writes.
    async fn sweep(&self) -> Result<u64>;
}

/// An object on its way into a store. Dropped without `finish`, it leaves
/// nothing visible; what it took up may stay until [`Store::sweep`].
#[async_trait]
pub trait Upload: Send {
    /// Takes the next bytes.
    async fn write(&mut self, chunk: Bytes) -> Result<()>;

    /// Makes the object durable and visible under its key.
    async fn finish(self: Box<Self>) -> Result<ObjectInfo>;

    /// Gives up and frees what was taken.
    async fn abort(self: Box<Self>) -> Result<()>;
}

/// An object on its way out of a store.
pub struct Download {
    /// The size of the whole object, even when a range was asked for.
    pub size: u64,
    /// The bytes, in order. Ends after exactly the bytes asked for; a connection
    /// that breaks earlier is an error, never a short end.
    pub stream: BoxStream<'static, Result<Bytes>>,
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Download").field("size", &self.size).finish_non_exhaustive()
    }
}

/// The kinds of failure a caller can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no such object.
    NotFound,
    /// The key is taken.
    AlreadyExists,
    /// The store knows us and refuses, or does not know us.
    PermissionDenied,
    /// The store is full, or a quota is reached.
    OutOfSpace,
    /// The store could not be reached or kept failing after all retries.
    Unavailable,
    /// A bounded wait ran out.
    Timeout,
    /// The bytes that came back are not those that were asked for.
    Corrupt,
    /// The range lies outside the object.
    InvalidRange,
    /// The place or its settings are wrong: no such bucket, a bad URL, a bad CA file.
    Configuration,
    /// Anything else of the operating system or the store.
    Io,
}

/// A failed act of a store.
#[derive(Debug, thiserror::Error)]
#[error("{act}")]
pub struct StoreError {
    /// What the caller can act on.
    pub kind: ErrorKind,
    /// The failed act and its object, as a lower-case fragment
    /// ("write objects/… in s3://…").
    pub act: String,
    /// Why.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl StoreError {
    /// An error of `kind` in `act`, without a source.
    pub fn new(kind: ErrorKind, act: impl Into<String>) -> Self {
        Self { kind, act: act.into(), source: None }
    }

    /// The same with the error that caused it.
    pub fn with_source(
        kind: ErrorKind,
        act: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, act: act.into(), source: Some(source.into()) }
    }
}
