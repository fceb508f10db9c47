//! A member's directory from a snapshot, byte for byte as a real node builds it: by
//! [`datadir::restore`](crate::datadir::restore), on a file system in memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use vault::durable::sim::SimFs;
use vault::durable::{FileSystem, FileType};

use super::super::{BuiltMember, FileKind, MemberSpec, NodeErrorKind, member};
use super::Fault;
use super::files::{Inode, Tree, plain};
use crate::datadir::restore::{Restore, RestoreError};

/// Where it is built on the file system of its own.
const DATA: &str = "/built";
const LOG: &str = "/log";

/// Builds the member at `path` from the snapshot in `chunks`.
pub(super) fn build(
    tree: &mut Tree,
    path: &Path,
    spec: &MemberSpec,
    chunks: &[Bytes],
    now: i128,
) -> Result<BuiltMember, Fault> {
    let place = tree.place(path)?;
    let log = spec.wal.as_deref().map(|wal| tree.place(wal)).transpose()?;
    let fs = SimFs::new();
    let wal = log.as_ref().map(|_| Path::new(LOG));
    let options = member::options(spec, Path::new(DATA), wal)
        .map_err(|why| Fault::new(NodeErrorKind::Unexpected, why))?;
    let mut restore = Restore::begin(Arc::new(fs.clone()), options).map_err(refused)?;
    for chunk in chunks {
        restore.write(chunk).map_err(refused)?;
    }
    let restored = restore.finish(&member::expected(spec)).map_err(refused)?;
    let mut made = Vec::new();
    take(&fs, &Path::new(DATA).join("member"), &place, now, &mut made)?;
    let inside = made.len();
    if let Some(log) = &log {
        take(&fs, Path::new(LOG), log, now, &mut made)?;
    }
    let size = made.iter().map(|(_, inode)| inode.bytes.len()).sum();
    tree.writable(&place, size)?;
    for (path, inode) in &made[inside..] {
        tree.put(path.clone(), inode.clone(), true);
    }
    for (path, inode) in &made[..inside] {
        tree.put(path.clone(), inode.clone(), true);
    }
    member::built(&restored, spec, tree.digest(path)?).map_err(refused)
}

/// What is at `from` as it will be at `to`, directories before what is in them.
fn take(
    fs: &SimFs,
    from: &Path,
    to: &Path,
    now: i128,
    made: &mut Vec<(PathBuf, Inode)>,
) -> Result<(), Fault> {
    let odd = |error: std::io::Error| Fault::new(NodeErrorKind::Other, error.to_string());
    let found = fs.metadata(from).map_err(odd)?;
    let is_directory = found.file_type == FileType::Directory;
    let mut bytes = Vec::new();
    if !is_directory {
        let file = fs.open(from).map_err(odd)?;
        let size = usize::try_from(found.size).unwrap_or(usize::MAX);
        bytes.resize(size, 0);
        let mut at = 0;
        while at < size {
            match file.read_at(at as u64, &mut bytes[at..]).map_err(odd)? {
                0 => break,
                count => at += count,
            }
        }
    }
    let inode = Inode {
        kind: if is_directory { FileKind::Directory } else { FileKind::File },
        bytes,
        attributes: plain(found.uid, found.gid, found.mode),
        modified: now,
        target: None,
    };
    made.push((to.to_owned(), inode));
    if is_directory {
        for entry in fs.read_dir(from).map_err(odd)? {
            take(fs, &from.join(&entry.name), &to.join(&entry.name), now, made)?;
        }
    }
    Ok(())
}

fn refused(error: RestoreError) -> Fault {
    let (why, system) = member::refusal(&error);
    let kind = match system.map(|error| error.kind()) {
        Some(std::io::ErrorKind::StorageFull) => NodeErrorKind::NoSpace,
        Some(_) => NodeErrorKind::Other,
        None => member::REFUSED,
    };
    Fault::new(kind, why)
}
