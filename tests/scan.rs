//! The one-pass scan of databases that bbolt itself made: equal to what bbolt
//! and Go compute whatever the page size, the tree and the chunks, and never
//! misled by what free pages hold.

#[path = "common/mkdb.rs"]
mod mkdb;

use std::path::Path;

use etcdvault::bbolt::Database;
use etcdvault::datadir::hash::{Scan, ScanError, ScanOptions, ScanProblem, StreamScan, two_pass};
use etcdvault::datadir::inspect::{InspectError, Inspection, Kind, Trailer, inspect, inspect_with};
use etcdvault::datadir::schema::{Content, KeyValue, RecordKey};
use proptest::prelude::*;

fn scan_with(bytes: &[u8], chunk: usize, options: ScanOptions) -> Result<Scan, ScanError> {
    let mut scan = StreamScan::new(options);
    for chunk in bytes.chunks(chunk.max(1)) {
        scan.write(chunk)?;
    }
    scan.finish()
}

fn scan(bytes: &[u8]) -> Scan {
    scan_with(bytes, 1 << 20, ScanOptions::default()).expect("a database")
}

fn sound(bytes: &[u8]) -> Scan {
    let scan = scan(bytes);
    assert!(scan.is_sound(), "{:?}", scan.problems);
    scan
}

/// A snapshot made by the helper.
fn snapshot(args: &[&str]) -> (tempfile::TempDir, std::path::PathBuf, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("snapshot.db");
    mkdb::make(&path, args);
    let bytes = std::fs::read(&path).unwrap();
    (directory, path, bytes)
}

/// Everything the scan says against bbolt, Go and the two-pass rule.
fn compare(path: &Path, bytes: &[u8], scan: &Scan) {
    let database = Database::open(bytes).unwrap();
    let report = database.check();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert_eq!(mkdb::check(path), Ok(()));
    assert_eq!((report.used_pages, report.free_pages), (scan.used_pages, scan.free_pages));
    assert_eq!(scan.free_pages, mkdb::free_pages(path).len() as u64);

    // Reading only the pages in use gives the same.
    let direct = Scan::of(&database, ScanOptions::default()).unwrap();
    assert!(direct.is_sound(), "{:?}", direct.problems);
    assert_eq!(direct.status_hash, scan.status_hash);
    assert_eq!(direct.content, scan.content);
    assert_eq!(direct.buckets, scan.buckets);
    assert_eq!(direct.used_pages, scan.used_pages);
    assert_eq!(direct.hash_kv(0, Some(9)).unwrap(), scan.hash_kv(0, Some(9)).unwrap());

    let (content, errors) = Content::read(&database).unwrap();
    assert_eq!(errors, []);
    assert_eq!(content, scan.content);

    let last = scan.last_record.unwrap_or(0);
    let compacted = content.compact_revision().unwrap_or(-1);
    let mut asked = vec![(0, compacted), (last, -1), (last, last), (0, last + 1000)];
    asked.extend((1..last).step_by((last as usize / 7).max(1)).map(|r| (r, compacted)));
    asked.extend((1..last).step_by((last as usize / 5).max(1)).map(|c| (last, c)));
    asked.extend((1..last).step_by((last as usize / 5).max(1)).map(|r| (r, r / 2)));
    for (revision, compact) in asked {
        let hashes = mkdb::hashes(path, revision, compact);
        let ours = scan.hash_kv(revision, Some(compact)).unwrap();
        assert_eq!(ours, hashes.hash_kv, "HashKV({revision}, {compact})");
        assert_eq!(two_pass(&database, revision, Some(compact)).unwrap(), hashes.hash_kv);
        assert_eq!(scan.status_hash, hashes.status_hash);
        assert_eq!((scan.entries, scan.records), (hashes.entries, hashes.records));
        assert_eq!((scan.live_keys, last), (hashes.live_keys, hashes.last_record));
    }
}

#[test]
fn every_page_size_and_shape_equals_bbolt_and_go() {
    let shapes: &[&[&str]] = &[
        &[],
        &["-transactions", "0"],
        &["-transactions", "1", "-users", "0", "-leases", "0"],
        &["-compact-every", "100", "-large", "30"],
        &["-compact-every", "100", "-unfinished", "-large", "5", "-large-size", "40000"],
        &["-transactions", "3000", "-keys", "40", "-value-size", "60", "-compact-every", "700"],
        &["-users", "300", "-leases", "900", "-freelist", "-compact-every", "100"],
        &["-freelist", "-raw", "-compact-every", "50", "-large", "9"],
        &["-value-size", "9000", "-transactions", "200"],
    ];
    for page_size in ["4096", "16384", "65536"] {
        for (seed, shape) in shapes.iter().enumerate() {
            let seed = seed.to_string();
            let args = [&["-page-size", page_size, "-seed", &seed], *shape].concat();
            let (_directory, path, bytes) = snapshot(&args);
            let scan = sound(&bytes);
            assert_eq!(scan.meta.page_size.to_string(), page_size, "{shape:?}");
            let trailer = scan.digests.as_ref().unwrap().trailer_ok();
            assert_eq!(trailer, (!shape.contains(&"-raw")).then_some(true));
            compare(&path, &bytes, &scan);
        }
    }
}

#[test]
fn records_that_do_not_fit_spill_and_count_the_same() {
    let args = ["-transactions", "60000", "-value-size", "20", "-keys", "9000", "-batch", "2000"];
    let (directory, path, bytes) = snapshot(&args);
    let spilling = ScanOptions {
        memory: 1 << 20,
        spill_directory: Some(directory.path().into()),
        ..ScanOptions::default()
    };
    let scan = scan_with(&bytes, 1 << 16, spilling.clone()).unwrap();
    assert!(scan.is_sound(), "{:?}", scan.problems);
    assert!(scan.spilled() > 1 << 20, "{} bytes spilled", scan.spilled());
    for (revision, compact) in [(0, -1), (30_000, 20_000), (0, 50_000)] {
        let want = mkdb::hashes(&path, revision, compact).hash_kv;
        assert_eq!(scan.hash_kv(revision, Some(compact)).unwrap(), want);
    }
    let bounded = ScanOptions { spill_limit: 1 << 20, ..spilling };
    let error = scan_with(&bytes, 1 << 16, bounded).unwrap_err();
    assert!(matches!(error, ScanError::Spill(_)), "{error:?}");
    let nowhere = ScanOptions { memory: 1 << 20, ..ScanOptions::default() };
    assert!(matches!(scan_with(&bytes, 1 << 16, nowhere), Err(ScanError::Spill(_))));
}

#[test]
fn appended_records_are_predicted_as_if_they_were_stored() {
    // The same seed: the longer store is the shorter one and more.
    let (_a, _, shorter) = snapshot(&["-transactions", "200", "-seed", "5", "-batch", "1"]);
    let (_b, _, longer) = snapshot(&["-transactions", "230", "-seed", "5", "-batch", "1"]);
    let (shorter, longer_scan) = (sound(&shorter), sound(&longer));
    let database = Database::open(longer.as_slice()).unwrap();
    let records = database.bucket(b"key").unwrap().unwrap();
    let mut appended = Vec::new();
    let mut cursor = records.cursor();
    while let Some(entry) = cursor.next().unwrap() {
        let key = RecordKey::parse(entry.key).unwrap();
        if key.main > shorter.last_record.unwrap() {
            appended.push((key, entry.value.to_vec()));
        }
    }
    assert!(appended.len() > 20);
    let appended: Vec<_> = appended.iter().map(|(key, value)| (*key, value.as_slice())).collect();
    for (revision, compact) in [(0, -1), (0, 150), (0, 215), (0, 231), (210, 205), (150, 100)] {
        assert_eq!(
            shorter.hash_kv_with(revision, Some(compact), &appended).unwrap(),
            longer_scan.hash_kv(revision, Some(compact)).unwrap(),
            "HashKV({revision}, {compact})"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn chunks_make_no_difference(
        seed in 0..1000_u32,
        sizes in proptest::collection::vec(1..40_000_usize, 1..40),
        page_size in prop_oneof![Just("1024"), Just("4096"), Just("16384")],
    ) {
        let seed = seed.to_string();
        let args = ["-seed", &seed, "-page-size", page_size, "-large", "12", "-compact-every", "80"];
        let (_directory, _, bytes) = snapshot(&args);
        let whole = sound(&bytes);
        let mut parts = StreamScan::new(ScanOptions::default());
        let mut rest = bytes.as_slice();
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (part, more) = rest.split_at((*size).min(rest.len()));
            parts.write(part).unwrap();
            rest = more;
        }
        let parts = parts.finish().unwrap();
        prop_assert!(parts.is_sound(), "{:?}", parts.problems);
        prop_assert_eq!(whole.status_hash, parts.status_hash);
        prop_assert_eq!(whole.digests, parts.digests);
        prop_assert_eq!(whole.hash_kv(200, Some(90)).unwrap(), parts.hash_kv(200, Some(90)).unwrap());
        prop_assert_eq!(whole.content, parts.content);
        prop_assert_eq!((whole.used_pages, whole.live_keys), (parts.used_pages, parts.live_keys));
    }
}

#[test]
fn one_byte_at_a_time_equals_the_whole() {
    let (_directory, _, bytes) =
        snapshot(&["-page-size", "1024", "-large", "20", "-large-size", "9000"]);
    let (whole, bytewise) = (sound(&bytes), scan_with(&bytes, 1, ScanOptions::default()).unwrap());
    assert!(bytewise.is_sound(), "{:?}", bytewise.problems);
    assert_eq!(whole.hash_kv(0, None).unwrap(), bytewise.hash_kv(0, None).unwrap());
    assert_eq!(whole.status_hash, bytewise.status_hash);
}

/// A leaf page of the bucket `key` as bbolt lays it out, `pages` pages long.
fn leaf(id: u64, page_size: usize, pages: usize, records: &[(RecordKey, Vec<u8>)]) -> Vec<u8> {
    let mut page = vec![0; page_size * pages];
    page[..8].copy_from_slice(&id.to_le_bytes());
    page[8..10].copy_from_slice(&2_u16.to_le_bytes());
    page[10..12].copy_from_slice(&(records.len() as u16).to_le_bytes());
    page[12..16].copy_from_slice(&(pages as u32 - 1).to_le_bytes());
    let mut data = 16 + records.len() * 16;
    for (index, (key, value)) in records.iter().enumerate() {
        let at = 16 + index * 16;
        let key = key.to_bytes();
        page[at + 4..at + 8].copy_from_slice(&((data - at) as u32).to_le_bytes());
        page[at + 8..at + 12].copy_from_slice(&(key.len() as u32).to_le_bytes());
        page[at + 12..at + 16].copy_from_slice(&(value.len() as u32).to_le_bytes());
        page[data..data + key.len()].copy_from_slice(&key);
        data += key.len();
        page[data..data + value.len()].copy_from_slice(value);
        data += value.len();
    }
    page
}

fn record(main: i64, user_key: &str) -> (RecordKey, Vec<u8>) {
    let mut value = vec![0x0a, user_key.len() as u8];
    value.extend_from_slice(user_key.as_bytes());
    for (tag, mut number) in [(0x10, main), (0x18, main), (0x20, 1)] {
        value.push(tag);
        while number >= 0x80 {
            value.push(number as u8 | 0x80);
            number >>= 7;
        }
        value.push(number as u8);
    }
    assert_eq!(KeyValue::decode(&value).unwrap().mod_revision, main);
    (RecordKey { main, sub: 0, tombstone: false }, value)
}

#[test]
fn free_pages_may_hold_anything() {
    let args = ["-compact-every", "60", "-large", "6", "-transactions", "600", "-seed", "3"];
    let (_directory, path, bytes) = snapshot(&args);
    let honest = sound(&bytes);
    let free = mkdb::free_pages(&path);
    assert!(free.len() > 40, "{} free pages", free.len());
    let (page_size, high_water) = (4096, honest.meta.high_water);
    let root = honest.meta.root;
    let database = Database::open(bytes.as_slice()).unwrap();
    let key_root = database.bucket(b"key").unwrap().unwrap().header().root;
    let mut buffer = Vec::new();
    let branch = database.page(key_root, &mut buffer).unwrap().bytes().to_vec();

    type Forge = Box<dyn Fn(u64) -> Vec<u8>>;
    let forgeries: Vec<(&str, Forge)> = vec![
        ("noise", Box::new(|id| (0..4096).map(|n| (n * 31 + id as usize * 7) as u8).collect())),
        (
            "a later revision of live keys",
            Box::new(move |id| {
                leaf(id, page_size, 1, &[record(1 << 40, "/registry/things/000001")])
            }),
        ),
        (
            "revisions of an earlier history",
            Box::new(move |id| {
                leaf(id, page_size, 1, &[record(5, "/registry/things/000001"), record(9, "x")])
            }),
        ),
        (
            "keys out of order",
            Box::new(move |id| leaf(id, page_size, 1, &[record(9, "b"), record(5, "a")])),
        ),
        (
            "a torn page: new header, old rest",
            Box::new(move |id| {
                let mut page = leaf(id, page_size, 1, &[record(5, "a")]);
                page[10] = 200;
                page[100..].fill(0xA5);
                page
            }),
        ),
        (
            "a run over everything that follows",
            Box::new(move |id| {
                let mut page = leaf(id, page_size, 1, &[record(1 << 41, "a")]);
                page[12..16].copy_from_slice(&((high_water - id - 1) as u32).to_le_bytes());
                page
            }),
        ),
        (
            "some runs over everything that follows, one within the other",
            Box::new({
                let some: Vec<u64> = free.iter().copied().take(30).collect();
                move |id| {
                    let pages = if some.contains(&id) { high_water - id } else { 1 };
                    let record = [record(1 << 41, "a"), record(1 << 42, "b")];
                    let mut page = leaf(id, page_size, 1, &record);
                    page[12..16].copy_from_slice(&(pages as u32 - 1).to_le_bytes());
                    // The second value reaches to the end of the run.
                    let length = pages as usize * page_size - 200;
                    page[44..48].copy_from_slice(&(length as u32).to_le_bytes());
                    page
                }
            }),
        ),
        (
            "a run beyond the database",
            Box::new(move |id| {
                let mut page = leaf(id, page_size, 1, &[record(1 << 41, "a")]);
                page[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
                page
            }),
        ),
        (
            "a copy of the branch above the live leaves",
            Box::new(move |id| {
                let mut page = branch.clone();
                page.resize(page_size, 0);
                page[..8].copy_from_slice(&id.to_le_bytes());
                page
            }),
        ),
        (
            "a branch into itself and the root",
            Box::new(move |id| {
                let mut page = vec![0; page_size];
                page[..8].copy_from_slice(&id.to_le_bytes());
                page[8] = 1;
                page[10] = 2;
                for (at, child) in [(16, id), (32, root)] {
                    page[at..at + 4].copy_from_slice(&32_u32.to_le_bytes());
                    page[at + 4] = 1;
                    page[at + 8..at + 16].copy_from_slice(&child.to_le_bytes());
                }
                page
            }),
        ),
        (
            "a second meta",
            Box::new({
                let meta = honest.meta;
                move |id| {
                    let mut page = etcdvault::bbolt::meta::Meta { txid: 1 << 40, ..meta }.to_page();
                    page[..8].copy_from_slice(&id.to_le_bytes());
                    page
                }
            }),
        ),
    ];
    for (what, forge) in &forgeries {
        let mut forged = bytes.clone();
        for &id in &free {
            let page = forge(id);
            let at = id as usize * page_size;
            forged[at..at + page_size].copy_from_slice(&page[..page_size]);
        }
        for chunk in [1 << 20, 5000] {
            let scan = scan_with(&forged, chunk, ScanOptions::default()).unwrap();
            let crowded = *what == "a run over everything that follows";
            if crowded && !scan.is_sound() {
                // More runs than may nest: told, not guessed.
                let told = scan.problems.iter().any(|p| p.to_string().contains("stale"));
                assert!(told, "{:?}", scan.problems);
                continue;
            }
            assert!(scan.is_sound(), "{what}: {:?}", scan.problems);
            for (revision, compact) in [(0, None), (0, Some(500)), (550, Some(520))] {
                assert_eq!(
                    scan.hash_kv(revision, compact).unwrap(),
                    honest.hash_kv(revision, compact).unwrap(),
                    "{what}"
                );
            }
            assert_eq!(scan.status_hash, honest.status_hash, "{what}");
            assert_eq!(scan.revision, honest.revision, "{what}");
        }
    }
}

#[test]
fn damage_of_any_page_is_told() {
    let args = [
        "-compact-every",
        "60",
        "-large",
        "8",
        "-large-size",
        "9000",
        "-users",
        "100",
        "-freelist",
        "-transactions",
        "150",
        "-page-size",
        "1024",
    ];
    let (_directory, path, bytes) = snapshot(&args);
    let honest = sound(&bytes);
    let free = mkdb::free_pages(&path);
    let (pages, size) = (honest.meta.high_water, honest.meta.page_size as usize);
    let want = (honest.hash_kv(0, None).unwrap(), honest.status_hash);
    let (mut unsound, mut other, mut same) = (0, 0, 0);
    for id in 0..pages {
        // Every page in turn overwritten by its neighbour's bytes.
        let mut damaged = bytes.clone();
        let (at, from) = (id as usize * size, ((id + 1) % pages) as usize * size);
        damaged.copy_within(from..from + size, at);
        let scan = scan_with(&damaged, 1 << 20, ScanOptions::default()).unwrap();
        assert_eq!(scan.digests.as_ref().unwrap().trailer_ok(), Some(damaged == bytes), "{id}");
        // bbolt's rules, applied by random access, see the same.
        let report = Database::open(damaged.as_slice()).unwrap().check();
        assert_eq!(report.problems.is_empty(), scan.is_sound() || all_records(&scan), "{id}");
        let database = Database::open(damaged.as_slice()).unwrap();
        let direct = Scan::of(&database, ScanOptions::default()).unwrap();
        assert_eq!(direct.is_sound(), scan.is_sound(), "{id}: {:?}", direct.problems);
        if !scan.is_sound() {
            unsound += 1;
            assert!(!free.contains(&id), "free page {id}: {:?}", scan.problems);
        } else if (scan.hash_kv(0, None).unwrap(), scan.status_hash) != want {
            // Within a long value, where only the hash can tell.
            other += 1;
            assert!(!free.contains(&id), "free page {id} counted");
        } else {
            same += 1;
            assert!(id < 2 || free.contains(&id) || damaged == bytes, "page {id} is not told");
        }
    }
    assert!(unsound > 20 && other > 20 && same > 20, "{unsound} {other} {same}");
}

/// Whether the only problems are with records, of which bbolt knows nothing.
fn all_records(scan: &Scan) -> bool {
    scan.problems.iter().all(|problem| matches!(problem, ScanProblem::Record { .. }))
}

#[test]
fn truncated_empty_and_foreign_files_are_refused() {
    let (_directory, _, bytes) = snapshot(&["-transactions", "20"]);
    let error =
        |bytes: &[u8]| scan_with(bytes, 4096, ScanOptions::default()).unwrap_err().to_string();
    assert_eq!(error(b""), "the file is empty");
    assert!(error(b"not a database").contains("no valid meta page"));
    assert!(error(&vec![0; 40 << 20]).contains("no valid meta page"));
    for length in (1..bytes.len() - 32).step_by(997).chain([bytes.len() - 33]) {
        let text = error(&bytes[..length]);
        assert!(text.contains("truncated") || text.contains("no valid meta"), "{length}: {text}");
        assert!(Database::open(&bytes[..length]).is_err(), "{length}");
    }
}

#[test]
fn either_meta_may_be_damaged() {
    for page_size in ["4096", "65536"] {
        let (_directory, _, bytes) = snapshot(&["-page-size", page_size, "-transactions", "50"]);
        let honest = sound(&bytes);
        let size = honest.meta.page_size as usize;
        for at in [0, size] {
            let mut damaged = bytes.clone();
            damaged[at + 20..at + 60].fill(0xEE);
            let database = Database::open(damaged.as_slice()).unwrap();
            assert!(database.metas()[usize::from(at > 0)].is_err());
            let scan = sound(&damaged);
            assert_eq!(scan.hash_kv(0, None).unwrap(), honest.hash_kv(0, None).unwrap());
        }
        let mut damaged = bytes.clone();
        damaged[20..60].fill(0xEE);
        damaged[size + 20..size + 60].fill(0xEE);
        assert!(scan_with(&damaged, 4096, ScanOptions::default()).is_err());
    }
}

#[test]
fn no_bit_flip_is_taken_for_the_same_store() {
    let args = [
        "-page-size",
        "1024",
        "-transactions",
        "9",
        "-value-size",
        "20",
        "-keys",
        "9",
        "-users",
        "0",
        "-leases",
        "1",
    ];
    let (_directory, _, bytes) = snapshot(&args);
    let honest = sound(&bytes);
    let want = honest.hash_kv(0, None).unwrap();
    assert!(bytes.len() < 11 << 10, "{} bytes", bytes.len());
    let whole = honest.digests.as_ref().unwrap().whole;
    // Every bit, over a few threads.
    let (refused, unsound, other, same) = std::thread::scope(|scope| {
        let part = |first: usize| {
            let mut counts = [0; 4];
            for bit in (first..bytes.len() * 8).step_by(4) {
                counts[flip(&bytes, bit, &whole, want)] += 1;
            }
            counts
        };
        let parts = [0, 1, 2, 3].map(|first| scope.spawn(move || part(first)));
        parts.map(|part| part.join().unwrap()).into_iter().fold((0, 0, 0, 0), |sum, part| {
            (sum.0 + part[0], sum.1 + part[1], sum.2 + part[2], sum.3 + part[3])
        })
    });
    assert!(unsound > 1000 && other > 1000 && same > 0, "{refused} {unsound} {other} {same}");
}

/// Scans the file with one bit flipped: 0 refused, 1 not sound, 2 another hash,
/// 3 the same store in a file that the trailer tells apart.
fn flip(bytes: &[u8], bit: usize, whole: &[u8; 32], want: u32) -> usize {
    let mut flipped = bytes.to_vec();
    flipped[bit / 8] ^= 1 << (bit % 8);
    let Ok(scan) = scan_with(&flipped, 1 << 20, ScanOptions::default()) else { return 0 };
    let digests = scan.digests.as_ref().unwrap();
    assert_ne!(&digests.whole, whole);
    assert_ne!(digests.trailer_ok(), Some(true), "bit {bit}");
    // The random-access readers meet a part of them: no panic there either.
    if bit.is_multiple_of(11)
        && let Ok(database) = Database::open(flipped.as_slice())
    {
        let report = database.check();
        assert!(report.problems.is_empty() || !scan.is_sound(), "bit {bit}");
        let _ = two_pass(&database, 0, None);
        let direct = Scan::of(&database, ScanOptions::default()).unwrap();
        assert_eq!(direct.is_sound(), scan.is_sound(), "bit {bit}: {:?}", direct.problems);
        assert_eq!(direct.hash_kv(0, None).ok(), scan.hash_kv(0, None).ok(), "bit {bit}");
    }
    match scan.hash_kv(0, None) {
        Err(_) => 1,
        Ok(hash) if hash != want => 2,
        Ok(_) => 3,
    }
}

#[test]
fn cycles_and_shared_pages_end() {
    let args = ["-transactions", "4000", "-value-size", "100", "-batch", "500"];
    let (_directory, path, bytes) = snapshot(&args);
    assert_eq!(mkdb::check(&path), Ok(()));
    let database = Database::open(bytes.as_slice()).unwrap();
    let root = database.bucket(b"key").unwrap().unwrap().header().root;
    let mut buffer = Vec::new();
    let page = database.page(root, &mut buffer).unwrap();
    let (count, first, second) =
        (page.len(), page.branch(0).unwrap().child, page.branch(1).unwrap().child);
    assert!(count > 2);
    let at = root as usize * 4096 + 16;
    for (what, element, child) in [
        ("a cycle", 0, root),
        ("a cycle over the root bucket", 1, database.meta().root),
        ("a leaf twice", 1, first),
        ("leaves exchanged", 0, second),
        ("a page beyond", 2, u64::MAX),
        ("a meta", 2, 1),
    ] {
        let mut damaged = bytes.clone();
        let at = at + element * 16 + 8;
        damaged[at..at + 8].copy_from_slice(&child.to_le_bytes());
        let scan = scan(&damaged);
        assert!(!scan.is_sound(), "{what}");
        assert!(scan.hash_kv(0, None).is_err(), "{what}");
        let database = Database::open(damaged.as_slice()).unwrap();
        assert!(!database.check().problems.is_empty(), "{what}");
        // A cursor ends with an error instead of going round.
        let records = database.bucket(b"key").unwrap().unwrap();
        let mut cursor = records.cursor();
        let error = loop {
            match cursor.next() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{what}: read to the end"),
                Err(error) => break error,
            }
        };
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn cursors_seek_and_walk_both_ways() {
    let args = ["-transactions", "2000", "-value-size", "150", "-large", "40", "-users", "200"];
    let (_directory, _, bytes) = snapshot(&args);
    let database = Database::open(bytes.as_slice()).unwrap();
    for name in database.root().buckets().unwrap() {
        let bucket = database.bucket(&name).unwrap().unwrap();
        let mut forward = Vec::new();
        let mut cursor = bucket.cursor();
        while let Some(entry) = cursor.next().unwrap() {
            forward.push((entry.key.to_vec(), entry.value.len()));
        }
        assert!(forward.is_sorted_by(|a, b| a.0 < b.0));
        let mut backward = Vec::new();
        let mut entry = cursor.last().unwrap().map(|e| (e.key.to_vec(), e.value.len()));
        while let Some(found) = entry {
            backward.push(found);
            entry = cursor.prev().unwrap().map(|e| (e.key.to_vec(), e.value.len()));
        }
        backward.reverse();
        assert_eq!(forward, backward);
        for (index, (key, _)) in forward.iter().enumerate().step_by(7) {
            assert_eq!(cursor.seek(key).unwrap().unwrap().key, key);
            let after = [key.as_slice(), b"\0"].concat();
            let next = cursor.seek(&after).unwrap().map(|e| e.key.to_vec());
            assert_eq!(next.as_ref(), forward.get(index + 1).map(|(key, _)| key));
        }
        assert_eq!(
            cursor.seek(b"").unwrap().map(|e| e.key.len()),
            forward.first().map(|e| e.0.len())
        );
        assert!(cursor.seek(&[0xFF; 30]).unwrap().is_none());
    }
    assert!(database.bucket(b"no such bucket").unwrap().is_none());
}

#[test]
fn files_and_directories_are_inspected_alike() {
    let args = ["-compact-every", "100", "-unfinished", "-large", "20", "-seed", "4"];
    let (directory, path, bytes) = snapshot(&args);
    let with_sha256 = || ScanOptions { sha256: true, ..ScanOptions::default() };
    let without = || ScanOptions { sha256: false, ..ScanOptions::default() };
    let mut read = 0;
    let (snapshot, scan) = inspect_with(&path, with_sha256(), |done| read = done).unwrap();
    assert_eq!(read, bytes.len() as u64);
    assert!(snapshot.sound, "{:?}", snapshot.problems);
    assert_eq!((snapshot.kind, snapshot.trailer), (Kind::Snapshot, Trailer::Right));
    assert!(snapshot.compaction_unfinished);
    assert_eq!(snapshot.hash_kv, scan.hash_kv(0, snapshot.compact_revision).ok());
    let go = mkdb::hashes(&path, 0, snapshot.compact_revision.unwrap());
    assert_eq!(snapshot.hash_kv, Some(go.hash_kv));
    assert_eq!(snapshot.status_hash, Some(go.status_hash));
    let share = mkdb::free_pages(&path).len() as f64 / scan.meta.high_water as f64;
    assert!((snapshot.fragmentation - share).abs() < 1e-9);

    // A data directory and a bare database differ in what they are, not in
    // what they hold; pages above the high-water mark count for nothing.
    let member = directory.path().join("data/member/snap");
    std::fs::create_dir_all(&member).unwrap();
    let database = member.join("db");
    let mut grown = bytes[..bytes.len() - 32].to_vec();
    grown.resize(grown.len() + 40 * 4096, 0x5A);
    std::fs::write(&database, &grown).unwrap();
    for options in [with_sha256(), without()] {
        let data = inspect(&directory.path().join("data"), options.clone()).unwrap();
        assert_eq!((data.kind, data.trailer), (Kind::DataDirectory, Trailer::Absent));
        let bare = inspect(&database, options).unwrap();
        assert_eq!(bare.kind, Kind::Database);
        for other in [data, bare] {
            assert_eq!(other.file_size, grown.len() as u64);
            let same = Inspection {
                kind: snapshot.kind,
                trailer: snapshot.trailer,
                sha256: snapshot.sha256.clone(),
                file_size: snapshot.file_size,
                ..other
            };
            assert_eq!(same, snapshot);
        }
    }

    let json = serde_json::to_value(&snapshot).unwrap();
    assert_eq!(json["members"][0]["peerURLs"][0], "http://10.0.0.1:2380");
    assert_eq!(json["version"]["storage_version"], "3.6.0");
    assert_eq!(serde_json::from_value::<Inspection>(json).unwrap(), snapshot);

    // A flip in a free page: the store is whole, the file is not.
    let mut flipped = bytes;
    let free = mkdb::free_pages(&path)[0] as usize;
    flipped[free * 4096 + 2000] ^= 1;
    std::fs::write(&path, &flipped).unwrap();
    let wrong = inspect(&path, with_sha256()).unwrap();
    assert_eq!((wrong.sound, wrong.trailer), (false, Trailer::Wrong));
    assert_eq!(wrong.hash_kv, snapshot.hash_kv);
    let unchecked = inspect(&path, without()).unwrap();
    assert_eq!((unchecked.sound, unchecked.trailer), (true, Trailer::Unchecked));
}

#[test]
fn what_cannot_be_inspected_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let error = |path: &Path| inspect(path, ScanOptions::default()).unwrap_err();
    assert!(matches!(error(directory.path()), InspectError::NoDatabase { .. }));
    assert!(matches!(error(&directory.path().join("none")), InspectError::Io { .. }));
    assert!(matches!(error(Path::new("/dev/null")), InspectError::NotAFile { .. }));
    let text = directory.path().join("notes.txt");
    std::fs::write(&text, "hello").unwrap();
    assert!(matches!(error(&text), InspectError::Scan { .. }));
    assert!(error(&text).to_string().contains("notes.txt"));
}
