use std::os::unix::fs::{PermissionsExt as _, symlink};

use futures_util::TryStreamExt as _;

use super::*;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

async fn put(store: &LocalStore, name: &str, content: &[u8]) {
    let mut upload = store.put_new(&key(name), SizeHint::Unknown).await.unwrap();
    upload.write(Bytes::copy_from_slice(content)).await.unwrap();
    upload.finish().await.unwrap();
}

async fn names(store: &LocalStore) -> Vec<String> {
    let found: Vec<ObjectInfo> = store.list("", None).try_collect().await.unwrap();
    found.into_iter().map(|info| info.key.to_string()).collect()
}

#[tokio::test]
async fn opening_creates_nothing_and_creating_refuses_foreign_things() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("a/b");
    assert_eq!(LocalStore::open(&missing).unwrap_err().kind, ErrorKind::NotFound);
    assert!(!directory.path().join("a").exists());

    LocalStore::create(&missing).unwrap();
    let mode = std::fs::metadata(&missing).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
    std::fs::create_dir(missing.join("lost+found")).unwrap();
    LocalStore::create(&missing).unwrap();

    std::fs::write(missing.join("my\nfile"), b"x").unwrap();
    let error = LocalStore::create(&missing).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Configuration);
    let source = error.source.unwrap().to_string();
    assert_eq!(source, "the directory is not empty: my\\u{a}file is there");
}

#[test]
fn an_upload_that_nobody_waits_for_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    // One thread for file work, which is held up: what is begun is not done yet.
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build();
    let store = LocalStore::open(directory.path()).unwrap();
    runtime.unwrap().block_on(async {
        let (go, held) = std::sync::mpsc::channel::<()>();
        let holding = tokio::task::spawn_blocking(move || held.recv());
        let name = key("a/b");
        let mut opening = Box::pin(store.put_new(&name, SizeHint::Unknown));
        assert!(futures_util::poll!(&mut opening).is_pending());
        drop(opening);
        go.send(()).unwrap();
        holding.await.unwrap().unwrap();
        // It comes after what was begun before.
        tokio::task::spawn_blocking(|| ()).await.unwrap();
    });
    let made = directory.path().join("a");
    assert!(made.is_dir(), "nothing was begun");
    assert_eq!(std::fs::read_dir(made).unwrap().count(), 0);
}

#[tokio::test]
async fn files_are_private_and_temporary_ones_are_gone_afterwards() {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalStore::open(directory.path()).unwrap();
    put(&store, "a/b/c", b"content").await;
    let mode = |path: &str| {
        std::fs::metadata(directory.path().join(path)).unwrap().permissions().mode() & 0o7777
    };
    assert_eq!((mode("a"), mode("a/b"), mode("a/b/c")), (0o700, 0o700, 0o600));

    let mut upload = store.put_new(&key("a/b/d"), SizeHint::Unknown).await.unwrap();
    upload.write(Bytes::from_static(b"x")).await.unwrap();
    let count = || std::fs::read_dir(directory.path().join("a/b")).unwrap().count();
    assert_eq!(count(), 2);
    assert_eq!(names(&store).await, ["a/b/c"]);
    assert_eq!(store.sweep().await.unwrap(), 0, "a live writer's file stays");
    assert_eq!(count(), 2);
    drop(upload);
    assert_eq!(count(), 1);
}

#[tokio::test]
async fn sweeping_takes_dead_writers_files_only() {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalStore::open(directory.path()).unwrap();
    put(&store, "a/object", b"content").await;
    let me = Writer::current().unwrap().temporary_name(0);
    let fields: Vec<&str> = me.splitn(7, '-').collect();
    let with = |at: usize, text: &str| {
        let mut fields = fields.clone();
        fields[at] = text;
        fields.join("-")
    };
    let dead_pid = {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        child.id().to_string()
    };
    let zeros = "0".repeat(32);
    let elsewhere = {
        let mut fields = fields.clone();
        fields[1] = &zeros;
        fields[6] = "another-host";
        fields.join("-")
    };
    let dead = [with(3, &dead_pid), with(1, &zeros)];
    let kept = [me.clone(), elsewhere.clone(), ".hidden".to_owned(), ".tmp-odd".to_owned()];
    for name in dead.iter().chain(&kept) {
        std::fs::write(directory.path().join("a").join(name), b"x").unwrap();
    }
    assert_eq!(store.sweep().await.unwrap(), 2);
    for name in &dead {
        assert!(!directory.path().join("a").join(name).exists(), "{name}");
    }
    for name in &kept {
        assert!(directory.path().join("a").join(name).exists(), "{name}");
    }
    // Nobody can be asked after it, and it has not changed for eight days.
    let old =
        std::fs::File::options().write(true).open(directory.path().join("a").join(&elsewhere));
    let eight_days = std::time::Duration::from_secs(8 * 24 * 3600);
    old.unwrap().set_modified(std::time::SystemTime::now() - eight_days).unwrap();
    assert_eq!(store.sweep().await.unwrap(), 1);
    assert_eq!(names(&store).await, ["a/object"]);
}

#[tokio::test]
async fn strange_names_are_ignored_and_links_are_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), b"outside").unwrap();
    let store = LocalStore::open(directory.path()).unwrap();
    put(&store, "real", b"content").await;
    symlink(outside.path(), directory.path().join("linked")).unwrap();
    symlink(outside.path().join("secret"), directory.path().join("alias")).unwrap();
    for name in ["new\nline", "sp ace", ".hidden", "ü"] {
        std::fs::write(directory.path().join(name), b"x").unwrap();
    }
    assert_eq!(names(&store).await, ["real"]);
    for name in ["linked/secret", "alias", "real/below"] {
        assert_eq!(store.head(&key(name)).await.unwrap(), None, "{name}");
        store.get(&key(name), None).await.expect_err(name);
        store.put_new(&key(name), SizeHint::Unknown).await.map(drop).expect_err(name);
    }
    store.delete(&key("linked/secret")).await.unwrap();
    assert!(outside.path().join("secret").exists());
}
