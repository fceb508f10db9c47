//! Shows events: a bar on a terminal, warnings as lines, otherwise nothing.

use std::io::Write;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::human::printable;
use crate::event::{Event, Events};

/// The bar of the running phase.
pub(crate) struct Progress {
    bars: bool,
    quiet: bool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Progress {
    /// With `bars` phases are shown; without, only warnings are.
    pub(crate) fn new(bars: bool, quiet: bool) -> Self {
        Self { bars, quiet, bar: Mutex::new(None) }
    }

    pub(crate) fn into_events(self) -> Events {
        Events::new(move |event| self.show(event))
    }

    fn show(&self, event: Event) {
        // A panic of another thread leaves a bar behind, nothing worse.
        let mut slot = self.bar.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
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
            }
            Event::Warning(text) if !self.quiet => {
                self.line(slot.as_ref(), &format!("warning: {text}"));
            }
            Event::Note(text) if !self.quiet && self.bars => self.line(slot.as_ref(), &text),
            Event::Started { .. } | Event::Note(_) | Event::Warning(_) | Event::Step(_) => {}
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
