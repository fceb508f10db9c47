//! What every store promises, as checks that run over any of them.
//!
//! `run` wants an empty store (or prefix) and leaves objects in it. `reopen` gives
//! another handle on the same place.
#![allow(dead_code, unreachable_pub)]

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use vault::store::{ErrorKind, Key, SizeHint, Store};

/// Runs every check.
pub async fn run<F, R>(store: Arc<dyn Store>, reopen: F)
where
    F: Fn() -> R,
    R: Future<Output = Arc<dyn Store>>,
{
    objects_come_back(&*store).await;
    ranges_are_exact(&*store).await;
    listing_is_in_byte_order(&*store).await;
    nothing_is_replaced(&*store, &*reopen().await).await;
    unfinished_is_invisible(&*store, &*reopen().await).await;
    absent_is_said(&*store).await;
    deletion_is_idempotent(&*store).await;
    many_at_once(Arc::clone(&store)).await;
    everything_outlives_the_handle(&*store, &*reopen().await).await;
}

pub fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

pub async fn put(store: &dyn Store, name: &str, content: &[u8]) {
    let mut upload = store.put_new(&key(name), SizeHint::Unknown).await.unwrap();
    for chunk in content.chunks(300_000) {
        upload.write(Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    let info = upload.finish().await.unwrap();
    assert_eq!((info.key.as_str(), info.size), (name, content.len() as u64));
}

pub async fn get(store: &dyn Store, name: &str) -> Vec<u8> {
    let download = store.get(&key(name), None).await.unwrap();
    let size = download.size;
    let content = collect(download).await;
    assert_eq!(content.len() as u64, size);
    content
}

async fn collect(download: vault::store::Download) -> Vec<u8> {
    let chunks: Vec<Bytes> = download.stream.try_collect().await.unwrap();
    chunks.concat()
}

pub async fn names(store: &dyn Store, prefix: &str, after: Option<&str>) -> Vec<String> {
    let infos: Vec<_> = store.list(prefix, after).try_collect().await.unwrap();
    infos.into_iter().map(|info| info.key.to_string()).collect()
}

fn content(size: usize) -> Vec<u8> {
    (0..size as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

async fn objects_come_back(store: &dyn Store) {
    for size in [0, 1, 4096, 1_000_003, 9 << 20] {
        let name = format!("back/of-{size}");
        put(store, &name, &content(size)).await;
        assert!(get(store, &name).await == content(size), "{size} bytes");
        let info = store.head(&key(&name)).await.unwrap().expect("it is there");
        assert_eq!((info.key.as_str(), info.size), (&*name, size as u64));
        let age = chrono::Utc::now() - info.modified;
        assert!(age.num_seconds().abs() < 300, "modified {age} ago");
    }
    for (number, hint) in [SizeHint::Exact(10), SizeHint::AtMost(20_000_000), SizeHint::AtMost(10)]
        .into_iter()
        .enumerate()
    {
        let name = format!("back/hinted-{number}");
        let mut upload = store.put_new(&key(&name), hint).await.unwrap();
        upload.write(Bytes::from_static(b"0123")).await.unwrap();
        upload.write(Bytes::new()).await.unwrap();
        upload.write(Bytes::from_static(b"456789")).await.unwrap();
        assert_eq!(upload.finish().await.unwrap().size, 10);
        assert_eq!(get(store, &name).await, b"0123456789");
    }
}

async fn ranges_are_exact(store: &dyn Store) {
    let whole = content(3_000_000);
    put(store, "ranges/object", &whole).await;
    let object = key("ranges/object");
    for range in [0..1, 0..3_000_000, 1_048_575..1_048_577, 2_999_999..3_000_000] {
        let download = store.get(&object, Some(range.clone())).await.unwrap();
        assert_eq!(download.size, 3_000_000, "the whole size");
        let part = collect(download).await;
        assert!(part == whole[range.start as usize..range.end as usize], "{range:?}");
    }
    for range in [0..3_000_001, 3_000_000..3_000_001, 5_000_000..6_000_000] {
        let error = store.get(&object, Some(range.clone())).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidRange, "{range:?}");
    }
}

async fn listing_is_in_byte_order(store: &dyn Store) {
    // '-' and '.' sort before '/', digits and letters after it.
    let mut expected = Vec::new();
    for name in [
        "list/a",
        "list/a-b/x",
        "list/a.b",
        "list/a/b",
        "list/a/b/c",
        "list/a0",
        "list/aB",
        "list/ab",
        "list/b",
        "list/B",
        "list/a/z",
        "list/a_",
    ] {
        // A file system has no object below another.
        if name == "list/a" || name == "list/a/b" {
            continue;
        }
        put(store, name, b"x").await;
        expected.push(name);
    }
    expected.sort_unstable();
    assert_eq!(names(store, "list/", None).await, expected);
    for prefix in ["list/a", "list/a/", "list/a-b/x", "list/nothing", "li", "list/ab"] {
        let some: Vec<&str> =
            expected.iter().copied().filter(|name| name.starts_with(prefix)).collect();
        let found = names(store, prefix, None).await;
        let found: Vec<&String> = found.iter().filter(|name| name.starts_with("list/")).collect();
        assert_eq!(found, some, "{prefix}");
    }
    for after in
        ["list/a", "list/a/", "list/a/b", "list/a/b/c", "list/a/~", "list/aB", "list/zzz", "a"]
    {
        let some: Vec<&str> = expected.iter().copied().filter(|name| *name > after).collect();
        assert_eq!(names(store, "list/", Some(after)).await, some, "after {after}");
    }
    for number in 0..300 {
        put(store, &format!("pages/{number:04}"), b"").await;
    }
    let all = names(store, "pages/", None).await;
    assert_eq!(all.len(), 300);
    assert!(all.is_sorted());
    assert_eq!(names(store, "pages/", Some("pages/0150")).await, all[151..]);
}

async fn nothing_is_replaced(store: &dyn Store, other: &dyn Store) {
    put(store, "once/object", b"first").await;
    if !store.capabilities().put_new {
        return;
    }
    // Refused at the start or at the end, but refused.
    let second = async {
        let mut upload = store.put_new(&key("once/object"), SizeHint::Exact(6)).await?;
        upload.write(Bytes::from_static(b"second")).await?;
        upload.finish().await
    };
    assert_eq!(second.await.unwrap_err().kind, ErrorKind::AlreadyExists);
    assert_eq!(get(store, "once/object").await, b"first");

    // Both begun before either is finished: exactly one wins.
    let begin = async |store: &dyn Store, text: &'static [u8]| {
        let mut upload = store.put_new(&key("once/race"), SizeHint::Unknown).await.unwrap();
        upload.write(Bytes::from_static(text)).await.unwrap();
        upload
    };
    let (one, two) = (begin(store, b"one").await, begin(other, b"two").await);
    let (one, two) = (one.finish().await, two.finish().await);
    assert!(one.is_ok());
    assert_eq!(two.unwrap_err().kind, ErrorKind::AlreadyExists);
    assert_eq!(get(store, "once/race").await, b"one");
}

async fn unfinished_is_invisible(store: &dyn Store, other: &dyn Store) {
    for ending in ["abort", "drop", "finish"] {
        let name = format!("unfinished/{ending}");
        let mut upload = store.put_new(&key(&name), SizeHint::Unknown).await.unwrap();
        upload.write(content(6 << 20).into()).await.unwrap();
        for store in [store, other] {
            assert_eq!(store.head(&key(&name)).await.unwrap(), None);
            assert_eq!(names(store, "unfinished/", None).await, Vec::<String>::new());
            let error = store.get(&key(&name), None).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::NotFound);
        }
        assert_eq!(other.sweep().await.unwrap(), 0, "what is alive is not swept");
        match ending {
            "abort" => upload.abort().await.unwrap(),
            "drop" => drop(upload),
            _ => {
                upload.finish().await.unwrap();
                assert_eq!(names(store, "unfinished/", None).await, [name]);
                continue;
            }
        }
        assert_eq!(store.head(&key(&name)).await.unwrap(), None);
    }
}

async fn absent_is_said(store: &dyn Store) {
    for name in ["absent", "absent/deeper/still", "back"] {
        assert_eq!(store.head(&key(name)).await.unwrap(), None);
        let error = store.get(&key(name), None).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound, "{name}");
        let error = store.get(&key(name), Some(0..1)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound, "{name}");
    }
    assert_eq!(names(store, "absent", None).await, Vec::<String>::new());
}

async fn deletion_is_idempotent(store: &dyn Store) {
    put(store, "gone/object", b"x").await;
    for _ in 0..2 {
        store.delete(&key("gone/object")).await.unwrap();
        assert_eq!(store.head(&key("gone/object")).await.unwrap(), None);
        assert_eq!(names(store, "gone/", None).await, Vec::<String>::new());
    }
    store.delete(&key("never/was")).await.unwrap();
    put(store, "gone/object", b"again").await;
    assert_eq!(get(store, "gone/object").await, b"again");
}

async fn many_at_once(store: Arc<dyn Store>) {
    let tasks: Vec<_> = (0..16)
        .map(|number| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let name = format!("many/{number}/object");
                put(&*store, &name, &content(100_000 + number)).await;
                assert!(get(&*store, &name).await == content(100_000 + number));
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(names(&*store, "many/", None).await.len(), 16);
}

async fn everything_outlives_the_handle(store: &dyn Store, other: &dyn Store) {
    let here = names(store, "", None).await;
    assert!(here.len() > 300);
    assert_eq!(names(other, "", None).await, here);
    assert_eq!(get(other, "once/object").await, b"first");
}
