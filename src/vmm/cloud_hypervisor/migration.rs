//! A guest's memory by a migration to this process that is refused at its very end: it streams here while the guest runs, the
//! guest is paused for what is left of it and for its devices' state, and goes on when the end is refused, or when this process
//! hangs up or dies (vmm/src/lib.rs and vm-migration/src/protocol.rs in Cloud Hypervisor's sources, version 54).
//!
//! What comes is a VMM's word: it is bounded by the memory that the guest has, and each wait looks at the watch.

mod ranges;

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hyper::Method;
use rustix::fs::AtFlags;
use serde_json::{Value, json};

use crate::fs::beneath::Beneath;
use crate::fs::extents::{self, Next};
use crate::interrupt::Watch;
use crate::vmm::http::HttpSocket;
use crate::vmm::peer::Peer;
use crate::vmm::{Timeouts, VmmError};
use ranges::{Range, layout, mappings, ranges};

const SEND: &str = "/api/v1/vm.send-migration";
/// The socket's name, until it is connected to.
const NAME: &str = "m";
/// The longest path of a socket, in bytes (unix(7)).
const SOCKET_MAX_BYTES: usize = 107;
/// How long the guest may be paused for what is left of its memory, in ms: when to begin is the VMM's decision.
const DOWNTIME_MS: u64 = 10;
/// How long the VMM may go on sending what the guest writes again, in seconds; then it pauses the guest all the same.
const SENDS_FOR_S: u64 = 60;
/// How long all of it may take as far as the request is concerned: the watch ends it before.
const REQUEST_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long nothing may come.
const STALL: Duration = Duration::from_secs(30);
/// How long the VMM may take to end what was refused.
const SETTLES: Duration = Duration::from_secs(10);
const SLICE: Duration = Duration::from_millis(50);
const CONFIG_MAX_BYTES: u64 = 8 << 20;
const STATE_MAX_BYTES: u64 = 64 << 20;
/// A table of ranges of memory, of 16 bytes each.
const TABLE_MAX_BYTES: u64 = 64 << 20;
const BUFFER_BYTES: usize = 1 << 20;
/// Zeros are left out in pieces of this size, which are holes.
const PIECE_BYTES: usize = 64 << 10;

/// Requests, and the answers to them.
const START: u16 = 1;
const CONFIG: u16 = 2;
const STATE: u16 = 3;
const MEMORY: u16 = 4;
const COMPLETE: [u16; 2] = [5, 8];
const OK: u16 = 1;
const ERROR: u16 = 2;

/// A migration to this process that has got to its last step: the guest is paused.
#[derive(Debug)]
pub(super) struct Migration {
    stream: UnixStream,
    request: JoinHandle<Result<(), VmmError>>,
    watch: Watch,
    config: Value,
    state: Vec<u8>,
    /// Memory at its addresses.
    memory: File,
    /// When the last of its memory began to come.
    paused_at: Instant,
}

impl Migration {
    /// Has the VMM send its guest to a socket in the first of the two directories, with room for its memory in the second,
    /// until the guest is paused. It has `memory_bytes` at most.
    ///
    /// # Errors
    /// When it refuses, breaks off, says what makes no sense, or stalls. Then its guest runs, or goes on by itself soon.
    pub(super) fn receive(
        http: &HttpSocket,
        timeouts: Timeouts,
        (socket_dir, directory): (&Beneath, &Beneath),
        memory_bytes: u64,
    ) -> Result<Self, VmmError> {
        let shown = socket_dir.path().join(NAME);
        let failed = |what: &'static str| {
            let shown = shown.clone();
            move |source| VmmError::File {
                what: format!("{what} {}", shown.display()),
                source,
            }
        };
        let bound = format!(
            "/proc/self/fd/{}/{NAME}",
            rustix::fd::AsFd::as_fd(socket_dir).as_raw_fd()
        );
        let listener = UnixListener::bind(&bound).map_err(failed("can't listen at"))?;
        listener
            .set_nonblocking(true)
            .map_err(failed("can't listen at"))?;
        let memory = directory
            .nameless()
            .map_err(failed("can't make a file beside"))?;
        let body = json!({
            "destination_url": format!("unix:{}", shown.display()),
            "downtime_ms": DOWNTIME_MS,
            "timeout_s": SENDS_FOR_S,
            "timeout_strategy": "Ignore",
        });
        let socket = http.socket().to_owned();
        let request = std::thread::spawn(move || {
            HttpSocket::connect(&socket, timeouts)?
                .call(&Method::PUT, SEND, Some(&body), REQUEST_MAX)
                .map(drop)
        });
        let accepted = accept(&listener, &request, timeouts.watch);
        let unlinked = rustix::fs::unlinkat(socket_dir, NAME, AtFlags::empty());
        let stream = match accepted {
            Ok(Some(stream)) => stream,
            Ok(None) => return Err(ended(request, http.socket())),
            Err(error) => return Err(error),
        };
        unlinked
            .map_err(io::Error::from)
            .map_err(failed("can't remove"))?;
        if Peer::of(&stream).as_ref().map(|peer| &peer.process)
            != http.peer().map(|peer| &peer.process)
        {
            return Err(nonsense("somebody else than the VMM sent it"));
        }
        stream
            .set_read_timeout(Some(SLICE))
            .map_err(failed("can't use"))?;
        stream
            .set_write_timeout(Some(STALL))
            .map_err(failed("can't use"))?;
        let mut migration = Self {
            stream,
            request,
            watch: timeouts.watch,
            config: Value::Null,
            state: Vec::new(),
            memory,
            paused_at: Instant::now(),
        };
        migration.take_in(memory_bytes)?;
        Ok(migration)
    }

    pub(super) const fn paused_at(&self) -> Instant {
        self.paused_at
    }

    /// Takes in everything until the guest is paused and its state is here, which is not answered yet.
    fn take_in(&mut self, memory_bytes: u64) -> Result<(), VmmError> {
        let mut known: Vec<Range> = Vec::new();
        let mut rounds = 0;
        loop {
            let (command, length) = self.header()?;
            match command {
                START => {}
                CONFIG => {
                    let bytes = self.bytes(length, CONFIG_MAX_BYTES)?;
                    self.config = serde_json::from_slice(&bytes)
                        .map_err(|error| nonsense(error.to_string()))?;
                    known = mappings(&self.config, memory_bytes)?;
                }
                MEMORY => {
                    self.paused_at = Instant::now();
                    let table = self.bytes(length, TABLE_MAX_BYTES)?;
                    for range in ranges(&table)? {
                        let is_known = |it: &Range| {
                            it.gpa <= range.gpa && range.end().is_some() && range.end() <= it.end()
                        };
                        if !known.iter().any(is_known) {
                            return Err(nonsense(format!(
                                "memory at {:#x} that its guest has not",
                                range.gpa
                            )));
                        }
                        self.memory(range, rounds > 0)?;
                    }
                    rounds += 1;
                }
                STATE => {
                    self.state = self.bytes(length, STATE_MAX_BYTES)?;
                    return Ok(());
                }
                other => return Err(nonsense(format!("the command {other}"))),
            }
            self.answer(OK)?;
        }
    }

    /// Writes a range of memory to its place; zeros only over what was written before.
    fn memory(&mut self, range: Range, again: bool) -> Result<(), VmmError> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let (mut at, mut left) = (range.gpa, range.length);
        while left > 0 {
            let wanted = usize::try_from(left)
                .unwrap_or(BUFFER_BYTES)
                .min(BUFFER_BYTES);
            let piece = buffer.get_mut(..wanted).unwrap_or_default();
            self.read(piece)?;
            let piece = buffer.get(..wanted).unwrap_or_default();
            for (number, part) in piece.chunks(PIECE_BYTES).enumerate() {
                if again || part.iter().any(|byte| *byte != 0) {
                    let offset = at.saturating_add((number * PIECE_BYTES) as u64);
                    self.memory
                        .write_all_at(part, offset)
                        .map_err(|source| VmmError::File {
                            what: "can't write the memory".to_owned(),
                            source,
                        })?;
                }
            }
            at = at.saturating_add(wanted as u64);
            left -= wanted as u64;
        }
        Ok(())
    }

    /// Lets the guest go on: the VMM does that itself once the end is refused.
    ///
    /// # Errors
    /// When it does not take the answer; it goes on all the same when this is dropped.
    pub(super) fn refuse(&mut self) -> Result<(), VmmError> {
        self.answer(OK)?;
        let (command, length) = self.header()?;
        if !COMPLETE.contains(&command) {
            return Err(nonsense(format!("the command {command} at its end")));
        }
        self.bytes(length, TABLE_MAX_BYTES)?;
        self.answer(ERROR)?;
        // What it has to say besides is not waited for.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        // Its request fails, as was wanted; until then it takes no others.
        let began = Instant::now();
        while !self.request.is_finished() && began.elapsed() < SETTLES {
            self.watch.check_cleanup()?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Brings what came into the form of `vm.snapshot` in `directory`.
    ///
    /// # Errors
    /// When the state does not say where which memory goes, or it can't be written.
    pub(super) fn write(&self, directory: &Beneath) -> Result<(), VmmError> {
        let failed = |source| VmmError::File {
            what: format!(
                "can't write the saved state to {}",
                directory.path().display()
            ),
            source,
        };
        let state: Value =
            serde_json::from_slice(&self.state).map_err(|error| nonsense(error.to_string()))?;
        let layout =
            layout(&state).ok_or_else(|| nonsense("a state without the order of its memory"))?;
        let config = serde_json::to_vec(&self.config["vm_config"]).map_err(io::Error::from);
        directory
            .write_new("config.json", &config.map_err(failed)?)
            .map_err(failed)?;
        directory
            .write_new("state.json", &self.state)
            .map_err(failed)?;
        let ranges = directory.create_file("memory-ranges").map_err(failed)?;
        let mut to = 0_u64;
        for range in layout {
            let end = range
                .end()
                .ok_or_else(|| nonsense("memory without an end"))?;
            let next = to.saturating_add(range.length);
            ranges.set_len(next).map_err(failed)?;
            self.copy(range.gpa, end, &ranges, to).map_err(failed)?;
            to = next;
        }
        Ok(())
    }

    /// Copies the data between two addresses to `to` on in `target`.
    fn copy(&self, from: u64, end: u64, target: &File, to: u64) -> io::Result<()> {
        let length = self.memory.metadata()?.len().min(end);
        let mut at = from;
        while at < length {
            let (start, stop) = match extents::next(&self.memory, at, length)? {
                Next::Data(start, stop) => (start, stop),
                Next::Hole => return Ok(()),
                Next::Untold => (at, length),
            };
            let (mut read, mut written) = (start, to + (start - from));
            while read < stop {
                let left = usize::try_from(stop - read)
                    .unwrap_or(usize::MAX)
                    .min(1 << 30);
                let copied = rustix::fs::copy_file_range(
                    &self.memory,
                    Some(&mut read),
                    target,
                    Some(&mut written),
                    left,
                )?;
                if copied == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
            }
            at = stop;
        }
        Ok(())
    }

    fn header(&mut self) -> Result<(u16, u64), VmmError> {
        let mut header = [0; 16];
        self.read(&mut header)?;
        let [a, b, .., c, d, e, f, g, h, i, j] = header;
        Ok((
            u16::from_le_bytes([a, b]),
            u64::from_le_bytes([c, d, e, f, g, h, i, j]),
        ))
    }

    fn bytes(&mut self, length: u64, most: u64) -> Result<Vec<u8>, VmmError> {
        let length = usize::try_from(length).ok().filter(|it| *it as u64 <= most);
        let length = length.ok_or_else(|| nonsense("a part that is too long"))?;
        let mut bytes = vec![0; length];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    fn read(&mut self, mut into: &mut [u8]) -> Result<(), VmmError> {
        let mut last = Instant::now();
        while !into.is_empty() {
            match self.stream.read(into) {
                Ok(0) => return Err(nonsense("it was broken off")),
                Ok(count) => {
                    into = into.get_mut(count..).unwrap_or_default();
                    last = Instant::now();
                }
                Err(error) if is_patience(&error) => {}
                Err(error) => return Err(nonsense(error.to_string())),
            }
            self.watch.check()?;
            if last.elapsed() > STALL {
                return Err(nonsense("it stalled"));
            }
        }
        Ok(())
    }

    fn answer(&mut self, status: u16) -> Result<(), VmmError> {
        let mut answer = [0; 16];
        if let Some(begin) = answer.get_mut(..2) {
            begin.copy_from_slice(&status.to_le_bytes());
        }
        self.stream
            .write_all(&answer)
            .map_err(|error| nonsense(error.to_string()))
    }
}

/// Whether a VMM can connect to a socket in the directory.
pub(super) fn fits(socket_dir: &Beneath) -> bool {
    socket_dir.path().join(NAME).as_os_str().len() <= SOCKET_MAX_BYTES
}

impl Drop for Migration {
    fn drop(&mut self) {
        // The guest goes on by that. What the VMM answers in the end is not waited for.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

/// Whoever connects; `None` when the request ended before.
fn accept(
    listener: &UnixListener,
    request: &JoinHandle<Result<(), VmmError>>,
    watch: Watch,
) -> Result<Option<UnixStream>, VmmError> {
    loop {
        watch.check()?;
        match listener.accept() {
            Ok((stream, _)) => {
                stream
                    .set_nonblocking(false)
                    .map_err(|error| nonsense(error.to_string()))?;
                return Ok(Some(stream));
            }
            Err(error) if is_patience(&error) => {}
            Err(error) => return Err(nonsense(error.to_string())),
        }
        if request.is_finished() {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_patience(error: &io::Error) -> bool {
    [
        ErrorKind::WouldBlock,
        ErrorKind::TimedOut,
        ErrorKind::Interrupted,
    ]
    .contains(&error.kind())
}

/// Why a request ended that should not have.
fn ended(request: JoinHandle<Result<(), VmmError>>, socket: &Path) -> VmmError {
    match request.join() {
        Ok(Err(error)) => error,
        Ok(Ok(())) | Err(_) => VmmError::Closed {
            socket: socket.to_owned(),
            request: format!("PUT {SEND}"),
        },
    }
}

fn nonsense(detail: impl Into<String>) -> VmmError {
    VmmError::Protocol {
        request: format!("PUT {SEND}"),
        detail: detail.into(),
    }
}
