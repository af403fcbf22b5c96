//! Instances on which another run is at work: skipped by the minute's run, waited for by somebody who asks for one.

#![cfg(test)]

use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::cli::Host;
use support::wait::wait_until;

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";

fn host() -> Host {
    let host = Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"));
    for instance in ["web-a", "web-b"] {
        host.run(&["set", instance, "--interval", "1h", "--max-count", "3"])
            .exits(0);
    }
    host
}

#[test]
fn forced_run_that_another_one_keeps_out_says_so() {
    let host = host();
    let held = host.lock(ID);
    let force = ["run-due", "--force", "--instance", "web-a"];
    let before = host.state();
    host.run(&[&force[..], &["--lock-timeout", "100ms"]].concat())
        .exits(4)
        .complains(&["error: ", ID, "--lock-timeout"]);
    assert_eq!(host.state(), before);
    assert_eq!(host.snapshots(), Vec::<String>::new());

    // The others are served all the same.
    let all = [
        "-o",
        "json",
        "--lock-timeout",
        "100ms",
        "run-due",
        "--force",
    ];
    let said = host.run(&all).exits(4);
    let outcomes: Vec<_> = said.json()["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|result| result["outcome"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(outcomes, ["failed", "snapshotted"]);
    drop(held);
    host.run(&force).exits(0);
}

#[test]
fn forced_run_waits_for_the_one_that_is_at_work() {
    let host = host();
    let held = host.lock(ID);
    let mut command = host.std_command();
    let mut waits = command
        .args(["run-due", "--force", "--instance", "web-a"])
        .spawn()
        .unwrap();
    wait_until_it_wants_the_lock(&host, waits.id());
    assert_eq!(waits.try_wait().unwrap(), None);
    drop(held);
    assert_eq!(waits.wait().unwrap().code(), Some(0));
    assert_eq!(host.snapshots().len(), 1);
}

#[test]
fn wait_for_a_lock_ends_with_a_signal() {
    for args in [
        &["run-due", "--force", "--instance", "web-a"][..],
        &["prune", "web-a"],
    ] {
        let host = host();
        let _held = host.lock(ID);
        let mut command = host.std_command();
        let waits = command
            .args(args)
            .args(["--lock-timeout", "1h"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_until_it_wants_the_lock(&host, waits.id());
        kill_process(Pid::from_child(&waits), Signal::TERM).unwrap();
        let began = Instant::now();
        let output = waits.wait_with_output().unwrap();
        assert!(began.elapsed() < Duration::from_secs(10));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("interrupted by a signal"), "{said}");
    }
}

#[test]
fn minute_that_meets_a_run_at_work_skips_its_instance() {
    let host = host();
    let mut schedule = host.schedule(ID);
    schedule["next_run_at"] = "2026-01-01T00:00:00Z".into();
    schedule["attempt"] = serde_json::json!({
        "run_at": support::cli::now(), "snapshot_name": "scheduled-20260101-000000", "tries": 1,
        "started_at": support::cli::now(),
    });
    host.write_schedule(ID, schedule.to_string());
    let _held = host.lock(ID);
    let said = host.run(&["-o", "json", "run-due"]).exits(0).is_content();
    assert_eq!(said.json()["results"][0]["outcome"], "skipped");
}

#[test]
fn run_that_takes_longer_than_the_interval_is_an_error_for_those_that_it_keeps_out() {
    let host = host();
    let an_hour_ago = support::cli::now() - Duration::from_secs(3700);
    let mut schedule = host.schedule(ID);
    schedule["attempt"] = serde_json::json!({
        "run_at": an_hour_ago, "snapshot_name": "scheduled-20260101-000000", "tries": 1,
        "started_at": an_hour_ago,
    });
    host.write_schedule(ID, schedule.to_string());
    let held = host.lock(ID);
    let process = format!("process {}", std::process::id());
    // Two runs that start at the same time are normal, however long it has been due.
    host.run(&["run-due"]).exits(0).is_content();

    held.set_modified(an_hour_ago.into()).unwrap();
    let said = host.run(&["-o", "json", "run-due"]).exits(1).complains(&[
        "error: ",
        ID,
        &process,
        "longer than its interval of 1h",
    ]);
    assert_eq!(said.json()["results"][0]["outcome"], "failed");
    let said = host.run(&["-o", "json", "check", "web-a"]).exits(1);
    let row = &said.json()["instances"][0];
    assert_eq!(
        (&row["status"], &row["cause"]),
        (&"warning".into(), &"unfinished".into())
    );
    assert!(
        host.schedule(ID)["consecutive_failures"].is_null(),
        "it is not this run's to record"
    );

    // What holds it need not have begun to take a snapshot.
    schedule.as_object_mut().unwrap().remove("attempt");
    schedule["next_run_at"] = an_hour_ago.to_rfc3339().into();
    host.write_schedule(ID, schedule.to_string());
    host.run(&["run-due"]).exits(1).complains(&[ID, &process]);
    drop(held);
    host.run(&["run-due"]).exits(0);
    host.run(&["check"]).exits(0);
}

#[test]
fn vmms_that_hang_keep_no_other_instance_from_being_served() {
    let host = Host::new(env!("CARGO_BIN_EXE_hypeman-snap"));
    let hanging = ["hangs-1", "hangs-2", "hangs-3", "hangs-4"];
    let mut listeners = Vec::new();
    for id in hanging.iter().chain(&["serves"]) {
        host.add_instance(id, id);
        host.run(&["set", id, "--interval", "1h", "--max-count", "3"])
            .exits(0);
        let mut schedule = host.schedule(id);
        schedule["next_run_at"] = support::cli::now().to_rfc3339().into();
        if hanging.contains(id) {
            schedule["consecutive_failures"] = 1.into();
            let socket = host.data_dir().join("guests").join(id).join("qemu.sock");
            // Takes connections and never says a word.
            listeners.push(UnixListener::bind(socket).unwrap());
        }
        host.write_schedule(id, schedule.to_string());
    }
    let mut command = host.std_command();
    let mut run = command
        .args(["run-due", "--jobs", "2"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the snapshot", || {
        host.schedule("serves")["last_snapshot_id"].is_string()
    });
    for id in hanging {
        let schedule = host.schedule(id);
        assert_eq!(schedule["consecutive_failures"], 1, "{id} was waited for");
    }
    kill_process(Pid::from_child(&run), Signal::TERM).unwrap();
    let began = Instant::now();
    assert_eq!(run.wait().unwrap().code(), Some(1));
    assert!(began.elapsed() < Duration::from_secs(10));
    for id in hanging {
        let schedule = host.schedule(id);
        assert_eq!(schedule["consecutive_failures"], 1, "{schedule}");
    }
}

/// Waits until the process has the lock's file open.
fn wait_until_it_wants_the_lock(host: &Host, process: u32) {
    let lock = host.state_dir().join(format!("locks/{ID}.lock"));
    wait_until("the lock is wanted", || {
        std::fs::read_dir(format!("/proc/{process}/fd"))
            .unwrap()
            .filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
            .any(|file| file == lock)
    });
}
