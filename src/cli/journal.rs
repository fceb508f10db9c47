//! `etcdvault journal`, `resume` and `rollback`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use clap::{Args, Subcommand};

use super::args::ConnectionArgs;
use super::exit_code::Exit;
use super::human::{printable, time_utc};
use super::member::live;
use super::output::Output;
use super::plan::{self, Halt, ended, not_begun, shown};
use super::returning::contents;
use super::settings::{connector, open_vault, reach};
use super::state::StateArgs;
use super::table::{Align, Table};
use super::ways::Typed;
use crate::config::{Choice, Setup};
use crate::operation::journal::{
    self, Clock, Direction, Ending, Engine, History, Listed, Options, Owner, Place, PlanId,
    RunError, StepState,
};
use crate::operation::returning::{Step, World};
use crate::operation::state::nodes;
use crate::operation::step::Contents;
use crate::operation::vocabulary::Node;
use crate::operation::{Failure, FailureKind};

/// Plans that were begun: list them, show one
#[derive(Debug, Subcommand)]
pub(crate) enum JournalCommand {
    List(JournalListArgs),
    Show(JournalShowArgs),
}

/// Which nodes are asked for their journals.
#[derive(Debug, Args)]
pub(crate) struct KeepersArgs {
    /// A node to ask for its journal [default: the configured ones of the cluster, else
    /// this machine]; the plan says which others it is about
    #[arg(long = "node", value_name = "NAME")]
    nodes: Vec<String>,
    /// The cluster, where the configuration has several [env: ETCDVAULT_CLUSTER]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
}

/// List the plans in the journals of the nodes, the newest first
///
/// Exit code 3 where a node does not answer.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    etcdvault journal list\n  \
    etcdvault journal list --node k1 --json | jq '.[] | select(.unfinished)'")]
pub(crate) struct JournalListArgs {
    #[command(flatten)]
    keepers: KeepersArgs,
}

/// Show a plan, how far its steps are, and who ran it
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  etcdvault journal show 01JD3A")]
pub(crate) struct JournalShowArgs {
    /// The plan's id, or its start
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    keepers: KeepersArgs,
}

/// Go on with a plan that was stopped, failed or killed
///
/// From any machine that reaches the nodes and the vault: the journal on the nodes says
/// how far it came, and what was in the midst is looked at.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    etcdvault resume 01JD3A --vault /srv/etcd-vault --identity-file identity.txt\n  \
    etcdvault resume 01JD3A --take-over-lock")]
pub(crate) struct ResumeArgs {
    /// The plan's id, or its start
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    keepers: KeepersArgs,
    /// Go on without this node, which does not answer and which no step touches
    #[arg(long, value_name = "NAME")]
    without: Vec<String>,
    /// Take the cluster's lock from an owner that gives no sign of life for 25 seconds
    #[arg(long)]
    take_over_lock: bool,
    #[command(flatten)]
    with: StateArgs,
}

/// Take a plan back to where it began
///
/// One that was stopped, failed or killed, or one that is done. Needs the nodes alone, no
/// vault; where members of the cluster were changed, the cluster as well.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  etcdvault rollback 01JD3A")]
pub(crate) struct RollbackArgs {
    /// The plan's id, or its start
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    keepers: KeepersArgs,
    /// Leave the steps of this node, which does not answer, as they are (exit code 3)
    #[arg(long, value_name = "NAME")]
    without: Vec<String>,
    /// Take the cluster's lock from an owner that gives no sign of life for 25 seconds
    #[arg(long)]
    take_over_lock: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

fn places(nodes: &[Arc<dyn Node>]) -> Result<Vec<Arc<journal::NodePlace>>, Failure> {
    journal::places(nodes).map_err(|error| Failure::new(FailureKind::Usage, error.to_string()))
}

/// The nodes that are asked. One that does not answer holds up no other.
async fn asked(
    choice: &Choice<'_>,
    keepers: &KeepersArgs,
    output: &Output,
) -> Result<Vec<Arc<dyn Node>>, Failure> {
    output.waiting("connecting", nodes::each(choice, &keepers.nodes)).await
}

/// A plan as its nodes know it.
struct Found {
    nodes: Vec<Arc<dyn Node>>,
    history: History<Step>,
}

/// The plan that `text` names on the nodes that are asked, with all of its own nodes but
/// those `without` which it is to be done. Only to be shown it needs no other nodes than
/// those that were named.
async fn find(
    setup: &Setup,
    keepers: &KeepersArgs,
    text: &str,
    without: Option<&[String]>,
    typed: &Typed,
    output: &Output,
) -> Result<Found, Failure> {
    let choice = setup.choose(keepers.cluster.as_deref())?;
    let nodes = asked(&choice, keepers, output).await?;
    let stores = journal::stores(&places(&nodes)?);
    let reading = async {
        let id = id(&stores, text).await?;
        journal::load::<Step>(&stores, id).await.map_err(|error| not_begun(error.into(), typed))
    };
    let history = output.waiting("reading the journal", reading).await?;
    // The plan says itself which nodes it is about, whichever were asked for it.
    let about: Vec<String> = history.plan.nodes.iter().map(ToString::to_string).collect();
    let named = |node: &Arc<dyn Node>| about.iter().any(|place| node.name().as_str() == *place);
    let known = |place: &String| {
        nodes.iter().any(|node| node.name().as_str() == *place)
            || without.is_some_and(|without| without.contains(place))
    };
    let others: Vec<String> = about.iter().filter(|place| !known(place)).cloned().collect();
    // Another node of the cluster was left out of it: nothing is kept there.
    let ours = nodes.into_iter().filter(|node| named(node));
    if others.is_empty() || without.is_none() && !keepers.nodes.is_empty() {
        return Ok(Found { nodes: ours.collect(), history });
    }
    let others = output.waiting("connecting", nodes::each(&choice, &others)).await?;
    let nodes: Vec<Arc<dyn Node>> = ours.chain(others).collect();
    let stores = journal::stores(&places(&nodes)?);
    let loaded = journal::load::<Step>(&stores, history.plan.id).await;
    let history = loaded.map_err(|error| not_begun(error.into(), typed))?;
    Ok(Found { nodes, history })
}

/// The id that begins with `text`.
async fn id(
    stores: &[Arc<dyn crate::operation::journal::JournalStore>],
    text: &str,
) -> Result<PlanId, Failure> {
    let text = text.to_ascii_uppercase();
    let error = match text.parse() {
        Ok(id) => return Ok(id),
        Err(error) => error,
    };
    if text.is_empty() || text.len() >= 26 || !text.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(Failure::new(FailureKind::Usage, format!("{error}")));
    }
    let (plans, missing) = journal::list(stores).await;
    let fits = |listed: &&Listed| listed.id.to_string().starts_with(&text);
    let found: Vec<PlanId> = plans.iter().filter(fits).map(|listed| listed.id).collect();
    match found[..] {
        [only] => Ok(only),
        [] => {
            let what = format!("no plan {text}… on any node that answers");
            let mut failure = Failure::new(FailureKind::Error, what);
            for error in missing {
                failure = failure.detail(error.to_string());
            }
            Err(failure.hint("etcdvault journal list shows the plans of the nodes"))
        }
        _ => {
            let mut failure =
                Failure::new(FailureKind::Usage, format!("{text} begins several plans"));
            for id in found {
                failure = failure.detail(id.to_string());
            }
            Err(failure)
        }
    }
}

fn state_of(listed: &Listed) -> &'static str {
    match listed.ending {
        _ if listed.fault.is_some() => "DAMAGED",
        Some(Ending::Applied) => "done",
        Some(Ending::RolledBack) => "rolled back",
        None if listed.begun => "UNFINISHED",
        None => "never begun",
    }
}

pub(crate) async fn list(
    args: JournalListArgs,
    output: &Output,
    setup: &Setup,
) -> Result<Exit, Failure> {
    let choice = setup.choose(args.keepers.cluster.as_deref())?;
    let nodes = asked(&choice, &args.keepers, output).await?;
    let stores = journal::stores(&places(&nodes)?);
    let (plans, missing) = output.waiting("reading journals", journal::list(&stores)).await;
    let rows: Vec<serde_json::Value> = plans
        .iter()
        .map(|listed| {
            let head = listed.head.as_ref().ok();
            serde_json::json!({
                "id": listed.id, "begun": listed.begun, "unfinished": listed.is_unfinished(),
                "ending": listed.ending, "cluster": head.map(|head| &head.cluster),
                "operation": head.map(|head| &head.operation), "made": head.map(|head| head.made),
                "title": head.map(|head| &head.title), "nodes": listed.places,
                "fault": listed.fault.as_ref().map(|(place, why)| format!("{place}: {why}")),
            })
        })
        .collect();
    output.result(&rows, || table(&plans, output.width()));
    for listed in &plans {
        if let Some((place, why)) = &listed.fault {
            output.complaint(&printable(&format!("damaged: {} on {place}: {why}", listed.id)));
        }
    }
    for error in &missing {
        let hint = error.hint.as_ref().map_or_else(String::new, |hint| format!(" ({hint})"));
        output.complaint(&format!("not read: {}", printable(&format!("{error}{hint}"))));
    }
    Ok(match (plans.iter().any(|listed| listed.fault.is_some()), missing.is_empty()) {
        (true, _) => Exit::Corrupt,
        (false, true) => Exit::Ok,
        (false, false) => Exit::Partial,
    })
}

fn table(plans: &[Listed], width: Option<usize>) -> String {
    if plans.is_empty() {
        return "no plans\n".to_owned();
    }
    let mut table = Table::new(&[
        ("PLAN", Align::Left, 0),
        ("MADE (UTC)", Align::Left, 2),
        ("STATE", Align::Left, 0),
        ("NODES", Align::Left, 3),
        ("WHAT", Align::Left, 1),
    ]);
    for listed in plans {
        let nodes: Vec<&str> = listed.places.iter().map(|place| place.as_str()).collect();
        let (made, what) = match &listed.head {
            Ok(head) => (time_utc(head.made), printable(&head.title)),
            Err(fault) => ("-".to_owned(), printable(&fault.to_string())),
        };
        let state = state_of(listed).to_owned();
        table.row(vec![listed.id.to_string(), made, state, nodes.join(","), what]);
    }
    table.render(width)
}

pub(crate) async fn show(
    args: JournalShowArgs,
    typed: &Typed,
    output: &Output,
    setup: &Setup,
) -> Result<Exit, Failure> {
    let Found { history, .. } = find(setup, &args.keepers, &args.id, None, typed, output).await?;
    let missing: Vec<String> = history.missing.iter().map(ToString::to_string).collect();
    let value = serde_json::json!({
        "plan": history.plan, "records": history.records, "ending": history.ending,
        "unfinished": history.is_unfinished(), "missing": missing,
    });
    output.result(&value, || details(&history, typed, output.width()));
    for error in &missing {
        output.complaint(&format!("not read: {}", printable(error)));
    }
    Ok(if missing.is_empty() { Exit::Ok } else { Exit::Partial })
}

fn details(history: &History<Step>, typed: &Typed, width: Option<usize>) -> String {
    let id = history.plan.id;
    let mut text = shown(&history.plan, width);
    text.push('\n');
    let mut table = Table::new(&[
        ("STEP", Align::Left, 0),
        ("WHERE", Align::Left, 0),
        ("STATE", Align::Left, 0),
    ]);
    for (step, about) in history.plan.steps() {
        let nodes = crate::operation::returning::nodes_of_step(about).join(" ");
        table.row(vec![step.to_string(), nodes, state(history.state(step))]);
    }
    text.push_str(&table.render(width));
    text.push('\n');
    for run in &history.runs {
        let begun = history.records.iter().find(|record| record.sequence.run == run.number);
        let at = begun.map_or_else(String::new, |record| time_utc(record.time));
        let way = match run.direction {
            Direction::Apply => "forward",
            Direction::Undo => "back",
        };
        let owner = printable(&run.owner.to_string());
        let _ = writeln!(text, "  run {}  {at}  {way}  by {owner}", run.number);
    }
    match history.ending {
        Some(Ending::RolledBack) => text.push_str("  rolled back\n"),
        Some(Ending::Applied) => {
            let _ = writeln!(text, "  done\n  go back:  {}", typed.command("rollback", id));
        }
        None if history.runs.is_empty() => text.push_str("  never begun\n"),
        None => {
            text.push_str("  UNFINISHED, unless it runs right now\n");
            let _ = writeln!(text, "  go on:    {}", typed.command("resume", id));
            let _ = writeln!(text, "  go back:  {}", typed.command("rollback", id));
        }
    }
    text
}

/// How far a step is, for people.
fn state(state: &StepState) -> String {
    match state {
        StepState::Pending => "not begun".to_owned(),
        StepState::Doubt(Direction::Apply) => "begun; not known whether done".to_owned(),
        StepState::Doubt(Direction::Undo) => "on its way back; not known how far".to_owned(),
        StepState::Applied(outputs) if outputs.is_empty() => "done".to_owned(),
        StepState::Applied(outputs) => {
            let given = outputs.iter().map(|(name, value)| format!("{name} {value}"));
            printable(&format!("done: {}", given.collect::<Vec<_>>().join(", ")))
        }
        StepState::Undone => "taken back".to_owned(),
        StepState::Failed { direction: Direction::Apply, why, .. } => {
            format!("FAILED: {}", printable(why))
        }
        StepState::Failed { direction: Direction::Undo, why, .. } => {
            format!("NOT TAKEN BACK: {}", printable(why))
        }
    }
}

pub(crate) async fn resume(
    args: ResumeArgs,
    typed: &Typed,
    output: &Output,
    setup: &Setup,
) -> Result<Exit, Failure> {
    let halt = Halt::listen()?;
    let preparing = async {
        let without = Some(&args.without[..]);
        let found = find(setup, &args.keepers, &args.id, without, typed, output).await?;
        let plan = &found.history.plan;
        let choice = setup.choose(Some(&plan.cluster))?;
        let with = &args.with;
        if !plan.steps().any(|(_, step)| step.needs_vault()) {
            let live = live(&choice, &with.connection, Some(&found.nodes), output).await?;
            let contents: Arc<dyn Contents> = Arc::new(live);
            return Ok((found, contents));
        }
        let connection = choice.connection_if_any(&with.connection.raw()).await?;
        let settings = reach(connection, output).await?;
        let repository = open_vault(&with.vault, Some(&with.keys), &choice, output).await?;
        let look = with.options(&choice, &[]);
        let connector = connector(&settings, &found.nodes, output).await?;
        let contents = contents(
            Arc::new(repository),
            &found.nodes,
            &plan.cluster,
            connector,
            settings,
            look,
            output,
        )?;
        Ok((found, contents))
    };
    let (Found { nodes, history }, contents) = halt.or(preparing).await?;
    let owner = plan::owner(setup);
    let of = of(setup, &history, &args.without);
    let options = Options { of, ..options(args.take_over_lock, &args.without)? };
    let engine = engine(&nodes, Some(contents), options, owner, &halt, output)?;
    let ran = halt.run(output, engine.resume::<Step>(history.plan.id)).await;
    if let Err(RunError::Ended { id, ending: Ending::Applied }) = ran {
        return Ok(was_so(id, "applied", output));
    }
    let report = ran.map_err(|error| not_begun(error, typed))?;
    ended(&report, &history.plan, &[], typed, &halt, output)
}

pub(crate) async fn rollback(
    args: RollbackArgs,
    typed: &Typed,
    output: &Output,
    setup: &Setup,
) -> Result<Exit, Failure> {
    let halt = Halt::listen()?;
    let finding = async {
        let without = Some(&args.without[..]);
        let found = find(setup, &args.keepers, &args.id, without, typed, output).await?;
        let plan = &found.history.plan;
        let contents: Option<Arc<dyn Contents>> = match plan
            .steps()
            .any(|(_, step)| step.needs_cluster())
        {
            true => {
                let choice = setup.choose(Some(&plan.cluster))?;
                Some(Arc::new(live(&choice, &args.connection, Some(&found.nodes), output).await?))
            }
            false => None,
        };
        Ok((found, contents))
    };
    let (Found { nodes, history }, contents) = halt.or(finding).await?;
    let owner = plan::owner(setup);
    let of = of(setup, &history, &args.without);
    let options = Options { of, ..options(args.take_over_lock, &args.without)? };
    let engine = engine(&nodes, contents, options, owner, &halt, output)?;
    let ran = halt.run(output, engine.rollback::<Step>(history.plan.id)).await;
    if let Err(RunError::Ended { id, ending: Ending::RolledBack }) = ran {
        return Ok(was_so(id, "rolled-back", output));
    }
    let report = ran.map_err(|error| not_begun(error, typed))?;
    ended(&report, &history.plan, &[], typed, &halt, output)
}

/// What was asked for stands already: typed twice, or the connection was lost after the
/// last step and before that was on record everywhere.
fn was_so(id: PlanId, ending: &str, output: &Output) -> Exit {
    let value = serde_json::json!({ "plan": id, "ending": ending, "was_so": true });
    output.result(&value, || {
        let ending = ending.replace('-', " ");
        format!("plan {id} was {ending} before: there was nothing left to do\n")
    });
    Exit::Ok
}

/// Among how many nodes the lock needs more than half: the configured ones of the plan's
/// cluster that were not left out. A plan that was begun with fewer goes on with its own.
fn of(setup: &Setup, history: &History<Step>, without: &[String]) -> usize {
    let plan = &history.plan;
    let configured = setup.choose(Some(&plan.cluster)).ok().map_or(0, |choice| {
        let nodes = choice.entry().map_or(&[][..], |(_, cluster)| &cluster.nodes);
        nodes.iter().filter(|name| !without.contains(name)).count()
    });
    let own = plan.nodes.iter().filter(|place| !without.iter().any(|n| n == place.as_str()));
    if own.count() * 2 > configured { configured } else { 0 }
}

/// What was decided about a run.
pub(crate) fn options(take_over_lock: bool, without: &[String]) -> Result<Options, Failure> {
    let places = without.iter().map(|name| Place::new(name.as_str()));
    let without: Result<_, _> = places.collect();
    let without = without.map_err(|error| Failure::new(FailureKind::Usage, error.to_string()))?;
    Ok(Options { take_over_lock, without, ..Options::default() })
}

/// All that a run needs beside the plan.
pub(crate) fn engine(
    nodes: &[Arc<dyn Node>],
    contents: Option<Arc<dyn Contents>>,
    options: Options,
    owner: Owner,
    halt: &Halt,
    output: &Output,
) -> Result<Engine<World>, Failure> {
    let places = places(nodes)?;
    let named = nodes.iter().map(|node| (node.name().to_string(), node.clone()));
    let nodes: BTreeMap<_, _> = named.collect();
    Ok(Engine {
        world: Arc::new(World { nodes, contents }),
        journals: journal::stores(&places),
        locks: journal::locks(&places),
        owner,
        events: output.events(),
        stop: halt.stop.clone(),
        clock: Clock::system(),
        options,
    })
}
