//! Every file that the tool reads, damaged or saying what no such file says: each command ends by itself and in time,
//! none panics or shows control characters, and the instance beside it is served. `contrib/fuzz.sh` runs this with more
//! cases.

#![cfg(test)]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use support::cli::Host;
use support::foreign::{altered, damaged};

const SPOILT: &str = "mk3v9t0xq2r7w5d8h1c6b4za";
const GOOD: &str = "mk3w0000000000000000000b";
const REGISTERED: &str = "db";

/// A file of the host, as a path below the state or the data directory.
#[derive(Debug, Clone, Copy)]
enum Spoilt {
    Schedule,
    Journal,
    Registration,
    Metadata,
    Record,
    Manifest,
}

/// A host on which every kind of file is there.
fn host() -> Host {
    let host = Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"));
    let disk = host.dir().join("db.raw");
    fs::write(&disk, "a disk").unwrap();
    let (disk, socket) = (disk.to_str().unwrap(), host.dir().join("no.sock"));
    host.run(&[
        "register",
        REGISTERED,
        "--hypervisor",
        "qemu",
        "--socket",
        socket.to_str().unwrap(),
        "--disk",
        disk,
    ])
    .exits(0);
    for id in [SPOILT, GOOD, REGISTERED] {
        host.run(&[
            "set",
            id,
            "--interval",
            "1h",
            "--max-count",
            "2",
            "--max-age",
            "7d",
        ])
        .exits(0);
    }
    host.run(&["run-due", "--force"]).exits(0);
    let journal = host.state_dir().join("journal");
    fs::create_dir_all(&journal).unwrap();
    let entry = json!({
        "instance_id": SPOILT, "snapshot_id": "s8p1n4f6y0u3e2j7g9l5o1xv", "hypervisor": "qemu",
        "socket": host.data_dir().join("guests").join(SPOILT).join("qemu.sock"),
        "process": {"pid": 4_000_000, "start_ticks": 7}, "phase": "pausing", "began_at": "2026-09-02T05:15:20Z",
    });
    fs::write(journal.join(format!("{SPOILT}.json")), entry.to_string()).unwrap();
    host
}

fn path(host: &Host, spoilt: Spoilt) -> PathBuf {
    let snapshots = || {
        let store = host.data_dir().join("snapshots");
        host.snapshots().into_iter().map(move |id| store.join(id))
    };
    match spoilt {
        Spoilt::Schedule => host.schedule_path(SPOILT),
        Spoilt::Journal => host.state_dir().join(format!("journal/{SPOILT}.json")),
        Spoilt::Registration => host
            .state_dir()
            .join(format!("instances/{REGISTERED}.json")),
        Spoilt::Metadata => host
            .data_dir()
            .join(format!("guests/{SPOILT}/metadata.json")),
        Spoilt::Record => snapshots()
            .map(|dir| dir.join("snapshot.json"))
            .find(|file| fs::read_to_string(file).unwrap().contains(SPOILT))
            .unwrap(),
        Spoilt::Manifest => snapshots()
            .map(|dir| dir.join("guest/hypeman-snap.json"))
            .find(|file| file.exists() && fs::read_to_string(file).unwrap().contains("db.raw"))
            .unwrap(),
    }
}

fn spoilt() -> impl Strategy<Value = Spoilt> {
    prop_oneof![
        Just(Spoilt::Schedule),
        Just(Spoilt::Journal),
        Just(Spoilt::Registration),
        Just(Spoilt::Metadata),
        Just(Spoilt::Record),
        Just(Spoilt::Manifest),
    ]
}

/// Runs a command that may fail, but not otherwise than in its own words.
fn run(host: &Host, args: &[&str]) {
    let output = host
        .command()
        .timeout(Duration::from_secs(30))
        .args(args)
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(
        matches!(output.status.code(), Some(0..=4)),
        "{args:?}: {output:?}"
    );
    assert!(!told.contains("panicked"), "{args:?}: {told}");
    let said = String::from_utf8(output.stdout).unwrap();
    let is_shown = |c: char| c == '\n' || !c.is_control();
    assert!(
        told.chars().chain(said.chars()).all(is_shown),
        "{args:?}: {said:?} {told:?}"
    );
}

/// The instance that nothing was done to gets its snapshot.
fn good_one_is_served(host: &Host) {
    let taken = |host: &Host| host.schedule(GOOD)["last_snapshot_id"].clone();
    let before = taken(host);
    let mut schedule = host.schedule(GOOD);
    schedule["next_run_at"] = "2026-01-01T00:00:00Z".into();
    host.write_schedule(GOOD, schedule.to_string());
    run(host, &["run-due"]);
    let after = taken(host);
    assert!(after.is_string() && after != before, "{before} {after}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn foreign_bytes_in_a_file_are_survived(
        spoilt in spoilt(),
        rarity in prop_oneof![Just(None), (2_u32..20).prop_map(Some)],
        seed in any::<u64>(),
    ) {
        let host = host();
        let file = path(&host, spoilt);
        let bytes = fs::read(&file).unwrap();
        let bytes = match rarity {
            None => damaged(&bytes, seed),
            Some(rarity) => {
                let whole: Value = serde_json::from_slice(&bytes).unwrap();
                altered(&whole, rarity, seed).to_string().into_bytes()
            }
        };
        fs::write(&file, bytes).unwrap();
        let canary = host.dir().join("canary");
        fs::write(&canary, "untouched").unwrap();
        for args in [
            &["list"][..],
            &["get", SPOILT],
            &["snapshots"],
            &["check"],
            &["doctor"],
            &["run-due", "--dry-run", "--force"],
        ] {
            run(&host, args);
        }
        good_one_is_served(&host);
        run(&host, &["prune"]);
        run(&host, &["run-due", "--force"]);
        prop_assert_eq!(fs::read_to_string(canary).unwrap(), "untouched");
    }
}
