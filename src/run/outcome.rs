//! Small makers of results, so that the steps read as steps.

use std::time::Duration;

use crate::instance::InstanceId;
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
