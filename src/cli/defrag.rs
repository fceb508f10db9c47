//! `etcdvault defrag` and `etcdvault move-leader`.

use clap::Args;

use super::args::ConnectionArgs;
use super::exit_code::Exit;
use super::human::{duration, printable, size};
use super::member::live;
use super::output::Output;
use super::table::{Align, Table};
use crate::config::Setup;
use crate::operation::Failure;
use crate::operation::member::defrag::{self, DefragOptions, DefragReport, DefragRow, Done};
use crate::operation::member::leader;

/// Give the free pages of the members' databases back to their disks
///
/// One member after another and the leader last, after it has handed over, each only when
/// all are well: a member answers nobody while it writes its database anew. Members of
/// whose file little is free are left alone, unless they are named. Exit code 3 where one
/// could not be done.
///
/// It frees no quota by itself: compact first. A NOSPACE alarm stands until it is
/// disarmed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    etcdvault defrag --dry-run\n  \
    etcdvault defrag --free-percent 20\n  \
    etcdvault defrag n2")]
pub(crate) struct DefragArgs {
    /// These members, by name or id, however little is free [default: all that are worth
    /// it]
    #[arg(value_name = "MEMBER")]
    members: Vec<String>,
    /// A member is worth it where at least so much of its file is free
    #[arg(long, value_name = "PERCENT", default_value_t = 30, value_parser = clap::value_parser!(u8).range(0..=100))]
    free_percent: u8,
    /// And at least so many MiB
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    free_mib: u32,
    /// The leader goes on leading: writes wait while its database is written anew
    #[arg(long)]
    keep_leader: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// The cluster, as etcdvault.toml names it [env: ETCDVAULT_CLUSTER]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Have another member lead, and see that it does
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    etcdvault move-leader\n  \
    etcdvault move-leader --to n2")]
pub(crate) struct MoveLeaderArgs {
    /// Who is to lead, by name or id [default: the voter that is furthest with the log]
    #[arg(long, value_name = "MEMBER")]
    to: Option<String>,
    /// The cluster, as etcdvault.toml names it [env: ETCDVAULT_CLUSTER]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(crate) async fn run(args: DefragArgs, output: &Output, setup: &Setup) -> Result<Exit, Failure> {
    let choice = setup.choose(args.cluster.as_deref())?;
    let live = live(&choice, &args.connection, None, output).await?;
    let options = DefragOptions {
        free_percent: args.free_percent,
        free_bytes: u64::from(args.free_mib) << 20,
        members: args.members,
        keep_leader: args.keep_leader,
        dry_run: args.dry_run,
    };
    let report = defrag::defrag(&live, &options, &output.events()).await?;
    output.result(&report, || text(&report, output.width()));
    Ok(if report.is_complete() { Exit::Ok } else { Exit::Partial })
}

fn text(report: &DefragReport, width: Option<usize>) -> String {
    let mut table = Table::new(&[
        ("MEMBER", Align::Left, 0),
        ("DB SIZE", Align::Right, 0),
        ("IN USE", Align::Right, 1),
        ("AFTER", Align::Right, 0),
        ("TOOK", Align::Right, 2),
        ("WHAT", Align::Left, 0),
    ]);
    for member in &report.members {
        table.row(row(member));
    }
    let mut text = table.render(width);
    if let Some(leader) = &report.led_by {
        text.push_str(&format!("{} leads now\n", printable(leader)));
    }
    let done = report.members.iter().filter(|row| row.done == Done::Defragmented).count();
    if done > 0 {
        let freed = size(report.freed);
        let plural = if done == 1 { "member" } else { "members" };
        text.push_str(&format!("{freed} freed on {done} {plural}\n"));
    }
    if !report.no_space.is_empty() {
        let names = printable(&report.no_space.join(", "));
        text.push_str(&format!(
            "{names}: alarm NOSPACE: the cluster takes no writes until it is disarmed\n  hint: \
             compact (etcdctl compact REVISION), etcdvault defrag, then etcdctl alarm disarm; or \
             raise --quota-backend-bytes\n"
        ));
    }
    text
}

fn row(member: &DefragRow) -> Vec<String> {
    let none = || "-".to_owned();
    let bytes = |bytes: Option<u64>| bytes.map_or_else(none, size);
    let what = match member.done {
        Done::Defragmented => "done".to_owned(),
        Done::Would => "would be done".to_owned(),
        Done::NotWorthIt => "not worth it".to_owned(),
        Done::Silent | Done::Not => {
            format!("NOT DONE: {}", member.error.as_deref().map_or_else(none, printable))
        }
    };
    let used = member.in_use.zip(member.before).filter(|(_, size)| *size > 0);
    vec![
        printable(&member.name),
        bytes(member.before),
        used.map_or_else(none, |(used, size)| {
            format!("{:.0} %", 100.0 * used as f64 / size as f64)
        }),
        bytes(member.after),
        member.seconds.map_or_else(none, |s| duration(std::time::Duration::from_secs_f64(s))),
        if member.leader { format!("{what} (led)") } else { what },
    ]
}

pub(crate) async fn move_leader(
    args: MoveLeaderArgs,
    output: &Output,
    setup: &Setup,
) -> Result<Exit, Failure> {
    let choice = setup.choose(args.cluster.as_deref())?;
    let live = live(&choice, &args.connection, None, output).await?;
    let moving = leader::move_leader(&live, args.to.as_deref());
    let moved = output.waiting("moving the leadership", moving).await?;
    output.result(&moved, || {
        let (from, to) = (printable(&moved.from), printable(&moved.to));
        match moved.already {
            true => format!("{to} leads already\n"),
            false => format!("{to} leads now, and no longer {from}\n"),
        }
    });
    Ok(Exit::Ok)
}
