//! The rule above all limits: while floors hold, the newest usable snapshot of each kind stays, so that disks alone are
//! never the reason to remove the last one with memory.

use std::collections::HashSet;

use super::{Keep, Policy};
use crate::snapshot::Snapshot;

/// Which of the snapshots, given newest first, are the newest of their kinds, and why they stay.
pub(super) fn of<'a>(
    newest_first: impl IntoIterator<Item = &'a Snapshot>,
    policy: &Policy,
) -> Vec<Option<Keep>> {
    let mut seen = HashSet::new();
    newest_first
        .into_iter()
        .map(|snapshot| {
            let is_newest = seen.is_empty();
            let is_first_of_kind = seen.insert(snapshot.kind);
            (policy.floors_hold && is_first_of_kind).then_some(if is_newest {
                Keep::Newest
            } else {
                Keep::NewestOfKind(snapshot.kind)
            })
        })
        .collect()
}
