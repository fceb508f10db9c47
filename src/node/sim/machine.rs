//! One simulated machine: what runs on it, and what happens as time goes by.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::{
    Attributes, Container, ContainerQuery, Facts, FileKind, HealthAnswer, HealthQuery, Listener,
    MemberRemains, NodeErrorKind, NodeName, Process, ProcessQuery, Reach, Unit, UnitAction,
};
use super::files::{Inode, Tree, plain};
use super::pods::{self, Phase, Pod};
use super::program::{self, Launch, Running};
use super::units::{self, SimUnit};
use super::{BEGINNING, Fault, Moment};

/// The kubelet's unit, where a test makes it one.
const KUBELET: &str = "kubelet.service";

/// Ended containers of a pod that are still shown.
const ENDED: usize = 5;

pub(super) struct Machine {
    name: NodeName,
    pub(super) ip: IpAddr,
    pub(super) tree: Tree,
    pub(super) powered: bool,
    pub(super) reachable: bool,
    pub(super) ahead: i128,
    pub(super) users: BTreeMap<String, u32>,
    pub(super) kubelet: bool,
    pub(super) fail_start: BTreeMap<String, Vec<String>>,
    /// Programs that run and are not ready, with the reason.
    pub(super) unready: BTreeMap<String, String>,
    /// Sockets of nobody that is simulated.
    pub(super) foreign: Vec<SocketAddr>,
    /// What is told of data directories that were a member's.
    pub(super) remains: BTreeMap<PathBuf, MemberRemains>,
    /// The tree's changes when manifests were last compared with pods.
    compared: Option<u64>,
    /// Whether there is a unit of the kubelet, and with which of the tree's changes that was
    /// found.
    kubelet_unit: Option<(u64, bool)>,
    boot: u64,
    units: BTreeMap<String, SimUnit>,
    pods: Vec<Pod>,
    /// Counts processes, invocations and containers.
    next: u32,
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Machine {
    pub(super) fn new(name: &NodeName, ip: IpAddr) -> Self {
        Self {
            name: name.clone(),
            ip,
            tree: Tree::of_a_machine(),
            powered: true,
            reachable: true,
            ahead: 0,
            users: BTreeMap::from([("root".to_owned(), 0)]),
            kubelet: false,
            fail_start: BTreeMap::new(),
            unready: BTreeMap::new(),
            foreign: Vec::new(),
            remains: BTreeMap::new(),
            compared: None,
            kubelet_unit: None,
            boot: 1,
            units: BTreeMap::new(),
            pods: Vec::new(),
            next: 100,
        }
    }

    pub(super) fn now(&self, moment: &Moment) -> i128 {
        BEGINNING * 1_000_000_000 + i128::from(moment.at) + self.ahead
    }

    pub(super) fn facts(&self, moment: &Moment) -> Facts {
        Facts {
            hostname: self.name.to_string(),
            machine_id: Some(format!("{:0>32}", self.name.as_str().len())),
            boot_id: format!("boot-{}-{}", self.name, self.boot),
            os: "Simulated GNU/Linux".to_owned(),
            arch: "x86_64".to_owned(),
            uid: 0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now: self.now(moment),
            addresses: vec![self.ip],
            systemd: true,
            selinux: false,
        }
    }

    pub(super) fn make_dirs(&mut self, path: &Path, moment: &Moment) {
        let now = self.now(moment);
        let above: Vec<&Path> = path.ancestors().collect();
        for path in above.into_iter().rev() {
            if matches!(self.tree.stat(path), Ok(None))
                && let Ok(path) = self.tree.resolve(path)
            {
                self.tree.put(path, super::files::directory(now), true);
            }
        }
    }

    pub(super) fn link(&mut self, path: &Path, target: &Path, moment: &Moment) {
        let inode = Inode {
            kind: FileKind::Symlink,
            bytes: Vec::new(),
            attributes: plain(0, 0, 0o777),
            modified: self.now(moment),
            target: Some(target.to_owned()),
        };
        if let Ok(path) = self.tree.resolve(path) {
            self.tree.put(path, inode, true);
        }
    }

    /// Renames; who has a file open keeps it, under its new name.
    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> Result<(), Fault> {
        let (old, new) = (self.tree.resolve(from)?, self.tree.resolve(to)?);
        self.tree.rename(from, to)?;
        for running in self.running_mut() {
            for held in &mut running.holds {
                if let Ok(rest) = held.strip_prefix(&old) {
                    *held = new.join(rest);
                }
            }
        }
        Ok(())
    }

    fn running(&self) -> impl Iterator<Item = &Running> {
        let units = self.units.values().filter_map(|unit| unit.running.as_ref());
        let pods = self.pods.iter().filter_map(|pod| match &pod.phase {
            Phase::Runs(running) | Phase::Stops(_, running) => Some(running),
            Phase::Starts(_) | Phase::Closes(..) => None,
        });
        units.chain(pods)
    }

    fn running_mut(&mut self) -> impl Iterator<Item = &mut Running> {
        let units = self.units.values_mut().filter_map(|unit| unit.running.as_mut());
        let pods = self.pods.iter_mut().filter_map(|pod| match &mut pod.phase {
            Phase::Runs(running) | Phase::Stops(_, running) => Some(running),
            Phase::Starts(_) | Phase::Closes(..) => None,
        });
        units.chain(pods)
    }

    pub(super) fn listeners(&self) -> Vec<Listener> {
        let known = self.running().flat_map(|running| {
            running
                .listens
                .iter()
                .map(|address| Listener { address: *address, pid: Some(running.pid) })
        });
        // A container can be gone before its ports are.
        let closing = self.pods.iter().filter_map(|pod| match &pod.phase {
            Phase::Closes(_, running) => Some(&running.listens),
            _ => None,
        });
        let orphans = closing.flatten().chain(&self.foreign);
        known.chain(orphans.map(|address| Listener { address: *address, pid: None })).collect()
    }

    /// Its sockets as other machines reach them.
    pub(super) fn reached(&self) -> Vec<SocketAddr> {
        if !self.powered {
            return Vec::new();
        }
        let open = self.listeners().into_iter().map(|listener| listener.address);
        let open = open.filter(|address| address.ip().is_unspecified() || address.ip() == self.ip);
        open.map(|address| SocketAddr::new(self.ip, address.port())).collect()
    }

    pub(super) fn reach(&self, address: String, moment: &Moment) -> Reach {
        let error = match address.parse::<SocketAddr>() {
            Err(_) => Some("the name is not known".to_owned()),
            Ok(wanted) if wanted.ip() == self.ip || wanted.ip().is_loopback() => {
                let open = self.listeners();
                let open = open.iter().any(|open| program::collide(&open.address, &wanted));
                (!open).then(|| "connection refused".to_owned())
            }
            Ok(wanted) if moment.elsewhere.contains(&wanted) => None,
            Ok(_) => Some("connection refused".to_owned()),
        };
        Reach { address, error }
    }

    /// What the program at an address of its own says; whoever asks is let in.
    pub(super) fn health(&self, query: &HealthQuery) -> HealthAnswer {
        let silent = |why: &str| HealthAnswer::Silent { why: why.to_owned() };
        let address = query.address.replace("localhost", "127.0.0.1");
        let Ok(wanted) = address.parse::<SocketAddr>() else {
            return silent("the name is not known");
        };
        if let Some((certificate, key)) = &query.client
            && [certificate, key].into_iter().any(|path| self.tree.text(path).is_none())
        {
            return silent("no such file or directory");
        }
        let listens = |open: &SocketAddr| program::collide(open, &wanted);
        let program = self.running().find(|running| running.listens.iter().any(listens));
        let Some(program) = program else {
            let open = self.listeners().iter().any(|open| listens(&open.address));
            let why = if open { "what answers does not speak HTTP" } else { "connection refused" };
            return silent(why);
        };
        let program = program.program();
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        match self.unready.get(&*name) {
            Some(why) => HealthAnswer::Answered { status: 500, text: why.clone() },
            None => HealthAnswer::Answered { status: 200, text: "ok".to_owned() },
        }
    }

    pub(super) fn processes(&self, query: &ProcessQuery) -> Vec<Process> {
        let init = Process {
            pid: 1,
            started: 0,
            program: "/usr/lib/systemd/systemd".into(),
            arguments: vec!["/sbin/init".to_owned()],
            environment: BTreeMap::new(),
            cwd: "/".into(),
            root: None,
            cgroup: "/init.scope".to_owned(),
            uid: 0,
        };
        let held = |path: &Path, process: u32| {
            self.running().any(|running| {
                running.pid == process && running.holds.iter().any(|file| file.starts_with(path))
            })
        };
        let all = std::iter::once(init).chain(self.running().map(|running| Process {
            pid: running.pid,
            started: running.started,
            program: running.program(),
            arguments: running.launch.arguments.clone(),
            environment: running.launch.environment.clone(),
            cwd: "/".into(),
            root: None,
            cgroup: running.launch.cgroup.clone(),
            uid: running.launch.uid,
        }));
        let wanted = |process: &Process| match query {
            ProcessQuery::Program(name) => {
                process.program.file_name().is_some_and(|program| program == name.as_str())
            }
            ProcessQuery::Pid(pid) => process.pid == *pid,
            ProcessQuery::Holding(path) => held(path, process.pid),
        };
        all.filter(wanted).collect()
    }

    fn count(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn launch(&mut self, launch: Launch, moment: &Moment) -> Result<Running, String> {
        let now = self.now(moment);
        let peers = |address: &SocketAddr| moment.elsewhere.contains(address);
        let (listens, holds) = program::start(&launch, &mut self.tree, now, &peers)?;
        let open = self.listeners();
        if let Some(taken) =
            listens.iter().find(|new| open.iter().any(|old| program::collide(&old.address, new)))
        {
            return Err(format!("listen tcp {taken}: bind: address already in use"));
        }
        let pid = self.count();
        Ok(Running { pid, started: moment.at / 10_000_000, launch, listens, holds })
    }

    // Units.

    fn known(&mut self, name: &str) -> Option<&mut SimUnit> {
        if !self.units.contains_key(name) {
            let loaded = units::load(&self.tree, name)?;
            self.units.insert(name.to_owned(), SimUnit::new(loaded));
        }
        self.units.get_mut(name)
    }

    fn is_enabled(&self, name: &str) -> bool {
        let link = self.tree.stat(&Path::new(units::WANTS).join(name));
        matches!(link, Ok(Some(entry)) if entry.kind == FileKind::Symlink)
    }

    pub(super) fn unit(&mut self, name: &str) -> Option<Unit> {
        self.known(name)?;
        let unit = &self.units[name];
        let stale = units::load(&self.tree, name).as_ref() != Some(&unit.loaded);
        Some(Unit {
            name: name.to_owned(),
            load_state: "loaded".to_owned(),
            active_state: unit.active.to_owned(),
            sub_state: unit.sub.to_owned(),
            file_state: if self.is_enabled(name) { "enabled" } else { "disabled" }.to_owned(),
            result: unit.result.to_owned(),
            main_pid: unit.running.as_ref().map_or(0, |running| running.pid),
            fragment: Some(unit.loaded.fragment.clone()),
            drop_ins: unit.loaded.drop_ins.clone(),
            needs_reload: stale,
            invocation: unit.invocation.clone(),
        })
    }

    pub(super) fn unit_names(&self, glob: &str) -> Vec<String> {
        let installed =
            units::DIRECTORIES.iter().flat_map(|dir| self.tree.files_in(Path::new(dir)));
        let installed = installed.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
        let mut names: Vec<String> = self.units.keys().cloned().chain(installed).collect();
        names.retain(|name| units::matches(glob.as_bytes(), name.as_bytes()));
        names.sort();
        names.dedup();
        names
    }

    pub(super) fn unit_do(
        &mut self,
        name: &str,
        action: UnitAction,
        moment: &Moment,
    ) -> Result<(), Fault> {
        if action == UnitAction::DaemonReload {
            let tree = &self.tree;
            self.units.retain(|name, unit| match units::load(tree, name) {
                Some(loaded) => {
                    unit.loaded = loaded;
                    true
                }
                None => unit.running.is_some(),
            });
            return Ok(());
        }
        let Some(unit) = self.known(name) else {
            return Err(Fault::new(NodeErrorKind::NotFound, "there is no such unit"));
        };
        match action {
            UnitAction::Start if unit.running.is_some() => {}
            UnitAction::Start => return self.start(name, moment),
            UnitAction::Stop => {
                if unit.running.take().is_some() {
                    (unit.active, unit.sub, unit.result) = ("inactive", "dead", "success");
                }
            }
            UnitAction::ResetFailed if unit.active == "failed" => {
                (unit.active, unit.sub, unit.result) = ("inactive", "dead", "success");
            }
            UnitAction::ResetFailed | UnitAction::DaemonReload => {}
            UnitAction::Enable => {
                let fragment = unit.loaded.fragment.clone();
                self.make_dirs(Path::new(units::WANTS), moment);
                self.link(&Path::new(units::WANTS).join(name), &fragment, moment);
            }
            UnitAction::Disable => {
                if self.is_enabled(name) {
                    self.tree.unlink(&Path::new(units::WANTS).join(name));
                }
            }
        }
        Ok(())
    }

    fn start(&mut self, name: &str, moment: &Moment) -> Result<(), Fault> {
        let loaded = self.units[name].loaded.clone();
        let started = self.service(name, &loaded).and_then(|launch| self.launch(launch, moment));
        let number = self.count();
        let invocation = format!("{:032x}", u128::from(self.boot) << 64 | u128::from(number));
        // Known to be there: it was looked up by the caller.
        let Some(unit) = self.units.get_mut(name) else { return Ok(()) };
        unit.invocation = invocation;
        match started {
            Ok(running) => {
                (unit.active, unit.sub, unit.result) = ("active", "running", "success");
                unit.journal.push(format!("Started {name}."));
                unit.running = Some(running);
                Ok(())
            }
            Err(lines) => {
                (unit.active, unit.sub, unit.result) = ("failed", "failed", "exit-code");
                unit.journal.extend(lines.lines().map(str::to_owned));
                let mut fault = Fault::new(NodeErrorKind::Failed, "the unit failed: exit-code");
                let from = unit.journal.len().saturating_sub(10);
                fault.details = unit.journal[from..].to_vec();
                Err(fault)
            }
        }
    }

    fn service(&self, name: &str, loaded: &units::Loaded) -> Result<Launch, String> {
        if let Some(lines) = self.fail_start.get(name) {
            return Err(lines.join("\n"));
        }
        let service = units::service(loaded, &self.tree)?;
        let uid = match service.user.as_deref() {
            None => 0,
            Some(user) => match user.parse().ok().or_else(|| self.users.get(user).copied()) {
                Some(uid) => uid,
                None => return Err(format!("Failed to determine user credentials: {user}")),
            },
        };
        Ok(Launch {
            arguments: service.exec,
            environment: service.environment,
            uid,
            cgroup: format!("/system.slice/{name}"),
        })
    }

    // Pods.

    /// What the time since the last call brought.
    pub(super) fn settle(&mut self, moment: &Moment) {
        if !self.powered || !self.kubelet_runs() {
            return;
        }
        self.compare_manifests(moment);
        // Bounded: each turn brings one pod one phase further in time.
        for _ in 0..1000 {
            if !self.next_phase(moment) {
                break;
            }
        }
    }

    /// Where the kubelet is a unit, whether that runs. Without it containers go on, and
    /// nothing starts or ends one.
    fn kubelet_runs(&mut self) -> bool {
        if !self.kubelet {
            return false;
        }
        if let Some(unit) = self.units.get(KUBELET) {
            return unit.running.is_some();
        }
        let changes = self.tree.changes;
        match self.kubelet_unit {
            Some((at, is)) if at == changes => !is,
            _ => {
                let is = units::load(&self.tree, KUBELET).is_some();
                self.kubelet_unit = Some((changes, is));
                !is
            }
        }
    }

    fn compare_manifests(&mut self, moment: &Moment) {
        if self.compared == Some(self.tree.changes) {
            return;
        }
        self.compared = Some(self.tree.changes);
        let wanted: Vec<(PathBuf, pods::Manifest)> = self
            .tree
            .files_in(Path::new(pods::MANIFESTS))
            .into_iter()
            .filter(|path| {
                !path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."))
            })
            .filter_map(|path| {
                let manifest = pods::manifest(&path, &self.tree.text(&path)?)?;
                Some((path, manifest))
            })
            .collect();
        for pod in &mut self.pods {
            let still = wanted.iter().any(|(path, it)| *path == pod.path && *it == pod.manifest);
            if !still && !pod.unwanted {
                pod.unwanted = true;
                if let Phase::Runs(running) = &pod.phase {
                    pod.phase = Phase::Stops(moment.at + nanos(pods::STOP), running.clone());
                }
            }
        }
        self.pods.retain(|pod| !(pod.unwanted && matches!(pod.phase, Phase::Starts(_))));
        for (path, manifest) in wanted {
            let known = |pod: &Pod| !pod.unwanted && pod.path == path && pod.manifest == manifest;
            if !self.pods.iter().any(known) {
                self.pods.push(Pod {
                    path,
                    manifest,
                    phase: Phase::Starts(moment.at + nanos(pods::START)),
                    unwanted: false,
                    attempt: 0,
                    containers: Vec::new(),
                });
            }
        }
    }

    /// Brings the pod whose next phase is due first into it.
    fn next_phase(&mut self, moment: &Moment) -> bool {
        let due = self.pods.iter().enumerate().filter_map(|(at, pod)| match &pod.phase {
            Phase::Starts(when) | Phase::Stops(when, _) | Phase::Closes(when, _) => {
                Some((*when, at))
            }
            Phase::Runs(_) => None,
        });
        let Some((when, at)) = due.min().filter(|(when, _)| *when <= moment.at) else {
            return false;
        };
        let pod = &mut self.pods[at];
        match pod.phase.clone() {
            Phase::Starts(_) => self.start_pod(at, when, moment),
            Phase::Stops(_, running) => {
                for container in &mut pod.containers {
                    container.running = false;
                }
                pod.phase = Phase::Closes(when + nanos(pods::CLOSE), running);
            }
            Phase::Closes(..) if pod.unwanted => {
                self.pods.remove(at);
            }
            Phase::Closes(..) => pod.phase = Phase::Starts(when + nanos(pods::START)),
            Phase::Runs(_) => {}
        }
        true
    }

    fn start_pod(&mut self, at: usize, when: u64, moment: &Moment) {
        let path = self.pods[at].path.clone();
        if self.pods.iter().any(|pod| pod.unwanted && pod.path == path) {
            // The one before it must be gone.
            self.pods[at].phase = Phase::Starts(when + nanos(pods::START));
            return;
        }
        let number = self.count();
        let id = format!("{:064x}", u128::from(self.boot) << 64 | u128::from(number));
        let manifest = self.pods[at].manifest.clone();
        let launch = Launch {
            arguments: manifest.command.clone(),
            environment: BTreeMap::new(),
            uid: 0,
            cgroup: format!("/kubepods.slice/pod{}/{id}", manifest.uid),
        };
        let started = self.launch(launch, moment);
        let created = i64::try_from(self.now(moment)).unwrap_or(i64::MAX);
        let pod = &mut self.pods[at];
        let container = Container {
            id,
            name: manifest.container,
            pod: format!("{}-{}", manifest.pod, self.name),
            namespace: manifest.namespace,
            pod_uid: manifest.uid,
            running: started.is_ok(),
            attempt: pod.attempt,
            created,
            image: manifest.image,
        };
        pod.containers.push(container);
        let old = pod.containers.len().saturating_sub(ENDED + 1);
        pod.containers.drain(..old);
        pod.attempt += 1;
        pod.phase = match started {
            Ok(running) => Phase::Runs(running),
            Err(_) => Phase::Starts(when + nanos(pods::BACK_OFF)),
        };
    }

    pub(super) fn containers(&self, query: &ContainerQuery) -> Result<Vec<Container>, Fault> {
        if !self.kubelet {
            let why = "there is no kubelet on this node, so no container runtime is known";
            return Err(Fault::new(NodeErrorKind::NotFound, why));
        }
        let all = self.pods.iter().flat_map(|pod| &pod.containers);
        let wanted = all.filter(|container| {
            (query.ended || container.running)
                && query.namespace.as_ref().is_none_or(|wanted| *wanted == container.namespace)
                && query.name.as_ref().is_none_or(|wanted| *wanted == container.name)
        });
        Ok(wanted.cloned().collect())
    }

    pub(super) fn stop_container(&mut self, id: &str, moment: &Moment) -> Result<(), Fault> {
        let found = self.pods.iter_mut().find_map(|pod| {
            let at = pod.containers.iter().position(|container| container.id == id)?;
            Some((pod, at))
        });
        let Some((pod, at)) = found else {
            return Err(Fault::new(NodeErrorKind::NotFound, "there is no such container"));
        };
        if pod.containers[at].running {
            pod.containers[at].running = false;
            if let Phase::Runs(running) | Phase::Stops(_, running) = &pod.phase {
                pod.phase = Phase::Closes(moment.at, running.clone());
            }
        }
        Ok(())
    }

    // Power.

    pub(super) fn power_off(&mut self) {
        self.powered = false;
        self.tree.crash();
        self.units.clear();
        self.pods.clear();
        self.foreign.clear();
        self.compared = None;
    }

    pub(super) fn power_on(&mut self, moment: &Moment) {
        if self.powered {
            return;
        }
        self.powered = true;
        self.boot += 1;
        let wanted = self.tree.list(Path::new(units::WANTS)).unwrap_or_default();
        for entry in wanted {
            let Some(name) = entry.path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if self.known(name).is_some() {
                // One that fails is shown as failed.
                let _ = self.start(name, moment);
            }
        }
    }

    /// What is meant to last, as lines.
    pub(super) fn snapshot(&self, without: &Path) -> Vec<String> {
        let name = &self.name;
        let mut lines = Vec::new();
        for (path, inode) in &self.tree.now {
            if !path.starts_with(without) {
                let Attributes { uid, gid, mode, xattrs, .. } = &inode.attributes;
                lines.push(format!(
                    "{name} {} {:?} {uid}:{gid} {mode:o} {xattrs:?} {:?} {:?}",
                    path.display(),
                    inode.kind,
                    inode.target,
                    String::from_utf8_lossy(&inode.bytes)
                ));
            }
        }
        for unit in self.unit_names("*") {
            // One that systemd did not have to read yet is no different.
            let (active, stale) = match self.units.get(&unit) {
                Some(known) => {
                    let files = units::load(&self.tree, &unit);
                    (known.active, files.as_ref() != Some(&known.loaded))
                }
                None => ("inactive", false),
            };
            lines.push(format!("{name} unit {unit} {active} stale: {stale}"));
        }
        for pod in &self.pods {
            let phase = match pod.phase {
                Phase::Runs(_) => "runs",
                Phase::Starts(_) => "starts",
                Phase::Stops(..) => "stops",
                Phase::Closes(..) => "closes",
            };
            lines.push(format!("{name} pod {} {} {phase}", pod.path.display(), pod.manifest.uid));
        }
        lines
    }
}
