//! What goes wrong between the program and the vault's storage: full, read-only,
//! silent, failing now and then or for ever. Nothing half-made is listed, nothing is
//! left behind where the store takes it back, and the next backup works.

#[path = "common/program.rs"]
mod common;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::Utc;
use etcd_client::{Txn, TxnOp};
use etcdvault::etcd::cluster::Reach;
use etcdvault::etcd::{ConnectionSettings, Connector};
use etcdvault::event::{Event, Events};
use etcdvault::operation::backup::{BackupOptions, BackupReport, Strategy, backup};
use etcdvault::operation::interrupt::Interrupt;
use etcdvault::operation::proof::Policy;
use etcdvault::operation::{Failure, FailureKind, vaults};
use etcdvault::types::Endpoint;
use futures_util::stream::BoxStream;
use harness::cli::Cli;
use harness::etcd::Cluster;
use harness::s3::{Access, Fault, FaultyS3, Minio, Op, SeaweedFs};
use vault::encryption::EncryptionChoice;
use vault::layout::BackupId;
use vault::repository::{InitOptions, Repository, Spool, WriteOptions};
use vault::store::fault::{Fault as StoreFault, FaultStore};
use vault::store::memory::MemoryStore;
use vault::store::{Capabilities, Download, ErrorKind, Key, ObjectInfo, SizeHint, Store, Upload};

use common::{files, fill, listed, new_vault, program, says};

/// A small file system in memory, gone with the value.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path, size: &str) -> Self {
        let root = rustix::process::geteuid().is_root();
        assert!(root, "this test mounts a small file system: run it as root");
        std::fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "etcdvault-test"]).arg(at);
        assert!(mount.status().unwrap().success(), "mounting {}", at.display());
        Self(at.to_owned())
    }

    fn remount(&self, options: &str) {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,{options}")]).arg(&self.0);
        assert!(mount.status().unwrap().success(), "remounting {}", self.0.display());
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The directory is full in the middle of the write, then read-only, then forbidden.
#[tokio::test]
async fn a_directory_that_takes_no_more() {
    let root = tempfile::tempdir().unwrap();
    let disk = Tmpfs::mount(&root.path().join("disk"), "12m");
    let vault = new_vault(&root.path().join("disk")).await;
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    let cli = program().vault(&vault).cluster(&cluster);
    fill(&cluster, 2).await;
    let first = cli.run(["backup", "--json"]).await.unwrap().expect(0).json();
    fill(&cluster, 16).await;
    let before = files(&vault);

    let ran = cli.run(["backup"]).await.unwrap().expect(40);
    says(&ran, &["was not stored", "is unchanged", "hint: free space"]);
    assert_eq!(files(&vault), before, "no part of it stays: {ran}");
    assert_eq!(
        cli.run(["backup", "--json"]).await.unwrap().expect(40).json()["error"]["exit_code"],
        40
    );
    let latest = cli.run(["show", "latest", "--json"]).await.unwrap().expect(0).json();
    assert_eq!(latest["id"], first["id"]);
    cli.run(["verify", "--all", "--level", "content"]).await.unwrap().expect(0);

    // An export into the full file system leaves no half of a file either.
    let wide = new_vault(root.path()).await;
    let elsewhere = program().vault(&wide).cluster(&cluster);
    elsewhere.run(["backup"]).await.unwrap().expect(0);
    let exported = root.path().join("disk/export.db");
    let ran = elsewhere
        .run(["export", "latest", "-o", exported.to_str().unwrap()])
        .await
        .unwrap()
        .expect(1);
    says(&ran, &["was not exported", "No space left"]);
    let target = root.path().join("disk/member");
    let restore = ["restore", "data-dir", "latest", "--data-dir", target.to_str().unwrap()];
    let ran = elsewhere.run(restore).await.unwrap().expect(1);
    says(&ran, &["was not restored", "No space left", "nothing was left behind"]);
    let on_disk: Vec<_> = std::fs::read_dir(root.path().join("disk")).unwrap().collect();
    assert_eq!(on_disk.len(), 1, "{on_disk:?}");

    disk.remount("size=64m");
    cli.run(["backup"]).await.unwrap().expect(0);

    disk.remount("ro");
    let before = files(&vault);
    let ran = cli.run(["backup"]).await.unwrap().expect(40);
    says(&ran, &["was not stored", "Read-only file system"]);
    // Reading goes on, and a receipt that cannot be written is no failure.
    assert_eq!(listed(&cli).await, 2);
    let ran = cli.run(["verify", "--all"]).await.unwrap().expect(0);
    says(&ran, &["no receipt was written"]);
    assert_eq!(files(&vault), before);
}

/// The program where `full` is a file system of one mebibyte that nobody else sees.
fn cramped(cli: Cli, full: &Path) -> Cli {
    let root = rustix::process::geteuid().is_root();
    assert!(root, "this test mounts a small file system: run it as root");
    std::fs::create_dir_all(full).unwrap();
    let script = "mount -t tmpfs -o size=1m etcdvault-test \"$0\" && exec \"$@\"";
    let words = ["unshare", "--mount", "--", "sh", "-c", script];
    cli.wrapped(words.map(Into::into).into_iter().chain([full.as_os_str().to_owned()]))
}

/// The directory for temporary files is full: while the scan puts its records there, and
/// while what a slow store does not take waits there.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_for_temporary_files() {
    let root = tempfile::tempdir().unwrap();
    let full = root.path().join("full");
    let full_text = full.to_str().unwrap();
    let vault = new_vault(root.path()).await;
    let cluster = Cluster::builder("3.6").args(["--max-txn-ops=2000"]).start().await.unwrap();
    // More records than the scan keeps in memory: 32 MiB at 24 bytes each.
    let mut client = cluster.client().await.unwrap();
    for round in 0..710 {
        let puts = (0..2_000).map(|n| TxnOp::put(n.to_string(), round.to_string(), None));
        client.txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await.unwrap();
    }
    let cli = cramped(program().vault(&vault).cluster(&cluster), &full);
    let ran = cli.run(["backup", "--spool-dir", full_text]).await.unwrap().expect(1);
    says(&ran, &["was not stored", "is unchanged", "No space left", "hint: ", "--spool-dir"]);
    common::assert_untouched(&vault);

    // With room there it is stored; looking into it needs room too, and says nothing bad
    // of it where there is none.
    let roomy = program().vault(&vault).cluster(&cluster);
    roomy.run(["backup"]).await.unwrap().expect(0);
    let before = files(&vault);
    let snapshot = root.path().join("snapshot.db");
    let snapshot = snapshot.to_str().unwrap();
    roomy.run(["export", "latest", "-o", snapshot]).await.unwrap().expect(0);
    let cli = cli.env("TMPDIR", full_text);
    for args in [
        &["verify", "latest"][..],
        &["inspect", "latest"],
        &["inspect", snapshot],
        &["import", snapshot, "--cluster", "x"],
    ] {
        let ran = cli.run(args).await.unwrap().expect(1);
        says(&ran, &["No space left", "hint: ", "TMPDIR"]);
        assert_eq!(files(&vault), before, "neither object nor receipt: {ran}");
    }
    roomy.run(["verify", "latest"]).await.unwrap().expect(0);

    let server = FaultyS3::start().await.unwrap();
    server.access().client().create_bucket().bucket(BUCKET).send().await.unwrap();
    let other = Cluster::builder("3.6").start().await.unwrap();
    fill(&other, 48).await;
    let cli = on_s3(server.access())
        .cluster(&other)
        .env("ETCDVAULT_S3_READ_TIMEOUT", "120")
        .env("ETCDVAULT_S3_TOTAL_TIMEOUT", "240");
    cli.run(["init", "--no-encryption"]).await.unwrap().expect(0);
    server.fault(Op::Part, Fault::Stall, 1000);
    let ran = cramped(cli.clone(), &full).run(["backup", "--spool-dir", full_text]).await.unwrap();
    assert_eq!(ran.code, Some(40), "{ran}");
    says(&ran, &["was not stored", "No space left", "hint: --spool-dir"]);
    server.forget();
    assert_eq!((listed(&cli).await, server.uploads()), (0, 0), "{ran}");
}

/// A user who may not write, and one who may not even read.
#[tokio::test]
async fn a_vault_of_somebody_else() {
    let root = rustix::process::geteuid().is_root();
    assert!(root, "this test acts as another user: run it as root");
    let root = tempfile::tempdir().unwrap();
    let open = |path: &Path, mode: u32| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(root.path(), 0o755);
    let vault = new_vault(root.path()).await;
    let binary = root.path().join("etcdvault");
    std::fs::copy(env!("CARGO_BIN_EXE_etcdvault"), &binary).unwrap();
    open(&binary, 0o755);
    let as_nobody = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&binary).args(args);
        command.arg("--vault").arg(&vault);
        command.current_dir("/");
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = as_nobody(&["list"]);
    assert_eq!(code, Some(40), "{said}");
    assert!(said.contains("Permission denied") && said.contains("hint: check the owner"), "{said}");

    // Readable, not writable: looking works, storing does not.
    open(&vault, 0o755);
    for file in files(&vault) {
        open(&file, 0o644);
    }
    let (code, said) = as_nobody(&["list"]);
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    let (code, said) = as_nobody(&["backup", "--endpoints", &cluster.endpoints()[0]]);
    assert_eq!(code, Some(40), "{said}");
    assert!(said.contains("was not stored") && said.contains("Permission denied"), "{said}");
    common::assert_untouched(&vault);
    let (code, said) = as_nobody(&["init", "--no-encryption"]);
    assert_eq!(code, Some(2), "{said}");
}

/// Two backups at once both succeed, in one vault, also when both are the first.
#[tokio::test]
async fn two_backups_at_once() {
    let root = tempfile::tempdir().unwrap();
    let vault = new_vault(root.path()).await;
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    fill(&cluster, 3).await;
    let cli = program().vault(&vault).cluster(&cluster);
    let args = ["backup", "--json"];
    let (one, two, three) = tokio::join!(cli.run(args), cli.run(args), cli.run(args));
    let reports = [one, two, three].map(|ran| ran.unwrap().expect(0).json());
    assert!(reports.iter().all(|report| report["proof"]["state"] == "proven"), "{reports:?}");
    assert_eq!(listed(&cli).await, 3);
    cli.run(["verify", "--all"]).await.unwrap().expect(0);
}

const BUCKET: &str = "vaults";

fn on_s3(access: &Access) -> Cli {
    let mut cli = program()
        .vault(format!("s3://{BUCKET}/a/prefix"))
        .env("ETCDVAULT_S3_ENDPOINT_URL", &access.url)
        .env("ETCDVAULT_S3_ATTEMPTS", "3")
        .env("ETCDVAULT_S3_PART_SIZE", "5")
        .env("ETCDVAULT_S3_CONNECT_TIMEOUT", "5")
        .env("ETCDVAULT_S3_READ_TIMEOUT", "4")
        .env("ETCDVAULT_S3_TOTAL_TIMEOUT", "16")
        .env("AWS_ACCESS_KEY_ID", &access.access_key)
        .env("AWS_SECRET_ACCESS_KEY", &access.secret_key)
        .env("AWS_EC2_METADATA_DISABLED", "true");
    if let Some(ca) = &access.ca {
        cli = cli.env("ETCDVAULT_S3_CA_FILE", ca);
    }
    cli
}

/// A fault that the backup survives: it is proven, and every byte is there.
async fn survives(server: &FaultyS3, cli: &Cli, faults: &[(Op, Fault)]) {
    let before = listed(cli).await;
    server.forget();
    for (op, fault) in faults {
        server.fault(*op, fault.clone(), 1);
    }
    let ran = cli.run(["backup", "--json"]).await.unwrap();
    assert_eq!(ran.code, Some(0), "{faults:?}: {ran}");
    assert_eq!(ran.json()["proof"]["state"], "proven", "{faults:?}");
    server.forget();
    cli.run(["verify", "latest"]).await.unwrap().expect(0);
    assert_eq!((listed(cli).await, server.uploads()), (before + 1, 0), "{faults:?}");
}

/// A fault that the backup dies of: exit code 40, nothing listed, no upload left open,
/// and the next one works.
async fn dies(server: &FaultyS3, cli: &Cli, op: Op, fault: Fault, texts: &[&str]) {
    let before = listed(cli).await;
    server.forget();
    server.fault(op, fault.clone(), 1000);
    let begun = Instant::now();
    let ran = cli.run(["backup"]).await.unwrap();
    assert_eq!(ran.code, Some(40), "{op:?} {fault:?}: {ran}");
    says(&ran, &["was not stored"]);
    says(&ran, texts);
    assert!(begun.elapsed() < Duration::from_secs(170), "{op:?} {fault:?} is bounded");
    server.forget();
    assert!(!ran.stderr.contains(&server.access().secret_key), "{ran}");
    assert_eq!((listed(cli).await, server.uploads()), (before, 0), "{op:?} {fault:?}: {ran}");
}

/// A store that fails now and then, in a dozen ways, under the program.
#[tokio::test(flavor = "multi_thread")]
async fn s3_fails_now_and_then_or_for_ever() {
    let server = FaultyS3::start().await.unwrap();
    server.access().client().create_bucket().bucket(BUCKET).send().await.unwrap();
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    fill(&cluster, 12).await;
    let cli = on_s3(server.access()).cluster(&cluster);
    let ran = cli.run(["list"]).await.unwrap().expect(10);
    says(&ran, &["is not a vault", "etcdvault init s3://"]);
    cli.run(["init", "--no-encryption"]).await.unwrap().expect(0);

    let busy = || Fault::Answer(503, "SlowDown");
    survives(&server, &cli, &[(Op::Create, busy()), (Op::Part, busy()), (Op::Put, busy())]).await;
    survives(&server, &cli, &[(Op::Part, Fault::Reset), (Op::Complete, busy())]).await;
    survives(&server, &cli, &[(Op::Put, Fault::Stall)]).await;
    // The manifest was stored, and the answer is lost: not a second writer's.
    survives(&server, &cli, &[(Op::Put, Fault::LoseAnswer)]).await;
    survives(&server, &cli, &[(Op::Complete, Fault::LoseAnswer)]).await;
    survives(&server, &cli, &[(Op::Put, Fault::Answer(409, "ConditionalRequestConflict"))]).await;

    dies(&server, &cli, Op::Part, busy(), &["hint:"]).await;
    dies(&server, &cli, Op::Create, Fault::Stall, &["hint:"]).await;
    dies(&server, &cli, Op::Part, Fault::Reset, &[]).await;
    dies(&server, &cli, Op::Complete, Fault::Answer(412, "PreconditionFailed"), &[]).await;
    dies(&server, &cli, Op::Put, Fault::Answer(412, "PreconditionFailed"), &[]).await;
    let expired = || Fault::Answer(400, "ExpiredToken");
    dies(&server, &cli, Op::Part, expired(), &["ExpiredToken"]).await;
    dies(&server, &cli, Op::Put, Fault::Answer(403, "AccessDenied"), &["policy"]).await;

    // Damage on the way is noticed: the same bytes read well are good again.
    cli.run(["verify", "latest"]).await.unwrap().expect(0);
    server.fault(Op::Get, Fault::WrongBytes, 1000);
    let ran = cli.run(["list"]).await.unwrap();
    assert!(matches!(ran.code, Some(20 | 40)), "{ran}");
    server.forget();

    // What was stored is damaged later.
    let shown = cli.run(["show", "latest", "--json"]).await.unwrap().expect(0).json();
    let key = format!("a/prefix/{}", shown["objects"][0]["key"].as_str().unwrap());
    server.replace(BUCKET, &key, b"not what was stored");
    let ran = cli.run(["verify", "latest", "--json"]).await.unwrap().expect(20);
    assert_eq!(ran.json()["verified"][0]["problems"].as_array().unwrap().len(), 1, "{ran}");
    let ran = cli.run(["export", "latest", "-o", "-"]).await.unwrap().expect(20);
    says(&ran, &["was not exported"]);
    server.fill("XMinioStorageFull");
    let ran = cli.run(["backup"]).await.unwrap().expect(40);
    says(&ran, &["free space"]);
}

/// Wrong credentials and a server that is not there, before any work.
#[tokio::test(flavor = "multi_thread")]
async fn s3_that_lets_nobody_in() {
    let server = FaultyS3::start().await.unwrap();
    server.access().client().create_bucket().bucket(BUCKET).send().await.unwrap();
    let cli = on_s3(server.access()).env("ETCDVAULT_ENDPOINTS", "127.0.0.1:1");
    let wrong = cli.clone().env("AWS_SECRET_ACCESS_KEY", "falsch-geheim");
    let ran = wrong.run(["backup"]).await.unwrap().expect(40);
    says(&ran, &["hint: "]);
    assert!(!ran.stderr.contains("falsch-geheim"), "no secret is shown: {ran}");
    let port = harness::port::Port::reserve().unwrap();
    let url = format!("http://127.0.0.1:{}", port.number());
    let nobody = cli.clone().env("ETCDVAULT_S3_ENDPOINT_URL", url);
    let begun = Instant::now();
    let ran = nobody.run(["list", "--json"]).await.unwrap().expect(40);
    assert_eq!(ran.json()["error"]["exit_code"], 40);
    assert!(begun.elapsed() < Duration::from_secs(90));
    let elsewhere = cli.clone().vault("s3://no-such-bucket/x");
    let ran = elsewhere.run(["list"]).await.unwrap().expect(2);
    says(&ran, &["there is no bucket no-such-bucket"]);
}

/// The whole way on servers that people run.
#[tokio::test(flavor = "multi_thread")]
async fn seaweedfs_and_minio_hold_a_vault() {
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    fill(&cluster, 12).await;
    let minio = Minio::start_tls().await.unwrap();
    let seaweedfs = SeaweedFs::start().await.unwrap();
    let root = tempfile::tempdir().unwrap();
    for (name, access) in [("minio", minio.access()), ("seaweedfs", seaweedfs.access())] {
        access.client().create_bucket().bucket(BUCKET).send().await.unwrap();
        let cli = on_s3(access)
            .cluster(&cluster)
            .env("ETCDVAULT_S3_READ_TIMEOUT", "30")
            .env("ETCDVAULT_S3_TOTAL_TIMEOUT", "60");
        cli.run(["init", "--no-encryption"]).await.unwrap().expect(0);
        let report = cli.run(["backup", "--json"]).await.unwrap().expect(0).json();
        assert_eq!(report["proof"]["state"], "proven", "{name}: {report}");
        cli.run(["verify", "--all"]).await.unwrap().expect(0);
        let target = root.path().join(name);
        let target_text = target.to_str().unwrap();
        let restore = ["restore", "data-dir", "latest", "--bump-revision", "0", "--data-dir"];
        cli.run(restore.iter().chain([&target_text])).await.unwrap().expect(0);
        let inspect = ["inspect", target.to_str().unwrap(), "--json"];
        assert_eq!(cli.run(inspect).await.unwrap().expect(0).json()["keys"], 12, "{name}");
    }
}

/// A store that remembers which keys were read.
#[derive(Debug)]
struct Watched {
    inner: MemoryStore,
    read: Mutex<Vec<String>>,
}

#[async_trait]
impl Store for Watched {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn put_new(&self, key: &Key, size: SizeHint) -> vault::store::Result<Box<dyn Upload>> {
        self.inner.put_new(key, size).await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> vault::store::Result<Download> {
        self.read.lock().unwrap().push(key.to_string());
        self.inner.get(key, range).await
    }

    async fn head(&self, key: &Key) -> vault::store::Result<Option<ObjectInfo>> {
        self.inner.head(key).await
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
    ) -> BoxStream<'a, vault::store::Result<ObjectInfo>> {
        self.inner.list(prefix, after)
    }

    async fn delete(&self, key: &Key) -> vault::store::Result<()> {
        self.inner.delete(key).await
    }

    async fn sweep(&self) -> vault::store::Result<u64> {
        self.inner.sweep().await
    }
}

async fn repository(store: Arc<dyn Store>) -> Repository {
    let options = InitOptions {
        id: BackupId::generate(),
        now: Utc::now(),
        tool: vaults::tool(),
        encryption: EncryptionChoice::None,
        store: serde_json::Value::Null,
        restore_text: String::new(),
    };
    Repository::init(store, options).await.unwrap()
}

async fn run(
    repository: &Repository,
    cluster: &Cluster,
    spool: Spool,
    events: &Events,
) -> Result<BackupReport, Failure> {
    let endpoints = cluster.endpoints();
    let settings = ConnectionSettings {
        endpoints: endpoints.iter().map(|url| Endpoint::parse(url, false).unwrap()).collect(),
        ca_file: None,
        cert_file: None,
        key_file: None,
        credentials: None,
        dial_timeout: Duration::from_secs(30),
        command_timeout: Duration::from_secs(30),
    };
    let connector = Connector::new(&settings).unwrap();
    let options = BackupOptions {
        cluster: None,
        strategy: Strategy::Follower,
        reach: Reach::AllMembers,
        proof: Policy::All,
        labels: BTreeMap::new(),
        nodes: None,
        write: WriteOptions { spool: Some(spool), ..WriteOptions::default() },
    };
    let mut interrupt = Interrupt::never();
    backup(repository, &connector, &settings, &options, events, &mut interrupt).await
}

/// What is stored is proven in the pass that stores it: no object and no manifest is
/// read back, the first time and later.
#[tokio::test]
async fn a_backup_reads_nothing_back() {
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    fill(&cluster, 6).await;
    let watched = Arc::new(Watched { inner: MemoryStore::new(), read: Mutex::default() });
    let repository = repository(watched.clone()).await;
    let directory = tempfile::tempdir().unwrap();
    let spool = || Spool { directory: directory.path().to_owned(), limit: 64 << 20 };
    for _ in 0..2 {
        watched.read.lock().unwrap().clear();
        let report = run(&repository, &cluster, spool(), &Events::none()).await.unwrap();
        assert_eq!(report.proof.state, vault::manifest::ProofState::Proven);
        let read = watched.read.lock().unwrap().clone();
        assert!(read.is_empty(), "{read:?}");
    }
}

/// A store that takes nothing for a while: the member's stream goes on into the
/// spool. One that never takes more than fits there: given up, and why.
#[tokio::test]
async fn a_slow_store_spools_up_to_its_bound() {
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    // More than the queue holds in memory, and all of it incompressible.
    fill(&cluster, 40).await;
    let store = Arc::new(MemoryStore::new());
    let slow = FaultStore::new(store.clone(), 0, StoreFault::Once, ErrorKind::Io);
    let repository = repository(Arc::new(slow.clone())).await;
    let directory = tempfile::tempdir().unwrap();
    let spool = |limit| Spool { directory: directory.path().to_owned(), limit };

    slow.hold_writes(true);
    // The store wakes up when the member has sent everything.
    let awake = slow.clone();
    let events = Events::new(move |event| {
        if event == Event::Finished {
            awake.hold_writes(false);
        }
    });
    let report = run(&repository, &cluster, spool(64 << 20), &events).await.unwrap();
    assert!(report.spooled > 10 << 20, "{} bytes waited in the spool", report.spooled);
    assert_eq!(report.proof.state, vault::manifest::ProofState::Proven);

    slow.hold_writes(true);
    let begun = Instant::now();
    let failure = run(&repository, &cluster, spool(4 << 20), &Events::none()).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(150));
    assert_eq!(failure.kind, FailureKind::Storage, "{failure:?}");
    let told = format!("{failure:?} {:?}", failure.causes());
    assert!(told.contains("--spool-limit") && told.contains("spool"), "{told}");
    slow.hold_writes(false);
    let listing = repository.list(&vault::repository::Filter::default()).await.unwrap();
    assert_eq!((listing.backups.len(), listing.corrupt.len()), (1, 0));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "the spool has no name");
}
