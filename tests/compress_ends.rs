//! How a compression ends before it is done: at a signal, when the instance is due again, when the snapshot is read, when
//! there is no room, and at SIGKILL. Whatever it is, the snapshot is whole, and what can be done later is.

#![cfg(test)]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::qemu::GuestOptions;
use support::skip::skipped;
use support::started::{Started, ticks};
use support::vm_host::{ID, VmHost};
use support::wait::wait_until;

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");
/// Within it a run ends after a signal.
const LIMIT: Duration = Duration::from_secs(10);

fn has_strace() -> bool {
    let is_there = Command::new("strace").arg("-V").output().is_ok();
    if !is_there {
        skipped("compressions that end before they are done: install strace");
    }
    is_there
}

/// A small VM whose schedule compresses.
fn compressing(place: &Path, window_mib: u32) -> VmHost {
    let host = VmHost::boot(TOOL, place, |options| {
        options.ram_mib = 64 + window_mib;
        options.disk_mib = 8;
        options.guest = GuestOptions {
            window_mib,
            ..GuestOptions::default()
        };
    });
    let compress = ["--max-count", "4", "--compress", "zstd"];
    host.tool_ok(&[&["set", ID, "--interval", "1h"], &compress[..]].concat());
    host.vm.wait_ticks_beyond(50);
    host
}

fn state_dir(host: &VmHost, id: &str) -> PathBuf {
    let guest = host.snapshot_dir(id).join("guest");
    guest.join("snapshots/snapshot-latest")
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let names = entries.map(|it| it.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn marked(host: &VmHost) -> Vec<String> {
    names(&host.state_dir().join("compressing"))
}

fn record(host: &VmHost, id: &str) -> Value {
    let text = fs::read_to_string(host.snapshot_dir(id).join("snapshot.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["snapshot"].clone()
}

/// Every snapshot holds what it was made of.
#[track_caller]
fn all_verified(host: &VmHost, when: &str) {
    verified(host, &[], when);
}

fn verified(host: &VmHost, what: &[&str], when: &str) {
    let output = host.tool(&[&["-o", "json", "verify", "--read"], what].concat());
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{when}: {said}");
}

/// Starts a run that takes its time with each piece of memory that it reads.
fn slow_run(host: &VmHost, arguments: &[&str]) -> Child {
    let mut strace = Command::new("strace");
    host.environment(&mut strace);
    strace
        .args(["-f", "-qqq", "-o", "/dev/null", "-e", "trace=pread64", "-e"])
        .arg("inject=pread64:delay_enter=300000:when=30+")
        .arg(host.binary())
        .args(["-o", "json", "run-due"])
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The tool below strace.
fn tool_of(strace: &Child) -> Pid {
    let id = strace.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    let tool = children.split_whitespace().next().unwrap();
    Pid::from_raw(tool.parse().unwrap()).unwrap()
}

/// Waits until a snapshot is being compressed, and gives its id.
fn being_compressed(host: &VmHost) -> String {
    wait_until("a frame in the making", || {
        marked(host).iter().any(|id| {
            let state = state_dir(host, id);
            names(&state).contains(&"memory.zst.tmp".to_owned())
        })
    });
    marked(host)[0].clone()
}

#[test]
fn a_signal_ends_it_in_time_and_the_next_run_takes_it_up() {
    if !has_strace() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let host = compressing(place.path(), 64);
    host.make_due();
    let run = slow_run(&host, &[]);
    let id = being_compressed(&host);
    assert_eq!(record(&host, &id)["compression_state"], "compressing");
    // It can be read and given back meanwhile, and not deleted.
    all_verified(&host, "while it is compressed");
    let beside = place.path().join("beside");
    host.tool_ok(&["restore", ID, &id, "--to", beside.to_str().unwrap()]);
    assert_eq!(names(&beside.join("snapshots/snapshot-latest")), ["memory"]);
    let deleted = host.tool(&["delete-snapshot", "--yes", &id]);
    assert_eq!(deleted.status.code(), Some(1), "{deleted:?}");
    let said = String::from_utf8(deleted.stderr).unwrap();
    assert!(said.contains("in use"), "{said}");

    kill_process(tool_of(&run), Signal::TERM).unwrap();
    let began = Instant::now();
    let output = run.wait_with_output().unwrap();
    assert!(began.elapsed() < LIMIT, "{:?}", began.elapsed());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("interrupted by a signal"), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    // The snapshot itself is good, and recorded.
    assert_eq!(report["results"][0]["outcome"], "snapshotted", "{report}");
    assert_eq!(host.read_schedule()["last_snapshot_id"], id.as_str());
    assert_eq!(names(&state_dir(&host, &id)), ["memory"]);
    assert_eq!(record(&host, &id)["compression_state"], "none");
    assert_eq!(record(&host, &id).get("compression"), None);
    assert_eq!(marked(&host), Vec::<String>::new());
    all_verified(&host, "after the signal");

    let result = host.snapshot();
    assert_eq!(
        result["compressed"].as_array().unwrap().len(),
        2,
        "{result}"
    );
    assert_eq!(names(&state_dir(&host, &id)), ["memory.zst"]);
    all_verified(&host, "at last");
}

/// A schedule that is due in so long.
fn due_in(host: &VmHost, seconds: i64) {
    let mut schedule = host.read_schedule();
    let at = support::cli::now() + chrono::TimeDelta::seconds(seconds);
    schedule["next_run_at"] = at.to_rfc3339().into();
    fs::write(host.schedule_file(), schedule.to_string()).unwrap();
}

#[test]
fn one_that_is_not_done_when_the_instance_is_due_again_is_given_up_for_good() {
    if !has_strace() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let host = compressing(place.path(), 64);
    due_in(&host, 9);
    let run = slow_run(&host, &["--force"]);
    let output = run.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let result = &report["results"][0];
    let id = result["snapshot_id"].as_str().unwrap();
    let why = "it was not done when the next run was due";
    let notes = result["notes"].to_string();
    assert!(
        notes.contains(&format!("stays uncompressed: {why}")),
        "{report}"
    );
    let given_up = record(&host, id);
    assert_eq!(given_up["compression_state"], "error", "{given_up}");
    assert_eq!(given_up["compression_error"], why);
    assert_eq!(names(&state_dir(&host, id)), ["memory"]);
    assert_eq!(marked(&host), Vec::<String>::new());
    all_verified(&host, "given up");
    let findings = host.tool(&["-o", "json", "doctor"]).stdout;
    let findings: Value = serde_json::from_slice(&findings).unwrap();
    let found = findings.as_array().unwrap().iter();
    let found: Vec<&Value> = found.filter(|it| it["check"] == "compression").collect();
    assert_eq!(found.len(), 1, "{findings}");
    assert_eq!(found[0]["status"], "warning", "{findings}");
    assert!(found[0]["detail"].to_string().contains(why), "{findings}");
    // It is not tried again.
    let result = host.snapshot();
    assert_eq!(
        result["compressed"].as_array().unwrap().len(),
        1,
        "{result}"
    );
    assert_eq!(names(&state_dir(&host, id)), ["memory"]);
}

#[test]
fn a_snapshot_that_is_read_all_the_time_or_does_not_fit_is_compressed_later() {
    let place = tempfile::tempdir().unwrap();
    let host = compressing(place.path(), 4);
    // Taken without compression, so that there is one to read.
    host.tool_ok(&["set", ID, "--update", "--compress", "none"]);
    let first = host.snapshot()["snapshot_id"].as_str().unwrap().to_owned();
    assert_eq!(names(&state_dir(&host, &first)), ["memory"]);
    host.tool_ok(&["set", ID, "--update", "--compress", "lz4"]);
    let reader = File::open(host.snapshot_dir(&first)).unwrap();
    flock(&reader, FlockOperation::LockShared).unwrap();
    due_in(&host, 6);
    let report = host.json(&["run-due", "--force"]);
    let result = &report["results"][0];
    assert_eq!(
        result["compressed"].as_array().unwrap().len(),
        1,
        "{report}"
    );
    let notes = result["notes"].to_string();
    assert!(
        notes.contains("is in use; the next run tries again"),
        "{report}"
    );
    assert_eq!(names(&state_dir(&host, &first)), ["memory"]);
    assert_eq!(record(&host, &first)["compression_state"], "none");
    assert_eq!(marked(&host), Vec::<String>::new());
    drop(reader);
    let result = host.snapshot();
    assert_eq!(
        result["compressed"].as_array().unwrap().len(),
        2,
        "{result}"
    );
    assert_eq!(names(&state_dir(&host, &first)), ["memory.lz4"]);

    // More than three are never looked at.
    host.tool_ok(&["set", ID, "--update", "--compress", "none"]);
    let old = host.snapshot()["snapshot_id"].as_str().unwrap().to_owned();
    for _ in 0..2 {
        host.snapshot();
    }
    host.tool_ok(&["set", ID, "--update", "--compress", "zstd"]);
    let result = host.snapshot();
    assert_eq!(
        result["compressed"].as_array().unwrap().len(),
        3,
        "{result}"
    );
    assert_eq!(names(&state_dir(&host, &old)), ["memory"]);
    all_verified(&host, "at last");
}

/// What changes files and locks while memory is compressed.
const NAMING: [&str; 7] = [
    "fsync",
    "fdatasync",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
];
/// See [`NAMING`].
const FILLING: [&str; 7] = [
    "ftruncate",
    "fchmod",
    "flock",
    "mkdir",
    "openat2",
    "write",
    "pwrite64",
];

/// Everything that the compression of a snapshot touches.
fn touched(host: &VmHost, id: &str) -> Vec<PathBuf> {
    let directory = host.snapshot_dir(id);
    let state = state_dir(host, id);
    vec![
        state.join("memory"),
        state.join("memory.zst"),
        state.join("memory.zst.tmp"),
        state,
        directory.join("snapshot.json"),
        directory.join(".snapshot.json.tmp"),
        directory,
        host.state_dir().join("compressing"),
        host.state_dir().join("compressing").join(id),
    ]
}

/// Runs `run-due` and kills it when it is about to make its `step`-th call of that name on one of these paths. Returns
/// whether it got that far.
fn run_and_kill(host: &VmHost, paths: &[PathBuf], call: &str, step: usize) -> bool {
    let mut strace = Command::new("strace");
    host.environment(&mut strace);
    for path in paths {
        strace.arg("-P").arg(path);
    }
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

fn usable(host: &VmHost) -> BTreeSet<String> {
    let all = host.snapshots();
    let usable = all.iter().filter(|it| it["usable"] == true);
    usable
        .map(|it| it["id"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_kill_where_names_change_leaves_a_snapshot_that_comes_back_and_the_next_run_puts_it_right() {
    kill_at_each(&NAMING);
}

#[test]
fn a_kill_where_files_change_leaves_a_snapshot_that_comes_back_and_the_next_run_puts_it_right() {
    kill_at_each(&FILLING);
}

fn kill_at_each(calls: &[&str]) {
    if !has_strace() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let host = compressing(place.path(), 4);
    let (mut kills, mut without) = (0, Vec::new());
    for call in calls {
        let mut step = 1;
        loop {
            let at = format!("killed at {call} {step}");
            host.tool_ok(&["set", ID, "--update", "--compress", "none"]);
            let raw = host.snapshot()["snapshot_id"].as_str().unwrap().to_owned();
            host.tool_ok(&["set", ID, "--update", "--compress", "zstd"]);
            host.make_due();
            let known = usable(&host);
            let was_killed = run_and_kill(&host, &touched(&host, &raw), call, step);
            // At once, before anybody puts it right, each snapshot is what it was.
            let left = usable(&host);
            assert!(left.contains(&raw) && left.len() >= known.len(), "{at}");
            verified(&host, &[&raw], &at);
            if !was_killed {
                break;
            }
            kills += 1;
            let result = host.snapshot();
            assert_eq!(result["notes"], json!([]), "{at}: {result}");
            assert_eq!(marked(&host), Vec::<String>::new(), "{at}");
            for snapshot in host.snapshots() {
                let id = snapshot["id"].as_str().unwrap();
                assert_eq!(snapshot["usable"], true, "{at}: {snapshot}");
                let found = names(&state_dir(&host, id));
                assert_eq!(found, ["memory.zst"], "{at}: {id}");
                let state = record(&host, id);
                assert_eq!(state["compression_state"], "compressed", "{at}: {state}");
            }
            verified(&host, &[&raw], &at);
            step += 1;
            assert!(step < 60, "{at}: the run does not end");
        }
        if step == 1 {
            without.push(*call);
        }
    }
    all_verified(&host, "at the end");
    assert!(kills >= 8, "only {kills} kills, and none at {without:?}");
    assert_eq!(host.vm.torn_lines(), Vec::<String>::new());
    let newest = host.snapshots().pop().unwrap();
    let taken = host.vm.wait_next_tick();
    host.vm.kill();
    let serial = host.vm.serial_path();
    fs::remove_file(&serial).unwrap();
    let to = place.path().join("back");
    let id = newest["id"].as_str().unwrap();
    let json = host.json(&["restore", ID, id, "--to", to.to_str().unwrap(), "--start"]);
    let started = Started::of(&json);
    wait_until("the restored guest", || {
        ticks(&serial).last().is_some_and(|last| *last > taken + 50)
    });
    assert_eq!(json["restored"], json!(true));
    started.end();
}
