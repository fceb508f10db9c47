//! What goes wrong on real hosts, with the real program over SSH: a node that refuses
//! the key or is another one, goes off in the middle, has a full disk or one that only
//! reads, a clock that is an hour ahead, a unit that does not start, a stray manifest;
//! two operators at once. Each error names the node, the act and what to do next, and
//! ends with its documented exit code; and what was begun can be gone on with.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::cli::{Cli, Ran};
use harness::hosts::etcd::{EtcdHosts, Kind};
use harness::hosts::kubeadm::{Kubeadm, Size};
use harness::hosts::{Host, Hosts, Image};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Child;
use tokio::task::JoinHandle;

/// No wait for anything takes longer.
const BOUND: Duration = Duration::from_secs(180);
/// A setting of the members, in a file that `Kind::Unit` has.
const DROP_IN: &str = "/etc/systemd/system/etcd.service.d/10-limits.conf";
const QUOTA: &str = "4294967296";
/// A file of the state that no service here reads.
const OTHER: &str = "/etc/default/flanneld";
const OTHER_QUOTA: &str = "8589934592";
/// Keys go to a vault of the test's own.
const ALLOW: &str = "--allow-unencrypted";

/// An operator: a directory with a configuration, and a vault.
struct Site {
    root: tempfile::TempDir,
    vault: PathBuf,
    cli: Cli,
}

impl Site {
    /// With a vault of its own and this configuration.
    async fn configured(hosts: &Hosts, config: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let vault = root.path().join("vault");
        let cli = Self::program(hosts);
        let init = [Path::new("init"), &vault, Path::new("--no-encryption")];
        cli.run(init).await.unwrap().expect(0);
        let path = root.path().join("etcdvault.toml");
        std::fs::write(&path, config).unwrap();
        let cli = cli.vault(&vault).env("ETCDVAULT_CONFIG", &path);
        Self { root, vault, cli }
    }

    /// With the configuration that `discover` writes.
    async fn of(cluster: &EtcdHosts) -> Self {
        let mut site = Self::configured(cluster.hosts(), "").await;
        site.find(cluster).await;
        site
    }

    /// Another operator of the same vault.
    async fn beside(&self, cluster: &EtcdHosts) -> Self {
        let root = tempfile::tempdir().unwrap();
        let cli = Self::program(cluster.hosts()).vault(&self.vault);
        let mut site = Self { root, vault: self.vault.clone(), cli };
        site.find(cluster).await;
        site
    }

    async fn find(&mut self, cluster: &EtcdHosts) {
        let path = self.root.path().join("found.toml");
        let mut args = vec!["discover"];
        args.extend(cluster.members().iter().map(Host::name));
        args.extend(["-o", path.to_str().unwrap(), "--cluster", "field"]);
        self.cli.run(args).await.unwrap().expect(0);
        self.cli = self.cli.clone().env("ETCDVAULT_CONFIG", &path);
    }

    fn program(hosts: &Hosts) -> Cli {
        Cli::new(env!("CARGO_BIN_EXE_etcdvault"))
            .env("ETCDVAULT_SSH_CONFIG", hosts.ssh_config())
            .env("ETCDCTL_DIAL_TIMEOUT", "30s")
            .env("ETCDCTL_COMMAND_TIMEOUT", "30s")
    }

    async fn run(&self, args: &[&str]) -> Ran {
        self.cli.run(args).await.unwrap()
    }

    /// Saves the state of all nodes and returns its id.
    async fn save(&self) -> String {
        let ran = self.run(&["state", "save", ALLOW, "--json"]).await.expect(0);
        ran.json()["id"].as_str().unwrap().to_owned()
    }

    async fn resume(&self, id: &str, more: &[&str]) -> Ran {
        self.run(&[&["resume", id, ALLOW], more].concat()).await
    }

    /// Begins the return to a state.
    fn returning(&self, state: &str) -> Live {
        Live::start(&self.cli, &["state", "return", state, "--yes", ALLOW])
    }
}

/// A run of the program that the test watches and interferes with.
struct Live {
    child: Child,
    called: String,
    said: Arc<Mutex<String>>,
    reading: JoinHandle<()>,
    printing: JoinHandle<Vec<u8>>,
}

impl Live {
    fn start(cli: &Cli, args: &[&str]) -> Self {
        let mut command = cli.command(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (mut out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let kept = said.clone();
        let reading = tokio::spawn(async move {
            let mut lines = BufReader::new(err).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let mut kept = kept.lock().unwrap();
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        let printing = tokio::spawn(async move {
            let mut printed = Vec::new();
            out.read_to_end(&mut printed).await.unwrap();
            printed
        });
        Self { child, called: format!("{:?}", command.as_std()), said, reading, printing }
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits until a step is done whose line holds all of `parts`, and holds the program
    /// there.
    async fn hold_after(&self, parts: &[&str]) {
        let start = Instant::now();
        // "  3.2  n2  set files …  0.1 s", which no row of the plan begins like.
        let is_done = |line: &str| {
            let number = line.split_whitespace().next().and_then(|word| word.split_once('.'));
            let is_step = number.is_some_and(|(stage, step)| {
                stage.parse::<u32>().is_ok() && step.parse::<u32>().is_ok()
            });
            is_step && !line.contains("waits for") && parts.iter().all(|part| line.contains(part))
        };
        while !self.said().lines().any(is_done) {
            assert!(!self.reading.is_finished(), "it ended without {parts:?}: {}", self.said());
            assert!(start.elapsed() < BOUND, "{parts:?} does not come: {}", self.said());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.signal(Signal::STOP);
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id().expect("it has not ended")).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    async fn end(mut self) -> Ran {
        let ended = tokio::time::timeout(BOUND, self.child.wait()).await;
        let code = ended.unwrap_or_else(|_| panic!("it does not end: {}", self.said()));
        let stdout = self.printing.await.unwrap();
        self.reading.await.unwrap();
        let stderr = self.said.lock().unwrap().clone();
        Ran { code: code.unwrap().code(), stdout, stderr, called: self.called }
    }
}

/// Each of `parts` is in what the program said.
#[track_caller]
fn says(ran: &Ran, parts: &[&str]) {
    let all = format!("{}{}", ran.text(), ran.stderr);
    for part in parts {
        assert!(all.contains(part), "no {part:?} in {ran}");
    }
}

/// The plan of the command that the program printed to go on.
#[track_caller]
fn plan_of(ran: &Ran) -> String {
    let (_, rest) = ran.stderr.split_once("etcdvault resume ").unwrap_or_else(|| panic!("{ran}"));
    rest.split_whitespace().next().unwrap().to_owned()
}

/// Changes a setting of every member under it.
async fn ruin(cluster: &EtcdHosts) {
    for host in cluster.members() {
        let text = String::from_utf8(host.read(DROP_IN).await.unwrap()).unwrap();
        assert!(text.contains(QUOTA), "{text}");
        host.write(DROP_IN, text.replace(QUOTA, OTHER_QUOTA).as_bytes()).await.unwrap();
    }
}

/// Which members have the setting as it was first.
async fn returned(cluster: &EtcdHosts) -> Vec<String> {
    let mut found = Vec::new();
    for host in cluster.members() {
        let text = String::from_utf8(host.read(DROP_IN).await.unwrap()).unwrap();
        assert_ne!(text.contains(QUOTA), text.contains(OTHER_QUOTA), "{text}");
        if text.contains(QUOTA) {
            found.push(host.name().to_owned());
        }
    }
    found
}

/// The cluster lives, every member with the setting that its file has.
async fn lives(cluster: &EtcdHosts, site: &Site) {
    cluster.wait_healthy().await.unwrap();
    let mut args = vec!["discover", "--json"];
    args.extend(cluster.members().iter().map(Host::name));
    let ran = site.run(&args).await.expect(0);
    for node in ran.json()["nodes"].as_array().unwrap() {
        assert_eq!(node["etcd"][0]["drift"].as_array().unwrap().len(), 0, "{ran}");
    }
}

fn is_missing(report: &Value, node: &str) -> Option<String> {
    let missing = report["missing"].as_array().unwrap();
    let found = missing.iter().find(|missing| missing["node"] == node)?;
    Some(found["why"].as_str().unwrap().to_owned())
}

/// Of four nodes one takes none of the keys, one has another host key, one no room for
/// the agent: the fourth is saved, and of each other is said what is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_do_not_let_the_operator_in_are_named_with_a_remedy() {
    let hosts = Hosts::builder().hosts(4, Image::Debian12).start().await.unwrap();
    let sections: String = (1..=4).map(|n| format!("[node.n{n}]\n")).collect();
    let config = format!(
        "[cluster.field]\nnodes = [\"n1\", \"n2\", \"n3\", \"n4\"]\n\
         allow-unencrypted-state = true\n{sections}"
    );
    let site = Site::configured(&hosts, &config).await;
    for host in hosts.all() {
        host.write("/etc/etcd/etcd.conf", b"ETCD_NAME=x\n").await.unwrap();
    }
    hosts.host(0).write("/root/.ssh/authorized_keys", b"").await.unwrap();
    let known = std::fs::read_to_string(hosts.known_hosts()).unwrap();
    let (n2, n4) = (hosts.host(1).address().to_string(), hosts.host(3).address().to_string());
    let key_of = |address: &str| {
        let line = known.lines().find(|line| line.starts_with(&format!("{address} "))).unwrap();
        line.split_once(' ').unwrap().1
    };
    let changed = known.replace(key_of(&n2), key_of(&n4));
    std::fs::write(hosts.known_hosts(), changed).unwrap();
    let place = "/var/lib/etcdvault-agent";
    hosts.host(2).check(["install", "-d", "-m", "0700", place]).await.unwrap();
    hosts.host(2).small_disk(place, 1 << 20).await.unwrap();
    hosts.host(2).fill_disk(place).await.unwrap();
    let expected = [
        ("n1", "the node accepts none of the ssh keys", "ssh -o BatchMode=yes n1 true"),
        ("n2", "the host key of the node is another one than before", "ssh-keygen -R"),
        ("n3", "the node has no space left for the program", "make room below"),
    ];

    let ran = site.run(&["state", "save", "--json"]).await.expect(3);
    let report = ran.json();
    assert_eq!(report["nodes"].as_array().unwrap().len(), 1, "{ran}");
    assert_eq!(report["nodes"][0]["node"], "n4");
    for (node, why, remedy) in expected {
        let said = is_missing(&report, node).unwrap_or_else(|| panic!("{ran}"));
        assert!(said.contains(why) && said.contains(remedy), "{node}: {said}");
        assert!(ran.stderr.contains(&format!("the state of {node} was not stored")), "{ran}");
    }
    let ran = site.run(&["discover", "n1", "n2", "n3", "n4", "--json"]).await.expect(3);
    let report = ran.json();
    for (place, (node, why, remedy)) in expected.iter().enumerate() {
        assert_eq!(report["unreached"][place]["node"], *node, "{ran}");
        let said = report["unreached"][place]["why"].as_str().unwrap();
        assert!(said.contains(why) && said.contains(remedy), "{node}: {said}");
    }

    let ran = site.run(&["journal", "list"]).await.expect(3);
    for (node, why, remedy) in expected {
        says(&ran, &[&format!("not read: {node}: "), why, remedy]);
    }
    // A state that holds a node which is not reached now.
    let ran = site.run(&["state", "return", "latest", "--node", "n4", "--dry-run"]).await;
    says(&ran.expect(0), &["no differences"]);
    let ran = site.run(&["state", "diff", "latest", "--node", "n1"]).await;
    assert_ne!(ran.code, Some(0), "{ran}");
    says(&ran, &["n1"]);

    // With the remedy it works: the key is back, room is made, the new host key known.
    let key = hosts.host(3).read("/root/.ssh/authorized_keys").await.unwrap();
    hosts.host(0).write_as("/root/.ssh/authorized_keys", &key, "root", 0o600).await.unwrap();
    hosts.host(2).unmount(place).await.unwrap();
    std::fs::write(hosts.known_hosts(), known).unwrap();
    let ran = site.run(&["state", "save", "--json"]).await.expect(0);
    assert_eq!(ran.json()["nodes"].as_array().unwrap().len(), 4, "{ran}");
    // Who needs all of them is refused, by the kind of what is wrong.
    hosts.host(0).write("/root/.ssh/authorized_keys", b"").await.unwrap();
    let ran = site.returning("latest").end().await.expect(12);
    says(&ran, &["node n1", expected[0].1, expected[0].2]);
}

/// Whether anything on the host has the file open.
async fn is_open(host: &Host, path: &str) -> bool {
    let look = r#"find /proc/[0-9]*/fd -lname "$1" 2>/dev/null | grep -q ."#;
    host.run(["sh", "-c", look, "look", path]).await.unwrap().status.success()
}

/// Saves while n2 reads a large file, and holds the program in the middle of it.
async fn save_in_the_middle(site: &Site, host: &Host, large: &str) -> Live {
    for _ in 0..5 {
        let args = ["state", "save", ALLOW, "--json", "--path", large];
        let live = Live::start(&site.cli, &args);
        let start = Instant::now();
        while !is_open(host, large).await && !live.reading.is_finished() {
            assert!(start.elapsed() < BOUND, "{}", live.said());
        }
        if !live.reading.is_finished() {
            live.signal(Signal::STOP);
            // What is on the way is much less than the file: it stays open.
            tokio::time::sleep(Duration::from_millis(500)).await;
            if is_open(host, large).await {
                return live;
            }
            live.signal(Signal::CONT);
        }
        live.end().await.expect(0);
    }
    panic!("a save was over five times before it was seen");
}

/// Cuts the power so that nobody hears of it: no connection is closed.
async fn lose(cluster: &mut EtcdHosts, place: usize) {
    cluster.hosts().host(place).link_down().unwrap();
    cluster.hosts_mut().host_mut(place).power_off_hard().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-all runs it"]
async fn a_node_goes_off_in_the_middle_of_a_save_and_of_a_return() {
    let mut cluster = EtcdHosts::start(Kind::Unit, 3).await.unwrap();
    let site = Site::of(&cluster).await;
    let large = "/srv/large";
    let fill = ["dd", "if=/dev/urandom", "of=/srv/large", "bs=1M", "count=256", "status=none"];
    cluster.hosts().host(1).check(fill).await.unwrap();

    let live = save_in_the_middle(&site, cluster.hosts().host(1), large).await;
    lose(&mut cluster, 1).await;
    cluster.hosts_mut().host_mut(1).power_on().await.unwrap();
    live.signal(Signal::CONT);
    let ran = live.end().await.expect(3);
    let report = ran.json();
    assert_eq!(report["nodes"].as_array().unwrap().len(), 2, "{ran}");
    let why = is_missing(&report, "n2").unwrap_or_else(|| panic!("{ran}"));
    assert!(why.contains("save the tree") && why.contains("check that it runs"), "{why}");
    // What is stored is whole; the next save has them all.
    let partly = report["id"].as_str().unwrap();
    site.run(&["verify", partly]).await.expect(0);
    cluster.wait_healthy().await.unwrap();
    let state = site.save().await;

    // Off while the members start; noticed without a word from the node.
    ruin(&cluster).await;
    let live = site.returning(&state);
    live.hold_after(&["n2", "set files"]).await;
    lose(&mut cluster, 1).await;
    live.signal(Signal::CONT);
    let ran = live.end().await.expect(1);
    says(&ran, &["n2: ", "etcd", "go on:", "go back:", "check that it runs"]);
    let plan = plan_of(&ran);
    // Neither on nor back without it, and it is said why.
    let ran = site.resume(&plan, &[]).await.expect(1);
    says(&ran, &["n2", "--without"]);
    cluster.hosts_mut().host_mut(1).power_on().await.unwrap();
    let ran = site.run(&["journal", "list"]).await.expect(0);
    says(&ran, &[&plan, "UNFINISHED"]);
    site.resume(&plan, &[]).await.expect(0);
    assert_eq!(returned(&cluster).await, ["n1", "n2", "n3"]);
    lives(&cluster, &site).await;
    let ran = site.run(&["journal", "list"]).await.expect(0);
    assert!(!ran.text().contains("UNFINISHED"), "{ran}");
}

/// The journal, then the restored file, meets a full disk and one that only reads; a
/// member that does not start says why.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-all runs it"]
async fn disks_that_take_nothing_and_a_unit_that_does_not_start() {
    let cluster = EtcdHosts::start(Kind::Unit, 3).await.unwrap();
    let site = Site::of(&cluster).await;
    let state = site.save().await;
    let (n2, n3) = (cluster.hosts().host(1), cluster.hosts().host(2));
    ruin(&cluster).await;

    // Where the journal goes: nothing is begun.
    let journal = "/var/lib/etcdvault";
    for host in [n2, n3] {
        host.check(["install", "-d", "-m", "0700", journal]).await.unwrap();
    }
    n2.small_disk(journal, 1 << 20).await.unwrap();
    n2.fill_disk(journal).await.unwrap();
    let ran = site.returning(&state).end().await.expect(1);
    says(&ran, &["n2: ", "no space left", "no step was touched", "hint: ", "df -h"]);
    n2.unmount(journal).await.unwrap();
    n3.read_only(journal).await.unwrap();
    let ran = site.returning(&state).end().await.expect(1);
    says(&ran, &["n3: ", "read-only file system", "no step was touched", "hint: "]);
    n3.unmount(journal).await.unwrap();
    assert_eq!(returned(&cluster).await, [""; 0]);
    lives_as_it_is(&cluster).await;

    // Where the file goes, in the middle: gone on with when there is room.
    let place = "/etc/systemd/system/etcd.service.d";
    n2.small_disk(place, 64 << 10).await.unwrap();
    let live = site.returning(&state);
    live.hold_after(&["save the present state"]).await;
    n2.fill_disk(place).await.unwrap();
    live.signal(Signal::CONT);
    let ran = live.end().await.expect(1);
    says(&ran, &["n2: write ", DROP_IN, "no space left", "df -h", "go on:", "go back:"]);
    assert!(!returned(&cluster).await.contains(&"n2".to_owned()));
    n2.check(["rm", &format!("{place}/filler")]).await.unwrap();
    site.resume(&plan_of(&ran), &[]).await.expect(0);
    assert_eq!(returned(&cluster).await, ["n1", "n2", "n3"]);
    lives(&cluster, &site).await;

    // Only readable: taken back, which needs nothing of that disk.
    ruin(&cluster).await;
    n3.read_only(place).await.unwrap();
    let ran = site.returning(&state).end().await.expect(1);
    says(&ran, &["n3: write ", DROP_IN, "read-only file system", "go on:", "go back:"]);
    site.run(&["rollback", &plan_of(&ran)]).await.expect(0);
    assert_eq!(returned(&cluster).await, [""; 0]);
    cluster.wait_healthy().await.unwrap();
    n3.unmount(place).await.unwrap();

    // A member that may not read its data any more.
    let live = site.returning(&state);
    live.hold_after(&["stop etcd"]).await;
    let data = cluster.kind().data_dir();
    n2.check(["chown", "root:root", data]).await.unwrap();
    live.signal(Signal::CONT);
    let ran = live.end().await.expect(1);
    says(&ran, &["n2: start etcd.service", "permission denied", data, "go on:"]);
    n2.check(["chown", "etcd:etcd", data]).await.unwrap();
    site.resume(&plan_of(&ran), &[]).await.expect(0);
    assert_eq!(returned(&cluster).await, ["n1", "n2", "n3"]);
    lives(&cluster, &site).await;
}

/// No member was stopped: they run with the setting from before the files were changed.
async fn lives_as_it_is(cluster: &EtcdHosts) {
    cluster.wait_healthy().await.unwrap();
    for host in cluster.members() {
        let pid = host.check(["systemctl", "show", "-p", "MainPID", "--value", "etcd"]).await;
        let environment = format!("/proc/{}/environ", pid.unwrap().trim());
        let text = host.read(&environment).await.unwrap();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(text.contains(QUOTA), "{}: {text}", host.name());
    }
}

/// Puts the clock of whatever loads it an hour ahead. (A namespace has no wall clock of
/// its own, and etcd asks the kernel by itself: it keeps the machine's time.)
const AHEAD: &str = r"
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *at) {
  int failed = syscall(SYS_clock_gettime, clock, at);
  if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += 3600;
  return failed;
}
time_t time(time_t *to) {
  struct timespec at;
  clock_gettime(CLOCK_REALTIME, &at);
  if (to) *to = at.tv_sec;
  return at.tv_sec;
}
int gettimeofday(struct timeval *to, void *zone) {
  struct timespec at;
  clock_gettime(CLOCK_REALTIME, &at);
  to->tv_sec = at.tv_sec;
  to->tv_usec = at.tv_nsec / 1000;
  return 0;
}
";

/// The library of [`AHEAD`].
async fn ahead(directory: &Path) -> PathBuf {
    let (source, library) = (directory.join("ahead.c"), directory.join("ahead.so"));
    std::fs::write(&source, AHEAD).unwrap();
    let mut command = tokio::process::Command::new("cc");
    command.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source);
    let made = command.output().await.unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    library
}

/// A node and the second operator, who is on another machine, are an hour ahead. It is
/// said of the node; a plan is held and taken over by signs of life, not by times.
#[tokio::test(flavor = "multi_thread")]
async fn an_hour_between_clocks_and_two_operators_at_once() {
    let cluster = EtcdHosts::start(Kind::Unit, 3).await.unwrap();
    let first = Site::of(&cluster).await;
    let mut second = first.beside(&cluster).await;
    let n2 = cluster.hosts().host(1);
    let library = ahead(first.root.path()).await;
    let bytes = std::fs::read(&library).unwrap();
    n2.write_as("/usr/local/lib/ahead.so", &bytes, "root", 0o755).await.unwrap();
    n2.write("/etc/ld.so.preload", b"/usr/local/lib/ahead.so\n").await.unwrap();
    let nodes = ["discover", "n1", "n2", "n3", "--json"];
    let ran = first.run(&nodes).await.expect(0);
    let seen = ran.json();
    let about: Vec<&Value> = seen["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["what"].as_str().unwrap().contains("clock"))
        .collect();
    assert_eq!(about.len(), 1, "{ran}");
    assert_eq!((&about[0]["node"], &about[0]["severity"]), (&"n2".into(), &"warning".into()));
    let (what, hint) = (about[0]["what"].as_str().unwrap(), about[0]["hint"].as_str().unwrap());
    assert!(what.contains("60 min ahead") && hint.contains("timedatectl"), "{ran}");

    // States are ordered by the time of the operator who saves them.
    let n3 = cluster.hosts().host(2);
    n3.write(OTHER, b"FLANNELD_IFACE=eth0\n").await.unwrap();
    let state = first.save().await;
    let ran = first.run(&["state", "list", "--json"]).await.expect(0);
    let taken = ran.json()["states"][0]["taken"].as_str().unwrap().to_owned();
    let taken = taken.parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    assert!((chrono::Utc::now() - taken).num_minutes() < 30, "{ran}");
    assert!(taken < chrono::Utc::now(), "{ran}");

    // The first is at work, and the second, to whom that is an hour ago, is refused.
    let named = "echo second > /proc/sys/kernel/hostname && exec \"$@\"";
    let elsewhere = ["unshare", "--uts", "sh", "-c", named, "sh"];
    second.cli = second.cli.env("LD_PRELOAD", &library).wrapped(elsewhere);
    ruin(&cluster).await;
    let live = first.returning(&state);
    live.hold_after(&["save the present state"]).await;
    let busy = second.returning(&state).end().await.expect(11);
    let pid = live.child.id().unwrap();
    let process = format!("(process {pid})");
    let owner = ["holds the lock of field", "state return", "root@", &process, " since 2"];
    says(&busy, &owner);
    says(&busy, &["no step was touched", "hint: wait", "--take-over-lock"]);

    // It dies: still nobody takes its place unasked, and the way on is said.
    live.signal(Signal::KILL);
    assert_eq!(live.end().await.code, None);
    says(&second.returning(&state).end().await.expect(11), &owner);
    let ran = second.run(&["journal", "list", "--json"]).await.expect(0);
    let listed = ran.json();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["unfinished"]), (1, &true.into()));
    let plan = listed[0]["id"].as_str().unwrap();
    let ran = second.resume(plan, &[]).await.expect(11);
    says(&ran, &owner);
    says(&ran, &["--take-over-lock"]);
    // Knowingly it is: after a while without a sign of life, and on record.
    second.resume(plan, &["--take-over-lock"]).await.expect(0);
    let ran = first.run(&["journal", "show", plan, "--json"]).await.expect(0);
    let shown = ran.json();
    let records = shown["records"].as_array().unwrap();
    let over: Vec<&Value> =
        records.iter().filter(|record| record["entry"]["kind"] == "took-over").collect();
    assert_eq!(over.len(), 1, "{ran}");
    assert_eq!(over[0]["entry"]["from"]["pid"], pid, "{ran}");
    // Two machines by what they are called, too.
    let begun = records.iter().filter(|record| record["entry"]["kind"] == "begun");
    let owners: Vec<&Value> = begun.map(|record| &record["entry"]["owner"]["host"]).collect();
    let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
    assert_eq!(owners, [&Value::from(own), &Value::from("second")], "{ran}");
    assert_eq!(returned(&cluster).await, ["n1", "n2", "n3"]);
    lives(&cluster, &first).await;
    // Nobody holds it any more.
    ruin(&cluster).await;
    first.returning(&state).end().await.expect(0);

    // Who reaches one of three cannot know who works on the others.
    cluster.hosts().host(0).link_down().unwrap();
    cluster.hosts().host(1).link_down().unwrap();
    n3.write(OTHER, b"FLANNELD_IFACE=eth1\n").await.unwrap();
    let plans = async || {
        let listed = n3.check(["ls", "/var/lib/etcdvault/journal"]).await.unwrap();
        listed.lines().count()
    };
    let before = plans().await;
    let cli = first.cli.clone().env("ETCDCTL_DIAL_TIMEOUT", "3s");
    let alone = ["state", "return", &state, "--node", "n3", ALLOW];
    let ran = cli.run(alone.iter().chain(&["--yes"])).await.unwrap().expect(1);
    says(&ran, &["nothing was returned: 1 of the 3 nodes of field answer", "--without-majority"]);
    assert_eq!(plans().await, before, "{ran}");
    // Looking does no harm, and whoever insists goes on.
    let ran = cli.run(alone.iter().chain(&["--dry-run", "--json"])).await.unwrap().expect(0);
    assert_eq!(ran.json()["nodes"], serde_json::json!(["n3"]), "{ran}");
    let insist = ["--yes", "--without-majority"];
    cli.run(alone.iter().chain(&insist)).await.unwrap().expect(0);
    assert_eq!(n3.read(OTHER).await.unwrap(), b"FLANNELD_IFACE=eth0\n");
    assert_eq!(plans().await, before + 1);
}

/// The kubelet runs every file of its directory: a copy beside a manifest is a second
/// pod. Discovery and each save say so.
#[tokio::test(flavor = "multi_thread")]
async fn a_stray_copy_of_a_manifest_is_said() {
    let cluster = Kubeadm::start(Size::One).await.unwrap();
    let host = cluster.hosts().host(0);
    let config = "[cluster.field]\nnodes = [\"k1\"]\nallow-unencrypted-state = true\n[node.k1]\n";
    let site = Site::configured(cluster.hosts(), config).await;
    let ran = site.run(&["state", "save"]).await.expect(0);
    assert!(!ran.stderr.contains("etcd.yaml"), "{ran}");

    let manifest = "/etc/kubernetes/manifests/etcd.yaml";
    let copy = format!("{manifest}.bak");
    // So that it does not fight for the ports meanwhile.
    host.check(["systemctl", "stop", "kubelet"]).await.unwrap();
    let bytes = host.read(manifest).await.unwrap();
    host.write(&copy, &bytes).await.unwrap();
    let ran = site.run(&["discover", "k1"]).await.expect(0);
    says(&ran, &["PROBLEM: k1: ", &copy, "hint: "]);
    let ran = site.run(&["state", "save"]).await.expect(0);
    says(&ran, &["k1: ", &copy]);
    // It is part of what was there.
    let ran = site.run(&["state", "diff", "latest", "--exit-code"]).await.expect(0);
    assert!(!ran.text().contains("etcd.yaml.bak"), "{ran}");
}
