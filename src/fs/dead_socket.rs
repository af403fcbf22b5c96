//! Sockets that a process left behind that is gone: whoever listens there next can't make its own.

use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Removes the socket at `path` if nobody listens there. Anything else is left alone, and is no error.
///
/// # Errors
/// When it can't be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    // Held, so that nobody can put another directory there between the look and the removal.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = match rustix::fs::open(parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Socket => {}
        Ok(_) | Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    let held = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string());
    match rustix::net::connect(&socket, &SocketAddrUnix::new(held.join(name))?) {
        Err(Errno::CONNREFUSED) => {
            rustix::fs::unlinkat(&directory, name, AtFlags::empty())?;
            Ok(())
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_a_socket_that_nobody_listens_at_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let _alive = UnixListener::bind(at("alive")).unwrap();
        drop(UnixListener::bind(at("dead")).unwrap());
        std::fs::write(at("file"), "x").unwrap();
        std::os::unix::fs::symlink(at("dead"), at("link")).unwrap();
        for name in ["link", "alive", "file", "missing", "dead"] {
            remove(&at(name)).unwrap();
        }
        remove(&at("missing/s")).unwrap();
        let there = |name: &str| at(name).symlink_metadata().is_ok();
        assert!(there("alive") && there("file") && there("link"));
        assert!(!there("dead"));
    }
}
