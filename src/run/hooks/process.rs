//! One hook as a process: started without a shell, in a group of its own, its output kept, and ended with all its
//! children when its time is up. Knows nothing of schedules and snapshots.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group};

/// How much of the output is kept: the end of it.
const OUTPUT_MAX_BYTES: usize = 16 << 10;
/// How long a hook that is told to end has for it before it is killed.
const END_GRACE: Duration = Duration::from_secs(5);
/// How often the process and the clock are looked at; output wakes up at once.
const SLICE: Duration = Duration::from_millis(20);

/// By what a hook's children are known that left its group (setsid(2)): they inherit its environment.
const MARK: &str = "HYPEMAN_SNAP_HOOK_RUN";

/// When a hook is ended before it ends by itself.
pub(super) struct Limits<'a> {
    /// How long it may run.
    pub(super) timeout: Duration,
    /// Since when this process has been asked to stop, if it has.
    pub(super) stopped_since: &'a dyn Fn() -> Option<Instant>,
    /// How long behind that the hook may go on before it is told to end.
    pub(super) stop_grace: Duration,
    /// How long it then has for that before it is killed.
    pub(super) end_grace: Duration,
}

impl Limits<'_> {
    /// Whether this process has been asked to stop, and that long ago.
    fn is_stopped_for(&self, grace: Duration) -> bool {
        (self.stopped_since)().is_some_and(|since| since.elapsed() >= grace)
    }
}

/// How a hook ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// What went wrong, as `failed with exit code 1`; `None` when it succeeded.
    pub(super) failure: Option<String>,
    /// The lines that it wrote to stdout and stderr; the first ones are missing if it wrote too much.
    pub(super) output: Vec<String>,
}

/// Runs `command` to its end. A hook that ends by itself may leave children; nobody hears them any more.
pub(super) fn run(command: &mut Command, limits: &Limits<'_>) -> Ended {
    let mark = format!("{}-{:016x}", std::process::id(), fastrand::u64(..));
    command.env(MARK, &mark);
    let (child, output) = match start(command) {
        Ok(started) => started,
        Err(error) => {
            return Ended {
                failure: Some(not_started(&error)),
                output: Vec::new(),
            };
        }
    };
    let mut hook = Running {
        group: Pid::from_child(&child),
        child,
        output,
        tail: Tail::default(),
        is_open: true,
        mark,
    };
    let failure = match hook.wait(limits) {
        Wait::Ended => hook.reap().map_or_else(
            |error| Some(format!("could not be waited for: {error}")),
            failure,
        ),
        Wait::TimedOut => {
            let why = format!("did not end within {:?}", limits.timeout);
            Some(hook.end(&why, limits))
        }
        Wait::Stopped => Some(hook.end("was interrupted by a signal to hypeman-snap", limits)),
    };
    Ended {
        failure,
        output: hook.tail.lines(),
    }
}

fn not_started(error: &io::Error) -> String {
    match Errno::from_io_error(error) {
        Some(Errno::ACCESS) => {
            "can't be executed: `chmod +x` it, or name the program that reads it".to_owned()
        }
        Some(Errno::NOEXEC) => {
            "can't be executed: it is no program, and its first line is no `#!/…`".to_owned()
        }
        Some(_) | None => format!("could not be started: {error}"),
    }
}

fn start(command: &mut Command) -> io::Result<(Child, File)> {
    let (output, input) = pipe_with(PipeFlags::CLOEXEC)?;
    let flags = rustix::fs::fcntl_getfl(&output)?;
    rustix::fs::fcntl_setfl(&output, flags | OFlags::NONBLOCK)?;
    let child = command
        .stdin(Stdio::null())
        .stdout(input.try_clone()?)
        .stderr(input)
        .process_group(0)
        .spawn();
    // The command keeps its copies of the writing end; the output would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Ok((child?, output.into()))
}

fn failure(status: ExitStatus) -> Option<String> {
    if status.success() {
        return None;
    }
    Some(match (status.code(), status.signal()) {
        (Some(code), _) => format!("failed with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => format!("ended with {status}"),
    })
}

enum Wait {
    Ended,
    TimedOut,
    Stopped,
}

struct Running {
    /// Not waited for until everything is over, so that its id, which is its group's as well, stays its own.
    child: Child,
    group: Pid,
    output: File,
    tail: Tail,
    /// Whether anybody can still write to `output`.
    is_open: bool,
    /// What its environment says.
    mark: String,
}

impl Running {
    fn wait(&mut self, limits: &Limits<'_>) -> Wait {
        let began = Instant::now();
        loop {
            let has_ended = self.has_ended();
            // What it wrote before it ended is there by now.
            self.listen();
            if has_ended {
                return Wait::Ended;
            }
            if began.elapsed() >= limits.timeout {
                return Wait::TimedOut;
            }
            if limits.is_stopped_for(limits.stop_grace) {
                return Wait::Stopped;
            }
            self.pause();
        }
    }

    /// Tells the whole group to end, and kills it if its first process doesn't. Returns `why`, and what could not be
    /// done.
    fn end(&mut self, why: &str, limits: &Limits<'_>) -> String {
        // A group that is gone already is what is wanted.
        let _ = kill_process_group(self.group, Signal::TERM);
        self.signal_strays(Signal::TERM);
        self.wait_to_end(limits);
        let _ = kill_process_group(self.group, Signal::KILL);
        self.signal_strays(Signal::KILL);
        if !self.wait_to_end(limits) {
            return format!("{why}, and can't be killed");
        }
        match self.reap() {
            Ok(_) => format!("{why} and was ended"),
            Err(error) => format!("{why}, and could not be waited for: {error}"),
        }
    }

    /// Signals the children that left the group. Those that others may not look at, or that changed their environment, are
    /// not found.
    fn signal_strays(&self, signal: Signal) {
        let Ok(all) = procfs::process::all_processes() else {
            return;
        };
        for process in all.flatten() {
            let is_ours = process.environ().is_ok_and(|environment| {
                environment
                    .get(OsStr::new(MARK))
                    .is_some_and(|mark| mark == OsStr::new(&self.mark))
            });
            let pid = Pid::from_raw(process.pid).filter(|pid| is_ours && *pid != self.group);
            if let Some(pid) = pid {
                let _ = kill_process(pid, signal);
            }
        }
    }

    fn wait_to_end(&mut self, limits: &Limits<'_>) -> bool {
        let began = Instant::now();
        loop {
            let has_ended = self.has_ended();
            self.listen();
            let grace = if limits.is_stopped_for(Duration::ZERO) {
                limits.end_grace.min(END_GRACE)
            } else {
                END_GRACE
            };
            if has_ended || began.elapsed() >= grace {
                return has_ended;
            }
            self.pause();
        }
    }

    /// Whether the process has ended; it is not reaped by asking.
    fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        // An error means that there is nothing to wait for.
        !matches!(
            rustix::process::waitid(WaitId::Pid(self.group), options),
            Ok(None)
        )
    }

    fn reap(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    /// Reads what is there.
    fn listen(&mut self) {
        let mut buffer = [0; 4096];
        while self.is_open {
            match self.output.read(&mut buffer) {
                Ok(0) => self.is_open = false,
                Ok(read) => self.tail.push(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.is_open = false,
            }
        }
    }

    /// Waits a moment, or until there is output.
    fn pause(&self) {
        if !self.is_open {
            thread::sleep(SLICE);
            return;
        }
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: SLICE.subsec_nanos().into(),
        };
        // Whatever it says, the next look tells.
        let _ = rustix::event::poll(
            &mut [PollFd::new(&self.output, PollFlags::IN)],
            Some(&timeout),
        );
    }
}

/// The end of an output.
#[derive(Debug, Default)]
struct Tail {
    bytes: Vec<u8>,
    dropped_bytes: usize,
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        // Not each time: moving the rest costs as much as it is long.
        if self.bytes.len() > 2 * OUTPUT_MAX_BYTES {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let excess = self.bytes.len().saturating_sub(OUTPUT_MAX_BYTES);
        self.bytes.drain(..excess);
        self.dropped_bytes += excess;
    }

    fn lines(mut self) -> Vec<String> {
        self.cut();
        let mut lines = Vec::new();
        if self.dropped_bytes > 0 {
            lines.push(format!(
                "({} bytes of output before this are left out)",
                self.dropped_bytes
            ));
        }
        lines.extend(
            String::from_utf8_lossy(&self.bytes)
                .lines()
                .map(str::trim_end)
                .filter(|line| !line.is_empty())
                .map(str::to_owned),
        );
        lines
    }
}

#[cfg(test)]
mod tests;
