//! Each rule with a world that breaks it, and one beside it that does not.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use vault::manifest::ProofState;

use super::*;
use crate::datadir::schema::{Alarm, AlarmKind, Member};
use crate::dialect::{EtcdSettings, Invocation};
use crate::node::{Attributes, Facts, FileKind};
use crate::observe::{Certificate, Distribution, Running, Runs, TlsFile};

const NOW: i128 = 1_795_219_200_000_000_000;

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn entry(path: &str, uid: u32) -> Entry {
    Entry {
        path: path.into(),
        kind: FileKind::Directory,
        size: 0,
        modified: 0,
        attributes: Attributes {
            uid,
            gid: uid,
            owner: None,
            group: None,
            mode: 0o700,
            xattrs: BTreeMap::new(),
        },
        target: None,
        mount_point: false,
    }
}

/// The node `k<number>` with a member that runs well.
fn node(number: u8, scheme: &str) -> SeenNode {
    let ip = format!("10.0.0.{number}");
    let own = format!("k{number}");
    let url = |port: u16| format!("{scheme}://{ip}:{port}");
    let all: Vec<String> = (1..=3).map(|n| format!("k{n}={scheme}://10.0.0.{n}:2380")).collect();
    let arguments = [
        "/usr/bin/etcd".to_owned(),
        format!("--name={own}"),
        "--data-dir=/var/lib/etcd".to_owned(),
        format!("--listen-client-urls={}", url(2379)),
        format!("--advertise-client-urls={}", url(2379)),
        format!("--listen-peer-urls={}", url(2380)),
        format!("--initial-advertise-peer-urls={}", url(2380)),
        format!("--initial-cluster={}", all.join(",")),
    ];
    let settings = EtcdSettings::of(&Invocation::running(&arguments, &[] as &[String]), None);
    let tls = |setting: &str, path: &str| TlsFile { setting: setting.into(), path: path.into() };
    let etcd = EtcdService {
        runs: Runs::Unit {
            unit: "etcd.service".into(),
            active: "active".into(),
            enabled: "enabled".into(),
            stale: false,
        },
        files: vec![],
        settings,
        data_dir: "/var/lib/etcd".into(),
        wal_dir: None,
        tls_files: vec![
            tls("cert-file", "/pki/server.crt"),
            tls("peer-cert-file", "/pki/peer.crt"),
        ],
        running: Some(Running { pid: 100, started: 1, uid: 7 }),
        drift: vec![],
    };
    let certificate = |path: &str| Certificate {
        path: path.into(),
        subject: own.clone(),
        issuer: "ca".into(),
        names: vec![ip.clone(), "*.example.org".into()],
        not_before: "2026-01-01T00:00:00Z".parse().unwrap(),
        not_after: "2027-01-01T00:00:00Z".parse().unwrap(),
        is_authority: false,
    };
    let listens = |port: u16| Listener {
        address: format!("{ip}:{port}").parse::<SocketAddr>().unwrap(),
        pid: Some(100),
    };
    let mut reached = Vec::new();
    for other in (1..=3).filter(|other| *other != number) {
        for (peer, port) in [(true, 2380), (false, 2379)] {
            let address = format!("10.0.0.{other}:{port}");
            reached.push(Reached { to: name(&format!("k{other}")), peer, address, error: None });
        }
    }
    let space = Space { available: 4 << 30, total: 8 << 30, read_only: false, device: 1 };
    SeenNode {
        seen: NodeObservation {
            name: name(&own),
            facts: Facts {
                hostname: own.clone(),
                machine_id: None,
                boot_id: String::new(),
                os: String::new(),
                arch: String::new(),
                uid: 0,
                version: String::new(),
                now: NOW,
                addresses: vec![ip.parse().unwrap()],
                systemd: true,
                selinux: false,
            },
            distribution: Distribution::None,
            kubelet: None,
            etcd: vec![etcd],
            api_servers: vec![],
            clients: vec![],
            certificates: vec![certificate("/pki/server.crt"), certificate("/pki/peer.crt")],
            findings: vec![],
        },
        data: Some(SeenData {
            dir: Some(entry("/var/lib/etcd", 7)),
            member: Some(entry("/var/lib/etcd/member", 7)),
            wal: None,
            above: entry("/var/lib/etcd", 7),
            missing: vec![],
            space,
            wal_space: None,
            runs_as: Some((7, 7)),
        }),
        version: Some(Version::new(3, 5, 30)),
        listeners: vec![listens(2379), listens(2380)],
        reached,
        encryption: vec![],
    }
}

fn member(number: u64) -> MemberSeen {
    MemberSeen {
        id: HexId(number),
        name: format!("k{number}"),
        peer_urls: vec![format!("https://10.0.0.{number}:2380")],
        client_urls: vec![format!("https://10.0.0.{number}:2379")],
        is_learner: false,
        version: Some("3.5.30".into()),
    }
}

/// Three members of which nothing is to be said.
pub(in crate::operation) fn well() -> Seen {
    Seen {
        nodes: (1..=3).map(|number| node(number, "https")).collect(),
        unreached: vec![],
        asked: (NOW, NOW),
        live: Live {
            clusters: (1..=3).map(|n| (format!("k{n}"), HexId(0xabc))).collect(),
            members: (1..=3).map(member).collect(),
            alarms: vec![],
            leader: Some("k1".into()),
            revision: Some(200),
            db_size: Some(100 << 20),
        },
        backup: Some(SeenBackup {
            id: "01JD2Y6Q".into(),
            cluster: "prod".into(),
            wanted: "prod".into(),
            lineage: "abc".into(),
            taken: "2026-11-21T06:00:00Z".parse().unwrap(),
            size: 100 << 20,
            revision: 150,
            proof: Proof { state: ProofState::Proven, reasons: vec![] },
            content: Content {
                members: (1..=3)
                    .map(|n| Member {
                        id: n,
                        name: format!("k{n}"),
                        peer_urls: vec![format!("https://10.0.0.{n}:2380")],
                        is_learner: false,
                        client_urls: vec![],
                    })
                    .collect(),
                cluster_version: Some("3.5.0".into()),
                ..Content::default()
            },
            had_v2_keys: false,
            known: vec![("prod".into(), "abc".into()), ("test".into(), "def".into())],
            newer: None,
        }),
    }
}

/// The same with nobody there: etcd is stopped everywhere.
fn down() -> Seen {
    let mut seen = well();
    seen.live = Live::default();
    for node in &mut seen.nodes {
        node.listeners.clear();
        node.seen.etcd[0].running = None;
        if let Runs::Unit { active, .. } = &mut node.seen.etcd[0].runs {
            *active = "inactive".into();
        }
        for reached in &mut node.reached {
            reached.error = Some("Connection refused (os error 111)".into());
        }
    }
    seen
}

fn text(finding: &Finding) -> String {
    let node = finding.node.as_ref().map_or_else(String::new, |node| format!("{node}: "));
    format!("{node}{}", finding.what)
}

fn said(seen: &Seen, severity: Severity) -> Vec<String> {
    judge(seen).iter().filter(|found| found.severity == severity).map(text).collect()
}

/// The only problem, which has a remedy.
#[track_caller]
fn problem(seen: &Seen) -> String {
    let found = judge(seen);
    let problems: Vec<&Finding> =
        found.iter().filter(|found| found.severity == Severity::Problem).collect();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert!(problems[0].hint.is_some(), "{problems:?}");
    text(problems[0])
}

#[test]
fn nothing_is_said_of_a_cluster_that_is_well() {
    assert_eq!(judge(&well()), []);
    assert_eq!(foreign(&well(), false), []);
    let looked = well().looked();
    assert_eq!((looked.nodes, looked.members, looked.connections), (3, 3, 12));
}

#[test]
fn a_cluster_that_is_down_can_be_brought_back() {
    let found = judge(&down());
    assert!(!is_blocked(&found), "{found:?}");
    let notes = said(&down(), Severity::Note);
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].starts_with("nothing listens at etcd's ports on k2, k3, k1"), "{notes:?}");
}

#[test]
fn row_29_a_broken_pair_is_named_with_its_direction() {
    let mut seen = well();
    seen.nodes[0].reached[2].error = Some("no answer within 3s".into());
    assert_eq!(
        problem(&seen),
        "k1: does not reach k3 at 10.0.0.3:2380 (peer port of etcd): no answer within 3s"
    );
    // Without peers there is no cluster; clients may have another way.
    let mut seen = well();
    seen.nodes[0].reached[3].error = Some("No route to host (os error 113)".into());
    assert_eq!(said(&seen, Severity::Problem), Vec::<String>::new());
    assert!(said(&seen, Severity::Warning)[0].contains("10.0.0.3:2379 (client port"));
    // The way is good where nobody listens, and is not where somebody does.
    let mut seen = well();
    seen.nodes[0].reached[0].error = Some("connection refused".into());
    assert!(problem(&seen).ends_with("it is refused, although somebody listens there"));
    seen.nodes[1].listeners.iter_mut().for_each(|it| it.address.set_ip([127, 0, 0, 1].into()));
    assert!(problem(&seen).ends_with("etcd there listens on 127.0.0.1:2380 alone"));
    let mut seen = down();
    seen.nodes[2].reached[1].error = Some("no answer within 3s".into());
    let warnings = said(&seen, Severity::Warning);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
fn room_is_needed_twice_beside_a_member_that_runs() {
    let with = |mut seen: Seen, available: u64| {
        let data = seen.nodes[1].data.as_mut().unwrap();
        data.space.available = available;
        seen
    };
    let (size, log) = (100u64 << 20, 192u64 << 20);
    assert_eq!(judge(&with(well(), 2 * size + log)), []);
    let found = problem(&with(well(), 2 * size + log - 1));
    assert_eq!(
        found,
        "k2: /var/lib/etcd has 411 MB free, and 411 MB are needed beside the present data"
    );
    assert!(!is_blocked(&judge(&with(down(), size + size / 4 + log))));
    assert!(problem(&with(down(), size + size / 4 + log - 1)).contains("free"));
}

#[test]
fn data_that_cannot_be_set_aside() {
    let with = |change: fn(&mut SeenData)| {
        let mut seen = well();
        change(seen.nodes[0].data.as_mut().unwrap());
        seen
    };
    let found = problem(&with(|data| data.member.as_mut().unwrap().mount_point = true));
    assert_eq!(found, "k1: /var/lib/etcd/member is a mount point: it cannot be set aside");
    // The data directory may well be one.
    assert_eq!(judge(&with(|data| data.dir.as_mut().unwrap().mount_point = true)), []);
    let found = problem(&with(|data| data.member.as_mut().unwrap().kind = FileKind::Symlink));
    assert!(found.contains("is a link"), "{found}");
    let found = problem(&with(|data| data.space.read_only = true));
    assert_eq!(found, "k1: /var/lib/etcd is mounted read-only");
}

#[test]
fn owners_follow_what_was_there_else_who_runs() {
    let mut seen = well();
    let data = seen.nodes[0].data.as_mut().unwrap();
    data.runs_as = Some((8, 8));
    assert_eq!(data.owner(), (7, 7));
    let warned = said(&seen, Severity::Warning);
    assert_eq!(warned, ["k1: /var/lib/etcd/member is of user 7, and etcd runs as user 8"]);
    let mut data = seen.nodes[0].data.take().unwrap();
    data.member = None;
    assert_eq!(data.owner(), (7, 7));
    data.dir = None;
    assert_eq!(data.owner(), (8, 8));
    data.runs_as = None;
    data.above = entry("/var/lib", 0);
    assert_eq!(data.owner(), (0, 0));
}

#[test]
fn a_quota_that_is_too_small() {
    let with = |size: u64| {
        let mut seen = well();
        for node in &mut seen.nodes {
            node.data.as_mut().unwrap().space.available = 64 << 30;
        }
        seen.nodes.truncate(1);
        seen.nodes[0].reached.clear();
        seen.live.members.truncate(1);
        seen.backup.as_mut().unwrap().size = size;
        seen
    };
    assert_eq!(judge(&with(1600 << 20)), []);
    let warned = said(&with(1700 << 20), Severity::Warning);
    assert!(warned[0].contains("83 % of the quota of 2147 MB"), "{warned:?}");
    assert!(problem(&with(2 << 30)).contains("100 % of the quota"));
}

#[test]
fn versions_are_compared_with_each_other_and_the_backup() {
    let mut seen = well();
    seen.nodes[0].version = Some(Version::new(3, 5, 1));
    assert!(said(&seen, Severity::Warning)[0].contains("etcd 3.5.1 can corrupt"));
    seen.nodes[0].version = Some(Version::new(3, 6, 1));
    let warned = said(&seen, Severity::Warning);
    assert_eq!(warned, ["the members run different versions: k1 3.6.1, k2 3.5.30, k3 3.5.30"]);
    seen.nodes.iter_mut().for_each(|node| node.version = Some(Version::new(3, 4, 23)));
    let problems = said(&seen, Severity::Problem);
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems[0].starts_with("k1: etcd 3.4.23 is too old for backup 01JD2Y6Q"));
    seen.nodes.iter_mut().for_each(|node| node.version = None);
    assert!(said(&seen, Severity::Note)[0].contains("on k1, k2, k3 is not known"));
}

#[test]
fn certificates_hold_for_the_addresses_and_the_time() {
    let with = |at: usize, change: fn(&mut Certificate)| {
        let mut seen = well();
        change(&mut seen.nodes[2].seen.certificates[at]);
        seen
    };
    let other = |certificate: &mut Certificate| certificate.names = vec!["10.0.0.30".into()];
    let found = problem(&with(1, other));
    assert!(found.starts_with("k3: /pki/peer.crt (peer-cert-file) does not hold for 10.0.0.3,"));
    let warned = said(&with(0, other), Severity::Warning);
    assert!(warned[0].contains("/pki/server.crt (cert-file) does not hold for"), "{warned:?}");
    let later = |certificate: &mut Certificate| {
        certificate.not_before = "2026-12-01T00:00:00Z".parse().unwrap();
    };
    assert!(problem(&with(0, later)).contains("in the future by this node's clock"));
    // Plain HTTP asks for none.
    let mut seen = well();
    seen.nodes[0] = node(1, "http");
    seen.nodes[0].seen.certificates[1].names.clear();
    seen.live.members[0].peer_urls = vec!["http://10.0.0.1:2380".into()];
    assert_eq!(judge(&seen), []);
}

#[test]
fn names_in_certificates() {
    let mut certificate = well().nodes[0].seen.certificates[0].clone();
    certificate.names = vec!["10.0.0.1".into(), "*.example.org".into(), "Etcd.Local.".into()];
    for (host, holds) in [
        ("10.0.0.1", true),
        ("10.0.0.10", false),
        ("a.example.org", true),
        ("a.b.example.org", false),
        ("example.org", false),
        ("etcd.local", true),
        ("::1", false),
    ] {
        assert_eq!(servers::holds_for(&certificate, host), holds, "{host}");
    }
}

/// Row 5: a flag that was left behind is taken out where it need not be put back.
#[test]
fn row_5_a_member_that_is_told_to_begin_anew() {
    for up in [true, false] {
        let mut seen = if up { well() } else { down() };
        let etcd = &mut seen.nodes[1].seen.etcd[0];
        let arguments = ["/usr/bin/etcd", "--name=k2", "--force-new-cluster"].map(str::to_owned);
        etcd.settings = EtcdSettings::of(&Invocation::running(&arguments, &[] as &[String]), None);
        let forced = |severity| {
            let said = said(&seen, severity);
            said.into_iter().filter(|text| text.contains("force-new-cluster")).count()
        };
        assert_eq!(forced(Severity::Problem), usize::from(up));
        assert_eq!(forced(Severity::Warning), usize::from(!up));
    }
}

#[test]
fn ports_that_somebody_else_holds() {
    let mut seen = down();
    let listener = |address: &str, pid| Listener { address: address.parse().unwrap(), pid };
    seen.nodes[0].listeners = vec![listener("127.0.0.1:2380", Some(5))];
    assert!(!is_blocked(&judge(&seen)));
    seen.nodes[0].listeners = vec![listener("0.0.0.0:2380", Some(5))];
    for node in &mut seen.nodes {
        node.reached.clear();
    }
    assert_eq!(problem(&seen), "k1: port 2380, which etcd needs, is held by process 5");
    seen.nodes[0].listeners = vec![listener("10.0.0.1:2379", None)];
    assert!(problem(&seen).contains("a process that cannot be seen"));
}

#[test]
fn clocks_and_rights() {
    let mut seen = well();
    seen.nodes[1].seen.facts.now = NOW + 120_000_000_000;
    assert_eq!(said(&seen, Severity::Warning), ["k2: its clock is 2 min ahead of this machine's"]);
    let mut seen = well();
    seen.nodes[1].seen.facts.uid = 1000;
    assert!(problem(&seen).starts_with("k2: the login is not root"));
    let mut seen = well();
    seen.nodes[1].seen.etcd[0].runs = Runs::Process;
    assert!(problem(&seen).starts_with("k2: etcd runs neither in a unit nor in a static pod"));
}

#[test]
fn members_that_are_on_none_of_the_nodes() {
    let mut seen = well();
    seen.nodes.pop();
    seen.nodes.iter_mut().for_each(|node| node.reached.clear());
    assert_eq!(
        problem(&seen),
        "member k3 (3) at https://10.0.0.3:2380 is on none of the nodes: it would go on with \
         the data of now"
    );
    // Nobody answers: the settings tell.
    seen.live = Live::default();
    let found = problem(&seen);
    assert!(
        found.starts_with("initial-cluster on k1, k2 names member k3 at https://10.0.0.3:2380")
    );
    // Its node is not reached, then declared dead, then only known by its address.
    let lost = |dead, known_as: &[&str]| Unreached {
        node: "third".into(),
        why: "ssh".into(),
        dead,
        known_as: known_as.iter().map(|text| (*text).to_owned()).collect(),
    };
    seen.unreached = vec![lost(false, &[])];
    assert_eq!(said(&seen, Severity::Problem).len(), 2);
    seen.unreached = vec![lost(true, &["10.0.0.3"])];
    assert_eq!(said(&seen, Severity::Problem), Vec::<String>::new());
    seen.unreached = vec![lost(true, &["10.0.0.30"])];
    assert!(problem(&seen).contains("names member k3"));
}

#[test]
fn members_that_nobody_could_reach() {
    let mut seen = well();
    seen.live.members[1].peer_urls = vec!["https://127.0.0.1:2380".into()];
    let problems = said(&seen, Severity::Problem);
    assert!(problems.iter().any(|line| line.starts_with("k2: k2 tells the others to reach it at")));
    let mut seen = well();
    seen.nodes[1].seen.etcd = seen.nodes[0].seen.etcd.clone();
    let problems = said(&seen, Severity::Problem);
    assert!(problems.contains(&"k1, k2 all call their member k1".to_owned()), "{problems:?}");
    let mut seen = well();
    seen.nodes.iter_mut().for_each(|node| node.seen.etcd.clear());
    seen.live = Live::default();
    assert!(problem(&seen).starts_with("none of the nodes runs etcd"));
}

#[test]
fn other_clusters_and_alarms() {
    let mut seen = well();
    seen.live.clusters[2].1 = HexId(0xdef);
    let warned = said(&seen, Severity::Warning);
    assert_eq!(warned, ["members of different clusters answer: k1 of abc, k2 of abc, k3 of def"]);
    let mut seen = well();
    seen.live.alarms = vec![("k2".into(), "NOSPACE".into())];
    assert_eq!(said(&seen, Severity::Warning), ["alarm NOSPACE is raised for member k2"]);
    seen.backup.as_mut().unwrap().content.alarms =
        vec![Alarm { member: 2, kind: AlarmKind::NoSpace }];
    assert!(problem(&seen).starts_with("the backup holds the alarm NOSPACE"));
}

#[test]
fn what_is_encrypted_at_rest_can_be_read() {
    let mut seen = well();
    let path = || PathBuf::from("/etc/kubernetes/enc.yaml");
    seen.nodes[0].encryption = vec![(path(), Some([1; 32]))];
    assert_eq!(judge(&seen), []);
    seen.nodes[0].encryption = vec![(path(), None)];
    assert!(problem(&seen).starts_with("k1: /etc/kubernetes/enc.yaml, with the keys"));
}

#[test]
fn what_a_backup_is() {
    let with = |change: fn(&mut SeenBackup)| {
        let mut seen = well();
        change(seen.backup.as_mut().unwrap());
        seen
    };
    let proof = |state| Proof { state, reasons: vec!["k2 differs".into()] };
    let mut seen = well();
    seen.backup.as_mut().unwrap().proof = proof(ProofState::Mismatch);
    assert!(problem(&seen).starts_with("backup 01JD2Y6Q DIFFERS"));
    seen.backup.as_mut().unwrap().proof = proof(ProofState::NotProven);
    assert!(said(&seen, Severity::Note)[0].contains("is not proven: k2 differs"));
    assert!(said(&with(|it| it.had_v2_keys = true), Severity::Warning)[0].contains("v2 API"));
    assert!(said(&with(|it| it.content.auth_enabled = true), Severity::Note)[0].contains("auth"));
    let newer = with(|it| it.newer = Some(("01JD9".into(), it.taken, 190)));
    assert_eq!(
        said(&newer, Severity::Note),
        ["backup 01JD9 of 2026-11-21 06:00:00 UTC is newer, by 40 revisions"]
    );
}

#[test]
fn a_backup_of_another_cluster_is_known() {
    let only = |seen: &Seen| {
        let found = foreign(seen, false);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].severity, Severity::Problem);
        found[0].what.clone()
    };
    let mut seen = well();
    seen.backup.as_mut().unwrap().wanted = "test".into();
    assert_eq!(only(&seen), "backup 01JD2Y6Q is of cluster prod, and test is to be restored");
    let mut seen = well();
    seen.live.clusters.iter_mut().for_each(|it| it.1 = HexId(0xdef));
    assert!(only(&seen).starts_with("the cluster that runs here is test in the vault"));
    // Not even who says that names and members are others means to lose that one.
    assert_eq!(foreign(&seen, true).len(), 1);
    // One that the vault does not know was restored since, or is new.
    seen.live.clusters.iter_mut().for_each(|it| it.1 = HexId(0x123));
    assert_eq!(foreign(&seen, false), []);
    let mut seen = down();
    for member in &mut seen.backup.as_mut().unwrap().content.members {
        member.name = format!("x{}", member.id);
        member.peer_urls = vec![format!("https://10.9.0.{}:2380", member.id)];
    }
    assert_eq!(
        only(&seen),
        "backup 01JD2Y6Q is of the members x1, x2, x3, and none of them is here: these nodes have \
         k1, k2, k3"
    );
    seen.backup.as_mut().unwrap().wanted = "test".into();
    assert_eq!(foreign(&seen, true), [], "it is said that they are others");
    seen.backup.as_mut().unwrap().wanted = "prod".into();
    seen.backup.as_mut().unwrap().content.members.clear();
    assert_eq!(foreign(&seen, false), []);
}
