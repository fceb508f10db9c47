//! What a finished pass knows: the checked structure, counts, and the records
//! from which HashKV at any revision and compaction follows.

use std::io;

use super::arena::At;
use super::crc;
use super::keeper::Keeper;
use super::records;
use super::trailer::Digests;
use crate::bbolt::bucket::BucketHeader;
use crate::bbolt::check::{Checker, Leaf, Problem};
use crate::bbolt::meta::{Meta, MetaError};
use crate::bbolt::page::{Page, PageId};
use crate::datadir::schema::{Content, KeyValue, RecordKey, SchemaError, bucket};

/// How many problems are kept; the rest is counted.
const MAX_PROBLEMS: usize = 100;

/// Bytes of a table of key hashes; more keys take more passes.
const TABLE_LIMIT: u64 = 256 << 20;

/// Something that etcd cannot have written.
#[derive(Debug, thiserror::Error)]
pub enum ScanProblem {
    /// The bbolt structure is damaged.
    #[error(transparent)]
    Structure(#[from] Problem),
    /// A record whose value does not fit its key.
    #[error("page {page}: record {index} is not one that etcd writes")]
    Record {
        /// The leaf; 0 when it is inline.
        page: PageId,
        /// Which element.
        index: u32,
    },
    /// Something other than records in the bucket `key`.
    #[error("page {page} of the bucket key holds something other than records")]
    NotRecords {
        /// The leaf; 0 when it is inline.
        page: PageId,
    },
    /// An entry of another bucket.
    #[error("bucket {bucket}: an entry is damaged")]
    Entry {
        /// The bucket's name.
        bucket: String,
        /// What is wrong.
        #[source]
        source: SchemaError,
    },
    /// A plain value at the top level, or a bucket within one of etcd's.
    #[error("bucket {bucket}: {what}")]
    Shape {
        /// The bucket's name; empty for the root.
        bucket: String,
        /// What is wrong.
        what: &'static str,
    },
    /// There is no bucket `key`: not a database of etcd v3.
    #[error("there is no bucket named key: this is not an etcd database")]
    NoKeyBucket,
}

/// Why a HashKV cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// The structure is damaged, so a hash would prove nothing.
    #[error("the database is damaged")]
    Damaged,
    /// A revision that the database does not have.
    #[error("revision {asked} is above the database's {have}")]
    Future {
        /// As asked for.
        asked: i64,
        /// The database's revision.
        have: i64,
    },
    /// The temporary file could not be read.
    #[error("cannot read the scan's temporary file")]
    Spill(#[source] io::Error),
}

/// Size of a top-level bucket.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BucketStats {
    /// Its name.
    pub name: String,
    /// Entries.
    pub entries: u64,
    /// Bytes of all keys and values.
    pub bytes: u64,
    /// Pages of its own; 0 for an inline bucket.
    pub pages: u64,
}

/// The result of a [`StreamScan`](super::StreamScan).
#[derive(Debug)]
#[non_exhaustive]
pub struct Scan {
    /// Bytes of the file, trailer included.
    pub file_size: u64,
    /// Bytes below the high-water mark.
    pub size: u64,
    /// Whether the file's size says that a SHA-256 follows the database.
    pub has_trailer: bool,
    /// The digests, when the scan was asked for them.
    pub digests: Option<Digests>,
    /// The current meta.
    pub meta: Meta,
    /// Both meta pages as found.
    pub metas: [Result<Meta, MetaError>; 2],
    /// Pages in use.
    pub used_pages: u64,
    /// Pages below the high-water mark that are free.
    pub free_pages: u64,
    /// The store's revision, 1 when it is empty.
    pub revision: i64,
    /// Main revision of the last record; what `etcdutl snapshot status` calls revision.
    pub last_record: Option<i64>,
    /// Records in the bucket `key`.
    pub records: u64,
    /// Records that are deletions.
    pub tombstones: u64,
    /// Keys that exist; the total of `etcdutl snapshot status` from 3.6 on.
    pub live_keys: u64,
    /// Entries of all buckets; the total of `etcdutl snapshot status` up to 3.5.
    pub entries: u64,
    /// The hash of `etcdutl snapshot status`.
    pub status_hash: u32,
    /// Everything beside the records.
    pub content: Content,
    /// The top-level buckets in order.
    pub buckets: Vec<BucketStats>,
    /// What is wrong, the first hundred.
    pub problems: Vec<ScanProblem>,
    /// How many problems there are.
    pub problem_count: u64,
    keeper: Keeper,
    /// The live leaves of the bucket `key`, in their order.
    leaves: Vec<At>,
    newest: Newest,
}

struct Bucket {
    name: Vec<u8>,
    header: BucketHeader,
    inline: Option<Vec<u8>>,
}

impl Scan {
    pub(super) fn build(
        keeper: Keeper,
        meta: Meta,
        metas: [Result<Meta, MetaError>; 2],
        file_size: u64,
        has_trailer: bool,
        digests: Option<Digests>,
    ) -> io::Result<Self> {
        let mut scan = Self {
            file_size,
            size: meta.size().unwrap_or(0),
            has_trailer,
            digests,
            meta,
            metas,
            used_pages: 0,
            free_pages: 0,
            revision: 1,
            last_record: None,
            records: 0,
            tombstones: 0,
            live_keys: 0,
            entries: 0,
            status_hash: 0,
            content: Content::default(),
            buckets: Vec::new(),
            problems: Vec::new(),
            problem_count: 0,
            keeper,
            leaves: Vec::new(),
            newest: Newest::default(),
        };
        let mut checker = Checker::new(meta.high_water);
        let buckets = scan.root(&mut checker);
        if !buckets.iter().any(|found| found.name == bucket::KEY) {
            scan.problem(ScanProblem::NoKeyBucket);
        }
        for found in buckets {
            scan.bucket(&mut checker, found)?;
        }
        checker.freelist(&mut &scan.keeper, meta.freelist);
        let mut report = checker.finish();
        // What was kept cannot be read back: that says nothing of the database.
        if let Some(error) = report.problems.take_unread() {
            return Err(error);
        }
        scan.used_pages = report.used_pages;
        scan.free_pages = report.free_pages;
        let surplus = report.problems.total() - report.problems.as_slice().len() as u64;
        report.problems.into_vec().into_iter().for_each(|problem| scan.problem(problem));
        scan.problem_count += surplus;
        scan.keeper.drop_index();
        scan.revision = scan.content.revision(scan.last_record);
        scan.newest = scan.newest_at(i64::MAX)?;
        scan.live_keys = scan.newest.live;
        Ok(scan)
    }

    /// Whether nothing is wrong with the structure and the entries. The
    /// trailer is another matter: see [`Digests::trailer_ok`].
    pub fn is_sound(&self) -> bool {
        self.problem_count == 0
    }

    /// Bytes of records that had to go to a temporary file.
    pub fn spilled(&self) -> u64 {
        self.keeper.arena().spilled()
    }

    fn problem(&mut self, problem: impl Into<ScanProblem>) {
        self.problem_count += 1;
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem.into());
        }
    }

    fn shape(&mut self, bucket: &[u8], what: &'static str) {
        let bucket = String::from_utf8_lossy(bucket).into_owned();
        self.problem(ScanProblem::Shape { bucket, what });
    }

    /// The top-level buckets.
    fn root(&mut self, checker: &mut Checker) -> Vec<Bucket> {
        let mut buckets = Vec::new();
        let mut plain = false;
        checker.tree(&mut &self.keeper, self.meta.root, &mut |_, leaf| {
            let Leaf::Page(page) = leaf else {
                plain = true;
                return;
            };
            for element in (0..page.len()).filter_map(|index| page.leaf(index).ok()) {
                match BucketHeader::parse(element.value).filter(|_| element.is_bucket()) {
                    Some((header, inline)) => buckets.push(Bucket {
                        name: element.key.to_vec(),
                        header,
                        inline: inline.map(<[u8]>::to_vec),
                    }),
                    None => plain = true,
                }
            }
        });
        if plain {
            self.shape(b"", "there is a plain value beside the buckets");
        }
        buckets
    }

    fn bucket(&mut self, checker: &mut Checker, found: Bucket) -> io::Result<()> {
        let Bucket { name, header, inline } = found;
        self.status_hash = crc32c::crc32c_append(self.status_hash, &name);
        let pages = checker.used_pages();
        let content = std::mem::take(&mut self.content);
        let mut walk = Walk::new(name, self.status_hash, content);
        if walk.is_key {
            walk.leaves.reserve_exact(self.keeper.leaves());
        }
        match &inline {
            Some(bytes) => {
                // Checked with the leaf that holds it; a damaged one is a
                // problem already.
                if let Ok(page) = Page::parse(bytes) {
                    let records = match walk.is_key {
                        true => self.keeper.inline_records(&page)?,
                        false => None,
                    };
                    match records {
                        Some(at) => walk.records(&self.keeper, 0, at)?,
                        None => walk.page(0, &page),
                    }
                }
            }
            None => {
                let mut result = Ok(());
                checker.tree(&mut &self.keeper, header.root, &mut |id, leaf| match leaf {
                    _ if result.is_err() => {}
                    Leaf::Page(page) => walk.page(id, &page),
                    Leaf::Summary(token) => {
                        result = walk.records(&self.keeper, id, At::from_bits(token));
                    }
                });
                result?;
                while let Some(root) = walk.nested.pop() {
                    let nested = &mut walk.nested;
                    checker.tree(&mut &self.keeper, root, &mut |_, leaf| {
                        if let Leaf::Page(page) = leaf {
                            nested.extend(nested_roots(&page));
                        }
                    });
                }
            }
        }
        self.take(walk, checker.used_pages() - pages);
        Ok(())
    }

    fn take(&mut self, walk: Walk, pages: u64) {
        self.status_hash = walk.crc;
        self.entries += walk.entries;
        if walk.is_key {
            self.records = walk.entries;
            self.tombstones = walk.tombstones;
            self.last_record = walk.last_record;
            self.leaves = walk.leaves;
        }
        self.content = walk.content;
        for problem in walk.problems {
            self.problem(problem);
        }
        self.problem_count += walk.more_problems;
        self.buckets.push(BucketStats {
            name: String::from_utf8_lossy(&walk.name).into_owned(),
            entries: walk.entries,
            bytes: walk.bytes,
            pages,
        });
    }

    /// etcd's HashKV at `revision`, 0 for the current one, as a member returns
    /// it whose compact revision is `compact` (`None` or negative: none). It
    /// may be above the database's own.
    pub fn hash_kv(&self, revision: i64, compact: Option<i64>) -> Result<u32, HashError> {
        self.hash_kv_with(revision, compact, &[])
    }

    /// Like [`Scan::hash_kv`] for a store to which records, as key and value in
    /// their order, are appended after the database's last one.
    pub fn hash_kv_with(
        &self,
        revision: i64,
        compact: Option<i64>,
        appended: &[(RecordKey, &[u8])],
    ) -> Result<u32, HashError> {
        if !self.is_sound() {
            return Err(HashError::Damaged);
        }
        let have = appended.last().map_or(self.revision, |(key, _)| key.main.max(self.revision));
        if revision < 0 || revision > have {
            return Err(HashError::Future { asked: revision, have });
        }
        let bound = if revision == 0 { i64::MAX } else { revision };
        let compact = compact.unwrap_or(-1);
        let appended: Vec<Appended<'_>> = appended
            .iter()
            .filter(|(key, _)| key.main <= bound)
            .map(|(key, value)| {
                let user_key = KeyValue::decode(value).map_or(&[][..], |kv| kv.key);
                let hash = self.keeper.key_hash(user_key);
                Appended { key: *key, value, hash }
            })
            .collect();

        let computed;
        let newest = if bound >= self.last_record.unwrap_or(0) {
            &self.newest
        } else {
            computed = self.newest_at(bound).map_err(HashError::Spill)?;
            &computed
        };
        self.forward(bound, compact, newest, &appended).map_err(HashError::Spill)
    }

    /// The hashing pass over the live records.
    fn forward(
        &self,
        bound: i64,
        compact: i64,
        newest: &Newest,
        appended: &[Appended<'_>],
    ) -> io::Result<u32> {
        let is_current = |at: usize| {
            let record = &appended[at];
            !record.key.tombstone && appended[at + 1..].iter().all(|r| r.hash != record.hash)
        };
        let superseded = |key: u64| appended.iter().any(|record| record.hash == key);
        // Without any key to keep, the server drops nothing that was compacted.
        let keeps_some = (0..appended.len()).any(is_current)
            || (newest.live > 0
                && (appended.is_empty() || self.keeps_other(newest, bound, &superseded)?));
        let dropped = |main: i64, tombstone: bool, kept: bool| {
            (main <= compact && keeps_some && (tombstone || !kept))
                || (main == compact && tombstone)
        };
        let mut hash = crc32c::crc32c(bucket::KEY);
        let mut scratch = Vec::new();
        let mut before = 0;
        for &leaf in &self.leaves {
            let (head, bytes) = self.keeper.leaf_at(leaf, &mut scratch)?;
            let start = before;
            before += u64::from(head.count);
            let (first, last) = records::mains(bytes);
            if first > bound {
                break;
            }
            let count = head.count as usize;
            if last <= bound && first > compact {
                let (part, length) = (records::run_crc(bytes, count), records::length(bytes));
                hash = crc::join(hash, part, length);
                continue;
            }
            let mut from = None;
            for (index, record) in records::records(bytes).enumerate() {
                let kept = || newest.get(start + index as u64) && !superseded(record.key);
                let counts = record.main <= bound
                    && !(record.main <= compact && dropped(record.main, record.tombstone, kept()));
                match (counts, from) {
                    (true, None) => from = Some(index),
                    (false, Some(start)) => {
                        let (part, length) = records::run(bytes, start, index);
                        hash = crc::join(hash, part, length);
                        from = None;
                    }
                    _ => {}
                }
            }
            if let Some(start) = from {
                let (part, length) = records::run(bytes, start, count);
                hash = crc::join(hash, part, length);
            }
        }
        for (at, record) in appended.iter().enumerate() {
            let RecordKey { main, tombstone, .. } = record.key;
            if !(main <= compact && dropped(main, tombstone, is_current(at))) {
                hash = crc32c::crc32c_append(hash, &record.key.to_bytes());
                hash = crc32c::crc32c_append(hash, record.value);
            }
        }
        Ok(hash)
    }

    /// Whether a key lives at `bound` that no appended record changes.
    fn keeps_other(
        &self,
        newest: &Newest,
        bound: i64,
        superseded: &dyn Fn(u64) -> bool,
    ) -> io::Result<bool> {
        let mut scratch = Vec::new();
        let mut before = 0;
        for &leaf in &self.leaves {
            let (head, bytes) = self.keeper.leaf_at(leaf, &mut scratch)?;
            let start = before;
            before += u64::from(head.count);
            for (index, record) in records::records(bytes).enumerate() {
                if record.main <= bound
                    && !record.tombstone
                    && newest.get(start + index as u64)
                    && !superseded(record.key)
                {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The backward pass: which records are the newest of their key among
    /// those at or below `bound`. Takes as many passes as the table of key
    /// hashes needs to stay within its bound.
    fn newest_at(&self, bound: i64) -> io::Result<Newest> {
        let mut newest = Newest { bits: vec![0; self.records.div_ceil(64) as usize], live: 0 };
        let passes = (self.records * 16).div_ceil(TABLE_LIMIT).max(1);
        let mut table = KeyTable::new(self.records / passes);
        let mut scratch = Vec::new();
        for pass in 0..passes {
            table.clear();
            let mut index = self.records;
            for &leaf in self.leaves.iter().rev() {
                let (head, bytes) = self.keeper.leaf_at(leaf, &mut scratch)?;
                if records::mains(bytes).0 > bound {
                    index -= u64::from(head.count);
                    continue;
                }
                for record in records::records(bytes).rev() {
                    index -= 1;
                    let turn = (u128::from(record.key) * u128::from(passes)) >> 64;
                    if record.main > bound || turn as u64 != pass || !table.insert(record.key) {
                        continue;
                    }
                    newest.set(index);
                    newest.live += u64::from(!record.tombstone);
                }
            }
        }
        Ok(newest)
    }
}

struct Appended<'a> {
    key: RecordKey,
    value: &'a [u8],
    hash: u64,
}

/// One bit for each live record: the newest of its key.
#[derive(Debug, Default)]
struct Newest {
    bits: Vec<u64>,
    /// Those that are no tombstones: keys that exist.
    live: u64,
}

impl Newest {
    fn get(&self, index: u64) -> bool {
        self.bits.get((index / 64) as usize).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    fn set(&mut self, index: u64) {
        if let Some(word) = self.bits.get_mut((index / 64) as usize) {
            *word |= 1 << (index % 64);
        }
    }
}

/// A set of key hashes, which are spread evenly and never 0.
struct KeyTable {
    slots: Vec<u64>,
    used: usize,
}

impl KeyTable {
    /// With room for `expected` hashes, four fifths full by then.
    fn new(expected: u64) -> Self {
        let slots = (expected as usize).saturating_mul(5) / 4 + 16;
        Self { slots: vec![0; slots], used: 0 }
    }

    fn clear(&mut self) {
        if self.used > 0 {
            self.slots.fill(0);
            self.used = 0;
        }
    }

    /// Whether it was new.
    fn insert(&mut self, key: u64) -> bool {
        if self.used >= self.slots.len() / 8 * 7 {
            let old = std::mem::take(&mut self.slots);
            self.slots = vec![0; old.len() * 2];
            self.used = 0;
            old.into_iter().filter(|&key| key != 0).for_each(|key| {
                self.insert(key);
            });
        }
        // By the lower half: the upper one has chosen the pass.
        let spread = u128::from(key.rotate_left(32)) * self.slots.len() as u128;
        let mut at = (spread >> 64) as usize;
        loop {
            match self.slots[at] {
                0 => break,
                there if there == key => return false,
                _ if at + 1 < self.slots.len() => at += 1,
                _ => at = 0,
            }
        }
        self.slots[at] = key;
        self.used += 1;
        true
    }
}

/// One bucket on its way.
struct Walk {
    name: Vec<u8>,
    is_key: bool,
    crc: u32,
    entries: u64,
    bytes: u64,
    tombstones: u64,
    last_record: Option<i64>,
    leaves: Vec<At>,
    content: Content,
    nested: Vec<PageId>,
    problems: Vec<ScanProblem>,
    more_problems: u64,
    scratch: Vec<u8>,
}

impl Walk {
    fn new(name: Vec<u8>, crc: u32, content: Content) -> Self {
        Self {
            is_key: name == bucket::KEY,
            name,
            crc,
            entries: 0,
            bytes: 0,
            tombstones: 0,
            last_record: None,
            leaves: Vec::new(),
            content,
            nested: Vec::new(),
            problems: Vec::new(),
            more_problems: 0,
            scratch: Vec::new(),
        }
    }

    fn problem(&mut self, problem: ScanProblem) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        } else {
            self.more_problems += 1;
        }
    }

    fn name(&self) -> String {
        String::from_utf8_lossy(&self.name).into_owned()
    }

    /// A leaf whose keys are all revisions; outside `key` that can only be
    /// chance, and its entries are counted.
    fn records(&mut self, keeper: &Keeper, page: PageId, at: At) -> io::Result<()> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let (head, bytes) = keeper.leaf_at(at, &mut scratch)?;
        let length = records::length(bytes);
        self.crc = crc::join(self.crc, records::run_crc(bytes, head.count as usize), length);
        if self.is_key {
            self.leaves.push(at);
            self.tombstones += records::records(bytes).filter(|r| r.tombstone).count() as u64;
            self.last_record = Some(records::mains(bytes).1);
            if let Some(index) = head.odd {
                self.problem(ScanProblem::Record { page, index });
            }
        } else {
            self.content.count(&self.name, head.count.into());
        }
        self.entries += u64::from(head.count);
        self.bytes += length;
        self.scratch = scratch;
        Ok(())
    }

    fn page(&mut self, id: PageId, page: &Page<'_>) {
        if self.is_key && !page.is_empty() {
            self.problem(match unfit(page) {
                Some(index) => ScanProblem::Record { page: id, index },
                None => ScanProblem::NotRecords { page: id },
            });
        }
        for index in 0..page.len() {
            let Ok(element) = page.leaf(index) else { continue };
            self.entries += 1;
            self.bytes += (element.key.len() + element.value.len()) as u64;
            self.crc = crc32c::crc32c_append(self.crc, element.key);
            if element.is_bucket() {
                let bucket = self.name();
                let what = "there is a bucket within";
                self.problem(ScanProblem::Shape { bucket, what });
                continue;
            }
            self.crc = crc32c::crc32c_append(self.crc, element.value);
            if let Err(source) = self.content.add(&self.name, element.key, element.value) {
                let bucket = self.name();
                self.problem(ScanProblem::Entry { bucket, source });
            }
        }
        self.nested.extend(nested_roots(page));
    }
}

/// Of a leaf whose keys are all revisions: the first that no transaction can have.
fn unfit(page: &Page<'_>) -> Option<u32> {
    let mut unfit = None;
    for index in 0..page.len() {
        let element = page.leaf(index).ok().filter(|element| element.flags == 0)?;
        let key = RecordKey::parse(element.key).ok()?;
        if u32::try_from(key.sub).is_err() {
            unfit = unfit.or(u32::try_from(index).ok());
        }
    }
    unfit
}

/// Roots of the buckets of a leaf that have pages of their own.
fn nested_roots(page: &Page<'_>) -> impl Iterator<Item = PageId> {
    (0..page.len()).filter_map(|index| page.leaf(index).ok()).filter_map(|element| {
        match BucketHeader::parse(element.value) {
            Some((header, None)) if element.is_bucket() => Some(header.root),
            _ => None,
        }
    })
}
