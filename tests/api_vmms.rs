//! Guests of Cloud Hypervisor and Firecracker, as far as fakes of these VMMs can show it: whatever the VMM does, the guest
//! goes on, the user hears what happened, and the store holds whole snapshots only. What holds for one VMM must hold for
//! the other.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::cli::{Host, Said};
use support::fake_vmm::{Dialect, FakeDisk, FakeVmm, Fault, Guest, Request};
use support::qemu::{TestVm, VmOptions};
use support::wait::wait_until;

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");
const DIALECTS: [Dialect; 2] = [Dialect::CloudHypervisor, Dialect::Firecracker];
const ID: &str = "vm-a";

/// A host with one registered and scheduled guest.
struct Scene {
    fake: FakeVmm,
    host: Host,
}

impl Scene {
    fn new(dialect: Dialect) -> Self {
        let host = Host::new(TOOL);
        let fake = add_guest(&host, ID, dialect);
        Self { fake, host }
    }

    /// Runs `run-due --force` and gives the instance's result.
    fn force(&self, more: &[&str]) -> (Said, Value) {
        let said = self
            .host
            .run(&[&["-o", "json", "run-due", "--force"], more].concat());
        let result = said.json()["results"][0].clone();
        (said, result)
    }

    /// Starts `run-due --force` and waits until it has sent `request`, which hangs.
    fn start_until(&self, request: Request) -> Child {
        self.fake.on(request, Fault::Hang);
        let mut command = self.host.std_command();
        command
            .args(["run-due", "--force"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let tool = command.spawn().unwrap();
        wait_until("the request", || self.fake.requests().contains(&request));
        tool
    }

    /// What must be so after every run: the guest runs, no journal, nothing in the store but whole snapshots.
    fn assert_clean(&self, snapshots: usize) {
        assert_eq!(self.fake.guest(), Guest::Running);
        self.assert_nothing_unfinished(snapshots);
    }

    fn assert_nothing_unfinished(&self, snapshots: usize) {
        assert_eq!(
            names(&self.host.state_dir().join("journal")),
            Vec::<String>::new()
        );
        assert_eq!(
            names(&self.host.data_dir().join("snapshots")).len(),
            snapshots
        );
        assert_eq!(self.host.snapshots().len(), snapshots);
    }
}

fn add_guest(host: &Host, id: &str, dialect: Dialect) -> FakeVmm {
    let dir = host.dir().join(id);
    fs::create_dir(&dir).unwrap();
    let disk = |name: &str, is_read_only| {
        let path = dir.join(name);
        fs::write(&path, name).unwrap();
        FakeDisk {
            path: Some(path),
            is_read_only,
        }
    };
    let socket = dir.join("s");
    let fake = FakeVmm::start(
        dialect,
        &socket,
        &[disk("rw.raw", false), disk("ro.raw", true)],
    );
    let hypervisor = match dialect {
        Dialect::CloudHypervisor => "cloud-hypervisor",
        Dialect::Firecracker => "firecracker",
    };
    host.register(id, hypervisor, &socket);
    fake
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_snapshot_holds_state_and_writable_disks_where_hypeman_looks_for_them() {
    for dialect in DIALECTS {
        let scene = Scene::new(dialect);
        let (said, result) = scene.force(&[]);
        said.exits(0);
        assert_eq!(result["outcome"], "snapshotted", "{result}");
        assert_eq!(result["kind"], "Standby");
        assert!(result["pause_ms"].as_f64().unwrap() > 0.0, "{result}");
        scene.assert_clean(1);

        let id = result["snapshot_id"].as_str().unwrap();
        let guest: PathBuf = scene
            .host
            .data_dir()
            .join("snapshots")
            .join(id)
            .join("guest");
        let state_dir = guest.join("snapshots/snapshot-latest");
        let expected: &[&str] = match dialect {
            Dialect::CloudHypervisor => &["config.json", "memory-ranges", "state.json"],
            Dialect::Firecracker => &["memory", "state"],
        };
        assert_eq!(names(&state_dir), expected);
        for name in expected {
            let mode = fs::metadata(state_dir.join(name))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o7777, 0o600, "{name}");
        }
        assert_eq!(names(&guest.join("disks")), ["0-rw.raw"]);
        assert_eq!(
            fs::read_to_string(guest.join("disks/0-rw.raw")).unwrap(),
            "rw.raw"
        );
    }
}

#[test]
fn a_write_that_the_saved_state_counts_as_done_is_in_the_disks_copy() {
    for dialect in DIALECTS {
        let scene = Scene::new(dialect);
        scene.fake.write_in_save(b"late write");
        let (said, result) = scene.force(&[]);
        said.exits(0);
        let id = result["snapshot_id"].as_str().unwrap();
        let copy = scene
            .host
            .data_dir()
            .join("snapshots")
            .join(id)
            .join("guest/disks/0-rw.raw");
        assert_eq!(
            fs::read_to_string(copy).unwrap(),
            "late write",
            "{dialect:?}"
        );
    }
}

#[test]
fn a_vmm_that_refuses_the_save_is_resumed_and_quoted() {
    let bodies = [
        r#"["Error from API","Cannot snapshot VM","Could not get vCPU state"]"#,
        r#"{"fault_message":"Create snapshot error: Could not get vCPU state"}"#,
    ];
    for (dialect, body) in DIALECTS.into_iter().zip(bodies) {
        let scene = Scene::new(dialect);
        scene
            .fake
            .on(Request::Save, Fault::Refuse(500, body.to_owned()));
        let (said, result) = scene.force(&[]);
        said.exits(1).complains(&[ID, "Could not get vCPU state"]);
        assert_eq!(result["outcome"], "failed");
        scene.assert_clean(0);
        scene.force(&[]).0.exits(0);
        scene.assert_clean(1);
    }
}

#[test]
fn an_answer_to_the_pause_that_is_lost_does_not_leave_the_guest_paused() {
    for dialect in DIALECTS {
        let scene = Scene::new(dialect);
        scene.fake.on(Request::Pause, Fault::CloseMidReply);
        scene
            .force(&[])
            .0
            .exits(1)
            .complains(&[ID, "closed the connection"]);
        assert_eq!(
            scene
                .fake
                .requests()
                .iter()
                .filter(|request| **request == Request::Pause)
                .count(),
            1
        );
        scene.assert_clean(0);
    }
}

#[test]
fn a_vmm_that_hangs_costs_its_own_time_out_and_no_other_guest() {
    for dialect in DIALECTS {
        let scene = Scene::new(dialect);
        let disks = scene.host.dir().join("disks");
        fs::create_dir(&disks).unwrap();
        let other = TestVm::boot(&VmOptions::new(&disks));
        scene.host.register("vm-b", "qemu", other.socket());
        scene.fake.on(Request::State, Fault::Hang);
        let start = Instant::now();
        let said = scene
            .host
            .run(&["-o", "json", "run-due", "--force", "--jobs", "1"]);
        assert!(
            start.elapsed() < Duration::from_secs(40),
            "{:?}",
            start.elapsed()
        );
        let report = said.json();
        said.exits(1).complains(&[ID]);
        let outcome = |id: &str| {
            let results = report["results"].as_array().unwrap();
            let result = results
                .iter()
                .find(|result| result["instance_id"] == id)
                .unwrap();
            result["outcome"].clone()
        };
        assert_eq!(outcome(ID), "failed");
        assert_eq!(outcome("vm-b"), "snapshotted");
        assert!(other.is_running());
        scene.fake.release();
        scene.assert_clean(1);
    }
}

#[test]
fn a_save_beyond_the_pause_timeout_is_given_up_and_the_guest_goes_on_behind_it() {
    for dialect in DIALECTS {
        let scene = Scene::new(dialect);
        scene
            .fake
            .on(Request::Save, Fault::Slow(Duration::from_secs(3)));
        let (said, _) = scene.force(&["--pause-timeout", "2s"]);
        said.exits(1).complains(&[ID, "--pause-timeout"]);
        scene.assert_clean(0);
    }
}

#[test]
fn a_pause_beyond_its_limit_is_told_as_long_as_it_was() {
    for dialect in DIALECTS {
        let scene = Scene::new(dialect);
        let save = Duration::from_millis(1500);
        scene.fake.on(Request::Save, Fault::Slow(save));
        let (said, result) = scene.force(&["--pause-timeout", "100ms"]);
        let pause = Duration::from_secs_f64(result["pause_ms"].as_f64().unwrap() / 1e3);
        assert!(pause >= save, "{dialect:?}: {said:?}");
        let told = format!("paused for {:.1} s", pause.as_secs_f64());
        said.exits(1)
            .complains(&[&told, "0.1 s of --pause-timeout", "can't break it off"]);
        scene.assert_clean(0);
    }
}

#[test]
fn a_tool_that_is_killed_around_the_pause_is_put_right_by_the_next_run() {
    for dialect in DIALECTS {
        for request in [Request::Pause, Request::Save, Request::Resume] {
            let scene = Scene::new(dialect);
            let mut tool = scene.start_until(request);
            tool.kill().unwrap();
            tool.wait().unwrap();
            // The VMM carries the request out all the same.
            scene.fake.release();
            let guest_then = if request == Request::Resume {
                Guest::Running
            } else {
                Guest::Paused
            };
            let saves_then = usize::from(request != Request::Pause);
            wait_until("the request's end", || {
                (scene.fake.guest(), scene.fake.saves()) == (guest_then, saves_then)
            });
            let said = scene.host.run(&["run-due"]).exits(0);
            let is_told = said.stderr.contains("resumed");
            assert_eq!(
                is_told,
                request != Request::Resume,
                "{dialect:?} {request:?}: {said:?}"
            );
            assert_eq!(
                scene.fake.guest(),
                Guest::Running,
                "{dialect:?} {request:?}"
            );
            assert_eq!(
                names(&scene.host.state_dir().join("journal")),
                Vec::<String>::new()
            );
            assert_eq!(
                names(&scene.host.data_dir().join("snapshots")),
                scene.host.snapshots()
            );
        }
    }
}

#[test]
fn a_tool_that_is_asked_to_stop_in_the_pause_lets_the_guest_go_on_first() {
    for dialect in DIALECTS {
        let scene = Scene::new(dialect);
        let mut tool = scene.start_until(Request::Save);
        let pid = Pid::from_raw(i32::try_from(tool.id()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        scene.fake.release();
        // Where copying the disks takes no time there is nothing left to stop, and the snapshot is whole.
        let is_snapshotted = tool.wait().unwrap().success();
        scene.assert_clean(usize::from(is_snapshotted));
    }
}

#[test]
fn a_vmm_that_dies_in_the_pause_is_reported_and_leaves_nothing() {
    for dialect in DIALECTS {
        let scene = Scene::new(dialect);
        scene.fake.on(Request::Save, Fault::Die);
        scene
            .force(&[])
            .0
            .exits(1)
            .complains(&[ID, "closed the connection"]);
        scene.assert_nothing_unfinished(0);
    }
}

#[test]
fn a_guest_that_somebody_else_paused_stays_paused() {
    for dialect in DIALECTS {
        let scene = Scene::new(dialect);
        scene.fake.set_guest(Guest::Paused);
        scene.force(&[]).0.exits(1).complains(&[ID, "Paused"]);
        assert_eq!(scene.fake.guest(), Guest::Paused);
        assert!(!scene.fake.requests().contains(&Request::Resume));
        scene.assert_nothing_unfinished(0);
    }
}

#[test]
fn firecracker_that_can_leaves_the_sync_of_its_files_to_the_time_after_the_pause() {
    for knows in [false, true] {
        let scene = Scene::new(Dialect::Firecracker);
        if knows {
            scene.fake.know_sync_snapshot_files();
        }
        scene.force(&[]).0.exits(0);
        let asked = scene.fake.last_save();
        let expected = knows.then_some(&Value::Bool(false));
        assert_eq!(asked.get("sync_snapshot_files"), expected, "{asked}");
        scene.assert_clean(1);
    }
}

#[test]
fn guests_whose_snapshots_go_to_one_disk_are_paused_one_after_the_other() {
    let scene = Scene::new(Dialect::CloudHypervisor);
    let disks = scene.host.dir().join("disks");
    fs::create_dir(&disks).unwrap();
    let other = TestVm::boot(&VmOptions::new(&disks));
    scene.host.register("vm-b", "qemu", other.socket());
    let force = |id: &str, more: &[&str]| {
        let mut command = scene.host.std_command();
        command
            .args(["run-due", "--force", "--instance", id])
            .args(more)
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    scene.fake.on(Request::Save, Fault::Hang);
    let mut first = force(ID, &[]);
    wait_until("the save", || {
        scene.fake.requests().contains(&Request::Save)
    });

    // It waits before it pauses anything, and no longer than it may.
    let waited = force("vm-b", &["--instance-timeout", "1s"]);
    let waited = waited.wait_with_output().unwrap();
    let said = String::from_utf8(waited.stderr).unwrap();
    assert_eq!(waited.status.code(), Some(1), "{said}");
    assert!(said.contains("--instance-timeout"), "{said}");

    let stopped = force("vm-b", &[]);
    let journal = scene.host.state_dir().join("journal/vm-b.json");
    wait_until("it is prepared", || journal.exists());
    kill_process(Pid::from_child(&stopped), Signal::TERM).unwrap();
    let stopped = stopped.wait_with_output().unwrap();
    let said = String::from_utf8(stopped.stderr).unwrap();
    assert!(said.contains("interrupted"), "{said}");

    let mut second = force("vm-b", &[]);
    wait_until("it is prepared", || journal.exists());
    assert_eq!(other.pauses_ms(), Vec::<f64>::new());
    scene.fake.release();
    assert!(first.wait().unwrap().success());
    assert!(second.wait().unwrap().success());
    assert_eq!(other.pauses_ms().len(), 1);
    assert!(other.is_running());
    scene.assert_clean(2);
}
