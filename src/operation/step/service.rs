//! A service of one node: stopped, started, looked at.

use std::path::Path;
use std::time::Duration;

use super::file::failed;
use super::health::{self, Health};
use super::{How, Instance, Service};
use crate::node::static_pod::{Bounds, StaticPod, Waiting, put_back, take_out};
use crate::node::{ContainerQuery, Node, NodeErrorKind, UnitAction};
use crate::plan::shell::Command;
use crate::plan::{Context, Place, StepError};

/// Until a unit is gone: systemd itself kills it after 90 s.
const STOP: Duration = Duration::from_secs(120);
/// Until a unit is ready: etcd reads its whole log first.
const START: Duration = Duration::from_secs(240);
/// For so long a unit has to run without ending to be taken for one that runs.
const STEADY: Duration = Duration::from_secs(8);
/// Until it has.
const SETTLED: Duration = Duration::from_secs(90);
/// How often it is looked at.
const PAUSE: Duration = Duration::from_secs(1);
/// systemd making a link or removing one.
pub(super) const ENABLE: Duration = Duration::from_secs(60);
/// Until a pod that runs is ready: an API server waits for its etcd first.
const READY: Duration = Duration::from_secs(240);
/// Until the runtime kills an API server that was asked to end.
const GRACE: Duration = Duration::from_secs(2);
/// systemd reading all units.
const RELOAD: Duration = Duration::from_secs(60);

/// What a service does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Runs,
    Stopped,
    /// It ended by itself, and systemd does not start it again.
    Failed,
    Between,
}

fn pod(service: Service, manifest: &Path, aside: &Path, ports: &[u16]) -> StaticPod {
    StaticPod {
        manifest: manifest.to_owned(),
        aside: aside.to_owned(),
        container: service.name().to_owned(),
        ports: ports.to_vec(),
    }
}

/// The ports of `ports` that are open.
pub(super) async fn open(node: &dyn Node, ports: &[u16]) -> Result<Vec<u16>, StepError> {
    let found = node.listeners().await.map_err(failed)?;
    let is_open = |port: &u16| found.iter().any(|listener| listener.address.port() == *port);
    Ok(ports.iter().copied().filter(is_open).collect())
}

/// What the service does now.
pub(super) async fn state(
    node: &dyn Node,
    service: Service,
    how: &How,
) -> Result<State, StepError> {
    match how {
        How::Unit { unit } => {
            let found = node.unit(unit).await.map_err(failed)?;
            Ok(match found.as_ref().map(|unit| unit.active_state.as_str()) {
                Some("active" | "reloading") => State::Runs,
                Some("activating" | "deactivating") => State::Between,
                Some("failed") => State::Failed,
                _ => State::Stopped,
            })
        }
        How::BootUnit { unit } => {
            let found = node.unit(unit).await.map_err(failed)?;
            let enabled = found.is_some_and(|unit| unit.file_state == "enabled");
            let plain = How::Unit { unit: unit.clone() };
            Ok(match Box::pin(state(node, service, &plain)).await? {
                State::Runs if enabled => State::Runs,
                stopped @ (State::Stopped | State::Failed) if !enabled => stopped,
                _ => State::Between,
            })
        }
        How::Pod { manifest, aside, ports } => {
            let there = node.stat(manifest).await.map_err(failed)?.is_some();
            let out = node.stat(aside).await.map_err(failed)?.is_some();
            let query = ContainerQuery {
                namespace: Some("kube-system".to_owned()),
                name: Some(service.name().to_owned()),
                ended: false,
            };
            let running = !node.containers(query).await.map_err(failed)?.is_empty();
            let open = open(node, ports).await?;
            Ok(match (there, out) {
                (true, false) if running && open.len() == ports.len() => {
                    match health::of(node, service, manifest).await? {
                        Health::Ready | Health::Silent(_) => State::Runs,
                        Health::Unready(_) => State::Between,
                    }
                }
                (false, _) if !running && open.is_empty() => State::Stopped,
                _ => State::Between,
            })
        }
    }
}

/// Stops it; nothing where it is stopped.
pub(super) async fn stop(
    node: &dyn Node,
    context: &Context<'_>,
    service: Service,
    how: &How,
) -> Result<(), StepError> {
    match how {
        How::Unit { unit } => {
            if node.unit(unit).await.map_err(failed)?.is_none() {
                return Ok(());
            }
            context.waits(format!("{unit} on {} to stop", node.name()), STOP);
            node.unit_do(unit, UnitAction::Stop, STOP).await.map_err(failed)?;
            let found = node.unit(unit).await.map_err(failed)?;
            // One that failed and one that was stopped are told apart on the way back.
            if found.is_some_and(|unit| unit.active_state == "failed") {
                node.unit_do(unit, UnitAction::ResetFailed, RELOAD).await.map_err(failed)?;
            }
            Ok(())
        }
        How::BootUnit { unit } => {
            disable(node, unit).await?;
            let plain = How::Unit { unit: unit.clone() };
            Box::pin(stop(node, context, service, &plain)).await
        }
        How::Pod { manifest, aside, ports } => {
            let pod = pod(service, manifest, aside, ports);
            let mut tell = |waiting: &Waiting| context.progress(waiting.to_string());
            // An API server has nothing to put in order, and would take all of its 30 s.
            let grace = (service == Service::ApiServer).then_some(GRACE);
            let bounds = Bounds { grace, ..Bounds::default() };
            take_out(node, &pod, bounds, &mut tell).await.map(drop).map_err(failed)
        }
    }
}

/// Lets a unit not start at boot; one that is not there does not.
pub(super) async fn disable(node: &dyn Node, unit: &str) -> Result<(), StepError> {
    match node.unit_do(unit, UnitAction::Disable, ENABLE).await {
        Err(error) if error.kind == NodeErrorKind::NotFound => Ok(()),
        other => other.map_err(failed),
    }
}

/// Starts it and waits until it is ready; nothing where it is.
pub(super) async fn start(
    node: &dyn Node,
    context: &Context<'_>,
    service: Service,
    how: &How,
) -> Result<(), StepError> {
    match how {
        How::Unit { unit } => {
            let Some(found) = node.unit(unit).await.map_err(failed)? else {
                return Err(StepError::new(format!("{} has no {unit}", node.name())));
            };
            if found.active_state == "active" {
                return Ok(());
            }
            if found.needs_reload {
                reload(node).await?;
            }
            if found.sub_state == "auto-restart" {
                // systemd waits to try once more; that is not this start.
                node.unit_do(unit, UnitAction::Stop, STOP).await.map_err(failed)?;
            }
            if found.active_state == "failed" {
                node.unit_do(unit, UnitAction::ResetFailed, RELOAD).await.map_err(failed)?;
            }
            context.waits(format!("{unit} on {} to be ready", node.name()), START);
            node.unit_do(unit, UnitAction::Start, START).await.map_err(failed)
        }
        How::BootUnit { unit } => {
            node.unit_do(unit, UnitAction::Enable, ENABLE).await.map_err(failed)?;
            let plain = How::Unit { unit: unit.clone() };
            Box::pin(start(node, context, service, &plain)).await
        }
        How::Pod { manifest, aside, ports } => {
            let pod = pod(service, manifest, aside, ports);
            let mut tell = |waiting: &Waiting| context.progress(waiting.to_string());
            let bounds = Bounds::default();
            // Where it was only on its way out an old container must not count.
            if node.stat(aside).await.map_err(failed)?.is_some() {
                take_out(node, &pod, bounds, &mut tell).await.map_err(failed)?;
            }
            put_back(node, &pod, &[], bounds, &mut tell).await.map_err(failed)?;
            ready(node, context, service, manifest).await
        }
    }
}

/// Waits until a pod that runs says that it serves.
async fn ready(
    node: &dyn Node,
    context: &Context<'_>,
    service: Service,
    manifest: &Path,
) -> Result<(), StepError> {
    let until = tokio::time::Instant::now() + READY;
    let name = service.name();
    let mut told = None;
    loop {
        let why = match health::of(node, service, manifest).await? {
            Health::Ready => return Ok(()),
            Health::Silent(why) => {
                context
                    .progress(format!("{name} on {} runs; more is not known: {why}", node.name()));
                return Ok(());
            }
            Health::Unready(why) => why,
        };
        if tokio::time::Instant::now() >= until {
            let why = format!(
                "{name} on {} is not ready after {} s: {why}",
                node.name(),
                READY.as_secs()
            );
            let hint = format!(
                "on {}: crictl ps -a --name {name} shows its containers, crictl logs ID what they say",
                node.name()
            );
            return Err(StepError::new(why).hint(hint));
        }
        if told.as_ref() != Some(&why) {
            context.waits(format!("{name} on {} to be ready ({why})", node.name()), READY);
            told = Some(why);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Starts again what a step had stopped. What did not run well before need not do so
/// now.
pub(super) async fn start_again(
    node: &dyn Node,
    context: &Context<'_>,
    service: Service,
    instance: &Instance,
) -> Result<(), StepError> {
    let started = start(node, context, service, &instance.how).await;
    // A node that is gone is not a service that fails.
    if started.is_err() && !instance.healthy && node.stat(Path::new("/")).await.is_ok() {
        return Ok(());
    }
    started
}

/// Which run of a unit it is that is active now, if one is.
pub(super) async fn run_of(node: &dyn Node, unit: &str) -> Result<Option<String>, StepError> {
    let found = node.unit(unit).await.map_err(failed)?;
    Ok(found.filter(|unit| unit.active_state == "active").map(|unit| unit.invocation))
}

/// Waits until a unit has run for a while without ending in between.
pub(super) async fn keeps_running(
    node: &dyn Node,
    context: &Context<'_>,
    unit: &str,
) -> Result<(), StepError> {
    context.waits(format!("{unit} on {} to go on running", node.name()), SETTLED);
    let until = tokio::time::Instant::now() + SETTLED;
    let (mut run, mut since) = (run_of(node, unit).await?, tokio::time::Instant::now());
    loop {
        tokio::time::sleep(PAUSE).await;
        let now = run_of(node, unit).await?;
        if now.is_none() || now != run {
            (run, since) = (now, tokio::time::Instant::now());
        }
        if run.is_some() && since.elapsed() >= STEADY {
            return Ok(());
        }
        if tokio::time::Instant::now() >= until {
            break;
        }
    }
    let why = format!("{unit} on {} does not go on running", node.name());
    let error = StepError::new(why).without_effect();
    Err(error.hint(format!("journalctl -u {unit} on {} says why", node.name())))
}

/// Lets systemd read its files again.
pub(super) async fn reload(node: &dyn Node) -> Result<(), StepError> {
    match node.unit_do("", UnitAction::DaemonReload, RELOAD).await {
        Err(error) if error.kind == NodeErrorKind::Unsupported => Ok(()),
        other => other.map_err(failed),
    }
}

/// Until something is so that is waited for by hand, in seconds.
const BY_HAND: &str = "240";

/// A pod has a container, and all its ports are open.
const IS_UP: &str = "name=$1; shift; until [ -n \"$(crictl ps -q --name \"^$name\\$\")\" ] && \
                     (for port; do ss -Hltn | grep -q \":$port \" || exit 1; done); do sleep 1; done";

/// A pod has none, and none of its ports is open.
const IS_GONE: &str = "name=$1; shift; until found=$(crictl ps -q --name \"^$name\\$\") && \
                       [ -z \"$found\" ] && \
                       (for port; do ! ss -Hltn | grep -q \":$port \" || exit 1; done); do sleep 1; done";

/// systemd says that a unit runs.
const IS_ACTIVE: &str = "until systemctl is-active -q \"$1\"; do sleep 1; done";

/// Waits, at most so long as is good, until `script` ends.
fn wait(node: &Place, script: &str, words: impl IntoIterator<Item = String>) -> Command {
    let first = ["timeout", BY_HAND, "sh", "-c", script, "wait"].map(str::to_owned);
    Command::new(Some(node), first.into_iter().chain(words))
}

/// What a pod's waiting is told: its container and its ports.
fn pod_words(service: Service, ports: &[u16]) -> impl Iterator<Item = String> {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    std::iter::once(service.name().to_owned()).chain(ports)
}

fn move_manifest(node: &Place, from: &Path, to: &Path) -> Command {
    let text = |path: &Path| path.display().to_string();
    Command::new(Some(node), ["mv".to_owned(), "-nT".to_owned(), text(from), text(to)])
}

/// Stops all instances with stock commands: each is gone before the next.
pub(super) fn shell_stop(service: Service, instances: &[Instance]) -> Vec<Command> {
    let mut commands = Vec::new();
    for Instance { node, how, .. } in instances {
        let system = |words: &[&str]| Command::new(Some(node), words.iter().copied());
        match how {
            How::Unit { unit } => commands.push(system(&["systemctl", "stop", unit])),
            How::BootUnit { unit } => {
                commands.push(system(&["systemctl", "disable", "--now", unit]));
            }
            How::Pod { manifest, aside, ports } => {
                commands.push(move_manifest(node, manifest, aside));
                commands.push(wait(node, IS_GONE, pod_words(service, ports)));
            }
        }
    }
    commands
}

/// Starts all instances with stock commands, and then waits for each: a member of etcd is
/// ready only beside others.
pub(super) fn shell_start(service: Service, instances: &[Instance]) -> Vec<Command> {
    let (mut commands, mut waits) = (Vec::new(), Vec::new());
    for Instance { node, how, .. } in instances {
        let system = |words: &[&str]| Command::new(Some(node), words.iter().copied());
        match how {
            How::Unit { unit } | How::BootUnit { unit } => {
                if matches!(how, How::BootUnit { .. }) {
                    commands.push(system(&["systemctl", "enable", unit]));
                }
                commands.push(system(&["systemctl", "start", "--no-block", unit]));
                waits.push(wait(node, IS_ACTIVE, [unit.clone()]));
            }
            How::Pod { manifest, aside, ports } => {
                commands.push(move_manifest(node, aside, manifest));
                waits.push(wait(node, IS_UP, pod_words(service, ports)));
            }
        }
    }
    commands.append(&mut waits);
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is typed waits for what it says: the scripts run with a `crictl` and an `ss`
    /// that say what they are told.
    #[test]
    fn waiting_by_hand_ends_when_it_is_so() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for (program, says) in [("crictl", "containers"), ("ss", "sockets")] {
            let script = format!("#!/bin/sh\ncat {}\n", path(says).display());
            std::fs::write(path(program), script).unwrap();
            std::fs::set_permissions(path(program), PermissionsExt::from_mode(0o755)).unwrap();
        }
        let socket = |port: u16| format!("LISTEN 0 4096 127.0.0.1:{port} 0.0.0.0:*\n");
        let (both, one) = (socket(2379) + &socket(2380), socket(2379) + &socket(12380));
        let run = |patience: &str, script: &str, containers: &str, sockets: &str| {
            std::fs::write(path("containers"), containers).unwrap();
            std::fs::write(path("sockets"), sockets).unwrap();
            let words = pod_words(Service::Etcd, &[2379, 2380]);
            let path = format!("{}:/usr/bin:/bin", dir.path().display());
            let mut shell = std::process::Command::new("timeout");
            shell.args([patience, "sh", "-c", script, "wait"]).args(words).env("PATH", path);
            let status = shell.status().unwrap().code();
            assert!(matches!(status, Some(0 | 124)), "{status:?}");
            status == Some(0)
        };
        // What has to end has all the time that it takes, what must not has a moment.
        let ends = |script, containers, sockets| run("300", script, containers, sockets);
        let goes_on = |script, containers, sockets| !run("0.5", script, containers, sockets);
        assert!(ends(IS_UP, "abc\n", &both));
        assert!(goes_on(IS_UP, "abc\n", &one));
        assert!(goes_on(IS_UP, "", &both));
        assert!(ends(IS_GONE, "", &socket(6443)));
        assert!(goes_on(IS_GONE, "", &one));
        assert!(goes_on(IS_GONE, "abc\n", ""));
        std::fs::write(path("crictl"), "#!/bin/sh\nexit 1\n").unwrap();
        assert!(goes_on(IS_GONE, "", ""), "without an answer nothing is known to be gone");
    }
}
