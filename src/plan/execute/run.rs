//! A run over the steps of a plan, one way or the other: what may begin when, and what
//! is durable before and after each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::super::journal::{Journal, JournalError, StepState};
use super::super::lock::Lock;
use super::super::record::{Direction, Entry};
use super::super::step::MAX_OUTPUT;
use super::super::stop::Level;
use super::super::{
    Act, Context, Effect, Outputs, Place, Plan, Probe, Reversal, StepError, StepId,
};
use super::{Engine, Outcome, StepFailure};
use crate::event::{Event, StepEvent, StepPhase};

/// More steps than this never run at once, whatever a plan says.
const MAX_AT_ONCE: usize = 64;

/// What goes into a journal of a failure's reason, in characters.
const MAX_WHY: usize = 2000;

/// Why a step's run ended early.
enum Broke {
    Step(StepFailure),
    Journal(JournalError),
}

/// What the steps of a run share.
pub(super) struct Run<'a, S, W> {
    pub(super) engine: &'a Engine<W>,
    pub(super) plan: &'a Plan<S>,
    pub(super) journal: &'a Journal,
    pub(super) lock: &'a Lock,
    pub(super) begun: DateTime<Utc>,
    pub(super) states: Mutex<BTreeMap<StepId, StepState>>,
}

impl<S: Act<W>, W: Send + Sync> Run<'_, S, W> {
    fn states(&self) -> MutexGuard<'_, BTreeMap<StepId, StepState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self, id: StepId) -> StepState {
        self.states().get(&id).cloned().unwrap_or(StepState::Pending)
    }

    pub(super) async fn forward(&self) -> Outcome {
        for (number, stage) in (1u32..).zip(&self.plan.stages) {
            let steps = (1u32..).zip(&stage.steps).map(|(step, _)| StepId { stage: number, step });
            let open = steps.filter(|id| !matches!(self.state(*id), StepState::Applied(_)));
            if let Some(early) = self.stage(open.collect(), stage.at_once, Direction::Apply).await {
                return early;
            }
        }
        Outcome::Applied
    }

    pub(super) async fn back(&self) -> Outcome {
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
    pub(super) fn left(&self, direction: Direction, places: &BTreeSet<Place>) -> Vec<StepId> {
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
