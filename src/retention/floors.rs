//! The rules above all limits: the newest usable snapshot of each kind stays while floors hold, so that disks alone are
//! never the reason to remove the last one with memory; and one from which nothing can be restored is no reason to remove
//! another, and goes as soon as there is something better.

use std::collections::HashSet;

use chrono::{DateTime, Utc};

use super::{Policy, Reason, counts, is_from_the_future, limits};
use crate::snapshot::Snapshot;

pub(super) fn newest_of_each_kind(
    newest_first: &[&Snapshot],
    policy: &Policy,
    now: DateTime<Utc>,
) -> Vec<Option<Reason>> {
    let mut seen = HashSet::new();
    newest_first
        .iter()
        .map(|snapshot| {
            if !policy.floors_hold || !counts(snapshot, now) {
                return None;
            }
            let is_newest = seen.is_empty();
            let is_first_of_kind = seen.insert(snapshot.kind);
            is_first_of_kind.then_some(if is_newest {
                Reason::Newest
            } else {
                Reason::NewestOfKind(snapshot.kind)
            })
        })
        .collect()
}

pub(super) fn unusable(
    newest_first: &[&Snapshot],
    policy: &Policy,
    now: DateTime<Utc>,
) -> Vec<Option<Reason>> {
    let mut replaceable = HashSet::new();
    newest_first
        .iter()
        .map(|snapshot| {
            if counts(snapshot, now) {
                replaceable.insert(snapshot.kind);
            }
            if snapshot.is_usable() || is_from_the_future(snapshot, now) {
                None
            } else if replaceable.contains(&snapshot.kind) {
                Some(Reason::Replaced)
            } else {
                // Nothing better comes any more once the instance is gone for good: then it goes by age.
                let goes_by_age =
                    !policy.floors_hold && limits::too_old(snapshot, policy, now).is_some();
                (!goes_by_age).then_some(Reason::Unreplaced)
            }
        })
        .collect()
}
