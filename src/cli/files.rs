//! `etcdvault export` and `etcdvault import`.

use std::path::Path;

use serde::Serialize;

use super::args::{ExportArgs, ImportArgs};
use super::exit_code::Exit;
use super::human::{count, size, time_utc};
use super::output::Output;
use super::settings::{find_holding, labels, open_vault, read_options, write_options};
use crate::config::Setup;
use crate::operation::content::{SNAPSHOT_ROLE, TimeSource};
use crate::operation::files::{self, ImportOptions, ImportReport, Target};
use crate::operation::vocabulary::LineageName;
use crate::operation::{Failure, FailureKind};
use crate::types::HexId;

pub(crate) async fn export(
    args: ExportArgs,
    output: &Output,
    setup: &Setup,
) -> Result<Exit, Failure> {
    let to_stdout = args.output == Path::new("-");
    if to_stdout && output.is_json() {
        return Err(Failure::new(FailureKind::Usage, "--json and -o - both want standard output")
            .hint("-o FILE"));
    }
    if to_stdout && std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        return Err(Failure::new(
            FailureKind::Usage,
            "what is exported is binary and standard output is a terminal",
        )
        .hint("-o FILE, or -o - into a pipe"));
    }
    let choice = setup.choose(args.which.cluster.as_deref())?;
    let repository = open_vault(&args.vault, Some(&args.keys), &choice, output).await?;
    let role = args.object.as_deref();
    let held = role.unwrap_or(SNAPSHOT_ROLE);
    let backup = find_holding(&repository, &choice, &args.which.backup, held).await?;
    let target = if to_stdout {
        Target::Writer(Box::new(std::io::stdout()))
    } else {
        Target::File(args.output.clone())
    };
    let report =
        files::export(&repository, &backup, role, target, &read_options(), &output.events())
            .await?;
    if !to_stdout {
        output.result(&report, || {
            format!(
                "{}  {}  sha256 {}\n",
                super::human::printable(&args.output.display().to_string()),
                size(report.size),
                report.sha256
            )
        });
    }
    output.mark(&report.id, &report.proof);
    Ok(Exit::Ok)
}

#[derive(Serialize)]
struct Imported {
    imported: Vec<ImportReport>,
}

pub(crate) async fn import(
    args: ImportArgs,
    output: &Output,
    setup: &Setup,
) -> Result<Exit, Failure> {
    let choice = setup.choose(args.cluster.as_deref())?;
    let cluster = choice.meant().cloned().ok_or_else(|| {
        Failure::new(FailureKind::Usage, "it is not said which cluster the snapshot is of")
            .hint("--cluster NAME: the name that its backups have in the vault")
    })?;
    let lineage = args
        .cluster_id
        .as_deref()
        .map(|text| {
            let id: HexId = text.trim_start_matches("0x").parse().map_err(|_| {
                Failure::new(
                    FailureKind::Usage,
                    format!("{text:?} is no cluster id: 1 to 16 hexadecimal digits"),
                )
            })?;
            LineageName::new(id.to_string())
                .map_err(|error| Failure::new(FailureKind::Usage, error.to_string()))
        })
        .transpose()?;
    let repository = open_vault(&args.vault, Some(&args.keys), &choice, output).await?;
    let options = ImportOptions {
        cluster,
        lineage,
        labels: labels(&args.labels),
        write: write_options(&args.write, &args.vault, &choice),
    };
    let mut imported = Imported { imported: Vec::new() };
    for path in &args.files {
        let report = files::import(&repository, path, &options, &output.events()).await?;
        if !output.is_json() {
            output.text(&format!(
                "{}  {}  revision {}  {} → {}  {}\n",
                report.id,
                super::human::printable(&report.path.display().to_string()),
                count(report.revision),
                size(report.size),
                size(report.stored_size),
                match report.time_source {
                    TimeSource::ModificationTime => format!("of {} UTC", time_utc(report.taken)),
                    TimeSource::ImportTime => "of an unknown time".to_owned(),
                }
            ));
        }
        imported.imported.push(report);
    }
    if output.is_json() {
        output.result(&imported, String::new);
    }
    Ok(Exit::Ok)
}
