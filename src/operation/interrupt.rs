//! A request to stop, checked where stopping needs a few last acts.

use tokio::sync::watch;

use super::failure::{Failure, FailureKind};

/// Tells when a signal came. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Interrupt(watch::Receiver<Option<i32>>);

/// The other end.
#[derive(Debug)]
pub struct Interruptor(watch::Sender<Option<i32>>);

/// Makes a pair.
pub fn channel() -> (Interruptor, Interrupt) {
    let (sender, receiver) = watch::channel(None);
    (Interruptor(sender), Interrupt(receiver))
}

impl Interruptor {
    /// Passes the signal on.
    pub fn interrupt(&self, signal: i32) {
        let _ = self.0.send(Some(signal));
    }
}

impl Interrupt {
    /// Never interrupts.
    pub fn never() -> Self {
        channel().1
    }

    /// Does `work` unless a signal comes before it is done; dropped half-way, it must
    /// leave nothing behind. `what` did not happen then.
    pub async fn or<T>(&mut self, what: &str, work: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            signal = self.signalled() => Err(stopped(what, signal)),
            done = work => Ok(done),
        }
    }

    /// Waits for a signal and returns its number; for ever when none comes.
    pub async fn signalled(&mut self) -> i32 {
        // What is held while it is looked at must not be held while it is waited for.
        let signal = self.0.wait_for(Option::is_some).await.map(|signal| signal.unwrap_or(0));
        match signal {
            Ok(signal) => signal,
            // The other end is gone: no signal can come any more.
            Err(_) => std::future::pending().await,
        }
    }
}

/// `what` did not happen because of a signal.
pub fn stopped(what: &str, signal: i32) -> Failure {
    Failure::new(FailureKind::Signal(signal), format!("{what}: stopped by {}", name(signal)))
}

/// A signal as people know it.
pub fn name(signal: i32) -> &'static str {
    match signal {
        2 => "Ctrl-C",
        15 => "SIGTERM",
        _ => "a signal",
    }
}
