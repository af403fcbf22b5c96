//! `set --method migrate`: Cloud Hypervisor's memory comes by a migration that is refused at its end. The guest goes on whatever
//! becomes of the tool meanwhile.

#![cfg(test)]

use std::fs;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::cli::Host;
use support::fake_vmm::Dialect;
use support::filesystems::{Kind, Mount};
use support::micro_vm::{self, MicroVm};

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");
const ID: &str = "vm-a";

/// A host with a counting guest of a real Cloud Hypervisor, whose disks and snapshots are below `place`.
fn scene(place: &std::path::Path) -> Option<(Host, MicroVm)> {
    let binary = micro_vm::binary(Dialect::CloudHypervisor)?;
    let host = Host::new_in(TOOL, place);
    let (writable, read_only) = (host.dir().join("rw.raw"), host.dir().join("ro.raw"));
    fs::write(&writable, vec![1; 1 << 20]).unwrap();
    fs::write(&read_only, vec![2; 1 << 20]).unwrap();
    let vm = MicroVm::boot(Dialect::CloudHypervisor, &binary, &writable, &read_only);
    host.register(ID, "cloud-hypervisor", vm.socket());
    host.run(&[
        "set",
        ID,
        "--interval",
        "1h",
        "--max-count",
        "9",
        "--method",
        "migrate",
    ])
    .exits(0);
    vm.wait_ticks_beyond(5);
    Some((host, vm))
}

fn assert_counts(vm: &MicroVm) {
    vm.wait_ticks_beyond(*vm.ticks().last().unwrap());
}

#[test]
fn memory_that_came_by_a_migration_comes_back_as_any_other() {
    let place = tempfile::tempdir_in("/tmp").unwrap();
    let Some((host, mut vm)) = scene(place.path()) else {
        return;
    };
    let mut taken: Vec<(String, u64, u64)> = Vec::new();
    for _ in 0..3 {
        let before = *vm.ticks().last().unwrap();
        let said = host.run(&["-o", "json", "run-due", "--force"]).exits(0);
        let result: Value = said.json()["results"][0].clone();
        assert_eq!(result["outcome"], "snapshotted", "{result}");
        assert!(
            !said.json()["warnings"].to_string().contains("--method"),
            "{}",
            said.json()
        );
        let after = vm.wait_ticks_beyond(*vm.ticks().last().unwrap());
        taken.push((
            result["snapshot_id"].as_str().unwrap().to_owned(),
            before,
            after,
        ));
    }
    host.run(&["verify", "--read"]).exits(0);
    let said = host
        .run(&["-o", "json", "rehearse", "--expect", "tick [0-9]+"])
        .exits(0);
    assert_eq!(said.json()[0]["outcome"], "alive", "{}", said.json());
    assert_counts(&vm);
    vm.stop();
    let binary = micro_vm::binary(Dialect::CloudHypervisor).unwrap();
    for (id, before, after) in taken {
        let guest = host.data_dir().join("snapshots").join(id).join("guest");
        let copies = tempfile::tempdir().unwrap();
        for name in ["config.json", "state.json", "memory-ranges"] {
            fs::copy(
                guest.join("snapshots/snapshot-latest").join(name),
                copies.path().join(name),
            )
            .unwrap();
        }
        let mut restored = MicroVm::restore(Dialect::CloudHypervisor, &binary, copies.path());
        restored.assert_goes_on_between(before, after);
        restored.stop();
        fs::write(restored_serial(copies.path()), "").unwrap();
    }
}

/// The serial line's file, which each restore of the test support wants to be there.
fn restored_serial(state: &std::path::Path) -> std::path::PathBuf {
    let config: Value =
        serde_json::from_slice(&fs::read(state.join("config.json")).unwrap()).unwrap();
    config["serial"]["file"].as_str().unwrap().into()
}

#[test]
fn the_guest_goes_on_when_the_tool_is_killed_stopped_or_told_to_end_at_any_moment() {
    let place = tempfile::tempdir_in("/tmp").unwrap();
    let Some((host, vm)) = scene(place.path()) else {
        return;
    };
    for number in 0..24_u64 {
        let mut command = host.std_command();
        command.args(["-q", "run-due", "--force"]);
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let pid = Pid::from_child(&child);
        sleep(Duration::from_millis(15 * (number / 3)));
        match number % 3 {
            0 => kill_process(pid, Signal::KILL).unwrap_or(()),
            1 => kill_process(pid, Signal::TERM).unwrap_or(()),
            // Others take their time, and so may it.
            _ => {
                kill_process(pid, Signal::STOP).unwrap();
                sleep(Duration::from_millis(200));
                kill_process(pid, Signal::CONT).unwrap();
            }
        }
        child.wait().unwrap();
        assert_counts(&vm);
    }
    // One more run puts all right.
    host.run(&["run-due", "--force"]).exits(0);
    assert_counts(&vm);
    host.run(&["verify", "--read"]).exits(0);
    assert!(fs::read_dir(host.state_dir().join("journal")).map_or(0, Iterator::count) == 0);
}

/// Runs the tool until its nth call of one of these, at which it is killed; whether it came that far.
fn killed_at(host: &Host, calls: &str, nth: u32) -> bool {
    let tool = host.std_command();
    let mut strace = std::process::Command::new("strace");
    for (name, value) in tool.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    let status = strace
        .args(["-f", "-qq", "-o", "/dev/null", "-e"])
        .arg(format!("inject={calls}:signal=KILL:when={nth}"))
        .args(["-e", &format!("trace={calls}")])
        .arg(tool.get_program())
        .args(tool.get_args())
        .args(["-q", "run-due", "--force"])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    !status.success()
}

/// It answers each command of the migration with one `write`, and takes each in with `read` or `recvfrom`.
#[test]
fn the_guest_goes_on_when_the_tool_dies_at_any_command_of_the_migration() {
    let place = tempfile::tempdir_in("/tmp").unwrap();
    if std::process::Command::new("strace")
        .arg("-V")
        .output()
        .is_err()
    {
        support::skip::skipped("a death at each command: install strace");
        return;
    }
    let Some((host, vm)) = scene(place.path()) else {
        return;
    };
    let mut deaths = 0;
    for nth in 1..200 {
        if !killed_at(&host, "write,sendto", nth) {
            break;
        }
        deaths += 1;
        assert_counts(&vm);
    }
    assert!(deaths >= 8, "only {deaths}");
    host.run(&["run-due", "--force"]).exits(0);
    assert_counts(&vm);
    host.run(&["verify", "--read"]).exits(0);
}

#[test]
fn a_full_disk_fails_and_the_guest_goes_on() {
    let Some(mount) = Mount::create(Kind::Tmpfs, 40) else {
        return;
    };
    let Some((host, vm)) = scene(&mount.path()) else {
        return;
    };
    let said = host.run(&["run-due", "--force"]).exits(1);
    said.complains(&["vm-a"]);
    assert_counts(&vm);
    assert!(host.snapshots().is_empty());
}
