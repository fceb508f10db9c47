//! Plans that change members, over simulated nodes, pass everything that every operation
//! must pass: a follower that is repaired, the leader that is repaired, a member that is
//! taken out, and a node that joins. The membership is one in memory that keeps etcd's own
//! rules; whether a member answers is seen on its node.

#[path = "common/node_places.rs"]
mod node_places;
#[path = "common/plan_matrix.rs"]
mod plan_matrix;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use etcdvault::node::sim::{SimNet, SimNode, Trouble};
use etcdvault::node::{ByteStream, Node, NodeErrorKind, NodeName};
use etcdvault::observe;
use etcdvault::operation::member::planner::{
    About, MemberNode, Newcomer, plan_add, plan_remove, plan_repair,
};
use etcdvault::operation::returning::data::Running;
use etcdvault::operation::step::configure::{self, NewSetting, Said};
use etcdvault::operation::step::{
    Contents, Edit, How, MemberAnswer, MemberNow, Membership, Mode, Refused, Says, Step, What,
    World,
};
use etcdvault::operation::{Failure, FailureKind};
use etcdvault::plan::execute::RunError;
use etcdvault::plan::{Place, Plan, PlanId, table};
use plan_matrix::{Case, Then};
use sha2::{Digest as _, Sha256};

const ID: &str = "01JD3A00000000000000000000";
const UNIT: &str = "/etc/systemd/system/etcd.service";
const NAMES: [&str; 3] = ["k1", "k2", "k3"];

fn place(name: &str) -> Place {
    Place::new(name).unwrap()
}

fn sim(net: &SimNet, name: &str) -> SimNode {
    net.node(&NodeName::new(name).unwrap()).unwrap()
}

fn peer(name: &str) -> String {
    format!("http://10.0.0.{}:2380", &name[1..])
}

fn data(name: &str) -> String {
    format!("/var/lib/etcd/{name}/member")
}

#[derive(Debug, Clone)]
struct Listed {
    id: u32,
    name: String,
    learner: bool,
}

#[derive(Debug)]
struct Members {
    listed: Vec<Listed>,
    next: u32,
    leader: u32,
}

/// A membership with etcd's rules.
#[derive(Debug)]
struct Fake {
    net: SimNet,
    members: Mutex<Members>,
}

impl Fake {
    fn new(net: &SimNet, names: &[&str], leader: u32) -> Self {
        let listed = (1..).zip(names).map(|(id, name)| Listed {
            id,
            name: (*name).to_owned(),
            learner: false,
        });
        let members = Members { listed: listed.collect(), next: 10, leader };
        Self { net: net.clone(), members: Mutex::new(members) }
    }

    /// Whether it runs on its node, on data of its own: one that was added does not answer
    /// by what another left there.
    fn answers(&self, member: &Listed) -> bool {
        let node = sim(&self.net, &member.name);
        let db = node.text(&format!("{}/snap/db", data(&member.name))).unwrap_or_default();
        node.runs("etcd") && db.contains("joined") == (member.id >= 10)
    }

    /// The leader, where there is a quorum.
    fn led(&self, members: &mut Members) -> Option<u32> {
        let voters = || members.listed.iter().filter(|member| !member.learner);
        let up: Vec<u32> =
            voters().filter(|member| self.answers(member)).map(|member| member.id).collect();
        if up.len() <= voters().count() / 2 {
            return None;
        }
        if !up.contains(&members.leader) {
            members.leader = up[0];
        }
        Some(members.leader)
    }

    fn now(&self) -> Vec<MemberNow> {
        let mut members = self.members.lock().unwrap();
        let leader = self.led(&mut members);
        let now = members.listed.iter().map(|member| {
            let answers = self.answers(member);
            let started = answers || member.id < 10;
            MemberNow {
                id: member.id.to_string(),
                name: if started { member.name.clone() } else { String::new() },
                peer_urls: vec![peer(&member.name)],
                client_urls: Vec::new(),
                is_learner: member.learner,
                answer: match answers {
                    true => Ok(Says {
                        leader: leader.map(|id| id.to_string()),
                        version: "3.6.16".into(),
                        applied: 7,
                        revision: 5,
                    }),
                    false => Err("it does not run".into()),
                },
            }
        });
        now.collect()
    }

    /// Changes the list where the cluster has a quorum now, and would have one.
    fn change(&self, act: impl FnOnce(&mut Members) -> Result<(), Refused>) -> Result<(), Refused> {
        let mut members = self.members.lock().unwrap();
        if self.led(&mut members).is_none() {
            return Err(Refused::NotYet(Failure::new(FailureKind::Etcd, "no leader")));
        }
        act(&mut members)
    }
}

fn index(members: &Members, id: &str) -> Result<usize, Refused> {
    let gone = || Refused::Gone(Failure::new(FailureKind::Etcd, "member not found"));
    members.listed.iter().position(|member| member.id.to_string() == id).ok_or_else(gone)
}

#[async_trait]
impl Membership for Fake {
    async fn list(&self) -> Result<Vec<MemberNow>, Failure> {
        let now = self.now();
        match now.iter().any(|member| member.answer.is_ok()) {
            true => Ok(now),
            false => Err(Failure::new(FailureKind::Etcd, "no member answers")),
        }
    }

    async fn add(&self, peer_urls: &[String], learner: bool) -> Result<(), Refused> {
        self.change(|members| {
            let name = NAMES.iter().find(|name| peer_urls == [peer(name)]).unwrap();
            assert!(members.listed.iter().all(|member| member.name != **name), "added twice");
            if members.listed.iter().any(|member| !self.answers(member)) {
                return Err(Refused::NotYet(Failure::new(FailureKind::Etcd, "unhealthy cluster")));
            }
            let (id, name) = (members.next, (*name).to_owned());
            members.next += 1;
            members.listed.push(Listed { id, name, learner });
            Ok(())
        })
    }

    async fn remove(&self, id: &str) -> Result<(), Refused> {
        self.change(|members| {
            let at = index(members, id)?;
            let rest = members
                .listed
                .iter()
                .enumerate()
                .filter(|(other, member)| *other != at && !member.learner);
            let rest: Vec<bool> = rest.map(|(_, member)| self.answers(member)).collect();
            if rest.iter().filter(|up| **up).count() <= rest.len() / 2 {
                return Err(Refused::NotYet(Failure::new(FailureKind::Etcd, "unhealthy cluster")));
            }
            members.listed.remove(at);
            Ok(())
        })
    }

    async fn update(&self, _: &str, _: &[String]) -> Result<(), Refused> {
        panic!("no address changes here")
    }

    async fn promote(&self, id: &str) -> Result<(), Refused> {
        self.change(|members| {
            let at = index(members, id)?;
            assert!(self.answers(&members.listed[at]), "a vote for one that never ran");
            members.listed[at].learner = false;
            Ok(())
        })
    }

    async fn move_leader(&self, to: &str) -> Result<(), Refused> {
        self.change(|members| {
            let at = index(members, to)?;
            members.leader = members.listed[at].id;
            Ok(())
        })
    }
}

fn not_here() -> Failure {
    Failure::new(FailureKind::Error, "there is no vault here")
}

#[async_trait]
impl Contents for Fake {
    async fn content(&self, _: &str, _: &str, _: &str) -> Result<Vec<u8>, Failure> {
        Err(not_here())
    }

    async fn save(&self, _: &[Place], _: PlanId, _: bool) -> Result<String, Failure> {
        Err(not_here())
    }

    async fn saved(&self, _: PlanId) -> Result<Option<String>, Failure> {
        Err(not_here())
    }

    async fn snapshot(&self, _: &str, _: &NodeName) -> Result<ByteStream, Failure> {
        Err(not_here())
    }

    async fn members(&self, _: i64) -> Result<Vec<MemberAnswer>, Failure> {
        let answers = self.list().await?.into_iter().filter(|member| member.answer.is_ok());
        let answers = answers.map(|member| MemberAnswer {
            name: member.name,
            id: member.id,
            cluster: "1".into(),
            revision: 5,
            hash_kv: Some(42),
            hashed_at: 5,
            why: None,
        });
        Ok(answers.collect())
    }

    async fn write(&self) -> Result<(), Failure> {
        let mut members = self.members.lock().unwrap();
        match self.led(&mut members) {
            Some(_) => Ok(()),
            None => Err(Failure::new(FailureKind::Etcd, "no leader")),
        }
    }

    fn membership(&self) -> Option<&dyn Membership> {
        Some(self)
    }
}

fn all() -> String {
    NAMES.map(|name| format!("{name}={}", peer(name))).join(",")
}

fn unit(name: &str, state: &str) -> String {
    let client = peer(name).replace("2380", "2379");
    format!(
        "[Service]\nUser=etcd\nExecStart=/usr/bin/etcd --name {name} --data-dir \
         /var/lib/etcd/{name} --listen-peer-urls {} --listen-client-urls {client} \
         --initial-cluster {} --initial-cluster-state {state}\n\n[Install]\n\
         WantedBy=multi-user.target\n",
        peer(name),
        all()
    )
}

/// Three nodes; those in `up` have a member that runs, the others a unit alone.
fn nodes(up: &[&str]) -> SimNet {
    let net = SimNet::new();
    for name in NAMES {
        let sim = net.add(&NodeName::new(name).unwrap());
        sim.user("etcd", 7).owned_dir("/var/lib/etcd", 7, 0o700);
        sim.owned_dir(&format!("/var/lib/etcd/{name}"), 7, 0o700);
        sim.dir("/etc/systemd/system/multi-user.target.wants");
        sim.file(UNIT, &unit(name, "new"), 0, 0o644);
        if up.contains(&name) {
            sim.link("/etc/systemd/system/multi-user.target.wants/etcd.service", UNIT);
            sim.power_off().power_on();
        }
    }
    net
}

fn file(text: &str) -> What {
    let sha256 = Sha256::digest(text.as_bytes()).into_iter().map(|byte| format!("{byte:02x}"));
    let mode = Mode { uid: 0, gid: 0, mode: 0o644, xattrs: BTreeMap::new() };
    What::File { sha256: sha256.collect(), mode, modified: None }
}

fn edits(name: &str) -> Vec<Edit> {
    let settings = vec![NewSetting {
        name: "initial-cluster-state".into(),
        value: Some("existing".into()),
        said: Said::UnitFlag,
    }];
    let (before, after) = (file(&unit(name, "new")), file(&unit(name, "existing")));
    vec![Edit { path: UNIT.into(), settings, before, after }]
}

fn node(name: &str, runs: bool) -> MemberNode {
    let unit = "etcd.service".to_owned();
    let how = if runs { How::BootUnit { unit } } else { How::Unit { unit } };
    MemberNode {
        node: place(name),
        etcd: Running { how, runs, healthy: runs },
        edits: edits(name),
        reload: vec!["etcd.service".into()],
        places: vec![data(name).into()],
        data: if runs { vec![data(name).into()] } else { Vec::new() },
    }
}

fn about() -> About {
    About {
        id: ID.parse().unwrap(),
        made: "2026-11-21T07:00:00Z".parse().unwrap(),
        cluster: "prod".into(),
        keepers: NAMES.map(place).into(),
    }
}

fn finish(net: SimNet, fake: Fake, plan: Plan<Step>) -> Case<Step, World> {
    let nodes =
        NAMES.map(|name| (name.to_owned(), Arc::new(sim(&net, name)) as Arc<dyn Node>)).into();
    let world = Arc::new(World { nodes, contents: Some(Arc::new(fake)) });
    Case { net, world, plan }
}

/// `k3`, led by another, begins anew.
fn repair() -> Case<Step, World> {
    repaired(1)
}

/// `k3` leads.
fn repair_of_the_leader() -> Case<Step, World> {
    repaired(3)
}

fn repaired(leader: u32) -> Case<Step, World> {
    let net = nodes(&NAMES);
    let fake = Fake::new(&net, &NAMES, leader);
    let members = fake.now();
    let plan = plan_repair(&about(), &members, &members[2], "k3", &node("k3", true)).unwrap();
    finish(net, fake, plan)
}

/// One of two is taken out: it has to help with that, and stops afterwards.
fn remove_of_two() -> Case<Step, World> {
    let names = ["k1", "k3"];
    let net = nodes(&names);
    let fake = Fake::new(&net, &names, 1);
    let members = fake.now();
    let plan = plan_remove(&about(), &members, &members[1], Some(&node("k3", true)), None);
    finish(net, fake, plan.unwrap())
}

/// `k3` joins two others.
fn add() -> Case<Step, World> {
    let names = ["k1", "k2"];
    let net = nodes(&names);
    let fake = Fake::new(&net, &names, 1);
    let members = fake.now();
    let new = Newcomer { name: "k3".into(), peer_urls: vec![peer("k3")] };
    let plan = plan_add(&about(), &members, &new, &node("k3", false)).unwrap();
    finish(net, fake, plan)
}

fn texts(plan: &Plan<Step>) -> Vec<String> {
    let row = |row: &table::Row| {
        let nodes: Vec<&str> = row.nodes.iter().map(Place::as_str).collect();
        format!("{} {}: {}", row.number, nodes.join(","), row.what)
    };
    table::rows(plan).iter().map(row).collect()
}

/// Row 21: out, aside, back as a learner, with a vote; and what is there at the end.
#[tokio::test(start_paused = true)]
async fn row_21_a_member_begins_anew() {
    let case = repair_of_the_leader();
    assert_eq!(
        texts(&case.plan),
        [
            "1 : have k2 lead",
            "2 k3: set initial-cluster-state=existing",
            "3 k3: stop etcd; wait until it is gone",
            "4 : remove the member k3 (3)",
            "5 k3: set the member's data aside",
            "6 : add the member k3 at http://10.0.0.3:2380, as a learner",
            "7 k3: start etcd; wait until it is ready",
            "8 : wait until k3 is in step; give it its vote",
            "9 : compare members and HashKV of k1, k2, k3; write something",
        ]
    );
    assert_eq!(case.plan.last_free_return.as_ref().unwrap().before_stage, 4);
    let report = case.plain().execute(&case.plan).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    assert_eq!(report.outputs["member-id"], "10");
    let k3 = sim(&case.net, "k3");
    assert!(k3.text(&format!("{}/snap/db", data("k3"))).unwrap().contains("joined"));
    let kept = k3.text(&format!("{}.before-{ID}/snap/db", data("k3"))).unwrap();
    assert!(kept.contains("blank"), "{kept}");
    let unit = k3.unit("etcd.service").await.unwrap().unwrap();
    assert_eq!((&*unit.active_state, &*unit.file_state), ("active", "enabled"));
    let refused = case.plain().rollback::<Step>(case.plan.id).await.unwrap_err();
    assert!(matches!(refused, RunError::BeyondReturn { .. }), "{refused:?}");
}

/// Row 4: of two both are needed to agree on a removal, so it comes before the stop.
#[tokio::test(start_paused = true)]
async fn row_4_one_of_two_is_removed_before_it_stops() {
    let case = remove_of_two();
    let rows = texts(&case.plan);
    assert_eq!(rows[0], "1 : remove the member k3 (2)");
    assert_eq!(rows[1], "2 k3: stop etcd; wait until it is gone");
    let report = case.plain().execute(&case.plan).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    let unit = sim(&case.net, "k3").unit("etcd.service").await.unwrap().unwrap();
    assert_eq!((&*unit.active_state, &*unit.file_state), ("inactive", "disabled"));
}

/// Row 3: the settings before the membership, the membership before the start; taken back
/// as long as it has no vote.
#[tokio::test(start_paused = true)]
async fn row_3_a_node_joins_in_the_right_order() {
    let case = add();
    assert_eq!(
        texts(&case.plan),
        [
            "1 k3: set initial-cluster-state=existing",
            "2 : add the member k3 at http://10.0.0.3:2380, as a learner",
            "3 k3: start etcd; wait until it is ready",
            "4 : wait until k3 is in step; give it its vote",
            "5 : compare members and HashKV of k1, k2, k3; write something",
        ]
    );
    assert_eq!(case.plan.last_free_return.as_ref().unwrap().before_stage, 4);
    let report = case.plain().execute(&case.plan).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
}

/// Where a setting stands is found on the node, and only its value changes.
#[tokio::test(start_paused = true)]
async fn settings_are_found_where_they_stand() {
    let net = nodes(&NAMES);
    let k3 = sim(&net, "k3");
    let seen = observe::observe(&k3).await.unwrap();
    let wanted = [
        ("initial-cluster-state".to_owned(), Some("existing".to_owned())),
        ("initial-cluster".to_owned(), Some(all())),
        ("force-new-cluster".to_owned(), None),
    ];
    let found = configure::edits(&k3, seen.member().unwrap(), &wanted).await.unwrap();
    assert_eq!(found, edits("k3"));
}

#[tokio::test(start_paused = true)]
async fn each_step_twice_and_ctrl_c() {
    for build in [repair, repair_of_the_leader, remove_of_two, add] {
        assert!(plan_matrix::each_step_twice(&build).await.unwrap() >= 4);
        for then in [Then::Resume, Then::RollBack] {
            for presses in [1, 2] {
                plan_matrix::stop_at_each_step(&build, presses, then).await.unwrap();
            }
        }
    }
}

async fn troubled(build: fn() -> Case<Step, World>, trouble: Trouble) {
    for then in [Then::Resume, Then::RollBack] {
        let count = plan_matrix::trouble_at_each_call(&build, trouble, then).await.unwrap();
        assert!(count > 100, "only {count} cases");
    }
}

#[tokio::test(start_paused = true)]
async fn a_repair_killed_at_each_call() {
    troubled(repair, Trouble::Freeze).await;
}

#[tokio::test(start_paused = true)]
async fn a_repair_failed_at_each_call() {
    troubled(repair, Trouble::Fail(NodeErrorKind::Other)).await;
}

#[tokio::test(start_paused = true)]
async fn a_repair_cut_off_at_each_call() {
    troubled(repair, Trouble::Cut).await;
}

#[tokio::test(start_paused = true)]
async fn a_repair_late_at_each_call() {
    troubled(repair, Trouble::Hang).await;
}

#[tokio::test(start_paused = true)]
async fn a_repair_powered_off_at_each_call() {
    troubled(repair, Trouble::PowerOff).await;
}

#[tokio::test(start_paused = true)]
async fn a_joining_killed_at_each_call() {
    troubled(add, Trouble::Freeze).await;
}

#[tokio::test(start_paused = true)]
async fn a_joining_powered_off_at_each_call() {
    troubled(add, Trouble::PowerOff).await;
}

#[tokio::test(start_paused = true)]
async fn a_removal_killed_at_each_call() {
    troubled(remove_of_two, Trouble::Freeze).await;
}

#[tokio::test(start_paused = true)]
async fn a_rollback_killed_at_each_call() {
    for build in [repair, add] {
        for then in [Then::RollBack, Then::Resume] {
            let count = plan_matrix::rollback_killed_at_each_call(&build, then).await.unwrap();
            assert!(count > 50, "only {count} cases");
        }
    }
}
