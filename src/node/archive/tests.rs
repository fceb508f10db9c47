//! What is written is read back; what is hostile is refused, never taken.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use proptest::prelude::*;

use super::*;

fn member(path: &str, kind: Kind) -> Member {
    Member {
        path: path.into(),
        kind,
        uid: 1,
        gid: 2,
        owner: "daemon".to_owned(),
        group: "bin".to_owned(),
        mode: 0o640,
        modified: 1_700_000_000_123_456_789,
        xattrs: BTreeMap::new(),
    }
}

fn read_all(bytes: &[u8]) -> Result<Vec<(Member, Vec<u8>)>, ArchiveError> {
    let mut reader = Reader::new(bytes);
    let mut all = Vec::new();
    while let Some(member) = reader.next_member()? {
        let content = match &member.kind {
            Kind::File { size, .. } => reader.read_whole(*size, 1 << 20)?.unwrap_or_default(),
            _ => Vec::new(),
        };
        all.push((member, content));
    }
    Ok(all)
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("no name has these", |b| *b != 0 && *b != b'/');
    let part = proptest::collection::vec(byte, 1..120);
    let part = part.prop_filter("these are no names", |part| part != b"." && part != b"..");
    proptest::collection::vec(part, 1..4).prop_map(|parts| parts.join(&b'/'))
}

fn a_path(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}

/// Content of up to some blocks and where its data is.
fn content() -> impl Strategy<Value = (Vec<u8>, Vec<Extent>)> {
    let piece = (0u64..3000, 1u64..3000);
    (proptest::collection::vec(piece, 0..6), 0u64..3000, any::<u8>()).prop_map(
        |(pieces, tail, seed)| {
            let (mut at, mut extents) = (0, Vec::new());
            for (hole, length) in pieces {
                at += hole;
                extents.push(Extent { offset: at, length });
                at += length;
            }
            let mut bytes = vec![0; (at + tail) as usize];
            for extent in &extents {
                let range = extent.offset as usize..(extent.offset + extent.length) as usize;
                for (at, byte) in bytes[range].iter_mut().enumerate() {
                    *byte = seed.wrapping_add(at as u8);
                }
            }
            (bytes, extents)
        },
    )
}

fn any_kind() -> impl Strategy<Value = (Kind, Vec<u8>)> {
    prop_oneof![
        3 => content().prop_map(|(bytes, extents)| {
            (Kind::File { size: bytes.len() as u64, extents }, bytes)
        }),
        1 => Just((Kind::Directory, Vec::new())),
        1 => name().prop_map(|to| (Kind::Symlink(a_path(to)), Vec::new())),
        1 => name().prop_map(|to| (Kind::HardLink(a_path(to)), Vec::new())),
    ]
}

fn any_member() -> impl Strategy<Value = (Member, Vec<u8>)> {
    let xattrs = proptest::collection::btree_map(
        "[a-z]{1,8}\\.[ -~]{1,40}",
        proptest::collection::vec(any::<u8>(), 0..200),
        0..3,
    );
    let times = -4_000_000_000_000_000_000i128..16_000_000_000_000_000_000_000;
    let names = ("[a-zü]{0,40}", "[a-z]{0,40}");
    (name(), any_kind(), any::<(u32, u32)>(), names, 0u32..0o10000, times, xattrs).prop_map(
        |(path, (kind, content), (uid, gid), (owner, group), mode, modified, xattrs)| {
            let path = a_path(path);
            (Member { path, kind, uid, gid, owner, group, mode, modified, xattrs }, content)
        },
    )
}

fn pack(members: &[(Member, Vec<u8>)], notes: &[String]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (member, content) in members {
        match member.kind {
            Kind::File { .. } => {
                let outcome = writer.append_file(member, &content.as_slice()).unwrap();
                assert_eq!(outcome, Outcome::Whole);
            }
            _ => writer.append(member).unwrap(),
        }
    }
    writer.finish(notes).unwrap()
}

/// Adjacent pieces may be one, as nothing tells them apart.
fn joined(mut member: Member) -> Member {
    if let Kind::File { size, extents } = &mut member.kind {
        let mut out: Vec<Extent> = Vec::new();
        for extent in extents.drain(..) {
            match out.last_mut().filter(|last| last.offset + last.length == extent.offset) {
                Some(last) => last.length += extent.length,
                None => out.push(extent),
            }
        }
        *extents = out;
        assert!(extents.iter().all(|extent| extent.offset + extent.length <= *size));
    }
    member
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn members_come_back_as_they_were(
        members in proptest::collection::vec(any_member(), 0..5),
        notes in proptest::collection::vec("[ -~\\n]{0,50}", 0..3),
    ) {
        let bytes = pack(&members, &notes);
        prop_assert_eq!(bytes.len() % BLOCK, 0);
        let mut reader = Reader::new(bytes.as_slice());
        for (member, content) in &members {
            let found = reader.next_member().unwrap().unwrap();
            if let Kind::File { size, .. } = found.kind {
                prop_assert_eq!(&reader.read_whole(size, 1 << 20).unwrap().unwrap(), content);
            }
            prop_assert_eq!(joined(found), joined(member.clone()));
        }
        prop_assert_eq!(reader.next_member().unwrap(), None);
        prop_assert_eq!(reader.notes(), &notes[..]);
    }

    #[test]
    fn a_cut_stream_is_never_whole(
        members in proptest::collection::vec(any_member(), 1..3),
        at in any::<prop::sample::Index>(),
    ) {
        let bytes = pack(&members, &[]);
        // Of the two blocks at the end one is enough.
        let cut = at.index(bytes.len() - 2 * BLOCK + 1);
        prop_assert!(matches!(read_all(&bytes[..cut]), Err(ArchiveError::Truncated)), "{}", cut);
    }

    #[test]
    fn damage_never_panics_and_never_leads_outside(
        members in proptest::collection::vec(any_member(), 1..3),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4),
    ) {
        let mut bytes = pack(&members, &[]);
        for (at, flip) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        for (member, _) in read_all(&bytes).unwrap_or_default() {
            prop_assert!(member.path.is_relative());
            let plain = |part| matches!(part, std::path::Component::Normal(_));
            prop_assert!(member.path.components().all(plain));
        }
    }

    #[test]
    fn junk_is_refused(bytes in proptest::collection::vec(1u8.., 512..2048)) {
        prop_assert!(read_all(&bytes).is_err());
    }
}

#[test]
fn holes_are_not_in_the_stream() {
    let extents = vec![Extent { offset: 1 << 30, length: 5 }];
    let sparse = member("s", Kind::File { size: 1 << 40, extents });
    struct Five;
    impl ReadAt for Five {
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
            assert!((1 << 30..(1 << 30) + 5).contains(&offset));
            buf.fill(b'x');
            Ok(buf.len())
        }
    }
    let mut writer = Writer::new(Vec::new());
    writer.append_file(&sparse, &Five).unwrap();
    let bytes = writer.finish(&[]).unwrap();
    assert!(bytes.len() < 8 * BLOCK, "{}", bytes.len());
    let mut reader = Reader::new(bytes.as_slice());
    assert_eq!(reader.next_member().unwrap(), Some(sparse));
    let mut buffer = [0; 100];
    assert_eq!(reader.next_data(&mut buffer).unwrap(), Some((1 << 30, 5)));
    assert_eq!(&buffer[..5], b"xxxxx");
    assert_eq!(reader.next_data(&mut buffer).unwrap(), None);
}

#[test]
fn a_file_that_became_shorter_keeps_the_stream_whole() {
    let short =
        member("a", Kind::File { size: 700, extents: vec![Extent { offset: 0, length: 700 }] });
    let mut writer = Writer::new(Vec::new());
    let outcome = writer.append_file(&short, &&[7u8; 600][..]).unwrap();
    assert_eq!(outcome, Outcome::Padded(100));
    writer.append(&member("b", Kind::Directory)).unwrap();
    let all = read_all(&writer.finish(&["note".to_owned()]).unwrap()).unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(all[0].1, [vec![7; 600], vec![0; 100]].concat());
}

/// One header with `change` made to it, its checksum right.
fn header(change: impl FnOnce(&mut tar::Header)) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[0] = b'f';
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Regular);
    change(&mut header);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn extended(records: &[u8]) -> Vec<u8> {
    let mut bytes = header(|header| {
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_size(records.len() as u64);
    });
    bytes.extend_from_slice(records);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn with_end(parts: &[Vec<u8>]) -> Vec<u8> {
    [parts.concat(), vec![0; 2 * BLOCK]].concat()
}

fn record(key: &str, value: &str) -> Vec<u8> {
    let mut out = Vec::new();
    pax::push(&mut out, key, value.as_bytes());
    out
}

#[test]
fn sizes_beyond_bounds_are_refused_before_they_are_used() {
    let huge = |kind: tar::EntryType| {
        header(|header| {
            header.set_entry_type(kind);
            header.set_size(1 << 62);
        })
    };
    let sparse = |records: &[Vec<u8>]| [extended(&records.concat()), header(|_| ())].concat();
    let map = |size: &str, map: &str| {
        sparse(&[record("GNU.sparse.size", size), record("GNU.sparse.map", map)])
    };
    let one = |map: &[u8]| {
        let records = [
            record("GNU.sparse.major", "1"),
            record("GNU.sparse.minor", "0"),
            record("GNU.sparse.realsize", "100"),
        ];
        let mut block = map.to_vec();
        block.resize(BLOCK, 0);
        let file = header(|header| header.set_size(BLOCK as u64));
        [extended(&records.concat()), file, block].concat()
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("an extended header", huge(tar::EntryType::XHeader)),
        ("a long name", huge(tar::EntryType::GNULongName)),
        ("a global header", huge(tar::EntryType::XGlobalHeader)),
        (
            "a size beyond all",
            [extended(&record("size", "18446744073709551615")), header(|_| ())].concat(),
        ),
        ("a record longer than all", [extended(b"99999999 path=x\n"), header(|_| ())].concat()),
        (
            "a record without length",
            [extended(b"path=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n"), header(|_| ())].concat(),
        ),
        ("a record of length 0", [extended(b"0 path=x\n"), header(|_| ())].concat()),
        ("an upward path", [extended(&record("path", "a/../b")), header(|_| ())].concat()),
        ("an absolute path", [extended(&record("path", "/etc/x")), header(|_| ())].concat()),
        ("an owner too large", [extended(&record("uid", "4294967296")), header(|_| ())].concat()),
        ("a negative owner", [extended(&record("uid", "-1")), header(|_| ())].concat()),
        (
            "an attribute without name",
            [extended(&record("SCHILY.xattr.", "x")), header(|_| ())].concat(),
        ),
        ("data of a map that is not there", map("100", "0,10")),
        ("a map beyond the size", map("5", "0,10")),
        ("a map that overflows", map("100", "18446744073709551615,10")),
        ("a map of an odd count", map("100", "1")),
        ("a map without size", sparse(&[record("GNU.sparse.map", "0,0")])),
        (
            "an unknown sparse format",
            sparse(&[record("GNU.sparse.major", "2"), record("GNU.sparse.realsize", "1")]),
        ),
        ("a count beyond all", one(b"99999999\n")),
        ("a count that is none", one(b"x\n")),
        ("a map that does not end", one(b"3\n1\n")),
        ("a map out of order", one(b"2\n9\n0\n3\n0\n")),
        ("a line without end", one(&[b'1'; 400])),
        ("a global owner", {
            let mut bytes = extended(&record("uid", "0"));
            bytes[156] = b'g';
            let mut header = *tar::Header::from_byte_slice(&bytes[..BLOCK]).as_bytes();
            let mut fixed = tar::Header::new_gnu();
            fixed.as_mut_bytes().copy_from_slice(&header);
            fixed.set_cksum();
            header.copy_from_slice(fixed.as_bytes());
            [header.to_vec(), bytes[BLOCK..].to_vec(), self::header(|_| ())].concat()
        }),
    ];
    for (what, bytes) in cases {
        let result = read_all(&with_end(&[bytes]));
        let error = result.map(|_| ()).expect_err(what);
        assert!(
            !matches!(error, ArchiveError::Truncated | ArchiveError::Read(_)),
            "{what}: {error:?}"
        );
    }
    // What these are changed from is accepted.
    assert_eq!(read_all(&with_end(&[one(b"1\n100\n0\n")])).unwrap()[0].1, [0; 100]);
    assert_eq!(read_all(&with_end(&[map("3", "0,0")])).unwrap()[0].1, [0; 3]);
}

#[test]
fn times_have_nine_digits_on_both_sides_of_zero() {
    let cases: [(i128, &str); 5] = [
        (0, "0.000000000"),
        (1_500_000_000, "1.500000000"),
        (-1, "-0.000000001"),
        (-1_500_000_000, "-1.500000000"),
        (999_999_999, "0.999999999"),
    ];
    for (nanos, text) in cases {
        assert_eq!(pax::time_text(nanos), text);
        let mut records = pax::Records::default();
        pax::parse(&record("mtime", text), &mut records).unwrap();
        assert_eq!(records.modified, Some(nanos));
    }
}
