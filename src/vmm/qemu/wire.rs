//! What QEMU says over QMP by itself: its greeting and its events. Parses, and asks nothing.

use std::time::Duration;

use serde_json::Value;

use super::super::VmmError;

/// The guest stopped or went on, by QEMU's account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RunChange {
    /// Whether it runs from here on.
    pub runs: bool,
    /// When, since the epoch; `None` where QEMU could not tell.
    pub at: Option<Duration>,
}

/// The version that QEMU greets with.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    /// As in 10.1.2: 10.
    pub major: u64,
    /// As in 10.1.2: 1.
    pub minor: u64,
    /// As in 10.1.2: 2.
    pub micro: u64,
}

impl Version {
    /// Reads the greeting.
    ///
    /// # Errors
    /// [`VmmError::Protocol`] when it is none.
    pub fn of_greeting(greeting: &Value) -> Result<Self, VmmError> {
        let number = |field| {
            greeting
                .pointer("/QMP/version/qemu")
                .and_then(|version| version.get(field))
                .and_then(Value::as_u64)
        };
        match (number("major"), number("minor"), number("micro")) {
            (Some(major), Some(minor), Some(micro)) => Ok(Self {
                major,
                minor,
                micro,
            }),
            _ => Err(no_monitor()),
        }
    }
}

impl RunChange {
    /// Reads an event; `None` when it is another one.
    pub fn of_event(event: &Value) -> Option<Self> {
        let runs = match event.get("event")?.as_str()? {
            "STOP" => false,
            "RESUME" => true,
            _ => return None,
        };
        let at = parse_timestamp(event);
        Some(Self { runs, at })
    }
}

/// The error when whoever listens does not greet as a QMP monitor does.
pub(super) fn no_monitor() -> VmmError {
    VmmError::Protocol {
        request: "a new connection".to_owned(),
        detail: "no QMP monitor greets there".to_owned(),
    }
}

fn parse_timestamp(event: &Value) -> Option<Duration> {
    let seconds = event.pointer("/timestamp/seconds")?.as_u64()?;
    let microseconds = event.pointer("/timestamp/microseconds")?.as_u64()?;
    Duration::from_secs(seconds).checked_add(Duration::from_micros(microseconds))
}
