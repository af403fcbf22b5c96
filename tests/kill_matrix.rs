//! SIGKILL at every step of a run: whatever system call the tool is killed at, one more `run-due` leaves the VM running,
//! nothing of ours in it, no staging, a consistent store, and exactly one snapshot for that run time.
//!
//! The kill comes from strace's fault injection, so that the tool under test is the one that users get.

#![cfg(test)]

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use serde_json::json;
use support::qemu::GuestOptions;
use support::skip::skipped;
use support::vm_host::{ID, VmHost};

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");

/// What is said to the VMM.
const TALK: [&str; 1] = ["sendmsg"];
/// What changes files, directories and locks.
const FILES: [&str; 14] = [
    "fsync",
    "fdatasync",
    "rename",
    "renameat2",
    "mkdir",
    "mkdirat",
    "unlink",
    "unlinkat",
    "rmdir",
    "ftruncate",
    "fallocate",
    "fchmod",
    "copy_file_range",
    "flock",
];
/// Up to here every step is killed at. Further on a run only asks QEMU again and again how far it is, and ever fewer of
/// those requests are picked.
const EVERY_STEP: usize = 40;
/// More steps than a run has: a tool that talks without end fails the test.
const STEPS_MAX: usize = 5000;
/// Snapshots that the schedule keeps, so that deletions are killed too.
const KEPT: usize = 2;

/// Runs `run-due` and kills it when it is about to make its `step`-th system call of that name. Returns whether it got
/// that far.
fn run_and_kill(host: &VmHost, call: &str, step: usize) -> bool {
    let mut strace = Command::new("strace");
    host.environment(&mut strace);
    let status = strace
        .args(["-f", "-qqq", "-o", "/dev/null", "-e"])
        .arg(format!("trace={call}"))
        .arg("-e")
        .arg(format!("inject={call}:signal=SIGKILL:when={step}"))
        .arg(host.binary())
        .arg("run-due")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    let was_killed = status.signal() == Some(9) || status.code() == Some(137);
    assert!(was_killed || status.success(), "{call} {step}: {status:?}");
    was_killed
}

/// The names of all snapshots; every one must be whole enough to be listed without a problem.
fn names(host: &VmHost) -> BTreeSet<String> {
    host.snapshots()
        .iter()
        .map(|snapshot| snapshot["name"].as_str().unwrap().to_owned())
        .collect()
}

/// Kills one run at `call`'s `step`-th time and lets the next run put everything right.
fn kill_and_put_right(host: &VmHost, call: &str, step: usize) -> bool {
    let at = format!("killed at {call} {step}");
    let clean = host.vm.traces();
    let before = names(host);
    host.make_due();
    let was_killed = run_and_kill(host, call, step);

    let tick = host.vm.last_tick().unwrap();
    let output = host.tool(&["run-due"]);
    assert!(output.status.success(), "{at}: {output:?}");
    assert_eq!(host.vm.traces(), clean, "{at}: {output:?}");
    host.vm.wait_ticks_beyond(tick);
    assert_eq!(host.journals(), Vec::<String>::new(), "{at}");
    let after = names(host);
    let new = after.difference(&before).count();
    assert_eq!(new, 1, "{at}: {before:?} → {after:?}: {output:?}");
    let schedule = host.read_schedule();
    assert_eq!(schedule.get("attempt"), None, "{at}");
    assert!(schedule["last_snapshot_id"].is_string(), "{at}");
    assert_eq!(schedule["instance_id"], ID);
    // A deletion that was cut short may leave files that are no snapshot any more; `prune` removes them.
    host.tool_ok(&["prune"]);
    let store = host.store_names();
    assert_eq!(store.len(), KEPT, "{at}: {store:?}");
    was_killed
}

fn kill_at_each(calls: &[&str], kills_at_least: usize) {
    if Command::new("strace").arg("-V").output().is_err() {
        skipped("the kill matrix: install strace");
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let host = VmHost::boot(TOOL, parent.path(), |options| {
        options.ram_mib = 64;
        options.disk_mib = 8;
        options.guest = GuestOptions {
            window_mib: 4,
            ..GuestOptions::default()
        };
    });
    // What somebody left on is on again whenever a run was killed.
    let left_on = json!({"capabilities": [{"capability": "x-ignore-shared", "state": true}]});
    host.vm.qmp("migrate-set-capabilities", &left_on);
    host.schedule(u32::try_from(KEPT).unwrap());
    for _ in 0..KEPT {
        host.snapshot();
    }
    let mut kills = 0;
    for call in calls {
        let mut step = 1;
        while kill_and_put_right(&host, call, step) {
            kills += 1;
            step += 1 + step / EVERY_STEP * (step / 10);
            assert!(step < STEPS_MAX, "the run does not end");
        }
    }
    assert!(kills >= kills_at_least, "only {kills} kills");
    assert_eq!(host.vm.torn_lines(), Vec::<String>::new());
    let newest = host.snapshots().pop().unwrap();
    host.assert_goes_on(newest["id"].as_str().unwrap());
}

#[test]
fn a_kill_at_each_word_to_the_vmm_is_put_right_by_the_next_run() {
    kill_at_each(&TALK, 25);
}

#[test]
fn a_kill_at_each_change_of_a_file_is_put_right_by_the_next_run() {
    kill_at_each(&FILES, 40);
}
