//! Append-only bytes that move to an unlinked temporary file when there are
//! too many.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Entries are packed into segments of this size; a larger one has its own.
const SEGMENT: usize = 1 << 20;

/// Where an entry lies: segment in the upper half, offset in the lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At(u64);

impl At {
    /// The address as a number below 2^62.
    pub(super) fn to_bits(self) -> u64 {
        self.0
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

#[derive(Debug)]
enum Segment {
    Memory(Vec<u8>),
    File { offset: u64, length: usize },
}

/// Entries of any length, read by address.
#[derive(Debug)]
pub(super) struct Arena {
    segments: Vec<Segment>,
    in_memory: usize,
    memory_limit: usize,
    spill_limit: u64,
    directory: Option<PathBuf>,
    file: Option<File>,
    spilled: u64,
}

impl Arena {
    /// Spills to a file in `directory` above `memory_limit` bytes, and fails
    /// beyond `spill_limit` bytes there; without a directory it fails above
    /// the memory's limit.
    pub(super) fn new(memory_limit: usize, spill_limit: u64, directory: Option<PathBuf>) -> Self {
        Self {
            segments: Vec::new(),
            in_memory: 0,
            memory_limit: memory_limit.max(2 * SEGMENT),
            spill_limit,
            directory,
            file: None,
            spilled: 0,
        }
    }

    /// Room for an entry of up to `capacity` bytes; the caller fills it by
    /// `write`, which appends.
    pub(super) fn append(
        &mut self,
        capacity: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> io::Result<At> {
        let fits = match self.segments.last() {
            Some(Segment::Memory(bytes)) => bytes.capacity() - bytes.len() >= capacity,
            _ => false,
        };
        if !fits {
            self.open_segment(capacity)?;
        }
        let index = self.segments.len() - 1;
        let Some(Segment::Memory(bytes)) = self.segments.last_mut() else {
            return Err(io::Error::other("the last segment is in memory"));
        };
        let offset = bytes.len();
        let before = bytes.capacity();
        write(bytes);
        self.in_memory += bytes.capacity() - before;
        Ok(At((index as u64) << 32 | offset as u64))
    }

    fn open_segment(&mut self, capacity: usize) -> io::Result<()> {
        let size = capacity.max(SEGMENT);
        if self.in_memory + size > self.memory_limit {
            self.spill()?;
        }
        if self.segments.len() >= 1 << 29 || u32::try_from(capacity).is_err() {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.segments.push(Segment::Memory(Vec::with_capacity(size)));
        self.in_memory += size;
        Ok(())
    }

    fn spill(&mut self) -> io::Result<()> {
        let Some(directory) = &self.directory else {
            return Err(io::Error::from(io::ErrorKind::OutOfMemory));
        };
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile_in(directory)?),
        };
        for segment in &mut self.segments {
            let Segment::Memory(bytes) = segment else { continue };
            if self.spilled + bytes.len() as u64 > self.spill_limit {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            file.write_all(bytes)?;
            let length = bytes.len();
            *segment = Segment::File { offset: self.spilled, length };
            self.spilled += length as u64;
        }
        self.in_memory = 0;
        Ok(())
    }

    /// Spills everything and loses it.
    #[cfg(test)]
    pub(super) fn lose(&mut self) {
        self.spill().expect("spill");
        self.file.as_ref().expect("a file").set_len(0).expect("cut the file");
    }

    /// Bytes in the temporary file.
    pub(super) fn spilled(&self) -> u64 {
        self.spilled
    }

    /// Up to `length` bytes from `at` on, fewer where the segment ends before.
    pub(super) fn read_up_to<'a>(
        &'a self,
        at: At,
        length: usize,
        scratch: &'a mut Vec<u8>,
    ) -> io::Result<&'a [u8]> {
        let have = match self.segments.get((at.0 >> 32) as usize) {
            Some(Segment::Memory(bytes)) => bytes.len(),
            Some(Segment::File { length, .. }) => *length,
            None => 0,
        };
        let left = have.saturating_sub((at.0 & 0xFFFF_FFFF) as usize);
        self.read(at, 0, length.min(left), scratch)
    }

    /// Gives `length` bytes from `at` on to `read`; `scratch` holds them when
    /// they come from the file.
    pub(super) fn read<'a>(
        &'a self,
        at: At,
        skip: usize,
        length: usize,
        scratch: &'a mut Vec<u8>,
    ) -> io::Result<&'a [u8]> {
        let end = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let start = (at.0 & 0xFFFF_FFFF) as usize + skip;
        match self.segments.get((at.0 >> 32) as usize).ok_or_else(end)? {
            Segment::Memory(bytes) => bytes.get(start..start + length).ok_or_else(end),
            Segment::File { offset, length: have } => {
                if start + length > *have {
                    return Err(end());
                }
                let file = self.file.as_ref().ok_or_else(end)?;
                scratch.resize(length, 0);
                file.read_exact_at(scratch, offset + start as u64)?;
                Ok(scratch)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_read_back_from_memory_and_file() {
        let directory = tempfile::tempdir().unwrap();
        let mut arena = Arena::new(2 << 20, 1 << 30, Some(directory.path().into()));
        let entry = |n: usize| vec![n as u8; 100_000 + n * 1000];
        let ats: Vec<At> = (0..100)
            .map(|n| arena.append(entry(n).len(), |to| to.extend(entry(n))).unwrap())
            .collect();
        assert!(arena.spilled() > 10 << 20, "{}", arena.spilled());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "it is unlinked");
        let mut scratch = Vec::new();
        for (n, at) in ats.into_iter().enumerate() {
            let want = entry(n);
            assert_eq!(arena.read(at, 0, want.len(), &mut scratch).unwrap(), want);
            assert_eq!(arena.read(at, 99_990, 10, &mut scratch).unwrap(), &want[..10]);
        }
    }

    #[test]
    fn bounds_hold() {
        let mut arena = Arena::new(2 << 20, 0, None);
        let fill = |to: &mut Arena| to.append(1 << 20, |b| b.resize(b.len() + (1 << 20), 0));
        fill(&mut arena).unwrap();
        fill(&mut arena).unwrap();
        assert_eq!(fill(&mut arena).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
        let mut arena = Arena::new(2 << 20, 3 << 20, Some(std::env::temp_dir()));
        for _ in 0..4 {
            fill(&mut arena).unwrap();
        }
        assert_eq!(fill(&mut arena).unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
