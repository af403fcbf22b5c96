//! Small makers of results, so that the steps read as steps.

use std::time::Duration;

use crate::engine::EngineError;
use crate::instance::InstanceId;
use crate::interrupt;
use crate::run::report::{InstanceResult, Outcome};

/// A result of which only the outcome is known.
pub(super) fn plain(id: &InstanceId, outcome: Outcome) -> InstanceResult {
    InstanceResult {
        instance_id: id.clone(),
        outcome,
        kind: None,
        snapshot_id: None,
        snapshot_name: None,
        pruned: Vec::new(),
        pause: None,
        duration: Duration::ZERO,
        error: None,
        is_locked: false,
        is_interrupted: false,
        notes: Vec::new(),
        hooks: Vec::new(),
    }
}

/// A failure.
pub(super) fn failed(id: &InstanceId, error: String) -> InstanceResult {
    InstanceResult {
        error: Some(error),
        ..plain(id, Outcome::Failed)
    }
}

/// A signal ended it before it was done, and what becomes of it.
pub(super) fn interrupted(id: &InstanceId, note: &str) -> InstanceResult {
    InstanceResult {
        notes: vec![note.to_owned()],
        is_interrupted: true,
        ..plain(id, Outcome::Interrupted)
    }
}

/// Whether an error is no failure but the end of this process: what was cut short may have become another error on its
/// way here.
pub(super) fn is_interruption(error: &EngineError) -> bool {
    matches!(error, EngineError::Interrupted) || interrupt::requested()
}

/// Nothing was done, and why.
pub(super) fn skipped(id: &InstanceId, why: &str) -> InstanceResult {
    InstanceResult {
        notes: vec![why.to_owned()],
        ..plain(id, Outcome::Skipped)
    }
}

/// The work on this instance panicked; the guest has been resumed while unwinding, or the next run does it.
pub(super) fn panicked(id: &InstanceId) -> InstanceResult {
    failed(
        id,
        "internal error: the run of this instance panicked; its message is on stderr; please report it"
            .to_owned(),
    )
}

/// Adds what went wrong besides.
pub(super) fn add_error(result: &mut InstanceResult, error: Option<String>) {
    if let Some(error) = error {
        result.error = Some(match result.error.take() {
            Some(first) => format!("{first}; {error}"),
            None => error,
        });
    }
}

/// The results by instance, in the order in which they came. An instance can have several in a run that takes long; that
/// there was nothing to do is said of none that has another, and a failure is not said twice.
pub(super) fn merged(mut results: Vec<InstanceResult>) -> Vec<InstanceResult> {
    results.sort_by(|a, b| a.instance_id.cmp(&b.instance_id));
    let mut merged: Vec<InstanceResult> = Vec::with_capacity(results.len());
    for mut result in results {
        let is_another = |last: &InstanceResult| last.instance_id != result.instance_id;
        if merged.last().is_none_or(is_another) {
            merged.push(result);
            continue;
        }
        let Some(mut last) = merged.pop() else {
            continue;
        };
        if last.outcome == Outcome::Skipped {
            if !last.is_locked && last.notes != result.notes {
                result.notes.splice(0..0, last.notes);
            }
            merged.push(result);
        } else if result.outcome == Outcome::Skipped {
            last.notes
                .extend(result.notes.into_iter().filter(|_| !result.is_locked));
            merged.push(last);
        } else if last.outcome == Outcome::Failed && last.error == result.error {
            merged.push(result);
        } else {
            merged.extend([last, result]);
        }
    }
    merged
}
