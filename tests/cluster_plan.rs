//! `restore cluster` over simulated nodes passes everything that every operation must
//! pass: members in units with an API server on a node of its own, all running or all
//! gone, and one node dead; at once, and one after the other. What is built there is built
//! by the very restore, and every member is judged by what its database holds. Those that
//! join are in a membership in memory that keeps etcd's own rules.

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
use etcdvault::observe;
use etcdvault::operation::cluster::planner::{
    Alignment, ApiNode, DeadNode, Inputs, Lost, Mode, Remnant, Save, bump, plan,
};
use etcdvault::operation::content::StoredHash;
use etcdvault::operation::returning::data::{DataNode, MARGIN, Running};
use etcdvault::operation::step::configure::{self, NewSetting, Said};
use etcdvault::operation::step::{
    Contents, Edit, How, Left, MemberAnswer, MemberNow, Membership as Cluster, Mode as FileMode,
    NewMember, Refused, Says, Step, What, World,
};
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

/// A member of the cluster that is built, besides the first.
#[derive(Debug, Clone)]
struct Joined {
    id: u32,
    name: &'static str,
    learner: bool,
    /// It told its name: it is on record as one that ran.
    ran: bool,
    /// It ran, and what it wrote is gone.
    forgot: bool,
}

/// The vault in memory, and the members as their nodes have them.
#[derive(Debug)]
struct Reached {
    net: SimNet,
    members: Vec<&'static str>,
    /// Those that joined the first, where they come one after the other.
    joined: Option<Mutex<(u32, Vec<Joined>)>>,
    saved: Mutex<BTreeMap<PlanId, String>>,
    /// Revisions that somebody wrote whom no plan knows.
    strange: Mutex<i64>,
}

impl Reached {
    fn new(net: &SimNet, members: &[&'static str], mode: Mode) -> Self {
        let joined = (mode == Mode::Sequential).then(|| Mutex::new((10, Vec::new())));
        Self {
            net: net.clone(),
            members: members.to_vec(),
            joined,
            saved: Mutex::default(),
            strange: Mutex::default(),
        }
    }

    /// What the database of a member that runs holds, where it was built.
    fn built(&self, name: &str) -> Option<Scan> {
        let node = sim(&self.net, name);
        let bytes = node.bytes(&database(name)).filter(|_| node.runs("etcd"))?;
        scan(&bytes).filter(|scan| scan.content.members.iter().any(|it| it.name == name))
    }

    /// Whether a member runs on data of its own.
    fn answers(&self, name: &str) -> bool {
        let node = sim(&self.net, name);
        node.runs("etcd") && node.text(&database(name)).is_some_and(|db| db.contains("joined"))
    }

    /// Those that joined, as they are now; an error where the first does not run, or the
    /// voters have no majority.
    fn now(&self) -> Result<Vec<Joined>, Failure> {
        let silent = || Failure::new(FailureKind::Etcd, "no member answers");
        self.built(self.members[0]).ok_or_else(silent)?;
        let (_, joined) = &mut *self.joined.as_ref().ok_or_else(silent)?.lock().unwrap();
        for member in &mut *joined {
            let data = sim(&self.net, member.name).text(&database(member.name));
            member.forgot |= member.ran && data.is_none();
            let up = self.answers(member.name);
            assert!(!(up && member.forgot), "{} runs on a log that forgot", member.name);
            member.ran |= up;
        }
        let voters = joined.iter().filter(|member| !member.learner);
        let up = 1 + voters.clone().filter(|member| self.answers(member.name)).count();
        match up * 2 > voters.count() + 1 {
            true => Ok(joined.clone()),
            false => Err(Failure::new(FailureKind::Etcd, "there is no quorum")),
        }
    }

    fn change(&self, act: impl FnOnce(&mut (u32, Vec<Joined>))) -> Result<(), Refused> {
        let now = self.now().map_err(Refused::NotYet)?;
        if now.iter().any(|member| !self.answers(member.name)) {
            return Err(Refused::NotYet(Failure::new(FailureKind::Etcd, "unhealthy cluster")));
        }
        act(&mut self.joined.as_ref().unwrap().lock().unwrap());
        Ok(())
    }
}

fn peer(name: &str) -> String {
    format!("http://10.0.0.{}:2380", &name[1..])
}

#[async_trait]
impl Cluster for Reached {
    async fn list(&self) -> Result<Vec<MemberNow>, Failure> {
        let first = self.members[0];
        let listed = self.now()?;
        let one = |id: String, name: &str, known: bool, is_learner: bool, up: bool| MemberNow {
            id,
            name: if known { name.to_owned() } else { String::new() },
            peer_urls: vec![peer(name)],
            client_urls: Vec::new(),
            is_learner,
            answer: match up {
                true => Ok(Says {
                    leader: Some("1".into()),
                    version: "3.6.16".into(),
                    applied: 7,
                    revision: 5,
                }),
                false => Err("it does not run".into()),
            },
        };
        let others = listed.iter().map(|it| {
            let up = self.answers(it.name);
            one(it.id.to_string(), it.name, it.ran, it.learner, up)
        });
        Ok([one("1".into(), first, true, false, true)].into_iter().chain(others).collect())
    }

    async fn add(&self, peer_urls: &[String], learner: bool) -> Result<(), Refused> {
        self.change(|(next, joined)| {
            let name = self.members.iter().find(|name| peer_urls == [peer(name)]).unwrap();
            assert!(joined.iter().all(|member| member.name != *name), "{name} is added twice");
            assert!(learner, "3.6 has learners");
            joined.push(Joined { id: *next, name, learner, ran: false, forgot: false });
            *next += 1;
        })
    }

    async fn remove(&self, id: &str) -> Result<(), Refused> {
        self.now().map_err(Refused::NotYet)?;
        let (_, joined) = &mut *self.joined.as_ref().unwrap().lock().unwrap();
        let gone = || Refused::Gone(Failure::new(FailureKind::Etcd, "member not found"));
        let at = joined.iter().position(|member| member.id.to_string() == id).ok_or_else(gone)?;
        joined.remove(at);
        Ok(())
    }

    async fn update(&self, _: &str, _: &[String]) -> Result<(), Refused> {
        panic!("no address changes here")
    }

    async fn promote(&self, id: &str) -> Result<(), Refused> {
        self.change(|(_, joined)| {
            let member = joined.iter_mut().find(|member| member.id.to_string() == id).unwrap();
            assert!(member.ran, "a vote for one that never ran");
            member.learner = false;
        })
    }

    async fn move_leader(&self, _: &str) -> Result<(), Refused> {
        panic!("nobody hands over here")
    }
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
        if let Some(joined) = &self.joined {
            // What is built anew knows of nobody who joined what was built before.
            joined.lock().unwrap().1.clear();
        }
        let chunks = SNAPSHOT.chunks(4000).map(|part| Ok(bytes::Bytes::from_static(part)));
        Ok(futures_util::stream::iter(chunks.collect::<Vec<_>>()).boxed())
    }

    async fn members(&self, revision: i64) -> Result<Vec<MemberAnswer>, Failure> {
        let mut answers: Vec<MemberAnswer> = Vec::new();
        for name in &self.members {
            let Some(scan) = self.built(name) else { continue };
            let member = scan.content.members.iter().find(|member| member.name == *name).unwrap();
            let urls =
                scan.content.members.iter().map(|it| format!("{}={}", it.name, it.peer_urls[0]));
            let urls = urls.collect::<Vec<_>>().join(",");
            let cluster = Membership::from_initial_cluster(&urls, &format!("etcdvault-{ID}"));
            // Asked for none in particular it is the present one.
            let revision = if revision == 0 { scan.revision } else { revision };
            let hash = scan.hash_kv(revision, scan.content.compact_revision());
            answers.push(MemberAnswer {
                name: (*name).to_owned(),
                id: format!("{:x}", member.id),
                cluster: format!("{:x}", cluster.unwrap().cluster_id()),
                revision: scan.revision + *self.strange.lock().unwrap(),
                hash_kv: hash.ok(),
                hashed_at: revision,
                why: None,
            });
        }
        let Some(first) = answers.first().cloned() else {
            return Err(Failure::new(FailureKind::Etcd, "no member answers"));
        };
        if self.joined.is_some() {
            let voting = self.now()?.into_iter().filter(|it| !it.learner && self.answers(it.name));
            answers.extend(voting.map(|member| MemberAnswer {
                name: member.name.to_owned(),
                id: member.id.to_string(),
                ..first.clone()
            }));
        }
        Ok(answers)
    }

    async fn write(&self) -> Result<(), Failure> {
        if self.joined.is_some() {
            return self.now().map(drop);
        }
        let up = self.members.iter().filter(|name| sim(&self.net, name).runs("etcd")).count();
        match up > self.members.len() / 2 {
            true => Ok(()),
            false => Err(Failure::new(FailureKind::Etcd, "there is no quorum")),
        }
    }

    fn membership(&self) -> Option<&dyn Cluster> {
        self.joined.is_some().then_some(self)
    }
}

/// What a world is like.
#[derive(Clone, Copy, PartialEq)]
enum World3 {
    /// Three members run.
    Up,
    /// Nothing runs, and nothing is left: neither data nor what it lay in.
    Gone,
    /// Nothing runs, and what the data lay in is there.
    Empty,
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

fn told(names: &[&str]) -> String {
    names.iter().map(|name| format!("{name}={}", peer(name))).collect::<Vec<_>>().join(",")
}

/// The unit of a member that is told of those members.
fn unit(name: &str, cluster: &str, state: &str) -> String {
    let client = peer(name).replace("2380", "2379");
    format!(
        "[Service]\nUser=etcd\nExecStart=/usr/bin/etcd --name {name} --data-dir \
         /var/lib/etcd/{name} --listen-client-urls {client} --listen-peer-urls {} \
         --initial-advertise-peer-urls {} --initial-cluster {cluster} \
         --initial-cluster-state {state}\n",
        peer(name),
        peer(name)
    )
}

fn file(text: &str) -> What {
    let sha256 = Sha256::digest(text.as_bytes()).into_iter().map(|byte| format!("{byte:02x}"));
    let mode = FileMode { uid: 0, gid: 0, mode: 0o644, xattrs: BTreeMap::new() };
    What::File { sha256: sha256.collect(), mode, modified: None }
}

fn setting(name: &str, value: &str) -> NewSetting {
    NewSetting { name: name.into(), value: Some(value.into()), said: Said::UnitFlag }
}

/// Row 7: what the units are told before the start, and when all are there. All of them
/// name all members at first, and begin anew.
fn alignment(members: &[&str], mode: Mode) -> Vec<Alignment> {
    let all = told(members);
    let one = |(number, name): (usize, &&str)| {
        let joins = mode == Mode::Sequential && number > 0;
        let so_far = if joins { told(&members[..=number]) } else { all.clone() };
        let mut settings = vec![setting("initial-cluster-state", "existing")];
        let was = told(&["k1", "k2", "k3"]);
        if so_far != was {
            settings.insert(0, setting("initial-cluster", &so_far));
        }
        let now = unit(name, &was, "new");
        let (first, last) = (unit(name, &so_far, "existing"), unit(name, &all, "existing"));
        let edit = |settings, before: &str, after: &str| Edit {
            path: ETCD.into(),
            settings,
            before: file(before),
            after: file(after),
        };
        let then = (so_far != all)
            .then(|| edit(vec![setting("initial-cluster", &all)], &first, &last))
            .into_iter();
        Alignment {
            node: place(name),
            edits: vec![edit(settings, &now, &first)],
            then: then.collect(),
            reload: vec!["etcd.service".into()],
        }
    };
    members.iter().enumerate().map(one).collect()
}

/// Members on k1, k2 and k3, an API server on m1; on k1 another where `stacked`.
fn case(kind: World3, bump_revision: Option<u64>, stacked: bool) -> Case<Step, World> {
    case_of(kind, bump_revision, stacked, Mode::Parallel)
}

fn case_of(
    kind: World3,
    bump_revision: Option<u64>,
    stacked: bool,
    mode: Mode,
) -> Case<Step, World> {
    built(kind, bump_revision, stacked, mode).0
}

fn built(
    kind: World3,
    bump_revision: Option<u64>,
    stacked: bool,
    mode: Mode,
) -> (Case<Step, World>, Arc<Reached>) {
    let net = SimNet::new();
    let mut members = Vec::new();
    let all = ["k1", "k2", "k3"];
    for (number, name) in (1u8..).zip(all) {
        let node = net.add(&NodeName::new(name).unwrap());
        node.user("etcd", 7);
        if kind != World3::Gone {
            node.owned_dir("/var/lib/etcd", 7, 0o700);
        }
        if kind == World3::Empty {
            node.owned_dir(&format!("/var/lib/etcd/{name}"), 7, 0o700);
        }
        let text = unit(name, &told(&all), "new");
        node.file(ETCD, &text, 0, 0o644);
        node.link("/etc/systemd/system/multi-user.target.wants/etcd.service", ETCD);
        if matches!(kind, World3::Up | World3::Dead) && !(kind == World3::Dead && name == "k3") {
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
    let there = matches!(kind, World3::Up | World3::Dead);
    let dirs = kind != World3::Gone;
    let nodes = members.iter().map(|(number, name)| DataNode {
        member: NewMember {
            node: place(name),
            name: (*name).to_owned(),
            id: String::new(),
            data_dir: format!("/var/lib/etcd/{name}").into(),
            wal_dir: None,
            owner: (7, 7),
            has_data_dir: dirs,
            missing: if dirs { vec![] } else { vec!["/var/lib/etcd".into()] },
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
        quiet: true,
        mode,
        alignment: alignment(&members.iter().map(|(_, name)| *name).collect::<Vec<_>>(), mode),
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
    let contents = Arc::new(Reached::new(&net, &names, mode));
    let world = Arc::new(World { nodes, contents: Some(contents.clone()) });
    (Case { net, world, plan }, contents)
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

/// One member after the other: all run, without an API server beside them.
fn one_by_one() -> Case<Step, World> {
    case_of(World3::Up, None, false, Mode::Sequential)
}

/// The same where no data is left.
fn one_by_one_from_nothing() -> Case<Step, World> {
    case_of(World3::Empty, None, false, Mode::Sequential)
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
            "7 k1,k2,k3: set initial-cluster-state=existing",
            "8 k1,k2,k3: start etcd",
            &format!("9 k1,k2,k3: compare members, HashKV and revision {revision} on all"),
            "10 m1,k1: start kube-apiserver",
            "11 m1,k1: look at what was started",
            "12 m1,k1: start kube-controller-manager, kube-scheduler, kubelet anew, where they run",
        ]
        .map(str::to_owned)
    );
    assert_eq!(
        fact(&case.plan, "Lost"),
        "everything written after 2026-11-21 06:00:00 UTC, 1 h 12 min ago: 1764 revisions"
    );
    assert_eq!(case.plan.last_free_return.as_ref().unwrap().before_stage, 10);
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

/// A bad world: a client writes through an address that nobody fenced. It is found while
/// there is a way back.
#[tokio::test(start_paused = true)]
async fn who_writes_before_the_api_servers_do_is_found() {
    let (case, contents) = built(World3::Up, None, false, Mode::Parallel);
    *contents.strange.lock().unwrap() = 3;
    let report = case.plain().execute(&case.plan).await.unwrap();
    let Outcome::Failed(failures) = &report.outcome else { panic!("{:?}", report.outcome) };
    let details = failures[0].error.details.join("\n");
    let said = "3 revisions were written to k1 although every API server is stopped: a client \
                writes that the plan does not know";
    assert!(details.contains(said), "{details}");
    assert!(!sim(&case.net, "m1").runs("kube-apiserver"));
    let report = case.plain().rollback::<Step>(case.plan.id).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
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

/// What etcd of a node is told now.
async fn settings(case: &Case<Step, World>, name: &str) -> (String, String) {
    let seen = observe::observe(&sim(&case.net, name)).await.unwrap();
    let settings = &seen.member().unwrap().settings;
    let cluster = settings.value("initial-cluster").unwrap_or_default().to_owned();
    (cluster, settings.initial_cluster_state().to_owned())
}

fn joined(case: &Case<Step, World>, name: &str) -> bool {
    let node = sim(&case.net, name);
    node.runs("etcd") && node.text(&database(name)).is_some_and(|db| db.contains("joined"))
}

/// Rows 3, 6, 7 and 20: one is restored, the others join it one after the other.
#[tokio::test(start_paused = true)]
async fn row_6_members_come_back_one_after_the_other() {
    let case = one_by_one();
    let revision = scan(SNAPSHOT).unwrap().revision + 1764 + i64::try_from(MARGIN).unwrap();
    let so_far = told(&["k1", "k2"]);
    let all = told(&["k1", "k2", "k3"]);
    assert_eq!(
        texts(&case.plan),
        [
            "1 k1,k2,k3,m1: save the present state and data to the vault",
            &format!("2 k1: build the data directory of {BACKUP} beside the present one"),
            "3 m1: stop kube-apiserver",
            "4 k2,k3,k1: stop etcd",
            "5 k1,k2,k3,m1: make sure that no member and no kube-apiserver runs",
            "6 k1: set the present data aside, put what was built in its place",
            "7 k2,k3: set the member's data aside",
            "8 k1: set initial-cluster-state=existing",
            &format!("8 k2: set initial-cluster={so_far}"),
            "8 k3: set initial-cluster-state=existing",
            "9 k1: start etcd",
            &format!("10 k1: compare members, HashKV and revision {revision} on all"),
            "11 k2: let k2 join at http://10.0.0.2:2380",
            "12 : compare members and HashKV of k1, k2",
            "13 k3: let k3 join at http://10.0.0.3:2380",
            "14 : compare members and HashKV of k1, k2, k3",
            &format!("15 k2: set initial-cluster={all}"),
            "16 m1: start kube-apiserver",
            "17 m1: look at what was started",
            "18 m1: start kube-controller-manager, kube-scheduler, kubelet anew, where they run",
        ]
        .map(str::to_owned)
    );
    assert_eq!(
        fact(&case.plan, "Order"),
        "k1 alone, from the backup; then k2, k3 join it, each without data"
    );
    assert_eq!(case.plan.last_free_return.as_ref().unwrap().before_stage, 16);
    let report = case.plain().execute(&case.plan).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    holds(&case, &["k1"], revision);
    for name in ["k1", "k2", "k3"] {
        assert_eq!(settings(&case, name).await, (all.clone(), "existing".to_owned()), "{name}");
        assert_eq!(joined(&case, name), name != "k1", "{name}");
        let unit = sim(&case.net, name).unit("etcd.service").await.unwrap().unwrap();
        assert_eq!((&*unit.active_state, &*unit.file_state), ("active", "enabled"), "{name}");
        let kept = format!("/var/lib/etcd/{name}/member.before-{ID}/snap/db");
        assert!(sim(&case.net, name).text(&kept).unwrap().contains("blank"), "{name}");
    }
}

/// The settings that the planner is given are those that are found on the nodes.
#[tokio::test(start_paused = true)]
async fn row_7_settings_are_found_where_they_stand() {
    let case = one_by_one();
    let names = ["k1", "k2", "k3"];
    let (so_far, all) = (told(&["k1", "k2"]), told(&names));
    let new = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned()));
    let k2 = sim(&case.net, "k2");
    let seen = observe::observe(&k2).await.unwrap();
    let etcd = seen.member().unwrap();
    let wanted = [new("initial-cluster", &so_far), new("initial-cluster-state", "existing")];
    let first = configure::edits(&k2, etcd, &wanted).await.unwrap();
    let then = [new("initial-cluster", &all)];
    let then = configure::edits_then(&k2, etcd, &first, &then).await.unwrap();
    let known = &alignment(&names, Mode::Sequential)[1];
    assert_eq!((&first, &then), (&known.edits, &known.then));
    // On top of what is so already nothing is left to be changed.
    let same = [new("initial-cluster", &so_far)];
    assert_eq!(configure::edits_then(&k2, etcd, &first, &same).await.unwrap(), []);
}

/// Nothing is left, not even the directories: those who join have theirs made.
#[tokio::test(start_paused = true)]
async fn members_join_on_nodes_where_nothing_is_left() {
    let case = case_of(World3::Gone, None, false, Mode::Sequential);
    let report = case.plain().execute(&case.plan).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    for name in ["k2", "k3"] {
        assert!(joined(&case, name), "{name}");
        let entry = sim(&case.net, name).stat("/var/lib/etcd".as_ref()).await.unwrap().unwrap();
        assert_eq!((entry.attributes.uid, entry.attributes.mode), (7, 0o700), "{name}");
    }
}

/// A bad world: a node is lost while its member joins. The cluster serves without it, and
/// goes on when it is back.
#[tokio::test(start_paused = true)]
async fn a_node_that_is_lost_while_it_joins_holds_up_nobody_else() {
    let case = one_by_one();
    let lost = sim(&case.net, "k3");
    let watched = lost.clone();
    let events = etcdvault::event::Events::new(move |event| {
        let etcdvault::event::Event::Step(step) = event else { return };
        if step.what.starts_with("let k3 join")
            && step.phase == etcdvault::event::StepPhase::Started
        {
            watched.power_off();
        }
    });
    let stop = etcdvault::plan::stop::Stop::never();
    let engine = case.engine("first", stop, events, Default::default());
    let report = engine.execute(&case.plan).await.unwrap();
    assert!(!report.is_complete(), "{:?}", report.outcome);
    let go_on = report.go_on().unwrap();
    assert_eq!(go_on, format!("etcdvault resume {ID}"));
    let contents = case.world.contents.as_ref().unwrap();
    contents.write().await.unwrap();
    let members = contents.membership().unwrap().list().await.unwrap();
    assert!(members.iter().take(2).all(|member| member.is_well() && !member.is_learner));
    lost.power_on();
    let report = case.other().resume::<Step>(case.plan.id).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    assert!(joined(&case, "k3") && sim(&case.net, "m1").runs("kube-apiserver"));
}

/// A member that does not start stops the plan, which says what to do; taken back, the
/// data of before is there.
#[tokio::test(start_paused = true)]
async fn a_member_that_does_not_start_is_said_with_what_to_do() {
    let case = one_by_one();
    sim(&case.net, "k3").fail_start("etcd.service", &["k3: member count is unequal"]);
    let report = case.plain().execute(&case.plan).await.unwrap();
    let Outcome::Failed(failures) = &report.outcome else { panic!("{:?}", report.outcome) };
    let hint = failures[0].error.hint.as_ref().unwrap();
    let said = format!(
        "as long as k3 has no vote the cluster works without it: mend k3, then etcdvault resume \
         {ID}; or go back"
    );
    assert_eq!(*hint, said);
    case.world.contents.as_ref().unwrap().write().await.unwrap();
    sim(&case.net, "k3").fail_start("etcd.service", &[]);
    let report = case.plain().rollback::<Step>(case.plan.id).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    for name in ["k1", "k2", "k3"] {
        assert!(sim(&case.net, name).text(&database(name)).unwrap().contains("blank"), "{name}");
        assert_eq!(settings(&case, name).await.1, "new", "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_step_twice_and_ctrl_c_one_after_the_other() {
    for build in [one_by_one, one_by_one_from_nothing] {
        plan_matrix::twice_and_stopped(build, 12).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_after_the_other_killed_at_each_call() {
    plan_matrix::troubled(one_by_one, Trouble::Freeze).await;
}

#[tokio::test(start_paused = true)]
async fn one_after_the_other_failed_at_each_call() {
    plan_matrix::troubled(one_by_one_from_nothing, Trouble::Fail(NodeErrorKind::Other)).await;
}

#[tokio::test(start_paused = true)]
#[ignore = "long: make test-all runs it"]
async fn one_after_the_other_cut_off_at_each_call() {
    plan_matrix::troubled(one_by_one, Trouble::Cut).await;
}

#[tokio::test(start_paused = true)]
#[ignore = "long: make test-all runs it"]
async fn one_after_the_other_late_at_each_call() {
    plan_matrix::troubled(one_by_one_from_nothing, Trouble::Hang).await;
}

#[tokio::test(start_paused = true)]
async fn one_after_the_other_powered_off_at_each_call() {
    plan_matrix::troubled(one_by_one, Trouble::PowerOff).await;
}

#[tokio::test(start_paused = true)]
async fn one_after_the_other_taken_back_and_killed_at_each_call() {
    plan_matrix::rollback_killed(one_by_one).await;
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
