//! The rule that no limit overrides: while an instance exists, the newest of its scheduled snapshots stays.

use super::{Keep, Policy};

/// Why the snapshot at `rank` (the newest is 1) stays whatever the limits say, if it does.
pub(super) fn judge(rank: u64, policy: &Policy) -> Option<Keep> {
    (policy.instance_exists && rank == 1).then_some(Keep::Newest)
}
