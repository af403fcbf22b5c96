//! Facts about the form of a schedule file: hypeman's own are read and kept, hostile ones are refused.

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// As hypeman's Go code writes it: two spaces, no line end.
const HYPEMANS: &str = r#"{
  "instance_id": "mk3v9t0xq2r7w5d8h1c6b4za",
  "interval": "24h0m0s",
  "name_prefix": "nightly",
  "metadata": {
    "team": "infra"
  },
  "retention": {
    "max_count": 7,
    "max_age": "168h0m0s"
  },
  "next_run_at": "2026-09-03T03:15:20Z",
  "last_run_at": "2026-09-02T03:15:20Z",
  "last_snapshot_id": "s8p1n4f6y0u3e2j7g9l5o1xv",
  "created_at": "2026-08-20T03:11:05Z",
  "updated_at": "2026-09-02T03:15:20Z"
}"#;

/// With all that this tool adds, and with what neither knows.
const FULL: &str = r#"{
  "instance_id": "mk3v9t0xq2r7w5d8h1c6b4za",
  "interval": "1h30m0s",
  "timezone": "Europe/Berlin",
  "retention": {
    "max_count": 7,
    "keep_hourly": 24,
    "keep_weekly": 4,
    "keep_within": "2h0m0s",
    "min_keep": 3,
    "keep_quarterly": {
      "count": 4,
      "on": [
        "sun"
      ]
    }
  },
  "next_run_at": "2026-09-03T03:15:20.500Z",
  "last_run_at": "2026-09-02T03:15:20Z",
  "last_error": "disk \"a\" is full: <no space>",
  "created_at": "2026-08-20T03:11:05Z",
  "updated_at": "2026-09-02T03:15:20Z",
  "retry_at": "2026-09-02T03:17:20Z",
  "consecutive_failures": 2,
  "attempt": {
    "run_at": "2026-09-02T03:15:20Z",
    "snapshot_name": "scheduled-20260902-031520",
    "tries": 3,
    "started_at": "2026-09-02T03:15:21Z"
  },
  "last_success_at": "2026-09-01T03:15:20Z",
  "last_pause_ms": 4.25,
  "last_duration_ms": 1234,
  "missing_since": "2026-09-02T00:00:00Z",
  "hooks": {
    "pre": [
      "fsfreeze",
      "-f",
      "/srv/a b"
    ],
    "failure": [
      "/usr/local/bin/notify"
    ],
    "timeout": "30s",
    "on_sundays": true
  },
  "paused": false,
  "windows": [
    {
      "from": null,
      "weight": -1.5,
      "big": 18446744073709551615
    }
  ]
}
"#;

fn id() -> InstanceId {
    "mk3v9t0xq2r7w5d8h1c6b4za".parse().unwrap()
}

fn decoded(text: &str) -> Result<Schedule, String> {
    decode(text.as_bytes(), &id()).map_err(describe)
}

fn describe(refusal: Refusal) -> String {
    match refusal {
        Refusal::Malformed(error) => format!("malformed: {error}"),
        Refusal::Invalid(rule) => format!("invalid: {rule}"),
    }
}

fn encoded(schedule: &Schedule) -> String {
    String::from_utf8(encode(schedule).unwrap()).unwrap()
}

/// Nothing but a cadence and a retention.
fn weekly(retention: Retention) -> Schedule {
    let declaration = Declaration {
        cadence: Cadence::every(Duration::from_secs(7 * 24 * 3600)),
        retention,
        timezone: None,
        name_prefix: None,
        metadata: BTreeMap::new(),
        max_pause: None,
        expect: None,
        hooks: Hooks::default(),
        storing: crate::snapshot::storing::Storing::default(),
    };
    Schedule::new(id(), declaration, DateTime::UNIX_EPOCH)
}

#[test]
fn a_file_of_hypeman_is_written_back_as_it_was() {
    let schedule = decoded(HYPEMANS).unwrap();
    assert_eq!(schedule.gap(), Duration::from_secs(24 * 3600));
    assert_eq!(schedule.declaration.name_prefix.as_deref(), Some("nightly"));
    assert_eq!(encoded(&schedule), format!("{HYPEMANS}\n"));
}

#[test]
fn unknown_fields_survive_at_every_level() {
    assert_eq!(encoded(&decoded(FULL).unwrap()), FULL);
}

#[test]
fn unknown_fields_anywhere_end_up_behind_the_known_ones() {
    let text = HYPEMANS.replacen('{', "{\n  \"zone\": {\"a\": [1, {\"b\": null}]},", 1);
    let written = encoded(&decoded(&text).unwrap());
    assert!(written.starts_with("{\n  \"instance_id\""), "{written}");
    let value: serde_json::Value = serde_json::from_str(&written).unwrap();
    assert_eq!(value["zone"], serde_json::json!({"a": [1, {"b": null}]}));
}

#[test]
fn times_are_those_of_the_schedule() {
    let times = |text: &str| {
        super::times(text.as_bytes(), &id())
            .map_err(describe)
            .unwrap()
    };
    for text in [HYPEMANS, FULL] {
        assert_eq!(times(text), decoded(text).unwrap().times());
    }
    assert_eq!(
        times(FULL).attempt,
        Some(("2026-09-02T03:15:21Z".parse().unwrap(), 3))
    );
}

#[test]
fn a_cut_file_is_refused_wherever_it_is_cut() {
    for end in 0..HYPEMANS.len() {
        let bytes = &HYPEMANS.as_bytes()[..end];
        assert!(
            matches!(decode(bytes, &id()), Err(Refusal::Malformed(_))),
            "{end}"
        );
        assert!(
            matches!(super::times(bytes, &id()), Err(Refusal::Malformed(_))),
            "{end}"
        );
    }
}

#[test]
fn hostile_content_is_refused() {
    let with = |old: &str, new: &str| {
        assert!(HYPEMANS.contains(old), "{old}");
        HYPEMANS.replacen(old, new, 1)
    };
    let interval = |text: &str| with(r#""24h0m0s""#, text);
    let count = |text: &str| with(": 7", text);
    for (text, kind) in [
        (String::new(), "malformed"),
        ("null".to_owned(), "malformed"),
        ("[]".to_owned(), "malformed"),
        ("{}".to_owned(), "malformed"),
        ("\0".repeat(4096), "malformed"),
        (format!("{HYPEMANS}\0"), "malformed"),
        (format!("{HYPEMANS}{HYPEMANS}"), "malformed"),
        (format!("\u{feff}{HYPEMANS}"), "malformed"),
        (with("24h0m0s", "24h0m0s\0"), "malformed"),
        (with("{", "{\"interval\": \"1h0m0s\","), "malformed"),
        (with("\"next_run_at\"", "\"next_run\""), "malformed"),
        (with("\"retention\"", "\"retain\""), "malformed"),
        (with("2026-09-03T03:15:20Z", "tomorrow"), "malformed"),
        (
            with("2026-09-03T03:15:20Z", "2026-13-03T03:15:20Z"),
            "malformed",
        ),
        (
            with("2026-09-03T03:15:20Z", "99999999-01-01T00:00:00Z"),
            "malformed",
        ),
        (with("\"2026-09-03T03:15:20Z\"", "1788405320"), "malformed"),
        (interval("86400"), "malformed"),
        (interval("null"), "malformed"),
        (interval("\"-24h0m0s\""), "malformed"),
        (interval("\"99999999999999999999h\""), "malformed"),
        (interval("\"2562048h0m0s\""), "malformed"),
        (interval("[\"24h\"]"), "malformed"),
        (interval("\"0s\""), "invalid"),
        (interval("\"59s\""), "invalid"),
        (count(": -1"), "malformed"),
        (count(": 7.5"), "malformed"),
        (count(": \"7\""), "malformed"),
        (count(": null"), "malformed"),
        (count(": 1e400"), "malformed"),
        (count(": 99999999999999999999999999"), "malformed"),
        (with("7,\n    \"max_age\": \"168h0m0s\"", "0"), "invalid"),
        (with("168h0m0s", "168"), "malformed"),
        (
            with("mk3v9t0xq2r7w5d8h1c6b4za", "mk3v9t0xq2r7w5d8h1c6b4zb"),
            "invalid",
        ),
        (with("\"mk3v9t0xq2r7w5d8h1c6b4za\"", "7"), "malformed"),
    ] {
        let load = decoded(&text).expect_err(&text);
        assert!(load.starts_with(kind), "{text}: {load}");
        let times = super::times(text.as_bytes(), &id())
            .map_err(describe)
            .expect_err(&text);
        assert!(times.starts_with(kind), "{text}: {times}");
    }
}

#[test]
fn hostile_content_that_no_run_time_hangs_on_is_refused_too() {
    let with = |old: &str, new: &str| HYPEMANS.replacen(old, new, 1);
    let nested = format!(
        "{{\"deep\": {}{},",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    for text in [
        with("\"nightly\"", "\"../../etc\""),
        with("\"nightly\"", "5"),
        with("\"infra\"", "5"),
        with("\"infra\"", "null"),
        with("{\n    \"team\": \"infra\"\n  }", "[]"),
        with("\"s8p1n4f6y0u3e2j7g9l5o1xv\"", "{}"),
        with("\"2026-08-20T03:11:05Z\"", "0"),
        with("{", "{\"consecutive_failures\": 4294967296,"),
        with("{", "{\"attempt\": {},"),
        with("{", &nested),
        with("{", "{\"huge\": 1e999,"),
    ] {
        assert!(decoded(&text).is_err(), "{}", &text[..200]);
    }
    let bytes = [HYPEMANS.as_bytes(), b"\xff"].concat();
    assert!(decode(&bytes, &id()).is_err());
}

#[test]
fn numbers_that_nobody_here_knows_stay_what_they_are() {
    for number in [
        "-118446744073709551615",
        "1e23",
        "0.1",
        "18446744073709551615",
        "5e-324",
    ] {
        let text = HYPEMANS.replacen('{', &format!("{{ \"weight\": {number},"), 1);
        let schedule = decoded(&text).unwrap();
        assert_eq!(
            decoded(&encoded(&schedule)).as_ref(),
            Ok(&schedule),
            "{number}"
        );
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        let _ = decode(&bytes, &id());
        let _ = super::times(&bytes, &id());
    }

    #[test]
    fn times_agree_with_the_schedule_on_damaged_files(
        damage in proptest::collection::vec((0..FULL.len(), any::<u8>()), 0..4),
        cut in proptest::option::of((0..FULL.len(), 0usize..40)),
    ) {
        let mut bytes = FULL.as_bytes().to_vec();
        for (at, byte) in damage {
            bytes[at] = byte;
        }
        if let Some((start, length)) = cut {
            bytes.drain(start..(start + length).min(FULL.len()));
        }
        if let Ok(schedule) = decode(&bytes, &id()) {
            let times = super::times(&bytes, &id()).map_err(describe);
            prop_assert_eq!(times, Ok(schedule.times()));
            let again = encoded(&schedule);
            prop_assert_eq!(decoded(&again), Ok(schedule));
        }
    }
}

#[test]
fn what_is_not_set_is_not_written() {
    let schedule = weekly(Retention {
        max_count: 7,
        max_age: None,
        ..Retention::default()
    });
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
fn durations_are_strings_in_gos_form() {
    let with = |old: &str, new: &str| decoded(&HYPEMANS.replacen(old, new, 1));
    for age in ["null", "\"\"", "\"0s\""] {
        let schedule = with("\"168h0m0s\"", age).unwrap();
        assert_eq!(schedule.declaration.retention.max_age, None, "{age}");
    }
    for bad in ["60000000000", "null", "\"\"", "\"-1m\"", "[\"1m\"]"] {
        assert!(with("\"24h0m0s\"", bad).is_err(), "interval {bad}");
    }
    for bad in ["5", "\"soon\"", "{}"] {
        assert!(with("\"168h0m0s\"", bad).is_err(), "max_age {bad}");
    }
}

#[test]
fn a_limit_by_age_alone_still_writes_the_count() {
    let schedule = weekly(Retention {
        max_count: 0,
        max_age: Some(Duration::from_secs(3600)),
        ..Retention::default()
    });
    assert_eq!(
        serde_json::to_value(schedule).unwrap()["retention"],
        json!({"max_count": 0, "max_age": "1h0m0s"})
    );
}

#[test]
fn what_go_writes_for_nothing_is_read_as_nothing() {
    let json = json!({
        "instance_id": id(),
        "interval": "168h0m0s",
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
    let schedule = decoded(&json.to_string()).unwrap();
    let seven = Retention {
        max_count: 7,
        max_age: None,
        ..Retention::default()
    };
    assert_eq!(schedule.declaration, weekly(seven).declaration);
    assert_eq!(schedule.record.last_run_at, None);
    assert_eq!(schedule.record.last_snapshot_id, None);
    assert_eq!(schedule.record.last_error, None);
    let updated_at: DateTime<Utc> = "2026-09-02T03:15:20.123456789Z".parse().unwrap();
    assert_eq!(schedule.record.updated_at, updated_at);
    // What must be there is written as it was read.
    let json = serde_json::to_value(&schedule).unwrap();
    assert_eq!(json["next_run_at"], "0001-01-01T00:00:00Z");
    assert_eq!(json["created_at"], "0001-01-01T00:00:00Z");
}
