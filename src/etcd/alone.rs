//! etcd's own program, alone over a copy of a member's directory: it brings what the log
//! has into the database, says its HashKV, and ends.
//!
//! - It listens on loopback only, at ports that were free, and makes a new cluster of the
//!   copy (`--force-new-cluster`): no client and no old member finds it.
//! - The program of a process is kept while it is needed, whatever becomes of the process.
//! - It does not outlive the call: whoever drops the call ends it.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::{ConnectionSettings, Connector, HashKv};
use crate::types::{Endpoint, Version};

/// How long etcd may take to start and to apply: a log holds at most some hundred
/// thousand entries that are not in the database.
const APPLY_BOUND: Duration = Duration::from_secs(300);
/// How long it may take to end, or to say its version.
const END_BOUND: Duration = Duration::from_secs(60);
const EVERY: Duration = Duration::from_millis(100);
/// What is shown of etcd's log when it fails.
const LOG_LINES: usize = 5;

/// Why it did not come to that.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct AloneError {
    /// What went wrong, as a fragment.
    pub why: String,
    /// Whether another program would do.
    pub program: bool,
    /// etcd's last words.
    pub log: Vec<String>,
    /// What to do.
    pub hint: Option<String>,
    /// The system's reason.
    #[source]
    pub source: Option<io::Error>,
}

impl AloneError {
    fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), program: false, log: Vec::new(), hint: None, source: None }
    }

    fn because(mut self, error: io::Error) -> Self {
        self.source = Some(error);
        self
    }

    fn with_log(mut self, log: &Path) -> Self {
        let text = std::fs::read(log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
        self.log = last.iter().map(|line| line.chars().take(400).collect()).collect();
        self
    }
}

/// etcd's program, of the version that a store needs.
#[derive(Debug)]
pub struct Program {
    /// As it was named.
    name: String,
    path: PathBuf,
    /// Keeps what `path` leads to.
    _file: Option<File>,
    version: Version,
}

impl Program {
    /// The program at `path`, or of that name in `PATH`, held against the version of the
    /// store where that is known.
    pub async fn find(path: &Path, wanted: Option<Version>) -> Result<Self, AloneError> {
        let name = path.display().to_string();
        let wants = match wanted {
            Some(version) => format!("etcd {}.{}", version.major, version.minor),
            None => "etcd of the version that the members ran".to_owned(),
        };
        let wrong = |why: String| AloneError {
            program: true,
            hint: Some(format!(
                "{wants} is needed to bring the log into the database: --etcd PROGRAM names it"
            )),
            ..AloneError::new(why)
        };
        let (path, file) = match path.starts_with("/proc") {
            false => (path.to_owned(), None),
            true => {
                // The process can end between two starts of its program.
                let file = File::open(path)
                    .map_err(|error| wrong(format!("{name} cannot be started")).because(error))?;
                let held = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
                (held, Some(file))
            }
        };
        let asked = Command::new(&path)
            .arg("--version")
            .env_clear()
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let said = match tokio::time::timeout(END_BOUND, asked).await {
            Ok(said) => {
                said.map_err(|error| wrong(format!("{name} cannot be started")).because(error))?
            }
            Err(_) => return Err(AloneError::new(format!("{name} --version does not end"))),
        };
        let text = String::from_utf8_lossy(&said.stdout);
        let version = text
            .lines()
            .find_map(|line| line.strip_prefix("etcd Version: "))
            .and_then(|version| version.trim().parse::<Version>().ok())
            .ok_or_else(|| wrong(format!("{name} is not etcd")))?;
        if let Some(wanted) = wanted.filter(|wanted| wanted.minor_line() != version.minor_line()) {
            return Err(wrong(format!("{name} is etcd {version}, the store is of {wanted}")));
        }
        Ok(Self { name, path, _file: file, version })
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Runs it over the data directory `copy` until the entry `target` is applied, and
    /// ends it. What it says goes to the new file `log`. Its HashKV where that is asked
    /// for and it says it.
    pub async fn replay(
        &self,
        copy: &Path,
        target: u64,
        log: &Path,
        hash: bool,
    ) -> Result<Option<HashKv>, AloneError> {
        let unwritten = |error| AloneError::new("etcd's log cannot be written").because(error);
        let sink = File::create_new(log).map_err(unwritten)?;
        let errors = sink.try_clone().map_err(unwritten)?;
        let (client, peer) = free_ports()
            .map_err(|error| AloneError::new("no port is free on loopback").because(error))?;
        let mut child = Command::new(&self.path)
            .args(arguments(copy, client, peer))
            // What is set for the member of this machine is not meant for this one.
            .env_clear()
            .stdin(Stdio::null())
            .stdout(sink)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                AloneError::new(format!("{} cannot be started", self.name)).because(error)
            })?;
        let said = applied(&mut child, client, target, log, hash).await?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // One that ended by itself meanwhile is waited for below.
            let _ = kill_process(pid, Signal::TERM);
        }
        match tokio::time::timeout(END_BOUND, child.wait()).await {
            Ok(Ok(_)) => Ok(said),
            Ok(Err(error)) => Err(AloneError::new("etcd's end was not seen").because(error)),
            Err(_) => Err(AloneError::new("etcd does not end").with_log(log)),
        }
    }
}

fn arguments(copy: &Path, client: u16, peer: u16) -> Vec<OsString> {
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
    arguments.push(copy.into());
    arguments
}

/// Waits until the entry is applied, and asks for the HashKV then.
async fn applied(
    child: &mut Child,
    port: u16,
    target: u64,
    log: &Path,
    hash: bool,
) -> Result<Option<HashKv>, AloneError> {
    let endpoint = Endpoint::parse(&format!("http://127.0.0.1:{port}"), false)
        .map_err(|error| AloneError::new(format!("etcd's address: {error}")))?;
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
        .map_err(|error| AloneError::new(format!("etcd cannot be asked: {error}")))?;
    let start = Instant::now();
    loop {
        let ended =
            child.try_wait().map_err(|error| AloneError::new("etcd was lost").because(error))?;
        if let Some(status) = ended {
            let why = format!("etcd does not start from the copy ({status})");
            return Err(AloneError::new(why).with_log(log));
        }
        if let Ok(mut member) = connector.connect(&endpoint).await
            && let Ok(status) = member.status().await
            && status.leader.is_some()
            && status.raft_applied_index >= target
        {
            // One that says none leaves the snapshot without a proof, not undone.
            return Ok(if hash { member.hash_kv(0).await.ok() } else { None });
        }
        if start.elapsed() > APPLY_BOUND {
            let why =
                format!("etcd did not apply entry {target} within {} s", APPLY_BOUND.as_secs());
            return Err(AloneError::new(why).with_log(log));
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Two ports of loopback that nobody holds now.
fn free_ports() -> io::Result<(u16, u16)> {
    let bind = || TcpListener::bind(("127.0.0.1", 0));
    let (one, two) = (bind()?, bind()?);
    Ok((one.local_addr()?.port(), two.local_addr()?.port()))
}
