//! Ctrl-C and SIGTERM. Most operations are given up at their next wait, and what
//! they hold is cleaned up by its destructors; one that has something to call off
//! elsewhere is told and given some time. A second signal ends that.

use tokio::signal::unix::{SignalKind, signal};

use crate::operation::interrupt::{self, Interrupt};
use crate::operation::{Failure, FailureKind};

/// How long an operation may take to call off what it began.
const GRACE: std::time::Duration = std::time::Duration::from_secs(15);

/// Runs `work`, which watches the [`Interrupt`] that it is given.
pub(crate) async fn with_grace<T, F>(work: impl FnOnce(Interrupt) -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let (interruptor, watched) = interrupt::channel();
    let mut work = std::pin::pin!(work(watched));
    let number = tokio::select! {
        biased;
        result = &mut work => return result,
        _ = interrupt.recv() => 2,
        _ = terminate.recv() => 15,
    };
    interruptor.interrupt(number);
    tokio::select! {
        biased;
        result = &mut work => result,
        _ = interrupt.recv() => Err(interrupted(2)),
        _ = terminate.recv() => Err(interrupted(15)),
        () = tokio::time::sleep(GRACE) => Err(interrupted(number)),
    }
}

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
    let what = format!("stopped by {}", interrupt::name(number));
    Failure::new(FailureKind::Signal(number), what)
}

/// Waits, within a bound, for what destructors left to tasks of their own: an upload
/// that is called off takes a request.
pub(crate) async fn settle() {
    const BOUND: std::time::Duration = std::time::Duration::from_secs(5);
    const STEP: std::time::Duration = std::time::Duration::from_millis(20);
    let metrics = tokio::runtime::Handle::current().metrics();
    let begun = std::time::Instant::now();
    while metrics.num_alive_tasks() > 0 && begun.elapsed() < BOUND {
        tokio::time::sleep(STEP).await;
    }
}
