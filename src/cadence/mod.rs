//! When a schedule runs: the grid of run times, retries, and what is due. Pure: `now` is an argument.
//!
//! Nothing here panics or overflows, whatever a file holds: times that calendars can't hold end at the last one they can.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::instance::InstanceId;

/// The longest jitter, as hypeman has it.
const MAX_JITTER: Duration = Duration::from_secs(5 * 60);
/// The delay before the first retry; each further one is twice as long.
const FIRST_RETRY: Duration = Duration::from_secs(60);
const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// When a schedule runs while nothing fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cadence {
    /// Every so often, on the grid that the first run begins.
    Every(Duration),
}

impl Cadence {
    /// The time between two runs.
    pub const fn gap(&self) -> Duration {
        match self {
            Self::Every(interval) => *interval,
        }
    }

    /// The part of the gap by which an instance's first run is put off, so that a host's VMs don't all run at once:
    /// FNV-1a-64 of the id, modulo a tenth of the gap or five minutes, in nanoseconds. hypeman's own scheduler does the
    /// same.
    pub fn jitter(&self, id: &InstanceId) -> Duration {
        let span = (self.gap() / 10).min(MAX_JITTER).as_nanos();
        u128::from(fnv1a_64(id.as_str().as_bytes()))
            .checked_rem(span)
            .and_then(|nanos| u64::try_from(nanos).ok())
            .map_or(Duration::ZERO, Duration::from_nanos)
    }

    /// The first run of a cadence that starts at `now`: a gap and the instance's jitter later.
    pub fn first(&self, id: &InstanceId, now: DateTime<Utc>) -> DateTime<Utc> {
        later(later(now, self.gap()), self.jitter(id))
    }

    /// The first run after `after`, at most a gap away. Runs that were missed are skipped. `planned` is one of the
    /// cadence's run times; one that lies ahead counts backwards.
    pub fn next(&self, planned: DateTime<Utc>, after: DateTime<Utc>) -> DateTime<Utc> {
        let Self::Every(interval) = self;
        let (planned, after) = (nanos(planned), nanos(after));
        // No valid schedule has an interval of zero, but a grid without a step has no next point.
        let interval = duration_nanos(*interval).max(1);
        let step = after
            .saturating_sub(planned)
            .div_euclid(interval)
            .saturating_add(1);
        time(planned.saturating_add(step.saturating_mul(interval)))
    }

    /// How long to wait after so many failures in a row: 1, 2, 4, … minutes, at most a gap.
    pub fn retry_delay(&self, failures: u32) -> Duration {
        1u32.checked_shl(failures.saturating_sub(1))
            .map_or(self.gap(), |factor| FIRST_RETRY.saturating_mul(factor))
            .min(self.gap())
    }
}

/// What tells whether a schedule is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Times {
    /// When it runs while nothing fails.
    pub cadence: Cadence,
    /// The next run by that.
    pub next_run_at: DateTime<Utc>,
    /// When a failed run is tried again.
    pub retry_at: Option<DateTime<Utc>>,
    /// The run that is under way or died: when it began, and how often its run time was begun.
    pub attempt: Option<(DateTime<Utc>, u32)>,
    /// Runs that failed since the last good one.
    pub failures: u32,
}

/// Whether a schedule is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Not yet.
    No,
    /// Now: its run time has come, the delay after a failure is over, or its last run died on the way. (One that lives
    /// holds the instance's lock.)
    Now,
    /// The next run is impossibly far ahead: the clock went backwards. It belongs at `next_run_at`, which is a run time
    /// of the same cadence, later than now and at most a gap away; once that is written, ask again.
    Misplaced {
        /// Where it belongs.
        next_run_at: DateTime<Utc>,
    },
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

    /// Whether the schedule of `id` is due. A run time in the past is due once, however far back it is (Go's zero time
    /// included).
    pub fn due(&self, id: &InstanceId, now: DateTime<Utc>) -> Due {
        if self.next_run_at > self.cadence.first(id, now) {
            return Due::Misplaced {
                next_run_at: self.cadence.next(self.next_run_at, now),
            };
        }
        if self.begins_at(now) <= now {
            Due::Now
        } else {
            Due::No
        }
    }

    /// When the next run begins: a time that is not later than `now` if it is due. A `retry_at` further ahead than a gap,
    /// or an attempt that began in the future, was written before the clock went backwards, and no reason to wait.
    fn begins_at(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        let is_out_of_reach = |at: DateTime<Utc>| at > later(now, self.cadence.gap());
        let retry = self
            .retry_at
            .map(|at| if is_out_of_reach(at) { now } else { at });
        let again = self.attempt.map(|(started_at, tries)| match tries {
            _ if started_at > now => now,
            // A run that died once may have met a reboot; one that dies again and again is put off like one that fails.
            0 | 1 => now,
            _ => later(started_at, self.cadence.retry_delay(tries - 1)),
        });
        [retry, again]
            .into_iter()
            .flatten()
            .fold(self.next_run_at, DateTime::min)
    }
}

fn fnv1a_64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
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

/// The time so much later, or the last one that a calendar holds.
pub fn later(start: DateTime<Utc>, by: Duration) -> DateTime<Utc> {
    time(nanos(start).saturating_add(duration_nanos(by)))
}

#[cfg(test)]
mod tests;
