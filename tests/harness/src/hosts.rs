//! Hosts as they are in the field: systemd as the first process, sshd, a disk,
//! an address; three of them are up in a few seconds.
//!
//! A host is a systemd-nspawn container over an overlay of a root file system
//! that `tests/servers/install-rootfs.sh` keeps in the test cache. A set of hosts
//! has a bridge and a subnet (10.200.N.0/24) of its own, held by a lock file, so
//! that sets of several test processes live side by side, and a throwaway SSH key,
//! `known_hosts` and `ssh_config`.
//!
//! What is guaranteed:
//! - Everything ends with the test process, whatever way that ends: each host
//!   lives in a process-id and mount namespace whose first process the kernel kills
//!   with us, and its mounts and interface go with it. The bridge, the control groups
//!   and the directory go when the set is dropped; what a killed run left of these
//!   is removed by the next one, which knows it by the lock that nobody holds.
//! - In a failing test, or where the set-up fails (or with `ETCDVAULT_TEST_KEEP` set) the journals stay, as
//!   text, and their path is said.
//! - Nothing of the machine changes but for the time of the set: no interface but
//!   the bridge, no name, no route, no rule of the firewall.
//!
//! It needs root, and what `tests/servers/deps.sh test` installs. Without them a
//! test fails; it is never skipped.
//!
//! | module | what it is |
//! |---|---|
//! | `host` | one host: commands, files, power, faults |
//! | `container` | the processes and control groups beneath it |
//! | `subnet` | the bridge and the lock |
//! | `ssh` | keys and `ssh_config` |
//! | [`etcd`] | clusters of etcd in the four ways of the field |
//! | [`kubeadm`] | control planes of Kubernetes |

mod container;
pub mod etcd;
mod host;
pub mod kubeadm;
mod ssh;
mod subnet;

use std::ffi::OsStr;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;

pub use host::Host;
use ssh::Ssh;
use subnet::Subnet;

use crate::etcd::Etcd;
use crate::{Error, Result, cache};

/// Debootstrapping on a slow machine, with others waiting for the same lock.
const INSTALL_BOUND: Duration = Duration::from_secs(1800);

/// No command on a host takes longer.
const COMMAND_BOUND: Duration = Duration::from_secs(180);

/// The host's number in its subnet is this and its place in the set.
const FIRST_ADDRESS: u8 = 11;

/// The name of the jump host, where there is one.
pub const JUMP: &str = "jump";

/// A root file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// Debian 12 (bookworm) with its own etcd 3.4.23, not enabled.
    Debian12,
    /// Debian 13 (trixie) with its own etcd 3.5.16, not enabled.
    Debian13,
}

impl Image {
    /// The release's name.
    fn suite(self) -> &'static str {
        match self {
            Self::Debian12 => "bookworm",
            Self::Debian13 => "trixie",
        }
    }

    /// The root file system in the cache, made when it is not there yet.
    async fn root(self) -> Result<PathBuf> {
        let script = cache::scripts().join("install-rootfs.sh");
        let output = bounded(Command::new(&script).arg(self.suite()), INSTALL_BOUND).await?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Error::because(format!("installing {}", self.suite()), text));
        }
        Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
    }
}

/// As whom `ssh -F CONFIG NAME` logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// root.
    Root,
    /// `operator`, who may `sudo` without a password; root may not log in.
    Operator,
}

/// What a set of hosts will be; made by [`Hosts::builder`].
#[derive(Debug)]
pub struct Builder {
    hosts: Vec<(String, Image)>,
    login: Login,
    jump: bool,
    layers: Vec<PathBuf>,
    etcd: Option<Etcd>,
}

impl Builder {
    /// `count` more hosts, named `n1`, `n2` and so on by their place.
    pub fn hosts(mut self, count: usize, image: Image) -> Self {
        for _ in 0..count {
            let name = format!("n{}", self.hosts.len() + 1);
            self.hosts.push((name, image));
        }
        self
    }

    /// One more host.
    pub fn host(mut self, name: &str, image: Image) -> Self {
        self.hosts.push((name.to_owned(), image));
        self
    }

    /// Root unless said.
    pub fn login(mut self, login: Login) -> Self {
        self.login = login;
        self
    }

    /// One more host, [`JUMP`], through which alone the others are reached: they
    /// have no way back to the machine of the test.
    pub fn jump(mut self) -> Self {
        self.jump = true;
        self
    }

    /// A directory laid over the root file system of every host, as the root of
    /// what it holds. Hosts do not write to it.
    pub fn layer(mut self, directory: impl Into<PathBuf>) -> Self {
        self.layers.push(directory.into());
        self
    }

    /// These programs in `/usr/local/bin` in place of the distribution's etcd.
    pub fn etcd(mut self, etcd: Etcd) -> Self {
        self.etcd = Some(etcd);
        self
    }

    /// Starts them all and waits until sshd runs on each.
    pub async fn start(self) -> Result<Hosts> {
        needs_root()?;
        let mut set = self.prepare(Subnet::take()?).await?;
        set.furnish()?;
        set.boot().await?;
        set.complete = true;
        Ok(set)
    }

    /// Makes them all with empty disks, off.
    async fn prepare(mut self, subnet: Subnet) -> Result<Hosts> {
        if self.jump {
            self.hosts.push((JUMP.to_owned(), Image::Debian12));
        }
        let ssh = Ssh::create(&subnet.directory().join("ssh"), self.login)?;
        if let Some(etcd) = &self.etcd {
            let layer = subnet.directory().join("layer-etcd");
            etcd_layer(etcd, &layer)?;
            self.layers.push(layer);
        }
        let mut set = Hosts { hosts: Vec::new(), ssh, subnet, jump: self.jump, complete: false };
        for (place, (name, image)) in self.hosts.iter().enumerate() {
            let number = u8::try_from(place).ok().and_then(|n| n.checked_add(FIRST_ADDRESS));
            let number = number.ok_or_else(|| Error::new("too many hosts for one subnet"))?;
            let mut lower = self.layers.clone();
            lower.push(image.root().await?);
            set.hosts.push(Host::create(&set.subnet, name, number, lower)?);
        }
        Ok(set)
    }
}

fn needs_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::new("test hosts are started by root, and this is not root"))
}

/// A set of hosts on a network of their own; see the module.
#[derive(Debug)]
pub struct Hosts {
    // First, so that the hosts end before their network and directory go.
    hosts: Vec<Host>,
    ssh: Ssh,
    subnet: Subnet,
    jump: bool,
    /// Whether the set-up came about; the journals tell why not.
    complete: bool,
}

impl Hosts {
    /// Begins a set without hosts.
    pub fn builder() -> Builder {
        Builder {
            hosts: Vec::new(),
            login: Login::Root,
            jump: false,
            layers: Vec::new(),
            etcd: None,
        }
    }

    /// All of them in the order of the builder; the jump host last.
    pub fn all(&self) -> &[Host] {
        &self.hosts
    }

    /// All of them, to be powered off and on.
    pub fn all_mut(&mut self) -> &mut [Host] {
        &mut self.hosts
    }

    /// The host at a place, from 0.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn host(&self, place: usize) -> &Host {
        &self.hosts[place]
    }

    /// The host at a place, from 0, to be powered off and on.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn host_mut(&mut self, place: usize) -> &mut Host {
        &mut self.hosts[place]
    }

    /// The configuration for `ssh -F`, which knows every host by its name.
    pub fn ssh_config(&self) -> PathBuf {
        self.ssh.config()
    }

    /// The `known_hosts` that the configuration names.
    pub fn known_hosts(&self) -> PathBuf {
        self.ssh.known_hosts()
    }

    /// The private key that the configuration names.
    pub fn ssh_key(&self) -> PathBuf {
        self.ssh.key()
    }

    /// The address of the machine of the test as the hosts see it.
    pub fn gateway(&self) -> Ipv4Addr {
        self.subnet.gateway()
    }

    /// A directory for what a test makes for these hosts; it goes with them.
    pub fn directory(&self) -> &Path {
        self.subnet.directory()
    }

    /// Runs a command over SSH as the program under test would. What it prints
    /// and its exit status are the command's, or ssh's own 255.
    pub async fn ssh<A: AsRef<OsStr>>(
        &self,
        host: &str,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Output> {
        let mut command = Command::new("ssh");
        command.arg("-F").arg(self.ssh_config()).arg(host).arg("--").args(args);
        bounded(&mut command, COMMAND_BOUND).await
    }

    /// Starts all at once and waits until sshd runs on each.
    async fn boot(&mut self) -> Result<()> {
        for host in &mut self.hosts {
            host.spawn()?;
        }
        for host in &mut self.hosts {
            host.wait_booted().await?;
        }
        Ok(())
    }

    /// Writes what every host has of its own onto its disk, before its first boot.
    fn furnish(&self) -> Result<()> {
        let names: String =
            self.hosts.iter().map(|host| format!("{} {}\n", host.address(), host.name())).collect();
        for host in &self.hosts {
            let write = |path: &str, text: &str| host.put(path, text.as_bytes(), 0o644);
            write("etc/resolv.conf", "nameserver 127.0.0.1\n")?;
            write("etc/hostname", &format!("{}\n", host.name()))?;
            write("etc/hosts", &format!("127.0.0.1 localhost\n{names}"))?;
            write("etc/host-network", &format!("ADDRESS={}/24\n", host.address()))?;
            if self.jump && host.name() != JUMP {
                let route = format!(
                    "[Service]\nExecStart=/sbin/ip route add blackhole {}/32\n",
                    self.gateway()
                );
                write("etc/systemd/system/host-network.service.d/hidden.conf", &route)?;
            }
            self.ssh.admit(host)?;
        }
        self.ssh.write_config(&self.hosts, self.jump)
    }
}

impl Drop for Hosts {
    #[expect(clippy::print_stderr, reason = "whoever reads a failed test needs the path")]
    fn drop(&mut self) {
        for host in &mut self.hosts {
            host.end();
        }
        let failed = std::thread::panicking() || !self.complete;
        if failed || std::env::var_os("ETCDVAULT_TEST_KEEP").is_some() {
            match self.keep_journals() {
                Ok(kept) => eprintln!("the journals of the hosts are kept in {}", kept.display()),
                Err(error) => eprintln!("the journals of the hosts are lost: {error}"),
            }
        }
    }
}

impl Hosts {
    fn keep_journals(&self) -> std::io::Result<PathBuf> {
        let kept = tempfile::Builder::new().prefix("etcdvault-hosts-").tempdir()?.keep();
        for host in &self.hosts {
            fs::copy(host.console(), kept.join(format!("{}.log", host.name())))?;
        }
        Ok(kept)
    }
}

/// What the distribution's etcd package puts where a host could find it.
const DISTRIBUTION: [&str; 4] =
    ["usr/bin/etcd", "usr/bin/etcdctl", "usr/lib/systemd/system/etcd.service", "etc/default/etcd"];

/// A layer with these programs and without the distribution's.
fn etcd_layer(etcd: &Etcd, layer: &Path) -> Result<()> {
    let failed = |source| Error::because(format!("making {}", layer.display()), source);
    let programs = layer.join("usr/local/bin");
    fs::create_dir_all(&programs).map_err(failed)?;
    for program in [etcd.server(), etcd.etcdctl_path(), etcd.etcdutl_path()] {
        link(&program, &programs)?;
    }
    without_distribution(layer)
}

/// Takes the distribution's etcd away.
fn without_distribution(layer: &Path) -> Result<()> {
    let failed = |source| Error::because(format!("making {}", layer.display()), source);
    for path in DISTRIBUTION {
        let path = layer.join(path);
        fs::create_dir_all(path.parent().unwrap_or(layer)).map_err(failed)?;
        // The overlay's mark of a deleted file.
        machine("mknod", [path.as_os_str(), OsStr::new("c"), OsStr::new("0"), OsStr::new("0")])?;
    }
    Ok(())
}

/// Puts a file of the cache into a layer's directory. Hosts do not write to a layer,
/// so that a link is safe.
fn link(from: &Path, directory: &Path) -> Result<()> {
    let to = directory.join(from.file_name().unwrap_or_default());
    if to.exists() || fs::hard_link(from, &to).is_ok() {
        return Ok(());
    }
    fs::copy(from, &to)
        .map(drop)
        .map_err(|source| Error::because(format!("copying to {}", to.display()), source))
}

/// Runs a command within a bound, without standard input.
async fn bounded(command: &mut Command, bound: Duration) -> Result<Output> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let said = format!("{:?}", command.as_std());
    match tokio::time::timeout(bound, command.output()).await {
        Ok(output) => output.map_err(|source| Error::because(format!("running {said}"), source)),
        Err(_) => Err(Error::new(format!("{said} did not end within {bound:?}"))),
    }
}

/// Runs a short command of this machine to its end and returns what it printed.
fn machine<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) -> Result<String> {
    let mut command = std::process::Command::new(program);
    command.args(args).stdin(Stdio::null());
    let said = format!("{command:?}");
    let output =
        command.output().map_err(|source| Error::because(format!("running {said}"), source))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::because(format!("running {said} ({})", output.status), text))
}
