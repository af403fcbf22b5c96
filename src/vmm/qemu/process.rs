//! The QEMU process behind the monitor: which one it is, and which files it holds. Reads /proc and changes nothing.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::super::Process;

/// Where this process finds the file that QEMU (`process`) calls `name` and holds open: QEMU may have another
/// working directory, another root or other mounts. Without the right to look into QEMU, `name` is taken as it is.
///
/// # Errors
/// When no such file is there, or another one than QEMU holds.
pub(super) fn locate(process: Option<&Process>, name: &Path) -> io::Result<PathBuf> {
    let Some(files) = process.and_then(OpenFiles::of) else {
        fs::metadata(name)?;
        return Ok(name.to_owned());
    };
    let absolute = if name.is_absolute() {
        name.to_owned()
    } else {
        fs::read_link(files.proc.join("cwd"))?.join(name)
    };
    let inside = absolute.strip_prefix("/").unwrap_or(&absolute);
    let candidates = [absolute.clone(), files.proc.join("root").join(inside)];
    candidates
        .into_iter()
        .find(|path| files.hold(path))
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                "QEMU holds another file than the one of that name",
            )
        })
}

/// The files that a QEMU holds open.
struct OpenFiles {
    /// `/proc/PID`.
    proc: PathBuf,
    files: Vec<Identity>,
}

/// What stays the same whatever path leads to a file.
#[derive(Debug, PartialEq, Eq)]
enum Identity {
    /// A file, by file system and inode.
    File(u64, u64),
    /// A device, by number.
    Device(u64),
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        if metadata.file_type().is_block_device() {
            Self::Device(metadata.rdev())
        } else {
            Self::File(metadata.dev(), metadata.ino())
        }
    }
}

impl OpenFiles {
    /// `None` when they can't be listed, or when the process is no QEMU: a socket that was handed to QEMU has its
    /// creator as peer.
    fn of(process: &Process) -> Option<Self> {
        let proc = PathBuf::from(format!("/proc/{}", process.pid));
        let program = fs::read_link(proc.join("exe")).ok()?;
        let is_qemu = program
            .file_name()
            .map(OsStr::as_bytes)
            .is_some_and(|name| name.starts_with(b"qemu") || name.starts_with(b"kvm"));
        if !is_qemu {
            return None;
        }
        let files = fs::read_dir(proc.join("fd"))
            .ok()?
            // One that was closed meanwhile is none.
            .filter_map(|entry| fs::metadata(entry.ok()?.path()).ok())
            .map(|metadata| Identity::of(&metadata))
            .collect();
        Some(Self { proc, files })
    }

    fn hold(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|metadata| self.files.contains(&Identity::of(&metadata)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_qemu_is_not_looked_into() {
        let own = Process {
            pid: i32::try_from(std::process::id()).unwrap(),
            start_ticks: 0,
        };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        assert!(locate(Some(&own), &path).is_err());
        fs::write(&path, "").unwrap();
        assert_eq!(locate(Some(&own), &path).unwrap(), path);
    }
}
