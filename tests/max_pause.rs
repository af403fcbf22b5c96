//! `--max-pause`: what would pause a guest for too long is not begun, and what did all the same is told.

#![cfg(test)]

use std::fs;
use std::time::Duration;

use serde_json::json;
use support::cli::Host;
use support::fake_hypeman::FakeHypeman;
use support::fake_vmm::{Dialect, FakeDisk, FakeVmm, Fault, Guest, Request};
use support::vm_host::VmHost;

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");
const ID: &str = "vm-a";

/// A host with a registered and scheduled guest of a VMM that writes memory in the pause.
fn scene(dialect: Dialect, max_pause: &str) -> (Host, FakeVmm) {
    let host = Host::new(TOOL);
    let disk = host.dir().join("disk.raw");
    fs::write(&disk, "the disk").unwrap();
    let socket = host.dir().join("s");
    let disks = [FakeDisk {
        path: Some(disk),
        is_read_only: false,
    }];
    let fake = FakeVmm::start(dialect, &socket, &disks);
    let hypervisor = match dialect {
        Dialect::CloudHypervisor => "cloud-hypervisor",
        Dialect::Firecracker => "firecracker",
    };
    host.register(ID, hypervisor, &socket);
    host.run(&["set", ID, "--update", "--max-pause", max_pause])
        .exits(0);
    (host, fake)
}

#[test]
fn a_snapshot_that_is_foreseen_to_pause_for_too_long_is_not_begun() {
    for dialect in [Dialect::CloudHypervisor, Dialect::Firecracker] {
        let (host, fake) = scene(dialect, "1ms");
        let said = host.run(&["-o", "json", "run-due", "--force"]).exits(1);
        let result = said.json()["results"][0].clone();
        assert_eq!(result["outcome"], "failed", "{result}");
        said.complains(&["not taken", "--max-pause 1 ms", "a longer --max-pause"]);
        assert!(!fake.requests().contains(&Request::Pause));
        assert_eq!(host.snapshots(), Vec::<String>::new());
        // It is the schedule's own limit.
        host.run(&["snapshot", ID]).exits(0);
        host.run(&["set", ID, "--update", "--max-pause", "0s"])
            .exits(0);
        assert_eq!(host.schedule(ID).get("max_pause"), None);
        host.run(&["run-due", "--force"]).exits(0);
        assert_eq!(fake.guest(), Guest::Running);
    }
}

#[test]
fn a_pause_that_was_longer_all_the_same_is_told_and_stops_no_later_snapshot() {
    let (host, fake) = scene(Dialect::CloudHypervisor, "1s");
    fake.on(Request::Save, Fault::Slow(Duration::from_millis(1100)));
    let run = host.run(&["-o", "json", "run-due", "--force"]).exits(0);
    let warnings = run.json()["warnings"].to_string();
    assert!(
        warnings.contains("longer than --max-pause 1.0 s"),
        "{warnings}"
    );
    let run = host.run(&["-o", "json", "run-due", "--force"]).exits(0);
    assert!(!run.json()["warnings"].to_string().contains("--max-pause"));
}

#[test]
fn doctor_foresees_the_method_and_the_pause_and_names_what_would_shorten_it() {
    let (host, fake) = scene(Dialect::Firecracker, "1s");
    fake.add_config(json!({"machine-config": {"vcpu_count": 1, "mem_size_mib": 2048}}));
    let doctor = host.run(&["-o", "json", "doctor"]);
    let detail = |said: &support::cli::Said| {
        let findings = said.json();
        let findings = findings.as_array().unwrap();
        let found = findings.iter().find(|it| it["subject"] == ID).unwrap();
        found["detail"].as_str().unwrap().to_owned()
    };
    let said = detail(&doctor);
    assert!(
        said.contains("pause it for about 4.8 s (2048 MiB of memory are written and synced in the pause; shorter with"),
        "{said}"
    );
    fake.know_sync_snapshot_files();
    let said = detail(&host.run(&["-o", "json", "doctor"]));
    assert!(
        said.contains("about 1.8 s") && !said.contains("shorter"),
        "{said}"
    );
}

#[test]
fn the_limit_is_checked_shown_and_refused_where_nobody_foresees_anything() {
    let (host, _fake) = scene(Dialect::CloudHypervisor, "1500ms");
    assert_eq!(host.schedule(ID)["max_pause"], "1.5s");
    let shown = host.run(&["get", ID]).exits(0).stdout;
    assert!(shown.contains("max pause"), "{shown}");
    for wrong in ["x", "-1s"] {
        host.run(&["set", ID, "--update", "--max-pause", wrong])
            .exits(2)
            .complains(&["--max-pause", wrong]);
    }
    let server = FakeHypeman::start();
    server.world().set_state(ID, "Running");
    let mut command = host.std_command();
    command
        .env("HYPEMAN_API_KEY", support::fake_hypeman::KEY)
        .args(["--engine", "hypeman", "--base-url", &server.url()])
        .args(["set", ID, "--update", "--max-pause", "1s"]);
    let said = command.output().unwrap();
    let stderr = String::from_utf8(said.stderr).unwrap();
    assert_eq!(said.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("--engine local"), "{stderr}");
}

#[test]
fn what_qemu_refuses_to_save_behind_its_guest_is_foreseen_before_the_pause() {
    let parent = tempfile::tempdir().unwrap();
    let host = VmHost::boot(TOOL, parent.path(), |options| options.file_ram = true);
    host.schedule(5);
    let before = host.vm.traces();
    let limit = |pause: &str| {
        let set = host.tool(&[
            "set",
            support::vm_host::ID,
            "--update",
            "--max-pause",
            pause,
        ]);
        assert!(set.status.success(), "{set:?}");
        host.make_due();
        host.tool(&["run-due"])
    };
    let refused = limit("1ms");
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("private memory"), "{said}");
    assert_eq!(host.vm.pauses_ms(), Vec::<f64>::new());
    assert_eq!(host.vm.traces(), before);
    assert_eq!(host.journals(), Vec::<String>::new());
    let taken = limit("1m");
    assert!(taken.status.success(), "{taken:?}");
    assert_eq!(host.snapshots().len(), 1);
}

#[test]
fn huge_pages_that_can_t_be_put_together_again_are_said_and_no_obstacle() {
    if !rustix::process::geteuid().is_root() {
        support::skip::skipped("a tool without CAP_SYS_NICE: that needs root");
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let host = VmHost::boot(TOOL, parent.path(), |_| {});
    host.schedule(5);
    let weak = |args: &[&str]| {
        let output = std::process::Command::new("setpriv")
            .args(["--bounding-set=-sys_nice", TOOL])
            .arg("--state-dir")
            .arg(host.state_dir())
            .arg("--data-dir")
            .arg(host.data_dir())
            .args(["--engine", "local"])
            .args(args)
            .output()
            .unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).replace('\n', " ")
    };
    host.make_due();
    let said = weak(&["-v", "run-due"]);
    if said.contains("huge pages are off") || said.contains("Linux 6.1") {
        support::skip::skipped("a tool without CAP_SYS_NICE: the host has no huge pages");
        return;
    }
    assert_eq!(said.matches("needs CAP_SYS_NICE").count(), 1, "{said}");
    assert_eq!(host.snapshots().len(), 1, "{said}");
    // The snapshot split them, and doctor knows what would have helped.
    let doctor = weak(&["doctor", "-o", "json"]);
    assert!(
        doctor.contains("in small pages; shorter with CAP_SYS_NICE"),
        "{doctor}"
    );
    host.make_due();
    assert!(!weak(&["run-due"]).contains("CAP_SYS_NICE"));
}
