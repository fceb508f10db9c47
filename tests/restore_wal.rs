//! The log that a restore writes, and the logs of real servers.
//!
//! What is proven: our log of one and of three members is byte for byte that of
//! etcdutl 3.5 and 3.6; the logs of running etcd 3.4 to 3.7, over several
//! segments, decode to what the servers say of themselves; a cut-off log is
//! told from a damaged one.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use etcdvault::datadir::membership::Membership;
use etcdvault::datadir::restore::files;
use etcdvault::wal::{
    ConfChange, End, EntryKind, Event, LogEnd, LogError, Position, Segment, SegmentName, Summary,
    read_log,
};
use harness::etcd::{Cluster, Etcd, SERIES};

const THREE: &str = "m1=http://10.0.0.1:2380,m2=http://10.0.0.2:2380,\
                     m2=https://node<2>.example:2380,m3=http://[2001:db8::3]:2380";

/// The segments of a directory in their order.
fn segments(directory: &Path) -> Vec<Segment<BufReader<File>>> {
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .expect("list the log")
        .filter_map(|entry| SegmentName::parse(entry.expect("entry").file_name().to_str()?))
        .collect();
    names.sort_unstable();
    names
        .into_iter()
        .map(|name| {
            let file = File::open(directory.join(name.to_string())).expect("open a segment");
            let size = file.metadata().expect("metadata").len();
            Segment { name, size, reader: BufReader::new(file) }
        })
        .collect()
}

struct Log {
    end: LogEnd,
    summary: Summary,
    changes: Vec<(u64, String)>,
    positions: Vec<Position>,
}

fn read(directory: &Path) -> Result<Log, LogError> {
    let (mut summary, mut changes, mut positions) = (Summary::default(), Vec::new(), Vec::new());
    let end = read_log(segments(directory), &mut |position, event| {
        summary.add(position, &event);
        positions.push(position);
        if let Event::Entry(entry) = event
            && entry.kind == EntryKind::ConfChange
        {
            let change = ConfChange::parse(entry.data).expect("a change of a member");
            let context = String::from_utf8(change.context.to_vec()).expect("JSON");
            changes.push((change.node_id, context));
        }
    })?;
    Ok(Log { end, summary, changes, positions })
}

/// A snapshot with something in it.
async fn snapshot(directory: &Path, series: &str) -> std::path::PathBuf {
    let cluster = Cluster::builder(series).start().await.expect("start");
    let mut client = cluster.client().await.expect("client");
    client.put("key", "value", None).await.expect("put");
    let path = directory.join(format!("{series}.db"));
    cluster.etcdctl(["snapshot".as_ref(), "save".as_ref(), path.as_os_str()]).await.expect("save");
    path
}

#[tokio::test]
async fn our_log_is_that_of_etcdutl() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let database = snapshot(directory.path(), "3.5").await;
    // The name with < and > is escaped in the JSON; the URL of m2 cannot be had.
    let three = THREE.replace("<2>", "2").replace("m1=", "m<1>&=");
    let one = "default=http://localhost:2380";
    for series in ["3.5", "3.6"] {
        let etcd = Etcd::version(series).await.expect("etcd");
        for (case, cluster, token) in [("one", one, "etcd-cluster"), ("three", &three, "a token")] {
            let membership = Membership::from_initial_cluster(cluster, token).expect("membership");
            for member in membership.members() {
                let target = directory.path().join(format!("{series}-{case}-{}", member.id_hex()));
                let advertised = member.peer_urls.join(",");
                etcd.etcdutl([
                    "snapshot".as_ref(),
                    "restore".as_ref(),
                    database.as_os_str(),
                    "--data-dir".as_ref(),
                    target.as_os_str(),
                    "--name".as_ref(),
                    member.name.as_ref(),
                    "--initial-cluster".as_ref(),
                    cluster.as_ref(),
                    "--initial-cluster-token".as_ref(),
                    token.as_ref(),
                    "--initial-advertise-peer-urls".as_ref(),
                    advertised.as_ref(),
                ])
                .await
                .expect("restore");
                let name = "member/wal/0000000000000000-0000000000000000.wal";
                let mut theirs = Vec::new();
                File::open(target.join(name))
                    .and_then(|mut file| file.read_to_end(&mut theirs))
                    .expect("read the log");
                let ours = files::log(&membership, member);
                assert!(theirs.starts_with(&ours), "{series} {case} {}", member.name);
                assert!(theirs[ours.len()..].iter().all(|&byte| byte == 0), "{series} {case}");
                let raft = target.join("member/snap").join(files::snapshot_name(&membership));
                assert!(raft.exists(), "{} is missing", raft.display());
                let log = read(&target.join("member/wal")).expect("read it back");
                assert_eq!(log.end.position.offset, ours.len() as u64);
                assert_eq!(log.end.end, End::Zero);
                assert_eq!(log.changes.len(), membership.members().len());
            }
        }
    }
}

#[tokio::test]
async fn logs_of_real_servers_are_read() {
    for series in SERIES {
        // Segments are cut at 64 MB: values of 1 MB get there soon.
        let mut cluster = Cluster::builder(series)
            .members(if series == "3.6" { 3 } else { 1 })
            .args(["--snapshot-count", "50"])
            .start()
            .await
            .expect("start");
        let mut client = cluster.client().await.expect("client");
        let value: Vec<u8> = (0..1_000_000u32).map(|n| ((n * 31) >> 3) as u8).collect();
        for number in 0..70 {
            client.put(format!("key-{number}"), value.clone(), None).await.expect("put");
        }
        let status = cluster.members()[0].status().await.expect("status");
        let members = client.member_list().await.expect("members");
        let ids: Vec<u64> = members.members().iter().map(etcd_client::Member::id).collect();
        // Not stopped: handing over the leadership would begin another term.
        cluster.kill().expect("kill");

        for member in cluster.members() {
            let log = read(&member.wal_dir()).expect("read the log");
            let metadata = log.end.metadata.expect("metadata");
            assert!(ids.contains(&metadata.member_id), "{series}");
            let header = members.header().expect("header");
            assert_eq!(metadata.cluster_id, header.cluster_id(), "{series}");
            let state = log.summary.hard_state.expect("a hard state");
            let (index, term) = log.summary.last.expect("entries");
            assert_eq!((state.term, term), (status.raft_term(), status.raft_term()), "{series}");
            assert!(index >= status.raft_index(), "{series}: {index}");
            assert!(state.commit <= index && state.commit + 5 > status.raft_index(), "{series}");
            assert!(log.summary.snapshots > 1, "{series}: {:?}", log.summary);
            assert_eq!(log.changes.len(), ids.len(), "{series}: {:?}", log.changes);
            assert!(log.end.position.segment.sequence >= 1, "{series} has one segment");
            assert!(log.positions.is_sorted_by_key(|p| (p.segment, p.offset)));
        }

        // Cut anywhere in the last record, the log ends before it; damaged in
        // the middle, it cannot be read on.
        let directory = tempfile::tempdir().expect("temporary directory");
        let wal = cluster.members()[0].wal_dir();
        for entry in std::fs::read_dir(&wal).expect("list").flatten() {
            if SegmentName::parse(&entry.file_name().to_string_lossy()).is_some() {
                std::fs::copy(entry.path(), directory.path().join(entry.file_name()))
                    .expect("copy");
            }
        }
        let whole = read(directory.path()).expect("read");
        let end = whole.end.position;
        let last = whole.positions.last().expect("records").offset;
        let path = directory.path().join(end.segment.to_string());
        let file = File::options().write(true).open(&path).expect("open");
        for cut in [end.offset - 1, last + 9, last + 1] {
            file.set_len(cut).expect("truncate");
            let log = read(directory.path()).expect("read the cut log");
            assert_eq!((log.end.end, log.end.position.offset), (End::Torn, last), "{series}");
        }
        let middle = whole.positions[whole.positions.len() / 2];
        let path = directory.path().join(middle.segment.to_string());
        let mut bytes = std::fs::read(&path).expect("read");
        bytes[middle.offset as usize + 20] ^= 4;
        std::fs::write(&path, bytes).expect("write");
        assert!(matches!(read(directory.path()), Err(LogError::Segment { .. })), "{series}");
    }
}
