//! Where text goes: results to stdout, the rest to stderr.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use serde_json::json;

use super::args::{Format, Global};
use super::exit_code::Exit;
use super::human::printable;
use super::progress::Progress;
use crate::event::Events;
use crate::operation::Failure;
use crate::operation::vocabulary::{Proof, ProofState};

/// How to print, decided once.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
    terminal: bool,
}

impl Output {
    pub(crate) fn new(global: &Global) -> Self {
        Self {
            json: global.json || global.write_out == Some(Format::Json),
            quiet: global.quiet,
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Whether the result is wanted as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether only results and errors are wanted.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Columns of the terminal that stdout is; `None` when it is none.
    pub(crate) fn width(&self) -> Option<usize> {
        let stdout = std::io::stdout();
        if !stdout.is_terminal() {
            return None;
        }
        let size = rustix::termios::tcgetwinsize(&stdout).ok()?;
        (size.ws_col > 0).then_some(usize::from(size.ws_col))
    }

    /// A sink for events: a progress bar on a terminal, steps of plans that ended, warnings
    /// everywhere, silence otherwise.
    pub(crate) fn events(&self) -> Events {
        let steps = !self.quiet && !self.json;
        Progress::new(self.terminal && steps, steps, self.quiet).into_events()
    }

    /// Waits for `work`, visibly on a terminal.
    pub(crate) async fn waiting<T>(&self, what: &str, work: impl Future<Output = T>) -> T {
        let events = self.events();
        events.started(what, None);
        let result = work.await;
        events.finished();
        result
    }

    /// Prints the result: `value` as JSON, else the text.
    pub(crate) fn result(&self, value: &impl Serialize, text: impl FnOnce() -> String) {
        if self.json {
            match serde_json::to_string(value) {
                Ok(line) => to_stdout(&format!("{line}\n")),
                Err(error) => self.say(&format!("error: cannot write the result: {error}")),
            }
        } else {
            to_stdout(&text());
        }
    }

    /// Text of the result, printed as it comes.
    pub(crate) fn text(&self, text: &str) {
        to_stdout(text);
    }

    /// Bytes of the result, as they are.
    pub(crate) fn bytes(&self, bytes: &[u8]) {
        to_stdout_bytes(bytes);
    }

    /// A line on stderr, unless JSON or quiet was asked for.
    pub(crate) fn note(&self, line: &str) {
        if !self.json && !self.quiet {
            self.say(line);
        }
    }

    /// A line on stderr that belongs to a bad outcome: said under quiet too.
    pub(crate) fn complaint(&self, line: &str) {
        if !self.json {
            self.say(line);
        }
    }

    /// Repeats what a backup says of itself, where that is no praise: whoever uses it is
    /// to know.
    pub(crate) fn mark(&self, id: &str, proof: &Proof) {
        let reasons = printable(&proof.reasons.join("; "));
        match proof.state {
            ProofState::Mismatch => self.complaint(&format!(
                "warning: backup {id} DIFFERS from what the cluster held: {reasons}"
            )),
            ProofState::NotProven => {
                self.note(&format!("warning: backup {id} is not proven: {reasons}"));
            }
            ProofState::Proven | ProofState::Unknown => {}
        }
    }

    fn say(&self, line: &str) {
        // stderr may be closed; there is nobody left to tell.
        let _ = writeln!(std::io::stderr(), "{line}");
    }

    /// Prints a failure that does not end the command: on stderr, as the result follows.
    pub(crate) fn failure_beside(&self, failure: &Failure) {
        if !self.json {
            self.failure(failure);
        }
    }

    /// Prints a failure as one paragraph, or as JSON on stdout.
    pub(crate) fn failure(&self, failure: &Failure) {
        if self.json {
            print_json_failure(failure);
            return;
        }
        let mut text = format!("error: {}\n", printable(&failure.what));
        for line in &failure.details {
            text.push_str(&format!("  {}\n", printable(line)));
        }
        for cause in failure.causes() {
            text.push_str(&format!("  because: {}\n", printable(&cause)));
        }
        if let Some(state) = &failure.state {
            text.push_str(&format!("  {}\n", printable(state)));
        }
        if let Some(hint) = &failure.hint {
            text.push_str(&format!("hint: {}\n", printable(hint)));
        }
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

/// The failure as a JSON object on stdout.
pub(crate) fn print_json_failure(failure: &Failure) {
    let value = json!({
        "error": {
            "exit_code": Exit::Failed(failure.kind).code(),
            "what": failure.what,
            "details": failure.details,
            "causes": failure.causes(),
            "state": failure.state,
            "hint": failure.hint,
        }
    });
    to_stdout(&format!("{value}\n"));
}

/// A hint alone, below what clap printed.
pub(crate) fn hint(hint: &str) {
    let _ = writeln!(std::io::stderr(), "hint: {}", printable(hint));
}

/// Whether a result could not be printed; said once.
static LOST: AtomicBool = AtomicBool::new(false);

/// Whether a part of the result was lost on its way out: a full disk behind `>`.
pub(crate) fn result_was_lost() -> bool {
    LOST.load(Ordering::Relaxed)
}

/// A reader that went away (`| head`) is no error of ours; what was done stays done.
fn to_stdout(text: &str) {
    to_stdout_bytes(text.as_bytes());
}

fn to_stdout_bytes(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error)
            if error.kind() != std::io::ErrorKind::BrokenPipe
                && !LOST.swap(true, Ordering::Relaxed) =>
        {
            let _ = writeln!(
                std::io::stderr(),
                "error: the result was not printed\n  because: standard output: {error}"
            );
        }
        _ => {}
    }
}
