//! The etcd harness against real servers: every version starts, TLS is really
//! checked, and members can be stopped, killed, paused, restarted and added.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use harness::etcd::{Cluster, Etcd, SERIES, Security, tls_options};

#[tokio::test]
async fn every_version_starts_and_serves() {
    for series in SERIES {
        let mut cluster = Cluster::builder(series).start().await.unwrap();
        let mut client = cluster.client().await.unwrap();
        client.put("key", "value", None).await.unwrap();
        let status = cluster.member(0).status().await.unwrap();
        assert_eq!(status.version(), cluster.etcd().full_version());
        assert!(status.version().starts_with(&format!("{series}.")), "{}", status.version());
        let got = cluster.etcdctl(["get", "key", "--print-value-only"]).await.unwrap();
        assert_eq!(got, "value\n");
    }
}

#[tokio::test]
async fn etcdutl_of_every_version_runs() {
    for series in SERIES {
        let etcd = Etcd::version(series).await.unwrap();
        let said = etcd.etcdutl(["version"]).await.unwrap();
        assert!(said.contains(etcd.full_version()), "{said}");
    }
}

#[tokio::test]
async fn three_members_with_client_certificates() {
    let mut cluster = Cluster::builder("3.6")
        .members(3)
        .security(Security::ClientCertificates)
        .start()
        .await
        .unwrap();
    let mut client = cluster.client().await.unwrap();
    client.put("key", "value", None).await.unwrap();
    let hashes = cluster.hashes(2).await.unwrap();
    assert_eq!(hashes.len(), 3);
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");

    let tls = cluster.tls().unwrap();
    let cases = [
        ("no certificate", tls.ca(), None),
        ("an expired certificate", tls.ca(), Some(&tls.expired)),
        ("another authority's certificate", tls.ca(), Some(&tls.foreign)),
        ("the wrong authority trusted", tls.other.certificate(), Some(&tls.root)),
    ];
    for (case, ca, identity) in cases {
        let options = ConnectOptions::new()
            .with_tls(tls_options(&ca, identity).unwrap())
            .with_timeout(Duration::from_secs(2));
        let mut client = Client::connect(cluster.endpoints(), Some(options)).await.unwrap();
        client.get("key", None).await.expect_err(case);
    }
}

#[tokio::test]
async fn a_cluster_lives_through_the_loss_of_its_leader() {
    let mut cluster = Cluster::builder("3.6").members(3).start().await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let status = cluster.member(leader).kill().unwrap();
    assert_eq!(status.signal(), Some(9));
    assert!(!cluster.member(leader).is_running().unwrap());
    let other = (leader + 1) % 3;
    cluster.member(other).wait_ready().await.unwrap();
    let mut client = cluster.member(other).client().await.unwrap();
    client.put("key", "after the kill", None).await.unwrap();

    cluster.member(leader).start().await.unwrap();
    let mut client = cluster.member(leader).client().await.unwrap();
    let got = client.get("key", None).await.unwrap();
    assert_eq!(got.kvs()[0].value(), b"after the kill");
}

#[tokio::test]
async fn a_paused_member_hangs_and_a_stopped_one_ends_by_itself() {
    let mut cluster = Cluster::builder("3.6").start().await.unwrap();
    let member = cluster.member(0);
    member.pause().unwrap();
    member.status().await.expect_err("a paused member does not answer");
    member.resume().unwrap();
    member.wait_ready().await.unwrap();
    let pid = member.pid().unwrap();
    member.restart().await.unwrap();
    assert_ne!(member.pid().unwrap(), pid);
    let end = member.stop().await.unwrap();
    assert!(end.success() || end.signal() == Some(15), "{end}");
    member.status().await.expect_err("a stopped member does not answer");
}

#[tokio::test]
async fn members_join_as_voter_and_as_learner() {
    let mut cluster = Cluster::builder("3.6").security(Security::Tls).start().await.unwrap();
    let voter = cluster.add_member(false).await.unwrap();
    let learner = cluster.add_member(true).await.unwrap();
    assert!(!cluster.member(voter).status().await.unwrap().is_learner());
    assert!(cluster.member(learner).status().await.unwrap().is_learner());
    assert_eq!(cluster.client().await.unwrap().member_list().await.unwrap().members().len(), 3);
}

#[tokio::test]
async fn a_directory_restored_by_etcdutl_boots() {
    let mut old = Cluster::builder("3.6").start().await.unwrap();
    let mut client = old.client().await.unwrap();
    client.put("key", "kept", None).await.unwrap();
    let snapshot = old.root().join("snapshot.db");
    let path = snapshot.to_str().unwrap();
    old.etcdctl(["snapshot", "save", path]).await.unwrap();
    old.stop().await.unwrap();

    let mut new = Cluster::builder("3.6").members(3).token("new").prepare().await.unwrap();
    let initial = new.initial_cluster();
    for index in 0..3 {
        let directory = new.root().join(format!("restored-{index}"));
        let member = new.member(index);
        member.set_data_dir(&directory);
        let refusal = member.spawn().unwrap_err().to_string();
        assert!(refusal.contains("would begin blank"), "{refusal}");
        let args = [
            "snapshot".to_owned(),
            "restore".to_owned(),
            path.to_owned(),
            format!("--data-dir={}", directory.display()),
            format!("--name={}", member.name()),
            format!("--initial-cluster={initial}"),
            "--initial-cluster-token=new".to_owned(),
            format!("--initial-advertise-peer-urls={}", member.peer_url()),
        ];
        member.etcd().clone().etcdutl(args).await.unwrap();
    }
    new.start().await.unwrap();
    let mut client = new.client().await.unwrap();
    assert_eq!(client.get("key", None).await.unwrap().kvs()[0].value(), b"kept");
}

#[tokio::test]
async fn a_server_that_ends_at_once_shows_its_log() {
    let builder = Cluster::builder("3.6").args(["--no-such-flag"]);
    let error = builder.start().await.unwrap_err().to_string();
    assert!(error.contains("no-such-flag"), "{error}");
}

/// Where the child of the next test writes its server's process id.
const PID_FILE: &str = "ETCDVAULT_TEST_PID_FILE";

#[tokio::test]
async fn a_server_dies_with_a_killed_test_process() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_is_killed", "--ignored"])
        .env(PID_FILE, &file)
        .env("TMPDIR", directory.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let pid = loop {
        match std::fs::read_to_string(&file) {
            Ok(pid) if pid.ends_with('\n') => break pid.trim().to_owned(),
            _ => assert!(child.try_wait().unwrap().is_none(), "the child ended by itself"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let command_line = format!("/proc/{pid}/cmdline");
    let runs = || std::fs::read(&command_line).is_ok_and(|line| !line.is_empty());
    assert!(runs());
    child.kill().unwrap();
    child.wait().unwrap();
    for _ in 0..3000 {
        if !runs() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the server {pid} outlives the process that started it");
}

#[tokio::test]
#[ignore = "the previous test runs it as a process of its own and kills it"]
async fn child_that_is_killed() {
    let mut cluster = Cluster::builder("3.6").start().await.unwrap();
    let pid = cluster.member(0).pid().unwrap();
    std::fs::write(std::env::var_os(PID_FILE).unwrap(), format!("{pid}\n")).unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
}
