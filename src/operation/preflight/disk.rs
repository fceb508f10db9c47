//! Room, mount points, disks that take no writes, owners. Pure.

use std::path::Path;

use super::{Finding, LOG, Seen, SeenData, SeenNode, Severity};
use crate::node::{Entry, FileKind, Space};
use crate::observe::EtcdService;

/// Bytes that are needed for a new directory: beside a member that goes on writing, twice
/// the data, as it grows meanwhile.
pub(super) fn needed(size: u64, running: bool) -> u64 {
    let data = match running {
        true => size.saturating_mul(2),
        false => size.saturating_add(size / 4),
    };
    data.saturating_add(LOG)
}

pub(super) fn judge(seen: &Seen) -> Vec<Finding> {
    let mut findings = Vec::new();
    for node in &seen.nodes {
        let (Some(etcd), Some(data)) = (node.etcd(), &node.data) else { continue };
        findings.extend(one(node, etcd, data, seen.size()));
    }
    findings
}

fn one(node: &SeenNode, etcd: &EtcdService, data: &SeenData, size: u64) -> Vec<Finding> {
    let name = node.name();
    let mut findings = Vec::new();
    let mut found = |severity, what: String, hint: &str| {
        findings.push(Finding::on(name, severity, what).hint(hint));
    };
    let member = etcd.data_dir.join("member");
    let wal = etcd.wal_dir.as_deref().unwrap_or(&member);
    for (path, entry) in [(&*member, &data.member), (wal, &data.wal)] {
        let Some(entry) = entry else { continue };
        if entry.mount_point {
            let what = format!("{} is a mount point: it cannot be set aside", path.display());
            let hint = "mount the disk one level above, so that the directory lies in it";
            found(Severity::Problem, what, hint);
        }
        if entry.kind == FileKind::Symlink {
            let what =
                format!("{} is a link: the new data would not lie where it leads", path.display());
            found(Severity::Problem, what, "name the place itself in data-dir or wal-dir");
        }
    }
    if let Some(entry) = &data.dir
        && entry.kind != FileKind::Directory
    {
        let what = format!("{} is no directory", etcd.data_dir.display());
        found(Severity::Problem, what, "name the place itself in data-dir");
    }
    let spaces = [
        (data.above.path.as_path(), Some(data.space), needed(size, node.is_up())),
        (wal, data.wal_space, LOG),
    ];
    for (path, space, needed) in spaces {
        let Some(space) = space else { continue };
        if let Some((what, hint)) = room(path, space, needed) {
            found(Severity::Problem, what, hint);
        }
    }
    if let (Some(entry), Some((uid, _))) = (&data.member, data.runs_as)
        && uid != 0
        && entry.attributes.uid != uid
    {
        let what = owner(&member, entry, uid);
        found(
            Severity::Warning,
            what,
            "the new data gets the owner of what is there: chown it first",
        );
    }
    findings
}

fn room(path: &Path, space: Space, needed: u64) -> Option<(String, &'static str)> {
    let path = path.display();
    if space.read_only {
        return Some((
            format!("{path} is mounted read-only"),
            "findmnt there shows how, dmesg why",
        ));
    }
    (space.available < needed).then(|| {
        let what = format!(
            "{path} has {} free, and {} are needed beside the present data",
            bytes(space.available),
            bytes(needed)
        );
        (what, "make room: df -h shows the disk; data set aside by plans that are done can go")
    })
}

fn owner(path: &Path, entry: &Entry, runs_as: u32) -> String {
    let is = entry.attributes.uid;
    format!("{} is of user {is}, and etcd runs as user {runs_as}", path.display())
}

/// Bytes for people: three digits at most.
fn bytes(number: u64) -> String {
    match number {
        0..1_000_000 => format!("{} kB", number / 1000),
        1_000_000..10_000_000_000 => format!("{} MB", number / 1_000_000),
        _ => format!("{} GB", number / 1_000_000_000),
    }
}
