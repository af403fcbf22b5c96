//! Retention: which scheduled snapshots of one instance stay, and why. Pure: no I/O, no clock.
//!
//! [`plan`] gives every snapshot a verdict with its reason; whoever deletes carries out exactly that plan, and whoever
//! lists shows the same reasons.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::instance::InstanceId;
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
    /// Within every limit.
    Within {
        /// Its place from the newest, which is 1.
        rank: u64,
        /// When it goes by age, if the schedule limits age.
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

/// One snapshot and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// The snapshot.
    pub snapshot: &'a Snapshot,
    /// What becomes of it.
    pub decision: Decision,
}
