//! `rehearse`: a throw-away VM lives or does not, leaves nothing behind, and the VM beside it notices nothing.

#![cfg(test)]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::cli::Host;
use support::disk::DiskFormat;
use support::fake_vmm::Dialect;
use support::linux_guest::LinuxGuest;
use support::micro_vm::{self, MicroVm};
use support::vm_host::{ID, VmHost};
use support::wait::wait_until;

/// A host whose VM has run for a while and has a snapshot.
fn with_snapshot(place: &Path, format: DiskFormat, disks: usize) -> VmHost {
    let host = VmHost::boot(env!("CARGO_BIN_EXE_hypeman-snap"), place, |options| {
        options.disk_format = format;
        options.disks = disks;
    });
    host.schedule(3);
    host.vm.wait_ticks_beyond(100);
    host.json(&["run-due", "--force", "-o", "json"]);
    host
}

fn rehearse(host: &VmHost, more: &[&str]) -> (Option<i32>, Value) {
    let output = host.tool(&[&["rehearse", "-o", "json"], more].concat());
    let json = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), json)
}

fn alive_beside_the_original(format: DiskFormat, disks: usize) {
    let place = tempfile::tempdir().unwrap();
    let host = with_snapshot(place.path(), format, disks);
    let before = host.vm.wait_next_tick();
    let (code, json) = rehearse(&host, &[ID, "--expect", "^tick [0-9]+"]);
    assert_eq!(
        (code, json[0]["outcome"].as_str()),
        (Some(0), Some("alive")),
        "{json}"
    );
    host.vm.wait_ticks_beyond(before + 40);
    assert_eq!(host.vm.torn_lines(), Vec::<String>::new());
}

#[test]
fn a_good_snapshot_lives_beside_its_vm_raw() {
    alive_beside_the_original(DiskFormat::Raw, 2);
}

#[test]
fn a_good_snapshot_lives_beside_its_vm_qcow2() {
    alive_beside_the_original(DiskFormat::Qcow2, 1);
}

/// The processes that a rehearsal of this host left, by what the tool gives them.
fn left_running(host: &VmHost) -> Vec<u32> {
    let mark = format!("HYPEMAN_SNAP_REHEARSAL={}", host.data_dir().display());
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let name = entry.ok()?.file_name();
        let pid: u32 = name.to_str()?.parse().ok()?;
        let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
        let is_its = environment
            .split(|byte| *byte == 0)
            .any(|it| it.starts_with(mark.as_bytes()));
        is_its.then_some(pid)
    });
    pids.collect()
}

fn assert_nothing_is_left(host: &VmHost) {
    assert_eq!(left_running(host), Vec::<u32>::new());
    assert!(!host.data_dir().join("rehearsals").exists());
    assert_eq!(host.journals(), Vec::<String>::new());
}

/// Inode, length and last change of each file below `dir`, but of the verdict, which a rehearsal writes.
fn files(dir: &Path) -> Vec<(PathBuf, u64, u64, i64, i64)> {
    let mut all = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                dirs.push(entry.path());
            } else if entry.file_name() != "hypeman-snap-verified.json" {
                let (changed, nanos) = (metadata.ctime(), metadata.ctime_nsec());
                all.push((entry.path(), metadata.ino(), metadata.len(), changed, nanos));
            }
        }
    }
    all.sort();
    all
}

#[test]
fn the_vm_beside_it_and_the_snapshot_are_untouched_and_nothing_is_left() {
    let place = tempfile::tempdir().unwrap();
    let host = with_snapshot(place.path(), DiskFormat::Raw, 1);
    let id = host.store_names()[0].clone();
    let stored = files(&host.snapshot_dir(&id));
    let serial = host.vm.serial_path();
    let (inode, said) = (fs::metadata(&serial).unwrap().ino(), host.vm.serial());
    let disk = fs::metadata(&host.vm.disks()[0]).unwrap().ino();
    let (code, json) = rehearse(&host, &["--timeout", "3s"]);
    assert_eq!(
        (code, json[0]["outcome"].as_str()),
        (Some(0), Some("alive")),
        "{json}"
    );
    assert_nothing_is_left(&host);
    assert_eq!(stored, files(&host.snapshot_dir(&id)));
    assert_eq!(fs::metadata(&serial).unwrap().ino(), inode);
    assert!(host.vm.serial().starts_with(&said));
    assert_eq!(fs::metadata(&host.vm.disks()[0]).unwrap().ino(), disk);
    assert!(host.vm.is_running());
    // It is kept with the snapshot, and says nothing of whether that is usable.
    let listed = &host.snapshots()[0];
    assert_eq!(listed["rehearsed_alive"], true, "{listed}");
    assert!(listed["rehearsed_at"].is_string(), "{listed}");
    let (code, json) = rehearse(&host, &["--newer-than", "1h"]);
    assert_eq!((code, json), (Some(0), Value::Array(Vec::new())));
}

/// Overwrites each piece of the guest's program in a file with an instruction that no processor knows.
fn spoil_program(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let kernel = fs::read(support::vm_options::guest_kernel()).unwrap();
    let mut spoilt = 0;
    for piece in kernel
        .chunks_exact(64)
        .filter(|piece| piece.iter().filter(|it| **it != 0).count() > 32)
    {
        let mut from = 0;
        while let Some(at) = bytes[from..].windows(64).position(|it| it == piece) {
            let at = from + at;
            bytes[at..at + 64].copy_from_slice(&[0x0f, 0x0b].repeat(32));
            spoilt += 1;
            from = at + 64;
        }
    }
    assert!(spoilt > 4, "only {spoilt} pieces were found");
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_guest_that_boots_anew_is_dead() {
    let place = tempfile::tempdir().unwrap();
    let host = with_snapshot(place.path(), DiskFormat::Raw, 1);
    let id = host.store_names()[0].clone();
    let memory = host
        .snapshot_dir(&id)
        .join("guest/snapshots/snapshot-latest/memory");
    spoil_program(&memory);
    let (code, json) = rehearse(&host, &[&id]);
    assert_eq!(
        (code, json[0]["outcome"].as_str()),
        (Some(1), Some("dead")),
        "{json}"
    );
    assert_eq!(json[0]["detail"], "it boots anew", "{json}");
    assert_nothing_is_left(&host);
    let listed = &host.snapshots()[0];
    assert_eq!(listed["rehearsed_alive"], false, "{listed}");
    assert_eq!(listed["usable"], true, "{listed}");
}

#[test]
fn memory_that_qemu_refuses_is_dead_and_its_words_are_told() {
    let place = tempfile::tempdir().unwrap();
    let host = with_snapshot(place.path(), DiskFormat::Raw, 1);
    let id = host.store_names()[0].clone();
    let memory = host
        .snapshot_dir(&id)
        .join("guest/snapshots/snapshot-latest/memory");
    let file = File::options().write(true).open(&memory).unwrap();
    file.write_all_at(&[0xff; 4096], 64).unwrap();
    let (code, json) = rehearse(&host, &[ID]);
    assert_eq!(
        (code, json[0]["outcome"].as_str()),
        (Some(1), Some("dead")),
        "{json}"
    );
    let detail = json[0]["detail"].as_str().unwrap();
    assert!(
        detail.contains("it said:") && detail.contains("qemu"),
        "{detail}"
    );
    assert_nothing_is_left(&host);
}

/// Makes the table of tables of a qcow2 image lead nowhere.
fn spoil_image(image: &Path) {
    let file = File::options().read(true).write(true).open(image).unwrap();
    let mut table = [0; 8];
    file.read_exact_at(&mut table, 40).unwrap();
    file.write_all_at(&[0x7f; 512], u64::from_be_bytes(table))
        .unwrap();
}

#[test]
fn a_guest_whose_disk_fails_is_dead() {
    let place = tempfile::tempdir().unwrap();
    let host = with_snapshot(place.path(), DiskFormat::Qcow2, 1);
    let id = host.store_names()[0].clone();
    spoil_image(&host.disk_copies(&id)[0]);
    let (code, json) = rehearse(&host, &[ID]);
    assert_eq!(
        (code, json[0]["outcome"].as_str()),
        (Some(1), Some("dead")),
        "{json}"
    );
    let detail = json[0]["detail"].as_str().unwrap();
    assert!(
        detail.contains("disk") || detail.contains("FATAL"),
        "{detail}"
    );
    assert_nothing_is_left(&host);
}

#[test]
fn what_is_not_said_in_time_is_dead_and_a_bad_pattern_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let host = with_snapshot(place.path(), DiskFormat::Raw, 1);
    let (code, json) = rehearse(&host, &[ID, "--timeout", "1s", "--expect", "never said"]);
    assert_eq!(
        (code, json[0]["outcome"].as_str()),
        (Some(1), Some("dead")),
        "{json}"
    );
    assert!(
        json[0]["detail"].as_str().unwrap().contains("never said"),
        "{json}"
    );
    let output = host.tool(&["rehearse", ID, "--expect", "("]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("--expect"),
        "{output:?}"
    );
    assert_nothing_is_left(&host);
}

/// Starts a rehearsal that would take long, and waits until its VM runs.
fn begun(host: &VmHost) -> std::process::Child {
    let mut command = host.command();
    command.args(["rehearse", ID, "--timeout", "1h"]);
    let child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the rehearsal's VM", || {
        let logs = fs::read_dir(host.data_dir().join("rehearsals"))
            .into_iter()
            .flatten();
        logs.filter_map(Result::ok).any(|it| {
            let console = fs::read_to_string(it.path().join("vm/console-0.log"));
            console.is_ok_and(|text| text.contains("tick"))
        })
    });
    child
}

#[test]
fn nothing_is_left_by_one_that_a_signal_ends() {
    let place = tempfile::tempdir().unwrap();
    let host = with_snapshot(place.path(), DiskFormat::Raw, 1);
    for signal in [Signal::INT, Signal::TERM] {
        let mut child = begun(&host);
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1));
        assert_nothing_is_left(&host);
    }
    let mut child = begun(&host);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("the end of its VMM", || left_running(&host).is_empty());
    // The next run puts its files away.
    host.tool_ok(&["prune"]);
    assert_nothing_is_left(&host);
    assert!(host.vm.is_running());
    let listed = &host.snapshots()[0];
    assert!(listed["rehearsed_at"].is_null(), "{listed}");
}

#[test]
fn one_whose_vmm_outlived_it_is_ended_by_the_next_run() {
    let place = tempfile::tempdir().unwrap();
    let host = with_snapshot(place.path(), DiskFormat::Raw, 1);
    let left = host.data_dir().join("rehearsals/0badcafe");
    fs::create_dir_all(left.join("vm")).unwrap();
    let mut vmm = Command::new("sleep")
        .arg("1000")
        .env("HYPEMAN_SNAP_REHEARSAL", &left)
        .spawn()
        .unwrap();
    wait_until("it is another program", || {
        left_running(&host) == [vmm.id()]
    });
    host.tool_ok(&["run-due", "--force"]);
    wait_until("its end", || vmm.try_wait().unwrap().is_some());
    assert_nothing_is_left(&host);
}

/// A real VMM's guest lives beside itself, and is dead once its memory is spoilt.
fn micro(dialect: Dialect, hypervisor: &str, memory: &str) {
    let Some(binary) = micro_vm::binary(dialect) else {
        return;
    };
    let host = Host::new(env!("CARGO_BIN_EXE_hypeman-snap"));
    let (writable, read_only) = (host.dir().join("rw.raw"), host.dir().join("ro.raw"));
    fs::write(&writable, vec![1; 1 << 20]).unwrap();
    fs::write(&read_only, vec![2; 1 << 20]).unwrap();
    let vm = MicroVm::boot(dialect, &binary, &writable, &read_only);
    host.register("vm-a", hypervisor, vm.socket());
    host.run(&["set", "vm-a", "--interval", "1h", "--max-count", "3"])
        .exits(0);
    vm.wait_ticks_beyond(5);
    let said = host.run(&["-o", "json", "run-due", "--force"]).exits(0);
    let id = said.json()["results"][0]["snapshot_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let before = (
        fs::metadata(&writable).unwrap().mtime_nsec(),
        files(vm.dir()).len(),
    );
    for more in [&["--expect", "tick [0-9]+"][..], &["--timeout", "2s"]] {
        let said = host
            .run(&[&["-o", "json", "rehearse"], more].concat())
            .exits(0);
        assert_eq!(said.json()[0]["outcome"], "alive", "{}", said.json());
    }
    assert_eq!(
        (
            fs::metadata(&writable).unwrap().mtime_nsec(),
            files(vm.dir()).len()
        ),
        before
    );
    vm.wait_ticks_beyond(*vm.ticks().last().unwrap());
    assert!(!host.data_dir().join("rehearsals").exists());

    let state = host
        .data_dir()
        .join("snapshots")
        .join(&id)
        .join("guest/snapshots/snapshot-latest");
    let bytes = fs::read(state.join(memory)).unwrap();
    let spoilt: Vec<u8> = [0x0f, 0x0b].repeat(bytes.len() / 2);
    fs::write(state.join(memory), spoilt).unwrap();
    let said = host
        .run(&[
            "-o",
            "json",
            "rehearse",
            "vm-a",
            "--timeout",
            "3s",
            "--expect",
            "tick",
        ])
        .exits(1);
    assert_eq!(said.json()[0]["outcome"], "dead", "{}", said.json());
    assert!(!host.data_dir().join("rehearsals").exists());
    vm.wait_ticks_beyond(*vm.ticks().last().unwrap());
}

#[test]
fn a_real_firecracker() {
    micro(Dialect::Firecracker, "firecracker", "memory");
}

#[test]
fn a_real_cloud_hypervisor() {
    micro(
        Dialect::CloudHypervisor,
        "cloud-hypervisor",
        "memory-ranges",
    );
}

#[test]
fn what_reaches_others_is_nothing_in_the_copy_and_the_memory_still_fits() {
    let place = tempfile::tempdir().unwrap();
    let listening = place.path().join("listening.sock");
    let words = format!(
        "-netdev user,id=n0,hostfwd=tcp:127.0.0.1:0-:22 -device virtio-net-pci,netdev=n0 \
         -netdev tap,id=n1,ifname=tap0,script=no,downscript=no -device virtio-net-pci,netdev=n1 \
         -netdev tap,id=n2,ifname=tap1,script=no,downscript=no,queues=2 -device virtio-net-pci,netdev=n2,mq=on,vectors=6 \
         -netdev socket,id=n3,listen=127.0.0.1:0 -device e1000,netdev=n3 \
         -chardev socket,id=agent,path={},server=on,wait=off -device virtio-serial-pci \
         -device virtserialport,chardev=agent,name=org.qemu.guest_agent.0 \
         -object rng-random,id=rng,filename=/dev/urandom -device virtio-rng-pci,rng=rng \
         -audiodev none,id=sound -device intel-hda -device hda-duplex,audiodev=sound \
         -device qemu-xhci -device usb-tablet -device VGA -vnc unix:{}.vnc",
        listening.display(),
        listening.display()
    );
    let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    let host = VmHost::boot(
        env!("CARGO_BIN_EXE_hypeman-snap"),
        place.path(),
        |options| {
            options.more.clone_from(&words);
            options.own_network = true;
            options.shared_ram = true;
        },
    );
    host.schedule(3);
    host.vm.wait_ticks_beyond(100);
    host.json(&["run-due", "--force", "-o", "json"]);
    let links = || fs::read_to_string("/proc/net/dev").unwrap().lines().count();
    let before = links();
    let (code, json) = rehearse(&host, &[ID, "--expect", "^tick [0-9]+"]);
    assert_eq!(
        (code, json[0]["outcome"].as_str()),
        (Some(0), Some("alive")),
        "{json}"
    );
    assert_eq!(links(), before);
    assert!(listening.exists());
    assert_nothing_is_left(&host);
}

#[test]
fn what_may_do_harm_is_a_reason_and_a_failure_only_if_it_was_asked_for() {
    let place = tempfile::tempdir().unwrap();
    let shared = place.path().join("shared");
    fs::create_dir(&shared).unwrap();
    let host = VmHost::boot(
        env!("CARGO_BIN_EXE_hypeman-snap"),
        place.path(),
        |options| {
            let virtfs = format!(
                "local,path={},mount_tag=m,security_model=none",
                shared.display()
            );
            options.more = vec!["-virtfs".to_owned(), virtfs];
        },
    );
    host.schedule(3);
    host.vm.wait_ticks_beyond(100);
    host.json(&["run-due", "--force", "-o", "json"]);
    for (named, expected) in [(&[][..], Some(0)), (&[ID][..], Some(1))] {
        let (code, json) = rehearse(&host, named);
        assert_eq!(
            (code, json[0]["outcome"].as_str()),
            (expected, Some("not possible")),
            "{json}"
        );
        assert!(
            json[0]["detail"]
                .as_str()
                .unwrap()
                .contains("-virtfs local,path="),
            "{json}"
        );
    }
    assert_nothing_is_left(&host);
    assert!(host.snapshots()[0]["rehearsed_at"].is_null());
}

/// The real Linux guest: its own check would be the best word, its kernel's is enough.
#[test]
fn a_linux_guest_lives_and_is_dead_once_its_disk_is_spoilt() {
    let Some(linux) = LinuxGuest::build() else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let host = VmHost::boot(
        env!("CARGO_BIN_EXE_hypeman-snap"),
        place.path(),
        |options| {
            options.linux = Some(linux);
            options.disk_format = DiskFormat::Qcow2;
        },
    );
    host.schedule(3);
    host.vm.wait_ticks_beyond(50);
    let result = host.snapshot();
    let id = result["snapshot_id"].as_str().unwrap();
    let (code, json) = rehearse(&host, &[ID, "--expect", "^tick [0-9]+", "--timeout", "2m"]);
    assert_eq!(
        (code, json[0]["outcome"].as_str()),
        (Some(0), Some("alive")),
        "{json}"
    );
    spoil_image(&host.disk_copies(id)[0]);
    let (code, json) = rehearse(&host, &[ID, "--timeout", "60s"]);
    assert_eq!(
        (code, json[0]["outcome"].as_str()),
        (Some(1), Some("dead")),
        "{json}"
    );
    assert_nothing_is_left(&host);
    assert!(host.vm.is_running());
}

/// A shut down guest's snapshot has no memory: the copy boots.
#[test]
fn a_snapshot_of_a_guest_that_was_off_boots() {
    let Some(linux) = LinuxGuest::build() else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let host = VmHost::boot(
        env!("CARGO_BIN_EXE_hypeman-snap"),
        place.path(),
        |options| {
            options.linux = Some(linux);
        },
    );
    host.schedule(3);
    host.vm.wait_ticks_beyond(50);
    host.snapshot();
    host.vm.type_line("poweroff");
    host.vm.wait_for_end();
    let result = host.snapshot();
    assert_eq!(result["kind"], "Stopped", "{result}");
    let (code, json) = rehearse(&host, &[ID, "--expect", "^tick [0-9]+", "--timeout", "3m"]);
    assert_eq!(
        (code, json[0]["outcome"].as_str()),
        (Some(0), Some("alive")),
        "{json}"
    );
    assert_nothing_is_left(&host);
}

#[test]
fn monitoring_tells_of_the_last_rehearsal_and_a_schedule_has_a_pattern_of_its_own() {
    let place = tempfile::tempdir().unwrap();
    let host = with_snapshot(place.path(), DiskFormat::Raw, 1);
    let check = || {
        let said = host.tool(&["check", "--rehearsed-within", "1h"]);
        (said.status.code(), String::from_utf8(said.stdout).unwrap())
    };
    let (code, said) = check();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no snapshot was ever rehearsed"), "{said}");
    // What the schedule expects is never said.
    host.tool_ok(&["set", ID, "--update", "--expect", "never said"]);
    assert_eq!(host.read_schedule()["expect"], "never said");
    assert!(host.tool_ok(&["get", ID]).contains("never said"));
    let (code, json) = rehearse(&host, &["--timeout", "1s"]);
    assert_eq!(
        (code, json[0]["outcome"].as_str()),
        (Some(1), Some("dead")),
        "{json}"
    );
    let (code, said) = check();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("did not live"), "{said}");
    // A flag wins, and an empty one takes it back.
    let (code, _) = rehearse(&host, &["--expect", "^tick"]);
    assert_eq!(code, Some(0));
    assert_eq!(check().0, Some(0));
    let listed = host.tool_ok(&["snapshots"]);
    assert!(listed.contains("; rehearsed: alive ("), "{listed}");
    host.tool_ok(&["set", ID, "--update", "--expect", ""]);
    assert_eq!(host.read_schedule().get("expect"), None);
    let refused = host.tool(&["set", ID, "--update", "--expect", "("]);
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        said.contains("--expect \"(\"") && said.contains("regular expression"),
        "{said}"
    );
    let metrics = place.path().join("metrics.prom");
    host.tool_ok(&["run-due", "--metrics-file", metrics.to_str().unwrap()]);
    let metrics = fs::read_to_string(metrics).unwrap();
    assert!(
        metrics.contains("hypeman_snap_snapshot_rehearsed_alive{instance_id=\"vm-under-test\""),
        "{metrics}"
    );
}

#[test]
fn compressed_memory_is_unpacked_for_it() {
    let place = tempfile::tempdir().unwrap();
    let host = VmHost::boot(env!("CARGO_BIN_EXE_hypeman-snap"), place.path(), |_| {});
    host.schedule(3);
    host.tool_ok(&["set", ID, "--update", "--compress", "zstd"]);
    host.vm.wait_ticks_beyond(100);
    let result = host.snapshot();
    let id = result["snapshot_id"].as_str().unwrap();
    let state = host
        .snapshot_dir(id)
        .join("guest/snapshots/snapshot-latest");
    assert!(state.join("memory.zst").exists() && !state.join("memory").exists());
    let (code, json) = rehearse(&host, &[ID, "--expect", "^tick"]);
    assert_eq!(
        (code, json[0]["outcome"].as_str()),
        (Some(0), Some("alive")),
        "{json}"
    );
    assert_nothing_is_left(&host);
}

/// Whoever can write to a copy's directory must not choose where root writes.
#[test]
fn a_link_in_the_place_of_a_log_is_not_followed() {
    let place = tempfile::tempdir().unwrap();
    let host = with_snapshot(place.path(), DiskFormat::Raw, 1);
    let precious = place.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    host.vm.kill();
    let logs = host.state_dir().join("vm-logs");
    fs::create_dir_all(&logs).unwrap();
    let log = logs.join(format!("{ID}.log"));
    std::os::unix::fs::symlink(&precious, &log).unwrap();
    let output = host.tool(&["restore", ID, "latest", "--start", "--force", "-o", "json"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let pid = json["pid"].as_i64().unwrap_or_else(|| panic!("{output:?}"));
    kill_process(
        Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(),
        Signal::KILL,
    )
    .unwrap();
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    assert!(fs::symlink_metadata(&log).unwrap().is_file());
}
