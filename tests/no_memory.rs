//! `set --no-memory`: disks of a guest that runs, without its memory. What comes back is what a power cut leaves, and says
//! so.

#![cfg(test)]

use std::path::Path;

use serde_json::{Value, json};
use support::cli::Host;
use support::disk::DiskFormat;
use support::fake_vmm::{Dialect, FakeDisk, FakeVmm, Guest, Request};
use support::filesystems::{Kind, Mount};
use support::linux_guest::{LinuxGuest, complaints};
use support::started::Started;
use support::vm_host::{ID, VmHost};
use support::wait::wait_until;

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");

/// What the console said, from the last boot on.
fn last_tick(serial: &Path) -> u64 {
    let said = std::fs::read_to_string(serial).unwrap_or_default();
    let mut ticks = said
        .lines()
        .filter_map(|line| line.strip_prefix("tick ")?.trim().parse().ok());
    ticks.next_back().unwrap_or(0)
}

fn comes_back_as_after_a_power_cut(parent: &Path, format: DiskFormat) {
    let Some(linux) = LinuxGuest::build() else {
        return;
    };
    let host = VmHost::boot(TOOL, parent, |options| {
        options.linux = Some(linux.clone());
        options.disk_format = format;
    });
    host.schedule(1);
    host.vm.wait_ticks_beyond(20);
    let with_memory = host.snapshot();
    assert_eq!(with_memory["kind"], "Standby");

    let changed = host.tool_ok(&["set", ID, "--update", "--no-memory"]);
    assert!(changed.contains("memory: with it → left out"), "{changed}");
    assert_eq!(host.read_schedule()["no_memory"], true);
    host.vm.wait_ticks_beyond(60);
    let taken = host.snapshot();
    assert_eq!(taken["kind"], "Stopped", "{taken}");
    // Nothing but the switch of the disks happens in there.
    let pause_ms = taken["pause_ms"].as_f64().unwrap();
    assert!(pause_ms > 0.0 && pause_ms < 1000.0, "{taken}");
    let still_runs_at = host.vm.wait_next_tick();
    host.vm.wait_ticks_beyond(still_runs_at + 10);
    assert_eq!(complaints(&host.vm.serial()), Vec::<String>::new());

    // One with memory is taken no more, so that this one replaces it.
    assert_eq!(taken["pruned"], json!([with_memory["snapshot_id"]]));
    let listed = host.snapshots();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["consistency"], "crash", "{}", listed[0]);
    let table = host.tool_ok(&["snapshots", ID]);
    assert!(table.contains("Stopped (crash)"), "{table}");
    let id = taken["snapshot_id"].as_str().unwrap();
    let guest = host.snapshot_dir(id).join("guest");
    assert!(!guest.join("snapshots").exists());
    let manifest = std::fs::read_to_string(guest.join("hypeman-snap.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["consistency"], "crash");
    assert!(manifest["pause_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(host.journals(), Vec::<String>::new());

    let crashed = linux.assert_survives_a_crash(&host.disk_copies(id)[0], format);
    assert!(crashed.log >= 20, "{crashed:?}");
    let serial = host.vm.serial_path();
    host.vm.kill();
    let to = parent.join("back");
    let back = host.json(&["restore", ID, id, "--to", to.to_str().unwrap(), "--start"]);
    let _started = Started::of(&back);
    assert_eq!(back["has_memory"], false);
    // It boots, replays its journal, finds its database and goes on from there.
    wait_until("the restored guest", || last_tick(&serial) > crashed.log);
    let said = std::fs::read_to_string(&serial).unwrap();
    assert_eq!(complaints(&said), Vec::<String>::new());
}

#[test]
fn a_linux_guest_on_a_raw_disk_comes_back_as_after_a_power_cut() {
    let parent = tempfile::tempdir().unwrap();
    comes_back_as_after_a_power_cut(parent.path(), DiskFormat::Raw);
}

#[test]
fn a_linux_guest_whose_disk_shares_its_blocks_comes_back_as_after_a_power_cut() {
    if let Some(xfs) = Mount::create(Kind::Xfs, 1024) {
        comes_back_as_after_a_power_cut(&xfs.path(), DiskFormat::Qcow2);
    }
}

#[test]
fn other_vmms_only_pause_their_guest_while_its_disks_are_copied() {
    for (dialect, name) in [
        (Dialect::CloudHypervisor, "cloud-hypervisor"),
        (Dialect::Firecracker, "firecracker"),
    ] {
        let host = Host::new(TOOL);
        let disk = host.dir().join("a.raw");
        std::fs::write(&disk, "content").unwrap();
        let socket = host.dir().join("s");
        let fake = FakeVmm::start(
            dialect,
            &socket,
            &[FakeDisk {
                path: Some(disk),
                is_read_only: false,
            }],
        );
        // hypeman's account of written pages and devices that can't be saved matter to memory alone.
        fake.add_config(match dialect {
            Dialect::CloudHypervisor => json!({"devices": [{"path": "/sys/bus/pci/devices/0"}]}),
            Dialect::Firecracker => {
                json!({"machine-config": {"mem_size_mib": 64, "track_dirty_pages": true}})
            }
        });
        host.register("vm", name, &socket);
        host.run(&[
            "set",
            "vm",
            "--interval",
            "1h",
            "--max-count",
            "2",
            "--no-memory",
        ])
        .exits(0);
        let said = host.run(&["run-due", "--force", "-o", "json"]).exits(0);
        let result = said.json()["results"][0].clone();
        assert_eq!(result["kind"], "Stopped", "{result}");
        assert!(result["pause_ms"].as_f64().unwrap() > 0.0);
        assert_eq!(fake.saves(), 0);
        assert!(fake.requests().contains(&Request::Pause));
        assert_eq!(fake.guest(), Guest::Running);
        let listed = host.run(&["snapshots", "-o", "json"]).json();
        assert_eq!(listed[0]["consistency"], "crash");
        let guest = host.data_dir().join("snapshots");
        let guest = guest
            .join(result["snapshot_id"].as_str().unwrap())
            .join("guest");
        assert!(!guest.join("snapshots").exists());
        let copy = std::fs::read_to_string(guest.join("disks/0-a.raw")).unwrap();
        assert_eq!(copy, "content");
    }
}
