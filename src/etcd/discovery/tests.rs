//! Names, hostile answers, and what each version makes of the records.

use super::*;

fn domain(name: Option<&str>) -> SrvDomain {
    SrvDomain { domain: "example.com".into(), name: name.map(Into::into), nameserver: None }
}

fn answer(service: Service, records: &[(&str, u16, u16, u16)]) -> SrvAnswer {
    let mut answer = SrvAnswer {
        query: service.record(&domain(None)),
        outcome: Outcome::Absent,
        targets: Vec::new(),
        rejected: Vec::new(),
    };
    for &(host, port, priority, weight) in records {
        answer.add(service, host.to_owned(), port, priority, weight);
    }
    answer.sort();
    answer
}

fn records(peer_tls: bool, peer_plain: bool) -> SrvRecords {
    let of = |service, there: bool| {
        answer(service, if there { &[("m1.example.com.", 2380, 0, 0)] } else { &[] })
    };
    SrvRecords {
        client_tls: of(Service::ClientTls, false),
        client_plain: of(Service::ClientPlain, false),
        peer_tls: of(Service::PeerTls, peer_tls),
        peer_plain: of(Service::PeerPlain, peer_plain),
    }
}

#[test]
fn names_are_etcds() {
    let name = |service: Service, suffix| service.record(&domain(suffix));
    assert_eq!(name(Service::ClientTls, None), "_etcd-client-ssl._tcp.example.com");
    assert_eq!(name(Service::ClientPlain, Some("k8s")), "_etcd-client-k8s._tcp.example.com");
    assert_eq!(name(Service::PeerTls, Some("k8s")), "_etcd-server-ssl-k8s._tcp.example.com");
    assert_eq!(name(Service::PeerPlain, None), "_etcd-server._tcp.example.com");
}

#[test]
fn tls_comes_first_and_the_order_is_that_of_the_records() {
    let mut all = records(false, false);
    all.client_tls = answer(
        Service::ClientTls,
        &[("c.", 2379, 20, 0), ("b.", 2379, 10, 1), ("a.", 4001, 10, 5), ("a.", 4001, 10, 5)],
    );
    all.client_plain = answer(Service::ClientPlain, &[("d.", 2379, 0, 0)]);
    let shown: Vec<_> = all.client_endpoints().iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["https://a:4001", "https://b:2379", "https://c:2379", "http://d:2379"]);
}

#[test]
fn hostile_records_are_left_out_with_the_reason() {
    let hostile = [
        (".", 2379, 0, 0),
        ("user@evil.", 2379, 0, 0),
        ("a/b.", 2379, 0, 0),
        ("a\\010b.", 2379, 0, 0),
        ("m1.", 0, 0, 0),
        ("m2.", 2379, 0, 0),
    ];
    let answer = answer(Service::ClientTls, &hostile);
    assert_eq!(answer.targets.len(), 1);
    assert_eq!(answer.rejected.len(), 5, "{answer:?}");
    let many: Vec<_> = (1..=1000).map(|port| ("m.", port, 0, 0)).collect();
    assert_eq!(super::tests::answer(Service::ClientTls, &many).targets.len(), MAX_RECORDS);
}

#[test]
fn row_14_by_version() {
    let old = Version::new(3, 4, 23);
    let new = Version::new(3, 5, 16);
    let fatal = |version, records: &SrvRecords| {
        diagnose_srv(version, records).into_iter().filter(|f| f.weight == Weight::Fatal).count()
    };
    assert_eq!(fatal(old, &records(false, true)), 1, "3.4 needs the TLS lookup");
    assert_eq!(fatal(new, &records(false, true)), 0, "3.5 does not");
    assert!(diagnose_srv(old, &records(true, false)).is_empty());
    assert!(diagnose_srv(new, &records(true, false)).is_empty());
    let beside = diagnose_srv(old, &records(true, true));
    assert!(beside[0].problem.contains("takes the TLS records alone"), "{beside:?}");
    assert!(!beside[0].remedy.is_empty());
    let mut failed = records(false, true);
    failed.peer_tls.outcome = Outcome::Failed("SERVFAIL".into());
    let findings = diagnose_srv(old, &failed);
    assert!(findings[0].problem.contains("SERVFAIL"), "{findings:?}");
    assert!(findings[0].remedy.contains("3.5"), "{findings:?}");
}
