//! What the scan keeps of a leaf of the bucket `key`: 24 bytes a record, and some
//! five for the leaf.
//!
//! Of each record its main revision, whether it is a tombstone, a keyed hash
//! of the user's key, its length, and the CRC-32C of everything from the
//! leaf's first record up to its own end: the CRC of any run of records
//! follows from two of these.

use std::hash::{BuildHasher, Hasher, RandomState};

use super::{crc, varint};
use crate::bbolt::page::{Page, PageError};
use crate::datadir::schema::{KeyValue, RecordKey};

/// Bytes of a record in the arena: main i64, key hash u64, CRC u32, and u32
/// length with the tombstone in its top bit.
pub(super) const RECORD: usize = 24;
const TOMBSTONE: u32 = 1 << 31;

/// The most bytes before the records.
pub(super) const MAX_HEAD: usize = 5 * varint::MAX_U32;

/// The head of a kept leaf: five numbers, as varints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LeafHead {
    /// Number of records, at least 1.
    pub(super) count: u32,
    /// Overflow pages of the leaf.
    pub(super) overflow: u32,
    /// The first record whose value etcd cannot have written.
    pub(super) odd: Option<u32>,
    /// Sub revision of the first record.
    pub(super) first_sub: u32,
    /// Sub revision of the last record.
    pub(super) last_sub: u32,
}

impl LeafHead {
    /// Reads the head at the start of `bytes`, and says how long it is.
    pub(super) fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let mut rest = bytes;
        let mut next = || u32::try_from(varint::take(&mut rest)?).ok();
        let head = Self {
            count: next()?,
            overflow: next()?,
            odd: next()?.checked_sub(1),
            first_sub: next()?,
            last_sub: next()?,
        };
        Some((head, bytes.len() - rest.len()))
    }

    fn write(&self, to: &mut Vec<u8>) {
        // Indexes have 16 bits.
        let odd = self.odd.map_or(0, |odd| odd + 1);
        for number in [self.count, self.overflow, odd, self.first_sub, self.last_sub] {
            varint::put(to, number.into());
        }
    }
}

/// A kept record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    /// Main revision.
    pub(super) main: i64,
    /// Keyed hash of the user's key; never 0.
    pub(super) key: u64,
    /// CRC-32C from the leaf's first record to the end of this one.
    pub(super) crc: u32,
    /// Bytes of key and value.
    pub(super) length: u32,
    /// Whether it deletes its key.
    pub(super) tombstone: bool,
}

impl Record {
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let length = u32::from_le_bytes(bytes[20..24].try_into().expect("4"));
        Self {
            main: i64::from_le_bytes(bytes[..8].try_into().expect("8")),
            key: u64::from_le_bytes(bytes[8..16].try_into().expect("8")),
            crc: u32::from_le_bytes(bytes[16..20].try_into().expect("4")),
            length: length & !TOMBSTONE,
            tombstone: length & TOMBSTONE != 0,
        }
    }

    fn write(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.main.to_le_bytes());
        to.extend_from_slice(&self.key.to_le_bytes());
        to.extend_from_slice(&self.crc.to_le_bytes());
        let mark = if self.tombstone { TOMBSTONE } else { 0 };
        to.extend_from_slice(&(self.length | mark).to_le_bytes());
    }
}

/// Bytes of all keys and values of a leaf.
pub(super) fn length(bytes: &[u8]) -> u64 {
    records(bytes).map(|record| u64::from(record.length)).sum()
}

/// The first and the last key of a leaf.
pub(super) fn edges(head: &LeafHead, bytes: &[u8]) -> Option<[RecordKey; 2]> {
    let key = |record: Record, sub: u32| RecordKey {
        main: record.main,
        sub: sub.into(),
        tombstone: record.tombstone,
    };
    let mut records = records(bytes);
    let first = records.next()?;
    Some([key(first, head.first_sub), key(records.next_back().unwrap_or(first), head.last_sub)])
}

/// Main revisions of the first and last record.
pub(super) fn mains(bytes: &[u8]) -> (i64, i64) {
    let mut records = records(bytes);
    let first = records.next().map_or(0, |record| record.main);
    (first, records.next_back().map_or(first, |record| record.main))
}

/// The records of a leaf in the form that [`Record::parse`] reads.
pub(super) fn records(bytes: &[u8]) -> impl DoubleEndedIterator<Item = Record> {
    bytes.chunks_exact(RECORD).map(Record::parse)
}

/// CRC-32C of the first `count` records of a leaf.
pub(super) fn run_crc(bytes: &[u8], count: usize) -> u32 {
    count.checked_sub(1).map_or(0, |last| Record::parse(&bytes[last * RECORD..]).crc)
}

/// CRC-32C and length of the records `from..to` of a leaf.
pub(super) fn run(bytes: &[u8], from: usize, to: usize) -> (u32, u64) {
    let record = |index: usize| Record::parse(&bytes[index * RECORD..(index + 1) * RECORD]);
    let length = (from..to).map(|index| u64::from(record(index).length)).sum();
    let Some(last) = to.checked_sub(1) else { return (0, 0) };
    let before = from.checked_sub(1).map_or(0, |index| record(index).crc);
    (record(last).crc ^ crc::shift(before, length), length)
}

/// What a leaf is, as far as its own page tells.
#[derive(Debug)]
pub(super) enum Summary {
    /// Every key is a revision; head and records were appended.
    Records,
    /// Any other content.
    Other,
    /// Damaged within.
    Bad(LeafFault),
}

/// Why a leaf of records cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeafFault {
    Page,
    Order,
}

/// Appends head and records of a leaf whose keys are all revisions to `to`.
/// On anything else `to` is left as it was.
pub(super) fn summarize(hasher: &RandomState, page: &Page<'_>, to: &mut Vec<u8>) -> Summary {
    let start = to.len();
    let summary = append(hasher, page, to);
    if !matches!(summary, Summary::Records) {
        to.truncate(start);
    }
    summary
}

fn append(hasher: &RandomState, page: &Page<'_>, to: &mut Vec<u8>) -> Summary {
    if page.is_empty() {
        return Summary::Other;
    }
    let start = to.len();
    let mut head = LeafHead {
        count: page.header().count.into(),
        overflow: page.header().overflow,
        odd: None,
        first_sub: 0,
        last_sub: 0,
    };
    let mut crc = 0;
    let mut before: &[u8] = &[];
    for index in 0..page.len() {
        let element = match page.leaf(index) {
            Ok(element) => element,
            Err(PageError::NoElement { .. }) => return Summary::Other,
            Err(_) => return Summary::Bad(LeafFault::Page),
        };
        let key = match RecordKey::parse(element.key) {
            Ok(key) if element.flags == 0 => key,
            _ => return Summary::Other,
        };
        // A transaction has fewer changes; other keys may only look like revisions.
        let Ok(sub) = u32::try_from(key.sub) else { return Summary::Other };
        if element.key <= before {
            return Summary::Bad(LeafFault::Order);
        }
        before = element.key;
        if index == 0 {
            head.first_sub = sub;
        }
        head.last_sub = sub;
        let (user_key, sound) = match KeyValue::decode(element.value) {
            Ok(kv) => (kv.key, is_sound(&key, &kv, element.value)),
            Err(_) => (&[][..], false),
        };
        if !sound {
            head.odd.get_or_insert(index as u32);
        }
        // Key and value lie side by side.
        let length = element.key.len() + element.value.len();
        let Ok(length @ ..TOMBSTONE) = u32::try_from(length) else {
            return Summary::Bad(LeafFault::Page);
        };
        let pair = page.offset_of(element.key);
        crc = crc32c::crc32c_append(crc, &page.bytes()[pair..pair + length as usize]);
        let record = Record {
            main: key.main,
            key: key_hash(hasher, user_key),
            crc,
            length,
            tombstone: key.tombstone,
        };
        record.write(to);
    }
    // What the head says is known only now, and it goes first.
    let records = to.len();
    head.write(to);
    let length = to.len() - records;
    to[start..].rotate_right(length);
    Summary::Records
}

/// Whether etcd can have written the pair: a change names its own revision, a
/// deletion only its key; an empty value is what a revision bump adds.
fn is_sound(key: &RecordKey, kv: &KeyValue<'_>, value: &[u8]) -> bool {
    if key.main < 0 || key.sub < 0 {
        return false;
    }
    if value.is_empty() {
        return !key.tombstone;
    }
    if key.tombstone {
        return KeyValue { key: kv.key, ..KeyValue::default() } == *kv;
    }
    kv.mod_revision == key.main && kv.create_revision <= kv.mod_revision
}

/// A hash of the user's key under a key of this process, so that nobody can
/// make two keys collide. Never 0.
pub(super) fn key_hash(hasher: &RandomState, key: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    state.write(key);
    state.finish().max(1)
}
