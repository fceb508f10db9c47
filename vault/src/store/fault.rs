//! A store that fails on purpose, for tests: at any call, before or after the
//! call took effect, once or from then on; and one that is slow.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tokio::sync::watch;

use super::{
    Capabilities, Download, ErrorKind, Key, ObjectInfo, Result, SizeHint, Store, StoreError, Upload,
};

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It does nothing and fails; later ones work.
    Once,
    /// It does its work, and then fails all the same; later ones work.
    OnceAfterEffect,
    /// It does nothing and fails, and so do all later ones.
    FromThenOn,
    /// It does its work, and then fails all the same, and all later ones fail.
    FromThenOnAfterEffect,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::Once, Self::OnceAfterEffect, Self::FromThenOn, Self::FromThenOnAfterEffect];

    fn lasts(self) -> bool {
        matches!(self, Self::FromThenOn | Self::FromThenOnAfterEffect)
    }

    fn has_effect(self) -> bool {
        matches!(self, Self::OnceAfterEffect | Self::FromThenOnAfterEffect)
    }
}

/// Wraps a store; calls are counted from 1: `put_new`, each `write`, `finish`,
/// `abort`, `get`, `head`, `list`, `delete` and `sweep`.
#[derive(Debug, Clone)]
pub struct FaultStore {
    inner: Arc<dyn Store>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    calls: AtomicU64,
    at: u64,
    fault: Fault,
    failed: AtomicBool,
    kind: ErrorKind,
    held: watch::Sender<bool>,
}

impl FaultStore {
    /// Fails `fault`-wise at call `at`, with an error of `kind`; never when `at`
    /// is 0.
    pub fn new(inner: Arc<dyn Store>, at: u64, fault: Fault, kind: ErrorKind) -> Self {
        let shared = Shared {
            calls: AtomicU64::new(0),
            at,
            fault,
            failed: AtomicBool::new(false),
            kind,
            held: watch::channel(false).0,
        };
        Self { inner, shared: Arc::new(shared) }
    }

    /// The number of calls so far.
    pub fn calls(&self) -> u64 {
        self.shared.calls.load(Ordering::SeqCst)
    }

    /// Whether the fault has struck.
    pub fn has_failed(&self) -> bool {
        self.shared.failed.load(Ordering::SeqCst)
    }

    /// While held, writes to uploads wait.
    pub fn hold_writes(&self, held: bool) {
        self.shared.held.send_replace(held);
    }
}

impl Shared {
    fn error(&self, act: &str) -> StoreError {
        StoreError::with_source(self.kind, act, "simulated fault")
    }

    /// Counts a call; says whether it must fail after its work, or fails.
    fn enter(&self, act: &str) -> Result<bool> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        if call == self.at {
            self.failed.store(true, Ordering::SeqCst);
            return if self.fault.has_effect() { Ok(true) } else { Err(self.error(act)) };
        }
        if self.at != 0 && call > self.at && self.fault.lasts() {
            return Err(self.error(act));
        }
        Ok(false)
    }

    fn leave<T>(&self, act: &str, fails: bool, result: Result<T>) -> Result<T> {
        if fails { result.and_then(|_| Err(self.error(act))) } else { result }
    }
}

#[async_trait]
impl Store for FaultStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn put_new(&self, key: &Key, size: SizeHint) -> Result<Box<dyn Upload>> {
        let fails = self.shared.enter("begin an object")?;
        let upload = self.inner.put_new(key, size).await;
        let inner = self.shared.leave("begin an object", fails, upload)?;
        Ok(Box::new(FaultUpload { inner, shared: Arc::clone(&self.shared) }))
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Download> {
        let fails = self.shared.enter("read an object")?;
        let download = self.inner.get(key, range).await;
        self.shared.leave("read an object", fails, download)
    }

    async fn head(&self, key: &Key) -> Result<Option<ObjectInfo>> {
        let fails = self.shared.enter("look at an object")?;
        let found = self.inner.head(key).await;
        self.shared.leave("look at an object", fails, found)
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        start_after: Option<&'a str>,
    ) -> BoxStream<'a, Result<ObjectInfo>> {
        match self.shared.enter("list objects") {
            Ok(false) => self.inner.list(prefix, start_after),
            Ok(true) => {
                let error = self.shared.error("list objects");
                self.inner.list(prefix, start_after).chain(stream::iter([Err(error)])).boxed()
            }
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let fails = self.shared.enter("delete an object")?;
        let deleted = self.inner.delete(key).await;
        self.shared.leave("delete an object", fails, deleted)
    }

    async fn sweep(&self) -> Result<u64> {
        let fails = self.shared.enter("sweep")?;
        let swept = self.inner.sweep().await;
        self.shared.leave("sweep", fails, swept)
    }
}

struct FaultUpload {
    inner: Box<dyn Upload>,
    shared: Arc<Shared>,
}

#[async_trait]
impl Upload for FaultUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        let mut held = self.shared.held.subscribe();
        // The sender lives in `shared`, so waiting ends by release only.
        let _ = held.wait_for(|held| !held).await;
        let fails = self.shared.enter("write an object")?;
        let written = self.inner.write(chunk).await;
        self.shared.leave("write an object", fails, written)
    }

    async fn finish(self: Box<Self>) -> Result<ObjectInfo> {
        let fails = self.shared.enter("finish an object")?;
        let finished = self.inner.finish().await;
        self.shared.leave("finish an object", fails, finished)
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        let fails = self.shared.enter("give up an object")?;
        let aborted = self.inner.abort().await;
        self.shared.leave("give up an object", fails, aborted)
    }
}
