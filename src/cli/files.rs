//! `etcdvault export` and `etcdvault import`.

use std::path::Path;

use serde::Serialize;

use super::args::{ExportArgs, ImportArgs};
use super::exit_code::Exit;
use super::human::{count, size};
use super::output::Output;
use super::settings::{labels, open_vault, read_options, write_options};
use crate::config::{Env, place};
use crate::operation::files::{self, ImportOptions, ImportReport, Target};
use crate::operation::find;
use crate::operation::vocabulary::LineageName;
use crate::operation::{Failure, FailureKind};
use crate::types::HexId;

pub(crate) async fn export(args: ExportArgs, output: &Output, env: &Env) -> Result<Exit, Failure> {
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
    let cluster = place::cluster(args.which.cluster.as_deref(), env)?;
    let repository = open_vault(&args.vault, Some(&args.keys), env, output).await?;
    let role = args.object.as_deref();
    let backup = match role {
        None => find::find_snapshot(&repository, cluster.as_ref(), &args.which.backup).await?,
        Some(role) => {
            find::find_object(&repository, cluster.as_ref(), &args.which.backup, role).await?
        }
    };
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
    Ok(Exit::Ok)
}

#[derive(Serialize)]
struct Imported {
    imported: Vec<ImportReport>,
}

pub(crate) async fn import(args: ImportArgs, output: &Output, env: &Env) -> Result<Exit, Failure> {
    let cluster = place::cluster(args.cluster.as_deref(), env)?.ok_or_else(|| {
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
    let repository = open_vault(&args.vault, Some(&args.keys), env, output).await?;
    let options = ImportOptions {
        cluster,
        lineage,
        labels: labels(&args.labels),
        write: write_options(&args.write),
    };
    let mut imported = Imported { imported: Vec::new() };
    for path in &args.files {
        let report = files::import(&repository, path, &options, &output.events()).await?;
        if !output.is_json() {
            output.text(&format!(
                "{}  {}  revision {}  {} → {}\n",
                report.id,
                super::human::printable(&report.path.display().to_string()),
                count(report.revision),
                size(report.size),
                size(report.stored_size)
            ));
        }
        imported.imported.push(report);
    }
    if output.is_json() {
        output.result(&imported, String::new);
    }
    Ok(Exit::Ok)
}
