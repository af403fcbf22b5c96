//! Retention: which scheduled snapshots of one instance stay, and all the reasons why. Pure: no I/O, no clock.
//!
//! Each rule looks at the whole list and says what speaks for or against a snapshot; [`verdicts`] combines them, and the
//! strongest reason decides. Whoever deletes carries out exactly these verdicts, and whoever lists shows their reasons.
//! A new rule is a function, a line in [`RULES`] and its reasons with their strength.

mod floors;
mod keep;
mod limits;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use crate::instance::InstanceId;
use crate::schedule::duration::format_human;
use crate::schedule::{Declaration, Period, Record, Retention};
use crate::snapshot::{Kind, Snapshot, SnapshotId};

/// How far ahead a date may lie and still be taken for true: another host's clock, or a snapshot that was finished
/// after `now` was read.
const SLACK: TimeDelta = TimeDelta::minutes(10);

/// The snapshots that the user has protected, and until when, if that is not until it is taken back.
pub type Protected = BTreeMap<SnapshotId, Option<DateTime<Utc>>>;

/// The limits, and whether anything stands above them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The limits that the user declared.
    pub retention: Retention,
    /// Whether the newest usable snapshots of each kind stay whatever the rules say.
    pub floors_hold: bool,
    /// The kind that is not taken any more, if there is one: others replace it.
    pub unmade: Option<Kind>,
    /// The time zone of the keep rules.
    pub zone: Tz,
    /// What the user has protected.
    pub protected: Protected,
}

impl Policy {
    /// What a schedule asks for. The floors hold while the instance exists, or may exist, and go on to hold until it has
    /// been known to be gone for `missing_grace`.
    pub fn of(
        declaration: &Declaration,
        record: &Record,
        instance_exists: bool,
        missing_grace: Duration,
        protected: Protected,
        now: DateTime<Utc>,
    ) -> Self {
        Self {
            retention: declaration.retention.clone(),
            floors_hold: instance_exists || !record.is_given_up(missing_grace, now),
            unmade: Some(Kind::Standby).filter(|kind| !declaration.storing.makes(*kind)),
            zone: declaration.timezone.unwrap_or(Tz::UTC),
            protected,
        }
    }
}

/// What speaks for or against a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Stays: not made by this instance's schedule: manual, or another's. Retention never touches it.
    NotOurs,
    /// Stays: the user has protected it, until this time or until it is taken back.
    Protected(Option<DateTime<Utc>>),
    /// Stays: dated in the future, because the clock was wrong; nobody can tell how old it is.
    FromTheFuture,
    /// Stays: the newest usable one.
    Newest,
    /// Stays: the newest usable one of its kind.
    NewestOfKind(Kind),
    /// Stays: among the newest usable ones of its kind that stay in any case.
    AmongNewest {
        /// Its kind.
        kind: Kind,
        /// Its place from the newest of its kind, which is 1.
        rank: u64,
        /// How many stay.
        min_keep: u64,
    },
    /// Stays: nothing can be restored from it, and no newer one of its kind can replace it yet.
    Unreplaced,
    /// Goes: nothing can be restored from it, and there are enough newer usable ones of its kind.
    Replaced,
    /// Goes: there are keep rules, and none wants it.
    Unwanted,
    /// Goes: there are `max_count` newer ones.
    BeyondCount {
        /// Its place from the newest, which is 1.
        rank: u64,
        /// The limit.
        max_count: u64,
    },
    /// Goes: it is older than `max_age`.
    TooOld {
        /// Its age.
        age: Duration,
        /// The limit.
        max_age: Duration,
    },
    /// Stays: a keep rule wants it.
    Kept {
        /// Which rule.
        period: Period,
        /// Whether it is wanted only because it is the oldest one and the rule has counts left.
        is_oldest: bool,
    },
    /// Stays: a keep rule wants all that are younger than this when the newest one is taken.
    Within(Duration),
    /// Stays: among the newest `max_count`.
    WithinCount {
        /// Its place from the newest, which is 1.
        rank: u64,
        /// The limit.
        max_count: u64,
    },
    /// Stays: not older than `max_age`, up to and including this moment.
    Until(DateTime<Utc>),
    /// Stays: no limit says anything.
    NoLimit,
}

impl Reason {
    /// Whether it speaks for staying.
    pub const fn keeps(&self) -> bool {
        !matches!(
            self,
            Self::Replaced | Self::Unwanted | Self::BeyondCount { .. } | Self::TooOld { .. }
        )
    }

    /// Of two reasons, the one with the smaller number decides. Equal ones are told together.
    const fn strength(&self) -> u8 {
        match self {
            Self::NotOurs => 0,
            Self::Protected(_) | Self::FromTheFuture => 1,
            Self::Newest | Self::NewestOfKind(_) | Self::AmongNewest { .. } | Self::Unreplaced => 2,
            Self::Replaced => 3,
            Self::Unwanted => 4,
            Self::BeyondCount { .. } => 5,
            Self::TooOld { .. } => 6,
            Self::Kept { .. }
            | Self::Within(_)
            | Self::WithinCount { .. }
            | Self::Until(_)
            | Self::NoLimit => 7,
        }
    }

    /// In words, such as `2 of 7`. `time` formats a time.
    pub fn words(&self, time: impl Fn(DateTime<Utc>) -> String) -> String {
        match self {
            Self::NotOurs => "not made by this schedule".to_owned(),
            Self::Protected(None) => "protected".to_owned(),
            Self::Protected(Some(until)) => format!("protected until {}", time(*until)),
            Self::FromTheFuture => "dated in the future".to_owned(),
            Self::Newest => "newest".to_owned(),
            Self::NewestOfKind(kind) => format!("newest {kind}"),
            Self::AmongNewest {
                kind,
                rank,
                min_keep,
            } => format!("{rank} of the newest {min_keep} {kind}"),
            Self::Unreplaced => "until a usable one replaces it".to_owned(),
            Self::Replaced => "a usable one replaces it".to_owned(),
            Self::Unwanted => "no keep rule wants it".to_owned(),
            Self::Kept {
                period,
                is_oldest: false,
            } => period.as_str().to_owned(),
            Self::Kept {
                period,
                is_oldest: true,
            } => format!("oldest {}", period.as_str()),
            Self::Within(within) => format!("within {}", format_human(*within)),
            Self::BeyondCount { rank, max_count } => format!("number {rank}, {max_count} stay"),
            Self::TooOld { age, max_age } => {
                let age = format_human(Duration::from_secs(age.as_secs()));
                let max_age = format_human(*max_age);
                format!("{age} old, {max_age} allowed")
            }
            Self::WithinCount { rank, max_count } => format!("{rank} of {max_count}"),
            Self::Until(at) => format!("until {}", time(*at)),
            Self::NoLimit => "no limit".to_owned(),
        }
    }
}

/// One snapshot, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// The snapshot.
    pub snapshot: &'a Snapshot,
    /// What becomes of it.
    pub decision: Decision,
}

/// Every reason, the strongest first; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision(Vec<Reason>);

impl Decision {
    fn new(mut reasons: Vec<Reason>) -> Self {
        if reasons.is_empty() {
            reasons.push(Reason::NoLimit);
        }
        reasons.sort_by_key(Reason::strength);
        Self(reasons)
    }

    /// All of them.
    pub fn reasons(&self) -> &[Reason] {
        &self.0
    }

    /// Those that decide: the strongest, and its equals.
    pub fn deciding(&self) -> impl Iterator<Item = &Reason> {
        let strength = self.0.first().map(Reason::strength);
        self.0
            .iter()
            .filter(move |reason| Some(reason.strength()) == strength)
    }

    /// Whether it stays whatever the limits and the keep rules say.
    pub fn is_held(&self) -> bool {
        self.keeps() && self.deciding().any(|reason| reason.strength() <= 2)
    }

    /// Whether the snapshot stays.
    pub fn keeps(&self) -> bool {
        self.deciding().all(Reason::keeps)
    }

    /// Until when it stays, if it goes by its age alone then.
    pub fn expires_at(&self) -> Option<DateTime<Utc>> {
        self.deciding().find_map(|reason| {
            if let Reason::Until(at) = reason {
                Some(*at)
            } else {
                None
            }
        })
    }

    /// What decides, in words, such as `2 of 7, until 2026-09-09 03:15`. `time` formats a time.
    pub fn words(&self, time: impl Fn(DateTime<Utc>) -> String) -> String {
        let words: Vec<String> = self.deciding().map(|it| it.words(&time)).collect();
        words.join(", ")
    }
}

/// An instance's scheduled snapshots, newest first.
struct History<'a> {
    snapshots: Vec<&'a Snapshot>,
    /// Of each, whether it counts among the others: something can be restored from it, and its date can be true.
    counts: Vec<bool>,
    /// Of each, whether a keep rule wants it, or there is none.
    wanted: Vec<bool>,
}

/// What a rule says of each snapshot of a history.
type Rule = fn(&History<'_>, &Policy, DateTime<Utc>) -> Vec<Option<Reason>>;

const RULES: [Rule; 7] = [
    protected,
    from_the_future,
    floors::newest_of_each_kind,
    floors::unusable,
    keep::unwanted,
    limits::count,
    limits::age,
];

/// Judges every snapshot of `snapshots`, which may hold other instances' as well: one verdict for each, in the same
/// order. Of two that were created at the same time, the one with the greater id counts as the newer one.
pub fn verdicts<'a>(
    instance: &InstanceId,
    snapshots: impl IntoIterator<Item = &'a Snapshot>,
    policy: &Policy,
    now: DateTime<Utc>,
) -> Vec<Verdict<'a>> {
    let snapshots: Vec<&Snapshot> = snapshots.into_iter().collect();
    let mut newest_first: Vec<usize> = (0..snapshots.len())
        .filter(|&at| snapshots[at].is_scheduled_for(instance))
        .collect();
    newest_first.sort_by(|&a, &b| by_age(snapshots[b], snapshots[a]));
    let ours: Vec<&Snapshot> = newest_first.iter().map(|&at| snapshots[at]).collect();
    let counts: Vec<bool> = ours.iter().map(|it| counts(it, now)).collect();
    let wishes = keep::wishes(&ours, &counts, policy, now);
    let history = History {
        wanted: (0..ours.len())
            .map(|at| wishes.is_empty() || wishes.iter().any(|wish| wish[at].is_some()))
            .collect(),
        snapshots: ours,
        counts,
    };
    let mut reasons = vec![vec![Reason::NotOurs]; snapshots.len()];
    for &at in &newest_first {
        reasons[at].clear();
    }
    let judged = RULES.map(|rule| rule(&history, policy, now));
    for judged in wishes.into_iter().chain(judged) {
        for (&at, reason) in newest_first.iter().zip(judged) {
            reasons[at].extend(reason);
        }
    }
    snapshots
        .iter()
        .zip(reasons)
        .map(|(snapshot, reasons)| Verdict {
            snapshot,
            decision: Decision::new(reasons),
        })
        .collect()
}

/// What the verdicts remove, oldest first.
pub fn removals<'a>(verdicts: &[Verdict<'a>]) -> Vec<&'a Snapshot> {
    let mut removals: Vec<&Snapshot> = verdicts
        .iter()
        .filter(|verdict| !verdict.decision.keeps())
        .map(|verdict| verdict.snapshot)
        .collect();
    removals.sort_by(|a, b| by_age(a, b));
    removals
}

/// The rule for what the user has protected. It takes its place among the others like any other.
fn protected(history: &History<'_>, policy: &Policy, now: DateTime<Utc>) -> Vec<Option<Reason>> {
    history
        .snapshots
        .iter()
        .map(|snapshot| {
            let until = policy.protected.get(&snapshot.id)?;
            let holds = until.is_none_or(|until| now < until);
            holds.then_some(Reason::Protected(*until))
        })
        .collect()
}

/// The rule for snapshots dated in the future: they stay, and take no other's place.
fn from_the_future(history: &History<'_>, _: &Policy, now: DateTime<Utc>) -> Vec<Option<Reason>> {
    history
        .snapshots
        .iter()
        .map(|snapshot| is_from_the_future(snapshot, now).then_some(Reason::FromTheFuture))
        .collect()
}

/// Whether a snapshot's date can't be true. It was taken while the clock was wrong: how old it is can't be told, and
/// if it counted as the newest, it would push out every snapshot taken since the clock was put right.
fn is_from_the_future(snapshot: &Snapshot, now: DateTime<Utc>) -> bool {
    snapshot.created_at.signed_duration_since(now) > SLACK
}

/// Whether a snapshot counts among the others: something can be restored from it, and its date can be true.
fn counts(snapshot: &Snapshot, now: DateTime<Utc>) -> bool {
    snapshot.is_usable() && !is_from_the_future(snapshot, now)
}

/// Older ones first.
fn by_age(a: &Snapshot, b: &Snapshot) -> Ordering {
    (a.created_at, &a.id).cmp(&(b.created_at, &b.id))
}

#[cfg(test)]
mod tests;
