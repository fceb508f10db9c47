//! etcd's own program over a copy of a member's directory: it applies what the log
//! has and ends.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::WHAT;
use crate::datadir::inspect::Inspection;
use crate::datadir::layout::DataDir;
use crate::etcd::Connector;
use crate::event::Events;
use crate::operation::failure::{Failure, FailureKind};
use crate::types::{ConnectionSettings, Endpoint, Version};

/// How long etcd may take to start and to apply: a log holds at most some hundred
/// thousand entries that are not in the database.
const APPLY_BOUND: Duration = Duration::from_secs(300);
/// How long it may take to end.
const END_BOUND: Duration = Duration::from_secs(60);
const EVERY: Duration = Duration::from_millis(100);
/// What is shown of etcd's log when it fails.
const LOG_LINES: usize = 5;

pub(super) struct Replay<'a> {
    pub(super) etcd: &'a Path,
    pub(super) copy: &'a DataDir,
    /// The entry that must be applied.
    pub(super) target: u64,
    /// What the directory's database says.
    pub(super) database: &'a Inspection,
}

impl Replay<'_> {
    /// Runs etcd until the entry is applied; its version.
    pub(super) async fn run(&self, scratch: &Path, events: &Events) -> Result<String, Failure> {
        let version = self.version().await?;
        events.started(format!("replay the log with etcd {version}"), None);
        let replayed = self.replay(&scratch.join("etcd.log")).await;
        events.finished();
        replayed.map(|()| version.to_string())
    }

    fn failed(&self, why: impl std::fmt::Display) -> Failure {
        Failure::new(FailureKind::Error, format!("{WHAT}: {why}"))
    }

    /// The program's version, which must be the store's.
    async fn version(&self) -> Result<Version, Failure> {
        let program = self.etcd.display();
        let wants = match self.wanted() {
            Some(version) => format!("etcd {}.{}", version.major, version.minor),
            None => "etcd of the version that the members ran".to_owned(),
        };
        let hint = format!(
            "{wants} is needed to bring the log into the database: --etcd PROGRAM names it"
        );
        let done = Command::new(self.etcd)
            .arg("--version")
            .env_clear()
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let done = match tokio::time::timeout(END_BOUND, done).await {
            Ok(done) => done.map_err(|error| {
                let failure = Failure::new(
                    FailureKind::Usage,
                    format!("{WHAT}: {program} cannot be started"),
                );
                failure.because(error).hint(hint.clone())
            })?,
            Err(_) => return Err(self.failed(format!("{program} --version does not end"))),
        };
        let text = String::from_utf8_lossy(&done.stdout);
        let version = text
            .lines()
            .find_map(|line| line.strip_prefix("etcd Version: "))
            .and_then(|version| version.trim().parse::<Version>().ok())
            .ok_or_else(|| {
                let why = format!("{WHAT}: {program} is not etcd");
                Failure::new(FailureKind::Usage, why).hint(hint.clone())
            })?;
        match self.wanted() {
            Some(wanted) if (wanted.major, wanted.minor) != (version.major, version.minor) => {
                let why = format!("{WHAT}: {program} is etcd {version}, the store is of {wanted}");
                Err(Failure::new(FailureKind::Usage, why).hint(hint))
            }
            _ => Ok(version),
        }
    }

    /// The version that the cluster ran, as its database says.
    fn wanted(&self) -> Option<Version> {
        let content = &self.database.content;
        let text = content.cluster_version.as_ref().or(content.storage_version.as_ref())?;
        text.parse().ok()
    }

    async fn replay(&self, log: &Path) -> Result<(), Failure> {
        let sink = std::fs::File::create_new(log)
            .map_err(|error| self.failed("etcd's log cannot be written").because(error))?;
        let errors = sink
            .try_clone()
            .map_err(|error| self.failed("etcd's log cannot be written").because(error))?;
        let (client, peer) = free_ports()
            .map_err(|error| self.failed("no port is free on loopback").because(error))?;
        let mut child = Command::new(self.etcd)
            .args(self.arguments(client, peer))
            // What is set for the member of this machine is not meant for this one.
            .env_clear()
            .stdin(Stdio::null())
            .stdout(sink)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| self.failed("etcd cannot be started").because(error))?;
        self.applied(&mut child, client, log).await?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // One that ended by itself meanwhile is waited for below.
            let _ = kill_process(pid, Signal::TERM);
        }
        match tokio::time::timeout(END_BOUND, child.wait()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.failed("etcd's end was not seen").because(error)),
            Err(_) => Err(self.with_log(self.failed("etcd does not end"), log)),
        }
    }

    fn arguments(&self, client: u16, peer: u16) -> Vec<OsString> {
        let client = format!("http://127.0.0.1:{client}");
        let peer = format!("http://127.0.0.1:{peer}");
        let mut arguments: Vec<OsString> = vec!["--force-new-cluster".into()];
        for (flag, value) in [
            ("--name", "recovered"),
            ("--listen-client-urls", &client),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
            ("--initial-cluster", &format!("recovered={peer}")),
            // The space is what the database has, whatever was allowed.
            ("--quota-backend-bytes", "-1"),
        ] {
            arguments.push(flag.into());
            arguments.push(value.into());
        }
        arguments.push("--data-dir".into());
        arguments.push(self.copy.path().into());
        arguments
    }

    /// Waits until the entry is applied.
    async fn applied(&self, child: &mut Child, port: u16, log: &Path) -> Result<(), Failure> {
        let endpoint = Endpoint::parse(&format!("http://127.0.0.1:{port}"), false)
            .map_err(|error| self.failed("etcd's address").because(error))?;
        let settings = ConnectionSettings {
            endpoints: vec![endpoint.clone()],
            ca_file: None,
            cert_file: None,
            key_file: None,
            credentials: None,
            dial_timeout: Duration::from_secs(5),
            command_timeout: Duration::from_secs(10),
        };
        let connector = Connector::new(&settings)
            .map_err(|error| self.failed("etcd cannot be asked").because(error))?;
        let start = Instant::now();
        loop {
            let ended =
                child.try_wait().map_err(|error| self.failed("etcd was lost").because(error))?;
            if let Some(status) = ended {
                let failure = self.failed(format!("etcd does not start from the copy ({status})"));
                return Err(self.with_log(failure, log));
            }
            if let Ok(mut member) = connector.connect(&endpoint).await
                && let Ok(status) = member.status().await
                && status.leader.is_some()
                && status.raft_applied_index >= self.target
            {
                return Ok(());
            }
            if start.elapsed() > APPLY_BOUND {
                let failure = self.failed(format!(
                    "etcd did not apply entry {} within {} s",
                    self.target,
                    APPLY_BOUND.as_secs()
                ));
                return Err(self.with_log(failure, log));
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Adds the last lines of etcd's log.
    fn with_log(&self, mut failure: Failure, log: &Path) -> Failure {
        let text = std::fs::read(log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
            let line: String = line.chars().take(400).collect();
            failure = failure.detail(format!("etcd: {line}"));
        }
        failure
    }
}

/// Two ports of loopback that nobody holds now.
fn free_ports() -> std::io::Result<(u16, u16)> {
    let bind = || TcpListener::bind(("127.0.0.1", 0));
    let (one, two) = (bind()?, bind()?);
    Ok((one.local_addr()?.port(), two.local_addr()?.port()))
}
