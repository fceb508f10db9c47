//! `status`: every member of the live cluster in one view.

use serde::Serialize;

use crate::etcd::cluster::{ClusterView, Reach, Silence, observe};
use crate::etcd::{ConnectionSettings, Connector, MemberStatus};
use crate::operation::failure::{Failure, FailureKind, etcd_hint};
use crate::types::{HexId, Version};

/// Below this share of the file in use a defragmentation is worth it.
const FRAGMENTED_BELOW: f64 = 0.5;
/// Files smaller than this are not worth a word about fragmentation.
const FRAGMENTATION_FLOOR: u64 = 64 << 20;
/// Above this share of the quota a member is near NOSPACE.
const QUOTA_NEAR: f64 = 0.8;
/// etcd's quota when `--quota-backend-bytes` is not set.
const DEFAULT_QUOTA: u64 = 2 << 30;

/// A member's row.
#[derive(Debug, Serialize)]
pub struct MemberRow {
    /// Where it was asked.
    pub endpoint: Option<String>,
    /// Its name, when the member list is known.
    pub name: Option<String>,
    /// Its id, when known.
    pub member_id: Option<HexId>,
    /// Whether it is a learner.
    pub is_learner: bool,
    /// What it says of itself.
    pub status: Option<MemberStatus>,
    /// Alarms that it raised.
    pub alarms: Vec<String>,
    /// Why it has no status.
    pub error: Option<String>,
}

/// Something that needs doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// What is wrong.
    pub problem: String,
    /// The command or act that helps.
    pub hint: String,
}

/// How the cluster is.
#[derive(Debug, Serialize)]
pub struct StatusReport {
    /// One row for each member.
    pub members: Vec<MemberRow>,
    /// Voting members that answered.
    pub voters_answering: usize,
    /// Voting members in all.
    pub voters: usize,
    /// Voting members that must answer for the cluster to work.
    pub quorum: usize,
    /// Whether a leader is known.
    pub has_leader: bool,
    /// What needs doing, the most urgent first.
    pub advice: Vec<Advice>,
}

impl StatusReport {
    /// Whether every member answered.
    pub fn complete(&self) -> bool {
        self.members.iter().all(|member| member.status.is_some())
    }

    /// One sentence: does the cluster work, and for how much longer.
    pub fn summary(&self) -> String {
        let Self { voters_answering: up, voters, quorum, .. } = *self;
        let counted = if voters == 1 {
            format!("{up} of 1 member answers")
        } else {
            format!("{up} of {voters} members answer")
        };
        if !self.has_leader {
            return format!(
                "{counted}; no leader: reads and writes wait until {quorum} members answer."
            );
        }
        match up.checked_sub(quorum) {
            None => format!("{counted}, fewer than the {quorum} that make a quorum: writes wait."),
            Some(0) if voters == 1 => format!("{counted}: the cluster works, without redundancy."),
            Some(0) => {
                format!("{counted}: the cluster works, and stops working when one more is lost.")
            }
            Some(spare) => format!("{counted}: the cluster works, {spare} can be lost."),
        }
    }
}

/// Asks every member. Fails only when none answers.
pub async fn status(
    connector: &Connector,
    settings: &ConnectionSettings,
) -> Result<StatusReport, Failure> {
    let view = observe(connector, settings, Reach::AllMembers).await;
    if view.rows.iter().all(|row| row.answer.is_err()) {
        return Err(nobody_answers("the status was not read", &view));
    }
    Ok(report(&view))
}

/// The failure when no endpoint led to a member, with one line for each.
pub fn nobody_answers(what: &str, view: &ClusterView) -> Failure {
    let mut failure =
        Failure::new(FailureKind::Etcd, format!("{what}: no member of the cluster answers"));
    for row in &view.rows {
        let Err(silence) = &row.answer else { continue };
        let place = row.endpoint.as_ref().map_or_else(|| row.label(), ToString::to_string);
        failure = failure.detail(format!("{place}: {silence}"));
        if let Silence::Failed(error) = silence {
            if error.kind.is_of_key() {
                failure.kind = FailureKind::Key;
            }
            if let Some(hint) = etcd_hint(error) {
                failure = failure.hint(hint);
            }
        }
    }
    failure
}

fn report(view: &ClusterView) -> StatusReport {
    let members: Vec<MemberRow> = view
        .rows
        .iter()
        .map(|row| MemberRow {
            endpoint: row.endpoint.as_ref().map(ToString::to_string),
            name: row.listed.as_ref().map(|m| m.name.clone()).filter(|name| !name.is_empty()),
            member_id: row.member_id(),
            is_learner: row.is_learner(),
            status: row.status().cloned(),
            alarms: view
                .alarms
                .iter()
                .filter(|alarm| Some(alarm.member_id) == row.member_id())
                .map(|alarm| alarm.alarm.clone())
                .collect(),
            error: row.answer.as_ref().err().map(ToString::to_string),
        })
        .collect();
    // An endpoint that no member of the list advertises and that does not answer is a
    // mistake on the command line or an alias, not one more member.
    let voters = members
        .iter()
        .filter(|member| !member.is_learner && (member.member_id.is_some() || !view.list_known));
    let voters_answering = voters.clone().filter(|member| member.status.is_some()).count();
    let voters = voters.count();
    let has_leader = members.iter().filter_map(|m| m.status.as_ref()).any(|s| s.leader.is_some());
    let advice = advice(&members, has_leader, view.list_known);
    StatusReport { members, voters_answering, voters, quorum: voters / 2 + 1, has_leader, advice }
}

fn advice(members: &[MemberRow], has_leader: bool, list_known: bool) -> Vec<Advice> {
    let mut advice = Vec::new();
    let mut say = |problem: String, hint: &str| {
        advice.push(Advice { problem, hint: hint.to_owned() });
    };
    let label = |m: &MemberRow| -> String {
        m.name.clone().or_else(|| m.endpoint.clone()).unwrap_or_else(|| "a member".to_owned())
    };
    if !has_leader {
        say(
            "no leader".to_owned(),
            "start the members that do not answer; if they are lost for good, restore from a backup",
        );
    }
    if !list_known {
        say(
            "the member list could not be read: there may be more members".to_owned(),
            "it needs a leader, and the root role where authentication is enabled",
        );
    }
    let silent: Vec<String> = members.iter().filter(|m| m.status.is_none()).map(label).collect();
    // Without a leader the first advice says it already.
    if has_leader && !silent.is_empty() {
        let verb = if silent.len() == 1 { "does" } else { "do" };
        say(
            format!("{} {verb} not answer", silent.join(", ")),
            "look whether etcd runs there and what its log says: journalctl -u etcd, or crictl ps \
             -a --name etcd; started again, it catches up by itself",
        );
    }
    for member in members {
        for alarm in &member.alarms {
            say(
                format!("{}: alarm {alarm}", label(member)),
                if alarm == "CORRUPT" {
                    "compare the members (etcdctl endpoint hashkv --cluster); take the one that \
                     differs out and let it rejoin empty"
                } else {
                    "compact, etcdctl defrag each member, then etcdctl alarm disarm"
                },
            );
        }
    }
    let statuses = || members.iter().filter_map(|m| m.status.as_ref().map(|s| (m, s)));
    let mut clusters: Vec<HexId> = statuses().map(|(_, s)| s.cluster_id).collect();
    clusters.sort_unstable();
    clusters.dedup();
    if clusters.len() > 1 {
        say(
            "the endpoints belong to different clusters".to_owned(),
            "give the endpoints of one cluster only",
        );
    }
    let mut lines: Vec<(u32, u32)> =
        statuses().filter_map(|(_, s)| s.parsed_version()).map(|v| v.minor_line()).collect();
    lines.sort_unstable();
    lines.dedup();
    if lines.len() > 1 {
        say("members run different versions".to_owned(), "finish the upgrade");
    }
    for (member, status) in statuses() {
        if let Some(version) = status.parsed_version()
            && let Some(why) = known_bad(version)
        {
            say(format!("{}: etcd {version} {why}", label(member)), "upgrade");
        }
        let quota = status.db_size_quota.unwrap_or(DEFAULT_QUOTA);
        if status.db_size as f64 > quota as f64 * QUOTA_NEAR {
            let assumed = if status.db_size_quota.is_some() { "" } else { " (assumed)" };
            say(
                format!(
                    "{}: the database fills {:.0} % of its quota{assumed}",
                    label(member),
                    100.0 * status.db_size as f64 / quota as f64
                ),
                "compact and defragment, or raise --quota-backend-bytes",
            );
        }
        if status.db_size > FRAGMENTATION_FLOOR
            && status.db_size_in_use > 0
            && (status.db_size_in_use as f64) < status.db_size as f64 * FRAGMENTED_BELOW
        {
            say(
                format!("{}: more than half of the database file is free space", label(member)),
                "etcdctl defrag, one member at a time, the leader last",
            );
        }
        if let Some(target) = &status.downgrade_to {
            say(format!("{}: a downgrade to {target} is under way", label(member)), "finish it");
        }
        for error in &status.errors {
            let known = error.contains("alarm") || error.contains("no leader");
            if !known {
                say(format!("{}: {error}", label(member)), "see the member's log");
            }
        }
    }
    advice
}

/// Versions that lose or damage data, from the project's own announcements.
pub fn known_bad(version: Version) -> Option<&'static str> {
    match (version.major, version.minor, version.patch) {
        (3, 5, 0..=2) => Some("can corrupt its data when it is killed under load (etcd#13766)"),
        (3, 4, 0..=7) => Some("can corrupt its authentication data (etcd#11651)"),
        _ => None,
    }
}
