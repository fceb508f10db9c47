//! The S3 store on real servers, and on the in-process one that stands for them
//! elsewhere: the same things hold on all three.

#[path = "store_contract/suite.rs"]
mod suite;
#[path = "support/s3.rs"]
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use harness::s3::{Access, FaultyS3, Minio, SeaweedFs};
use support::*;
use vault::store::s3::policy::{Dialect, writer};
use vault::store::s3::{Checksum, ChecksumMode, Probe, S3Store, Sse};
use vault::store::{ErrorKind, SizeHint, Store};

/// What is asked of every server; gives what the probe found.
async fn contract(access: &Access) -> Probe {
    access.create_bucket(BUCKET).await.unwrap();
    let store = S3Store::connect(config(access)).await.unwrap();
    let probe = store.probe().await.unwrap();
    assert_eq!(probe.left, Vec::<String>::new());
    assert!(names(&store, "", None).await.unwrap().is_empty());

    // Sizes around the parts; everything comes back, whole and in ranges.
    for len in [0, 1, 100_000, 5 * MIB, 5 * MIB + 1, 10 * MIB, 17 * MIB + 3] {
        let (name, bytes) = (format!("o/{len}"), noise(len));
        let info = put(&store, &name, &bytes).await.unwrap();
        assert_eq!((info.size, info.key.as_str()), (len as u64, name.as_str()));
        assert_eq!(store.head(&info.key).await.unwrap(), Some(info.clone()));
        assert!((info.modified - chrono::Utc::now()).num_seconds().abs() < 60);
        assert!(get(&store, &name).await.unwrap() == bytes, "{name}");
        let end = len as u64;
        for range in [0..end, end / 2..end, end / 3..end / 2, end..end] {
            let download = store.get(&info.key, Some(range.clone())).await.unwrap();
            assert_eq!(download.size, end);
            let part = read(download).await.unwrap();
            assert!(part == bytes[range.start as usize..range.end as usize], "{name} {range:?}");
        }
        for range in [0..end + 1, end..end + 1, end + 5..end + 6] {
            let error = store.get(&info.key, Some(range.clone())).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidRange, "{name} {range:?}");
        }

        // The name is taken, for an object of any size.
        for other in [3, 6 * MIB] {
            let error = put(&store, &name, &noise(other)).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::AlreadyExists, "{}", told(&error));
        }
        assert!(get(&store, &name).await.unwrap() == bytes);
    }

    // Of writers at once exactly one wins.
    if store.capabilities().put_new {
        let (one, two) = (noise(1000), noise(2000));
        let (a, b) = tokio::join!(put(&store, "o/race", &one), put(&store, "o/race", &two));
        assert_eq!([&a, &b].iter().filter(|result| result.is_ok()).count(), 1, "{a:?} {b:?}");
        assert_eq!(get(&store, "o/race").await.unwrap().len(), if a.is_ok() { 1000 } else { 2000 });
        store.delete(&key("o/race")).await.unwrap();
    }

    // Names in the order of bytes, from anywhere.
    let mut all = Vec::new();
    for name in ["l/a", "l/a-b/c", "l/a.b/x", "l/a0", "l/prod-eu/x", "l/prod/x"] {
        put(&store, name, &noise(5)).await.unwrap();
        all.push(name.to_owned());
    }
    all.sort();
    assert_eq!(names(&store, "l/", None).await.unwrap(), all);
    assert_eq!(names(&store, "l/a", None).await.unwrap(), all[..4]);
    for at in 0..all.len() {
        assert_eq!(names(&store, "l/", Some(&all[at])).await.unwrap(), all[at + 1..]);
    }
    assert!(names(&store, "none/", None).await.unwrap().is_empty());

    // More than a page of 1,000, in folders and beside them.
    let raw = access.client();
    let mut many: Vec<String> = (0..1030)
        .map(|n| format!("p/{:02}{}{n:04}", n % 20, if n % 2 == 0 { "/" } else { "-" }))
        .collect();
    futures_util::stream::iter(&many)
        .for_each_concurrent(16, |name| {
            let put = raw.put_object().bucket(BUCKET).key(format!("{PREFIX}/{name}"));
            async { drop(put.send().await.unwrap()) }
        })
        .await;
    many.sort();
    assert!(names(&store, "p/", None).await.unwrap() == many);
    assert!(names(&store, "p/", Some(&many[700])).await.unwrap() == many[701..]);

    // Given up, an upload leaves nothing.
    let mut upload = store.put_new(&key("o/no"), SizeHint::Unknown).await.unwrap();
    upload.write(noise(12 * MIB)).await.unwrap();
    upload.abort().await.unwrap();
    let mut upload = store.put_new(&key("o/no"), SizeHint::Unknown).await.unwrap();
    upload.write(noise(12 * MIB)).await.unwrap();
    drop(upload);
    let start = Instant::now();
    while !access.uploads(BUCKET, "team/prod/o/no").await.unwrap().is_empty() {
        assert!(start.elapsed() < Duration::from_secs(60), "the dropped upload is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(store.head(&key("o/no")).await.unwrap(), None);

    store.delete(&key("o/1")).await.unwrap();
    store.delete(&key("o/1")).await.unwrap();
    assert_eq!(store.head(&key("o/1")).await.unwrap(), None);
    assert_eq!(get(&store, "o/1").await.unwrap_err().kind, ErrorKind::NotFound);

    // Each checksum the store may be told to use, single and in parts.
    for mode in Checksum::ALL.map(ChecksumMode::Always).into_iter().chain([ChecksumMode::Never]) {
        let mut config = config(access);
        config.checksum = mode;
        let store = S3Store::connect(config).await.unwrap();
        store.apply(&probe);
        for len in [1000, 6 * MIB] {
            let name = format!("c/{len}-{mode:?}").replace(['(', ')'], "-");
            put(&store, &name, &noise(len)).await.unwrap();
            assert!(get(&store, &name).await.unwrap() == noise(len), "{name}");
        }
    }

    // The suite of all stores, in a place of its own.
    let open = || async {
        let mut config = config(access);
        config.prefix = "suite".into();
        let store = S3Store::connect(config).await.unwrap();
        store.apply(&probe);
        let store: Arc<dyn Store> = Arc::new(store);
        store
    };
    suite::run(open().await, open).await;

    let mut wrong = config(access);
    wrong.bucket = "nowhere".into();
    let error = S3Store::connect(wrong).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Configuration, "{}", told(&error));
    let mut wrong = config(access);
    wrong.credentials.as_mut().unwrap().secret_key = "hunter2".into();
    let error = S3Store::connect(wrong).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::PermissionDenied, "{}", told(&error));
    probe
}

#[tokio::test]
async fn in_process() {
    let server = FaultyS3::start().await.unwrap();
    let probe = contract(server.access()).await;
    assert!(probe.put_new && probe.complete_new && probe.ordered && probe.multipart_checksum);
    assert_eq!((probe.checksum, server.uploads()), (Some(Checksum::Crc64Nvme), 0));
}

#[tokio::test]
async fn minio() {
    let server = Minio::start().await.unwrap();
    let probe = contract(server.access()).await;
    assert!(probe.put_new && probe.complete_new && probe.ordered && probe.multipart_checksum);
    assert_eq!(probe.checksum, Some(Checksum::Crc64Nvme));
    assert_eq!(probe.server.as_deref(), Some("MinIO"));

    append_only(&server).await;
}

/// A backup-like sequence under the printed policy, and what it forbids.
async fn append_only(server: &Minio) {
    let admin = S3Store::connect(config(server.access())).await.unwrap();
    let probe = admin.probe().await.unwrap();
    for name in ["vault.json", "clusters/prod/l1/objects/old", "clusters/dev/l1/objects/old"] {
        put(&admin, name, &noise(20)).await.unwrap();
    }
    let policy = writer(&config(server.access()), "prod", Dialect::Plain).unwrap();
    let access = server.restricted(&policy).await.unwrap();
    let store = S3Store::connect(config(&access)).await.unwrap();
    store.apply(&probe);

    get(&store, "vault.json").await.unwrap();
    for len in [1000, 11 * MIB] {
        let name = format!("clusters/prod/l1/objects/{len}");
        assert_eq!(store.head(&key(&name)).await.unwrap(), None, "missing, not forbidden");
        put(&store, &name, &noise(len)).await.unwrap();
        assert!(get(&store, &name).await.unwrap() == noise(len));
    }
    let mut upload =
        store.put_new(&key("clusters/prod/l1/objects/no"), SizeHint::Unknown).await.unwrap();
    upload.write(noise(6 * MIB)).await.unwrap();
    upload.abort().await.unwrap();
    assert_eq!(names(&store, "clusters/prod/", None).await.unwrap().len(), 3);
    store.sweep().await.unwrap();

    for name in ["clusters/prod/l1/objects/old", "clusters/prod/l1/objects/1000"] {
        let error = store.delete(&key(name)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::PermissionDenied);
        assert!(error.act.contains("lack s3:DeleteObject"), "{}", error.act);
        let error = put(&store, name, &noise(7)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::AlreadyExists);
        assert!(get(&admin, name).await.is_ok());
    }
    for name in [
        "clusters/dev/l1/objects/new",
        "clusters/prod/l1/tombstones/x",
        "clusters/prod/l1/receipts/x/y",
        "vault.json2",
    ] {
        let error = put(&store, name, &noise(7)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::PermissionDenied, "{name}: {}", told(&error));
        assert_eq!(admin.head(&key(name)).await.unwrap(), None);
    }
    let error = get(&store, "clusters/dev/l1/objects/old").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::PermissionDenied);
    let error = names(&store, "clusters/dev/", None).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::PermissionDenied);
    assert!(error.act.contains("lack s3:ListBucket"), "{}", error.act);

    // What needs a key service that is not there.
    let mut config = config(server.access());
    config.sse = Sse::S3;
    let store = S3Store::connect(config).await.unwrap();
    let error = put(&store, "o/sse", &noise(10)).await.unwrap_err();
    assert!(
        told(&error).contains("KMS") || told(&error).contains("NotImplemented"),
        "{}",
        told(&error)
    );
}

#[tokio::test]
async fn minio_over_tls() {
    let server = Minio::start_tls().await.unwrap();
    server.access().create_bucket(BUCKET).await.unwrap();
    let store = S3Store::connect(config(server.access())).await.unwrap();
    store.probe().await.unwrap();
    for len in [1000, 6 * MIB] {
        let name = format!("o/{len}");
        put(&store, &name, &noise(len)).await.unwrap();
        assert!(get(&store, &name).await.unwrap() == noise(len));
    }

    let mut unknown = config(server.access());
    unknown.ca_file = None;
    let error = S3Store::connect(unknown).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Configuration);
    assert!(error.act.contains("not from an authority that is trusted"), "{}", error.act);

    let directory = tempfile::tempdir().unwrap();
    let other = harness::tls::Authority::create(directory.path(), "other").unwrap();
    let mut wrong = config(server.access());
    wrong.ca_file = Some(other.certificate());
    let error = S3Store::connect(wrong).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Configuration);
    assert!(error.act.contains("not from an authority that is trusted"), "{}", error.act);

    let mut plain = config(server.access());
    plain.endpoint_url = Some(server.access().url.replace("https://", "http://"));
    let error = S3Store::connect(plain).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Configuration, "{}", told(&error));
    assert!(error.act.contains("start with https://"), "{}", error.act);
}

#[tokio::test]
async fn seaweedfs() {
    let server = SeaweedFs::start().await.unwrap();
    let probe = contract(server.access()).await;
    assert!(probe.put_new && probe.complete_new && probe.multipart_checksum);
    assert_eq!(probe.checksum, Some(Checksum::Crc64Nvme));
    // It keeps directories: `x/m` is listed before `x-a`.
    assert!(!probe.ordered);
    assert!(probe.server.as_deref().unwrap().starts_with("SeaweedFS"));

    let mut config = config(server.access());
    config.sse = Sse::S3;
    let store = S3Store::connect(config).await.unwrap();
    store.apply(&probe);
    for len in [1000, 6 * MIB] {
        let name = format!("s/{len}");
        put(&store, &name, &noise(len)).await.unwrap();
        assert!(get(&store, &name).await.unwrap() == noise(len));
        let head = server.access().client().head_object().bucket(BUCKET);
        let head = head.key(format!("{PREFIX}/{name}")).send().await.unwrap();
        let sse = head.server_side_encryption().map(|sse| sse.as_str().to_owned());
        assert_eq!(sse.as_deref(), Some("AES256"), "{name}");
    }
}
