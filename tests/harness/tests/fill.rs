//! The fill on real servers: the same seed makes the same store, hash for
//! hash, on every version that hashes alike, and the store has all that it
//! promises.

use etcd_client::{Error, GetOptions};
use harness::etcd::Cluster;
use harness::fill::{Fill, Filled};

async fn fill(series: &str, seed: u64) -> (Cluster, Filled, u32) {
    let mut cluster = Cluster::builder(series).start().await.unwrap();
    let client = cluster.client().await.unwrap();
    let filled = Fill::new(seed, 600).run(&client).await.unwrap();
    let hash = cluster.member(0).hash_kv(filled.revision).await.unwrap();
    (cluster, filled, hash)
}

#[tokio::test]
async fn a_filled_cluster_has_everything() {
    let (cluster, filled, _) = fill("3.6", 1).await;
    assert_eq!((filled.users, filled.roles, filled.leases), (2, 2, 8), "{filled:?}");
    assert!(filled.compacted > 1 && filled.compacted < filled.revision, "{filled:?}");
    assert!((500..600).contains(&filled.keys), "{filled:?}");

    let mut client = cluster.client().await.unwrap();
    let all = GetOptions::new().with_all_keys();
    let got = client.get("", Some(all.clone())).await.unwrap();
    assert!(got.kvs().iter().any(|kv| kv.version() > 30), "a key of many versions");
    assert!(got.kvs().iter().any(|kv| kv.lease() != 0), "a key with a lease");
    assert!(got.kvs().iter().any(|kv| kv.value().len() == 1 << 20), "a value of 1 MiB");
    let objects = got.kvs().iter().filter(|kv| kv.value().starts_with(b"k8s\0")).count();
    assert_eq!(objects + 1, got.kvs().len());

    let at = |revision| Some(all.clone().with_count_only().with_revision(revision));
    let before = client.get("", at(filled.compacted)).await.unwrap().count();
    assert!(before > filled.keys, "keys were deleted since: {before} {filled:?}");
    match client.get("", at(filled.compacted - 1)).await.unwrap_err() {
        Error::GRpcStatus(status) => assert!(status.message().contains("compacted"), "{status}"),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn the_same_seed_gives_the_same_store() {
    let (_a, one, hash) = fill("3.6", 1).await;
    let (_b, again, hash_again) = fill("3.7", 1).await;
    let (_c, _, hash_of_other) = fill("3.6", 2).await;
    assert_eq!((one, hash), (again, hash_again));
    assert_ne!(hash, hash_of_other);
}
