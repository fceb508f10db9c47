//! Patched databases judged by bbolt's own code.
//!
//! What is proven: databases that bbolt made with pages of 4, 16 and 64 KiB,
//! with overflow pages, deletions and compactions, stay whole for bbolt's check
//! and ours under random patches, with exactly the content that a map predicts;
//! and the hash that a restore predicts is what independent code computes from
//! the restored file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use etcdvault::bbolt::Database;
use etcdvault::bbolt::patch::{PageSink, Patch};
use etcdvault::datadir::restore::{Expected, Options, Restore, Target};

#[path = "common/mkdb.rs"]
mod mkdb;

struct Sink<'a>(&'a File);

impl PageSink for Sink<'_> {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}

type Content = BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>;

fn content(path: &Path) -> Content {
    let database = Database::open(File::open(path).expect("open")).expect("a database");
    let mut content = Content::new();
    for name in database.root().buckets().expect("buckets") {
        let bucket = database.bucket(&name).expect("read").expect("bucket");
        let entries = content.entry(name).or_default();
        let mut cursor = bucket.cursor();
        while let Some(entry) = cursor.next().expect("entry") {
            entries.insert(entry.key.to_vec(), entry.value.to_vec());
        }
    }
    content
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % bound
    }
}

/// Puts, replacements and deletions of what is there, whole ranges, new buckets.
fn random_patch(random: &mut Random, content: &mut Content) -> Patch {
    let mut patch = Patch::new();
    let names: Vec<_> = content.keys().cloned().chain([b"new".to_vec()]).collect();
    for _ in 0..1 + random.below(30) {
        // Mostly the large bucket.
        let name = if random.below(3) == 0 {
            names[random.below(names.len())].clone()
        } else {
            b"key".to_vec()
        };
        let entries = content.entry(name.clone()).or_default();
        let existing = (!entries.is_empty())
            .then(|| entries.keys().nth(random.below(entries.len())).cloned())
            .flatten();
        let sizes = [0, 10, 300, 5000, 200_000];
        let value = vec![random.below(256) as u8; sizes[random.below(sizes.len())]];
        match (random.below(7), existing) {
            (0..=1, _) => {
                let mut key = vec![random.below(256) as u8; 1 + random.below(40)];
                key.extend_from_slice(&(random.0 >> 40).to_be_bytes());
                patch.put(&name, &key, &value);
                entries.insert(key, value);
            }
            (2..=3, Some(key)) => {
                patch.put(&name, &key, &value);
                entries.insert(key, value);
            }
            (4, Some(key)) => {
                patch.delete(&name, &key);
                entries.remove(&key);
            }
            (5, Some(from)) => {
                let count = 1 + random.below(entries.len());
                let gone: Vec<_> =
                    entries.range(from..).take(count).map(|(key, _)| key.clone()).collect();
                for key in gone {
                    patch.delete(&name, &key);
                    entries.remove(&key);
                }
            }
            (6, _) if random.below(4) == 0 => {
                patch.empty(&name);
                entries.clear();
            }
            _ => {
                let last = entries.keys().next_back().cloned().unwrap_or_default();
                let key = [last.as_slice(), b"\x01"].concat();
                patch.put(&name, &key, &value);
                entries.insert(key, value);
            }
        }
    }
    patch
}

#[test]
fn random_patches_stay_whole() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut applied = 0;
    for (number, page_size) in ["4096", "16384", "65536"].into_iter().enumerate() {
        for seed in 0..4u64 {
            let path = directory.path().join(format!("{page_size}-{seed}"));
            let large = if seed % 2 == 0 { "0" } else { "40" };
            mkdb::make(
                &path,
                &["-page-size", page_size, "-seed", &seed.to_string(), "-large", large],
            );
            let mut random = Random(seed + 100 * number as u64);
            let mut model = content(&path);
            for _ in 0..6 {
                let patch = random_patch(&mut random, &mut model);
                let file = File::options().read(true).write(true).open(&path).expect("open");
                let database = Database::open(&file).expect("a database");
                patch.apply(&database, &mut Sink(&file)).expect("apply");
                assert_eq!(mkdb::check(&path), Ok(()), "pages of {page_size}, seed {seed}");
                let file = File::open(&path).expect("open");
                let report = Database::open(file).expect("a database").check();
                assert_eq!(report.problems.total(), 0, "pages of {page_size}, seed {seed}");
                assert!(content(&path) == model, "pages of {page_size}, seed {seed}");
                applied += 1;
            }
        }
    }
    assert_eq!(applied, 72);
}

#[test]
fn the_predicted_hash_is_that_of_the_restored_file() {
    let directory = tempfile::tempdir().expect("temporary directory");
    for page_size in ["4096", "16384", "65536"] {
        for (compact, bump) in [("0", 0), ("60", 0), ("0", 1_000_000), ("60", 1_000_000)] {
            let name = format!("{page_size}-{compact}-{bump}");
            let path = directory.path().join(&name);
            mkdb::make(
                &path,
                &["-page-size", page_size, "-compact-every", compact, "-transactions", "500"],
            );
            let data_dir = directory.path().join(format!("{name}.etcd"));
            let options = Options {
                initial_cluster: "m1=http://127.0.0.1:1,m2=http://127.0.0.1:2".into(),
                initial_cluster_token: name.clone(),
                targets: vec![Target {
                    name: "m2".into(),
                    data_dir: data_dir.clone(),
                    wal_dir: None,
                    advertised_peer_urls: Vec::new(),
                }],
                bump_revision: bump,
                mark_compacted: bump > 0,
                skip_hash_check: true,
                ..Options::default()
            };
            let mut restore = Restore::begin(vault::durable::real(), options).expect("begin");
            for chunk in std::fs::read(&path).expect("read").chunks(50_001) {
                restore.write(chunk).expect("write");
            }
            let restored = restore.finish(&Expected::default()).expect("finish");
            let database = data_dir.join("member/snap/db");
            assert_eq!(mkdb::check(&database), Ok(()), "{name}");
            let compact = restored.compact_revision.unwrap_or(-1);
            let theirs = mkdb::hashes(&database, restored.revision, compact);
            assert_eq!(theirs.hash_kv, restored.hash, "{name}");
            let size = std::fs::metadata(&database).expect("metadata").len();
            assert_eq!(size, restored.database_size, "{name}");
            let members = &content(&database)[&b"members"[..]];
            assert_eq!(members.len(), 2, "{name}: the old members are gone");
            assert!(content(&database)[&b"members_removed"[..]].is_empty(), "{name}");
        }
    }
}
