//! The real agent as a child process, spoken to over pipes.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use etcdvault::node::remote::{Deadlines, Expect, Keepalive, RemoteNode};
use etcdvault::node::*;
use futures_util::stream::{self, StreamExt};
use rustix::process::Signal;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use crate::{contract, eventually, kill, name};

fn spawn() -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etcdvault"));
    command.arg("node-agent").stdin(Stdio::piped()).stdout(Stdio::piped());
    command.kill_on_drop(true).spawn().unwrap()
}

async fn connect(child: &mut Child, deadlines: Deadlines, keepalive: Keepalive) -> RemoteNode {
    let (reader, writer) = (child.stdout.take().unwrap(), child.stdin.take().unwrap());
    let expect = Expect::Version;
    RemoteNode::over(name("child"), reader, writer, &expect, deadlines, keepalive).await.unwrap()
}

async fn usual() -> (Child, RemoteNode) {
    let mut child = spawn();
    let node = connect(&mut child, Deadlines::default(), Keepalive::default()).await;
    (child, node)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_is_as_the_contract_says() {
    let (mut child, node) = usual().await;
    let root = tempfile::tempdir().unwrap();
    contract::files(&node, root.path()).await;
    let root = tempfile::tempdir().unwrap();
    contract::trees(&node, root.path()).await;
    // A terminal's Ctrl-C is not its business; the end of its input is.
    let pid = child.id().unwrap();
    kill(pid, Signal::INT);
    kill(pid, Signal::HUP);
    node.facts().await.unwrap();
    drop(node);
    let status = tokio::time::timeout(Duration::from_secs(60), child.wait()).await.unwrap();
    assert!(status.as_ref().unwrap().success(), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn its_digest_is_that_of_its_file() {
    let (_child, node) = usual().await;
    let out = std::process::Command::new("sha256sum").arg(env!("CARGO_BIN_EXE_etcdvault")).output();
    let out = String::from_utf8(out.unwrap().stdout).unwrap();
    assert_eq!(node.identity().digest, out[..64]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_stopped_is_lost_within_the_bound_and_before_that_slow() {
    let mut child = spawn();
    let deadlines = Deadlines { quick: Duration::from_secs(1), ..Deadlines::default() };
    let keepalive = Keepalive { every: Duration::from_secs(3), within: Duration::from_secs(5) };
    let node = connect(&mut child, deadlines, keepalive).await;
    node.facts().await.unwrap();
    kill(child.id().unwrap(), Signal::STOP);
    let error = node.facts().await.unwrap_err();
    assert_eq!(error.kind, NodeErrorKind::Slow, "{error}");
    let cause = tokio::time::timeout(Duration::from_secs(60), node.ended()).await.unwrap();
    assert!(cause.why.contains("pings"), "{cause:?}");
    assert_eq!(node.facts().await.unwrap_err().kind, NodeErrorKind::Lost);
    // Woken again it finds nobody, and goes.
    kill(child.id().unwrap(), Signal::CONT);
    tokio::time::timeout(Duration::from_secs(60), child.wait()).await.unwrap().unwrap();
}

fn names(root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(root).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// A file's header and the first of its bytes, and then nothing.
fn endless() -> ByteStream {
    let head = contract::raw_member("big", b'0', "", &vec![7; 8 << 20]);
    let pieces: Vec<_> = head[..4 << 20].chunks(64 << 10).map(Bytes::copy_from_slice).collect();
    stream::iter(pieces.into_iter().map(Ok)).chain(stream::pending()).boxed()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unpacking_that_is_dropped_leaves_nothing() {
    let (mut child, node) = usual().await;
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("target");
    for ends_by in ["dropped call", "lost connection"] {
        {
            let unpack = node.unpack_tree(&target, endless());
            tokio::select! {
                result = unpack => panic!("{result:?}"),
                () = eventually("it began", || !names(root.path()).is_empty()) => {}
            }
            assert!(!target.exists());
            if ends_by == "lost connection" {
                break;
            }
        }
        eventually("it is gone", || names(root.path()).is_empty()).await;
        node.facts().await.unwrap();
    }
    drop(node);
    tokio::time::timeout(Duration::from_secs(60), child.wait()).await.unwrap().unwrap();
    assert_eq!(names(root.path()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_within_an_unpacking_leaves_nothing_at_the_target() {
    let (mut child, node) = usual().await;
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("target");
    let unpack = node.unpack_tree(&target, endless());
    tokio::pin!(unpack);
    tokio::select! {
        result = &mut unpack => panic!("{result:?}"),
        () = eventually("it began", || !names(root.path()).is_empty()) => {}
    }
    kill(child.id().unwrap(), Signal::KILL);
    child.wait().await.unwrap();
    let error = unpack.await.unwrap_err();
    assert_eq!(error.kind, NodeErrorKind::Lost, "{error}");
    assert!(!target.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn started_by_hand_it_says_what_it_is_and_ends() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_etcdvault"))
        .arg("node-agent")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).await.unwrap();
    assert!(out.starts_with("\nETCDVAULT-AGENT 4 "), "{out:?}");
    assert_eq!(out.lines().count(), 2, "{out:?}");
    assert_eq!(child.wait().await.unwrap().code(), Some(1));
}
