//! What the simulation promises beyond what real nodes do in a contract test.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::*;

const UNIT: &str = "[Service]\nUser=etcd\nEnvironmentFile=-/etc/default/etcd\n\
    ExecStart=/usr/bin/etcd $DAEMON_ARGS\n";
const ENVIRONMENT: &str = "ETCD_NAME=\"a\"\nETCD_DATA_DIR=/var/lib/etcd/a\n\
    ETCD_LISTEN_CLIENT_URLS=http://10.0.0.1:2379\nETCD_LISTEN_PEER_URLS=http://10.0.0.1:2380\n\
    ETCD_INITIAL_CLUSTER=a=http://10.0.0.1:2380,b=http://10.0.0.2:2380\n";

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn etcd(net: &SimNet) -> SimNode {
    let node = net.add(&name("a"));
    node.user("etcd", 101).owned_dir("/var/lib/etcd", 101, 0o700);
    node.file("/lib/systemd/system/etcd.service", UNIT, 0, 0o644);
    node.file("/etc/default/etcd", ENVIRONMENT, 0, 0o644);
    node
}

async fn start(node: &SimNode) -> Result<(), NodeError> {
    node.unit_do("etcd.service", UnitAction::Start, DEADLINE).await
}

async fn stop(node: &SimNode) {
    node.unit_do("etcd.service", UnitAction::Stop, DEADLINE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn etcd_runs_from_a_unit_holds_its_data_and_listens() {
    let net = SimNet::new();
    let node = etcd(&net);
    start(&node).await.unwrap();
    let unit = node.unit("etcd.service").await.unwrap().unwrap();
    assert_eq!((unit.active_state.as_str(), unit.file_state.as_str()), ("active", "disabled"));
    let found =
        node.processes(ProcessQuery::Holding("/var/lib/etcd/a/member".into())).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].pid, found[0].uid), (unit.main_pid, 101));
    assert_eq!(found[0].environment["ETCD_NAME"], "a");
    let ports: Vec<u16> =
        node.listeners().await.unwrap().iter().map(|open| open.address.port()).collect();
    assert_eq!(ports, [2379, 2380]);
    let other = net.add(&name("b"));
    let address = "10.0.0.1:2379".to_owned();
    let reach = async || other.reach(vec![address.clone()], DEADLINE).await.unwrap()[0].clone();
    assert_eq!(reach().await.error, None);
    net.block(&name("a"), &name("b"));
    assert!(reach().await.error.is_some());
    net.heal();
    stop(&node).await;
    assert!(reach().await.error.is_some());
    let none = node.processes(ProcessQuery::Holding("/var/lib/etcd".into())).await.unwrap();
    assert_eq!(none, []);
}

#[tokio::test(start_paused = true)]
async fn etcd_does_not_start_over_a_wrong_owner_a_used_port_or_without_data() {
    let net = SimNet::new();
    let node = etcd(&net);
    start(&node).await.unwrap();
    stop(&node).await;
    node.chown("/var/lib/etcd/a", 0, 0o700);
    let error = start(&node).await.unwrap_err();
    assert_eq!(error.kind, NodeErrorKind::Failed);
    assert!(error.details.iter().any(|line| line.contains("permission denied")), "{error:?}");
    let unit = node.unit("etcd.service").await.unwrap().unwrap();
    assert_eq!((unit.active_state.as_str(), unit.result.as_str()), ("failed", "exit-code"));
    node.chown("/var/lib/etcd/a", 101, 0o700);

    node.listen("0.0.0.0:2379".parse::<SocketAddr>().unwrap());
    let error = start(&node).await.unwrap_err();
    assert!(error.details.iter().any(|line| line.contains("address already in use")), "{error:?}");
    node.power_off().power_on();

    let (member, aside) = (Path::new("/var/lib/etcd/a/member"), Path::new("/var/lib/etcd/a/old"));
    node.rename(member, aside).await.unwrap();
    let existing = format!("{ENVIRONMENT}DAEMON_ARGS=\"--initial-cluster-state existing\"\n");
    node.file("/etc/default/etcd", &existing, 0, 0o644);
    let error = start(&node).await.unwrap_err();
    let said = |error: &NodeError| error.details.iter().any(|line| line.contains("peer urls"));
    assert!(said(&error), "{error:?}");
    // With a peer that answers it joins.
    net.add(&name("b")).listen("10.0.0.2:2380".parse().unwrap());
    start(&node).await.unwrap();
    assert!(node.text("/var/lib/etcd/a/member/snap/db").unwrap().contains("joined"));
}

#[tokio::test(start_paused = true)]
async fn what_was_not_synced_is_lost_with_the_power_and_enabled_units_come_back() {
    let net = SimNet::new();
    let node = etcd(&net);
    node.unit_do("etcd.service", UnitAction::Enable, DEADLINE).await.unwrap();
    node.unsynced_file("/etc/lost", "x", 0, 0o600).unsynced_file("/etc/kept", "x", 0, 0o600);
    node.sync("/etc/kept");
    let boot = node.facts().await.unwrap().boot_id;
    node.power_off();
    assert_eq!(node.facts().await.unwrap_err().kind, NodeErrorKind::Lost);
    node.power_on();
    assert_ne!(node.facts().await.unwrap().boot_id, boot);
    assert_eq!((node.text("/etc/lost"), node.text("/etc/kept").as_deref()), (None, Some("x")));
    assert_eq!(node.unit("etcd.service").await.unwrap().unwrap().active_state, "active");
}

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: etcd\n  namespace: kube-system\n\
spec:\n  containers:\n  - command:\n    - etcd\n    - --data-dir=/var/lib/etcd\n    \
- --listen-client-urls=http://127.0.0.1:2379\n    name: etcd\n    image: etcd:3.6\n";

#[tokio::test(start_paused = true)]
async fn the_kubelet_follows_its_manifests() {
    let net = SimNet::new();
    let node = net.add(&name("a"));
    node.kubelet().owned_dir("/var/lib/etcd", 0, 0o700).owned_dir("/root/aside", 0, 0o700);
    let running = async || node.containers(ContainerQuery::default()).await.unwrap();
    let manifest = Path::new("/etc/kubernetes/manifests/etcd.yaml");
    node.file(manifest.to_str().unwrap(), POD, 0, 0o600);
    assert_eq!(running().await, []);
    tokio::time::sleep(pods::START).await;
    let first = running().await;
    assert_eq!((first.len(), first[0].name.as_str(), first[0].pod.as_str()), (1, "etcd", "etcd-a"));
    // Gone: first the container, then the ports.
    node.rename(manifest, Path::new("/root/aside/etcd.yaml")).await.unwrap();
    assert_eq!(running().await.len(), 1);
    tokio::time::sleep(pods::STOP).await;
    assert_eq!(running().await, []);
    assert!(!node.listeners().await.unwrap().is_empty());
    tokio::time::sleep(pods::CLOSE).await;
    assert_eq!(node.listeners().await.unwrap(), []);
    // Back, with a stray copy: a second pod, which cannot have the ports.
    node.rename(Path::new("/root/aside/etcd.yaml"), manifest).await.unwrap();
    tokio::time::sleep(pods::START).await;
    node.file("/etc/kubernetes/manifests/etcd.yaml.bak", POD, 0, 0o600);
    node.file("/etc/kubernetes/manifests/.etcd.yaml.tmp", POD, 0, 0o600);
    tokio::time::sleep(pods::START).await;
    assert_eq!(running().await.len(), 1);
    let all = ContainerQuery { ended: true, ..ContainerQuery::default() };
    let all = node.containers(all).await.unwrap();
    assert_eq!(all.len(), 2, "{all:?}");
    assert_ne!(all[0].pod_uid, all[1].pod_uid);
    // Stopped through the runtime with its manifest in place it comes back.
    let before = running().await;
    node.stop_container(&before[0].id, Duration::ZERO).await.unwrap();
    assert_eq!(running().await, []);
    tokio::time::sleep(pods::START).await;
    let after = running().await;
    assert_eq!(after.len(), 1);
    assert_ne!(after[0].id, before[0].id);
}

#[tokio::test(start_paused = true)]
async fn full_and_read_only_file_systems_and_mounts_refuse() {
    let net = SimNet::new();
    let node = net.add(&name("a"));
    node.mount("/var/lib/etcd", 10).dir("/var/lib/etcd/member");
    let write = async |path: &str, text: &str| {
        let like = WriteLike::Attributes(plain(0, 0, 0o600));
        let how = WriteHow { like, replaces: None };
        node.write(Path::new(path), text.as_bytes(), how).await.map_err(|error| error.kind)
    };
    assert_eq!(write("/var/lib/etcd/a", "more than fits").await, Err(NodeErrorKind::NoSpace));
    assert_eq!(node.text("/var/lib/etcd/a"), None);
    assert_eq!(write("/var/lib/etcd/a", "fits").await, Ok(()));
    assert_eq!(node.space(Path::new("/var/lib/etcd/member")).await.unwrap().available, 6);
    let rename = async |from: &str, to: &str| {
        node.rename(Path::new(from), Path::new(to)).await.map_err(|error| error.kind)
    };
    let away = rename("/var/lib/etcd/member", "/var/lib/member").await;
    assert_eq!(away, Err(NodeErrorKind::Unsupported));
    assert_eq!(rename("/var/lib/etcd", "/var/lib/x").await, Err(NodeErrorKind::Other));
    node.set_read_only("/var/lib/etcd", true);
    assert_eq!(write("/var/lib/etcd/b", "").await, Err(NodeErrorKind::ReadOnly));
    let away = rename("/var/lib/etcd/member", "/var/lib/etcd/old").await;
    assert_eq!(away, Err(NodeErrorKind::ReadOnly));
    node.set_clock_ahead(3600);
    let ahead = node.facts().await.unwrap().now;
    node.set_clock_ahead(0);
    assert!(ahead - node.facts().await.unwrap().now > 3_000_000_000_000);
}

#[tokio::test(start_paused = true)]
async fn troubles_come_before_or_after_the_effect() {
    let net = SimNet::new();
    let node = net.add(&name("a"));
    let made = |path: &str| {
        let like = WriteLike::Attributes(plain(0, 0, 0o700));
        let (node, path) = (node.clone(), path.to_owned());
        async move { node.make_dir(Path::new(&path), like).await.map_err(|error| error.kind) }
    };
    for (number, trouble, kind) in [
        (1, Trouble::Fail(NodeErrorKind::NoSpace), NodeErrorKind::NoSpace),
        (2, Trouble::Hang, NodeErrorKind::Slow),
        (3, Trouble::Cut, NodeErrorKind::Lost),
        (4, Trouble::PowerOff, NodeErrorKind::Lost),
    ] {
        for (when, there) in [(When::Before, false), (When::After, true)] {
            let path = format!("/tmp/{number}-{there}");
            net.trouble_at(net.calls() + 1, trouble, when);
            assert_eq!(made(&path).await, Err(kind), "{trouble:?}");
            net.heal();
            let found = node.stat(Path::new(&path)).await.unwrap().is_some();
            assert_eq!(found, there, "{trouble:?} {when:?}");
        }
    }
    net.trouble_at(net.calls() + 1, Trouble::Freeze, When::After);
    tokio::select! {
        biased;
        made = made("/tmp/frozen") => panic!("{made:?}"),
        () = net.frozen() => {}
    }
    assert!(node.stat(Path::new("/tmp/frozen")).await.unwrap().is_some());
}
