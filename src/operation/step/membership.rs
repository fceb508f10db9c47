//! Who is a member, who votes, who leads: changed one at a time, each looked for in the
//! leader's own list before and after.
//!
//! - A call whose answer was lost is not made twice: the list says whether it was heard.
//! - A learner votes only after it has said itself that it runs and is in step.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::act::not_stored;
use super::{Contents, MEMBER_ID};
use crate::operation::failure::Failure;
use crate::plan::shell::Command;
use crate::plan::{Context, Outputs, Probe, Reversal, StepError};

/// Until a change of the membership is taken: members have to be connected for a while.
const TAKEN: Duration = Duration::from_secs(120);
/// Until a learner is in step: it gets the whole store first.
const IN_STEP: Duration = Duration::from_secs(900);
/// Until all members are as they have to be.
const SETTLED: Duration = Duration::from_secs(180);
/// How often they are asked.
const PAUSE: Duration = Duration::from_millis(500);

/// A member as the leader lists it, and what it says itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberNow {
    /// Its id.
    pub id: String,
    /// Its name; empty until it started.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it started.
    pub client_urls: Vec<String>,
    /// Whether it has no vote.
    pub is_learner: bool,
    /// What it answered, or why it did not.
    pub answer: Result<Says, String>,
}

/// What a member says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Says {
    /// Whom it follows; `None` when there is no leader.
    pub leader: Option<String>,
    /// Its version.
    pub version: String,
    /// How many entries it has applied.
    pub applied: u64,
    /// Its store's revision.
    pub revision: i64,
}

impl MemberNow {
    /// Whether it answers and follows somebody.
    pub fn is_well(&self) -> bool {
        self.answer.as_ref().is_ok_and(|says| says.leader.is_some())
    }

    /// Whether it leads.
    pub fn leads(&self) -> bool {
        self.answer.as_ref().is_ok_and(|says| says.leader.as_deref() == Some(&self.id))
    }

    /// Its name, and where it has none its id.
    pub fn label(&self) -> &str {
        if self.name.is_empty() { &self.id } else { &self.name }
    }
}

/// Why a change of the membership was not taken.
#[derive(Debug)]
pub enum Refused {
    /// It may be taken later.
    NotYet(Failure),
    /// There is no such member.
    Gone(Failure),
    /// Not as things are.
    No(Failure),
}

impl Refused {
    /// What was said.
    pub fn into_failure(self) -> Failure {
        match self {
            Self::NotYet(failure) | Self::Gone(failure) | Self::No(failure) => failure,
        }
    }
}

/// The members of a live cluster, to be changed.
#[async_trait]
pub trait Membership: Debug + Send + Sync {
    /// All of them. A failure where none answers.
    async fn list(&self) -> Result<Vec<MemberNow>, Failure>;
    /// Adds one that has not started.
    async fn add(&self, peer_urls: &[String], learner: bool) -> Result<(), Refused>;
    /// Takes one out for good.
    async fn remove(&self, id: &str) -> Result<(), Refused>;
    /// Sets where its peers reach it.
    async fn update(&self, id: &str, peer_urls: &[String]) -> Result<(), Refused>;
    /// Lets a learner vote.
    async fn promote(&self, id: &str) -> Result<(), Refused>;
    /// Has another lead.
    async fn move_leader(&self, to: &str) -> Result<(), Refused>;
}

/// A change of the membership, or a look at it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case", deny_unknown_fields)]
pub enum MemberChange {
    /// Somebody else leads.
    MoveLeader {
        /// The id of the one that led.
        from: String,
        /// The id of the one that is to lead.
        to: String,
        /// Its name.
        name: String,
    },
    /// A member is taken out.
    Remove {
        /// Its id.
        id: String,
        /// What it is called.
        name: String,
    },
    /// A member is added.
    Add {
        /// What it will be called.
        name: String,
        /// Where its peers reach it.
        peer_urls: Vec<String>,
        /// Whether it has no vote at first.
        learner: bool,
        /// The ids that were there before: none of them is the new one.
        known: Vec<String>,
    },
    /// A learner gets its vote.
    Promote {
        /// What it is called.
        name: String,
        /// Its id; `None` for the one that an earlier step added.
        id: Option<String>,
    },
    /// Peers reach a member elsewhere.
    Update {
        /// Its id.
        id: String,
        /// What it is called.
        name: String,
        /// Where they reached it.
        before: Vec<String>,
        /// Where they are to reach it.
        after: Vec<String>,
    },
    /// The members are looked at: these and no others, all in step, with equal HashKV,
    /// and the cluster takes a write.
    Check {
        /// Names of the voters.
        voters: Vec<String>,
        /// Names of members that do not answer now, and need not afterwards.
        silent: Vec<String>,
    },
}

impl MemberChange {
    /// What it is, why, and how it is taken back.
    pub(super) fn describe(&self) -> (String, String, Reversal) {
        match self {
            Self::MoveLeader { name, .. } => (
                format!("have {name} lead"),
                "a leader that goes leaves an election behind".to_owned(),
                Reversal::Nothing,
            ),
            Self::Remove { name, id } => (
                format!("remove the member {name} ({id})"),
                "its vote counts as long as it is listed".to_owned(),
                Reversal::Final { why: "a removed member does not come back by its id".to_owned() },
            ),
            Self::Add { name, peer_urls, learner, .. } => (
                format!(
                    "add the member {name} at {}{}",
                    peer_urls.join(","),
                    if *learner { ", as a learner" } else { ", with a vote" }
                ),
                "it cannot join before it is listed".to_owned(),
                Reversal::Compensable {
                    by: "remove it".to_owned(),
                    leaves: "its id is used up".to_owned(),
                },
            ),
            Self::Promote { name, .. } => (
                format!("wait until {name} is in step; give it its vote"),
                "a learner does not count for the quorum".to_owned(),
                Reversal::Final { why: "a vote is taken by removing the member".to_owned() },
            ),
            Self::Update { name, after, .. } => (
                format!("have peers reach {name} at {}", after.join(",")),
                "the cluster knows another address of it".to_owned(),
                Reversal::Undoable { by: "set it back".to_owned() },
            ),
            Self::Check { voters, .. } => (
                format!("compare members and HashKV of {}; write something", voters.join(", ")),
                "the result is looked at, not assumed".to_owned(),
                Reversal::Nothing,
            ),
        }
    }

    pub(super) fn provides(&self) -> Vec<String> {
        match self {
            Self::Add { .. } => vec![MEMBER_ID.to_owned()],
            _ => Vec::new(),
        }
    }

    pub(super) fn needs(&self) -> Vec<String> {
        match self {
            Self::Promote { id: None, .. } => vec![MEMBER_ID.to_owned()],
            _ => Vec::new(),
        }
    }

    /// With stock commands.
    pub(super) fn shell(&self) -> Vec<Command> {
        let etcdctl = |words: &[&str]| {
            Command::new(None, ["etcdctl"].iter().chain(words).copied().map(str::to_owned))
        };
        match self {
            Self::MoveLeader { to, .. } => vec![etcdctl(&["move-leader", to])],
            Self::Remove { id, .. } => vec![etcdctl(&["member", "remove", id])],
            Self::Add { name, peer_urls, learner, .. } => {
                let urls = format!("--peer-urls={}", peer_urls.join(","));
                let mut words = vec!["member", "add", name, &urls];
                words.extend(learner.then_some("--learner"));
                let mut command = etcdctl(&words);
                // Its first line is: Member ID added to cluster …
                command.gives = None;
                vec![command]
            }
            Self::Promote { id: Some(id), .. } => vec![etcdctl(&["member", "promote", id])],
            Self::Promote { id: None, .. } => vec![etcdctl(&["member", "promote", "ID"])],
            Self::Update { id, after, .. } => {
                let urls = format!("--peer-urls={}", after.join(","));
                vec![etcdctl(&["member", "update", id, &urls])]
            }
            Self::Check { .. } => vec![
                Command::new(None, ["etcdvault", "status"]),
                etcdctl(&["endpoint", "hashkv", "--cluster", "-w", "table"]),
            ],
        }
    }
}

fn unread(failure: &Failure) -> StepError {
    not_stored(failure).without_effect()
}

async fn list(cluster: &dyn Membership) -> Result<Vec<MemberNow>, StepError> {
    cluster.list().await.map_err(|failure| unread(&failure))
}

fn sorted(urls: &[String]) -> Vec<&str> {
    let mut urls: Vec<&str> = urls.iter().map(|url| url.trim_end_matches('/')).collect();
    urls.sort_unstable();
    urls
}

pub(super) fn same(a: &[String], b: &[String]) -> bool {
    sorted(a) == sorted(b)
}

fn added<'a>(
    members: &'a [MemberNow],
    peer_urls: &[String],
    known: &[String],
) -> Option<&'a MemberNow> {
    members.iter().find(|it| !known.contains(&it.id) && same(&it.peer_urls, peer_urls))
}

fn done(is: bool) -> Probe {
    if is { Probe::Done(Outputs::new()) } else { Probe::NotDone }
}

/// The id of the member that gets its vote.
fn id_of<'a>(id: &'a Option<String>, context: &'a Context<'_>) -> Result<&'a str, StepError> {
    match id {
        Some(id) => Ok(id),
        None => context.output(MEMBER_ID),
    }
}

/// Whether it is so.
pub(super) async fn probe(
    change: &MemberChange,
    cluster: &dyn Membership,
    contents: &dyn Contents,
    context: &Context<'_>,
) -> Result<Probe, StepError> {
    if let MemberChange::Check { voters, silent } = change {
        let wrong = wrong(cluster, contents, voters, silent).await;
        return Ok(done(wrong.is_empty() && contents.write().await.is_ok()));
    }
    let members = list(cluster).await?;
    let find = |id: &str| members.iter().find(|member| member.id == id);
    Ok(match change {
        MemberChange::MoveLeader { from, .. } => {
            done(members.iter().any(|member| member.leads() && member.id != *from))
        }
        MemberChange::Remove { id, .. } => done(find(id).is_none()),
        MemberChange::Add { peer_urls, known, .. } => match added(&members, peer_urls, known) {
            Some(member) => Probe::Done([(MEMBER_ID.to_owned(), member.id.clone())].into()),
            None => Probe::NotDone,
        },
        MemberChange::Promote { id, .. } => {
            done(find(id_of(id, context)?).is_some_and(|member| !member.is_learner))
        }
        MemberChange::Update { id, name, before, after } => match find(id) {
            Some(member) if same(&member.peer_urls, after) => done(true),
            Some(member) if same(&member.peer_urls, before) => Probe::NotDone,
            Some(member) => {
                Probe::Partly(format!("peers reach {name} at {}", member.peer_urls.join(",")))
            }
            None => return Err(gone(name)),
        },
        MemberChange::Check { .. } => Probe::NotDone,
    })
}

fn gone(name: &str) -> StepError {
    StepError::new(format!("{name} is no member any more")).without_effect()
}

/// Whether the members are so that nothing is left to be called for.
fn is_done(change: &MemberChange, way: Way, members: &[MemberNow]) -> bool {
    let find = |id: &str| members.iter().find(|member| member.id == id);
    match (change, way) {
        (MemberChange::MoveLeader { from, .. }, _) => {
            members.iter().any(|member| member.leads() && member.id != *from)
        }
        (MemberChange::Remove { id, .. }, _) => find(id).is_none(),
        (MemberChange::Add { peer_urls, known, .. }, Way::Forth) => {
            added(members, peer_urls, known).is_some()
        }
        (MemberChange::Add { peer_urls, known, .. }, Way::Back) => {
            added(members, peer_urls, known).is_none()
        }
        (MemberChange::Update { id, after, .. }, Way::Forth) => {
            find(id).is_some_and(|member| same(&member.peer_urls, after))
        }
        (MemberChange::Update { id, before, .. }, Way::Back) => {
            find(id).is_some_and(|member| same(&member.peer_urls, before))
        }
        (MemberChange::Promote { .. } | MemberChange::Check { .. }, _) => true,
    }
}

/// A step is done, or taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Forth,
    Back,
}

/// The call that a change is.
async fn call(
    change: &MemberChange,
    way: Way,
    cluster: &dyn Membership,
    members: &[MemberNow],
) -> Result<(), Refused> {
    let removed = |result: Result<(), Refused>| match result {
        // Heard, and the answer was lost.
        Err(Refused::Gone(_)) => Ok(()),
        other => other,
    };
    match (change, way) {
        (MemberChange::MoveLeader { to, .. }, _) => cluster.move_leader(to).await,
        (MemberChange::Remove { id, .. }, _) => removed(cluster.remove(id).await),
        (MemberChange::Add { peer_urls, learner, .. }, Way::Forth) => {
            cluster.add(peer_urls, *learner).await
        }
        (MemberChange::Add { peer_urls, known, .. }, Way::Back) => {
            match added(members, peer_urls, known) {
                Some(member) => removed(cluster.remove(&member.id).await),
                None => Ok(()),
            }
        }
        (MemberChange::Update { id, after, .. }, Way::Forth) => cluster.update(id, after).await,
        (MemberChange::Update { id, before, .. }, Way::Back) => cluster.update(id, before).await,
        (MemberChange::Promote { .. } | MemberChange::Check { .. }, _) => Ok(()),
    }
}

/// What is waited for while a change is not taken.
fn waits(change: &MemberChange, way: Way) -> String {
    match (change, way) {
        (MemberChange::MoveLeader { name, .. }, _) => format!("{name} to lead"),
        (MemberChange::Remove { name, .. }, _) | (MemberChange::Add { name, .. }, Way::Back) => {
            format!("the cluster to remove {name}")
        }
        (MemberChange::Add { name, .. }, Way::Forth) => {
            format!("the cluster to take {name} in: all members have to be connected for a while")
        }
        (MemberChange::Update { name, .. }, _) => {
            format!("the cluster to take the address of {name}")
        }
        (MemberChange::Promote { name, .. }, _) => format!("{name} to get its vote"),
        (MemberChange::Check { .. }, _) => "all members to hold the same".to_owned(),
    }
}

/// Makes the call until it is taken or refused for good, or the list shows it done.
async fn insist(
    change: &MemberChange,
    way: Way,
    cluster: &dyn Membership,
    context: &Context<'_>,
) -> Result<(), StepError> {
    let until = Instant::now() + TAKEN;
    let mut told = false;
    loop {
        let last = match cluster.list().await {
            Ok(members) if is_done(change, way, &members) => return Ok(()),
            Ok(members) => match call(change, way, cluster, &members).await {
                Ok(()) => return Ok(()),
                Err(Refused::No(failure) | Refused::Gone(failure)) => {
                    return Err(not_stored(&failure));
                }
                Err(Refused::NotYet(failure)) => failure,
            },
            Err(failure) => failure,
        };
        if Instant::now() >= until {
            return Err(not_stored(&last));
        }
        if !told {
            context.waits(waits(change, way), TAKEN);
            told = true;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Does it.
pub(super) async fn apply(
    change: &MemberChange,
    cluster: &dyn Membership,
    contents: &dyn Contents,
    context: &Context<'_>,
) -> Result<(), StepError> {
    match change {
        MemberChange::Promote { name, id } => {
            promote(name, id_of(id, context)?, cluster, context).await
        }
        MemberChange::Check { voters, silent } => {
            check(voters, silent, cluster, contents, context).await
        }
        _ => insist(change, Way::Forth, cluster, context).await,
    }
}

pub(super) async fn promote(
    name: &str,
    id: &str,
    cluster: &dyn Membership,
    context: &Context<'_>,
) -> Result<(), StepError> {
    context.waits(format!("{name} to be in step"), IN_STEP);
    let until = Instant::now() + IN_STEP;
    loop {
        let last = match cluster.list().await {
            Ok(members) => {
                let member = members.iter().find(|member| member.id == id);
                let member = member.ok_or_else(|| gone(name))?;
                let leader = members.iter().find(|member| member.leads());
                let leader = leader.and_then(|leader| leader.answer.as_ref().ok());
                match (&member.answer, member.is_learner) {
                    (_, false) => return Ok(()),
                    (Ok(says), true) => match cluster.promote(id).await {
                        Ok(()) => return Ok(()),
                        Err(Refused::NotYet(failure)) => {
                            let behind =
                                leader.map_or(0, |it| it.applied.saturating_sub(says.applied));
                            context.progress(format!("{name} is {behind} entries behind"));
                            not_stored(&failure)
                        }
                        Err(Refused::No(failure) | Refused::Gone(failure)) => {
                            return Err(not_stored(&failure));
                        }
                    },
                    (Err(why), true) => {
                        context.progress(format!("{name} does not answer: {why}"));
                        StepError::new(format!("{name} does not answer: {why}"))
                    }
                }
            }
            Err(failure) => unread(&failure),
        };
        if Instant::now() >= until {
            let why = format!("{name} did not come into step: {}", last.why);
            let mut error = StepError::new(why);
            error.details = last.details;
            return Err(error.hint(
                "it has no vote and harms nobody; look into its log, then resume; or take it out \
                 with etcdvault member remove",
            ));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What is not as it has to be, a line each.
async fn wrong(
    cluster: &dyn Membership,
    contents: &dyn Contents,
    voters: &[String],
    silent: &[String],
) -> Vec<String> {
    let members = match cluster.list().await {
        Ok(members) => members,
        Err(failure) => return vec![unread(&failure).to_string()],
    };
    let mut wrong = Vec::new();
    for name in voters {
        match members.iter().find(|member| member.name == *name) {
            None => wrong.push(format!("{name} is not listed")),
            Some(member) if member.is_learner => wrong.push(format!("{name} has no vote")),
            Some(member) if member.is_well() || silent.contains(name) => {}
            Some(member) => {
                let why = member.answer.as_ref().err();
                let why = why.map_or("it knows no leader", String::as_str);
                wrong.push(format!("{name}: {why}"));
            }
        }
    }
    let voting = members.iter().filter(|member| !member.is_learner);
    for other in voting.filter(|member| !voters.contains(&member.name)) {
        wrong.push(format!("{} ({}) votes, too", other.label(), other.id));
    }
    if !wrong.is_empty() {
        return wrong;
    }
    let answers = match contents.members(0).await {
        Ok(answers) => answers,
        Err(failure) => return vec![unread(&failure).to_string()],
    };
    let answers: Vec<_> = answers.iter().filter(|it| voters.contains(&it.name)).collect();
    let first = answers.iter().find_map(|answer| answer.hash_kv);
    for answer in answers {
        match answer.hash_kv {
            Some(hash) if Some(hash) == first => {}
            Some(hash) => wrong.push(format!(
                "{} has HashKV {hash} at revision {}, and not {}",
                answer.name,
                answer.hashed_at,
                first.unwrap_or_default()
            )),
            None => wrong.push(format!(
                "{} tells no HashKV: {}",
                answer.name,
                answer.why.as_deref().unwrap_or("it does not say why")
            )),
        }
    }
    wrong
}

async fn check(
    voters: &[String],
    silent: &[String],
    cluster: &dyn Membership,
    contents: &dyn Contents,
    context: &Context<'_>,
) -> Result<(), StepError> {
    context.waits("all members to hold the same", SETTLED);
    let until = Instant::now() + SETTLED;
    loop {
        let mut wrong = wrong(cluster, contents, voters, silent).await;
        if wrong.is_empty() {
            match contents.write().await {
                Ok(()) => return Ok(()),
                Err(failure) => wrong.push(unread(&failure).to_string()),
            }
        }
        if Instant::now() >= until {
            let mut error = StepError::new("the cluster is not as it has to be").without_effect();
            error.details = wrong;
            return Err(error.hint("etcdvault member list shows its members"));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Takes it back.
pub(super) async fn undo(
    change: &MemberChange,
    cluster: &dyn Membership,
    context: &Context<'_>,
) -> Result<(), StepError> {
    match change {
        MemberChange::Add { .. } | MemberChange::Update { .. } => {
            insist(change, Way::Back, cluster, context).await
        }
        MemberChange::MoveLeader { .. } | MemberChange::Check { .. } => Ok(()),
        MemberChange::Remove { .. } | MemberChange::Promote { .. } => {
            Err(StepError::new("this is not taken back").without_effect())
        }
    }
}
