//! A guest counts as off only when nothing speaks against it: what a socket that is gone proves, and what a snapshot of a
//! guest at rest is worth.

#![cfg(test)]

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use support::cli::Host;
use support::skip::skipped;
use support::vm_host::{ID, VmHost};
use support::wait::wait_until;

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");

fn boot() -> VmHost {
    let host = VmHost::boot(TOOL, &std::env::temp_dir(), |_| {});
    host.schedule(3);
    host
}

/// Ends QEMU as a guest does that is shut down: in its own time, so that the socket goes too.
fn shut_down(host: &VmHost) {
    host.vm.qmp("quit", &json!({}));
    host.vm.wait_for_end();
}

/// Runs `run-due --force`, which must fail for the instance, and gives its error.
fn failure(host: &VmHost) -> String {
    let output = host.tool(&["-o", "json", "run-due", "--force"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report["results"][0]["error"].as_str().unwrap().to_owned()
}

fn kinds(host: &VmHost) -> Vec<String> {
    let snapshots = host.snapshots();
    let kind = |it: &Value| it["kind"].as_str().unwrap().to_owned();
    snapshots.iter().map(kind).collect()
}

#[test]
fn schedule_goes_on_when_the_vm_is_shut_down_without_its_disks_ever_being_named() {
    let host = boot();
    let first = host.snapshot();
    shut_down(&host);
    let second = host.snapshot();
    assert_eq!(kinds(&host), ["Standby", "Stopped"]);
    let copies = host.disk_copies(second["snapshot_id"].as_str().unwrap());
    for (copy, disk) in copies.iter().zip(host.vm.disks()) {
        assert!(
            fs::read(copy).unwrap() == fs::read(disk).unwrap(),
            "{copy:?}"
        );
    }
    host.assert_goes_on(first["snapshot_id"].as_str().unwrap());
}

#[test]
fn disks_outside_the_directories_that_the_host_names_are_refused() {
    let host = VmHost::boot(TOOL, &std::env::temp_dir(), |_| {});
    let register = ["register", ID, "--hypervisor", "qemu", "--socket"];
    let socket = host.vm.socket().to_str().unwrap();
    host.tool_ok(&[&register[..], &[socket]].concat());
    host.tool_ok(&["set", ID, "--interval", "1h", "--max-count", "3"]);
    let disk = host.vm.disks()[0].clone();
    let run = |roots: &str| {
        let mut command = host.command();
        command.env("HYPEMAN_SNAP_DISK_ROOTS", roots);
        command.args(["run-due", "--force"]).output().unwrap()
    };
    let refused = run("/nowhere:/srv/vms");
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    for part in [disk.to_str().unwrap(), "/nowhere, /srv/vms", "--disk"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    let above = format!("/nowhere:{}", disk.parent().unwrap().display());
    assert!(run(&above).status.success());
    // What the admin says of the disk itself, or of this VM's disks, counts more.
    host.tool_ok(&[&register[..], &[socket, "--disk", disk.to_str().unwrap()]].concat());
    assert!(run("/nowhere").status.success());
    host.tool_ok(&[&register[..], &[socket, "--disk-root", "/etc"]].concat());
    assert_eq!(run(&above).status.code(), Some(1));
}

#[test]
fn vm_that_lost_its_socket_is_not_taken_for_stopped() {
    let host = boot();
    fs::remove_file(host.vm.socket()).unwrap();
    let error = failure(&host);
    let pid = host.vm.pid().to_string();
    for part in ["its VMM runs as process", &pid, "qemu", "is gone"] {
        assert!(error.contains(part), "no {part:?} in {error}");
    }
    assert_eq!(kinds(&host), Vec::<String>::new());
}

#[test]
fn vm_that_was_never_met_is_betrayed_by_its_open_disk() {
    let host = boot();
    let disk = host.vm.disks()[0].to_str().unwrap().to_owned();
    let nowhere = host.state_dir().join("typo.sock");
    let typo = ["register", ID, "--hypervisor", "qemu", "--socket"];
    host.tool_ok(&[&typo[..], &[nowhere.to_str().unwrap(), "--disk", &disk]].concat());
    let error = failure(&host);
    let pid = host.vm.pid().to_string();
    for part in [&pid, &disk, "open for writing", "typo.sock"] {
        assert!(error.contains(part), "no {part:?} in {error}");
    }
    shut_down(&host);
    host.snapshot();
    assert_eq!(kinds(&host), ["Stopped"]);
}

#[test]
fn vm_in_a_process_that_is_out_of_sight_is_betrayed_by_its_locks() {
    let host = boot();
    let disk = host.vm.disks()[0].to_str().unwrap().to_owned();
    let nowhere = host.state_dir().join("typo.sock");
    let typo = ["register", ID, "--hypervisor", "qemu", "--socket"];
    host.tool_ok(&[&typo[..], &[nowhere.to_str().unwrap(), "--disk", &disk]].concat());
    // A namespace in which no process but the tool's is seen, as the tool in a container has it.
    let mut command = Command::new("unshare");
    host.environment(&mut command);
    let arguments = ["--pid", "--fork", "--mount-proc", "--", TOOL];
    let output = command
        .args(arguments)
        .args(["run-due", "--force"])
        .output();
    let Ok(output) = output else {
        skipped("a VM out of sight: no unshare");
        return;
    };
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if stderr.starts_with("unshare:") {
        skipped(&format!("a VM out of sight: {stderr}"));
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        stderr.contains("writer's lock") && stderr.contains(&disk),
        "{stderr}"
    );
    assert_eq!(kinds(&host), Vec::<String>::new());
}

#[test]
fn killed_vmm_is_off_although_its_socket_is_left() {
    let host = boot();
    host.vm.kill();
    assert!(host.vm.socket().exists());
    host.snapshot();
    assert_eq!(kinds(&host), ["Stopped"]);
}

fn host_with_disk(content: &[u8]) -> (Host, PathBuf) {
    let host = Host::new(TOOL);
    let disk = host.dir().join("disk.raw");
    fs::write(&disk, content).unwrap();
    (host, disk)
}

fn register(host: &Host, more: &[&str]) {
    let arguments = [
        "register",
        ID,
        "--hypervisor",
        "qemu",
        "--socket",
        "/run/none.sock",
    ];
    host.run(&[&arguments[..], more].concat()).exits(0);
    host.run(&["set", ID, "--interval", "1h", "--max-count", "3"])
        .exits(0);
}

fn writer(disk: &Path) -> File {
    OpenOptions::new().write(true).open(disk).unwrap()
}

#[test]
fn snapshot_that_would_hold_nothing_is_refused() {
    let (host, _) = host_with_disk(b"x");
    register(&host, &["--force"]);
    host.run(&["run-due", "--force"])
        .exits(1)
        .complains(&["no disk of it is known", "--disk"]);
    assert!(host.snapshots().is_empty());
}

#[test]
fn guest_directory_without_any_disk_makes_no_snapshot() {
    let host = Host::new(TOOL);
    host.add_instance(ID, "web-a");
    fs::remove_file(host.data_dir().join("guests").join(ID).join("overlay.raw")).unwrap();
    host.run(&["set", ID, "--interval", "1h", "--max-count", "3"])
        .exits(0);
    host.run(&["run-due", "--force"])
        .exits(1)
        .complains(&["would hold nothing"]);
    assert!(host.snapshots().is_empty());
}

#[test]
fn disk_that_somebody_writes_to_is_not_copied_at_rest() {
    let (host, disk) = host_with_disk(b"x");
    register(&host, &["--disk", disk.to_str().unwrap()]);
    let held = writer(&disk);
    let pid = std::process::id().to_string();
    host.run(&["run-due", "--force"]).exits(1).complains(&[
        &pid,
        disk.to_str().unwrap(),
        "open for writing",
    ]);
    assert!(host.snapshots().is_empty());
    drop(held);
    let reader = File::open(&disk).unwrap();
    host.run(&["run-due", "--force"]).exits(0);
    drop(reader);
    assert_eq!(host.snapshots().len(), 1);
}

#[test]
fn same_holds_for_the_guests_of_hypeman() {
    let host = Host::new(TOOL);
    host.add_instance(ID, "web-a");
    host.run(&["set", ID, "--interval", "1h", "--max-count", "3"])
        .exits(0);
    let disk = host.data_dir().join("guests").join(ID).join("overlay.raw");
    let held = writer(&disk);
    host.run(&["run-due", "--force"])
        .exits(1)
        .complains(&["overlay.raw", "open for writing"]);
    drop(held);
    host.run(&["run-due", "--force"]).exits(0);
    assert_eq!(host.snapshots().len(), 1);
}

#[test]
fn copy_of_a_disk_that_was_opened_meanwhile_is_thrown_away() {
    let (host, disk) = host_with_disk(&vec![7; 400 << 20]);
    register(&host, &["--disk", disk.to_str().unwrap()]);
    let mut run = host.std_command();
    let mut run = run.args(["run-due", "--force"]).spawn().unwrap();
    wait_until("the copy has begun", || {
        let Ok(store) = fs::read_dir(host.data_dir().join("snapshots")) else {
            return false;
        };
        store
            .filter_map(Result::ok)
            .any(|it| it.path().join("guest/disks/0-disk.raw").exists())
    });
    let held = writer(&disk);
    assert_eq!(run.wait().unwrap().code(), Some(1));
    drop(held);
    assert!(host.snapshots().is_empty());
}
