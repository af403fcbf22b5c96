//! Retention of one instance, carried out: what goes is removed, behind a snapshot or to make room for one.

use chrono::{DateTime, Utc};

use crate::clock;
use crate::engine::EngineError;
use crate::interrupt;
use crate::plan::{self, Afterwards, Terms};
use crate::report::run::InstanceResult;
use crate::run::Run;
use crate::run::failure::Failure;
use crate::schedule::Schedule;
use crate::snapshot::{Snapshot, SnapshotId};

/// What retention does by what is listed.
///
/// # Errors
/// When the snapshots can't be listed.
pub(super) fn afterwards(
    context: &Run<'_>,
    schedule: &Schedule,
    taken: Option<&Snapshot>,
    is_gone: bool,
) -> Result<Afterwards, Failure> {
    let listing = context.listing().map_err(Failure::Unjudged)?;
    let now = clock::now();
    let terms = terms(context, is_gone, now)?;
    let snapshots = &listing.snapshots;
    Ok(plan::afterwards(schedule, snapshots, taken, &terms, now))
}

/// What may be removed before the snapshot `expected` is taken, because there is no room for it.
///
/// # Errors
/// When the snapshots can't be listed.
pub(super) fn dispensable(
    context: &Run<'_>,
    schedule: &Schedule,
    expected: &Snapshot,
) -> Result<Vec<SnapshotId>, Failure> {
    let listing = context.listing().map_err(Failure::Unjudged)?;
    let now = clock::now();
    let terms = terms(context, false, now)?;
    let snapshots = &listing.snapshots;
    Ok(plan::dispensable(
        schedule, snapshots, expected, &terms, now,
    ))
}

/// Removes that, and says what is gone.
pub(super) fn make_room(
    context: &Run<'_>,
    schedule: &Schedule,
    expected: &Snapshot,
) -> Vec<SnapshotId> {
    let id = &schedule.instance_id;
    let dispensable = dispensable(context, schedule, expected).unwrap_or_else(|failure| {
        log::warn!(instance = id.as_str(); "{}", failure.in_words());
        Vec::new()
    });
    let mut removed = Vec::new();
    for id in dispensable {
        if interrupt::requested() {
            break;
        }
        match delete(context, &id) {
            Ok(true) => removed.push(id),
            Ok(false) => {}
            Err(failure) => log::warn!("snapshot {id}: {}", failure.in_words()),
        }
    }
    if !removed.is_empty() {
        context.forget_listing();
    }
    removed
}

fn terms(context: &Run<'_>, is_gone: bool, now: DateTime<Utc>) -> Result<Terms, Failure> {
    let protections = context.store.protections(now)?;
    Ok(Terms {
        is_gone,
        is_uncapped: context.options.is_uncapped,
        missing_grace: context.options.missing_grace,
        protected: protections
            .into_iter()
            .map(|(id, protection)| (id, protection.until))
            .collect(),
    })
}

/// What retention did.
#[derive(Debug, Default)]
pub(super) struct Retained {
    /// What was removed, oldest first.
    pub(super) removed: Vec<SnapshotId>,
    /// What goes as well and waits for the next run, oldest first.
    pub(super) held_back: Vec<SnapshotId>,
    /// What goes as well and is being read, so that the next run removes it.
    pub(super) in_use: Vec<SnapshotId>,
    /// What could not be judged, removed or recorded.
    pub(super) failures: Vec<Failure>,
    /// Whether a signal ended it before all was removed that goes.
    pub(super) is_interrupted: bool,
    /// Whether the schedule has served its purpose.
    pub(super) retires: bool,
}

/// Applies the schedule's retention, `taken` included, and keeps in the schedule how it ended, so that one that fails is
/// not forgotten with the run's own output.
pub(super) fn retain(
    context: &Run<'_>,
    schedule: &mut Schedule,
    taken: Option<&Snapshot>,
    is_gone: bool,
) -> Retained {
    let mut retained = Retained::default();
    match afterwards(context, schedule, taken, is_gone) {
        Ok(afterwards) => {
            retained.held_back = afterwards.held_back;
            let mut undeleted = Vec::new();
            for id in afterwards.removals {
                // Removing large files takes its time.
                if interrupt::requested() {
                    retained.is_interrupted = true;
                    break;
                }
                match delete(context, &id) {
                    Ok(true) => retained.removed.push(id),
                    // Protected since.
                    Ok(false) => {}
                    // The next run removes it.
                    Err(Failure::Engine(EngineError::InUse(id))) => retained.in_use.push(id),
                    Err(Failure::Engine(error)) => undeleted.push((id, error)),
                    Err(failure) => {
                        retained.failures.push(failure);
                        break;
                    }
                }
            }
            if !undeleted.is_empty() {
                retained.failures.push(Failure::Undeleted(undeleted));
            }
            let is_done = retained.failures.is_empty()
                && retained.in_use.is_empty()
                && !retained.is_interrupted;
            retained.retires = afterwards.retires && is_done;
        }
        Err(failure) => retained.failures.push(failure),
    }
    if retained.is_interrupted {
        // Neither done nor failed: what was known of it stays.
        return retained;
    }
    let error = retained.failures.first().map(Failure::in_words);
    if schedule.record.note_retention(error.as_deref()) {
        retained.failures.extend(context.save(schedule).err());
    }
    retained
}

/// That snapshots which are to go are being read, a line for each.
pub(super) fn in_use(snapshots: &[SnapshotId]) -> impl Iterator<Item = String> {
    snapshots
        .iter()
        .map(|id| format!("snapshot {id} is in use, and goes with the next run"))
}

/// Deletes a snapshot unless it is protected by now, and says whether it is gone.
fn delete(context: &Run<'_>, id: &SnapshotId) -> Result<bool, Failure> {
    let _lock = context.store.lock_deletion(context.options.lock_timeout)?;
    if context.store.protection(id, clock::now())?.is_some() {
        return Ok(false);
    }
    context.ports.engine.delete(id)?;
    // One that has ended.
    context.store.unprotect(id)?;
    Ok(true)
}

/// The result of a run whose retention a signal has ended.
pub(super) fn interrupted_retention(result: InstanceResult) -> InstanceResult {
    InstanceResult {
        is_interrupted: true,
        ..result.noting("retention was interrupted by a signal; the next run, or `prune`, goes on")
    }
}
