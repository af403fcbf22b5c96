//! A QMP connection: greeting, requests with ids, file descriptors passed along, events with QEMU's own time stamps.
//!
//! Every wait has a deadline and looks at the interrupt flag, except while a guest is being put right
//! ([`Qmp::ignore_interrupts`]). It knows the protocol, not what the commands mean.

use std::io::{ErrorKind, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use serde_json::{Value, json};

use super::super::peer::Address;
use super::super::{Deadline, VmmError};
use super::inbox::Inbox;
use crate::interrupt;

/// Longest wait between two looks at the interrupt flag: a signal that comes just before the wait does not end it.
const SLICE: Duration = Duration::from_millis(50);
/// Time between two attempts to get into a full queue of a listening socket.
const CONNECT_RETRY: Duration = Duration::from_millis(10);
/// How many changes of the run state are remembered; beyond, the oldest are forgotten.
const MAX_CHANGES: usize = 1000;
/// A monitor serves one client; others wait in the socket's queue, unanswered.
const BUSY: &str = "it hangs, or another client holds this monitor: give hypeman-snap a QMP monitor of its own \
                    (a second -qmp option)";

/// The guest stopped or went on, by QEMU's account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RunChange {
    /// Whether it runs from here on.
    pub runs: bool,
    /// When, since the epoch; `None` where QEMU could not tell.
    pub at: Option<Duration>,
}

/// The version that QEMU greets with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    /// As in 10.1.2: 10.
    pub major: u64,
    /// As in 10.1.2: 1.
    pub minor: u64,
    /// As in 10.1.2: 2.
    pub micro: u64,
}

/// One client connection to a monitor.
#[derive(Debug)]
pub(super) struct Qmp {
    stream: UnixStream,
    socket: PathBuf,
    limit: Duration,
    inbox: Inbox,
    changes: Vec<RunChange>,
    version: Version,
    next_id: u64,
    heeds_interrupts: bool,
    is_interrupted: fn() -> bool,
    /// Set when a request was cut off in the middle: what follows it would be read as part of it.
    is_cut_off: bool,
}

impl Qmp {
    /// Connects to the monitor behind `socket` and negotiates. `limit` bounds the connect and each answer.
    ///
    /// # Errors
    /// [`VmmError::Unreachable`], [`VmmError::TimedOut`] with a hint when nobody greets, [`VmmError::Protocol`] when
    /// whoever listens there is no QMP monitor.
    pub fn connect(socket: &Path, limit: Duration) -> Result<Self, VmmError> {
        Self::connect_with(socket, limit, interrupt::requested)
    }

    /// As [`Qmp::connect`], with another source of interrupts than the process's signals.
    pub fn connect_with(
        socket: &Path,
        limit: Duration,
        is_interrupted: fn() -> bool,
    ) -> Result<Self, VmmError> {
        let deadline = Deadline::after(limit);
        let mut qmp = Self {
            stream: open(socket, deadline, is_interrupted)?,
            socket: socket.to_owned(),
            limit,
            inbox: Inbox::default(),
            changes: Vec::new(),
            version: Version {
                major: 0,
                minor: 0,
                micro: 0,
            },
            next_id: 0,
            heeds_interrupts: true,
            is_interrupted,
            is_cut_off: false,
        };
        let greeting = match qmp.receive("the greeting", deadline) {
            Err(VmmError::Protocol { .. }) => return Err(no_monitor()),
            other => other?.ok_or_else(|| busy(socket, limit))?,
        };
        qmp.version = parse_greeting(&greeting)?;
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// The version from the greeting.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The socket's other end, to ask the kernel about.
    pub fn peer(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// How long an answer may take.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// From now on a signal no longer ends a wait: what must be done to put the guest right is done.
    pub fn ignore_interrupts(&mut self) {
        self.heeds_interrupts = false;
    }

    /// From now on a signal ends a wait again.
    pub fn heed_interrupts(&mut self) {
        self.heeds_interrupts = true;
    }

    /// The error for a wait for `what` that took longer than `limit`.
    pub fn timed_out(&self, what: &str, limit: Duration) -> VmmError {
        VmmError::TimedOut {
            socket: self.socket.clone(),
            request: what.to_owned(),
            limit,
            hint: None,
        }
    }

    /// Runs `command` and returns what it returns.
    ///
    /// # Errors
    /// [`VmmError::Refused`] with QEMU's own words; else what the connection fails with.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value, VmmError> {
        self.execute_with(command, arguments, None, self.limit)
    }

    /// As [`Qmp::execute`], with no more time than is left until `deadline`.
    ///
    /// # Errors
    /// As [`Qmp::execute`]; [`VmmError::PauseTooLong`] when `deadline` is what passed.
    pub fn execute_by(
        &mut self,
        command: &str,
        arguments: &Value,
        deadline: Deadline,
    ) -> Result<Value, VmmError> {
        let limit = self.limit.min(deadline.remaining());
        match self.execute_with(command, arguments, None, limit) {
            Err(VmmError::TimedOut { .. }) if deadline.has_passed() => {
                Err(VmmError::PauseTooLong {
                    limit: deadline.limit(),
                })
            }
            other => other,
        }
    }

    /// As [`Qmp::execute`]; `fd` travels in the very message of the command, where QEMU takes it from.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn execute_with_fd(
        &mut self,
        command: &str,
        arguments: &Value,
        fd: BorrowedFd<'_>,
    ) -> Result<Value, VmmError> {
        self.execute_with(command, arguments, Some(fd), self.limit)
    }

    /// Takes in what QEMU sends by itself, for up to `wait`; returns early when something came.
    ///
    /// # Errors
    /// When the connection fails, or a signal came.
    pub fn listen(&mut self, wait: Duration) -> Result<(), VmmError> {
        self.listen_during("the wait for its events", wait)
    }

    fn listen_during(&mut self, request: &str, wait: Duration) -> Result<(), VmmError> {
        if let Some(message) = self.receive(request, Deadline::after(wait))? {
            self.note(&message);
            // What came in the same read is there already.
            while let Some(message) = self.buffered(request)? {
                self.note(&message);
            }
        }
        Ok(())
    }

    /// The changes of the run state that QEMU reported since [`Qmp::forget_changes`], oldest first.
    pub fn changes(&self) -> &[RunChange] {
        &self.changes
    }

    /// Drops the changes of the run state that were reported so far, those included that were not read yet.
    ///
    /// # Errors
    /// When the connection fails, or a signal came.
    pub fn forget_changes(&mut self) -> Result<(), VmmError> {
        self.listen(Duration::ZERO)?;
        self.changes.clear();
        Ok(())
    }

    fn execute_with(
        &mut self,
        command: &str,
        arguments: &Value,
        fd: Option<BorrowedFd<'_>>,
        limit: Duration,
    ) -> Result<Value, VmmError> {
        let deadline = Deadline::after(limit);
        self.next_id += 1;
        let id = json!(self.next_id);
        let mut line = json!({"execute": command, "arguments": arguments, "id": &id}).to_string();
        log::trace!("qmp {}: > {line}", self.socket.display());
        line.push('\n');
        self.send(command, line.as_bytes(), fd, deadline)?;
        loop {
            let mut message = self
                .receive(command, deadline)?
                .ok_or_else(|| self.timed_out(command, limit))?;
            match message.get("id") {
                Some(answered) if *answered == id => {}
                // The late answer to a request that was given up.
                Some(_) => continue,
                // Only a request that it can't read makes QEMU answer without an id.
                None if message.get("error").is_some() => {}
                None => {
                    self.note(&message);
                    continue;
                }
            }
            if let Some(result) = message.get_mut("return") {
                return Ok(result.take());
            }
            let refusal = message.pointer("/error/desc").and_then(Value::as_str);
            return Err(match refusal {
                Some(refusal) => VmmError::Refused {
                    request: command.to_owned(),
                    message: refusal.to_owned(),
                },
                None => VmmError::Protocol {
                    request: command.to_owned(),
                    detail: "it holds neither a result nor an error".to_owned(),
                },
            });
        }
    }

    /// Takes note of an event, if it is one that matters here.
    fn note(&mut self, message: &Value) {
        let runs = match message.get("event").and_then(Value::as_str) {
            Some("STOP") => false,
            Some("RESUME") => true,
            _ => return,
        };
        if self.changes.len() == MAX_CHANGES {
            self.changes.remove(0);
        }
        let at = parse_timestamp(message);
        self.changes.push(RunChange { runs, at });
    }

    fn send(
        &mut self,
        request: &str,
        line: &[u8],
        mut fd: Option<BorrowedFd<'_>>,
        deadline: Deadline,
    ) -> Result<(), VmmError> {
        if self.is_cut_off {
            return Err(self.timed_out(request, deadline.limit()));
        }
        let mut rest = line;
        while !rest.is_empty() {
            match send_some(self.stream.as_fd(), rest, fd) {
                Ok(sent) => {
                    fd = None;
                    rest = rest.get(sent..).unwrap_or_default();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let ready = self.wait(PollFlags::OUT, deadline);
                    if !matches!(ready, Ok(true)) {
                        self.is_cut_off = rest.len() < line.len();
                        return ready.and_then(|_| Err(self.timed_out(request, deadline.limit())));
                    }
                }
                Err(_) => return Err(self.closed(request)),
            }
        }
        Ok(())
    }

    /// The next message; `None` when none came in time.
    fn receive(&mut self, request: &str, deadline: Deadline) -> Result<Option<Value>, VmmError> {
        loop {
            if let Some(message) = self.buffered(request)? {
                return Ok(Some(message));
            }
            match self.inbox.fill(|buffer| (&self.stream).read(buffer)) {
                Ok(0) => return Err(self.closed(request)),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !self.wait(PollFlags::IN, deadline)? {
                        return Ok(None);
                    }
                }
                Err(_) => return Err(self.closed(request)),
            }
        }
    }

    /// A message that has been read already.
    fn buffered(&mut self, request: &str) -> Result<Option<Value>, VmmError> {
        let message = self
            .inbox
            .next_message()
            .map_err(|detail| VmmError::Protocol {
                request: request.to_owned(),
                detail,
            })?;
        if let Some(message) = &message {
            log::trace!("qmp {}: < {message}", self.socket.display());
        }
        Ok(message)
    }

    /// Waits until the socket is ready; `false` when `deadline` passed first.
    fn wait(&self, flags: PollFlags, deadline: Deadline) -> Result<bool, VmmError> {
        loop {
            if self.heeds_interrupts && (self.is_interrupted)() {
                return Err(VmmError::Interrupted);
            }
            let slice = deadline.remaining().min(SLICE);
            let timeout = Timespec {
                tv_sec: 0,
                tv_nsec: slice.subsec_nanos().into(),
            };
            let mut sockets = [PollFd::new(&self.stream, flags)];
            match rustix::event::poll(&mut sockets, Some(&timeout)) {
                Ok(0) | Err(Errno::INTR) if !deadline.has_passed() => {}
                Ok(0) | Err(Errno::INTR) => return Ok(false),
                // An error of the socket shows in the read or write that follows.
                Ok(_) | Err(_) => return Ok(true),
            }
        }
    }

    fn closed(&self, request: &str) -> VmmError {
        VmmError::Closed {
            socket: self.socket.clone(),
            request: request.to_owned(),
        }
    }
}

fn busy(socket: &Path, limit: Duration) -> VmmError {
    VmmError::TimedOut {
        socket: socket.to_owned(),
        request: "with a greeting".to_owned(),
        limit,
        hint: Some(BUSY),
    }
}

/// A non-blocking connection. The queue of a busy monitor is short, and a connect to a full one does not wait.
fn open(
    socket: &Path,
    deadline: Deadline,
    is_interrupted: fn() -> bool,
) -> Result<UnixStream, VmmError> {
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
        if is_interrupted() {
            return Err(VmmError::Interrupted);
        }
    }
}

/// One send, with `fd` in its ancillary data. A broken pipe is an error, no signal.
fn send_some(
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

fn parse_greeting(greeting: &Value) -> Result<Version, VmmError> {
    let number = |field| {
        greeting
            .pointer("/QMP/version/qemu")
            .and_then(|version| version.get(field))
            .and_then(Value::as_u64)
    };
    match (number("major"), number("minor"), number("micro")) {
        (Some(major), Some(minor), Some(micro)) => Ok(Version {
            major,
            minor,
            micro,
        }),
        _ => Err(no_monitor()),
    }
}

fn no_monitor() -> VmmError {
    VmmError::Protocol {
        request: "a new connection".to_owned(),
        detail: "no QMP monitor greets there".to_owned(),
    }
}

fn parse_timestamp(event: &Value) -> Option<Duration> {
    let seconds = event.pointer("/timestamp/seconds")?.as_u64()?;
    let microseconds = event.pointer("/timestamp/microseconds")?.as_u64()?;
    Duration::from_secs(seconds).checked_add(Duration::from_micros(microseconds))
}

#[cfg(test)]
#[path = "qmp_tests.rs"]
mod tests;
