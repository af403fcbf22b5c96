//! What `register` writes, what it leaves alone, what it refuses, and what becomes of registrations of older versions.

use super::*;
use crate::engine::EngineError;
use crate::engine::local::instances::Instances;
use crate::engine::local::metadata::Metadata;
use crate::engine::registrar::{Registered, RegistrationError, Request};
use crate::instance::{Hypervisor, InstanceId};
use crate::interrupt::Watch;
use crate::vmm::Timeouts;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use tempfile::TempDir;

/// A host with a disk, and nothing registered.
struct Host {
    root: TempDir,
}

impl Host {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("disk.raw"), "x").unwrap();
        Self { root }
    }

    fn state(&self) -> PathBuf {
        self.root.path().join("state")
    }

    fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    fn guest(&self) -> PathBuf {
        self.data().join("guests/vm1")
    }

    fn file(&self) -> PathBuf {
        self.state().join("instances/vm1.json")
    }

    fn declared(&self) -> Declared {
        Declared {
            id: id(),
            name: "web-a".to_owned(),
            hypervisor: Hypervisor::Qemu,
            socket: PathBuf::from("/run/vm1/qmp.sock"),
            disks: vec![self.root.path().join("disk.raw")],
            disk_roots: Vec::new(),
        }
    }

    fn register(&self, declared: &Declared) -> Result<Registered, RegistrationError> {
        let request = Request {
            declared: declared.clone(),
            is_forced: true,
        };
        let timeouts = Timeouts {
            request: std::time::Duration::from_secs(5),
            watch: Watch::unlimited(),
        };
        let registered = register(&self.instances(true), request, timeouts, now());
        registered.map(|(registered, _)| registered)
    }

    fn unregister(&self) -> Result<(), RegistrationError> {
        unregister(&self.instances(true), &id(), false)
    }

    fn instances(&self, may_write: bool) -> Instances {
        Instances::new(&self.state(), &self.data(), may_write)
    }

    fn find(&self) -> Result<Option<Metadata>, EngineError> {
        self.instances(false).find(&id())
    }

    /// What `register` of version 0.1 left, in directories of ours alone.
    fn register_as_of_old(&self) {
        fs::create_dir_all(self.guest()).unwrap();
        let metadata = json!({
            "Id": "vm1", "Name": "web-a", "HypervisorType": "qemu", "SocketPath": "/run/vm1/qmp.sock",
            "DataDir": self.guest(), "CreatedAt": now(), "SkipGuestAgent": true,
            "HypemanSnapRegistered": true, "HypemanSnapDisks": [self.root.path().join("disk.raw")],
        });
        fs::write(self.guest().join("metadata.json"), metadata.to_string()).unwrap();
        for path in [
            self.data(),
            self.data().join("guests"),
            self.guest(),
            self.guest().join("metadata.json"),
        ] {
            fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        }
    }
}

fn id() -> InstanceId {
    "vm1".parse().unwrap()
}

fn now() -> DateTime<Utc> {
    "2026-09-02T03:15:20Z".parse().unwrap()
}

fn is_invalid<T: std::fmt::Debug>(result: Result<T, RegistrationError>, says: &str) {
    match result {
        Err(RegistrationError::Invalid(message)) => {
            assert!(message.contains(says), "{message:?} lacks {says:?}");
        }
        other => panic!("{other:?} instead of an error with {says:?}"),
    }
}

#[test]
fn a_registered_vm_is_an_instance_that_needs_no_data_directory() {
    let host = Host::new();
    assert_eq!(
        host.register(&host.declared()).unwrap(),
        Registered::Created
    );
    fs::remove_dir(host.data()).unwrap();
    let metadata = host.find().unwrap().unwrap();
    assert_eq!(metadata.name, "web-a");
    assert_eq!(metadata.hypervisor().unwrap(), Hypervisor::Qemu);
    assert_eq!(metadata.socket, Path::new("/run/vm1/qmp.sock"));
    assert!(metadata.has_program_started && metadata.is_agent_ready);
    assert_eq!(
        metadata.refusal(
            crate::snapshot::Consistency::Memory,
            crate::instance::State::Running
        ),
        None
    );
    assert_eq!(metadata.process, None);
    assert_eq!(metadata.registration.unwrap().declared, host.declared());
    assert_eq!(host.instances(false).list().unwrap()[0].name, "web-a");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&host.file()), 0o600);
    assert_eq!(mode(host.file().parent().unwrap()), 0o700);
}

#[test]
fn what_a_snapshot_stores_of_it_has_every_key_that_hypemans_server_expects() {
    let host = Host::new();
    host.register(&host.declared()).unwrap();
    let stored = host
        .find()
        .unwrap()
        .unwrap()
        .for_snapshot(crate::instance::State::Stopped, now());
    for key in [
        "Id Name Image ResolvedImage HypervisorType HypervisorVersion HypervisorPID SocketPath DataDir VsockCID",
        "VsockSocket Volumes Devices GPUProfile GPUMdevUUID SkipGuestAgent ProgramStartedAt GuestAgentReadyAt",
        "StartedAt StoppedAt CreatedAt ExpiresAt Size OverlaySize HotplugSize Vcpus NetworkEnabled IP MAC Env Tags",
        "KernelVersion FirecrackerSnapshotCacheKey FirecrackerUFFDSessionID PendingStandbyCompression",
    ]
    .iter()
    .flat_map(|line| line.split(' '))
    {
        assert!(stored.contains_key(key), "{key}");
    }
    assert_eq!(stored["DataDir"], json!(host.guest()));
}

#[test]
fn the_same_values_again_write_nothing() {
    let host = Host::new();
    host.register(&host.declared()).unwrap();
    let before = fs::metadata(host.file()).unwrap().modified().unwrap();
    assert_eq!(
        host.register(&host.declared()).unwrap(),
        Registered::Unchanged
    );
    assert_eq!(
        fs::metadata(host.file()).unwrap().modified().unwrap(),
        before
    );
}

#[test]
fn other_values_replace_what_was_declared_and_keep_the_rest() {
    let host = Host::new();
    host.register(&host.declared()).unwrap();
    let registry = Registry::new(&host.state());
    let mut first = registry.read(&id()).unwrap().unwrap();
    first.learnt.snapshots_in = Some(host.data());
    registry.write(&first).unwrap();
    let changed = Declared {
        name: "web-b".to_owned(),
        disks: Vec::new(),
        ..host.declared()
    };
    assert_eq!(host.register(&changed).unwrap(), Registered::Updated);
    let expected = Registration {
        declared: changed,
        ..first
    };
    assert_eq!(registry.read(&id()).unwrap(), Some(expected));
}

#[test]
fn an_instance_of_hypemans_is_not_touched() {
    let host = Host::new();
    let foreign = json!({"Id": "vm1", "Name": "theirs"}).to_string();
    fs::create_dir_all(host.guest()).unwrap();
    let metadata = host.guest().join("metadata.json");
    fs::write(&metadata, &foreign).unwrap();
    is_invalid(host.register(&host.declared()), "HypemanSnapRegistered");
    is_invalid(host.unregister(), "left alone");
    assert_eq!(fs::read_to_string(&metadata).unwrap(), foreign);
    // Nor is a directory of which nothing is known.
    fs::rename(metadata, host.guest().join("overlay.raw")).unwrap();
    is_invalid(host.register(&host.declared()), "left alone");
    is_invalid(host.unregister(), "left alone");
    assert_eq!(fs::read_dir(host.guest()).unwrap().count(), 1);
}

#[test]
fn unregistering_removes_what_registering_made_and_no_snapshot() {
    let host = Host::new();
    host.register(&host.declared()).unwrap();
    let snapshot = host.data().join("snapshots/s1/guest");
    fs::create_dir_all(&snapshot).unwrap();
    host.unregister().unwrap();
    assert!(!host.file().exists());
    assert!(snapshot.exists());
    assert!(host.root.path().join("disk.raw").exists());
    assert!(matches!(
        host.unregister(),
        Err(RegistrationError::NotFound(_))
    ));
}

#[test]
fn who_was_unregistered_is_gone_whatever_the_data_directory_is() {
    let host = Host::new();
    host.register(&host.declared()).unwrap();
    unregister(&host.instances(true), &id(), true).unwrap();
    assert!(host.find().unwrap().is_none());
    // Of others that proves nothing.
    let other = "other".parse().unwrap();
    assert!(matches!(
        host.instances(false).find(&other),
        Err(EngineError::Unavailable { .. })
    ));
    host.register(&host.declared()).unwrap();
    assert!(host.find().unwrap().is_some());
    host.unregister().unwrap();
    assert!(host.find().is_err());
}

#[test]
fn a_store_that_is_not_there_any_more_is_not_taken_for_an_empty_one() {
    let host = Host::new();
    host.register(&host.declared()).unwrap();
    let instances = host.instances(false);
    assert_eq!(
        instances.store().unwrap().list().unwrap().snapshots.len(),
        0
    );
    let registry = Registry::new(&host.state());
    let mut registration = registry.read(&id()).unwrap().unwrap();
    registration.learnt.snapshots_in = Some(host.data());
    registry.write(&registration).unwrap();
    let error = instances.store().unwrap_err();
    assert!(error.to_string().contains("not mounted"), "{error}");
    fs::create_dir_all(host.data().join("snapshots")).unwrap();
    instances.store().unwrap();
}

#[test]
fn a_registration_that_makes_no_sense_is_an_error_until_it_is_made_again() {
    for bad in ["{", r#"{"version": 2}"#, r#"{"version": 1, "id": "vm1"}"#] {
        let host = Host::new();
        host.register(&host.declared()).unwrap();
        fs::write(host.file(), bad).unwrap();
        let error = host.find().unwrap_err();
        assert!(error.to_string().contains("register"), "{error}");
        assert_eq!(host.instances(false).list().unwrap()[0].name, "");
        host.register(&host.declared()).unwrap();
        assert!(host.find().unwrap().is_some(), "{bad}");
        fs::write(host.file(), bad).unwrap();
        host.unregister().unwrap();
        assert!(!host.file().exists());
    }
}

#[test]
fn an_old_registration_is_read_where_it_is_and_moved_by_who_may_write() {
    let host = Host::new();
    host.register_as_of_old();
    let found = host.find().unwrap().unwrap();
    let expected = host.declared();
    assert_eq!(found.registration.unwrap().declared, expected);
    assert!(!host.state().exists() && host.guest().exists());
    host.instances(true).find(&id()).unwrap().unwrap();
    assert!(host.file().exists() && !host.guest().exists());
    assert_eq!(
        host.find().unwrap().unwrap().registration.unwrap().declared,
        expected
    );
    // Not only when it is asked for.
    let host = Host::new();
    host.register_as_of_old();
    assert_eq!(host.instances(true).list().unwrap().len(), 1);
    assert!(host.file().exists() && !host.guest().exists());
    // What somebody else keeps there stays.
    let host = Host::new();
    host.register_as_of_old();
    fs::write(host.guest().join("notes.txt"), "x").unwrap();
    host.instances(true).find(&id()).unwrap().unwrap();
    assert_eq!(fs::read_dir(host.guest()).unwrap().count(), 1);
    assert!(host.find().unwrap().is_some());
}

#[test]
fn an_old_registration_that_others_could_have_written_is_not_believed() {
    for (place, says) in [
        ("", "data has mode 0777"),
        ("guests", "guests has mode 0777"),
        ("guests/vm1", "the directory has mode 0777"),
        ("guests/vm1/metadata.json", "metadata.json has mode 0777"),
    ] {
        let host = Host::new();
        host.register_as_of_old();
        let path = host.data().join(place);
        fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
        for may_write in [false, true] {
            let error = host
                .instances(may_write)
                .find(&id())
                .unwrap_err()
                .to_string();
            assert!(error.contains(says), "{error}");
            assert!(error.contains("register vm1 again"), "{error}");
        }
        assert!(!host.file().exists());
        host.register(&host.declared()).unwrap();
        assert!(host.find().unwrap().unwrap().is_registered());
    }
}

#[test]
fn values_that_can_not_work_are_refused_before_anything_is_written() {
    let host = Host::new();
    symlink(host.root.path(), host.root.path().join("link-to-directory")).unwrap();
    let disk = |name: &str| vec![host.root.path().join(name)];
    let twice = [disk("disk.raw"), disk("disk.raw")].concat();
    let base = host.declared();
    let named = |name: &str| Declared {
        name: name.to_owned(),
        ..base.clone()
    };
    let on = |socket: &str| Declared {
        socket: PathBuf::from(socket),
        ..base.clone()
    };
    let with = |disks| Declared {
        disks,
        ..base.clone()
    };
    let long_socket = format!("/run/{}", "x".repeat(103));
    for (declared, says) in [
        (named(""), "name"),
        (named("-x"), "name"),
        (named("a b"), "name"),
        (named("a/b"), "name"),
        (named("ä"), "name"),
        (named(&"x".repeat(64)), "name"),
        (on("qmp.sock"), "absolute"),
        (on(""), "absolute"),
        (with(vec![PathBuf::from("disk.raw")]), "absolute"),
        (with(disk("missing")), "missing"),
        (with(disk("link-to-directory")), "regular file"),
        (with(vec![PathBuf::from("/dev/null")]), "regular file"),
        (with(twice), "twice"),
    ] {
        is_invalid(host.register(&declared), says);
    }
    assert!(!host.state().exists());
    for good in [named(&"x".repeat(63)), named("Web_1.b-2"), on(&long_socket)] {
        host.register(&good).unwrap();
    }
}
