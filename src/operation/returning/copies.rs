//! A return of data from copies of the directories of stopped members.
//!
//! - All copies or none, to the members that they are of: the same names and peers, on all
//!   nodes of the state. They are one set, so no id and no revision is made anew.
//! - They are unpacked while everything goes on. Then it goes as with a snapshot: all stop,
//!   directories are renamed, all start and are compared.
//! - The revision is that of the copies. Who remembers a later one has to be started anew:
//!   API servers are, and the programs beside them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use vault::repository::{Backup, Repository};

use super::ReturnOptions;
use super::data::{CLIENTS, DataNode, Work, kept, stages};
use super::looked::{all_nodes, everyone, leader, look, refused, with_aside};
use super::planner::Planned;
use crate::etcd::cluster::{Reach, observe as observe_members};
use crate::etcd::{ConnectionSettings, Connector};
use crate::node::Node;
use crate::operation::cluster::planner::FOLLOWERS;
use crate::operation::failure::Failure;
use crate::operation::own_way;
use crate::operation::state::describe::{ClusterSeen, Program, StateContent};
use crate::operation::state::index::{Archive, Kind};
use crate::operation::state::{Part, find, look as describing};
use crate::operation::step::{CopiedMember, Step};
use crate::plan::{Place, Plan, PlanId, Stage};

/// A node with a member and where its copy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopiedNode {
    /// The node.
    pub node: DataNode,
    /// `member` in the copy.
    pub from: PathBuf,
    /// The log's directory in the copy, where it lies elsewhere.
    pub wal_from: Option<PathBuf>,
}

/// What a return of copies is planned from.
#[derive(Debug, Clone)]
pub struct CopyInputs {
    /// The plan's id.
    pub id: PlanId,
    /// When it is made.
    pub made: DateTime<Utc>,
    /// The cluster's name.
    pub cluster: String,
    /// The backup with the copies.
    pub backup: String,
    /// When it was taken.
    pub taken: DateTime<Utc>,
    /// All nodes with a member.
    pub nodes: Vec<CopiedNode>,
    /// Other nodes of the cluster: they keep the journal and the lock, too.
    pub keepers: Vec<Place>,
    /// The node with the leader, where it is known.
    pub leader: Option<Place>,
    /// Whether the present state is stored first.
    pub save: bool,
    /// What else a person should know, by the name of the fact.
    pub facts: Vec<(String, String)>,
}

/// Plans the return.
pub fn plan(inputs: &CopyInputs) -> Plan<Step> {
    let nodes: Vec<DataNode> = inputs.nodes.iter().map(|copied| copied.node.clone()).collect();
    let places = nodes.iter().map(|node| node.member.node.clone());
    let places: Vec<Place> = places.chain(inputs.keepers.iter().cloned()).collect();
    let at = inputs.taken.format("%Y-%m-%d %H:%M UTC");
    let title = format!(
        "Return the data of {} to {} ({at}, copies of the stopped members)",
        inputs.cluster, inputs.backup
    );
    let (name, made) = (inputs.cluster.clone(), inputs.made);
    let plan = Plan::new(inputs.id, name, "state return --only data", title, made, places);
    let has_api = nodes.iter().any(|node| node.api_server.is_some());
    let plan = plan.fact("Lost", format!("everything written after {at}"));
    let mut plan = kept(plan, inputs.id, &nodes).fact(
        "Revision",
        "that of the copies, below what was served since: who watches and is not started anew \
         takes old for new",
    );
    if has_api {
        plan = plan.fact(
            "Clients",
            "API servers, controllers, schedulers and kubelets of these nodes are started anew; \
             start those of other nodes anew yourself",
        );
    } else {
        plan = plan.fact("Clients", CLIENTS);
    }
    for (name, text) in &inputs.facts {
        plan = plan.fact(name, text);
    }
    let copied = |node: &CopiedNode| CopiedMember {
        member: node.node.member.clone(),
        from: node.from.clone(),
        wal_from: node.wal_from.clone(),
    };
    let copies = inputs.nodes.iter().map(copied).collect();
    let members: Vec<_> = nodes.iter().map(|node| node.member.clone()).collect();
    let build = Step::UnpackData { backup: inputs.backup.clone(), members: copies };
    let check = Step::CheckCopies { members: members.clone() };
    let leader = inputs.leader.as_ref();
    let save = inputs.save;
    let plan = stages(plan, Work { nodes: &nodes, leader, save, build, check, members });
    let servers = nodes.iter().filter(|node| node.api_server.is_some());
    let servers: Vec<Place> = servers.map(|node| node.member.node.clone()).collect();
    if servers.is_empty() {
        return plan;
    }
    let programs = FOLLOWERS.map(str::to_owned).to_vec();
    plan.stage(Stage::in_order(vec![Step::Restart { nodes: servers, programs }]))
}

/// Looks at all nodes of a state and plans the return of the copies in it.
pub(super) async fn prepare(
    repository: &Repository,
    backup: &Backup,
    nodes: &[Arc<dyn Node>],
    connector: &Connector,
    connection: &ConnectionSettings,
    options: &ReturnOptions,
) -> Result<Planned, Failure> {
    let manifest = &backup.manifest;
    let named: Vec<String> = nodes.iter().map(|node| node.name().to_string()).collect();
    all_nodes(backup, &named)?;
    let content = StateContent::of(manifest).map_err(refused)?.unwrap_or_default();
    if let Some(missing) = content.missing.first() {
        let why = format!("{} was not stored in {}: {}", missing.node, manifest.id, missing.why);
        return Err(refused(why).hint("take a state that has all nodes with a member"));
    }
    let view = observe_members(connector, connection, Reach::AllMembers).await;
    let seen = ClusterSeen::of(&view);
    let listed = seen.as_ref().or(content.cluster.as_ref()).map_or(&[][..], |seen| &seen.members);
    let (mut found, mut others) = (Vec::new(), Vec::new());
    let (mut facts, mut expected) = (Vec::new(), BTreeSet::new());
    for node in nodes {
        let name = node.name();
        let index = find::index(repository, manifest, name).await?;
        let looked = describing::look(node.as_ref(), &options.look.places)
            .await
            .map_err(|error| refused(format!("{name} was not looked at: {error}")))?;
        own_way::refused(looked.observed.distribution, name, super::looked::WHAT)?;
        let Some(was) = &index.description.etcd else {
            if looked.observed.member().is_some() {
                let why = format!("{name} runs etcd, and did not in {}", manifest.id);
                return Err(refused(why).hint("return its configuration first, or take it out"));
            }
            continue;
        };
        let Some(archive) = &index.data else {
            let why = format!("{} has no copy of the data of {name}", manifest.id);
            return Err(refused(why).hint("take a state that has all nodes with a member"));
        };
        let Some(etcd) = looked.observed.member().cloned() else {
            let why = format!("{name} is not set up to run etcd");
            return Err(refused(why).hint(format!(
                "return its configuration first: etcdvault state return {}",
                manifest.id
            )));
        };
        if let Some(is) = &looked.description.etcd {
            others.extend(other_member(name.as_str(), was, is));
            if let (Some(was), Some(is)) = (&was.image, &is.image)
                && was != is
            {
                let text = format!("{name}: etcd had the image {was}, and has {is}");
                facts.push(("Differs".to_owned(), text));
            }
        }
        let object = find::object(manifest, Part::Data, name);
        let size = object.map_or(0, |object| object.plain_size);
        let data = look(node.as_ref(), &looked.observed, &etcd, listed, size).await?;
        let (from, wal_from) = places(archive, &data.member.data_dir, etcd.wal_dir.as_deref())
            .map_err(|why| refused(format!("{name}: {why}")))?;
        if let Some(owner) = owner_of(archive, &from)
            && owner != data.member.owner
        {
            let (is, was) = (data.member.owner, owner);
            let text = format!(
                "{name}: data belongs to user {} now, and to {} in the copies: etcd has to be \
                 let in",
                is.0, was.0
            );
            facts.push(("Differs".to_owned(), text));
        }
        expected.extend(etcd.settings.initial_cluster().names().into_iter().map(str::to_owned));
        found.push(CopiedNode { node: data, from, wal_from });
    }
    let (id, made) = (PlanId::generate(), Utc::now());
    let data = with_aside(found.iter().map(|copied| copied.node.clone()).collect(), id);
    others.extend(everyone(&data, listed, content.cluster.as_ref())?);
    if !others.is_empty() {
        let mut failure = refused(format!("the members are not those of {}", manifest.id));
        for line in others {
            failure = failure.detail(line);
        }
        return Err(failure.hint(format!(
            "a copy works for the member that it is of: return its configuration first, \
             etcdvault state return {}",
            manifest.id
        )));
    }
    expected.retain(|name| data.iter().all(|node| node.member.name != *name));
    if !expected.is_empty() && !options.force_topology {
        let names: Vec<&str> = expected.iter().map(String::as_str).collect();
        let why = format!(
            "initial-cluster names {}, of which {} has no copy: a member that goes on with other \
             data forks what was agreed on",
            names.join(", "),
            manifest.id
        );
        return Err(refused(why).hint(
            "take a state of all nodes; --force-topology goes on where they are no members any \
             more",
        ));
    }
    let leader = leader(&view, &data);
    let nodes = found.into_iter().zip(data).map(|(copied, node)| CopiedNode { node, ..copied });
    let inputs = CopyInputs {
        id,
        made,
        cluster: manifest.cluster.to_string(),
        backup: manifest.id.to_string(),
        taken: manifest.started,
        nodes: nodes.collect(),
        keepers: options.places()?,
        leader,
        save: options.save,
        facts,
    };
    Ok(Planned { plan: Some(plan(&inputs)), by_hand: Vec::new() })
}

/// Where a node's member was another one: by its name, or by where its peers reach it.
fn other_member(node: &str, was: &Program, is: &Program) -> Vec<String> {
    let value = |program: &Program, name: &str| {
        let text = program.options.get(name).map(String::as_str).unwrap_or("not set");
        let mut parts: Vec<&str> = text.split(',').map(str::trim).collect();
        parts.sort_unstable();
        parts.join(",")
    };
    let names = ["name", "initial-advertise-peer-urls"].into_iter();
    let differ = names.filter_map(|name| {
        let (was, is) = (value(was, name), value(is, name));
        (was != is).then(|| format!("{node}: {name} was {was}, and is {is}"))
    });
    differ.collect()
}

/// Where `member`, and the log where it lies elsewhere, are in a copy.
fn places(
    archive: &Archive,
    data_dir: &Path,
    wal_dir: Option<&Path>,
) -> Result<(PathBuf, Option<PathBuf>), String> {
    let files = archive.files.iter().filter(|file| file.kind == Kind::File);
    let paths: Vec<PathBuf> = files.filter_map(|file| file.real_path()).collect();
    let members: BTreeSet<&Path> = paths
        .iter()
        .filter(|path| path.ends_with("member/snap/db"))
        .filter_map(|path| path.parent()?.parent())
        .collect();
    let member = match members.len() {
        0 => return Err("the copy holds no database".to_owned()),
        1 => members.first().copied(),
        _ => members.get(&*data_dir.join("member")).copied(),
    };
    let member = member.ok_or("the copy holds several members, none of them in this place")?;
    let logs: BTreeSet<&Path> = paths
        .iter()
        .filter(|path| path.extension() == Some(OsStr::new("wal")))
        .filter_map(|path| path.parent())
        .collect();
    let inside = logs.contains(&*member.join("wal"));
    // Of directories that were set aside.
    let own = member.parent().unwrap_or(member);
    let is_aside = |log: &Path| {
        let name = log.file_name().unwrap_or_default().to_string_lossy();
        let marked = [".before-", ".returned-", ".new-"].iter().any(|mark| name.contains(mark));
        let first = log.strip_prefix(own).ok().and_then(|rest| rest.components().next());
        marked || first.is_some_and(|it| it.as_os_str().to_string_lossy().starts_with("member"))
    };
    let outside: Vec<&Path> = logs.into_iter().filter(|log| !is_aside(log)).collect();
    match (inside, wal_dir) {
        (true, None) => Ok((member.to_owned(), None)),
        (true, Some(wal)) => {
            Err(format!("its log was in the data directory, and is in {}", wal.display()))
        }
        (false, None) => Err("its log was not in the data directory, and is now".to_owned()),
        (false, Some(wal)) => {
            let same = outside.iter().find(|log| **log == wal).copied();
            let log = same.or(if let [one] = outside[..] { Some(one) } else { None });
            let log = log.ok_or("the copy holds no log of it")?;
            Ok((member.to_owned(), Some(log.to_owned())))
        }
    }
}

/// Whose the copied directory is.
fn owner_of(archive: &Archive, from: &Path) -> Option<(u32, u32)> {
    let path = crate::operation::state::index::escaped(from);
    archive.file(&path).map(|file| (file.uid, file.gid))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::operation::state::describe::Runs;
    use crate::operation::state::index::File;

    fn archive(paths: &[&str]) -> Archive {
        let file = |path: &&str| File {
            path: (*path).to_owned(),
            kind: if path.ends_with('r') { Kind::Directory } else { Kind::File },
            mode: 0o600,
            uid: 7,
            gid: 8,
            owner: String::new(),
            group: String::new(),
            modified: (0, 0),
            size: 1,
            sha256: None,
            target: None,
            xattrs: BTreeMap::new(),
            content_at: None,
            changed: false,
        };
        Archive {
            roots: vec![],
            exclude: vec![],
            files: paths.iter().map(file).collect(),
            notes: vec![],
        }
    }

    #[test]
    fn a_copy_has_one_member_and_its_log() {
        let of = |paths: &[&str], wal: Option<&str>| {
            places(&archive(paths), Path::new("/data/etcd"), wal.map(Path::new))
        };
        let old = "/data/etcd/member.before-1/snap/db";
        let old_log = "/data/etcd/member.before-1/wal/1.wal";
        let (db, log) = ("/data/etcd/member/snap/db", "/data/etcd/member/wal/0.wal");
        let member = PathBuf::from("/data/etcd/member");
        assert_eq!(of(&[old, old_log, db, log], None), Ok((member.clone(), None)));
        // Another place than now is the same member.
        let moved = of(&["/srv/member/snap/db", "/srv/member/wal/0.wal"], None);
        assert_eq!(moved, Ok(("/srv/member".into(), None)));
        let apart = Ok((member, Some("/log/wal".into())));
        assert_eq!(of(&[db, old_log, "/log/wal/0.wal"], Some("/log/wal")), apart);
        assert_eq!(of(&[db, "/log/wal/0.wal"], Some("/elsewhere")), apart);
        let aside = "/log/wal.before-1/0.wal";
        assert_eq!(of(&[db, aside, "/log/wal/0.wal"], Some("/elsewhere")), apart);
        let beside = of(&[db, old_log, "/data/etcd/wal/0.wal"], Some("/data/etcd/wal"));
        assert_eq!(beside.unwrap().1, Some("/data/etcd/wal".into()));
        for (paths, wal, why) in [
            (&[old, old_log][..], None, "no database"),
            (&[db, log], Some("/log/wal"), "was in the data directory"),
            (&[db, "/log/wal/0.wal"], None, "was not in the data directory"),
            (&[db, old_log], Some("/log/wal"), "no log of it"),
            (&["/a/member/snap/db", "/b/member/snap/db"], None, "several members"),
        ] {
            let error = of(paths, wal).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert_eq!(owner_of(&archive(&["/a/member"]), Path::new("/a/member")), Some((7, 8)));
    }

    #[test]
    fn a_member_is_the_same_by_name_and_peers() {
        let program = |name: &str, peers: &str| Program {
            runs: Runs::Process,
            running: false,
            image: None,
            options: [("name", name), ("initial-advertise-peer-urls", peers)]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        };
        let was = program("n1", "http://10.0.0.1:2380,http://10.0.0.2:2380");
        let same = program("n1", "http://10.0.0.2:2380, http://10.0.0.1:2380");
        assert_eq!(other_member("n1", &was, &same), [""; 0]);
        let other = program("n2", "http://10.0.0.9:2380");
        assert_eq!(
            other_member("n1", &was, &other),
            [
                "n1: name was n1, and is n2",
                "n1: initial-advertise-peer-urls was \
                 http://10.0.0.1:2380,http://10.0.0.2:2380, and is http://10.0.0.9:2380",
            ]
        );
    }
}
