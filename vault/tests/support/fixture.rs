//! A vault with a small backup in it, for the tests.
#![allow(dead_code, unreachable_pub)]

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, TimeZone as _, Utc};
use serde_json::json;
use vault::encryption::{EncryptionChoice, Identities, Passphrase, parse_recipients};
use vault::layout::{BackupId, ClusterName, Kind, LineageName, ManifestKey, Place, Role};
use vault::manifest::{ContentSchema, Manifest, Proof, ProofState, Tool};
use vault::repository::{
    InitOptions, Lineage, NewObject, ReadOptions, Repository, Result, WriteOptions, WrittenObject,
};
use vault::store::{SizeHint, Store};

/// A key pair made for these tests by `age-keygen`.
pub const IDENTITY: &str =
    "AGE-SECRET-KEY-1VZRNK5WEP9PVP4EPS6WC62X20ZCXG4UCG86LS230CU66N0S643VQWLA9ND";
pub const RECIPIENT: &str = "age195aw709chgjctj3fs5kx5gvcvdye2z6se0qmjcus3wu2ctjqp9uqf3xep6";
/// A secret key that opens nothing here.
pub const OTHER_IDENTITY: &str =
    "AGE-SECRET-KEY-16HC223CC4X2UKAJSJ0LWPJZFDC4CZRRTEJ37SHG3Z7975ZY8YKMSAUVEAG";

pub fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 21, 1, 2, 3).unwrap()
}

pub fn place() -> Place {
    place_of("prod")
}

pub fn place_of(cluster: &str) -> Place {
    Place {
        cluster: ClusterName::new(cluster).unwrap(),
        lineage: LineageName::new("cdf818194e3a8c32").unwrap(),
    }
}

pub fn tool() -> Tool {
    Tool { name: "etcdvault".into(), version: "0.1.0".into() }
}

pub fn init_options(encryption: EncryptionChoice) -> InitOptions {
    InitOptions {
        id: BackupId::generate(),
        now: now(),
        tool: tool(),
        encryption,
        store: json!({"put_new": true}),
        restore_text: "\"restored\" is the object.".into(),
    }
}

pub fn to_recipient() -> EncryptionChoice {
    EncryptionChoice::Recipients(parse_recipients(&[RECIPIENT]).unwrap())
}

pub fn to_passphrase(text: &str) -> EncryptionChoice {
    let passphrase = Passphrase::new(text.into()).unwrap();
    EncryptionChoice::Passphrase { passphrase, work_factor: 4 }
}

pub fn identities() -> Identities {
    Identities::from_text(IDENTITY).unwrap()
}

/// A vault, unlocked with the test identity where it is encrypted to it.
pub async fn new_vault(store: Arc<dyn Store>, encryption: EncryptionChoice) -> Result<Repository> {
    let to_recipient = matches!(encryption, EncryptionChoice::Recipients(_));
    let mut vault = Repository::init(store, init_options(encryption)).await?;
    if to_recipient {
        vault.unlock(identities()).await?;
    }
    Ok(vault)
}

/// Content that compresses about as a database does: repeated text with numbers
/// between.
pub fn content(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(size + 64);
    while out.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(b"/registry/pods/default/some-name-");
        out.extend_from_slice(format!("{state:016x}").as_bytes());
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(size);
    out
}

pub async fn write_object(
    vault: &Repository,
    id: BackupId,
    plain: &[u8],
    options: &WriteOptions,
) -> Result<WrittenObject> {
    let object = NewObject {
        place: place(),
        id,
        role: Role::new("snapshot").unwrap(),
        name: "snapshot.db".into(),
        plain_size: SizeHint::Exact(plain.len() as u64),
    };
    let mut writer = vault.create_object(object, options).await?;
    for chunk in plain.chunks(100_000) {
        writer.write(Bytes::copy_from_slice(chunk)).await?;
    }
    writer.finish().await
}

pub fn manifest(id: BackupId, sequence: u64, written: &[&WrittenObject]) -> Manifest {
    Manifest {
        id,
        kind: Kind::new("snapshot").unwrap(),
        cluster: place().cluster,
        lineage: place().lineage,
        sequence,
        started: now(),
        finished: now() + chrono::TimeDelta::milliseconds(1234),
        tool: tool(),
        proof: Proof { state: ProofState::Proven, reasons: vec!["3 of 3 members agree".into()] },
        labels: [("why".to_owned(), "test".to_owned())].into(),
        objects: written.iter().map(|written| written.record.clone()).collect(),
        content_schema: ContentSchema { name: "test".into(), version: 1 },
        content: json!({"revision": sequence, "members": ["k1", "k2", "k3"]}),
    }
}

/// A whole backup: lineage, object, manifest.
pub async fn back_up(vault: &Repository, plain: &[u8], sequence: u64) -> Result<ManifestKey> {
    let id = BackupId::generate();
    let lineage =
        Lineage { place: place(), created: now(), parent: None, body: json!({"cluster_id": 7}) };
    vault.ensure_lineage(&lineage).await?;
    let options = WriteOptions { workers: 2, ..WriteOptions::default() };
    let written = write_object(vault, id, plain, &options).await?;
    vault.commit(&manifest(id, sequence, &[&written])).await
}

/// An object's plain bytes, to the verified end.
pub async fn read_all(vault: &Repository, manifest: &Manifest) -> Result<Vec<u8>> {
    let record = manifest.object("snapshot").expect("a snapshot");
    let mut reader =
        vault.open_object(record, &ReadOptions { workers: 2, ..ReadOptions::default() }).await?;
    let mut plain = Vec::new();
    while let Some(chunk) = reader.next().await? {
        plain.extend_from_slice(&chunk);
    }
    Ok(plain)
}
