//! Starting a VM from what was laid down, and waiting until its guest runs.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::engine::EngineError;
use crate::engine::restorer::Launch;
use crate::error::in_words;
use crate::fs::{bounded, dead_socket, space};
use crate::interrupt::Deadline;
use crate::vmm::{self, Timeouts, Vmm, VmmError, VmmState};

/// How long a VM may take until its guest runs, besides what reading its memory takes.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
const PER_GIB: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How much of what it said is told when it does not run.
const SAID_MAX_BYTES: u64 = 4 << 20;
const SAID_MAX_LINES: usize = 3;

/// Starts the VM, detached, and returns its process once the guest runs.
///
/// # Errors
/// When it ends or does not run in time; then it is ended.
pub(super) fn start(
    launch: &Launch,
    has_memory: bool,
    timeouts: Timeouts,
) -> Result<u32, EngineError> {
    let failed = |error: io::Error| {
        let program = launch.argv.first().map_or("", String::as_str);
        EngineError::caused(format!("can't start {program}"), error)
    };
    let log = new_log(&launch.log).map_err(failed)?;
    let Some((program, arguments)) = launch.argv.split_first() else {
        return Err(EngineError::instance("nothing to start"));
    };
    for socket in &launch.sockets {
        let failed = |error| {
            EngineError::caused(
                format!("can't remove the socket {}", socket.display()),
                error,
            )
        };
        dead_socket::remove(socket).map_err(failed)?;
    }
    // A session of its own: no terminal's end reaches it.
    let mut command = Command::new("setsid");
    command
        .arg(program)
        .args(arguments)
        .current_dir(&launch.directory)
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(failed)?)
        .stderr(log.try_clone().map_err(failed)?);
    let mut child = command.spawn().map_err(failed)?;
    let memory = launch.monitor.parent().map(space::disk_usage);
    let awaited = Awaited {
        launch,
        waits: has_memory,
        loads: false,
        memory_bytes: memory.and_then(Result::ok).unwrap_or_default(),
    };
    let runs = wait_until_it_runs(timeouts, &mut child, &awaited, &mut false);
    if let Err(error) = runs {
        let _ = child.kill();
        let _ = child.wait();
        return Err(EngineError::instance(format!(
            "the VM does not run: {}{}",
            in_words(&error),
            said(&log)
        )));
    }
    Ok(child.id())
}

/// A VM that was started, and what is still to be done for its guest to run.
pub(super) struct Awaited<'a> {
    pub(super) launch: &'a Launch,
    /// Whether it waits to be told to go on, as one does that is loaded.
    pub(super) waits: bool,
    /// Whether it is told to load.
    pub(super) loads: bool,
    /// What is read for that, in bytes.
    pub(super) memory_bytes: u64,
}

/// Waits until the guest's memory is loaded, and lets it go on. Returns the connection by which it was told to. `has_begun`
/// becomes true once the VMM was there and was told all that it has to know before that.
pub(super) fn wait_until_it_runs(
    timeouts: Timeouts,
    child: &mut Child,
    awaited: &Awaited<'_>,
    has_begun: &mut bool,
) -> Result<Box<dyn Vmm>, EngineError> {
    let launch = awaited.launch;
    let gib = u32::try_from(awaited.memory_bytes >> 30).unwrap_or(u32::MAX);
    let deadline = Deadline::after(STARTS_WITHIN.saturating_add(PER_GIB.saturating_mul(gib)));
    // It may have no guest yet, or be busy with reading its memory.
    let mut unready = None;
    let mut held = None;
    loop {
        timeouts.watch.check()?;
        if let Some(status) = child
            .try_wait()
            .map_err(|error| EngineError::caused("can't tell whether it runs", error))?
        {
            return Err(EngineError::instance(format!("it ended: {status}")));
        }
        let connected = match held.take() {
            Some(vmm) => Ok(vmm),
            None => vmm::open(launch.hypervisor, &launch.monitor, timeouts),
        };
        if let Ok(mut vmm) = connected {
            if !*has_begun {
                // What fails from here on is the guest's own fault.
                *has_begun = true;
                if awaited.loads {
                    vmm.load().map_err(|error| of_vmm(&error))?;
                }
                for request in &launch.requests {
                    let left = deadline.remaining();
                    vmm::ask(&launch.monitor, request, timeouts, left)
                        .map_err(|error| of_vmm(&error))?;
                }
            }
            match vmm.state() {
                Ok(VmmState::Running) => return Ok(vmm),
                Ok(VmmState::Paused | VmmState::Created) if awaited.waits => {
                    vmm.resume().map_err(|error| of_vmm(&error))?;
                    held = Some(vmm);
                }
                Ok(VmmState::Other(word)) if word == "inmigrate" => held = Some(vmm),
                Ok(
                    other @ (VmmState::Paused
                    | VmmState::Created
                    | VmmState::Shutdown
                    | VmmState::Other(_)),
                ) => return Err(EngineError::instance(format!("it is {other:?}"))),
                Err(
                    error @ (VmmError::Refused { .. }
                    | VmmError::TimedOut { .. }
                    | VmmError::Closed { .. }),
                ) => unready = Some(error),
                Err(error) => return Err(of_vmm(&error)),
            }
        }
        if deadline.has_passed() {
            let what = "it did not run in time";
            return Err(match unready {
                Some(error) => EngineError::caused(what, error),
                None => EngineError::instance(what),
            });
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// What went wrong with the VMM is all that is to be said of it.
fn of_vmm(error: &VmmError) -> EngineError {
    if let VmmError::Over(over) = *error {
        return over.into();
    }
    EngineError::instance(in_words(error))
}

/// A new file for what a VM says, in the place of any other. Its directory may be the VM's user's: no link of theirs is
/// followed, and it is only known by its descriptor from then on.
pub(super) fn new_log(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut options = OpenOptions::new();
    options.read(true).append(true).create_new(true).mode(0o600);
    options.open(path)
}

/// The last lines that the VM said.
pub(super) fn said(log: &File) -> String {
    let text = log.try_clone().and_then(|mut file| {
        // It is only appended to, wherever this is.
        file.rewind()?;
        bounded::read(file, SAID_MAX_BYTES)
    });
    let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let last = &lines[lines.len().saturating_sub(SAID_MAX_LINES)..];
    if last.is_empty() {
        return String::new();
    }
    format!("; it said: {}", last.join(" / "))
}
