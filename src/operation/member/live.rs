//! The members of the live cluster as steps need them.

use std::fmt;

use async_trait::async_trait;

use crate::etcd::cluster::{ClusterView, Reach, observe};
use crate::etcd::membership::Refusal;
use crate::etcd::{ConnectionSettings, Connector, EtcdError, MemberClient};
use crate::node::{ByteStream, NodeName};
use crate::operation::failure::{Failure, FailureKind, etcd_hint};
use crate::operation::returning::reached;
use crate::operation::status::nobody_answers;
use crate::operation::step::{Contents, MemberAnswer, MemberNow, Membership, Refused, Says};
use crate::plan::{Place, PlanId};
use crate::types::HexId;

/// The way to a cluster's members, without a vault.
pub struct Live {
    /// Connects to them.
    pub connector: Connector,
    /// How they are reached.
    pub connection: ConnectionSettings,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live")
            .field("endpoints", &self.connection.endpoints)
            .finish_non_exhaustive()
    }
}

/// All members as the leader lists them: a follower's list may be older than what it is
/// asked about.
pub async fn listed(
    connector: &Connector,
    connection: &ConnectionSettings,
) -> Result<Vec<MemberNow>, Failure> {
    let view = observe(connector, connection, Reach::AllMembers).await;
    let what = "the members were not listed";
    let mut client = voice(&view).ok_or_else(|| nobody_answers(what, &view))?;
    let listed = client.members().await.map_err(|error| failed(what, error))?;
    let members = listed.into_iter().map(|member| {
        let row = view.rows.iter().find(|row| row.member_id() == Some(member.id));
        let answer = match row.map(|row| &row.answer) {
            Some(Ok((_, status))) => Ok(Says {
                leader: status.leader.map(|id| id.to_string()),
                version: status.version.clone(),
                applied: status.raft_applied_index,
                revision: status.revision,
            }),
            Some(Err(silence)) => Err(silence.to_string()),
            None if member.client_urls.is_empty() => Err("has never started".to_owned()),
            None => Err("was not asked".to_owned()),
        };
        MemberNow {
            id: member.id.to_string(),
            name: member.name,
            peer_urls: member.peer_urls,
            client_urls: member.client_urls,
            is_learner: member.is_learner,
            answer,
        }
    });
    let mut members: Vec<MemberNow> = members.collect();
    members.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    Ok(members)
}

/// Whom to ask: the leader, else a voter that answers.
pub(crate) fn voice(view: &ClusterView) -> Option<MemberClient> {
    let voters = || view.rows.iter().filter(|row| !row.is_learner());
    let leader = voters().find(|row| row.status().is_some_and(|status| status.is_leader()));
    let any = || voters().find(|row| row.answer.is_ok());
    leader.or_else(any).and_then(|row| Some(row.answer.as_ref().ok()?.0.clone()))
}

fn failed(what: &str, error: EtcdError) -> Failure {
    let kind = if error.kind.is_of_key() { FailureKind::Key } else { FailureKind::Etcd };
    let mut failure = Failure::new(kind, what);
    failure.hint = etcd_hint(&error);
    failure.because(error)
}

impl Live {
    async fn voice(&self, what: &str) -> Result<MemberClient, Refused> {
        let view = observe(&self.connector, &self.connection, Reach::AllMembers).await;
        voice(&view).ok_or_else(|| Refused::NotYet(nobody_answers(what, &view)))
    }
}

fn refused(what: &str, error: EtcdError) -> Refused {
    let refusal = error.refusal();
    let failure = failed(what, error);
    match refusal {
        Refusal::NotYet => Refused::NotYet(failure),
        Refusal::NoSuchMember => Refused::Gone(failure),
        Refusal::No => Refused::No(failure),
    }
}

fn id(text: &str) -> Result<HexId, Refused> {
    text.parse().map_err(|_| {
        Refused::No(Failure::new(FailureKind::Error, format!("{text:?} is no member's id")))
    })
}

#[async_trait]
impl Membership for Live {
    async fn list(&self) -> Result<Vec<MemberNow>, Failure> {
        listed(&self.connector, &self.connection).await
    }

    async fn add(&self, peer_urls: &[String], learner: bool) -> Result<(), Refused> {
        let what = "the member was not added";
        let added = self.voice(what).await?.add_member(peer_urls, learner).await;
        added.map(drop).map_err(|error| refused(what, error))
    }

    async fn remove(&self, member: &str) -> Result<(), Refused> {
        let what = "the member was not removed";
        let removed = self.voice(what).await?.remove_member(id(member)?).await;
        removed.map_err(|error| refused(what, error))
    }

    async fn update(&self, member: &str, peer_urls: &[String]) -> Result<(), Refused> {
        let what = "the member's address was not set";
        let updated = self.voice(what).await?.update_member(id(member)?, peer_urls).await;
        updated.map_err(|error| refused(what, error))
    }

    async fn promote(&self, member: &str) -> Result<(), Refused> {
        let what = "the learner got no vote";
        let promoted = self.voice(what).await?.promote_member(id(member)?).await;
        promoted.map_err(|error| refused(what, error))
    }

    async fn move_leader(&self, to: &str) -> Result<(), Refused> {
        let what = "the leadership was not moved";
        let moved = self.voice(what).await?.move_leader(id(to)?).await;
        moved.map_err(|error| refused(what, error))
    }
}

fn no_vault() -> Failure {
    Failure::new(FailureKind::Error, "this plan has no vault")
}

#[async_trait]
impl Contents for Live {
    async fn content(&self, _: &str, _: &str, _: &str) -> Result<Vec<u8>, Failure> {
        Err(no_vault())
    }

    async fn save(&self, _: &[Place], _: PlanId, _: bool) -> Result<String, Failure> {
        Err(no_vault())
    }

    async fn saved(&self, _: PlanId) -> Result<Option<String>, Failure> {
        Err(no_vault())
    }

    async fn snapshot(&self, _: &str, _: &NodeName) -> Result<ByteStream, Failure> {
        Err(no_vault())
    }

    async fn members(&self, revision: i64) -> Result<Vec<MemberAnswer>, Failure> {
        reached::members(&self.connector, &self.connection, revision).await
    }

    async fn write(&self) -> Result<(), Failure> {
        reached::write(&self.connector, &self.connection).await
    }

    fn membership(&self) -> Option<&dyn Membership> {
        Some(self)
    }
}
