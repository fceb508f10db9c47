//! What the proof's scan takes of memory, as the kernel counts it: at most 48 bytes for
//! each record that goes by while everything stays in memory, in databases as bbolt makes
//! them, and no more than its limit and the index once it has spilled.

#[path = "common/mkdb.rs"]
mod mkdb;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Command;

use etcdvault::bbolt::page::{FLAG_LEAF, PageHeader};
use etcdvault::datadir::hash::{ScanOptions, StreamScan};

/// What is not proportional: the process's own, segments that are not full.
const FIXED: u64 = 1 << 20;
/// The limit of the scan that spills.
const LIMIT: u64 = 2 << 20;

/// What a scan in a process of its own took.
#[derive(Debug)]
struct Taken {
    bytes: u64,
    spilled: u64,
    records: u64,
}

fn scanned(database: &Path, spill: bool) -> Taken {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_scans", "--ignored", "--nocapture"])
        .env("CHILD_DATABASE", database)
        .env("CHILD_SPILL", if spill { "yes" } else { "" })
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = text.lines().find_map(|line| line.split_once("child: ")).map(|(_, told)| told);
    let told = told.unwrap_or_else(|| panic!("{text}"));
    let numbers: Vec<u64> = told.split(' ').map(|word| word.parse().unwrap()).collect();
    Taken { bytes: numbers[0], spilled: numbers[1], records: numbers[2] }
}

/// Records in every leaf that the scan sees, and how many such leaves there are.
fn passing(database: &Path, page_size: usize) -> (u64, u64) {
    let mut file = File::open(database).unwrap();
    let (mut page, mut records, mut leaves) = (vec![0; page_size], 0, 0);
    for id in 0.. {
        if file.read_exact(&mut page).is_err() {
            return (records, leaves);
        }
        let header = PageHeader::parse(&page).unwrap();
        if header.id == id && header.flags == FLAG_LEAF {
            records += u64::from(header.count);
            leaves += 1;
        }
    }
    unreachable!("a file ends")
}

#[test]
fn a_record_takes_at_most_48_bytes() {
    let directory = tempfile::tempdir().unwrap();
    for (name, page_size, shape) in [
        // Two records a leaf, the fewest that bbolt leaves together.
        ("pairs", 1024, &["-large", "1", "-large-size", "380"][..]),
        // Two of three pages each.
        ("long", 1024, &["-large", "1", "-large-size", "1400"]),
        // Kubernetes' objects are some hundred bytes to a few thousand.
        ("objects", 4096, &["-value-size", "700"]),
        // Versions of few keys, and compactions, which leave free pages behind.
        ("compacted", 4096, &["-value-size", "120", "-keys", "500", "-compact-every", "15000"]),
    ] {
        let path = directory.path().join(name);
        let size = page_size.to_string();
        let common =
            ["-transactions", "60000", "-keys", "200000", "-batch", "2000", "-page-size", &size];
        // Of a flag that is given twice the last counts.
        mkdb::make(&path, &[&common[..], shape].concat());
        let (records, leaves) = passing(&path, page_size);
        let each = records as f64 / leaves as f64;

        let free = scanned(&path, false);
        assert_eq!(free.spilled, 0, "{name}");
        assert!(free.records > 1000 && records >= free.records, "{name}: {free:?} of {records}");
        assert!(free.bytes > records * RECORD, "{name}: {free:?}: nothing was measured");
        assert!(
            free.bytes <= records * 48 + FIXED,
            "{name}: {} bytes a record, {each:.1} records a leaf: {free:?}",
            free.bytes / records
        );

        let spilled = scanned(&path, true);
        if records * RECORD > LIMIT {
            assert!(spilled.spilled > 0, "{name}: {spilled:?}");
        }
        let bound = LIMIT + leaves * 28 + free.records * 10 + FIXED;
        assert!(spilled.bytes <= bound, "{name}: {spilled:?}, at most {bound} expected");
        std::fs::remove_file(&path).unwrap();
    }
}

/// What is kept of a record at the least.
const RECORD: u64 = 24;

/// Run by the test above as a process of its own.
#[test]
#[ignore = "a part of the other test"]
fn child_that_scans() {
    let Some(database) = std::env::var_os("CHILD_DATABASE") else { return };
    let spill = std::env::var("CHILD_SPILL").unwrap() == "yes";
    let directory = tempfile::tempdir().unwrap();
    let options = ScanOptions {
        memory: if spill { LIMIT as usize } else { 1 << 40 },
        spill_directory: spill.then(|| directory.path().to_owned()),
        ..ScanOptions::default()
    };
    let mut file = File::open(database).unwrap();
    let mut chunk = vec![1; 1 << 20];
    let before = memory("VmRSS:");
    let mut scan = StreamScan::new(options);
    loop {
        let length = file.read(&mut chunk).unwrap();
        if length == 0 {
            break;
        }
        scan.write(&chunk[..length]).unwrap();
    }
    let scan = scan.finish().unwrap();
    assert!(scan.is_sound(), "{:?}", scan.problems);
    let taken = memory("VmHWM:") - before;
    writeln!(std::io::stdout(), "child: {taken} {} {}", scan.spilled(), scan.records).unwrap();
}

/// Bytes of this process, as the kernel counts them.
fn memory(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
