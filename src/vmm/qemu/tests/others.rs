//! Other clients of the same VMM: their pauses, migrations and settings are theirs.

use std::os::unix::net::UnixListener;

use super::*;

#[test]
fn a_pause_of_somebody_else_stays() {
    let scratch = scratch();
    let vm = TestVm::boot(&VmOptions::new(scratch.path()));
    let mut qemu = connect(&vm);
    let plan = plan(&mut qemu, &state_dir(scratch.path(), "snapshot"));
    let prepared = qemu.prepare(&plan).unwrap();
    vm.qmp("stop", &json!({}));
    let error = prepared.pause().unwrap_err();
    assert!(matches!(error, VmmError::PausedByOthers), "{error}");
    qemu.resume().unwrap();
    qemu.discard(false).unwrap();
    assert_eq!(qemu.state().unwrap(), VmmState::Paused);
    assert_eq!(vm.status(), "paused");
    assert_eq!(vm.jobs(), Vec::<String>::new());
}

#[test]
fn a_pause_of_somebody_else_after_ours_stays() {
    let scratch = scratch();
    let vm = TestVm::boot(&VmOptions::new(scratch.path()));
    let mut qemu = connect(&vm);
    let plan = plan(&mut qemu, &state_dir(scratch.path(), "snapshot"));
    let prepared = qemu.prepare(&plan).unwrap();
    let paused = prepared.pause().unwrap();
    let secured = paused.save(Deadline::after(PAUSE_LIMIT)).unwrap();
    let resumed = secured.resume().unwrap();
    vm.qmp("stop", &json!({}));
    resumed.finish().unwrap();
    qemu.resume().unwrap();
    assert_eq!(vm.status(), "paused");
}

#[test]
fn a_guest_that_somebody_resumes_in_the_pause_gives_no_snapshot() {
    let scratch = scratch();
    let vm = TestVm::boot(&VmOptions::new(scratch.path()));
    let before = vm.traces();
    let mut qemu = connect(&vm);
    let plan = plan(&mut qemu, &state_dir(scratch.path(), "snapshot"));
    let prepared = qemu.prepare(&plan).unwrap();
    let paused = prepared.pause().unwrap();
    vm.qmp("cont", &json!({}));
    let error = paused.save(Deadline::after(PAUSE_LIMIT)).unwrap_err();
    assert!(error.to_string().contains("somebody else"), "{error}");
    qemu.resume().unwrap();
    qemu.discard(true).unwrap();
    assert_untouched(&vm, &before);
}

#[test]
fn a_migration_of_somebody_else_goes_on() {
    let scratch = scratch();
    let vm = TestVm::boot(&VmOptions::new(scratch.path()));
    let target = scratch.path().join("target");
    let listener = UnixListener::bind(&target).unwrap();
    vm.qmp("migrate-set-parameters", &json!({"max-bandwidth": 4096}));
    let uri = format!("unix:{}", target.display());
    vm.qmp("migrate", &json!({"uri": uri}));
    let _connection = listener.accept().unwrap();
    let mut qemu = connect(&vm);
    let plan = plan(&mut qemu, &state_dir(scratch.path(), "snapshot"));
    let error = qemu.prepare(&plan).unwrap_err().to_string();
    assert!(error.contains("migrating"), "{error}");
    qemu.discard(false).unwrap();
    let status = vm.qmp("query-migrate", &json!({}));
    assert_eq!(status["status"], "active");
    let bandwidth = vm.qmp("query-migrate-parameters", &json!({}));
    assert_eq!(bandwidth["max-bandwidth"], 4096);
}

#[test]
fn a_capability_that_was_on_is_on_again() {
    let scratch = scratch();
    let vm = TestVm::boot(&VmOptions::new(scratch.path()));
    let on = json!({"capabilities": [{"capability": "background-snapshot", "state": true}]});
    vm.qmp("migrate-set-capabilities", &on);
    let before = vm.traces();
    let mut qemu = connect(&vm);
    let plan = plan(&mut qemu, &state_dir(scratch.path(), "snapshot"));
    capture(&mut qemu, &plan).unwrap();
    assert_untouched(&vm, &before);
}

/// Switches a capability on, as somebody would; whether this QEMU knows it and has it on then.
fn leave_on(vm: &TestVm, capability: &str) -> bool {
    let one = json!({"capabilities": [{"capability": capability, "state": true}]});
    vm.try_qmp("migrate-set-capabilities", &one).is_ok()
}

#[test]
fn capabilities_that_somebody_left_on_spoil_no_snapshot_and_are_on_again() {
    let scratch = scratch();
    let vm = TestVm::boot(&VmOptions {
        shared_ram: true,
        ..VmOptions::new(scratch.path())
    });
    // With the first one alone shared memory would not be in the file at all.
    assert!(leave_on(&vm, "x-ignore-shared"));
    for more in [
        "compress",
        "block",
        "return-path",
        "multifd",
        "postcopy-ram",
        "x-colo",
        "auto-converge",
        "pause-before-switchover",
        "events",
    ] {
        leave_on(&vm, more);
    }
    let before = vm.traces();
    assert!(before.capabilities.len() > 5, "{before:?}");
    let mut qemu = connect(&vm);
    let plan = plan(&mut qemu, &state_dir(scratch.path(), "snapshot"));
    let tick = vm.wait_next_tick();
    capture(&mut qemu, &plan).unwrap();
    assert_untouched(&vm, &before);
    assert_goes_on(&vm, &plan, tick);

    // After a capture that is given up, too.
    let given_up = SavePlan {
        state_dir: Some(Beneath::open(&state_dir(scratch.path(), "given-up")).unwrap()),
        base: None,
        socket_dir: None,
        disks: Vec::new(),
    };
    let prepared = qemu.prepare(&given_up).unwrap();
    assert_ne!(vm.traces().capabilities, before.capabilities);
    drop(prepared);
    qemu.discard(false).unwrap();
    assert_untouched(&vm, &before);
}

#[test]
fn the_settings_of_a_capture_whose_process_died_are_put_back_by_the_next_one() {
    let scratch = scratch();
    let vm = TestVm::boot(&VmOptions::new(scratch.path()));
    assert!(leave_on(&vm, "x-ignore-shared"));
    let before = vm.traces();
    let mut dying = connect(&vm);
    let plan = plan(&mut dying, &state_dir(scratch.path(), "snapshot"));
    let settings = dying.settings().unwrap();
    drop(dying.prepare(&plan).unwrap());
    drop(dying);
    let mut next = connect(&vm);
    next.know_settings(settings);
    next.discard(false).unwrap();
    assert_untouched(&vm, &before);
}

#[test]
fn a_monitor_that_another_client_holds_is_named_as_such() {
    let scratch = scratch();
    let vm = TestVm::boot(&VmOptions::new(scratch.path()));
    let _holder = connect(&vm);
    let limit = Duration::from_millis(300);
    // A client that gave up keeps its place in the socket's queue: in the end even the connect is not taken.
    for _ in 0..4 {
        let error = Qemu::connect(vm.socket(), within(limit)).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, VmmError::TimedOut { .. }), "{text}");
        assert!(text.contains("another client"), "{text}");
    }
}
