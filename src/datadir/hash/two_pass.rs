//! HashKV by etcd's own rule over an opened database: which record of each key
//! to keep, then the hash. Holds every key in memory; the streaming scan does
//! not, and is held against this in the tests.

use std::collections::HashMap;

use crate::bbolt::{Database, PageSource, ReadError};
use crate::datadir::schema::{KeyValue, RecordKey, SchemaError, bucket};

/// Why the hash cannot be computed.
#[derive(Debug, thiserror::Error)]
pub enum TwoPassError {
    /// The tree is damaged.
    #[error("cannot read the bucket key")]
    Read(#[from] ReadError),
    /// A record is damaged.
    #[error("the bucket key holds something other than records")]
    Record(#[from] SchemaError),
    /// Not a database of etcd v3.
    #[error("there is no bucket named key")]
    NoKeyBucket,
}

/// HashKV at `revision` (0: the current one) for a member whose compact
/// revision is `compact`.
pub fn two_pass<S: PageSource>(
    database: &Database<S>,
    revision: i64,
    compact: Option<i64>,
) -> Result<u32, TwoPassError> {
    let records = database.bucket(bucket::KEY)?.ok_or(TwoPassError::NoKeyBucket)?;
    let bound = if revision == 0 { i64::MAX } else { revision };
    let compact = compact.unwrap_or(-1);

    let mut keep: HashMap<Vec<u8>, RecordKey> = HashMap::new();
    let mut cursor = records.cursor();
    while let Some(entry) = cursor.next()? {
        let record = RecordKey::parse(entry.key)?;
        if record.main > bound {
            break;
        }
        let key = KeyValue::decode(entry.value)?.key;
        match keep.get_mut(key) {
            Some(newest) => *newest = record,
            None => {
                keep.insert(key.to_vec(), record);
            }
        }
    }
    keep.retain(|_, record| !record.tombstone);

    let mut hash = crc32c::crc32c(bucket::KEY);
    let mut cursor = records.cursor();
    while let Some(entry) = cursor.next()? {
        let record = RecordKey::parse(entry.key)?;
        if record.main > bound {
            break;
        }
        let current =
            || Ok::<_, SchemaError>(keep.get(KeyValue::decode(entry.value)?.key) == Some(&record));
        if record.main <= compact && !keep.is_empty() && !current()? {
            continue;
        }
        if record.main == compact && record.tombstone {
            continue;
        }
        hash = crc32c::crc32c_append(hash, entry.key);
        hash = crc32c::crc32c_append(hash, entry.value);
    }
    Ok(hash)
}
