//! What every operation's plan must pass, exhaustively, on simulated nodes.
//!
//! Each function takes one that builds nodes and plan anew, runs all its cases, and
//! returns how many there were, or the first that went wrong. The journal and the
//! lock lie on the same nodes, so troubles at every call to a node are also
//! troubles at every record, before and after it is durable.
//!
//! What lasts is compared: files with owner, mode and attributes, units, pods.

#![allow(dead_code, unreachable_pub)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use etcdvault::event::{Event, Events, StepEvent, StepPhase};
use etcdvault::node::sim::{SimNet, Trouble, When};
use etcdvault::node::{Node, NodeErrorKind, NodeName};
use etcdvault::plan::execute::{Clock, Engine, Options, Outcome, Report, RunError};
use etcdvault::plan::journal::{self, JournalError, JournalStore};
use etcdvault::plan::lock::LockStore;
use etcdvault::plan::record::{Direction, Ending, Owner};
use etcdvault::plan::stop::{self, Stop};
use etcdvault::plan::{Act, Context, Outputs, Plan, Probe, Reversal, StepId};

use super::node_places::NodePlace;

/// Nodes and a plan for them, freshly built. The plan's id is the same each time.
pub(crate) struct Case<S, W> {
    pub(crate) net: SimNet,
    pub(crate) world: Arc<W>,
    pub(crate) plan: Plan<S>,
}

type Found<T> = Result<T, String>;

/// Where the journal and the lock are: no part of what is compared.
const OWN: &str = "/var/lib/etcdvault";

impl<S: Act<W>, W: Send + Sync + 'static> Case<S, W> {
    /// An engine on some machine.
    pub(crate) fn engine(
        &self,
        host: &str,
        stop: Stop,
        events: Events,
        options: Options,
    ) -> Engine<W> {
        let places: Vec<Arc<NodePlace>> = self
            .plan
            .nodes
            .iter()
            .map(|place| {
                let name = NodeName::new(place.as_str()).expect("a node");
                let node: Arc<dyn Node> = Arc::new(self.net.node(&name).expect("in the net"));
                Arc::new(NodePlace::new(node).expect("a node's name is a place's"))
            })
            .collect();
        Engine {
            world: self.world.clone(),
            journals: places.iter().map(|p| p.clone() as Arc<dyn JournalStore>).collect(),
            locks: places.iter().map(|p| p.clone() as Arc<dyn LockStore>).collect(),
            owner: Owner { user: "root".into(), host: host.into(), pid: 1 },
            events,
            stop,
            clock: Clock::system(),
            options,
        }
    }

    pub(crate) fn plain(&self) -> Engine<W> {
        self.engine("first", Stop::never(), Events::none(), Options::default())
    }

    /// Another machine, which takes over the lock of the first.
    pub(crate) fn other(&self) -> Engine<W> {
        let options = Options { take_over_lock: true, ..Options::default() };
        self.engine("second", Stop::never(), Events::none(), options)
    }

    /// What lasts, once nothing moves any more.
    pub(crate) async fn snapshot(&self) -> Vec<String> {
        tokio::time::sleep(Duration::from_secs(120)).await;
        let mut lines = self.net.snapshot(Path::new(OWN));
        // What etcd wrote before it was taken back is kept, and no difference.
        let kept = format!(".returned-{}", self.plan.id);
        lines.retain(|line| !line.contains(&kept));
        lines
    }
}

fn differs(what: &str, wanted: &[String], found: &[String]) -> Found<()> {
    let gone = wanted.iter().find(|line| !found.contains(line));
    let new = found.iter().find(|line| !wanted.contains(line));
    match (gone, new) {
        (None, None) => Ok(()),
        _ => Err(format!("{what}: missing {gone:?}, and there is {new:?}")),
    }
}

/// How it goes when nothing goes wrong.
pub(crate) struct Baseline {
    pub(crate) start: Vec<String>,
    pub(crate) end: Vec<String>,
    /// Calls to nodes in the whole run.
    pub(crate) calls: u64,
    /// Steps in the plan.
    pub(crate) steps: u64,
}

/// Runs the plan undisturbed; each part of it must have changed something.
pub(crate) async fn baseline<S: Act<W>, W: Send + Sync + 'static>(
    build: &dyn Fn() -> Case<S, W>,
) -> Found<Baseline> {
    let case = build();
    let start = case.snapshot().await;
    let before = case.net.calls();
    let report = case.plain().execute(&case.plan).await.map_err(|e| format!("{e:?}"))?;
    if !report.is_complete() {
        return Err(format!("undisturbed: {:?}", report.outcome));
    }
    let calls = case.net.calls() - before;
    let end = case.snapshot().await;
    if start == end {
        return Err("the plan changes nothing, so nothing would be tested".into());
    }
    Ok(Baseline { start, end, calls, steps: case.plan.steps().count() as u64 })
}

fn context<'a, S>(
    plan: &'a Plan<S>,
    step: StepId,
    outputs: &'a Outputs,
    events: &'a Events,
    event: &'a StepEvent,
) -> Context<'a> {
    let begun = Clock::system().now();
    Context { plan: plan.id, cluster: &plan.cluster, step, outputs, begun, events, event }
}

/// Each step is looked at, done, looked at, done again, and looked at; then the same
/// for undoing, up to where the plan can be undone. Undoing what was never done
/// changes nothing, and neither does looking.
pub(crate) async fn each_step_twice<S: Act<W>, W: Send + Sync + 'static>(
    build: &dyn Fn() -> Case<S, W>,
) -> Found<u64> {
    let case = build();
    let events = Events::none();
    let event = StepEvent {
        stage: 1,
        step: 1,
        nodes: vec![],
        what: String::new(),
        undo: false,
        phase: StepPhase::Started,
    };
    let (world, plan) = (&*case.world, &case.plan);
    let mut outputs = Outputs::new();
    let mut before_each = Vec::new();
    let mut count = 0;
    for (id, step) in plan.steps() {
        let about = step.describe();
        let fail =
            |what: &str, why: String| Err(format!("step {id} ({}): {what}: {why}", about.what));
        let given = outputs.clone();
        let context = context(plan, id, &given, &events, &event);
        let before = case.snapshot().await;
        let changes = about.reversal != Reversal::Nothing;
        match step.probe(world, &context).await {
            Ok(Probe::Done(_)) if changes => {
                return fail("looked at before it is done", "it says that it is done".into());
            }
            Ok(Probe::Partly(why)) => return fail("looked at before it is done", why),
            Ok(_) => {}
            Err(error) => return fail("looked at", error.to_string()),
        }
        differs(
            &format!("looking at step {id} changed something"),
            &before,
            &case.snapshot().await,
        )?;
        if changes && !matches!(about.reversal, Reversal::Final { .. }) {
            if let Err(error) = step.undo(world, &context).await {
                return fail("undone before it was done", error.to_string());
            }
            let what = format!("undoing step {id}, which was not done, changed something");
            differs(&what, &before, &case.snapshot().await)?;
        }
        let mut after: Option<(Vec<String>, Outputs)> = None;
        for time in ["once", "twice"] {
            if let Err(error) = step.apply(world, &context).await {
                return fail(&format!("done {time}"), error.to_string());
            }
            let now = case.snapshot().await;
            let found = match step.probe(world, &context).await {
                Ok(Probe::Done(found)) => found,
                other => {
                    return fail(
                        &format!("looked at after it was done {time}"),
                        format!("{other:?}"),
                    );
                }
            };
            differs(
                &format!("looking at step {id} changed something"),
                &now,
                &case.snapshot().await,
            )?;
            if let Some((first, gave)) = &after {
                differs(&format!("step {id} ({}) done twice", about.what), first, &now)?;
                if *gave != found {
                    return fail("done twice", format!("it gave {gave:?}, then {found:?}"));
                }
            }
            after = Some((now, found));
        }
        outputs.extend(after.expect("done twice").1);
        before_each.push((id, step, before, given));
        count += 1;
    }
    for (id, step, before, given) in before_each.into_iter().rev() {
        let about = step.describe();
        if plan.is_beyond_return(id.stage) || about.reversal == Reversal::Nothing {
            // What lies beyond cannot be taken back one by one from here.
            if plan.is_beyond_return(id.stage) {
                return partial(build, count).await;
            }
            continue;
        }
        undo_twice(&case, id, step, &before, &given, &events, &event).await?;
    }
    Ok(count)
}

async fn undo_twice<S: Act<W>, W: Send + Sync + 'static>(
    case: &Case<S, W>,
    id: StepId,
    step: &S,
    before: &[String],
    given: &Outputs,
    events: &Events,
    event: &StepEvent,
) -> Found<()> {
    let what = step.describe().what;
    let context = context(&case.plan, id, given, events, event);
    for time in ["once", "twice"] {
        let undone = step.undo(&case.world, &context).await;
        undone.map_err(|error| format!("step {id} ({what}) undone {time}: {error}"))?;
        let probe = step.probe(&case.world, &context).await;
        if !matches!(probe, Ok(Probe::NotDone)) {
            return Err(format!(
                "step {id} ({what}) looked at after it was undone {time}: {probe:?}"
            ));
        }
        if matches!(step.describe().reversal, Reversal::Undoable { .. }) {
            differs(&format!("step {id} ({what}) undone {time}"), before, &case.snapshot().await)?;
        }
    }
    Ok(())
}

/// The undoing half for a plan with a last free return: only what lies before it is
/// done, and undone.
async fn partial<S: Act<W>, W: Send + Sync + 'static>(
    build: &dyn Fn() -> Case<S, W>,
    count: u64,
) -> Found<u64> {
    let case = build();
    let events = Events::none();
    let event = StepEvent {
        stage: 1,
        step: 1,
        nodes: vec![],
        what: String::new(),
        undo: true,
        phase: StepPhase::Started,
    };
    let mut outputs = Outputs::new();
    let mut done = Vec::new();
    let free = case.plan.steps().filter(|(id, _)| !case.plan.is_beyond_return(id.stage));
    for (id, step) in free {
        let given = outputs.clone();
        let before = case.snapshot().await;
        let context = context(&case.plan, id, &given, &events, &event);
        step.apply(&case.world, &context).await.map_err(|e| format!("step {id}: {e}"))?;
        match step.probe(&case.world, &context).await {
            Ok(Probe::Done(found)) => outputs.extend(found),
            other => return Err(format!("step {id} looked at after it was done: {other:?}")),
        }
        done.push((id, step, before, given));
    }
    for (id, step, before, given) in done.into_iter().rev() {
        if step.describe().reversal != Reversal::Nothing {
            undo_twice(&case, id, step, &before, &given, &events, &event).await?;
        }
    }
    Ok(count)
}

/// What is done after a run that was disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Resume,
    RollBack,
}

/// Brings a disturbed case to its end or its beginning, from another machine, and
/// compares.
async fn finish<S: Act<W>, W: Send + Sync + 'static>(
    case: &Case<S, W>,
    base: &Baseline,
    then: Then,
    what: &str,
) -> Found<()> {
    case.net.heal();
    let engine = case.other();
    let id = case.plan.id;
    let done = match then {
        Then::Resume => engine.resume::<S>(id).await,
        Then::RollBack => engine.rollback::<S>(id).await,
    };
    match (done, then) {
        (Ok(report), Then::Resume) => {
            complete(&report, what)?;
            differs(what, &base.end, &case.snapshot().await)
        }
        (Ok(report), Then::RollBack) => {
            complete(&report, what)?;
            differs(what, &base.start, &case.snapshot().await)
        }
        (Err(RunError::Ended { ending: Ending::Applied, .. }), Then::Resume) => {
            differs(what, &base.end, &case.snapshot().await)
        }
        // The plan came to no node: nothing was done, and it can be executed.
        (Err(RunError::Journal(JournalError::NotFound(_))), _) => {
            differs(what, &base.start, &case.snapshot().await)?;
            let report = engine.execute(&case.plan).await.map_err(|e| format!("{what}: {e:?}"))?;
            complete(&report, what)?;
            differs(what, &base.end, &case.snapshot().await)
        }
        (Err(RunError::BeyondReturn { step, .. }), Then::RollBack) => {
            if !case.plan.is_beyond_return(step.stage) {
                return Err(format!("{what}: no way back from step {step}, which has one"));
            }
            match engine.resume::<S>(id).await {
                Ok(report) => complete(&report, what)?,
                Err(RunError::Ended { ending: Ending::Applied, .. }) => {}
                Err(error) => return Err(format!("{what}: {error:?}")),
            }
            differs(what, &base.end, &case.snapshot().await)
        }
        (Err(error), _) => Err(format!("{what}: {error:?}")),
    }
}

fn complete(report: &Report, what: &str) -> Found<()> {
    if report.is_complete() {
        Ok(())
    } else {
        Err(format!("{what}: {:?} {:?}", report.outcome, report.steps))
    }
}

/// Of so many calls one is tried: `ETCDVAULT_TEST_STRIDE`, 1 (all of them) in
/// `make test-all`. A fixed one of each, so that what fails fails again.
fn stride() -> u64 {
    let set = std::env::var("ETCDVAULT_TEST_STRIDE").ok();
    set.and_then(|text| text.parse().ok()).filter(|stride| *stride > 0).unwrap_or(15)
}

/// The calls that are tried, of `calls`, and for how many each stands.
fn sample(calls: u64, salt: &str) -> (Vec<u64>, u64) {
    let stride = stride();
    let shift = salt.bytes().map(u64::from).sum::<u64>();
    ((1..=calls).filter(|call| (call + shift).is_multiple_of(stride)).collect(), stride)
}

/// Troubles at every call of a run (of a sample, see [`sample`]), before and after the call's effect; then the
/// plan is resumed, or rolled back, from another machine.
pub(crate) async fn trouble_at_each_call<S: Act<W>, W: Send + Sync + 'static>(
    build: &dyn Fn() -> Case<S, W>,
    trouble: Trouble,
    then: Then,
) -> Found<u64> {
    let base = baseline(build).await?;
    let mut count = 0;
    let (tried, each) = sample(base.calls, &format!("{trouble:?} {then:?}"));
    for call in tried {
        for when in [When::Before, When::After] {
            let case = build();
            case.net.trouble_at(case.net.calls() + call, trouble, when);
            let engine = case.plain();
            tokio::select! {
                biased;
                done = engine.execute(&case.plan) => {
                    // Whatever it says, it must not say that all is done when it is not.
                    if let Ok(report) = done && report.is_complete() {
                        let what = format!("{trouble:?} {when:?} call {call}, said to be done");
                        case.net.heal();
                        differs(&what, &base.end, &case.snapshot().await)?;
                    }
                }
                // The tool is gone: nothing of it goes on.
                () = case.net.frozen() => {}
            }
            let act = case.net.log().get(call as usize - 1).cloned().unwrap_or_default();
            let what = format!("{trouble:?} {when:?} call {call} ({act}), then {then:?}");
            finish(&case, &base, then, &what).await?;
            count += each;
        }
    }
    Ok(count)
}

/// The same for both ways on, each with at least 200 cases.
pub(crate) async fn troubled<S: Act<W>, W: Send + Sync + 'static>(
    build: fn() -> Case<S, W>,
    trouble: Trouble,
) {
    for then in [Then::Resume, Then::RollBack] {
        let count = trouble_at_each_call(&build, trouble, then).await.unwrap();
        assert!(count > 200, "only {count} cases");
    }
}

/// Each step twice, and Ctrl-C at each; the plan has at least `steps` of them.
pub(crate) async fn twice_and_stopped<S: Act<W>, W: Send + Sync + 'static>(
    build: fn() -> Case<S, W>,
    steps: u64,
) {
    assert!(each_step_twice(&build).await.unwrap() >= steps);
    for then in [Then::Resume, Then::RollBack] {
        for presses in [1, 2] {
            stop_at_each_step(&build, presses, then).await.unwrap();
        }
    }
}

/// A rollback that is killed at each call, taken up both ways.
pub(crate) async fn rollback_killed<S: Act<W>, W: Send + Sync + 'static>(
    build: fn() -> Case<S, W>,
) {
    for then in [Then::RollBack, Then::Resume] {
        let count = rollback_killed_at_each_call(&build, then).await.unwrap();
        assert!(count > 100, "only {count} cases");
    }
}

/// Ctrl-C, once or twice, at the beginning of each step; then the plan is resumed or
/// rolled back.
pub(crate) async fn stop_at_each_step<S: Act<W>, W: Send + Sync + 'static>(
    build: &dyn Fn() -> Case<S, W>,
    presses: u32,
    then: Then,
) -> Found<u64> {
    let base = baseline(build).await?;
    for at in 1..=base.steps {
        let case = build();
        let report = stopped_at(&case, at, presses).await?;
        let what = format!("{presses} × Ctrl-C at the start of step {at}, then {then:?}");
        let doubt: Vec<StepId> = report.in_doubt().collect();
        match (&report.outcome, presses) {
            (Outcome::Applied, _) if at == base.steps => {}
            (Outcome::Stopped { now: false }, 1) if doubt.is_empty() => {}
            (Outcome::Stopped { now: true }, 2) if !doubt.is_empty() => {}
            // All others of its stage ran already.
            (Outcome::Stopped { .. }, _) if !doubt.is_empty() && presses == 1 => {
                return Err(format!("{what}: stopped within {doubt:?}"));
            }
            (outcome, _) => return Err(format!("{what}: {outcome:?}, in doubt {doubt:?}")),
        }
        if !report.is_complete() && report.go_on().is_none() {
            return Err(format!("{what}: it does not say how to go on"));
        }
        finish(&case, &base, then, &what).await?;
    }
    Ok(base.steps)
}

async fn stopped_at<S: Act<W>, W: Send + Sync + 'static>(
    case: &Case<S, W>,
    at: u64,
    presses: u32,
) -> Found<Report> {
    let (stopper, stop) = stop::channel();
    let begun = Arc::new(AtomicU64::new(0));
    let events = Events::new(move |event| {
        let Event::Step(StepEvent { phase: StepPhase::Started, .. }) = event else { return };
        if begun.fetch_add(1, Ordering::SeqCst) + 1 == at {
            for _ in 0..presses {
                stopper.press();
            }
        }
    });
    let engine = case.engine("first", stop, events, Options::default());
    engine.execute(&case.plan).await.map_err(|error| format!("{error:?}"))
}

/// The plan is done as far as it can be undone, and its rollback is killed at every
/// call; then rolled back again, or resumed, from another machine.
pub(crate) async fn rollback_killed_at_each_call<S: Act<W>, W: Send + Sync + 'static>(
    build: &dyn Fn() -> Case<S, W>,
    then: Then,
) -> Found<u64> {
    let base = baseline(build).await?;
    let free = {
        let case = build();
        case.plan.steps().filter(|(id, _)| !case.plan.is_beyond_return(id.stage)).count() as u64
    };
    let calls = {
        let case = build();
        stopped_at(&case, free, 1).await?;
        let before = case.net.calls();
        let report =
            case.plain().rollback::<S>(case.plan.id).await.map_err(|e| format!("{e:?}"))?;
        complete(&report, "the rollback")?;
        differs("rolled back", &base.start, &case.snapshot().await)?;
        case.net.calls() - before
    };
    let mut count = 0;
    let (tried, each) = sample(calls, &format!("{then:?}"));
    for call in tried {
        for when in [When::Before, When::After] {
            let case = build();
            stopped_at(&case, free, 1).await?;
            case.net.trouble_at(case.net.calls() + call, Trouble::Freeze, when);
            let engine = case.plain();
            let ended = tokio::select! {
                biased;
                done = engine.rollback::<S>(case.plan.id) => done.is_ok(),
                () = case.net.frozen() => false,
            };
            if ended {
                return Err(format!("call {call} of the rollback was not reached"));
            }
            let what = format!("rollback killed {when:?} call {call}, then {then:?}");
            case.net.heal();
            let engine = case.other();
            let history = journal::load::<S>(&engine.journals, case.plan.id).await;
            let history = history.map_err(|error| format!("{what}: {error:?}"))?;
            let began = history.runs.iter().any(|run| run.direction == Direction::Undo);
            let again = match then {
                Then::RollBack => case.other().rollback::<S>(case.plan.id).await,
                Then::Resume => case.other().resume::<S>(case.plan.id).await,
            };
            match again {
                Ok(_) if then == Then::Resume && history.ending.is_some() => {
                    return Err(format!("{what}: a plan that had ended was gone on with"));
                }
                Ok(report) => complete(&report, &what)?,
                // It had ended just before it was killed.
                Err(RunError::Ended { ending: Ending::RolledBack, .. }) => {
                    differs(&what, &base.start, &case.snapshot().await)?;
                    count += each;
                    continue;
                }
                // It was killed before anything of it was on record: what was done stays.
                Err(RunError::Ended { ending: Ending::Applied, .. })
                    if then == Then::Resume
                        && !began
                        && history.ending == Some(Ending::Applied) => {}
                Err(error) => return Err(format!("{what}: {error:?}")),
            }
            let wanted = if then == Then::RollBack { &base.start } else { &base.end };
            differs(&what, wanted, &case.snapshot().await)?;
            count += each;
        }
    }
    Ok(count)
}

/// None of `secrets` is anywhere in the journals and locks, neither while the plan runs
/// nor after it. What is set aside beside them may well hold one.
pub(crate) async fn no_secret_in_the_journal<S: Act<W>, W: Send + Sync + 'static>(
    build: &dyn Fn() -> Case<S, W>,
    secrets: &[&str],
) -> Found<()> {
    // Whether there was what is searched.
    let search = |case: &Case<S, W>, wanted: &str| {
        let lines = case.net.snapshot(Path::new("/nothing"));
        let kept = |line: &&String| {
            ["journal", "lock"].iter().any(|part| line.contains(&format!("{OWN}/{part}/")))
        };
        let own: Vec<&String> = lines.iter().filter(kept).collect();
        match secrets.iter().find(|secret| own.iter().any(|line| line.contains(**secret))) {
            Some(_) => Err("a secret stands in the journal".to_owned()),
            None => Ok(own.iter().any(|line| line.contains(wanted))),
        }
    };
    let base = baseline(build).await?;
    let mut locks = 0;
    for part in 1..10 {
        let case = build();
        let call = case.net.calls() + base.calls * part / 10;
        case.net.trouble_at(call, Trouble::Freeze, When::After);
        let engine = case.plain();
        tokio::select! {
            biased;
            // How many calls it takes depends on how long it has to wait.
            _ = engine.execute(&case.plan) => break,
            () = case.net.frozen() => {}
        }
        locks += u64::from(search(&case, ".lock")? && search(&case, "records")?);
    }
    let case = build();
    case.plain().execute(&case.plan).await.map_err(|e| format!("{e:?}"))?;
    match (locks, search(&case, "records")?) {
        (0, _) | (_, false) => Err("there is no journal or no lock to search".to_owned()),
        _ => Ok(()),
    }
}

/// Everything above. Returns the cases of each part.
pub(crate) async fn everything<S: Act<W>, W: Send + Sync + 'static>(
    build: &dyn Fn() -> Case<S, W>,
) -> Found<Vec<(String, u64)>> {
    let mut counts = vec![("each step twice".to_owned(), each_step_twice(build).await?)];
    for then in [Then::Resume, Then::RollBack] {
        let fail = Trouble::Fail(NodeErrorKind::Other);
        let all = [fail, Trouble::Cut, Trouble::Freeze, Trouble::Hang, Trouble::PowerOff];
        for trouble in all {
            let count = trouble_at_each_call(build, trouble, then).await?;
            counts.push((format!("{trouble:?} at each call, {then:?}"), count));
        }
        for presses in [1, 2] {
            let count = stop_at_each_step(build, presses, then).await?;
            counts.push((format!("{presses} × Ctrl-C, {then:?}"), count));
        }
        let count = rollback_killed_at_each_call(build, then).await?;
        counts.push((format!("rollback killed at each call, {then:?}"), count));
    }
    Ok(counts)
}
