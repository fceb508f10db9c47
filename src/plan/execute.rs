//! Executes a plan, goes on with one, or takes one back.
//!
//! - Every choice was made by the planner; here is only the order.
//! - For each step: the intent is durable on the nodes that it touches, then it is
//!   looked at, done, looked at again, and that is durable, too. A step that says
//!   it is done and does not look so has failed.
//! - With a failure or a request to stop no further step begins; those that run end
//!   by themselves. The [`Report`] says the state and the ways on and back.
//! - The lock is given back at every end. What was begun stands in the journal.

mod run;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, SubsecRound, Utc};

use self::run::Run;
use super::journal::{self, History, Journal, JournalError, JournalStore, PlaceError, StepState};
use super::lock::{self, Lock, LockError, LockStore};
use super::record::{Direction, Ending, Entry, Owner};
use super::stop::Stop;
use super::{Act, Effect, Outputs, Place, Plan, PlanFault, PlanId, Reversal, StepError, StepId};
use crate::event::Events;

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
