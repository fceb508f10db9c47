//! Restores on a simulated file system: what a crash at any call leaves, what a
//! failure leaves, and what is refused.

use sha2::{Digest, Sha256};
use vault::durable::FileType;
use vault::durable::sim::{SimFs, Unsynced};

use super::*;
use crate::bbolt::patch::Patch;
use crate::bbolt::patch::tests::{apply, empty_database};
use crate::datadir::schema::{RecordKey, bucket, meta_key};

/// A small etcd database with its trailer.
fn snapshot() -> Vec<u8> {
    let mut patch = Patch::new();
    for main in 2..40i64 {
        let key = format!("key-{}", main % 7);
        let mut value = vec![0x0a, key.len() as u8];
        value.extend_from_slice(key.as_bytes());
        value.extend_from_slice(&[0x10, main as u8, 0x18, main as u8, 0x20, 1]);
        let record = RecordKey { main, sub: 0, tombstone: false }.to_bytes();
        patch.put(bucket::KEY, &record, &value);
    }
    patch.put(bucket::META, meta_key::CONSISTENT_INDEX, &900u64.to_be_bytes());
    patch.put(bucket::META, meta_key::TERM, &5u64.to_be_bytes());
    patch.put(bucket::CLUSTER, b"clusterVersion", b"3.6.0");
    patch.put(bucket::MEMBERS, b"aa", br#"{"id":170,"peerURLs":["http://old:2380"]}"#);
    patch.put(bucket::MEMBERS_REMOVED, b"bb", b"removed");
    let mut bytes = apply(empty_database(4096), &patch).expect("a database");
    let digest = Sha256::digest(&bytes);
    bytes.extend_from_slice(&digest);
    bytes
}

fn target(name: &str, data_dir: &str, wal_dir: Option<&str>) -> Target {
    Target {
        name: name.into(),
        data_dir: data_dir.into(),
        wal_dir: wal_dir.map(Into::into),
        advertised_peer_urls: Vec::new(),
    }
}

fn options(targets: Vec<Target>) -> Options {
    Options {
        initial_cluster: "m1=http://h1:2380,m2=http://h2:2380".into(),
        initial_cluster_token: "token".into(),
        targets,
        bump_revision: 1000,
        mark_compacted: true,
        ..Options::default()
    }
}

fn dead(build: u32) -> Tag {
    Tag::of_a_dead_process(build).expect("a tag")
}

fn run(fs: &SimFs, options: Options, tag: Tag, bytes: &[u8]) -> Result<Restored, RestoreError> {
    let mut restore = Restore::begin_as(Arc::new(fs.clone()), options, tag)?;
    for chunk in bytes.chunks(9000) {
        restore.write(chunk)?;
    }
    restore.finish(&Expected::default())
}

fn read(fs: &dyn FileSystem, path: &Path) -> Option<Vec<u8>> {
    let file = fs.open(path).ok()?;
    let mut bytes = vec![0; file.size().ok()? as usize];
    let read = file.read_at(0, &mut bytes).ok()?;
    (read == bytes.len()).then_some(bytes)
}

/// Every file and directory below `path`, with the content of files.
fn tree(fs: &dyn FileSystem, path: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    for entry in fs.read_dir(path).unwrap_or_default() {
        let inner = path.join(entry.name);
        if entry.file_type == FileType::Directory {
            found.push((inner.clone(), None));
            found.extend(tree(fs, &inner));
        } else {
            let bytes = read(fs, &inner);
            found.push((inner, bytes));
        }
    }
    found
}

/// A way to restore: what is there before, and what is asked for.
struct Case {
    name: &'static str,
    directories: &'static [&'static str],
    targets: Vec<Target>,
    /// The paths that the result consists of.
    results: &'static [&'static str],
}

fn cases() -> Vec<Case> {
    let one = |data: &str, wal: Option<&str>| vec![target("m1", data, wal)];
    vec![
        Case {
            name: "missing directory, missing parents",
            directories: &[],
            targets: one("/var/lib/etcd", None),
            results: &["/var/lib/etcd"],
        },
        Case {
            name: "mount point",
            directories: &["/etcd", "/etcd/lost+found"],
            targets: one("/etcd", None),
            results: &["/etcd/member"],
        },
        Case {
            name: "log elsewhere, both missing",
            directories: &["/ssd"],
            targets: one("/etcd", Some("/ssd/deep/wal")),
            results: &["/etcd", "/ssd/deep/wal"],
        },
        Case {
            name: "log elsewhere, both mount points",
            directories: &["/etcd", "/wal", "/wal/lost+found"],
            targets: one("/etcd", Some("/wal")),
            results: &["/etcd/member", "/wal"],
        },
        Case {
            name: "log in the missing data directory",
            directories: &[],
            targets: one("/etcd", Some("/etcd/wal")),
            results: &["/etcd"],
        },
        Case {
            name: "log in the existing data directory",
            directories: &["/etcd"],
            targets: one("/etcd", Some("/etcd/wal")),
            results: &["/etcd/member", "/etcd/wal"],
        },
        Case {
            name: "all members below a missing directory",
            directories: &[],
            targets: vec![target("m1", "/all/m1", None), target("m2", "/all/m2", None)],
            results: &["/all"],
        },
    ]
}

fn file_system(case: &Case) -> SimFs {
    let fs = SimFs::new();
    for directory in case.directories {
        let path = Path::new(directory);
        fs.create_dir(path, 0o700).expect("make a directory");
        fs.sync_dir(vault::durable::parent(path)).expect("sync");
    }
    fs
}

/// The result's files, without what belongs to the place.
fn result(fs: &SimFs, case: &Case) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut all: Vec<_> = case.results.iter().flat_map(|path| tree(fs, Path::new(path))).collect();
    all.retain(|(path, _)| path.file_name() != Some("lost+found".as_ref()));
    all
}

#[test]
fn a_crash_at_any_call_leaves_nothing_or_everything() {
    let bytes = snapshot();
    for case in cases() {
        let fs = file_system(&case);
        let before = fs.calls();
        run(&fs, options(case.targets.clone()), dead(0), &bytes).expect(case.name);
        let calls = fs.calls() - before;
        let whole = result(&fs, &case);
        assert!(whole.len() >= 4, "{}: {whole:?}", case.name);
        // Nothing but the result is left.
        let all = tree(&fs, Path::new("/"));
        assert!(!all.iter().any(|(path, _)| path.to_string_lossy().contains("tmp")), "{all:?}");

        let (mut nothing, mut complete, mut between) = (0, 0, 0);
        for number in 1..=calls + 1 {
            for unsynced in Unsynced::ALL {
                let fs = file_system(&case);
                fs.fail_at(before + number);
                let result_of_run = run(&fs, options(case.targets.clone()), dead(1), &bytes);
                let after = fs.after_crash(unsynced);
                let context = format!("{}, call {number}, {unsynced:?}", case.name);
                // Data stands under its name whole, with its log, or not at all.
                let data = &case.targets[0].data_dir;
                let member = if data == Path::new(case.results[0]) {
                    data.clone()
                } else {
                    data.join("member")
                };
                let stands = after.metadata(Path::new(case.results[0])).is_ok();
                if stands {
                    let mut found = result(&after, &case);
                    // The note may still be there.
                    found.retain(|(path, _)| {
                        path.extension() != Some("tmp".as_ref())
                            && !path.to_string_lossy().contains(".tmp-")
                    });
                    assert!(found == whole, "{context}: {member:?} is not complete");
                    complete += 1;
                    continue;
                }
                assert!(result_of_run.is_err(), "{context}: success, and nothing is there");
                nothing += 1;
                if case.results.len() > 1 && after.metadata(Path::new(case.results[1])).is_ok() {
                    between += 1;
                }
                // The next run clears what is left and succeeds.
                let again = run(&after, options(case.targets.clone()), dead(2), &bytes);
                again.unwrap_or_else(|error| panic!("{context}: {error}"));
                assert!(result(&after, &case) == whole, "{context}");
                let all = tree(&after, Path::new("/"));
                assert!(
                    !all.iter().any(|(path, _)| path.to_string_lossy().contains("tmp")),
                    "{context}: {all:?}"
                );
            }
        }
        assert!(nothing > 50 && complete > 0, "{}: {nothing} {complete}", case.name);
        // The moment between the log's rename and the data's was among them.
        assert_eq!(between > 0, case.results.len() > 1, "{}", case.name);
    }
}

#[test]
fn a_failure_leaves_everything_as_it_was() {
    let bytes = snapshot();
    for case in cases() {
        let fs = file_system(&case);
        let before = tree(&fs, Path::new("/"));
        // Full at some point of the stream, of the patch, of the log.
        let needed = (bytes.len() as u64 + 5 * 4096) * case.targets.len() as u64 + 3000;
        let mut failed = 0;
        for capacity in (0..needed).step_by(1500) {
            let fs = file_system(&case);
            fs.set_capacity(capacity);
            let Err(error) = run(&fs, options(case.targets.clone()), dead(1), &bytes) else {
                continue;
            };
            let mut source: &dyn std::error::Error = &error;
            while let Some(inner) = source.source() {
                source = inner;
            }
            let kind = source.downcast_ref::<io::Error>().map(io::Error::kind);
            assert_eq!(kind, Some(io::ErrorKind::StorageFull), "{}: {error}", case.name);
            assert_eq!(tree(&fs, Path::new("/")), before, "{}, {capacity} bytes", case.name);
            failed += 1;
        }
        assert!(failed > 10, "{}", case.name);
        // Dropped before the end.
        let fs = file_system(&case);
        let mut restore =
            Restore::begin_as(Arc::new(fs.clone()), options(case.targets.clone()), dead(1))
                .expect("begin");
        restore.write(&bytes[..10_000]).expect("write");
        drop(restore);
        assert_eq!(tree(&fs, Path::new("/")), before, "{}", case.name);
    }
}

/// Runs against `/etcd`, which must be left without anything new.
fn refused(options: Options, bytes: &[u8], expected: &Expected) -> RestoreError {
    let fs = SimFs::new();
    let result = Restore::begin(Arc::new(fs.clone()), options).and_then(|mut restore| {
        bytes.chunks(5000).try_for_each(|chunk| restore.write(chunk))?;
        restore.finish(expected)
    });
    assert_eq!(tree(&fs, Path::new("/")), []);
    result.expect_err("it should be refused")
}

#[test]
fn wrong_snapshots_are_refused() {
    let bytes = snapshot();
    let good = || options(vec![target("m1", "/etcd", None)]);
    let none = Expected::default();
    let mut flipped = bytes.clone();
    flipped[9000] ^= 1;
    assert!(matches!(refused(good(), &flipped, &none), RestoreError::Trailer));
    let database = &bytes[..bytes.len() - TRAILER];
    assert!(matches!(refused(good(), database, &none), RestoreError::NoTrailer { .. }));
    for cut in [0, 10, 4096, 8192, 20_000] {
        let error = refused(good(), &bytes[..cut], &none);
        assert!(matches!(error, RestoreError::Scan(_)), "{cut}: {error}");
    }
    assert!(matches!(refused(good(), b"no database at all", &none), RestoreError::Scan(_)));
    let size = Expected { size: Some(5), ..none.clone() };
    assert!(matches!(refused(good(), &bytes, &size), RestoreError::Size { expected: 5, .. }));
    let sha256 = Expected { sha256: Some([7; 32]), ..none.clone() };
    assert!(matches!(refused(good(), &bytes, &sha256), RestoreError::Digest));
    let hash = ExpectedHash { revision: 39, compact_revision: None, hash: 1 };
    let hash = Expected { hash: Some(hash), ..none.clone() };
    assert!(matches!(refused(good(), &bytes, &hash), RestoreError::Hash { .. }));
    let mut damaged = database.to_vec();
    // The root page names itself wrongly; nobody looks at the digest.
    let root = Database::open(database).expect("open").meta().root as usize * 4096;
    damaged[root] ^= 1;
    let skip = || Options { skip_hash_check: true, ..good() };
    assert!(matches!(refused(skip(), &damaged, &none), RestoreError::Damaged { .. }));
    let old = Options { target_version: Some("3.5".parse().expect("version")), ..good() };
    assert!(matches!(refused(old, &bytes, &none), RestoreError::TooNew(_)));
    let far = Options { bump_revision: u64::MAX, ..good() };
    assert!(matches!(refused(far, &bytes, &none), RestoreError::Bump { .. }));

    // What is right, with and without the trailer.
    let digest: [u8; 32] = Sha256::digest(&bytes).into();
    let right = Expected { size: Some(bytes.len() as u64), sha256: Some(digest), hash: None };
    let fs = SimFs::new();
    let mut restore = Restore::begin(Arc::new(fs.clone()), good()).expect("begin");
    restore.write(&bytes).expect("write");
    let restored = restore.finish(&right).expect("finish");
    assert_eq!((restored.revision, restored.compact_revision), (1039, Some(1039)));
    let fs = SimFs::new();
    run(&fs, skip(), dead(1), database).expect("a database without a trailer");
}

#[test]
fn wrong_wishes_are_refused() {
    let bytes = snapshot();
    let none = Expected::default();
    let good = || options(vec![target("m1", "/etcd", None)]);
    let error = |options| refused(options, &bytes, &none);
    assert!(matches!(error(options(vec![])), RestoreError::NoTarget));
    let flags = Options { mark_compacted: false, ..good() };
    assert!(matches!(error(flags), RestoreError::BumpFlags));
    let flags = Options { bump_revision: 0, ..good() };
    assert!(matches!(error(flags), RestoreError::BumpFlags));
    let stranger = options(vec![target("m3", "/etcd", None)]);
    assert!(matches!(error(stranger), RestoreError::Membership(_)));
    for targets in [
        vec![target("m1", "/etcd", None), target("m2", "/etcd", None)],
        vec![target("m1", "/etcd", None), target("m2", "/etcd/m2", None)],
        vec![target("m1", "/etcd", Some("/etcd"))],
        vec![target("m1", "/etcd", Some("/etcd/member"))],
        vec![target("m1", "/etcd", Some("/etcd/a/b"))],
        vec![target("m1", "/wal/etcd", Some("/wal"))],
    ] {
        assert!(matches!(error(options(targets)), RestoreError::Overlap { .. }));
    }
}

#[test]
fn what_stands_in_a_target_is_named_and_kept() {
    let bytes = snapshot();
    let file = |fs: &SimFs, path: &str, content: &[u8]| {
        fs.create_new(Path::new(path), 0o600).and_then(|mut file| file.write(content)).expect(path);
    };
    let directory = |fs: &SimFs, path: &str| fs.create_dir(Path::new(path), 0o700).expect(path);
    let log = "0000000000000000-0000000000000000.wal";
    let alive = Tag::of_this_process().expect("tag");
    let data = || options(vec![target("m1", "/etcd", None)]);
    let wal = || options(vec![target("m1", "/etcd", Some("/wal"))]);

    let refused = |options: Options, make: &dyn Fn(&SimFs)| -> String {
        let fs = SimFs::new();
        make(&fs);
        let before = tree(&fs, Path::new("/"));
        let error = run(&fs, options, dead(9), &bytes).expect_err("it should be refused");
        assert_eq!(tree(&fs, Path::new("/")), before);
        error.to_string()
    };
    let text = refused(data(), &|fs| {
        directory(fs, "/etcd");
        directory(fs, "/etcd/member");
        directory(fs, "/etcd/lost+found");
        file(fs, "/etcd/notes.txt", b"");
    });
    assert_eq!(text, "/etcd is not empty: it holds member, notes.txt");
    assert_eq!(refused(data(), &|fs| file(fs, "/etcd", b"")), "/etcd is not a directory");
    let text = refused(data(), &|fs| {
        directory(fs, "/etcd");
        directory(fs, &format!("/etcd/member.tmp-{alive}"));
    });
    assert!(text.ends_with("is the work of another restore that is running"), "{text}");
    // A log without a note is somebody's.
    let text = refused(wal(), &|fs| {
        directory(fs, "/wal");
        file(fs, &format!("/wal/{log}"), b"x");
    });
    assert_eq!(text, format!("/wal is not empty: it holds {log}"));
    // A log that etcd has been started on has grown.
    let note = format!("/wal/restore-{}.tmp", dead(1));
    let text = refused(wal(), &|fs| {
        directory(fs, "/wal");
        file(fs, &format!("/wal/{log}"), b"longer");
        file(fs, &note, b"1\n/etcd");
    });
    assert!(text.contains(log), "{text}");
    // A log whose data stands.
    let text = refused(wal(), &|fs| {
        directory(fs, "/wal");
        directory(fs, "/other");
        file(fs, &format!("/wal/{log}"), b"x");
        file(fs, &note, b"1\n/other");
    });
    assert!(text.contains(log), "{text}");
    // Beside the note of a dead process, something that is not ours.
    let text = refused(wal(), &|fs| {
        directory(fs, "/wal");
        file(fs, &format!("/wal/{log}"), b"x");
        file(fs, "/wal/mine", b"x");
        file(fs, &note, b"1\n/etcd");
    });
    assert!(text.contains("mine"), "{text}");
}

#[test]
fn owner_and_mode_are_those_asked_for_or_those_of_the_target() {
    let bytes = snapshot();
    let fs = SimFs::new();
    let asked = Options {
        owner: Some((17, 18)),
        directory_mode: 0o750,
        file_mode: 0o640,
        ..options(vec![target("m1", "/lib/etcd", None)])
    };
    run(&fs, asked, dead(1), &bytes).expect("restore");
    for (path, content) in tree(&fs, Path::new("/")) {
        let found = fs.metadata(&path).expect("metadata");
        assert_eq!((found.uid, found.gid), (17, 18), "{path:?}");
        let mode = if content.is_some() { 0o640 } else { 0o750 };
        assert_eq!(found.mode, mode, "{path:?}");
    }
    if rustix::process::geteuid().is_root() {
        let fs = SimFs::new();
        fs.create_dir(Path::new("/etcd"), 0o700).expect("make");
        fs.set_owner(Path::new("/etcd"), Some(7), Some(8)).expect("give");
        run(&fs, options(vec![target("m1", "/etcd", None)]), dead(1), &bytes).expect("restore");
        for (path, _) in tree(&fs, Path::new("/etcd")) {
            let found = fs.metadata(&path).expect("metadata");
            assert_eq!((found.uid, found.gid), (7, 8), "{path:?}");
        }
        // A missing one goes to the owner of the directory above, unless that is root.
        for (above, expected) in [((7, 8), (7, 8)), ((0, 8), (0, 0))] {
            let fs = SimFs::new();
            fs.create_dir(Path::new("/lib"), 0o700).expect("make");
            fs.set_owner(Path::new("/lib"), Some(above.0), Some(above.1)).expect("give");
            let made = [target("m1", "/lib/etcd/default", None)];
            run(&fs, options(made.to_vec()), dead(1), &bytes).expect("restore");
            for (path, _) in tree(&fs, Path::new("/lib")) {
                let found = fs.metadata(&path).expect("metadata");
                assert_eq!((found.uid, found.gid), expected, "{path:?}");
            }
        }
    }
}

/// Members in a folder that is there already, each with a rename of its own.
fn two_members() -> (SimFs, Options) {
    let fs = SimFs::new();
    fs.create_dir(Path::new("/all"), 0o700).expect("make");
    fs.sync_dir(Path::new("/")).expect("sync");
    (fs, options(vec![target("m1", "/all/m1", None), target("m2", "/all/m2", None)]))
}

#[test]
fn members_stand_together_or_not_at_all() {
    let bytes = snapshot();
    let (fs, options) = two_members();
    let mut restore = Restore::begin_as(Arc::new(fs.clone()), options, dead(1)).expect("begin");
    restore.write(&bytes).expect("write");
    // Somebody takes the place of the second meanwhile.
    fs.create_dir(Path::new("/all/m2"), 0o700).expect("make");
    let error = restore.finish(&Expected::default()).expect_err("m2 is taken");
    assert!(matches!(error, RestoreError::Io { act: "rename into place", .. }), "{error}");
    assert_eq!(tree(&fs, Path::new("/all")), [("/all/m2".into(), None)]);
}

#[test]
fn what_stands_after_a_failure_is_said() {
    let bytes = snapshot();
    let (fs, options) = two_members();
    let before = fs.calls();
    run(&fs, options, dead(0), &bytes).expect("restore");
    let (mut partly, mut not_durable) = (0, 0);
    for number in 1..=fs.calls() - before {
        let (fs, options) = two_members();
        fs.fail_at(before + number);
        let result = run(&fs, options, dead(1), &bytes);
        let after = fs.after_crash(Unsynced::Kept);
        let stand: Vec<PathBuf> = ["/all/m1", "/all/m2"]
            .into_iter()
            .map(PathBuf::from)
            .filter(|path| after.metadata(path).is_ok())
            .collect();
        match result {
            Err(RestoreError::Partly { stand: said, .. }) => {
                assert_eq!(said, stand, "call {number}");
                partly += 1;
            }
            Err(RestoreError::NotDurable { .. }) => {
                assert_eq!(stand.len(), 2, "call {number}");
                not_durable += 1;
            }
            Err(error) => assert_eq!(stand.len(), 0, "call {number}: {error}"),
            Ok(_) => assert_eq!(stand.len(), 2, "call {number}"),
        }
    }
    assert!(partly > 0 && not_durable > 0, "{partly} {not_durable}");
}
