//! `doctor`: what is said of a host that is well and of one that is not, how long that may take, and that nothing is
//! changed by it.

#![cfg(test)]

use std::fs;
use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use chrono::TimeDelta;
use serde_json::{Value, json};
use support::cli::{Host, Said, now, said};
use support::fake_hypeman::{Answer, FakeHypeman, KEY};
use support::fake_vmm::{Dialect, FakeVmm, Guest};

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";
const VM: &str = "vm-run";
/// What depends on the machine that the tests run on.
const OF_THE_MACHINE: [&str; 4] = ["free space", "reflink", "run-due", "clock"];

/// A host with two stopped instances, on which systemd starts `run-due`.
fn host() -> Host {
    // Sockets below /tmp are worth a warning.
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let host = Host::new_in(env!("CARGO_BIN_EXE_hypeman-snap"), parent);
    host.add_instance(ID, "web-a");
    host.add_instance("mk3w0000000000000000000b", "web-b");
    host.run(&["set", ID, "--interval", "1h", "--max-count", "3"])
        .exits(0);
    systemctl(&host, "enabled", "active");
    host
}

/// Puts a `systemctl` that says so on the host's path.
fn systemctl(host: &Host, enabled: &str, active: &str) {
    let path = host.dir().join("systemctl");
    let script = format!(
        "#!/bin/sh\ncase $1 in is-enabled) echo {enabled};; is-active) echo {active};; show) cat \"$0\".show;; esac\n"
    );
    // Written by another process: a program that this one has open for writing, if only in a child that another test
    // is just starting, can't be started.
    let written = std::process::Command::new("sh")
        .args(["-c", "printf %s \"$2\" > \"$1\" && chmod 700 \"$1\"", "sh"])
        .arg(&path)
        .arg(script)
        .status()
        .unwrap();
    assert!(written.success());
}

/// Registers an instance whose VMM listens, or does not, at the path that is returned.
fn register(host: &Host, id: &str) -> PathBuf {
    let socket = host.dir().join(format!("{id}.s"));
    let path = socket.to_str().unwrap();
    host.run(&[
        "register",
        id,
        "--hypervisor",
        "cloud-hypervisor",
        "--socket",
        path,
        "--force",
    ])
    .exits(0);
    socket
}

fn command(host: &Host, args: &[&str]) -> Command {
    let mut command = host.command();
    let path = format!("{}:/usr/bin:/bin", host.dir().display());
    command.env("PATH", path).args(args);
    command
}

fn doctor(host: &Host) -> Said {
    said(&mut command(host, &["doctor", "-o", "json"]))
}

/// The one finding of `check` about `subject`.
#[track_caller]
fn finding(said: &Said, check: &str, subject: &str) -> Value {
    let found: Vec<Value> = said
        .json()
        .as_array()
        .unwrap()
        .iter()
        .filter(|it| it["check"] == check && it["subject"] == subject)
        .cloned()
        .collect();
    assert_eq!(found.len(), 1, "{check} {subject} in {said:?}");
    found.into_iter().next().unwrap()
}

/// Looks whether `finding` says `status` and all of `parts`, in its detail or its remedy.
#[track_caller]
fn assert_says(finding: &Value, status: &str, parts: &[&str]) {
    assert_eq!(finding["status"], status, "{finding}");
    for part in parts {
        assert!(
            finding.to_string().contains(part),
            "no {part:?} in {finding}"
        );
    }
}

/// Everything below `dir`, with whatever tells that it was touched.
fn everything(dir: &Path) -> Vec<(PathBuf, u64, i64, i64, Vec<u8>)> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let metadata = fs::symlink_metadata(&dir).unwrap();
        let (ctime, nanos) = (metadata.ctime(), metadata.ctime_nsec());
        found.push((dir.clone(), metadata.ino(), ctime, nanos, Vec::new()));
        for entry in fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                dirs.push(entry.path());
                continue;
            }
            let content = if metadata.is_file() {
                fs::read(entry.path()).unwrap()
            } else {
                Vec::new()
            };
            let (ctime, nanos) = (metadata.ctime(), metadata.ctime_nsec());
            found.push((entry.path(), metadata.ino(), ctime, nanos, content));
        }
    }
    found.sort();
    found
}

#[test]
fn a_healthy_host_is_told_in_full_and_nothing_is_changed() {
    let host = host();
    let _vmm = FakeVmm::start(Dialect::CloudHypervisor, &register(&host, VM), &[]);
    let before = everything(host.dir());
    let said = doctor(&host).exits(0).is_content();
    assert_eq!(everything(host.dir()), before);

    for check in OF_THE_MACHINE {
        let found = said.json();
        let mut all = found.as_array().unwrap().iter();
        assert!(all.any(|it| it["check"] == check), "no {check} in {said:?}");
    }
    let (state, data) = (host.state_dir(), host.data_dir());
    let (state, data) = (state.to_str().unwrap(), data.to_str().unwrap());
    let owner = match rustix::process::geteuid().as_raw() {
        0 => "root".to_owned(),
        user => format!("user {user}"),
    };
    let mode = |path: &str| {
        let mode = fs::metadata(path).unwrap().mode() & 0o7777;
        format!("mode {mode:04o}, owner {owner}")
    };
    let snapshots = format!("{data}/snapshots");
    let process = std::process::id();
    let expected: Vec<Value> = [
        ("setting", "engine", "local (default)".to_owned()),
        (
            "setting",
            "state directory",
            format!("{state} (HYPEMAN_SNAP_STATE_DIR)"),
        ),
        (
            "setting",
            "data directory",
            format!("{data} (HYPEMAN_SNAP_DATA_DIR)"),
        ),
        ("state directory", state, mode(state)),
        ("data directory", data, mode(data)),
        ("snapshot directory", &snapshots, mode(&snapshots)),
        ("instance", ID, "web-a: Stopped".to_owned()),
        (
            "instance",
            "mk3w0000000000000000000b",
            "web-b: Stopped".to_owned(),
        ),
        (
            "instance",
            VM,
            format!(
                "Running, cloud-hypervisor 54.0.0 answers (process {process}); a snapshot would pause it for about 8 ms (1 \
                 MiB of memory are written in the pause)"
            ),
        ),
        (
            "last run",
            "all schedules",
            "none yet, and none is overdue".to_owned(),
        ),
        ("schedule", "all others", "1 is as it should be".to_owned()),
    ]
    .into_iter()
    .map(|(check, subject, detail)| {
        json!({"check": check, "subject": subject, "status": "ok", "detail": detail, "remedy": null})
    })
    .collect();
    let found: Vec<Value> = said
        .json()
        .as_array()
        .unwrap()
        .iter()
        .filter(|it| !OF_THE_MACHINE.contains(&it["check"].as_str().unwrap()))
        .cloned()
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn a_table_has_a_line_for_each_finding_with_its_remedy() {
    let host = host();
    fs::remove_dir_all(host.data_dir()).unwrap();
    let said = said(&mut command(&host, &["doctor"])).exits(1).is_content();
    let lines: Vec<String> = said.normalised().lines().map(str::to_owned).collect();
    assert_eq!(lines[0], "STATUS  CHECK  SUBJECT  DETAIL");
    let line = format!(
        "broken  data directory  {}  does not exist → mount it, name the right one with --data-dir, or register a VM with `hypeman-snap register`",
        host.data_dir().display()
    );
    assert!(lines.contains(&line), "no {line:?} in {lines:?}");
    assert!(lines.contains(&"ok  setting  engine  local (default)".to_owned()));
    assert!(!host.data_dir().exists());
}

#[test]
fn a_host_that_has_never_been_used_is_not_touched() {
    let host = Host::new(env!("CARGO_BIN_EXE_hypeman-snap"));
    fs::remove_dir_all(host.data_dir()).unwrap();
    let said = doctor(&host).exits(1);
    let state = finding(&said, "state directory", host.state_dir().to_str().unwrap());
    assert_says(&state, "ok", &["does not exist yet"]);
    assert_eq!(fs::read_dir(host.dir()).unwrap().count(), 0);
}

#[test]
fn quiet_tells_only_what_is_not_ok() {
    let host = host();
    drop(UnixListener::bind(register(&host, VM)).unwrap());
    let said = said(&mut command(&host, &["doctor", "--quiet"])).exits(0);
    let mut lines = said.stdout.lines();
    assert!(lines.next().unwrap().starts_with("STATUS"));
    let lines: Vec<&str> = lines.collect();
    assert!(lines.iter().any(|line| line.contains(VM)), "{said:?}");
    assert!(!lines.iter().any(|line| line.starts_with("ok")), "{said:?}");
}

#[test]
fn a_vm_that_is_off_and_has_no_known_disk_is_a_warning() {
    let host = host();
    drop(UnixListener::bind(register(&host, VM)).unwrap());
    let said = doctor(&host).exits(0);
    assert_says(
        &finding(&said, "instance", VM),
        "warning",
        &["Stopped", "no disk of it is known", "--disk"],
    );
    assert_says(&finding(&said, "instance", ID), "ok", &["Stopped"]);
}

#[test]
fn vmms_that_hang_cost_one_time_out_together() {
    let host = host();
    let ids = ["vm-1", "vm-2", "vm-3"];
    // They take connections into their queue, and never answer.
    let _hanging = ids.map(|id| UnixListener::bind(register(&host, id)).unwrap());
    let began = Instant::now();
    let said = doctor(&host).exits(1);
    // One after the other they would take 30 s.
    assert!(began.elapsed() < Duration::from_secs(25), "{said:?}");
    for id in ids {
        let hanging = finding(&said, "instance", id);
        assert_says(&hanging, "broken", &["did not answer", "within 10.0 s"]);
    }
}

#[test]
fn a_guest_that_somebody_paused_is_a_warning() {
    let host = host();
    let vmm = FakeVmm::start(Dialect::CloudHypervisor, &register(&host, VM), &[]);
    vmm.set_guest(Guest::Paused);
    let said = doctor(&host).exits(0);
    assert_says(&finding(&said, "instance", VM), "warning", &["Paused"]);
    assert_eq!(vmm.guest(), Guest::Paused);
}

#[test]
fn a_journal_is_broken_unless_its_run_is_alive() {
    let host = host();
    let vmm = FakeVmm::start(Dialect::CloudHypervisor, &register(&host, VM), &[]);
    let journal = host.state_dir().join("journal");
    fs::create_dir_all(&journal).unwrap();
    let entry = json!({
        "instance_id": VM,
        "snapshot_id": "s1",
        "hypervisor": "cloud-hypervisor",
        "socket": host.dir().join("vm-run.s"),
        "process": null,
        "phase": "pausing",
        "began_at": "2026-11-23T14:00:00Z",
    });
    fs::write(journal.join(format!("{VM}.json")), entry.to_string()).unwrap();
    let said = doctor(&host).exits(1);
    assert_says(
        &finding(&said, "journal", VM),
        "broken",
        &["2026-11-23 14:00:00Z", "may be paused", "--recover-only"],
    );

    let asked = vmm.requests().len();
    let _run = host.lock(VM);
    let said = doctor(&host).exits(0);
    assert_says(&finding(&said, "journal", VM), "ok", &["at this moment"]);
    assert_says(&finding(&said, "instance", VM), "ok", &["at this moment"]);
    assert_eq!(vmm.requests().len(), asked, "the run has its VMM to itself");
}

#[test]
fn schedules_that_nobody_can_or_does_carry_out_are_broken() {
    let host = host();
    let at = |minutes| (now() - TimeDelta::minutes(minutes)).to_rfc3339();
    let schedule = |id: &str, due: i64, more: Value| {
        let mut schedule = json!({
            "instance_id": id,
            "interval": "1h0m0s",
            "retention": {"max_count": 2},
            "next_run_at": at(due),
            "created_at": at(600),
            "updated_at": at(60),
        });
        let fields = schedule.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        host.write_schedule(id, schedule.to_string());
    };
    schedule("due", 1, json!({}));
    schedule(
        "failing",
        -30,
        json!({"last_error": "no room", "consecutive_failures": 3}),
    );
    schedule("gone", -30, json!({"missing_since": at(90)}));
    let said = doctor(&host).exits(0);
    assert_says(
        &finding(&said, "schedule", "failing"),
        "warning",
        &["its last 3 runs failed: no room", "--instance failing"],
    );
    assert_says(
        &finding(&said, "schedule", "gone"),
        "warning",
        &["gone since"],
    );
    assert_says(&finding(&said, "schedule", "all others"), "ok", &["2 are"]);

    host.write_schedule("garbled", "{");
    schedule("late", 20, json!({"last_run_at": at(80)}));
    let said = doctor(&host).exits(1);
    let garbled = finding(&said, "schedule", "garbled");
    assert_says(
        &garbled,
        "broken",
        &["garbled.json", "set the schedule again"],
    );
    assert_says(
        &finding(&said, "schedule", "late"),
        "broken",
        &["overdue since"],
    );
    let last_run = finding(&said, "last run", "all schedules");
    assert_says(&last_run, "broken", &["1 of 6 schedules wait"]);
    let _run = host.lock("late");
    fs::remove_file(host.schedule_path("garbled")).unwrap();
    doctor(&host).exits(0);
}

#[test]
fn the_timer_counts_if_it_runs() {
    let host = host();
    let of_timer = |said: &Said| {
        let all = said.json();
        let all = all.as_array().unwrap();
        let found = all.iter().find(|it| it["check"] == "run-due").unwrap();
        found.clone()
    };
    let found = of_timer(&doctor(&host).exits(0));
    if found["subject"] != "hypeman-snap.timer" {
        // This machine runs the tool from a crontab of its own, which is enough.
        assert_says(&found, "ok", &["a crontab starts it"]);
        return;
    }
    assert_says(&found, "ok", &["enabled and active"]);
    systemctl(&host, "enabled", "inactive");
    assert_says(
        &of_timer(&doctor(&host).exits(1)),
        "broken",
        &["systemctl start"],
    );
    systemctl(&host, "disabled", "inactive");
    assert_says(&of_timer(&doctor(&host).exits(0)), "warning", &["disabled"]);
}

#[test]
fn a_server_is_asked_whether_it_is_well_and_takes_the_key() {
    let host = host();
    let server = FakeHypeman::start();
    server.world().set_state(ID, "Running");
    let api = |args: &[&str]| {
        let mut command = command(&host, args);
        command
            .env("HYPEMAN_BASE_URL", server.url())
            .env("HYPEMAN_API_KEY", KEY);
        let said = said(&mut command);
        assert!(!format!("{said:?}").contains(KEY), "{said:?}");
        said
    };
    let args = ["doctor", "-o", "json"];
    let before = everything(host.dir());
    let said = api(&args).exits(0);
    let engine = finding(&said, "setting", "engine");
    assert_says(&engine, "ok", &["hypeman (HYPEMAN_BASE_URL)"]);
    assert_says(&finding(&said, "server", &server.url()), "ok", &["is well"]);
    let key = finding(&said, "API key", "HYPEMAN_API_KEY");
    assert_says(&key, "ok", &["accepts it and shows 1 instance"]);

    let refusal = Answer::error(401, "Unauthorized", "invalid token");
    server.world().fail("GET /instances", refusal);
    let said = api(&args).exits(1);
    assert_says(&finding(&said, "server", &server.url()), "ok", &[]);
    let key = finding(&said, "API key", "HYPEMAN_API_KEY");
    assert_says(&key, "broken", &["401", "cli.yaml"]);
    assert_eq!(everything(host.dir()), before);
    let asked = server.world().lines("");
    assert!(
        asked.iter().all(|line| line.starts_with("GET ")),
        "{asked:?}"
    );
}

#[test]
fn a_wrong_address_is_told_as_such_and_not_as_a_wrong_key() {
    let host = host();
    let server = FakeHypeman::start();
    let url = server.url();
    let doctor = || {
        let mut command = command(&host, &["doctor", "-o", "json", "--base-url", &url]);
        said(command.env("HYPEMAN_API_KEY", KEY)).exits(1)
    };
    // Another service, whose health is its own affair.
    for body in ["{\"status\":\"UP\"}", "{}", "\"ok\"", "ok"] {
        let answer = Answer::text(200, "application/json", body);
        server.world().fail("GET /health", answer);
        let said = doctor();
        assert_says(
            &finding(&said, "server", &url),
            "broken",
            &["not the hypeman API's", "correct --base-url"],
        );
        let key = finding(&said, "API key", "HYPEMAN_API_KEY");
        assert_says(&key, "warning", &["not tried"]);
    }
    // One that looks well, and one with a proxy before it that knows another path.
    for answer in [
        Answer::text(404, "text/plain", "404 page not found\n"),
        Answer::text(200, "text/html", "<html>"),
        Answer::text(302, "", "").with("Location", "/login"),
        Answer::text(200, "application/json", "{\"items\":[]}"),
    ] {
        server.world().fail("GET /instances", answer);
        let key = finding(&doctor(), "API key", "HYPEMAN_API_KEY");
        assert_says(&key, "broken", &["correct --base-url"]);
        assert!(!key["remedy"].to_string().contains("valid key"), "{key}");
    }
    for (status, code) in [(401, "Unauthorized"), (403, "Forbidden")] {
        let refusal = Answer::error(status, code, "no");
        server.world().fail("GET /instances", refusal);
        let key = finding(&doctor(), "API key", "HYPEMAN_API_KEY");
        assert_says(&key, "broken", &["valid key"]);
    }
}

#[test]
fn a_server_that_is_not_there_is_broken() {
    let host = host();
    // Nobody listens at a port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("http://{free}");
    let mut command = command(&host, &["doctor", "-o", "json", "--base-url", &url]);
    let said = said(command.env("HYPEMAN_API_KEY", KEY)).exits(1);
    let server = finding(&said, "server", &url);
    assert_says(&server, "broken", &["Connection refused", "--base-url"]);
    let key = finding(&said, "API key", "HYPEMAN_API_KEY");
    assert_says(&key, "warning", &["not tried"]);
    assert!(!format!("{said:?}").contains(KEY), "{said:?}");
}

#[test]
fn guest_directories_that_others_can_write_are_named() {
    let host = host();
    let findings = |host: &Host| {
        let all = host.run(&["-o", "json", "doctor"]).exits(0).json();
        let mut all = all.as_array().unwrap().clone();
        all.retain(|it| it["check"] == "guest directory");
        all
    };
    assert_eq!(findings(&host), Vec::<Value>::new());
    let guest = host.data_dir().join("guests").join(ID);
    for (path, mode) in [
        (guest.clone(), 0o775),
        (guest.clone(), 0o1757),
        (guest.join("metadata.json"), 0o666),
    ] {
        let before = fs::metadata(&path).unwrap().permissions();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let found = findings(&host);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0]["status"], "warning");
        assert_eq!(found[0]["subject"], json!(path));
        assert_eq!(found[0]["remedy"], format!("chmod go-w {}", path.display()));
        fs::set_permissions(&path, before).unwrap();
    }
    assert_eq!(findings(&host), Vec::<Value>::new());
}

#[test]
fn what_the_services_sandbox_takes_away_is_broken() {
    let host = host();
    let (state, data) = (host.state_dir(), host.data_dir());
    let metrics = host.dir().join("metrics");
    let show = |more: &str| {
        let text = format!("LoadState=loaded\nProtectSystem=strict\nPrivateTmp=yes\n{more}\n");
        fs::write(host.dir().join("systemctl.show"), text).unwrap();
    };
    let hook = "/tmp/hook-of-nobody";
    host.run(&[
        "set",
        ID,
        "--interval",
        "1h",
        "--max-count",
        "3",
        "--pre-hook",
        hook,
    ])
    .exits(0);
    let examined = |code| {
        let file = metrics.join("x.prom");
        let mut command = command(&host, &["doctor", "-o", "json"]);
        said(command.env("HYPEMAN_SNAP_METRICS_FILE", file)).exits(code)
    };
    let socket = "/tmp/vm-of-nobody.qmp";
    host.run(&[
        "register",
        "vm-1",
        "--hypervisor",
        "qemu",
        "--socket",
        socket,
        "--force",
    ])
    .exits(0);
    show(&format!("ReadWritePaths=-{}", data.display()));
    let said = examined(1);
    assert_says(
        &finding(&said, "service", socket),
        "broken",
        &["PrivateTmp=yes", "does not see this socket of vm-1"],
    );
    for path in [&state, &metrics] {
        let remedy = format!("ReadWritePaths={}", path.display());
        assert_says(
            &finding(&said, "service", path.to_str().unwrap()),
            "broken",
            &["ProtectSystem=strict", &remedy, "systemctl edit"],
        );
    }
    assert_says(
        &finding(&said, "service", hook),
        "broken",
        &["PrivateTmp=yes", "does not see this hook"],
    );
    show(&format!("ReadWritePaths={} /tmp", host.dir().display()));
    assert!(!examined(0).stdout.contains("\"service\""));
}
