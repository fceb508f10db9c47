//! The Go helper that makes bbolt databases and judges them with bbolt's code.

#![allow(dead_code, reason = "each test uses a part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde::Deserialize;

/// What the helper computes of a database, apart from the code under test.
#[derive(Debug, Deserialize)]
pub(crate) struct Hashes {
    /// The hash of `etcdutl snapshot status`.
    pub(crate) status_hash: u32,
    /// HashKV at what was asked.
    pub(crate) hash_kv: u32,
    /// Entries of all buckets.
    pub(crate) entries: u64,
    /// Records of the bucket `key`.
    pub(crate) records: u64,
    /// Keys that exist.
    pub(crate) live_keys: u64,
    /// Main revision of the last record.
    pub(crate) last_record: i64,
}

fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/install-mkdb.sh");
        let output = Command::new(script).output().expect("bash runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim())
    })
}

fn run(args: &[&str], path: &Path, more: &[String]) -> Output {
    Command::new(program()).args(args).arg(path).args(more).output().expect("mkdb runs")
}

/// Makes a database at `path`; `args` are the flags of `mkdb make`.
pub(crate) fn make(path: &Path, args: &[&str]) {
    let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
    let output = run(&["make", "-out"], path, &args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// bbolt's own check: what it complains of, `Ok` when nothing.
pub(crate) fn check(path: &Path) -> Result<(), String> {
    let output = run(&["check"], path, &[]);
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(String::from_utf8_lossy(&text).into_owned())
}

/// Totals, status hash and HashKV.
pub(crate) fn hashes(path: &Path, revision: i64, compact: i64) -> Hashes {
    let output = run(&["hash"], path, &[revision.to_string(), compact.to_string()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Ids of the free pages.
pub(crate) fn free_pages(path: &Path) -> Vec<u64> {
    let output = run(&["free"], path, &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(|line| line.parse().expect("a page id")).collect()
}
