//! Copies of whole directories.
//!
//! Everything is opened relative to its directory and without following symlinks, so that whoever can write to the
//! source (a VMM that its guest has taken over) can't make a copy read or write anything else by swapping a file for a
//! link meanwhile.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::copy::{self, Copied};

/// How deep directories may be nested. Each level holds two open files.
const DEPTH_MAX: usize = 64;

/// For everything that is opened: nothing is followed, and a FIFO that was swapped in does not block.
pub(super) const OPEN: OFlags = OFlags::CLOEXEC
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK);

/// Something in a directory could not be copied, or could not be made private and durable.
#[derive(Debug, thiserror::Error)]
#[error("can't {action} {}", path.display())]
pub struct TreeError {
    pub(super) action: &'static str,
    pub(super) path: PathBuf,
    #[source]
    pub(super) source: io::Error,
}

impl TreeError {
    /// Whether the work was cancelled rather than impossible.
    pub fn is_cancelled(&self) -> bool {
        self.source.kind() == io::ErrorKind::Interrupted
    }
}

/// What a copy of a directory did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Regular files that share their blocks with the source.
    pub reflinked_files: u64,
    /// Regular files whose data was read and written.
    pub copied_files: u64,
    /// Bytes of data that were read and written.
    pub data_bytes: u64,
}

/// Copies what is in `source` into `target`, which is created 0700 if it is missing.
///
/// Regular files become files of mode 0600, executable for the owner if they were; directories 0700; symlinks are
/// copied as they are; sockets and FIFOs are left out, and so is whatever `skip` says, asked with the path relative to
/// `source`, and whatever vanishes meanwhile. Nothing is synced.
///
/// # Errors
/// When something can't be copied, such as a device or what stands in `target` already; with
/// [`TreeError::is_cancelled`] when `is_cancelled` says so. What was copied by then stays.
pub fn copy(
    source: &Path,
    target: &Path,
    skip: &dyn Fn(&Path) -> bool,
    is_cancelled: &dyn Fn() -> bool,
    progress: &dyn Fn(u64),
) -> Result<Totals, TreeError> {
    let mut tree = Tree {
        root: source,
        skip,
        is_cancelled,
        progress,
        totals: Totals::default(),
    };
    let from = open_dir(CWD, source).map_err(|error| tree.error(Path::new(""), error))?;
    let into = make_dir(CWD, target).map_err(|error| TreeError {
        action: "create",
        path: target.to_owned(),
        source: error.into(),
    })?;
    tree.directory(from.as_fd(), into.as_fd(), Path::new(""), 0)?;
    Ok(tree.totals)
}

/// A copy of a directory under way.
struct Tree<'a> {
    root: &'a Path,
    skip: &'a dyn Fn(&Path) -> bool,
    is_cancelled: &'a dyn Fn() -> bool,
    progress: &'a dyn Fn(u64),
    totals: Totals,
}

impl Tree<'_> {
    fn error(&self, relative: &Path, source: impl Into<io::Error>) -> TreeError {
        TreeError {
            action: "copy",
            path: if relative.as_os_str().is_empty() {
                self.root.to_owned()
            } else {
                self.root.join(relative)
            },
            source: source.into(),
        }
    }

    fn directory(
        &mut self,
        from: BorrowedFd<'_>,
        into: BorrowedFd<'_>,
        relative: &Path,
        depth: usize,
    ) -> Result<(), TreeError> {
        if depth > DEPTH_MAX {
            let deep = io::Error::other(format!("it is nested deeper than {DEPTH_MAX} levels"));
            return Err(self.error(relative, deep));
        }
        let entries = Dir::read_from(from).map_err(|error| self.error(relative, error))?;
        for entry in entries {
            let entry = entry.map_err(|error| self.error(relative, error))?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let path = relative.join(name);
            if (self.skip)(&path) {
                continue;
            }
            self.entry(from, into, name, &path, depth)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        into: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        depth: usize,
    ) -> Result<(), TreeError> {
        if (self.is_cancelled)() {
            return Err(self.error(path, io::ErrorKind::Interrupted));
        }
        let stat = if_there(rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW));
        let Some(stat) = stat.map_err(|error| self.error(path, error))? else {
            return Ok(());
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let done = match kind {
            FileType::RegularFile => self.file(from, into, name),
            FileType::Directory => {
                let opened = if_there(open_dir(from, name));
                let Some(from) = opened.map_err(|error| self.error(path, error))? else {
                    return Ok(());
                };
                let into = make_dir(into, name).map_err(|error| self.error(path, error))?;
                return self.directory(from.as_fd(), into.as_fd(), path, depth + 1);
            }
            FileType::Symlink => symlink(from, into, name),
            FileType::Socket | FileType::Fifo => Ok(()),
            FileType::BlockDevice | FileType::CharacterDevice | FileType::Unknown => {
                Err(io::Error::other(
                    "it is a device, and a snapshot holds files, directories and symlinks only",
                ))
            }
        };
        done.map_err(|error| self.error(path, error))
    }

    fn file(&mut self, from: BorrowedFd<'_>, into: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        let opened = rustix::fs::openat(from, name, OPEN | OFlags::RDONLY, Mode::empty());
        let Some(source) = if_there(opened)?.map(File::from) else {
            return Ok(());
        };
        let metadata = source.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other(
                "it was a regular file a moment ago and is none any more",
            ));
        }
        let target = File::from(rustix::fs::openat(
            into,
            name,
            OPEN | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
            Mode::RUSR | Mode::WUSR,
        )?);
        match copy::file(&source, &target, self.is_cancelled, self.progress)? {
            Copied::Reflinked => self.totals.reflinked_files += 1,
            Copied::Sparsely { data_bytes } => {
                self.totals.copied_files += 1;
                self.totals.data_bytes += data_bytes;
            }
        }
        target.set_permissions(Permissions::from_mode(private_file_mode(metadata.mode())))
    }
}

fn symlink(from: BorrowedFd<'_>, into: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    if let Some(link) = if_there(rustix::fs::readlinkat(from, name, Vec::new()))? {
        rustix::fs::symlinkat(link, into, name)?;
    }
    Ok(())
}

/// `None` where the source vanished: a moment later it would not have been found at all. Only for the source: a target
/// that vanishes is an error.
fn if_there<T>(result: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Guest memory and disks are secret: nothing for group and others. That a file can be executed is part of its content.
pub(super) const fn private_file_mode(mode: u32) -> u32 {
    0o600 | (mode & 0o100)
}

pub(super) fn open_dir(parent: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(
        parent,
        name,
        OPEN | OFlags::RDONLY | OFlags::DIRECTORY,
        Mode::empty(),
    )
}

/// Opens the directory `name`, which is created 0700 if it is missing.
fn make_dir(
    parent: impl AsFd + Copy,
    name: impl rustix::path::Arg + Copy,
) -> Result<OwnedFd, Errno> {
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => open_dir(parent, name),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use rustix::fs::mknodat;

    fn copy_all(source: &Path, target: &Path) -> Result<Totals, TreeError> {
        copy(source, target, &|_| false, &|| false, &|_| {})
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
        let totals = copy_all(&source, &target).unwrap();
        assert_eq!(totals.copied_files + totals.reflinked_files, 2);
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
            println!("skipped: only root can make a device");
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
        copy(
            &source,
            &target,
            &|path| path == Path::new("logs"),
            &|| false,
            &|_| {},
        )
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
        let error = copy(&source, &target, &|_| false, &|| true, &|_| {}).unwrap_err();
        assert!(error.is_cancelled(), "{error:?}");
        assert!(
            !copy_all(&root.path().join("missing"), &target)
                .unwrap_err()
                .is_cancelled()
        );
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
        assert_eq!(
            copy(&source, &target, &vanish, &|| false, &|_| {}).unwrap(),
            Totals::default()
        );
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
        assert!(copy(&source, &target, &vanish, &|| false, &|_| {}).is_err());
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
}
