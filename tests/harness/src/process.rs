//! A server process that ends with the test process, however that ends.
//!
//! The kernel's parent-death signal follows the *thread* that forked. All
//! servers are therefore started by one thread that lives as long as the
//! process, and through `setpriv --pdeathsig`, which needs no unsafe code.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Error, Result};

type Request = (Command, mpsc::Sender<io::Result<Child>>);

/// How much of a log an error shows.
const LOG_TAIL: u64 = 4096;

/// A running server and its log.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `program`; its output is appended to `log`. Of the environment
    /// it sees `PATH` and what `environment` gives, nothing else.
    pub fn start<A: AsRef<OsStr>>(
        program: &Path,
        args: impl IntoIterator<Item = A>,
        environment: &[(OsString, OsString)],
        log: &Path,
    ) -> Result<Self> {
        let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into();
        let opened = File::options().create(true).append(true).open(log);
        let output = opened.map_err(|source| {
            Error::because(format!("opening the log {}", log.display()), source)
        })?;
        let errors = output.try_clone().map_err(|source| {
            Error::because(format!("opening the log {}", log.display()), source)
        })?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(args);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(environment.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = spawn_for_life(command)
            .map_err(|source| Error::because(format!("starting {}", program.display()), source))?;
        Ok(Self { child, name, log: log.to_owned(), ended: None })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The log's path.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self
                .child
                .try_wait()
                .map_err(|source| Error::because(format!("waiting for {}", self.name), source))?;
        }
        Ok(self.ended)
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.ended()?.is_some() {
            return Err(Error::new(format!("{} has ended already", self.name)));
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Error::new(format!("{} has no process id", self.name)))?;
        kill_process(pid, signal)
            .map_err(|source| Error::because(format!("signalling {}", self.name), source))
    }

    /// Waits for the end, at most for `bound`.
    pub async fn wait(&mut self, bound: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if start.elapsed() > bound {
                let text = format!("{} did not end within {bound:?}\n{}", self.name, self.tail());
                return Err(Error::new(text));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        let failed = |source| Error::because(format!("killing {}", self.name), source);
        if let Some(status) = self.ended {
            return Ok(status);
        }
        self.child.kill().map_err(failed)?;
        let status = self.child.wait().map_err(failed)?;
        self.ended = Some(status);
        Ok(status)
    }

    /// The last lines of the log.
    pub fn tail(&self) -> String {
        tail(&self.log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing more can be done about a process that cannot be killed.
        let _ = self.kill();
    }
}

/// The last lines of a log file, for an error's text.
pub fn tail(log: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(LOG_TAIL)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => {
            format!("--- end of {}\n{}", log.display(), String::from_utf8_lossy(&bytes).trim_end())
        }
        Err(error) => format!("--- {} cannot be read: {error}", log.display()),
    }
}

fn spawn_for_life(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Request>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<Request>();
        std::thread::spawn(move || {
            while let Ok((mut command, answer)) = receiver.recv() {
                // A caller that is gone drops the child unseen; it dies with us.
                let _ = answer.send(command.spawn());
            }
        });
        sender
    });
    let (answer, result) = mpsc::channel();
    let gone = || io::Error::other("the thread that starts servers is gone");
    spawner.send((command, answer)).map_err(|_| gone())?;
    result.recv().map_err(|_| gone())?
}
