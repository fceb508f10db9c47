//! A toy operation over simulated nodes passes everything that every operation
//! must pass, and each kind of wrong step is found by it; the lock, and journals
//! that were damaged, cut or mixed up.

#[path = "common/node_contract.rs"]
mod node_contract;
#[path = "common/node_places.rs"]
mod node_places;
#[path = "common/plan_matrix.rs"]
mod plan_matrix;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcdvault::event::Events;
use etcdvault::node::sim::{SimNet, SimNode, Trouble, When};
use etcdvault::node::static_pod::StaticPod;
use etcdvault::node::{
    Attributes, Node, NodeError, NodeErrorKind, NodeName, UnitAction, WriteHow, WriteLike,
};
use etcdvault::plan::execute::{Clock, Options, Outcome, RunError};
use etcdvault::plan::journal::{self, JournalError, JournalStore, StepState};
use etcdvault::plan::lock::{self, LockError, LockStore, Request};
use etcdvault::plan::record::Owner;
use etcdvault::plan::shell::Command;
use etcdvault::plan::stop::Stop;
use etcdvault::plan::{
    Act, Context, Description, Outputs, Place, Plan, PlanId, Probe, Reversal, Stage, Step,
    StepError, table,
};
use node_places::NodePlace;
use plan_matrix::{Case, Then};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

const UNIT: &str = "app.service";
const LATER: Duration = Duration::from_secs(30);

/// What is wrong with the steps, on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mistake {
    None,
    UndoForgets,
    SaysDone,
    NeverSaysDone,
    NotRepeatable,
    LooksAndTouches,
    OtherOutput,
}

struct World {
    net: SimNet,
    mistake: Mistake,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case", deny_unknown_fields)]
enum Toy {
    Check {
        node: Place,
    },
    Stop {
        node: Place,
    },
    Aside {
        node: Place,
        from: PathBuf,
        to: PathBuf,
    },
    Write {
        node: Place,
        path: PathBuf,
        text: String,
    },
    /// Gives what it finds in the file that it writes.
    Mint {
        node: Place,
        path: PathBuf,
        output: String,
    },
    Use {
        node: Place,
        path: PathBuf,
        output: String,
    },
    Start {
        node: Place,
    },
    Release {
        node: Place,
        path: PathBuf,
    },
}

impl Toy {
    fn node(&self) -> &Place {
        match self {
            Self::Check { node }
            | Self::Stop { node }
            | Self::Aside { node, .. }
            | Self::Write { node, .. }
            | Self::Mint { node, .. }
            | Self::Use { node, .. }
            | Self::Start { node }
            | Self::Release { node, .. } => node,
        }
    }

    fn on(&self, world: &World) -> SimNode {
        world.net.node(&NodeName::new(self.node().as_str()).unwrap()).unwrap()
    }

    /// The file that it writes, where it writes one.
    fn file(&self, context: &Context<'_>) -> Result<Option<(&Path, String)>, StepError> {
        Ok(match self {
            Self::Write { path, text, .. } => Some((path, text.clone())),
            Self::Mint { path, .. } => Some((path, format!("minted by {}", context.plan))),
            Self::Use { path, output, .. } => Some((path, context.output(output)?.to_owned())),
            Self::Release { path, .. } => Some((path, "released".into())),
            _ => None,
        })
    }
}

impl Step for Toy {
    const VERSION: u32 = 1;

    fn describe(&self) -> Description {
        let undoable = |by: &str| Reversal::Undoable { by: by.into() };
        let (what, reversal) = match self {
            Self::Check { .. } => ("look at the unit", Reversal::Nothing),
            Self::Stop { .. } => ("stop the unit", undoable("start it")),
            Self::Aside { .. } => ("rename the data aside", undoable("rename it back")),
            Self::Write { .. } => ("write the configuration", undoable("remove it")),
            Self::Mint { .. } => ("make an id", undoable("remove it")),
            Self::Use { .. } => ("write the id down", undoable("remove it")),
            Self::Start { .. } => ("start the unit", undoable("stop it")),
            Self::Release { .. } => {
                ("let clients in", Reversal::Final { why: "they write".into() })
            }
        };
        let (what, reason) = (what.to_owned(), "it is a toy".to_owned());
        Description { what, reason, nodes: vec![self.node().clone()], reversal }
    }

    fn shell(&self) -> Vec<Command> {
        let node = Some(self.node());
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        match self {
            Self::Check { .. } => vec![Command::new(node, ["systemctl", "is-active", UNIT])],
            Self::Stop { .. } => vec![Command::new(node, ["systemctl", "stop", UNIT])],
            Self::Start { .. } => vec![Command::new(node, ["systemctl", "start", UNIT])],
            Self::Aside { from, to, .. } => {
                vec![Command::new(node, ["mv".into(), "-nT".into(), text(from), text(to)])]
            }
            Self::Write { path, text: content, .. } => {
                vec![Command::new(node, ["tee".into(), text(path)]).input(content)]
            }
            Self::Mint { path, output, .. } => {
                vec![Command::new(node, ["cat".into(), text(path)]).gives(output)]
            }
            Self::Use { output, .. } => vec![Command::new(node, ["echo"]).with_output("", output)],
            Self::Release { .. } => Vec::new(),
        }
    }

    fn provides(&self) -> Vec<String> {
        match self {
            Self::Mint { output, .. } => vec![output.clone()],
            _ => Vec::new(),
        }
    }

    fn needs(&self) -> Vec<String> {
        match self {
            Self::Use { output, .. } => vec![output.clone()],
            _ => Vec::new(),
        }
    }
}

fn failed(error: NodeError) -> StepError {
    StepError::new(error.to_string())
}

fn how() -> WriteHow {
    let xattrs = Default::default();
    let like = Attributes { uid: 0, gid: 0, owner: None, group: None, mode: 0o600, xattrs };
    WriteHow { like: WriteLike::Attributes(like), replaces: None }
}

#[async_trait]
impl Act<World> for Toy {
    async fn probe(&self, world: &World, context: &Context<'_>) -> Result<Probe, StepError> {
        let node = self.on(world);
        if let Some((path, text)) = self.file(context)? {
            if world.mistake == Mistake::LooksAndTouches && matches!(self, Self::Write { .. }) {
                node.file("/etc/touched", "", 0, 0o600);
            }
            let found = match node.read(path, 4096).await {
                Err(error) if error.kind == NodeErrorKind::NotFound => return Ok(Probe::NotDone),
                other => other.map_err(failed)?.bytes,
            };
            let mut outputs = Outputs::new();
            for output in self.provides() {
                let mut value = String::from_utf8_lossy(&found).into_owned();
                if world.mistake == Mistake::OtherOutput {
                    value = node.net().calls().to_string();
                }
                outputs.insert(output, value);
            }
            let right = found == text.as_bytes();
            let lies = world.mistake == Mistake::NeverSaysDone && matches!(self, Self::Use { .. });
            return Ok(match right && !lies {
                true => Probe::Done(outputs),
                false => Probe::Partly("another file stands there".into()),
            });
        }
        let is = |done: bool| Ok(if done { Probe::Done(Outputs::new()) } else { Probe::NotDone });
        match self {
            Self::Aside { from, to, .. } => {
                let old = node.stat(from).await.map_err(failed)?.is_some();
                let new = node.stat(to).await.map_err(failed)?.is_some();
                match (old, new) {
                    (true, false) => Ok(Probe::NotDone),
                    (false, true) => Ok(Probe::Done(Outputs::new())),
                    _ => Ok(Probe::Partly("both or none are there".into())),
                }
            }
            step => {
                let unit = node.unit(UNIT).await.map_err(failed)?;
                let Some(unit) = unit else { return Err(StepError::new("there is no unit")) };
                let runs = unit.active_state == "active";
                match step {
                    Self::Stop { .. } if world.mistake == Mistake::SaysDone => is(true),
                    Self::Stop { .. } => is(!runs),
                    Self::Start { .. } => is(runs),
                    _ => is(true),
                }
            }
        }
    }

    async fn apply(&self, world: &World, context: &Context<'_>) -> Result<(), StepError> {
        let node = self.on(world);
        if let Some((path, text)) = self.file(context)? {
            if matches!(self, Self::Write { .. }) && world.mistake != Mistake::NotRepeatable {
                match node.read(path, 4096).await {
                    Ok(file) if file.bytes == text.as_bytes() => return Ok(()),
                    _ => {}
                }
            }
            return match node.write(path, text.as_bytes(), how()).await {
                Err(error)
                    if error.kind == NodeErrorKind::AlreadyExists
                        && world.mistake != Mistake::NotRepeatable =>
                {
                    Ok(())
                }
                other => other.map_err(failed),
            };
        }
        match self {
            Self::Aside { from, to, .. } => match node.rename(from, to).await {
                // Done before: the old name is free.
                Err(error) if error.kind == NodeErrorKind::NotFound => Ok(()),
                other => other.map_err(failed),
            },
            Self::Stop { .. } => {
                context.waits("the unit to stop", LATER);
                node.unit_do(UNIT, UnitAction::Stop, LATER).await.map_err(failed)
            }
            Self::Start { .. } => {
                node.unit_do(UNIT, UnitAction::Start, LATER).await.map_err(failed)
            }
            _ => Ok(()),
        }
    }

    async fn undo(&self, world: &World, context: &Context<'_>) -> Result<(), StepError> {
        let node = self.on(world);
        // What a step needed of others may never have come to be: then it did nothing.
        let file = match self.file(context) {
            Ok(file) => file,
            Err(_) => return Ok(()),
        };
        if let Some((path, text)) = file {
            if world.mistake == Mistake::UndoForgets && matches!(self, Self::Write { .. }) {
                let aside = path.with_extension("forgotten");
                let _ = node.rename(path, &aside).await;
                return Ok(());
            }
            return match node.remove_own(path, Sha256::digest(text).into()).await {
                Err(error) if error.kind == NodeErrorKind::NotFound => Ok(()),
                other => other.map_err(failed),
            };
        }
        match self {
            Self::Aside { from, to, .. } => match node.rename(to, from).await {
                Err(error) if error.kind == NodeErrorKind::NotFound => Ok(()),
                other => other.map_err(failed),
            },
            Self::Stop { .. } => node.unit_do(UNIT, UnitAction::Start, LATER).await.map_err(failed),
            Self::Start { .. } => node.unit_do(UNIT, UnitAction::Stop, LATER).await.map_err(failed),
            _ => Ok(()),
        }
    }
}

const NODES: [&str; 3] = ["k1", "k2", "k3"];

fn place(name: &str) -> Place {
    Place::new(name).unwrap()
}

fn build_with(mistake: Mistake) -> Case<Toy, World> {
    let net = SimNet::new();
    for name in NODES {
        let node = net.add(&NodeName::new(name).unwrap());
        let unit = "[Service]\nExecStart=/usr/bin/app\n";
        node.file("/etc/systemd/system/app.service", unit, 0, 0o644);
        node.owned_dir("/var/lib/app", 7, 0o700).file("/var/lib/app/data", "old", 7, 0o600);
        start_now(&node);
    }
    let id: PlanId = "01JD3A00000000000000000000".parse().unwrap();
    let made = "2026-11-21T01:02:03Z".parse().unwrap();
    let mut plan = Plan::new(id, "prod", "toy run", "Play with prod", made, NODES.map(place))
        .fact("Kept", "the data, as app.before-01JD3A")
        .stage(Stage::in_order(vec![Toy::Check { node: place("k1") }]))
        .stage(Stage::at_once(2, ["k1", "k2"].map(|n| Toy::Stop { node: place(n) }).into()))
        .stage(Stage::in_order(vec![
            Toy::Aside {
                node: place("k1"),
                from: "/var/lib/app".into(),
                to: "/var/lib/app.before-01JD3A".into(),
            },
            Toy::Mint { node: place("k2"), path: "/etc/id".into(), output: "id".into() },
            Toy::Use { node: place("k1"), path: "/etc/id".into(), output: "id".into() },
        ]));
    let path = PathBuf::from("/etc/app.conf");
    let text = "a 'quoted' $(text)\n".to_owned();
    let write = Toy::Write { node: place("k1"), path, text };
    plan = plan
        .stage(Stage::in_order(vec![write]))
        .stage(Stage::at_once(2, ["k1", "k2"].map(|n| Toy::Start { node: place(n) }).into()))
        .no_return_from_here("clients write", "make a new plan")
        .stage(Stage::in_order(vec![Toy::Release { node: place("k3"), path: "/etc/open".into() }]));
    let world = Arc::new(World { net: net.clone(), mistake });
    Case { net, world, plan }
}

fn start_now(node: &SimNode) {
    // Enabled and booted: as it is on a machine that runs.
    node.link("/etc/systemd/system/multi-user.target.wants/app.service", "../app.service");
    node.power_off().power_on();
}

fn build() -> Case<Toy, World> {
    build_with(Mistake::None)
}

#[tokio::test(start_paused = true)]
async fn the_toy_passes_each_step_twice_and_ctrl_c() {
    assert_eq!(plan_matrix::each_step_twice(&build).await.unwrap(), 10);
    for then in [Then::Resume, Then::RollBack] {
        for presses in [1, 2] {
            let stopped = plan_matrix::stop_at_each_step(&build, presses, then).await;
            assert_eq!(stopped.unwrap(), 10, "{presses} {then:?}");
        }
    }
    plan_matrix::no_secret_in_the_journal(&build, &["geheim"]).await.unwrap();
    let found = plan_matrix::no_secret_in_the_journal(&build, &["minted by"]).await;
    assert!(found.is_err(), "an output stands in the journal, so the search must find it");
}

async fn troubled(trouble: Trouble, then: Then) {
    let count = plan_matrix::trouble_at_each_call(&build, trouble, then).await.unwrap();
    assert!(count > 200, "only {count} cases");
}

#[tokio::test(start_paused = true)]
async fn killed_at_each_call_then_resumed() {
    troubled(Trouble::Freeze, Then::Resume).await;
}

#[tokio::test(start_paused = true)]
async fn killed_at_each_call_then_rolled_back() {
    troubled(Trouble::Freeze, Then::RollBack).await;
}

#[tokio::test(start_paused = true)]
async fn failed_at_each_call_then_resumed() {
    troubled(Trouble::Fail(NodeErrorKind::Other), Then::Resume).await;
}

#[tokio::test(start_paused = true)]
async fn failed_at_each_call_then_rolled_back() {
    troubled(Trouble::Fail(NodeErrorKind::Other), Then::RollBack).await;
}

#[tokio::test(start_paused = true)]
async fn cut_off_at_each_call_then_resumed() {
    troubled(Trouble::Cut, Then::Resume).await;
}

#[tokio::test(start_paused = true)]
async fn cut_off_at_each_call_then_rolled_back() {
    troubled(Trouble::Cut, Then::RollBack).await;
}

#[tokio::test(start_paused = true)]
async fn a_rollback_killed_at_each_call_goes_on_or_is_resumed() {
    for then in [Then::RollBack, Then::Resume] {
        let count = plan_matrix::rollback_killed_at_each_call(&build, then).await.unwrap();
        assert!(count > 100, "only {count} cases");
    }
}

/// The helpers find each kind of wrong step.
#[tokio::test(start_paused = true)]
async fn wrong_steps_are_found() {
    for (mistake, said) in [
        (Mistake::UndoForgets, "/etc/app.forgotten"),
        (Mistake::SaysDone, "it says that it is done"),
        (Mistake::NeverSaysDone, "looked at after it was done once"),
        (Mistake::NotRepeatable, "done twice"),
        (Mistake::LooksAndTouches, "looking at step 4.1 changed something"),
        (Mistake::OtherOutput, "done twice: it gave"),
    ] {
        let found = plan_matrix::each_step_twice(&|| build_with(mistake)).await;
        let found = found.expect_err(&format!("{mistake:?} was not found"));
        assert!(found.contains(said), "{mistake:?}: {found}");
    }
    // What undoing forgets is found by rolling back, too, and what cannot be repeated
    // by killing.
    let forgets = || build_with(Mistake::UndoForgets);
    let found = plan_matrix::stop_at_each_step(&forgets, 1, Then::RollBack).await;
    assert!(found.unwrap_err().contains("forgotten"));
    let lies = || build_with(Mistake::NeverSaysDone);
    assert!(plan_matrix::baseline(&lies).await.is_err(), "the engine trusts a step that failed");
}

fn engine_places(case: &Case<Toy, World>) -> Vec<Arc<NodePlace>> {
    let node = |name| case.net.node(&NodeName::new(name).unwrap()).unwrap();
    NODES.iter().map(|name| Arc::new(NodePlace::new(Arc::new(node(*name))).unwrap())).collect()
}

fn journals(case: &Case<Toy, World>) -> Vec<Arc<dyn JournalStore>> {
    engine_places(case).into_iter().map(|place| place as Arc<dyn JournalStore>).collect()
}

fn locks(case: &Case<Toy, World>) -> Vec<Arc<dyn LockStore>> {
    engine_places(case).into_iter().map(|place| place as Arc<dyn LockStore>).collect()
}

fn records(case: &Case<Toy, World>, node: &str) -> String {
    format!("/var/lib/etcdvault/journal/{}/records@{node}", case.plan.id)
}

fn edit(case: &Case<Toy, World>, node: &str, change: impl FnOnce(&str) -> String) {
    let path = records(case, node);
    let path = path.split('@').next().unwrap();
    let node = case.net.node(&NodeName::new(node).unwrap()).unwrap();
    let text = node.text(path).unwrap();
    node.file(path, &change(&text), 0, 0o600);
}

#[tokio::test(start_paused = true)]
async fn a_torn_record_is_dropped_and_written_over() {
    let case = build();
    case.net.node(&NodeName::new("k1").unwrap()).unwrap().fail_start(UNIT, &["no"]);
    let report = case.plain().execute(&case.plan).await.unwrap();
    assert!(matches!(report.outcome, Outcome::Failed(_)), "{:?}", report.outcome);
    assert_eq!(report.next_stage, Some(5));
    edit(&case, "k1", |text| format!("{text}000000f0 1234"));
    let broken = journal::load::<Toy>(&journals(&case), case.plan.id).await.unwrap_err();
    assert!(broken.is_corruption(), "a wrong check is no torn record: {broken}");
    edit(&case, "k1", |text| text.replace("000000f0 1234", "000000f0"));
    case.net.node(&NodeName::new("k1").unwrap()).unwrap().fail_start(UNIT, &[]);
    let report = case.other().resume::<Toy>(case.plan.id).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    let history = journal::load::<Toy>(&journals(&case), case.plan.id).await.unwrap();
    assert_eq!(history.runs.len(), 2);
    assert_eq!(history.runs[1].owner.host, "second");
}

#[tokio::test(start_paused = true)]
async fn damaged_cut_and_mixed_journals_are_refused() {
    let lines = |text: &str, count: usize| -> String {
        text.lines().take(count).map(|line| format!("{line}\n")).collect()
    };
    type Change = fn(&str) -> String;
    let flip: Change = |text| text.replacen("applied", "bpplied", 1);
    for (what, change) in [("flipped", Some(flip)), ("cut", None)] {
        let case = build();
        case.plain().execute(&case.plan).await.unwrap();
        match change {
            Some(change) => edit(&case, "k2", change),
            None => edit(&case, "k2", |text| lines(text, 2)),
        }
        let error = case.other().rollback::<Toy>(case.plan.id).await.unwrap_err();
        assert!(error.is_corruption(), "{what}: {error:?}");
        let RunError::Journal(error) = error else { panic!("{what}: {error:?}") };
        assert!(error.to_string().contains("k2"), "{what}: {error}");
    }
    // A node with another plan under the same id.
    let case = build();
    case.plain().execute(&case.plan).await.unwrap();
    let plan = format!("/var/lib/etcdvault/journal/{}/plan.json", case.plan.id);
    let k3 = case.net.node(&NodeName::new("k3").unwrap()).unwrap();
    let other = k3.text(&plan).unwrap().replace("Play with prod", "Play with test");
    k3.file(&plan, &other, 0, 0o600);
    let error = journal::load::<Toy>(&journals(&case), case.plan.id).await.unwrap_err();
    assert!(matches!(&error, JournalError::OtherPlan { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_missing_is_named_and_can_be_left_out_of_a_rollback() {
    let case = build();
    case.net.node(&NodeName::new("k2").unwrap()).unwrap().fail_start(UNIT, &["no"]);
    case.plain().execute(&case.plan).await.unwrap();
    case.net.node(&NodeName::new("k2").unwrap()).unwrap().power_off();
    let error = case.other().rollback::<Toy>(case.plan.id).await.unwrap_err();
    let RunError::Journal(JournalError::Missing { missing, total: 3 }) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(missing[0].place, place("k2"));
    let options =
        Options { take_over_lock: true, without: [place("k2")].into(), ..Options::default() };
    let engine = case.engine("third", Stop::never(), Events::none(), options);
    let report = engine.rollback::<Toy>(case.plan.id).await.unwrap();
    assert!(matches!(report.outcome, Outcome::RolledBack), "{:?}", report.outcome);
    assert!(!report.is_complete());
    assert_eq!(
        report.left.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["2.2", "3.2", "5.2"]
    );
    let k1 = case.net.node(&NodeName::new("k1").unwrap()).unwrap();
    assert_eq!(k1.text("/var/lib/app/data").as_deref(), Some("old"));
    assert_eq!(k1.text("/etc/app.conf"), None);
    // Once it is back the rest follows.
    case.net.heal();
    case.net.node(&NodeName::new("k2").unwrap()).unwrap().fail_start(UNIT, &[]);
    let report = case.other().rollback::<Toy>(case.plan.id).await.unwrap();
    assert!(report.is_complete(), "{:?} {:?}", report.outcome, report.steps);
    let k2 = case.net.node(&NodeName::new("k2").unwrap()).unwrap();
    assert_eq!(k2.text("/etc/id"), None);
}

#[tokio::test(start_paused = true)]
async fn beyond_the_last_free_return_the_way_back_is_refused_with_the_reason() {
    let case = build();
    assert!(case.plain().execute(&case.plan).await.unwrap().is_complete());
    let error = case.plain().rollback::<Toy>(case.plan.id).await.unwrap_err();
    let RunError::BeyondReturn { step, why, instead } = error else { panic!("{error:?}") };
    assert_eq!(
        (step.to_string().as_str(), &*why, &*instead),
        ("6.1", "clients write", "make a new plan")
    );
    // An executed plan is neither executed nor resumed again.
    let again = case.plain().execute(&case.plan).await.unwrap_err();
    assert!(matches!(again, RunError::BegunBefore(_)), "{again:?}");
    let again = case.plain().resume::<Toy>(case.plan.id).await.unwrap_err();
    assert!(matches!(again, RunError::Ended { .. }), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn an_unfinished_plan_stands_in_the_way_of_another() {
    let case = build();
    let k1 = case.net.node(&NodeName::new("k1").unwrap()).unwrap();
    k1.fail_start(UNIT, &["no"]);
    let report = case.plain().execute(&case.plan).await.unwrap();
    let Outcome::Failed(failures) = &report.outcome else { panic!("{:?}", report.outcome) };
    assert!(failures[0].error.to_string().contains("the unit failed"), "{:?}", failures[0].error);
    assert!(matches!(report.steps[&failures[0].step], StepState::Failed { .. }));
    assert!(report.go_on().is_some() && report.go_back().is_some());
    let mut other = case.plan.clone();
    other.id = "01JD3B00000000000000000000".parse().unwrap();
    let error = case.plain().execute(&other).await.unwrap_err();
    assert!(error.is_busy(), "{error:?}");
    let RunError::Unfinished { id, .. } = error else { panic!("{error:?}") };
    assert_eq!(id, case.plan.id);
}

fn owner(host: &str) -> Owner {
    Owner { user: "root".into(), host: host.into(), pid: 1 }
}

fn request<'a>(owner: &'a Owner, take_over: bool) -> Request<'a> {
    let plan = "01JD3A00000000000000000000".parse().unwrap();
    Request { cluster: "prod", plan, operation: "toy run", owner, take_over, of: 0 }
}

#[tokio::test(start_paused = true)]
async fn the_lock_is_held_by_one_told_of_released_and_taken_over_knowingly() {
    let case = build();
    let (stores, clock) = (locks(&case), Clock::system());
    let (a, b) = (owner("a"), owner("b"));
    let held = lock::take(&stores, &request(&a, false), &clock).await.unwrap();
    let error = lock::take(&stores, &request(&b, false), &clock).await.unwrap_err();
    assert!(error.is_busy() && error.to_string().contains("root@a (process 1)"), "{error}");
    // Alive: not taken over either.
    let (over, never) = (request(&b, true), tokio::sync::Notify::new());
    let error = tokio::select! {
        biased;
        taken = lock::take(&stores, &over, &clock) => taken.unwrap_err(),
        () = held.keep(&never) => panic!("it was not told to end"),
    };
    assert!(matches!(error, LockError::Held { alive: true, .. }), "{error:?}");
    assert!(!held.is_lost());
    // Dead: taken over, and the dead one would know.
    let taken = lock::take(&stores, &request(&b, true), &clock).await.unwrap();
    assert_eq!(taken.taken_from.as_ref().unwrap().owner, a);
    held.beat().await;
    assert!(held.is_lost());
    assert_eq!(lock::holder(&stores, "prod").await.unwrap().owner, b);
    held.release().await;
    assert_eq!(lock::holder(&stores, "prod").await.unwrap().owner, b, "not ours to give back");
    assert!(taken.release().await.is_empty());
    assert_eq!(lock::holder(&stores, "prod").await, None);
}

#[tokio::test(start_paused = true)]
async fn of_two_takers_at_once_one_wins() {
    for take_over in [false, true] {
        let case = build();
        let (stores, clock) = (locks(&case), Clock::system());
        let (a, b, dead) = (owner("a"), owner("b"), owner("dead"));
        if take_over {
            drop(lock::take(&stores, &request(&dead, false), &clock).await.unwrap());
        }
        let (first, second) = (request(&a, take_over), request(&b, take_over));
        let (first, second) =
            tokio::join!(lock::take(&stores, &first, &clock), lock::take(&stores, &second, &clock));
        assert!(first.is_ok() ^ second.is_ok(), "{first:?} {second:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_on_a_minority_is_replaced_by_the_next_holder() {
    let case = build();
    let (stores, clock) = (locks(&case), Clock::system());
    let (a, b) = (owner("a"), owner("b"));
    // The taker dies at its first claim.
    // Three looks and two directories come before it.
    let write = case.net.calls() + 6;
    case.net.trouble_at(write, Trouble::Freeze, When::After);
    let dying = request(&a, false);
    tokio::select! {
        biased;
        _ = lock::take(&stores, &dying, &clock) => panic!("it was to die"),
        () = case.net.frozen() => {}
    }
    assert!(case.net.log().iter().any(|act| act.contains("write /var/lib/etcdvault/lock")));
    let taken = lock::take(&stores, &request(&b, false), &clock).await.unwrap();
    for store in &stores {
        let claim = String::from_utf8(store.read("prod").await.unwrap().unwrap()).unwrap();
        assert!(claim.contains("\"host\": \"b\""), "{}: {claim}", store.place());
    }
    // With a minority of the nodes there is no lock.
    taken.release().await;
    for name in ["k1", "k2"] {
        case.net.node(&NodeName::new(name).unwrap()).unwrap().cut();
    }
    let error = lock::take(&stores, &request(&a, false), &clock).await.unwrap_err();
    assert!(matches!(error, LockError::NoMajority { needed: 2, reached: 1, .. }), "{error:?}");
    case.net.heal();
    assert_eq!(lock::holder(&stores, "prod").await, None, "what it had it gave back");
}

/// Two who reach different parts of a cluster do not both hold its lock, though each has
/// more than half of what it reaches.
#[tokio::test(start_paused = true)]
async fn the_lock_counts_nodes_that_are_not_asked() {
    let case = build();
    for name in ["k4", "k5"] {
        case.net.add(&NodeName::new(name).unwrap());
    }
    let reached = |names: &[&str]| -> Vec<Arc<dyn LockStore>> {
        let node = |name: &str| case.net.node(&NodeName::new(name).unwrap()).unwrap();
        let place = |name: &&str| Arc::new(NodePlace::new(Arc::new(node(name))).unwrap());
        names.iter().map(|name| place(name) as Arc<dyn LockStore>).collect()
    };
    let (left, right) = (reached(&["k1", "k2", "k3"]), reached(&["k3", "k4", "k5"]));
    let clock = Clock::system();
    let (a, b) = (owner("a"), owner("b"));
    let of = |owner, of| Request { of, ..request(owner, false) };
    let held = lock::take(&left, &of(&a, 5), &clock).await.unwrap();
    let error = lock::take(&right, &of(&b, 5), &clock).await.unwrap_err();
    assert!(error.is_busy() && error.to_string().contains("root@a"), "{error}");
    // What it had meanwhile it gave back, and took nothing from the holder.
    assert!(held.beat().await && !held.is_lost());
    assert_eq!(lock::holder(&right[1..], "prod").await, None);
    assert!(held.release().await.is_empty());

    // Without half of the cluster there is none, though everything asked is free.
    let error = lock::take(&right[..2], &of(&b, 5), &clock).await.unwrap_err();
    let LockError::NoMajority { needed: 3, total: 5, reached: 2, .. } = error else {
        panic!("{error:?}")
    };
    // A holder that loses its majority of the cluster knows it.
    let held = lock::take(&left, &of(&b, 5), &clock).await.unwrap();
    assert!(held.beat().await);
    case.net.node(&NodeName::new("k1").unwrap()).unwrap().cut();
    assert!(!held.beat().await, "two of five are no majority");
    // Who insists counts what is reached.
    drop(lock::take(&reached(&["k4", "k5"]), &of(&a, 0), &clock).await.unwrap());
}

/// A simulated node keeps what every node promises.
#[tokio::test(start_paused = true)]
async fn a_simulated_node_passes_the_contract_of_nodes() {
    let net = SimNet::new();
    let node = net.add(&NodeName::new("k1").unwrap());
    node.dir("/srv/files").dir("/srv/trees");
    node_contract::files(&node, Path::new("/srv/files")).await;
    node_contract::trees(&node, Path::new("/srv/trees")).await;
    node_contract::machine(&node).await;
    node_contract::units(&node).await;
}

/// And simulated etcd in a unit.
#[tokio::test(start_paused = true)]
async fn a_simulated_etcd_passes_the_contract_of_nodes() {
    let net = SimNet::new();
    let node = net.add(&NodeName::new("k1").unwrap());
    let settings = |state: &str| {
        format!(
            "ETCD_NAME=k1\nETCD_DATA_DIR=/var/lib/etcd\n\
             ETCD_LISTEN_CLIENT_URLS=http://10.0.0.1:2379\n\
             ETCD_LISTEN_PEER_URLS=http://10.0.0.1:2380\n\
             ETCD_INITIAL_CLUSTER=k1=http://10.0.0.1:2380\n\
             ETCD_INITIAL_CLUSTER_STATE={state}\n"
        )
    };
    let unit = "[Service]\nUser=etcd\nEnvironmentFile=/etc/default/etcd\n\
                ExecStart=/usr/bin/etcd\n[Install]\nWantedBy=multi-user.target\n";
    let (new, existing) = (settings("new"), settings("existing"));
    node.user("etcd", 101).owned_dir("/var/lib/etcd", 101, 0o700);
    node.file("/lib/systemd/system/etcd.service", unit, 0, 0o644);
    node.file("/etc/default/etcd", &new, 0, 0o644);
    node.unit_do("etcd.service", UnitAction::Start, Duration::from_secs(60)).await.unwrap();
    let port = |taken: bool| {
        let address = "0.0.0.0:2379".parse().unwrap();
        if taken {
            node.listen(address)
        } else {
            node.unlisten(address)
        };
    };
    let etcd = node_contract::EtcdUnit {
        unit: "etcd.service",
        data: Path::new("/var/lib/etcd"),
        settings: Path::new("/etc/default/etcd"),
        texts: [new.as_bytes(), existing.as_bytes()],
        port: &port,
    };
    node_contract::etcd(&node, &etcd).await;
}

/// And a simulated kubelet.
#[tokio::test(start_paused = true)]
async fn a_simulated_kubelet_passes_the_contract_of_nodes() {
    let net = SimNet::new();
    let node = net.add(&NodeName::new("k1").unwrap());
    let pod = StaticPod {
        manifest: "/etc/kubernetes/manifests/kube-scheduler.yaml".into(),
        aside: "/etc/kubernetes/aside/kube-scheduler.yaml".into(),
        container: "kube-scheduler".into(),
        ports: vec![10259],
    };
    let manifest = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: kube-scheduler\n  namespace: \
                    kube-system\nspec:\n  containers:\n  - command:\n    - kube-scheduler\n    - \
                    --leader-elect=true\n    image: registry/kube-scheduler:1\n    name: \
                    kube-scheduler\n";
    node.dir("/etc/kubernetes/aside").kubelet();
    node.file(pod.manifest.to_str().unwrap(), manifest, 0, 0o600);
    let begun = tokio::time::Instant::now();
    while !node.runs("kube-scheduler") {
        assert!(begun.elapsed() < Duration::from_secs(60), "the pod does not come up");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    node_contract::pods(&node, &pod).await;
}

#[test]
fn a_plan_is_shown_as_rows_and_as_shell() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let case = runtime.block_on(async { build() });
    let rows = table::rows(&case.plan);
    let second = rows.iter().find(|row| row.number == 2).unwrap();
    assert_eq!((second.nodes.len(), second.at_once), (2, true));
    assert_eq!(second.undone_by.as_deref(), Some("start it"));
    assert!(rows.last().unwrap().beyond_return);
    let script = etcdvault::plan::shell::as_shell(&case.plan, &|place| place.to_string());
    assert!(script.contains("systemctl stop app.service\n"), "{script}");
    assert!(
        script.contains("printf %s 'a '\\''quoted'\\'' $(text)\n' | tee /etc/app.conf"),
        "{script}"
    );
    assert!(script.contains("OUT_id=$(cat /etc/id)\n"), "{script}");
    let checked = std::process::Command::new("sh").args(["-n", "-c", &script]).status().unwrap();
    assert!(checked.success(), "{script}");
    // It is the same after it was written and read.
    let read = Plan::<Toy>::from_bytes(&case.plan.to_bytes().unwrap()).unwrap();
    assert_eq!(read, case.plan);
}

#[test]
fn plans_that_break_a_rule_are_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let good = runtime.block_on(async { build() }).plan;
    let refused = |what: &str, change: &dyn Fn(&mut Plan<Toy>)| {
        let mut plan = good.clone();
        change(&mut plan);
        let error = plan.check().expect_err(what).to_string();
        assert!(error.contains(what), "{what}: {error}");
    };
    refused("is final", &|plan| plan.last_free_return = None);
    refused("no earlier one gives", &|plan| drop(plan.stages[2].steps.remove(1)));
    refused("runs at the same time", &|plan| plan.stages[2].at_once = 2);
    refused("keeps no journal", &|plan| assert!(plan.nodes.remove(&place("k2"))));
    refused("both give", &|plan| {
        let mint = plan.stages[2].steps[1].clone();
        plan.stages[2].steps.push(mint);
    });
    refused("is not a name", &|plan| plan.cluster = "../prod".into());
    refused("no steps", &|plan| plan.stages[0].steps.clear());
    refused("newer", &|plan| plan.steps_version = 2);
    refused("newer", &|plan| plan.format.oldest_reader = 2);
}
