//! `plan`: what a schedule will do, and that it is what is done.

#![cfg(test)]

use std::time::Duration;

use serde_json::Value;
use support::cli::Host;

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";
const WEB_A: (&str, &str) = (ID, "web-a");
const HOUR: Duration = Duration::from_secs(3600);

fn host() -> Host {
    Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"))
}

fn count(value: &Value) -> usize {
    value.as_array().unwrap().len()
}

#[test]
fn a_proposal_needs_no_schedule_and_writes_nothing() {
    let host = host();
    let state = host.state();
    let propose = [
        "plan",
        "web-a",
        "--for",
        "2d",
        "--interval",
        "1h",
        "--keep-hourly",
        "5",
        "--keep-daily",
        "3",
    ];
    let json = host
        .run(&[&propose, &["-o", "json"][..]].concat())
        .exits(0)
        .is_content()
        .json();
    assert_eq!(
        count(&json["runs"]),
        47,
        "the first one comes after more than an hour"
    );
    assert_eq!(count(&json["snapshots"]), 47);
    let kept = json["kept_at_end"].as_u64().unwrap();
    assert!((5..=8).contains(&kept), "{kept}");
    assert_eq!(json["bytes_at_most"], Value::Null);
    let last = json["snapshots"].as_array().unwrap().last().unwrap();
    assert_eq!(last["removed_at"], Value::Null);
    assert_eq!(last["reasons"][0], "newest");
    assert_eq!(last["run_at"], json["runs"][46]);
    let text = host.run(&propose).exits(0).is_content().stdout;
    assert!(
        text.starts_with(&format!("web-a ({ID}): 47 runs in 2d, ")),
        "{text}"
    );
    assert!(
        text.contains("\nproposed: every 1h, keeps 5 hourly + 3 daily; next run "),
        "{text}"
    );
    assert!(
        text.lines().all(|line| line.chars().count() <= 100),
        "{text}"
    );
    assert_eq!(host.state(), state);
}

#[test]
fn a_schedule_that_is_there_begins_with_what_is_there() {
    let host = host();
    host.run(&["set", "web-a", "--interval", "1h", "--max-count", "3"])
        .exits(0);
    for (id, hours) in [("a", 1), ("b", 2), ("c", 3), ("d", 4)] {
        host.add_snapshot(id, WEB_A, hours * HOUR, true);
    }
    let json = host
        .run(&["plan", ID, "--for", "90m", "-o", "json"])
        .exits(0)
        .json();
    let snapshots = json["snapshots"].as_array().unwrap();
    let ids: Vec<&str> = snapshots
        .iter()
        .filter_map(|it| it["id"].as_str())
        .collect();
    assert_eq!(ids, ["d", "c", "b", "a"]);
    // The first run removes what is beyond the three.
    for (snapshot, is_removed) in snapshots.iter().zip([true, true, false, false, false]) {
        assert_eq!(
            snapshot["removed_at"] == json["runs"][0],
            is_removed,
            "{json}"
        );
    }
    assert_eq!(json["most_at_once"], 5);
    assert!(json["bytes_at_most"].as_u64().unwrap() > 0);
    // What is protected stays.
    host.run(&["protect", "d"]).exits(0);
    let json = host
        .run(&["plan", ID, "--for", "90m", "-o", "json"])
        .exits(0)
        .json();
    assert_eq!(json["snapshots"][0]["reasons"][0], "protected");
    assert_eq!(json["kept_at_end"], 4);
}

#[test]
fn what_cannot_be_planned_is_an_error() {
    let host = host();
    for (args, code, part) in [
        (&["plan", "web-a"][..], 3, "has no schedule"),
        (
            &["plan", "nobody", "--interval", "1h", "--max-count", "1"],
            3,
            "\"nobody\"",
        ),
        (
            &["plan", "web-a", "--max-count", "1"],
            2,
            "--interval or --calendar is missing",
        ),
        (
            &[
                "plan",
                "web-a",
                "--interval",
                "1h",
                "--max-count",
                "1",
                "--for",
                "0",
            ],
            2,
            "--for",
        ),
        (
            &[
                "plan",
                "web-a",
                "--interval",
                "1h",
                "--max-count",
                "1",
                "--for",
                "-1d",
            ],
            2,
            "--for \"-1d\"",
        ),
        (
            &[
                "plan",
                "web-a",
                "--interval",
                "1m",
                "--max-count",
                "1",
                "--for",
                "3650d",
            ],
            2,
            "more than 600000 runs",
        ),
    ] {
        host.run(args).exits(code).complains(&[part]);
    }
}
