//! What is found on simulated nodes that no host of the tests is.

use etcdvault::node::NodeName;
use etcdvault::node::sim::{SimNet, SimNode};
use etcdvault::observe::{Distribution, NodeObservation, Severity, observe};

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
