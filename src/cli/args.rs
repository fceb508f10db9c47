//! The raw flags. What they mean is decided in `config`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::connection::RawConnection;

/// Backs up, restores and migrates etcd clusters, and proves what it did.
#[derive(Debug, Parser)]
#[command(
    name = "etcdvault",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "Every flag --some-thing can also be set by the variable ETCDVAULT_SOME_THING; \
                  etcdctl's own variables (ETCDCTL_ENDPOINTS, ETCDCTL_CACERT, …) are honoured.\n\
                  Exit codes: 0 done, 1 error, 2 usage, 3 partial or not proven, 10 no vault, \
                  11 busy, 12 key, 20 corrupt, 30 etcd, 40 storage, 130/143 signal."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Print one JSON object instead of text, errors included
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// How to print the result; the same as --json with `json`
    #[arg(short = 'w', long, global = true, value_enum, value_name = "FORMAT")]
    pub(crate) write_out: Option<Format>,
    /// Print only results and errors: no progress, no notes
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// A format of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Text and tables for people
    Table,
    /// One JSON object
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Status(StatusArgs),
}

/// Show every member of the live cluster
///
/// A member that does not answer is a row with its error (exit code 3); when no
/// member answers the exit code is 30.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    etcdvault status --endpoints https://10.0.0.11:2379 --cacert ca.crt --cert c.crt --key c.key\n  \
    etcdvault status --json | jq '.members[].status.raft_index'")]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

/// How to reach etcd, as etcdctl has it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionArgs {
    /// Members to ask, comma-separated [default: 127.0.0.1:2379] [env: ETCDCTL_ENDPOINTS]
    #[arg(long, value_name = "URL,…")]
    endpoints: Option<String>,
    /// CA that signed the members' certificates (PEM) [env: ETCDCTL_CACERT]
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// Client certificate (PEM) [env: ETCDCTL_CERT]
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Key of the client certificate (PEM) [env: ETCDCTL_KEY]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// etcd user; the password comes from --password-file or ETCDCTL_PASSWORD [env: ETCDCTL_USER]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// File with the etcd user's password
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Bound on connecting [default: 5s] [env: ETCDCTL_DIAL_TIMEOUT]
    #[arg(long, value_name = "TIME")]
    dial_timeout: Option<String>,
    /// Bound on a short call [default: 10s] [env: ETCDCTL_COMMAND_TIMEOUT]
    #[arg(long, value_name = "TIME")]
    command_timeout: Option<String>,
}

impl ConnectionArgs {
    pub(crate) fn raw(&self) -> RawConnection {
        RawConnection {
            endpoints: self.endpoints.clone(),
            cacert: self.cacert.clone(),
            cert: self.cert.clone(),
            key: self.key.clone(),
            user: self.user.clone(),
            password_file: self.password_file.clone(),
            dial_timeout: self.dial_timeout.clone(),
            command_timeout: self.command_timeout.clone(),
        }
    }
}
