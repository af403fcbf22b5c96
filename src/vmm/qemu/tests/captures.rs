//! Captures that succeed.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use support::disk::DiskFormat;
use support::qemu::DiskStyle;

use super::*;

#[test]
fn a_captured_guest_goes_on_where_it_was_and_nothing_is_left_in_the_vmm() {
    let scratch = scratch();
    let vm = TestVm::boot(&VmOptions::new(scratch.path()));
    let before = vm.traces();
    let mut qemu = connect(&vm);
    assert_eq!(qemu.state().unwrap(), VmmState::Running);
    let directory = state_dir(scratch.path(), "snapshot");
    let plan = plan(&mut qemu, &directory);
    let tick = vm.wait_next_tick();
    let saved = capture(&mut qemu, &plan).unwrap();
    assert_eq!(saved.warnings, Vec::<String>::new());
    assert_eq!(vm.traces(), before);
    vm.wait_next_tick();

    let pauses = vm.pauses_ms();
    assert_eq!(pauses.len(), 1, "{pauses:?}");
    assert!((saved.pause.as_secs_f64() * 1e3 - pauses[0]).abs() < 0.01);
    for file in [directory.join("memory"), plan.disks[0].target_path.clone()] {
        let metadata = fs::metadata(&file).unwrap();
        assert_eq!(
            metadata.permissions().mode() & 0o777,
            0o600,
            "{}",
            file.display()
        );
        assert!(metadata.len() > 1 << 20, "{}", file.display());
    }
    assert_goes_on(&vm, &plan, tick);
}

#[test]
fn ten_captures_in_a_row_are_all_whole() {
    let scratch = scratch();
    let vm = TestVm::boot(&VmOptions {
        disks: 2,
        disk_style: DiskStyle::Drive,
        ..VmOptions::new(scratch.path())
    });
    let before = vm.traces();
    let mut qemu = connect(&vm);
    let mut plans = Vec::new();
    for index in 0..10 {
        let directory = state_dir(scratch.path(), &format!("snapshot{index}"));
        let plan = plan(&mut qemu, &directory);
        assert_eq!(plan.disks.len(), 2);
        let tick = vm.wait_next_tick();
        capture(&mut qemu, &plan).unwrap();
        assert_eq!(vm.traces(), before, "capture {index}");
        plans.push((plan, tick));
    }
    // Restoring takes long: the first, which found nothing, and the last, which found the most.
    for (plan, tick) in [&plans[0], &plans[9]] {
        assert_goes_on(&vm, plan, *tick);
    }
}

#[test]
fn a_copy_stays_as_sparse_as_its_disk() {
    let scratch = scratch();
    let vm = TestVm::boot(&VmOptions {
        disk_mib: 1024,
        ..VmOptions::new(scratch.path())
    });
    let mut qemu = connect(&vm);
    let directory = state_dir(scratch.path(), "snapshot");
    let plan = plan(&mut qemu, &directory);
    capture(&mut qemu, &plan).unwrap();
    let metadata = fs::metadata(&plan.disks[0].target_path).unwrap();
    assert_eq!(metadata.len(), 1 << 30);
    let used = metadata.blocks() * 512;
    assert!(used < 64 << 20, "{used}");
}

#[test]
fn a_qcow2_disk_is_copied_with_all_that_it_stands_on() {
    let scratch = scratch();
    let vm = TestVm::boot(&VmOptions {
        disk_format: DiskFormat::Qcow2,
        ..VmOptions::new(scratch.path())
    });
    let before = vm.traces();
    let mut qemu = connect(&vm);
    let directory = state_dir(scratch.path(), "snapshot");
    let plan = plan(&mut qemu, &directory);
    assert_eq!(plan.disks[0].disk.format.as_deref(), Some("qcow2"));
    let tick = vm.wait_next_tick();
    capture(&mut qemu, &plan).unwrap();
    assert_eq!(vm.traces(), before);
    assert_goes_on(&vm, &plan, tick);
}

/// What the header of a qcow2 image says (docs/interop/qcow2 of QEMU): its version, the size of a cluster, whether it has
/// extended entries, lazy counts, and which compression.
fn header(image: &Path) -> (u32, u32, bool, bool, u8) {
    let bytes = fs::read(image).unwrap();
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    let features = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let (incompatible, compatible) = (features(72), features(80));
    let is_zstd = incompatible & 8 != 0;
    (
        number(4),
        1 << number(20),
        incompatible & 16 != 0,
        compatible & 1 != 0,
        if is_zstd { bytes[104] } else { 0 },
    )
}

#[test]
fn a_qcow2_disk_keeps_its_layout_and_what_its_copy_lacks_is_named() {
    let scratch = scratch();
    let vm = TestVm::boot(&VmOptions::new(scratch.path()));
    // An image that is laid out as no default is, over the disk.
    let overlay = scratch.path().join("overlay.qcow2");
    fs::write(&overlay, "").unwrap();
    let file = json!({"driver": "file", "node-name": "overlay-file", "filename": overlay});
    vm.qmp("blockdev-add", &file);
    let options = json!({
        "driver": "qcow2", "file": "overlay-file", "size": 64 << 20, "cluster-size": 131_072,
        "compression-type": "zstd", "lazy-refcounts": true, "extended-l2": true,
    });
    vm.qmp(
        "blockdev-create",
        &json!({"job-id": "made", "options": options}),
    );
    vm.wait_for("the image", || {
        let jobs = vm.qmp("query-jobs", &json!({}));
        (jobs[0]["status"] == "concluded").then_some(())
    });
    vm.qmp("job-dismiss", &json!({"id": "made"}));
    let node =
        json!({"driver": "qcow2", "node-name": "overlay", "file": "overlay-file", "backing": null});
    vm.qmp("blockdev-add", &node);
    vm.qmp(
        "blockdev-snapshot",
        &json!({"node": "disk0", "overlay": "overlay"}),
    );
    vm.qmp(
        "block-dirty-bitmap-add",
        &json!({"node": "overlay", "name": "since-friday", "persistent": true}),
    );
    vm.qmp(
        "blockdev-snapshot-internal-sync",
        &json!({"device": "overlay", "name": "before-upgrade"}),
    );
    let before = vm.traces();
    let mut qemu = connect(&vm);
    let plan = plan(&mut qemu, &state_dir(scratch.path(), "snapshot"));
    let tick = vm.wait_next_tick();
    let saved = capture(&mut qemu, &plan).unwrap();
    let copy = &plan.disks[0].target_path;
    assert_eq!(header(copy), header(&overlay));
    assert_eq!(header(copy), (3, 131_072, true, true, 1));
    let said = saved.warnings.join("\n");
    assert!(
        said.contains("before-upgrade")
            && said.contains("since-friday")
            && said.contains("reflink"),
        "{said}"
    );
    assert_eq!(vm.traces(), before);
    let again = TestVm::restore(
        &VmOptions {
            disk_format: DiskFormat::Qcow2,
            socket: None,
            ..vm.options().clone()
        },
        &plan.state_dir.as_ref().unwrap().path().join("memory"),
        std::slice::from_ref(copy),
    );
    again.wait_ticks_beyond(tick + 40);
    assert_eq!(again.torn_lines(), Vec::<String>::new());
}

#[test]
fn a_disk_with_a_backing_file_is_copied_into_one_file() {
    let scratch = scratch();
    let vm = TestVm::boot(&VmOptions {
        disks: 2,
        ..VmOptions::new(scratch.path())
    });
    // The guest's data so far is in the base; what it writes from now on goes to the overlay.
    for disk in ["disk0", "disk1"] {
        let overlay = scratch.path().join(format!("{disk}.overlay"));
        vm.qmp(
            "blockdev-snapshot-sync",
            &json!({
                "node-name": disk, "snapshot-node-name": format!("{disk}-overlay"),
                "snapshot-file": overlay, "format": "qcow2",
            }),
        );
    }
    let before = vm.traces();
    let mut qemu = connect(&vm);
    let plan = plan(&mut qemu, &state_dir(scratch.path(), "snapshot"));
    let disk = &plan.disks[0].disk;
    assert_eq!(disk.format.as_deref(), Some("qcow2"));
    assert_eq!(disk.path, scratch.path().join("disk0.overlay"));
    assert_eq!(disk.backing.as_deref(), Some(&*vm.disks()[0]));
    let tick = vm.wait_next_tick();
    capture(&mut qemu, &plan).unwrap();
    assert_untouched(&vm, &before);

    // Neither the base nor the overlay is there any more when the copies are used.
    vm.kill();
    for copy in &plan.disks {
        fs::remove_file(&copy.disk.path).unwrap();
    }
    for base in vm.disks() {
        fs::remove_file(base).unwrap();
    }
    let options = VmOptions {
        disk_format: DiskFormat::Qcow2,
        socket: None,
        ..vm.options().clone()
    };
    let disks: Vec<PathBuf> = plan
        .disks
        .iter()
        .map(|copy| copy.target_path.clone())
        .collect();
    let again = TestVm::restore(
        &options,
        &plan.state_dir.as_ref().unwrap().path().join("memory"),
        &disks,
    );
    let first = again.wait_next_tick();
    assert!(first >= tick);
    again.wait_ticks_beyond(first + 40);
    assert_eq!(again.torn_lines(), Vec::<String>::new());
}

#[test]
fn the_driver_knows_version_and_process_of_the_vmm() {
    let scratch = scratch();
    let vm = TestVm::boot(&VmOptions::new(scratch.path()));
    let mut qemu = connect(&vm);
    let version = vm.qmp("query-version", &json!({}));
    let numbers = ["major", "minor", "micro"].map(|part| version["qemu"][part].to_string());
    assert_eq!(qemu.version().unwrap(), numbers.join("."));
    let process = qemu.process().unwrap();
    assert_eq!(process.pid, i32::try_from(vm.pid()).unwrap());
    assert!(process.start_ticks > 0);
}
