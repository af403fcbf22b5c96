//! What goes wrong around a run, on a real VM: signals, hung and dead VMMs, a full disk, two runs at once. The guest
//! goes on, nothing stays behind, and the run says what happened.

#![cfg(test)]

use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::filesystems::{Kind, Mount};
use support::qemu::{GuestOptions, VmOptions};
use support::vm_host::{ID, VmHost};
use support::wait::wait_until;

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");

fn small(options: &mut VmOptions) {
    options.ram_mib = 64;
    options.disk_mib = 8;
    options.guest = GuestOptions {
        window_mib: 4,
        ..GuestOptions::default()
    };
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs `run-due` under strace, which tampers with its `step`-th word to the VMM as `how` says.
fn run_tampered(host: &VmHost, how: &str, step: usize) -> Output {
    let mut strace = Command::new("strace");
    host.environment(&mut strace);
    strace
        .args(["-f", "-qqq", "-o", "/dev/null", "-e", "trace=sendmsg", "-e"])
        .arg(format!("inject=sendmsg:{how}:when={step}"))
        .arg(host.binary())
        .arg("run-due")
        .output()
        .unwrap()
}

fn has_strace() -> bool {
    let has = Command::new("strace").arg("-V").output().is_ok();
    if !has {
        eprintln!("SKIPPED: tests that tamper with system calls: install strace");
    }
    has
}

#[test]
fn sigterm_at_any_word_to_the_vmm_leaves_the_guest_running_and_nothing_behind() {
    if !has_strace() {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let host = VmHost::boot(TOOL, parent.path(), small);
    host.schedule(2);
    host.snapshot();
    let clean = host.vm.traces();
    let mut interrupted = 0;
    for step in 1..40 {
        host.make_due();
        let tick = host.vm.last_tick().unwrap();
        let output = run_tampered(&host, "signal=SIGTERM", step);
        let at = format!("SIGTERM at word {step}: {output:?}");
        assert_eq!(host.vm.traces(), clean, "{at}");
        host.vm.wait_ticks_beyond(tick);
        assert_eq!(host.journals(), Vec::<String>::new(), "{at}");
        let staging = host
            .store_names()
            .into_iter()
            .filter(|name| name.starts_with('.'))
            .count();
        assert_eq!(staging, 0, "{at}");
        match output.status.code() {
            Some(0) => {}
            Some(1) => {
                assert!(stderr(&output).contains("interrupted by a signal"), "{at}");
                let schedule = host.read_schedule();
                assert!(schedule["attempt"].is_object(), "{at}: {schedule}");
                for absent in ["last_error", "retry_at", "consecutive_failures"] {
                    assert!(schedule[absent].is_null(), "{at}: {schedule}");
                }
                interrupted += 1;
            }
            _ => panic!("{at}"),
        }
    }
    assert!(interrupted > 10, "only {interrupted} runs were interrupted");
    host.assert_goes_on(host.snapshots()[0]["id"].as_str().unwrap());
}

#[test]
fn a_vmm_that_dies_in_mid_snapshot_is_reported_and_leaves_nothing_behind() {
    if !has_strace() {
        return;
    }
    for step in [12, 16, 20] {
        let parent = tempfile::tempdir().unwrap();
        let host = VmHost::boot(TOOL, parent.path(), small);
        host.schedule(2);
        host.make_due();
        // The tool waits before that word, long enough for the VMM to be killed.
        let output = std::thread::scope(|scope| {
            let run = scope.spawn(|| run_tampered(&host, "delay_enter=1500000", step));
            wait_until("a journal", || !host.journals().is_empty());
            host.vm.kill();
            run.join().unwrap()
        });
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(stderr(&output).contains(ID), "{output:?}");
        assert_eq!(host.journals(), Vec::<String>::new(), "{output:?}");
        assert_eq!(host.store_names(), Vec::<String>::new(), "{output:?}");
        let schedule = host.read_schedule();
        assert_eq!(schedule["consecutive_failures"], 1);
    }
}

#[test]
fn a_vmm_that_hangs_costs_its_time_out_and_is_named() {
    let parent = tempfile::tempdir().unwrap();
    let host = VmHost::boot(TOOL, parent.path(), small);
    host.schedule(2);
    host.make_due();
    let clean = host.vm.traces();
    let pid = Pid::from_raw(i32::try_from(host.vm.pid()).unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let began = Instant::now();
    let output = host.tool(&["run-due"]);
    let took = began.elapsed();
    kill_process(pid, Signal::CONT).unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains("did not answer"), "{output:?}");
    assert!(took < Duration::from_secs(60), "{took:?}");
    assert_eq!(host.vm.traces(), clean);
    assert_eq!(host.store_names(), Vec::<String>::new());
}

#[test]
fn a_socket_that_a_killed_vmm_left_never_makes_the_instance_gone() {
    let parent = tempfile::tempdir().unwrap();
    let host = VmHost::boot(TOOL, parent.path(), small);
    host.schedule(2);
    let result = host.snapshot();
    host.vm.kill();
    // QEMU's own exit would remove it; a crash does not.
    assert!(host.vm.socket().exists());
    host.make_due();
    let output = host.tool(&["run-due", "--missing-grace", "0s"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let schedule = host.read_schedule();
    assert_eq!(schedule.get("missing_since"), None);
    let snapshots = host.snapshots();
    assert_eq!(snapshots[0]["id"], result["snapshot_id"]);
    assert_eq!(snapshots[1]["kind"], "Stopped");
}

#[test]
fn a_full_disk_is_said_before_the_guest_is_paused_and_frees_itself_by_retention() {
    let Some(tmpfs) = Mount::create(Kind::Tmpfs, 160) else {
        return;
    };
    let host = VmHost::boot(TOOL, &tmpfs.path(), small);
    host.schedule(1);
    let first = host.snapshot();
    fs::write(tmpfs.path().join("ballast"), vec![1; 100 << 20]).unwrap();
    let pauses = host.vm.pauses_ms().len();
    let clean = host.vm.traces();
    host.make_due();
    let output = host.tool(&["run-due"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains("space"), "{output:?}");
    assert_eq!(
        host.vm.pauses_ms().len(),
        pauses,
        "the guest was not paused"
    );
    assert_eq!(host.vm.traces(), clean);
    // The newest good one stays, whatever the disk looks like.
    assert_eq!(host.store_names(), [first["snapshot_id"].as_str().unwrap()]);
    fs::remove_file(tmpfs.path().join("ballast")).unwrap();
    host.snapshot();
    assert_eq!(host.store_names().len(), 1);
}

#[test]
fn runs_that_start_at_the_same_time_take_one_snapshot() {
    let parent = tempfile::tempdir().unwrap();
    let host = VmHost::boot(TOOL, parent.path(), small);
    host.schedule(9);
    host.make_due();
    let runs: Vec<_> = (0..5)
        .map(|_| {
            host.command()
                .arg("run-due")
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for run in runs {
        let output = run.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(stderr(&output), "");
    }
    assert_eq!(host.snapshots().len(), 1);
    assert_eq!(host.vm.pauses_ms().len(), 1);
}

#[test]
fn an_idle_tick_prints_nothing_and_takes_no_lock() {
    let parent = tempfile::tempdir().unwrap();
    let host = VmHost::boot(TOOL, parent.path(), small);
    host.schedule(9);
    let lock = host.state_dir().join(format!("locks/{ID}.lock"));
    let before = fs::metadata(&lock).unwrap().accessed().unwrap();
    let output = host.tool(&["run-due"]);
    assert!(output.status.success());
    assert_eq!((output.stdout, output.stderr), (Vec::new(), Vec::new()));
    assert_eq!(fs::metadata(&lock).unwrap().accessed().unwrap(), before);
}
