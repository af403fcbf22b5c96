//! `delete`: removes a schedule and nothing else.

#![cfg(test)]

use std::fs;
use std::time::Duration;

use serde_json::json;
use support::cli::Host;

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";
const OTHER_ID: &str = "mk3w0000000000000000000b";

/// A host with schedules for both of its instances.
fn host() -> Host {
    let host = Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"));
    for id in [ID, OTHER_ID] {
        host.run(&["set", id, "--interval", "1h", "--max-count", "1"])
            .exits(0);
    }
    host
}

#[test]
fn schedule_goes_and_snapshots_stay() {
    let host = host();
    host.add_snapshot("s1", (ID, "web-a"), Duration::from_secs(60), true);
    host.add_snapshot("s2", (ID, "web-a"), Duration::from_secs(60), false);
    let said = host.run(&["delete", "web-a"]).exits(0).is_content();
    assert_eq!(
        said.stdout,
        format!(
            "deleted schedule of {ID}; its snapshots stay (1): `hypeman-snap snapshots {ID}` lists them, \
             `hypeman-snap delete-snapshot` removes them\n"
        )
    );
    assert!(!host.schedule_path(ID).exists());
    assert!(host.schedule_path(OTHER_ID).exists());
    assert_eq!(host.snapshots(), ["s1", "s2"]);
    assert!(
        host.state_dir()
            .join("locks")
            .join(format!("{ID}.lock"))
            .exists(),
        "a lock file is never removed: two could hold it then"
    );
}

#[test]
fn json_says_whether_anything_changed() {
    let host = host();
    let json = host.run(&["rm", "web-a", "-o", "json"]).exits(0).json();
    assert_eq!(
        json,
        json!({"changed": true, "instance_id": ID, "snapshots": 0})
    );
    let again = ["rm", ID, "-o", "json", "--ignore-not-found"];
    let json = host.run(&again).exits(0).is_content().json();
    assert_eq!(
        json,
        json!({"changed": false, "instance_id": ID, "snapshots": null})
    );
}

#[test]
fn missing_schedule_is_an_error_unless_that_is_to_be_ignored() {
    let host = host();
    host.run(&["delete", "web-c"])
        .exits(3)
        .complains(&["\"web-c\""]);
    let said = host
        .run(&["delete", "web-c", "--ignore-not-found"])
        .exits(0)
        .is_content();
    assert_eq!(said.stdout, "unchanged: web-c has no schedule\n");
    assert_eq!(
        host.run(&["delete", ""]).exits(3).stdout,
        "",
        "an empty reference means nothing, not everything"
    );
    assert!(host.schedule_path(ID).exists() && host.schedule_path(OTHER_ID).exists());
}

#[test]
fn instance_need_not_exist_any_more() {
    let host = host();
    host.remove_instance(ID);
    host.run(&["delete", ID]).exits(0).is_content();
    assert!(!host.schedule_path(ID).exists());
}

#[test]
fn without_an_engine_a_name_is_neither_deleted_nor_said_to_be_missing() {
    let host = host();
    fs::remove_dir_all(host.data_dir()).unwrap();
    host.run(&["delete", "web-a", "--ignore-not-found"])
        .exits(1)
        .complains(&["names can't be looked up"]);
    assert!(host.schedule_path(ID).exists());
    host.run(&["delete", ID]).exits(0).is_content();
    assert!(!host.schedule_path(ID).exists());
}

#[test]
fn reference_is_never_taken_for_a_path() {
    let host = host();
    let outside = host.state_dir().join("outside.json");
    fs::write(&outside, "{}").unwrap();
    for reference in [
        "../outside",
        ".",
        "..",
        "/",
        "snapshot-schedules/../x",
        "*",
        "a\nb",
    ] {
        host.run(&["delete", reference]).exits(3);
        host.run(&["get", reference]).exits(3);
    }
    assert!(outside.exists());
    assert!(host.schedule_path(ID).exists() && host.schedule_path(OTHER_ID).exists());
}

#[test]
fn ambiguous_reference_deletes_nothing() {
    let host = host();
    host.run(&["delete", "mk3", "--ignore-not-found"])
        .exits(2)
        .complains(&["ambiguous", ID, OTHER_ID]);
    assert!(host.schedule_path(ID).exists() && host.schedule_path(OTHER_ID).exists());
}

#[test]
fn unreadable_schedule_can_be_deleted() {
    let host = host();
    host.write_schedule(ID, "{");
    host.run(&["delete", ID]).exits(0).is_content();
    assert!(!host.schedule_path(ID).exists());
}

#[test]
fn link_is_removed_and_what_it_points_to_stays() {
    let host = host();
    let target = host.dir().join("target.json");
    fs::rename(host.schedule_path(ID), &target).unwrap();
    std::os::unix::fs::symlink(&target, host.schedule_path(ID)).unwrap();
    host.run(&["delete", ID]).exits(0);
    assert!(fs::symlink_metadata(host.schedule_path(ID)).is_err());
    assert!(target.exists());
}

#[test]
fn lock_of_another_run_ends_the_wait_with_exit_code_4() {
    let host = host();
    let held = host.lock(ID);
    host.run(&["delete", ID, "--lock-timeout", "0s"])
        .exits(4)
        .complains(&[ID, "--lock-timeout"]);
    assert!(host.schedule_path(ID).exists());
    host.run(&["delete", OTHER_ID, "--lock-timeout", "0s"])
        .exits(0);
    drop(held);
    host.run(&["delete", ID, "--lock-timeout", "0s"]).exits(0);
}
