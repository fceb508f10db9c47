//! `restore cluster` on a real control plane of three: everything under `/var/lib/etcd` is
//! ruined on all nodes, one of them has already begun a blank cluster of its own, and the
//! API servers come and go.

#[path = "common/field.rs"]
mod field;

use std::time::{Duration, Instant};

use field::Field;
use harness::hosts::kubeadm::{Kubeadm, Size};

/// Until API servers have told each other who they are.
const SETTLED: Duration = Duration::from_secs(180);

/// Row 20, and of row 11 that all API servers are in the endpoints again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-all runs it"]
async fn row_20_a_control_plane_is_brought_back() {
    let cluster = Kubeadm::start(Size::Three).await.unwrap();
    let hosts = cluster.hosts().all();
    let names: Vec<&str> = hosts.iter().take(3).map(|host| host.name()).collect();
    let field = Field::of(cluster.hosts(), &names).await;
    let configmap = |act: &'static str, name: &'static str| {
        cluster.kubectl(0, [act, "configmap", name, "-n", "default", "--ignore-not-found"])
    };
    cluster.kubectl(0, ["create", "configmap", "kept", "-n", "default"]).await.unwrap();
    field.run(&["backup", "--no-state"]).await.expect(0);
    cluster.kubectl(0, ["create", "configmap", "later", "-n", "default"]).await.unwrap();

    for host in hosts.iter().take(3) {
        host.check(["sh", "-c", "rm -rf /var/lib/etcd/*"]).await.unwrap();
    }
    for host in hosts.iter().take(3) {
        let stop = "crictl stop --timeout 0 $(crictl ps --quiet --name '^etcd$')";
        host.check(["sh", "-c", stop]).await.unwrap();
    }

    let args = ["restore", "cluster", "latest", "--yes", "--json"];
    let done = field.run(&args).await.expect(0).json();
    assert_eq!(done["ending"], "applied", "{done}");
    cluster.wait_ready().await.unwrap();
    assert!(configmap("get", "kept").await.unwrap().contains("kept"));
    assert_eq!(configmap("get", "later").await.unwrap(), "");
    for place in 0..3 {
        let list = cluster.etcdctl(place, ["member", "list"]).await.unwrap();
        assert_eq!(list.matches(", started, ").count(), 3, "{list}");
    }
    // All API servers serve, and whoever leads writes again.
    let begun = Instant::now();
    let path = "jsonpath={.subsets[0].addresses[*].ip}";
    loop {
        let endpoints = ["get", "endpoints", "kubernetes", "-n", "default", "-o", path];
        let said = cluster.kubectl(1, endpoints).await.unwrap_or_default();
        let all = hosts
            .iter()
            .take(3)
            .all(|host| said.split(' ').any(|address| address == host.address().to_string()));
        if all {
            break;
        }
        assert!(begun.elapsed() < SETTLED, "the endpoints are {said:?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    cluster.kubectl(2, ["create", "configmap", "new", "-n", "default"]).await.unwrap();
    assert!(configmap("get", "new").await.unwrap().contains("new"));
    let refused = field.run(&["rollback", done["plan"].as_str().unwrap()]).await;
    assert_ne!(refused.code, Some(0), "{refused}");
    assert!(refused.stderr.contains("the API servers write to the restored data"), "{refused}");
}
