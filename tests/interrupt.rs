//! Ctrl-C, SIGTERM and `kill -9` in the middle of things, through the program itself:
//! the exit code is that of the signal, nothing half-made is listed, no temporary file
//! and no multipart upload stays, and the next run works.

#[path = "common/program.rs"]
mod common;

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use harness::cli::Cli;
use harness::etcd::Cluster;
use harness::proxy::{Mode, Proxy};
use harness::s3::{Access, Fault, FaultyS3, Op};
use rustix::process::{Pid, Signal};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Child;

use common::{assert_untouched, files, fill, listed, new_vault, program};

/// How long the program may take to stop, a request to the store included: less than
/// any timeout that would end it anyway.
const PROMPT: Duration = Duration::from_secs(25);

fn start(cli: &Cli, args: &[&str]) -> Child {
    let mut command = cli.command(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Sends the signal and waits for the end.
async fn stop(child: Child, signal: Signal) -> (Output, String) {
    let pid = Pid::from_raw(child.id().unwrap() as i32).unwrap();
    let begun = Instant::now();
    rustix::process::kill_process(pid, signal).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(90), child.wait_with_output()).await;
    let output = ended.expect("it ends").unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(begun.elapsed() < PROMPT, "it took {:?}: {said}", begun.elapsed());
    (output, said)
}

/// Waits for something to become true, at most two minutes.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..12_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come");
}

/// Signals in the middle of a stream into a directory, and then `kill -9`.
#[tokio::test]
async fn a_backup_to_a_directory() {
    let root = tempfile::tempdir().unwrap();
    let vault = new_vault(root.path()).await;
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    fill(&cluster, 10).await;
    let proxy = Proxy::start(&cluster.endpoints()[0]).await.unwrap();
    let cli = program().vault(&vault).env("ETCDCTL_ENDPOINTS", proxy.address());
    let backup = ["backup", "--local-only"];
    for (signal, code, name) in [(Signal::INT, 130, "Ctrl-C"), (Signal::TERM, 143, "SIGTERM")] {
        proxy.set(Mode::StallAfter(4 << 20));
        let child = start(&cli, &backup);
        proxy.wait_passed(4 << 20).await.unwrap();
        let (output, said) = stop(child, signal).await;
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(&format!("stopped by {name}")), "{said}");
        assert!(said.contains("was not stored") && said.contains("is unchanged"), "{said}");
        assert_untouched(&vault);
    }
    // With --json the end is told on stdout, as one object.
    proxy.set(Mode::StallAfter(4 << 20));
    let child = start(&cli, &["backup", "--local-only", "--json"]);
    proxy.wait_passed(4 << 20).await.unwrap();
    let (output, said) = stop(child, Signal::TERM).await;
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["error"]["exit_code"], 143, "{told}");
    assert_eq!(said, "");

    // Killed, it leaves its temporary file, which the next backup clears away.
    proxy.set(Mode::StallAfter(4 << 20));
    let mut child = start(&cli, &backup);
    until("a temporary file", || files(&vault).len() > 2).await;
    child.kill().await.unwrap();
    let hidden = |file: &PathBuf| file.file_name().unwrap().to_string_lossy().starts_with('.');
    assert!(files(&vault).iter().any(hidden), "{:?}", files(&vault));
    assert_eq!(listed(&cli).await, 0);
    proxy.set(Mode::Pass);
    cli.run(backup).await.unwrap().expect(0);
    assert!(!files(&vault).iter().any(hidden), "{:?}", files(&vault));
    assert_eq!(listed(&cli).await, 1);
    cli.run(["verify", "--all"]).await.unwrap().expect(0);
}

const BUCKET: &str = "vaults";

fn on_s3(access: &Access) -> Cli {
    program()
        .vault(format!("s3://{BUCKET}/vault"))
        .env("ETCDVAULT_S3_ENDPOINT_URL", &access.url)
        .env("ETCDVAULT_S3_PART_SIZE", "5")
        .env("AWS_ACCESS_KEY_ID", &access.access_key)
        .env("AWS_SECRET_ACCESS_KEY", &access.secret_key)
        .env("AWS_EC2_METADATA_DISABLED", "true")
}

/// Signals while parts fly, while a part hangs, and while the store puts the parts
/// together and never answers: no upload stays open.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_to_s3() {
    let server = FaultyS3::start().await.unwrap();
    server.access().client().create_bucket().bucket(BUCKET).send().await.unwrap();
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    fill(&cluster, 14).await;
    let proxy = Proxy::start(&cluster.endpoints()[0]).await.unwrap();
    let cli = on_s3(server.access()).env("ETCDCTL_ENDPOINTS", proxy.address());
    cli.run(["init", "--no-encryption"]).await.unwrap().expect(0);
    let backup = ["backup", "--local-only"];

    server.forget();
    proxy.set(Mode::StallAfter(12 << 20));
    let child = start(&cli, &backup);
    until("a part", || server.count(Op::Part) > 0).await;
    assert_eq!(server.uploads(), 1);
    let (output, said) = stop(child, Signal::TERM).await;
    assert_eq!(output.status.code(), Some(143), "{said}");
    assert_eq!(server.uploads(), 0, "{said}");

    proxy.set(Mode::Pass);
    for op in [Op::Part, Op::Complete] {
        server.forget();
        server.fault(op, Fault::Stall, 1000);
        let child = start(&cli, &backup);
        until("the request that hangs", || server.count(op) > 0).await;
        let (output, said) = stop(child, Signal::INT).await;
        assert_eq!(output.status.code(), Some(130), "{op:?}: {said}");
        assert_eq!(server.uploads(), 0, "{op:?}: {said}");
    }
    // An import is called off by destructors alone.
    let root = tempfile::tempdir().unwrap();
    let snapshot = root.path().join("snapshot.db");
    let snapshot = snapshot.to_str().unwrap();
    cluster.etcdctl(["snapshot", "save", snapshot]).await.unwrap();
    for op in [Op::Part, Op::Complete] {
        server.forget();
        server.fault(op, Fault::Stall, 1000);
        let child = start(&cli, &["import", "--cluster", "x", snapshot]);
        until("the request that hangs", || server.count(op) > 0).await;
        let (output, said) = stop(child, Signal::TERM).await;
        assert_eq!(output.status.code(), Some(143), "{op:?}: {said}");
        assert_eq!(server.uploads(), 0, "{op:?}: {said}");
    }
    server.forget();
    assert_eq!(listed(&cli).await, 0);
    cli.run(backup).await.unwrap().expect(0);

    // Reading: a restore and an export whose source goes silent.
    for args in [
        ["restore", "data-dir", "latest", "--data-dir"].as_slice(),
        ["export", "latest", "-o"].as_slice(),
    ] {
        server.forget();
        server.fault(Op::Get, Fault::StallBody(6 << 20), 1000);
        let target = root.path().join("target");
        let child = start(&cli, &[args, &[target.to_str().unwrap()]].concat());
        until("something beside the target", || names(root.path()).len() > 1).await;
        let (output, said) = stop(child, Signal::INT).await;
        assert_eq!(output.status.code(), Some(130), "{said}");
        assert_eq!(names(root.path()), ["snapshot.db"], "{said}");
    }
}

/// The snapshot is stored and a member does not answer to HashKV: no manifest will name
/// the object, so it goes too.
#[tokio::test(flavor = "multi_thread")]
async fn while_a_member_is_asked_for_its_hash() {
    let root = tempfile::tempdir().unwrap();
    let vault = new_vault(root.path()).await;
    let server = FaultyS3::start().await.unwrap();
    server.access().client().create_bucket().bucket(BUCKET).send().await.unwrap();
    let cluster = Cluster::builder("3.6").members(2).start().await.unwrap();
    fill(&cluster, 10).await;
    let source = Proxy::start(&cluster.endpoints()[0]).await.unwrap();
    let silent = Proxy::start(&cluster.endpoints()[1]).await.unwrap();
    let endpoints = format!("{},{}", source.address(), silent.address());
    let backup = ["backup", "--local-only", "--endpoint-strategy", "first"];
    // Named before it is whole, it starts with a dot; in a directory there are no uploads.
    let in_directory = || {
        let stored = |file: &PathBuf| {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            file.to_string_lossy().contains("/objects/") && !name.starts_with('.')
        };
        files(&vault).iter().any(stored)
    };
    let directory = program().vault(&vault);
    let s3 = on_s3(server.access());
    s3.run(["init", "--no-encryption"]).await.unwrap().expect(0);
    let in_bucket = || server.keys(BUCKET).iter().any(|key| key.contains("/objects/"));
    let before = server.keys(BUCKET);
    let cases: [(&Cli, &dyn Fn() -> bool); 2] = [(&directory, &in_directory), (&s3, &in_bucket)];
    for (cli, stored) in cases {
        let cli = cli.clone().env("ETCDCTL_ENDPOINTS", &endpoints);
        silent.set(Mode::Pass);
        source.set(Mode::StallAfter(4 << 20));
        let child = start(&cli, &backup);
        source.wait_passed(4 << 20).await.unwrap();
        // Both have said how they are; from here on one says nothing more.
        silent.set(Mode::StallAfter(0));
        source.set(Mode::Pass);
        until("the object", stored).await;
        let (output, said) = stop(child, Signal::TERM).await;
        assert_eq!(output.status.code(), Some(143), "{said}");
        assert!(said.contains("was not stored") && said.contains("is unchanged"), "{said}");
        assert_eq!(listed(&cli).await, 0);
    }
    assert_untouched(&vault);
    assert_eq!((server.keys(BUCKET), server.uploads()), (before, 0));
    // The next one works.
    silent.set(Mode::Pass);
    let cli = directory.env("ETCDCTL_ENDPOINTS", &endpoints);
    cli.run(backup).await.unwrap().expect(0);
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A restore that reads a pipe which says no more: signals leave nothing; what
/// `kill -9` leaves, the next run clears away.
#[tokio::test]
async fn a_restore_from_a_pipe() {
    let root = tempfile::tempdir().unwrap();
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    fill(&cluster, 4).await;
    let snapshots = tempfile::tempdir().unwrap();
    let snapshot = snapshots.path().join("snapshot.db");
    let snapshot_text = snapshot.to_str().unwrap();
    cluster.etcdctl(["snapshot", "save", snapshot_text]).await.unwrap();
    let bytes = std::fs::read(&snapshot).unwrap();
    let target = root.path().join("member");
    let args = ["restore", "data-dir", "-", "--data-dir", target.to_str().unwrap()];
    let cli = program();
    let begin = || {
        let mut command = cli.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut child = begin();
        let mut pipe = child.stdin.take().unwrap();
        pipe.write_all(&bytes[..bytes.len() / 2]).await.unwrap();
        until("the directory in work", || !names(root.path()).is_empty()).await;
        let (output, said) = stop(child, signal).await;
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains("was not restored") && said.contains("nothing was left"), "{said}");
        assert!(names(root.path()).is_empty(), "{:?}", names(root.path()));
    }
    let mut child = begin();
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(&bytes[..bytes.len() / 2]).await.unwrap();
    until("the directory in work", || !names(root.path()).is_empty()).await;
    child.kill().await.unwrap();
    let left = names(root.path());
    assert!(!left.is_empty() && !target.exists(), "{left:?}");
    cli.run_with(args, Some(&snapshot)).await.unwrap().expect(0);
    assert_eq!(names(root.path()), ["member"]);
    let inspect = ["inspect", target.to_str().unwrap(), "--json"];
    assert_eq!(cli.run(inspect).await.unwrap().expect(0).json()["sound"], true);
}

/// Before anything has begun: a member that never answers, and a command that is
/// asked for a passphrase and never gives it.
#[tokio::test]
async fn waiting_for_the_first_word() {
    let root = tempfile::tempdir().unwrap();
    let vault = new_vault(root.path()).await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let cli = program()
        .vault(&vault)
        .env("ETCDCTL_ENDPOINTS", silent.local_addr().unwrap().to_string())
        .env("ETCDCTL_DIAL_TIMEOUT", "60s");
    for command in ["backup", "status"] {
        let child = start(&cli, &[command]);
        let listener = silent.try_clone().unwrap();
        let accepted = tokio::task::spawn_blocking(move || listener.accept()).await.unwrap();
        let (output, said) = stop(child, Signal::INT).await;
        assert_eq!(output.status.code(), Some(130), "{said}");
        assert!(said.contains("stopped by Ctrl-C"), "{said}");
        drop(accepted.unwrap());
    }
    let mark = root.path().join("asked");
    let command = format!("touch {}; exec sleep 30", mark.display());
    for args in [vec!["backup"], vec!["verify", "--all"]] {
        let _ = std::fs::remove_file(&mark);
        let args = [&args[..], &["--passphrase-command", &command]].concat();
        let child = start(&cli, &args);
        until("the command", || mark.exists()).await;
        let (output, said) = stop(child, Signal::TERM).await;
        assert_eq!(output.status.code(), Some(143), "{said}");
    }
    assert_untouched(&vault);
}
