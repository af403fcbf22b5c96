//! The end of a run for one instance: what is recorded of it, the retention behind it, and what is reported.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::clock;
use crate::engine::{Created, describe};
use crate::run::Context;
use crate::run::outcome::{self, add_error};
use crate::run::report::{InstanceResult, Outcome};
use crate::run::retain::{self, Retained};
use crate::run::steps::save;
use crate::schedule::{Attempt, Schedule};
use crate::snapshot::{Kind, Snapshot};

/// How the taking of a snapshot ended.
pub(super) enum End {
    Taken(Kind, Created),
    /// An earlier run had finished the snapshot and died before it could record it.
    Found(Snapshot),
    Gone,
    /// A signal ended it; nothing failed.
    Interrupted {
        /// The kind that was begun; `None` if it did not come to that.
        kind: Option<Kind>,
    },
    Failed {
        /// The kind that was tried; `None` if it did not come to that.
        kind: Option<Kind>,
        /// Whether the instance was found.
        is_found: bool,
        /// Whether the snapshot may still turn up under the attempt's name.
        is_open: bool,
        /// How long the guest was paused for it, if it was.
        pause: Option<Duration>,
        error: String,
    },
}

/// Records how the run ended, applies retention, and makes the result.
pub(super) fn record(
    context: &Context<'_>,
    schedule: &mut Schedule,
    attempt: &Attempt,
    end: End,
    took: Duration,
) -> InstanceResult {
    let id = schedule.instance_id.clone();
    let now = clock::now();
    let named = InstanceResult {
        snapshot_name: Some(attempt.snapshot_name.clone()),
        ..outcome::plain(&id, Outcome::Snapshotted)
    };
    let (mut result, taken, exists) = match end {
        End::Taken(kind, created) => {
            let snapshot = &created.snapshot;
            schedule
                .record
                .succeed(snapshot.id.as_str(), snapshot.created_at, now);
            schedule.record.last_pause_ms = created.pause.map(|pause| pause.as_secs_f64() * 1000.0);
            context.warn(created.warnings);
            let result = InstanceResult {
                kind: Some(kind),
                snapshot_id: Some(created.snapshot.id.clone()),
                pause: created.pause,
                ..named
            };
            (result, Some(created.snapshot), true)
        }
        End::Found(snapshot) => {
            schedule
                .record
                .succeed(snapshot.id.as_str(), snapshot.created_at, now);
            schedule.record.last_pause_ms = None;
            let result = InstanceResult {
                kind: Some(snapshot.kind),
                snapshot_id: Some(snapshot.id.clone()),
                ..named
            };
            (result, Some(snapshot), true)
        }
        End::Gone => {
            schedule.record.note_missing(now);
            let result = InstanceResult {
                notes: vec!["the instance is gone; only retention was applied".to_owned()],
                ..outcome::plain(&id, Outcome::Pruned)
            };
            (result, None, false)
        }
        End::Interrupted { kind } => {
            schedule.record.interrupt(now);
            let mut result = InstanceResult {
                kind,
                snapshot_name: named.snapshot_name,
                ..outcome::interrupted(&id, "interrupted by a signal; the next run takes it up")
            };
            // Retention takes its time, and there is none.
            add_error(&mut result, save(context, schedule).err());
            return result;
        }
        End::Failed {
            kind,
            is_found,
            is_open,
            pause,
            error,
        } => {
            schedule.fail(&error, now);
            if is_open {
                // As if this run had died: the next one looks for this very snapshot first.
                schedule.record.attempt = Some(attempt.clone());
            }
            if is_found {
                schedule.record.missing_since = None;
            }
            let result = InstanceResult {
                kind,
                outcome: Outcome::Failed,
                error: Some(error),
                pause,
                ..named
            };
            (result, None, true)
        }
    };
    schedule.record.last_duration_ms = Some(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    // Before retention, which may take long: whatever becomes of it, the snapshot is known.
    let recorded = save(context, schedule);
    let retained = retain::apply(context, schedule, taken.as_ref(), exists, now);
    retain::record(context, schedule, &retained, &mut result);
    if !exists && retained.is_done() {
        let retired = retire_if_done(context, schedule, &retained, now, &mut result);
        add_error(&mut result, retired.err());
    }
    add_error(&mut result, recorded.err());
    result.pruned = retained.removed;
    result
}

/// Removes the schedule of an instance that is gone for good.
pub(super) fn retire_if_done(
    context: &Context<'_>,
    schedule: &Schedule,
    retained: &Retained,
    now: DateTime<Utc>,
    result: &mut InstanceResult,
) -> Result<(), String> {
    if !schedule.can_retire(retained.left, context.options.missing_grace, now) {
        return Ok(());
    }
    if !context.options.dry_run {
        context
            .store
            .remove(&schedule.instance_id)
            .map_err(|error| describe(&error))?;
    }
    result.outcome = Outcome::Retired;
    result.notes = vec!["the instance is gone for good; its schedule was removed".to_owned()];
    Ok(())
}
