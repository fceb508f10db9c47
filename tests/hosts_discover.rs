//! `discover` on real hosts: each way in which etcd is run is found, the configuration
//! that is written finds it again, and a backup with that alone is proven.

use std::path::{Path, PathBuf};

use harness::cli::{Cli, Ran};
use harness::hosts::etcd::{EtcdHosts, Kind};
use harness::hosts::kubeadm::{Kubeadm, Size};
use harness::hosts::{Host, Hosts, Login};
use serde_json::Value;

const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// The program under test, which reaches the hosts as their operator does.
fn program(hosts: &Hosts) -> Cli {
    Cli::new(env!("CARGO_BIN_EXE_etcdvault"))
        .env("ETCDVAULT_SSH_CONFIG", hosts.ssh_config())
        .env("ETCDCTL_DIAL_TIMEOUT", "30s")
        .env("ETCDCTL_COMMAND_TIMEOUT", "30s")
}

async fn discover(cli: &Cli, more: &[&str]) -> Ran {
    let args = ["discover", "--json"].iter().chain(more);
    cli.run(args).await.unwrap()
}

fn findings(seen: &Value) -> Vec<String> {
    let list = seen["findings"].as_array().unwrap();
    list.iter()
        .map(|finding| format!("{}: {}", finding["severity"].as_str().unwrap(), finding["what"]))
        .collect()
}

/// The program as its last use over SSH left it on a host.
async fn on_host(host: &Host) -> String {
    let found = host
        .check(["find", "/var/lib/etcdvault-agent", "-name", "etcdvault", "-type", "f"])
        .await
        .unwrap();
    found.lines().next().unwrap().to_owned()
}

/// A vault of the test's own, and a folder for a configuration.
async fn vault(cli: &Cli, root: &Path) -> PathBuf {
    let vault = root.join("vault");
    let init = [Path::new("init"), &vault, Path::new("--no-encryption")];
    cli.run(init).await.unwrap().expect(0);
    vault
}

fn is_stable(seen: &Value) -> bool {
    let members = seen["cluster"]["members"].as_array().unwrap();
    members.iter().all(|member| member["error"].is_null())
}

/// Three hosts of one kind: found, written, checked, backed up; then one settings file is
/// changed without a restart.
async fn is_found(kind: Kind, version: &str, dialects: &[&str], edit: (&str, &str, &str)) {
    let cluster = EtcdHosts::start(kind, 3).await.unwrap();
    let cli = program(cluster.hosts());
    let ran = discover(&cli, &NODES).await.expect(0);
    let seen = ran.json();
    assert!(is_stable(&seen), "{ran}");
    let members = seen["cluster"]["members"].as_array().unwrap();
    assert_eq!(members.len(), 3);
    for (member, name) in members.iter().zip(NODES) {
        assert_eq!(member["name"], name);
        assert_eq!(member["node"], name);
        assert!(member["version"].as_str().unwrap().starts_with(version), "{ran}");
    }
    for (node, name) in seen["nodes"].as_array().unwrap().iter().zip(NODES) {
        assert_eq!(node["name"], name);
        assert_eq!(node["distribution"], "none");
        let etcd = &node["etcd"][0];
        assert_eq!(etcd["runs"]["kind"], "unit");
        assert_eq!(etcd["runs"]["unit"], "etcd.service");
        assert_eq!(etcd["runs"]["active"], "active");
        assert_eq!(etcd["data_dir"], kind.data_dir());
        let found: Vec<&str> = etcd["files"]
            .as_array()
            .unwrap()
            .iter()
            .map(|file| file["dialect"].as_str().unwrap())
            .collect();
        assert_eq!(found, dialects, "{ran}");
        assert_eq!(etcd["drift"].as_array().unwrap().len(), 0, "{ran}");
        assert!(etcd["running"]["pid"].as_u64().unwrap() > 1);
        let expected = if cluster.tls().is_some() { 3 } else { 0 };
        assert_eq!(node["certificates"].as_array().unwrap().len(), expected, "{ran}");
    }
    let bad: Vec<String> =
        findings(&seen).into_iter().filter(|line| !line.starts_with("note")).collect();
    assert_eq!(bad, Vec::<String>::new());

    // What is written is the same when written again, loads, and suffices for a backup.
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("etcdvault.toml");
    let path = file.to_str().unwrap();
    let write = ["discover", "n1", "n2", "n3", "-o", path, "--cluster", "field"];
    cli.run(write).await.unwrap().expect(0);
    let first = std::fs::read_to_string(&file).unwrap();
    let again = cli.run(write).await.unwrap().expect(0);
    assert!(again.text().contains("unchanged"), "{again}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), first);
    assert!(!first.contains("PRIVATE KEY"), "{first}");
    cli.run(["config", "check", path]).await.unwrap().expect(0);
    let vault = vault(&cli, root.path()).await;
    let with = ["--config", path, "--vault", vault.to_str().unwrap()];
    // The nodes' keys do not go into a vault that everybody can read.
    let refused = cli.run(["backup"].iter().chain(&with)).await.unwrap().expect(2);
    assert!(refused.stderr.contains("--no-state"), "{refused}");
    let args = ["backup", "--allow-unencrypted", "--json"];
    let ran = cli.run(args.iter().chain(&with)).await.unwrap().expect(0);
    let backup = ran.json();
    assert_eq!(backup["cluster"], "field");
    assert_eq!(backup["proof"]["state"], "proven", "{ran}");
    let same = backup["members"].as_array().unwrap();
    assert_eq!(same.iter().filter(|member| member["verdict"] == "same").count(), 3, "{ran}");
    assert_eq!(backup["state"]["nodes"].as_array().unwrap().len(), 3, "{ran}");

    // A file that was changed under a running member is drift, on its node alone.
    let host = cluster.hosts().host(1);
    let (file, from, to) = edit;
    let text = String::from_utf8(host.read(file).await.unwrap()).unwrap();
    assert!(text.contains(from), "{text}");
    host.write(file, text.replace(from, to).as_bytes()).await.unwrap();
    let seen = discover(&cli, &NODES).await.expect(0).json();
    let found = findings(&seen);
    assert!(found.iter().any(|line| line.starts_with("warning: \"")), "{found:?}");
    for (node, name) in seen["nodes"].as_array().unwrap().iter().zip(NODES) {
        let own = node["findings"].as_array().unwrap();
        let warned = own.iter().any(|finding| finding["severity"] == "warning");
        assert_eq!(warned, name == "n2", "{own:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn debian_12s_environment_file_is_found() {
    let edit = (
        "/etc/default/etcd",
        "ETCD_NAME=\"n2\"",
        "ETCD_NAME=\"n2\"\nETCD_HEARTBEAT_INTERVAL=\"250\"",
    );
    is_found(Kind::Debian12, "3.4.23", &["unit", "environment-file"], edit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn debian_13s_environment_file_with_tls_is_found() {
    let edit = (
        "/etc/default/etcd",
        "ETCD_NAME=\"n2\"",
        "ETCD_NAME=\"n2\"\nETCD_HEARTBEAT_INTERVAL=\"250\"",
    );
    is_found(Kind::Debian13, "3.5.16", &["unit", "environment-file"], edit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_with_arguments_and_a_drop_in_is_found() {
    let edit = (
        "/etc/systemd/system/etcd.service.d/10-limits.conf",
        "ETCD_QUOTA_BACKEND_BYTES=4294967296",
        "ETCD_QUOTA_BACKEND_BYTES=8589934592",
    );
    is_found(Kind::Unit, "3.6.", &["unit", "drop-in"], edit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_yaml_file_is_found() {
    let edit = ("/etc/etcd/etcd.yaml", "name: n2", "name: n2\nheartbeat-interval: 250");
    is_found(Kind::ConfigFile, "3.6.", &["unit", "config-file"], edit).await;
}

/// On a node without any argument, and with a node that is off: said, exit code 3.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_finds_its_cluster_and_says_what_is_off() {
    let mut cluster = EtcdHosts::start(Kind::Debian13, 3).await.unwrap();
    let cli = program(cluster.hosts());
    discover(&cli, &["n1"]).await.expect(0);
    let host = cluster.hosts().host(0);
    let program = on_host(host).await;
    let said = host.check([program.as_str(), "discover", "--json"]).await.unwrap();
    let seen: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(seen["nodes"].as_array().unwrap().len(), 1);
    assert_eq!(seen["nodes"][0]["name"], "n1");
    assert_eq!(seen["cluster"]["members"].as_array().unwrap().len(), 3);
    assert_eq!(seen["cluster"]["credential"]["here"], true);
    // The file that it writes there suffices there.
    host.check([program.as_str(), "discover", "-o", "/root/etcdvault.toml"]).await.unwrap();
    host.check([program.as_str(), "config", "check", "/root/etcdvault.toml"]).await.unwrap();
    let status = ["status", "--json", "--config", "/root/etcdvault.toml"];
    let said = host.check([program.as_str()].iter().chain(&status)).await.unwrap();
    let status: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(status["members"].as_array().unwrap().len(), 3);

    cluster.hosts_mut().host_mut(2).power_off_hard().await.unwrap();
    cluster.wait_healthy().await.unwrap();
    let cli = cli.env("ETCDCTL_DIAL_TIMEOUT", "5s");
    let ran = discover(&cli, &NODES).await.expect(3);
    let seen = ran.json();
    assert_eq!(seen["unreached"][0]["node"], "n3", "{ran}");
    let members = seen["cluster"]["members"].as_array().unwrap();
    assert!(members[2]["error"].is_string(), "{ran}");
    assert!(members[0]["error"].is_null() && members[1]["error"].is_null(), "{ran}");
}

/// Another login than root, through a jump host: the nodes are seen whole; the cluster
/// behind it cannot be asked from here, and that is said.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_looks_through_a_jump_host() {
    let more = |hosts: harness::hosts::Builder| hosts.login(Login::Operator).jump();
    let cluster = EtcdHosts::start_with(Kind::Unit, 1, more).await.unwrap();
    let cli = program(cluster.hosts()).env("ETCDCTL_DIAL_TIMEOUT", "3s");
    let ran = discover(&cli, &["n1"]).await.expect(3);
    let seen = ran.json();
    assert_eq!(seen["nodes"][0]["facts"]["uid"], 0, "{ran}");
    assert_eq!(
        seen["nodes"][0]["etcd"][0]["running"]["uid"].as_u64().map(|uid| uid > 0),
        Some(true)
    );
    assert!(seen["cluster"].is_null(), "{ran}");
    assert!(!seen["silence"].as_array().unwrap().is_empty(), "{ran}");
}

/// row 25
#[tokio::test(flavor = "multi_thread")]
async fn a_kubeadm_control_plane_is_found_without_any_flag() {
    let cluster = Kubeadm::start(Size::One).await.unwrap();
    let host = cluster.hosts().host(0);
    let cli = program(cluster.hosts());
    let name = host.name().to_owned();
    discover(&cli, &[name.as_str()]).await.expect(0);
    let program = on_host(host).await;
    let said = host.check([program.as_str(), "discover", "--json"]).await.unwrap();
    let seen: Value = serde_json::from_str(&said).unwrap();
    let node = &seen["nodes"][0];
    assert_eq!(node["distribution"], "kubeadm");
    let etcd = &node["etcd"][0];
    assert_eq!(etcd["runs"]["kind"], "static-pod", "{said}");
    assert_eq!(etcd["runs"]["manifest"], "/etc/kubernetes/manifests/etcd.yaml");
    assert_eq!(etcd["runs"]["container"]["running"], true);
    assert_eq!(etcd["data_dir"], "/var/lib/etcd");
    assert_eq!(etcd["drift"].as_array().unwrap().len(), 0, "{said}");
    assert_eq!(node["api_servers"][0]["runs"]["kind"], "static-pod");
    assert!(node["api_servers"][0]["running"]["pid"].as_u64().unwrap() > 1);
    let members = seen["cluster"]["members"].as_array().unwrap();
    assert_eq!((members.len(), &members[0]["node"]), (1, &node["name"]));
    let certificates = node["certificates"].as_array().unwrap();
    for path in ["etcd/ca.crt", "etcd/server.crt", "etcd/peer.crt", "apiserver-etcd-client.crt"] {
        let path = format!("/etc/kubernetes/pki/{path}");
        assert!(certificates.iter().any(|found| found["path"] == path.as_str()), "{said}");
    }
    // People read the same.
    let text = host.check([program.as_str(), "discover"]).await.unwrap();
    assert!(text.contains("static pod /etc/kubernetes/manifests/etcd.yaml (running)"), "{text}");

    // A copy of the manifest kept beside it is a second pod.
    let manifest = host.read("/etc/kubernetes/manifests/etcd.yaml").await.unwrap();
    let stopped = ["systemctl", "stop", "kubelet"];
    host.check(stopped).await.unwrap();
    host.write("/etc/kubernetes/manifests/etcd.yaml.bak", &manifest).await.unwrap();
    let said = host.check([program.as_str(), "discover", "--json"]).await.unwrap();
    let seen: Value = serde_json::from_str(&said).unwrap();
    let found = findings(&seen);
    assert!(found[0].starts_with("problem") && found[0].contains("etcd.yaml.bak"), "{found:?}");
}
