//! `etcdvault recover data-dir`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::exit_code::Exit;
use super::hints::shell_word;
use super::human::{count, plural, printable, size};
use super::output::Output;
use super::recover_cluster::RecoverClusterArgs;
use super::table::{Align, Table};
use crate::operation::Failure;
use crate::operation::interrupt::Interrupt;
use crate::operation::recover::{self, Options, Place, RecoverReport, Recovered};
use crate::operation::vocabulary::{LogEnding, Use};

/// Go on without a backup, from what members left
#[derive(Debug, Subcommand)]
pub(crate) enum RecoverCommand {
    DataDir(RecoverDataDirArgs),
    Cluster(Box<RecoverClusterArgs>),
}

/// Make a snapshot of what members left on their disks
///
/// For a cluster that lost its quorum and has no backup. Give the data directory of every
/// member of which one is left, or a copy of it: each is read, and the one that came
/// farthest is chosen, by raft's own rule (the latest term of the last entry, then the
/// longest log). Without --output that is all.
///
/// With --output the best becomes a snapshot, from which restore builds new members. What
/// is in its log and not yet in its database is brought in by etcd itself, started alone on
/// loopback over a copy beside the snapshot; the directories that were given are only read.
/// Entries that this member did not know to be committed are kept: others may have
/// acknowledged them.
///
/// A bare member/snap/db works too: it holds the store up to the entry that is shown.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    etcdvault recover data-dir /var/lib/etcd\n  \
    etcdvault recover data-dir ./n1/member ./n2/member ./n3/member --output recovered.db\n  \
    etcdvault recover data-dir /var/lib/etcd --output recovered.db --etcd /opt/etcd/etcd")]
pub(crate) struct RecoverDataDirArgs {
    /// Data directories, member directories or database files of members that are stopped
    #[arg(value_name = "DIR", required = true)]
    pub(crate) places: Vec<PathBuf>,
    /// Write the snapshot to this new file
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Where the log of the only DIR lies [default: inside]
    #[arg(long, value_name = "DIR")]
    pub(crate) wal_dir: Option<PathBuf>,
    /// The etcd program, of the version that the members ran
    #[arg(long, default_value = "etcd", value_name = "PROGRAM")]
    pub(crate) etcd: PathBuf,
    /// Leave out entries that this member did not know to be committed
    #[arg(long)]
    pub(crate) drop_uncommitted: bool,
}

pub(crate) async fn data_dir(
    args: RecoverDataDirArgs,
    output: &Output,
    interrupt: &mut Interrupt,
) -> Result<Exit, Failure> {
    let options = Options {
        places: args.places,
        wal_dir: args.wal_dir,
        output: args.output,
        etcd: args.etcd,
        drop_uncommitted: args.drop_uncommitted,
    };
    let report = recover::data_dir(options, &output.events(), interrupt).await?;
    output.result(&report, || text(&report));
    output.note(&next(&report));
    Ok(match report.places.first() {
        Some(best) if best.usable == Use::Nothing => Exit::Corrupt,
        _ => Exit::Ok,
    })
}

fn text(report: &RecoverReport) -> String {
    let mut text = left(&report.places, &report.strangers, &report.reason);
    if let Some(recovered) = &report.recovered {
        text.push_str(&made(recovered));
    }
    text
}

/// What is left, the best first, and why that is the best.
pub(super) fn left(places: &[Place], strangers: &[PathBuf], reason: &str) -> String {
    let mut table = Table::new(&[
        ("LEFT", Align::Left, 0),
        ("MEMBER", Align::Left, 2),
        ("LAST TERM", Align::Right, 0),
        ("LAST ENTRY", Align::Right, 0),
        ("COMMITTED", Align::Right, 0),
        ("IN DATABASE", Align::Right, 0),
        ("REVISION", Align::Right, 1),
        ("CAN BE USED", Align::Left, 0),
    ]);
    for place in places {
        table.row(row(place));
    }
    let mut text = table.render(None);
    for place in places {
        let path = shown(&place.path);
        for line in place.why.iter().chain(&place.problems) {
            text.push_str(&format!("{path}: {}\n", printable(line)));
        }
        if place.log.as_ref().is_some_and(|log| log.end == LogEnding::Torn) {
            text.push_str(&format!(
                "{path}: the last record was cut while it was written; etcd drops it\n"
            ));
        }
        if place.running {
            text.push_str(&format!("{path}: etcd runs there; this is how far it is now\n"));
        }
    }
    for stranger in strangers {
        text.push_str(&format!("{}: IS OF ANOTHER CLUSTER\n", shown(stranger)));
    }
    text.push_str(&format!("best: {}\n", printable(reason)));
    text
}

fn row(place: &Place) -> Vec<String> {
    let unknown = || "-".to_owned();
    let number = |number: Option<u64>| number.map_or_else(unknown, count);
    let log = place.log.as_ref();
    let usable = match place.usable {
        Use::Start => "everything",
        Use::Database => "the database alone",
        Use::Nothing => "NOTHING",
    };
    vec![
        shown(&place.path),
        place.name.as_deref().map_or_else(unknown, printable),
        number(log.and_then(|log| log.last_term)),
        number(log.and_then(|log| log.last_index)),
        number(log.map(|log| log.commit)),
        number(place.consistent_index),
        place.revision.map_or_else(unknown, count),
        usable.to_owned(),
    ]
}

fn made(recovered: &Recovered) -> String {
    let replayed = match (recovered.replayed, &recovered.etcd) {
        (0, _) | (_, None) => "its database had every entry".to_owned(),
        (1, Some(version)) => format!("1 entry of the log brought in by etcd {version}"),
        (number, Some(version)) => {
            format!("{} entries of the log brought in by etcd {version}", count(number))
        }
    };
    let entries = |number: u64| match number {
        1 => "1 entry".to_owned(),
        number => format!("{} entries", count(number)),
    };
    let tail = match (recovered.uncommitted_kept, recovered.uncommitted_dropped) {
        (0, 0) => "no entry was uncommitted".to_owned(),
        (0, dropped) => format!("{} not known to be committed LEFT OUT", entries(dropped)),
        (kept, _) => format!("{} not known to be committed kept", entries(kept)),
    };
    let hash = recovered.hash_kv.map_or_else(String::new, |hash| format!("  HashKV {hash:08x}"));
    format!(
        "recovered {}: revision {}  {}  {}{hash}\n{replayed}; {tail}\n",
        shown(&recovered.path),
        count(recovered.revision),
        plural(usize::try_from(recovered.keys).unwrap_or(usize::MAX), "key"),
        size(recovered.size),
    )
}

fn next(report: &RecoverReport) -> String {
    let word = |path: &Path| shell_word(&path.display().to_string());
    match &report.recovered {
        Some(recovered) => format!(
            "next: build new members of it: etcdvault restore data-dir {} --data-dir NEW …; keep \
             what is left of the old ones, and do not start them",
            word(&recovered.path)
        ),
        None if report.places.first().is_some_and(|best| best.usable == Use::Nothing) => {
            "next: look for another copy: member/snap/db of any member, or a file of etcdctl \
             snapshot save"
                .to_owned()
        }
        None => {
            let places: Vec<String> = report.places.iter().map(|place| word(&place.path)).collect();
            format!(
                "next: a snapshot of the best: etcdvault recover data-dir {} --output recovered.db",
                places.join(" ")
            )
        }
    }
}

fn shown(path: &Path) -> String {
    printable(&path.display().to_string())
}
