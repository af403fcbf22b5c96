//! Results as they are reported: failures become words here.

use crate::instance::InstanceId;
use crate::report::run::{InstanceResult, Outcome};
use crate::run::failure::Failure;

/// That a schedule has served its purpose.
pub(super) const RETIRED: &str = "the instance is gone for good; its schedule was removed";

/// A failure.
pub(super) fn failed(id: &InstanceId, failure: &Failure) -> InstanceResult {
    InstanceResult {
        error: Some(failure.in_words()),
        is_locked: failure.is_locked(),
        ..InstanceResult::new(id, Outcome::Failed)
    }
}

/// The work on this instance panicked.
pub(super) fn panicked(id: &InstanceId) -> InstanceResult {
    failed(id, &Failure::Panicked)
}

/// Everything that went wrong, in one line; `None` when nothing did.
pub(super) fn all_in_words(failures: &[Failure]) -> Option<String> {
    let words: Vec<String> = failures.iter().map(Failure::in_words).collect();
    (!words.is_empty()).then(|| words.join("; "))
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
            result.compressed.splice(0..0, last.compressed);
            merged.push(result);
        } else if result.outcome == Outcome::Skipped {
            last.notes
                .extend(result.notes.into_iter().filter(|_| !result.is_locked));
            last.compressed.extend(result.compressed);
            last.is_interrupted |= result.is_interrupted;
            merged.push(last);
        } else if last.outcome == Outcome::Failed && last.error == result.error {
            merged.push(result);
        } else {
            merged.extend([last, result]);
        }
    }
    merged
}
