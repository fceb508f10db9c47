//! One operation at a time for each cluster: an exclusive file on a majority of
//! the nodes.
//!
//! - Whoever holds more than half of the nodes holds the lock; so nobody else does.
//!   Nodes of the cluster that are not even asked count, where their number is given:
//!   of two who reach different nodes at most one has more than half of all.
//! - A claim on a minority, left by somebody who died or lost while taking it, is
//!   replaced by the next holder.
//! - A holder that died is taken over only knowingly, and only after its claim was
//!   seen to stand still for longer than the time between its signs of life; clocks
//!   of different machines are never compared for that.
//! - A holder whose lock was taken over learns it before its next step.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use super::execute::Clock;
use super::journal::{PlaceError, PlaceErrorKind};
use super::record::Owner;
use super::{FORMAT, Format, Place, PlanId};

/// A lock's file is at most so long.
pub const MAX_CLAIM: usize = 16 << 10;

/// A holder gives a sign of life so often.
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// A claim that stands still for so long has no holder any more.
pub const STILL: Duration = Duration::from_secs(25);

/// Without a majority for so long a holder no longer counts on its lock: shorter
/// than [`STILL`], so that it stops before somebody else begins.
const GIVEN_UP: Duration = Duration::from_secs(20);

/// One call to a place while the lock is kept or given back.
const CALL: Duration = Duration::from_secs(4);

/// Two takers who both got a part try again so often.
const ATTEMPTS: u32 = 20;

/// A place that keeps locks: one small file for each cluster, 0600.
#[async_trait]
pub trait LockStore: fmt::Debug + Send + Sync {
    /// Its name.
    fn place(&self) -> &Place;
    /// What the file holds, at most [`MAX_CLAIM`] bytes.
    async fn read(&self, cluster: &str) -> Result<Option<Vec<u8>>, PlaceError>;
    /// Writes the file if it holds `expected`; with `None` if there is none.
    /// Otherwise [`PlaceErrorKind::Conflict`]. Atomic and durable.
    async fn swap(
        &self,
        cluster: &str,
        expected: Option<&[u8]>,
        claim: &[u8],
    ) -> Result<(), PlaceError>;
    /// Removes the file if it holds `expected`; otherwise
    /// [`PlaceErrorKind::Conflict`].
    async fn remove(&self, cluster: &str, expected: &[u8]) -> Result<(), PlaceError>;
}

/// What a lock's file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Version of this shape.
    pub format: Format,
    /// The cluster.
    pub cluster: String,
    /// Tells claims apart; the same on all nodes.
    pub token: PlanId,
    /// The plan that it is for.
    pub plan: PlanId,
    /// The operation, as it is typed.
    pub operation: String,
    /// Who.
    pub owner: Owner,
    /// Since when, by the owner's clock.
    pub since: DateTime<Utc>,
    /// Grows with every sign of life.
    pub beat: u64,
    /// When that was, by the owner's clock.
    pub beat_at: DateTime<Utc>,
}

impl Claim {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

/// Why there is no lock.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LockError {
    /// Somebody else holds it (exit code 11).
    #[error("{} holds the lock of {} for {:?} since {}", claim.owner, claim.cluster, claim.operation, claim.since.format("%Y-%m-%d %H:%M:%S UTC"))]
    Held {
        /// Who, and for what.
        claim: Box<Claim>,
        /// It was to be taken over, and gave a sign of life.
        alive: bool,
    },
    /// A file stands there that is no claim; it is taken over knowingly, as one.
    #[error("the lock of {cluster} on {place} cannot be read: {why}")]
    Unreadable {
        /// The cluster.
        cluster: String,
        /// Where.
        place: Place,
        /// Why.
        why: String,
    },
    /// A majority cannot be reached.
    #[error("the lock of {cluster} needs {needed} of {total} nodes, and {reached} answer")]
    NoMajority {
        /// The cluster.
        cluster: String,
        /// How many are needed.
        needed: usize,
        /// How many there are.
        total: usize,
        /// How many answered.
        reached: usize,
        /// Why the others did not.
        errors: Vec<PlaceError>,
    },
    /// Somebody else tries at the same moment.
    #[error("somebody else takes the lock of {0} at the same moment")]
    Contended(String),
}

impl LockError {
    /// Whether somebody else is at work (exit code 11).
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Held { .. } | Self::Contended(_) | Self::Unreadable { .. })
    }
}

/// Who wants the lock and what for.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The cluster.
    pub cluster: &'a str,
    /// The plan.
    pub plan: PlanId,
    /// The operation.
    pub operation: &'a str,
    /// Who.
    pub owner: &'a Owner,
    /// Whether a holder that gives no sign of life is taken over.
    pub take_over: bool,
    /// How many nodes the cluster has, of which more than half are needed, asked or not;
    /// those that are asked where it is less.
    pub of: usize,
}

/// A lock that is held. Given back by [`Lock::release`]; dropped, it stays and has
/// to be taken over.
#[derive(Debug)]
pub struct Lock {
    stores: Vec<Arc<dyn LockStore>>,
    /// So many nodes are a majority.
    needed: usize,
    claim: tokio::sync::Mutex<Held>,
    clock: Clock,
    lost: AtomicBool,
    /// When the last sign of life began that a majority took.
    good: std::sync::Mutex<tokio::time::Instant>,
    /// Whose lock it was before, where it was taken over.
    pub taken_from: Option<Claim>,
}

#[derive(Debug)]
struct Held {
    claim: Claim,
    /// What stands on each node, as far as known.
    bytes: BTreeMap<Place, Vec<u8>>,
}

/// Who holds the lock of `cluster` now, as far as the nodes that answer say.
pub async fn holder(stores: &[Arc<dyn LockStore>], cluster: &str) -> Option<Claim> {
    let found = join_all(stores.iter().map(|store| store.read(cluster))).await;
    let claims = found.into_iter().filter_map(|read| parse(&read.ok()??).ok());
    most(claims.collect(), stores.len() / 2 + 1)
}

/// More than half of the nodes that are asked, or of the cluster's where these are more.
fn majority(stores: &[Arc<dyn LockStore>], of: usize) -> usize {
    stores.len().max(of) / 2 + 1
}

/// The claim that stands on at least `needed` places.
fn most(claims: Vec<Claim>, needed: usize) -> Option<Claim> {
    let same = |claim: &Claim| claims.iter().filter(|other| other.token == claim.token).count();
    claims.iter().filter(|claim| same(claim) >= needed).max_by_key(|claim| claim.beat).cloned()
}

fn parse(bytes: &[u8]) -> Result<Claim, String> {
    if bytes.len() > MAX_CLAIM {
        return Err(format!("it has {} bytes", bytes.len()));
    }
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

/// Takes the lock of a cluster.
pub async fn take(
    stores: &[Arc<dyn LockStore>],
    request: &Request<'_>,
    clock: &Clock,
) -> Result<Lock, LockError> {
    let mut stores = stores.to_vec();
    stores.sort_by(|a, b| a.place().cmp(b.place()));
    let now = clock.now();
    let claim = Claim {
        format: FORMAT,
        cluster: request.cluster.to_owned(),
        token: PlanId::generate(),
        plan: request.plan,
        operation: request.operation.to_owned(),
        owner: request.owner.clone(),
        since: now,
        beat: 0,
        beat_at: now,
    };
    let bytes = claim.bytes();
    let mut taker =
        Taker { stores: &stores, request, bytes: &bytes, own: BTreeMap::new(), taken_from: None };
    match taker.run(&claim).await {
        Ok(()) => {
            let Taker { own, taken_from, .. } = taker;
            let held = Held { claim, bytes: own };
            let lost = AtomicBool::new(false);
            let claim = tokio::sync::Mutex::new(held);
            let good = std::sync::Mutex::new(tokio::time::Instant::now());
            let needed = majority(&stores, request.of);
            Ok(Lock { stores, needed, claim, clock: clock.clone(), lost, good, taken_from })
        }
        Err(error) => {
            taker.give_back().await;
            Err(error)
        }
    }
}

struct Taker<'a> {
    stores: &'a [Arc<dyn LockStore>],
    request: &'a Request<'a>,
    bytes: &'a [u8],
    /// Where our claim stands.
    own: BTreeMap<Place, Vec<u8>>,
    taken_from: Option<Claim>,
}

/// What a walk over all nodes found.
#[derive(Default)]
struct Walk {
    others: Vec<(Place, Vec<u8>)>,
    errors: Vec<PlaceError>,
}

impl Taker<'_> {
    async fn run(&mut self, claim: &Claim) -> Result<(), LockError> {
        let total = self.stores.len().max(self.request.of);
        let needed = majority(self.stores, self.request.of);
        for attempt in 0..ATTEMPTS {
            let walk = self.walk().await;
            if self.own.len() >= needed {
                self.replace_minority(&walk).await;
                return Ok(());
            }
            if self.own.len() + walk.others.len() < needed {
                return Err(LockError::NoMajority {
                    cluster: self.request.cluster.to_owned(),
                    needed,
                    total,
                    reached: self.own.len() + walk.others.len(),
                    errors: walk.errors,
                });
            }
            let claims: Vec<Claim> =
                walk.others.iter().filter_map(|(_, bytes)| parse(bytes).ok()).collect();
            if let Some(held) = most(claims.clone(), needed) {
                self.give_back().await;
                return self.held(held, &walk, needed).await;
            }
            if self.request.take_over && attempt > 0 {
                return self.take_over(&walk, needed).await;
            }
            if let Some((place, bytes)) = walk.others.iter().find(|(_, b)| parse(b).is_err()) {
                let why = parse(bytes).err().unwrap_or_default();
                let (cluster, place) = (self.request.cluster.to_owned(), place.clone());
                return Err(LockError::Unreadable { cluster, place, why });
            }
            // Nobody has a majority: of takers at the same moment the one with the
            // lowest token goes on, the others give back what they have.
            if claims.iter().any(|other| other.token < claim.token) {
                self.give_back().await;
            }
            tokio::time::sleep(Duration::from_millis(200 + u64::from(attempt) * 50)).await;
        }
        // They did not go away: a part of somebody who died, on so many nodes that
        // no majority is free.
        let walk = self.walk().await;
        let claim = walk.others.iter().find_map(|(_, bytes)| parse(bytes).ok());
        Err(match claim {
            Some(claim) => LockError::Held { claim: Box::new(claim), alive: false },
            None => LockError::Contended(self.request.cluster.to_owned()),
        })
    }

    /// Puts our claim wherever there is none.
    async fn walk(&mut self) -> Walk {
        let mut walk = Walk::default();
        let cluster = self.request.cluster;
        for store in self.stores {
            if self.own.contains_key(store.place()) {
                continue;
            }
            let taken = match store.swap(cluster, None, self.bytes).await {
                // It may have been written all the same.
                Err(error) if error.kind != PlaceErrorKind::Failed => {
                    match store.read(cluster).await {
                        Ok(Some(there)) if there == self.bytes => Ok(()),
                        Ok(Some(there)) => {
                            walk.others.push((store.place().clone(), there));
                            continue;
                        }
                        Ok(None) => Err(error),
                        Err(error) => Err(error),
                    }
                }
                other => other,
            };
            match taken {
                Ok(()) => {
                    self.own.insert(store.place().clone(), self.bytes.to_vec());
                }
                Err(error) => walk.errors.push(error),
            }
        }
        walk
    }

    /// Somebody holds a majority.
    async fn held(&mut self, held: Claim, walk: &Walk, needed: usize) -> Result<(), LockError> {
        if self.request.take_over {
            self.take_over(walk, needed).await
        } else {
            Err(LockError::Held { claim: Box::new(held), alive: false })
        }
    }

    /// Replaces claims that stand still.
    async fn take_over(&mut self, walk: &Walk, needed: usize) -> Result<(), LockError> {
        tokio::time::sleep(STILL).await;
        let mut alive = None;
        for (place, before) in &walk.others {
            let Some(store) = self.stores.iter().find(|store| store.place() == place) else {
                continue;
            };
            // A claim that changed has a living holder; atomic, so that of two who
            // take over one wins.
            match store.swap(self.request.cluster, Some(before), self.bytes).await {
                Ok(()) => {
                    self.own.insert(place.clone(), self.bytes.to_vec());
                    self.taken_from = self.taken_from.take().or_else(|| parse(before).ok());
                }
                Err(error) if error.kind == PlaceErrorKind::Failed => {}
                Err(_) => {
                    let now = store.read(self.request.cluster).await.ok().flatten();
                    if now.as_deref() == Some(self.bytes) {
                        self.own.insert(place.clone(), self.bytes.to_vec());
                    } else {
                        alive = alive.or_else(|| parse(now.as_deref()?).ok());
                        // The living holder's other claims stay untouched.
                        break;
                    }
                }
            }
        }
        if alive.is_none() {
            self.walk().await;
        }
        if self.own.len() >= needed {
            return Ok(());
        }
        Err(match alive {
            Some(claim) => LockError::Held { claim: Box::new(claim), alive: true },
            None => LockError::Contended(self.request.cluster.to_owned()),
        })
    }

    /// With a majority in hand: nobody else can hold the lock, so what others left
    /// on a minority is replaced.
    async fn replace_minority(&mut self, walk: &Walk) {
        for (place, before) in &walk.others {
            let Some(store) = self.stores.iter().find(|store| store.place() == place) else {
                continue;
            };
            if store.swap(self.request.cluster, Some(before), self.bytes).await.is_ok() {
                self.own.insert(place.clone(), self.bytes.to_vec());
            }
        }
    }

    async fn give_back(&mut self) {
        let own = std::mem::take(&mut self.own);
        let stores = self.stores.iter().filter(|store| own.contains_key(store.place()));
        join_all(stores.map(async |store| {
            let remove = store.remove(self.request.cluster, self.bytes);
            let _ = tokio::time::timeout(CALL, remove).await;
        }))
        .await;
    }
}

/// Removes the claim of `held`, whichever of its signs of life stands there: of one
/// whose answer was lost it is not known whether it came. What others hold stays.
async fn remove_own(store: &dyn LockStore, held: &Held, cluster: &str) -> Result<(), PlaceError> {
    let known = store.remove(cluster, &held.bytes[store.place()]).await;
    match known {
        Err(error) if error.kind == PlaceErrorKind::Conflict => {}
        other => return other,
    }
    let Some(there) = store.read(cluster).await? else { return Ok(()) };
    if !parse(&there).is_ok_and(|claim| claim.token == held.claim.token) {
        return Ok(());
    }
    match store.remove(cluster, &there).await {
        Err(error) if error.kind == PlaceErrorKind::Conflict => Ok(()),
        other => other,
    }
}

impl Lock {
    /// Whether the lock is not ours any more, or that cannot be known.
    pub fn is_lost(&self) -> bool {
        let good = *self.good.lock().unwrap_or_else(PoisonError::into_inner);
        self.lost.load(Ordering::SeqCst) || good.elapsed() > GIVEN_UP
    }

    /// Gives signs of life until `ended`. One that is under way then comes to its end:
    /// cut off, it could still reach a node after the lock was given back.
    pub async fn keep(&self, ended: &tokio::sync::Notify) {
        loop {
            tokio::select! {
                biased;
                () = ended.notified() => return,
                () = tokio::time::sleep(HEARTBEAT) => {}
            }
            self.beat().await;
        }
    }

    /// One sign of life; whether a majority has it.
    pub async fn beat(&self) -> bool {
        let begun = tokio::time::Instant::now();
        let mut held = self.claim.lock().await;
        held.claim.beat += 1;
        held.claim.beat_at = self.clock.now();
        let (bytes, cluster) = (held.claim.bytes(), held.claim.cluster.clone());
        let known = &held.bytes;
        let swapped = join_all(self.stores.iter().map(async |store| {
            let before = known.get(store.place());
            let swap = store.swap(&cluster, before.map(Vec::as_slice), &bytes);
            let done = tokio::time::timeout(CALL, swap).await;
            (store, done.map_err(|_| ()).and_then(|done| done.map_err(drop)))
        }))
        .await;
        let mut good = 0;
        let mut foreign = 0;
        for (store, done) in swapped {
            if done.is_ok() {
                held.bytes.insert(store.place().clone(), bytes.clone());
                good += 1;
                continue;
            }
            // What stands there now: ours from before, from now, or somebody else's.
            let read = tokio::time::timeout(CALL, store.read(&cluster)).await;
            match read {
                Ok(Ok(Some(there))) if there == bytes => {
                    held.bytes.insert(store.place().clone(), there);
                    good += 1;
                }
                Ok(Ok(Some(there))) => {
                    if parse(&there).is_ok_and(|claim| claim.token == held.claim.token) {
                        held.bytes.insert(store.place().clone(), there);
                    } else {
                        held.bytes.remove(store.place());
                        foreign += 1;
                    }
                }
                Ok(Ok(None)) => {
                    held.bytes.remove(store.place());
                }
                _ => {}
            }
        }
        let needed = self.needed;
        if foreign >= needed {
            self.lost.store(true, Ordering::SeqCst);
        }
        if good >= needed {
            *self.good.lock().unwrap_or_else(PoisonError::into_inner) = begun;
        }
        good >= needed
    }

    /// Gives the lock back. Nodes that do not answer keep a claim; on a minority
    /// the next holder replaces it.
    pub async fn release(self) -> Vec<PlaceError> {
        let held = self.claim.into_inner();
        let cluster = &held.claim.cluster;
        let stores = self.stores.iter().filter(|store| held.bytes.contains_key(store.place()));
        let removed = join_all(stores.map(async |store| {
            let remove = remove_own(store.as_ref(), &held, cluster);
            match tokio::time::timeout(CALL, remove).await {
                Ok(done) => done.err(),
                Err(_) => Some(PlaceError::new(
                    store.place(),
                    PlaceErrorKind::Lost,
                    "give back the lock",
                    "it does not answer",
                )),
            }
        }))
        .await;
        removed.into_iter().flatten().collect()
    }
}
