//! `state return --only data` over simulated nodes passes everything that every operation
//! must pass: three members in units, and a control plane of static pods. What is built
//! there is built by the very restore, and every member is judged by what its database
//! holds.

#[path = "state_data/copied.rs"]
mod copied;
#[path = "common/node_places.rs"]
mod node_places;
#[path = "common/plan_matrix.rs"]
mod plan_matrix;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use etcdvault::datadir::hash::{Scan, ScanOptions, StreamScan};
use etcdvault::datadir::membership::Membership;
use etcdvault::node::sim::{SimNet, SimNode, Trouble};
use etcdvault::node::{ByteStream, Node, NodeErrorKind, NodeName};
use etcdvault::operation::content::StoredHash;
use etcdvault::operation::returning::data::{DataInputs, DataNode, MARGIN, Running, plan};
use etcdvault::operation::step::{Contents, How, MemberAnswer, NewMember, Step, World};
use etcdvault::operation::{Failure, FailureKind};
use etcdvault::plan::execute::{Outcome, RunError};
use etcdvault::plan::shell::as_shell;
use etcdvault::plan::{Place, Plan, PlanId, table};
use futures_util::StreamExt as _;
use plan_matrix::{Case, rollback_killed, troubled, twice_and_stopped};
use sha2::{Digest as _, Sha256};

const BACKUP: &str = "01JD2Y6Q000000000000000000";
const ID: &str = "01JD3A00000000000000000000";
const SNAPSHOT: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/scan/small"));
/// Revisions that the cluster served after the snapshot.
const LATER: i64 = 1764;

fn scan(bytes: &[u8]) -> Option<Scan> {
    let mut scan = StreamScan::new(ScanOptions { sha256: true, ..ScanOptions::default() });
    scan.write(bytes).ok()?;
    scan.finish().ok()
}

fn place(name: &str) -> Place {
    Place::new(name).unwrap()
}

fn sim(net: &SimNet, name: &str) -> SimNode {
    net.node(&NodeName::new(name).unwrap()).unwrap()
}

/// The vault in memory, and the members as their nodes have them.
#[derive(Debug)]
struct Reached {
    net: SimNet,
    names: Vec<&'static str>,
    saved: Mutex<BTreeMap<PlanId, String>>,
    /// Whose HashKV is said to be another.
    odd: Mutex<Option<&'static str>>,
}

fn data(name: &str) -> String {
    format!("/var/lib/etcd/{name}/member")
}

#[async_trait]
impl Contents for Reached {
    async fn content(&self, _: &str, _: &str, path: &str) -> Result<Vec<u8>, Failure> {
        panic!("{path} is no part of a return of data")
    }

    async fn save(&self, nodes: &[Place], plan: PlanId, data: bool) -> Result<String, Failure> {
        assert_eq!((nodes.len(), data), (self.names.len(), true));
        let id = format!("saved-for-{plan}");
        self.saved.lock().unwrap().insert(plan, id.clone());
        Ok(id)
    }

    async fn saved(&self, plan: PlanId) -> Result<Option<String>, Failure> {
        Ok(self.saved.lock().unwrap().get(&plan).cloned())
    }

    async fn snapshot(&self, backup: &str, _: &NodeName) -> Result<ByteStream, Failure> {
        assert_eq!(backup, BACKUP);
        let chunks = SNAPSHOT.chunks(4000).map(|part| Ok(bytes::Bytes::from_static(part)));
        Ok(futures_util::stream::iter(chunks.collect::<Vec<_>>()).boxed())
    }

    async fn copy(
        &self,
        backup: &str,
        node: &NodeName,
        from: &Path,
    ) -> Result<ByteStream, Failure> {
        assert_eq!(backup, BACKUP);
        let tar = &copied::COPIES[&(node.to_string(), from.to_owned())];
        let chunks = tar.chunks(30_000).map(|part| Ok(bytes::Bytes::from_static(part)));
        Ok(futures_util::stream::iter(chunks.collect::<Vec<_>>()).boxed())
    }

    async fn members(&self, revision: i64) -> Result<Vec<MemberAnswer>, Failure> {
        let mut answers = Vec::new();
        for name in &self.names {
            let node = sim(&self.net, name);
            let database = node.bytes(&format!("{}/snap/db", data(name)));
            let Some(scan) = database.filter(|_| node.runs("etcd")).and_then(|it| scan(&it)) else {
                continue;
            };
            let member = scan.content.members.iter().find(|member| member.name == *name);
            let Some(member) = member else { continue };
            let urls =
                scan.content.members.iter().map(|it| format!("{}={}", it.name, it.peer_urls[0]));
            let urls = urls.collect::<Vec<_>>().join(",");
            let cluster = Membership::from_initial_cluster(&urls, &format!("etcdvault-{ID}"));
            // As of a running cluster: 0 asks for what all have.
            let revision = if revision == 0 { scan.revision } else { revision };
            let hash = scan.hash_kv(revision, scan.content.compact_revision());
            let odd = *self.odd.lock().unwrap() == Some(*name);
            let hash = hash.map(|hash| if odd { !hash } else { hash });
            answers.push(MemberAnswer {
                name: (*name).to_owned(),
                id: format!("{:x}", member.id),
                cluster: format!("{:x}", cluster.unwrap().cluster_id()),
                revision: scan.revision,
                hash_kv: hash.ok(),
                hashed_at: revision,
                why: None,
            });
        }
        match answers.is_empty() {
            true => Err(Failure::new(FailureKind::Etcd, "no member answers")),
            false => Ok(answers),
        }
    }

    async fn write(&self) -> Result<(), Failure> {
        let up = self.names.iter().filter(|name| sim(&self.net, name).runs("etcd")).count();
        match up > self.names.len() / 2 {
            true => Ok(()),
            false => Err(Failure::new(FailureKind::Etcd, "there is no quorum")),
        }
    }
}

fn inputs(nodes: Vec<DataNode>) -> DataInputs {
    let scan = scan(SNAPSHOT).unwrap();
    let compact_revision = scan.content.compact_revision();
    DataInputs {
        id: ID.parse().unwrap(),
        made: "2026-11-21T07:00:00Z".parse().unwrap(),
        cluster: "prod".into(),
        backup: BACKUP.into(),
        taken: "2026-11-21T06:00:00Z".parse().unwrap(),
        size: SNAPSHOT.len() as u64,
        sha256: Sha256::digest(SNAPSHOT).iter().map(|byte| format!("{byte:02x}")).collect(),
        hash_kv: Some(StoredHash {
            revision: scan.revision,
            compact_revision: compact_revision.unwrap_or(-1),
            hash: scan.hash_kv(scan.revision, compact_revision).unwrap(),
        }),
        revision: scan.revision,
        served: Some(scan.revision + LATER),
        etcd_version: Some("3.6.0".into()),
        nodes,
        keepers: vec![],
        leader: Some(place("k1")),
        save: true,
        facts: vec![],
    }
}

fn node(name: &str, number: u8, owner: u32, had: bool, how: How) -> DataNode {
    let data_dir = format!("/var/lib/etcd/{name}");
    DataNode {
        member: NewMember {
            node: place(name),
            name: name.to_owned(),
            id: String::new(),
            data_dir: data_dir.into(),
            wal_dir: None,
            owner: (owner, owner),
            has_data_dir: had,
            missing: vec![],
            had,
            had_wal: false,
        },
        peer_urls: vec![format!("http://10.0.0.{number}:2380")],
        etcd: Running { how, runs: had, healthy: had },
        api_server: None,
    }
}

fn finish(net: SimNet, names: Vec<&'static str>, plan: Plan<Step>) -> Case<Step, World> {
    let nodes =
        names.iter().map(|name| ((*name).to_owned(), Arc::new(sim(&net, name)) as Arc<dyn Node>));
    let nodes = nodes.collect();
    let (saved, odd) = (Mutex::default(), Mutex::default());
    let contents = Arc::new(Reached { net: net.clone(), names, saved, odd });
    let world = Arc::new(World { nodes, contents: Some(contents) });
    Case { net, world, plan }
}

/// The same with a member that says that it holds something else.
fn with_odd(mut case: Case<Step, World>, odd: &'static str) -> Case<Step, World> {
    let names = vec!["k1", "k2", "k3"];
    let contents = Reached {
        net: case.net.clone(),
        names,
        saved: Mutex::default(),
        odd: Mutex::new(Some(odd)),
    };
    let nodes = case.world.nodes.clone();
    case.world = Arc::new(World { nodes, contents: Some(Arc::new(contents)) });
    case
}

const UNIT: &str = "/etc/systemd/system/etcd.service";

/// Three members in units that start at boot. The third one's data is gone, and it does
/// not run.
fn units() -> Case<Step, World> {
    members(false, false)
}

/// The same with all three up: a boot of one that is down would make it a blank member.
fn all_up() -> Case<Step, World> {
    members(true, false)
}

/// The same as the first with logs outside of the data directories.
fn apart() -> Case<Step, World> {
    members(false, true)
}

/// And all three up.
fn apart_all_up() -> Case<Step, World> {
    members(true, true)
}

/// Where the logs of [`apart`] are.
fn log(name: &str) -> String {
    format!("/var/log/etcd/{name}/wal")
}

fn members(all: bool, apart: bool) -> Case<Step, World> {
    let (net, names, nodes) = nodes(all, if apart { &["k1", "k2", "k3"] } else { &[] });
    let plan = plan(&inputs(nodes)).unwrap();
    finish(net, names, plan)
}

/// Three nodes; the log of those in `apart` lies outside of the data directory.
fn nodes(all: bool, apart: &[&str]) -> (SimNet, Vec<&'static str>, Vec<DataNode>) {
    let net = SimNet::new();
    let names = vec!["k1", "k2", "k3"];
    let mut nodes = Vec::new();
    for (number, name) in (1u8..).zip(&names) {
        let sim = net.add(&NodeName::new(*name).unwrap());
        let had = all || *name != "k3";
        sim.user("etcd", 7).owned_dir("/var/lib/etcd", 7, 0o700);
        let text = format!(
            "[Service]\nUser=etcd\nExecStart=/usr/bin/etcd --name {name} --data-dir \
             /var/lib/etcd/{name}\n"
        );
        sim.file(UNIT, &text, 0, 0o644);
        sim.link("/etc/systemd/system/multi-user.target.wants/etcd.service", UNIT);
        if had {
            sim.power_off().power_on();
        }
        let mut node = node(name, number, 7, had, How::BootUnit { unit: "etcd.service".into() });
        if apart.contains(name) {
            sim.owned_dir(&format!("/var/log/etcd/{name}"), 7, 0o700);
            node.member.wal_dir = Some(log(name).into());
            node.member.had_wal = had;
            if had {
                sim.owned_dir(&log(name), 7, 0o700);
                sim.file(&format!("{}/0.wal", log(name)), "wal: old", 7, 0o600);
            }
        }
        nodes.push(node);
    }
    (net, names, nodes)
}

const ETCD: &str = "/etc/kubernetes/manifests/etcd.yaml";
const API: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml";

/// A control plane of static pods.
fn pods() -> Case<Step, World> {
    let net = SimNet::new();
    let sim = net.add(&NodeName::new("k1").unwrap());
    let manifest = |name: &str, flag: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: kube-system\nspec:\n  \
             containers:\n  - name: {name}\n    image: registry/{name}:1\n    command:\n    - \
             {name}\n    - {flag}\n"
        )
    };
    sim.file("/var/lib/etcd/k1/member/snap/db", "db: old", 0, 0o600);
    sim.file("/var/lib/etcd/k1/member/wal/0.wal", "wal: old", 0, 0o600);
    sim.file(ETCD, &manifest("etcd", "--data-dir=/var/lib/etcd/k1"), 0, 0o600);
    sim.file(API, &manifest("kube-apiserver", "--secure-port=6443"), 0, 0o600);
    sim.kubelet();
    sim.power_off().power_on();
    let pod = |manifest: &str, ports: Vec<u16>| {
        let aside = manifest.replace("/manifests/", "/manifests/.") + ".etcdvault";
        How::Pod { manifest: manifest.into(), aside: aside.into(), ports }
    };
    let mut one = node("k1", 1, 0, true, pod(ETCD, vec![2379]));
    let api = Running { how: pod(API, vec![6443]), runs: true, healthy: true };
    one.api_server = Some((api, vec![6443]));
    let plan = plan(&inputs(vec![one])).unwrap();
    finish(net, vec!["k1"], plan)
}

fn texts(plan: &Plan<Step>) -> Vec<String> {
    let row = |row: &table::Row| {
        let nodes: Vec<&str> = row.nodes.iter().map(Place::as_str).collect();
        format!("{} {}: {}", row.number, nodes.join(","), row.what)
    };
    table::rows(plan).iter().map(row).collect()
}

fn fact<'a>(plan: &'a Plan<Step>, name: &str) -> &'a str {
    &plan.facts.iter().find(|fact| fact.name == name).unwrap().text
}

/// Row 23: all members hold what the snapshot held, under a revision above all that was
/// served, and the data of before lies beside it.
#[tokio::test(start_paused = true)]
async fn every_member_holds_what_the_snapshot_held() {
    let case = units();
    let was = scan(SNAPSHOT).unwrap();
    let revision = was.revision + LATER + MARGIN as i64;
    assert_eq!(
        texts(&case.plan),
        [
            "1 k1,k2,k3: save the present state and data to the vault",
            &format!("2 k1,k2,k3: build the data directory of {BACKUP} beside the present one"),
            "3 k3: disable etcd.service",
            "4 k2,k1: stop etcd; wait until it is gone",
            "5 k1,k2,k3: set the present data aside, put what was built in its place",
            "6 k2,k3,k1: start etcd; wait until it is ready",
            &format!(
                "7 k1,k2,k3: compare members, HashKV and revision {revision} on all; write \
                 something"
            ),
        ]
    );
    assert_eq!(
        fact(&case.plan, "Lost"),
        "everything written after 2026-11-21 06:00:00 UTC: 1764 revisions"
    );
    assert!(case.plan.last_free_return.is_none());
    let old = sim(&case.net, "k1").bytes(&format!("{}/snap/db", data("k1"))).unwrap();
    let report = case.plain().execute(&case.plan).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    let hash: u32 = report.outputs["hash-kv"].parse().unwrap();
    let mut ids = Vec::new();
    for name in ["k1", "k2", "k3"] {
        let node = sim(&case.net, name);
        let found = scan(&node.bytes(&format!("{}/snap/db", data(name))).unwrap()).unwrap();
        assert!(found.is_sound(), "{:?}", found.problems);
        assert_eq!(found.revision, revision);
        assert_eq!(found.hash_kv(revision, Some(revision)).unwrap(), hash);
        assert_eq!(found.live_keys, was.live_keys + 1, "the empty key stands at the revision");
        ids = found.content.members.iter().map(|member| member.name.clone()).collect();
        let unit = node.unit("etcd.service").await.unwrap().unwrap();
        assert_eq!((&*unit.active_state, &*unit.file_state), ("active", "enabled"));
        let entry = node.stat(format!("{}/snap/db", data(name)).as_ref()).await.unwrap().unwrap();
        assert_eq!((entry.attributes.uid, entry.attributes.mode), (7, 0o600));
        let kept = node.bytes(&format!("{}.before-{ID}/snap/db", data(name)));
        assert_eq!(kept.is_some(), name != "k3");
        assert!(name != "k1" || kept.as_ref() == Some(&old));
        assert!(node.stat(format!("{}.new-{ID}", data(name)).as_ref()).await.unwrap().is_none());
    }
    ids.sort();
    assert_eq!(ids, ["k1", "k2", "k3"]);
}

/// Rolled back, the data of before is there again, and what was written to the returned
/// data in between is kept.
#[tokio::test(start_paused = true)]
async fn a_rollback_keeps_what_was_written_meanwhile() {
    let case = units();
    let start = case.snapshot().await;
    let report = case.plain().execute(&case.plan).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    let node = sim(&case.net, "k2");
    node.file(&format!("{}/wal/more", data("k2")), "written later", 7, 0o600);
    let report = case.plain().rollback::<Step>(case.plan.id).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    let kept = format!("{}.returned-{ID}", data("k2"));
    assert_eq!(node.text(&format!("{kept}/wal/more")).as_deref(), Some("written later"));
    let now = case.snapshot().await;
    let rest: Vec<&String> = now.iter().filter(|line| !line.contains(".returned-")).collect();
    assert_eq!(rest, start.iter().collect::<Vec<_>>());
}

/// What a member holds is looked at, not assumed: another store ends the plan.
#[tokio::test(start_paused = true)]
async fn a_member_with_another_store_is_found() {
    let mut case = units();
    for stage in &mut case.plan.stages {
        for step in &mut stage.steps {
            if let Step::CheckData { members, .. } = step {
                members[1].id = "abc".into();
            }
        }
    }
    let report = case.plain().execute(&case.plan).await.unwrap();
    let Outcome::Failed(failures) = &report.outcome else { panic!("{:?}", report.outcome) };
    let details = failures[0].error.details.join("\n");
    assert!(details.contains("member abc does not answer"), "{details}");
    assert!(details.contains("is none of its members"), "{details}");
}

/// A backup that is not what its manifest says is found on the node, before anything is
/// stopped.
#[tokio::test(start_paused = true)]
async fn a_damaged_snapshot_stops_nothing() {
    let mut case = units();
    for stage in &mut case.plan.stages {
        for step in &mut stage.steps {
            if let Step::BuildData { cluster, .. } = step {
                cluster.sha256 = "0".repeat(64);
            }
        }
    }
    let start = case.snapshot().await;
    let run = async |name| {
        let unit = sim(&case.net, name).unit("etcd.service").await.unwrap().unwrap();
        (unit.invocation, unit.active_state, unit.file_state)
    };
    let before = (run("k1").await, run("k2").await);
    let report = case.plain().execute(&case.plan).await.unwrap();
    assert!(format!("{:?}", report.outcome).contains("digest"), "{:?}", report.outcome);
    assert_eq!((run("k1").await, run("k2").await), before);
    let report = case.plain().rollback::<Step>(case.plan.id).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    assert_eq!(case.snapshot().await, start);
}

/// A log that lies elsewhere is built, swapped, kept and brought back with its database.
#[tokio::test(start_paused = true)]
async fn a_log_outside_of_the_data_directory_goes_with_it() {
    let case = apart();
    let start = case.snapshot().await;
    let report = case.plain().execute(&case.plan).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    let at = async |name: &str, path: String| {
        let entries = sim(&case.net, name).list(path.as_ref()).await;
        let entries = entries.unwrap_or_default().into_iter();
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        entries.map(|entry| name(&entry.path)).collect::<Vec<_>>()
    };
    for name in ["k1", "k2", "k3"] {
        let built = at(name, log(name)).await;
        assert!(built.iter().any(|file| file.ends_with(".wal") && file != "0.wal"), "{built:?}");
        let inside = at(name, data(name)).await;
        assert_eq!(inside, ["snap"], "its log is not in the data directory");
        let kept = at(name, format!("{}.before-{ID}", log(name))).await;
        assert_eq!(kept, if name == "k3" { vec![] } else { vec!["0.wal"] });
        let entry = sim(&case.net, name).stat(log(name).as_ref()).await.unwrap().unwrap();
        assert_eq!((entry.attributes.uid, entry.attributes.mode), (7, 0o700));
    }
    let report = case.plain().rollback::<Step>(case.plan.id).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    assert_eq!(case.snapshot().await, start);
    assert_eq!(at("k1", log("k1")).await, ["0.wal"]);
}

fn by_hand(plan: &Plan<Step>) -> Vec<String> {
    let script = as_shell(plan, &|place| format!("op@{place}.example"));
    let checked = std::process::Command::new("sh").args(["-n", "-c", &script]).status().unwrap();
    assert!(checked.success(), "{script}");
    script.lines().map(str::to_owned).collect()
}

fn position(lines: &[String], wanted: &str) -> usize {
    let found = lines.iter().position(|line| line.contains(wanted));
    found.unwrap_or_else(|| panic!("{wanted:?} in {}", lines.join("\n")))
}

/// What is printed to be typed: nothing waits for what is typed later, nothing is moved
/// under what still runs, and no copy in plain text is left behind.
#[tokio::test(start_paused = true)]
async fn what_is_printed_can_be_typed_in_this_order() {
    let lines = by_hand(&all_up().plan);
    let count = |wanted: &str| lines.iter().filter(|line| line.contains(wanted)).count();
    assert_eq!(count("etcdvault export"), 1);
    assert_eq!(count(&format!("scp {BACKUP}.db op@k2.example:/root/{BACKUP}.db")), 1);
    assert_eq!(
        (count(&format!("rm /root/{BACKUP}.db")), count(&format!("rm {BACKUP}.db"))),
        (3, 1)
    );
    assert_eq!(count("etcdutl snapshot restore"), 3);
    assert_eq!(count("--bump-revision"), 3);
    let last = lines.iter().rposition(|line| line == "systemctl start --no-block etcd.service");
    assert!(last.unwrap() < position(&lines, "systemctl is-active"), "a member waits for others");
    assert_eq!(count("systemctl is-active"), 3);
    assert!(
        position(&lines, "systemctl disable --now") < position(&lines, "member.before-by-hand")
    );

    // A log elsewhere is built elsewhere, and moved before the database.
    let lines = by_hand(&apart().plan);
    let wal = log("k1");
    let restore = &lines[position(&lines, "etcdutl snapshot restore")];
    assert!(restore.contains(&format!("--wal-dir {wal}.new-by-hand")), "{restore}");
    let moved = [
        format!("mv -nT {wal} {wal}.before-by-hand"),
        format!("mv -nT {wal}.new-by-hand {wal}"),
        "mv -nT /var/lib/etcd/k1/member /var/lib/etcd/k1/member.before-by-hand".to_owned(),
        "mv -nT /var/lib/etcd/k1/member.new-by-hand /var/lib/etcd/k1/member".to_owned(),
    ];
    let places: Vec<usize> = moved.iter().map(|line| position(&lines, line)).collect();
    assert!(places.is_sorted(), "{places:?}");
    assert!(lines[position(&lines, "chown -R")].ends_with(&format!(" {wal}.new-by-hand")));
    // One that is gone has nothing to be kept, and a directory to be made.
    assert!(!lines.iter().any(|line| line.contains("k3/member.before")));
    position(&lines, "install -d -m 0700 -o 7 -g 7 /var/lib/etcd/k3");

    // Who goes on after a pod was taken out waits until it is gone.
    let lines = by_hand(&pods().plan);
    for (manifest, words) in [(API, "wait kube-apiserver 6443"), (ETCD, "wait etcd 2379")] {
        let out = position(&lines, &format!("mv -nT {manifest} "));
        assert!(lines[out + 1].contains("crictl ps -q"), "{}", lines[out + 1]);
        assert!(lines[out + 1].ends_with(words), "{}", lines[out + 1]);
        let back = position(&lines, &format!(".etcdvault {manifest}"));
        assert!(lines[back + 1].contains("crictl ps -q"), "{}", lines[back + 1]);
    }

    // Programs of etcd's that have no etcdutl, or cannot raise revisions.
    let restore = |version: &str| {
        let mut case = pods();
        for stage in &mut case.plan.stages {
            for step in &mut stage.steps {
                if let Step::BuildData { cluster, .. } = step {
                    cluster.etcd_version = Some(version.to_owned());
                }
            }
        }
        let lines = by_hand(&case.plan);
        let at = position(&lines, "snapshot restore");
        (lines[at - 1].clone(), lines[at].clone())
    };
    for (version, program, bumps) in [
        ("3.4.23", "env 'ETCDCTL_API=3' etcdctl snapshot", false),
        ("3.4.27", "env 'ETCDCTL_API=3' etcdctl snapshot", true),
        ("3.5.9", "etcdutl snapshot", false),
        ("3.5.16", "etcdutl snapshot", true),
        ("3.6.0", "etcdutl snapshot", true),
    ] {
        let (before, line) = restore(version);
        assert!(line.starts_with(program), "{version}: {line}");
        assert_eq!(line.contains("--bump-revision"), bumps, "{version}: {line}");
        assert_eq!(before.contains("cannot raise the revision"), !bumps, "{version}: {before}");
    }
}

/// A member that holds another store than what was built ends the plan at once, and so
/// does one that never says what it holds, after a while.
#[tokio::test(start_paused = true)]
async fn another_hash_at_the_end_is_found() {
    let case = with_odd(units(), "k2");
    let report = case.plain().execute(&case.plan).await.unwrap();
    let Outcome::Failed(failures) = &report.outcome else { panic!("{:?}", report.outcome) };
    let details = &failures[0].error.details;
    assert_eq!(details.len(), 1, "{details:?}");
    assert!(details[0].starts_with("k2 has HashKV "), "{details:?}");
    assert!(details[0].ends_with(&format!(", and not {}", report.outputs["hash-kv"])));
    let report = case.plain().rollback::<Step>(case.plan.id).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
}

/// Once the API servers start again there is no way back by undoing.
#[tokio::test(start_paused = true)]
async fn api_servers_stop_first_and_end_the_way_back() {
    let case = pods();
    let what: Vec<String> =
        texts(&case.plan).iter().map(|row| row.split(';').next().unwrap().to_owned()).collect();
    assert_eq!(what[2], "3 k1: stop kube-apiserver");
    assert_eq!(what[3], "4 k1: stop etcd");
    assert_eq!(what[5], "6 k1: start etcd");
    assert_eq!(what[7], "8 k1: start kube-apiserver");
    assert_eq!(case.plan.last_free_return.as_ref().unwrap().before_stage, 8);
    let report = case.plain().execute(&case.plan).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    let refused = case.plain().rollback::<Step>(case.plan.id).await.unwrap_err();
    assert!(matches!(refused, RunError::BeyondReturn { .. }), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn units_and_pods_pass_each_step_twice_and_ctrl_c() {
    for build in [units, pods, apart] {
        twice_and_stopped(build, 6).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_apart_killed_failed_and_cut_off_at_each_call() {
    for trouble in [Trouble::Freeze, Trouble::Fail(NodeErrorKind::Other), Trouble::Cut] {
        troubled(apart, trouble).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_apart_powered_off_at_each_call() {
    troubled(apart_all_up, Trouble::PowerOff).await;
}

#[tokio::test(start_paused = true)]
async fn units_killed_at_each_call() {
    troubled(units, Trouble::Freeze).await;
}

#[tokio::test(start_paused = true)]
async fn units_failed_at_each_call() {
    troubled(units, Trouble::Fail(NodeErrorKind::Other)).await;
}

#[tokio::test(start_paused = true)]
async fn units_cut_off_at_each_call() {
    troubled(units, Trouble::Cut).await;
}

#[tokio::test(start_paused = true)]
async fn units_late_at_each_call() {
    troubled(units, Trouble::Hang).await;
}

#[tokio::test(start_paused = true)]
async fn units_powered_off_at_each_call() {
    troubled(all_up, Trouble::PowerOff).await;
}

#[tokio::test(start_paused = true)]
async fn pods_killed_at_each_call() {
    troubled(pods, Trouble::Freeze).await;
}

#[tokio::test(start_paused = true)]
async fn pods_powered_off_at_each_call() {
    troubled(pods, Trouble::PowerOff).await;
}

#[tokio::test(start_paused = true)]
async fn a_rollback_killed_at_each_call() {
    for build in [units, pods, apart] {
        rollback_killed(build).await;
    }
}
