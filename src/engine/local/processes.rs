//! Processes as they are written down: whether one is still there, and what it is called.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::registration::Seen;
use crate::snapshot::manifest;
use crate::vmm;

/// Longer command lines are nobody's.
const ARGV_MAX: usize = 4096;
const ARGV_MAX_BYTES: usize = 128 << 10;
/// Likewise.
const LIBRARY_PATH_MAX_BYTES: usize = 4096;

impl Seen {
    /// Whether this process still runs.
    pub(super) fn is_alive(&self) -> bool {
        is_alive(self.pid, self.start_ticks, &self.boot_id)
    }
}

/// `/proc/PID`.
pub(super) fn directory(pid: i32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

/// Whether the process that had this number, start and boot of the kernel still runs.
pub(super) fn is_alive(pid: i32, start_ticks: u64, boot: &str) -> bool {
    boot_id().as_deref() == Some(boot) && vmm::Process { pid, start_ticks }.is_alive()
}

/// What tells this boot of the kernel from others.
pub(super) fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// What the kernel knows of a VMM's process, which is looked at before the guest is paused; `None` when it is not there
/// any more. Needs rights over a process of another user (`CAP_SYS_PTRACE`): what it does not tell is absent.
pub(super) fn vmm(process: &vmm::Process) -> Option<manifest::Vmm> {
    let proc = procfs::process::Process::new(process.pid).ok()?;
    let status = proc.status().ok()?;
    let argv = proc.cmdline().ok().filter(|argv| {
        argv.len() <= ARGV_MAX && argv.iter().map(String::len).sum::<usize>() <= ARGV_MAX_BYTES
    });
    let found = manifest::Vmm {
        binary: proc.exe().ok().as_deref().map(without_mark),
        argv: argv.unwrap_or_default(),
        user: Some(status.euid),
        group: Some(status.egid),
        groups: status.groups,
        directory: proc.cwd().ok(),
        library_path: library_path(&proc),
        root: proc.root().ok().filter(|root| root != Path::new("/")),
    };
    // Another process may have got its number meanwhile.
    process.is_alive().then_some(found)
}

/// A process's `LD_LIBRARY_PATH`.
fn library_path(proc: &procfs::process::Process) -> Option<String> {
    let mut environment = proc.environ().ok()?;
    let path = environment.remove(OsStr::new("LD_LIBRARY_PATH"))?;
    let path = path.into_string().ok()?;
    (!path.is_empty() && path.len() <= LIBRARY_PATH_MAX_BYTES).then_some(path)
}

/// A path without what the kernel adds to it when the file was replaced, as by an upgrade.
fn without_mark(path: &Path) -> PathBuf {
    path.to_str()
        .and_then(|path| path.strip_suffix(" (deleted)"))
        .map_or_else(|| path.to_owned(), PathBuf::from)
}

/// This host.
pub(super) fn host() -> manifest::Host {
    let cpu = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let kernel = rustix::system::uname()
        .release()
        .to_str()
        .ok()
        .map(str::to_owned);
    manifest::Host { kernel, cpu }
}

/// A process in words: its number, and its name if it has one.
pub(super) fn in_words(pid: i32) -> String {
    match fs::read_to_string(directory(pid).join("comm")) {
        Ok(name) if !name.trim().is_empty() => format!("process {pid} ({})", name.trim()),
        Ok(_) | Err(_) => format!("process {pid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_processes_environment_only_where_its_libraries_are_is_kept() {
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .env("LD_LIBRARY_PATH", "/usr/lib")
            .env("SECRET", "s3cret")
            .spawn()
            .unwrap();
        let process = vmm::Process::of(i32::try_from(child.id()).unwrap()).unwrap();
        let is_it = || vmm(&process).is_some_and(|it| it.argv == ["sleep", "1000"]);
        support::wait::wait_until("it is another program", is_it);
        let found = vmm(&process).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found.library_path.as_deref(), Some("/usr/lib"));
        let kept = serde_json::to_string(&found).unwrap();
        assert!(!kept.contains("s3cret"), "{kept}");
    }
}
