//! `etcdvault restore cluster`.

use std::sync::Arc;

use clap::Args;

use super::exit_code::Exit;
use super::journal::{engine, options};
use super::output::Output;
use super::plan::{self, Halt};
use super::preflight::{complain, node_names, reached_as};
use super::returning::{contents, keepers};
use super::settings::{connector, is_id, meant, open_vault, reach};
use super::state::StateArgs;
use super::ways::Typed;
use crate::config::Setup;
use crate::event::Events;
use crate::operation::cluster::planner::Mode;
use crate::operation::cluster::{self, Options, Prepared, Reached};
use crate::operation::journal::Options as RunOptions;
use crate::operation::state::nodes;
use crate::operation::state::save::{SaveOptions, check_encryption};
use crate::operation::vocabulary::{ClusterName, Connector, Node, NodeName, Repository};
use crate::operation::{Failure, FailureKind};
use crate::types::ConnectionSettings;

/// Bring a cluster back from a backup, on the nodes that it has or on others
///
/// Looks at all nodes first and refuses what cannot go well (see `preflight`). Shows a
/// plan: the present state is stored, and where the cluster still answers a last backup;
/// every member's directory is built from the backup beside the present one; API servers
/// and members are stopped, and that nobody writes any more is proven; directories are
/// renamed; members are started and compared with each other and with what was computed
/// while they were built; API servers are started.
///
/// Nothing is deleted: the data of before stays beside the new one. Until the API servers
/// start again `rollback` brings it back. A plan that was stopped or killed goes on with
/// `resume`, also from another machine.
///
/// With --map a backup goes onto other nodes than it is of: those of the cluster that is
/// named, as their own settings have them. The cluster of before is not touched.
///
/// latest is the newest backup that was taken on purpose and compared: what plans store
/// before they change the nodes, and backups of other clusters are named by their ids.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    etcdvault restore cluster latest --vault /srv/etcd-vault --identity-file identity.txt --dry-run\n  \
    etcdvault restore cluster 01JD2Y6Q --cluster prod\n  \
    etcdvault restore cluster latest --cluster prod --dead k3 --yes\n  \
    etcdvault restore cluster 01JD2Y6Q --cluster new --map k1=n1,k2=n2,k3=n3")]
pub(crate) struct RestoreClusterArgs {
    /// An id or its start, latest, or a time (the newest before it)
    #[arg(value_name = "BACKUP")]
    backup: String,
    /// The cluster that is brought back [default: the only one of the configuration]
    /// [env: ETCDVAULT_CLUSTER]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// A node with a member or an API server [default: all of the cluster in etcdvault.toml]
    #[arg(long = "node", value_name = "NAME")]
    nodes: Vec<String>,
    /// A node that is gone for good: it is left out, and must not answer
    #[arg(long = "dead", value_name = "NAME")]
    dead: Vec<String>,
    /// Add this to the revision and mark everything below compacted; 0 does neither
    /// [default: 1,000,000,000 above all that is known to have been served]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    bump_revision: Option<u64>,
    /// A member of the backup's cluster, and the node that stands for it: for other nodes
    /// than the backup is of. The nodes' own settings say how members are called and
    /// reached; there may be fewer of them, or more
    #[arg(long = "map", value_name = "OLD=NODE", value_delimiter = ',')]
    map: Vec<String>,
    /// One member after the other: the first is restored and checked alone, each other one
    /// joins it without data and gets its vote when it is in step. Slower; the cluster
    /// serves from the first member on. Not for static pods [default: all at once]
    #[arg(long)]
    sequential: bool,
    /// Show the plan and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the plan as stock commands and change nothing
    #[arg(long)]
    as_shell: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Do not store the present state first, nor a last backup
    #[arg(long)]
    no_save: bool,
    /// Go on although something stands in the way
    #[arg(long)]
    force: bool,
    /// Take a backup that seems to be another cluster's
    #[arg(long)]
    other_cluster: bool,
    /// Take the cluster's lock from an owner that gives no sign of life for 25 seconds
    #[arg(long)]
    take_over_lock: bool,
    /// Go on although no more than half of the cluster's nodes answer: whether somebody
    /// else is at work on the others is then not known
    #[arg(long)]
    without_majority: bool,
    #[command(flatten)]
    with: StateArgs,
}

/// `OLD=NODE`, as it is typed.
fn pairs(texts: &[String]) -> Result<Vec<(String, NodeName)>, Failure> {
    let pair = |text: &String| {
        let usage = |why: String| Failure::new(FailureKind::Usage, why);
        let (old, new) = text
            .split_once('=')
            .filter(|(old, _)| !old.is_empty())
            .ok_or_else(|| usage(format!("--map {text:?}: OLD=NODE is expected")))?;
        let new = NodeName::new(new).map_err(|error| usage(format!("--map: {error}")))?;
        Ok((old.to_owned(), new))
    };
    texts.iter().map(pair).collect()
}

/// All that is known before anything is changed.
pub(super) struct Ready {
    pub(super) repository: Repository,
    /// Those that are restored, then those that only keep the journal and the lock.
    pub(super) nodes: Vec<Arc<dyn Node>>,
    pub(super) settings: ConnectionSettings,
    pub(super) connector: Connector,
    pub(super) look: SaveOptions,
    pub(super) prepared: Prepared,
    /// Among how many nodes the lock needs more than half.
    pub(super) of: usize,
}

async fn prepare(
    args: &RestoreClusterArgs,
    output: &Output,
    setup: &Setup,
) -> Result<Ready, Failure> {
    let choice = setup.choose(args.cluster.as_deref())?;
    let dead = node_names(&args.dead)?;
    let map = pairs(&args.map)?;
    let settings = reach(choice.connection(&args.with.connection.raw()).await?, output).await?;
    let repository = open_vault(&args.with.vault, Some(&args.with.keys), &choice, output).await?;
    let of = meant(&choice, &args.backup)?;
    // An id of another cluster's is meant where that is said.
    let elsewhere = !map.is_empty() || args.other_cluster;
    let of = of.filter(|_| !elsewhere || !is_id(&args.backup));
    let finding = cluster::find(&repository, of, &args.backup);
    let backup = output.waiting("looking for the backup", finding).await?;
    output.mark(&backup.manifest.id.to_string(), &backup.manifest.proof);
    let look = args.with.options(&choice, &[]);
    if !args.no_save && !args.dry_run && !args.as_shell {
        // Said now and not in the midst of the plan.
        let what = "nothing was restored: the present state could not be stored";
        check_encryption(&repository, look.allow_unencrypted, what, &Events::none())
            .map_err(|failure| failure.detail("--no-save restores without storing it"))?;
    }
    let all = output.waiting("connecting", nodes::each(&choice, &args.nodes)).await?;
    let connector = connector(&settings, &all, output).await?;
    // Nothing is asked of the dead, nor kept by them.
    let is_dead = |node: &Arc<dyn Node>| dead.contains(node.name());
    let alive: Vec<Arc<dyn Node>> = all.iter().filter(|node| !is_dead(node)).cloned().collect();
    let mut keepers = output.waiting("connecting", keepers(&choice, &alive, &dead, output)).await?;
    if !args.without_majority && !args.dry_run && !args.as_shell {
        keepers.check("nothing was restored", choice.meant().map_or("it", ClusterName::as_str))?;
    }
    let name = choice.meant().unwrap_or(&backup.manifest.cluster).clone();
    let options = Options {
        cluster: name,
        dead: dead.clone(),
        save: !args.no_save,
        force: args.force,
        other_cluster: args.other_cluster,
        bump_revision: args.bump_revision,
        remnant: None,
        mode: if args.sequential { Mode::Sequential } else { Mode::Parallel },
        map,
    };
    let known_as = reached_as(&choice);
    let reached = Reached {
        nodes: &all,
        known_as: &known_as,
        keepers: keepers.nodes.iter().map(|node| node.name().clone()).collect(),
        connector: &connector,
        connection: &settings,
    };
    let planning = cluster::prepare(&repository, &backup, &reached, &options);
    let prepared = output.waiting("looking at the nodes", planning).await?;
    let mut nodes = alive;
    nodes.append(&mut keepers.nodes);
    let of = if args.without_majority { 0 } else { keepers.of };
    Ok(Ready { repository, nodes, settings, connector, look, prepared, of })
}

pub(crate) async fn run(
    args: Box<RestoreClusterArgs>,
    typed: &Typed,
    output: &Output,
    setup: &Setup,
) -> Result<Exit, Failure> {
    let halt = Halt::listen()?;
    let ready = halt.or(prepare(&args, output, setup)).await?;
    complain(&ready.prepared.checked.findings, output);
    if args.as_shell {
        output.text(&plan::shell(&ready.prepared.plan, setup));
        return Ok(Exit::Ok);
    }
    if args.dry_run {
        let made = &ready.prepared.plan;
        output.result(made, || plan::shown(made, output.width()));
        return Ok(Exit::Ok);
    }
    let go = Go { yes: args.yes, take_over_lock: args.take_over_lock };
    carry_out(ready, go, typed, &halt, output, setup).await
}

/// What was said beforehand of how a plan is run.
pub(super) struct Go {
    /// It is not asked for.
    pub(super) yes: bool,
    /// The lock is taken from an owner that gives no sign of life.
    pub(super) take_over_lock: bool,
}

/// Runs the plan, once it is confirmed.
pub(super) async fn carry_out(
    ready: Ready,
    go: Go,
    typed: &Typed,
    halt: &Halt,
    output: &Output,
    setup: &Setup,
) -> Result<Exit, Failure> {
    let Ready { repository, nodes, settings, connector, look, prepared, of } = ready;
    let made = prepared.plan;
    plan::confirmed(&made, go.yes, halt, output).await?;
    let repository = Arc::new(repository);
    let cluster = made.cluster.as_str();
    let contents = contents(repository, &nodes, cluster, connector, settings, look, output)?;
    let owner = plan::owner(setup);
    let options = RunOptions { of, ..options(go.take_over_lock, &[])? };
    let engine = engine(&nodes, Some(contents), options, owner, halt, output)?;
    let ran = halt.run(output, engine.execute(&made)).await;
    let report = ran.map_err(|error| plan::not_begun(error, typed))?;
    plan::ended(&report, &made, &[], typed, halt, output)
}

/// The name of the cluster that a check is about.
pub(super) fn cluster_name(
    named: Option<&ClusterName>,
    backup: Option<&ClusterName>,
) -> Result<ClusterName, Failure> {
    match named.or(backup) {
        Some(name) => Ok(name.clone()),
        None => ClusterName::new("cluster")
            .map_err(|error| Failure::new(FailureKind::Error, error.to_string())),
    }
}
