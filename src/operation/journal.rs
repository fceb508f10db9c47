//! Journals and locks of plans on nodes, and what reads them: list, show, resume,
//! rollback.
//!
//! A [`NodePlace`] needs nothing of a node but [`Node`]. A write that replaces says
//! what it replaces, so of two writers one is refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use sha2::{Digest as _, Sha256};

use crate::node::{Attributes, FileKind, NodeError, NodeErrorKind, WriteHow, WriteLike};
use crate::plan::journal::{PlaceError, PlaceErrorKind, Tail};
use crate::plan::lock::{LockStore, MAX_CLAIM};
use crate::plan::record::MAX_RECORDS;
use crate::plan::{InvalidName, JOURNAL_DIRECTORY, LOCK_DIRECTORY, MAX_PLAN};

pub use crate::node::Node;
pub use crate::plan::execute::{Back, Clock, Engine, Options, Outcome, Report, RunError};
pub use crate::plan::journal::{
    History, JournalError, JournalStore, Listed, StepState, list, load,
};
pub use crate::plan::lock::LockError;
pub use crate::plan::record::{Direction, Ending, Owner};
pub use crate::plan::stop::{Level, Stop, Stopper, channel};
pub use crate::plan::{Place, Plan, PlanId};

/// Above this there is always a directory: the root.
const DEEPEST: usize = 64;

/// A node as a place of journals and locks.
#[derive(Debug)]
pub struct NodePlace {
    place: Place,
    node: Arc<dyn Node>,
}

impl NodePlace {
    /// The place that `node` is.
    pub fn new(node: Arc<dyn Node>) -> Result<Self, InvalidName> {
        Ok(Self { place: Place::new(node.name().as_str())?, node })
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

/// Makes `path` and what is missing above it, root's alone.
pub(super) async fn make_dirs(node: &dyn Node, path: &Path) -> Result<(), NodeError> {
    let mut missing = Vec::new();
    for above in path.ancestors().take(DEEPEST) {
        if node.stat(above).await?.is_some() {
            break;
        }
        missing.push(above);
    }
    for path in missing.into_iter().rev() {
        match node.make_dir(path, WriteLike::Attributes(root(0o700))).await {
            Err(error) if error.kind == NodeErrorKind::AlreadyExists => {}
            other => other?,
        }
    }
    Ok(())
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
                let made = make_dirs(self.node.as_ref(), &of(id)).await;
                made.map_err(|e| self.error(e))?;
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
        let keep = usize::try_from(tail.keep).ok().and_then(|keep| there.get(..keep));
        let (Some(keep), true) = (keep, there.len() as u64 == tail.seen) else {
            return Err(self.conflict("add to the journal"));
        };
        let new = [keep, bytes].concat();
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
            let made = make_dirs(self.node.as_ref(), Path::new(LOCK_DIRECTORY)).await;
            made.map_err(|e| self.error(e))?;
        }
        self.set(&lock(cluster), old, new).await
    }

    async fn remove(&self, cluster: &str, expected: &[u8]) -> Result<(), PlaceError> {
        let sha = Sha256::digest(expected).into();
        self.node.remove_own(&lock(cluster), sha).await.map_err(|e| self.error(e))
    }
}

/// `nodes` as places.
pub fn places(nodes: &[Arc<dyn Node>]) -> Result<Vec<Arc<NodePlace>>, InvalidName> {
    nodes.iter().map(|node| Ok(Arc::new(NodePlace::new(node.clone())?))).collect()
}

/// The same as the journals that the engine knows.
pub fn stores(places: &[Arc<NodePlace>]) -> Vec<Arc<dyn JournalStore>> {
    places.iter().map(|place| place.clone() as Arc<dyn JournalStore>).collect()
}

/// The same as the locks that the engine knows.
pub fn locks(places: &[Arc<NodePlace>]) -> Vec<Arc<dyn LockStore>> {
    places.iter().map(|place| place.clone() as Arc<dyn LockStore>).collect()
}
