//! Retention for one instance: judge by the pure plan, delete what goes, count what stays.

use chrono::{DateTime, Utc};

use crate::engine::describe;
use crate::interrupt;
use crate::retention::{self, Policy};
use crate::run::report::InstanceResult;
use crate::run::{Context, outcome};
use crate::schedule::Schedule;
use crate::snapshot::{Snapshot, SnapshotId};

/// What retention did, or in a dry run would do.
#[derive(Debug, Default)]
pub(super) struct Retained {
    /// What was removed, oldest first.
    pub(super) removed: Vec<SnapshotId>,
    /// How many scheduled snapshots of the instance are left.
    pub(super) left: usize,
    /// What could not be judged or removed.
    pub(super) error: Option<String>,
    /// Whether a signal ended it before all was removed that goes.
    pub(super) is_interrupted: bool,
}

impl Retained {
    /// Whether all is as the schedule's retention says.
    pub(super) fn is_done(&self) -> bool {
        self.error.is_none() && !self.is_interrupted
    }
}

/// Applies the schedule's retention to the instance's scheduled snapshots, `taken` included.
///
/// The listing may be older than what other processes did meanwhile: it can only lack newer snapshots, so that judging
/// by it keeps more, never less.
pub(super) fn apply(
    context: &Context<'_>,
    schedule: &Schedule,
    taken: Option<&Snapshot>,
    instance_exists: bool,
    now: DateTime<Utc>,
) -> Retained {
    let listing = match context.listing() {
        Ok(listing) => listing,
        Err(error) => {
            return Retained {
                error: Some(format!("retention could not be applied: {error}")),
                ..Retained::default()
            };
        }
    };
    let id = &schedule.instance_id;
    let scheduled: Vec<Snapshot> = listing
        .snapshots
        .iter()
        .filter(|listed| taken.is_none_or(|taken| taken.id != listed.id))
        .chain(taken)
        .filter(|snapshot| snapshot.is_scheduled_for(id))
        .cloned()
        .collect();
    let policy = Policy::of(
        &schedule.declaration.retention,
        &schedule.record,
        instance_exists,
        context.options.missing_grace,
        now,
    );
    let verdicts = retention::verdicts(id, &scheduled, &policy, now);
    let mut retained = Retained {
        left: scheduled.len(),
        ..Retained::default()
    };
    let mut failures = Vec::new();
    for snapshot in retention::removals(&verdicts) {
        // Removing large files takes its time.
        if interrupt::requested() {
            retained.is_interrupted = true;
            break;
        }
        let removed = if context.options.dry_run {
            Ok(())
        } else {
            context.ports.engine.delete(&snapshot.id)
        };
        match removed {
            Ok(()) => {
                retained.removed.push(snapshot.id.clone());
                retained.left -= 1;
            }
            Err(error) => failures.push(format!("{}: {}", snapshot.id, describe(&error))),
        }
    }
    if !failures.is_empty() {
        retained.error = Some(format!("could not delete {}", failures.join("; ")));
    }
    retained
}

/// Keeps in the schedule how retention ended, so that one that fails is not forgotten with the run's own output, and
/// adds what went wrong to the result.
pub(super) fn record(
    context: &Context<'_>,
    schedule: &mut Schedule,
    retained: &Retained,
    result: &mut InstanceResult,
) {
    outcome::add_error(result, retained.error.clone());
    if retained.is_interrupted {
        // Neither done nor failed: what was known of it stays.
        result.is_interrupted = true;
        result.notes.push(
            "retention was interrupted by a signal; the next run, or `prune`, goes on".to_owned(),
        );
        return;
    }
    let is_changed = schedule.record.note_retention(retained.error.as_deref());
    if is_changed && !context.options.dry_run {
        if let Err(error) = context.store.save(schedule) {
            outcome::add_error(result, Some(describe(&error)));
        }
    }
}
