//! `etcdvault verify`.

use serde::Serialize;

use super::args::{LevelArg, VerifyArgs};
use super::exit_code::Exit;
use super::human::{count, duration, printable, size};
use super::output::Output;
use super::settings::{find_backup, open_vault, read_options};
use crate::config::Setup;
use crate::operation::find;
use crate::operation::verify::{Level, Verified, verify};
use crate::operation::{Failure, FailureKind};

#[derive(Serialize)]
struct Report {
    verified: Vec<Verified>,
    corrupt: Vec<find::CorruptManifest>,
    /// Backups that could not be read, which says nothing of their state.
    unread: Vec<Unread>,
}

/// A backup that could not be read.
#[derive(Serialize)]
struct Unread {
    id: String,
    reason: String,
}

pub(crate) async fn run(args: VerifyArgs, output: &Output, setup: &Setup) -> Result<Exit, Failure> {
    let choice = setup.choose(args.cluster.as_deref())?;
    let repository = open_vault(&args.vault, Some(&args.keys), &choice, output).await?;
    let level = match args.level {
        LevelArg::Manifest => Level::Manifest,
        LevelArg::Stored => Level::Stored,
        LevelArg::Content => Level::Content,
    };
    let mut report = Report { verified: Vec::new(), corrupt: Vec::new(), unread: Vec::new() };
    let mut backups = Vec::new();
    if args.all {
        let (all, corrupt) = find::all(&repository, choice.named().cloned()).await?;
        backups = all;
        report.corrupt = corrupt;
    } else {
        for text in &args.backups {
            backups.push(find_backup(&repository, &choice, text).await?);
        }
    }
    if !output.is_json() {
        for entry in &report.corrupt {
            output.text(&format!(
                "DAMAGED  {}: {}\n",
                printable(&entry.key),
                printable(&entry.reason)
            ));
        }
    }
    let events = output.events();
    for backup in &backups {
        let verified = match verify(&repository, backup, level, &read_options(), &events).await {
            Ok(verified) => verified,
            // One that could not be read hides nothing of the others; a key that is
            // missing for one is missing for all.
            Err(failure) if args.all && failure.kind == FailureKind::Storage => {
                output.failure_beside(&failure);
                report.unread.push(Unread {
                    id: backup.manifest.id.to_string(),
                    reason: failure.to_string(),
                });
                continue;
            }
            Err(failure) => return Err(failure),
        };
        if !output.is_json() {
            output.text(&line(&verified));
        }
        output.mark(&verified.id, &verified.proof);
        if let Some(error) = &verified.receipt_error {
            output.note(&format!("  no receipt was written: {}", printable(error)));
        }
        report.verified.push(verified);
    }
    let good = report.corrupt.is_empty() && report.verified.iter().all(Verified::good);
    if output.is_json() {
        output.result(&report, String::new);
    } else if backups.is_empty() && report.corrupt.is_empty() {
        output.text("no backups\n");
    }
    if !good {
        output.note(
            "hint: other backups may be good: etcdvault verify --all; never delete a damaged one \
             before a new one is proven",
        );
    }
    Ok(if !good {
        Exit::Corrupt
    } else if !report.unread.is_empty() {
        Exit::Failed(FailureKind::Storage)
    } else {
        Exit::Ok
    })
}

fn line(verified: &Verified) -> String {
    let mut text = format!(
        "{}  {}  {}  revision {}  {}",
        if verified.good() { "good   " } else { "DAMAGED" },
        verified.id,
        verified.cluster,
        count(verified.revision),
        verified.level.as_str(),
    );
    if verified.stored_bytes > 0 {
        text.push_str(&format!("  {} read", size(verified.stored_bytes)));
    }
    if let Some(hash) = verified.hash_kv {
        text.push_str(&format!("  hashkv {hash:08x}"));
    }
    text.push_str(&format!(
        "  {}\n",
        duration(std::time::Duration::from_secs_f64(verified.seconds))
    ));
    for problem in &verified.problems {
        text.push_str(&format!("  {}\n", printable(problem)));
    }
    text
}
