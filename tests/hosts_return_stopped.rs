//! Plans on real hosts that do not come to their end: the program is killed, stopped, in
//! somebody's way, or meets a unit that does not start. From the journals on the nodes
//! it goes on and back, from wherever.

#[path = "common/field.rs"]
mod field;

use field::{CLUSTER, Field, Terminal, pictures, printed, same};
use harness::hosts::etcd::{EtcdHosts, Kind};
use harness::hosts::{Host, Hosts};
use rustix::process::Signal;
use serde_json::Value;

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const ROOTS: [&str; 3] =
    ["/etc/default/etcd", "/etc/etcd", "/etc/systemd/system/multi-user.target.wants"];
const SETTINGS: &str = "/etc/default/etcd";
const RETURN: [&str; 4] = ["state", "return", "latest", "--yes"];

/// Other settings on every host, and a key that everybody can read.
async fn ruin(hosts: &[Host]) {
    for host in hosts {
        let mut text = host.read(SETTINGS).await.unwrap();
        text.extend_from_slice(b"ETCD_HEARTBEAT_INTERVAL=\"150\"\n");
        host.write(SETTINGS, &text).await.unwrap();
        host.check(["chmod", "0644", "/etc/etcd/pki/server.key"]).await.unwrap();
    }
}

/// The newest plan.
async fn newest(field: &Field) -> (String, Value) {
    field.plans().await.into_iter().next().unwrap()
}

/// Makes `host` a machine from which the others are reached, with the configuration and
/// no vault; returns the program's path there.
async fn operator_on(host: &Host, hosts: &Hosts, field: &Field) -> String {
    let config = std::fs::read_to_string(hosts.ssh_config()).unwrap();
    let mut there = config;
    for (path, name) in [(hosts.ssh_key(), "key"), (hosts.known_hosts(), "known")] {
        let own = format!("/root/{name}");
        host.write_as(&own, &std::fs::read(&path).unwrap(), "root", 0o600).await.unwrap();
        there = there.replace(path.to_str().unwrap(), &own);
    }
    host.write("/root/ssh_config", there.as_bytes()).await.unwrap();
    let config = std::fs::read(field.path("etcdvault.toml")).unwrap();
    host.write("/root/etcdvault.toml", &config).await.unwrap();
    let find = ["find", "/var/lib/etcdvault-agent", "-name", "etcdvault", "-type", "f"];
    let found = host.check(find).await.unwrap();
    found.lines().next().unwrap().to_owned()
}

/// row 10, row 23
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-all runs it"]
async fn row_10_row_23_a_return_that_is_stopped_goes_on_and_back() {
    let cluster = EtcdHosts::start(Kind::Debian13, 3).await.unwrap();
    let hosts = cluster.members();
    let field = Field::of(cluster.hosts(), &NODES).await;
    cluster.etcdctl(0, ["put", "kept", "1"]).await.unwrap();
    field.save().await;
    let good = pictures(hosts, &ROOTS).await;
    ruin(hosts).await;
    let ruined = pictures(hosts, &ROOTS).await;

    // Killed while all members are down. The journal knows, the lock names who held it.
    let mut run = field.start(&RETURN);
    run.until("  3.").await;
    run.signal(Signal::KILL);
    run.end().await;
    let (id, ending) = newest(&field).await;
    assert_eq!(ending, Value::Null);
    let listed = field.run(&["journal", "list"]).await.expect(0);
    assert!(listed.text().contains("UNFINISHED"), "{listed}");
    for host in hosts {
        let enabled = host.run(["systemctl", "is-enabled", "etcd.service"]).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&enabled.stdout).trim(), "disabled");
    }
    for command in [&RETURN[..], &["resume", &id], &["rollback", &id]] {
        let ran = field.run(command).await.expect(11);
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        assert!(ran.stderr.contains(&format!("@{host}")), "{ran}");
        assert!(ran.stderr.contains("--take-over-lock"), "{ran}");
    }
    // It goes on from the start of its id, in another directory.
    std::fs::create_dir(field.path("elsewhere")).unwrap();
    let mut other = field.cli.command(["resume", &id[..20], "--take-over-lock"]);
    let output = other.current_dir(field.path("elsewhere")).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    same("gone on", &good, &pictures(hosts, &ROOTS).await);
    cluster.wait_healthy().await.unwrap();

    // Ctrl-C twice: at once, and back from another machine, which has no vault.
    ruin(hosts).await;
    let mut run = field.start(&RETURN);
    run.until("  2.").await;
    run.signal(Signal::INT);
    run.signal(Signal::INT);
    let (status, said) = run.end().await;
    assert_eq!(status.code(), Some(130), "{said}");
    let (id, ending) = newest(&field).await;
    assert_eq!(ending, Value::Null);
    let ran = field.run(&RETURN).await.expect(11);
    assert!(ran.stderr.contains(&format!("etcdvault rollback {id}")), "{ran}");
    let n1 = &hosts[0];
    let program = operator_on(n1, cluster.hosts(), &field).await;
    let with = ["env", "ETCDVAULT_SSH_CONFIG=/root/ssh_config", program.as_str()];
    let back = ["rollback", id.as_str(), "--config", "/root/etcdvault.toml"];
    let said = n1.check(with.iter().chain(&back)).await.unwrap();
    assert!(said.contains("is rolled back"), "{said}");
    same("gone back", &ruined, &pictures(hosts, &ROOTS).await);
    cluster.wait_healthy().await.unwrap();

    // A unit that does not start: its own last words are told. Repaired, it goes on.
    let n2 = &hosts[1];
    n2.check(["chown", "-R", "root:root", cluster.kind().data_dir()]).await.unwrap();
    let ran = field.run(&RETURN).await.expect(1);
    assert!(ran.stderr.contains("start etcd") && ran.stderr.contains("n2"), "{ran}");
    assert!(ran.stderr.contains("permission denied"), "{ran}");
    let command = printed(&ran.stderr, "go on:");
    n2.check(["chown", "-R", "etcd:etcd", cluster.kind().data_dir()]).await.unwrap();
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    field.run(&words).await.expect(0);
    same("repaired", &good, &pictures(hosts, &ROOTS).await);
    cluster.wait_healthy().await.unwrap();
    let kept = cluster.etcdctl(0, ["get", "kept"]).await.unwrap();
    assert_eq!(kept, "kept\n1\n");
}

/// A person at a terminal is asked for the cluster's name, stops a plan with Ctrl-C, and
/// goes on with what is printed; whoever comes meanwhile is told to wait.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-all runs it"]
async fn row_23_a_person_confirms_stops_and_goes_on() {
    let cluster = EtcdHosts::start(Kind::ConfigFile, 3).await.unwrap();
    let hosts = cluster.members();
    let field = Field::of(cluster.hosts(), &NODES).await;
    field.save().await;
    let settings = cluster.kind().settings_file();
    let roots = [settings, ROOTS[2]];
    let good = pictures(hosts, &roots).await;
    for host in hosts {
        host.check(["sed", "-i", "1i # changed", settings]).await.unwrap();
    }
    let ruined = pictures(hosts, &roots).await;
    let asked = format!("Type {CLUSTER} to go on");
    let back = ["state", "return", "latest"];

    let mut terminal = Terminal::start(&field, &back);
    terminal.until(&asked).await;
    terminal.press("another\r").await;
    let (code, screen) = terminal.end().await;
    assert_eq!(code, Some(2), "{screen}");
    let mut terminal = Terminal::start(&field, &back);
    terminal.until(&asked).await;
    terminal.press("\u{3}").await;
    let (code, screen) = terminal.end().await;
    assert!(code == Some(130) && screen.contains("everything is as it was"), "{screen}");
    assert!(field.plans().await.is_empty());
    same("not confirmed", &ruined, &pictures(hosts, &roots).await);

    let mut terminal =
        Terminal::start(&field, &[&back[..], &["--node", "n1", "--node", "n2"]].concat());
    terminal.until(&asked).await;
    terminal.press(&format!("{CLUSTER}\r")).await;
    terminal.until("  1.1  ").await;
    terminal.press("\u{3}").await;
    let (code, screen) = terminal.end().await;
    assert!(code == Some(130) && screen.contains("stopped before step"), "{screen}");
    let command = printed(&screen, "go on:");
    assert_eq!(command[2..], ["--node", "n1", "--node", "n2"], "{screen}");

    // While it goes on nobody else does, not even for another node.
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let mut run = field.start(&words);
    run.until("  2.").await;
    run.signal(Signal::STOP);
    let second = field.run(&["state", "return", "latest", "--node", "n3", "--yes"]).await;
    run.signal(Signal::CONT);
    let (status, said) = run.end().await;
    let second = second.expect(11);
    assert!(second.stderr.contains("holds the lock of field for \"state return\""), "{second}");
    assert_eq!(status.code(), Some(0), "{said}");
    let now = pictures(hosts, &roots).await;
    same("two of three", &[good[0].clone(), good[1].clone(), ruined[2].clone()], &now);
    cluster.wait_healthy().await.unwrap();
    // A warning that it was cut off: the third was only in the journal's keeping.
    let shown = field.run(&["journal", "show", words[1], "--json"]).await.expect(0).json();
    assert_eq!(shown["plan"]["nodes"].as_array().unwrap().len(), 3);
}
