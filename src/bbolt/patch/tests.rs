//! Patches against a model, over random shapes and page sizes.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::bbolt::page::{FLAG_LEAF, PageHeader};

/// A file in memory.
#[derive(Default)]
struct Memory {
    bytes: Vec<u8>,
    synced: usize,
    writes: usize,
}

impl PageSink for Memory {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset as usize + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset as usize..end].copy_from_slice(bytes);
        self.writes += 1;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.synced = self.writes;
        Ok(())
    }
}

type Model = BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>;

/// A database without a bucket, as bbolt's `init` makes it.
pub(crate) fn empty_database(page_size: u32) -> Vec<u8> {
    let meta = Meta {
        page_size,
        root: 3,
        root_sequence: 0,
        freelist: NO_FREELIST,
        high_water: 4,
        txid: 1,
    };
    let mut file = Meta { txid: 0, ..meta }.to_page();
    file.extend(meta.to_page());
    file.resize(3 * page_size as usize, 0);
    let mut leaf = vec![0; page_size as usize];
    PageHeader { id: 3, flags: FLAG_LEAF, count: 0, overflow: 0 }.write(&mut leaf);
    file.extend(leaf);
    file
}

pub(crate) fn apply(file: Vec<u8>, patch: &Patch) -> Result<Vec<u8>, PatchError> {
    let database = Database::open(file.as_slice()).expect("open");
    let mut sink = Memory { bytes: file.clone(), ..Memory::default() };
    let meta = patch.apply(&database, &mut sink)?;
    assert_eq!(sink.synced, sink.writes, "the metas are durable at the end");
    // No page of the old database was touched but the metas.
    let page = meta.page_size as usize;
    assert!(
        sink.bytes[2 * page..database.size() as usize] == file[2 * page..database.size() as usize]
    );
    assert_eq!(sink.bytes.len() as u64, meta.size().unwrap());
    Ok(sink.bytes)
}

fn content(file: &[u8]) -> Model {
    let database = Database::open(file).expect("open");
    let mut model = Model::new();
    for name in database.root().buckets().expect("buckets") {
        let bucket = database.bucket(&name).expect("read").expect("bucket");
        let entries = model.entry(name).or_default();
        let mut cursor = bucket.cursor();
        while let Some(entry) = cursor.next().expect("entry") {
            entries.insert(entry.key.to_vec(), entry.value.to_vec());
        }
    }
    model
}

/// Every branch has two children or more, every leaf below it the same depth.
fn check_shape(file: &[u8]) {
    fn depth(database: &Database<&[u8]>, page: PageId, root: bool) -> usize {
        let mut buffer = Vec::new();
        let content = database.page(page, &mut buffer).expect("page");
        if content.header().flags == FLAG_LEAF {
            assert!(root || !content.is_empty(), "an empty leaf below a branch");
            return 1;
        }
        assert!(content.len() >= 2, "branch {page} has {} child", content.len());
        let children = tree_children(&content);
        let depths: Vec<_> = children.iter().map(|&child| depth(database, child, false)).collect();
        assert!(depths.windows(2).all(|pair| pair[0] == pair[1]), "uneven: {depths:?}");
        depths[0] + 1
    }
    fn tree_children(page: &crate::bbolt::page::Page<'_>) -> Vec<PageId> {
        (0..page.len()).map(|index| page.branch(index).expect("element").child).collect()
    }
    let database = Database::open(file).expect("open");
    depth(&database, database.meta().root, true);
    for name in database.root().buckets().expect("buckets") {
        let bucket = database.bucket(&name).expect("read").expect("bucket");
        if bucket.inline().is_none() {
            depth(&database, bucket.header().root, true);
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put(usize, u16, u16, u8),
    Delete(usize, u16),
    DeleteRange(usize, u16, u16),
    Append(usize, u16),
    Empty(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let value = prop_oneof![4 => 0u16..40, 2 => 100u16..900, 1 => 900u16..9000];
    prop_oneof![
        8 => (0usize..4, 0u16..4000, value, 1u8..60).prop_map(|(b, k, v, l)| Step::Put(b, k, v, l)),
        3 => (0usize..4, 0u16..4000).prop_map(|(b, k)| Step::Delete(b, k)),
        2 => (0usize..4, 0u16..4000, 0u16..2000).prop_map(|(b, k, n)| Step::DeleteRange(b, k, n)),
        2 => (0usize..4, 1u16..400).prop_map(|(b, n)| Step::Append(b, n)),
        1 => (0usize..4).prop_map(Step::Empty),
    ]
}

const NAMES: [&[u8]; 4] = [b"key", b"members", b"a", b"zz-the-last-bucket"];

fn key(number: u16) -> Vec<u8> {
    let mut key = format!("{number:05}").into_bytes();
    // The same number always has the same length, so that deletes hit.
    key.resize(5 + usize::from(number % 37) * 8, b'x');
    key
}

fn run(page_size: u32, patches: &[Vec<Step>]) {
    let mut file = empty_database(page_size);
    let mut model = Model::new();
    for steps in patches {
        let mut patch = Patch::new();
        for step in steps {
            match *step {
                Step::Put(bucket, number, length, byte) => {
                    let (name, key) = (NAMES[bucket], key(number));
                    let value = vec![byte; usize::from(length)];
                    patch.put(name, &key, &value);
                    model.entry(name.to_vec()).or_default().insert(key, value);
                }
                Step::Delete(bucket, number) => {
                    let name = NAMES[bucket];
                    patch.delete(name, &key(number));
                    model.entry(name.to_vec()).or_default().remove(&key(number));
                }
                Step::DeleteRange(bucket, from, count) => {
                    let name = NAMES[bucket];
                    let entries = model.entry(name.to_vec()).or_default();
                    for number in from..from.saturating_add(count) {
                        patch.delete(name, &key(number));
                        entries.remove(&key(number));
                    }
                }
                Step::Append(bucket, count) => {
                    let name = NAMES[bucket];
                    let entries = model.entry(name.to_vec()).or_default();
                    for number in 0..count {
                        let key =
                            format!("9{:08}", entries.len() + usize::from(number)).into_bytes();
                        patch.put(name, &key, &[7; 30]);
                        entries.insert(key, vec![7; 30]);
                    }
                }
                Step::Empty(bucket) => {
                    patch.empty(NAMES[bucket]);
                    model.insert(NAMES[bucket].to_vec(), BTreeMap::new());
                }
            }
        }
        file = apply(file, &patch).expect("apply");
        assert!(content(&file) == model, "the content differs from the model's");
        check_shape(&file);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn patches_equal_the_model(
        page_size in prop_oneof![Just(1024u32), Just(4096), Just(16384), Just(65536)],
        patches in prop::collection::vec(prop::collection::vec(step(), 1..25), 1..8),
    ) {
        run(page_size, &patches);
    }
}

#[test]
fn deleting_most_of_a_deep_tree_keeps_its_shape() {
    // Small pages and long keys: four levels and more.
    let mut patch = Patch::new();
    for number in 0..6000u16 {
        patch.put(b"key", &key(number), &[1; 20]);
    }
    let full = apply(empty_database(1024), &patch).unwrap();
    for (from, to) in
        [(0, 5999), (1, 6000), (1, 5999), (100, 5000), (3000, 3001), (0, 3000), (0, 6000)]
    {
        let mut patch = Patch::new();
        for number in from..to {
            patch.delete(b"key", &key(number));
        }
        let file = apply(full.clone(), &patch).unwrap();
        check_shape(&file);
        assert_eq!(content(&file)[&b"key"[..]].len(), 6000 - usize::from(to - from));
    }
}

#[test]
fn appending_touches_the_right_spine_only() {
    let mut patch = Patch::new();
    for number in 0..20000u32 {
        patch.put(b"key", &number.to_be_bytes(), &[1; 100]);
    }
    let file = apply(empty_database(4096), &patch).unwrap();
    let before = Database::open(file.as_slice()).unwrap().meta().high_water;
    let mut patch = Patch::new();
    patch.put(b"key", &20000u32.to_be_bytes(), b"").put(b"meta", b"consistent_index", &[0; 8]);
    let file = apply(file, &patch).unwrap();
    let meta = *Database::open(file.as_slice()).unwrap().meta();
    // Leaf, perhaps a second one, two levels of branches, the root bucket.
    assert!(meta.high_water - before <= 5, "{} pages", meta.high_water - before);
}

#[test]
fn small_buckets_are_inline_and_large_ones_are_not() {
    let mut patch = Patch::new();
    patch.put(b"small", b"k", &[0; 900]).put(b"large", b"k", &[0; 1100]).bucket(b"empty");
    let file = apply(empty_database(4096), &patch).unwrap();
    let database = Database::open(file.as_slice()).unwrap();
    let inline = |name: &[u8]| database.bucket(name).unwrap().unwrap().inline().is_some();
    assert!(inline(b"small") && inline(b"empty") && !inline(b"large"));
    // One that shrinks stays where it is, one that is emptied is inline again.
    let mut patch = Patch::new();
    patch.empty(b"large");
    let file = apply(file.clone(), &patch).unwrap();
    assert!(
        Database::open(file.as_slice())
            .unwrap()
            .bucket(b"large")
            .unwrap()
            .unwrap()
            .inline()
            .is_some()
    );
}

#[test]
fn what_bbolt_would_refuse_is_refused() {
    let refused = |patch: &Patch| apply(empty_database(4096), patch).unwrap_err();
    assert!(matches!(refused(Patch::new().put(b"b", b"", b"v")), PatchError::Key { length: 0 }));
    let long = vec![0; MAX_KEY + 1];
    assert!(matches!(refused(Patch::new().put(b"b", &long, b"v")), PatchError::Key { .. }));
    assert!(matches!(refused(Patch::new().bucket(b"")), PatchError::Key { length: 0 }));
}

#[test]
fn a_crash_before_the_metas_leaves_the_old_database() {
    struct Crash {
        inner: Memory,
        left: usize,
    }
    impl PageSink for Crash {
        fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            self.left = self.left.checked_sub(1).ok_or(io::ErrorKind::Other)?;
            self.inner.write_at(offset, bytes)
        }
        fn sync(&mut self) -> io::Result<()> {
            self.left = self.left.checked_sub(1).ok_or(io::ErrorKind::Other)?;
            Ok(())
        }
    }
    let mut patch = Patch::new();
    for number in 0..50u8 {
        patch.put(b"key", &[number], &[number; 300]);
    }
    let old = apply(empty_database(4096), &patch).unwrap();
    let mut patch = Patch::new();
    patch.put(b"key", &[20], b"new").put(b"other", b"k", b"v");
    let new = apply(old.clone(), &patch).unwrap();
    let mut states = Vec::new();
    for left in 0..20 {
        let database = Database::open(old.as_slice()).unwrap();
        let mut sink = Crash { inner: Memory { bytes: old.clone(), ..Memory::default() }, left };
        let result = patch.apply(&database, &mut sink);
        let now = content(&sink.inner.bytes);
        assert!(now == content(&old) || now == content(&new));
        if result.is_ok() {
            assert!(now == content(&new));
        }
        states.push((result.is_ok(), now == content(&new)));
    }
    assert!(states.contains(&(false, false)) && states.contains(&(true, true)));
}
