//! What [`super::judge`] needs, asked of all nodes at once. Changes nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use sha2::{Digest as _, Sha256};

use super::{Live, Reached, Seen, SeenBackup, SeenData, SeenNode, Unreached};
use crate::dialect::{Specifiers, Unit, UnitFile, host, port};
use crate::etcd::cluster::ClusterView;
use crate::node::{Node, NodeError, NodeErrorKind, NodeName};
use crate::observe::reading::follow;
use crate::observe::{Dialect, EtcdService, Look, Places, Runs, look as look_at};
use crate::operation::state::describe::ClusterSeen;
use crate::types::Version;

/// Until a connection between two nodes has to stand.
const CONNECT: Duration = Duration::from_secs(3);
/// No list of users is longer.
const MAX_PASSWD: u64 = 4 << 20;
/// No configuration of encryption is longer.
const MAX_ENCRYPTION: u64 = 1 << 20;

/// What is looked at.
pub struct Wanted<'a> {
    /// The nodes; one that is not reached answers with why.
    pub nodes: &'a [Arc<dyn Node>],
    /// Those that were declared dead.
    pub dead: &'a [NodeName],
    /// How others know a node besides, by its name: addresses of the configuration.
    pub known_as: &'a dyn Fn(&NodeName) -> Vec<String>,
    /// The cluster as far as it answers.
    pub view: &'a ClusterView,
    /// What is to be restored.
    pub backup: Option<SeenBackup>,
}

/// Looks at all of it. What cannot be seen of a node makes it one that is not reached.
pub async fn look(wanted: Wanted<'_>) -> Seen {
    let from = now();
    let places = Places::default();
    let looks = wanted.nodes.iter().map(|node| look_at(&**node, &places));
    let looks = join_all(looks).await;
    let asked = (from, now());
    let live = live(wanted.view);
    let mut unreached = Vec::new();
    let mut looked: Vec<(&Arc<dyn Node>, Look)> = Vec::new();
    let is_lost = |name: &NodeName, error: &NodeError| {
        let mut why = format!("{}: {}", error.act, error.why);
        if let Some(hint) = &error.hint {
            why = format!("{why} ({hint})");
        }
        let dead = wanted.dead.contains(name);
        Unreached { node: name.to_string(), why, dead, known_as: (wanted.known_as)(name) }
    };
    for (node, look) in wanted.nodes.iter().zip(looks) {
        match look {
            Ok(look) => looked.push((node, look)),
            Err(error) => unreached.push(is_lost(node.name(), &error)),
        }
    }
    let mut seen = Seen { nodes: Vec::new(), unreached, asked, live, backup: wanted.backup };
    let targets = targets(&seen.live, &looked);
    let each = looked.iter().map(|(node, look)| one(node.as_ref(), look, &targets));
    let each = join_all(each).await;
    for ((node, look), found) in looked.iter().zip(each) {
        match found {
            Ok(mut found) => {
                found.version = version(&look.seen, wanted.view);
                seen.nodes.push(found);
            }
            Err(error) => seen.unreached.push(is_lost(node.name(), &error)),
        }
    }
    seen
}

/// This machine's clock, in nanoseconds since 1970.
fn now() -> i128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i128::try_from(since.as_nanos()).unwrap_or(i128::MAX))
}

fn live(view: &ClusterView) -> Live {
    let statuses = || view.rows.iter().filter_map(|row| Some((row, row.status()?)));
    let name = |id| {
        let listed = view.rows.iter().filter_map(|row| row.listed.as_ref());
        let mut listed = listed.filter(|member| member.id == id);
        listed.next().map(|member| member.name.clone())
    };
    let seen = ClusterSeen::of(view);
    Live {
        clusters: statuses().map(|(row, status)| (row.label(), status.cluster_id)).collect(),
        members: seen.map(|seen| seen.members).unwrap_or_default(),
        alarms: view
            .alarms
            .iter()
            .map(|alarm| {
                let member = name(alarm.member_id).unwrap_or_else(|| alarm.member_id.to_string());
                (member, alarm.alarm.clone())
            })
            .collect(),
        leader: statuses().find_map(|(_, status)| name(status.leader?)),
        revision: statuses().map(|(_, status)| status.revision).max(),
        db_size: statuses().map(|(_, status)| status.db_size).max(),
    }
}

/// Addresses of a node's member that others have to reach.
struct Target {
    node: NodeName,
    peer: bool,
    address: String,
}

fn targets(live: &Live, looked: &[(&Arc<dyn Node>, Look)]) -> Vec<Target> {
    let mut found: Vec<Target> = Vec::new();
    for (_, look) in looked {
        let Some(etcd) = look.seen.member() else { continue };
        let name = etcd.settings.name();
        let listed = live.members.iter().find(|member| member.name == name);
        let known = |urls: fn(&crate::operation::state::describe::MemberSeen) -> &Vec<String>| {
            listed.map(urls).filter(|urls| !urls.is_empty()).cloned()
        };
        let peers = known(|member| &member.peer_urls)
            .unwrap_or_else(|| etcd.settings.initial_advertise_peer_urls());
        let clients = known(|member| &member.client_urls)
            .unwrap_or_else(|| etcd.settings.advertise_client_urls());
        for (peer, urls, usual) in [(true, peers, 2380), (false, clients, 2379)] {
            for url in urls {
                let Some(at) = host(&url).filter(|at| !is_local(at)) else { continue };
                let at = if at.contains(':') { format!("[{at}]") } else { at.to_owned() };
                let address = format!("{at}:{}", port(&url).unwrap_or(usual));
                let node = look.seen.name.clone();
                if !found.iter().any(|target| target.node == node && target.address == address) {
                    found.push(Target { node, peer, address });
                }
            }
        }
    }
    found
}

fn is_local(host: &str) -> bool {
    let ip = host.parse::<std::net::IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified())
}

async fn one(node: &dyn Node, look: &Look, targets: &[Target]) -> Result<SeenNode, NodeError> {
    let others: Vec<&Target> =
        targets.iter().filter(|target| target.node != look.seen.name).collect();
    let addresses: Vec<String> = others.iter().map(|target| target.address.clone()).collect();
    let (tried, listeners, data, encryption) = tokio::join!(
        async {
            match addresses.is_empty() {
                true => Ok(Vec::new()),
                false => node.reach(addresses, CONNECT).await,
            }
        },
        node.listeners(),
        data(node, look),
        encryption(node, look),
    );
    let reached = others.iter().zip(tried?).map(|(target, tried)| Reached {
        to: target.node.clone(),
        peer: target.peer,
        address: tried.address,
        error: tried.error,
    });
    Ok(SeenNode {
        seen: look.seen.clone(),
        data: data?,
        version: None,
        listeners: listeners?,
        reached: reached.collect(),
        encryption: encryption?,
    })
}

async fn data(node: &dyn Node, look: &Look) -> Result<Option<SeenData>, NodeError> {
    let Some(etcd) = look.seen.member() else { return Ok(None) };
    let mut above = None;
    let mut missing = Vec::new();
    for path in etcd.data_dir.ancestors() {
        match node.stat(path).await? {
            Some(entry) => {
                above = Some(entry);
                break;
            }
            None if path == etcd.data_dir => {}
            None => missing.push(path.to_owned()),
        }
    }
    missing.reverse();
    let Some(above) = above else { return Ok(None) };
    let member = node.stat(&etcd.data_dir.join("member")).await?;
    let (wal, wal_space) = match &etcd.wal_dir {
        Some(path) => {
            let near = nearest(node, path).await?;
            (node.stat(path).await?, Some(node.space(&near).await?))
        }
        None => (None, None),
    };
    Ok(Some(SeenData {
        dir: (above.path == etcd.data_dir).then(|| above.clone()),
        member,
        wal,
        space: node.space(&above.path).await?,
        above,
        missing,
        wal_space,
        runs_as: runs_as(node, look, etcd).await?,
    }))
}

async fn nearest(node: &dyn Node, path: &Path) -> Result<PathBuf, NodeError> {
    for above in path.ancestors() {
        if node.stat(above).await?.is_some() {
            return Ok(above.to_owned());
        }
    }
    Ok(PathBuf::from("/"))
}

/// User and group of the member: of its process, else of its unit. What runs in a pod is
/// root's.
async fn runs_as(
    node: &dyn Node,
    look: &Look,
    etcd: &EtcdService,
) -> Result<Option<(u32, u32)>, NodeError> {
    let users = |found: Result<Option<(PathBuf, Vec<u8>)>, NodeError>| match found {
        Ok(found) => Ok(found.map(|(_, bytes)| String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind == NodeErrorKind::Lost => Err(error),
        Err(_) => Ok(None),
    };
    let passwd = users(follow(node, Path::new("/etc/passwd"), MAX_PASSWD).await)?;
    let passwd = passwd.unwrap_or_default();
    if let Some(running) = &etcd.running {
        let group = user(&passwd, &running.uid.to_string()).map_or(running.uid, |(_, gid)| gid);
        return Ok(Some((running.uid, group)));
    }
    let Runs::Unit { unit, .. } = &etcd.runs else {
        return Ok(matches!(etcd.runs, Runs::StaticPod { .. }).then_some((0, 0)));
    };
    let parsed = |dialect: Dialect| {
        let files = etcd.files.iter().filter(move |file| file.dialect == dialect);
        files.filter_map(|file| {
            let text = look.texts.get(&file.path)?;
            UnitFile::parse(&file.path.to_string_lossy(), text).ok()
        })
    };
    let Some(main) = parsed(Dialect::Unit).next() else { return Ok(None) };
    let specifiers = Specifiers::of(unit, Some(&look.seen.facts.hostname));
    let merged = Unit::merge(main, parsed(Dialect::DropIn).collect(), specifiers);
    let Some(named) = merged.value("User") else { return Ok(Some((0, 0))) };
    Ok(user(&passwd, &named))
}

/// Number and group of a user by name or number, from `/etc/passwd`.
fn user(passwd: &str, wanted: &str) -> Option<(u32, u32)> {
    let found = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        (name == wanted || uid == wanted).then_some(())?;
        Some((uid.parse().ok()?, gid.parse().ok()?))
    });
    found.or_else(|| wanted.parse().ok().map(|number| (number, number)))
}

/// Files with the keys of what API servers encrypt at rest.
async fn encryption(
    node: &dyn Node,
    look: &Look,
) -> Result<Vec<(PathBuf, Option<[u8; 32]>)>, NodeError> {
    let mut found = Vec::new();
    let files = look.seen.api_servers.iter().flat_map(|server| &server.tls_files);
    for file in files.filter(|file| file.setting.ends_with("encryption-provider-config")) {
        let digest = match follow(node, &file.path, MAX_ENCRYPTION).await {
            Ok(found) => found.map(|(_, bytes)| Sha256::digest(&bytes).into()),
            Err(error) if error.kind == NodeErrorKind::Lost => return Err(error),
            Err(_) => None,
        };
        found.push((file.path.clone(), digest));
    }
    Ok(found)
}

/// The version of a node's etcd: as the member says it, else as its pod's image is called.
fn version(seen: &crate::observe::NodeObservation, view: &ClusterView) -> Option<Version> {
    let etcd = seen.member()?;
    let rows = view.rows.iter().filter(|row| {
        row.listed.as_ref().is_some_and(|member| member.name == etcd.settings.name())
    });
    let mut told = rows.filter_map(|row| row.status()?.parsed_version());
    told.next().or_else(|| {
        let Runs::StaticPod { container: Some(container), .. } = &etcd.runs else { return None };
        container.image.rsplit_once(':')?.1.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_by_name_and_number() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\netcd:x:107:113::/var/lib/etcd:/bin/false\n";
        for (wanted, found) in [
            ("etcd", Some((107, 113))),
            ("107", Some((107, 113))),
            ("root", Some((0, 0))),
            ("64000", Some((64000, 64000))),
            ("nobody-here", None),
        ] {
            assert_eq!(user(passwd, wanted), found, "{wanted}");
        }
    }
}
