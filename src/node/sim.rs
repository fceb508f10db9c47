//! Simulated machines behind [`Node`]: files, units, static pods, processes and
//! listeners in memory, on tokio's clock, which a test may pause.
//!
//! What holds:
//!
//! - a change by a call is durable when it returns; what else was written without a
//!   sync is gone after [`SimNode::power_off`];
//! - every call can be made to fail before or after its effect, to hang, to lose the
//!   connection, to take the power away or never to return ([`SimNet::trouble_at`]);
//! - programs start, or fail to, by what is in the files, as the real ones do:
//!   etcd holds its data directory and its ports, and does not start over a
//!   directory of another owner, over a port in use, or without data where its
//!   state says `existing` and no peer answers.
//!
//! `tests/common/node_contract.rs` holds what real nodes promise against it.

mod build;
mod files;
mod machine;
mod pods;
mod program;
mod trees;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::time::Instant;

use self::files::{Inode, Tree, plain};
use self::machine::Machine;
use super::{
    Attributes, BuiltMember, ByteStream, Container, ContainerQuery, Entry, Facts, FileContent,
    FileKind, HealthAnswer, HealthQuery, LinkHow, Listener, MemberRemains, MemberSpec, Mount, Node,
    NodeError, NodeErrorKind, NodeName, Process, ProcessQuery, Reach, RecoverSpec, RecoveredMember,
    RemainsSpec, SetHow, Space, TreeDigest, TreeSpec, Unit, UnitAction, WriteHow, WriteLike,
};
use crate::datadir::remains::Remains;

/// 2026-11-21 00:00 UTC: when every simulation begins, in seconds.
const BEGINNING: i128 = 1_795_219_200;

/// A call that hangs ends so much later.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A kind and a reason, before node and act are known.
#[derive(Debug)]
struct Fault {
    kind: NodeErrorKind,
    why: String,
    details: Vec<String>,
}

impl Fault {
    fn new(kind: NodeErrorKind, why: impl Into<String>) -> Self {
        Self { kind, why: why.into(), details: Vec::new() }
    }
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It fails so.
    Fail(NodeErrorKind),
    /// It does not answer within its deadline.
    Hang,
    /// The connection is lost, and every later call to the node fails until
    /// [`SimNet::heal`].
    Cut,
    /// The node loses its power.
    PowerOff,
    /// It never returns: whoever called is gone ([`SimNet::frozen`]).
    Freeze,
}

/// Whether a trouble comes before or after a call's effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The call has no effect.
    Before,
    /// It has, and whoever called does not learn it.
    After,
}

/// Machines that reach each other. Cheap to clone.
#[derive(Clone)]
pub struct SimNet(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    frozen: tokio::sync::Notify,
}

struct State {
    machines: BTreeMap<NodeName, Machine>,
    begun: Instant,
    calls: u64,
    log: Vec<String>,
    troubles: BTreeMap<u64, (Trouble, When)>,
    /// Pairs of which the first does not reach the second.
    blocked: BTreeSet<(NodeName, NodeName)>,
}

impl fmt::Debug for SimNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        let names: Vec<&str> = state.machines.keys().map(NodeName::as_str).collect();
        f.debug_struct("SimNet").field("machines", &names).field("calls", &state.calls).finish()
    }
}

impl Default for SimNet {
    fn default() -> Self {
        Self::new()
    }
}

impl SimNet {
    /// No machines.
    pub fn new() -> Self {
        let state = State {
            machines: BTreeMap::new(),
            begun: Instant::now(),
            calls: 0,
            log: Vec::new(),
            troubles: BTreeMap::new(),
            blocked: BTreeSet::new(),
        };
        Self(Arc::new(Shared { state: Mutex::new(state), frozen: tokio::sync::Notify::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more machine, with 1 GiB, at the address `10.0.0.<number>`, number from 1.
    pub fn add(&self, name: &NodeName) -> SimNode {
        let mut state = self.lock();
        let number = u8::try_from(state.machines.len() + 1).unwrap_or(u8::MAX);
        let ip = IpAddr::V4(Ipv4Addr::new(10, 0, 0, number));
        state.machines.insert(name.clone(), Machine::new(name, ip));
        SimNode { net: self.clone(), name: name.clone() }
    }

    /// The machine that was added as `name`.
    pub fn node(&self, name: &NodeName) -> Option<SimNode> {
        let known = self.lock().machines.contains_key(name);
        known.then(|| SimNode { net: self.clone(), name: name.clone() })
    }

    /// Calls to all machines so far.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// The acts of all calls so far, in order.
    pub fn log(&self) -> Vec<String> {
        self.lock().log.clone()
    }

    /// The call with this number, counted from 1 over all machines, meets `trouble`.
    pub fn trouble_at(&self, call: u64, trouble: Trouble, when: When) {
        self.lock().troubles.insert(call, (trouble, when));
    }

    /// Waits until a call met [`Trouble::Freeze`].
    pub async fn frozen(&self) {
        self.0.frozen.notified().await;
    }

    /// No more troubles: connections stand again, machines have power.
    pub fn heal(&self) {
        let mut state = self.lock();
        state.troubles.clear();
        state.blocked.clear();
        let names: Vec<NodeName> = state.machines.keys().cloned().collect();
        for name in names {
            state.with(&name, |machine, moment| {
                machine.reachable = true;
                if !machine.powered {
                    machine.power_on(moment);
                }
            });
        }
    }

    /// `from` does not reach `to` any more, nor the other way round.
    pub fn block(&self, from: &NodeName, to: &NodeName) {
        let mut state = self.lock();
        state.blocked.insert((from.clone(), to.clone()));
        state.blocked.insert((to.clone(), from.clone()));
    }

    /// Everything of all machines that is meant to last, as lines: files but those
    /// below `without`, units, pods.
    pub fn snapshot(&self, without: &Path) -> Vec<String> {
        let mut state = self.lock();
        let names: Vec<NodeName> = state.machines.keys().cloned().collect();
        let mut lines = Vec::new();
        for name in names {
            lines.extend(state.with(&name, |machine, _| machine.snapshot(without)));
        }
        lines
    }
}

/// A moment of the simulation, and who listens elsewhere then.
struct Moment {
    /// Nanoseconds since the beginning.
    at: u64,
    /// Sockets on other machines, as this one reaches them.
    elsewhere: Vec<SocketAddr>,
}

impl State {
    fn at(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Brings the machine up to date, works on it, and brings it up to date again.
    fn with<T>(&mut self, name: &NodeName, work: impl FnOnce(&mut Machine, &Moment) -> T) -> T {
        let at = self.at();
        let mut elsewhere = Vec::new();
        for (other, machine) in &mut self.machines {
            if other != name && !self.blocked.contains(&(name.clone(), other.clone())) {
                elsewhere.extend(machine.reached());
            }
        }
        let moment = Moment { at, elsewhere };
        // Names come from `add` alone, and nothing is ever taken out.
        let machine = self
            .machines
            .entry(name.clone())
            .or_insert_with(|| Machine::new(name, IpAddr::V4(Ipv4Addr::LOCALHOST)));
        machine.settle(&moment);
        let result = work(machine, &moment);
        machine.settle(&moment);
        result
    }
}

/// One simulated machine. Cheap to clone.
#[derive(Clone)]
pub struct SimNode {
    net: SimNet,
    name: NodeName,
}

impl fmt::Debug for SimNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimNode({})", self.name)
    }
}

/// Setting up and looking in, past the interface: at once, and never failing for
/// troubles.
impl SimNode {
    fn with<T>(&self, work: impl FnOnce(&mut Machine, &Moment) -> T) -> T {
        self.net.lock().with(&self.name, work)
    }

    /// Its net.
    pub fn net(&self) -> &SimNet {
        &self.net
    }

    /// Its address.
    pub fn ip(&self) -> IpAddr {
        self.with(|machine, _| machine.ip)
    }

    /// A directory with what is missing above it, root's with 0755.
    pub fn dir(&self, path: &str) -> &Self {
        self.with(|machine, moment| machine.make_dirs(Path::new(path), moment));
        self
    }

    /// A directory with an owner (user and group) and a mode; durable.
    pub fn owned_dir(&self, path: &str, owner: u32, mode: u32) -> &Self {
        self.dir(path);
        self.chown(path, owner, mode)
    }

    /// A file with its directories, replaced where there is one; durable.
    pub fn file(&self, path: &str, text: &str, owner: u32, mode: u32) -> &Self {
        self.put(path, text.as_bytes(), owner, mode, true)
    }

    /// The same without a sync: gone after a power cut.
    pub fn unsynced_file(&self, path: &str, text: &str, owner: u32, mode: u32) -> &Self {
        self.put(path, text.as_bytes(), owner, mode, false)
    }

    fn put(&self, path: &str, bytes: &[u8], owner: u32, mode: u32, synced: bool) -> &Self {
        let path = Path::new(path);
        self.with(|machine, moment| {
            machine.make_dirs(path.parent().unwrap_or(path), moment);
            let inode = Inode {
                kind: FileKind::File,
                bytes: bytes.to_vec(),
                attributes: plain(owner, owner, mode),
                modified: machine.now(moment),
                target: None,
            };
            if let Ok(path) = machine.tree.resolve(path) {
                machine.tree.put(path, inode, synced);
            }
        });
        self
    }

    /// A symbolic link; durable.
    pub fn link(&self, path: &str, target: &str) -> &Self {
        let path = Path::new(path);
        self.with(|machine, moment| {
            machine.make_dirs(path.parent().unwrap_or(path), moment);
            machine.link(path, Path::new(target), moment);
        });
        self
    }

    /// Makes everything below `path` durable.
    pub fn sync(&self, path: &str) -> &Self {
        self.with(|machine, _| machine.tree.sync(Path::new(path)));
        self
    }

    /// Sets owner, group and mode of one entry.
    pub fn chown(&self, path: &str, owner: u32, mode: u32) -> &Self {
        self.change(path, |attributes| {
            (attributes.uid, attributes.gid, attributes.mode) = (owner, owner, mode);
        })
    }

    /// Sets an extended attribute.
    pub fn xattr(&self, path: &str, name: &str, value: &[u8]) -> &Self {
        self.change(path, |attributes| {
            attributes.xattrs.insert(name.to_owned(), value.to_vec());
        })
    }

    fn change(&self, path: &str, change: impl FnOnce(&mut Attributes)) -> &Self {
        self.with(|machine, _| {
            let Ok(path) = machine.tree.resolve(Path::new(path)) else { return };
            if let Some(inode) = machine.tree.now.get(&path) {
                let mut inode = inode.clone();
                change(&mut inode.attributes);
                machine.tree.put(path, inode, true);
            }
        });
        self
    }

    /// A file's text, or `None`.
    pub fn text(&self, path: &str) -> Option<String> {
        self.with(|machine, _| machine.tree.text(Path::new(path)))
    }

    /// A file's bytes, or `None`.
    pub fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        self.with(|machine, _| {
            let path = machine.tree.resolve(Path::new(path)).ok()?;
            let inode = machine.tree.now.get(&path)?;
            (inode.kind == FileKind::File).then(|| inode.bytes.clone())
        })
    }

    /// Whether a program of this name runs.
    pub fn runs(&self, program: &str) -> bool {
        let query = ProcessQuery::Program(program.to_owned());
        self.with(|machine, _| machine.powered && !machine.processes(&query).is_empty())
    }

    /// Mounts an empty file system of `total` bytes at `point`.
    pub fn mount(&self, point: &str, total: u64) -> &Self {
        self.dir(point);
        self.with(|machine, _| machine.tree.mount(Path::new(point), total));
        self
    }

    /// Mounts the file system at `point` read-only, or not any more.
    pub fn set_read_only(&self, point: &str, read_only: bool) -> &Self {
        self.with(|machine, _| {
            for volume in &mut machine.tree.volumes {
                if volume.mount.point == Path::new(point) {
                    volume.mount.read_only = read_only;
                }
            }
        });
        self
    }

    /// Sets the size of the file system at `point`.
    pub fn set_total(&self, point: &str, total: u64) -> &Self {
        self.with(|machine, _| {
            for volume in &mut machine.tree.volumes {
                if volume.mount.point == Path::new(point) {
                    volume.total = total;
                }
            }
        });
        self
    }

    /// A user with a group of the same number.
    pub fn user(&self, name: &str, id: u32) -> &Self {
        self.with(|machine, _| machine.users.insert(name.to_owned(), id));
        self
    }

    /// A kubelet runs, and watches `/etc/kubernetes/manifests`. With a unit
    /// `kubelet.service` it runs while that does.
    pub fn kubelet(&self) -> &Self {
        self.dir(pods::MANIFESTS);
        self.with(|machine, _| machine.kubelet = true);
        self
    }

    /// The unit does not start any more, with these lines in the journal; with none
    /// it does again.
    pub fn fail_start(&self, unit: &str, lines: &[&str]) -> &Self {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        self.with(|machine, _| match lines.is_empty() {
            true => machine.fail_start.remove(unit),
            false => machine.fail_start.insert(unit.to_owned(), lines),
        });
        self
    }

    /// The program of this name runs and is not ready, for this reason; with none it is
    /// again.
    pub fn unready(&self, program: &str, why: &str) -> &Self {
        self.with(|machine, _| match why.is_empty() {
            true => machine.unready.remove(program),
            false => machine.unready.insert(program.to_owned(), why.to_owned()),
        });
        self
    }

    /// A look at what is left in this data directory finds that.
    pub fn left(&self, data_dir: &str, found: MemberRemains) -> &Self {
        self.with(|machine, _| machine.remains.insert(data_dir.into(), found));
        self
    }

    /// Something listens there that nobody knows.
    pub fn listen(&self, address: SocketAddr) -> &Self {
        self.with(|machine, _| machine.foreign.push(address));
        self
    }

    /// Whatever else listened there does no more.
    pub fn unlisten(&self, address: SocketAddr) -> &Self {
        self.with(|machine, _| machine.foreign.retain(|other| *other != address));
        self
    }

    /// The clock is so many seconds ahead.
    pub fn set_clock_ahead(&self, seconds: i64) -> &Self {
        self.with(|machine, _| machine.ahead = i128::from(seconds) * 1_000_000_000);
        self
    }

    /// The connection to it is gone until [`SimNet::heal`].
    pub fn cut(&self) -> &Self {
        self.with(|machine, _| machine.reachable = false);
        self
    }

    /// Takes the power away: processes are gone, and what was not synced.
    pub fn power_off(&self) -> &Self {
        self.with(|machine, _| machine.power_off());
        self
    }

    /// Boots it: units that are enabled start, and the kubelet.
    pub fn power_on(&self) -> &Self {
        self.with(|machine, moment| machine.power_on(moment));
        self
    }

    /// A call: counted, perhaps troubled.
    async fn call<T>(
        &self,
        act: String,
        work: impl FnOnce(&mut Machine, &Moment) -> Result<T, Fault> + Send,
    ) -> Result<T, NodeError> {
        // As with a real one, others get their turn.
        tokio::task::yield_now().await;
        let trouble = {
            let mut state = self.net.lock();
            state.calls += 1;
            state.log.push(format!("{}: {act}", self.name));
            let number = state.calls;
            state.troubles.remove(&number)
        };
        if let Some((trouble, When::Before)) = trouble {
            return Err(self.suffer(trouble, &act).await);
        }
        let result = self.with(|machine, moment| {
            if !machine.powered || !machine.reachable {
                return Err(Fault::new(NodeErrorKind::Lost, "no connection"));
            }
            work(machine, moment)
        });
        if let Some((trouble, When::After)) = trouble {
            return Err(self.suffer(trouble, &act).await);
        }
        result.map_err(|fault| {
            let mut error = NodeError::new(&self.name, fault.kind, act, fault.why);
            error.details = fault.details;
            error
        })
    }

    async fn suffer(&self, trouble: Trouble, act: &str) -> NodeError {
        let (kind, why) = match trouble {
            Trouble::Fail(kind) => (kind, "it was made to fail"),
            Trouble::Hang => {
                tokio::time::sleep(DEADLINE).await;
                (NodeErrorKind::Slow, "no answer within the deadline")
            }
            Trouble::Cut => {
                self.cut();
                (NodeErrorKind::Lost, "the connection broke")
            }
            Trouble::PowerOff => {
                self.power_off();
                (NodeErrorKind::Lost, "the connection broke")
            }
            Trouble::Freeze => {
                self.net.0.frozen.notify_one();
                std::future::pending().await
            }
        };
        NodeError::new(&self.name, kind, act, why)
    }
}

fn show(path: &Path) -> std::path::Display<'_> {
    path.display()
}

#[async_trait]
impl Node for SimNode {
    fn name(&self) -> &NodeName {
        &self.name
    }

    async fn facts(&self) -> Result<Facts, NodeError> {
        self.call("ask what it is".into(), |machine, moment| Ok(machine.facts(moment))).await
    }

    async fn stat(&self, path: &Path) -> Result<Option<Entry>, NodeError> {
        self.call(format!("stat {}", show(path)), |machine, _| machine.tree.stat(path)).await
    }

    async fn list(&self, path: &Path) -> Result<Vec<Entry>, NodeError> {
        self.call(format!("list {}", show(path)), |machine, _| machine.tree.list(path)).await
    }

    async fn read(&self, path: &Path, limit: u64) -> Result<FileContent, NodeError> {
        self.call(format!("read {}", show(path)), |machine, _| {
            let (entry, bytes) = machine.tree.read(path, limit)?;
            Ok(FileContent { entry, bytes })
        })
        .await
    }

    async fn write(&self, path: &Path, content: &[u8], how: WriteHow) -> Result<(), NodeError> {
        self.call(format!("write {}", show(path)), |machine, moment| {
            let now = machine.now(moment);
            machine.tree.write(path, content, &how, now)
        })
        .await
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), NodeError> {
        self.call(format!("rename {} to {}", show(from), show(to)), |machine, _| {
            machine.rename(from, to)
        })
        .await
    }

    async fn make_dir(&self, path: &Path, like: WriteLike) -> Result<(), NodeError> {
        self.call(format!("make the directory {}", show(path)), |machine, moment| {
            let now = machine.now(moment);
            machine.tree.make_dir(path, &like, now)
        })
        .await
    }

    async fn make_link(&self, path: &Path, how: LinkHow) -> Result<(), NodeError> {
        self.call(format!("make the link {}", show(path)), |machine, moment| {
            let now = machine.now(moment);
            machine.tree.make_link(path, &how, now)
        })
        .await
    }

    async fn set(&self, path: &Path, how: SetHow) -> Result<(), NodeError> {
        self.call(format!("set {}", show(path)), |machine, _| machine.tree.set(path, &how)).await
    }

    async fn remove_own(&self, path: &Path, expected: [u8; 32]) -> Result<(), NodeError> {
        self.call(format!("remove {}", show(path)), |machine, _| {
            machine.tree.remove_own(path, expected)
        })
        .await
    }

    async fn remove_link(&self, path: &Path, target: &Path) -> Result<(), NodeError> {
        self.call(format!("remove the link {}", show(path)), |machine, _| {
            machine.tree.remove_link(path, target)
        })
        .await
    }

    async fn remove_dir(&self, path: &Path) -> Result<(), NodeError> {
        let act = format!("remove the directory {}", show(path));
        self.call(act, |machine, _| machine.tree.remove_dir(path)).await
    }

    async fn remove_own_tree(&self, path: &Path, expected: [u8; 32]) -> Result<(), NodeError> {
        self.call(format!("remove the tree {}", show(path)), |machine, _| {
            machine.tree.remove_own_tree(path, expected)
        })
        .await
    }

    async fn digest(&self, path: &Path) -> Result<TreeDigest, NodeError> {
        self.call(format!("digest {}", show(path)), |machine, _| machine.tree.digest(path)).await
    }

    async fn space(&self, path: &Path) -> Result<Space, NodeError> {
        self.call(format!("ask for the space at {}", show(path)), |machine, _| {
            machine.tree.space(path)
        })
        .await
    }

    async fn mounts(&self) -> Result<Vec<Mount>, NodeError> {
        self.call("ask what is mounted".into(), |machine, _| {
            Ok(machine.tree.volumes.iter().map(|volume| volume.mount.clone()).collect())
        })
        .await
    }

    async fn save_tree(&self, spec: TreeSpec) -> Result<ByteStream, NodeError> {
        let tar =
            self.call("save trees".into(), |machine, _| trees::save(&machine.tree, &spec)).await?;
        let chunks: Vec<_> =
            tar.chunks(64 << 10).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
        Ok(futures_util::stream::iter(chunks).boxed())
    }

    async fn unpack_tree(&self, root: &Path, tar: ByteStream) -> Result<TreeDigest, NodeError> {
        let chunks: Vec<Bytes> = tar.try_collect().await?;
        let tar = chunks.concat();
        self.call(format!("unpack {}", show(root)), |machine, moment| {
            machine.tree.place(root)?;
            let found = trees::read(&tar, machine.now(moment))?;
            trees::unpack(&mut machine.tree, root, found)?;
            machine.tree.digest(root)
        })
        .await
    }

    async fn build_member(
        &self,
        path: &Path,
        spec: MemberSpec,
        snapshot: ByteStream,
    ) -> Result<BuiltMember, NodeError> {
        let chunks: Vec<Bytes> = snapshot.try_collect().await?;
        self.call(format!("build the member at {}", show(path)), |machine, moment| {
            let now = machine.now(moment);
            build::build(&mut machine.tree, path, &spec, &chunks, now)
        })
        .await
    }

    async fn remains(&self, spec: RemainsSpec) -> Result<MemberRemains, NodeError> {
        let act = format!("look at what is left in {}", show(&spec.data_dir));
        self.call(act, |machine, _| {
            let nothing = || {
                let problems = vec!["there is no log".to_owned()];
                let remains = Remains { log: None, database: None, problems };
                MemberRemains { in_use: false, remains }
            };
            Ok(machine.remains.get(&spec.data_dir).cloned().unwrap_or_else(nothing))
        })
        .await
    }

    async fn recover_member(
        &self,
        _: RecoverSpec,
    ) -> Result<(RecoveredMember, ByteStream), NodeError> {
        self.call("recover what is left".into(), |_, _| {
            let why = "there is no etcd that could run here alone";
            Err(Fault::new(NodeErrorKind::Unsupported, why))
        })
        .await
    }

    async fn unit(&self, name: &str) -> Result<Option<Unit>, NodeError> {
        self.call(format!("ask for {name}"), |machine, _| Ok(machine.unit(name))).await
    }

    async fn units(&self, glob: &str) -> Result<Vec<String>, NodeError> {
        self.call(format!("list the units {glob}"), |machine, _| Ok(machine.unit_names(glob))).await
    }

    async fn unit_do(
        &self,
        name: &str,
        action: UnitAction,
        _deadline: Duration,
    ) -> Result<(), NodeError> {
        let act = match action {
            UnitAction::Start => format!("start {name}"),
            UnitAction::Stop => format!("stop {name}"),
            UnitAction::Enable => format!("enable {name}"),
            UnitAction::Disable => format!("disable {name}"),
            UnitAction::DaemonReload => "reload systemd".to_owned(),
            UnitAction::ResetFailed => format!("reset {name}"),
        };
        self.call(act, |machine, moment| machine.unit_do(name, action, moment)).await
    }

    async fn containers(&self, query: ContainerQuery) -> Result<Vec<Container>, NodeError> {
        self.call("list the containers".into(), |machine, _| machine.containers(&query)).await
    }

    async fn stop_container(&self, id: &str, _grace: Duration) -> Result<(), NodeError> {
        self.call(format!("stop the container {id}"), |machine, moment| {
            machine.stop_container(id, moment)
        })
        .await
    }

    async fn processes(&self, query: ProcessQuery) -> Result<Vec<Process>, NodeError> {
        self.call("list processes".into(), |machine, _| Ok(machine.processes(&query))).await
    }

    async fn listeners(&self) -> Result<Vec<Listener>, NodeError> {
        self.call("list listeners".into(), |machine, _| Ok(machine.listeners())).await
    }

    async fn reach(
        &self,
        addresses: Vec<String>,
        _timeout: Duration,
    ) -> Result<Vec<Reach>, NodeError> {
        self.call("try addresses".into(), |machine, moment| {
            Ok(addresses.into_iter().map(|address| machine.reach(address, moment)).collect())
        })
        .await
    }

    async fn health(
        &self,
        query: HealthQuery,
        _timeout: Duration,
    ) -> Result<HealthAnswer, NodeError> {
        let act = format!("ask {} how it is", query.address);
        self.call(act, |machine, _| Ok(machine.health(&query))).await
    }
}

impl Tree {
    /// A gibibyte and the directories that every machine has.
    fn of_a_machine() -> Self {
        let mut tree = Self::new(1 << 30);
        for path in [
            "/etc",
            "/etc/systemd",
            "/etc/systemd/system",
            "/usr",
            "/usr/lib",
            "/var",
            "/var/lib",
            "/tmp",
            "/root",
        ] {
            tree.put(path.into(), files::directory(BEGINNING * 1_000_000_000), true);
        }
        tree
    }
}

#[cfg(test)]
mod tests;
