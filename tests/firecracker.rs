//! A real guest in a real Firecracker, named by `HYPEMAN_SNAP_TEST_FIRECRACKER`, free and jailed: it is snapshotted while
//! it counts, and the snapshot goes on counting in the same VMM.

#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::cli::Host;
use support::fake_vmm::Dialect;
use support::micro_vm::{self, MicroVm};

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");

/// Registers the guest of `vm`, snapshots it while it counts, and gives the snapshot's `guest/` with the ticks before
/// and after.
fn snapshot(host: &Host, vm: &MicroVm) -> (PathBuf, u64, u64) {
    let socket = vm.socket().to_str().unwrap();
    host.run(&[
        "register",
        "vm-a",
        "--hypervisor",
        "firecracker",
        "--socket",
        socket,
    ])
    .exits(0);
    host.run(&["set", "vm-a", "--interval", "1h", "--max-count", "3"])
        .exits(0);
    let before = vm.wait_ticks_beyond(5);
    let said = host.run(&["-o", "json", "run-due", "--force"]).exits(0);
    let result = said.json()["results"][0].clone();
    assert_eq!(result["outcome"], "snapshotted", "{result}");
    let after = vm.wait_ticks_beyond(*vm.ticks().last().unwrap());
    let id = result["snapshot_id"].as_str().unwrap();
    (
        host.data_dir().join("snapshots").join(id).join("guest"),
        before,
        after,
    )
}

/// What a restore needs to know of the VMM is in the manifest of the snapshot whose `guest/` this is.
fn assert_is_described(guest: &Path, vm: &MicroVm) {
    let bytes = fs::read(guest.join("hypeman-snap.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let argv = fs::read_to_string(format!("/proc/{}/cmdline", vm.pid())).unwrap();
    let argv: Vec<&str> = argv.trim_end_matches('\0').split('\0').collect();
    assert_eq!(manifest["vmm"]["argv"], serde_json::json!(argv));
    let config = &manifest["devices"]["config"];
    assert_eq!(config["drives"].as_array().unwrap().len(), 2, "{manifest}");
    let read_only = manifest["read_only_disks"].as_array().unwrap();
    assert_eq!(read_only.len(), 1, "{manifest}");
    assert_eq!(read_only[0]["stamp"]["size_bytes"], 1 << 20, "{manifest}");
}

fn assert_is_ours(file: &Path) {
    let metadata = fs::metadata(file).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o600, "{}", file.display());
    assert_eq!(
        metadata.uid(),
        rustix::process::geteuid().as_raw(),
        "{}",
        file.display()
    );
}

#[test]
fn a_counting_guest_is_snapshotted_and_its_snapshot_goes_on_counting() {
    let Some(binary) = micro_vm::binary(Dialect::Firecracker) else {
        return;
    };
    let host = Host::new(TOOL);
    let (writable, read_only) = (host.dir().join("rw.raw"), host.dir().join("ro.raw"));
    fs::write(&writable, vec![1; 1 << 20]).unwrap();
    fs::write(&read_only, vec![2; 1 << 20]).unwrap();
    let mut vm = MicroVm::boot(Dialect::Firecracker, &binary, &writable, &read_only);
    let (guest, before, after) = snapshot(&host, &vm);
    assert_eq!(
        fs::read(guest.join("disks/0-rw.raw")).unwrap(),
        vec![1; 1 << 20]
    );
    assert!(!guest.join("disks/ro.raw").exists());
    assert_is_described(&guest, &vm);

    vm.stop();
    fs::copy(guest.join("disks/0-rw.raw"), &writable).unwrap();
    let restored = MicroVm::restore(
        Dialect::Firecracker,
        &binary,
        &guest.join("snapshots/snapshot-latest"),
    );
    restored.assert_goes_on_between(before, after);
}

#[test]
fn a_jailed_guest_is_snapshotted_through_its_jail_and_nothing_stays_there() {
    let Some(binary) = micro_vm::binary(Dialect::Firecracker) else {
        return;
    };
    let host = Host::new(TOOL);
    let disk = host.dir().join("disk.raw");
    fs::write(&disk, vec![7; 1 << 20]).unwrap();
    let Some(vm) = MicroVm::boot_jailed(&binary, &disk) else {
        return;
    };
    let names = || {
        let entries = fs::read_dir(vm.dir()).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name())
            .collect::<BTreeSet<_>>()
    };
    let in_jail = names();
    let (guest, before, after) = snapshot(&host, &vm);
    assert_eq!(names(), in_jail);
    let bytes = fs::read(guest.join("hypeman-snap.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&bytes).unwrap();
    let root = manifest["vmm"]["root"].as_str();
    assert_eq!(root, vm.dir().to_str(), "{manifest}");
    let state_dir = guest.join("snapshots/snapshot-latest");
    let copy = guest.join("disks/0-disk.raw");
    for file in [&state_dir.join("memory"), &state_dir.join("state"), &copy] {
        assert_is_ours(file);
    }
    assert_eq!(fs::read(&copy).unwrap(), vec![7; 1 << 20]);

    let restored = MicroVm::restore_jailed(&binary, &copy, &state_dir);
    restored.assert_goes_on_between(before, after);
}

#[test]
fn a_guest_whose_dirty_pages_are_tracked_for_hypeman_is_not_saved() {
    let Some(binary) = micro_vm::binary(Dialect::Firecracker) else {
        return;
    };
    let host = Host::new(TOOL);
    let disk = host.dir().join("disk.raw");
    fs::write(&disk, vec![1; 1 << 20]).unwrap();
    let vm = MicroVm::boot_tracking(&binary, &disk);
    // An instance that hypeman runs is known by its metadata alone.
    host.add_instance("vm-a", "vm-a");
    let dir = host.data_dir().join("guests/vm-a");
    let path = dir.join("metadata.json");
    let mut metadata: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    metadata["HypervisorType"] = "firecracker".into();
    let socket = dir.join("fc.sock");
    fs::hard_link(vm.socket(), &socket).unwrap();
    metadata["SocketPath"] = socket.to_str().unwrap().into();
    metadata["ProgramStartedAt"] = "2026-09-01T08:00:04Z".into();
    fs::write(path, metadata.to_string()).unwrap();
    host.run(&["set", "vm-a", "--interval", "1h", "--max-count", "3"])
        .exits(0);

    host.run(&["run-due", "--force"])
        .exits(1)
        .complains(&["tracks dirty pages", "--engine hypeman"]);
    assert!(host.snapshots().is_empty());
    vm.wait_ticks_beyond(*vm.ticks().last().unwrap());
}
