//! Where a VMM's own directory is made and removed, by descriptors alone.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::fs::given;
use crate::vmm::VmmError;
use crate::vmm::peer::{Peer, RootKind};

/// The name of this tool's directory. Always the same, so that the next run finds what a killed one left; a VMM has one
/// capture at a time.
pub(super) const NAME: &str = ".hypeman-snap";
/// The VMM's own directory in it.
pub(super) const INNER: &str = "saved-state";
/// More files than this no VMM leaves.
pub(super) const FILES_MAX: usize = 64;
/// For everything that is opened here.
pub(super) const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

/// A directory where both sides can write.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) dir: OwnedFd,
    /// For messages.
    pub(super) path: PathBuf,
    pub(super) seen_as: PathBuf,
}

impl Place {
    pub(super) fn own_path(&self) -> PathBuf {
        self.path.join(NAME)
    }

    /// Makes this tool's directory here and the VMM's in it, which belongs to `owner`.
    pub(super) fn make(&self, (uid, gid): (u32, u32)) -> io::Result<OwnedFd> {
        let outer = make_dir(&self.dir, NAME)?;
        // The VMM passes through, and sees nothing of it.
        rustix::fs::fchmod(&outer, Mode::from_raw_mode(0o711))?;
        let inner = make_dir(&outer, INNER)?;
        rustix::fs::fchown(&inner, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        Ok(inner)
    }

    /// Removes this tool's directory, if it is there and this tool's.
    pub(super) fn clear(&self) -> Result<(), VmmError> {
        let path = self.own_path();
        self.remove().map_err(file_error("can't remove", &path))
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        let outer =
            match rustix::fs::openat(&self.dir, NAME, OPEN | OFlags::DIRECTORY, Mode::empty()) {
                Ok(outer) => outer,
                Err(Errno::NOENT) => return Ok(()),
                Err(Errno::NOTDIR | Errno::LOOP) => return Err(not_ours("it is no directory")),
                Err(error) => return Err(error.into()),
            };
        check_ours(&outer)?;
        match rustix::fs::openat(&outer, INNER, OPEN | OFlags::DIRECTORY, Mode::empty()) {
            // Only this user can have made it there: what is in it is the VMM's, which may remove it itself.
            Ok(inner) => {
                unlink_all(&inner)?;
                rustix::fs::unlinkat(&outer, INNER, AtFlags::REMOVEDIR)?;
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        // Nothing but an empty directory goes, whatever has that name by now.
        match rustix::fs::unlinkat(&self.dir, NAME, AtFlags::REMOVEDIR) {
            Ok(()) => Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Err(not_ours("it holds something else")),
            Err(error) => Err(error.into()),
        }
    }
}

/// Creates the directory `name` in `parent`, 0700, and opens it: that very one, and nobody else's.
fn make_dir(parent: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
    let made = rustix::fs::openat(parent, name, OPEN | OFlags::DIRECTORY, Mode::empty())?;
    check_ours(&made)?;
    if entries(&made)?.next().is_some() {
        return Err(not_ours("it is not empty"));
    }
    Ok(made)
}

/// # Errors
/// When the directory is not one that only this user can write to.
fn check_ours(dir: &OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::fstat(dir)?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(not_ours(&format!("it belongs to user {}", stat.st_uid)));
    }
    if stat.st_mode & 0o022 != 0 {
        return Err(not_ours("others can write to it"));
    }
    Ok(())
}

fn not_ours(why: &str) -> io::Error {
    io::Error::other(format!(
        "it is not this tool's: {why}; see what it is, and remove or rename it"
    ))
}

/// The names in a directory.
fn entries(dir: &OwnedFd) -> io::Result<impl Iterator<Item = io::Result<CString>> + use<>> {
    Ok(Dir::read_from(dir)?.filter_map(|entry| match entry {
        Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => None,
        Ok(entry) => Some(Ok(entry.file_name().to_owned())),
        Err(error) => Some(Err(error.into())),
    }))
}

/// Removes the files in `dir`, and directories that are empty. Never looks into one.
fn unlink_all(dir: &OwnedFd) -> io::Result<()> {
    for (count, name) in entries(dir)?.enumerate() {
        let name = name?;
        if count >= FILES_MAX {
            return Err(io::Error::other(format!(
                "the VMM left more than {FILES_MAX} files there; remove them"
            )));
        }
        match rustix::fs::unlinkat(dir, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => rustix::fs::unlinkat(dir, &name, AtFlags::REMOVEDIR)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Where a VMM that cannot write to our directories gets one of its own: in its jail, or beside its socket, where it
/// could create that. `None` for one that can write where we can.
pub(super) fn place_of(peer: &Peer, socket: &Path) -> Result<Option<Place>, VmmError> {
    let root = peer.root()?;
    if root.kind == RootKind::Jail {
        let path = root.path();
        return Ok(Some(Place {
            dir: open_again(&root.dir).map_err(file_error("can't open the jail", &path))?,
            path,
            seen_as: PathBuf::from("/"),
        }));
    }
    let (uid, _) = peer.owner;
    if uid == 0 || uid == rustix::process::geteuid().as_raw() {
        return Ok(None);
    }
    beside(socket)
        .map(Some)
        .map_err(file_error("can't find a place beside", socket))
}

/// The directory of `socket`, which no symlink of another user leads to, and which holds a socket of that name.
pub(super) fn beside(socket: &Path) -> io::Result<Place> {
    let socket = std::path::absolute(socket)?;
    let (Some(parent), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = open_again(&given::trusted_directory(parent)?)?;
    let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(io::Error::other("it is no socket any more"));
    }
    Ok(Place {
        dir,
        path: parent.to_owned(),
        seen_as: parent.to_owned(),
    })
}

/// The directory that is held as `dir`, opened for reading.
fn open_again(dir: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(
        dir,
        ".",
        OPEN | OFlags::DIRECTORY,
        Mode::empty(),
    )?)
}

pub(super) fn file_error(what: &str, path: &Path) -> impl FnOnce(io::Error) -> VmmError {
    let what = format!("{what} {}", path.display());
    move |source| VmmError::File { what, source }
}
