//! When a schedule runs: the grid of run times, retries, and what is due. Pure: `now` is an argument.
//!
//! Nothing here panics or overflows, whatever a file holds: times that calendars can't hold end at the last one they can.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::instance::InstanceId;

/// The longest jitter (contract, "Cadence").
const MAX_JITTER: Duration = Duration::from_secs(5 * 60);
/// The delay before the first retry; each further one is twice as long.
const FIRST_RETRY: Duration = Duration::from_secs(60);
const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// What deciding about a schedule needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Times {
    /// The next run by cadence.
    pub next_run_at: DateTime<Utc>,
    /// When a failed run is tried again.
    pub retry_at: Option<DateTime<Utc>>,
    /// The run that is under way or died: when it began, and how often its run time was begun.
    pub attempt: Option<(DateTime<Utc>, u32)>,
    /// Runs that failed since the last good one.
    pub failures: u32,
    /// Time between two runs.
    pub interval: Duration,
}

impl Times {
    /// How often in a row its runs have failed or died; zero where nothing speaks against the next one.
    pub fn trouble(&self) -> u32 {
        let deaths = self.attempt.map_or(0, |(_, tries)| tries);
        self.failures.saturating_add(deaths)
    }

    /// The time from which on a run has been wanted.
    pub fn wanted_at(&self) -> DateTime<Utc> {
        self.retry_at
            .map_or(self.next_run_at, |at| at.min(self.next_run_at))
    }
}

/// Why a schedule is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Its run time has come.
    Cadence,
    /// Its last run failed, and the delay is over.
    Retry,
    /// Its last run died on the way. (One that lives holds the instance's lock.)
    Interrupted,
}

/// Whether a schedule is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Not yet.
    No {
        /// When it will be.
        at: DateTime<Utc>,
    },
    /// Now.
    Now(Why),
    /// The next run is impossibly far ahead: the clock went backwards. It belongs at `next_run_at`, which is on the
    /// same grid, later than now and at most one interval away; once that is written, ask again.
    Heal {
        /// Where it belongs.
        next_run_at: DateTime<Utc>,
    },
}

/// The part of the interval by which an instance's first run is put off, so that a host's VMs don't all run at once:
/// FNV-1a-64 of the id, modulo a tenth of the interval or five minutes, in nanoseconds (contract, "Cadence").
pub fn jitter(id: &InstanceId, interval: Duration) -> Duration {
    let span = (interval / 10).min(MAX_JITTER).as_nanos();
    u128::from(fnv1a_64(id.as_str().as_bytes()))
        .checked_rem(span)
        .map_or(Duration::ZERO, super::duration::from_nanos)
}

fn fnv1a_64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A new schedule's first run: an interval and the instance's jitter from now.
pub fn first_run(now: DateTime<Utc>, interval: Duration, id: &InstanceId) -> DateTime<Utc> {
    add(add(now, interval), jitter(id, interval))
}

/// The first point of the grid `previous + k · interval` after `now`, at most one interval away. Missed points are
/// skipped, and a `previous` that lies ahead counts backwards.
pub fn next_run(previous: DateTime<Utc>, interval: Duration, now: DateTime<Utc>) -> DateTime<Utc> {
    let (previous, now) = (nanos(previous), nanos(now));
    // No valid schedule has an interval of zero, but a grid without a step has no next point.
    let interval = duration_nanos(interval).max(1);
    let step = now
        .saturating_sub(previous)
        .div_euclid(interval)
        .saturating_add(1);
    time(previous.saturating_add(step.saturating_mul(interval)))
}

/// How long to wait after so many failures in a row: 1, 2, 4, … minutes, at most the interval.
pub fn retry_delay(consecutive_failures: u32, interval: Duration) -> Duration {
    let doublings = consecutive_failures.saturating_sub(1);
    1u32.checked_shl(doublings)
        .map_or(interval, |factor| FIRST_RETRY.saturating_mul(factor))
        .min(interval)
}

/// Whether the schedule of `id` with these times is due.
///
/// A run time in the past is due once, however far back it is (Go's zero time included). A `retry_at` further ahead
/// than the interval, or an attempt that began in the future, was written before the clock went backwards: due too.
pub fn due(times: &Times, id: &InstanceId, now: DateTime<Utc>) -> Due {
    let Times {
        next_run_at,
        retry_at,
        attempt,
        interval,
        ..
    } = *times;
    if next_run_at <= now {
        return Due::Now(Why::Cadence);
    }
    if next_run_at > first_run(now, interval, id) {
        return Due::Heal {
            next_run_at: next_run(next_run_at, interval, now),
        };
    }
    let mut at = next_run_at;
    if let Some(retry_at) = retry_at {
        if retry_at <= now || retry_at > add(now, interval) {
            return Due::Now(Why::Retry);
        }
        at = at.min(retry_at);
    }
    if let Some((started_at, tries)) = attempt {
        // A run that died once may have met a reboot; one that dies again and again is put off like one that fails.
        let again_at = match tries {
            0 | 1 => now,
            _ => add(started_at, retry_delay(tries - 1, interval)),
        };
        if again_at <= now || started_at > now {
            return Due::Now(Why::Interrupted);
        }
        at = at.min(again_at);
    }
    Due::No { at }
}

/// The time in nanoseconds since 1970.
fn nanos(time: DateTime<Utc>) -> i128 {
    i128::from(time.timestamp()) * NANOS_PER_SECOND + i128::from(time.timestamp_subsec_nanos())
}

/// The time so many nanoseconds since 1970, or the last one that a calendar holds on that side.
fn time(nanos: i128) -> DateTime<Utc> {
    let seconds = i64::try_from(nanos.div_euclid(NANOS_PER_SECOND)).ok();
    let subsec = u32::try_from(nanos.rem_euclid(NANOS_PER_SECOND)).ok();
    seconds
        .zip(subsec)
        .and_then(|(seconds, subsec)| DateTime::from_timestamp(seconds, subsec))
        .unwrap_or(if nanos < 0 {
            DateTime::<Utc>::MIN_UTC
        } else {
            DateTime::<Utc>::MAX_UTC
        })
}

fn duration_nanos(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}

fn add(start: DateTime<Utc>, duration: Duration) -> DateTime<Utc> {
    time(nanos(start).saturating_add(duration_nanos(duration)))
}

#[cfg(test)]
mod tests;
