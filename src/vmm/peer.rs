//! Who listens at a control socket: the process, its user, and the root directory that it sees, so that a path in the
//! VMM's own words is found from here. Talks to nobody: what it knows comes from the kernel.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::vmm::{Process, VmmError};

/// The longest path of a unix socket, in bytes (unix(7)): `sun_path` less its end mark.
const SOCKET_PATH_MAX_BYTES: usize = 107;

/// The process that listens at a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The process.
    pub process: Process,
    /// The user and the group by which it reaches files.
    pub owner: (u32, u32),
}

/// A control socket by a path that fits into a socket address.
#[derive(Debug)]
pub struct Address {
    path: PathBuf,
    // Keeps the short path alive, which goes through it.
    _parent: Option<OwnedFd>,
}

impl Address {
    /// The address of `socket`; a path that is too long for one, as in a jail, is replaced by a short one.
    ///
    /// # Errors
    /// When `socket` has no name or its directory can't be opened.
    pub fn of(socket: &Path) -> io::Result<Self> {
        if socket.as_os_str().len() <= SOCKET_PATH_MAX_BYTES {
            return Ok(Self {
                path: socket.to_owned(),
                _parent: None,
            });
        }
        let (Some(parent), Some(name)) = (socket.parent(), socket.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let parent = rustix::fs::open(
            parent,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let short = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&parent));
        Ok(Self {
            path: Path::new(&short).join(name),
            _parent: Some(parent),
        })
    }

    /// The path to connect to, good for as long as this address lives.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Peer {
    /// Who listens at `address`; `None` where the kernel can't tell, as for a process outside our PID namespace.
    /// Never waits: a listener whose queue is full is an error.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn at(address: &Address) -> io::Result<Option<Self>> {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(address.path())?)?;
        Ok(Self::of(&socket))
    }

    /// Who is at the other end of the connected `socket`; `None` where the kernel can't tell.
    pub fn of(socket: impl AsFd) -> Option<Self> {
        let pid = sockopt::socket_peercred(socket)
            .ok()?
            .pid
            .as_raw_nonzero()
            .get();
        let process = Process {
            pid,
            start_ticks: start_ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?,
        };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        Some(Self {
            process,
            owner: (
                file_system_id(&status, "Uid:")?,
                file_system_id(&status, "Gid:")?,
            ),
        })
    }

    /// The root directory of the process as this process reaches it; `None` when both have the same one. `socket` is
    /// where it listens: a jail holds its own socket, so the jail is the directory above it that is the same.
    ///
    /// # Errors
    /// [`VmmError::Unsupported`] when this user may not look.
    pub fn chroot(&self, socket: &Path) -> Result<Option<PathBuf>, VmmError> {
        let root = self.proc("root");
        let found = fs::metadata(&root).and_then(|its| {
            let is_it = |path: &Path| -> io::Result<bool> {
                let other = fs::metadata(path)?;
                Ok((other.dev(), other.ino()) == (its.dev(), its.ino()))
            };
            if is_it(Path::new("/"))? {
                return Ok(None);
            }
            let socket = fs::canonicalize(socket)?;
            let above = socket.ancestors().skip(1);
            let jail = above
                .filter(|path| is_it(path).unwrap_or(false))
                .map(Path::to_owned)
                .last();
            Ok(Some(jail.unwrap_or(root)))
        });
        found.map_err(|error| {
            VmmError::Unsupported(format!(
                "can't see the root directory of the VMM (process {}, user {}), which tells whether it is jailed: \
                 {error}; run this tool as root or as that user",
                self.process.pid, self.owner.0
            ))
        })
    }

    fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.process.pid))
    }
}

/// When a process started, in clock ticks since boot: field 22 of its `stat` (proc_pid_stat(5)). The second field is a
/// name in parentheses that may itself contain any of them.
pub fn start_ticks(stat: &str) -> Option<u64> {
    const FIRST_AFTER_NAME: usize = 3;
    let after_name = &stat[stat.rfind(')')? + 1..];
    after_name
        .split_ascii_whitespace()
        .nth(22 - FIRST_AFTER_NAME)?
        .parse()
        .ok()
}

/// The fourth id of a line of `/proc/PID/status`: the one that counts for files.
fn file_system_id(status: &str, key: &str) -> Option<u32> {
    let ids = status.lines().find_map(|line| line.strip_prefix(key))?;
    ids.split_ascii_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn the_listener_of_this_process_is_this_process_and_not_jailed() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let _listener = UnixListener::bind(&socket).unwrap();
        let peer = Peer::at(&Address::of(&socket).unwrap()).unwrap().unwrap();
        assert_eq!(u32::try_from(peer.process.pid).unwrap(), std::process::id());
        assert_eq!(peer.owner.0, rustix::process::geteuid().as_raw());
        assert_eq!(peer.chroot(&socket).unwrap(), None);
    }

    #[test]
    fn a_socket_path_longer_than_an_address_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(SOCKET_PATH_MAX_BYTES));
        fs::create_dir(&deep).unwrap();
        let socket = deep.join("s");
        let address = Address::of(&socket).unwrap();
        let _listener = UnixListener::bind(address.path()).unwrap();
        assert!(socket.exists());
        assert!(Peer::at(&Address::of(&socket).unwrap()).unwrap().is_some());
    }

    #[test]
    fn a_socket_without_listener_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        drop(UnixListener::bind(&socket).unwrap());
        let error = Peer::at(&Address::of(&socket).unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_process_name_with_parentheses_does_not_shift_the_start_time() {
        let fields: Vec<String> = (3..=52).map(|field| field.to_string()).collect();
        let stat = format!("7 (a) b (c) {}", fields.join(" "));
        assert_eq!(start_ticks(&stat), Some(22));
    }
}
