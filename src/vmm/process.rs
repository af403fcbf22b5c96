//! A process by its number and its start, so that another one that got the number later is not taken for it.

use procfs::process::{self, Status};
use serde::{Deserialize, Serialize};

/// A VMM process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The process id.
    pub pid: i32,
    /// When it started, in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start_ticks: u64,
}

impl Process {
    /// The process that has this number now; `None` when there is none, or it has ended and nobody has taken note yet.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = process::Process::new(pid).ok()?.stat().ok()?;
        (stat.state != 'Z').then_some(Self {
            pid,
            start_ticks: stat.starttime,
        })
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    /// The user by which it reaches files; `None` when it has ended.
    pub fn user(&self) -> Option<u32> {
        Some(self.status()?.fuid)
    }

    /// What it holds in memory, in swap and in huge pages, in bytes; `None` when it has ended.
    pub fn memory_bytes(&self) -> Option<u64> {
        let status = self.status()?;
        let kibibytes = status.vmrss? + status.vmswap? + status.hugetlbpages.unwrap_or(0);
        Some(kibibytes << 10)
    }

    pub(super) fn status(&self) -> Option<Status> {
        let status = process::Process::new(self.pid).ok()?.status().ok()?;
        // The number may be another process's by now.
        self.is_alive().then_some(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_itself_as_long_as_it_runs_and_none_once_it_has_ended() {
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let process = Process::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(process.is_alive());
        assert_eq!(process.user(), Some(rustix::process::geteuid().as_raw()));
        let another = Process {
            start_ticks: process.start_ticks + 1,
            ..process.clone()
        };
        assert!(!another.is_alive());
        assert_eq!(another.user(), None);
        assert_eq!(another.memory_bytes(), None);
        child.kill().unwrap();
        // Nobody has waited for it yet.
        support::wait::wait_until("it is a zombie", || !process.is_alive());
        assert_eq!(Process::of(process.pid), None);
        child.wait().unwrap();
        assert_eq!(Process::of(process.pid), None);
    }

    #[test]
    fn what_a_process_has_touched_counts_as_its_memory() {
        let process = Process::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        let before = process.memory_bytes().unwrap();
        let touched = vec![1_u8; 64 << 20];
        let after = process.memory_bytes().unwrap();
        assert!(after > before + (32 << 20), "{before} {after}");
        drop(touched);
    }
}
