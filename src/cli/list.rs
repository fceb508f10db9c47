//! `etcdvault list` and `etcdvault show`.

use chrono::Utc;
use vault::manifest::{ObjectEncryption, Proof, ProofState};

use super::args::{ListArgs, ShowArgs};
use super::exit_code::Exit;
use super::human::{age, count, printable, size, time_local, time_utc};
use super::output::Output;
use super::settings::open_vault;
use super::table::{Align, Table};
use crate::config::{Env, place};
use crate::operation::Failure;
use crate::operation::find::{self, ListReport, ListedBackup, ShowReport};

pub(crate) async fn run(args: ListArgs, output: &Output, env: &Env) -> Result<Exit, Failure> {
    let cluster = place::cluster(args.cluster.as_deref(), env)?;
    let repository = open_vault(&args.vault, None, env).await?;
    let report = find::list(&repository, cluster).await?;
    output.result(&report, || table(&report, output.width()));
    for entry in &report.corrupt {
        output.note(&format!("corrupt: {}: {}", printable(&entry.key), printable(&entry.reason)));
    }
    Ok(if report.corrupt.is_empty() { Exit::Ok } else { Exit::Corrupt })
}

fn table(report: &ListReport, width: Option<usize>) -> String {
    if report.backups.is_empty() {
        return "no backups\n".to_owned();
    }
    let mut table = Table::new(&[
        ("BACKUP", Align::Left, 0),
        ("CLUSTER", Align::Left, 3),
        ("TAKEN (UTC)", Align::Left, 0),
        ("AGE", Align::Right, 2),
        ("REVISION", Align::Right, 0),
        ("SIZE", Align::Right, 1),
        ("STORED", Align::Right, 4),
        ("ETCD", Align::Left, 5),
        ("PROVEN", Align::Left, 0),
    ]);
    let now = Utc::now();
    for backup in &report.backups {
        table.row(vec![
            backup.short_id.clone(),
            backup.cluster.clone(),
            time_utc(backup.taken),
            age(backup.taken, now),
            count(backup.revision),
            size(backup.size),
            size(backup.stored_size),
            backup.etcd_version.as_deref().map_or_else(|| "-".to_owned(), printable),
            proof(backup),
        ]);
    }
    table.render(width)
}

fn proof(backup: &ListedBackup) -> String {
    let (same, asked) = backup.agreed;
    match backup.proof.state {
        ProofState::Proven => format!("{same} of {asked} members"),
        ProofState::NotProven => "no".to_owned(),
        ProofState::Mismatch => "DIFFERENT".to_owned(),
        ProofState::Unknown => "unknown".to_owned(),
    }
}

pub(crate) async fn show(args: ShowArgs, output: &Output, env: &Env) -> Result<Exit, Failure> {
    let cluster = place::cluster(args.which.cluster.as_deref(), env)?;
    let repository = open_vault(&args.vault, None, env).await?;
    let backup = find::find(&repository, cluster.as_ref(), &args.which.backup).await?;
    let report = find::show(&repository, &backup).await?;
    output.result(&report, || details(&report));
    Ok(Exit::Ok)
}

fn details(report: &ShowReport) -> String {
    let backup = &report.backup;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        text.push_str(&format!("{name:<16}{}\n", printable(&value)));
    };
    line("backup", backup.id.clone());
    line("kind", backup.kind.clone());
    line("cluster", format!("{} (lineage {})", backup.cluster, backup.lineage));
    line("taken", format!("{} UTC, {} local", time_utc(backup.taken), time_local(backup.taken)));
    line("revision", count(backup.revision));
    line("proof", describe(&backup.proof, backup.agreed));
    for reason in &backup.proof.reasons {
        line("", reason.clone());
    }
    line("written by", format!("{} {}", report.tool.name, report.tool.version));
    line("manifest", report.manifest.clone());
    for (name, value) in &backup.labels {
        line("label", format!("{name}={value}"));
    }
    for object in &report.objects {
        line("object", object.key.clone());
        line("", format!("{} plain, {} stored", size(object.plain_size), size(object.stored_size)));
        line("  plain sha256", object.plain_sha256.to_string());
        line("  stored sha256", object.stored_sha256.to_string());
        line(
            "  encryption",
            match &object.encryption {
                ObjectEncryption::None => "none".to_owned(),
                ObjectEncryption::AgePassphrase => "age, passphrase".to_owned(),
                ObjectEncryption::AgeRecipients { recipients } => {
                    format!("age, {}", recipients.join(", "))
                }
            },
        );
    }
    match &report.content {
        Ok(content) => {
            let origin = &content.origin;
            line(
                "from",
                match &origin.member {
                    Some(member) => format!("{member} at {}", origin.place),
                    None => origin.place.clone(),
                },
            );
            if let Some(version) = &origin.etcd_version {
                line("etcd", version.clone());
            }
            if let Some(stored) = content.hash_kv {
                line(
                    "hashkv",
                    format!(
                        "{:08x} at revision {}, compacted at {}",
                        stored.hash,
                        count(stored.revision),
                        count(stored.compact_revision)
                    ),
                );
            }
            for member in &content.members {
                let verdict = match member.verdict {
                    crate::operation::proof::Verdict::Same => "the same".to_owned(),
                    crate::operation::proof::Verdict::Different => "DIFFERENT".to_owned(),
                    crate::operation::proof::Verdict::Unknown => {
                        format!("not compared: {}", member.reason.as_deref().unwrap_or("unknown"))
                    }
                };
                line(
                    "  member",
                    format!("{} {verdict} ({} ms)", member.member, member.milliseconds),
                );
            }
            text.push_str(&super::inspect::content_lines(&content.database));
        }
        Err(error) => line("content", error.clone()),
    }
    for receipt in &report.receipts {
        text.push_str(&format!(
            "{:<16}{} UTC  {}  {}\n",
            "verified",
            time_utc(receipt.time),
            receipt.level,
            if receipt.body["ok"] == true { "good" } else { "DAMAGED" }
        ));
    }
    text
}

fn describe(proof: &Proof, (same, asked): (usize, usize)) -> String {
    match proof.state {
        ProofState::Proven => format!("proven on {same} of {asked} members"),
        ProofState::NotProven => "not proven".to_owned(),
        ProofState::Mismatch => "DIFFERENT from what the cluster held".to_owned(),
        ProofState::Unknown => "unknown".to_owned(),
    }
}
