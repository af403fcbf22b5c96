//! What a VMM calls its disks, or whoever can write to a guest's directory puts there, never leads anywhere: copies are
//! made in the snapshot and nowhere else, and files that aren't the guest's are never opened.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::canary::{Canary, SECRET};
use support::cli::Host;
use support::fake_vmm::{Dialect, FakeDisk, FakeVmm};
use support::hostile::{Act, Hostile, Place, Program, Script, command};

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");

/// Registers a guest of the VMM that listens in `dir`, and schedules it.
fn register(host: &Host, id: &str, hypervisor: &str, dir: &Path) {
    host.register(id, hypervisor, &dir.join("s"));
}

/// A Firecracker in a directory of its own, with one disk.
fn firecracker(host: &Host, id: &str) -> FakeVmm {
    let dir = host.dir().join(id);
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("rw.raw"), "the disk").unwrap();
    let disk = FakeDisk {
        path: Some(dir.join("rw.raw")),
        is_read_only: false,
    };
    let vmm = FakeVmm::start(Dialect::Firecracker, &dir.join("s"), &[disk]);
    register(host, id, "firecracker", &dir);
    vmm
}

/// A Firecracker that behaves well, in a process of its own; nothing where only root can start one.
fn good(host: &Host) -> Option<Hostile> {
    let place = Place::new("a good VM beside a hostile one")?;
    let disk = place.disk("disk.raw", "the disk");
    let script = Script::well_behaved(Program::Firecracker, &[disk]);
    let vmm = Hostile::start(place, &script);
    register(host, "good", "firecracker", vmm.dir());
    Some(vmm)
}

/// The names of everything below `directory`, with its content.
fn everything(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let content = if path.is_dir() && !path.is_symlink() {
            found.extend(everything(&path));
            String::new()
        } else {
            fs::read_to_string(&path).unwrap_or_default()
        };
        found.push(format!("{}: {content}", path.display()));
    }
    found.sort();
    found
}

#[test]
fn the_name_of_a_disk_without_a_file_name_creates_nothing_outside() {
    let host = Host::new(TOOL);
    let victim = host.dir().join("victim");
    fs::create_dir(&victim).unwrap();
    let vmm = firecracker(&host, "vm-bad");
    let Some(_good) = good(&host) else {
        return;
    };
    // `snapshots/.staging-ID/guest/disks/../../../../../victim/made/x`
    let name = "../../../../../victim/made/x";
    vmm.add_config(json!({"drives": [
        {"drive_id": name, "path_on_host": "/", "is_read_only": false, "is_root_device": false},
    ]}));
    let said = host.run(&["-o", "json", "run-due", "--force"]).exits(1);
    assert_eq!(everything(&victim), Vec::<String>::new());
    let results = said.json()["results"].clone();
    assert_eq!(results[0]["outcome"], "snapshotted", "{results}");
    assert_eq!(host.snapshots().len(), 1);
    assert_eq!(
        fs::read_dir(host.data_dir().join("snapshots"))
            .unwrap()
            .count(),
        1
    );
}

/// A running guest of hypeman's, in its own directory.
fn hypemans_guest(host: &Host, id: &str) -> (FakeVmm, PathBuf) {
    host.add_instance(id, id);
    let dir = host.data_dir().join("guests").join(id);
    let disk = FakeDisk {
        path: Some(dir.join("overlay.raw")),
        is_read_only: false,
    };
    let vmm = FakeVmm::start(Dialect::CloudHypervisor, &dir.join("ch.sock"), &[disk]);
    let path = dir.join("metadata.json");
    let mut metadata: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    metadata["HypervisorType"] = json!("cloud-hypervisor");
    metadata["SocketPath"] = json!(dir.join("ch.sock"));
    metadata["ProgramStartedAt"] = json!("2026-09-01T08:00:04Z");
    fs::write(&path, metadata.to_string()).unwrap();
    host.run(&["set", id, "--interval", "1h", "--max-count", "3"])
        .exits(0);
    (vmm, dir)
}

#[test]
fn symlinks_in_a_guest_directory_lead_nowhere() {
    type Plant = fn(&Canary, &Path);
    // Where the tool makes directories and files of its own, and where it reads.
    let made: Plant = |canary, dir| {
        symlink(canary.path(), dir.join("snapshots")).unwrap();
        symlink(canary.path(), dir.join("disks")).unwrap();
        symlink(canary.file("secret"), dir.join("hypeman-snap.json")).unwrap();
    };
    let read: Plant = |canary, dir| {
        symlink(canary.file("secret"), dir.join("qemu-config.json")).unwrap();
    };
    for (plant, outcome) in [(made, "snapshotted"), (read, "failed")] {
        let host = Host::new(TOOL);
        let canary = Canary::new();
        let Some(_good) = good(&host) else {
            return;
        };
        let (_vmm, dir) = hypemans_guest(&host, "vm-bad");
        plant(&canary, &dir);
        let said = host.run(&["-o", "json", "run-due", "--force"]);
        let results = said.json()["results"].clone();
        assert_eq!(results[0]["outcome"], "snapshotted", "{said:?}");
        assert_eq!(results[1]["outcome"], outcome, "{said:?}");
        if outcome == "failed" {
            said.complains(&["qemu-config.json", "symlink"]);
        }
        canary.assert_untouched();
        assert_eq!(leaks(host.dir()), Vec::<PathBuf>::new());
    }
}

/// Registers and schedules the VMM of `place`, which answers the question for its disks with `answer`.
fn hostile(host: &Host, id: &str, program: Program, place: Place, answer: &[Act]) -> Hostile {
    let disk = place.disk("disk.raw", "the disk");
    let question = match program {
        Program::Qemu => command("query-block"),
        Program::Firecracker => "GET /vm/config ".to_owned(),
        Program::CloudHypervisor => "GET /api/v1/vm.info ".to_owned(),
    };
    let script = Script::well_behaved(program, &[disk]).on(&[&question], answer);
    let vmm = Hostile::start(place, &script);
    register(host, id, program.hypervisor(), vmm.dir());
    vmm
}

/// An answer that names these files as the VM's disks.
fn names(program: Program, paths: &[&Path]) -> Act {
    let each = |number: usize, path: &Path| match program {
        Program::Qemu => json!({
            "device": "", "inserted": {
                "node-name": format!("disk{number}"), "drv": "raw", "ro": false, "file": path, "image": {
                    "filename": path, "format": "raw", "virtual-size": 1 << 20, "actual-size": 4096,
                },
            },
        }),
        Program::Firecracker => json!({
            "drive_id": format!("drive{number}"), "path_on_host": path, "is_read_only": false,
        }),
        // It does not tell the format: whoever wants to know must read the file.
        Program::CloudHypervisor => {
            json!({"id": format!("_disk{number}"), "path": path, "readonly": false})
        }
    };
    let disks: Vec<_> = paths
        .iter()
        .enumerate()
        .map(|(number, path)| each(number, path))
        .collect();
    match program {
        Program::Qemu => Act::Return(json!(disks)),
        Program::Firecracker => Act::Http(
            200,
            json!({"drives": disks, "machine-config": {"mem_size_mib": 1}}).to_string(),
        ),
        Program::CloudHypervisor => Act::Http(
            200,
            json!({
                "state": "Running", "memory_actual_size": 1 << 20,
                "config": {"memory": {"size": 1 << 20}, "disks": disks},
            })
            .to_string(),
        ),
    }
}

/// Everything in `directory` that holds the canary's secret.
fn leaks(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            found.extend(leaks(&path));
        } else if path.is_file()
            && String::from_utf8_lossy(&fs::read(&path).unwrap()).contains(SECRET)
        {
            found.push(path);
        }
    }
    found
}

#[test]
fn files_that_the_vmm_has_not_open_are_never_opened_for_it() {
    for program in Program::ALL {
        let canary = Canary::new();
        let host = Host::new(TOOL);
        let Some(_good) = good(&host) else {
            return;
        };
        let mut vmms = Vec::new();
        let mut ids = Vec::new();
        let named = [
            ("secret", canary.file("secret")),
            ("open", canary.file("open")),
            ("fifo", canary.file("fifo")),
            ("dir", canary.path().to_owned()),
            ("device", PathBuf::from("/dev/null")),
            ("nothing", canary.file("nothing")),
            ("proc", PathBuf::from("/proc/1/environ")),
        ];
        for (what, path) in named {
            let Some(place) = Place::new("disks of a hostile VMM") else {
                return;
            };
            let id = format!("vm-{what}");
            vmms.push(hostile(
                &host,
                &id,
                program,
                place,
                &[names(program, &[&path])],
            ));
            ids.push(id);
        }
        // Its own disk, until it is looked at: then a symlink stands there.
        let Some(place) = Place::new("disks of a hostile VMM") else {
            return;
        };
        let disk = place.dir().join("disk.raw");
        let swap = format!(
            "ln -sf {} {}",
            canary.file("secret").display(),
            disk.display()
        );
        let answer = [Act::Run(swap), names(program, &[&disk])];
        vmms.push(hostile(&host, "vm-swap", program, place, &answer));
        ids.push("vm-swap".to_owned());

        let started = Instant::now();
        let said = host.run(&["-o", "json", "run-due", "--force"]);
        assert!(started.elapsed() < Duration::from_secs(60), "{program:?}");
        let results = said.json()["results"].clone();
        for result in results.as_array().unwrap() {
            let id = result["instance_id"].as_str().unwrap();
            let expected = if id == "good" {
                "snapshotted"
            } else {
                "failed"
            };
            assert_eq!(result["outcome"], expected, "{program:?}: {result}");
        }
        assert_eq!(results.as_array().unwrap().len(), ids.len() + 1);
        canary.assert_untouched();
        assert_eq!(leaks(host.dir()), Vec::<PathBuf>::new());
        assert_eq!(host.snapshots().len(), 1);
        for id in ["vm-secret", "vm-open", "vm-swap"] {
            assert!(said.stderr.contains(id), "{said:?}");
        }
        said.complains(&[
            "register",
            "--disk",
            "is a FIFO",
            "is a directory",
            "character device",
        ]);
    }
}

#[test]
fn a_disk_that_the_admin_named_is_enough() {
    let host = Host::new(TOOL);
    let Some(place) = Place::new("disks of a hostile VMM") else {
        return;
    };
    let path = host.dir().join("disk.raw");
    fs::write(&path, "the admin's disk").unwrap();
    let program = Program::Firecracker;
    let script =
        Script::well_behaved(program, &[]).on(&["GET /vm/config "], &[names(program, &[&path])]);
    let vmm = Hostile::start(place, &script);
    register(&host, "vm", program.hypervisor(), vmm.dir());
    host.run(&["run-due", "--force"])
        .exits(1)
        .complains(&["does not have", "--disk"]);
    let socket = vmm.socket();
    let arguments = [
        "register",
        "vm",
        "--hypervisor",
        "firecracker",
        "--socket",
        socket.to_str().unwrap(),
        "--disk",
        path.to_str().unwrap(),
    ];
    host.run(&arguments).exits(0);
    host.run(&["run-due", "--force"]).exits(0);
    let snapshot = host.data_dir().join("snapshots").join(&host.snapshots()[0]);
    let copy = fs::read_to_string(snapshot.join("guest/disks/0-disk.raw")).unwrap();
    assert_eq!(copy, "the admin's disk");
}

#[test]
fn a_disk_outside_of_the_roots_that_the_admin_named_is_refused() {
    let host = Host::new(TOOL);
    let _vmm = firecracker(&host, "vm");
    let socket = host.dir().join("vm/s");
    let register = |root: &Path| {
        let arguments = [
            "register",
            "vm",
            "--hypervisor",
            "firecracker",
            "--socket",
            socket.to_str().unwrap(),
            "--disk-root",
            root.to_str().unwrap(),
        ];
        host.run(&arguments).exits(0);
    };
    let elsewhere = host.dir().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    register(&elsewhere);
    host.run(&["run-due", "--force"])
        .exits(1)
        .complains(&["--disk-root", elsewhere.to_str().unwrap()]);
    register(&host.dir().join("vm"));
    host.run(&["run-due", "--force"]).exits(0);
}

#[test]
fn thousands_of_disks_are_refused_at_once() {
    for program in Program::ALL {
        let host = Host::new(TOOL);
        let Some(_good) = good(&host) else {
            return;
        };
        let Some(place) = Place::new("disks of a hostile VMM") else {
            return;
        };
        let disk = place.dir().join("disk.raw");
        let answer = [names(program, &vec![disk.as_path(); 2000])];
        let _bad = hostile(&host, "vm-bad", program, place, &answer);
        let started = Instant::now();
        host.run(&["run-due", "--force"])
            .exits(1)
            .complains(&["vm-bad", "256"]);
        assert!(started.elapsed() < Duration::from_secs(20), "{program:?}");
        assert_eq!(host.snapshots().len(), 1);
    }
}
