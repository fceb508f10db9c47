//! What runs where, between two looks: each thing that the topology consists of, and
//! nothing where nothing differs.

use std::collections::BTreeMap;

use super::super::describe::{ClusterSeen, Description, MemberSeen, Program, Runs, UnitSeen};
use super::{Drift, cluster_drift, drift};
use crate::types::HexId;

fn member(number: u64) -> MemberSeen {
    MemberSeen {
        id: HexId(number),
        name: format!("n{number}"),
        peer_urls: vec![format!("https://10.0.0.{number}:2380")],
        client_urls: vec![format!("https://10.0.0.{number}:2379")],
        is_learner: false,
        version: Some("3.5.16".into()),
    }
}

fn cluster() -> ClusterSeen {
    let members = vec![member(1), member(2), member(3)];
    ClusterSeen { cluster_id: HexId(7), revision: Some(9), members }
}

fn line(drift: &Drift) -> String {
    let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
    let node = drift.node.as_deref().unwrap_or("cluster");
    format!("{node}: {}: {} → {}", drift.what, shown(&drift.was), shown(&drift.is))
}

/// What is told when `change` is all that happened to the cluster.
fn cluster_told(change: impl Fn(&mut ClusterSeen)) -> Vec<String> {
    let (was, mut is) = (cluster(), cluster());
    change(&mut is);
    cluster_drift(Some(&was), Some(&is)).iter().map(line).collect()
}

#[test]
fn each_change_of_the_cluster_is_told_once() {
    let none: Vec<String> = Vec::new();
    assert_eq!(cluster_told(|_| {}), none);
    // Written to meanwhile is no other topology.
    assert_eq!(cluster_told(|is| is.revision = Some(10)), none);
    let two = "2";
    for (change, told) in [
        (
            (|is| is.cluster_id = HexId(8)) as fn(&mut ClusterSeen),
            "cluster: cluster id: 7 → 8".to_owned(),
        ),
        (
            |is| is.members[1].name = "new".into(),
            format!("cluster: member new ({two}): name: n2 → new"),
        ),
        (
            |is| is.members[1].peer_urls = vec!["https://10.0.0.9:2380".into()],
            format!(
                "cluster: member n2 ({two}): peer URLs: https://10.0.0.2:2380 → \
                 https://10.0.0.9:2380"
            ),
        ),
        (
            |is| is.members[1].client_urls.push("http://127.0.0.1:2379".into()),
            format!(
                "cluster: member n2 ({two}): client URLs: https://10.0.0.2:2379 → \
                 https://10.0.0.2:2379,http://127.0.0.1:2379"
            ),
        ),
        (
            |is| is.members[1].is_learner = true,
            format!("cluster: member n2 ({two}): role: voter → learner"),
        ),
        (
            |is| is.members[1].version = Some("3.6.0".into()),
            format!("cluster: member n2 ({two}): version: 3.5.16 → 3.6.0"),
        ),
        (
            |is| drop(is.members.remove(1)),
            format!("cluster: member {two}: n2 at https://10.0.0.2:2380 → -"),
        ),
        (
            |is| is.members.push(member(4)),
            "cluster: member 4: - → n4 at https://10.0.0.4:2380".to_owned(),
        ),
    ] {
        assert_eq!(cluster_told(change), [told]);
    }
    // A member that does not answer has a version all the same, and where nobody answers
    // nothing is known.
    assert_eq!(cluster_told(|is| is.members[1].version = None), none);
    assert_eq!(cluster_drift(Some(&cluster()), None), []);
    assert_eq!(cluster_drift(None, Some(&cluster())), []);
}

fn program(runs: Runs) -> Program {
    let options = [("name", "n1"), ("listen-client-urls", "https://10.0.0.1:2379")];
    Program {
        runs,
        running: true,
        image: None,
        options: options.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
    }
}

fn node() -> Description {
    let unit = UnitSeen { active: "active".into(), enabled: "enabled".into() };
    Description {
        hostname: "n1".into(),
        machine_id: Some("a1".into()),
        os: "Debian GNU/Linux 13".into(),
        arch: "x86_64".into(),
        addresses: vec!["10.0.0.1".into()],
        etcd: Some(program(Runs::Unit { name: "etcd.service".into() })),
        apiserver: None,
        units: BTreeMap::from([("etcd.service".to_owned(), unit)]),
        data_dirs: vec!["/var/lib/etcd".into()],
        unseen: Vec::new(),
    }
}

/// What is told when `change` is all that happened to the node.
fn node_told(change: impl Fn(&mut Description)) -> Vec<String> {
    let (was, mut is) = (node(), node());
    change(&mut is);
    drift("k1", &was, &is).iter().map(line).collect()
}

fn etcd(is: &mut Description) -> &mut Program {
    is.etcd.get_or_insert_with(|| program(Runs::Process))
}

#[test]
fn each_change_of_a_node_is_told_once() {
    assert_eq!(node_told(|_| {}), Vec::<String>::new());
    for (change, told) in [
        (
            (|is| {
                etcd(is).runs =
                    Runs::StaticPod { manifest: "/etc/kubernetes/manifests/etcd.yaml".into() };
            }) as fn(&mut Description),
            "etcd: external, unit etcd.service → embedded, static pod \
             /etc/kubernetes/manifests/etcd.yaml",
        ),
        (|is| is.etcd = None, "etcd: external, unit etcd.service → -"),
        (
            |is| is.apiserver = Some(program(Runs::Process)),
            "kube-apiserver: - → a process of its own",
        ),
        (|is| etcd(is).running = false, "etcd: running → stopped"),
        (|is| etcd(is).image = Some("etcd:3.6".into()), "etcd image: - → etcd:3.6"),
        (
            |is| drop(etcd(is).options.insert("name".into(), "other".into())),
            "etcd --name: n1 → other",
        ),
        (
            |is| drop(etcd(is).options.remove("listen-client-urls")),
            "etcd --listen-client-urls: https://10.0.0.1:2379 → -",
        ),
        (
            |is| drop(etcd(is).options.insert("initial-cluster".into(), "a=b".into())),
            "etcd --initial-cluster: - → a=b",
        ),
        (|is| is.machine_id = Some("b2".into()), "machine id: a1 → b2"),
        (|is| is.hostname = "other".into(), "host name: n1 → other"),
        (|is| is.addresses.push("10.9.0.1".into()), "addresses: 10.0.0.1 → 10.0.0.1, 10.9.0.1"),
        (
            |is| {
                is.units.values_mut().for_each(|unit| unit.enabled = "disabled".into());
            },
            "unit etcd.service: active, enabled → active, disabled",
        ),
        (|is| is.units.clear(), "unit etcd.service: active, enabled → -"),
        (
            |is| is.data_dirs = vec!["/srv/etcd".into()],
            "data directories: /var/lib/etcd → /srv/etcd",
        ),
    ] {
        assert_eq!(node_told(change), [format!("k1: {told}")]);
    }
}
