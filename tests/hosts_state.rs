//! States of real nodes over SSH: what is stored of a cluster that runs, of one that is
//! stopped and of one that is neither; what a node stores of itself; and that etcd starts
//! from what was stored.

use std::path::{Path, PathBuf};

use harness::cli::{Cli, Ran};
use harness::hosts::etcd::{EtcdHosts, Kind};
use harness::hosts::{Host, Hosts};
use serde_json::Value;

/// The program under test, which reaches the hosts as their operator does.
fn program(hosts: &Hosts) -> Cli {
    Cli::new(env!("CARGO_BIN_EXE_etcdvault"))
        .env("ETCDVAULT_SSH_CONFIG", hosts.ssh_config())
        .env("ETCDCTL_DIAL_TIMEOUT", "30s")
        .env("ETCDCTL_COMMAND_TIMEOUT", "30s")
}

/// A cluster with a configuration that `discover` wrote and a vault without encryption.
struct Field {
    cluster: EtcdHosts,
    cli: Cli,
    root: tempfile::TempDir,
}

impl Field {
    async fn new(kind: Kind, more: &str) -> Self {
        let cluster = EtcdHosts::start(kind, 3).await.unwrap();
        let root = tempfile::tempdir().unwrap();
        let config = root.path().join("etcdvault.toml");
        let cli = program(cluster.hosts());
        let write = ["discover", "n1", "n2", "n3", "--cluster", "prod", "-o"].map(Path::new);
        cli.run(write.into_iter().chain([config.as_path()])).await.unwrap().expect(0);
        let text = std::fs::read_to_string(&config).unwrap();
        assert!(text.contains("[cluster.prod]\n"), "{text}");
        let text = text.replace("[cluster.prod]\n", &format!("[cluster.prod]\n{more}\n"));
        std::fs::write(&config, text).unwrap();
        let vault = root.path().join("vault");
        let cli = cli.env("ETCDVAULT_CONFIG", &config).vault(&vault);
        cli.run(["init", "--no-encryption"]).await.unwrap().expect(0);
        Self { cluster, cli, root }
    }

    fn host(&self, place: usize) -> &Host {
        self.cluster.hosts().host(place)
    }

    fn vault(&self) -> PathBuf {
        self.root.path().join("vault")
    }

    async fn save(&self, more: &[&str]) -> Ran {
        let args = ["state", "save", "--allow-unencrypted", "--json"];
        self.cli.run(args.iter().chain(more)).await.unwrap()
    }

    async fn each(&self, act: &str, places: &[usize]) {
        for &place in places {
            self.host(place).check(["systemctl", act, "etcd"]).await.unwrap();
        }
    }

    /// Starts all at once: a member is ready only beside others.
    async fn start(&self) {
        let acts = self.cluster.members().iter().map(|host| async move {
            host.check(["systemctl", "start", "etcd"]).await.unwrap();
        });
        futures_util::future::join_all(acts).await;
        self.cluster.wait_healthy().await.unwrap();
    }

    /// Waits until a member that lost the others has noticed.
    async fn wait_leaderless(&self, place: usize) {
        let begun = std::time::Instant::now();
        loop {
            let said = self.cluster.etcdctl(place, ["endpoint", "status", "-w", "json"]).await;
            let said: Value = serde_json::from_str(&said.unwrap()).unwrap();
            if said[0]["Status"]["leader"].as_u64().unwrap_or(0) == 0 {
                return;
            }
            assert!(begun.elapsed().as_secs() < 120, "{said}");
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    }

    /// The manifest of a backup.
    async fn manifest(&self, id: &str) -> Value {
        self.cli.run(["show", id, "--json"]).await.unwrap().expect(0).json()
    }

    async fn paths(&self, id: &str, node: &str) -> Vec<String> {
        let args = ["state", "show", id, "--node", node, "--json"];
        let shown = self.cli.run(args).await.unwrap().expect(0).json();
        let files = shown["nodes"][0]["state"]["files"].as_array().unwrap().clone();
        files.iter().map(|file| file["path"].as_str().unwrap().to_owned()).collect()
    }

    /// Names of all objects in the vault that begin so.
    fn objects(&self, start: &str) -> usize {
        let mut count = 0;
        let mut folders = vec![self.vault()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap();
                count += usize::from(path.is_file() && name.starts_with(start));
                if path.is_dir() {
                    folders.push(path);
                }
            }
        }
        count
    }
}

fn roles(manifest: &Value) -> Vec<&str> {
    let objects = manifest["objects"].as_array().unwrap();
    objects.iter().map(|object| object["role"].as_str().unwrap()).collect()
}

fn object<'m>(manifest: &'m Value, role: &str) -> &'m Value {
    let objects = manifest["objects"].as_array().unwrap();
    objects.iter().find(|object| object["role"] == role).unwrap()
}

/// Row 9: the data of a running cluster is one snapshot, that of a stopped one its
/// directories byte for byte, from which etcd starts; between the two nothing is stored.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-all runs it"]
async fn data_is_a_snapshot_or_copies_or_refused() {
    let field = Field::new(Kind::Debian12, "state-paths = [\"/srv/own\"]").await;
    field.cluster.etcdctl(0, ["put", "before", "the state"]).await.unwrap();
    let host = field.host(0);
    // Paths of the configuration, with what leads out of them.
    host.write("/srv/own/notes", b"mine\n").await.unwrap();
    host.write("/srv/elsewhere/secret", b"not asked for\n").await.unwrap();
    host.check(["ln", "-s", "/srv/elsewhere", "/srv/own/out"]).await.unwrap();
    host.check(["ln", "-s", "/etc/shadow", "/srv/own/shadow"]).await.unwrap();
    host.check(["mkdir", "/srv/own/mounted"]).await.unwrap();
    host.check(["mount", "--bind", "/srv/elsewhere", "/srv/own/mounted"]).await.unwrap();

    let ran = field.save(&["--with-data"]).await.expect(0);
    let report = ran.json();
    assert_eq!(report["proof"]["state"], "proven", "{ran}");
    let manifest = field.manifest(report["id"].as_str().unwrap()).await;
    assert_eq!(
        roles(&manifest),
        ["snapshot", "node-n1", "index-n1", "node-n2", "index-n2", "node-n3", "index-n3"]
    );
    assert_eq!((field.objects("snapshot"), field.objects("data-")), (1, 0));
    let paths = field.paths("latest", "n1").await;
    for path in ["/srv/own/notes", "/srv/own/out", "/srv/own/shadow", "/etc/default/etcd"] {
        assert!(paths.iter().any(|found| found == path), "{path} of {paths:?}");
    }
    // A file system below is part of its path; nothing comes along by where it is from.
    assert!(paths.iter().any(|path| path == "/srv/own/mounted/secret"), "{paths:?}");
    let strays = |path: &&String| {
        path.starts_with("/srv/elsewhere/")
            || path.starts_with("/srv/own/out/")
            || path.as_str() == "/etc/shadow"
    };
    assert_eq!(paths.iter().find(strays), None);
    host.check(["umount", "/srv/own/mounted"]).await.unwrap();

    // One of three runs: it cannot be said what the cluster holds.
    field.each("stop", &[0, 1]).await;
    field.wait_leaderless(2).await;
    let refused = field.save(&["--with-data"]).await.expect(30);
    assert!(refused.text().contains("n3: etcd runs as process"), "{refused}");
    // Nor where only one that is stopped is asked.
    let n1 = ["--endpoints", &field.cluster.endpoints()[0]];
    let args = [&["--with-data"][..], &n1].concat();
    let refused = field.save(&args).await.expect(30);
    assert!(refused.text().contains("n3: etcd runs as process"), "{refused}");
    // Not even where the one that runs was not named.
    let args = [&args[..], &["--node", "n1", "--node", "n2"]].concat();
    let refused = field.save(&args).await.expect(1);
    assert!(refused.text().contains("a peer of n1, answers"), "{refused}");
    assert_eq!(field.objects("data-"), 0);

    // Stopped everywhere: each directory as it is, holes as holes.
    field.each("stop", &[2]).await;
    let data = field.cluster.kind().data_dir();
    let holes = format!("{data}/member/holes");
    host.check(["truncate", "--size=2G", &holes]).await.unwrap();
    let before = tree(host, data).await;
    let ran = field.save(&["--with-data"]).await.expect(0);
    let report = ran.json();
    let manifest = field.manifest(report["id"].as_str().unwrap()).await;
    assert_eq!(
        roles(&manifest),
        [
            "node-n1", "index-n1", "data-n1", "node-n2", "index-n2", "data-n2", "node-n3",
            "index-n3", "data-n3"
        ]
    );
    let kept = &report["nodes"][0]["data_bytes"];
    assert!(kept.as_u64().unwrap() > (2 << 30) + 63_000_000, "{ran}");
    // etcd preallocates 64 MB for its log; neither that nor the holes are stored.
    for node in ["n1", "n2", "n3"] {
        let stored = object(&manifest, &format!("data-{node}"))["stored_size"].as_u64().unwrap();
        assert!(stored < 2 << 20, "{node} takes {stored} bytes");
    }
    let plain = object(&manifest, "data-n1")["plain_size"].as_u64().unwrap();
    assert!(plain < 400 << 20, "{plain} bytes for a file of holes");
    let listed = field.cli.run(["state", "list", "--json"]).await.unwrap().expect(0).json();
    let held: Vec<&Value> =
        listed["states"].as_array().unwrap().iter().map(|state| &state["data"]).collect();
    assert_eq!(held, ["snapshot", "directories"]);
    field.cli.run(["verify", "--all"]).await.unwrap().expect(0);

    // The directory is lost on one node and comes back from the copy with plain tools.
    host.check(["mv", data, "/var/lib/etcd/lost"]).await.unwrap();
    let tar = field.root.path().join("data.tar");
    let export = ["export", "latest", "--object", "data-n1", "-o"].map(Path::new);
    field.cli.run(export.into_iter().chain([tar.as_path()])).await.unwrap().expect(0);
    let bytes = std::fs::read(&tar).unwrap();
    let unpack = ["tar", "--extract", "--same-permissions", "--directory=/", "--file=-"];
    let done = host.run_with(unpack, &bytes).await.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(tree(host, data).await, before);
    host.check(["rm", &holes]).await.unwrap();
    field.start().await;
    let said = field.cluster.etcdctl(0, ["get", "before", "--print-value-only"]).await.unwrap();
    assert_eq!(said.trim(), "the state");
}

/// Every path below `root` with owner, group, mode, size and digest.
async fn tree(host: &Host, root: &str) -> String {
    let script = r#"cd "$1" && find . -printf '%p %u %g %m %s %T@\n' | sort &&
        find . -type f -size -100M -print0 | sort -z | xargs -0 sha256sum"#;
    host.check(["sh", "-c", script, "tree", root]).await.unwrap()
}

/// A timed run on a node stores that node alone, without a key to any other.
#[tokio::test(flavor = "multi_thread")]
async fn a_timed_run_on_a_node_stores_that_node_alone() {
    let field = Field::new(Kind::Debian13, "allow-unencrypted-state = true").await;
    let host = field.host(1);
    let found = ["find", "/var/lib/etcdvault-agent", "-name", "etcdvault", "-type", "f"];
    let found = host.check(found).await.unwrap();
    let there = found.lines().next().unwrap();
    host.check(["cp", there, "/usr/local/bin/etcdvault"]).await.unwrap();
    let config = std::fs::read(field.root.path().join("etcdvault.toml")).unwrap();
    host.write("/etc/etcdvault/etcdvault.toml", &config).await.unwrap();
    let unit = "[Service]\nType=oneshot\nEnvironment=ETCDVAULT_CONFIG=/etc/etcdvault/etcdvault.toml\n\
                Environment=ETCDVAULT_VAULT=/srv/vault\n\
                ExecStart=/usr/local/bin/etcdvault backup --local-only\n";
    host.write("/etc/systemd/system/etcdvault-backup.service", unit.as_bytes()).await.unwrap();
    let timer = "[Timer]\nOnActiveSec=1\nAccuracySec=1\n";
    host.write("/etc/systemd/system/etcdvault-backup.timer", timer.as_bytes()).await.unwrap();
    let init = ["etcdvault", "init", "/srv/vault", "--no-encryption"];
    host.check(init).await.unwrap();
    host.check(["systemctl", "daemon-reload"]).await.unwrap();
    host.check(["systemctl", "start", "etcdvault-backup.timer"]).await.unwrap();
    let begun = std::time::Instant::now();
    let backup = loop {
        let list = ["etcdvault", "list", "--vault", "/srv/vault", "--json"];
        let listed: Value = serde_json::from_str(&host.check(list).await.unwrap()).unwrap();
        if let Some(backup) = listed["backups"].as_array().and_then(|all| all.first()) {
            break backup.clone();
        }
        let journal = ["journalctl", "--unit=etcdvault-backup.service", "--no-pager"];
        let said = host.check(journal).await.unwrap();
        let waited = begun.elapsed().as_secs();
        assert!(waited < 120 && !said.contains("Failed with result"), "{said}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    };
    let id = backup["id"].as_str().unwrap();
    let show = ["etcdvault", "show", id, "--vault", "/srv/vault", "--json"];
    let manifest: Value = serde_json::from_str(&host.check(show).await.unwrap()).unwrap();
    assert_eq!(manifest["proof"]["state"], "proven", "{manifest}");
    assert_eq!(roles(&manifest), ["snapshot", "node-n2", "index-n2"]);
    assert!(manifest["content"]["state"]["missing"].is_null(), "{manifest}");
}
