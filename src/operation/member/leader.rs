//! `move-leader`: another member leads, and it is looked whether it does.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::live::Live;
use crate::operation::failure::{Failure, FailureKind};
use crate::operation::step::{MemberNow, Membership as _, Refused};

/// Until another leads: elections take a second or a few.
const MOVED: Duration = Duration::from_secs(60);
/// How often it is looked at.
const PAUSE: Duration = Duration::from_millis(200);

const WHAT: &str = "the leadership was not moved";

/// Who led and who leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// The name of the one that led.
    pub from: String,
    /// The name of the one that leads.
    pub to: String,
    /// Its id.
    pub to_id: String,
    /// Whether it led already.
    pub already: bool,
}

/// Has `to` lead, by name or id; without one the voter that is furthest with the log.
pub async fn move_leader(live: &Live, to: Option<&str>) -> Result<Moved, Failure> {
    let members = live.list().await?;
    let (from, to) = choose(&members, to)?;
    let moved = |already| Moved {
        from: from.label().to_owned(),
        to: to.label().to_owned(),
        to_id: to.id.clone(),
        already,
    };
    if from.id == to.id {
        return Ok(moved(true));
    }
    hand_over(live, &from.id, &to.id).await?;
    Ok(moved(false))
}

/// Hands the leadership of `from` to `to`, and waits until that one leads.
pub(super) async fn hand_over(live: &Live, from: &str, to: &str) -> Result<(), Failure> {
    let until = Instant::now() + MOVED;
    loop {
        let last = match live.move_leader(to).await {
            // Wherever it went since then is looked at below.
            Ok(()) | Err(Refused::Gone(_)) => None,
            Err(Refused::NotYet(failure)) => Some(failure),
            Err(Refused::No(failure)) => return Err(failure),
        };
        let leads = live.list().await?.into_iter().find(MemberNow::leads);
        if leads.as_ref().is_some_and(|leader| leader.id == to) {
            return Ok(());
        }
        if Instant::now() >= until {
            let state = match leads {
                Some(it) if it.id == from => format!("{} leads as before", it.label()),
                Some(it) => format!("{} leads", it.label()),
                None => "nobody leads".to_owned(),
            };
            return Err(last.unwrap_or_else(|| Failure::new(FailureKind::Etcd, WHAT)).state(state));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Who leads, and who is to.
fn choose<'a>(
    members: &'a [MemberNow],
    to: Option<&str>,
) -> Result<(&'a MemberNow, &'a MemberNow), Failure> {
    let refused = |why: String| Failure::new(FailureKind::Etcd, WHAT).detail(why);
    let from = members.iter().find(|member| member.leads()).ok_or_else(|| {
        refused("no member leads: there is no quorum".to_owned())
            .hint("etcdvault status shows which members answer")
    })?;
    let to = match to {
        Some(text) => super::find(members, text, WHAT)?,
        None => successor(members, &from.id)
            .ok_or_else(|| refused("no other voter is well enough to lead".to_owned()))?,
    };
    if to.is_learner {
        return Err(refused(format!("{} is a learner and cannot lead", to.label())));
    }
    if !to.is_well() {
        let why = to.answer.as_ref().err().map_or("it knows no leader", String::as_str);
        return Err(refused(format!("{} does not answer: {why}", to.label())));
    }
    Ok((from, to))
}

/// The voter that is furthest with the log, without `from`.
pub(crate) fn successor<'a>(members: &'a [MemberNow], from: &str) -> Option<&'a MemberNow> {
    let fit = members.iter().filter(|it| it.id != from && !it.is_learner && it.is_well());
    fit.max_by_key(|it| it.answer.as_ref().map_or(0, |says| says.applied))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::step::Says;

    fn member(name: &str, applied: u64, leader: &str) -> MemberNow {
        MemberNow {
            id: name.into(),
            name: name.into(),
            peer_urls: Vec::new(),
            client_urls: Vec::new(),
            is_learner: false,
            answer: Ok(Says {
                leader: Some(leader.into()),
                version: "3.6.16".into(),
                applied,
                revision: 1,
            }),
        }
    }

    #[test]
    fn the_one_furthest_ahead_is_chosen() {
        let mut members = [member("k1", 90, "k1"), member("k2", 80, "k1"), member("k3", 85, "k1")];
        assert_eq!(choose(&members, None).unwrap().1.name, "k3");
        assert_eq!(choose(&members, Some("k2")).unwrap().1.name, "k2");
        members[2].is_learner = true;
        assert_eq!(choose(&members, None).unwrap().1.name, "k2");
        let refused = choose(&members, Some("k3")).unwrap_err();
        assert_eq!(refused.details, ["k3 is a learner and cannot lead"]);
        members[1].answer = Err("connect: connection refused".into());
        assert!(choose(&members, None).is_err());
        let refused = choose(&members, Some("k2")).unwrap_err();
        assert_eq!(refused.details, ["k2 does not answer: connect: connection refused"]);
    }
}
