//! How far long work is, shown to whoever looks at a terminal; the only user of indicatif.
//!
//! Like the interrupt flag it is for who does the work, wherever that is: nobody waits for it, and nothing depends on
//! it. A step that is over within a second is not shown at all.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// How long a step must take to be shown.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time between two looks at the clock by a bar that nothing else moves.
const TICK: Duration = Duration::from_millis(200);

const COUNTED: &str = "{msg}  [{bar:24}] {binary_bytes} of {binary_total_bytes}, {elapsed}";
const UNCOUNTED: &str = "{spinner} {msg}  {elapsed}";

/// Where progress is shown, if anywhere. Clones show in the same place.
#[derive(Debug, Clone)]
pub struct Progress {
    bars: Option<MultiProgress>,
}

impl Progress {
    /// Progress that nobody sees.
    pub fn silent() -> Self {
        Self { bars: None }
    }

    /// Progress at the bottom of the terminal that stderr is.
    pub fn on_stderr() -> Self {
        Self {
            bars: Some(MultiProgress::new()),
        }
    }

    /// Begins a step, which ends when it is dropped: `what` is done for `whom`. `total_bytes`, where it is known, is
    /// what [`Step::advance`] is going to count up to.
    pub fn begin(&self, whom: &str, what: &str, total_bytes: Option<u64>) -> Step {
        Step {
            shown: self
                .bars
                .clone()
                .map(|bars| Shown::begin(bars, format!("{whom}: {what}"), total_bytes)),
        }
    }

    /// A way to stderr that does not run into what is shown; `None` where nothing is.
    pub fn stderr(&self) -> Option<impl Write + Send + 'static> {
        self.bars.clone().map(Beside)
    }
}

/// A step of the work.
#[derive(Debug)]
pub struct Step {
    shown: Option<Shown>,
}

impl Step {
    /// Counts `bytes` more. Never waits: a guest may be paused meanwhile.
    pub fn advance(&self, bytes: u64) {
        if let Some(shown) = &self.shown {
            shown.counted_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

#[derive(Debug)]
struct Shown {
    counted_bytes: Arc<AtomicU64>,
    /// Dropped to say that the step is over.
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Shown {
    /// Starts the thread that does all the drawing, because a terminal can hold a writer up for as long as it likes.
    fn begin(bars: MultiProgress, message: String, total_bytes: Option<u64>) -> Self {
        let counted_bytes = Arc::new(AtomicU64::new(0));
        let (end, is_over) = channel();
        let thread = thread::spawn({
            let counted_bytes = Arc::clone(&counted_bytes);
            move || {
                let waits = |time| is_over.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
                if !waits(PATIENCE) {
                    return;
                }
                let bar = bars.add(bar(message, total_bytes));
                loop {
                    bar.set_position(counted_bytes.load(Ordering::Relaxed));
                    bar.tick();
                    if !waits(TICK) {
                        break;
                    }
                }
                bar.finish_and_clear();
            }
        });
        Self {
            counted_bytes,
            end: Some(end),
            thread: Some(thread),
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It does nothing that can panic, and if it did the work would be done all the same.
            let _ = thread.join();
        }
    }
}

fn bar(message: String, total_bytes: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::hidden()
        .with_message(message)
        .with_elapsed(PATIENCE);
    bar.set_length(total_bytes.unwrap_or(0));
    let template = total_bytes.map_or(UNCOUNTED, |_| COUNTED);
    // Both templates are right; a wrong one would only look different.
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style.progress_chars("=> ").tick_chars("|/-\\ ")),
        Err(_) => bar,
    }
}

/// Writes to stderr above the bars.
struct Beside(MultiProgress);

impl Write for Beside {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .suspend(|| io::stderr().write_all(bytes))
            .map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_templates_are_right() {
        for template in [COUNTED, UNCOUNTED] {
            ProgressStyle::with_template(template).unwrap();
        }
    }

    #[test]
    fn a_step_counts_what_it_is_told() {
        let step = Progress::on_stderr().begin("web-a", "copying", Some(100));
        step.advance(30);
        step.advance(40);
        let counted = &step.shown.as_ref().unwrap().counted_bytes;
        assert_eq!(counted.load(Ordering::Relaxed), 70);
    }

    #[test]
    fn a_step_that_is_over_soon_does_not_wait_for_its_bar() {
        let progress = Progress::on_stderr();
        let began = std::time::Instant::now();
        for _ in 0..20 {
            progress.begin("web-a", "copying", None);
        }
        assert!(
            began.elapsed() < PATIENCE * 10,
            "each one waits to be shown"
        );
    }

    #[test]
    fn a_silent_step_is_nothing_at_all() {
        let step = Progress::silent().begin("web-a", "copying", None);
        step.advance(1);
        assert!(step.shown.is_none());
        assert!(Progress::silent().stderr().is_none());
    }
}
