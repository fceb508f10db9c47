//! `state return` on real hosts: three members under systemd are saved, ruined, and
//! brought back by the real program through SSH; and back again.

#[path = "common/field.rs"]
mod field;

use field::{CLUSTER, Field, picture, pictures, printed, same, told, typed};
use harness::hosts::Host;
use harness::hosts::etcd::{EtcdHosts, Kind};

const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// What a state holds of these hosts, and whether the unit starts at boot.
const ROOTS: [&str; 4] = [
    "/etc/etcd",
    "/etc/systemd/system/etcd.service",
    "/etc/systemd/system/etcd.service.d",
    "/etc/systemd/system/multi-user.target.wants",
];
const UNIT: &str = "/etc/systemd/system/etcd.service";
const LIMITS: &str = "/etc/systemd/system/etcd.service.d/10-limits.conf";
const STRAY: &str = "/etc/systemd/system/etcd.service.d/99-stray.conf";

async fn replace(host: &Host, path: &str, from: &str, to: &str) {
    let text = String::from_utf8(host.read(path).await.unwrap()).unwrap();
    assert!(text.contains(from), "{text}");
    host.write(path, text.replace(from, to).as_bytes()).await.unwrap();
}

/// n1 does not start any more and lacks a certificate, n2's key is everybody's, n3 has
/// other settings and a drop-in too many.
async fn ruin(hosts: &[Host]) {
    let [n1, n2, n3] = hosts else { panic!("three hosts") };
    n1.check(["rm", "/etc/etcd/pki/peer.crt"]).await.unwrap();
    replace(n1, UNIT, "/usr/local/bin/etcd ", "/usr/local/bin/etcd --no-such-flag ").await;
    n1.check(["systemctl", "daemon-reload"]).await.unwrap();
    n1.run(["systemctl", "restart", "--no-block", "etcd.service"]).await.unwrap();
    n2.check(["chmod", "0644", "/etc/etcd/pki/server.key"]).await.unwrap();
    n2.check(["chown", "root:root", "/etc/etcd/pki/server.key"]).await.unwrap();
    replace(n3, LIMITS, "4294967296", "8589934592").await;
    n3.write(STRAY, b"[Service]\nEnvironment=ETCD_HEARTBEAT_INTERVAL=150\n").await.unwrap();
}

async fn is_active(host: &Host) -> bool {
    let said = host.run(["systemctl", "is-active", "etcd.service"]).await.unwrap();
    said.stdout.starts_with(b"active")
}

/// row 10, row 23: files come back with content, owner and mode; what was too much is
/// gone; the cluster lives with all that was written. The state before the return is a
/// state like any other, and a plan that is done is taken back.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-all runs it"]
async fn row_10_row_23_three_nodes_are_saved_ruined_and_returned() {
    let cluster = EtcdHosts::start(Kind::Unit, 3).await.unwrap();
    let hosts = cluster.members();
    let field = Field::of(cluster.hosts(), &NODES).await;
    cluster.etcdctl(0, ["put", "before", "1"]).await.unwrap();
    // An older backup that is proven is not newer than a state that nobody can compare.
    field.run(&["backup"]).await.expect(0);
    let state = field.save().await;
    let good = pictures(hosts, &ROOTS).await;
    let ran = field.run(&["state", "return", "latest", "--yes"]).await.expect(0);
    assert!(ran.text().contains("there is nothing to do"), "{ran}");

    another_topology(&cluster, &field).await;
    ruin(hosts).await;
    cluster.etcdctl(1, ["put", "meanwhile", "2"]).await.unwrap();
    let ruined = pictures(hosts, &ROOTS).await;
    let ran = field.run(&["state", "diff", "latest", "--exit-code"]).await.expect(3);
    for line in [
        "n1: /etc/etcd/pki/peer.crt: removed",
        "n1: /etc/systemd/system/etcd.service: changed",
        "n2: /etc/etcd/pki/server.key: owner, mode or attributes",
        "n3: /etc/systemd/system/etcd.service.d/10-limits.conf: changed",
        "n3: /etc/systemd/system/etcd.service.d/99-stray.conf: added",
    ] {
        assert!(ran.text().contains(line), "{line}: {ran}");
    }

    // Looking changes nothing, and nobody is there to be asked.
    let back = ["state", "return", "latest"];
    let ran = field.run(&[&back[..], &["--dry-run"]].concat()).await.expect(0);
    for part in [CLUSTER, state.as_str(), "stop etcd", "start etcd", "set files", "UNDONE BY"] {
        assert!(ran.text().contains(part), "{part}: {ran}");
    }
    let plan = field.run(&[&back[..], &["--dry-run", "--json"]].concat()).await.expect(0).json();
    assert_eq!(plan["cluster"], CLUSTER);
    assert!(plan["stages"].as_array().unwrap().len() >= 5, "{plan}");
    let ran = field.run(&back).await.expect(2);
    assert!(ran.stderr.contains("--yes"), "{ran}");
    same("after looking", &ruined, &pictures(hosts, &ROOTS).await);
    assert!(field.plans().await.is_empty());

    let ran = field.run(&[&back[..], &["--yes", "--json"]].concat()).await.expect(0);
    let done = ran.json();
    assert_eq!(done["ending"], "applied", "{ran}");
    let before = done["outputs"]["saved"].as_str().unwrap().to_owned();
    let first = done["plan"].as_str().unwrap().to_owned();
    assert!(done["verified"].as_array().unwrap().len() == 3, "{ran}");
    same("returned", &good, &pictures(hosts, &ROOTS).await);
    cluster.wait_healthy().await.unwrap();
    let kept = cluster.etcdctl(0, ["get", "--prefix", ""]).await.unwrap();
    assert_eq!(kept, "before\n1\nmeanwhile\n2\n");
    // What the plan stored before is not what is meant by the latest.
    let ran = field.run(&[&back[..], &["--dry-run"]].concat()).await.expect(0);
    assert!(ran.text().contains("there is nothing to do"), "{ran}");
    let listed = field.run(&["state", "list"]).await.expect(0);
    assert!(listed.text().contains(&format!("(before plan {first})")), "{listed}");

    // To the state before the return, which is the ruin; n1 did not run in it.
    let ran = field.run(&["state", "return", &before, "--yes"]).await.expect(0);
    assert!(ran.text().contains("is done"), "{ran}");
    same("ruined again", &ruined, &pictures(hosts, &ROOTS).await);
    assert!(!is_active(&hosts[0]).await && is_active(&hosts[2]).await);
    cluster.etcdctl(1, ["put", "third", "3"]).await.unwrap();

    // And that one is taken back, as a whole.
    let second = field.plans().await[0].0.clone();
    let command = printed(&ran.text(), "go back");
    assert_eq!(command, ["rollback", second.as_str()]);
    let shown = field.run(&["journal", "show", &second]).await.expect(0);
    assert!(shown.text().contains("forward  by "), "{shown}");
    field.run(&["rollback", &second]).await.expect(0);
    same("taken back", &good, &pictures(hosts, &ROOTS).await);
    cluster.wait_healthy().await.unwrap();
    let kept = cluster.etcdctl(0, ["get", "--prefix", "--keys-only", ""]).await.unwrap();
    assert_eq!(kept.split_whitespace().collect::<Vec<_>>(), ["before", "meanwhile", "third"]);
    let endings: Vec<String> =
        field.plans().await.iter().map(|(id, ending)| format!("{id} {ending}")).collect();
    assert_eq!(endings, [format!("{second} \"rolled-back\""), format!("{first} \"applied\"")]);
    // Twice is told, not done.
    let ran = field.run(&["rollback", &second]).await.expect(0);
    assert!(ran.to_string().contains("was rolled back before"), "{ran}");

    by_hand(&cluster, &field, &good[2]).await;
    // What the documents tell a person to type.
    hosts[2].write(STRAY, b"[Service]\nEnvironment=ETCD_HEARTBEAT_INTERVAL=150\n").await.unwrap();
    let before = pictures(hosts, &ROOTS).await;
    for document in ["docs/runbook/return-a-node.md", "README.md"] {
        told(&field, cluster.hosts(), document).await;
        same(document, &before, &pictures(hosts, &ROOTS).await);
        cluster.wait_healthy().await.unwrap();
    }
}

/// A member that its peers reach elsewhere is another topology: named and refused before
/// anything is changed, and shown as what differs where somebody insists.
async fn another_topology(cluster: &EtcdHosts, field: &Field) {
    let listed = cluster.etcdctl(0, ["member", "list"]).await.unwrap();
    let line = listed.lines().find(|line| line.contains(", n3, ")).unwrap();
    let parts: Vec<&str> = line.split(", ").collect();
    let (id, peers) = (parts[0], parts[3]);
    let update = async |urls: &str| {
        let urls = format!("--peer-urls={urls}");
        cluster.etcdctl(0, ["member", "update", id, urls.as_str()]).await.unwrap();
    };
    let pictured = pictures(cluster.members(), &ROOTS).await;
    // It is reached there as before: both lead to the same port.
    let other = format!("{peers},{}", peers.replace(":2380", ":2381"));
    update(&other).await;
    let ran = field.run(&["state", "return", "latest", "--yes"]).await.expect(1);
    assert!(ran.stderr.contains(&format!("peers of n3 were {peers}, and are {other}")), "{ran}");
    assert!(ran.stderr.contains("--force-topology"), "{ran}");
    assert!(field.plans().await.is_empty(), "nothing is begun");
    same("refused", &pictured, &pictures(cluster.members(), &ROOTS).await);
    let n3 = &cluster.members()[2];
    n3.write(STRAY, b"[Service]\n").await.unwrap();
    let force = ["state", "return", "latest", "--force-topology", "--dry-run"];
    let ran = field.run(&force).await.expect(0);
    assert!(ran.text().contains("Differs   peers of n3 were"), "{ran}");
    assert!(field.plans().await.is_empty(), "nothing is begun");
    n3.check(["rm", STRAY]).await.unwrap();
    n3.check(["systemctl", "daemon-reload"]).await.unwrap();
    update(peers).await;
    same("as before", &pictured, &pictures(cluster.members(), &ROOTS).await);
    cluster.wait_healthy().await.unwrap();
}

/// A file of one node comes back, and is taken back: the short form of what follows, for
/// every run of the tests.
#[tokio::test(flavor = "multi_thread")]
async fn row_23_one_file_of_a_node_is_returned_and_taken_back() {
    const SETTINGS: &str = "/etc/etcd/etcd.yaml";
    let cluster = EtcdHosts::start(Kind::ConfigFile, 1).await.unwrap();
    let hosts = cluster.members();
    let field = Field::of(cluster.hosts(), &["n1"]).await;
    cluster.etcdctl(0, ["put", "kept", "1"]).await.unwrap();
    field.save().await;
    let good = pictures(hosts, &["/etc/etcd"]).await;
    hosts[0].check(["sed", "-i", "1i # changed", SETTINGS]).await.unwrap();
    let ruined = pictures(hosts, &["/etc/etcd"]).await;
    let ran = field.run(&["state", "return", "latest", "--yes", "--json"]).await.expect(0);
    assert_eq!(ran.json()["ending"], "applied", "{ran}");
    same("returned", &good, &pictures(hosts, &["/etc/etcd"]).await);
    assert!(is_active(&hosts[0]).await);
    field.run(&["rollback", ran.json()["plan"].as_str().unwrap()]).await.expect(0);
    same("taken back", &ruined, &pictures(hosts, &["/etc/etcd"]).await);
    cluster.wait_healthy().await.unwrap();
    assert_eq!(cluster.etcdctl(0, ["get", "kept"]).await.unwrap(), "kept\n1\n");
}

/// The plan as stock commands is typed where it says.
async fn by_hand(cluster: &EtcdHosts, field: &Field, good: &[String]) {
    let n3 = &cluster.members()[2];
    n3.write(STRAY, b"[Service]\nEnvironment=ETCD_HEARTBEAT_INTERVAL=150\n").await.unwrap();
    replace(n3, LIMITS, "4294967296", "8589934592").await;
    typed(field, cluster.hosts(), &["state", "return", "latest", "--node", "n3", "--as-shell"])
        .await;
    same("by hand", &[good.to_vec()], &[picture(n3, &ROOTS).await]);
    cluster.wait_healthy().await.unwrap();
    // No copy of the state is left behind.
    let left = n3.check(["ls", "/var/lib/etcdvault/aside/by-hand"]).await.unwrap();
    assert!(!left.contains("state") && !left.contains(".tar"), "{left}");
}

/// Data as stock commands: every member's directory is built by etcd's own program, all
/// stop, all start.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-all runs it"]
async fn row_23_data_is_returned_by_hand() {
    let cluster = EtcdHosts::start(Kind::Unit, 3).await.unwrap();
    let field = Field::of(cluster.hosts(), &NODES).await;
    cluster.etcdctl(0, ["put", "by-hand", "before"]).await.unwrap();
    let kept = cluster.etcdctl(0, ["get", "--prefix", ""]).await.unwrap();
    let saved = field.run(&["state", "save", "--with-data", "--json"]).await.expect(0).json();
    let id = saved["id"].as_str().unwrap();
    cluster.etcdctl(0, ["put", "by-hand", "after"]).await.unwrap();
    cluster.etcdctl(0, ["put", "later", "1"]).await.unwrap();
    typed(&field, cluster.hosts(), &["state", "return", id, "--only", "data", "--as-shell"]).await;
    cluster.wait_healthy().await.unwrap();
    let mut hashes = Vec::new();
    for (place, host) in cluster.members().iter().enumerate() {
        assert_eq!(cluster.etcdctl(place, ["get", "--prefix", ""]).await.unwrap(), kept);
        let said = cluster.etcdctl(place, ["endpoint", "hashkv", "-w", "json"]).await.unwrap();
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        hashes.push(said.pointer("/0/HashKV/hash").unwrap().clone());
        let enabled = host.check(["systemctl", "is-enabled", "etcd.service"]).await.unwrap();
        assert_eq!(enabled.trim(), "enabled");
        // The plain snapshot is gone, the data of before is not.
        let left = host.check(["ls", "/root", cluster.kind().data_dir()]).await.unwrap();
        assert!(!left.contains(".db") && !left.contains(".build"), "{left}");
        assert!(left.contains("member.before-by-hand"), "{left}");
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
}
