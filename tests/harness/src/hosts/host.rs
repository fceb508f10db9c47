//! One host: commands, files, power and faults.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::container::{self, Setting};
use super::subnet::Subnet;
use super::{COMMAND_BOUND, machine};
use crate::process::Process;
use crate::{Error, Result};

/// Until sshd runs, on a slow machine that starts many hosts.
const BOOT_BOUND: Duration = Duration::from_secs(180);
/// systemd's own bound on stopping a unit, and what comes on top.
const SHUTDOWN_BOUND: Duration = Duration::from_secs(150);
const POLL: Duration = Duration::from_millis(30);

/// A host of a set.
#[derive(Debug)]
pub struct Host {
    name: String,
    address: Ipv4Addr,
    setting: Setting,
    process: Option<Process>,
}

impl Host {
    /// A host that is off, with an empty disk over `lower`.
    pub(super) fn create(
        subnet: &Subnet,
        name: &str,
        number: u8,
        lower: Vec<PathBuf>,
    ) -> Result<Self> {
        let machine = format!("{}{number}", subnet.machine_prefix());
        let directory = subnet.directory().join(name);
        for part in ["upper", "work", "merged"] {
            let path = directory.join(part);
            let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(&path);
            made.map_err(|source| Error::because(format!("creating {}", path.display()), source))?;
        }
        // The control groups of Debian 12 and 13, also where the machine has version 1.
        let environment = vec![("UNIFIED_CGROUP_HIERARCHY".into(), "1".into())];
        let bridge = subnet.bridge();
        let setting = Setting { machine, bridge, lower, directory, args: Vec::new(), environment };
        let address = subnet.address(number);
        Ok(Self { name: name.to_owned(), address, setting, process: None })
    }

    /// Its name, for `ssh_config` and `/etc/hosts`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The file with everything on its console, which includes its journal.
    pub fn console(&self) -> PathBuf {
        self.setting.console()
    }

    /// Whether it runs.
    pub fn is_on(&self) -> bool {
        self.init().is_some()
    }

    /// Runs a command as root, not over the network: with the link down too.
    /// An exit status other than 0 is no error here.
    pub async fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Output> {
        self.run_with(args, b"").await
    }

    /// Runs a command as root and returns what it printed; an exit status other
    /// than 0 is an error.
    pub async fn check<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> Result<String> {
        self.check_within(args, COMMAND_BOUND).await
    }

    /// [`Self::check`] of a command that may take longer.
    pub async fn check_within<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
        bound: Duration,
    ) -> Result<String> {
        let args: Vec<OsString> = args.into_iter().map(|a| a.as_ref().to_owned()).collect();
        let output = self.enter(&args, b"", bound).await?;
        self.succeeded(&args, &output)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn succeeded(&self, args: &[OsString], output: &Output) -> Result<()> {
        if output.status.success() {
            return Ok(());
        }
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        Err(Error::because(
            format!("running {args:?} on {} ({})", self.name, output.status),
            String::from_utf8_lossy(&said).trim().to_owned(),
        ))
    }

    /// Runs a command as root with this standard input.
    pub async fn run_with<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
        input: &[u8],
    ) -> Result<Output> {
        self.enter(args, input, COMMAND_BOUND).await
    }

    async fn enter<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
        input: &[u8],
        bound: Duration,
    ) -> Result<Output> {
        let init = self.init().ok_or_else(|| Error::new(format!("{} is off", self.name)))?;
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={init}"));
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]);
        command.args(["--root", "--wd", "--"]).args(args);
        command.env_clear().env("HOME", "/root").env("LANG", "C.UTF-8");
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        let said = format!("running {:?} on {}", command.as_std(), self.name);
        let failed = |source: io::Error| Error::because(said.clone(), source);
        let mut child = command.spawn().map_err(failed)?;
        let mut stdin = child.stdin.take();
        let feed = async {
            if let Some(stdin) = &mut stdin {
                // A command that does not read its input is no failure.
                let _ = stdin.write_all(input).await;
            }
            drop(stdin);
        };
        let both = async { tokio::join!(feed, child.wait_with_output()).1 };
        match tokio::time::timeout(bound, both).await {
            Ok(output) => output.map_err(failed),
            Err(_) => Err(Error::new(format!("{said} did not end within {bound:?}"))),
        }
    }

    /// Writes a file of root's with mode 0644 and the directories that it needs; on
    /// a host that is off, onto its disk.
    pub async fn write(&self, path: &str, bytes: &[u8]) -> Result<()> {
        self.write_as(path, bytes, "root", 0o644).await
    }

    /// Writes a file with this owner (and the owner's group) and mode. A host that
    /// is off takes files of root's only.
    pub async fn write_as(&self, path: &str, bytes: &[u8], owner: &str, mode: u32) -> Result<()> {
        if !self.is_on() {
            if owner != "root" {
                return Err(Error::new(format!("{} is off and knows no {owner}", self.name)));
            }
            return self.put(path, bytes, mode);
        }
        let script = r#"set -e; mkdir -p "$(dirname "$1")"; umask 077; cat >"$1"
            chown "$2:" "$1"; chmod "$3" "$1""#;
        let mode = format!("{mode:o}");
        let args = ["sh", "-c", script, "write", path, owner, &mode].map(OsString::from);
        let output = self.run_with(&args, bytes).await?;
        self.succeeded(&args, &output)
    }

    /// A file's bytes; of a host that is off, from its disk.
    pub async fn read(&self, path: &str) -> Result<Vec<u8>> {
        if !self.is_on() {
            return self.read_disk(path);
        }
        let args = ["cat", "--", path].map(OsString::from);
        let output = self.run(&args).await?;
        self.succeeded(&args, &output)?;
        Ok(output.stdout)
    }

    /// Cuts the power: every process is gone at once, nothing is written back
    /// first. (What the kernel holds of its files survives: fsync is not tested.)
    pub async fn power_off_hard(&mut self) -> Result<()> {
        let init = self.init().ok_or_else(|| Error::new(format!("{} is off", self.name)))?;
        let id = i32::try_from(init).ok().and_then(Pid::from_raw);
        let id = id.ok_or_else(|| Error::new(format!("{} has no process id", self.name)))?;
        kill_process(id, Signal::KILL)
            .map_err(|source| Error::because(format!("killing {}", self.name), source))?;
        self.wait_off().await
    }

    /// Shuts down as `poweroff` does and waits for the end.
    pub async fn power_off(&mut self) -> Result<()> {
        self.check(["systemctl", "--no-block", "poweroff"]).await?;
        self.wait_off().await
    }

    /// Starts it and waits until sshd runs.
    pub async fn power_on(&mut self) -> Result<()> {
        if self.is_on() {
            return Err(Error::new(format!("{} is on already", self.name)));
        }
        self.spawn()?;
        self.wait_booted().await
    }

    /// Reboots as `systemctl reboot` does and waits until sshd runs again.
    pub async fn reboot(&mut self) -> Result<()> {
        let before = self.init();
        self.check(["systemctl", "--no-block", "reboot"]).await?;
        let start = Instant::now();
        while self.init() == before || self.init().is_none() {
            self.alive()?;
            if start.elapsed() > SHUTDOWN_BOUND {
                let text = format!("{} did not reboot within {SHUTDOWN_BOUND:?}", self.name);
                return Err(self.with_console(&text));
            }
            tokio::time::sleep(POLL).await;
        }
        self.wait_booted().await
    }

    /// Pulls the network cable. It is back after [`Self::link_up`] or a power
    /// cycle.
    pub fn link_down(&self) -> Result<()> {
        self.link("down")
    }

    /// Puts the network cable back.
    pub fn link_up(&self) -> Result<()> {
        self.link("up")
    }

    fn link(&self, state: &str) -> Result<()> {
        let interface = container::interface(&self.setting.machine);
        machine("ip", ["link", "set", &interface, state]).map(drop)
    }

    /// Drops what comes from an address to one of its TCP ports, until
    /// [`Self::unblock`] or a power cycle.
    pub async fn block(&self, from: Ipv4Addr, port: u16) -> Result<()> {
        self.rule("--append", from, port).await
    }

    /// Takes a [`Self::block`] back.
    pub async fn unblock(&self, from: Ipv4Addr, port: u16) -> Result<()> {
        self.rule("--delete", from, port).await
    }

    async fn rule(&self, act: &str, from: Ipv4Addr, port: u16) -> Result<()> {
        let (from, port) = (from.to_string(), port.to_string());
        let rule = ["--wait", act, "INPUT", "--protocol", "tcp", "--source", &from];
        let rest = ["--destination-port", &port, "--jump", "DROP"];
        self.check(["iptables"].iter().chain(&rule).chain(&rest)).await.map(drop)
    }

    /// Puts a disk of `bytes` under a directory, in memory, with what is in it,
    /// until [`Self::unmount`] or a power cycle. Nothing may hold files in it open.
    pub async fn small_disk(&self, path: &str, bytes: u64) -> Result<()> {
        let script = r#"set -e; mkdir -p "$1"; mkdir /run/small-disk
            mount -t tmpfs -o "size=$2,mode=$(stat -c %a "$1"),uid=$(stat -c %u "$1"),gid=$(stat -c %g "$1")" \
              small /run/small-disk
            cp -a "$1/." /run/small-disk/
            mount --bind /run/small-disk "$1"; umount --lazy /run/small-disk
            rmdir /run/small-disk"#;
        self.check(["sh", "-c", script, "small-disk", path, &bytes.to_string()]).await.map(drop)
    }

    /// Fills the [`Self::small_disk`] under a directory to the last byte, with the
    /// file `filler` in it.
    pub async fn fill_disk(&self, path: &str) -> Result<()> {
        let kind = self.check(["stat", "--file-system", "--format=%T", path]).await?;
        if kind.trim() != "tmpfs" {
            let text = format!("{path} on {} is no small disk but {}", self.name, kind.trim());
            return Err(Error::new(text));
        }
        let filler = format!("{path}/filler");
        let of = format!("of={filler}");
        let filled = self.run(["dd", "if=/dev/zero", &of, "bs=4096", "status=none"]).await?;
        let said = String::from_utf8_lossy(&filled.stderr).into_owned();
        if said.contains("No space left") {
            return Ok(());
        }
        Err(Error::because(format!("filling {path} on {}", self.name), said))
    }

    /// Makes a directory read-only, until [`Self::unmount`] or a power cycle.
    pub async fn read_only(&self, path: &str) -> Result<()> {
        self.check(["mount", "--bind", path, path]).await?;
        self.check(["mount", "-o", "remount,bind,ro", path]).await.map(drop)
    }

    /// Takes a [`Self::read_only`] or a [`Self::small_disk`] back; what was
    /// written to the latter is gone.
    pub async fn unmount(&self, path: &str) -> Result<()> {
        self.check(["umount", "--lazy", path]).await.map(drop)
    }

    /// Puts a file of root's onto the disk of a host that is off.
    pub(super) fn put(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let path = self.setting.upper().join(path.trim_start_matches('/'));
        let write = || -> io::Result<()> {
            if let Some(parent) = path.parent() {
                fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
            }
            fs::write(&path, bytes)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))
        };
        write().map_err(|source| Error::because(format!("writing {}", path.display()), source))
    }

    /// Puts a directory of root's onto the disk of a host that is off.
    pub(super) fn put_directory(&self, path: &str, mode: u32) -> Result<()> {
        let path = self.setting.upper().join(path.trim_start_matches('/'));
        let made = fs::DirBuilder::new().recursive(true).mode(mode).create(&path);
        made.map_err(|source| Error::because(format!("creating {}", path.display()), source))
    }

    /// From the uppermost directory that has it. A deleted file of a lower one is a
    /// device node in the upper one, and cannot be read either.
    fn read_disk(&self, path: &str) -> Result<Vec<u8>> {
        let relative = Path::new(path.trim_start_matches('/'));
        let directories = std::iter::once(self.setting.upper()).chain(self.setting.lower.clone());
        let found = directories.map(|directory| directory.join(relative));
        let found = found.filter_map(|path| Some((fs::symlink_metadata(&path).ok()?, path))).next();
        match found {
            Some((metadata, path)) if metadata.is_file() => fs::read(&path)
                .map_err(|source| Error::because(format!("reading {}", path.display()), source)),
            _ => Err(Error::new(format!("{} has no file {path}", self.name))),
        }
    }

    /// The directory with its disk.
    pub(super) fn directory(&self) -> &Path {
        &self.setting.directory
    }

    /// What it is started with, to be changed while it is off.
    pub(super) fn setting_mut(&mut self) -> &mut Setting {
        &mut self.setting
    }

    /// Starts it without waiting.
    pub(super) fn spawn(&mut self) -> Result<()> {
        self.process = Some(self.setting.start()?);
        Ok(())
    }

    /// Ends it at once, however it is; on the way out there is nobody to tell.
    pub(super) fn end(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            self.setting.clear();
        }
    }

    /// Waits until sshd runs.
    pub(super) async fn wait_booted(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            self.alive()?;
            if self.is_on() {
                let state = self.run(["systemctl", "is-active", "ssh.service"]).await;
                if state.is_ok_and(|state| state.stdout == b"active\n") {
                    return Ok(());
                }
            }
            if start.elapsed() > BOOT_BOUND {
                let text = format!("{} was not up within {BOOT_BOUND:?}", self.name);
                return Err(self.with_console(&text));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn wait_off(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        let ended = process.wait(SHUTDOWN_BOUND).await;
        drop(process);
        self.setting.clear();
        ended.map(drop)
    }

    fn init(&self) -> Option<u32> {
        self.process.as_ref().and_then(|process| container::init(process.pid()))
    }

    fn alive(&mut self) -> Result<()> {
        let ended = match &mut self.process {
            Some(process) => process.ended()?,
            None => return Err(Error::new(format!("{} is off", self.name))),
        };
        match ended {
            Some(status) => Err(self.with_console(&format!("{} went off ({status})", self.name))),
            None => Ok(()),
        }
    }

    fn with_console(&self, text: &str) -> Error {
        Error::new(format!("{text}\n{}", crate::process::tail(&self.console())))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.end();
    }
}
