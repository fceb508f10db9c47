//! `etcdvault state return`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::exit_code::Exit;
use super::human::printable;
use super::journal::{engine, options};
use super::output::Output;
use super::plan::{self, Halt};
use super::settings::{connector, find_state, open_vault, reach};
use super::state::StateArgs;
use super::ways::Typed;
use crate::config::{Choice, Setup};
use crate::event::Events;
use crate::operation::journal::Options;
use crate::operation::returning::vaulted::Vaulted;
use crate::operation::returning::{self, ReturnOptions};
use crate::operation::state::nodes;
use crate::operation::state::save::{SaveOptions, check_encryption};
use crate::operation::step::Contents;
use crate::operation::vocabulary::{Connector, Node, NodeName, Repository};
use crate::operation::{Failure, FailureKind};
use crate::types::ConnectionSettings;

/// Set nodes up again as a state has them
///
/// Shows a plan first: services whose files differ are stopped, files are set with their
/// owners and modes, what the state did not have is set aside, services are started and
/// checked. The present state is stored before, and can be returned to in the same way.
/// A plan that was stopped or killed goes on with `resume`, and back with `rollback`, also
/// from another machine.
///
/// Data is left alone, or with --only data returned as a whole: every member's directory
/// is built from the snapshot in the state beside the present one, or unpacked from the
/// copies that a state of stopped members holds; all members are stopped, directories are
/// renamed, all are started and compared. Never one member's alone. What was written after
/// the state is lost to the cluster, and kept on the nodes.
///
/// latest is the newest state that was saved on purpose: those that plans store before
/// they change nodes are named by their ids.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    etcdvault state return latest --vault /srv/etcd-vault --identity-file identity.txt --dry-run\n  \
    etcdvault state return 01JD2Y6Q --node k1 --yes\n  \
    etcdvault state return 01JD2Y6Q --only data --dry-run")]
pub(crate) struct StateReturnArgs {
    /// An id or its start, latest, or a time (the newest before it)
    #[arg(value_name = "STATE")]
    state: String,
    /// Only this node [default: all of the state]
    #[arg(long = "node", value_name = "NAME")]
    nodes: Vec<String>,
    /// What is returned
    #[arg(long, value_enum, default_value_t = Only::Config, value_name = "WHAT")]
    only: Only,
    /// Show the plan and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the plan as stock commands and change nothing
    #[arg(long)]
    as_shell: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Do not store the present state first
    #[arg(long)]
    no_save: bool,
    /// Set the files although members, addresses or versions are not those of the state
    #[arg(long)]
    force_topology: bool,
    /// Take the cluster's lock from an owner that gives no sign of life for 25 seconds
    #[arg(long)]
    take_over_lock: bool,
    /// Go on although no more than half of the cluster's nodes answer: whether somebody
    /// else is at work on the others is then not known
    #[arg(long)]
    without_majority: bool,
    /// A file or directory beside what is found, as `state save --path` took it
    #[arg(long = "path", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Only this cluster [env: ETCDVAULT_CLUSTER]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    #[command(flatten)]
    with: StateArgs,
}

/// What of a state is returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Only {
    /// Files of configuration
    Config,
    /// The data of all members, from the snapshot or the copies in the state
    Data,
}

/// The vault as steps need it.
pub(crate) fn contents(
    repository: Arc<Repository>,
    nodes: &[Arc<dyn Node>],
    cluster: &str,
    connector: Connector,
    connection: ConnectionSettings,
    options: SaveOptions,
    output: &Output,
) -> Result<Arc<dyn Contents>, Failure> {
    let named = nodes.iter().map(|node| (node.name().to_string(), node.clone())).collect();
    let events = output.events();
    let vaulted = Vaulted::new(repository, named, cluster, connector, connection, options, events)?;
    Ok(Arc::new(vaulted))
}

/// The other nodes of the cluster: they keep the journal and the lock, too, so that two
/// operations on different nodes of one cluster know of each other.
pub(crate) struct Keepers {
    pub(crate) nodes: Vec<Arc<dyn Node>>,
    /// How many nodes the configuration gives the cluster, and how many of them answer.
    pub(crate) of: usize,
    there: usize,
}

impl Keepers {
    /// Of two operators who reach different nodes at most one has more than half.
    pub(crate) fn check(&self, what: &str, cluster: &str) -> Result<(), Failure> {
        majority(self.of, self.there, cluster, what)
    }
}

/// Of two operators who reach different nodes at most one has more than half: `of` nodes
/// are configured, and `there` of them answer.
pub(super) fn majority(of: usize, there: usize, cluster: &str, what: &str) -> Result<(), Failure> {
    if of == 0 || there * 2 > of {
        return Ok(());
    }
    let what = format!("{what}: {there} of the {of} nodes of {cluster} answer");
    Err(Failure::new(FailureKind::Error, what)
        .because("somebody else could be at work on the others, and not be known of")
        .state("the nodes are as they were")
        .hint(
            "make more than half of them reachable; where the others are gone, the same command \
             with --without-majority",
        ))
}

pub(crate) async fn keepers(
    choice: &Choice<'_>,
    nodes: &[Arc<dyn Node>],
    dead: &[NodeName],
    output: &Output,
) -> Result<Keepers, Failure> {
    let of_cluster = choice.entry().map_or(&[][..], |(_, cluster)| &cluster.nodes);
    let is = |node: &NodeName, name: &&String| node.as_str() == **name;
    let is_there = |name: &&String| nodes.iter().any(|node| is(node.name(), name));
    let is_dead = |name: &&String| dead.iter().any(|node| is(node, name));
    let there = of_cluster.iter().filter(is_there).count();
    let others = of_cluster.iter().filter(|name| !is_there(name) && !is_dead(name));
    let others: Vec<String> = others.cloned().collect();
    let of = of_cluster.len();
    let mut keepers = Vec::new();
    if others.is_empty() {
        return Ok(Keepers { nodes: keepers, of, there });
    }
    for node in nodes::each(choice, &others).await? {
        match node.facts().await {
            Ok(_) => keepers.push(node),
            Err(_) => output.complaint(&format!(
                "warning: {} does not answer: it keeps neither the journal nor the lock",
                node.name()
            )),
        }
    }
    let there = there + keepers.len();
    Ok(Keepers { nodes: keepers, of, there })
}

/// All that is known before anything is changed.
struct Prepared {
    repository: Repository,
    /// Those that are returned, then those that only keep the journal and the lock.
    nodes: Vec<Arc<dyn Node>>,
    settings: ConnectionSettings,
    connector: Connector,
    look: SaveOptions,
    planned: returning::planner::Planned,
    /// Among how many nodes the lock needs more than half.
    of: usize,
}

async fn prepare(
    args: &StateReturnArgs,
    output: &Output,
    setup: &Setup,
) -> Result<Prepared, Failure> {
    let choice = setup.choose(args.cluster.as_deref())?;
    let with = &args.with;
    let settings = reach(choice.connection(&with.connection.raw()).await?, output).await?;
    let repository = open_vault(&with.vault, Some(&with.keys), &choice, output).await?;
    let backup = find_state(&repository, &choice, &args.state).await?;
    let look = with.options(&choice, &args.paths);
    if !args.no_save && !args.dry_run && !args.as_shell {
        // Said now and not in the midst of the plan.
        let what = "nothing was returned: the present state could not be stored";
        check_encryption(&repository, look.allow_unencrypted, what, &Events::none())?;
    }
    let wanted = returning::wanted(&backup, &args.nodes)?;
    let mut nodes = output.waiting("connecting", nodes::named(&choice, &wanted)).await?;
    let connector = connector(&settings, &nodes, output).await?;
    let mut keepers = output.waiting("connecting", keepers(&choice, &nodes, &[], output)).await?;
    if !args.without_majority && !args.dry_run && !args.as_shell {
        keepers.check("nothing was returned", backup.manifest.cluster.as_str())?;
    }
    let options = ReturnOptions {
        save: !args.no_save,
        force_topology: args.force_topology,
        keepers: keepers.nodes.iter().map(|node| node.name().clone()).collect(),
        look: look.clone(),
    };
    let planned = match args.only {
        Only::Config => {
            let planning =
                returning::prepare(&repository, &backup, &nodes, &connector, &settings, &options);
            output.waiting("looking", planning).await?
        }
        Only::Data => {
            let planning = returning::looked::prepare_data(
                &repository,
                &backup,
                &nodes,
                &connector,
                &settings,
                &options,
            );
            output.waiting("looking", planning).await?
        }
    };
    nodes.append(&mut keepers.nodes);
    let of = if args.without_majority { 0 } else { keepers.of };
    Ok(Prepared { repository, nodes, settings, connector, look, planned, of })
}

pub(crate) async fn run(
    args: Box<StateReturnArgs>,
    typed: &Typed,
    output: &Output,
    setup: &Setup,
) -> Result<Exit, Failure> {
    let halt = Halt::listen()?;
    let prepared = halt.or(prepare(&args, output, setup)).await?;
    let Prepared { repository, nodes, settings, connector, look, planned, of } = prepared;
    let by_hand = planned.by_hand;
    let Some(made) = planned.plan else {
        let value = serde_json::json!({ "plan": null, "by_hand": by_hand });
        output.result(&value, || {
            let mut text = "no differences: there is nothing to do\n".to_owned();
            for line in &by_hand {
                let _ = writeln!(text, "  by hand: {}", printable(line));
            }
            text
        });
        return Ok(if by_hand.is_empty() { Exit::Ok } else { Exit::Partial });
    };
    if args.as_shell {
        output.text(&plan::shell(&made, setup));
        return Ok(Exit::Ok);
    }
    if args.dry_run {
        output.result(&made, || plan::shown(&made, output.width()));
        return Ok(Exit::Ok);
    }
    plan::confirmed(&made, args.yes, &halt, output).await?;
    let repository = Arc::new(repository);
    let cluster = made.cluster.as_str();
    let contents = contents(repository, &nodes, cluster, connector, settings, look, output)?;
    let owner = plan::owner(setup);
    let options = Options { of, ..options(args.take_over_lock, &[])? };
    let engine = engine(&nodes, Some(contents), options, owner, &halt, output)?;
    let ran = halt.run(output, engine.execute(&made)).await;
    let report = ran.map_err(|error| plan::not_begun(error, typed))?;
    plan::ended(&report, &made, &by_hand, typed, &halt, output)
}
