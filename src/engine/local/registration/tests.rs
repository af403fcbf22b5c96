//! What `register` writes, what it leaves alone, and what it refuses.

use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
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

    fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    fn guest(&self) -> PathBuf {
        self.data().join("guests/vm1")
    }

    fn registration(&self) -> Registration {
        Registration {
            id: id(),
            name: "web-a".to_owned(),
            hypervisor: Hypervisor::Qemu,
            socket: PathBuf::from("/run/vm1/qmp.sock"),
            disks: vec![self.root.path().join("disk.raw")],
        }
    }

    fn register(&self, registration: &Registration) -> Result<Registered, RegistrationError> {
        register(
            &self.data(),
            registration,
            "2026-09-02T03:15:20Z".parse().unwrap(),
        )
    }

    fn unregister(&self) -> Result<(), RegistrationError> {
        unregister(&DataDir::create(&self.data()).unwrap(), &id())
    }

    fn metadata(&self) -> Metadata {
        Metadata::read(&self.guest(), &id()).unwrap()
    }
}

fn id() -> InstanceId {
    "vm1".parse().unwrap()
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
fn a_registered_vm_is_an_instance_that_needs_no_markers() {
    let host = Host::new();
    let registered = host.register(&host.registration()).unwrap();
    assert_eq!(registered, Registered::Created);
    let data = DataDir::open(&host.data()).unwrap();
    let metadata = data.find(&id()).unwrap().unwrap();
    assert_eq!(metadata.name, "web-a");
    assert_eq!(metadata.hypervisor().unwrap(), Hypervisor::Qemu);
    assert_eq!(metadata.socket, Path::new("/run/vm1/qmp.sock"));
    assert_eq!(metadata.data_dir, host.guest());
    assert_eq!(metadata.registered_disks, Some(host.registration().disks));
    assert!(metadata.has_program_started && metadata.is_agent_ready);
    assert_eq!(metadata.refusal(crate::instance::State::Running), None);
    assert_eq!(metadata.process, None);
    for (path, mode) in [(host.guest(), 0o700), (host.guest().join(METADATA), 0o600)] {
        let found = fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(found, mode);
    }
}

#[test]
fn the_file_has_every_key_that_hypemans_server_expects() {
    let host = Host::new();
    host.register(&host.registration()).unwrap();
    let metadata = host.metadata();
    for key in [
        "Id Name Image ResolvedImage HypervisorType HypervisorVersion HypervisorPID SocketPath DataDir VsockCID",
        "VsockSocket Volumes Devices GPUProfile GPUMdevUUID SkipGuestAgent ProgramStartedAt GuestAgentReadyAt",
        "StartedAt StoppedAt CreatedAt ExpiresAt Size OverlaySize HotplugSize Vcpus NetworkEnabled IP MAC Env Tags",
        "KernelVersion FirecrackerSnapshotCacheKey FirecrackerUFFDSessionID PendingStandbyCompression",
    ]
    .iter()
    .flat_map(|line| line.split(' '))
    {
        assert!(metadata.whole().contains_key(key), "{key}");
    }
}

#[test]
fn the_same_values_again_write_nothing() {
    let host = Host::new();
    host.register(&host.registration()).unwrap();
    let path = host.guest().join(METADATA);
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    let again = register(
        &host.data(),
        &host.registration(),
        "2027-01-01T00:00:00Z".parse().unwrap(),
    );
    assert_eq!(again.unwrap(), Registered::Unchanged);
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
}

#[test]
fn other_values_replace_what_was_declared_and_keep_the_rest() {
    let host = Host::new();
    host.register(&host.registration()).unwrap();
    let path = host.guest().join(METADATA);
    let mut whole: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    whole["FromElsewhere"] = json!({"a": 1});
    fs::write(&path, whole.to_string()).unwrap();
    let changed = Registration {
        name: "web-b".to_owned(),
        disks: Vec::new(),
        ..host.registration()
    };
    assert_eq!(host.register(&changed).unwrap(), Registered::Updated);
    let metadata = host.metadata();
    assert_eq!(metadata.name, "web-b");
    assert_eq!(metadata.registered_disks, Some(Vec::new()));
    assert_eq!(metadata.whole()["FromElsewhere"], json!({"a": 1}));
    assert_eq!(metadata.whole()["CreatedAt"], whole["CreatedAt"]);
}

#[test]
fn an_instance_of_hypemans_is_not_touched() {
    let host = Host::new();
    let foreign = json!({"Id": "vm1", "Name": "theirs"}).to_string();
    fs::create_dir_all(host.guest()).unwrap();
    fs::write(host.guest().join(METADATA), &foreign).unwrap();
    is_invalid(host.register(&host.registration()), "HypemanSnapRegistered");
    is_invalid(host.unregister(), "left alone");
    assert_eq!(
        fs::read_to_string(host.guest().join(METADATA)).unwrap(),
        foreign
    );
    // Nor is a directory of which nothing is known.
    fs::rename(
        host.guest().join(METADATA),
        host.guest().join("overlay.raw"),
    )
    .unwrap();
    is_invalid(host.register(&host.registration()), "left alone");
    is_invalid(host.unregister(), "left alone");
    assert_eq!(fs::read_dir(host.guest()).unwrap().count(), 1);
}

#[test]
fn unregistering_removes_what_registering_made_and_no_snapshot() {
    let host = Host::new();
    host.register(&host.registration()).unwrap();
    let snapshot = host.data().join("snapshots/s1/guest");
    fs::create_dir_all(&snapshot).unwrap();
    host.unregister().unwrap();
    assert!(!host.guest().exists());
    assert!(snapshot.exists());
    assert!(host.root.path().join("disk.raw").exists());
}

#[test]
fn a_directory_that_holds_more_stays_whole() {
    let host = Host::new();
    host.register(&host.registration()).unwrap();
    fs::write(host.guest().join("notes.txt"), "x").unwrap();
    is_invalid(host.unregister(), "notes.txt");
    assert!(host.guest().join(METADATA).exists());
}

#[test]
fn what_a_killed_registration_left_is_taken_over_or_removed() {
    let host = Host::new();
    // Killed before the rename, and killed before the directory went.
    for left in [Some(METADATA_TEMPORARY), None] {
        for again in [true, false] {
            fs::create_dir_all(host.guest()).unwrap();
            if let Some(left) = left {
                fs::write(host.guest().join(left), "{").unwrap();
            }
            if again {
                let registered = host.register(&host.registration()).unwrap();
                assert_eq!(registered, Registered::Created);
            }
            host.unregister().unwrap();
            assert!(!host.guest().exists());
        }
    }
}

#[test]
fn unregistering_what_is_not_there_says_so_only_if_that_is_certain() {
    let host = Host::new();
    assert!(matches!(
        host.unregister(),
        Err(RegistrationError::Engine(_))
    ));
    let other = Registration {
        id: "other".parse().unwrap(),
        ..host.registration()
    };
    host.register(&other).unwrap();
    assert!(matches!(
        host.unregister(),
        Err(RegistrationError::NotFound(_))
    ));
}

#[test]
fn values_that_can_not_work_are_refused_before_anything_is_written() {
    let host = Host::new();
    symlink(host.root.path(), host.root.path().join("link-to-directory")).unwrap();
    let disk = |name: &str| vec![host.root.path().join(name)];
    let twice = [disk("disk.raw"), disk("disk.raw")].concat();
    let base = host.registration();
    let named = |name: &str| Registration {
        name: name.to_owned(),
        ..base.clone()
    };
    let on = |socket: &str| Registration {
        socket: PathBuf::from(socket),
        ..base.clone()
    };
    let with = |disks| Registration {
        disks,
        ..base.clone()
    };
    let vz = Registration {
        hypervisor: Hypervisor::Vz,
        ..base.clone()
    };
    let long_socket = format!("/run/{}", "x".repeat(103));
    for (registration, says) in [
        (named(""), "name"),
        (named("-x"), "name"),
        (named("a b"), "name"),
        (named("a/b"), "name"),
        (named("ä"), "name"),
        (named(&"x".repeat(64)), "name"),
        (on("qmp.sock"), "absolute"),
        (on(""), "absolute"),
        (on(&long_socket), "108"),
        (with(vec![PathBuf::from("disk.raw")]), "absolute"),
        (with(disk("missing")), "missing"),
        (with(disk("link-to-directory")), "regular file"),
        (with(vec![PathBuf::from("/dev/null")]), "regular file"),
        (with(twice), "twice"),
        (vz, "macOS"),
    ] {
        is_invalid(host.register(&registration), says);
    }
    assert!(!host.data().exists());
    for good in [
        named(&"x".repeat(63)),
        named("Web_1.b-2"),
        on(&long_socket[..107]),
    ] {
        host.register(&good).unwrap();
    }
}
