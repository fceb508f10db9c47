//! Which machines are meant.

use std::sync::Arc;

use crate::node::local::LocalNode;
use crate::node::{Node, NodeName};
use crate::operation::failure::{Failure, FailureKind};

/// This machine, known by its host name without the domain.
pub fn this_machine() -> Result<Arc<dyn Node>, Failure> {
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy();
    let short = host.split('.').next().unwrap_or_default();
    let name = NodeName::new(short).map_err(|error| {
        Failure::new(FailureKind::Usage, "this machine has no usable name").because(error)
    })?;
    Ok(Arc::new(LocalNode::new(name)))
}

/// The machines that are named; this one where none is.
pub fn named(names: &[String]) -> Result<Vec<Arc<dyn Node>>, Failure> {
    let here = this_machine()?;
    if let Some(other) = names.iter().find(|name| *name != here.name().as_str()) {
        return Err(Failure::new(
            FailureKind::Usage,
            format!("it is not known how to reach node {other:?}"),
        )
        .hint(format!("this machine is {}; others stand in the configuration", here.name())));
    }
    Ok(vec![here])
}
