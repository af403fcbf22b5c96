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

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::beneath::Beneath;
use super::copy;

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

/// Copies what is in `source` into `target`.
///
/// Regular files become files of mode 0600, executable for the owner if they were; directories 0700; symlinks are
/// copied as they are; sockets and FIFOs are left out, and so is whatever `skip` says, asked with the path relative to
/// `source`, and whatever vanishes meanwhile. Nothing is synced.
///
/// # Errors
/// When something can't be copied, such as a device or what stands in `target` already; with
/// an `Interrupted` one when `is_cancelled` says so. What was copied by then stays.
pub fn copy(
    source: &Beneath,
    target: &Beneath,
    skip: &dyn Fn(&Path) -> bool,
    is_cancelled: &dyn Fn() -> bool,
    progress: &dyn Fn(u64),
) -> Result<(), TreeError> {
    let tree = Tree {
        root: source.path(),
        skip,
        is_cancelled,
        progress,
    };
    tree.directory(source.as_fd(), target.as_fd(), Path::new(""), 0)
}

/// A copy of a directory under way.
struct Tree<'a> {
    root: &'a Path,
    skip: &'a dyn Fn(&Path) -> bool,
    is_cancelled: &'a dyn Fn() -> bool,
    progress: &'a dyn Fn(u64),
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
        &self,
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
        &self,
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

    fn file(&self, from: BorrowedFd<'_>, into: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
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
        copy::file(&source, &target, self.is_cancelled, self.progress)?;
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
mod tests;
