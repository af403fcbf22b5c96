//! The messages that QEMU sends over QMP. Parses, and asks nothing. What a command returned stays text until whoever
//! asked for it says what it should be: nothing else of it is kept in memory.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::VmmError;

/// One line.
#[derive(Debug, Deserialize)]
pub(super) struct Message {
    /// Which request it answers.
    pub id: Option<u64>,
    /// What a command returned.
    #[serde(rename = "return")]
    pub returned: Option<Box<RawValue>>,
    /// Why a command failed.
    pub error: Option<Refusal>,
    event: Option<String>,
    data: Option<Box<RawValue>>,
    timestamp: Option<Timestamp>,
    #[serde(rename = "QMP")]
    greeting: Option<Greeting>,
}

/// An error of a command.
#[derive(Debug, Deserialize)]
pub(super) struct Refusal {
    /// In QEMU's words.
    pub desc: Option<String>,
}

/// What the failure of a disk is told with.
#[derive(Debug, Default, Deserialize)]
struct DiskFailure {
    #[serde(default)]
    device: String,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    reason: String,
}

/// QEMU says -1 for what it can't tell.
#[derive(Debug, Deserialize)]
struct Timestamp {
    seconds: i64,
    microseconds: i64,
}

#[derive(Debug, Deserialize)]
struct Greeting {
    version: Versions,
}

#[derive(Debug, Deserialize)]
struct Versions {
    qemu: Version,
}

/// The guest stopped or went on, by QEMU's account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RunChange {
    /// Whether it runs from here on.
    pub runs: bool,
    /// When, since the epoch; `None` where QEMU could not tell.
    pub at: Option<Duration>,
}

/// The version that QEMU greets with.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) struct Version {
    /// As in 10.1.2: 10.
    pub major: u64,
    /// As in 10.1.2: 1.
    pub minor: u64,
    /// As in 10.1.2: 2.
    pub micro: u64,
}

impl Message {
    /// Reads a line.
    ///
    /// # Errors
    /// When it is not a message of QMP.
    pub fn parse(line: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(line)
    }

    /// The version in a greeting.
    ///
    /// # Errors
    /// [`VmmError::Protocol`] when it is none.
    pub fn version(self) -> Result<Version, VmmError> {
        self.greeting
            .map(|greeting| greeting.version.qemu)
            .ok_or_else(no_monitor)
    }

    /// What an event says of the run state; `None` when it is another message.
    pub fn run_change(&self) -> Option<RunChange> {
        let runs = match self.event.as_deref()? {
            "STOP" => false,
            "RESUME" => true,
            _ => return None,
        };
        let at = self.timestamp.as_ref().and_then(Timestamp::since_epoch);
        Some(RunChange { runs, at })
    }
}

impl Message {
    /// What an event says that no guest wants; `None` when it is another message (qapi/run-state.json and
    /// qapi/block-core.json in QEMU's sources).
    pub fn mishap(&self) -> Option<String> {
        Some(match self.event.as_deref()? {
            "RESET" => "it boots anew".to_owned(),
            "SHUTDOWN" => "it shut down".to_owned(),
            "GUEST_PANICKED" | "GUEST_CRASHLOADED" => "its kernel panicked".to_owned(),
            "MEMORY_FAILURE" => "its memory failed".to_owned(),
            "BLOCK_IO_ERROR" => {
                let data = self.data.as_ref().map(|data| data.get());
                let failure: Option<DiskFailure> =
                    data.and_then(|data| serde_json::from_str(data).ok());
                let DiskFailure {
                    device,
                    operation,
                    reason,
                } = failure.unwrap_or_default();
                format!("its disk {device} failed at a {operation}: {reason}")
            }
            "BLOCK_IMAGE_CORRUPTED" => "the image of its disk is corrupt".to_owned(),
            _ => return None,
        })
    }
}

impl Timestamp {
    fn since_epoch(&self) -> Option<Duration> {
        let seconds = u64::try_from(self.seconds).ok()?;
        let microseconds = u64::try_from(self.microseconds).ok()?;
        Duration::from_secs(seconds).checked_add(Duration::from_micros(microseconds))
    }
}

/// The error when whoever listens does not greet as a QMP monitor does.
pub(super) fn no_monitor() -> VmmError {
    VmmError::Protocol {
        request: "a new connection".to_owned(),
        detail: "no QMP monitor greets there".to_owned(),
    }
}
