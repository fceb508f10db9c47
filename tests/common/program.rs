//! What the tests of the program share.
#![allow(dead_code)]

use std::path::{Path, PathBuf};

use harness::cli::{Cli, Ran};
use harness::etcd::Cluster;

/// The program under test. It waits longer than it would by itself: what a busy machine
/// answers late is no finding.
pub(crate) fn program() -> Cli {
    Cli::new(env!("CARGO_BIN_EXE_etcdvault"))
        .env("ETCDCTL_DIAL_TIMEOUT", "30s")
        .env("ETCDCTL_COMMAND_TIMEOUT", "30s")
}

/// A new vault without encryption below `root`.
pub(crate) async fn new_vault(root: &Path) -> PathBuf {
    let vault = root.join("vault");
    let init = [Path::new("init"), &vault, Path::new("--no-encryption")];
    program().run(init).await.unwrap().expect(0);
    vault
}

/// Every file below a folder, sorted.
pub(crate) fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// Two files, and nothing else: a vault in which nothing was ever stored.
pub(crate) fn assert_untouched(vault: &Path) {
    assert_eq!(files(vault), [vault.join("RESTORE.txt"), vault.join("vault.json")]);
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ (seed + 1).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Values that do not compress, so many MB of them, so that a snapshot streams for a
/// while.
pub(crate) async fn fill(cluster: &Cluster, megabytes: u32) {
    let mut client = cluster.client().await.unwrap();
    for number in 0..megabytes {
        let value = noise(number.into(), 1_000_000);
        client.put(format!("random/{number}"), value, None).await.unwrap();
    }
}

/// How many backups are listed.
pub(crate) async fn listed(cli: &Cli) -> usize {
    let list = cli.run(["list", "--json"]).await.unwrap().expect(0).json();
    list["backups"].as_array().unwrap().len()
}

/// Asserts that all of `texts` are said on stderr.
#[track_caller]
pub(crate) fn says(ran: &Ran, texts: &[&str]) {
    for text in texts {
        assert!(ran.stderr.contains(text), "{text:?} is not said: {ran}");
    }
}
