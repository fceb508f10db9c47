//! Shows events: a bar on a terminal, warnings and finished steps of plans as lines,
//! otherwise nothing.

use std::io::Write;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::human::{duration, printable};
use crate::event::{Event, Events, StepEvent, StepPhase};

/// The bar of the running phase.
pub(crate) struct Progress {
    bars: bool,
    quiet: bool,
    steps: bool,
    shown: Mutex<Shown>,
}

#[derive(Default)]
struct Shown {
    bar: Option<ProgressBar>,
    /// Steps that run now: which, and what is said of them.
    running: Vec<((u32, u32), String)>,
}

impl Progress {
    /// With `bars` phases are shown, with `steps` each step of a plan that ended; without,
    /// only warnings are.
    pub(crate) fn new(bars: bool, steps: bool, quiet: bool) -> Self {
        Self { bars, quiet, steps, shown: Mutex::default() }
    }

    pub(crate) fn into_events(self) -> Events {
        Events::new(move |event| self.show(event))
    }

    fn show(&self, event: Event) {
        // A panic of another thread leaves a bar behind, nothing worse.
        let mut shown = self.shown.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let slot = &mut shown.bar;
        match event {
            Event::Started { what, total } if self.bars => {
                if let Some(old) = slot.take() {
                    old.finish_and_clear();
                }
                *slot = Some(bar(&what, total));
            }
            Event::Progress { done } => {
                if let Some(bar) = &*slot {
                    bar.set_position(done);
                }
            }
            Event::Total { total } => {
                if let Some(bar) = &*slot {
                    bar.set_length(total);
                    bar.set_style(bytes_style());
                }
            }
            Event::Finished => {
                if let Some(bar) = slot.take() {
                    bar.finish_and_clear();
                }
                self.live(&mut shown);
            }
            Event::Warning(text) if !self.quiet => {
                self.line(slot.as_ref(), &format!("warning: {text}"));
            }
            Event::Note(text) if !self.quiet && self.bars => self.line(slot.as_ref(), &text),
            Event::Step(step) if self.steps => self.step(&mut shown, step),
            Event::Started { .. } | Event::Note(_) | Event::Warning(_) | Event::Step(_) => {}
        }
    }

    /// A line for each step that ended, with its time; those that run are live on a
    /// terminal, with what they wait for.
    fn step(&self, shown: &mut Shown, event: StepEvent) {
        let StepEvent { stage, step, nodes, what, undo, phase } = event;
        let back = if undo { "undo: " } else { "" };
        let head = format!("  {stage}.{step}  {}  {back}{what}", nodes.join(" "));
        let ended = match &phase {
            StepPhase::Done { found: true, .. } => Some(format!("{head}  (was so)")),
            StepPhase::Done { took, .. } => Some(format!("{head}  {}", duration(*took))),
            StepPhase::Failed(why) => Some(format!("{head}  FAILED: {why}")),
            StepPhase::Started | StepPhase::Waits(_) | StepPhase::Progress(_) => None,
        };
        shown.running.retain(|(id, _)| *id != (stage, step));
        match (ended, phase) {
            (Some(line), _) => self.line(shown.bar.as_ref(), &line),
            (None, StepPhase::Waits(on)) => {
                shown.running.push(((stage, step), format!("{head}: waits for {on}")));
            }
            (None, StepPhase::Progress(far)) => {
                shown.running.push(((stage, step), format!("{head}: {far}")));
            }
            _ => shown.running.push(((stage, step), head)),
        }
        self.live(shown);
    }

    /// The steps that run, as one live line.
    fn live(&self, shown: &mut Shown) {
        if !self.bars {
            return;
        }
        match (shown.running.last(), &shown.bar) {
            (Some((_, text)), Some(bar)) => bar.set_message(printable(text)),
            (Some((_, text)), None) => shown.bar = Some(bar(text, None)),
            (None, Some(_)) => {
                if let Some(bar) = shown.bar.take() {
                    bar.finish_and_clear();
                }
            }
            (None, None) => {}
        }
    }

    fn line(&self, bar: Option<&ProgressBar>, text: &str) {
        let text = printable(text);
        let print = || {
            let _ = writeln!(std::io::stderr(), "{text}");
        };
        match bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

fn bar(what: &str, total: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr())
        .with_message(printable(what));
    bar.set_style(if total.is_some() { bytes_style() } else { unknown_style() });
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

const BYTES: &str = "{msg}  {decimal_bytes_per_sec}  {wide_bar}  {decimal_bytes} of {decimal_total_bytes}  {eta} left";
const UNKNOWN: &str = "{spinner} {msg}  {elapsed}";

fn bytes_style() -> ProgressStyle {
    style(BYTES)
}

fn unknown_style() -> ProgressStyle {
    style(UNKNOWN)
}

fn style(template: &str) -> ProgressStyle {
    // The templates above are constants; a mistake in one shows as the default style.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_templates() {
        for template in [BYTES, UNKNOWN] {
            let style = ProgressStyle::with_template(template);
            assert!(style.is_ok(), "{template}: {:?}", style.err());
        }
    }
}
