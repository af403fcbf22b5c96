//! The QEMU process behind the monitor: which one it is, and which files it holds. Reads /proc and changes nothing.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::process::Pid;

use super::super::Process;

/// The field of `/proc/PID/stat` with the start time, counted from the third one, the first behind the command's name.
const START_FIELD: usize = 22 - 3;

/// The process that listens at the other end of `socket`; `None` where the kernel can't tell.
pub(super) fn peer(socket: BorrowedFd<'_>) -> Option<Process> {
    let credentials = rustix::net::sockopt::socket_peercred(socket).ok()?;
    let pid = Pid::as_raw(Some(credentials.pid));
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(Process {
        pid,
        start_ticks: parse_start_ticks(&stat)?,
    })
}

/// Field 22 of `/proc/PID/stat` (proc(5)). The command's name may hold blanks and parentheses.
fn parse_start_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields
        .split_ascii_whitespace()
        .nth(START_FIELD)?
        .parse()
        .ok()
}

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
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_command_name() {
        let stat =
            "4242 (a) b (c) S 1 4242 4242 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 9 0 987654 10 11";
        assert_eq!(parse_start_ticks(stat), Some(987_654));
        assert_eq!(parse_start_ticks("4242 (x) S 1"), None);
    }

    #[test]
    fn the_peer_is_the_process_that_listens() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let _listener = UnixListener::bind(&path).unwrap();
        let stream = UnixStream::connect(&path).unwrap();
        let process = peer(stream.as_fd()).unwrap();
        assert_eq!(process.pid, i32::try_from(std::process::id()).unwrap());
        assert_eq!(peer(stream.as_fd()).unwrap(), process);
    }

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
