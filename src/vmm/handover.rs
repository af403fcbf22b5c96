//! The directory into which a VMM writes its saved state. A VMM opens paths by itself, with its own rights and its own
//! root directory, so a jailed one, or one of another user, cannot write where a snapshot is staged: it gets a directory
//! of its own within its reach, whose files are moved over once the guest runs again.
//!
//! Others may write in that place: the VMM itself, or whoever owns the directory of its socket. So nothing there is done
//! by path. The VMM's directory stands in one that only this user can write to, and is reached through descriptors alone;
//! what is not surely of this tool's making is neither given away nor removed. What a VMM leaves there is not trusted
//! either: it may be a symlink, a link to somebody else's file, or nothing.

mod place;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use log::debug;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use crate::fs::beneath::Beneath;
use crate::fs::{copy, space};
use crate::interrupt;
use crate::vmm::VmmError;
use crate::vmm::peer::Peer;

use place::{INNER, NAME, OPEN, Place, file_error, place_of};

/// Where the VMM writes, and where that has to go.
#[derive(Debug)]
pub struct Handover {
    state_dir: Beneath,
    seen_as: PathBuf,
    own: Option<OwnDir>,
}

/// A directory of the VMM's, made by us.
#[derive(Debug)]
struct OwnDir {
    place: Place,
    dir: OwnedFd,
    /// The VMM's user.
    uid: u32,
}

impl Handover {
    /// Finds where the VMM can write, for `state_dir` in the end, and makes a directory there if need be.
    ///
    /// # Errors
    /// [`VmmError::Unsupported`] when nothing within the VMM's reach can be used, or it has no room for `needed_bytes`.
    pub fn open(
        peer: Option<&Peer>,
        socket: &Path,
        state_dir: &Beneath,
        needed_bytes: u64,
    ) -> Result<Self, VmmError> {
        let state_dir = state_dir.clone();
        let place = match peer {
            Some(peer) => place_of(peer, socket)?.map(|place| (place, peer)),
            None => None,
        };
        let handover = if let Some((place, peer)) = place {
            let shown = place.path.display();
            debug!("{}: hands its state over in {shown}", socket.display());
            check_seen(peer, &place.dir, &place.seen_as)?;
            place.clear()?;
            Self {
                state_dir,
                seen_as: place.seen_as.join(NAME).join(INNER),
                own: Some(OwnDir::create(place, peer.owner)?),
            }
        } else {
            let seen_as = std::path::absolute(state_dir.path())
                .map_err(file_error("can't tell the full path of", state_dir.path()))?;
            if let Some(peer) = peer {
                check_seen(peer, &state_dir, &seen_as)?;
            }
            Self {
                state_dir,
                seen_as,
                own: None,
            }
        };
        handover.check_space(needed_bytes)?;
        Ok(handover)
    }

    /// The path of the file `name`, or of the directory itself for an empty name, in the VMM's words.
    ///
    /// # Errors
    /// [`VmmError::Unsupported`] for a path that is not UTF-8, which JSON can't carry.
    pub fn seen_as(&self, name: &str) -> Result<String, VmmError> {
        let path = if name.is_empty() {
            self.seen_as.clone()
        } else {
            self.seen_as.join(name)
        };
        path.into_os_string().into_string().map_err(|path| {
            VmmError::Unsupported(format!(
                "the VMM can't be told the path {} because it is not UTF-8; use another directory",
                Path::new(&path).display()
            ))
        })
    }

    /// The state directory, if that is where the VMM writes.
    pub fn direct(&self) -> Option<&Beneath> {
        self.own.is_none().then_some(&self.state_dir)
    }

    /// Puts a file `name` there that shares all blocks with `content`; `false` where that is not possible.
    ///
    /// # Errors
    /// When it can't be made, or given to the VMM.
    pub fn lay(&self, name: &str, content: &File) -> Result<bool, VmmError> {
        let (dir, path) = self.directory();
        let path = path.join(name);
        let lay = || -> io::Result<bool> {
            let flags =
                OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mode = Mode::RUSR | Mode::WUSR;
            let file = File::from(rustix::fs::openat(dir, name, flags, mode)?);
            match copy::reflink(content, &file) {
                Ok(()) => {}
                Err(error) if copy::is_unsupported(&error) => {
                    rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
            if let Some(own) = &self.own {
                rustix::fs::fchown(&file, Some(Uid::from_raw(own.uid)), None)?;
            }
            Ok(true)
        };
        lay().map_err(file_error(
            "can't lay down the memory of the last snapshot as",
            &path,
        ))
    }

    /// Brings the files `names` into the state directory, 0600 and ours, and removes what was made for the VMM.
    ///
    /// # Errors
    /// When one is missing, empty, another user's or no plain file; [`Handover::clear`] removes what is left.
    pub fn collect(&self, names: &[&str]) -> Result<(), VmmError> {
        for name in names {
            let target = self.state_dir.path().join(name);
            if let Some(own) = &self.own {
                own.take(name, &self.state_dir)
                    .map_err(file_error("can't take over the VMM's", &target))?;
            }
            make_private(&self.state_dir, name)
                .map_err(file_error("can't use the VMM's", &target))?;
        }
        self.own.as_ref().map_or(Ok(()), |own| own.place.clear())
    }

    /// Removes what an earlier handover, also of a process that died, left within the reach of `peer`.
    ///
    /// # Errors
    /// When something is still there.
    pub fn clear(peer: Option<&Peer>, socket: &Path) -> Result<(), VmmError> {
        // Whom we can't look at, we can't have made anything for.
        let place = peer.and_then(|peer| place_of(peer, socket).ok().flatten());
        place.map_or(Ok(()), |place| place.clear())
    }

    /// Where the VMM writes.
    fn directory(&self) -> (BorrowedFd<'_>, &Path) {
        match &self.own {
            Some(own) => (own.dir.as_fd(), own.place.path.as_path()),
            None => (self.state_dir.as_fd(), self.state_dir.path()),
        }
    }

    /// The file system that the VMM writes to, by its device number.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn device(&self) -> Result<u64, VmmError> {
        let (dir, path) = self.directory();
        let stat = rustix::fs::fstat(dir)
            .map_err(|error| file_error("can't look at", path)(error.into()))?;
        Ok(stat.st_dev)
    }

    /// Has the file system write out what it still holds: the VMM's own writes would have to wait behind that, with the
    /// guest paused.
    pub fn write_out(&self) {
        let (dir, path) = self.directory();
        // What failed before is not this snapshot's; its own files are synced one by one in the end.
        if let Err(error) = rustix::fs::syncfs(dir) {
            debug!("syncfs of {}: {error}", path.display());
        }
    }

    /// Refuses a directory with less room than `needed_bytes`.
    fn check_space(&self, needed_bytes: u64) -> Result<(), VmmError> {
        let (dir, path) = self.directory();
        let free_bytes =
            space::free_bytes_in(dir).map_err(file_error("can't tell the free space of", path))?;
        if free_bytes < needed_bytes {
            return Err(VmmError::Unsupported(format!(
                "the guest's memory needs {} MiB in {}, which has {} MiB left; make room there",
                needed_bytes >> 20,
                path.display(),
                free_bytes >> 20
            )));
        }
        Ok(())
    }
}

impl OwnDir {
    /// Makes a directory in `place` and gives it to `owner`.
    fn create(place: Place, owner: (u32, u32)) -> Result<Self, VmmError> {
        match place.make(owner) {
            Ok(dir) => Ok(Self {
                place,
                dir,
                uid: owner.0,
            }),
            Err(error) => {
                // The first error is the one to tell.
                let _ = place.remove();
                let what = format!(
                    "can't make, for user {}, whose VMM has to write there (run this tool as root),",
                    owner.0
                );
                Err(file_error(&what, &place.own_path())(error))
            }
        }
    }

    /// Moves the file `name` into `state_dir`: blocks that can be shared become a file that the VMM never had open, others
    /// keep theirs, and between file systems they are copied.
    fn take(&self, name: &str, state_dir: &Beneath) -> io::Result<()> {
        let source = File::from(rustix::fs::openat(&self.dir, name, OPEN, Mode::empty())?);
        check_plain(&source)?;
        let uid = source.metadata()?.uid();
        if uid != self.uid {
            return Err(io::Error::other(format!("it belongs to user {uid}")));
        }
        let target = state_dir.create_file(name)?;
        match copy::reflink(&source, &target) {
            Ok(()) => return Ok(()),
            Err(error) if copy::is_unsupported(&error) => {}
            Err(error) => return Err(error),
        }
        match rustix::fs::renameat(&self.dir, name, state_dir, name) {
            Err(Errno::XDEV) => {
                copy::file(&source, &target, &interrupt::requested, &|_| {}).map(drop)
            }
            moved => Ok(moved?),
        }
    }
}

/// Refuses, before anything is paused, a VMM to which `path` is not the directory `dir`.
fn check_seen(peer: &Peer, dir: impl AsFd, path: &Path) -> Result<(), VmmError> {
    let root = peer.root()?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let seen = rustix::fs::openat2(&root.dir, path, flags, Mode::empty(), ResolveFlags::IN_ROOT);
    let is_same = || -> Result<bool, Errno> {
        let (seen, dir) = (rustix::fs::fstat(seen?)?, rustix::fs::fstat(dir)?);
        Ok((seen.st_dev, seen.st_ino) == (dir.st_dev, dir.st_ino))
    };
    if is_same().unwrap_or(false) {
        return Ok(());
    }
    Err(VmmError::Unsupported(format!(
        "the VMM (process {}) sees other files than this tool, and not the directory {}; let it see that at the same \
         path, or run it without mounts of its own",
        peer.process.pid,
        path.display()
    )))
}

/// Makes the file `name` in a directory of ours one that only we can use.
fn make_private(dir: &Beneath, name: &str) -> io::Result<()> {
    let file = File::from(rustix::fs::openat(dir, name, OPEN, Mode::empty())?);
    check_plain(&file)?;
    rustix::fs::fchown(
        &file,
        Some(rustix::process::geteuid()),
        Some(rustix::process::getegid()),
    )?;
    Ok(rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?)
}

/// A second name would let its holder read and change what we keep, or be a file that was never the VMM's.
fn check_plain(file: &File) -> io::Result<()> {
    let metadata = file.metadata()?;
    let wrong = if !metadata.is_file() {
        "it is no regular file"
    } else if metadata.nlink() != 1 {
        "it has more than one name"
    } else if metadata.len() == 0 {
        "it is empty"
    } else {
        return Ok(());
    };
    Err(io::Error::other(wrong))
}

#[cfg(test)]
mod tests;
