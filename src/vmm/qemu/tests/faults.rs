//! What goes wrong in the middle: full file systems, signals, time limits, a VMM that hangs or dies.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use rustix::process::{Pid, Signal};
use support::filesystems::{Kind, Mount};

use super::*;

/// A VM with one disk, what it looks like untouched, and a connection.
fn boot(scratch: &TempDir) -> (TestVm, Traces, Qemu) {
    let vm = TestVm::boot(&VmOptions::new(scratch.path()));
    let before = vm.traces();
    let qemu = connect(&vm);
    (vm, before, qemu)
}

fn signal(vm: &TestVm, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(vm.pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn memory_that_finds_no_room_fails_and_the_guest_goes_on() {
    let Some(mount) = Mount::create(Kind::Tmpfs, 4) else {
        return;
    };
    let scratch = scratch();
    let (vm, before, mut qemu) = boot(&scratch);
    let mut plan = plan(&mut qemu, &state_dir(scratch.path(), "snapshot"));
    plan.state_dir = Some(Beneath::open(&state_dir(&mount.path(), "state")).unwrap());
    let error = capture(&mut qemu, &plan).unwrap_err();
    qemu.resume().unwrap();
    qemu.discard(true).unwrap();
    assert_untouched(&vm, &before);
    if migration::fails_cleanly(qemu.qmp.version()) {
        assert!(matches!(error, VmmError::Refused { .. }), "{error}");
        assert_eq!(vm.pauses_ms().len(), 1);
    } else {
        // This QEMU must not fail once the memory is protected, so it does not even begin.
        assert!(matches!(error, VmmError::File { .. }), "{error}");
        assert_eq!(vm.pauses_ms(), Vec::<f64>::new());
    }
}

#[test]
fn a_copy_that_will_find_no_room_fails_before_the_pause() {
    let Some(mount) = Mount::create(Kind::Tmpfs, 4) else {
        return;
    };
    let scratch = scratch();
    let (vm, before, mut qemu) = boot(&scratch);
    // The guest has written its history of 16 MiB.
    vm.wait_for("a disk with data", || {
        let used = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&vm.disks()[0]).unwrap());
        (used * 512 > 8 << 20).then_some(())
    });
    let mut plan = plan(&mut qemu, &state_dir(scratch.path(), "snapshot"));
    plan.disks[0] = copy_into(&mount.path(), Path::new("disk"), plan.disks[0].disk.clone());
    let error = qemu.prepare(&plan).unwrap_err();
    let VmmError::File { what, source } = &error else {
        panic!("{error}");
    };
    assert!(what.contains("room") && what.contains("disk0"), "{what}");
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
    qemu.discard(false).unwrap();
    assert_untouched(&vm, &before);
    assert_eq!(vm.pauses_ms(), Vec::<f64>::new());
}

#[test]
fn a_copy_that_runs_out_of_room_does_not_stop_the_guest_for_good() {
    let Some(mount) = Mount::create(Kind::Tmpfs, 24) else {
        return;
    };
    let scratch = scratch();
    let (vm, before, mut qemu) = boot(&scratch);
    let mut plan = plan(&mut qemu, &state_dir(scratch.path(), "snapshot"));
    plan.disks[0] = copy_into(&mount.path(), Path::new("disk"), plan.disks[0].disk.clone());
    let prepared = qemu.prepare(&plan).unwrap();
    // From here on somebody else takes the room, and the guest writes what nothing was reserved for.
    let filler = fs::File::create(mount.path().join("filler")).unwrap();
    while std::io::Write::write(&mut &filler, &[0; 1 << 16]).is_ok_and(|written| written > 0) {}
    let used = || std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&vm.disks()[0]).unwrap());
    let used_before = used();
    vm.wait_for("more data on the disk", || {
        (used() > used_before + 4096).then_some(())
    });
    let paused = prepared.pause().unwrap();
    let secured = paused.save(Deadline::after(PAUSE_LIMIT)).unwrap();
    let resumed = secured.resume().unwrap();
    let error = resumed.finish().unwrap_err().to_string();
    assert!(
        error.contains("disk0") && error.contains("No space"),
        "{error}"
    );
    qemu.discard(true).unwrap();
    assert_untouched(&vm, &before);
}

/// The usual time-outs, with another source of signals.
fn signalled(signal: fn() -> Option<Instant>) -> Timeouts {
    Timeouts {
        watch: Watch::unlimited().with_signal(signal),
        ..TIMEOUTS
    }
}

#[test]
fn a_signal_ends_the_waiting_but_not_the_putting_right() {
    static SIGNAL: AtomicBool = AtomicBool::new(false);
    let scratch = scratch();
    let vm = TestVm::boot(&VmOptions::new(scratch.path()));
    let before = vm.traces();
    let is_interrupted = || SIGNAL.load(Ordering::SeqCst).then(Instant::now);
    let qmp = Qmp::connect(vm.socket(), signalled(is_interrupted)).unwrap();
    let mut qemu = Qemu::new(qmp);
    let plan = plan(&mut qemu, &state_dir(scratch.path(), "snapshot"));
    let prepared = qemu.prepare(&plan).unwrap();
    let paused = prepared.pause().unwrap();
    SIGNAL.store(true, Ordering::SeqCst);
    let error = paused.save(Deadline::after(PAUSE_LIMIT)).unwrap_err();
    assert!(matches!(error, VmmError::Over(_)), "{error}");
    qemu.resume().unwrap();
    qemu.discard(true).unwrap();
    assert_untouched(&vm, &before);
}

#[test]
fn a_signal_at_any_moment_of_the_preparation_leaves_nothing() {
    /// Looks at the flag until the signal comes.
    static LOOKS: AtomicUsize = AtomicUsize::new(usize::MAX);
    let is_interrupted = || {
        let left = LOOKS.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            left.checked_sub(1)
        });
        left.is_err().then(Instant::now)
    };
    let scratch = scratch();
    let vm = TestVm::boot(&VmOptions {
        disk_mib: 1024,
        ..VmOptions::new(scratch.path())
    });
    let before = vm.traces();
    let mut looks = 0;
    loop {
        LOOKS.store(usize::MAX, Ordering::SeqCst);
        let qmp = Qmp::connect(vm.socket(), signalled(is_interrupted)).unwrap();
        let mut qemu = Qemu::new(qmp);
        let directory = state_dir(scratch.path(), &format!("snapshot{looks}"));
        let plan = plan(&mut qemu, &directory);
        LOOKS.store(looks, Ordering::SeqCst);
        let prepared = qemu.prepare(&plan).map(drop);
        qemu.discard(false).unwrap();
        assert_eq!(vm.traces(), before, "after {looks} looks");
        match prepared {
            Ok(()) => break,
            Err(VmmError::Over(_)) => looks += 1,
            Err(error) => panic!("after {looks} looks: {error}"),
        }
    }
    // As many as there are requests, at least.
    assert!(looks > 15, "{looks}");
    assert_untouched(&vm, &before);
    assert_eq!(vm.pauses_ms(), Vec::<f64>::new());
}

#[test]
fn a_signal_ends_the_wait_for_what_goes_on_behind_the_guest() {
    static SIGNAL: AtomicBool = AtomicBool::new(false);
    let scratch = scratch();
    let vm = TestVm::boot(&VmOptions::new(scratch.path()));
    let before = vm.traces();
    let is_interrupted = || SIGNAL.load(Ordering::SeqCst).then(Instant::now);
    let qmp = Qmp::connect(vm.socket(), signalled(is_interrupted)).unwrap();
    let mut qemu = Qemu::new(qmp);
    let plan = plan(&mut qemu, &state_dir(scratch.path(), "snapshot"));
    let prepared = qemu.prepare(&plan).unwrap();
    let paused = prepared.pause().unwrap();
    let secured = paused.save(Deadline::after(PAUSE_LIMIT)).unwrap();
    let resumed = secured.resume().unwrap();
    SIGNAL.store(true, Ordering::SeqCst);
    let error = resumed.finish().unwrap_err();
    assert!(matches!(error, VmmError::Over(_)), "{error}");
    // A new connection comes about nevertheless.
    drop(qemu);
    let qmp = Qmp::connect(vm.socket(), signalled(is_interrupted)).unwrap();
    Qemu::new(qmp).discard(true).unwrap();
    assert_untouched(&vm, &before);
}

#[test]
fn a_pause_that_lasts_too_long_is_given_up() {
    let scratch = scratch();
    let (vm, before, mut qemu) = boot(&scratch);
    let plan = plan(&mut qemu, &state_dir(scratch.path(), "snapshot"));
    let prepared = qemu.prepare(&plan).unwrap();
    let paused = prepared.pause().unwrap();
    let error = paused.save(Deadline::after(Duration::ZERO)).unwrap_err();
    assert!(matches!(error, VmmError::PauseTooLong { .. }), "{error}");
    assert!(!vm.is_running());
    qemu.resume().unwrap();
    qemu.discard(true).unwrap();
    assert_untouched(&vm, &before);
}

#[test]
fn copies_that_stand_still_are_given_up() {
    let scratch = scratch();
    let (vm, before, mut qemu) = boot(&scratch);
    qemu.stall = Duration::from_millis(500);
    let plan = plan(&mut qemu, &state_dir(scratch.path(), "snapshot"));
    let prepared = qemu.prepare(&plan).unwrap();
    let paused = prepared.pause().unwrap();
    let secured = paused.save(Deadline::after(PAUSE_LIMIT)).unwrap();
    let resumed = secured.resume().unwrap();
    vm.qmp("job-pause", &json!({"id": "hypeman-snap-copy0"}));
    let error = resumed.finish().unwrap_err();
    assert!(matches!(error, VmmError::TimedOut { .. }), "{error}");
    assert!(error.to_string().contains("progress"), "{error}");
    qemu.discard(true).unwrap();
    assert_untouched(&vm, &before);
}

#[test]
fn a_vmm_that_hangs_costs_its_time_limit_and_goes_on_when_it_wakes() {
    let scratch = scratch();
    let vm = TestVm::boot(&VmOptions::new(scratch.path()));
    let before = vm.traces();
    let limit = Duration::from_millis(300);
    let mut qemu = Qemu::connect(vm.socket(), within(limit)).unwrap();
    let plan = plan(&mut qemu, &state_dir(scratch.path(), "snapshot"));
    let prepared = qemu.prepare(&plan).unwrap();
    let paused = prepared.pause().unwrap();
    signal(&vm, Signal::STOP);
    let start = Instant::now();
    for result in [
        paused.save(Deadline::after(PAUSE_LIMIT)).map(drop),
        qemu.resume(),
        qemu.discard(true),
    ] {
        let error = result.unwrap_err();
        assert!(matches!(error, VmmError::TimedOut { .. }), "{error}");
    }
    // The calls after the first ask anew: the guest is at stake.
    let took = start.elapsed();
    assert!(took >= 3 * limit && took < 12 * limit, "{took:?}");
    signal(&vm, Signal::CONT);
    drop(qemu);
    let mut qemu = connect(&vm);
    qemu.resume().unwrap();
    qemu.discard(true).unwrap();
    assert_untouched(&vm, &before);
}

#[test]
fn a_vmm_that_dies_in_the_pause_is_said_to_be_gone() {
    let scratch = scratch();
    let (vm, _, mut qemu) = boot(&scratch);
    let plan = plan(&mut qemu, &state_dir(scratch.path(), "snapshot"));
    let prepared = qemu.prepare(&plan).unwrap();
    let paused = prepared.pause().unwrap();
    vm.kill();
    for result in [
        paused.save(Deadline::after(PAUSE_LIMIT)).map(drop),
        qemu.resume(),
        qemu.discard(true),
    ] {
        let error = result.unwrap_err();
        assert!(matches!(error, VmmError::Closed { .. }), "{error}");
    }
}
