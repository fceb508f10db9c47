//! Plans that change the membership: pure, from the members as the leader lists them and
//! what was seen of a node.
//!
//! - What would leave the cluster without a quorum is no plan but a refusal.
//! - A member that leads hands over before anything else happens to it.
//! - A member goes out of the cluster before its data is set aside, and a new one is
//!   listed before it starts. There is no way back by undoing once one is out, or votes.

use std::path::PathBuf;

use chrono::{DateTime, Utc};

use super::leader::successor;
use super::quorum::{self, Vote, Voters};
use crate::operation::returning::data::Running;
use crate::operation::step::{
    ASIDE, Edit, How, Instance, MemberChange, MemberNow, Service, Step, aside,
};
use crate::plan::{Place, Plan, PlanId, Stage};
use crate::types::Version;

/// What holds for every plan.
#[derive(Debug, Clone)]
pub struct About {
    /// The plan's id.
    pub id: PlanId,
    /// When it is made.
    pub made: DateTime<Utc>,
    /// The cluster's name.
    pub cluster: String,
    /// The nodes that keep the journal and the lock.
    pub keepers: Vec<Place>,
}

/// A node on which a member is, or is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberNode {
    /// The node.
    pub node: Place,
    /// etcd on it.
    pub etcd: Running,
    /// The files of its settings that have to change.
    pub edits: Vec<Edit>,
    /// Units whose files are among them.
    pub reload: Vec<String>,
    /// Where its data is, or will be: `member`, and the log's directory elsewhere.
    pub places: Vec<PathBuf>,
    /// Those of them where there is something.
    pub data: Vec<PathBuf>,
}

/// How a new member joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joins {
    /// Without a vote first.
    Learner,
    /// With a vote at once.
    Voter,
}

/// Whether a learner of this version can be trusted to stay what it became.
pub fn has_learners(version: Version) -> bool {
    version >= Version::new(3, 4, 0)
        && !(Version::new(3, 5, 1)..Version::new(3, 5, 20)).contains(&version)
}

/// How members of these versions join. 3.5.1 to 3.5.19 do not store a promotion where 3.6
/// looks for it, and etcd before 3.4 has no learners: there with a vote at once.
pub fn joins(members: &[MemberNow]) -> Joins {
    let versions = members.iter().filter_map(|it| it.answer.as_ref().ok());
    let mut versions = versions.filter_map(|says| says.version.parse::<Version>().ok());
    if versions.any(|version| !has_learners(version)) { Joins::Voter } else { Joins::Learner }
}

/// Those that vote.
pub fn voters(members: &[MemberNow]) -> Voters {
    let voting = || members.iter().filter(|member| !member.is_learner);
    Voters { all: voting().count(), well: voting().filter(|member| member.is_well()).count() }
}

fn without<'a>(members: &'a [MemberNow], id: &str) -> impl Iterator<Item = &'a MemberNow> {
    members.iter().filter(move |member| member.id != id)
}

/// The last look: these vote, and those of them that are silent now may stay so.
fn check(members: &[MemberNow], gone: Option<&str>, new: Option<&str>) -> Step {
    let rest: Vec<&MemberNow> =
        without(members, gone.unwrap_or_default()).filter(|it| !it.is_learner).collect();
    let mut voters: Vec<String> = rest.iter().map(|member| member.name.clone()).collect();
    voters.extend(new.map(str::to_owned));
    let silent = rest.iter().filter(|it| !it.is_well()).map(|it| it.name.clone());
    let what = MemberChange::Check { voters, silent: silent.collect() };
    Step::Membership { what }
}

fn stage(plan: Plan<Step>, steps: Vec<Step>) -> Plan<Step> {
    if steps.is_empty() { plan } else { plan.stage(Stage::in_order(steps)) }
}

/// The leadership goes to somebody else where `member` has it.
fn hand_over(members: &[MemberNow], member: &MemberNow) -> Vec<Step> {
    let next = successor(members, &member.id).filter(|_| member.leads());
    let step = next.map(|next| {
        let (from, to) = (member.id.clone(), next.id.clone());
        let what = MemberChange::MoveLeader { from, to, name: next.label().to_owned() };
        Step::Membership { what }
    });
    step.into_iter().collect()
}

fn instance(node: &MemberNode, healthy: bool) -> Instance {
    Instance { node: node.node.clone(), how: node.etcd.how.clone(), healthy }
}

fn stop(node: &MemberNode) -> Vec<Step> {
    let instances = vec![instance(node, node.etcd.healthy)];
    match (&node.etcd.how, node.etcd.runs) {
        (_, true) => vec![Step::Stop { service: Service::Etcd, instances }],
        // A boot in the midst must not start it.
        (How::BootUnit { unit }, false) => {
            vec![Step::Enable { node: node.node.clone(), unit: unit.clone(), enabled: false }]
        }
        _ => Vec::new(),
    }
}

fn set_aside(node: &MemberNode) -> Vec<Step> {
    let paths = node.data.clone();
    let step = Step::SetAside { node: node.node.clone(), paths };
    if node.data.is_empty() { Vec::new() } else { vec![step] }
}

fn configure(node: &MemberNode) -> Vec<Step> {
    let (edits, reload) = (node.edits.clone(), node.reload.clone());
    let step = Step::Configure { node: node.node.clone(), edits, reload };
    if node.edits.is_empty() { Vec::new() } else { vec![step] }
}

/// Where it runs from now on: a member starts at boot.
fn started(node: &MemberNode) -> Instance {
    let how = match &node.etcd.how {
        How::Unit { unit } => How::BootUnit { unit: unit.clone() },
        other => other.clone(),
    };
    Instance { node: node.node.clone(), how, healthy: true }
}

fn remove(member: &MemberNow) -> Vec<Step> {
    let (id, name) = (member.id.clone(), member.label().to_owned());
    vec![Step::Membership { what: MemberChange::Remove { id, name } }]
}

fn kept(node: &MemberNode, id: PlanId) -> Option<String> {
    let path = |path: &PathBuf| format!("{}:{}", node.node, aside::place_of(path, id).display());
    let mut kept: Vec<String> = node.data.iter().map(path).collect();
    if !node.edits.is_empty() {
        kept.push(format!("{}:{ASIDE}/{id} (its settings)", node.node));
    }
    (!kept.is_empty()).then(|| kept.join(", "))
}

fn begin(about: &About, operation: &str, title: String, node: Option<&MemberNode>) -> Plan<Step> {
    let nodes = about.keepers.iter().cloned().chain(node.map(|node| node.node.clone()));
    Plan::new(about.id, about.cluster.clone(), operation, title, about.made, nodes)
}

/// The facts of a change of who votes, `after` it last.
fn arithmetic(
    mut plan: Plan<Step>,
    now: Voters,
    between: Option<(&str, Voters)>,
    after: Voters,
    warnings: Vec<String>,
) -> Plan<Step> {
    plan = plan.fact("Now", now.to_string());
    if let Some((when, voters)) = between {
        plan = plan.fact("Meanwhile", format!("{when} {voters}"));
    }
    plan = plan.fact("After", after.to_string());
    for warning in warnings {
        plan = plan.fact("Warning", warning);
    }
    plan
}

const NO_RETURN: &str = "a removed member does not come back by its id";

/// Takes `member` out. Where its node is known it is stopped there and its data is set
/// aside; `unreached` says why it is not known.
pub fn plan_remove(
    about: &About,
    members: &[MemberNow],
    member: &MemberNow,
    node: Option<&MemberNode>,
    unreached: Option<&str>,
) -> Result<Plan<Step>, String> {
    let now = voters(members);
    let vote = Vote::Goes { well: member.is_well() };
    let (after, warning) = match member.is_learner {
        true if now.works() => (now, None),
        true => return Err(format!("{now}; without a quorum no membership changes")),
        false => quorum::after(now, vote)?,
    };
    let label = member.label();
    let title = format!("Remove {label} ({}) from {}", member.id, about.cluster);
    let mut plan = begin(about, "member remove", title, node);
    plan = plan.fact("Lost", "nothing: the other members hold all data");
    if let Some(kept) = node.and_then(|node| kept(node, about.id)) {
        plan = plan.fact("Kept", kept);
    }
    plan = arithmetic(plan, now, None, after, warning.into_iter().collect());
    if let Some(why) = unreached {
        plan = plan.fact(
            "By hand",
            format!(
                "{label} is not stopped where it runs ({why}): stop it there, and never \
                     start it again on its data"
            ),
        );
    }
    plan = stage(plan, hand_over(members, member));
    let instead = "a new member takes its place: etcdvault member add NODE";
    // Stopped first, it leaves by its own will; where the rest could not agree on its
    // removal then, it has to help with it.
    let stops_first = now.without(member.is_well()).with(false).works() || member.is_learner;
    let stops = node.map(stop).unwrap_or_default();
    if stops_first {
        plan = stage(plan, stops);
        plan = stage(plan.no_return_from_here(NO_RETURN, instead), remove(member));
    } else {
        plan = stage(plan.no_return_from_here(NO_RETURN, instead), remove(member));
        plan = stage(plan, stops);
    }
    plan = stage(plan, node.map(set_aside).unwrap_or_default());
    Ok(stage(plan, vec![check(members, Some(&member.id), None)]))
}

/// Takes `member` out and has it join again without data: on the same node, with the same
/// name and address.
pub fn plan_repair(
    about: &About,
    members: &[MemberNow],
    member: &MemberNow,
    name: &str,
    node: &MemberNode,
) -> Result<Plan<Step>, String> {
    let now = voters(members);
    let (between, mut warnings) = match member.is_learner {
        true if now.works() => (now, Vec::new()),
        true => return Err(format!("{now}; without a quorum no membership changes")),
        false => {
            let (between, warning) = quorum::after(now, Vote::Goes { well: member.is_well() })?;
            (between, warning.into_iter().collect::<Vec<_>>())
        }
    };
    let joins = joins(members);
    let (after, warning) = match joins {
        Joins::Learner => quorum::after(between, Vote::ComesInStep)?,
        Joins::Voter => {
            let (_, warning) = quorum::after(between, Vote::Comes)?;
            (between.with(true), warning)
        }
    };
    // The warning of two that were two before is no news.
    warnings.extend(warning.filter(|_| after.all != now.all || joins == Joins::Voter));
    let title = format!("Repair {name} on {} of {}", node.node, about.cluster);
    let mut plan = begin(about, "member repair", title, Some(node));
    plan = plan.fact("Lost", "nothing: the member gets all data from the others");
    if let Some(kept) = kept(node, about.id) {
        plan = plan.fact("Kept", kept);
    }
    plan = plan.fact("Down", format!("{name} alone; whoever uses others notices nothing"));
    plan = arithmetic(plan, now, Some(("until it is back,", between)), after, warnings);
    plan = stage(plan, hand_over(members, member));
    plan = stage(plan, configure(node));
    let instead = format!("resume; or leave it out: etcdvault member remove {name}");
    let stops_first = now.without(member.is_well()).with(false).works() || member.is_learner;
    if stops_first {
        plan = stage(plan, stop(node));
        plan = stage(plan.no_return_from_here(NO_RETURN, instead), remove(member));
    } else {
        plan = stage(plan.no_return_from_here(NO_RETURN, instead), remove(member));
        plan = stage(plan, stop(node));
    }
    plan = stage(plan, set_aside(node));
    let rest: Vec<MemberNow> = without(members, &member.id).cloned().collect();
    let known = members.iter().map(|it| it.id.clone()).collect();
    plan = join(plan, name, member.peer_urls.clone(), known, node, joins);
    Ok(stage(plan, vec![check(&rest, None, Some(name))]))
}

/// Adds the member and starts it; as a learner it gets its vote when it is in step.
fn join(
    mut plan: Plan<Step>,
    name: &str,
    peer_urls: Vec<String>,
    known: Vec<String>,
    node: &MemberNode,
    joins: Joins,
) -> Plan<Step> {
    let learner = joins == Joins::Learner;
    let add = MemberChange::Add { name: name.to_owned(), peer_urls, learner, known };
    plan = stage(plan, vec![Step::Membership { what: add }]);
    let (instance, paths) = (started(node), node.places.clone());
    plan = stage(plan, vec![Step::StartNew { instance, paths }]);
    if learner {
        if plan.last_free_return.is_none() {
            plan = votes(plan, name);
        }
        let promote = MemberChange::Promote { name: name.to_owned(), id: None };
        plan = stage(plan, vec![Step::Membership { what: promote }]);
    }
    plan
}

fn votes(plan: Plan<Step>, name: &str) -> Plan<Step> {
    plan.no_return_from_here(
        format!("{name} has a vote"),
        format!("take it out again: etcdvault member remove {name}"),
    )
}

/// A member that is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newcomer {
    /// Its name.
    pub name: String,
    /// Where its peers will reach it.
    pub peer_urls: Vec<String>,
}

/// Adds a member on a node: settings, membership, start, in this order.
pub fn plan_add(
    about: &About,
    members: &[MemberNow],
    new: &Newcomer,
    node: &MemberNode,
) -> Result<Plan<Step>, String> {
    let now = voters(members);
    if let Some(unwell) = members.iter().find(|member| !member.is_well()) {
        let why = unwell.answer.as_ref().err().map_or("it knows no leader", String::as_str);
        return Err(format!(
            "{} is not well ({why}): etcd adds nobody before it is mended or taken out",
            unwell.label()
        ));
    }
    if let Some(learner) = members.iter().find(|member| member.is_learner) {
        return Err(format!("{} is a learner still: one at a time", learner.label()));
    }
    let joins = joins(members);
    let (after, warning) = match joins {
        Joins::Learner => quorum::after(now, Vote::ComesInStep)?,
        Joins::Voter => {
            let (_, warning) = quorum::after(now, Vote::Comes)?;
            (now.with(true), warning)
        }
    };
    let title = format!("Add {} on {} to {}", new.name, node.node, about.cluster);
    let mut plan = begin(about, "member add", title, Some(node));
    plan = plan.fact("Lost", "nothing");
    if let Some(kept) = kept(node, about.id) {
        plan = plan.fact("Kept", kept);
    }
    plan = arithmetic(plan, now, None, after, warning.into_iter().collect());
    plan = stage(plan, stop(node));
    plan = stage(plan, set_aside(node));
    plan = stage(plan, configure(node));
    let known = members.iter().map(|it| it.id.clone()).collect();
    if joins == Joins::Voter {
        // Its removal needs a quorum, of which it is a part from now on.
        plan = votes(plan, &new.name);
    }
    plan = join(plan, &new.name, new.peer_urls.clone(), known, node, joins);
    Ok(stage(plan, vec![check(members, None, Some(&new.name))]))
}

/// Has peers reach a member elsewhere: it listens there first.
pub fn plan_update(
    about: &About,
    members: &[MemberNow],
    member: &MemberNow,
    peer_urls: &[String],
    node: Option<&MemberNode>,
    name: &str,
) -> Result<Plan<Step>, String> {
    let now = voters(members);
    if !now.works() {
        return Err(format!("{now}; without a quorum no membership changes"));
    }
    let restarts = node.filter(|node| !node.edits.is_empty());
    if restarts.is_some() && !member.is_learner && now.all > 1 {
        // It is away for the moment of its restart.
        let then = now.without(member.is_well()).with(false);
        if !then.works() && now.all > 2 {
            return Err(format!("{} is restarted, and without it {then}", member.label()));
        }
    }
    let label = member.label();
    let title = format!("Have peers reach {label} of {} at {}", about.cluster, peer_urls.join(","));
    let mut plan = begin(about, "member update", title, node);
    plan = plan.fact("Lost", "nothing");
    if let Some(node) = restarts {
        let paths = format!("{}:{ASIDE}/{} (its settings)", node.node, about.id);
        plan = plan.fact("Kept", paths);
        plan = plan.fact(
            "Down",
            match now.all {
                1 => "the cluster, while its only member is restarted".to_owned(),
                2 => format!("writes, while {label} is restarted: two voters need both"),
                _ => format!("{label} alone, while it is restarted"),
            },
        );
        plan = stage(plan, hand_over(members, member));
        plan = stage(plan, stop(node));
        plan = stage(plan, configure(node));
        let instances = vec![started(node)];
        plan = stage(plan, vec![Step::Start { service: Service::Etcd, instances }]);
    }
    let what = MemberChange::Update {
        id: member.id.clone(),
        name: label.to_owned(),
        before: member.peer_urls.clone(),
        after: peer_urls.to_vec(),
    };
    plan = stage(plan, vec![Step::Membership { what }]);
    let mut then: Vec<MemberNow> = members.to_vec();
    then.iter_mut().filter(|it| it.id == member.id).for_each(|it| it.name = name.to_owned());
    Ok(stage(plan, vec![check(&then, None, None)]))
}

/// Gives a learner its vote.
pub fn plan_promote(
    about: &About,
    members: &[MemberNow],
    member: &MemberNow,
) -> Result<Plan<Step>, String> {
    if !member.is_learner {
        return Err(format!("{} has its vote already", member.label()));
    }
    let Ok(says) = &member.answer else {
        let why = member.answer.as_ref().err().map_or("", String::as_str);
        return Err(format!(
            "{} does not answer ({why}): only one that runs and is in step gets a vote",
            member.label()
        ));
    };
    if joins(members) == Joins::Voter {
        return Err(format!(
            "etcd {} forgets a promotion in its v3 store (etcd#19557): take the learner out and \
             let it join with a vote, or upgrade to 3.5.20 first",
            says.version
        ));
    }
    let now = voters(members);
    let (after, warning) = quorum::after(now, Vote::ComesInStep)?;
    let name = member.label();
    let title = format!("Give {name} ({}) its vote in {}", member.id, about.cluster);
    let mut plan = begin(about, "member promote", title, None);
    plan = arithmetic(plan, now, None, after, warning.into_iter().collect());
    plan = votes(plan, name);
    let what = MemberChange::Promote { name: name.to_owned(), id: Some(member.id.clone()) };
    plan = stage(plan, vec![Step::Membership { what }]);
    Ok(stage(plan, vec![check(members, None, Some(&member.name))]))
}
