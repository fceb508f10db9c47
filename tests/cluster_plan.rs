//! `restore cluster` over simulated nodes passes everything that every operation must
//! pass: members in units with an API server on a node of its own, all running or all
//! gone, and one node dead. What is built there is built by the very restore, and every
//! member is judged by what its database holds.

#[path = "common/node_places.rs"]
mod node_places;
#[path = "common/plan_matrix.rs"]
mod plan_matrix;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use etcdvault::datadir::hash::{Scan, ScanOptions, StreamScan};
use etcdvault::datadir::membership::Membership;
use etcdvault::datadir::remains::{LogEnding, LogRemains, Remains};
use etcdvault::node::sim::{SimNet, SimNode, Trouble};
use etcdvault::node::{ByteStream, MemberRemains, Node, NodeErrorKind, NodeName};
use etcdvault::operation::cluster::planner::{
    ApiNode, DeadNode, Inputs, Lost, Remnant, Save, bump, plan,
};
use etcdvault::operation::content::StoredHash;
use etcdvault::operation::returning::data::{DataNode, MARGIN, Running};
use etcdvault::operation::step::{Contents, How, Left, MemberAnswer, NewMember, Step, World};
use etcdvault::operation::{Failure, FailureKind};
use etcdvault::plan::execute::{Outcome, RunError};
use etcdvault::plan::{Place, Plan, PlanId, table};
use futures_util::StreamExt as _;
use plan_matrix::{Case, Then};
use sha2::{Digest as _, Sha256};

const BACKUP: &str = "01JD2Y6Q000000000000000000";
const ID: &str = "01JD3A00000000000000000000";
const SNAPSHOT: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/scan/small"));
const ETCD: &str = "/etc/systemd/system/etcd.service";
const API: &str = "/etc/systemd/system/kube-apiserver.service";
const CONTROLLERS: &str = "/etc/systemd/system/kube-controller-manager.service";

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

fn database(name: &str) -> String {
    format!("/var/lib/etcd/{name}/member/snap/db")
}

/// The vault in memory, and the members as their nodes have them.
#[derive(Debug)]
struct Reached {
    net: SimNet,
    members: Vec<&'static str>,
    saved: Mutex<BTreeMap<PlanId, String>>,
}

#[async_trait]
impl Contents for Reached {
    async fn content(&self, _: &str, _: &str, path: &str) -> Result<Vec<u8>, Failure> {
        panic!("{path} is no part of a restore")
    }

    async fn save(&self, nodes: &[Place], plan: PlanId, _: bool) -> Result<String, Failure> {
        assert!(nodes.len() > self.members.len(), "the API server's node is stored, too");
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

    async fn members(&self, revision: i64) -> Result<Vec<MemberAnswer>, Failure> {
        let mut answers = Vec::new();
        for name in &self.members {
            let node = sim(&self.net, name);
            let bytes = node.bytes(&database(name));
            let Some(scan) = bytes.filter(|_| node.runs("etcd")).and_then(|it| scan(&it)) else {
                continue;
            };
            let member = scan.content.members.iter().find(|member| member.name == *name);
            let Some(member) = member else { continue };
            let urls =
                scan.content.members.iter().map(|it| format!("{}={}", it.name, it.peer_urls[0]));
            let urls = urls.collect::<Vec<_>>().join(",");
            let cluster = Membership::from_initial_cluster(&urls, &format!("etcdvault-{ID}"));
            let hash = scan.hash_kv(revision, scan.content.compact_revision());
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
        let up = self.members.iter().filter(|name| sim(&self.net, name).runs("etcd")).count();
        match up > self.members.len() / 2 {
            true => Ok(()),
            false => Err(Failure::new(FailureKind::Etcd, "there is no quorum")),
        }
    }
}

/// What a world is like.
#[derive(Clone, Copy, PartialEq)]
enum World3 {
    /// Three members run.
    Up,
    /// Nothing runs, and nothing is left: neither data nor what it lay in.
    Gone,
    /// Two members run, the third node is dead; the backup is of what k1 has left.
    Dead,
}

/// What is left of a member whose log ends at `index`.
fn ended(index: u64) -> MemberRemains {
    let log = LogRemains {
        member: None,
        cluster: None,
        first_index: Some(1),
        last_index: Some(index),
        last_term: Some(3),
        commit: index,
        term: 3,
        snapshot_index: 0,
        beyond_commit: 0,
        end: LogEnding::Whole,
        problem: None,
    };
    let remains = Remains { log: Some(log), database: None, problems: vec![] };
    MemberRemains { in_use: false, remains }
}

/// Members on k1, k2 and k3, an API server on m1; on k1 another where `stacked`.
fn case(kind: World3, bump_revision: Option<u64>, stacked: bool) -> Case<Step, World> {
    let net = SimNet::new();
    let mut members = Vec::new();
    let all = ["k1", "k2", "k3"];
    for (number, name) in (1u8..).zip(all) {
        let node = net.add(&NodeName::new(name).unwrap());
        node.user("etcd", 7);
        if kind != World3::Gone {
            node.owned_dir("/var/lib/etcd", 7, 0o700);
        }
        let text = format!(
            "[Service]\nUser=etcd\nExecStart=/usr/bin/etcd --name {name} --data-dir \
             /var/lib/etcd/{name} --listen-client-urls http://10.0.0.{number}:2379 \
             --listen-peer-urls http://10.0.0.{number}:2380\n"
        );
        node.file(ETCD, &text, 0, 0o644);
        node.link("/etc/systemd/system/multi-user.target.wants/etcd.service", ETCD);
        if kind != World3::Gone && !(kind == World3::Dead && name == "k3") {
            node.power_off().power_on();
        }
        if kind == World3::Dead && name == "k3" {
            continue;
        }
        members.push((number, name));
    }
    let mut api_servers = Vec::new();
    let m1 = net.add(&NodeName::new("m1").unwrap());
    let mut hosts = vec![m1];
    hosts.extend(stacked.then(|| sim(&net, "k1")));
    for node in hosts {
        node.file(API, "[Service]\nExecStart=/usr/bin/kube-apiserver\n", 0, 0o644);
        node.link("/etc/systemd/system/multi-user.target.wants/kube-apiserver.service", API);
        node.file(CONTROLLERS, "[Service]\nExecStart=/usr/bin/kube-controller-manager\n", 0, 0o644);
        let wants = "/etc/systemd/system/multi-user.target.wants";
        node.link(&format!("{wants}/kube-controller-manager.service"), CONTROLLERS);
        node.power_off().power_on();
        let how = How::BootUnit { unit: "kube-apiserver.service".into() };
        let running = Running { how, runs: true, healthy: true };
        api_servers.push(ApiNode { node: place(node.name().as_str()), running, ports: vec![6443] });
    }
    let was = scan(SNAPSHOT).unwrap();
    let compact_revision = was.content.compact_revision();
    let there = kind != World3::Gone;
    let nodes = members.iter().map(|(number, name)| DataNode {
        member: NewMember {
            node: place(name),
            name: (*name).to_owned(),
            id: String::new(),
            data_dir: format!("/var/lib/etcd/{name}").into(),
            wal_dir: None,
            owner: (7, 7),
            has_data_dir: there,
            missing: if there { vec![] } else { vec!["/var/lib/etcd".into()] },
            had: there,
            had_wal: false,
        },
        peer_urls: vec![format!("http://10.0.0.{number}:2380")],
        etcd: Running {
            how: How::BootUnit { unit: "etcd.service".into() },
            runs: there,
            healthy: there,
        },
        api_server: None,
    });
    let left = members.iter().map(|(_, name)| Left {
        node: place(name),
        data_dir: format!("/var/lib/etcd/{name}").into(),
        wal_dir: None,
        last: Some((3, 40)),
    });
    let served = was.revision + 1764;
    let inputs = Inputs {
        id: ID.parse().unwrap(),
        made: "2026-11-21T07:12:30Z".parse().unwrap(),
        cluster: "prod".into(),
        backup: BACKUP.into(),
        taken: "2026-11-21T06:00:00Z".parse().unwrap(),
        size: SNAPSHOT.len() as u64,
        sha256: Sha256::digest(SNAPSHOT).iter().map(|byte| format!("{byte:02x}")).collect(),
        hash_kv: Some(StoredHash {
            revision: was.revision,
            compact_revision: compact_revision.unwrap_or(-1),
            hash: was.hash_kv(was.revision, compact_revision).unwrap(),
        }),
        revision: was.revision,
        keys: was.live_keys,
        served: there.then_some(served),
        bump_revision,
        etcd_version: Some("3.6.0".into()),
        nodes: nodes.collect(),
        ports: vec![vec![2379, 2380]; members.len()],
        api_servers,
        keepers: vec![],
        dead: match kind {
            World3::Dead => {
                let addresses = vec!["10.0.0.3:2379".into(), "10.0.0.3:2380".into()];
                vec![DeadNode { node: "k3".into(), addresses }]
            }
            _ => vec![],
        },
        leader: Some(place("k1")),
        save: if there { Save::Backup } else { Save::State },
        remnant: (kind == World3::Dead).then(|| Remnant {
            node: "k1".into(),
            reason: "k1 has the longest log".into(),
            kept: 2,
            dropped: 0,
            left: left.collect(),
        }),
        lost: if there { Lost::Revisions(1764) } else { Lost::Unknown },
        facts: vec![],
    };
    for name in ["k1", "k2"].iter().filter(|_| kind == World3::Dead) {
        sim(&net, name).left(&format!("/var/lib/etcd/{name}"), ended(40));
    }
    let plan = plan(&inputs).unwrap();
    let names: Vec<&'static str> = members.iter().map(|(_, name)| *name).collect();
    let reached = names.iter().copied().chain(["m1"]);
    let nodes = reached.map(|name| (name.to_owned(), Arc::new(sim(&net, name)) as Arc<dyn Node>));
    let nodes = nodes.collect();
    let contents = Reached { net: net.clone(), members: names, saved: Mutex::default() };
    let world = Arc::new(World { nodes, contents: Some(Arc::new(contents)) });
    Case { net, world, plan }
}

fn up() -> Case<Step, World> {
    case(World3::Up, None, true)
}

/// The same without an API server beside a member.
fn apart() -> Case<Step, World> {
    case(World3::Up, None, false)
}

fn gone() -> Case<Step, World> {
    case(World3::Gone, None, false)
}

fn dead() -> Case<Step, World> {
    case(World3::Dead, None, false)
}

fn texts(plan: &Plan<Step>) -> Vec<String> {
    let row = |row: &table::Row| {
        let nodes: Vec<&str> = row.nodes.iter().map(Place::as_str).collect();
        let what = row.what.split(';').next().unwrap_or_default();
        format!("{} {}: {what}", row.number, nodes.join(","))
    };
    table::rows(plan).iter().map(row).collect()
}

fn fact<'a>(plan: &'a Plan<Step>, name: &str) -> &'a str {
    let fact = plan.facts.iter().find(|fact| fact.name == name);
    &fact.unwrap_or_else(|| panic!("no {name} in {:?}", plan.facts)).text
}

/// Whether every member of `names` holds the backup at `revision`, and runs.
fn holds(case: &Case<Step, World>, names: &[&str], revision: i64) {
    let was = scan(SNAPSHOT).unwrap();
    for name in names {
        let node = sim(&case.net, name);
        let found = scan(&node.bytes(&database(name)).unwrap()).unwrap();
        assert!(found.is_sound(), "{:?}", found.problems);
        assert_eq!(found.revision, revision, "{name}");
        assert!(found.live_keys >= was.live_keys, "{name}");
        let members: Vec<&str> = found.content.members.iter().map(|it| &*it.name).collect();
        assert_eq!(members.len(), names.len(), "{members:?}");
        assert!(node.runs("etcd"), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_runs_is_brought_back() {
    let case = up();
    let revision = scan(SNAPSHOT).unwrap().revision + 1764 + i64::try_from(MARGIN).unwrap();
    assert_eq!(
        texts(&case.plan),
        [
            "1 k1,k2,k3,m1: save the present state and data to the vault",
            &format!("2 k1,k2,k3: build the data directory of {BACKUP} beside the present one"),
            "3 m1,k1: stop kube-apiserver",
            "4 k2,k3,k1: stop etcd",
            "5 k1,k2,k3,m1: make sure that no member and no kube-apiserver runs",
            "6 k1,k2,k3: set the present data aside, put what was built in its place",
            "7 k1,k2,k3: start etcd",
            &format!("8 k1,k2,k3: compare members, HashKV and revision {revision} on all"),
            "9 m1,k1: start kube-apiserver",
            "10 m1,k1: look at what was started",
            "11 m1,k1: start kube-controller-manager, kube-scheduler, kubelet anew, where they run",
        ]
        .map(str::to_owned)
    );
    assert_eq!(
        fact(&case.plan, "Lost"),
        "everything written after 2026-11-21 06:00:00 UTC, 1 h 12 min ago: 1764 revisions"
    );
    assert_eq!(case.plan.last_free_return.as_ref().unwrap().before_stage, 9);
    let controllers = async |name| {
        let unit = sim(&case.net, name).unit("kube-controller-manager.service").await.unwrap();
        let unit = unit.unwrap();
        assert_eq!(unit.active_state, "active", "{name}");
        unit.invocation
    };
    // By the node's clock they are older than the API server that the plan starts.
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    let before = [controllers("m1").await, controllers("k1").await];
    let report = case.plain().execute(&case.plan).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    holds(&case, &["k1", "k2", "k3"], revision);
    // Row 12: what they remember is gone with them.
    let after = [controllers("m1").await, controllers("k1").await];
    assert!(before[0] != after[0] && before[1] != after[1], "{before:?} {after:?}");
    for name in ["m1", "k1"] {
        assert!(sim(&case.net, name).runs("kube-apiserver"), "{name}");
        let unit = sim(&case.net, name).unit("kube-apiserver.service").await.unwrap().unwrap();
        assert_eq!(unit.file_state, "enabled", "{name}");
    }
    let refused = case.plain().rollback::<Step>(case.plan.id).await.unwrap_err();
    assert!(matches!(refused, RunError::BeyondReturn { .. }), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_of_which_nothing_is_left_is_brought_back() {
    let case = gone();
    assert_eq!(fact(&case.plan, "Kept"), "no data: there is none now");
    assert!(fact(&case.plan, "Lost").ends_with("cannot be told, as no member answers"));
    assert!(texts(&case.plan)[0].ends_with("save the present state to the vault"));
    let report = case.plain().execute(&case.plan).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    let revision = scan(SNAPSHOT).unwrap().revision + i64::try_from(MARGIN).unwrap();
    holds(&case, &["k1", "k2", "k3"], revision);
    let entry = sim(&case.net, "k2").stat("/var/lib/etcd".as_ref()).await.unwrap().unwrap();
    assert_eq!((entry.attributes.uid, entry.attributes.mode), (7, 0o700));
}

/// The hazard of old members that go on, and of one that comes back late.
#[tokio::test(start_paused = true)]
async fn nothing_moves_while_somebody_could_still_write() {
    // A member that somebody started by hand on k2.
    let case = up();
    let hand = "[Service]\nUser=etcd\nExecStart=/usr/bin/etcd --name k2 --data-dir \
                /var/lib/etcd/k2 --listen-client-urls http://10.0.0.2:4001 --listen-peer-urls \
                http://10.0.0.2:7001\n";
    let k2 = sim(&case.net, "k2");
    k2.file("/etc/systemd/system/by-hand.service", hand, 0, 0o644);
    let start = etcdvault::node::UnitAction::Start;
    let bound = std::time::Duration::from_secs(60);
    k2.unit_do("", etcdvault::node::UnitAction::DaemonReload, bound).await.unwrap();
    k2.unit_do("by-hand.service", start, bound).await.unwrap();
    let old = k2.bytes(&database("k2")).unwrap();
    let report = case.plain().execute(&case.plan).await.unwrap();
    let Outcome::Failed(failures) = &report.outcome else { panic!("{:?}", report.outcome) };
    assert_eq!(failures[0].error.why, "something could still write to the old cluster");
    let details = failures[0].error.details.join("\n");
    assert!(details.contains("k2: /usr/bin/etcd ("), "{details}");
    assert!(details.contains("has /var/lib/etcd/k2 open"), "{details}");
    assert_eq!(k2.bytes(&database("k2")).unwrap(), old);

    // An API server that nobody knew of, and a dead node that answers.
    let case = dead();
    let k1 = sim(&case.net, "k1");
    k1.file(API, "[Service]\nExecStart=/usr/bin/kube-apiserver --secure-port=7443\n", 0, 0o644);
    k1.unit_do("", etcdvault::node::UnitAction::DaemonReload, bound).await.unwrap();
    k1.unit_do("kube-apiserver.service", start, bound).await.unwrap();
    sim(&case.net, "k3").listen("10.0.0.3:2380".parse().unwrap());
    let report = case.plain().execute(&case.plan).await.unwrap();
    let Outcome::Failed(failures) = &report.outcome else { panic!("{:?}", report.outcome) };
    let details = failures[0].error.details.join("\n");
    assert!(details.contains("k1: kube-apiserver runs as process"), "{details}");
    let late = "k3 was declared dead, and 10.0.0.3:2380 answers";
    assert!(details.contains(late), "{details}");
    // It can be gone back from there.
    let report = case.plain().rollback::<Step>(case.plan.id).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    assert!(sim(&case.net, "k1").runs("etcd") && sim(&case.net, "k2").runs("etcd"));
}

#[tokio::test(start_paused = true)]
async fn a_dead_node_is_left_out() {
    let case = dead();
    assert!(!case.plan.nodes.contains(&place("k3")));
    assert!(fact(&case.plan, "Left out").starts_with("k3, declared dead: before it comes back"));
    let report = case.plain().execute(&case.plan).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    let revision = scan(SNAPSHOT).unwrap().revision + 1764 + i64::try_from(MARGIN).unwrap();
    holds(&case, &["k1", "k2"], revision);
}

/// The hazard of force-new-cluster on a member that is not the last word: one that found
/// its majority again after it was looked at.
#[tokio::test(start_paused = true)]
async fn what_was_written_since_the_look_stops_the_plan() {
    let case = dead();
    assert!(case.plan.title.starts_with("Recover prod from what k1 has left, stored as "));
    assert!(fact(&case.plan, "Doubtful").starts_with("2 entries of its log"));
    let step = "make sure that no member wrote since it was looked at";
    assert!(texts(&case.plan).iter().any(|text| text.ends_with(step)));
    let k2 = sim(&case.net, "k2");
    k2.left("/var/lib/etcd/k2", ended(41));
    let old = k2.bytes(&database("k2")).unwrap();
    let report = case.plain().execute(&case.plan).await.unwrap();
    let Outcome::Failed(failures) = &report.outcome else { panic!("{:?}", report.outcome) };
    assert_eq!(failures[0].error.why, "members wrote after they were looked at");
    assert_eq!(
        failures[0].error.details,
        ["k2: its log ended at entry 40 of term 3, and ends at entry 41 of term 3"]
    );
    assert_eq!(k2.bytes(&database("k2")).unwrap(), old);
    let report = case.plain().rollback::<Step>(case.plan.id).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    assert!(sim(&case.net, "k1").runs("etcd") && k2.runs("etcd"));
}

/// The hazard of a bump that is too small, and what a person may choose instead.
#[tokio::test(start_paused = true)]
async fn the_revision_is_raised_above_all_that_was_served() {
    let margin = i64::try_from(MARGIN).unwrap();
    for (revision, served, reaches) in [
        (100, None, 100 + margin),
        (100, Some(100), 100 + margin),
        (100, Some(5_000), 5_000 + margin),
        (100, Some(1_000_000_700), 1_000_000_700 + margin),
        // A cluster that began anew says little.
        (100, Some(3), 100 + margin),
    ] {
        let by = i64::try_from(bump(revision, served)).unwrap();
        assert_eq!(revision + by, reaches, "{revision} {served:?}");
    }
    let was = scan(SNAPSHOT).unwrap();
    for by in [0u64, 5000] {
        let case = case(World3::Up, Some(by), false);
        let text = fact(&case.plan, "Revision");
        assert_eq!(text.contains("may be misled"), by == 0, "{text}");
        let report = case.plain().execute(&case.plan).await.unwrap();
        assert!(report.is_complete(), "{by}: {:?}", report.outcome);
        holds(&case, &["k1", "k2", "k3"], was.revision + i64::try_from(by).unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn each_step_twice_and_ctrl_c() {
    for build in [apart, gone, dead] {
        plan_matrix::twice_and_stopped(build, 6).await;
    }
}

#[tokio::test(start_paused = true)]
async fn killed_at_each_call() {
    plan_matrix::troubled(up, Trouble::Freeze).await;
}

#[tokio::test(start_paused = true)]
async fn failed_at_each_call() {
    plan_matrix::troubled(gone, Trouble::Fail(NodeErrorKind::Other)).await;
}

#[tokio::test(start_paused = true)]
async fn cut_off_at_each_call() {
    plan_matrix::troubled(dead, Trouble::Cut).await;
}

#[tokio::test(start_paused = true)]
async fn late_at_each_call() {
    plan_matrix::troubled(gone, Trouble::Hang).await;
}

#[tokio::test(start_paused = true)]
async fn powered_off_at_each_call() {
    plan_matrix::troubled(up, Trouble::PowerOff).await;
}

#[tokio::test(start_paused = true)]
async fn a_rollback_killed_at_each_call() {
    for build in [up, gone] {
        for then in [Then::RollBack, Then::Resume] {
            let count = plan_matrix::rollback_killed_at_each_call(&build, then).await.unwrap();
            assert!(count > 100, "only {count} cases");
        }
    }
}
