//! `restore data-dir` and its neighbours through the program: flags, owners, what a
//! second run meets, exit codes.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use common::{new_vault, program};
use harness::cli::Cli;
use harness::etcd::Cluster;
use harness::fill::Fill;

#[path = "common/program.rs"]
mod common;

/// A cluster that was filled and backed up, and the program with both.
async fn backed_up(root: &Path) -> (Cluster, Cli) {
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    Fill::new(3, 100).run(&cluster.client().await.unwrap()).await.unwrap();
    let vault = new_vault(root).await;
    let cli = program().vault(&vault).cluster(&cluster);
    cli.run(["backup"]).await.unwrap().expect(0);
    (cluster, cli)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn flags_mean_what_they_say() {
    let root = tempfile::tempdir().unwrap();
    let (mut cluster, cli) = backed_up(root.path()).await;

    let (data, wal) = (root.path().join("etcd"), root.path().join("disk/wal"));
    std::fs::create_dir(root.path().join("disk")).unwrap();
    let restore = ["restore", "data-dir", "latest", "--data-dir", text(&data)];
    let more = ["--wal-dir", text(&wal), "--owner", "4711:4712", "--mode", "0750"];
    let ran = cli.run(restore.iter().chain(&more)).await.unwrap().expect(0);
    assert!(ran.text().contains("disk/wal"), "{ran}");
    let mut seen = 0;
    for top in [&data, &wal] {
        let mut folders = vec![top.clone()];
        while let Some(path) = folders.pop() {
            let about = std::fs::symlink_metadata(&path).unwrap();
            assert_eq!((about.uid(), about.gid()), (4711, 4712), "{}", path.display());
            let mode = about.permissions().mode() & 0o7777;
            assert_eq!(mode, if about.is_dir() { 0o750 } else { 0o640 }, "{}", path.display());
            seen += 1;
            if about.is_dir() {
                folders.extend(std::fs::read_dir(&path).unwrap().map(|one| one.unwrap().path()));
            }
        }
    }
    assert!(data.join("member/snap/db").is_file() && !data.join("member/wal").exists());
    assert!(seen > 6, "{seen} files and directories");

    // A database copied from a stopped member ends without a digest.
    cluster.stop().await.unwrap();
    let copied = root.path().join("copied.db");
    std::fs::copy(cluster.members()[0].database(), &copied).unwrap();
    let target = root.path().join("from-a-copy");
    let restore = ["restore", "data-dir", text(&copied), "--data-dir", text(&target)];
    let ran = cli.run(restore).await.unwrap().expect(20);
    assert!(ran.stderr.contains("--skip-hash-check"), "{ran}");
    assert!(!target.exists());
    let ran = cli.run(restore.iter().chain(&["--skip-hash-check", "--json"])).await.unwrap();
    assert!(ran.expect(0).json()["keys"].as_u64().unwrap() > 50);
    assert!(target.join("member/snap/db").is_file());
}

#[tokio::test]
async fn a_token_is_never_the_same_twice() {
    let root = tempfile::tempdir().unwrap();
    let (_cluster, cli) = backed_up(root.path()).await;
    let mut tokens = Vec::new();
    for name in ["one", "two"] {
        let target = root.path().join(name);
        let restore = ["restore", "data-dir", "latest", "--json", "--data-dir", text(&target)];
        let report = cli.run(restore).await.unwrap().expect(0).json();
        tokens.push((report["cluster_token"].clone(), report["cluster_id"].clone()));
    }
    assert!(tokens[0].0.as_str().is_some_and(|token| token.len() > 20), "{tokens:?}");
    assert_ne!(tokens[0].0, tokens[1].0);
    assert_ne!(tokens[0].1, tokens[1].1, "so no member of one joins the other");
}

#[tokio::test]
async fn a_restore_into_a_directory_that_another_one_builds_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let (_cluster, cli) = backed_up(root.path()).await;
    let exported = root.path().join("snapshot.db");
    cli.run(["export", "latest", "-o", text(&exported)]).await.unwrap().expect(0);
    // A mount point, as etcd's directory often is: what is built is built inside.
    let target = root.path().join("etcd");
    std::fs::create_dir(&target).unwrap();

    // The first one waits for the rest of its snapshot.
    let stream = ["restore", "data-dir", "-", "--data-dir", text(&target)];
    let mut first = cli.command(stream);
    let mut first =
        first.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let bytes = std::fs::read(&exported).unwrap();
    let mut pipe = first.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut pipe, &bytes[..bytes.len() / 2]).await.unwrap();
    for _ in 0..600 {
        if std::fs::read_dir(&target).unwrap().next().is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    let again = ["restore", "data-dir", "latest", "--data-dir", text(&target)];
    let ran = cli.run(again).await.unwrap().expect(11);
    assert!(ran.stderr.contains("nothing was left behind"), "{ran}");
    assert!(!target.join("member").exists());

    // The first one is not disturbed.
    tokio::io::AsyncWriteExt::write_all(&mut pipe, &bytes[bytes.len() / 2..]).await.unwrap();
    drop(pipe);
    let ended = tokio::time::timeout(Duration::from_secs(120), first.wait()).await.unwrap();
    assert!(ended.unwrap().success());
    assert!(target.join("member/snap/db").is_file());
}

#[tokio::test]
async fn a_snapshot_goes_through_a_pipe() {
    let root = tempfile::tempdir().unwrap();
    let (_cluster, cli) = backed_up(root.path()).await;
    let exported = root.path().join("snapshot.db");
    cli.run(["export", "latest", "-o", text(&exported)]).await.unwrap().expect(0);
    let ran = cli.run(["export", "latest", "-o", "-"]).await.unwrap().expect(0);
    assert!(ran.stdout == std::fs::read(&exported).unwrap(), "{} bytes", ran.stdout.len());
}

#[tokio::test]
async fn a_place_that_is_no_vault_says_so_to_every_command() {
    let root = tempfile::tempdir().unwrap();
    let place = root.path().join("nothing");
    let cli = program().vault(&place);
    let file = root.path().join("snapshot.db");
    std::fs::write(&file, "not read").unwrap();
    let out = root.path().join("out");
    for command in [
        vec!["export", "latest", "-o", text(&out)],
        vec!["import", text(&file), "--cluster", "c"],
        vec!["inspect", "latest"],
        vec!["restore", "data-dir", "latest", "--data-dir", text(&out)],
    ] {
        let ran = cli.run(&command).await.unwrap().expect(10);
        assert!(ran.stderr.contains("is not a vault"), "{ran}");
        assert!(!place.exists() && !out.exists(), "{command:?} made something");
    }
}
