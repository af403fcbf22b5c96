//! VMMs that their guests have taken over: whatever they answer, the tool ends in time, keeps within its bounds, and
//! what it keeps is worth something.

#![cfg(test)]

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use support::cli::{Host, Said};
use support::hostile::{Act, Hostile, Place, Program, Script, command};

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");
const ID: &str = "vm-a";

/// A host with one registered and scheduled guest, whose VMM is hostile.
struct Scene {
    host: Host,
    vmm: Hostile,
}

impl Scene {
    /// A VMM with one disk that does everything right but for what `change` makes of its script; nothing where that can't
    /// be had.
    fn new(program: Program, change: impl FnOnce(Script) -> Script) -> Option<Self> {
        let place = Place::new("a hostile VMM")?;
        let disk: PathBuf = place.disk("disk.raw", "the disk");
        let vmm = Hostile::start(place, &change(Script::well_behaved(program, &[disk])));
        let host = Host::new(TOOL);
        let socket = vmm.socket();
        let socket = socket.to_str().unwrap();
        let hypervisor = program.hypervisor();
        host.run(&[
            "register",
            ID,
            "--hypervisor",
            hypervisor,
            "--socket",
            socket,
        ])
        .exits(0);
        host.run(&["set", ID, "--interval", "1h", "--max-count", "3"])
            .exits(0);
        Some(Self { host, vmm })
    }

    /// Runs `run-due --force` and gives the instance's result.
    fn force(&self) -> (Said, Value) {
        let said = self.host.run(&["-o", "json", "run-due", "--force"]);
        let result = said.json()["results"][0].clone();
        (said, result)
    }
}

#[test]
fn one_that_behaves_well_is_served() {
    for program in Program::ALL {
        let Some(scene) = Scene::new(program, |script| script) else {
            return;
        };
        let (said, result) = scene.force();
        assert_eq!(
            result["outcome"],
            "snapshotted",
            "{program:?}: {said:?}\n{:#?}",
            scene.vmm.told()
        );
        let snapshots = scene.host.snapshots();
        let guest = scene
            .host
            .data_dir()
            .join("snapshots")
            .join(&snapshots[0])
            .join("guest");
        let disk = fs::read(guest.join("disks/0-disk.raw"));
        // What a QEMU copies by itself, this one doesn't.
        if program != Program::Qemu {
            assert!(disk.unwrap().starts_with(b"the disk"), "{program:?}");
        }
    }
}

#[test]
fn one_that_dies_in_the_middle_costs_its_own_snapshot() {
    let Some(scene) = Scene::new(Program::Firecracker, |script| {
        script.once(&["PUT /snapshot/create "], &[Act::Exit])
    }) else {
        return;
    };
    let (said, result) = scene.force();
    assert_eq!(result["outcome"], "failed", "{said:?}");
    assert!(scene.host.snapshots().is_empty());
}

/// Runs a QEMU that answers `command` so, and asserts that its snapshot is refused by naming `parts`.
fn assert_qemu_is_refused(command_name: &str, answer: &Value, parts: &[&str]) {
    let Some(scene) = Scene::new(Program::Qemu, |script| {
        script.on(&[&command(command_name)], &[Act::Return(answer.clone())])
    }) else {
        return;
    };
    let (said, result) = scene.force();
    assert_eq!(result["outcome"], "failed", "{said:?}");
    said.exits(1).complains(parts);
    assert_eq!(scene.vmm.count(&command("stop")), 0);
    assert!(scene.host.snapshots().is_empty());
}

#[test]
fn devices_that_another_process_serves_are_refused_by_name() {
    assert_qemu_is_refused(
        "qom-list",
        &json!([{"name": "rng0", "type": "child<vhost-user-rng-pci>"}]),
        &["rng0", "vhost-user-rng-pci"],
    );
    let network = "net0: index=0,type=nic,model=virtio-net-pci\r\n \\ n0: index=0,type=vhost-user,vhost-user0 to c0\r\n";
    assert_qemu_is_refused(
        "human-monitor-command",
        &json!(network),
        &["n0", "vhost-user"],
    );
}

#[test]
fn capabilities_that_qemu_leaves_on_are_refused_by_name() {
    assert_qemu_is_refused(
        "query-migrate-capabilities",
        &json!([
            {"capability": "background-snapshot", "state": false},
            {"capability": "x-colo", "state": true},
        ]),
        &["x-colo", "migrate-set-capabilities"],
    );
}
