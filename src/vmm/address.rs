//! The path to a control socket, walked so that nobody who may write to a directory on the way can lead it to another
//! VM's socket, and held: what was looked at is what is connected to. Also lifts the limit on the length of a socket's
//! path.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, Stat};

use crate::fs::walk::walk;

/// A control socket, held.
#[derive(Debug)]
pub struct Address {
    path: PathBuf,
    // What the path goes through.
    _socket: OwnedFd,
}

impl Address {
    /// The address of `socket`. Symlinks are followed in directories that only root and this user can write to, and not
    /// below the first other one.
    ///
    /// # Errors
    /// When there is nothing at `socket`, or a symlink on the way that others could have made.
    pub fn of(socket: &Path) -> io::Result<Self> {
        let socket = hold(socket)?;
        Ok(Self {
            path: PathBuf::from(format!("/proc/self/fd/{}", socket.as_raw_fd())),
            _socket: socket,
        })
    }

    /// The path to connect to, good for as long as this address lives.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Holds the socket.
fn hold(path: &Path) -> io::Result<OwnedFd> {
    // The first directory on the way that others can write to.
    let mut others: Option<PathBuf> = None;
    walk(&std::path::absolute(path)?, |step| {
        if others.is_none() && is_others(step.directory_stat) {
            others = Some(step.directory.to_owned());
        }
        match &others {
            Some(directory) if step.is_symlink() => Err(io::Error::other(format!(
                "{} is a symlink, and others than root can write to {}: it could lead to another VM's socket; register \
                 the path of the socket itself",
                step.directory.join(step.name).display(),
                directory.display()
            ))),
            Some(_) | None => Ok(()),
        }
    })
}

/// Whether others than root and this user can make entries in the directory. A sticky bit keeps them from none.
fn is_others(directory: &Stat) -> bool {
    let is_ours = directory.st_uid == 0 || directory.st_uid == rustix::process::geteuid().as_raw();
    let writable = Mode::from_raw_mode(directory.st_mode) & (Mode::WGRP | Mode::WOTH);
    !is_ours || !writable.is_empty()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn a_socket_path_longer_than_an_address_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(200));
        fs::create_dir(&deep).unwrap();
        let held = fs::File::open(&deep).unwrap();
        let short = format!("/proc/self/fd/{}/s", held.as_raw_fd());
        let _listener = UnixListener::bind(short).unwrap();
        let address = Address::of(&deep.join("s")).unwrap();
        UnixStream::connect(address.path()).unwrap();
    }

    #[test]
    fn what_was_looked_at_is_what_is_connected_to() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let first = UnixListener::bind(&socket).unwrap();
        let address = Address::of(&socket).unwrap();
        fs::remove_file(&socket).unwrap();
        let second = UnixListener::bind(&socket).unwrap();
        for listener in [&first, &second] {
            listener.set_nonblocking(true).unwrap();
        }
        UnixStream::connect(address.path()).unwrap();
        assert!(first.accept().is_ok());
        assert!(second.accept().is_err());
    }

    #[test]
    fn symlinks_that_others_could_have_made_lead_nowhere() {
        // Below a directory of our own, in none that others can write to.
        let Ok(dir) = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")) else {
            return;
        };
        let dir = dir.path().canonicalize().unwrap();
        if dir
            .ancestors()
            .any(|it| is_others(&rustix::fs::stat(it).unwrap()))
        {
            support::skip::skipped("symlinks in directories of root's: the source is not in one");
            return;
        }
        let place = dir.join("place");
        fs::create_dir(&place).unwrap();
        let _listener = UnixListener::bind(place.join("s")).unwrap();
        symlink("s", place.join("link")).unwrap();
        symlink("../place", place.join("here")).unwrap();
        symlink(&place, dir.join("alias")).unwrap();
        let ways = [
            "place/link",
            "place/here/s",
            "alias/link",
            "alias/here/link",
        ];
        for way in ways {
            assert!(Address::of(&dir.join(way)).is_ok(), "{way}");
        }
        for mode in [0o775, 0o757, 0o1777] {
            fs::set_permissions(&place, Permissions::from_mode(mode)).unwrap();
            for way in ways {
                let error = Address::of(&dir.join(way)).unwrap_err().to_string();
                assert!(error.contains("is a symlink"), "{way}: {error}");
            }
            for way in ["place/s", "alias/s", "alias/../place/s"] {
                assert!(Address::of(&dir.join(way)).is_ok(), "{way}");
            }
        }
        symlink("loop", dir.join("loop")).unwrap();
        assert!(Address::of(&dir.join("loop/s")).is_err());
    }

    #[test]
    fn a_missing_socket_is_said_to_be_missing() {
        let dir = tempfile::tempdir().unwrap();
        let error = Address::of(&dir.path().join("s")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
