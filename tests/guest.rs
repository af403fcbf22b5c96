//! The test guest and its QEMU are themselves tested here, with plain QMP and no part of the tool: a good snapshot
//! goes on counting, and each way in which a snapshot can be torn is reported by the guest. Without this, a green
//! restore test would prove nothing.

#![cfg(test)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::json;
use support::disk::DiskFormat;
use support::filesystems::{Kind, Mount};
use support::qemu::{DiskStyle, GuestOptions, TestVm, VmOptions};
use support::wait::{DEADLINE, wait_until};

/// Stops the guest, saves its memory and leaves it stopped.
fn save_memory(vm: &TestVm, memory: &Path) {
    vm.qmp("stop", &json!({}));
    vm.qmp(
        "migrate",
        &json!({"uri": format!("exec:cat > {}", memory.display())}),
    );
    vm.wait_for("end of the migration", || {
        let state = vm.qmp("query-migrate", &json!({}));
        assert_ne!(state["status"], "failed", "{state}");
        (state["status"] == "completed").then_some(())
    });
}

fn copy_disks(vm: &TestVm, dir: &Path) -> Vec<PathBuf> {
    fs::create_dir(dir).unwrap();
    let copy = |disk: &PathBuf| {
        let to = dir.join(disk.file_name().unwrap());
        fs::copy(disk, &to).unwrap();
        to
    };
    vm.disks().iter().map(copy).collect()
}

/// Takes a snapshot by hand while the guest is paused, restores it and holds it against its source.
fn assert_snapshot_goes_on(options: &VmOptions) {
    let vm = TestVm::boot(options);
    vm.wait_ticks_beyond(100);
    let before = vm.traces();
    let memory = options.dir.join("memory");
    save_memory(&vm, &memory);
    let copies = copy_disks(&vm, &options.dir.join("copy"));
    let saved = options.disk_format.counter(&copies[0]);
    vm.qmp("cont", &json!({}));
    vm.wait_ticks_beyond(saved);
    assert_eq!(before, vm.traces());
    assert_eq!(vm.pauses_ms().len(), 1);

    assert!(saved > 100, "the disk holds {saved}");
    let restored = TestVm::restore(options, &memory, &copies);
    let tick = u64::from(options.guest.tick);
    let first = restored.wait_ticks_beyond(0);
    assert!(
        first > saved.saturating_sub(1) && first <= saved + tick,
        "first tick {first}, disk at {saved}"
    );
    restored.wait_ticks_beyond(saved + 20 * tick);
    assert_eq!(restored.torn_lines(), Vec::<String>::new());
    assert_eq!(vm.torn_lines(), Vec::<String>::new());
    for copy in &copies {
        assert!(
            options.disk_format.counter(copy) > saved,
            "{} does not move",
            copy.display()
        );
    }
}

#[test]
fn good_snapshot_goes_on_counting() {
    let dir = tempfile::tempdir().unwrap();
    assert_snapshot_goes_on(&VmOptions::new(dir.path()));
}

#[test]
fn good_snapshot_of_1_gib_and_two_qcow2_disks_at_full_speed_goes_on_counting() {
    let dir = tempfile::tempdir().unwrap();
    let guest = GuestOptions {
        hz: 0,
        window_mib: 64,
        ..GuestOptions::default()
    };
    assert_snapshot_goes_on(&VmOptions {
        ram_mib: 1024,
        disks: 2,
        disk_format: DiskFormat::Qcow2,
        disk_style: DiskStyle::Drive,
        guest,
        ..VmOptions::new(dir.path())
    });
}

#[test]
fn good_snapshot_with_shared_ram_on_xfs_goes_on_counting() {
    let Some(mount) = Mount::create(Kind::Xfs, 1024) else {
        return;
    };
    assert_snapshot_goes_on(&VmOptions {
        shared_ram: true,
        ..VmOptions::new(&mount.path())
    });
}

#[test]
fn disk_older_than_memory_is_torn() {
    let dir = tempfile::tempdir().unwrap();
    let options = VmOptions::new(dir.path());
    let vm = TestVm::boot(&options);
    vm.qmp("stop", &json!({}));
    let copies = copy_disks(&vm, &dir.path().join("copy"));
    vm.qmp("cont", &json!({}));
    vm.wait_next_tick();
    save_memory(&vm, &dir.path().join("memory"));
    assert_torn(&options, &dir.path().join("memory"), &copies, "TORN ram=");
}

#[test]
fn disk_newer_than_memory_is_torn() {
    let dir = tempfile::tempdir().unwrap();
    let options = VmOptions::new(dir.path());
    let vm = TestVm::boot(&options);
    save_memory(&vm, &dir.path().join("memory"));
    vm.qmp("cont", &json!({}));
    vm.wait_next_tick();
    vm.qmp("stop", &json!({}));
    let copies = copy_disks(&vm, &dir.path().join("copy"));
    assert_torn(&options, &dir.path().join("memory"), &copies, "TORN ram=");
}

#[test]
fn second_disk_of_another_instant_is_torn() {
    let dir = tempfile::tempdir().unwrap();
    let options = VmOptions {
        disks: 2,
        ..VmOptions::new(dir.path())
    };
    let vm = TestVm::boot(&options);
    vm.qmp("stop", &json!({}));
    let early = copy_disks(&vm, &dir.path().join("early"));
    vm.qmp("cont", &json!({}));
    vm.wait_next_tick();
    save_memory(&vm, &dir.path().join("memory"));
    let late = copy_disks(&vm, &dir.path().join("late"));
    let mixed = [late[0].clone(), early[1].clone()];
    assert_torn(&options, &dir.path().join("memory"), &mixed, "unit=1");
}

#[test]
fn page_of_another_instant_is_torn() {
    let dir = tempfile::tempdir().unwrap();
    let options = VmOptions::new(dir.path());
    let vm = TestVm::boot(&options);
    // The debugger stub writes one page in the counted window as no guest code would have.
    let stub = dir.path().join("gdb");
    vm.qmp(
        "human-monitor-command",
        &json!({"command-line": format!("gdbserver unix:{},server=on,wait=off", stub.display())}),
    );
    let mut debugger = UnixStream::connect(&stub).unwrap();
    let packet = "M1800000,4:ffffff7f";
    let sum = packet.bytes().fold(0_u8, u8::wrapping_add);
    write!(debugger, "${packet}#{sum:02x}").unwrap();
    debugger.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut reply = String::new();
    // Before the answer comes the stub's report that the connection stopped the guest.
    while !reply.ends_with("$OK#9a") {
        let mut some = [0; 64];
        let count = debugger.read(&mut some).unwrap();
        reply.push_str(std::str::from_utf8(&some[..count]).unwrap());
    }
    drop(debugger);
    if !vm.is_running() {
        vm.qmp("cont", &json!({}));
    }
    wait_until("report of the changed page", || {
        vm.torn_lines()
            .iter()
            .any(|line| line.starts_with("TORN page=2048 "))
    });
}

#[test]
fn crash_consistent_copy_boots_and_counts_on() {
    let dir = tempfile::tempdir().unwrap();
    let options = VmOptions {
        disks: 2,
        ..VmOptions::new(dir.path())
    };
    let vm = TestVm::boot(&options);
    vm.wait_ticks_beyond(100);
    vm.qmp("stop", &json!({}));
    let copies = copy_disks(&vm, &dir.path().join("copy"));
    let saved = DiskFormat::Raw.counter(&copies[0]);
    vm.kill();
    let again = TestVm::boot_from(&options, &copies);
    assert!(
        again
            .serial()
            .contains(&format!("boot counter={saved} disks=2 ")),
        "{}",
        again.serial()
    );
    again.wait_ticks_beyond(saved + 40);
    assert_eq!(again.torn_lines(), Vec::<String>::new());
}

#[test]
fn reflink_file_systems_reflink_and_tmpfs_fills_up() {
    for (kind, size_mib) in [(Kind::Xfs, 320), (Kind::Btrfs, 256)] {
        let Some(mount) = Mount::create(kind, size_mib) else {
            continue;
        };
        let path = mount.path();
        fs::write(path.join("a"), vec![7; 1 << 20]).unwrap();
        let copied = std::process::Command::new("cp")
            .arg("--reflink=always")
            .args([path.join("a"), path.join("b")])
            .status()
            .unwrap();
        assert!(copied.success(), "{kind:?} cannot reflink");
        drop(mount);
        assert!(!path.exists(), "{} is still there", path.display());
    }
    let Some(mount) = Mount::create(Kind::Tmpfs, 1) else {
        return;
    };
    let full = fs::write(mount.path().join("a"), vec![7; 2 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
}

/// Restores parts of different instants, and wants the guest to say so.
fn assert_torn(options: &VmOptions, memory: &Path, disks: &[PathBuf], wanted: &str) {
    let restored = TestVm::restore(options, memory, disks);
    restored.wait_for("report of a torn snapshot", || {
        restored
            .torn_lines()
            .iter()
            .any(|line| line.contains(wanted))
            .then_some(())
    });
}
