//! What goes through a VMM's own directory, and what is left alone: other people's directories, links, and whatever a
//! VMM that its guest has taken over makes of its own.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use super::place::{FILES_MAX, beside};
use super::*;

fn me() -> (u32, u32) {
    (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    )
}

fn place(dir: &Path) -> Place {
    Place {
        dir: rustix::fs::open(dir, OPEN | OFlags::DIRECTORY, Mode::empty()).unwrap(),
        path: dir.to_owned(),
        seen_as: PathBuf::from("/"),
    }
}

/// A handover with a directory of its own, as for a jailed VMM of this very user.
fn own_dir(dir: &Path) -> Handover {
    let state_dir = dir.join("state");
    fs::create_dir(&state_dir).unwrap();
    let place = place(dir);
    place.clear().unwrap();
    Handover {
        state_dir: Beneath::open(&state_dir).unwrap(),
        seen_as: place.seen_as.join(NAME).join(INNER),
        own: Some(OwnDir::create(place, me()).unwrap()),
    }
}

/// Where the VMM of [`own_dir`] writes.
fn inner(dir: &Path) -> PathBuf {
    dir.join(NAME).join(INNER)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn files_from_a_directory_of_its_own_end_in_the_state_directory() {
    let dir = tempfile::tempdir().unwrap();
    let handover = own_dir(dir.path());
    let words = handover.seen_as("memory").unwrap();
    assert_eq!(words, "/.hypeman-snap/saved-state/memory");
    assert_eq!(handover.seen_as("").unwrap(), "/.hypeman-snap/saved-state");
    assert_eq!(mode(&dir.path().join(NAME)), 0o711);
    assert_eq!(mode(&inner(dir.path())), 0o700);
    let written = inner(dir.path()).join("memory");
    fs::write(&written, "m").unwrap();
    fs::set_permissions(&written, Permissions::from_mode(0o644)).unwrap();
    handover.collect(&["memory"]).unwrap();
    let kept = dir.path().join("state/memory");
    assert_eq!(fs::read_to_string(&kept).unwrap(), "m");
    assert_eq!(mode(&kept), 0o600);
    assert!(!dir.path().join(NAME).exists());
}

#[test]
fn files_on_another_file_system_are_copied_over() {
    let dir = tempfile::tempdir().unwrap();
    let Ok(shm) = tempfile::tempdir_in("/dev/shm") else {
        support::skip::skipped("a handover between file systems: no /dev/shm");
        return;
    };
    let mut handover = own_dir(dir.path());
    handover.state_dir = Beneath::open(shm.path()).unwrap();
    fs::write(inner(dir.path()).join("memory"), "m").unwrap();
    handover.collect(&["memory"]).unwrap();
    let kept = shm.path().join("memory");
    assert_eq!(fs::read_to_string(&kept).unwrap(), "m");
    assert_eq!(mode(&kept), 0o600);
    assert!(!dir.path().join(NAME).exists());
}

#[test]
fn what_is_no_plain_file_of_the_vmms_is_not_taken() {
    type Trick = fn(&Path, &Path) -> io::Result<()>;
    let tricks: [(&str, Trick); 5] = [
        ("symbolic link", |secret, file| symlink(secret, file)),
        ("more than one name", |secret, file| {
            fs::hard_link(secret, file)
        }),
        ("no regular file", |_, file| fs::create_dir(file)),
        ("it is empty", |_, file| fs::write(file, "")),
        ("No such file", |_, _| Ok(())),
    ];
    for (reason, trick) in tricks {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        fs::write(&secret, "s").unwrap();
        fs::set_permissions(&secret, Permissions::from_mode(0o644)).unwrap();
        let handover = own_dir(dir.path());
        trick(&secret, &inner(dir.path()).join("memory")).unwrap();
        let VmmError::File { what, source } = handover.collect(&["memory"]).unwrap_err() else {
            panic!("{reason}");
        };
        assert!(source.to_string().contains(reason), "{what}: {source}");
        // Neither read nor given away, and its own name stays.
        assert_eq!(mode(&secret), 0o644, "{reason}");
        place(dir.path()).clear().unwrap();
        assert_eq!(fs::read_to_string(&secret).unwrap(), "s", "{reason}");
    }
}

#[test]
fn a_directory_that_was_swapped_is_neither_read_nor_removed() {
    let dir = tempfile::tempdir().unwrap();
    let others = dir.path().join("others");
    fs::create_dir_all(others.join(INNER)).unwrap();
    fs::write(others.join(INNER).join("memory"), "secret").unwrap();
    for by_symlink in [true, false] {
        let handover = own_dir(dir.path());
        fs::rename(dir.path().join(NAME), dir.path().join("moved")).unwrap();
        if by_symlink {
            symlink(&others, dir.path().join(NAME)).unwrap();
        } else {
            fs::set_permissions(&others, Permissions::from_mode(0o777)).unwrap();
            fs::rename(&others, dir.path().join(NAME)).unwrap();
        }
        handover.collect(&["memory"]).unwrap_err();
        let error = place(dir.path()).clear().unwrap_err();
        let VmmError::File { source, .. } = error else {
            panic!("{error}");
        };
        assert!(source.to_string().contains("not this tool's"), "{source}");
        let kept = dir.path().join(NAME).join(INNER).join("memory");
        assert_eq!(fs::read_to_string(kept).unwrap(), "secret");
        if by_symlink {
            fs::remove_file(dir.path().join(NAME)).unwrap();
            fs::remove_dir_all(dir.path().join("moved")).unwrap();
            fs::remove_dir(dir.path().join("state")).unwrap();
        }
    }
}

#[test]
fn what_stands_there_already_is_not_given_away() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(NAME)).unwrap();
    fs::write(dir.path().join(NAME).join("precious"), "x").unwrap();
    fs::set_permissions(dir.path().join(NAME), Permissions::from_mode(0o755)).unwrap();
    // This user's own, and yet something else: removed is only what is empty.
    place(dir.path()).clear().unwrap_err();
    OwnDir::create(place(dir.path()), me()).unwrap_err();
    assert!(dir.path().join(NAME).join("precious").exists());
    assert_eq!(mode(&dir.path().join(NAME)), 0o755);
}

#[test]
fn what_a_killed_run_left_is_removed_with_all_that_the_vmm_wrote() {
    let dir = tempfile::tempdir().unwrap();
    std::mem::forget(own_dir(dir.path()));
    for name in ["memory", "state", "more"] {
        fs::write(inner(dir.path()).join(name), name).unwrap();
    }
    symlink("/etc", inner(dir.path()).join("link")).unwrap();
    fs::create_dir(inner(dir.path()).join("empty")).unwrap();
    place(dir.path()).clear().unwrap();
    assert!(!dir.path().join(NAME).exists());
    place(dir.path()).clear().unwrap();
}

#[test]
fn directories_that_are_full_and_files_without_end_are_left_and_said() {
    let dir = tempfile::tempdir().unwrap();
    std::mem::forget(own_dir(dir.path()));
    fs::create_dir(inner(dir.path()).join("full")).unwrap();
    fs::write(inner(dir.path()).join("full/file"), "x").unwrap();
    place(dir.path()).clear().unwrap_err();
    assert!(inner(dir.path()).join("full/file").exists());
    fs::remove_dir_all(inner(dir.path()).join("full")).unwrap();
    for number in 0..=FILES_MAX {
        fs::write(inner(dir.path()).join(number.to_string()), "").unwrap();
    }
    let VmmError::File { source, .. } = place(dir.path()).clear().unwrap_err() else {
        panic!();
    };
    assert!(source.to_string().contains("more than"), "{source}");
}

#[test]
fn a_place_beside_a_socket_is_not_found_over_symlinks_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    fs::create_dir(path.join("real")).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(path.join("real/s")).unwrap();
    symlink("real", path.join("link")).unwrap();
    assert_eq!(
        beside(&path.join("link/s")).unwrap().path,
        path.join("link")
    );
    fs::write(path.join("real/file"), "").unwrap();
    assert!(beside(&path.join("real/file")).is_err());
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(path.join("link"), Some(65534), Some(65534)).unwrap();
        let error = beside(&path.join("link/s")).unwrap_err().to_string();
        assert!(error.contains("65534"), "{error}");
    }
}

#[test]
fn more_than_the_room_there_is_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let handover = own_dir(dir.path());
    handover.check_space(1).unwrap();
    let error = handover.check_space(u64::MAX).unwrap_err();
    assert!(error.to_string().contains("make room"), "{error}");
}
