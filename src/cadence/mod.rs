//! When a schedule runs: the grid of run times, retries, and what is due. Pure: `now` is an argument.
//!
//! Nothing here panics or overflows, whatever a file holds: times that calendars can't hold end at the last one they can.

mod calendar;

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::instance::InstanceId;
pub use calendar::{Calendar, InvalidCalendar};

/// The longest jitter, as hypeman has it.
const MAX_JITTER: Duration = Duration::from_secs(5 * 60);
/// The delay before the first retry; each further one is twice as long.
const FIRST_RETRY: Duration = Duration::from_secs(60);
const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// When a schedule runs while nothing fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cadence {
    /// The run times, jitter apart.
    pub when: When,
    /// What the jitter stays below, at most the gap to the following run; `None` for a tenth of that gap, at most five
    /// minutes.
    pub jitter: Option<Duration>,
}

/// What run times go by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// Every so often, on the grid that the first run begins.
    Every(Duration),
    /// By the clock.
    Calendar(Box<Calendar>),
}

impl Cadence {
    /// Every so often, with hypeman's jitter.
    #[cfg(test)]
    pub const fn every(interval: Duration) -> Self {
        Self {
            when: When::Every(interval),
            jitter: None,
        }
    }

    /// The time between the run at `next_run_at`, which is one of the cadence's run times, and the one before.
    pub fn gap(&self, next_run_at: DateTime<Utc>) -> Duration {
        match &self.when {
            When::Every(interval) => *interval,
            When::Calendar(calendar) => calendar.gap_before(next_run_at),
        }
    }

    /// The time between the next two runs, as far as that can be told without their gap.
    pub fn nominal_gap(&self, now: DateTime<Utc>) -> Duration {
        match &self.when {
            When::Every(interval) => *interval,
            When::Calendar(calendar) => {
                let first = calendar.next(now);
                (calendar.next(first) - first).to_std().unwrap_or_default()
            }
        }
    }

    /// The part of the `gap` to the following run by which an instance's run is put off, so that a host's VMs don't all
    /// run at once: FNV-1a-64 of the id, modulo a tenth of the gap or five minutes, in nanoseconds. hypeman's own
    /// scheduler does the same with a schedule's first run, which begins the grid.
    pub fn jitter(&self, id: &InstanceId, gap: Duration) -> Duration {
        let span = self.jitter.unwrap_or(gap / 10).min(gap);
        let span = match self.jitter {
            Some(_) => span,
            None => span.min(MAX_JITTER),
        };
        u128::from(fnv1a_64(id.as_str().as_bytes()))
            .checked_rem(span.as_nanos())
            .and_then(|nanos| u64::try_from(nanos).ok())
            .map_or(Duration::ZERO, Duration::from_nanos)
    }

    /// The first run of a cadence that starts at `now`: a gap and the instance's jitter later, or the next one by the
    /// calendar.
    pub fn first(&self, id: &InstanceId, now: DateTime<Utc>) -> DateTime<Utc> {
        match &self.when {
            When::Every(interval) => later(later(now, *interval), self.jitter(id, *interval)),
            When::Calendar(calendar) => self.calendar_run(calendar, id, now),
        }
    }

    /// The first run after `after`. Runs that were missed are skipped. `planned` is one of the cadence's run times; one
    /// that lies ahead counts backwards.
    pub fn next(
        &self,
        id: &InstanceId,
        planned: DateTime<Utc>,
        after: DateTime<Utc>,
    ) -> DateTime<Utc> {
        let interval = match &self.when {
            When::Every(interval) => *interval,
            When::Calendar(calendar) => return self.calendar_run(calendar, id, after),
        };
        let (planned, after) = (nanos(planned), nanos(after));
        // No valid schedule has an interval of zero, but a grid without a step has no next point.
        let interval = duration_nanos(interval).max(1);
        let step = after
            .saturating_sub(planned)
            .div_euclid(interval)
            .saturating_add(1);
        time(planned.saturating_add(step.saturating_mul(interval)))
    }

    /// The least calendar time plus jitter that is later than `after`.
    fn calendar_run(
        &self,
        calendar: &Calendar,
        id: &InstanceId,
        after: DateTime<Utc>,
    ) -> DateTime<Utc> {
        // The run before may be put off to later than that.
        let widest = duration_nanos(self.jitter.unwrap_or(MAX_JITTER));
        let mut run = calendar.next(time(nanos(after).saturating_sub(widest)));
        loop {
            let following = calendar.next(run);
            let gap = (following - run).to_std().unwrap_or_default();
            let at = later(run, self.jitter(id, gap));
            if at > after || following <= run {
                return at;
            }
            run = following;
        }
    }
}

/// How long to wait after so many failures in a row: 1, 2, 4, … minutes, at most the `gap`.
pub fn retry_delay(failures: u32, gap: Duration) -> Duration {
    1u32.checked_shl(failures.saturating_sub(1))
        .map_or(gap, |factor| FIRST_RETRY.saturating_mul(factor))
        .min(gap)
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
    /// When that was written down, and the gap between two runs as it was then, roughly.
    pub written: (DateTime<Utc>, Duration),
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
        if self.may_be_misplaced(now) && self.next_run_at > self.cadence.first(id, now) {
            return Due::Misplaced {
                next_run_at: self.cadence.next(id, self.next_run_at, now),
            };
        }
        if self.begins_at(now) <= now {
            Due::Now
        } else {
            Due::No
        }
    }

    /// Whether it is worth a look at the calendar, which takes a while.
    fn may_be_misplaced(&self, now: DateTime<Utc>) -> bool {
        let (written_at, gap) = self.written;
        match self.cadence.when {
            When::Every(_) => true,
            When::Calendar(_) => {
                now < written_at || self.next_run_at > later(now, gap.saturating_mul(2))
            }
        }
    }

    /// The time between the next run and the one before.
    pub fn gap(&self) -> Duration {
        self.cadence.gap(self.next_run_at)
    }

    /// When the next run begins: a time that is not later than `now` if it is due. A `retry_at` further ahead than a gap,
    /// or an attempt that began in the future, was written before the clock went backwards, and no reason to wait.
    fn begins_at(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        let is_out_of_reach = |at: DateTime<Utc>| at > later(now, self.gap());
        let retry = self
            .retry_at
            .map(|at| if is_out_of_reach(at) { now } else { at });
        let again = self.attempt.map(|(started_at, tries)| match tries {
            _ if started_at > now => now,
            // A run that died once may have met a reboot; one that dies again and again is put off like one that fails.
            0 | 1 => now,
            _ => later(started_at, retry_delay(tries - 1, self.gap())),
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
