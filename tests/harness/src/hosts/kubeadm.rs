//! Control planes made by kubeadm: real kubelet, containerd and kube-apiserver,
//! etcd in static pods.
//!
//! The programs and images come from `tests/servers/install-kubernetes.sh`. What
//! kubeadm made is kept in the test cache, the disk of every node, so that only the
//! first run waits for it; each run has copies. Addresses are in certificates and in
//! etcd's member list, so a set-up has its own fixed subnet, and test processes that
//! want the same one wait for each other.
//!
//! Nodes have no network plugin: they stay NotReady and ordinary pods stay Pending.
//! Objects, leases, watches and everything in etcd work. Unlike other hosts they have
//! every capability, no seccomp filter, the kernel's log, and control groups of
//! version 1 where the machine has these; and the machine's
//! `fs.inotify.max_user_instances` is raised to 1024, once.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::process::Command;

use super::subnet::Subnet;
use super::{Hosts, INSTALL_BOUND, Image, bounded, link, machine, without_distribution};
use crate::etcd::Etcd;
use crate::process::Process;
use crate::{Error, Result, cache};

/// Compiling Kubernetes on a slow machine, with others waiting for the same lock.
const BUILD_BOUND: Duration = Duration::from_secs(3600);
/// Until API servers and etcd answer.
const READY_BOUND: Duration = Duration::from_secs(300);
/// How long others may have the set-up.
const WAIT_BOUND: Duration = Duration::from_secs(3600);
/// Certificates of kubeadm are valid for a year.
const KEPT: Duration = Duration::from_secs(180 * 24 * 3600);
const POLL: Duration = Duration::from_millis(200);

/// The address of the API servers by name, as operators have it.
const API: &str = "api.test";
/// Throwaway secrets of a cluster that only this machine reaches.
const TOKEN: &str = "abcdef.0123456789abcdef";
const CERTIFICATE_KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// kubectl's configuration on every node.
const ADMIN: &str = "/etc/kubernetes/admin.conf";
/// Files of containerd larger than this are never written again, but for its own
/// databases: programs in images.
const LINKED: u64 = 1 << 20;

/// How many nodes a control plane has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// One node, the API server at its own address.
    One,
    /// Three nodes; the API servers at `api.test`, a load balancer.
    Three,
}

impl Size {
    fn nodes(self) -> usize {
        match self {
            Self::One => 1,
            Self::Three => 3,
        }
    }

    fn subnet(self) -> u8 {
        match self {
            Self::One => 201,
            Self::Three => 203,
        }
    }
}

/// Where the built parts are.
#[derive(Debug)]
struct Parts {
    kubernetes: PathBuf,
    containerd: PathBuf,
    crictl: PathBuf,
    images: PathBuf,
    etcd: Etcd,
}

impl Parts {
    async fn install() -> Result<Self> {
        Ok(Self {
            kubernetes: install("kubernetes").await?,
            containerd: install("containerd").await?,
            crictl: install("crictl").await?,
            etcd: Etcd::version("3.6").await?,
            images: install("images").await?,
        })
    }

    /// `1.36.3`
    fn version(&self) -> String {
        let name = self.kubernetes.file_name().and_then(OsStr::to_str).unwrap_or_default();
        name.trim_start_matches("kubernetes-").to_owned()
    }

    /// What every node has over Debian 12.
    fn layer(&self, layer: &Path) -> Result<()> {
        let programs = layer.join("usr/bin");
        let clients = layer.join("usr/local/bin");
        for directory in [&programs, &clients] {
            fs::create_dir_all(directory).map_err(|source| {
                Error::because(format!("creating {}", directory.display()), source)
            })?;
        }
        for program in ["kubelet", "kubeadm", "kubectl"] {
            link(&self.kubernetes.join(program), &programs)?;
        }
        for program in ["containerd", "containerd-shim-runc-v2", "ctr"] {
            link(&self.containerd.join(program), &programs)?;
        }
        link(&self.crictl.join("crictl"), &programs)?;
        link(&self.etcd.etcdctl_path(), &clients)?;
        link(&self.etcd.etcdutl_path(), &clients)?;
        without_distribution(layer)?;
        copy(&cache::scripts().join("kubernetes/root"), layer)?;
        let wants = layer.join("etc/systemd/system/multi-user.target.wants");
        let failed = |source| Error::because(format!("making {}", wants.display()), source);
        fs::create_dir_all(&wants).map_err(failed)?;
        for unit in ["node-kernel", "containerd", "kubelet"] {
            let to = format!("/etc/systemd/system/{unit}.service");
            std::os::unix::fs::symlink(to, wants.join(format!("{unit}.service")))
                .map_err(failed)?;
        }
        Ok(())
    }

    /// Changes with everything that the kept disks depend on.
    fn key(&self, root: &Path) -> Result<String> {
        let mut hash = Sha256::new();
        let paths =
            [&self.kubernetes, &self.containerd, &self.crictl, &self.images, &root.to_owned()];
        for path in paths {
            hash.update(path.file_name().unwrap_or_default().as_encoded_bytes());
            hash.update([0]);
        }
        let tree = cache::scripts().join("kubernetes/root");
        digest_tree(&tree, &mut hash)
            .map_err(|source| Error::because(format!("reading {}", tree.display()), source))?;
        for size in [Size::One, Size::Three] {
            hash.update([size.subnet()]);
            hash.update(configuration(size, "k", Ipv4Addr::UNSPECIFIED, self));
        }
        let digest = hash.finalize();
        Ok(digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect())
    }
}

/// A control plane.
#[derive(Debug)]
pub struct Kubeadm {
    hosts: Hosts,
    balancer: Option<Process>,
}

impl Kubeadm {
    /// Nodes `k1`, `k2` …; returns when every API server is ready and etcd has all its
    /// members.
    pub async fn start(size: Size) -> Result<Self> {
        super::needs_root()?;
        let parts = Parts::install().await?;
        let root = Image::Debian12.root().await?;
        let kept = cache::directory()?.join(format!("kubeadm-{}", parts.key(&root)?));
        raise_inotify()?;
        let held = lock(&kept.with_extension("lock")).await?;
        if fs::metadata(&kept)
            .and_then(|kept| kept.modified())
            .is_ok_and(|made| SystemTime::now().duration_since(made).is_ok_and(|age| age > KEPT))
        {
            remove(&kept)?;
        }
        fs::create_dir_all(&kept)
            .map_err(|source| Error::because(format!("creating {}", kept.display()), source))?;
        let images = kept.join("images");
        if !images.is_dir() {
            import(&parts, &images).await?;
        }
        let disks = kept.join(format!("nodes-{}", size.nodes()));
        let made = disks.is_dir();
        let mut set = Self { hosts: prepare(size, &parts).await?, balancer: None };
        for host in set.hosts.all() {
            let containers = host.directory().join("containerd");
            if made {
                let disk = disks.join(host.name());
                copy(&disk.join("upper"), &host.directory().join("upper"))?;
                link_tree(&disk.join("containerd"), &containers)?;
            } else {
                link_tree(&images, &containers)?;
            }
        }
        set.hosts.furnish()?;
        set.name_api(size)?;
        if size == Size::Three {
            set.balance()?;
        }
        // Who finds the disks has no need to wait for us.
        let held = (!made).then_some(held);
        set.hosts.boot().await?;
        if !made {
            set.create(size, &parts).await?;
            set.wait_ready().await?;
            set.keep(&disks).await?;
        }
        drop(held);
        set.wait_ready().await?;
        set.hosts.complete = true;
        Ok(set)
    }

    /// The nodes.
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// The nodes, to be powered off and on.
    pub fn hosts_mut(&mut self) -> &mut Hosts {
        &mut self.hosts
    }

    /// Runs kubectl as the administrator on a node against that node's own API
    /// server, and returns what it printed.
    pub async fn kubectl<A: AsRef<OsStr>>(
        &self,
        place: usize,
        args: impl IntoIterator<Item = A>,
    ) -> Result<String> {
        let host = self.hosts.host(place);
        let server = format!("--server=https://{}:6443", host.address());
        let config = format!("--kubeconfig={ADMIN}");
        let mut command =
            ["kubectl", "--request-timeout=30s", &server, &config].map(Into::into).to_vec();
        command.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        host.check::<std::ffi::OsString>(command).await
    }

    /// Runs etcdctl on a node against that node's member, and returns what it printed.
    pub async fn etcdctl<A: AsRef<OsStr>>(
        &self,
        place: usize,
        args: impl IntoIterator<Item = A>,
    ) -> Result<String> {
        let pki = "/etc/kubernetes/pki/etcd";
        let (ca, cert) = (format!("--cacert={pki}/ca.crt"), format!("--cert={pki}/peer.crt"));
        let key = format!("--key={pki}/peer.key");
        let mut command = ["etcdctl", &ca, &cert, &key].map(Into::into).to_vec();
        command.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self.hosts.host(place).check::<std::ffi::OsString>(command).await
    }

    /// Waits until the API server of every node that is on says that it is ready and
    /// its member lists as many started members as there are nodes.
    pub async fn wait_ready(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let error = match self.observe().await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if start.elapsed() > READY_BOUND {
                let text = format!("the control plane was not ready within {READY_BOUND:?}");
                return Err(Error::because(text, error));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn observe(&self) -> Result<()> {
        for (place, host) in self.hosts.all().iter().enumerate().filter(|(_, host)| host.is_on()) {
            let said = self.etcdctl(place, ["member", "list", "-w", "json"]).await?;
            let list: Value = serde_json::from_str(&said)
                .map_err(|source| Error::because("reading the member list", source))?;
            let members = list["members"].as_array().cloned().unwrap_or_default();
            let voting = members.iter().filter(|m| m["isLearner"] != true && m["name"] != "");
            if voting.count() != self.hosts.all().len() {
                return Err(Error::because(format!("{} lists other members", host.name()), said));
            }
            let said = self.kubectl(place, ["get", "--raw", "/readyz"]).await?;
            if said != "ok" {
                return Err(Error::because(format!("{} is not ready", host.name()), said));
            }
        }
        Ok(())
    }

    /// Makes the API servers' name known.
    fn name_api(&self, size: Size) -> Result<()> {
        let address = match size {
            Size::One => self.hosts.host(0).address(),
            Size::Three => self.hosts.gateway(),
        };
        for host in self.hosts.all() {
            let mut text = format!("127.0.0.1 localhost\n{address} {API}\n");
            for other in self.hosts.all() {
                text.push_str(&format!("{} {}\n", other.address(), other.name()));
            }
            host.put("etc/hosts", text.as_bytes(), 0o644)?;
        }
        Ok(())
    }

    /// Starts the load balancer on the bridge's address.
    fn balance(&mut self) -> Result<()> {
        let mut text = format!(
            "global\n  maxconn 2000\ndefaults\n  mode tcp\n  timeout connect 2s\n  \
             timeout client 1h\n  timeout server 1h\nlisten api\n  bind {}:6443\n  \
             option httpchk GET /readyz\n  default-server check check-ssl verify none inter 1s \
             fall 2 rise 1 on-marked-down shutdown-sessions\n",
            self.hosts.gateway()
        );
        for host in self.hosts.all() {
            text.push_str(&format!("  server {} {}:6443\n", host.name(), host.address()));
        }
        let path = self.hosts.directory().join("haproxy.cfg");
        fs::write(&path, text)
            .map_err(|source| Error::because(format!("writing {}", path.display()), source))?;
        let log = self.hosts.directory().join("haproxy.log");
        let program = Path::new("haproxy");
        let args = [OsStr::new("-db"), OsStr::new("-f"), path.as_os_str()];
        self.balancer = Some(Process::start(program, args, &[], &log)?);
        Ok(())
    }

    /// `kubeadm init` on the first node, `kubeadm join` on the others.
    async fn create(&self, size: Size, parts: &Parts) -> Result<()> {
        for (place, host) in self.hosts.all().iter().enumerate() {
            // Returns when containerd answers.
            host.check(["systemctl", "start", "containerd"]).await?;
            let config = configuration(size, host.name(), host.address(), parts);
            host.write_as("/root/kubeadm.yaml", config.as_bytes(), "root", 0o600).await?;
            let mut command = vec!["kubeadm"];
            if place == 0 {
                command.extend(["init", "--upload-certs"]);
            } else {
                command.push("join");
            }
            command.extend(["--config", "/root/kubeadm.yaml"]);
            host.check_within(command, READY_BOUND).await?;
        }
        Ok(())
    }

    /// Cuts the power of all nodes, keeps copies of their disks, and starts them again.
    async fn keep(&mut self, disks: &Path) -> Result<()> {
        for host in self.hosts.all_mut() {
            host.check(["sync"]).await?;
            host.power_off_hard().await?;
        }
        let building = disks.with_extension("building");
        remove(&building)?;
        for host in self.hosts.all() {
            let disk = building.join(host.name());
            copy(&host.directory().join("upper"), &disk.join("upper"))?;
            remove(&disk.join("upper/var/log/journal"))?;
            link_tree(&host.directory().join("containerd"), &disk.join("containerd"))?;
        }
        fs::rename(&building, disks)
            .map_err(|source| Error::because(format!("keeping {}", disks.display()), source))?;
        self.hosts.boot().await
    }
}

/// Hosts that are fit for nodes, off.
async fn prepare(size: Size, parts: &Parts) -> Result<Hosts> {
    let subnet = Subnet::wait_for(size.subnet(), WAIT_BOUND).await?;
    let layer = subnet.directory().join("layer-kubernetes");
    parts.layer(&layer)?;
    let mut builder = Hosts::builder().layer(layer);
    for number in 1..=size.nodes() {
        builder = builder.host(&format!("k{number}"), Image::Debian12);
    }
    let mut hosts = builder.prepare(subnet).await?;
    for host in hosts.all_mut() {
        let containerd = host.directory().join("containerd");
        fs::create_dir_all(&containerd).map_err(|source| {
            Error::because(format!("creating {}", containerd.display()), source)
        })?;
        let setting = host.setting_mut();
        // Under nspawn's filter runc starts nothing; kubelet manages version 1.
        setting.environment = vec![("SYSTEMD_SECCOMP".into(), "0".into())];
        setting.args.extend(["--capability=all".into(), "--bind=/dev/kmsg".into()]);
        // containerd's overlays cannot lie on the host's.
        let bind = format!("--bind={}:/var/lib/containerd", containerd.display());
        setting.args.push(bind.into());
    }
    Ok(hosts)
}

/// Makes containerd's directory with the images in it, which all nodes begin with.
async fn import(parts: &Parts, images: &Path) -> Result<()> {
    let mut hosts = prepare(Size::One, parts).await?;
    let bind = format!("--bind-ro={}:/opt/images", parts.images.display());
    for host in hosts.all_mut() {
        host.setting_mut().args.push(bind.clone().into());
    }
    hosts.furnish()?;
    hosts.boot().await?;
    let host = hosts.host_mut(0);
    host.check(["systemctl", "start", "containerd"]).await?;
    for archive in host.check(["ls", "/opt/images"]).await?.lines() {
        let archive = format!("/opt/images/{archive}");
        let command = ["ctr", "--namespace=k8s.io", "images", "import", &archive];
        host.check_within(command, READY_BOUND).await?;
    }
    host.check(["systemctl", "stop", "containerd"]).await?;
    host.power_off_hard().await?;
    fs::rename(host.directory().join("containerd"), images)
        .map_err(|source| Error::because(format!("keeping {}", images.display()), source))?;
    hosts.complete = true;
    Ok(())
}

/// kubeadm's configuration of one node.
fn configuration(size: Size, name: &str, address: Ipv4Addr, parts: &Parts) -> String {
    let (version, etcd) = (parts.version(), parts.etcd.full_version());
    let registration = format!(
        "nodeRegistration:\n  name: {name}\n  criSocket: unix:///run/containerd/containerd.sock\n  \
         kubeletExtraArgs: [{{name: node-ip, value: \"{address}\"}}]\n  \
         ignorePreflightErrors: [all]\n"
    );
    let endpoint = match size {
        Size::One => format!("{address}:6443"),
        Size::Three => format!("{API}:6443"),
    };
    format!(
        "apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\n\
         localAPIEndpoint: {{advertiseAddress: {address}}}\n{registration}\
         bootstrapTokens: [{{token: {TOKEN}, ttl: 0s}}]\ncertificateKey: {CERTIFICATE_KEY}\n\
         skipPhases: [addon]\n---\n\
         apiVersion: kubeadm.k8s.io/v1beta4\nkind: JoinConfiguration\n\
         controlPlane:\n  localAPIEndpoint: {{advertiseAddress: {address}}}\n  \
         certificateKey: {CERTIFICATE_KEY}\n\
         discovery:\n  bootstrapToken: {{token: {TOKEN}, apiServerEndpoint: \"{endpoint}\", \
         unsafeSkipCAVerification: true}}\n{registration}---\n\
         apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\n\
         kubernetesVersion: v{version}\ncontrolPlaneEndpoint: \"{endpoint}\"\n\
         etcd: {{local: {{imageTag: {etcd}-0}}}}\n---\n\
         apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
         failCgroupV1: false\ncgroupDriver: cgroupfs\nfailSwapOn: false\n\
         imageGCHighThresholdPercent: 100\nimageGCLowThresholdPercent: 99\n\
         evictionHard: {{memory.available: 10Mi, nodefs.available: 1%, \
         nodefs.inodesFree: 1%, imagefs.available: 1%}}\n"
    )
}

fn digest_tree(directory: &Path, hash: &mut Sha256) -> std::io::Result<()> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    paths.sort_unstable();
    for path in paths {
        hash.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        if path.is_dir() {
            digest_tree(&path, hash)?;
        } else {
            hash.update(fs::read(&path)?);
        }
    }
    Ok(())
}

async fn install(part: &str) -> Result<PathBuf> {
    let script = cache::scripts().join("install-kubernetes.sh");
    let bound = if part == "kubernetes" { BUILD_BOUND } else { INSTALL_BOUND };
    let output = bounded(Command::new(&script).arg(part), bound).await?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Error::because(format!("installing {part}"), text));
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// Every kubelet and containerd of all nodes watches files as the same user.
fn raise_inotify() -> Result<()> {
    let path = "/proc/sys/fs/inotify/max_user_instances";
    let now = fs::read_to_string(path).unwrap_or_default();
    if now.trim().parse::<u64>().is_ok_and(|now| now >= 1024) {
        return Ok(());
    }
    fs::write(path, "1024").map_err(|source| Error::because(format!("raising {path}"), source))
}

async fn lock(path: &Path) -> Result<File> {
    let opened = File::options().create(true).truncate(false).write(true).open(path);
    let file =
        opened.map_err(|source| Error::because(format!("opening {}", path.display()), source))?;
    let start = Instant::now();
    while file.try_lock().is_err() {
        if start.elapsed() > WAIT_BOUND {
            return Err(Error::new(format!("{} was held for {WAIT_BOUND:?}", path.display())));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(file)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::because(format!("removing {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

/// Copies what a directory holds into another, owners, modes and attributes too.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)
        .map_err(|source| Error::because(format!("creating {}", to.display()), source))?;
    machine("cp", [OsStr::new("-a"), from.join(".").as_os_str(), to.as_os_str()]).map(drop)
}

/// Copies containerd's directory, with links to what it never writes again.
fn link_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)
        .map_err(|source| Error::because(format!("creating {}", to.display()), source))?;
    machine("cp", [OsStr::new("-al"), from.join(".").as_os_str(), to.as_os_str()])?;
    own_small(to).map_err(|source| Error::because(format!("copying to {}", to.display()), source))
}

/// Makes files of their own of the links that may be written.
fn own_small(directory: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let (entry, part) = (entry?.path(), directory.join(".own"));
        let metadata = fs::symlink_metadata(&entry)?;
        if metadata.is_dir() {
            own_small(&entry)?;
        } else if metadata.is_file()
            && (metadata.len() <= LINKED || entry.extension() == Some(OsStr::new("db")))
        {
            fs::copy(&entry, &part)?;
            fs::rename(&part, &entry)?;
        }
    }
    Ok(())
}
