//! The simulated file system answers as the operating system's does, and what it
//! says of crashes is what durable writing must withstand.

use std::io;
use std::path::{Path, PathBuf};

use vault::durable::sim::Unsynced;
use vault::durable::{FileSystem, FileType, RealFs, SimFs, create_dir_all, remove_all};

/// A script over a file system: every answer as text, so that two can be held
/// against each other.
fn script(fs: &dyn FileSystem, root: &Path) -> Vec<String> {
    let mut log = Vec::new();
    let mut say = |what: &str, result: io::Result<String>| {
        let answer = match result {
            Ok(answer) => answer,
            Err(error) => format!("{:?}", error.kind()),
        };
        log.push(format!("{what}: {answer}"));
    };
    let at = |name: &str| root.join(name);
    let unit = |result: io::Result<()>| result.map(|()| "ok".to_owned());

    say("mkdir", unit(fs.create_dir(&at("d"), 0o750)));
    say("mkdir again", unit(fs.create_dir(&at("d"), 0o750)));
    say("mkdir below nothing", unit(fs.create_dir(&at("x/y"), 0o700)));
    say("mkdir all", unit(create_dir_all(fs, &at("a/b/c"), 0o700)));
    say("mkdir all again", unit(create_dir_all(fs, &at("a/b/c"), 0o700)));

    let mut file = fs.create_new(&at("d/f"), 0o640).unwrap();
    say("create again", fs.create_new(&at("d/f"), 0o600).map(|_| "ok".into()));
    say("create below a file", fs.create_new(&at("d/f/g"), 0o600).map(|_| "ok".into()));
    say("write", unit(file.write(b"hello ")));
    say("write on", unit(file.write(b"world")));
    say("patch", unit(file.write_at(0, b"H")));
    say("patch far", unit(file.write_at(14, b"!")));
    say("go on", unit(file.write(b"--")));
    say("size", file.size().map(|size| size.to_string()));
    let mut buf = [0; 20];
    say("read", file.read_at(3, &mut buf).map(|n| format!("{:?}", &buf[..n])));
    say("read at end", file.read_at(15, &mut buf).map(|n| n.to_string()));
    say("read beyond", file.read_at(99, &mut buf).map(|n| n.to_string()));
    say("cut", unit(file.set_len(5)));
    say("allocate", unit(file.allocate(9)));
    say("allocate less", unit(file.allocate(2)));
    say("size after", file.size().map(|size| size.to_string()));
    say("sync", unit(file.sync()));
    say("sync data", unit(file.sync_data()));
    drop(file);

    say("sync dir", unit(fs.sync_dir(&at("d"))));
    say("sync no dir", unit(fs.sync_dir(&at("nothing"))));
    say("sync a file as dir", unit(fs.sync_dir(&at("d/f"))));
    let mut again = fs.open(&at("d/f")).unwrap();
    say("read again", again.read_at(0, &mut buf).map(|n| format!("{:?}", &buf[..n])));
    say("write to reader", unit(again.write_at(0, b"x")).map_err(|_| io::ErrorKind::Other.into()));
    let mut patched = fs.open_write(&at("d/f")).unwrap();
    say("write to writer", unit(patched.write(b"J")));
    say("read it", patched.read_at(0, &mut buf[..3]).map(|n| format!("{:?}", &buf[..n])));
    say("open nothing", fs.open(&at("nothing")).map(|_| "ok".into()));
    say("open below a file", fs.open(&at("d/f/g")).map(|_| "ok".into()));
    say("open a directory", fs.open(&at("d")).map(|_| "ok".into()));

    let meta = |path: &str| {
        fs.metadata(&at(path)).map(|found| {
            let size = if found.file_type == FileType::File { found.size } else { 0 };
            format!("{:?} {size} {:o}", found.file_type, found.mode)
        })
    };
    say("metadata", meta("d/f"));
    say("metadata of a directory", meta("d"));
    say("metadata of nothing", meta("nothing"));
    say("metadata below a file", meta("d/f/g"));
    say("mode", unit(fs.set_mode(&at("d/f"), 0o600)));
    say("mode of a directory", unit(fs.set_mode(&at("d"), 0o700)));
    say("mode of nothing", unit(fs.set_mode(&at("nothing"), 0o700)));
    say("metadata after", meta("d/f"));
    say("owner as it is", unit(fs.set_owner(&at("d/f"), None, None)));

    drop(fs.create_new(&at("d/g"), 0o600).unwrap());
    say("rename no replace", unit(fs.rename_no_replace(&at("d/f"), &at("d/g"))));
    say("rename no replace of nothing", unit(fs.rename_no_replace(&at("d/zz"), &at("d/yy"))));
    say("rename no replace free", unit(fs.rename_no_replace(&at("d/f"), &at("d/h"))));
    say("rename over", unit(fs.rename(&at("d/h"), &at("d/g"))));
    say("what was replaced", meta("d/g"));
    say("rename dir no replace", unit(fs.rename_no_replace(&at("d"), &at("a"))));
    say("rename dir free", unit(fs.rename_no_replace(&at("d"), &at("e"))));
    say("rename dir over full", unit(fs.rename(&at("e"), &at("a"))));
    say("rename dir over empty", unit(fs.rename(&at("e"), &at("a/b/c"))));
    say("rename into itself", unit(fs.rename(&at("a"), &at("a/b/x"))));
    say("mkdir q", unit(fs.create_dir(&at("q"), 0o700)));
    say("rename file over dir", unit(fs.rename(&at("a/b/c/g"), &at("q"))));
    say("list", fs.read_dir(&at("a/b")).map(|entries| format!("{entries:?}")));
    say("list nothing", fs.read_dir(&at("nothing")).map(|entries| format!("{entries:?}")));
    say("list a file", fs.read_dir(&at("a/b/c/g")).map(|entries| format!("{entries:?}")));
    say("remove full", unit(fs.remove_dir(&at("a/b"))));
    say("remove dir as file", unit(fs.remove_file(&at("a/b"))));
    say("remove file as dir", unit(fs.remove_dir(&at("a/b/c/g"))));
    say("remove nothing", unit(fs.remove_file(&at("nothing"))));
    say("remove all", unit(remove_all(fs, &at("a"))));
    say("remove all again", unit(remove_all(fs, &at("a"))));
    say("root", fs.read_dir(root).map(|entries| format!("{entries:?}")));
    log
}

#[test]
fn simulated_and_real_answer_alike() {
    let directory = tempfile::tempdir().unwrap();
    let simulated = script(&SimFs::new(), Path::new("/"));
    for (number, fs) in
        [RealFs::new(), RealFs::without_rename_flag(), RealFs::without_links()].iter().enumerate()
    {
        let root = directory.path().join(number.to_string());
        std::fs::create_dir(&root).unwrap();
        let real = script(fs, &root);
        for (real, simulated) in real.iter().zip(&simulated) {
            assert_eq!(real, simulated, "{fs:?}");
        }
        assert_eq!(real.len(), simulated.len());
    }
    // A script in which nothing works would agree as well.
    let worked = simulated.iter().filter(|line| line.ends_with(": ok")).count();
    assert!(worked > 20, "{simulated:#?}");
}

#[test]
fn links_are_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("target");
    std::fs::write(&target, b"untouched").unwrap();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let fs = RealFs::new();
    assert_eq!(fs.metadata(&link).unwrap().file_type, FileType::Symlink);
    fs.open(&link).map(drop).unwrap_err();
    fs.open_write(&link).map(drop).unwrap_err();
    fs.create_new(&link, 0o600).map(drop).unwrap_err();
    fs.set_mode(&link, 0o777).unwrap_err();
    remove_all(&fs, &link).unwrap();
    assert_eq!(std::fs::read(&target).unwrap(), b"untouched");
}

fn write(fs: &SimFs, path: &str, content: &[u8], sync: bool) {
    let mut file = fs.create_new(Path::new(path), 0o600).unwrap();
    file.write(content).unwrap();
    if sync {
        file.sync().unwrap();
    }
}

fn read(fs: &SimFs, path: &str) -> Option<Vec<u8>> {
    let file = fs.open(Path::new(path)).ok()?;
    let mut content = vec![0; file.size().unwrap() as usize];
    file.read_at(0, &mut content).unwrap();
    Some(content)
}

#[test]
fn only_what_was_synced_survives() {
    let fs = SimFs::new();
    write(&fs, "/content-and-name", b"0123456789", true);
    fs.sync_dir(Path::new("/")).unwrap();
    write(&fs, "/content-only", b"0123456789", true);
    write(&fs, "/nothing", b"0123456789", false);

    let lost = fs.after_crash(Unsynced::Lost);
    assert_eq!(read(&lost, "/content-and-name").unwrap(), b"0123456789");
    assert_eq!(read(&lost, "/content-only"), None);
    assert_eq!(read(&lost, "/nothing"), None);
    let kept = fs.after_crash(Unsynced::Kept);
    assert_eq!(read(&kept, "/nothing").unwrap(), b"0123456789");
    let torn = fs.after_crash(Unsynced::Torn);
    assert_eq!(read(&torn, "/content-only").unwrap(), b"0123456789");
    assert_eq!(read(&torn, "/nothing").unwrap(), b"01234");
    let unnamed = fs.after_crash(Unsynced::Unnamed);
    assert_eq!(read(&unnamed, "/content-only"), None);

    // A rename is a change of the directory.
    fs.rename(Path::new("/content-and-name"), Path::new("/renamed")).unwrap();
    assert!(read(&fs.after_crash(Unsynced::Lost), "/renamed").is_none());
    assert!(read(&fs.after_crash(Unsynced::Lost), "/content-and-name").is_some());
    fs.sync_dir(Path::new("/")).unwrap();
    assert!(read(&fs.after_crash(Unsynced::Lost), "/renamed").is_some());
    assert!(read(&fs.after_crash(Unsynced::Lost), "/content-and-name").is_none());
}

#[test]
fn it_fails_where_it_is_told_to_and_runs_full() {
    let fs = SimFs::new();
    write(&fs, "/a", b"x", true);
    assert_eq!(fs.calls(), 3);
    fs.fail_at(5);
    let mut file = fs.create_new(Path::new("/b"), 0o600).unwrap();
    assert!(!fs.has_failed());
    file.write(b"x").unwrap_err();
    assert!(fs.has_failed());
    fs.read_dir(Path::new("/")).unwrap_err();

    let fs = SimFs::new();
    fs.set_capacity(10);
    write(&fs, "/a", b"01234567", true);
    let mut file = fs.create_new(Path::new("/b"), 0o600).unwrap();
    assert_eq!(file.write(b"012").unwrap_err().kind(), io::ErrorKind::StorageFull);
    file.write(b"01").unwrap();
    assert_eq!(fs.available(&PathBuf::from("/")).unwrap(), 0);
}
