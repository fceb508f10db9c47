//! The proof that nobody of the old cluster writes any more.
//!
//! A unit that systemd calls stopped is not enough: what counts is that the ports are
//! closed, that no process has the data open, and that no API server runs, whoever
//! started it. A node that was declared dead is tried from all the others.

use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _, join_all};

use super::file::failed;
use super::service::open;
use super::{Absent, Fenced};
use crate::node::{Node, NodeErrorKind, ProcessQuery};
use crate::plan::{Context, StepError};

/// Until everything is gone that was stopped.
const GONE: Duration = Duration::from_secs(60);
/// How often it is looked at.
const PAUSE: Duration = Duration::from_secs(1);
/// A node that is not dead accepts a connection within this.
const CONNECT: Duration = Duration::from_secs(3);

/// What still stands, a line each.
pub(super) async fn standing(
    nodes: &[(&dyn Node, &Fenced)],
    absent: &[Absent],
) -> Result<Vec<String>, StepError> {
    let mut looks = Vec::new();
    for (node, fenced) in nodes {
        looks.push(one(*node, fenced, absent).boxed());
    }
    let mut lines = Vec::new();
    for found in join_all(looks).await {
        lines.extend(found?);
    }
    Ok(lines)
}

async fn one(
    node: &dyn Node,
    fenced: &Fenced,
    absent: &[Absent],
) -> Result<Vec<String>, StepError> {
    let name = node.name();
    let mut lines = Vec::new();
    for port in open(node, &fenced.ports).await? {
        lines.push(format!("{name}: port {port} is open"));
    }
    for program in &fenced.programs {
        let query = ProcessQuery::Program(program.clone());
        for process in node.processes(query).await.map_err(failed)? {
            lines.push(format!("{name}: {program} runs as process {}", process.pid));
        }
    }
    for directory in &fenced.directories {
        let query = ProcessQuery::Holding(directory.clone());
        let holding = match node.processes(query).await {
            // Nobody has open what is not there.
            Err(error) if error.kind == NodeErrorKind::NotFound => continue,
            holding => holding.map_err(failed)?,
        };
        for process in holding {
            let program = process.program.display();
            let directory = directory.display();
            lines.push(format!("{name}: {program} ({}) has {directory} open", process.pid));
        }
    }
    let addresses: Vec<String> = absent.iter().map(|absent| absent.address.clone()).collect();
    if addresses.is_empty() {
        return Ok(lines);
    }
    let tried = node.reach(addresses, CONNECT).await.map_err(failed)?;
    for (tried, absent) in tried.iter().zip(absent) {
        if tried.error.is_none() {
            let (dead, address) = (&absent.node, &absent.address);
            lines.push(format!("{dead} was declared dead, and {address} answers {name}"));
        }
    }
    Ok(lines)
}

/// Waits until nothing stands any more. (Boxed: the compiler does not see otherwise that
/// whoever awaits it can move between threads.)
pub(super) fn fence<'a>(
    nodes: Vec<(&'a dyn Node, &'a Fenced)>,
    absent: &'a [Absent],
    context: &'a Context<'a>,
) -> BoxFuture<'a, Result<(), StepError>> {
    Box::pin(async move {
        let until = tokio::time::Instant::now() + GONE;
        loop {
            let lines = standing(&nodes, absent).await?;
            let Some(first) = lines.first() else { return Ok(()) };
            if tokio::time::Instant::now() >= until {
                let mut error = StepError::new("something could still write to the old cluster");
                error.details = lines;
                let error = error.without_effect();
                return Err(error.hint("stop it by hand, then go on; or roll back"));
            }
            context.waits(format!("{first} to end"), GONE);
            tokio::time::sleep(PAUSE).await;
        }
    })
}
