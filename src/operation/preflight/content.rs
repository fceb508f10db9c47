//! The backup: whose it is, what is in it, which etcd it is too new for. Pure.

use std::collections::BTreeSet;

use vault::manifest::ProofState;

use super::{Finding, Seen, SeenBackup, Severity, about};
use crate::datadir::restore::{EtcdVersion, version};
use crate::datadir::schema::AlarmKind;

fn said(severity: Severity, what: String, hint: impl Into<String>) -> Finding {
    Finding { hint: Some(hint.into()), ..about(severity, what) }
}

pub(super) fn judge(seen: &Seen) -> Vec<Finding> {
    let Some(backup) = &seen.backup else { return Vec::new() };
    let mut findings = Vec::new();
    let reasons = backup.proof.reasons.join("; ");
    match backup.proof.state {
        ProofState::Proven => {}
        ProofState::Mismatch => {
            let what =
                format!("backup {} DIFFERS from what the cluster held: {reasons}", backup.id);
            let hint = "etcdvault list shows the others; etcdvault inspect shows what is in it";
            findings.push(said(Severity::Problem, what, hint));
        }
        ProofState::NotProven | ProofState::Unknown => {
            let what = match reasons.is_empty() {
                true => format!("backup {} was never compared with the cluster", backup.id),
                false => format!("backup {} is not proven: {reasons}", backup.id),
            };
            let hint = "its bytes are checked nevertheless; etcdvault verify checks them now";
            findings.push(said(Severity::Note, what, hint));
        }
    }
    if let Some((id, taken, revision)) = &backup.newer {
        let more = revision.saturating_sub(backup.revision);
        let what = format!(
            "backup {id} of {} is newer, by {more} revisions",
            taken.format("%Y-%m-%d %H:%M:%S UTC")
        );
        findings.push(said(Severity::Note, what, "restore that one to lose less"));
    }
    if backup.had_v2_keys {
        let what = "keys of the v2 API were there, and no snapshot holds them: they will be gone";
        let hint = "only copies of the data directories bring them back";
        findings.push(said(Severity::Warning, what.to_owned(), hint));
    }
    if backup.content.alarms.iter().any(|alarm| alarm.kind == AlarmKind::NoSpace) {
        let what = "the backup holds the alarm NOSPACE: the restored cluster takes no writes";
        let hint = "take an older backup; or raise quota-backend-bytes and disarm the alarm when \
                    the members run: etcdctl alarm disarm";
        findings.push(said(Severity::Problem, what.to_owned(), hint));
    }
    if backup.content.auth_enabled {
        let what = "authentication is enabled in the backup: users and passwords will be those of \
                    then";
        let hint = "--user with a user of then that has the role root, or a certificate of one, is \
                    needed to look at the result";
        findings.push(said(Severity::Note, what.to_owned(), hint));
    }
    for node in &seen.nodes {
        let Some(found) = node.version else { continue };
        let target = EtcdVersion { major: found.major, minor: found.minor };
        if let Err(error) = version::check(&backup.content, target) {
            let what = format!("etcd {found} is too old for backup {}: {error}", backup.id);
            let hint = "install the etcd that the backup was made with, or a newer one";
            findings.push(Finding::on(node.name(), Severity::Problem, what).hint(hint));
        }
    }
    findings
}

pub(super) fn foreign(seen: &Seen, mapped: bool) -> Vec<Finding> {
    let Some(backup) = &seen.backup else { return Vec::new() };
    let mut findings = Vec::new();
    let hint = "etcdvault list shows the backups of each cluster";
    if backup.cluster != backup.wanted && !mapped {
        let what = format!(
            "backup {} is of cluster {}, and {} is to be restored",
            backup.id, backup.cluster, backup.wanted
        );
        findings.push(said(Severity::Problem, what, hint));
        return findings;
    }
    let meant = |other: &&str| mapped && **other == backup.wanted;
    if let Some(other) = known_as(seen, backup).filter(|other| !meant(other)) {
        let what = format!(
            "the cluster that runs here is {other} in the vault, and backup {} is of {}",
            backup.id, backup.cluster
        );
        findings.push(said(Severity::Problem, what, hint));
        return findings;
    }
    if let Some(what) = strangers(seen, backup).filter(|_| !mapped) {
        findings.push(said(Severity::Problem, what, hint));
    }
    findings
}

/// The name in the vault of the cluster that runs, where that is another.
fn known_as<'a>(seen: &Seen, backup: &'a SeenBackup) -> Option<&'a str> {
    let running = seen.live.cluster()?.to_string();
    if backup.known.iter().any(|(name, id)| *name == backup.cluster && *id == running) {
        return None;
    }
    backup.known.iter().find(|(_, id)| *id == running).map(|(name, _)| name.as_str())
}

/// Whether nothing of the members in the backup is found on these nodes.
fn strangers(seen: &Seen, backup: &SeenBackup) -> Option<String> {
    // Up to 3.4 the members may not stand in the database.
    let was: Vec<_> =
        backup.content.members.iter().filter(|member| !member.name.is_empty()).collect();
    if was.is_empty() {
        return None;
    }
    let mut names: BTreeSet<&str> = BTreeSet::new();
    let mut urls: BTreeSet<String> = BTreeSet::new();
    for node in &seen.nodes {
        let Some(etcd) = node.etcd() else { continue };
        names.insert(etcd.settings.name());
        urls.extend(super::members::peer_urls(seen, node));
    }
    if names.is_empty() {
        return None;
    }
    let known = was.iter().any(|member| {
        names.contains(member.name.as_str())
            || member.peer_urls.iter().any(|url| urls.contains(url))
    });
    (!known).then(|| {
        let was: Vec<&str> = was.iter().map(|member| member.name.as_str()).collect();
        let is: Vec<&str> = names.into_iter().collect();
        format!(
            "backup {} is of the members {}, and none of them is here: these nodes have {}",
            backup.id,
            was.join(", "),
            is.join(", ")
        )
    })
}
