//! Kubernetes that keeps etcd in a way of its own: backing up works, a restore is its
//! own command's affair, which is named. Files that such a distribution writes anew at
//! each start, or that belong to a cluster it forgets, are not put in its way.

use super::failure::{Failure, FailureKind};
use super::state::nodes;
use crate::node::NodeName;
use crate::observe::{Distribution, Places};

/// Refuses to go on where `distribution`, found on `node`, restores by itself.
pub fn refused(distribution: Distribution, node: &NodeName, what: &str) -> Result<(), Failure> {
    let Some(own) = distribution.own_restore() else { return Ok(()) };
    let name = distribution.name();
    Err(Failure::new(
        FailureKind::Usage,
        format!("{what}: {node} runs {name}, which restores etcd by its own command"),
    )
    .state("nothing was changed")
    .hint(format!("etcdvault export latest -o SNAPSHOT.db, then: {own}")))
}

/// The same for this machine. One that cannot be looked at is none of these.
pub async fn refused_here(what: &str) -> Result<(), Failure> {
    let Ok(node) = nodes::this_machine() else { return Ok(()) };
    match Distribution::detect(node.as_ref(), &Places::default()).await {
        Ok(distribution) => refused(distribution, node.name(), what),
        Err(_) => Ok(()),
    }
}
