//! Guests whose memory QEMU can't save behind their back: it is saved in the pause.

use serde_json::Value;

use super::*;

/// A VM whose memory can't be protected, whatever the kernel.
fn boot(scratch: &TempDir) -> TestVm {
    TestVm::boot(&VmOptions {
        file_ram: true,
        ..VmOptions::new(scratch.path())
    })
}

fn bandwidth(vm: &TestVm) -> Value {
    vm.qmp("query-migrate-parameters", &json!({}))["max-bandwidth"].clone()
}

#[test]
fn memory_and_disks_are_saved_in_the_pause_and_the_user_is_told_why() {
    let scratch = scratch();
    let vm = boot(&scratch);
    vm.qmp(
        "migrate-set-parameters",
        &json!({"max-bandwidth": 1_234_567}),
    );
    let before = vm.traces();
    let mut qemu = connect(&vm);
    let plan = plan(&mut qemu, &state_dir(scratch.path(), "snapshot"));
    let tick = vm.wait_next_tick();
    let saved = capture(&mut qemu, &plan).unwrap();
    let [warning] = saved.warnings.as_slice() else {
        panic!("{:?}", saved.warnings);
    };
    assert!(warning.contains("memory and disks"), "{warning}");
    assert!(warning.contains("memory configuration"), "{warning}");
    assert_untouched(&vm, &before);
    assert_eq!(bandwidth(&vm), 1_234_567);
    let pauses = vm.pauses_ms();
    assert_eq!(pauses.len(), 1, "{pauses:?}");
    assert!((saved.pause.as_secs_f64() * 1e3 - pauses[0]).abs() < 0.01);
    assert_goes_on(&vm, &plan, tick);
}

#[test]
fn what_only_the_preparation_finds_out_is_foreseen_by_it() {
    let scratch = scratch();
    let vm = boot(&scratch);
    let mut qemu = connect(&vm);
    assert!(!qemu.outlook().unwrap().saves_in_pause());
    let plan = plan(&mut qemu, &state_dir(scratch.path(), "snapshot"));
    let worse = qemu.prepare(&plan).unwrap().worse().unwrap();
    assert!(worse.saves_in_pause());
    assert!(worse.remedy.unwrap().contains("private memory"));
    qemu.discard(false).unwrap();
}

#[test]
fn a_process_that_dies_in_such_a_pause_leaves_a_guest_that_the_next_one_resumes() {
    let scratch = scratch();
    let vm = boot(&scratch);
    let before = vm.traces();
    let bandwidth_before = bandwidth(&vm);
    let mut dying = connect(&vm);
    let mut plan = plan(&mut dying, &state_dir(scratch.path(), "snapshot"));
    // The caller has cloned the disks.
    plan.disks.clear();
    let prepared = dying.prepare(&plan).unwrap();
    let paused = prepared.pause().unwrap();
    let secured = paused.save(Deadline::after(PAUSE_LIMIT)).unwrap();
    drop(secured);
    drop(dying);
    assert_eq!(vm.status(), "postmigrate");
    assert_ne!(bandwidth(&vm), bandwidth_before);
    let mut next = connect(&vm);
    assert_eq!(next.state().unwrap(), VmmState::Paused);
    next.resume().unwrap();
    next.discard(true).unwrap();
    assert_untouched(&vm, &before);
    assert_eq!(bandwidth(&vm), bandwidth_before);
}

#[test]
fn a_guest_is_resumed_out_of_a_save_that_goes_on_and_is_not_stopped_by_its_end() {
    let scratch = scratch();
    let vm = boot(&scratch);
    let before = vm.traces();
    let mut dying = connect(&vm);
    let plan = plan(&mut dying, &state_dir(scratch.path(), "snapshot"));
    drop(dying.prepare(&plan).unwrap().pause().unwrap());
    drop(dying);
    // A save that is so slow that the process dies in it.
    vm.qmp("migrate-set-parameters", &json!({"max-bandwidth": 4096}));
    let target = scratch.path().join("target");
    let listener = std::os::unix::net::UnixListener::bind(&target).unwrap();
    vm.qmp(
        "migrate",
        &json!({"uri": format!("unix:{}", target.display())}),
    );
    let _connection = listener.accept().unwrap();
    let mut next = connect(&vm);
    next.resume().unwrap();
    assert_eq!(
        vm.qmp("query-migrate", &json!({}))["status"],
        json!("cancelled")
    );
    next.discard(true).unwrap();
    assert_untouched(&vm, &before);
}

#[test]
fn such_a_pause_ends_at_its_limit() {
    let scratch = scratch();
    let vm = boot(&scratch);
    let before = vm.traces();
    let mut qemu = connect(&vm);
    let plan = plan(&mut qemu, &state_dir(scratch.path(), "snapshot"));
    let prepared = qemu.prepare(&plan).unwrap();
    let paused = prepared.pause().unwrap();
    let error = paused
        .save(Deadline::after(Duration::from_millis(20)))
        .unwrap_err();
    assert!(matches!(error, VmmError::PauseTooLong { .. }), "{error}");
    assert!(!vm.is_running());
    qemu.resume().unwrap();
    qemu.discard(true).unwrap();
    assert_untouched(&vm, &before);
}

#[test]
fn shared_memory_gives_a_whole_snapshot_whether_or_not_it_can_be_protected() {
    let scratch = scratch();
    let vm = TestVm::boot(&VmOptions {
        shared_ram: true,
        ..VmOptions::new(scratch.path())
    });
    let before = vm.traces();
    let mut qemu = connect(&vm);
    let plan = plan(&mut qemu, &state_dir(scratch.path(), "snapshot"));
    let tick = vm.wait_next_tick();
    let saved = capture(&mut qemu, &plan).unwrap();
    for warning in &saved.warnings {
        assert!(warning.contains("private memory"), "{warning}");
    }
    assert_untouched(&vm, &before);
    assert_goes_on(&vm, &plan, tick);
}
