//! Returns to another way of running, what such a plan says, and what it looks at.

use super::plan_matrix::{Then, rollback_killed_at_each_call, trouble_at_each_call};
use super::*;

/// A way of running is exchanged for another: the one stops before the other's files come,
/// and nothing of the first is left that would start it.
#[tokio::test(start_paused = true)]
async fn a_unit_becomes_a_static_pod_and_the_other_way_round() {
    for to_pod in [true, false] {
        let case = moved(to_pod);
        let what: Vec<String> =
            texts(&case.plan).iter().map(|row| row.split(';').next().unwrap().to_owned()).collect();
        assert_eq!(
            what,
            [
                "1 k1: save the present state to the vault",
                "2 k1: stop etcd",
                "3 k1: set files as in the state: 1 written, 1 set aside",
                "4 k1: start etcd",
                "5 k1: compare 2 files with the state",
            ]
        );
        let node = sim(&case.net, "k1");
        let database = "/var/lib/etcd/data/member/snap/db";
        // The kubelet needs a moment.
        case.snapshot().await;
        let before = node.bytes(database).expect("data");
        let runs_as = async || {
            let unit = node.unit("etcd.service").await.unwrap();
            let active = unit.is_some_and(|unit| unit.active_state == "active");
            (active, node.text(ETCD).is_some(), node.runs("etcd"))
        };
        assert_eq!(runs_as().await, (to_pod, !to_pod, true));
        let report = case.plain().execute(&case.plan).await.unwrap();
        assert!(report.is_complete(), "{:?}", report.outcome);
        assert_eq!(runs_as().await, (!to_pod, to_pod, true));
        assert_eq!(node.bytes(database), Some(before), "the data is that of before");
        let boots = "/etc/systemd/system/multi-user.target.wants/etcd.service";
        assert_eq!(node.stat(boots.as_ref()).await.unwrap().is_some(), !to_pod);
        let report = case.plain().rollback::<Step>(case.plan.id).await.unwrap();
        assert!(report.is_complete(), "{:?}", report.outcome);
        assert_eq!(runs_as().await, (to_pod, !to_pod, true));
    }
    for build in [unit_to_pod, pod_to_unit] {
        twice_and_stopped(build, 5).await;
    }
}

/// Plans of one node are short: so many cases there are at least.
async fn each_call(build: fn() -> Case<Step, World>, trouble: Trouble) {
    for then in [Then::Resume, Then::RollBack] {
        let count = trouble_at_each_call(&build, trouble, then).await.unwrap();
        assert!(count > 100, "only {count} cases");
    }
}

#[tokio::test(start_paused = true)]
async fn a_way_of_running_killed_failed_and_cut_off_at_each_call() {
    for build in [unit_to_pod, pod_to_unit] {
        for trouble in [Trouble::Freeze, Trouble::Fail(NodeErrorKind::Other), Trouble::Cut] {
            each_call(build, trouble).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_way_of_running_powered_off_at_each_call() {
    for build in [unit_to_pod, pod_to_unit] {
        each_call(build, Trouble::PowerOff).await;
        for then in [Then::RollBack, Then::Resume] {
            let count = rollback_killed_at_each_call(&build, then).await.unwrap();
            assert!(count > 60, "only {count} cases");
        }
    }
}

/// Data of before that another way of running would start on is named with its age, and
/// so is that it would start without any.
#[tokio::test(start_paused = true)]
async fn data_that_was_left_behind_is_named() {
    let net = SimNet::new();
    let node = net.add(&NodeName::new("k1").unwrap());
    node.file("/srv/new/member/snap/db", "db", 0, 0o600);
    let about = |mut about: Description, dirs: &[&str]| {
        about.data_dirs = dirs.iter().map(|dir| (*dir).to_owned()).collect();
        about
    };
    let input = async |was: Description, is: Description| {
        let other_data = returning::other_data(&node, &was, &is).await.unwrap();
        NodeInput {
            node: place("k1"),
            state: index("k1", was, &[], TIME),
            now: index("k1", is, &[], NOW),
            used: BTreeMap::new(),
            unready: BTreeSet::new(),
            other_data,
        }
    };
    let (old, new) = (&["/srv/old"][..], &["/srv/new"][..]);
    // In the same place, and where etcd has no data now, nothing is another's.
    let same = input(about(plane(), new), about(unit(true), new)).await;
    assert_eq!(same.other_data, None);
    let none = input(about(unit(true), new), about(unit(true), old)).await;
    assert_eq!(none.other_data, None);

    let blank = input(about(plane(), old), about(unit(true), new)).await;
    assert_eq!(
        planner::data_drift(&blank).unwrap(),
        "k1: the data of etcd was in /srv/old, and is in /srv/new; nothing lies there: it would \
         start without data"
    );
    assert_eq!(planner::left_behind(&blank), [""; 0]);

    node.file("/srv/old/member/snap/db", "db", 0, 0o600);
    let stale = input(about(plane(), old), about(unit(true), new)).await;
    let drift = planner::data_drift(&stale).unwrap();
    let lies = "it would start on what lies in /srv/old, last written 2026-11-21 00:00:";
    assert!(drift.contains(lies), "{drift}");
    let left = planner::left_behind(&stale);
    assert!(left[0].starts_with("k1: /srv/old was last written 2026-11-21 00:00:"), "{left:?}");
    // The same way of running: named, and whoever insists knows which data is meant.
    let same_way = input(about(unit(true), old), about(unit(true), new)).await;
    assert_eq!(planner::data_drift(&same_way).unwrap(), drift);
    assert_eq!(planner::left_behind(&same_way), [""; 0]);

    // A log that was elsewhere, and one that is.
    node.file("/srv/log/0.wal", "wal", 0, 0o600);
    let log = input(about(plane(), &["/srv/log", "/srv/new"]), about(unit(true), new)).await;
    assert!(planner::left_behind(&log)[0].contains("/srv/log was last"), "{log:?}");
    let log = input(about(unit(true), new), about(unit(true), &["/srv/log", "/srv/new"])).await;
    assert!(planner::data_drift(&log).unwrap().ends_with("without the log of now"), "{log:?}");
}

/// A plan that takes the quorum away says so.
#[test]
fn a_lost_quorum_is_told() {
    let planned = |voters: Option<Voters>| {
        let lines = |more: &str| {
            vec![
                line("/etc/systemd/system/etcd.service", UNIT, 0, 0o644),
                line("/etc/default/etcd", environment(more), 0, 0o640),
            ]
        };
        let input = NodeInput {
            node: place("k1"),
            state: index("k1", unit(true), &lines(""), TIME),
            now: index("k1", unit(true), &lines("ETCD_QUOTA_BACKEND_BYTES=1\n"), NOW),
            used: BTreeMap::new(),
            unready: BTreeSet::new(),
            other_data: None,
        };
        let planned = planner::plan(&Inputs {
            id: ID.parse().unwrap(),
            made: "2026-11-21T07:00:00Z".parse().unwrap(),
            cluster: "prod".into(),
            backup: STATE.into(),
            taken: "2026-11-21T06:00:00Z".parse().unwrap(),
            nodes: vec![input],
            keepers: vec![],
            leader: None,
            voters,
            save: true,
            drift: vec![],
        });
        let plan = planned.plan.unwrap();
        plan.facts.iter().find(|fact| fact.name == "Down").unwrap().text.clone()
    };
    let plain = "etcd while files are set";
    assert_eq!(planned(None), plain);
    assert_eq!(planned(Some(Voters { of: 3, up: 3 })), plain);
    let lost = "; 2 of 3 members answer and 1 stops: the cluster takes no writes meanwhile";
    assert_eq!(planned(Some(Voters { of: 3, up: 2 })), format!("{plain}{lost}"));
    assert!(planned(Some(Voters { of: 1, up: 1 })).ends_with("takes no writes meanwhile"));
}

/// Steps of a stage that may run at the same time do; others wait for each other.
#[tokio::test(start_paused = true)]
async fn files_of_several_nodes_are_set_at_the_same_time() {
    let case = units();
    let seen: Arc<Mutex<Vec<StepEvent>>> = Arc::default();
    let sink = seen.clone();
    let events = Events::new(move |event| {
        if let Event::Step(step) = event {
            sink.lock().unwrap().push(step);
        }
    });
    let engine = case.engine("first", Stop::never(), events, Options::default());
    let report = engine.execute(&case.plan).await.unwrap();
    assert!(report.is_complete(), "{:?}", report.outcome);
    let seen = seen.lock().unwrap();
    let at = |stage: u32, step: u32, wanted: fn(&StepPhase) -> bool| {
        let found = seen
            .iter()
            .position(|event| (event.stage, event.step) == (stage, step) && wanted(&event.phase));
        found.unwrap()
    };
    let started = |phase: &StepPhase| *phase == StepPhase::Started;
    let done = |phase: &StepPhase| matches!(phase, StepPhase::Done { .. });
    assert!(at(3, 2, started) < at(3, 1, done), "the second waits for the first");
    assert!(at(5, 1, done) < at(5, 2, started), "looks come one after the other");
}

/// What is looked at in the end is looked at: a file that somebody changed after it was
/// set, and a port that does not open.
#[tokio::test(start_paused = true)]
async fn a_look_at_the_end_finds_what_is_wrong() {
    let case = units();
    let node = sim(&case.net, "k2");
    let events = Events::new(move |event| {
        // The last stage begins.
        if let Event::Step(StepEvent { stage: 5, step: 1, phase: StepPhase::Started, .. }) = event {
            node.file("/etc/etcd/server.key", "another", 7, 0o600);
        }
    });
    let engine = case.engine("first", Stop::never(), events, Options::default());
    let report = engine.execute(&case.plan).await.unwrap();
    let Outcome::Failed(failures) = &report.outcome else { panic!("{:?}", report.outcome) };
    let why = &failures[0].error.why;
    assert_eq!(why, "/etc/etcd/server.key on k2 is not as in the state");

    let mut case = units();
    for stage in &mut case.plan.stages {
        for step in &mut stage.steps {
            if let Step::Check { ports, .. } = step {
                ports.push(2399);
            }
        }
    }
    let report = case.plain().execute(&case.plan).await.unwrap();
    let Outcome::Failed(failures) = &report.outcome else { panic!("{:?}", report.outcome) };
    assert_eq!(failures[0].error.why, "port 2399 of k1 is not open");
}
