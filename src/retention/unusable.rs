//! The rule for snapshots from which nothing can be restored: they are no reason to remove another, and go as soon as
//! there is something better.

use chrono::{DateTime, Utc};

use super::{Decision, Keep, Policy, Remove, age, by_age};
use crate::snapshot::Snapshot;

/// What becomes of a snapshot that is not usable, beside the newest usable one of its kind.
pub(super) fn judge(
    snapshot: &Snapshot,
    newest_usable: Option<&Snapshot>,
    policy: &Policy,
    now: DateTime<Utc>,
) -> Decision {
    if newest_usable.is_some_and(|newest| by_age(snapshot, newest).is_lt()) {
        return Decision::Remove(Remove::Unusable);
    }
    // Nothing better comes any more once the instance is gone for good.
    let too_old = (!policy.floors_hold)
        .then(|| age::judge(snapshot.created_at, policy, now))
        .flatten();
    too_old.map_or(Decision::Keep(Keep::Unusable), Decision::Remove)
}
