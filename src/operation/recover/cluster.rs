//! `recover cluster`: what members left on their nodes is looked at, the best of it
//! becomes a backup, and the cluster is restored from that as from any other.
//!
//! - Looking changes nothing, and says of every node what is there or why it cannot be
//!   told.
//! - A cluster that still has a quorum, or could have one again as it stands, is not gone
//!   on from a single member, unless that is insisted on.
//! - What was looked at is what is recovered: where the logs ended stands in the plan,
//!   and is held against them when everything is stopped.

mod store;

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::join_all;
use serde::Serialize;

use self::store::{Chosen, Stored};
use super::{Found, Place, place, reason, strangers};
use crate::datadir::remains::{LogRemains, Remains, Use, rank};
use crate::dialect::{Specifiers, Unit, UnitFile};
use crate::event::Events;
use crate::node::{Node, NodeName, RecoverSpec, RemainsSpec};
use crate::observe::{Dialect, EtcdService, Finding, Look, Places, Runs, look as look_at};
use crate::operation::cluster::planner::{Mode, Remnant};
use crate::operation::cluster::{self, Reached};
use crate::operation::failure::{Failure, FailureKind};
use crate::operation::own_way;
use crate::operation::preflight::{self, Seen, SeenNode};
use crate::operation::step::Left;
use crate::plan;
use vault::layout::ClusterName;
use vault::repository::{Repository, WriteOptions};

pub use self::store::RecoveredBackup;

const WHAT: &str = super::WHAT;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The cluster, by its name in the vault and in the configuration.
    pub cluster: ClusterName,
    /// Nodes that are gone for good.
    pub dead: Vec<NodeName>,
    /// The node to go on from; `None` takes the best.
    pub from: Option<NodeName>,
    /// Whether it goes on although something stands in the way.
    pub force: bool,
    /// etcd's program on the node that is gone on from; `None` takes the member's own.
    pub etcd: Option<PathBuf>,
    /// Whether entries behind the commit are left out.
    pub drop_uncommitted: bool,
}

/// What is left of the members.
#[derive(Debug, Serialize)]
pub struct LookReport {
    /// What is left, the best first.
    pub places: Vec<Place>,
    /// The node that is gone on from; `None` where nothing is left.
    pub from: Option<String>,
    /// Why that one.
    pub reason: String,
    /// Places of another cluster than the best.
    pub strangers: Vec<PathBuf>,
    /// Nodes that are left out.
    pub dead: Vec<String>,
    /// Whether members have a leader now.
    pub has_leader: bool,
}

/// All that a look showed.
#[derive(Debug)]
pub struct Looked {
    /// For people.
    pub report: LookReport,
    /// What should be known, the worst first.
    pub findings: Vec<Finding>,
    seen: Seen,
    members: Vec<MemberLeft>,
    /// Which of them is gone on from.
    best: Option<usize>,
}

/// What is left on a node.
#[derive(Debug)]
struct MemberLeft {
    node: NodeName,
    data_dir: PathBuf,
    wal_dir: Option<PathBuf>,
    remains: Remains,
}

/// Looks at every member's remains on its node.
pub async fn look(
    reached: &Reached<'_>,
    options: &Options,
    events: &Events,
) -> Result<Looked, Failure> {
    let seen = cluster::look(None, &options.dead, reached).await?;
    for node in &seen.nodes {
        own_way::refused(node.seen.distribution, node.name(), WHAT)?;
    }
    let findings = preflight::judge(&seen);
    let with = seen.nodes.iter().filter_map(|node| Some((node, node.etcd()?)));
    let with: Vec<(&SeenNode, &EtcdService)> = with.collect();
    if with.is_empty() {
        return Err(refused("none of the nodes runs etcd, or is set up to"));
    }
    events.started("read what is left".to_owned(), None);
    let reading = with.iter().map(|(node, etcd)| read(reached.nodes, node, etcd));
    let read = join_all(reading).await;
    events.finished();
    let mut found = Vec::new();
    let mut members = Vec::new();
    for ((node, etcd), (in_use, remains)) in with.iter().zip(read) {
        let name = node.name().to_string();
        let path = PathBuf::from(format!("{name}:{}", etcd.data_dir.display()));
        let mut place = place(path, &remains);
        place.node = Some(name);
        place.running = in_use;
        if place.name.is_none() {
            place.name = Some(etcd.settings.name().to_owned());
        }
        found.push(Found { place, remains: remains.clone(), directory: None });
        let (data_dir, wal_dir) = (etcd.data_dir.clone(), etcd.wal_dir.clone());
        members.push(MemberLeft { node: node.name().clone(), data_dir, wal_dir, remains });
    }
    let mut order = rank(found.iter().map(|found| &found.remains));
    let mut reason = match &options.from {
        None => reason(&found, &order),
        Some(_) => String::new(),
    };
    if let Some(name) = &options.from {
        let at = members.iter().position(|member| member.node == *name);
        let at = at.ok_or_else(|| usage(format!("{name} has no member")))?;
        order.retain(|&position| position != at);
        order.insert(0, at);
        reason = format!("{name} was named");
    }
    let strangers = strangers(&found, order[0]);
    let best = Some(order[0]).filter(|&at| found[at].place.usable != Use::Nothing);
    if best.is_none() {
        reason = "nothing is left that could be used".to_owned();
    }
    let mut rows: Vec<Option<Place>> = found.into_iter().map(|found| Some(found.place)).collect();
    let report = LookReport {
        places: order.iter().filter_map(|&at| rows[at].take()).collect(),
        from: best.map(|at| members[at].node.to_string()),
        reason,
        strangers,
        dead: options.dead.iter().map(ToString::to_string).collect(),
        has_leader: seen.live.leader.is_some(),
    };
    Ok(Looked { report, findings, seen, members, best })
}

/// What is left on a node, and whether it is in use.
async fn read(nodes: &[Arc<dyn Node>], seen: &SeenNode, etcd: &EtcdService) -> (bool, Remains) {
    let unread = |why: String| Remains { log: None, database: None, problems: vec![why] };
    let Some(node) = nodes.iter().find(|node| node.name() == seen.name()) else {
        return (false, unread("it is not reached".to_owned()));
    };
    let (data_dir, wal_dir) = (etcd.data_dir.clone(), etcd.wal_dir.clone());
    match node.remains(RemainsSpec { data_dir, wal_dir, database: true }).await {
        Ok(found) => (found.in_use, found.remains),
        Err(error) => (false, unread(format!("{}: {}", error.act, error.why))),
    }
}

fn refused(why: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Error, WHAT).detail(why.into()).state("everything is as it was")
}

fn usage(why: String) -> Failure {
    Failure::new(FailureKind::Usage, WHAT).detail(why).state("everything is as it was")
}

impl Looked {
    /// An error where what was seen must not be gone on from.
    pub fn check(&self, options: &Options) -> Result<(), Failure> {
        let insist = "where it is meant all the same, insist with --force";
        if let Some(leader) = self.seen.live.leader.as_ref().filter(|_| !options.force) {
            let why = format!("the cluster has a quorum: {leader} leads");
            return Err(refused(why)
                .hint(format!("a member alone is mended with etcdvault member repair; {insist}")));
        }
        let whole = self.whole();
        if whole.len() * 2 > self.voters() && !options.force {
            let why =
                format!("a majority is there: {} have all that etcd starts from", whole.join(", "));
            return Err(refused(why).hint(format!(
                "start etcd on them, and see why they do not reach each other: etcdvault \
                 preflight; {insist}"
            )));
        }
        if options.from.is_none()
            && let Some(stranger) = self.report.strangers.first()
        {
            let why = format!("{} is of another cluster than the best", stranger.display());
            return Err(refused(why).hint(
                "look at both with etcdvault recover cluster --dry-run, and name the node to go \
                 on from: --from NODE",
            ));
        }
        if self.best.is_none() {
            let mut failure = Failure::new(FailureKind::Corrupt, WHAT)
                .detail("nothing is left that could be used")
                .state("everything is as it was");
            for place in &self.report.places {
                for line in place.why.iter().chain(&place.problems) {
                    failure = failure.detail(format!("{}: {line}", place.path.display()));
                }
            }
            return Err(failure.hint(
                "restore a backup: etcdvault restore cluster; or look for copies of member/snap/db",
            ));
        }
        let options = cluster::Options {
            cluster: options.cluster.clone(),
            dead: options.dead.clone(),
            save: true,
            force: options.force,
            other_cluster: true,
            bump_revision: None,
            remnant: None,
            mode: Mode::Parallel,
            map: Vec::new(),
        };
        cluster::unblocked(&self.seen, &[], &self.findings, &options)
    }

    /// Nodes with everything of the cluster that is gone on from.
    fn whole(&self) -> Vec<&str> {
        let cluster = |member: &MemberLeft| member.remains.log.as_ref().and_then(|it| it.cluster);
        let ours = self.best.and_then(|best| cluster(&self.members[best]));
        let whole = self
            .members
            .iter()
            .filter(|member| member.remains.usable().0 == Use::Start && cluster(member) == ours);
        whole.map(|member| member.node.as_str()).collect()
    }

    /// How many members vote.
    fn voters(&self) -> usize {
        let best = self.best.and_then(|best| self.members[best].remains.database.as_ref());
        let listed = best.map_or(0, |database| {
            database.content.members.iter().filter(|member| !member.is_learner).count()
        });
        // Up to 3.4 members that were removed may still be listed.
        match listed {
            0 => self.members.len() + self.seen.unreached.len(),
            listed => listed.max(self.members.len()),
        }
    }

    /// Where every member's log ended.
    fn left(&self) -> Result<Vec<Left>, Failure> {
        let each = self.members.iter().map(|member| {
            let node = plan::Place::new(member.node.as_str()).map_err(|e| refused(e.to_string()));
            Ok(Left {
                node: node?,
                data_dir: member.data_dir.clone(),
                wal_dir: member.wal_dir.clone(),
                last: member.remains.log.as_ref().and_then(LogRemains::last),
            })
        });
        each.collect()
    }

    /// Makes a backup of the best of it, and says what a plan has to know of it.
    pub async fn store(
        &self,
        repository: &Repository,
        nodes: &[Arc<dyn Node>],
        options: &Options,
        write: &WriteOptions,
        events: &Events,
    ) -> Result<(RecoveredBackup, Remnant), Failure> {
        let best = self.best.ok_or_else(|| refused("nothing is left that could be used"))?;
        let member = &self.members[best];
        let node = nodes.iter().find(|node| *node.name() == member.node);
        let node = node.ok_or_else(|| refused(format!("{} is not reached", member.node)))?;
        let log = member.remains.log.as_ref();
        let starts = member.remains.usable().0 == Use::Start;
        let etcd = match (&options.etcd, starts) {
            (Some(etcd), _) => etcd.clone(),
            // Nothing could be brought in.
            (None, false) => PathBuf::from("etcd"),
            (None, true) => self.program(node).await?,
        };
        let spec = RecoverSpec {
            data_dir: member.data_dir.clone(),
            wal_dir: member.wal_dir.clone(),
            etcd,
            last: log.and_then(LogRemains::last),
            drop_uncommitted: options.drop_uncommitted,
        };
        let chosen = Chosen {
            cluster: &options.cluster,
            place: format!("{}:{}", member.node, member.data_dir.display()),
            member: self.report.places.first().and_then(|place| place.name.clone()),
            log,
        };
        let Stored { backup, kept, dropped } =
            store::store(repository, node, spec, chosen, write, events).await?;
        let remnant = Remnant {
            node: member.node.to_string(),
            reason: self.report.reason.clone(),
            kept,
            dropped,
            left: self.left()?,
        };
        Ok((backup, remnant))
    }

    /// The program that the node's member runs, or is set up to run.
    async fn program(&self, node: &Arc<dyn Node>) -> Result<PathBuf, Failure> {
        let seen = self.seen.nodes.iter().find(|seen| seen.name() == node.name());
        let etcd = seen.and_then(SeenNode::etcd);
        if let Some(running) = etcd.and_then(|etcd| etcd.running.as_ref()) {
            return Ok(PathBuf::from(format!("/proc/{}/exe", running.pid)));
        }
        let unknown = || {
            refused(format!(
                "which etcd program is to read the log on {} is not known",
                node.name()
            ))
            .hint(
                "--etcd PROGRAM names one on that node, of the version that the members ran. \
                     Where etcd runs in a pod it is in the image alone: start the pod, or put the \
                     file of the same release there",
            )
        };
        let looked = look_at(&**node, &Places::default()).await;
        let looked = looked.map_err(|error| refused("a node was lost").because(error))?;
        let program = looked.seen.member().and_then(|etcd| of_unit(&looked, etcd));
        program.ok_or_else(unknown)
    }
}

/// The program that a unit starts.
fn of_unit(look: &Look, etcd: &EtcdService) -> Option<PathBuf> {
    let Runs::Unit { unit, .. } = &etcd.runs else { return None };
    let texts = |dialect: Dialect| {
        let files = etcd.files.iter().filter(move |file| file.dialect == dialect);
        files.filter_map(|file| Some((file.path.to_string_lossy(), look.texts.get(&file.path)?)))
    };
    let parsed =
        |dialect| texts(dialect).filter_map(|(path, text)| UnitFile::parse(&path, text).ok());
    let main = parsed(Dialect::Unit).next()?;
    let specifiers = Specifiers::of(unit, Some(&look.seen.facts.hostname));
    let merged = Unit::merge(main, parsed(Dialect::DropIn).collect(), specifiers);
    let environment: Vec<(String, String)> = texts(Dialect::EnvironmentFile)
        .map(|(path, text)| (path.into_owned(), text.clone()))
        .collect();
    let invocation = merged.invocation(&environment).ok()?;
    Some(PathBuf::from(invocation.program())).filter(|program| program.is_absolute())
}
