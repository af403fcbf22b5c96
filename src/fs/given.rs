//! Files that somebody else names: held before they are opened, so that it is known what they are, and opened as what was
//! held. A device that is none of ours is never opened, a FIFO never waited for, and no swapped name changes anything.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::open_files::FileId;
use super::walk::walk;

/// To hold something without opening it.
const HOLD: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// A regular file or a block device that is held and not opened yet.
#[derive(Debug)]
pub struct Given {
    held: OwnedFd,
    id: FileId,
}

impl Given {
    /// What `path` leads to, symlinks followed: only for who compares [`Given::id`] with what is known of the file.
    ///
    /// # Errors
    /// When there is nothing, or neither a regular file nor a block device.
    pub fn at(path: &Path) -> io::Result<Self> {
        Self::of(rustix::fs::open(path, HOLD, Mode::empty())?)
    }

    /// What `path` leads to for a process with the root directory `root`: symlinks don't leave it. For whom it is, see
    /// [`Given::at`].
    ///
    /// # Errors
    /// As [`Given::at`].
    pub fn within(root: impl AsFd, path: &Path) -> io::Result<Self> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        Self::of(rustix::fs::openat2(
            root,
            path,
            HOLD,
            Mode::empty(),
            resolve,
        )?)
    }

    /// What the relative `path` leads to from `directory`, symlinks followed. For whom it is, see [`Given::at`].
    ///
    /// # Errors
    /// As [`Given::at`].
    pub fn below(directory: impl AsFd, path: &Path) -> io::Result<Self> {
        Self::of(rustix::fs::openat(directory, path, HOLD, Mode::empty())?)
    }

    /// What the absolute `path` leads to by this process's own word and root's: other users' symlinks are not followed.
    ///
    /// # Errors
    /// As [`Given::at`], and for a symlink of somebody else.
    pub fn trusted(path: &Path) -> io::Result<Self> {
        Self::of(walk_own(path)?)
    }

    /// The file at `path`, with no symlink on the way to it.
    ///
    /// # Errors
    /// As [`Given::at`], and for a symlink.
    pub fn plain(path: &Path) -> io::Result<Self> {
        let resolve = ResolveFlags::NO_SYMLINKS;
        let held = rustix::fs::openat2(rustix::fs::CWD, path, HOLD, Mode::empty(), resolve)?;
        Self::of(held)
    }

    fn of(held: OwnedFd) -> io::Result<Self> {
        check_kind(&rustix::fs::fstat(&held)?)?;
        let id = FileId::of(&held)?;
        Ok(Self { held, id })
    }

    /// Which file it is.
    pub fn id(&self) -> FileId {
        self.id
    }

    /// Its path as the kernel has it, without symlinks; a hint, and odd for a file without a name.
    ///
    /// # Errors
    /// When `/proc` is missing.
    pub fn path(&self) -> io::Result<PathBuf> {
        std::fs::read_link(self.in_proc())
    }

    /// Opens it for reading. Does not wait for anybody.
    ///
    /// # Errors
    /// When this user may not, somebody has a lease on it, or the device is not there.
    pub fn open(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(self.in_proc(), flags, Mode::empty())?);
        // The same inode, whatever has happened to its names.
        if FileId::of(&file)? != self.id {
            return Err(io::Error::other("it is another file than a moment ago"));
        }
        Ok(file)
    }

    fn in_proc(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.held.as_raw_fd()))
    }
}

/// Holds the directory `path`, which is absolute and which no symlink of another user leads to.
///
/// # Errors
/// When there is none, or a symlink of somebody else is on the way.
pub fn trusted_directory(path: &Path) -> io::Result<OwnedFd> {
    walk_own(path)
}

/// The path of what is held, as the kernel has it; a hint.
pub fn path_of(held: &impl AsRawFd) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", held.as_raw_fd())).ok()
}

/// # Errors
/// For what holds no data of its own: a directory, a FIFO, a socket, a terminal, a watchdog.
fn check_kind(stat: &rustix::fs::Stat) -> io::Result<()> {
    use rustix::fs::FileType;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile | FileType::BlockDevice => return Ok(()),
        FileType::Directory => "a directory",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::Symlink | FileType::Unknown => "something else",
    };
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("it is {kind}, and a disk is a regular file or a block device"),
    ))
}

/// Holds what the absolute `path` leads to, other users' symlinks not followed.
fn walk_own(path: &Path) -> io::Result<OwnedFd> {
    let own = rustix::process::geteuid().as_raw();
    walk(path, |step| {
        let owner = step.stat.st_uid;
        if !step.is_symlink() || owner == 0 || owner == own {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "{} on its way is a symlink of user {owner}, which may point to another file at any time; name the file itself",
            Path::new(step.name).display(),
        )))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read as _;
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, mknodat};

    fn content(given: &Given) -> String {
        let mut content = String::new();
        given.open().unwrap().read_to_string(&mut content).unwrap();
        content
    }

    #[test]
    fn what_was_held_is_what_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        fs::write(&path, "the disk").unwrap();
        let given = Given::at(&path).unwrap();
        fs::rename(&path, dir.path().join("moved")).unwrap();
        symlink("/etc/passwd", &path).unwrap();
        assert_eq!(content(&given), "the disk");
        assert_eq!(given.path().unwrap(), dir.path().join("moved"));
        assert_eq!(FileId::at(&dir.path().join("moved")).unwrap(), given.id());
    }

    #[test]
    fn only_what_holds_data_is_held_and_nothing_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        let listener = dir.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&listener).unwrap();
        let cases = [
            (fifo.as_path(), "a FIFO"),
            (listener.as_path(), "a socket"),
            (dir.path(), "a directory"),
            (Path::new("/dev/tty"), "a character device"),
        ];
        for (path, kind) in cases {
            for held in [Given::at(path), Given::trusted(path)] {
                let error = held.unwrap_err().to_string();
                assert!(error.contains(kind), "{error}");
            }
        }
        let missing = Given::at(&dir.path().join("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn symlinks_of_a_root_directory_stay_within() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/passwd"), "the jail's").unwrap();
        symlink("/etc/passwd", dir.path().join("link")).unwrap();
        let root = rustix::fs::open(dir.path(), HOLD, Mode::empty()).unwrap();
        for name in ["/link", "link", "/../../etc/passwd"] {
            let given = Given::within(&root, Path::new(name)).unwrap();
            assert_eq!(content(&given), "the jail's", "{name}");
        }
    }

    #[test]
    fn own_symlinks_lead_on_and_those_of_others_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        fs::create_dir(path.join("real")).unwrap();
        fs::write(path.join("real/disk"), "the disk").unwrap();
        symlink("real", path.join("relative")).unwrap();
        symlink(path.join("relative/../real/disk"), path.join("absolute")).unwrap();
        symlink("loop", path.join("loop")).unwrap();
        for name in [
            "real/disk",
            "relative/disk",
            "absolute",
            "./real/../absolute",
        ] {
            let given = Given::trusted(&path.join(name)).unwrap();
            assert_eq!(content(&given), "the disk", "{name}");
        }
        assert!(Given::trusted(&path.join("loop")).is_err());
        assert!(Given::trusted(&path.join("real/disk/x")).is_err());
        assert!(Given::trusted(Path::new("real/disk")).is_err());
        if !rustix::process::geteuid().is_root() {
            support::skip::skipped("only root can make a symlink of another user");
            return;
        }
        std::os::unix::fs::lchown(path.join("relative"), Some(65534), Some(65534)).unwrap();
        for name in ["relative/disk", "absolute"] {
            let error = Given::trusted(&path.join(name)).unwrap_err().to_string();
            assert!(error.contains("65534"), "{error}");
        }
        assert!(Given::trusted(&path.join("real/disk")).is_ok());
    }
}
