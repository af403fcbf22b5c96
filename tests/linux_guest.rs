//! The promises that matter most, with the guest that people have: Linux, with a database on ext4 that is written to all
//! the time. It is snapshotted while it writes and comes back; it is shut down, and its disk is clean; its control socket
//! goes, and nothing is made of that.

#![cfg(test)]

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::disk::DiskFormat;
use support::filesystems::{Kind, Mount};
use support::linux_guest::{LinuxGuest, complaints};
use support::qemu::TestVm;
use support::vm_host::{ID, VmHost};
use support::wait::wait_until;

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");

/// Lets the guest hold its database, log, files and RAM against each other, read from the disk.
fn assert_agrees(vm: &TestVm) {
    let checks = || {
        vm.serial()
            .lines()
            .filter(|line| line.starts_with("CHECK"))
            .map(str::to_owned)
            .collect::<Vec<String>>()
    };
    let before = checks().len();
    vm.type_line("check");
    let said = vm.wait_for("the guest's own check", || checks().get(before).cloned());
    assert!(said.starts_with("CHECK ok"), "{said}\n{}", vm.serial());
    vm.wait_next_tick();
    assert_eq!(complaints(&vm.serial()), Vec::<String>::new());
}

/// The digest of every file below `dir`.
fn digests(dir: &Path) -> String {
    let output = Command::new("bash")
        .args([
            "-c",
            "find . -type f -print0 | sort -z | xargs -0 sha256sum",
        ])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn of_kind(host: &VmHost, kind: &str) -> Vec<Value> {
    let mut all = host.snapshots();
    all.retain(|snapshot| snapshot["kind"] == kind);
    all
}

/// The life of one VM whose disk has this format and whose snapshots are below `parent`.
fn assert_lives_through_it_all(parent: &Path, format: DiskFormat) {
    let Some(linux) = LinuxGuest::build() else {
        return;
    };
    let host = VmHost::boot(TOOL, parent, |options| {
        options.linux = Some(linux.clone());
        options.disk_format = format;
    });
    host.schedule(1);
    host.vm.wait_ticks_beyond(50);

    let result = host.snapshot();
    assert_eq!(result["kind"], "Standby", "{result}");
    let standby = result["snapshot_id"].as_str().unwrap();
    assert_agrees(&host.vm);
    assert_standby_comes_back(&host, &linux, standby, format);
    assert_a_missing_socket_is_no_end(&host, standby);
    assert_is_at_rest_once_shut_down(&host, &linux, standby, format);
}

/// Restored by hand, the guest goes on where it was; so does its disk alone.
fn assert_standby_comes_back(host: &VmHost, linux: &LinuxGuest, id: &str, format: DiskFormat) {
    let stored = digests(&host.snapshot_dir(id));
    let disk = &host.disk_copies(id)[0];
    let crashed = linux.assert_survives_a_crash(disk, format);
    assert!(crashed.log >= 50, "{crashed:?}");

    let scratch = tempfile::tempdir().unwrap();
    let restored = host.restore(id, scratch.path());
    let first = restored.wait_ticks_beyond(0);
    assert!(first >= crashed.log, "{first} after {crashed:?}");
    assert_agrees(&restored);
    restored.type_line("poweroff");
    restored.wait_for_end();
    let shut_down = linux.assert_shut_down_cleanly(&restored.disks()[0], format);
    assert!(shut_down.log > first, "{shut_down:?} after {first}");
    assert_eq!(
        stored,
        digests(&host.snapshot_dir(id)),
        "the snapshot changed"
    );
}

/// With its socket gone the guest still runs and writes: a copy of its disk would be torn, and none is made.
fn assert_a_missing_socket_is_no_end(host: &VmHost, standby: &str) {
    let aside = host.vm.socket().with_extension("aside");
    fs::rename(host.vm.socket(), &aside).unwrap();
    let tick = host.vm.wait_next_tick();
    let output = host.tool(&["run-due", "--force", "--instance", ID]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = String::from_utf8(output.stderr).unwrap();
    let pid = host.vm.pid().to_string();
    assert!(told.contains(&pid), "it should name process {pid}: {told}");
    assert_eq!(host.store_names(), [standby]);
    host.vm.wait_ticks_beyond(tick);
    fs::rename(aside, host.vm.socket()).unwrap();
}

/// A shut down guest's disk is whole by itself, and its snapshot is no reason to remove the one with memory.
fn assert_is_at_rest_once_shut_down(
    host: &VmHost,
    linux: &LinuxGuest,
    id: &str,
    format: DiskFormat,
) {
    host.vm.type_line("poweroff");
    host.vm.wait_for_end();
    let result = host.snapshot();
    assert_eq!(result["kind"], "Stopped", "{result}");
    let stopped = result["snapshot_id"].as_str().unwrap();
    let at_rest = linux.assert_shut_down_cleanly(&host.disk_copies(stopped)[0], format);
    assert_eq!(at_rest.database, at_rest.log);
    assert_eq!(
        at_rest,
        linux.assert_shut_down_cleanly(&host.vm.disks()[0], format)
    );
    assert_eq!(of_kind(host, "Stopped").len(), 1);
    let kept = of_kind(host, "Standby");
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0]["id"], id);
}

/// Lost again and again, the VM goes on in place from the snapshot, RAM and database agreeing; shut down then, it is at rest,
/// and its snapshot has no memory.
fn assert_goes_back_in_place(parent: &Path, format: DiskFormat, rounds: usize) {
    let Some(linux) = LinuxGuest::build() else {
        return;
    };
    let host = VmHost::boot(TOOL, parent, |options| {
        options.linux = Some(linux.clone());
        options.disk_format = format;
    });
    host.schedule(3);
    host.vm.wait_ticks_beyond(50);
    let result = host.snapshot();
    let standby = result["snapshot_id"].as_str().unwrap();
    let taken = host.vm.wait_next_tick();
    let lost = host.vm.wait_ticks_beyond(taken + 20);
    host.vm.kill();
    for round in 1..=rounds {
        let json = host.json(&["restore", ID, standby, "--start", "--no-save"]);
        let pid = json["pid"].as_i64().unwrap();
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        let ended = || {
            !Path::new("/proc")
                .join(pid.as_raw_nonzero().to_string())
                .exists()
        };
        let first = host.vm.wait_ticks_beyond(0);
        assert!(first <= lost, "round {round}: it is at {first}");
        assert_agrees(&host.vm);
        if round < rounds {
            kill_process(pid, Signal::KILL).unwrap();
        } else {
            host.vm.type_line("poweroff");
        }
        wait_until("the restored VM to end", ended);
        host.vm.kill();
    }
    let result = host.snapshot();
    assert_eq!(result["kind"], "Stopped", "{result}");
    let stopped = result["snapshot_id"].as_str().unwrap();
    linux.assert_shut_down_cleanly(&host.disk_copies(stopped)[0], format);
}

/// How often a VM is lost: each time takes some seconds.
fn rounds() -> usize {
    let set = std::env::var("HYPEMAN_SNAP_TEST_ROUNDS").ok();
    set.map_or(2, |set| set.parse().unwrap())
}

#[test]
fn a_linux_guest_on_a_raw_disk_goes_back_in_place() {
    let parent = tempfile::tempdir().unwrap();
    assert_goes_back_in_place(parent.path(), DiskFormat::Raw, rounds());
}

#[test]
fn a_linux_guest_on_a_qcow2_disk_with_reflinks_goes_back_in_place() {
    if let Some(xfs) = Mount::create(Kind::Xfs, 1024) {
        assert_goes_back_in_place(&xfs.path(), DiskFormat::Qcow2, rounds());
    }
}

#[test]
fn a_linux_guest_on_a_raw_disk_lives_through_it_all() {
    let parent = tempfile::tempdir().unwrap();
    assert_lives_through_it_all(parent.path(), DiskFormat::Raw);
}

#[test]
fn a_linux_guest_on_a_qcow2_disk_with_reflinks_lives_through_it_all() {
    if let Some(xfs) = Mount::create(Kind::Xfs, 1024) {
        assert_lives_through_it_all(&xfs.path(), DiskFormat::Qcow2);
    }
}
