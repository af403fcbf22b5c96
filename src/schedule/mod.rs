//! The schedule of one instance: what it holds, in the format of hypeman's own schedule files. Pure: no I/O, no clock.

pub mod cadence;
pub mod duration;
pub mod hooks;
pub mod progress;
pub mod validate;

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::instance::InstanceId;
use hooks::Hooks;

/// What the user declares: everything that `set` can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Time between two runs; at least one minute.
    pub interval: Duration,
    /// What becomes of old scheduled snapshots.
    pub retention: Retention,
    /// The prefix of snapshot names; `None` means `scheduled`.
    pub name_prefix: Option<String>,
    /// Tags for every snapshot, besides the two markers.
    pub metadata: BTreeMap<String, String>,
    /// What runs around the snapshots.
    pub hooks: Hooks,
}

/// Which scheduled snapshots stay. At least one of the two limits is above zero.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Only the newest so many stay; 0 means no limit by count.
    #[serde(default)]
    pub max_count: u64,
    /// Only those younger than this stay; `None` means no limit by age.
    #[serde(
        default,
        with = "duration::go_optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub max_age: Option<Duration>,
    /// Fields that this tool does not know, kept as they are; empty in what a user declares.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A run that began and has not recorded its end: either it goes on, or it died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The run time that it serves; the snapshot is named after it.
    pub run_at: DateTime<Utc>,
    /// The snapshot's name, so that a snapshot that was finished is recognised and not made twice.
    pub snapshot_name: String,
    /// How often this run time was begun, this time included.
    pub tries: u32,
    /// When it began.
    pub started_at: DateTime<Utc>,
}

/// One schedule file. The fields that hypeman knows keep its names (contract, "Schedule file"); those behind
/// `updated_at` are this tool's own, and what neither knows survives in `extra`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// The instance; equals the file's name without `.json`.
    pub instance_id: InstanceId,
    /// Time between two runs.
    #[serde(with = "duration::go")]
    pub interval: Duration,
    /// The prefix of snapshot names.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_as_none"
    )]
    pub name_prefix: Option<String>,
    /// Tags for every snapshot.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub metadata: BTreeMap<String, String>,
    /// Which scheduled snapshots stay.
    pub retention: Retention,
    /// The next run by cadence.
    pub next_run_at: DateTime<Utc>,
    /// The newest run that began.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "zero_time_as_none"
    )]
    pub last_run_at: Option<DateTime<Utc>>,
    /// The snapshot of that run; absent while it goes on and after it failed.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_as_none"
    )]
    pub last_snapshot_id: Option<String>,
    /// Why that run failed.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_as_none"
    )]
    pub last_error: Option<String>,
    /// When the schedule was first set.
    pub created_at: DateTime<Utc>,
    /// When the file was last written.
    pub updated_at: DateTime<Utc>,

    /// When a failed run is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<DateTime<Utc>>,
    /// Runs that failed since the last good one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub consecutive_failures: u32,
    /// The run that is under way or died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Attempt>,
    /// When the newest good snapshot was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success_at: Option<DateTime<Utc>>,
    /// How long the guest stood still for it, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_pause_ms: Option<f64>,
    /// How long the newest run took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_duration_ms: Option<u64>,
    /// Runs that were ever begun under this schedule.
    #[serde(default, skip_serializing_if = "is_none_yet")]
    pub total_runs: u64,
    /// Runs that ever failed under this schedule.
    #[serde(default, skip_serializing_if = "is_none_yet")]
    pub total_failures: u64,
    /// Since when the instance is known to be gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_since: Option<DateTime<Utc>>,
    /// Why the newest retention failed, until one succeeds; in `last_error` as well where the run itself went well.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_as_none"
    )]
    pub retention_error: Option<String>,
    /// What runs around the snapshots.
    #[serde(
        default,
        skip_serializing_if = "Hooks::is_unset",
        deserialize_with = "null_as_default"
    )]
    pub hooks: Hooks,

    /// Fields that this tool does not know, kept as they are.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Schedule {
    /// A new schedule, whose cadence starts at `now` (see [`cadence::first_run`]).
    pub fn new(instance_id: InstanceId, settings: Settings, now: DateTime<Utc>) -> Self {
        Self {
            next_run_at: cadence::first_run(now, settings.interval, &instance_id),
            instance_id,
            interval: settings.interval,
            name_prefix: settings.name_prefix,
            metadata: settings.metadata,
            retention: settings.retention,
            last_run_at: None,
            last_snapshot_id: None,
            last_error: None,
            created_at: now,
            updated_at: now,
            retry_at: None,
            consecutive_failures: 0,
            attempt: None,
            last_success_at: None,
            last_pause_ms: None,
            last_duration_ms: None,
            total_runs: 0,
            total_failures: 0,
            missing_since: None,
            retention_error: None,
            hooks: settings.hooks,
            extra: Map::new(),
        }
    }

    /// What the user declared.
    pub fn settings(&self) -> Settings {
        Settings {
            interval: self.interval,
            retention: Retention {
                extra: Map::new(),
                ..self.retention
            },
            name_prefix: self.name_prefix.clone(),
            metadata: self.metadata.clone(),
            hooks: Hooks {
                extra: Map::new(),
                ..self.hooks.clone()
            },
        }
    }

    /// Declares `settings`, and says whether that changes anything. Only a changed interval starts a new cadence; the
    /// record of past runs stays (contract, "Cadence"), and so does what this tool does not know.
    pub fn declare(&mut self, settings: Settings, now: DateTime<Utc>) -> bool {
        if self.settings() == settings {
            return false;
        }
        if self.interval != settings.interval || is_go_zero(self.next_run_at) {
            self.next_run_at = cadence::first_run(now, settings.interval, &self.instance_id);
            self.retry_at = None;
        }
        self.interval = settings.interval;
        self.retention.max_count = settings.retention.max_count;
        self.retention.max_age = settings.retention.max_age;
        self.name_prefix = settings.name_prefix;
        self.metadata = settings.metadata;
        self.hooks = Hooks {
            extra: std::mem::take(&mut self.hooks.extra),
            ..settings.hooks
        };
        self.updated_at = now;
        true
    }

    /// Why the newest run failed, retention apart.
    pub fn run_error(&self) -> Option<&str> {
        self.last_error
            .as_deref()
            .filter(|error| self.retention_error.as_deref() != Some(*error))
    }

    /// What deciding about a run needs.
    pub fn times(&self) -> cadence::Times {
        cadence::Times {
            next_run_at: self.next_run_at,
            retry_at: self.retry_at,
            attempt: self
                .attempt
                .as_ref()
                .map(|attempt| (attempt.started_at, attempt.tries)),
            failures: self.consecutive_failures,
            interval: self.interval,
        }
    }
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

fn is_none_yet(total: &u64) -> bool {
    *total == 0
}

/// Whether this is the zero value of Go's `time.Time`, which stands for "not set".
fn is_go_zero(time: DateTime<Utc>) -> bool {
    /// `0001-01-01T00:00:00Z` in seconds since 1970.
    const GO_ZERO_SECONDS: i64 = -62_135_596_800;
    time.timestamp() == GO_ZERO_SECONDS && time.timestamp_subsec_nanos() == 0
}

/// An optional text, of which Go writes the empty one for "not set".
fn empty_as_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}

/// An optional time, of which Go writes the zero one for "not set".
fn zero_time_as_none<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<DateTime<Utc>>, D::Error> {
    Ok(Option::<DateTime<Utc>>::deserialize(deserializer)?.filter(|time| !is_go_zero(*time)))
}

/// A value for which Go writes `null` when it is a nil map.
fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
