//! What is left of members, and what etcd makes of it.
//!
//! What is proven, on real servers: the entries that only a cut-off leader has are
//! counted, are dropped by `--force-new-cluster`, and come back when the tail is
//! kept, on every version; the member to go on from is the one that came farthest;
//! a torn end is etcd's to mend, damage before it is not; `recover data-dir` makes of
//! all that a snapshot from which a new cluster starts, and changes nothing that it
//! was given.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use etcdvault::datadir::hash::ScanOptions;
use etcdvault::datadir::inspect::{Trailer, inspect};
use etcdvault::datadir::layout::DataDir;
use etcdvault::datadir::remains::{
    KeepError, LogEnding, LogRemains, Remains, Use, keep_tail, rank,
};
use etcdvault::node::local::LocalNode;
use etcdvault::node::{Node as _, NodeErrorKind, NodeName, RecoverSpec, RemainsSpec};
use futures_util::TryStreamExt as _;
use harness::etcd::{Cluster, SERIES};

use common::program;

#[path = "common/program.rs"]
mod common;

/// How long the slowest machine may take for what takes milliseconds.
const BOUND: Duration = Duration::from_secs(60);

fn log_of(path: &Path) -> LogRemains {
    LogRemains::read(&DataDir::new(path, None)).expect("a log")
}

fn remains_of(path: &Path) -> Remains {
    Remains::read(&DataDir::new(path, None), ScanOptions::default())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("make");
    for entry in fs::read_dir(from).expect("list") {
        let entry = entry.expect("entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copy");
        }
    }
}

/// A cluster of three whose leader wrote `tail` entries that nobody else has, all
/// killed; the index of that leader.
async fn cut_off(series: &str, tail: u64) -> (Cluster, usize) {
    // A leader that is held up for longer than its election timeout right after the
    // others are stopped gives up before it takes the writes.
    for _ in 0..5 {
        if let Some(found) = try_cut_off(series, tail).await {
            return found;
        }
    }
    panic!("the leader writes nothing");
}

async fn try_cut_off(series: &str, tail: u64) -> Option<(Cluster, usize)> {
    let mut cluster = Cluster::builder(series).members(3).start().await.expect("start");
    let mut client = cluster.client().await.expect("client");
    for number in 0..20 {
        client.put(format!("before{number}"), "1", None).await.expect("put");
    }
    let leader = cluster.leader().await.expect("a leader");
    let mut client = cluster.members()[leader].client().await.expect("client");
    // Everything so far is applied there: what follows is the tail alone.
    client.get("before19", None).await.expect("get");
    for index in (0..3).filter(|&index| index != leader) {
        cluster.member(index).pause().expect("pause");
    }
    let path = cluster.members()[leader].data_dir().to_owned();
    // Not what its log says now: what the two others have agreed to is applied by a leader
    // before its own disk has it, and that it is committed is written with what follows.
    let status = cluster.members()[leader].status().await.expect("status");
    let wanted = (Some(status.raft_applied_index() + tail), tail);
    for number in 0..tail {
        let mut client = client.clone();
        tokio::spawn(async move { client.put(format!("tail{number}"), "1", None).await });
    }
    let start = Instant::now();
    let reached = |log: LogRemains| (log.last_index, log.beyond_commit) == wanted;
    while tail > 0 && !reached(log_of(&path)) {
        if start.elapsed() > BOUND / 4 {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.member(leader).kill().expect("kill");
    cluster.kill().expect("kill");
    Some((cluster, leader))
}

/// Starts the leader from `directory` as a cluster of its own; how many of the tail's
/// keys it has. It takes a write.
async fn keys_of_tail(cluster: &mut Cluster, leader: usize, directory: &Path) -> i64 {
    let member = cluster.member(leader);
    member.set_data_dir(directory);
    member.start_with(&["--force-new-cluster"]).await.expect("start");
    let mut client = member.client().await.expect("client");
    client.put("after", "1", None).await.expect("put");
    let members = client.member_list().await.expect("members");
    assert_eq!(members.members().len(), 1);
    let prefix = etcd_client::GetOptions::new().with_prefix().with_count_only();
    let before = client.get("before", Some(prefix.clone())).await.expect("get").count();
    assert_eq!(before, 20);
    let count = client.get("tail", Some(prefix)).await.expect("get").count();
    member.stop().await.expect("stop");
    count
}

async fn tail_is_kept_or_dropped(series: &str) {
    let (mut cluster, leader) = cut_off(series, 2).await;
    let left = cluster.members()[leader].data_dir().to_owned();
    let log = log_of(&left);
    assert_eq!((log.beyond_commit, log.end, &log.problem), (2, LogEnding::Whole, &None), "{log:?}");
    let root = tempfile::tempdir().expect("temporary directory");

    let dropped = root.path().join("dropped");
    copy(&left, &dropped);
    assert_eq!(keys_of_tail(&mut cluster, leader, &dropped).await, 0, "{series}");

    let kept = root.path().join("kept");
    copy(&left, &kept);
    let directory = DataDir::new(&kept, None);
    assert_eq!(keep_tail(&directory).expect("keep"), 2);
    assert_eq!(log_of(&kept).beyond_commit, 0);
    assert_eq!(keep_tail(&directory).expect("keep"), 0, "a second time changes nothing");
    assert_eq!(keys_of_tail(&mut cluster, leader, &kept).await, 2, "{series}");
    // The original is as it was.
    assert_eq!(log_of(&left), log);

    // The farthest is the one to go on from, wherever it stands.
    let all: Vec<_> = cluster.members().iter().map(|member| member.data_dir().to_owned()).collect();
    let mut paths: Vec<_> = (0..3).map(|index| all[index].clone()).collect();
    paths[leader] = left;
    let remains: Vec<_> = paths.iter().map(|path| remains_of(path)).collect();
    assert!(remains.iter().all(|remains| remains.usable() == (Use::Start, None)), "{remains:?}");
    assert_eq!(rank(&remains)[0], leader);
}

#[tokio::test]
async fn the_tail_of_a_cut_off_leader_3_4_and_3_5() {
    tail_is_kept_or_dropped("3.4").await;
    tail_is_kept_or_dropped("3.5").await;
}

#[tokio::test]
async fn the_tail_of_a_cut_off_leader_3_6_and_3_7() {
    assert_eq!(SERIES, ["3.4", "3.5", "3.6", "3.7"], "a version without this test");
    tail_is_kept_or_dropped("3.6").await;
    tail_is_kept_or_dropped("3.7").await;
}

#[tokio::test]
async fn a_torn_end_and_damage_before_it() {
    let (mut cluster, leader) = cut_off("3.6", 2).await;
    let left = cluster.members()[leader].data_dir().to_owned();
    let root = tempfile::tempdir().expect("temporary directory");
    let whole = log_of(&left);
    let segment = |directory: &Path| {
        let directory = DataDir::new(directory, None);
        directory.wal().join(directory.segments().expect("segments")[0].to_string())
    };
    let (end, _) = DataDir::new(&left, None).read_log().expect("a log");

    // The file ends within the last record.
    let torn = root.path().join("torn");
    copy(&left, &torn);
    let file = OpenOptions::new().write(true).open(segment(&torn)).expect("open");
    file.set_len(end.position.offset - 8).expect("cut");
    let remains = remains_of(&torn);
    let log = remains.log.as_ref().expect("a log");
    assert!(log.last_index <= whole.last_index, "{log:?}");
    assert_eq!((log.end, &log.problem), (LogEnding::Torn, &None), "{log:?}");
    assert_eq!(remains.usable(), (Use::Start, None));
    keys_of_tail(&mut cluster, leader, &torn).await;

    // A flipped bit amid the log.
    let damaged = root.path().join("damaged");
    copy(&left, &damaged);
    let file = OpenOptions::new().read(true).write(true).open(segment(&damaged)).expect("open");
    let mut byte = [0];
    let at = end.position.offset / 2;
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ 1], at).expect("write");
    let remains = remains_of(&damaged);
    let log = remains.log.as_ref().expect("what lies before");
    assert!(log.end == LogEnding::Damaged && log.problem.is_some(), "{log:?}");
    assert!(log.last_index < whole.last_index, "{log:?}");
    let (usable, why) = remains.usable();
    assert_eq!(usable, Use::Database);
    assert!(why.expect("a reason").contains("the log is damaged"));
    assert!(keep_tail(&DataDir::new(&damaged, None)).is_err());
    let member = cluster.member(leader);
    member.set_data_dir(&damaged);
    assert!(member.start_with(&["--force-new-cluster"]).await.is_err(), "etcd starts from it");

    // A whole log wins over what came farther and cannot be started.
    assert_eq!(rank([&remains, &remains_of(&torn)]), [1, 0]);

    // Without a log the database is what there is; without both, nothing.
    fs::remove_dir_all(damaged.join("member/wal")).expect("remove");
    let bare = remains_of(&damaged);
    assert_eq!(bare.usable(), (Use::Database, Some("there is no log".to_owned())));
    assert_eq!(bare.problems.len(), 1);
    fs::remove_dir_all(damaged.join("member")).expect("remove");
    assert_eq!(remains_of(&damaged).usable().0, Use::Nothing);
}

#[tokio::test]
async fn a_running_member_is_let_alone() {
    let cluster = Cluster::builder("3.6").start().await.expect("start");
    let directory = DataDir::new(cluster.members()[0].data_dir(), None);
    assert!(matches!(keep_tail(&directory), Err(KeepError::InUse(_))));
}

/// Names and contents of all files below a directory.
fn contents(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("list") {
            let entry = entry.expect("entry");
            if entry.file_type().expect("type").is_dir() {
                folders.push(entry.path());
            } else {
                let path = entry.path();
                found.push((path.display().to_string(), fs::read(&path).expect("read")));
            }
        }
    }
    found.sort();
    found
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Builds a member of a snapshot, starts it in the place of `index`, and says how many
/// of the tail's keys it has.
async fn restored(cluster: &mut Cluster, index: usize, snapshot: &Path, to: &Path) -> i64 {
    let (name, peer) = {
        let member = &cluster.members()[index];
        (member.name().to_owned(), member.peer_url())
    };
    let alone = format!("{name}={peer}");
    let restore = [
        "restore",
        "data-dir",
        text(snapshot),
        "--data-dir",
        text(to),
        "--name",
        &name,
        "--initial-cluster",
        &alone,
        "--initial-advertise-peer-urls",
        &peer,
    ];
    program().run(restore).await.expect("run").expect(0);
    let member = cluster.member(index);
    member.set_data_dir(to);
    member.start().await.expect("start");
    let mut client = member.client().await.expect("client");
    client.put("after", "1", None).await.expect("put");
    let prefix = etcd_client::GetOptions::new().with_prefix().with_count_only();
    assert_eq!(client.get("before", Some(prefix.clone())).await.expect("get").count(), 20);
    let count = client.get("tail", Some(prefix)).await.expect("get").count();
    member.stop().await.expect("stop");
    count
}

#[tokio::test]
async fn a_lost_quorum_without_a_backup() {
    let (mut cluster, leader) = cut_off("3.6", 2).await;
    let etcd = cluster.etcd().server();
    let places: Vec<_> = cluster.members().iter().map(|m| m.data_dir().to_owned()).collect();
    let before: Vec<_> = places.iter().map(|place| contents(place)).collect();
    let root = tempfile::tempdir().expect("temporary directory");
    let look: Vec<&str> =
        ["recover", "data-dir"].into_iter().chain(places.iter().map(|p| text(p))).collect();

    // A look, for people and for scripts.
    let ran = program().run(&look).await.expect("run").expect(0);
    assert!(ran.text().contains("longest log: 2 entries more than the next"), "{ran}");
    assert!(ran.stderr.contains("--output recovered.db"), "{ran}");
    let looked = program().run(look.iter().chain(&["--json"])).await.expect("run").expect(0).json();
    assert_eq!(looked["places"][0]["path"], text(&places[leader]), "{looked}");
    assert_eq!(looked["places"][0]["log"]["beyond_commit"], 2);
    assert_eq!(looked["places"][0]["usable"], "start");
    assert!(looked["recovered"].is_null());

    for (name, flag, kept) in [("kept", None, 2), ("dropped", Some("--drop-uncommitted"), 0)] {
        let snapshot = root.path().join(name);
        let more = ["--json", "--output", text(&snapshot), "--etcd", text(&etcd)];
        let all = look.iter().chain(&more).copied().chain(flag);
        let report = program().run(all).await.expect("run").expect(0).json();
        let made = &report["recovered"];
        assert_eq!(made["uncommitted_kept"], kept, "{report}");
        assert_eq!(made["uncommitted_dropped"], 2 - kept, "{report}");
        assert!(made["revision"].as_i64() > Some(20), "{report}");
        let data = root.path().join(format!("{name}-data"));
        assert_eq!(restored(&mut cluster, leader, &snapshot, &data).await, kept);
    }

    // Nothing that was given changed, and nothing else is left.
    let after: Vec<_> = places.iter().map(|place| contents(place)).collect();
    assert!(before == after, "a directory that was given was changed");
    let mut left: Vec<_> = fs::read_dir(root.path())
        .expect("list")
        .map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8"))
        .collect();
    left.sort();
    assert_eq!(left, ["dropped", "dropped-data", "kept", "kept-data"]);
}

/// The same on a node, for `recover cluster`: with what etcd alone over the copy said.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_makes_a_snapshot_of_what_a_member_left() {
    let (cluster, leader) = cut_off("3.6", 2).await;
    let left = cluster.members()[leader].data_dir().to_owned();
    let node = LocalNode::new(NodeName::new("here").expect("a name"));
    let look = |data_dir: &Path, database| {
        let spec = RemainsSpec { data_dir: data_dir.to_owned(), wal_dir: None, database };
        node.remains(spec)
    };
    let found = look(&left, true).await.expect("a look");
    assert!(!found.in_use);
    assert_eq!(found.remains, remains_of(&left));
    let log = look(&left, false).await.expect("a look").remains;
    assert!(log.database.is_none() && log.log == found.remains.log, "{log:?}");
    let nowhere = look(Path::new("/nowhere"), true).await.expect("a look");
    assert_eq!(nowhere.remains.usable().0, Use::Nothing);
    assert!(nowhere.remains.problems.len() == 2 && !nowhere.in_use, "{nowhere:?}");

    let before = contents(&left);
    let last = found.remains.log.as_ref().and_then(LogRemains::last);
    let spec = |last, drop_uncommitted| RecoverSpec {
        data_dir: left.clone(),
        wal_dir: None,
        etcd: cluster.etcd().server(),
        last,
        drop_uncommitted,
    };
    let root = tempfile::tempdir().expect("temporary directory");
    let mut revisions = Vec::new();
    for (name, dropped) in [("kept", 0), ("dropped", 2)] {
        let made = node.recover_member(spec(last, dropped > 0)).await;
        let (recovered, snapshot) = made.expect("a snapshot");
        assert_eq!((recovered.kept, recovered.dropped), (2 - dropped, dropped));
        let bytes: Vec<_> = snapshot.try_collect().await.expect("all of it");
        let bytes = bytes.concat();
        assert_eq!(bytes.len() as u64, recovered.size);
        let file = root.path().join(name);
        fs::write(&file, bytes).expect("write");
        let options = ScanOptions { sha256: true, ..ScanOptions::default() };
        let is = inspect(&file, options).expect("a snapshot");
        assert!(is.sound && is.trailer == Trailer::Right, "{is:?}");
        let served = recovered.served.expect("a HashKV");
        assert_eq!((is.revision, is.hash_kv), (served.revision, Some(served.hash)));
        assert_eq!(recovered.revision, is.revision);
        revisions.push(is.revision);
    }
    assert_eq!(revisions[0], revisions[1] + 2);

    // What was looked at is not there any more; another etcd; a stream that nobody takes.
    let other = last.map(|(term, index)| (term, index - 1));
    let error = node.recover_member(spec(other, false)).await.err().expect("refused");
    assert_eq!(error.kind, NodeErrorKind::Unexpected, "{error}");
    let wrong = RecoverSpec { etcd: "/bin/true".into(), ..spec(last, false) };
    let error = node.recover_member(wrong).await.err().expect("refused");
    assert!(error.why.contains("is not etcd") && error.hint.is_some(), "{error}");
    drop(node.recover_member(spec(last, false)).await.expect("a snapshot"));
    // The thread that writes it notices by itself that nobody does.
    let start = Instant::now();
    while fs::read_dir(&left).expect("list").count() > 1 {
        assert!(start.elapsed() < BOUND, "something was left beside the data");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(contents(&left) == before, "what the member left was changed");

    // Without a log no etcd starts: the database as it lies there.
    fs::remove_dir_all(left.join("member/wal")).expect("remove");
    let bare = RecoverSpec { etcd: "/nowhere".into(), ..spec(None, false) };
    let (recovered, snapshot) = node.recover_member(bare).await.expect("a snapshot");
    assert!(recovered.etcd.is_none() && recovered.served.is_none(), "{recovered:?}");
    let bytes: Vec<_> = snapshot.try_collect().await.expect("all of it");
    assert_eq!(bytes.concat().len() as u64, recovered.size);
}

/// A member that runs without a leader writes nothing, and can be gone on from as it is;
/// one that is written to cannot.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_member_without_a_leader_is_recovered_from() {
    let mut cluster = Cluster::builder("3.5").members(3).start().await.expect("start");
    let mut client = cluster.client().await.expect("client");
    for number in 0..20 {
        client.put(format!("before{number}"), "1", None).await.expect("put");
    }
    let leader = cluster.leader().await.expect("a leader");
    let left = cluster.members()[leader].data_dir().to_owned();
    for index in (0..3).filter(|&index| index != leader) {
        cluster.member(index).kill().expect("kill");
    }
    let start = Instant::now();
    let mut client = cluster.members()[leader].client().await.expect("client");
    while client.status().await.expect("status").leader() != 0 {
        assert!(start.elapsed() < BOUND, "it leads without followers");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let node = LocalNode::new(NodeName::new("here").expect("a name"));
    let spec = RemainsSpec { data_dir: left.clone(), wal_dir: None, database: true };
    let found = node.remains(spec).await.expect("a look");
    assert!(found.in_use);
    assert_eq!(found.remains.usable(), (Use::Start, None));
    let last = found.remains.log.as_ref().and_then(LogRemains::last);
    let pid = cluster.members()[leader].pid().expect("it runs");
    let spec = RecoverSpec {
        data_dir: left,
        wal_dir: None,
        etcd: format!("/proc/{pid}/exe").into(),
        last,
        drop_uncommitted: false,
    };
    let (recovered, snapshot) = node.recover_member(spec).await.expect("a snapshot");
    let bytes: Vec<_> = snapshot.try_collect().await.expect("all of it");
    assert_eq!(bytes.concat().len() as u64, recovered.size);
    assert!(recovered.revision >= 21 && recovered.served.is_some(), "{recovered:?}");
    assert!(recovered.etcd.expect("a version").starts_with("3.5."));
}

#[tokio::test]
async fn a_bare_database_and_a_renamed_member_directory() {
    let (mut cluster, leader) = cut_off("3.5", 0).await;
    let root = tempfile::tempdir().expect("temporary directory");
    let etcd = cluster.etcd().server();
    let data = cluster.members()[leader].data_dir().to_owned();

    // A copied database: what it holds, without any etcd.
    let bare = root.path().join("copied");
    fs::copy(data.join("member/snap/db"), &bare).expect("copy");
    let snapshot = root.path().join("of-the-database.db");
    let recover = ["recover", "data-dir", text(&bare), "-o", text(&snapshot), "--etcd", "nowhere"];
    let ran = program().run(recover).await.expect("run").expect(0);
    assert!(ran.text().contains("the database alone"), "{ran}");
    assert!(ran.text().contains("its database had every entry"), "{ran}");
    program().run(["inspect", text(&snapshot)]).await.expect("run").expect(0);

    // A member directory under another name, beside the database of a later time.
    let renamed = root.path().join("member.2026-11-21");
    copy(&data.join("member"), &renamed);
    let snapshot = root.path().join("of-the-member.db");
    let recover = [
        "recover",
        "data-dir",
        text(&bare),
        text(&renamed),
        "-o",
        text(&snapshot),
        "--json",
        "--etcd",
        text(&etcd),
    ];
    let report = program().run(recover).await.expect("run").expect(0).json();
    assert_eq!(report["places"][0]["path"], text(&renamed), "{report}");
    let data = root.path().join("data");
    assert_eq!(restored(&mut cluster, leader, &snapshot, &data).await, 0);
}

/// A cut-off leader whose database says of which version it is: etcd writes that behind its
/// log, and a killed one has not always come to it.
async fn of_known_version(series: &str) -> (Cluster, usize) {
    for _ in 0..10 {
        let (cluster, leader) = cut_off(series, 1).await;
        let version = remains_of(cluster.members()[leader].data_dir()).version();
        if version.is_some_and(|version| version.to_string().starts_with(series)) {
            return (cluster, leader);
        }
    }
    panic!("no database of a killed leader says that it is of {series}");
}

#[tokio::test]
async fn what_must_not_be_gone_on_from() {
    let (mut one, leader) = of_known_version("3.6").await;
    let mut other = Cluster::builder("3.6").token("another").start().await.expect("start");
    let root = tempfile::tempdir().expect("temporary directory");
    let output = root.path().join("out.db");
    let place = one.members()[leader].data_dir().to_owned();
    let running = other.members()[0].data_dir().to_owned();
    let recover = |more: Vec<String>| async move {
        let base = ["recover".to_owned(), "data-dir".to_owned()];
        program().run(base.into_iter().chain(more)).await.expect("run")
    };
    let to = |place: &Path| vec![text(place).to_owned(), "-o".into(), text(&output).to_owned()];

    let ran = recover(to(&running)).await.expect(11);
    assert!(ran.stderr.contains("stop that etcd first"), "{ran}");
    other.stop().await.expect("stop");
    let both = [vec![text(&running).to_owned()], to(&place)].concat();
    let ran = recover(both).await.expect(2);
    assert!(ran.stderr.contains("different clusters"), "{ran}");

    // Another etcd would bring the store to its own version, or not start.
    let wrong = Cluster::builder("3.5").prepare().await.expect("prepare").etcd().server();
    let of = |etcd: &str| [to(&place), vec!["--etcd".into(), etcd.to_owned()]].concat();
    let ran = recover(of(text(&wrong))).await.expect(2);
    assert!(ran.stderr.contains("the store is of 3.6"), "{ran}");
    let ran = recover(of("/nowhere/etcd")).await.expect(2);
    assert!(ran.stderr.contains("etcd 3.6 is needed"), "{ran}");
    let ran = recover(of("/bin/true")).await.expect(2);
    assert!(ran.stderr.contains("is not etcd"), "{ran}");

    let ran = recover(to(root.path())).await.expect(2);
    assert!(ran.stderr.contains("is no data directory of etcd"), "{ran}");
    let ran = recover(to(&root.path().join("missing"))).await.expect(2);
    assert!(ran.stderr.contains("cannot be read"), "{ran}");
    let empty = root.path().join("empty.db");
    fs::write(&empty, b"").expect("write");
    let ran = recover(to(&empty)).await.expect(20);
    assert!(ran.stderr.contains("there is no database"), "{ran}");

    // Nothing was begun; a file that stands there stays.
    assert!(!output.exists());
    fs::write(&output, b"mine").expect("write");
    let ran = recover(to(&place)).await.expect(2);
    assert!(ran.stderr.contains("exists"), "{ran}");
    assert_eq!(fs::read(&output).expect("read"), b"mine");
    one.stop().await.expect("stop");
}
