//! States of nodes: what is saved is all that was there, nothing else, in an archive
//! that plain tools unpack; what changed is found and shown without secrets; what was
//! tampered with is noticed and never used.
//!
//! Rows 9, 10, 19 and 23 of the procedures: files with owners and modes, repeated use,
//! and the return to a state, as far as the archive carries it.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcdvault::config::place;
use etcdvault::event::{Event, Events};
use etcdvault::node::local::LocalNode;
use etcdvault::node::{Node, NodeName};
use etcdvault::operation::interrupt::Interrupt;
use etcdvault::operation::state::diff::{Change, DiffReport, Side, diff};
use etcdvault::operation::state::index::{NodeIndex, escaped};
use etcdvault::operation::state::roots::Places;
use etcdvault::operation::state::save::{SaveOptions, SaveReport, save};
use etcdvault::operation::state::{Part, find, show};
use etcdvault::operation::verify::{Level, verify};
use etcdvault::operation::vocabulary::{Connector, WriteOptions};
use etcdvault::operation::{Failure, FailureKind, vaults};
use etcdvault::types::{ConnectionSettings, Endpoint};
use harness::cli::Cli;
use harness::etcd::{Cluster, Security};
use vault::encryption::{EncryptionChoice, Identities, Passphrase};
use vault::layout::{BackupId, ClusterName, Role};
use vault::manifest::Manifest;
use vault::repository::{Backup, NewObject, ReadOptions, Repository};
use vault::store::SizeHint;

fn program() -> Cli {
    Cli::new(env!("CARGO_BIN_EXE_etcdvault"))
}

/// A machine's files below a directory, and a vault beside it.
struct Host {
    root: tempfile::TempDir,
    name: &'static str,
}

const KEY: &str =
    "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49SECRET\n-----END PRIVATE KEY-----\n";

impl Host {
    /// A node with an etcd and an API server in static pods, as kubeadm leaves it.
    fn kubeadm(name: &'static str) -> Self {
        let host = Self { root: tempfile::tempdir().unwrap(), name };
        let keys = host.path("srv/keys/encryption.yaml");
        host.write("etc/kubernetes/manifests/etcd.yaml", &format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: etcd\nspec:\n  containers:\n  - command:\n    - etcd\n    \
             - --name={name}\n    - --data-dir={}\n    - --cert-file=/etc/kubernetes/pki/etcd/server.crt\n",
            host.path("var/lib/etcd").display(),
        ), 0o600);
        host.write("etc/kubernetes/manifests/kube-apiserver.yaml", &format!(
            "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - command:\n    - kube-apiserver\n    \
             - --etcd-servers=https://127.0.0.1:2379\n    - --encryption-provider-config={}\n",
            keys.display(),
        ), 0o600);
        host.write("srv/keys/encryption.yaml", "kind: EncryptionConfiguration\nresources:\n- providers:\n  - secretbox:\n      keys:\n      - name: k1\n        secret: c2VjcmV0LW9uZQ==\n", 0o600);
        host.write("etc/kubernetes/pki/etcd/server.key", KEY, 0o600);
        host.write("etc/kubernetes/pki/sa.pub", "-----BEGIN PUBLIC KEY-----\nMFkw\n", 0o644);
        host.write(
            "etc/kubernetes/admin.conf",
            "users:\n- user:\n    client-key-data: TUlJRQ==\n",
            0o640,
        );
        host.write("etc/default/etcd", "# mine\nETCD_NAME=\"x\"\n", 0o644);
        host.write("etc/sysconfig/flanneld", "FLANNEL_ETCD_PREFIX=\"/net\"\n", 0o644);
        host.write("etc/default/flanneld", "FLANNELD_IFACE=eth1\n", 0o644);
        host.write("var/lib/kubelet/config.yaml", "cgroupDriver: systemd\n", 0o644);
        host.write("var/lib/kubelet/pods/big", "no configuration", 0o644);
        host.write("etc/shadow", "root:secret", 0o600);
        std::fs::write(host.path("etc/kubernetes/blob.bin"), [0u8, 159, 146, 150]).unwrap();
        symlink("../../shadow", host.path("etc/kubernetes/pki/outside")).unwrap();
        std::fs::hard_link(
            host.path("etc/kubernetes/pki/sa.pub"),
            host.path("etc/kubernetes/pki/sa-again.pub"),
        )
        .unwrap();
        let wal = host.path("var/lib/etcd/member/wal/0.wal");
        std::fs::create_dir_all(wal.parent().unwrap()).unwrap();
        std::fs::File::create(&wal).unwrap().set_len(64 << 20).unwrap();
        host
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.path().join("host").join(below)
    }

    fn write(&self, below: &str, text: &str, mode: u32) {
        let path = self.path(below);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn node(&self) -> Arc<dyn Node> {
        Arc::new(LocalNode::new(NodeName::new(self.name).unwrap()))
    }

    fn options(&self) -> SaveOptions {
        SaveOptions {
            extra: vec![self.path("srv/keys/encryption.yaml")],
            places: Places(self.path("")),
            allow_unencrypted: false,
            data: false,
            write: WriteOptions { workers: 1, ..WriteOptions::default() },
        }
    }
}

/// Where no etcd is.
async fn nowhere() -> (Connector, ConnectionSettings) {
    let endpoint = Endpoint::parse("127.0.0.1:1", false).unwrap();
    let settings = ConnectionSettings {
        endpoints: vec![endpoint],
        ca_file: None,
        cert_file: None,
        key_file: None,
        credentials: None,
        dial_timeout: Duration::from_secs(1),
        command_timeout: Duration::from_secs(1),
    };
    (Connector::new(&settings).unwrap(), settings)
}

fn passphrase() -> Passphrase {
    Passphrase::new("geheim".to_owned()).unwrap()
}

async fn new_vault(place: &Path, encrypted: bool) -> Repository {
    let choice = if encrypted {
        EncryptionChoice::Passphrase { passphrase: passphrase(), work_factor: 2 }
    } else {
        EncryptionChoice::None
    };
    let place = place::Place::Directory(place.to_owned());
    vaults::init(&place, choice).await.unwrap();
    let key = encrypted.then(|| Identities::from_passphrase(passphrase()));
    vaults::open(&place, key).await.unwrap()
}

async fn saved(
    vault: &Repository,
    host: &Host,
    options: &SaveOptions,
    events: &Events,
) -> Result<SaveReport, Failure> {
    let (connector, settings) = nowhere().await;
    save(
        vault,
        &[host.node()],
        &connector,
        &settings,
        Some(ClusterName::new("test").unwrap()),
        Default::default(),
        options,
        events,
        &mut Interrupt::never(),
    )
    .await
}

async fn latest(vault: &Repository) -> Backup {
    find::find(vault, None, "latest").await.unwrap()
}

/// Unpacks the archive of a node with plain tools.
fn unpack(place: &Path, backup: &Backup, role: &str, into: &Path) {
    let object = place.join(&backup.manifest.object(role).unwrap().key);
    std::fs::create_dir(into).unwrap();
    let mut zstd = Command::new("zstd")
        .arg("-dcq")
        .arg(object)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let tar = Command::new("tar")
        .args(["-x", "-p", "--xattrs", "-C"])
        .arg(into)
        .stdin(zstd.stdout.take().unwrap())
        .status()
        .unwrap();
    assert!(zstd.wait().unwrap().success() && tar.success());
}

/// Path, mode, owner, group, time in seconds and nanoseconds, content.
type Seen = (PathBuf, u32, u32, u32, i64, i64, Vec<u8>);

/// Every path below `root` with all that a state keeps of it.
fn tree(root: &Path) -> Vec<Seen> {
    fn walk(root: &Path, at: &Path, found: &mut Vec<Seen>) {
        let mut names: Vec<_> = at.read_dir().unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        for path in names {
            let there = path.symlink_metadata().unwrap();
            let content = if there.is_symlink() {
                path.read_link().unwrap().into_os_string().into_encoded_bytes()
            } else if there.is_file() {
                std::fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            found.push((
                path.strip_prefix(root).unwrap().to_owned(),
                there.mode(),
                there.uid(),
                there.gid(),
                there.mtime(),
                there.mtime_nsec(),
                content,
            ));
            if there.is_dir() {
                walk(root, &path, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(root, root, &mut found);
    found
}

/// Rows 10 and 23: owners, modes, links and times come along, and nothing but the state.
#[tokio::test(flavor = "multi_thread")]
async fn an_archive_holds_the_state_and_nothing_else() {
    let host = Host::kubeadm("k1");
    let place = host.root.path().join("vault");
    let vault = new_vault(&place, false).await;
    let options = SaveOptions { allow_unencrypted: true, ..host.options() };
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&warnings);
    let events = Events::new(move |event| {
        if let Event::Warning(text) = event {
            kept.lock().unwrap().push(text);
        }
    });
    let report = saved(&vault, &host, &options, &events).await.unwrap();
    assert!(report.content.missing.is_empty(), "{report:?}");
    let warnings = warnings.lock().unwrap().join("\n");
    assert!(warnings.contains("PRIVATE KEYS"), "{warnings}");

    let backup = latest(&vault).await;
    let out = host.root.path().join("out");
    unpack(&place, &backup, "node-k1", &out);
    let unpacked = out.join(host.path("").strip_prefix("/").unwrap());
    let came = tree(&unpacked);
    for kept in ["etc/kubernetes", "etc/default"] {
        let is: Vec<_> = tree(&host.path(kept));
        let was = tree(&unpacked.join(kept));
        assert_eq!(was, is, "{kept}");
        assert!(is.len() < came.len());
    }
    for kept in [
        "srv/keys/encryption.yaml",
        "var/lib/kubelet/config.yaml",
        "etc/sysconfig/flanneld",
        "etc/default/flanneld",
    ] {
        let (is, was) = (std::fs::read(host.path(kept)), std::fs::read(unpacked.join(kept)));
        assert_eq!(was.unwrap(), is.unwrap(), "{kept}");
    }
    let linked = unpacked.join("etc/kubernetes/pki/sa-again.pub").metadata().unwrap();
    assert_eq!(linked.ino(), unpacked.join("etc/kubernetes/pki/sa.pub").metadata().unwrap().ino());
    // Neither what lies beside, nor what a link leads to, nor the data.
    for left in ["etc/shadow", "var/lib/kubelet/pods", "var/lib/etcd"] {
        assert!(!unpacked.join(left).exists(), "{left}");
    }

    let index = find::index(&vault, &backup.manifest, host.node().name()).await.unwrap();
    let path = escaped(&host.path("etc/kubernetes/pki/etcd/server.key"));
    let key = index.state.file(&path).unwrap();
    assert_eq!((key.mode, key.size), (0o600, KEY.len() as u64));
    assert_eq!(key.sha256, Some(vault::digest::Sha256::of(KEY.as_bytes())));
    assert_eq!(index.description.etcd.as_ref().unwrap().options["name"], "k1");
    let good = verified(&vault, &backup).await;
    assert!(good.is_empty(), "{good:?}");
}

async fn verified(vault: &Repository, backup: &Backup) -> Vec<String> {
    let options = ReadOptions::default();
    verify(vault, backup, Level::Content, &options, &Events::none()).await.unwrap().problems
}

#[tokio::test(flavor = "multi_thread")]
async fn private_keys_do_not_go_to_a_vault_without_encryption() {
    let host = Host::kubeadm("k1");
    let place = host.root.path().join("vault");
    let vault = new_vault(&place, false).await;
    let failure = saved(&vault, &host, &host.options(), &Events::none()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Usage);
    assert!(failure.hint.unwrap().contains("--allow-unencrypted"));
    assert!(!place.join("clusters").exists());
}

/// Files of a state by what `diff` says of them.
fn changes<'a>(report: &'a DiffReport, host: &Host) -> Vec<(String, Change, &'a str)> {
    let root = format!("{}/", host.path("").display().to_string().trim_end_matches('/'));
    let files = report.nodes.iter().flat_map(|node| &node.files);
    files
        .map(|file| {
            let path = file.path.strip_prefix(&root).unwrap().to_owned();
            (path, file.change, file.text.as_deref().unwrap_or(""))
        })
        .collect()
}

/// Row 23: a changed node is told from the state, by file, and no secret is shown.
#[tokio::test(flavor = "multi_thread")]
async fn what_changed_since_is_shown_without_secrets() {
    let host = Host::kubeadm("k1");
    let place = host.root.path().join("vault");
    let vault = new_vault(&place, true).await;
    let options = host.options();
    saved(&vault, &host, &options, &Events::none()).await.unwrap();
    let first = latest(&vault).await;
    let nodes = [host.node()];
    let now = Side::Now { nodes: &nodes, options: &options, cluster: None };
    let report = diff(&vault, &Side::Stored(&first), &now, None).await.unwrap();
    assert!(report.equal, "{report:?}");

    host.write("etc/default/etcd", "# mine\nETCD_NAME=\"y\"\n", 0o600);
    host.write("etc/kubernetes/pki/etcd/server.key", &KEY.replace("SECRET", "OTHER"), 0o600);
    host.write("srv/keys/encryption.yaml", "kind: EncryptionConfiguration\nresources:\n- providers:\n  - secretbox:\n      keys:\n      - name: k2\n        secret: c2VjcmV0LXR3bw==\n", 0o600);
    host.write("etc/kubernetes/new.conf", "password: hunter2\n", 0o600);
    std::fs::remove_file(host.path("etc/kubernetes/admin.conf")).unwrap();
    std::fs::write(host.path("etc/kubernetes/blob.bin"), [0u8, 1, 2]).unwrap();
    std::fs::set_permissions(
        host.path("etc/kubernetes/pki/sa.pub"),
        std::fs::Permissions::from_mode(0o666),
    )
    .unwrap();
    host.write("etc/kubernetes/manifests/etcd.yaml", "moved away\n", 0o600);

    let report = diff(&vault, &Side::Stored(&first), &now, None).await.unwrap();
    let found = changes(&report, &host);
    let named: Vec<(&str, Change)> = found.iter().map(|(p, c, _)| (p.as_str(), *c)).collect();
    assert_eq!(
        named,
        [
            ("etc/default/etcd", Change::Changed),
            ("etc/kubernetes/admin.conf", Change::Removed),
            ("etc/kubernetes/blob.bin", Change::Changed),
            ("etc/kubernetes/manifests/etcd.yaml", Change::Changed),
            ("etc/kubernetes/new.conf", Change::Added),
            ("etc/kubernetes/pki/etcd/server.key", Change::Changed),
            ("etc/kubernetes/pki/sa-again.pub", Change::Attributes),
            ("etc/kubernetes/pki/sa.pub", Change::Attributes),
            ("srv/keys/encryption.yaml", Change::Changed),
        ]
    );
    let text = found[0].2;
    assert!(text.contains("-ETCD_NAME=\"x\"\n+ETCD_NAME=\"y\"\n"), "{text}");
    assert_eq!(report.nodes[0].files[0].attributes, ["mode 0644 → 0600"]);
    let binary = report.nodes[0].files[2].no_text.as_deref().unwrap();
    assert!(binary.starts_with("binary: "), "{binary}");
    assert!(found[8].2.contains("-      - name: k1"), "{}", found[8].2);
    // The topology is told first: there is no etcd here any more.
    let etcd = report.topology.iter().find(|drift| drift.what == "etcd").unwrap();
    assert!(etcd.was.as_ref().unwrap().starts_with("embedded") && etcd.is.is_none());
    let json = serde_json::to_string(&report).unwrap();
    for secret in ["SM49", "SECRET", "OTHER", "c2VjcmV0", "hunter2", "TUlJRQ"] {
        assert!(!json.contains(secret), "{secret} in {json}");
    }

    // Two stored states compare as well, and the same way back.
    saved(&vault, &host, &options, &Events::none()).await.unwrap();
    let second = latest(&vault).await;
    let again = diff(&vault, &Side::Stored(&first), &Side::Stored(&second), None).await.unwrap();
    assert_eq!(changes(&again, &host).len(), found.len());
    let back = diff(&vault, &Side::Stored(&second), &Side::Stored(&first), None).await.unwrap();
    assert_eq!(changes(&back, &host)[1].1, Change::Added);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_file_of_a_state_is_shown_with_its_secrets_hidden() {
    let host = Host::kubeadm("k1");
    let vault = new_vault(&host.root.path().join("vault"), true).await;
    saved(&vault, &host, &host.options(), &Events::none()).await.unwrap();
    let backup = latest(&vault).await;
    let node = host.node();
    let file = async |below: &str, secrets| {
        let path = escaped(&host.path(below));
        show::file(&vault, &backup, node.name(), &path, secrets).await
    };
    let key = "etc/kubernetes/pki/etcd/server.key";
    assert_eq!(file(key, true).await.unwrap().content, KEY.as_bytes());
    let hidden = file(key, false).await.unwrap();
    assert!(hidden.hidden && !String::from_utf8(hidden.content).unwrap().contains("MIGH"));
    let open = file("etc/default/etcd", false).await.unwrap();
    assert!(!open.hidden && open.content == b"# mine\nETCD_NAME=\"x\"\n");
    let linked = file("etc/kubernetes/pki/sa-again.pub", false).await.unwrap();
    assert!(linked.content.starts_with(b"-----BEGIN PUBLIC"));
    for (below, secrets) in
        [("etc/kubernetes/blob.bin", false), ("etc/kubernetes", true), ("etc/shadow", true)]
    {
        assert_eq!(file(below, secrets).await.unwrap_err().kind, FailureKind::Usage, "{below}");
    }
    assert_eq!(file("etc/kubernetes/blob.bin", true).await.unwrap().content.len(), 4);
}

/// Stores objects of a node as somebody with access to the store could.
async fn forge(vault: &Repository, from: &Backup, tar: Vec<u8>, index: &NodeIndex) -> Backup {
    let place = from.manifest.place();
    let id = BackupId::generate();
    let node = NodeName::new(index.node.clone()).unwrap();
    let mut objects = Vec::new();
    for (part, bytes) in [(Part::Node, tar), (Part::Index, index.encode().unwrap())] {
        let object = NewObject {
            place: place.clone(),
            id,
            role: Role::new(part.role(&node).unwrap().as_str()).unwrap(),
            name: part.file(&node),
            plain_size: SizeHint::Unknown,
        };
        let mut writer = vault.create_object(object, &WriteOptions::default()).await.unwrap();
        writer.write(bytes.into()).await.unwrap();
        objects.push(writer.finish().await.unwrap().record);
    }
    let manifest = Manifest { id, objects, ..from.manifest.clone() };
    let key = vault.commit(&manifest).await.unwrap();
    vault.load(&key).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_states_are_noticed_and_not_used() {
    let host = Host::kubeadm("k1");
    let vault = new_vault(&host.root.path().join("vault"), true).await;
    saved(&vault, &host, &host.options(), &Events::none()).await.unwrap();
    let honest = latest(&vault).await;
    let node = host.node();
    let index = find::index(&vault, &honest.manifest, node.name()).await.unwrap();
    let record = honest.manifest.object("node-k1").unwrap();
    let tar = vault.read_range(record, 0..record.plain_size).await.unwrap().to_vec();
    let path = escaped(&host.path("etc/default/etcd"));

    // Another content under the same name.
    let at = index.state.file(&path).unwrap().content_at.unwrap() as usize;
    let mut other = tar.clone();
    other[at] = b'!';
    let forged = forge(&vault, &honest, other, &index).await;
    let problems = verified(&vault, &forged).await;
    assert!(problems.iter().any(|p| p.contains("is not as the index says")), "{problems:?}");
    let failure = show::file(&vault, &forged, node.name(), &path, true).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Corrupt);

    // A path that leads out.
    let escaping = Command::new("tar")
        .args(["-c", "-P", "--transform=s,^,../../,", "-C"])
        .arg(host.path("etc/default"))
        .arg("etcd")
        .output()
        .unwrap();
    assert!(escaping.status.success());
    let forged = forge(&vault, &honest, escaping.stdout, &index).await;
    let problems = verified(&vault, &forged).await;
    assert!(problems.iter().any(|p| p.contains("leads out of the archive")), "{problems:?}");

    // An index that leads elsewhere, far beyond, and to a size that nothing has.
    for (content_at, size) in [(0, 20), (u64::MAX - 4, 20), (0, 1 << 20)] {
        let mut lying = index.clone();
        let file = lying.state.files.iter_mut().find(|file| file.path == path).unwrap();
        (file.content_at, file.size) = (Some(content_at), size);
        let forged = forge(&vault, &honest, tar.clone(), &lying).await;
        let failure = show::file(&vault, &forged, node.name(), &path, true).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Corrupt, "{content_at} {size}");
        assert!(!verified(&vault, &forged).await.is_empty());
    }
    assert!(verified(&vault, &honest).await.is_empty());
}

/// The commands of `RESTORE.txt` bring back the snapshot and every node's files.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_with_states_comes_back_with_plain_tools() {
    let root = tempfile::tempdir().unwrap();
    let cluster =
        Cluster::builder("3.5").members(1).security(Security::Plain).start().await.unwrap();
    let vault = root.path().join("vault");
    let cli = program().vault(&vault).cluster(&cluster);
    cli.run(["init", "--no-encryption"]).await.unwrap().expect(0);
    let node = nodes_name();
    let backup = |more: &[&str]| {
        let mut args = vec!["backup", "--cluster", "test", "--json", "--node", &node];
        args.extend_from_slice(more);
        cli.run(args.into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    // Keys of this machine would be readable there.
    backup(&[]).await.unwrap().expect(2);
    let report = backup(&["--allow-unencrypted"]).await.unwrap().expect(0).json();
    assert_eq!(report["proof"]["state"], "proven");
    assert_eq!(report["state"]["nodes"][0]["node"], node.as_str(), "{report}");
    // A state alone is no snapshot: `latest` goes past it where data is wanted.
    let state = cli
        .run(["state", "save", "--cluster", "test", "--allow-unencrypted", "--json"])
        .await
        .unwrap()
        .expect(0)
        .json();
    assert_eq!(state["lineage"], report["cluster_id"]);
    let plain = root.path().join("plain.db");
    cli.run(["export", "latest", "-o", plain.to_str().unwrap()]).await.unwrap().expect(0);
    let listed = cli.run(["list"]).await.unwrap().expect(0).text();
    assert!(listed.lines().next().unwrap().ends_with("NODES"), "{listed}");
    cli.run(["verify", "--all"]).await.unwrap().expect(0);

    let text = std::fs::read_to_string(vault.join("RESTORE.txt")).unwrap();
    let commands: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("    $ ")).collect();
    let script: Vec<&str> =
        commands.iter().copied().filter(|command| !command.starts_with("etcdutl")).collect();
    let follow = |manifest: Option<&str>| {
        let mut script = script.join("\n");
        if let Some(manifest) = manifest {
            let choose = script.lines().next().unwrap().to_owned();
            script = script.replacen(&choose, &format!("MANIFEST={manifest}"), 1);
        }
        let ran = Command::new("sh")
            .args(["-ec", &script])
            .current_dir(&vault)
            .env("LC_ALL", "C")
            .output()
            .unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    };
    follow(None);
    assert!(std::fs::read(vault.join("restored")).unwrap() == std::fs::read(&plain).unwrap());
    let unpacked = vault.join("nodes").join(format!("node-{node}"));
    assert_eq!(vault.join("nodes").metadata().unwrap().mode() & 0o777, 0o700);
    let exported = root.path().join("node.tar");
    let role = format!("node-{node}");
    let arguments = ["export", "latest", "--object", &role, "-o", exported.to_str().unwrap()];
    cli.run(arguments).await.unwrap().expect(0);
    let compared =
        Command::new("tar").arg("-df").arg(&exported).arg("-C").arg(&unpacked).output().unwrap();
    assert!(compared.status.success(), "{}", String::from_utf8_lossy(&compared.stdout));

    // Of a backup that holds states alone.
    std::fs::remove_dir_all(vault.join("nodes")).unwrap();
    follow(state["manifest"].as_str());
    assert!(unpacked.is_dir());
}

/// The name of this machine, as the program knows it.
fn nodes_name() -> String {
    etcdvault::operation::state::nodes::this_machine().unwrap().name().to_string()
}

/// Row 19: saved twice it is the same, and the program says what is there.
#[tokio::test(flavor = "multi_thread")]
async fn the_commands_save_list_show_and_compare_this_machine() {
    let root = tempfile::tempdir().unwrap();
    let secret = root.path().join("passphrase");
    std::fs::write(&secret, "geheim").unwrap();
    let mine = root.path().join("mine");
    std::fs::create_dir(&mine).unwrap();
    std::fs::write(mine.join("a.conf"), "password: hunter2\nopen: 1\n").unwrap();
    let cli = program()
        .vault(root.path().join("vault"))
        .env("ETCDVAULT_PASSPHRASE_FILE", &secret)
        .env("ETCDCTL_ENDPOINTS", "127.0.0.1:1")
        .env("ETCDCTL_DIAL_TIMEOUT", "1s");
    let passphrase = ["init", "--passphrase-file", secret.to_str().unwrap()];
    cli.run(passphrase).await.unwrap().expect(0);
    let path = mine.to_str().unwrap();
    // Nobody answers and nobody says which cluster it is.
    cli.run(["state", "save", "--path", path]).await.unwrap().expect(2);
    // Paths that cannot be meant are refused, one that is not there is said.
    for wrong in ["mine", "/etc"] {
        let ran = cli.run(["state", "save", "--cluster", "test", "--path", wrong]).await.unwrap();
        assert!(ran.expect(2).stderr.contains("absolute paths"), "{wrong}");
    }
    let gone = format!("{path}/gone");
    let save = ["state", "save", "--path", path, "--path", &gone, "--cluster", "test", "--json"];
    let ran = cli.run(save).await.unwrap().expect(0);
    assert!(ran.stderr.contains(&format!("{gone} is on none of these nodes")), "{ran}");
    assert!(!ran.stderr.contains(&format!("{path} is on none")), "{ran}");
    let report = ran.json();
    assert_eq!(report["lineage"], "unknown");
    let id = report["id"].as_str().unwrap();
    let listed = cli.run(["state", "list"]).await.unwrap().expect(0).text();
    assert!(listed.contains(&nodes_name()) && listed.contains("test"), "{listed}");
    cli.run(["verify", id]).await.unwrap().expect(0);
    let shown = cli.run(["state", "show", id, "--files"]).await.unwrap().expect(0).text();
    assert!(shown.contains(&format!("{path}/a.conf")), "{shown}");
    let file = format!("{path}/a.conf");
    let node = nodes_name();
    let one = ["state", "show", id, "--node", &node, "--file", &file];
    let masked = cli.run(one).await.unwrap().expect(0).text();
    assert!(masked.contains("open: 1") && !masked.contains("hunter2"), "{masked}");
    let open = cli.run(one.iter().chain(&["--show-secrets"])).await.unwrap().expect(0).text();
    assert_eq!(open, "password: hunter2\nopen: 1\n");

    // Other programs may come and go on this machine: only the files count here.
    let files = async |code: i32| {
        let against_now = ["state", "diff", id, "--path", path, "--exit-code", "--json"];
        let ran = cli.run(against_now).await.unwrap();
        let report = ran.json();
        let equal = report["equal"] == true;
        assert_eq!(ran.code, Some(if equal { 0 } else { 3 }), "{ran}");
        assert!(code == 0 || !equal, "{ran}");
        report.to_string()
    };
    assert!(!files(0).await.contains("a.conf"));
    std::fs::write(mine.join("a.conf"), "password: different\nopen: 2\n").unwrap();
    let differs = files(3).await;
    assert!(differs.contains("-open: 1") && differs.contains("+open: 2"), "{differs}");
    assert!(!differs.contains("hunter2") && !differs.contains("different"), "{differs}");
    let text = cli.run(["state", "diff", id, "--path", path]).await.unwrap().expect(0).text();
    assert!(text.contains("a.conf: changed"), "{text}");
    cli.run(["state", "diff", id, id, "--exit-code"]).await.unwrap().expect(0);
    // Without a key nothing of it can be read.
    let locked = program().vault(root.path().join("vault"));
    locked.run(["state", "show", id]).await.unwrap().expect(12);
    locked.run(["state", "list"]).await.unwrap().expect(0);
    cli.run(["state", "show", id, "--node", "k9"]).await.unwrap().expect(2);
    // With a configuration `latest` is of its cluster; an id is one in the whole vault,
    // unless a cluster was named.
    let save = ["state", "save", "--path", path, "--cluster", "other", "--json"];
    let report = cli.run(save).await.unwrap().expect(0).json();
    let other = report["id"].as_str().unwrap();
    let config = root.path().join("etcdvault.toml");
    std::fs::write(&config, "[cluster.test]\nendpoints = [\"127.0.0.1:1\"]\n").unwrap();
    let with = cli.clone().env("ETCDVAULT_CONFIG", &config);
    let id_of = async |args: &[&str], code: i32| {
        let all = ["state", "show", "--json"].iter().chain(args);
        with.run(all).await.unwrap().expect(code).json()["id"].as_str().map(str::to_owned)
    };
    assert_eq!(id_of(&["latest"], 0).await.as_deref(), Some(id));
    assert_eq!(id_of(&[&other[..14]], 0).await.as_deref(), Some(other));
    assert_eq!(id_of(&["latest", "--cluster", "other"], 0).await.as_deref(), Some(other));
    assert_eq!(id_of(&[other, "--cluster", "test"], 2).await, None);
    cli.run(["state", "save", "--node", "k9", "--cluster", "x"]).await.unwrap().expect(2);
}
