//! `--min-free`: what stays free stays free. A snapshot that does not fit removes what retention lets go, and fails where
//! that is not enough, before anything is paused or copied; a dry run says so beforehand.

#![cfg(test)]

use std::fs;
use std::path::Path;

use rustix::fs::statvfs;
use serde_json::{Value, json};
use support::cli::Host;
use support::filesystems::{Kind, Mount};

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");
const ID: &str = "vm-a";
const MIB: u64 = 1 << 20;

/// A host on a file system of 100 MiB, with an instance whose disk takes 20.
fn host(mount: &Mount) -> Host {
    let host = Host::new_in(TOOL, &mount.path());
    host.add_instance(ID, "web");
    let disk = host.data_dir().join("guests").join(ID).join("overlay.raw");
    fs::write(disk, vec![7; 20 << 20]).unwrap();
    host
}

fn free(path: &Path) -> u64 {
    let stat = statvfs(path).unwrap();
    stat.f_bavail * stat.f_frsize
}

fn force(host: &Host, more: &[&str], exits: i32) -> Value {
    let said = host.run(&[&["run-due", "--force", "-o", "json"], more].concat());
    said.exits(exits).json()["results"][0].clone()
}

fn fill(host: &Host, max_count: &str) -> [Value; 2] {
    host.run(&[
        "set",
        ID,
        "--interval",
        "1h",
        "--max-count",
        max_count,
        "--min-free",
        "30%",
    ])
    .exits(0);
    assert_eq!(host.schedule(ID)["min_free"], "30%");
    [(); 2].map(|()| force(host, &[], 0)["snapshot_id"].clone())
}

#[test]
fn what_does_not_fit_removes_what_would_go_behind_it() {
    let Some(mount) = Mount::create(Kind::Tmpfs, 100) else {
        return;
    };
    let host = host(&mount);
    let [first, second] = fill(&host, "2");
    let foreseen = force(&host, &["--dry-run"], 0);
    assert_eq!(foreseen["outcome"], "snapshotted", "{foreseen}");
    assert!(
        foreseen["notes"]
            .to_string()
            .contains("removed first, to make room"),
        "{foreseen}"
    );
    assert_eq!(host.snapshots().len(), 2);

    let third = force(&host, &[], 0);
    assert_eq!(third["outcome"], "snapshotted", "{third}");
    assert_eq!(third["pruned"], json!([first]));
    assert!(third["notes"].to_string().contains("no room"), "{third}");
    assert!(free(&mount.path()) >= 30 * MIB);
    let mut left = [&second, &third["snapshot_id"]].map(|id| id.as_str().unwrap().to_owned());
    left.sort();
    assert_eq!(host.snapshots(), left);
    let store = host.data_dir().join("snapshots");
    for id in left {
        assert!(!store.join(id).join(".needs").exists());
    }
}

#[test]
fn what_fits_nowhere_fails_before_it_begins_and_the_last_one_stays() {
    let Some(mount) = Mount::create(Kind::Tmpfs, 100) else {
        return;
    };
    let host = host(&mount);
    fill(&host, "5");
    let foreseen = force(&host, &["--dry-run"], 1);
    assert_eq!(foreseen["outcome"], "failed", "{foreseen}");
    for _ in 0..2 {
        let failed = force(&host, &[], 1);
        let error = failed["error"].as_str().unwrap();
        assert!(
            error.contains("not enough space") && error.contains("(--min-free 30%)"),
            "{error}"
        );
        assert_eq!(failed["pruned"], json!([]));
        assert_eq!(host.snapshots().len(), 2);
    }
    // The newest one is the last that there would be if the next one failed.
    host.run(&[
        "set",
        ID,
        "--update",
        "--max-count",
        "1",
        "--min-free",
        "50%",
    ])
    .exits(0);
    let failed = force(&host, &[], 1);
    assert_eq!(failed["outcome"], "failed");
    assert_eq!(host.snapshots().len(), 1, "{failed}");
    // Nothing is in its way where less has to stay.
    host.run(&["set", ID, "--update", "--min-free", "0%"])
        .exits(0);
    force(&host, &[], 0);
}

#[test]
fn the_host_has_a_word_of_its_own_and_a_bad_one_is_refused() {
    let Some(mount) = Mount::create(Kind::Tmpfs, 100) else {
        return;
    };
    let host = host(&mount);
    host.run(&["set", ID, "--interval", "1h", "--max-count", "2"])
        .exits(0);
    let with = |value: &str| {
        let mut command = host.command();
        command
            .env("HYPEMAN_SNAP_MIN_FREE", value)
            .args(["run-due", "--force"]);
        support::cli::said(&mut command)
    };
    with("90MiB").exits(1).complains(&["--min-free 90MiB"]);
    with("lots")
        .exits(2)
        .complains(&["HYPEMAN_SNAP_MIN_FREE", "lots", "20GiB"]);
    with("10MiB").exits(0);
    host.run(&[
        "set",
        ID,
        "--interval",
        "1h",
        "--max-count",
        "2",
        "--min-free",
        "100%",
    ])
    .exits(2)
    .complains(&["--min-free \"100%\"", "99%"]);
}
