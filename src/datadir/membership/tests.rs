use super::*;

fn membership(text: &str, token: &str) -> Membership {
    Membership::from_initial_cluster(text, token).expect("membership")
}

#[test]
fn ids_are_those_of_etcd() {
    // What every first start with the defaults shows in its log.
    let default = membership("default=http://localhost:2380", "etcd-cluster");
    assert_eq!(default.members()[0].id, 0x8e9e_05c5_2164_694d);
    assert_eq!(default.cluster_id(), 0xcdf8_18194e3a8c32);
    // Names do not count, the order of URLs does not, spaces around do not.
    let one = membership("a=http://10.0.0.1:2380,a=https://h:1", "t");
    let two = membership("b= https://h:1 ,b=HTTP://10.0.0.1:2380", "t");
    assert_eq!(one.members()[0].id, two.members()[0].id);
    assert_eq!(one.members()[0].peer_urls, ["http://10.0.0.1:2380", "https://h:1"]);
    assert_ne!(
        one.cluster_id(),
        membership("a=http://10.0.0.1:2380,a=https://h:1", "u").cluster_id()
    );
}

#[test]
fn members_ascend_by_id() {
    let three = membership("c=http://h:3,a=http://h:1,b=http://h:2,", "t");
    let ids: Vec<_> = three.members().iter().map(|member| member.id).collect();
    assert!(ids.is_sorted() && ids.len() == 3);
    assert_eq!(three.conf_state().voters, ids);
    assert_eq!(three.member("b").unwrap().peer_urls, ["http://h:2"]);
}

#[test]
fn json_is_that_of_go() {
    let member = Member {
        id: 1234,
        name: "a<b>&\"\\\n\u{1}\u{2028}é".into(),
        peer_urls: vec!["http://10.0.0.1:2380".into(), "unix:///run/a&b".into()],
    };
    assert_eq!(
        member.to_json(),
        r#"{"id":1234,"peerURLs":["http://10.0.0.1:2380","unix:///run/a\u0026b"],"name":"a\u003cb\u003e\u0026\"\\\n\u0001\u2028é"}"#
    );
    let two = membership("a=http://h:1", "t");
    assert_eq!(
        two.conf_state_json(),
        format!("{{\"voters\":[{}],\"auto_leave\":false}}", two.members()[0].id)
    );
}

#[test]
fn the_v2_store_has_the_members_and_nothing_in_slash_1() {
    let two = membership("a=http://h:1,b=http://h:2", "t");
    let store: serde_json::Value = serde_json::from_str(&two.v2_store_json()).expect("JSON");
    assert_eq!(store["CurrentIndex"], 2);
    assert_eq!(store["CurrentVersion"], 2);
    let root = &store["Root"];
    assert_eq!(root["Path"], "/");
    assert_eq!(root["Children"]["1"]["Children"], serde_json::json!({}));
    let members = &root["Children"]["0"]["Children"]["members"];
    assert_eq!(members["Path"], "/0/members");
    for member in two.members() {
        let directory = &members["Children"][member.id_hex()];
        let value = &directory["Children"]["raftAttributes"];
        assert_eq!(value["Path"], format!("/0/members/{}/raftAttributes", member.id_hex()));
        assert_eq!(value["Value"], format!("{{\"peerURLs\":[\"{}\"]}}", member.peer_urls[0]));
        assert_eq!(value["Children"], serde_json::Value::Null);
        assert_eq!(value["ExpireTime"], "0001-01-01T00:00:00Z");
    }
}

#[test]
fn what_etcd_refuses_is_refused() {
    let error = |text| Membership::from_initial_cluster(text, "t").unwrap_err();
    assert_eq!(error(""), MembershipError::Empty);
    assert_eq!(error(",,"), MembershipError::Empty);
    assert!(matches!(error("=http://h:1"), MembershipError::NoName { .. }));
    assert!(matches!(error("a=http://h:1,b=http://h:1"), MembershipError::DuplicateUrl { .. }));
    assert!(matches!(error("a=http://h:1,a=http://h:1"), MembershipError::DuplicateUrl { .. }));
    let problem = |url: &str| PeerUrl::parse(url).unwrap_err().problem;
    for (url, expected) in [
        ("", UrlProblem::Scheme),
        ("h:1", UrlProblem::Scheme),
        ("ftp://h:1", UrlProblem::Scheme),
        ("http:h:1", UrlProblem::Scheme),
        ("http://h", UrlProblem::HostPort),
        ("http://::1:2380", UrlProblem::HostPort),
        ("http://[::1]", UrlProblem::HostPort),
        ("http://[::g]:1", UrlProblem::Character),
        ("http://[fe80::1%25eth0]:1", UrlProblem::Character),
        ("http://h:1/", UrlProblem::Path),
        ("http://h:1?x", UrlProblem::Path),
        ("http://h:1#x", UrlProblem::Path),
        ("http://u:p@h:1", UrlProblem::User),
        ("http://h:", UrlProblem::Port),
        ("http://h:+1", UrlProblem::Port),
        ("http://h:0", UrlProblem::Port),
        ("http://h:65536", UrlProblem::Port),
        ("http://hé:1", UrlProblem::Character),
        ("http://a b:1", UrlProblem::Character),
        ("unix://", UrlProblem::HostPort),
        ("unix:///a b", UrlProblem::Character),
    ] {
        assert_eq!(problem(url), expected, "{url}");
    }
    for url in [
        "http://10.0.0.1:2380",
        "https://[2001:db8::1]:2380",
        "https://node-1.example.com:2380",
        "http://:2380",
        "unix:///run/etcd/peer.sock",
        "unixs://localhost:2380",
    ] {
        assert_eq!(PeerUrl::parse(url).expect(url).as_str(), url);
    }
}

#[test]
fn the_local_member_must_be_part_of_it() {
    let two = membership("a=http://h:1,b=http://h:2,b=http://h:3", "t");
    assert!(two.check_advertised("b", &["http://h:3", " http://h:2"]).is_ok());
    let error = two.check_advertised("b", &["http://h:3"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "member \"b\" advertises http://h:3, but the initial cluster has http://h:2,http://h:3"
    );
    let error = two.member("c").unwrap_err();
    assert_eq!(
        error.to_string(),
        "member \"c\" is not in the initial cluster, which has \"a\", \"b\""
    );
}
