//! What a step is: data that describes itself, and acts that look, do and undo.
//!
//! The rules that `tests/common/plan_matrix.rs` holds every step to:
//!
//! - `probe` changes nothing and says the truth at any time;
//! - `apply` may find its work half done or done, and then completes it;
//! - `undo` may find it done, half done, undone or never begun, and leaves the
//!   world as it was before;
//! - what a step gives to later ones can be found again by looking.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::shell::Command;
use super::{Place, PlanId, StepId};
use crate::event::{Event, Events, StepEvent, StepPhase};

/// What a step gave: names with short values, no secrets.
pub type Outputs = BTreeMap<String, String>;

/// A value of an output is at most so long.
pub const MAX_OUTPUT: usize = 4096;

/// A step as data: one variant of a serde enum of the operation.
pub trait Step:
    Serialize + DeserializeOwned + Clone + PartialEq + fmt::Debug + Send + Sync + 'static
{
    /// The version of the enum; grows when a variant is added or changed.
    const VERSION: u32;

    /// For people.
    fn describe(&self) -> Description;

    /// The same with stock commands, in order. Empty where there is nothing to
    /// type.
    fn shell(&self) -> Vec<Command>;

    /// The names of what it gives to later steps.
    fn provides(&self) -> Vec<String> {
        Vec::new()
    }

    /// The names of what it needs of earlier ones.
    fn needs(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What a step does in the world `W`. Each call must end by itself: waits have
/// bounds.
#[async_trait]
pub trait Act<W: Sync>: Step {
    /// Whether it is done, by looking alone.
    async fn probe(&self, world: &W, context: &Context<'_>) -> Result<Probe, StepError>;

    /// Does it, also when a part or all of it is done.
    async fn apply(&self, world: &W, context: &Context<'_>) -> Result<(), StepError>;

    /// Takes it back, also when only a part or nothing of it was done. Not called
    /// where [`Reversal`] says that there is nothing to undo.
    async fn undo(&self, world: &W, context: &Context<'_>) -> Result<(), StepError>;
}

/// A step for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Description {
    /// What is done: `stop etcd; wait until its ports are closed`.
    pub what: String,
    /// Why it has to be: `two members must not serve the same data`.
    pub reason: String,
    /// The nodes that it touches; empty when it touches none or all.
    pub nodes: Vec<Place>,
    /// How it is taken back.
    pub reversal: Reversal,
}

/// Whether and how a step can be taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reversal {
    /// It changes nothing that would have to be undone: a check, a copy in the
    /// vault.
    Nothing,
    /// Undoing leaves everything as it was.
    Undoable {
        /// By what: `start it`.
        by: String,
    },
    /// Undoing leaves something equally good, and not the same.
    Compensable {
        /// By what.
        by: String,
        /// What stays different.
        leaves: String,
    },
    /// There is no way back.
    Final {
        /// Why.
        why: String,
    },
}

/// What looking at a step's work found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// Nothing of it is done.
    NotDone,
    /// A part of it is done, or something else stands in its place.
    Partly(String),
    /// All of it is done; here is what it gives.
    Done(Outputs),
}

/// What a failed step did to the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Nothing, for certain.
    None,
    /// Something, or it cannot be known.
    Unknown,
}

/// Why a step was not done.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct StepError {
    /// Why, as a fragment. Never holds a secret: it goes into the journal.
    pub why: String,
    /// More lines, such as a unit's last ones in the system's journal.
    pub details: Vec<String>,
    /// What a person can do.
    pub hint: Option<String>,
    /// What it did before it failed.
    pub effect: Effect,
    /// What caused it.
    #[source]
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

impl StepError {
    /// A failure with unknown effect.
    pub fn new(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            details: Vec::new(),
            hint: None,
            effect: Effect::Unknown,
            source: None,
        }
    }

    /// The same with the knowledge that nothing was changed.
    #[must_use]
    pub fn without_effect(mut self) -> Self {
        self.effect = Effect::None;
        self
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with its cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

/// What a step may know beside the world.
#[derive(Debug)]
pub struct Context<'a> {
    /// The plan, for names of what is set aside.
    pub plan: PlanId,
    /// The cluster's name.
    pub cluster: &'a str,
    /// The step itself.
    pub step: StepId,
    /// What earlier steps gave.
    pub outputs: &'a Outputs,
    /// When this run began.
    pub begun: DateTime<Utc>,
    /// Where progress goes.
    pub events: &'a Events,
    /// What is said with it.
    pub event: &'a StepEvent,
}

impl Context<'_> {
    /// What an earlier step gave.
    pub fn output(&self, name: &str) -> Result<&str, StepError> {
        self.outputs.get(name).map(String::as_str).ok_or_else(|| {
            StepError::new(format!("no earlier step gave {name:?}")).without_effect()
        })
    }

    /// Says what the step waits for and until when: `port 2379 to close, at most 30 s`.
    pub fn waits(&self, text: impl Into<String>, at_most: Duration) {
        let text = format!("{}, at most {} s", text.into(), at_most.as_secs());
        self.tell(StepPhase::Waits(text));
    }

    /// Says how far the step is.
    pub fn progress(&self, text: impl Into<String>) {
        self.tell(StepPhase::Progress(text.into()));
    }

    fn tell(&self, phase: StepPhase) {
        self.events.send(Event::Step(StepEvent { phase, ..self.event.clone() }));
    }
}
