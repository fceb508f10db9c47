//! Runs the program under test as a person would, with an environment of its own.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use crate::etcd::Cluster;
use crate::{Error, Result};

/// No command of a test takes longer.
const BOUND: Duration = Duration::from_secs(300);

/// The program with its settings.
#[derive(Debug, Clone)]
pub struct Cli {
    wrapper: Vec<OsString>,
    program: PathBuf,
    variables: BTreeMap<OsString, OsString>,
}

/// What a run of the program did.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it said.
    pub stderr: String,
    /// What it was called with, for messages.
    pub called: String,
}

impl Ran {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output as one JSON value.
    ///
    /// # Panics
    ///
    /// When it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_slice(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!("{error}: {self}"),
        }
    }

    /// The same run, when its exit code was `code`.
    ///
    /// # Panics
    ///
    /// When it was another.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = &self.stdout[..self.stdout.len().min(4000)];
        write!(
            f,
            "{} → {:?}\n{}\n{}",
            self.called,
            self.code,
            String::from_utf8_lossy(shown),
            self.stderr
        )
    }
}

impl Cli {
    /// The program at `program`, without any variable of the caller's.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { wrapper: Vec::new(), program: program.into(), variables: BTreeMap::new() }
    }

    /// Has another program start it: `wrapper` is that one with its arguments.
    pub fn wrapped<A: Into<OsString>>(mut self, wrapper: impl IntoIterator<Item = A>) -> Self {
        self.wrapper = wrapper.into_iter().map(Into::into).collect();
        self
    }

    /// Sets a variable for every run.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// Sets the vault.
    pub fn vault(self, vault: impl Into<OsString>) -> Self {
        self.env("ETCDVAULT_VAULT", vault)
    }

    /// Sets what is needed to reach `cluster`.
    pub fn cluster(self, cluster: &Cluster) -> Self {
        let mut cli = self.env("ETCDCTL_ENDPOINTS", cluster.endpoints().join(","));
        if let Some(tls) = cluster.tls() {
            cli = cli
                .env("ETCDCTL_CACERT", tls.ca())
                .env("ETCDCTL_CERT", &tls.root.cert)
                .env("ETCDCTL_KEY", &tls.root.key);
        }
        cli
    }

    /// A command that a test starts itself.
    pub fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut words = self.wrapper.iter().map(OsString::as_os_str);
        let mut command = match words.next() {
            Some(wrapper) => Command::new(wrapper),
            None => Command::new(&self.program),
        };
        command.args(words);
        if !self.wrapper.is_empty() {
            command.arg(&self.program);
        }
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TMPDIR", std::env::temp_dir())
            .envs(&self.variables)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs the program to its end.
    pub async fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Ran> {
        self.run_with(args, None).await
    }

    /// The same with a file as standard input.
    pub async fn run_with<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
        stdin: Option<&Path>,
    ) -> Result<Ran> {
        let mut command = self.command(args);
        if let Some(path) = stdin {
            let file = std::fs::File::open(path)
                .map_err(|source| Error::because(format!("opening {}", path.display()), source))?;
            command.stdin(file);
        }
        let called = format!("{:?}", command.as_std());
        let output = tokio::time::timeout(BOUND, command.output())
            .await
            .map_err(|_| Error::new(format!("{called} did not end")))?
            .map_err(|source| Error::because(format!("running {called}"), source))?;
        Ok(Ran {
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            called,
        })
    }
}
