//! The protocol over streams in memory, with a node that does what it is told.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use etcdvault::node::agent::{self, AgentError};
use etcdvault::node::remote::preamble::Identity;
use etcdvault::node::remote::wire::PROTOCOL;
use etcdvault::node::remote::{Deadlines, Expect, Keepalive, RemoteNode};
use etcdvault::node::*;
use futures_util::stream::{self, StreamExt};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

use crate::scripted::{BLOCK, Scripted, Seen, entry, pattern};
use crate::{eventually, name};

const DIGEST: &str = "00000000000000000000000000000000000000000000000000000000000000aa";

fn short(bound: u64) -> Deadlines {
    let bound = Duration::from_millis(bound);
    Deadlines { quick: bound, idle: bound, bulk: bound, ..Deadlines::default() }
}

/// A node and its agent, connected by pipes of 64 KiB.
struct Pair {
    remote: RemoteNode,
    seen: Arc<Seen>,
    agent: JoinHandle<Result<(), AgentError>>,
}

async fn pair(deadlines: Deadlines, keepalive: Keepalive) -> Pair {
    let seen = Arc::new(Seen::default());
    let (near, far) = tokio::io::duplex(64 << 10);
    let agent = start_agent(far, &seen, Keepalive::default());
    let (reader, writer) = tokio::io::split(near);
    let expect = Expect::Digest(DIGEST.to_owned());
    let remote =
        RemoteNode::over(name("near"), reader, writer, &expect, deadlines, keepalive).await;
    Pair { remote: remote.unwrap(), seen, agent }
}

fn start_agent(
    far: DuplexStream,
    seen: &Arc<Seen>,
    keepalive: Keepalive,
) -> JoinHandle<Result<(), AgentError>> {
    let node = Scripted::new(seen);
    let (reader, writer) = tokio::io::split(far);
    tokio::spawn(async move {
        agent::serve(reader, writer, node, &Identity::own(DIGEST), keepalive).await
    })
}

/// With bounds that no machine is too slow for: what they do has tests of its own.
async fn usual() -> Pair {
    let long = Duration::from_secs(600);
    let deadlines = Deadlines { quick: long, ..Deadlines::default() };
    pair(deadlines, Keepalive { every: Duration::from_secs(60), within: long }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_every_call_come_over_as_they_are() {
    let Pair { remote, .. } = usual().await;
    let facts = remote.facts().await.unwrap();
    assert_eq!(facts.hostname, "far [2Jaway", "control characters are not given on");
    assert_eq!(facts.now, i128::from(i64::MAX) * 3);
    let odd = Path::new("/dir with \"quotes\"/ü\n");
    assert_eq!(remote.stat(odd).await.unwrap(), Some(entry(odd, 3)));
    assert_eq!(remote.stat(Path::new("/none")).await.unwrap(), None);
    let list = remote.list(Path::new("/dir")).await.unwrap();
    assert_eq!(list.len(), 1000);
    assert_eq!(list[999], entry(Path::new("/dir/0999"), 999));
    let digest = remote.digest(Path::new("/")).await.unwrap();
    assert_eq!((digest.sha256, digest.entries), ([5; 32], u64::MAX));
    assert_eq!(remote.space(Path::new("/")).await.unwrap().total, u64::MAX);
    assert_eq!(remote.units("*").await.unwrap(), ["etcd.service"]);
    assert_eq!(remote.processes(ProcessQuery::Pid(1)).await.unwrap(), []);
    assert_eq!(remote.listeners().await.unwrap()[0].address.port(), 2379);
    let reached = remote.reach(vec!["a:1".to_owned()], Duration::from_secs(1)).await.unwrap();
    assert_eq!(reached[0].address, "a:1");
    let (address, path) = ("a:1".to_owned(), "/readyz".to_owned());
    let query = HealthQuery { address, path, tls: true, client: None };
    let answer = remote.health(query, Duration::from_secs(1)).await.unwrap();
    assert_eq!(answer, HealthAnswer::Answered { status: 200, text: "/readyz ".to_owned() });

    let content: Vec<u8> = (0..20).flat_map(|block| pattern(block, true)).collect();
    let how = WriteHow { like: WriteLike::Itself, replaces: Some([9; 32]) };
    let path = Path::new("/file");
    remote.write(path, &content, how.clone()).await.unwrap();
    let read = remote.read(path, content.len() as u64).await.unwrap();
    assert!(read.bytes == content);
    remote.write(path, &[], how).await.unwrap();
    assert_eq!(remote.read(path, 0).await.unwrap().bytes, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_keep_their_kind_and_get_our_name_of_the_node() {
    let Pair { remote, .. } = usual().await;
    let path = Path::new("/denied");
    let error = remote.stat(path).await.unwrap_err();
    assert_eq!(error.kind, NodeErrorKind::Permission);
    assert_eq!(error.to_string(), "near: stat /denied: scripted");
    assert_eq!(
        (error.details, error.hint.as_deref()),
        (vec!["one".to_owned(), "two ".to_owned()], Some("ask root"))
    );
    let like = || WriteLike::Itself;
    let kinds = [
        remote.rename(path, path).await.unwrap_err().kind,
        remote.make_dir(path, like()).await.unwrap_err().kind,
        remote.remove_own(path, [0; 32]).await.unwrap_err().kind,
        remote.read(path, 10).await.unwrap_err().kind,
        remote
            .unit_do("etcd.service", UnitAction::Start, Duration::from_millis(1234))
            .await
            .unwrap_err()
            .kind,
    ];
    use NodeErrorKind::{Failed, NoSpace, NotFound, ReadOnly, Unexpected};
    assert_eq!(kinds, [ReadOnly, NoSpace, Unexpected, NotFound, Failed]);
    // Other calls do not suffer from one that panics.
    remote.stat(Path::new("/panic")).await.unwrap_err();
    remote.facts().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_are_refused() {
    let Pair { remote, .. } = usual().await;
    let errors = [
        remote.stat(Path::new("/liar")).await.unwrap_err(),
        remote.list(Path::new("/escape")).await.unwrap_err(),
        remote.list(Path::new("/huge")).await.unwrap_err(),
        remote.units("evil").await.unwrap_err(),
        remote.read(Path::new("/too-much"), 300_000).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind, NodeErrorKind::Unexpected, "{error}");
    }
    remote.facts().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_run_at_once_beside_streams_that_nobody_reads() {
    let Pair { remote, seen, .. } = usual().await;
    let spec = |text: &str| TreeSpec { roots: vec![text.into()], ..TreeSpec::default() };
    // Two streams fill their windows and wait; they must not hold up the calls.
    let _idle = remote.save_tree(spec("/1000/noise")).await.unwrap();
    let hang = remote.stat(Path::new("/hang"));
    tokio::pin!(hang);
    let calls = futures_util::future::join_all((0..200).map(|_| remote.facts()));
    tokio::select! {
        facts = calls => for facts in facts {
            facts.unwrap();
        },
        _ = &mut hang => panic!("it hangs"),
    }
    assert!(seen.given.load(Ordering::SeqCst) < 20 << 20, "back-pressure");
}

async fn gibibyte(noisy: bool, bytes: u64) {
    let Pair { remote, seen, .. } = usual().await;
    let blocks = bytes / BLOCK as u64;
    let spec = format!("/{blocks}/{}", if noisy { "noise" } else { "plain" });
    let spec = TreeSpec { roots: vec![spec.into()], ..TreeSpec::default() };
    let stream = remote.save_tree(spec).await.unwrap();
    // Straight back: one stream from the node and one to it.
    let taken = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let (counted, given) = (taken.clone(), seen.clone());
    let far = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let most = far.clone();
    let stream = stream.inspect(move |piece| {
        let taken = counted.fetch_add(piece.as_ref().unwrap().len() as u64, Ordering::SeqCst);
        let ahead = given.given.load(Ordering::SeqCst).saturating_sub(taken);
        most.fetch_max(ahead, Ordering::SeqCst);
        let behind = taken.saturating_sub(given.taken.load(Ordering::SeqCst));
        most.fetch_max(behind, Ordering::SeqCst);
    });
    let digest = remote.unpack_tree(Path::new("/count"), stream.boxed()).await.unwrap();
    let mut hash = Sha256::new();
    (0..blocks).for_each(|block| hash.update(pattern(block, noisy)));
    assert_eq!(digest.bytes, bytes);
    assert_eq!(digest.sha256, <[u8; 32]>::from(hash.finalize()));
    // Windows, send buffers and the pieces at work, on both sides.
    let bound = if noisy { 24 << 20 } else { u64::MAX };
    let far = far.load(Ordering::SeqCst);
    assert!(far < bound, "{far} bytes between the ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gigabyte_both_ways_takes_no_more_than_the_windows() {
    gibibyte(true, 1 << 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_compresses_is_the_same_on_the_other_side() {
    gibibyte(false, 64 << 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_here_ends_there() {
    let Pair { remote, seen, agent } = usual().await;
    // A call.
    let call = tokio::time::timeout(Duration::from_secs(1), remote.stat(Path::new("/hang")));
    call.await.unwrap_err();
    eventually("the call ends", || seen.hanging.load(Ordering::SeqCst) == 0).await;
    // A stream from the node.
    let spec = TreeSpec { roots: vec!["/100000/noise".into()], ..TreeSpec::default() };
    let mut stream = remote.save_tree(spec).await.unwrap();
    stream.next().await.unwrap().unwrap();
    assert_eq!(seen.streams.load(Ordering::SeqCst), 1);
    drop(stream);
    eventually("the stream ends", || seen.streams.load(Ordering::SeqCst) == 0).await;
    // A stream to the node: never a whole one.
    let source = stream::iter((0..100).map(|n| Ok(pattern(n, true)))).chain(stream::pending());
    let unpack = remote.unpack_tree(Path::new("/count"), source.boxed());
    tokio::select! {
        result = unpack => panic!("{result:?}"),
        () = eventually("bytes arrive", || seen.taken.load(Ordering::SeqCst) > 0) => {}
    }
    // The node.
    drop(remote);
    agent.await.unwrap().unwrap();
    assert!(!seen.unpacked.lock().unwrap().iter().any(Result::is_ok));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_is_the_error_and_no_end_of_the_stream() {
    let Pair { remote, seen, .. } = usual().await;
    let failure =
        NodeError::new(&name("vault"), NodeErrorKind::Other, "read the object", "corrupt");
    let source = stream::iter([Ok(Bytes::from(vec![1; 1 << 20])), Err(failure)]);
    let error = remote.unpack_tree(Path::new("/count"), source.boxed()).await.unwrap_err();
    assert_eq!(error.to_string(), "vault: read the object: corrupt");
    assert!(matches!(seen.unpacked.lock().unwrap()[..], [Err(_)]));

    let spec = TreeSpec { roots: vec!["/3/fails".into()], ..TreeSpec::default() };
    let pieces: Vec<_> = remote.save_tree(spec).await.unwrap().collect().await;
    assert_eq!(pieces.last().unwrap().as_ref().unwrap_err().act, "save");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_refuses_a_stream_is_heard_while_it_is_sent() {
    let Pair { remote, .. } = usual().await;
    for (root, kind) in
        [("/refuse", NodeErrorKind::AlreadyExists), ("/half", NodeErrorKind::NoSpace)]
    {
        for _ in 0..5 {
            let source = stream::iter((0..2000).map(|n| Ok(pattern(n, true))));
            let error = remote.unpack_tree(Path::new(root), source.boxed()).await.unwrap_err();
            assert_eq!(error.kind, kind, "{root}: {error}");
        }
    }
    remote.facts().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_an_answer_is_slow_while_the_connection_lives() {
    let Pair { remote, seen, .. } = pair(short(500), Keepalive::default()).await;
    let error = remote.stat(Path::new("/hang")).await.unwrap_err();
    assert_eq!(error.kind, NodeErrorKind::Slow, "{error}");
    eventually("the call ends", || seen.hanging.load(Ordering::SeqCst) == 0).await;
    let spec = TreeSpec { roots: vec!["/2/stuck".into()], ..TreeSpec::default() };
    let pieces: Vec<_> = remote.save_tree(spec).await.unwrap().collect().await;
    assert_eq!(pieces.last().unwrap().as_ref().unwrap_err().kind, NodeErrorKind::Slow);
    let source = stream::iter((0..2000).map(|n| Ok(pattern(n, true))));
    let error = remote.unpack_tree(Path::new("/never"), source.boxed()).await.unwrap_err();
    assert_eq!(error.kind, NodeErrorKind::Slow, "{error}");
    remote.facts().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_falls_silent_is_lost_within_the_bound() {
    let keepalive =
        Keepalive { every: Duration::from_millis(300), within: Duration::from_millis(700) };
    // Between the two stands a relay that stops.
    let seen = Arc::new(Seen::default());
    let (near, relay_near) = tokio::io::duplex(64 << 10);
    let (far, relay_far) = tokio::io::duplex(64 << 10);
    let agent = start_agent(far, &seen, keepalive);
    let stop = Arc::new(tokio::sync::Notify::new());
    let stopped = stop.clone();
    let relay = tokio::spawn(async move {
        let (mut a, mut b) = (relay_near, relay_far);
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut a, &mut b) => {}
            () = stopped.notified() => {}
        }
        (a, b)
    });
    let (reader, writer) = tokio::io::split(near);
    let remote = RemoteNode::over(
        name("near"),
        reader,
        writer,
        &Expect::Version,
        Deadlines::default(),
        keepalive,
    );
    let remote = remote.await.unwrap();
    // Pings are answered while nothing is asked.
    tokio::time::sleep(Duration::from_secs(3)).await;
    remote.facts().await.unwrap();
    let hang = remote.stat(Path::new("/hang"));
    tokio::pin!(hang);
    tokio::select! {
        result = &mut hang => panic!("{result:?}"),
        () = eventually("it hangs", || seen.hanging.load(Ordering::SeqCst) == 1) => {}
    }
    stop.notify_one();
    // Kept, so that neither side sees an end.
    let frozen = relay.await.unwrap();
    let error = tokio::time::timeout(Duration::from_secs(60), hang).await.unwrap().unwrap_err();
    assert_eq!(error.kind, NodeErrorKind::Lost, "{error}");
    let error = remote.facts().await.unwrap_err();
    assert_eq!(error.kind, NodeErrorKind::Lost, "{error}");
    // The agent notices too, and drops what it does.
    let ended = tokio::time::timeout(Duration::from_secs(60), agent).await.unwrap().unwrap();
    assert!(ended.is_err(), "{ended:?}");
    assert_eq!(seen.hanging.load(Ordering::SeqCst), 0);
    drop(frozen);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_ends_makes_every_call_fail_as_lost() {
    let Pair { remote, seen, agent } = usual().await;
    let hang = remote.stat(Path::new("/hang"));
    tokio::pin!(hang);
    tokio::select! {
        result = &mut hang => panic!("{result:?}"),
        () = eventually("it hangs", || seen.hanging.load(Ordering::SeqCst) == 1) => {}
    }
    let spec = TreeSpec { roots: vec!["/1000/stuck".into()], ..TreeSpec::default() };
    let mut stream = remote.save_tree(spec).await.unwrap();
    stream.next().await.unwrap().unwrap();
    agent.abort();
    let error = hang.await.unwrap_err();
    assert_eq!(error.kind, NodeErrorKind::Lost, "{error}");
    let last = loop {
        match stream.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("a cut stream ended as if it were whole"),
        }
    };
    assert_eq!(last.kind, NodeErrorKind::Lost, "{last}");
    assert!(stream.next().await.is_none());
    assert_eq!(remote.facts().await.unwrap_err().kind, NodeErrorKind::Lost);
    assert_eq!(remote.ended().await.kind, NodeErrorKind::Lost);
}

/// Connects to a peer that sends `bytes` and then reads on.
async fn connect_to(bytes: Vec<u8>, expect: Expect) -> Result<RemoteNode, NodeError> {
    let (near, far) = tokio::io::duplex(64 << 10);
    let (mut far_reader, mut far_writer) = tokio::io::split(far);
    tokio::spawn(async move {
        let _ = far_writer.write_all(&bytes).await;
        let mut sink = vec![0; 4096];
        while far_reader.read(&mut sink).await.is_ok_and(|count| count > 0) {}
    });
    let (reader, writer) = tokio::io::split(near);
    let deadlines = Deadlines {
        connect: Duration::from_secs(2),
        quick: Duration::from_secs(2),
        ..Deadlines::default()
    };
    RemoteNode::over(name("near"), reader, writer, &expect, deadlines, Keepalive::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_or_file_is_refused_with_the_remedy() {
    let line = |protocol: u32, version: &str| {
        let version = version.to_owned();
        Identity { protocol, version, digest: DIGEST.to_owned() }.line().into_bytes()
    };
    let own = env!("CARGO_PKG_VERSION");
    let cases = [
        (line(99, own), Expect::Version, "speaks protocol 99"),
        (line(PROTOCOL, "99.0.0"), Expect::Version, "the agent is etcdvault 99.0.0, this is"),
        (line(PROTOCOL, own), Expect::Digest("b".repeat(64)), "has the digest"),
        (b"ETCDVAULT-WANTED x86_64\n".to_vec(), Expect::Version, "asks for a program"),
    ];
    for (bytes, expect, why) in cases {
        let error = connect_to(bytes, expect).await.unwrap_err();
        assert_eq!(error.kind, NodeErrorKind::Unsupported, "{error}");
        assert!(error.why.contains(why), "{error}");
        assert!(error.hint.as_deref().unwrap().contains(own), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_talks_garbage_is_an_error_within_the_bound() {
    // Nothing; too much; and a good greeting with nonsense behind it.
    let error = connect_to(Vec::new(), Expect::Version).await.unwrap_err();
    assert_eq!(error.kind, NodeErrorKind::Lost, "{error}");
    let error = connect_to(vec![b'x'; 1 << 20], Expect::Version).await.unwrap_err();
    assert_eq!(error.kind, NodeErrorKind::Unexpected, "{error}");
    for seed in 0..20 {
        let mut bytes = Identity::own(DIGEST).line().into_bytes();
        bytes.extend_from_slice(&pattern(seed, true));
        let result = connect_to(bytes, Expect::Version).await;
        let error = match result {
            Ok(remote) => remote.facts().await.unwrap_err(),
            Err(error) => error,
        };
        assert!(matches!(error.kind, NodeErrorKind::Lost | NodeErrorKind::Slow), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banner_before_the_greeting_is_skipped() {
    let seen = Arc::new(Seen::default());
    let (near, mut far) = tokio::io::duplex(64 << 10);
    let banner = tokio::spawn(async move {
        far.write_all(&vec![b'*'; 60_000]).await.unwrap();
        far.write_all(b"\r\nno newline").await.unwrap();
        far
    });
    let agent = tokio::spawn(async move {
        start_agent(banner.await.unwrap(), &seen, Keepalive::default()).await.unwrap()
    });
    let (reader, writer) = tokio::io::split(near);
    let remote = RemoteNode::over(
        name("near"),
        reader,
        writer,
        &Expect::Version,
        Deadlines::default(),
        Keepalive::default(),
    );
    remote.await.unwrap().facts().await.unwrap();
    agent.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_ends_when_nobody_it_knows_is_there() {
    let seen = Arc::new(Seen::default());
    for said in ["GET / HTTP/1.1\r\n\r\n", "ETCDVAULT-OPERATOR 99 0.1.0 x\n", &"x".repeat(9999)] {
        let (mut near, far) = tokio::io::duplex(64 << 10);
        let agent = start_agent(far, &seen, Keepalive::default());
        near.write_all(said.as_bytes()).await.unwrap();
        let error = agent.await.unwrap().unwrap_err();
        assert!(matches!(error, AgentError::NoOperator | AgentError::Protocol(99)), "{error:?}");
    }
    let (near, far) = tokio::io::duplex(64 << 10);
    let agent = start_agent(far, &seen, Keepalive::default());
    drop(near);
    agent.await.unwrap().unwrap_err();
}
