//! Where the disks of an instance are written when it gets a snapshot back: only where the admin said, or where its own
//! VMM really had them, and never by a name that leads elsewhere meanwhile.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    Access, AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags, StatxFlags, XattrFlags,
};
use rustix::io::Errno;

use crate::engine::local::registration::DiskAtRest;
use crate::fs::given::{path_of, trusted_directory};
use crate::fs::open_files::FileId;

/// To hold a directory.
const HOLD: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// How long a list of names of extended attributes, and one's value, may be (xattr(7)).
const XATTR_MAX_BYTES: usize = 64 << 10;

/// Why a disk is not restored in place.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("it is a block device")]
    Device,
    #[error("it has {0} names (hard links), and the others would keep the old content")]
    Linked(u64),
    #[error("it is mounted there from somewhere else (a bind mount)")]
    Mounted,
    #[error("its path {0:?} is not valid UTF-8")]
    Path(PathBuf),
    #[error("its name leads to another file by now")]
    Moved,
    #[error("it is a symlink that leads nowhere")]
    Dangling,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Errno> for Refusal {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// A place of a disk, held by its directory.
#[derive(Debug)]
pub(super) struct Target {
    directory: OwnedFd,
    name: OsString,
    /// Where it is, without symlinks.
    pub(super) path: PathBuf,
    /// The disk that is there, opened for reading.
    pub(super) now: Option<File>,
}

impl Target {
    /// The place of a disk of an instance at rest.
    ///
    /// # Errors
    /// When what is there can't be replaced by another file.
    pub(super) fn of(disk: DiskAtRest<'_>) -> Result<Self, Refusal> {
        match disk.open() {
            Ok(file) => Self::of_file(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::of_nothing(disk),
            Err(error) => Err(error.into()),
        }
    }

    /// The place of `file`.
    ///
    /// # Errors
    /// As [`Target::of`].
    fn of_file(file: File) -> Result<Self, Refusal> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(Refusal::Device);
        }
        if metadata.nlink() != 1 {
            return Err(Refusal::Linked(metadata.nlink()));
        }
        let path = path_of(&file).ok_or(Refusal::Moved)?;
        let target = Self::at(&path)?;
        if target.id()? != Some(FileId::of(&file)?) {
            return Err(Refusal::Moved);
        }
        if mount(&file)? != mount(&target.directory)? {
            return Err(Refusal::Mounted);
        }
        Ok(Self {
            now: Some(file),
            ..target
        })
    }

    /// The place of a disk that is gone.
    fn of_nothing(disk: DiskAtRest<'_>) -> Result<Self, Refusal> {
        let path = disk.path();
        if path.is_symlink() {
            return Err(Refusal::Dangling);
        }
        let (parent, name) = parts(path)?;
        let directory = match disk {
            DiskAtRest::Named(_) => path_of(&trusted_directory(parent)?).ok_or(Refusal::Moved)?,
            DiskAtRest::Learnt(_) => parent.to_owned(),
        };
        Self::at(&directory.join(name))
    }

    /// The place that a journal names: no symlink is on the way.
    ///
    /// # Errors
    /// When its directory can't be held.
    pub(super) fn at(path: &Path) -> Result<Self, Refusal> {
        if path.to_str().is_none() {
            return Err(Refusal::Path(path.to_owned()));
        }
        let (parent, name) = parts(path)?;
        let directory =
            rustix::fs::openat2(CWD, parent, HOLD, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
        Ok(Self {
            directory,
            name: name.to_owned(),
            path: path.to_owned(),
            now: None,
        })
    }

    /// The directory that it is in.
    pub(super) fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// Whether this process may write to that.
    ///
    /// # Errors
    /// When it may not, such as on a file system that is mounted read-only.
    pub(super) fn require_writable(&self) -> io::Result<()> {
        let access = Access::WRITE_OK | Access::EXEC_OK;
        Ok(rustix::fs::accessat(
            &self.directory,
            ".",
            access,
            AtFlags::EACCESS,
        )?)
    }

    /// Which file is at the place, if any.
    ///
    /// # Errors
    /// When it can't be told.
    pub(super) fn id(&self) -> io::Result<Option<FileId>> {
        self.id_of(&self.name)
    }

    /// Which file is beside it under the name `beside`, if any.
    ///
    /// # Errors
    /// When it can't be told.
    pub(super) fn id_beside(&self, beside: &str) -> io::Result<Option<FileId>> {
        self.id_of(OsStr::new(beside))
    }

    fn id_of(&self, name: &OsStr) -> io::Result<Option<FileId>> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.directory, name, flags, Mode::empty()) {
            Ok(held) => FileId::of(held).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes an empty file beside it, for this user alone.
    ///
    /// # Errors
    /// When something of that name is there, or it can't be made.
    pub(super) fn create_beside(&self, beside: &str) -> io::Result<File> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        Ok(rustix::fs::openat(&self.directory, beside, flags, mode)?.into())
    }

    /// Opens what is beside it for reading.
    ///
    /// # Errors
    /// When it is not the regular file `id`.
    pub(super) fn open_beside(&self, beside: &str, id: FileId) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(
            &self.directory,
            beside,
            flags,
            Mode::empty(),
        )?);
        let is_it = FileId::of(&file)?.is_same_inode(id) && file.metadata()?.is_file();
        is_it
            .then_some(file)
            .ok_or_else(|| io::Error::other(format!("{beside} is another file than it was")))
    }

    /// Removes what is beside it; nothing there is no error.
    ///
    /// # Errors
    /// When it can't be removed.
    pub(super) fn remove_beside(&self, beside: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.directory, beside, AtFlags::empty()) {
            Ok(()) => self.sync(),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Exchanges the disk with what is beside it, or gives that the disk's name where there is none: in one step.
    ///
    /// # Errors
    /// When it can't be done; then nothing has changed.
    pub(super) fn exchange(&self, beside: &str) -> io::Result<()> {
        let flags = match self.id()? {
            Some(_) => RenameFlags::EXCHANGE,
            None => RenameFlags::NOREPLACE,
        };
        let dir = self.directory.as_fd();
        rustix::fs::renameat_with(dir, beside, dir, &self.name, flags)?;
        self.sync()
    }

    fn sync(&self) -> io::Result<()> {
        // A descriptor that only holds can't be synced.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::fsync(rustix::fs::openat(
            &self.directory,
            ".",
            flags,
            Mode::empty(),
        )?)?)
    }
}

/// Gives `new` the owner, the rights and the extended attributes, such as access lists, of `old`.
///
/// # Errors
/// When one can't be read or set.
pub(super) fn dress(new: &File, old: &File) -> io::Result<()> {
    let metadata = old.metadata()?;
    std::os::unix::fs::fchown(new, Some(metadata.uid()), Some(metadata.gid()))?;
    new.set_permissions(metadata.permissions())?;
    let mut names = vec![0; XATTR_MAX_BYTES];
    let length = match rustix::fs::flistxattr(old, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    names.truncate(length);
    let mut value = vec![0; XATTR_MAX_BYTES];
    for name in names.split(|byte| *byte == 0).filter(|it| !it.is_empty()) {
        let length = rustix::fs::fgetxattr(old, name, &mut value[..])?;
        let value = value.get(..length).unwrap_or_default();
        rustix::fs::fsetxattr(new, name, value, XattrFlags::empty())?;
    }
    Ok(())
}

fn parts(path: &Path) -> Result<(&Path, &OsStr), Refusal> {
    path.parent().zip(path.file_name()).ok_or(Refusal::Moved)
}

fn mount(file: impl AsFd) -> io::Result<u64> {
    let stat = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    Ok(stat.stx_mnt_id)
}
