//! The S3 store against a server that misbehaves by script: every fault ends in
//! the object as it was meant, or in an error that says why, within a bound, with
//! nothing half-made left and no secret told.

#[path = "support/s3.rs"]
mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use harness::s3::{Fault, FaultyS3, Op};
use support::*;
use vault::store::s3::{Checksum, ChecksumMode, PathStyle, Probe, S3Config, S3Store};
use vault::store::{ErrorKind, SizeHint, Store, StoreError};

const NAME: &str = "clusters/prod/a/objects/x";
const OBJECT: &str = "team/prod/clusters/prod/a/objects/x";

async fn server() -> FaultyS3 {
    let server = FaultyS3::start().await.unwrap();
    server.access().create_bucket(BUCKET).await.unwrap();
    server
}

/// A store that knows what the server honours; the requests of the way there are
/// forgotten.
async fn probed(server: &FaultyS3, change: impl FnOnce(&mut S3Config)) -> S3Store {
    let mut config = config(server.access());
    change(&mut config);
    let store = S3Store::connect(config).await.unwrap();
    store.probe().await.unwrap();
    server.forget();
    store
}

fn no_secrets(server: &FaultyS3, error: &StoreError) {
    let text = format!("{} {error:?}", told(error));
    for secret in [&server.access().secret_key, &server.access().access_key] {
        assert!(!text.contains(secret.as_str()), "{text}");
    }
    for word in ["Signature=", "AWS4-HMAC", "x-amz-security-token"] {
        assert!(!text.contains(word), "{text}");
    }
}

#[tokio::test]
async fn small_is_one_put_and_large_is_parts() {
    let server = server().await;
    let store = probed(&server, |_| {}).await;
    for (name, len, puts, parts) in
        [("o/empty", 0, 1, 0), ("o/one", 5 * MIB, 1, 0), ("o/two", 5 * MIB + 1, 0, 2)]
    {
        server.forget();
        let bytes = noise(len);
        let info = put(&store, name, &bytes).await.unwrap();
        assert_eq!(info.size, len as u64);
        assert_eq!((server.count(Op::Put), server.count(Op::Part)), (puts, parts), "{name}");
        assert!(get(&store, name).await.unwrap() == bytes, "{name}");
        assert_eq!(Some(info), store.head(&key(name)).await.unwrap());
    }
    assert_eq!(server.uploads(), 0);
}

#[tokio::test]
async fn a_busy_store_is_asked_again_but_not_for_ever() {
    let server = server().await;
    let store = probed(&server, |_| {}).await;
    let bytes = noise(100);

    server.fault(Op::Put, Fault::Answer(503, "SlowDown"), 3);
    put(&store, NAME, &bytes).await.unwrap();
    assert_eq!(server.count(Op::Put), 4);

    server.forget();
    server.fault(Op::Put, Fault::Answer(503, "SlowDown"), 100);
    let error = put(&store, "o/never", &bytes).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert_eq!(server.count(Op::Put), 4, "as often as configured");
    assert!(error.act.starts_with("write o/never in s3://vaults/team/prod: "), "{}", error.act);
    assert!(told(&error).contains("503 SlowDown"), "{}", told(&error));
    no_secrets(&server, &error);
    let debug = format!("{store:?}");
    assert!(debug.contains("s3://vaults/team/prod") && !debug.contains("secret"), "{debug}");
    assert!(!debug.contains(&server.access().access_key), "{debug}");
}

#[tokio::test]
async fn a_reset_during_a_part_sends_that_part_again() {
    let server = server().await;
    let store = probed(&server, |_| {}).await;
    server.fault(Op::Part, Fault::Reset, 1);
    server.fault(Op::Part, Fault::LoseAnswer, 1);
    let bytes = noise(12 * MIB);
    put(&store, NAME, &bytes).await.unwrap();
    assert_eq!(server.count(Op::Part), 5, "three parts and two again");
    assert!(server.bytes(BUCKET, OBJECT).unwrap() == bytes);
}

#[tokio::test]
async fn a_lost_success_is_recognised() {
    let server = server().await;
    let store = probed(&server, |_| {}).await;
    let bytes = noise(1000);

    // The repeated request is answered 412: the object is there, and it is ours.
    server.fault(Op::Put, Fault::LoseAnswer, 1);
    let info = put(&store, NAME, &bytes).await.unwrap();
    assert_eq!((info.size, server.count(Op::Put)), (1000, 2));

    // The repeated completion is answered 404: the upload is no more.
    server.forget();
    server.fault(Op::Complete, Fault::LoseAnswer, 1);
    let large = noise(6 * MIB);
    put(&store, "o/large", &large).await.unwrap();
    assert_eq!(server.count(Op::Complete), 2);
    assert!(get(&store, "o/large").await.unwrap() == large);

    // All answers are lost: looking at the result shows the success.
    server.forget();
    server.fault(Op::Put, Fault::LoseAnswer, 1);
    server.fault(Op::Put, Fault::Reset, 10);
    put(&store, "o/silent", &bytes).await.unwrap();
    assert_eq!(server.count(Op::Put), 4);
}

#[tokio::test]
async fn another_writer_is_never_taken_for_us() {
    let server = server().await;
    let store = probed(&server, |_| {}).await;

    // Same size, other bytes: 412 is true this time.
    server.fault(Op::Put, Fault::Overtake(b"other"), 1);
    let error = put(&store, NAME, &Bytes::from_static(b"mine!")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::AlreadyExists);
    assert_eq!(server.bytes(BUCKET, OBJECT).unwrap(), "other");

    server.fault(Op::Complete, Fault::Overtake(b"other"), 1);
    let error = put(&store, "o/large", &noise(6 * MIB)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::AlreadyExists);
    assert_eq!(server.bytes(BUCKET, "team/prod/o/large").unwrap(), "other");
    assert_eq!(server.uploads(), 0, "ours is aborted");

    // Known before anything is sent.
    server.forget();
    let error = put(&store, "o/large", &noise(6 * MIB)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::AlreadyExists);
    assert_eq!((server.count(Op::Create), server.count(Op::Part)), (0, 0));
}

#[tokio::test]
async fn conflicts_on_put_are_tried_again_and_on_complete_given_up() {
    let server = server().await;
    let store = probed(&server, |_| {}).await;
    server.fault(Op::Put, Fault::Answer(409, "ConditionalRequestConflict"), 2);
    put(&store, NAME, &noise(10)).await.unwrap();
    assert_eq!(server.count(Op::Put), 3);

    server.forget();
    server.fault(Op::Put, Fault::Answer(409, "ConditionalRequestConflict"), 100);
    let error = put(&store, "o/b", &noise(10)).await.unwrap_err();
    assert_eq!((error.kind, server.count(Op::Put)), (ErrorKind::Unavailable, 6));

    server.forget();
    server.fault(Op::Complete, Fault::Answer(409, "ConditionalRequestConflict"), 1);
    let error = put(&store, "o/c", &noise(6 * MIB)).await.unwrap_err();
    assert_eq!((error.kind, server.count(Op::Complete)), (ErrorKind::Unavailable, 1));
    assert!(error.act.contains("the upload was discarded"), "{}", error.act);
    assert_eq!(server.uploads(), 0);
    assert_eq!(store.head(&key("o/c")).await.unwrap(), None);
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_broke() {
    let server = server().await;
    let store = probed(&server, |config| config.read_timeout = Duration::from_secs(5)).await;
    let bytes = noise(3 * MIB);
    put(&store, NAME, &bytes).await.unwrap();

    server.forget();
    server.fault(Op::Get, Fault::ResetBody(MIB + 17), 1);
    server.fault(Op::Get, Fault::StallBody(MIB), 1);
    assert!(get(&store, NAME).await.unwrap() == bytes);
    assert_eq!(server.count(Op::Get), 3);

    // A range too, and its end is exact.
    server.forget();
    server.fault(Op::Get, Fault::ResetBody(1000), 1);
    let range = 100..(2 * MIB as u64 + 5);
    let part = read(store.get(&key(NAME), Some(range.clone())).await.unwrap()).await.unwrap();
    assert!(part == bytes[range.start as usize..range.end as usize]);
    assert_eq!(server.count(Op::Get), 2);

    // Never more than so often without progress.
    server.forget();
    server.fault(Op::Get, Fault::ResetBody(0), 100);
    let error = get(&store, NAME).await.unwrap_err();
    assert_eq!((error.kind, server.count(Op::Get)), (ErrorKind::Unavailable, 6));
    no_secrets(&server, &error);
}

#[tokio::test]
async fn a_replaced_object_is_not_mixed_with_the_old_one() {
    let server = server().await;
    let store = probed(&server, |_| {}).await;
    put(&store, NAME, &noise(MIB)).await.unwrap();
    server.fault(Op::Get, Fault::ResetBody(1000), 1);
    server.fault(Op::Get, Fault::Overtake(b"quite another object"), 1);
    let error = get(&store, NAME).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corrupt);
    assert!(error.act.ends_with("the object was replaced while it was read"), "{}", error.act);
}

#[tokio::test]
async fn wrong_bytes_do_not_pass() {
    let server = server().await;
    for checksum in Checksum::ALL {
        let store = probed(&server, |c| c.checksum = ChecksumMode::Always(checksum)).await;
        let name = format!("o/{checksum}");
        put(&store, &name, &noise(200_000)).await.unwrap();
        server.fault(Op::Get, Fault::WrongBytes, 1);
        let error = get(&store, &name).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Corrupt, "{checksum}");
        assert!(error.act.contains("checksum"), "{}", error.act);
        assert!(get(&store, &name).await.is_ok());
    }
    // Of parts, the whole's checksum is known where such checksums combine.
    let store = probed(&server, |_| {}).await;
    put(&store, "o/large", &noise(6 * MIB)).await.unwrap();
    server.fault(Op::Get, Fault::WrongBytes, 1);
    assert_eq!(get(&store, "o/large").await.unwrap_err().kind, ErrorKind::Corrupt);

    // And on the way up the store refuses.
    server.fault(Op::Put, Fault::Answer(400, "BadDigest"), 1);
    let error = put(&store, "o/up", &noise(10)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corrupt);
    server.fault(Op::Part, Fault::Answer(400, "BadDigest"), 1);
    let error = put(&store, "o/up", &noise(6 * MIB)).await.unwrap_err();
    assert_eq!((error.kind, server.uploads()), (ErrorKind::Corrupt, 0));
}

#[tokio::test]
async fn a_silent_store_ends_in_a_timeout() {
    let server = server().await;
    let store = probed(&server, |config| {
        config.read_timeout = Duration::from_secs(4);
        config.connect_timeout = Duration::from_secs(4);
        config.attempts = 2;
    })
    .await;
    server.fault(Op::Head, Fault::Stall, 10);
    let start = Instant::now();
    let error = store.head(&key(NAME)).await.unwrap_err();
    assert_eq!((error.kind, server.count(Op::Head)), (ErrorKind::Timeout, 2));
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    no_secrets(&server, &error);
}

#[tokio::test]
async fn a_part_that_hangs_is_sent_again() {
    let server = server().await;
    let store = probed(&server, |config| {
        config.read_timeout = Duration::from_secs(8);
        config.slowest = u64::MAX;
    })
    .await;
    server.fault(Op::Part, Fault::Stall, 1);
    server.fault(Op::Complete, Fault::Stall, 1);
    let bytes = noise(6 * MIB);
    put(&store, NAME, &bytes).await.unwrap();
    assert_eq!((server.count(Op::Part), server.count(Op::Complete)), (3, 2));
    assert!(server.bytes(BUCKET, OBJECT).unwrap() == bytes);
}

#[tokio::test]
async fn errors_say_what_to_do_about_them() {
    let server = server().await;
    let store = probed(&server, |_| {}).await;
    server.set_clock_ahead(Duration::from_secs(600));
    for (status, code, kind, part) in [
        (400, "ExpiredToken", ErrorKind::PermissionDenied, "the credentials have expired"),
        (403, "AccessDenied", ErrorKind::PermissionDenied, "the credentials lack s3:PutObject"),
        (403, "InvalidAccessKeyId", ErrorKind::PermissionDenied, "does not know these credentials"),
        (403, "SignatureDoesNotMatch", ErrorKind::PermissionDenied, "the secret key is wrong"),
        (404, "NoSuchBucket", ErrorKind::Configuration, "there is no bucket vaults"),
        (507, "XMinioStorageFull", ErrorKind::OutOfSpace, "the store is full"),
        (403, "QuotaExceeded", ErrorKind::OutOfSpace, "a quota of the store is reached"),
        (400, "BadDigest", ErrorKind::Corrupt, "not those that were sent"),
        (501, "NotImplemented", ErrorKind::Configuration, "does not know this kind of request"),
        (400, "Strange", ErrorKind::Io, "the store refused the request"),
    ] {
        // Some are tried again with a corrected clock.
        server.fault(Op::Put, Fault::Answer(status, code), 10);
        let error = put(&store, NAME, &noise(10)).await.unwrap_err();
        server.forget();
        assert_eq!(error.kind, kind, "{code}");
        assert!(error.act.starts_with("write clusters/prod/a/objects/x in s3://"), "{}", error.act);
        assert!(error.act.contains(part), "{code}: {}", error.act);
        assert!(told(&error).contains(&format!("{status} {code}")), "{}", told(&error));
        no_secrets(&server, &error);
    }
    server.fault(Op::Put, Fault::Answer(403, "RequestTimeTooSkewed"), 10);
    let error = put(&store, NAME, &noise(10)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Configuration);
    assert!(error.act.contains("clock is ") && error.act.contains(" s behind"), "{}", error.act);
    let skew = store.clock_skew_seconds().unwrap();
    assert!((560..=640).contains(&skew), "{skew}");

    // HEAD has no body: the reason is asked for.
    server.forget();
    server.fault(Op::Head, Fault::Answer(400, "ExpiredToken"), 10);
    server.fault(Op::Get, Fault::Answer(400, "ExpiredToken"), 10);
    let error = store.head(&key(NAME)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::PermissionDenied);
    assert!(error.act.contains("have expired"), "{}", error.act);
}

#[tokio::test]
async fn a_full_store_leaves_nothing_behind() {
    let server = server().await;
    let store = probed(&server, |_| {}).await;
    let mut upload = store.put_new(&key(NAME), SizeHint::Unknown).await.unwrap();
    upload.write(noise(6 * MIB)).await.unwrap();
    server.fill("XMinioStorageFull");
    // The part on its way, or one of the next, is refused.
    let mut kinds = Vec::new();
    for _ in 0..4 {
        kinds.extend(upload.write(noise(5 * MIB)).await.err().map(|error| error.kind));
    }
    assert_eq!(kinds.first(), Some(&ErrorKind::OutOfSpace));
    assert!(upload.finish().await.is_err(), "a failed upload cannot be finished");
    assert_eq!(server.uploads(), 0);
    assert_eq!(store.head(&key(NAME)).await.unwrap(), None);
}

#[tokio::test]
async fn aborting_and_dropping_end_the_upload() {
    let server = server().await;
    let store = probed(&server, |_| {}).await;
    let begin = async || {
        let mut upload = store.put_new(&key(NAME), SizeHint::AtMost(1 << 30)).await.unwrap();
        upload.write(noise(11 * MIB)).await.unwrap();
        upload
    };
    let upload = begin().await;
    assert_eq!(server.uploads(), 1);
    upload.abort().await.unwrap();
    assert_eq!(server.uploads(), 0);

    drop(begin().await);
    let start = Instant::now();
    while server.uploads() > 0 {
        assert!(start.elapsed() < Duration::from_secs(60), "dropped, and not aborted");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(store.head(&key(NAME)).await.unwrap(), None);
}

#[tokio::test]
async fn a_slow_store_holds_the_writer_back() {
    let server = server().await;
    let store = probed(&server, |config| config.part_size = None).await;
    server.fault(Op::Part, Fault::Stall, 100);
    let mut upload = store.put_new(&key(NAME), SizeHint::Unknown).await.unwrap();
    let mut taken = 0;
    loop {
        let chunk = noise(MIB);
        match tokio::time::timeout(Duration::from_secs(8), upload.write(chunk)).await {
            Ok(result) => result.unwrap(),
            Err(_) => break,
        }
        taken += 1;
        assert!(taken <= 10, "more than 10 MiB wait in memory");
    }
    assert_eq!((taken, server.count(Op::Part)), (10, 1));
    // The write that was dropped had taken a part of its chunk.
    assert!(upload.finish().await.is_err(), "an object with a hole");
    assert_eq!(server.count(Op::Complete), 0);
}

#[tokio::test]
async fn the_probe_believes_refusals_only() {
    let server = server().await;
    let store = S3Store::connect(config(server.access())).await.unwrap();
    assert!(!store.capabilities().put_new, "nothing is known before the probe");
    let probe = store.probe().await.unwrap();
    let expected = Probe {
        put_new: true,
        complete_new: true,
        checksum: Some(Checksum::Crc64Nvme),
        multipart_checksum: true,
        ordered: true,
        region: "us-east-1".into(),
        ..probe.clone()
    };
    assert_eq!(probe, expected);
    assert!(probe.left.is_empty() && probe.clock_skew_seconds.unwrap().abs() < 40);
    assert!(store.capabilities().put_new);
    assert!(names(&store, "", None).await.unwrap().is_empty(), "the probe cleans up");
    assert_eq!(server.uploads(), 0);
    let text = serde_json::to_string(&probe).unwrap();
    assert_eq!(serde_json::from_str::<Probe>(&text).unwrap(), probe);
    assert!(text.contains(r#""checksum":"crc64nvme""#), "{text}");

    let old: Probe = serde_json::from_str(r#"{"put_new": true, "later": 1}"#).unwrap();
    assert_eq!(old, Probe { put_new: true, ..Probe::default() });

    // Each habit, and what is made of it.
    server.overwrite_silently(false, true);
    let probe = store.probe().await.unwrap();
    assert_eq!((probe.put_new, probe.complete_new), (true, false));
    assert!(!store.capabilities().put_new);
    server.overwrite_silently(true, true);
    let probe = store.probe().await.unwrap();
    assert_eq!((probe.put_new, probe.complete_new), (false, false));
    server.list_disordered();
    assert!(!store.probe().await.unwrap().ordered);
    server.ignore_checksums();
    let probe = store.probe().await.unwrap();
    assert_eq!((probe.checksum, probe.multipart_checksum), (None, false));

    // A store that is down, or lets us not write, is no store without features.
    server.fault(Op::Put, Fault::Answer(403, "AccessDenied"), 1);
    let error = store.probe().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::PermissionDenied);
    server.forget();
    server.fault(Op::Put, Fault::Answer(503, "SlowDown"), 100);
    assert_eq!(store.probe().await.unwrap_err().kind, ErrorKind::Unavailable);
}

#[tokio::test]
async fn without_the_right_to_delete_the_probe_names_what_it_leaves() {
    let server = server().await;
    let store = S3Store::connect(config(server.access())).await.unwrap();
    server.fault(Op::Delete, Fault::Answer(403, "AccessDenied"), 2);
    let probe = store.probe().await.unwrap();
    assert!(probe.put_new && probe.complete_new);
    assert_eq!(probe.left, names(&store, "probe/", None).await.unwrap());
    assert_eq!(probe.left.len(), 2);
}

#[tokio::test]
async fn a_store_that_overwrites_silently_is_looked_at_first() {
    let server = server().await;
    server.overwrite_silently(true, true);
    let store = probed(&server, |_| {}).await;
    for len in [10, 6 * MIB] {
        let name = format!("o/{len}");
        put(&store, &name, &noise(len)).await.unwrap();
        let error = put(&store, &name, &noise(len + 1)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::AlreadyExists);
        assert!(get(&store, &name).await.unwrap() == noise(len));
    }
    // Both began when the name was free: the slower one looks again.
    let mut a = store.put_new(&key("o/race"), SizeHint::Unknown).await.unwrap();
    let mut b = store.put_new(&key("o/race"), SizeHint::Unknown).await.unwrap();
    a.write(noise(10)).await.unwrap();
    b.write(noise(11)).await.unwrap();
    a.finish().await.unwrap();
    assert_eq!(b.finish().await.unwrap_err().kind, ErrorKind::AlreadyExists);
    assert!(get(&store, "o/race").await.unwrap() == noise(10));

    // Without a probe nothing is taken for granted either.
    let bare = S3Store::connect(config(server.access())).await.unwrap();
    let error = put(&bare, "o/race", &noise(5)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::AlreadyExists);
}

#[tokio::test]
async fn listings_page_and_keep_the_order_of_bytes() {
    let server = server().await;
    server.set_page(3);
    let store = probed(&server, |_| {}).await;
    let mut all: Vec<String> = ["a", "a-b/c", "a/b", "a.b", "a_b", "b/1", "b/2", "c", "d/e/f", "z"]
        .map(str::to_owned)
        .to_vec();
    for name in &all {
        put(&store, name, &noise(3)).await.unwrap();
    }
    // Neither of these is ours.
    server.replace(BUCKET, "team/prod/", b"a folder marker");
    server.replace(BUCKET, "team/production/x", b"a neighbour");
    all.sort();
    assert_eq!(names(&store, "", None).await.unwrap(), all);
    assert_eq!(names(&store, "b/", None).await.unwrap(), ["b/1", "b/2"]);
    assert_eq!(names(&store, "a", Some("a-b/c")).await.unwrap(), ["a.b", "a/b", "a_b"]);
    server.forget();
    assert_eq!(names(&store, "", Some("b/2")).await.unwrap(), ["c", "d/e/f", "z"]);
    assert_eq!(server.count(Op::List), 1, "what comes before is not listed");

    server.list_disordered();
    let error = names(&store, "", None).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corrupt, "order is checked where it is relied on");
    store.probe().await.unwrap();
    assert_eq!(names(&store, "", None).await.unwrap(), all);
    assert_eq!(names(&store, "a", Some("a-b/c")).await.unwrap(), ["a.b", "a/b", "a_b"]);
}

#[tokio::test]
async fn the_sweep_takes_the_abandoned_only() {
    let server = server().await;
    let store = probed(&server, |_| {}).await;
    let raw = server.access().client();
    let begin = async |name: &str| {
        raw.create_multipart_upload().bucket(BUCKET).key(name).send().await.unwrap();
    };
    begin("team/prod/o/old").await;
    begin("elsewhere/old").await;
    server.age_uploads(Duration::from_secs(49 * 3600));
    begin("team/prod/o/live").await;
    assert_eq!(store.sweep().await.unwrap(), 1);
    let left = server.access().uploads(BUCKET, "").await.unwrap();
    let mut left: Vec<String> = left.into_iter().map(|(name, _)| name).collect();
    left.sort();
    assert_eq!(left, ["elsewhere/old", "team/prod/o/live"]);

    // By the store's clock, which is ten minutes ahead: five past the two days.
    server.set_clock_ahead(Duration::from_secs(600));
    begin("team/prod/o/due").await;
    server.age_uploads(Duration::from_secs(48 * 3600 + 300));
    assert_eq!(store.sweep().await.unwrap(), 2);
    assert_eq!(server.access().uploads(BUCKET, "team").await.unwrap(), []);
}

#[tokio::test]
async fn deleting() {
    let server = server().await;
    let store = probed(&server, |_| {}).await;
    put(&store, NAME, &noise(10)).await.unwrap();
    store.delete(&key(NAME)).await.unwrap();
    store.delete(&key(NAME)).await.unwrap();
    assert_eq!(store.head(&key(NAME)).await.unwrap(), None);

    put(&store, NAME, &noise(10)).await.unwrap();
    server.fault(Op::Delete, Fault::Answer(403, "AccessDenied"), 1);
    let error = store.delete(&key(NAME)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::PermissionDenied);
    assert!(error.act.contains("lack s3:DeleteObject"), "{}", error.act);

    server.retain(BUCKET, OBJECT, Duration::from_secs(86_400));
    let error = store.delete(&key(NAME)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::PermissionDenied);
    assert!(error.act.contains("object lock retains it until 20"), "{}", error.act);
}

#[tokio::test]
async fn what_is_missing_is_not_found_even_when_the_store_says_forbidden() {
    let server = server().await;
    let store = probed(&server, |_| {}).await;
    assert_eq!(store.head(&key(NAME)).await.unwrap(), None);
    assert_eq!(get(&store, NAME).await.unwrap_err().kind, ErrorKind::NotFound);
    // So AWS answers those who may list under a prefix only.
    server.fault(Op::Head, Fault::Answer(403, "AccessDenied"), 1);
    server.fault(Op::Get, Fault::Answer(403, "AccessDenied"), 2);
    assert_eq!(store.head(&key(NAME)).await.unwrap(), None);
    assert_eq!(get(&store, NAME).await.unwrap_err().kind, ErrorKind::NotFound);

    put(&store, NAME, &noise(10)).await.unwrap();
    server.fault(Op::Get, Fault::Answer(403, "AccessDenied"), 1);
    assert_eq!(get(&store, NAME).await.unwrap_err().kind, ErrorKind::PermissionDenied);
}

#[tokio::test]
async fn connecting_tells_what_is_wrong() {
    let server = server().await;
    let mut wrong = config(server.access());
    wrong.bucket = "nowhere".into();
    let error = S3Store::connect(wrong).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Configuration);
    assert!(error.act.contains("there is no bucket nowhere"), "{}", error.act);

    let mut wrong = config(server.access());
    wrong.credentials.as_mut().unwrap().secret_key = "hunter2".into();
    let error = S3Store::connect(wrong).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::PermissionDenied);
    assert!(!format!("{} {error:?}", told(&error)).contains("hunter2"));

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut wrong = config(server.access());
    wrong.endpoint_url = Some(format!("http://{free}"));
    let error = S3Store::connect(wrong).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.act.contains("connection refused"), "{}", error.act);

    // TLS where there is none.
    let mut wrong = config(server.access());
    wrong.endpoint_url = Some(server.access().url.replace("http://", "https://"));
    let error = S3Store::connect(wrong).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Configuration, "{}", told(&error));
    assert!(error.act.contains("does not speak TLS"), "{}", error.act);

    let mut wrong = config(server.access());
    wrong.ca_file = Some("/nonexistent/ca.pem".into());
    let error = S3Store::connect(wrong).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Configuration);
    assert!(error.act.contains("/nonexistent/ca.pem"), "{}", error.act);
    let dir = tempfile::tempdir().unwrap();
    for (text, why) in [
        ("no certificate", "there is no certificate in it"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be read"),
        ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", "not valid PEM"),
    ] {
        let path = dir.path().join("ca.pem");
        std::fs::write(&path, text).unwrap();
        let mut wrong = config(server.access());
        wrong.ca_file = Some(path);
        let error = S3Store::connect(wrong).await.unwrap_err();
        assert!(error.act.contains(why), "{}", error.act);
    }
}

#[tokio::test]
async fn the_region_is_found_out_unless_it_is_given() {
    let server = server().await;
    server.fault(Op::List, Fault::Redirect("eu-central-1"), 1);
    let store = S3Store::connect(config(server.access())).await.unwrap();
    assert_eq!(store.region(), "eu-central-1");
    put(&store, NAME, &noise(10)).await.unwrap();

    let mut given = config(server.access());
    given.set("region", "us-west-2").unwrap();
    server.fault(Op::List, Fault::Redirect("eu-central-1"), 1);
    let error = S3Store::connect(given).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Configuration);
    assert!(
        error.act.contains("bucket vaults is in region eu-central-1, not in us-west-2"),
        "{}",
        error.act
    );
}

#[tokio::test]
async fn ranges_lie_inside_the_object() {
    let server = server().await;
    let store = probed(&server, |_| {}).await;
    let bytes = noise(1000);
    put(&store, NAME, &bytes).await.unwrap();
    put(&store, "o/empty", &noise(0)).await.unwrap();
    for range in [0..1000, 0..1, 999..1000, 10..20, 5..5, 1000..1000] {
        let download = store.get(&key(NAME), Some(range.clone())).await.unwrap();
        assert_eq!(download.size, 1000);
        let got = read(download).await.unwrap();
        assert!(got == bytes[range.start as usize..range.end as usize], "{range:?}");
    }
    #[allow(clippy::reversed_empty_ranges)]
    let outside = [0..1001, 1000..1001, 5000..6000, 1001..1001, 20..10, 0..u64::MAX];
    for range in outside {
        let error = store.get(&key(NAME), Some(range.clone())).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidRange, "{range:?}");
    }
    assert!(read(store.get(&key("o/empty"), Some(0..0)).await.unwrap()).await.unwrap().is_empty());
    let error = store.get(&key("o/empty"), Some(0..1)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidRange);
}

/// The SDK's chain reads the process's environment, so each case is a process.
#[tokio::test]
async fn credentials_and_proxies_come_by_the_chain_of_the_sdk() {
    let server = server().await;
    let home = tempfile::tempdir().unwrap();
    let (id, secret) = (&server.access().access_key, &server.access().secret_key);
    let url = server.access().url.as_str();
    let pair = format!("aws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
    let helper =
        format!(r#"{{"Version": 1, "AccessKeyId": "{id}", "SecretAccessKey": "{secret}"}}"#);
    let write = |name: &str, text: &str| {
        let path = home.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let keys = write(
        "keys",
        &format!(
            "[default]\naws_access_key_id = wrong\naws_secret_access_key = wrong\n[vault]\n{pair}"
        ),
    );
    let answer = write("answer", &helper);
    let process = write(
        "process",
        &format!("[default]\ncredential_process = cat {answer}\nregion = eu-west-3\n"),
    );
    let broken = write("broken", "[default]\ncredential_process = sh -c 'echo hunter2; exit 1'\n");
    let key_pair = [("AWS_ACCESS_KEY_ID", id.as_str()), ("AWS_SECRET_ACCESS_KEY", secret)];

    for (what, environment, profile, expected) in [
        ("environment", key_pair.to_vec(), "", "ok us-east-1"),
        ("region", [&key_pair[..], &[("AWS_REGION", "eu-west-3")]].concat(), "", "ok eu-west-3"),
        (
            "profile by name",
            vec![("AWS_SHARED_CREDENTIALS_FILE", keys.as_str()), ("AWS_PROFILE", "vault")],
            "",
            "ok us-east-1",
        ),
        (
            "profile by option",
            vec![("AWS_SHARED_CREDENTIALS_FILE", keys.as_str())],
            "vault",
            "ok us-east-1",
        ),
        ("process", vec![("AWS_CONFIG_FILE", process.as_str())], "", "ok eu-west-3"),
        (
            "broken process",
            vec![("AWS_CONFIG_FILE", broken.as_str())],
            "",
            "PermissionDenied reach s3://vaults/team/prod: the credentials could not be loaded",
        ),
        (
            "proxy",
            [&key_pair[..], &[("HTTP_PROXY", url), ("CHILD_URL", "http://s3.example.invalid:1")]]
                .concat(),
            "",
            "ok us-east-1",
        ),
        (
            "no proxy",
            [
                &key_pair[..],
                &[
                    ("HTTP_PROXY", url),
                    ("NO_PROXY", ".invalid"),
                    ("CHILD_URL", "http://s3.example.invalid:1"),
                ],
            ]
            .concat(),
            "",
            "Unavailable reach s3://vaults/team/prod: the name s3.example.invalid could not be resolved",
        ),
        (
            "none",
            vec![],
            "",
            "PermissionDenied reach s3://vaults/team/prod: no credentials were found",
        ),
    ] {
        let output = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_connects", "--ignored", "--nocapture"])
            .env_clear()
            .env("CHILD_URL", url)
            .envs(environment)
            .env("HOME", home.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("CHILD_PROFILE", profile)
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = text.lines().find_map(|line| line.split_once("child: ")).map(|(_, told)| told);
        assert!(told.is_some_and(|told| told.starts_with(expected)), "{what}: {text}");
        assert!(!text.contains("hunter2") && !text.contains(secret), "{what}: {text}");
    }
}

/// Run by the test above as a process of its own.
#[tokio::test]
#[ignore = "a part of credentials_and_proxies_come_by_the_chain_of_the_sdk"]
async fn child_that_connects() {
    use std::io::Write as _;
    let Ok(url) = std::env::var("CHILD_URL") else { return };
    let mut config = S3Config::from_url(&format!("s3://{BUCKET}/{PREFIX}")).unwrap();
    config.set("endpoint-url", &url).unwrap();
    config.path_style = PathStyle::On;
    config.profile = std::env::var("CHILD_PROFILE").ok().filter(|name| !name.is_empty());
    let line = match S3Store::connect(config).await {
        Ok(store) => format!("ok {}", store.region()),
        Err(error) => format!("{:?} {}", error.kind, told(&error)),
    };
    writeln!(std::io::stdout(), "child: {line}").unwrap();
}
