//! This machine.
//!
//! What takes time runs on threads of the runtime's pool. A short call has a
//! deadline; one over a tree is given up when it makes no progress for as long.
//! What was given up may still end behind the caller's back, as a system call
//! that hangs cannot be taken back; a tree that is being unpacked is removed.

mod at;
mod build;
mod cri;
mod digest;
mod facts;
mod fault;
mod file;
mod health;
mod link;
mod mount;
mod owner;
mod process;
mod reach;
mod recover;
mod save;
mod sparse;
mod stream;
mod systemd;
mod temporary;
mod unpack;
mod walk;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::kubelet::Kubelet;
use super::{
    BuiltMember, ByteStream, Container, ContainerQuery, Entry, Facts, FileContent, HealthAnswer,
    HealthQuery, LinkHow, Listener, MemberRemains, MemberSpec, Mount, Node, NodeError,
    NodeErrorKind, NodeName, Process, ProcessQuery, Reach, RecoverSpec, RecoveredMember,
    RemainsSpec, SetHow, Space, TreeDigest, TreeSpec, Unit, UnitAction, WriteHow, WriteLike,
};
use fault::{Fault, Task};

/// What a call may take at most, unless told otherwise.
const DEADLINE: Duration = Duration::from_secs(60);

/// What reads a whole database may take so long.
const READING: Duration = Duration::from_secs(3600);

/// This machine as a [`Node`].
#[derive(Debug, Clone)]
pub struct LocalNode {
    name: NodeName,
    deadline: Duration,
}

impl LocalNode {
    /// This machine, known as `name`, with a deadline of a minute for each call.
    pub fn new(name: NodeName) -> Self {
        Self { name, deadline: DEADLINE }
    }

    /// The same with another deadline.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs `work` on a thread until it is done or the deadline is over.
    async fn short<T: Send + 'static>(
        &self,
        act: impl Into<String>,
        work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, NodeError> {
        let work = tokio::task::spawn_blocking(work);
        let done = match tokio::time::timeout(self.deadline, work).await {
            Ok(joined) => joined.unwrap_or_else(|error| Err(panicked(&error))),
            Err(_) => Err(self.slow("did not end")),
        };
        done.map_err(|fault| fault.of(&self.name, &act.into()))
    }

    /// Runs `work` on a thread as long as it makes progress.
    async fn long<T: Send + 'static>(
        &self,
        act: String,
        task: Arc<Task>,
        work: impl FnOnce(&Task) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, NodeError> {
        let _cancel = CancelOnDrop(Arc::clone(&task));
        let mut seen = task.done();
        let theirs = Arc::clone(&task);
        let mut work = tokio::task::spawn_blocking(move || work(&theirs));
        let done = loop {
            match tokio::time::timeout(self.deadline, &mut work).await {
                Ok(joined) => break joined.unwrap_or_else(|error| Err(panicked(&error))),
                Err(_) if task.done() != seen => seen = task.done(),
                Err(_) => break Err(self.slow("made no progress")),
            }
        };
        done.map_err(|fault| fault.of(&self.name, &act))
    }

    /// Runs `work` on a thread over what `source` gives.
    async fn taking<T: Send + 'static>(
        &self,
        act: String,
        source: ByteStream,
        work: impl FnOnce(stream::Fed, &Task) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, NodeError> {
        let task = Arc::<Task>::default();
        let (fed, feed) = stream::fed(source, self.deadline, Arc::clone(&task));
        let work = self.long(act, task, move |task| work(fed, task));
        tokio::pin!(work, feed);
        tokio::select! {
            done = &mut work => done,
            () = &mut feed => work.await,
        }
    }

    /// The container runtime that the kubelet uses.
    async fn runtime(&self) -> Result<cri::Runtime, NodeError> {
        let socket = Kubelet::runtime_of(self).await?;
        let connected = cri::Runtime::connect(&socket, self.deadline).await;
        connected.map_err(|fault| fault.of(&self.name, "reach the container runtime"))
    }

    fn slow(&self, what: &str) -> Fault {
        let why = format!("{what} within {:?}", self.deadline);
        Fault::new(NodeErrorKind::Slow, why)
    }
}

/// Stops a thread whose caller is gone.
struct CancelOnDrop(Arc<Task>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

fn panicked(error: &tokio::task::JoinError) -> Fault {
    Fault::new(NodeErrorKind::Other, format!("its thread ended: {error}"))
}

fn shown(act: &str, path: &Path) -> String {
    format!("{act} {}", path.display())
}

#[async_trait]
impl Node for LocalNode {
    fn name(&self) -> &NodeName {
        &self.name
    }

    async fn facts(&self) -> Result<Facts, NodeError> {
        self.short("learn what it is", facts::facts).await
    }

    async fn stat(&self, path: &Path) -> Result<Option<Entry>, NodeError> {
        let (act, path) = (shown("look at", path), path.to_owned());
        self.short(act, move || file::stat(&path)).await
    }

    async fn list(&self, path: &Path) -> Result<Vec<Entry>, NodeError> {
        let (act, path) = (shown("list", path), path.to_owned());
        self.short(act, move || file::list(&path)).await
    }

    async fn read(&self, path: &Path, limit: u64) -> Result<FileContent, NodeError> {
        let (act, path) = (shown("read", path), path.to_owned());
        self.short(act, move || file::read(&path, limit)).await
    }

    async fn write(&self, path: &Path, content: &[u8], how: WriteHow) -> Result<(), NodeError> {
        let (act, path, content) = (shown("write", path), path.to_owned(), content.to_owned());
        self.short(act, move || file::write(&path, &content, &how)).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), NodeError> {
        let act = format!("rename {} to {}", from.display(), to.display());
        let (from, to) = (from.to_owned(), to.to_owned());
        self.short(act, move || file::rename(&from, &to)).await
    }

    async fn make_dir(&self, path: &Path, like: WriteLike) -> Result<(), NodeError> {
        let (act, path) = (shown("make the directory", path), path.to_owned());
        self.short(act, move || file::make_dir(&path, &like)).await
    }

    async fn make_link(&self, path: &Path, how: LinkHow) -> Result<(), NodeError> {
        let (act, path) = (shown("make the link", path), path.to_owned());
        self.short(act, move || link::make(&path, &how)).await
    }

    async fn set(&self, path: &Path, how: SetHow) -> Result<(), NodeError> {
        let (act, path) = (shown("set the owner and mode of", path), path.to_owned());
        self.short(act, move || file::set(&path, &how)).await
    }

    async fn remove_own(&self, path: &Path, expected: [u8; 32]) -> Result<(), NodeError> {
        let (act, path) = (shown("remove", path), path.to_owned());
        self.short(act, move || file::remove_own(&path, expected)).await
    }

    async fn remove_link(&self, path: &Path, target: &Path) -> Result<(), NodeError> {
        let (act, path, target) = (shown("remove", path), path.to_owned(), target.to_owned());
        self.short(act, move || link::remove(&path, &target)).await
    }

    async fn remove_dir(&self, path: &Path) -> Result<(), NodeError> {
        let (act, path) = (shown("remove the directory", path), path.to_owned());
        self.short(act, move || file::remove_dir(&path)).await
    }

    async fn remove_own_tree(&self, path: &Path, expected: [u8; 32]) -> Result<(), NodeError> {
        let (act, path) = (shown("remove the tree", path), path.to_owned());
        let work = move |task: &Task| digest::remove_own_tree(&path, expected, task);
        self.long(act, Arc::default(), work).await
    }

    async fn digest(&self, path: &Path) -> Result<TreeDigest, NodeError> {
        let (act, path) = (shown("digest", path), path.to_owned());
        self.long(act, Arc::default(), move |task| digest::digest(&path, task)).await
    }

    async fn space(&self, path: &Path) -> Result<Space, NodeError> {
        let (act, path) = (shown("look for space at", path), path.to_owned());
        self.short(act, move || file::space(&path)).await
    }

    async fn mounts(&self) -> Result<Vec<Mount>, NodeError> {
        self.short("list what is mounted", mount::mounts).await
    }

    async fn save_tree(&self, spec: TreeSpec) -> Result<ByteStream, NodeError> {
        const ACT: &str = "save files";
        save::plan(&spec).map_err(|fault| fault.of(&self.name, ACT))?;
        let work = move |out: &mut dyn std::io::Write, task: &Task| save::save(&spec, out, task);
        Ok(stream::written_by(self.name.clone(), ACT, self.deadline, work))
    }

    async fn unpack_tree(&self, root: &Path, tar: ByteStream) -> Result<TreeDigest, NodeError> {
        let (act, root) = (shown("unpack", root), root.to_owned());
        let work = move |fed: stream::Fed, task: &Task| unpack::unpack(&root, fed, task);
        self.taking(act, tar, work).await
    }

    async fn build_member(
        &self,
        path: &Path,
        spec: MemberSpec,
        snapshot: ByteStream,
    ) -> Result<BuiltMember, NodeError> {
        let (act, path) = (shown("build the member at", path), path.to_owned());
        let work = move |fed: stream::Fed, task: &Task| build::build(&path, &spec, fed, task);
        self.taking(act, snapshot, work).await
    }

    async fn remains(&self, spec: RemainsSpec) -> Result<MemberRemains, NodeError> {
        let act = shown("look at what is left in", &spec.data_dir);
        // A large database takes long, and nothing tells how far it is.
        let patient = self.clone().deadline(self.deadline.max(READING));
        patient.short(act, move || recover::remains(&spec)).await
    }

    async fn recover_member(
        &self,
        spec: RecoverSpec,
    ) -> Result<(RecoveredMember, ByteStream), NodeError> {
        recover::recover(self, spec).await
    }

    async fn unit(&self, name: &str) -> Result<Option<Unit>, NodeError> {
        let (act, name) = (format!("look at the unit {name}"), name.to_owned());
        self.short(act, move || systemd::unit(&name)).await
    }

    async fn units(&self, glob: &str) -> Result<Vec<String>, NodeError> {
        let (act, glob) = (format!("list units {glob}"), glob.to_owned());
        self.short(act, move || systemd::units(&glob)).await
    }

    async fn unit_do(
        &self,
        name: &str,
        action: UnitAction,
        deadline: Duration,
    ) -> Result<(), NodeError> {
        let act = match action {
            UnitAction::Start => format!("start {name}"),
            UnitAction::Stop => format!("stop {name}"),
            UnitAction::Enable => format!("enable {name}"),
            UnitAction::Disable => format!("disable {name}"),
            UnitAction::DaemonReload => "make systemd read its units again".to_owned(),
            UnitAction::ResetFailed => format!("reset {name}"),
        };
        let name = name.to_owned();
        // It watches its own deadline; this one is for when it cannot.
        let patient = self.clone().deadline(deadline.saturating_add(self.deadline));
        patient.short(act, move || systemd::act(&name, action, deadline)).await
    }

    async fn containers(&self, query: ContainerQuery) -> Result<Vec<Container>, NodeError> {
        let found = self.runtime().await?.containers(&query).await;
        found.map_err(|fault| fault.of(&self.name, "list containers"))
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), NodeError> {
        let stopped = self.runtime().await?.stop(id, grace).await;
        stopped.map_err(|fault| fault.of(&self.name, &format!("stop the container {id}")))
    }

    async fn processes(&self, query: ProcessQuery) -> Result<Vec<Process>, NodeError> {
        self.short("look for processes", move || process::processes(&query)).await
    }

    async fn listeners(&self) -> Result<Vec<Listener>, NodeError> {
        self.short("look for listening sockets", process::listeners).await
    }

    async fn reach(
        &self,
        addresses: Vec<String>,
        timeout: Duration,
    ) -> Result<Vec<Reach>, NodeError> {
        reach::reach(addresses, timeout).await.map_err(|f| f.of(&self.name, "reach addresses"))
    }

    async fn health(
        &self,
        query: HealthQuery,
        timeout: Duration,
    ) -> Result<HealthAnswer, NodeError> {
        let act = format!("ask {} how it is", query.address);
        health::health(query, timeout).await.map_err(|fault| fault.of(&self.name, &act))
    }
}
