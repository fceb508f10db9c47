//! What is found on simulated nodes that no host of the tests is.

use etcdvault::node::sim::{DEADLINE, SimNet, SimNode, Trouble, When};
use etcdvault::node::{NodeErrorKind, NodeName};
use etcdvault::observe::{Distribution, NodeObservation, Severity, observe};
use etcdvault::operation::discover::access::Credential;
use etcdvault::operation::discover::file::text;
use etcdvault::operation::discover::judge::judge;
use etcdvault::operation::discover::{Observation, SeenCluster, SeenMember, SeenNode};
use etcdvault::types::HexId;
use harness::tls::{Authority, Validity};

fn machine() -> SimNode {
    SimNet::new().add(&NodeName::new("n1").unwrap())
}

fn problems(seen: &NodeObservation) -> Vec<&str> {
    let bad = seen.findings.iter().filter(|finding| finding.severity == Severity::Problem);
    bad.map(|finding| finding.what.as_str()).collect()
}

const UNIT: &str = "[Service]\nEnvironmentFile=-/etc/default/etcd\nExecStart=/usr/bin/etcd\n";

#[tokio::test]
async fn a_unit_and_its_environment_file_are_one_member() {
    let node = machine();
    node.file("/etc/systemd/system/etcd.service", UNIT, 0, 0o644).file(
        "/etc/default/etcd",
        "ETCD_NAME=one\nETCD_DATA_DIR=/srv/etcd\n",
        0,
        0o644,
    );
    let seen = observe(&node).await.unwrap();
    let member = seen.member().unwrap();
    assert_eq!(member.settings.name(), "one");
    assert_eq!(member.data_dir.to_str(), Some("/srv/etcd"));
    assert_eq!(member.files.len(), 2);
    assert!(member.running.is_none());
    assert!(problems(&seen).is_empty(), "{seen:?}");
}

/// What does not depend on another answer is asked at the same time: where no call but
/// the first one answers, a look waits a few times, not once for each. Slow calls are
/// said, a node that is lost is given up.
#[tokio::test(start_paused = true)]
async fn a_look_asks_at_once_and_tells_slow_from_lost() {
    let units = ["etcd", "etcd-events", "kube-apiserver", "kubelet", "flanneld"];
    let fresh = || {
        let node = machine();
        for unit in units {
            node.file(&format!("/etc/systemd/system/{unit}.service"), UNIT, 0, 0o644);
        }
        node
    };
    let first = |node: &SimNode, act: &str| {
        let log = node.net().log();
        log.iter().position(|call| call.contains(act)).unwrap_or_else(|| panic!("{log:?}")) + 1
    };
    let asked = fresh();
    observe(&asked).await.unwrap();
    let facts = first(&asked, "ask what it is") as u64;
    let troubled = |trouble: Trouble| {
        let node = fresh();
        // Without the facts nothing is known of a node.
        let others = (1..=500).filter(|call| *call != facts);
        others.for_each(|call| node.net().trouble_at(call, trouble, When::Before));
        node
    };
    let begun = tokio::time::Instant::now();
    let seen = observe(&troubled(Trouble::Hang)).await.unwrap();
    let waits = begun.elapsed().as_secs_f64() / DEADLINE.as_secs_f64();
    assert!((1.0..6.5).contains(&waits), "{waits} waits");
    let slow = seen.findings.iter().filter(|finding| finding.severity == Severity::Warning);
    assert!(slow.clone().any(|finding| finding.what.contains("systemd could not be asked")));

    // The same where units are known, and each is slow.
    let node = fresh();
    let calls = asked.net().log();
    for (call, _) in calls.iter().enumerate().filter(|(_, act)| act.contains("ask for ")) {
        node.net().trouble_at(call as u64 + 1, Trouble::Hang, When::Before);
    }
    let begun = tokio::time::Instant::now();
    observe(&node).await.unwrap();
    let waits = begun.elapsed().as_secs_f64() / DEADLINE.as_secs_f64();
    assert!((1.0..1.5).contains(&waits), "{waits} waits for {} units", units.len());

    let lost = observe(&troubled(Trouble::Fail(NodeErrorKind::Lost))).await;
    assert_eq!(lost.unwrap_err().kind, NodeErrorKind::Lost);
}

#[tokio::test]
async fn force_new_cluster_that_was_left_is_a_problem() {
    let node = machine();
    node.file("/etc/systemd/system/etcd.service", UNIT, 0, 0o644).file(
        "/etc/default/etcd",
        "ETCD_FORCE_NEW_CLUSTER=\"true\"\n",
        0,
        0o644,
    );
    let seen = observe(&node).await.unwrap();
    assert!(problems(&seen)[0].contains("force-new-cluster"), "{seen:?}");
}

#[tokio::test]
async fn objects_kept_as_v2_keys_are_a_problem() {
    let node = machine();
    let unit = "[Service]\nExecStart=/usr/bin/kube-apiserver \\\n  \
                --etcd-servers=http://10.0.0.1:2379,http://10.0.0.2:2379\\\n  \
                --storage-backend=etcd2\n";
    node.file("/etc/systemd/system/kube-apiserver.service", unit, 0, 0o644);
    let seen = observe(&node).await.unwrap();
    let servers = seen.api_servers[0].settings.etcd_servers();
    assert_eq!(servers, ["http://10.0.0.1:2379", "http://10.0.0.2:2379"]);
    assert!(problems(&seen)[0].contains("etcd2"), "{seen:?}");
}

#[tokio::test]
async fn distributions_with_a_way_of_their_own_name_it() {
    for (mark, distribution, command) in [
        ("/var/lib/rancher/k3s/server", Distribution::K3s, "k3s server --cluster-reset"),
        ("/etc/rancher/rke2", Distribution::Rke2, "rke2 server --cluster-reset"),
        ("/etc/kubernetes/static-pod-resources", Distribution::Openshift, "cluster-restore.sh"),
        ("/system/etc/machined", Distribution::Talos, "talosctl bootstrap"),
    ] {
        let node = machine();
        node.dir(mark);
        let seen = observe(&node).await.unwrap();
        assert_eq!(seen.distribution, distribution);
        let said = seen.findings.iter().find_map(|finding| finding.hint.as_deref()).unwrap();
        assert!(said.contains(command), "{said}");
    }
    let node = machine();
    node.file("/etc/kubernetes/admin.conf", "", 0, 0o600);
    assert_eq!(observe(&node).await.unwrap().distribution, Distribution::Kubeadm);
    assert_eq!(Distribution::Kubeadm.own_restore(), None);
}

fn member(number: u64) -> SeenMember {
    SeenMember {
        id: HexId(number),
        name: format!("m{number}"),
        peer_urls: vec![format!("http://10.1.0.{number}:2380")],
        client_urls: vec![format!("http://10.1.0.{number}:2379")],
        version: Some("3.5.16".to_owned()),
        leader: Some(number == 1),
        learner: false,
        db_size: None,
        node: None,
        error: None,
    }
}

async fn with_client(servers: &str) -> Observation {
    let node = machine();
    let unit = format!("[Service]\nExecStart=/usr/bin/kube-apiserver --etcd-servers={servers}\n");
    node.file("/etc/systemd/system/kube-apiserver.service", &unit, 0, 0o644);
    among_three(&node).await
}

/// What is found on `node`, in a cluster of three members.
async fn among_three(node: &SimNode) -> Observation {
    let members = vec![member(1), member(2), member(3)];
    Observation {
        nodes: vec![SeenNode { ssh: None, seen: observe(node).await.unwrap() }],
        unreached: Vec::new(),
        endpoints: Vec::new(),
        cluster: Some(SeenCluster { id: HexId(7), members, credential: Credential::None }),
        silence: Vec::new(),
        srv: None,
        findings: Vec::new(),
    }
}

fn about_clients(seen: &Observation) -> Vec<(Severity, String)> {
    let all = judge(seen).into_iter();
    let clients = ["kube-apiserver", "flanneld"];
    let own = all.filter(|finding| clients.iter().any(|name| finding.what.starts_with(name)));
    own.map(|finding| (finding.severity, finding.what)).collect()
}

/// row 8
#[tokio::test]
async fn clients_that_do_not_survive_a_loss_are_found() {
    let all = "http://10.1.0.1:2379,http://10.1.0.2:2379,http://10.1.0.3:2379";
    assert_eq!(about_clients(&with_client(all).await), []);

    let found = about_clients(&with_client("http://10.1.0.2:2379").await);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, Severity::Warning);
    assert!(found[0].1.contains("names only http://10.1.0.2:2379"), "{found:?}");

    let gone = "http://10.1.0.1:2379,http://10.1.0.2:2379,http://10.1.0.20:2379";
    let found = about_clients(&with_client(gone).await);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, Severity::Problem);
    assert!(found[0].1.contains("10.1.0.20"), "{found:?}");
}

/// row 8, of the other client: by its environment file, and by its own arguments.
#[tokio::test]
async fn a_flanneld_that_does_not_survive_a_loss_is_found() {
    let all = "http://10.1.0.1:2379,http://10.1.0.2:2379,http://10.1.0.3:2379";
    let told = |servers: &str, by_file: bool| {
        let node = machine();
        let (unit, text) = if by_file {
            let command = "/usr/bin/flanneld -etcd-endpoints=${FLANNEL_ETCD_ENDPOINTS}";
            let file = format!("# Flanneld\nFLANNEL_ETCD_ENDPOINTS=\"{servers}\"\n");
            (format!("EnvironmentFile=-/etc/sysconfig/flanneld\nExecStart={command}\n"), file)
        } else {
            (format!("ExecStart=/usr/bin/flanneld -etcd-endpoints={servers}\n"), String::new())
        };
        let unit = format!("[Service]\n{unit}");
        node.file("/etc/systemd/system/flanneld.service", &unit, 0, 0o644);
        node.file("/etc/sysconfig/flanneld", &text, 0, 0o644);
        node
    };
    for by_file in [true, false] {
        let whole = among_three(&told(all, by_file)).await;
        let place = if by_file {
            "/etc/sysconfig/flanneld"
        } else {
            "/etc/systemd/system/flanneld.service"
        };
        let client = &whole.nodes[0].seen.clients;
        assert_eq!((client.len(), client[0].endpoints.len()), (1, 3), "{client:?}");
        assert_eq!(client[0].file.to_str(), Some(place));
        assert_eq!(about_clients(&whole), []);

        let one = among_three(&told("http://10.1.0.2:2379", by_file)).await;
        let found = about_clients(&one);
        assert_eq!((found.len(), found[0].0), (1, Severity::Warning), "{found:?}");
        let said = format!("flanneld names only http://10.1.0.2:2379 ({place})");
        assert!(found[0].1.starts_with(&said), "{found:?}");

        let gone = "http://10.1.0.1:2379,http://10.1.0.20:2379";
        let found = about_clients(&among_three(&told(gone, by_file)).await);
        assert_eq!((found.len(), found[0].0), (1, Severity::Problem), "{found:?}");
        assert!(found[0].1.contains("10.1.0.20"), "{found:?}");
    }
}

/// Certificates are judged by the node's own clock, which begins on 2026-11-21 here.
#[tokio::test]
async fn certificates_that_expired_or_soon_will_are_found() {
    let root = tempfile::tempdir().unwrap();
    let authority = Authority::create(root.path(), "ca").unwrap();
    let path = "/etc/etcd/server.crt";
    for (number, (validity, wanted)) in [
        (Validity::Expired, Some((Severity::Problem, "expired on 2021-01-01 00:00 UTC"))),
        (Validity::Until(2026, 12, 6), Some((Severity::Warning, "expires in 14 days"))),
        (Validity::Until(2026, 12, 20), Some((Severity::Warning, "expires in 28 days"))),
        (Validity::Until(2026, 12, 30), None),
        (Validity::Current, None),
    ]
    .into_iter()
    .enumerate()
    {
        let issued = authority.client(&format!("n{number}"), "n1", validity).unwrap();
        let node = machine();
        let unit = format!("[Service]\nExecStart=/usr/bin/etcd --cert-file={path}\n");
        node.file("/etc/systemd/system/etcd.service", &unit, 0, 0o644);
        node.file(path, &std::fs::read_to_string(issued.cert).unwrap(), 0, 0o644);
        let seen = observe(&node).await.unwrap();
        assert_eq!(seen.certificates.len(), 1, "{seen:?}");
        let about = seen.findings.iter().filter(|finding| finding.what.starts_with(path));
        let found: Vec<(Severity, &str)> =
            about.map(|finding| (finding.severity, finding.what.as_str())).collect();
        let said = wanted.map(|(severity, what)| (severity, format!("{path} {what}")));
        let wanted: Vec<(Severity, &str)> =
            said.iter().map(|(severity, what)| (*severity, what.as_str())).collect();
        assert_eq!(found, wanted);
    }
}

/// Looking writes nothing, starts nothing and stops nothing.
#[tokio::test]
async fn a_look_changes_nothing() {
    let node = machine();
    for unit in ["etcd", "kube-apiserver", "kubelet", "flanneld"] {
        node.file(&format!("/etc/systemd/system/{unit}.service"), UNIT, 0, 0o644);
    }
    node.file("/etc/default/etcd", "ETCD_NAME=one\n", 0, 0o640);
    let nowhere = std::path::Path::new("/nowhere");
    let before = node.net().snapshot(nowhere);
    assert!(before.iter().any(|line| line.contains("/etc/default/etcd")), "{before:?}");
    observe(&node).await.unwrap();
    observe(&node).await.unwrap();
    assert_eq!(node.net().snapshot(nowhere), before);
}

#[tokio::test]
async fn the_file_names_every_member_and_what_was_not_looked_at() {
    let seen = with_client("http://10.1.0.1:2379").await;
    let first = text(&seen, None).unwrap();
    assert_eq!(first, text(&seen, None).unwrap());
    assert!(first.contains("[cluster.etcd-"), "{first}");
    for number in 1..=3 {
        assert!(first.contains(&format!("\"http://10.1.0.{number}:2379\"")), "{first}");
    }
    assert!(first.contains("# Not looked at: the nodes of m1, m2, m3."), "{first}");
    let read = etcdvault::config::read::parse(&first).unwrap();
    assert_eq!(read.config.nodes.keys().collect::<Vec<_>>(), ["n1"]);
}
