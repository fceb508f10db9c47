//! Ctrl-C and SIGTERM: the running operation is given up at its next wait, and what
//! it holds is cleaned up by its destructors.

use tokio::signal::unix::{SignalKind, signal};

use crate::operation::{Failure, FailureKind};

/// Runs `work` until it ends or a signal comes.
pub(crate) async fn or_interrupted<T>(
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    tokio::select! {
        // An operation that ended in the same moment has ended.
        biased;
        result = work => result,
        _ = interrupt.recv() => Err(interrupted(2)),
        _ = terminate.recv() => Err(interrupted(15)),
    }
}

fn no_signals(error: std::io::Error) -> Failure {
    Failure::new(FailureKind::Error, "cannot listen for signals").because(error)
}

fn interrupted(number: i32) -> Failure {
    let name = if number == 2 { "Ctrl-C" } else { "SIGTERM" };
    Failure::new(FailureKind::Signal(number), format!("stopped by {name}"))
}
