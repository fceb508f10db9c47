//! What is seen while a backup runs: a bar on a terminal, with rate and remaining time;
//! one line for a file, a pipe or cron; nothing but the result where that was asked for.

#[path = "common/program.rs"]
mod common;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use harness::etcd::Cluster;
use harness::proxy::{Mode, Proxy};
use regex::Regex;

use common::{fill, new_vault, program};

/// What the program writes to a terminal of 120 columns, control sequences and all.
async fn on_a_terminal(vault: &Path, endpoint: &str, args: &str) -> String {
    let binary = env!("CARGO_BIN_EXE_etcdvault");
    // util-linux's `script` is a terminal.
    let line = format!("stty rows 24 cols 120; exec '{binary}' {args}");
    let output = tokio::process::Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("TERM", "xterm")
        .env("ETCDVAULT_VAULT", vault)
        .env("ETCDCTL_ENDPOINTS", endpoint)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(200), output).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{args}: {text}");
    text
}

#[tokio::test]
async fn a_bar_on_a_terminal_and_one_line_elsewhere() {
    let root = tempfile::tempdir().unwrap();
    let vault = new_vault(root.path()).await;
    let cluster = Cluster::builder("3.6").start().await.unwrap();
    fill(&cluster, 4).await;
    let proxy = Proxy::start(&cluster.endpoints()[0]).await.unwrap();
    proxy.set(Mode::Slow(1 << 20));
    let address = proxy.address();
    let backup = "backup --local-only --cluster shown";
    // The result's line, with colours and cursor movements taken away.
    let plain = |text: &str| {
        let sequences = Regex::new("\x1b\\[[0-9;?]*[A-Za-z]").unwrap();
        sequences.replace_all(text, "").replace("\r\n", "\n")
    };
    let result = Regex::new(
        r"^[0-9A-HJKMNP-TV-Z]{26}  shown  revision \d+  [\d.]+ MB → [\d.]+ MB  proven on 1 of 1 member  [\d.]+ m?s$",
    )
    .unwrap();

    let seen = plain(&on_a_terminal(&vault, &address, backup).await);
    let bar = Regex::new(
        r"shown: snapshot from \S+ \(leader\)  [\d.]+ [kM]?B/s .* [\d.]+ [kM]?B of [\d.]+ MB  \d+s left",
    )
    .unwrap();
    // Each drawing overwrites the one before it.
    let drawn: Vec<&str> = seen.split(['\r', '\n']).filter(|line| bar.is_match(line)).collect();
    assert!(drawn.len() >= 2, "{seen}");
    let moving: std::collections::BTreeSet<&str> = drawn.iter().copied().collect();
    assert!(moving.len() >= 2, "the bar moves: {drawn:?}");
    let widest = drawn.iter().map(|line| line.chars().count()).max().unwrap();
    assert!(widest <= 120, "a line is a line: {widest}");
    // What remains is the result alone.
    let last = seen.rsplit(['\r', '\n']).find(|line| !line.trim().is_empty()).unwrap();
    assert!(result.is_match(last), "{last}");

    proxy.set(Mode::Slow(8 << 20));

    // No terminal: one line, and nothing said beside it.
    let args: Vec<&str> = backup.split(' ').collect();
    let cli = program().vault(&vault).env("ETCDCTL_ENDPOINTS", &address);
    let ran = cli.run(&args).await.unwrap().expect(0);
    assert_eq!(ran.stderr, "", "{ran}");
    let text = ran.text();
    let line = text.strip_suffix('\n').unwrap();
    assert!(result.is_match(line), "{ran}");

    // On a terminal too, nothing but what was asked for.
    assert_eq!(on_a_terminal(&vault, &address, &format!("{backup} --quiet")).await, "");
    let json = on_a_terminal(&vault, &address, &format!("{backup} --json")).await;
    let json: serde_json::Value = serde_json::from_str(json.trim_end()).unwrap();
    assert_eq!(json["proof"]["state"], "proven");
}
