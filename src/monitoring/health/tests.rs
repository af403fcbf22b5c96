//! The verdict, case by case, and what holds for all of them.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::cadence::{Cadence, Calendar, When};
use crate::schedule::hooks::Hooks;
use crate::schedule::{Attempt, Declaration, Retention};

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
/// When the schedules of these tests were set.
const SET_AT: i64 = 1_800_000_000;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(SET_AT + seconds, 0).unwrap()
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(seconds.try_into().unwrap())
}

/// A schedule that was set at 0 and has not run yet.
fn new(interval: i64) -> Schedule {
    let declaration = Declaration {
        cadence: Cadence::every(seconds(interval)),
        retention: Retention {
            max_count: 3,
            max_age: None,
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

/// An hourly schedule whose last run, at 0, went well.
fn hourly() -> Schedule {
    let mut schedule = new(HOUR);
    schedule.record.created_at = at(-100 * HOUR);
    schedule.record.next_run_at = at(0);
    schedule.begin(at(0), |_| false);
    schedule.record.succeed("s1", at(0), at(1));
    schedule
}

fn judge_at(schedule: &Schedule, newest: Newest, now: i64) -> Assessment {
    let facts = Facts {
        schedule,
        newest,
        flaw: None,
        is_gone: false,
    };
    judge(&facts, None, at(now))
}

fn summary(verdict: &Assessment) -> (Level, &'static str) {
    (verdict.level, verdict.cause.as_str())
}

#[test]
fn default_rpo_is_interval_jitter_and_slack() {
    for (interval, slack_is) in [
        (MINUTE, 5 * MINUTE),
        (HOUR, 6 * MINUTE),
        (4 * HOUR, 24 * MINUTE),
        (24 * HOUR, HOUR),
        (7 * 24 * HOUR, HOUR),
    ] {
        let schedule = new(interval);
        assert_eq!(slack(&schedule), seconds(slack_is), "{interval}");
        let jitter = schedule
            .declaration
            .cadence
            .jitter(&schedule.instance_id, schedule.gap());
        assert_eq!(
            default_rpo(&schedule),
            seconds(interval + slack_is) + jitter
        );
    }
    let mut slow = hourly();
    slow.record.last_duration_ms = Some(90_000);
    assert_eq!(slack(&slow), seconds(6 * MINUTE + 90));
    slow.record.last_duration_ms = Some(u64::MAX);
    assert_eq!(slack(&slow), seconds(6 * MINUTE + HOUR));
}

#[test]
fn a_weekend_without_runs_is_no_reason_to_worry_and_a_missed_monday_is() {
    let time = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
    let mut schedule = new(HOUR);
    let calendar = Calendar::parse("0 9 * * mon-fri", chrono_tz::Tz::UTC).unwrap();
    schedule.declaration.cadence.when = When::Calendar(Box::new(calendar));
    let cadence = &schedule.declaration.cadence;
    let friday = cadence.first(&schedule.instance_id, time("2026-11-26T12:00:00Z"));
    schedule.record.created_at = time("2026-10-01T00:00:00Z");
    schedule.record.next_run_at = friday;
    schedule.begin(friday, |_| false);
    schedule.record.succeed("s1", friday, friday);
    let level = |now: &str| {
        let facts = Facts {
            schedule: &schedule,
            newest: Newest::At(friday),
            flaw: None,
            is_gone: false,
        };
        judge(&facts, None, time(now)).level
    };
    assert_eq!(level("2026-11-29T23:00:00Z"), Level::Ok);
    assert_eq!(level("2026-11-30T09:30:00Z"), Level::Ok);
    assert_eq!(level("2026-11-30T13:00:00Z"), Level::Warning);
}

#[test]
fn age_decides_the_level() {
    let schedule = hourly();
    let rpo = i64::try_from(default_rpo(&schedule).as_secs()).unwrap();
    let newest = Newest::At(at(0));
    for (now, level, cause) in [
        (0, Level::Ok, "fresh"),
        (HOUR + 4 * MINUTE, Level::Ok, "fresh"),
        (rpo, Level::Ok, "run_due_not_running"),
        (rpo + 1, Level::Warning, "run_due_not_running"),
        (2 * rpo + 1, Level::Warning, "run_due_not_running"),
        (2 * rpo + 2, Level::Critical, "run_due_not_running"),
    ] {
        // The default RPO has nanoseconds of jitter.
        let verdict = judge_at(&schedule, newest, now);
        assert_eq!(summary(&verdict), (level, cause), "{now}");
        assert_eq!(verdict.age, Some(seconds(now)));
    }
}

#[test]
fn failing_retention_is_a_warning_at_any_age_and_hides_nothing_worse() {
    let mut schedule = hourly();
    schedule.record.note_retention(Some("can't delete s0"));
    let newest = Newest::At(at(0));
    let verdict = judge_at(&schedule, newest, 10 * MINUTE);
    assert_eq!(summary(&verdict), (Level::Warning, "retention_failing"));
    assert_eq!(verdict.age, Some(seconds(10 * MINUTE)));
    let verdict = judge_at(&schedule, newest, 3 * HOUR);
    assert_eq!(summary(&verdict), (Level::Critical, "run_due_not_running"));
    let gone = Facts {
        schedule: &schedule,
        newest,
        flaw: None,
        is_gone: true,
    };
    let verdict = judge(&gone, None, at(HOUR));
    assert_eq!(summary(&verdict), (Level::Warning, "retention_failing"));
    schedule.record.note_retention(None);
    let verdict = judge_at(&schedule, newest, 10 * MINUTE);
    assert_eq!(summary(&verdict), (Level::Ok, "fresh"));
}

#[test]
fn run_that_does_not_end_within_the_interval_is_a_warning() {
    let mut schedule = hourly();
    schedule.begin(at(HOUR), |_| false);
    let newest = Newest::At(at(HOUR - MINUTE));
    for (now, level) in [(2 * HOUR, Level::Ok), (2 * HOUR + 1, Level::Warning)] {
        let verdict = judge_at(&schedule, newest, now);
        assert_eq!(summary(&verdict), (level, "unfinished"), "{now}");
    }
}

#[test]
fn timer_that_does_not_fire_is_told_from_snapshots_that_fail() {
    let mut failing = hourly();
    for (begins, tries) in [(HOUR, 1), (HOUR + MINUTE, 2), (HOUR + 3 * MINUTE, 3)] {
        failing.begin(at(begins), |_| false);
        failing.fail("disk is full", at(begins + 1));
        assert_eq!(failing.record.consecutive_failures, tries);
    }
    let newest = Newest::At(at(0));
    let now = HOUR + 6 * MINUTE;
    let verdict = judge_at(&failing, newest, now);
    assert_eq!(summary(&verdict), (Level::Ok, "failing"));
    // The retry at one hour and seven minutes is not begun.
    let verdict = judge_at(&failing, newest, 3 * HOUR);
    assert_eq!(summary(&verdict), (Level::Critical, "run_due_not_running"));
    assert_eq!(
        verdict.cause,
        Cause::NotRunning {
            since: failing.record.retry_at
        }
    );
    failing.begin(at(3 * HOUR), |_| false);
    failing.fail("disk is full", at(3 * HOUR + 1));
    let verdict = judge_at(&failing, newest, 3 * HOUR + 2);
    assert_eq!(summary(&verdict), (Level::Critical, "failing"));
}

#[test]
fn new_schedule_is_not_late_before_its_first_run_whatever_the_rpo() {
    let schedule = new(24 * HOUR);
    let facts = |newest| Facts {
        schedule: &schedule,
        newest,
        flaw: None,
        is_gone: false,
    };
    for newest in [Newest::None, Newest::Unknown] {
        for rpo in [None, Some(seconds(HOUR))] {
            let verdict = judge(&facts(newest), rpo, at(24 * HOUR));
            assert_eq!(summary(&verdict), (Level::Ok, "not_yet_due"), "{newest:?}");
            let verdict = judge(&facts(newest), rpo, at(26 * HOUR));
            assert_eq!(summary(&verdict), (Level::Warning, "run_due_not_running"));
            let verdict = judge(&facts(newest), rpo, at(72 * HOUR));
            assert_eq!(summary(&verdict), (Level::Critical, "run_due_not_running"));
        }
    }
}

#[test]
fn changed_interval_is_waited_for_unless_an_rpo_is_declared() {
    let mut schedule = new(24 * HOUR);
    schedule.record.next_run_at = at(0);
    schedule.begin(at(0), |_| false);
    schedule.record.succeed("s1", at(0), at(1));
    let hourly = Declaration {
        cadence: Cadence::every(seconds(HOUR)),
        ..schedule.declaration.clone()
    };
    let now = 20 * HOUR;
    assert!(schedule.declare(hourly, at(now)));
    let newest = Newest::At(at(0));
    let verdict = judge_at(&schedule, newest, now + MINUTE);
    assert_eq!(summary(&verdict), (Level::Ok, "not_yet_due"));
    let verdict = judge_at(&schedule, newest, now + HOUR + 13 * MINUTE);
    assert_eq!(summary(&verdict), (Level::Warning, "run_due_not_running"));
    let facts = Facts {
        schedule: &schedule,
        newest,
        flaw: None,
        is_gone: false,
    };
    let verdict = judge(&facts, Some(seconds(HOUR)), at(now + MINUTE));
    assert_eq!(summary(&verdict), (Level::Critical, "late"));
}

#[test]
fn interval_beyond_the_declared_rpo_is_named() {
    let schedule = hourly();
    let facts = Facts {
        schedule: &schedule,
        newest: Newest::At(at(0)),
        flaw: None,
        is_gone: false,
    };
    let verdict = judge(&facts, Some(seconds(30 * MINUTE)), at(31 * MINUTE));
    assert_eq!(
        summary(&verdict),
        (Level::Warning, "interval_longer_than_rpo")
    );
    let verdict = judge(&facts, Some(seconds(4 * HOUR)), at(3 * HOUR));
    assert_eq!(summary(&verdict), (Level::Ok, "run_due_not_running"));
}

#[test]
fn run_that_has_not_ended_is_named() {
    let mut schedule = hourly();
    schedule.begin(at(HOUR), |_| false);
    let newest = Newest::At(at(0));
    let verdict = judge_at(&schedule, newest, HOUR + MINUTE);
    assert_eq!(summary(&verdict), (Level::Ok, "unfinished"));
    let verdict = judge_at(&schedule, newest, 2 * HOUR);
    assert_eq!(verdict.cause, Cause::Unfinished { since: at(HOUR) });
    assert_eq!(verdict.level, Level::Warning);
    // An end that is not clear counts as a failure.
    schedule.record.attempt.as_mut().unwrap().tries = 1;
    let attempt: Attempt = schedule.record.attempt.clone().unwrap();
    schedule.fail("no answer", at(HOUR + 1));
    schedule.record.attempt = Some(attempt);
    let verdict = judge_at(&schedule, newest, HOUR + 40);
    assert_eq!(verdict.cause, Cause::Failing);
}

#[test]
fn snapshot_that_is_recorded_and_not_there_is_lost() {
    let schedule = hourly();
    let verdict = judge_at(&schedule, Newest::None, MINUTE);
    assert_eq!(summary(&verdict), (Level::Critical, "lost"));
    let verdict = judge_at(&schedule, Newest::At(at(-HOUR)), 30 * MINUTE);
    assert_eq!(summary(&verdict), (Level::Warning, "lost"));
    let verdict = judge_at(&schedule, Newest::At(at(-2)), 30 * MINUTE);
    assert_eq!(summary(&verdict), (Level::Ok, "fresh"));
}

#[test]
fn without_the_engine_the_record_is_judged() {
    let mut schedule = hourly();
    let verdict = judge_at(&schedule, Newest::Unknown, MINUTE);
    assert_eq!(summary(&verdict), (Level::Ok, "fresh"));
    assert_eq!(verdict.newest, Some((at(0), Source::Record)));
    // A file of hypeman's own names the last run's snapshot and no success.
    schedule.record.last_success_at = None;
    let verdict = judge_at(&schedule, Newest::Unknown, 3 * HOUR);
    assert_eq!(verdict.level, Level::Critical);
    schedule.record.last_snapshot_id = None;
    let verdict = judge_at(&schedule, Newest::Unknown, MINUTE);
    assert_eq!(summary(&verdict), (Level::Unknown, "untold"));
    assert_eq!(verdict.age, None);
    schedule.fail("no server", at(1));
    let verdict = judge_at(&schedule, Newest::Unknown, MINUTE);
    assert_eq!(summary(&verdict), (Level::Critical, "failing"));
    schedule.record.note_missing(at(2));
    let verdict = judge_at(&schedule, Newest::Unknown, 100 * HOUR);
    assert_eq!(summary(&verdict), (Level::Ok, "gone"));
}

#[test]
fn instance_that_is_gone_is_no_alarm() {
    let schedule = hourly();
    let facts = Facts {
        schedule: &schedule,
        newest: Newest::At(at(0)),
        flaw: None,
        is_gone: true,
    };
    let verdict = judge(&facts, None, at(100 * HOUR));
    assert_eq!(summary(&verdict), (Level::Ok, "gone"));
    // What the last run found is old news once the engine has been asked.
    let mut back = hourly();
    back.record.note_missing(at(2));
    let verdict = judge_at(&back, Newest::At(at(0)), 100 * HOUR);
    assert_eq!(verdict.level, Level::Critical);
}

#[test]
fn jumped_clocks_are_neither_hidden_nor_an_alarm_at_once() {
    let mut schedule = hourly();
    let verdict = judge_at(&schedule, Newest::At(at(HOUR)), 0);
    assert_eq!(summary(&verdict), (Level::Warning, "in_future"));
    schedule.record.next_run_at = at(1000 * HOUR);
    let verdict = judge_at(&schedule, Newest::At(at(0)), MINUTE);
    assert_eq!(summary(&verdict), (Level::Ok, "fresh"));
    let verdict = judge_at(&schedule, Newest::At(at(0)), 2 * HOUR);
    assert_eq!(verdict.cause, Cause::NotRunning { since: None });
    assert_eq!(verdict.level, Level::Warning);
}

/// Schedules of any shape, also impossible ones.
fn any_schedule() -> impl Strategy<Value = Schedule> {
    let time = || -1000 * HOUR..1000 * HOUR;
    let maybe = || proptest::option::of(-1000 * HOUR..1000 * HOUR);
    (
        MINUTE..100 * HOUR,
        time(),
        maybe(),
        maybe(),
        maybe(),
        maybe(),
        0u32..3,
        any::<u64>(),
    )
        .prop_map(
            |(interval, next, retry, last, success, missing, failures, took)| {
                let mut schedule = new(interval);
                schedule.record.next_run_at = at(next);
                schedule.record.retry_at = retry.map(at);
                schedule.record.last_run_at = last.map(at);
                schedule.record.last_success_at = success.map(at);
                schedule.record.missing_since = missing.map(at);
                schedule.record.consecutive_failures = failures;
                schedule.record.last_duration_ms = Some(took);
                schedule
            },
        )
}

fn any_newest() -> impl Strategy<Value = Newest> {
    prop_oneof![
        Just(Newest::Unknown),
        Just(Newest::None),
        (-1000 * HOUR..1000 * HOUR).prop_map(|seconds| Newest::At(at(seconds))),
    ]
}

proptest! {
    #[test]
    fn verdicts_never_get_better_by_waiting(
        schedule in any_schedule(),
        newest in any_newest(),
        rpo in proptest::option::of(1..1000 * HOUR),
        now in 0..1000 * HOUR,
        later in 0..1000 * HOUR,
    ) {
        let facts = Facts { schedule: &schedule, newest, flaw: None, is_gone: false };
        let rpo = rpo.map(seconds);
        let first = judge(&facts, rpo, at(now));
        let second = judge(&facts, rpo, at(now + later));
        // A snapshot from the future stops being one, and a next run that lay impossibly far ahead becomes a real one.
        let has_jumped = first.cause == Cause::InFuture
            || matches!(schedule.times().due(&schedule.instance_id, at(now)), Due::Misplaced { .. });
        prop_assert!(has_jumped || second.level >= first.level, "{first:?} {second:?}");
    }

    #[test]
    fn snapshots_within_the_rpo_are_ok_and_those_beyond_it_twice_are_not(
        schedule in any_schedule(),
        rpo in 1..1000 * HOUR,
        age in 0..3000 * HOUR,
    ) {
        let newest = Newest::At(at(0));
        let facts = Facts { schedule: &schedule, newest, flaw: None, is_gone: false };
        let verdict = judge(&facts, Some(seconds(rpo)), at(age));
        let expected = if age <= rpo {
            Level::Ok
        } else if age <= 2 * rpo {
            Level::Warning
        } else {
            Level::Critical
        };
        prop_assert_eq!(verdict.level, expected);
    }
}
