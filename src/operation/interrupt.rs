//! A request to stop, checked where stopping needs a few last acts.

use tokio::sync::watch;

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

    /// Waits for a signal and returns its number; for ever when none comes.
    pub async fn signalled(&mut self) -> i32 {
        match self.0.wait_for(Option::is_some).await {
            Ok(signal) => signal.unwrap_or(0),
            // The other end is gone: no signal can come any more.
            Err(_) => std::future::pending().await,
        }
    }
}
