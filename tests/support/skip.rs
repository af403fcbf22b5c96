//! Saying that a test could not run on this machine, so that `contrib/test.sh` can list it in its summary.

use std::io::Write as _;

/// Prints `SKIPPED: reason`; `reason` names what could not be tested and the remedy.
///
/// Straight to stderr: what the print macros write is captured and never seen when the test passes.
pub fn skipped(reason: &str) {
    // Where stderr is gone nobody reads the summary either.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
}
