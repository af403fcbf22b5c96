//! A schedule as a file holds it: the only place that knows its keys. Those that hypeman knows have its names
//! (hypeman-snap(5)); those behind `updated_at` are this tool's own, and what neither knows survives.

mod unknown;
mod values;

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::cadence::{Cadence, Calendar, Times, When};
use crate::instance::InstanceId;
use crate::schedule::hooks::Hooks;
use crate::schedule::validate::InvalidSchedule;
use crate::schedule::{Attempt, Declaration, Keep, Record, Retention, Schedule, validate};
use crate::snapshot::storing::{Method, MinFree, Saving, Storing};
use values::{
    empty_as_none, go, go_optional, go_or_absent, null_as_default, text_or_absent,
    zero_time_as_none,
};

/// Why bytes are no schedule.
#[derive(Debug)]
pub(super) enum Refusal {
    /// They are no JSON, or not of the right form. Reading again may help.
    Malformed(serde_json::Error),
    /// They break a rule.
    Invalid(InvalidSchedule),
}

impl From<serde_json::Error> for Refusal {
    fn from(error: serde_json::Error) -> Self {
        Self::Malformed(error)
    }
}

/// The keys of a file, in the order in which they are written.
#[derive(Serialize, Deserialize)]
struct Form {
    instance_id: String,
    #[serde(with = "go")]
    interval: Duration,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_as_none"
    )]
    name_prefix: Option<String>,
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_as_default"
    )]
    metadata: BTreeMap<String, String>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_as_none"
    )]
    calendar: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timezone: Option<Tz>,
    #[serde(
        default,
        with = "go_or_absent",
        skip_serializing_if = "Option::is_none"
    )]
    jitter: Option<Duration>,
    retention: RetentionForm,
    next_run_at: DateTime<Utc>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "zero_time_as_none"
    )]
    last_run_at: Option<DateTime<Utc>>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_as_none"
    )]
    last_snapshot_id: Option<String>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_as_none"
    )]
    last_error: Option<String>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,

    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "is_default")]
    consecutive_failures: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attempt: Option<Wrapped>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_success_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_pause_ms: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_duration_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "is_default")]
    total_runs: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    total_failures: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    missing_since: Option<DateTime<Utc>>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_as_none"
    )]
    retention_error: Option<String>,
    #[serde(
        default,
        with = "go_or_absent",
        skip_serializing_if = "Option::is_none"
    )]
    max_pause: Option<Duration>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_as_none"
    )]
    expect: Option<String>,
    #[serde(default, with = "HooksForm", skip_serializing_if = "is_default")]
    hooks: Hooks,
    #[serde(default, skip_serializing_if = "is_default")]
    no_memory: bool,
    #[serde(
        default,
        with = "text_or_absent",
        skip_serializing_if = "Option::is_none"
    )]
    method: Option<Saving>,
    #[serde(
        default,
        with = "text_or_absent",
        skip_serializing_if = "Option::is_none"
    )]
    compress: Option<Method>,
    #[serde(
        default,
        with = "text_or_absent",
        skip_serializing_if = "Option::is_none"
    )]
    min_free: Option<MinFree>,
}

/// The keep rules stand beside the limits, and no rule ever writes a `max_count` that a reader without rules would go by.
#[derive(Serialize, Deserialize)]
struct RetentionForm {
    #[serde(default)]
    max_count: u64,
    #[serde(default, with = "go_optional", skip_serializing_if = "Option::is_none")]
    max_age: Option<Duration>,
    #[serde(default, skip_serializing_if = "is_default")]
    keep_last: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    keep_hourly: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    keep_daily: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    keep_weekly: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    keep_monthly: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    keep_yearly: u64,
    #[serde(default, with = "go_optional", skip_serializing_if = "Option::is_none")]
    keep_within: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    min_keep: Option<u64>,
}

impl From<Retention> for RetentionForm {
    fn from(retention: Retention) -> Self {
        let Retention {
            max_count,
            max_age,
            keep,
            min_keep,
        } = retention;
        Self {
            max_count,
            max_age,
            keep_last: keep.last,
            keep_hourly: keep.hourly,
            keep_daily: keep.daily,
            keep_weekly: keep.weekly,
            keep_monthly: keep.monthly,
            keep_yearly: keep.yearly,
            keep_within: keep.within,
            min_keep,
        }
    }
}

impl From<RetentionForm> for Retention {
    fn from(form: RetentionForm) -> Self {
        Self {
            max_count: form.max_count,
            max_age: form.max_age,
            keep: Keep {
                last: form.keep_last,
                hourly: form.keep_hourly,
                daily: form.keep_daily,
                weekly: form.keep_weekly,
                monthly: form.keep_monthly,
                yearly: form.keep_yearly,
                within: form.keep_within,
            },
            min_keep: form.min_keep,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Hooks")]
struct HooksForm {
    #[serde(
        default,
        skip_serializing_if = "is_default",
        deserialize_with = "null_as_default"
    )]
    pre: Vec<String>,
    #[serde(
        default,
        skip_serializing_if = "is_default",
        deserialize_with = "null_as_default"
    )]
    post: Vec<String>,
    #[serde(
        default,
        skip_serializing_if = "is_default",
        deserialize_with = "null_as_default"
    )]
    failure: Vec<String>,
    #[serde(default, with = "go_optional", skip_serializing_if = "Option::is_none")]
    timeout: Option<Duration>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Attempt")]
struct AttemptForm {
    run_at: DateTime<Utc>,
    snapshot_name: String,
    tries: u32,
    started_at: DateTime<Utc>,
}

#[derive(Serialize, Deserialize)]
struct Wrapped(#[serde(with = "AttemptForm")] Attempt);

impl From<&Schedule> for Form {
    fn from(schedule: &Schedule) -> Self {
        let Schedule {
            instance_id,
            declaration,
            record,
            unknown: _,
        } = schedule.clone();
        // With a calendar, hypeman demands an interval all the same.
        let interval = declaration.cadence.nominal_gap(record.updated_at);
        let calendar = match &declaration.cadence.when {
            When::Calendar(calendar) => Some(calendar.text().to_owned()),
            When::Every(_) => None,
        };
        Self {
            instance_id: instance_id.into(),
            interval,
            calendar,
            jitter: declaration.cadence.jitter,
            name_prefix: declaration.name_prefix,
            metadata: declaration.metadata,
            timezone: declaration.timezone,
            retention: declaration.retention.into(),
            next_run_at: record.next_run_at,
            last_run_at: record.last_run_at,
            last_snapshot_id: record.last_snapshot_id,
            last_error: record.last_error,
            created_at: record.created_at,
            updated_at: record.updated_at,
            retry_at: record.retry_at,
            consecutive_failures: record.consecutive_failures,
            attempt: record.attempt.map(Wrapped),
            last_success_at: record.last_success_at,
            last_pause_ms: record.last_pause_ms,
            last_duration_ms: record.last_duration_ms,
            total_runs: record.total_runs,
            total_failures: record.total_failures,
            missing_since: record.missing_since,
            retention_error: record.retention_error,
            max_pause: declaration.max_pause,
            expect: declaration.expect,
            hooks: declaration.hooks,
            no_memory: declaration.storing.no_memory,
            method: declaration.storing.saving,
            compress: declaration.storing.compress,
            min_free: declaration.storing.min_free,
        }
    }
}

impl Form {
    /// The schedule, every rule checked.
    fn check(self, id: &InstanceId) -> Result<Schedule, Refusal> {
        if self.instance_id != id.as_str() {
            return Err(Refusal::Invalid(InvalidSchedule::Name(self.instance_id)));
        }
        let schedule = Schedule {
            instance_id: id.clone(),
            declaration: Declaration {
                cadence: Cadence {
                    when: match &self.calendar {
                        Some(text) => When::Calendar(Box::new(Calendar::unchecked(
                            text,
                            self.timezone.unwrap_or(Tz::UTC),
                        ))),
                        None => When::Every(self.interval),
                    },
                    jitter: self.jitter,
                },
                retention: self.retention.into(),
                timezone: self.timezone,
                name_prefix: self.name_prefix,
                metadata: self.metadata,
                max_pause: self.max_pause,
                expect: self.expect,
                hooks: self.hooks,
                storing: Storing {
                    no_memory: self.no_memory,
                    saving: self.method,
                    compress: self.compress,
                    min_free: self.min_free,
                },
            },
            record: Record {
                next_run_at: self.next_run_at,
                last_run_at: self.last_run_at,
                last_snapshot_id: self.last_snapshot_id,
                last_error: self.last_error,
                created_at: self.created_at,
                updated_at: self.updated_at,
                retry_at: self.retry_at,
                consecutive_failures: self.consecutive_failures,
                attempt: self.attempt.map(|Wrapped(attempt)| attempt),
                last_success_at: self.last_success_at,
                last_pause_ms: self.last_pause_ms,
                last_duration_ms: self.last_duration_ms,
                total_runs: self.total_runs,
                total_failures: self.total_failures,
                missing_since: self.missing_since,
                retention_error: self.retention_error,
            },
            unknown: Map::new(),
        };
        validate::loaded(&schedule).map_err(Refusal::Invalid)?;
        Ok(schedule)
    }
}

impl Serialize for Schedule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut form = serde_json::to_value(Form::from(self)).map_err(serde::ser::Error::custom)?;
        if let Value::Object(form) = &mut form {
            unknown::add(form, &self.unknown);
        }
        form.serialize(serializer)
    }
}

/// When the schedule in a file is due: what an idle minute reads of each. What is not known is skipped.
///
/// # Errors
/// When the bytes are no valid schedule of this instance.
pub(super) fn times(bytes: &[u8], id: &InstanceId) -> Result<Times, Refusal> {
    let form: Form = serde_json::from_slice(bytes)?;
    let gap = form.interval;
    Ok(form.check(id)?.times_by(gap))
}

/// The whole schedule, every rule checked.
///
/// # Errors
/// When the bytes are no valid schedule of this instance.
pub(super) fn decode(bytes: &[u8], id: &InstanceId) -> Result<Schedule, Refusal> {
    let mut ignored = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let form: Form =
        serde_ignored::deserialize(&mut deserializer, |path| ignored.push(unknown::keys(&path)))?;
    deserializer.end()?;
    let mut schedule = form.check(id)?;
    validate::calendar(&schedule).map_err(Refusal::Invalid)?;
    if !ignored.is_empty() {
        let all: Value = serde_json::from_slice(bytes)?;
        for keys in ignored {
            unknown::copy(&keys, &all, &mut schedule.unknown);
        }
    }
    Ok(schedule)
}

/// The schedule as hypeman writes it: two spaces of indentation, its fields first and in its order.
///
/// # Errors
/// When a value can't be written as JSON.
pub(super) fn encode(schedule: &Schedule) -> serde_json::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(schedule)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests;
