//! A process that the tool started, from its answer in JSON, and what its guest says.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::wait::wait_until;

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

    /// Ends it, as a power cut would, and waits until it is gone.
    ///
    /// # Panics
    /// When it does not end.
    pub fn end(self) {
        let stat = format!("/proc/{}/stat", self.0);
        drop(self);
        wait_until("the restored VM to end", || {
            fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "))
        });
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

/// What a guest printed into the file `serial`, a counter each time.
///
/// # Panics
/// When it says that its RAM and its disks are of different instants.
pub fn ticks(serial: &Path) -> Vec<u64> {
    let said = fs::read_to_string(serial).unwrap_or_default();
    assert!(!said.contains("TORN"), "{said}");
    said.lines()
        .filter_map(|line| line.strip_prefix("tick ")?.trim().parse().ok())
        .collect()
}

/// What a restore said of its check `name`.
///
/// # Panics
/// When there was none of that name.
pub fn check(json: &Value, name: &str) -> Value {
    let mut checks = json["checks"].as_array().into_iter().flatten();
    let found = checks.find(|it| it["check"] == name);
    found
        .unwrap_or_else(|| panic!("no {name} in {json}"))
        .clone()
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}
