//! A return of copies of the directories of stopped members.

use std::sync::LazyLock;

use etcdvault::node::{MemberSpec, TreeSpec};
use etcdvault::operation::returning::copies::{self, CopiedNode, CopyInputs};
use futures_util::TryStreamExt as _;

use super::*;

/// Where copies have a member and a log that lies elsewhere.
const COPIED: [&str; 2] = ["/was/etcd/member", "/was/log"];

/// What was copied of three stopped members, by node and path: real directories, the log of
/// k2 outside of it.
pub(super) static COPIES: LazyLock<BTreeMap<(String, PathBuf), Vec<u8>>> = LazyLock::new(|| {
    // A test's own clock may stand still.
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(copy_all())
    })
    .join()
    .unwrap()
});

async fn copy_all() -> BTreeMap<(String, PathBuf), Vec<u8>> {
    let net = SimNet::new();
    let mut copies = BTreeMap::new();
    let members = [("k1", 1), ("k2", 2), ("k3", 3)];
    let all = members.map(|(name, number)| format!("{name}=http://10.0.0.{number}:2380"));
    for (name, _) in members {
        let node = net.add(&NodeName::new(name).unwrap());
        node.dir("/was/etcd").power_on();
        let spec = MemberSpec {
            name: name.to_owned(),
            initial_cluster: all.join(","),
            token: format!("etcdvault-{ID}"),
            bump_revision: 0,
            wal: (name == "k2").then(|| COPIED[1].into()),
            owner: (7, 7),
            etcd_version: None,
            size: SNAPSHOT.len() as u64,
            sha256: Sha256::digest(SNAPSHOT).into(),
            hash_kv: None,
        };
        let snapshot = futures_util::stream::iter([Ok(bytes::Bytes::from_static(SNAPSHOT))]);
        node.build_member(COPIED[0].as_ref(), spec, snapshot.boxed()).await.unwrap();
        for path in COPIED.map(PathBuf::from) {
            if node.stat(&path).await.unwrap().is_some() {
                let (roots, base) = (vec![path.clone()], Some(path.clone()));
                let tar = node.save_tree(TreeSpec { roots, base, exclude: vec![] }).await.unwrap();
                let tar: Vec<bytes::Bytes> = tar.try_collect().await.unwrap();
                copies.insert((name.to_owned(), path), tar.concat());
            }
        }
    }
    copies
}

/// Copies instead of a snapshot, to members as in [`units`]; the log of k2 lies elsewhere.
fn copied() -> Case<Step, World> {
    with_copies(false)
}

/// And all three up.
fn copied_all_up() -> Case<Step, World> {
    with_copies(true)
}

fn with_copies(all: bool) -> Case<Step, World> {
    let (net, names, nodes) = nodes(all, &["k2"]);
    let copied = |node: DataNode| CopiedNode {
        from: COPIED[0].into(),
        wal_from: node.member.wal_dir.as_ref().map(|_| COPIED[1].into()),
        node,
    };
    let plan = copies::plan(&CopyInputs {
        id: ID.parse().unwrap(),
        made: "2026-11-21T07:00:00Z".parse().unwrap(),
        cluster: "prod".into(),
        backup: BACKUP.into(),
        taken: "2026-11-21T06:00:00Z".parse().unwrap(),
        nodes: nodes.into_iter().map(copied).collect(),
        keepers: vec![],
        leader: Some(place("k1")),
        save: true,
        facts: vec![],
    });
    finish(net, names, plan)
}

/// Copies of the directories of stopped members return to the same members as they were,
/// byte for byte, and are held against each other.
#[tokio::test(start_paused = true)]
async fn copies_return_to_all_members() {
    let case = copied();
    let start = case.snapshot().await;
    assert_eq!(
        texts(&case.plan),
        [
            "1 k1,k2,k3: save the present state and data to the vault",
            &format!(
                "2 k1,k2,k3: unpack the copies of the data directories in {BACKUP} beside the \
                 present"
            ),
            "3 k3: disable etcd.service",
            "4 k2,k1: stop etcd; wait until it is gone",
            "5 k1,k2,k3: set the present data aside, put what was built in its place",
            "6 k2,k3,k1: start etcd; wait until it is ready",
            "7 k1,k2,k3: compare members, revision and HashKV on all; write something",
        ]
    );
    assert!(fact(&case.plan, "Revision").contains("below what was served"));
    let report = case.plain().execute(&case.plan).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    let was = scan(SNAPSHOT).unwrap();
    for name in ["k1", "k2", "k3"] {
        let node = sim(&case.net, name);
        let found = scan(&node.bytes(&format!("{}/snap/db", data(name))).unwrap()).unwrap();
        assert!(found.is_sound(), "{:?}", found.problems);
        assert_eq!((found.revision, found.live_keys), (was.revision, was.live_keys));
        let unit = node.unit("etcd.service").await.unwrap().unwrap();
        assert_eq!((&*unit.active_state, &*unit.file_state), ("active", "enabled"));
        let log = if name == "k2" { log(name) } else { format!("{}/wal", data(name)) };
        let entries = node.list(log.as_ref()).await.unwrap();
        assert!(!entries.is_empty(), "{name} has no log");
        assert!(entries.iter().all(|entry| entry.attributes.uid == 7), "{entries:?}");
        let kept = node.bytes(&format!("{}.before-{ID}/snap/db", data(name)));
        assert_eq!(kept.is_some(), name != "k3");
    }
    let lines = by_hand(&case.plan);
    position(&lines, "etcdvault export 01JD2Y6Q000000000000000000 --object data-k2 -o data-k2.tar");
    let copy = format!("{}.new-by-hand.copy", data("k2"));
    position(&lines, &format!("mv -nT {copy}/was/log {}.new-by-hand", log("k2")));
    position(&lines, &format!("mv -nT {copy}/was/etcd/member {}.new-by-hand", data("k2")));

    sim(&case.net, "k2").file(&format!("{}/snap/more", data("k2")), "written later", 7, 0o600);
    let report = case.plain().rollback::<Step>(case.plan.id).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    assert_eq!(case.snapshot().await, start);
    let kept = format!("{}.returned-{ID}/snap/more", data("k2"));
    assert_eq!(sim(&case.net, "k2").text(&kept).as_deref(), Some("written later"));
}

/// A copy that makes its member hold something else than the others ends the plan; it waits
/// first, as a member may be about to read what it lacks.
#[tokio::test(start_paused = true)]
async fn copies_that_do_not_agree_are_found() {
    let case = with_odd(copied(), "k3");
    let begun = tokio::time::Instant::now();
    let report = case.plain().execute(&case.plan).await.unwrap();
    let Outcome::Failed(failures) = &report.outcome else { panic!("{:?}", report.outcome) };
    let details = &failures[0].error.details;
    assert!(details[0].starts_with("k3 has HashKV "), "{details:?}");
    assert!(details[0].contains(", and k1 has "), "{details:?}");
    assert!(begun.elapsed() >= std::time::Duration::from_secs(180));

    let mut case = copied();
    for stage in &mut case.plan.stages {
        for step in &mut stage.steps {
            if let Step::CheckCopies { members } = step {
                members[1].name = "k9".into();
            }
        }
    }
    let report = case.plain().execute(&case.plan).await.unwrap();
    let Outcome::Failed(failures) = &report.outcome else { panic!("{:?}", report.outcome) };
    let details = failures[0].error.details.join("\n");
    assert!(details.contains("member k9 does not answer"), "{details}");
    assert!(details.contains("is none of its members"), "{details}");
}

#[tokio::test(start_paused = true)]
async fn copies_pass_each_step_twice_and_ctrl_c() {
    twice_and_stopped(copied, 6).await;
    rollback_killed(copied).await;
}

#[tokio::test(start_paused = true)]
async fn copies_killed_at_each_call() {
    troubled(copied, Trouble::Freeze).await;
}

#[tokio::test(start_paused = true)]
async fn copies_failed_cut_off_and_late_at_each_call() {
    for trouble in [Trouble::Fail(NodeErrorKind::Other), Trouble::Cut, Trouble::Hang] {
        troubled(copied, trouble).await;
    }
}

#[tokio::test(start_paused = true)]
async fn copies_powered_off_at_each_call() {
    troubled(copied_all_up, Trouble::PowerOff).await;
}
