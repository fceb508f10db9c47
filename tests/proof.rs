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

use harness::etcd::Cluster;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use common::{assert_untouched, files, listed, new_vault, program, says};

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
