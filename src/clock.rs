//! The one clock: everything else takes `now` as an argument.

use chrono::{DateTime, Utc};

/// The current time of the host, in UTC.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the clock"
)]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}
