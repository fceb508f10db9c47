//! `recover cluster` on three real hosts, Debian 13's etcd 3.5 with TLS: two data
//! directories are gone, the third has entries that nobody else ever had, and what the
//! runbook tells a person to type brings all of it back to three members.

#[path = "common/field.rs"]
mod field;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions, GetOptions};
use field::{Field, told};
use harness::etcd::tls_options;
use harness::hosts::etcd::{EtcdHosts, Kind};
use serde_json::Value;

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const KIND: Kind = Kind::Debian13;
/// Until something happens that happens at once on a machine with nothing else to do.
const BOUND: Duration = Duration::from_secs(120);
/// The leader is made to write what nobody else has so often, at most.
const TRIES: usize = 5;

/// Lets only the leader have data, whole and running; its place.
async fn alone(cluster: &EtcdHosts) -> usize {
    let place = leader(cluster).await;
    let others: Vec<usize> = (0..3).filter(|&other| other != place).collect();
    on(cluster, &others, "stop").await;
    for other in others {
        let data = cluster.kind().data_dir();
        cluster.hosts().host(other).check(["rm", "-r", data]).await.unwrap();
    }
    no_leader(cluster, place).await;
    place
}

/// Waits until a member finds that it leads nobody: within an election's time.
async fn no_leader(cluster: &EtcdHosts, place: usize) {
    let start = Instant::now();
    while status(cluster, place).await["leader"].as_u64().is_some_and(|leader| leader != 0) {
        assert!(start.elapsed() < BOUND, "it leads without followers");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn status(cluster: &EtcdHosts, place: usize) -> Value {
    let said = cluster.etcdctl(place, ["endpoint", "status", "-w", "json"]).await.unwrap();
    let said: Value = serde_json::from_str(&said).unwrap();
    said.pointer("/0/Status").unwrap().clone()
}

/// The place of the leader, which all follow.
async fn leader(cluster: &EtcdHosts) -> usize {
    let start = Instant::now();
    loop {
        for place in 0..3 {
            let status = status(cluster, place).await;
            let id = |path: &str| status.pointer(path).and_then(Value::as_u64);
            if id("/leader") == id("/header/member_id") {
                return place;
            }
        }
        assert!(start.elapsed() < BOUND, "nobody leads");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A client of one member.
async fn client(cluster: &EtcdHosts, place: usize) -> Client {
    let tls = cluster.tls().unwrap();
    let options = ConnectOptions::new().with_tls(tls_options(&tls.ca, Some(&tls.client)).unwrap());
    Client::connect([&cluster.endpoints()[place]], Some(options)).await.unwrap()
}

async fn keys(cluster: &EtcdHosts, prefix: &str) -> BTreeMap<String, String> {
    let mut client = cluster.client().await.unwrap();
    let all = GetOptions::new().with_prefix();
    let answer = client.get(prefix, Some(all)).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    answer.kvs().iter().map(|kv| (text(kv.key()), text(kv.value()))).collect()
}

async fn on(cluster: &EtcdHosts, places: &[usize], what: &str) {
    let acts = places.iter().map(|&place| {
        let host = cluster.hosts().host(place);
        async move { host.check(["systemctl", what, "etcd.service"]).await }
    });
    for done in futures_util::future::join_all(acts).await {
        done.unwrap();
    }
}

/// What is left, as the program sees it.
async fn look(field: &Field) -> Value {
    let args = ["recover", "cluster", "--dry-run", "--force", "--json", "--command-timeout", "5s"];
    field.run(&args).await.expect(0).json()
}

/// Stops all members but the leader while it is written to, until its log has entries
/// that were never acknowledged. Returns its place, and the keys that were.
async fn cut_off(cluster: &EtcdHosts, field: &Field) -> (usize, BTreeSet<String>) {
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    for number in 0..TRIES {
        let place = leader(cluster).await;
        let others: Vec<usize> = (0..3).filter(|&other| other != place).collect();
        let was = status(cluster, place).await;
        let before = was["raftIndex"].as_u64().unwrap();
        let known = acknowledged.lock().unwrap().len();
        let client = client(cluster, place).await;
        let told = acknowledged.clone();
        let writing = tokio::spawn(async move {
            for count in 0_u64.. {
                let (mut client, told) = (client.clone(), told.clone());
                tokio::spawn(async move {
                    let key = format!("/tail/{number}/{count:06}");
                    if client.put(key.as_str(), "1", None).await.is_ok() {
                        told.lock().unwrap().insert(key);
                    }
                });
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        on(cluster, &others, "stop").await;
        no_leader(cluster, place).await;
        writing.abort();
        let looked = look(field).await;
        let last = looked.pointer("/places/0/log/last_index").and_then(Value::as_u64).unwrap();
        let answered = (acknowledged.lock().unwrap().len() - known) as u64;
        // Where nobody else led meanwhile, it has all that was acknowledged. One entry may
        // be the cluster's own.
        let led = status(cluster, place).await["raftTerm"] == was["raftTerm"];
        if led && last > before + answered + 1 {
            let found = acknowledged.lock().unwrap().clone();
            return (place, found);
        }
        on(cluster, &others, "start").await;
        cluster.wait_healthy().await.unwrap();
    }
    panic!("the leader never had entries of its own");
}

/// Rows 5, 6 and 16, and of row 21 that the others come back.
#[tokio::test(flavor = "multi_thread")]
async fn row_5_a_lost_quorum_is_recovered_as_the_runbook_says() {
    let cluster = EtcdHosts::start(KIND, 3).await.unwrap();
    let mut field = Field::of(cluster.hosts(), &NODES).await;
    let tls = cluster.tls().unwrap();
    field.cli = field
        .cli
        .env("ETCDCTL_CACERT", &tls.ca)
        .env("ETCDCTL_CERT", &tls.client.cert)
        .env("ETCDCTL_KEY", &tls.client.key);
    let mut writer = cluster.client().await.unwrap();
    for number in 0..100 {
        writer.put(format!("/before/{number:03}"), "x".repeat(64), None).await.unwrap();
    }
    let before = keys(&cluster, "/before/").await;

    // With a leader nothing is done.
    let refused = field.run(&["recover", "cluster", "--yes"]).await.expect(1);
    assert!(refused.stderr.contains("the cluster has a quorum"), "{refused}");
    assert!(field.plans().await.is_empty());

    let (place, acknowledged) = cut_off(&cluster, &field).await;
    // The others could still be started.
    let refused = field.run(&["recover", "cluster", "--yes", "--command-timeout", "5s"]).await;
    assert!(refused.stderr.contains("a majority is there"), "{refused}");
    assert_eq!(refused.code, Some(1), "{refused}");
    for other in (0..3).filter(|&other| other != place) {
        cluster.hosts().host(other).check(["rm", "-r", KIND.data_dir()]).await.unwrap();
    }
    let looked = look(&field).await;
    let (name, log) = (NODES[place], looked.pointer("/places/0/log").unwrap().clone());
    assert_eq!(looked["from"], name, "{looked}");
    assert!(log["beyond_commit"].as_u64().unwrap() > 0, "{looked}");
    assert_eq!(looked.pointer("/places/0/running"), Some(&Value::Bool(true)), "{looked}");
    for other in 1..3 {
        let usable = looked.pointer(&format!("/places/{other}/usable"));
        assert_eq!(usable, Some(&Value::from("nothing")), "{looked}");
    }

    told(&field, cluster.hosts(), "docs/runbook/quorum-loss.md").await;
    cluster.wait_healthy().await.unwrap();
    assert_eq!(keys(&cluster, "/before/").await, before);
    let tail: BTreeSet<String> = keys(&cluster, "/tail/").await.into_keys().collect();
    let gone: Vec<&String> = acknowledged.difference(&tail).collect();
    assert!(gone.is_empty(), "acknowledged and lost: {gone:?}");
    assert!(tail.len() > acknowledged.len(), "what nobody acknowledged was dropped");

    // The backup is there, proven, and says whose remains it is of.
    let listed = field.run(&["list", "--json"]).await.expect(0).json();
    let backups = listed["backups"].as_array().unwrap();
    let made = backups.iter().find(|it| it.pointer("/labels/recovered-from").is_some()).unwrap();
    assert_eq!(made.pointer("/labels/recovered-from"), Some(&Value::from(name)), "{listed}");
    assert_eq!(made.pointer("/proof/state"), Some(&Value::from("proven")), "{listed}");
    // What the old members had lies beside; nothing of the copy does.
    let host = cluster.hosts().host(place);
    let said = host.check(["ls", "-A", KIND.data_dir()]).await.unwrap();
    let plan = field.plans().await[0].0.clone();
    let mut names: Vec<&str> = said.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["member", &format!("member.before-{plan}")], "{said}");
}

/// Taken back, there is no quorum as before; and it is recovered again, now from a member
/// that does not run, by the program that its unit names.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-all runs it"]
async fn row_5_a_recovery_is_taken_back_and_done_again() {
    let cluster = EtcdHosts::start(Kind::Unit, 3).await.unwrap();
    let field = Field::of(cluster.hosts(), &NODES).await;
    let mut writer = cluster.client().await.unwrap();
    for number in 0..20 {
        writer.put(format!("/before/{number:03}"), "1", None).await.unwrap();
    }
    let before = keys(&cluster, "/before/").await;
    let place = alone(&cluster).await;
    let args = ["recover", "cluster", "--yes", "--json"];
    let done = field.run(&args).await.expect(0).json();
    cluster.wait_healthy().await.unwrap();
    let mut writer = cluster.client().await.unwrap();
    writer.put("/later", "1", None).await.unwrap();

    let plan = done["plan"].as_str().unwrap();
    let ran = field.run(&["rollback", plan]).await;
    assert_eq!(ran.code, Some(0), "{ran}");
    let data = Kind::Unit.data_dir();
    let names = async |place: usize| {
        let said = cluster.hosts().host(place).check(["ls", "-A", data]).await.unwrap();
        let mut names: Vec<String> = said.lines().map(str::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(names(place).await, ["member", &format!("member.returned-{plan}")]);
    for other in (0..3).filter(|&other| other != place) {
        assert_eq!(names(other).await, [format!("member.returned-{plan}")]);
    }

    on(&cluster, &[place], "stop").await;
    let looked = look(&field).await;
    assert_eq!(looked.pointer("/places/0/running"), Some(&Value::Bool(false)), "{looked}");
    field.run(&args).await.expect(0);
    cluster.wait_healthy().await.unwrap();
    assert_eq!(keys(&cluster, "/before/").await, before);
    assert!(keys(&cluster, "/later").await.is_empty());
}
