//! `defrag`: databases without their free pages, one member after another, the leader
//! last, and only where it is worth it.
//!
//! - A member answers nobody while it does it: the next one is begun only when all are
//!   well again, and none where one more could not be missed.
//! - The leader hands over first where somebody else can lead: no election, no stall.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::leader::{hand_over, successor};
use super::live::Live;
use super::quorum::Voters;
use crate::etcd::cluster::{ClusterView, Reach, Row, observe};
use crate::event::Events;
use crate::operation::failure::{Failure, FailureKind};
use crate::operation::status::nobody_answers;
use crate::operation::step::{MemberNow, Membership as _};

/// Until all members are well again after one of them.
const WELL: Duration = Duration::from_secs(120);
/// How often they are asked.
const PAUSE: Duration = Duration::from_millis(500);

const WHAT: &str = "not all members were defragmented";

/// What is asked for.
#[derive(Debug, Clone)]
pub struct DefragOptions {
    /// A member is defragmented where at least so large a share of its file is free, in
    /// percent.
    pub free_percent: u8,
    /// And at least so many bytes.
    pub free_bytes: u64,
    /// These alone, by name or id, however little it is worth; else all.
    pub members: Vec<String>,
    /// Whether the leader keeps leading while it is defragmented.
    pub keep_leader: bool,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What became of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Done {
    /// Its database was written anew.
    Defragmented,
    /// It would be.
    Would,
    /// It is not worth it.
    NotWorthIt,
    /// It does not answer.
    Silent,
    /// It refused, or something before it went wrong.
    Not,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DefragRow {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: Option<String>,
    /// Whether it led when it began.
    pub leader: bool,
    /// What became of it.
    pub done: Done,
    /// Bytes of its file before.
    pub before: Option<u64>,
    /// Bytes in use before.
    pub in_use: Option<u64>,
    /// Bytes of its file afterwards.
    pub after: Option<u64>,
    /// How long it answered nobody.
    pub seconds: Option<f64>,
    /// Why not.
    pub error: Option<String>,
}

/// What was done.
#[derive(Debug, Serialize)]
pub struct DefragReport {
    /// In the order in which they came.
    pub members: Vec<DefragRow>,
    /// Who was asked to lead instead.
    pub led_by: Option<String>,
    /// Bytes that are free on the members' disks now.
    pub freed: u64,
    /// NOSPACE alarms that stand, by the members' names.
    pub no_space: Vec<String>,
}

impl DefragReport {
    /// Whether all that should have been done was done.
    pub fn is_complete(&self) -> bool {
        self.members.iter().all(|row| !matches!(row.done, Done::Silent | Done::Not))
    }
}

/// Whether a file is worth it.
fn is_worth(size: u64, in_use: u64, options: &DefragOptions) -> bool {
    // 0 is what a member says that does not know.
    let free = size.saturating_sub(in_use);
    in_use > 0
        && free >= options.free_bytes
        && u128::from(free) * 100 >= u128::from(size) * u128::from(options.free_percent)
}

fn row(row: &Row, options: &DefragOptions, named: bool) -> DefragRow {
    let status = row.status();
    let sizes = status.map(|status| (status.db_size, status.db_size_in_use));
    DefragRow {
        name: row.label(),
        id: row.member_id().map(|id| id.to_string()),
        leader: status.is_some_and(|status| status.is_leader()),
        done: match sizes {
            None => Done::Silent,
            Some((size, in_use)) if named || is_worth(size, in_use, options) => Done::Would,
            Some(_) => Done::NotWorthIt,
        },
        before: sizes.map(|(size, _)| size),
        in_use: sizes.map(|(_, in_use)| in_use).filter(|size| *size > 0),
        after: None,
        seconds: None,
        error: row.answer.as_ref().err().map(ToString::to_string),
    }
}

/// The members in the order in which they come: the leader last.
fn order(view: &ClusterView, options: &DefragOptions) -> Result<Vec<DefragRow>, Failure> {
    let named = |row: &Row| {
        let id = row.member_id().map(|id| id.to_string());
        options.members.iter().any(|text| *text == row.label() || Some(text) == id.as_ref())
    };
    if let Some(other) = options.members.iter().find(|text| {
        let is = |row: &Row| {
            **text == row.label() || row.member_id().is_some_and(|id| id.to_string() == **text)
        };
        !view.rows.iter().any(is)
    }) {
        let labels: Vec<String> = view.rows.iter().map(Row::label).collect();
        return Err(Failure::new(FailureKind::Usage, format!("no member {other:?}"))
            .state("nothing was defragmented")
            .hint(format!("the members are {}", labels.join(", "))));
    }
    let wanted = view.rows.iter().filter(|row| options.members.is_empty() || named(row));
    let mut rows: Vec<DefragRow> = wanted.map(|it| row(it, options, named(it))).collect();
    rows.sort_by_key(|row| row.leader);
    Ok(rows)
}

/// Defragments the members that are worth it. A failure only where nothing could be
/// looked at: what went wrong with a member is in the report.
pub async fn defrag(
    live: &Live,
    options: &DefragOptions,
    events: &Events,
) -> Result<DefragReport, Failure> {
    let view = observe(&live.connector, &live.connection, Reach::AllMembers).await;
    if view.rows.iter().all(|row| row.answer.is_err()) {
        return Err(nobody_answers("nothing was defragmented", &view));
    }
    let rows = order(&view, options)?;
    let silent = view.rows.iter().filter(|row| row.answer.is_err());
    let lost: Vec<String> =
        silent.filter_map(|row| row.member_id()).map(|id| id.to_string()).collect();
    let no_space = view.alarms.iter().filter(|alarm| alarm.alarm == "NOSPACE").map(|alarm| {
        let row = view.rows.iter().find(|row| row.member_id() == Some(alarm.member_id));
        row.map_or_else(|| alarm.member_id.to_string(), Row::label)
    });
    let mut report =
        DefragReport { no_space: no_space.collect(), members: rows, led_by: None, freed: 0 };
    if options.dry_run {
        return Ok(report);
    }
    for at in 0..report.members.len() {
        if report.members[at].done != Done::Would {
            continue;
        }
        let name = report.members[at].name.clone();
        events.started(format!("defragmenting {name}"), None);
        let done = one(live, &mut report.members[at], &mut report.led_by, &lost, options).await;
        events.finished();
        if let Err(failure) = done {
            let mut why = vec![failure.what.clone()];
            why.extend(failure.details.iter().cloned());
            why.extend(failure.causes());
            report.members[at].done = Done::Not;
            report.members[at].error = Some(why.join(": "));
            // One at a time, and none behind one that is not well.
            let left = report.members.iter_mut().skip(at + 1);
            for row in left.filter(|row| row.done == Done::Would) {
                row.done = Done::Not;
                row.error = Some(format!("not begun, as {name} is not done"));
            }
            break;
        }
    }
    report.freed =
        report.members.iter().filter_map(|row| Some(row.before?.saturating_sub(row.after?))).sum();
    Ok(report)
}

async fn one(
    live: &Live,
    row: &mut DefragRow,
    led_by: &mut Option<String>,
    lost: &[String],
    options: &DefragOptions,
) -> Result<(), Failure> {
    let failed = |why: String| Failure::new(FailureKind::Etcd, WHAT).detail(why);
    let members = all_well(live, lost).await?;
    let id = row.id.clone().unwrap_or_default();
    let member = members.iter().find(|member| member.id == id);
    let member = member.ok_or_else(|| failed(format!("{} is no member any more", row.name)))?;
    let voters = voters(&members);
    // Of two that are both well none can be spared either, and there is no other way.
    let some_lost = voters.well < voters.all;
    if !member.is_learner && some_lost && !voters.without(true).with(false).works() {
        return Err(failed(format!("{voters}: {} cannot be spared for a moment", row.name)));
    }
    if member.leads()
        && !options.keep_leader
        && let Some(next) = successor(&members, &id)
    {
        hand_over(live, &id, &next.id).await?;
        *led_by = Some(next.label().to_owned());
    }
    let view = observe(&live.connector, &live.connection, Reach::AllMembers).await;
    let found = view.rows.iter().find(|it| it.member_id().is_some_and(|it| it.to_string() == id));
    let (mut client, status) = match found.map(|found| &found.answer) {
        Some(Ok((client, status))) => (client.clone(), status.clone()),
        Some(Err(silence)) => return Err(failed(silence.to_string())),
        None => return Err(failed(format!("{} is no member any more", row.name))),
    };
    let begun = Instant::now();
    client.defragment().await.map_err(|error| failed(error.to_string()))?;
    row.seconds = Some(begun.elapsed().as_secs_f64());
    row.before = Some(status.db_size);
    let after = client.status().await.map_err(|error| failed(error.to_string()))?;
    row.after = Some(after.db_size);
    row.done = Done::Defragmented;
    all_well(live, lost).await.map(drop)
}

fn voters(members: &[MemberNow]) -> Voters {
    let voting = || members.iter().filter(|member| !member.is_learner);
    Voters { all: voting().count(), well: voting().filter(|member| member.is_well()).count() }
}

/// Waits until all voters are well but those that were lost when it began.
async fn all_well(live: &Live, lost: &[String]) -> Result<Vec<MemberNow>, Failure> {
    let until = Instant::now() + WELL;
    loop {
        let members = live.list().await?;
        let unwell = members
            .iter()
            .find(|member| !member.is_learner && !member.is_well() && !lost.contains(&member.id));
        let Some(unwell) = unwell else { return Ok(members) };
        if Instant::now() >= until {
            let why = unwell.answer.as_ref().err().map_or("it knows no leader", String::as_str);
            return Err(Failure::new(FailureKind::Etcd, WHAT)
                .detail(format!("{} is not well: {why}", unwell.label())));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_worth_it() {
        let options = DefragOptions {
            free_percent: 45,
            free_bytes: 100,
            members: Vec::new(),
            keep_leader: false,
            dry_run: false,
        };
        assert!(is_worth(1000, 550, &options));
        assert!(!is_worth(1000, 551, &options));
        assert!(!is_worth(180, 90, &options), "90 bytes");
        assert!(!is_worth(1000, 0, &options), "it does not know");
        assert!(!is_worth(100, 1000, &options));
        assert!(is_worth(u64::MAX, 1, &options));
    }
}
