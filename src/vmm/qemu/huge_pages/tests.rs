//! What a page is by the kernel's word, and a real guest whose snapshots leave its huge pages whole.

use support::qemu::{TestVm, VmOptions};
use support::skip::skipped;

use super::*;

fn class(bits: u64, may_be_shared: bool) -> Page {
    page_of(&PageInfo::parse_info(bits), may_be_shared)
}

#[test]
fn pages_are_told_apart_by_the_bits_of_the_kernel() {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const FILE: u64 = 1 << 61;
    const EXCLUSIVE: u64 = 1 << 56;
    for (bits, alone, among_others) in [
        (0, Page::Empty, Page::Empty),
        (PRESENT | EXCLUSIVE, Page::Own, Page::Own),
        (PRESENT, Page::Empty, Page::Foreign),
        (PRESENT | FILE, Page::Empty, Page::Foreign),
        (PRESENT | FILE | EXCLUSIVE, Page::Empty, Page::Foreign),
        (SWAPPED, Page::Foreign, Page::Foreign),
        (SWAPPED | EXCLUSIVE | 77, Page::Foreign, Page::Foreign),
    ] {
        assert_eq!(class(bits, false), alone, "{bits:x}");
        assert_eq!(class(bits, true), among_others, "{bits:x}");
    }
}

/// What the VM has in huge pages, and in memory at all, in bytes.
fn memory(vm: &TestVm) -> (u64, u64) {
    let process = process::Process::new(vm.pid().try_into().unwrap()).unwrap();
    let all = process.smaps_rollup().unwrap().memory_map_rollup;
    let sum = |key: &str| {
        all.iter()
            .filter_map(|map| map.extension.map.get(key))
            .sum()
    };
    (sum("AnonHugePages"), sum("Rss"))
}

#[test]
fn snapshots_leave_a_guest_its_huge_pages_and_its_memory_no_larger() {
    use super::super::tests::{capture, connect, plan, scratch, state_dir};
    let scratch = scratch();
    let vm = TestVm::boot(&VmOptions::new(scratch.path()));
    let mut qemu = connect(&vm);
    let process = qemu.process.clone().unwrap();
    if let (_, Some(obstacle)) = foresee(&process, Watch::unlimited()) {
        return skipped(&format!("huge pages of a guest: {obstacle}"));
    }
    vm.wait_next_tick();
    let (huge_before, taken_before) = memory(&vm);
    for index in 0..4 {
        let directory = state_dir(scratch.path(), &format!("snapshot{index}"));
        let plan = plan(&mut qemu, &directory);
        capture(&mut qemu, &plan).unwrap();
        vm.wait_next_tick();
    }
    let (huge, taken) = memory(&vm);
    let (small, _) = foresee(&process, Watch::unlimited());
    assert!(small < taken / 4, "{small} of {taken}");
    assert!(huge >= huge_before / 10 * 9, "{huge_before} -> {huge}");
    // The guest goes on as well, and QEMU takes some for its answers.
    let most = taken_before + taken_before / 8 + (16 << 20);
    assert!(taken <= most, "{taken_before} -> {taken}");
    assert_eq!(vm.torn_lines(), Vec::<String>::new());
}

#[test]
fn a_process_that_has_ended_is_no_target() {
    let mut child = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let process = Process::of(pid).unwrap();
    let another = Process {
        start_ticks: process.start_ticks + 1,
        ..process
    };
    let refused = rebuild(&another, Watch::unlimited());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(refused.is_err());
}
