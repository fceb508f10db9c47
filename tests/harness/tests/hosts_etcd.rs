//! etcd as the field runs it: each set-up's cluster is healthy, is what it says it
//! is, and comes back from a power cut.

use harness::hosts::Login;
use harness::hosts::etcd::{EtcdHosts, Kind};

/// Writes through one member, reads from another; cuts the power of the third.
async fn lives(kind: Kind, version: &str) {
    let mut cluster = EtcdHosts::start(kind, 3).await.unwrap();
    let mut client = cluster.client().await.unwrap();
    assert!(client.status().await.unwrap().version().starts_with(version));
    client.put("before", "the cut", None).await.unwrap();
    let got = cluster.etcdctl(2, ["get", "before", "--print-value-only"]).await.unwrap();
    assert_eq!(got.trim(), "the cut");

    // The member reads the file that the set-up names, as the user that it names.
    let host = cluster.hosts().host(0);
    let settings = String::from_utf8(host.read(kind.settings_file()).await.unwrap()).unwrap();
    assert!(settings.contains(kind.data_dir()), "{settings}");
    let owner = ["stat", "--format=%U", &format!("{}/member/snap/db", kind.data_dir())];
    assert_eq!(host.check(owner).await.unwrap().trim(), "etcd");

    let hosts = cluster.hosts_mut();
    hosts.host_mut(2).power_off_hard().await.unwrap();
    cluster.wait_healthy().await.unwrap();
    // Where the leader was cut off, a write may end with it: it is made again.
    for attempt in 1.. {
        match client.put("during", "the cut", None).await {
            Ok(_) => break,
            Err(error) => assert!(attempt < 20, "{error}"),
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    cluster.hosts_mut().host_mut(2).power_on().await.unwrap();
    cluster.wait_healthy().await.unwrap();
    let got = cluster.etcdctl(2, ["get", "during", "--print-value-only"]).await.unwrap();
    assert_eq!(got.trim(), "the cut");
}

#[tokio::test]
async fn debian_12s_package_lives() {
    lives(Kind::Debian12, "3.4.23").await;
}

#[tokio::test]
async fn debian_13s_package_lives_with_tls() {
    lives(Kind::Debian13, "3.5.16").await;
}

#[tokio::test]
async fn a_unit_with_arguments_lives() {
    lives(Kind::Unit, "3.6.").await;
}

#[tokio::test]
async fn a_unit_with_a_yaml_file_lives() {
    lives(Kind::ConfigFile, "3.6.").await;
}

#[tokio::test]
async fn a_cluster_behind_a_jump_host_is_healthy() {
    let more = |hosts: harness::hosts::Builder| hosts.login(Login::Operator).jump();
    let cluster = EtcdHosts::start_with(Kind::Unit, 3, more).await.unwrap();
    let reached = cluster.hosts().ssh("n2", ["sudo -n systemctl is-active etcd"]).await.unwrap();
    assert_eq!(reached.stdout, b"active\n", "{reached:?}");
}
