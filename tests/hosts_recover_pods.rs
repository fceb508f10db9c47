//! `recover cluster` on a real control plane: two of three nodes are gone for good, and
//! what the etcd of the third holds in its pod becomes a cluster of one, by the program of
//! the very container that runs there.

#[path = "common/field.rs"]
mod field;

use std::time::{Duration, Instant};

use field::Field;
use harness::hosts::kubeadm::{Kubeadm, Size};

/// Until an API server writes again.
const BOUND: Duration = Duration::from_secs(300);

/// Rows 5 and 25.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-all runs it"]
async fn row_5_a_control_plane_of_which_one_node_is_left() {
    let mut cluster = Kubeadm::start(Size::Three).await.unwrap();
    let names: Vec<String> =
        cluster.hosts().all().iter().take(3).map(|host| host.name().to_owned()).collect();
    let nodes: Vec<&str> = names.iter().map(String::as_str).collect();
    let field = Field::of(cluster.hosts(), &nodes).await;
    cluster.kubectl(0, ["create", "configmap", "kept", "-n", "default"]).await.unwrap();

    for place in [1, 2] {
        cluster.hosts_mut().host_mut(place).power_off_hard().await.unwrap();
    }
    let dead = ["--dead", nodes[1], "--dead", nodes[2]];
    let args = [["recover", "cluster", "--yes", "--json"], dead].concat();
    let done = field.run(&args).await.expect(0).json();
    assert_eq!(done["ending"], "applied", "{done}");

    let list = cluster.etcdctl(0, ["member", "list"]).await.unwrap();
    assert_eq!(list.matches(", started, ").count(), 1, "{list}");
    let start = Instant::now();
    loop {
        let made = cluster.kubectl(0, ["create", "configmap", "new", "-n", "default"]).await;
        match made {
            Ok(_) => break,
            Err(error) => assert!(start.elapsed() < BOUND, "{error}"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let said = cluster.kubectl(0, ["get", "configmap", "-n", "default", "-o", "name"]).await;
    let said = said.unwrap();
    assert!(said.contains("configmap/kept") && said.contains("configmap/new"), "{said}");
    let manifest = cluster.hosts().host(0).read("/etc/kubernetes/manifests/etcd.yaml").await;
    let manifest = String::from_utf8(manifest.unwrap()).unwrap();
    assert!(!manifest.contains("force-new-cluster"), "{manifest}");
}
