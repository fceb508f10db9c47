//! Where a file has data: as the file system tells, less the zeros at its end.
//!
//! Space that is reserved and not written yet, as at the end of a log segment of
//! etcd, reads as zeros, and file systems differ in whether they call it a hole.

use std::fs::File;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::super::archive::{Extent, ReadAt as _};

/// A file with more pieces than this is taken as one without holes.
const MAX_EXTENTS: usize = 1 << 16;

/// Zeros at the end are looked for in steps of this size.
const STEP: usize = 64 << 10;

static ZEROS: [u8; STEP] = [0; STEP];

/// The pieces of data of a file of `size` bytes.
pub(super) fn extents(file: &File, size: u64) -> Vec<Extent> {
    let mut extents = told(file, size);
    while let Some(last) = extents.last_mut() {
        last.length = without_zeros(file, *last);
        if last.length > 0 {
            break;
        }
        extents.pop();
    }
    extents
}

/// How much of `extent` is left without the whole steps of zeros at its end.
fn without_zeros(file: &File, extent: Extent) -> u64 {
    let mut buffer = vec![0; STEP];
    let mut length = extent.length;
    while length > 0 {
        // Steps lie at their multiples in the file, so that only the last is short.
        let end = extent.offset + length;
        let from = ((end - 1) / STEP as u64 * STEP as u64).max(extent.offset);
        let want = &mut buffer[..(end - from) as usize];
        let whole = matches!(file.read_at(from, want), Ok(count) if count == want.len());
        if !whole || *want != ZEROS[..want.len()] {
            break;
        }
        length = from - extent.offset;
    }
    length
}

/// As the file system tells: one piece of the whole size where it cannot.
fn told(file: &File, size: u64) -> Vec<Extent> {
    if size == 0 {
        return Vec::new();
    }
    let whole = || vec![Extent { offset: 0, length: size }];
    let mut extents = Vec::new();
    let mut at = 0;
    while at < size {
        let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => break,
            Err(_) => return whole(),
        };
        if data >= size {
            break;
        }
        let Ok(hole) = rustix::fs::seek(file, SeekFrom::Hole(data)) else { return whole() };
        let end = hole.min(size);
        if end <= data || extents.len() >= MAX_EXTENTS {
            return whole();
        }
        extents.push(Extent { offset: data, length: end - data });
        at = end;
    }
    extents
}
