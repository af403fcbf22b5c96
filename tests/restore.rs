//! `restore --to`: a snapshot comes back by the tool's own command, on real QEMU, and nothing is touched that it does not
//! make.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::cli::Host;
use support::disk::DiskFormat;
use support::qmp::Qmp;
use support::skip::skipped;
use support::started::{Started, check, ticks};
use support::vm_host::{ID, VmHost};
use support::wait::wait_until;

fn goes_on(format: DiskFormat, disks: usize) {
    let place = tempfile::tempdir().unwrap();
    let host = VmHost::boot(
        env!("CARGO_BIN_EXE_hypeman-snap"),
        place.path(),
        |options| {
            options.disk_format = format;
            options.disks = disks;
        },
    );
    host.schedule(3);
    host.vm.wait_ticks_beyond(100);
    host.json(&["run-due", "--force", "-o", "json"]);
    let taken = host.vm.wait_next_tick();
    host.vm.wait_ticks_beyond(taken + 200);
    // While the original runs, a copy is not started just like that.
    let to = place.path().join("back");
    let to_text = to.to_str().unwrap();
    let restore = [
        "restore", ID, "latest", "--to", to_text, "--start", "-o", "json",
    ];
    let refused = host.tool(&restore);
    assert_eq!(refused.status.code(), Some(1));
    let refused: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(refused["restored"], false);
    assert_eq!(
        check(&refused, "instance")["status"],
        "warning",
        "{refused}"
    );
    assert!(!to.exists());

    let serial = host.vm.serial_path();
    host.vm.kill();
    let dry = host.json(&[&restore[..], &["--dry-run"]].concat());
    assert_eq!(dry["restored"], false);
    for name in [
        "snapshot",
        "directory",
        "free space",
        "program",
        "processor",
        "instance",
    ] {
        assert_eq!(check(&dry, name)["status"], "ok", "{dry}");
    }
    assert!(!to.exists());
    assert!(ticks(&serial).last() > Some(&taken));
    let json = host.json(&restore);
    let started = Started::of(&json);
    // The serial port's file was emptied when the copy began; it goes on from the snapshot.
    wait_until("the restored guest", || {
        ticks(&serial)
            .last()
            .is_some_and(|last| *last > taken + 100)
    });
    let first = ticks(&serial)[0];
    assert!(
        first <= taken,
        "it began at {first}, and the snapshot is from before {taken}"
    );
    assert!(json["clock_behind_seconds"].is_u64(), "{json}");
    // Its own disks, and no others: the original's stay as they were.
    for disk in host.vm.disks() {
        let name = format!("0-{}", disk.file_name().unwrap().to_str().unwrap());
        if name.ends_with("disk0.raw") || disks == 1 {
            let copy = to.join("disks").join(&name);
            let saved = format.counter(&copy);
            wait_until("writing to the copied disk", || {
                format.counter(&copy) > saved
            });
        }
    }
    let mut monitor = Qmp::connect(&to.join("qmp.sock")).unwrap();
    let status = monitor
        .command("query-status", &json!({}))
        .unwrap()
        .unwrap();
    assert_eq!(status["status"], "running");
    assert_eq!(to.metadata().unwrap().mode() & 0o7777, 0o700);
    drop(started);
    // What the store holds can be given back again.
    let again = place.path().join("again");
    let json = host.json(&[
        "restore",
        ID,
        "latest",
        "--to",
        again.to_str().unwrap(),
        "--disks-only",
        "-o",
        "json",
    ]);
    assert_eq!(
        (&json["restored"], &json["has_memory"]),
        (&json!(true), &json!(false))
    );
    let words: Vec<&str> = json["command"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it.as_str().unwrap())
        .collect();
    assert!(!words.contains(&"-incoming"), "{words:?}");
    assert!(!again.join("snapshots/snapshot-latest").exists());
}

#[test]
fn a_guest_goes_on_from_a_raw_disk_and_its_memory() {
    goes_on(DiskFormat::Raw, 1);
}

#[test]
fn a_guest_goes_on_from_two_qcow2_disks_and_its_memory() {
    goes_on(DiskFormat::Qcow2, 2);
}

#[test]
fn a_host_that_lost_its_state_directory_restores_all_the_same_and_shows_the_command() {
    let place = tempfile::tempdir().unwrap();
    let host = VmHost::boot(env!("CARGO_BIN_EXE_hypeman-snap"), place.path(), |_| {});
    host.schedule(3);
    host.vm.wait_ticks_beyond(50);
    host.json(&["run-due", "--force", "-o", "json"]);
    host.vm.kill();
    fs::remove_dir_all(host.state_dir()).unwrap();
    let to = place.path().join("back");
    let text = host.tool_ok(&["restore", ID, "latest", "--to", to.to_str().unwrap()]);
    assert!(
        text.contains(&format!("into {}\nstart it:\n  cd ", to.display())),
        "{text}"
    );
    assert!(
        text.contains("let it go on with the command cont on "),
        "{text}"
    );
    assert!(to.join("snapshots/snapshot-latest/memory").exists());
}

#[test]
fn a_vm_that_was_off_boots_from_its_disk_by_the_command_line_that_it_ran_with() {
    let place = tempfile::tempdir().unwrap();
    let host = VmHost::boot(env!("CARGO_BIN_EXE_hypeman-snap"), place.path(), |_| {});
    host.schedule(3);
    host.vm.wait_ticks_beyond(50);
    host.json(&["run-due", "--force", "-o", "json"]);
    let serial = host.vm.serial_path();
    host.vm.kill();
    let run = host.json(&["run-due", "--force", "-o", "json"]);
    assert_eq!(run["results"][0]["kind"], "Stopped", "{run}");
    fs::remove_file(&serial).unwrap();
    let to = place.path().join("back");
    let json = host.json(&[
        "restore",
        ID,
        "latest",
        "--to",
        to.to_str().unwrap(),
        "--start",
        "-o",
        "json",
    ]);
    let _started = Started::of(&json);
    assert_eq!(json["has_memory"], false);
    wait_until("the guest that boots anew", || !ticks(&serial).is_empty());
}

#[test]
fn a_vm_of_another_user_gets_its_files_and_one_that_does_not_run_is_ended_and_says_why() {
    let place = tempfile::tempdir().unwrap();
    let host = VmHost::boot(env!("CARGO_BIN_EXE_hypeman-snap"), place.path(), |_| {});
    host.schedule(3);
    host.vm.wait_ticks_beyond(50);
    let run = host.json(&["run-due", "--force", "-o", "json"]);
    host.vm.kill();
    let id = run["results"][0]["snapshot_id"].as_str().unwrap();
    // As if it had run as nobody, who can't write to the serial port's file.
    let path = host.snapshot_dir(id).join("guest/hypeman-snap.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest["vmm"]["user"] = json!(65534);
    manifest["vmm"]["group"] = json!(65534);
    fs::write(&path, manifest.to_string()).unwrap();
    let to = place.path().join("back");
    let said = host.tool(&[
        "restore",
        ID,
        "latest",
        "--to",
        to.to_str().unwrap(),
        "--start",
    ]);
    assert_eq!(said.status.code(), Some(1));
    let error = String::from_utf8(said.stderr).unwrap();
    for part in [
        "the VM does not run: it ended: exit status: 1; it said: ",
        "Permission denied",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(to.metadata().unwrap().uid(), 65534);
    assert_eq!(
        to.join("snapshots/snapshot-latest/memory")
            .metadata()
            .unwrap()
            .uid(),
        65534
    );
    // Memory that is no frame, whatever it is called, is not laid down.
    let memory = host
        .snapshot_dir(id)
        .join("guest/snapshots/snapshot-latest/memory");
    let packed = memory.with_extension("zst");
    fs::rename(&memory, &packed).unwrap();
    let third = place.path().join("third");
    let said = host.tool(&[
        "restore",
        ID,
        id,
        "--to",
        third.to_str().unwrap(),
        "--start",
    ]);
    let text = String::from_utf8(said.stderr).unwrap();
    assert!(text.contains("can't unpack"), "{text}");
    assert!(!third.exists());
    fs::rename(&packed, &memory).unwrap();
    // A program that others can change is not run as it was told.
    let mine = place.path().join("qemu-system-x86_64");
    fs::copy("/bin/true", &mine).unwrap();
    std::os::unix::fs::chown(&mine, Some(65534), None).unwrap();
    manifest["vmm"]["binary"] = json!(mine);
    fs::write(&path, manifest.to_string()).unwrap();
    let other = place.path().join("other");
    let said = host.tool(&[
        "restore",
        ID,
        "latest",
        "--to",
        other.to_str().unwrap(),
        "--start",
    ]);
    assert_eq!(said.status.code(), Some(1));
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(
        text.contains("is not run, because") && text.contains("belongs to user 65534"),
        "{text}"
    );
    assert!(!other.exists());
}

const WEB_A: &str = "mk3v9t0xq2r7w5d8h1c6b4za";
const WEB_B: &str = "mk3w0000000000000000000b";

#[test]
fn what_is_in_the_way_is_named_and_nothing_is_made() {
    let host = Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"));
    let hour = std::time::Duration::from_secs(3600);
    host.add_snapshot("s1", (WEB_A, "web-a"), hour, true);
    host.add_snapshot("s2", (WEB_B, "web-b"), hour, true);
    let full = host.dir().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("file"), "x").unwrap();
    let new = host.dir().join("new");
    let [new, full, deep] =
        [new.clone(), full, new.join("deep")].map(|it| it.to_str().unwrap().to_owned());
    for (args, code, part) in [
        (
            ["web-a", "s1", "--to", full.as_str()],
            1,
            "not an empty directory",
        ),
        (
            ["web-a", "s1", "--to", deep.as_str()],
            1,
            "make that directory first",
        ),
        (
            ["web-a", "s2", "--to", new.as_str()],
            2,
            "snapshot s2 is of instance \"web-b\"",
        ),
        (["web-a", "s3", "--to", new.as_str()], 3, "\"s3\""),
        (["web-c", "s1", "--to", new.as_str()], 3, "\"web-c\""),
    ] {
        let said = host.run(&[&["restore"], &args[..]].concat()).exits(code);
        let all = said.stdout + &said.stderr;
        assert!(all.contains(part), "{args:?}: {all}");
    }
    host.run(&["restore", "web-a", "s1", "--to", &new, "--force"])
        .exits(2);
    // Nothing is known of how it ran: the files are laid down, and it can't be started.
    host.run(&["restore", "web-a", "s1", "--to", &new, "--start"])
        .exits(1);
    assert!(!Path::new(&new).exists());
    let json = host
        .run(&["restore", "web-a", "latest", "--to", &new, "-o", "json"])
        .exits(0)
        .json();
    assert_eq!(json["command"], Value::Null);
    assert_eq!(
        fs::read(Path::new(&new).join("overlay.raw")).unwrap(),
        b"a disk"
    );
    // An unusable one is refused.
    fs::remove_file(host.data_dir().join("snapshots/s2/guest/overlay.raw")).unwrap();
    let other = host.dir().join("other");
    let said = host
        .run(&["restore", "web-b", "s2", "--to", other.to_str().unwrap()])
        .exits(1);
    assert!(
        said.stdout.contains("nothing can be restored from it"),
        "{}",
        said.stdout
    );
    host.run(&[
        "restore",
        "web-b",
        "latest",
        "--to",
        other.to_str().unwrap(),
    ])
    .exits(3);
    assert!(!other.exists());
}

/// Every file below `dir` with its content.
fn content(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut all, mut dirs) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                all.push((path.clone(), fs::read(path).unwrap()));
            }
        }
    }
    all.sort();
    all
}

/// Killed or told to end at whatever step, the directory is there as a whole or not at all, the snapshot is what it was,
/// and the same command works afterwards.
#[test]
fn a_restore_that_is_cut_short_leaves_all_or_nothing() {
    if Command::new("strace").arg("-V").output().is_err() {
        skipped("a restore that is killed: install strace");
        return;
    }
    let host = Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"));
    host.add_snapshot(
        "s1",
        (WEB_A, "web-a"),
        std::time::Duration::from_secs(60),
        true,
    );
    let stored = host.data_dir().join("snapshots/s1");
    fs::create_dir(stored.join("guest/disks")).unwrap();
    fs::write(stored.join("guest/disks/0-a.raw"), vec![7; 1 << 20]).unwrap();
    let before = content(&stored);
    let to = host.dir().join("back");
    let args = ["restore", "web-a", "s1", "--to", to.to_str().unwrap()];
    let mut cut = 0;
    for call in [
        "fsync", "rename", "mkdir", "mkdirat", "openat", "fchmod", "flock",
    ] {
        for signal in ["SIGKILL", "SIGTERM"] {
            for step in (1..).step_by(if call == "openat" { 7 } else { 1 }) {
                let plain = host.std_command();
                let mut strace = Command::new("strace");
                strace.args([
                    "-f",
                    "-qqq",
                    "-o",
                    "/dev/null",
                    "-e",
                    &format!("trace={call}"),
                    "-e",
                ]);
                strace.arg(format!("inject={call}:signal={signal}:when={step}"));
                strace
                    .arg(plain.get_program())
                    .args(plain.get_args())
                    .args(args);
                for (name, value) in plain.get_envs() {
                    match value {
                        Some(value) => strace.env(name, value),
                        None => strace.env_remove(name),
                    };
                }
                let status = strace
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status()
                    .unwrap();
                let is_whole = to.exists();
                if is_whole {
                    assert_eq!(
                        fs::read(to.join("overlay.raw")).unwrap(),
                        b"a disk",
                        "{call} {step}"
                    );
                    assert_eq!(
                        fs::read(to.join("disks/0-a.raw")).unwrap(),
                        vec![7; 1 << 20]
                    );
                    fs::remove_dir_all(&to).unwrap();
                }
                assert!(
                    before == content(&stored),
                    "{call} {step}: the snapshot changed"
                );
                if status.success() {
                    break;
                }
                cut += 1;
                if signal == "SIGTERM" {
                    let left: Vec<_> = fs::read_dir(host.dir())
                        .unwrap()
                        .flatten()
                        .map(|it| it.file_name())
                        .collect();
                    let is_left =
                        |name: &std::ffi::OsString| name.to_string_lossy().contains(".restoring-");
                    assert!(!left.iter().any(is_left), "{call} {step}: {left:?}");
                } else {
                    for entry in fs::read_dir(host.dir()).unwrap().flatten() {
                        if entry.file_name().to_string_lossy().contains(".restoring-") {
                            fs::remove_dir_all(entry.path()).unwrap();
                        }
                    }
                }
            }
        }
    }
    assert!(cut > 20, "only {cut} restores were cut short");
    host.run(&args).exits(0);
    host.run(&["delete-snapshot", "--yes", "s1"]).exits(0);
}

/// A copy of an image that names its backing file from its own directory does not find it in another one.
#[test]
fn a_backing_file_that_is_named_from_the_images_directory_is_said() {
    let host = Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"));
    let age = std::time::Duration::from_secs(60);
    host.add_snapshot("s1", (WEB_A, "web-a"), age, true);
    let guest = host.data_dir().join("snapshots/s1/guest");
    fs::create_dir(guest.join("disks")).unwrap();
    // The head of a qcow2 image, and the name that it gives the file below it.
    let mut image = b"QFI\xfb\0\0\0\x03".to_vec();
    image.extend(104_u64.to_be_bytes());
    image.extend(10_u32.to_be_bytes());
    image.resize(104, 0);
    image.extend(b"base.qcow2");
    fs::write(guest.join("disks/0-a.qcow2"), image).unwrap();
    let manifest = json!({"version": 1, "disks": [
        {"source": "/srv/vms/a.qcow2", "file": "disks/0-a.qcow2", "format": "qcow2"},
    ]});
    fs::write(guest.join("hypeman-snap.json"), manifest.to_string()).unwrap();
    let to = host.dir().join("back");
    let args = ["restore", "web-a", "s1", "--to", to.to_str().unwrap()];
    host.run(&[&args[..], &["--start"]].concat()).exits(1);
    assert!(!to.exists());
    let json = host
        .run(&[&args[..], &["-o", "json"]].concat())
        .exits(0)
        .json();
    let checks = json["checks"].as_array().unwrap();
    let check = checks.iter().find(|it| it["check"] == "backing file");
    let check = check.unwrap_or_else(|| panic!("{json}"));
    assert_eq!(check["status"], "warning");
    let remedy = check["remedy"].as_str().unwrap();
    let rebase = format!(
        "-b /srv/vms/base.qcow2 {}",
        to.join("disks/0-a.qcow2").display()
    );
    assert!(remedy.contains(&rebase), "{remedy}");
}
