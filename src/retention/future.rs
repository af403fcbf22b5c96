//! The rule for snapshots dated in the future: they stay, and take no other's place.

use chrono::{DateTime, TimeDelta, Utc};

/// How far ahead a date may lie and still be taken for true: another host's clock, or a snapshot that was finished
/// after `now` was read.
const SLACK: TimeDelta = TimeDelta::minutes(10);

/// Whether a snapshot's date can't be true. It was taken while the clock was wrong: how old it is can't be told, and
/// if it counted as the newest, it would push out every snapshot taken since the clock was put right.
pub(super) fn is_implausible(created_at: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    created_at.signed_duration_since(now) > SLACK
}
