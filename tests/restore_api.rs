//! `restore --start` of Cloud Hypervisor and Firecracker, as far as a fake can show it: what they are asked, in which order,
//! and that a VMM that fails is ended, and what it said is told.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use support::cli::{Host, Said};
use support::fake_vmm::fresh::{self, Program, Wrong};
use support::fake_vmm::{Dialect, FakeDisk, FakeVmm};
use support::started::Started;
use support::wait::wait_until;

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");
const START: &[&str] = &["--start", "--force"];
const DIALECTS: [Dialect; 2] = [Dialect::CloudHypervisor, Dialect::Firecracker];

/// Not a test: the VMM that the others have started.
#[test]
fn the_vmm_itself() {
    fresh::serve_if_asked();
}

/// A host with a snapshot of a guest that ran, whose VMM is gone.
struct Scene {
    host: Host,
    dialect: Dialect,
    /// The disk as the VMM had it.
    disk: PathBuf,
    /// The manifest of the snapshot.
    manifest: PathBuf,
    vmm: Program,
}

impl Scene {
    fn new(dialect: Dialect, wrong: Wrong) -> Self {
        let version = match dialect {
            Dialect::CloudHypervisor => "54.0.0",
            Dialect::Firecracker => "1.17.0",
        };
        Self::with_version(dialect, wrong, version)
    }

    fn with_version(dialect: Dialect, wrong: Wrong, version: &str) -> Self {
        let host = Host::new(TOOL);
        let dir = host.dir().join("vm");
        fs::create_dir(&dir).unwrap();
        let disk = dir.join("rw.raw");
        fs::write(&disk, "as it was").unwrap();
        let disks = [FakeDisk {
            path: Some(disk.clone()),
            is_read_only: false,
        }];
        let fake = FakeVmm::start(dialect, &dir.join("s"), &disks);
        fake.add_config(match dialect {
            Dialect::CloudHypervisor => json!({
                "serial": {"mode": "File", "file": dir.join("serial")},
                "vsock": {"cid": 3, "socket": dir.join("v.sock")},
            }),
            Dialect::Firecracker => json!({
                "boot-source": {"kernel_image_path": "/boot/guest"},
                "vsock": {"guest_cid": 3, "uds_path": dir.join("v.sock")},
            }),
        });
        let hypervisor = match dialect {
            Dialect::CloudHypervisor => "cloud-hypervisor",
            Dialect::Firecracker => "firecracker",
        };
        host.register("vm-a", hypervisor, &dir.join("s"));
        let said = host.run(&["-o", "json", "run-due", "--force"]).exits(0);
        let result = said.json()["results"][0].clone();
        let id = result["snapshot_id"].as_str().unwrap();
        drop(fake);
        let own = host.dir().join("program");
        fs::create_dir(&own).unwrap();
        let vmm = Program::new(&own, dialect, version, wrong, "the_vmm_itself");
        let manifest = host.data_dir().join("snapshots").join(id);
        let manifest = manifest.join("guest/hypeman-snap.json");
        let scene = Self {
            host,
            dialect,
            disk,
            manifest,
            vmm,
        };
        // This test was the VMM.
        scene.edit_manifest(|manifest| {
            manifest["vmm"]["binary"] = json!(scene.vmm.file());
            manifest["vmm"]["argv"] = match dialect {
                Dialect::CloudHypervisor => json!(["ch", "--seccomp", "log", "--kernel", "/k"]),
                Dialect::Firecracker => json!(["fc", "--no-seccomp", "--config-file", "/c"]),
            };
        });
        scene
    }

    fn edit_manifest(&self, edit: impl FnOnce(&mut Value)) {
        let mut manifest = serde_json::from_slice(&fs::read(&self.manifest).unwrap()).unwrap();
        edit(&mut manifest);
        fs::write(&self.manifest, manifest.to_string()).unwrap();
    }

    fn to(&self) -> PathBuf {
        self.host.dir().join("back")
    }

    /// The VM that was snapshotted was this process, so that it counts as running: a start wants --force.
    fn args<'a>(&self, to: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
        let to = to.to_str().unwrap();
        let mut args = vec!["-o", "json", "restore", "vm-a", "latest", "--to", to];
        args.extend(more);
        args
    }

    fn restore(&self, more: &[&str]) -> Said {
        self.host.run(&self.args(&self.to(), more))
    }

    fn assert_is_ended(&self) {
        let pid = self.vmm.pid().and_then(Pid::from_raw).unwrap();
        assert!(test_kill_process(pid).is_err(), "{pid:?} still runs");
    }
}

fn paths(requests: &[Value]) -> Vec<&str> {
    let paths = requests.iter().map(|it| it["path"].as_str().unwrap());
    paths.collect()
}

#[test]
fn what_is_told_is_what_is_asked_and_the_guest_goes_on() {
    for dialect in DIALECTS {
        let scene = Scene::new(dialect, Wrong::Nothing);
        let told = scene.restore(&["--dry-run"]).exits(0).json();
        assert!(!scene.to().exists() && scene.vmm.asked().is_empty());
        let json = scene.restore(START).exits(0).json();
        let _started = Started::of(&json);
        let asked = scene.vmm.asked();
        assert_eq!(told["requests"], json!(asked), "{told}");
        let copy = scene.to().join("disks/0-rw.raw");
        match dialect {
            Dialect::CloudHypervisor => {
                assert_eq!(paths(&asked), ["/api/v1/vm.resume"]);
                let state = scene.to().join("snapshots/snapshot-latest");
                let config = fs::read(state.join("config.json")).unwrap();
                let config: Value = serde_json::from_slice(&config).unwrap();
                let stored = scene.manifest.parent().unwrap();
                let stored = stored.join("snapshots/snapshot-latest/config.json");
                let stored = fs::read(stored).unwrap();
                let mut expected: Value = serde_json::from_slice(&stored).unwrap();
                assert_eq!(expected["disks"][0]["path"], json!(scene.disk));
                expected["disks"][0]["path"] = json!(copy);
                expected["serial"]["file"] = json!(scene.to().join("serial"));
                expected["vsock"]["socket"] = json!(scene.to().join("vsock.sock"));
                assert_eq!(config, expected);
            }
            Dialect::Firecracker => {
                assert_eq!(paths(&asked), ["/snapshot/load", "/drives/drive0", "/vm"]);
                let load = &asked[0]["body"];
                assert_eq!(load["resume_vm"], false);
                let vsock = &load["vsock_override"]["uds_path"];
                assert_eq!(*vsock, json!(scene.to().join("vsock.sock")));
                assert_eq!(asked[1]["body"]["path_on_host"], json!(copy));
                assert_eq!(asked[2]["body"]["state"], "Resumed");
            }
        }
        assert_eq!(fs::read(copy).unwrap(), b"as it was");
    }
}

#[test]
fn in_words_the_command_is_followed_by_what_is_asked() {
    let scene = Scene::new(Dialect::Firecracker, Wrong::Nothing);
    let to = scene.to();
    let text = scene
        .host
        .run(&["restore", "vm-a", "latest", "--to", to.to_str().unwrap()]);
    let text = text.exits(0).stdout;
    let socket = to.join("api.sock").display().to_string();
    let words = format!("firecracker --no-seccomp --api-sock {socket}\nonce it listens, ask it:\n");
    assert!(text.contains(&words), "{text}");
    let patch = format!("  curl --fail-with-body --unix-socket {socket} -X PATCH --json ");
    assert!(text.contains(&patch), "{text}");
}

#[test]
fn without_memory_the_guest_boots_by_the_configuration_that_it_had() {
    for dialect in DIALECTS {
        let scene = Scene::new(dialect, Wrong::Nothing);
        let json = scene
            .restore(&["--start", "--force", "--disks-only"])
            .exits(0)
            .json();
        let _started = Started::of(&json);
        let asked = scene.vmm.asked();
        let copy = json!(scene.to().join("disks/0-rw.raw"));
        match dialect {
            Dialect::CloudHypervisor => {
                assert_eq!(paths(&asked), ["/api/v1/vm.create", "/api/v1/vm.boot"]);
                assert_eq!(asked[0]["body"]["disks"][0]["path"], copy);
            }
            Dialect::Firecracker => {
                let expected = [
                    "/boot-source",
                    "/machine-config",
                    "/vsock",
                    "/drives/drive0",
                    "/actions",
                ];
                assert_eq!(paths(&asked), expected);
                assert_eq!(asked[3]["body"]["path_on_host"], copy);
            }
        }
        assert!(!scene.to().join("snapshots/snapshot-latest").exists());
    }
}

#[test]
fn a_vmm_that_refuses_or_dies_is_ended_and_heard_and_the_files_stay() {
    let cases: [(Dialect, Wrong, &str); 5] = [
        (
            Dialect::CloudHypervisor,
            Wrong::Refuses("PUT /api/v1/vm.resume"),
            "the VMM refused PUT /api/v1/vm.resume: Error from API: no such luck",
        ),
        (
            Dialect::CloudHypervisor,
            Wrong::Dies("PUT /api/v1/vm.resume"),
            "fake VMM: a fatal error",
        ),
        (
            Dialect::Firecracker,
            Wrong::Refuses("PUT /snapshot/load"),
            "the VMM refused PUT /snapshot/load: no such luck",
        ),
        (
            Dialect::Firecracker,
            Wrong::Dies("PATCH /drives/drive0"),
            "fake VMM: a fatal error",
        ),
        (
            Dialect::Firecracker,
            Wrong::Refuses("PATCH /vm"),
            "the VMM refused PATCH /vm: no such luck",
        ),
    ];
    for (dialect, wrong, part) in cases {
        let scene = Scene::new(dialect, wrong);
        let said = scene.restore(START).exits(1);
        let place = format!(
            "the files are in {}, and the VM was not",
            scene.to().display()
        );
        said.complains(&["the VM does not run: ", part, &place]);
        scene.assert_is_ended();
        assert!(scene.to().join("disks/0-rw.raw").exists());
        // Nothing is asked behind what failed.
        let asked = scene.vmm.asked();
        let last = paths(&asked).last().copied().unwrap().to_owned();
        let (Wrong::Refuses(failed) | Wrong::Dies(failed)) = wrong else {
            unreachable!("all of them fail at a request");
        };
        assert!(failed.ends_with(&last), "{wrong:?}: {asked:?}");
    }
}

#[test]
fn a_guest_that_never_runs_is_waited_for_until_a_signal_and_its_vmm_is_ended() {
    for dialect in DIALECTS {
        let scene = Scene::new(dialect, Wrong::NeverRuns);
        let mut command = scene.host.std_command();
        command.args(scene.args(&scene.to(), START));
        let mut tool = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let resume = match scene.dialect {
            Dialect::CloudHypervisor => "/api/v1/vm.resume",
            Dialect::Firecracker => "/vm",
        };
        wait_until("a second try to let it go on", || {
            let asked = scene.vmm.asked();
            paths(&asked).iter().filter(|it| **it == resume).count() > 1
        });
        kill_process(Pid::from_child(&tool), Signal::TERM).unwrap();
        assert!(!tool.wait().unwrap().success());
        scene.assert_is_ended();
    }
}

#[test]
fn the_version_is_looked_at_before_anything_is_touched() {
    for (dialect, older, newer) in [
        (Dialect::CloudHypervisor, "53.1.0", "55.0.0"),
        (Dialect::Firecracker, "1.16.2", "1.18.0-dev"),
    ] {
        let scene = Scene::with_version(dialect, Wrong::Nothing, older);
        let said = scene.restore(START).exits(1);
        let text = format!("has version {older}, and the snapshot is of");
        assert!(said.stdout.contains(&text), "{said:?}");
        assert!(!scene.to().exists() && scene.vmm.pid().is_none());

        let scene = Scene::with_version(dialect, Wrong::Nothing, newer);
        let said = scene.restore(&["--start"]).exits(1);
        assert!(said.stdout.contains(newer), "{said:?}");
        assert!(!scene.to().exists());
        if dialect == Dialect::Firecracker {
            // It loads the same format, not newer.
            for other in ["v10.2.0", "v11.3.0", "v12.0.0", "not a format"] {
                scene.vmm.set_format(other);
                let said = scene.restore(START).exits(1);
                assert!(said.stdout.contains("of its saved state"), "{said:?}");
                assert!(!scene.to().exists());
            }
            scene.vmm.set_format("v11.1.7");
        }
        let json = scene.restore(START).exits(0).json();
        drop(Started::of(&json));
    }
}

#[test]
fn what_an_old_firecracker_does_not_know_is_not_asked_of_it() {
    let scene = Scene::with_version(Dialect::Firecracker, Wrong::Nothing, "1.13.1");
    scene.edit_manifest(|manifest| manifest["vmm_version"] = json!("1.13.1"));
    // That the vsock's socket may still be there is a warning.
    scene.restore(&["--start"]).exits(1);
    let json = scene.restore(START).exits(0).json();
    let _started = Started::of(&json);
    let asked = scene.vmm.asked();
    let load = asked[0]["body"].as_object().unwrap();
    assert!(!load.contains_key("vsock_override") && !load.contains_key("clock_realtime"));
    assert!(json["clock_behind_seconds"].is_u64(), "{json}");
}

#[test]
fn what_lacks_or_can_not_be_given_again_is_said_before_anything_is_touched() {
    for dialect in DIALECTS {
        let scene = Scene::new(dialect, Wrong::Nothing);
        let state = scene.manifest.parent().unwrap();
        let state = state.join("snapshots/snapshot-latest");
        let memory = match dialect {
            Dialect::CloudHypervisor => "memory-ranges",
            Dialect::Firecracker => "memory",
        };
        let packed = state.join(format!("{memory}.zst"));
        fs::rename(state.join(memory), &packed).unwrap();
        let said = scene.restore(START).exits(1);
        assert!(said.stderr.contains("can't unpack"), "{said:?}");
        assert!(!scene.to().exists() && scene.vmm.pid().is_none());
    }
    let scene = Scene::new(Dialect::CloudHypervisor, Wrong::Nothing);
    let config = scene.manifest.parent().unwrap();
    let config = config.join("snapshots/snapshot-latest/config.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    json["net"] = json!([{"id": "net7", "fds": [-1], "num_queues": 2}]);
    let text = json.to_string();
    fs::write(&config, &text).unwrap();
    let length = json!(text.len());
    scene.edit_manifest(|manifest| {
        let files = manifest["files"].as_array_mut().unwrap();
        let is_it = |it: &&mut Value| it["path"] == "snapshots/snapshot-latest/config.json";
        files.iter_mut().find(is_it).unwrap()["size_bytes"] = length;
    });
    let said = scene.restore(&["--start"]).exits(1);
    assert!(said.stdout.contains("net7"), "{said:?}");
    assert!(said.stdout.contains("open file"), "{said:?}");
    assert!(!scene.to().exists());
}

#[test]
fn the_libraries_that_a_vmm_had_are_given_again_unless_others_can_change_them() {
    let scene = Scene::new(Dialect::Firecracker, Wrong::Nothing);
    scene.edit_manifest(|manifest| manifest["vmm"]["library_path"] = json!("/usr/lib:/lib"));
    let json = scene.restore(START).exits(0).json();
    let _started = Started::of(&json);
    let command = json["command"].as_array().unwrap();
    let place = command.iter().position(|word| word == "env").unwrap();
    assert_eq!(command[place + 1], "LD_LIBRARY_PATH=/usr/lib:/lib");
    let environment = fs::read(format!("/proc/{}/environ", json["pid"])).unwrap();
    let environment = String::from_utf8_lossy(&environment).into_owned();
    assert!(environment.contains("LD_LIBRARY_PATH=/usr/lib:/lib"));

    let open = scene.host.dir().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let again = scene.host.dir().join("again");
    for (path, why) in [
        (open.to_str().unwrap(), "has mode 0777"),
        ("/usr/lib:lib", "No such file"),
        ("/usr/lib:", "No such file"),
    ] {
        scene.edit_manifest(|manifest| manifest["vmm"]["library_path"] = json!(path));
        let said = scene.host.run(&scene.args(&again, START)).exits(1);
        assert!(said.stdout.contains(why), "{path}: {said:?}");
        assert!(!again.exists());
    }
}
