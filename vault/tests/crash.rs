//! A crash at every call of the store, and at every call of the file system, in
//! the course of a backup: afterwards every listed backup verifies, and a retry
//! works.

#[path = "support/fixture.rs"]
mod fixture;

use std::path::Path;
use std::sync::Arc;

use vault::durable::SimFs;
use vault::durable::sim::Unsynced;
use vault::encryption::EncryptionChoice;
use vault::repository::{Filter, ReadOptions, Repository, RepositoryError};
use vault::store::fault::{Fault, FaultStore};
use vault::store::local::LocalStore;
use vault::store::memory::MemoryStore;
use vault::store::{ErrorKind, Store};

use fixture::*;

const PLAIN: usize = 300_000;

/// Everything that a first use of a vault does.
async fn first_use(store: Arc<dyn Store>) -> Result<(), RepositoryError> {
    let vault = match new_vault(Arc::clone(&store), EncryptionChoice::None).await {
        // A retry after the vault was made.
        Err(RepositoryError::AlreadyAVault { .. }) => Repository::open(store).await?,
        other => other?,
    };
    back_up(&vault, &content(PLAIN, 1), 1).await?;
    back_up(&vault, &content(PLAIN, 2), 2).await?;
    Ok(())
}

/// Lists the vault, if there is one, and reads every backup to its verified end.
async fn check(store: Arc<dyn Store>, what: &str) -> usize {
    let vault = match Repository::open(store).await {
        Err(RepositoryError::NotAVault { .. }) => return 0,
        other => other.expect(what),
    };
    let listing = vault.list(&Filter::default()).await.expect(what);
    assert!(listing.corrupt.is_empty(), "{what}: {:?}", listing.corrupt);
    for backup in &listing.backups {
        let plain = read_all(&vault, &backup.manifest).await.expect(what);
        assert!(plain == content(PLAIN, backup.manifest.sequence), "{what}");
        let lineage = vault.lineage(&backup.key.place).await.expect(what);
        assert!(lineage.is_some(), "{what}: a backup without its lineage");
        for record in &backup.manifest.objects {
            let report = vault.verify_stored(record, &ReadOptions::default(), &mut |_| {}).await;
            report.expect(what);
        }
    }
    listing.backups.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_at_every_store_call() {
    let whole = FaultStore::new(Arc::new(MemoryStore::new()), 0, Fault::Once, ErrorKind::Io);
    first_use(Arc::new(whole.clone())).await.unwrap();
    let calls = whole.calls();
    assert!(calls > 25, "{calls}");
    let (mut struck, mut partial) = (0, 0);
    for fault in Fault::ALL {
        for at in 1..=calls {
            let what = format!("{fault:?} at call {at} of {calls}");
            let memory = MemoryStore::new();
            let faulty =
                FaultStore::new(Arc::new(memory.clone()), at, fault, ErrorKind::Unavailable);
            let result = first_use(Arc::new(faulty.clone())).await;
            // How many writes an upload takes can differ by one or two.
            if faulty.has_failed() {
                struck += 1;
            } else {
                result.expect(&what);
            }
            let survived = check(Arc::new(memory.clone()), &what).await;
            partial += usize::from(survived == 1);
            first_use(Arc::new(memory.clone())).await.expect(&what);
            let after = check(Arc::new(memory), &what).await;
            assert_eq!(after, survived + 2, "{what}");
        }
    }
    assert!(struck > 80 && partial > 20, "{struck} faults struck, {partial} left one backup");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_every_file_system_call() {
    let open = |fs: &SimFs| -> Result<Arc<dyn Store>, RepositoryError> {
        Ok(Arc::new(LocalStore::create_on(Arc::new(fs.clone()), Path::new("/data/vault"))?))
    };
    let whole = SimFs::new();
    first_use(open(&whole).unwrap()).await.unwrap();
    let calls = whole.calls();
    assert!(calls > 60, "{calls}");
    let mut struck = 0;
    for at in 1..=calls {
        let fs = SimFs::new();
        fs.fail_at(at);
        let result = match open(&fs) {
            Ok(store) => first_use(store).await,
            Err(error) => Err(error),
        };
        if fs.has_failed() {
            struck += 1;
        }
        let succeeded = result.is_ok();
        for unsynced in Unsynced::ALL {
            let what = format!("{unsynced:?} after a crash at call {at} of {calls}");
            let rebooted = fs.after_crash(unsynced);
            let survived = match open(&rebooted) {
                Ok(store) => check(store, &what).await,
                Err(error) => panic!("{what}: {error:?}"),
            };
            // What was reported as done is there, whatever was not synced.
            assert!(!succeeded || survived == 2, "{what}");
            first_use(open(&rebooted).unwrap()).await.expect(&what);
            let after = check(open(&rebooted).unwrap(), &what).await;
            assert_eq!(after, survived + 2, "{what}");
        }
    }
    assert!(struck > 60, "{struck}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_survives_a_crash_right_after() {
    let fs = SimFs::new();
    let store = LocalStore::create_on(Arc::new(fs.clone()), Path::new("/vault")).unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    let vault = new_vault(Arc::clone(&store), EncryptionChoice::None).await.unwrap();
    for sequence in 1..=3 {
        back_up(&vault, &content(PLAIN, sequence), sequence).await.unwrap();
        for unsynced in Unsynced::ALL {
            let what = format!("{unsynced:?} after backup {sequence}");
            let rebooted = Arc::new(fs.after_crash(unsynced));
            let store = LocalStore::open_on(rebooted, Path::new("/vault")).expect(&what);
            assert_eq!(check(Arc::new(store), &what).await as u64, sequence, "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_fails_the_backup_and_nothing_else() {
    let fs = SimFs::new();
    let open = || -> Arc<dyn Store> {
        let fs = Arc::new(fs.clone());
        Arc::new(LocalStore::create_on(fs, Path::new("/vault")).unwrap())
    };
    let vault = new_vault(open(), EncryptionChoice::None).await.unwrap();
    back_up(&vault, &content(PLAIN, 1), 1).await.unwrap();
    fs.set_capacity(80_000);
    let error = back_up(&vault, &content(PLAIN, 2), 2).await.unwrap_err();
    assert!(
        matches!(&error, RepositoryError::Store(error) if error.kind == ErrorKind::OutOfSpace),
        "{error:?}"
    );
    assert_eq!(check(open(), "full").await, 1);
    fs.set_capacity(u64::MAX);
    back_up(&vault, &content(PLAIN, 2), 2).await.unwrap();
    assert_eq!(check(open(), "with room again").await, 2);
}
