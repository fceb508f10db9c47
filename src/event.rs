//! What happens while an operation runs, for whoever shows it.

use std::sync::Arc;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A phase with a known or unknown amount of bytes begins.
    Started {
        /// What is done, as a fragment: `snapshot from k2 (follower)`.
        what: String,
        /// Bytes in all, when known.
        total: Option<u64>,
    },
    /// The running phase has come this far.
    Progress {
        /// Bytes done since the phase began.
        done: u64,
    },
    /// The amount of the running phase became known.
    Total {
        /// Bytes in all.
        total: u64,
    },
    /// The running phase ended, well or not.
    Finished,
    /// Something a person should know although the work goes on.
    Warning(String),
    /// Something that was seen or done, for those who want details.
    Note(String),
    /// A step of a plan.
    Step(StepEvent),
}

/// What happens to a step of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepEvent {
    /// Its stage, from 1: what a person calls "step 4".
    pub stage: u32,
    /// Its number within the stage, from 1.
    pub step: u32,
    /// The nodes that it touches.
    pub nodes: Vec<String>,
    /// What it does, as a fragment.
    pub what: String,
    /// Whether it is taken back.
    pub undo: bool,
    /// What happens to it.
    pub phase: StepPhase,
}

/// How far a step of a plan is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepPhase {
    /// It begins; its intent is on record.
    Started,
    /// It waits for something, with a bound: `port 2379 to close, at most 30 s`.
    Waits(String),
    /// It has come this far.
    Progress(String),
    /// It is done, or undone.
    Done {
        /// It was so already.
        found: bool,
        /// How long it took.
        took: std::time::Duration,
    },
    /// It failed, for this reason.
    Failed(String),
}

/// Takes events; cheap to clone, called from any thread, never blocks for long.
#[derive(Clone)]
pub struct Events(Arc<dyn Fn(Event) + Send + Sync>);

impl Events {
    /// Sends every event to `sink`.
    pub fn new(sink: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }

    /// Drops every event.
    pub fn none() -> Self {
        Self::new(|_| {})
    }

    /// Reports `event`.
    pub fn send(&self, event: Event) {
        (self.0)(event);
    }

    /// Reports the beginning of a phase.
    pub fn started(&self, what: impl Into<String>, total: Option<u64>) {
        self.send(Event::Started { what: what.into(), total });
    }

    /// Reports how far the phase is.
    pub fn progress(&self, done: u64) {
        self.send(Event::Progress { done });
    }

    /// Reports the end of the phase.
    pub fn finished(&self) {
        self.send(Event::Finished);
    }

    /// Reports what a person should know.
    pub fn warn(&self, text: impl Into<String>) {
        self.send(Event::Warning(text.into()));
    }

    /// Reports a detail.
    pub fn note(&self, text: impl Into<String>) {
        self.send(Event::Note(text.into()));
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}
