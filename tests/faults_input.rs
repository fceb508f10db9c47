//! Files that are not what they should be: snapshots cut short, with a flipped bit,
//! empty, or with a tree that leads nowhere; manifests that somebody made up. Each is
//! named and refused, nothing is stored or restored of it, what is good stays usable,
//! and no control character reaches the terminal.

#[path = "common/program.rs"]
mod common;

use std::path::{Path, PathBuf};

use harness::cli::{Cli, Ran};
use harness::etcd::Cluster;
use sha2::{Digest as _, Sha256};

use common::{assert_untouched, files, listed, new_vault, noise, program, says};

/// A snapshot as etcdctl writes it, of a tree with branches.
async fn snapshot(root: &Path) -> Vec<u8> {
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    let mut client = cluster.client().await.unwrap();
    for number in 0..400_u64 {
        client.put(format!("key/{number:04}"), noise(number, 300), None).await.unwrap();
    }
    let path = root.join("good.db");
    cluster.etcdctl(["snapshot", "save", path.to_str().unwrap()]).await.unwrap();
    std::fs::read(path).unwrap()
}

/// A database with the SHA-256 of its bytes behind it: whole, whatever it says.
fn sealed(mut database: Vec<u8>) -> Vec<u8> {
    let digest = Sha256::digest(&database);
    database.extend_from_slice(&digest);
    database
}

const PAGE: usize = 4096;
const BRANCH: u16 = 1;
const LEAF: u16 = 2;

/// Calls `change` with each page of a kind and its number.
fn change_pages(database: &mut [u8], kind: u16, mut change: impl FnMut(u64, &mut [u8])) {
    let mut changed = 0;
    for (number, page) in database.chunks_mut(PAGE).enumerate() {
        let id = u64::from_le_bytes(page[..8].try_into().unwrap());
        let flags = u16::from_le_bytes(page[8..10].try_into().unwrap());
        let count = u16::from_le_bytes(page[10..12].try_into().unwrap());
        if id == number as u64 && flags == kind && count > 0 {
            change(id, page);
            changed += 1;
        }
    }
    assert!(changed > 0, "there are pages of kind {kind}");
}

#[track_caller]
fn no_control_characters(ran: &Ran) {
    let bad = |text: &str| text.chars().any(|c| c.is_control() && c != '\n');
    assert!(!bad(&ran.text()) && !bad(&ran.stderr), "{ran:?}");
}

#[tokio::test]
async fn damaged_snapshots_go_nowhere() {
    let root = tempfile::tempdir().unwrap();
    let vault = new_vault(root.path()).await;
    let good = snapshot(root.path()).await;
    let database = good[..good.len() - 32].to_vec();
    assert_eq!(sealed(database.clone()), good, "etcd seals its snapshots the same way");
    let cli = program().vault(&vault);

    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = database.clone();
        change(&mut bytes);
        sealed(bytes)
    };
    let cyclic = changed(&|bytes| {
        change_pages(bytes, BRANCH, |id, page| {
            let count = u16::from_le_bytes(page[10..12].try_into().unwrap()) as usize;
            let last = 16 + 16 * (count - 1);
            page[last + 8..last + 16].copy_from_slice(&id.to_le_bytes());
        });
    });
    let outside = changed(&|bytes| {
        change_pages(bytes, LEAF, |_, page| {
            page[16 + 4..16 + 8].copy_from_slice(&0x7fff_0000_u32.to_le_bytes());
        });
    });
    let no_meta = changed(&|bytes| {
        bytes[16] ^= 1;
        bytes[PAGE + 16] ^= 1;
    });
    let beyond = changed(&|bytes| {
        change_pages(bytes, BRANCH, |_, page| {
            page[16 + 8..16 + 16].copy_from_slice(&u64::MAX.to_le_bytes());
        });
    });
    // What to say of each: a word that has to be in the message.
    let cases: [(&str, Vec<u8>, &str); 12] = [
        ("empty", Vec::new(), "empty"),
        ("one byte", vec![7], "page"),
        ("text", b"this is no database, whatever its name says\n".repeat(300), "page"),
        ("half", good[..good.len() / 2].to_vec(), ""),
        ("a page short", good[..good.len() - PAGE].to_vec(), ""),
        ("a byte short", good[..good.len() - 1].to_vec(), ""),
        ("a flipped bit", flipped(good.len() / 2), ""),
        ("a flipped bit in the digest", flipped(good.len() - 5), ""),
        ("no meta page", no_meta, "page 0"),
        ("a cycle", cyclic, "page "),
        ("an element outside", outside, "page "),
        ("a child beyond the end", beyond, "page "),
    ];
    for (name, bytes, word) in cases {
        let path = root.path().join(format!("{name}.db"));
        std::fs::write(&path, bytes).unwrap();
        let text = path.to_str().unwrap();
        let ran = cli.run(["import", "--cluster", "x", text]).await.unwrap();
        assert_eq!(ran.code, Some(20), "{name}: {ran}");
        assert!(ran.stderr.contains(word), "{name}: {ran}");
        let inspected = cli.run(["inspect", text]).await.unwrap();
        assert_eq!(inspected.code, Some(20), "{name}: {inspected}");
        let said = format!("{}{}", inspected.text(), inspected.stderr);
        assert!(said.contains(word), "{name}: {inspected}");
        let ran = cli.run(["inspect", "--json", text]).await.unwrap().expect(20);
        let value = ran.json();
        assert!(value["error"]["exit_code"] == 20 || value["sound"] == false, "{name}: {ran}");
        let target = root.path().join("member");
        let restore = ["restore", "data-dir", text, "--data-dir", target.to_str().unwrap()];
        let ran = cli.run(restore).await.unwrap();
        assert_eq!(ran.code, Some(20), "{name}: {ran}");
        says(&ran, &["was not restored", "nothing was left behind"]);
        let skip = restore.iter().chain(&["--skip-hash-check"]);
        let ran = cli.run(skip).await.unwrap();
        if !["a flipped bit", "a flipped bit in the digest", "a byte short"].contains(&name) {
            assert_eq!(ran.code, Some(20), "{name} without the digest: {ran}");
        }
        let _ = std::fs::remove_dir_all(&target);
        std::fs::remove_file(&path).unwrap();
        let left: Vec<_> = std::fs::read_dir(root.path()).unwrap().collect();
        assert_eq!(left.len(), 2, "{name}: {left:?}");
    }
    assert_untouched(&vault);

    // Several files of which one is damaged: what is good before it is in, and said.
    let bad = root.path().join("bad.db");
    std::fs::write(&bad, flipped(5 * PAGE)).unwrap();
    let path = root.path().join("good.db");
    let args = ["import", "--cluster", "x", path.to_str().unwrap(), bad.to_str().unwrap()];
    let ran = cli.run(args).await.unwrap().expect(20);
    assert_eq!(ran.text().lines().count(), 1, "{ran}");
    let json = cli.run(args.iter().chain(&["--json"])).await.unwrap().expect(20).json();
    assert_eq!(json["error"]["exit_code"], 20);
    assert_eq!(listed(&cli).await, 2);
}

/// A name that would break a line, or a terminal, is shown and not obeyed.
#[tokio::test]
async fn file_names_with_a_newline() {
    let root = tempfile::tempdir().unwrap();
    let vault = new_vault(root.path()).await;
    let good = snapshot(root.path()).await;
    let odd = root.path().join("two\nlines \u{1b}[2J.db");
    std::fs::write(&odd, &good).unwrap();
    let odd = odd.to_str().unwrap();
    let cli = program().vault(&vault);
    let ran = cli.run(["import", "--cluster", "x", odd]).await.unwrap().expect(0);
    assert_eq!(ran.text().lines().count(), 1, "{ran}");
    no_control_characters(&ran);
    for args in [vec!["show", "latest"], vec!["list"], vec!["inspect", odd]] {
        no_control_characters(&cli.run(args).await.unwrap().expect(0));
    }
    let shown = cli.run(["show", "latest", "--json"]).await.unwrap().expect(0).json();
    let place = shown["content"].to_string().replace(r"\\", r"\");
    assert!(place.contains("two\\u{a}lines \\u{1b}[2J.db"), "escaped where it is stored: {place}");
    let out = format!("{odd}.out");
    no_control_characters(&cli.run(["export", "latest", "-o", &out]).await.unwrap().expect(0));
    assert!(std::fs::read(&out).unwrap() == good);
    let target = format!("{odd}.d");
    let restore = ["restore", "data-dir", odd, "--data-dir", &target];
    no_control_characters(&cli.run(restore).await.unwrap().expect(0));
    no_control_characters(&cli.run(restore).await.unwrap().expect(2));

    // A name that is no UTF-8 is a name all the same.
    use std::os::unix::ffi::OsStringExt as _;
    let mut bytes = root.path().as_os_str().to_owned().into_encoded_bytes();
    bytes.extend_from_slice(b"/raw\xff.db");
    let raw = PathBuf::from(std::ffi::OsString::from_vec(bytes));
    std::fs::write(&raw, &good).unwrap();
    cli.run([Path::new("inspect"), &raw]).await.unwrap().expect(0);
    let args = [Path::new("import"), Path::new("--cluster"), Path::new("x"), &raw];
    cli.run(args).await.unwrap().expect(0);
}

/// Stores `text` as a manifest, under a name that fits it.
fn plant(manifest: &Path, id: &str, text: &str) -> PathBuf {
    let old = manifest.file_name().unwrap().to_str().unwrap();
    let (stem, _) = old.rsplit_once('-').unwrap();
    let (stem, _) = stem.rsplit_once('-').unwrap();
    let digest = Sha256::digest(text.as_bytes());
    let digest: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let path = manifest.with_file_name(format!("{stem}-{}-{digest}.json", id.to_lowercase()));
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn manifests_that_somebody_made_up() {
    let root = tempfile::tempdir().unwrap();
    let vault = new_vault(root.path()).await;
    snapshot(root.path()).await;
    let good = root.path().join("good.db");
    let cli = program().vault(&vault);
    let import = ["import", "--cluster", "x", "--json", good.to_str().unwrap()];
    let imported = cli.run(import).await.unwrap().expect(0).json();
    let manifest = vault.join(imported["imported"][0]["manifest"].as_str().unwrap());
    let id = imported["imported"][0]["id"].as_str().unwrap();
    // An id of the same millisecond that sorts behind it.
    let other = format!("{}ZZZZZZZZZZZZZZZZ", &id[..10]);
    let text = std::fs::read_to_string(&manifest).unwrap();
    let name = manifest.file_name().unwrap().to_str().unwrap();
    let id_in_name = if name.contains(id) { id.to_owned() } else { id.to_lowercase() };
    assert!(name.contains(&id_in_name), "{name}");
    let plant_as = |text: &str| {
        let planted = plant(&manifest, &other, text);
        let fitting = planted.file_name().unwrap().to_str().unwrap();
        let fitting = if id_in_name == id {
            fitting.replace(&other.to_lowercase(), &other)
        } else {
            fitting.to_owned()
        };
        let fitting = planted.with_file_name(fitting);
        std::fs::rename(&planted, &fitting).unwrap();
        fitting
    };
    let copy = text.replace(id, &other);
    let with = |from: &str, to: &str| {
        assert!(copy.contains(from), "{from}");
        copy.replacen(from, to, 1)
    };
    let hostile: [(&str, String); 10] = [
        ("a newer format", with("\"oldest_reader\": 1", "\"oldest_reader\": 9")),
        ("a member nobody knows", with("\"id\":", "\"\\u001b[2Jextra\": 1, \"id\":")),
        ("an object elsewhere", with("clusters/x/", "../../../etc/")),
        ("a negative size", with("\"plain_size\": ", "\"plain_size\": -")),
        ("a size beyond all", with("\"plain_size\": ", "\"plain_size\": 99999999999999999999")),
        ("another cluster", with("\"cluster\": \"x\"", "\"cluster\": \"y\\u001b[2J\"")),
        (
            "a label that a terminal obeys",
            with("\"labels\": {", "\"labels\": {\"a\": \"\\u001b[2J\""),
        ),
        ("no JSON", "\u{1b}]0;owned\u{7}".to_owned()),
        ("nesting without end", "[".repeat(200_000)),
        ("nothing", String::new()),
    ];
    for (what, text) in hostile {
        let planted = plant_as(&text);
        let ran = cli.run(["list"]).await.unwrap();
        assert_eq!(ran.code, Some(20), "{what}: {ran}");
        assert!(ran.text().contains(&id[..8]), "the good one is shown: {what}: {ran}");
        says(&ran, &["corrupt: clusters/x/"]);
        no_control_characters(&ran);
        let json = cli.run(["list", "--json"]).await.unwrap().expect(20).json();
        assert_eq!(json["backups"].as_array().unwrap().len(), 1, "{what}");
        assert_eq!(json["corrupt"].as_array().unwrap().len(), 1, "{what}");
        let ran = cli.run(["verify", "--all"]).await.unwrap().expect(20);
        no_control_characters(&ran);
        assert!(ran.text().contains("DAMAGED") && ran.text().contains("good"), "{what}: {ran}");
        // The good one stays reachable by its id.
        cli.run(["show", id]).await.unwrap().expect(0);
        // Which one is the latest cannot be told any more, and is not guessed.
        let ran = cli.run(["show", "latest"]).await.unwrap();
        assert!(ran.code != Some(0), "{what}: {ran}");
        no_control_characters(&ran);
        std::fs::remove_file(planted).unwrap();
    }
    // A manifest whose bytes are not those of its name.
    std::fs::write(&manifest, text.replacen("\"sequence\": ", "\"sequence\": 1", 1)).unwrap();
    let ran = cli.run(["list"]).await.unwrap().expect(20);
    says(&ran, &["corrupt: "]);
    std::fs::write(&manifest, &text).unwrap();
}

/// Results of the program on an output that goes away, or is full.
#[tokio::test]
async fn standard_output_that_takes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let vault = new_vault(root.path()).await;
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    common::fill(&cluster, 3).await;
    let cli: Cli = program().vault(&vault).cluster(&cluster);
    cli.run(["backup"]).await.unwrap().expect(0);
    let ended = |args: &[&str], stdout: std::process::Stdio| {
        let mut command = cli.command(args);
        command.stdout(stdout).stderr(std::process::Stdio::piped());
        async move {
            let child = command.spawn().unwrap();
            let output = child.wait_with_output().await.unwrap();
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        }
    };
    let gone = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        std::process::Stdio::from(writer)
    };
    let full = || std::fs::File::create("/dev/full").unwrap().into();
    // `| head` is no failure of a listing, and there is nobody to tell.
    for args in [&["list"][..], &["show", "latest", "--json"], &["backup"], &["status"]] {
        let (code, said) = ended(args, gone()).await;
        assert_eq!((code, said.as_str()), (Some(0), ""), "{args:?}");
    }
    assert_eq!(listed(&cli).await, 2, "a backup without a reader is one");
    // Half an export is a failure.
    let (code, said) = ended(&["export", "latest", "-o", "-"], gone()).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("was not exported") && said.contains("went away"), "{said}");
    // And so is a listing that a full disk swallowed.
    let (code, said) = ended(&["list", "--json"], full()).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("was not printed"), "{said}");
    let (code, said) = ended(&["export", "latest", "-o", "-"], full()).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("No space left"), "{said}");
    assert_eq!(files(&vault).len(), 2 + 1 + 2 * 2);
}
