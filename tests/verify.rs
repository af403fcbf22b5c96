//! `verify`: whatever is spoilt of a snapshot is found, named by its file and its place, and acted on.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::cli::Host;
use support::vm_host::{ID, VmHost};

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");

/// Turns a bit around at `at`.
fn flip(path: &Path, at: u64) {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0] ^= 4;
    file.write_all_at(&byte, at).unwrap();
}

/// Where a file holds something else than zeros, in its second half if it can be.
fn somewhere(path: &Path) -> u64 {
    let content = fs::read(path).unwrap();
    let half = content.len() / 2;
    let at = content[half..].iter().position(|byte| *byte != 0);
    at.map_or_else(
        || content.iter().position(|byte| *byte != 0).unwrap(),
        |at| half + at,
    ) as u64
}

struct Taken {
    host: VmHost,
    id: String,
    dir: PathBuf,
    _place: tempfile::TempDir,
}

impl Taken {
    /// A VM that ran, and its snapshots: an older one that is good, and the one that things are done to.
    fn of_a_running_vm() -> Self {
        let place = tempfile::tempdir().unwrap();
        let host = VmHost::boot(TOOL, place.path(), |_| {});
        host.schedule(5);
        host.vm.wait_ticks_beyond(50);
        host.json(&["run-due", "--force"]);
        let run = host.json(&["run-due", "--force"]);
        let id = run["results"][0]["snapshot_id"]
            .as_str()
            .unwrap()
            .to_owned();
        host.vm.kill();
        Self {
            dir: host.snapshot_dir(&id),
            host,
            id,
            _place: place,
        }
    }

    fn verify(&self, arguments: &[&str]) -> (i32, Value) {
        let all = [&["-o", "json", "verify"], arguments].concat();
        let output = self.host.tool(&all);
        let json = serde_json::from_slice(&output.stdout);
        let json: Value = json.unwrap_or_else(|error| panic!("{error}: {output:?}"));
        (output.status.code().unwrap(), json)
    }

    fn listed(&self) -> Value {
        let all = self.host.snapshots();
        let found = all.iter().find(|it| it["id"] == self.id.as_str());
        found.unwrap().clone()
    }
}

#[test]
fn whatever_is_spoilt_is_found_by_file_and_place_and_acted_on() {
    let taken = Taken::of_a_running_vm();
    let host = &taken.host;
    let id = taken.id.as_str();
    let disk = host.disk_copies(id)[0].clone();
    let state = taken.dir.join("guest/snapshots/snapshot-latest");
    let memory = state.join("memory");

    // Without --read nothing is read and nothing is noted; with it, disks get their digests.
    let (code, json) = taken.verify(&[id]);
    assert_eq!(
        (code, json[0]["outcome"].as_str()),
        (0, Some("looks whole")),
        "{json}"
    );
    assert_eq!(taken.listed()["verified_at"], Value::Null);
    let (code, json) = taken.verify(&[id, "--read"]);
    assert_eq!(
        (code, json[0]["outcome"].as_str()),
        (0, Some("verified")),
        "{json}"
    );
    assert_eq!(json[0]["first_read"], 1, "{json}");
    let (_, json) = taken.verify(&[ID, "--read", "--jobs", "2"]);
    assert_eq!(json.as_array().unwrap().len(), 2, "{json}");
    let again = json
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["snapshot_id"] == id);
    assert_eq!(again.unwrap()["first_read"], 0, "{json}");
    assert!(taken.listed()["verified_at"].is_string());
    let check = host.tool(&["check", "--verified-within", "1h"]);
    assert_eq!(check.status.code(), Some(0), "{check:?}");
    std::thread::sleep(std::time::Duration::from_secs(1));
    let check = host.tool(&["check", "--verified-within", "1s"]);
    assert_eq!(check.status.code(), Some(1), "{check:?}");
    let said = String::from_utf8(check.stdout).unwrap();
    assert!(said.contains(", and one was last verified "), "{said}");

    let in_disk = somewhere(&disk);
    let in_memory = somewhere(&memory);
    let piece = |at: u64| {
        let start = at / (4 << 20) * (4 << 20);
        format!("is not what it was between byte {start} and byte")
    };
    let record = taken.dir.join("snapshot.json");
    let manifest = taken.dir.join("guest/hypeman-snap.json");
    let digests = taken.dir.join("hypeman-snap-digests.json");
    let name_at = |path: &Path, part: &str| -> u64 {
        let text = fs::read_to_string(path).unwrap();
        (text.find(part).unwrap() + part.len() - 1) as u64
    };
    let cases: [(&Path, u64, String, bool); 6] = [
        (&memory, in_memory, piece(in_memory), true),
        (&disk, in_disk, piece(in_disk), true),
        (
            &memory,
            1,
            "does not begin as memory of QEMU does".to_owned(),
            false,
        ),
        (
            &record,
            name_at(&record, "\"name\": \"sched"),
            "snapshot.json is not what it was".to_owned(),
            false,
        ),
        (
            &manifest,
            name_at(&manifest, "\"format\": \"ra"),
            "hypeman-snap.json is not what it was".to_owned(),
            false,
        ),
        (
            &digests,
            200,
            "hypeman-snap-digests.json is damaged".to_owned(),
            false,
        ),
    ];
    for (path, at, says, is_only_read) in cases {
        let shown = path.file_name().unwrap().to_str().unwrap();
        flip(path, at);
        if is_only_read {
            let (code, json) = taken.verify(&[id]);
            assert_eq!(code, 0, "{shown}: {json}");
        }
        let arguments: &[&str] = if is_only_read { &[id, "--read"] } else { &[id] };
        let (code, json) = taken.verify(arguments);
        assert_eq!(
            (code, json[0]["outcome"].as_str()),
            (1, Some("damaged")),
            "{shown}: {json}"
        );
        let found = json[0]["found"].to_string();
        assert!(
            found.contains(shown) && found.contains(&says),
            "{shown}: {found}"
        );
        // It counts as unusable from now on: for people, for `latest`, for retention, and for monitoring.
        let listed = taken.listed();
        assert_eq!(listed["usable"], false, "{shown}: {listed}");
        let why = listed["unusable_reason"].as_str().unwrap();
        assert!(why.contains(&says), "{why}");
        let check = host.tool(&["check"]);
        assert_eq!(check.status.code(), Some(2), "{shown}: {check:?}");
        // Put right, a later pass takes the verdict back, and only one that reads.
        flip(path, at);
        let (_, json) = taken.verify(&[id]);
        assert_eq!(json[0]["outcome"], "damaged", "{shown}: {json}");
        let (code, json) = taken.verify(&[id, "--read"]);
        assert_eq!(code, 0, "{shown}: {json}");
        assert_eq!(taken.listed()["usable"], true);
    }

    // Files that are cut, gone or something else.
    let aside = taken.dir.with_extension("aside");
    let changes: [(&str, &dyn Fn()); 3] = [
        ("is cut", &|| {
            let length = fs::metadata(&aside).unwrap().len();
            fs::copy(&aside, &memory).unwrap();
            fs::File::options()
                .write(true)
                .open(&memory)
                .unwrap()
                .set_len(length - 1)
                .unwrap();
        }),
        ("is missing", &|| {}),
        ("symlink", &|| {
            std::os::unix::fs::symlink(&aside, &memory).unwrap();
        }),
    ];
    for (says, change) in changes {
        fs::rename(&memory, &aside).unwrap();
        change();
        let (code, json) = taken.verify(&[id, "--read"]);
        assert_eq!(code, 1, "{says}: {json}");
        assert!(
            json[0]["found"].to_string().contains(says),
            "{says}: {json}"
        );
        let _ = fs::remove_file(&memory);
        fs::rename(&aside, &memory).unwrap();
    }
    assert_eq!(taken.verify(&[id, "--read"]).0, 0);
    // What was verified comes back.
    host.assert_goes_on(id);
}

const WEB_A: (&str, &str) = ("mk3v9t0xq2r7w5d8h1c6b4za", "web-a");

#[test]
fn snapshots_without_digests_get_some_and_references_are_resolved() {
    let host = Host::with_two_instances(TOOL);
    let hour = std::time::Duration::from_secs(3600);
    host.add_snapshot("s1", WEB_A, hour, true);
    host.add_snapshot("s2", WEB_A, 2 * hour, true);
    let said = host.run(&["verify"]).exits(0);
    assert!(
        said.stdout
            .contains("web-a: name-of-s1 (s1): looks whole\n"),
        "{}",
        said.stdout
    );
    assert!(
        said.stdout.ends_with("2 good, 0 damaged, 0 not verified\n"),
        "{}",
        said.stdout
    );
    let said = host.run(&["verify", "s1", "name-of-s1", "--read"]).exits(0);
    assert_eq!(
        said.stdout,
        "web-a: name-of-s1 (s1): verified; 1 file was read for the first time, and can be compared from now on\n"
    );
    flip(&host.data_dir().join("snapshots/s1/guest/overlay.raw"), 3);
    let said = host.run(&["verify", "web-a", "--read"]).exits(1);
    assert!(
        said.stdout
            .contains("(s1): damaged: overlay.raw is not what it was between byte 0 and byte 6\n"),
        "{}",
        said.stdout
    );
    assert!(
        said.stdout.ends_with("1 good, 1 damaged, 0 not verified\n"),
        "{}",
        said.stdout
    );
    let said = host.run(&["snapshots"]).exits(0);
    assert!(
        said.stdout.contains("verification found: overlay.raw"),
        "{}",
        said.stdout
    );
    // `latest` is the older one by now.
    let to = host.dir().join("back");
    let json = host
        .run(&[
            "restore",
            "web-a",
            "latest",
            "--to",
            to.to_str().unwrap(),
            "-n",
            "-o",
            "json",
        ])
        .exits(0)
        .json();
    assert_eq!(json["snapshot_id"], "s2");
    host.run(&["verify", "web-c"])
        .exits(3)
        .complains(&["\"web-c\""]);
    host.run(&["verify", "s"])
        .exits(2)
        .complains(&["ambiguous"]);
    // A verdict that can't be kept is an error.
    let json = host
        .run(&["delete-snapshot", "--yes", "s1", "-o", "json"])
        .exits(0)
        .json();
    assert_eq!(json[0]["changed"], true);
    host.run(&["verify"]).exits(0);
}
