//! Calendars: what is read, what is refused, and what comes when clocks are put forward and back.

use super::*;

fn calendar(text: &str, zone: &str) -> Calendar {
    Calendar::parse(text, zone.parse().unwrap()).unwrap()
}

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// The next times, by the zone's clock with its offset.
fn next(text: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
    let calendar = calendar(text, zone);
    let mut at = utc(after);
    (0..count)
        .map(|_| {
            at = calendar.next(at);
            at.with_timezone(&calendar.zone)
                .format("%m-%d %H:%M %z")
                .to_string()
        })
        .collect()
}

#[test]
fn what_is_no_calendar_is_refused_with_the_reason() {
    for (text, part) in [
        ("@reboot", "means no time"),
        ("@nightly", "is not known"),
        ("", "has 0 fields"),
        ("0 3 * *", "has 4 fields"),
        ("0 0 3 * * *", "has 6 fields"),
        ("60 3 * * *", "is no cron expression"),
        ("0 24 * * *", "is no cron expression"),
        ("0 3 * * 8", "is no cron expression"),
        ("0 3 * FOO *", "is no cron expression"),
        ("0 3 L * *", "\"L\""),
        ("0 3 15W * *", "\"15W\""),
        ("0 3 ? * *", "\"?\""),
        ("0 3 * * MON#1", "\"MON#1\""),
        ("0/5 3 * * *", "\"0/5\""),
        ("*/ 3 * * *", "\"*/\""),
        ("MON 3 * * *", "\"MON\""),
        ("0 3 30 2 *", "never comes"),
        ("0 3 31 4,6,9,11 *", "never comes"),
    ] {
        let error = Calendar::parse(text, Tz::UTC).unwrap_err().to_string();
        assert!(error.contains(part), "{text:?}: {error}");
    }
}

#[test]
fn names_stand_for_expressions_and_case_does_not_matter() {
    let after = "2026-11-26T12:00:00Z";
    for (name, expression) in [
        ("@hourly", "0 * * * *"),
        ("@Daily", "0 0 * * *"),
        ("@midnight", "0  0 * * *"),
        ("@weekly", "0 0 * * sun"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 JAN *"),
        ("0 9 * * mon-fri", "0 9 * * 1-5"),
        ("0 9 * * 7", "0 9 * * 0"),
    ] {
        assert_eq!(
            next(name, "UTC", after, 5),
            next(expression, "UTC", after, 5),
            "{name}"
        );
    }
    assert_eq!(calendar(" 0  3 * * * ", "UTC").text(), "0 3 * * *");
    // 29 February comes, if late.
    let leap = calendar("0 0 29 2 *", "UTC").next(utc(after));
    assert_eq!(leap, utc("2028-02-29T00:00:00Z"));
}

#[test]
fn day_and_weekday_are_either_unless_one_is_open() {
    let after = "2026-11-26T12:00:00Z";
    // The 26th is a Thursday.
    assert_eq!(
        next("0 0 30 * fri", "UTC", after, 3),
        [
            "11-27 00:00 +0000",
            "11-30 00:00 +0000",
            "12-04 00:00 +0000"
        ]
    );
    assert_eq!(
        next("0 0 */2 * fri", "UTC", after, 2),
        ["11-27 00:00 +0000", "12-11 00:00 +0000"]
    );
}

#[test]
fn a_fixed_time_in_the_gap_comes_right_after_it_and_once() {
    // 02:00 becomes 03:00.
    let after = "2026-03-28T22:00:00Z";
    assert_eq!(
        next("30 2 * * *", "Europe/Berlin", after, 2),
        ["03-29 03:00 +0200", "03-30 02:30 +0200"]
    );
    assert_eq!(
        next("0,30 1-3 * * *", "Europe/Berlin", after, 6),
        [
            "03-29 01:00 +0100",
            "03-29 01:30 +0100",
            "03-29 03:00 +0200",
            "03-29 03:30 +0200",
            "03-30 01:00 +0200",
            "03-30 01:30 +0200",
        ]
    );
    // Half an hour, in the other half of the world.
    assert_eq!(
        next(
            "15 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-03T00:00:00Z",
            2
        ),
        ["10-04 02:30 +1100", "10-05 02:15 +1100"]
    );
}

#[test]
fn a_fixed_time_that_is_shown_twice_comes_the_first_time() {
    // 03:00 becomes 02:00.
    assert_eq!(
        next("30 2 * * *", "Europe/Berlin", "2026-10-24T22:00:00Z", 2),
        ["10-25 02:30 +0200", "10-26 02:30 +0100"]
    );
    // Between the two.
    assert_eq!(
        next("30 2 * * *", "Europe/Berlin", "2026-10-25T01:00:00Z", 1),
        ["10-26 02:30 +0100"]
    );
    assert_eq!(
        next(
            "45 1 * * *",
            "Australia/Lord_Howe",
            "2026-04-04T12:00:00Z",
            2
        ),
        ["04-05 01:45 +1100", "04-06 01:45 +1030"]
    );
}

#[test]
fn a_field_that_begins_with_a_star_goes_by_real_time() {
    assert_eq!(
        next("*/30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", 5),
        [
            "10-25 02:30 +0200",
            "10-25 02:00 +0100",
            "10-25 02:30 +0100",
            "10-25 03:00 +0100",
            "10-25 03:30 +0100",
        ]
    );
    // Hours count by real time, too, and none is in the gap.
    assert_eq!(
        next("30 */1 * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 3),
        [
            "03-29 01:30 +0100",
            "03-29 03:30 +0200",
            "03-29 04:30 +0200"
        ]
    );
    assert_eq!(
        next("*/20 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2),
        ["03-30 02:00 +0200", "03-30 02:20 +0200"]
    );
}

#[test]
fn the_gap_is_the_one_before_a_run() {
    let days = |text: &str, run: &str| calendar(text, "UTC").gap_before(utc(run)).as_secs() / 86400;
    // From Friday to Monday, whatever the jitter.
    for (run, gap) in [
        ("2026-11-27T09:00:00Z", 1),
        ("2026-11-30T09:00:00Z", 3),
        ("2026-11-30T09:04:59Z", 3),
        ("2026-12-01T09:00:00Z", 1),
    ] {
        assert_eq!(days("0 9 * * mon-fri", run), gap, "{run}");
    }
    assert_eq!(days("@yearly", "2026-01-01T00:00:00Z"), 365);
    // What can't be read never comes.
    let broken = Calendar::unchecked("nonsense", Tz::UTC);
    assert_eq!(
        broken.next(utc("2026-01-01T00:00:00Z")),
        DateTime::<Utc>::MAX_UTC
    );
    assert_eq!(
        broken.gap_before(utc("2026-01-01T00:00:00Z")),
        Duration::MAX
    );
}

/// Over every time zone and ten years: from any moment the next time lies ahead, and times increase strictly.
#[test]
fn times_increase_strictly_in_every_zone() {
    for zone in chrono_tz::TZ_VARIANTS {
        for text in ["30 2 * * *", "15 0,1,2,3 28-31 3,10 *"] {
            let calendar = Calendar::parse(text, zone).unwrap();
            let (mut at, end) = (utc("2025-12-31T00:00:00Z"), utc("2036-01-01T00:00:00Z"));
            let step = Days::new(if text.starts_with('3') { 9 } else { 0 });
            while at < end {
                let next = calendar.next(at);
                assert!(next > at, "{zone} {text}: {at} {next}");
                // Every time of a place that puts its clock is looked at by the last expression.
                at = next + step;
            }
        }
    }
    for zone in [
        "Europe/Berlin",
        "America/St_Johns",
        "Australia/Lord_Howe",
        "Africa/Casablanca",
    ] {
        let calendar = calendar("*/30 * * * *", zone);
        let mut at = utc("2026-01-01T00:00:00Z");
        while at < utc("2028-01-01T00:00:00Z") {
            let next = calendar.next(at);
            assert_eq!(next - at, TimeDelta::minutes(30), "{zone}: {at} {next}");
            at = next;
        }
    }
}

/// cronsim computes what Debian's cron does; it comes from its package index.
#[test]
fn calendar_times_are_those_of_debians_cron() {
    let python = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/cronsim/bin/python");
    if !python.exists() {
        support::skip::skipped(
            "calendars beside cronsim: ./contrib/test.sh installs it into target/cronsim",
        );
        return;
    }
    let expressions = [
        "30 2 * * *",
        "0,30 1-3 * * *",
        "*/20 * * * *",
        "*/20 2 * * *",
        "15 */2 * * *",
        "0 0 1 * *",
        "5 4 * * sun",
        "0 3 13 * fri",
        "0 3 */2 * fri",
        "59 23 28-31 * *",
        "0 12 29 2 *",
        "10-50/20 1,2,3 * 3,10,11 *",
        "0 0 * * 1-5",
        "7 */3 * jan-mar 1,3,5",
        "@weekly",
        "@monthly",
    ];
    // Not Lord Howe, whose clock is put by half an hour: there cronsim leaves out times that the clock shows.
    let zones = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "America/St_Johns",
        "Asia/Kolkata",
    ];
    let script = r#"
import json, sys
from datetime import datetime, timezone
from zoneinfo import ZoneInfo
from cronsim import CronSim
names = {"@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *"}
out = []
for expression, zone, start, count in json.load(sys.stdin):
    start = datetime.fromtimestamp(start, timezone.utc).astimezone(ZoneInfo(zone))
    it = CronSim(names.get(expression, expression), start)
    out.append([int(next(it).timestamp()) for _ in range(count)])
json.dump(out, sys.stdout)
"#;
    // Before the clocks are put forward and back.
    let starts = [
        "2026-03-05T12:00:00Z",
        "2026-03-27T12:00:00Z",
        "2026-10-02T00:00:00Z",
        "2026-10-23T12:00:00Z",
    ];
    let mut asked = Vec::new();
    for expression in expressions {
        for zone in zones {
            for start in starts {
                let start: DateTime<Utc> = start.parse().unwrap();
                asked.push((expression, zone, start));
            }
        }
    }
    let input: Vec<serde_json::Value> = asked
        .iter()
        .map(|(e, z, s)| serde_json::json!([e, z, s.timestamp(), 40]))
        .collect();
    let mut child = std::process::Command::new(python)
        .args(["-c", script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let input = serde_json::Value::from(input).to_string();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let theirs: Vec<Vec<i64>> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(theirs.len(), asked.len());
    for ((expression, zone, start), theirs) in asked.into_iter().zip(theirs) {
        let calendar = calendar(expression, zone);
        let mut at = start;
        for (n, theirs) in theirs.into_iter().enumerate() {
            at = calendar.next(at);
            let theirs = DateTime::from_timestamp(theirs, 0).unwrap();
            assert_eq!(at, theirs, "{expression} in {zone} from {start}: time {n}");
        }
    }
}
