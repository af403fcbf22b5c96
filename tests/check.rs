//! `check`: levels and causes as monitoring systems read them, and that it changes nothing.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{SecondsFormat, TimeDelta};
use serde_json::{Value, json};
use support::cli::{Host, Said, now, said};

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";
const OTHER_ID: &str = "mk3w0000000000000000000b";
const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;

fn host() -> Host {
    Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"))
}

/// The time so many seconds from now, as files have it.
fn from_now(seconds: i64) -> String {
    (now() + TimeDelta::seconds(seconds)).to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Writes an hourly schedule that was set four days ago and whose next run is so many seconds ahead.
fn write_schedule(host: &Host, id: &str, next: i64, more: &Value) {
    let mut schedule = json!({
        "instance_id": id,
        "interval": "1h0m0s",
        "retention": {"max_count": 7},
        "next_run_at": from_now(next),
        "created_at": from_now(-96 * HOUR),
        "updated_at": from_now(-HOUR),
    });
    schedule
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    host.write_schedule(id, schedule.to_string());
}

fn succeeded(seconds_ago: i64) -> Value {
    json!({
        "last_run_at": from_now(-seconds_ago),
        "last_success_at": from_now(-seconds_ago),
        "last_snapshot_id": "s1",
    })
}

fn add_snapshot(host: &Host, id: &str, instance: (&str, &str), seconds_ago: u64) {
    host.add_snapshot(id, instance, Duration::from_secs(seconds_ago), true);
}

/// A host whose `web-a` has a snapshot that is half an hour old.
fn host_in_order() -> Host {
    let host = host();
    write_schedule(&host, ID, 30 * MINUTE, &succeeded(30 * MINUTE));
    add_snapshot(&host, "s1", (ID, "web-a"), 30 * 60);
    host
}

fn first_line(said: &Said) -> &str {
    said.stdout.lines().next().unwrap()
}

/// Everything below the host's directory: path, change time and inode.
fn everything(host: &Host) -> Vec<(PathBuf, i64, i64, u64)> {
    let mut found = Vec::new();
    let mut dirs = vec![host.dir().to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            if metadata.is_dir() {
                dirs.push(path.clone());
            }
            found.push((
                path,
                metadata.ctime(),
                metadata.ctime_nsec(),
                metadata.ino(),
            ));
        }
    }
    found.sort();
    found
}

/// `'label'=value[s];warning;critical;minimum` of the performance data.
fn performance(said: &Said) -> Vec<(String, Vec<String>)> {
    let (_, data) = first_line(said).split_once('|').unwrap();
    data.split(' ')
        .map(|item| {
            let (label, values) = item.rsplit_once('=').unwrap();
            let values = values.split(';').map(str::to_owned).collect();
            (label.trim_matches('\'').to_owned(), values)
        })
        .collect()
}

#[test]
fn all_well_is_ok_with_performance_data() {
    let host = host_in_order();
    let said = host.run(&["check"]).exits(0).is_content();
    let line = first_line(&said);
    assert!(
        line.starts_with("SNAPSHOTS OK - 1 instance has a recent snapshot|instances=1;;;0 "),
        "{line}"
    );
    let ages = performance(&said);
    let (label, values) = ages.last().unwrap();
    assert_eq!(label, &format!("age_{ID}"));
    let age: u64 = values[0].strip_suffix('s').unwrap().parse().unwrap();
    assert!((30 * 60..31 * 60).contains(&age), "{age}");
    let limits: Vec<u64> = values[1..].iter().map(|it| it.parse().unwrap()).collect();
    // An hour, at most a tenth of it as jitter, and six minutes.
    assert!((66 * 60..=72 * 60).contains(&limits[0]), "{limits:?}");
    assert!(limits[1].abs_diff(2 * limits[0]) <= 1 && limits[2] == 0);
    let detail = said.stdout.lines().nth(1).unwrap();
    assert_eq!(
        detail,
        format!("OK: web-a ({ID}): newest snapshot is 30m old")
    );
    assert_eq!(
        host.run(&["check", "-q"]).exits(0).stdout.lines().count(),
        1
    );
}

#[test]
fn it_takes_no_lock_and_writes_nothing() {
    let host = host_in_order();
    write_schedule(&host, OTHER_ID, -HOUR, &json!({}));
    host.write_schedule("broken", "{");
    let _lock = host.lock(ID);
    let before = everything(&host);
    host.run(&["check"]).exits(2);
    host.run(&["check", "web-a", "--rpo", "1m"]).exits(2);
    assert_eq!(everything(&host), before);
}

#[test]
fn timer_that_does_not_fire_is_told_from_snapshots_that_fail() {
    let host = host();
    write_schedule(&host, ID, -30 * MINUTE, &succeeded(90 * MINUTE));
    add_snapshot(&host, "s1", (ID, "web-a"), 90 * 60);
    let said = host.run(&["check"]).exits(1);
    let line = first_line(&said);
    assert!(
        line.starts_with(&format!(
            "SNAPSHOTS WARNING - web-a ({ID}): newest snapshot is 1h 30m old, which is beyond"
        )),
        "{line}"
    );
    assert!(line.contains("run-due does not run"), "{line}");

    let failing = json!({
        "last_run_at": from_now(-5),
        "last_success_at": from_now(-90 * MINUTE),
        "last_error": "disk | is full\nreally",
        "consecutive_failures": 7,
        "retry_at": from_now(20 * MINUTE),
    });
    write_schedule(&host, ID, 30 * MINUTE, &failing);
    let said = host.run(&["check"]).exits(1);
    let line = first_line(&said);
    assert!(
        line.contains("7 runs in a row failed: disk / is full\\nreally"),
        "{line}"
    );
    assert!(!line.contains("does not run"), "{line}");
    assert_eq!(line.matches('|').count(), 1, "{line}");
}

#[test]
fn worst_wins_and_stands_first() {
    let host = host_in_order();
    write_schedule(&host, OTHER_ID, -24 * HOUR, &succeeded(25 * HOUR));
    add_snapshot(&host, "s2", (OTHER_ID, "web-b"), 25 * 3600);
    let said = host.run(&["check"]).exits(2);
    assert!(first_line(&said).starts_with("SNAPSHOTS CRITICAL - web-b ("));
    assert!(first_line(&said).contains("(1 of 2)|instances=2;;;0 warning=0;;;0 critical=1;;;0"));
    let levels: Vec<&str> = said
        .stdout
        .lines()
        .skip(1)
        .map(|line| line.split(':').next().unwrap())
        .collect();
    assert_eq!(levels, ["CRITICAL", "OK"]);
    // Only what is asked for counts, under whatever name.
    for reference in ["web-a", ID, "mk3v"] {
        host.run(&["check", reference]).exits(0);
    }
    let said = host.run(&["check", "web-a", "mk3v", "nobody"]).exits(3);
    assert_eq!(said.stdout.lines().count(), 3, "{said:?}");
    host.run(&["check", "web-b", "nobody"]).exits(2);
}

#[test]
fn declared_rpo_replaces_the_default() {
    let host = host_in_order();
    host.run(&["check", "--rpo", "45m"]).exits(0);
    let said = host.run(&["check", "--rpo", "20m"]).exits(1);
    assert!(
        first_line(&said).contains("its schedule's interval of 1h is longer than that"),
        "{said:?}"
    );
    host.run(&["check", "--rpo", "10m"]).exits(2);
    let said = host.run(&["check", "--rpo", "0"]).exits(3);
    assert!(first_line(&said).starts_with("SNAPSHOTS UNKNOWN - --rpo \"0s\""));
}

#[test]
fn manual_and_unfinished_snapshots_protect_nobody() {
    let host = host();
    write_schedule(&host, ID, 30 * MINUTE, &succeeded(30 * MINUTE));
    host.add_snapshot("s1", (ID, "web-a"), Duration::from_secs(60), false);
    fs::create_dir_all(host.data_dir().join("snapshots/s2/guest")).unwrap();
    let said = host.run(&["check"]).exits(2);
    assert!(
        first_line(&said).contains("is not in the store any more"),
        "{said:?}"
    );
}

#[test]
fn new_schedule_is_ok() {
    let host = host();
    host.run(&["set", "web-a", "--interval", "1d", "--max-count", "3"])
        .exits(0);
    for args in [&["check"][..], &["check", "--rpo", "1m"]] {
        let said = host.run(args).exits(0);
        assert!(first_line(&said).contains("1 not yet due"), "{said:?}");
    }
}

#[test]
fn newest_snapshot_that_lost_something_is_critical_until_there_is_a_better_one() {
    let host = host_in_order();
    add_snapshot(&host, "s0", (ID, "web-a"), 90 * 60);
    let directory = host.data_dir().join("snapshots/s1");
    let says = |part: &str| {
        let said = host.run(&["check"]).exits(2);
        assert!(said.stdout.contains(part), "{part}: {said:?}");
        let json = host.run(&["check", "-o", "json"]).exits(2).json();
        assert_eq!(json["instances"][0]["cause"], "unusable", "{json}");
        let flaw = json["instances"][0]["unusable_reason"].as_str().unwrap();
        assert!(part.contains(flaw), "{flaw}");
        // `list` and `doctor` know it too.
        let list = host.run(&["list"]).exits(0);
        let row = format!("newest snapshot is unusable: {flaw}");
        assert!(list.stdout.contains(&row), "{row}: {list:?}");
        let list = host.run(&["list", "-o", "json"]).exits(0).json();
        assert_eq!(list[0]["unusable_reason"], flaw);
        let doctor = host.run(&["doctor", "-o", "json"]).json();
        let finding = doctor
            .as_array()
            .unwrap()
            .iter()
            .find(|it| it["check"] == "snapshot" && it["subject"] == "s1")
            .unwrap_or_else(|| panic!("{doctor}"));
        assert_eq!(finding["status"], "warning");
        assert!(
            finding["detail"].as_str().unwrap().contains(flaw),
            "{finding}"
        );
    };
    let whole = fs::read(directory.join("snapshot.json")).unwrap();
    fs::write(directory.join("snapshot.json"), "{").unwrap();
    says(
        "nothing can be restored from the newest snapshot: its snapshot.json can't be parsed: \
         EOF while parsing an object at line 1 column 1; the newest usable one is 1h 30m old",
    );
    fs::write(directory.join("snapshot.json"), &whole).unwrap();
    host.run(&["check"]).exits(0);
    fs::write(directory.join("guest/overlay.raw"), "").unwrap();
    says("nothing can be restored from the newest snapshot: there is no disk in it; ");
    let standby = String::from_utf8(whole)
        .unwrap()
        .replace("\"Stopped\"", "\"Standby\"");
    fs::write(directory.join("snapshot.json"), standby).unwrap();
    says(
        "nothing can be restored from the newest snapshot: \
         snapshots/snapshot-latest/memory is missing; ",
    );
    add_snapshot(&host, "s2", (ID, "web-a"), 60);
    write_schedule(
        &host,
        ID,
        30 * MINUTE,
        &json!({"last_run_at": from_now(-60), "last_success_at": from_now(-60), "last_snapshot_id": "s2"}),
    );
    host.run(&["check"]).exits(0);
}

#[test]
fn store_in_which_nothing_is_left_is_critical_at_once() {
    let host = host_in_order();
    fs::remove_dir_all(host.data_dir().join("snapshots/s1")).unwrap();
    let said = host.run(&["check"]).exits(2);
    assert!(
        first_line(&said).contains("no snapshot is left"),
        "{said:?}"
    );
    let json = host.run(&["check", "-o", "json"]).exits(2).json();
    assert_eq!(json["instances"][0]["cause"], "lost");
}

#[test]
fn instance_that_is_gone_and_whose_last_snapshot_is_cut_is_critical() {
    let host = host_in_order();
    host.remove_instance(ID);
    host.run(&["check"]).exits(0);
    fs::write(host.data_dir().join("snapshots/s1/guest/overlay.raw"), "").unwrap();
    let said = host.run(&["check"]).exits(2);
    assert!(
        first_line(&said).contains("there is no disk in it"),
        "{said:?}"
    );
}

#[test]
fn instance_that_is_gone_is_named_and_no_alarm() {
    let host = host();
    write_schedule(&host, "gone", -HOUR, &succeeded(50 * HOUR));
    let said = host.run(&["check"]).exits(0);
    assert!(first_line(&said).contains("1 gone"), "{said:?}");
    assert!(said.stdout.contains("OK: gone: the instance is gone"));
}

#[test]
fn schedule_files_that_hold_none_are_critical_or_unknown_by_whose_fault_it_is() {
    let host = host_in_order();
    host.write_schedule("broken", "{");
    let said = host.run(&["check"]).exits(2);
    assert!(
        first_line(&said).starts_with("SNAPSHOTS CRITICAL - broken: "),
        "{said:?}"
    );
    assert!(first_line(&said).contains("is not a schedule"), "{said:?}");
    fs::rename(host.schedule_path("broken"), host.schedule_path("-bad")).unwrap();
    let said = host.run(&["check"]).exits(2);
    assert!(first_line(&said).contains("is no schedule"), "{said:?}");
}

#[test]
fn without_the_engine_the_schedules_are_believed() {
    let host = host_in_order();
    write_schedule(
        &host,
        OTHER_ID,
        30 * MINUTE,
        &json!({"last_run_at": from_now(-30 * MINUTE)}),
    );
    fs::rename(host.data_dir(), host.dir().join("elsewhere")).unwrap();
    let said = host.run(&["check", ID]).exits(0);
    assert!(
        said.stdout
            .contains(&format!("OK: {ID}: last success was 30m ago")),
        "{said:?}"
    );
    assert!(said.stdout.contains("the engine can't be asked"));
    let said = host.run(&["check"]).exits(3);
    assert!(
        first_line(&said).contains("the schedule records no success"),
        "{said:?}"
    );
}

#[test]
fn nothing_to_look_at_is_unknown() {
    let host = host();
    let said = host.run(&["check"]).exits(3).is_content();
    assert!(
        first_line(&said).starts_with("SNAPSHOTS UNKNOWN - no schedules in "),
        "{said:?}"
    );
    assert_eq!(said.stdout.lines().count(), 1);
    fs::write(host.dir().join("state"), "a file").unwrap();
    let said = host.run(&["check"]).exits(3);
    assert!(
        first_line(&said).starts_with("SNAPSHOTS UNKNOWN - can't list "),
        "{said:?}"
    );
}

#[test]
fn invalid_command_line_is_unknown_for_check_and_for_no_other_command() {
    let host = host();
    host.run(&["check", "--rpo", "soon"]).exits(3);
    host.run(&["-v", "check", "--bogus"]).exits(3);
    host.run(&["get", "--bogus", "check"]).exits(2);
    let mut command = host.command();
    command.env("HYPEMAN_SNAP_ENGINE", "docker").arg("check");
    let said = said(&mut command).exits(3);
    assert!(
        first_line(&said).starts_with("SNAPSHOTS UNKNOWN - HYPEMAN_SNAP_ENGINE"),
        "{said:?}"
    );
    host.run(&["check", "--help"]).exits(0);
}

#[test]
fn json_says_the_same() {
    let host = host_in_order();
    host.write_schedule("broken", "{");
    let said = host.run(&["check", "-o", "json"]).exits(2);
    let answer = said.json();
    assert_eq!(answer["status"], "critical");
    assert_eq!(answer["engine_error"], Value::Null);
    let rows = answer["instances"].as_array().unwrap();
    assert_eq!(rows[0]["instance_id"], "broken");
    assert_eq!(rows[0]["cause"], "unreadable");
    assert_eq!(rows[1]["instance_id"], ID);
    assert_eq!(rows[1]["instance_name"], "web-a");
    assert_eq!(rows[1]["status"], "ok");
    assert_eq!(rows[1]["cause"], "fresh");
    assert_eq!(rows[1]["newest_is_recorded"], false);
    assert!(rows[1]["age_seconds"].as_u64().unwrap() >= 30 * 60);
    assert!(rows[1]["newest_snapshot_at"].is_string());
    let said = host.run(&["check", "nobody", "-o", "json"]).exits(3);
    assert_eq!(said.json()["instances"][0]["cause"], "not_found");
}
