//! This machine as a node: the contract of every node, and what only the real
//! one has: GNU tar beside it, kills, full and read-only file systems.

#[path = "common/node_contract.rs"]
mod contract;

use std::fs::Permissions;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use etcdvault::node::archive::Reader;
use etcdvault::node::local::LocalNode;
use etcdvault::node::{
    ByteStream, FileKind, Node as _, NodeErrorKind, NodeName, SetHow, TreeSpec, WriteHow,
    WriteLike, static_pod,
};
use futures_util::StreamExt as _;
use tempfile::TempDir;

fn node() -> LocalNode {
    LocalNode::new(NodeName::new("here").unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_as_the_contract_says() {
    let root = tempfile::tempdir().unwrap();
    contract::files(&node(), root.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_are_as_the_contract_says() {
    let root = tempfile::tempdir().unwrap();
    contract::trees(&node(), root.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_machine_is_as_the_contract_says() {
    contract::machine(&node()).await;
}

/// Compares by what GNU tar and the system's own tools see.
fn listing(root: &Path) -> Vec<String> {
    let mut pending = vec![root.to_owned()];
    let mut lines = Vec::new();
    while let Some(path) = pending.pop() {
        let found = path.symlink_metadata().unwrap();
        let name = path.strip_prefix(root).unwrap();
        let owner = (found.uid(), found.gid(), found.mode());
        let time = (found.mtime(), found.mtime_nsec());
        let content = if found.is_file() {
            hex(&contract::sha(&std::fs::read(&path).unwrap()))
        } else if found.is_symlink() {
            format!("{:?}", std::fs::read_link(&path).unwrap())
        } else {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        };
        let xattrs = xattrs(&path);
        let links = if found.is_file() { found.nlink() } else { 0 };
        lines.push(format!("{name:?} {owner:?} {time:?} {links} {content} {xattrs}"));
    }
    lines.sort();
    lines
}

fn xattrs(path: &Path) -> String {
    let mut names = vec![0; 4096];
    let count = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let mut shown = Vec::new();
    for name in names[..count].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 4096];
        let count = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        shown.push(format!("{}={}", String::from_utf8_lossy(name), hex(&value[..count])));
    }
    shown.sort();
    shown.join(" ")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn command(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A tree with one of everything that a node has.
fn everything(root: &Path) {
    let dir = root.join("etc/sub dir");
    std::fs::create_dir_all(&dir).unwrap();
    let long = dir.join("l".repeat(180));
    std::fs::write(&long, "long").unwrap();
    std::fs::write(dir.join("ümlaut\n"), "new line").unwrap();
    std::fs::write(root.join("key"), "secret").unwrap();
    std::fs::hard_link(root.join("key"), dir.join("same key")).unwrap();
    std::os::unix::fs::symlink("/nowhere/at all", root.join("dangling")).unwrap();
    std::os::unix::fs::symlink("t".repeat(300), root.join("far")).unwrap();
    std::fs::set_permissions(root.join("key"), Permissions::from_mode(0o4600)).unwrap();
    std::os::unix::fs::lchown(root.join("key"), Some(12345), Some(3_000_000)).unwrap();
    std::os::unix::fs::lchown(root.join("dangling"), Some(7), Some(8)).unwrap();
    for (name, value) in [("user.a", b"\0\xff\n".as_slice()), ("security.selinux", b"system_u\0")] {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(root.join("key"), name, value, flags).unwrap();
    }
    sparse(&root.join("sparse"));
    std::fs::File::create(root.join("hole")).unwrap().set_len(10 << 20).unwrap();
    // What etcd makes of a log segment: space that is reserved and not written.
    command(Command::new("fallocate").args(["-l", "64M"]).arg(root.join("wal")));
    let wal = std::fs::File::options().write(true).open(root.join("wal")).unwrap();
    wal.write_all_at(&[3; 5000], 0).unwrap();
    wal.sync_all().unwrap();
}

fn sparse(path: &Path) {
    let file = std::fs::File::create(path).unwrap();
    file.set_len(30 << 20).unwrap();
    for at in [1u64 << 20, 7 << 20, 20 << 20] {
        file.write_all_at(&[5; 70_000], at).unwrap();
    }
    file.sync_all().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn gnu_tar_reads_what_is_written_and_we_read_gnu_tars() {
    let place = tempfile::tempdir().unwrap();
    let tree = place.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    everything(&tree);
    let expected = listing(&tree);
    let node = node();
    let digest = node.digest(&tree).await.unwrap();
    let spec =
        TreeSpec { roots: vec![tree.clone()], base: Some(tree.clone()), ..TreeSpec::default() };
    let bytes = contract::collect(node.save_tree(spec).await.unwrap()).await.unwrap();
    assert!(bytes.len() < 2 << 20, "holes are in the stream: {} bytes", bytes.len());

    let (archive, out) = (place.path().join("ours.tar"), place.path().join("gnu"));
    std::fs::write(&archive, &bytes).unwrap();
    std::fs::create_dir(&out).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf"]).arg(&archive);
    let said = tar.arg("-C").arg(&out).output().unwrap();
    assert!(said.status.success() && said.stderr.is_empty(), "{said:?}");
    assert_eq!(listing(&out), expected);
    assert_eq!(node.digest(&out).await.unwrap(), digest);

    for (at, options) in [
        ["--format=posix", "--sparse", "--sparse-version=1.0"].as_slice(),
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix"],
        &["--format=gnu", "--sparse"],
        &["--format=gnu"],
    ]
    .into_iter()
    .enumerate()
    {
        let mut tar = Command::new("tar");
        tar.args(options).args(["--numeric-owner", "-C"]).arg(&tree);
        if options.contains(&"--format=posix") {
            tar.args(["--xattrs", "--xattrs-include=*"]);
        }
        let output = tar.args(["-cf", "-", "."]).output().unwrap();
        assert!(output.status.success(), "{options:?}: {output:?}");
        let back = place.path().join(format!("back{at}"));
        let unpacked = node.unpack_tree(&back, contract::one(output.stdout)).await.unwrap();
        let found = listing(&back);
        if options.contains(&"--format=posix") {
            assert_eq!(found, expected, "{options:?}");
            assert_eq!(unpacked, digest, "{options:?}");
        } else {
            // That format has neither attributes nor parts of seconds.
            assert_eq!(found.len(), expected.len(), "{options:?}");
            assert_eq!(unpacked.bytes, digest.bytes, "{options:?}");
        }
        let blocks = back.join("sparse").metadata().unwrap().blocks();
        assert!(!options.contains(&"--sparse") || blocks * 512 < 2 << 20, "{options:?} {blocks}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_stored_is_noted() {
    let place = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(place.path().join("socket")).unwrap();
    command(Command::new("mkfifo").arg(place.path().join("pipe")));
    std::fs::write(place.path().join("file"), "kept").unwrap();
    let spec = TreeSpec { roots: vec![place.path().to_owned()], ..TreeSpec::default() };
    let bytes = contract::collect(node().save_tree(spec).await.unwrap()).await.unwrap();
    let mut reader = Reader::new(bytes.as_slice());
    let mut names = Vec::new();
    while let Some(member) = reader.next_member().unwrap() {
        names.push(member.path);
    }
    let below = place.path().strip_prefix("/").unwrap();
    assert_eq!(names, [below.to_owned(), below.join("file")]);
    let notes = reader.notes();
    assert!(notes.len() == 2 && notes[0].contains("pipe: left out"), "{notes:?}");
    assert!(notes[1].contains("socket: left out"), "{notes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_change_while_they_are_read_do_not_break_the_stream() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("growing");
    std::fs::write(&path, vec![1; 12 << 20]).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (file, stopped) = (path.clone(), Arc::clone(&stop));
    let writer = std::thread::spawn(move || {
        let mut size = 0u64;
        while !stopped.load(Ordering::Relaxed) {
            size = (size + 777_777) % (16 << 20);
            let file = std::fs::File::options().write(true).open(&file).unwrap();
            file.set_len(size).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let node = node();
    let mut noted = 0;
    // How soon it is caught depends on who gets the processor.
    let until = Instant::now() + Duration::from_secs(120);
    for round in 0.. {
        let spec = TreeSpec {
            roots: vec![place.path().to_owned()],
            base: Some(place.path().to_owned()),
            ..TreeSpec::default()
        };
        let bytes = contract::collect(node.save_tree(spec).await.unwrap()).await.unwrap();
        let mut reader = Reader::new(bytes.as_slice());
        while reader.next_member().unwrap().is_some() {}
        assert!(reader.notes().iter().all(|note| note.contains("changed while it was read")));
        noted += reader.notes().len();
        if noted > 0 && round > 3 || Instant::now() > until {
            break;
        }
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    assert!(noted > 0, "it was never caught changing");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_dead_writers_left_is_swept_and_what_lives_is_not() {
    let place = tempfile::tempdir().unwrap();
    let dead = place.path().join(".etcdvault-tmp-dead");
    let dead_dir = place.path().join(".etcdvault-tmp-deaddir");
    let live = place.path().join(".etcdvault-tmp-live");
    std::fs::write(&dead, "half").unwrap();
    std::fs::create_dir(&dead_dir).unwrap();
    std::fs::write(dead_dir.join("half"), "half").unwrap();
    let held = std::fs::File::create(&live).unwrap();
    held.lock().unwrap();
    std::os::unix::fs::symlink("/etc", place.path().join(".etcdvault-tmp-link")).unwrap();
    node().write(&place.path().join("a"), b"a", contract::new(0o600)).await.unwrap();
    assert!(!dead.exists() && !dead_dir.exists() && live.exists());
    assert!(Path::new("/etc/passwd").exists());
    drop(held);
    node().write(&place.path().join("b"), b"b", contract::new(0o600)).await.unwrap();
    assert!(!live.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_leaves_nothing_half_unpacked() {
    let place = tempfile::tempdir().unwrap();
    let node = node();
    let target = place.path().join("target");
    let first = contract::raw_member("a", b'0', "", &[1; 5000]);
    let head = futures_util::stream::iter([Ok(Bytes::from(first))]);
    let stream: ByteStream = head.chain(futures_util::stream::pending()).boxed();
    let (root, its) = (target.clone(), node.clone());
    let call = tokio::spawn(async move { its.unpack_tree(&root, stream).await });
    let entries = || std::fs::read_dir(place.path()).unwrap().count();
    until("something is being unpacked", || entries() == 1).await;
    call.abort();
    until("it is removed", || entries() == 0).await;

    // A sender that says nothing any more is told from one that is gone.
    let slow = node.deadline(Duration::from_millis(200));
    let stream: ByteStream = futures_util::stream::pending().boxed();
    let error = slow.unpack_tree(&target, stream).await.unwrap_err();
    assert_eq!(error.kind, NodeErrorKind::Slow);
    until("it is removed", || entries() == 0).await;
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..600 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("waited in vain until {what}");
}

/// A file system in memory that is unmounted again.
struct Tmpfs(TempDir);

impl Tmpfs {
    fn new(options: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        command(mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(place.path()));
        Self(place)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let done = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
        assert!(done.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_or_read_only_file_system_is_left_as_it_was() {
    let small = Tmpfs::new("size=1m");
    let place = small.0.path();
    let node = node();
    node.write(&place.join("old"), b"old", contract::new(0o600)).await.unwrap();
    let before = node.digest(place).await.unwrap();
    let big = vec![1; 2 << 20];
    let replace = WriteHow { like: WriteLike::Itself, replaces: Some(contract::sha(b"old")) };
    let result = node.write(&place.join("old"), &big, replace.clone()).await;
    assert_eq!(contract::kind(result), NodeErrorKind::NoSpace);
    let result = node.write(&place.join("new"), &big, contract::new(0o600)).await;
    assert_eq!(contract::kind(result), NodeErrorKind::NoSpace);
    let tar = contract::ended(&[contract::raw_member("big", b'0', "", &big)]);
    let result = node.unpack_tree(&place.join("tree"), contract::one(tar)).await;
    assert_eq!(contract::kind(result), NodeErrorKind::NoSpace);
    assert_eq!(node.digest(place).await.unwrap(), before);
    assert!(node.stat(place).await.unwrap().unwrap().mount_point);

    let error = node.rename(&place.join("old"), &place.with_extension("moved")).await.unwrap_err();
    assert_eq!(error.kind, NodeErrorKind::Unsupported);
    assert!(error.why.contains("different file systems"), "{error}");

    command(Command::new("mount").args(["-o", "remount,ro"]).arg(place));
    assert!(node.space(place).await.unwrap().read_only);
    let mounts = node.mounts().await.unwrap();
    assert!(mounts.iter().any(|mount| mount.point == place && mount.read_only));
    for result in [
        node.write(&place.join("old"), b"x", replace).await,
        node.write(&place.join("new"), b"x", contract::new(0o600)).await,
        node.rename(&place.join("old"), &place.join("moved")).await,
        node.make_dir(&place.join("d"), WriteLike::Path(place.join("old"))).await,
        node.remove_own(&place.join("old"), contract::sha(b"old")).await,
    ] {
        assert_eq!(contract::kind(result), NodeErrorKind::ReadOnly);
    }
    assert_eq!(node.digest(place).await.unwrap(), before);
}

const CHILD: &str = "ETCDVAULT_TEST_WRITES_IN";

/// Runs only as the child of the test below: writes without end.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_writes_until_it_is_killed() {
    let Some(place) = std::env::var_os(CHILD) else { return };
    let (path, node) = (Path::new(&place).join("file"), node());
    for round in 0u64.. {
        let old = std::fs::read(&path).unwrap();
        let new = vec![round as u8; 300_000];
        let how = WriteHow { like: WriteLike::Itself, replaces: Some(contract::sha(&old)) };
        node.write(&path, &new, how).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_is_killed_leaves_no_half_file() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("file");
    std::fs::write(&path, vec![9; 300_000]).unwrap();
    let (mut leftovers, mut changes) = (0, 0);
    for round in 0..30u64 {
        let before = std::fs::read(&path).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_writes_until_it_is_killed"])
            .env(CHILD, place.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let names = || std::fs::read_dir(place.path()).unwrap().count();
        until("it writes", || names() > 1 || std::fs::read(&path).unwrap() != before).await;
        std::thread::sleep(Duration::from_micros(round * 531 % 5000));
        child.kill().unwrap();
        child.wait().unwrap();
        let after = std::fs::read(&path).unwrap();
        assert_eq!(after.len(), 300_000);
        assert!(after.iter().all(|byte| *byte == after[0]), "a mixture");
        leftovers += usize::from(names() > 1);
        changes += usize::from(after != before);
    }
    assert!(leftovers > 0 && changes > 0, "{leftovers} {changes}: never killed in the act");
    node().write(&place.path().join("next"), b"", contract::new(0o600)).await.unwrap();
    let names: Vec<_> = node().list(place.path()).await.unwrap();
    assert_eq!(names.len(), 2, "{names:?}");
}

const ORDER: &str = "ETCDVAULT_TEST_CHANGES_IN";

/// Runs only as the child of the test below: one change of each kind.
#[tokio::test]
async fn child_that_makes_each_change_once() {
    let Some(place) = std::env::var_os(ORDER) else { return };
    let (place, node) = (Path::new(&place), node());
    let at = |name: &str| place.join(name);
    node.write(&at("new/new-target"), b"one", contract::new(0o600)).await.unwrap();
    let how = WriteHow { like: WriteLike::Itself, replaces: Some(contract::sha(b"old")) };
    node.write(&at("other/other-target"), b"two", how).await.unwrap();
    let like = WriteLike::Path(at("other/other-target"));
    node.make_dir(&at("made/made-target"), like).await.unwrap();
    node.rename(&at("from/here"), &at("to/moved-target")).await.unwrap();
    let tar = contract::ended(&[contract::raw_member("inside", b'0', "", &[7; 5000])]);
    node.unpack_tree(&at("tree/tree-target"), contract::one(tar)).await.unwrap();
    node.remove_own(&at("gone/gone-target"), contract::sha(b"gone")).await.unwrap();
}

/// What a crash must not take is durable in this order: the content, then the name, then
/// the directory that holds it, all before the call returns. The journals rest on it.
#[tokio::test(flavor = "multi_thread")]
async fn content_is_durable_before_its_name_and_the_name_before_the_answer() {
    let place = tempfile::tempdir().unwrap();
    for name in ["new", "other", "made", "from", "to", "tree", "gone"] {
        std::fs::create_dir(place.path().join(name)).unwrap();
    }
    for (name, text) in [("other/other-target", "old"), ("from/here", "x")] {
        std::fs::write(place.path().join(name), text).unwrap();
    }
    std::fs::write(place.path().join("gone/gone-target"), "gone").unwrap();
    let log = place.path().join("log");
    let calls = "trace=fsync,fdatasync,syncfs,rename,renameat,renameat2,unlink,unlinkat";
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-s", "400", "-e", calls, "-o"]).arg(&log);
    strace.arg(std::env::current_exe().unwrap()).env(ORDER, place.path());
    command(strace.args(["--exact", "child_that_makes_each_change_once"]));
    let text = std::fs::read_to_string(&log).unwrap();
    // A call during which another thread was traced is told in two lines.
    let done = |line: &&str| !line.contains("<unfinished") && !line.contains(" = -1 ");
    let lines: Vec<&str> = text.lines().filter(done).collect();
    let is_sync = |line: &str| ["fsync(", "fdatasync(", "syncfs("].iter().any(|c| line.contains(c));
    let of =
        |line: &str, path: &str| line.contains(&format!("<{}>", place.path().join(path).display()));
    let position = |what: &str, from: usize, holds: &dyn Fn(&str) -> bool| {
        let found = lines[from..].iter().position(|line| holds(line));
        from + found.unwrap_or_else(|| panic!("{what} is missing: {text}"))
    };
    let renamed = |name: &str| {
        position(name, 0, &|line| line.contains("rename") && line.contains(&format!("/{name}\"")))
    };
    let mut before = 0;
    for (directory, target) in [
        ("new", "new-target"),
        ("other", "other-target"),
        ("made", "made-target"),
        ("tree", "tree-target"),
    ] {
        // What is given the name, by the name that it had until then.
        let temporary = format!("{}/.etcdvault-tmp-", place.path().join(directory).display());
        let name = renamed(target);
        let content = position(target, before, &|line| is_sync(line) && line.contains(&temporary));
        let holder = position(target, name, &|line| is_sync(line) && of(line, directory));
        assert!(content < name && name < holder, "{target}: {text}");
        before = holder;
    }
    // Every file of a tree, too, not the tree's root alone.
    let tree = format!("{}/.etcdvault-tmp-", place.path().join("tree").display());
    let whole = |line: &str| {
        line.contains(&tree) && (line.contains("syncfs(") || line.contains("/inside>"))
    };
    assert!(position("the tree's files", 0, &whole) < renamed("tree-target"), "{text}");
    let moved = renamed("moved-target");
    for directory in ["to", "from"] {
        position(directory, moved, &|line| is_sync(line) && of(line, directory));
    }
    let gone =
        position("gone", 0, &|line| line.contains("unlink") && line.contains("\"gone-target\""));
    position("gone", gone, &|line| is_sync(line) && of(line, "gone"));
}

/// The label that SELinux knows a file by is kept, taken over or set as any other
/// attribute; one that nobody asked to take away stays.
#[tokio::test(flavor = "multi_thread")]
async fn selinux_labels_are_kept_taken_over_and_set() {
    const NAME: &str = "security.selinux";
    let place = tempfile::tempdir().unwrap();
    let (at, node) = (|name: &str| place.path().join(name), node());
    let label = |path: &Path| {
        let mut value = vec![0; 256];
        let count = rustix::fs::lgetxattr(path, NAME, &mut value[..]).unwrap();
        String::from_utf8(value[..count].to_vec()).unwrap()
    };
    let mark = |path: &Path, value: &str| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(path, NAME, value.as_bytes(), flags).unwrap();
    };
    let (cert, etc) = ("system_u:object_r:cert_t:s0\0", "system_u:object_r:etc_t:s0\0");
    std::fs::write(at("key"), "one").unwrap();
    mark(&at("key"), cert);
    let how = WriteHow { like: WriteLike::Itself, replaces: Some(contract::sha(b"one")) };
    node.write(&at("key"), b"two", how).await.unwrap();
    assert_eq!(
        (std::fs::read(at("key")).unwrap().as_slice(), label(&at("key")).as_str()),
        (b"two".as_slice(), cert)
    );

    let like = WriteLike::Path(at("key"));
    let how = WriteHow { like: like.clone(), replaces: None };
    node.write(&at("beside"), b"x", how).await.unwrap();
    node.make_dir(&at("dir"), like).await.unwrap();
    for name in ["beside", "dir"] {
        assert_eq!(label(&at(name)), cert, "{name}");
    }

    let stat = node.stat(&at("key")).await.unwrap().unwrap().attributes;
    assert_eq!(stat.xattrs[NAME], cert.as_bytes());
    let mut wanted = stat.clone();
    wanted.xattrs.insert(NAME.to_owned(), etc.as_bytes().to_vec());
    let how = WriteHow { like: WriteLike::Attributes(wanted.clone()), replaces: None };
    node.write(&at("given"), b"x", how).await.unwrap();
    assert_eq!(label(&at("given")), etc);
    let set =
        |attributes| SetHow { kind: FileKind::File, attributes: Some(attributes), modified: None };
    node.set(&at("key"), set(wanted)).await.unwrap();
    assert_eq!(label(&at("key")), etc);

    // A wish that has no label is no wish to lose it; other attributes go.
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(at("key"), "user.note", b"x", flags).unwrap();
    let mut plain = stat;
    plain.xattrs.clear();
    node.set(&at("key"), set(plain)).await.unwrap();
    assert_eq!(xattrs(&at("key")), format!("{NAME}={}", hex(etc.as_bytes())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_swapped_for_a_link_leads_nowhere() {
    let place = tempfile::tempdir().unwrap();
    let (tree, secret) = (place.path().join("tree"), place.path().join("secret"));
    for directory in [&tree.join("sub"), &secret] {
        std::fs::create_dir_all(directory).unwrap();
    }
    std::fs::write(secret.join("key"), "SECRET").unwrap();
    for n in 0..50 {
        std::fs::write(tree.join(format!("file{n}")), "x").unwrap();
    }
    std::fs::write(tree.join("sub/key"), "plain").unwrap();
    std::os::unix::fs::symlink(&secret, place.path().join("link")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, base) = (Arc::clone(&stop), place.path().to_owned());
    let swapper = std::thread::spawn(move || {
        let (sub, link) = (base.join("tree/sub"), base.join("link"));
        let mut swaps = 0;
        while !stopped.load(Ordering::Relaxed) {
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            let cwd = rustix::fs::CWD;
            rustix::fs::renameat_with(cwd, &sub, cwd, &link, flags).unwrap();
            swaps += 1;
        }
        swaps
    });
    let (mut as_link, mut as_directory) = (0, 0);
    for _ in 0..200 {
        let spec = TreeSpec { roots: vec![tree.clone()], ..TreeSpec::default() };
        let bytes = contract::collect(node().save_tree(spec).await.unwrap()).await.unwrap();
        assert!(!bytes.windows(6).any(|part| part == b"SECRET"), "it was followed");
        let went_in = bytes.windows(5).any(|part| part == b"plain");
        if went_in { as_directory += 1 } else { as_link += 1 }
    }
    stop.store(true, Ordering::Relaxed);
    let swaps = swapper.join().unwrap();
    assert!(swaps > 100 && as_link > 0 && as_directory > 0, "{swaps} {as_link} {as_directory}");
}

#[tokio::test]
async fn strays_among_manifests_are_reported() {
    let place = tempfile::tempdir().unwrap();
    let pod = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: kube-system\n\
                 spec:\n  containers:\n  - name: {name}\n    command: [{name}]\n"
        )
    };
    let write = |name: &str, text: &str| std::fs::write(place.path().join(name), text).unwrap();
    write("etcd.yaml", &pod("etcd"));
    write("kube-apiserver.yaml", &pod("kube-apiserver"));
    write(".etcd.yaml.swp", &pod("etcd"));
    std::fs::create_dir(place.path().join("backup")).unwrap();
    let strays = static_pod::strays_in(&node(), place.path()).await.unwrap();
    assert_eq!(strays, []);
    write("etcd.yaml.bak", &pod("etcd"));
    write("a-copy.yaml", &pod("etcd"));
    write("notes.txt", "kubelet reads this too");
    std::os::unix::fs::symlink("etcd.yaml", place.path().join("link.yaml")).unwrap();
    let strays = static_pod::strays_in(&node(), place.path()).await.unwrap();
    let shown: Vec<_> = strays
        .iter()
        .map(|stray| (stray.path.file_name().unwrap().to_str().unwrap(), stray.why.as_str()))
        .collect();
    assert_eq!(shown.len(), 4, "{shown:?}");
    let second = "a second manifest of the pod etcd, beside etcd.yaml";
    assert_eq!(shown[0], ("a-copy.yaml", second));
    assert_eq!(shown[1], ("etcd.yaml.bak", second));
    assert_eq!(shown[2], ("link.yaml", "a link, which the kubelet follows"));
    assert!(shown[3].0 == "notes.txt" && shown[3].1.starts_with("no manifest"), "{shown:?}");
}

#[tokio::test]
async fn without_systemd_units_say_so() {
    let node = node();
    if node.facts().await.unwrap().systemd {
        assert!(node.units("*.service").await.unwrap().len() > 1);
        assert_eq!(node.unit("no-such-unit.service").await.unwrap(), None);
        return;
    }
    let error = node.unit("etcd.service").await.unwrap_err();
    assert_eq!(error.kind, NodeErrorKind::Unsupported);
    assert!(error.why.contains("systemd is not the init"), "{error}");
}
