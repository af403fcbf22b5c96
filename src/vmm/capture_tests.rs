//! The drivers of the VMMs with an HTTP API against a fake of each, on real sockets: the whole course of a capture,
//! and every way in which the VMM can spoil it. What holds for one must hold for the other.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use support::fake_vmm::{Dialect, FakeDisk, FakeVmm, Fault, Guest, Request};
use tempfile::TempDir;

use crate::fs::beneath::Beneath;
use crate::instance::Hypervisor;
use crate::interrupt::Watch;
use crate::vmm::stages::Paused;
use crate::vmm::{self, Deadline, SavePlan, Timeouts, Vmm, VmmError, VmmState};

const DIALECTS: [Dialect; 2] = [Dialect::CloudHypervisor, Dialect::Firecracker];

/// Longer than any answer takes that comes at all.
const LONG: Duration = Duration::from_secs(60);

/// For what shall time out.
const SHORT: Duration = Duration::from_millis(300);

struct Scene {
    dir: TempDir,
    dialect: Dialect,
    fake: FakeVmm,
}

impl Scene {
    /// A fake VMM with one writable and one read-only disk.
    fn new(dialect: Dialect) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("state")).unwrap();
        let disk = |name: &str, is_read_only| FakeDisk {
            path: Some(dir.path().join(name)),
            is_read_only,
        };
        let disks = [disk("rw.raw", false), disk("ro.raw", true)];
        let fake = FakeVmm::start(dialect, &dir.path().join("s"), &disks);
        Self { dir, dialect, fake }
    }

    fn open(&self, request: Duration) -> Box<dyn Vmm> {
        self.try_open(request).unwrap()
    }

    fn try_open(&self, request: Duration) -> Result<Box<dyn Vmm>, VmmError> {
        let hypervisor = match self.dialect {
            Dialect::CloudHypervisor => Hypervisor::CloudHypervisor,
            Dialect::Firecracker => Hypervisor::Firecracker,
        };
        vmm::open(
            hypervisor,
            &self.dir.path().join("s"),
            Timeouts {
                request,
                watch: Watch::unlimited(),
            },
        )
    }

    fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn plan(&self) -> SavePlan {
        SavePlan {
            state_dir: Some(Beneath::open(&self.state_dir()).unwrap()),
            base: None,
            socket_dir: None,
            disks: Vec::new(),
        }
    }

    /// The guest of `vmm`, paused and ready to be saved.
    fn paused<'v>(&self, vmm: &'v mut dyn Vmm) -> Paused<'v> {
        vmm.prepare(&self.plan()).unwrap().pause().unwrap()
    }
}

#[test]
fn a_capture_leaves_a_running_guest_and_private_files() {
    for dialect in DIALECTS {
        let scene = Scene::new(dialect);
        let mut vmm = scene.open(LONG);
        assert_eq!(vmm.state().unwrap(), VmmState::Running);
        assert!(!vmm.copies_disks());
        let prepared = vmm.prepare(&scene.plan()).unwrap();
        assert_eq!(scene.fake.guest(), Guest::Running, "{dialect:?}");
        let paused = prepared.pause().unwrap();
        assert_eq!(scene.fake.guest(), Guest::Paused);
        let secured = paused.save(Deadline::after(LONG)).unwrap();
        assert_eq!(scene.fake.guest(), Guest::Paused);
        let before_resume = Instant::now();
        let resumed = secured.resume().unwrap();
        let resume = before_resume.elapsed();
        assert_eq!(scene.fake.guest(), Guest::Running);
        let saved = resumed.finish().unwrap();
        assert!(
            saved.pause > resume,
            "{saved:?} holds more than the resume's {resume:?}"
        );
        vmm.discard(true).unwrap();

        let expected: &[&str] = match dialect {
            Dialect::CloudHypervisor => &["config.json", "memory-ranges", "state.json"],
            Dialect::Firecracker => &["memory", "state"],
        };
        assert_eq!(names(&scene.state_dir()), expected);
        for name in expected {
            let mode = fs::metadata(scene.state_dir().join(name))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o7777, 0o600, "{name}");
        }
        assert_eq!(names(scene.dir.path()), ["s", "state"]);
    }
}

#[test]
fn disks_are_found_with_name_path_and_mode() {
    for (dialect, prefix) in DIALECTS.into_iter().zip(["_disk", "drive"]) {
        let scene = Scene::new(dialect);
        let disks = scene.open(LONG).disks().unwrap();
        let found: Vec<_> = disks
            .iter()
            .map(|disk| (disk.name.clone(), disk.path.clone(), disk.is_read_only))
            .collect();
        let path = |name: &str| scene.dir.path().join(name);
        let expected = [
            (format!("{prefix}0"), path("rw.raw"), false),
            (format!("{prefix}1"), path("ro.raw"), true),
        ];
        assert_eq!(found, expected);
        assert!(
            disks
                .iter()
                .all(|disk| disk.format.as_deref() == Some("raw"))
        );
    }
}

#[test]
fn persistent_memory_files_are_disks() {
    let cases = [
        (
            Dialect::CloudHypervisor,
            json!({"pmem": [{"file": "/p", "discard_writes": true}]}),
        ),
        (
            Dialect::Firecracker,
            json!({"pmem": [{"id": "pmem0", "path_on_host": "/p", "root_device": false, "read_only": true}]}),
        ),
    ];
    for (dialect, extra) in cases {
        let scene = Scene::new(dialect);
        scene.fake.add_config(extra);
        let disks = scene.open(LONG).disks().unwrap();
        let last = disks.last().unwrap();
        assert_eq!(
            (last.name.as_str(), last.path.as_path(), last.is_read_only),
            ("pmem0", Path::new("/p"), true)
        );
    }
}

#[test]
fn a_disk_of_another_process_is_refused_by_name() {
    for dialect in DIALECTS {
        let dir = tempfile::tempdir().unwrap();
        let disk = FakeDisk {
            path: None,
            is_read_only: false,
        };
        let fake = FakeVmm::start(dialect, &dir.path().join("s"), &[disk]);
        let scene = Scene { dir, dialect, fake };
        let error = scene.open(LONG).disks().unwrap_err();
        assert!(matches!(error, VmmError::Unsupported(_)), "{error:?}");
        assert!(error.to_string().contains("vhost-user"), "{error}");
    }
}

#[test]
fn what_cloud_hypervisor_would_leave_out_is_refused_before_the_pause() {
    let cases = [
        (
            json!({"devices": [{"path": "/sys/bus/pci/devices/0000:00:02.0"}]}),
            "passed-through",
        ),
        (
            json!({"memory": {"zones": [{"id": "m0", "size": 1, "file": "/dev/shm/m", "shared": true}]}}),
            "m0",
        ),
    ];
    for (extra, part) in cases {
        let scene = Scene::new(Dialect::CloudHypervisor);
        scene.fake.add_config(extra);
        let error = scene.open(LONG).prepare(&scene.plan()).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn the_vmm_tells_its_version_and_its_process() {
    for (dialect, version) in DIALECTS.into_iter().zip(["54.0.0", "1.17.0"]) {
        let mut vmm = Scene::new(dialect).open(LONG);
        assert_eq!(
            u32::try_from(vmm.process().unwrap().pid).unwrap(),
            std::process::id()
        );
        assert!(vmm.version().is_err(), "the fake is gone");
        let scene = Scene::new(dialect);
        assert_eq!(scene.open(LONG).version().unwrap(), version);
    }
}

#[test]
fn every_state_has_its_name() {
    for dialect in DIALECTS {
        let scene = Scene::new(dialect);
        for (guest, expected) in [
            (Guest::Created, VmmState::Created),
            (Guest::Paused, VmmState::Paused),
            (Guest::Running, VmmState::Running),
        ] {
            scene.fake.set_guest(guest);
            assert_eq!(scene.open(LONG).state().unwrap(), expected);
        }
    }
}

#[test]
fn a_pause_of_somebody_else_is_left_alone() {
    for dialect in DIALECTS {
        let scene = Scene::new(dialect);
        let mut vmm = scene.open(LONG);
        let prepared = vmm.prepare(&scene.plan()).unwrap();
        scene.fake.set_guest(Guest::Paused);
        let error = prepared.pause().unwrap_err();
        assert!(matches!(error, VmmError::PausedByOthers), "{error:?}");
        assert_eq!(scene.fake.guest(), Guest::Paused);
        assert!(!scene.fake.requests().contains(&Request::Resume));
    }
}

#[test]
fn a_guest_that_was_never_started_is_not_paused() {
    for dialect in DIALECTS {
        let scene = Scene::new(dialect);
        scene.fake.set_guest(Guest::Created);
        let mut vmm = scene.open(LONG);
        let prepared = vmm.prepare(&scene.plan()).unwrap();
        let error = prepared.pause().unwrap_err();
        assert!(
            matches!(error, VmmError::Refused { .. } | VmmError::Unsupported(_)),
            "{error:?}"
        );
        assert_eq!(scene.fake.guest(), Guest::Created);
    }
}

#[test]
fn resuming_a_guest_that_runs_is_no_error() {
    for dialect in DIALECTS {
        let scene = Scene::new(dialect);
        scene.open(LONG).resume().unwrap();
        assert_eq!(scene.fake.guest(), Guest::Running);
    }
}

#[test]
fn a_refused_save_is_told_in_the_vmms_words_and_can_be_resumed() {
    let bodies = [
        r#"["Error from API","The VM could not be snapshotted","Could not get vCPU state"]"#,
        r#"{"fault_message":"Create snapshot error: Could not get vCPU state"}"#,
    ];
    for (dialect, body) in DIALECTS.into_iter().zip(bodies) {
        let scene = Scene::new(dialect);
        scene
            .fake
            .on(Request::Save, Fault::Refuse(500, body.to_owned()));
        let mut vmm = scene.open(LONG);
        let paused = scene.paused(vmm.as_mut());
        let error = paused.save(Deadline::after(LONG)).unwrap_err();
        assert!(matches!(error, VmmError::Refused { .. }), "{error:?}");
        assert!(
            error.to_string().contains("Could not get vCPU state"),
            "{error}"
        );
        vmm.resume().unwrap();
        vmm.discard(true).unwrap();
        assert_eq!(scene.fake.guest(), Guest::Running);
    }
}

#[test]
fn a_save_that_takes_too_long_is_given_up_and_the_resume_waits_behind_it() {
    for dialect in DIALECTS {
        let scene = Scene::new(dialect);
        scene
            .fake
            .on(Request::Save, Fault::Slow(Duration::from_secs(3)));
        let mut vmm = scene.open(Duration::from_millis(500));
        let limit = Duration::from_secs(2);
        let error = scene
            .paused(vmm.as_mut())
            .save(Deadline::after(limit))
            .unwrap_err();
        assert!(
            matches!(error, VmmError::PauseTooLong { limit: told, goes_on: true } if told == limit),
            "{error:?}"
        );
        // The rest of the save outlasts the limit of an ordinary request.
        vmm.resume().unwrap();
        assert_eq!(scene.fake.guest(), Guest::Running);
    }
}

#[test]
fn a_vmm_that_hangs_costs_the_limit_of_the_request() {
    for dialect in DIALECTS {
        let scene = Scene::new(dialect);
        scene.fake.on(Request::State, Fault::Hang);
        let mut vmm = scene.open(SHORT);
        let start = Instant::now();
        let error = vmm.state().unwrap_err();
        assert!(
            matches!(error, VmmError::TimedOut { limit: SHORT, .. }),
            "{error:?}"
        );
        assert!(start.elapsed() >= SHORT);
        assert!(start.elapsed() < LONG / 2);
        scene.fake.release();
    }
}

#[test]
fn a_vmm_that_dies_in_the_pause_is_told_from_one_that_refuses() {
    for dialect in DIALECTS {
        let scene = Scene::new(dialect);
        scene.fake.on(Request::Save, Fault::Die);
        let mut vmm = scene.open(LONG);
        let paused = scene.paused(vmm.as_mut());
        let error = paused.save(Deadline::after(LONG)).unwrap_err();
        assert!(matches!(error, VmmError::Closed { .. }), "{error:?}");
        let error = vmm.resume().unwrap_err();
        assert!(matches!(error, VmmError::Unreachable { .. }), "{error:?}");
        assert!(matches!(
            scene.try_open(LONG),
            Err(VmmError::Unreachable { .. })
        ));
    }
}

#[test]
fn an_answer_that_breaks_off_is_no_success() {
    for dialect in DIALECTS {
        for request in [Request::Pause, Request::State, Request::Save] {
            let scene = Scene::new(dialect);
            let mut vmm = scene.open(LONG);
            let prepared = vmm.prepare(&scene.plan()).unwrap();
            let error = match request {
                Request::Save => {
                    let paused = prepared.pause().unwrap();
                    scene.fake.on(request, Fault::CloseMidReply);
                    paused.save(Deadline::after(LONG)).unwrap_err()
                }
                Request::Pause => {
                    scene.fake.on(request, Fault::CloseMidReply);
                    prepared.pause().unwrap_err()
                }
                Request::State | Request::Config | Request::Version | Request::Resume => {
                    drop(prepared);
                    scene.fake.on(request, Fault::CloseMidReply);
                    vmm.state().unwrap_err()
                }
            };
            assert!(
                matches!(error, VmmError::Closed { .. }),
                "{dialect:?} {request:?}: {error:?}"
            );
            vmm.resume().unwrap();
            assert_eq!(scene.fake.guest(), Guest::Running);
        }
    }
}

#[test]
fn an_answer_that_is_no_http_is_a_protocol_error() {
    for dialect in DIALECTS {
        let scene = Scene::new(dialect);
        scene.fake.on(Request::State, Fault::Garbage);
        let error = scene.open(LONG).state().unwrap_err();
        assert!(matches!(error, VmmError::Protocol { .. }), "{error:?}");
        scene
            .fake
            .on(Request::State, Fault::Refuse(200, "<html>".to_owned()));
        let error = scene.open(LONG).state().unwrap_err();
        assert!(matches!(error, VmmError::Protocol { .. }), "{error:?}");
    }
}

#[test]
fn half_a_pause_of_cloud_hypervisor_is_undone() {
    let scene = Scene::new(Dialect::CloudHypervisor);
    let body = r#"["Error from API","The VM could not be paused","device does not drain"]"#;
    scene
        .fake
        .on(Request::Pause, Fault::Refuse(500, body.to_owned()));
    let mut vmm = scene.open(LONG);
    let prepared = vmm.prepare(&scene.plan()).unwrap();
    let error = prepared.pause().unwrap_err();
    assert!(
        error.to_string().contains("device does not drain"),
        "{error}"
    );
    use Request::{Pause, Resume, State};
    assert_eq!(scene.fake.requests(), [State, Pause, State, Pause, Resume]);
    assert_eq!(scene.fake.guest(), Guest::Running);
}

#[test]
fn files_that_are_missing_after_a_save_are_an_error() {
    for dialect in DIALECTS {
        let scene = Scene::new(dialect);
        scene
            .fake
            .on(Request::Save, Fault::Refuse(204, String::new()));
        let mut vmm = scene.open(LONG);
        let secured = scene.paused(vmm.as_mut()).save(Deadline::after(LONG));
        let resumed = secured.unwrap().resume().unwrap();
        let error = resumed.finish().unwrap_err();
        assert!(matches!(error, VmmError::File { .. }), "{error:?}");
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
