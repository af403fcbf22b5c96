//! A real guest in a real Cloud Hypervisor, named by `HYPEMAN_SNAP_TEST_CLOUD_HYPERVISOR`: it is snapshotted while it
//! counts, and the snapshot goes on counting in the same VMM.

#![cfg(test)]

use std::fs;

use serde_json::{Value, json};
use support::cli::Host;
use support::fake_vmm::Dialect;
use support::micro_vm::{self, MicroVm};
use support::started::Started;
use support::wait::wait_until;

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");

/// Registers the guest of `vm`, snapshots it while it counts, and gives what the run said with the ticks before and after.
fn snapshot(host: &Host, vm: &MicroVm) -> (Value, u64, u64) {
    let socket = vm.socket().to_str().unwrap();
    host.run(&[
        "register",
        "vm-a",
        "--hypervisor",
        "cloud-hypervisor",
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
    (result, before, after)
}

#[test]
fn a_counting_guest_is_snapshotted_and_its_snapshot_goes_on_counting() {
    let Some(binary) = micro_vm::binary(Dialect::CloudHypervisor) else {
        return;
    };
    let host = Host::new(TOOL);
    let (writable, read_only) = (host.dir().join("rw.raw"), host.dir().join("ro.raw"));
    fs::write(&writable, vec![1; 1 << 20]).unwrap();
    fs::write(&read_only, vec![2; 1 << 20]).unwrap();
    let mut vm = MicroVm::boot(Dialect::CloudHypervisor, &binary, &writable, &read_only);
    let (result, before, after) = snapshot(&host, &vm);

    let guest = host
        .data_dir()
        .join("snapshots")
        .join(result["snapshot_id"].as_str().unwrap())
        .join("guest");
    assert_eq!(
        fs::read(guest.join("disks/0-rw.raw")).unwrap(),
        vec![1; 1 << 20]
    );
    assert!(!guest.join("disks/ro.raw").exists());
    let bytes = fs::read(guest.join("hypeman-snap.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let argv = fs::read_to_string(format!("/proc/{}/cmdline", vm.pid())).unwrap();
    let argv: Vec<&str> = argv.trim_end_matches('\0').split('\0').collect();
    assert_eq!(manifest["vmm"]["argv"], serde_json::json!(argv));
    assert_eq!(
        manifest["read_only_disks"][0]["source"],
        serde_json::json!(read_only)
    );
    vm.stop();
    fs::copy(guest.join("disks/0-rw.raw"), &writable).unwrap();
    let state_dir = guest.join("snapshots/snapshot-latest");
    let restored = MicroVm::restore(Dialect::CloudHypervisor, &binary, &state_dir);
    restored.assert_goes_on_between(before, after);
}

#[test]
fn a_snapshot_comes_back_beside_the_vm_that_goes_on_and_boots_without_its_memory() {
    let Some(binary) = micro_vm::binary(Dialect::CloudHypervisor) else {
        return;
    };
    let host = Host::new(TOOL);
    let (writable, read_only) = (host.dir().join("rw.raw"), host.dir().join("ro.raw"));
    fs::write(&writable, vec![1; 1 << 20]).unwrap();
    fs::write(&read_only, vec![2; 1 << 20]).unwrap();
    let vm = MicroVm::boot(Dialect::CloudHypervisor, &binary, &writable, &read_only);
    let (_, before, after) = snapshot(&host, &vm);
    let to = host.dir().join("back");
    let to_text = to.to_str().unwrap();
    let restore = ["-o", "json", "restore", "vm-a", "latest", "--to", to_text];

    let dry = host.run(&[&restore[..], &["--dry-run"]].concat()).exits(0);
    let dry = dry.json();
    assert_eq!(dry["requests"][0]["path"], "/api/v1/vm.resume", "{dry}");
    let command: Vec<&str> = (dry["command"].as_array().unwrap().iter())
        .map(|word| word.as_str().unwrap())
        .collect();
    let state = format!("source_url=file://{to_text}/snapshots/snapshot-latest");
    assert_eq!(command[command.len() - 2..], ["--restore", &state]);
    assert!(!command.contains(&"--kernel") && !to.exists());

    // The VM runs: the copy is started all the same, and takes nothing from it.
    host.run(&[&restore[..], &["--start"]].concat()).exits(1);
    let said = host.run(&[&restore[..], &["--start", "--force"]].concat());
    let json = said.exits(0).json();
    let started = Started::of(&json);
    let serial = to.join("serial");
    wait_until("the restored guest", || {
        micro_vm::ticks(&serial).last() > Some(&(after + 5))
    });
    micro_vm::assert_went_on_between(&serial, before, after);
    assert!(started.has_open(&to.join("disks/0-rw.raw")), "{json}");
    assert!(!started.has_open(&writable) && started.has_open(&read_only));
    assert!(json["clock_behind_seconds"].is_u64(), "{json}");
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
    assert_eq!(json["requests"][1]["path"], "/api/v1/vm.boot", "{json}");
    let serial = second.join("serial");
    wait_until("the guest that boots anew", || {
        micro_vm::words(&serial).contains("boot\r") && !micro_vm::ticks(&serial).is_empty()
    });
    assert!(started.has_open(&second.join("disks/0-rw.raw")));
}

#[test]
fn a_snapshot_comes_back_in_place_and_its_guest_goes_on() {
    let Some(binary) = micro_vm::binary(Dialect::CloudHypervisor) else {
        return;
    };
    let host = Host::new(TOOL);
    let (writable, read_only) = (host.dir().join("rw.raw"), host.dir().join("ro.raw"));
    fs::write(&writable, vec![1; 1 << 20]).unwrap();
    fs::write(&read_only, vec![2; 1 << 20]).unwrap();
    let mut vm = MicroVm::boot(Dialect::CloudHypervisor, &binary, &writable, &read_only);
    let (_, before, after) = snapshot(&host, &vm);
    fs::write(&writable, vec![3; 1 << 20]).unwrap();
    // It leaves its socket behind.
    vm.stop();
    let restore = ["-o", "json", "restore", "vm-a", "latest", "--start"];
    let json = host.run(&restore).exits(0).json();
    let started = Started::of(&json);
    let serial = vm.serial().to_owned();
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
