//! `state return` where the API servers are clients: the data of a real control plane, and
//! the configuration of one of three nodes.

#[path = "common/field.rs"]
mod field;

use field::{Field, pictures, same};
use harness::hosts::kubeadm::{Kubeadm, Size};

/// What the API server stored last, as a number.
async fn resource_version(cluster: &Kubeadm, name: &str) -> i64 {
    let path = "jsonpath={.metadata.resourceVersion}";
    let get = ["get", "configmap", name, "-n", "default", "-o", path];
    cluster.kubectl(0, get).await.unwrap().parse().unwrap()
}

async fn create(cluster: &Kubeadm, name: &str) {
    cluster.kubectl(0, ["create", "configmap", name, "-n", "default"]).await.unwrap();
}

/// row 23: what was saved is there again, later objects are not, and the API server that
/// writes again is the last free return.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-all runs it"]
async fn row_23_the_data_of_a_control_plane_is_returned() {
    let cluster = Kubeadm::start(Size::One).await.unwrap();
    let host = cluster.hosts().host(0);
    let field = Field::of(cluster.hosts(), &[host.name()]).await;
    create(&cluster, "kept").await;
    let saved = field.run(&["state", "save", "--with-data", "--json"]).await.expect(0).json();
    assert_eq!(saved["proof"]["state"], "proven", "{saved}");
    let id = saved["id"].as_str().unwrap();
    create(&cluster, "later").await;
    let before = resource_version(&cluster, "later").await;

    let shown = field.run(&["state", "return", id, "--only", "data", "--dry-run"]).await.expect(0);
    assert!(shown.text().contains("kube-apiserver"), "{shown}");
    let args = ["state", "return", id, "--only", "data", "--yes", "--json"];
    let done = field.run(&args).await.expect(0).json();
    assert_eq!(done["ending"], "applied", "{done}");
    cluster.wait_ready().await.unwrap();
    let names = ["get", "configmap", "-n", "default", "-o", "name"];
    let names = cluster.kubectl(0, names).await.unwrap();
    assert!(names.contains("configmap/kept\n") && !names.contains("later"), "{names}");
    create(&cluster, "new").await;
    let after = resource_version(&cluster, "new").await;
    assert!(after > before + 999_999_999, "{after} after {before}");

    let refused = field.run(&["rollback", done["plan"].as_str().unwrap()]).await;
    assert_ne!(refused.code, Some(0), "{refused}");
    assert!(refused.stderr.contains("the API servers write to the returned data"), "{refused}");
}

/// row 23: three control planes, each with something else that is wrong.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-all runs it"]
async fn row_23_three_control_planes_are_returned() {
    let cluster = Kubeadm::start(Size::Three).await.unwrap();
    let hosts = &cluster.hosts().all()[..3];
    let names: Vec<&str> = hosts.iter().map(|host| host.name()).collect();
    let field = Field::of(cluster.hosts(), &names).await;
    field.save().await;
    let roots = ["/etc/kubernetes"];
    let good = pictures(hosts, &roots).await;
    create(&cluster, "meanwhile").await;

    let manifest = "/etc/kubernetes/manifests/etcd.yaml";
    hosts[0].check(["sh", "-c", &format!("echo '# tried something' >> {manifest}")]).await.unwrap();
    let key = "/etc/kubernetes/pki/etcd/server.key";
    hosts[1].check(["chmod", "0644", key]).await.unwrap();
    hosts[2].check(["rm", "/etc/kubernetes/pki/etcd/healthcheck-client.crt"]).await.unwrap();
    let ruined = pictures(hosts, &roots).await;

    let ran = field.run(&["state", "return", "latest", "--yes", "--json"]).await.expect(0);
    let done = ran.json();
    assert_eq!(done["ending"], "applied", "{ran}");
    same("returned", &good, &pictures(hosts, &roots).await);
    cluster.wait_ready().await.unwrap();
    let kept = cluster.kubectl(1, ["get", "configmap", "meanwhile", "-o", "name"]).await.unwrap();
    assert_eq!(kept, "configmap/meanwhile\n");

    field.run(&["rollback", done["plan"].as_str().unwrap()]).await.expect(0);
    same("taken back", &ruined, &pictures(hosts, &roots).await);
    cluster.wait_ready().await.unwrap();
}
