//! Control planes made by kubeadm: ready on every node, with etcd's members in static
//! pods, and back after a power cut.
#![expect(clippy::print_stderr, reason = "how long it took is said, not asserted")]

use std::time::{Duration, Instant};

use harness::hosts::kubeadm::{Kubeadm, Size};

#[tokio::test]
async fn three_nodes_are_ready_and_come_back_from_a_power_cut() {
    let start = Instant::now();
    let mut cluster = Kubeadm::start(Size::Three).await.unwrap();
    eprintln!("three nodes ready in {:?}", start.elapsed());
    for place in 0..3 {
        assert_eq!(cluster.kubectl(place, ["get", "--raw", "/readyz"]).await.unwrap(), "ok");
        let list = cluster.etcdctl(place, ["member", "list"]).await.unwrap();
        assert_eq!(list.matches(", started, k").count(), 3, "{list}");
    }
    let pods = cluster
        .hosts()
        .host(1)
        .check(["crictl", "ps", "--output=json", "--state=running"])
        .await
        .unwrap();
    for name in ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"] {
        assert!(pods.contains(&format!("\"io.kubernetes.container.name\": \"{name}\"")), "{pods}");
    }

    cluster.hosts_mut().host_mut(2).power_off_hard().await.unwrap();
    // Whoever led may be gone: a write fails until the others have a leader.
    let create = ["create", "configmap", "kept", "--from-literal=a=b"];
    let get = ["get", "configmap", "kept", "--output=jsonpath={.data.a}"];
    let cut = Instant::now();
    while cluster.kubectl(0, get).await.ok().as_deref() != Some("b") {
        assert!(cut.elapsed() < Duration::from_secs(180), "two of three nodes take no write");
        let _ = cluster.kubectl(0, create).await;
    }
    let start = Instant::now();
    cluster.hosts_mut().host_mut(2).power_on().await.unwrap();
    cluster.wait_ready().await.unwrap();
    eprintln!("the third node ready again in {:?}", start.elapsed());
    assert_eq!(cluster.kubectl(2, get).await.unwrap(), "b");
}

#[tokio::test]
async fn one_node_is_ready() {
    let cluster = Kubeadm::start(Size::One).await.unwrap();
    assert_eq!(cluster.kubectl(0, ["get", "--raw", "/readyz"]).await.unwrap(), "ok");
    let list = cluster.etcdctl(0, ["member", "list"]).await.unwrap();
    assert_eq!(list.matches(", started, k").count(), 1, "{list}");
}
