//! What a process leaves that dies in a capture, and how the next one finds it.

use super::*;

/// How far a capture gets before its process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Prepared,
    Paused,
    Saved,
    Resumed,
}

fn dies_after(step: Step) {
    let scratch = scratch();
    let vm = TestVm::boot(&VmOptions {
        disks: 2,
        ..VmOptions::new(scratch.path())
    });
    let before = vm.traces();
    let mut dying = connect(&vm);
    let plan = plan(&mut dying, &state_dir(scratch.path(), "snapshot"));
    let process = dying.process();
    let prepared = dying.prepare(&plan).unwrap();
    if step == Step::Prepared {
        drop(prepared);
    } else {
        let paused = prepared.pause().unwrap();
        if step >= Step::Saved {
            let secured = paused.save(Deadline::after(PAUSE_LIMIT)).unwrap();
            if step >= Step::Resumed {
                drop(secured.resume().unwrap());
            }
        }
    }
    drop(dying);
    assert_ne!(vm.traces(), before, "{step:?}");

    let mut next = connect(&vm);
    assert_eq!(next.process(), process);
    assert!(process.is_some());
    if step >= Step::Paused {
        next.resume().unwrap();
    }
    next.discard(step >= Step::Paused).unwrap();
    assert_untouched(&vm, &before);
    // And the next capture is whole.
    let plan = super::plan(&mut next, &state_dir(scratch.path(), "next"));
    let tick = vm.wait_next_tick();
    capture(&mut next, &plan).unwrap();
    assert_untouched(&vm, &before);
    assert_goes_on(&vm, &plan, tick);
}

#[test]
fn after_the_preparation() {
    dies_after(Step::Prepared);
}

#[test]
fn in_the_pause() {
    dies_after(Step::Paused);
}

#[test]
fn between_save_and_resume() {
    dies_after(Step::Saved);
}

#[test]
fn behind_the_running_guest() {
    dies_after(Step::Resumed);
}

#[test]
fn a_discard_finds_nothing_and_changes_nothing_in_a_vm_of_which_nobody_took_a_snapshot() {
    let scratch = scratch();
    let vm = TestVm::boot(&VmOptions::new(scratch.path()));
    let before = vm.traces();
    let mut qemu = connect(&vm);
    qemu.discard(true).unwrap();
    qemu.resume().unwrap();
    assert_untouched(&vm, &before);
    assert_eq!(vm.pauses_ms(), Vec::<f64>::new());
}
