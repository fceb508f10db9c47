//! Programs that remember what a cluster held, started anew.
//!
//! Controllers, scheduler and kubelet keep what they once read and act on it; after a
//! restore that is not what the API servers have. A process that is younger than its
//! node's API server has read nothing else: so it is known, by the node's clock alone,
//! which are still to be started anew.

use std::time::Duration;

use super::file::failed;
use crate::node::{ContainerQuery, Node, Process, ProcessQuery, UnitAction};
use crate::plan::{Context, StepError};

/// A controller has nothing to put in order.
const GRACE: Duration = Duration::from_secs(2);
/// A unit that stops or starts.
const UNIT: Duration = Duration::from_secs(120);
/// Until the kubelet has started a container again.
const BACK: Duration = Duration::from_secs(180);
/// How often it is looked at.
const PAUSE: Duration = Duration::from_secs(1);

async fn running(node: &dyn Node, program: &str) -> Result<Vec<Process>, StepError> {
    node.processes(ProcessQuery::Program(program.to_owned())).await.map_err(failed)
}

/// Those of `programs` on the node that are older than its API server.
pub(super) async fn stale(
    node: &dyn Node,
    programs: &[String],
) -> Result<Vec<(String, Process)>, StepError> {
    let servers = running(node, super::Service::ApiServer.name()).await?;
    let Some(since) = servers.iter().map(|process| process.started).max() else {
        return Ok(Vec::new());
    };
    let mut stale = Vec::new();
    for program in programs {
        let old = running(node, program).await?;
        let old = old.into_iter().filter(|process| process.started < since);
        stale.extend(old.map(|process| (program.clone(), process)));
    }
    Ok(stale)
}

/// The unit that a process is of.
fn unit_of(process: &Process) -> Option<&str> {
    process.cgroup.split('/').rfind(|part| part.ends_with(".service"))
}

/// Starts anew what is stale, and waits until as many run as before.
pub(super) async fn restart(
    node: &dyn Node,
    programs: &[String],
    context: &Context<'_>,
) -> Result<(), StepError> {
    let name = node.name();
    let mut restarted: Vec<String> = Vec::new();
    for (program, process) in stale(node, programs).await? {
        context.progress(format!("starting {program} on {name} anew"));
        if process.root.is_some() {
            let query = ContainerQuery {
                namespace: Some("kube-system".to_owned()),
                name: Some(program.clone()),
                ended: false,
            };
            for container in node.containers(query).await.map_err(failed)? {
                node.stop_container(&container.id, GRACE).await.map_err(failed)?;
            }
        } else if let Some(unit) = unit_of(&process) {
            node.unit_do(unit, UnitAction::Stop, UNIT).await.map_err(failed)?;
            node.unit_do(unit, UnitAction::Start, UNIT).await.map_err(failed)?;
        } else {
            let why = format!("{program} on {name} (process {}) is of no unit", process.pid);
            return Err(StepError::new(why).hint("start it anew by hand, then go on"));
        }
        if !restarted.contains(&program) {
            restarted.push(program);
        }
    }
    let until = tokio::time::Instant::now() + BACK;
    for program in &restarted {
        loop {
            let one = std::slice::from_ref(program);
            if stale(node, one).await?.is_empty() && !running(node, program).await?.is_empty() {
                break;
            }
            if tokio::time::Instant::now() >= until {
                let why = format!("{program} on {name} did not come back");
                return Err(StepError::new(why));
            }
            context.waits(format!("{program} on {name} to be back"), BACK);
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}
