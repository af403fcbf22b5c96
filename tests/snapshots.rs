//! `snapshots`: what is in the store, and why.

#![cfg(test)]

use std::fs;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use support::cli::{Host, said};

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";
const OTHER_ID: &str = "mk3w0000000000000000000b";

fn host() -> Host {
    Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"))
}

fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600 + 30)
}

/// Three scheduled snapshots of `web-a`, of which one is too many and one too old, a manual one, and two of others.
fn host_with_snapshots() -> Host {
    let host = host();
    host.run(&[
        "set",
        ID,
        "--interval",
        "1h",
        "--max-count",
        "2",
        "--max-age",
        "1d",
    ])
    .exits(0);
    let web_a = (ID, "web-a");
    host.add_snapshot("s1", web_a, hours(1), true);
    host.add_snapshot("s2", web_a, hours(2), true);
    host.add_snapshot("s3", web_a, hours(3), true);
    host.add_snapshot("s0", web_a, hours(48), false);
    host.add_snapshot("s4", (OTHER_ID, "web-b"), hours(4), true);
    host.add_snapshot("s5", ("gone", ""), hours(5), false);
    host
}

#[test]
fn table_says_why_each_is_kept() {
    let said = host_with_snapshots()
        .run(&["snapshots"])
        .exits(0)
        .is_content();
    assert_eq!(
        said.normalised(),
        "\
ID  NAME  KIND  INSTANCE  CREATED  ON DISK  MADE  STAYS
s5  name-of-s5  Stopped  gone  TIME  SIZE  manually  kept: manual
s0  name-of-s0  Stopped  web-a  TIME  SIZE  manually  kept: manual
s3  name-of-s3  Stopped  web-a  TIME  SIZE  scheduled  goes: number 3, 2 stay
s2  name-of-s2  Stopped  web-a  TIME  SIZE  scheduled  kept: 2 of 2, until TIME
s1  name-of-s1  Stopped  web-a  TIME  SIZE  scheduled  kept: newest
s4  name-of-s4  Stopped  web-b  TIME  SIZE  scheduled  kept: no schedule
"
    );
}

#[test]
fn json_has_the_contracts_fields_and_a_verdict() {
    let host = host_with_snapshots();
    let json = host
        .run(&["snapshots", "web-a", "-o", "json"])
        .exits(0)
        .is_content()
        .json();
    let ids: Vec<&Value> = json
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["id"])
        .collect();
    assert_eq!(ids, ["s0", "s3", "s2", "s1"], "the newest comes last");

    let snapshot = &json[2];
    let created_at: DateTime<Utc> = snapshot["created_at"].as_str().unwrap().parse().unwrap();
    let expires_at: DateTime<Utc> = snapshot["verdict"]["expires_at"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(expires_at, created_at + TimeDelta::days(1));
    assert!(snapshot["created_at"].as_str().unwrap().ends_with('Z'));
    assert!(snapshot["disk_bytes"].as_u64().unwrap() > 0);
    let reason = format!("2 of 2, until {}", expires_at.format("%Y-%m-%dT%H:%M:%SZ"));
    assert_eq!(
        snapshot,
        &json!({
            "id": "s2",
            "name": "name-of-s2",
            "kind": "Stopped",
            "consistency": "stopped",
            "tags": {"hypeman.schedule_instance_id": ID, "hypeman.scheduled": "true"},
            "source_instance_id": ID,
            "source_instance_name": "web-a",
            "source_hypervisor": "qemu",
            "created_at": snapshot["created_at"],
            "size_bytes": 6,
            "disk_bytes": snapshot["disk_bytes"],
            "shared_bytes": snapshot["shared_bytes"],
            "compressed_bytes": null,
            "uncompressed_bytes": null,
            "scheduled": true,
            "verified_at": null,
            "rehearsed_at": null,
            "rehearsed_alive": null,
            "rehearsed_detail": null,
            "usable": true,
            "unusable_reason": null,
            "keep": true,
            "reasons": ["2 of 2", reason[8..]],
            "protected": null,
            "verdict": {
                "keep": true,
                "reason": reason,
                "expires_at": snapshot["verdict"]["expires_at"],
            },
        })
    );
    assert_eq!(
        json[1]["verdict"],
        json!({"keep": false, "reason": "number 3, 2 stay", "expires_at": null})
    );
    assert_eq!(json[0]["scheduled"], false);
    assert_eq!(
        json[0]["verdict"],
        json!({"keep": true, "reason": "manual", "expires_at": null})
    );
}

#[test]
fn what_is_said_to_go_is_what_prune_removes() {
    let host = host_with_snapshots();
    host.run(&["prune"]).exits(0);
    assert_eq!(host.snapshots(), ["s0", "s1", "s2", "s4", "s5"]);
    let json = host.run(&["snapshots", "-o", "json"]).exits(0).json();
    let all = json.as_array().unwrap();
    assert!(all.iter().all(|it| it["verdict"]["keep"] == true), "{json}");
}

#[test]
fn instance_that_left_only_snapshots_behind_is_found() {
    let host = host_with_snapshots();
    host.remove_instance(OTHER_ID);
    for reference in ["web-b", OTHER_ID, "mk3w", "gone"] {
        let json = host
            .run(&["snapshots", reference, "-o", "json"])
            .exits(0)
            .json();
        assert_eq!(json.as_array().unwrap().len(), 1, "{reference}");
    }
    host.run(&["snapshots", "web-c"])
        .exits(3)
        .complains(&["\"web-c\""]);
    host.run(&["snapshots", "mk3"])
        .exits(2)
        .complains(&["ambiguous"]);
}

#[test]
fn newest_of_an_instance_that_is_gone_goes_by_age_once_the_grace_has_passed() {
    let host = host();
    host.run(&["set", ID, "--interval", "1h", "--max-age", "1d"])
        .exits(0);
    host.add_snapshot("s1", (ID, "web-a"), hours(25), true);
    let keep = |more: &[&str]| {
        let args = [&["snapshots", "-o", "json"], more].concat();
        let json = host.run(&args).exits(0).json();
        let mut prune = host.command();
        let pruned = said(prune.args(["prune", "--dry-run", "-o", "json"]).args(more))
            .exits(0)
            .json();
        let keep = json[0]["verdict"]["keep"].clone();
        let is_pruned = pruned["results"][0]["pruned"] == json!(["s1"]);
        assert_eq!(keep, !is_pruned, "{json} {pruned}");
        keep
    };
    assert_eq!(keep(&[]), true);
    host.remove_instance(ID);
    assert_eq!(
        keep(&["--missing-grace", "0s"]),
        true,
        "no run knows it yet"
    );
    host.run(&["run-due", "--force"]).exits(0);
    assert_eq!(host.snapshots(), ["s1"]);
    assert_eq!(keep(&[]), true);
    assert_eq!(keep(&["--missing-grace", "0s"]), false);
    let mut by_variable = host.command();
    by_variable
        .env("HYPEMAN_SNAP_MISSING_GRACE", "0s")
        .arg("prune");
    said(&mut by_variable).exits(0);
    assert_eq!(host.snapshots(), [""; 0]);
    by_variable.env("HYPEMAN_SNAP_MISSING_GRACE", "soon");
    said(&mut by_variable)
        .exits(2)
        .complains(&["HYPEMAN_SNAP_MISSING_GRACE \"soon\""]);
}

#[test]
fn disks_alone_do_not_push_out_the_last_snapshot_with_memory() {
    let host = host();
    host.run(&["set", ID, "--interval", "1h", "--max-count", "1"])
        .exits(0);
    host.add_snapshot("s1", (ID, "web-a"), hours(2), true);
    let directory = host.data_dir().join("snapshots/s1");
    let record = fs::read_to_string(directory.join("snapshot.json")).unwrap();
    fs::write(
        directory.join("snapshot.json"),
        record.replace("\"Stopped\"", "\"Standby\""),
    )
    .unwrap();
    let state = directory.join("guest/snapshots/snapshot-latest");
    fs::create_dir_all(&state).unwrap();
    fs::write(state.join("memory"), "pages").unwrap();
    host.run(&["run-due", "--force"]).exits(0);
    host.run(&["run-due", "--force"]).exits(0);
    assert_eq!(host.snapshots().len(), 2);
    let said = host.run(&["snapshots"]).exits(0);
    assert!(said.stdout.contains("kept: newest Standby\n"), "{said:?}");

    // Without its memory it is worth nothing, but nothing can replace it yet.
    fs::remove_file(state.join("memory")).unwrap();
    host.run(&["run-due", "--force"]).exits(0);
    assert!(host.snapshots().contains(&"s1".to_owned()));
    let said = host.run(&["snapshots"]).exits(0);
    let row = "kept: until a usable one replaces it; unusable: snapshots/snapshot-latest/memory is missing\n";
    assert!(said.stdout.contains(row), "{said:?}");
}

#[test]
fn cut_snapshot_is_no_reason_to_remove_a_good_one_and_goes_when_it_is_replaced() {
    let host = host();
    host.run(&["set", ID, "--interval", "1h", "--max-count", "2"])
        .exits(0);
    for (id, age) in [("s1", 3), ("s2", 2), ("s3", 1)] {
        host.add_snapshot(id, (ID, "web-a"), hours(age), true);
    }
    fs::write(host.data_dir().join("snapshots/s3/guest/overlay.raw"), "").unwrap();
    host.run(&["prune"]).exits(0);
    assert_eq!(host.snapshots(), ["s1", "s2", "s3"]);
    host.run(&["run-due", "--force"]).exits(0);
    let left = host.snapshots();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.contains(&"s2".to_owned()), "{left:?}");
}

#[test]
fn broken_entries_are_reported_and_the_rest_is_listed() {
    let host = host_with_snapshots();
    let store = host.data_dir().join("snapshots");
    fs::create_dir(store.join("no-record")).unwrap();
    fs::create_dir(store.join("bad-record")).unwrap();
    fs::write(store.join("bad-record/snapshot.json"), "{").unwrap();
    let said = host
        .run(&["snapshots"])
        .exits(0)
        .complains(&["no-record", "bad-record"]);
    assert_eq!(said.stdout.lines().count(), 1 + 7, "{said:?}");
    let row = said
        .stdout
        .lines()
        .find(|line| line.starts_with("bad-record"));
    assert!(
        row.is_some_and(|row| row.contains("unusable: its snapshot.json can't be parsed")),
        "{said:?}"
    );
}

#[test]
fn snapshot_whose_disk_was_cut_or_lost_is_not_usable() {
    let host = host();
    host.run(&["set", ID, "--interval", "1h", "--max-count", "2"])
        .exits(0);
    host.run(&["run-due", "--force"]).exits(0);
    let id = host.snapshots().remove(0);
    let guest = host.data_dir().join("snapshots").join(id).join("guest");
    let disk = guest.join("overlay.raw");
    let flaw = || {
        let json = host.run(&["snapshots", "-o", "json"]).exits(0).json();
        assert_eq!(json[0]["usable"], json[0]["unusable_reason"].is_null());
        json[0]["unusable_reason"].clone()
    };
    assert_eq!(flaw(), Value::Null);
    fs::write(&disk, "cut").unwrap();
    assert_eq!(flaw(), "overlay.raw is cut: 3 of 6 bytes");
    fs::remove_file(&disk).unwrap();
    assert_eq!(flaw(), "overlay.raw is missing");
    std::os::unix::fs::symlink("/etc/passwd", &disk).unwrap();
    assert_eq!(flaw(), "overlay.raw is a symlink");
    let said = host.run(&["snapshots"]).exits(0);
    assert!(
        said.stdout
            .contains("; unusable: overlay.raw is a symlink\n"),
        "{said:?}"
    );
}

#[test]
fn snapshot_that_an_older_version_or_hypeman_made_is_usable_while_its_files_are_there() {
    let host = host_with_snapshots();
    let json = host.run(&["snapshots", "-o", "json"]).exits(0).json();
    let all = json.as_array().unwrap();
    assert!(all.iter().all(|it| it["usable"] == true), "{json}");
    fs::remove_file(host.data_dir().join("snapshots/s1/guest/overlay.raw")).unwrap();
    let json = host
        .run(&["snapshots", "web-a", "-o", "json"])
        .exits(0)
        .json();
    assert_eq!(json[3]["unusable_reason"], "there is no disk in it");
}

#[test]
fn unreadable_schedule_keeps_its_snapshots_and_is_reported() {
    let host = host_with_snapshots();
    host.write_schedule(ID, "{");
    let path = host.schedule_path(ID);
    let said = host
        .run(&["snapshots", "-o", "json"])
        .exits(0)
        .complains(&["warning", path.to_str().unwrap()]);
    let json = said.json();
    let all = json.as_array().unwrap();
    assert!(all.iter().all(|it| it["verdict"]["keep"] == true), "{json}");
}

#[test]
fn unreachable_engine_is_an_error() {
    let host = host();
    fs::remove_dir_all(host.data_dir()).unwrap();
    host.run(&["snapshots"])
        .exits(1)
        .complains(&[host.data_dir().to_str().unwrap()]);
}

/// One question, one answer: a directory without metadata may hide the instance, so that its newest snapshot stays.
#[test]
fn what_goes_is_what_prune_would_remove_whatever_is_known_of_the_instance() {
    let metadata = |host: &Host| host.data_dir().join(format!("guests/{ID}/metadata.json"));
    type Change<'a> = &'a dyn Fn(&Host);
    let cases: [(&str, Change<'_>, &[&str]); 4] = [
        ("there", &|_| {}, &["s2", "s3"]),
        (
            "gone",
            &|host| host.remove_instance(ID),
            &["s1", "s2", "s3"],
        ),
        (
            "without metadata",
            &|host| fs::remove_file(metadata(host)).unwrap(),
            &["s2", "s3"],
        ),
        (
            "with damaged metadata",
            &|host| fs::write(metadata(host), "{").unwrap(),
            &["s2", "s3"],
        ),
    ];
    for (name, change, expected) in cases {
        let host = host_with_snapshots();
        let declare = ["set", ID, "--interval", "1h", "--max-age", "1m"];
        host.run(&declare).exits(0);
        // It was missed for long, some time ago.
        let mut schedule = host.schedule(ID);
        schedule["missing_since"] = json!("2020-01-01T00:00:00Z");
        host.write_schedule(ID, schedule.to_string());
        change(&host);
        let listed = host.run(&["snapshots", ID, "-o", "json"]).exits(0).json();
        let goes: Vec<&str> = listed
            .as_array()
            .unwrap()
            .iter()
            .filter(|snapshot| snapshot["verdict"]["keep"] == false)
            .map(|snapshot| snapshot["id"].as_str().unwrap())
            .collect();
        let pruned = host.run(&["prune", ID, "--dry-run", "-o", "json"]).json();
        let mut pruned: Vec<&str> = pruned["results"][0]["pruned"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_str().unwrap())
            .collect();
        pruned.sort_unstable();
        let mut goes = goes;
        goes.sort_unstable();
        assert_eq!(goes, expected, "{name}: snapshots");
        assert_eq!(pruned, expected, "{name}: prune");
    }
}
