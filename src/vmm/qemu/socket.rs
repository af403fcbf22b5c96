//! The socket of a monitor: connecting without ever waiting for long, and sending descriptors along. Knows no QMP.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};

use super::super::address::Address;
use super::super::{Deadline, VmmError};

/// Time between two attempts to get into a full queue of a listening socket.
const CONNECT_RETRY: Duration = Duration::from_millis(10);
/// A monitor serves one client; others wait in the socket's queue, unanswered.
const BUSY: &str = "it hangs, or another client holds this monitor: give hypeman-snap a QMP monitor of its own \
                    (a second -qmp option)";

/// The error when nobody greets.
pub(super) fn busy(socket: &Path, limit: Duration) -> VmmError {
    VmmError::TimedOut {
        socket: socket.to_owned(),
        request: "with a greeting".to_owned(),
        limit,
        hint: Some(BUSY),
    }
}

/// A non-blocking connection. The queue of a busy monitor is short, and a connect to a full one does not wait.
///
/// # Errors
/// [`VmmError::Unreachable`], or [`VmmError::TimedOut`] when the queue stays full.
pub(super) fn open(socket: &Path, deadline: Deadline) -> Result<UnixStream, VmmError> {
    let unreachable = |errno: Errno| VmmError::Unreachable {
        socket: socket.to_owned(),
        source: errno.into(),
    };
    let short = Address::of(socket).map_err(|source| VmmError::Unreachable {
        socket: socket.to_owned(),
        source,
    })?;
    let address = SocketAddrUnix::new(short.path()).map_err(unreachable)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(unreachable)?;
    loop {
        match rustix::net::connect(&fd, &address) {
            Ok(()) => return Ok(UnixStream::from(fd)),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if deadline.has_passed() => {
                return Err(busy(socket, deadline.limit()));
            }
            Err(Errno::AGAIN) => std::thread::sleep(CONNECT_RETRY),
            Err(errno) => return Err(unreachable(errno)),
        }
    }
}

/// One send, with `fd` in its ancillary data. A broken pipe is an error, no signal.
///
/// # Errors
/// The kernel's.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> Result<usize, Errno> {
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::NOBUFS);
    }
    rustix::net::sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )
}
