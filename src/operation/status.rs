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

pub(super) fn report(view: &ClusterView) -> StatusReport {
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
                    "compare the members (etcdctl endpoint hashkv --cluster); the one that differs \
                     begins anew: etcdvault member repair"
                } else {
                    "compact, then etcdvault defrag, then etcdctl alarm disarm"
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
                "etcdvault defrag: one member at a time, the leader last",
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

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A member of which nothing needs doing.
    fn well(name: &str) -> MemberRow {
        MemberRow {
            endpoint: Some(format!("http://{name}:2379")),
            name: Some(name.to_owned()),
            member_id: Some(HexId(7)),
            is_learner: false,
            status: Some(MemberStatus {
                cluster_id: HexId(1),
                member_id: HexId(7),
                version: "3.6.14".to_owned(),
                storage_version: None,
                db_size: 100 * MIB,
                db_size_in_use: 90 * MIB,
                db_size_quota: None,
                leader: Some(HexId(7)),
                is_learner: false,
                raft_term: 2,
                raft_index: 10,
                raft_applied_index: 10,
                revision: 5,
                errors: Vec::new(),
                downgrade_to: None,
            }),
            alarms: Vec::new(),
            error: None,
        }
    }

    /// The member `a` with another status.
    fn with(change: impl FnOnce(&mut MemberStatus)) -> MemberRow {
        let mut member = well("a");
        if let Some(status) = &mut member.status {
            change(status);
        }
        member
    }

    fn said(members: &[MemberRow]) -> Vec<Advice> {
        advice(members, true, true)
    }

    /// The one problem that is said of `members`.
    #[track_caller]
    fn only(members: &[MemberRow]) -> Advice {
        let mut advice = said(members);
        assert_eq!(advice.len(), 1, "{advice:?}");
        advice.remove(0)
    }

    #[track_caller]
    fn nothing(members: &[MemberRow]) {
        assert_eq!(said(members), []);
    }

    #[test]
    fn a_cluster_that_is_well_needs_nothing() {
        nothing(&[well("a"), well("b"), well("c")]);
    }

    #[test]
    fn no_leader_no_list_and_members_that_are_silent() {
        let silent = |name| MemberRow { status: None, ..well(name) };
        let members = [well("a"), silent("b")];
        assert_eq!(only(&members).problem, "b does not answer");
        assert!(only(&members).hint.contains("journalctl -u etcd"));
        let members = [well("a"), silent("b"), silent("c")];
        assert_eq!(only(&members).problem, "b, c do not answer");
        let unnamed = MemberRow { name: None, ..silent("d") };
        assert_eq!(only(&[unnamed]).problem, "http://d:2379 does not answer");
        // Without a leader that is the first thing, and says what to do of the silent ones.
        let found = advice(&members, false, true);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].problem, "no leader");
        let found = advice(&[well("a")], true, false);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].problem.contains("member list could not be read"), "{found:?}");
    }

    #[test]
    fn alarms_have_a_hint_each() {
        let alarms = vec!["NOSPACE".to_owned(), "CORRUPT".to_owned()];
        let found = said(&[well("b"), MemberRow { alarms, ..well("a") }]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0].problem, "a: alarm NOSPACE");
        assert!(found[0].hint.contains("alarm disarm"), "{found:?}");
        assert_eq!(found[1].problem, "a: alarm CORRUPT");
        assert!(found[1].hint.contains("hashkv") && !found[1].hint.contains("disarm"), "{found:?}");
    }

    #[test]
    fn other_clusters_and_versions() {
        let other = with(|status| status.cluster_id = HexId(2));
        assert!(only(&[well("b"), other]).problem.contains("different clusters"));
        // Patches of one line are no upgrade under way.
        nothing(&[well("b"), with(|status| status.version = "3.6.2".to_owned())]);
        let older = with(|status| status.version = "3.5.30".to_owned());
        assert_eq!(only(&[well("b"), older]).problem, "members run different versions");
        let target = with(|status| status.downgrade_to = Some("3.5.0".to_owned()));
        assert_eq!(only(&[target]).problem, "a: a downgrade to 3.5.0 is under way");
    }

    #[test]
    fn versions_that_damage_data() {
        let running = |version: &str| [with(|status| status.version = version.to_owned())];
        for bad in ["3.5.0", "3.5.2", "3.4.0", "3.4.7"] {
            let found = only(&running(bad));
            assert!(found.problem.starts_with(&format!("a: etcd {bad} can ")), "{found:?}");
            assert_eq!(found.hint, "upgrade");
        }
        for good in ["3.5.3", "3.5.30", "3.4.8", "3.4.44", "3.6.0", "3.7.0", "unknown"] {
            nothing(&running(good));
        }
    }

    #[test]
    fn a_database_near_its_quota() {
        let filled = |size: u64, quota: Option<u64>| {
            [with(|status| {
                status.db_size = size;
                status.db_size_in_use = size;
                status.db_size_quota = quota;
            })]
        };
        nothing(&filled(800 * MIB, Some(1000 * MIB)));
        let found = only(&filled(800 * MIB + 1, Some(1000 * MIB)));
        assert_eq!(found.problem, "a: the database fills 80 % of its quota");
        assert!(found.hint.contains("--quota-backend-bytes"), "{found:?}");
        let full = only(&filled(1100 * MIB, Some(1000 * MIB)));
        assert!(full.problem.contains("110 %"), "{full:?}");
        // Before 3.6 nobody tells the quota: etcd's default is 2 GiB.
        let four_fifths = (2 << 30) / 5 * 4;
        nothing(&filled(four_fifths, None));
        let found = only(&filled(four_fifths + MIB, None));
        assert!(found.problem.ends_with("80 % of its quota (assumed)"), "{found:?}");
    }

    #[test]
    fn a_file_that_is_mostly_free() {
        let used = |size: u64, in_use: u64| {
            [with(|status| {
                status.db_size = size;
                status.db_size_in_use = in_use;
            })]
        };
        nothing(&used(100 * MIB, 50 * MIB));
        let found = only(&used(100 * MIB, 50 * MIB - 1));
        assert_eq!(found.problem, "a: more than half of the database file is free space");
        assert!(found.hint.contains("defrag"), "{found:?}");
        // A small file is not worth it, and 0 is what a member says that does not know.
        nothing(&used(64 * MIB, MIB));
        assert_eq!(said(&used(64 * MIB + 1, MIB)).len(), 1);
        nothing(&used(100 * MIB, 0));
    }

    #[test]
    fn what_members_complain_of_is_repeated_once() {
        let complains = |error: &str| [with(|status| status.errors = vec![error.to_owned()])];
        assert_eq!(only(&complains("the moon is full")).problem, "a: the moon is full");
        // Said above, with a hint that fits.
        nothing(&complains("memberID:7 alarm:NOSPACE "));
        nothing(&complains("etcdserver: no leader"));
    }
}
