//! `etcdvault inspect`.

use std::path::Path;

use super::args::InspectArgs;
use super::exit_code::Exit;
use super::human::{count, printable, size};
use super::output::Output;
use super::settings::{open_vault, read_options};
use crate::config::{Env, place};
use crate::datadir::inspect::{Inspection, Trailer};
use crate::operation::find;
use crate::operation::inspect::{self, InspectReport};
use crate::operation::{Failure, FailureKind};

pub(crate) async fn run(args: InspectArgs, output: &Output, env: &Env) -> Result<Exit, Failure> {
    let path = Path::new(&args.what);
    let events = output.events();
    let report = if path.symlink_metadata().is_ok() {
        inspect::path(path, args.revision, &events).await?
    } else {
        let named = args
            .what
            .to_str()
            .filter(|what| !what.contains(['/', '.']) && find::selector(what).is_ok());
        let Some(named) = named else {
            let what = format!("there is no {}", path.display());
            return Err(Failure::new(FailureKind::Usage, what)
                .hint("a file, a data directory, or a backup by id, latest or time"));
        };
        let cluster = place::cluster(args.cluster.as_deref(), env)?;
        let repository = open_vault(&args.vault, Some(&args.keys), env).await?;
        let backup = find::find(&repository, cluster.as_ref(), named).await?;
        inspect::backup(&repository, &backup, args.revision, &read_options(), &events).await?
    };
    output.result(&report, || text(&report));
    Ok(if report.database.sound { Exit::Ok } else { Exit::Corrupt })
}

fn text(report: &InspectReport) -> String {
    let mut text = format!("{:<16}{}\n", "inspected", printable(&report.what));
    let database = &report.database;
    text.push_str(&format!(
        "{:<16}{}\n",
        "condition",
        if database.sound { "sound" } else { "DAMAGED" }
    ));
    for problem in &database.problems {
        text.push_str(&format!("{:<16}{}\n", "", printable(problem)));
    }
    text.push_str(&content_lines(database));
    if let Some(at) = &report.hash_kv_at {
        text.push_str(&format!(
            "{:<16}{:08x} at revision {}\n",
            "hashkv",
            at.hash,
            count(at.revision)
        ));
    }
    text
}

/// What is known of a database, a line each.
pub(super) fn content_lines(database: &Inspection) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        text.push_str(&format!("{name:<16}{}\n", printable(&value)));
    };
    let content = &database.content;
    line(
        "database",
        format!(
            "{} in pages of {}, {:.0} % free",
            size(database.size),
            size(u64::from(database.page_size)),
            100.0 * database.fragmentation
        ),
    );
    line(
        "trailer",
        match database.trailer {
            Trailer::Absent => "none: a database, not a snapshot",
            Trailer::Right => "right",
            Trailer::Wrong => "WRONG",
            Trailer::Unchecked => "not checked",
        }
        .to_owned(),
    );
    let compacted = match database.compact_revision {
        Some(revision) if database.compaction_unfinished => {
            format!(", compaction to {} unfinished", count(revision))
        }
        Some(revision) => format!(", compacted at {}", count(revision)),
        None => String::new(),
    };
    line("revision", format!("{}{compacted}", count(database.revision)));
    if let Some(hash) = database.hash_kv {
        line("hashkv", format!("{hash:08x}"));
    }
    if let Some(hash) = database.status_hash {
        line("status hash", format!("{hash:08x} (etcdutl snapshot status)"));
    }
    line(
        "keys",
        format!(
            "{} in {} records, {} of them deletions",
            count(database.keys),
            count(database.records),
            count(database.tombstones)
        ),
    );
    line("leases", count(content.leases));
    let enabled = if content.auth_enabled { "on" } else { "off" };
    line(
        "users, roles",
        format!("{}, {}; authentication {enabled}", count(content.users), count(content.roles)),
    );
    let version =
        content.storage_version.as_ref().map(|version| format!("storage {version}")).or_else(
            || content.cluster_version.as_ref().map(|version| format!("cluster {version}")),
        );
    line("version", version.unwrap_or_else(|| "not recorded".to_owned()));
    if let Some(index) = content.consistent_index {
        let term = content.term.map_or_else(|| "not stored".to_owned(), |term| term.to_string());
        line("raft", format!("index {}, term {term}", count(index)));
    }
    for member in &content.members {
        line("member", format!("{:x} {} {}", member.id, member.name, member.peer_urls.join(",")));
    }
    for alarm in &content.alarms {
        line("ALARM", format!("{alarm:?}"));
    }
    for bucket in &database.buckets {
        line(
            "bucket",
            format!("{}: {} entries, {}", bucket.name, count(bucket.entries), size(bucket.bytes)),
        );
    }
    text
}
