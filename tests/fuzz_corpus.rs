//! Every file of the kept fuzz corpus, whole and mutated, through the very
//! functions that are fuzzed. `make fuzz` looks for longer.

#[path = "../fuzz/src/entry.rs"]
mod entry;

use std::path::{Path, PathBuf};

/// Mutations of each seed; each is a few changes.
const MUTATIONS: u64 = 300;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}

/// Numbers that parsers get wrong.
const NUMBERS: [u64; 10] =
    [0, 1, 0x7F, 0x80, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF, 1 << 40, u64::MAX >> 1, u64::MAX];

fn mutate(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..1 + random.below(4) {
        if bytes.is_empty() {
            return bytes;
        }
        let at = random.below(bytes.len());
        match random.below(8) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.below(256) as u8,
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.below(256) as u8),
            4 | 5 => {
                // A number over an aligned field, as offsets, counts and ids are.
                let (at, width) = (at & !3, [2, 4, 8][random.below(3)]);
                let number = NUMBERS[random.below(NUMBERS.len())].to_le_bytes();
                if let Some(field) = bytes.get_mut(at..at + width) {
                    field.copy_from_slice(&number[..width]);
                }
            }
            6 => {
                // A part of the file over another one: pages with two places.
                let unit = [16, 64, 1024][random.below(3)];
                let (from, to) = (at / unit * unit, random.below(bytes.len()) / unit * unit);
                let length = unit.min(bytes.len() - from.max(to));
                bytes.copy_within(from..from + length, to);
            }
            _ => {
                let length = random.below(40).min(bytes.len() - at);
                bytes.drain(at..at + length);
            }
        }
    }
    bytes
}

fn run(target: &str, entry: fn(&[u8])) {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "fuzz", "corpus", target].iter().collect();
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|file| file.expect("an entry").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    for file in &files {
        let seed = std::fs::read(file).expect("a seed");
        entry(&seed);
        for number in 0..MUTATIONS {
            let mut random = Random(0x9E37_79B9_7F4A_7C15 ^ (number + 1));
            let bytes = mutate(&seed, &mut random);
            let result = std::panic::catch_unwind(|| entry(&bytes));
            if result.is_err() {
                panic!("{target}: {} with mutation {number}", name(file));
            }
        }
    }
}

fn name(file: &Path) -> String {
    file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[test]
fn bbolt() {
    run("bbolt", entry::bbolt);
}

#[test]
fn scan() {
    run("scan", entry::scan);
}

#[test]
fn records() {
    run("records", entry::records);
}

#[test]
fn wal() {
    run("wal", entry::wal);
}

#[test]
fn manifest() {
    run("manifest", entry::manifest);
}

#[test]
fn dialect() {
    run("dialect", entry::dialect);
}

#[test]
fn journal() {
    run("journal", entry::journal);
}

#[test]
fn plan() {
    run("plan", entry::plan);
}

/// A seed that is refused at the first look reaches nothing behind it.
#[test]
fn seeds_are_whole() {
    let seeds = |target: &str| {
        let folder: PathBuf =
            [env!("CARGO_MANIFEST_DIR"), "fuzz", "corpus", target].iter().collect();
        let files = std::fs::read_dir(folder).expect("a corpus");
        files.map(|file| std::fs::read(file.expect("an entry").path()).expect("a seed"))
    };
    for seed in seeds("bbolt").chain(seeds("scan")) {
        let database = etcdvault::bbolt::Database::open(seed.as_slice()).expect("a database");
        assert!(database.check().problems.is_empty());
    }
    for seed in seeds("manifest") {
        vault::manifest::Manifest::parse(&seed).expect("a manifest");
    }
    for seed in seeds("journal") {
        let plan = etcdvault::plan::record::plan_digest(entry::JOURNALED);
        let found = etcdvault::plan::record::decode(&plan, &seed).expect("records");
        assert!(found.records.len() > 3, "{}", found.records.len());
    }
    for seed in seeds("plan") {
        etcdvault::plan::Plan::<etcdvault::operation::step::Step>::from_bytes(&seed)
            .expect("a plan");
    }
}
