//! `etcdvault list` and `etcdvault show`.

use chrono::Utc;

use super::args::{ListArgs, ShowArgs};
use super::exit_code::Exit;
use super::human::{age, count, of, printable, size, time_both, time_utc};
use super::inspect::{Lines, content_lines};
use super::output::Output;
use super::settings::{find_backup, open_vault};
use super::table::{Align, Table};
use crate::config::Setup;
use crate::operation::Failure;
use crate::operation::content::TimeSource;
use crate::operation::find::{self, ListReport, ListedBackup, ShowReport};
use crate::operation::proof::Verdict;
use crate::operation::vocabulary::{ObjectEncryption, ProofState};

pub(crate) async fn run(args: ListArgs, output: &Output, setup: &Setup) -> Result<Exit, Failure> {
    let choice = setup.choose(args.cluster.as_deref())?;
    let cluster = choice.named().cloned();
    let repository = open_vault(&args.vault, None, &choice, output).await?;
    let of_cluster = cluster.as_ref().map_or_else(String::new, |name| format!(" of {name}"));
    let report = output.waiting("reading manifests", find::list(&repository, cluster)).await?;
    output.result(&report, || {
        if report.backups.is_empty() {
            return format!("no backups{of_cluster}\n");
        }
        table(&report, output.width())
    });
    for entry in &report.corrupt {
        output.complaint(&format!(
            "corrupt: {}: {}",
            printable(&entry.key),
            printable(&entry.reason)
        ));
    }
    Ok(if report.corrupt.is_empty() { Exit::Ok } else { Exit::Corrupt })
}

fn table(report: &ListReport, width: Option<usize>) -> String {
    // Only where it says anything.
    let with_nodes = report.backups.iter().any(|backup| !backup.nodes.is_empty());
    let mut columns = vec![
        ("BACKUP", Align::Left, 0),
        ("CLUSTER", Align::Left, 3),
        ("TAKEN (UTC)", Align::Left, 0),
        ("AGE", Align::Right, 2),
        ("REVISION", Align::Right, 0),
        ("SIZE", Align::Right, 1),
        ("STORED", Align::Right, 4),
        ("ETCD", Align::Left, 5),
        ("PROVEN", Align::Left, 0),
    ];
    if with_nodes {
        columns.push(("NODES", Align::Left, 1));
    }
    let mut table = Table::new(&columns);
    let now = Utc::now();
    for backup in &report.backups {
        let mut row = vec![
            backup.short_id.clone(),
            backup.cluster.clone(),
            time_utc(backup.taken),
            age(backup.taken, now),
            count(backup.revision),
            size(backup.size),
            size(backup.stored_size),
            backup.etcd_version.as_deref().map_or_else(|| "-".to_owned(), printable),
            proof(backup),
        ];
        if with_nodes {
            row.push(if backup.nodes.is_empty() { "-".to_owned() } else { backup.nodes.join(",") });
        }
        table.row(row);
    }
    table.render(width)
}

fn proof(backup: &ListedBackup) -> String {
    let (same, asked) = (backup.members_same, backup.members_asked);
    match backup.proof.state {
        ProofState::Proven => of(same, asked, "member"),
        ProofState::NotProven => "no".to_owned(),
        ProofState::Mismatch => "DIFFERENT".to_owned(),
        ProofState::Unknown => "unknown".to_owned(),
    }
}

pub(crate) async fn show(args: ShowArgs, output: &Output, setup: &Setup) -> Result<Exit, Failure> {
    let choice = setup.choose(args.which.cluster.as_deref())?;
    let repository = open_vault(&args.vault, None, &choice, output).await?;
    let backup = find_backup(&repository, &choice, &args.which.backup).await?;
    let report = find::show(&repository, &backup).await?;
    output.result(&report, || details(&report));
    for problem in &report.receipt_problems {
        output.complaint(&format!(
            "a receipt cannot be used: {}: {}",
            printable(&problem.key),
            printable(&problem.reason)
        ));
    }
    Ok(if report.receipts_damaged { Exit::Corrupt } else { Exit::Ok })
}

fn details(report: &ShowReport) -> String {
    let backup = &report.backup;
    let mut lines = Lines::default();
    lines.add("backup", &backup.id);
    lines.add("cluster", format!("{}, lineage {}", backup.cluster, backup.lineage));
    let origin = report.content.as_ref().map(|content| &content.origin);
    let known = match origin.and_then(|origin| origin.time_source) {
        Some(TimeSource::ModificationTime) => ", as the file's modification time says",
        Some(TimeSource::ImportTime) => ", when it was imported: its own time is not known",
        None => "",
    };
    lines.add("taken", format!("{}{known}", time_both(backup.taken)));
    if let Some(origin) = origin {
        let mut from = match &origin.member {
            Some(member) => format!("{member} at {}", origin.place),
            None => origin.place.clone(),
        };
        if let Some(version) = &origin.etcd_version {
            from.push_str(&format!(", etcd {version}"));
        }
        lines.add("from", from);
    }
    lines.add("proof", describe(backup));
    backup.proof.reasons.iter().for_each(|reason| lines.add("", reason));
    match &report.content {
        Some(content) => {
            for member in &content.members {
                let verdict = match member.verdict {
                    Verdict::Same => "the same",
                    Verdict::Different => "DIFFERENT",
                    Verdict::Unknown => "not compared",
                };
                lines.add("", format!("{}  {verdict}, {} ms", member.member, member.milliseconds));
            }
            label_lines(&mut lines, report);
            lines.gap();
            content_lines(&mut lines, &content.database);
        }
        None => {
            label_lines(&mut lines, report);
            lines.add("content", report.content_error.as_deref().unwrap_or("not known"));
        }
    }
    for object in &report.objects {
        lines.gap();
        lines.add("object", &object.key);
        lines
            .add("  plain", format!("{}, sha256 {}", size(object.plain_size), object.plain_sha256));
        lines.add(
            "  stored",
            format!("{}, sha256 {}", size(object.stored_size), object.stored_sha256),
        );
        match &object.encryption {
            ObjectEncryption::None => lines.add("  encrypted", "no"),
            ObjectEncryption::AgePassphrase => lines.add("  encrypted", "to a passphrase"),
            ObjectEncryption::AgeRecipients { recipients } => {
                for (i, recipient) in recipients.iter().enumerate() {
                    lines.add(if i == 0 { "  encrypted to" } else { "" }, recipient);
                }
            }
        }
    }
    lines.add("manifest", &report.manifest);
    lines.add("written by", format!("{} {}", report.tool.name, report.tool.version));
    for receipt in &report.receipts {
        let verdict = if receipt.body["ok"] == true { "good" } else { "DAMAGED" };
        lines.add("verified", format!("{}  {}  {verdict}", time_both(receipt.time), receipt.level));
    }
    lines.0
}

fn label_lines(lines: &mut Lines, report: &ShowReport) {
    for (i, (name, value)) in report.backup.labels.iter().enumerate() {
        lines.add(if i == 0 { "labels" } else { "" }, format!("{name}={value}"));
    }
}

fn describe(backup: &ListedBackup) -> String {
    match backup.proof.state {
        ProofState::Proven => format!("proven on {}", proof(backup)),
        ProofState::NotProven => "not proven".to_owned(),
        ProofState::Mismatch => "DIFFERENT from what the cluster held".to_owned(),
        ProofState::Unknown => "unknown".to_owned(),
    }
}
