//! `etcdvault inspect`.

use std::path::Path;

use super::args::InspectArgs;
use super::exit_code::Exit;
use super::human::{count, plural, printable, size};
use super::output::Output;
use super::settings::{find_holding, open_vault, read_options};
use crate::config::Setup;
use crate::operation::content::SNAPSHOT_ROLE;
use crate::operation::find;
use crate::operation::inspect::{self, InspectReport};
use crate::operation::vocabulary::{Inspection, LogEnding, LogRemains, Trailer};
use crate::operation::{Failure, FailureKind};

pub(crate) async fn run(
    args: InspectArgs,
    output: &Output,
    setup: &Setup,
) -> Result<Exit, Failure> {
    let path = Path::new(&args.what);
    let events = output.events();
    let report = if path.symlink_metadata().is_ok() {
        inspect::path(path, args.revision, !args.skip_hash_check, &events).await?
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
        let choice = setup.choose(args.cluster.as_deref())?;
        let repository = open_vault(&args.vault, Some(&args.keys), &choice, output).await?;
        let backup = find_holding(&repository, &choice, named, SNAPSHOT_ROLE).await?;
        inspect::backup(&repository, &backup, args.revision, &read_options(), &events).await?
    };
    output.result(&report, || text(&report));
    Ok(if report.is_sound() { Exit::Ok } else { Exit::Corrupt })
}

fn text(report: &InspectReport) -> String {
    let mut lines = Lines::default();
    let database = &report.database;
    lines.add("inspected", &report.what);
    lines.add("condition", if report.is_sound() { "sound" } else { "DAMAGED" });
    database.problems.iter().for_each(|problem| lines.add("", problem));
    let more = database.problem_count.saturating_sub(database.problems.len() as u64);
    if more > 0 {
        lines.add("", format!("and {} more", count(more)));
    }
    content_lines(&mut lines, database);
    if let Some(log) = &report.log {
        log_lines(&mut lines, log);
    }
    if let Some(problem) = &report.log_problem {
        lines.add("log", problem);
    }
    if let Some(at) = &report.hash_kv_at {
        lines.add("hashkv", format!("{:08x} at revision {}", at.hash, count(at.revision)));
    }
    lines.0
}

/// What is known of a log.
fn log_lines(lines: &mut Lines, log: &LogRemains) {
    let of = match (log.member, log.cluster) {
        (Some(member), Some(cluster)) => format!("of member {member} in cluster {cluster}"),
        _ => "it does not say whose".to_owned(),
    };
    lines.add("log", of);
    let entries = match (log.first_index, log.last_index, log.last_term) {
        (Some(first), Some(last), Some(term)) => {
            format!("entries {} to {}, the last of term {term}", count(first), count(last))
        }
        _ => "no entries".to_owned(),
    };
    lines.add("", format!("{entries}; committed up to {}", count(log.commit)));
    if log.beyond_commit > 0 {
        let entries = match log.beyond_commit {
            1 => "1 entry is".to_owned(),
            number => format!("{} entries are", count(number)),
        };
        lines.add("", format!("{entries} not known to be committed here"));
    }
    match (log.end, &log.problem) {
        (_, Some(problem)) => lines.add("", format!("DAMAGED after that: {problem}")),
        (LogEnding::Torn, None) => {
            lines.add("", "its last record was cut while it was written: etcd drops it");
        }
        _ => {}
    }
}

/// Facts, a line each: a name of at most 14 characters and what is known.
#[derive(Default)]
pub(super) struct Lines(pub(super) String);

impl Lines {
    /// Adds a line; foreign text is made printable.
    pub(super) fn add(&mut self, name: &str, value: impl AsRef<str>) {
        self.0.push_str(&format!("{name:<16}{}\n", printable(value.as_ref())));
    }

    /// Sets the next lines apart.
    pub(super) fn gap(&mut self) {
        self.0.push('\n');
    }
}

/// What is known of a database.
pub(super) fn content_lines(lines: &mut Lines, database: &Inspection) {
    let content = &database.content;
    lines.add(
        "database",
        format!(
            "{}, {:.0} % free, in pages of {} bytes",
            size(database.size),
            100.0 * database.fragmentation,
            count(database.page_size)
        ),
    );
    lines.add(
        "trailer",
        match database.trailer {
            Trailer::Absent => "none: a database, not a snapshot",
            Trailer::Right => "the SHA-256 at the end is right",
            Trailer::Wrong => "the SHA-256 at the end is WRONG",
            Trailer::Unchecked => "not checked",
        },
    );
    let compacted = match database.compact_revision {
        Some(revision) if database.compaction_unfinished => {
            format!(", compaction at {} unfinished", count(revision))
        }
        Some(revision) => format!(", compacted at {}", count(revision)),
        None => String::new(),
    };
    lines.add("revision", format!("{}{compacted}", count(database.revision)));
    if let Some(hash) = database.hash_kv {
        lines.add("hashkv", format!("{hash:08x} ({hash} in etcdctl)"));
    }
    if let Some(hash) = database.status_hash {
        lines.add("status hash", format!("{hash:08x} in etcdutl snapshot status"));
    }
    let deletions = match database.tombstones {
        0 => String::new(),
        deletions => format!(", {}", plural_of(deletions, "deletion")),
    };
    lines.add(
        "keys",
        format!(
            "{} ({}{deletions})",
            count(database.keys),
            plural_of(database.records, "kept version")
        ),
    );
    lines.add("leases", count(content.leases));
    let enabled = if content.auth_enabled { "on" } else { "off" };
    lines.add(
        "users, roles",
        format!("{}, {}; authentication is {enabled}", count(content.users), count(content.roles)),
    );
    let version = match (&content.storage_version, &content.cluster_version) {
        (Some(storage), Some(cluster)) => format!("storage {storage}, cluster {cluster}"),
        (Some(storage), None) => format!("storage {storage}"),
        (None, Some(cluster)) => format!("cluster {cluster}"),
        (None, None) => "not recorded".to_owned(),
    };
    lines.add("version", version);
    if let Some(index) = content.consistent_index {
        let term = content.term.map_or_else(|| "not stored".to_owned(), |term| term.to_string());
        lines.add("raft", format!("index {}, term {term}", count(index)));
    }
    let mut members: Vec<_> = content.members.iter().collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    for (i, member) in members.into_iter().enumerate() {
        let urls = member.peer_urls.join(", ");
        let name = if i == 0 { "members" } else { "" };
        lines.add(name, format!("{}  {:<16x}  {urls}", member.name, member.id));
    }
    for alarm in &content.alarms {
        lines.add("ALARM", format!("{alarm:?}"));
    }
    let mut empty = Vec::new();
    let mut first = true;
    for bucket in &database.buckets {
        if bucket.entries == 0 {
            empty.push(bucket.name.as_str());
            continue;
        }
        let name = if std::mem::take(&mut first) { "buckets" } else { "" };
        let entries = match bucket.entries {
            1 => "1 entry".to_owned(),
            entries => format!("{} entries", count(entries)),
        };
        lines.add(name, format!("{:<16}{:>9} in {entries}", bucket.name, size(bucket.bytes)));
    }
    if !empty.is_empty() {
        lines.add("", format!("empty: {}", empty.join(", ")));
    }
}

fn plural_of(number: u64, noun: &str) -> String {
    plural(usize::try_from(number).unwrap_or(usize::MAX), noun)
}
