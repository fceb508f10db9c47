//! What holds for every [`Node`], as functions over one and an empty directory
//! on it. A node over SSH, a simulated one and real hosts run the same.
//!
//! The user on the node is root.

#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use etcdvault::datadir::hash::{Scan, ScanOptions, StreamScan};
use etcdvault::node::archive::{Kind, Member, Reader, Writer};
use etcdvault::node::static_pod::{self, Bounds, StaticPod};
use etcdvault::node::{
    Attributes, ByteStream, ContainerQuery, FileKind, HealthAnswer, HealthQuery, LinkHow,
    MemberSpec, Node, NodeError, NodeErrorKind, ProcessQuery, SetHow, SpecHash, TreeSpec,
    UnitAction, WriteHow, WriteLike,
};
use futures_util::{StreamExt as _, TryStreamExt as _};
use sha2::{Digest as _, Sha256};

/// Runs everything about files below `root`, an empty directory.
pub async fn files(node: &dyn Node, root: &Path) {
    write_and_read(node, &sub(node, root, "write").await).await;
    attributes_are_cloned(node, &sub(node, root, "attributes").await).await;
    refusals_leave_everything(node, &sub(node, root, "refusals").await).await;
    links_are_not_followed(node, &sub(node, root, "links").await).await;
    renames(node, &sub(node, root, "renames").await).await;
    digests(node, &sub(node, root, "digests").await).await;
    links_are_made_and_replaced(node, &sub(node, root, "made").await).await;
    what_is_there_is_set(node, &sub(node, root, "set").await).await;
    what_is_ours_is_removed(node, &sub(node, root, "removed").await).await;
    spaces(node, root).await;
}

/// Runs everything about trees below `root`, an empty directory.
pub async fn trees(node: &dyn Node, root: &Path) {
    round_trip(node, &sub(node, root, "round").await).await;
    excludes_and_missing(node, &sub(node, root, "exclude").await).await;
    hostile_streams(node, &sub(node, root, "hostile").await).await;
    cut_streams(node, &sub(node, root, "cut").await).await;
    members_are_built(node, &sub(node, root, "member").await).await;
}

/// What can be asked of any machine.
pub async fn machine(node: &dyn Node) {
    let facts = node.facts().await.unwrap();
    assert!(!facts.hostname.is_empty() && !facts.boot_id.is_empty(), "{facts:?}");
    assert_eq!(facts.uid, 0);
    assert!(facts.now > 1_600_000_000_000_000_000, "{}", facts.now);
    let mounts = node.mounts().await.unwrap();
    assert!(mounts.iter().any(|mount| mount.point == Path::new("/")), "{mounts:?}");
    let first = node.processes(ProcessQuery::Pid(1)).await.unwrap();
    assert_eq!(first.len(), 1, "{first:?}");
    let none = ProcessQuery::Program("no-such-program-at-all".to_owned());
    assert_eq!(node.processes(none).await.unwrap(), []);
    let reach = node.reach(vec!["127.0.0.1:1".to_owned()], Duration::from_secs(10)).await.unwrap();
    assert!(reach.len() == 1 && reach[0].error.is_some(), "{reach:?}");
    let (address, path) = ("127.0.0.1:1".to_owned(), "/readyz".to_owned());
    let query = HealthQuery { address, path, tls: true, client: None };
    let answer = node.health(query, Duration::from_secs(10)).await.unwrap();
    let HealthAnswer::Silent { why } = answer else { panic!("{answer:?}") };
    assert!(why.contains("connection refused"), "{why}");
}

pub fn plain(mode: u32) -> Attributes {
    Attributes { uid: 0, gid: 0, owner: None, group: None, mode, xattrs: BTreeMap::new() }
}

pub fn new(mode: u32) -> WriteHow {
    WriteHow { like: WriteLike::Attributes(plain(mode)), replaces: None }
}

pub fn sha(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

pub async fn sub(node: &dyn Node, root: &Path, name: &str) -> PathBuf {
    let path = root.join(name);
    node.make_dir(&path, WriteLike::Attributes(plain(0o755))).await.unwrap();
    path
}

#[track_caller]
pub fn kind<T: std::fmt::Debug>(result: Result<T, NodeError>) -> NodeErrorKind {
    result.unwrap_err().kind
}

async fn names(node: &dyn Node, path: &Path) -> Vec<String> {
    let entries = node.list(path).await.unwrap();
    entries.iter().map(|e| e.path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

pub async fn write_and_read(node: &dyn Node, root: &Path) {
    let path = root.join("a");
    assert_eq!(node.stat(&path).await.unwrap(), None);
    assert_eq!(node.stat(&path.join("below/nothing")).await.unwrap(), None);
    node.write(&path, b"one", new(0o640)).await.unwrap();
    let read = node.read(&path, 3).await.unwrap();
    assert_eq!(read.bytes, b"one");
    assert_eq!((read.entry.size, read.entry.attributes.mode), (3, 0o640));
    assert_eq!((read.entry.kind, &read.entry.path), (FileKind::File, &path));
    // Below a file there is nothing.
    assert_eq!(node.stat(&path.join("b")).await.unwrap(), None);

    let like = WriteLike::Itself;
    let how = WriteHow { like: like.clone(), replaces: Some(sha(b"one")) };
    node.write(&path, b"two!", how).await.unwrap();
    let read = node.read(&path, 100).await.unwrap();
    assert_eq!((read.bytes.as_slice(), read.entry.attributes.mode), (b"two!".as_slice(), 0o640));
    let modified = node.stat(&path).await.unwrap().unwrap().modified;
    let now = node.facts().await.unwrap().now;
    assert!((modified - now).abs() < 3_600_000_000_000, "{modified} {now}");

    node.write(&root.join("empty"), b"", new(0o600)).await.unwrap();
    assert_eq!(node.read(&root.join("empty"), 0).await.unwrap().bytes, b"");
    node.write(&root.join("sp ace\nü"), b"x", new(0o600)).await.unwrap();
    assert_eq!(names(node, root).await, ["a", "empty", "sp ace\nü"]);

    node.remove_own(&path, sha(b"two!")).await.unwrap();
    assert_eq!(node.stat(&path).await.unwrap(), None);
}

pub async fn attributes_are_cloned(node: &dyn Node, root: &Path) {
    let (from, to) = (root.join("from"), root.join("to"));
    let xattrs = BTreeMap::from([
        ("user.note".to_owned(), b"a\0b\n=".to_vec()),
        ("trusted.etcdvault".to_owned(), vec![0xff, 0]),
    ]);
    let attributes = Attributes { uid: 4242, gid: 4343, mode: 0o4751, xattrs, ..plain(0) };
    let how = WriteHow { like: WriteLike::Attributes(attributes.clone()), replaces: None };
    node.write(&from, b"x", how).await.unwrap();
    let clone = WriteLike::Path(from.clone());
    let how = WriteHow { like: clone.clone(), replaces: None };
    node.write(&to, b"y", how).await.unwrap();
    node.make_dir(&root.join("dir"), clone).await.unwrap();
    let plainly = |mut found: Attributes| {
        // A machine with SELinux labels everything.
        found.xattrs.remove("security.selinux");
        found
    };
    for path in [&from, &to, &root.join("dir")] {
        let found = node.stat(path).await.unwrap().unwrap().attributes;
        assert_eq!(plainly(found), attributes, "{}", path.display());
    }
    let missing = WriteLike::Path(root.join("missing"));
    assert_eq!(kind(node.make_dir(&root.join("d2"), missing).await), NodeErrorKind::NotFound);
    let how = WriteHow { like: WriteLike::Itself, replaces: None };
    assert_eq!(kind(node.write(&root.join("n"), b"", how).await), NodeErrorKind::NotFound);
    assert_eq!(names(node, root).await, ["dir", "from", "to"]);
}

pub async fn refusals_leave_everything(node: &dyn Node, root: &Path) {
    let path = root.join("a");
    node.write(&path, b"mine", new(0o600)).await.unwrap();
    let before = node.digest(root).await.unwrap();
    assert_eq!(kind(node.write(&path, b"other", new(0o600)).await), NodeErrorKind::AlreadyExists);
    let how = WriteHow { like: WriteLike::Itself, replaces: Some(sha(b"theirs")) };
    assert_eq!(kind(node.write(&path, b"other", how).await), NodeErrorKind::Unexpected);
    let how = WriteHow { like: WriteLike::Path(path.clone()), replaces: Some(sha(b"mine")) };
    assert_eq!(kind(node.write(&root.join("b"), b"", how).await), NodeErrorKind::NotFound);
    assert_eq!(kind(node.remove_own(&path, sha(b"theirs")).await), NodeErrorKind::Unexpected);
    assert_eq!(kind(node.remove_own(root, sha(b"")).await), NodeErrorKind::Unexpected);
    let nothing = root.join("nothing");
    assert_eq!(kind(node.remove_own(&nothing, sha(b"")).await), NodeErrorKind::NotFound);
    assert_eq!(kind(node.read(&path, 3).await), NodeErrorKind::Unexpected);
    assert_eq!(kind(node.read(root, 3000).await), NodeErrorKind::Unexpected);
    assert_eq!(kind(node.read(&nothing, 3).await), NodeErrorKind::NotFound);
    assert_eq!(kind(node.list(&nothing).await), NodeErrorKind::NotFound);
    assert_eq!(kind(node.list(&path).await), NodeErrorKind::Unexpected);
    assert_eq!(kind(node.digest(&nothing).await), NodeErrorKind::NotFound);
    assert_eq!(kind(node.space(&nothing).await), NodeErrorKind::NotFound);
    let like = WriteLike::Attributes(plain(0o700));
    assert_eq!(kind(node.make_dir(&path, like.clone()).await), NodeErrorKind::AlreadyExists);
    assert_eq!(kind(node.make_dir(&nothing.join("x"), like).await), NodeErrorKind::NotFound);
    assert_eq!(kind(node.write(&nothing.join("x"), b"", new(0)).await), NodeErrorKind::NotFound);
    assert_eq!(kind(node.stat(Path::new("relative")).await), NodeErrorKind::Unexpected);
    let upwards = root.join("../refusals/a");
    assert_eq!(kind(node.read(&upwards, 10).await), NodeErrorKind::Unexpected);
    assert_eq!(node.digest(root).await.unwrap(), before);
}

/// A tree made through the node alone, with links in it.
async fn with_links(node: &dyn Node, root: &Path) -> PathBuf {
    let member = |path: &str, kind| Member {
        path: path.into(),
        kind,
        uid: 0,
        gid: 0,
        owner: "root".to_owned(),
        group: String::new(),
        mode: 0o750,
        modified: 1_234_567_890_123_456_789,
        xattrs: BTreeMap::new(),
    };
    let file = Kind::File {
        size: 4,
        extents: vec![etcdvault::node::archive::Extent { offset: 0, length: 4 }],
    };
    let mut writer = Writer::new(Vec::new());
    writer.append_file(&member("dir/file", file), &b"text".as_slice()).unwrap();
    writer.append(&member("link", Kind::Symlink("dir/file".into()))).unwrap();
    writer.append(&member("dirlink", Kind::Symlink("dir".into()))).unwrap();
    writer.append(&member("same", Kind::HardLink("dir/file".into()))).unwrap();
    let tree = root.join("tree");
    node.unpack_tree(&tree, one(writer.finish(&[]).unwrap())).await.unwrap();
    tree
}

pub async fn links_are_not_followed(node: &dyn Node, root: &Path) {
    let tree = with_links(node, root).await;
    let link = tree.join("link");
    let entry = node.stat(&link).await.unwrap().unwrap();
    assert_eq!(entry.kind, FileKind::Symlink);
    assert_eq!(entry.target.as_deref(), Some(Path::new("dir/file")));
    let file = node.stat(&tree.join("dir/file")).await.unwrap().unwrap();
    assert_eq!(
        (file.kind, file.size, file.modified),
        (FileKind::File, 4, 1_234_567_890_123_456_789)
    );
    assert_eq!(kind(node.read(&link, 100).await), NodeErrorKind::Unexpected);
    assert_eq!(kind(node.list(&tree.join("dirlink")).await), NodeErrorKind::Unexpected);
    assert_eq!(kind(node.remove_own(&link, sha(b"text")).await), NodeErrorKind::Unexpected);
    let how = WriteHow { like: WriteLike::Attributes(plain(0o600)), replaces: Some(sha(b"text")) };
    assert_eq!(kind(node.write(&link, b"", how).await), NodeErrorKind::Unexpected);
    // A link further up is a way like any other.
    assert_eq!(node.read(&tree.join("dirlink/file"), 4).await.unwrap().bytes, b"text");
    // A link itself can be moved, and is then still one.
    node.rename(&link, &tree.join("moved")).await.unwrap();
    let moved = node.stat(&tree.join("moved")).await.unwrap().unwrap();
    assert_eq!(moved.kind, FileKind::Symlink);
    // Writing one name of a file does not write the other.
    let how = WriteHow { like: WriteLike::Itself, replaces: Some(sha(b"text")) };
    node.write(&tree.join("same"), b"new", how).await.unwrap();
    assert_eq!(node.read(&tree.join("dir/file"), 4).await.unwrap().bytes, b"text");
}

pub async fn renames(node: &dyn Node, root: &Path) {
    let (a, b, dir) = (root.join("a"), root.join("b"), root.join("dir"));
    node.write(&a, b"a", new(0o600)).await.unwrap();
    node.write(&b, b"b", new(0o600)).await.unwrap();
    assert_eq!(kind(node.rename(&a, &b).await), NodeErrorKind::AlreadyExists);
    assert_eq!(kind(node.rename(&a, &a).await), NodeErrorKind::AlreadyExists);
    assert_eq!(kind(node.rename(&root.join("no"), &root.join("c")).await), NodeErrorKind::NotFound);
    assert_eq!(kind(node.rename(&a, &root.join("no/c")).await), NodeErrorKind::NotFound);
    let like = WriteLike::Attributes(plain(0o711));
    node.make_dir(&dir, like.clone()).await.unwrap();
    node.make_dir(&root.join("void"), like).await.unwrap();
    // Not even an empty directory is replaced.
    assert_eq!(kind(node.rename(&dir, &root.join("void")).await), NodeErrorKind::AlreadyExists);
    assert!(node.rename(&dir, &dir.join("below")).await.is_err());
    node.rename(&a, &dir.join("a")).await.unwrap();
    node.rename(&dir, &root.join("aside")).await.unwrap();
    assert_eq!(node.read(&root.join("aside/a"), 1).await.unwrap().bytes, b"a");
    assert_eq!(node.read(&b, 1).await.unwrap().bytes, b"b");
    assert_eq!(names(node, root).await, ["aside", "b", "void"]);
}

pub async fn digests(node: &dyn Node, root: &Path) {
    let dir = sub(node, root, "one").await;
    let empty = node.digest(&dir).await.unwrap();
    assert_eq!((empty.entries, empty.bytes), (1, 0));
    node.write(&dir.join("f"), b"content", new(0o600)).await.unwrap();
    let full = node.digest(&dir).await.unwrap();
    assert_eq!((full.entries, full.bytes), (2, 7));
    assert_ne!(empty.sha256, full.sha256);
    assert_eq!(node.digest(&dir).await.unwrap(), full);
    // The name of the root does not count, everything below does.
    let moved = root.join("two");
    node.rename(&dir, &moved).await.unwrap();
    assert_eq!(node.digest(&moved).await.unwrap(), full);
    node.rename(&moved.join("f"), &moved.join("g")).await.unwrap();
    assert_ne!(node.digest(&moved).await.unwrap(), full);
    let other = sub(node, root, "three").await;
    node.write(&other.join("f"), b"content", new(0o640)).await.unwrap();
    assert_ne!(node.digest(&other).await.unwrap(), full, "the mode does not count");
    let file = node.digest(&other.join("f")).await.unwrap();
    assert_eq!((file.entries, file.bytes), (1, 7));
}

/// A link as it is made: root's, at a time that no clock shows.
pub fn link(target: &str, replaces: Option<&str>) -> LinkHow {
    LinkHow {
        target: target.into(),
        attributes: plain(0o777),
        modified: Some(1_234_567_890_123_456_789),
        replaces: replaces.map(PathBuf::from),
    }
}

pub async fn links_are_made_and_replaced(node: &dyn Node, root: &Path) {
    let (path, file) = (root.join("link"), root.join("file"));
    node.write(&file, b"mine", new(0o600)).await.unwrap();
    let outside = sub(node, root, "outside").await;
    node.write(&outside.join("file"), b"untouched", new(0o600)).await.unwrap();
    let before = node.digest(&outside).await.unwrap();
    let how = LinkHow {
        attributes: Attributes { uid: 4242, gid: 4343, ..plain(0) },
        ..link("../nowhere/at all", None)
    };
    node.make_link(&path, how).await.unwrap();
    let entry = node.stat(&path).await.unwrap().unwrap();
    assert_eq!(entry.kind, FileKind::Symlink);
    assert_eq!(entry.target.as_deref(), Some(Path::new("../nowhere/at all")));
    assert_eq!((entry.attributes.uid, entry.attributes.gid), (4242, 4343));
    assert_eq!(entry.modified, 1_234_567_890_123_456_789);
    // In the place of one, by what it leads to: by bytes, and to nothing else.
    let there = outside.to_str().unwrap();
    for replaces in [None, Some("elsewhere"), Some("../nowhere//at all")] {
        let refused = kind(node.make_link(&path, link(there, replaces)).await);
        let wanted = match replaces {
            None => NodeErrorKind::AlreadyExists,
            Some(_) => NodeErrorKind::Unexpected,
        };
        assert_eq!(refused, wanted, "{replaces:?}");
    }
    node.make_link(&path, link(there, Some("../nowhere/at all"))).await.unwrap();
    let entry = node.stat(&path).await.unwrap().unwrap();
    assert_eq!(entry.target.as_deref(), Some(outside.as_path()));
    assert_eq!(entry.attributes.uid, 0);
    // It leads to a directory now, and is replaced itself, not what is in there.
    node.make_link(&path, link("file", Some(there))).await.unwrap();
    assert_eq!(node.digest(&outside).await.unwrap(), before);
    // A file and a directory are no links, and nothing is where nothing stands.
    for (place, wanted) in [
        (&file, NodeErrorKind::Unexpected),
        (&outside, NodeErrorKind::Unexpected),
        (&root.join("nothing"), NodeErrorKind::NotFound),
    ] {
        assert_eq!(kind(node.make_link(place, link("x", Some("file"))).await), wanted);
        assert_eq!(kind(node.remove_link(place, Path::new("file")).await), wanted);
    }
    assert_eq!(kind(node.make_link(&file, link("x", None)).await), NodeErrorKind::AlreadyExists);
    let nowhere = root.join("nothing/link");
    assert_eq!(kind(node.make_link(&nowhere, link("x", None)).await), NodeErrorKind::NotFound);
    assert_eq!(
        kind(node.make_link(&root.join("e"), link("", None)).await),
        NodeErrorKind::Unexpected
    );
    assert_eq!(kind(node.remove_link(&path, Path::new("x")).await), NodeErrorKind::Unexpected);
    assert_eq!(names(node, root).await, ["file", "link", "outside"]);
    node.remove_link(&path, Path::new("file")).await.unwrap();
    assert_eq!(names(node, root).await, ["file", "outside"]);
    assert_eq!(node.read(&file, 4).await.unwrap().bytes, b"mine");
}

pub async fn what_is_there_is_set(node: &dyn Node, root: &Path) {
    let (file, dir) = (root.join("file"), root.join("dir"));
    node.write(&file, b"x", new(0o600)).await.unwrap();
    node.make_dir(&dir, WriteLike::Attributes(plain(0o755))).await.unwrap();
    node.write(&dir.join("inside"), b"y", new(0o640)).await.unwrap();
    let xattrs = BTreeMap::from([("user.note".to_owned(), b"a\0b".to_vec())]);
    let attributes = Attributes { uid: 4242, gid: 4343, mode: 0o2750, xattrs, ..plain(0) };
    for (path, what) in [(&file, FileKind::File), (&dir, FileKind::Directory)] {
        let old = node.stat(path).await.unwrap().unwrap();
        // The attributes alone, then the time alone.
        let how = SetHow { kind: what, attributes: Some(attributes.clone()), modified: None };
        node.set(path, how).await.unwrap();
        let mut now = node.stat(path).await.unwrap().unwrap();
        now.attributes.xattrs.remove("security.selinux");
        assert_eq!((&now.attributes, now.modified), (&attributes, old.modified));
        for modified in [1_234_567_890_123_456_789, 0, -1_000_000_000_i128] {
            let how = SetHow { kind: what, attributes: None, modified: Some(modified) };
            node.set(path, how).await.unwrap();
            let mut now = node.stat(path).await.unwrap().unwrap();
            now.attributes.xattrs.remove("security.selinux");
            assert_eq!((now.attributes, now.modified), (attributes.clone(), modified));
        }
        let how = SetHow { kind: what, attributes: Some(plain(0o700)), modified: None };
        node.set(path, how).await.unwrap();
        let now = node.stat(path).await.unwrap().unwrap().attributes;
        let left = now.xattrs.keys().filter(|name| *name != "security.selinux").count();
        assert_eq!((now.uid, now.gid, now.mode, left), (0, 0, 0o700, 0));
    }
    assert_eq!(node.read(&file, 1).await.unwrap().bytes, b"x");
    let inside = node.read(&dir.join("inside"), 1).await.unwrap();
    assert_eq!((inside.bytes.as_slice(), inside.entry.attributes.mode), (b"y".as_slice(), 0o640));
    // Another kind, a link, nothing: refused, and nothing is followed.
    node.make_link(&root.join("link"), link("file", None)).await.unwrap();
    let how = |kind| SetHow { kind, attributes: Some(plain(0o777)), modified: Some(1) };
    for (name, what, wanted) in [
        ("file", FileKind::Directory, NodeErrorKind::Unexpected),
        ("dir", FileKind::File, NodeErrorKind::Unexpected),
        ("link", FileKind::File, NodeErrorKind::Unexpected),
        ("link", FileKind::Symlink, NodeErrorKind::Unexpected),
        ("nothing", FileKind::File, NodeErrorKind::NotFound),
    ] {
        assert_eq!(kind(node.set(&root.join(name), how(what)).await), wanted, "{name} {what:?}");
    }
    assert_eq!(node.stat(&file).await.unwrap().unwrap().attributes.mode, 0o700);
}

pub async fn what_is_ours_is_removed(node: &dyn Node, root: &Path) {
    let tree = with_links(node, root).await;
    let digest = node.digest(&tree).await.unwrap();
    // A directory with something in it, a file, a link and nothing are no empty one.
    assert_eq!(kind(node.remove_dir(&tree).await), NodeErrorKind::AlreadyExists);
    assert_eq!(kind(node.remove_dir(&tree.join("dir/file")).await), NodeErrorKind::Unexpected);
    assert_eq!(kind(node.remove_dir(&tree.join("dirlink")).await), NodeErrorKind::Unexpected);
    assert_eq!(kind(node.remove_dir(&root.join("nothing")).await), NodeErrorKind::NotFound);
    assert_eq!(node.digest(&tree).await.unwrap(), digest);
    let empty = sub(node, &tree, "empty").await;
    let refused = node.remove_own_tree(&tree, digest.sha256).await;
    assert_eq!(kind(refused), NodeErrorKind::Unexpected, "it is not what it was");
    assert_eq!(names(node, &tree).await, ["dir", "dirlink", "empty", "link", "same"]);
    node.remove_dir(&empty).await.unwrap();
    assert_eq!(node.digest(&tree).await.unwrap(), digest);
    node.remove_own_tree(&tree, digest.sha256).await.unwrap();
    assert_eq!(names(node, root).await, [""; 0]);
    let again = node.remove_own_tree(&tree, digest.sha256).await;
    assert_eq!(kind(again), NodeErrorKind::NotFound);
}

pub async fn spaces(node: &dyn Node, root: &Path) {
    let space = node.space(root).await.unwrap();
    assert!(space.available > 0 && space.available <= space.total && !space.read_only);
    let mut points: Vec<PathBuf> =
        node.mounts().await.unwrap().into_iter().map(|mount| mount.point).collect();
    points.retain(|point| root.starts_with(point));
    assert!(!points.is_empty());
    assert!(!node.stat(root).await.unwrap().unwrap().mount_point);
    assert!(node.stat(Path::new("/")).await.unwrap().unwrap().mount_point);
}

/// The stream's bytes.
pub async fn collect(stream: ByteStream) -> Result<Vec<u8>, NodeError> {
    let chunks: Vec<Bytes> = stream.try_collect().await?;
    Ok(chunks.concat())
}

/// Bytes as a stream of small chunks.
pub fn one(bytes: Vec<u8>) -> ByteStream {
    let chunks: Vec<_> = bytes.chunks(1000).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
    futures_util::stream::iter(chunks).boxed()
}

pub async fn round_trip(node: &dyn Node, root: &Path) {
    let tree = with_links(node, root).await;
    let big: Vec<u8> = (0..700_000u32).flat_map(|n| (n % 251).to_le_bytes()).collect();
    node.write(&tree.join("big"), &big, new(0o604)).await.unwrap();
    let long = tree.join("n".repeat(200));
    node.write(&long, b"", new(0o600)).await.unwrap();
    let attributes = Attributes {
        uid: 3_000_000,
        gid: 7,
        xattrs: BTreeMap::from([("user.a=b%c".to_owned(), b"v\n\0".to_vec())]),
        ..plain(0o2755)
    };
    node.make_dir(&tree.join("owned"), WriteLike::Attributes(attributes)).await.unwrap();

    let before = node.digest(&tree).await.unwrap();
    let spec =
        TreeSpec { roots: vec![tree.clone()], base: Some(tree.clone()), ..TreeSpec::default() };
    let copy = root.join("copy");
    let unpacked =
        node.unpack_tree(&copy, node.save_tree(spec.clone()).await.unwrap()).await.unwrap();
    assert_eq!(unpacked, before);
    assert_eq!(node.digest(&copy).await.unwrap(), before);
    for path in ["", "dir", "dir/file", "link", "big"] {
        let (old, new) = (node.stat(&tree.join(path)).await, node.stat(&copy.join(path)).await);
        let (old, new) = (old.unwrap().unwrap(), new.unwrap().unwrap());
        assert_eq!(old.modified, new.modified, "{path}");
        assert_eq!(old.attributes.mode, new.attributes.mode, "{path}");
    }
    // The same tree gives the same bytes.
    let first = collect(node.save_tree(spec.clone()).await.unwrap()).await.unwrap();
    assert_eq!(first, collect(node.save_tree(spec).await.unwrap()).await.unwrap());
    // Without a base the names begin at the root of the node.
    let spec = TreeSpec { roots: vec![tree.join("dir")], ..TreeSpec::default() };
    let bytes = collect(node.save_tree(spec).await.unwrap()).await.unwrap();
    let member = Reader::new(bytes.as_slice()).next_member().unwrap().unwrap();
    assert_eq!(Path::new("/").join(member.path), tree.join("dir"));
    // Where something stands nothing is unpacked.
    assert_eq!(kind(node.unpack_tree(&copy, one(bytes)).await), NodeErrorKind::AlreadyExists);
    assert_eq!(names(node, root).await, ["copy", "tree"]);
}

pub async fn excludes_and_missing(node: &dyn Node, root: &Path) {
    for (name, content) in [("keep", "1"), ("skip", "2"), ("skipped-not", "3")] {
        node.write(&root.join(name), content.as_bytes(), new(0o600)).await.unwrap();
    }
    let dir = sub(node, root, "no").await;
    node.write(&dir.join("below"), b"", new(0o600)).await.unwrap();
    let spec = TreeSpec {
        roots: vec![root.join("missing"), root.join("keep"), root.to_owned()],
        exclude: vec![root.join("skip"), dir],
        base: Some(root.to_owned()),
    };
    let bytes = collect(node.save_tree(spec).await.unwrap()).await.unwrap();
    let mut reader = Reader::new(bytes.as_slice());
    let mut found = Vec::new();
    while let Some(member) = reader.next_member().unwrap() {
        found.push(member.path.to_str().unwrap().to_owned());
    }
    assert_eq!(found, ["", "keep", "skipped-not"]);
    let outside =
        TreeSpec { roots: vec!["/etc".into()], base: Some(root.to_owned()), ..TreeSpec::default() };
    assert_eq!(kind(node.save_tree(outside).await.map(|_| ())), NodeErrorKind::Unexpected);
    let nothing = TreeSpec { roots: vec![root.join("missing")], ..TreeSpec::default() };
    let bytes = collect(node.save_tree(nothing).await.unwrap()).await.unwrap();
    assert_eq!(Reader::new(bytes.as_slice()).next_member().unwrap(), None);
}

/// A member as a hostile sender would write it, its name unchecked.
pub fn raw_member(name: &str, kind: u8, link: &str, content: &[u8]) -> Vec<u8> {
    let mut block = [0u8; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    block[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    block[136..148].copy_from_slice(b"00000000000\0");
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut out = block.to_vec();
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

pub fn ended(members: &[Vec<u8>]) -> Vec<u8> {
    let mut out = members.concat();
    out.resize(out.len() + 1024, 0);
    out
}

pub async fn hostile_streams(node: &dyn Node, root: &Path) {
    let outside = sub(node, root, "outside").await;
    node.write(&outside.join("file"), b"untouched", new(0o600)).await.unwrap();
    let before = node.digest(&outside).await.unwrap();
    let there = outside.to_str().unwrap().to_owned();
    assert!(there.len() < 80, "{there} is too long for a header");
    let file = |name: &str| raw_member(name, b'0', "", b"evil");
    let link = |name: &str, to: &str| raw_member(name, b'2', to, b"");
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("absolute", vec![file(&format!("{there}/evil"))]),
        ("upwards", vec![file("../outside/evil")]),
        ("upwards further in", vec![file("a/../../outside/evil")]),
        ("through a link", vec![link("l", &there), file("l/evil")]),
        ("over a link", vec![link("l", &format!("{there}/file")), file("l")]),
        ("through a relative link", vec![link("l", "../outside"), file("l/evil")]),
        ("a directory over a link", vec![link("l", &there), raw_member("l/", b'5', "", b"")]),
        ("through two links", vec![link("a", "."), link("a/l", &there), file("a/l/evil")]),
        ("a hard link to outside", vec![raw_member("h", b'1', &format!("{there}/file"), b"")]),
        ("a hard link upwards", vec![raw_member("h", b'1', "../outside/file", b"")]),
        (
            "a hard link through a link",
            vec![link("l", &there), raw_member("h", b'1', "l/file", b"")],
        ),
        (
            "a hard link to a link",
            vec![link("l", &format!("{there}/file")), raw_member("h", b'1', "l", b"")],
        ),
        ("a hard link to nothing", vec![raw_member("h", b'1', "later", b"")]),
        ("a device", vec![raw_member("d", b'3', "", b"")]),
        ("a pipe", vec![raw_member("p", b'6', "", b"")]),
        ("twice", vec![file("f"), file("f")]),
        ("a file as a directory", vec![file("f"), file("f/g")]),
        ("the root as a file", vec![file(".")]),
        ("the root as a link", vec![link("./", &there)]),
        ("a directory with content", vec![raw_member("d", b'5', "", b"x")]),
        ("no checksum", vec![vec![b'x'; 512]]),
    ];
    for (what, members) in cases {
        let target = root.join("target");
        let result = node.unpack_tree(&target, one(ended(&members))).await;
        let error = result.map(|_| ()).expect_err(what);
        let refused = [NodeErrorKind::Unexpected, NodeErrorKind::AlreadyExists];
        assert!(refused.contains(&error.kind), "{what}: {error:?}");
        assert_eq!(names(node, root).await, ["outside"], "{what}");
        assert_eq!(node.digest(&outside).await.unwrap(), before, "{what}");
    }
}

pub async fn cut_streams(node: &dyn Node, root: &Path) {
    let whole = ended(&[
        raw_member("dir/", b'5', "", b""),
        raw_member("dir/a", b'0', "", &[7; 1500]),
        raw_member("b", b'0', "", b"b"),
    ]);
    // The last block is not needed: one that is zero ends the stream.
    for cut in [0, 1, 511, 512, 513, 1024, 2000, 2560, 3072, 3500, whole.len() - 1024] {
        let result = node.unpack_tree(&root.join("t"), one(whole[..cut].to_vec())).await;
        assert_eq!(kind(result), NodeErrorKind::Unexpected, "cut at {cut}");
        assert_eq!(names(node, root).await, [""; 0], "cut at {cut}");
    }
    let broken = NodeError::new(node.name(), NodeErrorKind::Lost, "read", "it broke");
    let chunks = vec![Ok(Bytes::copy_from_slice(&whole[..2000])), Err(broken)];
    let stream = futures_util::stream::iter(chunks).boxed();
    assert_eq!(kind(node.unpack_tree(&root.join("t"), stream).await), NodeErrorKind::Lost);
    assert_eq!(names(node, root).await, [""; 0]);
    node.unpack_tree(&root.join("t"), one(whole)).await.unwrap();
    assert_eq!(names(node, root).await, ["t"]);
}

/// A whole snapshot of a small store, trailer included.
pub const SNAPSHOT: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/scan/small"));

/// What a database says of itself, its HashKV by etcd's rules.
pub fn scan(database: &[u8]) -> Scan {
    let mut scan = StreamScan::new(ScanOptions { sha256: true, ..ScanOptions::default() });
    scan.write(database).unwrap();
    scan.finish().unwrap()
}

/// A member `a` of two, of [`SNAPSHOT`].
pub fn member_spec() -> MemberSpec {
    let scan = scan(SNAPSHOT);
    let compact_revision = scan.content.compact_revision();
    MemberSpec {
        name: "a".to_owned(),
        initial_cluster: "a=http://10.0.0.1:2380,b=http://10.0.0.2:2380".to_owned(),
        token: "contract".to_owned(),
        bump_revision: 1000,
        wal: None,
        owner: (4242, 4343),
        etcd_version: None,
        size: SNAPSHOT.len() as u64,
        sha256: sha(SNAPSHOT),
        hash_kv: Some(SpecHash {
            revision: scan.revision,
            compact_revision,
            hash: scan.hash_kv(scan.revision, compact_revision).unwrap(),
        }),
    }
}

pub async fn members_are_built(node: &dyn Node, root: &Path) {
    let (path, spec) = (root.join("member.new"), member_spec());
    let built = node.build_member(&path, spec.clone(), one(SNAPSHOT.to_vec())).await.unwrap();
    let was = scan(SNAPSHOT);
    assert_eq!(built.revision, was.revision + 1000);
    assert_eq!(node.digest(&path).await.unwrap(), built.digest);
    let database = node.read(&path.join("snap/db"), 1 << 20).await.unwrap();
    assert_eq!(database.entry.size, built.database_size);
    let attributes = &database.entry.attributes;
    assert_eq!((attributes.uid, attributes.gid, attributes.mode), (4242, 4343, 0o600));
    let directory = node.stat(&path).await.unwrap().unwrap().attributes;
    assert_eq!((directory.uid, directory.gid, directory.mode), (4242, 4343, 0o700));
    let now = scan(&database.bytes);
    assert!(now.is_sound(), "{:?}", now.problems);
    // The record that stands at the new revision is of the empty key.
    assert_eq!((now.revision, now.live_keys), (built.revision, was.live_keys + 1));
    assert_eq!(now.hash_kv(0, Some(built.revision)).unwrap(), built.hash_kv);
    assert_eq!(names(node, &path).await, ["snap", "wal"]);
    assert_eq!(names(node, &path.join("wal")).await.len(), 1);
    // The same again is the same, and nothing is left beside it.
    let other = root.join("other");
    let again = node.build_member(&other, spec.clone(), one(SNAPSHOT.to_vec())).await.unwrap();
    assert_eq!(again, built);
    let taken = node.build_member(&path, spec.clone(), one(SNAPSHOT.to_vec())).await;
    assert_eq!(kind(taken), NodeErrorKind::AlreadyExists);
    node.remove_own_tree(&other, again.digest.sha256).await.unwrap();
    // The log elsewhere.
    let (logs, data) = (sub(node, root, "logs").await, sub(node, root, "data").await);
    let apart = MemberSpec { wal: Some(logs.join("wal.new")), ..spec.clone() };
    node.build_member(&data.join("member"), apart, one(SNAPSHOT.to_vec())).await.unwrap();
    assert_eq!(names(node, &data.join("member")).await, ["snap"]);
    assert_eq!(names(node, &logs.join("wal.new")).await.len(), 1);
    assert_eq!(names(node, root).await, ["data", "logs", "member.new"]);

    // Whatever is not what was announced is refused, and leaves nothing.
    let mut damaged = SNAPSHOT.to_vec();
    damaged[SNAPSHOT.len() / 2] ^= 1;
    let bad = |change: fn(&mut MemberSpec)| {
        let mut spec = spec.clone();
        change(&mut spec);
        spec
    };
    for (what, spec, bytes) in [
        ("a flipped bit", spec.clone(), damaged),
        ("cut", spec.clone(), SNAPSHOT[..SNAPSHOT.len() - 512].to_vec()),
        ("nothing", spec.clone(), Vec::new()),
        ("too long", spec.clone(), [SNAPSHOT, &[0; 512]].concat()),
        ("another hash", bad(|spec| spec.hash_kv.as_mut().unwrap().hash ^= 1), SNAPSHOT.to_vec()),
        ("another digest", bad(|spec| spec.sha256[0] ^= 1), SNAPSHOT.to_vec()),
        ("no such member", bad(|spec| spec.name = "c".to_owned()), SNAPSHOT.to_vec()),
        ("no cluster", bad(|spec| spec.initial_cluster.clear()), SNAPSHOT.to_vec()),
        ("no version", bad(|spec| spec.etcd_version = Some("x".to_owned())), SNAPSHOT.to_vec()),
    ] {
        let refused = node.build_member(&other, spec, one(bytes)).await;
        assert_eq!(kind(refused), NodeErrorKind::Unexpected, "{what}");
    }
    let broken = NodeError::new(node.name(), NodeErrorKind::Lost, "read", "it broke");
    let chunks = vec![Ok(Bytes::copy_from_slice(&SNAPSHOT[..5000])), Err(broken)];
    let stream = futures_util::stream::iter(chunks).boxed();
    let lost = node.build_member(&other, spec.clone(), stream).await;
    assert_eq!(kind(lost), NodeErrorKind::Lost);
    let nowhere = root.join("nothing/member");
    let refused = node.build_member(&nowhere, spec, one(SNAPSHOT.to_vec())).await;
    assert_eq!(kind(refused), NodeErrorKind::NotFound);
    assert_eq!(names(node, root).await, ["data", "logs", "member.new"]);
}

const UNIT: &str = "contract.service";
const UNIT_FILE: &str = "/etc/systemd/system/contract.service";

/// Runs everything about units of systemd, with one that sleeps.
pub async fn units(node: &dyn Node) {
    let minute = Duration::from_secs(60);
    let text = |more: &str| {
        format!(
            "[Unit]\nDescription=contract\n[Service]\n{more}ExecStart=/bin/sleep 100000\n\
             [Install]\nWantedBy=multi-user.target\n"
        )
    };
    let act = async |action| node.unit_do(UNIT, action, 2 * minute).await;
    let unit = async || node.unit(UNIT).await.unwrap().unwrap();
    assert_eq!(node.unit(UNIT).await.unwrap(), None);
    assert_eq!(kind(act(UnitAction::Start).await), NodeErrorKind::NotFound);
    assert_eq!(kind(act(UnitAction::Enable).await), NodeErrorKind::NotFound);
    let (file, first) = (Path::new(UNIT_FILE), text(""));
    node.write(file, first.as_bytes(), new(0o644)).await.unwrap();
    node.unit_do("", UnitAction::DaemonReload, minute).await.unwrap();
    let found = unit().await;
    assert_eq!((found.load_state.as_str(), found.active_state.as_str()), ("loaded", "inactive"));
    assert_eq!((found.sub_state.as_str(), found.file_state.as_str()), ("dead", "disabled"));
    assert_eq!((found.main_pid, found.fragment.as_deref()), (0, Some(file)));
    assert!(found.drop_ins.is_empty() && !found.needs_reload, "{found:?}");
    assert!(node.units("contr*.service").await.unwrap().contains(&UNIT.to_owned()));
    assert_eq!(node.units("no-such-*.service").await.unwrap(), [""; 0]);

    // Once is as twice, whichever way.
    let mut runs = Vec::new();
    for _ in 0..2 {
        act(UnitAction::Start).await.unwrap();
        let started = unit().await;
        assert_eq!(
            (started.active_state.as_str(), started.sub_state.as_str()),
            ("active", "running")
        );
        act(UnitAction::Start).await.unwrap();
        let again = unit().await;
        assert_eq!((again.main_pid, &again.invocation), (started.main_pid, &started.invocation));
        let process = node.processes(ProcessQuery::Pid(started.main_pid)).await.unwrap();
        assert!(process.len() == 1 && process[0].cgroup.ends_with(UNIT), "{process:?}");
        assert_eq!(process[0].arguments[1..], ["100000"]);
        for _ in 0..2 {
            act(UnitAction::Stop).await.unwrap();
            let stopped = unit().await;
            assert_eq!((stopped.active_state.as_str(), stopped.main_pid), ("inactive", 0));
        }
        assert_eq!(node.processes(ProcessQuery::Pid(started.main_pid)).await.unwrap(), []);
        runs.push(started.invocation);
    }
    assert!(runs[0] != runs[1] && !runs[0].is_empty(), "{runs:?}");
    for (action, state) in [(UnitAction::Enable, "enabled"), (UnitAction::Disable, "disabled")] {
        for _ in 0..2 {
            act(action).await.unwrap();
            assert_eq!(unit().await.file_state, state);
        }
    }

    // What files say counts once systemd has read them. (Of a directory that is new it does
    // not tell before.) A unit that does not run systemd forgets, and reads its files when
    // it is asked again.
    act(UnitAction::Start).await.unwrap();
    let dir = Path::new("/etc/systemd/system/contract.service.d");
    node.make_dir(dir, WriteLike::Attributes(plain(0o755))).await.unwrap();
    let drop_in = dir.join("10-more.conf");
    let bad = b"[Service]\nEnvironmentFile=/no/such/file\n";
    node.write(&drop_in, bad, new(0o644)).await.unwrap();
    node.unit_do("", UnitAction::DaemonReload, minute).await.unwrap();
    let read = unit().await;
    assert_eq!((read.drop_ins.as_slice(), read.needs_reload), (&[drop_in.clone()][..], false));

    act(UnitAction::Stop).await.unwrap();

    // One that does not start says why, and is failed until that is forgotten.
    let error = act(UnitAction::Start).await.unwrap_err();
    assert_eq!(error.kind, NodeErrorKind::Failed, "{error}");
    let said = |line: &String| line.contains("Failed to load environment files");
    assert!(error.details.iter().any(said), "{error:?}");
    assert_eq!(unit().await.active_state, "failed");
    act(UnitAction::ResetFailed).await.unwrap();
    assert_eq!(unit().await.active_state, "inactive");

    // It runs on while its files go, and is gone after that.
    node.remove_own(&drop_in, sha(bad)).await.unwrap();
    node.remove_dir(dir).await.unwrap();
    node.unit_do("", UnitAction::DaemonReload, minute).await.unwrap();
    act(UnitAction::Start).await.unwrap();
    assert!(unit().await.drop_ins.is_empty());
    act(UnitAction::Stop).await.unwrap();
    node.remove_own(file, sha(first.as_bytes())).await.unwrap();
    node.unit_do("", UnitAction::DaemonReload, minute).await.unwrap();
    assert_eq!(node.unit(UNIT).await.unwrap(), None);
}

/// A unit that runs etcd with one member, for [`etcd`].
pub struct EtcdUnit<'a> {
    pub unit: &'a str,
    /// Its data directory.
    pub data: &'a Path,
    /// The file with its settings.
    pub settings: &'a Path,
    /// What is in the file, and what is where the cluster's state is `existing`.
    pub texts: [&'a [u8]; 2],
    /// Takes and frees the port for clients.
    pub port: &'a dyn Fn(bool),
}

/// Runs everything about how etcd starts and does not, with a member that runs, and runs at
/// the end.
pub async fn etcd(node: &dyn Node, etcd: &EtcdUnit<'_>) {
    let act = async |action| node.unit_do(etcd.unit, action, Duration::from_secs(120)).await;
    let fails = async |why: &str| {
        let error = act(UnitAction::Start).await.unwrap_err();
        assert_eq!(error.kind, NodeErrorKind::Failed, "{error}");
        assert!(error.details.iter().any(|line| line.contains(why)), "{why}: {error:?}");
        act(UnitAction::Stop).await.unwrap();
        act(UnitAction::ResetFailed).await.unwrap();
    };
    act(UnitAction::Stop).await.unwrap();

    let own = node.stat(etcd.data).await.unwrap().unwrap().attributes;
    assert_ne!(own.uid, 0);
    let give = async |attributes: Attributes| {
        let kind = FileKind::Directory;
        let how = SetHow { kind, attributes: Some(attributes), modified: None };
        node.set(etcd.data, how).await.unwrap();
    };
    give(Attributes { mode: 0o700, ..plain(0) }).await;
    fails("permission denied").await;
    give(own).await;

    (etcd.port)(true);
    fails("address already in use").await;
    (etcd.port)(false);

    let [new, existing] = etcd.texts;
    let write = async |old: &[u8], text: &[u8]| {
        let how = WriteHow { like: WriteLike::Itself, replaces: Some(sha(old)) };
        node.write(etcd.settings, text, how).await.unwrap();
        node.unit_do("", UnitAction::DaemonReload, Duration::from_secs(120)).await.unwrap();
    };
    let (member, aside) = (etcd.data.join("member"), etcd.data.join("member.aside"));
    node.rename(&member, &aside).await.unwrap();
    write(new, existing).await;
    fails("peer urls").await;
    write(existing, new).await;
    // What it began before it gave up.
    if node.stat(&member).await.unwrap().is_some() {
        node.rename(&member, &etcd.data.join("member.begun")).await.unwrap();
    }
    node.rename(&aside, &member).await.unwrap();
    act(UnitAction::Start).await.unwrap();
    let unit = node.unit(etcd.unit).await.unwrap().unwrap();
    assert_eq!((unit.active_state.as_str(), unit.sub_state.as_str()), ("active", "running"));
}

/// Runs everything about static pods with one that runs, and runs at the end.
pub async fn pods(node: &dyn Node, pod: &StaticPod) {
    let bounds = Bounds { grace: Some(Duration::from_secs(2)), ..Bounds::default() };
    let mut quiet = |_: &static_pod::Waiting| ();
    let query = |ended| ContainerQuery {
        namespace: Some("kube-system".to_owned()),
        name: Some(pod.container.clone()),
        ended,
    };
    let running = async || {
        let found = node.containers(query(false)).await.unwrap();
        assert!(found.len() <= 1, "{found:?}");
        found.into_iter().next()
    };
    let first = running().await.unwrap();
    assert!(first.running && first.name == pod.container, "{first:?}");
    assert_eq!(first.namespace, "kube-system");
    assert!(first.pod.starts_with(&format!("{}-", pod.container)), "{first:?}");
    let open = async || {
        let found = node.listeners().await.unwrap();
        pod.ports.iter().filter(|port| found.iter().any(|it| it.address.port() == **port)).count()
    };
    assert_eq!(open().await, pod.ports.len());

    // A container that ends while its manifest is there is another one of the same pod.
    node.stop_container(&first.id, Duration::from_secs(2)).await.unwrap();
    let mut second = None;
    for _ in 0..240 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        second = running().await;
        if second.as_ref().is_some_and(|it| it.id != first.id) {
            break;
        }
    }
    let second = second.unwrap();
    assert_eq!((&second.pod_uid, second.attempt), (&first.pod_uid, first.attempt + 1));
    assert_ne!(second.id, first.id);
    let ended = node.containers(query(true)).await.unwrap();
    assert!(ended.iter().any(|it| it.id == first.id && !it.running), "{ended:?}");

    // Taken out it is gone, and its ports are closed; so it is when it is done again.
    for _ in 0..2 {
        static_pod::take_out(node, pod, bounds, &mut quiet).await.unwrap();
        assert_eq!((running().await, open().await), (None, 0));
    }
    assert_eq!(node.stat(&pod.manifest).await.unwrap(), None);
    // A name with a dot in front is none of the kubelet's.
    let text = node.read(&pod.aside, 1 << 20).await.unwrap().bytes;
    let dotted = pod.manifest.with_file_name(".contract.yaml");
    node.write(&dotted, &text, new(0o600)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert_eq!(running().await, None);
    node.remove_own(&dotted, sha(&text)).await.unwrap();
    // Back it is the same pod in a new container.
    let known = [first.id.clone(), second.id.clone()];
    for _ in 0..2 {
        let back = static_pod::put_back(node, pod, &known, bounds, &mut quiet).await.unwrap();
        assert!(back.running && !known.contains(&back.id), "{back:?}");
        assert_eq!(back.pod_uid, first.pod_uid, "the manifest is the same");
        assert_eq!(open().await, pod.ports.len());
    }
    let missing = node.stop_container("no-such-container", Duration::from_secs(1)).await;
    assert!(missing.is_ok() || kind(missing) == NodeErrorKind::NotFound);
}
