//! Writing the stream.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use tar::{EntryType, Header};

use super::{BLOCK, Extent, Kind, MAX_EXTENTS, Member, pax};

/// Bytes that can be had at any offset, such as a file's.
pub trait ReadAt {
    /// Reads up to `buf.len()` bytes at `offset`; 0 only at the end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
}

impl ReadAt for std::fs::File {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match std::os::unix::fs::FileExt::read_at(self, buf, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

impl ReadAt for &[u8] {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        let count = buf.len().min(self.len() - from);
        buf[..count].copy_from_slice(&self[from..from + count]);
        Ok(count)
    }
}

/// How a file's content went into the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Whole.
    Whole,
    /// It became shorter while it was read: the missing bytes are zeros.
    Padded(u64),
}

/// Writes members in the order in which they are given.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// A stream that goes to `out`.
    pub fn new(out: W) -> Self {
        Self { out, buffer: vec![0; 256 << 10] }
    }

    /// Appends a member that is no regular file. One that is, is
    /// [`io::ErrorKind::InvalidInput`].
    pub fn append(&mut self, member: &Member) -> io::Result<()> {
        match &member.kind {
            Kind::File { .. } => Err(io::Error::new(io::ErrorKind::InvalidInput, "a file")),
            Kind::Directory => self.header(member, EntryType::Directory, 0, None, None),
            Kind::Symlink(to) => self.header(member, EntryType::Symlink, 0, Some(to), None),
            Kind::HardLink(to) => self.header(member, EntryType::Link, 0, Some(to), None),
        }
    }

    /// Appends a regular file with the content that `source` has. What it has
    /// beyond the size that `member` says is left out.
    pub fn append_file(&mut self, member: &Member, source: &dyn ReadAt) -> io::Result<Outcome> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
        let Kind::File { size, extents } = &member.kind else { return Err(invalid("no file")) };
        let whole = [Extent { offset: 0, length: *size }];
        let sparse = *extents != whole && !(extents.is_empty() && *size == 0);
        if !sparse || extents.len() >= MAX_EXTENTS {
            self.header(member, EntryType::Regular, *size, None, None)?;
            return self.content(&whole, source);
        }
        // A hole at the end shows as an empty piece there.
        let end = extents.last().map_or(0, |last| last.offset + last.length);
        let tail = (end < *size).then_some(Extent { offset: *size, length: 0 });
        let pieces: Vec<Extent> = extents.iter().copied().chain(tail).collect();
        let mut map = format!("{}\n", pieces.len());
        for piece in &pieces {
            map.push_str(&format!("{}\n{}\n", piece.offset, piece.length));
        }
        let mut map = map.into_bytes();
        map.resize(map.len().next_multiple_of(BLOCK), 0);
        let data: u64 = extents.iter().map(|piece| piece.length).sum();
        let stored = map.len() as u64 + data;
        self.header(member, EntryType::Regular, stored, None, Some(*size))?;
        self.out.write_all(&map)?;
        self.content(extents, source)
    }

    /// Ends the stream, with notes for whoever reads it.
    pub fn finish(mut self, notes: &[String]) -> io::Result<W> {
        for note in notes {
            let mut records = Vec::new();
            pax::push(&mut records, "comment", note.as_bytes());
            self.extended(b"GlobalHead", EntryType::XGlobalHeader, &records)?;
        }
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn content(&mut self, extents: &[Extent], source: &dyn ReadAt) -> io::Result<Outcome> {
        let (mut missing, mut written) = (0, 0);
        for extent in extents {
            let (mut offset, end) = (extent.offset, extent.offset + extent.length);
            while offset < end {
                let want = usize::try_from(end - offset).unwrap_or(usize::MAX);
                let want = want.min(self.buffer.len());
                let mut count = source.read_at(offset, &mut self.buffer[..want])?;
                if count == 0 {
                    self.buffer[..want].fill(0);
                    missing += want as u64;
                    count = want;
                }
                self.out.write_all(&self.buffer[..count])?;
                offset += count as u64;
                written += count as u64;
            }
        }
        self.pad(written)?;
        Ok(if missing == 0 { Outcome::Whole } else { Outcome::Padded(missing) })
    }

    fn pad(&mut self, written: u64) -> io::Result<()> {
        let over = (written % BLOCK as u64) as usize;
        if over > 0 { self.out.write_all(&[0; BLOCK][over..]) } else { Ok(()) }
    }

    fn header(
        &mut self,
        member: &Member,
        kind: EntryType,
        stored: u64,
        link: Option<&Path>,
        real_size: Option<u64>,
    ) -> io::Result<()> {
        let mut name = member.path.as_os_str().as_bytes().to_vec();
        if name.is_empty() {
            name.push(b'.');
        }
        if kind == EntryType::Directory {
            name.push(b'/');
        }
        let mut records = Vec::new();
        let base = member.path.file_name().unwrap_or(OsStr::new(".")).as_bytes();
        let mut header = Header::new_ustar();
        if let Some(real_size) = real_size {
            pax::push(&mut records, "GNU.sparse.major", b"1");
            pax::push(&mut records, "GNU.sparse.minor", b"0");
            pax::push(&mut records, "GNU.sparse.name", &name);
            pax::push(&mut records, "GNU.sparse.realsize", real_size.to_string().as_bytes());
            // What a program without that format would unpack it as.
            name = [b"GNUSparseFile.0/", base].concat();
        }
        if !field(&mut header.as_old_mut().name, &name) {
            if real_size.is_none() {
                pax::push(&mut records, "path", &name);
            }
            if std::str::from_utf8(&name).is_err() {
                pax::push(&mut records, "hdrcharset", b"BINARY");
            }
        }
        if let Some(link) = link {
            let link = link.as_os_str().as_bytes();
            if !field(&mut header.as_old_mut().linkname, link) {
                pax::push(&mut records, "linkpath", link);
            }
        }
        header.set_entry_type(kind);
        header.set_mode(member.mode & 0o7777);
        header.set_size(stored);
        if stored >= 1 << 33 {
            pax::push(&mut records, "size", stored.to_string().as_bytes());
        }
        for (key, id) in [("uid", member.uid), ("gid", member.gid)] {
            if id >= 1 << 21 {
                pax::push(&mut records, key, id.to_string().as_bytes());
            }
        }
        header.set_uid(u64::from(member.uid));
        header.set_gid(u64::from(member.gid));
        if let Some(ustar) = header.as_ustar_mut() {
            if !field(&mut ustar.uname[..31], member.owner.as_bytes()) {
                pax::push(&mut records, "uname", member.owner.as_bytes());
            }
            if !field(&mut ustar.gname[..31], member.group.as_bytes()) {
                pax::push(&mut records, "gname", member.group.as_bytes());
            }
        }
        let seconds = member.modified.div_euclid(1_000_000_000);
        let small = u64::try_from(seconds).ok().filter(|seconds| *seconds < 1 << 33);
        header.set_mtime(small.unwrap_or(0));
        if small.is_none() || member.modified.rem_euclid(1_000_000_000) != 0 {
            pax::push(&mut records, "mtime", pax::time_text(member.modified).as_bytes());
        }
        for (name, value) in &member.xattrs {
            pax::push(&mut records, &format!("SCHILY.xattr.{}", pax::escape(name)), value);
        }
        if !records.is_empty() {
            self.extended(base, EntryType::XHeader, &records)?;
        }
        header.set_cksum();
        self.out.write_all(header.as_bytes())
    }

    fn extended(&mut self, base: &[u8], kind: EntryType, records: &[u8]) -> io::Result<()> {
        let mut header = Header::new_ustar();
        field(&mut header.as_old_mut().name, &[b"PaxHeaders/", base].concat());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(records.len() as u64);
        header.set_cksum();
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(records)?;
        self.pad(records.len() as u64)
    }
}

/// Puts `value` into a field of the header; whether it fits there as it is.
fn field(field: &mut [u8], value: &[u8]) -> bool {
    let count = value.len().min(field.len());
    field[..count].copy_from_slice(&value[..count]);
    count == value.len() && value.is_ascii()
}
