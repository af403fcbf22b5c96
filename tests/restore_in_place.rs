//! `restore` in place, on real QEMU: the VM's own disks become what they were, what was there becomes a snapshot, and
//! nothing is touched while the VM is not off.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::disk::DiskFormat;
use support::filesystems::{Kind, Mount};
use support::skip::skipped;
use support::started::{Started, check, ticks};
use support::vm_host::{ID, VmHost};
use support::wait::wait_until;

/// What lies in the directory of the disks and is no disk or file of the VM's own.
fn litter(host: &VmHost) -> Vec<String> {
    let directory = host.vm.disks()[0].parent().unwrap().to_owned();
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with('.'))
        .collect()
}

fn restore(host: &VmHost, arguments: &[&str]) -> Value {
    let all = [&["restore", ID], arguments, &["-o", "json"]].concat();
    let output = host.tool(&all);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn goes_back(parent: &Path, format: DiskFormat, disks: usize) {
    let host = VmHost::boot(env!("CARGO_BIN_EXE_hypeman-snap"), parent, |options| {
        options.disk_format = format;
        options.disks = disks;
    });
    host.schedule(3);
    host.vm.wait_ticks_beyond(100);
    host.json(&["run-due", "--force"]);
    let taken = host.vm.wait_next_tick();
    host.vm.wait_ticks_beyond(taken + 200);
    let before = |host: &VmHost| -> Vec<(PathBuf, u64, u32)> {
        let look = |path: &PathBuf| {
            let it = path.metadata().unwrap();
            (path.clone(), it.ino(), it.mode())
        };
        host.vm.disks().iter().map(look).collect()
    };
    fs::set_permissions(&host.vm.disks()[0], fs::Permissions::from_mode(0o640)).unwrap();
    let running = before(&host);

    // It runs: nothing is touched, and it is said which process it is.
    let refused = restore(&host, &["latest", "--start"]);
    assert_eq!(refused["restored"], false, "{refused}");
    assert_eq!(check(&refused, "instance")["status"], "broken", "{refused}");
    assert_eq!(before(&host), running);

    host.vm.kill();
    let lost: Vec<Vec<u8>> = host
        .vm
        .disks()
        .iter()
        .map(|it| fs::read(it).unwrap())
        .collect();
    let dry = restore(&host, &["latest", "--start", "--dry-run"]);
    for name in ["snapshot", "instance", "disk", "free space", "program"] {
        assert_eq!(check(&dry, name)["status"], "ok", "{dry}");
    }
    assert_eq!(dry["restored"], false);
    assert_eq!(before(&host), running);

    let json = restore(&host, &["latest", "--start"]);
    assert_eq!(json["restored"], true, "{json}");
    let started = Started::of(&json);
    let serial = host.vm.serial_path();
    wait_until("the restored guest", || {
        ticks(&serial)
            .last()
            .is_some_and(|last| *last > taken + 100)
    });
    assert!(ticks(&serial)[0] <= taken);
    // New files under the old names, with the old rights, and nothing beside them.
    for ((path, inode, mode), (_, old_inode, old_mode)) in before(&host).iter().zip(&running) {
        assert_ne!(inode, old_inode, "{}", path.display());
        assert_eq!(mode, old_mode, "{}", path.display());
    }
    assert_eq!(litter(&host), Vec::<String>::new());
    assert_eq!(host.journals(), Vec::<String>::new());
    // Its own monitor is there again: the next run takes a snapshot of it.
    let run = host.json(&["run-due", "--force"]);
    assert_eq!(run["results"][0]["kind"], "Standby", "{run}");

    // What was there is a snapshot, byte for byte, which nobody means by `latest`, and the way back from the way back.
    let undo = json["before_snapshot_id"].as_str().unwrap().to_owned();
    let name = json["before_snapshot_name"].as_str().unwrap();
    assert!(name.starts_with("before-restore-"), "{name}");
    for (copy, lost) in host.disk_copies(&undo).iter().zip(&lost) {
        assert!(&fs::read(copy).unwrap() == lost, "{}", copy.display());
    }
    started.end();
    fs::remove_file(&serial).unwrap();
    let json = restore(&host, &[&undo, "--start", "--no-save"]);
    assert_eq!(json["has_memory"], false, "{json}");
    assert_eq!(json["before_snapshot_id"], Value::Null);
    let started = Started::of(&json);
    wait_until("the guest that boots anew", || !ticks(&serial).is_empty());
    started.end();
    let kept = host.snapshots();
    let names: Vec<&str> = kept.iter().map(|it| it["name"].as_str().unwrap()).collect();
    let undone = names.iter().filter(|it| it.starts_with("before-restore-"));
    assert_eq!(undone.count(), 1, "{names:?}");
    host.tool_ok(&["run-due"]);
}

#[test]
fn a_guest_goes_back_with_a_raw_disk_and_its_memory() {
    let place = tempfile::tempdir().unwrap();
    goes_back(place.path(), DiskFormat::Raw, 1);
}

#[test]
fn a_guest_goes_back_with_two_qcow2_disks_and_its_memory() {
    let place = tempfile::tempdir().unwrap();
    goes_back(place.path(), DiskFormat::Qcow2, 2);
}

#[test]
fn a_guest_goes_back_where_copies_share_their_blocks() {
    let Some(xfs) = Mount::create(Kind::Xfs, 600) else {
        return;
    };
    goes_back(&xfs.path(), DiskFormat::Raw, 2);
}

#[test]
fn memory_that_was_laid_down_goes_with_the_disks_as_they_are_and_with_no_others() {
    let place = tempfile::tempdir().unwrap();
    let host = VmHost::boot(env!("CARGO_BIN_EXE_hypeman-snap"), place.path(), |_| {});
    host.schedule(5);
    host.vm.wait_ticks_beyond(50);
    let run = host.json(&["run-due", "--force"]);
    let taken = run["results"][0]["snapshot_id"].as_str().unwrap();
    host.vm.kill();
    let text = host.tool_ok(&["restore", ID, taken]);
    for part in [
        ", in place\n",
        "what was there before is snapshot before-restore-",
        "start it:\n",
        "-incoming",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let memory = || {
        let found = litter(&host);
        assert!(found.len() <= 1, "{found:?}");
        found.into_iter().next()
    };
    assert!(memory().is_some_and(|it| it.contains("-memory-")));
    // It stands by, and a snapshot of it has the memory too.
    let json = host.json(&["run-due", "--force"]);
    assert_eq!(json["results"][0]["kind"], "Standby", "{json}");
    let again = json["results"][0]["snapshot_id"]
        .as_str()
        .unwrap()
        .to_owned();
    host.assert_goes_on(&again);
    // Somebody boots it from its disks, and shuts it down: the memory does not go with them any more.
    let disk = &host.vm.disks()[0];
    let mut content = fs::read(disk).unwrap();
    content[0] ^= 1;
    fs::write(disk, &content).unwrap();
    let said = host.tool(&["run-due", "--force"]);
    assert_eq!(said.status.code(), Some(1));
    let said = String::from_utf8(said.stdout).unwrap() + &String::from_utf8(said.stderr).unwrap();
    assert!(said.contains("does not go with them any more"), "{said}");
    // Restored once more, with its disks alone: the stale memory is gone, and what is kept of it has none.
    let json = restore(&host, &[taken, "--disks-only"]);
    assert_eq!(json["restored"], true, "{json}");
    assert_eq!(memory(), None);
    let undo = json["before_snapshot_id"].as_str().unwrap();
    let kept = host.snapshots();
    let kept = kept.iter().find(|it| it["id"] == undo).unwrap();
    assert_eq!(kept["kind"], "Stopped", "{kept}");
    let json = host.json(&["run-due", "--force"]);
    assert_eq!(json["results"][0]["kind"], "Stopped", "{json}");
    // And with its memory again, the snapshot of what was there keeps nothing stale either; started, none is left.
    let json = restore(&host, &[&again]);
    assert_eq!(json["restored"], true, "{json}");
    let json = restore(&host, &[taken, "--start"]);
    let undo = json["before_snapshot_id"].as_str().unwrap().to_owned();
    let kept = host.snapshots();
    let kept = kept.iter().find(|it| it["id"] == undo.as_str()).unwrap();
    assert_eq!(kept["kind"], "Standby", "{kept}");
    let started = Started::of(&json);
    assert_eq!(memory(), None);
    started.end();
    host.assert_goes_on(&undo);
}

#[test]
fn a_disk_that_is_gone_is_made_again_and_what_is_no_disk_of_the_vm_is_not_written_to() {
    let off = Off::with_a_snapshot();
    let (host, taken) = (&off.host, off.taken.as_str());
    let disk = host.vm.disks()[1].clone();
    fs::remove_file(&disk).unwrap();
    let json = restore(host, &[taken, "--start"]);
    let started = Started::of(&json);
    assert!(disk.exists());
    started.end();

    // A second name would keep the old content, and a link of somebody else may lead anywhere.
    let other = disk.with_extension("other");
    fs::hard_link(&disk, &other).unwrap();
    let refused = restore(host, &[taken]);
    assert!(
        refused.to_string().contains("2 names (hard links)"),
        "{refused}"
    );
    fs::remove_file(&other).unwrap();
    fs::rename(&disk, &other).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", &disk).unwrap();
    let hostname = fs::read("/etc/hostname").ok();
    let refused = restore(host, &[taken]);
    assert_eq!(refused["restored"], false, "{refused}");
    assert_eq!(fs::read("/etc/hostname").ok(), hostname);
    fs::remove_file(&disk).unwrap();
    fs::rename(&other, &disk).unwrap();

    // The manifest's word alone makes nothing a disk.
    let path = host.snapshot_dir(taken).join("guest/hypeman-snap.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let precious = host.state_dir().join("precious");
    fs::write(&precious, "x").unwrap();
    manifest["disks"][1]["source"] = json!(precious);
    fs::write(&path, manifest.to_string()).unwrap();
    let refused = restore(host, &[taken, "--force"]);
    assert!(
        refused
            .to_string()
            .contains("is not known as a disk of this VM"),
        "{refused}"
    );
    assert_eq!(fs::read(&precious).unwrap(), b"x");
    assert_eq!(host.journals(), Vec::<String>::new());
}

#[test]
fn what_can_not_be_done_in_place_is_told_with_its_exit_code() {
    let host = support::cli::Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"));
    let hour = std::time::Duration::from_secs(3600);
    host.add_snapshot("s1", ("mk3v9t0xq2r7w5d8h1c6b4za", "web-a"), hour, true);
    host.add_snapshot("s9", ("mk3w0000000000000000009z", "lost"), hour, true);
    let said = host.run(&["restore", "web-a", "s1"]).exits(1);
    assert!(
        said.stdout.contains("is one of hypeman's"),
        "{}",
        said.stdout
    );
    host.run(&["restore", "lost", "s9"])
        .exits(3)
        .complains(&["is gone", "--to DIRECTORY"]);
    host.run(&["restore", "web-a", "s1", "--to", "/x", "--no-save"])
        .exits(2);
    host.run(&["restore", "web-a", "s1", "--to", "/x", "--force"])
        .exits(2)
        .complains(&["--force"]);
}

/// How long a file is, and what is in it to begin with.
type Begin = (u64, Vec<u8>);

/// Disks are exchanged as whole files.
fn begin(path: &PathBuf) -> Begin {
    let file = fs::File::open(path).unwrap();
    let mut content = vec![0; 64 << 10];
    file.read_exact_at(&mut content, 0).unwrap();
    (file.metadata().unwrap().len(), content)
}

fn host_disks(host: &VmHost) -> Vec<PathBuf> {
    host.vm.disks().to_vec()
}

/// A VM of two disks that is off, its snapshot, and what the disks hold in that.
struct Off {
    host: VmHost,
    taken: String,
    saved: Vec<Begin>,
    _place: tempfile::TempDir,
}

impl Off {
    fn with_a_snapshot() -> Self {
        let place = tempfile::tempdir().unwrap();
        let host = VmHost::boot(
            env!("CARGO_BIN_EXE_hypeman-snap"),
            place.path(),
            |options| {
                options.disks = 2;
            },
        );
        host.schedule(5);
        host.vm.wait_ticks_beyond(50);
        let run = host.json(&["run-due", "--force"]);
        let taken = run["results"][0]["snapshot_id"]
            .as_str()
            .unwrap()
            .to_owned();
        host.vm.kill();
        let saved = host.disk_copies(&taken).iter().map(begin).collect();
        Self {
            host,
            taken,
            saved,
            _place: place,
        }
    }

    /// Lets the disks hold something else than the snapshot.
    fn go_on(&self) -> Vec<Begin> {
        for disk in host_disks(&self.host) {
            let disk = fs::File::options().write(true).open(disk).unwrap();
            disk.write_all_at(&[7; 4096], 4096).unwrap();
        }
        self.disks()
    }

    fn disks(&self) -> Vec<Begin> {
        host_disks(&self.host).iter().map(begin).collect()
    }

    /// A restore to which `signal` comes before the system call `call` for the `step`th time; whether it succeeded.
    fn restore_cut_short(&self, call: &str, signal: &str, step: usize, more: Option<&str>) -> bool {
        let mut strace = Command::new("strace");
        self.host.environment(&mut strace);
        strace
            .args(["-f", "-qqq", "-o", "/dev/null", "-e"])
            .arg(format!("trace={call}"))
            .arg("-e")
            .arg(format!("inject={call}:signal={signal}:when={step}"))
            .arg(self.host.binary())
            .args(["restore", ID, &self.taken])
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    }

    /// The snapshots of what was there before, newest last.
    fn undone(&self) -> Vec<String> {
        let all = self.host.snapshots();
        all.iter()
            .filter(|it| it["name"].as_str().unwrap().starts_with("before-restore-"))
            .map(|it| it["id"].as_str().unwrap().to_owned())
            .collect()
    }
}

fn has_strace() -> bool {
    let is_there = Command::new("strace").arg("-V").output().is_ok();
    if !is_there {
        skipped("a restore that is killed: install strace");
    }
    is_there
}

/// Killed or told to end at whatever step: the disks are all old or all new once the next run was there, nothing lies
/// beside them, and where they are new, the old ones are a snapshot.
#[test]
fn a_restore_that_is_cut_short_is_undone_or_finished_by_the_next_run() {
    if !has_strace() {
        return;
    }
    let off = Off::with_a_snapshot();
    let host = &off.host;
    let (mut old_ones, mut new_ones) = (0, 0);
    for call in [
        "renameat2",
        "rename",
        "linkat",
        "unlinkat",
        "fsync",
        "fdatasync",
        "mkdir",
        "mkdirat",
        "fchown",
        "fchmod",
        "ftruncate",
        "rmdir",
        "copy_file_range",
    ] {
        for signal in ["SIGKILL", "SIGTERM"] {
            if signal == "SIGTERM" && !["renameat2", "linkat"].contains(&call) {
                continue;
            }
            // The memory, which takes long to copy, makes a difference to these alone.
            let has_memory = ["renameat2", "mkdir", "fchmod"].contains(&call);
            let more = (!has_memory).then_some("--disks-only");
            // What is done again and again for files of one kind is killed at some of them.
            let stride = if ["fsync", "unlinkat", "fchmod"].contains(&call) {
                5
            } else {
                1
            };
            for step in (1..).step_by(stride) {
                let old = off.go_on();
                let is_done = off.restore_cut_short(call, signal, step, more);
                let at = format!("{signal} before {call} {step}");
                let recovered = host.tool(&["run-due", "--recover-only"]);
                assert!(recovered.status.success(), "{at}: {recovered:?}");
                // Temporary files are taken over by the next who writes.
                let journals = host.journals();
                assert!(
                    journals.iter().all(|it| it.starts_with('.')),
                    "{at}: {journals:?}"
                );
                let now = off.disks();
                let undone = off.undone();
                let beside = litter(host);
                if now == off.saved {
                    new_ones += 1;
                    assert_eq!(undone.len(), 1, "{at}");
                    let kept: Vec<Begin> = host.disk_copies(&undone[0]).iter().map(begin).collect();
                    assert!(
                        kept == old,
                        "{at}: what was there before is not what was kept"
                    );
                    host.tool_ok(&["delete-snapshot", "--yes", &undone[0]]);
                    let memories = usize::from(has_memory);
                    assert_eq!(beside.len(), memories, "{at}: the memory alone: {beside:?}");
                    // A run takes it away with the next restore.
                } else {
                    old_ones += 1;
                    assert!(now == old, "{at}: the disks are mixed");
                    assert!(undone.is_empty(), "{at}: {undone:?}");
                    assert!(beside.len() <= 1, "{at}: {beside:?}");
                }
                if is_done {
                    break;
                }
            }
        }
    }
    assert!(
        old_ones > 10 && new_ones > 10,
        "{old_ones} old, {new_ones} new"
    );
    // The snapshot is what it was.
    let saved: Vec<Begin> = host.disk_copies(&off.taken).iter().map(begin).collect();
    assert!(saved == off.saved);
    let json = restore(host, &[&off.taken, "--start"]);
    Started::of(&json).end();
    assert_eq!(litter(host), Vec::<String>::new());
}

/// Who starts the VM by hand in between is never written under, and its restore is finished once it is off.
#[test]
fn a_half_done_restore_waits_for_a_vm_that_was_started_meanwhile() {
    if !has_strace() {
        return;
    }
    let off = Off::with_a_snapshot();
    let host = &off.host;
    let old = off.go_on();
    let mut halves = 0;
    for step in 1..6 {
        off.go_on();
        off.restore_cut_short("renameat2", "SIGKILL", step, None);
        let now = off.disks();
        if now[0] == off.saved[0] && now[1] == old[1] {
            halves += 1;
            let started = fs::File::options()
                .write(true)
                .open(&host.vm.disks()[1])
                .unwrap();
            for command in [
                &["run-due", "--recover-only"][..],
                &["run-due", "--force"],
                &["restore", ID, "latest"],
            ] {
                let said = host.tool(command);
                assert_eq!(said.status.code(), Some(1), "{command:?}: {said:?}");
                let text = String::from_utf8(said.stdout).unwrap()
                    + &String::from_utf8(said.stderr).unwrap();
                for part in ["is not finished", "open for writing", "--recover-only"] {
                    assert!(text.contains(part), "{command:?}: {text}");
                }
                assert!(off.disks() == now);
            }
            let doctor = host.tool(&["doctor"]);
            let text = String::from_utf8(doctor.stdout).unwrap();
            assert!(
                text.contains("some of the disks may be the snapshot's"),
                "{text}"
            );
            drop(started);
        }
        host.tool_ok(&["run-due", "--recover-only"]);
        assert!(off.disks() == off.saved || off.disks() == old);
        for undo in off.undone() {
            host.tool_ok(&["delete-snapshot", "--yes", &undo]);
        }
    }
    assert_eq!(halves, 1);
}

#[test]
fn what_was_there_is_copied_where_the_store_is_on_another_file_system_and_room_is_looked_for() {
    let Some(elsewhere) = Mount::create(Kind::Tmpfs, 300) else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let host = VmHost::boot(env!("CARGO_BIN_EXE_hypeman-snap"), place.path(), |_| {});
    fs::create_dir_all(host.data_dir()).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), host.data_dir().join("snapshots")).unwrap();
    host.schedule(5);
    host.vm.wait_ticks_beyond(50);
    let run = host.json(&["run-due", "--force"]);
    let taken = run["results"][0]["snapshot_id"].as_str().unwrap();
    host.vm.kill();
    let disk = host.vm.disks()[0].clone();
    let mut lost = fs::read(&disk).unwrap();
    let end = lost.len() - 4096;
    lost[end..].fill(7);
    fs::write(&disk, &lost).unwrap();

    let ballast = elsewhere.path().join("ballast");
    let free = rustix::fs::statvfs(elsewhere.path()).unwrap();
    let free = free.f_bavail * free.f_frsize;
    fs::write(
        &ballast,
        vec![1; usize::try_from(free - (20 << 20)).unwrap()],
    )
    .unwrap();
    let refused = restore(&host, &[taken]);
    assert_eq!(refused["restored"], false, "{refused}");
    assert!(refused.to_string().contains("MiB are free"), "{refused}");
    assert!(fs::read(&disk).unwrap() == lost);
    fs::remove_file(ballast).unwrap();

    let json = restore(&host, &[taken, "--start"]);
    let started = Started::of(&json);
    let undo = json["before_snapshot_id"].as_str().unwrap();
    assert!(fs::read(&host.disk_copies(undo)[0]).unwrap() == lost);
    assert_eq!(litter(&host), Vec::<String>::new());
    started.end();
}

/// Where a unit's sandbox, or a mount, lets nobody write beside the disks, a restore is refused, and one that was half done
/// is left to who can.
#[test]
fn a_place_that_can_not_be_written_is_left_alone() {
    let Some(xfs) = Mount::create(Kind::Xfs, 600) else {
        return;
    };
    let host = VmHost::boot(env!("CARGO_BIN_EXE_hypeman-snap"), &xfs.path(), |_| {});
    host.schedule(5);
    host.vm.wait_ticks_beyond(50);
    let run = host.json(&["run-due", "--force"]);
    let taken = run["results"][0]["snapshot_id"].as_str().unwrap();
    host.vm.kill();
    let disks = host.vm.disks()[0].parent().unwrap().to_owned();
    let mut sandboxed = Command::new("unshare");
    host.environment(&mut sandboxed);
    let output = sandboxed
        .args(["--mount", "sh", "-c"])
        .arg(
            "mount --bind \"$1\" \"$1\" && mount -o remount,ro,bind \"$1\" && shift && exec \"$@\"",
        )
        .arg("sh")
        .arg(&disks)
        .arg(host.binary())
        .args(["restore", ID, taken])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("Read-only file system"), "{text}");
    assert_eq!(host.journals(), Vec::<String>::new());
}
