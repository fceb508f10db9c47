//! The `etcdvault` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcdvault::cli::run(std::env::args_os())
}
