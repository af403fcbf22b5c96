//! `get`: one schedule, whatever has become of its instance.

#![cfg(test)]

use std::fs;

use serde_json::{Value, json};
use support::cli::Host;

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";

fn host() -> Host {
    let host = Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"));
    host.write_schedule(ID, seasoned().to_string());
    host
}

fn seasoned() -> Value {
    json!({
        "instance_id": ID,
        "interval": "24h0m0s",
        "name_prefix": "nightly",
        "metadata": {"team": "infra"},
        "retention": {"max_count": 7, "max_age": "168h0m0s"},
        "next_run_at": "2126-09-03T03:15:20Z",
        "last_run_at": "2026-09-02T03:15:20Z",
        "last_error": "no space left\n\u{1b}[31mon device",
        "created_at": "2026-08-20T03:11:05Z",
        "updated_at": "2026-09-02T03:15:20Z",
        "retry_at": "2126-09-02T03:17:20Z",
        "consecutive_failures": 2,
        "last_success_at": "2026-09-01T03:15:20Z",
        "last_pause_ms": 8.25,
        "last_duration_ms": 1340,
        "from_the_future": {"kept": true},
    })
}

#[test]
fn json_is_what_the_file_holds() {
    let host = host();
    let json = host
        .run(&["get", "web-a", "-o", "json"])
        .exits(0)
        .is_content()
        .json();
    assert_eq!(json, seasoned());
}

#[test]
fn table_shows_everything_that_is_set_and_nothing_that_a_terminal_would_obey() {
    let said = host().run(&["get", ID]).exits(0).is_content();
    assert_eq!(
        said.stdout,
        "\
instance       mk3v9t0xq2r7w5d8h1c6b4za
interval       1d
keeps          newest 7, up to 7d
name prefix    nightly
metadata       team=infra
next run       2126-09-03 03:15:20 +00:00
next retry     2126-09-02 03:17:20 +00:00
last run       2026-09-02 03:15:20 +00:00
last error     no space left\\n\\u{1b}[31mon device
failures       2
last success   2026-09-01 03:15:20 +00:00
last pause     8.2 ms
last duration  1.3 s
created        2026-08-20 03:11:05 +00:00
updated        2026-09-02 03:15:20 +00:00
"
    );
}

#[test]
fn times_in_tables_are_local_with_their_offset_and_utc_in_json() {
    let host = host();
    let mut command = host.command();
    command.env("TZ", "Asia/Kolkata").args(["get", ID]);
    let zoned = support::cli::said(&mut command).exits(0);
    if fs::metadata("/usr/share/zoneinfo/Asia/Kolkata").is_ok() {
        assert!(
            zoned
                .stdout
                .contains("next run       2126-09-03 08:45:20 +05:30"),
            "{zoned:?}"
        );
    }
    command.args(["-o", "json"]);
    let json = support::cli::said(&mut command).exits(0).json();
    assert_eq!(json["next_run_at"], "2126-09-03T03:15:20Z");
}

#[test]
fn schedule_of_an_instance_that_is_gone_is_found_by_id_and_by_prefix() {
    let host = host();
    host.remove_instance(ID);
    for reference in [ID, "mk3"] {
        let json = host
            .run(&["get", reference, "-o", "json"])
            .exits(0)
            .is_content()
            .json();
        assert_eq!(json["instance_id"], ID);
    }
    host.run(&["get", "web-a"])
        .exits(3)
        .complains(&["\"web-a\""]);
}

#[test]
fn without_an_engine_ids_and_prefixes_still_work_and_names_are_no_lie() {
    let host = host();
    fs::remove_dir_all(host.data_dir()).unwrap();
    host.run(&["get", ID]).exits(0).is_content();
    host.run(&["get", "mk3v"])
        .exits(0)
        .complains(&["warning", "\"mk3v\"", ID]);
    // It may well be the instance's name, so "not found" would be a guess.
    host.run(&["get", "web-a"])
        .exits(1)
        .complains(&["names can't be looked up"]);
}

#[test]
fn instance_without_a_schedule_is_told_from_an_unknown_one() {
    let host = host();
    host.run(&["get", "web-b"])
        .exits(3)
        .complains(&["web-b (mk3w0000000000000000000b) has no schedule"]);
    host.run(&["get", "web-c"])
        .exits(3)
        .complains(&["\"web-c\""]);
}

#[test]
fn ambiguous_prefix_lists_the_schedules_that_match() {
    let host = host();
    let mut other = seasoned();
    other["instance_id"] = json!("mk3w0000000000000000000b");
    host.write_schedule("mk3w0000000000000000000b", other.to_string());
    host.run(&["get", "mk3"]).exits(2).complains(&[
        "ambiguous",
        "web-a (mk3v9t0xq2r7w5d8h1c6b4za)",
        "web-b (mk3w0000000000000000000b)",
    ]);
}

#[test]
fn only_instances_with_a_schedule_compete_for_a_prefix() {
    host().run(&["get", "mk3"]).exits(0).is_content();
}

#[test]
fn unreadable_schedule_is_an_error_that_names_its_file() {
    let host = host();
    for content in ["", "{", "null", "{\"instance_id\": \"x\"}"] {
        host.write_schedule(ID, content);
        host.run(&["get", ID])
            .exits(1)
            .complains(&[host.schedule_path(ID).to_str().unwrap()]);
    }
}

#[test]
fn nothing_is_created_for_the_sake_of_looking() {
    let host = Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"));
    host.run(&["get", ID]).exits(3);
    assert!(!host.state_dir().exists());
}
