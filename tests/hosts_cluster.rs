//! `restore cluster` on three real hosts, Debian 12's etcd 3.4 over plain HTTP: all data is
//! gone, and comes back from the vault; again over a cluster that runs; and what must not
//! go on is refused before anything changes.

#[path = "common/field.rs"]
mod field;

use std::collections::BTreeMap;

use etcd_client::GetOptions;
use field::{Field, told};
use harness::cli::Ran;
use harness::hosts::etcd::{EtcdHosts, Kind};
use serde_json::Value;

const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// Every key with its value, and the revision.
async fn content(cluster: &EtcdHosts) -> (BTreeMap<Vec<u8>, Vec<u8>>, i64) {
    let mut client = cluster.client().await.unwrap();
    let all = GetOptions::new().with_all_keys();
    let answer = client.get(b"\0".to_vec(), Some(all)).await.unwrap();
    let keys = answer.kvs().iter().map(|kv| (kv.key().to_vec(), kv.value().to_vec()));
    (keys.collect(), answer.header().unwrap().revision())
}

async fn put(cluster: &EtcdHosts, prefix: &str, count: u32) {
    let mut client = cluster.client().await.unwrap();
    for number in 0..count {
        client.put(format!("/registry/{prefix}/{number:04}"), "x".repeat(64), None).await.unwrap();
    }
}

/// HashKV of each member, and the revision that it is of.
async fn hashes(cluster: &EtcdHosts, places: usize) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    for place in 0..places {
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

async fn is(cluster: &EtcdHosts, place: usize, what: &str) -> String {
    let host = cluster.hosts().host(place);
    let said = host.run(["systemctl", what, "etcd.service"]).await.unwrap();
    String::from_utf8(said.stdout).unwrap().trim().to_owned()
}

async fn names(cluster: &EtcdHosts, place: usize) -> Vec<String> {
    let host = cluster.hosts().host(place);
    let said = host.check(["ls", Kind::Debian12.data_dir()]).await.unwrap();
    let mut names: Vec<String> = said.lines().map(str::to_owned).collect();
    names.sort();
    names
}

fn findings(ran: &Ran) -> Vec<String> {
    let found = ran.json()["findings"].as_array().unwrap().clone();
    let text = |it: &Value, key: &str| it[key].as_str().unwrap_or_default().to_owned();
    let line =
        |it: &Value| format!("{} {}: {}", text(it, "severity"), text(it, "node"), text(it, "what"));
    found.iter().map(line).collect()
}

/// Row 20 without Kubernetes, rows 9 and 10; then the same over a cluster that runs.
#[tokio::test(flavor = "multi_thread")]
async fn row_20_all_data_is_gone_and_comes_back() {
    let cluster = EtcdHosts::start(Kind::Debian12, 3).await.unwrap();
    let field = Field::of(cluster.hosts(), &NODES).await;
    put(&cluster, "things", 300).await;
    let (saved, saved_at) = content(&cluster).await;
    field.run(&["backup", "--no-state"]).await.expect(0);
    put(&cluster, "later", 40).await;
    let before = members(&cluster).await;

    // Everything is gone: on n1 the data, on n2 its directory, on n3 that above it, too.
    let data = Kind::Debian12.data_dir();
    for (host, ruin) in cluster.members().iter().zip([
        format!("{data}/member"),
        data.to_owned(),
        "/var/lib/etcd".into(),
    ]) {
        host.check(["systemctl", "stop", "etcd.service"]).await.unwrap();
        host.check(["rm", "-r", &ruin]).await.unwrap();
    }

    let looked = field.run(&["preflight", "latest", "--json"]).await.expect(0);
    assert_eq!(looked.json()["looked"]["connections"], 12, "{looked}");
    let found = findings(&looked);
    assert!(found.iter().any(|line| line.contains("nothing listens at etcd's ports")), "{found:?}");
    let refused = field.run(&["restore", "cluster", "latest"]).await.expect(2);
    assert!(refused.stderr.contains("nobody is there to confirm the plan"), "{refused}");
    let shown = field.run(&["restore", "cluster", "latest", "--dry-run"]).await.expect(0);
    for line in [
        "how much that is cannot be told, as no member answers",
        "no data: there is none now",
        "etcd is down now",
        "make sure that no member and no kube-apiserver runs",
    ] {
        assert!(shown.text().contains(line), "{line}: {shown}");
    }
    assert!(!shown.text().contains("state and data"), "nobody can give a backup: {shown}");

    let ran = field.run(&["restore", "cluster", "latest", "--yes", "--json"]).await.expect(0);
    let done = ran.json();
    let plan = done["plan"].as_str().unwrap().to_owned();
    assert!(done["lost"].as_str().unwrap().contains("no member answers"), "{ran}");
    cluster.wait_healthy().await.unwrap();
    let (now, now_at) = content(&cluster).await;
    assert_eq!(now, saved, "the keys are not those that were saved");
    assert_eq!(now_at, saved_at + 1_000_000_000);
    let hash: u64 = done["outputs"]["hash-kv"].as_str().unwrap().parse().unwrap();
    assert_eq!(hashes(&cluster, 3).await, [(hash, u64::try_from(now_at).unwrap()); 3]);
    let after = members(&cluster).await;
    assert!(after.len() == 3 && after.iter().all(|id| !before.contains(id)), "{after:x?}");
    for (place, host) in cluster.members().iter().enumerate() {
        assert_eq!(is(&cluster, place, "is-active").await, "active");
        assert_eq!(is(&cluster, place, "is-enabled").await, "enabled");
        let member = format!("{data}/member");
        let said = host.check(["stat", "-c", "%U:%G %a", &member]).await.unwrap();
        assert_eq!(said.trim(), "etcd:etcd 700", "{}", host.name());
        assert_eq!(names(&cluster, place).await, ["member"]);
    }

    // Taken back there is nothing again, and what was restored lies beside it.
    field.run(&["rollback", &plan]).await.expect(0);
    for place in 0..3 {
        assert_eq!(is(&cluster, place, "is-active").await, "inactive");
        assert_eq!(names(&cluster, place).await, [format!("member.returned-{plan}")]);
    }
}

/// Rows 3, 5, 6 and 7: one member is restored, the others join it. One of them does not
/// start: the cluster serves without it, and it joins when it is mended. 3.4.23 would give
/// a learner its vote before it ever ran.
#[tokio::test(flavor = "multi_thread")]
async fn row_6_members_come_back_one_after_the_other() {
    let cluster = EtcdHosts::start(Kind::Debian12, 3).await.unwrap();
    let field = Field::of(cluster.hosts(), &NODES).await;
    put(&cluster, "things", 300).await;
    let (saved, saved_at) = content(&cluster).await;
    field.run(&["backup", "--no-state"]).await.expect(0);
    put(&cluster, "later", 40).await;
    let file = Kind::Debian12.settings_file();
    let data = Kind::Debian12.data_dir();
    let told = async |place: usize| {
        let text = cluster.members()[place].read(file).await.unwrap();
        let text = String::from_utf8(text).unwrap();
        let line = |name: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(name));
            found.unwrap_or_default().trim_matches('"').to_owned()
        };
        (line("ETCD_INITIAL_CLUSTER="), line("ETCD_INITIAL_CLUSTER_STATE="), text)
    };
    let (all, _, before) = told(1).await;
    // Somebody tried to recover n2 by hand, and left the flag there; n3 cannot start.
    let [_, n2, n3] = cluster.members() else { panic!("three hosts") };
    n2.check(["systemctl", "stop", "etcd.service"]).await.unwrap();
    n2.check(["rm", "-r", data]).await.unwrap();
    let forced = format!("echo 'ETCD_FORCE_NEW_CLUSTER=\"true\"' >> {file}");
    n2.check(["sh", "-c", &forced]).await.unwrap();
    let drop_in = "/run/systemd/system/etcd.service.d";
    let broken = format!(
        "mkdir -p {drop_in} && printf '[Service]\\nExecStartPre=/bin/false\\n' > {drop_in}/b.conf"
    );
    n3.check(["sh", "-c", &broken]).await.unwrap();
    n3.check(["systemctl", "daemon-reload"]).await.unwrap();

    let sequential = ["restore", "cluster", "latest", "--sequential"];
    let shown = field.run(&[&sequential[..], &["--dry-run"]].concat()).await.expect(0);
    for part in [
        "n1 alone, from the backup; then n2, n3 join it, each without data",
        "without force-new-cluster",
        "let n2 join at http://",
    ] {
        assert!(shown.text().contains(part), "{part}: {shown}");
    }
    let stopped = field.run(&[&sequential[..], &["--yes"]].concat()).await.expect(1);
    let hint = "as long as n3 has no vote the cluster works without it: mend n3, then etcdvault";
    assert!(stopped.stderr.contains(hint), "{stopped}");
    for number in 0..3 {
        let key = format!("/registry/meanwhile/{number}");
        cluster.etcdctl(number % 2, ["put", &key, "x"]).await.unwrap();
    }
    let list = cluster.etcdctl(0, ["member", "list"]).await.unwrap();
    assert_eq!(list.matches(", false").count(), 2, "{list}");
    n3.check(["rm", "-r", drop_in]).await.unwrap();
    n3.check(["systemctl", "daemon-reload"]).await.unwrap();
    let resume = field::printed(&stopped.stderr, "go on:");
    let resume: Vec<&str> = resume.iter().map(String::as_str).collect();
    let ran = field.run(&[&resume[..], &["--json"]].concat()).await.expect(0);
    let plan = ran.json()["plan"].as_str().unwrap().to_owned();
    assert_eq!(ran.json()["data_set_aside"].as_array().unwrap().len(), 2, "{ran}");

    cluster.wait_healthy().await.unwrap();
    let (now, now_at) = content(&cluster).await;
    assert_eq!(now.len(), saved.len() + 3);
    assert!(saved.iter().all(|(key, value)| now.get(key) == Some(value)), "keys are lost");
    assert!(now_at >= saved_at + 1_000_000_003, "{now_at} after {saved_at}");
    let found = hashes(&cluster, 3).await;
    assert_eq!(found, [found[0]; 3]);
    let list = cluster.etcdctl(0, ["member", "list"]).await.unwrap();
    assert_eq!(list.matches(", started, ").count(), 3, "{list}");
    assert_eq!(list.matches(", false").count(), 3, "{list}");
    for place in 0..3 {
        let (cluster_now, state, text) = told(place).await;
        assert_eq!((cluster_now, state.as_str()), (all.clone(), "existing"), "{text}");
        assert!(!text.contains("FORCE_NEW"), "{text}");
        assert_eq!(is(&cluster, place, "is-enabled").await, "enabled");
        let kept = names(&cluster, place).await.contains(&format!("member.before-{plan}"));
        assert_eq!(kept, place != 1);
    }

    // Without an API server it can be taken back still: two members, as before.
    field.run(&["rollback", &plan]).await.expect(0);
    let keys = cluster.etcdctl(0, ["get", "--prefix", "--keys-only", "/registry/later/"]).await;
    assert_eq!(keys.unwrap().split_whitespace().count(), 40);
    assert_eq!(is(&cluster, 1, "is-active").await, "inactive");
    assert_eq!(is(&cluster, 2, "is-active").await, "active");
    let (_, state, text) = told(1).await;
    assert_eq!(state, "new", "{text}");
    assert!(text.starts_with(&before) && text.contains("FORCE_NEW"), "{text}");
}

/// The data is wrong and not gone: what runs is stored first, nothing is served twice, and
/// `latest` stays what it was.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-all runs it"]
async fn row_20_a_cluster_that_runs_is_brought_back_twice() {
    let cluster = EtcdHosts::start(Kind::Debian12, 3).await.unwrap();
    let field = Field::of(cluster.hosts(), &NODES).await;
    put(&cluster, "things", 300).await;
    let (saved, saved_at) = content(&cluster).await;
    let backup = field.run(&["backup", "--no-state", "--json"]).await.expect(0).json();
    let backup = backup["id"].as_str().unwrap().to_owned();
    put(&cluster, "later", 40).await;
    let done = field.run(&["restore", "cluster", &backup, "--yes", "--json"]).await.expect(0);
    let lost = done.json()["lost"].as_str().unwrap().to_owned();
    assert!(lost.ends_with(": 40 revisions"), "{lost}");
    cluster.wait_healthy().await.unwrap();
    put(&cluster, "wrong", 25).await;
    let (wrong, wrong_at) = content(&cluster).await;
    assert!(wrong_at > saved_at + 1_000_000_000, "{wrong_at} after {saved_at}");
    let ran = field.run(&["restore", "cluster", "latest", "--yes"]).await.expect(0);
    assert!(ran.text().contains("the cluster that runs now does not go on from"), "{ran}");
    assert!(ran.text().contains("when all is well: rm -r"), "{ran}");
    cluster.wait_healthy().await.unwrap();
    let (now, now_at) = content(&cluster).await;
    assert_eq!(now, saved);
    assert!(now_at > wrong_at + 999_999_999, "revision {now_at} after {wrong_at}");

    // What was there was stored before, and is no `latest`.
    let listed = field.run(&["list", "--json"]).await.expect(0).json();
    let last = listed["backups"].as_array().unwrap().last().unwrap().clone();
    assert_ne!(last["id"], backup.as_str());
    let last = last["id"].as_str().unwrap();
    let shown = field.run(&["restore", "cluster", "latest", "--dry-run", "--json"]).await.expect(0);
    let title = shown.json()["title"].as_str().unwrap().to_owned();
    assert!(title.contains(&backup), "{title}");
    field.run(&["restore", "cluster", last, "--yes", "--no-save"]).await.expect(0);
    cluster.wait_healthy().await.unwrap();
    assert_eq!(content(&cluster).await.0, wrong);
}

/// Row 29, nodes that do not answer, and backups of other clusters.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-all runs it"]
async fn row_29_what_stands_in_the_way_is_found_before_anything_changes() {
    let cluster = EtcdHosts::start(Kind::Debian12, 3).await.unwrap();
    let field = Field::of(cluster.hosts(), &NODES).await;
    put(&cluster, "things", 20).await;
    field.run(&["backup", "--no-state"]).await.expect(0);
    let (saved, _) = content(&cluster).await;
    let before = members(&cluster).await;
    let [n1, n2, n3] = cluster.members() else { panic!("three hosts") };
    let quiet = findings(&field.run(&["preflight", "latest", "--json"]).await.expect(0));
    assert!(!quiet.iter().any(|line| line.starts_with("problem")), "{quiet:?}");

    // One way only, on one port.
    n2.block(n1.address(), 2380).await.unwrap();
    let looked = field.run(&["preflight", "latest", "--json"]).await.expect(3);
    let found = findings(&looked);
    let broken: Vec<&String> =
        found.iter().filter(|line| line.contains("does not reach")).collect();
    assert_eq!(broken.len(), 1, "{found:?}");
    let start = format!("problem n1: does not reach n2 at {}:2380 (peer port", n2.address());
    assert!(broken[0].starts_with(&start), "{broken:?}");
    let refused = field.run(&["restore", "cluster", "latest", "--yes"]).await.expect(1);
    assert!(refused.stderr.contains("n1: does not reach n2"), "{refused}");
    assert!(refused.stderr.contains("ip route get"), "{refused}");
    n2.unblock(n1.address(), 2380).await.unwrap();

    // A backup of another cluster.
    let file = field.path("snapshot.db");
    let file = file.to_str().unwrap();
    field.run(&["export", "latest", "-o", file]).await.expect(0);
    field.run(&["import", file, "--cluster", "other"]).await.expect(0);
    let listed = field.run(&["list", "--cluster", "other", "--json"]).await.expect(0).json();
    let other = listed["backups"][0]["id"].as_str().unwrap().to_owned();
    let refused = field.run(&["restore", "cluster", &other, "--yes"]).await.expect(1);
    let said = format!("backup {other} is of cluster other, and field is to be restored");
    assert!(refused.stderr.contains(&said), "{refused}");
    assert!(refused.stderr.contains("--other-cluster"), "{refused}");
    field.run(&["restore", "cluster", &other, "--other-cluster", "--dry-run"]).await.expect(0);

    // What the runbook tells a person to type.
    told(&field, cluster.hosts(), "docs/runbook/total-loss.md").await;
    cluster.wait_healthy().await.unwrap();
    assert_eq!(content(&cluster).await.0, saved);

    // n3 cannot be looked at, and its member lives on.
    n3.check(["systemctl", "stop", "ssh.socket", "ssh.service"]).await.unwrap();
    let refused = field.run(&["restore", "cluster", "latest", "--yes"]).await.expect(1);
    assert!(refused.stderr.contains("n3 is not reached"), "{refused}");
    assert!(refused.stderr.contains("--dead n3"), "{refused}");
    let forced = field.run(&["restore", "cluster", "latest", "--yes", "--force"]).await.expect(1);
    assert!(forced.stderr.contains("n3 is not reached"), "{forced}");
    let args = ["restore", "cluster", "latest", "--yes", "--dead", "n3"];
    let fenced = field.run(&args).await.expect(1);
    let said = format!("n3 was declared dead, and {}:2380 answers", n3.address());
    assert!(fenced.stderr.contains(&said), "{fenced}");
    let plan = field::printed(&fenced.stderr, "go back:");
    let plan: Vec<&str> = plan.iter().map(String::as_str).collect();
    field.run(&plan).await.expect(0);
    cluster.wait_healthy().await.unwrap();
    assert_eq!(content(&cluster).await.0, saved);
    assert_eq!(members(&cluster).await, before);

    // Now it is gone: two members are brought back without it.
    n3.check(["systemctl", "stop", "etcd.service"]).await.unwrap();
    let done = field.run(&args).await.expect(0);
    assert!(done.stderr.contains("n3 is declared dead and left out"), "{done}");
    assert_eq!(members(&cluster).await.len(), 2);
    let found = hashes(&cluster, 2).await;
    assert_eq!(found[0], found[1]);

    // It comes back: it is no member, and is not taken for dead any more.
    n3.check(["systemctl", "start", "ssh.service"]).await.unwrap();
    let refused = field.run(&args).await.expect(2);
    assert!(refused.stderr.contains("n3 was declared dead, and answers"), "{refused}");
}
