//! Backups of real clusters through the program itself: what is stored is proven,
//! is a plain snapshot for plain tools, and what cannot be proven says why.

use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{CompactionOptions, PutOptions};
use harness::cli::Cli;
use harness::etcd::{Cluster, Security};
use harness::fill::Fill;

fn program() -> Cli {
    Cli::new(env!("CARGO_BIN_EXE_etcdvault"))
}

/// A new vault without encryption.
async fn new_vault(root: &Path) -> PathBuf {
    let vault = root.join("vault");
    let vault_text = vault.to_str().unwrap();
    program().run(["init", vault_text, "--no-encryption"]).await.unwrap().expect(0);
    vault
}

fn object_of(vault: &Path, shown: &serde_json::Value) -> PathBuf {
    vault.join(shown["objects"][0]["key"].as_str().unwrap())
}

async fn proven_and_plain(series: &str, members: usize, security: Security) {
    let root = tempfile::tempdir().unwrap();
    let mut cluster =
        Cluster::builder(series).members(members).security(security).start().await.unwrap();
    let filled = Fill::new(7, 300).run(&cluster.client().await.unwrap()).await.unwrap();
    let vault = new_vault(root.path()).await;
    let cli = program().vault(&vault).cluster(&cluster);

    let report = cli.run(["backup", "--cluster", "test", "--json"]).await.unwrap().expect(0).json();
    assert_eq!(report["proof"]["state"], "proven", "{report}");
    assert_eq!(report["revision"], filled.revision);
    assert_eq!(report["members"].as_array().unwrap().len(), members);
    for member in report["members"].as_array().unwrap() {
        assert_eq!(member["verdict"], "same", "{report}");
    }

    let shown = cli.run(["show", "latest", "--json"]).await.unwrap().expect(0).json();
    let hash = shown["content"]["hash_kv"]["hash"].as_u64().unwrap();
    let live = cluster.hashes(filled.revision).await.unwrap();
    assert!(live.iter().all(|&live| u64::from(live) == hash), "{live:?} {hash}");

    // `zstd -d` of the stored object is the snapshot, byte for byte.
    let plain = root.path().join("plain.db");
    let zstd = std::process::Command::new("zstd")
        .arg("-dq")
        .arg(object_of(&vault, &shown))
        .arg("-o")
        .arg(&plain)
        .status()
        .unwrap();
    assert!(zstd.success());
    let exported = root.path().join("exported.db");
    let exported_text = exported.to_str().unwrap();
    cli.run(["export", "latest", "-o", exported_text]).await.unwrap().expect(0);
    assert!(std::fs::read(&plain).unwrap() == std::fs::read(&exported).unwrap());

    // Stock tools accept it: trailer, page check and all.
    let checked = Cluster::builder("3.6").prepare().await.unwrap();
    let status =
        checked.etcd().etcdutl(["snapshot", "status", exported_text, "-w", "json"]).await.unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["totalKey"], filled.keys);

    let verified = cli.run(["verify", "--all", "--json"]).await.unwrap().expect(0).json();
    assert_eq!(verified["verified"][0]["problems"].as_array().unwrap().len(), 0);
    let listed = cli.run(["list", "--json"]).await.unwrap().expect(0).json();
    assert_eq!(listed["backups"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_backup_of_3_4_is_proven_and_plain() {
    proven_and_plain("3.4", 1, Security::Plain).await;
}

#[tokio::test]
async fn a_backup_of_3_5_is_proven_and_plain() {
    proven_and_plain("3.5", 3, Security::ClientCertificates).await;
}

#[tokio::test]
async fn a_backup_of_3_6_is_proven_and_plain() {
    proven_and_plain("3.6", 3, Security::Plain).await;
}

#[tokio::test]
async fn a_backup_of_3_7_is_proven_and_plain() {
    proven_and_plain("3.7", 1, Security::Tls).await;
}

/// The whole way in one go: everything deleted, restored by etcdvault alone, started.
#[tokio::test]
async fn three_members_come_back_from_the_vault() {
    let root = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::builder("3.6")
        .members(3)
        .security(Security::ClientCertificates)
        .start()
        .await
        .unwrap();
    let filled = Fill::new(11, 300).run(&cluster.client().await.unwrap()).await.unwrap();
    let before = cluster.hashes(filled.revision).await.unwrap();
    let vault = new_vault(root.path()).await;
    let cli = program().vault(&vault).cluster(&cluster);
    cli.run(["backup", "--cluster", "test"]).await.unwrap().expect(0);

    cluster.kill().unwrap();
    let initial_cluster = cluster.initial_cluster();
    for member in cluster.members_mut() {
        member.delete_data().unwrap();
        let arguments = [
            "restore",
            "data-dir",
            "latest",
            "--data-dir",
            member.data_dir().to_str().unwrap(),
            "--name",
            member.name(),
            "--initial-cluster",
            &initial_cluster,
            "--initial-cluster-token",
            "again",
            "--initial-advertise-peer-urls",
            &member.peer_url(),
            "--bump-revision",
            "0",
        ];
        cli.run(arguments).await.unwrap().expect(0);
    }
    cluster.start().await.unwrap();
    assert_eq!(cluster.hashes(filled.revision).await.unwrap(), before);
    let mut client = cluster.client().await.unwrap();
    assert_eq!(client.get("x", None).await.unwrap().header().unwrap().revision(), filled.revision);
    assert_eq!(client.leases().await.unwrap().leases().len(), filled.leases);
    assert_eq!(client.user_list().await.unwrap().users().len(), filled.users);
    client.put("written", "afterwards", None).await.unwrap();
}

/// A writer, compactions and a defragmentation run meanwhile: every backup is proven
/// or says why not, and each restores.
#[tokio::test]
async fn backups_under_load_are_proven_or_say_why() {
    let root = tempfile::tempdir().unwrap();
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    Fill::new(3, 2000).run(&cluster.client().await.unwrap()).await.unwrap();
    let vault = new_vault(root.path()).await;
    let cli = program().vault(&vault).cluster(&cluster);
    let mut client = cluster.client().await.unwrap();
    let writer = tokio::spawn(async move {
        // Bounded: 60 rounds of at most 50 writes.
        for round in 0..60_u32 {
            for i in 0..50 {
                let value = vec![b'x'; 200 * (i as usize % 7 + 1)];
                client.put(format!("load/{}", i * round % 97), value, None).await.unwrap();
            }
            let revision = client.delete("load/13", None).await.unwrap();
            let revision = revision.header().unwrap().revision();
            if round % 5 == 0 {
                client.compact(revision - 20, Some(CompactionOptions::new())).await.unwrap();
            }
            if round == 30 {
                client.defragment().await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut proven = 0;
    for _ in 0..8 {
        let ran = cli.run(["backup", "--cluster", "test", "--json"]).await.unwrap();
        let report = ran.json();
        match ran.code {
            Some(0) => proven += 1,
            Some(3) => assert!(!report["proof"]["reasons"][0].as_str().unwrap().is_empty()),
            _ => panic!("{ran}"),
        }
    }
    writer.await.unwrap();
    assert!(proven >= 4, "only {proven} of 8 were proven");
    cli.run(["verify", "--all"]).await.unwrap().expect(0);
    let listed = cli.run(["list", "--json"]).await.unwrap().expect(0).json();
    for backup in listed["backups"].as_array().unwrap() {
        let id = backup["id"].as_str().unwrap();
        let target = root.path().join(id);
        let target = target.to_str().unwrap();
        cli.run(["restore", "data-dir", id, "--data-dir", target]).await.unwrap().expect(0);
    }
}

/// One member of three holds another value: the backup is kept, marked, and never
/// the latest.
#[tokio::test]
async fn a_member_that_differs_is_found() {
    let root = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::builder("3.6").members(3).start().await.unwrap();
    let mut client = cluster.client().await.unwrap();
    client.put("canary", "the value that is changed", None).await.unwrap();
    let vault = new_vault(root.path()).await;
    let cli = program().vault(&vault).cluster(&cluster);
    let good = cli.run(["backup", "--cluster", "test", "--json"]).await.unwrap().expect(0).json();

    let follower = (cluster.leader().await.unwrap() + 1) % 3;
    let member = cluster.member(follower);
    member.stop().await.unwrap();
    let mut bytes = std::fs::read(member.database()).unwrap();
    let needle = b"the value that is changed";
    let mut changed = 0;
    for at in 0..bytes.len() - needle.len() {
        if &bytes[at..at + needle.len()] == needle {
            bytes[at] = b'T';
            changed += 1;
        }
    }
    assert!(changed > 0, "the value is in the file");
    std::fs::write(member.database(), bytes).unwrap();
    member.start().await.unwrap();

    let ran = cli.run(["backup", "--cluster", "test", "--json"]).await.unwrap().expect(20);
    let report = ran.json();
    assert_eq!(report["proof"]["state"], "mismatch", "{report}");
    let latest = cli.run(["show", "latest", "--json"]).await.unwrap().expect(0).json();
    assert_eq!(latest["id"], good["id"], "a mismatch is never the latest");
    let text = cli.run(["list"]).await.unwrap().expect(0).text();
    assert!(text.contains("DIFFERENT"), "{text}");

    // Whoever verifies or exports it is told, though its bytes are those that were stored.
    let id = report["id"].as_str().unwrap();
    let marked = |said: &str| {
        let warning = said.lines().find(|line| line.starts_with("warning: ")).unwrap();
        assert!(warning.contains(id) && warning.contains("DIFFERS"), "{said}");
        assert!(warning.contains("its HashKV at revision"), "the reason is repeated: {said}");
    };
    let out = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    marked(&cli.run(["verify", id]).await.unwrap().expect(0).stderr);
    marked(&cli.run(["verify", id, "--quiet"]).await.unwrap().expect(0).stderr);
    marked(&cli.run(["export", id, "-o", &out("a.db")]).await.unwrap().expect(0).stderr);
    let ran = cli.run(["export", "latest", "-o", &out("b.db")]).await.unwrap().expect(0);
    assert_eq!(ran.stderr, "", "nothing is said of a proven one");
    let all = cli.run(["verify", "--all", "--json"]).await.unwrap().expect(0).json();
    let states: Vec<_> =
        all["verified"].as_array().unwrap().iter().map(|one| &one["proof"]["state"]).collect();
    assert_eq!(states, ["proven", "mismatch"], "{all}");
    let exported = cli.run(["export", id, "--json", "-o", &out("c.db")]).await.unwrap().expect(0);
    assert_eq!(
        (exported.json()["proof"]["state"].as_str(), exported.stderr.as_str()),
        (Some("mismatch"), "")
    );
}

/// A snapshot does not say when it was taken; its file does, mostly.
#[tokio::test]
async fn an_import_has_the_time_of_its_file() {
    let root = tempfile::tempdir().unwrap();
    let vault = new_vault(root.path()).await;
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    let cli = program().vault(&vault).cluster(&cluster);
    let file = root.path().join("snapshot.db");
    let name = file.to_str().unwrap();
    cluster.etcdctl(["snapshot", "save", name]).await.unwrap();
    let dated = |time: std::time::SystemTime| {
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
    };
    let import = ["import", name, "--cluster", "old", "--json"];
    let day = std::time::Duration::from_secs(86_400);
    let epoch = std::time::SystemTime::UNIX_EPOCH;

    // The newer file is imported first.
    let mut ids = Vec::new();
    for (days, shown) in [(19_001, "2022-01-09T00:00:00Z"), (19_000, "2022-01-08T00:00:00Z")] {
        dated(epoch + day * days);
        let report = cli.run(import).await.unwrap().expect(0).json();
        let report = &report["imported"][0];
        assert_eq!(report["taken"], shown, "{report}");
        assert_eq!(report["time_source"], "modification_time", "{report}");
        ids.push(report["id"].as_str().unwrap().to_owned());
    }
    let order = async || -> Vec<String> {
        let list = cli.run(["list", "--cluster", "old", "--json"]).await.unwrap().expect(0).json();
        let listed = list["backups"].as_array().unwrap();
        listed.iter().map(|backup| backup["id"].as_str().unwrap().to_owned()).collect()
    };
    let named = async |name: &str| -> String {
        let show = ["show", name, "--cluster", "old", "--json"];
        cli.run(show).await.unwrap().expect(0).json()["id"].as_str().unwrap().to_owned()
    };
    assert_eq!(order().await, [ids[1].clone(), ids[0].clone()], "sorted by the files' times");
    assert_eq!(named("latest").await, ids[0], "the newest of what nobody could compare");
    assert_eq!(named("2022-01-08T12:00:00Z").await, ids[1]);
    let shown = cli.run(["show", &ids[0]]).await.unwrap().expect(0).text();
    assert!(
        shown.contains("2022-01-09 00:00:00 UTC") && shown.contains("modification time"),
        "{shown}"
    );

    // A time that cannot be is none.
    dated(std::time::SystemTime::now() + day * 400);
    let report = cli.run(import).await.unwrap().expect(0).json();
    assert_eq!(report["imported"][0]["time_source"], "import_time", "{report}");
    let id = report["imported"][0]["id"].as_str().unwrap();
    assert_eq!(named("latest").await, id);
    let content = cli.run(["show", id, "--json"]).await.unwrap().expect(0).json();
    assert_eq!(content["content"]["origin"]["time_source"], "import_time", "{content}");

    // A backup that was compared is the latest, however new an import's file is.
    let backup = ["backup", "--cluster", "old", "--json"];
    let proven = cli.run(backup).await.unwrap().expect(0).json();
    cli.run(import).await.unwrap().expect(0);
    assert_eq!(named("latest").await, proven["id"].as_str().unwrap());
}

/// The first endpoint is dead, and the source dies in mid-stream: neither is felt.
#[tokio::test]
async fn dead_endpoints_and_a_dying_source() {
    let root = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::builder("3.6").members(3).start().await.unwrap();
    Fill::new(5, 500).run(&cluster.client().await.unwrap()).await.unwrap();
    let vault = new_vault(root.path()).await;
    let closed = harness::port::Port::reserve().unwrap();
    let endpoints = format!("127.0.0.1:{},{}", closed.number(), cluster.endpoints()[0]);
    let cli = program().vault(&vault).env("ETCDCTL_ENDPOINTS", endpoints);
    let report = cli.run(["backup", "--json"]).await.unwrap().expect(0).json();
    assert_eq!(report["proof"]["state"], "proven");
    let same = report["members"].as_array().unwrap().iter().filter(|m| m["verdict"] == "same");
    assert_eq!(same.count(), 3, "the members beyond the endpoints are asked too: {report}");
    assert!(report["cluster"].as_str().unwrap().starts_with("etcd-"), "{report}");

    // One member down: proven by the other two, and the third is named.
    let follower = (cluster.leader().await.unwrap() + 1) % 3;
    cluster.member(follower).kill().unwrap();
    let cli = program().vault(&vault).cluster(&cluster);
    let report = cli.run(["backup", "--json"]).await.unwrap().expect(0).json();
    let unknown: Vec<_> = report["members"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|m| m["verdict"] == "unknown")
        .collect();
    assert_eq!(unknown.len(), 1, "{report}");
    let ran = cli.run(["status"]).await.unwrap().expect(3);
    assert!(ran.text().contains("2 of 3 members answer"), "{ran}");
    let again: Vec<&str> = report["cluster"].as_str().into_iter().collect();
    assert!(again[0].starts_with("etcd-"), "the name is kept: {report}");
}

/// `--proof none`: stored, not proven, said why.
#[tokio::test]
async fn nobody_asked_is_not_proven() {
    let root = tempfile::tempdir().unwrap();
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    let mut client = cluster.client().await.unwrap();
    client.put("a", "b", Some(PutOptions::new())).await.unwrap();
    let vault = new_vault(root.path()).await;
    let cli = program().vault(&vault).cluster(&cluster);
    let ran = cli.run(["backup", "--proof", "none"]).await.unwrap().expect(3);
    assert!(ran.text().contains("not proven"), "{ran}");
    assert!(ran.stderr.contains("nobody was asked"), "{ran}");
    // It is a backup all the same, and a complete one.
    let ran = cli.run(["verify", "latest"]).await.unwrap().expect(0);
    assert!(ran.stderr.contains("is not proven: nobody was asked"), "{ran}");
    let ran = cli.run(["verify", "latest", "--quiet"]).await.unwrap().expect(0);
    assert_eq!(ran.stderr, "", "no alarm in the night");
}

#[tokio::test]
async fn a_place_that_is_no_vault_stays_untouched() {
    let root = tempfile::tempdir().unwrap();
    let place = root.path().join("nothing");
    let cli = program().vault(&place);
    for command in [vec!["list"], vec!["show", "latest"], vec!["verify", "--all"]] {
        let ran = cli.run(&command).await.unwrap().expect(10);
        assert!(ran.stderr.contains("is not a vault"), "{ran}");
        assert!(!place.exists(), "{command:?} made something");
    }
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    let cli = cli.cluster(&cluster);
    let ran = cli.run(["backup", "--json"]).await.unwrap().expect(10);
    assert_eq!(ran.json()["error"]["exit_code"], 10);
    assert!(!place.exists());
}

/// Members that all advertise one address (etcd's default is localhost): the one that
/// answers there speaks for itself only.
#[tokio::test]
async fn one_member_does_not_prove_for_three() {
    let root = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::builder("3.6").members(3).prepare().await.unwrap();
    let address = cluster.members()[0].client_url();
    for member in cluster.members_mut() {
        member.spawn_with(&["--advertise-client-urls", &address]).unwrap();
    }
    for member in cluster.members_mut() {
        member.wait_ready().await.unwrap();
    }
    let vault = new_vault(root.path()).await;
    let cli = program().vault(&vault).env("ETCDCTL_ENDPOINTS", &address);
    let report = cli.run(["backup", "--json"]).await.unwrap().expect(0).json();
    let verdicts = |verdict: &str| {
        report["members"].as_array().unwrap().iter().filter(|m| m["verdict"] == verdict).count()
    };
    assert_eq!((verdicts("same"), verdicts("unknown")), (1, 2), "{report}");
    let reasons = report["proof"]["reasons"].to_string();
    assert!(reasons.contains("another member answers there"), "{reasons}");
    let status = cli.run(["status"]).await.unwrap().expect(3);
    assert!(status.text().contains("1 of 3 members answer"), "{status}");
}
