//! SIGKILL at every step of a run: whatever system call the tool is killed at, one more `run-due` leaves the VM running,
//! nothing of ours in it, no staging, a consistent store, and exactly one snapshot for that run time.
//!
//! The kill comes from strace's fault injection, so that the tool under test is the one that users get.

#![cfg(test)]

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use support::qemu::GuestOptions;
use support::vm_host::{ID, VmHost};

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");

/// The calls that change something outside the process: files, directories, locks, and what is said to the VMM.
const CALLS: &str = "sendmsg,sendto,fsync,fdatasync,rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat,rmdir,\
                     ftruncate,fchmod,ioctl,copy_file_range,flock";
/// More kills than a run has steps: a tool that talks without end fails the test.
const STEPS_MAX: usize = 600;
/// Snapshots that the schedule keeps, so that deletions are killed too.
const KEPT: usize = 2;

/// Runs `run-due` and kills it at its `step`-th call of [`CALLS`]. Returns whether it got that far.
fn run_and_kill(host: &VmHost, step: usize) -> bool {
    let mut strace = Command::new("strace");
    host.environment(&mut strace);
    let status = strace
        .args(["-f", "-qqq", "-o", "/dev/null", "-e"])
        .arg(format!("trace={CALLS}"))
        .arg("-e")
        .arg(format!("inject={CALLS}:signal=SIGKILL:when={step}"))
        .arg(host.binary())
        .arg("run-due")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    let was_killed = status.signal() == Some(9) || status.code() == Some(137);
    assert!(was_killed || status.success(), "step {step}: {status:?}");
    was_killed
}

/// The names of all snapshots; every one must be whole enough to be listed without a problem.
fn names(host: &VmHost) -> BTreeSet<String> {
    host.snapshots()
        .iter()
        .map(|snapshot| snapshot["name"].as_str().unwrap().to_owned())
        .collect()
}

/// Kills at steps `first`, `first + stride`, … until a run survives.
fn kill_at_every_step(first: usize, stride: usize) {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("SKIPPED: the kill matrix: install strace");
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
    host.schedule(u32::try_from(KEPT).unwrap());
    host.snapshot();
    let clean = host.vm.traces();
    let mut step = first;
    loop {
        assert!(step < STEPS_MAX, "the run does not end");
        let before = names(&host);
        host.make_due();
        let was_killed = run_and_kill(&host, step);

        let output = host.tool(&["run-due"]);
        assert!(output.status.success(), "step {step}: {output:?}");
        assert_eq!(host.vm.traces(), clean, "step {step}: {output:?}");
        assert_eq!(host.journals(), Vec::<String>::new(), "step {step}");
        let after = names(&host);
        let new: Vec<_> = after.difference(&before).collect();
        assert_eq!(
            new.len(),
            1,
            "step {step}: {before:?} → {after:?}: {output:?}"
        );
        let schedule = host.read_schedule();
        assert_eq!(schedule.get("attempt"), None, "step {step}");
        assert!(schedule["last_snapshot_id"].is_string(), "step {step}");
        assert_eq!(schedule["instance_id"], ID);
        // A deletion that was cut short may leave files that are no snapshot any more; `prune` removes them.
        host.tool_ok(&["prune"]);
        let store = host.store_names();
        assert_eq!(store.len(), KEPT, "step {step}: {store:?}");
        if !was_killed {
            break;
        }
        step += stride;
    }
    assert!(step > 40, "only {step} steps: are they really counted?");
    assert_eq!(host.vm.torn_lines(), Vec::<String>::new());
    let newest = host.snapshots().pop().unwrap();
    host.assert_goes_on(newest["id"].as_str().unwrap());
}

#[test]
fn a_kill_at_every_odd_step_is_healed_by_the_next_run() {
    kill_at_every_step(1, 2);
}

#[test]
fn a_kill_at_every_even_step_is_healed_by_the_next_run() {
    kill_at_every_step(2, 2);
}
