//! `snapshots -o wide`: what snapshots really take; and that reading them leaves the disk to others.

#![cfg(test)]

use std::fs;
use std::process::Command;

use serde_json::Value;
use support::filesystems::{Kind, Mount};
use support::skip::skipped;
use support::vm_host::{ID, VmHost};

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");

#[test]
fn shared_and_compressed_bytes_are_told_where_they_are_asked_for() {
    let Some(mount) = Mount::create(Kind::Xfs, 600) else {
        return;
    };
    let host = VmHost::boot(TOOL, &mount.path(), |options| options.ram_mib = 64);
    host.tool_ok(&[
        "set",
        ID,
        "--interval",
        "1h",
        "--max-count",
        "5",
        "--compress",
        "lz4",
    ]);
    host.vm.wait_ticks_beyond(100);
    host.snapshot();
    host.vm.wait_next_tick();
    host.snapshot();
    let wide = host.tool_ok(&["snapshots", ID, "-o", "wide"]);
    let header: Vec<&str> = wide
        .lines()
        .next()
        .unwrap()
        .split("  ")
        .filter(|it| !it.is_empty())
        .collect();
    let header: Vec<&str> = header.iter().map(|it| it.trim()).collect();
    assert_eq!(
        header,
        [
            "ID",
            "NAME",
            "KIND",
            "INSTANCE",
            "CREATED",
            "LENGTH",
            "ON DISK",
            "SHARED",
            "COMPRESSED",
            "MADE",
            "STAYS"
        ]
    );
    assert_eq!(
        wide.lines().filter(|line| line.contains(" of ")).count(),
        2,
        "{wide}"
    );
    let all = host.json(&["snapshots", ID]);
    for snapshot in all.as_array().unwrap() {
        let number = |key: &str| {
            snapshot[key]
                .as_u64()
                .unwrap_or_else(|| panic!("{key}: {snapshot}"))
        };
        // The disk's blocks are the VM's and the other snapshot's, too; memory is nobody else's.
        let (shared, on_disk) = (number("shared_bytes"), number("disk_bytes"));
        assert!(shared > 0 && shared <= on_disk, "{snapshot}");
        assert!(
            number("compressed_bytes") < number("uncompressed_bytes"),
            "{snapshot}"
        );
        assert!(number("compressed_bytes") < on_disk, "{snapshot}");
    }
    // What looks at each piece of each file is left out where nobody named an instance.
    let all = host.json(&["snapshots"]);
    assert!(all[0]["shared_bytes"].is_null(), "{all}");
    assert!(!host.tool_ok(&["snapshots", ID]).contains("SHARED"));
}

/// The priorities that a command's threads ask for at the disk, in their order.
fn priorities(host: &VmHost, arguments: &[&str]) -> Option<Vec<String>> {
    let trace = host.state_dir().join("trace");
    let mut strace = Command::new("strace");
    host.environment(&mut strace);
    let output = strace
        .args(["-f", "-qq", "-e", "trace=ioprio_set", "-o"])
        .arg(&trace)
        .arg(host.binary())
        .args(arguments)
        .output();
    let Ok(output) = output else {
        skipped("who waits for the disk: install strace");
        return None;
    };
    assert!(output.status.success(), "{output:?}");
    let text = fs::read_to_string(&trace).unwrap();
    Some(text.lines().map(str::to_owned).collect())
}

#[test]
fn digests_and_verify_leave_the_disk_to_others_and_take_it_again() {
    let place = tempfile::tempdir().unwrap();
    let host = VmHost::boot(TOOL, place.path(), |options| options.ram_mib = 64);
    host.schedule(3);
    host.vm.wait_ticks_beyond(100);
    for arguments in [&["run-due", "--force"][..], &["verify", "--read"]] {
        let Some(asked) = priorities(&host, arguments) else {
            return;
        };
        let is_idle = |line: &&String| line.contains("IOPRIO_CLASS_IDLE");
        let idle = asked.iter().filter(is_idle).count();
        assert!(
            idle > 0 && idle * 2 == asked.len(),
            "{arguments:?}: {asked:?}"
        );
        assert!(!is_idle(&asked.last().unwrap()), "{asked:?}");
    }
    let listed: Value = host.json(&["snapshots"]);
    assert!(listed[0]["verified_at"].is_string(), "{listed}");
}
