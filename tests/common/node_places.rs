//! Journals and locks of plans on nodes, behind the interface of a node alone.

#![allow(dead_code, unreachable_pub)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use etcdvault::node::{Attributes, FileKind, Node, NodeError, NodeErrorKind, WriteHow, WriteLike};
use etcdvault::plan::journal::{JournalStore, PlaceError, PlaceErrorKind, Tail};
use etcdvault::plan::lock::{LockStore, MAX_CLAIM};
use etcdvault::plan::record::MAX_RECORDS;
use etcdvault::plan::{JOURNAL_DIRECTORY, LOCK_DIRECTORY, MAX_PLAN, Place, PlanId};
use sha2::{Digest as _, Sha256};

#[derive(Debug)]
pub(crate) struct NodePlace {
    place: Place,
    node: Arc<dyn Node>,
}

impl NodePlace {
    pub(crate) fn new(node: Arc<dyn Node>) -> Self {
        let place = Place::new(node.name().as_str()).expect("a node's name is a place's");
        Self { place, node }
    }

    fn error(&self, error: NodeError) -> PlaceError {
        let kind = match error.kind {
            NodeErrorKind::Lost | NodeErrorKind::Slow => PlaceErrorKind::Lost,
            NodeErrorKind::AlreadyExists | NodeErrorKind::Unexpected | NodeErrorKind::NotFound => {
                PlaceErrorKind::Conflict
            }
            // An error of the system within a write may come after the rename.
            NodeErrorKind::Other | NodeErrorKind::Failed => PlaceErrorKind::Lost,
            _ => PlaceErrorKind::Failed,
        };
        PlaceError::new(&self.place, kind, error.act, error.why)
    }

    fn conflict(&self, act: &str) -> PlaceError {
        let why = "somebody else wrote there";
        PlaceError::new(&self.place, PlaceErrorKind::Conflict, act, why)
    }

    async fn dirs(&self, path: &Path) -> Result<(), PlaceError> {
        let mut missing = Vec::new();
        let mut at = path;
        while self.node.stat(at).await.map_err(|e| self.error(e))?.is_none() {
            missing.push(at);
            at = at.parent().expect("the root is there");
        }
        for path in missing.into_iter().rev() {
            let made = self.node.make_dir(path, WriteLike::Attributes(root(0o700))).await;
            match made {
                Err(error) if error.kind == NodeErrorKind::AlreadyExists => {}
                other => other.map_err(|e| self.error(e))?,
            }
        }
        Ok(())
    }

    async fn get(&self, path: &Path, limit: usize) -> Result<Option<Vec<u8>>, PlaceError> {
        match self.node.read(path, limit as u64).await {
            Ok(file) => Ok(Some(file.bytes)),
            Err(error) if error.kind == NodeErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.error(error)),
        }
    }

    async fn set(&self, path: &Path, old: Option<&[u8]>, new: &[u8]) -> Result<(), PlaceError> {
        let replaces = old.map(|old| Sha256::digest(old).into());
        let how = WriteHow { like: WriteLike::Attributes(root(0o600)), replaces };
        self.node.write(path, new, how).await.map_err(|e| self.error(e))
    }
}

fn root(mode: u32) -> Attributes {
    let xattrs = Default::default();
    Attributes { uid: 0, gid: 0, owner: None, group: None, mode, xattrs }
}

fn of(id: PlanId) -> PathBuf {
    Path::new(JOURNAL_DIRECTORY).join(id.to_string())
}

fn lock(cluster: &str) -> PathBuf {
    Path::new(LOCK_DIRECTORY).join(format!("{cluster}.lock"))
}

#[async_trait]
impl JournalStore for NodePlace {
    fn place(&self) -> &Place {
        &self.place
    }

    async fn list(&self) -> Result<Vec<PlanId>, PlaceError> {
        let entries = match self.node.list(Path::new(JOURNAL_DIRECTORY)).await {
            Err(error) if error.kind == NodeErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|e| self.error(e))?,
        };
        let names = entries.iter().filter(|entry| entry.kind == FileKind::Directory);
        let ids = names.filter_map(|entry| entry.path.file_name()?.to_str()?.parse().ok());
        Ok(ids.collect())
    }

    async fn put_plan(&self, id: PlanId, bytes: &[u8]) -> Result<(), PlaceError> {
        let path = of(id).join("plan.json");
        match self.get(&path, MAX_PLAN).await? {
            Some(there) if there == bytes => Ok(()),
            Some(_) => Err(self.conflict("store the plan")),
            None => {
                self.dirs(&of(id)).await?;
                self.set(&path, None, bytes).await
            }
        }
    }

    async fn plan(&self, id: PlanId) -> Result<Option<Vec<u8>>, PlaceError> {
        self.get(&of(id).join("plan.json"), MAX_PLAN).await
    }

    async fn records(&self, id: PlanId) -> Result<Vec<u8>, PlaceError> {
        Ok(self.get(&of(id).join("records"), MAX_RECORDS).await?.unwrap_or_default())
    }

    async fn append(&self, id: PlanId, tail: Tail, bytes: &[u8]) -> Result<(), PlaceError> {
        let path = of(id).join("records");
        let old = self.get(&path, MAX_RECORDS).await?;
        let there = old.as_deref().unwrap_or_default();
        if there.len() as u64 != tail.seen {
            return Err(self.conflict("add to the journal"));
        }
        let keep = usize::try_from(tail.keep).expect("not more than was read");
        let new = [&there[..keep], bytes].concat();
        self.set(&path, old.as_deref(), &new).await
    }
}

#[async_trait]
impl LockStore for NodePlace {
    fn place(&self) -> &Place {
        &self.place
    }

    async fn read(&self, cluster: &str) -> Result<Option<Vec<u8>>, PlaceError> {
        self.get(&lock(cluster), MAX_CLAIM).await
    }

    async fn swap(&self, cluster: &str, old: Option<&[u8]>, new: &[u8]) -> Result<(), PlaceError> {
        if old.is_none() {
            self.dirs(Path::new(LOCK_DIRECTORY)).await?;
        }
        self.set(&lock(cluster), old, new).await
    }

    async fn remove(&self, cluster: &str, expected: &[u8]) -> Result<(), PlaceError> {
        let sha = Sha256::digest(expected).into();
        self.node.remove_own(&lock(cluster), sha).await.map_err(|e| self.error(e))
    }
}
