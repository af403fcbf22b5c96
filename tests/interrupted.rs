//! SIGTERM ends a run within ten seconds, whatever hooks, servers and locks do, and what a pre-hook did is undone.

#![cfg(test)]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::cli::{Host, now};
use support::fake_hypeman::{FakeHypeman, Fault, KEY};
use support::wait::wait_until;

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";
const OTHER_ID: &str = "mk3w0000000000000000000b";
/// Within it a run ends after a signal.
const LIMIT: Duration = Duration::from_secs(10);
const STUBBORN: &str = "trap \"\" TERM; while :; do sleep 0.1; done";

fn host() -> Host {
    Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"))
}

fn log_of(host: &Host) -> PathBuf {
    host.dir().join("log")
}

fn logged(host: &Host) -> Vec<String> {
    let text = fs::read_to_string(log_of(host)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// A schedule that is due, with these hooks as shell scripts; `LOG` in them is a file.
fn due(host: &Host, id: &str, hooks: &[(&str, &str)]) {
    let log = log_of(host);
    let hooks: serde_json::Map<String, Value> = hooks
        .iter()
        .map(|(stage, script)| {
            let script = script.replace("LOG", log.to_str().unwrap());
            ((*stage).to_owned(), json!(["/bin/sh", "-c", script]))
        })
        .collect();
    let schedule = json!({
        "instance_id": id, "interval": "1h0m0s", "retention": {"max_count": 1},
        "next_run_at": now().to_rfc3339(), "created_at": now().to_rfc3339(),
        "updated_at": now().to_rfc3339(), "hooks": hooks,
    });
    host.write_schedule(id, schedule.to_string());
}

fn start(mut command: Command, args: &[&str]) -> Child {
    command
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Asks the run to stop, and returns the report and what it said.
#[track_caller]
fn ends(run: Child) -> (Option<Value>, String) {
    kill_process(Pid::from_child(&run), Signal::TERM).unwrap();
    let began = Instant::now();
    let output = run.wait_with_output().unwrap();
    assert!(began.elapsed() < LIMIT, "{:?}: {output:?}", began.elapsed());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("interrupted by a signal"), "{said}");
    (serde_json::from_slice(&output.stdout).ok(), said)
}

#[test]
fn hooks_that_do_not_listen_are_ended_in_time_and_nothing_else_is_begun() {
    let host = host();
    due(
        &host,
        ID,
        &[
            ("pre", &format!("echo pre >> LOG; {STUBBORN}")),
            ("post", &format!("echo post >> LOG; {STUBBORN}")),
        ],
    );
    due(&host, OTHER_ID, &[("pre", "echo other >> LOG")]);
    let args = ["-o", "json", "run-due", "--jobs", "1"];
    let run = start(host.std_command(), &args);
    wait_until("the pre-hook", || logged(&host) == ["pre"]);
    let (report, _) = ends(run);
    assert_eq!(logged(&host), ["pre", "post"]);
    let report = report.unwrap();
    let results = report["results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    for result in results {
        assert_eq!(result["outcome"], "interrupted", "{report}");
    }
    // That what the pre-hook did may not be undone is for somebody to see.
    let error = results[0]["error"].as_str().unwrap();
    assert!(error.contains("the post-hook"), "{error}");
    assert!(host.schedule(ID)["attempt"].is_object());
    assert!(host.schedule(OTHER_ID)["attempt"].is_null());
}

#[test]
fn server_that_hangs_is_left_and_the_pre_hook_undone() {
    let host = host();
    let server = FakeHypeman::start();
    server.world().set_state(ID, "Running");
    server
        .world()
        .fail(&format!("POST /instances/{ID}/snapshots"), Fault::Hang);
    due(
        &host,
        ID,
        &[
            ("pre", "echo pre >> LOG"),
            ("post", "echo post $HYPEMAN_SNAP_OUTCOME >> LOG"),
            ("failure", "echo failure >> LOG"),
        ],
    );
    let mut command = host.std_command();
    command
        .env("HYPEMAN_BASE_URL", server.url())
        .env("HYPEMAN_API_KEY", KEY);
    let run = start(command, &["run-due"]);
    wait_until("the request", || !server.world().lines("POST ").is_empty());
    let (_, said) = ends(run);
    assert!(said.contains(ID), "{said}");
    assert_eq!(logged(&host), ["pre", "post interrupted"]);
    let schedule = host.schedule(ID);
    assert!(schedule["attempt"].is_object(), "the next run takes it up");
    assert!(schedule["consecutive_failures"].is_null(), "{schedule}");
}

#[test]
fn monitoring_that_hangs_ends_in_time() {
    let host = host();
    due(&host, ID, &[]);
    // Accepts connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x", silent.local_addr().unwrap());
    let run = start(host.std_command(), &["run-due", "--heartbeat-url", &url]);
    let _connection = silent.accept().unwrap();
    kill_process(Pid::from_child(&run), Signal::TERM).unwrap();
    let began = Instant::now();
    run.wait_with_output().unwrap();
    assert!(began.elapsed() < LIMIT, "{:?}", began.elapsed());
    assert!(host.schedule(ID)["last_snapshot_id"].is_string());
}
