//! Whether systemd starts `run-due`: what `systemctl` says of the timer. It gets a deadline, because it talks to a
//! service that may hang.

use std::ffi::OsStr;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::sandbox::{self, Sandbox};

/// The timer that comes with this tool.
pub const TIMER: &str = "hypeman-snap.timer";
/// How long `systemctl` may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Time between two looks at whether it has ended.
const PAUSE: Duration = Duration::from_millis(5);

/// The service that it starts.
pub const SERVICE: &str = "hypeman-snap.service";

/// What systemd says of a timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timer {
    /// Whether it is started at boot.
    pub is_enabled: bool,
    /// Whether it runs now.
    pub is_active: bool,
}

/// What the program `systemctl` says of `timer`; `None` where there is no such program, or it does not know the timer.
pub fn timer(systemctl: impl AsRef<OsStr>, timer: &str) -> Option<Timer> {
    let ask = |verb| first_word(systemctl.as_ref(), &[verb, timer], LIMIT);
    understood(&ask("is-enabled")?, &ask("is-active")?)
}

/// What `systemctl is-enabled` and `systemctl is-active` mean (systemctl(1)).
fn understood(enabled: &str, active: &str) -> Option<Timer> {
    let is_enabled = ["enabled", "enabled-runtime", "static", "alias"].contains(&enabled);
    let is_active = active == "active";
    let is_known = is_enabled || is_active || ["disabled", "masked", "linked"].contains(&enabled);
    is_known.then_some(Timer {
        is_enabled,
        is_active,
    })
}

/// The sandbox of a service; `None` where there is no systemd, or it does not know the service.
pub fn sandbox(systemctl: impl AsRef<OsStr>, service: &str) -> Option<Sandbox> {
    let properties = format!("--property={}", sandbox::PROPERTIES);
    Sandbox::parse(&said(
        systemctl.as_ref(),
        &["show", &properties, service],
        LIMIT,
    )?)
}

fn first_word(program: &OsStr, args: &[&str], limit: Duration) -> Option<String> {
    let said = said(program, args, limit)?;
    Some(
        said.split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned(),
    )
}

/// What a program prints, whatever its exit code says; `None` when it can't be started or does not end.
fn said(program: &OsStr, args: &[&str], limit: Duration) -> Option<String> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let started = Instant::now();
    // Some lines fit into the pipe, so the program never waits for a reader.
    while child.try_wait().ok()?.is_none() {
        if started.elapsed() > limit {
            // If it has ended meanwhile there is nothing to kill.
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(PAUSE);
    }
    let mut said = String::new();
    child.stdout.take()?.read_to_string(&mut said).ok()?;
    Some(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_systemctl_are_understood() {
        let known = |is_enabled, is_active| {
            Some(Timer {
                is_enabled,
                is_active,
            })
        };
        assert_eq!(understood("enabled", "active"), known(true, true));
        assert_eq!(understood("enabled", "inactive"), known(true, false));
        assert_eq!(understood("disabled", "active"), known(false, true));
        assert_eq!(understood("masked", "inactive"), known(false, false));
        assert_eq!(understood("not-found", "inactive"), None);
        assert_eq!(understood("", ""), None);
    }

    #[test]
    fn a_program_is_listened_to_until_its_limit() {
        let word = |program: &str, args: &[&str], limit| {
            first_word(OsStr::new(program), args, Duration::from_millis(limit))
        };
        let said = word("sh", &["-c", "echo inactive since; exit 3"], 60_000);
        assert_eq!(said.as_deref(), Some("inactive"));
        let began = Instant::now();
        assert_eq!(word("sleep", &["60"], 20), None);
        assert!(began.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_host_without_systemd_has_no_timer() {
        assert_eq!(timer("/nonexistent/systemctl", TIMER), None);
    }
}
