//! The fields of a tar header and of pax records.

use std::collections::BTreeMap;

use super::{MAX_NOTE, MAX_PATH};

/// Bytes of a block: headers are one, content is padded to whole ones.
pub(super) const BLOCK: usize = 512;

type Fault = &'static str;

/// A header block, its checksum verified.
#[derive(Debug, Clone)]
pub(super) struct Header(pub(super) [u8; BLOCK]);

impl Header {
    /// Checks the checksum and that it is a POSIX or GNU header.
    pub(super) fn parse(block: [u8; BLOCK]) -> Result<Self, Fault> {
        let sum = block.iter().enumerate().fold(0u64, |sum, (at, &byte)| {
            sum + u64::from(if (148..156).contains(&at) { b' ' } else { byte })
        });
        if octal(&block[148..156])? != sum {
            return Err("a header's checksum is wrong");
        }
        match &block[257..265] {
            b"ustar\x0000" | b"ustar  \x00" => Ok(Self(block)),
            _ => Err("a header is neither POSIX nor GNU"),
        }
    }

    fn is_gnu(&self) -> bool {
        self.0[262] == b' '
    }

    pub(super) fn kind(&self) -> u8 {
        self.0[156]
    }

    pub(super) fn size(&self) -> Result<u64, Fault> {
        number(&self.0[124..136])
    }

    pub(super) fn mode(&self) -> Result<u32, Fault> {
        Ok((number(&self.0[100..108])? & 0o7777) as u32)
    }

    pub(super) fn uid(&self) -> Result<u64, Fault> {
        number(&self.0[108..116])
    }

    pub(super) fn gid(&self) -> Result<u64, Fault> {
        number(&self.0[116..124])
    }

    /// Seconds since 1970.
    pub(super) fn modified(&self) -> Result<i64, Fault> {
        let field = &self.0[136..148];
        if field[0] == 0xff {
            // A negative number in base 256.
            let tail = <[u8; 8]>::try_from(&field[4..]).map_err(|_| "a time is malformed")?;
            let plain = field[..4].iter().all(|&byte| byte == 0xff) && tail[0] & 0x80 != 0;
            return if plain { Ok(i64::from_be_bytes(tail)) } else { Err("a time is malformed") };
        }
        i64::try_from(number(field)?).map_err(|_| "a time is malformed")
    }

    /// The path: with the prefix in front where the header is POSIX's.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let prefix = text(&self.0[345..500]);
        if self.is_gnu() || prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    pub(super) fn target(&self) -> &[u8] {
        text(&self.0[157..257])
    }

    pub(super) fn owner(&self) -> &[u8] {
        text(&self.0[265..297])
    }

    pub(super) fn group(&self) -> &[u8] {
        text(&self.0[297..329])
    }
}

/// A field up to its first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or(field)
}

/// A number in octal digits or, with the top bit set, in base 256.
pub(super) fn number(field: &[u8]) -> Result<u64, Fault> {
    match field {
        [0x80, rest @ ..] => {
            let (high, low) = rest.split_at(rest.len().saturating_sub(8));
            if high.iter().any(|&byte| byte != 0) {
                return Err("a number is too large");
            }
            Ok(low.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
        }
        _ => octal(field),
    }
}

fn octal(field: &[u8]) -> Result<u64, Fault> {
    let digits = field.trim_ascii_start();
    let end = digits.iter().position(|b| matches!(b, 0 | b' ')).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if rest.iter().any(|b| !matches!(b, 0 | b' ')) || digits.len() > 21 {
        return Err("a number is malformed");
    }
    // An empty field is zero.
    digits.iter().try_fold(0u64, |number, &digit| match digit {
        b'0'..=b'7' => number
            .checked_mul(8)
            .and_then(|number| number.checked_add(u64::from(digit - b'0')))
            .ok_or("a number is too large"),
        _ => Err("a number is malformed"),
    })
}

/// What an extended header says of the entry that follows.
#[derive(Debug, Clone, Default)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) target: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) owner: Option<Vec<u8>>,
    pub(super) group: Option<Vec<u8>>,
    pub(super) modified: Option<i128>,
    pub(super) xattrs: BTreeMap<String, Vec<u8>>,
    /// Whatever the writer wanted to say.
    pub(super) comments: Vec<Vec<u8>>,
    /// GNU's: `1` and `0` for the map before the content.
    pub(super) sparse_major: Option<u64>,
    pub(super) sparse_minor: Option<u64>,
    pub(super) sparse_path: Option<Vec<u8>>,
    pub(super) sparse_size: Option<u64>,
    pub(super) sparse_map: Option<Vec<u8>>,
}

/// The most attributes of one file.
const MAX_XATTRS: usize = 256;

impl Extended {
    /// Takes the records of a pax header in.
    pub(super) fn read(&mut self, mut records: &[u8]) -> Result<(), Fault> {
        const BAD: Fault = "an extended header is malformed";
        while !records.is_empty() {
            let digits = records.iter().position(|&b| b == b' ').filter(|&n| n <= 7).ok_or(BAD)?;
            let length = usize::try_from(decimal(&records[..digits])?).map_err(|_| BAD)?;
            if length <= digits + 1 || length > records.len() {
                return Err(BAD);
            }
            let (record, rest) = records.split_at(length);
            let record = record[digits + 1..].strip_suffix(b"\n").ok_or(BAD)?;
            let equals = record.iter().position(|&b| b == b'=').ok_or(BAD)?;
            self.take(&record[..equals], &record[equals + 1..])?;
            records = rest;
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        let long = || if value.len() > MAX_PATH { Err("a path is too long") } else { Ok(value) };
        match key {
            b"path" => self.path = Some(long()?.to_vec()),
            b"linkpath" => self.target = Some(long()?.to_vec()),
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(decimal(value)?),
            b"gid" => self.gid = Some(decimal(value)?),
            b"uname" => self.owner = Some(long()?.to_vec()),
            b"gname" => self.group = Some(long()?.to_vec()),
            b"mtime" => self.modified = Some(time(value)?),
            b"GNU.sparse.major" => self.sparse_major = Some(decimal(value)?),
            b"GNU.sparse.minor" => self.sparse_minor = Some(decimal(value)?),
            b"GNU.sparse.name" => self.sparse_path = Some(long()?.to_vec()),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse_size = Some(decimal(value)?),
            b"GNU.sparse.map" => self.sparse_map = Some(value.to_vec()),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                return Err("a sparse file is stored in GNU's format 0.0, which is not read");
            }
            b"RHT.security.selinux" => self.xattr("security.selinux", value)?,
            b"comment" if value.len() > MAX_NOTE => return Err("a note is too long"),
            b"comment" => self.comments.push(value.to_vec()),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    let name = std::str::from_utf8(name)
                        .map_err(|_| "the name of an extended attribute is no text")?;
                    self.xattr(name, value)?;
                }
            }
        }
        Ok(())
    }

    fn xattr(&mut self, name: &str, value: &[u8]) -> Result<(), Fault> {
        // bsdtar and GNU tar end the label with a NUL, the kernel may do so too.
        self.xattrs.insert(name.to_owned(), value.to_vec());
        if self.xattrs.len() > MAX_XATTRS {
            return Err("a file has too many extended attributes");
        }
        Ok(())
    }
}

pub(super) fn decimal(digits: &[u8]) -> Result<u64, Fault> {
    const BAD: Fault = "a number is malformed";
    if digits.is_empty() || digits.len() > 20 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(BAD);
    }
    std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or(BAD)
}

/// `-1.25` seconds as nanoseconds.
fn time(text: &[u8]) -> Result<i128, Fault> {
    let (sign, text) = match text.strip_prefix(b"-") {
        Some(rest) => (-1, rest),
        None => (1, text),
    };
    let point = text.iter().position(|&b| b == b'.').unwrap_or(text.len());
    let seconds = i128::from(decimal(&text[..point])?);
    let fraction = text.get(point + 1..).unwrap_or_default();
    if fraction.len() > 30 || !fraction.iter().all(u8::is_ascii_digit) {
        return Err("a time is malformed");
    }
    let nanos = (0..9).fold(0i128, |nanos, at| {
        nanos * 10 + i128::from(fraction.get(at).map_or(0, |digit| digit - b'0'))
    });
    Ok(sign * (seconds * 1_000_000_000 + nanos))
}
