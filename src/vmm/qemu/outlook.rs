//! What a snapshot of QEMU's guest would be like, by a look that changes nothing.

use super::super::{Method, Outlook, Process, VmmError};
use super::capabilities::Capabilities;
use super::capture;
use super::huge_pages;
use super::memory;
use super::qmp::Qmp;
use super::shared::Untouched;

/// What is foreseen.
///
/// # Errors
/// When QEMU can't be asked.
pub(super) fn look(qmp: &mut Qmp, process: Option<&Process>) -> Result<Outlook, VmmError> {
    let memory = memory::size_bytes(qmp)?;
    if Capabilities::look(qmp)?.background().is_none() {
        return Ok(in_pause(process, capture::TOO_OLD));
    }
    let untouched = Untouched::look(qmp, process)?;
    let (small, obstacle) = match process {
        // Private memory alone: what is shared is read from its own pages.
        Some(process) if untouched.is_none() => huge_pages::foresee(process, qmp.watch()),
        Some(_) | None => (0, None),
    };
    let remedy = match (&untouched, obstacle) {
        (Some(_), _) => Some("private memory for the guest (share=off)".to_owned()),
        (None, Some(obstacle)) if small > 0 => Some(obstacle.remedy()),
        (None, _) => None,
    };
    Ok(Outlook {
        method: Method::Behind {
            small: small.min(memory),
            untouched: untouched.map_or(0, |it| it.bytes()),
        },
        memory,
        remedy,
    })
}

/// What is foreseen where memory is saved in the pause, because of `why`.
pub(super) fn in_pause(process: Option<&Process>, why: &str) -> Outlook {
    Outlook {
        method: Method::InPause { is_synced: false },
        memory: process.and_then(Process::memory_bytes).unwrap_or(0),
        remedy: Some(capture::remedy(why).to_owned()),
    }
}
