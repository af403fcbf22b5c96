//! A real guest in a real Firecracker, named by `HYPEMAN_SNAP_TEST_FIRECRACKER`, free and jailed: it is snapshotted while
//! it counts, and the snapshot goes on counting in the same VMM.

#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::cli::Host;
use support::fake_vmm::Dialect;
use support::micro_vm::{self, MicroVm};
use support::started::Started;
use support::wait::wait_until;

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
    // The guest uses little of its memory, and what it does not use takes no room.
    let memory = guest.join("snapshots/snapshot-latest/memory");
    let memory = memory.metadata().unwrap();
    let taken = memory.blocks() * 512;
    assert!(taken < memory.len() / 4, "{taken} of {}", memory.len());
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
fn a_snapshot_comes_back_beside_the_vm_that_goes_on_and_boots_without_its_memory() {
    let Some(binary) = micro_vm::binary(Dialect::Firecracker) else {
        return;
    };
    let host = Host::new(TOOL);
    let (writable, read_only) = (host.dir().join("rw.raw"), host.dir().join("ro.raw"));
    fs::write(&writable, vec![1; 1 << 20]).unwrap();
    fs::write(&read_only, vec![2; 1 << 20]).unwrap();
    let vm = MicroVm::boot(Dialect::Firecracker, &binary, &writable, &read_only);
    let (_, before, after) = snapshot(&host, &vm);
    let to = host.dir().join("back");
    let to_text = to.to_str().unwrap();
    let restore = ["-o", "json", "restore", "vm-a", "latest", "--to", to_text];

    let dry = host.run(&[&restore[..], &["--dry-run"]].concat()).exits(0);
    let dry = dry.json();
    let asked: Vec<&str> = (dry["requests"].as_array().unwrap().iter())
        .map(|request| request["path"].as_str().unwrap())
        .collect();
    assert_eq!(asked, ["/snapshot/load", "/drives/disk0", "/vm"], "{dry}");
    assert!(!to.exists());

    // The VM runs: the copy is started all the same, and takes nothing from it.
    host.run(&[&restore[..], &["--start"]].concat()).exits(1);
    let said = host.run(&[&restore[..], &["--start", "--force"]].concat());
    let json = said.exits(0).json();
    let started = Started::of(&json);
    let serial = to.join("vm.log");
    wait_until("the restored guest", || {
        micro_vm::ticks(&serial).last() > Some(&(after + 5))
    });
    micro_vm::assert_went_on_between(&serial, before, after);
    assert!(started.has_open(&to.join("disks/0-rw.raw")), "{json}");
    assert!(!started.has_open(&writable) && started.has_open(&read_only));
    vm.wait_ticks_beyond(*vm.ticks().last().unwrap());
    drop(started);

    let second = host.dir().join("second");
    let said = host.run(&[
        "-o",
        "json",
        "restore",
        "vm-a",
        "latest",
        "--to",
        second.to_str().unwrap(),
        "--disks-only",
        "--start",
        "--force",
    ]);
    let json = said.exits(0).json();
    let started = Started::of(&json);
    assert_eq!(json["has_memory"], json!(false));
    let serial = second.join("vm.log");
    wait_until("the guest that boots anew", || {
        micro_vm::words(&serial).contains("boot\r") && !micro_vm::ticks(&serial).is_empty()
    });
    assert!(started.has_open(&second.join("disks/0-rw.raw")));
    assert!(!started.has_open(&writable));
    drop(started);

    // Firecracker opens the disk's old place while it loads.
    fs::remove_file(&writable).unwrap();
    let third = host.dir().join("third");
    let third_text = third.to_str().unwrap();
    let restore = ["restore", "vm-a", "latest", "--to", third_text, "--start"];
    host.run(&restore).exits(1);
    assert!(!third.exists());
    fs::write(&writable, "").unwrap();
    let said = host.run(&[&restore[..], &["--force", "-o", "json"]].concat());
    let started = Started::of(&said.exits(0).json());
    assert!(started.has_open(&third.join("disks/0-rw.raw")));
    assert_eq!(fs::metadata(&writable).unwrap().len(), 0);
}

#[test]
fn a_jailed_guest_is_given_back_as_files_and_not_started() {
    let Some(binary) = micro_vm::binary(Dialect::Firecracker) else {
        return;
    };
    let host = Host::new(TOOL);
    let disk = host.dir().join("disk.raw");
    fs::write(&disk, vec![7; 1 << 20]).unwrap();
    let Some(vm) = MicroVm::boot_jailed(&binary, &disk) else {
        return;
    };
    snapshot(&host, &vm);
    let to = host.dir().join("back");
    let restore = ["restore", "vm-a", "latest", "--to", to.to_str().unwrap()];
    let said = host.run(&[&restore[..], &["--start", "--force"]].concat());
    let said = said.exits(1);
    let text = said.stdout;
    let root = vm.dir().to_str().unwrap();
    assert!(text.contains(root) && text.contains("jail"), "{text}");
    assert!(!to.exists());
    host.run(&restore).exits(0);
    assert_eq!(
        fs::read(to.join("disks/0-disk.raw")).unwrap(),
        vec![7; 1 << 20]
    );
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

#[test]
fn a_snapshot_comes_back_in_place_and_its_guest_goes_on() {
    let Some(binary) = micro_vm::binary(Dialect::Firecracker) else {
        return;
    };
    let host = Host::new(TOOL);
    let (writable, read_only) = (host.dir().join("rw.raw"), host.dir().join("ro.raw"));
    fs::write(&writable, vec![1; 1 << 20]).unwrap();
    fs::write(&read_only, vec![2; 1 << 20]).unwrap();
    let mut vm = MicroVm::boot(Dialect::Firecracker, &binary, &writable, &read_only);
    let (_, before, after) = snapshot(&host, &vm);
    fs::write(&writable, vec![3; 1 << 20]).unwrap();
    // It leaves its socket behind.
    vm.stop();
    let restore = ["-o", "json", "restore", "vm-a", "latest", "--start"];
    let json = host.run(&restore).exits(0).json();
    let started = Started::of(&json);
    let serial = host.state_dir().join("vm-logs/vm-a.log");
    wait_until("the restored guest", || {
        micro_vm::ticks(&serial).last() > Some(&(after + 5))
    });
    micro_vm::assert_went_on_between(&serial, before, after);
    assert!(started.has_open(&writable));
    assert_eq!(fs::read(&writable).unwrap(), vec![1; 1 << 20]);
    // What runs there now is the instance.
    let said = host.run(&["-o", "json", "run-due", "--force"]).exits(0);
    let result = said.json()["results"][0].clone();
    assert_eq!(result["kind"], "Standby", "{result}");
}
