//! Single snapshots: taken by hand, protected, and deleted by name.

#![cfg(test)]

use std::fs;
use std::time::Duration;

use fs2::FileExt;
use serde_json::{Value, json};
use support::cli::Host;

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";
const WEB_A: (&str, &str) = (ID, "web-a");
const HOUR: Duration = Duration::from_secs(3600);

/// Three snapshots of a schedule that keeps one, and one by hand.
fn host() -> Host {
    let host = Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"));
    host.run(&["set", "web-a", "--interval", "1h", "--max-count", "1"])
        .exits(0);
    for (id, hours) in [("new", 1), ("old", 2), ("older", 3)] {
        host.add_snapshot(id, WEB_A, hours * HOUR, true);
    }
    host.add_snapshot("manual", WEB_A, HOUR, false);
    host
}

fn of(host: &Host, id: &str) -> Value {
    let all = host.run(&["snapshots", "-o", "json"]).exits(0).json();
    let all = all.as_array().unwrap();
    all.iter().find(|it| it["id"] == id).unwrap().clone()
}

#[test]
fn a_protected_snapshot_outlives_retention_until_that_is_taken_back() {
    let host = host();
    let said = host.run(&["protect", "old", "name-of-manual", "--reason", "before 5.0"]);
    assert_eq!(
        said.exits(0).stdout,
        "protected name-of-old (old)\nprotected name-of-manual (manual)\n"
    );
    let said = host
        .run(&["protect", "old", "--reason", "before 5.0"])
        .exits(0);
    assert_eq!(said.stdout, "unchanged: protected name-of-old (old)\n");
    let old = of(&host, "old");
    assert_eq!(old["protected"]["reason"], "before 5.0");
    assert_eq!(old["keep"], true);
    assert_eq!(old["reasons"], json!(["protected", "number 2, 1 stay"]));
    assert_eq!(of(&host, "new")["protected"], Value::Null);
    let table = host.run(&["snapshots"]).exits(0).stdout;
    assert!(table.contains("kept: protected (before 5.0)\n"), "{table}");
    assert!(
        table.contains("kept: manual, protected (before 5.0)\n"),
        "{table}"
    );

    host.run(&["prune"]).exits(0);
    assert_eq!(host.snapshots(), ["manual", "new", "old"]);
    let said = host
        .run(&["unprotect", "old", "-o", "json"])
        .exits(0)
        .json();
    assert_eq!(
        said,
        json!([{"changed": true, "snapshot_id": "old", "snapshot_name": null, "protected": null}])
    );
    host.run(&["unprotect", "name-of-new"]).exits(0);
    host.run(&["prune"]).exits(0);
    assert_eq!(host.snapshots(), ["manual", "new"]);
}

#[test]
fn a_protection_that_has_ended_protects_nothing_and_goes_with_its_snapshot() {
    let host = host();
    host.run(&["protect", "old", "--until", "2100-01-01T00:00:00Z"])
        .exits(0);
    let table = host.run(&["snapshots", "-o", "json"]).exits(0).json();
    assert!(
        table
            .to_string()
            .contains("protected until 2100-01-01T00:00:00Z")
    );
    let file = host.state_dir().join("protected/old.json");
    let ended = fs::read_to_string(&file).unwrap().replace("2100", "2020");
    fs::write(&file, ended).unwrap();
    host.run(&["prune"]).exits(0);
    assert_eq!(host.snapshots(), ["manual", "new"]);
    assert!(!file.exists());
}

#[test]
fn what_cannot_be_protected_is_named_and_nothing_is() {
    let host = host();
    for (args, code, part) in [
        (&["protect", "nothing"][..], 3, "\"nothing\""),
        (&["protect", "new", "nothing"], 3, "\"nothing\""),
        (&["protect", "ol"], 2, "ambiguous"),
        (
            &["protect", "old", "--until", "2020-01-01"],
            2,
            "--until \"2020-01-01\"",
        ),
        (&["protect", "old", "--reason", ""], 2, "--reason \"\""),
        (&["protect"], 2, "SNAPSHOT"),
        (&["unprotect", "nothing"], 3, "\"nothing\""),
    ] {
        host.run(args).exits(code).complains(&[part]);
    }
    assert!(!host.state_dir().join("protected").exists());
}

#[test]
fn a_protection_that_cannot_be_read_keeps_everything_and_doctor_names_it() {
    let host = host();
    host.run(&["protect", "old"]).exits(0);
    fs::write(host.state_dir().join("protected/old.json"), "{").unwrap();
    host.run(&["prune"])
        .exits(1)
        .complains(&["protected/old.json"]);
    assert_eq!(host.snapshots().len(), 4);
    let said = host.run(&["doctor"]).exits(1).stdout;
    assert!(
        said.contains("until then retention removes nothing"),
        "{said}"
    );
    host.run(&["unprotect", "old"]).exits(1);
}

#[test]
fn a_protection_whose_snapshot_is_gone_stays_and_doctor_names_it() {
    let host = host();
    host.run(&["protect", "old"]).exits(0);
    fs::remove_dir_all(host.data_dir().join("snapshots/old")).unwrap();
    host.run(&["prune"]).exits(0);
    let said = host.run(&["doctor"]).stdout;
    assert!(said.contains("hypeman-snap unprotect old"), "{said}");
    host.run(&["unprotect", "old"]).exits(0);
    let said = host.run(&["doctor"]).stdout;
    assert!(!said.contains("unprotect"), "{said}");
}

#[test]
fn protecting_waits_for_who_deletes_and_deleting_for_who_protects() {
    let host = host();
    host.run(&["protect", "new"]).exits(0);
    let lock = fs::File::open(host.state_dir().join("locks/.protections.lock")).unwrap();
    FileExt::lock_shared(&lock).unwrap();
    host.run(&["protect", "old", "--lock-timeout", "0s"])
        .exits(4);
    FileExt::unlock(&lock).unwrap();
    FileExt::lock_exclusive(&lock).unwrap();
    host.run(&["prune", "--lock-timeout", "0s"]).exits(1);
    assert_eq!(host.snapshots().len(), 4);
}

#[test]
fn a_snapshot_by_hand_belongs_to_no_schedule() {
    let host = host();
    let said = host
        .run(&[
            "snapshot",
            "web-a",
            "--name",
            "before-5-0",
            "--metadata",
            "why=upgrade",
        ])
        .exits(0)
        .stdout;
    assert!(said.starts_with("took before-5-0 (Stopped): "), "{said}");
    let id = said.trim().rsplit(' ').next().unwrap();
    let made = of(&host, id);
    assert_eq!(made["scheduled"], false);
    assert_eq!(made["tags"], json!({"why": "upgrade"}));
    assert_eq!(made["reasons"], json!(["manual"]));
    host.run(&["snapshot", "web-a", "--name", "before-5-0"])
        .exits(2)
        .complains(&["--name \"before-5-0\"", "has a snapshot of that name"]);
    let json = host
        .run(&["snapshot", "web-a", "-o", "json"])
        .exits(0)
        .json();
    assert!(
        json["snapshot_name"]
            .as_str()
            .unwrap()
            .starts_with("manual-20")
    );
    assert_eq!(json["pause_ms"], Value::Null);
    // Another one in the same second.
    host.run(&["snapshot", "web-a"]).exits(0);
    for (args, code, part) in [
        (&["snapshot", "nobody"][..], 3, "\"nobody\""),
        (&["snapshot", "web-a", "--name", "Web"], 2, "--name \"Web\""),
        (&["snapshot", "web-a", "--name", "-a"], 2, "--name \"-a\""),
        (
            &["snapshot", "web-a", "--metadata", "x"],
            2,
            "--metadata \"x\"",
        ),
        (
            &["snapshot", "web-a", "--metadata", "hypeman.scheduled=true"],
            2,
            "set by this tool",
        ),
    ] {
        host.run(args).exits(code).complains(&[part]);
    }
    host.run(&["prune"]).exits(0);
    assert!(host.snapshots().iter().any(|it| it == id));
}

#[test]
fn snapshots_are_deleted_by_name_and_only_when_somebody_means_it() {
    let host = host();
    // There is no terminal to ask on.
    host.run(&["delete-snapshot", "manual"])
        .exits(2)
        .complains(&["--yes"]);
    host.run(&["delete-snapshot", "--yes", "manual", "nothing"])
        .exits(3);
    host.run(&["protect", "old", "--reason", "mine"]).exits(0);
    host.run(&["delete-snapshot", "--yes", "manual", "old"])
        .exits(2)
        .complains(&["old is protected (mine)", "hypeman-snap unprotect old"]);
    assert_eq!(host.snapshots().len(), 4);
    let said = host
        .run(&[
            "delete-snapshot",
            "--yes",
            "manual",
            "name-of-older",
            "older",
        ])
        .exits(0);
    assert_eq!(
        said.stdout,
        "deleted snapshot name-of-manual (manual)\ndeleted snapshot name-of-older (older)\n"
    );
    assert_eq!(host.snapshots(), ["new", "old"]);
    // Somebody reads it.
    let held = fs::File::open(host.data_dir().join("snapshots/new")).unwrap();
    FileExt::try_lock_exclusive(&held).unwrap();
    let said = host
        .run(&["delete-snapshot", "--yes", "new", "-o", "json"])
        .exits(1)
        .complains(&["error: snapshot new: "]);
    assert_eq!(said.json()[0]["changed"], false);
    assert_eq!(host.snapshots(), ["new", "old"]);
}

#[test]
fn a_forced_run_protects_what_it_takes() {
    let host = host();
    host.run(&["run-due", "--force", "--protect", "--instance", "web-a"])
        .exits(0);
    let id = host.schedule(ID)["last_snapshot_id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(of(&host, &id)["protected"]["reason"], Value::Null);
    assert!(of(&host, &id)["protected"].is_object());
    host.run(&["run-due", "--protect"])
        .exits(2)
        .complains(&["--force"]);
}
