//! `set --method diff`: Firecracker saves what has changed onto the memory of the last snapshot, only where that is surely the
//! one before; each snapshot is whole by itself.

#![cfg(test)]

use std::fs;

use serde_json::Value;
use support::cli::Host;
use support::fake_vmm::Dialect;
use support::filesystems::{Kind, Mount};
use support::micro_vm::{self, MicroVm};
use support::vm_host::VmHost;

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");
const ID: &str = "vm-a";

/// Takes a snapshot and gives its id and how many bytes of its memory other files have as well.
fn take(host: &Host) -> (String, u64) {
    let said = host.run(&["-o", "json", "run-due", "--force"]).exits(0);
    let result = said.json()["results"][0].clone();
    assert_eq!(result["outcome"], "snapshotted", "{result}");
    let id = result["snapshot_id"].as_str().unwrap().to_owned();
    let all = host.run(&["-o", "json", "snapshots", ID]).exits(0).json();
    let all = all.as_array().unwrap();
    let found: &Value = all.iter().find(|it| it["id"] == id.as_str()).unwrap();
    (id, found["shared_bytes"].as_u64().unwrap())
}

/// More than the disk, which is shared in any case.
const DISK_BYTES: u64 = 1 << 20;

fn is_difference(shared_bytes: u64) -> bool {
    shared_bytes > DISK_BYTES
}

#[test]
fn differences_share_memory_and_each_snapshot_comes_back_by_itself() {
    let (Some(binary), Some(mount)) = (
        micro_vm::binary(Dialect::Firecracker),
        Mount::create(Kind::Xfs, 900),
    ) else {
        return;
    };
    let host = Host::new_in(TOOL, &mount.path());
    let disk = host.dir().join("disk.raw");
    fs::write(&disk, vec![7; 1 << 20]).unwrap();
    let mut vm = MicroVm::boot_tracking(&binary, &disk);
    host.register(ID, "firecracker", vm.socket());
    host.run(&[
        "set",
        ID,
        "--interval",
        "1h",
        "--max-count",
        "9",
        "--method",
        "diff",
    ])
    .exits(0);
    assert_eq!(host.schedule(ID)["method"], "diff");
    let mut taken = Vec::new();
    for number in 0..4 {
        let before = *vm.ticks().last().unwrap();
        let (id, shared) = take(&host);
        let after = vm.wait_ticks_beyond(*vm.ticks().last().unwrap());
        // Zeros are holes, so that even what is shared is little.
        assert_eq!(
            is_difference(shared),
            number > 0,
            "snapshot {number}: {shared}"
        );
        taken.push((id, before, after));
    }
    // One that is taken by hand saves everything, and so does the next one: it is not known what is between.
    host.run(&["snapshot", ID, "--name", "by-hand"]).exits(0);
    let (_, shared) = take(&host);
    assert!(!is_difference(shared), "{shared}");
    let (_, shared) = take(&host);
    assert!(is_difference(shared), "{shared}");

    // A difference does not need what it was written onto.
    host.run(&["delete-snapshot", "--yes", &taken[0].0])
        .exits(0);
    host.run(&["verify", "--read"]).exits(0);
    vm.stop();
    for (id, before, after) in &taken[1..] {
        let guest = host.data_dir().join("snapshots").join(id).join("guest");
        fs::copy(guest.join("disks/0-disk.raw"), &disk).unwrap();
        let state = guest.join("snapshots/snapshot-latest");
        let copies = tempfile::tempdir().unwrap();
        for name in ["state", "memory"] {
            fs::copy(state.join(name), copies.path().join(name)).unwrap();
        }
        let mut restored = MicroVm::restore(Dialect::Firecracker, &binary, copies.path());
        restored.assert_goes_on_between(*before, *after);
        restored.stop();
    }
}

#[test]
fn where_there_are_no_differences_everything_is_saved_and_that_is_said() {
    let place = tempfile::tempdir().unwrap();
    let host = VmHost::boot(TOOL, place.path(), |_| {});
    let id = support::vm_host::ID;
    host.tool_ok(&[
        "set",
        id,
        "--interval",
        "1h",
        "--max-count",
        "3",
        "--method",
        "diff",
    ]);
    let said = host.tool(&["run-due", "--force"]);
    assert!(said.status.success(), "{said:?}");
    let stderr = String::from_utf8(said.stderr).unwrap();
    assert!(
        stderr.contains("--method is diff") && stderr.contains("only Firecracker"),
        "{stderr}"
    );
    assert!(!host.state_dir().join("differences").exists());
    for (flags, parts) in [
        (
            &["--method", "vanish"][..],
            ["--method", "full, diff or migrate"],
        ),
        (
            &["--method", "diff", "--compress", "zstd"],
            ["--method", "--compress"],
        ),
        (
            &["--method", "diff", "--no-memory"],
            ["--method", "--no-memory"],
        ),
    ] {
        let refused =
            host.tool(&[&["set", id, "--interval", "1h", "--max-count", "3"], flags].concat());
        assert_eq!(refused.status.code(), Some(2), "{flags:?}");
        let stderr = String::from_utf8(refused.stderr).unwrap();
        assert!(parts.iter().all(|part| stderr.contains(part)), "{stderr}");
    }
    host.tool_ok(&["set", id, "--update", "--method", "full"]);
    assert_eq!(host.read_schedule().get("method"), None);
}
