//! How a schedule's record changes when a run begins, succeeds, fails or finds the instance gone. Pure.
//!
//! The order matters for crashes: [`Schedule::begin`] is saved before anything is done, so that a run time can't be
//! served twice; its [`Attempt`] stays in the file until the end is recorded, so that a run that died is noticed.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::instance::InstanceId;
use crate::schedule::{Attempt, Schedule, cadence};
use crate::snapshot;

/// Longest error text that is kept in a schedule file, in characters.
const ERROR_MAX_CHARS: usize = 2000;

impl Schedule {
    /// Begins a run at `now`: advances the cadence if its time has come, and notes the attempt. A run that died is
    /// taken up under the run time and the snapshot name that it had.
    ///
    /// `is_taken` says whether a snapshot name is in use; a new attempt's name moves on by seconds until it is free.
    pub fn begin(&mut self, now: DateTime<Utc>, is_taken: impl Fn(&str) -> bool) -> Attempt {
        if self.next_run_at <= now {
            self.next_run_at = cadence::next_run(self.next_run_at, self.interval, now);
        }
        let attempt = match self.attempt.take() {
            Some(died) => Attempt {
                tries: died.tries.saturating_add(1),
                started_at: now,
                ..died
            },
            None => self.new_attempt(now, is_taken),
        };
        self.retry_at = None;
        self.last_run_at = Some(now);
        self.total_runs = self.total_runs.saturating_add(1);
        // As hypeman does: both are absent until the run has ended (contract, "Cadence").
        self.last_snapshot_id = None;
        self.last_error = None;
        self.updated_at = now;
        self.attempt = Some(attempt.clone());
        attempt
    }

    /// The attempt that a run beginning at `now` makes when no earlier one died.
    pub fn new_attempt(&self, now: DateTime<Utc>, is_taken: impl Fn(&str) -> bool) -> Attempt {
        let name_at = |at| snapshot::scheduled_name(self.name_prefix.as_deref(), at);
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

    /// Records a failure and when the run is tried again: sooner than the cadence, or by the cadence if that comes
    /// first.
    pub fn fail(&mut self, error: &str, now: DateTime<Utc>) {
        self.last_snapshot_id = None;
        self.last_error = Some(shortened(error));
        self.consecutive_failures = self.consecutive_failures.saturating_add(1);
        self.total_failures = self.total_failures.saturating_add(1);
        let delay = cadence::retry_delay(self.consecutive_failures, self.interval);
        let retry_at = later(now, delay);
        self.retry_at = (retry_at < self.next_run_at).then_some(retry_at);
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

    /// Whether the schedule of an instance that is gone has served its purpose: `grace` has passed, and no scheduled
    /// snapshot is left that could still go by age.
    pub fn can_retire(&self, scheduled_left: usize, grace: Duration, now: DateTime<Utc>) -> bool {
        self.is_given_up(grace, now) && (scheduled_left == 0 || self.retention.max_age.is_none())
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

/// The name of the schedule's instance and the time it runs next, in one line for logs.
pub fn describe_heal(id: &InstanceId, from: DateTime<Utc>, to: DateTime<Utc>) -> String {
    format!(
        "the next run of {id} was set for {}, further away than its interval allows (did the clock jump?); it is now {}",
        from.format("%Y-%m-%dT%H:%M:%SZ"),
        to.format("%Y-%m-%dT%H:%M:%SZ")
    )
}

fn shortened(error: &str) -> String {
    error.chars().take(ERROR_MAX_CHARS).collect()
}

fn later(at: DateTime<Utc>, by: Duration) -> DateTime<Utc> {
    chrono::TimeDelta::from_std(by)
        .ok()
        .and_then(|by| at.checked_add_signed(by))
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::schedule::hooks::Hooks;
    use crate::schedule::{Retention, Settings};

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn hourly(max_age: Option<Duration>) -> Schedule {
        let settings = Settings {
            interval: Duration::from_secs(3600),
            retention: Retention {
                max_count: 3,
                max_age,
                ..Retention::default()
            },
            name_prefix: None,
            metadata: BTreeMap::new(),
            hooks: Hooks::default(),
        };
        Schedule::new("vm".parse().unwrap(), settings, at(0))
    }

    #[test]
    fn begin_advances_the_cadence_once_and_names_the_snapshot_after_the_run() {
        let mut schedule = hourly(None);
        let due = schedule.next_run_at;
        let now = due + chrono::TimeDelta::seconds(5);
        let attempt = schedule.begin(now, |_| false);
        assert_eq!(schedule.next_run_at, due + chrono::TimeDelta::hours(1));
        assert_eq!(schedule.last_run_at, Some(now));
        assert_eq!(attempt.snapshot_name, snapshot::scheduled_name(None, now));
        assert_eq!(schedule.attempt, Some(attempt));
    }

    #[test]
    fn begin_before_the_cadence_leaves_it_alone() {
        let mut schedule = hourly(None);
        let next = schedule.next_run_at;
        schedule.begin(at(1), |_| false);
        assert_eq!(schedule.next_run_at, next);
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
            schedule.interrupt(at(11 + n));
            assert_eq!(
                (schedule.consecutive_failures, schedule.total_failures),
                (0, 0)
            );
            assert_eq!((schedule.retry_at, &schedule.last_error), (None, &None));
            let due = cadence::due(&schedule.times(), &schedule.instance_id, at(11 + n));
            assert_eq!(due, cadence::Due::Now(cadence::Why::Interrupted), "{n}");
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
        schedule.next_run_at = at(1000);
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
            assert_eq!(schedule.consecutive_failures, failures);
            assert_eq!(schedule.retry_at, delay.map(at), "{failures}");
            assert_eq!(schedule.last_error.as_deref(), Some("disk full"));
            assert_eq!(schedule.attempt, None);
        }
        schedule.begin(at(10), |_| false);
        schedule.succeed("s1", at(10), at(11));
        assert_eq!(schedule.consecutive_failures, 0);
        assert_eq!((schedule.retry_at, schedule.last_error), (None, None));
        assert_eq!(schedule.last_success_at, Some(at(10)));
    }

    #[test]
    fn a_failing_retention_stays_until_one_succeeds_and_takes_nothing_from_the_run() {
        let mut schedule = hourly(None);
        schedule.begin(at(0), |_| false);
        schedule.succeed("s1", at(0), at(1));
        assert!(!schedule.note_retention(None));
        assert!(schedule.note_retention(Some("can't delete s0")));
        assert!(!schedule.note_retention(Some("can't delete s0")));
        assert_eq!(schedule.last_error.as_deref(), Some("can't delete s0"));
        assert_eq!(schedule.run_error(), None);
        assert_eq!(schedule.last_snapshot_id.as_deref(), Some("s1"));
        assert_eq!(schedule.last_success_at, Some(at(0)));
        assert_eq!(
            (schedule.consecutive_failures, schedule.retry_at),
            (0, None)
        );

        schedule.begin(at(10), |_| false);
        assert!(schedule.retention_error.is_some(), "nothing has cleared it");
        schedule.fail("disk full", at(11));
        schedule.note_retention(Some("can't delete s0 either"));
        assert_eq!(schedule.last_error.as_deref(), Some("disk full"));
        assert_eq!(
            schedule.retention_error.as_deref(),
            Some("can't delete s0 either")
        );
        assert!(schedule.note_retention(None));
        assert_eq!(schedule.run_error(), Some("disk full"));
        assert_eq!(schedule.retention_error, None);
    }

    #[test]
    fn a_gone_instance_is_remembered_since_it_was_first_missed() {
        let mut schedule = hourly(None);
        schedule.note_missing(at(100));
        schedule.note_missing(at(200));
        assert_eq!(schedule.missing_since, Some(at(100)));
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
            schedule.note_missing(at(0));
            assert_eq!(schedule.can_retire(left, grace, at(now)), retires);
        }
        assert!(!hourly(None).can_retire(0, Duration::ZERO, at(0)));
    }
}
