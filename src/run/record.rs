//! The end of a run for one instance: what is recorded of it, the retention behind it, and what is reported.

use std::time::Duration;

use crate::clock;
use crate::report::run::{InstanceResult, Outcome};
use crate::run::carry_out::End;
use crate::run::failure::{Failure, HookFailed};
use crate::run::hooks::Hooks;
use crate::run::retain::{in_use, interrupted_retention, retain};
use crate::run::{Run, result};
use crate::schedule::hooks::Stage;
use crate::schedule::{Attempt, Schedule};
use crate::snapshot::Snapshot;

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
