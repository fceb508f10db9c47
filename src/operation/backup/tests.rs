//! The choice of the member that gives the snapshot, and what is said when none could.

use super::*;
use crate::etcd::client::Alarm;
use crate::types::Endpoint;

fn lost(kind: EtcdErrorKind, received: u64) -> (String, Unusable) {
    let endpoint = Endpoint::parse("127.0.0.1:2379", false).unwrap();
    let error = EtcdError::new(kind, &endpoint, "receive the snapshot", "connection reset");
    ("m1".to_owned(), Unusable::after(error, received))
}

#[test]
fn streams_that_broke_name_the_way_and_the_members() {
    let broke = |received| lost(EtcdErrorKind::Broken, received);
    let one = broken_hint(&[broke(9)]).unwrap();
    assert!(one.contains("log") && !one.contains("proxy"), "{one}");
    // How far they came is no matter: a reset discards what was on its way.
    for other in [10_000_000, 7_600_000, 1] {
        let hint = broken_hint(&[broke(10_000_000), broke(other)]).unwrap();
        for word in ["proxy", "load balancer", "--endpoints", "logs"] {
            assert!(hint.contains(word), "{word}: {hint}");
        }
    }
    let ended = Unusable { detail: String::new(), etcd: None, received: 5 };
    assert!(broken_hint(&[broke(9), ("m2".to_owned(), ended)]).is_some());
    // One that never began, that went silent or that refused has a hint of its own.
    let others =
        [broke(0), lost(EtcdErrorKind::Timeout, 9), lost(EtcdErrorKind::PermissionDenied, 9)];
    for other in others {
        assert_eq!(broken_hint(&[broke(9), other]), None);
    }
    assert_eq!(broken_hint(&[]), None);
}

/// A member as the leader or a follower sees itself.
fn status(member: u64, leader: u64, applied: u64) -> MemberStatus {
    MemberStatus {
        cluster_id: HexId(1),
        member_id: HexId(member),
        version: "3.6.14".to_owned(),
        storage_version: None,
        db_size: 1,
        db_size_in_use: 1,
        db_size_quota: None,
        leader: Some(HexId(leader)).filter(|id| id.0 != 0),
        is_learner: false,
        raft_term: 2,
        raft_index: applied,
        raft_applied_index: applied,
        revision: 5,
        errors: Vec::new(),
        downgrade_to: None,
    }
}

/// The ids of the members of a cluster in the order in which they are tried. The
/// endpoints were given in the order of `members`.
async fn order(members: &[MemberStatus], corrupt: &[u64], strategy: Strategy) -> Vec<u64> {
    let endpoint = |status: &MemberStatus| {
        Endpoint::parse(&format!("127.0.0.1:{}", 2000 + status.member_id.0), false).unwrap()
    };
    let mut rows = Vec::new();
    // As `observe` leaves them: in another order than that of the endpoints.
    for status in members.iter().rev() {
        let endpoint = endpoint(status);
        let client = MemberClient::unconnected(&endpoint).await;
        rows.push(Row {
            endpoint: Some(endpoint),
            listed: None,
            answer: Ok((client, status.clone())),
        });
    }
    let alarm = |&member: &u64| Alarm { member_id: HexId(member), alarm: "CORRUPT".to_owned() };
    let alarms = corrupt.iter().map(alarm).collect();
    let view = ClusterView { rows, alarms, list_known: true };
    let settings = ConnectionSettings {
        endpoints: members.iter().map(endpoint).collect(),
        ca_file: None,
        cert_file: None,
        key_file: None,
        credentials: None,
        dial_timeout: Duration::ZERO,
        command_timeout: Duration::ZERO,
    };
    let found = sources(&view, &settings, strategy);
    found.iter().filter_map(|row| row.member_id()).map(|id| id.0).collect()
}

#[tokio::test]
async fn a_follower_that_does_not_lag_else_the_leader() {
    let follower = Strategy::Follower;
    // Of two followers the one that is further, then the one that was named first.
    let three = |second, third| [status(1, 1, 9_000), status(2, 1, second), status(3, 1, third)];
    assert_eq!(order(&three(9_000, 9_000), &[], follower).await, [2, 3, 1]);
    assert_eq!(order(&three(8_999, 9_000), &[], follower).await, [3, 2, 1]);
    // At the limit it still counts as up to date, beyond it the leader is better.
    assert_eq!(order(&three(8_000, 8_000), &[], follower).await, [2, 3, 1]);
    assert_eq!(order(&three(7_999, 7_999), &[], follower).await, [1, 2, 3]);
    assert_eq!(order(&three(7_999, 8_000), &[], follower).await, [3, 1, 2]);
    // The leader is not the measure: one that lags itself is no better than others.
    let behind = [status(1, 1, 100), status(2, 1, 9_000)];
    assert_eq!(order(&behind, &[], Strategy::Leader).await, [2, 1]);
    assert_eq!(order(&three(9_000, 9_000), &[], Strategy::Leader).await, [1, 2, 3]);
}

#[tokio::test]
async fn members_that_are_not_healthy_come_last_and_learners_never() {
    let follower = Strategy::Follower;
    let three = [status(1, 1, 9), status(2, 1, 9), status(3, 1, 9)];
    assert_eq!(order(&three, &[2], follower).await, [3, 1, 2]);
    assert_eq!(order(&three, &[2, 3], follower).await, [1, 2, 3]);
    assert_eq!(order(&three, &[1], Strategy::Leader).await, [2, 3, 1]);
    // Cut off from its leader it may be behind by more than it knows.
    let cut = [status(1, 1, 9), status(2, 0, 9), status(3, 1, 9)];
    assert_eq!(order(&cut, &[], follower).await, [3, 1, 2]);
    // Nobody is healthy: something is better than nothing.
    let lost = [status(2, 0, 8), status(3, 0, 9)];
    assert_eq!(order(&lost, &[], follower).await, [3, 2]);
    let mut learner = three.clone();
    learner[1].is_learner = true;
    for strategy in [follower, Strategy::Leader, Strategy::First] {
        assert!(!order(&learner, &[], strategy).await.contains(&2), "{strategy:?}");
    }
    // The first is the first, whatever is said of it.
    let odd = [status(3, 0, 1), status(1, 1, 9_000), status(2, 1, 9_000)];
    assert_eq!(order(&odd, &[3], Strategy::First).await, [3, 1, 2]);
}
