//! A tired newcomer at the keyboard: mistyped, wrong order, flags missing, run twice,
//! piped, paths with spaces, numbers too large. Nothing panics, every mistake has its
//! exit code and says what to do, and with --json there is exactly one object.

#[path = "common/program.rs"]
mod common;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use harness::cli::Ran;
use harness::etcd::Cluster;

use common::{new_vault, program, says};

/// What holds of every run, whatever it was asked.
#[track_caller]
fn decent(ran: &Ran) {
    assert!(!ran.stderr.contains("panicked"), "{ran}");
    assert!(!ran.text().contains('\u{1b}') && !ran.stderr.contains('\u{1b}'), "no colour: {ran}");
    let known = [0, 1, 2, 3, 10, 11, 12, 20, 30, 40];
    assert!(ran.code.is_some_and(|code| known.contains(&code)), "{ran}");
    if ran.code != Some(0) && ran.code != Some(3) {
        let told = ran.stderr.starts_with("error: ") || ran.stderr.contains("Usage:");
        assert!(told || ran.text().contains("\"error\""), "a failure is told: {ran}");
    }
}

#[tokio::test]
async fn mistakes_are_told_in_text_and_in_json() {
    let root = tempfile::tempdir().unwrap();
    let vault = new_vault(root.path()).await;
    let good = vault.to_str().unwrap();
    let nowhere = "127.0.0.1:1";
    let cases: [(&[&str], i32, &str); 34] = [
        (&["bakcup"], 2, "backup"),
        (&["list", good], 2, "--vault"),
        (&["restore", "latest"], 2, "restore data-dir latest"),
        (&["restore", "data-dir"], 2, "--data-dir"),
        (&["show"], 2, "<BACKUP>"),
        (&["list"], 2, "ETCDVAULT_VAULT"),
        (&["list", "--vault", ""], 2, "--vault"),
        (&["list", "--vault", "gs://bucket"], 2, "s3://"),
        (&["list", "--vault", "s3://"], 2, "bucket"),
        (&["list", "--vault", good, "--s3-region", "x"], 2, "not on S3"),
        (&["list", "--vault", "/nonexistent"], 10, "etcdvault init /nonexistent"),
        (&["list", "--vault", "/etc/passwd"], 10, "not a vault"),
        (&["list", "--vault", "/etc/passwd/x"], 10, "not a vault"),
        (&["list", "--vault", "/tmp"], 10, "not a vault"),
        (&["list", "--vault", good, "--cluster", "../x"], 2, "--cluster"),
        (&["show", "latest", "--vault", good], 2, "no backup"),
        (&["show", "../../etc", "--vault", good], 2, "latest"),
        (&["verify", "--vault", good], 2, "<BACKUP>"),
        (&["verify", "latest", "--all", "--vault", good], 2, "--all"),
        (&["export", "latest", "--vault", good], 2, "--output"),
        (&["import", "--vault", good, "/nonexistent.db"], 2, "--cluster"),
        (&["import", "--vault", good, "--cluster", "x", "/nonexistent.db"], 2, "No such file"),
        (&["import", "--vault", good, "--cluster", "x", "/tmp"], 2, "regular file"),
        (&["import", "--vault", good, "--cluster", "x", "/dev/null"], 2, "regular file"),
        (&["inspect", "/nonexistent.db"], 2, "there is no"),
        (&["inspect", "/dev/null"], 2, "neither a file"),
        (&["backup", "--vault", good, "--endpoints", ""], 2, "--endpoints"),
        (&["backup", "--vault", good, "--endpoints", "127.0.0.1:99999"], 2, "endpoint"),
        (&["backup", "--vault", good, "--endpoints", "ftp://x"], 2, "http"),
        (&["backup", "--vault", good, "--dial-timeout", "5"], 2, "5s"),
        (&["backup", "--vault", good, "--compression-level", "99"], 2, "99"),
        (&["backup", "--vault", good, "--label", "novalue"], 2, "NAME=VALUE"),
        (&["backup", "--vault", good, "--label", "a=\u{1b}[2J"], 2, "control characters"),
        (&["backup", "--vault", good, "--endpoints", nowhere], 30, "etcd running"),
    ];
    let cli = program().env("TERM", "dumb").env("NO_COLOR", "1");
    for (args, code, word) in cases {
        let ran = cli.run(args).await.unwrap();
        decent(&ran);
        assert_eq!(ran.code, Some(code), "{ran}");
        assert!(ran.stderr.contains(word), "{word:?} is not said: {ran}");
        assert_eq!(ran.text(), "", "{ran}");
        for json in
            [&["--json"][..], &["-w", "json"], &["--write-out=json"], &["--json", "--quiet"]]
        {
            let ran = cli.run(args.iter().chain(json)).await.unwrap();
            assert_eq!(ran.code, Some(code), "{ran}");
            let value = ran.json();
            assert_eq!(value["error"]["exit_code"], code, "{ran}");
            assert!(!value["error"]["what"].as_str().unwrap().is_empty(), "{ran}");
            assert_eq!(ran.stderr, "", "{ran}");
        }
        let ran = cli.run(args.iter().chain(&["--quiet"])).await.unwrap();
        assert!(ran.code == Some(code) && !ran.stderr.is_empty(), "errors stay: {ran}");
    }
    common::assert_untouched(&vault);

    // Help and version are no mistakes; no command at all is one.
    for args in [&["--help"][..], &["-h"], &["--version"], &["help", "backup"], &["backup", "-h"]] {
        let ran = cli.run(args).await.unwrap().expect(0);
        assert!(!ran.text().is_empty() && ran.stderr.is_empty(), "{ran}");
    }
    cli.run::<&str>([]).await.unwrap().expect(2);
    // Bytes that are no UTF-8, everywhere.
    let raw = OsStr::from_bytes(b"r\xff\xfew");
    for flag in ["--vault", "--cluster", "--endpoints", "--label", "--cacert"] {
        let args = [OsStr::new("backup"), OsStr::new(flag), raw];
        let ran = cli.run(args).await.unwrap();
        decent(&ran);
        assert!(matches!(ran.code, Some(2 | 12)), "{ran}");
    }
    for command in ["inspect", "show", "verify", raw.to_str().unwrap_or("import")] {
        let ran = cli.run([OsStr::new(command), raw]).await.unwrap();
        decent(&ran);
        assert_eq!(ran.code, Some(2), "{ran}");
    }
}

/// Numbers, names and flags of a restore that cannot be meant.
#[tokio::test]
async fn restores_that_cannot_be_meant() {
    let root = tempfile::tempdir().unwrap();
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    cluster.client().await.unwrap().put("a", "b", None).await.unwrap();
    let snapshot = root.path().join("snapshot");
    cluster.etcdctl(["snapshot", "save", snapshot.to_str().unwrap()]).await.unwrap();
    let path = snapshot.to_str().unwrap();
    let cli = program();
    let target = root.path().join("target");
    let target_text = target.to_str().unwrap();
    let cases: [(&[&str], i32, &str); 13] = [
        (&["--bump-revision", "-1"], 2, "--bump-revision"),
        (&["--bump-revision", "99999999999999999999"], 2, "--bump-revision"),
        (&["--bump-revision", "9223372036854775807"], 2, "cannot be raised"),
        (&["--bump-revision", "0", "--mark-compacted"], 2, "turns both off"),
        (&["--mark-compacted=false"], 2, "turns both off"),
        (&["--initial-cluster", "m1"], 2, "--initial-cluster"),
        (&["--initial-cluster", "m1=http://127.0.0.1:1"], 2, "not in the initial cluster"),
        (&["--initial-cluster", "m1=ftp://127.0.0.1:1", "--name", "m1"], 2, "http://"),
        (&["--all-members", "--initial-cluster", "../m=http://127.0.0.1:1"], 2, "directory"),
        (&["--all-members", "--name", "m1"], 2, "--name"),
        (&["--owner", "no-such-user-here"], 2, "no user"),
        (&["--etcd-version", "three"], 2, "3.6"),
        (&["--etcd-version", "3.4"], 2, "--etcd-version"),
    ];
    for (more, code, word) in cases {
        let args = ["restore", "data-dir", path, "--data-dir", target_text];
        let ran = cli.run(args.iter().chain(more)).await.unwrap();
        decent(&ran);
        assert_eq!(ran.code, Some(code), "{more:?}: {ran}");
        assert!(ran.stderr.contains(word), "{more:?}: {word:?} is not said: {ran}");
        let json = cli.run(args.iter().chain(more).chain(&["--json"])).await.unwrap().json();
        assert_eq!(json["error"]["exit_code"], code, "{more:?}");
        let there: Vec<_> = std::fs::read_dir(root.path()).unwrap().collect();
        assert_eq!(there.len(), 1, "{more:?}: {there:?}");
    }
    // A file without a slash looks like an id: said, with what to type.
    let mut command = cli.command(["restore", "data-dir", "snapshot", "--data-dir", "d"]);
    let output = command.current_dir(root.path()).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("./snapshot"), "{said}");

    // Twice, relative, with a trailing slash: the second is refused and names what is there.
    for (number, code) in [(1, 0), (2, 2)] {
        let args = ["restore", "data-dir", "./snapshot", "--data-dir", "some member/"];
        let output = cli.command(args).current_dir(root.path()).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "run {number}: {said}");
        assert!(said.contains("member"), "{said}");
    }
    // An empty directory with lost+found is a mount point, and fine.
    let mount = root.path().join("mount");
    std::fs::create_dir_all(mount.join("lost+found")).unwrap();
    let args = ["restore", "data-dir", path, "--data-dir", mount.to_str().unwrap()];
    cli.run(args).await.unwrap().expect(0);
}

/// Where vaults lie: spaces, quotes, trailing slashes, symbolic links, relative paths.
#[tokio::test]
async fn vaults_in_odd_places() {
    let root = tempfile::tempdir().unwrap();
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    cluster.client().await.unwrap().put("a", "b", None).await.unwrap();
    let cli = program().cluster(&cluster);
    let odd = root.path().join("my vault's place");
    let slashed = format!("{}//", odd.display());
    let ran = cli.run(["init", &slashed, "--no-encryption"]).await.unwrap().expect(0);
    // The next command can be pasted.
    let next = ran.text();
    let next = next.lines().find_map(|line| line.strip_prefix("next: ")).unwrap().to_owned();
    assert!(next.starts_with("etcdvault backup --vault '"), "{next}");
    let shell = next.replacen("etcdvault", env!("CARGO_BIN_EXE_etcdvault"), 1);
    let mut pasted = cli.command(["--version"]);
    let variables: Vec<_> =
        pasted.as_std().get_envs().map(|(k, v)| (k.to_owned(), v.map(OsStr::to_owned))).collect();
    pasted = tokio::process::Command::new("sh");
    pasted.arg("-c").arg(shell).env_clear();
    for (name, value) in variables {
        pasted.env(name, value.unwrap_or_default());
    }
    let output = pasted.output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let ran = cli.run(["init", &slashed, "--no-encryption"]).await.unwrap().expect(2);
    says(&ran, &["is a vault already", "nothing was changed"]);
    let link = root.path().join("link");
    std::os::unix::fs::symlink(&odd, &link).unwrap();
    let file_url = format!("file://{}", odd.display());
    for place in [odd.to_str().unwrap(), link.to_str().unwrap(), &slashed, &file_url] {
        let list = cli.run(["list", "--json", "--vault", place]).await.unwrap().expect(0).json();
        assert_eq!(list["backups"].as_array().unwrap().len(), 1, "{place}");
    }
    for (folder, place) in [(odd.as_path(), "."), (root.path(), "link/"), (root.path(), "./link")] {
        let mut command = cli.command(["list", "--vault", place]);
        let output = command.current_dir(folder).output().await.unwrap();
        assert!(output.status.success(), "{place}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // A place with something in it is no place for a vault.
    let full = root.path().join("full");
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("file"), "x").unwrap();
    let ran = cli.run([Path::new("init"), &full, Path::new("--no-encryption")]).await.unwrap();
    decent(&ran);
    assert_eq!(ran.code, Some(2), "{ran}");
    assert_eq!(std::fs::read_dir(&full).unwrap().count(), 1);

    // A proven backup is silent under --quiet, one that is not says everything.
    let cli = cli.vault(&odd);
    let ran = cli.run(["backup", "--quiet"]).await.unwrap().expect(0);
    assert_eq!((ran.text().as_str(), ran.stderr.as_str()), ("", ""), "{ran}");
    let ran = cli.run(["backup", "--quiet", "--proof", "none"]).await.unwrap().expect(3);
    assert!(ran.text().contains("not proven"), "{ran}");
    says(&ran, &["nobody was asked"]);
    let json = cli.run(["backup", "--quiet", "--json"]).await.unwrap().expect(0).json();
    assert_eq!(json["proof"]["state"], "proven");
    // An export twice: the first stays.
    let out = root.path().join("out.db");
    let export = ["export", "latest", "-o", out.to_str().unwrap()];
    cli.run(export).await.unwrap().expect(0);
    let ran = cli.run(export).await.unwrap().expect(2);
    says(&ran, &["exists", "nothing is overwritten"]);
}
