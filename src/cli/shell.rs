//! `etcdvault completions` and `etcdvault man`.

use clap::CommandFactory;

use super::args::{Cli, CompletionsArgs, ManArgs};
use super::exit_code::Exit;
use super::output::Output;
use crate::operation::{Failure, FailureKind};

pub(crate) fn completions(args: &CompletionsArgs, output: &Output) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "etcdvault", &mut script);
    output.text(&String::from_utf8_lossy(&script));
    Exit::Ok
}

pub(crate) fn man(args: &ManArgs, output: &Output) -> Result<Exit, Failure> {
    let what = format!("the manual pages were not written to {}", args.directory.display());
    clap_mangen::generate_to(Cli::command(), &args.directory)
        .map_err(|error| Failure::new(FailureKind::Error, what).because(error))?;
    let directory = super::human::printable(&args.directory.display().to_string());
    output.note(&format!("manual pages written to {directory}"));
    Ok(Exit::Ok)
}
