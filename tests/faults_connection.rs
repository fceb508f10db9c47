//! What goes wrong between the program and etcd, through the program itself: every
//! case ends within its bound, with the exit code for it, a hint that helps, and
//! nothing half-made in the vault.

#[path = "common/program.rs"]
mod common;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use harness::cli::Cli;
use harness::etcd::{Cluster, Security};
use harness::proxy::{Mode, Proxy};
use harness::tls::{Authority, Identity, Validity};

use common::{assert_untouched, files, fill, new_vault, program, says};

/// The wrong certificates, keys, schemes and passwords: told apart, each with its hint.
#[tokio::test]
async fn what_keeps_us_out_is_told_apart() {
    let root = tempfile::tempdir().unwrap();
    let vault = new_vault(root.path()).await;
    let cluster =
        Cluster::builder("3.6").security(Security::ClientCertificates).start().await.unwrap();
    let tls = cluster.tls().unwrap();
    let url = cluster.endpoints()[0].clone();
    let plain_cluster = Cluster::builder("3.6").start().await.unwrap();
    let base = program().vault(&vault);
    let with = |ca: &Path, identity: &Identity| {
        base.clone()
            .env("ETCDCTL_ENDPOINTS", &url)
            .env("ETCDCTL_CACERT", ca)
            .env("ETCDCTL_CERT", &identity.cert)
            .env("ETCDCTL_KEY", &identity.key)
    };
    let cases: [(&str, Cli, i32, &[&str]); 6] = [
        ("another CA", with(&tls.other.certificate(), &tls.root), 30, &["--cacert"]),
        ("an expired client", with(&tls.ca(), &tls.expired), 30, &["expired", "hint:"]),
        ("a foreign client", with(&tls.ca(), &tls.foreign), 30, &["--cert and --key"]),
        (
            "no client certificate",
            base.clone().env("ETCDCTL_ENDPOINTS", &url).env("ETCDCTL_CACERT", tls.ca()),
            30,
            &["--cert and --key"],
        ),
        (
            "plain HTTP to TLS",
            base.clone().env("ETCDCTL_ENDPOINTS", url.replace("https", "http")),
            30,
            &["serves TLS", "https://"],
        ),
        (
            "TLS to plain HTTP",
            base.clone().env(
                "ETCDCTL_ENDPOINTS",
                plain_cluster.endpoints()[0].replace("http://", "https://"),
            ),
            30,
            &["serves plain HTTP", "http://"],
        ),
    ];
    for (name, cli, code, texts) in cases {
        let begun = Instant::now();
        let ran = cli.run(["backup"]).await.unwrap();
        assert_eq!(ran.code, Some(code), "{name}: {ran}");
        for text in texts {
            assert!(ran.stderr.to_lowercase().contains(&text.to_lowercase()), "{name}: {ran}");
        }
        assert!(begun.elapsed() < Duration::from_secs(90), "{name} is bounded");
        let ran = cli.run(["status", "--json"]).await.unwrap();
        assert_eq!(ran.code, Some(code), "{name}: {ran}");
        assert_eq!(ran.json()["error"]["exit_code"], code, "{name}");
    }

    // A certificate file that is none is a matter of keys, found before any connection.
    let broken = root.path().join("broken.crt");
    std::fs::write(&broken, "-----BEGIN NONSENSE-----").unwrap();
    let ran = with(&broken, &tls.root).run(["backup"]).await.unwrap().expect(12);
    says(&ran, &["broken.crt", "PEM"]);
    let ran = base
        .clone()
        .env("ETCDCTL_ENDPOINTS", &url)
        .run([Path::new("backup"), Path::new("--cert"), &tls.root.cert])
        .await
        .unwrap()
        .expect(12);
    says(&ran, &["--key"]);
    assert_untouched(&vault);
}

/// A member whose own certificate has expired: it keeps its clients out by accident,
/// and the message says whose certificate it is.
#[tokio::test]
async fn an_expired_server() {
    let root = tempfile::tempdir().unwrap();
    let vault = new_vault(root.path()).await;
    let authority = Authority::create(&root.path().join("expired"), "ca").unwrap();
    let server = authority.client("server", "server", Validity::Expired).unwrap();
    let listener = harness::port::Port::reserve().unwrap();
    let args = [
        format!("--cert-file={}", server.cert.display()),
        format!("--key-file={}", server.key.display()),
        format!("--listen-client-urls=https://127.0.0.1:{}", listener.number()),
        format!("--advertise-client-urls=https://127.0.0.1:{}", listener.number()),
    ];
    let mut cluster = Cluster::builder("3.6").args(args).prepare().await.unwrap();
    // Its own health check goes over plain HTTP, so only the process is waited for.
    cluster.member(0).spawn().unwrap();
    let cli = program()
        .vault(&vault)
        .env("ETCDCTL_ENDPOINTS", format!("https://127.0.0.1:{}", listener.number()))
        .env("ETCDCTL_CACERT", authority.certificate());
    let begun = Instant::now();
    let ran = loop {
        let ran = cli.run(["backup"]).await.unwrap().expect(30);
        if !ran.stderr.contains("refused") {
            break ran;
        }
        assert!(begun.elapsed() < Duration::from_secs(90), "the member does not listen: {ran}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    says(&ran, &["expired", "openssl x509", "clock"]);
    assert_untouched(&vault);
}

/// Nobody listens, somebody listens and never answers, somebody answers slowly.
#[tokio::test]
async fn silence_is_bounded() {
    let root = tempfile::tempdir().unwrap();
    let vault = new_vault(root.path()).await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let short = ["--dial-timeout", "1s", "--command-timeout", "1s"];
    let cli = program().vault(&vault);
    for command in ["backup", "status"] {
        let begun = Instant::now();
        let args = [&[command, "--endpoints", &address][..], &short].concat();
        let ran = cli.run(args).await.unwrap().expect(30);
        says(&ran, &[&address, "no answer within 1 s", "--dial-timeout"]);
        assert!(begun.elapsed() < Duration::from_secs(25), "{ran}");
    }
    // Beside a living member a silent endpoint costs its timeout, and no more.
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    let endpoints = format!("{address},{}", cluster.endpoints()[0]);
    let begun = Instant::now();
    let bounds = ["--dial-timeout", "10s", "--command-timeout", "10s"];
    let args = [&["backup", "--json", "--endpoints", &endpoints][..], &bounds].concat();
    let report = cli.run(args).await.unwrap().expect(0).json();
    assert_eq!(report["proof"]["state"], "proven", "{report}");
    assert!(begun.elapsed() < Duration::from_secs(90));

    // A member behind a slow line: the backup takes its time and is proven.
    fill(&cluster, 2).await;
    let proxy = Proxy::start(&cluster.endpoints()[0]).await.unwrap();
    proxy.set(Mode::Slow(1 << 20));
    let begun = Instant::now();
    let slow = ["backup", "--local-only", "--json", "--endpoints", &proxy.address()];
    let report = cli.run(slow).await.unwrap().expect(0).json();
    assert_eq!(report["proof"]["state"], "proven", "{report}");
    assert!(begun.elapsed() > Duration::from_millis(1500), "the line was slow");
}

/// A stream that is cut or stalls in its middle: another member is tried, what came
/// of the first try is gone, and when no member is left the exit code is 30.
#[tokio::test]
async fn a_member_is_lost_in_mid_stream() {
    let root = tempfile::tempdir().unwrap();
    let vault = new_vault(root.path()).await;
    let mut cluster = Cluster::builder("3.6").members(3).start().await.unwrap();
    fill(&cluster, 12).await;
    let leader = cluster.leader().await.unwrap();
    let followers = [(leader + 1) % 3, (leader + 2) % 3];
    let mut proxies = Vec::new();
    for endpoint in cluster.endpoints() {
        proxies.push(Proxy::start(&endpoint).await.unwrap());
    }
    let endpoints = proxies.iter().map(Proxy::address).collect::<Vec<_>>().join(",");
    let cli = program().vault(&vault).env("ETCDCTL_ENDPOINTS", endpoints);

    // Both followers are cut after 4 MB: the leader gives the snapshot.
    for follower in followers {
        proxies[follower].set(Mode::CutAfter(4 << 20));
    }
    let ran = cli.run(["backup", "--json"]).await.unwrap().expect(0);
    let report = ran.json();
    let name = |index: usize| format!("m{}", index + 1);
    assert_eq!(report["source"], name(leader), "{ran}");
    assert_eq!(report["proof"]["state"], "proven", "{ran}");
    assert_eq!(ran.stderr.matches("it broke after").count(), 2, "both losses are said: {ran}");
    let objects = |files: Vec<PathBuf>| {
        files.iter().filter(|file| file.to_str().unwrap().contains("/objects/")).count()
    };
    assert_eq!(objects(files(&vault)), 1, "partial objects are gone: {:?}", files(&vault));
    assert!(
        files(&vault).iter().all(|f| !f.file_name().unwrap().to_string_lossy().starts_with('.'))
    );
    cli.run(["verify", "--all"]).await.unwrap().expect(0);

    // The followers stall: each is given up after six times the bound on a call.
    for proxy in &proxies {
        proxy.set(Mode::Pass);
    }
    for follower in followers {
        proxies[follower].set(Mode::StallAfter(4 << 20));
    }
    let begun = Instant::now();
    // Only the source is asked: lines that stall are given up late by their keep-alive.
    let args = ["backup", "--json", "--command-timeout", "3s", "--proof", "source"];
    let ran = cli.run(args).await.unwrap().expect(0);
    assert_eq!(ran.json()["source"], name(leader), "{ran}");
    assert_eq!(ran.stderr.matches("the stream stalled after").count(), 2, "{ran}");
    assert!(begun.elapsed() < Duration::from_secs(150), "{:?}", begun.elapsed());

    // All three are cut: nothing is stored, each is named with how far it came.
    for proxy in &proxies {
        proxy.set(Mode::CutAfter(4 << 20));
    }
    let before = files(&vault);
    let ran = cli.run(["backup"]).await.unwrap().expect(30);
    says(&ran, &["was not stored", "m1: ", "m2: ", "m3: ", "is unchanged", "hint:", "proxy"]);
    assert_eq!(files(&vault), before);

    // Under --quiet a loss that was made good is not worth a word.
    for (index, proxy) in proxies.iter().enumerate() {
        proxy.set(if index == leader { Mode::Pass } else { Mode::CutAfter(4 << 20) });
    }
    let ran = cli.run(["backup", "--quiet"]).await.unwrap().expect(0);
    assert_eq!((ran.text().as_str(), ran.stderr.as_str()), ("", ""), "{ran}");
}

/// The member itself is killed while it streams, not only the line to it.
#[tokio::test]
async fn a_source_that_dies_while_it_streams() {
    let root = tempfile::tempdir().unwrap();
    let vault = new_vault(root.path()).await;
    let mut cluster = Cluster::builder("3.6").members(3).start().await.unwrap();
    fill(&cluster, 8).await;
    let leader = cluster.leader().await.unwrap();
    let source = (leader + 1) % 3;
    // The leader's and the other follower's own addresses follow from the member list;
    // the line that stalls makes sure that the source is in its middle when it dies.
    let proxy = Proxy::start(&cluster.endpoints()[source]).await.unwrap();
    proxy.set(Mode::StallAfter(2 << 20));
    let endpoints = format!("{},{}", proxy.address(), cluster.endpoints()[leader]);
    let cli = program().vault(&vault).env("ETCDCTL_ENDPOINTS", endpoints);
    let running = tokio::spawn({
        let cli = cli.clone();
        async move { cli.run(["backup", "--json", "--endpoint-strategy", "first"]).await.unwrap() }
    });
    proxy.wait_passed(2 << 20).await.unwrap();
    cluster.member(source).kill().unwrap();
    proxy.set(Mode::Pass);
    let ran = running.await.unwrap().expect(0);
    let report = ran.json();
    assert_ne!(report["source"], format!("m{}", source + 1), "{ran}");
    assert_eq!(report["proof"]["state"], "proven", "{ran}");
    assert!(ran.stderr.contains("it broke after"), "{ran}");
    let listed = cli.run(["list", "--json"]).await.unwrap().expect(0).json();
    assert_eq!(listed["backups"].as_array().unwrap().len(), 1);
}

/// Which member is asked for what: strategies, `--local-only`, and learners never.
#[tokio::test]
async fn the_source_is_the_one_asked_for_and_never_a_learner() {
    let root = tempfile::tempdir().unwrap();
    let vault = new_vault(root.path()).await;
    let mut cluster = Cluster::builder("3.6").members(3).start().await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let learner = cluster.add_member(true).await.unwrap();
    let name = |index: usize| format!("m{}", index + 1);
    let cli = program().vault(&vault).cluster(&cluster);
    let asked = |report: &serde_json::Value| -> Vec<String> {
        let members = report["members"].as_array().unwrap();
        members.iter().map(|member| member["member"].as_str().unwrap().to_owned()).collect()
    };

    let report = cli.run(["backup", "--json"]).await.unwrap().expect(0).json();
    assert_ne!(report["source"], name(leader), "a follower is preferred: {report}");
    let order = asked(&report);
    assert_eq!(order.len(), 3, "the learner is not asked for HashKV: {report}");
    assert!(!order.contains(&name(learner)), "{report}");
    assert_eq!(order.last().unwrap(), &name(leader), "the leader is asked last: {report}");

    let strategy = ["backup", "--json", "--endpoint-strategy", "leader"];
    let report = cli.run(strategy).await.unwrap().expect(0).json();
    assert_eq!(report["source"], name(leader), "{report}");

    let follower = (leader + 1) % 3;
    let only = cluster.endpoints()[follower].clone();
    let local = ["backup", "--json", "--local-only", "--endpoints", &only];
    let report = cli.run(local).await.unwrap().expect(0).json();
    assert_eq!(asked(&report), [name(follower)], "nobody else is asked: {report}");
    let source = ["backup", "--json", "--proof", "source"];
    let report = cli.run(source).await.unwrap().expect(0).json();
    assert_eq!(asked(&report), [report["source"].as_str().unwrap()], "{report}");

    // The learner alone gives nothing, and the refusal says why.
    let only = cluster.endpoints()[learner].clone();
    let ran = cli.run(["backup", "--local-only", "--endpoints", &only]).await.unwrap().expect(30);
    says(&ran, &["only learners answer", "voting members"]);
}

/// v2 keys are in no snapshot: the backup is stored and says so.
#[tokio::test]
async fn v2_keys_are_not_proven() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let root = tempfile::tempdir().unwrap();
    let vault = new_vault(root.path()).await;
    let cluster = Cluster::builder("3.5").args(["--enable-v2"]).start().await.unwrap();
    let cli = program().vault(&vault).cluster(&cluster);
    let report = cli.run(["backup", "--json"]).await.unwrap().expect(0).json();
    assert_eq!(report["proof"]["state"], "proven", "an empty v2 store is no obstacle: {report}");

    let address = format!("127.0.0.1:{}", cluster.members()[0].client_port());
    let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    let body = "value=old";
    let request = format!(
        "PUT /v2/keys/legacy HTTP/1.0\r\nHost: {address}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("201 Created"), "{answer}");

    let ran = cli.run(["backup"]).await.unwrap().expect(3);
    assert!(ran.text().contains("not proven"), "{ran}");
    says(&ran, &["v2", "no snapshot contains", "data directory"]);
    // A cron job must hear of it, too.
    let ran = cli.run(["backup", "--quiet"]).await.unwrap().expect(3);
    says(&ran, &["no snapshot contains"]);
    let shown = cli.run(["show", "latest"]).await.unwrap().expect(0).text();
    assert!(shown.contains("no snapshot contains"), "{shown}");
    cli.run(["verify", "--all"]).await.unwrap().expect(0);
}
