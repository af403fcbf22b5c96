//! The main promise with the guest that people have: Linux, with a database on ext4 that is written to all the time. It is
//! snapshotted while it writes, and comes back whole.

#![cfg(test)]

use std::path::Path;
use std::process::Command;

use support::disk::DiskFormat;
use support::filesystems::{Kind, Mount};
use support::linux_guest::{LinuxGuest, complaints};
use support::qemu::TestVm;
use support::vm_host::VmHost;

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

/// Snapshots a VM whose disk has this format and lies below `parent`, as do its snapshots, and restores it.
fn assert_comes_back_from_a_snapshot(parent: &Path, format: DiskFormat) {
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

#[test]
fn a_linux_guest_on_a_raw_disk_comes_back_from_a_snapshot() {
    let parent = tempfile::tempdir().unwrap();
    assert_comes_back_from_a_snapshot(parent.path(), DiskFormat::Raw);
}

#[test]
fn a_linux_guest_on_a_qcow2_disk_with_reflinks_comes_back_from_a_snapshot() {
    if let Some(xfs) = Mount::create(Kind::Xfs, 1024) {
        assert_comes_back_from_a_snapshot(&xfs.path(), DiskFormat::Qcow2);
    }
}
