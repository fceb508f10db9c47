//! Plans on the command line: shown, confirmed, run, and how they ended.

use std::fmt::Write as _;
use std::io::{BufRead as _, IsTerminal as _, Write as _};

use super::exit_code::Exit;
use super::human::{duration, printable};
use super::output::Output;
use super::table::{Align, Table};
use crate::event::{Event, Events};
use crate::operation::failure::chain;
use crate::operation::journal::{Back, Outcome, Owner, Plan, Report, RunError, Stop, channel};
use crate::operation::returning::{Step, StepEvent, StepPhase, as_shell, rows};
use crate::operation::{Failure, FailureKind};

/// The plan as people read it.
pub(crate) fn shown(plan: &Plan<Step>, width: Option<usize>) -> String {
    let mut text = format!("{}\n\n", printable(&plan.title));
    for fact in &plan.facts {
        let _ = writeln!(text, "  {:<9} {}", printable(&fact.name), printable(&fact.text));
    }
    text.push('\n');
    let mut table = Table::new(&[
        ("#", Align::Right, 0),
        ("WHERE", Align::Left, 0),
        ("WHAT", Align::Left, 0),
        ("UNDONE BY", Align::Left, 0),
    ]);
    for row in rows(plan) {
        let nodes: Vec<&str> = row.nodes.iter().map(|node| node.as_str()).collect();
        table.row(vec![
            row.number.to_string(),
            nodes.join(" "),
            printable(&row.what),
            row.undone_by.as_deref().map_or_else(|| "-".to_owned(), printable),
        ]);
    }
    text.push_str(&table.render(width));
    text
}

/// The plan as stock commands.
pub(crate) fn shell(plan: &Plan<Step>) -> String {
    as_shell(plan)
}

/// Asks for the cluster's name, unless `yes`.
pub(crate) fn confirm(cluster: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    let no = |what: &str| {
        Failure::new(FailureKind::Usage, what.to_owned()).state("everything is as it was")
    };
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(no("nobody is there to confirm the plan").hint("--yes, or a terminal"));
    }
    let _ = write!(
        std::io::stderr(),
        "\nType {} to go on, or Ctrl-C to leave everything as it is: ",
        printable(cluster)
    );
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    match read {
        Ok(_) if line.trim() == cluster => Ok(()),
        _ => Err(no("the plan was not confirmed")),
    }
}

/// Who runs a plan here.
pub(crate) fn owner() -> Owner {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let user = format!("uid {}", rustix::process::getuid().as_raw());
    Owner { user, host, pid: std::process::id() }
}

/// One line for each step that ended, with its time.
pub(crate) fn events(output: &Output) -> Events {
    let silent = output.is_json() || output.is_quiet();
    Events::new(move |event| {
        let Event::Step(step) = event else { return };
        let StepEvent { stage, step: number, nodes, what, undo, phase } = step;
        let back = if undo { "undo: " } else { "" };
        let head = format!("  {stage}.{number}  {}  {back}{}", nodes.join(" "), printable(&what));
        let line = match phase {
            StepPhase::Done { found: true, .. } => format!("{head}  (was so)"),
            StepPhase::Done { took, .. } => format!("{head}  {}", duration(took)),
            StepPhase::Failed(why) => format!("{head}  FAILED: {}", printable(&why)),
            StepPhase::Waits(what) => format!("  {stage}.{number}  waits for {}", printable(&what)),
            StepPhase::Started | StepPhase::Progress(_) => return,
        };
        if !silent {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    })
}

/// Ctrl-C once finishes the step, twice stops now. SIGTERM counts as Ctrl-C.
pub(crate) fn stop() -> Result<Stop, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |error: std::io::Error| {
        Failure::new(FailureKind::Error, "cannot listen for signals").because(error)
    };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let (stopper, stop) = channel();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            stopper.press();
        }
    });
    Ok(stop)
}

/// Why a run did not begin.
pub(crate) fn not_begun(error: RunError) -> Failure {
    let kind = match () {
        () if error.is_busy() => FailureKind::Busy,
        () if error.is_corruption() => FailureKind::Corrupt,
        () => FailureKind::Error,
    };
    let hint = match &error {
        RunError::Unfinished { id, .. } => {
            Some(format!("etcdvault resume {id}, or etcdvault rollback {id}"))
        }
        RunError::Lock(_) if error.is_busy() => {
            Some("wait, or where its owner is gone: --take-over-lock".to_owned())
        }
        RunError::BeyondReturn { instead, .. } => Some(instead.clone()),
        _ => error.places().iter().find_map(|place| place.hint.clone()),
    };
    let places: Vec<String> = error.places().iter().map(ToString::to_string).collect();
    let mut failure = Failure::new(kind, "the plan was not run").because(error);
    // One that is its own cause is said there.
    if places.len() > 1 || !failure.causes().iter().any(|cause| places.contains(cause)) {
        failure.details = places;
    }
    failure.hint = hint;
    failure.state("no step was touched")
}

/// How a run ended.
pub(crate) fn ended(report: &Report, output: &Output) -> Result<Exit, Failure> {
    for warning in &report.warnings {
        output.complaint(&format!("warning: {}", printable(warning)));
    }
    let what = match &report.outcome {
        Outcome::Applied | Outcome::RolledBack => return Ok(done(report, output)),
        Outcome::Stopped { .. } => match report.next_stage {
            Some(stage) => format!("stopped before step {stage}"),
            None => "stopped".to_owned(),
        },
        Outcome::Failed(_) => "a step failed".to_owned(),
        Outcome::LockLost => "the cluster's lock was lost".to_owned(),
        Outcome::JournalFailed(_) => "the journal could not be written".to_owned(),
    };
    let stopped = matches!(report.outcome, Outcome::Stopped { .. });
    let kind = if stopped { FailureKind::Signal(2) } else { FailureKind::Error };
    let mut failure = Failure::new(kind, what);
    if let Outcome::Failed(failures) = &report.outcome {
        for failed in failures {
            failure = failure.detail(format!("{} {}: {}", failed.step, failed.what, failed.error));
            for line in &failed.error.details {
                failure = failure.detail(line.clone());
            }
            if let Some(hint) = &failed.error.hint {
                failure = failure.hint(hint.clone());
            }
        }
    }
    if let Outcome::JournalFailed(error) = &report.outcome {
        failure.details.extend(chain(error));
        failure.hint = error.places().iter().find_map(|place| place.hint.clone());
    }
    if let Some(on) = report.go_on() {
        failure = failure.detail(format!("go on:    {on}"));
    }
    if let Some(back) = report.go_back() {
        let steps = match report.back {
            Back::Stages { last, first } => format!("     (steps {last} to {first})"),
            _ => String::new(),
        };
        failure = failure.detail(format!("go back:  {back}{steps}"));
    }
    Err(failure)
}

fn done(report: &Report, output: &Output) -> Exit {
    let rolled_back = matches!(report.outcome, Outcome::RolledBack);
    let ending = if rolled_back { "rolled-back" } else { "applied" };
    let value = serde_json::json!({
        "plan": report.plan, "ending": ending, "outputs": report.outputs,
        "left": report.left,
    });
    output.result(&value, || {
        if rolled_back {
            return format!("plan {} is rolled back\n", report.plan);
        }
        let mut text = format!("plan {} is done: every step was checked\n", report.plan);
        if let Some(saved) = report.outputs.get("saved") {
            let _ = writeln!(text, "  the state before: {}", printable(saved));
        }
        if let Some(back) = report.go_back() {
            let _ = writeln!(text, "  go back:  {back}");
        }
        text
    });
    if report.is_complete() { Exit::Ok } else { Exit::Partial }
}
