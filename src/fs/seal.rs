//! What makes a finished directory fit to be published: private and durable, down to its last file.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};

use super::beneath::Beneath;
use super::tree::{OPEN, TreeError, open_dir, private_file_mode};

/// Makes `directory` and everything below it private (files 0600, executable for the owner if they were, directories
/// 0700) and durable. Symlinks are left as they are.
///
/// # Errors
/// When something can't be opened, changed or synced.
pub fn seal(directory: &Path) -> Result<(), TreeError> {
    let opened = open_dir(CWD, directory).map_err(|cause| error(directory, cause))?;
    below(&File::from(opened), directory, None)
}

/// As [`seal`], of a directory that is held; everything but symlinks becomes the `owner`'s, a user and a group, if one is
/// given.
///
/// # Errors
/// As [`seal`].
pub fn seal_for(directory: &Beneath, owner: Option<(u32, u32)>) -> Result<(), TreeError> {
    let path = directory.path();
    let opened = open_dir(directory, ".").map_err(|cause| error(path, cause))?;
    below(&File::from(opened), path, owner)
}

fn error(path: &Path, source: impl Into<io::Error>) -> TreeError {
    TreeError {
        action: "make private and durable",
        path: path.to_owned(),
        source: source.into(),
    }
}

fn below(directory: &File, path: &Path, owner: Option<(u32, u32)>) -> Result<(), TreeError> {
    let entries = Dir::read_from(directory).map_err(|cause| error(path, cause))?;
    for entry in entries {
        let entry = entry.map_err(|cause| error(path, cause))?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let path = path.join(name);
        let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|cause| error(&path, cause))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let opened = open_dir(directory, name).map_err(|cause| error(&path, cause))?;
                below(&File::from(opened), &path, owner)?;
            }
            FileType::RegularFile => {
                rustix::fs::openat(directory, name, OPEN | OFlags::RDONLY, Mode::empty())
                    .map_err(io::Error::from)
                    .and_then(|opened| {
                        one(&File::from(opened), private_file_mode(stat.st_mode), owner)
                    })
                    .map_err(|cause| error(&path, cause))?;
            }
            FileType::Symlink
            | FileType::Socket
            | FileType::Fifo
            | FileType::BlockDevice
            | FileType::CharacterDevice
            | FileType::Unknown => {}
        }
    }
    one(directory, 0o700, owner).map_err(|cause| error(path, cause))
}

fn one(file: &File, mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    if let Some((user, group)) = owner {
        std::os::unix::fs::fchown(file, Some(user), Some(group))?;
    }
    if file.metadata()?.mode() & 0o7777 != mode {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn mode(path: &Path) -> u32 {
        path.symlink_metadata().unwrap().mode() & 0o7777
    }

    #[test]
    fn everything_below_becomes_private_and_keeps_its_content() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("guest");
        fs::create_dir_all(directory.join("state")).unwrap();
        for (name, mode) in [("state/memory", 0o644), ("state/run", 0o755)] {
            fs::write(directory.join(name), "x").unwrap();
            fs::set_permissions(directory.join(name), Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(directory.join("state"), Permissions::from_mode(0o755)).unwrap();
        seal(&directory).unwrap();
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&directory.join("state")), 0o700);
        assert_eq!(mode(&directory.join("state/memory")), 0o600);
        assert_eq!(mode(&directory.join("state/run")), 0o700);
        assert_eq!(fs::read(directory.join("state/memory")).unwrap(), b"x");
    }

    #[test]
    fn what_a_link_points_to_keeps_its_mode() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("guest");
        fs::create_dir(&directory).unwrap();
        let outside = root.path().join("outside");
        fs::write(&outside, "x").unwrap();
        fs::set_permissions(&outside, Permissions::from_mode(0o644)).unwrap();
        symlink(&outside, directory.join("link")).unwrap();
        symlink(root.path().join("nowhere"), directory.join("dangling")).unwrap();
        seal(&directory).unwrap();
        assert_eq!(mode(&outside), 0o644);
    }

    #[test]
    fn a_directory_that_is_missing_is_an_error_that_names_it() {
        let root = tempfile::tempdir().unwrap();
        let error = seal(&root.path().join("missing")).unwrap_err();
        assert!(error.to_string().contains("missing"), "{error}");
    }
}
