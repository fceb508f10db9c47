//! All members of a cluster at once: a dead one is a row, not a failure.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde::Serialize;

use super::client::{Alarm, Connector, ListedMember, MemberClient, MemberStatus};
use super::error::{EtcdError, EtcdErrorKind};
use crate::types::{ConnectionSettings, Endpoint, HexId};

/// A member, or an endpoint behind which no member answered.
#[derive(Debug)]
pub struct Row {
    /// Where it was asked.
    pub endpoint: Option<Endpoint>,
    /// What the member list says of it; `None` when it is not known which member
    /// should be behind the endpoint.
    pub listed: Option<ListedMember>,
    /// Its connection and what it says of itself, or why there is none.
    pub answer: Result<(MemberClient, MemberStatus), Silence>,
}

/// Why a member has no status.
#[derive(Debug, Clone)]
pub enum Silence {
    /// It could not be asked.
    Failed(EtcdError),
    /// It has never started: the member list has no address for it.
    Unstarted,
}

impl std::fmt::Display for Silence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed(error) => write!(f, "{}: {}", error.act, error.detail),
            Self::Unstarted => f.write_str("has never started"),
        }
    }
}

impl Row {
    /// Its name for people: the member's name, else the endpoint.
    pub fn label(&self) -> String {
        match (&self.listed, &self.endpoint) {
            (Some(listed), _) if !listed.name.is_empty() => listed.name.clone(),
            (_, Some(endpoint)) => endpoint.authority().to_owned(),
            (Some(listed), None) => listed.id.to_string(),
            (None, None) => "?".to_owned(),
        }
    }

    /// Its id, when known.
    pub fn member_id(&self) -> Option<HexId> {
        match (&self.listed, &self.answer) {
            (_, Ok((_, status))) => Some(status.member_id),
            (Some(listed), _) => Some(listed.id),
            _ => None,
        }
    }

    /// Whether it is a learner, by its own word or the list's.
    pub fn is_learner(&self) -> bool {
        match (&self.answer, &self.listed) {
            (Ok((_, status)), _) => status.is_learner,
            (Err(_), Some(listed)) => listed.is_learner,
            (Err(_), None) => false,
        }
    }

    /// Its status, when it answered.
    pub fn status(&self) -> Option<&MemberStatus> {
        self.answer.as_ref().ok().map(|(_, status)| status)
    }
}

/// What could be seen of a cluster.
#[derive(Debug)]
pub struct ClusterView {
    /// One row for each member, and for each given endpoint that did not answer.
    pub rows: Vec<Row>,
    /// Alarms that are raised.
    pub alarms: Vec<Alarm>,
    /// Whether the member list was read: without it there may be more members.
    pub list_known: bool,
}

impl ClusterView {
    /// Whether a CORRUPT alarm concerns this member. (Every member's status repeats the
    /// alarms of all.)
    pub fn is_corrupt(&self, member: HexId) -> bool {
        self.alarms.iter().any(|alarm| alarm.alarm == "CORRUPT" && alarm.member_id == member)
    }
}

/// How far to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Reach {
    /// Only the endpoints that were given.
    Given,
    /// Also the members that the member list names.
    AllMembers,
}

/// Asks every endpoint, reads the member list from the first that has it, and asks
/// the members that no endpoint led to. Never fails: an unreachable cluster is a
/// view in which nobody answered.
pub async fn observe(
    connector: &Connector,
    settings: &ConnectionSettings,
    reach: Reach,
) -> ClusterView {
    let given = join_all(settings.endpoints.iter().map(|endpoint| ask(connector, endpoint))).await;
    let mut view = ClusterView { rows: Vec::new(), alarms: Vec::new(), list_known: false };
    let mut list = Vec::new();
    for (client, status) in given.iter().filter_map(|(_, answer)| answer.as_ref().ok()) {
        let mut client = client.clone();
        if let Ok(members) = client.members().await {
            list = members;
            view.list_known = true;
            // They come through the log: without a leader nobody ever answers.
            if status.leader.is_some() {
                view.alarms = client.alarms().await.unwrap_or_default();
            }
            break;
        }
    }
    let mut by_id: BTreeMap<HexId, Row> = BTreeMap::new();
    let mut unknown = Vec::new();
    for (endpoint, answer) in given {
        let id = match &answer {
            Ok((_, status)) => Some(status.member_id),
            // Which member should have answered: the one that advertises this address.
            Err(_) => list.iter().find(|m| client_endpoints(m).contains(&endpoint)).map(|m| m.id),
        };
        let listed = id.and_then(|id| list.iter().find(|m| m.id == id).cloned());
        let row = Row { endpoint: Some(endpoint), listed, answer: answer.map_err(Silence::Failed) };
        match id {
            // Several endpoints may lead to one member; one that answers wins.
            Some(id) if by_id.get(&id).is_none_or(|old| old.answer.is_err()) => {
                by_id.insert(id, row);
            }
            Some(_) => {}
            None => unknown.push(row),
        }
    }
    if reach == Reach::AllMembers {
        let others = list.iter().filter(|m| !by_id.contains_key(&m.id)).cloned();
        let rows = join_all(others.map(|member| ask_listed(connector, member))).await;
        by_id.extend(rows);
    }
    view.rows = by_id.into_values().chain(unknown).collect();
    view.rows.sort_by_key(|row| (row.listed.is_none(), row.label()));
    view
}

async fn ask(
    connector: &Connector,
    endpoint: &Endpoint,
) -> (Endpoint, Result<(MemberClient, MemberStatus), EtcdError>) {
    (endpoint.clone(), connector.open(endpoint).await)
}

async fn ask_listed(connector: &Connector, member: ListedMember) -> (HexId, Row) {
    let mut row = Row { endpoint: None, answer: Err(Silence::Unstarted), listed: None };
    for endpoint in client_endpoints(&member) {
        let (endpoint, answer) = ask(connector, &endpoint).await;
        row.answer = match answer {
            // Everybody who advertises localhost leads to the same member: whoever
            // answers under another's address does not speak for it.
            Ok((_, status)) if status.member_id != member.id => {
                let other = format!("another member answers there ({})", status.member_id);
                let error = EtcdError::new(EtcdErrorKind::Refused, &endpoint, "connect", other);
                Err(Silence::Failed(error))
            }
            answer => answer.map_err(Silence::Failed),
        };
        row.endpoint = Some(endpoint);
        if row.answer.is_ok() {
            break;
        }
    }
    let id = member.id;
    row.listed = Some(member);
    (id, row)
}

fn client_endpoints(member: &ListedMember) -> Vec<Endpoint> {
    member.client_urls.iter().filter_map(|url| Endpoint::parse(url, false).ok()).collect()
}
