//! What is left of members, and what etcd makes of it.
//!
//! What is proven, on real servers: the entries that only a cut-off leader has are
//! counted, are dropped by `--force-new-cluster`, and come back when the tail is
//! kept, on every version; the member to go on from is the one that came farthest;
//! a torn end is etcd's to mend, damage before it is not.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use etcdvault::datadir::hash::ScanOptions;
use etcdvault::datadir::inspect::inspect;
use etcdvault::datadir::layout::DataDir;
use etcdvault::datadir::remains::{
    KeepError, LogEnding, LogRemains, Remains, Use, keep_tail, rank,
};
use harness::etcd::{Cluster, SERIES};

/// How long the slowest machine may take for what takes milliseconds.
const BOUND: Duration = Duration::from_secs(60);

fn log_of(path: &Path) -> LogRemains {
    LogRemains::read(&DataDir::new(path, None)).expect("a log")
}

fn remains_of(path: &Path) -> Remains {
    let log = LogRemains::read(&DataDir::new(path, None));
    let database = inspect(path, ScanOptions::default());
    let mut problems = Vec::new();
    let log = log.map_err(|error| problems.push(error.to_string())).ok();
    let database = database.map_err(|error| problems.push(error.to_string())).ok();
    Remains { log, database, problems }
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
async fn cut_off(series: &str, tail: usize) -> (Cluster, usize) {
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
    let before = log_of(&path).last_index.expect("entries");
    for number in 0..tail {
        let mut client = client.clone();
        tokio::spawn(async move { client.put(format!("tail{number}"), "1", None).await });
    }
    let start = Instant::now();
    while log_of(&path).last_index < Some(before + tail as u64) {
        assert!(start.elapsed() < BOUND, "the leader writes nothing");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.member(leader).kill().expect("kill");
    cluster.kill().expect("kill");
    (cluster, leader)
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
