//! The schedule of one instance: what was asked for and what has happened. Pure: no I/O, no clock, and no file format.

pub mod duration;
pub mod hooks;
pub mod record;
pub mod validate;

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde_json::{Map, Value};

use crate::cadence::{Cadence, Times};
use crate::instance::InstanceId;
use crate::snapshot::storing::Storing;
use hooks::Hooks;
pub use record::{Attempt, Record};

/// What the user declares: everything that `set` can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    /// When it runs.
    pub cadence: Cadence,
    /// The longest that a snapshot may be foreseen to pause the guest; `None` means no limit.
    pub max_pause: Option<Duration>,
    /// What a line of the guest's console must say in a rehearsal, a regular expression; `None` means nothing.
    pub expect: Option<String>,
    /// What becomes of old scheduled snapshots.
    pub retention: Retention,
    /// The time zone whose hours, days … the keep rules go by; `None` where nothing goes by any, and means UTC.
    pub timezone: Option<Tz>,
    /// The prefix of snapshot names; `None` means `scheduled`.
    pub name_prefix: Option<String>,
    /// Tags for every snapshot, besides the two markers.
    pub metadata: BTreeMap<String, String>,
    /// What a snapshot holds, and how.
    pub storing: Storing,
    /// What runs around the snapshots.
    pub hooks: Hooks,
}

/// Which scheduled snapshots stay: what the keep rules want, within the limits, and the newest ones whatever these say.
/// There is at least one limit or keep rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// Of the wanted ones, only the newest so many stay; 0 means no limit by count.
    pub max_count: u64,
    /// Only those younger than this stay; `None` means no limit by age.
    pub max_age: Option<Duration>,
    /// What is wanted; without a rule, everything is.
    pub keep: Keep,
    /// How many usable ones of each kind stay whatever the rules say; at least 1, and `None` means 1.
    pub min_keep: Option<u64>,
}

impl Retention {
    /// How many usable ones of each kind stay whatever the rules say.
    pub fn min_keep(&self) -> u64 {
        self.min_keep.unwrap_or(1)
    }

    /// Whether any snapshot ever goes.
    pub fn limits_anything(&self) -> bool {
        let has_age = self.max_age.is_some_and(|age| !age.is_zero());
        self.max_count > 0 || has_age || !self.keep.is_empty()
    }
}

/// The keep rules: how many hours, days … each wants a snapshot of; 0 means that there is no such rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keep {
    /// The newest so many.
    pub last: u64,
    /// So many hours.
    pub hourly: u64,
    /// So many days.
    pub daily: u64,
    /// So many ISO weeks.
    pub weekly: u64,
    /// So many months.
    pub monthly: u64,
    /// So many years.
    pub yearly: u64,
    /// All that are younger than this, counted back from the newest one.
    pub within: Option<Duration>,
}

impl Keep {
    /// The rules that count.
    pub fn periods(&self) -> impl Iterator<Item = (Period, u64)> {
        [
            (Period::Last, self.last),
            (Period::Hourly, self.hourly),
            (Period::Daily, self.daily),
            (Period::Weekly, self.weekly),
            (Period::Monthly, self.monthly),
            (Period::Yearly, self.yearly),
        ]
        .into_iter()
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.within.is_none() && self.periods().all(|(_, count)| count == 0)
    }

    /// Whether a rule goes by the calendar, so that it matters in which time zone.
    pub fn goes_by_calendar(&self) -> bool {
        self.periods()
            .any(|(period, count)| count > 0 && period != Period::Last)
    }
}

/// What a keep rule wants one snapshot of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// Each snapshot.
    Last,
    /// Each hour.
    Hourly,
    /// Each day.
    Daily,
    /// Each ISO week.
    Weekly,
    /// Each month.
    Monthly,
    /// Each year.
    Yearly,
}

impl Period {
    /// The word for it, in flags and reasons.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        }
    }
}

/// One instance's schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// The instance.
    pub instance_id: InstanceId,
    /// What was asked for.
    pub declaration: Declaration,
    /// What has happened, and what comes next.
    pub record: Record,
    /// What its file holds and this tool does not know, nested as it is there. Kept, never looked at.
    pub unknown: Map<String, Value>,
}

impl Schedule {
    /// A new schedule, whose cadence starts at `now` (see [`Cadence::first`]).
    pub fn new(instance_id: InstanceId, declaration: Declaration, now: DateTime<Utc>) -> Self {
        let next_run_at = declaration.cadence.first(&instance_id, now);
        Self {
            instance_id,
            declaration,
            record: Record::new(next_run_at, now),
            unknown: Map::new(),
        }
    }

    /// Declares anew, and says whether that changes anything. Only a changed cadence starts anew; the record of past
    /// runs stays, as with hypeman, and so does what this tool does not know.
    pub fn declare(&mut self, declaration: Declaration, now: DateTime<Utc>) -> bool {
        if self.declaration == declaration {
            return false;
        }
        if self.declaration.cadence != declaration.cadence || is_go_zero(self.record.next_run_at) {
            self.record.next_run_at = declaration.cadence.first(&self.instance_id, now);
            self.record.retry_at = None;
        }
        self.declaration = declaration;
        self.record.updated_at = now;
        true
    }

    /// The time between the next run and the one before.
    pub fn gap(&self) -> Duration {
        self.declaration.cadence.gap(self.record.next_run_at)
    }

    /// What tells whether it is due.
    pub fn times(&self) -> Times {
        let cadence = &self.declaration.cadence;
        self.times_by(cadence.nominal_gap(self.record.updated_at))
    }

    /// The same, where the gap between two runs is known, as it was when the schedule was written.
    pub fn times_by(&self, gap: Duration) -> Times {
        let record = &self.record;
        Times {
            cadence: self.declaration.cadence.clone(),
            next_run_at: record.next_run_at,
            retry_at: record.retry_at,
            attempt: record.attempt.as_ref().map(|it| (it.started_at, it.tries)),
            failures: record.consecutive_failures,
            written: (record.updated_at, gap),
        }
    }
}

/// Whether this is the zero value of Go's `time.Time`, which stands for "not set".
pub fn is_go_zero(time: DateTime<Utc>) -> bool {
    /// `0001-01-01T00:00:00Z` in seconds since 1970.
    const GO_ZERO_SECONDS: i64 = -62_135_596_800;
    time.timestamp() == GO_ZERO_SECONDS && time.timestamp_subsec_nanos() == 0
}

#[cfg(test)]
mod tests;
