//! `restore cluster --map` on real hosts: three members onto one on another host with
//! another name and address, and one onto three.

#[path = "common/field.rs"]
mod field;

use std::collections::BTreeMap;

use etcd_client::GetOptions;
use field::Field;
use harness::hosts::etcd::{EtcdHosts, Kind};

/// Every key with its value.
async fn content(cluster: &EtcdHosts) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut client = cluster.client().await.unwrap();
    let all = GetOptions::new().with_all_keys();
    let answer = client.get(b"\0".to_vec(), Some(all)).await.unwrap();
    answer.kvs().iter().map(|kv| (kv.key().to_vec(), kv.value().to_vec())).collect()
}

async fn put(cluster: &EtcdHosts, prefix: &str, count: u32) {
    let mut client = cluster.client().await.unwrap();
    for number in 0..count {
        client.put(format!("/{prefix}/{number:04}"), "x".repeat(64), None).await.unwrap();
    }
}

/// The names of the members, as the first says them.
async fn members(cluster: &EtcdHosts) -> Vec<String> {
    let list = cluster.etcdctl(0, ["member", "list"]).await.unwrap();
    let name = |line: &str| line.split(", ").nth(2).unwrap().to_owned();
    let mut names: Vec<String> = list.lines().map(name).collect();
    names.sort();
    names
}

/// Row 20 onto other hosts: three onto one, then one onto three.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-all runs it"]
async fn row_20_onto_other_hosts_fewer_and_more() {
    let three = EtcdHosts::start(Kind::Debian12, 3).await.unwrap();
    let here = Field::of(three.hosts(), &["n1", "n2", "n3"]).await;
    put(&three, "things", 200).await;
    let saved = content(&three).await;
    let backup = here.run(&["backup", "--no-state", "--json"]).await.expect(0).json();
    let backup = backup["id"].as_str().unwrap().to_owned();
    put(&three, "later", 20).await;
    let went_on = content(&three).await;

    // Another host, another name, another cluster, which does not run.
    let one = EtcdHosts::start(Kind::Debian12, 1).await.unwrap();
    let there = Field::of(one.hosts(), &["n1"]).await;
    let config = there.path("etcdvault.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.contains("[cluster.field]"), "{text}");
    std::fs::write(&config, text.replace("[cluster.field]", "[cluster.elsewhere]")).unwrap();
    let cli = there
        .cli
        .clone()
        .env("ETCDVAULT_VAULT", here.path("vault"))
        .env("ETCDVAULT_IDENTITY_FILE", here.path("identity.txt"));
    let host = &one.members()[0];
    let file = Kind::Debian12.settings_file();
    host.check(["systemctl", "stop", "etcd.service"]).await.unwrap();
    host.check(["rm", "-r", Kind::Debian12.data_dir()]).await.unwrap();
    let name = "s/^ETCD_NAME=.*/ETCD_NAME=\"e1\"/";
    let told = "/^ETCD_INITIAL_CLUSTER=/s/n1=/e1=/";
    host.check(["sed", "-i", "-e", name, "-e", told, file]).await.unwrap();

    let restore = ["restore", "cluster", backup.as_str(), "--cluster", "elsewhere"];
    let with = |more: &[&str]| -> Vec<String> {
        restore.iter().chain(more).map(|word| (*word).to_owned()).collect()
    };
    let refused = cli.run(with(&["--map", "n1=n7", "--yes"])).await.unwrap().expect(2);
    assert!(refused.stderr.contains("n7 is no node with a member"), "{refused}");
    let shown = cli.run(with(&["--map", "n2=n1", "--dry-run"])).await.unwrap().expect(0);
    assert!(shown.text().contains("n2 by n1"), "{shown}");
    assert!(shown.text().contains("is neither stopped nor changed"), "{shown}");
    cli.run(with(&["--map", "n2=n1", "--yes"])).await.unwrap().expect(0);
    assert_eq!(content(&one).await, saved);
    assert_eq!(members(&one).await, ["e1"]);
    let told = String::from_utf8(host.read(file).await.unwrap()).unwrap();
    let line = format!("ETCD_INITIAL_CLUSTER=\"e1=http://{}:2380\"", host.address());
    assert!(told.lines().any(|it| it == line), "{told}");
    assert!(told.contains("ETCD_INITIAL_CLUSTER_STATE=\"existing\""), "{told}");
    assert_eq!(content(&three).await, went_on, "the cluster of before is not touched");

    // One onto three, which run something else.
    put(&one, "more", 30).await;
    let saved = content(&one).await;
    let args = ["backup", "--no-state", "--json", "--cluster", "elsewhere"];
    let backup = cli.run(args).await.unwrap().expect(0).json();
    let backup = backup["id"].as_str().unwrap().to_owned();
    let restore = ["restore", "cluster", backup.as_str(), "--yes"];
    let refused = here.run(&restore).await.expect(1);
    assert!(refused.stderr.contains("is of cluster elsewhere"), "{refused}");
    here.run(&[&restore[..], &["--map", "e1=n2"]].concat()).await.expect(0);
    three.wait_healthy().await.unwrap();
    assert_eq!(content(&three).await, saved);
    assert_eq!(members(&three).await, ["n1", "n2", "n3"]);
}
