//! Snapshots whose memory is compressed: they come back, and damage to them is found.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use support::cli::Host;
use support::skip::skipped;
use support::started::{Started, check, ticks};
use support::vm_host::{ID, VmHost};
use support::wait::wait_until;

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");

fn memory_of(host: &VmHost, id: &str) -> PathBuf {
    let state = host
        .snapshot_dir(id)
        .join("guest/snapshots/snapshot-latest");
    state.join("memory")
}

/// What `tool` makes of the file; nothing where it is not installed.
fn frame_by(tool: &str, file: &Path) -> Option<Vec<u8>> {
    let made = Command::new(tool).args(["-q", "-c"]).arg(file).output();
    let made = made.ok()?;
    assert!(made.status.success(), "{made:?}");
    Some(made.stdout)
}

fn verify(host: &VmHost, arguments: &[&str]) -> (i32, Value) {
    let output = host.tool(&[&["-o", "json", "verify"], arguments].concat());
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    (output.status.code().unwrap(), json[0].clone())
}

/// Restores the snapshot beside, starts it, and sees it go on from before `taken`.
fn goes_on(host: &VmHost, id: &str, taken: u64, to: &Path) {
    let serial = host.vm.serial_path();
    let _ = fs::remove_file(&serial);
    let to = to.to_str().unwrap();
    let json = host.json(&["restore", ID, id, "--to", to, "--start"]);
    let started = Started::of(&json);
    wait_until("the restored guest", || {
        ticks(&serial).last().is_some_and(|last| *last > taken + 50)
    });
    assert!(ticks(&serial)[0] <= taken);
    let state = Path::new(to).join("snapshots/snapshot-latest");
    let laid = fs::read_dir(state).unwrap();
    let names: Vec<_> = laid.map(|it| it.unwrap().file_name()).collect();
    assert_eq!(names, ["memory"], "what was compressed is raw there");
    started.end();
}

/// What is in the directory of a snapshot's memory, in order.
fn forms(host: &VmHost, id: &str) -> Vec<String> {
    let state = memory_of(host, id).parent().unwrap().to_owned();
    let names = fs::read_dir(state).unwrap();
    let mut names: Vec<String> = names
        .map(|it| it.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn record(host: &VmHost, id: &str) -> Value {
    let text = fs::read_to_string(host.snapshot_dir(id).join("snapshot.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["snapshot"].clone()
}

/// A VM whose schedule compresses.
fn compressing(place: &Path, method: &str) -> VmHost {
    let host = VmHost::boot(TOOL, place, |_| {});
    let count = ["--max-count", "5", "--compress", method];
    host.tool_ok(&[&["set", ID, "--interval", "1h"], &count[..]].concat());
    host.vm.wait_ticks_beyond(100);
    host
}

fn id_of(result: &Value) -> String {
    result["snapshot_id"].as_str().unwrap().to_owned()
}

#[test]
fn memory_is_compressed_behind_the_snapshot_and_comes_back() {
    for (method, level, suffix) in [("zstd", 1, "zst"), ("lz4:3", 3, "lz4")] {
        let place = tempfile::tempdir().unwrap();
        let host = compressing(place.path(), method);
        let result = host.snapshot();
        let taken = host.vm.wait_next_tick();
        let id = id_of(&result);
        let said = &result["compressed"][0];
        assert_eq!(said["snapshot_id"], id.as_str(), "{result}");
        assert_eq!(forms(&host, &id), [format!("memory.{suffix}")]);
        let packed = memory_of(&host, &id).with_extension(suffix);
        let packed_bytes = packed.metadata().unwrap().size();
        assert_eq!(packed.metadata().unwrap().mode() & 0o7777, 0o600);
        let record = record(&host, &id);
        assert_eq!(record["compression_state"], "compressed", "{record}");
        let algorithm = method.split(':').next().unwrap();
        assert_eq!(
            record["compression"],
            json!({"enabled": true, "algorithm": algorithm, "level": level})
        );
        assert_eq!(record["compressed_size_bytes"], packed_bytes);
        let raw_bytes = record["uncompressed_size_bytes"].as_u64().unwrap();
        assert!(packed_bytes < raw_bytes, "{record}");
        assert_eq!(said["compressed_size_bytes"], packed_bytes);
        assert_eq!(said["uncompressed_size_bytes"], raw_bytes);
        let guest = host.snapshot_dir(&id).join("guest");
        assert_eq!(record["size_bytes"], apparent(&guest), "{record}");
        let listed = &host.snapshots()[0];
        assert_eq!(listed["usable"], true, "{listed}");
        let of_list = listed["disk_bytes"].as_u64().unwrap();
        assert!(of_list >= packed_bytes, "{listed}");
        for arguments in [&[id.as_str()][..], &[&id, "--read"]] {
            let (code, json) = verify(&host, arguments);
            assert_eq!(code, 0, "{method}: {json}");
        }
        // A reader of frames that everybody has reads it.
        let tool = if suffix == "zst" { "zstd" } else { "lz4" };
        match Command::new(tool).arg("-dc").arg(&packed).output() {
            Ok(output) => assert_eq!(output.stdout.len() as u64, raw_bytes),
            Err(_) => skipped(&format!("reading a frame with {tool}: install {tool}")),
        }
        assert_eq!(host.vm.torn_lines(), Vec::<String>::new());
        host.vm.kill();
        goes_on(&host, &id, taken, &place.path().join("back"));
        assert!(leftovers(&host).is_empty());
    }
}

#[test]
fn the_standby_of_a_hypeman_instance_is_compressed_unless_it_is_already() {
    const WEB_A: &str = "mk3v9t0xq2r7w5d8h1c6b4za";
    let host = Host::with_two_instances(TOOL);
    let guest = host.data_dir().join("guests").join(WEB_A);
    let standby = guest.join("snapshots/snapshot-latest");
    fs::create_dir_all(&standby).unwrap();
    // As the server writes it: with zeros where nothing is.
    let mut memory = b"QEVM".to_vec();
    memory.resize(8 << 20, 0);
    memory[3 << 20..4 << 20].fill(7);
    fs::write(standby.join("memory"), &memory).unwrap();
    let take = |method: &str| {
        host.run(&[
            "set",
            WEB_A,
            "--interval",
            "1h",
            "--max-count",
            "9",
            "--compress",
            method,
        ])
        .exits(0);
        let said = host.run(&["-o", "json", "run-due", "--force", "--instance", WEB_A]);
        let result = said.exits(0).json()["results"][0].clone();
        assert_eq!(result["kind"], "Standby", "{result}");
        let id = id_of(&result);
        let said = host.run(&["verify", "--read", &id]).exits(0);
        assert!(said.stdout.contains(": verified"), "{}", said.stdout);
        host.data_dir().join("snapshots").join(id)
    };
    let raw = take("none").join("guest/snapshots/snapshot-latest/memory");
    assert!(fs::read(&raw).unwrap() == memory);
    let blocks = raw.metadata().unwrap().blocks();
    assert!(blocks * 512 < 2 << 20, "{blocks}");
    let packed = take("lz4");
    let state = packed.join("guest/snapshots/snapshot-latest");
    assert!(state.join("memory.lz4").is_file() && !state.join("memory").exists());
    let to = host.dir().join("back");
    let to = to.to_str().unwrap();
    host.run(&["restore", WEB_A, "latest", "--to", to]).exits(0);
    let back = Path::new(to).join("snapshots/snapshot-latest/memory");
    assert!(fs::read(back).unwrap() == memory);

    // What the server had compressed stays so, and says it.
    fs::remove_file(standby.join("memory")).unwrap();
    fs::copy(state.join("memory.lz4"), standby.join("memory.lz4")).unwrap();
    let copied = take("zstd");
    let record = fs::read_to_string(copied.join("snapshot.json")).unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["snapshot"]["compression_state"], "compressed");
    assert_eq!(record["snapshot"]["compression"]["algorithm"], "lz4");
    let state = copied.join("guest/snapshots/snapshot-latest");
    assert!(state.join("memory.lz4").is_file() && !state.join("memory.zst").exists());
}

/// The lengths of all files below a directory.
fn apparent(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).unwrap();
    let sizes = entries.map(|entry| {
        let path = entry.unwrap().path();
        let metadata = path.symlink_metadata().unwrap();
        if metadata.is_dir() {
            apparent(&path)
        } else {
            metadata.size()
        }
    });
    sizes.sum()
}

/// The snapshots that are marked as being compressed.
fn leftovers(host: &VmHost) -> Vec<String> {
    let Ok(entries) = fs::read_dir(host.state_dir().join("compressing")) else {
        return Vec::new();
    };
    let names = entries.map(|it| it.unwrap().file_name().into_string().unwrap());
    names.collect()
}

#[test]
fn memory_that_a_tool_compressed_comes_back_and_what_is_spoilt_of_it_is_found() {
    let place = tempfile::tempdir().unwrap();
    let host = VmHost::boot(TOOL, place.path(), |_| {});
    host.schedule(5);
    host.vm.wait_ticks_beyond(100);
    let id = host.snapshot()["snapshot_id"].as_str().unwrap().to_owned();
    let taken = host.vm.wait_next_tick();
    host.vm.kill();
    let memory = memory_of(&host, &id);
    let whole = fs::read(&memory).unwrap();
    for (tool, suffix) in [("zstd", "zst"), ("lz4", "lz4")] {
        let packed = memory.with_extension(suffix);
        let Some(frame) = frame_by(tool, &memory) else {
            skipped(&format!("memory that {tool} compressed: install {tool}"));
            continue;
        };
        // The raw file counts as long as it is there.
        fs::write(&packed, "half a fra").unwrap();
        let (code, json) = verify(&host, &[&id, "--read"]);
        assert_eq!((code, &json["outcome"]), (0, &json!("verified")), "{json}");
        fs::write(&packed, &frame).unwrap();
        fs::remove_file(&memory).unwrap();

        for arguments in [&[id.as_str()][..], &[&id, "--read"]] {
            let (code, json) = verify(&host, arguments);
            assert_eq!(code, 0, "{tool}: {json}");
        }
        goes_on(&host, &id, taken, &place.path().join(tool));

        let flipped = {
            let mut frame = frame.clone();
            let middle = frame.len() / 2;
            frame[middle] ^= 4;
            frame
        };
        let other = {
            let other = place.path().join("other");
            let mut content = whole.clone();
            let end = content.len() - 1;
            content[end] ^= 1;
            fs::write(&other, content).unwrap();
            frame_by(tool, &other).unwrap()
        };
        let cases: [(&[u8], &str, &str); 5] = [
            (&flipped, "--read", "memory."),
            (&frame[..frame.len() - 1], "--read", "the frame is cut"),
            (&[&frame[..], b"x"].concat(), "--read", "behind the end"),
            (&other, "--read", "is not what it was between byte"),
            (b"no frame at all", "-q", "does not begin as a frame"),
        ];
        for (content, how, says) in cases {
            fs::write(&packed, content).unwrap();
            let (code, json) = verify(&host, &[&id, how]);
            assert_eq!(code, 1, "{tool} {says}: {json}");
            assert_eq!(json["outcome"], "damaged", "{tool} {says}: {json}");
            let found = json["found"].to_string();
            assert!(found.contains(says), "{tool}: {found}");
            assert_eq!(host.snapshots()[0]["usable"], false);
            let to = place.path().join("never");
            let said = host.tool(&["restore", ID, &id, "--to", to.to_str().unwrap()]);
            assert_eq!(said.status.code(), Some(1), "{said:?}");
            assert!(!to.exists());
            fs::write(&packed, &frame).unwrap();
            assert_eq!(verify(&host, &[&id, "--read"]).0, 0);
        }
        // What a record says of the compressed file's length holds.
        let record = host.snapshot_dir(&id).join("snapshot.json");
        let before = fs::read_to_string(&record).unwrap();
        let mut json: Value = serde_json::from_str(&before).unwrap();
        json["snapshot"]["compression_state"] = json!("compressed");
        json["snapshot"]["compressed_size_bytes"] = json!(frame.len());
        fs::write(&record, json.to_string()).unwrap();
        assert_eq!(verify(&host, &[&id]).0, 0);
        let file = fs::File::options().write(true).open(&packed).unwrap();
        file.write_all_at(b"x", frame.len() as u64).unwrap();
        let (code, json) = verify(&host, &[&id]);
        assert_eq!(code, 1, "{json}");
        assert!(json["found"].to_string().contains("and had"), "{json}");
        fs::write(&record, &before).unwrap();

        fs::remove_file(&packed).unwrap();
        fs::write(&memory, &whole).unwrap();
        assert_eq!(verify(&host, &[&id, "--read"]).0, 0);
    }
}

#[test]
fn compressed_memory_is_unpacked_in_place_too_and_its_room_is_reckoned() {
    if Command::new("zstd").arg("--version").output().is_err() {
        skipped("memory that zstd compressed: install zstd");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let host = VmHost::boot(TOOL, place.path(), |_| {});
    host.schedule(5);
    host.vm.wait_ticks_beyond(100);
    let id = host.snapshot()["snapshot_id"].as_str().unwrap().to_owned();
    let taken = host.vm.wait_next_tick();
    host.vm.wait_ticks_beyond(taken + 50);
    host.vm.kill();
    let memory = memory_of(&host, &id);
    let raw_bytes = memory.metadata().unwrap().size();
    let packed = Command::new("zstd")
        .args(["-q", "--rm"])
        .arg(&memory)
        .status();
    assert!(packed.unwrap().success());
    let serial = host.vm.serial_path();
    fs::remove_file(&serial).unwrap();
    let json = host.json(&["restore", ID, &id, "--start"]);
    let started = Started::of(&json);
    wait_until("the restored guest", || {
        ticks(&serial).last().is_some_and(|last| *last > taken + 50)
    });
    assert!(ticks(&serial)[0] <= taken);
    started.end();
    let room = check(&json, "free space")["detail"].to_string();
    let copied = room.split("\"").nth(1).unwrap().split(' ').next().unwrap();
    let copied: u64 = copied.parse().unwrap();
    assert!(copied << 20 >= raw_bytes >> 20 << 20, "{room}: {raw_bytes}");
}
