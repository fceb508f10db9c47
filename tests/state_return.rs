//! `state return` over simulated nodes passes everything that every operation must
//! pass: members in units on three nodes, and a control plane of static pods. And what
//! is planned: who is stopped, in which order, and what is left alone.
//!
//! Rows 23 and 24.

#[path = "common/node_places.rs"]
mod node_places;
#[path = "common/plan_matrix.rs"]
mod plan_matrix;
#[path = "state_return/ways.rs"]
mod ways;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use etcdvault::event::{Event, Events, StepEvent, StepPhase};
use etcdvault::node::sim::{SimNet, SimNode, Trouble, When};
use etcdvault::node::{ByteStream, FileKind, Node, NodeErrorKind, NodeName};
use etcdvault::operation::Failure;
use etcdvault::operation::returning;
use etcdvault::operation::returning::planner::{self, Inputs, NodeInput, Voters};
use etcdvault::operation::state::describe::{Description, Program, Runs, UnitSeen};
use etcdvault::operation::state::index::{Archive, File, Kind, NodeIndex};
use etcdvault::operation::step::{Contents, MemberAnswer, Step, World};
use etcdvault::plan::execute::{Options, Outcome, RunError};
use etcdvault::plan::journal::JournalError;
use etcdvault::plan::stop::Stop;
use etcdvault::plan::{Place, Plan, PlanId, table};
use plan_matrix::{Case, rollback_killed, troubled, twice_and_stopped};
use vault::digest::Sha256;
use vault::manifest::FormatVersion;

const STATE: &str = "01JD2Y6Q000000000000000000";
const ID: &str = "01JD3A00000000000000000000";
const SECRET: &str = "geheim";
/// When everything in a state was last changed.
const TIME: i64 = 1_700_000_000_000_000_000;
/// When simulations begin.
const NOW: i64 = 1_795_219_200_000_000_000;

/// A file of a node: path, text, owner, mode. No text: a directory; with the mode
/// [`LINK`] a link to the text.
type Line = (&'static str, Option<String>, u32, u32);

const LINK: u32 = 0o120_777;

fn line(path: &'static str, text: impl Into<String>, owner: u32, mode: u32) -> Line {
    (path, Some(text.into()), owner, mode)
}

fn index(node: &str, description: Description, lines: &[Line], time: i64) -> NodeIndex {
    let mut files: Vec<File> = lines
        .iter()
        .map(|(path, text, owner, mode)| File {
            path: (*path).to_owned(),
            kind: match text {
                Some(_) if *mode == LINK => Kind::Symlink,
                Some(_) => Kind::File,
                None => Kind::Directory,
            },
            mode: *mode & 0o7777,
            uid: *owner,
            gid: *owner,
            owner: String::new(),
            group: String::new(),
            modified: (time / 1_000_000_000, 0),
            size: text.as_ref().map_or(0, |text| text.len() as u64),
            sha256: text.as_ref().filter(|_| *mode != LINK).map(|text| Sha256::of(text.as_bytes())),
            target: text.clone().filter(|_| *mode == LINK),
            xattrs: BTreeMap::new(),
            content_at: None,
            changed: false,
        })
        .collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    NodeIndex {
        format: FormatVersion { version: 1, oldest_reader: 1 },
        node: node.to_owned(),
        taken: "2026-11-21T06:00:00Z".parse().unwrap(),
        description,
        state: Archive { roots: vec!["/etc".into()], exclude: vec![], files, notes: vec![] },
        data: None,
    }
}

/// What the vault has, in memory.
#[derive(Debug)]
struct Stored {
    files: BTreeMap<(String, String), Vec<u8>>,
    saved: Mutex<BTreeMap<PlanId, String>>,
}

#[async_trait]
impl Contents for Stored {
    async fn content(&self, backup: &str, node: &str, path: &str) -> Result<Vec<u8>, Failure> {
        assert_eq!(backup, STATE);
        Ok(self.files[&(node.to_owned(), path.to_owned())].clone())
    }

    async fn save(&self, nodes: &[Place], plan: PlanId, _: bool) -> Result<String, Failure> {
        assert!(!nodes.is_empty());
        let id = format!("saved-for-{plan}");
        self.saved.lock().unwrap().insert(plan, id.clone());
        Ok(id)
    }

    async fn saved(&self, plan: PlanId) -> Result<Option<String>, Failure> {
        Ok(self.saved.lock().unwrap().get(&plan).cloned())
    }

    async fn snapshot(&self, backup: &str, _: &NodeName) -> Result<ByteStream, Failure> {
        panic!("{backup} has no data")
    }

    async fn members(&self, _: i64) -> Result<Vec<MemberAnswer>, Failure> {
        panic!("no member is asked")
    }

    async fn write(&self) -> Result<(), Failure> {
        panic!("nothing is written")
    }
}

struct Setup {
    name: &'static str,
    was: (Description, Vec<Line>),
    is: (Description, Vec<Line>),
}

fn place(name: &str) -> Place {
    Place::new(name).unwrap()
}

fn sim(net: &SimNet, name: &str) -> SimNode {
    net.node(&NodeName::new(name).unwrap()).unwrap()
}

/// Sets the nodes up as they are, boots them, and plans the way to what they were.
fn case(setups: Vec<Setup>, pods: bool) -> Case<Step, World> {
    let net = SimNet::new();
    let mut files = BTreeMap::new();
    let mut nodes = BTreeMap::new();
    let mut inputs = Vec::new();
    for Setup { name, was, is } in setups {
        let node = net.add(&NodeName::new(name).unwrap());
        node.user("etcd", 7);
        node.owned_dir("/var/lib/etcd", 7, 0o700);
        for (path, text, owner, mode) in &is.1 {
            match text {
                Some(text) if *mode == LINK => node.link(path, text).chown(path, *owner, 0o777),
                Some(text) => node.file(path, text, *owner, *mode),
                None => node.owned_dir(path, *owner, *mode),
            };
        }
        for (path, text, ..) in &was.1 {
            if let Some(text) = text {
                let key = (name.to_owned(), (*path).to_owned());
                files.insert(key, text.clone().into_bytes());
            }
        }
        if pods {
            node.kubelet();
            let wants = "/etc/systemd/system/multi-user.target.wants/kubelet.service";
            if is.0.units.contains_key("kubelet.service") {
                node.link(wants, "../kubelet.service");
            }
        }
        node.dir("/etc/systemd/system/multi-user.target.wants");
        let in_unit = |etcd: &Program| matches!(etcd.runs, Runs::Unit { .. });
        if is.0.etcd.as_ref().is_some_and(in_unit) {
            node.link(
                "/etc/systemd/system/multi-user.target.wants/etcd.service",
                "/etc/systemd/system/etcd.service",
            );
        }
        node.power_off().power_on();
        inputs.push(NodeInput {
            node: place(name),
            state: index(name, was.0, &was.1, TIME),
            now: index(name, is.0, &is.1, NOW),
            used: BTreeMap::new(),
            unready: BTreeSet::new(),
            other_data: None,
        });
        nodes.insert(name.to_owned(), Arc::new(node) as Arc<dyn Node>);
    }
    let planned = planner::plan(&Inputs {
        id: ID.parse().unwrap(),
        made: "2026-11-21T07:00:00Z".parse().unwrap(),
        cluster: "prod".into(),
        backup: STATE.into(),
        taken: "2026-11-21T06:00:00Z".parse().unwrap(),
        nodes: inputs,
        keepers: vec![],
        leader: Some(place("k1")),
        voters: None,
        save: true,
        drift: vec![],
    });
    assert!(planned.by_hand.is_empty(), "{:?}", planned.by_hand);
    let contents = Stored { files, saved: Mutex::default() };
    let world = Arc::new(World { nodes, contents: Some(Arc::new(contents)) });
    Case { net, world, plan: planned.plan.expect("something differs") }
}

fn about(etcd: Option<Program>, apiserver: Option<Program>) -> Description {
    let seen = UnitSeen { active: "active".into(), enabled: "enabled".into() };
    Description {
        hostname: "host".into(),
        machine_id: None,
        os: "Linux".into(),
        arch: "x86_64".into(),
        addresses: vec![],
        etcd,
        apiserver,
        units: [("etcd.service".to_owned(), seen)].into(),
        data_dirs: vec!["/var/lib/etcd".into()],
        unseen: vec![],
    }
}

fn runs(runs: Runs, running: bool, options: &[(&str, &str)]) -> Option<Program> {
    let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Some(Program { runs, running, image: None, options })
}

fn unit(running: bool) -> Description {
    let listen = [("listen-client-urls", "http://127.0.0.1:2379")];
    about(runs(Runs::Unit { name: "etcd.service".into() }, running, &listen), None)
}

const UNIT: &str = "[Service]\nUser=etcd\nEnvironmentFile=/etc/default/etcd\n\
                    ExecStart=/usr/bin/etcd --data-dir /var/lib/etcd/data\n";

fn environment(more: &str) -> String {
    format!("ETCD_NAME=\"n\"\n{more}")
}

/// Two of three nodes are ruined: contents, modes, owners, what is missing and what is
/// too much; the unit itself and its drop-ins.
fn units() -> Case<Step, World> {
    let good = || {
        vec![
            line("/etc/systemd/system/etcd.service", UNIT, 0, 0o644),
            line("/etc/default/etcd", environment(""), 0, 0o640),
            ("/etc/etcd", None, 7, 0o750),
            line("/etc/etcd/server.key", SECRET, 7, 0o600),
        ]
    };
    let mut first = good();
    first[1] = line("/etc/default/etcd", environment("ETCD_QUOTA_BACKEND_BYTES=1\n"), 0, 0o640);
    first[3].3 = 0o644;
    first.push(("/etc/systemd/system/etcd.service.d", None, 0, 0o755));
    let drop_in = "[Service]\nEnvironment=A=B\n";
    first.push(line("/etc/systemd/system/etcd.service.d/odd.conf", drop_in, 0, 0o644));
    let second = good().into_iter().take(2).collect();
    case(
        vec![
            Setup { name: "k1", was: (unit(true), good()), is: (unit(true), first) },
            Setup { name: "k2", was: (unit(true), good()), is: (unit(true), second) },
            Setup { name: "k3", was: (unit(true), good()), is: (unit(true), good()) },
        ],
        false,
    )
}

const ETCD: &str = "/etc/kubernetes/manifests/etcd.yaml";
const API: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml";

fn manifest(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: kube-system\nspec:\n  \
         containers:\n  - name: {name}\n    image: registry/{name}:1\n    command:\n    - {name}\n\
         {more}"
    )
}

fn plane() -> Description {
    let pod = |manifest: &str| Runs::StaticPod { manifest: manifest.to_owned() };
    let listen = [("listen-client-urls", "http://127.0.0.1:2379")];
    let secure = [("secure-port", "6443")];
    about(runs(pod(ETCD), true, &listen), runs(pod(API), true, &secure))
}

/// A control plane: etcd's manifest was edited, a certificate of the API server is
/// another.
fn pods() -> Case<Step, World> {
    let lines = |etcd: &str, key: &str| {
        vec![
            line(ETCD, manifest("etcd", etcd), 0, 0o600),
            line(API, manifest("kube-apiserver", "    - --secure-port=6443\n"), 0, 0o600),
            line("/etc/kubernetes/pki/apiserver.key", key, 0, 0o600),
        ]
    };
    let dir = "    - --data-dir=/var/lib/etcd/data\n";
    let odd = format!("{dir}    - --name=odd\n");
    let (was, is) = (lines(dir, SECRET), lines(&odd, "another"));
    case(vec![Setup { name: "k1", was: (plane(), was), is: (plane(), is) }], true)
}

/// One node on which a thing of every kind stands where another one was.
fn kinds() -> Case<Step, World> {
    let all = |more: Vec<Line>| {
        let mut lines = vec![
            line("/etc/systemd/system/etcd.service", UNIT, 0, 0o644),
            line("/etc/default/etcd", environment(""), 0, 0o640),
            line("/etc/etcd/same", "another time", 0, 0o640),
        ];
        lines.extend(more);
        lines
    };
    let was = all(vec![
        ("/etc/etcd", None, 7, 0o750),
        line("/etc/etcd/current", "server-1.crt", 7, LINK),
        line("/etc/etcd/new", "../nowhere/at all", 0, LINK),
        line("/etc/etcd/file-to-link", "server-1.crt", 0, LINK),
        line("/etc/etcd/link-to-file", SECRET, 7, 0o600),
        ("/etc/etcd/file-to-dir", None, 7, 0o711),
        line("/etc/etcd/file-to-dir/in", "in", 7, 0o600),
        line("/etc/etcd/dir-to-file", SECRET, 7, 0o600),
        ("/etc/etcd/link-to-dir", None, 0, 0o755),
        line("/etc/etcd/dir-to-link", "current", 0, LINK),
    ]);
    let is = all(vec![
        ("/etc/etcd", None, 0, 0o777),
        line("/etc/etcd/current", "server-2.crt", 0, LINK),
        line("/etc/etcd/file-to-link", "copy", 0, 0o644),
        line("/etc/etcd/link-to-file", "/root/elsewhere", 0, LINK),
        line("/etc/etcd/file-to-dir", "a file", 0, 0o644),
        ("/etc/etcd/dir-to-file", None, 0, 0o755),
        line("/etc/etcd/dir-to-file/in", "in", 7, 0o600),
        line("/etc/etcd/link-to-dir", "file-to-dir", 7, LINK),
        ("/etc/etcd/dir-to-link", None, 0, 0o700),
        line("/etc/etcd/odd", "/etc/passwd", 0, LINK),
        ("/etc/etcd/odd.d", None, 7, 0o750),
    ]);
    case(vec![Setup { name: "k1", was: (unit(true), was), is: (unit(true), is) }], false)
}

/// A control plane whose kubelet is a unit: its configuration and etcd's manifest were
/// edited.
fn kubelet() -> Case<Step, World> {
    let about = || {
        let mut about = plane();
        let seen = UnitSeen { active: "active".into(), enabled: "enabled".into() };
        about.units = [("kubelet.service".to_owned(), seen)].into();
        about
    };
    let lines = |config: &str, more: &str| {
        let etcd = format!("    - --data-dir=/var/lib/etcd/data\n{more}");
        vec![
            line(
                "/etc/systemd/system/kubelet.service",
                "[Service]\nExecStart=/usr/bin/kubelet\n",
                0,
                0o644,
            ),
            line(ETCD, manifest("etcd", &etcd), 0, 0o600),
            line(API, manifest("kube-apiserver", "    - --secure-port=6443\n"), 0, 0o600),
            line("/var/lib/kubelet/config.yaml", config, 0, 0o600),
        ]
    };
    let was = (about(), lines("kind: KubeletConfiguration\n", ""));
    let is = (about(), lines("kind: KubeletConfiguration\nodd: 1\n", "    - --name=odd\n"));
    case(vec![Setup { name: "k1", was, is }], true)
}

/// A member in a unit that was a static pod, or the other way round; its data stays where
/// it is.
fn moved(to_pod: bool) -> Case<Step, World> {
    let own = "[Service]\nExecStart=/usr/bin/etcd --data-dir /var/lib/etcd/data\n";
    let in_unit = || (unit(true), vec![line("/etc/systemd/system/etcd.service", own, 0, 0o644)]);
    let in_pod = || {
        let mut about = plane();
        about.apiserver = None;
        about.units.clear();
        let dir = "    - --data-dir=/var/lib/etcd/data\n";
        (about, vec![line(ETCD, manifest("etcd", dir), 0, 0o600)])
    };
    let (was, is) = if to_pod { (in_pod(), in_unit()) } else { (in_unit(), in_pod()) };
    case(vec![Setup { name: "k1", was, is }], true)
}

fn unit_to_pod() -> Case<Step, World> {
    moved(true)
}

fn pod_to_unit() -> Case<Step, World> {
    moved(false)
}

fn texts(plan: &Plan<Step>) -> Vec<String> {
    let row = |row: &table::Row| {
        let nodes: Vec<&str> = row.nodes.iter().map(Place::as_str).collect();
        format!("{} {}: {}", row.number, nodes.join(","), row.what)
    };
    table::rows(plan).iter().map(row).collect()
}

/// Row 23: the node whose files do not differ is left alone, the leader goes last, and
/// what a state has is all that is there at the end.
#[tokio::test(start_paused = true)]
async fn what_differs_is_set_and_the_rest_is_left_alone() {
    let case = units();
    let texts = texts(&case.plan);
    assert_eq!(
        texts,
        [
            "1 k1,k2,k3: save the present state to the vault",
            "2 k2,k1: stop etcd; wait until it is gone",
            "3 k1: set files as in the state: 1 written, 1 owner or mode, 2 set aside",
            "3 k2: set files as in the state: 2 written",
            "4 k1,k2: start etcd; wait until it is ready",
            "5 k1: compare 4 files with the state; ports 2379 are open",
            "5 k2: compare 2 files with the state; ports 2379 are open",
        ]
    );
    let third = sim(&case.net, "k3").unit("etcd.service").await.unwrap().unwrap().invocation;
    let report = case.plain().execute(&case.plan).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    assert_eq!(report.outputs["saved"], format!("saved-for-{ID}"));
    for name in ["k1", "k2"] {
        let node = sim(&case.net, name);
        assert_eq!(node.text("/etc/default/etcd").unwrap(), environment(""));
        assert_eq!(node.text("/etc/etcd/server.key").as_deref(), Some(SECRET));
        let entry = node.stat("/etc/etcd/server.key".as_ref()).await.unwrap().unwrap();
        assert_eq!((entry.attributes.uid, entry.attributes.mode), (7, 0o600));
        assert_eq!(node.stat("/etc/systemd/system/etcd.service.d".as_ref()).await.unwrap(), None);
        let unit = node.unit("etcd.service").await.unwrap().unwrap();
        assert_eq!((&*unit.active_state, unit.needs_reload), ("active", false));
    }
    let now = sim(&case.net, "k3").unit("etcd.service").await.unwrap().unwrap().invocation;
    assert_eq!(now, third, "the member of k3 was not to be restarted");
}

/// Row 24: the API server goes before etcd and comes after it; each by its manifest.
#[tokio::test(start_paused = true)]
async fn a_control_plane_is_stopped_from_above_and_started_from_below() {
    let case = pods();
    let what: Vec<String> =
        texts(&case.plan).iter().map(|row| row.split(';').next().unwrap().to_owned()).collect();
    assert_eq!(
        what,
        [
            "1 k1: save the present state to the vault",
            "2 k1: stop kube-apiserver",
            "3 k1: stop etcd",
            "4 k1: set files as in the state: 2 written",
            "5 k1: start etcd",
            "6 k1: start kube-apiserver",
            "7 k1: compare 2 files with the state",
        ]
    );
    let report = case.plain().execute(&case.plan).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    let node = sim(&case.net, "k1");
    assert!(!node.text(ETCD).unwrap().contains("odd"));
    let left = node.list("/etc/kubernetes/manifests".as_ref()).await.unwrap();
    assert_eq!(left.len(), 2, "{left:?}");
}

/// Directories with their owner and mode, links, and what is of another kind than it
/// was, all with the times of the state.
#[tokio::test(start_paused = true)]
async fn a_thing_of_any_kind_is_returned() {
    let case = kinds();
    let texts = texts(&case.plan);
    assert_eq!(
        texts[2],
        "3 k1: set files as in the state: 5 written, 4 linked, 1 owner or mode, 3 set aside"
    );
    let report = case.plain().execute(&case.plan).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    let node = sim(&case.net, "k1");
    let at = async |name: &str| {
        let entry = node.stat(&std::path::Path::new("/etc/etcd").join(name)).await.unwrap();
        entry.map(|entry| {
            let owner = entry.attributes.uid;
            let target = entry.target.map(|target| target.display().to_string());
            (entry.kind, owner, entry.attributes.mode, target, entry.modified)
        })
    };
    let link = |owner: u32, to: &str| {
        Some((FileKind::Symlink, owner, 0o777, Some(to.to_owned()), i128::from(TIME)))
    };
    let file = |owner: u32, mode: u32| Some((FileKind::File, owner, mode, None, i128::from(TIME)));
    assert_eq!(at("current").await, link(7, "server-1.crt"));
    assert_eq!(at("new").await, link(0, "../nowhere/at all"));
    assert_eq!(at("file-to-link").await, link(0, "server-1.crt"));
    assert_eq!(at("dir-to-link").await, link(0, "current"));
    assert_eq!(at("link-to-file").await, file(7, 0o600));
    assert_eq!(at("dir-to-file").await, file(7, 0o600));
    assert_eq!(at("file-to-dir/in").await, file(7, 0o600));
    assert_eq!(at("same").await, file(0, 0o640));
    for (name, owner, mode) in
        [("", 7, 0o750), ("file-to-dir", 7, 0o711), ("link-to-dir", 0, 0o755)]
    {
        let wanted = Some((FileKind::Directory, owner, mode, None, i128::from(TIME)));
        assert_eq!(at(name).await, wanted, "{name}");
    }
    assert_eq!((at("odd").await, at("odd.d").await), (None, None));
    // Nothing that a link leads to was touched.
    assert_eq!(node.stat("/etc/etcd/server-1.crt".as_ref()).await.unwrap(), None);
}

/// The kubelet is stopped last and started first: it stops and starts the others.
#[tokio::test(start_paused = true)]
async fn the_kubelet_reads_its_files_again() {
    let case = kubelet();
    let what: Vec<String> =
        texts(&case.plan).iter().map(|row| row.split(';').next().unwrap().to_owned()).collect();
    assert_eq!(
        what,
        [
            "1 k1: save the present state to the vault",
            "2 k1: stop etcd",
            "3 k1: stop kubelet",
            "4 k1: set files as in the state: 2 written",
            "5 k1: start kubelet",
            "6 k1: start etcd",
            "7 k1: compare 2 files with the state",
        ]
    );
    let node = sim(&case.net, "k1");
    let run = async || node.unit("kubelet.service").await.unwrap().unwrap();
    let before = run().await;
    let report = case.plain().execute(&case.plan).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    let after = run().await;
    assert_eq!(after.active_state, "active");
    assert_ne!(after.invocation, before.invocation);
    // Also on the way back it runs with the files that are there then.
    let report = case.plain().rollback::<Step>(case.plan.id).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    assert_ne!(run().await.invocation, after.invocation);
    assert!(node.text("/var/lib/kubelet/config.yaml").unwrap().contains("odd"));
}

/// A member whose unit is gone, with all that systemd knew of it.
fn gone(ran: bool) -> Case<Step, World> {
    let lines = |more: Vec<Line>| {
        let mut lines = vec![line("/etc/default/etcd", environment(""), 0, 0o640)];
        lines.extend(more);
        lines
    };
    let was = lines(vec![line("/etc/systemd/system/etcd.service", UNIT, 0, 0o644)]);
    let mut nothing = about(None, None);
    nothing.units.clear();
    let is = (nothing, lines(vec![]));
    let case = case(vec![Setup { name: "k1", was: (unit(ran), was), is }], false);
    let node = sim(&case.net, "k1");
    for (file, what) in [("snap/db", "db"), ("wal/0.wal", "wal")] {
        node.file(&format!("/var/lib/etcd/data/member/{file}"), what, 7, 0o600);
    }
    for path in ["", "/member", "/member/snap", "/member/wal"] {
        node.chown(&format!("/var/lib/etcd/data{path}"), 7, 0o700);
    }
    case
}

fn gone_and_ran() -> Case<Step, World> {
    gone(true)
}

/// A unit that is not there any more starts at boot again, whether it ran or not.
#[tokio::test(start_paused = true)]
async fn a_unit_that_is_gone_comes_back_with_its_boot() {
    for ran in [true, false] {
        let case = gone(ran);
        let enable = "3 k1: enable etcd.service".to_owned();
        assert_eq!(texts(&case.plan).contains(&enable), !ran, "{:?}", texts(&case.plan));
        let report = case.plain().execute(&case.plan).await.unwrap();
        assert!(report.is_complete(), "{:?}", report.outcome);
        let unit = sim(&case.net, "k1").unit("etcd.service").await.unwrap().unwrap();
        let active = if ran { "active" } else { "inactive" };
        assert_eq!((&*unit.active_state, &*unit.file_state), (active, "enabled"));
        let report = case.plain().rollback::<Step>(case.plan.id).await.unwrap();
        assert!(report.is_complete(), "{:?}", report.outcome);
        assert_eq!(sim(&case.net, "k1").unit("etcd.service").await.unwrap(), None);
    }
    twice_and_stopped(gone_and_ran, 3).await;
}

/// An open port is not an API server that serves: what it says of itself counts, on the way
/// and on the way back.
#[tokio::test(start_paused = true)]
async fn a_pod_is_back_when_it_says_so() {
    let case = pods();
    let node = sim(&case.net, "k1");
    node.unready("kube-apiserver", "[+]ping ok\n[-]etcd failed: reason withheld");
    let report = case.plain().execute(&case.plan).await.unwrap();
    let Outcome::Failed(failures) = &report.outcome else { panic!("{:?}", report.outcome) };
    let why = &failures[0].error.why;
    assert!(why.contains("kube-apiserver on k1 is not ready after"), "{why}");
    assert!(why.ends_with("answers 500: [-]etcd failed: reason withheld"), "{why}");
    assert!(node.runs("kube-apiserver"));
    // Repaired, it goes on.
    node.unready("kube-apiserver", "");
    let report = case.plain().resume::<Step>(case.plan.id).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    node.unready("etcd", "{\"health\":\"false\"}");
    let report = case.plain().rollback::<Step>(case.plan.id).await.unwrap();
    let Outcome::Failed(failures) = &report.outcome else { panic!("{:?}", report.outcome) };
    assert!(failures[0].error.why.contains("etcd on k1 is not ready"), "{failures:?}");
    node.unready("etcd", "");
    let report = case.plain().rollback::<Step>(case.plan.id).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
}

/// A file that somebody changed after the plan was made is not written over.
#[tokio::test(start_paused = true)]
async fn what_somebody_changed_meanwhile_is_not_written_over() {
    let case = units();
    sim(&case.net, "k2").file("/etc/etcd/server.key", "mine", 7, 0o600);
    let report = case.plain().execute(&case.plan).await.unwrap();
    assert!(!report.is_complete());
    assert!(format!("{:?}", report.outcome).contains("was changed since"), "{:?}", report.outcome);
    assert_eq!(sim(&case.net, "k2").text("/etc/etcd/server.key").as_deref(), Some("mine"));
}

#[tokio::test(start_paused = true)]
async fn units_and_pods_pass_each_step_twice_and_ctrl_c() {
    for build in [units, pods, kinds, kubelet] {
        twice_and_stopped(build, 5).await;
    }
    for build in [units, pods] {
        plan_matrix::no_secret_in_the_journal(&build, &[SECRET]).await.unwrap();
    }
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
async fn pods_killed_at_each_call() {
    troubled(pods, Trouble::Freeze).await;
}

#[tokio::test(start_paused = true)]
async fn pods_failed_at_each_call() {
    troubled(pods, Trouble::Fail(NodeErrorKind::Other)).await;
}

#[tokio::test(start_paused = true)]
async fn pods_cut_off_at_each_call() {
    troubled(pods, Trouble::Cut).await;
}

#[tokio::test(start_paused = true)]
async fn units_powered_off_at_each_call() {
    troubled(units, Trouble::PowerOff).await;
}

#[tokio::test(start_paused = true)]
async fn units_and_kinds_late_at_each_call() {
    for build in [units, kinds] {
        troubled(build, Trouble::Hang).await;
    }
}

#[tokio::test(start_paused = true)]
async fn pods_and_a_kubelet_powered_off_at_each_call() {
    for build in [pods, kubelet] {
        troubled(build, Trouble::PowerOff).await;
    }
}

#[tokio::test(start_paused = true)]
async fn kinds_killed_at_each_call() {
    troubled(kinds, Trouble::Freeze).await;
}

#[tokio::test(start_paused = true)]
async fn kinds_failed_at_each_call() {
    troubled(kinds, Trouble::Fail(NodeErrorKind::Other)).await;
}

#[tokio::test(start_paused = true)]
async fn kinds_cut_off_at_each_call() {
    troubled(kinds, Trouble::Cut).await;
}

#[tokio::test(start_paused = true)]
async fn a_kubelet_killed_failed_and_cut_off_at_each_call() {
    for trouble in [Trouble::Freeze, Trouble::Fail(NodeErrorKind::Other), Trouble::Cut] {
        troubled(kubelet, trouble).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_rollback_killed_at_each_call() {
    for build in [units, pods, kinds, kubelet] {
        rollback_killed(build).await;
    }
}

/// A node that no step touches keeps the journal and the lock, too; where it stays away
/// the plan goes on without it.
#[tokio::test(start_paused = true)]
async fn a_node_that_only_keeps_the_journal_may_stay_away() {
    let mut case = units();
    case.net.add(&NodeName::new("k4").unwrap()).power_on();
    case.plan.nodes.insert(place("k4"));
    case.net.trouble_at(case.net.calls() + 200, Trouble::Freeze, When::After);
    let engine = case.plain();
    tokio::select! {
        biased;
        done = engine.execute(&case.plan) => panic!("it ended: {done:?}"),
        () = case.net.frozen() => {}
    }
    case.net.heal();
    sim(&case.net, "k4").power_off();
    let id = case.plan.id;
    let missing = case.other().resume::<Step>(id).await.unwrap_err();
    assert!(matches!(missing, RunError::Journal(JournalError::Missing { .. })), "{missing:?}");
    let without = |name: &str| {
        let without = [place(name)].into();
        let options = Options { take_over_lock: true, without, ..Options::default() };
        case.engine("second", Stop::never(), Events::none(), options)
    };
    let needed = without("k1").resume::<Step>(id).await.unwrap_err();
    assert!(matches!(needed, RunError::Needed { .. }), "{needed:?}");
    let report = without("k4").resume::<Step>(id).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    assert_eq!(sim(&case.net, "k2").text("/etc/etcd/server.key").as_deref(), Some(SECRET));
}

/// What cannot be brought back by files is named.
#[test]
fn another_topology_is_named() {
    let was = index("k1", plane(), &[], TIME);
    let is = index("k1", unit(true), &[], TIME);
    let drift = planner::drift(&was, &is);
    let wanted = "k1: etcd was embedded, in a static pod, and is external, in a unit";
    assert_eq!(drift, [wanted]);
    assert!(planner::drift(&was, &was).is_empty());
    let moved = |address: &str| {
        let mut about = unit(true);
        about.addresses = vec![address.to_owned()];
        let etcd = about.etcd.as_mut().unwrap();
        let url = format!("http://{address}:2379");
        etcd.options.insert("advertise-client-urls".into(), url);
        index("k1", about, &[], TIME)
    };
    let drift = planner::drift(&moved("10.0.0.1"), &moved("10.0.0.2"));
    assert_eq!(drift, ["k1: it has no address 10.0.0.1 any more"]);
}
