//! Reading the stream, its bytes taken as hostile.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use tar::{EntryType, GnuExtSparseHeader, Header};

use super::pax::{self, Records};
use super::{ArchiveError, BLOCK, Extent, Kind, MAX_EXTENTS, MAX_PATH, MAX_PAX, Member};

/// Reads members one after another. What was not read of one's content is skipped.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    /// Bytes taken from the stream.
    at: u64,
    /// The rest of the present member's content.
    content: Content,
    notes: Vec<String>,
    ended: bool,
}

/// What is left of a member's content in the stream.
#[derive(Debug, Default)]
struct Content {
    /// Pieces, the next one last.
    extents: Vec<Extent>,
    /// Bytes behind the content up to the next block.
    padding: u64,
}

impl<R: Read> Reader<R> {
    /// Reads the stream `from`.
    pub fn new(from: R) -> Self {
        Self { from, at: 0, content: Content::default(), notes: Vec::new(), ended: false }
    }

    /// The notes that were met, which are all after the last member.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The next member, or `None` behind the last.
    pub fn next_member(&mut self) -> Result<Option<Member>, ArchiveError> {
        if self.ended {
            return Ok(None);
        }
        self.skip_content()?;
        let mut records = Records::default();
        let mut extended = 0;
        loop {
            let block = self.block()?;
            if block.iter().all(|byte| *byte == 0) {
                self.ended = true;
                self.drain()?;
                return Ok(None);
            }
            let header = Header::from_byte_slice(&block);
            if !checksum_holds(header) {
                return Err(self.malformed("a header's checksum is wrong"));
            }
            let size = header.entry_size().map_err(|_| self.malformed("a size that is none"))?;
            let kind = header.entry_type();
            let long = matches!(kind, EntryType::GNULongName | EntryType::GNULongLink);
            if long || matches!(kind, EntryType::XHeader | EntryType::XGlobalHeader) {
                extended += size.saturating_add(BLOCK as u64);
                if size > MAX_PAX || extended > 2 * MAX_PAX {
                    return Err(self.malformed("an extended header is too long"));
                }
                let data = self.whole(size)?;
                self.extended(kind, data, &mut records)?;
                continue;
            }
            return self.member(header, size, records).map(Some);
        }
    }

    /// The next piece of the present member's content: how many bytes were put
    /// into `buf`, and where in the file they belong. `None` behind the last.
    pub fn next_data(&mut self, buf: &mut [u8]) -> Result<Option<(u64, usize)>, ArchiveError> {
        let Some(extent) = self.content.extents.last().copied() else { return Ok(None) };
        let want = usize::try_from(extent.length).unwrap_or(usize::MAX).min(buf.len());
        let count = self.some(&mut buf[..want])?;
        if count == 0 {
            return Err(ArchiveError::Truncated);
        }
        let rest = extent.length - count as u64;
        self.content.extents.pop();
        if rest > 0 {
            let offset = extent.offset + count as u64;
            self.content.extents.push(Extent { offset, length: rest });
        }
        Ok(Some((extent.offset, count)))
    }

    /// The whole content of the present member, a file of `size` bytes, holes as
    /// zeros; `None` when it has more than `limit`.
    pub fn read_whole(&mut self, size: u64, limit: u64) -> Result<Option<Vec<u8>>, ArchiveError> {
        let Some(size) = usize::try_from(size).ok().filter(|size| *size as u64 <= limit) else {
            return Ok(None);
        };
        let mut whole = vec![0; size];
        let mut buffer = vec![0; size.clamp(1, 64 << 10)];
        while let Some((offset, count)) = self.next_data(&mut buffer)? {
            let place = usize::try_from(offset).ok().and_then(|from| whole.get_mut(from..));
            match place.and_then(|place| place.get_mut(..count)) {
                Some(place) => place.copy_from_slice(&buffer[..count]),
                None => return Err(self.malformed("a file's data is beyond its size")),
            }
        }
        Ok(Some(whole))
    }

    fn extended(
        &mut self,
        kind: EntryType,
        mut data: Vec<u8>,
        records: &mut Records,
    ) -> Result<(), ArchiveError> {
        let until_nul = |data: &mut Vec<u8>| {
            let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
            data.truncate(end);
        };
        match kind {
            EntryType::GNULongName => {
                until_nul(&mut data);
                records.path = Some(data);
            }
            EntryType::GNULongLink => {
                until_nul(&mut data);
                records.link = Some(data);
            }
            EntryType::XGlobalHeader => {
                let mut global = Records::default();
                pax::parse(&data, &mut global).map_err(|what| self.malformed(what))?;
                let comments = std::mem::take(&mut global.comments);
                let Records { path, link, size, uid, gid, owner, group, modified, .. } = &global;
                let set = path.is_some() || link.is_some() || size.is_some() || uid.is_some();
                let set = set || gid.is_some() || owner.is_some() || group.is_some();
                let set = set || modified.is_some() || !global.xattrs.is_empty();
                if set || global.sparse.is_sparse() {
                    return Err(self.malformed("a header that is to hold for all members"));
                }
                if self.notes.len() + comments.len() > MAX_EXTENTS {
                    return Err(self.malformed("too many notes"));
                }
                self.notes.extend(comments);
            }
            _ => pax::parse(&data, records).map_err(|what| self.malformed(what))?,
        }
        Ok(())
    }

    fn member(
        &mut self,
        header: &Header,
        size: u64,
        mut records: Records,
    ) -> Result<Member, ArchiveError> {
        let sparse_name = records.sparse.name.take();
        let raw = sparse_name.or_else(|| records.path.take());
        let raw = raw.unwrap_or_else(|| header.path_bytes().into_owned());
        let path = relative(&raw).map_err(|why| refused(&raw, why))?;
        let size = records.size.unwrap_or(size);
        let link = records.link.take();
        let link = link.or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
        let link = || link.filter(|link| !link.is_empty() && !link.contains(&0));

        let kind = match header.entry_type() {
            EntryType::Regular if raw.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => self.file(size, &records)?,
            EntryType::GNUSparse => self.old_sparse(header, size)?,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => {
                let link = link().filter(|link| link.len() <= MAX_PATH);
                let link = link.ok_or_else(|| refused(&raw, "a link that leads nowhere"))?;
                Kind::Symlink(OsString::from_vec(link).into())
            }
            EntryType::Link => {
                let link = link().ok_or_else(|| refused(&raw, "a link that leads nowhere"))?;
                Kind::HardLink(relative(&link).map_err(|why| refused(&link, why))?)
            }
            other => {
                let why = format!("its type {:?} is none of files", char::from(other.as_byte()));
                return Err(refused(&raw, why));
            }
        };
        if !matches!(kind, Kind::File { .. }) && size != 0 {
            return Err(refused(&raw, "it has content and is no file"));
        }
        if path.as_os_str().is_empty() && kind != Kind::Directory {
            return Err(refused(&raw, "the root itself must be a directory"));
        }
        let wrong = |_: io::Error| self.malformed("a number in a header that is none");
        let id = |from: io::Result<u64>| {
            let id = from.map_err(wrong)?;
            u32::try_from(id).map_err(|_| self.malformed("an owner's number that is too large"))
        };
        let name =
            |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        Ok(Member {
            path,
            uid: records.uid.map_or_else(|| id(header.uid()), Ok)?,
            gid: records.gid.map_or_else(|| id(header.gid()), Ok)?,
            owner: records.owner.unwrap_or_else(|| name(header.username_bytes())),
            group: records.group.unwrap_or_else(|| name(header.groupname_bytes())),
            mode: header.mode().map_err(wrong)? & 0o7777,
            modified: match records.modified {
                Some(modified) => modified,
                None => i128::from(header.mtime().map_err(wrong)?) * 1_000_000_000,
            },
            xattrs: records.xattrs,
            kind,
        })
    }

    fn file(&mut self, stored: u64, records: &Records) -> Result<Kind, ArchiveError> {
        let sparse = &records.sparse;
        if !sparse.is_sparse() {
            let whole = Extent { offset: 0, length: stored };
            let extents = if stored == 0 { Vec::new() } else { vec![whole] };
            return self.with_content(stored, stored, stored, extents);
        }
        let size = sparse.real_size.ok_or_else(|| self.malformed("a sparse file without size"))?;
        if !sparse.map_in_data().map_err(|what| self.malformed(what))? {
            let extents = pax::extents(&sparse.numbers).map_err(|what| self.malformed(what))?;
            return self.with_content(size, stored, stored, extents);
        }
        let mut taken = 0;
        let mut lines = Vec::new();
        let mut line: Vec<u8> = Vec::new();
        let mut count: Option<usize> = None;
        while count.is_none_or(|count| lines.len() < count) {
            if taken + BLOCK as u64 > stored {
                return Err(self.malformed("a sparse map is longer than its file"));
            }
            let block = self.block()?;
            taken += BLOCK as u64;
            for byte in block {
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 && count.is_none_or(|count| lines.len() < count) {
                        return Err(self.malformed("a sparse map that is none"));
                    }
                    continue;
                }
                if count.is_some_and(|count| lines.len() >= count) {
                    break;
                }
                let number = pax::decimal(&line).map_err(|what| self.malformed(what))?;
                line.clear();
                if count.is_some() {
                    lines.push(number);
                    continue;
                }
                let pieces = usize::try_from(number).ok().filter(|count| *count <= MAX_EXTENTS);
                let pieces = pieces.ok_or_else(|| self.malformed("a sparse map is too long"))?;
                count = Some(2 * pieces);
            }
            if count.is_some_and(|count| lines.len() >= count) {
                break;
            }
        }
        let extents = pax::extents(&lines).map_err(|what| self.malformed(what))?;
        self.with_content(size, stored, stored - taken, extents)
    }

    /// The format that GNU tar wrote before extended headers; up to four pieces in
    /// the header, more in blocks behind it.
    fn old_sparse(&mut self, header: &Header, stored: u64) -> Result<Kind, ArchiveError> {
        let gnu = header.as_gnu().ok_or_else(|| self.malformed("a sparse file of no GNU tar"))?;
        let wrong = |at: &Self| at.malformed("a number in a sparse map that is none");
        let size = gnu.real_size().map_err(|_| wrong(self))?;
        let mut extents = Vec::new();
        let mut take = |piece: &tar::GnuSparseHeader| -> io::Result<()> {
            if !piece.is_empty() {
                extents.push(Extent { offset: piece.offset()?, length: piece.length()? });
            }
            Ok(())
        };
        for piece in &gnu.sparse {
            take(piece).map_err(|_| wrong(self))?;
        }
        let mut more = gnu.is_extended();
        let mut blocks = 0;
        while more {
            blocks += 1;
            if blocks > MAX_EXTENTS / 21 {
                return Err(self.malformed("a sparse map is too long"));
            }
            let mut next = GnuExtSparseHeader::new();
            next.as_mut_bytes().copy_from_slice(&self.block()?);
            for piece in next.sparse() {
                take(piece).map_err(|_| wrong(self))?;
            }
            more = next.is_extended();
        }
        self.with_content(size, stored, stored, extents)
    }

    /// A file of `size` whose `extents` are the `data` bytes that come next; the
    /// padding follows from what is stored in all.
    fn with_content(
        &mut self,
        size: u64,
        stored: u64,
        data: u64,
        mut extents: Vec<Extent>,
    ) -> Result<Kind, ArchiveError> {
        if i64::try_from(size).is_err() || i64::try_from(stored).is_err() {
            return Err(self.malformed("a file that is too large"));
        }
        let (mut end, mut sum) = (0u64, 0u64);
        for extent in &extents {
            let next = extent.offset.checked_add(extent.length);
            let next = next.filter(|next| extent.offset >= end && *next <= size);
            end = next.ok_or_else(|| self.malformed("a sparse map out of order or bounds"))?;
            sum += extent.length;
        }
        if sum != data {
            return Err(self.malformed("a sparse map that does not fit its data"));
        }
        extents.retain(|extent| extent.length > 0);
        let padding = stored.next_multiple_of(BLOCK as u64) - stored;
        self.content = Content { extents: extents.iter().rev().copied().collect(), padding };
        Ok(Kind::File { size, extents })
    }

    fn skip_content(&mut self) -> Result<(), ArchiveError> {
        let mut buffer = vec![0; 64 << 10];
        while self.next_data(&mut buffer)?.is_some() {}
        let padding = std::mem::take(&mut self.content.padding);
        self.exact(&mut buffer[..padding as usize])
    }

    /// Takes what follows the end marker, which others pad to 10 KiB, so that a
    /// writer is not left with a broken pipe.
    fn drain(&mut self) -> Result<(), ArchiveError> {
        let mut buffer = vec![0; 64 << 10];
        for _ in 0..64 {
            if self.some(&mut buffer)? == 0 {
                break;
            }
        }
        Ok(())
    }

    fn whole(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        let padded = size.next_multiple_of(BLOCK as u64);
        let mut data = vec![0; usize::try_from(padded).map_err(|_| ArchiveError::Truncated)?];
        self.exact(&mut data)?;
        data.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        Ok(data)
    }

    fn block(&mut self) -> Result<[u8; BLOCK], ArchiveError> {
        let mut block = [0; BLOCK];
        self.exact(&mut block)?;
        Ok(block)
    }

    fn exact(&mut self, mut buf: &mut [u8]) -> Result<(), ArchiveError> {
        while !buf.is_empty() {
            match self.some(buf)? {
                0 => return Err(ArchiveError::Truncated),
                count => buf = &mut buf[count..],
            }
        }
        Ok(())
    }

    fn some(&mut self, buf: &mut [u8]) -> Result<usize, ArchiveError> {
        loop {
            match self.from.read(buf) {
                Ok(count) => {
                    self.at += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ArchiveError::Read(error)),
            }
        }
    }

    fn malformed(&self, what: impl Into<String>) -> ArchiveError {
        ArchiveError::Malformed { at: self.at, what: what.into() }
    }
}

fn refused(path: &[u8], why: impl Into<String>) -> ArchiveError {
    let path: String = String::from_utf8_lossy(path).chars().take(200).collect();
    ArchiveError::Refused { path, why: why.into() }
}

/// The name of a member: relative, without `.`, and never upwards.
fn relative(raw: &[u8]) -> Result<PathBuf, &'static str> {
    if raw.is_empty() || raw.contains(&0) {
        return Err("it has no name, or one with a zero byte");
    }
    if raw.len() > MAX_PATH {
        return Err("its name is too long");
    }
    if raw[0] == b'/' {
        return Err("its name is absolute");
    }
    let mut path = PathBuf::new();
    for part in raw.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("its name leads upwards"),
            part if part.len() > 255 => return Err("its name is too long"),
            part => path.push(OsString::from_vec(part.to_vec())),
        }
    }
    Ok(path)
}

fn checksum_holds(header: &Header) -> bool {
    let bytes = header.as_bytes();
    let field = 148..156;
    let byte = |(at, byte): (usize, &u8)| if field.contains(&at) { b' ' } else { *byte };
    let sum: u32 = bytes.iter().enumerate().map(|pair| u32::from(byte(pair))).sum();
    header.cksum().is_ok_and(|stored| stored == sum)
}
