//! Retention: which scheduled snapshots of one instance stay, and why. Pure: no I/O, no clock.
//!
//! [`plan`] gives every snapshot a verdict with its reason; whoever deletes carries out exactly that plan, and whoever
//! lists shows the same reasons. One file for each rule; this one combines them.

mod age;
mod count;
mod floors;
mod future;
mod unusable;

use std::cmp::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::instance::InstanceId;
use crate::schedule::Schedule;
use crate::schedule::duration::format_human;
use crate::snapshot::{Kind, Snapshot};

/// The limits, and whether anything stands above them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Only the newest so many stay; 0 means no limit by count.
    pub max_count: u64,
    /// Only those younger than this stay; `None` means no limit by age.
    pub max_age: Option<Duration>,
    /// Whether the newest usable snapshot of each kind stays whatever the limits say.
    pub floors_hold: bool,
}

impl Policy {
    /// What `schedule` asks for. The floors hold while the instance exists, or may exist, and go on to hold until it
    /// has been known to be gone for `missing_grace`.
    pub fn of(
        schedule: &Schedule,
        instance_exists: bool,
        missing_grace: Duration,
        now: DateTime<Utc>,
    ) -> Self {
        Self {
            max_count: schedule.declaration.retention.max_count,
            max_age: schedule.declaration.retention.max_age,
            floors_hold: instance_exists || !schedule.record.is_given_up(missing_grace, now),
        }
    }
}

/// Why a snapshot stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// Not made by this instance's schedule: manual, or another's. Retention never touches it.
    NotOurs,
    /// The newest usable one.
    Newest,
    /// The newest usable one of its kind.
    NewestOfKind(Kind),
    /// Nothing can be restored from it, and no newer one of its kind can replace it yet.
    Unusable,
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
    /// Nothing can be restored from it, and there is a newer usable one of its kind.
    Unusable,
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
            Self::Keep(Keep::NewestOfKind(kind)) => format!("newest {kind}"),
            Self::Keep(Keep::Unusable) => "until a usable one replaces it".to_owned(),
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
            Self::Remove(Remove::Unusable) => "a usable one replaces it".to_owned(),
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
            snapshot.is_scheduled_for(instance)
                && snapshot.is_usable()
                && !future::is_implausible(snapshot.created_at, now)
        })
        .collect();
    newest_first.sort_by(|&a, &b| by_age(&snapshots[b], &snapshots[a]));
    let usable: Vec<&Snapshot> = newest_first.iter().map(|&at| &snapshots[at]).collect();
    let newest = |kind| usable.iter().copied().find(|it| it.kind == kind);
    let (standby, stopped) = (newest(Kind::Standby), newest(Kind::Stopped));
    let mut decisions = vec![None; snapshots.len()];
    for ((rank, at), floor) in (1..)
        .zip(newest_first)
        .zip(floors::of(usable.iter().copied(), policy))
    {
        let decision = floor.map_or_else(
            || within_limits(&snapshots[at], rank, policy, now),
            Decision::Keep,
        );
        decisions[at] = Some(decision);
    }
    snapshots
        .iter()
        .zip(decisions)
        .map(|(snapshot, decision)| Verdict {
            snapshot,
            decision: decision.unwrap_or_else(|| {
                if !snapshot.is_scheduled_for(instance) {
                    Decision::Keep(Keep::NotOurs)
                } else if future::is_implausible(snapshot.created_at, now) {
                    Decision::Keep(Keep::FromTheFuture)
                } else {
                    let newest = match snapshot.kind {
                        Kind::Standby => standby,
                        Kind::Stopped => stopped,
                    };
                    unusable::judge(snapshot, newest, policy, now)
                }
            }),
        })
        .collect()
}

/// What the limits say of the usable snapshot at `rank`. The first one that has something to say decides.
fn within_limits(snapshot: &Snapshot, rank: u64, policy: &Policy, now: DateTime<Utc>) -> Decision {
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
