//! What an instance does at this moment (contract, "State derivation"), with two cautions of our own: what can't be told
//! is `Unknown`, never `Stopped`, because the disks of a stopped guest are copied without asking anybody.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::learn;
use super::metadata::{Metadata, RecordedProcess};
use super::ownership;
use super::processes;
use super::registration::RestoredMemory;
use super::resting::RestingFile;
use crate::engine::EngineError;
use crate::error::in_words;
use crate::fs::absence::{is_absent, is_there};
use crate::instance::State;
use crate::vmm::{self, Outlook, Process, Timeouts, Vmm, VmmError, VmmState};

/// A guest whose markers are missing counts as running once its VMM has run this long: hypeman's file lags behind its
/// API, which finds the markers in the guest's log.
const BOOT_TAKES_AT_MOST: Duration = Duration::from_secs(600);
/// Units of the start time in `/proc/PID/stat`, per second: USER_HZ, the same on every architecture with these VMMs.
const TICKS_PER_SECOND: u64 = 100;

/// A state, and what can be said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Derived {
    /// The state.
    pub state: State,
    /// Why it is not known, or what it was concluded from where that is not plain.
    pub note: Option<String>,
}

impl Derived {
    fn plain(state: State) -> Self {
        Self { state, note: None }
    }

    pub(super) fn unknown(note: impl Into<String>) -> Self {
        Self {
            state: State::Unknown,
            note: Some(note.into()),
        }
    }
}

/// Whether a VMM must be asked for the state: its socket is there, or it can't be told whether it is.
pub fn only_vmm_can_tell(metadata: &Metadata) -> bool {
    !matches!(has_socket(&metadata.socket), Ok(false))
}

/// The state of the instance whose directory is `guest_dir`, if it has one. Asks its VMM, which costs up to `timeouts`; where
/// there is none, `objection` says what speaks against taking the guest for off.
pub fn derive(
    metadata: &Metadata,
    guest_dir: Option<&Path>,
    timeouts: Timeouts,
    objection: &dyn Fn() -> Option<String>,
) -> Derived {
    derive_by(
        metadata,
        guest_dir,
        |metadata| ask(metadata, timeouts),
        objection,
    )
}

/// A VMM that answered.
#[derive(Debug)]
pub struct Answered {
    /// Its version.
    pub version: Result<String, VmmError>,
    /// Why it must not be asked for a snapshot, if so.
    pub harm: Result<Option<String>, EngineError>,
    /// What will make a snapshot worse than it could be.
    pub foreseen: Result<Vec<String>, VmmError>,
    /// How a snapshot would go.
    pub outlook: Result<Outlook, VmmError>,
    /// The process, where the kernel can tell.
    pub process: Option<Process>,
}

/// As [`derive`], and who answered; nobody does for an instance at rest, or when something is wrong.
pub fn derive_and_meet(
    metadata: &Metadata,
    guest_dir: Option<&Path>,
    timeouts: Timeouts,
    objection: &dyn Fn() -> Option<String>,
) -> (Derived, Option<Answered>) {
    let mut met = None;
    let meet = |metadata: &Metadata| {
        let mut vmm = connect(metadata, timeouts)?;
        let answer = Answer {
            state: vmm.state()?,
            process: vmm.process(),
        };
        met = Some(Answered {
            version: vmm.version(),
            harm: ownership::harm(metadata, guest_dir, vmm.as_mut()),
            foreseen: vmm.foreseen(),
            outlook: vmm.outlook(),
            process: answer.process.clone(),
        });
        Ok(answer)
    };
    let derived = derive_by(metadata, guest_dir, meet, objection);
    (derived, met)
}

/// What a VMM said, and which process it is.
struct Answer {
    state: VmmState,
    process: Option<Process>,
}

fn connect(metadata: &Metadata, timeouts: Timeouts) -> Result<Box<dyn Vmm>, VmmError> {
    let hypervisor = metadata
        .hypervisor()
        .map_err(|error| VmmError::Unsupported(error.to_string()))?;
    vmm::open(hypervisor, &metadata.socket, timeouts)
}

fn ask(metadata: &Metadata, timeouts: Timeouts) -> Result<Answer, VmmError> {
    let mut vmm = connect(metadata, timeouts)?;
    Ok(Answer {
        state: vmm.state()?,
        process: vmm.process(),
    })
}

/// [`derive`] with another way to ask the VMM.
fn derive_by(
    metadata: &Metadata,
    guest_dir: Option<&Path>,
    ask: impl FnOnce(&Metadata) -> Result<Answer, VmmError>,
    objection: &dyn Fn() -> Option<String>,
) -> Derived {
    if let Some(note) = guest_dir.and_then(|guest_dir| relocation(metadata, guest_dir)) {
        return Derived::unknown(note);
    }
    if let Some(note) = ownership::socket_elsewhere(metadata, guest_dir) {
        return Derived::unknown(note);
    }
    let without_vmm = |socket: &str| without_vmm(metadata, guest_dir, socket, objection);
    match has_socket(&metadata.socket) {
        Ok(false) => return without_vmm("is gone"),
        Ok(true) => {}
        Err(error) => {
            return Derived::unknown(format!(
                "can't look at socket {}: {error}",
                metadata.socket.display()
            ));
        }
    }
    let answer = match ask(metadata) {
        Ok(answer) => answer,
        // A VMM that was killed leaves its socket behind.
        Err(VmmError::Unreachable { source, .. }) if learn::is_nobody(&source) => {
            return without_vmm("is served by nobody");
        }
        Err(error) => return Derived::unknown(in_words(&error)),
    };
    match answer.state {
        VmmState::Created => Derived::plain(State::Created),
        VmmState::Paused => Derived::plain(State::Paused),
        VmmState::Shutdown => Derived::plain(State::Shutdown),
        VmmState::Other(word) => {
            Derived::unknown(format!("the VMM says that the guest is {word:?}"))
        }
        VmmState::Running if metadata.has_program_started && metadata.is_agent_ready => {
            Derived::plain(State::Running)
        }
        VmmState::Running => booting(answer.process.as_ref().and_then(age)),
    }
}

/// The state of a guest that runs and has not reported, by the age of its VMM.
fn booting(age: Option<Duration>) -> Derived {
    match age {
        Some(age) if age >= BOOT_TAKES_AT_MOST => Derived {
            state: State::Running,
            note: Some(format!(
                "metadata.json has no boot markers, but the VMM has run for {} minutes",
                age.as_secs() / 60
            )),
        },
        _ => Derived {
            state: State::Initializing,
            note: Some(
                "metadata.json has no boot markers yet; the guest counts as running once its VMM has run for ten minutes"
                    .to_owned(),
            ),
        },
    }
}

/// Why `guest_dir` is not the directory that the metadata speaks of, if so. Then the socket's path leads elsewhere too,
/// and that it is missing says nothing.
fn relocation(metadata: &Metadata, guest_dir: &Path) -> Option<String> {
    let recorded = &metadata.data_dir;
    if recorded.as_os_str().is_empty() || recorded == guest_dir {
        return None;
    }
    let same = std::fs::canonicalize(recorded)
        .ok()
        .zip(std::fs::canonicalize(guest_dir).ok())
        .is_some_and(|(recorded, actual)| recorded == actual);
    (!same).then(|| {
        format!(
            "metadata.json says that the instance's directory is {}, but it is {}: the data directory was moved or is \
             mounted elsewhere; use --data-dir with the path that hypeman uses",
            recorded.display(),
            guest_dir.display()
        )
    })
}

/// Whether something stands at the socket's path.
fn has_socket(socket: &Path) -> io::Result<bool> {
    if socket.as_os_str().is_empty() {
        return Ok(false);
    }
    match std::fs::metadata(socket) {
        Ok(_) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        // hypeman takes any error for "no VMM"; we would copy the disks of a guest that may run.
        Err(error) => Err(error),
    }
}

/// The state of a guest whose VMM can't be asked, because its `socket` is gone or refuses. It is off only if nothing speaks
/// against it.
fn without_vmm(
    metadata: &Metadata,
    guest_dir: Option<&Path>,
    socket: &str,
    objection: &dyn Fn() -> Option<String>,
) -> Derived {
    let recorded = metadata
        .process
        .as_ref()
        .filter(|it| is_alive(it, metadata))
        .map(|it| it.pid);
    let learnt = metadata.registration.as_ref().map(|it| &it.learnt);
    let seen = learnt
        .and_then(|it| it.vmm.as_ref())
        .filter(|seen| seen.is_alive())
        .map(|seen| seen.pid);
    let alive = recorded
        .or(seen)
        .map(|pid| format!("its VMM runs as {}", processes::in_words(pid)));
    if let Some(sign) = alive.or_else(objection) {
        return Derived::unknown(format!(
            "{sign}, but its socket {} {socket}: the VM seems to run where it can't be asked; shut it down or restart it",
            metadata.socket.display()
        ));
    }
    let Some(guest_dir) = guest_dir else {
        return by_restored_memory(learnt.and_then(|it| it.restored.as_ref()));
    };
    let saved = guest_dir.join("snapshots").join("snapshot-latest");
    let has_entry = std::fs::read_dir(&saved).and_then(|mut entries| entries.next().transpose());
    match has_entry {
        Ok(Some(_)) => Derived::plain(State::Standby),
        Ok(None) => Derived::plain(State::Stopped),
        Err(error) if is_absent(&error) => Derived::plain(State::Stopped),
        Err(error) => Derived::unknown(format!("can't look into {}: {error}", saved.display())),
    }
}

/// The state of a registered VM that is off, by the memory that a restore laid down for it.
fn by_restored_memory(restored: Option<&RestoredMemory>) -> Derived {
    let Some(restored) = restored else {
        return Derived::plain(State::Stopped);
    };
    match is_there(&restored.directory) {
        Ok(false) => Derived::plain(State::Stopped),
        Err(error) => Derived::unknown(format!(
            "can't look at {}: {error}",
            restored.directory.display()
        )),
        Ok(true) if restored.disks.iter().all(RestingFile::is_unchanged) => {
            Derived::plain(State::Standby)
        }
        Ok(true) => Derived::unknown(format!(
            "its disks were changed since snapshot {} was restored, so that the memory in {} does not go with them any \
             more: start it from its disks, then that memory is removed, or restore it again",
            restored.snapshot_id,
            restored.directory.display()
        )),
    }
}

/// Whether the process that the metadata names still is that VMM. A process id alone proves nothing: it may be another
/// process by now.
fn is_alive(recorded: &RecordedProcess, metadata: &Metadata) -> bool {
    if let (Some(start_ticks), Some(boot_id)) = (recorded.start_ticks, &recorded.boot_id) {
        return processes::is_alive(recorded.pid, start_ticks, boot_id);
    }
    let socket = metadata.socket.as_os_str().as_encoded_bytes();
    !socket.is_empty()
        && std::fs::read(processes::directory(recorded.pid).join("cmdline"))
            .is_ok_and(|line| line.windows(socket.len()).any(|part| part == socket))
}

/// How long a process has run.
fn age(process: &Process) -> Option<Duration> {
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    let started = Duration::from_millis(process.start_ticks * 1000 / TICKS_PER_SECOND);
    Duration::try_from_secs_f64(uptime)
        .ok()?
        .checked_sub(started)
}

#[cfg(test)]
mod tests;
