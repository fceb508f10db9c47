//! The command line: the only place that prints, and the only one that reads the
//! process's environment.
//!
//! Data goes to stdout, everything else to stderr. With `--json` stdout holds one
//! JSON object, errors included.

mod args;
pub mod exit_code;
mod hints;
mod human;
mod output;
mod progress;
mod settings;
mod signal;
mod table;

mod backup;
mod cluster;
mod config;
mod defrag;
mod discover;
mod files;
mod init;
mod inspect;
mod journal;
mod list;
mod member;
mod node_agent;
mod plan;
mod preflight;
mod recover;
mod recover_cluster;
mod restore;
mod returning;
mod shell;
mod state;
mod status;
mod verify;
mod ways;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind as ClapErrorKind;

use crate::config::{Env, Setup};
use crate::operation::{Failure, FailureKind};
use args::{Cli, Command, ConfigCommand, RestoreCommand};
use exit_code::Exit;
use journal::JournalCommand;
use member::MemberCommand;
use output::Output;
use recover::RecoverCommand;
use state::StateCommand;
use ways::Typed;

/// The command line as clap knows it: for reference pages and whoever checks examples.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Runs the program with `args` (the first is its own name) and says how it ended.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, &args).into(),
    };
    let output = Output::new(&cli.global);
    let setup = Setup::new(Env::of_process(), cli.global.config);
    let exit = match execute(cli.command, &args, &output, &setup) {
        Ok(exit) => exit,
        Err(failure) => {
            output.failure(&failure);
            Exit::Failed(failure.kind)
        }
    };
    match exit {
        Exit::Ok if output::result_was_lost() => Exit::Failed(FailureKind::Error),
        exit => exit,
    }
    .into()
}

fn execute(
    command: Command,
    args: &[OsString],
    output: &Output,
    setup: &Setup,
) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(2)
        .thread_name("etcdvault-io")
        .build()
        .map_err(|error| {
            Failure::new(FailureKind::Error, "cannot start the runtime").because(error)
        })?;
    // An agent's threads remove what they had begun.
    let agent = matches!(command, Command::NodeAgent(_));
    let settle = std::time::Duration::from_secs(if agent { 60 } else { 2 });
    let result = runtime.block_on(async {
        let result = run_command(command, args, output, setup).await;
        if matches!(&result, Err(Failure { kind: FailureKind::Signal(_), .. })) {
            signal::settle().await;
        }
        result
    });
    // Blocking threads of a given-up operation must not hold the exit up.
    runtime.shutdown_timeout(settle);
    result
}

async fn run_command(
    command: Command,
    args: &[OsString],
    output: &Output,
    setup: &Setup,
) -> Result<Exit, Failure> {
    use signal::{or_interrupted, with_grace};
    match command {
        Command::Init(args) => or_interrupted(init::run(args, output, setup)).await,
        Command::Backup(args) => {
            with_grace(|interrupt| backup::run(args, output, setup, interrupt)).await
        }
        Command::List(args) => or_interrupted(list::run(args, output, setup)).await,
        Command::Show(args) => or_interrupted(list::show(args, output, setup)).await,
        Command::Verify(args) => or_interrupted(verify::run(args, output, setup)).await,
        Command::Export(args) => or_interrupted(files::export(args, output, setup)).await,
        Command::Import(args) => or_interrupted(files::import(args, output, setup)).await,
        Command::Inspect(args) => or_interrupted(inspect::run(args, output, setup)).await,
        Command::Status(args) => or_interrupted(status::run(args, output, setup)).await,
        Command::Member(MemberCommand::List(args)) => {
            or_interrupted(member::list(args, output, setup)).await
        }
        Command::Member(command) => member::change(command, &Typed::new(args), output, setup).await,
        Command::Defrag(args) => or_interrupted(defrag::run(*args, output, setup)).await,
        Command::MoveLeader(args) => {
            or_interrupted(defrag::move_leader(*args, output, setup)).await
        }
        Command::Discover(args) => or_interrupted(discover::run(*args, output, setup)).await,
        Command::Restore(RestoreCommand::DataDir(args)) => {
            with_grace(async |mut interrupt| {
                restore::data_dir(*args, output, setup, &mut interrupt).await
            })
            .await
        }
        Command::Recover(RecoverCommand::DataDir(args)) => {
            with_grace(async |mut interrupt| recover::data_dir(args, output, &mut interrupt).await)
                .await
        }
        Command::Recover(RecoverCommand::Cluster(own)) => {
            recover_cluster::run(own, &Typed::new(args), output, setup).await
        }
        Command::Restore(RestoreCommand::Cluster(own)) => {
            cluster::run(own, &Typed::new(args), output, setup).await
        }
        Command::Preflight(args) => or_interrupted(preflight::run(*args, output, setup)).await,
        Command::Config(ConfigCommand::Check(args)) => config::check(&args, output, setup),
        Command::Config(ConfigCommand::Show(args)) => config::show(&args, output, setup),
        Command::State(command) => match command {
            StateCommand::Save(args) => {
                with_grace(|interrupt| state::save_command(args, output, setup, interrupt)).await
            }
            StateCommand::List(args) => or_interrupted(state::list(args, output, setup)).await,
            StateCommand::Show(args) => or_interrupted(state::show(args, output, setup)).await,
            StateCommand::Diff(args) => {
                or_interrupted(state::diff_command(args, output, setup)).await
            }
            StateCommand::Return(own) => {
                returning::run(own, &Typed::new(args), output, setup).await
            }
        },
        Command::Journal(command) => match command {
            JournalCommand::List(args) => or_interrupted(journal::list(args, output, setup)).await,
            JournalCommand::Show(own) => {
                or_interrupted(journal::show(own, &Typed::new(args), output, setup)).await
            }
        },
        Command::Resume(own) => journal::resume(*own, &Typed::new(args), output, setup).await,
        Command::Rollback(own) => journal::rollback(own, &Typed::new(args), output, setup).await,
        Command::Completions(args) => Ok(shell::completions(&args, output)),
        Command::Man(args) => shell::man(&args, output),
        Command::NodeAgent(args) => node_agent::run(args).await.map(|()| Exit::Ok),
    }
}

/// Help and version go to stdout with 0, mistakes to stderr with 2.
fn usage(error: &clap::Error, args: &[OsString]) -> Exit {
    match error.kind() {
        ClapErrorKind::DisplayHelp | ClapErrorKind::DisplayVersion => {
            let _ = error.print();
            Exit::Ok
        }
        ClapErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            Exit::Failed(FailureKind::Usage)
        }
        _ => {
            let failure = mistake(error, args);
            if wants_json(args) {
                output::print_json_failure(&failure);
            } else {
                // clap's own tip is in there already.
                let _ = error.print();
                if let Some(hint) = hints::mistake(error, args) {
                    output::hint(&hint);
                }
            }
            Exit::Failed(FailureKind::Usage)
        }
    }
}

/// Whether JSON was asked for on a command line that could not be parsed.
fn wants_json(args: &[OsString]) -> bool {
    let after_write_out = args
        .windows(2)
        .any(|pair| (pair[0] == "-w" || pair[0] == "--write-out") && pair[1] == "json");
    after_write_out
        || args.iter().any(|arg| {
            arg == "--json" || arg == "-wjson" || arg == "-w=json" || arg == "--write-out=json"
        })
}

/// What clap says of a mistake, as a failure: its first line, the lines that belong
/// to it, and its tip or ours as the hint.
fn mistake(error: &clap::Error, args: &[OsString]) -> Failure {
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let what = lines.next().unwrap_or("the command line is wrong").trim_start_matches("error: ");
    let mut failure = Failure::new(FailureKind::Usage, what);
    for line in lines {
        if let Some(tip) = line.strip_prefix("tip: ") {
            failure = failure.hint(tip);
        } else if line.starts_with("Usage:") || line.starts_with("For more information") {
            break;
        } else {
            failure = failure.detail(line);
        }
    }
    let own = hints::mistake(error, args);
    failure.hint = own.or(failure.hint);
    failure
}
