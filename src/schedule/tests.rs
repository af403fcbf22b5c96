//! Facts about a schedule: what declaring changes.

use serde_json::json;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn declaration() -> Declaration {
    Declaration {
        cadence: Cadence::every(HOUR),
        retention: Retention {
            max_count: 7,
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
    }
}

/// A schedule with a past, in which every field is set.
fn lived_in() -> Schedule {
    let set_at = at("2026-08-20T03:11:05Z");
    let mut schedule = Schedule::new("vm-1".parse().unwrap(), declaration(), set_at);
    schedule.unknown.insert("x".to_owned(), json!({"y": 1}));
    schedule.record = Record {
        last_run_at: Some(at("2026-09-02T03:15:20Z")),
        last_snapshot_id: Some("s8p1n4f6y0u3e2j7g9l5o1xv".to_owned()),
        last_error: Some("no space left".to_owned()),
        next_run_at: at("2026-09-02T04:15:20Z"),
        created_at: set_at,
        updated_at: set_at,
        retry_at: Some(at("2026-09-02T03:16:20Z")),
        consecutive_failures: 2,
        attempt: Some(Attempt {
            run_at: at("2026-09-02T03:15:20Z"),
            snapshot_name: "scheduled-20260902-031520".to_owned(),
            tries: 1,
            started_at: at("2026-09-02T03:15:21Z"),
        }),
        last_success_at: Some(at("2026-09-01T03:15:20Z")),
        last_pause_ms: Some(4.25),
        last_duration_ms: Some(1_234),
        total_runs: 9,
        total_failures: 3,
        missing_since: Some(at("2026-09-02T00:00:00Z")),
        retention_error: Some("can't delete s0".to_owned()),
    };
    schedule
}

#[test]
fn declaring_the_same_again_changes_nothing() {
    let mut schedule = lived_in();
    let before = schedule.clone();
    assert!(!schedule.declare(declaration(), at("2027-01-01T00:00:00Z")));
    assert_eq!(schedule, before);
}

#[test]
fn declaring_other_limits_keeps_cadence_and_record() {
    let now = at("2026-09-02T03:30:00Z");
    let mut schedule = lived_in();
    let before = schedule.clone();
    let declared = Declaration {
        retention: Retention {
            max_count: 3,
            max_age: Some(HOUR * 48),
            ..Retention::default()
        },
        timezone: None,
        name_prefix: Some("nightly".to_owned()),
        metadata: BTreeMap::from([("team".to_owned(), "infra".to_owned())]),
        max_pause: None,
        expect: None,
        hooks: Hooks {
            pre: vec!["/bin/freeze".to_owned(), "now".to_owned()],
            timeout: Some(Duration::from_secs(5)),
            ..Hooks::default()
        },
        ..declaration()
    };
    assert!(schedule.declare(declared.clone(), now));
    let expected = Schedule {
        declaration: declared,
        record: Record {
            updated_at: now,
            ..before.record.clone()
        },
        ..before
    };
    assert_eq!(schedule, expected);
}

#[test]
fn declaring_another_interval_starts_a_new_cadence_and_keeps_the_record() {
    let now = at("2026-09-02T03:30:00Z");
    let mut schedule = lived_in();
    let before = schedule.clone();
    let declared = Declaration {
        cadence: Cadence::every(HOUR * 2),
        ..declaration()
    };
    assert!(schedule.declare(declared.clone(), now));
    let expected = Schedule {
        record: Record {
            next_run_at: declared.cadence.first(&before.instance_id, now),
            retry_at: None,
            updated_at: now,
            ..before.record.clone()
        },
        declaration: declared,
        ..before
    };
    assert_eq!(schedule, expected);
}

#[test]
fn a_run_time_that_was_never_set_is_set_with_the_first_change() {
    let now = at("2026-09-02T03:30:00Z");
    let mut schedule = lived_in();
    schedule.record.next_run_at = at("0001-01-01T00:00:00Z");
    let declared = Declaration {
        timezone: None,
        name_prefix: Some("nightly".to_owned()),
        ..declaration()
    };
    assert!(schedule.declare(declared, now));
    assert_eq!(
        schedule.record.next_run_at,
        Cadence::every(HOUR).first(&schedule.instance_id, now)
    );
}

#[test]
fn times_are_those_of_the_schedule() {
    let times = lived_in().times();
    assert_eq!(times.next_run_at, at("2026-09-02T04:15:20Z"));
    assert_eq!(times.retry_at, Some(at("2026-09-02T03:16:20Z")));
    assert_eq!(times.attempt, Some((at("2026-09-02T03:15:21Z"), 1)));
    assert_eq!(times.cadence, Cadence::every(HOUR));
}
