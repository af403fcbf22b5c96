//! The snapshot store beside a sloppy or hostile neighbour: what is in it and is no snapshot of the tool's is neither
//! counted nor removed, and nothing is followed out of it.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use support::cli::Host;

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";
const OTHER_ID: &str = "mk3w0000000000000000000b";

/// A host whose `web-a` keeps one snapshot and has two, `s2` being the newer one.
fn host() -> Host {
    let host = Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"));
    host.run(&["set", ID, "--interval", "1h", "--max-count", "1"])
        .exits(0);
    for (id, hours) in [("s1", 2), ("s2", 1)] {
        let age = Duration::from_secs(hours * 3600 - 60);
        host.add_snapshot(id, (ID, "web-a"), age, true);
    }
    host
}

fn snapshot(host: &Host, id: &str) -> PathBuf {
    host.data_dir().join("snapshots").join(id)
}

/// What `snapshots` says of one.
fn row(host: &Host, id: &str) -> Option<Value> {
    let json = host.run(&["snapshots", "-o", "json"]).exits(0).json();
    let rows = json.as_array().unwrap().clone();
    rows.into_iter().find(|row| row["id"] == id)
}

/// Gives a snapshot's record other values.
fn change(host: &Host, id: &str, change: impl Fn(&mut Value)) {
    let path = snapshot(host, id).join("snapshot.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut record);
    fs::write(path, record.to_string()).unwrap();
}

#[test]
fn snapshot_behind_a_symlink_is_named_and_neither_counted_nor_removed() {
    let host = host();
    let elsewhere = host.dir().join("elsewhere");
    fs::rename(snapshot(&host, "s2"), &elsewhere).unwrap();
    symlink(&elsewhere, snapshot(&host, "s2")).unwrap();
    host.run(&["prune"])
        .exits(0)
        .complains(&["s2 is a symlink"]);
    assert!(snapshot(&host, "s1").is_dir(), "it is the newest one now");
    assert!(elsewhere.join("guest/overlay.raw").is_file());
    assert_eq!(row(&host, "s2"), None);
    let doctor = host.run(&["doctor"]);
    assert!(doctor.stdout.contains("s2 is a symlink"), "{doctor:?}");

    // Nothing that the schedule made is left then, whatever the link leads to.
    fs::remove_dir_all(snapshot(&host, "s1")).unwrap();
    let mut schedule = host.schedule(ID);
    schedule["last_run_at"] = json!("2026-11-01T00:00:00Z");
    schedule["last_snapshot_id"] = json!("s2");
    host.write_schedule(ID, schedule.to_string());
    let check = host.run(&["check"]).exits(2);
    assert!(check.stdout.contains("no snapshot is left"), "{check:?}");
}

#[test]
fn unusable_snapshot_is_removed_without_following_its_symlinks() {
    let host = host();
    let precious = host.dir().join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("overlay.raw"), "precious").unwrap();
    let guest = snapshot(&host, "s1").join("guest");
    fs::remove_dir_all(&guest).unwrap();
    symlink(&precious, &guest).unwrap();
    let row = row(&host, "s1").unwrap();
    assert_eq!(row["unusable_reason"], "guest is not a directory");
    assert_eq!(row["verdict"]["keep"], false);
    host.run(&["prune"]).exits(0);
    assert_eq!(host.snapshots(), ["s2"]);
    assert!(precious.join("overlay.raw").is_file());

    let disk = snapshot(&host, "s2").join("guest/overlay.raw");
    fs::remove_file(&disk).unwrap();
    symlink(precious.join("overlay.raw"), &disk).unwrap();
    host.run(&["check"]).exits(2);
    host.run(&["run-due", "--force"]).exits(0);
    assert!(!snapshot(&host, "s2").exists(), "a new one replaces it");
    assert!(precious.join("overlay.raw").is_file());
    host.run(&["check"]).exits(0);
}

#[test]
fn record_that_claims_to_be_anothers_takes_no_place_among_the_others() {
    let host = host();
    host.run(&["set", OTHER_ID, "--interval", "1h", "--max-count", "1"])
        .exits(0);
    host.add_snapshot("b1", (OTHER_ID, "web-b"), Duration::from_secs(1800), true);
    // The newest one of `web-b`, by its record; what is in it is `web-a`'s.
    host.add_snapshot("b2", (OTHER_ID, "web-b"), Duration::from_secs(60), true);
    change(&host, "b2", |record| {
        record["stored_metadata"]["Id"] = json!(ID);
    });
    // And one whose directory is called otherwise.
    host.add_snapshot("b3", (OTHER_ID, "web-b"), Duration::from_secs(30), true);
    change(&host, "b3", |record| {
        record["snapshot"]["id"] = json!("b1");
    });
    host.run(&["prune"]).exits(0);
    assert_eq!(host.snapshots(), ["b1", "b2", "b3", "s2"]);
    for (id, says) in [
        ("b2", "names two instances"),
        ("b3", "of another snapshot, b1"),
    ] {
        let row = row(&host, id).unwrap();
        let reason = row["unusable_reason"].as_str().unwrap();
        assert!(reason.contains(says), "{reason}");
        assert_eq!(row["scheduled"], false);
    }
}

#[test]
fn manifest_that_leads_elsewhere_makes_its_snapshot_unusable() {
    let host = host();
    let manifest = snapshot(&host, "s2").join("guest/hypeman-snap.json");
    for path in ["../../../../etc/passwd", "/etc/passwd", "disks/../../x"] {
        let entry = json!({"path": path, "size_bytes": 1});
        let content = json!({"version": 2, "disks": [], "files": [entry]});
        fs::write(&manifest, content.to_string()).unwrap();
        let row = row(&host, "s2").unwrap();
        let reason = row["unusable_reason"].as_str().unwrap();
        assert!(reason.contains("not a plain path"), "{reason}");
    }
    // The older one is the newest usable one now.
    host.run(&["prune"]).exits(0);
    assert_eq!(host.snapshots(), ["s1", "s2"]);
}

#[test]
fn what_other_programs_keep_in_the_store_is_left_alone() {
    let host = host();
    let store = host.data_dir().join("snapshots");
    fs::create_dir_all(store.join("in-the-making/guest")).unwrap();
    fs::create_dir(store.join(".cache")).unwrap();
    fs::create_dir(store.join("lost+found")).unwrap();
    fs::write(store.join("README"), "x").unwrap();
    host.run(&["prune"])
        .exits(0)
        .complains(&["in-the-making has no snapshot.json"]);
    for name in ["in-the-making", ".cache", "lost+found", "README"] {
        assert!(store.join(name).exists(), "{name}");
    }
    assert_eq!(host.snapshots(), ["s2"]);
}
