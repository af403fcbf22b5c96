//! `list`: every schedule file is a row, readable or not.

#![cfg(test)]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use serde_json::{Value, json};
use support::cli::{Host, now};

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";
const OTHER_ID: &str = "mk3w0000000000000000000b";

fn host() -> Host {
    Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"))
}

fn schedule(id: &str) -> Value {
    json!({
        "instance_id": id,
        "interval": "24h0m0s",
        "retention": {"max_count": 7, "max_age": "168h0m0s"},
        "next_run_at": "2126-09-03T03:15:20Z",
        "created_at": "2026-08-20T03:11:05Z",
        "updated_at": "2026-09-02T03:15:20Z",
    })
}

/// A schedule with some more fields.
fn schedule_with(id: &str, more: &Value) -> String {
    let mut schedule = schedule(id);
    schedule
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    schedule.to_string()
}

#[test]
fn table_is_aligned_and_complete() {
    let host = host();
    host.write_schedule(
        ID,
        schedule_with(
            ID,
            &json!({"last_run_at": "2026-09-02T03:15:20Z", "last_snapshot_id": "s1"}),
        ),
    );
    host.write_schedule(
        OTHER_ID,
        schedule_with(
            OTHER_ID,
            &json!({
                "interval": "90m",
                "retention": {"max_count": 3},
                "last_run_at": "2026-09-02T03:15:20Z",
                "last_error": "no space left on device, and a reason that is so long that no terminal would show it",
                "consecutive_failures": 12,
                "retry_at": "2126-09-03T03:16:20Z",
            }),
        ),
    );
    host.write_schedule(
        "gone",
        schedule_with("gone", &json!({"missing_since": "2026-09-02T03:15:20Z"})),
    );
    host.write_schedule("new", schedule("new").to_string());
    host.write_schedule(
        "unfinished",
        schedule_with(
            "unfinished",
            &json!({"attempt": {
                "run_at": "2026-09-02T03:15:20Z",
                "snapshot_name": "scheduled-20260902-031520",
                "tries": 1,
                "started_at": "2026-09-02T03:15:21Z",
            }}),
        ),
    );
    let said = host.run(&["list"]).exits(0).is_content();
    assert_eq!(
        said.stdout,
        "\
INSTANCE                  NAME   INTERVAL  KEEPS               NEXT RUN                    NEWEST  FAILURES  LAST RUN
gone                      -      1d        newest 7, up to 7d  2126-09-03 03:15:20 +00:00  none    0         instance is gone since 2026-09-02 03:15:20 +00:00
mk3v9t0xq2r7w5d8h1c6b4za  web-a  1d        newest 7, up to 7d  2126-09-03 03:15:20 +00:00  none    0         ok 2026-09-02 03:15:20 +00:00
mk3w0000000000000000000b  web-b  1h 30m    newest 3            2126-09-03 03:15:20 +00:00  none    12        failed 2026-09-02 03:15:20 +00:00: no space left on device, and a reason that is so long that no terminal would show it
new                       -      1d        newest 7, up to 7d  2126-09-03 03:15:20 +00:00  none    0         never
unfinished                -      1d        newest 7, up to 7d  2126-09-03 03:15:20 +00:00  none    0         unfinished, began 2026-09-02 03:15:21 +00:00
"
    );
}

#[test]
fn json_holds_the_schedules_and_what_the_engine_knows() {
    let host = host();
    host.write_schedule(ID, schedule(ID).to_string());
    host.write_schedule("gone", schedule("gone").to_string());
    host.add_snapshot("s1", (ID, "web-a"), Duration::from_secs(600), true);
    host.add_snapshot("s2", (ID, "web-a"), Duration::from_secs(300), true);
    host.add_snapshot("manual", (ID, "web-a"), Duration::from_secs(1), false);
    let json = host.run(&["ls", "-o", "json"]).exits(0).is_content().json();

    let record = fs::read(host.data_dir().join("snapshots/s2/snapshot.json")).unwrap();
    let record: Value = serde_json::from_slice(&record).unwrap();
    let mut with_snapshots = schedule(ID);
    with_snapshots["instance_name"] = json!("web-a");
    with_snapshots["newest_snapshot_at"] = record["snapshot"]["created_at"].clone();
    with_snapshots["unusable_reason"] = Value::Null;
    let mut without = schedule("gone");
    without["instance_name"] = Value::Null;
    without["newest_snapshot_at"] = Value::Null;
    without["unusable_reason"] = Value::Null;
    assert_eq!(json, json!([without, with_snapshots]));
}

#[test]
fn newest_is_when_the_newest_scheduled_snapshot_was_taken() {
    let host = host();
    host.write_schedule(ID, schedule(ID).to_string());
    let minutes = |minutes: u64| Duration::from_secs(minutes * 60 + 30);
    host.add_snapshot("s1", (ID, "web-a"), minutes(200), true);
    let taken = now() - minutes(125);
    host.add_snapshot("s2", (ID, "web-a"), minutes(125), true);
    host.add_snapshot("manual", (ID, "web-a"), minutes(1), false);
    host.add_snapshot("another", (OTHER_ID, "web-b"), minutes(1), true);
    let said = host.run(&["list"]).exits(0).is_content();
    // The second may have changed in between.
    let minute = taken.format("%Y-%m-%d %H:%M:").to_string();
    let next = (taken + Duration::from_secs(30))
        .format("%Y-%m-%d %H:%M:")
        .to_string();
    assert!(
        said.stdout.contains(&minute) || said.stdout.contains(&next),
        "{said:?}"
    );
}

#[test]
fn nothing_scheduled_is_an_empty_table_and_where_that_is() {
    let host = host();
    let directory = host.state_dir();
    let said = host.run(&["list"]).exits(0).complains(&[
        "no schedules in",
        directory.to_str().unwrap(),
        "(HYPEMAN_SNAP_STATE_DIR)",
    ]);
    assert_eq!(said.stdout.lines().count(), 1, "{said:?}");
    let quiet = ["list", "-o", "json", "--quiet"];
    let said = host.run(&quiet).exits(0).is_content();
    assert_eq!(said.json(), json!([]));
    assert!(!host.state_dir().exists());
}

#[test]
fn engine_that_can_not_be_reached_is_a_warning() {
    let host = host();
    host.write_schedule(ID, schedule(ID).to_string());
    fs::remove_dir_all(host.data_dir()).unwrap();
    let data_dir = host.data_dir();
    let said = host
        .run(&["list"])
        .exits(0)
        .complains(&["warning", data_dir.to_str().unwrap()]);
    assert_eq!(
        said.normalised(),
        "\
INSTANCE  NAME  INTERVAL  KEEPS  NEXT RUN  NEWEST  FAILURES  LAST RUN
mk3v9t0xq2r7w5d8h1c6b4za  -  1d  newest 7, up to 7d  TIME  ?  0  never
"
    );
    let json = host.run(&["list", "-o", "json"]).exits(0).json();
    assert_eq!(
        json,
        json!([schedule(ID)]),
        "what is not known is left out, null would say that there is none"
    );
}

#[test]
fn unreadable_schedules_are_rows_with_their_errors() {
    let host = host();
    host.write_schedule(ID, schedule(ID).to_string());
    host.write_schedule("broken", "{\"instance_id\": ");
    host.write_schedule("other", schedule("another").to_string());
    host.write_schedule(
        "fast",
        schedule("fast").to_string().replace("24h0m0s", "1s"),
    );
    let said = host.run(&["list"]).exits(1).is_content();
    let lines: Vec<&str> = said.stdout.lines().collect();
    assert_eq!(lines.len(), 5, "{said:?}");
    for (line, id) in [(1, "broken"), (2, "fast"), (4, "other")] {
        assert!(lines[line].starts_with(id), "{said:?}");
        let path = host.schedule_path(id);
        assert!(
            lines[line].contains("unreadable: ") && lines[line].contains(path.to_str().unwrap()),
            "{said:?}"
        );
    }
    assert!(
        lines[3].starts_with(ID) && lines[3].ends_with("never"),
        "{said:?}"
    );

    let json = host.run(&["list", "-o", "json"]).exits(1).json();
    let row = &json[0];
    assert_eq!(row["instance_id"], "broken");
    let path = host.schedule_path("broken");
    assert!(
        row["error"]
            .as_str()
            .unwrap()
            .contains(path.to_str().unwrap()),
        "{row}"
    );
    assert_eq!(json[2]["instance_id"], ID);
    assert!(json[2].get("error").is_none());
}

#[test]
fn hostile_files_are_reported_and_never_followed_or_waited_for() {
    let host = host();
    host.write_schedule(ID, schedule(ID).to_string());
    let dir = host.schedule_path(ID).parent().unwrap().to_owned();
    let secret = host.dir().join("secret");
    fs::write(&secret, schedule("link").to_string()).unwrap();
    std::os::unix::fs::symlink(&secret, dir.join("link.json")).unwrap();
    fs::create_dir(dir.join("directory.json")).unwrap();
    fs::write(dir.join("huge.json"), vec![b' '; 2 << 20]).unwrap();
    fs::write(dir.join("deep.json"), "[".repeat(100_000)).unwrap();
    fs::write(dir.join("a b.json"), schedule("a b").to_string()).unwrap();
    fs::write(dir.join("-rf.json"), schedule("-rf").to_string()).unwrap();
    fs::write(dir.join("a\u{1b}[31m\nb.json"), "{}").unwrap();
    fs::write(dir.join(OsStr::from_bytes(b"\xff.json")), "{}").unwrap();
    let fifo = std::process::Command::new("mkfifo")
        .arg(dir.join("fifo.json"))
        .status()
        .unwrap();
    assert!(fifo.success());
    // These are no schedules and nobody's business.
    fs::write(dir.join("README"), "hello").unwrap();
    fs::write(dir.join(".x.json.tmp"), "{").unwrap();
    fs::write(dir.join(".hidden.json"), "{").unwrap();

    let said = host.run(&["list"]).exits(1).is_content();
    assert_eq!(said.stdout.lines().count(), 1 + 10, "{said:?}");
    assert_eq!(said.stdout.matches("unreadable: ").count(), 9, "{said:?}");
    assert!(!said.stdout.contains('\u{1b}'), "{said:?}");
    let json = host.run(&["list", "-o", "json"]).exits(1).json();
    let good: Vec<&Value> = json
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row.get("error").is_none())
        .map(|row| &row["instance_id"])
        .collect();
    assert_eq!(good, [ID]);
}
