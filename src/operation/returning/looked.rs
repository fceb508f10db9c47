//! What a return of data looks at before it is planned, and what it refuses.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::Utc;
use vault::repository::{Backup, Repository};

use super::data::{DataInputs, DataNode, Running, plan};
use super::planner::Planned;
use super::{ReturnOptions, copies, wanted};
use crate::dialect;
use crate::etcd::cluster::{ClusterView, Reach, observe as observe_members};
use crate::etcd::{ConnectionSettings, Connector};
use crate::node::Node;
use crate::observe::{self, ApiServer, EtcdService, NodeObservation, Runs};
use crate::operation::content::{SNAPSHOT_ROLE, SnapshotContent};
use crate::operation::failure::{Failure, FailureKind};
use crate::operation::own_way;
use crate::operation::state::describe::{ClusterSeen, MemberSeen, StateContent};
use crate::operation::state::find::DataHeld;
use crate::operation::step::{How, NewMember, Service, is_ready};
use crate::plan::{Place, PlanId};
use crate::types::Version;

pub(super) const WHAT: &str = "no data was returned";

/// Beside the database there is the log, which etcd allocates ahead.
const LOG: u64 = 192 << 20;

pub(super) fn refused(why: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Error, WHAT).detail(why.into()).state("everything is as it was")
}

/// Looks at all nodes of a state and plans the return of their data.
pub async fn prepare_data(
    repository: &Repository,
    backup: &Backup,
    nodes: &[Arc<dyn Node>],
    connector: &Connector,
    connection: &ConnectionSettings,
    options: &ReturnOptions,
) -> Result<Planned, Failure> {
    let manifest = &backup.manifest;
    if DataHeld::of(manifest) == DataHeld::Directories {
        let preparing = copies::prepare(repository, backup, nodes, connector, connection, options);
        return preparing.await;
    }
    let object = manifest.object(SNAPSHOT_ROLE).ok_or_else(|| no_snapshot(backup))?;
    let content = SnapshotContent::of(manifest).map_err(refused)?;
    let named: Vec<String> = nodes.iter().map(|node| node.name().to_string()).collect();
    all_nodes(backup, &named)?;
    let view = observe_members(connector, connection, Reach::AllMembers).await;
    let seen = ClusterSeen::of(&view);
    let was = StateContent::of(manifest).ok().flatten().and_then(|content| content.cluster);
    let listed = seen.as_ref().or(was.as_ref()).map_or(&[][..], |seen| &seen.members);
    let mut found = Vec::new();
    for node in nodes {
        let seen = observe::observe(node.as_ref())
            .await
            .map_err(|error| refused(format!("{} was not looked at: {error}", node.name())))?;
        own_way::refused(seen.distribution, node.name(), WHAT)?;
        let Some(etcd) = seen.member().cloned() else { continue };
        found.push(look(node.as_ref(), &seen, &etcd, listed, object.plain_size).await?);
    }
    let ids = (PlanId::generate(), Utc::now());
    let found = with_aside(found, ids.0);
    let drift = everyone(&found, listed, was.as_ref())?;
    if !drift.is_empty() && !options.force_topology {
        let mut failure = refused(format!("the members are not those of {}", manifest.id));
        for line in drift {
            failure = failure.detail(line);
        }
        return Err(failure.hint(
            "etcdvault state diff shows all of it; --force-topology returns the data to the \
             members that there are now",
        ));
    }
    let mut facts: Vec<(String, String)> =
        drift.into_iter().map(|line| ("Differs".to_owned(), line)).collect();
    if content.v2_keys.as_deref() == Some("present") {
        let text = "keys of the v2 API: no snapshot holds them, so they are gone afterwards";
        facts.push(("Not there".to_owned(), text.to_owned()));
    }
    let served = [&seen, &was].into_iter().flatten().filter_map(|seen| seen.revision);
    let served = served.max().and_then(|served| i64::try_from(served).ok());
    let leader = leader(&view, &found);
    let keepers = options.places()?;
    let inputs = DataInputs {
        id: ids.0,
        made: ids.1,
        cluster: manifest.cluster.to_string(),
        backup: manifest.id.to_string(),
        taken: manifest.started,
        size: object.plain_size,
        sha256: object.plain_sha256.to_string(),
        hash_kv: content.hash_kv,
        revision: content.database.revision,
        served,
        etcd_version: oldest(listed),
        nodes: found,
        keepers,
        leader,
        save: options.save,
        facts,
    };
    let plan =
        plan(&inputs).map_err(|error| refused("the members make no cluster").because(error))?;
    Ok(Planned { plan: Some(plan), by_hand: Vec::new() })
}

fn no_snapshot(backup: &Backup) -> Failure {
    let id = backup.manifest.id;
    refused(format!("{id} holds no snapshot"))
        .hint("etcdvault state list shows which do; etcdvault state save --with-data stores one")
}

/// One member's data never returns into a cluster whose other members go on.
pub(super) fn all_nodes(backup: &Backup, named: &[String]) -> Result<(), Failure> {
    let all = wanted(backup, &[])?;
    let missing: Vec<&str> =
        all.iter().filter(|name| !named.contains(name)).map(String::as_str).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let why = format!(
        "data is returned on all nodes or on none, and {} would be left out: a member with old \
         data in a cluster that goes on forks what was agreed on",
        missing.join(", ")
    );
    Err(Failure::new(FailureKind::Usage, WHAT)
        .detail(why)
        .state("everything is as it was")
        .hint("leave --node away; a single member is taken out of the cluster and joins again"))
}

/// A node with its member; `aside` paths of manifests are set by [`with_aside`].
pub(super) async fn look(
    node: &dyn Node,
    seen: &NodeObservation,
    etcd: &EtcdService,
    listed: &[MemberSeen],
    size: u64,
) -> Result<DataNode, Failure> {
    let name = node.name();
    let place = Place::new(name.as_str()).map_err(|error| refused(error.to_string()))?;
    let failed = |error: crate::node::NodeError| refused(error.to_string());
    if etcd.settings.is_forced_new() {
        return Err(refused(format!(
            "{name}: etcd is told to force a new cluster, and would be alone in it"
        ))
        .hint("take force-new-cluster out of its configuration"));
    }
    let running = running(&etcd.runs, Service::Etcd, ports(&etcd_urls(etcd))).ok_or_else(|| {
        refused(format!("{name}: etcd runs neither in a unit nor in a static pod"))
    })?;
    let running = if_ready(node, Service::Etcd, running).await;
    let api_server = match seen.api_servers.iter().find_map(api_server) {
        Some((running, ports)) => Some((if_ready(node, Service::ApiServer, running).await, ports)),
        None => None,
    };
    let data_dir = etcd.data_dir.clone();
    let member = data_dir.join("member");
    let (dir, there) =
        (node.stat(&data_dir).await.map_err(failed)?, node.stat(&member).await.map_err(failed)?);
    let wal = match &etcd.wal_dir {
        Some(wal) => node.stat(wal).await.map_err(failed)?,
        None => None,
    };
    for (path, entry) in [(&member, &there), (etcd.wal_dir.as_ref().unwrap_or(&member), &wal)] {
        if entry.as_ref().is_some_and(|entry| entry.mount_point) {
            let why = format!("{name}: {} is a mount point and cannot be renamed", path.display());
            return Err(refused(why));
        }
    }
    let above = existing_above(node, &data_dir).await?;
    let owner = there
        .as_ref()
        .or(dir.as_ref())
        .map_or(above.1, |entry| (entry.attributes.uid, entry.attributes.gid));
    // What is built stands beside what there is.
    let needed = size.saturating_add(size / 4).saturating_add(LOG);
    let space = node.space(&above.0).await.map_err(failed)?;
    if space.read_only || space.available < needed {
        let why = match space.read_only {
            true => format!("{name}: {} is mounted read-only", above.0.display()),
            false => format!(
                "{name}: {} has {} bytes free, and {needed} are needed",
                above.0.display(),
                space.available
            ),
        };
        return Err(refused(why));
    }
    let own = etcd.settings.name();
    let peer_urls = match listed.iter().find(|member| member.name == own) {
        Some(member) => member.peer_urls.clone(),
        None => etcd.settings.initial_advertise_peer_urls(),
    };
    Ok(DataNode {
        member: NewMember {
            node: place,
            name: own.to_owned(),
            id: String::new(),
            wal_dir: etcd.wal_dir.clone(),
            owner,
            has_data_dir: dir.is_some(),
            missing: missing(&data_dir, dir.is_some(), &above.0),
            data_dir,
            had: there.is_some(),
            had_wal: wal.is_some(),
        },
        peer_urls,
        etcd: running,
        api_server,
    })
}

/// The same, and a pod that runs and is not ready does not run well.
async fn if_ready(node: &dyn Node, service: Service, running: Running) -> Running {
    let healthy = match &running.how {
        How::Pod { manifest, .. } if running.healthy => is_ready(node, service, manifest).await,
        _ => running.healthy,
    };
    Running { healthy, ..running }
}

/// The nearest directory that is there, and its owner.
async fn existing_above(node: &dyn Node, path: &Path) -> Result<(PathBuf, (u32, u32)), Failure> {
    for above in path.ancestors() {
        let found = node.stat(above).await.map_err(|error| refused(error.to_string()))?;
        if let Some(entry) = found {
            return Ok((above.to_owned(), (entry.attributes.uid, entry.attributes.gid)));
        }
    }
    Ok((PathBuf::from("/"), (0, 0)))
}

/// Directories above `data_dir` that are not there, the topmost first.
fn missing(data_dir: &Path, is_there: bool, above: &Path) -> Vec<PathBuf> {
    if is_there {
        return Vec::new();
    }
    let between = data_dir.ancestors().skip(1).take_while(|path| *path != above);
    let mut missing: Vec<PathBuf> = between.map(Path::to_owned).collect();
    missing.reverse();
    missing
}

fn etcd_urls(etcd: &EtcdService) -> Vec<String> {
    let mut urls = etcd.settings.listen_client_urls();
    urls.extend(etcd.settings.listen_peer_urls());
    urls
}

fn ports(urls: &[String]) -> Vec<u16> {
    let mut ports: Vec<u16> = urls.iter().filter_map(|url| dialect::port(url)).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// How a service is driven; `None` where neither systemd nor the kubelet does. The place
/// of a manifest that is out is not set.
pub(in crate::operation) fn running(
    runs: &Runs,
    service: Service,
    ports: Vec<u16>,
) -> Option<Running> {
    match runs {
        Runs::Unit { unit, active, enabled, .. } => {
            let unit = unit.clone();
            let how = match enabled.as_str() {
                "enabled" => How::BootUnit { unit },
                _ => How::Unit { unit },
            };
            let runs = !matches!(active.as_str(), "inactive" | "failed");
            Some(Running { how, runs, healthy: active == "active" })
        }
        Runs::StaticPod { manifest, container, .. } => Some(Running {
            how: How::Pod { manifest: manifest.clone(), aside: PathBuf::new(), ports },
            // The kubelet sees to that.
            runs: true,
            healthy: container.as_ref().is_some_and(|it| it.running && it.name == service.name()),
        }),
        Runs::Process => None,
    }
}

fn api_server(server: &ApiServer) -> Option<(Running, Vec<u16>)> {
    let port = server.settings.value("secure-port").and_then(|port| port.parse().ok());
    let ports = vec![port.unwrap_or(6443)];
    let running = running(&server.runs, Service::ApiServer, ports.clone())?;
    let runs = server.running.is_some() || server.runs.is_running();
    runs.then_some((running, ports))
}

/// Gives manifests the place where they are while they are out.
pub(super) fn with_aside(mut nodes: Vec<DataNode>, id: PlanId) -> Vec<DataNode> {
    for node in &mut nodes {
        let api = node.api_server.iter_mut().map(|(running, _)| running);
        for running in std::iter::once(&mut node.etcd).chain(api) {
            set_aside(running, id);
        }
    }
    nodes
}

/// Sets where a manifest is while it is out.
pub(in crate::operation) fn set_aside(running: &mut Running, id: PlanId) {
    let How::Pod { manifest, aside, .. } = &mut running.how else { return };
    let name = manifest.file_name().unwrap_or_default().to_string_lossy();
    // A name with a dot in front the kubelet passes over.
    *aside = manifest.with_file_name(format!(".{name}.etcdvault-{id}"));
}

/// Whether the nodes have all members, each once. Returns where the members of the state
/// were others.
pub(super) fn everyone(
    nodes: &[DataNode],
    listed: &[MemberSeen],
    was: Option<&ClusterSeen>,
) -> Result<Vec<String>, Failure> {
    if nodes.is_empty() {
        return Err(refused("none of the nodes runs etcd, or is set up to"));
    }
    for (at, node) in nodes.iter().enumerate() {
        let twice = nodes.iter().skip(at + 1).find(|it| it.member.name == node.member.name);
        if let Some(other) = twice {
            return Err(refused(format!(
                "{} and {} both call their member {}",
                node.member.node, other.member.node, node.member.name
            )));
        }
    }
    for member in listed {
        if !nodes.iter().any(|node| node.member.name == member.name) {
            let why = format!(
                "member {} ({}) is on none of the nodes: it would go on with the data of now",
                member.name, member.id
            );
            return Err(refused(why).hint("take a state that has all nodes with a member"));
        }
    }
    let Some(was) = was else { return Ok(Vec::new()) };
    let mut drift = Vec::new();
    for member in &was.members {
        match nodes.iter().find(|node| node.member.name == member.name) {
            None => drift.push(format!("member {} of the state is gone", member.name)),
            Some(node) if sorted(&node.peer_urls) != sorted(&member.peer_urls) => {
                let (is, was) = (node.peer_urls.join(","), member.peer_urls.join(","));
                drift.push(format!("peers of {} were {was}, and are {is}", member.name));
            }
            Some(_) => {}
        }
    }
    for node in nodes {
        if !was.members.iter().any(|member| member.name == node.member.name) {
            drift.push(format!("member {} was not in the state", node.member.name));
        }
    }
    Ok(drift)
}

fn sorted(urls: &[String]) -> Vec<&String> {
    let mut urls: Vec<&String> = urls.iter().collect();
    urls.sort();
    urls
}

/// The oldest version among members that told theirs.
fn oldest(listed: &[MemberSeen]) -> Option<String> {
    let versions = listed.iter().filter_map(|member| member.version.clone());
    let parsed = versions.filter_map(|text| Some((text.parse::<Version>().ok()?, text)));
    parsed.min_by_key(|(version, _)| *version).map(|(_, text)| text)
}

pub(super) fn leader(view: &ClusterView, nodes: &[DataNode]) -> Option<Place> {
    let id = view.rows.iter().find_map(|row| row.status()?.leader)?;
    let mut listed = view.rows.iter().filter_map(|row| row.listed.as_ref());
    let name = &listed.find(|member| member.id == id)?.name;
    let node = nodes.iter().find(|node| node.member.name == *name)?;
    Some(node.member.node.clone())
}
