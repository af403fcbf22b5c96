//! Starting a VM from what was laid down, and waiting until its guest runs.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::engine::EngineError;
use crate::engine::restorer::Launch;
use crate::error::in_words;
use crate::fs::{bounded, dead_socket, space};
use crate::interrupt::Deadline;
use crate::vmm::{self, Timeouts, VmmError, VmmState};

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
    let log = File::create(&launch.log).map_err(failed)?;
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
        .stderr(log);
    let mut child = command.spawn().map_err(failed)?;
    let runs = wait_until_it_runs(timeouts, &mut child, launch, has_memory);
    if let Err(error) = runs {
        let _ = child.kill();
        let _ = child.wait();
        return Err(EngineError::instance(format!(
            "the VM does not run: {}{}",
            in_words(&error),
            said(&launch.log)
        )));
    }
    Ok(child.id())
}

/// Waits until the guest's memory is loaded, and lets it go on.
fn wait_until_it_runs(
    timeouts: Timeouts,
    child: &mut Child,
    launch: &Launch,
    has_memory: bool,
) -> Result<(), EngineError> {
    let memory = launch
        .monitor
        .parent()
        .map(|dir| space::disk_usage(dir).unwrap_or_default());
    let gib = u32::try_from(memory.unwrap_or_default() >> 30).unwrap_or(u32::MAX);
    let deadline = Deadline::after(STARTS_WITHIN.saturating_add(PER_GIB.saturating_mul(gib)));
    let mut is_asked = launch.requests.is_empty();
    // It may have no guest yet, or be busy with reading its memory.
    let mut unready = None;
    loop {
        timeouts.watch.check()?;
        if let Some(status) = child
            .try_wait()
            .map_err(|error| EngineError::caused("can't tell whether it runs", error))?
        {
            return Err(EngineError::instance(format!("it ended: {status}")));
        }
        let opened = vmm::open(launch.hypervisor, &launch.monitor, timeouts);
        if let Ok(mut vmm) = opened {
            if !is_asked {
                for request in &launch.requests {
                    let left = deadline.remaining();
                    vmm::ask(&launch.monitor, request, timeouts, left)
                        .map_err(|error| of_vmm(&error))?;
                }
                is_asked = true;
            }
            match vmm.state() {
                Ok(VmmState::Running) => return Ok(()),
                Ok(VmmState::Paused | VmmState::Created) if has_memory => {
                    vmm.resume().map_err(|error| of_vmm(&error))?;
                }
                Ok(VmmState::Other(word)) if word == "inmigrate" => {}
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

/// The last lines that the VM said.
fn said(log: &Path) -> String {
    let text = File::open(log).and_then(|file| bounded::read(file, SAID_MAX_BYTES));
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
