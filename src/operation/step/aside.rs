//! The data of a member that is no member any more, set aside: renamed, never removed.

use std::path::{Path, PathBuf};

use super::data::{Part, keep, part, stands};
use super::file::failed;
use crate::node::Node;
use crate::plan::shell::Command;
use crate::plan::{Context, Place, PlanId, Probe, StepError};

/// Where what stands at `path` goes.
pub(crate) fn place_of(path: &Path, plan: PlanId) -> PathBuf {
    part(path.to_owned(), true, plan).before
}

fn parts(paths: &[PathBuf], plan: PlanId) -> impl DoubleEndedIterator<Item = Part> {
    paths.iter().map(move |path| part(path.clone(), true, plan))
}

/// Whether all is aside. What stands in its place since then is another's.
pub(super) async fn probe(
    node: &dyn Node,
    paths: &[PathBuf],
    plan: PlanId,
) -> Result<Probe, StepError> {
    let mut aside = 0;
    for part in parts(paths, plan) {
        aside += usize::from(stands(node, &part.before).await?);
    }
    Ok(match aside {
        0 => Probe::NotDone,
        all if all == paths.len() => Probe::Done([].into()),
        some => Probe::Partly(format!("{some} of {} directories are aside", paths.len())),
    })
}

/// Sets it aside.
pub(super) async fn apply(
    node: &dyn Node,
    paths: &[PathBuf],
    context: &Context<'_>,
) -> Result<(), StepError> {
    for part in parts(paths, context.plan) {
        if !stands(node, &part.before).await? {
            node.rename(&part.place, &part.before).await.map_err(failed)?;
        }
    }
    Ok(())
}

/// Puts it back. What etcd wrote in its place meanwhile is kept beside it.
pub(super) async fn undo(
    node: &dyn Node,
    paths: &[PathBuf],
    context: &Context<'_>,
) -> Result<(), StepError> {
    for part in parts(paths, context.plan).rev() {
        if !stands(node, &part.before).await? {
            continue;
        }
        if stands(node, &part.place).await? {
            keep(node, &part.place, &part.returned).await?;
        }
        node.rename(&part.before, &part.place).await.map_err(failed)?;
    }
    Ok(())
}

/// Keeps what a member wrote that is taken back, under another name.
pub(super) async fn take_back(
    node: &dyn Node,
    paths: &[PathBuf],
    context: &Context<'_>,
) -> Result<(), StepError> {
    for part in parts(paths, context.plan) {
        if stands(node, &part.place).await? {
            keep(node, &part.place, &part.returned).await?;
        }
    }
    Ok(())
}

/// With stock commands.
pub(super) fn shell(node: &Place, paths: &[PathBuf]) -> Vec<Command> {
    let command = |path: &PathBuf| {
        let from = path.display().to_string();
        let to = format!("{from}.before-by-hand");
        Command::new(Some(node), ["mv".to_owned(), "-nT".to_owned(), from, to])
    };
    paths.iter().map(command).collect()
}
