//! What a journal means whose run died, in words for `doctor`. Pure.

use super::journal::{Journaled, Phase, RestorePhase, Restoring};
use crate::finding::Finding;

/// What the check is called.
pub(super) const JOURNAL: &str = "journal";

/// A journal whose run died.
pub(super) fn finding(journaled: &Journaled) -> Finding {
    let entry = match journaled {
        Journaled::Capture(entry) => entry,
        Journaled::Restore(restoring) => return half_restored(restoring),
    };
    let effect = match entry.phase {
        Phase::Preparing => "its VMM may hold what was left in it",
        Phase::Pausing => "its guest may be paused since",
        Phase::Saving => "its VMM may still be saving",
    };
    Finding::broken(
        JOURNAL,
        &entry.instance_id,
        format!(
            "a run that began at {} died in mid-snapshot: {effect}",
            entry.began_at.format("%Y-%m-%d %H:%M:%SZ")
        ),
        "hypeman-snap run-due --recover-only",
    )
}

/// A restore in place that died.
fn half_restored(restoring: &Restoring) -> Finding {
    let effect = match restoring.phase {
        RestorePhase::Laying => "files of it lie beside the disks, which are as they were",
        RestorePhase::Exchanging => "some of the disks may be the snapshot's and others not",
        RestorePhase::Keeping => "what was there before is no snapshot yet",
    };
    Finding::broken(
        JOURNAL,
        &restoring.instance_id,
        format!(
            "a restore of {} that began at {} died: {effect}",
            restoring.snapshot_id,
            restoring.began_at.format("%Y-%m-%d %H:%M:%SZ")
        ),
        "with the VM off: hypeman-snap run-due --recover-only",
    )
}
