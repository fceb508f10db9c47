//! `backup`: the snapshot stream of one member goes, in one pass and without a
//! database-sized temporary file, through the content scan and into the vault; the
//! live members are asked for HashKV; the manifest is written last.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use futures_util::future::FusedFuture as _;
use serde::Serialize;
use vault::layout::{BackupId, ClusterName, Kind, LineageName, Place, Role};
use vault::manifest::{Manifest, ObjectRecord, Proof, ProofState};
use vault::repository::{
    Lineage, NewObject, ObjectWriter, Repository, WriteOptions, WrittenObject,
};
use vault::store::{Key, SizeHint};

use super::content::{self, Origin, SnapshotContent};
use super::failure::{Failure, FailureKind, chain, etcd_hint};
use super::feed::ScanFeed;
use super::inspect::{scan_failure, spilling_options};
use super::interrupt::Interrupt;
use super::proof::{self, MemberProof, Policy, Verdict};
use super::state;
use super::state::describe::{ClusterSeen, StateContent};
use super::state::save::{Goal, SaveOptions};
use super::status::nobody_answers;
use super::vaults::{self, storage_failure};
use crate::datadir::hash::{Digests, Scan, ScanError, ScanOptions};
use crate::etcd::cluster::{ClusterView, Reach, Row, observe};
use crate::etcd::v2::V2Keys;
use crate::etcd::{
    ConnectionSettings, Connector, EtcdError, EtcdErrorKind, MemberClient, MemberStatus,
};
use crate::event::Events;
use crate::node::Node;
use crate::types::HexId;

/// Which member gives the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// A follower that does not lag, else the leader.
    #[default]
    Follower,
    /// The leader, else a follower.
    Leader,
    /// The first endpoint given that answers, whatever it is.
    First,
}

/// What a backup is told.
#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// The cluster's name in the vault; found in the vault or made of the cluster's
    /// id when not given.
    pub cluster: Option<ClusterName>,
    /// Which member gives the snapshot.
    pub strategy: Strategy,
    /// Whom to ask beyond the endpoints that were given.
    pub reach: Reach,
    /// Whose HashKV is compared.
    pub proof: Policy,
    /// Whatever the user attaches.
    pub labels: BTreeMap<String, String>,
    /// Nodes whose state is stored with the snapshot, and how.
    pub nodes: Option<(Vec<Arc<dyn Node>>, SaveOptions)>,
    /// How it is written.
    pub write: WriteOptions,
}

/// What a backup did.
#[derive(Debug, Serialize)]
pub struct BackupReport {
    /// Its id.
    pub id: String,
    /// The cluster's name in the vault.
    pub cluster: String,
    /// The cluster's id, which names the lineage.
    pub cluster_id: HexId,
    /// The revision of the store.
    pub revision: i64,
    /// Bytes of the snapshot.
    pub size: u64,
    /// Bytes in the vault.
    pub stored_size: u64,
    /// Whether it is what the cluster holds.
    pub proof: Proof,
    /// The comparison with each member.
    pub members: Vec<MemberProof>,
    /// The member that gave it.
    pub source: String,
    /// Where the manifest is in the vault.
    pub manifest: String,
    /// The longest that output waited in the spool, in bytes.
    pub spooled: u64,
    /// The states of nodes that were stored with it, and those that could not be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<StateContent>,
    /// How long it took.
    pub seconds: f64,
}

/// More than this many entries behind the leader is lagging.
const LAG_LIMIT: u64 = 1_000;
/// So many members are tried.
const MAX_SOURCES: usize = 3;
/// What a manifest takes of reasons and of their bytes, with some room left.
const MAX_REASONS: usize = 90;
const MAX_REASON: usize = 900;
/// Bound on giving up an object that was begun.
const ABORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bound on removing an object that stands already.
const TAKE_BACK_TIMEOUT: Duration = Duration::from_secs(4);

/// Makes a backup.
pub async fn backup(
    repository: &Repository,
    connector: &Connector,
    settings: &ConnectionSettings,
    options: &BackupOptions,
    events: &Events,
    interrupt: &mut Interrupt,
) -> Result<BackupReport, Failure> {
    let begun = Instant::now();
    let started = Utc::now();
    let named = options.cluster.as_ref().map_or("the cluster", ClusterName::as_str);
    let what = format!("backup of {named} was not stored");
    if let Some((_, save)) = &options.nodes {
        state::save::check_encryption(repository, save.allow_unencrypted, &what, events).map_err(
            |failure| Failure {
                hint: Some(
                    "--no-state stores the snapshot alone; --allow-unencrypted, or \
                     allow-unencrypted-state in etcdvault.toml, stores them readable; or make a \
                     vault with encryption: etcdvault init PLACE --recipient AGE1…"
                        .to_owned(),
                ),
                ..failure
            },
        )?;
    }
    let looking = async {
        tokio::join!(observe(connector, settings, options.reach), vaults::sweep(repository))
    };
    let (view, ()) = interrupt.or(&what, looking).await?;
    let sources = sources(&view, settings, options.strategy);
    if sources.is_empty() {
        return Err(no_source(&what, &view));
    }
    let cluster_id = one_cluster(&what, &view)?;
    let lineage = LineageName::new(cluster_id.to_string())
        .map_err(|error| Failure::new(FailureKind::Error, &what).because(error))?;
    let cluster = interrupt.or(&what, cluster_name(repository, options, &lineage)).await??;
    let place = Place { cluster, lineage };
    let what = format!("backup of {} was not stored", place.cluster);

    let mut failed = Vec::new();
    for &row in sources.iter().take(MAX_SOURCES) {
        let Ok((client, status)) = &row.answer else { continue };
        let id = BackupId::generate();
        let attempt = Attempt { repository, place: &place, id, options, events, row, status };
        match attempt.stream(client.clone(), interrupt).await {
            Ok(streamed) => {
                let origin = Origin::of_member(row, status, &streamed.begun_at);
                let done = Done { started, begun, what, place, id, origin, streamed };
                return finish(repository, options, &view, done, events, interrupt).await;
            }
            Err(Broken::Source(error)) => {
                events.warn(format!("{}: {}", row.label(), error.detail));
                failed.push((row.label(), error));
            }
            Err(Broken::Content { why, received }) => {
                events.warn(format!("{}: {why}", row.label()));
                let detail =
                    format!("what it sent is no usable snapshot ({received} bytes): {why}");
                failed.push((row.label(), Unusable { detail, etcd: None, received }));
            }
            Err(Broken::Final(failure)) => return Err(*failure),
        }
    }
    Err(all_failed(&what, repository, failed))
}

/// A source that did not work out.
struct Unusable {
    detail: String,
    etcd: Option<EtcdError>,
    /// Bytes that came before it broke.
    received: u64,
}

impl Unusable {
    fn after(error: EtcdError, received: u64) -> Self {
        Self { detail: format!("{}: {}", error.act, error.detail), etcd: Some(error), received }
    }

    /// Whether it sent a part of a snapshot and then ended or broke.
    fn broke_off(&self) -> bool {
        self.received > 0
            && self
                .etcd
                .as_ref()
                .is_none_or(|error| error.kind != EtcdErrorKind::Timeout && !error.kind.is_of_key())
    }
}

/// Why a stream did not become an object.
enum Broken {
    /// The member or the way to it: another member may do.
    Source(Unusable),
    /// What came is damaged: another member may do.
    Content { why: String, received: u64 },
    /// The store or the person: no other member helps.
    Final(Box<Failure>),
}

/// A stream that became an object in the vault.
struct Streamed {
    scan: Arc<Scan>,
    writer: ObjectWriter,
    begun_at: DateTime<Utc>,
}

/// Members that can give a snapshot, the best first.
fn sources<'a>(
    view: &'a ClusterView,
    settings: &ConnectionSettings,
    strategy: Strategy,
) -> Vec<&'a Row> {
    let highest =
        view.rows.iter().filter_map(Row::status).map(|s| s.raft_applied_index).max().unwrap_or(0);
    let mut rows: Vec<&Row> = view
        .rows
        .iter()
        // A learner may lack anything.
        .filter(|row| row.status().is_some_and(|status| !status.is_learner))
        .collect();
    rows.sort_by_key(|row| {
        let status = row.status();
        let leader = status.is_some_and(MemberStatus::is_leader);
        let ill = status.is_none_or(|status| {
            view.is_corrupt(status.member_id)
                || status.leader.is_none()
                || highest.saturating_sub(status.raft_applied_index) > LAG_LIMIT
        });
        let given = settings
            .endpoints
            .iter()
            .position(|endpoint| row.endpoint.as_ref() == Some(endpoint))
            .unwrap_or(usize::MAX);
        let preference = match strategy {
            Strategy::Follower => usize::from(leader),
            Strategy::Leader => usize::from(!leader),
            Strategy::First => given,
        };
        let lag = highest - status.map_or(0, |status| status.raft_applied_index.min(highest));
        match strategy {
            Strategy::First => (false, preference, 0, given),
            _ => (ill, preference, lag, given),
        }
    });
    rows
}

fn no_source(what: &str, view: &ClusterView) -> Failure {
    if view.rows.iter().any(|row| row.answer.is_ok()) {
        return Failure::new(
            FailureKind::Etcd,
            format!("{what}: only learners answer, which may lack data"),
        )
        .hint("give the endpoints of voting members; etcdvault status shows them");
    }
    nobody_answers(what, view)
}

/// The id of the one cluster that all endpoints must belong to.
fn one_cluster(what: &str, view: &ClusterView) -> Result<HexId, Failure> {
    let mut ids: Vec<(HexId, String)> = Vec::new();
    for row in &view.rows {
        if let Some(status) = row.status()
            && !ids.iter().any(|(id, _)| *id == status.cluster_id)
        {
            ids.push((status.cluster_id, row.label()));
        }
    }
    match &ids[..] {
        [(id, _)] => Ok(*id),
        _ => {
            let mut failure = Failure::new(
                FailureKind::Usage,
                format!("{what}: the endpoints belong to different clusters"),
            )
            .hint("give the endpoints of one cluster only");
            for (id, label) in ids {
                failure = failure.detail(format!("{label} belongs to cluster {id}"));
            }
            Err(failure)
        }
    }
}

/// The name given, else the one under which the vault knows this lineage, else one
/// made of the cluster's id: two clusters must never share a name by accident.
async fn cluster_name(
    repository: &Repository,
    options: &BackupOptions,
    lineage: &LineageName,
) -> Result<ClusterName, Failure> {
    if let Some(name) = &options.cluster {
        return Ok(name.clone());
    }
    if let Some(name) = vaults::name_of_lineage(repository, lineage).await? {
        return Ok(name);
    }
    let short: String = lineage.as_str().chars().take(8).collect();
    ClusterName::new(format!("etcd-{short}"))
        .map_err(|error| Failure::new(FailureKind::Error, "cannot name the cluster").because(error))
}

/// One try to stream a snapshot from one member.
struct Attempt<'a> {
    repository: &'a Repository,
    place: &'a Place,
    id: BackupId,
    options: &'a BackupOptions,
    events: &'a Events,
    row: &'a Row,
    status: &'a MemberStatus,
}

impl Attempt<'_> {
    async fn stream(
        &self,
        mut client: MemberClient,
        interrupt: &mut Interrupt,
    ) -> Result<Streamed, Broken> {
        let role = if self.status.is_leader() { "leader" } else { "follower" };
        self.events.started(
            format!("{}: snapshot from {} ({role})", self.place.cluster, self.row.label()),
            None,
        );
        let begun_at = Utc::now();
        let mut stream = interrupt
            .or(&self.what(), client.snapshot())
            .await
            .map_err(|failure| self.ended(failure))?
            .map_err(|error| Broken::Source(Unusable::after(error, 0)))?;
        let size = stream.total().map_or(SizeHint::Unknown, SizeHint::Exact);
        if let Some(total) = stream.total() {
            self.events.send(crate::event::Event::Total { total });
        }
        let object = NewObject {
            place: self.place.clone(),
            id: self.id,
            role: Role::new(content::SNAPSHOT_ROLE).map_err(|e| self.fatal(e))?,
            name: content::SNAPSHOT_NAME.to_owned(),
            plain_size: size,
        };
        // The scan hashes every byte anyway, for the member's own checksum.
        let how = WriteOptions { hash_plain: false, ..self.options.write.clone() };
        let mut writer = interrupt
            .or(&self.what(), self.repository.create_object(object, &how))
            .await
            .map_err(|failure| self.ended(failure))?
            .map_err(|error| self.storage(error))?;

        let feed = ScanFeed::begin(self.scan_options());
        let pumped = loop {
            let chunk = match interrupt.or(&self.what(), stream.next()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => break Ok(()),
                Ok(Err(error)) => {
                    break Err(Broken::Source(Unusable::after(error, stream.received())));
                }
                Err(failure) => break Err(self.ended(failure)),
            };
            let taking = async {
                let goes_on = feed.take(chunk.clone()).await;
                writer.write(chunk).await.map(|()| goes_on)
            };
            match interrupt.or(&self.what(), taking).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => break Ok(()),
                Ok(Err(error)) => break Err(self.storage(error)),
                Err(failure) => break Err(self.ended(failure)),
            }
            self.events.progress(stream.received());
        };
        self.events.finished();
        let received = stream.received();
        // Ends the member's read transaction.
        drop(stream);
        let scanned = feed.end().await;
        let outcome = pumped.and_then(|()| match scanned {
            Ok(scan) => match without_trailer(&scan) {
                None => Ok(scan),
                Some(why) => Err(Broken::Content { why: why.to_owned(), received }),
            },
            Err(error @ ScanError::Spill(_)) => Err(self.ended(scan_failure(self.what(), error))),
            Err(error) => Err(Broken::Content { why: chain(&error).join(": "), received }),
        });
        match outcome {
            Ok(scan) => Ok(Streamed { scan: Arc::new(scan), writer, begun_at }),
            Err(broken) => {
                // Best effort: what stays is swept later and never listed.
                let _ = tokio::time::timeout(ABORT_TIMEOUT, writer.abort()).await;
                Err(broken)
            }
        }
    }

    fn what(&self) -> String {
        format!("backup of {} was not stored", self.place.cluster)
    }

    fn scan_options(&self) -> ScanOptions {
        let mut options = spilling_options();
        if let Some(spool) = &self.options.write.spool {
            options.spill_directory = Some(spool.directory.clone());
        }
        options
    }

    fn ended(&self, failure: Failure) -> Broken {
        Broken::Final(Box::new(failure.state(unchanged(self.repository))))
    }

    fn fatal(&self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Broken {
        Broken::Final(Box::new(Failure::new(FailureKind::Error, self.what()).because(error)))
    }

    fn storage(&self, error: vault::repository::RepositoryError) -> Broken {
        self.ended(storage_failure(self.what(), error))
    }
}

fn unchanged(repository: &Repository) -> String {
    format!(
        "vault {} is unchanged; nothing half-made is listed there",
        repository.store().location()
    )
}

/// Removes an object that no manifest will name, and says how the vault is then: whoever
/// may only add to it leaves the object there. One that was called off while the store
/// put it together may have come to stand all the same.
async fn take_back(repository: &Repository, object: &Key, stored: bool) -> String {
    let store = repository.store();
    let removing = async {
        if stored || store.head(object).await?.is_some() {
            store.delete(object).await?;
        }
        Ok::<_, vault::store::StoreError>(())
    };
    let removed = matches!(tokio::time::timeout(TAKE_BACK_TIMEOUT, removing).await, Ok(Ok(())));
    if removed || !stored {
        return unchanged(repository);
    }
    format!(
        "vault {} lists nothing new; an object that no manifest names remains there: {object}",
        repository.store().location()
    )
}

/// What is wrong with the SHA-256 at the end of a stream. The member hashes what it
/// sends: without that hash the end is missing, and with another one the bytes are not
/// those that it sent.
fn without_trailer(scan: &Scan) -> Option<&'static str> {
    match scan.digests.as_ref().and_then(Digests::trailer_ok) {
        Some(true) => None,
        Some(false) => Some("the SHA-256 at the end of the stream does not match"),
        None => Some("the stream ended without its SHA-256"),
    }
}

fn all_failed(what: &str, repository: &Repository, failed: Vec<(String, Unusable)>) -> Failure {
    let mut failure = Failure::new(FailureKind::Etcd, what);
    for (label, unusable) in &failed {
        failure = failure.detail(format!("{label}: {}", unusable.detail));
        if let Some(error) = &unusable.etcd {
            if error.kind.is_of_key() {
                failure.kind = FailureKind::Key;
            }
            // What helps against a refusal misleads where the stream had begun.
            if !unusable.broke_off()
                && let Some(hint) = etcd_hint(error)
            {
                failure = failure.hint(hint);
            }
        }
    }
    if let Some(hint) = broken_hint(&failed) {
        failure = failure.hint(hint);
    }
    failure.state(unchanged(repository))
}

/// What to do when every stream broke in its middle. How far each came tells little:
/// what was on its way is lost with the connection.
fn broken_hint(failed: &[(String, Unusable)]) -> Option<&'static str> {
    match failed {
        _ if !failed.iter().all(|(_, unusable)| unusable.broke_off()) => None,
        [] => None,
        [_] => Some("the member's log tells why: journalctl -u etcd, or crictl logs"),
        [..] => Some(
            "every stream broke off: something on the way, a proxy or load balancer, may limit or \
             drop it; give the members' own addresses with --endpoints. If the members ended it \
             themselves, their logs tell: journalctl -u etcd, or crictl logs",
        ),
    }
}

/// What is known when the stream has ended.
struct Done {
    started: DateTime<Utc>,
    begun: Instant,
    what: String,
    place: Place,
    id: BackupId,
    origin: Origin,
    streamed: Streamed,
}

/// Proof and the object's end side by side, then the manifest.
async fn finish(
    repository: &Repository,
    options: &BackupOptions,
    view: &ClusterView,
    done: Done,
    events: &Events,
    interrupt: &mut Interrupt,
) -> Result<BackupReport, Failure> {
    let Done { started, begun, what, place, id, origin, streamed } = done;
    let Streamed { scan, writer, .. } = streamed;
    let source = origin.member_id.unwrap_or(HexId(0));
    let proving = async {
        let members = proof::ask(&view.rows, source, &scan, options.proof, events).await;
        (members, v2_keys(view).await)
    };
    let digests = scan.digests.as_ref().ok_or_else(|| {
        Failure::new(FailureKind::Error, what.clone()).detail("the snapshot was not hashed")
    })?;
    let canceller = writer.canceller();
    let object = writer.key().clone();
    let finishing = writer.finish_with(vault::digest::Sha256(digests.whole));
    let mut writing = std::pin::pin!(finishing.fuse());
    let goal = Goal { repository, place: &place, id };
    let saving = async {
        let (nodes, save) = options.nodes.as_ref()?;
        let seen = ClusterSeen::of(view);
        Some(state::save::save_nodes(goal, nodes, seen, save, events).await)
    };
    let mut written = None;
    let all = async {
        let storing = async { written = Some((&mut writing).await) };
        let (proven, (), saved) = tokio::join!(proving, storing, saving);
        (proven, saved)
    };
    let ((members, v2), saved) = match interrupt.or(&what, all).await {
        Ok(proven) => proven,
        Err(failure) => {
            canceller.cancel();
            // Ended already, it must not be asked again.
            if !writing.is_terminated() {
                written = tokio::time::timeout(ABORT_TIMEOUT, writing).await.ok();
            }
            let stored = matches!(written, Some(Ok(_)));
            return Err(failure.state(take_back(repository, &object, stored).await));
        }
    };
    let written = written.ok_or_else(|| Failure::new(FailureKind::Error, what.clone()))?;
    let WrittenObject { record, spooled, .. } = written
        .map_err(|error| storage_failure(what.clone(), error).state(unchanged(repository)))?;
    let corrupt = origin.member_id.is_some_and(|member| view.is_corrupt(member));
    let proof = judge(&scan, &members, &v2, corrupt, options.proof);
    let source = origin.member.clone().unwrap_or_default();
    let mut content = SnapshotContent::new(origin, &scan, members.clone(), v2.keys)
        .map_err(|error| Failure::new(FailureKind::Error, what.clone()).because(error))?;
    // The snapshot comes first: it is what plain tools look for.
    let mut objects = vec![record.clone()];
    if let Some(saved) = saved {
        objects.extend(saved.objects);
        content.state = Some(saved.content);
    }
    let sequence = u64::try_from(scan.revision).unwrap_or(0);
    let manifest = Manifest {
        id,
        kind: Kind::new(content::SNAPSHOT_KIND)
            .map_err(|error| Failure::new(FailureKind::Error, what.clone()).because(error))?,
        cluster: place.cluster.clone(),
        lineage: place.lineage.clone(),
        sequence,
        started,
        finished: Utc::now(),
        tool: vaults::tool(),
        proof: proof.clone(),
        labels: options.labels.clone(),
        objects,
        content_schema: content::schema(),
        content: content.to_value(),
    };
    let key = commit(repository, &manifest, &place).await.map_err(|error| {
        let state = format!(
            "whether its manifest was stored is not certain: etcdvault list --vault {} shows it",
            repository.store().location()
        );
        storage_failure(what, error).state(state)
    })?;
    let mut report = report(&manifest, &record, members, source, key, spooled, begun.elapsed());
    report.state = content.state;
    Ok(report)
}

/// Writes the lineage where it is new, and then the manifest.
pub(super) async fn commit(
    repository: &Repository,
    manifest: &Manifest,
    place: &Place,
) -> Result<String, vault::repository::RepositoryError> {
    let lineage = Lineage {
        place: place.clone(),
        created: manifest.started,
        parent: None,
        body: serde_json::json!({}),
    };
    repository.ensure_lineage(&lineage).await?;
    Ok(repository.commit(manifest).await?.to_string())
}

fn report(
    manifest: &Manifest,
    record: &ObjectRecord,
    members: Vec<MemberProof>,
    source: String,
    key: String,
    spooled: u64,
    elapsed: Duration,
) -> BackupReport {
    BackupReport {
        id: manifest.id.to_string(),
        cluster: manifest.cluster.to_string(),
        cluster_id: manifest.lineage.as_str().parse().unwrap_or(HexId(0)),
        revision: i64::try_from(manifest.sequence).unwrap_or(i64::MAX),
        size: record.plain_size,
        stored_size: record.stored_size,
        proof: manifest.proof.clone(),
        members,
        source,
        manifest: key,
        spooled,
        state: None,
        seconds: elapsed.as_secs_f64(),
    }
}

/// Whether any member serves v2 keys, which a snapshot does not hold. Only versions
/// before 3.6 can.
async fn v2_keys(view: &ClusterView) -> V2Answer {
    let mut found = V2Answer::default();
    for row in &view.rows {
        let Ok((client, status)) = &row.answer else { continue };
        if status.parsed_version().is_none_or(|version| version.minor_line() >= (3, 6)) {
            continue;
        }
        // The flag is each member's own, and all of them hold the same v2 store.
        match client.v2_keys().await {
            Ok(keys) => found.keys = found.keys.max(Some(keys)),
            Err(error) => found.silent.push(format!("{}: {}", row.label(), error.detail)),
        }
        if found.keys == Some(V2Keys::Present) {
            break;
        }
    }
    found
}

/// What the members said of the v2 API.
#[derive(Debug, Default)]
struct V2Answer {
    /// The most that any of them has; `None` when there was nobody to ask.
    keys: Option<V2Keys>,
    /// Those that did not say.
    silent: Vec<String>,
}

/// Turns what the members said into the state of the proof.
fn judge(
    scan: &Scan,
    members: &[MemberProof],
    v2: &V2Answer,
    corrupt: bool,
    policy: Policy,
) -> Proof {
    let mut reasons: Vec<String> = Vec::new();
    let count = |verdict| members.iter().filter(|m| m.verdict == verdict).count();
    for problem in scan.problems.iter().take(10) {
        reasons.push(format!("the snapshot is damaged: {}", chain(problem).join(": ")));
    }
    for member in members {
        if let Some(reason) = &member.reason {
            reasons.push(format!("{}: {reason}", member.member));
        }
    }
    if corrupt {
        reasons.push("the member that gave it has raised a CORRUPT alarm".to_owned());
    }
    if v2.keys != Some(V2Keys::Present) {
        for silent in &v2.silent {
            reasons.push(format!("{silent}: whether it holds v2 keys is not known"));
        }
    }
    if v2.keys == Some(V2Keys::Present) {
        reasons.push(
            "the v2 API holds keys, which no snapshot contains; archive the data directory too"
                .to_owned(),
        );
    }
    let state = if !scan.is_sound() || count(Verdict::Different) > 0 {
        ProofState::Mismatch
    } else if count(Verdict::Same) > 0 && v2.keys != Some(V2Keys::Present) && !corrupt {
        ProofState::Proven
    } else {
        if policy == Policy::None {
            reasons.push("nobody was asked (--proof none)".to_owned());
        }
        ProofState::NotProven
    };
    let reasons = reasons.into_iter().take(MAX_REASONS).map(|reason| fitting(&reason)).collect();
    Proof { state, reasons }
}

/// What a manifest takes of a text: printable, and not too long.
fn fitting(reason: &str) -> String {
    let mut reason = vault::document::printable(reason);
    if reason.len() > MAX_REASON {
        let end = (0..=MAX_REASON).rev().find(|&at| reason.is_char_boundary(at)).unwrap_or(0);
        reason.truncate(end);
        reason.push('…');
    }
    reason
}

#[cfg(test)]
mod tests;
