//! The proof that what was recovered is still all that there is.
//!
//! What members left can be read while they run without a leader. One that found its
//! majority again since then wrote an entry, and so has another end of its log now.

use futures_util::future::join_all;

use super::Left;
use super::file::failed;
use crate::datadir::remains::LogRemains;
use crate::node::{Node, RemainsSpec};
use crate::plan::StepError;
use crate::plan::shell::Command;

async fn last(node: &dyn Node, left: &Left) -> Result<Option<(u64, u64)>, StepError> {
    let (data_dir, wal_dir) = (left.data_dir.clone(), left.wal_dir.clone());
    let spec = RemainsSpec { data_dir, wal_dir, database: false };
    let found = node.remains(spec).await.map_err(failed)?;
    Ok(found.remains.log.as_ref().and_then(LogRemains::last))
}

/// Which members wrote, a line each.
pub(super) async fn written(members: &[(&dyn Node, &Left)]) -> Result<Vec<String>, StepError> {
    let looks = members.iter().map(|(node, left)| last(*node, left));
    let mut lines = Vec::new();
    for (now, (node, left)) in join_all(looks).await.into_iter().zip(members) {
        let now = now?;
        if now != left.last {
            let (node, then, now) = (node.name(), said(left.last), said(now));
            lines.push(format!("{node}: its log ended {then}, and ends {now}"));
        }
    }
    Ok(lines)
}

fn said(last: Option<(u64, u64)>) -> String {
    match last {
        Some((term, index)) => format!("at entry {index} of term {term}"),
        None => "nowhere".to_owned(),
    }
}

/// An error where one wrote.
pub(super) async fn check(members: &[(&dyn Node, &Left)]) -> Result<(), StepError> {
    let lines = written(members).await?;
    if lines.is_empty() {
        return Ok(());
    }
    let mut error = StepError::new("members wrote after they were looked at").without_effect();
    error.details = lines;
    Err(error.hint(
        "roll back: where the members find a leader again, the cluster goes on by itself; else \
         recover it anew",
    ))
}

pub(super) fn shell(left: &Left) -> Command {
    let dir = left.data_dir.display().to_string();
    Command::new(Some(&left.node), ["etcdvault", "recover", "data-dir", &dir])
}
