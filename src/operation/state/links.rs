//! Links on the way to what a configuration names.
//!
//! An archive has a link as a link and follows none. But where `/etc/kubernetes/pki` is
//! a link, what the configuration means by paths through it lies where it leads. So such
//! links are looked at beforehand, and what is meant beyond them becomes part of the
//! state under its own path. What no configuration names is led to by no link.

use std::collections::BTreeSet;
use std::path::PathBuf;

use futures_util::{StreamExt as _, stream};

use super::roots::{Places, Roots, Seen, may_be_links, roots};
use crate::node::{Node, NodeError, NodeErrorKind};
use crate::observe::reading::led;

/// Links that lead to paths with links in them.
const MAX_ROUNDS: usize = 8;
/// Paths that are looked at.
const MAX_PATHS: usize = 4000;
/// Paths that are looked at, at the same time.
const AT_ONCE: usize = 64;

/// What belongs to the state of `node`; the links that were found are added to `seen`.
///
/// # Errors
/// The node is lost.
pub(super) async fn followed(
    node: &dyn Node,
    seen: &mut Seen,
    places: &Places,
) -> Result<Roots, NodeError> {
    let mut known: BTreeSet<PathBuf> = BTreeSet::new();
    let mut found = roots(seen, places);
    for _ in 0..MAX_ROUNDS {
        let wanted: Vec<PathBuf> = may_be_links(&found)
            .into_iter()
            .filter(|path| !known.contains(path))
            .take(MAX_PATHS.saturating_sub(known.len()))
            .collect();
        known.extend(wanted.iter().cloned());
        let before = seen.links.len();
        let looks = stream::iter(wanted).map(|path| async move {
            let entry = node.stat(&path).await;
            (path, entry)
        });
        let mut looks = looks.buffered(AT_ONCE);
        while let Some((path, entry)) = looks.next().await {
            match entry {
                Ok(Some(entry)) => {
                    if let Some(target) = entry.target {
                        let to = led(&path, &target);
                        seen.links.insert(path, to);
                    }
                }
                Ok(None) => {}
                Err(error) if error.kind == NodeErrorKind::Lost => return Err(error),
                // The archive will say it.
                Err(_) => {}
            }
        }
        if seen.links.len() == before {
            break;
        }
        found = roots(seen, places);
    }
    Ok(found)
}
