//! The real node where it works: on a Debian host with etcd in a unit, and on a
//! control plane of kubeadm's. This program is copied to the host and runs the
//! tests named `on_…` there, on which nothing of the harness is used.

#![allow(clippy::print_stderr)]

#[path = "common/node_contract.rs"]
mod contract;

use std::path::{Path, PathBuf};
use std::time::Duration;

use etcdvault::node::kubelet::Kubelet;
use etcdvault::node::local::LocalNode;
use etcdvault::node::static_pod::{self, Bounds, StaticPod};
use etcdvault::node::{
    ContainerQuery, Node as _, NodeErrorKind, NodeName, ProcessQuery, TreeSpec, UnitAction,
    WriteHow, WriteLike,
};
use harness::hosts::Host;
use harness::hosts::etcd::{EtcdHosts, Kind};
use harness::hosts::kubeadm::{Kubeadm, Size};

const ON_HOST: &str = "ETCDVAULT_TEST_ON_HOST";
const MINUTE: Duration = Duration::from_secs(60);

/// Runs one test of this program on the host and says what it said.
async fn run_there(host: &Host, test: &str) {
    let me = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    host.write_as("/usr/local/bin/node_hosts", &me, "root", 0o755).await.unwrap();
    let variable = format!("{ON_HOST}={test}");
    let args = ["env", &variable, "/usr/local/bin/node_hosts", "--exact", test, "--nocapture"];
    let output = host.run(args).await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    eprintln!("{said}");
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn is_asked_for(test: &str) -> bool {
    std::env::var(ON_HOST).is_ok_and(|asked| asked == test)
}

fn node() -> LocalNode {
    LocalNode::new(NodeName::new("host").unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn units_processes_and_files_of_a_debian_host() {
    let mut cluster = EtcdHosts::start(Kind::Unit, 1).await.unwrap();
    run_there(&cluster.members()[0], "on_an_etcd_host").await;
    cluster.wait_healthy().await.unwrap();

    // Off and on again: what is enabled runs, what is not does not.
    for (act, wanted) in [("disable", "inactive"), ("enable", "active")] {
        let host = cluster.hosts_mut().host_mut(0);
        host.check(["systemctl", act, "etcd.service"]).await.unwrap();
        host.power_off_hard().await.unwrap();
        host.power_on().await.unwrap();
        if act == "enable" {
            cluster.wait_healthy().await.unwrap();
        }
        let host = &cluster.members()[0];
        host.run(["systemctl", "is-system-running", "--wait"]).await.unwrap();
        let said = host.run(["systemctl", "is-active", "etcd.service"]).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), wanted, "after {act}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_an_etcd_host() {
    if !is_asked_for("on_an_etcd_host") {
        return;
    }
    let node = node();
    let facts = node.facts().await.unwrap();
    assert!(facts.systemd && facts.os.starts_with("Debian"), "{facts:?}");
    assert!(!facts.addresses.is_empty(), "{facts:?}");
    let root = Path::new("/root/contract");
    node.make_dir(root, WriteLike::Attributes(contract::plain(0o755))).await.unwrap();
    for part in ["files", "trees"] {
        let place = contract::sub(&node, root, part).await;
        match part {
            "files" => contract::files(&node, &place).await,
            _ => contract::trees(&node, &place).await,
        }
    }
    contract::machine(&node).await;
    contract::units(&node).await;

    let unit = node.unit("etcd.service").await.unwrap().unwrap();
    assert_eq!((unit.active_state.as_str(), unit.sub_state.as_str()), ("active", "running"));
    assert_eq!(unit.fragment.as_deref(), Some(Path::new("/etc/systemd/system/etcd.service")));
    assert!(node.units("*etcd*.service").await.unwrap().contains(&"etcd.service".to_owned()));
    assert_eq!(node.units("no-such-*.service").await.unwrap(), [""; 0]);
    assert_eq!(node.unit("no-such.service").await.unwrap(), None);
    let missing = node.unit_do("no-such.service", UnitAction::Start, MINUTE).await;
    assert_eq!(contract::kind(missing), NodeErrorKind::NotFound);

    let data = PathBuf::from(Kind::Unit.data_dir());
    let named = node.processes(ProcessQuery::Program("etcd".to_owned())).await.unwrap();
    assert!(named.len() == 1 && named[0].pid == unit.main_pid, "{named:?}");
    assert!(named[0].cgroup.ends_with("etcd.service"), "{named:?}");
    assert!(named[0].arguments.len() > 3 && named[0].root.is_none(), "{named:?}");
    assert_eq!(node.processes(ProcessQuery::Holding(data.clone())).await.unwrap(), named);
    let on = |port| async move {
        let found = LocalNode::new(NodeName::new("host").unwrap()).listeners().await.unwrap();
        let pid = found.iter().find(|listener| listener.address.port() == port);
        pid.map(|listener| listener.pid)
    };
    assert_eq!(on(2379).await, Some(Some(unit.main_pid)));

    // Stopped twice and started twice is as once.
    for _ in 0..2 {
        node.unit_do("etcd.service", UnitAction::Stop, 2 * MINUTE).await.unwrap();
    }
    assert_eq!(node.unit("etcd.service").await.unwrap().unwrap().main_pid, 0);
    assert_eq!(node.processes(ProcessQuery::Holding(data.clone())).await.unwrap(), []);
    assert_eq!(on(2379).await, None);
    a_stopped_member_is_copied_whole(&node, &data).await;
    for _ in 0..2 {
        node.unit_do("etcd.service", UnitAction::Start, 2 * MINUTE).await.unwrap();
    }
    let again = node.unit("etcd.service").await.unwrap().unwrap();
    assert_eq!(again.active_state, "active");
    assert_ne!(again.invocation, unit.invocation);

    // A change of files shows until systemd was told to read them.
    let drop_in = again.drop_ins[0].with_file_name("99 more.conf");
    node.write(&drop_in, b"[Unit]\nDescription=x\n", contract::new(0o644)).await.unwrap();
    assert!(node.unit("etcd.service").await.unwrap().unwrap().needs_reload);
    node.unit_do("", UnitAction::DaemonReload, MINUTE).await.unwrap();
    let read = node.unit("etcd.service").await.unwrap().unwrap();
    assert!(!read.needs_reload && read.drop_ins.contains(&drop_in), "{read:?}");

    units_that_do_not_start(&node).await;

    let settings = Path::new(Kind::Unit.settings_file());
    let new = node.read(settings, 1 << 20).await.unwrap().bytes;
    let existing = String::from_utf8(new.clone()).unwrap();
    let existing = existing.replace("initial-cluster-state=new", "initial-cluster-state=existing");
    assert_ne!(existing.as_bytes(), new);
    let taken = std::sync::Mutex::new(None);
    let port = |take: bool| {
        *taken.lock().unwrap() =
            take.then(|| std::net::TcpListener::bind(("127.0.0.1", 2379)).unwrap());
    };
    let etcd = contract::EtcdUnit {
        unit: "etcd.service",
        data: &data,
        settings,
        texts: [&new, existing.as_bytes()],
        port: &port,
    };
    contract::etcd(&node, &etcd).await;
}

async fn a_stopped_member_is_copied_whole(node: &LocalNode, data: &Path) {
    let before = node.digest(data).await.unwrap();
    let spec = TreeSpec {
        roots: vec![data.to_owned()],
        base: Some(data.to_owned()),
        ..TreeSpec::default()
    };
    let bytes = contract::collect(node.save_tree(spec).await.unwrap()).await.unwrap();
    eprintln!("{} bytes of data are {} in the stream", before.bytes, bytes.len());
    assert!(before.bytes > 64_000_000, "no preallocated log: {before:?}");
    assert!(bytes.len() < 20_000_000, "{} bytes: holes are in the stream", bytes.len());
    let copy = data.with_extension("copy");
    assert_eq!(node.unpack_tree(&copy, contract::one(bytes)).await.unwrap(), before);
    assert_eq!(node.digest(&copy).await.unwrap(), before);
    // The copy is as good as what it is of.
    node.rename(data, &data.with_extension("aside")).await.unwrap();
    node.rename(&copy, data).await.unwrap();
}

async fn units_that_do_not_start(node: &LocalNode) {
    let place = Path::new("/etc/systemd/system/words.service");
    let text = |command: &str| {
        format!(
            "[Service]\nType=notify\nTimeoutStartSec=infinity\nExecStart={command}\n\
                 [Install]\nWantedBy=multi-user.target\n"
        )
    };
    let bad =
        text("/bin/sh -c 'for n in 1 2 3 4 5 6 7 8 9 10 11 12; do echo word $n; done; exit 3'");
    node.write(place, bad.as_bytes(), contract::new(0o644)).await.unwrap();
    node.unit_do("", UnitAction::DaemonReload, MINUTE).await.unwrap();
    let error = node.unit_do("words.service", UnitAction::Start, 2 * MINUTE).await.unwrap_err();
    eprintln!("{error}\n{:#?}", error.details);
    assert_eq!(error.kind, NodeErrorKind::Failed);
    assert!(error.why.contains("exit-code"), "{error}");
    assert!((1..=10).contains(&error.details.len()), "{error:?}");
    assert!(error.details.iter().any(|line| line == "word 12"), "{error:?}");
    assert_eq!(node.unit("words.service").await.unwrap().unwrap().active_state, "failed");
    node.unit_do("words.service", UnitAction::ResetFailed, MINUTE).await.unwrap();
    assert_eq!(node.unit("words.service").await.unwrap().unwrap().active_state, "inactive");

    let slow = text("/bin/sleep 1000");
    let how = WriteHow { like: WriteLike::Itself, replaces: Some(contract::sha(bad.as_bytes())) };
    node.write(place, slow.as_bytes(), how).await.unwrap();
    node.unit_do("", UnitAction::DaemonReload, MINUTE).await.unwrap();
    let deadline = Duration::from_secs(2);
    let error = node.unit_do("words.service", UnitAction::Start, deadline).await.unwrap_err();
    assert_eq!(error.kind, NodeErrorKind::Slow, "{error}");
    node.unit_do("words.service", UnitAction::Stop, 2 * MINUTE).await.unwrap();

    for (action, state) in [(UnitAction::Enable, "enabled"), (UnitAction::Disable, "disabled")] {
        node.unit_do("words.service", action, MINUTE).await.unwrap();
        assert_eq!(node.unit("words.service").await.unwrap().unwrap().file_state, state);
    }
    node.remove_own(place, contract::sha(slow.as_bytes())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn static_pods_of_a_control_plane() {
    let cluster = Kubeadm::start(Size::One).await.unwrap();
    run_there(cluster.hosts().host(0), "on_a_control_plane").await;
    cluster.wait_ready().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_control_plane() {
    if !is_asked_for("on_a_control_plane") {
        return;
    }
    let node = node();
    let kubelet = Kubelet::of(&node).await.unwrap().unwrap();
    let manifests = Path::new("/etc/kubernetes/manifests");
    assert_eq!(kubelet.manifests.as_deref(), Some(manifests));
    assert!(kubelet.runtime.is_some(), "{kubelet:?}");
    let all = node.containers(ContainerQuery::default()).await.unwrap();
    let names: Vec<_> = all.iter().map(|container| container.name.as_str()).collect();
    for name in ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let etcd = all.iter().find(|container| container.name == "etcd").unwrap();
    assert!(etcd.running && etcd.namespace == "kube-system" && etcd.pod.starts_with("etcd-"));
    assert!(etcd.created > 1_600_000_000_000_000_000 && !etcd.pod_uid.is_empty(), "{etcd:?}");
    let processes = node.processes(ProcessQuery::Program("etcd".to_owned())).await.unwrap();
    assert!(processes.len() == 1 && processes[0].root.is_some(), "{processes:?}");
    assert!(processes[0].arguments.iter().any(|a| a.starts_with("--data-dir")), "{processes:?}");
    let data = PathBuf::from("/var/lib/etcd");
    let holding = node.processes(ProcessQuery::Holding(data)).await.unwrap();
    assert!(holding.iter().any(|process| process.pid == processes[0].pid), "{holding:?}");
    assert_eq!(static_pod::strays(&node).await.unwrap(), []);

    let aside = Path::new("/etc/kubernetes/etcdvault-aside");
    node.make_dir(aside, WriteLike::Path(manifests.to_owned())).await.unwrap();
    let scheduler = StaticPod {
        manifest: manifests.join("kube-scheduler.yaml"),
        aside: aside.join("kube-scheduler.yaml"),
        container: "kube-scheduler".to_owned(),
        ports: vec![10259],
    };
    contract::pods(&node, &scheduler).await;
    let pod = |name: &str, port: u16| StaticPod {
        manifest: manifests.join(format!("{name}.yaml")),
        aside: aside.join(format!("{name}.yaml")),
        container: name.to_owned(),
        ports: vec![port],
    };
    let (api, etcd) = (pod("kube-apiserver", 6443), pod("etcd", 2379));
    let bounds = Bounds { grace: Some(Duration::from_secs(2)), ..Bounds::default() };
    let mut lines = Vec::new();
    let mut say = |waiting: &static_pod::Waiting| lines.push(waiting.to_string());
    let mut known = Vec::new();
    for pod in [&api, &etcd] {
        let start = std::time::Instant::now();
        known.push(static_pod::take_out(&node, pod, bounds, &mut say).await.unwrap());
        eprintln!("{} out after {:?}", pod.container, start.elapsed());
        // Once more is as once.
        static_pod::take_out(&node, pod, bounds, &mut say).await.unwrap();
        let query = ContainerQuery { name: Some(pod.container.clone()), ..Default::default() };
        assert_eq!(node.containers(query).await.unwrap(), []);
        let listeners = node.listeners().await.unwrap();
        assert!(listeners.iter().all(|found| !pod.ports.contains(&found.address.port())));
    }
    for (pod, known) in [(&etcd, &known[1]), (&api, &known[0])] {
        let start = std::time::Instant::now();
        let new = static_pod::put_back(&node, pod, known, bounds, &mut say).await.unwrap();
        eprintln!("{} back after {:?}", pod.container, start.elapsed());
        assert!(new.running && !known.is_empty() && !known.contains(&new.id), "{new:?} {known:?}");
        let again = static_pod::put_back(&node, pod, known, bounds, &mut say).await.unwrap();
        assert!(!known.contains(&again.id));
    }
    eprintln!("{lines:#?}");
    assert!(lines.iter().any(|line| line == "no new container runs"), "{lines:?}");

    // A bound that is over says what was missing.
    let none: Vec<String> = node
        .containers(ContainerQuery { ended: true, ..Default::default() })
        .await
        .unwrap()
        .into_iter()
        .map(|container| container.id)
        .collect();
    let short = Bounds { back: Duration::from_millis(300), ..bounds };
    let error = static_pod::put_back(&node, &etcd, &none, short, &mut |_| ()).await.unwrap_err();
    assert!(error.kind == NodeErrorKind::Slow && error.why.contains("no new container"), "{error}");
    let inside = StaticPod { aside: manifests.join("etcd.bak"), ..etcd.clone() };
    let refused = static_pod::take_out(&node, &inside, bounds, &mut |_| ()).await;
    assert_eq!(contract::kind(refused), NodeErrorKind::Unexpected);
    let missing = node.stop_container("no-such-container", Duration::from_secs(1)).await;
    eprintln!("stopping a container that is not there: {missing:?}");
}
