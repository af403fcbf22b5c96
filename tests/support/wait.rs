//! Waiting for something to become true: polls with a deadline, and says what it waited for when that passes. No
//! test sleeps for a fixed time instead.

use std::time::{Duration, Instant};

/// How long a test waits for what takes well under a second on an idle machine. Generous, because software emulation
/// on a busy machine can be twenty times slower.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Polls `look` until it gives a value.
///
/// # Panics
/// When [`DEADLINE`] passes, with `what` and the text of `report`, which is asked only then.
pub fn wait_for<T>(
    what: &str,
    mut look: impl FnMut() -> Option<T>,
    report: impl FnOnce() -> String,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(
            start.elapsed() < DEADLINE,
            "waited {DEADLINE:?}, and it did not happen: {what}\n{}",
            report()
        );
        std::thread::sleep(PAUSE);
    }
}

/// Polls `is_true` until it is.
///
/// # Panics
/// When [`DEADLINE`] passes, with `what`.
pub fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    wait_for(what, || is_true().then_some(()), String::new);
}
