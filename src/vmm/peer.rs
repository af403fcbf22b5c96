//! Who listens at a control socket: the process, its user, and the root directory that it sees, so that a path in the
//! VMM's own words is found from here. Talks to nobody: what it knows comes from the kernel.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::vmm::address::Address;
use crate::vmm::{Process, VmmError};

/// The process that listens at a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The process.
    pub process: Process,
    /// The user and the group by which it reaches files.
    pub owner: (u32, u32),
}

/// The root directory of a process, held.
#[derive(Debug)]
pub struct Root {
    /// The directory.
    pub dir: OwnedFd,
    /// What it is to this process.
    pub kind: RootKind,
}

/// What another process's root directory is to this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootKind {
    /// The same; the mounts below may be others.
    Shared,
    /// Another one, which only root can have put it into.
    Jail,
    /// Another one, in a user namespace of its own: any user can make such a one, of whatever directories there are.
    Foreign,
}

impl Root {
    /// Its path from here, for messages.
    pub fn path(&self) -> PathBuf {
        let link = format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&self.dir)
        );
        fs::read_link(link).unwrap_or_else(|_| PathBuf::from("/"))
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
        let process = Process::of(pid)?;
        let status = process.status()?;
        Some(Self {
            process,
            owner: (status.fuid, status.fgid),
        })
    }

    /// The root directory of the process.
    ///
    /// # Errors
    /// [`VmmError::Unsupported`] when this user may not look, or the process is gone.
    pub fn root(&self) -> Result<Root, VmmError> {
        self.look_at_root().map_err(|error| {
            VmmError::Unsupported(format!(
                "can't see the root directory of the VMM (process {}, user {}), which tells whether it is jailed: \
                 {error}; run this tool as root or as that user",
                self.process.pid, self.owner.0
            ))
        })
    }

    fn look_at_root(&self) -> io::Result<Root> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(self.proc("root"), flags, Mode::empty())?;
        let inode = |path: &Path| fs::metadata(path).map(|it| (it.dev(), it.ino()));
        let (its, ours) = (rustix::fs::fstat(&dir)?, inode(Path::new("/"))?);
        let namespace = inode(&self.proc("ns/user"))?;
        let kind = if (its.st_dev, its.st_ino) == ours {
            RootKind::Shared
        } else if namespace == inode(Path::new("/proc/self/ns/user"))? {
            RootKind::Jail
        } else {
            RootKind::Foreign
        };
        // Else its number may be another's by now.
        if !self.process.is_alive() {
            return Err(io::Error::other("it has ended"));
        }
        Ok(Root { dir, kind })
    }

    fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.process.pid))
    }
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
        assert_eq!(peer.root().unwrap().kind, RootKind::Shared);
    }

    #[test]
    fn roots_of_jails_are_told_from_those_that_any_user_can_make() {
        use std::io::Read as _;
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        // Goes into its new root without becoming another program, which it would not find there.
        let jail = "$| = 1; chroot($ARGV[0]) or exit; print 'in'; sleep 1000";
        let namespace = ["unshare", "--user", "--map-root-user"];
        for (before, kind) in [
            (&[][..], RootKind::Jail),
            (&namespace[..], RootKind::Foreign),
        ] {
            let words = [before, &["perl", "-e", jail]].concat();
            let mut child = std::process::Command::new(words[0])
                .args(&words[1..])
                .arg(&root)
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut said = [0; 2];
            if child
                .stdout
                .as_mut()
                .unwrap()
                .read_exact(&mut said)
                .is_err()
            {
                support::skip::skipped(&format!("the root of {words:?}: it is not allowed here"));
                child.wait().unwrap();
                continue;
            }
            let pid = i32::try_from(child.id()).unwrap();
            let peer = |start_ticks| Peer {
                process: Process { pid, start_ticks },
                owner: (0, 0),
            };
            let seen = peer(Process::of(pid).unwrap().start_ticks).root().unwrap();
            let another = peer(1).root();
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(seen.kind, kind);
            assert_eq!(seen.path(), root);
            assert!(another.is_err());
        }
    }

    #[test]
    fn a_socket_without_listener_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        drop(UnixListener::bind(&socket).unwrap());
        let error = Peer::at(&Address::of(&socket).unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
