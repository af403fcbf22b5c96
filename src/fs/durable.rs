//! Writes that are either not there or whole, whatever is killed: temporary file, fsync, rename, fsync of the directory.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// Replaces `path` by `bytes`, with the permission bits `mode`.
///
/// The temporary file stands beside it as `.NAME.tmp`. Its name is fixed, so that what a killed writer left is taken
/// over by the next one instead of piling up; therefore writers of one path must hold a lock.
///
/// # Errors
/// When any step fails; then `path` is as it was, except that it may hold `bytes` already when only the last fsync
/// failed.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    write_as(path, bytes, mode, None)
}

/// Like [`write()`], but a regular file that stands there keeps its permission bits and, where this process may give
/// files away, its owner and group: whoever else reads or writes it still can. A new one gets `new_mode`.
///
/// # Errors
/// When any step fails; then `path` is as it was.
pub fn replace(path: &Path, bytes: &[u8], new_mode: u32) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(old) if old.is_file() => write_as(path, bytes, old.mode() & 0o777, Some(&old)),
        _ => write_as(path, bytes, new_mode, None),
    }
}

fn write_as(path: &Path, bytes: &[u8], mode: u32, owner: Option<&Metadata>) -> io::Result<()> {
    let (directory, temporary) = beside(path)?;
    // A left-over may be anything, also a link that somebody planted: it is removed, never written through.
    remove_if_there(&temporary)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        // Nobody else's before the owner is set.
        .mode(mode & 0o600)
        .open(&temporary)?;
    let written = file
        .write_all(bytes)
        .and_then(|()| owner.map_or(Ok(()), |owner| give_to(&file, owner)))
        // The umask may have taken bits away at creation.
        .and_then(|()| file.set_permissions(PermissionsExt::from_mode(mode)))
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&temporary, path));
    if let Err(error) = written {
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    sync_dir(directory)
}

/// Gives the file to the owner and group that `old` has, unless it is theirs already or only root could do so.
fn give_to(file: &File, old: &Metadata) -> io::Result<()> {
    let new = file.metadata()?;
    if (new.uid(), new.gid()) == (old.uid(), old.gid()) {
        return Ok(());
    }
    match fchown(file, Some(old.uid()), Some(old.gid())) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result,
    }
}

/// Makes the entries of `directory` durable.
///
/// # Errors
/// When it can't be opened or synced.
pub fn sync_dir(directory: &Path) -> io::Result<()> {
    match File::open(directory)?.sync_all() {
        // Some network file systems can't sync a directory and say so (fsync(2)); there is nothing more to be done.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        result => result,
    }
}

/// Creates `directory` and what is missing above it, 0700, durably. One that is there is left as it is.
///
/// # Errors
/// When it can't be created, or when something that is no directory stands there.
pub fn create_dir(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = directory.parent().filter(|p| !p.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_dir(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => parent.map_or(Ok(()), sync_dir),
        // Another run was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes the file `path` durably and says whether it was there.
///
/// # Errors
/// When it is there and can't be removed.
pub fn remove(path: &Path) -> io::Result<bool> {
    let was_there = remove_if_there(path)?;
    if was_there {
        sync_dir(beside(path)?.0)?;
    }
    Ok(was_there)
}

fn remove_if_there(path: &Path) -> io::Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The directory of `path`, and the temporary file's path in it.
fn beside(path: &Path) -> io::Result<(&Path, PathBuf)> {
    let invalid = || {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} names no file in a directory", path.display()),
        )
    };
    let directory = path.parent().ok_or_else(invalid)?;
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().ok_or_else(invalid)?);
    name.push(".tmp");
    Ok((directory, directory.join(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn mode(path: &Path) -> u32 {
        path.symlink_metadata().unwrap().mode() & 0o7777
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_and_nothing_stays_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "a much longer content than the new one").unwrap();
        write(&path, b"new", 0o640).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(mode(&path), 0o640);
        assert_eq!(names(directory.path()), ["file"]);
    }

    #[test]
    fn a_link_is_replaced_and_not_written_through() {
        let directory = tempfile::tempdir().unwrap();
        let victim = directory.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let path = directory.path().join("file");
        for planted in ["file", ".file.tmp"] {
            symlink(&victim, directory.path().join(planted)).unwrap();
            write(&path, b"new", 0o600).unwrap();
            assert_eq!(fs::read(&victim).unwrap(), b"precious", "{planted}");
            assert!(!path.is_symlink());
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_failed_write_leaves_the_file_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        // Nothing can be renamed over a directory.
        let path = directory.path().join("taken");
        fs::create_dir(&path).unwrap();
        assert!(write(&path, b"new", 0o600).is_err());
        assert_eq!(names(directory.path()), ["taken"]);
        assert!(write(Path::new("/"), b"new", 0o600).is_err());
        assert!(write(&directory.path().join("missing/file"), b"new", 0o600).is_err());
    }

    #[test]
    fn replacing_keeps_the_mode_and_a_new_file_gets_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        replace(&path, b"one", 0o600).unwrap();
        assert_eq!(mode(&path), 0o600);
        fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        replace(&path, b"two", 0o600).unwrap();
        assert_eq!(mode(&path), 0o644);
        assert_eq!(fs::read(&path).unwrap(), b"two");
    }

    #[test]
    fn directories_are_created_private_and_found_ones_left_as_they_are() {
        let root = tempfile::tempdir().unwrap();
        let found = root.path().join("found");
        fs::create_dir(&found).unwrap();
        fs::set_permissions(&found, PermissionsExt::from_mode(0o755)).unwrap();
        let deep = found.join("a/b");
        create_dir(&deep).unwrap();
        create_dir(&deep).unwrap();
        assert_eq!(mode(&deep), 0o700);
        assert_eq!(mode(&found.join("a")), 0o700);
        assert_eq!(mode(&found), 0o755);
        fs::write(root.path().join("file"), "x").unwrap();
        assert!(create_dir(&root.path().join("file")).is_err());
        assert!(create_dir(&root.path().join("file/below")).is_err());
    }

    #[test]
    fn removing_says_whether_it_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "x").unwrap();
        assert!(remove(&path).unwrap());
        assert!(!remove(&path).unwrap());
        assert!(remove(directory.path()).is_err());
    }
}
