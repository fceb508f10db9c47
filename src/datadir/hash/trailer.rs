//! One SHA-256 pass over a snapshot that gives the digest of the database, of
//! the whole file, and the verdict on the trailer.

use sha2::{Digest, Sha256};

use crate::bbolt::database::{TRAILER_SIZE, has_trailer};

const KEPT: usize = TRAILER_SIZE as usize;

/// The digests of a snapshot or database file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digests {
    /// Bytes of the file.
    pub size: u64,
    /// SHA-256 of all bytes, with the trailer.
    pub whole: [u8; 32],
    /// SHA-256 of the bytes before the trailer; of all when there is none.
    pub database: [u8; 32],
    /// The trailer, when the size says that there is one.
    pub trailer: Option<[u8; 32]>,
}

impl Digests {
    /// Whether the trailer is the digest of the database; `None` without one.
    pub fn trailer_ok(&self) -> Option<bool> {
        self.trailer.map(|trailer| trailer == self.database)
    }
}

/// Hashes a snapshot in chunks of any size; holds back 32 bytes, since only
/// the end tells whether they are the trailer.
#[derive(Debug, Clone, Default)]
pub struct TrailerHasher {
    hasher: Sha256,
    size: u64,
    tail: Vec<u8>,
}

impl TrailerHasher {
    /// Nothing hashed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes.
    pub fn write(&mut self, chunk: &[u8]) {
        self.size += chunk.len() as u64;
        if let Some(surplus) = chunk.len().checked_sub(KEPT) {
            self.hasher.update(&self.tail);
            self.hasher.update(&chunk[..surplus]);
            self.tail.clear();
            self.tail.extend_from_slice(&chunk[surplus..]);
            return;
        }
        self.tail.extend_from_slice(chunk);
        if let Some(surplus) = self.tail.len().checked_sub(KEPT) {
            self.hasher.update(&self.tail[..surplus]);
            self.tail.drain(..surplus);
        }
    }

    /// The digests of what was written.
    pub fn finish(self) -> Digests {
        let Self { mut hasher, size, tail } = self;
        let trailer = match <[u8; KEPT]>::try_from(tail.as_slice()) {
            Ok(trailer) if has_trailer(size) => Some(trailer),
            _ => None,
        };
        let before = hasher.clone();
        hasher.update(&tail);
        let whole = hasher.finalize().into();
        let database = if trailer.is_some() { before.finalize().into() } else { whole };
        Digests { size, whole, database, trailer }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_do_not_depend_on_the_chunks() {
        let database: Vec<u8> = (0..4096_u32).map(|n| (n * 7) as u8).collect();
        let digest: [u8; 32] = Sha256::digest(&database).into();
        let whole = [database.as_slice(), &digest].concat();
        for chunk in [1, 5, 31, 32, 33, 4096, 5000] {
            let mut hasher = TrailerHasher::new();
            whole.chunks(chunk).for_each(|chunk| hasher.write(chunk));
            let digests = hasher.finish();
            assert_eq!(digests.database, digest, "chunks of {chunk}");
            assert_eq!(digests.whole, <[u8; 32]>::from(Sha256::digest(&whole)));
            assert_eq!((digests.size, digests.trailer_ok()), (4128, Some(true)));

            let mut hasher = TrailerHasher::new();
            database.chunks(chunk).for_each(|chunk| hasher.write(chunk));
            let digests = hasher.finish();
            assert_eq!((digests.database, digests.whole), (digest, digest));
            assert_eq!(digests.trailer_ok(), None);
        }
        let mut wrong = whole;
        wrong[100] ^= 1;
        let mut hasher = TrailerHasher::new();
        hasher.write(&wrong);
        assert_eq!(hasher.finish().trailer_ok(), Some(false));
    }
}
