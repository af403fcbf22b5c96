//! Whose VMM listens at a socket: nobody gets another VM's memory into a snapshot of his own by replacing a socket, by
//! naming another's, or by taking its place.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};
use support::cli::{Host, Said};
use support::hostile::{Hostile, Place, Program, Script, command};
use support::qemu::{TestVm, VmOptions};

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");

fn boot(host: &Host) -> TestVm {
    let disks = host.dir().join("disks");
    fs::create_dir(&disks).unwrap();
    TestVm::boot(&VmOptions::new(&disks))
}

fn register(host: &Host, id: &str, hypervisor: &str, socket: &Path, more: &[&str]) {
    let socket = socket.to_str().unwrap();
    let arguments = [
        "register",
        id,
        "--hypervisor",
        hypervisor,
        "--socket",
        socket,
    ];
    host.run(&[&arguments, more].concat()).exits(0);
    schedule(host, id);
}

fn schedule(host: &Host, id: &str) {
    host.run(&["set", id, "--interval", "1h", "--max-count", "3"])
        .exits(0);
}

/// A VMM of nobody's that behaves well.
fn of_nobodys(place: Place, program: Program) -> Hostile {
    let disk = place.disk("disk.raw", "the disk");
    Hostile::start(place, &Script::well_behaved(program, &[disk]))
}

/// Runs `run-due --force`; gives what came of these instances.
fn force<const N: usize>(host: &Host, ids: [&str; N]) -> (Said, [String; N]) {
    let said = host.run(&["-o", "json", "run-due", "--force"]);
    let results = said.json()["results"].clone();
    let outcome = |id| {
        let of_id = |it: &&Value| it["instance_id"] == id;
        let result = results.as_array().unwrap().iter().find(of_id);
        result.unwrap_or_else(|| panic!("{said:?}"))["outcome"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let outcomes = ids.map(outcome);
    (said, outcomes)
}

/// The instances whose snapshots are there.
fn snapshots(host: &Host) -> Vec<String> {
    let all = host.snapshots().into_iter().map(|id| {
        let path = host.data_dir().join("snapshots").join(id);
        let record = fs::read(path.join("snapshot.json")).unwrap();
        let record: Value = serde_json::from_slice(&record).unwrap();
        record["snapshot"]["source_instance_id"]
            .as_str()
            .unwrap()
            .to_owned()
    });
    all.collect()
}

#[test]
fn a_socket_replaced_by_a_symlink_leads_to_no_other_vm() {
    let Some(place) = Place::new("a directory that another user owns") else {
        return;
    };
    let host = Host::new(TOOL);
    let victim = boot(&host);
    // Registered while root's QEMU listens there, so that nothing else speaks against it.
    let restarted = {
        let disks = host.dir().join("others");
        fs::create_dir(&disks).unwrap();
        TestVm::boot(&VmOptions::new(&disks))
    };
    let socket = place.dir().join("s");
    fs::hard_link(restarted.socket(), &socket).unwrap();
    register(&host, "vm-bad", "qemu", &socket, &[]);
    fs::remove_file(&socket).unwrap();
    symlink(victim.socket(), &socket).unwrap();
    let (said, outcomes) = force(&host, ["vm-bad"]);
    assert_eq!(outcomes, ["failed"], "{said:?}");
    said.complains(&["is a symlink", socket.to_str().unwrap(), "register"]);
    assert!(host.snapshots().is_empty());

    register(&host, "victim", "qemu", victim.socket(), &[]);
    let (said, outcomes) = force(&host, ["vm-bad", "victim"]);
    assert_eq!(outcomes, ["failed", "snapshotted"], "{said:?}");
    assert_eq!(snapshots(&host), ["victim"]);
}

#[test]
fn the_metadata_of_a_guest_names_no_other_vms_socket() {
    let host = Host::new(TOOL);
    let victim = boot(&host);
    host.add_instance("vm-bad", "vm-bad");
    schedule(&host, "vm-bad");
    let path = host.data_dir().join("guests/vm-bad/metadata.json");
    let mut metadata: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    metadata["HypervisorType"] = json!("qemu");
    metadata["ProgramStartedAt"] = json!("2026-09-01T08:00:04Z");
    metadata["SocketPath"] = json!(victim.socket());
    fs::write(&path, metadata.to_string()).unwrap();
    let (said, outcomes) = force(&host, ["vm-bad"]);
    assert_eq!(outcomes, ["failed"], "{said:?}");
    said.complains(&["SocketPath", "not in the guest's directory"]);

    register(&host, "victim", "qemu", victim.socket(), &[]);
    let (said, outcomes) = force(&host, ["vm-bad", "victim"]);
    assert_eq!(outcomes, ["failed", "snapshotted"], "{said:?}");
    assert_eq!(snapshots(&host), ["victim"]);
}

#[test]
fn one_process_serves_one_instance() {
    let host = Host::new(TOOL);
    let vm = boot(&host);
    register(&host, "vm-a", "qemu", vm.socket(), &[]);
    register(&host, "vm-b", "qemu", vm.socket(), &[]);
    let (said, outcomes) = force(&host, ["vm-a", "vm-b"]);
    assert_eq!(outcomes, ["failed", "failed"], "{said:?}");
    said.complains(&["vm-a", "vm-b", "one process serves one instance"]);
    assert!(host.snapshots().is_empty());
    host.run(&["unregister", "vm-b"]).exits(0);
    let (said, outcomes) = force(&host, ["vm-a"]);
    assert_eq!(outcomes, ["snapshotted"], "{said:?}");

    // Where nothing is recorded yet, the first one in a run is served.
    let host = Host::new(TOOL);
    let disk = vm.disks()[0].to_str().unwrap();
    for id in ["vm-a", "vm-b"] {
        let socket = host.dir().join(id);
        register(&host, id, "qemu", &socket, &["--disk", disk]);
        fs::hard_link(vm.socket(), &socket).unwrap();
    }
    for time in 1..=2 {
        let (said, mut outcomes) = force(&host, ["vm-a", "vm-b"]);
        outcomes.sort();
        assert_eq!(outcomes, ["failed", "snapshotted"], "{said:?}");
        said.complains(&["vm-a", "vm-b", "one process serves one instance"]);
        assert_eq!(host.snapshots().len(), time);
    }
    let served = snapshots(&host);
    assert_eq!(served[0], served[1]);
}

#[test]
fn a_vmm_of_another_user_is_not_the_vm_that_was_registered() {
    let (Some(place), Some(good)) = (
        Place::new("a VMM of another user"),
        Place::new("a good VM beside it"),
    ) else {
        return;
    };
    let host = Host::new(TOOL);
    let good = of_nobodys(good, Program::Firecracker);
    register(&host, "good", "firecracker", &good.socket(), &[]);
    let vm = boot(&host);
    let socket = place.dir().join("s");
    fs::hard_link(vm.socket(), &socket).unwrap();
    register(&host, "vm-a", "qemu", &socket, &[]);
    vm.kill();
    fs::remove_file(&socket).unwrap();
    let impostor = of_nobodys(place, Program::Qemu);

    let (said, outcomes) = force(&host, ["vm-a", "good"]);
    assert_eq!(outcomes, ["failed", "snapshotted"], "{said:?}");
    said.complains(&["65534", "user 0", "hypeman-snap register` vm-a"]);
    assert_eq!(impostor.count(&command("stop")), 0);
    assert_eq!(snapshots(&host), ["good"]);

    // The admin says that this is right.
    register(&host, "vm-a", "qemu", &socket, &[]);
    let (said, outcomes) = force(&host, ["vm-a", "good"]);
    assert_eq!(outcomes, ["snapshotted", "snapshotted"], "{said:?}");
}
