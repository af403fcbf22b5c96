//! The limits: `max_count`, beyond the newest so many a snapshot goes, and `max_age`, older than that it goes.

use chrono::{DateTime, TimeDelta, Utc};

use super::{History, Policy, Reason, is_from_the_future};
use crate::snapshot::Snapshot;

/// What the count says of those that are wanted and count.
pub(super) fn count(
    history: &History<'_>,
    policy: &Policy,
    _: DateTime<Utc>,
) -> Vec<Option<Reason>> {
    let max_count = policy.retention.max_count;
    let mut rank = 0;
    history
        .counts
        .iter()
        .zip(&history.wanted)
        .map(|(&counts, &is_wanted)| {
            if max_count == 0 || !is_wanted || !counts {
                return None;
            }
            rank += 1;
            Some(if rank > max_count {
                Reason::BeyondCount { rank, max_count }
            } else {
                Reason::WithinCount { rank, max_count }
            })
        })
        .collect()
}

/// What the age says of all whose age is known; a snapshot that lies in the future by a little has the age zero.
pub(super) fn age(
    history: &History<'_>,
    policy: &Policy,
    now: DateTime<Utc>,
) -> Vec<Option<Reason>> {
    history
        .snapshots
        .iter()
        .map(|snapshot| {
            if is_from_the_future(snapshot, now) {
                return None;
            }
            too_old(snapshot, policy, now).or_else(|| {
                let max_age = TimeDelta::from_std(policy.retention.max_age?).ok()?;
                let end = snapshot.created_at.checked_add_signed(max_age)?;
                Some(Reason::Until(end))
            })
        })
        .collect()
}

/// Why a snapshot goes by its age, if it does.
pub(super) fn too_old(snapshot: &Snapshot, policy: &Policy, now: DateTime<Utc>) -> Option<Reason> {
    let max_age = policy.retention.max_age?;
    let age = now
        .signed_duration_since(snapshot.created_at)
        .to_std()
        .unwrap_or_default();
    (age > max_age).then_some(Reason::TooOld { age, max_age })
}
