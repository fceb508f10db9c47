//! Plans on real hosts that are cut short at a step that a seed draws: the program is
//! killed, told to end at once, or loses a node; from the journals it goes on or back, and
//! the cluster is what was returned to or what there was, byte for byte and key for key.
//!
//! `ETCDVAULT_TEST_SEED` draws others; `make test-all` cuts at every step.

#![allow(clippy::print_stderr)]

#[path = "common/field.rs"]
mod field;

use std::collections::BTreeMap;

use etcd_client::GetOptions;
use field::{Field, pictures, same};
use harness::hosts::etcd::{EtcdHosts, Kind};
use rustix::process::Signal;
use serde_json::Value;

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const SEED: u64 = 41;

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Configuration,
    Data,
    Cluster,
}

#[derive(Debug, Clone, Copy)]
enum Trouble {
    Killed,
    EndsAtOnce,
    /// Nothing passes to and from the node of this place.
    Loses(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    GoesOn,
    GoesBack,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    operation: Operation,
    /// Steps that are done before.
    after: usize,
    trouble: Trouble,
    then: Then,
}

/// What can be compared before and after.
struct Seen {
    files: Vec<Vec<String>>,
    keys: BTreeMap<Vec<u8>, Vec<u8>>,
}

struct World {
    cluster: EtcdHosts,
    field: Field,
    /// The saved state, with data.
    state: String,
    /// As they were saved.
    good: Seen,
    /// As they are before each case.
    changed: Seen,
    /// The files of then, and members are told that their cluster exists.
    aligned: Vec<Vec<String>>,
}

impl World {
    async fn new() -> Self {
        let cluster = EtcdHosts::start(Kind::Unit, 3).await.unwrap();
        let field = Field::of(cluster.hosts(), &NODES).await;
        put(&cluster, "saved", 40).await;
        let saved = field.run(&["state", "save", "--with-data", "--json"]).await.expect(0).json();
        let state = saved["id"].as_str().unwrap().to_owned();
        let good = seen(&cluster).await;
        put(&cluster, "later", 20).await;
        edit(&cluster, "1i # changed").await;
        let changed = seen(&cluster).await;
        assert!(good.keys != changed.keys && good.files != changed.files);
        edit(&cluster, "s/--initial-cluster-state=new/--initial-cluster-state=existing/").await;
        let aligned = seen(&cluster).await.files;
        edit(&cluster, "s/--initial-cluster-state=existing/--initial-cluster-state=new/").await;
        assert!(aligned != changed.files && seen(&cluster).await.files == changed.files);
        Self { cluster, field, state, good, changed, aligned }
    }

    fn command(&self, operation: Operation) -> Vec<&str> {
        let state = self.state.as_str();
        match operation {
            Operation::Configuration => vec!["state", "return", state, "--no-save"],
            Operation::Data => vec!["state", "return", state, "--only", "data", "--no-save"],
            Operation::Cluster => vec!["restore", "cluster", state, "--no-save"],
        }
    }

    /// How many steps its plan has.
    async fn steps(&self, operation: Operation) -> usize {
        let command = [&self.command(operation)[..], &["--dry-run", "--json"]].concat();
        let plan = self.field.run(&command).await.expect(0).json();
        let stages = plan["stages"].as_array().unwrap();
        let steps = stages.iter().map(|stage| stage["steps"].as_array().unwrap().len()).sum();
        assert!(steps >= 4, "{plan}");
        steps
    }

    async fn play(&self, case: Case) {
        eprintln!("{case:?}");
        let mut run = self.field.start(&[&self.command(case.operation)[..], &["--yes"]].concat());
        let mut done = 0;
        while done < case.after && run.until_step().await {
            done += 1;
        }
        match case.trouble {
            Trouble::Killed => run.signal(Signal::KILL),
            Trouble::EndsAtOnce => {
                run.signal(Signal::INT);
                run.signal(Signal::INT);
            }
            Trouble::Loses(place) => self.cluster.hosts().host(place).link_down().unwrap(),
        }
        let (status, said) = run.end().await;
        if let Trouble::Loses(place) = case.trouble {
            self.cluster.hosts().host(place).link_up().unwrap();
        }
        let (id, ending) = self.field.plans().await.into_iter().next().unwrap();
        // It may have come to its end before it noticed.
        assert!(!status.success() || !ending.is_null(), "{case:?}: {said}");
        if case.then == Then::GoesOn {
            if !status.success() {
                self.field.run(&["resume", &id, "--take-over-lock"]).await.expect(0);
            }
            let good = &self.good;
            let is_files = case.operation == Operation::Configuration;
            let files = match case.operation {
                Operation::Configuration => &good.files,
                Operation::Data => &self.changed.files,
                Operation::Cluster => &self.aligned,
            };
            let keys = if is_files { &self.changed.keys } else { &good.keys };
            self.is("gone on", files, keys).await;
        }
        self.field.run(&["rollback", &id, "--take-over-lock"]).await.expect(0);
        self.is("gone back", &self.changed.files, &self.changed.keys).await;
    }

    /// Files and keys are these, on every node; all members hold the same and take writes.
    async fn is(&self, when: &str, files: &[Vec<String>], keys: &BTreeMap<Vec<u8>, Vec<u8>>) {
        self.cluster.wait_healthy().await.unwrap();
        let now = seen(&self.cluster).await;
        same(when, files, &now.files);
        assert!(now.keys == *keys, "{when}: {} keys of {}", now.keys.len(), keys.len());
        let mut hashes = Vec::new();
        for place in 0..NODES.len() {
            // A read through the leader: what is hashed then is as new as the leader's.
            self.cluster.etcdctl(place, ["get", "/registry/saved/0000"]).await.unwrap();
            let said = self.cluster.etcdctl(place, ["endpoint", "hashkv", "-w", "json"]).await;
            let said: Value = serde_json::from_str(&said.unwrap()).unwrap();
            hashes.push(said.pointer("/0/HashKV/hash").and_then(Value::as_u64).unwrap());
        }
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{when}: {hashes:?}");
        for host in self.cluster.members() {
            for (ask, wanted) in [("is-active", "active"), ("is-enabled", "enabled")] {
                let said = host.check(["systemctl", ask, "etcd.service"]).await.unwrap();
                assert_eq!(said.trim(), wanted, "{when}: {}", host.name());
            }
        }
    }
}

/// Edits the file with the settings of each member, which are read at its next start.
async fn edit(cluster: &EtcdHosts, script: &str) {
    for host in cluster.members() {
        host.check(["sed", "-i", script, Kind::Unit.settings_file()]).await.unwrap();
        host.check(["systemctl", "daemon-reload"]).await.unwrap();
    }
}

async fn put(cluster: &EtcdHosts, prefix: &str, count: u32) {
    let mut client = cluster.client().await.unwrap();
    for number in 0..count {
        client.put(format!("/registry/{prefix}/{number:04}"), "x".repeat(64), None).await.unwrap();
    }
}

async fn seen(cluster: &EtcdHosts) -> Seen {
    let roots = ["/etc/etcd", "/etc/systemd/system"];
    let files = pictures(cluster.members(), &roots).await;
    let mut client = cluster.client().await.unwrap();
    let all = GetOptions::new().with_all_keys();
    let answer = client.get(b"\0".to_vec(), Some(all)).await.unwrap();
    let keys = answer.kvs().iter().map(|kv| (kv.key().to_vec(), kv.value().to_vec()));
    Seen { files, keys: keys.collect() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_of_stops() {
    let seed = std::env::var("ETCDVAULT_TEST_SEED");
    let seed = seed.map_or(SEED, |text| text.parse().expect("a number"));
    eprintln!("ETCDVAULT_TEST_SEED={seed}");
    let mut random = Random(seed);
    let world = World::new().await;
    for operation in [Operation::Configuration, Operation::Data, Operation::Cluster] {
        let after = 1 + random.below(world.steps(operation).await);
        let trouble = [Trouble::Killed, Trouble::EndsAtOnce][random.below(2)];
        let then = [Then::GoesOn, Then::GoesBack][random.below(2)];
        world.play(Case { operation, after, trouble, then }).await;
    }
}

async fn every_stop(operation: Operation) {
    let world = World::new().await;
    for after in 1..=world.steps(operation).await {
        let trouble = match after % 3 {
            0 => Trouble::EndsAtOnce,
            1 => Trouble::Killed,
            _ => Trouble::Loses(after / 3 % NODES.len()),
        };
        let then = if after % 2 == 0 { Then::GoesOn } else { Then::GoesBack };
        world.play(Case { operation, after, trouble, then }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-all runs it"]
async fn every_stop_of_a_return() {
    every_stop(Operation::Configuration).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-all runs it"]
async fn every_stop_of_a_return_of_data() {
    every_stop(Operation::Data).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-all runs it"]
async fn every_stop_of_a_restore() {
    every_stop(Operation::Cluster).await;
}
