//! Processes as they are written down: whether one is still there, and what it is called.

use std::fs;
use std::path::{Path, PathBuf};

use super::registration::Seen;
use crate::vmm;

impl Seen {
    /// Whether this process still runs.
    pub(super) fn is_alive(&self) -> bool {
        boot_id().as_deref() == Some(self.boot_id.as_str())
            && start_ticks_of(&directory(self.pid)) == Some(self.start_ticks)
    }
}

/// `/proc/PID`.
pub(super) fn directory(pid: i32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

/// What tells this boot of the kernel from others.
pub(super) fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// When a process started, in ticks since boot; `None` once it has ended, even if nobody has taken note yet.
pub(super) fn start_ticks_of(directory: &Path) -> Option<u64> {
    let stat = fs::read_to_string(directory.join("stat")).ok()?;
    let (_, behind_name) = stat.rsplit_once(')')?;
    let state = behind_name.split_whitespace().next()?;
    if state == "Z" {
        return None;
    }
    vmm::start_ticks(&stat)
}

/// A process in words: its number, and its name if it has one.
pub(super) fn in_words(pid: i32) -> String {
    match fs::read_to_string(directory(pid).join("comm")) {
        Ok(name) if !name.trim().is_empty() => format!("process {pid} ({})", name.trim()),
        Ok(_) | Err(_) => format!("process {pid}"),
    }
}
