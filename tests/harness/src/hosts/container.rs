//! The processes of a host and its control groups.
//!
//! nspawn runs as the child of a shell that is the first process of a process-id
//! namespace of its own, in a mount namespace of its own: what kills that shell
//! ends the whole host, mounts included. (nspawn alone, killed, leaves the host's
//! init behind.) The shell starts nspawn again where the host asked for a reboot.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::process::Process;
use crate::{Error, Result};

/// lower, upper, work and merged directory; control groups; `--`; the command.
/// The exit status 133 is nspawn's word for a reboot.
const SCRIPT: &str = r#"
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" "$4" || exit 1
shift 4
groups=
while [ "$1" != -- ]; do groups="$groups $1"; shift; done
shift
while :; do
  (
    for group in $groups; do echo 0 >"$group/cgroup.procs" || exit 1; done
    exec "$@"
  )
  ended=$?
  [ $ended = 133 ] || exit $ended
done
"#;

/// How long dead processes may stay in the kernel.
const GONE_BOUND: Duration = Duration::from_secs(20);

/// What a container is started with.
#[derive(Debug)]
pub(super) struct Setting {
    /// The machine's name, of at most 11 characters.
    pub(super) machine: String,
    /// The bridge that its interface `host0` joins.
    pub(super) bridge: String,
    /// Read-only directories, the uppermost first.
    pub(super) lower: Vec<PathBuf>,
    /// Where `upper`, `work`, `merged` and `console.log` are.
    pub(super) directory: PathBuf,
    /// More arguments of nspawn.
    pub(super) args: Vec<OsString>,
    /// nspawn's environment.
    pub(super) environment: Vec<(OsString, OsString)>,
}

impl Setting {
    /// Where everything that the host writes is.
    pub(super) fn upper(&self) -> PathBuf {
        self.directory.join("upper")
    }

    /// Everything that the host said on its console, which has its journal.
    pub(super) fn console(&self) -> PathBuf {
        self.directory.join("console.log")
    }

    /// Starts the host.
    pub(super) fn start(&self) -> Result<Process> {
        remove_traces(&self.machine);
        let groups = make_groups(&self.machine)?;
        let mut lower = OsString::new();
        for directory in &self.lower {
            if !lower.is_empty() {
                lower.push(":");
            }
            lower.push(directory);
        }
        let merged = self.directory.join("merged");
        let mut args: Vec<OsString> = ["--mount", "--propagation", "private", "--pid"]
            .into_iter()
            .chain(["--fork", "--kill-child=KILL", "--mount-proc", "sh", "-c", SCRIPT, "host"])
            .map(Into::into)
            .collect();
        args.push(lower);
        args.extend([self.upper().into(), self.directory.join("work").into()]);
        args.push(merged.clone().into());
        args.extend(groups.into_iter().map(Into::into));
        args.extend(["--", "systemd-nspawn", "--quiet", "--boot"].map(Into::into));
        // The machine has no systemd that could register it or make a unit for it.
        args.extend(["--register=no", "--keep-unit", "--console=read-only"].map(Into::into));
        args.extend(["--resolv-conf=off", "--timezone=off", "--link-journal=no"].map(Into::into));
        args.push(format!("--machine={}", self.machine).into());
        args.push(format!("--network-bridge={}", self.bridge).into());
        args.extend(["--directory".into(), merged.into()]);
        args.extend(self.args.iter().cloned());
        Process::start(Path::new("unshare"), args, &self.environment, &self.console())
    }

    /// Waits until no process of the host is left and removes its other traces.
    pub(super) fn clear(&self) {
        let start = Instant::now();
        while !processes(&self.machine).is_empty() && start.elapsed() < GONE_BOUND {
            std::thread::sleep(Duration::from_millis(5));
        }
        remove_traces(&self.machine);
    }
}

/// The id on this machine of the first process of the container that `process`
/// runs: nspawn's child that is 1 in a namespace below ours.
pub(super) fn init(process: u32) -> Option<u32> {
    let shell = *children(process).first()?;
    let nspawn = *children(shell).first()?;
    children(nspawn).into_iter().find(|child| {
        let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        ids.and_then(|ids| ids.split_whitespace().next_back()) == Some("1")
    })
}

fn children(process: u32) -> Vec<u32> {
    let path = format!("/proc/{process}/task/{process}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

/// The roots of the control group hierarchies: one (version 2), or one for each
/// set of controllers.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let of = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let (at, kind) = (fields.next()?, fields.next()?);
        (matches!(kind, "cgroup" | "cgroup2") && at.starts_with("/sys/fs/cgroup"))
            .then(|| PathBuf::from(at))
    };
    mounts.lines().filter_map(of).collect()
}

/// A group in every hierarchy: without one of its own a host would have the
/// machine's, and with it those of all other hosts.
fn make_groups(machine: &str) -> Result<Vec<PathBuf>> {
    let mut groups = Vec::new();
    for hierarchy in hierarchies() {
        let group = hierarchy.join(machine);
        let failed = |source| Error::because(format!("making {}", group.display()), source);
        fs::create_dir_all(&group).map_err(failed)?;
        // In version 1 a group without processors and memory nodes takes no process.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let (from, to) = (hierarchy.join(file), group.join(file));
            if from.exists() && to.exists() {
                fs::read(from).and_then(|text| fs::write(to, text)).map_err(failed)?;
            }
        }
        let inherit = group.join("cgroup.clone_children");
        if hierarchy.join("cpuset.cpus").exists() && inherit.exists() {
            fs::write(inherit, "1").map_err(failed)?;
        }
        groups.push(group);
    }
    Ok(groups)
}

/// Removes what a killed machine leaves: its control groups, the interface that the
/// kernel takes down some time after the last process, nspawn's empty directory.
fn remove_traces(machine: &str) {
    // Mostly there is none.
    let _ = super::machine("ip", ["link", "delete", &interface(machine)]);
    let _ = fs::remove_dir(Path::new("/run/systemd/nspawn/propagate").join(machine));
    for hierarchy in hierarchies() {
        remove_group(&hierarchy.join(machine));
    }
}

fn remove_group(group: &Path) {
    for child in fs::read_dir(group).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_group(&child.path());
        }
    }
    // One that a process is still in stays, and the next start fails on it.
    let _ = fs::remove_dir(group);
}

/// The bridge's end of a machine's cable, as nspawn names it.
pub(super) fn interface(machine: &str) -> String {
    format!("vb-{machine}")
}

/// Every process in a group of the machine.
fn processes(machine: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for hierarchy in hierarchies() {
        collect(&hierarchy.join(machine), &mut found);
    }
    found
}

fn collect(group: &Path, found: &mut Vec<i32>) {
    let ids = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    found.extend(ids.lines().filter_map(|id| id.parse::<i32>().ok()).filter(|id| *id > 1));
    for child in fs::read_dir(group).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&child.path(), found);
        }
    }
}

/// Ends whatever still runs in machines with this prefix and removes their
/// groups.
pub(super) fn sweep(prefix: &str) {
    let mut machines = Vec::new();
    for hierarchy in hierarchies() {
        for group in fs::read_dir(&hierarchy).into_iter().flatten().flatten() {
            if let Some(name) = group.file_name().to_str().filter(|name| name.starts_with(prefix)) {
                machines.push(name.to_owned());
            }
        }
    }
    machines.sort_unstable();
    machines.dedup();
    for machine in machines {
        let start = Instant::now();
        loop {
            let left = processes(&machine);
            if left.is_empty() || start.elapsed() > GONE_BOUND {
                break;
            }
            for id in left.into_iter().filter_map(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        remove_traces(&machine);
    }
}
