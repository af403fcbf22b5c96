//! Directories: what arrives and how, what is left out, and hostile names.

use super::*;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use rustix::fs::{CWD, mknodat};

fn copy_all(source: &Path, target: &Path) -> Result<(), TreeError> {
    copy_but(source, target, &|_| false, &|| false)
}

/// As [`copy`], by path, into a directory that may be missing.
fn copy_but(
    source: &Path,
    target: &Path,
    skip: &dyn Fn(&Path) -> bool,
    is_cancelled: &dyn Fn() -> bool,
) -> Result<(), TreeError> {
    let failed = |error| TreeError {
        action: "open",
        path: source.to_owned(),
        source: error,
    };
    let source = Beneath::open(source).map_err(failed)?;
    if !target.exists() {
        std::os::unix::fs::DirBuilderExt::mode(&mut fs::DirBuilder::new(), 0o700)
            .create(target)
            .unwrap();
    }
    let target = Beneath::open(target).unwrap();
    copy(&source, &target, skip, is_cancelled, &|_| {})
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().mode() & 0o7777
}

#[test]
fn files_directories_and_links_arrive_private() {
    let root = tempfile::tempdir().unwrap();
    let (source, target) = (root.path().join("source"), root.path().join("target"));
    fs::create_dir_all(source.join("sub/deep")).unwrap();
    fs::write(source.join("sub/deep/disk"), "data").unwrap();
    fs::write(source.join("script"), "#!").unwrap();
    fs::set_permissions(source.join("script"), Permissions::from_mode(0o4755)).unwrap();
    fs::set_permissions(source.join("sub"), Permissions::from_mode(0o777)).unwrap();
    symlink("../elsewhere/../x", source.join("link")).unwrap();
    copy_all(&source, &target).unwrap();
    assert_eq!(fs::read(target.join("sub/deep/disk")).unwrap(), b"data");
    assert_eq!(
        fs::read_link(target.join("link")).unwrap(),
        Path::new("../elsewhere/../x")
    );
    assert_eq!(mode(&target), 0o700);
    assert_eq!(mode(&target.join("sub")), 0o700);
    assert_eq!(mode(&target.join("sub/deep/disk")), 0o600);
    assert_eq!(mode(&target.join("script")), 0o700);
}

#[test]
fn a_link_out_of_the_directory_is_copied_and_not_followed() {
    let root = tempfile::tempdir().unwrap();
    let (source, target) = (root.path().join("source"), root.path().join("target"));
    fs::create_dir(&source).unwrap();
    fs::write(root.path().join("secret"), "secret").unwrap();
    symlink(root.path().join("secret"), source.join("file")).unwrap();
    symlink(root.path(), source.join("directory")).unwrap();
    copy_all(&source, &target).unwrap();
    for name in ["file", "directory"] {
        assert!(target.join(name).is_symlink());
    }
}

#[test]
fn a_directory_that_is_a_link_is_not_copied() {
    let root = tempfile::tempdir().unwrap();
    let (source, target) = (root.path().join("source"), root.path().join("target"));
    symlink("/etc", &source).unwrap();
    assert!(copy_all(&source, &target).is_err());
    assert!(!target.exists());
}

#[test]
fn a_link_that_was_planted_in_the_target_is_not_written_through() {
    let root = tempfile::tempdir().unwrap();
    let (source, target) = (root.path().join("source"), root.path().join("target"));
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("sub/file"), "x").unwrap();
    fs::write(source.join("disk"), "x").unwrap();
    let victim = root.path().join("victim");
    for planted in ["sub", "disk"] {
        fs::create_dir_all(&victim).unwrap();
        fs::create_dir_all(&target).unwrap();
        symlink(&victim, target.join(planted)).unwrap();
        assert!(copy_all(&source, &target).is_err(), "{planted}");
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 0, "{planted}");
        fs::remove_dir_all(&target).unwrap();
    }
}

#[test]
fn sockets_and_fifos_are_left_out() {
    // A socket's path must be short.
    let root = tempfile::tempdir_in("/tmp").unwrap();
    let (source, target) = (root.path().join("source"), root.path().join("target"));
    fs::create_dir(&source).unwrap();
    let _listener = UnixListener::bind(source.join("ch.sock")).unwrap();
    mknodat(CWD, source.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    fs::write(source.join("disk"), "x").unwrap();
    copy_all(&source, &target).unwrap();
    let names: Vec<_> = fs::read_dir(&target)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["disk"]);
}

#[test]
fn a_device_is_an_error_that_names_it() {
    let root = tempfile::tempdir().unwrap();
    let (source, target) = (root.path().join("source"), root.path().join("target"));
    fs::create_dir(&source).unwrap();
    let device = source.join("null");
    let null = rustix::fs::makedev(1, 3);
    if mknodat(CWD, &device, FileType::CharacterDevice, Mode::RUSR, null).is_err() {
        let _ = writeln!(io::stderr(), "SKIPPED: only root can make a device");
        return;
    }
    let error = copy_all(&source, &target).unwrap_err();
    assert!(error.to_string().contains("source/null"), "{error}");
    assert!(error.source.to_string().contains("device"), "{error:?}");
}

#[test]
fn what_is_to_be_skipped_is_asked_by_its_relative_path() {
    let root = tempfile::tempdir().unwrap();
    let (source, target) = (root.path().join("source"), root.path().join("target"));
    fs::create_dir_all(source.join("logs")).unwrap();
    fs::create_dir_all(source.join("keep/logs")).unwrap();
    fs::write(source.join("logs/app.log"), "x").unwrap();
    fs::write(source.join("keep/logs/app.log"), "x").unwrap();
    copy_but(&source, &target, &|path| path == Path::new("logs"), &|| {
        false
    })
    .unwrap();
    assert!(!target.join("logs").exists());
    assert!(target.join("keep/logs/app.log").exists());
}

#[test]
fn a_cancelled_copy_says_so() {
    let root = tempfile::tempdir().unwrap();
    let (source, target) = (root.path().join("source"), root.path().join("target"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("disk"), "x").unwrap();
    let error = copy_but(&source, &target, &|_| false, &|| true).unwrap_err();
    assert_eq!(error.source.kind(), io::ErrorKind::Interrupted, "{error:?}");
}

#[test]
fn what_vanishes_while_it_is_copied_is_left_out() {
    let root = tempfile::tempdir().unwrap();
    let (source, target) = (root.path().join("source"), root.path().join("target"));
    fs::create_dir_all(source.join("directory")).unwrap();
    fs::write(source.join("file"), "x").unwrap();
    symlink("x", source.join("link")).unwrap();
    // The last moment before each entry is looked at.
    let vanish = |path: &Path| {
        let path = source.join(path);
        if path.is_dir() {
            fs::remove_dir(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
        false
    };
    copy_but(&source, &target, &vanish, &|| false).unwrap();
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
}

#[test]
fn a_target_that_vanishes_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let (source, target) = (root.path().join("source"), root.path().join("target"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "x").unwrap();
    let vanish = |_: &Path| {
        fs::remove_dir(&target).unwrap();
        false
    };
    assert!(copy_but(&source, &target, &vanish, &|| false).is_err());
}

#[test]
fn endless_nesting_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let source = root.path().join("source");
    let deep: PathBuf = std::iter::repeat_n("d", DEPTH_MAX + 1).collect();
    fs::create_dir_all(source.join(deep)).unwrap();
    let error = copy_all(&source, &root.path().join("target")).unwrap_err();
    assert!(error.source.to_string().contains("nested"), "{error:?}");
}

#[test]
fn what_was_swapped_since_it_was_looked_at_is_neither_followed_nor_waited_for() {
    let root = tempfile::tempdir().unwrap();
    let (source, target) = (root.path().join("source"), root.path().join("target"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&target).unwrap();
    fs::write(root.path().join("secret"), "secret").unwrap();
    symlink(root.path().join("secret"), source.join("link")).unwrap();
    symlink(root.path(), source.join("directory")).unwrap();
    mknodat(CWD, source.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let (from, into) = (
        open_dir(CWD, &source).unwrap(),
        open_dir(CWD, &target).unwrap(),
    );
    let tree = Tree {
        root: &source,
        skip: &|_| false,
        is_cancelled: &|| false,
        progress: &|_| {},
    };
    for name in ["link", "fifo"] {
        let copied = tree.file(from.as_fd(), into.as_fd(), OsStr::new(name));
        assert!(copied.is_err(), "{name}");
    }
    assert!(open_dir(&from, "directory").is_err());
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
}
