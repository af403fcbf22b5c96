//! The driver against a real QEMU with a guest that notices torn snapshots.

mod captures;
mod fallback;
mod faults;
mod leftovers;
mod others;
mod sparse;

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use support::qemu::{TestVm, Traces, VmOptions};
use tempfile::TempDir;

use super::*;
use crate::fs::beneath::Beneath;
use crate::vmm::DiskCopy;

/// Generous: software emulation on a busy machine can be twenty times slower than alone.
const TIMEOUTS: Timeouts = Timeouts {
    request: Duration::from_secs(30),
    watch: Watch::unlimited(),
};
/// As much as a pause may take where nothing goes wrong.
const PAUSE_LIMIT: Duration = Duration::from_secs(60);

/// A directory with a short name, for disks and snapshots.
pub(super) fn scratch() -> TempDir {
    tempfile::Builder::new()
        .prefix("snap-")
        .tempdir_in("/tmp")
        .unwrap()
}

/// The usual time-outs, with another one for a request.
fn within(request: Duration) -> Timeouts {
    Timeouts {
        request,
        ..TIMEOUTS
    }
}

pub(super) fn connect(vm: &TestVm) -> Qemu {
    Qemu::connect(vm.socket(), TIMEOUTS).unwrap()
}

/// A directory for one snapshot, as the caller of the port makes it.
pub(super) fn state_dir(parent: &Path, name: &str) -> PathBuf {
    let directory = parent.join(name);
    DirBuilder::new().mode(0o700).create(&directory).unwrap();
    directory
}

/// The plan by which the VMM copies all writable disks into `directory`.
pub(super) fn plan(qemu: &mut Qemu, directory: &Path) -> SavePlan {
    let disks = qemu.disks().unwrap();
    SavePlan {
        state_dir: Some(Beneath::open(directory).unwrap()),
        base: None,
        socket_dir: None,
        disks: disks
            .into_iter()
            .filter(|disk| !disk.is_read_only)
            .map(|disk| {
                let name = disk.path.file_name().unwrap();
                copy_into(directory, Path::new(name), disk.clone())
            })
            .collect(),
    }
}

/// A copy of `disk` in the new file `name` of `directory`.
fn copy_into(directory: &Path, name: &Path, disk: Disk) -> DiskCopy {
    let file = Beneath::open(directory).unwrap().create_file(name);
    DiskCopy {
        source: Arc::new(fs::File::open(&disk.path).unwrap()),
        disk,
        target: Arc::new(file.unwrap()),
        target_path: directory.join(name),
    }
}

/// Everything from the preparation to the end.
pub(super) fn capture(qemu: &mut Qemu, plan: &SavePlan) -> Result<Saved, VmmError> {
    qemu.prepare(plan)?
        .pause()?
        .save(Deadline::after(PAUSE_LIMIT))?
        .resume()?
        .finish()
}

/// The VM is as it was before any capture, and its guest counts on.
fn assert_untouched(vm: &TestVm, before: &Traces) {
    assert_eq!(vm.traces(), *before);
    for node in vm
        .qmp("query-named-block-nodes", &json!({"flat": true}))
        .as_array()
        .unwrap()
    {
        assert_eq!(node.get("dirty-bitmaps"), None);
    }
    // So far that the guest has written every page that it uses: one that QEMU left protected would hang it.
    let tick = vm.wait_next_tick();
    vm.wait_ticks_beyond(tick + 300);
    assert_eq!(vm.torn_lines(), Vec::<String>::new());
}

/// The options of a VM like `vm` in which the snapshot in `directory` is restored, and that snapshot's disks.
fn restored(vm: &TestVm, plan: &SavePlan) -> TestVm {
    let disks: Vec<PathBuf> = plan
        .disks
        .iter()
        .map(|copy| copy.target_path.clone())
        .collect();
    let options = VmOptions {
        socket: None,
        ..vm.options().clone()
    };
    TestVm::restore(
        &options,
        &plan.state_dir.as_ref().unwrap().path().join("memory"),
        &disks,
    )
}

/// The guest in the snapshot goes on from `at_least` or later, and finds RAM and disks at the same instant.
fn assert_goes_on(vm: &TestVm, plan: &SavePlan, at_least: u64) {
    let again = restored(vm, plan);
    let tick = again.wait_next_tick();
    assert!(
        tick >= at_least,
        "it went back to {tick}, before {at_least}"
    );
    again.wait_ticks_beyond(tick + 40);
    assert_eq!(again.torn_lines(), Vec::<String>::new());
}
