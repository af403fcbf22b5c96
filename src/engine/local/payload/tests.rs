//! What is usable, kind by kind and VMM by VMM, and what a hostile manifest can't do.

use super::*;
use crate::fs::beneath::Beneath;
use std::fs;
use std::os::unix::fs::symlink;

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

const STATE: &str = "snapshots/snapshot-latest";

/// A `guest/` with these files, each of the length behind the colon, or of 9 bytes.
fn guest(files: &[&str]) -> TempDir {
    let guest = tempfile::tempdir().unwrap();
    for file in files {
        let (path, size) = file.split_once(':').unwrap_or((file, "9"));
        let path = guest.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = fs::File::create(path).unwrap();
        file.set_len(size.parse().unwrap()).unwrap();
    }
    guest
}

fn write_manifest(guest: &TempDir, manifest: &Value) {
    fs::write(guest.path().join(FILE_NAME), manifest.to_string()).unwrap();
}

fn id() -> SnapshotId {
    "s1".parse().unwrap()
}

fn open(guest: &TempDir) -> fs::File {
    fs::File::open(guest.path()).unwrap()
}

fn judge(guest: &TempDir, kind: Kind, hypervisor: &str, is_registered: bool) -> Option<String> {
    let id = id();
    let claims = Claims {
        id: &id,
        kind,
        hypervisor,
        is_registered,
        has_memory_elsewhere: false,
        packed_bytes: None,
    };
    flaw(open(guest), &claims).unwrap()
}

/// The flaw of a snapshot that hypeman made.
fn of_hypeman(files: &[&str], kind: Kind, hypervisor: &str) -> Option<String> {
    judge(&guest(files), kind, hypervisor, false)
}

#[test]
fn what_hypeman_makes_is_usable_whatever_the_vmm() {
    let latest = |name: &str| format!("{STATE}/{name}");
    for (hypervisor, state) in [
        (
            "cloud-hypervisor",
            vec!["config.json", "state.json", "memory-ranges"],
        ),
        (
            "cloud-hypervisor",
            vec!["config.json", "state.json", "memory-ranges.lz4"],
        ),
        ("firecracker", vec!["state", "memory"]),
        ("firecracker", vec!["state", "memory.zst"]),
        ("firecracker", vec!["state", "memory", "memory.zst"]),
        ("qemu", vec!["memory", "qemu-config.json"]),
        ("qemu", vec!["memory.lz4", "qemu-config.json"]),
        ("qemu-microvm", vec!["memory"]),
        ("vz", vec!["whatever-it-writes"]),
        ("", vec!["memory-ranges"]),
    ] {
        let mut files = vec!["metadata.json".to_owned(), "overlay.raw".to_owned()];
        files.push("config.ext4".to_owned());
        files.extend(state.iter().map(|name| latest(name)));
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        assert_eq!(
            of_hypeman(&files, Kind::Standby, hypervisor),
            None,
            "{files:?}"
        );
    }
    for files in [
        &["metadata.json", "overlay.raw", "config.ext4"][..],
        &[
            "overlay.raw",
            "config.ext4",
            "vol-overlays/v1.raw",
            "qemu-config.json",
        ],
    ] {
        assert_eq!(of_hypeman(files, Kind::Stopped, "qemu"), None, "{files:?}");
    }
}

#[test]
fn what_is_missing_or_empty_is_named() {
    for (files, kind, hypervisor, says) in [
        (&["metadata.json"][..], Kind::Stopped, "qemu", "no disk"),
        (
            &["metadata.json", "config.ext4", "qemu-config.json"],
            Kind::Stopped,
            "qemu",
            "no disk",
        ),
        (&["overlay.raw:0"], Kind::Stopped, "qemu", "no disk"),
        (
            &["logs/app.log", "logs/x.raw"],
            Kind::Stopped,
            "qemu",
            "no disk",
        ),
        (
            &["overlay.raw"],
            Kind::Standby,
            "qemu",
            "snapshot-latest/memory is missing",
        ),
        (
            &["overlay.raw", "snapshots/snapshot-latest/memory:0"],
            Kind::Standby,
            "qemu",
            "memory is empty",
        ),
        (
            &["overlay.raw", "snapshots/snapshot-latest/memory.zst:0"],
            Kind::Standby,
            "qemu",
            "memory is missing",
        ),
        (
            &["overlay.raw", "snapshots/snapshot-latest/memory"],
            Kind::Standby,
            "firecracker",
            "state is missing",
        ),
        (
            &[
                "overlay.raw",
                "snapshots/snapshot-latest/memory-ranges",
                "snapshots/snapshot-latest/state.json",
            ],
            Kind::Standby,
            "cloud-hypervisor",
            "config.json is missing",
        ),
        (
            &["overlay.raw", "snapshots/snapshot-latest/x:0"],
            Kind::Standby,
            "vz",
            "no memory",
        ),
        (
            &["snapshots/snapshot-latest/memory", "config.ext4"],
            Kind::Standby,
            "qemu",
            "no disk",
        ),
    ] {
        let flaw = of_hypeman(files, kind, hypervisor).unwrap_or_else(|| panic!("{files:?}"));
        assert!(flaw.contains(says), "{files:?}: {flaw}");
    }
}

#[test]
fn a_manifest_that_came_with_a_restored_instance_says_nothing_of_hypemans_next_snapshot() {
    // As `listed` was, restored by hypeman, grown, stopped and snapshotted again.
    let guest = listed();
    fs::remove_dir_all(guest.path().join("snapshots")).unwrap();
    fs::remove_file(guest.path().join("disks/a.raw")).unwrap();
    fs::write(guest.path().join("overlay.raw"), "x").unwrap();
    let other = "s2".parse().unwrap();
    let mut claims = Claims {
        id: &other,
        kind: Kind::Stopped,
        hypervisor: "qemu",
        is_registered: false,
        has_memory_elsewhere: false,
        packed_bytes: None,
    };
    assert_eq!(flaw(open(&guest), &claims).unwrap(), None);
    let own = id();
    claims.id = &own;
    assert!(flaw(open(&guest), &claims).unwrap().is_some());
}

#[test]
fn a_registered_vm_may_have_memory_and_no_disk() {
    let memory = guest(&["snapshots/snapshot-latest/memory"]);
    assert_eq!(judge(&memory, Kind::Standby, "qemu", true), None);
    assert!(judge(&memory, Kind::Stopped, "qemu", true).is_some());
    write_manifest(
        &memory,
        &json!({"version": 1, "state_dir": STATE, "disks": []}),
    );
    assert_eq!(judge(&memory, Kind::Standby, "qemu", false), None);
}

#[test]
fn the_disks_that_an_older_manifest_lists_must_be_there() {
    let files = ["disks/db.raw", "snapshots/snapshot-latest/memory"];
    let manifest = json!({"version": 1, "vmm_version": "7.2", "state_dir": STATE, "pause_ms": 1.5,
        "disks": [{"name": "d0", "source": "/srv/db.raw", "file": "disks/db.raw", "format": "raw"}]});
    let whole = guest(&files);
    write_manifest(&whole, &manifest);
    assert_eq!(judge(&whole, Kind::Standby, "qemu", true), None);
    fs::remove_file(whole.path().join("disks/db.raw")).unwrap();
    let flaw = judge(&whole, Kind::Standby, "qemu", true).unwrap();
    assert_eq!(flaw, "disks/db.raw is missing");
    fs::write(whole.path().join("disks/db.raw"), "").unwrap();
    let flaw = judge(&whole, Kind::Standby, "qemu", true).unwrap();
    assert_eq!(flaw, "disks/db.raw is empty");
}

/// A snapshot as it is made now, with all that a kind can have.
fn listed() -> TempDir {
    let guest = guest(&[
        "metadata.json",
        "qemu-config.json",
        "disks/a.raw:4096",
        "disks/b.raw:8192",
        "snapshots/snapshot-latest/memory:65536",
    ]);
    let mut manifest = Manifest::at_rest(Vec::new());
    manifest.complete(&id(), list(open(&guest)).unwrap());
    let _ = fs::remove_file(guest.path().join(FILE_NAME));
    super::manifest::write(&manifest, &Beneath::open(guest.path()).unwrap()).unwrap();
    guest
}

fn flaw_of(guest: &TempDir) -> Option<String> {
    judge(guest, Kind::Standby, "qemu", true)
}

#[test]
fn listed_files_are_compared_by_their_lengths() {
    let guest = listed();
    assert_eq!(flaw_of(&guest), None);
    let set_len = |path: &str, size| {
        let file = fs::OpenOptions::new()
            .write(true)
            .open(guest.path().join(path))
            .unwrap();
        file.set_len(size).unwrap();
    };
    // What was not listed, or is longer than it was, proves nothing.
    fs::remove_file(guest.path().join("metadata.json")).unwrap();
    set_len("disks/a.raw", 5000);
    assert_eq!(flaw_of(&guest), None);
    set_len("disks/b.raw", 8191);
    assert_eq!(
        flaw_of(&guest).unwrap(),
        "disks/b.raw is cut: 8191 of 8192 bytes"
    );
    fs::remove_dir_all(guest.path().join("snapshots")).unwrap();
    assert_eq!(
        flaw_of(&guest).unwrap(),
        "disks/b.raw is cut: 8191 of 8192 bytes, snapshots/snapshot-latest/memory is missing"
    );
    fs::remove_file(guest.path().join("disks/a.raw")).unwrap();
    fs::remove_file(guest.path().join("qemu-config.json")).unwrap();
    let flaw = flaw_of(&guest).unwrap();
    assert!(
        flaw.ends_with("qemu-config.json is missing, and 1 more"),
        "{flaw}"
    );
}

#[test]
fn memory_may_be_compressed_after_it_was_listed_and_unpacked_again() {
    let guest = listed();
    let memory = guest.path().join(STATE).join("memory");
    fs::write(memory.with_extension("zst"), "small").unwrap();
    assert_eq!(flaw_of(&guest), None);
    fs::remove_file(&memory).unwrap();
    assert_eq!(flaw_of(&guest), None);
    fs::write(memory.with_extension("zst"), "").unwrap();
    assert!(flaw_of(&guest).unwrap().contains("memory is missing"));

    // The copy of a standby that was compressed when it was copied.
    let mut manifest = Manifest::at_rest(Vec::new());
    fs::rename(memory.with_extension("zst"), memory.with_extension("lz4")).unwrap();
    fs::write(memory.with_extension("lz4"), "small").unwrap();
    manifest.complete(&id(), list(open(&guest)).unwrap());
    let _ = fs::remove_file(guest.path().join(FILE_NAME));
    super::manifest::write(&manifest, &Beneath::open(guest.path()).unwrap()).unwrap();
    assert_eq!(flaw_of(&guest), None);
    fs::write(memory.with_extension("lz4"), "s").unwrap();
    assert!(flaw_of(&guest).unwrap().contains("memory.lz4 is cut"));
    fs::rename(memory.with_extension("lz4"), &memory).unwrap();
    assert_eq!(flaw_of(&guest), None);
}

#[test]
fn compressed_memory_has_the_length_that_the_record_says() {
    let guest = listed();
    let memory = guest.path().join(STATE).join("memory");
    let id = id();
    let of = |packed_bytes| {
        let claims = Claims {
            id: &id,
            kind: Kind::Standby,
            hypervisor: "qemu",
            is_registered: true,
            has_memory_elsewhere: false,
            packed_bytes,
        };
        flaw(open(&guest), &claims).unwrap()
    };
    fs::write(memory.with_extension("zst"), "small").unwrap();
    // The raw one counts.
    assert_eq!(of(Some(4)), None);
    fs::remove_file(&memory).unwrap();
    assert_eq!(of(Some(5)), None);
    assert_eq!(of(None), None);
    for other in [4, 6] {
        let says = format!("memory.zst has 5 bytes, and had {other}");
        assert!(of(Some(other)).unwrap().ends_with(&says));
    }
}

#[test]
fn memory_that_hypeman_left_elsewhere_is_not_missing() {
    let guest = guest(&["overlay.raw", "snapshots/snapshot-latest/state"]);
    let id = id();
    let mut claims = Claims {
        id: &id,
        kind: Kind::Standby,
        hypervisor: "firecracker",
        is_registered: false,
        has_memory_elsewhere: false,
        packed_bytes: None,
    };
    assert!(flaw(open(&guest), &claims).unwrap().is_some());
    claims.has_memory_elsewhere = true;
    assert_eq!(flaw(open(&guest), &claims).unwrap(), None);
}

#[test]
fn compression_is_told_by_what_the_memory_is_called() {
    let of = |files: &[&str]| {
        let guest = guest(files);
        let mut manifest = Manifest::at_rest(Vec::new());
        manifest.complete(&id(), list(open(&guest)).unwrap());
        compression(&manifest)
    };
    let zstd = Compression {
        algorithm: "zstd",
        size_bytes: 5,
    };
    let lz4 = Compression {
        algorithm: "lz4",
        size_bytes: 6,
    };
    let latest = "snapshots/snapshot-latest/memory";
    assert_eq!(of(&[&format!("{latest}.zst:5")]), Some(zstd));
    assert_eq!(of(&[&format!("{latest}-ranges.lz4:6")]), Some(lz4));
    assert_eq!(of(&[&format!("{latest}.zst:5"), latest]), None);
    assert_eq!(of(&["memory.zst", "disks/memory.lz4"]), None);
}

#[test]
fn what_is_behind_a_symlink_is_not_in_the_snapshot() {
    let elsewhere = guest(&["a.raw:4096", "b.raw:8192", "memory:65536"]);
    let guest_of = |link: &str, target: &Path| {
        let guest = listed();
        let link = guest.path().join(link);
        if link.is_dir() {
            fs::remove_dir_all(&link).unwrap();
        } else {
            fs::remove_file(&link).unwrap();
        }
        symlink(target, &link).unwrap();
        guest
    };
    for (link, target, says) in [
        (
            "disks/a.raw",
            elsewhere.path().join("a.raw"),
            "disks/a.raw is a symlink",
        ),
        (
            "disks",
            elsewhere.path().to_owned(),
            "disks/a.raw is behind a symlink",
        ),
        (
            STATE,
            elsewhere.path().to_owned(),
            "memory is behind a symlink",
        ),
        (
            "snapshots",
            elsewhere.path().to_owned(),
            "memory is behind a symlink",
        ),
        (
            "hypeman-snap.json",
            elsewhere.path().join("a.raw"),
            "hypeman-snap.json: it is a symlink",
        ),
    ] {
        let flaw = flaw_of(&guest_of(link, &target)).unwrap();
        assert!(flaw.contains(says), "{link}: {flaw}");
    }
    // Nor is one taken for the disk of a snapshot that lists nothing.
    let unlisted = guest(&["metadata.json"]);
    symlink(
        elsewhere.path().join("a.raw"),
        unlisted.path().join("overlay.raw"),
    )
    .unwrap();
    symlink(elsewhere.path(), unlisted.path().join("disks")).unwrap();
    assert!(
        judge(&unlisted, Kind::Stopped, "qemu", false)
            .unwrap()
            .contains("no disk")
    );
}

#[test]
fn a_manifest_that_leaves_its_directory_is_refused() {
    let guest = guest(&["overlay.raw", "snapshots/snapshot-latest/memory"]);
    for path in [
        "../../etc/passwd",
        "/etc/passwd",
        "disks/../../x",
        "..",
        "",
        "a\0b",
    ] {
        for manifest in [
            json!({"version": 2, "disks": [], "files": [{"path": path, "size_bytes": 1}]}),
            json!({"version": 1, "disks": [{"source": "/x", "file": path}]}),
            json!({"version": 1, "disks": [], "state_dir": path}),
        ] {
            write_manifest(&guest, &manifest);
            let flaw = flaw_of(&guest).unwrap();
            assert!(flaw.contains("not a plain path"), "{manifest}: {flaw}");
        }
    }
    for (manifest, says) in [
        ("{".to_owned(), "can't be parsed"),
        (
            json!({"version": -1, "disks": []}).to_string(),
            "can't be parsed",
        ),
        (
            json!({"version": 2, "files": [{"path": "x", "size_bytes": -1}]}).to_string(),
            "can't be parsed",
        ),
        (" ".repeat((1 << 20) + 1), "longer than 1 MiB"),
    ] {
        fs::write(guest.path().join(FILE_NAME), &manifest).unwrap();
        let flaw = flaw_of(&guest).unwrap();
        assert!(flaw.contains(says), "{flaw}");
    }
    let files: Vec<Value> = (0..5000)
        .map(|_| json!({"path": "x", "size_bytes": 0}))
        .collect();
    write_manifest(&guest, &json!({"version": 2, "disks": [], "files": files}));
    assert!(flaw_of(&guest).unwrap().contains("5000 files"));
}

#[test]
fn a_directory_without_end_is_neither_listed_nor_searched_to_its_end() {
    let guest = tempfile::tempdir().unwrap();
    let deep: PathBuf = std::iter::repeat_n("d", 40).collect();
    fs::create_dir_all(guest.path().join(&deep)).unwrap();
    fs::write(guest.path().join(&deep).join("disk"), "x").unwrap();
    assert!(
        list(open(&guest))
            .unwrap_err()
            .to_string()
            .contains("deeper")
    );
    assert!(judge(&guest, Kind::Stopped, "qemu", false).is_some());
    for number in 0..2000 {
        fs::write(guest.path().join(format!("{number}.json")), "x").unwrap();
    }
    // Nobody knows what else is in it.
    assert_eq!(judge(&guest, Kind::Stopped, "qemu", false), None);
}

#[test]
fn what_can_not_be_in_a_manifest_is_not_listed() {
    let guest = guest(&["disk"]);
    symlink("/etc/passwd", guest.path().join("link")).unwrap();
    fs::write(guest.path().join(OsStr::from_bytes(b"\xff")), "x").unwrap();
    let paths: Vec<PathBuf> = list(open(&guest))
        .unwrap()
        .into_iter()
        .map(|it| it.path)
        .collect();
    assert_eq!(paths, [Path::new("disk")]);
}

/// A path as a hostile manifest may have it.
fn path() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z./\\\\\u{0}]{0,12}",
        Just("snapshots/snapshot-latest/memory".to_owned()),
        Just("overlay.raw".to_owned()),
        Just("a/".repeat(3000)),
        any::<String>(),
    ]
}

fn size() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        Just(json!(i64::MAX)),
        Just(json!(null)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_manifest_makes_it_panic_or_look_outside(
        version in any::<u32>(),
        files in prop::collection::vec((path(), size()), 0..6),
        disks in prop::collection::vec(path(), 0..4),
        state_dir in prop::option::of(path()),
        kind in prop_oneof![Just(Kind::Standby), Just(Kind::Stopped)],
    ) {
        let root = guest(&["guest/overlay.raw", "guest/snapshots/snapshot-latest/memory", "outside/memory"]);
        let files: Vec<Value> = files
            .into_iter()
            .map(|(path, size_bytes)| json!({"path": path, "size_bytes": size_bytes}))
            .collect();
        let disks: Vec<Value> = disks
            .into_iter()
            .map(|file| json!({"source": "/x", "file": file}))
            .collect();
        let manifest = json!({"version": version, "snapshot_id": "s1", "files": files, "disks": disks, "state_dir": state_dir});
        fs::write(root.path().join("guest").join(FILE_NAME), manifest.to_string()).unwrap();
        let guest = fs::File::open(root.path().join("guest")).unwrap();
        if let Ok(manifest) = super::manifest::read(&guest) {
            for entry in &manifest.files {
                prop_assert!(is_below_root(root.path(), &entry.path), "{:?}", entry.path);
            }
            for disk in &manifest.disks {
                prop_assert!(is_below_root(root.path(), &disk.file), "{:?}", disk.file);
            }
        }
        let id = id();
        let claims = Claims { id: &id, kind, hypervisor: "qemu", is_registered: true, has_memory_elsewhere: false, packed_bytes: None };
        let _ = flaw(&guest, &claims).unwrap();
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let root = guest(&["overlay.raw"]);
        fs::write(root.path().join(FILE_NAME), bytes).unwrap();
        let _ = judge(&root, Kind::Stopped, "qemu", false);
    }
}

/// Whether a path stays below the directory that it is relative to, by its own words.
fn is_below_root(root: &Path, path: &Path) -> bool {
    let joined = root.join(path);
    let Ok(below) = joined.strip_prefix(root) else {
        return false;
    };
    let mut parts = below.components();
    below != Path::new("") && parts.all(|part| matches!(part, std::path::Component::Normal(_)))
}
