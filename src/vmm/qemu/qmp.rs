//! A QMP connection: greeting, requests with ids, file descriptors passed along, events with QEMU's own time stamps.
//!
//! Every wait has a deadline and looks at the watch, which is more patient while a guest is being put right
//! ([`Qmp::ignore_interrupts`]). It knows the protocol, not what the commands mean.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::super::{Deadline, Timeouts, VmmError};
use super::inbox::Inbox;
use super::wire::{Message, RunChange, Version};
use super::{socket, wire};
use crate::interrupt::{Over, Watch};

/// Longest wait between two looks at the watch: a signal that comes just before the wait does not end it.
const SLICE: Duration = Duration::from_millis(50);
/// How many changes of the run state are remembered; beyond, the oldest are forgotten.
const MAX_CHANGES: usize = 1000;

/// One client connection to a monitor.
#[derive(Debug)]
pub(super) struct Qmp {
    stream: UnixStream,
    socket: PathBuf,
    limit: Duration,
    inbox: Inbox,
    changes: Vec<RunChange>,
    mishaps: Vec<String>,
    version: Version,
    next_id: u64,
    heeds_interrupts: bool,
    watch: Watch,
    /// Set when a request was cut off in the middle: what follows it would be read as part of it.
    is_cut_off: bool,
}

impl Qmp {
    /// Connects to the monitor behind `socket` and negotiates. `timeouts` bound the connect and each answer.
    ///
    /// # Errors
    /// [`VmmError::Unreachable`], [`VmmError::TimedOut`] with a hint when nobody greets, [`VmmError::Protocol`] when
    /// whoever listens there is no QMP monitor.
    pub fn connect(socket: &Path, timeouts: Timeouts) -> Result<Self, VmmError> {
        let limit = timeouts.request;
        let deadline = Deadline::after(limit);
        let mut qmp = Self {
            stream: socket::open(socket, deadline)?,
            socket: socket.to_owned(),
            limit,
            inbox: Inbox::default(),
            changes: Vec::new(),
            mishaps: Vec::new(),
            version: Version::default(),
            next_id: 0,
            // A guest may have to be resumed over this very connection.
            heeds_interrupts: false,
            watch: timeouts.watch,
            is_cut_off: false,
        };
        let greeting = match qmp.receive("the greeting", deadline) {
            Err(VmmError::Protocol { .. }) => return Err(wire::no_monitor()),
            other => other?.ok_or_else(|| socket::busy(socket, limit))?,
        };
        qmp.version = greeting.version()?;
        qmp.execute("qmp_capabilities", &json!({}))?;
        qmp.heed_interrupts();
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

    /// What ends every wait.
    pub fn watch(&self) -> Watch {
        self.watch
    }

    /// The socket, for messages.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// From now on this is what ends every wait.
    pub fn set_watch(&mut self, watch: Watch) {
        self.watch = watch;
    }

    /// From now on a signal, or the end of the instance's time, ends a wait only after a while: what must be done to put
    /// the guest right is done.
    pub fn ignore_interrupts(&mut self) {
        self.heeds_interrupts = false;
    }

    /// From now on a signal ends a wait at once again.
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

    /// Runs `command`, whatever it returns.
    ///
    /// # Errors
    /// [`VmmError::Refused`] with QEMU's own words; else what the connection fails with.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<(), VmmError> {
        self.exchange(command, arguments, None, self.limit)
            .map(drop)
    }

    /// Runs `command` and reads what it returns.
    ///
    /// # Errors
    /// As [`Qmp::execute`]; [`VmmError::Protocol`] when that is no `T`.
    pub fn query<T: DeserializeOwned>(
        &mut self,
        command: &str,
        arguments: &Value,
    ) -> Result<T, VmmError> {
        let returned = self.exchange(command, arguments, None, self.limit)?;
        read(command, &returned)
    }

    /// As [`Qmp::query`], with no more time than is left until `deadline`.
    ///
    /// # Errors
    /// As [`Qmp::query`]; [`VmmError::PauseTooLong`] when `deadline` is what passed.
    pub fn query_by<T: DeserializeOwned>(
        &mut self,
        command: &str,
        arguments: &Value,
        deadline: Deadline,
    ) -> Result<T, VmmError> {
        let limit = self.limit.min(deadline.remaining());
        match self.exchange(command, arguments, None, limit) {
            Err(VmmError::TimedOut { .. }) if deadline.has_passed() => {
                Err(VmmError::PauseTooLong {
                    limit: deadline.limit(),
                    goes_on: false,
                })
            }
            returned => read(command, &returned?),
        }
    }

    /// As [`Qmp::query`]; `fd` travels in the very message of the command, where QEMU takes it from.
    ///
    /// # Errors
    /// As [`Qmp::query`].
    pub fn query_with_fd<T: DeserializeOwned>(
        &mut self,
        command: &str,
        arguments: &Value,
        fd: BorrowedFd<'_>,
    ) -> Result<T, VmmError> {
        let returned = self.exchange(command, arguments, Some(fd), self.limit)?;
        read(command, &returned)
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

    /// What has befallen the guest since this was last asked.
    ///
    /// # Errors
    /// When the connection fails, or a signal came.
    pub fn mishaps(&mut self) -> Result<Vec<String>, VmmError> {
        self.listen_during("the wait for its events", Duration::ZERO)?;
        Ok(std::mem::take(&mut self.mishaps))
    }

    fn exchange(
        &mut self,
        command: &str,
        arguments: &Value,
        fd: Option<BorrowedFd<'_>>,
        limit: Duration,
    ) -> Result<Box<RawValue>, VmmError> {
        self.check()?;
        let limit = if self.heeds_interrupts {
            limit
        } else {
            self.watch.patience(limit)
        };
        let deadline = Deadline::after(limit);
        self.next_id += 1;
        let id = self.next_id;
        let mut line = json!({"execute": command, "arguments": arguments, "id": id}).to_string();
        log::trace!("qmp {}: > {line}", self.socket.display());
        line.push('\n');
        self.send(command, line.as_bytes(), fd, deadline)?;
        loop {
            // Events that keep coming must not keep the deadline from being looked at.
            let received = if deadline.has_passed() {
                self.buffered(command)?
            } else {
                self.receive(command, deadline)?
            };
            let message = received.ok_or_else(|| self.timed_out(command, limit))?;
            match message.id {
                Some(answered) if answered == id => {}
                // The late answer to a request that was given up.
                Some(_) => continue,
                // Only a request that it can't read makes QEMU answer without an id.
                None if message.error.is_some() => {}
                None => {
                    self.note(&message);
                    continue;
                }
            }
            if let Some(returned) = message.returned {
                return Ok(returned);
            }
            return Err(match message.error.and_then(|refusal| refusal.desc) {
                Some(refusal) => VmmError::Refused {
                    request: command.to_owned(),
                    message: refusal,
                },
                None => VmmError::Protocol {
                    request: command.to_owned(),
                    detail: "it holds neither a result nor an error".to_owned(),
                },
            });
        }
    }

    /// Takes note of an event, if it is one that matters here.
    fn note(&mut self, message: &Message) {
        if let Some(mishap) = message
            .mishap()
            .filter(|_| self.mishaps.len() < MAX_CHANGES)
        {
            self.mishaps.push(mishap);
        }
        let Some(change) = message.run_change() else {
            return;
        };
        if self.changes.len() == MAX_CHANGES {
            self.changes.remove(0);
        }
        self.changes.push(change);
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
            match socket::send(self.stream.as_fd(), rest, fd) {
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

    /// The next message; `None` when none was whole in time, even if bytes keep coming.
    fn receive(&mut self, request: &str, deadline: Deadline) -> Result<Option<Message>, VmmError> {
        let mut is_last = false;
        loop {
            if let Some(message) = self.buffered(request)? {
                return Ok(Some(message));
            }
            if is_last {
                return Ok(None);
            }
            self.check()?;
            // What is there already is taken even when there is no time to wait.
            is_last = deadline.has_passed();
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
    fn buffered(&mut self, request: &str) -> Result<Option<Message>, VmmError> {
        let nonsense = |detail| VmmError::Protocol {
            request: request.to_owned(),
            detail,
        };
        let Some(line) = self.inbox.next_line().map_err(nonsense)? else {
            return Ok(None);
        };
        log::trace!(
            "qmp {}: < {}",
            self.socket.display(),
            String::from_utf8_lossy(line)
        );
        Message::parse(line)
            .map(Some)
            .map_err(|error| nonsense(format!("it is no message of QMP: {error}")))
    }

    /// Waits until the socket is ready; `false` when `deadline` passed first.
    fn wait(&self, flags: PollFlags, deadline: Deadline) -> Result<bool, VmmError> {
        loop {
            self.check()?;
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

    fn check(&self) -> Result<(), Over> {
        if self.heeds_interrupts {
            self.watch.check()
        } else {
            self.watch.check_cleanup()
        }
    }

    fn closed(&self, request: &str) -> VmmError {
        VmmError::Closed {
            socket: self.socket.clone(),
            request: request.to_owned(),
        }
    }
}

/// What `command` returned, as a `T`.
fn read<T: DeserializeOwned>(command: &str, returned: &RawValue) -> Result<T, VmmError> {
    serde_json::from_str(returned.get()).map_err(|error| VmmError::Protocol {
        request: command.to_owned(),
        detail: error.to_string(),
    })
}

#[cfg(test)]
#[path = "qmp_tests.rs"]
mod tests;
