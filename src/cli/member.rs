//! `etcdvault member`: list, add, remove, repair, promote, update.

use std::net::IpAddr;
use std::sync::Arc;

use clap::{Args, Subcommand};

use super::args::ConnectionArgs;
use super::exit_code::Exit;
use super::human::{count, printable, size};
use super::journal::{engine, options};
use super::output::Output;
use super::plan::{self, Halt};
use super::returning::majority;
use super::settings::{connector, reach};
use super::table::{Align, Table};
use super::ways::Typed;
use crate::config::{Choice, Setup};
use crate::operation::journal::{Options, Plan};
use crate::operation::member::list::{self, MemberRow, MembersReport, NodeAt};
use crate::operation::member::live::Live;
use crate::operation::member::prepare::{self, AddOptions, Field, UpdateOptions};
use crate::operation::member::{direct, kept};
use crate::operation::returning::{Step, checks};
use crate::operation::state::nodes;
use crate::operation::step::Contents;
use crate::operation::vocabulary::Node;
use crate::operation::{Failure, FailureKind};
use crate::types::Endpoint;

/// The members of the live cluster: list them, take one out, bring one in
///
/// What changes them is shown first, with what the quorum is before and after: a change
/// that would leave the cluster without one is refused.
#[derive(Debug, Subcommand)]
pub(crate) enum MemberCommand {
    List(Box<MemberListArgs>),
    Add(Box<MemberAddArgs>),
    Remove(Box<MemberRemoveArgs>),
    Repair(Box<MemberRepairArgs>),
    Promote(Box<MemberPromoteArgs>),
    Update(Box<MemberUpdateArgs>),
}

/// List the members, what each says of itself, and on which configured node it is
///
/// A member that does not answer is a row with its error (exit code 3); when no member
/// answers the exit code is 30.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    etcdvault member list\n  \
    etcdvault member list --json | jq -r '.members[] | select(.learner) | .name'")]
pub(crate) struct MemberListArgs {
    /// The cluster, as etcdvault.toml names it [env: ETCDVAULT_CLUSTER]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// What every change takes.
#[derive(Debug, Args)]
pub(crate) struct ChangeArgs {
    /// Show the plan and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the plan as stock commands and change nothing
    #[arg(long)]
    as_shell: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Take the cluster's lock from an owner that gives no sign of life for 25 seconds
    #[arg(long)]
    take_over_lock: bool,
    /// Go on although no more than half of the cluster's nodes answer: whether somebody
    /// else is at work on the others is then not known
    #[arg(long)]
    without_majority: bool,
    /// The cluster, as etcdvault.toml names it [env: ETCDVAULT_CLUSTER]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Bring a node into the cluster as a new member
///
/// The node has etcd installed with its unit, and where the others speak TLS its
/// certificates and their settings. Name, addresses and the cluster are set where its own
/// files say them: environment file, unit or YAML. Then it is listed, started, and gets
/// its vote when it is in step. Where the cluster's etcd loses promotions (3.5.1 to
/// 3.5.19) it joins with a vote at once.
///
/// Data of another cluster on the node is in the way: --set-data-aside renames and keeps
/// it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    etcdvault member add n3 --dry-run\n  \
    etcdvault member add n3 --address 10.0.0.13 --set-data-aside --yes")]
pub(crate) struct MemberAddArgs {
    /// The node, as etcdvault.toml names it
    #[arg(value_name = "NODE")]
    node: String,
    /// The member's name [default: as its settings say, else the node's]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Where the other members reach it [default: as its settings say, else the only
    /// address of the node]
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// Rename what data there is on the node, and keep it
    #[arg(long)]
    set_data_aside: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Take a member out of the cluster for good
///
/// Also one that never started, or whose machine is gone. Where its node is configured
/// etcd is stopped and disabled there, and its data is renamed and kept. A removed member
/// never comes back on its data: `member add` brings a new one.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    etcdvault member remove n3 --dry-run\n  \
    etcdvault member remove 8e9e05c52164694d --yes")]
pub(crate) struct MemberRemoveArgs {
    /// Its name, or its id
    #[arg(value_name = "MEMBER")]
    member: String,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Have a member begin anew: damaged data, or none
///
/// It hands over where it leads, is stopped and taken out, its data is renamed and kept;
/// it joins again under its name and address, gets all data from the others, and its vote
/// when it is in step. Clients of the others go on meanwhile.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    etcdvault member repair n3 --dry-run\n  \
    etcdvault member repair n3 --yes")]
pub(crate) struct MemberRepairArgs {
    /// Its node, or the member by name or id
    #[arg(value_name = "NODE")]
    node: String,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Give a learner its vote
///
/// Waits until it is in step, and asks the learner itself: some etcd give a vote to one
/// that never ran.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  etcdvault member promote n3")]
pub(crate) struct MemberPromoteArgs {
    /// Its name, or its id
    #[arg(value_name = "MEMBER")]
    member: String,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Have peers reach a member at another address
///
/// As after its first start with defaults, when it is known as http://localhost:2380 and
/// nobody can join it. Where its node is configured its own settings are set, too, and it
/// is restarted; where clients reach it and what it is called can be set with that.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    etcdvault member update n1 --peer-urls http://10.0.0.11:2380\n  \
    etcdvault member update default --name n1 --peer-urls http://10.0.0.11:2380 \\\n    \
      --client-urls http://10.0.0.11:2379")]
pub(crate) struct MemberUpdateArgs {
    /// Its name, or its id
    #[arg(value_name = "MEMBER")]
    member: String,
    /// Where peers are to reach it
    #[arg(long, value_name = "URL,…", value_delimiter = ',', required = true)]
    peer_urls: Vec<String>,
    /// Where clients are to reach it [default: as it is]
    #[arg(long, value_name = "URL,…", value_delimiter = ',')]
    client_urls: Vec<String>,
    /// What it is to be called [default: as it is]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// On which node it is, where that is not clear
    #[arg(long = "on", value_name = "NODE")]
    on: Option<String>,
    #[command(flatten)]
    change: ChangeArgs,
}

/// The nodes of the cluster's configuration.
fn configured(choice: &Choice<'_>) -> Vec<String> {
    choice.entry().map_or_else(Vec::new, |(_, cluster)| cluster.nodes.clone())
}

pub(crate) async fn list(
    args: Box<MemberListArgs>,
    output: &Output,
    setup: &Setup,
) -> Result<Exit, Failure> {
    let choice = setup.choose(args.cluster.as_deref())?;
    let Live { connector, connection } = live(&choice, &args.connection, None, output).await?;
    let sections = choice.file().map(|file| &file.config.nodes);
    let nodes = configured(&choice).into_iter().map(|name| {
        let section = sections.and_then(|nodes| nodes.get(&name));
        let address = section.and_then(|node| node.address.clone());
        NodeAt { name, address }
    });
    let nodes: Vec<NodeAt> = nodes.collect();
    let asking = list::list(&connector, &connection, &nodes);
    let report = output.waiting("asking the members", asking).await?;
    output.result(&report, || text(&report, output.width()));
    Ok(if report.is_complete() { Exit::Ok } else { Exit::Partial })
}

fn text(report: &MembersReport, width: Option<usize>) -> String {
    let mut table = Table::new(&[
        ("NAME", Align::Left, 0),
        ("ID", Align::Left, 0),
        ("NODE", Align::Left, 5),
        ("PEERS", Align::Left, 6),
        ("CLIENTS", Align::Left, 7),
        ("ROLE", Align::Left, 0),
        ("VERSION", Align::Left, 2),
        ("DB SIZE", Align::Right, 1),
        ("IN USE", Align::Right, 3),
        ("REVISION", Align::Right, 4),
        ("BEHIND", Align::Right, 0),
        ("TROUBLE", Align::Left, 0),
    ]);
    for member in &report.members {
        table.row(row(member));
    }
    let mut text = table.render(width);
    text.push_str(&report.summary);
    text.push('\n');
    for advice in &report.advice {
        text.push_str(&format!("{}\n  hint: {}\n", printable(&advice.problem), advice.hint));
    }
    text
}

fn row(member: &MemberRow) -> Vec<String> {
    let none = || "-".to_owned();
    let words = |words: &[String]| match words.is_empty() {
        true => "-".to_owned(),
        false => printable(&words.join(",")),
    };
    let role = match (member.leader, member.learner) {
        (true, _) => "leader",
        (_, true) => "learner",
        _ if member.id.is_none() => "-",
        _ => "voter",
    };
    let used = member.db_size_in_use.zip(member.db_size).filter(|(_, size)| *size > 0);
    let mut trouble: Vec<String> = member.alarms.clone();
    trouble.extend(member.error.clone());
    vec![
        member.name.as_deref().map_or_else(none, printable),
        member.id.map_or_else(none, |id| id.to_string()),
        member.node.as_deref().map_or_else(none, printable),
        words(&member.peer_urls),
        words(&member.client_urls),
        role.to_owned(),
        member.version.as_deref().map_or_else(none, printable),
        member.db_size.map_or_else(none, size),
        used.map_or_else(none, |(used, size)| {
            format!("{:.0} %", 100.0 * used as f64 / size as f64)
        }),
        member.revision.map_or_else(none, count),
        member.behind.map_or_else(none, count),
        printable(&trouble.join("; ")),
    ]
}

/// All that a change needs, connected to.
struct Reached {
    cluster: String,
    live: Arc<Live>,
    nodes: Vec<Arc<dyn Node>>,
    lost: Vec<(String, String)>,
    /// How many nodes the configuration gives the cluster, and how many of them answer.
    of: usize,
    there: usize,
}

impl Reached {
    fn field(&self) -> Field<'_> {
        Field {
            live: &self.live,
            cluster: self.cluster.clone(),
            nodes: self.nodes.clone(),
            lost: self.lost.clone(),
        }
    }
}

/// The way to the members alone. Where nothing says with which certificates, those on the
/// configured nodes are taken: `nodes`, or where they are not connected to yet, all that
/// answer.
pub(crate) async fn live(
    choice: &Choice<'_>,
    connection: &ConnectionArgs,
    nodes: Option<&[Arc<dyn Node>]>,
    output: &Output,
) -> Result<Live, Failure> {
    let settings = reach(choice.connection(&connection.raw()).await?, output).await?;
    let without = settings.ca_file.is_none() && settings.cert_file.is_none();
    let tls = settings.endpoints.iter().any(Endpoint::is_tls);
    let names = configured(choice);
    let own = match nodes {
        None if without && tls && !names.is_empty() => {
            output.waiting("connecting", nodes::each(choice, &names)).await?
        }
        _ => Vec::new(),
    };
    let connector = connector(&settings, nodes.unwrap_or(&own), output).await?;
    Ok(Live { connector, connection: settings })
}

/// Connects to the members and to the configured nodes, and `more`.
async fn reached(
    setup: &Setup,
    change: &ChangeArgs,
    more: Option<&str>,
    output: &Output,
) -> Result<Reached, Failure> {
    let choice = setup.choose(change.cluster.as_deref())?;
    let configured = configured(&choice);
    let mut names = configured.clone();
    names.extend(more.filter(|name| !names.iter().any(|it| it == name)).map(str::to_owned));
    let all = match names.is_empty() {
        true => Vec::new(),
        false => output.waiting("connecting", nodes::each(&choice, &names)).await?,
    };
    let (mut nodes, mut lost) = (Vec::new(), Vec::new());
    for node in all {
        match node.facts().await {
            Ok(_) => nodes.push(node),
            Err(error) => lost.push((node.name().to_string(), error.to_string())),
        }
    }
    for (name, why) in &lost {
        output.complaint(&format!("warning: {name} keeps no journal: {}", printable(why)));
    }
    let live = Arc::new(live(&choice, &change.connection, Some(&nodes), output).await?);
    let cluster = choice.meant().map_or_else(|| "etcd".to_owned(), ToString::to_string);
    let is_configured =
        |node: &&Arc<dyn Node>| configured.iter().any(|name| name == node.name().as_str());
    let (of, there) = (configured.len(), nodes.iter().filter(is_configured).count());
    Ok(Reached { cluster, live, nodes, lost, of, there })
}

pub(crate) async fn change(
    command: MemberCommand,
    typed: &Typed,
    output: &Output,
    setup: &Setup,
) -> Result<Exit, Failure> {
    let halt = Halt::listen()?;
    let preparing = async {
        Ok(match command {
            MemberCommand::List(_) => {
                return Err(Failure::new(FailureKind::Error, "a list changes nothing"));
            }
            MemberCommand::Add(args) => {
                let reached = reached(setup, &args.change, Some(&args.node), output).await?;
                let options = AddOptions {
                    node: args.node,
                    name: args.name,
                    address: args.address,
                    set_data_aside: args.set_data_aside,
                };
                let field = reached.field();
                let plan = output.waiting("looking", prepare::add(&field, &options)).await?;
                (args.change, reached, plan)
            }
            MemberCommand::Remove(args) => {
                let reached = reached(setup, &args.change, None, output).await?;
                let field = reached.field();
                let plan = output.waiting("looking", prepare::remove(&field, &args.member)).await?;
                (args.change, reached, plan)
            }
            MemberCommand::Repair(args) => {
                let reached = reached(setup, &args.change, None, output).await?;
                let field = reached.field();
                let plan = output.waiting("looking", prepare::repair(&field, &args.node)).await?;
                (args.change, reached, plan)
            }
            MemberCommand::Promote(args) => {
                let reached = reached(setup, &args.change, None, output).await?;
                let field = reached.field();
                let plan =
                    output.waiting("looking", prepare::promote(&field, &args.member)).await?;
                (args.change, reached, plan)
            }
            MemberCommand::Update(args) => {
                let reached = reached(setup, &args.change, None, output).await?;
                let options = UpdateOptions {
                    member: args.member,
                    node: args.on,
                    peer_urls: args.peer_urls,
                    client_urls: args.client_urls,
                    name: args.name,
                };
                let field = reached.field();
                let plan = output.waiting("looking", prepare::update(&field, &options)).await?;
                (args.change, reached, plan)
            }
        })
    };
    let (args, reached, made): (ChangeArgs, Reached, Plan<Step>) = halt.or(preparing).await?;
    if args.as_shell {
        output.text(&plan::shell(&made, setup));
        return Ok(Exit::Ok);
    }
    if args.dry_run {
        output.result(&made, || plan::shown(&made, output.width()));
        return Ok(Exit::Ok);
    }
    // Where no node is configured nobody could keep a lock.
    if !made.nodes.is_empty() && !args.without_majority {
        majority(reached.of, reached.there, &reached.cluster, "nothing was changed")?;
    }
    plan::confirmed(&made, args.yes, &halt, output).await?;
    if made.nodes.is_empty() {
        return without_nodes(&made, reached.live, output, &halt).await;
    }
    let contents: Arc<dyn Contents> = reached.live;
    let owner = plan::owner(setup);
    let of = if args.without_majority { 0 } else { reached.of };
    let options = Options { of, ..options(args.take_over_lock, &[])? };
    let engine = engine(&reached.nodes, Some(contents), options, owner, &halt, output)?;
    let ran = halt.run(output, engine.execute(&made)).await;
    let report = ran.map_err(|error| plan::not_begun(error, typed))?;
    let exit = plan::ended(&report, &made, &[], typed, &halt, output)?;
    for (node, path) in kept(&made) {
        let path = printable(&path.display().to_string());
        output.note(&format!("kept: {path} on {node}; when all is well: rm -r {path}"));
    }
    Ok(exit)
}

/// A plan of calls to the cluster alone, where no node is configured.
async fn without_nodes(
    made: &Plan<Step>,
    live: Arc<Live>,
    output: &Output,
    halt: &Halt,
) -> Result<Exit, Failure> {
    let events = output.events();
    let running = direct::run(made, live, &events, &halt.stop);
    if let Some(step) = halt.run(output, running).await? {
        let what = format!("stopped before step {step}");
        return Err(Failure::new(FailureKind::Signal(halt.number()), what)
            .state("the steps before it are done")
            .hint("the same command goes on: it looks what is left to do"));
    }
    let verified = checks(made);
    let value = serde_json::json!({ "plan": null, "ending": "applied", "verified": verified });
    output.result(&value, || {
        let mut text = format!("{}: done\n", printable(&made.title));
        for line in &verified {
            text.push_str(&format!("  verified   {}\n", printable(line)));
        }
        text
    });
    Ok(Exit::Ok)
}
