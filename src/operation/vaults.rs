//! Opening the place that a vault is at, and what its errors mean for a person.

use std::path::Path;
use std::sync::Arc;

use chrono::Utc;
use serde::Serialize;
use serde_json::{Value, json};
use vault::encryption::{EncryptionChoice, Identities};
use vault::layout::{BackupId, ClusterName, LineageName};
use vault::manifest::Tool;
use vault::repository::{InitOptions, Repository, RepositoryError};
use vault::store::local::LocalStore;
use vault::store::s3::{Probe, S3Config, S3Store, policy};
use vault::store::{ErrorKind, Store, StoreError};

use super::failure::{Failure, FailureKind};
use crate::config::place::Place;

/// This program, as manifests name it.
pub fn tool() -> Tool {
    Tool { name: "etcdvault".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }
}

/// What a snapshot object is, for the vault's `RESTORE.txt`.
const RESTORE_TEXT: &str = "\
The file `restored` is a snapshot of etcd, as `etcdctl snapshot save` writes it: a bbolt
database followed by the SHA-256 of its bytes. Look inside:

    $ etcdutl snapshot status restored -w table

Build a data directory of it on each machine that is to run a member (here a cluster of
three; etcdctl instead of etcdutl for etcd 3.4), with the same new token on all. Stop
every old member and every kube-apiserver first.

    $ etcdutl snapshot restore restored --name m1 --data-dir ./m1.etcd --initial-cluster m1=https://10.0.0.1:2380,m2=https://10.0.0.2:2380,m3=https://10.0.0.3:2380 --initial-cluster-token restored-1 --initial-advertise-peer-urls https://10.0.0.1:2380 --bump-revision 1000000000 --mark-compacted

The last two options (etcdutl 3.5.10 and later) are needed where Kubernetes is a client:
without them its caches keep what the restored cluster no longer holds.

FILES OF NODES

Beside the snapshot a backup may hold, for each node, an object node-<name>: a tar
archive of its configuration, its certificates and its PRIVATE KEYS. A backup of kind
\"state\" holds nothing else; to unpack one, set MANIFEST to its name. This unpacks every
node into a directory of its own below \"nodes\", with owners and modes where you are root:

    $ umask 077
    $ for OBJECT in $(sed -n 's/^ *\"key\": \"\\(clusters\\/.*\\/node-[^\\/]*\\.tar\\.zst.*\\)\",$/\\1/p' \"$MANIFEST\"); do DIR=\"nodes/$(basename \"${OBJECT%.tar.zst*}\")\"; mkdir -p \"$DIR\"; decode \"$OBJECT\" | tar -x -p -C \"$DIR\"; done
";

/// The store behind `place`. Connecting to S3 finds out its region; a directory is
/// not touched, and one that is not there is no vault.
async fn store(place: &Place) -> Result<OpenStore, Failure> {
    match place {
        Place::Directory(path) => match LocalStore::open(path) {
            Ok(store) => Ok(OpenStore::Local(Arc::new(store))),
            // A file, and what would lie below one, is no vault either.
            Err(error) if error.kind == ErrorKind::NotFound || is_below_a_file(path) => {
                Err(no_vault(&path.display().to_string()))
            }
            Err(error) => {
                Err(store_failure(format!("vault {} was not opened", path.display()), error))
            }
        },
        Place::S3(config) => Ok(OpenStore::S3(Arc::new(connect(config).await?))),
    }
}

fn is_below_a_file(path: &Path) -> bool {
    path.metadata().map_or_else(
        |error| error.kind() == std::io::ErrorKind::NotADirectory,
        |metadata| !metadata.is_dir(),
    )
}

async fn connect(config: &S3Config) -> Result<S3Store, Failure> {
    let location = config.url();
    S3Store::connect(config.clone())
        .await
        .map_err(|error| store_failure(format!("vault {location} cannot be reached"), error))
}

fn no_vault(location: &str) -> Failure {
    Failure::new(FailureKind::NoVault, format!("{location} is not a vault"))
        .hint(format!("nothing was created; check --vault, or make one: etcdvault init {location}"))
}

/// A store, with what is special about its kind.
#[derive(Debug, Clone)]
pub enum OpenStore {
    /// A directory.
    Local(Arc<LocalStore>),
    /// A prefix in an S3 bucket.
    S3(Arc<S3Store>),
}

impl OpenStore {
    /// The store behind its common interface.
    pub fn shared(&self) -> Arc<dyn Store> {
        match self {
            Self::Local(store) => store.clone(),
            Self::S3(store) => store.clone(),
        }
    }
}

/// Opens the vault at `place`; with identities it is unlocked, which proves that
/// they fit before any work is done.
pub async fn open(place: &Place, identities: Option<Identities>) -> Result<Repository, Failure> {
    let store = store(place).await?;
    let shared = store.shared();
    let location = shared.location();
    let mut repository = Repository::open(shared)
        .await
        .map_err(|error| storage_failure(format!("vault {location} was not opened"), error))?;
    if let OpenStore::S3(store) = &store
        && let Some(probe) = recorded_probe(&repository.vault_file().store)
    {
        store.apply(&probe);
    }
    if let Some(identities) = identities {
        repository.unlock(identities).await.map_err(|error| {
            storage_failure(format!("vault {location} was not unlocked"), error)
        })?;
    }
    Ok(repository)
}

/// How records of a probe name their kind.
const S3_KIND: &str = "s3";

/// What `init` writes down of a store in a bucket.
fn record(probe: &Probe) -> Result<Value, serde_json::Error> {
    let mut record = serde_json::to_value(probe)?;
    record["kind"] = S3_KIND.into();
    Ok(record)
}

/// The probe that a vault's record holds. Without one, in a vault that was copied into a
/// bucket from a directory for example, the store counts as one that honours nothing.
fn recorded_probe(record: &Value) -> Option<Probe> {
    // Written without a kind at first.
    let kind = record.get("kind").map_or(Some(S3_KIND), Value::as_str);
    if kind != Some(S3_KIND) || !record.is_object() {
        return None;
    }
    serde_json::from_value(record.clone()).ok()
}

fn bucket<'a>(place: &'a Place, what: &str) -> Result<&'a S3Config, Failure> {
    match place {
        Place::S3(config) => Ok(config),
        Place::Directory(path) => Err(Failure::new(
            FailureKind::Usage,
            format!("{} is a directory: {what} is for a vault in a bucket", path.display()),
        )
        .hint("name it as s3://bucket/prefix")),
    }
}

/// The policy for credentials that can only add backups of `cluster`, in the language of
/// the store at `place`, which is not asked.
pub fn writer_policy(place: &Place, cluster: &str) -> Result<String, Failure> {
    let config = bucket(place, "a policy")?;
    let usage = |error| {
        Failure::new(FailureKind::Usage, "no policy was printed").because(error).hint(
            "give the name that backups use: --print-policy prod goes with backup --cluster prod",
        )
    };
    let cluster = ClusterName::new(cluster).map_err(usage)?;
    policy::writer(config, cluster.as_str(), policy::Dialect::of(config))
        .map_err(|error| Failure::new(FailureKind::Usage, "no policy was printed").because(error))
}

/// The lifecycle rule for the bucket at `place`, which is not asked.
pub fn lifecycle(place: &Place) -> Result<String, Failure> {
    Ok(policy::lifecycle(bucket(place, "a lifecycle rule")?))
}

/// What `init` made.
#[derive(Debug, Serialize)]
pub struct InitReport {
    /// Where.
    pub location: String,
    /// The vault's id.
    pub id: String,
    /// `none`, `recipients` or `passphrase`.
    pub encryption: &'static str,
    /// Public keys of those who can read it.
    pub recipients: Vec<String>,
    /// What the store honours.
    pub store: serde_json::Value,
}

/// Makes a vault of an empty place, after probing what the store there honours.
pub async fn init(place: &Place, encryption: EncryptionChoice) -> Result<InitReport, Failure> {
    let store = match place {
        Place::Directory(path) => {
            let store = LocalStore::create(path).map_err(|error| {
                store_failure(format!("no vault was made at {}", path.display()), error)
            })?;
            OpenStore::Local(Arc::new(store))
        }
        Place::S3(config) => OpenStore::S3(Arc::new(connect(config).await?)),
    };
    let shared = store.shared();
    let location = shared.location();
    let what = || format!("no vault was made at {location}");
    let facts = match &store {
        OpenStore::Local(_) => json!({ "kind": "directory", "put_new": true }),
        OpenStore::S3(s3) => {
            let probe = s3.probe().await.map_err(|error| store_failure(what(), error))?;
            s3.apply(&probe);
            record(&probe)
                .map_err(|error| Failure::new(FailureKind::Error, what()).because(error))?
        }
    };
    let (kind, recipients) = match &encryption {
        EncryptionChoice::None => ("none", Vec::new()),
        EncryptionChoice::Recipients(list) => {
            ("recipients", list.iter().map(ToString::to_string).collect())
        }
        EncryptionChoice::Passphrase { .. } => ("passphrase", Vec::new()),
    };
    let id = BackupId::generate();
    let options = InitOptions {
        id,
        now: Utc::now(),
        tool: tool(),
        encryption,
        store: facts.clone(),
        restore_text: RESTORE_TEXT.to_owned(),
    };
    Repository::init(shared, options).await.map_err(|error| storage_failure(what(), error))?;
    Ok(InitReport { location, id: id.to_string(), encryption: kind, recipients, store: facts })
}

/// Bound on clearing up after others.
const SWEEP_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// Clears away what killed processes left in the store. Best effort: a role that may
/// not do so still makes backups.
pub async fn sweep(repository: &Repository) {
    let _ = tokio::time::timeout(SWEEP_TIMEOUT, repository.store().sweep()).await;
}

/// The name under which the vault knows a lineage, if it does.
pub async fn name_of_lineage(
    repository: &Repository,
    lineage: &LineageName,
) -> Result<Option<ClusterName>, Failure> {
    let places = repository.places(None).await.map_err(|error| {
        listing_failure(repository, None, "the vault's clusters were not listed", error)
    })?;
    Ok(places.into_iter().find(|place| place.lineage == *lineage).map(|place| place.cluster))
}

/// A failure to list what the vault holds of `cluster`, or of every cluster. Credentials
/// in a bucket may be good for one cluster alone.
pub fn listing_failure(
    repository: &Repository,
    cluster: Option<&ClusterName>,
    what: impl Into<String>,
    error: RepositoryError,
) -> Failure {
    let denied = matches!(&error, RepositoryError::Store(store)
        if store.kind == ErrorKind::PermissionDenied);
    let mut failure = storage_failure(what, error);
    if denied && cluster.is_none() && repository.store().location().starts_with("s3://") {
        failure.hint = Some(
            "these credentials may not list every cluster of the vault: name theirs with \
             --cluster NAME or ETCDVAULT_CLUSTER"
                .to_owned(),
        );
    }
    failure
}

/// A failure of the store under a vault.
pub fn store_failure(what: impl Into<String>, error: StoreError) -> Failure {
    let kind = kind_of_store(error.kind);
    let hint = hint_of_store(error.kind);
    let mut failure = Failure::new(kind, what).because(error);
    failure.hint = hint.map(str::to_owned);
    failure
}

/// A failure of a vault.
pub fn storage_failure(what: impl Into<String>, error: RepositoryError) -> Failure {
    let keys = crate::config::keys::HINT;
    let (kind, hint) = match &error {
        RepositoryError::NotAVault { location } => return no_vault(location),
        RepositoryError::AlreadyAVault { .. } => (
            FailureKind::Usage,
            Some(
                "nothing was changed; a new vault needs an empty place, this one can be used as it is",
            ),
        ),
        RepositoryError::NotEmpty { .. } => {
            (FailureKind::Usage, Some("nothing was changed; a new vault needs an empty place"))
        }
        RepositoryError::TooNew { .. } => (FailureKind::Error, Some("use a newer etcdvault")),
        RepositoryError::Corrupt { .. } => (
            FailureKind::Corrupt,
            Some("other backups may be good: etcdvault verify --all; keep the damaged one"),
        ),
        RepositoryError::WrongKey { .. }
        | RepositoryError::KeyNeeded { .. }
        | RepositoryError::Encryption(_) => (FailureKind::Key, Some(keys)),
        RepositoryError::Store(store) => (kind_of_store(store.kind), hint_of_store(store.kind)),
        RepositoryError::SpoolFull { .. } => (
            FailureKind::Storage,
            Some("the store is slower than the member sends; raise --spool-limit if there is room"),
        ),
        RepositoryError::Spool(_) => {
            (FailureKind::Storage, Some("--spool-dir names a directory with room"))
        }
        RepositoryError::NoBackup { .. } => {
            (FailureKind::Usage, Some("etcdvault list shows the backups"))
        }
        RepositoryError::Ambiguous { .. } => (FailureKind::Usage, Some("give more of the id")),
        RepositoryError::SeveralClusters { .. } => {
            (FailureKind::Usage, Some("say which one with --cluster, or name a backup by its id"))
        }
        _ => (FailureKind::Error, None),
    };
    let mut failure = Failure::new(kind, what).because(error);
    failure.hint = hint.map(str::to_owned);
    failure
}

fn kind_of_store(kind: ErrorKind) -> FailureKind {
    match kind {
        ErrorKind::Corrupt => FailureKind::Corrupt,
        ErrorKind::Configuration => FailureKind::Usage,
        _ => FailureKind::Storage,
    }
}

fn hint_of_store(kind: ErrorKind) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::PermissionDenied => {
            "check the owner and mode of the directory, or the credentials and the policy of the \
             bucket; a backup needs to read, write and list below its prefix"
        }
        ErrorKind::OutOfSpace => {
            "free space in the vault's storage or raise its quota, then try again"
        }
        ErrorKind::Unavailable | ErrorKind::Timeout => {
            "the store did not answer in time; nothing half-made is listed, so try again"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_believed_only_of_a_bucket() {
        let probe = Probe { put_new: true, region: "eu-west-3".to_owned(), ..Probe::default() };
        let written = record(&probe).unwrap();
        assert_eq!(written["kind"], "s3");
        assert_eq!(recorded_probe(&written), Some(probe.clone()));
        let without_kind = serde_json::to_value(&probe).unwrap();
        assert_eq!(recorded_probe(&without_kind), Some(probe));
        for other in [
            json!({"kind": "directory", "put_new": true}),
            json!({"kind": 7, "put_new": true}),
            json!({"kind": "s3", "put_new": "yes"}),
            json!(["put_new"]),
            Value::Null,
        ] {
            assert_eq!(recorded_probe(&other), None, "{other}");
        }
    }
}
