//! A generic engine for changes that survive being killed anywhere and can be
//! undone. It knows steps, not etcd and not nodes.
//!
//! - A [`Plan`] is data: it is shown first, and executing it makes no choices.
//! - Before a step acts, its intent is durable on every node that it touches
//!   ([`journal`]); so any machine that reaches the nodes can go on or back.
//! - Whether a step is done is always found by looking ([`Act::probe`]), before it
//!   is applied, after it, and when a run that was killed is taken up again.
//! - One operation at a time works on a cluster ([`lock`]).
//! - A plan holds no secrets: what is secret (`types::Secret`) cannot be
//!   serialized, and so is no part of a step.
//!
//! What the engine needs of the world are four traits: [`Act`] for the steps,
//! [`journal::JournalStore`] and [`lock::LockStore`] for the places, and a clock.

pub mod execute;
pub mod journal;
pub mod lock;
pub mod record;
pub mod shell;
pub mod step;
pub mod stop;
pub mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use step::{Act, Context, Description, Effect, Outputs, Probe, Reversal, Step, StepError};

/// The format of plans and journals that this program writes.
pub const FORMAT: Format = Format { version: 1, oldest_reader: 1 };

/// Where nodes keep journals: `<plan id>/plan.json` and `<plan id>/records`.
pub const JOURNAL_DIRECTORY: &str = "/var/lib/etcdvault/journal";

/// Where nodes keep the locks of clusters: `<cluster>.lock`.
pub const LOCK_DIRECTORY: &str = "/var/lib/etcdvault/lock";

/// A plan is at most so many bytes of JSON.
pub const MAX_PLAN: usize = 1 << 20;

/// A plan has at most so many steps.
const MAX_STEPS: usize = 10_000;

/// Version of a format, and the oldest reader that understands it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Format {
    /// What was written.
    pub version: u32,
    /// A reader of an older format must refuse.
    pub oldest_reader: u32,
}

/// A place that keeps journals: a node by its name. 1 to 63
/// characters of `a-z A-Z 0-9 . _ -`, beginning with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Place(String);

/// A text that is no name of a place or cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a name: 1 to 63 letters, digits, dots, underscores and hyphens")]
pub struct InvalidName(String);

/// Whether `text` can stand in a file's name.
fn is_name(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    first
        && text.len() <= 63
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

impl Place {
    /// The place `name`.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
        let name = name.into();
        if is_name(&name) { Ok(Self(name)) } else { Err(InvalidName(name)) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Place {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(text)
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        place.0
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A plan's id: a ULID, 26 characters of Crockford's base 32, upper case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PlanId(ulid::Ulid);

/// A text that is no plan's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the id of a plan: 26 letters and digits such as 01JD3A00000000000000000000")]
pub struct InvalidPlanId(String);

impl PlanId {
    /// A new one.
    pub fn generate() -> Self {
        Self(ulid::Ulid::generate())
    }
}

impl FromStr for PlanId {
    type Err = InvalidPlanId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id = ulid::Ulid::from_string(text).map_err(|_| InvalidPlanId(text.to_owned()))?;
        // One spelling only: it names a directory.
        if id.to_string() == text { Ok(Self(id)) } else { Err(InvalidPlanId(text.to_owned())) }
    }
}

impl TryFrom<String> for PlanId {
    type Error = InvalidPlanId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PlanId> for String {
    fn from(id: PlanId) -> Self {
        id.0.to_string()
    }
}

impl fmt::Display for PlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a step stands: its stage and its number within it, both from 1. Written
/// `4.2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StepId {
    /// The stage, from 1: what a person calls "step 4".
    pub stage: u32,
    /// The step within the stage, from 1.
    pub step: u32,
}

/// A text that names no step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no step: it is written as 4.2, stage and number")]
pub struct InvalidStepId(String);

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.stage, self.step)
    }
}

impl FromStr for StepId {
    type Err = InvalidStepId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (stage, step) = parse_pair(text).ok_or_else(|| InvalidStepId(text.to_owned()))?;
        Ok(Self { stage, step })
    }
}

/// Two numbers from 1 with a dot between, in their only spelling.
fn parse_pair(text: &str) -> Option<(u32, u32)> {
    let (a, b) = text.split_once('.')?;
    let (a, b): (u32, u32) = (a.parse().ok()?, b.parse().ok()?);
    (a > 0 && b > 0 && format!("{a}.{b}") == text).then_some((a, b))
}

impl TryFrom<String> for StepId {
    type Error = InvalidStepId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<StepId> for String {
    fn from(id: StepId) -> Self {
        id.to_string()
    }
}

/// A line that says what the plan means for people: `Lost`, `Kept`, `Down`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fact {
    /// One word.
    pub name: String,
    /// The rest of the line.
    pub text: String,
}

/// Steps that may run at the same time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, bound = "S: Step")]
pub struct Stage<S> {
    /// How many of them at once; with 1 they run in their order.
    pub at_once: u32,
    /// At least one.
    pub steps: Vec<S>,
}

impl<S> Stage<S> {
    /// Steps one after the other.
    pub fn in_order(steps: Vec<S>) -> Self {
        Self { at_once: 1, steps }
    }

    /// Steps at the same time, at most `at_once` of them.
    pub fn at_once(at_once: u32, steps: Vec<S>) -> Self {
        Self { at_once, steps }
    }
}

/// The point beyond which there is no way back by undoing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastFreeReturn {
    /// Once this stage has begun, nothing is undone any more.
    pub before_stage: u32,
    /// Why, as a fragment: `clients write to the new store`.
    pub why: String,
    /// What to do instead.
    pub instead: String,
}

/// What is to be done, as data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, bound = "S: Step")]
pub struct Plan<S> {
    /// Version of this shape.
    pub format: Format,
    /// Version of the operation's steps ([`Step::VERSION`]).
    pub steps_version: u32,
    /// Its id.
    pub id: PlanId,
    /// The cluster's name.
    pub cluster: String,
    /// The operation, as it is typed: `restore cluster`.
    pub operation: String,
    /// One line for people.
    pub title: String,
    /// When it was made.
    pub made: DateTime<Utc>,
    /// What it means.
    pub facts: Vec<Fact>,
    /// The nodes that keep the journal and the lock: all that a step touches, and
    /// the other nodes of the cluster.
    pub nodes: BTreeSet<Place>,
    /// What is done, in this order.
    pub stages: Vec<Stage<S>>,
    /// Beyond it nothing is undone. Without it everything can be.
    pub last_free_return: Option<LastFreeReturn>,
}

/// Why a plan is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanFault {
    /// Written for a newer reader.
    #[error("the plan has format {found}, this program knows {known}: use a newer etcdvault")]
    TooNew {
        /// What the plan needs.
        found: u32,
        /// What is known here.
        known: u32,
    },
    /// A rule that a planner must keep is broken.
    #[error("the plan is not well formed: {0}")]
    Malformed(String),
}

fn malformed<T>(why: impl Into<String>) -> Result<T, PlanFault> {
    Err(PlanFault::Malformed(why.into()))
}

impl<S: Step> Plan<S> {
    /// A plan without facts and stages.
    pub fn new(
        id: PlanId,
        cluster: impl Into<String>,
        operation: impl Into<String>,
        title: impl Into<String>,
        made: DateTime<Utc>,
        nodes: impl IntoIterator<Item = Place>,
    ) -> Self {
        Self {
            format: FORMAT,
            steps_version: S::VERSION,
            id,
            cluster: cluster.into(),
            operation: operation.into(),
            title: title.into(),
            made,
            facts: Vec::new(),
            nodes: nodes.into_iter().collect(),
            stages: Vec::new(),
            last_free_return: None,
        }
    }

    /// Adds a fact.
    #[must_use]
    pub fn fact(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.facts.push(Fact { name: name.into(), text: text.into() });
        self
    }

    /// Adds a stage.
    #[must_use]
    pub fn stage(mut self, stage: Stage<S>) -> Self {
        self.stages.push(stage);
        self
    }

    /// Says that the stage which is added next is beyond the last free return.
    #[must_use]
    pub fn no_return_from_here(
        mut self,
        why: impl Into<String>,
        instead: impl Into<String>,
    ) -> Self {
        let before_stage = u32::try_from(self.stages.len()).unwrap_or(u32::MAX).saturating_add(1);
        self.last_free_return =
            Some(LastFreeReturn { before_stage, why: why.into(), instead: instead.into() });
        self
    }

    /// Every step with its id, in the plan's order.
    pub fn steps(&self) -> impl DoubleEndedIterator<Item = (StepId, &S)> {
        (1u32..).zip(&self.stages).collect::<Vec<_>>().into_iter().flat_map(|(stage, steps)| {
            let steps = (1u32..).zip(&steps.steps).collect::<Vec<_>>();
            steps.into_iter().map(move |(step, it)| (StepId { stage, step }, it))
        })
    }

    /// The step `id`.
    pub fn step(&self, id: StepId) -> Option<&S> {
        let stage = self.stages.get(usize::try_from(id.stage.checked_sub(1)?).ok()?)?;
        stage.steps.get(usize::try_from(id.step.checked_sub(1)?).ok()?)
    }

    /// The nodes that journal the step `id`: those it touches, or all.
    pub fn journals_of(&self, id: StepId) -> BTreeSet<Place> {
        let nodes = self.step(id).map(|step| step.describe().nodes).unwrap_or_default();
        if nodes.is_empty() { self.nodes.clone() } else { nodes.into_iter().collect() }
    }

    /// Whether the stage is beyond the last free return.
    pub fn is_beyond_return(&self, stage: u32) -> bool {
        self.last_free_return.as_ref().is_some_and(|last| stage >= last.before_stage)
    }

    /// Checks what a planner must keep: names, bounds, that what a step needs is
    /// there before it, and that what is final lies beyond the last free return.
    pub fn check(&self) -> Result<(), PlanFault> {
        if self.format.oldest_reader > FORMAT.version {
            return Err(PlanFault::TooNew {
                found: self.format.oldest_reader,
                known: FORMAT.version,
            });
        }
        if self.steps_version > S::VERSION {
            return Err(PlanFault::TooNew { found: self.steps_version, known: S::VERSION });
        }
        if !is_name(&self.cluster) {
            return malformed(InvalidName(self.cluster.clone()).to_string());
        }
        if self.nodes.is_empty() {
            return malformed("it names no node that could keep its journal");
        }
        if self.stages.iter().any(|stage| stage.steps.is_empty() || stage.at_once == 0) {
            return malformed("a stage has no steps, or may run none of them");
        }
        let count: usize = self.stages.iter().map(|stage| stage.steps.len()).sum();
        if count == 0 || count > MAX_STEPS {
            return malformed(format!("it has {count} steps; 1 to {MAX_STEPS} are possible"));
        }
        self.check_return()?;
        self.check_steps()
    }

    fn check_return(&self) -> Result<(), PlanFault> {
        let stages = u32::try_from(self.stages.len()).unwrap_or(u32::MAX);
        match &self.last_free_return {
            Some(last) if last.before_stage == 0 || last.before_stage > stages => {
                malformed(format!("the last free return is before stage {}", last.before_stage))
            }
            _ => Ok(()),
        }
    }

    fn check_steps(&self) -> Result<(), PlanFault> {
        // Where each output comes from.
        let mut outputs: BTreeMap<String, StepId> = BTreeMap::new();
        for (id, step) in self.steps() {
            let described = step.describe();
            if let Some(node) = described.nodes.iter().find(|node| !self.nodes.contains(node)) {
                return malformed(format!(
                    "step {id} touches {node}, which keeps no journal of it"
                ));
            }
            if matches!(described.reversal, Reversal::Final { .. })
                && !self.is_beyond_return(id.stage)
            {
                return malformed(format!(
                    "step {id} is final, and not beyond the last free return"
                ));
            }
            for need in step.needs() {
                let in_order = self.stages[id.stage as usize - 1].at_once == 1;
                match outputs.get(&need) {
                    Some(from) if from.stage < id.stage || in_order => {}
                    Some(from) => {
                        return malformed(format!(
                            "step {id} needs {need:?} of step {from}, which runs at the same time"
                        ));
                    }
                    None => {
                        return malformed(format!(
                            "step {id} needs {need:?}, which no earlier one gives"
                        ));
                    }
                }
            }
            for output in step.provides() {
                if !is_name(&output) {
                    return malformed(format!("step {id}: {}", InvalidName(output)));
                }
                if let Some(from) = outputs.insert(output.clone(), id) {
                    return malformed(format!("steps {from} and {id} both give {output:?}"));
                }
            }
        }
        Ok(())
    }

    /// The plan as the bytes that go into a journal.
    pub fn to_bytes(&self) -> Result<Vec<u8>, PlanFault> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| PlanFault::Malformed(error.to_string()))?;
        bytes.push(b'\n');
        if bytes.len() > MAX_PLAN {
            return malformed(format!("it takes {} bytes; {MAX_PLAN} are possible", bytes.len()));
        }
        Ok(bytes)
    }

    /// Reads and checks a plan; the bytes may be anything.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PlanFault> {
        if bytes.len() > MAX_PLAN {
            return malformed(format!("it has {} bytes; {MAX_PLAN} are possible", bytes.len()));
        }
        let head = PlanHead::from_bytes(bytes)?;
        if head.format.oldest_reader > FORMAT.version {
            return Err(PlanFault::TooNew {
                found: head.format.oldest_reader,
                known: FORMAT.version,
            });
        }
        if head.steps_version > S::VERSION {
            return Err(PlanFault::TooNew { found: head.steps_version, known: S::VERSION });
        }
        let plan: Self = serde_json::from_slice(bytes)
            .map_err(|error| PlanFault::Malformed(error.to_string()))?;
        plan.check()?;
        Ok(plan)
    }
}

/// What can be read of a plan whatever its steps are: enough to list it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanHead {
    /// Version of the shape.
    pub format: Format,
    /// Version of the steps.
    pub steps_version: u32,
    /// Its id.
    pub id: PlanId,
    /// The cluster's name.
    pub cluster: String,
    /// The operation.
    pub operation: String,
    /// One line for people.
    pub title: String,
    /// When it was made.
    pub made: DateTime<Utc>,
    /// The nodes that keep its journal.
    pub nodes: BTreeSet<Place>,
}

impl PlanHead {
    /// Reads the head of a plan; the bytes may be anything.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PlanFault> {
        if bytes.len() > MAX_PLAN {
            return malformed(format!("it has {} bytes; {MAX_PLAN} are possible", bytes.len()));
        }
        serde_json::from_slice(bytes).map_err(|error| PlanFault::Malformed(error.to_string()))
    }
}
