//! Steps in the world.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;

use super::data::{self, HASH_KV, Wanted};
use super::fence;
use super::file::{self, failed, look};
use super::join::{self, Joining};
use super::membership::{self, Membership};
use super::restart;
use super::service::{self, State};
use super::{
    Contents, CopiedMember, Expected, Fenced, Instance, Left, NewMember, SAVED, Service, Step,
    World, aside, configure, remains,
};
use crate::node::{Node, UnitAction};
use crate::operation::failure::Failure;
use crate::plan::{Act, Context, Outputs, Place, Probe, StepError};

/// Until ports are open that have to be.
const OPEN: Duration = Duration::from_secs(180);
/// How often they are looked at.
const PAUSE: Duration = Duration::from_millis(500);

/// A failure of the vault's, or of the cluster's, as a step's.
pub(super) fn not_stored(failure: &Failure) -> StepError {
    let mut why = vec![failure.what.clone()];
    why.extend(failure.causes());
    let mut error = StepError::new(why.join(": "));
    error.details = failure.details.clone();
    error.hint = failure.hint.clone();
    error
}

impl World {
    fn node(&self, place: &Place) -> Result<&dyn Node, StepError> {
        let node = self.nodes.get(place.as_str());
        node.map(|node| node.as_ref())
            .ok_or_else(|| StepError::new(format!("{place} is not reached")).without_effect())
    }

    fn members<'a>(
        &'a self,
        members: &'a [NewMember],
    ) -> Result<Vec<(&'a dyn Node, &'a NewMember)>, StepError> {
        members.iter().map(|member| Ok((self.node(&member.node)?, member))).collect()
    }

    fn copied<'a>(
        &'a self,
        members: &'a [CopiedMember],
    ) -> Result<Vec<(&'a dyn Node, &'a NewMember)>, StepError> {
        let members = members.iter().map(|copied| &copied.member);
        members.map(|member| Ok((self.node(&member.node)?, member))).collect()
    }

    fn cluster(&self) -> Result<(&dyn Membership, &dyn Contents), StepError> {
        let found = self.contents.as_deref().and_then(|it| Some((it.membership()?, it)));
        found.ok_or_else(|| {
            StepError::new("there is no way to the cluster's members").without_effect()
        })
    }

    fn joining<'a>(
        &'a self,
        member: &'a NewMember,
        instance: &'a Instance,
        peer_urls: &'a [String],
    ) -> Result<Joining<'a>, StepError> {
        Ok(Joining { node: self.node(&member.node)?, member, instance, peer_urls })
    }

    fn fenced<'a>(
        &'a self,
        nodes: &'a [Fenced],
    ) -> Result<Vec<(&'a dyn Node, &'a Fenced)>, StepError> {
        nodes.iter().map(|fenced| Ok((self.node(&fenced.node)?, fenced))).collect()
    }

    fn left<'a>(&'a self, members: &'a [Left]) -> Result<Vec<(&'a dyn Node, &'a Left)>, StepError> {
        members.iter().map(|left| Ok((self.node(&left.node)?, left))).collect()
    }

    fn contents(&self) -> Result<&dyn Contents, StepError> {
        self.contents
            .as_deref()
            .ok_or_else(|| StepError::new("there is no vault to read from").without_effect())
    }
}

fn done(is: bool) -> Probe {
    if is { Probe::Done(Outputs::new()) } else { Probe::NotDone }
}

/// All instances in `wanted`: done; all in `other`: not.
async fn states(
    world: &World,
    service: Service,
    instances: &[Instance],
    wanted: State,
) -> Result<Probe, StepError> {
    let looks = instances.iter().map(async |instance| {
        service::state(world.node(&instance.node)?, service, &instance.how).await
    });
    let mut states = Vec::new();
    for (state, instance) in join_all(looks).await.into_iter().zip(instances) {
        states.push((state?, instance));
    }
    let is_done = |state: State, instance: &Instance| match (wanted, state) {
        // What ended by itself before it was touched was not stopped.
        (State::Stopped, State::Failed) => instance.healthy,
        _ => state == wanted,
    };
    if states.iter().all(|(state, instance)| is_done(*state, instance)) {
        return Ok(done(true));
    }
    // One that came and went before is as far from stopped as one that runs.
    let not_done = |(state, instance): &(State, &Instance)| match (wanted, state) {
        (State::Runs, State::Stopped | State::Failed) | (_, State::Runs) => *state != wanted,
        (_, State::Failed | State::Between) => !instance.healthy,
        (_, State::Stopped) => false,
    };
    if states.iter().all(not_done) {
        return Ok(Probe::NotDone);
    }
    let odd: Vec<&str> =
        states.iter().filter(|(s, i)| !is_done(*s, i)).map(|(_, i)| i.node.as_str()).collect();
    Ok(Probe::Partly(format!("{} on {} is not so", service.name(), odd.join(", "))))
}

/// What is wrong with files and ports.
async fn wrong(
    node: &dyn Node,
    files: &[Expected],
    ports: &[u16],
) -> Result<(Vec<String>, Vec<u16>), StepError> {
    let mut odd = Vec::new();
    for Expected { path, what } in files {
        if !look(node, path).await?.is(what) {
            odd.push(path.display().to_string());
        }
    }
    let open = service::open(node, ports).await?;
    let closed = ports.iter().copied().filter(|port| !open.contains(port)).collect();
    Ok((odd, closed))
}

async fn is_stale(node: &dyn Node, units: &[String]) -> Result<bool, StepError> {
    for unit in units {
        if node.unit(unit).await.map_err(failed)?.is_some_and(|unit| unit.needs_reload) {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn enable(node: &dyn Node, unit: &str, enabled: bool) -> Result<(), StepError> {
    if !enabled {
        return service::disable(node, unit).await;
    }
    node.unit_do(unit, UnitAction::Enable, service::ENABLE).await.map_err(failed)
}

fn ids(members: &[NewMember]) -> Vec<String> {
    members.iter().map(|member| member.id.clone()).collect()
}

fn names(members: &[NewMember]) -> Vec<String> {
    members.iter().map(|member| member.name.clone()).collect()
}

fn wanted<'a>(
    cluster: &'a str,
    members: &'a [String],
    revision: i64,
    context: &Context<'_>,
) -> Result<Wanted<'a>, StepError> {
    let hash = context.output(HASH_KV)?;
    let hash = hash
        .parse()
        .map_err(|_| StepError::new(format!("{hash:?} is no HashKV")).without_effect())?;
    Ok(Wanted { cluster, members, revision, hash, quiet: false })
}

/// The first failure, with what else failed at the same time.
fn first_error(results: Vec<Result<(), StepError>>) -> Result<(), StepError> {
    let mut errors = results.into_iter().filter_map(Result::err);
    let Some(mut first) = errors.next() else { return Ok(()) };
    for other in errors {
        first.details.push(other.why);
        first.details.extend(other.details);
    }
    Err(first)
}

#[async_trait]
impl Act<World> for Step {
    async fn probe(&self, world: &World, context: &Context<'_>) -> Result<Probe, StepError> {
        match self {
            Self::SaveState { .. } => {
                let saved = world.contents()?.saved(context.plan).await;
                Ok(match saved.map_err(|failure| not_stored(&failure))? {
                    Some(id) => Probe::Done([(SAVED.to_owned(), id)].into()),
                    None => Probe::NotDone,
                })
            }
            Self::BuildData { members, .. } => {
                data::probe_built(&world.members(members)?, context).await
            }
            Self::UnpackData { members, .. } => {
                let members = world.copied(members)?;
                data::probe_unpacked(&members, context).await
            }
            Self::SwapData { members } => {
                data::probe_swapped(&world.members(members)?, context).await
            }
            Self::CheckData { cluster, members, revision, quiet } => {
                let ids = ids(members);
                let wanted = Wanted { quiet: *quiet, ..wanted(cluster, &ids, *revision, context)? };
                Ok(done(data::agreed(world.contents()?, &wanted).await?))
            }
            Self::CheckCopies { members } => {
                Ok(done(data::alike(world.contents()?, &names(members)).await?))
            }
            Self::Fence { nodes, absent } => {
                Ok(done(fence::standing(&world.fenced(nodes)?, absent).await?.is_empty()))
            }
            Self::CheckLeft { members } => {
                Ok(done(remains::written(&world.left(members)?).await?.is_empty()))
            }
            Self::Restart { nodes, programs } => {
                for place in nodes {
                    if !restart::stale(world.node(place)?, programs).await?.is_empty() {
                        return Ok(Probe::NotDone);
                    }
                }
                Ok(done(true))
            }
            Self::Stop { service, instances } => {
                states(world, *service, instances, State::Stopped).await
            }
            Self::StartNew { instance, .. } => {
                states(world, Service::Etcd, std::slice::from_ref(instance), State::Runs).await
            }
            Self::Join { member, instance, peer_urls } => {
                let joining = world.joining(member, instance, peer_urls)?;
                join::probe(&joining, world.cluster().map(|it| it.0)).await
            }
            Self::Start { service, instances } => {
                states(world, *service, instances, State::Runs).await
            }
            Self::SetFiles { node, changes, reload, .. } => {
                let node = world.node(node)?;
                let (mut before, mut after) = (0, 0);
                let mut odd = None;
                for change in changes {
                    match look(node, &change.path).await? {
                        now if now.is(&change.after) => after += 1,
                        now if now.same(&change.before) => before += 1,
                        _ => odd = Some(&change.path),
                    }
                }
                Ok(if let Some(path) = odd {
                    Probe::Partly(format!("something else stands at {}", path.display()))
                } else if before == changes.len() {
                    Probe::NotDone
                } else if after < changes.len() {
                    Probe::Partly(format!("{after} of {} files are set", changes.len()))
                } else if is_stale(node, reload).await? {
                    Probe::Partly("systemd has not read them".to_owned())
                } else {
                    done(true)
                })
            }
            Self::Configure { node, edits, reload } => {
                let node = world.node(node)?;
                configure::probe(node, edits, is_stale(node, reload).await?).await
            }
            Self::SetAside { node, paths } => {
                aside::probe(world.node(node)?, paths, context.plan).await
            }
            Self::Membership { what } => {
                let (cluster, contents) = world.cluster()?;
                membership::probe(what, cluster, contents, context).await
            }
            Self::Enable { node, unit, enabled } => {
                let found = world.node(node)?.unit(unit).await.map_err(failed)?;
                let is = found.is_some_and(|unit| unit.file_state == "enabled");
                Ok(done(is == *enabled))
            }
            Self::Check { node, files, ports, units } => {
                let node = world.node(node)?;
                let (odd, closed) = wrong(node, files, ports).await?;
                for unit in units {
                    if service::run_of(node, unit).await?.is_none() {
                        return Ok(Probe::NotDone);
                    }
                }
                Ok(done(odd.is_empty() && closed.is_empty()))
            }
        }
    }

    async fn apply(&self, world: &World, context: &Context<'_>) -> Result<(), StepError> {
        match self {
            Self::BuildData { backup, cluster, members } => {
                let (members, contents) = (world.members(members)?, world.contents()?);
                let builds = members.iter().map(|(node, member)| {
                    data::build(*node, member, cluster, backup, contents, context)
                });
                first_error(join_all(builds).await)
            }
            Self::UnpackData { backup, members } => {
                let contents = world.contents()?;
                let each = members.iter().map(async |copied| {
                    let node = world.node(&copied.member.node)?;
                    data::unpack(node, copied, backup, contents, context).await
                });
                first_error(join_all(each).await)
            }
            Self::SwapData { members } => {
                for (node, member) in world.members(members)? {
                    data::swap(node, member, context).await?;
                }
                Ok(())
            }
            Self::CheckData { cluster, members, revision, quiet } => {
                let ids = ids(members);
                let wanted = Wanted { quiet: *quiet, ..wanted(cluster, &ids, *revision, context)? };
                data::agree(world.contents()?, &wanted, context).await
            }
            Self::CheckCopies { members } => {
                data::agree_alike(world.contents()?, &names(members), context).await
            }
            Self::Fence { nodes, absent } => {
                fence::fence(world.fenced(nodes)?, absent, context).await
            }
            Self::CheckLeft { members } => remains::check(&world.left(members)?).await,
            Self::Restart { nodes, programs } => {
                let each = nodes.iter().map(async |place| {
                    restart::restart(world.node(place)?, programs, context).await
                });
                first_error(join_all(each).await)
            }
            Self::SaveState { nodes, data } => {
                let contents = world.contents()?;
                let saved = contents.saved(context.plan).await;
                if saved.map_err(|failure| not_stored(&failure))?.is_none() {
                    let saved = contents.save(nodes, context.plan, *data).await;
                    saved.map_err(|failure| not_stored(&failure))?;
                }
                Ok(())
            }
            Self::Stop { service, instances } => {
                for instance in instances {
                    let node = world.node(&instance.node)?;
                    service::stop(node, context, *service, &instance.how).await?;
                }
                Ok(())
            }
            Self::StartNew { instance, .. } => {
                let node = world.node(&instance.node)?;
                service::start(node, context, Service::Etcd, &instance.how).await
            }
            Self::Join { member, instance, peer_urls } => {
                let joining = world.joining(member, instance, peer_urls)?;
                join::apply(&joining, world.cluster()?.0, context).await
            }
            Self::Start { service, instances } => {
                let starts = instances.iter().map(async |instance| {
                    let node = world.node(&instance.node)?;
                    service::start(node, context, *service, &instance.how).await
                });
                first_error(join_all(starts).await)
            }
            Self::SetFiles { node: place, backup, changes, reload, times } => {
                let node = world.node(place)?;
                for (number, change) in changes.iter().enumerate() {
                    let content = async || {
                        let path = change.stored_as.as_ref().unwrap_or(&change.path);
                        let path = vault::archive::escape(path.as_os_str().as_encoded_bytes());
                        let read = world.contents()?.content(backup, place.as_str(), &path).await;
                        read.map_err(|failure| not_stored(&failure))
                    };
                    file::apply(node, context, number, change, content).await?;
                }
                file::set_times(node, times).await?;
                if reload.is_empty() { Ok(()) } else { service::reload(node).await }
            }
            Self::Configure { node, edits, reload } => {
                let node = world.node(node)?;
                configure::apply(node, context, edits).await?;
                if reload.is_empty() { Ok(()) } else { service::reload(node).await }
            }
            Self::SetAside { node, paths } => aside::apply(world.node(node)?, paths, context).await,
            Self::Membership { what } => {
                let (cluster, contents) = world.cluster()?;
                membership::apply(what, cluster, contents, context).await
            }
            Self::Enable { node, unit, enabled } => enable(world.node(node)?, unit, *enabled).await,
            Self::Check { node, files, ports, units } => {
                let node = world.node(node)?;
                for unit in units {
                    service::keeps_running(node, context, unit).await?;
                }
                let until = tokio::time::Instant::now() + OPEN;
                loop {
                    let (odd, closed) = wrong(node, files, ports).await?;
                    if let Some(path) = odd.first() {
                        let why = format!("{path} on {} is not as in the state", node.name());
                        return Err(StepError::new(why).without_effect());
                    }
                    let Some(port) = closed.first() else { return Ok(()) };
                    if tokio::time::Instant::now() >= until {
                        let why = format!("port {port} of {} is not open", node.name());
                        return Err(StepError::new(why).without_effect());
                    }
                    context.waits(format!("port {port} to open"), OPEN);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn undo(&self, world: &World, context: &Context<'_>) -> Result<(), StepError> {
        match self {
            Self::SaveState { .. }
            | Self::Fence { .. }
            | Self::CheckLeft { .. }
            | Self::Restart { .. }
            | Self::Check { .. }
            | Self::CheckData { .. }
            | Self::CheckCopies { .. } => Ok(()),
            Self::UnpackData { members, .. } => {
                for (node, member) in world.copied(members)? {
                    data::unbuild(node, member, context).await?;
                }
                Ok(())
            }
            Self::BuildData { members, .. } => {
                for (node, member) in world.members(members)? {
                    data::unbuild(node, member, context).await?;
                }
                Ok(())
            }
            Self::SwapData { members } => {
                for (node, member) in world.members(members)? {
                    data::unswap(node, member, context).await?;
                }
                Ok(())
            }
            Self::Stop { service, instances } => {
                let starts = instances.iter().map(async |instance| {
                    let node = world.node(&instance.node)?;
                    service::start_again(node, context, *service, instance).await
                });
                first_error(join_all(starts).await)
            }
            Self::StartNew { instance, paths } => {
                let node = world.node(&instance.node)?;
                service::stop(node, context, Service::Etcd, &instance.how).await?;
                aside::take_back(node, paths, context).await
            }
            Self::Join { member, instance, peer_urls } => {
                let joining = world.joining(member, instance, peer_urls)?;
                join::undo(&joining, world.cluster().ok().map(|it| it.0), context).await
            }
            Self::Start { service, instances } => {
                for instance in instances {
                    let node = world.node(&instance.node)?;
                    service::stop(node, context, *service, &instance.how).await?;
                }
                Ok(())
            }
            Self::SetFiles { node, changes, reload, .. } => {
                let node = world.node(node)?;
                for (number, change) in changes.iter().enumerate().rev() {
                    file::undo(node, context, number, change).await?;
                }
                if reload.is_empty() { Ok(()) } else { service::reload(node).await }
            }
            Self::Configure { node, edits, reload } => {
                let node = world.node(node)?;
                configure::undo(node, context, edits).await?;
                if reload.is_empty() { Ok(()) } else { service::reload(node).await }
            }
            Self::SetAside { node, paths } => aside::undo(world.node(node)?, paths, context).await,
            Self::Membership { what } => membership::undo(what, world.cluster()?.0, context).await,
            Self::Enable { node, unit, enabled } => {
                enable(world.node(node)?, unit, !*enabled).await
            }
        }
    }
}
