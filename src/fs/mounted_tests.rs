//! The copies on file systems of the tests' own: real reflinks, holes as XFS, btrfs and tmpfs tell them, a block device
//! that tells none, a disk that fills up. Says so and tests nothing where this user can't mount.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use support::filesystems::{Kind, Mount};
use support::wait::wait_until;

use super::beneath::Beneath;
use super::copy;
use super::{seal, shared, space, tree};

fn never() -> bool {
    false
}

fn quiet(_: u64) {}

fn held(directory: &Path) -> Beneath {
    Beneath::open(directory).unwrap()
}

/// A file of 32 MiB with 5 MiB of data in its middle.
fn disk(path: &Path) -> File {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .unwrap();
    file.set_len(32 << 20).unwrap();
    file.write_all_at(&vec![7; 5 << 20], 10 << 20).unwrap();
    file.sync_all().unwrap();
    file
}

fn new_file(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .unwrap()
}

fn occupied(file: &File) -> u64 {
    file.sync_all().unwrap();
    file.metadata().unwrap().blocks() * 512
}

#[test]
fn what_files_share_is_told_where_they_can() {
    let elsewhere = tempfile::tempdir().unwrap();
    let alone = disk(&elsewhere.path().join("alone"));
    assert!(matches!(shared::bytes(&alone).unwrap(), None | Some(0)));
    for (kind, size_mib) in [(Kind::Xfs, 300), (Kind::Btrfs, 128)] {
        let Some(mount) = Mount::create(kind, size_mib) else {
            continue;
        };
        let source = disk(&mount.path().join("source"));
        let directory = held(&mount.path());
        assert!(copy::can_share(&source, &directory).unwrap(), "{kind:?}");
        assert!(!copy::can_share(&alone, &directory).unwrap(), "{kind:?}");
        assert_eq!(shared::bytes(&source).unwrap(), Some(0), "{kind:?}");
        let target = new_file(&mount.path().join("target"));
        copy::reflink(&source, &target).unwrap();
        for file in [&source, &target] {
            assert_eq!(shared::bytes(file).unwrap(), Some(5 << 20), "{kind:?}");
        }
        target.write_all_at(&vec![8; 1 << 20], 10 << 20).unwrap();
        target.sync_all().unwrap();
        assert_eq!(shared::bytes(&target).unwrap(), Some(4 << 20), "{kind:?}");
    }
}

#[test]
fn a_trial_without_names_tells_reflinks_from_copies() {
    let elsewhere = tempfile::tempdir().unwrap();
    for (kind, size_mib) in [(Kind::Xfs, 300), (Kind::Btrfs, 128)] {
        let Some(mount) = Mount::create(kind, size_mib) else {
            continue;
        };
        let can = |target: &Path| copy::can_reflink(&mount.path(), target).unwrap();
        assert!(can(&mount.path()), "{kind:?}");
        assert!(!can(elsewhere.path()), "{kind:?}");
    }
}

#[test]
fn a_reflink_shares_its_blocks_and_goes_its_own_way() {
    for (kind, size_mib) in [(Kind::Xfs, 300), (Kind::Btrfs, 128)] {
        let Some(mount) = Mount::create(kind, size_mib) else {
            continue;
        };
        let source = disk(&mount.path().join("disk"));
        assert!(
            copy::try_reflink(&source, &held(&mount.path()))
                .unwrap()
                .is_some(),
            "{kind:?}"
        );
        let free = space::free_bytes(&mount.path()).unwrap();
        let copies: Vec<File> = (0..10)
            .map(|number| new_file(&mount.path().join(format!("copy-{number}"))))
            .collect();
        for target in &copies {
            let copied = copy::file(&source, target, &never, &quiet).unwrap();
            assert_eq!(copied, 0, "{kind:?}");
            target.sync_all().unwrap();
        }
        let taken = free - space::free_bytes(&mount.path()).unwrap();
        assert!(
            taken < 10 << 20,
            "{kind:?}: ten copies of 5 MiB took {taken} bytes"
        );
        // What is written to the source later does not reach a copy.
        source.write_all_at(&[9; 4096], 10 << 20).unwrap();
        let mut byte = [0];
        copies[0].read_exact_at(&mut byte, 10 << 20).unwrap();
        assert_eq!(byte, [7], "{kind:?}");
        assert_eq!(copies[0].metadata().unwrap().len(), 32 << 20);
    }
}

#[test]
fn a_tree_on_a_reflink_file_system_copies_no_data() {
    for (kind, size_mib) in [(Kind::Xfs, 300), (Kind::Btrfs, 128)] {
        let Some(mount) = Mount::create(kind, size_mib) else {
            continue;
        };
        let (source, target) = (mount.path().join("source"), mount.path().join("target"));
        fs::create_dir_all(source.join("sub")).unwrap();
        disk(&source.join("overlay.raw"));
        disk(&source.join("sub/volume.raw"));
        fs::create_dir(&target).unwrap();
        let (from, into) = (held(&source), held(&target));
        let free = space::free_bytes(&mount.path()).unwrap();
        tree::copy(&from, &into, &|_| false, &never, &quiet).unwrap();
        seal::seal(&target).unwrap();
        let taken = free.saturating_sub(space::free_bytes(&mount.path()).unwrap());
        assert!(taken < 2 << 20, "{kind:?}: {taken}");
        assert_eq!(space::apparent_size(&target).unwrap(), 64 << 20);
        let occupied = space::disk_usage(&target).unwrap();
        assert!(
            (10 << 20..12 << 20).contains(&occupied),
            "{kind:?}: {occupied}"
        );
    }
}

#[test]
fn a_copy_from_one_file_system_to_another_stays_sparse() {
    let directory = tempfile::tempdir().unwrap();
    let here = disk(&directory.path().join("disk"));
    for (kind, size_mib) in [(Kind::Xfs, 300), (Kind::Btrfs, 128), (Kind::Tmpfs, 64)] {
        let Some(mount) = Mount::create(kind, size_mib) else {
            continue;
        };
        assert!(
            copy::try_reflink(&here, &held(&mount.path()))
                .unwrap()
                .is_none(),
            "{kind:?}"
        );
        let there = new_file(&mount.path().join("there"));
        let back = new_file(&directory.path().join(format!("back-{kind:?}")));
        for (source, target) in [(&here, &there), (&there, &back)] {
            let copied = copy::file(source, target, &never, &quiet).unwrap();
            assert!((1..=6 << 20).contains(&copied), "{kind:?}: {copied}");
            assert!(occupied(target) <= 6 << 20, "{kind:?}");
        }
        assert_eq!(
            fs::read(directory.path().join("disk")).unwrap(),
            fs::read(directory.path().join(format!("back-{kind:?}"))).unwrap()
        );
    }
}

#[test]
fn a_full_disk_is_an_error_and_leaves_its_file_system_usable() {
    let Some(mount) = Mount::create(Kind::Tmpfs, 4) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let source = disk(&directory.path().join("disk"));
    let path = mount.path().join("copy");
    let target = new_file(&path);
    let error = copy::file(&source, &target, &never, &quiet).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
    drop(target);
    fs::remove_file(&path).unwrap();
    // A child that another test starts holds every file of this process until it has become another program.
    wait_until("the file's room is free again", || {
        space::free_bytes(&mount.path()).unwrap() > 3 << 20
    });
}

/// A loop device over a file.
struct LoopDevice(PathBuf);

impl LoopDevice {
    fn over(image: &Path) -> Option<Self> {
        let output = Command::new("/usr/sbin/losetup")
            .args(["--find", "--show"])
            .arg(image)
            .output()
            .ok()
            .filter(|output| output.status.success());
        let Some(output) = output else {
            let _ = writeln!(io::stderr(), "SKIPPED: no loop device to copy from");
            return None;
        };
        let device = String::from_utf8(output.stdout).unwrap();
        Some(Self(PathBuf::from(device.trim())))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("/usr/sbin/losetup")
            .arg("--detach")
            .arg(&self.0)
            .status();
    }
}

#[test]
fn a_block_device_becomes_a_sparse_file_of_its_size() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    disk(&image);
    let Some(device) = LoopDevice::over(&image) else {
        return;
    };
    let source = File::open(&device.0).unwrap();
    let path = directory.path().join("copy");
    let target = new_file(&path);
    assert!(
        copy::try_reflink(&source, &held(directory.path()))
            .unwrap()
            .is_none()
    );
    let copied = copy::file(&source, &target, &never, &quiet).unwrap();
    assert_eq!(copied, 5 << 20);
    assert!(occupied(&target) <= 6 << 20);
    assert!(fs::read(&image).unwrap() == fs::read(&path).unwrap());
}
