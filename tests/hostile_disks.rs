//! What a VMM calls its disks, or whoever can write to a guest's directory puts there, never leads anywhere: copies are
//! made in the snapshot and nowhere else.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;
use support::cli::Host;
use support::fake_vmm::{Dialect, FakeDisk, FakeVmm};

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");

/// Registers a guest of the VMM that listens in `dir`, and schedules it.
fn register(host: &Host, id: &str, hypervisor: &str, dir: &Path) {
    let socket = dir.join("s");
    let socket = socket.to_str().unwrap();
    host.run(&[
        "register",
        id,
        "--hypervisor",
        hypervisor,
        "--socket",
        socket,
    ])
    .exits(0);
    host.run(&["set", id, "--interval", "1h", "--max-count", "3"])
        .exits(0);
}

/// A Firecracker in a directory of its own, with one disk.
fn firecracker(host: &Host, id: &str) -> FakeVmm {
    let dir = host.dir().join(id);
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("rw.raw"), "the disk").unwrap();
    let disk = FakeDisk {
        path: Some(dir.join("rw.raw")),
        is_read_only: false,
    };
    let vmm = FakeVmm::start(Dialect::Firecracker, &dir.join("s"), &[disk]);
    register(host, id, "firecracker", &dir);
    vmm
}

/// The names of everything below `directory`, with its content.
fn everything(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let content = if path.is_dir() && !path.is_symlink() {
            found.extend(everything(&path));
            String::new()
        } else {
            fs::read_to_string(&path).unwrap_or_default()
        };
        found.push(format!("{}: {content}", path.display()));
    }
    found.sort();
    found
}

#[test]
fn the_name_of_a_disk_without_a_file_name_creates_nothing_outside() {
    let host = Host::new(TOOL);
    let victim = host.dir().join("victim");
    fs::create_dir(&victim).unwrap();
    let vmm = firecracker(&host, "vm-bad");
    let _good = firecracker(&host, "vm-good");
    // `snapshots/.staging-ID/guest/disks/../../../../../victim/made/x`
    let name = "../../../../../victim/made/x";
    vmm.add_config(json!({"drives": [
        {"drive_id": name, "path_on_host": "/", "is_read_only": false, "is_root_device": false},
    ]}));
    let said = host.run(&["-o", "json", "run-due", "--force"]).exits(1);
    assert_eq!(everything(&victim), Vec::<String>::new());
    let results = said.json()["results"].clone();
    assert_eq!(results[1]["outcome"], "snapshotted", "{results}");
    assert_eq!(host.snapshots().len(), 1);
    assert_eq!(
        fs::read_dir(host.data_dir().join("snapshots"))
            .unwrap()
            .count(),
        1
    );
}

#[test]
fn a_guest_directory_that_holds_symlinks_creates_nothing_where_they_point() {
    let host = Host::new(TOOL);
    let victim = host.dir().join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(host.dir().join("disk"), "the disk").unwrap();
    let disk = host.dir().join("disk");
    let arguments = [
        "register",
        "vm-bad",
        "--hypervisor",
        "qemu",
        "--socket",
        "/nowhere/s",
    ];
    host.run(&[&arguments[..], &["--disk", disk.to_str().unwrap()]].concat())
        .exits(0);
    host.run(&["set", "vm-bad", "--interval", "1h", "--max-count", "3"])
        .exits(0);
    symlink(&victim, host.data_dir().join("guests/vm-bad/disks")).unwrap();
    host.run(&["run-due", "--force"])
        .exits(1)
        .complains(&["disks", "no directory"]);
    assert_eq!(everything(&victim), Vec::<String>::new());
    assert_eq!(host.snapshots().len(), 0);
}
