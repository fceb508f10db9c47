//! A backup goes in, is found, and comes out the same: on a directory and in
//! memory, encrypted and not, by this code and by plain tools.

#[path = "support/fixture.rs"]
mod fixture;

use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chrono::TimeDelta;
use futures_util::stream::BoxStream;
use serde_json::json;
use vault::encryption::{EncryptionChoice, Identities, Passphrase};
use vault::layout::{BackupId, ClusterName, Level, ManifestKey, Role};
use vault::manifest::{Manifest, ProofState};
use vault::repository::{
    Filter, Lineage, LineageParent, NewObject, ReadOptions, Receipt, Repository, RepositoryError,
    Selector, Spool, WriteOptions,
};
use vault::store::fault::{Fault, FaultStore};
use vault::store::local::LocalStore;
use vault::store::memory::MemoryStore;
use vault::store::{Capabilities, Download, ErrorKind, Key, ObjectInfo, SizeHint, Store, Upload};

use fixture::*;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn choices() -> [EncryptionChoice; 3] {
    [EncryptionChoice::None, to_recipient(), to_passphrase("correct horse")]
}

async fn load(vault: &Repository, key: &ManifestKey) -> Manifest {
    vault.load(key).await.unwrap().manifest
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_in_comes_out_and_verifies() {
    // Around the size of a frame: none, one, two and a bit; the empty object too.
    let frame = vault::compression::FRAME_SIZE;
    for choice in choices() {
        let vault = new_vault(Arc::new(MemoryStore::new()), choice).await.unwrap();
        for (sequence, size) in
            [0, 1, 65_536, frame - 1, frame, frame + 1, 2 * frame + 777_777].into_iter().enumerate()
        {
            let plain = content(size, 1 + sequence as u64);
            let key = back_up(&vault, &plain, sequence as u64).await.unwrap();
            let manifest = load(&vault, &key).await;
            let record = manifest.object("snapshot").unwrap();
            assert_eq!(record.plain_size, size as u64);
            assert_eq!(record.frames, size.div_ceil(frame).max(1) as u64);
            assert!(read_all(&vault, &manifest).await.unwrap() == plain, "{size} bytes");

            let mut told = Vec::new();
            let report = vault
                .verify_stored(record, &ReadOptions::default(), &mut |done| told.push(done))
                .await
                .unwrap();
            assert_eq!((report.stored, report.frames), (record.stored_size, Some(record.frames)));
            assert_eq!(told.last(), Some(&record.stored_size));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_size_is_close_to_plain_zstd() {
    let plain = content(40_000_000, 3);
    let vault = new_vault(Arc::new(MemoryStore::new()), EncryptionChoice::None).await.unwrap();
    let key = back_up(&vault, &plain, 1).await.unwrap();
    let stored = load(&vault, &key).await.objects[0].stored_size;
    let whole = zstd::bulk::compress(&plain, 3).unwrap().len() as u64;
    assert!(stored as f64 <= 1.03 * whole as f64, "{stored} against {whole}");
}

/// Counts the bytes that leave a store.
#[derive(Debug)]
struct Counting {
    inner: MemoryStore,
    asked: AtomicU64,
}

#[async_trait::async_trait]
impl Store for Counting {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    async fn put_new(&self, key: &Key, size: SizeHint) -> vault::store::Result<Box<dyn Upload>> {
        self.inner.put_new(key, size).await
    }
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> vault::store::Result<Download> {
        let download = self.inner.get(key, range.clone()).await?;
        let asked = range.map_or(download.size, |range| range.end - range.start);
        self.asked.fetch_add(asked, Ordering::SeqCst);
        Ok(download)
    }
    async fn head(&self, key: &Key) -> vault::store::Result<Option<ObjectInfo>> {
        self.inner.head(key).await
    }
    fn list<'a>(
        &'a self,
        prefix: &'a str,
        start_after: Option<&'a str>,
    ) -> BoxStream<'a, vault::store::Result<ObjectInfo>> {
        self.inner.list(prefix, start_after)
    }
    async fn delete(&self, key: &Key) -> vault::store::Result<()> {
        self.inner.delete(key).await
    }
    async fn sweep(&self) -> vault::store::Result<u64> {
        self.inner.sweep().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_reads_only_its_frames() {
    let frame = vault::compression::FRAME_SIZE as u64;
    let plain = content(5 * frame as usize + 12_345, 9);
    let size = plain.len() as u64;
    for choice in [EncryptionChoice::None, to_recipient()] {
        let store = Arc::new(Counting { inner: MemoryStore::new(), asked: AtomicU64::new(0) });
        let vault = new_vault(Arc::clone(&store) as Arc<dyn Store>, choice).await.unwrap();
        let key = back_up(&vault, &plain, 1).await.unwrap();
        let record = load(&vault, &key).await.objects[0].clone();
        for range in [
            0..1,
            0..size,
            frame - 3..frame + 3,
            2 * frame..3 * frame,
            size - 1..size,
            7..7,
            2 * frame - 1..4 * frame + 1,
        ] {
            let got = vault.read_range(&record, range.clone()).await.unwrap();
            assert!(got == plain[range.start as usize..range.end as usize], "{range:?}");
        }
        store.asked.store(0, Ordering::SeqCst);
        vault.read_range(&record, 3 * frame + 5..3 * frame + 10).await.unwrap();
        let asked = store.asked.load(Ordering::SeqCst);
        assert!(asked < record.stored_size / 2, "{asked} of {}", record.stored_size);

        for range in [0..size + 1, size + 1..size + 1, Range { start: 2, end: 1 }, 0..u64::MAX] {
            let error = vault.read_range(&record, range).await.unwrap_err();
            assert!(matches!(error, RepositoryError::Range { .. }), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_right_key_opens() {
    let wrong = [
        Identities::from_text(OTHER_IDENTITY).unwrap(),
        Identities::from_passphrase(Passphrase::new("wrong".into()).unwrap()),
    ];
    for (choice, right) in [
        (to_recipient(), identities()),
        (
            to_passphrase("right"),
            Identities::from_passphrase(Passphrase::new("right".into()).unwrap()),
        ),
    ] {
        let store = MemoryStore::new();
        let vault = new_vault(Arc::new(store.clone()), choice).await.unwrap();
        let key = back_up(&vault, b"secret content", 1).await.unwrap();

        let mut opened = Repository::open(Arc::new(store.clone())).await.unwrap();
        let manifest = load(&opened, &key).await;
        let record = &manifest.objects[0];
        assert!(matches!(
            opened.open_object(record, &ReadOptions::default()).await,
            Err(RepositoryError::KeyNeeded { .. })
        ));
        // Without a key the stored bytes can be verified all the same.
        let report =
            opened.verify_stored(record, &ReadOptions::default(), &mut |_| {}).await.unwrap();
        assert_eq!((report.stored, report.frames), (record.stored_size, None));
        for wrong in wrong.clone() {
            let error = opened.unlock(wrong).await.unwrap_err();
            assert!(matches!(error, RepositoryError::WrongKey { .. }), "{error:?}");
        }
        assert!(matches!(
            opened.open_object(record, &ReadOptions::default()).await,
            Err(RepositoryError::KeyNeeded { .. })
        ));
        opened.unlock(right).await.unwrap();
        assert_eq!(read_all(&opened, &manifest).await.unwrap(), b"secret content");
        for object in store.keys() {
            let bytes = store.bytes(&object).unwrap();
            assert!(!bytes.windows(14).any(|window| window == b"secret content"), "{object}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_another_key_is_a_wrong_key_and_not_corruption() {
    let (ours, theirs) = (MemoryStore::new(), MemoryStore::new());
    let vault = new_vault(Arc::new(ours.clone()), to_recipient()).await.unwrap();
    let other = new_vault(Arc::new(theirs.clone()), to_passphrase("x")).await.unwrap();
    let key_theirs = back_up(&other, b"theirs", 1).await.unwrap();
    for key in theirs.keys().iter().filter(|key| key.as_str().starts_with("clusters/")) {
        ours.set(key.clone(), theirs.bytes(key).unwrap());
    }
    let manifest = load(&vault, &key_theirs).await;
    let error = read_all(&vault, &manifest).await.unwrap_err();
    assert!(matches!(error, RepositoryError::WrongKey { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_write_with_public_keys_alone_but_not_without_a_passphrase() {
    let store = MemoryStore::new();
    new_vault(Arc::new(store.clone()), to_recipient()).await.unwrap();
    let locked = Repository::open(Arc::new(store)).await.unwrap();
    assert!(!locked.needs_key_to_write());
    back_up(&locked, b"content", 1).await.unwrap();

    let store = MemoryStore::new();
    new_vault(Arc::new(store.clone()), to_passphrase("x")).await.unwrap();
    let locked = Repository::open(Arc::new(store)).await.unwrap();
    assert!(locked.needs_key_to_write());
    let error = back_up(&locked, b"content", 1).await.unwrap_err();
    assert!(matches!(error, RepositoryError::KeyNeeded { .. }), "{error:?}");
}

#[tokio::test]
async fn a_vault_is_made_once_and_only_of_an_empty_place() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("vault");
    std::fs::create_dir(&root).unwrap();
    let store = || Arc::new(LocalStore::open(&root).unwrap());
    let error = Repository::open(store()).await.unwrap_err();
    assert!(matches!(error, RepositoryError::NotAVault { .. }), "{error:?}");
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0, "opening creates nothing");

    std::fs::write(root.join("other"), b"x").unwrap();
    let error = new_vault(store(), EncryptionChoice::None).await.unwrap_err();
    assert!(matches!(error, RepositoryError::NotEmpty { .. }), "{error:?}");
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 1);
    std::fs::remove_file(root.join("other")).unwrap();

    // What an attempt leaves that was interrupted between its two files.
    std::fs::write(root.join("RESTORE.txt"), b"of another attempt").unwrap();
    let vault = new_vault(store(), to_recipient()).await.unwrap();
    vault.check_restore_text().await.unwrap();
    let error = new_vault(store(), EncryptionChoice::None).await.unwrap_err();
    assert!(matches!(error, RepositoryError::AlreadyAVault { .. }), "{error:?}");
    let opened = Repository::open(store()).await.unwrap();
    assert_eq!(opened.vault_file(), vault.vault_file());
    assert_eq!(opened.vault_file().store, json!({"put_new": true}));
    std::fs::write(root.join("RESTORE.txt"), b"something else").unwrap();
    assert!(opened.check_restore_text().await.unwrap_err().is_corruption());
}

/// The commands of a RESTORE.txt.
fn commands(text: &str) -> String {
    let commands: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("    $ ")).collect();
    assert!(commands.len() >= 6, "{text}");
    commands.join("\n")
}

fn require(program: &str) {
    let found = Command::new(program).arg("--version").output();
    assert!(found.is_ok(), "this test needs the program {program}: install its package");
}

fn follow(root: &Path, identity: Option<&Path>) -> std::process::Output {
    let text = std::fs::read_to_string(root.join("RESTORE.txt")).unwrap();
    let script = format!("set -e\n{}\n", commands(&text));
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).current_dir(root).env("LC_ALL", "C");
    if let Some(identity) = identity {
        command.env("IDENTITY", identity);
    }
    command.output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_txt_works_with_plain_tools() {
    for program in ["zstd", "age"] {
        require(program);
    }
    let directory = tempfile::tempdir().unwrap();
    let identity = directory.path().join("key.txt");
    std::fs::write(&identity, format!("# a key\n{IDENTITY}\n")).unwrap();
    let plain = content(9_000_000, 5);
    for (name, choice) in [("plain", EncryptionChoice::None), ("age", to_recipient())] {
        let root = directory.path().join(name);
        let store = Arc::new(LocalStore::create(&root).unwrap());
        let vault = new_vault(store, choice).await.unwrap();
        back_up(&vault, b"an older one", 1).await.unwrap();
        std::thread::sleep(Duration::from_millis(2));
        back_up(&vault, &plain, 2).await.unwrap();
        let key = (name == "age").then_some(&*identity);
        let output = follow(&root, key);
        let shown = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{name}: {shown}");
        assert!(std::fs::read(root.join("restored")).unwrap() == plain, "{name}");

        // A damaged object is noticed before it is used.
        std::fs::remove_file(root.join("restored")).unwrap();
        let object = {
            let newest = vault.find(None, &Selector::Latest).await.unwrap();
            root.join(&newest.manifest.objects[0].key)
        };
        let mut bytes = std::fs::read(&object).unwrap();
        bytes[1000] ^= 1;
        std::fs::write(&object, bytes).unwrap();
        assert!(!follow(&root, key).status.success());
        assert!(!root.join("restored").exists());
    }
}

/// The command of `docs/format/vault.md` gives the digest that the file carries.
#[tokio::test]
async fn a_sealed_document_is_checked_with_plain_tools() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("vault");
    new_vault(Arc::new(LocalStore::create(&root).unwrap()), to_recipient()).await.unwrap();
    let text = include_str!("../../docs/format/vault.md");
    let command = text.lines().find(|line| line.starts_with("sed ")).expect("a command");
    let output = Command::new("sh").args(["-c", command]).current_dir(&root).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let file: serde_json::Value =
        serde_json::from_slice(&std::fs::read(root.join("vault.json")).unwrap()).unwrap();
    assert_eq!(printed.split_whitespace().next(), file["sha256"].as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_txt_of_a_passphrase_vault_works_on_a_terminal() {
    for program in ["zstd", "age", "script"] {
        require(program);
    }
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("vault");
    let vault = new_vault(Arc::new(LocalStore::create(&root).unwrap()), to_passphrase("tr0ub4dor"))
        .await
        .unwrap();
    let plain = content(100_000, 6);
    back_up(&vault, &plain, 1).await.unwrap();
    let text = std::fs::read_to_string(root.join("RESTORE.txt")).unwrap();
    let file = directory.path().join("commands.sh");
    std::fs::write(&file, format!("set -e\n{}\n", commands(&text))).unwrap();
    // age reads a passphrase from a terminal only; `script` gives it one.
    let mut child = Command::new("script")
        .args(["-qec", &format!("sh {}", file.display()), "/dev/null"])
        .current_dir(&root)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, b"tr0ub4dor\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(std::fs::read(root.join("restored")).unwrap() == plain);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_backups_at_once_both_succeed() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("vault");
    let first =
        new_vault(Arc::new(LocalStore::create(&root).unwrap()), to_recipient()).await.unwrap();
    let mut second = Repository::open(Arc::new(LocalStore::open(&root).unwrap())).await.unwrap();
    second.unlock(identities()).await.unwrap();
    let (a, b) = (content(6_000_000, 1), content(6_000_000, 2));
    // The same second, kind, sequence and lineage.
    let (one, two) = tokio::join!(back_up(&first, &a, 7), back_up(&second, &b, 7));
    let listing = first.list(&Filter::default()).await.unwrap();
    assert_eq!((listing.backups.len(), listing.corrupt.len()), (2, 0));
    assert!(read_all(&first, &load(&first, &one.unwrap()).await).await.unwrap() == a);
    assert!(read_all(&first, &load(&first, &two.unwrap()).await).await.unwrap() == b);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_store_fills_the_spool_and_then_fails() {
    let directory = tempfile::tempdir().unwrap();
    let spool = |limit| WriteOptions {
        workers: 2,
        spool: Some(Spool { directory: directory.path().to_owned(), limit }),
        ..WriteOptions::default()
    };
    // What does not compress, so that stored bytes are as many as plain ones.
    let plain = incompressible(48 << 20);
    let memory = MemoryStore::new();
    let slow = FaultStore::new(Arc::new(memory.clone()), 0, Fault::Once, ErrorKind::Io);
    let vault = new_vault(Arc::new(slow.clone()), EncryptionChoice::None).await.unwrap();

    slow.hold_writes(true);
    let id = BackupId::generate();
    let mut writer = vault.create_object(object(id), &spool(64 << 20)).await.unwrap();
    for chunk in plain.chunks(100_000) {
        writer.write(Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    // All is in the spool but what the store and the queue's memory hold, and what the
    // pipeline may still hold: three frames that wait or fill, and of each worker one
    // that it works on, one that is ready and one that is being handed on.
    slow.hold_writes(false);
    let written = writer.finish().await.unwrap();
    assert!(written.spooled > 4 << 20, "{} bytes were spooled", written.spooled);
    let manifest_written = manifest(id, 1, &[&written]);
    vault.commit(&manifest_written).await.unwrap();
    assert!(read_all(&vault, &manifest_written).await.unwrap() == plain);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);

    slow.hold_writes(true);
    let id = BackupId::generate();
    let error = write_object(&vault, id, &plain, &spool(10 << 20)).await.unwrap_err();
    assert!(
        matches!(error, RepositoryError::SpoolFull { limit } if limit == 10 << 20),
        "{error:?}"
    );
    slow.hold_writes(false);
    let stored = memory.keys();
    assert!(!stored.iter().any(|key| key.as_str().contains(&id.to_string())), "{stored:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_that_fills_at_the_end_does_not_wait_for_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let limit = 100_000;
    let options = WriteOptions {
        spool: Some(Spool { directory: directory.path().to_owned(), limit }),
        ..WriteOptions::default()
    };
    let slow = FaultStore::new(Arc::new(MemoryStore::new()), 0, Fault::Once, ErrorKind::Io);
    let vault = new_vault(Arc::new(slow.clone()), EncryptionChoice::None).await.unwrap();
    slow.hold_writes(true);
    // Frames of 4 MiB: one is with the store, one in the queue, and the third, which
    // is for the spool, is complete only when every write has been taken.
    let plain = incompressible(12_000_000);
    let mut writer = vault.create_object(object(BackupId::generate()), &options).await.unwrap();
    for chunk in plain.chunks(100_000) {
        writer.write(Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    let finished = tokio::time::timeout(Duration::from_secs(60), writer.finish()).await;
    let error = finished.expect("it waits for a store that hangs").unwrap_err();
    assert!(matches!(error, RepositoryError::SpoolFull { limit: at } if at == limit), "{error:?}");
}

fn object(id: BackupId) -> NewObject {
    NewObject {
        place: place(),
        id,
        role: "snapshot".parse().unwrap(),
        name: "snapshot.db".into(),
        plain_size: SizeHint::Unknown,
    }
}

fn incompressible(size: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252u64;
    let mut out = Vec::with_capacity(size + 8);
    while out.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(size);
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_spool_the_writer_waits_for_the_store() {
    let slow = FaultStore::new(Arc::new(MemoryStore::new()), 0, Fault::Once, ErrorKind::Io);
    let vault = new_vault(Arc::new(slow.clone()), EncryptionChoice::None).await.unwrap();
    let plain = incompressible(64 << 20);
    slow.hold_writes(true);
    let object = object(BackupId::generate());
    let options = WriteOptions { workers: 2, ..WriteOptions::default() };
    let mut writer = vault.create_object(object, &options).await.unwrap();
    let mut taken = 0;
    for chunk in plain.chunks(1 << 20) {
        let write = writer.write(Bytes::copy_from_slice(chunk));
        match tokio::time::timeout(Duration::from_secs(2), write).await {
            Ok(result) => result.unwrap(),
            Err(_) => break,
        }
        taken += chunk.len();
    }
    // Buffers, frames, queue: what bounds the memory of the pipeline.
    assert!(taken <= 44 << 20, "{taken} bytes were taken");
    slow.hold_writes(false);
    writer.abort().await.unwrap();
    assert_eq!(vault.list(&Filter::default()).await.unwrap().backups.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_given_up_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("vault");
    let store = LocalStore::create(&root).unwrap();
    let vault = new_vault(Arc::new(store), EncryptionChoice::None).await.unwrap();
    let before = files(&root);
    for dropped in [false, true] {
        let object = NewObject {
            place: place(),
            id: BackupId::generate(),
            role: "snapshot".parse().unwrap(),
            name: "snapshot.db".into(),
            plain_size: SizeHint::AtMost(1 << 30),
        };
        let mut writer = vault.create_object(object, &WriteOptions::default()).await.unwrap();
        writer.write(content(20_000_000, 1).into()).await.unwrap();
        assert!(files(&root).len() > before.len());
        if dropped {
            drop(writer);
            for _ in 0..3000 {
                if files(&root) == before {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        } else {
            writer.abort().await.unwrap();
        }
        assert_eq!(files(&root), before);
    }
}

fn files(root: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        for entry in std::fs::read_dir(&path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { pending.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_are_found_by_id_prefix_latest_and_time() {
    let store = MemoryStore::new();
    let vault = new_vault(Arc::new(store.clone()), EncryptionChoice::None).await.unwrap();
    let mut keys = Vec::new();
    // Across a month's end; the newest is a mismatch.
    let times = [-40, -20, -10, 0, 1];
    for (number, days) in times.into_iter().enumerate() {
        let id: BackupId = format!("01JD2Y{number}A00000000000000000{number}").parse().unwrap();
        let written = write_object(&vault, id, b"content", &WriteOptions::default()).await.unwrap();
        let mut manifest = manifest(id, number as u64, &[&written]);
        manifest.started = now() + TimeDelta::days(days);
        if number == 4 {
            manifest.proof.state = ProofState::Mismatch;
        }
        keys.push(vault.commit(&manifest).await.unwrap());
    }
    let find = async |selector: Selector| vault.find(None, &selector).await;
    assert_eq!(find(Selector::Latest).await.unwrap().key, keys[3]);
    for (key, text) in
        [(&keys[1], "01JD2Y1"), (&keys[4], "01jd2y4a"), (&keys[0], "01JD2Y0A000000000000000000")]
    {
        assert_eq!(find(Selector::Id(text.into())).await.unwrap().key, *key, "{text}");
    }
    let error = find(Selector::Id("01JD2Y".into())).await.unwrap_err();
    assert!(
        matches!(&error, RepositoryError::Ambiguous { candidates, .. } if candidates.len() == 5),
        "{error:?}"
    );
    for text in ["", "02", "\u{1b}[2J"] {
        let error = find(Selector::Id(text.into())).await.unwrap_err();
        assert!(matches!(error, RepositoryError::NoBackup { .. }), "{error:?}");
        assert!(!error.to_string().contains('\u{1b}'));
    }
    for (days, expected) in
        [(-41, None), (-40, Some(0)), (-15, Some(1)), (-1, Some(2)), (9, Some(3))]
    {
        let found = find(Selector::LatestBefore(now() + TimeDelta::days(days))).await;
        match expected {
            Some(number) => assert_eq!(found.unwrap().key, keys[number]),
            None => assert!(matches!(found, Err(RepositoryError::NoBackup { .. }))),
        }
    }

    let listed = async |filter: Filter| -> Vec<ManifestKey> {
        let listing = vault.list(&filter).await.unwrap();
        assert_eq!(listing.corrupt.len(), 0);
        listing.backups.into_iter().map(|backup| backup.key).collect()
    };
    assert_eq!(listed(Filter::default()).await, keys);
    let day = |days| Some(now() + TimeDelta::days(days));
    let filter = Filter { from: day(-20), before: day(0), ..Filter::default() };
    assert_eq!(listed(filter).await, keys[1..3]);
    let filter = Filter { from: day(2), ..Filter::default() };
    assert_eq!(listed(filter).await, []);
    let cluster = Some(ClusterName::new("other").unwrap());
    assert_eq!(listed(Filter { cluster, ..Filter::default() }).await, []);

    // Whatever a store holds besides is reported, and hides nothing.
    store.set(key("clusters/prod/cdf818194e3a8c32/manifests/2026/11/zzz.json"), "x");
    store.set(key(&format!("{}.minisig", keys[3])), "a signature");
    let listing = vault.list(&Filter::default()).await.unwrap();
    assert_eq!((listing.backups.len(), listing.corrupt.len()), (5, 1));
    assert!(find(Selector::Latest).await.unwrap_err().is_corruption());
    assert_eq!(find(Selector::Id("01JD2Y3".into())).await.unwrap().key, keys[3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_does_not_choose_between_clusters() {
    let vault = new_vault(Arc::new(MemoryStore::new()), EncryptionChoice::None).await.unwrap();
    // Names of which one is the start of another, and a '-' sorts before a '/'.
    let mut keys = Vec::new();
    for cluster in ["prod", "prod-b", "prod.c"] {
        let id = BackupId::generate();
        let mut manifest = manifest(id, 1, &[]);
        manifest.cluster = ClusterName::new(cluster).unwrap();
        keys.push(vault.commit(&manifest).await.unwrap());
    }
    let places = vault.places(None).await.unwrap();
    let mut names: Vec<&str> = places.iter().map(|place| place.cluster.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["prod", "prod-b", "prod.c"]);
    let error = vault.find(None, &Selector::Latest).await.unwrap_err();
    assert!(matches!(error, RepositoryError::SeveralClusters { .. }), "{error:?}");
    let cluster = ClusterName::new("prod-b").unwrap();
    let found = vault.find(Some(&cluster), &Selector::Latest).await.unwrap();
    assert_eq!(found.key, keys[1]);
}

#[tokio::test]
async fn a_damaged_or_newer_manifest_is_reported_and_never_passed_over() {
    let store = MemoryStore::new();
    let vault = new_vault(Arc::new(store.clone()), EncryptionChoice::None).await.unwrap();
    let good = back_up(&vault, b"content", 1).await.unwrap();
    let written = manifest(BackupId::generate(), 2, &[]);
    let (mut newer, bytes) = written.encode().unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let text = text.replacen("\"version\": 1", "\"version\": 9", 1);
    let text = text.replacen("\"oldest_reader\": 1", "\"oldest_reader\": 9", 1);
    newer.digest = ManifestKey::digest_of(text.as_bytes());
    store.set(newer.key(), text);

    let listing = vault.list(&Filter::default()).await.unwrap();
    assert_eq!(listing.backups.len(), 1);
    assert_eq!(listing.backups[0].key, good);
    let [entry] = &listing.corrupt[..] else { panic!("{:?}", listing.corrupt) };
    assert!(matches!(entry.error, RepositoryError::TooNew { version: 9, needs: 9, .. }));
    let error = vault.find(None, &Selector::Latest).await.unwrap_err();
    assert!(matches!(error, RepositoryError::TooNew { .. }), "{error:?}");
}

#[tokio::test]
async fn a_vault_of_a_newer_format_is_refused() {
    let store = MemoryStore::new();
    let vault = new_vault(Arc::new(store.clone()), EncryptionChoice::None).await.unwrap();
    let mut file = serde_json::to_value(vault.vault_file()).unwrap();
    for (version, oldest, opens) in
        [(2u64, 1u64, true), (2, 2, false), (1u64 << 40, 1u64 << 40, false)]
    {
        file["format"] = json!({"version": version, "oldest_reader": oldest});
        let bytes = vault::document::seal(&file).unwrap();
        store.set(key("vault.json"), bytes);
        let opened = Repository::open(Arc::new(store.clone())).await;
        match opened {
            Ok(_) => assert!(opens),
            Err(RepositoryError::TooNew { needs, .. }) => {
                assert!(!opens);
                assert_eq!(u64::from(needs), u64::from(u32::MAX).min(oldest));
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn commit_wants_its_objects_and_may_be_repeated() {
    let store = MemoryStore::new();
    let vault = new_vault(Arc::new(store.clone()), EncryptionChoice::None).await.unwrap();
    let id = BackupId::generate();
    let written = write_object(&vault, id, b"content", &WriteOptions::default()).await.unwrap();
    let manifest = manifest(id, 1, &[&written]);
    let object = key(&written.record.key);
    let bytes = store.bytes(&object).unwrap();
    store.delete(&object).await.unwrap();
    assert!(vault.commit(&manifest).await.unwrap_err().is_corruption());
    store.set(object.clone(), bytes.slice(1..));
    assert!(vault.commit(&manifest).await.unwrap_err().is_corruption());
    store.set(object, bytes);
    let first = vault.commit(&manifest).await.unwrap();
    assert_eq!(vault.commit(&manifest).await.unwrap(), first);

    let mut unfit = manifest.clone();
    unfit.labels.insert("color".into(), "\u{1b}[31m".into());
    let error = vault.commit(&unfit).await.unwrap_err();
    assert!(matches!(error, RepositoryError::Invalid { .. }), "{error:?}");
}

#[tokio::test]
async fn receipts_and_lineages_are_kept() {
    let store = MemoryStore::new();
    let vault = new_vault(Arc::new(store.clone()), EncryptionChoice::None).await.unwrap();
    let id = BackupId::generate();
    let receipt = |minutes, level: &str| Receipt {
        id,
        time: now() + TimeDelta::minutes(minutes),
        level: Level::new(level).unwrap(),
        body: json!({"ok": true, "bytes": 7}),
    };
    for (minutes, level) in [(5, "stored"), (0, "content"), (5, "content"), (5, "content")] {
        vault.put_receipt(&place(), &receipt(minutes, level)).await.unwrap();
    }
    let (receipts, corrupt) = vault.receipts(&place(), id).await.unwrap();
    assert_eq!(corrupt.len(), 0);
    assert_eq!(receipts, [receipt(0, "content"), receipt(5, "content"), receipt(5, "stored")]);
    let (none, _) = vault.receipts(&place(), BackupId::generate()).await.unwrap();
    assert_eq!(none, []);

    assert_eq!(vault.lineage(&place()).await.unwrap(), None);
    let first = Lineage {
        place: place(),
        created: now(),
        parent: Some(LineageParent {
            lineage: "0123".parse().unwrap(),
            sequence: u64::MAX,
            hash: None,
        }),
        body: json!({"cluster_id": "cdf8"}),
    };
    assert!(vault.ensure_lineage(&first).await.unwrap(), "written");
    let later = Lineage { parent: None, ..first.clone() };
    assert!(!vault.ensure_lineage(&later).await.unwrap());
    let stays = vault.lineage(&place()).await.unwrap();
    assert_eq!(stays, Some(first), "the first one stays");
    // A lineage of another place under this key is no lineage of this place.
    let stolen = store.bytes(&place().lineage()).unwrap();
    store.set(place_of("other").lineage(), stolen);
    assert!(vault.lineage(&place_of("other")).await.unwrap_err().is_corruption());
}

/// An import is as old as nobody knows: it is the latest only where nothing else is.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_compared_is_the_latest_only_alone() {
    let vault = new_vault(Arc::new(MemoryStore::new()), EncryptionChoice::None).await.unwrap();
    let commit = async |days: i64, state| {
        let id = BackupId::generate();
        let written = write_object(&vault, id, b"content", &WriteOptions::default()).await.unwrap();
        let mut manifest = manifest(id, 7, &[&written]);
        manifest.started = now() + TimeDelta::days(days);
        manifest.proof.state = state;
        vault.commit(&manifest).await.unwrap()
    };
    let latest = async || vault.find(None, &Selector::Latest).await.unwrap().key;
    commit(0, ProofState::Unknown).await;
    let newer = commit(1, ProofState::Unknown).await;
    assert_eq!(latest().await, newer);
    let proven = commit(-9, ProofState::Proven).await;
    assert_eq!(latest().await, proven);
    let unproven = commit(-8, ProofState::NotProven).await;
    assert_eq!(latest().await, unproven);
}

/// A caller that hashes the plain bytes itself is held to its digest by every reader.
#[tokio::test(flavor = "multi_thread")]
async fn a_digest_of_the_callers_is_held_against_what_is_read() {
    let vault = new_vault(Arc::new(MemoryStore::new()), EncryptionChoice::None).await.unwrap();
    let plain = b"what the caller hashed".repeat(1000);
    for right in [true, false] {
        let object = NewObject {
            place: place(),
            id: BackupId::generate(),
            role: Role::new("snapshot").unwrap(),
            name: "snapshot.db".into(),
            plain_size: SizeHint::Exact(plain.len() as u64),
        };
        let options = WriteOptions { hash_plain: false, ..WriteOptions::default() };
        let mut writer = vault.create_object(object, &options).await.unwrap();
        writer.write(plain.clone().into()).await.unwrap();
        let hashed: &[u8] = if right { &plain } else { b"something else" };
        let written = writer.finish_with(vault::digest::Sha256::of(hashed)).await.unwrap();
        let mut reader = vault.open_object(&written.record, &ReadOptions::default()).await.unwrap();
        let end = loop {
            match reader.next().await {
                Ok(Some(_)) => {}
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        assert_eq!(end.is_ok(), right, "{end:?}");
        assert!(end.err().is_none_or(|error| error.is_corruption()));
    }
}
