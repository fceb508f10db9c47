//! Data directories: built beside the present ones, put in their place, looked at.
//!
//! - One set for all members: every directory is of one snapshot and one cluster that
//!   never was, so that no member of the old cluster is taken for one of the new one.
//! - What stood there is renamed, never removed, and so is what was built as soon as
//!   etcd may have written to it.
//! - What was built is on record beside the journal before it is used: its HashKV, and
//!   its digest, by which it is known again.
//! - A copy of a stopped member's directory is unpacked in the same way, and the members
//!   are those that they were: what they hold is compared among them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::act::not_stored;
use super::file::{digest, failed};
use super::{ASIDE, Contents, CopiedMember, MemberAnswer, NewCluster, NewMember};
use crate::node::{
    Attributes, BuiltMember, MemberSpec, Node, NodeErrorKind, SpecHash, TreeDigest, WriteHow,
    WriteLike,
};
use crate::operation::failure::Failure;
use crate::operation::journal::make_dirs;
use crate::plan::shell::Command;
use crate::plan::{Context, PlanId, Probe, StepError};
use crate::types::{HexId, Version};

/// A note of what was built is at most so large.
const MAX_NOTE: u64 = 64 << 10;
/// Until all members answer as they have to.
const AGREE: Duration = Duration::from_secs(180);
/// How often they are asked.
const PAUSE: Duration = Duration::from_secs(1);

/// A plan that is taken back again and again keeps so many directories that etcd ran on.
const KEPT: u32 = 20;

/// The output with the HashKV that every member has to have.
pub(super) const HASH_KV: &str = "hash-kv";

/// What is on record of a directory that was built, or unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Note {
    /// From a snapshot.
    Built(BuiltMember),
    /// From a copy.
    Unpacked(TreeDigest),
}

impl Note {
    fn digest(&self) -> &TreeDigest {
        match self {
            Self::Built(built) => &built.digest,
            Self::Unpacked(digest) => digest,
        }
    }
}

/// Where the parts of a member's data are.
pub(super) struct Part {
    /// Where etcd looks for it.
    pub(super) place: PathBuf,
    /// Where it is built.
    new: PathBuf,
    /// Where what stood there goes.
    pub(super) before: PathBuf,
    /// Where it goes when it is taken back after etcd ran on it.
    pub(super) returned: PathBuf,
    /// Whether something stood there.
    had: bool,
}

pub(super) fn part(place: PathBuf, had: bool, plan: PlanId) -> Part {
    let name = place.file_name().unwrap_or_default().to_os_string();
    let beside = |what: &str| {
        let mut name = name.clone();
        name.push(format!(".{what}-{plan}"));
        place.with_file_name(name)
    };
    let (new, before, returned) = (beside("new"), beside("before"), beside("returned"));
    Part { place, new, before, returned, had }
}

impl NewMember {
    /// The directory `member`, and the log's where that lies elsewhere. The log comes
    /// first: what is complete has its `member`.
    fn parts(&self, plan: PlanId) -> Vec<Part> {
        let mut parts = Vec::new();
        if let Some(wal) = &self.wal_dir {
            parts.push(part(wal.clone(), self.had_wal, plan));
        }
        parts.push(part(self.data_dir.join("member"), self.had, plan));
        parts
    }

    /// Where the data of before is, for people.
    pub(crate) fn kept(&self, plan: PlanId) -> Vec<PathBuf> {
        let parts = self.parts(plan);
        parts.into_iter().filter(|part| part.had).map(|part| part.before).collect()
    }

    fn member(&self, plan: PlanId) -> Part {
        part(self.data_dir.join("member"), self.had, plan)
    }

    fn note(&self, plan: PlanId) -> PathBuf {
        Path::new(ASIDE).join(plan.to_string()).join("built.json")
    }
}

fn spec(member: &NewMember, cluster: &NewCluster, plan: PlanId) -> Result<MemberSpec, StepError> {
    let wal = member.wal_dir.as_ref().map(|wal| part(wal.clone(), false, plan).new);
    Ok(MemberSpec {
        name: member.name.clone(),
        initial_cluster: cluster.initial_cluster.clone(),
        token: cluster.token.clone(),
        bump_revision: cluster.bump_revision,
        wal,
        owner: member.owner,
        etcd_version: cluster.etcd_version.clone(),
        size: cluster.size,
        sha256: digest(&cluster.sha256)?,
        hash_kv: cluster.hash_kv.map(|hash| SpecHash {
            revision: hash.revision,
            compact_revision: (hash.compact_revision >= 0).then_some(hash.compact_revision),
            hash: hash.hash,
        }),
    })
}

pub(super) async fn stands(node: &dyn Node, path: &Path) -> Result<bool, StepError> {
    Ok(node.stat(path).await.map_err(failed)?.is_some())
}

async fn note(node: &dyn Node, path: &Path) -> Result<Option<Note>, StepError> {
    match node.read(path, MAX_NOTE).await {
        Ok(file) => match serde_json::from_slice(&file.bytes) {
            Ok(note) => Ok(Some(note)),
            Err(error) => {
                Err(StepError::new(format!("{} cannot be read", path.display())).because(error))
            }
        },
        Err(error) if error.kind == NodeErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

async fn remove_note(node: &dyn Node, path: &Path) -> Result<(), StepError> {
    let bytes = match node.read(path, MAX_NOTE).await {
        Ok(file) => file.bytes,
        Err(error) if error.kind == NodeErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    match node.remove_own(path, Sha256::digest(&bytes).into()).await {
        Err(error) if error.kind == NodeErrorKind::NotFound => Ok(()),
        other => other.map_err(failed),
    }
}

/// How far the building of one member is: what is on record when it is done.
enum Built {
    No,
    Partly,
    Yes(Note),
}

async fn built(node: &dyn Node, member: &NewMember, plan: PlanId) -> Result<Built, StepError> {
    let part = member.member(plan);
    let there = stands(node, &part.new).await?;
    Ok(match (note(node, &member.note(plan)).await?, there) {
        (Some(note), true) => Built::Yes(note),
        (None, false) => Built::No,
        _ => Built::Partly,
    })
}

/// Whether every member is built, and the HashKV of all.
pub(super) async fn probe_built(
    nodes: &[(&dyn Node, &NewMember)],
    context: &Context<'_>,
) -> Result<Probe, StepError> {
    let looks = nodes.iter().map(|(node, member)| built(*node, member, context.plan));
    let (mut done, mut none, mut hashes) = (0, 0, Vec::new());
    for look in join_all(looks).await {
        match look? {
            Built::No => none += 1,
            Built::Partly => {}
            Built::Yes(note) => {
                done += 1;
                if let Note::Built(built) = note {
                    hashes.push(built.hash_kv);
                }
            }
        }
    }
    hashes.dedup();
    Ok(match hashes[..] {
        [hash] if done == nodes.len() => {
            Probe::Done([(HASH_KV.to_owned(), hash.to_string())].into())
        }
        _ if done == nodes.len() => {
            Probe::Partly("the directories that were built are not of one store".to_owned())
        }
        _ if none == nodes.len() => Probe::NotDone,
        _ => Probe::Partly(format!("{done} of {} directories are built", nodes.len())),
    })
}

/// Whether every copy is unpacked.
pub(super) async fn probe_unpacked(
    nodes: &[(&dyn Node, &NewMember)],
    context: &Context<'_>,
) -> Result<Probe, StepError> {
    let looks = nodes.iter().map(|(node, member)| built(*node, member, context.plan));
    let (mut done, mut none) = (0, 0);
    for look in join_all(looks).await {
        match look? {
            Built::No => none += 1,
            Built::Partly => {}
            Built::Yes(_) => done += 1,
        }
    }
    Ok(match (done, none) {
        (all, _) if all == nodes.len() => Probe::Done([].into()),
        (_, all) if all == nodes.len() => Probe::NotDone,
        _ => Probe::Partly(format!("{done} of {} directories are unpacked", nodes.len())),
    })
}

/// Unpacks the copy of one member's directory.
pub(super) async fn unpack(
    node: &dyn Node,
    copied: &CopiedMember,
    backup: &str,
    contents: &dyn Contents,
    context: &Context<'_>,
) -> Result<(), StepError> {
    let (plan, member) = (context.plan, &copied.member);
    if !is_begun_anew(node, member, plan).await? {
        return Ok(());
    }
    let place = member.member(plan).new;
    context.progress(format!("unpacking {} on {}", place.display(), node.name()));
    let from_copy = async |from: &Path, to: &Path| {
        let tar = contents.copy(backup, node.name(), from).await;
        let tar = tar.map_err(|failure| not_stored(&failure))?;
        node.unpack_tree(to, tar).await.map_err(failed)
    };
    if let (Some(wal), Some(from)) = (&member.wal_dir, &copied.wal_from) {
        from_copy(from, &part(wal.clone(), false, plan).new).await?;
    }
    let digest = from_copy(&copied.from, &place).await?;
    write_note(node, &member.note(plan), &Note::Unpacked(digest)).await
}

async fn write_note(node: &dyn Node, path: &Path, note: &Note) -> Result<(), StepError> {
    let bytes = serde_json::to_vec(note)
        .map_err(|error| StepError::new("the record of what was built").because(error))?;
    let how = WriteHow { like: WriteLike::Attributes(root(0o600)), replaces: None };
    node.write(path, &bytes, how).await.map_err(failed)
}

/// Makes room for what is built; false where it is built already.
async fn is_begun_anew(
    node: &dyn Node,
    member: &NewMember,
    plan: PlanId,
) -> Result<bool, StepError> {
    match built(node, member, plan).await? {
        Built::Yes(_) => return Ok(false),
        Built::No => {}
        // Without a record nobody has used it, and with one alone there is nothing.
        Built::Partly => take_build_away(node, member, plan).await?,
    }
    if let Some(wal) = &member.wal_dir {
        // Killed between the two, only the log's directory stands.
        remove_tree(node, &part(wal.clone(), false, plan).new).await?;
    }
    make_data_dir(node, member).await?;
    let note = member.note(plan);
    make_dirs(node, note.parent().unwrap_or(Path::new(ASIDE))).await.map_err(failed)?;
    Ok(true)
}

/// Builds one member's directory from the snapshot of `backup`.
pub(super) async fn build(
    node: &dyn Node,
    member: &NewMember,
    cluster: &NewCluster,
    backup: &str,
    contents: &dyn Contents,
    context: &Context<'_>,
) -> Result<(), StepError> {
    let plan = context.plan;
    if !is_begun_anew(node, member, plan).await? {
        return Ok(());
    }
    let place = member.member(plan).new;
    let spec = spec(member, cluster, plan)?;
    context.progress(format!("building {} on {}", place.display(), node.name()));
    let snapshot =
        contents.snapshot(backup, node.name()).await.map_err(|failure| not_stored(&failure))?;
    let built = node.build_member(&place, spec, snapshot).await.map_err(failed)?;
    if HexId(built.cluster_id).to_string() != cluster.id {
        let why = format!("{} built a member of another cluster", node.name());
        return Err(StepError::new(why));
    }
    write_note(node, &member.note(plan), &Note::Built(built)).await
}

fn root(mode: u32) -> Attributes {
    let xattrs = Default::default();
    Attributes { uid: 0, gid: 0, owner: None, group: None, mode, xattrs }
}

/// A data directory that is gone is made again: for its owner alone.
pub(super) async fn make_data_dir(node: &dyn Node, member: &NewMember) -> Result<(), StepError> {
    let mut missing: Vec<&Path> = Vec::new();
    let parents = member.wal_dir.as_deref().and_then(Path::parent);
    let mut wanted: Vec<&Path> = member.missing.iter().map(PathBuf::as_path).collect();
    wanted.extend([Some(&*member.data_dir), parents].into_iter().flatten());
    for path in wanted {
        if !stands(node, path).await? {
            missing.push(path);
        }
    }
    for path in missing {
        let (uid, gid) = member.owner;
        let like = WriteLike::Attributes(Attributes { uid, gid, ..root(0o700) });
        match node.make_dir(path, like).await {
            Err(error) if error.kind == NodeErrorKind::AlreadyExists => {}
            other => other.map_err(failed)?,
        }
    }
    Ok(())
}

/// Removes a tree that this program built and nobody used.
async fn remove_tree(node: &dyn Node, path: &Path) -> Result<(), StepError> {
    match node.digest(path).await {
        Ok(found) => node.remove_own_tree(path, found.sha256).await.map_err(failed),
        Err(error) if error.kind == NodeErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// Takes what was built away: where it is as it was built it is removed, and where etcd
/// ran on it, it is kept under another name.
async fn take_build_away(
    node: &dyn Node,
    member: &NewMember,
    plan: PlanId,
) -> Result<(), StepError> {
    let (at, note_at) = (member.member(plan).new, member.note(plan));
    let note = note(node, &note_at).await?;
    let unused = match (&note, node.digest(&at).await) {
        (_, Err(error)) if error.kind == NodeErrorKind::NotFound => true,
        (_, Err(error)) => return Err(failed(error)),
        (None, Ok(_)) => true,
        (Some(note), Ok(found)) => found == *note.digest(),
    };
    for part in member.parts(plan).into_iter().rev() {
        if unused {
            remove_tree(node, &part.new).await?;
        } else if stands(node, &part.new).await? {
            keep(node, &part.new, &part.returned).await?;
        }
    }
    remove_made_dirs(node, member).await?;
    remove_note(node, &note_at).await
}

/// Removes the directories that a plan made, where nothing is in them: where something
/// came to be in one, it stays.
pub(super) async fn remove_made_dirs(node: &dyn Node, member: &NewMember) -> Result<(), StepError> {
    if member.has_data_dir {
        return Ok(());
    }
    let mut made: Vec<&Path> = vec![&member.data_dir];
    made.extend(member.missing.iter().rev().map(PathBuf::as_path));
    for path in made {
        if let Err(error) = node.remove_dir(path).await
            && error.kind == NodeErrorKind::Lost
        {
            return Err(failed(error));
        }
    }
    Ok(())
}

/// What etcd ran on is kept.
pub(super) async fn keep(node: &dyn Node, from: &Path, to: &Path) -> Result<(), StepError> {
    let first = to;
    for number in 0..KEPT {
        let mut to = first.to_owned().into_os_string();
        if number > 0 {
            to.push(format!("-{number}"));
        }
        match node.rename(from, Path::new(&to)).await {
            Err(error) if error.kind == NodeErrorKind::AlreadyExists => {}
            other => return other.map_err(failed),
        }
    }
    Err(StepError::new(format!("{} has no free name left", first.display())))
}

/// Takes back one member's building.
pub(super) async fn unbuild(
    node: &dyn Node,
    member: &NewMember,
    context: &Context<'_>,
) -> Result<(), StepError> {
    take_build_away(node, member, context.plan).await
}

/// How far a part is swapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Swapped {
    No,
    /// What stood there is aside, and nothing is in its place.
    Between,
    Yes,
    Odd,
}

async fn swapped(node: &dyn Node, part: &Part) -> Result<Swapped, StepError> {
    let place = stands(node, &part.place).await?;
    let new = stands(node, &part.new).await?;
    let before = stands(node, &part.before).await?;
    Ok(match (part.had, place, new, before) {
        (true, true, true, false) | (false, false, true, false) => Swapped::No,
        (true, false, true, true) => Swapped::Between,
        (true, true, false, true) | (false, true, false, false) => Swapped::Yes,
        _ => Swapped::Odd,
    })
}

/// Whether every member's data is that which was built.
pub(super) async fn probe_swapped(
    nodes: &[(&dyn Node, &NewMember)],
    context: &Context<'_>,
) -> Result<Probe, StepError> {
    let (mut yes, mut no, mut all, mut odd) = (0, 0, 0, None);
    for (node, member) in nodes {
        for part in member.parts(context.plan) {
            all += 1;
            match swapped(*node, &part).await? {
                Swapped::Yes => yes += 1,
                Swapped::No => no += 1,
                Swapped::Between => {}
                Swapped::Odd => odd = Some(format!("{} on {}", part.place.display(), node.name())),
            }
        }
    }
    Ok(match odd {
        Some(what) => Probe::Partly(format!("something else stands at {what}")),
        None if yes == all => Probe::Done([].into()),
        None if no == all => Probe::NotDone,
        None => Probe::Partly(format!("{yes} of {all} directories are in place")),
    })
}

fn odd(node: &dyn Node, part: &Part) -> StepError {
    let why = format!(
        "{} on {} is not as it was when the plan was made",
        part.place.display(),
        node.name()
    );
    StepError::new(why).hint("roll back and make a new plan")
}

/// Sets one member's data aside and puts what was built in its place.
pub(super) async fn swap(
    node: &dyn Node,
    member: &NewMember,
    context: &Context<'_>,
) -> Result<(), StepError> {
    for part in member.parts(context.plan) {
        let mut state = swapped(node, &part).await?;
        if state == Swapped::No && part.had {
            node.rename(&part.place, &part.before).await.map_err(failed)?;
            state = Swapped::Between;
        }
        match state {
            Swapped::Yes => {}
            Swapped::No | Swapped::Between => {
                node.rename(&part.new, &part.place).await.map_err(failed)?;
            }
            Swapped::Odd => return Err(odd(node, &part)),
        }
    }
    Ok(())
}

/// Puts one member's data of before back in its place.
pub(super) async fn unswap(
    node: &dyn Node,
    member: &NewMember,
    context: &Context<'_>,
) -> Result<(), StepError> {
    for part in member.parts(context.plan).into_iter().rev() {
        let mut state = swapped(node, &part).await?;
        if state == Swapped::Yes {
            node.rename(&part.place, &part.new).await.map_err(failed)?;
            state = if part.had { Swapped::Between } else { Swapped::No };
        }
        match state {
            Swapped::No => {}
            Swapped::Between => node.rename(&part.before, &part.place).await.map_err(failed)?,
            // What was built was not used: whatever stands there is none of the plan's.
            _ if stands(node, &part.new).await? && !stands(node, &part.before).await? => {}
            _ => return Err(odd(node, &part)),
        }
    }
    Ok(())
}

/// What the members have to be.
pub(super) struct Wanted<'a> {
    pub(super) cluster: &'a str,
    pub(super) members: &'a [String],
    pub(super) revision: i64,
    pub(super) hash: u32,
    /// Whether nobody may have written.
    pub(super) quiet: bool,
}

impl Wanted<'_> {
    /// What is not so: a line each. The second says that waiting does not help.
    fn wrong(&self, answers: &[MemberAnswer]) -> (Vec<String>, bool) {
        let (mut wrong, mut forever) = (Vec::new(), false);
        for id in self.members {
            let Some(answer) = answers.iter().find(|answer| answer.id == *id) else {
                wrong.push(format!("member {id} does not answer"));
                continue;
            };
            // Where somebody wrote since, nobody can tell the hash: all have the same.
            let wanted = match answer.hashed_at == self.revision {
                true => Some(self.hash),
                false => answers.iter().find_map(|answer| answer.hash_kv),
            };
            match answer.hash_kv {
                Some(hash) if Some(hash) == wanted => {}
                Some(hash) => {
                    forever = true;
                    wrong.push(format!(
                        "{} has HashKV {hash} at revision {}, and not {}",
                        answer.name,
                        answer.hashed_at,
                        wanted.unwrap_or(self.hash)
                    ));
                }
                None => wrong.push(format!(
                    "{} tells no HashKV: {}",
                    answer.name,
                    answer.why.as_deref().unwrap_or("it does not say why")
                )),
            }
            let since = answer.revision.saturating_sub(self.revision);
            if self.quiet && since > 0 {
                forever = true;
                wrong.push(format!(
                    "{since} revisions were written to {} although every API server is stopped: \
                     a client writes that the plan does not know (ss -tn 'sport = :2379' on the \
                     nodes shows who is connected)",
                    answer.name
                ));
            }
            if since < 0 {
                wrong.push(format!("{} is at revision {}", answer.name, answer.revision));
            }
        }
        for answer in answers {
            if answer.cluster != self.cluster {
                wrong.push(format!("{} is of the cluster {}", answer.name, answer.cluster));
            } else if !self.members.contains(&answer.id) {
                wrong.push(format!("{} ({}) is none of its members", answer.name, answer.id));
            }
        }
        (wrong, forever)
    }
}

fn unasked(failure: Failure) -> StepError {
    not_stored(&failure).without_effect()
}

/// Whether all members are those of the new cluster, and hold the same.
pub(super) async fn agreed(
    contents: &dyn Contents,
    wanted: &Wanted<'_>,
) -> Result<bool, StepError> {
    let Ok(answers) = contents.members(wanted.revision).await else { return Ok(false) };
    // To know whether it takes writes one has to write; nothing stays of it.
    Ok(wanted.wrong(&answers).0.is_empty() && contents.write().await.is_ok())
}

/// Waits until they are.
pub(super) async fn agree(
    contents: &dyn Contents,
    wanted: &Wanted<'_>,
    context: &Context<'_>,
) -> Result<(), StepError> {
    until(contents, wanted.revision, &mut |answers| wanted.wrong(answers), context).await
}

/// What is not so where members that were copied hold the same, a line each: all are of
/// one cluster, and none is behind `floor`.
fn unlike(names: &[String], answers: &[MemberAnswer], floor: i64) -> Vec<String> {
    let mut wrong = Vec::new();
    for name in names {
        if !answers.iter().any(|answer| answer.name == *name) {
            wrong.push(format!("member {name} does not answer"));
        }
    }
    let Some(first) = answers.first() else { return wrong };
    for answer in answers {
        let name = &answer.name;
        if !names.contains(name) {
            wrong.push(format!("{name} ({}) is none of its members", answer.id));
        }
        if answer.cluster != first.cluster {
            let (own, other) = (&answer.cluster, &first.cluster);
            wrong.push(format!("{name} is of the cluster {own}, {} of {other}", first.name));
        }
        if answer.revision < floor {
            wrong.push(format!("{name} is at revision {}, and not {floor}", answer.revision));
        }
        match (answer.hash_kv, first.hash_kv) {
            (None, _) => wrong.push(format!(
                "{name} tells no HashKV: {}",
                answer.why.as_deref().unwrap_or("it does not say why")
            )),
            (Some(hash), Some(other)) if hash != other => wrong.push(format!(
                "{name} has HashKV {hash} at revision {}, and {} has {other}",
                answer.hashed_at, first.name
            )),
            _ => {}
        }
    }
    wrong
}

/// The highest revision of all.
fn highest(answers: &[MemberAnswer]) -> i64 {
    answers.iter().map(|answer| answer.revision).max().unwrap_or(0)
}

/// Whether all members of `names` hold the same.
pub(super) async fn alike(contents: &dyn Contents, names: &[String]) -> Result<bool, StepError> {
    let Ok(answers) = contents.members(0).await else { return Ok(false) };
    let wrong = unlike(names, &answers, highest(&answers));
    Ok(wrong.is_empty() && contents.write().await.is_ok())
}

/// Waits until they do: a member reads what it did not apply from its log, and what it
/// did not have from the leader.
pub(super) async fn agree_alike(
    contents: &dyn Contents,
    names: &[String],
    context: &Context<'_>,
) -> Result<(), StepError> {
    // Each has to come to where any of them was when all answered, whatever is written
    // meanwhile.
    let mut floor = None;
    let mut judge = |answers: &[MemberAnswer]| {
        let all = names.iter().all(|name| answers.iter().any(|answer| answer.name == *name));
        if all && floor.is_none() {
            floor = Some(highest(answers));
        }
        (unlike(names, answers, floor.unwrap_or(0)), false)
    };
    until(contents, 0, &mut judge, context).await
}

/// What is wrong with what the members answer, and whether waiting does not help.
type Judge<'a> = dyn FnMut(&[MemberAnswer]) -> (Vec<String>, bool) + Send + 'a;

/// Waits until `judge` finds nothing wrong with what the members answer; no longer where it
/// says that waiting does not help.
async fn until(
    contents: &dyn Contents,
    revision: i64,
    judge: &mut Judge<'_>,
    context: &Context<'_>,
) -> Result<(), StepError> {
    context.waits("all members to hold the same", AGREE);
    let until = tokio::time::Instant::now() + AGREE;
    loop {
        let (wrong, forever) = match contents.members(revision).await {
            Ok(answers) => judge(&answers),
            Err(failure) => (vec![unasked(failure).to_string()], false),
        };
        if wrong.is_empty() {
            return contents.write().await.map_err(unasked);
        }
        if forever || tokio::time::Instant::now() >= until {
            let mut error = StepError::new("the returned cluster is not as it has to be");
            error.details = wrong;
            return Err(error.without_effect().hint(
                "etcdvault status shows its members; rolling back brings the data of before",
            ));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What is built and set aside by hand has this in its name.
const BY_HAND: &str = "by-hand";

/// Whether a restore by etcd's own program raises revisions, from this version on of each
/// line (etcd-io/etcd#16029 and its backports).
const BUMPS: [(u32, u32, u32); 2] = [(3, 5, 10), (3, 4, 27)];

/// The program of etcd's that restores, and whether it raises revisions.
fn restorer(version: Option<&str>) -> (&'static [&'static str], bool) {
    const ETCDUTL: &[&str] = &["etcdutl"];
    const ETCDCTL: &[&str] = &["env", "ETCDCTL_API=3", "etcdctl"];
    let version = version.and_then(|text| text.parse::<Version>().ok());
    let Some(Version { major, minor, patch }) = version else { return (ETCDUTL, true) };
    let program = if (major, minor) < (3, 5) { ETCDCTL } else { ETCDUTL };
    let first = BUMPS.iter().find(|(a, b, _)| (major, minor) == (*a, *b));
    let bumps = first.map_or((major, minor) >= (3, 6), |(_, _, since)| patch >= *since);
    (program, bumps)
}

/// A name beside `path` for what is built or kept by hand.
fn beside(path: &Path, what: &str) -> String {
    format!("{}.{what}-{BY_HAND}", path.display())
}

/// The building of all members with stock commands.
pub(super) fn shell_build(
    members: &[NewMember],
    cluster: &NewCluster,
    backup: &str,
) -> Vec<Command> {
    let file = format!("{backup}.db");
    let there = format!("/root/{file}");
    let here = |words: &[&str]| Command::new(None, words.iter().copied());
    let (program, bumps) = restorer(cluster.etcd_version.as_deref());
    let bump = cluster.bump_revision.to_string();
    let mut commands = vec![here(&["etcdvault", "export", backup, "-o", &file])];
    for member in members {
        let on = |words: &[&str]| Command::new(Some(&member.node), words.iter().copied());
        let new = beside(&member.data_dir.join("member"), "new");
        let built = format!("{new}.build");
        let wal = member.wal_dir.as_ref().map(|wal| beside(wal, "new"));
        let (uid, gid) = member.owner;
        let owner = format!("{uid}:{gid}");
        let urls = cluster.initial_cluster.split(',').filter_map(|part| part.split_once('='));
        let urls: Vec<&str> =
            urls.filter(|(name, _)| *name == member.name).map(|(_, url)| url).collect();
        let urls = urls.join(",");
        commands.push(here(&["scp", &file]).to(&member.node, &there));
        let data_dir = (!member.has_data_dir).then_some(&member.data_dir);
        for path in member.missing.iter().chain(data_dir) {
            let (uid, gid) = (uid.to_string(), gid.to_string());
            let path = path.display().to_string();
            commands.push(on(&["install", "-d", "-m", "0700", "-o", &uid, "-g", &gid, &path]));
        }
        let mut restore: Vec<&str> = program.to_vec();
        restore.extend(["snapshot", "restore", &there, "--name", &member.name]);
        restore.extend(["--initial-cluster", &cluster.initial_cluster]);
        restore.extend(["--initial-cluster-token", &cluster.token]);
        restore.extend(["--initial-advertise-peer-urls", &urls, "--data-dir", &built]);
        if let Some(wal) = &wal {
            restore.extend(["--wal-dir", wal]);
        }
        if bumps && cluster.bump_revision > 0 {
            restore.extend(["--bump-revision", &bump, "--mark-compacted"]);
        }
        let mut restore = on(&restore);
        if !bumps {
            restore = restore.note(
                "this etcd cannot raise the revision as etcdvault does: start every API server, \
                 controller and kubelet anew afterwards",
            );
        }
        commands.push(restore);
        let mut chown = vec!["chown", "-R", &owner, &built];
        chown.extend(wal.as_deref());
        commands.push(on(&chown));
        commands.push(on(&["mv", "-nT", &format!("{built}/member"), &new]));
        commands.push(on(&["rmdir", &built]));
        commands.push(on(&["rm", &there]));
    }
    commands.push(here(&["rm", &file]));
    commands
}

/// The unpacking of one member's copy with stock commands.
pub(super) fn shell_unpack(copied: &CopiedMember, backup: &str) -> Vec<Command> {
    let CopiedMember { member, from, wal_from } = copied;
    let on = |words: &[&str]| Command::new(Some(&member.node), words.iter().copied());
    let here = |words: &[&str]| Command::new(None, words.iter().copied());
    let (object, file) = (format!("data-{}", member.node), format!("data-{}.tar", member.node));
    let there = format!("/root/{file}");
    let new = beside(&member.data_dir.join("member"), "new");
    let all = format!("{new}.copy");
    let inside = |path: &Path| format!("{all}{}", path.display());
    let mut commands = vec![
        here(&["etcdvault", "export", backup, "--object", &object, "-o", &file]),
        here(&["scp", &file]).to(&member.node, &there),
        here(&["rm", &file]),
        on(&["mkdir", "-p", "-m", "0700", &all]),
        on(&[
            "tar",
            "--numeric-owner",
            "--xattrs",
            "--xattrs-include=*",
            "-xpf",
            &there,
            "-C",
            &all,
        ]),
    ];
    if let (Some(wal), Some(from)) = (&member.wal_dir, wal_from) {
        commands.push(on(&["mv", "-nT", &inside(from), &beside(wal, "new")]));
    }
    commands.push(on(&["mv", "-nT", &inside(from), &new]));
    commands.push(on(&["rm", "-r", &all, &there]));
    commands
}

/// The swap of one member's data with stock commands: the log first, where it lies
/// elsewhere.
pub(super) fn shell_swap(member: &NewMember) -> Vec<Command> {
    let mut commands = Vec::new();
    let parts = member.wal_dir.iter().map(|wal| (wal.clone(), member.had_wal));
    for (place, had) in parts.chain([(member.data_dir.join("member"), member.had)]) {
        let on = |words: &[&str]| Command::new(Some(&member.node), words.iter().copied());
        let (path, before) = (place.display().to_string(), beside(&place, "before"));
        if had {
            commands.push(on(&["test", "!", "-e", &before]));
            commands.push(on(&["mv", "-nT", &path, &before]));
        }
        commands.push(on(&["mv", "-nT", &beside(&place, "new"), &path]));
    }
    commands
}

/// A look at the result with stock commands.
pub(super) fn shell_check() -> Command {
    let script = "until etcdvault member list >/dev/null 2>&1; do sleep 2; done; \
                  exec etcdvault member list";
    Command::new(None, ["timeout", "240", "sh", "-c", script]).note(
        "all members, one leader, one revision; etcdctl endpoint hashkv with this cluster's \
         endpoints and certificates shows one hash for all",
    )
}
