//! `member list`: every member, what it says, and where it is configured.

use serde::Serialize;

use crate::dialect::host;
use crate::etcd::cluster::{ClusterView, Reach, observe};
use crate::etcd::{ConnectionSettings, Connector};
use crate::operation::failure::Failure;
use crate::operation::status::{self, Advice, nobody_answers};
use crate::types::HexId;

/// A node of the configuration: its name and address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAt {
    /// Its name.
    pub name: String,
    /// Its address or host name.
    pub address: Option<String>,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemberRow {
    /// Its id; `None` for an endpoint behind which nobody answered.
    pub id: Option<HexId>,
    /// Its name; `None` where it never started, or is not known.
    pub name: Option<String>,
    /// Which node of the configuration it is on.
    pub node: Option<String>,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// Whether it has no vote.
    pub learner: bool,
    /// Whether it leads.
    pub leader: bool,
    /// Its version.
    pub version: Option<String>,
    /// Bytes of its database's file.
    pub db_size: Option<u64>,
    /// Bytes of it in use.
    pub db_size_in_use: Option<u64>,
    /// Its store's revision.
    pub revision: Option<i64>,
    /// The last entry of the log that it knows to be agreed on.
    pub raft_index: Option<u64>,
    /// Entries that the member furthest ahead knows and this one has not applied.
    pub behind: Option<u64>,
    /// Its alarms.
    pub alarms: Vec<String>,
    /// Why it says nothing of itself.
    pub error: Option<String>,
}

/// All of them.
#[derive(Debug, Serialize)]
pub struct MembersReport {
    /// Those that are listed, and endpoints behind which nobody answered.
    pub members: Vec<MemberRow>,
    /// Whether the member list was read.
    pub list_known: bool,
    /// Whether the cluster works, and what can be lost.
    pub summary: String,
    /// What needs doing.
    pub advice: Vec<Advice>,
}

impl MembersReport {
    /// Whether every member answered.
    pub fn is_complete(&self) -> bool {
        self.list_known && self.members.iter().all(|member| member.error.is_none())
    }
}

/// Asks all members. A failure where none answers.
pub async fn list(
    connector: &Connector,
    connection: &ConnectionSettings,
    nodes: &[NodeAt],
) -> Result<MembersReport, Failure> {
    let view = observe(connector, connection, Reach::AllMembers).await;
    if view.rows.iter().all(|row| row.answer.is_err()) {
        return Err(nobody_answers("the members were not listed", &view));
    }
    Ok(report(&view, nodes))
}

fn report(view: &ClusterView, nodes: &[NodeAt]) -> MembersReport {
    let status = status::report(view);
    let ahead = view.rows.iter().filter_map(|row| row.status()).map(|it| it.raft_index).max();
    let members = view.rows.iter().map(|row| {
        let (listed, status) = (row.listed.as_ref(), row.status());
        let urls = |urls: Option<&Vec<String>>| urls.cloned().unwrap_or_default();
        let name = listed.map(|member| member.name.clone()).filter(|name| !name.is_empty());
        let peer_urls = urls(listed.map(|member| &member.peer_urls));
        let client_urls = urls(listed.map(|member| &member.client_urls));
        let (all, own) = (&view.alarms, row.member_id());
        let alarms = all.iter().filter(|alarm| Some(alarm.member_id) == own);
        MemberRow {
            id: own,
            node: node_of(name.as_deref(), peer_urls.iter().chain(&client_urls), nodes),
            name,
            peer_urls,
            client_urls,
            learner: row.is_learner(),
            leader: status.is_some_and(|status| status.is_leader()),
            version: status.map(|status| status.version.clone()),
            db_size: status.map(|status| status.db_size),
            // 0 is what a member says that does not know.
            db_size_in_use: status.map(|status| status.db_size_in_use).filter(|size| *size > 0),
            revision: status.map(|status| status.revision),
            raft_index: status.map(|status| status.raft_index),
            behind: status
                .zip(ahead)
                .map(|(status, ahead)| ahead.saturating_sub(status.raft_applied_index)),
            alarms: alarms.map(|alarm| alarm.alarm.clone()).collect(),
            error: row.answer.as_ref().err().map(ToString::to_string),
        }
    });
    MembersReport {
        members: members.collect(),
        list_known: view.list_known,
        summary: status.summary(),
        advice: status.advice,
    }
}

/// The node of the configuration on which a member is: the one at its address, else the
/// one of its name. None where it is not clear.
pub fn node_of<'u>(
    name: Option<&str>,
    urls: impl Iterator<Item = &'u String>,
    nodes: &[NodeAt],
) -> Option<String> {
    let hosts: Vec<&str> = urls.filter_map(|url| host(url)).collect();
    let at = |node: &&NodeAt| {
        let address = node.address.as_deref();
        hosts.iter().any(|host| address == Some(host) || *host == node.name)
    };
    let mut by_address = nodes.iter().filter(at);
    match (by_address.next(), by_address.next()) {
        (Some(only), None) => return Some(only.name.clone()),
        (Some(_), Some(_)) => return None,
        (None, _) => {}
    }
    nodes.iter().find(|node| Some(node.name.as_str()) == name).map(|node| node.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_by_address_then_by_name() {
        let node = |name: &str, address: Option<&str>| NodeAt {
            name: name.into(),
            address: address.map(str::to_owned),
        };
        let nodes =
            [node("k1", Some("10.0.0.1")), node("k10", Some("10.0.0.10")), node("m3", None)];
        let find = |name: Option<&str>, url: &str| node_of(name, [url.to_owned()].iter(), &nodes);
        assert_eq!(find(Some("other"), "https://10.0.0.10:2380").as_deref(), Some("k10"));
        assert_eq!(find(Some("other"), "https://10.0.0.1:2380").as_deref(), Some("k1"));
        // The address counts more than the name.
        assert_eq!(find(Some("k1"), "http://10.0.0.10:2380").as_deref(), Some("k10"));
        assert_eq!(find(Some("m3"), "http://10.0.0.7:2380").as_deref(), Some("m3"));
        assert_eq!(find(None, "http://m3:2380").as_deref(), Some("m3"));
        assert_eq!(find(Some("m4"), "http://10.0.0.100:2380"), None);
        let twice = [node("a", Some("127.0.0.1")), node("b", Some("127.0.0.1"))];
        assert_eq!(node_of(Some("a"), ["http://127.0.0.1:1".to_owned()].iter(), &twice), None);
    }
}
