//! A real guest in a real Cloud Hypervisor, named by `HYPEMAN_SNAP_TEST_CLOUD_HYPERVISOR`: it is snapshotted while it
//! counts, and the snapshot goes on counting in the same VMM.

#![cfg(test)]

use std::fs;

use support::cli::Host;
use support::fake_vmm::Dialect;
use support::micro_vm::{self, MicroVm};

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");

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
