//! `member`, `defrag` and `move-leader` against real servers: what the quorum allows is
//! done and looked at, what it does not is refused before the cluster is asked.

#[path = "common/program.rs"]
mod common;

use std::time::{Duration, Instant};

use etcd_client::{Client, CompactionOptions, GetOptions, MemberAddOptions};
use harness::cli::{Cli, Ran};
use harness::etcd::Cluster;
use harness::port::Port;
use harness::proxy::Proxy;
use serde_json::Value;

use common::{fill, program};

/// On a slow machine, whatever is waited for.
const BOUND: Duration = Duration::from_secs(120);

async fn run(cli: &Cli, args: &[&str], code: i32) -> Ran {
    cli.run(args).await.unwrap().expect(code)
}

async fn members(cli: &Cli, code: i32) -> Vec<Value> {
    let listed = run(cli, &["member", "list", "--json"], code).await.json();
    listed["members"].as_array().unwrap().clone()
}

#[track_caller]
fn named<'a>(members: &'a [Value], name: &str) -> &'a Value {
    let found = members.iter().find(|member| member["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {members:#?}"))
}

/// Asks until the list is as it has to be: leadership and indexes settle by themselves.
async fn until(cli: &Cli, code: i32, what: &str, is: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let ran = cli.run(["member", "list", "--json"]).await.unwrap();
        if ran.code == Some(code) {
            let found = ran.json()["members"].as_array().unwrap().clone();
            if is(&found) {
                return found;
            }
        }
        assert!(begun.elapsed() < BOUND, "{what}: {ran}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// etcd takes no new member before those that are there were connected for a while.
async fn announce(client: &mut Client, url: &str, learner: bool) -> String {
    let begun = Instant::now();
    loop {
        let options = learner.then(|| MemberAddOptions::new().with_is_learner());
        match client.member_add([url], options).await {
            Ok(added) => return format!("{:x}", added.member().unwrap().id()),
            Err(error) => {
                assert!(error.to_string().contains("unhealthy"), "{error}");
                assert!(begun.elapsed() < BOUND, "{error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// Row 17, row 26: every member with all that it says; a dead one is a row.
#[tokio::test]
async fn row_17_row_26_members_are_listed() {
    let mut cluster = Cluster::builder("3.6").members(3).start().await.unwrap();
    let cli = program().cluster(&cluster);
    cluster.client().await.unwrap().put("key", "value", None).await.unwrap();
    let leader = format!("m{}", cluster.leader().await.unwrap() + 1);
    let listed = until(&cli, 0, "one leads", |all| {
        all.iter().filter(|it| it["leader"] == true).count() == 1
    })
    .await;
    assert_eq!(listed.len(), 3);
    for (number, member) in listed.iter().enumerate() {
        let own = &cluster.members()[number];
        assert_eq!(member["name"], own.name());
        assert_eq!(member["peer_urls"][0], own.peer_url());
        assert_eq!(member["client_urls"][0], own.client_url());
        assert_eq!(member["learner"], false);
        assert_eq!(member["leader"], own.name() == leader);
        assert_eq!(member["revision"], 2);
        assert!(member["db_size"].as_u64().unwrap() >= member["db_size_in_use"].as_u64().unwrap());
        assert!(member["version"].as_str().unwrap().starts_with("3.6."));
        assert_eq!((&member["error"], &member["node"]), (&Value::Null, &Value::Null));
    }
    let shown = run(&cli, &["member", "list"], 0).await.text();
    assert!(shown.lines().next().unwrap().starts_with("NAME  ID"), "{shown}");
    assert!(shown.contains("3 of 3 members answer: the cluster works, 1 can be lost."), "{shown}");

    // A node of the configuration is found by its address.
    let root = tempfile::tempdir().unwrap();
    let config = root.path().join("etcdvault.toml");
    let endpoints: Vec<String> = cluster.endpoints().iter().map(|url| format!("{url:?}")).collect();
    let text = format!(
        "[cluster.prod]\nendpoints = [{}]\nnodes = [\"m2\"]\n\n[node.m2]\n",
        endpoints.join(", ")
    );
    std::fs::write(&config, text).unwrap();
    let configured = program().env("ETCDVAULT_CONFIG", &config);
    let listed = members(&configured, 0).await;
    assert_eq!(named(&listed, "m2")["node"], "m2");
    assert_eq!(named(&listed, "m1")["node"], Value::Null);

    let lost = cluster.leader().await.unwrap();
    let name = format!("m{}", lost + 1);
    cluster.member(lost).kill().unwrap();
    let listed = until(&cli, 3, "another leads", |all| {
        all.iter().filter(|it| it["leader"] == true).count() == 1
    })
    .await;
    let silent = named(&listed, &name);
    assert!(silent["error"].as_str().unwrap().contains("connection refused"), "{silent}");
    assert_eq!(silent["revision"], Value::Null);
    let shown = run(&cli, &["member", "list"], 3).await.text();
    assert!(shown.contains(&format!("{name} does not answer")), "{shown}");
    assert!(shown.contains("stops working when one more is lost"), "{shown}");
}

/// Row 17: the leadership goes where it is told to, and it is seen there.
#[tokio::test]
async fn row_17_the_leadership_is_moved() {
    for series in ["3.4", "3.6"] {
        let mut cluster = Cluster::builder(series).members(3).start().await.unwrap();
        let cli = program().cluster(&cluster);
        let led = cluster.leader().await.unwrap();
        let (from, to) = (format!("m{}", led + 1), format!("m{}", (led + 1) % 3 + 1));
        let moved = run(&cli, &["move-leader", "--to", &to, "--json"], 0).await.json();
        assert_eq!((&moved["from"], &moved["to"]), (&from.as_str().into(), &to.as_str().into()));
        assert_eq!(moved["already"], false);
        assert_eq!(cluster.leader().await.unwrap(), (led + 1) % 3, "{series}");
        let again = run(&cli, &["move-leader", "--to", &to], 0).await.text();
        assert_eq!(again, format!("{to} leads already\n"));
        // Without a name somebody else leads.
        let moved = run(&cli, &["move-leader", "--json"], 0).await.json();
        assert_eq!(moved["from"], to.as_str());
        assert_ne!(moved["to"], to.as_str());

        let wrong = run(&cli, &["move-leader", "--to", "m9"], 2).await;
        assert!(wrong.stderr.contains("the members are m1, m2, m3"), "{wrong}");
        let lost = cluster.leader().await.unwrap();
        let silent = (lost + 1) % 3;
        cluster.member(silent).kill().unwrap();
        let name = format!("m{}", silent + 1);
        let refused = run(&cli, &["move-leader", "--to", &name], 30).await;
        assert!(refused.stderr.contains(&format!("{name} does not answer")), "{refused}");
        assert_eq!(cluster.leader().await.unwrap(), lost);
    }
}

/// Members come one after the other, the leader last, and only those that are worth it.
#[tokio::test]
async fn databases_are_defragmented_where_it_is_worth_it() {
    let mut cluster = Cluster::builder("3.6").members(3).start().await.unwrap();
    let cli = program().cluster(&cluster);
    fill(&cluster, 12).await;
    let mut client = cluster.client().await.unwrap();
    client.put("kept", "value", None).await.unwrap();
    let range = etcd_client::DeleteOptions::new().with_prefix();
    let gone = client.delete("random/", Some(range)).await.unwrap();
    let revision = gone.header().unwrap().revision();
    let physical = CompactionOptions::new().with_physical();
    client.compact(revision, Some(physical)).await.unwrap();
    // Freed pages are free only after a commit.
    let worth = ["--free-mib", "4"];
    let begun = Instant::now();
    let would = loop {
        let args = [&["defrag", "--dry-run", "--json"][..], &worth].concat();
        let would = run(&cli, &args, 0).await.json();
        let all = would["members"].as_array().unwrap().clone();
        if all.iter().all(|member| member["done"] == "would") {
            break all;
        }
        assert!(begun.elapsed() < BOUND, "{would}");
        client.put("kept", "value", None).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    let leader = format!("m{}", cluster.leader().await.unwrap() + 1);
    assert_eq!(would[2]["name"], leader.as_str(), "the leader is last: {would:#?}");
    // Nothing is worth it where less is free than is asked for, and nothing was done yet.
    let little = run(&cli, &["defrag", "--free-mib", "1000", "--json"], 0).await.json();
    let little = little["members"].as_array().unwrap();
    assert!(little.iter().all(|member| member["done"] == "not-worth-it"), "{little:#?}");

    let before = cluster.hashes(0).await.unwrap();
    let args = [&["defrag", "--json"][..], &worth].concat();
    let report = run(&cli, &args, 0).await.json();
    let all = report["members"].as_array().unwrap();
    assert_eq!(all.len(), 3);
    for member in all {
        assert_eq!(member["done"], "defragmented", "{report:#}");
        let (was, is) = (member["before"].as_u64().unwrap(), member["after"].as_u64().unwrap());
        assert!(was > 12_000_000 && is < 1_000_000, "{report:#}");
    }
    assert_eq!(all[2]["name"], leader.as_str());
    assert!(report["freed"].as_u64().unwrap() > 33_000_000, "{report:#}");
    let next = report["led_by"].as_str().unwrap();
    assert_eq!(next, format!("m{}", cluster.leader().await.unwrap() + 1));
    assert_ne!(next, leader);
    assert_eq!(cluster.hashes(0).await.unwrap(), before);
    let again = run(&cli, &[&["defrag"][..], &worth].concat(), 0).await.text();
    assert_eq!(again.matches("not worth it").count(), 3, "{again}");
    // One that is named is done, however little it is worth.
    let one = run(&cli, &["defrag", "m2", "--json"], 0).await.json();
    assert_eq!(one["members"].as_array().unwrap().len(), 1);
    assert_eq!(one["members"][0]["done"], "defragmented", "{one}");
    run(&cli, &["defrag", "m9"], 2).await;

    // With one lost no other can be spared.
    let lost = cluster.leader().await.unwrap();
    cluster.member(lost).kill().unwrap();
    cluster.leader().await.unwrap();
    let name = format!("m{}", (lost + 1) % 3 + 1);
    let refused = run(&cli, &["defrag", &name], 3).await.text();
    assert!(refused.contains("cannot be spared"), "{refused}");
}

/// A NOSPACE alarm is said with what to do.
#[tokio::test]
async fn a_full_member_is_told_what_to_do() {
    let cluster =
        Cluster::builder("3.6").args(["--quota-backend-bytes", "4000000"]).start().await.unwrap();
    let cli = program().cluster(&cluster);
    let mut client = cluster.client().await.unwrap();
    let begun = Instant::now();
    let mut number = 0;
    while client.put(format!("fill/{number}"), common::noise(number, 500_000), None).await.is_ok() {
        number += 1;
        assert!(begun.elapsed() < BOUND, "the quota is never reached");
    }
    let said = run(&cli, &["defrag", "--dry-run"], 0).await.text();
    assert!(said.contains("m1: alarm NOSPACE"), "{said}");
    assert!(said.contains("etcdctl alarm disarm"), "{said}");
    let listed = members(&cli, 0).await;
    assert_eq!(named(&listed, "m1")["alarms"][0], "NOSPACE");
}

/// Row 4: what would break the quorum is refused before anything is asked of the cluster;
/// what keeps it is done, down to the last member.
#[tokio::test]
async fn row_4_members_are_removed_as_far_as_the_quorum_goes() {
    let mut cluster = Cluster::builder("3.6").members(3).start().await.unwrap();
    let cli = program().cluster(&cluster);
    let mut client = cluster.client().await.unwrap();
    client.put("key", "value", None).await.unwrap();

    // One that never started has no name, and goes by its id.
    let port = Port::reserve().unwrap();
    let url = format!("http://127.0.0.1:{}", port.number());
    let id = announce(&mut client, &url, false).await;
    let listed = members(&cli, 3).await;
    let unstarted = listed.iter().find(|member| member["id"] == id.as_str()).unwrap();
    assert_eq!(unstarted["error"], "has never started");
    let shown = run(&cli, &["member", "remove", &id, "--dry-run"], 0).await.text();
    assert!(shown.contains("3 of 4 voters are needed, 3 are well: none can be lost"), "{shown}");
    assert!(shown.contains("2 of 3 voters are needed, 3 are well: 1 can be lost"), "{shown}");
    assert_eq!(members(&cli, 3).await.len(), 4, "looking changes nothing");
    // Nobody is there to be asked.
    let asked = run(&cli, &["member", "remove", &id], 2).await;
    assert!(asked.stderr.contains("--yes"), "{asked}");
    let done = run(&cli, &["member", "remove", &id, "--yes", "--json"], 0).await.json();
    assert_eq!(done["ending"], "applied");
    assert_eq!(done["verified"].as_array().unwrap().len(), 1, "{done}");
    assert_eq!(members(&cli, 0).await.len(), 3);
    let unknown = run(&cli, &["member", "remove", &id, "--yes"], 2).await;
    assert!(unknown.stderr.contains("no member"), "{unknown}");

    // With one down, one that is up stays.
    let lost = (cluster.leader().await.unwrap() + 1) % 3;
    cluster.member(lost).kill().unwrap();
    let name = |number: usize| format!("m{}", number + 1);
    let (down, leader) = (name(lost), name(cluster.leader().await.unwrap()));
    for kept in [name((lost + 1) % 3), name((lost + 2) % 3)] {
        let refused = run(&cli, &["member", "remove", &kept, "--yes"], 1).await;
        assert!(refused.stderr.contains("2 of 2 voters are needed, 1 is well"), "{refused}");
        assert!(refused.stderr.contains("everything is as it was"), "{refused}");
    }
    run(&cli, &["member", "remove", &down, "--yes"], 0).await;
    let up = (0..3).filter(|number| *number != lost);
    let up: Vec<String> = up.map(|number| cluster.endpoints()[number].clone()).collect();
    let cli = program().env("ETCDCTL_ENDPOINTS", up.join(","));
    assert_eq!(members(&cli, 0).await.len(), 2);

    // The leader hands over first, and one that leaves two is warned of.
    let shown = run(&cli, &["member", "remove", &leader, "--dry-run"], 0).await.text();
    assert!(shown.contains("one voter is left"), "{shown}");
    assert!(shown.contains(" lead"), "{shown}");
    run(&cli, &["member", "remove", &leader, "--yes"], 0).await;
    let last = (0..3).map(name).find(|it| *it != down && *it != leader).unwrap();
    let own = cluster.endpoints()[last[1..].parse::<usize>().unwrap() - 1].clone();
    let cli = program().env("ETCDCTL_ENDPOINTS", &own);
    let listed = members(&cli, 0).await;
    assert_eq!(listed.len(), 1);
    let refused = run(&cli, &["member", "remove", &last, "--yes"], 1).await;
    assert!(refused.stderr.contains("the only voter"), "{refused}");
    let mut client = Client::connect([own], None).await.unwrap();
    assert_eq!(client.get("key", None).await.unwrap().kvs().len(), 1);
}

/// Without a quorum nothing is asked of the cluster.
#[tokio::test]
async fn row_16_without_a_quorum_no_membership_changes() {
    let mut cluster = Cluster::builder("3.6").members(3).start().await.unwrap();
    let cli = program().cluster(&cluster);
    for lost in [0, 1] {
        cluster.member(lost).kill().unwrap();
    }
    until(&cli, 3, "nobody leads", |all| all.iter().all(|it| it["leader"] == false)).await;
    for args in [&["member", "remove", "m1", "--yes"][..], &["move-leader"]] {
        let refused = cli.run(args).await.unwrap();
        assert!(matches!(refused.code, Some(1 | 30)), "{refused}");
        assert!(refused.stderr.contains("quorum"), "{refused}");
    }
}

/// A learner gets its vote when it is in step. One that never ran gets none, although etcd
/// up to 3.4.23 would give it one; it is taken out again.
#[tokio::test]
async fn learners_are_promoted_when_they_have_answered_themselves() {
    for series in ["3.4", "3.6"] {
        let mut cluster = Cluster::builder(series).members(1).start().await.unwrap();
        let cli = program().cluster(&cluster);
        let mut client = cluster.client().await.unwrap();
        let port = Port::reserve().unwrap();
        let url = format!("http://127.0.0.1:{}", port.number());
        let id = announce(&mut client, &url, true).await;
        let refused = run(&cli, &["member", "promote", &id, "--yes"], 1).await;
        assert!(refused.stderr.contains("does not answer"), "{refused}");
        let listed = members(&cli, 3).await;
        let learner = listed.iter().find(|member| member["id"] == id.as_str()).unwrap();
        assert_eq!(learner["learner"], true, "{series}");
        run(&cli, &["member", "remove", &id, "--yes"], 0).await;
        assert_eq!(members(&cli, 0).await.len(), 1);

        for number in 0..50 {
            client.put(format!("key/{number}"), "value", None).await.unwrap();
        }
        cluster.add_member(true).await.unwrap();
        let shown = run(&cli, &["member", "promote", "m2", "--dry-run"], 0).await.text();
        assert!(shown.contains("two voters need both"), "{shown}");
        run(&cli, &["member", "promote", "m2", "--yes"], 0).await;
        let listed = members(&cli, 0).await;
        assert_eq!(named(&listed, "m2")["learner"], false);
        let again = run(&cli, &["member", "promote", "m2", "--yes"], 1).await;
        assert!(again.stderr.contains("has its vote already"), "{again}");
        let count = GetOptions::new().with_prefix().with_count_only();
        let mut own = cluster.members()[1].client().await.unwrap();
        assert_eq!(own.get("key/", Some(count)).await.unwrap().count(), 50, "{series}");
    }
}

/// Peers reach a member another way: through a proxy, to be seen there.
#[tokio::test]
async fn row_2_peers_reach_a_member_elsewhere() {
    let mut cluster = Cluster::builder("3.6").members(3).start().await.unwrap();
    let cli = program().cluster(&cluster);
    let leader = cluster.leader().await.unwrap();
    let number = (leader + 1) % 3;
    let name = format!("m{}", number + 1);
    let proxy = Proxy::start(&cluster.members()[number].peer_url()).await.unwrap();
    let url = format!("http://{}", proxy.address().trim_start_matches("http://"));
    let taken = cluster.members()[leader].peer_url();
    let refused = run(&cli, &["member", "update", &name, "--peer-urls", &taken, "--yes"], 1).await;
    assert!(refused.stderr.contains("the address of another member"), "{refused}");
    run(&cli, &["member", "update", &name, "--peer-urls", "localhost:1", "--yes"], 2).await;
    run(&cli, &["member", "update", &name, "--peer-urls", &url, "--yes"], 0).await;
    let listed = members(&cli, 0).await;
    assert_eq!(named(&listed, &name)["peer_urls"][0], url.as_str());
    proxy.wait_passed(1).await.unwrap();
    let again = run(&cli, &["member", "update", &name, "--peer-urls", &url, "--yes"], 1).await;
    assert!(again.stderr.contains("is so already"), "{again}");
}
