//! `state return` on a real kubeadm control plane: etcd and the API server in static pods
//! are taken out, set up as they were, and put back; and taken back again.

#[path = "common/field.rs"]
mod field;

use field::{Field, picture, same, typed};
use harness::hosts::kubeadm::{Kubeadm, Size};

/// The kubelet writes below `pki` of its own directory whenever it likes.
const ROOTS: [&str; 1] = ["/etc/kubernetes"];
const ETCD: &str = "/etc/kubernetes/manifests/etcd.yaml";

/// row 10, row 23
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-all runs it"]
async fn row_10_row_23_a_control_plane_is_returned() {
    let cluster = Kubeadm::start(Size::One).await.unwrap();
    let host = cluster.hosts().host(0);
    let field = Field::of(cluster.hosts(), &[host.name()]).await;
    field.save().await;
    let good = picture(host, &ROOTS).await;
    let made = ["create", "configmap", "meanwhile", "-n", "default"];
    cluster.kubectl(0, made).await.unwrap();

    // A manifest that somebody wrote into, a key that is everybody's, one that is gone, and
    // a certificate that was never there.
    let mut manifest = host.read(ETCD).await.unwrap();
    manifest.extend_from_slice(b"# tried something\n");
    host.write_as(ETCD, &manifest, "root", 0o644).await.unwrap();
    let pki = |name: &str| format!("/etc/kubernetes/pki/{name}");
    host.check(["chmod", "0644", &pki("etcd/server.key")]).await.unwrap();
    host.check(["rm", &pki("etcd/healthcheck-client.crt")]).await.unwrap();
    host.write(&pki("etcd/odd.crt"), b"odd").await.unwrap();
    let ruined = picture(host, &ROOTS).await;

    let ran = field.run(&["state", "return", "latest", "--yes", "--json"]).await.expect(0);
    let done = ran.json();
    assert_eq!(done["ending"], "applied", "{ran}");
    same("returned", std::slice::from_ref(&good), &[picture(host, &ROOTS).await]);
    cluster.wait_ready().await.unwrap();
    let kept = cluster.kubectl(0, ["get", "configmap", "meanwhile", "-o", "name"]).await.unwrap();
    assert_eq!(kept, "configmap/meanwhile\n");

    field.run(&["rollback", done["plan"].as_str().unwrap()]).await.expect(0);
    same("taken back", &[ruined], &[picture(host, &ROOTS).await]);
    cluster.wait_ready().await.unwrap();

    // The same by hand: each pod is gone before files change, and there before the next.
    let text = typed(&field, cluster.hosts(), &["state", "return", "latest", "--as-shell"]).await;
    assert!(text.contains("crictl ps"), "{text}");
    same("by hand", &[good], &[picture(host, &ROOTS).await]);
    cluster.wait_ready().await.unwrap();
    let kept = cluster.kubectl(0, ["get", "configmap", "meanwhile", "-o", "name"]).await.unwrap();
    assert_eq!(kept, "configmap/meanwhile\n");
}

/// row 10: an API server without a certificate that it needs opens its port and ends. It is
/// not back, whichever way the plan goes, until it says that it serves.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-all runs it"]
async fn row_10_a_port_that_opens_is_no_api_server() {
    const NEEDED: &str = "/etc/kubernetes/pki/front-proxy-client.crt";
    let cluster = Kubeadm::start(Size::One).await.unwrap();
    let host = cluster.hosts().host(0);
    let field = Field::of(cluster.hosts(), &[host.name()]).await;
    field.save().await;
    let good = picture(host, &ROOTS).await;
    let certificate = host.read(NEEDED).await.unwrap();
    host.check(["rm", NEEDED]).await.unwrap();
    let ruined = picture(host, &ROOTS).await;

    let ran = field.run(&["state", "return", "latest", "--yes", "--json"]).await.expect(0);
    same("returned", std::slice::from_ref(&good), &[picture(host, &ROOTS).await]);
    cluster.wait_ready().await.unwrap();
    let plan = ran.json()["plan"].as_str().unwrap().to_owned();

    // It ran before, from a file that is gone: taken back it cannot start, and that is said.
    let failed = field.run(&["rollback", &plan]).await.expect(1);
    assert!(failed.stderr.contains("kube-apiserver"), "{failed}");
    same("taken back", &[ruined], &[picture(host, &ROOTS).await]);
    host.write_as(NEEDED, &certificate, "root", 0o644).await.unwrap();
    field.run(&["rollback", &plan]).await.expect(0);
    cluster.wait_ready().await.unwrap();
}
