//! HashKV and the status hash, computed from a database's bytes.
//!
//! [`StreamScan`] does it in one forward pass with bounded memory, whatever the
//! size of the chunks, and checks the structure on the way; the result can be
//! asked for HashKV at any revision and compaction. [`Scan::of`] gives the same
//! of a file without reading its free pages. [`two_pass`] follows etcd's
//! own rule over an opened database, with every key in memory, and is what the
//! tests hold the scan against.
//!
//! Source: `server/storage/mvcc/hash.go @ v3.6.14`, `server/mvcc/hash.go @
//! v3.5.30`, `etcdutl/snapshot/v3_snapshot.go @ v3.5.30`.

mod arena;
mod branch;
mod crc;
mod file;
mod keeper;
mod records;
mod scan;
mod stream;
mod trailer;
mod two_pass;
mod varint;

pub use scan::{BucketStats, HashError, Scan, ScanProblem};
pub use stream::{ScanError, ScanOptions, StreamScan};
pub use trailer::{Digests, TrailerHasher};
pub use two_pass::{TwoPassError, two_pass};
