//! What `verify` holds against each other: a backup whose every stored byte is as it was
//! written, and which all the same is not what its manifest says, is named for each thing
//! that differs. And a database file of a stopped member becomes a backup that stock
//! tools take.

#[path = "common/program.rs"]
mod common;
#[path = "common/damage.rs"]
mod damage;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use etcdvault::config::place::Place;
use etcdvault::operation::vaults;
use harness::etcd::Cluster;
use harness::fill::Fill;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use vault::layout::{BackupId, Role};
use vault::manifest::Manifest;
use vault::repository::{Filter, NewObject, Repository, WriteOptions};
use vault::store::SizeHint;

use common::{new_vault, program};

/// A database with the SHA-256 of its bytes behind it, as etcd sends it.
fn sealed(database: &[u8]) -> Vec<u8> {
    [database, &Sha256::digest(database)].concat()
}

/// Stores `snapshot` under the manifest `like`, which `change` may turn into something
/// else: what a writer with a defect, or somebody with the right to write, leaves behind.
async fn forge(
    repository: &Repository,
    like: &Manifest,
    snapshot: &[u8],
    change: impl FnOnce(&mut Manifest),
) -> String {
    let mut manifest = like.clone();
    manifest.id = BackupId::generate();
    let object = NewObject {
        place: manifest.place(),
        id: manifest.id,
        role: Role::new("snapshot").unwrap(),
        name: "snapshot.db".to_owned(),
        plain_size: SizeHint::Exact(snapshot.len() as u64),
    };
    let mut writer = repository.create_object(object, &WriteOptions::default()).await.unwrap();
    writer.write(Bytes::copy_from_slice(snapshot)).await.unwrap();
    manifest.objects = vec![writer.finish().await.unwrap().record];
    change(&mut manifest);
    repository.commit(&manifest).await.unwrap();
    manifest.id.to_string()
}

/// The problems that are reported of `id`.
fn problems(report: &Value, id: &str) -> Vec<String> {
    let all = report["verified"].as_array().unwrap();
    let one = all.iter().find(|one| one["id"] == id).unwrap_or_else(|| panic!("{id}: {report}"));
    let problems = one["problems"].as_array().unwrap();
    problems.iter().map(|problem| problem.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn what_the_manifest_says_is_held_against_the_snapshot() {
    let root = tempfile::tempdir().unwrap();
    let place = new_vault(root.path()).await;
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    let mut client = cluster.client().await.unwrap();
    let put = client.put("canary", "a value", None).await.unwrap();
    let revision = u8::try_from(put.header().unwrap().revision()).unwrap();
    Fill::new(5, 50).run(&client).await.unwrap();
    let cli = program().vault(&place).cluster(&cluster);
    let good = cli.run(["backup", "--cluster", "x", "--json"]).await.unwrap().expect(0).json();
    let file = root.path().join("good.db");
    cli.run(["export", "latest", "-o", file.to_str().unwrap()]).await.unwrap().expect(0);
    let snapshot = std::fs::read(&file).unwrap();
    let database = &snapshot[..snapshot.len() - 32];
    assert_eq!(sealed(database), snapshot);

    let repository = vaults::open(&Place::Directory(place.clone()), None).await.unwrap();
    let listing = repository.list(&Filter::default()).await.unwrap();
    let like = listing.backups[0].manifest.clone();
    // A copy of what is good is good: whatever is found below is due to the change.
    let copy = forge(&repository, &like, &snapshot, |_| {}).await;

    // A manifest that says something else of the same database.
    let database_says = |member: &'static str, value: Value| {
        move |manifest: &mut Manifest| {
            let was = manifest.content["database"].as_object_mut().unwrap();
            let old = was.insert(member.to_owned(), value.clone());
            assert!(old.is_some_and(|old| old != value), "{member} is changed");
        }
    };
    let mut lies = vec![(
        "revision",
        forge(&repository, &like, &snapshot, |manifest| manifest.sequence += 1).await,
    )];
    let members = [
        ("HashKV", "hash_kv", json!(7)),
        ("HashKV", "hash_kv", Value::Null),
        ("status hash", "status_hash", json!(7)),
        ("keys", "keys", json!(7_000_000)),
        ("records", "records", json!(7_000_000)),
        ("leases", "leases", json!(7_000_000)),
        ("users", "users", json!(7_000_000)),
        ("roles", "roles", json!(7_000_000)),
    ];
    for (named, member, value) in members {
        let change = database_says(member, value);
        lies.push((named, forge(&repository, &like, &snapshot, change).await));
    }

    // A snapshot that is damaged, or none, under the SHA-256 of its own bytes. The manifest
    // knows of no hash, so that the damage is all that can be found.
    let unhashed = |manifest: &mut Manifest| {
        for hash in ["hash_kv", "status_hash"] {
            manifest.content["database"][hash] = Value::Null;
        }
    };
    let mut odd = database.to_vec();
    damage::change_revision(&mut odd, "canary", revision);
    let odd = forge(&repository, &like, &sealed(&odd), unhashed).await;
    let text = b"this is no database, whatever its name says\n".repeat(1024);
    let none = forge(&repository, &like, &sealed(&text[..32768]), unhashed).await;
    let mut flipped = snapshot.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let flipped = forge(&repository, &like, &flipped, |_| {}).await;
    let bare = forge(&repository, &like, database, |_| {}).await;
    let newer = |manifest: &mut Manifest| manifest.content_schema.version = 1_000;
    let newer = forge(&repository, &like, &snapshot, newer).await;

    // Every byte of all of them is what was stored.
    let stored = ["verify", "--all", "--level", "stored"];
    cli.run(stored).await.unwrap().expect(0);

    let report = cli.run(["verify", "--all", "--json"]).await.unwrap().expect(20).json();
    assert_eq!(report["verified"].as_array().unwrap().len(), 1 + 1 + lies.len() + 5, "{report}");
    for id in [good["id"].as_str().unwrap(), &copy] {
        assert_eq!(problems(&report, id), [""; 0]);
    }
    for (named, id) in &lies {
        let found = problems(&report, id);
        assert_eq!(found.len(), 1, "{named}: {found:?}");
        assert!(found[0].starts_with(&format!("{named}: the manifest says ")), "{found:?}");
    }
    let damaged = [
        (&odd, "is not one that etcd writes"),
        (&none, "the snapshot is damaged: "),
        (&flipped, "the SHA-256 behind the database is not that of its bytes"),
        (&bare, "the snapshot has no SHA-256 at its end"),
        (&newer, "schema version 1000"),
    ];
    for (id, words) in damaged {
        let found = problems(&report, id);
        assert!(found.len() == 1 && found[0].contains(words), "{words}: {found:?}");
        // The same for whoever reads it, with the exit code for cron.
        let ran = cli.run(["verify", id]).await.unwrap().expect(20);
        assert!(ran.to_string().contains(words), "{ran}");
    }
}

#[tokio::test]
async fn the_level_manifest_misses_what_is_gone_or_cut() {
    let root = tempfile::tempdir().unwrap();
    let place = new_vault(root.path()).await;
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    cluster.client().await.unwrap().put("a", "b", None).await.unwrap();
    let cli = program().vault(&place).cluster(&cluster);
    let mut made: Vec<(String, PathBuf)> = Vec::new();
    for _ in 0..3 {
        cli.run(["backup", "--cluster", "x"]).await.unwrap().expect(0);
        let shown = cli.run(["show", "latest", "--json"]).await.unwrap().expect(0).json();
        let object = place.join(shown["objects"][0]["key"].as_str().unwrap());
        made.push((shown["id"].as_str().unwrap().to_owned(), object));
    }
    let level = ["verify", "--all", "--level", "manifest", "--json"];
    let report = cli.run(level).await.unwrap().expect(0).json();
    for (id, _) in &made {
        assert_eq!(problems(&report, id), [""; 0]);
    }
    assert_eq!(report["verified"][0]["stored_bytes"], 0, "no object is read: {report}");

    let [(whole, _), (gone, gone_file), (cut, cut_file)] = &made[..] else { unreachable!() };
    std::fs::remove_file(gone_file).unwrap();
    let size = cut_file.metadata().unwrap().len();
    std::fs::File::options().write(true).open(cut_file).unwrap().set_len(size - 1).unwrap();
    let report = cli.run(level).await.unwrap().expect(20).json();
    assert_eq!(problems(&report, whole), [""; 0]);
    let key = |file: &Path| file.strip_prefix(&place).unwrap().to_str().unwrap().to_owned();
    assert_eq!(problems(&report, gone), [format!("{} is missing", key(gone_file))]);
    assert_eq!(
        problems(&report, cut),
        [format!("{} has {} bytes, the manifest says {size}", key(cut_file), size - 1)]
    );
    // Deeper levels find it too.
    for level in ["stored", "content"] {
        for id in [gone, cut] {
            cli.run(["verify", id, "--level", level]).await.unwrap().expect(20);
        }
    }
}

/// The file of a stopped member is longer than its database and has no SHA-256: what is
/// stored is the database alone, and sealed as etcd would seal it.
#[tokio::test]
async fn a_copied_database_of_a_stopped_member_is_imported() {
    let root = tempfile::tempdir().unwrap();
    let place = new_vault(root.path()).await;
    let mut cluster = Cluster::builder("3.6").start().await.unwrap();
    let filled = Fill::new(9, 300).run(&cluster.client().await.unwrap()).await.unwrap();
    let live = cluster.hashes(filled.revision).await.unwrap()[0];
    cluster.stop().await.unwrap();
    let file = cluster.members()[0].database();
    let cli = program().vault(&place);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let import = async |path: &Path| {
        let args = ["import", "--cluster", "copied", "--json", &text(path)].map(str::to_owned);
        cli.run(&args).await.unwrap().expect(0).json()["imported"][0].clone()
    };
    let export = async |imported: &Value, name: &str| {
        let id = imported["id"].as_str().unwrap();
        let out = root.path().join(name);
        cli.run(["export", id, "-o", &text(&out)]).await.unwrap().expect(0);
        out
    };

    let imported = import(&file).await;
    assert_eq!(imported["had_checksum"], false, "{imported}");
    assert_eq!(imported["revision"], filled.revision, "{imported}");
    let size = imported["size"].as_u64().unwrap();
    assert!(size < file.metadata().unwrap().len(), "bbolt's file is ahead of its pages");
    assert_eq!(size % 4096, 32, "whole pages and a SHA-256: {size}");
    let verified = cli.run(["verify", "--all", "--json"]).await.unwrap().expect(0).json();
    assert_eq!(verified["verified"][0]["hash_kv"], live, "what the member served: {verified}");

    // Stock tools take what is exported; restoring checks the SHA-256.
    let exported = export(&imported, "exported.db").await;
    let bytes = std::fs::read(&exported).unwrap();
    assert_eq!(bytes.len() as u64, size);
    let etcd = cluster.etcd();
    let status = ["snapshot", "status", &text(&exported), "-w", "json"].map(str::to_owned);
    let status: Value = serde_json::from_str(&etcd.etcdutl(status).await.unwrap()).unwrap();
    assert_eq!(status["totalKey"], filled.keys, "{status}");
    assert_eq!(status["revision"], filled.revision, "{status}");
    let target = root.path().join("by-etcdutl");
    let restore = ["snapshot", "restore", &text(&exported), "--data-dir", &text(&target)];
    etcd.etcdutl(restore).await.unwrap();
    let inspected = cli.run(["inspect", &text(&target), "--json"]).await.unwrap().expect(0).json();
    assert_eq!(inspected["hash_kv"], live, "{inspected}");

    // Whatever lies above the high-water mark is left out.
    let longer = root.path().join("longer.db");
    std::fs::copy(&file, &longer).unwrap();
    let mut above = std::fs::File::options().append(true).open(&longer).unwrap();
    std::io::Write::write_all(&mut above, &[0xa5; 3 * 4096]).unwrap();
    let again = import(&longer).await;
    assert_eq!(again["had_checksum"], false, "{again}");
    assert!(std::fs::read(export(&again, "again.db").await).unwrap() == bytes);

    // One that ends below the mark is cut short, also at the end of a page.
    let shorter = root.path().join("shorter.db");
    std::fs::write(&shorter, &bytes[..bytes.len() - 32 - 4096]).unwrap();
    let args = ["import", "--cluster", "copied", &text(&shorter)].map(str::to_owned);
    let ran = cli.run(&args).await.unwrap().expect(20);
    common::says(&ran, &["was not imported", "truncated"]);

    // An export brings its own checksum back.
    let back = import(&exported).await;
    assert_eq!((&back["had_checksum"], &back["size"]), (&json!(true), &json!(size)), "{back}");
}
