//! A restore killed at random moments, on the real file system.
//!
//! What is proven: after SIGKILL there is either no directory under the
//! target's name or the complete one; the next run clears what was left and
//! succeeds. The process that is killed is this test's own program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use etcdvault::datadir::restore::{Expected, Options, Restore, RestoreError, Restored, Target};

#[path = "common/mkdb.rs"]
mod mkdb;

/// Tells the child what to restore and where.
const CHILD: &str = "ETCDVAULT_TEST_RESTORE_CHILD";

fn restore(database: &Path, root: &Path) -> Result<Restored, RestoreError> {
    let options = Options {
        initial_cluster: "m1=http://127.0.0.1:1".into(),
        initial_cluster_token: "t".into(),
        targets: vec![Target {
            name: "m1".into(),
            data_dir: root.join("etcd"),
            wal_dir: Some(root.join("disk/wal")),
            advertised_peer_urls: Vec::new(),
        }],
        bump_revision: 1000,
        mark_compacted: true,
        skip_hash_check: true,
        ..Options::default()
    };
    let bytes = std::fs::read(database).expect("read the database");
    let mut restore = Restore::begin(vault::durable::real(), options)?;
    for chunk in bytes.chunks(100_000) {
        restore.write(chunk)?;
    }
    restore.finish(&Expected::default())
}

/// Every file below `path` with its content.
fn files(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn add(path: &Path, below: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                add(&entry.path(), &below.join(entry.file_name()), into);
            } else {
                let content = std::fs::read(entry.path()).expect("read");
                into.insert(below.join(entry.file_name()), content);
            }
        }
    }
    let mut into = BTreeMap::new();
    add(path, Path::new(""), &mut into);
    into
}

#[test]
#[ignore = "what the test below starts and kills"]
fn child() {
    let paths = std::env::var(CHILD).expect("two paths");
    let (database, root) = paths.split_once('|').expect("two paths");
    restore(Path::new(database), Path::new(root)).expect("restore");
}

#[test]
fn a_kill_leaves_nothing_or_everything() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let database = directory.path().join("db");
    mkdb::make(&database, &["-transactions", "3000"]);
    let whole_root = directory.path().join("whole");
    std::fs::create_dir(&whole_root).expect("make");
    restore(&database, &whole_root).expect("restore");
    let whole = files(&whole_root);
    assert_eq!(mkdb::check(&whole_root.join("etcd/member/snap/db")), Ok(()));

    let start = |root: &Path| {
        Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "child", "--ignored", "--test-threads=1"])
            .env(CHILD, format!("{}|{}", database.display(), root.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start")
    };
    // How long an undisturbed run takes, from start to end. The shortest counts: one that
    // the machine held up would let all kills come too late.
    let measure = |round: u32| {
        let root = directory.path().join(format!("measured-{round}"));
        std::fs::create_dir(&root).expect("make");
        let begun = Instant::now();
        assert!(start(&root).wait().expect("wait").success());
        begun.elapsed()
    };
    let takes = (0..4).map(measure).min().expect("four runs");

    let (mut nothing, mut between, mut complete) = (0, 0, 0);
    for round in 0..60u32 {
        let root = directory.path().join(format!("round-{round}"));
        std::fs::create_dir(&root).expect("make");
        let mut process = start(&root);
        std::thread::sleep(takes.mul_f64(f64::from(round) / 58.0));
        process.kill().expect("kill");
        process.wait().expect("wait");
        if root.join("etcd").exists() {
            let mut found = files(&root);
            found.retain(|path, _| path.extension() != Some("tmp".as_ref()));
            assert!(found == whole, "round {round}: {:?}", found.keys());
            complete += 1;
        } else {
            if root.join("disk/wal").exists() {
                between += 1;
            }
            nothing += 1;
            restore(&database, &root).unwrap_or_else(|error| panic!("round {round}: {error}"));
            assert!(files(&root) == whole, "round {round}: the second run");
        }
        std::fs::remove_dir_all(&root).expect("remove");
    }
    // A machine that is busy may never get to the end in time.
    assert!(nothing > 5, "{nothing} {between} {complete}: the kills came too late");
}
