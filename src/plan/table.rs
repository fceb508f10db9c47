//! A plan as rows, for whoever prints it.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Place, Plan, Reversal, Step, StepId};

/// A row: the steps of one stage that do the same, on all their nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The stage, from 1: what a person calls "step 4".
    pub number: u32,
    /// The steps in it.
    pub steps: Vec<StepId>,
    /// The nodes, in the order in which they come.
    pub nodes: Vec<Place>,
    /// Whether the nodes are worked at the same time.
    pub at_once: bool,
    /// What is done.
    pub what: String,
    /// Why.
    pub reason: String,
    /// By what it is undone; `None` where there is nothing to undo.
    pub undone_by: Option<String>,
    /// Whether it is beyond the last free return: not undone at all.
    pub beyond_return: bool,
}

/// The rows of `plan` in its order.
pub fn rows<S: Step>(plan: &Plan<S>) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (id, step) in plan.steps() {
        let about = step.describe();
        let undone_by = match &about.reversal {
            Reversal::Nothing => None,
            Reversal::Undoable { by } => Some(by.clone()),
            Reversal::Compensable { by, leaves } => Some(format!("{by}; {leaves}")),
            Reversal::Final { why } => Some(format!("nothing: {why}")),
        };
        // Only neighbours: rows keep the order in which things happen.
        let same = rows.last_mut().filter(|row| {
            row.number == id.stage && row.what == about.what && row.undone_by == undone_by
        });
        if let Some(row) = same {
            let known: BTreeSet<Place> = row.nodes.iter().cloned().collect();
            row.steps.push(id);
            row.nodes.extend(about.nodes.into_iter().filter(|node| !known.contains(node)));
            continue;
        }
        rows.push(Row {
            number: id.stage,
            steps: vec![id],
            nodes: about.nodes,
            at_once: plan.stages[id.stage as usize - 1].at_once > 1,
            what: about.what,
            reason: about.reason,
            undone_by,
            beyond_return: plan.is_beyond_return(id.stage),
        });
    }
    rows
}
