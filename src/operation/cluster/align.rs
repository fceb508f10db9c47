//! What members are told of their cluster, set as it is once it stands again.
//!
//! - `existing`, so that a start over an empty directory never makes a cluster of its own;
//!   all members in `initial-cluster`, the same on all nodes (row 7); no
//!   `force-new-cluster`.
//! - Members that find each other by records stay there: etcd refuses both.
//! - What no file says and none could say is said to the person. Only what would make
//!   another cluster at the next start is in the way.

use std::path::PathBuf;
use std::sync::Arc;

use super::planner::{Alignment, Mode};
use super::refused;
use crate::node::Node;
use crate::observe::{Dialect, EtcdService, Runs};
use crate::operation::failure::Failure;
use crate::operation::member::prepare::joining;
use crate::operation::preflight::Seen;
use crate::operation::returning::data::{DataNode, initial_cluster};
use crate::operation::step::configure::{NewValue, edits, edits_then};
use crate::operation::step::{Edit, How};
use crate::plan::StepError;

/// The settings that change, and what is left to a person: node and what.
pub(super) async fn alignment(
    seen: &Seen,
    nodes: &[DataNode],
    reached: &[Arc<dyn Node>],
    mode: Mode,
) -> Result<(Vec<Alignment>, Vec<(String, String)>), Failure> {
    let all = initial_cluster(nodes);
    let (mut found, mut by_hand) = (Vec::new(), Vec::new());
    for (number, data) in nodes.iter().enumerate() {
        let place = &data.member.node;
        let is = |name: &str| name == place.as_str();
        let etcd = seen.nodes.iter().find(|it| is(it.name().as_str())).and_then(|it| it.etcd());
        let node = reached.iter().find(|node| is(node.name().as_str()));
        let (Some(etcd), Some(node)) = (etcd, node) else { continue };
        let joins = mode == Mode::Sequential && number > 0;
        // One that joins names those that are there, or it is refused.
        let so_far = if joins { initial_cluster(&nodes[..=number]) } else { all.clone() };
        let wanted = joining(etcd, &so_far);
        let edited = edited(node.as_ref(), etcd, &data.etcd.how, &wanted, joins.then_some(&all));
        let failed = |error: StepError| {
            refused(format!("{place}: what its etcd is told cannot be set: {}", error.why))
        };
        let (edits, then) = match edited.await {
            Ok(both) => both,
            Err(error) if joins || etcd.settings.is_forced_new() => return Err(failed(error)),
            Err(error) => {
                by_hand.push((place.to_string(), by_hand_text(&wanted, &error)));
                continue;
            }
        };
        if edits.is_empty() && then.is_empty() {
            continue;
        }
        let of_systemd = |path: &PathBuf| {
            let is = |file: &&crate::observe::ConfiguredBy| file.path == *path;
            let file = etcd.files.iter().find(is);
            file.is_some_and(|file| matches!(file.dialect, Dialect::Unit | Dialect::DropIn))
        };
        let reload = match &etcd.runs {
            Runs::Unit { unit, .. } if edits.iter().chain(&then).any(|it| of_systemd(&it.path)) => {
                vec![unit.clone()]
            }
            _ => Vec::new(),
        };
        found.push(Alignment { node: place.clone(), edits, then, reload });
    }
    Ok((found, by_hand))
}

/// What changes before a member starts, and with `all` what changes when all are there.
async fn edited(
    node: &dyn Node,
    etcd: &EtcdService,
    how: &How,
    wanted: &[NewValue],
    all: Option<&String>,
) -> Result<(Vec<Edit>, Vec<Edit>), StepError> {
    let mut first = edits(node, etcd, wanted).await?;
    let then = match all {
        Some(all) if !etcd.settings.is_discovered() => {
            let all = [("initial-cluster".to_owned(), Some(all.clone()))];
            edits_then(node, etcd, &first, &all).await?
        }
        _ => Vec::new(),
    };
    // While it is stopped a manifest is out, and only then the kubelet does not see it.
    if let How::Pod { manifest, aside, .. } = how {
        for edit in first.iter_mut().filter(|edit| edit.path == *manifest) {
            edit.path.clone_from(aside);
        }
    }
    Ok((first, then))
}

fn by_hand_text(wanted: &[NewValue], error: &StepError) -> String {
    let each = wanted.iter().map(|(name, value)| match value {
        Some(value) => format!("{name}={value}"),
        None => format!("no {name}"),
    });
    let each: Vec<String> = each.collect();
    format!("its etcd is to be told {}: {}", each.join(" and "), error.why)
}
