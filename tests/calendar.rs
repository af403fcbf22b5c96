//! Schedules by the clock from the command line: what is declared, and when it runs.

#![cfg(test)]

use chrono::{DateTime, Timelike, Utc};
use serde_json::{Value, json};
use support::cli::Host;

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";

fn host() -> Host {
    Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"))
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}

const NIGHTLY: [&str; 9] = [
    "set",
    "web-a",
    "--calendar",
    "0 3 * * *",
    "--timezone",
    "Asia/Kolkata",
    "--jitter",
    "0s",
    "--max-count=7",
];

#[test]
fn a_nightly_schedule_runs_at_three_by_its_own_clock() {
    let host = host();
    let text = host.run(&NIGHTLY).exits(0).is_content().stdout;
    let mut lines = text.lines();
    let first = lines.next().unwrap();
    assert!(
        first.contains("at 0 3 * * * (Asia/Kolkata), keeps newest 7, first run "),
        "{text}"
    );
    let next: Vec<&str> = lines.collect();
    assert_eq!(next.len(), 3, "{text}");
    assert!(
        next.iter()
            .all(|line| line.contains(" 03:00:00  Asia/Kolkata, here ")),
        "{text}"
    );

    let file = host.schedule(ID);
    assert_eq!(file["calendar"], "0 3 * * *");
    assert_eq!(file["timezone"], "Asia/Kolkata");
    assert_eq!(file["jitter"], "0s");
    assert_eq!(file["interval"], "24h0m0s", "hypeman demands one");
    let next = time(&file["next_run_at"]);
    assert_eq!((next.hour(), next.minute(), next.second()), (21, 30, 0));

    let again = host
        .run(&[&NIGHTLY[..], &["-o", "json"]].concat())
        .exits(0)
        .json();
    assert_eq!(again["changed"], false);
    assert_eq!(again["next_runs"][0], file["next_run_at"]);
    let days = time(&again["next_runs"][2]) - time(&again["next_runs"][0]);
    assert_eq!(days.num_hours(), 48);
    let shown = host.run(&["get", "web-a"]).exits(0).stdout;
    for line in [
        "calendar     0 3 * * *\n",
        "time zone    Asia/Kolkata\n",
        "jitter       0s\n",
    ] {
        assert!(shown.contains(line), "{shown}");
    }
    let listed = host.run(&["list"]).exits(0).stdout;
    assert!(listed.contains("  0 3 * * *  "), "{listed}");
}

#[test]
fn a_run_goes_on_to_the_next_time_and_a_failed_one_is_tried_sooner() {
    let host = host();
    host.run(&NIGHTLY).exits(0);
    let mut file = host.schedule(ID);
    let planned = time(&file["next_run_at"]);
    file["next_run_at"] = json!("2026-01-01T21:30:00Z");
    host.write_schedule(ID, file.to_string());
    let run = host.run(&["run-due", "-o", "json"]).exits(0).json();
    assert_eq!(run["results"][0]["outcome"], "snapshotted");
    let file = host.schedule(ID);
    assert!(
        time(&file["next_run_at"]) >= planned,
        "what was missed is made up for once"
    );
    assert_eq!(
        host.run(&["run-due", "-o", "json"]).exits(0).json()["results"],
        json!([])
    );
}

#[test]
fn a_clock_that_went_back_does_not_stall_a_calendar() {
    let host = host();
    host.run(&NIGHTLY).exits(0);
    let mut file = host.schedule(ID);
    let planned = file["next_run_at"].clone();
    for (next, updated) in [
        ("2099-01-01T21:30:00Z", "2026-01-01T00:00:00Z"),
        ("2099-01-01T21:30:00Z", "2099-01-01T00:00:00Z"),
    ] {
        file["next_run_at"] = json!(next);
        file["updated_at"] = json!(updated);
        host.write_schedule(ID, file.to_string());
        host.run(&["run-due"])
            .exits(0)
            .complains(&["did the clock jump?"]);
        assert_eq!(host.schedule(ID)["next_run_at"], planned);
    }
}

#[test]
fn what_never_comes_or_says_nothing_is_refused() {
    let host = host();
    for (args, part) in [
        (
            &["--calendar", "@reboot"][..],
            "--calendar \"@reboot\": means no time",
        ),
        (&["--calendar", "0 0 3 * * *"], "there are no seconds"),
        (&["--calendar", "0 3 30 2 *"], "never comes"),
        (&["--calendar", "x"], "has 1 fields"),
        (
            &["--calendar", "@daily", "--interval", "1d"],
            "--interval and --calendar",
        ),
        (
            &["--calendar", "@daily", "--timezone", "Mars"],
            "--timezone \"Mars\"",
        ),
        (&["--calendar", "@daily", "--jitter", "x"], "--jitter \"x\""),
        (
            &["--calendar", "@daily", "--first", "400d"],
            "--first \"400d\": must not be later",
        ),
        (&["--interval", "1h", "--first", "soon"], "--first \"soon\""),
        (
            &["--interval", "1h", "--timezone", "UTC"],
            "changes nothing",
        ),
        (&[], "--interval or --calendar is missing"),
    ] {
        let set = ["set", "web-a", "--max-count", "7"];
        host.run(&[&set, args].concat()).exits(2).complains(&[part]);
    }
    assert!(!host.schedule_path(ID).exists());
    // A file may be written by hand.
    host.run(&NIGHTLY).exits(0);
    let mut file = host.schedule(ID);
    file["calendar"] = json!("0 3 30 2 *");
    host.write_schedule(ID, file.to_string());
    host.run(&["get", "web-a"])
        .exits(1)
        .complains(&["calendar \"0 3 30 2 *\" never comes"]);
}

#[test]
fn the_first_run_is_when_it_is_asked_for_and_then_the_cadence_goes_on() {
    let host = host();
    let set = ["set", "web-a", "--interval", "1h", "--max-count", "3"];
    host.run(&[&set[..], &["--first", "now"]].concat()).exits(0);
    let run = host.run(&["run-due", "-o", "json"]).exits(0).json();
    assert_eq!(run["results"][0]["outcome"], "snapshotted");
    let next = host.schedule(ID)["next_run_at"].clone();
    // It is not compared, and counts for a new cadence only.
    let again = host
        .run(&[&set[..], &["--first", "10m", "-o", "json"]].concat())
        .exits(0)
        .json();
    assert_eq!(again["changed"], false);
    assert_eq!(host.schedule(ID)["next_run_at"], next);
    let nightly = [&NIGHTLY[..], &["--first", "now"]].concat();
    host.run(&nightly).exits(0);
    assert!(time(&host.schedule(ID)["next_run_at"]) <= support::cli::now());
}

#[test]
fn an_update_changes_what_is_given_and_nothing_else() {
    let host = host();
    host.run(&["set", "web-a", "--update", "--max-count", "3"])
        .exits(3);
    host.run(&[
        "set",
        "web-a",
        "--calendar",
        "0 3 * * *",
        "--timezone",
        "Asia/Kolkata",
        "--max-count",
        "7",
        "--max-age",
        "30d",
        "--keep-daily",
        "5",
        "--min-keep",
        "2",
        "--metadata",
        "team=infra",
        "--name-prefix",
        "nightly",
        "--pre-hook",
        "/bin/true 'a b'",
        "--hook-timeout",
        "5s",
    ])
    .exits(0);
    let before = host.schedule(ID);
    let same = host
        .run(&["set", "web-a", "--update", "-o", "json"])
        .exits(0)
        .json();
    assert_eq!(same["changed"], false);
    let said = host
        .run(&["set", "web-a", "--update", "--max-count", "9"])
        .exits(0)
        .stdout;
    assert!(said.contains("changed schedule of web-a"), "{said}");
    assert!(said.contains(": max-count: 7 → 9; next run "), "{said}");
    let mut after = host.schedule(ID);
    assert_eq!(after["retention"]["max_count"], 9);
    after["retention"]["max_count"] = json!(7);
    after["updated_at"] = before["updated_at"].clone();
    assert_eq!(after, before);

    host.run(&[
        "set",
        "web-a",
        "--update",
        "--max-age",
        "0",
        "--pre-hook",
        "",
        "--name-prefix",
        "",
    ])
    .exits(0);
    let after = host.schedule(ID);
    assert_eq!(after["hooks"], Value::Null);
    assert_eq!(after["name_prefix"], Value::Null);
    assert_eq!(after["retention"]["max_age"], Value::Null);
    assert_eq!(after["next_run_at"], before["next_run_at"]);
    // Another cadence needs no zone any more, the keep rules do.
    host.run(&["set", "web-a", "--update", "--interval", "1h"])
        .exits(0);
    let after = host.schedule(ID);
    assert_eq!(
        (&after["interval"], &after["calendar"]),
        (&json!("1h0m0s"), &Value::Null)
    );
    assert_eq!(after["timezone"], "Asia/Kolkata");
    host.run(&[
        "set",
        "web-a",
        "--update",
        "--keep-daily",
        "0",
        "--max-count",
        "0",
    ])
    .exits(2)
    .complains(&["retention needs a limit"]);
}
