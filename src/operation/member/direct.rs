//! A plan that touches no node, where none is configured: its steps one after the other,
//! without journal or lock, which have no place then. Each is a call to the cluster that
//! happens or does not.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::live::Live;
use crate::event::{Event, Events, StepEvent, StepPhase};
use crate::operation::failure::{Failure, FailureKind};
use crate::operation::step::{Step, World};
use crate::plan::execute::Clock;
use crate::plan::stop::{Level, Stop};
use crate::plan::{Act, Context, Outputs, Plan, Probe, Step as _, StepError, StepId};

/// Does every step. `Ok(None)` when it is done, else before which step it was stopped.
pub async fn run(
    plan: &Plan<Step>,
    live: Arc<Live>,
    events: &Events,
    stop: &Stop,
) -> Result<Option<StepId>, Failure> {
    let world = World { nodes: BTreeMap::new(), contents: Some(live) };
    let begun = Clock::system().now();
    let mut outputs = Outputs::new();
    for (id, step) in plan.steps() {
        if stop.level() != Level::None {
            return Ok(Some(id));
        }
        let what = step.describe().what;
        let event = StepEvent {
            stage: id.stage,
            step: id.step,
            nodes: Vec::new(),
            what: what.clone(),
            undo: false,
            phase: StepPhase::Started,
        };
        let tell = |phase| events.send(Event::Step(StepEvent { phase, ..event.clone() }));
        tell(StepPhase::Started);
        let began = tokio::time::Instant::now();
        let given = outputs.clone();
        let context = Context {
            plan: plan.id,
            cluster: &plan.cluster,
            step: id,
            outputs: &given,
            begun,
            events,
            event: &event,
        };
        match one(step, &world, &context).await {
            Ok((gave, found)) => {
                outputs.extend(gave);
                tell(StepPhase::Done { found, took: began.elapsed() });
            }
            Err(error) => {
                tell(StepPhase::Failed(error.why.clone()));
                let mut failure =
                    Failure::new(FailureKind::Etcd, format!("{} is not done", plan.operation))
                        .detail(format!("step {id}, {what}: {error}"));
                failure.details.extend(error.details);
                failure.hint = error.hint;
                let before = (id.stage > 1).then(|| format!("the steps before {id} are done"));
                failure.state = before;
                return Err(failure);
            }
        }
    }
    Ok(None)
}

async fn one(
    step: &Step,
    world: &World,
    context: &Context<'_>,
) -> Result<(Outputs, bool), StepError> {
    if let Probe::Done(outputs) = step.probe(world, context).await? {
        return Ok((outputs, true));
    }
    step.apply(world, context).await?;
    match step.probe(world, context).await? {
        Probe::Done(outputs) => Ok((outputs, false)),
        Probe::NotDone => Err(StepError::new("it was done, and nothing of it is there")),
        Probe::Partly(why) => Err(StepError::new(format!("it was done, and is not whole: {why}"))),
    }
}
