//! What `run-due` and `prune` say of what they did, and how they tell the shell.

#![cfg(test)]

use std::fs;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use support::cli::{Host, now};

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";
const OTHER_ID: &str = "mk3w0000000000000000000b";

fn host() -> Host {
    Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"))
}

/// A host whose `web-a` has a schedule that is not due.
fn scheduled_host() -> Host {
    let host = host();
    host.run(&["set", ID, "--interval", "1h", "--max-count", "2"])
        .exits(0);
    host
}

fn time(value: &Value) -> DateTime<Utc> {
    let text = value.as_str().unwrap();
    assert!(text.ends_with('Z'), "{text} is not UTC");
    text.parse().unwrap()
}

/// The only element of an array.
fn only(array: &Value) -> &Value {
    let all = array.as_array().unwrap();
    assert_eq!(all.len(), 1, "{array}");
    &all[0]
}

#[test]
fn idle_minute_prints_nothing_and_creates_nothing() {
    let said = host().run(&["run-due"]).exits(0).is_content();
    assert_eq!(said.stdout, "");

    let host = scheduled_host();
    let state = host.state();
    let said = host.run(&["run-due"]).exits(0).is_content();
    assert_eq!(said.stdout, "");
    let json = host
        .run(&["run-due", "-o", "json"])
        .exits(0)
        .is_content()
        .json();
    assert!(time(&json["started_at"]) <= time(&json["finished_at"]));
    assert_eq!(json["results"], json!([]));
    assert_eq!(host.state(), state);
}

#[test]
fn idle_minute_does_not_look_at_the_data_directory() {
    let host = scheduled_host();
    fs::remove_dir_all(host.data_dir()).unwrap();
    let said = host.run(&["run-due"]).exits(0).is_content();
    assert_eq!(said.stdout, "");
}

#[test]
fn run_says_in_one_line_what_happened() {
    let host = scheduled_host();
    for (id, hours) in [("old1", 3), ("old2", 2)] {
        host.add_snapshot(id, (ID, "web-a"), Duration::from_secs(hours * 3600), true);
    }
    let said = host.run(&["run-due", "--force"]).exits(0).is_content();
    let snapshots = host.run(&["snapshots", ID, "-o", "json"]).exits(0).json();
    let name = snapshots[1]["name"].as_str().unwrap();
    let line = said.stdout.strip_suffix('\n').unwrap();
    let took = line
        .strip_prefix(&format!("{ID}: snapshotted {name} (Stopped, "))
        .and_then(|rest| rest.strip_suffix("), pruned 1"))
        .unwrap_or_else(|| panic!("{said:?}"));
    assert!(took.ends_with(" ms") || took.ends_with(" s"), "{said:?}");
}

#[test]
fn run_has_the_documented_json() {
    let host = scheduled_host();
    let json = host
        .run(&["run-due", "--force", "-o", "json"])
        .exits(0)
        .is_content()
        .json();
    let keys =
        |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    assert_eq!(
        keys(&json),
        [
            "started_at",
            "finished_at",
            "dry_run",
            "results",
            "problems",
            "warnings"
        ]
    );
    assert_eq!(json["dry_run"], false);
    let result = only(&json["results"]);
    let snapshot = host.run(&["snapshots", "-o", "json"]).exits(0).json();
    assert!(result["duration_ms"].is_u64(), "{result}");
    assert_eq!(
        result,
        &json!({
            "instance_id": ID,
            "outcome": "snapshotted",
            "kind": "Stopped",
            "snapshot_id": only(&snapshot)["id"],
            "snapshot_name": only(&snapshot)["name"],
            "pruned": [],
            "held_back": [],
            "compressed": [],
            "pause_ms": null,
            "duration_ms": result["duration_ms"],
            "error": null,
            "notes": [],
            "hooks": [],
        })
    );
}

#[test]
fn dry_run_prints_the_plan_and_carries_nothing_out() {
    let host = scheduled_host();
    for (id, hours) in [("old1", 3), ("old2", 2), ("old3", 1)] {
        host.add_snapshot(id, (ID, "web-a"), Duration::from_secs(hours * 3600), true);
    }
    let state = host.state();
    let said = host
        .run(&["run-due", "--force", "--dry-run"])
        .exits(0)
        .is_content();
    assert!(
        said.stdout
            .starts_with(&format!("{ID}: would snapshot scheduled-"))
            && said
                .stdout
                .ends_with(" (Stopped), would prune 2: old1 old2\n"),
        "{said:?}"
    );
    let json = host
        .run(&["run-due", "--force", "--dry-run", "-o", "json"])
        .exits(0)
        .json();
    assert_eq!(json["dry_run"], true);
    assert_eq!(only(&json["results"])["pruned"], json!(["old1", "old2"]));
    assert_eq!(only(&json["results"])["snapshot_id"], Value::Null);
    let said = host.run(&["prune", "--dry-run"]).exits(0).is_content();
    assert_eq!(said.stdout, format!("{ID}: would prune 1: old1\n"));
    assert_eq!(host.snapshots(), ["old1", "old2", "old3"]);
    assert_eq!(host.state(), state);
}

#[test]
fn prune_has_the_shape_of_a_run() {
    let host = scheduled_host();
    for (id, hours) in [("old1", 3), ("old2", 2), ("old3", 1)] {
        host.add_snapshot(id, (ID, "web-a"), Duration::from_secs(hours * 3600), true);
    }
    let json = host
        .run(&["prune", "-o", "json"])
        .exits(0)
        .is_content()
        .json();
    let result = only(&json["results"]);
    assert_eq!(result["outcome"], "pruned");
    assert_eq!(result["pruned"], json!(["old1"]));
    assert_eq!(host.snapshots(), ["old2", "old3"]);
    let said = host.run(&["prune"]).exits(0).is_content();
    assert_eq!(said.stdout, "", "nothing is left to prune");
}

#[test]
fn prune_of_a_locked_instance_ends_with_exit_code_4() {
    let host = scheduled_host();
    host.run(&["set", OTHER_ID, "--interval", "1h", "--max-count", "1"])
        .exits(0);
    for (id, hours) in [("b1", 3), ("b2", 2)] {
        host.add_snapshot(
            id,
            (OTHER_ID, "web-b"),
            Duration::from_secs(hours * 3600),
            true,
        );
    }
    let _held = host.lock(ID);
    let said = host
        .run(&["prune", "--lock-timeout", "0s"])
        .exits(4)
        .complains(&[ID, "--lock-timeout"]);
    assert_eq!(said.stdout, format!("{OTHER_ID}: pruned 1\n"));
    assert_eq!(host.snapshots(), ["b2"]);
}

#[test]
fn due_instance_that_another_run_holds_is_no_failure() {
    let host = scheduled_host();
    let mut schedule = host.schedule(ID);
    schedule["next_run_at"] = now().to_rfc3339().into();
    host.write_schedule(ID, schedule.to_string());
    let _held = host.lock(ID);
    let said = host.run(&["run-due"]).exits(0).is_content();
    assert_eq!(said.stdout, "");
    let said = host.run(&["run-due", "-v"]).exits(0).complains(&[ID]);
    assert!(
        !said.stderr.contains("warning") && !said.stderr.contains("error"),
        "{said:?}"
    );
    let json = host.run(&["run-due", "-o", "json"]).exits(0).json();
    assert_eq!(only(&json["results"])["outcome"], "skipped");
}

#[test]
fn failure_of_one_instance_goes_to_stderr_and_the_others_go_on() {
    let host = scheduled_host();
    host.write_schedule("broken", "{");
    let said = host.run(&["run-due", "--force"]).exits(1);
    let path = host.schedule_path("broken");
    let said = said.complains(&["hypeman-snap: error: broken: ", path.to_str().unwrap()]);
    assert_eq!(said.stderr.lines().count(), 1, "said once: {said:?}");
    assert!(
        said.stdout.starts_with(&format!("{ID}: snapshotted ")),
        "{said:?}"
    );
    let json = host
        .run(&["run-due", "--force", "-o", "json"])
        .exits(1)
        .json();
    let broken = &json["results"][0];
    assert_eq!(broken["instance_id"], "broken");
    assert_eq!(broken["outcome"], "failed");
    assert!(
        broken["error"]
            .as_str()
            .unwrap()
            .contains(path.to_str().unwrap())
    );
}

#[test]
fn run_for_one_instance_leaves_the_others_alone() {
    let host = scheduled_host();
    host.write_schedule("broken", "{");
    let said = host
        .run(&["run-due", "--force", "--instance", "web-a"])
        .exits(0)
        .is_content();
    assert!(
        said.stdout.starts_with(&format!("{ID}: snapshotted ")),
        "{said:?}"
    );
    host.run(&["run-due", "--instance", "web-b"])
        .exits(3)
        .complains(&["has no schedule"]);
    host.run(&["prune", "web-c"]).exits(3);
    host.run(&["prune", "web-a"]).exits(0).is_content();
}

#[test]
fn recovery_takes_no_snapshot() {
    let host = scheduled_host();
    let path = host.schedule_path(ID);
    let due = fs::read_to_string(&path).unwrap();
    let (before, rest) = due.split_once("\"next_run_at\": \"2").unwrap();
    fs::write(&path, format!("{before}\"next_run_at\": \"1{rest}")).unwrap();
    let state = host.state();
    let said = host
        .run(&["run-due", "--recover-only"])
        .exits(0)
        .is_content();
    assert_eq!(said.stdout, "");
    assert_eq!(host.snapshots(), Vec::<String>::new());
    assert_eq!(host.state(), state);
    host.run(&["run-due"]).exits(0).is_content();
    assert_eq!(host.snapshots().len(), 1, "it was due");
    host.run(&["run-due", "--recover-only", "--force"]).exits(2);
}

#[test]
fn quiet_runs_say_nothing_but_errors() {
    let host = scheduled_host();
    let said = host
        .run(&["run-due", "--force", "-q"])
        .exits(0)
        .is_content();
    assert_eq!(said.stdout, "");
    host.write_schedule("broken", "{");
    fs::create_dir(host.data_dir().join("snapshots/no-record")).unwrap();
    let said = host
        .run(&["prune", "-q"])
        .exits(1)
        .complains(&["hypeman-snap: error: broken: "]);
    assert!(!said.stderr.contains("warning"), "{said:?}");
    let said = host.run(&["prune"]).exits(1);
    assert_eq!(
        said.stderr.matches("no-record").count(),
        1,
        "said once: {said:?}"
    );
    // What a program asked for is no chatter.
    host.run(&["run-due", "-q", "-o", "json"]).json();
}
