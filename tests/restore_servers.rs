//! Restored directories on real etcd 3.4 to 3.7.
//!
//! What is proven, for one member and for three, with and without a revision
//! bump: every member starts and answers the hash that was predicted; keys,
//! users and roles are there; authentication refuses and admits; writes go on
//! and hashes agree afterwards; a lease of the old cluster still expires; a
//! fresh copy starts with --force-new-cluster; a member can be added; bbolt's
//! own check and etcdutl accept the file. Snapshots go up across versions, also
//! with a log directory of their own; a newer store is refused for an older
//! etcd; databases of every page size boot.

use std::path::Path;
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions, GetOptions, LeaseGrantOptions, PutOptions};
use etcdvault::datadir::restore::{
    EtcdVersion, Expected, ExpectedHash, Options, Restore, RestoreError, Restored, Target,
};
use harness::etcd::{Cluster, Etcd, SERIES};
use harness::fill::{Fill, PASSWORD};

#[path = "common/mkdb.rs"]
mod mkdb;

/// Longer than starting three members takes on a busy machine.
const TTL: i64 = 25;
const LEASE: i64 = 0x1234_5678;

/// A snapshot and what its cluster said of it.
struct Taken {
    bytes: Vec<u8>,
    revision: i64,
    hash: ExpectedHash,
    keys: i64,
}

fn root(cluster: &Cluster) -> ConnectOptions {
    cluster.connect_options().with_user("root", PASSWORD)
}

/// A cluster with everything in it, its snapshot, and authentication on.
async fn take(series: &str) -> Taken {
    let cluster = Cluster::builder(series).start().await.expect("start");
    let mut client = cluster.client().await.expect("client");
    let filled = Fill::new(7, 300).run(&client).await.expect("fill");
    let options = LeaseGrantOptions::new().with_id(LEASE);
    client.lease_grant(TTL, Some(options)).await.expect("grant");
    let options = PutOptions::new().with_lease(LEASE);
    client.put("expires", "soon", Some(options)).await.expect("put");
    client.auth_enable().await.expect("enable authentication");
    let mut client = cluster.client_with(root(&cluster)).await.expect("client");
    let mut stream = client.snapshot().await.expect("snapshot");
    let mut bytes = Vec::new();
    while let Some(part) = stream.message().await.expect("stream") {
        bytes.extend_from_slice(part.blob());
    }
    let got = client.hash_kv(filled.revision + 1).await.expect("HashKV");
    let hash = ExpectedHash {
        revision: filled.revision + 1,
        compact_revision: (got.compact_version() > 0).then(|| got.compact_version()),
        hash: got.hash(),
    };
    Taken { bytes, revision: filled.revision + 1, hash, keys: filled.keys + 1 }
}

fn options(cluster: &Cluster, bump: u64) -> Options {
    let targets = cluster.members().iter().map(|member| Target {
        name: member.name().into(),
        data_dir: member.data_dir().into(),
        wal_dir: None,
        advertised_peer_urls: vec![member.peer_url()],
    });
    Options {
        initial_cluster: cluster.initial_cluster(),
        initial_cluster_token: cluster.token().into(),
        targets: targets.collect(),
        bump_revision: bump,
        mark_compacted: bump > 0,
        ..Options::default()
    }
}

fn restore(bytes: &[u8], options: Options, expected: &Expected) -> Result<Restored, RestoreError> {
    let mut restore = Restore::begin(vault::durable::real(), options)?;
    for chunk in bytes.chunks(777_777) {
        restore.write(chunk)?;
    }
    restore.finish(expected)
}

/// Restores to all members of a new cluster and keeps the member from
/// beginning blank.
fn restore_to(cluster: &mut Cluster, taken: &Taken, bump: u64) -> Restored {
    let expected = Expected {
        size: Some(taken.bytes.len() as u64),
        hash: Some(taken.hash),
        ..Expected::default()
    };
    let restored = restore(&taken.bytes, options(cluster, bump), &expected).expect("restore");
    for member in cluster.members_mut() {
        let directory = member.data_dir().to_path_buf();
        member.set_data_dir(directory);
    }
    restored
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("make a directory");
    for entry in std::fs::read_dir(from).expect("list").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copy");
        }
    }
}

/// Every member's hash at `revision`, after it has caught up.
async fn hashes(cluster: &Cluster, options: ConnectOptions, revision: i64) -> Vec<(u32, i64, i64)> {
    let mut all = Vec::new();
    for member in cluster.members() {
        let mut client = member.client_with(options.clone()).await.expect("client");
        client.get("ready", None).await.expect("read through the leader");
        let got = client.hash_kv(revision).await.expect("HashKV");
        let at = got.header().expect("header").revision();
        all.push((got.hash(), got.compact_version(), at));
    }
    all
}

/// Waits until every member that was spawned reads through a leader, as root:
/// from 3.5 on even the status needs a user.
async fn wait_ready(cluster: &mut Cluster) {
    let options = root(cluster).with_timeout(Duration::from_secs(10));
    let start = Instant::now();
    for member in cluster.members_mut() {
        loop {
            assert!(member.is_running().expect("process"), "{} ended", member.name());
            let ask = async {
                let mut client = member.client_with(options.clone()).await.ok()?;
                client.get("ready", None).await.ok()
            };
            if ask.await.is_some() {
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(120), "{} is not ready", member.name());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// The first member once it serves alone.
async fn alone(cluster: &mut Cluster) -> Client {
    let options = root(cluster).with_timeout(Duration::from_secs(10));
    let start = Instant::now();
    loop {
        let member = cluster.member(0);
        assert!(member.is_running().expect("process"), "it ended");
        if let Ok(mut client) = member.client_with(options.clone()).await
            && client.get("ready", None).await.is_ok()
        {
            return client;
        }
        assert!(start.elapsed() < Duration::from_secs(120), "it is not ready");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn count(client: &mut Client) -> i64 {
    let options = GetOptions::new().with_all_keys().with_count_only();
    client.get("", Some(options)).await.expect("count").count()
}

/// Everything that is proven of one restore.
async fn prove(taken: &Taken, series: &str, members: usize, bump: u64) {
    let case = format!("{series}, {members} members, bump {bump}");
    let mut cluster = Cluster::builder(series)
        .members(members)
        .token("restored")
        .prepare()
        .await
        .expect("prepare");
    let restored = restore_to(&mut cluster, taken, bump);
    assert_eq!(restored.revision, taken.revision + bump as i64, "{case}");
    let expected_compact =
        if bump > 0 { Some(restored.revision) } else { taken.hash.compact_revision };
    assert_eq!(restored.compact_revision, expected_compact, "{case}");

    let database = cluster.members()[0].database();
    assert_eq!(mkdb::check(&database), Ok(()), "{case}");
    let etcd = Etcd::version(series).await.expect("etcd");
    let status = etcd
        .etcdutl(["snapshot".as_ref(), "status".as_ref(), database.as_os_str()])
        .await
        .expect("status");
    assert!(status.contains(&restored.revision.to_string()), "{case}: {status}");
    let fresh = cluster.root().join("fresh");
    copy(cluster.members()[0].data_dir(), &fresh);

    let started = Instant::now();
    for member in cluster.members_mut() {
        member.spawn().expect("start the restored members");
    }
    wait_ready(&mut cluster).await;
    for found in hashes(&cluster, root(&cluster), 0).await {
        let compact = restored.compact_revision.unwrap_or(-1).max(0);
        assert_eq!(
            (found.0, found.1.max(0), found.2),
            (restored.hash, compact, restored.revision),
            "{case}"
        );
    }
    let ids: Vec<u64> = restored.membership.members().iter().map(|member| member.id).collect();
    // One member for each client: a token may not have reached the others yet.
    let first = &cluster.members()[0];
    let mut client = first.client_with(root(&cluster)).await.expect("client");
    let listed = client.member_list().await.expect("members");
    assert_eq!(listed.header().expect("header").cluster_id(), restored.membership.cluster_id());
    let mut found: Vec<u64> = listed.members().iter().map(etcd_client::Member::id).collect();
    found.sort_unstable();
    assert_eq!(found, ids, "{case}");
    let counted = count(&mut client).await;
    // On a machine that was slower than the lease the leased key may be gone.
    let in_time = started.elapsed() < Duration::from_secs(TTL as u64);
    let expired = i64::from(!in_time);
    assert!((taken.keys - expired..=taken.keys).contains(&counted), "{case}: {counted} keys");

    // Authentication came along: the reader reads, and may not write.
    let mut nobody = first.client().await.expect("client");
    nobody.get("/registry/", None).await.expect_err("authentication is on");
    let reader = cluster.connect_options().with_user("reader", PASSWORD);
    let mut reader = first.client_with(reader).await.expect("the reader's password");
    let prefix = GetOptions::new().with_prefix().with_count_only();
    assert!(reader.get("/registry/", Some(prefix)).await.expect("read").count() > 0, "{case}");
    reader.put("/registry/x", "y", None).await.expect_err("the reader may not write");
    let wrong = cluster.connect_options().with_user("root", "wrong");
    assert!(first.client_with(wrong).await.is_err(), "{case}");

    if bump > 0 {
        let old = GetOptions::new().with_revision(taken.revision);
        let error = client.get("expires", Some(old)).await.expect_err("compacted");
        assert!(error.to_string().contains("compacted"), "{case}: {error}");
    }
    let put = client.put("after", "the restore", None).await.expect("write");
    let revision = put.header().expect("header").revision();
    assert!(revision > restored.revision, "{case}");
    let after = hashes(&cluster, root(&cluster), revision).await;
    assert!(after.iter().all(|found| found.0 == after[0].0), "{case}: {after:?}");

    // The lease of the old cluster goes on with its whole time.
    loop {
        let got = client.get("expires", None).await.expect("read");
        if got.kvs().is_empty() {
            break;
        }
        assert!(
            started.elapsed() < Duration::from_secs(TTL as u64 + 120),
            "{case}: it never expires"
        );
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    client.auth_disable().await.expect("disable authentication");

    let added = cluster.add_member(false).await.expect("add a member");
    let mut client = cluster.members()[added].client().await.expect("client");
    client.put("from", "the new member", None).await.expect("write through the new member");
    assert_eq!(client.get("after", None).await.expect("read").kvs()[0].value(), b"the restore");
    let revision = client.get("from", None).await.expect("read").kvs()[0].mod_revision();
    let all = hashes(&cluster, cluster.connect_options(), revision).await;
    assert_eq!(all.len(), members + 1);
    assert!(all.iter().all(|found| found.0 == all[0].0), "{case}: {all:?}");
    cluster.stop().await.expect("stop");

    // A fresh copy as a cluster of one, and again without the flag.
    cluster.member(0).set_data_dir(&fresh);
    for args in [&["--force-new-cluster"][..], &[]] {
        cluster.member(0).spawn_with(args).expect("start as a cluster of one");
        let mut client = alone(&mut cluster).await;
        assert_eq!(client.member_list().await.expect("members").members().len(), 1, "{case}");
        client.put("alone", "now", None).await.expect("write alone");
        cluster.member(0).stop().await.expect("stop");
    }
}

async fn prove_series(series: &str) {
    let taken = take(series).await;
    prove(&taken, series, 1, 0).await;
    prove(&taken, series, 3, 1_000_000_000).await;
}

#[tokio::test]
async fn on_3_4() {
    prove_series(SERIES[0]).await;
}

#[tokio::test]
async fn on_3_5() {
    prove_series(SERIES[1]).await;
}

#[tokio::test]
async fn on_3_6() {
    prove_series(SERIES[2]).await;
}

#[tokio::test]
async fn on_3_7() {
    prove_series(SERIES[3]).await;
}

/// A cluster of one on what was restored from another version's snapshot.
async fn boots(taken: &Taken, series: &str) {
    let mut cluster = Cluster::builder(series).token("other").prepare().await.expect("prepare");
    // The log on a directory of its own, as on a disk of its own.
    let wal = cluster.root().join("disk/wal");
    let mut wanted = options(&cluster, 500);
    wanted.targets[0].wal_dir = Some(wal.clone());
    wanted.target_version = Some(cluster.etcd().full_version().parse().expect("version"));
    let restored = restore(&taken.bytes, wanted, &Expected::default()).expect("restore");
    let names = |path: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(path).expect("list").flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(names(&wal), ["0000000000000000-0000000000000000.wal"]);
    assert_eq!(names(cluster.members()[0].data_dir()), ["member"]);
    assert_eq!(names(&cluster.members()[0].data_dir().join("member")), ["snap"]);

    let directory = cluster.members()[0].data_dir().to_path_buf();
    cluster.member(0).set_wal_dir(Some(wal));
    cluster.member(0).set_data_dir(directory);
    cluster.member(0).spawn().expect("start");
    let mut client = alone(&mut cluster).await;
    let found = hashes(&cluster, root(&cluster), 0).await;
    assert_eq!(found, [(restored.hash, restored.revision, restored.revision)], "{series}");
    client.put("written", "on it", None).await.expect("write");
    assert_eq!(count(&mut client).await, taken.keys + 1, "{series}");
    cluster.stop().await.expect("stop");
}

#[tokio::test]
async fn snapshots_go_up_and_not_down() {
    for (index, series) in SERIES.iter().enumerate() {
        let taken = take(series).await;
        for (other, target) in SERIES.iter().enumerate() {
            if other > index {
                boots(&taken, target).await;
            } else if other < index {
                let directory = tempfile::tempdir().expect("temporary directory");
                let wanted = Options {
                    initial_cluster: "m1=http://127.0.0.1:1".into(),
                    initial_cluster_token: "t".into(),
                    targets: vec![Target {
                        name: "m1".into(),
                        data_dir: directory.path().join("etcd"),
                        wal_dir: None,
                        advertised_peer_urls: Vec::new(),
                    }],
                    target_version: Some(target.parse::<EtcdVersion>().expect("version")),
                    ..Options::default()
                };
                let error = restore(&taken.bytes, wanted, &Expected::default());
                let error = error.expect_err("a newer store");
                assert!(matches!(error, RestoreError::TooNew(_)), "{series} on {target}: {error}");
                let left = std::fs::read_dir(directory.path()).expect("list").count();
                assert_eq!(left, 0, "nothing is left");
            }
        }
    }
}

#[tokio::test]
async fn every_page_size_boots() {
    let directory = tempfile::tempdir().expect("temporary directory");
    for (page_size, series) in
        [("4096", "3.4"), ("16384", "3.5"), ("16384", "3.7"), ("65536", "3.6")]
    {
        let path = directory.path().join(page_size);
        let _ = std::fs::remove_file(&path);
        let args =
            ["-page-size", page_size, "-compact-every", "100", "-large", "30", "-users", "0"];
        mkdb::make(&path, &args);
        let bytes = std::fs::read(&path).expect("read");
        let mut cluster = Cluster::builder(series).prepare().await.expect("prepare");
        let wanted = Options { skip_hash_check: true, ..options(&cluster, 1_000_000) };
        let restored = restore(&bytes, wanted, &Expected::default()).expect("restore");
        let data_dir = cluster.members()[0].data_dir().to_path_buf();
        cluster.member(0).set_data_dir(data_dir);
        cluster.start().await.expect("start");
        let hashes = cluster.hashes(0).await.expect("hash");
        assert_eq!(hashes, [restored.hash], "{series}, pages of {page_size}");
        let mut client = cluster.client().await.expect("client");
        let put = client.put("written", "on it", None).await.expect("write");
        let revision = put.header().expect("header").revision();
        assert_eq!(revision, restored.revision + 1, "{series}, pages of {page_size}");
        cluster.stop().await.expect("stop");
        assert_eq!(mkdb::check(&cluster.members()[0].database()), Ok(()), "{series}");
    }
}
