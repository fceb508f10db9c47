//! Executes a plan, goes on with one, or takes one back.
//!
//! - Every choice was made by the planner; here is only the order.
//! - For each step: the intent is durable on the nodes that it touches, then it is
//!   looked at, done, looked at again, and that is durable, too. A step that says
//!   it is done and does not look so has failed.
//! - With a failure or a request to stop no further step begins; those that run end
//!   by themselves. The [`Report`] says the state and the ways on and back.
//! - The lock is given back at every end. What was begun stands in the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, SubsecRound, Utc};
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::journal::{self, History, Journal, JournalError, JournalStore, PlaceError, StepState};
use super::lock::{self, Lock, LockError, LockStore};
use super::record::{Direction, Ending, Entry, Owner};
use super::step::MAX_OUTPUT;
use super::stop::{Level, Stop};
use super::{
    Act, Context, Effect, Outputs, Place, Plan, PlanFault, PlanId, Probe, Reversal, StepError,
    StepId,
};
use crate::event::{Event, Events, StepEvent, StepPhase};

/// More steps than this never run at once, whatever a plan says.
const MAX_AT_ONCE: usize = 64;

/// What goes into a journal of a failure's reason, in characters.
const MAX_WHY: usize = 2000;

/// What time it is. Cheap to clone.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>);

impl Clock {
    /// The machine's.
    pub fn system() -> Self {
        Self(Arc::new(Utc::now))
    }

    /// Another.
    pub fn new(now: impl Fn() -> DateTime<Utc> + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time, in whole milliseconds.
    pub fn now(&self) -> DateTime<Utc> {
        (self.0)().trunc_subsecs(3)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// What an operator decided about a run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Take the lock from a holder that gives no sign of life.
    pub take_over_lock: bool,
    /// Execute although another plan of the cluster is unfinished.
    pub beside_unfinished: bool,
    /// Nodes that cannot be reached: rolling back leaves their steps as they are, going
    /// on is possible where no step touches them.
    pub without: BTreeSet<Place>,
    /// How many nodes the cluster has: the lock needs more than half of them, asked or
    /// not. 0 counts the plan's alone.
    pub of: usize,
}

/// Everything that a run needs beside the plan.
#[derive(Debug)]
pub struct Engine<W> {
    /// What steps act on.
    pub world: Arc<W>,
    /// Where the journal is: the nodes of the plan.
    pub journals: Vec<Arc<dyn JournalStore>>,
    /// Where the lock is: the nodes of the plan.
    pub locks: Vec<Arc<dyn LockStore>>,
    /// Who runs it.
    pub owner: Owner,
    /// Where events go.
    pub events: Events,
    /// Says when to stop.
    pub stop: Stop,
    /// What time it is.
    pub clock: Clock,
    /// What the operator decided.
    pub options: Options,
}

/// Why a run did not begin: no step was touched.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The plan is not one.
    #[error("the plan cannot be executed")]
    Plan(#[from] PlanFault),
    /// There is no lock.
    #[error("the cluster's lock was not taken")]
    Lock(#[from] LockError),
    /// The journal cannot be used.
    #[error("the journal cannot be used")]
    Journal(#[from] JournalError),
    /// A node of the plan has no place for journal or lock.
    #[error("the plan's node {0} is not among those that can be reached")]
    NoPlace(Place),
    /// A node was left out without which it cannot go on.
    #[error("step {step} touches {node}: it cannot go on without it, only back")]
    Needed {
        /// The node.
        node: Place,
        /// A step of it.
        step: StepId,
    },
    /// Another plan of the same cluster was begun and not ended.
    #[error("the plan {id} ({operation}) of this cluster was begun and not ended")]
    Unfinished {
        /// Its id.
        id: PlanId,
        /// Its operation, as it is typed.
        operation: String,
    },
    /// The plan was executed before.
    #[error("the plan {0} was begun before: resume it or roll it back")]
    BegunBefore(PlanId),
    /// There is nothing to go on with.
    #[error("the plan {id} has ended: {}", match ending {
        Ending::Applied => "every step is done",
        Ending::RolledBack => "it was rolled back",
    })]
    Ended {
        /// Its id.
        id: PlanId,
        /// How.
        ending: Ending,
    },
    /// It is too late to undo.
    #[error("no way back by undoing since step {step} was begun: {why}")]
    BeyondReturn {
        /// The step that was begun.
        step: StepId,
        /// Why.
        why: String,
        /// What to do instead.
        instead: String,
    },
}

impl RunError {
    /// Whether somebody or something else is at work (exit code 11).
    pub fn is_busy(&self) -> bool {
        match self {
            Self::Lock(error) => error.is_busy(),
            Self::Unfinished { .. } => true,
            _ => false,
        }
    }

    /// Whether stored bytes are not what was stored (exit code 20).
    pub fn is_corruption(&self) -> bool {
        matches!(self, Self::Journal(error) if error.is_corruption())
    }

    /// The nodes that were asked in vain, with their reasons.
    pub fn places(&self) -> &[PlaceError] {
        match self {
            Self::Journal(error) => error.places(),
            Self::Lock(LockError::NoMajority { errors, .. }) => errors,
            _ => &[],
        }
    }
}

/// A step that failed.
#[derive(Debug)]
pub struct StepFailure {
    /// The step.
    pub step: StepId,
    /// What it does.
    pub what: String,
    /// The nodes that it touches.
    pub nodes: Vec<Place>,
    /// Why it failed.
    pub error: StepError,
}

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// Every step is done.
    Applied,
    /// Every step that was begun is taken back, but for [`Report::left`].
    RolledBack,
    /// It was asked to stop.
    Stopped {
        /// Whether running steps were left where they were.
        now: bool,
    },
    /// Steps failed.
    Failed(Vec<StepFailure>),
    /// The lock was taken over by somebody else, or a majority of the nodes is gone.
    LockLost,
    /// The journal could not be written.
    JournalFailed(JournalError),
}

/// The way back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Back {
    /// Nothing was changed that would have to be undone.
    Nothing,
    /// Undo these stages, from the last to the first.
    Stages {
        /// The last one that may stand.
        last: u32,
        /// The first.
        first: u32,
    },
    /// Not by undoing.
    No {
        /// Why.
        why: String,
        /// What to do instead.
        instead: String,
    },
}

/// What a run did.
#[derive(Debug)]
pub struct Report {
    /// The plan.
    pub plan: PlanId,
    /// Which way the run went.
    pub direction: Direction,
    /// How it ended.
    pub outcome: Outcome,
    /// How far each step is.
    pub steps: BTreeMap<StepId, StepState>,
    /// What the steps gave.
    pub outputs: Outputs,
    /// The first stage that is not done: "stopped before step 5".
    pub next_stage: Option<u32>,
    /// The way back from here.
    pub back: Back,
    /// Steps that were not undone because their nodes were left out.
    pub left: Vec<StepId>,
    /// What else a person should know.
    pub warnings: Vec<String>,
}

impl Report {
    /// Whether everything that was asked for is done.
    pub fn is_complete(&self) -> bool {
        match self.outcome {
            Outcome::Applied => true,
            Outcome::RolledBack => self.left.is_empty(),
            _ => false,
        }
    }

    /// Steps of which it is not known whether they are done.
    pub fn in_doubt(&self) -> impl Iterator<Item = StepId> {
        self.steps.iter().filter(|(_, s)| matches!(s, StepState::Doubt(_))).map(|(id, _)| *id)
    }

    /// The command that goes on, where one does.
    pub fn go_on(&self) -> Option<String> {
        let ended = matches!(self.outcome, Outcome::Applied)
            || matches!(self.outcome, Outcome::RolledBack) && self.left.is_empty();
        (!ended).then(|| format!("etcdvault resume {}", self.plan))
    }

    /// The command that goes back, where one does.
    pub fn go_back(&self) -> Option<String> {
        let back = matches!(self.back, Back::Stages { .. });
        back.then(|| format!("etcdvault rollback {}", self.plan))
    }
}

/// Why a step's run ended early.
enum Broke {
    Step(StepFailure),
    Journal(JournalError),
}

/// What the steps of a run share.
struct Run<'a, S, W> {
    engine: &'a Engine<W>,
    plan: &'a Plan<S>,
    journal: &'a Journal,
    lock: &'a Lock,
    begun: DateTime<Utc>,
    states: Mutex<BTreeMap<StepId, StepState>>,
}

impl<W: Send + Sync> Engine<W> {
    /// Executes a new plan.
    pub async fn execute<S: Act<W>>(&self, plan: &Plan<S>) -> Result<Report, RunError> {
        plan.check()?;
        self.check_places(plan)?;
        self.locked(plan, async |lock| {
            self.refuse_unfinished(plan).await?;
            journal::put(&self.journals, plan).await?;
            let history = journal::load::<S>(&self.journals, plan.id).await?;
            require_all(&history, &BTreeSet::new())?;
            if !history.runs.is_empty() {
                return Err(RunError::BegunBefore(plan.id));
            }
            self.run(history, Direction::Apply, lock).await
        })
        .await
    }

    /// Goes on with a plan whose run ended early, from whichever machine. Nodes that are
    /// left out must be such that no step touches.
    pub async fn resume<S: Act<W>>(&self, id: PlanId) -> Result<Report, RunError> {
        let without = &self.options.without;
        let journals = self.journals_with(without);
        let found = journal::load::<S>(&journals, id).await?;
        if let Some((step, node)) = touched(&found.plan, without) {
            return Err(RunError::Needed { node, step });
        }
        self.check_places(&found.plan)?;
        require_all(&found, without)?;
        self.locked(&found.plan, async |lock| {
            // It may have been put on some places only.
            journal::put(&journals, &found.plan).await?;
            // Read again: only now is nobody else writing.
            let history = journal::load::<S>(&journals, id).await?;
            require_all(&history, without)?;
            if let Some(ending) = history.ending {
                return Err(RunError::Ended { id, ending });
            }
            self.run(history, Direction::Apply, lock).await
        })
        .await
    }

    fn journals_with(&self, without: &BTreeSet<Place>) -> Vec<Arc<dyn JournalStore>> {
        let kept = |store: &&Arc<dyn JournalStore>| !without.contains(store.place());
        self.journals.iter().filter(kept).cloned().collect()
    }

    /// Takes a plan back to its beginning, from whichever machine.
    pub async fn rollback<S: Act<W>>(&self, id: PlanId) -> Result<Report, RunError> {
        let without = &self.options.without;
        let journals = self.journals_with(without);
        let found = journal::load::<S>(&journals, id).await?;
        self.check_places(&found.plan)?;
        require_all(&found, without)?;
        self.locked(&found.plan, async |lock| {
            journal::put(&journals, &found.plan).await?;
            let history = journal::load::<S>(&journals, id).await?;
            require_all(&history, without)?;
            if history.ending == Some(Ending::RolledBack) {
                return Err(RunError::Ended { id, ending: Ending::RolledBack });
            }
            if let (Some(step), Some(last)) =
                (history.beyond_return(), &history.plan.last_free_return)
            {
                let (why, instead) = (last.why.clone(), last.instead.clone());
                return Err(RunError::BeyondReturn { step, why, instead });
            }
            self.run(history, Direction::Undo, lock).await
        })
        .await
    }

    fn check_places<S: Act<W>>(&self, plan: &Plan<S>) -> Result<(), RunError> {
        for node in plan.nodes.difference(&self.options.without) {
            let journal = self.journals.iter().any(|store| store.place() == node);
            let lock = self.locks.iter().any(|store| store.place() == node);
            if !journal || !lock {
                return Err(RunError::NoPlace(node.clone()));
            }
        }
        Ok(())
    }

    async fn refuse_unfinished<S: Act<W>>(&self, plan: &Plan<S>) -> Result<(), RunError> {
        if self.options.beside_unfinished {
            return Ok(());
        }
        let (plans, missing) = journal::list(&self.journals).await;
        if !missing.is_empty() {
            return Err(JournalError::Missing { missing, total: self.journals.len() }.into());
        }
        let other = plans.into_iter().find(|listed| {
            let ours = listed.head.as_ref().map_or(true, |head| head.cluster == plan.cluster);
            listed.id != plan.id && ours && listed.is_unfinished()
        });
        match other {
            Some(listed) => {
                let operation = listed.head.map_or("unreadable".into(), |head| head.operation);
                Err(RunError::Unfinished { id: listed.id, operation })
            }
            None => Ok(()),
        }
    }

    /// Does `work` under the cluster's lock, which is given back whatever happens.
    async fn locked<S: Act<W>>(
        &self,
        plan: &Plan<S>,
        work: impl AsyncFnOnce(&Lock) -> Result<Report, RunError>,
    ) -> Result<Report, RunError> {
        let stores = self.locks.iter().filter(|store| plan.nodes.contains(store.place()));
        let stores: Vec<Arc<dyn LockStore>> = stores.cloned().collect();
        let request = lock::Request {
            cluster: &plan.cluster,
            plan: plan.id,
            operation: &plan.operation,
            owner: &self.owner,
            take_over: self.options.take_over_lock,
            of: self.options.of,
        };
        let lock = lock::take(&stores, &request, &self.clock).await?;
        let ended = tokio::sync::Notify::new();
        let working = async {
            let done = work(&lock).await;
            ended.notify_one();
            done
        };
        let (mut done, ()) = tokio::join!(working, lock.keep(&ended));
        let kept = lock.release().await;
        if let Ok(report) = &mut done {
            report.warnings.extend(kept.into_iter().map(|error| error.to_string()));
        }
        done
    }

    async fn run<S: Act<W>>(
        &self,
        history: History<S>,
        direction: Direction,
        lock: &Lock,
    ) -> Result<Report, RunError> {
        let journal = Journal::open(&self.journals, &history, self.clock.clone());
        let all = journal.places();
        let begun = Entry::Begun {
            id: PlanId::generate(),
            direction,
            owner: self.owner.clone(),
            without: history.plan.nodes.difference(&all).cloned().collect(),
        };
        journal.write(&all, begun).await?;
        if let Some(claim) = &lock.taken_from {
            let (from, since) = (claim.owner.clone(), claim.since);
            journal.write(&all, Entry::TookOver { from, since }).await?;
        }
        let run = Run {
            engine: self,
            plan: &history.plan,
            journal: &journal,
            lock,
            begun: self.clock.now(),
            states: Mutex::new(history.steps.clone()),
        };
        let outcome = match direction {
            Direction::Apply => run.forward().await,
            Direction::Undo => run.back().await,
        };
        let mut warnings = Vec::new();
        let left = run.left(direction, &all);
        let last = match &outcome {
            Outcome::Applied => Some(Entry::Finished { ending: Ending::Applied }),
            Outcome::RolledBack if left.is_empty() => {
                Some(Entry::Finished { ending: Ending::RolledBack })
            }
            Outcome::Stopped { now: false } | Outcome::RolledBack => Some(Entry::Stopped),
            _ => None,
        };
        let mut outcome = outcome;
        if let Some(entry) = last
            && let Err(error) = journal.write(&all, entry).await
        {
            // The steps are done; that the plan ended is not on record everywhere.
            warnings.push(error.to_string());
            outcome = Outcome::JournalFailed(error);
        }
        for error in &history.missing {
            warnings.push(error.to_string());
        }
        let states = run.states.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(report(&history.plan, direction, outcome, states, left, warnings))
    }
}

/// A step that touches one of `nodes`.
fn touched<S: super::Step>(plan: &Plan<S>, nodes: &BTreeSet<Place>) -> Option<(StepId, Place)> {
    plan.steps().find_map(|(id, step)| {
        let mut own = step.describe().nodes.into_iter();
        own.find(|node| nodes.contains(node)).map(|node| (id, node))
    })
}

/// Every node of the plan answers, but for those left out.
fn require_all<S: super::Step>(
    history: &History<S>,
    without: &BTreeSet<Place>,
) -> Result<(), JournalError> {
    let needed = |place: &Place| history.plan.nodes.contains(place) && !without.contains(place);
    let missing: Vec<_> =
        history.missing.iter().filter(|error| needed(&error.place)).cloned().collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(JournalError::Missing { missing, total: history.plan.nodes.len() })
    }
}

fn report<S: super::Step>(
    plan: &Plan<S>,
    direction: Direction,
    outcome: Outcome,
    steps: BTreeMap<StepId, StepState>,
    left: Vec<StepId>,
    warnings: Vec<String>,
) -> Report {
    let state = |id: StepId| steps.get(&id).cloned().unwrap_or(StepState::Pending);
    let stands = |(id, step): &(StepId, &S)| {
        state(*id).may_stand() && step.describe().reversal != Reversal::Nothing
    };
    let beyond = plan.steps().find(|(id, _)| {
        plan.is_beyond_return(id.stage)
            && !matches!(
                state(*id),
                StepState::Pending
                    | StepState::Undone
                    | StepState::Failed { direction: Direction::Apply, effect: Effect::None, .. }
            )
    });
    let mut standing = plan.steps().filter(stands).map(|(id, _)| id.stage);
    let first = standing.next();
    let back = match (beyond, &plan.last_free_return, first) {
        (Some(_), Some(last), _) => {
            Back::No { why: last.why.clone(), instead: last.instead.clone() }
        }
        (_, _, Some(first)) => Back::Stages { first, last: standing.next_back().unwrap_or(first) },
        _ => Back::Nothing,
    };
    let next_stage = plan
        .steps()
        .find(|(id, _)| !matches!(state(*id), StepState::Applied(_)))
        .map(|(id, _)| id.stage);
    let applied = steps.values().filter_map(|state| match state {
        StepState::Applied(outputs) => Some(outputs.clone()),
        _ => None,
    });
    let outputs = applied.flatten().collect();
    Report { plan: plan.id, direction, outcome, steps, outputs, next_stage, back, left, warnings }
}

impl<S: Act<W>, W: Send + Sync> Run<'_, S, W> {
    fn states(&self) -> MutexGuard<'_, BTreeMap<StepId, StepState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self, id: StepId) -> StepState {
        self.states().get(&id).cloned().unwrap_or(StepState::Pending)
    }

    async fn forward(&self) -> Outcome {
        for (number, stage) in (1u32..).zip(&self.plan.stages) {
            let steps = (1u32..).zip(&stage.steps).map(|(step, _)| StepId { stage: number, step });
            let open = steps.filter(|id| !matches!(self.state(*id), StepState::Applied(_)));
            if let Some(early) = self.stage(open.collect(), stage.at_once, Direction::Apply).await {
                return early;
            }
        }
        Outcome::Applied
    }

    async fn back(&self) -> Outcome {
        let without = self.without(&self.journal.places());
        let stages: Vec<_> = (1u32..).zip(&self.plan.stages).collect();
        for (number, stage) in stages.into_iter().rev() {
            let steps = (1u32..).zip(&stage.steps).map(|(step, _)| StepId { stage: number, step });
            let open = steps.collect::<Vec<_>>().into_iter().rev().filter(|id| {
                let touched = self.plan.journals_of(*id);
                !matches!(self.state(*id), StepState::Pending | StepState::Undone)
                    && without.is_disjoint(&touched)
            });
            if let Some(early) = self.stage(open.collect(), stage.at_once, Direction::Undo).await {
                return early;
            }
        }
        Outcome::RolledBack
    }

    fn without(&self, places: &BTreeSet<Place>) -> BTreeSet<Place> {
        self.plan.nodes.difference(places).cloned().collect()
    }

    /// Steps on nodes that were left out and may stand.
    fn left(&self, direction: Direction, places: &BTreeSet<Place>) -> Vec<StepId> {
        let without = self.without(places);
        let touched = |id: &StepId| !without.is_disjoint(&self.plan.journals_of(*id));
        let ids = self.plan.steps().map(|(id, _)| id);
        match direction {
            Direction::Apply => Vec::new(),
            Direction::Undo => ids.filter(touched).collect(),
        }
    }

    /// Runs the steps `ids` of one stage; `Some` when the run ends here.
    async fn stage(&self, ids: Vec<StepId>, at_once: u32, way: Direction) -> Option<Outcome> {
        let at_once = usize::try_from(at_once).unwrap_or(MAX_AT_ONCE).min(MAX_AT_ONCE);
        let work = async {
            let mut queue = ids.into_iter().peekable();
            let mut running = FuturesUnordered::new();
            let (mut failed, mut journal) = (Vec::new(), None);
            loop {
                while running.len() < at_once
                    && failed.is_empty()
                    && journal.is_none()
                    && self.engine.stop.level() == Level::None
                    && !self.lock.is_lost()
                    && let Some(id) = queue.next()
                {
                    running.push(self.one(id, way));
                }
                match running.next().await {
                    None => break,
                    Some(Ok(())) => {}
                    Some(Err(Broke::Step(failure))) => failed.push(failure),
                    Some(Err(Broke::Journal(error))) => journal = Some(error),
                }
            }
            if let Some(error) = journal {
                Some(Outcome::JournalFailed(error))
            } else if !failed.is_empty() {
                Some(Outcome::Failed(failed))
            } else if queue.peek().is_none() {
                None
            } else if self.lock.is_lost() {
                Some(Outcome::LockLost)
            } else {
                Some(Outcome::Stopped { now: false })
            }
        };
        tokio::select! {
            biased;
            () = self.engine.stop.reached(Level::Now) => Some(Outcome::Stopped { now: true }),
            early = work => early,
        }
    }

    /// Writes what happened to a step, and keeps it in mind.
    async fn record(&self, id: StepId, entry: Entry, state: StepState) -> Result<(), Broke> {
        let places = match &entry {
            // Other nodes' steps need what it gave, also when its own node is gone.
            Entry::Applied { outputs, .. } if !outputs.is_empty() => self.plan.nodes.clone(),
            _ => self.plan.journals_of(id),
        };
        // Before it is written: what cannot be written may stand all the same.
        if matches!(state, StepState::Doubt(_)) {
            self.states().insert(id, state);
            return self.journal.write(&places, entry).await.map_err(Broke::Journal);
        }
        self.journal.write(&places, entry).await.map_err(Broke::Journal)?;
        self.states().insert(id, state);
        Ok(())
    }

    async fn one(&self, id: StepId, way: Direction) -> Result<(), Broke> {
        let Some(step) = self.plan.step(id) else { return Ok(()) };
        let about = step.describe();
        let event = StepEvent {
            stage: id.stage,
            step: id.step,
            nodes: about.nodes.iter().map(|node| node.as_str().to_owned()).collect(),
            what: about.what.clone(),
            undo: way == Direction::Undo,
            phase: StepPhase::Started,
        };
        let began = tokio::time::Instant::now();
        let before = self.state(id);
        let nothing =
            way == Direction::Undo && (about.reversal == Reversal::Nothing || !before.may_stand());
        if nothing {
            let entry = Entry::Undone { step: id, found: true };
            return self.record(id, entry, StepState::Undone).await;
        }
        let intent = Entry::Intent { step: id, direction: way };
        self.record(id, intent, StepState::Doubt(way)).await?;
        self.engine.events.send(Event::Step(event.clone()));
        let outputs = self.outputs();
        let context = Context {
            plan: self.plan.id,
            cluster: &self.plan.cluster,
            step: id,
            outputs: &outputs,
            begun: self.begun,
            events: &self.engine.events,
            event: &event,
        };
        let done = match way {
            Direction::Apply => self.apply(step, &context, &before).await,
            Direction::Undo => self.undo(step, &context).await,
        };
        let failed = match done {
            Ok((entry, state, found)) => {
                self.record(id, entry, state).await?;
                let phase = StepPhase::Done { found, took: began.elapsed() };
                self.engine.events.send(Event::Step(StepEvent { phase, ..event }));
                return Ok(());
            }
            Err(error) => error,
        };
        let why: String = failed.why.chars().take(MAX_WHY).collect();
        let phase = StepPhase::Failed(failed.why.clone());
        let effect = failed.effect;
        let entry = Entry::Failed { step: id, direction: way, why: why.clone(), effect };
        let state = StepState::Failed { direction: way, why, effect };
        // The intent stands: without this record the step is in doubt, which is true.
        let _ = self.record(id, entry, state).await;
        self.engine.events.send(Event::Step(StepEvent { phase, ..event }));
        let (what, nodes) = (about.what, about.nodes);
        Err(Broke::Step(StepFailure { step: id, what, nodes, error: failed }))
    }

    fn outputs(&self) -> Outputs {
        let states = self.states();
        let applied = states.values().filter_map(|state| match state {
            StepState::Applied(outputs) => Some(outputs.clone()),
            _ => None,
        });
        applied.flatten().collect()
    }

    async fn apply(
        &self,
        step: &S,
        context: &Context<'_>,
        before: &StepState,
    ) -> Result<(Entry, StepState, bool), StepError> {
        let world = &*self.engine.world;
        let id = context.step;
        // A step that had no effect this time may have had one before.
        let known = |mut error: StepError| {
            if before.may_stand() {
                error.effect = Effect::Unknown;
            }
            error
        };
        let looked = step.probe(world, context).await;
        // Looking changes nothing.
        let looked = looked.map_err(|error| known(error.without_effect()))?;
        let (outputs, found) = match looked {
            Probe::Done(outputs) => (outputs, true),
            Probe::NotDone | Probe::Partly(_) => {
                step.apply(world, context).await.map_err(known)?;
                let effect = |mut error: StepError| {
                    error.effect = Effect::Unknown;
                    error
                };
                match step.probe(world, context).await.map_err(effect)? {
                    Probe::Done(outputs) => (outputs, false),
                    Probe::NotDone => {
                        return Err(StepError::new("it was done, and nothing of it is there"));
                    }
                    Probe::Partly(why) => {
                        return Err(StepError::new(format!(
                            "it was done, and is not whole: {why}"
                        )));
                    }
                }
            }
        };
        check_outputs(step.provides(), &outputs)?;
        let state = StepState::Applied(outputs.clone());
        Ok((Entry::Applied { step: id, found, outputs }, state, found))
    }

    async fn undo(
        &self,
        step: &S,
        context: &Context<'_>,
    ) -> Result<(Entry, StepState, bool), StepError> {
        let world = &*self.engine.world;
        step.undo(world, context).await?;
        match step.probe(world, context).await? {
            Probe::NotDone => {
                let entry = Entry::Undone { step: context.step, found: false };
                Ok((entry, StepState::Undone, false))
            }
            Probe::Partly(why) => {
                Err(StepError::new(format!("it was taken back, and not wholly: {why}")))
            }
            Probe::Done(_) => Err(StepError::new("it was taken back, and is still there")),
        }
    }
}

/// What a step gave is what it promised, and of a size for a journal.
fn check_outputs(mut promised: Vec<String>, outputs: &Outputs) -> Result<(), StepError> {
    promised.sort();
    if !promised.iter().eq(outputs.keys()) {
        let given: Vec<&String> = outputs.keys().collect();
        return Err(StepError::new(format!("it promised {promised:?} and gave {given:?}")));
    }
    match outputs.iter().find(|(_, value)| value.len() > MAX_OUTPUT) {
        Some((name, value)) => Err(StepError::new(format!(
            "what it gave as {name:?} has {} bytes; {MAX_OUTPUT} are possible",
            value.len()
        ))),
        None => Ok(()),
    }
}
