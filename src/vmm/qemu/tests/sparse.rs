//! Disks that are mostly holes, as thin ones are.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;
use std::time::Instant;

use support::qemu::DiskStyle;

use super::*;

/// Bytes that say where they stand.
fn pattern(at: u64, length: usize) -> Vec<u8> {
    let words = (0..length.div_ceil(8)).map(|word| (at / 8 + word as u64) | 1 << 63);
    let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    bytes.truncate(length);
    bytes
}

#[test]
fn all_data_of_a_thin_disk_is_in_its_copy_and_none_of_its_holes() {
    const CLUSTER: u64 = 64 << 10;
    let scratch = scratch();
    let size_mib = 40 << 10;
    let size = size_mib << 20;
    let path = scratch.path().join("thin.raw");
    let disk = File::create(&path).unwrap();
    disk.set_len(size).unwrap();
    // On both sides of what one cluster of the map stands for (32 GiB), at odd places, and at the very end.
    let places = [
        (100 << 20, 512),
        ((1 << 30) + 4096, 300_000),
        (32 << 30, 4096),
        ((32 << 30) - CLUSTER, 2 * 65536),
        ((35 << 30) + 7 * 512, 1 << 20),
        (size - 512, 512),
    ];
    for (at, length) in places {
        disk.write_all_at(&pattern(at, length), at).unwrap();
    }
    let options = VmOptions {
        disk_mib: size_mib,
        ..VmOptions::new(scratch.path())
    };
    let vm = TestVm::boot_from(&options, &[path]);
    let before = vm.traces();
    let mut qemu = connect(&vm);
    let plan = plan(&mut qemu, &state_dir(scratch.path(), "snapshot"));
    let tick = vm.wait_next_tick();
    let start = Instant::now();
    capture(&mut qemu, &plan).unwrap();
    // 40 GiB of zeros would take minutes.
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "{:?}",
        start.elapsed()
    );
    assert_untouched(&vm, &before);
    let copy = File::open(&plan.disks[0].target_path).unwrap();
    for (at, length) in places {
        let mut found = vec![0; length];
        copy.read_exact_at(&mut found, at).unwrap();
        assert!(found == pattern(at, length), "at {at}");
    }
    let metadata = copy.metadata().unwrap();
    assert_eq!(metadata.len(), size);
    assert!(metadata.blocks() * 512 < 64 << 20, "{}", metadata.blocks());
    assert_goes_on(&vm, &plan, tick);
}

#[test]
fn what_the_guest_writes_between_preparation_and_pause_is_in_the_copy() {
    let scratch = scratch();
    let vm = TestVm::boot(&VmOptions {
        disk_mib: 1024,
        ..VmOptions::new(scratch.path())
    });
    let mut qemu = connect(&vm);
    let plan = plan(&mut qemu, &state_dir(scratch.path(), "snapshot"));
    let prepared = qemu.prepare(&plan).unwrap();
    let used = || fs::metadata(&vm.disks()[0]).unwrap().blocks() * 512;
    let used_before = used();
    vm.wait_for("data where a hole was", || {
        (used() > used_before + (2 << 20)).then_some(())
    });
    let tick = vm.wait_next_tick();
    let paused = prepared.pause().unwrap();
    let secured = paused.save(Deadline::after(PAUSE_LIMIT)).unwrap();
    let resumed = secured.resume().unwrap();
    resumed.finish().unwrap();
    // The guest checks only its newest slot by itself; its history is in the whole of the disk.
    let copy = File::open(&plan.disks[0].target_path).unwrap();
    let counter = support::disk::DiskFormat::Raw.counter(&plan.disks[0].target_path);
    assert!(counter >= tick);
    for slot in 1..counter.min(4096) {
        let mut word = [0; 4];
        copy.read_exact_at(&mut word, (4096 + 8 * slot) * 512)
            .unwrap();
        let found = u64::from(u32::from_le_bytes(word));
        assert!(found % 4096 == slot && found > 0, "slot {slot}: {found}");
    }
    assert_goes_on(&vm, &plan, tick);
}

/// A loop device over a file; detached when dropped.
struct LoopDevice(PathBuf);

impl LoopDevice {
    /// Nothing where this user can't have one.
    fn attach(file: &Path) -> Option<Self> {
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(file)
            .output()
            .ok()?;
        let device = String::from_utf8(output.stdout).ok()?;
        output
            .status
            .success()
            .then(|| Self(PathBuf::from(device.trim())))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // Nothing else can be done about one that stays.
        let _ = Command::new("losetup")
            .arg("--detach")
            .arg(&self.0)
            .status();
    }
}

#[test]
fn a_block_device_becomes_a_sparse_file() {
    let scratch = scratch();
    let file = scratch.path().join("image");
    File::create(&file).unwrap().set_len(64 << 20).unwrap();
    let Some(device) = LoopDevice::attach(&file) else {
        eprintln!("SKIPPED: no loop devices for this user");
        return;
    };
    let options = VmOptions {
        disk_style: DiskStyle::Drive,
        ..VmOptions::new(scratch.path())
    };
    let vm = TestVm::boot_from(&options, std::slice::from_ref(&device.0));
    let before = vm.traces();
    let mut qemu = connect(&vm);
    let plan = plan(&mut qemu, &state_dir(scratch.path(), "snapshot"));
    assert_eq!(plan.disks[0].disk.path, device.0);
    let tick = vm.wait_next_tick();
    capture(&mut qemu, &plan).unwrap();
    assert_untouched(&vm, &before);
    let metadata = fs::metadata(&plan.disks[0].target_path).unwrap();
    assert_eq!(metadata.len(), 64 << 20);
    assert!(metadata.blocks() * 512 < 48 << 20, "{}", metadata.blocks());
    assert_goes_on(&vm, &plan, tick);
}
