//! States of nodes on their way into the vault: every node's tar stream passes once,
//! with bounded memory and no temporary file, through the index and into an object.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::Utc;
use futures_util::{Stream, StreamExt as _, stream};
use serde::Serialize;
use tokio::sync::mpsc;
use vault::archive::{ArchiveError, Contents, Indexer, Limits};
use vault::layout::{BackupId, ClusterName, InvalidName, Kind, LineageName, Place, Role};
use vault::manifest::{FormatVersion, Manifest, ObjectRecord, Proof, ProofState};
use vault::repository::{NewObject, ObjectWriter, Repository, RepositoryError, WriteOptions};
use vault::store::SizeHint;

use super::describe::{ClusterSeen, MissingNode, NodeSummary, StateContent};
use super::index::{self, Archive, NodeIndex};
use super::links::followed;
use super::look::{Looked, look};
use super::roots::{Places, Roots, refusal};
use super::stopped::{any_there, is_running, not_stopped, running_peer};
use super::{Part, STATE_KIND};
use crate::etcd::cluster::{Reach, observe};
use crate::etcd::{ConnectionSettings, Connector};
use crate::event::Events;
use crate::node::{Node, NodeError, NodeErrorKind, NodeName, Piece, TreeSpec};
use crate::observe::{NodeObservation, Severity};
use crate::operation::failure::{Failure, FailureKind, chain};
use crate::operation::interrupt::Interrupt;
use crate::operation::vaults::{self, storage_failure};

/// Nodes that are worked at once.
const AT_ONCE: usize = 8;
/// Chunks on their way to the index.
const INDEX_QUEUE: usize = 4;
/// A node that sends nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(60);
/// A copy of data directories may be so large, in bytes.
const MAX_DATA: u64 = 1 << 40;
/// All else of a node may be so large, in bytes: more is no configuration.
const MAX_STATE: u64 = 4 << 30;

/// What a save is told.
#[derive(Debug, Clone)]
pub struct SaveOptions {
    /// Paths that are stored beside what is found.
    pub extra: Vec<PathBuf>,
    /// Where configuration usually is.
    pub places: Places,
    /// Whether private keys may go to a vault without encryption.
    pub allow_unencrypted: bool,
    /// Whether the data directories of stopped members are copied.
    pub data: bool,
    /// How it is written.
    pub write: WriteOptions,
}

/// Why the state of a node was not stored.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The node could not be asked.
    #[error(transparent)]
    Node(Box<NodeError>),
    /// What it sent is no archive.
    #[error("{node} sent an archive that cannot be used")]
    Archive {
        /// The node.
        node: NodeName,
        /// What is wrong with it.
        #[source]
        source: ArchiveError,
    },
    /// It sent what it was not asked for.
    #[error("{node} sent {path}, which was not asked for")]
    NotAsked {
        /// The node.
        node: NodeName,
        /// The path.
        path: String,
    },
    /// A member was started while its data was copied.
    #[error("etcd was started on {node} while its data was copied")]
    Started {
        /// The node.
        node: NodeName,
    },
    /// Another member of its cluster runs.
    #[error("data is copied only of a cluster that is stopped: {peer}, a peer of {node}, answers")]
    PeerRuns {
        /// The node.
        node: NodeName,
        /// The peer.
        peer: String,
    },
    /// Its name makes no role.
    #[error("name the objects of {node}")]
    Name {
        /// The node.
        node: NodeName,
        /// The rule that is broken.
        #[source]
        source: InvalidName,
    },
    /// The index could not be written as JSON.
    #[error("write the index of {node}")]
    Index {
        /// The node.
        node: NodeName,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A thread of this program ended early.
    #[error("index the archive of {node}")]
    Thread {
        /// The node.
        node: NodeName,
        /// Why.
        #[source]
        source: tokio::task::JoinError,
    },
    /// The vault did not take it.
    #[error("store the state of {node}")]
    Vault {
        /// The node.
        node: NodeName,
        /// Why.
        #[source]
        source: RepositoryError,
    },
}

impl SaveError {
    /// All of it on one line, with what a person can do.
    fn told(&self) -> String {
        let why = chain(self).join(": ");
        match self {
            Self::Node(error) => match &error.hint {
                Some(hint) => format!("{why} ({hint})"),
                None => why,
            },
            _ => why,
        }
    }
}

impl From<NodeError> for SaveError {
    fn from(error: NodeError) -> Self {
        Self::Node(Box::new(error))
    }
}

/// Where the objects of a node go.
#[derive(Debug, Clone, Copy)]
pub struct Goal<'a> {
    /// The vault.
    pub repository: &'a Repository,
    /// The cluster and lineage.
    pub place: &'a Place,
    /// The backup.
    pub id: BackupId,
}

/// A node in the vault; it is part of a backup once a manifest names its objects.
#[derive(Debug)]
pub struct SavedNode {
    /// Its objects: archive, index, and the copy of the data where there is one.
    pub objects: Vec<ObjectRecord>,
    /// What the manifest says of it.
    pub summary: NodeSummary,
    /// What was left out and what changed meanwhile, for people.
    pub notes: Vec<String>,
    /// Paths of the settings that are not there.
    pub absent: BTreeSet<PathBuf>,
}

/// States of several nodes in the vault.
#[derive(Debug, Default)]
pub struct SavedNodes {
    /// All objects in the order of the nodes.
    pub objects: Vec<ObjectRecord>,
    /// What the manifest says.
    pub content: StateContent,
    /// The first failure of the vault itself: then no other node can do better.
    pub storage: Option<Failure>,
}

/// Refuses to put private keys where everybody with access to the store can read them.
pub fn check_encryption(
    repository: &Repository,
    allowed: bool,
    what: &str,
    events: &Events,
) -> Result<(), Failure> {
    if repository.is_encrypted() {
        return Ok(());
    }
    let location = repository.store().location();
    if allowed {
        events.warn(format!(
            "vault {location} is not encrypted: PRIVATE KEYS of the nodes are stored readable for \
             whoever can read it"
        ));
        return Ok(());
    }
    Err(Failure::new(FailureKind::Usage, format!("{what}: the vault is not encrypted"))
        .detail("the state of a node holds its private keys")
        .state(format!("vault {location} is unchanged"))
        .hint(
            "make a vault with encryption: etcdvault init PLACE --recipient AGE1…; or insist with \
             --allow-unencrypted",
        ))
}

/// What was taken of one node without storing it anywhere: what it is now.
pub async fn capture(node: &dyn Node, options: &SaveOptions) -> Result<NodeIndex, SaveError> {
    Ok(captured(node, options).await?.0)
}

/// The same with what was seen to run there, of one look.
pub async fn captured(
    node: &dyn Node,
    options: &SaveOptions,
) -> Result<(NodeIndex, NodeObservation), SaveError> {
    let (looked, roots) = found(node, options).await?;
    let stream = node.save_pieces(roots.state.clone()).await?;
    let mut sink = Sink(None);
    let contents = pump(node.name(), stream, &mut sink, limits(MAX_STATE)).await?;
    asked_for(node.name(), &roots.state, &contents)?;
    let index = index_of(node.name(), &looked, &roots, &contents, None);
    Ok((index, looked.observed))
}

async fn found(node: &dyn Node, options: &SaveOptions) -> Result<(Looked, Roots), SaveError> {
    let mut looked = look(node, &options.places).await?;
    looked.seen.extra = options.extra.clone();
    let roots = followed(node, &mut looked.seen, &options.places).await?;
    Ok((looked, roots))
}

/// Stores the state of one node.
pub async fn save_node(
    goal: Goal<'_>,
    node: &dyn Node,
    options: &SaveOptions,
) -> Result<SavedNode, SaveError> {
    let name = node.name();
    let (looked, roots) = found(node, options).await?;
    let write = WriteOptions { workers: 1, ..options.write.clone() };
    let (record, contents) =
        store_tree(goal, node, Part::Node, &roots.state, limits(MAX_STATE), &write).await?;
    let mut objects = vec![record];
    let mut data = None;
    let mut notes = Vec::new();
    let copied = options.data && !looked.etcd_runs;
    if copied && !any_there(node, &roots.data.roots).await? {
        let places: Vec<_> = roots.data.roots.iter().map(|root| index::escaped(root)).collect();
        notes.push(format!("no data was stored: there is none at {}", places.join(", ")));
    } else if copied {
        if let Some(peer) = running_peer(node, &looked.observed).await? {
            return Err(SaveError::PeerRuns { node: name.clone(), peer });
        }
        let (record, contents) =
            store_tree(goal, node, Part::Data, &roots.data, limits(MAX_DATA), &write).await?;
        if is_running(node, &roots.data).await? {
            return Err(SaveError::Started { node: name.clone() });
        }
        objects.push(record);
        data = Some(contents);
    }
    let index = index_of(name, &looked, &roots, &contents, data.as_ref());
    let bytes = index.encode().map_err(|source| SaveError::Index { node: name.clone(), source })?;
    objects.insert(1, store_bytes(goal, name, Part::Index, bytes, &write).await?);
    notes.extend(index.state.notes.iter().cloned());
    notes.extend(looked.description.unseen.iter().cloned());
    // A problem does not wait for somebody to run a discovery.
    let findings = looked.observed.findings.iter();
    let problems = findings.filter(|finding| finding.severity == Severity::Problem);
    notes.extend(problems.map(|finding| vault::document::printable(&finding.what)));
    notes.extend(
        roots
            .left_out
            .iter()
            .filter(|(path, _)| options.extra.contains(path))
            .map(|(path, why)| format!("{} was left out: {why}", index::escaped(path))),
    );
    if index.state.files.iter().all(|file| file.kind == index::Kind::Directory) {
        notes.push("no file that configures etcd or Kubernetes was found".to_owned());
    }
    let absent = options.extra.iter().filter(|path| !holds(&index.state, path));
    let absent = absent.cloned().collect();
    Ok(SavedNode { objects, summary: summary(&index), notes, absent })
}

/// Whether `path` or anything in it is in an archive.
fn holds(archive: &Archive, path: &Path) -> bool {
    let path = index::escaped(path);
    let path = path.trim_end_matches('/');
    archive.files.iter().any(|file| {
        file.path.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

fn summary(index: &NodeIndex) -> NodeSummary {
    let bytes = |archive: &Archive| {
        archive.files.iter().fold(0u64, |sum, file| sum.saturating_add(file.size))
    };
    NodeSummary {
        node: index.node.clone(),
        entries: index.state.files.len() as u64,
        bytes: bytes(&index.state),
        changed: index.state.files.iter().filter(|file| file.changed).count() as u64,
        data_bytes: index.data.as_ref().map(bytes),
    }
}

fn index_of(
    name: &NodeName,
    looked: &Looked,
    roots: &Roots,
    contents: &Contents,
    data: Option<&Contents>,
) -> NodeIndex {
    NodeIndex {
        format: FormatVersion { version: index::FORMAT, oldest_reader: 1 },
        node: name.to_string(),
        taken: looked.now,
        description: looked.description.clone(),
        state: Archive::new(&roots.state, contents),
        data: data.map(|contents| Archive::new(&roots.data, contents)),
    }
}

fn limits(stream: u64) -> Limits {
    Limits { stream, ..Limits::default() }
}

/// Streams trees of a node into an object.
async fn store_tree(
    goal: Goal<'_>,
    node: &dyn Node,
    part: Part,
    spec: &TreeSpec,
    limits: Limits,
    write: &WriteOptions,
) -> Result<(ObjectRecord, Contents), SaveError> {
    let name = node.name();
    let writer = begin(goal, name, part, SizeHint::Unknown, write).await?;
    let mut sink = Sink(Some(writer));
    // Copies of data are large: what the node has compressed is stored as it is, unless
    // somebody wants more than that.
    let keep = part == Part::Data && write.level <= vault::compression::LEVEL;
    let taken = async {
        let stream = node.save_pieces(spec.clone()).await?;
        let stream = stream.map(|piece| {
            let frame = |piece: Piece| Piece { frame: piece.frame.filter(|_| keep), ..piece };
            piece.map(frame)
        });
        let contents = pump(name, stream, &mut sink, limits).await?;
        asked_for(name, spec, &contents)?;
        Ok(contents)
    };
    match taken.await {
        Ok(contents) => Ok((sink.finish(name).await?, contents)),
        Err(error) => {
            sink.abort().await;
            Err(error)
        }
    }
}

async fn store_bytes(
    goal: Goal<'_>,
    name: &NodeName,
    part: Part,
    bytes: Vec<u8>,
    write: &WriteOptions,
) -> Result<ObjectRecord, SaveError> {
    let writer = begin(goal, name, part, SizeHint::Exact(bytes.len() as u64), write).await?;
    let mut sink = Sink(Some(writer));
    let piece = Piece { plain: bytes.into(), frame: None };
    if let Err(error) = sink.write(name, piece).await {
        sink.abort().await;
        return Err(error);
    }
    sink.finish(name).await
}

async fn begin(
    goal: Goal<'_>,
    name: &NodeName,
    part: Part,
    plain_size: SizeHint,
    write: &WriteOptions,
) -> Result<ObjectWriter, SaveError> {
    let role: Role =
        part.role(name).map_err(|source| SaveError::Name { node: name.clone(), source })?;
    let object = NewObject {
        place: goal.place.clone(),
        id: goal.id,
        role,
        name: part.file(name),
        plain_size,
    };
    goal.repository
        .create_object(object, write)
        .await
        .map_err(|source| SaveError::Vault { node: name.clone(), source })
}

/// Where a stream goes beside the index: an object, or nowhere.
struct Sink(Option<ObjectWriter>);

/// Bound on giving up an object that was begun.
const ABORT_TIMEOUT: Duration = Duration::from_secs(10);

impl Sink {
    async fn write(&mut self, name: &NodeName, piece: Piece) -> Result<(), SaveError> {
        let Some(writer) = &mut self.0 else { return Ok(()) };
        let written = match piece.frame {
            Some(frame) => writer.write_frame(piece.plain, frame).await,
            None => writer.write(piece.plain).await,
        };
        written.map_err(|source| SaveError::Vault { node: name.clone(), source })
    }

    async fn finish(self, name: &NodeName) -> Result<ObjectRecord, SaveError> {
        let vault = |source| SaveError::Vault { node: name.clone(), source };
        match self.0 {
            Some(writer) => Ok(writer.finish().await.map_err(vault)?.record),
            None => Err(vault(RepositoryError::GivenUp { object: "nothing".to_owned() })),
        }
    }

    async fn abort(self) {
        if let Some(writer) = self.0 {
            // Best effort: what stays is swept later and never listed.
            let _ = tokio::time::timeout(ABORT_TIMEOUT, writer.abort()).await;
        }
    }
}

/// Moves a stream into `sink` and through an index, which runs on a thread.
async fn pump(
    name: &NodeName,
    stream: impl Stream<Item = Result<Piece, NodeError>>,
    sink: &mut Sink,
    limits: Limits,
) -> Result<Contents, SaveError> {
    let mut stream = std::pin::pin!(stream);
    let (to_index, mut chunks) = mpsc::channel::<Bytes>(INDEX_QUEUE);
    let indexing = tokio::task::spawn_blocking(move || {
        let mut indexer = Indexer::new(limits);
        while let Some(chunk) = chunks.blocking_recv() {
            indexer.push(&chunk)?;
        }
        indexer.finish()
    });
    let pumped = loop {
        let piece = match tokio::time::timeout(SILENCE, stream.next()).await {
            Ok(Some(Ok(piece))) => piece,
            Ok(Some(Err(error))) => break Err(error.into()),
            Ok(None) => break Ok(()),
            Err(_) => {
                let why = format!("it sent nothing for {} s", SILENCE.as_secs());
                let act = "read its files";
                break Err(NodeError::new(name, NodeErrorKind::Slow, act, why).into());
            }
        };
        if to_index.send(piece.plain.clone()).await.is_err() {
            // The index ends early only with an error, which its result tells.
            break Ok(());
        }
        if let Err(error) = sink.write(name, piece).await {
            break Err(error);
        }
    };
    drop(to_index);
    let indexed =
        indexing.await.map_err(|source| SaveError::Thread { node: name.clone(), source })?;
    pumped?;
    indexed.map_err(|source| SaveError::Archive { node: name.clone(), source })
}

/// Nothing may come but the roots, what lies below them and the directories above.
fn asked_for(name: &NodeName, spec: &TreeSpec, contents: &Contents) -> Result<(), SaveError> {
    use std::os::unix::ffi::OsStrExt as _;
    for indexed in &contents.entries {
        let path = Path::new("/").join(std::ffi::OsStr::from_bytes(&indexed.entry.path));
        let below = spec.roots.iter().any(|root| path.starts_with(root));
        let above = indexed.entry.kind == vault::archive::EntryKind::Directory
            && spec.roots.iter().any(|root| root.starts_with(&path));
        if !(below || above) || spec.exclude.iter().any(|left| path.starts_with(left)) {
            let path = index::escaped(&path);
            return Err(SaveError::NotAsked { node: name.clone(), path });
        }
    }
    Ok(())
}

/// Stores the states of `nodes`, several at once. A node that cannot be stored is named
/// among the missing and holds up no other.
pub async fn save_nodes(
    goal: Goal<'_>,
    nodes: &[Arc<dyn Node>],
    cluster: Option<ClusterSeen>,
    options: &SaveOptions,
    events: &Events,
) -> SavedNodes {
    let mut saved = SavedNodes::default();
    saved.content.cluster = cluster;
    // Bytes of one member's data are worth nothing beside a member that runs.
    let mut options = options.clone();
    if options.data && !not_stopped(nodes).await.is_empty() {
        options.data = false;
    }
    let mut absent: Option<BTreeSet<PathBuf>> = None;
    let mut lost = Vec::new();
    let mut work = stream::iter(nodes)
        .map(|node| {
            let options = &options;
            async move { (node.name().clone(), save_node(goal, node.as_ref(), options).await) }
        })
        .buffered(AT_ONCE);
    while let Some((name, result)) = work.next().await {
        match result {
            Ok(node) => {
                for note in &node.notes {
                    events.warn(format!("{name}: {note}"));
                }
                saved.objects.extend(node.objects);
                saved.content.nodes.push(node.summary);
                absent = Some(match absent {
                    Some(others) => others.intersection(&node.absent).cloned().collect(),
                    None => node.absent,
                });
            }
            Err(error) => {
                let why = error.told();
                lost.push(format!("the state of {name} was not stored: {why}"));
                saved.content.missing.push(MissingNode {
                    node: name.to_string(),
                    why: vault::document::printable(&why),
                });
                if let SaveError::Vault { node, source } = error
                    && saved.storage.is_none()
                {
                    let what = format!("the state of {node} was not stored");
                    saved.storage = Some(storage_failure(what, source));
                }
            }
        }
    }
    // Where nothing was stored the failure itself says why.
    if !saved.content.nodes.is_empty() {
        lost.into_iter().for_each(|line| events.warn(line));
    }
    for path in absent.into_iter().flatten() {
        let path = index::escaped(&path);
        events.warn(format!("{path} is on none of these nodes: look at --path and state-paths"));
    }
    saved
}

/// What a save did.
#[derive(Debug, Serialize)]
pub struct SaveReport {
    /// The backup's id.
    pub id: String,
    /// The cluster's name in the vault.
    pub cluster: String,
    /// The lineage: the cluster's id, or `unknown`.
    pub lineage: String,
    /// What is in it.
    #[serde(flatten)]
    pub content: StateContent,
    /// Bytes of all objects before compression.
    pub size: u64,
    /// Bytes in the vault.
    pub stored_size: u64,
    /// Where the manifest is in the vault.
    pub manifest: String,
    /// How long it took.
    pub seconds: f64,
}

/// The cluster as its members tell it now, where one answers.
pub async fn observe_cluster(
    connector: &Connector,
    settings: &ConnectionSettings,
) -> Option<ClusterSeen> {
    ClusterSeen::of(&observe(connector, settings, Reach::AllMembers).await)
}

/// The lineage of states of a cluster that did not answer and has no backup yet.
const UNKNOWN_LINEAGE: &str = "unknown";

/// Stores the states of `nodes` as a backup of their own.
#[allow(clippy::too_many_arguments)]
pub async fn save(
    repository: &Repository,
    nodes: &[Arc<dyn Node>],
    connector: &Connector,
    settings: &ConnectionSettings,
    cluster: Option<ClusterName>,
    labels: BTreeMap<String, String>,
    options: &SaveOptions,
    events: &Events,
    interrupt: &mut Interrupt,
) -> Result<SaveReport, Failure> {
    let begun = Instant::now();
    let started = Utc::now();
    let what = "no state was stored";
    check_encryption(repository, options.allow_unencrypted, what, events)?;
    if nodes.is_empty() {
        return Err(Failure::new(FailureKind::Usage, format!("{what}: no node is named"))
            .hint("name nodes with --node, or in the configuration"));
    }
    for path in &options.extra {
        if let Some(why) = refusal(path, &options.places) {
            let shown = index::escaped(path);
            let what = format!("{what}: {shown} cannot be stored: {why}");
            return Err(Failure::new(FailureKind::Usage, what)
                .hint("--path and state-paths take absolute paths of files and directories"));
        }
    }
    let looking = async {
        tokio::join!(observe(connector, settings, Reach::AllMembers), vaults::sweep(repository))
    };
    let (view, ()) = interrupt.or(what, looking).await?;
    let seen = ClusterSeen::of(&view);
    if options.data {
        let running = interrupt.or(what, not_stopped(nodes)).await?;
        if !running.is_empty() {
            let mut failure = Failure::new(
                FailureKind::Etcd,
                format!(
                    "{what}: etcd is not stopped everywhere, and no member with a leader answers"
                ),
            );
            failure.details = running;
            return Err(failure.hint(
                "of a cluster that works a snapshot is stored (--endpoints names its members), of \
                 one that is stopped on every node its directories; what one member alone holds: \
                 etcdvault backup --endpoints URL",
            ));
        }
    }
    if seen.is_none() {
        events.warn("no member of the cluster answers: the state says nothing of its members");
    }
    let place = interrupt.or(what, place_of(repository, seen.as_ref(), cluster)).await??;
    let id = BackupId::generate();
    let goal = Goal { repository, place: &place, id };
    events.started(format!("{}: state of {} nodes", place.cluster, nodes.len()), None);
    let saved = interrupt.or(what, save_nodes(goal, nodes, seen, options, events)).await;
    events.finished();
    let saved = saved?;
    if saved.content.nodes.is_empty() {
        let failure = saved.storage.unwrap_or_else(|| {
            let mut failure = Failure::new(FailureKind::Error, what)
                .hint("are the nodes up, and is this user root there?");
            for missing in &saved.content.missing {
                failure = failure.detail(format!("{}: {}", missing.node, missing.why));
            }
            failure
        });
        return Err(
            failure.state(format!("vault {} lists nothing new", repository.store().location()))
        );
    }
    if options.data && saved.content.nodes.iter().all(|node| node.data_bytes.is_none()) {
        return Err(Failure::new(
            FailureKind::Error,
            format!("{what}: no node has a data directory of etcd"),
        )
        .state(format!("vault {} lists nothing new", repository.store().location()))
        .hint("without --with-data the state alone is stored; --node names other nodes"));
    }
    let error = |error: InvalidName| Failure::new(FailureKind::Error, what).because(error);
    let manifest = Manifest {
        id,
        kind: Kind::new(STATE_KIND).map_err(error)?,
        cluster: place.cluster.clone(),
        lineage: place.lineage.clone(),
        sequence: saved.content.cluster.as_ref().and_then(|seen| seen.revision).unwrap_or(0),
        started,
        finished: Utc::now(),
        tool: vaults::tool(),
        proof: Proof { state: ProofState::Unknown, reasons: Vec::new() },
        labels,
        objects: saved.objects,
        content_schema: StateContent::schema(),
        content: saved.content.to_value(),
    };
    let key = crate::operation::backup::commit(repository, &manifest, &place)
        .await
        .map_err(|error| storage_failure(what, error))?;
    let sum = |size: fn(&ObjectRecord) -> u64| {
        manifest.objects.iter().map(size).fold(0, u64::saturating_add)
    };
    Ok(SaveReport {
        id: id.to_string(),
        cluster: place.cluster.to_string(),
        lineage: place.lineage.to_string(),
        content: saved.content,
        size: sum(|object| object.plain_size),
        stored_size: sum(|object| object.stored_size),
        manifest: key,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

/// Where states belong: to the cluster that answers, else to the newest lineage of the
/// cluster that is named or, where none is, of the only one that the vault knows.
async fn place_of(
    repository: &Repository,
    seen: Option<&ClusterSeen>,
    named: Option<ClusterName>,
) -> Result<Place, Failure> {
    let what = "no state was stored";
    let failure = |error: InvalidName| Failure::new(FailureKind::Error, what).because(error);
    if let Some(seen) = seen {
        let lineage = LineageName::new(seen.cluster_id.to_string()).map_err(failure)?;
        let known = match named {
            Some(name) => Some(name),
            None => vaults::name_of_lineage(repository, &lineage).await?,
        };
        let cluster = match known {
            Some(name) => name,
            None => {
                let short: String = lineage.as_str().chars().take(8).collect();
                ClusterName::new(format!("etcd-{short}")).map_err(failure)?
            }
        };
        return Ok(Place { cluster, lineage });
    }
    let filter = vault::repository::Filter { cluster: named.clone(), ..Default::default() };
    let names = repository.names(&filter).await.map_err(|error| {
        vaults::listing_failure(repository, named.as_ref(), "the backups were not listed", error)
    })?;
    let names = names.names;
    let newest = names.iter().max_by_key(|name| (name.taken, name.id));
    match (named, newest) {
        (Some(_), Some(newest)) => Ok(newest.place.clone()),
        (Some(cluster), None) => {
            let lineage = LineageName::new(UNKNOWN_LINEAGE).map_err(failure)?;
            Ok(Place { cluster, lineage })
        }
        (None, Some(newest))
            if names.iter().all(|name| name.place.cluster == newest.place.cluster) =>
        {
            Ok(newest.place.clone())
        }
        _ => Err(Failure::new(
            FailureKind::Usage,
            format!("{what}: no member answers, and it is not said which cluster it is"),
        )
        .hint("--cluster NAME, or --endpoints of a member that runs")),
    }
}
