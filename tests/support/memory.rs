//! How much memory a program takes.

use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// Runs a command to its end. Gives what it said, and the most memory that it had at once, in KiB, as far as looks in a
/// row can tell.
///
/// # Panics
/// When it can't be started.
pub fn run(command: &mut Command) -> (Output, u64) {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let status = format!("/proc/{}/status", child.id());
    let looks = std::thread::spawn(move || {
        let mut peak = 0;
        // The lines are gone when the process has ended and waits to be taken note of.
        while let Some(now) = high_water_kib(&status) {
            peak = peak.max(now);
            std::thread::sleep(Duration::from_millis(2));
        }
        peak
    });
    let output = child.wait_with_output().expect("its output");
    (output, looks.join().expect("looks"))
}

fn high_water_kib(status: &str) -> Option<u64> {
    let text = fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}
