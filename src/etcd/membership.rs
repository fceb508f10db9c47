//! Changes of the membership and of who leads: each a call to one member, none of them
//! tried twice here.

use std::time::Duration;

use etcd_client::MemberAddOptions;

use super::client::MemberClient;
use super::error::{EtcdError, EtcdErrorKind};
use crate::types::HexId;

/// The bound on a defragmentation: the member writes its whole database anew.
const DEFRAGMENT_TIMEOUT: Duration = Duration::from_secs(900);

/// Why a change of the membership was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It may be taken later: members were not connected for long enough, a learner is
    /// behind, there is no leader at this moment, or no answer came.
    NotYet,
    /// There is no such member: it may have been removed by a call whose answer was lost.
    NoSuchMember,
    /// Not as things are.
    No,
}

impl EtcdError {
    /// What the refusal of a change of the membership means. The texts are those of
    /// etcd's `api/v3rpc/rpctypes/error.go`.
    pub fn refusal(&self) -> Refusal {
        let has = |text: &str| self.detail.contains(text);
        match self.kind {
            EtcdErrorKind::NoLeader
            | EtcdErrorKind::Timeout
            | EtcdErrorKind::Unreachable
            | EtcdErrorKind::Broken => Refusal::NotYet,
            _ if has("member not found") => Refusal::NoSuchMember,
            _ if has("unhealthy cluster")
                || has("in sync with leader")
                || has("not leader")
                || has("request timed out")
                || has("too many requests") =>
            {
                Refusal::NotYet
            }
            _ => Refusal::No,
        }
    }
}

impl MemberClient {
    /// Adds a member that has not started, and returns its id.
    pub async fn add_member(
        &mut self,
        peer_urls: &[String],
        learner: bool,
    ) -> Result<HexId, EtcdError> {
        let mut client = self.client.clone();
        let options = learner.then(|| MemberAddOptions::new().with_is_learner());
        let call = async move { client.member_add(peer_urls, options).await };
        let added = self.call("add a member", call).await?;
        match added.member() {
            Some(member) => Ok(HexId(member.id())),
            None => {
                let why = "the answer names no member";
                Err(EtcdError::new(EtcdErrorKind::Refused, self.endpoint(), "add a member", why))
            }
        }
    }

    /// Takes a member out of the cluster, for good: its id never comes back.
    pub async fn remove_member(&mut self, id: HexId) -> Result<(), EtcdError> {
        let mut client = self.client.clone();
        let call = async move { client.member_remove(id.0).await };
        self.call("remove a member", call).await.map(drop)
    }

    /// Sets where a member's peers reach it.
    pub async fn update_member(
        &mut self,
        id: HexId,
        peer_urls: &[String],
    ) -> Result<(), EtcdError> {
        let mut client = self.client.clone();
        let call = async move { client.member_update(id.0, peer_urls).await };
        self.call("update a member", call).await.map(drop)
    }

    /// Lets a learner vote. etcd 3.4 up to 3.4.23 lets one that never started: whoever
    /// calls this has heard from the learner itself.
    pub async fn promote_member(&mut self, id: HexId) -> Result<(), EtcdError> {
        let mut client = self.client.clone();
        let call = async move { client.member_promote(id.0).await };
        self.call("promote a member", call).await.map(drop)
    }

    /// Hands the leadership of this member, which has to lead, to another.
    pub async fn move_leader(&mut self, to: HexId) -> Result<(), EtcdError> {
        let mut client = self.client.clone();
        let call = async move { client.move_leader(to.0).await };
        self.call("move the leadership", call).await.map(drop)
    }

    /// Writes this member's database anew without its free pages. It answers nobody
    /// meanwhile.
    pub async fn defragment(&mut self) -> Result<(), EtcdError> {
        let mut client = self.client.clone();
        let call = async move { client.defragment().await };
        self.call_within(DEFRAGMENT_TIMEOUT, "defragment its database", call).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Endpoint;

    #[test]
    fn refusals_by_what_etcd_says() {
        let endpoint = Endpoint::parse("http://k1:2379", false).unwrap();
        let refusal = |kind, text: &str| EtcdError::new(kind, &endpoint, "act", text).refusal();
        let refused = |text| refusal(EtcdErrorKind::Refused, text);
        for text in [
            "unhealthy cluster",
            "can only promote a learner member which is in sync with leader",
            "not leader",
        ] {
            assert_eq!(refused(text), Refusal::NotYet, "{text}");
        }
        assert_eq!(refusal(EtcdErrorKind::NoLeader, "no leader"), Refusal::NotYet);
        assert_eq!(refusal(EtcdErrorKind::Timeout, "no answer"), Refusal::NotYet);
        assert_eq!(refused("member not found"), Refusal::NoSuchMember);
        for text in [
            "re-configuration failed due to not enough started members",
            "too many learner members in cluster",
            "Peer URLs already exists",
        ] {
            assert_eq!(refused(text), Refusal::No, "{text}");
        }
        assert_eq!(refusal(EtcdErrorKind::PermissionDenied, "permission denied"), Refusal::No);
    }
}
