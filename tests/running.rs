//! The main promise, on a real QEMU with a real guest that counts in RAM and on its disks: it is snapshotted while it
//! runs, is paused for milliseconds, and the snapshot goes on counting with RAM and disks of one instant.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use serde_json::json;
use support::disk::DiskFormat;
use support::filesystems::{Kind, Mount};
use support::qemu::VmOptions;
use support::vm_host::{ID, VmHost};

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");

/// Takes two snapshots of a running VM on the file system of `parent` and holds each against its promise.
fn assert_snapshots_are_whole(parent: &Path, change: impl FnOnce(&mut VmOptions)) {
    let host = VmHost::boot(TOOL, parent, change);
    host.schedule(5);
    let before = host.vm.traces();
    for _ in 0..2 {
        let last_tick = host.vm.wait_next_tick();
        let result = host.snapshot();
        assert_eq!(result["kind"], "Standby");
        let pause_ms = result["pause_ms"].as_f64().unwrap();
        let measured = host.vm.pauses_ms();
        let own = measured.last().unwrap();
        assert!(
            (pause_ms - own).abs() < 1.0,
            "reported {pause_ms} ms, QEMU's own events say {own} ms"
        );
        host.vm.wait_ticks_beyond(last_tick);
        assert_eq!(host.vm.traces(), before, "nothing stays in the VMM");
        assert_eq!(host.vm.torn_lines(), Vec::<String>::new());
        assert_eq!(host.journals(), Vec::<String>::new());
        host.assert_goes_on(result["snapshot_id"].as_str().unwrap());
    }
    assert_eq!(host.store_names().len(), 2);
}

#[test]
fn a_running_guest_is_snapshotted_where_its_vmm_must_copy_the_disk() {
    let parent = tempfile::tempdir().unwrap();
    assert_snapshots_are_whole(parent.path(), |_| {});
}

#[test]
fn a_running_guest_is_snapshotted_on_xfs_with_reflinks() {
    if let Some(xfs) = Mount::create(Kind::Xfs, 1024) {
        assert_snapshots_are_whole(&xfs.path(), |_| {});
    }
}

#[test]
fn a_running_guest_is_snapshotted_on_btrfs_with_reflinks() {
    if let Some(btrfs) = Mount::create(Kind::Btrfs, 1024) {
        assert_snapshots_are_whole(&btrfs.path(), |_| {});
    }
}

#[test]
fn all_disks_of_a_guest_belong_to_one_instant() {
    let parent = tempfile::tempdir().unwrap();
    assert_snapshots_are_whole(parent.path(), |options| options.disks = 3);
}

#[test]
fn qcow2_disks_are_snapshotted_too() {
    let parent = tempfile::tempdir().unwrap();
    assert_snapshots_are_whole(parent.path(), |options| {
        options.disk_format = DiskFormat::Qcow2;
    });
}

#[test]
fn ram_that_qemu_won_t_protect_is_saved_in_a_longer_pause_and_that_is_said() {
    let parent = tempfile::tempdir().unwrap();
    let host = VmHost::boot(TOOL, parent.path(), |options| options.file_ram = true);
    host.schedule(5);
    let before = host.vm.traces();
    host.make_due();
    let output = host.tool(&["run-due"]);
    assert!(output.status.success(), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("was paused for"), "{stderr}");
    assert_eq!(host.vm.traces(), before);
    let snapshots = host.snapshots();
    host.assert_goes_on(snapshots[0]["id"].as_str().unwrap());
}

#[test]
fn shared_ram_is_snapshotted_too() {
    let parent = tempfile::tempdir().unwrap();
    assert_snapshots_are_whole(parent.path(), |options| options.shared_ram = true);
}

#[test]
fn shared_ram_that_a_snapshot_will_take_up_is_foreseen_and_said() {
    let parent = tempfile::tempdir().unwrap();
    let host = VmHost::boot(TOOL, parent.path(), |options| options.shared_ram = true);
    host.schedule(5);
    let is_warned = |text: &str| text.contains("memory is shared") && text.contains("256 MiB");
    let doctor = host.tool(&["doctor"]);
    let foreseen = String::from_utf8_lossy(&doctor.stdout).replace('\n', " ");
    assert!(is_warned(&foreseen), "{doctor:?}");
    host.make_due();
    let run = host.json(&["run-due"]);
    assert!(is_warned(&run["warnings"].to_string()), "{run}");
    // By now it is taken up, and there is nothing left to foresee.
    host.make_due();
    let run = host.json(&["run-due"]);
    // QEMU has closed what it was given before that is looked at.
    assert!(
        !run["warnings"].to_string().contains("open for writing"),
        "{run}"
    );
    assert!(!is_warned(&run["warnings"].to_string()), "{run}");
    assert_eq!(run["results"][0]["outcome"], "snapshotted", "{run}");
}

#[test]
fn migration_capabilities_that_somebody_left_on_spoil_no_snapshot_and_are_on_again() {
    let parent = tempfile::tempdir().unwrap();
    let host = VmHost::boot(TOOL, parent.path(), |options| options.shared_ram = true);
    host.schedule(5);
    // By which shared memory is left out of what QEMU saves.
    let left_on = json!({"capabilities": [{"capability": "x-ignore-shared", "state": true}]});
    host.vm.qmp("migrate-set-capabilities", &left_on);
    let before = host.vm.traces();
    let result = host.snapshot();
    assert_eq!(host.vm.traces(), before);
    host.assert_goes_on(result["snapshot_id"].as_str().unwrap());
}

#[test]
fn guest_memory_is_readable_by_the_owner_only() {
    let parent = tempfile::tempdir().unwrap();
    let host = VmHost::boot(TOOL, parent.path(), |_| {});
    host.schedule(5);
    let result = host.snapshot();
    let mut directories = vec![host.snapshot_dir(result["snapshot_id"].as_str().unwrap())];
    let mut files = 0;
    while let Some(directory) = directories.pop() {
        let mode = fs::metadata(&directory).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{}", directory.display());
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                directories.push(path);
            } else {
                assert_eq!(metadata.mode() & 0o777, 0o600, "{}", path.display());
                files += 1;
            }
        }
    }
    assert!(files >= 4, "record, metadata, memory and a disk");
}

#[test]
fn a_disk_copy_takes_no_more_space_than_the_disk() {
    let parent = tempfile::tempdir().unwrap();
    let host = VmHost::boot(TOOL, parent.path(), |options| options.disk_mib = 4096);
    host.schedule(5);
    let result = host.snapshot();
    let copy = &host.disk_copies(result["snapshot_id"].as_str().unwrap())[0];
    let copied = fs::metadata(copy).unwrap();
    let source = fs::metadata(&host.vm.disks()[0]).unwrap();
    assert_eq!(copied.len(), source.len());
    assert!(
        copied.blocks() <= source.blocks() + 2048,
        "{} blocks of a copy, {} of the disk",
        copied.blocks(),
        source.blocks()
    );
}

#[test]
fn a_guest_that_somebody_else_paused_stays_paused() {
    let parent = tempfile::tempdir().unwrap();
    let host = VmHost::boot(TOOL, parent.path(), |_| {});
    host.schedule(5);
    host.vm.qmp("stop", &json!({}));
    let before = host.vm.traces();
    host.make_due();
    let output = host.tool(&["run-due"]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains(ID) && stderr.contains("Paused"), "{stderr}");
    assert_eq!(host.vm.traces(), before);
    assert_eq!(host.store_names(), Vec::<String>::new());
}

#[test]
fn the_manifest_tells_what_a_restore_needs_of_the_vmm() {
    let parent = tempfile::tempdir().unwrap();
    let host = VmHost::boot(TOOL, parent.path(), |_| {});
    host.schedule(5);
    let id = host.snapshot()["snapshot_id"].as_str().unwrap().to_owned();
    let path = host.snapshot_dir(&id).join("guest/hypeman-snap.json");
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let process = format!("/proc/{}", host.vm.pid());
    let argv = fs::read_to_string(format!("{process}/cmdline")).unwrap();
    let argv: Vec<&str> = argv.trim_end_matches('\0').split('\0').collect();
    assert_eq!(manifest["vmm"]["argv"], json!(argv));
    let link = |name: &str| fs::read_link(format!("{process}/{name}")).unwrap();
    assert_eq!(manifest["vmm"]["binary"], json!(link("exe")));
    assert_eq!(manifest["vmm"]["directory"], json!(link("cwd")));
    assert_eq!(manifest["vmm"].get("root"), None, "it is the host's own");
    let user = fs::metadata(&process).unwrap().uid();
    assert_eq!(manifest["vmm"]["user"], json!(user));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(manifest["host"]["kernel"], json!(kernel.trim()));
    let disk = &manifest["disks"][0];
    let source = fs::metadata(disk["source"].as_str().unwrap()).unwrap();
    let identity = json!({"device": source.dev(), "inode": source.ino()});
    assert_eq!(disk["identity"], identity);
}
