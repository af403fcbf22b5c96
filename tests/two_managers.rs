//! Guests that hypeman runs, on the local engine: what would harm them is refused before their VMM is told anything, with
//! the remedy, and everything else on the host is served.

#![cfg(test)]

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use support::cli::{Host, Said};
use support::fake_vmm::{Dialect, FakeDisk, FakeVmm, Guest, Request};

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");
const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";
const REGISTERED: &str = "vm-of-ours";

fn vmm(host: &Host, id: &str, dialect: Dialect) -> (FakeVmm, PathBuf) {
    let socket = host.dir().join(format!("{id}.s"));
    let disk = host.dir().join(format!("{id}.raw"));
    fs::write(&disk, id).unwrap();
    let disk = FakeDisk {
        path: Some(disk),
        is_read_only: false,
    };
    (FakeVmm::start(dialect, &socket, &[disk]), socket)
}

fn schedule(host: &Host, id: &str) {
    host.run(&["set", id, "--interval", "1h", "--max-count", "3"])
        .exits(0);
}

/// Adds a scheduled guest that hypeman runs in `dialect`'s VMM.
fn add_hypemans(host: &Host, dialect: Dialect) -> FakeVmm {
    let (vmm, socket) = vmm(host, ID, dialect);
    host.add_instance(ID, "web-a");
    let path = host
        .data_dir()
        .join("guests")
        .join(ID)
        .join("metadata.json");
    let mut metadata: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    metadata["SocketPath"] = json!(socket);
    metadata["HypervisorType"] = json!(match dialect {
        Dialect::CloudHypervisor => "cloud-hypervisor",
        Dialect::Firecracker => "firecracker",
    });
    metadata["ProgramStartedAt"] = json!("2026-09-01T08:00:04Z");
    fs::write(path, metadata.to_string()).unwrap();
    schedule(host, ID);
    vmm
}

/// Adds a scheduled guest that hypeman does not run.
fn add_registered(host: &Host, dialect: Dialect) -> FakeVmm {
    let (vmm, socket) = vmm(host, REGISTERED, dialect);
    let hypervisor = match dialect {
        Dialect::CloudHypervisor => "cloud-hypervisor",
        Dialect::Firecracker => "firecracker",
    };
    let socket = socket.to_str().unwrap();
    host.run(&[
        "register",
        REGISTERED,
        "--hypervisor",
        hypervisor,
        "--socket",
        socket,
    ])
    .exits(0);
    schedule(host, REGISTERED);
    vmm
}

fn track_dirty_pages(vmm: &FakeVmm) {
    vmm.add_config(json!({
        "machine-config": {
            "vcpu_count": 1, "mem_size_mib": 1, "smt": false, "track_dirty_pages": true, "huge_pages": "None",
        },
    }));
}

fn result(said: &Said, id: &str) -> Value {
    let report = said.json();
    let results = report["results"].as_array().unwrap();
    let mut of_id = results.iter().filter(|it| it["instance_id"] == id);
    of_id.next().unwrap_or_else(|| panic!("{report}")).clone()
}

fn finding(said: &Said, subject: &str) -> Value {
    let all = said.json();
    let mut found = all.as_array().unwrap().iter();
    let found = found.find(|it| it["check"] == "instance" && it["subject"] == subject);
    found.unwrap_or_else(|| panic!("{all}")).clone()
}

/// The guest ran all the time, and its VMM was asked for nothing that changes anything.
fn assert_untouched(vmm: &FakeVmm) {
    assert_eq!(vmm.guest(), Guest::Running);
    let asked = vmm.requests();
    let changes = [Request::Pause, Request::Save, Request::Resume];
    assert!(
        !asked.iter().any(|request| changes.contains(request)),
        "{asked:?}"
    );
}

fn assert_says(value: &Value, parts: &[&str]) {
    for part in parts {
        assert!(value.to_string().contains(part), "no {part:?} in {value}");
    }
}

#[test]
fn a_guest_whose_memory_hypeman_saves_by_its_changes_is_left_to_hypeman() {
    type Mark = fn(&Host, &FakeVmm);
    let signs: [(Dialect, Mark, &str); 3] = [
        (
            Dialect::Firecracker,
            |_, vmm| track_dirty_pages(vmm),
            "tracks dirty pages",
        ),
        (
            Dialect::Firecracker,
            |host, _| add_base(host),
            "snapshot-base is there",
        ),
        (
            Dialect::CloudHypervisor,
            |host, _| add_base(host),
            "snapshot-base is there",
        ),
    ];
    for (dialect, mark, sign) in signs {
        let host = Host::new(TOOL);
        let guest = add_hypemans(&host, dialect);
        let other = add_registered(&host, dialect);
        track_dirty_pages(&other);
        mark(&host, &guest);

        let doctor = host.run(&["-o", "json", "doctor"]);
        let foreseen = finding(&doctor, ID);
        assert_eq!(foreseen["status"], "broken", "{foreseen}");
        assert_says(&foreseen, &[sign, "--engine hypeman"]);
        assert_eq!(finding(&doctor, REGISTERED)["status"], "ok");

        let run = host.run(&["-o", "json", "run-due", "--force"]).exits(1);
        let refused = result(&run, ID);
        assert_eq!(refused["outcome"], "failed");
        assert_says(&refused, &[sign, "--engine hypeman"]);
        assert_untouched(&guest);
        // Nobody else counts on the account of a registered guest's memory.
        assert_eq!(result(&run, REGISTERED)["outcome"], "snapshotted");
        assert_eq!(host.snapshots().len(), 1);
        assert!(
            fs::read_dir(host.state_dir().join("journal"))
                .map_or(true, |mut all| all.next().is_none())
        );
    }
}

fn add_base(host: &Host) {
    let base = host
        .data_dir()
        .join("guests")
        .join(ID)
        .join("snapshots/snapshot-base");
    fs::create_dir_all(base).unwrap();
}

#[test]
fn a_guest_of_hypemans_whose_memory_is_saved_whole_is_snapshotted() {
    for dialect in [Dialect::Firecracker, Dialect::CloudHypervisor] {
        let host = Host::new(TOOL);
        let guest = add_hypemans(&host, dialect);
        let run = host.run(&["-o", "json", "run-due", "--force"]).exits(0);
        assert_eq!(result(&run, ID)["outcome"], "snapshotted");
        assert_eq!((guest.guest(), guest.saves()), (Guest::Running, 1));
    }
}
