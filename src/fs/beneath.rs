//! A directory that is held open, and what is made and opened below it: relative to its descriptor, never over a symlink
//! and never out of it. So it does not matter what a name says, or who renames what meanwhile.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// For everything that is opened: a FIFO does not block, and a terminal does not become ours.
const OPEN: OFlags = OFlags::CLOEXEC
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);
/// How every name is looked up (openat2(2)).
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);
/// For files that are made: secret, as everything of a guest is.
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);
/// How often another name is tried for a file that loses it at once.
const ATTEMPTS: u32 = 10;

/// A directory that is held open.
#[derive(Debug, Clone)]
pub struct Beneath {
    dir: Arc<OwnedFd>,
    /// For messages, and for who can only be told a path.
    path: PathBuf,
}

impl Beneath {
    /// Holds the directory `path`, which is no symlink itself.
    ///
    /// # Errors
    /// When there is no such directory, or it can't be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let dir = rustix::fs::openat(
            CWD,
            path,
            OPEN | OFlags::RDONLY | OFlags::DIRECTORY,
            Mode::empty(),
        )?;
        Ok(Self {
            dir: Arc::new(dir),
            path: path.to_owned(),
        })
    }

    /// Where the directory was when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates the file `relative`, 0600, for reading and writing. Its directory is there.
    ///
    /// # Errors
    /// When something of that name is there, a symlink is on the way, or the name leads out of the directory.
    pub fn create_file(&self, relative: impl AsRef<Path>) -> io::Result<File> {
        let flags = OPEN | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        self.at(relative.as_ref(), flags, PRIVATE).map(File::from)
    }

    /// Creates the file `relative`, 0600, with this content. Not synced.
    ///
    /// # Errors
    /// As [`Beneath::create_file`], and when it can't be written.
    pub fn write_new(&self, relative: impl AsRef<Path>, content: &[u8]) -> io::Result<()> {
        self.create_file(relative)?.write_all(content)
    }

    /// Creates the directory `relative` and what is missing above it, 0700, and holds it. What is there is used.
    ///
    /// # Errors
    /// When a part of the name is something else than a directory, a symlink, or leads out of the directory.
    pub fn create_dir(&self, relative: impl AsRef<Path>) -> io::Result<Self> {
        let mut made = self.clone();
        for part in relative.as_ref().components() {
            let Component::Normal(name) = part else {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{} is no plain path", relative.as_ref().display()),
                ));
            };
            match rustix::fs::mkdirat(&made, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            made = made.open_dir(name)?;
        }
        Ok(made)
    }

    /// Holds the directory `relative`.
    ///
    /// # Errors
    /// As [`Beneath::create_dir`], or when it is missing.
    pub fn open_dir(&self, relative: impl AsRef<Path>) -> io::Result<Self> {
        let relative = relative.as_ref();
        let flags = OPEN | OFlags::RDONLY | OFlags::DIRECTORY;
        Ok(Self {
            dir: Arc::new(self.at(relative, flags, Mode::empty())?),
            path: self.path.join(relative),
        })
    }

    /// Opens the regular file `relative` for reading; `None` when there is nothing of that name.
    ///
    /// # Errors
    /// When it is something else, behind a symlink, or can't be opened.
    pub fn open_file(&self, relative: impl AsRef<Path>) -> io::Result<Option<File>> {
        self.open_as(relative.as_ref(), OFlags::RDONLY)
    }

    /// As [`Beneath::open_file`], for writing too.
    ///
    /// # Errors
    /// As [`Beneath::open_file`].
    pub fn open_to_write(&self, relative: impl AsRef<Path>) -> io::Result<Option<File>> {
        self.open_as(relative.as_ref(), OFlags::RDWR)
    }

    fn open_as(&self, relative: &Path, access: OFlags) -> io::Result<Option<File>> {
        let opened = match self.at(relative, OPEN | access, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => File::from(opened?),
        };
        if !opened.metadata()?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        Ok(Some(opened))
    }

    /// A file without a name for reading and writing, on the directory's file system.
    ///
    /// # Errors
    /// When none can be made there.
    pub fn nameless(&self) -> io::Result<File> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::openat(self, ".", flags, PRIVATE) {
            Ok(file) => return Ok(File::from(file)),
            // Kernels and file systems without the flag see an attempt to write to a directory (open(2), `O_TMPFILE`).
            Err(Errno::OPNOTSUPP | Errno::ISDIR) => {}
            Err(error) => return Err(error.into()),
        }
        for _ in 0..ATTEMPTS {
            let name = format!(".tmp-{:016x}", fastrand::u64(..));
            match self.create_file(&name) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                created => {
                    let file = created?;
                    rustix::fs::unlinkat(self, &name, rustix::fs::AtFlags::empty())?;
                    return Ok(file);
                }
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn at(&self, relative: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        match rustix::fs::openat2(self, relative, flags, mode, RESOLVE) {
            Ok(file) => Ok(file),
            Err(Errno::LOOP) => Err(io::Error::other("it is a symlink, or behind one")),
            Err(Errno::NOTDIR) => Err(io::Error::other("it, or what it is in, is no directory")),
            Err(Errno::XDEV) => Err(io::Error::other("its name leads out of the directory")),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Beneath {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// Whether `name` is made of `[A-Za-z0-9._-]` alone and names a file: no `.` and no `..`. Nothing that reads names, a
/// shell or a terminal, sees more in such a one than a name.
pub fn is_plain_name(name: &OsStr) -> bool {
    let bytes = name.as_encoded_bytes();
    !matches!(bytes, b"" | b"." | b"..") && bytes.iter().all(|byte| is_plain(*byte))
}

/// Whether a byte may stand in a plain name: see [`is_plain_name`].
pub const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    fn scene() -> (tempfile::TempDir, Beneath) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("dir/sub")).unwrap();
        fs::create_dir(root.path().join("outside")).unwrap();
        let beneath = Beneath::open(&root.path().join("dir")).unwrap();
        (root, beneath)
    }

    #[test]
    fn what_is_made_is_private_and_below() {
        let (root, dir) = scene();
        dir.create_file("sub/file").unwrap();
        dir.write_new("new", b"x").unwrap();
        let deep = dir.create_dir("a/b").unwrap();
        deep.create_file("c").unwrap();
        let at = |name: &str| fs::metadata(root.path().join("dir").join(name)).unwrap();
        assert_eq!(at("sub/file").mode() & 0o7777, 0o600);
        assert_eq!(at("a/b").mode() & 0o7777, 0o700);
        assert_eq!(at("a/b/c").len(), 0);
        assert_eq!(at("new").len(), 1);
        assert_eq!(deep.path(), root.path().join("dir/a/b"));
    }

    #[test]
    fn nothing_is_made_or_opened_outside_or_over_a_symlink() {
        let (root, dir) = scene();
        let outside = root.path().join("outside");
        symlink(&outside, root.path().join("dir/link")).unwrap();
        symlink(outside.join("file"), root.path().join("dir/dangling")).unwrap();
        let absolute = outside.join("x");
        for name in [
            "../outside/x",
            "sub/../../outside/x",
            "link/x",
            "dangling",
            "..",
            ".",
            "",
            absolute.to_str().unwrap(),
        ] {
            assert!(dir.create_file(name).is_err(), "{name}");
            assert!(
                name.is_empty() || dir.create_dir(name).is_err(),
                "directory {name}"
            );
        }
        fs::write(outside.join("x"), "secret").unwrap();
        assert!(dir.open_file("link/x").is_err());
        assert!(dir.open_file("../outside/x").is_err());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_there_is_not_opened_for_writing() {
        let (root, dir) = scene();
        fs::write(root.path().join("dir/sub/file"), "x").unwrap();
        let error = dir.create_file("sub/file").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn what_was_renamed_away_is_still_what_is_held() {
        let (root, dir) = scene();
        fs::rename(root.path().join("dir"), root.path().join("moved")).unwrap();
        symlink(root.path().join("outside"), root.path().join("dir")).unwrap();
        dir.create_file("file").unwrap();
        assert!(root.path().join("moved/file").exists());
        assert!(Beneath::open(&root.path().join("dir")).is_err());
    }

    #[test]
    fn only_regular_files_are_read_and_none_is_no_error() {
        let (root, dir) = scene();
        assert!(dir.open_file("missing").unwrap().is_none());
        assert!(dir.open_file("sub").is_err());
        let fifo = root.path().join("dir/fifo");
        rustix::fs::mknodat(CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(dir.open_file("fifo").is_err());
    }

    #[test]
    fn a_nameless_file_leaves_no_name() {
        let (root, dir) = scene();
        dir.nameless().unwrap().write_all(b"x").unwrap();
        assert_eq!(fs::read_dir(root.path().join("dir")).unwrap().count(), 1);
    }

    #[test]
    fn plain_names_hold_no_surprise() {
        for name in ["a", "0-root.qcow2", "..a", "A_b-C.9"] {
            assert!(is_plain_name(OsStr::new(name)), "{name}");
        }
        for name in ["", ".", "..", "a/b", "a b", "ä", "a\n", "$(x)"] {
            assert!(!is_plain_name(OsStr::new(name)), "{name:?}");
        }
    }
}
