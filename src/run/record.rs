//! The end of a run for one instance: what is recorded of it, the retention behind it, and what is reported.

use std::time::Duration;

use crate::clock;
use crate::engine::EngineError;
use crate::interrupt;
use crate::plan::{self, Afterwards, Terms};
use crate::report::run::{InstanceResult, Outcome};
use crate::run::carry_out::End;
use crate::run::failure::{Failure, HookFailed};
use crate::run::hooks::Hooks;
use crate::run::{Run, result};
use crate::schedule::hooks::Stage;
use crate::schedule::{Attempt, Schedule};
use crate::snapshot::{Snapshot, SnapshotId};

/// Records how the run ended, applies retention, runs what has to hear of a failure, and reports.
pub(super) fn record(
    context: &Run<'_>,
    mut schedule: Schedule,
    attempt: &Attempt,
    end: End,
    mut hooks: Hooks,
    notes: Vec<String>,
    took: Duration,
) -> InstanceResult {
    let id = schedule.instance_id.clone();
    let now = clock::now();
    let named = InstanceResult {
        snapshot_name: Some(attempt.snapshot_name.clone()),
        notes,
        ..InstanceResult::new(&id, Outcome::Snapshotted)
    };
    let mut failures = Vec::new();
    let (mut result, taken, is_gone) = match end {
        End::Taken(created) => {
            context.warn(created.warnings);
            let result = record_success(&mut schedule, named, &created.snapshot, created.pause);
            (result, Some(created.snapshot), false)
        }
        End::Adopted(snapshot) => {
            let result = record_success(&mut schedule, named, &snapshot, None);
            (result, Some(snapshot), false)
        }
        End::Gone => {
            schedule.record.note_missing(now);
            let result = InstanceResult {
                snapshot_name: None,
                outcome: Outcome::Pruned,
                ..named
            };
            (result, None, true)
        }
        End::Interrupted { kind } => {
            schedule.record.interrupt(now);
            // Retention takes its time, and there is none. Nor is it a failure that a hook should hear of.
            failures.extend(context.save(&schedule).err());
            let result = InstanceResult {
                kind,
                outcome: Outcome::Interrupted,
                is_interrupted: true,
                ..named.noting("interrupted by a signal; the next run takes it up")
            };
            return finished(result, hooks, failures);
        }
        End::Failed {
            kind,
            is_found,
            is_open,
            pause,
            why,
        } => {
            schedule.fail(&why.in_words(), now);
            if is_open {
                // As if this run had died: the next one looks for this very snapshot first.
                schedule.record.attempt = Some(attempt.clone());
            }
            if is_found {
                schedule.record.missing_since = None;
            }
            hooks.know_failure(&why.in_words());
            failures.push(why);
            let result = InstanceResult {
                kind,
                outcome: Outcome::Failed,
                pause,
                ..named
            };
            (result, None, false)
        }
    };
    schedule.record.last_duration_ms = Some(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    // Before retention, which may take long: whatever becomes of it, the snapshot is known.
    let unrecorded = context.save(&schedule).err();
    let retained = retain(context, &mut schedule, taken.as_ref(), is_gone);
    result.pruned = retained.removed;
    result.held_back = retained.held_back;
    result.notes.extend(in_use(&retained.in_use));
    if retained.is_interrupted {
        result = interrupted_retention(result);
    }
    failures.extend(retained.failures);
    if retained.retires {
        match context.store.remove(&id) {
            Ok(_) => {
                result.outcome = Outcome::Retired;
                result = result.noting(result::RETIRED);
            }
            Err(error) => failures.push(error.into()),
        }
    } else if is_gone {
        result = result.noting("the instance is gone; only retention was applied");
    }
    failures.extend(unrecorded);
    if let Some(error) = result::all_in_words(&failures) {
        hooks.know_error(&error);
    }
    // What it hears of is on disk by now.
    hooks.failure();
    finished(result, hooks, failures)
}

/// The result with its hooks, and with what they and everything else came to.
fn finished(
    mut result: InstanceResult,
    hooks: Hooks,
    mut failures: Vec<Failure>,
) -> InstanceResult {
    result.hooks = hooks.ran();
    for hook in &result.hooks {
        match (hook.stage, &hook.error) {
            // It may leave its pre-hook's work undone, so that somebody has to look; the snapshot stays good.
            (Stage::Post, Some(error)) => failures.push(Failure::Hook(HookFailed(error.clone()))),
            // Something worse has been said.
            (Stage::Failure, Some(error)) => result.notes.push(error.clone()),
            // The pre-hook's error is the run's own.
            (Stage::Pre, _) | (_, None) => {}
        }
    }
    result.error = result::all_in_words(&failures);
    result
}

fn record_success(
    schedule: &mut Schedule,
    named: InstanceResult,
    snapshot: &Snapshot,
    pause: Option<Duration>,
) -> InstanceResult {
    let record = &mut schedule.record;
    record.succeed(snapshot.id.as_str(), snapshot.created_at, clock::now());
    record.last_pause_ms = pause.map(|pause| pause.as_secs_f64() * 1000.0);
    InstanceResult {
        kind: Some(snapshot.kind),
        snapshot_id: Some(snapshot.id.clone()),
        pause,
        ..named
    }
}

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
    let protections = context.store.protections(now)?;
    let terms = Terms {
        is_gone,
        is_uncapped: context.options.is_uncapped,
        missing_grace: context.options.missing_grace,
        protected: protections
            .into_iter()
            .map(|(id, protection)| (id, protection.until))
            .collect(),
    };
    let snapshots = &listing.snapshots;
    Ok(plan::afterwards(schedule, snapshots, taken, &terms, now))
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
