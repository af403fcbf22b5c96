//! The directory into which a VMM writes its saved state. A VMM opens paths by itself, with its own rights and its own
//! root directory, so a jailed one, or one of another user, cannot write where a snapshot is staged: it gets a directory
//! of its own within its reach, whose files are moved over once the guest runs again.
//!
//! What such a VMM leaves there is not trusted: it may be a symlink, a link to somebody else's file, or nothing.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use log::debug;
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::fs::beneath::Beneath;
use crate::fs::{copy, space};
use crate::interrupt;
use crate::vmm::VmmError;
use crate::vmm::peer::Peer;

/// The directory's name. Always the same, so that the next run finds what a killed one left; a VMM has one capture at
/// a time.
const NAME: &str = ".hypeman-snap";

/// Where the VMM writes, and where that has to go.
#[derive(Debug)]
pub struct Handover {
    state_dir: PathBuf,
    seen_as: PathBuf,
    own: Option<OwnDir>,
}

/// A directory of the VMM's, made by us.
#[derive(Debug)]
struct OwnDir {
    path: PathBuf,
    // Files are taken out through this: whoever owns the directory can put another one at its path.
    dir: OwnedFd,
}

/// A place where both sides can write.
struct Place {
    path: PathBuf,
    seen_as: PathBuf,
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
        let state_dir = std::path::absolute(state_dir.path())
            .map_err(file_error("can't tell the full path of", state_dir.path()))?;
        let place = match peer {
            Some(peer) => meeting_place(peer, socket)?.map(|place| (place, peer.owner)),
            None => None,
        };
        let handover = match place {
            None => Self {
                seen_as: state_dir.clone(),
                state_dir,
                own: None,
            },
            Some((place, owner)) => {
                debug!(
                    "{}: hands its state over in {}",
                    socket.display(),
                    place.path.display()
                );
                remove(&place.path)?;
                Self {
                    state_dir,
                    seen_as: place.seen_as,
                    own: Some(OwnDir::create(place.path, owner)?),
                }
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

    /// Brings the files `names` into the state directory, 0600 and ours, and removes what was made for the VMM.
    ///
    /// # Errors
    /// When one is missing, empty or no plain file; [`Handover::clear`] removes what is left.
    pub fn collect(&self, names: &[&str]) -> Result<(), VmmError> {
        for name in names {
            let target = self.state_dir.join(name);
            if let Some(own) = &self.own {
                own.take(name, &target)
                    .map_err(file_error("can't take over the VMM's", &target))?;
            }
            make_private(&target).map_err(file_error("can't use the VMM's", &target))?;
        }
        self.own.as_ref().map_or(Ok(()), |own| remove(&own.path))
    }

    /// Removes what an earlier handover, also of a process that died, left within the reach of `peer`.
    ///
    /// # Errors
    /// When something is still there.
    pub fn clear(peer: Option<&Peer>, socket: &Path) -> Result<(), VmmError> {
        // Whom we can't look at, we can't have made anything for.
        let place = peer.and_then(|peer| meeting_place(peer, socket).ok().flatten());
        place.map_or(Ok(()), |place| remove(&place.path))
    }

    /// Refuses a directory with less room than `needed_bytes`.
    fn check_space(&self, needed_bytes: u64) -> Result<(), VmmError> {
        let directory = self.own.as_ref().map_or(&self.state_dir, |own| &own.path);
        let free_bytes = space::free_bytes(directory)
            .map_err(file_error("can't tell the free space of", directory))?;
        if free_bytes < needed_bytes {
            return Err(VmmError::Unsupported(format!(
                "the guest's memory needs {} MiB in {}, which has {} MiB left; make room there",
                needed_bytes >> 20,
                directory.display(),
                free_bytes >> 20
            )));
        }
        Ok(())
    }
}

impl OwnDir {
    /// Makes `path`, 0700, and gives it to `owner`.
    fn create(path: PathBuf, (uid, gid): (u32, u32)) -> Result<Self, VmmError> {
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(file_error("can't create, for the VMM to write to,", &path))?;
        let given = rustix::fs::open(
            &path,
            OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .and_then(|dir| {
            rustix::fs::fchown(&dir, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
            Ok(dir)
        });
        match given {
            Ok(dir) => Ok(Self { path, dir }),
            Err(error) => {
                let _ = fs::remove_dir(&path);
                let what = format!(
                    "can't give to user {uid}, whose VMM has to write there (run this tool as root),"
                );
                Err(file_error(&what, &path)(error.into()))
            }
        }
    }

    /// Moves the file `name` to `target`; copies it where the file systems differ.
    fn take(&self, name: &str, target: &Path) -> io::Result<()> {
        match rustix::fs::renameat(&self.dir, name, CWD, target) {
            Err(Errno::XDEV) => {}
            moved => return Ok(moved?),
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let source = File::from(rustix::fs::openat(&self.dir, name, flags, Mode::empty())?);
        check_plain(&source)?;
        let target = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(target)?;
        copy::file(&source, &target, &interrupt::requested, &|_| {}).map(drop)
    }
}

/// Where a VMM that cannot write to our directories gets one of its own: in its jail, or beside its socket, where it
/// could create that. `None` for one that can write where we can.
fn meeting_place(peer: &Peer, socket: &Path) -> Result<Option<Place>, VmmError> {
    if let Some(jail) = peer.chroot(socket)? {
        return Ok(Some(Place {
            path: jail.join(NAME),
            seen_as: Path::new("/").join(NAME),
        }));
    }
    let (uid, _) = peer.owner;
    if uid == 0 || uid == rustix::process::geteuid().as_raw() {
        return Ok(None);
    }
    let socket = fs::canonicalize(socket).map_err(file_error("can't find", socket))?;
    let beside = socket.with_file_name(NAME);
    Ok(Some(Place {
        path: beside.clone(),
        seen_as: beside,
    }))
}

/// Makes the file at `path`, in a directory of ours, one that only we can use.
fn make_private(path: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
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

fn remove(path: &Path) -> Result<(), VmmError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(file_error("can't remove", path)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn file_error(what: &str, path: &Path) -> impl FnOnce(io::Error) -> VmmError {
    let what = format!("{what} {}", path.display());
    move |source| VmmError::File { what, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A handover with a directory of its own, as for a jailed VMM of this very user.
    fn own_dir(dir: &Path) -> Handover {
        let state_dir = dir.join("state");
        fs::create_dir(&state_dir).unwrap();
        let me = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        Handover {
            state_dir,
            seen_as: Path::new("/").join(NAME),
            own: Some(OwnDir::create(dir.join(NAME), me).unwrap()),
        }
    }

    #[test]
    fn files_from_a_directory_of_its_own_end_in_the_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        let handover = own_dir(dir.path());
        assert_eq!(handover.seen_as("memory").unwrap(), "/.hypeman-snap/memory");
        assert_eq!(handover.seen_as("").unwrap(), "/.hypeman-snap");
        let written = dir.path().join(NAME).join("memory");
        fs::write(&written, "m").unwrap();
        fs::set_permissions(&written, PermissionsExt::from_mode(0o644)).unwrap();
        handover.collect(&["memory"]).unwrap();
        let kept = dir.path().join("state/memory");
        assert_eq!(fs::read_to_string(&kept).unwrap(), "m");
        assert_eq!(fs::metadata(&kept).unwrap().mode() & 0o7777, 0o600);
        assert!(!dir.path().join(NAME).exists());
    }

    #[test]
    fn files_on_another_file_system_are_copied_over() {
        let dir = tempfile::tempdir().unwrap();
        let Ok(shm) = tempfile::tempdir_in("/dev/shm") else {
            eprintln!("SKIPPED: a handover between file systems: no /dev/shm");
            return;
        };
        let mut handover = own_dir(dir.path());
        handover.state_dir = shm.path().to_owned();
        fs::write(dir.path().join(NAME).join("memory"), "m").unwrap();
        handover.collect(&["memory"]).unwrap();
        let kept = shm.path().join("memory");
        assert_eq!(fs::read_to_string(&kept).unwrap(), "m");
        assert_eq!(fs::metadata(&kept).unwrap().mode() & 0o7777, 0o600);
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
            fs::set_permissions(&secret, PermissionsExt::from_mode(0o644)).unwrap();
            let handover = own_dir(dir.path());
            trick(&secret, &dir.path().join(NAME).join("memory")).unwrap();
            let VmmError::File { what, source } = handover.collect(&["memory"]).unwrap_err() else {
                panic!("{reason}");
            };
            assert!(source.to_string().contains(reason), "{what}: {source}");
            // Neither read nor given away.
            assert_eq!(
                fs::metadata(&secret).unwrap().mode() & 0o7777,
                0o644,
                "{reason}"
            );
        }
    }

    #[test]
    fn a_directory_that_was_swapped_for_a_symlink_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let others = dir.path().join("others");
        fs::create_dir(&others).unwrap();
        fs::write(others.join("memory"), "secret").unwrap();
        let handover = own_dir(dir.path());
        fs::rename(dir.path().join(NAME), dir.path().join("moved")).unwrap();
        symlink(&others, dir.path().join(NAME)).unwrap();
        handover.collect(&["memory"]).unwrap_err();
        assert_eq!(fs::read_to_string(others.join("memory")).unwrap(), "secret");
        remove(&dir.path().join(NAME)).unwrap();
        assert!(others.join("memory").exists());
    }

    #[test]
    fn more_than_the_room_there_is_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let handover = own_dir(dir.path());
        handover.check_space(1).unwrap();
        let error = handover.check_space(u64::MAX).unwrap_err();
        assert!(error.to_string().contains("make room"), "{error}");
    }
}
