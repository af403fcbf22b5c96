//! QEMU's migration, which is how it saves memory and device state: its status, its end, its speed.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::super::{Deadline, VmmError};
use super::capabilities::Capabilities;
use super::qmp::Qmp;
use super::wire::Version;

/// The speed of a save in the pause, in bytes per second: without bound, and a number that nobody else would choose, so
/// that a later process recognises it as ours.
const OUR_BANDWIDTH: u64 = (1 << 50) + 20_220_707;
/// QEMU's own default of `max-bandwidth`, in bytes per second.
const DEFAULT_BANDWIDTH: u64 = 128 << 20;
/// Time between two looks at a migration that is being cancelled.
const LOOK: Duration = Duration::from_millis(10);

/// How a migration stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MigrationState {
    /// There was none.
    None,
    /// It goes on.
    UnderWay,
    /// All of it is written.
    Completed,
    /// It failed, for the reason that QEMU gives, if any.
    Failed(Option<String>),
    /// It was cancelled.
    Cancelled,
}

/// The answer to `query-migrate`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Info")]
pub(super) struct Migration {
    /// How it stands.
    pub phase: MigrationState,
    /// Pages of RAM that were saved: zero pages and others.
    ///
    /// QEMU counts them in `ram_save_iterate`, which a background snapshot calls only after the device state has been
    /// saved and `ram_write_tracking_start` has protected all RAM (`bg_migration_thread`, 6.0 to 10.x). `active` alone
    /// and `transferred` come before that.
    pub pages: u64,
    /// Bytes that were written; with `pages` and `remaining` it tells whether anything moves.
    pub transferred: u64,
    /// Bytes that are still to be saved.
    pub remaining: u64,
    /// Why this guest can't be saved at all.
    pub blocked: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    status: Option<String>,
    error_desc: Option<String>,
    #[serde(default)]
    ram: Ram,
    #[serde(default)]
    blocked_reasons: Vec<String>,
}

#[derive(Default, Deserialize)]
struct Ram {
    #[serde(default)]
    normal: u64,
    #[serde(default)]
    duplicate: u64,
    #[serde(default)]
    transferred: u64,
    #[serde(default)]
    remaining: u64,
}

impl Migration {
    /// Numbers of which one changes as long as anything moves.
    pub(super) const fn progress(&self) -> [u64; 3] {
        [self.pages, self.transferred, self.remaining]
    }
}

impl From<Info> for Migration {
    fn from(info: Info) -> Self {
        Self {
            phase: match info.status.as_deref() {
                None | Some("none") => MigrationState::None,
                Some("completed") => MigrationState::Completed,
                Some("failed") => MigrationState::Failed(info.error_desc),
                Some("cancelled") => MigrationState::Cancelled,
                // All others, known and to come, stand between the beginning and one of these ends.
                Some(_) => MigrationState::UnderWay,
            },
            pages: info.ram.normal.saturating_add(info.ram.duplicate),
            transferred: info.ram.transferred,
            remaining: info.ram.remaining,
            blocked: info.blocked_reasons,
        }
    }
}

/// How the migration stands.
///
/// # Errors
/// When QEMU can't be asked.
pub(super) fn look(qmp: &mut Qmp) -> Result<Migration, VmmError> {
    qmp.query("query-migrate", &json!({}))
}

/// As [`look`], with no more time than is left until `deadline`.
///
/// # Errors
/// As [`look`]; [`VmmError::PauseTooLong`].
pub(super) fn look_by(qmp: &mut Qmp, deadline: Deadline) -> Result<Migration, VmmError> {
    qmp.query_by("query-migrate", &json!({}), deadline)
}

/// Whether a background save that is cancelled or fails leaves the guest whole. Before 8.1 QEMU did not take the write
/// protection away then, and the guest's processors hung at their next write ("migration: stop tracking ram writes when
/// cancelling background migration", May 2023; seen with 7.2.22).
pub(super) fn fails_cleanly(version: &Version) -> bool {
    const FIXED: Version = Version {
        major: 8,
        minor: 1,
        micro: 0,
    };
    *version >= FIXED
}

/// Cancels a migration that goes on and waits until it has ended. Not for a background save, unless QEMU
/// [`fails_cleanly`].
///
/// # Errors
/// When it has not ended within the time of a request.
pub(super) fn cancel(qmp: &mut Qmp) -> Result<(), VmmError> {
    if look(qmp)?.phase != MigrationState::UnderWay {
        return Ok(());
    }
    qmp.execute("migrate_cancel", &json!({}))?;
    let limit = qmp.limit();
    await_end(qmp, limit, "migrate_cancel with an end of the save")
}

/// As [`cancel`], but for a save whose end would harm the guest: that is left for [`end`].
///
/// # Errors
/// As [`cancel`].
pub(super) fn cancel_if_harmless(qmp: &mut Qmp) -> Result<(), VmmError> {
    if fails_cleanly(qmp.version()) || Capabilities::look(qmp)?.background() != Some(true) {
        return cancel(qmp);
    }
    Ok(())
}

/// Ends a migration that goes on: by cancelling it, or, where that would harm the guest, by waiting for its end. Then it
/// fails when nothing moves for `stall`.
///
/// # Errors
/// [`VmmError::StillSaving`] when the wait is over first; else when it has not ended.
pub(super) fn end(qmp: &mut Qmp, stall: Duration) -> Result<(), VmmError> {
    cancel_if_harmless(qmp)?;
    let request = "with any progress of the save that it can't give up";
    match await_end(qmp, stall, request) {
        Err(VmmError::Over(_)) => Err(VmmError::StillSaving),
        other => other,
    }
}

fn await_end(qmp: &mut Qmp, stall: Duration, request: &str) -> Result<(), VmmError> {
    let mut deadline = Deadline::after(stall);
    let mut last = look(qmp)?;
    while last.phase == MigrationState::UnderWay {
        if deadline.has_passed() {
            return Err(qmp.timed_out(request, stall));
        }
        qmp.listen(LOOK)?;
        let now = look(qmp)?;
        if now != last {
            deadline = Deadline::after(stall);
            last = now;
        }
    }
    Ok(())
}

/// Waits until a background save that goes on has protected the guest's memory, from when on QEMU doesn't stop the
/// guest again, or has ended.
///
/// # Errors
/// When that takes longer than the time of a request.
pub(super) fn await_protection(qmp: &mut Qmp) -> Result<(), VmmError> {
    let deadline = Deadline::after(qmp.limit());
    loop {
        let migration = look(qmp)?;
        if migration.phase != MigrationState::UnderWay || migration.pages > 0 {
            return Ok(());
        }
        if deadline.has_passed() {
            return Err(qmp.timed_out("with a protected memory", deadline.limit()));
        }
        qmp.listen(LOOK)?;
    }
}

/// The answer to `query-migrate-parameters`, as far as it matters here.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Parameters {
    max_bandwidth: Option<u64>,
}

/// The speed limit of a save, in bytes per second.
///
/// # Errors
/// When QEMU can't be asked.
pub(super) fn bandwidth(qmp: &mut Qmp) -> Result<Option<u64>, VmmError> {
    let parameters: Parameters = qmp.query("query-migrate-parameters", &json!({}))?;
    Ok(parameters.max_bandwidth)
}

/// Lifts the speed limit of a save, which a background save has not.
///
/// # Errors
/// When QEMU refuses.
pub(super) fn lift_bandwidth(qmp: &mut Qmp) -> Result<(), VmmError> {
    set_bandwidth(qmp, OUR_BANDWIDTH)
}

/// Puts the speed limit back: to `before`, or, where that is not known, to QEMU's default. One that is not ours stays.
///
/// # Errors
/// When QEMU refuses.
pub(super) fn restore_bandwidth(qmp: &mut Qmp, before: Option<u64>) -> Result<(), VmmError> {
    if bandwidth(qmp)? != Some(OUR_BANDWIDTH) {
        return Ok(());
    }
    set_bandwidth(qmp, before.unwrap_or(DEFAULT_BANDWIDTH))
}

fn set_bandwidth(qmp: &mut Qmp, bytes_per_second: u64) -> Result<(), VmmError> {
    let parameters = json!({"max-bandwidth": bytes_per_second});
    qmp.execute("migrate-set-parameters", &parameters)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn parse(answer: Value) -> serde_json::Result<Migration> {
        serde_json::from_value(answer)
    }

    fn phase(answer: Value) -> MigrationState {
        parse(answer).unwrap().phase
    }

    #[test]
    fn every_status_before_an_end_is_under_way() {
        assert_eq!(phase(json!({})), MigrationState::None);
        assert_eq!(phase(json!({"status": "none"})), MigrationState::None);
        for status in ["setup", "active", "cancelling", "device", "what-comes-next"] {
            assert_eq!(
                phase(json!({"status": status})),
                MigrationState::UnderWay,
                "{status}"
            );
        }
        assert_eq!(
            phase(json!({"status": "completed"})),
            MigrationState::Completed
        );
        assert_eq!(
            phase(json!({"status": "cancelled"})),
            MigrationState::Cancelled
        );
        assert_eq!(
            phase(json!({"status": "failed"})),
            MigrationState::Failed(None)
        );
        assert_eq!(
            phase(json!({"status": "failed", "error-desc": "no space"})),
            MigrationState::Failed(Some("no space".to_owned()))
        );
    }

    #[test]
    fn bytes_of_the_stream_header_are_no_saved_pages() {
        // As QEMU 9 answers between its header and the write protection.
        let answer = json!({"status": "active", "ram": {
            "total": 1_091_379_200_u64, "remaining": 1_091_379_200_u64, "transferred": 2125,
            "normal": 0, "duplicate": 0, "page-size": 4096,
        }});
        let migration = parse(answer).unwrap();
        assert_eq!((migration.pages, migration.transferred), (0, 2125));
    }

    #[test]
    fn zero_pages_count_as_saved() {
        let answer = json!({"status": "active", "ram": {"normal": 3, "duplicate": 40}});
        assert_eq!(parse(answer).unwrap().pages, 43);
    }

    #[test]
    fn an_answer_of_another_form_is_an_error() {
        assert!(parse(json!({"status": 7})).is_err());
        assert!(parse(json!([])).is_err());
    }
}
