//! Goes down a path one name at a time, so that each symlink on it is judged before it is followed, and holds what is at
//! its end. Opens nothing.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// So many symlinks may be on one way, as for the kernel (path_resolution(7)).
const SYMLINKS_MAX: u32 = 40;
/// To hold something without opening it, nor what a symlink leads to.
const HOLD: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A name on the way, before anything is done with it.
pub struct Step<'a> {
    /// The directory that it is in, as it was reached; for messages.
    pub directory: &'a Path,
    /// That directory.
    pub directory_stat: &'a Stat,
    /// The name.
    pub name: &'a OsStr,
    /// What is there.
    pub stat: &'a Stat,
}

impl Step<'_> {
    /// Whether the name is a symlink.
    pub fn is_symlink(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode).is_symlink()
    }
}

/// Holds what the absolute `path` leads to, symlinks followed that `judge` lets pass. It is asked for every name.
///
/// # Errors
/// When there is nothing, there are too many symlinks, the path is not absolute, or as `judge` says.
pub fn walk(
    path: &Path,
    mut judge: impl FnMut(&Step<'_>) -> io::Result<()>,
) -> io::Result<OwnedFd> {
    if !path.is_absolute() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no absolute path",
        ));
    }
    let root = || rustix::fs::open("/", HOLD | OFlags::DIRECTORY, Mode::empty());
    let mut names = names(path);
    let mut at = root()?;
    let mut directory = PathBuf::from("/");
    let mut symlinks = 0;
    while let Some(name) = names.pop() {
        let next = rustix::fs::openat(&at, name.as_os_str(), HOLD, Mode::empty())?;
        let step = Step {
            directory: &directory,
            directory_stat: &rustix::fs::fstat(&at)?,
            name: &name,
            stat: &rustix::fs::fstat(&next)?,
        };
        judge(&step)?;
        if !step.is_symlink() {
            at = next;
            directory.push(name);
            continue;
        }
        symlinks += 1;
        if symlinks > SYMLINKS_MAX {
            return Err(Errno::LOOP.into());
        }
        let target = rustix::fs::readlinkat(&next, "", Vec::new())?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        if target.is_absolute() {
            at = root()?;
            directory = PathBuf::from("/");
        }
        names.extend(self::names(&target));
    }
    Ok(at)
}

/// The names to look up one after the other, last first.
fn names(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}
