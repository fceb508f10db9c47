//! Where a file has data, as the file system tells.

use std::fs::File;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::super::archive::Extent;

/// A file with more pieces than this is taken as one without holes.
const MAX_EXTENTS: usize = 1 << 16;

/// The pieces of data of a file of `size` bytes: one of its whole size where the
/// file system cannot tell.
pub(super) fn extents(file: &File, size: u64) -> Vec<Extent> {
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
