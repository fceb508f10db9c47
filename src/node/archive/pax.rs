//! Extended header records: `<length> <key>=<value>\n`, the value binary.

use std::collections::BTreeMap;

use super::{Extent, MAX_EXTENTS, MAX_XATTR};

/// What the extended header before a member says of it.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) owner: Option<String>,
    pub(super) group: Option<String>,
    pub(super) modified: Option<i128>,
    pub(super) xattrs: BTreeMap<String, Vec<u8>>,
    pub(super) sparse: Sparse,
    pub(super) comments: Vec<String>,
}

/// GNU tar's records of sparse files.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    /// Formats 0.0 and 0.1: offset, length, offset, length …
    pub(super) numbers: Vec<u64>,
}

impl Sparse {
    /// Whether the map stands before the data, as in format 1.0.
    pub(super) fn map_in_data(&self) -> Result<bool, String> {
        match (self.major, self.minor) {
            (None, _) | (Some(0), _) => Ok(false),
            (Some(1), Some(0)) => Ok(true),
            (Some(major), minor) => {
                Err(format!("sparse format {major}.{} is unknown", minor.unwrap_or(0)))
            }
        }
    }

    pub(super) fn is_sparse(&self) -> bool {
        self.major.is_some() || self.real_size.is_some() || !self.numbers.is_empty()
    }
}

/// Pairs of numbers as pieces of data.
pub(super) fn extents(numbers: &[u64]) -> Result<Vec<Extent>, String> {
    if !numbers.len().is_multiple_of(2) {
        return Err("a sparse map of an odd count".to_owned());
    }
    let pairs = numbers.chunks_exact(2);
    Ok(pairs.map(|pair| Extent { offset: pair[0], length: pair[1] }).collect())
}

/// Reads all records of one extended header.
pub(super) fn parse(mut data: &[u8], into: &mut Records) -> Result<(), String> {
    while !data.is_empty() {
        // GNU tar pads nothing here, others with NUL.
        if data.iter().all(|byte| *byte == 0) {
            break;
        }
        let space = data.iter().take(20).position(|byte| *byte == b' ');
        let space = space.ok_or("an extended record without length")?;
        let length: usize = decimal(&data[..space])?
            .try_into()
            .map_err(|_| "an extended record that is too long".to_owned())?;
        if length <= space + 1 || length > data.len() || data[length - 1] != b'\n' {
            return Err("an extended record of a wrong length".to_owned());
        }
        let record = &data[space + 1..length - 1];
        let equals = record.iter().position(|byte| *byte == b'=');
        let equals = equals.ok_or("an extended record without a value")?;
        take(&record[..equals], &record[equals + 1..], into)?;
        data = &data[length..];
    }
    Ok(())
}

fn take(key: &[u8], value: &[u8], into: &mut Records) -> Result<(), String> {
    let key = std::str::from_utf8(key).map_err(|_| "an extended record's key is no text")?;
    match key {
        "path" => into.path = Some(value.to_vec()),
        "linkpath" => into.link = Some(value.to_vec()),
        "size" => into.size = Some(decimal(value)?),
        "uid" => into.uid = Some(id(value)?),
        "gid" => into.gid = Some(id(value)?),
        "uname" => into.owner = Some(text(value)),
        "gname" => into.group = Some(text(value)),
        "mtime" => into.modified = Some(time(value)?),
        "comment" => into.comments.push(text(value)),
        "GNU.sparse.major" => into.sparse.major = Some(decimal(value)?),
        "GNU.sparse.minor" => into.sparse.minor = Some(decimal(value)?),
        "GNU.sparse.name" => into.sparse.name = Some(value.to_vec()),
        "GNU.sparse.realsize" | "GNU.sparse.size" => {
            into.sparse.real_size = Some(decimal(value)?);
        }
        "GNU.sparse.offset" | "GNU.sparse.numbytes" => number(value, into)?,
        "GNU.sparse.map" => {
            into.sparse.numbers.clear();
            for part in value.split(|byte| *byte == b',').filter(|part| !part.is_empty()) {
                number(part, into)?;
            }
        }
        // Its own label record; without SELinux GNU tar stores none.
        "RHT.security.selinux" => {
            let mut label = value.to_vec();
            label.push(0);
            attribute("security.selinux", label, into)?;
        }
        key => {
            if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                attribute(&unescape(name), value.to_vec(), into)?;
            }
        }
    }
    Ok(())
}

fn number(value: &[u8], into: &mut Records) -> Result<(), String> {
    if into.sparse.numbers.len() >= 2 * MAX_EXTENTS {
        return Err("a sparse map that is too long".to_owned());
    }
    into.sparse.numbers.push(decimal(value)?);
    Ok(())
}

fn attribute(name: &str, value: Vec<u8>, into: &mut Records) -> Result<(), String> {
    if name.is_empty() || name.len() > 255 || name.contains('\0') || value.len() > MAX_XATTR {
        return Err("an extended attribute that is too long or has no name".to_owned());
    }
    into.xattrs.insert(name.to_owned(), value);
    Ok(())
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

fn id(value: &[u8]) -> Result<u32, String> {
    u32::try_from(decimal(value)?).map_err(|_| "an owner's number that is too large".to_owned())
}

/// A decimal number, nothing else around it.
pub(super) fn decimal(value: &[u8]) -> Result<u64, String> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(value).ok().filter(|_| digits);
    number.and_then(|text| text.parse().ok()).ok_or_else(|| "a number that is none".to_owned())
}

/// Seconds with a fraction, as nanoseconds.
fn time(value: &[u8]) -> Result<i128, String> {
    let wrong = || "a time that is none".to_owned();
    let text = std::str::from_utf8(value).map_err(|_| wrong())?;
    let (sign, text) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds = i128::from(decimal(whole.as_bytes())?);
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let fraction: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: i128 = fraction.parse().map_err(|_| wrong())?;
    Ok(sign * (seconds * 1_000_000_000 + nanos))
}

/// The text of a time that [`parse`] reads back.
pub(super) fn time_text(nanos: i128) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let size = nanos.unsigned_abs();
    format!("{sign}{}.{:09}", size / 1_000_000_000, size % 1_000_000_000)
}

/// Appends one record.
pub(super) fn push(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    // The length counts its own digits.
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(format!("{length} {key}=").as_bytes());
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// An attribute's name as GNU tar writes it in a key, where `=` ends the key.
pub(super) fn escape(name: &str) -> String {
    name.replace('%', "%25").replace('=', "%3D")
}

fn unescape(name: &str) -> String {
    name.replace("%3D", "=").replace("%25", "%")
}
