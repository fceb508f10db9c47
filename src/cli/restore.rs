//! `etcdvault restore data-dir`.

use std::ffi::OsStr;
use std::path::Path;

use super::args::RestoreDataDirArgs;
use super::exit_code::Exit;
use super::human::{count, duration, printable, size};
use super::output::Output;
use super::settings::{find_holding, open_vault};
use super::table::{Align, Table};
use crate::config::{Setup, owner};
use crate::operation::content::SNAPSHOT_ROLE;
use crate::operation::find;
use crate::operation::interrupt::Interrupt;
use crate::operation::own_way;
use crate::operation::restore::{RestoreReport, Source, data_dir as restore_data_dir};
use crate::operation::vocabulary::{RestoreOptions as Options, RestoreTarget as Target};
use crate::operation::{Failure, FailureKind};

pub(crate) async fn data_dir(
    args: RestoreDataDirArgs,
    output: &Output,
    setup: &Setup,
    interrupt: &mut Interrupt,
) -> Result<Exit, Failure> {
    let mut options = options(&args)?;
    if !args.for_another_machine {
        own_way::refused_here("nothing was restored").await.map_err(for_another)?;
    }
    let events = output.events();
    let report = if args.source == "-" {
        if std::io::IsTerminal::is_terminal(&std::io::stdin()) {
            return Err(Failure::new(
                FailureKind::Usage,
                "a snapshot is awaited on standard input, which is a terminal",
            )
            .hint("zstd -dc snapshot.db.zst | etcdvault restore data-dir - …, or name a file"));
        }
        restore_data_dir(Source::Stdin, options, &events, interrupt).await?
    } else if let Some(name) = backup_name(&args.source) {
        let choice = setup.choose(args.cluster.as_deref())?;
        if let (None, Some(text)) = (&args.owner, choice.owner()) {
            options.owner = Some(owner::resolve(text)?);
        }
        let found = async {
            let repository = open_vault(&args.vault, Some(&args.keys), &choice, output).await?;
            let backup = find_holding(&repository, &choice, name, SNAPSHOT_ROLE).await?;
            Ok::<_, Failure>((repository, backup))
        };
        let (repository, backup) = interrupt
            .or("nothing was restored", found)
            .await?
            .map_err(|failure| or_a_file(failure, name))?;
        let source = Source::Backup(&repository, &backup);
        restore_data_dir(source, options, &events, interrupt).await?
    } else {
        let source = Source::File(args.source.clone().into());
        restore_data_dir(source, options, &events, interrupt).await?
    };
    output.result(&report, || text(&report));
    if let Some(proof) = &report.proof {
        output.mark(&report.source, proof);
    }
    output.note(&next(&args, &report));
    Ok(Exit::Ok)
}

/// The source as the name of a backup, unless it exists as a file or can only be one;
/// `latest` and ids are backups even where a file of that name lies about, as nobody
/// means that one.
fn backup_name(source: &OsStr) -> Option<&str> {
    let text = source.to_str().filter(|text| !text.contains(['/', '.']))?;
    (find::selector(text).is_ok() || !Path::new(text).exists()).then_some(text)
}

fn for_another(refused: Failure) -> Failure {
    refused.detail("--for-another-machine builds the directory here all the same")
}

/// Whoever names a file `snapshot` means the file: says how to name it.
fn or_a_file(mut failure: Failure, name: &str) -> Failure {
    if failure.kind == FailureKind::Usage && Path::new(name).exists() {
        failure.hint = Some(format!(
            "{name} was taken for the id of a backup; the file is named {}",
            super::hints::shell_word(&format!("./{name}"))
        ));
    }
    failure
}

fn options(args: &RestoreDataDirArgs) -> Result<Options, Failure> {
    let usage = |what: String| Failure::new(FailureKind::Usage, what);
    let urls = |text: &str| text.split(',').map(|url| url.trim().to_owned()).collect::<Vec<_>>();
    let targets = if args.all_members {
        let mut names: Vec<&str> = Vec::new();
        for member in args.initial_cluster.split(',') {
            let name = member.split_once('=').map_or(member, |(name, _)| name).trim();
            // A name is repeated for a member with several URLs.
            if !names.contains(&name) {
                names.push(name);
            }
        }
        if let Some(name) = names.iter().find(|name| !is_file_name(name)) {
            return Err(usage(format!("{name:?} cannot be the name of a directory")));
        }
        names
            .into_iter()
            .map(|name| Target {
                name: name.to_owned(),
                data_dir: args.data_dir.join(name),
                wal_dir: None,
                advertised_peer_urls: Vec::new(),
            })
            .collect()
    } else {
        vec![Target {
            name: args.name.clone(),
            data_dir: args.data_dir.clone(),
            wal_dir: args.wal_dir.clone(),
            advertised_peer_urls: urls(&args.initial_advertise_peer_urls),
        }]
    };
    let target_version = args
        .etcd_version
        .as_deref()
        .map(|text| {
            text.parse().map_err(|error| {
                usage(format!("--etcd-version {text:?}: {error}")).hint("--etcd-version 3.6.16")
            })
        })
        .transpose()?;
    let owner = args.owner.as_deref().map(owner::resolve).transpose()?;
    Ok(Options {
        initial_cluster: args.initial_cluster.clone(),
        initial_cluster_token: args.initial_cluster_token.clone().unwrap_or_else(random_token),
        targets,
        bump_revision: args.bump_revision,
        mark_compacted: args.mark_compacted.unwrap_or(args.bump_revision > 0),
        skip_hash_check: args.skip_hash_check,
        target_version,
        owner,
        directory_mode: args.mode,
        file_mode: args.mode & 0o666,
        ..Options::default()
    })
}

fn is_file_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0'])
}

/// A token that no cluster ever had: members of the old one can never join.
fn random_token() -> String {
    format!("etcdvault-{}", ulid::Ulid::generate().to_string().to_lowercase())
}

fn text(report: &RestoreReport) -> String {
    let raised = if report.revision == report.snapshot_revision {
        String::new()
    } else {
        format!(" (raised from {})", count(report.snapshot_revision))
    };
    let compacted = match report.compact_revision {
        Some(revision) if revision == report.revision => ", all before it compacted",
        _ => "",
    };
    let mut text = format!(
        "restored {}: revision {}{raised}{compacted}  {} keys  {}  {}\n",
        printable(&report.source),
        count(report.revision),
        count(report.keys),
        size(report.database_size),
        duration(std::time::Duration::from_secs_f64(report.seconds)),
    );
    let mut columns = vec![
        ("MEMBER", Align::Left, 0),
        ("ID", Align::Left, 0),
        ("DATA DIRECTORY", Align::Left, 0),
    ];
    let elsewhere = report.members.iter().any(|member| member.wal_dir.is_some());
    if elsewhere {
        columns.push(("LOG", Align::Left, 0));
    }
    let mut table = Table::new(&columns);
    let shown = |path: &Path| printable(&path.display().to_string());
    for member in &report.members {
        let mut row =
            vec![printable(&member.name), member.member_id.to_string(), shown(&member.data_dir)];
        if elsewhere {
            row.push(member.wal_dir.as_deref().map_or_else(|| "inside".to_owned(), shown));
        }
        table.row(row);
    }
    text.push_str(&table.render(None));
    text.push_str(&format!(
        "before its first write every member answers HashKV {:08x} (etcdctl shows {})\n",
        report.hash_kv, report.hash_kv
    ));
    text
}

fn next(args: &RestoreDataDirArgs, report: &RestoreReport) -> String {
    let token = printable(&report.cluster_token);
    if !args.all_members
        && args.initial_cluster.contains(',')
        && args.initial_cluster_token.is_none()
    {
        return format!(
            "next: build the other members with the same token: --initial-cluster-token {token}"
        );
    }
    format!(
        "next: stop every old member and every kube-apiserver; then start etcd with \
         --initial-cluster {} --initial-cluster-token {token}",
        printable(&args.initial_cluster),
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::{Cli, Command, RestoreCommand};
    use super::*;

    fn parsed(more: &[&str]) -> Option<Options> {
        let start = ["etcdvault", "restore", "data-dir", "x.db", "--data-dir", "/etcd"];
        let cli = Cli::try_parse_from(start.iter().chain(more)).ok()?;
        let Command::Restore(RestoreCommand::DataDir(args)) = cli.command else { return None };
        options(&args).ok()
    }

    #[test]
    fn a_mode_is_that_of_directories() {
        for (flags, directory, file) in [
            (&[][..], 0o700, 0o600),
            (&["--mode", "0750"], 0o750, 0o640),
            (&["--mode", "711"], 0o711, 0o600),
        ] {
            let options = parsed(flags).expect("options");
            assert_eq!((options.directory_mode, options.file_mode), (directory, file));
        }
        for wrong in ["", "+700", "0o700", "600", "1777", "778", "rwx", "99999999999"] {
            assert!(parsed(&["--mode", wrong]).is_none(), "{wrong}");
        }
    }
}
