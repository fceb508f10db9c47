//! `state return --only data` on three real hosts: what was saved is there again on every
//! member, under a revision above all that was served; `rollback` brings the later data.
//!
//! Row 23, and rows 9 and 10 for the directories that are made.

use std::collections::BTreeMap;
use std::path::Path;

use etcd_client::GetOptions;
use harness::cli::Cli;
use harness::hosts::etcd::{EtcdHosts, Kind};
use serde_json::Value;

const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// The program under test, which reaches the hosts as their operator does.
fn program(cluster: &EtcdHosts) -> Cli {
    Cli::new(env!("CARGO_BIN_EXE_etcdvault"))
        .env("ETCDVAULT_SSH_CONFIG", cluster.hosts().ssh_config())
        .env("ETCDCTL_DIAL_TIMEOUT", "30s")
        .env("ETCDCTL_COMMAND_TIMEOUT", "30s")
}

/// Every key with its value, and the revision.
async fn content(cluster: &EtcdHosts) -> (BTreeMap<Vec<u8>, Vec<u8>>, i64) {
    let mut client = cluster.client().await.unwrap();
    let all = GetOptions::new().with_all_keys();
    let answer = client.get(b"\0".to_vec(), Some(all)).await.unwrap();
    let keys = answer.kvs().iter().map(|kv| (kv.key().to_vec(), kv.value().to_vec()));
    (keys.collect(), answer.header().unwrap().revision())
}

async fn put(cluster: &EtcdHosts, keys: impl Iterator<Item = (String, String)>) {
    let mut client = cluster.client().await.unwrap();
    for (key, value) in keys {
        client.put(key, value, None).await.unwrap();
    }
}

/// What each member says of the store: hash and revision it is of.
async fn hashes(cluster: &EtcdHosts) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    for place in 0..NODES.len() {
        let said = cluster.etcdctl(place, ["endpoint", "hashkv", "-w", "json"]).await.unwrap();
        let said: Value = serde_json::from_str(&said).unwrap();
        let hash = said.pointer("/0/HashKV/hash").and_then(Value::as_u64).unwrap();
        let revision = said.pointer("/0/HashKV/header/revision").and_then(Value::as_u64).unwrap();
        found.push((hash, revision));
    }
    found
}

async fn members(cluster: &EtcdHosts) -> Vec<u64> {
    let said = cluster.etcdctl(0, ["member", "list", "-w", "json"]).await.unwrap();
    let said: Value = serde_json::from_str(&said).unwrap();
    let members = said["members"].as_array().unwrap();
    members.iter().map(|member| member["ID"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn row_23_data_is_returned_to_all_members_and_rolled_back() {
    let cluster = EtcdHosts::start(Kind::Unit, 3).await.unwrap();
    let cli = program(&cluster);
    let root = tempfile::tempdir().unwrap();
    let vault = root.path().join("vault");
    let init = [Path::new("init"), &vault, Path::new("--no-encryption")];
    cli.run(init).await.unwrap().expect(0);
    let config = root.path().join("etcdvault.toml");
    let config = config.to_str().unwrap();
    cli.run(["discover", "n1", "n2", "n3", "-o", config, "--cluster", "field"])
        .await
        .unwrap()
        .expect(0);
    let with = ["--config", config, "--vault", vault.to_str().unwrap()];
    let run = async |args: &[&str], code: i32| {
        let ran = cli.run(args.iter().chain(&with)).await.unwrap();
        ran.expect(code)
    };

    // Fill, save.
    let text = |n: u32| (format!("/registry/things/{n:04}"), format!("{n}").repeat(50));
    put(&cluster, (0..600).map(text)).await;
    put(&cluster, (0..50).map(|n| (format!("/registry/things/{n:04}"), "again".into()))).await;
    let (saved, saved_at) = content(&cluster).await;
    let args = ["state", "save", "--with-data", "--allow-unencrypted", "--json"];
    let report = run(&args, 0).await.json();
    assert_eq!(report["proof"]["state"], "proven", "{report}");
    let id = report["id"].as_str().unwrap().to_owned();

    // Change.
    put(&cluster, (500..700).map(|n| (format!("/registry/things/{n:04}"), "later".into()))).await;
    let mut client = cluster.client().await.unwrap();
    client.delete("/registry/things/0007", None).await.unwrap();
    drop(client);
    let (later, later_at) = content(&cluster).await;
    assert_ne!(saved, later);
    let before = members(&cluster).await;

    // One member alone is refused, and nothing is touched by looking.
    let more = ["--node", "n2", "--yes", "--allow-unencrypted"];
    let alone = [&["state", "return", &id, "--only", "data"][..], &more].concat();
    let refused = run(&alone, 2).await;
    assert!(refused.stderr.contains("n1, n3 would be left out"), "{refused}");
    let shown = run(&["state", "return", &id, "--only", "data", "--dry-run"], 0).await;
    assert!(shown.text().contains("set the present data aside"), "{shown}");
    let lost = later_at - saved_at;
    assert!(shown.text().contains(&format!("{lost} revisions")), "{shown}");
    assert_eq!(members(&cluster).await, before);

    // Return.
    let args = ["state", "return", &id, "--only", "data", "--yes", "--allow-unencrypted", "--json"];
    let ran = run(&args, 0).await;
    let plan = ran.json()["plan"].as_str().unwrap().to_owned();
    cluster.wait_healthy().await.unwrap();
    let (now, now_at) = content(&cluster).await;
    assert_eq!(now, saved, "the keys are not those that were saved");
    assert!(now_at > later_at + 999_999_999, "revision {now_at} after {later_at}");
    let found = hashes(&cluster).await;
    assert!(found.iter().all(|hash| *hash == found[0]), "{found:?}");
    let after = members(&cluster).await;
    assert_eq!(after.len(), 3);
    assert!(after.iter().all(|id| !before.contains(id)), "{before:x?} {after:x?}");
    let data = Kind::Unit.data_dir();
    for host in cluster.members() {
        let said = host.check(["systemctl", "is-active", "etcd.service"]).await.unwrap();
        assert_eq!(said.trim(), "active");
        let said = host.check(["systemctl", "is-enabled", "etcd.service"]).await.unwrap();
        assert_eq!(said.trim(), "enabled");
        let member = format!("{data}/member");
        let said = host.check(["stat", "-c", "%U:%G %a", member.as_str()]).await.unwrap();
        assert_eq!(said.trim(), "etcd:etcd 700");
        let said = host.check(["ls", data]).await.unwrap();
        let mut names: Vec<&str> = said.lines().collect();
        names.sort_unstable();
        assert_eq!(names, ["member", &format!("member.before-{plan}")], "{}", host.name());
    }
    // It takes writes, on every member.
    put(&cluster, std::iter::once(("/registry/new".to_owned(), "x".to_owned()))).await;

    // Back again: the later data, and what was written meanwhile lies beside it.
    let nodes = ["--node", "n1", "--node", "n2", "--node", "n3", "--config", config];
    let args = ["rollback", plan.as_str()];
    cli.run(args.iter().chain(&nodes)).await.unwrap().expect(0);
    cluster.wait_healthy().await.unwrap();
    let (now, now_at) = content(&cluster).await;
    assert_eq!(now, later, "the keys are not the later ones");
    assert_eq!(now_at, later_at);
    assert_eq!(members(&cluster).await, before);
    let found = hashes(&cluster).await;
    assert!(found.iter().all(|hash| *hash == found[0]), "{found:?}");
    for host in cluster.members() {
        let said = host.check(["ls", data]).await.unwrap();
        let mut names: Vec<&str> = said.lines().collect();
        names.sort_unstable();
        assert_eq!(names, ["member", &format!("member.returned-{plan}")], "{}", host.name());
        let said = host.check(["systemctl", "is-enabled", "etcd.service"]).await.unwrap();
        assert_eq!(said.trim(), "enabled");
    }

    // The return stored what it found, with its data: that can be returned to as well.
    let listed = run(&["state", "list", "--json"], 0).await.json();
    let states = listed["states"].as_array().unwrap();
    let stored = states.iter().find(|state| state["id"] != id.as_str()).unwrap();
    assert_eq!(stored["data"], "snapshot", "{listed}");
    let stored = stored["id"].as_str().unwrap();
    let args = ["state", "return", stored, "--only", "data", "--yes", "--no-save"];
    run(&args, 0).await;
    cluster.wait_healthy().await.unwrap();
    assert_eq!(content(&cluster).await.0, later);

    // Other ids are no other topology: the configuration of then is returned as well.
    assert!(members(&cluster).await.iter().all(|id| !before.contains(id)));
    run(&["state", "return", &id, "--no-save", "--allow-unencrypted", "--dry-run"], 0).await;

    // Stopped everywhere, its directories are what a return stores first: one set, which
    // returns to the members that it is of, with their ids, and nothing raised.
    let stopped_with = content(&cluster).await;
    let ids = members(&cluster).await;
    for host in cluster.members() {
        host.check(["systemctl", "stop", "etcd.service"]).await.unwrap();
    }
    let args = ["state", "return", &id, "--only", "data", "--yes", "--allow-unencrypted", "--json"];
    let down = run(&args, 0).await.json();
    let copies = down["outputs"]["saved"].as_str().unwrap().to_owned();
    cluster.wait_healthy().await.unwrap();
    assert_eq!(content(&cluster).await.0, saved);
    let listed = run(&["state", "list", "--json"], 0).await.json();
    let states = listed["states"].as_array().unwrap();
    let stored = states.iter().find(|state| state["id"] == copies.as_str()).unwrap();
    assert_eq!(stored["data"], "directories", "{listed}");
    let back = ["state", "return", &copies, "--only", "data", "--no-save"];
    let alone = run(&[&back[..], &["--node", "n2", "--yes"]].concat(), 2).await;
    assert!(alone.stderr.contains("n1, n3 would be left out"), "{alone}");
    let shown = run(&[&back[..], &["--dry-run"]].concat(), 0).await;
    assert!(shown.text().contains("below what was served"), "{shown}");
    run(&[&back[..], &["--yes"]].concat(), 0).await;
    cluster.wait_healthy().await.unwrap();
    assert_eq!(content(&cluster).await, stopped_with);
    assert_eq!(members(&cluster).await, ids);
    let found = hashes(&cluster).await;
    assert!(found.iter().all(|hash| *hash == found[0]), "{found:?}");
    put(&cluster, std::iter::once(("/registry/newer".to_owned(), "x".to_owned()))).await;
}
