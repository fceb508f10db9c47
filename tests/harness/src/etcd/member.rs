//! One member: its names, ports, directories and process.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions, GetOptions, StatusResponse};
use rustix::process::Signal;

use super::Etcd;
use crate::port::Port;
use crate::process::{Process, tail};
use crate::{Error, Result};

/// From SIGTERM to the end; etcd hands over leadership and closes streams.
const STOP_BOUND: Duration = Duration::from_secs(60);
/// From the start to answering, on a machine that does other things too.
pub(super) const READY_BOUND: Duration = Duration::from_secs(120);
/// One question to a member that may not be up yet.
const ASK_BOUND: Duration = Duration::from_secs(10);

/// A member of a [`super::Cluster`], running or not.
#[derive(Debug)]
pub struct Member {
    pub(super) etcd: Etcd,
    pub(super) name: String,
    pub(super) scheme: &'static str,
    pub(super) client_port: Port,
    pub(super) peer_port: Port,
    pub(super) data_dir: PathBuf,
    pub(super) wal_dir: Option<PathBuf>,
    pub(super) log: PathBuf,
    /// `--initial-cluster` and the token, as the cluster was when this member
    /// joined; etcd reads them only with an empty data directory.
    pub(super) initial_cluster: String,
    pub(super) token: String,
    pub(super) state: &'static str,
    /// Joined as a learner, which refuses most requests.
    pub(super) learner: bool,
    /// Never start on an empty data directory.
    pub(super) only_existing: bool,
    pub(super) args: Vec<OsString>,
    pub(super) connect: ConnectOptions,
    pub(super) process: Option<Process>,
}

impl Member {
    /// `m1`, `m2` …
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The programs it runs.
    pub fn etcd(&self) -> &Etcd {
        &self.etcd
    }

    /// Another version from the next start on.
    pub fn set_etcd(&mut self, etcd: Etcd) {
        self.etcd = etcd;
    }

    /// `https://127.0.0.1:…` for clients.
    pub fn client_url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.client_port.number())
    }

    /// `https://127.0.0.1:…` for the other members.
    pub fn peer_url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.peer_port.number())
    }

    /// The port for clients.
    pub fn client_port(&self) -> u16 {
        self.client_port.number()
    }

    /// The port for the other members.
    pub fn peer_port(&self) -> u16 {
        self.peer_port.number()
    }

    /// `--data-dir`; absent until the first start.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Another data directory, a restored one, from the next start on. The
    /// member refuses to start when it holds no log (etcd would begin blank).
    pub fn set_data_dir(&mut self, directory: impl Into<PathBuf>) {
        self.data_dir = directory.into();
        self.only_existing = true;
    }

    /// The database file.
    pub fn database(&self) -> PathBuf {
        self.data_dir.join("member/snap/db")
    }

    /// The directory of the write-ahead log.
    pub fn wal_dir(&self) -> PathBuf {
        self.wal_dir.clone().unwrap_or_else(|| self.data_dir.join("member/wal"))
    }

    /// A log directory of its own from the next start on; `None` puts it back.
    pub fn set_wal_dir(&mut self, directory: Option<PathBuf>) {
        self.wal_dir = directory;
    }

    /// The path of its log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Starts it and waits until it answers with a leader.
    pub async fn start(&mut self) -> Result<()> {
        self.start_with::<&str>(&[]).await
    }

    /// As [`Member::start`], with arguments for this start alone
    /// (`--force-new-cluster`).
    pub async fn start_with<A: AsRef<std::ffi::OsStr>>(&mut self, args: &[A]) -> Result<()> {
        self.spawn_with(args)?;
        self.wait_ready().await
    }

    /// Starts it without waiting.
    pub fn spawn(&mut self) -> Result<()> {
        self.spawn_with::<&str>(&[])
    }

    /// As [`Member::spawn`], with arguments for this start alone.
    pub fn spawn_with<A: AsRef<std::ffi::OsStr>>(&mut self, more: &[A]) -> Result<()> {
        if self.is_running()? {
            return Err(Error::new(format!("{} runs already", self.name)));
        }
        if self.only_existing && !super::has_wal(&self.wal_dir()) {
            let wal = self.wal_dir();
            let text = format!("{} would begin blank: no log in {}", self.name, wal.display());
            return Err(Error::new(text));
        }
        let mut args: Vec<OsString> = Vec::new();
        let mut add = |flag: &str, value: OsString| {
            args.push(flag.into());
            args.push(value);
        };
        add("--name", self.name.clone().into());
        add("--data-dir", self.data_dir.clone().into());
        if let Some(directory) = &self.wal_dir {
            add("--wal-dir", directory.clone().into());
        }
        add("--listen-client-urls", self.client_url().into());
        add("--advertise-client-urls", self.client_url().into());
        add("--listen-peer-urls", self.peer_url().into());
        add("--initial-advertise-peer-urls", self.peer_url().into());
        add("--initial-cluster", self.initial_cluster.clone().into());
        add("--initial-cluster-token", self.token.clone().into());
        add("--initial-cluster-state", self.state.into());
        // A busy machine must not change leaders behind a test's back: etcd's own second
        // without a heartbeat passes there now and then.
        add("--heartbeat-interval", "300".into());
        add("--election-timeout", "3000".into());
        args.extend(self.args.iter().cloned());
        args.extend(more.iter().map(|arg| arg.as_ref().to_owned()));
        self.process = Some(Process::start(&self.etcd.server(), args, &[], &self.log)?);
        Ok(())
    }

    /// Whether its process runs (or is paused).
    pub fn is_running(&mut self) -> Result<bool> {
        match &mut self.process {
            Some(process) => Ok(process.ended()?.is_none()),
            None => Ok(false),
        }
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        let mut process = self.take_process()?;
        process.signal(Signal::TERM)?;
        process.wait(STOP_BOUND).await
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.take_process()?.kill()
    }

    /// SIGSTOP: it hangs, and connections to it stay open. No thread of it runs any
    /// more when this returns.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)?;
        let tasks = PathBuf::from(format!("/proc/{}/task", self.pid().unwrap_or_default()));
        let start = Instant::now();
        while start.elapsed() < STOP_BOUND {
            if all_stopped(&tasks) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(Error::new(format!("{} does not stop at SIGSTOP", self.name)))
    }

    /// SIGCONT.
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Stops and starts it.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.start().await
    }

    /// Removes the data directory (and the log directory) of a stopped member.
    pub fn delete_data(&mut self) -> Result<()> {
        if self.is_running()? {
            return Err(Error::new(format!("{} runs; its data stays", self.name)));
        }
        for directory in [Some(&self.data_dir), self.wal_dir.as_ref()].into_iter().flatten() {
            match std::fs::remove_dir_all(directory) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    let text = format!("removing {}", directory.display());
                    return Err(Error::because(text, source));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A client of this member alone, with the cluster's `root` certificate
    /// where there is TLS.
    pub async fn client(&self) -> Result<Client> {
        self.client_with(self.connect.clone()).await
    }

    /// A client of this member alone, with options of the caller's (start from
    /// [`super::Cluster::connect_options`]).
    pub async fn client_with(&self, options: ConnectOptions) -> Result<Client> {
        Client::connect([self.client_url()], Some(options))
            .await
            .map_err(|source| Error::because(format!("connecting to {}", self.name), source))
    }

    /// What it says of itself.
    pub async fn status(&self) -> Result<StatusResponse> {
        let ask =
            async { self.client().await?.status().await.map_err(|e| self.failed("status", e)) };
        self.bounded(ask).await
    }

    /// HashKV at a revision (0: its newest).
    pub async fn hash_kv(&self, revision: i64) -> Result<u32> {
        let mut client = self.client().await?;
        let answer = client.hash_kv(revision).await;
        Ok(answer.map_err(|source| self.failed("HashKV", source))?.hash())
    }

    /// Waits until it answers, knows a leader and reads through it.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            let Some(process) = &mut self.process else {
                return Err(Error::new(format!("{} was not started", self.name)));
            };
            if let Some(status) = process.ended()? {
                let tail = process.tail();
                return Err(Error::new(format!("{} ended ({status})\n{tail}", self.name)));
            }
            let last = match self.ask().await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if start.elapsed() > READY_BOUND {
                let text = format!(
                    "{} was not ready within {READY_BOUND:?}\n{}",
                    self.name,
                    tail(&self.log)
                );
                return Err(Error::because(text, last));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// One try of [`Member::wait_ready`]. A refusal for lack of a user is an
    /// answer; a learner serves no reads through the leader.
    async fn ask(&self) -> Result<()> {
        let status = self.status().await?;
        if status.leader() == 0 {
            return Err(Error::new(format!("{} has no leader", self.name)));
        }
        if status.is_learner() {
            return Ok(());
        }
        let read = async {
            let options = GetOptions::new().with_count_only();
            match self.client().await?.get("harness-ready", Some(options)).await {
                Err(etcd_client::Error::GRpcStatus(status)) if wants_a_user(status.message()) => {
                    Ok(())
                }
                answer => answer.map(|_| ()).map_err(|source| self.failed("a read", source)),
            }
        };
        self.bounded(read).await
    }

    async fn bounded<T>(&self, ask: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout(ASK_BOUND, ask).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::new(format!("{} did not answer within {ASK_BOUND:?}", self.name))),
        }
    }

    fn failed(&self, act: &str, source: etcd_client::Error) -> Error {
        Error::because(format!("asking {} for {act}", self.name), source)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        match &mut self.process {
            Some(process) => process.signal(signal),
            None => Err(Error::new(format!("{} does not run", self.name))),
        }
    }

    fn take_process(&mut self) -> Result<Process> {
        self.process.take().ok_or_else(|| Error::new(format!("{} does not run", self.name)))
    }
}

fn wants_a_user(message: &str) -> bool {
    ["permission denied", "user name is empty", "invalid auth token"]
        .iter()
        .any(|refusal| message.contains(refusal))
}

/// Whether every thread below a process's `task` directory is stopped.
fn all_stopped(tasks: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(tasks) else { return false };
    entries.flatten().all(|task| {
        let state = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        // proc(5): the state follows the name, which stands in parentheses.
        state.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    })
}
