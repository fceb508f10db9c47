//! A vault in memory, for tests.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::Utc;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};

use super::{
    Capabilities, Download, ErrorKind, Key, ObjectInfo, Result, SizeHint, Store, StoreError, Upload,
};

/// Objects in memory. Clones are the same store.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    objects: Arc<Mutex<BTreeMap<Key, Object>>>,
}

#[derive(Clone)]
struct Object {
    bytes: Bytes,
    info: ObjectInfo,
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Object>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another store with the same content.
    pub fn fork(&self) -> Self {
        Self { objects: Arc::new(Mutex::new(self.lock().clone())) }
    }

    /// The content of an object.
    pub fn bytes(&self, key: &Key) -> Option<Bytes> {
        self.lock().get(key).map(|object| object.bytes.clone())
    }

    /// Every key.
    pub fn keys(&self) -> Vec<Key> {
        self.lock().keys().cloned().collect()
    }

    /// Puts `bytes` under `key`, whatever is there: what a fault or an attacker
    /// does.
    pub fn set(&self, key: Key, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        let info = ObjectInfo { key: key.clone(), size: bytes.len() as u64, modified: Utc::now() };
        self.lock().insert(key, Object { bytes, info });
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn location(&self) -> String {
        "memory".into()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { put_new: true }
    }

    async fn put_new(&self, key: &Key, _size: SizeHint) -> Result<Box<dyn Upload>> {
        if self.lock().contains_key(key) {
            return Err(StoreError::new(ErrorKind::AlreadyExists, format!("write {key}")));
        }
        Ok(Box::new(MemoryUpload { store: self.clone(), key: key.clone(), bytes: Vec::new() }))
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Download> {
        let missing = || StoreError::new(ErrorKind::NotFound, format!("read {key}"));
        let bytes = self.bytes(key).ok_or_else(missing)?;
        let size = bytes.len() as u64;
        let range = range.unwrap_or(0..size);
        if range.start > range.end || range.end > size {
            return Err(StoreError::new(ErrorKind::InvalidRange, format!("read {key}")));
        }
        let asked = bytes.slice(range.start as usize..range.end as usize);
        let mut chunks = Vec::new();
        let mut rest = asked;
        while !rest.is_empty() {
            chunks.push(Ok(rest.split_to(rest.len().min(256 * 1024))));
        }
        Ok(Download { size, stream: stream::iter(chunks).boxed() })
    }

    async fn head(&self, key: &Key) -> Result<Option<ObjectInfo>> {
        Ok(self.lock().get(key).map(|object| object.info.clone()))
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        start_after: Option<&'a str>,
    ) -> BoxStream<'a, Result<ObjectInfo>> {
        let after = start_after.unwrap_or("");
        let found: Vec<_> = self
            .lock()
            .values()
            .filter(|object| {
                let key = object.info.key.as_str();
                key.starts_with(prefix) && key > after
            })
            .map(|object| Ok(object.info.clone()))
            .collect();
        stream::iter(found).boxed()
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.lock().remove(key);
        Ok(())
    }

    async fn sweep(&self) -> Result<u64> {
        Ok(0)
    }
}

struct MemoryUpload {
    store: MemoryStore,
    key: Key,
    bytes: Vec<u8>,
}

#[async_trait]
impl Upload for MemoryUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        self.bytes.extend_from_slice(&chunk);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<ObjectInfo> {
        let mut objects = self.store.lock();
        if objects.contains_key(&self.key) {
            return Err(StoreError::new(ErrorKind::AlreadyExists, format!("write {}", self.key)));
        }
        let info = ObjectInfo {
            key: self.key.clone(),
            size: self.bytes.len() as u64,
            modified: Utc::now(),
        };
        objects.insert(self.key, Object { bytes: self.bytes.into(), info: info.clone() });
        Ok(info)
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
