//! Nodes at the other end of a stream: the protocol in memory, the agent as a
//! child process, and real sshd on loopback.

#![allow(clippy::result_large_err)]

#[path = "node_remote/child.rs"]
mod child;
#[path = "common/node_contract.rs"]
mod contract;
#[path = "node_remote/scripted.rs"]
mod scripted;
#[path = "node_remote/sshd.rs"]
mod sshd;
#[path = "node_remote/wire.rs"]
mod wire;

use std::time::{Duration, Instant};

use etcdvault::node::NodeName;

pub(crate) fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Processes below `root` in the tree of processes, with their command lines.
pub(crate) fn descendants(root: u32) -> Vec<(u32, String)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // The name in parentheses may hold anything.
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let mut fields = rest.split(' ');
        let state = fields.next().unwrap();
        let parent: u32 = fields.next().unwrap().parse().unwrap();
        if state == "Z" {
            continue;
        }
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        all.push((pid, parent, String::from_utf8_lossy(&line).replace('\0', " ")));
    }
    let mut found: Vec<(u32, String)> = Vec::new();
    let mut parents: Vec<u32> = vec![root];
    while let Some(parent) = parents.pop() {
        for (pid, its, line) in &all {
            if *its == parent {
                parents.push(*pid);
                found.push((*pid, line.clone()));
            }
        }
    }
    found
}

pub(crate) fn kill(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}
