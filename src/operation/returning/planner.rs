//! The plan of a return: pure, from what a state says and what nodes say now.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use crate::dialect;
use crate::operation::state::describe::{Description, Program, Runs};
use crate::operation::state::index::{File, Kind, NodeIndex};
use crate::operation::step::{Change, Expected, How, Instance, Mode, Moment, Service, Step, What};
use crate::plan::{Place, Plan, PlanId, Stage};

/// Nodes whose files are set at the same time.
const AT_ONCE: u32 = 8;

/// Trees that belong to packages: nothing is taken out of them.
const OF_PACKAGES: [&str; 3] = ["/usr", "/lib", "/opt"];

/// A node as it was, and as it is.
#[derive(Debug, Clone)]
pub struct NodeInput {
    /// Its name.
    pub node: Place,
    /// The stored state.
    pub state: NodeIndex,
    /// The state now.
    pub now: NodeIndex,
    /// Files that the services read now, as far as it was seen.
    pub used: BTreeMap<Service, BTreeSet<PathBuf>>,
    /// Services in static pods that run and are not ready.
    pub unready: BTreeSet<Service>,
    /// Other data than now, on which etcd would start.
    pub other_data: Option<OtherData>,
}

/// Data of etcd's in another place than the state's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherData {
    /// Where it was in the state.
    pub was: Vec<PathBuf>,
    /// Where it is now.
    pub is: Vec<PathBuf>,
    /// What stands where it was, and when it was last written.
    pub stands: Vec<(PathBuf, DateTime<Utc>)>,
}

/// How many members of the cluster have a vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Voters {
    /// All of them.
    pub of: usize,
    /// Those that answer.
    pub up: usize,
}

/// What a return is planned from.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The plan's id.
    pub id: PlanId,
    /// When it is made.
    pub made: DateTime<Utc>,
    /// The cluster's name.
    pub cluster: String,
    /// The backup with the state.
    pub backup: String,
    /// When the state was taken.
    pub taken: DateTime<Utc>,
    /// The nodes that are returned.
    pub nodes: Vec<NodeInput>,
    /// Other nodes of the cluster: they keep the journal and the lock, too.
    pub keepers: Vec<Place>,
    /// The node with the leader of etcd, where it is known.
    pub leader: Option<Place>,
    /// The cluster's voters, where a member tells.
    pub voters: Option<Voters>,
    /// Whether the present state is stored first.
    pub save: bool,
    /// What of the topology differs.
    pub drift: Vec<String>,
}

/// What a return comes to.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The plan; `None` where nothing differs.
    pub plan: Option<Plan<Step>>,
    /// What is left to do by hand, a line each.
    pub by_hand: Vec<String>,
}

/// Where two descriptions of a node differ so that files alone do not bring it back.
pub fn drift(was: &NodeIndex, is: &NodeIndex) -> Vec<String> {
    let mut found = Vec::new();
    let node = &was.node;
    let pairs = [
        ("etcd", &was.description.etcd, &is.description.etcd),
        ("kube-apiserver", &was.description.apiserver, &is.description.apiserver),
    ];
    for (name, was, is) in pairs {
        let kind = |program: &Option<Program>| {
            program.as_ref().map(|program| match program.runs {
                Runs::Unit { .. } => "external, in a unit",
                Runs::StaticPod { .. } => "embedded, in a static pod",
                Runs::Process => "a process of its own",
            })
        };
        // Where it is not there at all files may be what is missing.
        if let (Some(was), Some(is)) = (kind(was), kind(is))
            && was != is
        {
            found.push(format!("{node}: {name} was {was}, and is {is}"));
        }
        let image = |program: &Option<Program>| program.as_ref()?.image.clone();
        if let (Some(was), Some(is)) = (image(was), image(is))
            && was != is
        {
            found.push(format!("{node}: {name} had the image {was}, and has {is}"));
        }
    }
    let (was, is) = (&was.description, &is.description);
    let gone: Vec<&str> =
        was.addresses.iter().filter(|a| !is.addresses.contains(a)).map(String::as_str).collect();
    if !gone.is_empty() && !is.addresses.is_empty() && named_by(was, &gone) {
        found.push(format!("{node}: it has no address {} any more", gone.join(", ")));
    }
    if let (Some(a), Some(b)) = (&was.machine_id, &is.machine_id)
        && a != b
    {
        found.push(format!("{node}: it is another machine than it was"));
    }
    found
}

fn listed(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(", ")
}

/// That etcd would start on other data than it has now; files alone do not change that.
pub fn data_drift(input: &NodeInput) -> Option<String> {
    let data = input.other_data.as_ref()?;
    let (node, was, is) = (&input.node, listed(&data.was), listed(&data.is));
    let meets = match data.stands.iter().max_by_key(|(_, written)| *written) {
        Some((path, written)) => format!(
            "it would start on what lies in {}, last written {}",
            path.display(),
            written.format("%Y-%m-%d %H:%M:%S UTC")
        ),
        None if data.was.iter().all(|path| data.is.contains(path)) => {
            "it would start without the log of now".to_owned()
        }
        None => "nothing lies there: it would start without data".to_owned(),
    };
    Some(format!("{node}: the data of etcd was in {was}, and is in {is}; {meets}"))
}

/// Data that no return of files may start etcd on: what another way of running left behind
/// is as old as that, and a member that comes back with it takes the cluster's past for
/// its present.
pub fn left_behind(input: &NodeInput) -> Vec<String> {
    let kind =
        |about: &Description| about.etcd.as_ref().map(|etcd| std::mem::discriminant(&etcd.runs));
    if kind(&input.state.description) == kind(&input.now.description) {
        return Vec::new();
    }
    let stands = input.other_data.iter().flat_map(|data| &data.stands);
    let lines = stands.map(|(path, written)| {
        format!(
            "{}: {} was last written {}",
            input.node,
            path.display(),
            written.format("%Y-%m-%d %H:%M:%S UTC")
        )
    });
    lines.collect()
}

/// Whether an option of a service holds one of `addresses`.
fn named_by(description: &Description, addresses: &[&str]) -> bool {
    let programs = [&description.etcd, &description.apiserver];
    let mut values = programs.into_iter().flatten().flat_map(|program| program.options.values());
    values.any(|value| addresses.iter().any(|address| value.contains(address)))
}

/// What an index says of a file; `None` for what no step can make.
fn what(index: &NodeIndex, file: &File) -> Option<What> {
    let mode = |file: &File| Mode {
        uid: file.uid,
        gid: file.gid,
        mode: file.mode,
        xattrs: file.xattrs.clone(),
    };
    match file.kind {
        Kind::File => Some(What::File {
            sha256: file.sha256?.to_string(),
            mode: mode(file),
            modified: modified(file),
        }),
        Kind::HardLink => {
            let source = index.state.file(file.target.as_deref()?)?;
            Some(What::File {
                sha256: source.sha256?.to_string(),
                mode: mode(source),
                modified: modified(source),
            })
        }
        Kind::Directory => Some(What::Directory { mode: mode(file) }),
        Kind::Symlink => Some(What::Link {
            target: file.target.clone()?,
            // Whatever an archive says of it.
            mode: Mode { mode: 0o777, ..mode(file) },
            modified: modified(file),
        }),
    }
}

/// When it was last changed, in nanoseconds since 1970.
fn modified(file: &File) -> Option<i64> {
    let (seconds, nanos) = file.modified;
    seconds.checked_mul(1_000_000_000)?.checked_add(i64::from(nanos))
}

fn files(index: &NodeIndex) -> BTreeMap<PathBuf, &File> {
    index.state.files.iter().filter_map(|file| Some((file.real_path()?, file))).collect()
}

/// What differs on a node.
#[derive(Default)]
struct Differences {
    /// In the order in which it is changed.
    changes: Vec<Change>,
    /// Directories in which something changes, or whose time alone is another.
    times: Vec<Moment>,
    /// What no step can do.
    by_hand: Vec<String>,
}

fn changes(input: &NodeInput) -> Differences {
    let (was, is) = (files(&input.state), files(&input.now));
    let mut found = Differences::default();
    let (mut gone, mut set, mut times) = (Vec::new(), Vec::new(), Vec::new());
    let paths: BTreeSet<&PathBuf> = was.keys().chain(is.keys()).collect();
    let left_out: Vec<PathBuf> = input
        .state
        .state
        .exclude
        .iter()
        .filter_map(|path| {
            use std::os::unix::ffi::OsStringExt as _;
            Some(std::ffi::OsString::from_vec(vault::archive::unescape(path)?).into())
        })
        .collect();
    for path in paths {
        let side = |index: &NodeIndex, file: Option<&&File>| match file {
            None => Some(What::Nothing),
            Some(file) => what(index, file),
        };
        let before = side(&input.now, is.get(path));
        let after = side(&input.state, was.get(path));
        let mut hand =
            |why: &str| found.by_hand.push(format!("{}: {} {why}", input.node, path.display()));
        let (Some(before), Some(after)) = (before, after) else {
            hand("cannot be compared");
            continue;
        };
        let of_a_package = OF_PACKAGES.iter().any(|tree| path.starts_with(tree));
        if left_out.iter().any(|left| path.starts_with(left)) {
            continue;
        }
        let same = before.same(&after);
        let change = Change { path: path.clone(), stored_as: None, before, after };
        match &change.after {
            // A time is set where there is more to do, and asks for nothing itself.
            What::File { .. } if same => {
                if !change.before.is(&change.after) && !of_a_package {
                    times.push(change);
                }
            }
            _ if same => {}
            What::Nothing if of_a_package => hand("was not there; it is a package's and stays"),
            What::Nothing => gone.push(change),
            _ => set.push(change),
        }
    }
    // What is in a directory goes before it.
    gone.reverse();
    found.changes = gone;
    found.changes.append(&mut set);
    if !found.changes.is_empty() {
        found.times = directory_times(&was, &is, &found.changes);
        found.changes.append(&mut times);
    }
    found
}

/// The times of directories of a state that are other now, or will be.
fn directory_times(
    was: &BTreeMap<PathBuf, &File>,
    is: &BTreeMap<PathBuf, &File>,
    changes: &[Change],
) -> Vec<Moment> {
    let touched: BTreeSet<&Path> = changes
        .iter()
        .flat_map(|change| [Some(&*change.path), change.path.parent()])
        .flatten()
        .collect();
    let directories = was.iter().filter(|(path, file)| {
        file.kind == Kind::Directory
            && !OF_PACKAGES.iter().any(|tree| path.starts_with(tree))
            && (touched.contains(path.as_path())
                || is.get(*path).is_none_or(|is| is.modified != file.modified))
    });
    let times = directories
        .filter_map(|(path, file)| Some(Moment { path: path.clone(), modified: modified(file)? }));
    times.collect()
}

fn program(description: &Description, service: Service) -> Option<&Program> {
    match service {
        Service::Etcd => description.etcd.as_ref(),
        Service::ApiServer => description.apiserver.as_ref(),
        // Known as a unit alone.
        Service::Kubelet => None,
    }
}

/// The kubelet's unit.
const KUBELET: &str = "kubelet.service";

/// Whether a unit ran, or tried to.
fn unit_runs(description: &Description, unit: &str) -> bool {
    let seen = description.units.get(unit);
    seen.is_some_and(|seen| matches!(seen.active.as_str(), "active" | "activating" | "reloading"))
}

/// The ports on which a service listens by its options.
fn ports(service: Service, program: &Program) -> Vec<u16> {
    let option = |name: &str| program.options.get(name).map(String::as_str);
    let mut ports: Vec<u16> = match service {
        Service::Etcd => ["listen-client-urls", "listen-peer-urls"]
            .into_iter()
            .flat_map(|name| dialect::urls(option(name).unwrap_or_default()))
            .filter_map(|url| dialect::port(&url))
            .collect(),
        Service::ApiServer => {
            vec![option("secure-port").and_then(|port| port.parse().ok()).unwrap_or(6443)]
        }
        Service::Kubelet => Vec::new(),
    };
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// How a service is stopped or started on a node, by what was seen there.
fn how(service: Service, about: &Description, id: PlanId) -> Option<How> {
    let program = program(about, service)?;
    match &program.runs {
        Runs::Unit { name } if boots(about, name) == Some(true) => {
            Some(How::BootUnit { unit: name.clone() })
        }
        Runs::Unit { name } => Some(How::Unit { unit: name.clone() }),
        Runs::StaticPod { manifest } => {
            let manifest = PathBuf::from(manifest);
            let name = manifest.file_name()?.to_str()?;
            // A name with a dot in front the kubelet passes over.
            let aside = manifest.with_file_name(format!(".{name}.etcdvault-{id}"));
            Some(How::Pod { manifest, aside, ports: ports(service, program) })
        }
        Runs::Process => None,
    }
}

/// Whether a change of `path` counts for a service.
fn concerns(service: Service, input: &NodeInput, path: &Path) -> bool {
    if input.used.get(&service).is_some_and(|used| used.contains(path)) {
        return true;
    }
    let descriptions = [&input.state.description, &input.now.description];
    for program in descriptions.iter().filter_map(|about| program(about, service)) {
        match &program.runs {
            Runs::Unit { name } if unit_of(path).as_deref() == Some(name) => return true,
            Runs::StaticPod { manifest } if Path::new(manifest) == path => return true,
            _ => {}
        }
        if program.options.values().any(|value| Path::new(value) == path) {
            return true;
        }
    }
    let embedded = |about: &Description| {
        program(about, service)
            .is_some_and(|program| matches!(program.runs, Runs::StaticPod { .. }))
    };
    let any_embedded = descriptions.iter().any(|about| embedded(about));
    let under = |trees: &[&str]| trees.iter().any(|tree| path.starts_with(tree));
    match service {
        Service::Etcd => {
            under(&["/etc/etcd", "/etc/default/etcd", "/etc/sysconfig/etcd", "/etc/etcd.env"])
                || any_embedded && under(&["/etc/kubernetes/pki/etcd"])
        }
        Service::ApiServer => {
            under(&[
                "/etc/kubernetes/apiserver",
                "/etc/default/kube-apiserver",
                "/etc/sysconfig/kube-apiserver",
            ]) || under(&["/etc/kubernetes/pki"]) && !under(&["/etc/kubernetes/pki/etcd"])
        }
        Service::Kubelet => {
            under(&[
                "/var/lib/kubelet",
                "/etc/default/kubelet",
                "/etc/sysconfig/kubelet",
                "/etc/kubernetes/kubelet.conf",
                "/etc/kubernetes/bootstrap-kubelet.conf",
            ]) || unit_of(path).as_deref() == Some(KUBELET)
        }
    }
}

/// The unit that a file of systemd's belongs to.
fn unit_of(path: &Path) -> Option<String> {
    let parent = path.parent()?;
    let systemd = |path: &Path| path.to_str().is_some_and(|path| path.contains("systemd/system"));
    if !systemd(parent) {
        return None;
    }
    let drop_in = parent.file_name()?.to_str()?.strip_suffix(".d");
    let name = drop_in.or_else(|| path.file_name()?.to_str())?;
    let name = name.strip_suffix(".d").unwrap_or(name);
    name.ends_with(".service").then(|| name.to_owned())
}

/// Stops and starts of a service.
#[derive(Default)]
struct Moves {
    stop: Vec<Instance>,
    start: Vec<Instance>,
}

/// Plans the return.
pub fn plan(inputs: &Inputs) -> Planned {
    let mut by_hand = Vec::new();
    let mut moves: BTreeMap<Service, Moves> = BTreeMap::new();
    let (mut sets, mut checks) = (Vec::new(), Vec::new());
    let (mut disables, mut enables) = (Vec::new(), Vec::new());
    let mut count = 0;
    for input in &inputs.nodes {
        let Differences { mut changes, times, by_hand: mut hand } = changes(input);
        by_hand.append(&mut hand);
        // A file of another time is no other file.
        let differs = |change: &&Change| !change.before.same(&change.after);
        let files: Vec<Expected> = changes
            .iter()
            .filter(differs)
            .map(|change| Expected { path: change.path.clone(), what: change.after.timeless() })
            .collect();
        count += files.len();
        let touched = |service: Service, changes: &[Change]| {
            let mut changes = changes.iter().filter(differs);
            changes.any(|change| concerns(service, input, &change.path))
        };
        let (mut open, mut units) = (Vec::new(), Vec::new());
        if touched(Service::Kubelet, &changes) {
            let descriptions = [&input.state.description, &input.now.description];
            if descriptions.iter().any(|about| about.units.contains_key(KUBELET)) {
                let moves = moves.entry(Service::Kubelet).or_default();
                units.extend(restart_kubelet(input, moves));
            } else {
                by_hand.push(format!(
                    "{}: the kubelet reads its files when it is started again; it is no unit \
                     {KUBELET} here",
                    input.node
                ));
            }
        }
        for service in [Service::ApiServer, Service::Etcd] {
            let touched = touched(service, &changes);
            let moves = moves.entry(service).or_default();
            let (stops, starts) = (moves.stop.len(), moves.start.len());
            open.extend(move_service(service, input, touched, inputs.id, &mut changes, moves));
            let (stopped, started) = (&moves.stop[stops..], &moves.start[starts..]);
            let (first, last) = at_boot(service, input, touched, stopped, started);
            disables.extend(first);
            enables.extend(last);
        }
        let reload: BTreeSet<String> =
            changes.iter().filter_map(|change| unit_of(&change.path)).collect();
        if !changes.is_empty() {
            sets.push(Step::SetFiles {
                node: input.node.clone(),
                backup: inputs.backup.clone(),
                changes,
                reload: reload.into_iter().collect(),
                times,
            });
        }
        if !files.is_empty() || !open.is_empty() {
            checks.push(Step::Check { node: input.node.clone(), files, ports: open, units });
        }
    }
    let mut stages = Vec::new();
    let mut stage = |at_once: u32, steps: Vec<Step>| {
        if !steps.is_empty() {
            stages.push(Stage { at_once, steps });
        }
    };
    let mut stops = Vec::new();
    let mut starts = Vec::new();
    // The kubelet stops and starts the pods of the others.
    for service in [Service::ApiServer, Service::Etcd, Service::Kubelet] {
        let Some(mut moved) = moves.remove(&service) else { continue };
        // False sorts first: the leader is the last to go.
        moved.stop.sort_by_key(|instance| Some(&instance.node) == inputs.leader.as_ref());
        if !moved.stop.is_empty() {
            stops.push(Step::Stop { service, instances: moved.stop });
        }
        if !moved.start.is_empty() {
            starts.insert(0, Step::Start { service, instances: moved.start });
        }
    }
    let idle = sets.is_empty()
        && disables.is_empty()
        && enables.is_empty()
        && starts.is_empty()
        && stops.is_empty();
    if idle {
        return Planned { plan: None, by_hand };
    }
    let nodes: Vec<Place> = inputs.nodes.iter().map(|input| input.node.clone()).collect();
    let gone = stops.iter().flat_map(|step| match step {
        Step::Stop { service: Service::Etcd, instances } => &instances[..],
        _ => &[],
    });
    let gone = gone.filter(|instance| instance.healthy).count();
    let down = match (stops.is_empty(), starts.is_empty()) {
        (true, _) => "nothing".to_owned(),
        _ => {
            let names: Vec<&str> = stops
                .iter()
                .filter_map(|step| match step {
                    Step::Stop { service, .. } => Some(service.name()),
                    _ => None,
                })
                .collect();
            format!("{} while files are set{}", names.join(" and "), quorum(inputs.voters, gone))
        }
    };
    let other = inputs.nodes.iter().filter_map(|input| Some((input, input.other_data.as_ref()?)));
    let unread: Vec<String> =
        other.map(|(input, data)| format!("{}:{}", input.node, listed(&data.is))).collect();
    let lost = match unread.is_empty() {
        true => format!("nothing: {count} files differ, what stands there is set aside"),
        false => format!(
            "{count} files differ, what stands there is set aside; the data of now stays in {}, \
             and etcd does not read it any more",
            unread.join(", ")
        ),
    };
    if inputs.save {
        stage(1, vec![Step::SaveState { nodes: nodes.clone(), data: false }]);
    }
    stage(AT_ONCE, disables);
    for stop in stops {
        stage(1, vec![stop]);
    }
    stage(AT_ONCE, sets);
    stage(AT_ONCE, enables);
    for start in starts {
        stage(1, vec![start]);
    }
    stage(1, checks);
    let title = format!(
        "Return {} to {} ({})",
        inputs.cluster,
        inputs.backup,
        inputs.taken.format("%Y-%m-%d %H:%M UTC")
    );
    let (cluster, made) = (inputs.cluster.clone(), inputs.made);
    let keepers = nodes.into_iter().chain(inputs.keepers.iter().cloned());
    let mut plan = Plan::new(inputs.id, cluster, "state return", title, made, keepers);
    plan = plan
        .fact("Lost", lost)
        .fact("Kept", format!("in {}/{} on each node", crate::operation::step::ASIDE, inputs.id))
        .fact("Down", down);
    for line in &inputs.drift {
        plan = plan.fact("Differs", line);
    }
    if !unread.is_empty() {
        let text = format!("etcdvault state return {} --only data, for the data", inputs.backup);
        plan = plan.fact("Next", text);
    }
    for line in &by_hand {
        plan = plan.fact("By hand", line);
    }
    plan.stages = stages;
    Planned { plan: Some(plan), by_hand }
}

/// What becomes of the cluster while `gone` of its members are stopped.
fn quorum(voters: Option<Voters>, gone: usize) -> String {
    match voters {
        Some(Voters { of, up }) if gone > 0 && up.saturating_sub(gone) <= of / 2 => {
            let stop = if gone == 1 { "1 stops".to_owned() } else { format!("{gone} stop") };
            format!(
                "; {up} of {of} members answer and {stop}: the cluster takes no writes meanwhile"
            )
        }
        _ => String::new(),
    }
}

/// Adds the moves of one service on one node, and lets changes of a manifest that is
/// out happen where it is. Returns the ports that are open at the end.
fn move_service(
    service: Service,
    input: &NodeInput,
    touched: bool,
    id: PlanId,
    changes: &mut [Change],
    moves: &mut Moves,
) -> Vec<u16> {
    let (then, now) = (&input.state.description, &input.now.description);
    let (was, is) = (program(then, service), program(now, service));
    let runs = is.is_some_and(|is| is.running || unit_moves(is, now));
    let healthy = is.is_some_and(|is| runs_well(is, now)) && !input.unready.contains(&service);
    let ran = was.is_some_and(|was| runs_well(was, then));
    if !touched && runs == ran {
        return Vec::new();
    }
    let (old, new) = (how(service, now, id), how(service, then, id));
    let instance = |how: How, healthy: bool| Instance { node: input.node.clone(), how, healthy };
    if let (true, Some(old)) = (runs, &old) {
        moves.stop.push(instance(old.clone(), healthy));
    }
    if let (true, Some(new)) = (ran, &new) {
        moves.start.push(instance(new.clone(), true));
    }
    for how in [old.filter(|_| runs), new.filter(|_| ran)].into_iter().flatten() {
        let How::Pod { manifest, aside, .. } = how else { continue };
        if let Some(change) = changes.iter_mut().find(|change| change.path == manifest) {
            change.stored_as = Some(manifest);
            change.path = aside;
        }
    }
    was.filter(|_| ran).map(|was| ports(service, was)).unwrap_or_default()
}

/// Stops the kubelet while its files change and starts it again: so it runs with those
/// that are there, whichever way the plan goes. Returns the unit where it has to run at
/// the end.
fn restart_kubelet(input: &NodeInput, moves: &mut Moves) -> Option<String> {
    let (was, is) = (&input.state.description, &input.now.description);
    let instance = |healthy: bool| Instance {
        node: input.node.clone(),
        how: How::Unit { unit: KUBELET.to_owned() },
        healthy,
    };
    if unit_runs(is, KUBELET) {
        let healthy = is.units.get(KUBELET).is_some_and(|seen| seen.active == "active");
        moves.stop.push(instance(healthy));
    }
    if !unit_runs(was, KUBELET) {
        return None;
    }
    moves.start.push(instance(true));
    Some(KUBELET.to_owned())
}

/// Whether the service ran, and not only a try of systemd's to start it.
fn runs_well(program: &Program, description: &Description) -> bool {
    program.running && !unit_moves(program, description)
}

/// Whether systemd is about to start the service again and again.
fn unit_moves(program: &Program, description: &Description) -> bool {
    let Runs::Unit { name } = &program.runs else { return false };
    description.units.get(name).is_some_and(|unit| unit.active == "activating")
}

/// Whether a unit starts at boot; `None` where that is nothing that `enable` changes: it is
/// static, masked and the like, or is not known.
fn boots(about: &Description, unit: &str) -> Option<bool> {
    match about.units.get(unit)?.enabled.as_str() {
        "enabled" => Some(true),
        "disabled" => Some(false),
        _ => None,
    }
}

/// Whether units of a service start at boot: first not at all where the service is
/// worked on, as a node that boots in the midst would start it on files that are half set;
/// then as in the state. What a stop or a start sees to itself needs no step.
fn at_boot(
    service: Service,
    input: &NodeInput,
    touched: bool,
    stopped: &[Instance],
    started: &[Instance],
) -> (Vec<Step>, Vec<Step>) {
    let unit = |about| match program(about, service) {
        Some(Program { runs: Runs::Unit { name }, .. }) => Some(name.clone()),
        _ => None,
    };
    let sees_to = |instances: &[Instance], unit: &str| {
        instances.iter().any(|it| matches!(&it.how, How::BootUnit { unit: own } if own == unit))
    };
    let moved = touched || !stopped.is_empty() || !started.is_empty();
    let (was, is) = (&input.state.description, &input.now.description);
    let own = unit(was);
    let names: BTreeSet<String> = [own.clone(), unit(is)].into_iter().flatten().collect();
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for unit in names {
        // One without a file starts nowhere; the file comes with the others of the state.
        let gone = is.units.get(&unit).is_none_or(|seen| seen.enabled.is_empty());
        let Some(now) = boots(is, &unit).or(gone.then_some(false)) else { continue };
        // A unit that the state does not know is none of its.
        let wanted = boots(was, &unit).unwrap_or(now && own.as_ref() == Some(&unit));
        let step = |enabled| Step::Enable { node: input.node.clone(), unit: unit.clone(), enabled };
        let held = now && (moved || !wanted);
        if held && !sees_to(stopped, &unit) {
            first.push(step(false));
        }
        if wanted && (held || !now) && !sees_to(started, &unit) {
            last.push(step(true));
        }
    }
    (first, last)
}
