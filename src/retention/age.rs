//! The rule `max_age`: older than that, a snapshot goes.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Policy, Remove};

/// Why a snapshot of that time goes, if it does. One that lies in the future has the age zero.
pub(super) fn judge(
    created_at: DateTime<Utc>,
    policy: &Policy,
    now: DateTime<Utc>,
) -> Option<Remove> {
    let max_age = policy.max_age?;
    let age = now
        .signed_duration_since(created_at)
        .to_std()
        .unwrap_or_default();
    (age > max_age).then_some(Remove::TooOld { age, max_age })
}

/// The last moment at which a snapshot of that time stays; `None` when nothing limits its age within the calendar.
pub(super) fn expires_at(created_at: DateTime<Utc>, policy: &Policy) -> Option<DateTime<Utc>> {
    let max_age: Duration = policy.max_age?;
    created_at.checked_add_signed(TimeDelta::from_std(max_age).ok()?)
}
