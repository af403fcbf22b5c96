//! Where a rehearsal has its files, and the end of what a killed one left: `rehearsals/` in the data directory, with a
//! directory for each that its process holds a lock on.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use procfs::process::all_processes;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::engine::EngineError;
use crate::fs::{lock, remove};

/// Its directory in the data directory.
const DIRECTORY: &str = "rehearsals";
/// The VM's own files in a rehearsal's directory.
const VM: &str = "vm";
/// The variable that a VMM of a rehearsal has in its environment: the rehearsal's directory.
pub(super) const MARK: &str = "HYPEMAN_SNAP_REHEARSAL";
/// How long a killed process may take to end, and how often that is looked at.
const END_TRIES: u32 = 100;
const END_EVERY: Duration = Duration::from_millis(50);

/// The directory of one rehearsal, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    is_there: bool,
    _held: File,
}

impl Place {
    /// Makes a new one.
    ///
    /// # Errors
    /// When it can't be made.
    pub(super) fn make(data_dir: &Path) -> Result<Self, EngineError> {
        let all = data_dir.join(DIRECTORY);
        let failed = |error: io::Error| {
            EngineError::caused(
                format!("can't make a directory in {}", all.display()),
                error,
            )
        };
        let path = all.join(format!("{:08x}", fastrand::u32(..)));
        let mut maker = DirBuilder::new();
        // The VM's user passes through both.
        maker
            .recursive(true)
            .mode(0o711)
            .create(&path)
            .map_err(failed)?;
        let held = File::open(&path).map_err(failed)?;
        let place = Self {
            path,
            is_there: true,
            _held: held,
        };
        // A sweep that found it before this has taken it for a dead one's.
        let is_ours = lock::try_lock(&place._held).map_err(failed)? && place.path.is_dir();
        if is_ours {
            return Ok(place);
        }
        Err(EngineError::instance(format!(
            "{} was swept away while it was made; try again",
            place.path.display()
        )))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the VM's own files are.
    pub(super) fn of_vm(&self) -> PathBuf {
        self.path.join(VM)
    }

    /// Removes it.
    ///
    /// # Errors
    /// When something of it can't be removed.
    pub(super) fn remove(mut self) -> Result<(), EngineError> {
        self.is_there = false;
        removed(&self.path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_there {
            return;
        }
        if let Err(error) = removed(&self.path) {
            log::warn!("{}", crate::error::in_words(&error));
        }
    }
}

fn removed(path: &Path) -> Result<(), EngineError> {
    let gone = remove::tree(path).map_err(|error| {
        EngineError::caused(
            format!("can't remove {}, which a rehearsal left", path.display()),
            error,
        )
    });
    if let Some(all) = path.parent().filter(|_| gone.is_ok()) {
        // Where it was the only one.
        let _ = std::fs::remove_dir(all);
    }
    gone.map(drop)
}

/// Ends and removes what rehearsals left that were killed. Returns a line for each.
///
/// # Errors
/// When something can't be removed.
pub(in crate::engine::local) fn sweep(data_dir: &Path) -> Result<Vec<String>, EngineError> {
    let all = data_dir.join(DIRECTORY);
    let failed = |error| EngineError::caused(format!("can't look into {}", all.display()), error);
    let entries = match std::fs::read_dir(&all) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut lines = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let held = match File::open(&path) {
            Ok(held) => held,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error)),
        };
        if !lock::try_lock(&held).map_err(failed)? {
            continue;
        }
        let ended = end(&path);
        removed(&path)?;
        let ended = if ended == 0 {
            ""
        } else {
            ", and ended its VMM"
        };
        let line = format!(
            "removed {}, which a killed rehearsal left{ended}",
            path.display()
        );
        log::info!("{line}");
        lines.push(line);
    }
    Ok(lines)
}

/// Kills the processes of the rehearsal in `path`, and says how many there were.
fn end(path: &Path) -> usize {
    let Ok(processes) = all_processes() else {
        return 0;
    };
    let mut killed = Vec::new();
    for process in processes.flatten() {
        // The descriptor first: another process may get the number.
        let Some(handle) =
            Pid::from_raw(process.pid()).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
        else {
            continue;
        };
        let environment = process.environ().unwrap_or_default();
        let is_its = environment
            .get(OsStr::new(MARK))
            .is_some_and(|it| Path::new(it) == path);
        if is_its && pidfd_send_signal(&handle, Signal::KILL).is_ok() {
            killed.push(process);
        }
    }
    for _ in 0..END_TRIES {
        let is_there =
            |it: &procfs::process::Process| it.stat().is_ok_and(|stat| stat.state != 'Z');
        if !killed.iter().any(is_there) {
            break;
        }
        std::thread::sleep(END_EVERY);
    }
    killed.len()
}
