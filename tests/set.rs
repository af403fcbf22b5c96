//! `set`: declares a schedule, idempotently, and refuses what breaks a rule without touching anything.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Stdio;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use support::cli::{Host, now};
use support::wait::wait_until;

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";
const OTHER_ID: &str = "mk3w0000000000000000000b";

fn host() -> Host {
    Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"))
}

fn time(schedule: &Value, field: &str) -> DateTime<Utc> {
    schedule[field].as_str().unwrap().parse().unwrap()
}

/// A schedule as hypeman leaves it after some runs.
fn seasoned() -> Value {
    json!({
        "instance_id": ID,
        "interval": "24h0m0s",
        "name_prefix": "nightly",
        "metadata": {"team": "infra"},
        "retention": {"max_count": 7, "max_age": "168h0m0s"},
        "next_run_at": "2126-09-03T03:15:20Z",
        "last_run_at": "2026-09-02T03:15:20Z",
        "last_snapshot_id": "s8p1n4f6y0u3e2j7g9l5o1xv",
        "created_at": "2026-08-20T03:11:05Z",
        "updated_at": "2026-09-02T03:15:20Z",
        "from_the_future": {"kept": true},
    })
}

#[test]
fn new_schedule_is_written_in_hypemans_format() {
    let host = host();
    let before = now();
    let said = host
        .run(&[
            "set",
            "web-a",
            "--interval",
            "1d",
            "--max-count",
            "7",
            "--max-age",
            "7d",
            "--name-prefix",
            "nightly",
            "--metadata",
            "team=infra",
            "--metadata",
            "note=a = b",
        ])
        .exits(0)
        .is_content();
    let after = now();
    assert!(
        said.stdout.starts_with(
            "created schedule of web-a (mk3v9t0xq2r7w5d8h1c6b4za): every 1d, keeps newest 7, up to 7d, first run "
        ) && said.stdout.lines().count() == 1,
        "{said:?}"
    );

    let mut schedule = host.schedule(ID);
    // The jitter of this id at 24h, from the contract's test vectors.
    let delay = TimeDelta::hours(24) + TimeDelta::nanoseconds(116_293_038_984);
    let next_run_at = time(&schedule, "next_run_at");
    assert!(before + delay <= next_run_at && next_run_at <= after + delay);
    for field in ["created_at", "updated_at"] {
        assert_eq!(time(&schedule, field) + delay, next_run_at);
    }
    for field in ["next_run_at", "created_at", "updated_at"] {
        schedule.as_object_mut().unwrap().shift_remove(field);
    }
    assert_eq!(
        schedule,
        json!({
            "instance_id": ID,
            "interval": "24h0m0s",
            "name_prefix": "nightly",
            "metadata": {"note": "a = b", "team": "infra"},
            "retention": {"max_count": 7, "max_age": "168h0m0s"},
        })
    );
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(host.schedule_path(ID)), 0o600);
    assert_eq!(mode(host.state_dir()), 0o700);
    assert_eq!(mode(host.state_dir().join("snapshot-schedules")), 0o700);
}

#[test]
fn same_values_in_other_words_change_nothing() {
    let host = host();
    host.run(&["set", ID, "--interval", "1h", "--max-age", "7d"])
        .exits(0);
    let inode = |host: &Host| fs::metadata(host.schedule_path(ID)).unwrap().ino();
    let (content, written) = (host.state(), inode(&host));
    let arguments = ["set", "web-a", "--interval", "60m", "--max-age", "168h0m0s"];
    let said = host.run(&arguments).exits(0).is_content();
    assert!(
        said.stdout
            .starts_with("unchanged schedule of web-a (mk3v9t0xq2r7w5d8h1c6b4za)"),
        "{said:?}"
    );
    let json = host
        .run(&[&arguments[..], &["-o", "json", "--max-count", "0"]].concat())
        .exits(0)
        .json();
    assert_eq!(json["changed"], false);
    assert_eq!(json["schedule"], host.schedule(ID));
    assert_eq!((host.state(), inode(&host)), (content, written));
}

#[test]
fn what_is_not_given_is_not_set() {
    let host = host();
    host.write_schedule(ID, seasoned().to_string());
    let said = host
        .run(&["set", ID, "--interval", "24h", "--max-count", "7"])
        .exits(0);
    assert_eq!(
        said.normalised(),
        "changed schedule of web-a (mk3v9t0xq2r7w5d8h1c6b4za): max-age: 7d → none, name-prefix: nightly → \
         scheduled, metadata: team=infra → none; next run TIME\n"
    );
    let mut expected = seasoned();
    let fields = expected.as_object_mut().unwrap();
    fields.shift_remove("metadata");
    fields.shift_remove("name_prefix");
    expected["retention"] = json!({"max_count": 7});
    let found = host.schedule(ID);
    expected["updated_at"] = found["updated_at"].clone();
    assert_ne!(found["updated_at"], seasoned()["updated_at"]);
    assert_eq!(found, expected, "cadence, last run and unknown fields stay");
}

#[test]
fn another_interval_starts_a_new_cadence() {
    let host = host();
    host.write_schedule(ID, seasoned().to_string());
    let json = host
        .run(&[
            "set",
            ID,
            "--interval",
            "12h",
            "--max-count",
            "7",
            "-o",
            "json",
        ])
        .exits(0)
        .json();
    assert_eq!(json["changed"], true);
    assert_eq!(json["schedule"], host.schedule(ID));
    let (schedule, soon) = (&json["schedule"], now() + TimeDelta::hours(13));
    assert!(time(schedule, "next_run_at") < soon, "{schedule}");
    for kept in ["created_at", "last_run_at", "last_snapshot_id"] {
        assert_eq!(schedule[kept], seasoned()[kept], "{kept}");
    }
}

#[test]
fn dry_run_shows_the_change_and_writes_nothing() {
    let host = host();
    let create = [
        "set",
        ID,
        "--interval",
        "1h",
        "--max-count",
        "3",
        "--dry-run",
    ];
    let said = host.run(&create).exits(0).is_content();
    assert!(
        said.stdout
            .starts_with("would have created schedule of web-a")
    );
    assert!(!host.state_dir().exists());

    host.write_schedule(ID, seasoned().to_string());
    let state = host.state();
    let said = host.run(&create).exits(0).is_content();
    assert!(
        said.stdout
            .contains("interval: 1d → 1h, max-count: 7 → 3, max-age: 7d → none"),
        "{said:?}"
    );
    let json = host.run(&[&create[..], &["-o", "json"]].concat()).json();
    assert_eq!(json["changed"], true);
    assert_eq!(json["dry_run"], true);
    assert_eq!(json["schedule"]["interval"], "1h0m0s");
    assert_eq!(host.state(), state);
}

#[test]
fn instances_are_found_by_id_name_or_unique_prefix() {
    let host = host();
    for reference in [ID, "web-a", "mk3v"] {
        host.run(&["set", reference, "--interval", "1h", "--max-count", "1"])
            .exits(0);
        assert_eq!(host.schedule(ID)["interval"], "1h0m0s", "{reference}");
        fs::remove_file(host.schedule_path(ID)).unwrap();
    }
}

#[test]
fn unknown_and_ambiguous_instances_are_different_errors() {
    let host = host();
    let set =
        |reference: &str| host.run(&["set", reference, "--interval", "1h", "--max-count", "1"]);
    set("web-c").exits(3).complains(&["\"web-c\""]);
    set("").exits(3);
    set("mk3").exits(2).complains(&[
        "ambiguous",
        &format!("web-a ({ID})"),
        &format!("web-b ({OTHER_ID})"),
    ]);
    host.add_instance(OTHER_ID, "web-a");
    set("web-a")
        .exits(2)
        .complains(&["ambiguous", ID, OTHER_ID]);
    set(ID).exits(0);
}

#[test]
fn schedule_of_an_instance_that_is_gone_can_not_be_set() {
    let host = host();
    host.write_schedule(ID, seasoned().to_string());
    host.remove_instance(ID);
    let state = host.state();
    host.run(&["set", ID, "--interval", "1h", "--max-count", "1"])
        .exits(3)
        .complains(&[ID]);
    assert_eq!(host.state(), state);
}

#[test]
fn missing_data_directory_does_not_mean_that_the_instance_is_gone() {
    let host = host();
    fs::remove_dir_all(host.data_dir()).unwrap();
    let data_dir = host.data_dir();
    host.run(&["set", ID, "--interval", "1h", "--max-count", "1"])
        .exits(1)
        .complains(&[data_dir.to_str().unwrap()]);
    assert!(!host.state_dir().exists());
}

#[test]
fn lock_of_another_run_ends_the_wait_with_exit_code_4() {
    let host = host();
    host.write_schedule(ID, seasoned().to_string());
    let held = host.lock(ID);
    let state = host.state();
    let set = |timeout: &str| {
        host.run(&[
            "set",
            ID,
            "--interval",
            "1h",
            "--max-count",
            "1",
            "--lock-timeout",
            timeout,
        ])
    };
    let began = Instant::now();
    set("0s").exits(4).complains(&[ID, "--lock-timeout"]);
    assert!(began.elapsed() < Duration::from_secs(5), "did not wait");
    set("50ms").exits(4);
    assert_eq!(host.state(), state);
    // The lock of one instance stops no other one, and a dry run needs none.
    host.run(&[
        "set",
        OTHER_ID,
        "--interval",
        "1h",
        "--max-count",
        "1",
        "--lock-timeout",
        "0s",
    ])
    .exits(0);
    host.run(&[
        "set",
        ID,
        "--interval",
        "1h",
        "--max-count",
        "1",
        "--dry-run",
    ])
    .exits(0);
    drop(held);
    set("0s").exits(0);
}

#[test]
fn lock_that_is_released_in_time_is_waited_for() {
    let host = host();
    let held = host.lock(ID);
    let mut set = host
        .std_command()
        .args(["set", ID, "--interval", "1h", "--max-count", "1"])
        .args(["--lock-timeout", "50s"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let fds = format!("/proc/{}/fd", set.id());
    wait_until("the tool to try the lock", || {
        fs::read_dir(&fds).unwrap().any(|fd| {
            fs::read_link(fd.unwrap().path()).is_ok_and(|file| file.ends_with(format!("{ID}.lock")))
        })
    });
    assert!(!host.schedule_path(ID).exists());
    drop(held);
    assert_eq!(set.wait().unwrap().code(), Some(0));
    assert!(host.schedule_path(ID).exists());
}

#[test]
fn schedule_that_can_not_be_read_is_not_overwritten() {
    let host = host();
    for content in ["{", "", "[]", "{\"instance_id\":\"other\"}"] {
        host.write_schedule(ID, content);
        let path = host.schedule_path(ID);
        host.run(&["set", ID, "--interval", "1h", "--max-count", "1"])
            .exits(1)
            .complains(&[path.to_str().unwrap()]);
        assert_eq!(fs::read(path).unwrap(), content.as_bytes());
    }
}

#[test]
fn age_below_the_interval_is_warned_of() {
    let host = host();
    host.run(&[
        "set",
        ID,
        "--interval",
        "1d",
        "--max-age",
        "1h 30m",
        "--dry-run",
    ])
    .exits(0)
    .complains(&["warning: --max-age 1h 30m is below --interval 1d", "newest"]);
    host.run(&["set", ID, "--interval", "1d", "--max-age", "1d", "-n"])
        .exits(0)
        .is_content();
    assert!(!host.schedule_path(ID).exists());
}
