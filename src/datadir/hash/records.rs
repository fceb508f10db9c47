//! What the scan keeps of a leaf of the bucket `key`: 24 bytes a record.
//!
//! Of each record its main revision, whether it is a tombstone, a keyed hash
//! of the user's key, its length, and the CRC-32C of everything from the
//! leaf's first record up to its own end: the CRC of any run of records
//! follows from two of these.

use std::hash::{BuildHasher, Hasher, RandomState};

use super::crc;
use crate::bbolt::page::{Page, PageError};
use crate::datadir::schema::{KeyValue, REVISION_SIZE, RecordKey};

/// Bytes of a record in the arena: main i64, key hash u64, CRC u32, and u32
/// length with the tombstone in its top bit.
pub(super) const RECORD: usize = 24;
const TOMBSTONE: u32 = 1 << 31;

/// Bytes before the records: count u32, overflow u32, length u64, first odd
/// record u32, lengths of first and last key, then both keys.
pub(super) const HEAD: usize = FIELD_LAST + KEY;
const KEY: usize = REVISION_SIZE + 1;
const FIELD_FIRST: usize = 24;
const FIELD_LAST: usize = FIELD_FIRST + KEY;

/// The index that says that no record is odd.
const NONE_ODD: u32 = u32::MAX;

/// The head of a kept leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LeafHead {
    /// Number of records, at least 1.
    pub(super) count: u32,
    /// Overflow pages of the leaf.
    pub(super) overflow: u32,
    /// Bytes of all keys and values.
    pub(super) length: u64,
    /// The first record whose value etcd cannot have written.
    pub(super) odd: Option<u32>,
    first: [u8; KEY],
    last: [u8; KEY],
    first_length: u8,
    last_length: u8,
}

impl LeafHead {
    pub(super) fn first(&self) -> &[u8] {
        &self.first[..usize::from(self.first_length).min(KEY)]
    }

    pub(super) fn last(&self) -> &[u8] {
        &self.last[..usize::from(self.last_length).min(KEY)]
    }

    pub(super) fn parse(bytes: &[u8; HEAD]) -> Self {
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4"));
        let key = |at: usize| bytes[at..at + KEY].try_into().expect("a key");
        Self {
            count: u32_at(0),
            overflow: u32_at(4),
            length: u64::from_le_bytes(bytes[8..16].try_into().expect("8")),
            odd: Some(u32_at(16)).filter(|&odd| odd != NONE_ODD),
            first_length: bytes[20],
            last_length: bytes[21],
            first: key(FIELD_FIRST),
            last: key(FIELD_LAST),
        }
    }

    fn write(&self, to: &mut [u8]) {
        to[..4].copy_from_slice(&self.count.to_le_bytes());
        to[4..8].copy_from_slice(&self.overflow.to_le_bytes());
        to[8..16].copy_from_slice(&self.length.to_le_bytes());
        to[16..20].copy_from_slice(&self.odd.unwrap_or(NONE_ODD).to_le_bytes());
        to[20] = self.first_length;
        to[21] = self.last_length;
        to[FIELD_FIRST..FIELD_LAST].copy_from_slice(&self.first);
        to[FIELD_LAST..HEAD].copy_from_slice(&self.last);
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
    to.resize(start + HEAD, 0);
    let mut head = LeafHead {
        count: page.header().count.into(),
        overflow: page.header().overflow,
        length: 0,
        odd: None,
        first: [0; KEY],
        last: [0; KEY],
        first_length: 0,
        last_length: 0,
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
        if element.key <= before {
            return Summary::Bad(LeafFault::Order);
        }
        before = element.key;
        if index == 0 {
            head.first[..element.key.len()].copy_from_slice(element.key);
            head.first_length = element.key.len() as u8;
        }
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
        head.length += u64::from(length);
        let record = Record {
            main: key.main,
            key: key_hash(hasher, user_key),
            crc,
            length,
            tombstone: key.tombstone,
        };
        record.write(to);
    }
    head.last[..before.len()].copy_from_slice(before);
    head.last_length = before.len() as u8;
    head.write(&mut to[start..start + HEAD]);
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
