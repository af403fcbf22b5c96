//! Retention: which scheduled snapshots of one instance stay, and why. Pure: no I/O, no clock.
//!
//! [`plan`] gives every snapshot a verdict with its reason; whoever deletes carries out exactly that plan, and whoever
//! lists shows the same reasons. One file for each rule; this one combines them.

mod age;
mod count;
mod future;
mod newest;

use std::cmp::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::instance::InstanceId;
use crate::schedule::duration::format_human;
use crate::snapshot::Snapshot;

/// The limits, and whether the newest snapshot is sacred.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Only the newest so many stay; 0 means no limit by count.
    pub max_count: u64,
    /// Only those younger than this stay; `None` means no limit by age.
    pub max_age: Option<Duration>,
    /// Whether the instance still exists (or may exist): then its newest snapshot stays whatever the limits say.
    pub instance_exists: bool,
}

/// Why a snapshot stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// Not made by this instance's schedule: manual, or another's. Retention never touches it.
    NotOurs,
    /// The newest scheduled one of an instance that exists.
    Newest,
    /// Dated in the future, because the clock was wrong; nobody can tell how old it is.
    FromTheFuture,
    /// Within every limit.
    Within {
        /// Its place from the newest, which is 1.
        rank: u64,
        /// The last moment at which it stays, if the schedule limits age.
        expires_at: Option<DateTime<Utc>>,
    },
}

/// Why a snapshot goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remove {
    /// There are `max_count` newer ones.
    BeyondCount {
        /// Its place from the newest, which is 1.
        rank: u64,
        /// The limit.
        max_count: u64,
    },
    /// It is older than `max_age`.
    TooOld {
        /// Its age.
        age: Duration,
        /// The limit.
        max_age: Duration,
    },
}

/// What becomes of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It stays.
    Keep(Keep),
    /// It goes.
    Remove(Remove),
}

impl Decision {
    /// The reason in words, as lists show it, such as `2 of 7, until 2026-09-09 03:15`. `time` formats a time.
    pub fn reason(&self, policy: &Policy, time: impl Fn(DateTime<Utc>) -> String) -> String {
        match self {
            Self::Keep(Keep::NotOurs) => "not made by this schedule".to_owned(),
            Self::Keep(Keep::Newest) => "newest".to_owned(),
            Self::Keep(Keep::FromTheFuture) => "dated in the future".to_owned(),
            Self::Keep(Keep::Within { rank, expires_at }) => {
                let place =
                    (policy.max_count > 0).then(|| format!("{rank} of {}", policy.max_count));
                let end = expires_at.map(|at| format!("until {}", time(at)));
                let parts: Vec<String> = place.into_iter().chain(end).collect();
                if parts.is_empty() {
                    "no limit".to_owned()
                } else {
                    parts.join(", ")
                }
            }
            Self::Remove(Remove::BeyondCount { rank, max_count }) => {
                format!("number {rank}, {max_count} stay")
            }
            Self::Remove(Remove::TooOld { age, max_age }) => {
                format!(
                    "{} old, {} allowed",
                    format_human(*age),
                    format_human(*max_age)
                )
            }
        }
    }
}

/// One snapshot and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// The snapshot.
    pub snapshot: &'a Snapshot,
    /// What becomes of it.
    pub decision: Decision,
}

/// Judges every snapshot of `snapshots`, which may hold other instances' as well: one verdict for each, in the same
/// order. Of two that were created at the same time, the one with the greater id counts as the newer one.
pub fn plan<'a>(
    instance: &InstanceId,
    snapshots: &'a [Snapshot],
    policy: &Policy,
    now: DateTime<Utc>,
) -> Vec<Verdict<'a>> {
    let mut newest_first: Vec<usize> = (0..snapshots.len())
        .filter(|&at| {
            let snapshot = &snapshots[at];
            snapshot.is_scheduled_for(instance) && !future::is_implausible(snapshot.created_at, now)
        })
        .collect();
    newest_first.sort_by(|&a, &b| by_age(&snapshots[b], &snapshots[a]));
    let mut ranks = vec![None; snapshots.len()];
    for (at, rank) in newest_first.into_iter().zip(1..) {
        ranks[at] = Some(rank);
    }
    snapshots
        .iter()
        .zip(ranks)
        .map(|(snapshot, rank)| Verdict {
            snapshot,
            decision: match rank {
                Some(rank) => judge(snapshot, rank, policy, now),
                None if snapshot.is_scheduled_for(instance) => Decision::Keep(Keep::FromTheFuture),
                None => Decision::Keep(Keep::NotOurs),
            },
        })
        .collect()
}

/// The first rule that has something to say decides.
fn judge(snapshot: &Snapshot, rank: u64, policy: &Policy, now: DateTime<Utc>) -> Decision {
    if let Some(keep) = newest::judge(rank, policy) {
        return Decision::Keep(keep);
    }
    count::judge(rank, policy)
        .or_else(|| age::judge(snapshot.created_at, policy, now))
        .map_or_else(
            || {
                Decision::Keep(Keep::Within {
                    rank,
                    expires_at: age::expires_at(snapshot.created_at, policy),
                })
            },
            Decision::Remove,
        )
}

/// What the verdicts remove, oldest first.
pub fn removals<'a>(verdicts: &[Verdict<'a>]) -> Vec<&'a Snapshot> {
    let mut removals: Vec<&Snapshot> = verdicts
        .iter()
        .filter(|verdict| matches!(verdict.decision, Decision::Remove(_)))
        .map(|verdict| verdict.snapshot)
        .collect();
    removals.sort_by(|a, b| by_age(a, b));
    removals
}

/// Older ones first.
fn by_age(a: &Snapshot, b: &Snapshot) -> Ordering {
    (a.created_at, &a.id).cmp(&(b.created_at, &b.id))
}

#[cfg(test)]
mod tests;
