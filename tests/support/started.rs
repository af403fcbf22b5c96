//! A process that the tool started, from its answer in JSON.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The process; it ends with this.
#[derive(Debug)]
pub struct Started(Pid);

impl Started {
    /// The one that `json` tells.
    ///
    /// # Panics
    /// When it tells none.
    pub fn of(json: &Value) -> Self {
        let pid = json["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(Pid::from_raw);
        Self(pid.unwrap_or_else(|| panic!("no process in {json}")))
    }

    /// The files that it has open.
    ///
    /// # Panics
    /// When it has ended.
    pub fn files(&self) -> Vec<PathBuf> {
        let open = fs::read_dir(format!("/proc/{}/fd", self.0)).expect("the process");
        let links = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        links.collect()
    }

    /// Whether it has the file at `path` open.
    pub fn has_open(&self, path: &Path) -> bool {
        self.files().iter().any(|file| file == path)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}
