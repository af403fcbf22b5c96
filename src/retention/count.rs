//! The rule `max_count`: beyond the newest so many, a snapshot goes.

use super::{Policy, Remove};

/// Why the snapshot at `rank` (the newest is 1) goes, if it does.
pub(super) fn judge(rank: u64, policy: &Policy) -> Option<Remove> {
    let max_count = policy.max_count;
    (max_count > 0 && rank > max_count).then_some(Remove::BeyondCount { rank, max_count })
}
