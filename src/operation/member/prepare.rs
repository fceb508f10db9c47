//! What a change of the membership looks at before it is planned, and what it refuses.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use futures_util::future::join_all;

use super::live::Live;
use super::planner::{self, About, MemberNode, Newcomer};
use crate::dialect::{InitialCluster, host, port};
use crate::node::Node;
use crate::observe::{self, Dialect, EtcdService, NodeObservation, Runs};
use crate::operation::failure::{Failure, FailureKind};
use crate::operation::own_way;
use crate::operation::returning::data::Running;
use crate::operation::step::configure::{NewValue, edits};
use crate::operation::step::{How, MemberNow, Membership as _, Step};
use crate::plan::{Place, Plan, PlanId, StepError};

/// Until an address answers a node.
const REACH: Duration = Duration::from_secs(5);

/// Where a change is planned.
#[derive(Debug)]
pub struct Field<'a> {
    /// The cluster's members.
    pub live: &'a Live,
    /// The cluster's name.
    pub cluster: String,
    /// The configured nodes that answer.
    pub nodes: Vec<Arc<dyn Node>>,
    /// Those that do not, and why.
    pub lost: Vec<(String, String)>,
}

/// A setting and the value that it is to have; `None` takes it out.
type Wanted = NewValue;

/// A node that was looked at, with its member.
struct Looked<'a> {
    node: &'a dyn Node,
    seen: NodeObservation,
    etcd: EtcdService,
}

fn refused(what: &str, why: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Error, what).detail(why.into()).state("everything is as it was")
}

fn of_step(what: &str, error: &StepError) -> Failure {
    let mut failure = refused(what, error.why.clone());
    failure.details.extend(error.details.iter().cloned());
    failure
}

impl Field<'_> {
    fn about(&self) -> Result<About, Failure> {
        let place = |node: &Arc<dyn Node>| Place::new(node.name().as_str());
        let keepers: Result<Vec<Place>, _> = self.nodes.iter().map(place).collect();
        let keepers = keepers.map_err(|e| Failure::new(FailureKind::Usage, e.to_string()))?;
        let (id, made, cluster) = (PlanId::generate(), Utc::now(), self.cluster.clone());
        Ok(About { id, made, cluster, keepers })
    }

    /// Every node that answers and has a member, or is set up to.
    async fn looked(&self, what: &str) -> Result<Vec<Looked<'_>>, Failure> {
        let looks = self.nodes.iter().map(|node| observe::observe(node.as_ref()));
        let mut found = Vec::new();
        for (seen, node) in join_all(looks).await.into_iter().zip(&self.nodes) {
            let seen = seen.map_err(|error| refused(what, error.to_string()))?;
            let Some(etcd) = seen.member().cloned() else { continue };
            found.push(Looked { node: node.as_ref(), seen, etcd });
        }
        Ok(found)
    }

    /// Why no node that answers has `member`.
    fn not_reached(&self, member: &MemberNow) -> String {
        let named = |name: &str| {
            name == member.name || member.peer_urls.iter().any(|url| host(url) == Some(name))
        };
        match self.lost.iter().find(|(name, _)| named(name)).or(self.lost.first()) {
            Some((name, why)) => format!("{name} is not reached: {why}"),
            None if self.nodes.is_empty() => "no nodes are configured".to_owned(),
            None => "it is on none of the configured nodes".to_owned(),
        }
    }
}

/// Whether a node's member is `member`.
fn is_of(looked: &Looked<'_>, member: &MemberNow) -> bool {
    let settings = &looked.etcd.settings;
    let named = settings.name() == member.name;
    let own = settings.initial_advertise_peer_urls();
    let told = own.iter().any(|url| member.peer_urls.contains(url));
    let addresses = &looked.seen.facts.addresses;
    let at = |ip: IpAddr| addresses.contains(&ip) || ip.is_loopback() && named;
    let here = member
        .peer_urls
        .iter()
        .filter_map(|url| host(url))
        .any(|host| host.parse::<IpAddr>().map_or(host == "localhost" && named, at));
    // One that never started has no name yet.
    (named || member.name.is_empty()) && (told || here)
}

/// etcd as a unit keeps it running.
fn running(looked: &Looked<'_>, what: &str) -> Result<(String, Running), Failure> {
    let name = looked.node.name();
    own_way::refused(looked.seen.distribution, name, what)?;
    match &looked.etcd.runs {
        Runs::Unit { unit, active, enabled, .. } => {
            let how = match enabled.as_str() {
                "enabled" => How::BootUnit { unit: unit.clone() },
                _ => How::Unit { unit: unit.clone() },
            };
            let runs = !matches!(active.as_str(), "inactive" | "failed");
            Ok((unit.clone(), Running { how, runs, healthy: active == "active" }))
        }
        Runs::StaticPod { .. } => Err(refused(what, format!("{name}: etcd runs in a static pod"))
            .hint(
                "on a kubeadm node: kubeadm reset there, etcdvault member remove where the \
                 member is still listed, then kubeadm join --control-plane",
            )),
        Runs::Process => {
            Err(refused(what, format!("{name}: etcd runs neither in a unit nor in a static pod")))
        }
    }
}

/// What has to be known of the node for a plan; `wanted` are the settings that it is to
/// have.
async fn member_node(
    looked: &Looked<'_>,
    wanted: &[Wanted],
    what: &str,
) -> Result<MemberNode, Failure> {
    let (unit, etcd) = running(looked, what)?;
    let node = looked.node;
    let name = node.name();
    let place = Place::new(name.as_str()).map_err(|error| refused(what, error.to_string()))?;
    let (mut places, mut data) = (Vec::new(), Vec::new());
    let log = looked.etcd.wal_dir.clone().filter(|wal| !wal.starts_with(&looked.etcd.data_dir));
    // The log first: what is complete has its `member`.
    for path in log.into_iter().chain([looked.etcd.data_dir.join("member")]) {
        places.push(path.clone());
        let entry = node.stat(&path).await;
        let Some(entry) = entry.map_err(|error| refused(what, error.to_string()))? else {
            continue;
        };
        if entry.mount_point {
            let why = format!("{name}: {} is a mount point and cannot be renamed", path.display());
            return Err(refused(what, why));
        }
        data.push(path);
    }
    let edits = edits(node, &looked.etcd, wanted).await.map_err(|error| of_step(what, &error))?;
    let of_systemd = |path: &PathBuf| {
        looked.etcd.files.iter().any(|file| {
            file.path == *path && matches!(file.dialect, Dialect::Unit | Dialect::DropIn)
        })
    };
    let stale = edits.iter().any(|edit| of_systemd(&edit.path));
    let reload = if stale { vec![unit] } else { Vec::new() };
    Ok(MemberNode { node: place, etcd, edits, reload, places, data })
}

/// `name=url,…` of all that are there, and of one more.
fn initial_cluster(members: &[MemberNow], without: &str, name: &str, urls: &[String]) -> String {
    let mut all: Vec<(String, String)> = Vec::new();
    for member in members.iter().filter(|member| member.id != without) {
        all.extend(member.peer_urls.iter().map(|url| (member.name.clone(), url.clone())));
    }
    all.extend(urls.iter().map(|url| (name.to_owned(), url.clone())));
    InitialCluster::of(all).to_string()
}

/// The settings with which a member joins a cluster that is there.
pub(in crate::operation) fn joining(etcd: &EtcdService, initial_cluster: &str) -> Vec<NewValue> {
    let settings = &etcd.settings;
    let mut wanted = Vec::new();
    let mut set = |name: &str, value: Option<String>| wanted.push((name.to_owned(), value));
    // Under discovery the records say who is there, and etcd refuses both.
    let same = InitialCluster::parse(initial_cluster)
        .same(&InitialCluster::parse(settings.value("initial-cluster").unwrap_or_default()));
    if !settings.is_discovered() && !same {
        set("initial-cluster", Some(initial_cluster.to_owned()));
    }
    if settings.initial_cluster_state() != "existing" {
        set("initial-cluster-state", Some("existing".to_owned()));
    }
    if settings.is_forced_new() {
        set("force-new-cluster", None);
    }
    wanted
}

/// All members have names, or none of them could be told to a new one.
fn all_named(members: &[MemberNow], without: &str, what: &str) -> Result<(), Failure> {
    let unnamed = members.iter().find(|it| it.name.is_empty() && it.id != without);
    match unnamed {
        Some(member) => Err(refused(
            what,
            format!("member {} ({}) has never started", member.id, member.peer_urls.join(",")),
        )
        .hint(format!("start it, or etcdvault member remove {}", member.id))),
        None => Ok(()),
    }
}

/// Nobody joins a member that only its own machine reaches: row 2.
fn local_only(members: &[MemberNow], what: &str) -> Result<(), Failure> {
    let local =
        |member: &&MemberNow| member.peer_urls.iter().all(|url| host(url).is_some_and(is_loopback));
    match members.iter().find(local) {
        Some(member) => Err(refused(
            what,
            format!(
                "peers reach {} at {}, which no other machine does",
                member.label(),
                member.peer_urls.join(",")
            ),
        )
        .hint(format!(
            "etcdvault member update {} --peer-urls http://ADDRESS:2380 gives it its address",
            member.label()
        ))),
        None => Ok(()),
    }
}

/// A node reaches the peers of all that are well: row 29 names the pair.
async fn reaches(
    node: &dyn Node,
    members: &[MemberNow],
    without: &str,
    what: &str,
) -> Result<(), Failure> {
    let others = members.iter().filter(|member| member.id != without && member.is_well());
    let mut asked: Vec<(String, &MemberNow)> = Vec::new();
    for member in others {
        for url in &member.peer_urls {
            if let (Some(host), Some(port)) = (host(url), port(url)) {
                let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
                asked.push((format!("{host}:{port}"), member));
            }
        }
    }
    let addresses = asked.iter().map(|(address, _)| address.clone()).collect();
    let answers = node.reach(addresses, REACH).await;
    let answers = answers.map_err(|error| refused(what, error.to_string()))?;
    let mut failure: Option<Failure> = None;
    for answer in answers {
        let (Some(why), Some((_, member))) =
            (answer.error, asked.iter().find(|(address, _)| *address == answer.address))
        else {
            continue;
        };
        let line = format!(
            "{} does not reach {} at {}: {why}",
            node.name(),
            member.label(),
            answer.address
        );
        failure = Some(match failure {
            None => refused(what, line).hint("look at routes, netmasks and firewalls between them"),
            Some(failure) => failure.detail(line),
        });
    }
    failure.map_or(Ok(()), Err)
}

/// Plans `member remove`.
pub async fn remove(field: &Field<'_>, text: &str) -> Result<Plan<Step>, Failure> {
    let what = "nothing was removed";
    let members = field.live.list().await?;
    let member = super::find(&members, text, what)?;
    let all = field.looked(what).await?;
    let looked = all.iter().find(|looked| is_of(looked, member));
    let node = match looked {
        Some(looked) => Some(member_node(looked, &[], what).await?),
        None => None,
    };
    let unreached = match (&node, member.name.is_empty()) {
        (None, false) => Some(field.not_reached(member)),
        _ => None,
    };
    let about = field.about()?;
    planner::plan_remove(&about, &members, member, node.as_ref(), unreached.as_deref())
        .map_err(|why| refused(what, why))
}

/// Plans `member repair` of the member on the node that is named, or of the member.
pub async fn repair(field: &Field<'_>, text: &str) -> Result<Plan<Step>, Failure> {
    let what = "nothing was repaired";
    let members = field.live.list().await?;
    if let Some((name, why)) = field.lost.iter().find(|(name, _)| name == text) {
        return Err(refused(what, format!("{name} is not reached: {why}")).hint(format!(
            "a node that is gone for good is taken out: etcdvault member remove {name}"
        )));
    }
    let all = field.looked(what).await?;
    let on_node = all.iter().find(|looked| looked.node.name().as_str() == text);
    let looked = match on_node {
        Some(looked) => looked,
        None => {
            let member = super::find(&members, text, what)?;
            all.iter()
                .find(|looked| is_of(looked, member))
                .ok_or_else(|| refused(what, field.not_reached(member)))?
        }
    };
    let name = looked.etcd.settings.name().to_owned();
    let member = members.iter().find(|member| is_of(looked, member)).ok_or_else(|| {
        refused(what, format!("the member {name} of {} is not listed", looked.node.name()))
            .hint(format!("let it join: etcdvault member add {}", looked.node.name()))
    })?;
    all_named(&members, &member.id, what)?;
    reaches(looked.node, &members, &member.id, what).await?;
    let cluster = initial_cluster(&members, &member.id, &name, &member.peer_urls);
    let mut wanted = joining(&looked.etcd, &cluster);
    if !same_urls(&looked.etcd.settings.initial_advertise_peer_urls(), &member.peer_urls) {
        let urls = member.peer_urls.join(",");
        wanted.push(("initial-advertise-peer-urls".to_owned(), Some(urls)));
    }
    let node = member_node(looked, &wanted, what).await?;
    planner::plan_repair(&field.about()?, &members, member, &name, &node)
        .map_err(|why| refused(what, why))
}

fn same_urls(a: &[String], b: &[String]) -> bool {
    let sorted = |urls: &[String]| {
        let mut urls: Vec<String> =
            urls.iter().map(|url| url.trim_end_matches('/').to_owned()).collect();
        urls.sort();
        urls
    };
    sorted(a) == sorted(b)
}

/// What `member add` is told.
#[derive(Debug, Clone, Default)]
pub struct AddOptions {
    /// The node.
    pub node: String,
    /// The member's name; else as its settings say, or as the node.
    pub name: Option<String>,
    /// Its address; else the configured one, or the only one that it has.
    pub address: Option<IpAddr>,
    /// What data there is may be set aside.
    pub set_data_aside: bool,
}

/// Plans `member add`.
pub async fn add(field: &Field<'_>, options: &AddOptions) -> Result<Plan<Step>, Failure> {
    let what = "nothing was added";
    let members = field.live.list().await?;
    if let Some((name, why)) = field.lost.iter().find(|(name, _)| *name == options.node) {
        return Err(refused(what, format!("{name} is not reached: {why}")));
    }
    let all = field.looked(what).await?;
    let looked = all.iter().find(|looked| looked.node.name().as_str() == options.node);
    let looked = looked.ok_or_else(|| {
        let known = field.nodes.iter().any(|node| node.name().as_str() == options.node);
        match known {
            true => refused(what, format!("{}: no unit starts etcd there", options.node))
                .hint("install etcd of the cluster's version with its unit first"),
            false => refused(what, format!("{} is no node of the cluster", options.node))
                .hint(format!("add it to nodes of the cluster and as [node.{}]", options.node)),
        }
    })?;
    local_only(&members, what)?;
    if let Some(member) = members.iter().find(|member| is_of(looked, member)) {
        return Err(refused(
            what,
            format!("{} has the member {} ({}) already", options.node, member.label(), member.id),
        )
        .hint(format!("has it lost its data? etcdvault member repair {}", options.node)));
    }
    all_named(&members, "", what)?;
    reaches(looked.node, &members, "", what).await?;
    let (new, mut wanted) = newcomer(looked, &members, options, what)?;
    let cluster = initial_cluster(&members, "", &new.name, &new.peer_urls);
    wanted.extend(joining(&looked.etcd, &cluster));
    let node = member_node(looked, &wanted, what).await?;
    if !node.data.is_empty() && !options.set_data_aside {
        let paths: Vec<String> = node.data.iter().map(|path| path.display().to_string()).collect();
        return Err(refused(
            what,
            format!("{}: there is data of another cluster in {}", options.node, paths.join(", ")),
        )
        .hint("--set-data-aside renames it and keeps it"));
    }
    planner::plan_add(&field.about()?, &members, &new, &node).map_err(|why| refused(what, why))
}

/// The name and the addresses of a member that is to be, and its settings of these.
fn newcomer(
    looked: &Looked<'_>,
    members: &[MemberNow],
    options: &AddOptions,
    what: &str,
) -> Result<(Newcomer, Vec<Wanted>), Failure> {
    let (settings, node) = (&looked.etcd.settings, looked.node.name());
    let taken = |name: &str| members.iter().any(|member| member.name == name);
    let own = settings.name();
    let name = match &options.name {
        Some(name) => name.clone(),
        None if own == "default" || taken(own) => node.to_string(),
        None => own.to_owned(),
    };
    if taken(&name) {
        return Err(refused(what, format!("a member is called {name} already"))
            .hint("--name gives it another name"));
    }
    let ip = address(looked, members, options.address, what)?;
    let [peer, client] = urls_like(members, ip).ok_or_else(|| {
        refused(what, "the members do not say at which ports they serve peers and clients")
    })?;
    if peer.starts_with("https:") {
        let tls = settings.peer_tls();
        if !tls.auto_tls && tls.cert_file.is_none() {
            return Err(refused(
                what,
                format!("peers speak TLS, and {node} has no peer certificate"),
            )
            .hint(
                "lay its certificates there and set peer-cert-file, peer-key-file and \
                   peer-trusted-ca-file in its etcd's settings",
            ));
        }
    }
    if client.starts_with("https:") {
        let tls = settings.client_tls();
        if !tls.auto_tls && tls.cert_file.is_none() {
            return Err(refused(
                what,
                format!("clients speak TLS, and {node} has no certificate for them"),
            )
            .hint(
                "lay its certificates there and set cert-file, key-file and trusted-ca-file \
                   in its etcd's settings",
            ));
        }
    }
    let mut wanted = Vec::new();
    let mut set = |name: &str, value: String| wanted.push((name.to_owned(), Some(value)));
    if own != name || settings.get("name").is_none() {
        set("name", name.clone());
    }
    if let Some(listen) = listening(&settings.listen_peer_urls(), &peer, false) {
        set("listen-peer-urls", listen);
    }
    if let Some(listen) = listening(&settings.listen_client_urls(), &client, true) {
        set("listen-client-urls", listen);
    }
    set("initial-advertise-peer-urls", peer.clone());
    set("advertise-client-urls", client);
    Ok((Newcomer { name, peer_urls: vec![peer] }, wanted))
}

/// The address at which the others reach the node.
fn address(
    looked: &Looked<'_>,
    members: &[MemberNow],
    given: Option<IpAddr>,
    what: &str,
) -> Result<IpAddr, Failure> {
    if let Some(ip) = given {
        return Ok(ip);
    }
    let peers = || members.iter().flat_map(|member| &member.peer_urls);
    let of_peers = peers().filter_map(|url| host(url)?.parse::<IpAddr>().ok());
    let v6 = of_peers.clone().all(|ip| ip.is_ipv6()) && of_peers.count() > 0;
    let told = looked.etcd.settings.initial_advertise_peer_urls();
    let told = told.iter().filter_map(|url| host(url)?.parse::<IpAddr>().ok());
    if let Some(ip) = told.into_iter().find(|ip| !ip.is_loopback() && !ip.is_unspecified()) {
        return Ok(ip);
    }
    let link_local =
        |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.segments()[0] & 0xffc0 == 0xfe80);
    let own = looked.seen.facts.addresses.iter();
    let own: Vec<&IpAddr> = own.filter(|ip| ip.is_ipv6() == v6 && !link_local(ip)).collect();
    match own.as_slice() {
        [only] => Ok(**only),
        [] => Err(refused(what, format!("{} has no address of its own", looked.node.name()))
            .hint("--address says it")),
        several => {
            let several: Vec<String> = several.iter().map(ToString::to_string).collect();
            let name = looked.node.name();
            let why = format!("{name} has several addresses: {}", several.join(", "));
            Err(refused(what, why).hint("--address says which one the others reach"))
        }
    }
}

/// URLs for peers and clients at `ip`, with the schemes and ports that the members have.
fn urls_like(members: &[MemberNow], ip: IpAddr) -> Option<[String; 2]> {
    let ip = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
    let like = |urls: &[String]| {
        let url = urls.first()?;
        Some(format!("{}://{ip}:{}", url.split_once("://")?.0, port(url)?))
    };
    let first = members.iter().find(|member| member.is_well())?;
    Some([like(&first.peer_urls)?, like(&first.client_urls)?])
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Where it has to listen to be reached at `url`; `None` where it does already. With
/// `local` it is reached on its own machine as well.
fn listening(now: &[String], url: &str, local: bool) -> Option<String> {
    let scheme = |url: &str| url.split_once("://").map(|(scheme, _)| scheme.to_owned());
    let covers = |listen: &String| {
        let any = host(listen)
            .and_then(|host| host.parse::<IpAddr>().ok())
            .is_some_and(|ip| ip.is_unspecified());
        scheme(listen) == scheme(url)
            && port(listen) == port(url)
            && (any || host(listen) == host(url))
    };
    if now.iter().any(covers) {
        return None;
    }
    let (own, port) = (host(url)?, port(url)?);
    let scheme = scheme(url)?;
    // etcd listens at addresses, not at names.
    if own.parse::<IpAddr>().is_err() && !is_loopback(own) {
        return Some(format!("{scheme}://0.0.0.0:{port}"));
    }
    let mut listen = url.trim_end_matches('/').to_owned();
    if local && !is_loopback(own) {
        let ip = if own.contains(':') { "[::1]" } else { "127.0.0.1" };
        listen.push_str(&format!(",{scheme}://{ip}:{port}"));
    }
    Some(listen)
}

/// What `member update` is told.
#[derive(Debug, Clone, Default)]
pub struct UpdateOptions {
    /// The member, by name or id.
    pub member: String,
    /// Its node, where that is not clear.
    pub node: Option<String>,
    /// Where peers are to reach it.
    pub peer_urls: Vec<String>,
    /// Where clients are to reach it.
    pub client_urls: Vec<String>,
    /// What it is to be called.
    pub name: Option<String>,
}

/// Plans `member update`.
pub async fn update(field: &Field<'_>, options: &UpdateOptions) -> Result<Plan<Step>, Failure> {
    let what = "nothing was updated";
    let members = field.live.list().await?;
    let member = super::find(&members, &options.member, what)?;
    for url in options.peer_urls.iter().chain(&options.client_urls) {
        let scheme = url.starts_with("http://") || url.starts_with("https://");
        if !scheme || host(url).is_none() || port(url).is_none() {
            let why = format!("{what}: {url:?} is no URL such as http://10.0.0.11:2380");
            return Err(Failure::new(FailureKind::Usage, why));
        }
    }
    let taken = |url: &&String| {
        let of = |other: &&MemberNow| other.id != member.id && other.peer_urls.contains(*url);
        members.iter().any(|other| of(&other))
    };
    if let Some(url) = options.peer_urls.iter().find(taken) {
        return Err(refused(what, format!("{url} is the address of another member")));
    }
    let name = options.name.as_deref().unwrap_or(&member.name);
    if members.iter().any(|other| other.id != member.id && other.name == name) {
        return Err(refused(what, format!("another member is called {name}")));
    }
    let all = field.looked(what).await?;
    let meant = |looked: &&Looked<'_>| match &options.node {
        Some(name) => looked.node.name().as_str() == name,
        None => is_of(looked, member),
    };
    let found: Vec<&Looked<'_>> = all.iter().filter(meant).collect();
    if let [_, _, ..] = found.as_slice() {
        let names: Vec<&str> = found.iter().map(|looked| looked.node.name().as_str()).collect();
        let why = format!("{} may be on any of {}", member.label(), names.join(", "));
        return Err(refused(what, why).hint("--node says on which it is"));
    }
    let node = match found.first().copied() {
        Some(looked) => {
            let wanted = moved(&looked.etcd, member, options);
            Some(member_node(looked, &wanted, what).await?)
        }
        None if options.name.is_some() || !options.client_urls.is_empty() => {
            return Err(refused(
                what,
                format!(
                    "its name and where clients reach it are its own settings, and {}",
                    field.not_reached(member)
                ),
            ));
        }
        None => None,
    };
    if node.as_ref().is_none_or(|node| node.edits.is_empty())
        && same_urls(&options.peer_urls, &member.peer_urls)
    {
        return Err(refused(what, format!("{} is so already", member.label())));
    }
    let about = field.about()?;
    let urls = &options.peer_urls;
    planner::plan_update(&about, &members, member, urls, node.as_ref(), name)
        .map_err(|why| refused(what, why))
}

/// The settings of a member that is to be reached elsewhere.
fn moved(etcd: &EtcdService, member: &MemberNow, options: &UpdateOptions) -> Vec<Wanted> {
    let settings = &etcd.settings;
    let mut wanted = Vec::new();
    let mut set = |name: &str, value: String| wanted.push((name.to_owned(), Some(value)));
    let name = options.name.as_deref().unwrap_or(settings.name());
    if name != settings.name() {
        set("name", name.to_owned());
    }
    let all = |now: &[String], urls: &[String], local: bool| {
        let new: Vec<String> = urls.iter().filter_map(|url| listening(now, url, local)).collect();
        (!new.is_empty()).then(|| new.join(","))
    };
    if let Some(listen) = all(&settings.listen_peer_urls(), &options.peer_urls, false) {
        set("listen-peer-urls", listen);
    }
    if !same_urls(&settings.initial_advertise_peer_urls(), &options.peer_urls) {
        set("initial-advertise-peer-urls", options.peer_urls.join(","));
    }
    if !options.client_urls.is_empty() {
        if let Some(listen) = all(&settings.listen_client_urls(), &options.client_urls, true) {
            set("listen-client-urls", listen);
        }
        if !same_urls(&settings.advertise_client_urls(), &options.client_urls) {
            set("advertise-client-urls", options.client_urls.join(","));
        }
    }
    // What it was once made with has to fit its name and address, where it is said at all.
    if let Some(before) = settings.value("initial-cluster") {
        let others = InitialCluster::parse(before);
        let others = others.iter().filter(|(other, url)| {
            *other != settings.name() && !member.peer_urls.iter().any(|own| own == url)
        });
        let mut others: Vec<(String, String)> =
            others.map(|(name, url)| (name.to_owned(), url.to_owned())).collect();
        others.extend(options.peer_urls.iter().map(|url| (name.to_owned(), url.clone())));
        let after = InitialCluster::of(others);
        if !after.same(&InitialCluster::parse(before)) {
            set("initial-cluster", after.to_string());
        }
    }
    wanted
}

/// Plans `member promote`.
pub async fn promote(field: &Field<'_>, text: &str) -> Result<Plan<Step>, Failure> {
    let what = "nothing was promoted";
    let members = field.live.list().await?;
    let member = super::find(&members, text, what)?;
    planner::plan_promote(&field.about()?, &members, member).map_err(|why| refused(what, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_it_has_to_listen() {
        let now = |urls: &[&str]| urls.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>();
        let local = now(&["http://localhost:2380"]);
        assert_eq!(
            listening(&local, "http://10.0.0.11:2380", false).as_deref(),
            Some("http://10.0.0.11:2380")
        );
        assert_eq!(
            listening(&now(&["http://localhost:2379"]), "http://10.0.0.11:2379", true).as_deref(),
            Some("http://10.0.0.11:2379,http://127.0.0.1:2379")
        );
        for covered in ["http://0.0.0.0:2380", "http://[::]:2380", "http://10.0.0.11:2380"] {
            assert_eq!(listening(&now(&[covered]), "http://10.0.0.11:2380", false), None);
        }
        // 10.0.0.1 is not 10.0.0.11, and TLS is not plain.
        for other in ["http://10.0.0.1:2380", "https://10.0.0.11:2380", "http://10.0.0.11:2381"] {
            assert!(listening(&now(&[other]), "http://10.0.0.11:2380", false).is_some());
        }
        assert_eq!(
            listening(&local, "https://k1.example.org:2380", false).as_deref(),
            Some("https://0.0.0.0:2380")
        );
        assert_eq!(
            listening(&local, "http://[fd00::1]:2379", true).as_deref(),
            Some("http://[fd00::1]:2379,http://[::1]:2379")
        );
    }

    fn member(name: &str, id: &str, peer: &str) -> MemberNow {
        MemberNow {
            id: id.into(),
            name: name.into(),
            peer_urls: vec![peer.into()],
            client_urls: vec![peer.replace("2380", "2379")],
            is_learner: false,
            answer: Ok(crate::operation::step::Says {
                leader: Some("a1".into()),
                version: "3.6.16".into(),
                applied: 1,
                revision: 1,
            }),
        }
    }

    #[test]
    fn addresses_like_those_of_the_others() {
        let members = [member("k1", "a1", "https://10.0.0.1:2380")];
        let urls = urls_like(&members, "10.0.0.10".parse().unwrap()).unwrap();
        assert_eq!(urls, ["https://10.0.0.10:2380", "https://10.0.0.10:2379"]);
        let urls = urls_like(&members, "fd00::10".parse().unwrap()).unwrap();
        assert_eq!(urls, ["https://[fd00::10]:2380", "https://[fd00::10]:2379"]);
    }

    #[test]
    fn the_initial_cluster_names_all_so_far() {
        let members = [
            member("k1", "a1", "http://10.0.0.1:2380"),
            member("k2", "b2", "http://10.0.0.2:2380"),
        ];
        let url = ["http://10.0.0.3:2380".to_owned()];
        assert_eq!(
            initial_cluster(&members, "", "k3", &url),
            "k1=http://10.0.0.1:2380,k2=http://10.0.0.2:2380,k3=http://10.0.0.3:2380"
        );
        let url = ["http://10.0.0.2:2380".to_owned()];
        assert_eq!(
            initial_cluster(&members, "b2", "k2", &url),
            "k1=http://10.0.0.1:2380,k2=http://10.0.0.2:2380"
        );
    }
}
