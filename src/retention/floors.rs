//! The rules above all limits: the newest usable snapshots of each kind stay while floors hold, so that disks alone are
//! never the reason to remove the last one with memory; and one from which nothing can be restored is no reason to remove
//! another, and goes as soon as there are enough better ones.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::{History, Policy, Reason, is_from_the_future, limits};
use crate::snapshot::Kind;

pub(super) fn newest_of_each_kind(
    history: &History<'_>,
    policy: &Policy,
    _: DateTime<Utc>,
) -> Vec<Option<Reason>> {
    let min_keep = policy.retention.min_keep();
    let mut ranks = Ranks::default();
    history
        .snapshots
        .iter()
        .zip(&history.counts)
        .map(|(snapshot, &counts)| {
            if !policy.floors_hold || !counts {
                return None;
            }
            let kind = snapshot.kind;
            ranks.next(kind);
            let is_newest = ranks.total() == 1;
            let rank = ranks.that_replace(kind, policy);
            (rank <= min_keep).then_some(match rank {
                _ if min_keep > 1 => Reason::AmongNewest {
                    kind,
                    rank,
                    min_keep,
                },
                _ if is_newest => Reason::Newest,
                _ => Reason::NewestOfKind(kind),
            })
        })
        .collect()
}

pub(super) fn unusable(
    history: &History<'_>,
    policy: &Policy,
    now: DateTime<Utc>,
) -> Vec<Option<Reason>> {
    let min_keep = policy.retention.min_keep();
    let mut ranks = Ranks::default();
    history
        .snapshots
        .iter()
        .zip(&history.counts)
        .map(|(snapshot, &counts)| {
            if counts {
                ranks.next(snapshot.kind);
            }
            if snapshot.is_usable() || is_from_the_future(snapshot, now) {
                None
            } else if ranks.that_replace(snapshot.kind, policy) >= min_keep {
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

/// How many of each kind were met, newest first.
#[derive(Default)]
struct Ranks(HashMap<Kind, u64>);

impl Ranks {
    fn next(&mut self, kind: Kind) {
        *self.0.entry(kind).or_default() += 1;
    }

    fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// How many that can take the place of one of `kind`: those of its kind, and of any kind where it is taken no more.
    fn that_replace(&self, kind: Kind, policy: &Policy) -> u64 {
        if policy.unmade == Some(kind) {
            return self.total();
        }
        self.0.get(&kind).copied().unwrap_or_default()
    }
}
