//! A request to stop, with two levels.

use tokio::sync::watch;

/// How urgent a request to stop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Go on.
    None,
    /// Finish the running steps and begin no other.
    AfterStep,
    /// Leave the running steps where they are.
    Now,
}

/// Tells whether and how to stop. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<Level>);

/// The other end.
#[derive(Debug, Clone)]
pub struct Stopper(watch::Sender<Level>);

/// Makes a pair.
pub fn channel() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(Level::None);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    /// One more Ctrl-C: the next level, which it returns.
    pub fn press(&self) -> Level {
        self.0.send_modify(|level| {
            *level = if *level == Level::None { Level::AfterStep } else { Level::Now };
        });
        *self.0.borrow()
    }
}

impl Stop {
    /// Never stops.
    pub fn never() -> Self {
        channel().1
    }

    /// How urgent it is now.
    pub fn level(&self) -> Level {
        *self.0.borrow()
    }

    /// Waits until it is as urgent as `level`; for ever when it never is.
    pub async fn reached(&self, level: Level) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|now| *now >= level).await.is_err() {
            // The other end is gone: no request can come any more.
            std::future::pending::<()>().await;
        }
    }
}
