//! When a backup is proven, when it is not, and when what came is no snapshot at all:
//! streams that the way changed, members that are damaged or raised an alarm, and
//! compactions that run while the stream does, each held at the point that matters.

#[path = "common/program.rs"]
mod common;
#[path = "common/damage.rs"]
mod damage;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use etcd_client::{AlarmAction, AlarmOptions, AlarmType, Client, CompactionOptions};
use harness::cli::{Cli, Ran};
use harness::etcd::Cluster;
use harness::proxy::{Mode, Proxy};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use common::{assert_untouched, files, fill, listed, new_vault, program, says};

/// Bytes on the way from a server, and what becomes of them: wherever they pass, the
/// last of them is changed by these bits.
struct Change {
    bytes: Vec<u8>,
    bits: u8,
}

/// A way to a server on which bytes are changed. HTTP/2 has no checksum of its own.
struct Meddler {
    address: SocketAddr,
    changed: Arc<AtomicUsize>,
    listening: tokio::task::JoinHandle<()>,
}

impl Meddler {
    async fn start(target: &str, change: Change) -> Self {
        let target = target.strip_prefix("http://").unwrap().to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let changed = Arc::new(AtomicUsize::new(0));
        let (counted, change) = (changed.clone(), Arc::new(change));
        let listening = tokio::spawn(async move {
            let mut ways = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&target).await else { continue };
                ways.spawn(meddle(client, server, change.clone(), counted.clone()));
            }
        });
        Self { address, changed, listening }
    }

    /// How often the bytes passed.
    fn changed(&self) -> usize {
        self.changed.load(Ordering::SeqCst)
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn meddle(
    client: TcpStream,
    server: TcpStream,
    change: Arc<Change>,
    changed: Arc<AtomicUsize>,
) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let down = async {
        let mut buffer = vec![0; 16 << 10];
        // The last bytes that passed, to find those that two reads share.
        let mut seen: Vec<u8> = Vec::new();
        while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
            for byte in &mut buffer[..read] {
                seen.push(*byte);
                if seen.ends_with(&change.bytes) {
                    *byte ^= change.bits;
                    changed.fetch_add(1, Ordering::SeqCst);
                }
                if seen.len() > 4096 {
                    seen.drain(..4096 - change.bytes.len());
                }
            }
            if to_client.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
        () = down => {}
    }
}

/// The member hashes what it sends: a stream that arrives with other bytes, or without
/// the hash, is never stored, and another member is asked.
#[tokio::test]
async fn a_stream_that_is_not_what_the_member_sent() {
    let root = tempfile::tempdir().unwrap();
    let vault = new_vault(root.path()).await;
    let mut cluster = Cluster::builder("3.6").members(3).start().await.unwrap();
    let mut client = cluster.client().await.unwrap();
    // Often enough that frames do not split every one of them.
    for number in 0..20 {
        client.put(format!("key/{number}"), "the bytes that change", None).await.unwrap();
    }
    let leader = cluster.leader().await.unwrap();
    let source = (leader + 1) % 3;
    let cli = program().vault(&vault);
    let ways = [
        ("another value", &b"the bytes that change"[..], 0x20, "at the end of the stream does not"),
        // The hash is the last message: 34 bytes of the field blob and 7 of the version.
        // Another field in place of the blob is one that nobody knows.
        ("no hash", &[0, 0, 0, 0, 41, 0x1a], 0x60, "ended without its SHA-256"),
    ];
    for (what, bytes, bits, words) in ways {
        let change = Change { bytes: bytes.to_vec(), bits };
        let way = Meddler::start(&cluster.endpoints()[source], change).await;
        let address = way.address.to_string();
        // It alone: nothing is stored.
        let ran = cli.run(["backup", "--local-only", "--endpoints", &address]).await.unwrap();
        assert!(way.changed() > 0, "{what}: the bytes passed: {ran}");
        assert_eq!(ran.code, Some(30), "{what}: {ran}");
        says(&ran, &["was not stored", "no usable snapshot", words, "is unchanged"]);
        assert_untouched(&vault);
        assert_eq!(listed(&cli).await, 0);
    }

    // With others to ask, it is a warning.
    let before = files(&vault).len();
    let change = Change { bytes: ways[0].1.to_vec(), bits: ways[0].2 };
    let way = Meddler::start(&cluster.endpoints()[source], change).await;
    let endpoints = format!("{},{}", way.address, cluster.endpoints()[leader]);
    let args = ["backup", "--json", "--endpoint-strategy", "first", "--endpoints", &endpoints];
    let ran = cli.run(args).await.unwrap().expect(0);
    assert!(way.changed() > 0, "{ran}");
    says(&ran, &["warning: ", ways[0].3]);
    let report = ran.json();
    assert_eq!(report["source"], format!("m{}", leader + 1), "{report}");
    assert_eq!(report["proof"]["state"], "proven", "{report}");
    // The lineage, the object and the manifest: nothing of the first stream.
    assert_eq!(files(&vault).len(), before + 3, "{:?}", files(&vault));
    cli.run(["verify", "--all"]).await.unwrap().expect(0);
}

/// A member whose database is damaged where etcd itself does not look: what it sends is
/// what it holds, so it is kept, marked, and a good one stays the latest.
#[tokio::test]
async fn a_damaged_database_is_stored_and_marked() {
    let root = tempfile::tempdir().unwrap();
    let vault = new_vault(root.path()).await;
    let mut cluster = Cluster::builder("3.6").start().await.unwrap();
    let mut client = cluster.client().await.unwrap();
    let put = client.put("canary", "a value", None).await.unwrap();
    let revision = u8::try_from(put.header().unwrap().revision()).unwrap();
    let cli = program().vault(&vault).cluster(&cluster);
    let good = cli.run(["backup", "--cluster", "x", "--json"]).await.unwrap().expect(0).json();

    cluster.stop().await.unwrap();
    let database = cluster.members()[0].database();
    let mut bytes = std::fs::read(&database).unwrap();
    damage::change_revision(&mut bytes, "canary", revision);
    std::fs::write(&database, bytes).unwrap();
    cluster.start().await.unwrap();

    let ran = cli.run(["backup", "--cluster", "x", "--json"]).await.unwrap().expect(20);
    let report = ran.json();
    assert_eq!(report["proof"]["state"], "mismatch", "{report}");
    let reason = report["proof"]["reasons"][0].as_str().unwrap();
    assert!(reason.starts_with("the snapshot is damaged: page "), "{reason}");
    assert!(reason.ends_with("is not one that etcd writes"), "{reason}");
    let ran = cli.run(["backup", "--cluster", "x", "--quiet"]).await.unwrap().expect(20);
    says(&ran, &["the snapshot is damaged"]);

    assert_eq!(listed(&cli).await, 3, "what was stored is kept");
    let id = report["id"].as_str().unwrap();
    let shown = cli.run(["show", id, "--json"]).await.unwrap().expect(0).json();
    assert_eq!(shown["proof"], report["proof"], "{shown}");
    assert_eq!(shown["content"]["hash_kv"], Value::Null, "a hash would prove nothing: {shown}");
    let latest = cli.run(["show", "latest", "--json"]).await.unwrap().expect(0).json();
    assert_eq!(latest["id"], good["id"]);
    let ran = cli.run(["verify", id]).await.unwrap().expect(20);
    assert!(ran.to_string().contains("is not one that etcd writes"), "{ran}");
    cli.run(["verify", id, "--level", "stored"]).await.unwrap().expect(0);
}

/// Runs a backup whose stream is held in its middle until `meanwhile` has happened: the
/// snapshot's revision is settled then, and nobody was asked for HashKV yet.
async fn held(cli: &Cli, cluster: &Cluster, meanwhile: impl AsyncFnOnce(Client)) -> Ran {
    let proxy = Proxy::start(&cluster.endpoints()[0]).await.unwrap();
    proxy.set(Mode::StallAfter(1 << 20));
    let endpoints = ["--local-only".to_owned(), "--endpoints".to_owned(), proxy.address()];
    let running = tokio::spawn({
        let cli = cli.clone();
        async move {
            let args = ["backup", "--cluster", "x", "--json"].map(str::to_owned);
            cli.run(args.iter().chain(&endpoints)).await.unwrap()
        }
    });
    proxy.wait_passed(1 << 20).await.unwrap();
    meanwhile(cluster.client().await.unwrap()).await;
    assert!(!running.is_finished(), "the stream was held");
    proxy.set(Mode::Pass);
    running.await.unwrap()
}

async fn put(client: &mut Client, key: &str) -> i64 {
    client.put(key, "later", None).await.unwrap().header().unwrap().revision()
}

async fn compact(client: &mut Client, revision: i64) {
    let physical = CompactionOptions::new().with_physical();
    client.compact(revision, Some(physical)).await.unwrap();
}

/// A compaction between the snapshot and the question: beyond the snapshot's revision
/// nobody can tell any more, and the backup says so; at it and below, it is proven.
#[tokio::test]
async fn compacted_in_between() {
    let root = tempfile::tempdir().unwrap();
    let vault = new_vault(root.path()).await;
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    fill(&cluster, 6).await;
    let mut client = cluster.client().await.unwrap();
    for _ in 0..5 {
        put(&mut client, "often").await;
    }
    let cli = program().vault(&vault).cluster(&cluster);

    let mut below = 0;
    let ran = held(&cli, &cluster, async |mut client| {
        below = put(&mut client, "more").await - 3;
        compact(&mut client, below).await;
    })
    .await
    .expect(0);
    let report = ran.json();
    assert_eq!(report["revision"], below + 2, "{report}");
    assert_eq!(report["proof"]["state"], "proven", "{report}");
    assert_eq!(report["members"][0]["compact_revision"], below, "the member's, not ours: {report}");

    // At the snapshot's revision, the present one and then not any more: the member answers
    // with the hash that it took before it compacted.
    for more in [false, true] {
        let mut at = 0;
        let ran = held(&cli, &cluster, async |mut client| {
            at = client.get("more", None).await.unwrap().header().unwrap().revision();
            if more {
                put(&mut client, "more").await;
            }
            compact(&mut client, at).await;
        })
        .await
        .expect(0);
        let report = ran.json();
        assert_eq!(report["revision"], at, "{report}");
        assert_eq!(report["proof"]["state"], "proven", "{report}");
        put(&mut client, "more").await;
    }

    // Beyond it.
    let mut revision = 0;
    let ran = held(&cli, &cluster, async |mut client| {
        revision = put(&mut client, "more").await - 1;
        put(&mut client, "more").await;
        compact(&mut client, revision + 1).await;
    })
    .await
    .expect(3);
    let report = ran.json();
    assert_eq!(report["revision"], revision, "{report}");
    assert_eq!(report["proof"]["state"], "not_proven", "{report}");
    let why = format!("revision {revision} was compacted before it could be asked");
    assert_eq!(report["members"][0]["verdict"], "unknown", "{report}");
    assert_eq!(report["members"][0]["reason"], why, "{report}");
    // The manifest keeps it, and the backup is one all the same.
    let shown = cli.run(["show", "latest", "--json"]).await.unwrap().expect(0).json();
    assert_eq!(shown["id"], report["id"], "{shown}");
    assert_eq!(shown["proof"]["state"], "not_proven", "{shown}");
    let reason = format!("{}: {why}", report["members"][0]["member"].as_str().unwrap());
    assert_eq!(shown["proof"]["reasons"], Value::from(vec![reason]), "{shown}");
    cli.run(["verify", "latest"]).await.unwrap().expect(0);
    let target = root.path().join("restored");
    let target = target.to_str().unwrap();
    cli.run(["restore", "data-dir", "latest", "--data-dir", target]).await.unwrap().expect(0);
}

/// A compaction that never ends: half of what it drops is gone from the snapshot. Below
/// the snapshot's revision as at it, the rule of HashKV leaves out what it would drop, so
/// such a backup is proven; the manifest says how far the compaction was.
#[tokio::test]
async fn a_compaction_that_is_not_finished() {
    for (series, batch, sleep) in [
        (
            "3.5",
            "--experimental-compaction-batch-limit",
            "--experimental-compaction-sleep-interval",
        ),
        ("3.6", "--compaction-batch-limit", "--compaction-sleep-interval"),
        ("3.7", "--compaction-batch-limit", "--compaction-sleep-interval"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let vault = new_vault(root.path()).await;
        let args = [format!("{batch}=5"), format!("{sleep}=1h")];
        let cluster = Cluster::builder(series).args(args).start().await.unwrap();
        let mut client = cluster.client().await.unwrap();
        let mut revision = 0;
        for number in 0..30 {
            revision = put(&mut client, &format!("key/{}", number % 3)).await;
        }
        client.delete("key/1", None).await.unwrap();
        client.compact(revision - 4, None).await.unwrap();
        put(&mut client, "key/2").await;
        let cli = program().vault(&vault).cluster(&cluster);
        let backup = async || {
            let args = ["backup", "--cluster", "x", "--json"];
            let report = cli.run(args).await.unwrap().expect(0).json();
            let shown = cli.run(["show", "latest", "--json"]).await.unwrap().expect(0).json();
            assert_eq!(shown["id"], report["id"], "{series}: {report}");
            (report, shown["content"]["database"].clone())
        };
        // Asked for with the entry that was applied, written with the next batch.
        let mut tries = 0;
        let (report, database) = loop {
            let (report, database) = backup().await;
            tries += 1;
            if database["compaction_unfinished"] == true || tries == 20 {
                break (report, database);
            }
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        };
        assert_eq!(database["compaction_unfinished"], true, "{series}: {database}");
        assert_eq!(database["compact_revision"], revision - 4, "{series}: {database}");
        let records = database["records"].as_u64().unwrap();
        assert!((8..32).contains(&records), "{series}: some are dropped: {database}");
        assert_eq!(report["proof"]["state"], "proven", "{series}: {report}");
        assert_eq!(report["members"][0]["compact_revision"], revision - 4, "{series}: {report}");
    }
}

/// A member with a CORRUPT alarm gives no snapshot while another can; when it has to, the
/// backup is kept and not proven, though its hash agrees.
#[tokio::test]
async fn a_corrupt_alarm_keeps_a_member_from_being_the_source() {
    let root = tempfile::tempdir().unwrap();
    let vault = new_vault(root.path()).await;
    let mut cluster = Cluster::builder("3.6").members(3).start().await.unwrap();
    cluster.client().await.unwrap().put("a", "b", None).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let followers = [(leader + 1) % 3, (leader + 2) % 3];
    let name = |index: usize| format!("m{}", index + 1);
    let cli = program().vault(&vault).cluster(&cluster);
    let mut client = cluster.client().await.unwrap();
    let mut alarm = async |kind: AlarmType, index: usize| {
        let status = cluster.members()[index].status().await.unwrap();
        let mut options = AlarmOptions::new();
        options.with_member(status.header().unwrap().member_id());
        client.alarm(AlarmAction::Activate, kind, Some(options)).await.unwrap();
    };
    // A full disk says nothing against a member's data.
    for follower in followers {
        alarm(AlarmType::Nospace, follower).await;
    }
    let report = cli.run(["backup", "--json"]).await.unwrap().expect(0).json();
    assert_ne!(report["source"], name(leader), "a follower is preferred: {report}");

    alarm(AlarmType::Corrupt, followers[0]).await;
    let report = cli.run(["backup", "--json"]).await.unwrap().expect(0).json();
    assert_eq!(report["source"], name(followers[1]), "the follower without it: {report}");
    alarm(AlarmType::Corrupt, followers[1]).await;
    let report = cli.run(["backup", "--json"]).await.unwrap().expect(0).json();
    assert_eq!(report["source"], name(leader), "no follower is without it: {report}");
    assert_eq!(report["proof"]["state"], "proven", "{report}");

    let only = cluster.endpoints()[followers[0]].clone();
    let local = ["backup", "--json", "--local-only", "--endpoints", &only];
    let report = cli.run(local).await.unwrap().expect(3).json();
    assert_eq!(report["source"], name(followers[0]), "{report}");
    assert_eq!(report["members"][0]["verdict"], "same", "{report}");
    assert_eq!(report["proof"]["state"], "not_proven", "{report}");
    let reasons = report["proof"]["reasons"].to_string();
    assert!(reasons.contains("has raised a CORRUPT alarm"), "{reasons}");

    // The status names both, with what helps against each.
    let ran = cli.run(["status"]).await.unwrap().expect(0);
    let said = ran.to_string();
    for follower in followers {
        let name = name(follower);
        assert!(said.contains(&format!("{name}: alarm CORRUPT")), "{said}");
        assert!(said.contains(&format!("{name}: alarm NOSPACE")), "{said}");
    }
    assert!(!said.contains(&format!("{}: alarm", name(leader))), "{said}");
    assert!(said.contains("hashkv") && said.contains("alarm disarm"), "{said}");
}
