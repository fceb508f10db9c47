//! Nodes over the system's OpenSSH.
//!
//! - One `ssh` per node, started without a shell here, in a process group of its
//!   own: a Ctrl-C on the terminal is not its business. It never asks anything.
//! - What runs there comes from constants and checked words alone. The program is
//!   sent when it is not there, to a place that only root and the login may change,
//!   and started only when its SHA-256 is right.
//! - What ssh says is kept, bounded, and becomes the error when no agent answers.

pub(crate) mod diagnose;
pub(crate) mod program;
mod script;

use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::agent::stdio::widen;
use super::remote::link::{self, Aftermath, Expect, Link};
use super::remote::preamble::Greeting;
use super::remote::{Cause, Deadlines, Keepalive, RemoteNode};
use super::{Node, NodeError, NodeErrorKind, NodeName};
use diagnose::diagnose;
use program::Program;
use script::Start;

/// How much of what ssh says is kept, in bytes from its end.
const STDERR_LIMIT: usize = 16 << 10;
/// How long ssh may take to end when the connection has.
const END_BOUND: Duration = Duration::from_secs(3);
/// How long the sending of a program may stand still.
const UPLOAD_IDLE: Duration = Duration::from_secs(60);
/// How long it may take in all.
const UPLOAD_BOUND: Duration = Duration::from_secs(900);

/// Which program becomes the agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AgentProgram {
    /// The running one, sent where it is absent.
    #[default]
    Own,
    /// A file of this machine, sent where it is absent.
    Send(PathBuf),
    /// What is at this path on the node.
    Installed(PathBuf),
}

/// A node over SSH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshSpec {
    /// `host`, `user@host` or a name of ssh_config.
    pub destination: String,
    /// The port, where it is not ssh_config's.
    pub port: Option<u16>,
    /// Another file than the user's ssh_config.
    pub config: Option<PathBuf>,
    /// The ssh program.
    pub program: PathBuf,
    /// Which program becomes the agent.
    pub agent: AgentProgram,
    /// Whether the agent becomes root by `sudo -n` where the login is not.
    pub sudo: bool,
    /// How long a TCP connection may take.
    pub connect_timeout: Duration,
    /// How long calls may take.
    pub deadlines: Deadlines,
    /// By which pings a loss is noticed.
    pub keepalive: Keepalive,
}

impl SshSpec {
    /// `destination` with what is usual.
    pub fn new(destination: impl Into<String>) -> Self {
        Self {
            destination: destination.into(),
            port: None,
            config: None,
            program: PathBuf::from("ssh"),
            agent: AgentProgram::Own,
            sudo: true,
            connect_timeout: Duration::from_secs(15),
            deadlines: Deadlines::default(),
            keepalive: Keepalive::default(),
        }
    }
}

/// Where a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// This machine.
    Local,
    /// Over SSH.
    Ssh(Box<SshSpec>),
}

/// A node as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSpec {
    /// The name that people know it by.
    pub name: NodeName,
    /// Where it is.
    pub place: Place,
}

/// Connects to a node.
pub async fn connect(spec: &NodeSpec) -> Result<Arc<dyn Node>, NodeError> {
    match &spec.place {
        Place::Local => Ok(Arc::new(super::local::LocalNode::new(spec.name.clone()))),
        Place::Ssh(ssh) => Ok(Arc::new(connect_ssh(&spec.name, ssh).await?)),
    }
}

/// Connects to several nodes, at most `at_once` at a time; the results in the order
/// of `specs`.
pub async fn connect_all(
    specs: &[NodeSpec],
    at_once: usize,
) -> Vec<Result<Arc<dyn Node>, NodeError>> {
    let connections: Vec<_> = specs.iter().map(connect).collect();
    futures_util::stream::iter(connections).buffered(at_once.max(1)).collect().await
}

/// Connects to a node over SSH.
pub async fn connect_ssh(name: &NodeName, spec: &SshSpec) -> Result<RemoteNode, NodeError> {
    let fail = |kind, why: String| NodeError::new(name, kind, "connect", why);
    check_destination(&spec.destination).map_err(|why| fail(NodeErrorKind::Other, why))?;
    let program = match &spec.agent {
        AgentProgram::Own => Some(Program::own().await),
        AgentProgram::Send(path) => Some(Program::open(path.clone()).await),
        AgentProgram::Installed(_) => None,
    };
    let program = program.transpose().map_err(|error| {
        fail(NodeErrorKind::Other, format!("the program to send cannot be read: {error}"))
    })?;
    let start = match (&program, &spec.agent) {
        (Some(program), _) => Start::Upload { digest: &program.digest, length: program.length },
        (None, AgentProgram::Installed(path)) => Start::Installed(path),
        (None, _) => return Err(fail(NodeErrorKind::Other, "no agent is configured".to_owned())),
    };
    let remote =
        script::command(&start, spec.sudo).map_err(|why| fail(NodeErrorKind::Other, why))?;
    let mut child = ssh(spec, &remote).spawn().map_err(|error| {
        let program = spec.program.display();
        fail(NodeErrorKind::Other, format!("cannot start {program}: {error}"))
            .hint("install the OpenSSH client, or configure where it is")
    })?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(writer), Some(reader), Some(stderr)) = pipes else {
        return Err(fail(NodeErrorKind::Other, "ssh has no pipes".to_owned()));
    };
    widen(&writer);
    widen(&reader);
    let said = tokio::spawn(tail(stderr));
    let process = Process { destination: spec.destination.clone(), child, said };
    match greet(name, spec, program.as_ref(), reader, writer).await {
        Ok((reader, writer, identity)) => {
            let aftermath = process.aftermath();
            let link = Link::start(
                name.clone(),
                reader,
                writer,
                identity,
                spec.keepalive,
                Some(aftermath),
            )
            .await?;
            Ok(RemoteNode::new(link, spec.deadlines))
        }
        Err(error) if error.kind == NodeErrorKind::Lost => {
            // The pipes are closed by now; ssh knows better why.
            let deadline = error.why.clone();
            let cause = process.end().await;
            let mut learned = cause.error(name, cause.kind, "connect");
            if cause.kind == NodeErrorKind::Lost && cause.hint.is_none() {
                learned.details.insert(0, deadline);
            }
            learned.hint.get_or_insert_with(|| check(&spec.destination));
            Err(learned)
        }
        Err(mut error) => {
            error.details.extend(process.end().await.details);
            Err(error)
        }
    }
}

type Greeted<R, W> = Result<(R, W, super::remote::preamble::Identity), NodeError>;

/// Until an agent that is taken has greeted; sends it where it is absent.
async fn greet<R, W>(
    name: &NodeName,
    spec: &SshSpec,
    program: Option<&Program>,
    reader: R,
    mut writer: W,
) -> Greeted<impl tokio::io::AsyncRead + Send + Unpin + 'static, W>
where
    R: tokio::io::AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let bound = spec.deadlines.connect.saturating_add(spec.connect_timeout);
    let late = || {
        NodeError::new(
            name,
            NodeErrorKind::Lost,
            "connect",
            format!("no agent answered within {bound:?}"),
        )
    };
    let first = timeout(bound, link::greeting(name, reader)).await;
    let (reader, greeting) = first.map_err(|_| late())??;
    let reader: std::pin::Pin<Box<dyn tokio::io::AsyncRead + Send>> = Box::pin(reader);
    let (reader, greeting) = match (greeting, program) {
        (Greeting::Wanted { arch }, Some(program)) => {
            if matches!(spec.agent, AgentProgram::Own) && arch != std::env::consts::ARCH {
                let why = format!(
                    "the node's processor is {arch}, this program is for {}",
                    std::env::consts::ARCH
                );
                let hint =
                    format!("install etcdvault for {arch} there and configure its agent path");
                return Err(
                    NodeError::new(name, NodeErrorKind::Unsupported, "connect", why).hint(hint)
                );
            }
            send(program, &mut writer).await.map_err(|error| {
                let why = format!("the program could not be sent: {error}");
                NodeError::new(name, NodeErrorKind::Lost, "connect", why)
            })?;
            let second = timeout(bound, link::greeting(name, reader)).await;
            let (reader, greeting) = second.map_err(|_| late())??;
            (Box::pin(reader) as std::pin::Pin<Box<dyn tokio::io::AsyncRead + Send>>, greeting)
        }
        (greeting, _) => (reader, greeting),
    };
    let expect = match program {
        Some(program) => Expect::Digest(program.digest.clone()),
        None => Expect::Version,
    };
    let identity = link::agent(name, greeting, &expect)?;
    Ok((reader, writer, identity))
}

/// Sends a program, whose length the other side knows.
async fn send<W: AsyncWrite + Unpin>(program: &Program, writer: &mut W) -> io::Result<()> {
    let end = Instant::now() + UPLOAD_BOUND;
    let mut at = 0;
    while at < program.length {
        let file = program.file.clone();
        let length = usize::try_from(program.length - at).unwrap_or(usize::MAX).min(256 << 10);
        let read = move || {
            let mut buffer = vec![0; length];
            file.read_exact_at(&mut buffer, at)?;
            io::Result::Ok(buffer)
        };
        let buffer = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??;
        let until = end.min(Instant::now() + UPLOAD_IDLE);
        timeout_at(until, writer.write_all(&buffer)).await.map_err(|_| {
            io::Error::new(io::ErrorKind::TimedOut, format!("stood still after {at} bytes"))
        })??;
        at += length as u64;
    }
    writer.flush().await
}

/// What a person can do when nothing tells why a connection ended.
fn check(destination: &str) -> String {
    format!("check that it runs and lets you in: ssh {destination} true")
}

/// A destination that ssh takes for one.
fn check_destination(destination: &str) -> Result<(), String> {
    let bad = destination.is_empty()
        || destination.starts_with('-')
        || destination.len() > 1024
        || destination
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() || "'\"`$\\;&<>|(){}".contains(c));
    if bad { Err(format!("{destination:?} is refused as a destination for ssh")) } else { Ok(()) }
}

/// The ssh that runs `remote`.
fn ssh(spec: &SshSpec, remote: &str) -> Command {
    let mut command = Command::new(&spec.program);
    if let Some(config) = &spec.config {
        command.arg("-F").arg(config);
    }
    if let Some(port) = spec.port {
        command.arg("-p").arg(port.to_string());
    }
    // No terminal, no forwarding, nothing of ssh_config that would run something
    // else or stay behind. Host keys are checked as ssh_config says: with BatchMode
    // its own default refuses a key that is not known.
    let seconds = spec.connect_timeout.as_secs().max(1);
    command.args(["-T", "-x", "-a"]);
    for option in [
        "BatchMode=yes",
        "ClearAllForwardings=yes",
        "ForwardAgent=no",
        "PermitLocalCommand=no",
        "RemoteCommand=none",
        "RequestTTY=no",
        "EscapeChar=none",
        "ControlMaster=no",
        "ServerAliveInterval=5",
        "ServerAliveCountMax=6",
    ] {
        command.arg("-o").arg(option);
    }
    command.arg("-o").arg(format!("ConnectTimeout={seconds}"));
    command.arg("--").arg(&spec.destination).arg(remote);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A signal to the terminal's group must not cut a step off.
    command.process_group(0).kill_on_drop(true);
    command
}

/// The last of what ssh says, on lines without control characters.
async fn tail(mut stderr: ChildStderr) -> String {
    let mut kept = Vec::new();
    let mut buffer = vec![0; 4096];
    while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..count]);
        let over = kept.len().saturating_sub(STDERR_LIMIT);
        kept.drain(..over);
    }
    let text = String::from_utf8_lossy(&kept);
    text.chars().filter(|c| *c == '\n' || !c.is_control()).collect()
}

/// A running ssh and what it says.
struct Process {
    destination: String,
    child: Child,
    said: JoinHandle<String>,
}

impl Process {
    fn aftermath(self) -> Aftermath {
        Box::pin(async move {
            let hint = check(&self.destination);
            let mut cause = self.end().await;
            cause.hint.get_or_insert(hint);
            Some(cause)
        })
    }

    /// Waits for its end, and sees to it. Its pipes are closed already.
    async fn end(mut self) -> Cause {
        let waited = timeout(END_BOUND, self.child.wait()).await;
        let status = match waited {
            Ok(status) => status.ok(),
            Err(_) => {
                // By its id, which is ours until it is waited for.
                let _ = self.child.start_kill();
                timeout(END_BOUND, self.child.wait()).await.ok().and_then(Result::ok);
                None
            }
        };
        // A jump host's ssh may hold the pipe longer.
        let abort = self.said.abort_handle();
        let said = timeout(Duration::from_secs(1), self.said).await;
        abort.abort();
        let said = said.ok().and_then(Result::ok).unwrap_or_default();
        let mut cause = diagnose(&self.destination, &said, status);
        if status.is_none() {
            cause.why = "the node stopped answering".to_owned();
        }
        cause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_that_are_options_or_commands_are_refused() {
        for good in
            ["node", "root@10.0.0.1", "root@[fd00::1]", "cp-1.example.org", "ssh://root@h:22"]
        {
            assert_eq!(check_destination(good), Ok(()), "{good}");
        }
        for bad in ["", "-oProxyCommand=reboot", "a b", "a\n", "$(id)", "a;b", "`id`"] {
            assert!(check_destination(bad).is_err(), "{bad:?}");
        }
    }
}
