//! `etcdvault node-agent`: the other end of a node over SSH. Started by etcdvault
//! itself, spoken to on standard input and output, and gone with them.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::node::NodeName;
use crate::node::agent::{self, stdio};
use crate::node::local::LocalNode;
use crate::node::remote::Keepalive;
use crate::node::remote::preamble::Identity;
use crate::operation::{Failure, FailureKind};

/// The operator's side has deadlines of its own, and none longer for a call that
/// makes no progress.
const CALL_BOUND: Duration = Duration::from_secs(600);

/// Serve this machine to an etcdvault on standard input and output
#[derive(Debug, Args)]
pub(crate) struct NodeAgentArgs {
    /// The SHA-256 of this program's file, where the caller has checked it
    #[arg(long, value_name = "HEX")]
    digest: Option<String>,
}

/// Serves until the connection ends.
pub(crate) async fn run(args: NodeAgentArgs) -> Result<(), Failure> {
    let failed = |what: &str, error: std::io::Error| {
        Failure::new(FailureKind::Error, what.to_owned()).because(error)
    };
    // A Ctrl-C is the operator's business; the connection's end is this one's.
    // Handlers stay when their streams are dropped.
    for kind in [SignalKind::interrupt(), SignalKind::hangup()] {
        drop(signal(kind).map_err(|error| failed("cannot listen for signals", error))?);
    }
    let mut terminate = signal(SignalKind::terminate())
        .map_err(|error| failed("cannot listen for signals", error))?;
    let (reader, writer) =
        stdio::take().map_err(|error| failed("cannot take over standard input", error))?;
    let digest = match args.digest {
        Some(digest) => digest,
        None => agent::own_digest()
            .await
            .map_err(|error| failed("cannot read the program's own file", error))?,
    };
    let name = NodeName::new("node")
        .map_err(|error| Failure::new(FailureKind::Error, "no name").because(error))?;
    let node = Arc::new(LocalNode::new(name).deadline(CALL_BOUND));
    let identity = Identity::own(digest);
    let served = agent::serve(reader, writer, node, &identity, Keepalive::default());
    tokio::select! {
        result = served => result.map_err(|error| {
            Failure::new(FailureKind::Error, "the agent ended").because(error)
        }),
        _ = terminate.recv() => Ok(()),
    }
}
