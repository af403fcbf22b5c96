//! Retention that fails: it takes nothing from the snapshot, and it stays visible until a retention succeeds.

#![cfg(test)]

use std::fs::File;
use std::time::Duration;

use fs2::FileExt;
use serde_json::Value;
use support::cli::{Host, Obstacle};

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";
const WEB_A: (&str, &str) = (ID, "web-a");
const HOUR: Duration = Duration::from_secs(3600);

/// A host on which one of two snapshots that are to go can't be removed.
fn host_with_a_snapshot_that_is_held() -> (Host, Obstacle) {
    let host = Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"));
    host.run(&["set", "web-a", "--interval", "1h", "--max-count", "1"])
        .exits(0);
    for (id, hours) in [("goes", 5), ("held", 4), ("kept", 3)] {
        host.add_snapshot(id, WEB_A, hours * HOUR, true);
    }
    let obstacle = host.obstruct_deletion("held");
    (host, obstacle)
}

fn row(host: &Host, args: &[&str], code: i32) -> Value {
    let said = host.run(&[&["-o", "json"], args].concat()).exits(code);
    let json = said.json();
    let rows = json.get("instances").unwrap_or(&json).clone();
    rows[0].clone()
}

#[test]
fn it_takes_nothing_from_the_snapshot_and_stays_until_a_retention_succeeds() {
    let (host, held) = host_with_a_snapshot_that_is_held();
    let next_run_at = host.schedule(ID)["next_run_at"].clone();
    let said = host
        .run(&["-o", "json", "run-due", "--force"])
        .exits(1)
        .complains(&["error: ", "could not delete held"]);
    let result = &said.json()["results"][0];
    assert_eq!(result["outcome"], "snapshotted");
    assert_eq!(
        result["pruned"],
        serde_json::json!(["goes", "kept"]),
        "the others went, and that is said"
    );

    let schedule = host.schedule(ID);
    let error = schedule["retention_error"].as_str().unwrap();
    assert!(error.contains("held"), "{error}");
    assert_eq!(schedule["last_error"], error);
    assert_eq!(schedule["last_snapshot_id"], result["snapshot_id"]);
    assert_eq!(schedule["next_run_at"], next_run_at);
    assert!(schedule["last_success_at"].is_string(), "{schedule}");
    for absent in ["retry_at", "consecutive_failures", "total_failures"] {
        assert!(schedule[absent].is_null(), "{absent}: {schedule}");
    }

    // A minute in which nothing is due changes nothing about it.
    host.run(&["run-due"]).exits(0).is_content();
    let list = host.run(&["list"]).exits(0);
    assert!(list.stdout.contains("retention failed"), "{list:?}");
    assert!(list.stdout.contains(error), "{list:?}");
    assert_eq!(row(&host, &["list"], 0)["retention_error"], error);
    let get = host.run(&["get", "web-a"]).exits(0);
    assert!(get.stdout.contains("retention error"), "{get:?}");
    assert!(!get.stdout.contains("last error"), "{get:?}");
    let check = host.run(&["check"]).exits(1);
    assert!(check.stdout.contains("retention fails: "), "{check:?}");
    let checked = row(&host, &["check"], 1);
    assert_eq!(checked["cause"], "retention_failing");
    assert_eq!(checked["retention_error"], error);
    let doctor = host.run(&["doctor"]);
    assert!(doctor.stdout.contains("hypeman-snap prune"), "{doctor:?}");

    host.run(&["prune"]).exits(1);
    assert!(host.schedule(ID)["retention_error"].is_string());
    drop(held);
    host.run(&["prune"]).exits(0);
    let schedule = host.schedule(ID);
    for absent in ["retention_error", "last_error"] {
        assert!(schedule[absent].is_null(), "{absent}: {schedule}");
    }
    assert_eq!(schedule["last_snapshot_id"], result["snapshot_id"]);
    host.run(&["check"]).exits(0);
}

#[test]
fn next_run_whose_retention_succeeds_clears_it() {
    let (host, held) = host_with_a_snapshot_that_is_held();
    host.run(&["run-due", "--force"]).exits(1);
    drop(held);
    host.run(&["run-due", "--force"]).exits(0);
    let schedule = host.schedule(ID);
    assert!(schedule["retention_error"].is_null(), "{schedule}");
    assert!(schedule["last_error"].is_null(), "{schedule}");
}

#[test]
fn prune_alone_keeps_it_too() {
    let (host, _held) = host_with_a_snapshot_that_is_held();
    let said = host.run(&["-o", "json", "prune"]).exits(1);
    assert_eq!(said.json()["results"][0]["pruned"][0], "goes");
    assert!(host.schedule(ID)["retention_error"].is_string());
    host.run(&["prune", "--dry-run"]).exits(0);
    assert!(
        host.schedule(ID)["retention_error"].is_string(),
        "a dry run clears nothing"
    );
}

#[test]
fn failure_hook_hears_of_it() {
    let (host, _held) = host_with_a_snapshot_that_is_held();
    let log = host.dir().join("log");
    let script = format!(
        "sh -c 'echo $HYPEMAN_SNAP_OUTCOME: $HYPEMAN_SNAP_ERROR > {}'",
        log.display()
    );
    let set = ["set", "web-a", "--interval", "1h", "--max-count", "1"];
    host.run(&[&set[..], &["--failure-hook", &script]].concat())
        .exits(0);
    host.run(&["run-due", "--force"]).exits(1);
    let heard = std::fs::read_to_string(log).unwrap();
    assert!(
        heard.starts_with("snapshotted: could not delete held"),
        "{heard}"
    );
}

#[test]
fn a_snapshot_that_is_being_read_stays_for_now_and_nothing_fails() {
    let (host, obstacle) = host_with_a_snapshot_that_is_held();
    drop(obstacle);
    let reading = File::open(host.data_dir().join("snapshots/held")).unwrap();
    FileExt::try_lock_shared(&reading).unwrap();
    let said = host.run(&["-o", "json", "prune"]).exits(0);
    assert!(
        said.stderr
            .contains("snapshot held is in use, and goes with the next run"),
        "{}",
        said.stderr
    );
    assert_eq!(
        said.json()["results"][0]["pruned"],
        serde_json::json!(["goes"])
    );
    assert!(host.schedule(ID)["retention_error"].is_null());
    host.run(&["delete-snapshot", "--yes", "held"])
        .exits(1)
        .complains(&["snapshot held is in use"]);
    drop(reading);
    host.run(&["prune"]).exits(0);
    assert_eq!(host.snapshots(), ["kept"]);
}
