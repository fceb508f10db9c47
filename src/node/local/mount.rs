//! What is mounted, from `/proc/self/mountinfo` (proc(5)).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use super::super::Mount;
use super::fault::Fault;

/// All mounts, as the kernel lists them; a later one hides an earlier one of the
/// same point.
pub(super) fn mounts() -> Result<Vec<Mount>, Fault> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// Where something is mounted; none where that cannot be known.
pub(super) fn points() -> BTreeSet<PathBuf> {
    mounts().unwrap_or_default().into_iter().map(|mount| mount.point).collect()
}

/// `36 35 98:0 /root /point ro,noatime shared:1 - ext4 /dev/root rw`: any number
/// of optional fields before the hyphen. Lines that are none are passed over.
fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

fn line(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let hyphen = 6 + fields.get(6..)?.iter().position(|field| *field == b"-")?;
    let text = |at: usize| {
        fields.get(at).map(|field| String::from_utf8_lossy(&unescape(field)).into_owned())
    };
    let is_ro = |options: String| options.split(',').any(|option| option == "ro");
    Some(Mount {
        point: OsString::from_vec(unescape(fields.get(4)?)).into(),
        fs_type: text(hyphen + 1)?,
        source: text(hyphen + 2)?,
        read_only: is_ro(text(5)?) || text(hyphen + 3).is_some_and(is_ro),
    })
}

/// Space, tab, newline and backslash are written as `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind.get(..3).filter(|_| *first == b'\\');
        let digits = digits.filter(|digits| digits.iter().all(|byte| (b'0'..b'8').contains(byte)));
        let value =
            digits.map(|digits| digits.iter().fold(0, |sum, d| sum * 8 + u32::from(d - b'0')));
        match value.and_then(|value| u8::try_from(value).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &behind[3..];
            }
            None => {
                out.push(*first);
                rest = behind;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_optional_fields_and_read_only_are_understood() {
        let text = br"22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
36 22 0:31 / /mnt/a\040b\011c\134d ro,nosuid shared:1 master:2 - tmpfs tmp\040fs rw,size=1k
37 22 0:32 / /ro rw - xfs /dev/vdb ro,attr2
broken line
38 22 0:33 / /short rw -
";
        let found = parse(text);
        let row = |mount: &Mount| {
            let point = mount.point.to_str().unwrap().to_owned();
            (point, mount.fs_type.clone(), mount.source.clone(), mount.read_only)
        };
        let expected = [
            ("/", "ext4", "/dev/vda", false),
            ("/mnt/a b\tc\\d", "tmpfs", "tmp fs", true),
            ("/ro", "xfs", "/dev/vdb", true),
        ];
        let expected = expected.map(|(p, t, s, r)| (p.to_owned(), t.to_owned(), s.to_owned(), r));
        assert_eq!(found.iter().map(row).collect::<Vec<_>>(), expected);
        assert_eq!(unescape(br"\400\04x\"), br"\400\04x\");
    }

    #[test]
    fn this_machine_has_a_root_and_proc() {
        let points = points();
        assert!(points.contains(std::path::Path::new("/")), "{points:?}");
        assert!(points.contains(std::path::Path::new("/proc")), "{points:?}");
    }
}
