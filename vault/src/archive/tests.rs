//! The reader against what GNU tar writes in every format, in pieces of every size,
//! and against archives that want to do harm.

use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use super::*;
use crate::digest::Sha256;

/// The index of `stream`, taken in pieces of `piece` bytes.
fn index(stream: &[u8], piece: usize) -> Result<Vec<IndexedEntry>, ArchiveError> {
    let mut indexer = Indexer::new(Limits::default());
    for bytes in stream.chunks(piece) {
        indexer.push(bytes)?;
    }
    indexer.finish().map(|contents| contents.entries)
}

/// A tree with all that a node's configuration may hold.
fn tree(root: &Path) {
    use std::io::{Seek as _, SeekFrom, Write as _};
    let deep = root.join("etc").join("d".repeat(90)).join("e".repeat(90));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("f".repeat(120)), b"deep").unwrap();
    std::fs::write(root.join("etc/empty"), b"").unwrap();
    std::fs::write(root.join("etc/block"), [7; 512]).unwrap();
    std::fs::write(root.join("etc/more"), [8; 1300]).unwrap();
    std::fs::write(root.join("etc/päth"), b"utf-8").unwrap();
    std::fs::hard_link(root.join("etc/more"), root.join("etc/zzz-hard")).unwrap();
    std::os::unix::fs::symlink("../../outside", root.join("etc/link")).unwrap();
    std::os::unix::fs::symlink("l".repeat(200), root.join("etc/longlink")).unwrap();
    let mut wal = std::fs::File::create(root.join("etc/0.wal")).unwrap();
    wal.write_all(&[1; 5000]).unwrap();
    // More parts than an old header has room for.
    for part in 1..30u64 {
        wal.seek(SeekFrom::Start(part << 20)).unwrap();
        wal.write_all(&[part as u8; 4096]).unwrap();
    }
    wal.set_len(64 << 20).unwrap();
    let mut hole = std::fs::File::create(root.join("etc/hole")).unwrap();
    hole.set_len(3 << 20).unwrap();
    hole.flush().unwrap();
}

fn gnu_tar(root: &Path, options: &[&str]) -> Vec<u8> {
    let output = Command::new("tar")
        .args(["-c", "--sort=name", "-C"])
        .arg(root)
        .args(options)
        .arg("etc")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn every_format_of_gnu_tar_gives_the_same_index() {
    let root = tempfile::tempdir().unwrap();
    tree(root.path());
    let formats: &[&[&str]] = &[
        &["--format=gnu"],
        &["--format=pax"],
        &["--format=gnu", "--sparse"],
        &["--format=pax", "--sparse", "--sparse-version=1.0"],
        &["--format=pax", "--sparse", "--sparse-version=0.1"],
        &["--format=pax", "--xattrs", "--selinux", "--numeric-owner"],
    ];
    for options in formats {
        let stream = gnu_tar(root.path(), options);
        let found = index(&stream, 64 << 10).unwrap_or_else(|error| panic!("{options:?} {error}"));
        assert_eq!(found.len(), 13, "{options:?}");
        for piece in [1usize, 511, 513, 10_000] {
            // A byte at a time through 64 MiB of zeros takes minutes.
            if stream.len() / piece < 1 << 20 {
                assert_eq!(index(&stream, piece).unwrap(), found, "{options:?} {piece}");
            }
        }
        let sparse = options.contains(&"--sparse");
        assert_eq!(stream.len() < 1 << 20, sparse, "{options:?}");
        for entry in &found {
            let IndexedEntry { entry, sha256 } = entry;
            let path = root.path().join(String::from_utf8(entry.path.clone()).unwrap());
            let there = path.symlink_metadata().unwrap();
            use std::os::unix::fs::MetadataExt as _;
            assert_eq!(entry.mode, there.mode() & 0o7777, "{path:?}");
            assert_eq!((entry.uid, entry.gid), (there.uid(), there.gid()));
            assert_eq!(entry.modified / 1_000_000_000, i128::from(there.mtime()));
            if options.contains(&"--format=pax") {
                assert_eq!(entry.modified % 1_000_000_000, i128::from(there.mtime_nsec()));
            }
            match entry.kind {
                EntryKind::File => {
                    let content = std::fs::read(&path).unwrap();
                    assert_eq!(*sha256, Some(Sha256::of(&content)), "{options:?} {path:?}");
                    assert_eq!(entry.size, content.len() as u64);
                    let at = entry.content_at as usize;
                    if !entry.sparse {
                        assert!(stream[at..at + content.len()] == content, "{path:?}");
                    }
                }
                EntryKind::HardLink => {
                    assert_eq!(*sha256, Some(Sha256::of(&std::fs::read(&path).unwrap())));
                }
                EntryKind::Symlink => {
                    let target = std::fs::read_link(&path).unwrap();
                    assert_eq!(
                        entry.target.as_deref(),
                        Some(target.as_os_str().as_encoded_bytes())
                    );
                }
                EntryKind::Directory => assert!(there.is_dir()),
            }
        }
    }
}

#[test]
fn extended_attributes_come_along() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("etc")).unwrap();
    let file = root.path().join("etc/f");
    std::fs::write(&file, b"x").unwrap();
    let value = b"a\0b\nc=d";
    let flags = rustix::fs::XattrFlags::empty();
    if rustix::fs::setxattr(&file, "user.test", value, flags).is_err() {
        // A file system without: then there is nothing to carry.
        return;
    }
    let stream = gnu_tar(root.path(), &["--format=pax", "--xattrs"]);
    let found = index(&stream, 4096).unwrap();
    assert_eq!(found[1].entry.xattrs["user.test"], value);
}

/// A header with its checksum, and content behind it.
fn member(path: &[u8], kind: u8, target: &[u8], size: u64, content: &[u8]) -> Vec<u8> {
    let mut block = [0u8; 512];
    block[..path.len()].copy_from_slice(path);
    block[100..107].copy_from_slice(b"0000644");
    block[108..115].copy_from_slice(b"0000000");
    block[116..123].copy_from_slice(b"0000000");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[136..147].copy_from_slice(b"00000000000");
    block[156] = kind;
    block[157..157 + target.len()].copy_from_slice(target);
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut member = block.to_vec();
    member.extend_from_slice(content);
    member.resize(member.len().next_multiple_of(512), 0);
    member
}

fn file(path: &[u8], content: &[u8]) -> Vec<u8> {
    member(path, b'0', b"", content.len() as u64, content)
}

fn pax(kind: u8, records: &[(&str, &str)]) -> Vec<u8> {
    let mut content = String::new();
    for (key, value) in records {
        let bare = key.len() + value.len() + 3;
        let length = (1..5).map(|n| bare + n).find(|n| n.to_string().len() + bare == *n).unwrap();
        content.push_str(&format!("{length} {key}={value}\n"));
    }
    member(b"pax", kind, b"", content.len() as u64, content.as_bytes())
}

fn whole(members: &[Vec<u8>]) -> Vec<u8> {
    let mut stream = members.concat();
    stream.extend_from_slice(&[0; 1024]);
    stream
}

fn refused(members: &[Vec<u8>]) -> &'static str {
    index(&whole(members), 100).expect_err("it must be refused").why
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    for path in [&b"../etc/shadow"[..], b"a/../../b", b"a/./b", b"a//b", b"/", b"", b"..", b"a/"] {
        assert_eq!(refused(&[file(path, b"x")]), "a path leads out of the archive, or is none");
    }
    let link = member(b"etc", b'2', b"/", 0, b"");
    assert_eq!(
        refused(&[link.clone(), file(b"etc/passwd", b"x")]),
        "it lies below something that is no directory"
    );
    assert_eq!(
        refused(&[link.clone(), file(b"etc/a/passwd", b"x")]),
        "it lies below something that is no directory"
    );
    assert_eq!(refused(&[link.clone(), link]), "a path comes twice");
    assert_eq!(
        refused(&[member(b"a", b'1', b"etc/shadow", 0, b"")]),
        "a hard link leads to nothing that came before it"
    );
    assert_eq!(
        refused(&[member(b"a", b'1', b"../b", 0, b"")]),
        "a path leads out of the archive, or is none"
    );
    assert_eq!(refused(&[member(b"dev", b'3', b"", 0, b"")]), "it holds a device or a pipe");
    assert_eq!(
        refused(&[pax(b'x', &[("path", "../x")]), file(b"a", b"")]),
        "a path leads out of the archive, or is none"
    );
    // An absolute path is taken as relative, as tar does.
    let found = index(&whole(&[file(b"/etc/f", b"x")]), 7).unwrap();
    assert_eq!(found[0].entry.path, b"etc/f");
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let map = |records: &[(&str, &str)], stored: &[u8]| {
        refused(&[pax(b'x', records), member(b"f", b'0', b"", stored.len() as u64, stored)])
    };
    let huge = u64::MAX.to_string();
    assert_eq!(
        map(&[("GNU.sparse.size", &huge), ("GNU.sparse.map", "0,1")], b"x"),
        "a file is larger than allowed"
    );
    assert_eq!(
        map(&[("GNU.sparse.size", "1099511627776"), ("GNU.sparse.map", "0,1")], b"x"),
        "its holes are larger than allowed"
    );
    assert_eq!(
        map(&[("GNU.sparse.size", "9"), ("GNU.sparse.map", "4,4,0,1")], b"abcde"),
        "the parts of a sparse file overlap"
    );
    assert_eq!(
        map(&[("GNU.sparse.size", "9"), ("GNU.sparse.map", "8,2")], b"ab"),
        "a part of a sparse file lies beyond its end"
    );
    assert_eq!(
        map(&[("GNU.sparse.size", "9"), ("GNU.sparse.map", "0,2")], b"abc"),
        "the parts of a sparse file are not what is stored of it"
    );
    let far = format!("{huge},{huge}");
    assert_eq!(
        map(&[("GNU.sparse.size", "9"), ("GNU.sparse.map", &far)], b"abc"),
        "a part of a sparse file is too large"
    );
    assert_eq!(
        refused(&[pax(b'x', &[("size", &huge)]), file(b"f", b"")]),
        "a file is larger than allowed"
    );
    let extended = member(b"pax", b'x', b"", MAX_EXTENDED + 1, b"");
    assert_eq!(refused(&[extended]), "an extended header is too large");
    let mut small = Indexer::new(Limits { entries: 2, ..Limits::default() });
    let stream = whole(&[file(b"a", b""), file(b"b", b""), file(b"c", b"")]);
    assert_eq!(small.push(&stream).unwrap_err().why, "it holds more entries than allowed");
    let mut small = Indexer::new(Limits { stream: 600, ..Limits::default() });
    assert_eq!(small.push(&stream).unwrap_err().why, "it is larger than allowed");
}

#[test]
fn what_is_cut_or_goes_on_is_refused() {
    let stream = whole(&[file(b"a", b"content"), file(b"b", &[9; 700])]);
    assert_eq!(index(&stream, 512).unwrap().len(), 2);
    for cut in 0..stream.len() {
        assert!(index(&stream[..cut], 512).is_err(), "{cut}");
    }
    let mut more = stream.clone();
    more.extend_from_slice(&[0; 10_240]);
    assert_eq!(index(&more, 512).unwrap().len(), 2);
    more.push(1);
    assert_eq!(index(&more, 512).unwrap_err().why, "something follows behind its end");
}

#[test]
fn notes_of_the_writer_are_handed_on() {
    let notes =
        pax(b'g', &[("comment", "etc/f changed"), ("path", "../x"), ("comment", "\u{1b}[2J")]);
    let mut indexer = Indexer::new(Limits::default());
    indexer.push(&whole(&[file(b"a", b"1"), notes.clone()])).unwrap();
    let contents = indexer.finish().unwrap();
    assert_eq!(contents.notes, ["etc/f changed", "\\u{1b}[2J"]);
    assert_eq!(contents.entries.len(), 1);
    let long = "x".repeat(MAX_NOTE + 1);
    assert_eq!(refused(&[pax(b'g', &[("comment", &long)])]), "a note is too long");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(
        flips in proptest::collection::vec((0usize..3584, any::<u8>()), 1..6),
        piece in 1usize..700,
    ) {
        let mut stream = whole(&[
            pax(b'x', &[("GNU.sparse.size", "900"), ("GNU.sparse.map", "0,2,800,1"), ("mtime", "-1.5")]),
            file(b"etc/f", b"abc"),
            member(b"etc/l", b'2', b"f", 0, b""),
        ]);
        prop_assert_eq!(stream.len(), 3584);
        for (at, byte) in flips {
            stream[at] = byte;
        }
        let _ = index(&stream, piece);
    }

    #[test]
    fn escaped_paths_come_back(path in proptest::collection::vec(any::<u8>(), 0..40)) {
        let text = escape(&path);
        prop_assert_eq!(crate::document::printable(&text), text.clone());
        prop_assert_eq!(unescape(&text), Some(path));
    }
}
