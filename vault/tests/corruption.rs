//! Every single-bit flip and every truncation of a stored backup is detected,
//! exhaustively: manifest, object, lineage, receipt and `vault.json`, encrypted
//! and not.

#[path = "support/fixture.rs"]
mod fixture;

use std::sync::Arc;

use serde_json::json;
use vault::encryption::EncryptionChoice;
use vault::layout::{Level, ManifestKey};
use vault::repository::{Filter, ReadOptions, Receipt, Repository, RepositoryError, Selector};
use vault::store::Key;
use vault::store::memory::MemoryStore;

use fixture::*;

struct Subject {
    store: MemoryStore,
    vault: Repository,
    manifest: ManifestKey,
    plain: Vec<u8>,
    encrypted: bool,
}

async fn subject(choice: EncryptionChoice, size: usize) -> Subject {
    let store = MemoryStore::new();
    let encrypted = !matches!(choice, EncryptionChoice::None);
    let vault = new_vault(Arc::new(store.clone()), choice).await.unwrap();
    let plain = content(size, 11);
    let manifest = back_up(&vault, &plain, 0xabc).await.unwrap();
    let receipt = Receipt {
        id: manifest.id,
        time: now(),
        level: Level::new("content").unwrap(),
        body: json!({"ok": true}),
    };
    vault.put_receipt(&place(), &receipt).await.unwrap();
    Subject { store, vault, manifest, plain, encrypted }
}

/// Does what a careful person would do with a vault: opens it, looks at everything
/// in it and reads the backup. `Ok` when all of it is as it was.
async fn inspect(subject: &Subject, store: &MemoryStore) -> Result<(), String> {
    let shown = |error: RepositoryError| {
        let text = format!("{error}");
        assert!(!text.chars().any(char::is_control), "{text:?}");
        text
    };
    let mut vault = Repository::open(Arc::new(store.clone())).await.map_err(shown)?;
    if subject.encrypted {
        vault.unlock(identities()).await.map_err(shown)?;
    }
    if vault.lineage(&place()).await.map_err(shown)?.is_none() {
        return Err("no lineage".into());
    }
    let (receipts, corrupt) = vault.receipts(&place(), subject.manifest.id).await.map_err(shown)?;
    if receipts.len() != 1 || !corrupt.is_empty() {
        return Err("no receipt".into());
    }
    let listing = vault.list(&Filter::default()).await.map_err(shown)?;
    if let Some(entry) = listing.corrupt.into_iter().next() {
        return Err(shown(entry.error));
    }
    let backup = vault.find(None, &Selector::Latest).await.map_err(shown)?;
    let plain = read_all(&vault, &backup.manifest).await.map_err(shown)?;
    // Nothing wrong may ever be handed out as verified.
    assert!(plain == subject.plain, "wrong bytes were verified");
    Ok(())
}

async fn exhaust(choice: EncryptionChoice, size: usize) -> usize {
    let subject = subject(choice, size).await;
    inspect(&subject, &subject.store).await.unwrap();
    let keys: Vec<Key> =
        subject.store.keys().into_iter().filter(|key| key.as_str() != "RESTORE.txt").collect();
    assert_eq!(keys.len(), 5, "vault.json, lineage, manifest, object, receipt: {keys:?}");
    let total: usize = keys.iter().map(|key| subject.store.bytes(key).unwrap().len()).sum();
    assert!(total < 10_000, "{total} bytes");
    let mut tried = 0;
    for key in keys {
        let good = subject.store.bytes(&key).unwrap();
        let store = subject.store.fork();
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut changed = good.to_vec();
                changed[at] ^= 1 << bit;
                store.set(key.clone(), changed);
                let found = inspect(&subject, &store).await;
                assert!(found.is_err(), "bit {bit} of byte {at} of {key} went unnoticed");
                tried += 1;
            }
            store.set(key.clone(), good.slice(..at));
            let found = inspect(&subject, &store).await;
            assert!(found.is_err(), "{key} cut to {at} bytes went unnoticed");
            tried += 1;
        }
        for extra in [&b"\0"[..], b"\n", &good] {
            store.set(key.clone(), [&good, extra].concat());
            let found = inspect(&subject, &store).await;
            assert!(found.is_err(), "{key} with something added went unnoticed");
        }
    }
    tried
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_a_plain_backup_is_detected() {
    let tried = exhaust(EncryptionChoice::None, 900).await;
    assert!(tried > 20_000, "{tried}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_an_encrypted_backup_is_detected() {
    let tried = exhaust(to_recipient(), 900).await;
    assert!(tried > 20_000, "{tried}");
}

#[tokio::test(flavor = "multi_thread")]
async fn corruption_names_object_frame_and_offset() {
    for choice in [EncryptionChoice::None, to_recipient()] {
        let frame = vault::compression::FRAME_SIZE;
        let subject = subject(choice, 3 * frame + 5).await;
        let record =
            subject.vault.load(&subject.manifest).await.unwrap().manifest.objects[0].clone();
        let key = record.key().unwrap();
        let mut bytes = subject.store.bytes(&key).unwrap().to_vec();
        // In the middle of the third of four frames.
        let at = bytes.len() * 5 / 6;
        bytes[at] ^= 4;
        subject.store.set(key.clone(), bytes);
        let error = subject
            .vault
            .verify_stored(&record, &ReadOptions::default(), &mut |_| {})
            .await
            .unwrap_err();
        let RepositoryError::Corrupt { object, frame, offset, .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(object, key.as_str());
        let offset = offset.expect("an offset") as usize;
        if subject.encrypted {
            // age's chunks are found before frames are.
            assert!(offset >= at && offset < at + (2 << 20), "{error}");
        } else {
            assert_eq!(*frame, Some(2), "{error}");
            assert!(offset < at && at < offset + (2 << 20), "{error}");
        }
        // What lies before the damage can be read by range, what lies in it not.
        assert!(subject.vault.read_range(&record, 10..20).await.is_ok());
        let damaged = 2 * frame_size() + frame_size() / 2;
        let error = subject.vault.read_range(&record, damaged..damaged + 5).await.unwrap_err();
        assert!(error.is_corruption(), "{error:?}");
    }
}

fn frame_size() -> u64 {
    vault::compression::FRAME_SIZE as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_exchanged_object_is_detected() {
    let subject = subject(EncryptionChoice::None, 5000).await;
    let other = back_up(&subject.vault, &content(5000, 12), 1).await.unwrap();
    let record = subject.vault.load(&subject.manifest).await.unwrap().manifest.objects[0].clone();
    let other = subject.vault.load(&other).await.unwrap().manifest.objects[0].clone();
    let (key, good) = (record.key().unwrap(), subject.store.bytes(&record.key().unwrap()).unwrap());
    let verify =
        async || subject.vault.verify_stored(&record, &ReadOptions::default(), &mut |_| {}).await;
    subject.store.set(key.clone(), subject.store.bytes(&other.key().unwrap()).unwrap());
    assert!(verify().await.unwrap_err().is_corruption());
    let mut gone = subject.store.clone();
    vault::store::Store::delete(&gone, &key).await.unwrap();
    let error = verify().await.unwrap_err();
    assert!(error.is_corruption() && error.to_string().contains("missing"), "{error}");
    let error = subject.vault.read_range(&record, 0..1).await.unwrap_err();
    assert!(error.is_corruption(), "{error:?}");
    gone = subject.store.clone();
    gone.set(key, good);
    verify().await.unwrap();
}
