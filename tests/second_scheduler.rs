//! Two schedulers for one VM: hypeman's own schedule beside this tool's is told, and one directory for both is refused.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;
use support::cli::{Host, said};

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";

fn host() -> Host {
    Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"))
}

#[test]
fn hypemans_own_schedule_is_told_by_set_and_by_each_run() {
    let host = host();
    let directory = host.data_dir().join("snapshot-schedules");
    fs::create_dir(&directory).unwrap();
    let schedule = json!({"instance_id": ID, "interval": "24h0m0s", "retention": {"max_count": 1}});
    fs::write(directory.join(format!("{ID}.json")), schedule.to_string()).unwrap();
    let warning = ["warning: ", ID, "every 24h0m0s", "two schedulers"];
    let set = ["--interval", "1h", "--max-count", "3"];
    host.run(&[&["set", "web-a"], &set[..]].concat())
        .exits(0)
        .complains(&warning);
    host.run(&[&["set", "web-b"], &set[..]].concat())
        .exits(0)
        .is_content();
    let force = ["-o", "json", "run-due", "--force"];
    let said = host.run(&force).exits(0).complains(&warning);
    let warnings = said.json()["warnings"].clone();
    assert_eq!(warnings.as_array().unwrap().len(), 1, "{warnings}");
    host.run(&["run-due"]).exits(0).is_content();
}

#[test]
fn one_directory_for_state_and_data_is_refused() {
    let host = host();
    let link = host.dir().join("link");
    symlink(host.data_dir(), &link).unwrap();
    let through_a_link = link.join("../data");
    let before = host.state();
    for state_dir in [&host.data_dir(), &link, &through_a_link] {
        for args in [
            &["set", "web-a", "--interval", "1h", "--max-count", "3"][..],
            &["list"],
            &["run-due"],
        ] {
            refused(&host, state_dir, args);
        }
    }
    assert_eq!(host.state(), before);
    assert!(!host.data_dir().join("snapshot-schedules").exists());

    // Not the same directory, but the same schedules.
    fs::create_dir(host.data_dir().join("snapshot-schedules")).unwrap();
    fs::create_dir(host.state_dir()).unwrap();
    symlink(
        host.data_dir().join("snapshot-schedules"),
        host.state_dir().join("snapshot-schedules"),
    )
    .unwrap();
    refused(&host, &host.state_dir(), &["list"]);
}

#[track_caller]
fn refused(host: &Host, state_dir: &Path, args: &[&str]) {
    let mut command = host.command();
    command.env_remove("HYPEMAN_SNAP_STATE_DIR");
    command.arg("--state-dir").arg(state_dir).args(args);
    said(&mut command)
        .exits(2)
        .complains(&["--state-dir", "must not be the data directory"]);
}
