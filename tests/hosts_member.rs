//! Members on real hosts: one is repaired while clients write without an error, taken out,
//! and brought in again; and a cluster grows from one that only listened on localhost.

#[path = "common/field.rs"]
mod field;

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions};
use field::{CLUSTER, Field};
use harness::cli::{Cli, Ran};
use harness::etcd::tls_options;
use harness::hosts::etcd::{EtcdHosts, Kind};
use harness::hosts::{Host, Hosts, Image};
use harness::port::Port;
use serde_json::Value;
use tokio::sync::oneshot;

const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// On a slow machine, whatever is waited for.
const BOUND: Duration = Duration::from_secs(180);

async fn members(cli: &Cli) -> Vec<Value> {
    listed(cli, 0).await
}

async fn listed(cli: &Cli, code: i32) -> Vec<Value> {
    let listed = cli.run(["member", "list", "--json"]).await.unwrap().expect(code).json();
    listed["members"].as_array().unwrap().clone()
}

#[track_caller]
fn named<'a>(members: &'a [Value], name: &str) -> &'a Value {
    let found = members.iter().find(|member| member["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {members:#?}"))
}

/// Writes without a pause until it is told to end: how often, and every error.
fn writes(
    mut client: Client,
) -> (oneshot::Sender<()>, tokio::task::JoinHandle<(u64, Vec<String>)>) {
    let (end, mut ended) = oneshot::channel();
    let writing = tokio::spawn(async move {
        let (mut count, mut errors) = (0, Vec::new());
        while matches!(ended.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
            match client.put(format!("/written/{count:06}"), "value", None).await {
                Ok(_) => count += 1,
                Err(error) => errors.push(error.to_string()),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        (count, errors)
    });
    (end, writing)
}

async fn systemd(host: &Host, verb: &str) -> String {
    let said = host.run(["systemctl", verb, "etcd.service"]).await.unwrap();
    String::from_utf8_lossy(&said.stdout).trim().to_owned()
}

async fn names(host: &Host, directory: &str) -> Vec<String> {
    let mut names: Vec<String> =
        host.check(["ls", directory]).await.unwrap().lines().map(str::to_owned).collect();
    names.sort();
    names
}

/// Row 21, and rows 3 and 4 for a node that joins: a follower of three, with TLS and a unit
/// with arguments. Whoever writes to the others sees no error.
#[tokio::test(flavor = "multi_thread")]
async fn row_21_a_member_is_repaired_while_clients_write() {
    let cluster = EtcdHosts::start(Kind::Unit, 3).await.unwrap();
    let field = Field::of(cluster.hosts(), &NODES).await;
    let before = members(&field.cli).await;
    assert_eq!(before.len(), 3);
    let follower = before.iter().find(|member| member["leader"] == false).unwrap();
    let name = follower["name"].as_str().unwrap().to_owned();
    assert_eq!(follower["node"], name.as_str(), "it is found by its address");
    let place = NODES.iter().position(|node| *node == name).unwrap();
    let host = &cluster.members()[place];
    let others: Vec<String> = (0..3)
        .filter(|other| *other != place)
        .map(|other| cluster.endpoints()[other].clone())
        .collect();
    let tls = cluster.tls().unwrap();
    let options = ConnectOptions::new().with_tls(tls_options(&tls.ca, Some(&tls.client)).unwrap());
    let client = Client::connect(&others, Some(options)).await.unwrap();

    // Looking changes nothing, and nobody is there to be asked.
    let repair = ["member", "repair", name.as_str()];
    let shown = field.run(&[&repair[..], &["--dry-run"]].concat()).await.expect(0).text();
    for part in [
        "2 of 3 voters are needed, 3 are well: 1 can be lost",
        "until it is back, 2 of 2 voters are needed, 2 are well: none can be lost",
        "set initial-cluster-state=existing",
        "as a learner",
        "member.before-",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    field.run(&repair).await.expect(2);
    assert_eq!(members(&field.cli).await.len(), 3);
    assert!(field.plans().await.is_empty());

    let (end, writing) = writes(client.clone());
    let ran = field.run(&[&repair[..], &["--yes", "--json"]].concat()).await.expect(0);
    let (plan, said) = (ran.json()["plan"].as_str().unwrap().to_owned(), ran.json());
    assert_eq!(said["ending"], "applied");
    assert!(said["verified"][0].as_str().unwrap().contains("HashKV of"), "{said}");
    // Beyond the removal there is no way back by undoing, and it says what to do instead.
    let back = field.run(&["rollback", &plan]).await.expect(1);
    assert!(back.stderr.contains("does not come back by its id"), "{back}");
    end.send(()).unwrap();
    let (count, errors) = writing.await.unwrap();
    assert!(count > 100, "only {count} writes");
    assert_eq!(errors, Vec::<String>::new(), "of {count} writes");

    let after = members(&field.cli).await;
    let repaired = named(&after, &name);
    assert_ne!(repaired["id"], follower["id"]);
    assert_eq!(repaired["peer_urls"], follower["peer_urls"]);
    assert_eq!((&repaired["learner"], &repaired["error"]), (&false.into(), &Value::Null));
    let data = Kind::Unit.data_dir();
    assert_eq!(names(host, data).await, ["member", &format!("member.before-{plan}")]);
    assert_eq!(
        (systemd(host, "is-active").await, systemd(host, "is-enabled").await),
        ("active".into(), "enabled".into())
    );
    let unit = String::from_utf8(host.read(Kind::Unit.settings_file()).await.unwrap()).unwrap();
    assert!(unit.contains("--initial-cluster-state=existing"), "{unit}");
    assert!(!unit.contains("--initial-cluster-state=new"), "{unit}");
    let found = cluster.etcdctl(place, ["get", "--prefix", "--keys-only", "/written/"]).await;
    let found = found.unwrap().split_whitespace().count();
    assert_eq!(found as u64, count, "all that was written is on the repaired member");

    // Taken out: stopped and disabled there, its data kept; the others go on.
    let remove = ["member", "remove", name.as_str(), "--yes", "--json"];
    let gone = field.run(&remove).await.expect(0).json()["plan"].as_str().unwrap().to_owned();
    // The configuration names its endpoint still, behind which nobody answers.
    let rest = listed(&field.cli, 3).await;
    assert_eq!(rest.iter().filter(|member| member["id"] != Value::Null).count(), 2, "{rest:#?}");
    assert_eq!(systemd(host, "is-active").await, "inactive");
    assert_eq!(systemd(host, "is-enabled").await, "disabled");
    let kept = [format!("member.before-{gone}"), format!("member.before-{plan}")];
    let mut kept: Vec<String> = kept.into();
    kept.sort();
    assert_eq!(names(host, data).await, kept);
    let again = field.run(&repair).await.expect(1);
    assert!(again.stderr.contains(&format!("etcdvault member add {name}")), "{again}");

    // And brought in again.
    let add = ["member", "add", name.as_str(), "--yes"];
    field.run(&add).await.expect(0);
    let last = members(&field.cli).await;
    assert_eq!(named(&last, &name)["learner"], false);
    assert_eq!(last.len(), 3);
    assert_eq!(systemd(host, "is-enabled").await, "enabled");
    let twice = field.run(&add).await.expect(1);
    assert!(twice.stderr.contains("already"), "{twice}");
    cluster.wait_healthy().await.unwrap();
}

/// Row 21 in the other dialects. Debian 13's etcd 3.5.16 loses promotions: there it joins
/// with a vote at once.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-all runs it"]
async fn row_21_a_member_is_repaired_in_every_dialect() {
    for kind in [Kind::Debian12, Kind::Debian13, Kind::ConfigFile] {
        let cluster = EtcdHosts::start(kind, 3).await.unwrap();
        let field = Field::of(cluster.hosts(), &NODES).await;
        let before = members(&field.cli).await;
        let follower = before.iter().find(|member| member["leader"] == false).unwrap();
        let name = follower["name"].as_str().unwrap().to_owned();
        let place = NODES.iter().position(|node| *node == name).unwrap();
        let others: Vec<String> = (0..3)
            .filter(|other| *other != place)
            .map(|other| cluster.endpoints()[other].clone())
            .collect();
        let mut options = ConnectOptions::new();
        if let Some(tls) = cluster.tls() {
            options = options.with_tls(tls_options(&tls.ca, Some(&tls.client)).unwrap());
        }
        let client = Client::connect(&others, Some(options)).await.unwrap();
        let repair = ["member", "repair", name.as_str()];
        let shown = field.run(&[&repair[..], &["--dry-run"]].concat()).await.expect(0).text();
        if kind == Kind::Debian12 {
            // Who reaches one of three cannot know who works on the others.
            let lost = (0..3).filter(|other| *other != place);
            let lost: Vec<&Host> = lost.map(|other| &cluster.members()[other]).collect();
            for host in &lost {
                host.check(["systemctl", "stop", "ssh.socket", "ssh.service"]).await.unwrap();
            }
            let refused = field.run(&[&repair[..], &["--yes"]].concat()).await.expect(1);
            let said = "nothing was changed: 1 of the 3 nodes of field answer";
            assert!(refused.stderr.contains(said), "{refused}");
            assert!(refused.stderr.contains("--without-majority"), "{refused}");
            for host in &lost {
                host.check(["systemctl", "start", "ssh.service"]).await.unwrap();
            }
        }
        let joins = if kind == Kind::Debian13 { "with a vote" } else { "as a learner" };
        assert!(shown.contains(joins), "{kind:?}: {shown}");
        let (end, writing) = writes(client);
        field.run(&[&repair[..], &["--yes"]].concat()).await.expect(0);
        end.send(()).unwrap();
        let (count, errors) = writing.await.unwrap();
        assert!(count > 100, "{kind:?}: only {count} writes");
        assert_eq!(errors, Vec::<String>::new(), "{kind:?}: of {count} writes");
        let after = members(&field.cli).await;
        assert_eq!(named(&after, &name)["learner"], false, "{kind:?}");
        assert_ne!(named(&after, &name)["id"], follower["id"], "{kind:?}");
        let host = &cluster.members()[place];
        let settings = host.read(kind.settings_file()).await.unwrap();
        let settings = String::from_utf8(settings).unwrap();
        let said = settings
            .lines()
            .find(|line| line.to_lowercase().replace('_', "-").contains("initial-cluster-state"));
        assert!(said.unwrap().contains("existing"), "{kind:?}: {settings}");
        let found = cluster.etcdctl(place, ["get", "--prefix", "--keys-only", "/written/"]).await;
        assert_eq!(found.unwrap().split_whitespace().count() as u64, count, "{kind:?}");
        cluster.wait_healthy().await.unwrap();
    }
}

/// A way to a host's own loopback.
struct Tunnel {
    _ssh: tokio::process::Child,
    endpoint: String,
    _port: Port,
}

impl Tunnel {
    async fn start(hosts: &Hosts, name: &str) -> Self {
        let port = Port::reserve().unwrap();
        let number = port.number();
        let ssh = tokio::process::Command::new("ssh")
            .arg("-F")
            .arg(hosts.ssh_config())
            .args(["-N", "-o", "ExitOnForwardFailure=yes", "-L"])
            .arg(format!("127.0.0.1:{number}:127.0.0.1:2379"))
            .arg(name)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", number)).is_err() {
            assert!(begun.elapsed() < BOUND, "the tunnel to {name} never stood");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Self { _ssh: ssh, endpoint: format!("http://127.0.0.1:{number}"), _port: port }
    }
}

fn configure(root: &Path, endpoints: &[String]) {
    let endpoints: Vec<String> = endpoints.iter().map(|url| format!("{url:?}")).collect();
    let text = format!(
        "[cluster.{CLUSTER}]\nendpoints = [{}]\nnodes = [\"n1\", \"n2\", \"n3\"]\n\n\
         [node.n1]\n\n[node.n2]\n\n[node.n3]\n",
        endpoints.join(", ")
    );
    std::fs::write(root.join("etcdvault.toml"), text).unwrap();
}

/// Rows 1 to 4: Debian 12's package as it comes, one member that only listens on localhost;
/// it gets its address, and two more join one at a time. 3.4.23 would give a learner its
/// vote before it ever ran.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-all runs it"]
async fn row_1_row_2_row_3_row_4_a_cluster_grows_from_localhost() {
    let hosts = Hosts::builder().hosts(3, Image::Debian12).start().await.unwrap();
    let n1 = hosts.host(0);
    n1.check(["systemctl", "enable", "--now", "etcd.service"]).await.unwrap();
    n1.check(["env", "ETCDCTL_API=3", "etcdctl", "put", "before", "1"]).await.unwrap();
    let root = tempfile::tempdir().unwrap();
    let tunnel = Tunnel::start(&hosts, "n1").await;
    let cli = Cli::new(env!("CARGO_BIN_EXE_etcdvault"))
        .env("ETCDVAULT_SSH_CONFIG", hosts.ssh_config())
        .env("ETCDVAULT_CONFIG", root.path().join("etcdvault.toml"))
        .env("ETCDCTL_DIAL_TIMEOUT", "20s")
        .env("ETCDCTL_COMMAND_TIMEOUT", "30s");
    let run = async |args: &[&str], code: i32| -> Ran { cli.run(args).await.unwrap().expect(code) };
    configure(root.path(), std::slice::from_ref(&tunnel.endpoint));
    let listed = members(&cli).await;
    assert_eq!(listed[0]["peer_urls"][0], "http://localhost:2380");

    // Nobody joins a member that is known at localhost.
    let early = run(&["member", "add", "n2", "--yes"], 1).await;
    assert!(early.stderr.contains("etcdvault member update n1 --peer-urls"), "{early}");

    let (peer, client) =
        (format!("http://{}:2380", n1.address()), format!("http://{}:2379", n1.address()));
    let update =
        ["member", "update", "n1", "--peer-urls", &peer, "--client-urls", &client, "--yes"];
    run(&update, 0).await;
    configure(root.path(), std::slice::from_ref(&client));
    let listed = members(&cli).await;
    assert_eq!((&listed[0]["name"], &listed[0]["node"]), (&"n1".into(), &"n1".into()));
    assert_eq!(listed[0]["peer_urls"][0], peer.as_str());
    assert_eq!(listed[0]["client_urls"][0], client.as_str());
    let file = String::from_utf8(n1.read("/etc/default/etcd").await.unwrap()).unwrap();
    assert!(file.starts_with("## etcd(1) daemon options"), "{file}");
    let local = format!("ETCD_LISTEN_CLIENT_URLS={client},http://127.0.0.1:2379");
    for line in [
        format!("ETCD_LISTEN_PEER_URLS={peer}"),
        local,
        format!("ETCD_ADVERTISE_CLIENT_URLS={client}"),
        format!("ETCD_INITIAL_ADVERTISE_PEER_URLS={peer}"),
    ] {
        assert!(file.lines().any(|it| it == line), "{line}: {file}");
    }

    // A blank member of its own on n2, as the package would start it: in the way.
    let n2 = hosts.host(1);
    n2.check(["systemctl", "start", "etcd.service"]).await.unwrap();
    let refused = run(&["member", "add", "n2", "--yes"], 1).await;
    assert!(refused.stderr.contains("--set-data-aside"), "{refused}");
    let shown = run(&["member", "add", "n2", "--set-data-aside", "--dry-run"], 0).await.text();
    assert!(shown.contains("two voters need both"), "{shown}");
    run(&["member", "add", "n2", "--set-data-aside", "--yes"], 0).await;
    run(&["member", "add", "n3", "--yes"], 0).await;
    let listed = members(&cli).await;
    assert_eq!(listed.len(), 3);
    for (place, name) in NODES.iter().enumerate() {
        let member = named(&listed, name);
        assert_eq!((&member["learner"], &member["node"]), (&false.into(), &(*name).into()));
        let host = hosts.host(place);
        assert_eq!(systemd(host, "is-enabled").await, "enabled");
        let said = host
            .check(["env", "ETCDCTL_API=3", "etcdctl", "get", "before", "--print-value-only"])
            .await
            .unwrap();
        assert_eq!(said.trim(), "1", "{name}");
    }
    let n3 = String::from_utf8(hosts.host(2).read("/etc/default/etcd").await.unwrap()).unwrap();
    assert!(n3.contains("ETCD_INITIAL_CLUSTER_STATE=existing"), "{n3}");
    for name in NODES {
        assert!(n3.contains(&format!("{name}=http://")), "{n3}");
    }
}
