//! A member joins a cluster that its own plan began: without data, listed, started, with a
//! vote when it is in step.
//!
//! - It never begins on less than it had: one that is listed, has run and has lost what it
//!   wrote is taken out and listed anew. etcd cannot go on with a log that forgot.
//! - Taken back, it leaves the cluster while it still runs, where the cluster hears of it;
//!   that cluster is taken back after it. What it wrote is kept.
//! - Whether it learns first is decided by what the members say that run then: nobody has
//!   to have been asked before.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::act::not_stored;
use super::membership::{self, Membership};
use super::service::{self, State};
use super::{Instance, MemberNow, NewMember, Refused, Service, aside, data};
use crate::node::Node;
use crate::operation::member::planner::{Joins, joins};
use crate::plan::shell::Command;
use crate::plan::{Context, Probe, StepError};

/// Until the cluster lists it: all members have to be connected for a while.
const LISTED: Duration = Duration::from_secs(180);
/// Until it is one among the others.
const SETTLED: Duration = Duration::from_secs(180);
/// Until the cluster has let it go on the way back, where it goes on without that.
const LEAVES: Duration = Duration::from_secs(30);
/// Until the cluster says who is a member, where one of them may be about to lead.
const ASKED: Duration = Duration::from_secs(60);
/// How often it is asked.
const PAUSE: Duration = Duration::from_millis(500);

/// Who joins, and where.
pub(super) struct Joining<'a> {
    pub(super) node: &'a dyn Node,
    pub(super) member: &'a NewMember,
    pub(super) instance: &'a Instance,
    pub(super) peer_urls: &'a [String],
}

impl Joining<'_> {
    fn listed<'m>(&self, members: &'m [MemberNow]) -> Option<&'m MemberNow> {
        members.iter().find(|member| membership::same(&member.peer_urls, self.peer_urls))
    }

    async fn state(&self) -> Result<State, StepError> {
        service::state(self.node, Service::Etcd, &self.instance.how).await
    }

    async fn has_data(&self) -> Result<bool, StepError> {
        for place in self.member.places() {
            if data::stands(self.node, &place).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Stops it, and keeps what it wrote under another name.
    async fn withdraw(&self, context: &Context<'_>) -> Result<(), StepError> {
        service::stop(self.node, context, Service::Etcd, &self.instance.how).await?;
        aside::take_back(self.node, &self.member.places(), context).await
    }
}

/// Where a member writes: the log's directory where that lies elsewhere, and `member`.
impl NewMember {
    pub(super) fn places(&self) -> Vec<PathBuf> {
        self.wal_dir.iter().cloned().chain([self.data_dir.join("member")]).collect()
    }
}

/// The members, as soon as one of them says who they are.
async fn list(cluster: &dyn Membership) -> Result<Vec<MemberNow>, StepError> {
    let until = Instant::now() + ASKED;
    loop {
        match cluster.list().await {
            Ok(members) => return Ok(members),
            Err(failure) if Instant::now() >= until => {
                return Err(not_stored(&failure).without_effect());
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Whether it runs and votes. One that does not run has not joined, whoever lists it.
pub(super) async fn probe(
    joining: &Joining<'_>,
    cluster: Result<&dyn Membership, StepError>,
) -> Result<Probe, StepError> {
    match joining.state().await? {
        State::Stopped | State::Failed => return Ok(Probe::NotDone),
        State::Between => {
            let why = format!("etcd on {} neither runs nor is stopped", joining.node.name());
            return Ok(Probe::Partly(why));
        }
        State::Runs => {}
    }
    let members = list(cluster?).await?;
    let name = &joining.member.name;
    Ok(match joining.listed(&members) {
        Some(member) if !member.is_learner && member.name == *name => Probe::Done([].into()),
        Some(member) if member.is_learner => Probe::Partly(format!("{name} has no vote yet")),
        Some(_) => Probe::Partly(format!("{name} has not told its name yet")),
        None => Probe::Partly(format!("{name} runs, and is not listed")),
    })
}

/// Lets it join, from wherever it is.
pub(super) async fn apply(
    joining: &Joining<'_>,
    cluster: &dyn Membership,
    context: &Context<'_>,
) -> Result<(), StepError> {
    let (name, node) = (&joining.member.name, joining.node.name());
    let done = join(joining, cluster, context).await;
    done.map_err(|mut error| {
        error.hint = Some(format!(
            "as long as {name} has no vote the cluster works without it: mend {node}, then \
             etcdvault resume {}; or go back",
            context.plan
        ));
        error
    })
}

async fn join(
    joining: &Joining<'_>,
    cluster: &dyn Membership,
    context: &Context<'_>,
) -> Result<(), StepError> {
    let name = &joining.member.name;
    let id = be_listed(joining, cluster, context).await?;
    data::make_data_dir(joining.node, joining.member).await?;
    service::start(joining.node, context, Service::Etcd, &joining.instance.how).await?;
    membership::promote(name, &id, cluster, context).await?;
    let until = Instant::now() + SETTLED;
    loop {
        let last = match cluster.list().await {
            Ok(members) => match members.iter().find(|member| member.id == id) {
                Some(it) if it.is_well() && !it.is_learner && it.name == *name => return Ok(()),
                Some(it) => match &it.answer {
                    Err(why) => format!("{name} does not answer: {why}"),
                    Ok(says) if says.leader.is_none() => format!("{name} knows no leader"),
                    Ok(_) => format!("{name} is not listed as one that votes"),
                },
                None => return Err(StepError::new(format!("{name} is no member any more"))),
            },
            Err(failure) => not_stored(&failure).to_string(),
        };
        if Instant::now() >= until {
            return Err(StepError::new(last));
        }
        context.waits(format!("{name} to be one of them"), SETTLED);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Makes the cluster list it as what is on its node, and returns its id.
async fn be_listed(
    joining: &Joining<'_>,
    cluster: &dyn Membership,
    context: &Context<'_>,
) -> Result<String, StepError> {
    let until = Instant::now() + LISTED;
    let mut told = false;
    loop {
        let last = match cluster.list().await {
            Ok(members) => match step(joining, cluster, &members, context).await? {
                Ok(id) => return Ok(id),
                // What was called for shows in the list.
                Err(None) => continue,
                Err(Some(failure)) => failure,
            },
            Err(failure) => not_stored(&failure),
        };
        if Instant::now() >= until {
            return Err(last);
        }
        if !told {
            let what = format!("the cluster to take {} in", joining.member.name);
            context.waits(what, LISTED);
            told = true;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One step on the way to being listed: the id where it is, or why not yet.
async fn step(
    joining: &Joining<'_>,
    cluster: &dyn Membership,
    members: &[MemberNow],
    context: &Context<'_>,
) -> Result<Result<String, Option<StepError>>, StepError> {
    let has_data = joining.has_data().await?;
    let called = match joining.listed(members) {
        Some(member) if has_data || member.name.is_empty() => return Ok(Ok(member.id.clone())),
        // It ran, and what it wrote was taken back.
        Some(member) => cluster.remove(&member.id).await,
        None => {
            if has_data {
                joining.withdraw(context).await?;
            }
            cluster.add(joining.peer_urls, joins(members) == Joins::Learner).await
        }
    };
    match called {
        Ok(()) | Err(Refused::Gone(_)) => Ok(Err(None)),
        Err(Refused::NotYet(failure)) => Ok(Err(Some(not_stored(&failure)))),
        Err(Refused::No(failure)) => Err(not_stored(&failure)),
    }
}

/// Takes it back. The cluster that it joined is taken back after it: that it hears of it
/// helps who goes forward again, and is no condition.
pub(super) async fn undo(
    joining: &Joining<'_>,
    cluster: Option<&dyn Membership>,
    context: &Context<'_>,
) -> Result<(), StepError> {
    if let Some(cluster) = cluster {
        leave(joining, cluster, context).await;
    }
    joining.withdraw(context).await?;
    data::remove_made_dirs(joining.node, joining.member).await
}

async fn leave(joining: &Joining<'_>, cluster: &dyn Membership, context: &Context<'_>) {
    let until = Instant::now() + LEAVES;
    // Without an answer there is nobody who could let it go.
    while let Ok(members) = cluster.list().await {
        let Some(member) = joining.listed(&members) else { return };
        match cluster.remove(&member.id).await {
            Err(Refused::NotYet(_)) if Instant::now() < until => {}
            _ => return,
        }
        context.waits(format!("the cluster to let {} go", joining.member.name), LEAVES);
        tokio::time::sleep(PAUSE).await;
    }
}

/// With stock commands.
pub(super) fn shell(member: &NewMember, instance: &Instance, peer_urls: &[String]) -> Vec<Command> {
    let urls = format!("--peer-urls={}", peer_urls.join(","));
    let add = ["etcdctl", "member", "add", &member.name, &urls, "--learner"];
    // Its first line is: Member ID added to cluster …
    let promote = ["etcdctl", "member", "promote", "ID"];
    let mut commands = vec![Command::new(None, add)];
    commands.extend(service::shell_start(Service::Etcd, std::slice::from_ref(instance)));
    commands.push(Command::new(None, promote));
    commands
}
