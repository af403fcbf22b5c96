//! Facts about a schedule: what declaring changes, and what its JSON form keeps.

use serde_json::json;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn settings() -> Settings {
    Settings {
        interval: HOUR,
        retention: Retention {
            max_count: 7,
            ..Retention::default()
        },
        name_prefix: None,
        metadata: BTreeMap::new(),
        hooks: Hooks::default(),
    }
}

/// A schedule with a past, in which every field is set.
fn lived_in() -> Schedule {
    let set_at = at("2026-08-20T03:11:05Z");
    Schedule {
        last_run_at: Some(at("2026-09-02T03:15:20Z")),
        last_snapshot_id: Some("s8p1n4f6y0u3e2j7g9l5o1xv".to_owned()),
        last_error: Some("no space left".to_owned()),
        next_run_at: at("2026-09-02T04:15:20Z"),
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
        missing_since: Some(at("2026-09-02T00:00:00Z")),
        ..Schedule::new("vm-1".parse().unwrap(), settings(), set_at)
    }
}

#[test]
fn declaring_the_same_again_changes_nothing() {
    let mut schedule = lived_in();
    schedule.retention.extra.insert("x".to_owned(), json!(1));
    let before = schedule.clone();
    assert!(!schedule.declare(settings(), at("2027-01-01T00:00:00Z")));
    assert_eq!(schedule, before);
}

#[test]
fn declaring_other_limits_keeps_cadence_and_record() {
    let now = at("2026-09-02T03:30:00Z");
    let mut schedule = lived_in();
    schedule.retention.extra.insert("x".to_owned(), json!(1));
    schedule.hooks.extra.insert("y".to_owned(), json!(2));
    let before = schedule.clone();
    let declared = Settings {
        retention: Retention {
            max_count: 3,
            max_age: Some(HOUR * 48),
            extra: Map::new(),
        },
        name_prefix: Some("nightly".to_owned()),
        metadata: BTreeMap::from([("team".to_owned(), "infra".to_owned())]),
        hooks: Hooks {
            pre: vec!["/bin/freeze".to_owned(), "now".to_owned()],
            timeout: Some(Duration::from_secs(5)),
            ..Hooks::default()
        },
        ..settings()
    };
    assert!(schedule.declare(declared.clone(), now));
    assert_eq!(schedule.settings(), declared);
    let expected = Schedule {
        retention: Retention {
            extra: before.retention.extra.clone(),
            ..declared.retention
        },
        name_prefix: declared.name_prefix,
        metadata: declared.metadata,
        hooks: Hooks {
            extra: before.hooks.extra.clone(),
            ..declared.hooks
        },
        updated_at: now,
        ..before
    };
    assert_eq!(schedule, expected);
}

#[test]
fn declaring_another_interval_starts_a_new_cadence_and_keeps_the_record() {
    let now = at("2026-09-02T03:30:00Z");
    let mut schedule = lived_in();
    let before = schedule.clone();
    let declared = Settings {
        interval: HOUR * 2,
        ..settings()
    };
    assert!(schedule.declare(declared, now));
    let expected = Schedule {
        interval: HOUR * 2,
        next_run_at: cadence::first_run(now, HOUR * 2, &before.instance_id),
        retry_at: None,
        updated_at: now,
        ..before
    };
    assert_eq!(schedule, expected);
}

#[test]
fn a_run_time_that_was_never_set_is_set_with_the_first_change() {
    let now = at("2026-09-02T03:30:00Z");
    let mut schedule = lived_in();
    schedule.next_run_at = at("0001-01-01T00:00:00Z");
    let declared = Settings {
        name_prefix: Some("nightly".to_owned()),
        ..settings()
    };
    assert!(schedule.declare(declared, now));
    assert_eq!(
        schedule.next_run_at,
        cadence::first_run(now, HOUR, &schedule.instance_id)
    );
}

#[test]
fn times_are_those_of_the_schedule() {
    let times = lived_in().times();
    assert_eq!(times.next_run_at, at("2026-09-02T04:15:20Z"));
    assert_eq!(times.retry_at, Some(at("2026-09-02T03:16:20Z")));
    assert_eq!(times.attempt, Some((at("2026-09-02T03:15:21Z"), 1)));
    assert_eq!(times.interval, HOUR);
}

#[test]
fn every_field_survives_json() {
    let schedule = lived_in();
    let json = serde_json::to_string(&schedule).unwrap();
    assert_eq!(serde_json::from_str::<Schedule>(&json).unwrap(), schedule);
}

#[test]
fn what_is_not_set_is_not_written() {
    let schedule = Schedule::new(
        "vm-1".parse().unwrap(),
        settings(),
        at("2026-08-20T03:11:05Z"),
    );
    let json = serde_json::to_value(&schedule).unwrap();
    let keys: Vec<&str> = json
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        keys,
        [
            "instance_id",
            "interval",
            "retention",
            "next_run_at",
            "created_at",
            "updated_at"
        ]
    );
    assert_eq!(json["retention"], json!({"max_count": 7}));
}

#[test]
fn a_limit_by_age_alone_still_writes_the_count() {
    let retention = Retention {
        max_age: Some(HOUR),
        ..Retention::default()
    };
    assert_eq!(
        serde_json::to_value(retention).unwrap(),
        json!({"max_count": 0, "max_age": "1h0m0s"})
    );
}

#[test]
fn what_go_writes_for_nothing_is_read_as_nothing() {
    let json = json!({
        "instance_id": "vm-1",
        "interval": "1h0m0s",
        "name_prefix": "",
        "metadata": null,
        "retention": {"max_count": 7, "max_age": ""},
        "next_run_at": "0001-01-01T00:00:00Z",
        "last_run_at": "0001-01-01T00:00:00Z",
        "last_snapshot_id": "",
        "last_error": null,
        "created_at": "0001-01-01T00:00:00Z",
        "updated_at": "2026-09-02T05:15:20.123456789+02:00",
    });
    let schedule: Schedule = serde_json::from_value(json).unwrap();
    assert_eq!(schedule.settings(), settings());
    assert_eq!(schedule.last_run_at, None);
    assert_eq!(schedule.last_snapshot_id, None);
    assert_eq!(schedule.last_error, None);
    assert_eq!(schedule.updated_at, at("2026-09-02T03:15:20.123456789Z"));
    // What must be there is written as it was read.
    let json = serde_json::to_value(&schedule).unwrap();
    assert_eq!(json["next_run_at"], "0001-01-01T00:00:00Z");
    assert_eq!(json["created_at"], "0001-01-01T00:00:00Z");
}
