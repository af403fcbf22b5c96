//! What has happened under a schedule: how its record changes when a run begins, succeeds, fails or finds the instance
//! gone. Pure.
//!
//! The order matters for crashes: [`Schedule::begin`] is saved before anything is done, so that a run time can't be
//! served twice; its [`Attempt`] stays in the file until the end is recorded, so that a run that died is noticed.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::cadence::{later, retry_delay};
use crate::schedule::Schedule;
use crate::snapshot;

/// Longest error text that is kept in a schedule file, in characters.
const ERROR_MAX_CHARS: usize = 2000;

/// A run that began and has not recorded its end: either it goes on, or it died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The run time that it serves; the snapshot is named after it.
    pub run_at: DateTime<Utc>,
    /// The snapshot's name, so that a snapshot that was finished is recognised and not made twice.
    pub snapshot_name: String,
    /// How often this run time was begun, this time included.
    pub tries: u32,
    /// When it began.
    pub started_at: DateTime<Utc>,
}

/// What has happened under a schedule, and what comes next.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The next run by cadence.
    pub next_run_at: DateTime<Utc>,
    /// The newest run that began.
    pub last_run_at: Option<DateTime<Utc>>,
    /// The snapshot of that run; `None` while it goes on and after it failed.
    pub last_snapshot_id: Option<String>,
    /// Why that run failed.
    pub last_error: Option<String>,
    /// When the schedule was first set.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
    /// When a failed run is tried again.
    pub retry_at: Option<DateTime<Utc>>,
    /// Runs that failed since the last good one.
    pub consecutive_failures: u32,
    /// The run that is under way or died.
    pub attempt: Option<Attempt>,
    /// When the newest good snapshot was taken.
    pub last_success_at: Option<DateTime<Utc>>,
    /// How long the guest was paused for it, in milliseconds.
    pub last_pause_ms: Option<f64>,
    /// How long the newest run took, in milliseconds.
    pub last_duration_ms: Option<u64>,
    /// Runs that were ever begun under this schedule.
    pub total_runs: u64,
    /// Runs that ever failed under this schedule.
    pub total_failures: u64,
    /// Since when the instance is known to be gone.
    pub missing_since: Option<DateTime<Utc>>,
    /// Why the newest retention failed, until one succeeds; in `last_error` as well where the run itself went well.
    pub retention_error: Option<String>,
}

impl Record {
    /// Nothing has happened yet.
    pub(super) fn new(next_run_at: DateTime<Utc>, now: DateTime<Utc>) -> Self {
        Self {
            next_run_at,
            last_run_at: None,
            last_snapshot_id: None,
            last_error: None,
            created_at: now,
            updated_at: now,
            retry_at: None,
            consecutive_failures: 0,
            attempt: None,
            last_success_at: None,
            last_pause_ms: None,
            last_duration_ms: None,
            total_runs: 0,
            total_failures: 0,
            missing_since: None,
            retention_error: None,
        }
    }

    /// Why the newest run failed, retention apart.
    pub fn run_error(&self) -> Option<&str> {
        self.last_error
            .as_deref()
            .filter(|error| self.retention_error.as_deref() != Some(*error))
    }

    /// Records a good snapshot.
    pub fn succeed(&mut self, snapshot_id: &str, taken_at: DateTime<Utc>, now: DateTime<Utc>) {
        self.last_snapshot_id = Some(snapshot_id.to_owned());
        self.last_error = None;
        self.last_success_at = Some(taken_at);
        self.consecutive_failures = 0;
        self.retry_at = None;
        self.missing_since = None;
        self.end_attempt(now);
    }

    /// Records that a signal ended the run. That is no failure: nothing is put off, and the attempt stays, so that the
    /// next run takes it up.
    pub fn interrupt(&mut self, now: DateTime<Utc>) {
        if let Some(attempt) = &mut self.attempt {
            // Tries are counted to put off runs that die again and again.
            attempt.tries = attempt.tries.saturating_sub(1);
        }
        self.updated_at = now;
    }

    /// Records that the instance is gone, and since when that is known.
    pub fn note_missing(&mut self, now: DateTime<Utc>) {
        self.missing_since = Some(self.missing_since.map_or(now, |since| since.min(now)));
        self.retry_at = None;
        self.consecutive_failures = 0;
        self.end_attempt(now);
    }

    /// Records how retention ended, and says whether that changes anything. An error stays until a retention succeeds,
    /// and never takes anything from the run's own success; `last_error` shows it to those who know no other field,
    /// unless the run itself failed.
    pub fn note_retention(&mut self, error: Option<&str>) -> bool {
        let error = error.map(shortened);
        let last_error = match self.run_error() {
            Some(run_error) => Some(run_error.to_owned()),
            None => error.clone(),
        };
        let is_changed = self.retention_error != error || self.last_error != last_error;
        self.retention_error = error;
        self.last_error = last_error;
        is_changed
    }

    /// Whether the instance has been known to be gone for `grace`.
    pub fn is_given_up(&self, grace: Duration, now: DateTime<Utc>) -> bool {
        self.missing_since
            .is_some_and(|since| later(since, grace) <= now)
    }

    fn end_attempt(&mut self, now: DateTime<Utc>) {
        self.attempt = None;
        self.updated_at = now;
    }
}

impl Schedule {
    /// Begins a run at `now`: advances the cadence if its time has come, and notes the attempt. A run that died is
    /// taken up under the run time and the snapshot name that it had.
    ///
    /// `is_taken` says whether a snapshot name is in use; a new attempt's name moves on by seconds until it is free.
    pub fn begin(&mut self, now: DateTime<Utc>, is_taken: impl Fn(&str) -> bool) -> Attempt {
        let attempt = match self.record.attempt.take() {
            Some(died) => Attempt {
                tries: died.tries.saturating_add(1),
                started_at: now,
                ..died
            },
            None => self.new_attempt(now, is_taken),
        };
        let record = &mut self.record;
        if record.next_run_at <= now {
            record.next_run_at =
                self.declaration
                    .cadence
                    .next(&self.instance_id, record.next_run_at, now);
        }
        record.retry_at = None;
        record.last_run_at = Some(now);
        record.total_runs = record.total_runs.saturating_add(1);
        // As hypeman does: both are absent until the run has ended.
        record.last_snapshot_id = None;
        record.last_error = None;
        record.updated_at = now;
        record.attempt = Some(attempt.clone());
        attempt
    }

    fn new_attempt(&self, now: DateTime<Utc>, is_taken: impl Fn(&str) -> bool) -> Attempt {
        let name_at = |at| snapshot::scheduled_name(self.declaration.name_prefix.as_deref(), at);
        let mut named_after = now;
        let mut snapshot_name = name_at(named_after);
        while is_taken(&snapshot_name) {
            named_after += chrono::TimeDelta::seconds(1);
            snapshot_name = name_at(named_after);
        }
        Attempt {
            run_at: now,
            snapshot_name,
            tries: 1,
            started_at: now,
        }
    }

    /// Records a failure and when the run is tried again: sooner than the cadence, or by the cadence if that comes
    /// first.
    pub fn fail(&mut self, error: &str, now: DateTime<Utc>) {
        let gap = self.gap();
        let record = &mut self.record;
        record.last_snapshot_id = None;
        record.last_error = Some(shortened(error));
        record.consecutive_failures = record.consecutive_failures.saturating_add(1);
        record.total_failures = record.total_failures.saturating_add(1);
        let delay = retry_delay(record.consecutive_failures, gap);
        let retry_at = later(now, delay);
        record.retry_at = (retry_at < record.next_run_at).then_some(retry_at);
        record.end_attempt(now);
    }

    /// Whether the schedule of an instance that is gone has served its purpose: `grace` has passed, and no scheduled
    /// snapshot is left that could still go by age.
    pub fn can_retire(&self, scheduled_left: usize, grace: Duration, now: DateTime<Utc>) -> bool {
        self.record.is_given_up(grace, now)
            && (scheduled_left == 0 || self.declaration.retention.max_age.is_none())
    }
}

fn shortened(error: &str) -> String {
    error.chars().take(ERROR_MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cadence::{Cadence, Due};
    use crate::schedule::hooks::Hooks;
    use crate::schedule::{Declaration, Retention};

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn hourly(max_age: Option<Duration>) -> Schedule {
        let declaration = Declaration {
            cadence: Cadence::every(Duration::from_secs(3600)),
            retention: Retention {
                max_count: 3,
                max_age,
                ..Retention::default()
            },
            timezone: None,
            name_prefix: None,
            metadata: BTreeMap::new(),
            max_pause: None,
            expect: None,
            hooks: Hooks::default(),
            storing: crate::snapshot::storing::Storing::default(),
        };
        Schedule::new("vm".parse().unwrap(), declaration, at(0))
    }

    #[test]
    fn begin_advances_the_cadence_once_and_names_the_snapshot_after_the_run() {
        let mut schedule = hourly(None);
        let due = schedule.record.next_run_at;
        let now = due + chrono::TimeDelta::seconds(5);
        let attempt = schedule.begin(now, |_| false);
        assert_eq!(
            schedule.record.next_run_at,
            due + chrono::TimeDelta::hours(1)
        );
        assert_eq!(schedule.record.last_run_at, Some(now));
        assert_eq!(attempt.snapshot_name, snapshot::scheduled_name(None, now));
        assert_eq!(schedule.record.attempt, Some(attempt));
    }

    #[test]
    fn begin_before_the_cadence_leaves_it_alone() {
        let mut schedule = hourly(None);
        let next = schedule.record.next_run_at;
        schedule.begin(at(1), |_| false);
        assert_eq!(schedule.record.next_run_at, next);
    }

    #[test]
    fn a_run_that_died_is_taken_up_under_its_own_name() {
        let mut schedule = hourly(None);
        let first = schedule.begin(at(10), |_| false);
        let second = schedule.begin(at(70), |_| true);
        assert_eq!(second.snapshot_name, first.snapshot_name);
        assert_eq!((second.run_at, second.tries), (first.run_at, 2));
        assert_eq!(second.started_at, at(70));
    }

    #[test]
    fn interrupted_runs_are_taken_up_at_once_however_many_there_were() {
        let mut schedule = hourly(None);
        let first = schedule.begin(at(10), |_| false);
        for n in 0..5 {
            schedule.record.interrupt(at(11 + n));
            assert_eq!(
                (
                    schedule.record.consecutive_failures,
                    schedule.record.total_failures
                ),
                (0, 0)
            );
            assert_eq!(
                (schedule.record.retry_at, &schedule.record.last_error),
                (None, &None)
            );
            let due = schedule.times().due(&schedule.instance_id, at(11 + n));
            assert_eq!(due, Due::Now, "{n}");
            let again = schedule.begin(at(11 + n), |_| false);
            assert_eq!(again.snapshot_name, first.snapshot_name);
        }
    }

    #[test]
    fn a_taken_name_moves_on_by_a_second() {
        let mut schedule = hourly(None);
        let taken = snapshot::scheduled_name(None, at(10));
        let attempt = schedule.begin(at(10), |name| name == taken);
        assert_eq!(
            attempt.snapshot_name,
            snapshot::scheduled_name(None, at(11))
        );
        assert_eq!(attempt.run_at, at(10), "only the name moves");
    }

    #[test]
    fn failures_back_off_up_to_the_cadence_and_success_clears_them() {
        let mut schedule = hourly(None);
        schedule.record.next_run_at = at(1000);
        for (failures, delay) in [
            (1, Some(60)),
            (2, Some(120)),
            (3, Some(240)),
            (4, Some(480)),
            (5, Some(960)),
            (6, None),
        ] {
            schedule.begin(at(0), |_| false);
            schedule.fail("disk full", at(0));
            assert_eq!(schedule.record.consecutive_failures, failures);
            assert_eq!(schedule.record.retry_at, delay.map(at), "{failures}");
            assert_eq!(schedule.record.last_error.as_deref(), Some("disk full"));
            assert_eq!(schedule.record.attempt, None);
        }
        schedule.begin(at(10), |_| false);
        schedule.record.succeed("s1", at(10), at(11));
        assert_eq!(schedule.record.consecutive_failures, 0);
        assert_eq!(
            (schedule.record.retry_at, schedule.record.last_error),
            (None, None)
        );
        assert_eq!(schedule.record.last_success_at, Some(at(10)));
    }

    #[test]
    fn a_failing_retention_stays_until_one_succeeds_and_takes_nothing_from_the_run() {
        let mut schedule = hourly(None);
        schedule.begin(at(0), |_| false);
        schedule.record.succeed("s1", at(0), at(1));
        assert!(!schedule.record.note_retention(None));
        assert!(schedule.record.note_retention(Some("can't delete s0")));
        assert!(!schedule.record.note_retention(Some("can't delete s0")));
        assert_eq!(
            schedule.record.last_error.as_deref(),
            Some("can't delete s0")
        );
        assert_eq!(schedule.record.run_error(), None);
        assert_eq!(schedule.record.last_snapshot_id.as_deref(), Some("s1"));
        assert_eq!(schedule.record.last_success_at, Some(at(0)));
        assert_eq!(
            (
                schedule.record.consecutive_failures,
                schedule.record.retry_at
            ),
            (0, None)
        );

        schedule.begin(at(10), |_| false);
        assert!(
            schedule.record.retention_error.is_some(),
            "nothing has cleared it"
        );
        schedule.fail("disk full", at(11));
        schedule
            .record
            .note_retention(Some("can't delete s0 either"));
        assert_eq!(schedule.record.last_error.as_deref(), Some("disk full"));
        assert_eq!(
            schedule.record.retention_error.as_deref(),
            Some("can't delete s0 either")
        );
        assert!(schedule.record.note_retention(None));
        assert_eq!(schedule.record.run_error(), Some("disk full"));
        assert_eq!(schedule.record.retention_error, None);
    }

    #[test]
    fn a_gone_instance_is_remembered_since_it_was_first_missed() {
        let mut schedule = hourly(None);
        schedule.record.note_missing(at(100));
        schedule.record.note_missing(at(200));
        assert_eq!(schedule.record.missing_since, Some(at(100)));
    }

    #[test]
    fn a_schedule_retires_after_the_grace_when_nothing_can_go_by_age() {
        let grace = Duration::from_secs(1000);
        let age = Some(Duration::from_secs(9));
        for (max_age, left, now, retires) in [
            (None, 3, 999, false),
            (None, 3, 1000, true),
            (age, 1, 5000, false),
            (age, 0, 5000, true),
            (age, 0, 10, false),
        ] {
            let mut schedule = hourly(max_age);
            schedule.record.note_missing(at(0));
            assert_eq!(schedule.can_retire(left, grace, at(now)), retires);
        }
        assert!(!hourly(None).can_retire(0, Duration::ZERO, at(0)));
    }
}
