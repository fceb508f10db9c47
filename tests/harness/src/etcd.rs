//! Real etcd by version, and throwaway clusters of it.

mod cluster;
mod member;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use tokio::process::Command;

pub use cluster::{Builder, Cluster, Security, tls_options};
pub use member::Member;

use crate::{Error, Result, cache};

/// Every series that the tests run.
pub const SERIES: [&str; 4] = ["3.4", "3.5", "3.6", "3.7"];

/// Fetching the modules and compiling on a slow machine.
const INSTALL_BOUND: Duration = Duration::from_secs(1800);

/// No call of a client program takes longer.
const TOOL_BOUND: Duration = Duration::from_secs(120);

/// The programs of one version.
#[derive(Debug, Clone)]
pub struct Etcd {
    series: String,
    directory: PathBuf,
}

impl Etcd {
    /// The newest version of a series (`3.4` to `3.7`), built or unpacked into
    /// the cache when it is not there yet.
    pub async fn version(series: &str) -> Result<Self> {
        static INSTALLED: Mutex<Option<HashMap<String, Etcd>>> = Mutex::new(None);
        let known = |map: &Option<HashMap<String, Self>>| map.as_ref()?.get(series).cloned();
        if let Some(etcd) = INSTALLED.lock().ok().and_then(|map| known(&map)) {
            return Ok(etcd);
        }
        let script = cache::scripts().join("install-etcd.sh");
        let output = bounded(Command::new(&script).arg(series), INSTALL_BOUND).await?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Error::because(format!("installing etcd {series}"), text));
        }
        let directory = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        let etcd = Self { series: series.to_owned(), directory };
        if let Ok(mut map) = INSTALLED.lock() {
            map.get_or_insert_default().insert(series.to_owned(), etcd.clone());
        }
        Ok(etcd)
    }

    /// `3.6`
    pub fn series(&self) -> &str {
        &self.series
    }

    /// `3.6.16`
    pub fn full_version(&self) -> &str {
        let name = self.directory.file_name().and_then(OsStr::to_str).unwrap_or_default();
        name.strip_prefix("etcd-").unwrap_or(name)
    }

    /// The server.
    pub fn server(&self) -> PathBuf {
        self.directory.join("etcd")
    }

    /// The path of etcdctl.
    pub fn etcdctl_path(&self) -> PathBuf {
        self.directory.join("etcdctl")
    }

    /// The path of etcdutl, which 3.4 does not have: there etcdctl does its work.
    pub fn etcdutl_path(&self) -> PathBuf {
        let path = self.directory.join("etcdutl");
        if path.exists() { path } else { self.etcdctl_path() }
    }

    /// Runs etcdutl (etcdctl for 3.4) on files and returns what it printed on
    /// stdout; an exit status other than 0 is an error with what it printed.
    pub async fn etcdutl<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> Result<String> {
        let mut command = Command::new(self.etcdutl_path());
        command.env("ETCDCTL_API", "3").args(args);
        run(&mut command).await
    }
}

/// Runs a client program within a bound; an exit status other than 0 is an
/// error with everything that it printed.
pub(crate) async fn run(command: &mut Command) -> Result<String> {
    let output = bounded(command, TOOL_BOUND).await?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(Error::because(
        format!("running {:?} ({})", command.as_std(), output.status),
        format!("{stdout}{stderr}"),
    ))
}

async fn bounded(command: &mut Command, bound: Duration) -> Result<Output> {
    let program = Path::new(command.as_std().get_program()).display().to_string();
    command.stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(bound, command.output()).await {
        Ok(output) => output.map_err(|source| Error::because(format!("running {program}"), source)),
        Err(_) => Err(Error::new(format!("{program} did not end within {bound:?}"))),
    }
}

/// Whether a data directory holds a log, and so is one that etcd continues
/// rather than begins.
pub(crate) fn has_wal(directory: &Path) -> bool {
    let Ok(mut entries) = std::fs::read_dir(directory) else { return false };
    entries.any(|entry| {
        entry.is_ok_and(|entry| {
            entry.path().extension() == Some(OsStr::new("wal")) && File::open(entry.path()).is_ok()
        })
    })
}
