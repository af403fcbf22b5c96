//! How much this process gets of what others want too.

use std::process::{Command, Stdio};

use crate::syscalls;

/// Lets this process and the threads that it starts from now on read and write only when nobody else wants the disk
/// (ioprio_set(2), "idle"; for schedulers that know priorities, such as BFQ). Where that can't be done, it goes on as it is.
pub fn idle_io() {
    let own = std::process::id().to_string();
    let done = Command::new("ionice")
        .args(["-c", "idle", "-p", &own])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !done.as_ref().is_ok_and(std::process::ExitStatus::success) {
        log::debug!("can't lower the priority of this process's I/O with ionice: {done:?}");
    }
}

/// Lets the calling thread work only when nobody else wants the processor or the disk. Where that can't be done, it goes
/// on as it is.
pub fn idle_thread() {
    for (what, done) in [
        ("processor", syscalls::idle_processor()),
        ("disk", syscalls::idle_disk()),
    ] {
        if let Err(error) = done {
            log::debug!("can't leave the {what} to others: {error}");
        }
    }
}
