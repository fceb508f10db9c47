//! Real sshd on loopback, each with keys and a configuration of its own, in a
//! mount namespace where `/var/lib` is its own: what is uploaded stays there.
//! Needs root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use etcdvault::node::remote::{Deadlines, Keepalive};
use etcdvault::node::ssh::{AgentProgram, NodeSpec, Place, SshSpec, connect_all, connect_ssh};
use etcdvault::node::*;
use futures_util::stream::{self, StreamExt};
use harness::port::Port;
use rustix::process::Signal;

use crate::{contract, descendants, eventually, kill, name};

/// A running sshd.
struct Sshd {
    child: std::process::Child,
    port: Port,
    directory: tempfile::TempDir,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        for (pid, _) in descendants(self.child.id()) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid.try_into().unwrap()) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).output().unwrap();
    assert!(
        done.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

fn keygen(path: &Path) {
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", path.to_str().unwrap()]);
}

/// Writes a program by way of a data file. By another process: one that is forked
/// here in this moment would hold the program open for writing, and it could not run.
fn install(data: &Path, content: &[u8], mode: u32, program: &Path) {
    fs::write(data, content).unwrap();
    let mode = format!("{mode:o}");
    run("install", &["-m", &mode, data.to_str().unwrap(), program.to_str().unwrap()]);
}

impl Sshd {
    async fn start(more: &str) -> Self {
        fs::create_dir_all("/run/sshd").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        keygen(&at("host"));
        keygen(&at("user"));
        fs::copy(at("user.pub"), at("authorized")).unwrap();
        let port = Port::reserve().unwrap();
        let config = format!(
            "ListenAddress 127.0.0.1:{}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\n\
             PidFile none\nUsePAM no\nPermitRootLogin prohibit-password\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxStartups 100\n{more}\n",
            port.number(),
            at("host").display(),
            at("authorized").display(),
        );
        fs::write(at("sshd_config"), config).unwrap();
        let log = fs::File::create(at("log")).unwrap();
        let mount = "mount -t tmpfs -o mode=755 none /var/lib && exec \"$@\"";
        let child = Command::new("unshare")
            .args(["--mount", "/bin/sh", "-c", mount, "sh", "/usr/sbin/sshd", "-D", "-e", "-f"])
            .arg(at("sshd_config"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let host = fs::read_to_string(at("host.pub")).unwrap();
        let known = format!("[127.0.0.1]:{} {host}", port.number());
        fs::write(at("known_hosts"), known).unwrap();
        let sshd = Self { child, port, directory };
        sshd.configure("");
        let number = sshd.port.number();
        eventually("sshd listens", || std::net::TcpStream::connect(("127.0.0.1", number)).is_ok())
            .await;
        sshd
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the client's configuration, in which this host is `far`.
    fn configure(&self, more: &str) {
        fs::write(self.at("config"), format!("{}{more}", self.host("far", ""))).unwrap();
    }

    fn host(&self, alias: &str, more: &str) -> String {
        format!(
            "Host {alias}\n HostName 127.0.0.1\n Port {}\n User root\n IdentityFile {}\n \
             IdentitiesOnly yes\n UserKnownHostsFile {}\n GlobalKnownHostsFile /dev/null\n{more}\n",
            self.port.number(),
            self.at("user").display(),
            self.at("known_hosts").display(),
        )
    }

    fn spec(&self) -> SshSpec {
        let mut spec = SshSpec::new("far");
        spec.config = Some(self.at("config"));
        spec.agent = AgentProgram::Send(env!("CARGO_BIN_EXE_etcdvault").into());
        spec.deadlines = Deadlines { connect: Duration::from_secs(120), ..Deadlines::default() };
        spec
    }

    async fn connect(&self) -> remote::RemoteNode {
        connect_ssh(&name("far"), &self.spec()).await.unwrap()
    }

    async fn refused(&self, spec: &SshSpec) -> NodeError {
        connect_ssh(&name("far"), spec).await.unwrap_err()
    }

    /// Its own `/var/lib`, seen from here.
    fn var_lib(&self) -> PathBuf {
        format!("/proc/{}/root/var/lib", self.child.id()).into()
    }

    fn agents(&self) -> Vec<u32> {
        let all = descendants(self.child.id()).into_iter();
        let agent =
            |line: &str| line.starts_with("/var/lib/") && line.contains("/etcdvault node-agent");
        all.filter(|(_, line)| agent(line)).map(|(pid, _)| pid).collect()
    }

    /// The ssh that this process started for it.
    fn clients(&self) -> Vec<u32> {
        let config = self.at("config").display().to_string();
        let all = descendants(std::process::id()).into_iter();
        all.filter(|(_, line)| line.starts_with("ssh ") && line.contains(&config))
            .map(|(pid, _)| pid)
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_over_ssh_is_as_the_contract_says_and_gets_its_program_once() {
    let sshd = Sshd::start("").await;
    // Three at once, of which each may upload.
    let spec =
        |n| NodeSpec { name: name(&format!("n{n}")), place: Place::Ssh(Box::new(sshd.spec())) };
    let nodes = connect_all(&[spec(1), spec(2), spec(3)], 3).await;
    for node in &nodes {
        node.as_ref().unwrap().facts().await.unwrap();
    }
    let stored: Vec<_> = fs::read_dir(sshd.var_lib().join("etcdvault-agent")).unwrap().collect();
    assert_eq!(stored.len(), 1, "{stored:?}");
    let file = stored[0].as_ref().unwrap().path().join("etcdvault");
    let meta = fs::metadata(&file).unwrap();
    assert_eq!(meta.permissions().mode() & 0o7777, 0o700);
    drop(nodes);
    eventually("the agents are gone", || sshd.agents().is_empty() && sshd.clients().is_empty())
        .await;

    let node = sshd.connect().await;
    let again = fs::metadata(&file).unwrap();
    assert_eq!(again.modified().unwrap(), meta.modified().unwrap(), "it was sent again");
    let root = tempfile::tempdir().unwrap();
    contract::files(&node, root.path()).await;
    let root = tempfile::tempdir().unwrap();
    contract::trees(&node, root.path()).await;
    drop(node);

    // What was changed on the node is not started, but sent again.
    eventually("the agent is gone", || sshd.agents().is_empty()).await;
    install(&sshd.at("data"), b"#!/bin/sh\nexit 7\n", 0o700, &file);
    sshd.connect().await.facts().await.unwrap();
    assert_eq!(fs::metadata(&file).unwrap().len(), meta.len());

    // Old ones go, the youngest stay.
    for n in 0..9 {
        let old = sshd.var_lib().join("etcdvault-agent").join(format!("{n:064x}"));
        fs::create_dir(&old).unwrap();
        run("touch", &["-d", "2020-01-01", old.to_str().unwrap()]);
    }
    sshd.connect().await.facts().await.unwrap();
    let left = fs::read_dir(sshd.var_lib().join("etcdvault-agent")).unwrap().count();
    assert_eq!(left, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banner_on_stdout_and_a_jump_host_are_no_obstacle() {
    let banner = tempfile::NamedTempFile::new().unwrap();
    fs::write(banner.path(), "for n in $(seq 400); do echo \"Welcome to line $n of the banner\"; done; printf 'no newline'\n").unwrap();
    let far = Sshd::start(&format!(
        "SetEnv BASH_ENV={}\nBanner /etc/os-release",
        banner.path().display()
    ))
    .await;
    let jump = Sshd::start("").await;
    let jumped = far.host("jumped", " ProxyJump over\n") + &jump.host("over", "");
    far.configure(&jumped);
    let mut spec = far.spec();
    spec.destination = "jumped".to_owned();
    let node = connect_ssh(&name("far"), &spec).await.unwrap();
    assert_eq!(node.facts().await.unwrap().uid, 0);
    let log = fs::read_to_string(jump.at("log")).unwrap();
    assert!(log.contains("Accepted publickey"), "{log}");
    drop(node);
    eventually("all ended", || far.agents().is_empty() && far.clients().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_is_told_why() {
    let sshd = Sshd::start("").await;
    let hint = |error: &NodeError| error.hint.clone().unwrap_or_default();

    keygen(&sshd.at("other"));
    let known = fs::read_to_string(sshd.at("known_hosts")).unwrap();
    fs::write(sshd.at("known_hosts"), "").unwrap();
    let error = sshd.refused(&sshd.spec()).await;
    assert_eq!(error.kind, NodeErrorKind::Unexpected, "{error:?}");
    assert!(error.why.contains("not known") && hint(&error).contains("ssh far"), "{error:?}");

    let other = fs::read_to_string(sshd.at("other.pub")).unwrap();
    fs::write(sshd.at("known_hosts"), format!("[127.0.0.1]:{} {other}", sshd.port.number()))
        .unwrap();
    let error = sshd.refused(&sshd.spec()).await;
    assert_eq!(error.kind, NodeErrorKind::Unexpected, "{error:?}");
    assert!(hint(&error).contains("ssh-keygen -R"), "{error:?}");
    fs::write(sshd.at("known_hosts"), known).unwrap();

    fs::write(sshd.at("authorized"), other).unwrap();
    let error = sshd.refused(&sshd.spec()).await;
    assert_eq!(error.kind, NodeErrorKind::Permission, "{error:?}");
    assert!(error.why.contains("ssh keys"), "{error:?}");
    fs::copy(sshd.at("user.pub"), sshd.at("authorized")).unwrap();

    let mut spec = sshd.spec();
    spec.port = Some(Port::reserve().unwrap().number());
    let error = sshd.refused(&spec).await;
    assert_eq!(error.kind, NodeErrorKind::Lost, "{error:?}");
    assert!(error.why.contains("no sshd"), "{error:?}");

    spec.destination = "-oProxyCommand=touch /tmp/x".to_owned();
    assert!(sshd.refused(&spec).await.why.contains("refused as a destination"));
    spec = sshd.spec();
    spec.program = "/no/such/ssh".into();
    assert!(sshd.refused(&spec).await.why.contains("cannot start /no/such/ssh"));
    sshd.connect().await.facts().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_cannot_be_the_agent_is_refused_with_the_remedy() {
    let sshd = Sshd::start("").await;
    let place = |name: &str, content: &[u8], mode: u32| {
        let directory = sshd.var_lib().join("opt");
        fs::create_dir_all(&directory).unwrap();
        install(&sshd.at("data"), content, mode, &directory.join(name));
        let mut spec = sshd.spec();
        spec.agent = AgentProgram::Installed(format!("/var/lib/opt/{name}").into());
        spec
    };
    let program = fs::read(env!("CARGO_BIN_EXE_etcdvault")).unwrap();
    let node = connect_ssh(&name("far"), &place("good", &program, 0o755)).await.unwrap();
    node.facts().await.unwrap();
    drop(node);

    let mut foreign = program[..4096].to_vec();
    // The machine of the ELF header: AArch64, or where that is ours, x86-64.
    foreign[18] = if cfg!(target_arch = "aarch64") { 62 } else { 183 };
    let agent = |protocol: u32, version: &str| {
        format!(
            "#!/bin/sh\necho ETCDVAULT-AGENT {protocol} {version} {}\ncat >/dev/null\n",
            "a".repeat(64)
        )
    };
    let old_libc = b"#!/bin/sh\necho \"$0: /lib/libc.so.6: version \\`GLIBC_9.9' not found (required by $0)\" >&2\nexit 1\n";
    use NodeErrorKind::{NotFound, Permission, Unsupported};
    let missing =
        SshSpec { agent: AgentProgram::Installed("/var/lib/opt/none".into()), ..sshd.spec() };
    let cases = [
        (place("foreign", &foreign, 0o755), Unsupported, "another processor"),
        (place("old", agent(1, "0.0.1").as_bytes(), 0o755), Unsupported, "is etcdvault 0.0.1"),
        (place("new", agent(9, "9.0.0").as_bytes(), 0o755), Unsupported, "speaks protocol 9"),
        (place("libc", old_libc, 0o755), Unsupported, "C library"),
        (place("open", &program[..9], 0o777), Permission, "can be changed by others"),
        (missing, NotFound, "leads to no program"),
    ];
    for (spec, kind, why) in cases {
        let error = sshd.refused(&spec).await;
        assert_eq!(error.kind, kind, "{error:?}");
        assert!(error.why.contains(why) && error.hint.is_some(), "{error:?}");
    }
}

/// Nothing is sent to, and nothing started from, where somebody else could put a program.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_others_can_change_takes_no_program() {
    let sshd = Sshd::start("").await;
    let base = sshd.var_lib().join("etcdvault-agent");
    let mode = |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode));
    let owner = |path: &Path, user| std::os::unix::fs::chown(path, Some(user), None);
    let refused = async |left: usize| {
        let error = sshd.refused(&sshd.spec()).await;
        assert_eq!(error.kind, NodeErrorKind::Permission, "{error:?}");
        assert!(error.why.contains("can be changed by others"), "{error:?}");
        assert!(error.hint.is_some(), "{error:?}");
        assert_eq!(fs::read_dir(&base).unwrap().count(), left, "something was sent");
        eventually("nothing runs", || sshd.agents().is_empty()).await;
    };
    fs::create_dir(&base).unwrap();
    mode(&base, 0o775).unwrap();
    refused(0).await;
    mode(&base, 0o755).unwrap();
    owner(&base, 4242).unwrap();
    refused(0).await;
    owner(&base, 0).unwrap();
    // What is above counts as much.
    mode(&sshd.var_lib(), 0o777).unwrap();
    refused(0).await;
    mode(&sshd.var_lib(), 0o755).unwrap();
    sshd.connect().await.facts().await.unwrap();

    // And so does what was sent before, though its content is right.
    let directory = fs::read_dir(&base).unwrap().next().unwrap().unwrap().path();
    mode(&directory, 0o777).unwrap();
    refused(1).await;
    mode(&directory, 0o700).unwrap();
    owner(&directory.join("etcdvault"), 4242).unwrap();
    refused(1).await;
    owner(&directory.join("etcdvault"), 0).unwrap();
    sshd.connect().await.facts().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_within_a_call_is_lost_and_leaves_nothing() {
    let sshd = Sshd::start("").await;
    for victim in ["ssh", "agent"] {
        let node = sshd.connect().await;
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("target");
        let head = contract::raw_member("big", b'0', "", &vec![7; 8 << 20]);
        let pieces: Vec<_> =
            head[..4 << 20].chunks(64 << 10).map(bytes::Bytes::copy_from_slice).collect();
        let tar = stream::iter(pieces.into_iter().map(Ok)).chain(stream::pending()).boxed();
        let unpack = node.unpack_tree(&target, tar);
        tokio::pin!(unpack);
        let begun = || fs::read_dir(root.path()).unwrap().next().is_some();
        tokio::select! {
            result = &mut unpack => panic!("{result:?}"),
            () = eventually("it began", begun) => {}
        }
        let pids = if victim == "ssh" { sshd.clients() } else { sshd.agents() };
        assert_eq!(pids.len(), 1, "{victim}");
        kill(pids[0], Signal::KILL);
        let error =
            tokio::time::timeout(Duration::from_secs(60), unpack).await.unwrap().unwrap_err();
        assert_eq!(error.kind, NodeErrorKind::Lost, "{error:?}");
        assert_eq!(node.facts().await.unwrap_err().kind, NodeErrorKind::Lost);
        assert!(!target.exists());
        eventually("the agent is gone", || sshd.agents().is_empty()).await;
        if victim == "ssh" {
            assert!(error.why.contains("signal 9"), "{error:?}");
            eventually("what it had begun is gone", || !begun()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_or_ssh_that_is_stopped_is_lost_within_the_bound() {
    let sshd = Sshd::start("").await;
    for victim in ["ssh", "agent"] {
        let mut spec = sshd.spec();
        spec.keepalive =
            Keepalive { every: Duration::from_secs(2), within: Duration::from_secs(5) };
        let node = connect_ssh(&name("far"), &spec).await.unwrap();
        node.facts().await.unwrap();
        let pids = if victim == "ssh" { sshd.clients() } else { sshd.agents() };
        assert_eq!(pids.len(), 1, "{victim}");
        kill(pids[0], Signal::STOP);
        let lost = tokio::time::timeout(Duration::from_secs(60), node.facts()).await.unwrap();
        let error = lost.unwrap_err();
        assert_eq!(error.kind, NodeErrorKind::Lost, "{victim}: {error:?}");
        eventually("ssh is gone", || sshd.clients().is_empty()).await;
        if victim == "agent" {
            kill(pids[0], Signal::CONT);
        }
        eventually("the agent is gone", || sshd.agents().is_empty()).await;
    }
}
