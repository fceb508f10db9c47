//! The journal of a plan: on every node the plan and a file of records, from
//! which any machine that reaches the nodes finds how far it came.
//!
//! What holds:
//!
//! - every place has the plan before any node has a record of a run;
//! - every node has the beginning of a run before any node has anything else of it;
//! - a record of a step is durable on all nodes that the step touches when
//!   [`Journal::write`] returns;
//! - what cannot have happened in that order is a contradiction, not a state.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::future::join_all;

use super::record::{
    self, Digest32, Direction, Ending, Entry, Owner, Record, RecordFault, Records, Sequence,
};
use super::{Effect, Outputs, Place, Plan, PlanFault, PlanHead, PlanId, Reversal, Step, StepId};

/// What writes records.
pub const TOOL: &str = concat!("etcdvault ", env!("CARGO_PKG_VERSION"));

/// What kind of failure a place had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceErrorKind {
    /// It cannot be reached, or was lost within the call: what became of the call
    /// is not known.
    Lost,
    /// Something else stands there than was expected: somebody else wrote.
    Conflict,
    /// Anything else; the call had no effect.
    Failed,
}

/// A call to a place that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{place}: {act}: {why}")]
pub struct PlaceError {
    /// The place.
    pub place: Place,
    /// What kind of failure it was.
    pub kind: PlaceErrorKind,
    /// What was to be done, as a fragment.
    pub act: String,
    /// Why it was not, as a fragment.
    pub why: String,
    /// What a person can do.
    pub hint: Option<String>,
}

impl PlaceError {
    /// A failure of `kind` to do `act` at `place`.
    pub fn new(
        place: &Place,
        kind: PlaceErrorKind,
        act: impl Into<String>,
        why: impl Into<String>,
    ) -> Self {
        Self { place: place.clone(), kind, act: act.into(), why: why.into(), hint: None }
    }
}

/// Which part of a file of records a writer knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// How long the file was when it was read or last written; 0 where there was
    /// none.
    pub seen: u64,
    /// How much of it stays: the rest is a torn record.
    pub keep: u64,
}

/// A place that keeps journals. Directories 0700, files 0600, all durable when a
/// call returns.
#[async_trait]
pub trait JournalStore: fmt::Debug + Send + Sync {
    /// Its name.
    fn place(&self) -> &Place;

    /// The plans that it keeps.
    async fn list(&self) -> Result<Vec<PlanId>, PlaceError>;

    /// Stores a plan. The same bytes again are no error, others are
    /// [`PlaceErrorKind::Conflict`].
    async fn put_plan(&self, id: PlanId, bytes: &[u8]) -> Result<(), PlaceError>;

    /// A plan of at most [`super::MAX_PLAN`] bytes.
    async fn plan(&self, id: PlanId) -> Result<Option<Vec<u8>>, PlaceError>;

    /// Its records, at most [`record::MAX_RECORDS`] bytes; none where there is no
    /// file.
    async fn records(&self, id: PlanId) -> Result<Vec<u8>, PlaceError>;

    /// Adds to its records, creating the file. Refused with
    /// [`PlaceErrorKind::Conflict`] when the file is not as long as `tail` says.
    async fn append(&self, id: PlanId, tail: Tail, bytes: &[u8]) -> Result<(), PlaceError>;
}

/// Why a journal cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// No place that answers has such a plan.
    #[error("no plan {0} on any node that answers")]
    NotFound(PlanId),
    /// Places that must be asked do not answer.
    #[error("{} of {total} places that keep the journal cannot be read", missing.len())]
    Missing {
        /// Which, and why.
        missing: Vec<PlaceError>,
        /// How many there are.
        total: usize,
    },
    /// A place has bytes that were not written so.
    #[error("the journal on {place} is damaged: {source}")]
    Corrupt {
        /// Where.
        place: Place,
        /// What is wrong.
        source: RecordFault,
    },
    /// Two places have different plans under one id.
    #[error("{a} and {b} keep different plans under the id {id}")]
    OtherPlan {
        /// The id.
        id: PlanId,
        /// One place.
        a: Place,
        /// The other.
        b: Place,
    },
    /// The plan that is stored is none, or too new.
    #[error("the plan {id} on {place} cannot be read")]
    Plan {
        /// The id.
        id: PlanId,
        /// Where.
        place: Place,
        /// Why.
        #[source]
        source: PlanFault,
    },
    /// The records of the places cannot all be true.
    #[error("the journals contradict each other: {0}")]
    Contradiction(String),
    /// A record could not be written.
    #[error("a record could not be written")]
    Write(#[source] PlaceError),
    /// A record became too large.
    #[error("a record could not be written")]
    TooLarge(#[source] record::TooLarge),
}

impl JournalError {
    /// The places that were asked in vain, with their reasons.
    pub fn places(&self) -> &[PlaceError] {
        match self {
            Self::Missing { missing, .. } => missing,
            Self::Write(place) => std::slice::from_ref(place),
            _ => &[],
        }
    }

    /// Whether stored bytes are not what was stored (exit code 20).
    pub fn is_corruption(&self) -> bool {
        matches!(
            self,
            Self::Corrupt { .. }
                | Self::OtherPlan { .. }
                | Self::Contradiction(_)
                | Self::Plan { source: PlanFault::Malformed(_), .. }
        )
    }
}

/// How far a step is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepState {
    /// Never begun.
    Pending,
    /// Begun, and nothing more is known.
    Doubt(Direction),
    /// Done.
    Applied(Outputs),
    /// Taken back.
    Undone,
    /// Failed.
    Failed {
        /// Which way.
        direction: Direction,
        /// Why.
        why: String,
        /// What it did before.
        effect: Effect,
    },
}

impl StepState {
    /// Whether the step may have changed something that still stands.
    pub fn may_stand(&self) -> bool {
        match self {
            Self::Pending | Self::Undone => false,
            Self::Failed { direction: Direction::Apply, effect, .. } => *effect != Effect::None,
            Self::Doubt(_) | Self::Applied(_) | Self::Failed { .. } => true,
        }
    }
}

/// A run, as its first record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its number.
    pub number: u32,
    /// Tells it from others with its number.
    pub id: PlanId,
    /// Which way.
    pub direction: Direction,
    /// Who.
    pub owner: Owner,
    /// Nodes left out.
    pub without: Vec<Place>,
}

/// What the journals of all places say together.
#[derive(Debug, Clone)]
pub struct History<S> {
    /// The plan.
    pub plan: Plan<S>,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Every record once, in the order in which they were written.
    pub records: Vec<Record>,
    /// The runs.
    pub runs: Vec<Run>,
    /// How far each step is.
    pub steps: BTreeMap<StepId, StepState>,
    /// How it ended, where it did.
    pub ending: Option<Ending>,
    /// What each node has.
    files: BTreeMap<Place, (Records, u64)>,
    /// Places that could not be read.
    pub missing: Vec<PlaceError>,
}

impl<S: Step> History<S> {
    /// The state of `step`.
    pub fn state(&self, step: StepId) -> &StepState {
        self.steps.get(&step).unwrap_or(&StepState::Pending)
    }

    /// What the steps that are done gave.
    pub fn outputs(&self) -> Outputs {
        let applied = self.steps.values().filter_map(|state| match state {
            StepState::Applied(outputs) => Some(outputs),
            _ => None,
        });
        applied.flatten().map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// Whether it was begun and neither done nor taken back.
    pub fn is_unfinished(&self) -> bool {
        self.ending.is_none() && !self.runs.is_empty()
    }

    /// The first step beyond the last free return that may have had an effect.
    pub fn beyond_return(&self) -> Option<StepId> {
        let beyond = |id: &StepId| self.plan.is_beyond_return(id.stage);
        let stands = |id: &StepId| {
            !matches!(
                self.state(*id),
                StepState::Pending
                    | StepState::Undone
                    | StepState::Failed { direction: Direction::Apply, effect: Effect::None, .. }
            )
        };
        self.plan.steps().map(|(id, _)| id).find(|id| beyond(id) && stands(id))
    }
}

/// Reads what every place says of the plan `id`, and puts it together.
///
/// Places that do not answer are listed in [`History::missing`].
pub async fn load<S: Step>(
    stores: &[Arc<dyn JournalStore>],
    id: PlanId,
) -> Result<History<S>, JournalError> {
    let read = join_all(stores.iter().map(async |store| {
        let plan = store.plan(id).await?;
        let records = match &plan {
            Some(_) => store.records(id).await?,
            None => Vec::new(),
        };
        Ok::<_, PlaceError>((plan, records))
    }))
    .await;
    let mut missing = Vec::new();
    let mut found = Vec::new();
    let mut without_plan = Vec::new();
    for (store, read) in stores.iter().zip(read) {
        match read {
            Ok((Some(plan), records)) => found.push((store, plan, records)),
            Ok((None, _)) => without_plan.push(store.place().clone()),
            Err(error) => missing.push(error),
        }
    }
    let Some((first, bytes, _)) = found.first() else {
        return if missing.is_empty() {
            Err(JournalError::NotFound(id))
        } else {
            Err(JournalError::Missing { missing, total: stores.len() })
        };
    };
    if let Some((other, ..)) = found.iter().find(|(_, plan, _)| plan != bytes) {
        let (a, b) = (first.place().clone(), other.place().clone());
        return Err(JournalError::OtherPlan { id, a, b });
    }
    let plan = Plan::<S>::from_bytes(bytes).map_err(|source| JournalError::Plan {
        id,
        place: first.place().clone(),
        source,
    })?;
    if plan.id != id {
        let place = first.place().clone();
        let source = PlanFault::Malformed(format!("it calls itself {}", plan.id));
        return Err(JournalError::Plan { id, place, source });
    }
    let digest = record::plan_digest(bytes);
    let mut files = BTreeMap::new();
    for (store, _, bytes) in &found {
        if !plan.nodes.contains(store.place()) {
            continue;
        }
        let place = store.place().clone();
        let records = record::decode(&digest, bytes)
            .map_err(|source| JournalError::Corrupt { place: place.clone(), source })?;
        files.insert(place, (records, bytes.len() as u64));
    }
    // A node of the plan that was not even asked is as missing as a silent one.
    for node in &plan.nodes {
        let known = files.contains_key(node)
            || without_plan.contains(node)
            || missing.iter().any(|error| error.place == *node);
        if !known {
            let kind = PlaceErrorKind::Lost;
            missing.push(PlaceError::new(
                node,
                kind,
                "read its journal",
                "it is not among the nodes",
            ));
        }
    }
    let bytes = bytes.clone();
    merge(plan, bytes, files, missing, &without_plan)
}

/// Puts the records of all nodes into one order and follows them.
fn merge<S: Step>(
    plan: Plan<S>,
    bytes: Vec<u8>,
    files: BTreeMap<Place, (Records, u64)>,
    missing: Vec<PlaceError>,
    without_plan: &[Place],
) -> Result<History<S>, JournalError> {
    let mut all: BTreeMap<Sequence, (&Place, &Record)> = BTreeMap::new();
    for (place, (records, _)) in &files {
        for record in &records.records {
            if let Some((other, known)) = all.get(&record.sequence)
                && *known != record
            {
                return contradiction(format!(
                    "{other} and {place} have different records {}: two runs were at work",
                    record.sequence
                ));
            }
            all.insert(record.sequence, (place, record));
        }
    }
    let records: Vec<Record> = all.into_values().map(|(_, record)| record.clone()).collect();
    if let (Some(_), Some(place)) =
        (records.first(), without_plan.iter().find(|place| plan.nodes.contains(place)))
    {
        return contradiction(format!("a run has begun, and {place} has no such plan"));
    }
    let lost: BTreeSet<&Place> = missing.iter().map(|error| &error.place).collect();
    check_beginnings(&files, &records)?;
    let mut fold = Fold::new(&plan, &lost);
    for record in &records {
        fold.follow(record)?;
    }
    let Fold { runs, steps, ending, .. } = fold;
    Ok(History { plan, bytes, records, runs, steps, ending, files, missing })
}

fn contradiction<T>(why: String) -> Result<T, JournalError> {
    Err(JournalError::Contradiction(why))
}

/// Every node that answers has the beginning of every run that went further than
/// that, unless the run was without it.
fn check_beginnings(
    files: &BTreeMap<Place, (Records, u64)>,
    records: &[Record],
) -> Result<(), JournalError> {
    let further: BTreeSet<u32> = records
        .iter()
        .filter(|record| !matches!(record.entry, Entry::Begun { .. }))
        .map(|record| record.sequence.run)
        .collect();
    for begun in records {
        let Entry::Begun { without, .. } = &begun.entry else { continue };
        if !further.contains(&begun.sequence.run) {
            continue;
        }
        for (place, (own, _)) in files {
            if !without.contains(place) && !own.records.contains(begun) {
                return contradiction(format!(
                    "{place} lacks the beginning of run {}, which went further: its journal was \
                     cut or is an older copy",
                    begun.sequence.run
                ));
            }
        }
    }
    Ok(())
}

/// Follows the records one by one.
struct Fold<'a, S> {
    plan: &'a Plan<S>,
    /// Steps of these nodes are not known.
    lost: &'a BTreeSet<&'a Place>,
    runs: Vec<Run>,
    steps: BTreeMap<StepId, StepState>,
    ending: Option<Ending>,
}

impl<'a, S: Step> Fold<'a, S> {
    fn new(plan: &'a Plan<S>, lost: &'a BTreeSet<&'a Place>) -> Self {
        Self { plan, lost, runs: Vec::new(), steps: BTreeMap::new(), ending: None }
    }

    fn follow(&mut self, record: &Record) -> Result<(), JournalError> {
        let at = record.sequence;
        if let Some(step) = record.entry.step()
            && self.plan.step(step).is_none()
        {
            return contradiction(format!(
                "record {at} is about step {step}, which the plan lacks"
            ));
        }
        if let Entry::Begun { id, direction, owner, without } = &record.entry {
            if at.number != 1 || self.runs.last().is_some_and(|run| run.number >= at.run) {
                return contradiction(format!("run {} begins in the middle of one", at.run));
            }
            if self.ending == Some(Ending::RolledBack) {
                return contradiction(format!(
                    "run {} begins after the plan was rolled back",
                    at.run
                ));
            }
            self.ending = None;
            let (owner, without) = (owner.clone(), without.clone());
            let (number, id, direction) = (at.run, *id, *direction);
            self.runs.push(Run { number, id, direction, owner, without });
            return Ok(());
        }
        let Some(run) = self.runs.last().filter(|run| run.number == at.run) else {
            return contradiction(format!("record {at} belongs to a run that never began"));
        };
        let direction = run.direction;
        if self.ending.is_some() {
            return contradiction(format!("record {at} follows the end of the plan"));
        }
        let wrong_way = |way: Direction| {
            if way == direction {
                Ok(())
            } else {
                contradiction(format!("record {at} goes against the direction of its run"))
            }
        };
        match &record.entry {
            Entry::Intent { step, direction } => {
                wrong_way(*direction)?;
                self.check_order(*step, *direction, at)?;
                self.steps.insert(*step, StepState::Doubt(*direction));
            }
            Entry::Applied { step, outputs, .. } => {
                wrong_way(Direction::Apply)?;
                self.steps.insert(*step, StepState::Applied(outputs.clone()));
            }
            Entry::Undone { step, .. } => {
                wrong_way(Direction::Undo)?;
                self.steps.insert(*step, StepState::Undone);
            }
            Entry::Failed { step, direction, why, effect } => {
                wrong_way(*direction)?;
                let (direction, why, effect) = (*direction, why.clone(), *effect);
                self.steps.insert(*step, StepState::Failed { direction, why, effect });
            }
            Entry::Finished { ending } => self.ending = Some(*ending),
            Entry::TookOver { .. } | Entry::Stopped | Entry::Begun { .. } => {}
        }
        Ok(())
    }

    /// A step begins only when all stages before it are done, and is taken back
    /// only when no stage behind it stands.
    fn check_order(
        &self,
        step: StepId,
        direction: Direction,
        at: Sequence,
    ) -> Result<(), JournalError> {
        let without = self.runs.last().map(|run| run.without.as_slice()).unwrap_or_default();
        let unknown = |id: StepId| {
            let places = self.plan.journals_of(id);
            places.iter().all(|p| self.lost.contains(p))
                || places.iter().any(|p| without.contains(p))
        };
        for (id, other) in self.plan.steps() {
            let state = self.steps.get(&id).unwrap_or(&StepState::Pending);
            let fits = match direction {
                Direction::Apply => {
                    id.stage >= step.stage || matches!(state, StepState::Applied(_))
                }
                Direction::Undo => {
                    id.stage <= step.stage
                        || !state.may_stand()
                        || other.describe().reversal == Reversal::Nothing
                }
            };
            if !fits && !unknown(id) {
                let (what, nodes) = match direction {
                    Direction::Apply => ("was begun before", self.plan.journals_of(id)),
                    Direction::Undo => ("was taken back before", self.plan.journals_of(id)),
                };
                let nodes: Vec<&str> = nodes.iter().map(Place::as_str).collect();
                return contradiction(format!(
                    "by record {at} step {step} {what} step {id}; the journal of {} was cut or is \
                     an older copy",
                    nodes.join(", ")
                ));
            }
        }
        Ok(())
    }
}

/// A plan that a place keeps, whatever its steps are.
#[derive(Debug, Clone)]
pub struct Listed {
    /// What can be read of it; why it cannot be read otherwise.
    pub head: Result<PlanHead, PlanFault>,
    /// Its id.
    pub id: PlanId,
    /// The places that keep it.
    pub places: Vec<Place>,
    /// Whether a run began.
    pub begun: bool,
    /// How it ended, by the last record that any node has of that.
    pub ending: Option<Ending>,
    /// A place whose records cannot be read, and why.
    pub fault: Option<(Place, RecordFault)>,
}

impl Listed {
    /// Whether it was begun and neither done nor taken back, or cannot be read.
    pub fn is_unfinished(&self) -> bool {
        self.fault.is_some() || self.begun && self.ending.is_none()
    }
}

/// The plans that the places keep, newest first, and the places that do not answer.
pub async fn list(stores: &[Arc<dyn JournalStore>]) -> (Vec<Listed>, Vec<PlaceError>) {
    let mut plans: BTreeMap<PlanId, Listed> = BTreeMap::new();
    // The last beginning or end that is known of each.
    let mut last: BTreeMap<PlanId, Sequence> = BTreeMap::new();
    let mut missing = Vec::new();
    let ids = join_all(stores.iter().map(|store| store.list())).await;
    for (store, ids) in stores.iter().zip(ids) {
        let ids = match ids {
            Ok(ids) => ids,
            Err(error) => {
                missing.push(error);
                continue;
            }
        };
        for id in ids {
            let (bytes, records) = match store.plan(id).await {
                Ok(Some(bytes)) => match store.records(id).await {
                    Ok(records) => (bytes, records),
                    Err(error) => {
                        missing.push(error);
                        break;
                    }
                },
                Ok(None) => continue,
                Err(error) => {
                    missing.push(error);
                    break;
                }
            };
            let listed = plans.entry(id).or_insert_with(|| Listed {
                head: PlanHead::from_bytes(&bytes),
                id,
                places: Vec::new(),
                begun: false,
                ending: None,
                fault: None,
            });
            listed.places.push(store.place().clone());
            match record::decode(&record::plan_digest(&bytes), &records) {
                Ok(read) => {
                    for record in &read.records {
                        listed.begun = true;
                        let ending = match &record.entry {
                            Entry::Begun { .. } => None,
                            Entry::Finished { ending } => Some(*ending),
                            _ => continue,
                        };
                        if last.get(&id).is_none_or(|at| *at < record.sequence) {
                            last.insert(id, record.sequence);
                            listed.ending = ending;
                        }
                    }
                }
                Err(fault) => listed.fault = Some((store.place().clone(), fault)),
            }
        }
    }
    (plans.into_values().rev().collect(), missing)
}

/// Stores the plan at every place; each must take it.
pub async fn put<S: Step>(
    stores: &[Arc<dyn JournalStore>],
    plan: &Plan<S>,
) -> Result<(), JournalError> {
    let place = || plan.nodes.first().cloned();
    let bytes = plan.to_bytes().map_err(|source| match place() {
        Some(place) => JournalError::Plan { id: plan.id, place, source },
        None => JournalError::NotFound(plan.id),
    })?;
    let done = join_all(stores.iter().map(|store| store.put_plan(plan.id, &bytes))).await;
    done.into_iter().collect::<Result<(), _>>().map_err(JournalError::Write)
}

/// Where a node's file of records ends.
#[derive(Debug)]
struct End {
    tail: Tail,
    chain: Digest32,
    /// A write failed: what the file holds is not known any more.
    broken: bool,
}

/// The journal of a running plan. Shared by the steps that run at the same time.
#[derive(Debug)]
pub struct Journal {
    id: PlanId,
    run: u32,
    number: AtomicU32,
    stores: BTreeMap<Place, (Arc<dyn JournalStore>, tokio::sync::Mutex<End>)>,
    clock: super::execute::Clock,
    /// What was written in this run.
    written: Mutex<Vec<Record>>,
}

impl Journal {
    /// The journal behind `history`, for one more run.
    pub fn open<S: Step>(
        stores: &[Arc<dyn JournalStore>],
        history: &History<S>,
        clock: super::execute::Clock,
    ) -> Self {
        let run = history.records.iter().map(|record| record.sequence.run).max().unwrap_or(0) + 1;
        let mut open = BTreeMap::new();
        for store in stores {
            let Some((records, seen)) = history.files.get(store.place()) else { continue };
            let tail = Tail { seen: *seen, keep: records.end as u64 };
            let end = End { tail, chain: records.chain, broken: false };
            open.insert(store.place().clone(), (store.clone(), tokio::sync::Mutex::new(end)));
        }
        let (number, written) = (AtomicU32::new(0), Mutex::default());
        Self { id: history.plan.id, run, number, stores: open, clock, written }
    }

    /// The run's number.
    pub fn run(&self) -> u32 {
        self.run
    }

    /// The nodes to which it writes.
    pub fn places(&self) -> BTreeSet<Place> {
        self.stores.keys().cloned().collect()
    }

    /// Makes `entry` durable on all of `places` that belong to this journal.
    pub async fn write(&self, places: &BTreeSet<Place>, entry: Entry) -> Result<(), JournalError> {
        // In the order of their names, so that two writers cannot wait for each
        // other; and the number only then, so that each file's numbers grow.
        let mut held = Vec::new();
        for place in places {
            if let Some((store, end)) = self.stores.get(place) {
                held.push((store, end.lock().await));
            }
        }
        let number = self.number.fetch_add(1, Ordering::SeqCst) + 1;
        let record = Record {
            sequence: Sequence { run: self.run, number },
            time: self.clock.now(),
            tool: TOOL.to_owned(),
            entry,
        };
        let written = join_all(held.iter_mut().map(async |(store, end)| {
            let unknown = "an earlier write failed, so its end is not known";
            if end.broken {
                let kind = PlaceErrorKind::Failed;
                let error = PlaceError::new(store.place(), kind, "write its journal", unknown);
                return Err(JournalError::Write(error));
            }
            let (bytes, chain) =
                record::encode(&end.chain, &record).map_err(JournalError::TooLarge)?;
            // Set first: a call that is dropped half-way leaves it so.
            end.broken = true;
            store.append(self.id, end.tail, &bytes).await.map_err(JournalError::Write)?;
            let length = end.tail.keep + bytes.len() as u64;
            **end = End { tail: Tail { seen: length, keep: length }, chain, broken: false };
            Ok(())
        }))
        .await;
        self.written.lock().unwrap_or_else(PoisonError::into_inner).push(record);
        written.into_iter().collect()
    }

    /// What this run recorded, or tried to.
    pub fn written(&self) -> Vec<Record> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
