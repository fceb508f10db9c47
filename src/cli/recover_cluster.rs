//! `etcdvault recover cluster`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::cluster::{Go, Ready, carry_out};
use super::exit_code::Exit;
use super::human::{count, plural, printable, size};
use super::output::Output;
use super::plan::Halt;
use super::preflight::{complain, node_names, reached_as};
use super::recover::left;
use super::returning::keepers;
use super::settings::{connector, open_vault, reach};
use super::state::StateArgs;
use super::ways::Typed;
use crate::config::Setup;
use crate::event::Events;
use crate::operation::cluster::planner::Mode;
use crate::operation::cluster::{self, Reached};
use crate::operation::recover::cluster::{self as recover, LookReport, Options, RecoveredBackup};
use crate::operation::state::nodes;
use crate::operation::state::save::check_encryption;
use crate::operation::vocabulary::{Node, ProofState};
use crate::operation::{Failure, FailureKind};

/// Bring a cluster back that lost its quorum, from what its members left
///
/// For a cluster without a backup that would do. Looks at what is left of every member on
/// its node and shows it; the one that came farthest is gone on from, by raft's own rule
/// (the latest term of the last entry, then the longest log). Refuses while a quorum is
/// there.
///
/// A copy of that member's directory becomes a backup in the vault: on its node etcd's own
/// program, alone on loopback, brings what the log has into the copy. Entries that this
/// member did not know to be committed are kept: others may have acknowledged them.
///
/// Then a plan is shown, that of `restore cluster` from this backup: everything is stopped,
/// that nobody wrote meanwhile is proven, all members begin with the same data, and what
/// they had is kept beside it. It can be rolled back and resumed as any other.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    etcdvault recover cluster --cluster prod --dry-run\n  \
    etcdvault recover cluster --cluster prod --vault /srv/etcd-vault\n  \
    etcdvault recover cluster --dead k3 --etcd /opt/etcd/etcd --yes")]
pub(crate) struct RecoverClusterArgs {
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
    /// Go on from what this node has left [default: the best]
    #[arg(long, value_name = "NAME")]
    from: Option<String>,
    /// Leave out entries that this member did not know to be committed
    #[arg(long)]
    drop_uncommitted: bool,
    /// The etcd program on the node that is gone on from, of the version that the members
    /// ran [default: the one that its member runs, or its unit names]
    #[arg(long, value_name = "PROGRAM")]
    etcd: Option<PathBuf>,
    /// Add this to the revision and mark everything below compacted; 0 does neither
    /// [default: 1,000,000,000 above all that is known to have been served]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    bump_revision: Option<u64>,
    /// Show what is left and whether it would be gone on from; change nothing, store nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Do not store the present state of the nodes first
    #[arg(long)]
    no_save: bool,
    /// Go on although there is a quorum, or something else stands in the way
    #[arg(long)]
    force: bool,
    /// Take the cluster's lock from an owner that gives no sign of life for 25 seconds
    #[arg(long)]
    take_over_lock: bool,
    #[command(flatten)]
    with: StateArgs,
}

/// Looks, and unless that is all, stores the backup and makes the plan.
async fn prepare(
    args: &RecoverClusterArgs,
    output: &Output,
    setup: &Setup,
) -> Result<Option<Ready>, Failure> {
    let choice = setup.choose(args.cluster.as_deref())?;
    let name = choice.meant().cloned().ok_or_else(|| {
        Failure::new(FailureKind::Usage, "nothing was recovered")
            .detail("which cluster it is is not said")
            .hint("--cluster NAME; etcdvault discover writes a configuration that names it")
    })?;
    let dead = node_names(&args.dead)?;
    let from = match &args.from {
        Some(name) => node_names(std::slice::from_ref(name))?.pop(),
        None => None,
    };
    let settings = reach(choice.connection(&args.with.connection.raw()).await?, output).await?;
    let all = output.waiting("connecting", nodes::each(&choice, &args.nodes)).await?;
    let connector = connector(&settings, &all, output).await?;
    let mut keepers =
        output.waiting("connecting", keepers(&choice, &all, &dead, output)).await?.nodes;
    let known_as = reached_as(&choice);
    let reached = Reached {
        nodes: &all,
        known_as: &known_as,
        keepers: keepers.iter().map(|node| node.name().clone()).collect(),
        connector: &connector,
        connection: &settings,
    };
    let options = Options {
        cluster: name.clone(),
        dead: dead.clone(),
        from,
        force: args.force,
        etcd: args.etcd.clone(),
        drop_uncommitted: args.drop_uncommitted,
    };
    let events = output.events();
    let looked = recover::look(&reached, &options, &events).await?;
    complain(&looked.findings, output);
    let report = &looked.report;
    if args.dry_run {
        output.result(report, || text(report));
        looked.check(&options)?;
        output.note(
            "next: the same without --dry-run stores a snapshot of the best in the vault, shows \
             the plan, and asks",
        );
        return Ok(None);
    }
    output.note(&text(report));
    looked.check(&options)?;
    let repository = open_vault(&args.with.vault, Some(&args.with.keys), &choice, output).await?;
    let look = args.with.options(&choice, &[]);
    if !args.no_save {
        // Said now and not in the midst of the plan.
        let what = "nothing was recovered: the present state could not be stored";
        check_encryption(&repository, look.allow_unencrypted, what, &Events::none())
            .map_err(|failure| failure.detail("--no-save recovers without storing it"))?;
    }
    let storing = looked.store(&repository, &all, &options, &look.write, &events);
    let (stored, remnant) = storing.await?;
    output.note(&made(&stored));
    let restore = cluster::Options {
        cluster: name.clone(),
        dead: dead.clone(),
        save: !args.no_save,
        force: args.force,
        // It is of these nodes.
        other_cluster: true,
        bump_revision: args.bump_revision,
        remnant: Some(remnant),
        mode: Mode::Parallel,
        map: Vec::new(),
    };
    let planning = async {
        let backup = cluster::find(&repository, Some(&name), &stored.id).await?;
        cluster::prepare(&repository, &backup, &reached, &restore).await
    };
    let prepared = output.waiting("looking at the nodes", planning).await.map_err(|failure| {
        failure.detail(format!("what was left is stored as backup {}", stored.id))
    })?;
    // Nothing is asked of the dead, nor kept by them.
    let mut nodes: Vec<Arc<dyn Node>> =
        all.into_iter().filter(|node| !dead.contains(node.name())).collect();
    nodes.append(&mut keepers);
    Ok(Some(Ready { repository, nodes, settings, connector, look, prepared, of: 0 }))
}

fn text(report: &LookReport) -> String {
    let mut text = left(&report.places, &report.strangers, &report.reason);
    for dead in &report.dead {
        let _ = writeln!(text, "{}: declared dead, left out", printable(dead));
    }
    if report.has_leader {
        text.push_str("the members HAVE A LEADER\n");
    }
    text
}

fn made(stored: &RecoveredBackup) -> String {
    let proven = match stored.proof.state {
        ProofState::Proven => "proven".to_owned(),
        _ => format!("NOT PROVEN: {}", printable(&stored.proof.reasons.join("; "))),
    };
    let replayed = match &stored.etcd {
        Some(version) => {
            let entries = count(stored.replayed);
            format!("etcd {} brought in {entries} entries of the log", printable(version))
        }
        None => "no etcd could start from it".to_owned(),
    };
    let tail = match (stored.uncommitted_kept, stored.uncommitted_dropped) {
        (0, 0) => "none was uncommitted".to_owned(),
        (0, dropped) => format!("{} not known to be committed LEFT OUT", count(dropped)),
        (kept, _) => format!("{} not known to be committed kept", count(kept)),
    };
    format!(
        "stored as {}: revision {}  {}  {}  {proven}\n{replayed}; {tail}",
        stored.id,
        count(stored.revision),
        plural(usize::try_from(stored.keys).unwrap_or(usize::MAX), "key"),
        size(stored.size),
    )
}

pub(crate) async fn run(
    args: Box<RecoverClusterArgs>,
    typed: &Typed,
    output: &Output,
    setup: &Setup,
) -> Result<Exit, Failure> {
    let halt = Halt::listen()?;
    let Some(ready) = halt.or(prepare(&args, output, setup)).await? else { return Ok(Exit::Ok) };
    let go = Go { yes: args.yes, take_over_lock: args.take_over_lock };
    carry_out(ready, go, typed, &halt, output, setup).await
}
