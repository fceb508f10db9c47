//! Of a tar stream what lies below one directory, with names that begin there.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use tokio::sync::mpsc;

use crate::node::archive::{Kind, Member, ReadAt, Reader, Writer};
use crate::node::{ByteStream, NodeError, NodeErrorKind, NodeName};

/// Chunks are of this size; a few are in flight.
const CHUNK: usize = 1 << 20;
const IN_FLIGHT: usize = 2;

type Chunk = Result<Bytes, NodeError>;

/// What of `tar`, which is `node`'s, lies below `root`, which has to be in it. An error of
/// `tar`, at its very end too, is the last that comes.
pub(super) fn below(tar: ByteStream, node: &NodeName, root: &Path) -> ByteStream {
    let (to_thread, from_tar) = mpsc::channel::<Chunk>(IN_FLIGHT);
    let (to_caller, from_thread) = mpsc::channel::<Chunk>(IN_FLIGHT);
    tokio::spawn(async move {
        let mut tar = tar;
        while let Some(chunk) = tar.next().await {
            if chunk.as_ref().is_ok_and(Bytes::is_empty) {
                continue;
            }
            // Whoever asked for it is gone.
            if to_thread.send(chunk).await.is_err() {
                return;
            }
        }
        // An end that is said is an end; a task that is gone is none.
        let _ = to_thread.send(Ok(Bytes::new())).await;
    });
    let (node, root) = (node.clone(), root.strip_prefix("/").unwrap_or(root).to_owned());
    tokio::task::spawn_blocking(move || {
        let mut source = Source { from: from_tar, chunk: Bytes::new(), ended: false, error: None };
        let mut out = Out { to: to_caller.clone(), buffer: BytesMut::new() };
        if let Err(error) = filter(&mut source, &mut out, &root) {
            let act = format!("read /{}", root.display());
            let other = || NodeError::new(&node, NodeErrorKind::Other, act, error.to_string());
            let error = source.error.take().unwrap_or_else(other);
            // Nobody to tell where the other side is gone.
            let _ = to_caller.blocking_send(Err(error));
        }
    });
    futures_util::stream::unfold(
        from_thread,
        |mut from| async move { Some((from.recv().await?, from)) },
    )
    .boxed()
}

fn filter(source: &mut Source, out: &mut Out, root: &Path) -> io::Result<()> {
    let mut reader = Reader::new(&mut *source);
    let mut writer = Writer::new(&mut *out);
    let mut seen = false;
    while let Some(member) = reader.next_member().map_err(io::Error::other)? {
        let Ok(path) = member.path.strip_prefix(root) else { continue };
        seen |= path.as_os_str().is_empty();
        let kind = match member.kind {
            Kind::HardLink(to) => Kind::HardLink(inside(&to, root)?),
            kind => kind,
        };
        let member = Member { path: path.to_owned(), kind, ..member };
        match member.kind {
            Kind::File { .. } => {
                writer.append_file(&member, &InOrder(RefCell::new(&mut reader)))?;
            }
            _ => writer.append(&member)?,
        }
    }
    drop(reader);
    if !seen {
        return Err(io::Error::other("the copy does not hold it"));
    }
    // Whether all came, and as it was stored, is known at the end alone.
    io::copy(source, &mut io::sink())?;
    writer.finish(&[])?;
    Ok(())
}

fn inside(to: &Path, root: &Path) -> io::Result<PathBuf> {
    let inside = to.strip_prefix(root);
    let why = || io::Error::other(format!("a link leads out of it, to {}", to.display()));
    inside.map(Path::to_owned).map_err(|_| why())
}

/// A file's content as it comes: asked for from its beginning to its end, holes left out.
struct InOrder<'a, R: Read>(RefCell<&'a mut Reader<R>>);

impl<R: Read> ReadAt for InOrder<'_, R> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        match self.0.borrow_mut().next_data(buf).map_err(io::Error::other)? {
            Some((at, count)) if at == offset => Ok(count),
            _ => Err(io::Error::other("a file's pieces are not where they should be")),
        }
    }
}

/// Chunks of the stream for a thread.
struct Source {
    from: mpsc::Receiver<Chunk>,
    chunk: Bytes,
    ended: bool,
    /// What the stream ended with.
    error: Option<NodeError>,
}

impl Read for Source {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && !self.ended {
            match self.from.blocking_recv() {
                Some(Ok(chunk)) if chunk.is_empty() => self.ended = true,
                Some(Ok(chunk)) => self.chunk = chunk,
                Some(Err(error)) => {
                    let why = error.to_string();
                    self.error = Some(error);
                    return Err(io::Error::other(why));
                }
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let count = buf.len().min(self.chunk.len());
        buf[..count].copy_from_slice(&self.chunk.split_to(count));
        Ok(count)
    }
}

/// Chunks for whoever asked.
struct Out {
    to: mpsc::Sender<Chunk>,
    buffer: BytesMut,
}

impl Write for Out {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = data.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&data[..count]);
        if self.buffer.len() == CHUNK {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = self.buffer.split().freeze();
        self.to.blocking_send(Ok(chunk)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use futures_util::TryStreamExt as _;

    use super::*;
    use crate::node::archive::Extent;

    fn member(path: &str, kind: Kind) -> Member {
        Member {
            path: path.into(),
            kind,
            uid: 7,
            gid: 8,
            owner: "etcd".into(),
            group: String::new(),
            mode: 0o640,
            modified: 1_700_000_000_123_456_789,
            xattrs: BTreeMap::from([("user.a".to_owned(), vec![0, 1, 2])]),
        }
    }

    /// Members of `/var/lib/etcd`: what lies below `member` alone is wanted.
    fn members(root: &str) -> Vec<(Member, Vec<u8>)> {
        let at = |name: &str| match name {
            "" => root.to_owned(),
            name if root.is_empty() => name.to_owned(),
            name => format!("{root}/{name}"),
        };
        let whole =
            |size: u64| Kind::File { size, extents: vec![Extent { offset: 0, length: size }] };
        let big: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        let mut sparse = vec![0; 400_000];
        sparse[4096..8192].fill(5);
        sparse[300_000..300_100].fill(6);
        let extents = [(4096, 4096), (300_000, 100)];
        let extents = extents.map(|(offset, length)| Extent { offset, length }).to_vec();
        vec![
            (member(&at(""), Kind::Directory), vec![]),
            (member(&at("snap"), Kind::Directory), vec![]),
            (member(&at("snap/db"), whole(big.len() as u64)), big),
            (member(&at("snap/db2"), Kind::HardLink(at("snap/db").into())), vec![]),
            (member(&at("wal"), Kind::Directory), vec![]),
            (member(&at("wal/0.wal"), Kind::File { size: 400_000, extents }), sparse),
            (member(&at("wal/empty"), Kind::File { size: 0, extents: vec![] }), vec![]),
            (member(&at("wal/link"), Kind::Symlink("0.wal".into())), vec![]),
        ]
    }

    fn tar(members: &[(Member, Vec<u8>)]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        for (member, content) in members {
            match member.kind {
                Kind::File { .. } => drop(writer.append_file(member, &&content[..]).unwrap()),
                _ => writer.append(member).unwrap(),
            }
        }
        writer.finish(&["a note".to_owned()]).unwrap()
    }

    fn stored() -> Vec<u8> {
        let mut all = vec![(member("var/lib/etcd", Kind::Directory), vec![])];
        all.extend(members("var/lib/etcd/member.before-x"));
        all.extend(members("var/lib/etcd/member"));
        all.extend(members("var/lib/etcd/member2"));
        tar(&all)
    }

    fn chunks(tar: &[u8], last: Option<NodeError>) -> ByteStream {
        let parts = tar.chunks(10_007).map(|part| Ok(Bytes::copy_from_slice(part)));
        let parts: Vec<Chunk> = parts.chain(last.map(Err)).collect();
        futures_util::stream::iter(parts).boxed()
    }

    async fn filtered(tar: ByteStream, root: &str) -> Result<Vec<u8>, NodeError> {
        let node = NodeName::new("n1").unwrap();
        let parts: Vec<Bytes> = below(tar, &node, Path::new(root)).try_collect().await?;
        Ok(parts.concat())
    }

    #[tokio::test]
    async fn what_lies_below_comes_whole_and_nothing_else() {
        let tar = stored();
        let found = filtered(chunks(&tar, None), "/var/lib/etcd/member").await.unwrap();
        let mut reader = Reader::new(&found[..]);
        for (wanted, content) in members("") {
            let found = reader.next_member().unwrap().unwrap();
            assert_eq!(found, wanted);
            if let Kind::File { size, .. } = found.kind {
                assert_eq!(reader.read_whole(size, 4 << 20).unwrap().unwrap(), content);
            }
        }
        assert_eq!(reader.next_member().unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_missing_cut_or_fails_at_its_end_is_an_error() {
        let tar = stored();
        let missing = filtered(chunks(&tar, None), "/var/lib/other").await.unwrap_err();
        assert!(missing.why.contains("does not hold it"), "{missing}");
        for at in [0, 512, tar.len() / 2, tar.len() - 1024] {
            let cut = filtered(chunks(&tar[..at], None), "/var/lib/etcd/member").await;
            cut.expect_err("it was cut");
        }
        let node = NodeName::new("n1").unwrap();
        let bad = || NodeError::new(&node, NodeErrorKind::Unexpected, "read", "other bytes");
        let last = filtered(chunks(&tar, Some(bad())), "/var/lib/etcd/member").await;
        assert_eq!(last.unwrap_err().why, "other bytes");
    }
}
