//! `etcdvault journal`, `resume` and `rollback`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use clap::{Args, Subcommand};

use super::args::{ConnectionArgs, KeyArgs, VaultArgs};
use super::exit_code::Exit;
use super::human::{printable, time_utc};
use super::output::Output;
use super::plan::{ended, events, not_begun, owner, shown, stop};
use super::settings::{connector, open_vault, reach};
use super::state::contents;
use crate::config::Setup;
use crate::operation::journal::{self, Clock, Engine, Options, PlanId};
use crate::operation::returning::{Step, World};
use crate::operation::state::nodes;
use crate::operation::{Failure, FailureKind};

/// Plans that were begun: list them, show one
#[derive(Debug, Subcommand)]
pub(crate) enum JournalCommand {
    List(JournalListArgs),
    Show(JournalShowArgs),
}

/// List the plans in the journals of the nodes
#[derive(Debug, Args)]
pub(crate) struct JournalListArgs {
    /// A node [default: this machine]
    #[arg(long = "node", value_name = "NAME")]
    nodes: Vec<String>,
}

/// Show a plan and how far its steps are
#[derive(Debug, Args)]
pub(crate) struct JournalShowArgs {
    /// The plan's id
    #[arg(value_name = "ID")]
    id: String,
    /// A node [default: this machine]
    #[arg(long = "node", value_name = "NAME")]
    nodes: Vec<String>,
}

/// Go on with a plan that was stopped, failed or killed
#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    /// The plan's id
    #[arg(value_name = "ID")]
    id: String,
    /// A node [default: this machine]
    #[arg(long = "node", value_name = "NAME")]
    nodes: Vec<String>,
    /// Take the cluster's lock from an owner that gives no sign of life
    #[arg(long)]
    take_over_lock: bool,
    /// Store private keys readable for everybody with access to the vault
    #[arg(long)]
    allow_unencrypted: bool,
    #[command(flatten)]
    vault: VaultArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    keys: KeyArgs,
}

/// Take a plan back to where it began
///
/// Needs the nodes alone, no vault.
#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// The plan's id
    #[arg(value_name = "ID")]
    id: String,
    /// A node [default: this machine]
    #[arg(long = "node", value_name = "NAME")]
    nodes: Vec<String>,
    /// Take the cluster's lock from an owner that gives no sign of life
    #[arg(long)]
    take_over_lock: bool,
}

fn parse(id: &str) -> Result<PlanId, Failure> {
    id.parse().map_err(|error| Failure::new(FailureKind::Usage, format!("{error}")))
}

fn places(
    nodes: &[Arc<dyn crate::operation::journal::Node>],
) -> Result<Vec<Arc<journal::NodePlace>>, Failure> {
    journal::places(nodes).map_err(|error| Failure::new(FailureKind::Usage, error.to_string()))
}

pub(crate) async fn list(
    args: JournalListArgs,
    output: &Output,
    setup: &Setup,
) -> Result<Exit, Failure> {
    let choice = setup.choose(None)?;
    let places = places(&nodes::named(&choice, &args.nodes).await?)?;
    let (plans, missing) = journal::list(&journal::stores(&places)).await;
    let rows: Vec<serde_json::Value> = plans
        .iter()
        .map(|listed| {
            let head = listed.head.as_ref().ok();
            serde_json::json!({
                "id": listed.id, "begun": listed.begun, "unfinished": listed.is_unfinished(),
                "ending": listed.ending, "cluster": head.map(|head| &head.cluster),
                "operation": head.map(|head| &head.operation), "made": head.map(|head| head.made),
                "nodes": listed.places,
            })
        })
        .collect();
    output.result(&rows, || {
        let mut text = String::new();
        for listed in &plans {
            let state = if listed.is_unfinished() { "UNFINISHED" } else { "ended" };
            let about = listed.head.as_ref().map_or_else(
                |fault| printable(&fault.to_string()),
                |head| format!("{}  {}", time_utc(head.made), printable(&head.title)),
            );
            let _ = writeln!(text, "{}  {state}  {about}", listed.id);
        }
        if text.is_empty() { "no plans\n".to_owned() } else { text }
    });
    for error in &missing {
        output.complaint(&format!("not read: {}", printable(&error.to_string())));
    }
    Ok(if missing.is_empty() { Exit::Ok } else { Exit::Partial })
}

pub(crate) async fn show(
    args: JournalShowArgs,
    output: &Output,
    setup: &Setup,
) -> Result<Exit, Failure> {
    let choice = setup.choose(None)?;
    let places = places(&nodes::named(&choice, &args.nodes).await?)?;
    let history = journal::load::<Step>(&journal::stores(&places), parse(&args.id)?)
        .await
        .map_err(|error| not_begun(error.into()))?;
    let value = serde_json::json!({ "plan": history.plan, "records": history.records });
    output.result(&value, || {
        let mut text = shown(&history.plan, output.width());
        text.push('\n');
        for (id, state) in &history.steps {
            let _ = writeln!(text, "  {id}  {}", printable(&format!("{state:?}")));
        }
        text
    });
    Ok(Exit::Ok)
}

pub(crate) async fn resume(
    args: ResumeArgs,
    output: &Output,
    setup: &Setup,
) -> Result<Exit, Failure> {
    let id = parse(&args.id)?;
    let choice = setup.choose(None)?;
    let named = nodes::named(&choice, &args.nodes).await?;
    let history = journal::load::<Step>(&journal::stores(&places(&named)?), id)
        .await
        .map_err(|error| not_begun(error.into()))?;
    let choice = setup.choose(Some(&history.plan.cluster))?;
    let settings = reach(choice.connection(&args.connection.raw()).await?, output).await?;
    let repository = open_vault(&args.vault, Some(&args.keys), &choice, output).await?;
    let look = super::state::look_options(Vec::new(), args.allow_unencrypted);
    let cluster = &history.plan.cluster;
    let connector = connector(&settings, &named, output).await?;
    let contents =
        contents(Arc::new(repository), &named, cluster, connector, settings, look, output)?;
    let engine = engine(&named, Some(contents), args.take_over_lock, output)?;
    let report = engine.resume::<Step>(id).await.map_err(not_begun)?;
    ended(&report, output)
}

pub(crate) async fn rollback(
    args: RollbackArgs,
    output: &Output,
    setup: &Setup,
) -> Result<Exit, Failure> {
    let choice = setup.choose(None)?;
    let named = nodes::named(&choice, &args.nodes).await?;
    let engine = engine(&named, None, args.take_over_lock, output)?;
    let report = engine.rollback::<Step>(parse(&args.id)?).await.map_err(not_begun)?;
    ended(&report, output)
}

/// All that a run needs beside the plan.
pub(crate) fn engine(
    nodes: &[Arc<dyn crate::operation::journal::Node>],
    contents: Option<Arc<dyn crate::operation::step::Contents>>,
    take_over_lock: bool,
    output: &Output,
) -> Result<Engine<World>, Failure> {
    let places = places(nodes)?;
    let named = nodes.iter().map(|node| (node.name().to_string(), node.clone()));
    let nodes: BTreeMap<_, _> = named.collect();
    Ok(Engine {
        world: Arc::new(World { nodes, contents }),
        journals: journal::stores(&places),
        locks: journal::locks(&places),
        owner: owner(),
        events: events(output),
        stop: stop()?,
        clock: Clock::system(),
        options: Options { take_over_lock, ..Options::default() },
    })
}
