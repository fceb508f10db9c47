//! Plans on the command line: shown, confirmed, run, and how they ended.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use serde_json::{Value, json};

use super::exit_code::Exit;
use super::human::printable;
use super::output::Output;
use super::table::{Align, Table};
use super::ways::Typed;
use crate::config::Setup;
use crate::operation::interrupt;
use crate::operation::journal::{
    Back, Direction, JournalError, Level, Outcome, Owner, Plan, Report, RunError, StepState, Stop,
    channel,
};
use crate::operation::returning::{Step, as_shell, checks, data_set_aside, rows, set_aside};
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

/// The plan as stock commands; nodes are reached as the configuration says.
pub(crate) fn shell(plan: &Plan<Step>, setup: &Setup) -> String {
    let file = setup.file().ok().flatten();
    as_shell(plan, &|place| {
        let node = file.and_then(|file| file.config.nodes.get(place.as_str()));
        let destination = node.and_then(|node| node.ssh.as_ref().or(node.address.as_ref()));
        destination.map_or_else(|| place.to_string(), Clone::clone)
    })
}

/// Asks for the cluster's name.
fn confirm(cluster: &str) -> Result<(), Failure> {
    let no = |what: &str| {
        Failure::new(FailureKind::Usage, what.to_owned()).state("everything is as it was")
    };
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(no("nobody is there to confirm the plan")
            .hint("--yes confirms it, --dry-run only shows it; a terminal is asked"));
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

/// Shows the plan, and asks for the cluster's name unless that was answered before.
pub(crate) async fn confirmed(
    made: &Plan<Step>,
    yes: bool,
    halt: &Halt,
    output: &Output,
) -> Result<(), Failure> {
    let shown = shown(made, output.width());
    if yes {
        output.note(&shown);
        return Ok(());
    }
    // What is asked for is shown, however quiet it is to be.
    output.complaint(&shown);
    let cluster = made.cluster.clone();
    // The answer is waited for on a thread, so that Ctrl-C is heard meanwhile.
    let asking = tokio::task::spawn_blocking(move || confirm(&cluster));
    halt.or(async {
        asking.await.map_err(|error| {
            Failure::new(FailureKind::Error, "the plan was not confirmed").because(error)
        })?
    })
    .await
}

/// Who runs a plan here: the user by name, and who became it.
pub(crate) fn owner(setup: &Setup) -> Owner {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let uid = rustix::process::getuid().as_raw();
    let mut user = user_name(uid).unwrap_or_else(|| format!("uid {uid}"));
    if let Some(before) = setup.env().get("SUDO_USER").filter(|before| *before != user) {
        user = format!("{}, by sudo {user}", printable(&before));
    }
    Owner { user, host, pid: std::process::id() }
}

/// The name in this machine's own list of users.
fn user_name(uid: u32) -> Option<String> {
    let list = std::fs::read_to_string("/etc/passwd").ok()?;
    list.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| printable(name))
    })
}

/// Signals while a plan is made and runs: the first Ctrl-C finishes the step, the second
/// stops now. SIGTERM counts as Ctrl-C.
pub(crate) struct Halt {
    /// What the engine watches.
    pub(crate) stop: Stop,
    signal: Arc<AtomicI32>,
}

impl Halt {
    /// Listens from now on; while a plan runs (`runs`) what a signal does is said.
    pub(crate) fn listen() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let failed = |error: std::io::Error| {
            Failure::new(FailureKind::Error, "cannot listen for signals").because(error)
        };
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let (stopper, stop) = channel();
        let number = Arc::new(AtomicI32::new(0));
        let told = number.clone();
        tokio::spawn(async move {
            loop {
                let came = tokio::select! {
                    _ = interrupt.recv() => 2,
                    _ = terminate.recv() => 15,
                };
                told.store(came, Ordering::SeqCst);
                stopper.press();
            }
        });
        Ok(Self { stop, signal: number })
    }

    /// Does `work`, before anything was changed, unless a signal comes.
    pub(crate) async fn or<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            // What ended in the same moment has ended.
            biased;
            result = work => result,
            () = self.stop.reached(Level::AfterStep) => {
                let what = format!("stopped by {}", interrupt::name(self.number()));
                Err(Failure::new(FailureKind::Signal(self.number()), what)
                    .state("everything is as it was"))
            }
        }
    }

    /// Runs a plan, and says what a signal does to it.
    pub(crate) async fn run<T>(&self, output: &Output, work: impl Future<Output = T>) -> T {
        let telling = async {
            self.stop.reached(Level::AfterStep).await;
            output.note("the running step is finished first; once more stops now, in its midst");
            self.stop.reached(Level::Now).await;
            std::future::pending().await
        };
        tokio::select! {
            biased;
            done = work => done,
            never = telling => never,
        }
    }

    /// The signal that came.
    pub(crate) fn number(&self) -> i32 {
        match self.signal.load(Ordering::SeqCst) {
            0 => 2,
            number => number,
        }
    }
}

/// Why a run did not begin.
pub(crate) fn not_begun(error: RunError, typed: &Typed) -> Failure {
    let kind = match () {
        () if error.is_busy() => FailureKind::Busy,
        () if error.is_corruption() => FailureKind::Corrupt,
        () => FailureKind::Error,
    };
    let hint = match &error {
        RunError::Unfinished { id, .. } => {
            Some(format!("{}, or {}", typed.command("resume", id), typed.command("rollback", id)))
        }
        RunError::Lock(_) if error.is_busy() => Some(
            "wait until it is done; where its owner is gone, the same command with \
             --take-over-lock: it waits 25 seconds for a sign of life"
                .to_owned(),
        ),
        RunError::BeyondReturn { instead, .. } => Some(instead.clone()),
        RunError::Journal(JournalError::Missing { .. }) => {
            Some("a node that does not come back is left out: --without NAME".to_owned())
        }
        RunError::Needed { .. } => Some("go back without it: etcdvault rollback".to_owned()),
        RunError::Ended { id, ending: crate::operation::journal::Ending::Applied } => {
            Some(format!("to go back: {}", typed.command("rollback", id)))
        }
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
pub(crate) fn ended(
    report: &Report,
    plan: &Plan<Step>,
    by_hand: &[String],
    typed: &Typed,
    halt: &Halt,
    output: &Output,
) -> Result<Exit, Failure> {
    for warning in &report.warnings {
        output.complaint(&format!("warning: {}", printable(warning)));
    }
    let back = report.direction == Direction::Undo;
    let mut failure = match &report.outcome {
        Outcome::Applied | Outcome::RolledBack => {
            return Ok(done(report, plan, by_hand, typed, output));
        }
        Outcome::Stopped { .. } => {
            Failure::new(FailureKind::Signal(halt.number()), stopped(report))
        }
        Outcome::Failed(_) if back => {
            Failure::new(FailureKind::Error, format!("plan {} is not rolled back", report.plan))
        }
        Outcome::Failed(_) => {
            Failure::new(FailureKind::Error, format!("plan {} is not done", report.plan))
        }
        Outcome::LockLost => {
            Failure::new(FailureKind::Error, "the cluster's lock was lost: no further step begins")
        }
        Outcome::JournalFailed(_) => Failure::new(
            FailureKind::Error,
            "the journal could not be written: no further step begins",
        ),
    };
    if let Outcome::Failed(failures) = &report.outcome {
        for failed in failures {
            let nodes: Vec<&str> = failed.nodes.iter().map(|node| node.as_str()).collect();
            let (step, what) = (failed.step, &failed.what);
            let way = if back { "undo: " } else { "" };
            let error = &failed.error;
            failure = failure.detail(format!("{step}  {}  {way}{what}: {error}", nodes.join(" ")));
            for line in &error.details {
                failure = failure.detail(format!("  | {line}"));
            }
            if let Some(hint) = &error.hint {
                failure = failure.hint(hint.clone());
            }
        }
    }
    if let Outcome::JournalFailed(error) = &report.outcome {
        for line in crate::operation::failure::chain(error) {
            failure = failure.detail(line);
        }
        failure.hint = error.places().iter().find_map(|place| place.hint.clone());
    }
    let doubt: Vec<String> = report.in_doubt().map(|step| step.to_string()).collect();
    if !doubt.is_empty() {
        let line = format!("not known whether done: step {}; going on looks", doubt.join(", "));
        failure = failure.detail(line);
    }
    if let (false, Some(_)) = (back, report.go_on()) {
        failure = failure.detail(format!("go on:    {}", typed.command("resume", report.plan)));
    }
    match &report.back {
        Back::Stages { last, first } => {
            let steps = match last == first {
                true => format!("step {last}"),
                false => format!("steps {last} to {first}"),
            };
            let back = typed.command("rollback", report.plan);
            failure = failure.detail(format!("go back:  {back}     ({steps})"));
        }
        Back::Nothing => {
            let back = typed.command("rollback", report.plan);
            failure = failure.detail(format!("end it:   {back}     (nothing was changed)"));
        }
        Back::No { why, instead } => {
            failure = failure.detail(format!("no way back by undoing: {why}; {instead}"));
        }
    }
    Err(failure)
}

fn stopped(report: &Report) -> String {
    match (report.direction, report.next_stage) {
        (Direction::Undo, _) => match &report.back {
            Back::Stages { last, first } => {
                format!("stopped on the way back: steps {last} to {first} still stand")
            }
            _ => "stopped on the way back".to_owned(),
        },
        (Direction::Apply, Some(stage))
            if report.in_doubt().next().is_some()
                || report.steps.iter().any(|(id, state)| {
                    id.stage == stage && !matches!(state, StepState::Pending)
                }) =>
        {
            format!("stopped within step {stage}")
        }
        (Direction::Apply, Some(stage)) => format!("stopped before step {stage}"),
        (Direction::Apply, None) => "stopped".to_owned(),
    }
}

fn done(
    report: &Report,
    plan: &Plan<Step>,
    by_hand: &[String],
    typed: &Typed,
    output: &Output,
) -> Exit {
    let rolled_back = matches!(report.outcome, Outcome::RolledBack);
    let ending = if rolled_back { "rolled-back" } else { "applied" };
    let verified = if rolled_back { Vec::new() } else { checks(plan) };
    let back = report.go_back().map(|_| typed.command("rollback", report.plan));
    let aside = set_aside(plan).filter(|_| !rolled_back);
    let data = if rolled_back { Vec::new() } else { data_set_aside(plan) };
    let lost = plan.facts.iter().find(|fact| fact.name == "Lost").filter(|_| !rolled_back);
    let kept: Vec<Value> =
        data.iter().map(|(node, path)| json!({ "node": node, "path": path })).collect();
    let value: Value = json!({
        "plan": report.plan, "ending": ending, "outputs": report.outputs,
        "left": report.left, "verified": verified, "by_hand": by_hand,
        "set_aside": aside.as_ref().map(|(path, nodes)| json!({ "path": path, "nodes": nodes })),
        "data_set_aside": kept, "lost": lost.map(|fact| &fact.text), "go_back": back,
    });
    output.result(&value, || {
        if rolled_back {
            let mut text = format!("plan {} is rolled back\n", report.plan);
            if !report.left.is_empty() {
                let left: BTreeSet<String> = report.left.iter().map(ToString::to_string).collect();
                let left: Vec<String> = left.into_iter().collect();
                let _ = writeln!(text, "  NOT taken back: step {}", left.join(", "));
            }
            return text;
        }
        let mut text = format!("plan {} is done\n", report.plan);
        for line in &verified {
            let _ = writeln!(text, "  verified   {}", printable(line));
        }
        if let Some(fact) = lost {
            let _ = writeln!(text, "  lost       {}", printable(&fact.text));
        }
        if let Some(saved) = report.outputs.get("saved") {
            let _ = writeln!(text, "  saved      the state before, as {}", printable(saved));
        }
        if let Some((path, nodes)) = &aside {
            let (path, nodes) = (printable(path), printable(&nodes.join(" ")));
            let _ =
                writeln!(text, "  set aside  {path} on {nodes}; when all is well: rm -r {path}");
        }
        for (node, path) in &data {
            let (node, path) = (printable(node), printable(&path.display().to_string()));
            let _ = writeln!(text, "  set aside  {path} on {node}; when all is well: rm -r {path}");
        }
        if let Some(back) = &back {
            let _ = writeln!(text, "  go back    {back}");
        }
        for line in by_hand {
            let _ = writeln!(text, "  by hand    {}", printable(line));
        }
        text
    });
    if report.is_complete() && by_hand.is_empty() { Exit::Ok } else { Exit::Partial }
}
