//! The scan against real etcd 3.4 to 3.7: snapshots taken while clients write,
//! delete, compact and defragment give, in one pass, the HashKV that the
//! two-pass rule gives and that the server itself answers.

#[path = "common/mkdb.rs"]
mod mkdb;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use etcd_client::{Client, CompactionOptions, LeaseGrantOptions, PutOptions, Txn, TxnOp};
use etcdvault::bbolt::Database;
use etcdvault::datadir::hash::{Scan, ScanOptions, StreamScan, two_pass};
use etcdvault::datadir::schema::VersionEvidence;
use harness::etcd::Cluster;

/// Snapshots taken of each series.
const SNAPSHOTS: usize = 12;

/// A sequence from a seed, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.below(256) as u8).collect()
    }
}

/// Puts, deletes and transactions until told to stop.
async fn write(mut client: Client, seed: u64, stop: Arc<AtomicBool>, revision: Arc<AtomicI64>) {
    let mut random = Random(seed);
    while !stop.load(Ordering::Relaxed) {
        let key = format!("/registry/writer{seed}/{:04}", random.below(150));
        let header = match random.below(20) {
            0..4 => client.delete(key, None).await.unwrap().take_header(),
            4..8 => {
                let ops: Vec<TxnOp> = (0..1 + random.below(9))
                    .map(|n| match random.below(4) {
                        0 => TxnOp::delete(format!("{key}-{n}"), None),
                        _ => TxnOp::put(format!("{key}-{n}"), random.bytes(200), None),
                    })
                    .collect();
                client.txn(Txn::new().and_then(ops)).await.unwrap().take_header()
            }
            8 => {
                let length = random.below(300_000) as usize;
                client.put(key, random.bytes(length), None).await.unwrap().take_header()
            }
            _ => {
                let length = random.below(3000) as usize;
                client.put(key, random.bytes(length), None).await.unwrap().take_header()
            }
        };
        revision.fetch_max(header.map_or(0, |header| header.revision()), Ordering::Relaxed);
    }
}

async fn snapshot(client: &mut Client) -> (Vec<u8>, Scan) {
    let mut stream = client.snapshot().await.unwrap();
    let mut scan = StreamScan::new(ScanOptions::default());
    let mut bytes = Vec::new();
    while let Some(part) = stream.message().await.unwrap() {
        scan.write(part.blob()).unwrap();
        bytes.extend_from_slice(part.blob());
    }
    (bytes, scan.finish().unwrap())
}

async fn equals_the_server(series: &str) {
    let mut cluster = Cluster::builder(series).start().await.unwrap();
    let mut client = cluster.client().await.unwrap();
    let lease = client.lease_grant(6000, Some(LeaseGrantOptions::new())).await.unwrap().id();
    client.put("leased", "x", Some(PutOptions::new().with_lease(lease))).await.unwrap();
    client.role_add("reader").await.unwrap();
    client.user_add("ann", "secret", None).await.unwrap();

    let (mut bytes, mut scan) = snapshot(&mut client).await;
    assert!(scan.is_sound(), "{:?}", scan.problems);
    assert_eq!(scan.hash_kv(0, None).unwrap(), client.hash_kv(0).await.unwrap().hash());

    let stop = Arc::new(AtomicBool::new(false));
    let revision = Arc::new(AtomicI64::new(0));
    let writers: Vec<_> = [11, 12]
        .map(|seed| tokio::spawn(write(client.clone(), seed, stop.clone(), revision.clone())))
        .into();
    let mut random = Random(77);
    let (mut proven, mut free_pages, mut tombstones) = (0, 0, 0);
    for round in 0..SNAPSHOTS {
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        if round % 2 == 1 {
            let now = revision.load(Ordering::Relaxed);
            let at = now - random.below(20) as i64;
            // A physical compaction returns when the old records are gone.
            let options = CompactionOptions::new();
            let options = if round % 4 == 1 { options.with_physical() } else { options };
            client.compact(at, Some(options)).await.unwrap();
        }
        if round % 5 == 4 {
            client.defragment().await.unwrap();
        }
        (bytes, scan) = snapshot(&mut client).await;
        assert!(scan.is_sound(), "round {round}: {:?}", scan.problems);
        // A snapshot just behind a compaction may hold no deletion.
        free_pages += scan.free_pages;
        tombstones += scan.tombstones;
        assert_eq!(scan.digests.as_ref().unwrap().trailer_ok(), Some(true));
        // No compaction runs between the snapshot and the answer.
        let answer = client.hash_kv(scan.revision).await.unwrap();
        let compact = answer.compact_version();
        assert!(scan.revision >= compact, "{} {compact}", scan.revision);
        let database = Database::open(bytes.as_slice()).unwrap();
        let ours = scan.hash_kv(scan.revision, Some(compact)).unwrap();
        assert_eq!(ours, two_pass(&database, scan.revision, Some(compact)).unwrap());
        if scan.revision > compact {
            assert_eq!(ours, answer.hash(), "round {round}: HashKV({}, {compact})", scan.revision);
            proven += 1;
        }
        let known = scan.content.compact_revision().unwrap_or(-1);
        assert_eq!(known, compact, "round {round}");
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(proven >= SNAPSHOTS - 1, "{proven} proven");
    assert!(free_pages > 0 && tombstones > 0, "{free_pages} {tombstones}");

    // The last snapshot against etcd's own tools.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("snapshot.db");
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(mkdb::check(&path), Ok(()));
    let path = path.to_str().unwrap();
    let text = cluster.etcd().etcdutl(["snapshot", "status", path, "-w", "json"]).await.unwrap();
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status["hash"], scan.status_hash);
    assert_eq!(status["revision"], scan.last_record.unwrap());
    assert_eq!(status["totalSize"], scan.size);
    let total = if matches!(series, "3.4" | "3.5") { scan.entries } else { scan.live_keys };
    assert_eq!(status["totalKey"], total);

    let content = &scan.content;
    assert_eq!((content.leases, content.users, content.roles), (1, 1, 1));
    assert_eq!(content.members.len(), 1);
    assert_eq!(content.members[0].name, cluster.member(0).name());
    assert!(content.consistent_index > Some(100));
    assert_eq!(content.term.is_some(), series != "3.4");
    assert_eq!(content.conf_state.is_some(), series != "3.4");
    let evidence = content.version_evidence();
    match series {
        "3.4" | "3.5" => {
            assert_eq!(evidence, VersionEvidence::ClusterVersion(format!("{series}.0")));
        }
        _ => assert_eq!(evidence, VersionEvidence::StorageVersion(format!("{series}.0"))),
    }
    cluster.stop().await.unwrap();

    // The file of a stopped member: no trailer, pages above the high-water mark.
    let bytes = std::fs::read(cluster.member(0).database()).unwrap();
    let mut scan = StreamScan::new(ScanOptions::default());
    bytes.chunks(1 << 20).for_each(|chunk| scan.write(chunk).unwrap());
    let scan = scan.finish().unwrap();
    assert!(scan.is_sound(), "{:?}", scan.problems);
    assert_eq!(scan.revision, revision.load(Ordering::Relaxed));
    let hashes = scan.hash_kv(0, scan.content.compact_revision()).unwrap();
    cluster.start().await.unwrap();
    assert_eq!(cluster.hashes(0).await.unwrap(), [hashes]);
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_3_4() {
    equals_the_server("3.4").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_3_5() {
    equals_the_server("3.5").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_3_6() {
    equals_the_server("3.6").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_3_7() {
    equals_the_server("3.7").await;
}
