//! What is asked of an instance besides young snapshots.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Assessment, Cause, Level, elapsed};

/// A verdict, with a warning when none of the instance's usable snapshots was verified `within` that time. Whatever is worse
/// is said instead, and an instance without a snapshot has none to verify.
pub fn verified(
    verdict: Assessment,
    verified_at: Option<DateTime<Utc>>,
    within: Duration,
    now: DateTime<Utc>,
) -> Assessment {
    let is_late = verified_at.is_none_or(|at| elapsed(at, now) > within);
    if verdict.level > Level::Ok || verdict.newest.is_none() || !is_late {
        return verdict;
    }
    Assessment {
        level: Level::Warning,
        cause: Cause::NotVerified { since: verified_at },
        ..verdict
    }
}

/// A verdict, with a warning when no guest of the instance's usable snapshots lived in a rehearsal `within` that time, or the
/// last one did not; `last` is when that was, and whether it lived.
pub fn rehearsed(
    verdict: Assessment,
    last: Option<(DateTime<Utc>, bool)>,
    alive_at: Option<DateTime<Utc>>,
    within: Duration,
    now: DateTime<Utc>,
) -> Assessment {
    let died_at = last.filter(|(_, lived)| !lived).map(|(at, _)| at);
    let is_late = alive_at.is_none_or(|at| elapsed(at, now) > within);
    let is_well = !is_late && died_at.is_none();
    if verdict.level > Level::Ok || verdict.newest.is_none() || is_well {
        return verdict;
    }
    Assessment {
        level: Level::Warning,
        cause: Cause::NotRehearsed {
            since: alive_at,
            died_at,
        },
        ..verdict
    }
}
