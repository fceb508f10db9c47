//! `discover` on real hosts: each way in which etcd is run is found, the configuration
//! that is written finds it again, and a backup with that alone is proven.

use std::path::{Path, PathBuf};

use harness::cli::{Cli, Ran};
use harness::hosts::etcd::{EtcdHosts, Kind};
use harness::hosts::kubeadm::{Kubeadm, Size};
use harness::hosts::{Host, Hosts, Image, Login};
use harness::process::Process;
use serde_json::Value;

#[path = "common/field.rs"]
mod field;

const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// The program under test, which reaches the hosts as their operator does: the one that
/// was built for the tests, or the one that is to be handed out.
fn program(hosts: &Hosts) -> Cli {
    let built = env!("CARGO_BIN_EXE_etcdvault").into();
    Cli::new(std::env::var_os("ETCDVAULT_TEST_PROGRAM").unwrap_or(built))
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

/// What looking at the hosts of a cluster and saving their states could change: their
/// files, how their etcd runs, and who has which part of its data.
async fn untouched(cluster: &EtcdHosts) -> Vec<Vec<String>> {
    let data = cluster.kind().data_dir();
    let mut all = field::pictures(cluster.members(), &["/etc", "/root", "/usr/local"]).await;
    for (host, lines) in cluster.members().iter().zip(&mut all) {
        let shown = ["ActiveState", "UnitFileState", "InvocationID", "MainPID", "NRestarts"];
        let show = ["systemctl", "show", "etcd.service", "--property", &shown.join(",")];
        let find = ["find", data, "-maxdepth", "2", "-printf", "%p %y %m %u:%g\n"];
        for said in [host.check(show).await.unwrap(), host.check(find).await.unwrap()] {
            lines.extend(said.lines().map(str::to_owned));
        }
        let member = format!("{data}/member/wal d ");
        assert!(lines.iter().any(|line| line.starts_with(&member)), "{lines:?}");
        assert!(lines.contains(&"ActiveState=active".to_owned()), "{lines:?}");
    }
    all
}

/// Three hosts of one kind: found, written, checked, backed up, and left as they were;
/// then one settings file is changed without a restart.
async fn is_found(kind: Kind, version: &str, dialects: &[&str], edit: (&str, &str, &str)) {
    let cluster = EtcdHosts::start(kind, 3).await.unwrap();
    let cli = program(cluster.hosts());
    let before = untouched(&cluster).await;
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
    let alone = ["backup", "--no-state", "--json"];
    let ran = cli.run(alone.iter().chain(&with)).await.unwrap().expect(0);
    let backup = ran.json();
    assert_eq!((&backup["proof"]["state"], &backup["state"]), (&"proven".into(), &Value::Null));
    let id = backup["id"].as_str().unwrap();
    let shown = cli.run(["show", id, "--json"].iter().chain(&with)).await.unwrap().expect(0);
    let objects = shown.json()["objects"].as_array().unwrap().clone();
    assert!(objects.iter().all(|object| object["role"] == "snapshot"), "{shown}");
    assert_eq!(objects.len(), 1, "{shown}");
    let args = ["backup", "--allow-unencrypted", "--json"];
    let ran = cli.run(args.iter().chain(&with)).await.unwrap().expect(0);
    let backup = ran.json();
    assert_eq!(backup["cluster"], "field");
    assert_eq!(backup["proof"]["state"], "proven", "{ran}");
    let same = backup["members"].as_array().unwrap();
    assert_eq!(same.iter().filter(|member| member["verdict"] == "same").count(), 3, "{ran}");
    assert_eq!(backup["state"]["nodes"].as_array().unwrap().len(), 3, "{ran}");
    field::same("looked at", &before, &untouched(&cluster).await);

    let host = cluster.hosts().host(1);
    let (file, from, to) = edit;
    let text = String::from_utf8(host.read(file).await.unwrap()).unwrap();
    // row 7: lists of members that differ are found, and only then.
    if text.contains("ETCD_INITIAL_CLUSTER=") {
        let other = text.replace("n3=", "n4=");
        host.write(file, other.as_bytes()).await.unwrap();
        let found = findings(&discover(&cli, &NODES).await.expect(0).json());
        let differs = "initial-cluster differs between nodes: n1,n3 | n2";
        assert!(found.iter().any(|line| line.contains(differs)), "{found:?}");
        host.write(file, text.as_bytes()).await.unwrap();
    }
    let aligned = findings(&discover(&cli, &NODES).await.expect(0).json());
    assert!(!aligned.iter().any(|line| line.contains("differs between")), "{aligned:?}");

    // A file that was changed under a running member is drift, on its node alone.
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

    // Against the state, what runs where comes before the files.
    host.check(["systemctl", "disable", "etcd.service"]).await.unwrap();
    let diff = ["state", "diff", "latest", "--exit-code"];
    let text = cli.run(diff.iter().chain(&with)).await.unwrap().expect(3).text();
    let unit = text.find("n2: unit etcd.service: active, enabled → active, disabled\n");
    let changed = text.find(&format!("n2: {file}: changed\n"));
    assert!(unit.is_some() && unit < changed, "{text}");
    let first = text.find("n2: /etc/").unwrap();
    assert!(text[first..].lines().all(|line| !line.contains(": unit ")), "{text}");
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

    // Of a person's own file nothing is lost.
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("etcdvault.toml");
    let path = file.to_str().unwrap();
    let write = ["discover", "n1", "n2", "n3", "--cluster", "prod", "-o", path];
    cli.run(write).await.unwrap().expect(0);
    let first = std::fs::read_to_string(&file).unwrap();
    let mine = format!("# by hand\n{first}");
    std::fs::write(&file, &mine).unwrap();
    let refused = cli.run(write).await.unwrap().expect(2);
    for said in ["another file is there", "it is unchanged", "--force", "-o - | diff"] {
        assert!(refused.stderr.contains(said), "{refused}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), mine);
    let forced = write.iter().chain(&["--force"]);
    let ran = cli.run(forced).await.unwrap().expect(0);
    assert!(ran.text().contains("replaced"), "{ran}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), first);
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);

    cluster.hosts_mut().host_mut(2).power_off_hard().await.unwrap();
    cluster.wait_healthy().await.unwrap();
    let cli = cli.env("ETCDCTL_DIAL_TIMEOUT", "5s");
    // What could not be reached is said to whoever reads the file, too.
    let partly = root.path().join("partly.toml");
    let write = ["discover", "n1", "n2", "n3", "--cluster", "prod", "-o"].map(Path::new);
    let ran = cli.run(write.into_iter().chain([partly.as_path()])).await.unwrap().expect(3);
    assert!(ran.stderr.contains("n3: NOT REACHED"), "{ran}");
    let text = std::fs::read_to_string(&partly).unwrap();
    assert!(text.contains("# n3 was not reached."), "{text}");
    let ran = discover(&cli, &NODES).await.expect(3);
    let seen = ran.json();
    assert_eq!(seen["unreached"][0]["node"], "n3", "{ran}");
    let members = seen["cluster"]["members"].as_array().unwrap();
    assert!(members[2]["error"].is_string(), "{ran}");
    assert!(members[0]["error"].is_null() && members[1]["error"].is_null(), "{ran}");
}

/// Rows 1 and 2: a member as Debian's package starts it, which only its own machine
/// reaches, is told as such; so is what became of it when it was set up for others.
#[tokio::test(flavor = "multi_thread")]
async fn row_1_and_row_2_a_member_on_localhost_and_its_way_out() {
    let hosts = Hosts::builder().hosts(1, Image::Debian12).start().await.unwrap();
    let cli = program(&hosts).env("ETCDCTL_DIAL_TIMEOUT", "5s");
    let host = hosts.host(0);
    host.check(["systemctl", "start", "etcd"]).await.unwrap();
    let ran = discover(&cli, &["n1"]).await.expect(3);
    let seen = ran.json();
    assert!(seen["cluster"].is_null(), "{ran}");
    let alone = "serves its own machine alone";
    assert!(findings(&seen).iter().any(|line| line.contains(alone)), "{ran}");
    // There it is reached, and what its peers would be told is said.
    let program = on_host(host).await;
    let said = host.check([program.as_str(), "discover", "--json"]).await.unwrap();
    let seen: Value = serde_json::from_str(&said).unwrap();
    let member = &seen["cluster"]["members"][0];
    assert_eq!(member["peer_urls"][0], "http://localhost:2380", "{said}");
    let told = "tells its peers http://localhost:2380: no other machine reaches it";
    assert!(findings(&seen).iter().any(|line| line.contains(told)), "{said}");

    // The procedure: files first, then the list of members, then the start.
    let at = |port| format!("http://{}:{port}", host.address());
    let text = format!(
        "ETCD_NAME=\"n1\"\nETCD_LISTEN_PEER_URLS=\"{peer}\"\nETCD_LISTEN_CLIENT_URLS=\"{client},\
         http://localhost:2379\"\nETCD_ADVERTISE_CLIENT_URLS=\"{client}\"\n\
         ETCD_INITIAL_ADVERTISE_PEER_URLS=\"{peer}\"\nETCD_INITIAL_CLUSTER=\"n1={peer}\"\n",
        peer = at(2380),
        client = at(2379),
    );
    host.write("/etc/default/etcd", text.as_bytes()).await.unwrap();
    let id = member["id"].as_str().unwrap();
    let update = ["env", "ETCDCTL_API=3", "etcdctl", "member", "update", id];
    let urls = format!("--peer-urls={}", at(2380));
    host.check(update.iter().chain(&[urls.as_str()])).await.unwrap();
    host.check(["systemctl", "restart", "etcd"]).await.unwrap();
    let ran = discover(&cli, &["n1"]).await.expect(0);
    let seen = ran.json();
    let member = &seen["cluster"]["members"][0];
    assert_eq!((&member["name"], &member["node"]), (&"n1".into(), &"n1".into()), "{ran}");
    assert_eq!(member["peer_urls"], serde_json::json!([at(2380)]), "{ran}");
    assert_eq!(member["client_urls"], serde_json::json!([at(2379)]), "{ran}");
    let left: Vec<String> = findings(&seen)
        .into_iter()
        .filter(|line| line.contains(alone) || line.contains("no other machine"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
}

/// A name server on the hosts' gateway that knows nothing but these records.
async fn name_server(hosts: &Hosts, records: &[String]) -> Process {
    let address = hosts.gateway().to_string();
    let mut args: Vec<String> = [
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--pid-file=",
        "--log-facility=-",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
        "--except-interface=lo",
        "--port=53",
        "--local=/example.test/",
        "--user=root",
    ]
    .map(str::to_owned)
    .into();
    args.push(format!("--listen-address={address}"));
    let names = hosts.all().iter();
    args.extend(names.map(|h| format!("--host-record={}.example.test,{}", h.name(), h.address())));
    args.extend(records.iter().cloned());
    let places = ["/usr/sbin/dnsmasq", "/usr/bin/dnsmasq"].map(Path::new);
    let dnsmasq = places.into_iter().find(|path| path.exists());
    let dnsmasq = dnsmasq.expect("dnsmasq is installed by tests/servers/deps.sh");
    let log = hosts.directory().join("dnsmasq.log");
    let mut process = Process::start(dnsmasq, args, &[], &log).unwrap();
    let begun = std::time::Instant::now();
    while std::net::TcpStream::connect((hosts.gateway(), 53)).is_err() {
        assert!(process.ended().unwrap().is_none(), "{}", process.tail());
        assert!(begun.elapsed().as_secs() < 60, "{}", process.tail());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    process
}

/// Rows 13 and 14: members that find each other by SRV records are found with these, TLS
/// first; and what etcd 3.4 makes of records without TLS is said as etcd does it.
#[tokio::test(flavor = "multi_thread")]
async fn row_13_and_row_14_members_by_srv_records() {
    let cluster = EtcdHosts::start(Kind::Debian12, 3).await.unwrap();
    let hosts = cluster.hosts();
    let record = |service: &str, host: &str, port: u16| {
        format!("--srv-host={service}._tcp.example.test,{host}.example.test,{port}")
    };
    let mut records = vec![record("_etcd-client-ssl-field", "n2", 4379)];
    for name in NODES {
        records.push(record("_etcd-client-field", name, 2379));
        records.push(record("_etcd-server-field", name, 2380));
    }
    let _dns = name_server(hosts, &records).await;
    let server = format!("nameserver {}\n", hosts.gateway());
    for host in hosts.all() {
        host.write("/etc/resolv.conf", server.as_bytes()).await.unwrap();
        let file = cluster.kind().settings_file();
        let text = String::from_utf8(host.read(file).await.unwrap()).unwrap();
        let kept = text.lines().filter(|line| !line.starts_with("ETCD_INITIAL_CLUSTER="));
        let kept: String = kept.map(|line| format!("{line}\n")).collect();
        let srv = "ETCD_DISCOVERY_SRV=example.test\nETCD_DISCOVERY_SRV_NAME=field\n";
        host.write(file, format!("{kept}{srv}").as_bytes()).await.unwrap();
        host.check(["systemctl", "restart", "etcd"]).await.unwrap();
        cluster.wait_healthy().await.unwrap();
    }

    let asked = format!("{}:53", hosts.gateway());
    let cli = program(hosts).env("ETCDVAULT_DISCOVERY_SRV_NAMESERVER", &asked);
    let ran = discover(&cli, &NODES).await.expect(0);
    let seen = ran.json();
    let srv = &seen["srv"];
    assert_eq!((&srv["domain"], &srv["name"]), (&"example.test".into(), &"field".into()));
    let endpoints: Vec<&str> =
        srv["endpoints"].as_array().unwrap().iter().map(|url| url.as_str().unwrap()).collect();
    assert_eq!(
        endpoints,
        [
            "https://n2.example.test:4379",
            "http://n1.example.test:2379",
            "http://n2.example.test:2379",
            "http://n3.example.test:2379",
        ]
    );
    let found = findings(&seen);
    assert!(found[0].starts_with("problem"), "{found:?}");
    for said in ["etcd 3.4.23 does not bootstrap", "_etcd-server-ssl-field._tcp.example.test"] {
        assert!(found[0].contains(said), "{found:?}");
    }
    let hint = seen["findings"][0]["hint"].as_str().unwrap();
    assert!(hint.contains("upgrade to etcd 3.5"), "{hint}");
    // The member itself says the same.
    let host = hosts.host(0);
    let alone = "exec timeout 60 etcd --name n1 --data-dir /tmp/alone --discovery-srv example.test \
                 --discovery-srv-name field --listen-peer-urls http://127.0.0.1:12380 \
                 --listen-client-urls http://127.0.0.1:12379 --advertise-client-urls \
                 http://127.0.0.1:12379 --initial-advertise-peer-urls http://n1.example.test:2380";
    let failed = host.run(["sh", "-c", alone]).await.unwrap();
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(!matches!(failed.status.code(), Some(0 | 124)), "{said}");
    assert!(said.contains("_etcd-server-ssl-field"), "{said}");

    // The file has the domain in place of endpoints; on a node that alone leads to all.
    let write = ["discover", "n1", "n2", "n3", "--cluster", "field", "-o", "-"];
    let text = cli.run(write).await.unwrap().expect(0).text();
    for line in ["discovery-srv = \"example.test\"", "discovery-srv-name = \"field\""] {
        assert!(text.contains(line), "{text}");
    }
    assert!(text.contains(&asked) && !text.contains("endpoints ="), "{text}");
    let program = on_host(host).await;
    let said = host.run([program.as_str(), "discover", "--json"]).await.unwrap();
    let seen: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(seen["srv"]["endpoints"].as_array().unwrap().len(), 4, "{seen}");
    assert!(seen["srv"]["nameserver"].is_null(), "{seen}");
    host.check([program.as_str(), "discover", "-o", "/root/etcdvault.toml"]).await.unwrap();
    // One record leads nowhere: all others are members, and that is said.
    let status = [program.as_str(), "status", "--json", "--config", "/root/etcdvault.toml"];
    let ran = host.run(status).await.unwrap();
    assert_eq!(ran.status.code(), Some(3));
    let status: Value = serde_json::from_slice(&ran.stdout).unwrap();
    let answered = status["members"].as_array().unwrap().iter().filter(|m| !m["status"].is_null());
    assert_eq!(answered.count(), 3, "{status}");
}

/// Each machine that has a way of its own to restore etcd is told by it, backed up like
/// any other, and never restored by this program behind its back.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_is_refused_where_kubernetes_has_its_own() {
    let cluster = EtcdHosts::start(Kind::Unit, 1).await.unwrap();
    let cli = program(cluster.hosts());
    let host = cluster.hosts().host(0);
    let root = tempfile::tempdir().unwrap();
    let vault = vault(&cli, root.path()).await;
    let config = root.path().join("etcdvault.toml");
    let write = ["discover", "n1", "--cluster", "field", "-o"].map(Path::new);
    cli.run(write.into_iter().chain([config.as_path()])).await.unwrap().expect(0);
    let cli = cli.vault(&vault).env("ETCDVAULT_CONFIG", &config);
    let program = on_host(host).await;
    for (mark, name, own) in [
        ("/var/lib/rancher/k3s/server", "k3s", "k3s server --cluster-reset"),
        ("/etc/rancher/rke2", "RKE2", "rke2 server --cluster-reset"),
        ("/etc/kubernetes/static-pod-resources", "OpenShift", "cluster-restore.sh"),
        ("/system/etc/machined", "Talos", "talosctl bootstrap --recover-from"),
    ] {
        host.check(["mkdir", "-p", mark]).await.unwrap();
        let seen = discover(&cli, &["n1"]).await.expect(0).json();
        assert_eq!(seen["nodes"][0]["distribution"], name.to_lowercase());
        let backup = ["backup", "--allow-unencrypted", "--json"];
        let report = cli.run(backup).await.unwrap().expect(0).json();
        assert_eq!(report["proof"]["state"], "proven", "{report}");

        let restore =
            [program.as_str(), "restore", "data-dir", "/root/none.db", "--data-dir", "/srv/new"];
        let ran = host.run(restore).await.unwrap();
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert_eq!(ran.status.code(), Some(2), "{said}");
        for part in [name, own, "etcdvault export latest", "nothing was changed"] {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
        assert!(!host.run(["ls", "/srv/new"]).await.unwrap().status.success());
        // For a machine that is not this one it goes on: to the file that is not there.
        let ran = host.run(restore.iter().chain(&["--for-another-machine"])).await.unwrap();
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(said.contains("none.db") && !said.contains(own), "{said}");

        let back = ["state", "return", "latest", "--dry-run"];
        let refused = cli.run(back).await.unwrap().expect(2);
        assert!(refused.stderr.contains(own), "{refused}");
        host.check(["rm", "-r", mark]).await.unwrap();
    }
}

/// An agent that holds one key, until it is dropped.
struct KeyAgent {
    child: std::process::Child,
    root: tempfile::TempDir,
}

impl KeyAgent {
    async fn with(key: &Path) -> Self {
        let root = tempfile::tempdir().unwrap();
        let socket = root.path().join("socket");
        let mut agent = std::process::Command::new("ssh-agent");
        let quiet = std::process::Stdio::null;
        let child = agent.arg("-D").arg("-a").arg(&socket).stdout(quiet()).spawn().unwrap();
        let own = Self { child, root };
        let begun = std::time::Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(begun.elapsed().as_secs() < 60, "the agent does not listen");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let mut add = std::process::Command::new("ssh-add");
        let added = add.arg("-q").arg(key).env("SSH_AUTH_SOCK", &socket).output().unwrap();
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        own
    }

    fn socket(&self) -> PathBuf {
        self.root.path().join("socket")
    }
}

impl Drop for KeyAgent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An operator who has a key in an agent alone, another login than root, and a jump host
/// before three nodes: they are seen whole, saved, and returned. The cluster's client
/// ports cannot be asked from here: that is said, and what needs them is refused.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-all runs it"]
async fn an_operator_works_through_a_jump_host() {
    let more = |hosts: harness::hosts::Builder| hosts.login(Login::Operator).jump();
    let cluster = EtcdHosts::start_with(Kind::Unit, 3, more).await.unwrap();
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    // The same way in, with the key in nobody's file.
    let config = std::fs::read_to_string(cluster.hosts().ssh_config()).unwrap();
    let own = |line: &&str| !line.contains("IdentityFile") && !line.contains("IdentityAgent");
    let config: String = config.lines().filter(own).map(|line| format!("{line}\n")).collect();
    let config = config.replace("IdentitiesOnly yes", "IdentitiesOnly no");
    std::fs::write(at("ssh_config"), format!("{config}  IdentityFile none\n")).unwrap();
    let cli = program(cluster.hosts())
        .env("ETCDVAULT_SSH_CONFIG", at("ssh_config"))
        .env("ETCDCTL_DIAL_TIMEOUT", "3s")
        .env("USER", "test");
    let ran = discover(&cli, &NODES).await;
    assert_ne!(ran.code, Some(0), "{ran}");
    assert!(ran.text().contains("accepts none of the ssh keys"), "{ran}");

    let agent = KeyAgent::with(&cluster.hosts().ssh_key()).await;
    let cli = cli.env("SSH_AUTH_SOCK", agent.socket());
    let ran = discover(&cli, &NODES).await.expect(3);
    let seen = ran.json();
    for node in seen["nodes"].as_array().unwrap() {
        assert_eq!(node["facts"]["uid"], 0, "{ran}");
        let uid = node["etcd"][0]["running"]["uid"].as_u64();
        assert!(uid.is_some_and(|uid| uid > 0), "{ran}");
    }
    assert_eq!(seen["nodes"].as_array().unwrap().len(), 3);
    assert!(seen["cluster"].is_null(), "{ran}");
    assert!(!seen["silence"].as_array().unwrap().is_empty(), "{ran}");

    // States go and come through the nodes alone.
    let file = at("etcdvault.toml");
    let path = file.to_str().unwrap();
    cli.run(["discover", "n1", "n2", "n3", "--cluster", "field", "-o", path])
        .await
        .unwrap()
        .expect(3);
    let cli = cli.vault(at("vault")).env("ETCDVAULT_CONFIG", &file);
    cli.run(["init", "--no-encryption"]).await.unwrap().expect(0);
    let save = ["state", "save", "--allow-unencrypted", "--json"];
    let saved = cli.run(save).await.unwrap().expect(0);
    assert_eq!(saved.json()["nodes"].as_array().unwrap().len(), 3, "{saved}");
    let settings = "/etc/systemd/system/etcd.service.d/10-limits.conf";
    let roots = ["/etc/systemd/system", "/etc/etcd"];
    let good = field::pictures(cluster.members(), &roots).await;
    for host in cluster.members() {
        host.check(["sed", "-i", "s/4294967296/8589934592/", settings]).await.unwrap();
    }
    let back = ["state", "return", "latest", "--yes", "--allow-unencrypted"];
    cli.run(back).await.unwrap().expect(0);
    field::same("returned", &good, &field::pictures(cluster.members(), &roots).await);
    cluster.wait_healthy().await.unwrap();
    let listed = cli.run(["journal", "list", "--json"]).await.unwrap().expect(0).json();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["ending"]), (1, &"applied".into()));

    // What asks the members has to reach them.
    for refused in [&["backup", "--no-state"][..], &["state", "return", "latest", "--only", "data"]]
    {
        let ran = cli.run(refused).await.unwrap();
        assert!(!matches!(ran.code, Some(0 | 3)), "{ran}");
        assert!(ran.stderr.contains("error: "), "{ran}");
    }
}

/// row 25: three nodes, from one of them and without any flag.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-all runs it"]
async fn a_kubeadm_control_plane_of_three_is_found_from_one() {
    let cluster = Kubeadm::start(Size::Three).await.unwrap();
    let cli = program(cluster.hosts());
    let names = ["k1", "k2", "k3"];
    let seen = discover(&cli, &names).await.expect(0).json();
    for (node, name) in seen["nodes"].as_array().unwrap().iter().zip(names) {
        assert_eq!((&node["name"], &node["distribution"]), (&name.into(), &"kubeadm".into()));
        assert_eq!(node["etcd"][0]["runs"]["kind"], "static-pod", "{node}");
        assert_eq!(node["api_servers"][0]["runs"]["kind"], "static-pod", "{node}");
    }
    let host = cluster.hosts().host(1);
    let program = on_host(host).await;
    let said = host.check([program.as_str(), "discover", "--json"]).await.unwrap();
    let seen: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(seen["nodes"].as_array().unwrap().len(), 1, "{said}");
    let members = seen["cluster"]["members"].as_array().unwrap();
    let found: Vec<&str> = members.iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(found, names);
    assert!(is_stable(&seen), "{said}");
    assert_eq!(members.iter().filter(|member| member["leader"] == true).count(), 1);
    // Whose machine was not looked at is said with the command that does.
    for (at, member) in members.iter().enumerate() {
        let address = cluster.hosts().host(at).address();
        let expected = if at == 1 { Value::from("k2") } else { Value::Null };
        assert_eq!(member["node"], expected, "{said}");
        let hint = format!("name it too: etcdvault discover … {address}");
        let hinted = seen["findings"].as_array().unwrap().iter().any(|f| f["hint"] == hint);
        assert_eq!(hinted, at != 1, "{said}");
    }
    let again = host.check([program.as_str(), "discover", "-o", "-"]).await.unwrap();
    let twice = host.check([program.as_str(), "discover", "-o", "-"]).await.unwrap();
    assert_eq!(again, twice);
    assert!(again.contains("# Not looked at: the nodes of k1, k3."), "{again}");
}

/// row 25 and row 19
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

    // row 19: with certificates that were renewed meanwhile the same file serves.
    let root = tempfile::tempdir().unwrap();
    let vault = vault(&cli, root.path()).await;
    let config = root.path().join("etcdvault.toml");
    let write = ["discover", &name, "--cluster", "field", "-o"].map(Path::new);
    let write: Vec<&Path> = write.into_iter().chain([config.as_path()]).collect();
    cli.run(&write).await.unwrap().expect(0);
    let first = std::fs::read(&config).unwrap();
    let cli = cli.vault(&vault).env("ETCDVAULT_CONFIG", &config);
    let backup = ["backup", "--allow-unencrypted", "--json"];
    let ran = cli.run(backup).await.unwrap().expect(0);
    assert_eq!(ran.json()["proof"]["state"], "proven", "{ran}");
    let until = |seen: &Value, file: &str| {
        let all = seen["nodes"][0]["certificates"].as_array().unwrap().clone();
        let one = all.into_iter().find(|found| found["path"].as_str().unwrap().ends_with(file));
        one.unwrap()["not_after"].clone()
    };
    host.check(["kubeadm", "certs", "renew", "all"]).await.unwrap();
    let again = discover(&cli, &[name.as_str()]).await.expect(0).json();
    for file in ["etcd/server.crt", "etcd/peer.crt", "apiserver-etcd-client.crt"] {
        assert_ne!(until(&again, file), until(&seen, file), "{file}");
    }
    let ran = cli.run(&write).await.unwrap().expect(0);
    assert!(ran.text().contains("unchanged"), "{ran}");
    assert_eq!(std::fs::read(&config).unwrap(), first);
    let ran = cli.run(backup).await.unwrap().expect(0);
    assert_eq!(ran.json()["proof"]["state"], "proven", "{ran}");

    // What a static pod reads of the node is part of the state, by the node's paths; what
    // it only writes, and what the system's packages bring, is not.
    host.check(["systemctl", "stop", "kubelet"]).await.unwrap();
    let manifest = "/etc/kubernetes/manifests/kube-apiserver.yaml";
    let text = String::from_utf8(host.read(manifest).await.unwrap()).unwrap();
    let flag = "    - kube-apiserver\n";
    let (mounts, volumes) = ("    volumeMounts:\n", "  volumes:\n");
    assert!([flag, mounts, volumes].iter().all(|part| text.contains(part)), "{text}");
    let text = text
        .replace(flag, &format!("{flag}    - --audit-policy-file=/in-the-pod/policy.yaml\n"))
        .replace(
            mounts,
            &format!(
                "{mounts}    - {{mountPath: /in-the-pod, name: audit, readOnly: true}}\n    \
                 - {{mountPath: /var/log/audit, name: audit-log}}\n"
            ),
        )
        .replace(
            volumes,
            &format!(
                "{volumes}  - {{name: audit, hostPath: {{path: /srv/audit}}}}\n  \
                 - {{name: audit-log, hostPath: {{path: /srv/audit-log}}}}\n"
            ),
        );
    host.write(manifest, text.as_bytes()).await.unwrap();
    host.write("/srv/audit/policy.yaml", b"kind: Policy\n").await.unwrap();
    host.write("/srv/audit/webhook.conf", b"kind: Config\n").await.unwrap();
    host.write("/srv/audit-log/audit.log", b"much\n").await.unwrap();
    // Certificates that lie elsewhere are led to.
    host.check(["mv", "/etc/kubernetes/pki", "/srv/pki"]).await.unwrap();
    host.check(["ln", "-s", "/srv/pki", "/etc/kubernetes/pki"]).await.unwrap();
    let save = ["state", "save", "--with-data", "--allow-unencrypted", "--json"];
    let ran = cli.run(save).await.unwrap().expect(0);
    assert_eq!(ran.json()["proof"]["state"], "proven", "{ran}");
    let shown = cli.run(["state", "show", "latest", "--json"]).await.unwrap().expect(0).json();
    let node = &shown["nodes"][0];
    assert_eq!(node["description"]["etcd"]["runs"]["as"], "static_pod", "{shown}");
    assert_eq!(node["description"]["apiserver"]["running"], true, "{shown}");
    assert_eq!(node["description"]["unseen"].as_array().unwrap().len(), 0, "{shown}");
    let files = node["state"]["files"].as_array().unwrap();
    let has = |path: &str| files.iter().any(|file| file["path"] == path);
    for path in [
        "/srv/audit/policy.yaml",
        "/srv/audit/webhook.conf",
        "/srv/pki/sa.key",
        "/srv/pki/etcd/ca.key",
        "/etc/kubernetes/pki",
        "/etc/kubernetes/manifests/etcd.yaml",
        "/etc/kubernetes/admin.conf",
        "/var/lib/kubelet/config.yaml",
    ] {
        assert!(has(path), "{path} is missing: {shown}");
    }
    for path in ["/srv/audit-log/audit.log", "/in-the-pod/policy.yaml", "/var/lib/etcd/member"] {
        assert!(!has(path), "{path} is stored");
    }
    let usr = |file: &&Value| file["path"].as_str().unwrap().starts_with("/usr/share/");
    assert_eq!(files.iter().find(usr), None);

    // A copy of the manifest kept beside it is a second pod.
    let manifest = host.read("/etc/kubernetes/manifests/etcd.yaml").await.unwrap();
    host.write("/etc/kubernetes/manifests/etcd.yaml.bak", &manifest).await.unwrap();
    let said = host.check([program.as_str(), "discover", "--json"]).await.unwrap();
    let seen: Value = serde_json::from_str(&said).unwrap();
    let found = findings(&seen);
    assert!(found[0].starts_with("problem") && found[0].contains("etcd.yaml.bak"), "{found:?}");
}
