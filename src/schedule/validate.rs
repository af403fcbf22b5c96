//! The rules for what a user declares, and for what a schedule file holds. Pure: parsing of values is part of it, the
//! command line is not.

mod retention;
mod storing;
mod update;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use regex::Regex;

use super::hooks::{self, Hooks, InvalidHooks, Stage};
use super::{Declaration, Retention, Schedule, duration};
use crate::cadence::{Cadence, Calendar, InvalidCalendar, When, later};
use crate::snapshot::{TAG_INSTANCE, TAG_SCHEDULED, is_name};

/// The shortest interval.
const MIN_INTERVAL: Duration = Duration::from_secs(60);
/// The longest name prefix: with `-YYYYMMDD-HHMMSS` behind it, it fills the 63 characters of a snapshot's name.
const MAX_PREFIX_CHARS: usize = 47;
/// The most metadata entries: a snapshot takes 50 tags, and two are the markers.
const MAX_METADATA: usize = 48;
/// The longest key of a tag, in characters.
const MAX_KEY_CHARS: usize = 128;
/// The longest value of a tag, in characters.
const MAX_VALUE_CHARS: usize = 256;

const PREFIX_RULE: &str =
    "must be 1 to 47 lower-case letters, digits and dashes, with no dash at either end";
const CHARSET_RULE: &str = "may hold ASCII letters, digits, spaces and _ . : / = + @ - only";

/// The values of `set` as they were typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Input {
    /// `--calendar`.
    pub calendar: Option<String>,
    /// `--jitter`.
    pub jitter: Option<String>,
    /// `--interval`.
    pub interval: Option<String>,
    /// `--max-pause`.
    pub max_pause: Option<String>,
    /// `--expect`.
    pub expect: Option<String>,
    /// `--max-count`.
    pub max_count: Option<i64>,
    /// `--max-age`.
    pub max_age: Option<String>,
    /// `--keep-last`.
    pub keep_last: Option<i64>,
    /// `--keep-hourly`.
    pub keep_hourly: Option<i64>,
    /// `--keep-daily`.
    pub keep_daily: Option<i64>,
    /// `--keep-weekly`.
    pub keep_weekly: Option<i64>,
    /// `--keep-monthly`.
    pub keep_monthly: Option<i64>,
    /// `--keep-yearly`.
    pub keep_yearly: Option<i64>,
    /// `--keep-within`.
    pub keep_within: Option<String>,
    /// `--min-keep`.
    pub min_keep: Option<i64>,
    /// `--timezone`.
    pub timezone: Option<String>,
    /// The time zone of the host.
    pub host_timezone: Option<String>,
    /// `--name-prefix`.
    pub name_prefix: Option<String>,
    /// `--metadata`, each `KEY=VALUE`.
    pub metadata: Vec<String>,
    /// `--no-memory`.
    pub no_memory: Option<bool>,
    /// `--method`.
    pub method: Option<String>,
    /// `--compress`.
    pub compress: Option<String>,
    /// `--min-free`.
    pub min_free: Option<String>,
    /// `--pre-hook`.
    pub pre_hook: Option<String>,
    /// `--post-hook`.
    pub post_hook: Option<String>,
    /// `--failure-hook`.
    pub failure_hook: Option<String>,
    /// `--hook-timeout`.
    pub hook_timeout: Option<String>,
}

/// A value that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidSetting {
    flag: &'static str,
    /// Absent when it is the flag that is missing.
    value: Option<String>,
    rule: String,
}

impl InvalidSetting {
    fn new(flag: &'static str, value: impl Into<String>, rule: impl Into<String>) -> Self {
        Self {
            flag,
            value: Some(value.into()),
            rule: rule.into(),
        }
    }
}

impl fmt::Display for InvalidSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { flag, value, rule } = self;
        match value {
            Some(value) => write!(f, "{flag} {value:?}: {rule}"),
            None => write!(f, "{flag}: {rule}"),
        }
    }
}

impl std::error::Error for InvalidSetting {}

/// A value in a schedule file that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSchedule {
    /// It is another instance's, as by a copied file.
    #[error("instance_id {0:?} is not the instance that the file is named after")]
    Name(String),
    /// The interval is too short.
    #[error("interval {:?} must be at least 1m", duration::format_go(*.0))]
    Interval(Duration),
    /// The calendar can't be read.
    #[error("calendar {0:?} {1}")]
    Calendar(String, InvalidCalendar),
    /// Snapshots would pile up.
    #[error("retention limits nothing: max_count, max_age or one of keep_… must be above 0")]
    NoLimit,
    /// The last snapshot would not be safe.
    #[error("retention.min_keep must be at least 1")]
    MinKeep,
    /// The name prefix can't begin a name.
    #[error("name_prefix {0:?} {PREFIX_RULE}")]
    Prefix(String),
    /// A hook.
    #[error(transparent)]
    Hooks(#[from] InvalidHooks),
}

/// The declaration that was typed, every rule checked.
///
/// # Errors
/// The first value that breaks a rule.
pub fn declaration(input: Input) -> Result<Declaration, InvalidSetting> {
    let retention = retention::typed(&input)?;
    let timezone = timezone(&input, &retention)?;
    let storing = storing::typed(&input)?;
    Ok(Declaration {
        cadence: cadence(&input, timezone.unwrap_or(Tz::UTC))?,
        timezone,
        max_pause: max_pause(input.max_pause.as_deref())?,
        expect: expect(input.expect)?,
        retention,
        name_prefix: input.name_prefix.map(name_prefix).transpose()?,
        metadata: metadata(&input.metadata)?,
        storing,
        hooks: hooks(
            |stage| match stage {
                Stage::Pre => input.pre_hook.as_deref(),
                Stage::Post => input.post_hook.as_deref(),
                Stage::Failure => input.failure_hook.as_deref(),
            },
            input.hook_timeout.as_deref(),
        )?,
    })
}

/// When the first run of a new cadence is: `now`, or so much later, but not later than by the cadence itself.
///
/// # Errors
/// When it is neither, or too late.
pub fn first_run(
    text: &str,
    schedule: &Schedule,
    now: DateTime<Utc>,
) -> Result<DateTime<Utc>, InvalidSetting> {
    const FLAG: &str = "--first";
    if text == "now" {
        return Ok(now);
    }
    let first = later(now, parse_duration(FLAG, text)?);
    let cadence = &schedule.declaration.cadence;
    let latest = cadence.first(&schedule.instance_id, now);
    if first > latest {
        let rule = format!(
            "must not be later than the first run by the cadence, {}",
            latest.format("%Y-%m-%dT%H:%M:%SZ")
        );
        return Err(InvalidSetting::new(FLAG, text, rule));
    }
    Ok(first)
}

fn cadence(input: &Input, zone: Tz) -> Result<Cadence, InvalidSetting> {
    let missing = |flag, rule: &str| InvalidSetting {
        flag,
        value: None,
        rule: rule.to_owned(),
    };
    let when = match (&input.interval, &input.calendar) {
        (Some(text), None) => When::Every(interval(text)?),
        (None, Some(text)) => {
            let calendar = Calendar::parse(text, zone)
                .map_err(|invalid| InvalidSetting::new("--calendar", text, invalid.to_string()))?;
            When::Calendar(Box::new(calendar))
        }
        (None, None) => {
            return Err(missing(
                "--interval or --calendar is missing",
                "say how much time there is between two snapshots, such as 1h, or when they are taken, such as '0 3 * * *'",
            ));
        }
        (Some(_), Some(_)) => {
            return Err(missing(
                "--interval and --calendar",
                "runs go by one of them: leave the other one out",
            ));
        }
    };
    let jitter = input.jitter.as_deref();
    Ok(Cadence {
        when,
        jitter: jitter
            .map(|text| parse_duration("--jitter", text))
            .transpose()?,
    })
}

fn interval(text: &str) -> Result<Duration, InvalidSetting> {
    let interval = parse_duration("--interval", text)?;
    if interval < MIN_INTERVAL {
        return Err(InvalidSetting::new(
            "--interval",
            text,
            "must be at least 1m",
        ));
    }
    Ok(interval)
}

/// The time zone: where something goes by one, that of the host if none is given, and UTC if the host names none.
fn timezone(input: &Input, retention: &Retention) -> Result<Option<Tz>, InvalidSetting> {
    const FLAG: &str = "--timezone";
    let given = input.timezone.as_deref().map(|name| {
        name.parse::<Tz>().map_err(|_| {
            InvalidSetting::new(
                FLAG,
                name,
                "must be a time zone of the IANA database, such as UTC or Europe/Berlin",
            )
        })
    });
    let given = given.transpose()?;
    if !retention.keep.goes_by_calendar() && input.calendar.is_none() {
        return match given {
            None => Ok(None),
            Some(zone) => Err(InvalidSetting::new(
                FLAG,
                zone.name(),
                "changes nothing: no setting goes by the clock; give --calendar or one of --keep-hourly to --keep-yearly as well",
            )),
        };
    }
    let host = || input.host_timezone.as_deref()?.parse().ok();
    Ok(Some(given.or_else(host).unwrap_or(Tz::UTC)))
}

fn max_pause(text: Option<&str>) -> Result<Option<Duration>, InvalidSetting> {
    let limit = text.map(|text| parse_duration("--max-pause", text));
    Ok(limit.transpose()?.filter(|limit| !limit.is_zero()))
}

fn expect(pattern: Option<String>) -> Result<Option<String>, InvalidSetting> {
    let Some(pattern) = pattern.filter(|pattern| !pattern.is_empty()) else {
        return Ok(None);
    };
    match Regex::new(&pattern) {
        Ok(_) => Ok(Some(pattern)),
        Err(_) => Err(InvalidSetting::new(
            "--expect",
            &pattern,
            "must be a regular expression (hypeman-snap-rehearse(1))".to_owned(),
        )),
    }
}

fn parse_duration(flag: &'static str, text: &str) -> Result<Duration, InvalidSetting> {
    duration::parse(text).map_err(|error| InvalidSetting::new(flag, text, error.rule.to_string()))
}

fn name_prefix(prefix: String) -> Result<String, InvalidSetting> {
    if is_prefix(&prefix) {
        Ok(prefix)
    } else {
        Err(InvalidSetting::new("--name-prefix", prefix, PREFIX_RULE))
    }
}

fn is_prefix(prefix: &str) -> bool {
    prefix.len() <= MAX_PREFIX_CHARS && is_name(prefix)
}

/// Tags as they were typed.
///
/// # Errors
/// The first that breaks a rule.
pub fn metadata(entries: &[String]) -> Result<BTreeMap<String, String>, InvalidSetting> {
    const FLAG: &str = "--metadata";
    let mut metadata = BTreeMap::new();
    for entry in entries {
        let invalid = |rule: &str| InvalidSetting::new(FLAG, entry, rule);
        let (key, value) = entry
            .split_once('=')
            .ok_or_else(|| invalid("must be KEY=VALUE"))?;
        if [TAG_SCHEDULED, TAG_INSTANCE].contains(&key) {
            return Err(invalid(
                "this key marks scheduled snapshots and is set by this tool; use another one",
            ));
        }
        if !(1..=MAX_KEY_CHARS).contains(&key.chars().count()) {
            return Err(invalid("the key must have 1 to 128 characters"));
        }
        if value.chars().count() > MAX_VALUE_CHARS {
            return Err(invalid("the value must have at most 256 characters"));
        }
        if !key.chars().chain(value.chars()).all(is_tag_char) {
            return Err(invalid(CHARSET_RULE));
        }
        if metadata.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(invalid("this key is given twice"));
        }
    }
    if metadata.len() > MAX_METADATA {
        return Err(InvalidSetting::new(
            FLAG,
            format!("{} entries", metadata.len()),
            "at most 48 entries: a snapshot takes 50 tags, and two of them mark it as scheduled",
        ));
    }
    Ok(metadata)
}

/// The hooks as they were typed. A time-out that is the default is not kept, so that it reads as not given.
fn hooks<'a>(
    typed: impl Fn(Stage) -> Option<&'a str>,
    timeout: Option<&str>,
) -> Result<Hooks, InvalidSetting> {
    const FLAG: &str = "--hook-timeout";
    let command = |stage| match typed(stage) {
        Some(text) => hooks::parse(text)
            .map_err(|rule| InvalidSetting::new(stage.flag(), text, rule.to_string())),
        None => Ok(Vec::new()),
    };
    let mut hooks = Hooks {
        pre: command(Stage::Pre)?,
        post: command(Stage::Post)?,
        failure: command(Stage::Failure)?,
        ..Hooks::default()
    };
    if let Some(text) = timeout {
        let invalid = |rule: &str| InvalidSetting::new(FLAG, text, rule);
        let timeout = parse_duration(FLAG, text)?;
        if timeout.is_zero() {
            return Err(invalid("must be above 0"));
        }
        if hooks.is_empty() {
            return Err(invalid(
                "limits nothing: give --pre-hook, --post-hook or --failure-hook as well",
            ));
        }
        hooks.timeout = Some(timeout).filter(|timeout| *timeout != hooks::DEFAULT_TIMEOUT);
    }
    Ok(hooks)
}

fn is_tag_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || " _.:/=+@-".contains(c)
}

/// Checks what a schedule file holds, beyond its form: files may be hand-written, damaged or moved.
///
/// Metadata is not checked: whoever takes the snapshot says what it can't take.
///
/// # Errors
/// The first rule that is broken.
pub fn loaded(schedule: &Schedule) -> Result<(), InvalidSchedule> {
    let Declaration {
        cadence,
        retention,
        name_prefix,
        hooks,
        ..
    } = &schedule.declaration;
    match &cadence.when {
        When::Every(interval) if *interval < MIN_INTERVAL => {
            return Err(InvalidSchedule::Interval(*interval));
        }
        When::Every(_) | When::Calendar(_) => {}
    }
    if !retention.limits_anything() {
        return Err(InvalidSchedule::NoLimit);
    }
    if retention.min_keep == Some(0) {
        return Err(InvalidSchedule::MinKeep);
    }
    match name_prefix {
        Some(prefix) if !is_prefix(prefix) => {
            return Err(InvalidSchedule::Prefix(prefix.clone()));
        }
        _ => {}
    }
    Ok(hooks.check()?)
}

/// Checks the calendar of a schedule file, if it has one. That takes longer than all the rest, and an idle minute does
/// without.
///
/// # Errors
/// When it can't be read.
pub fn calendar(schedule: &Schedule) -> Result<(), InvalidSchedule> {
    let When::Calendar(calendar) = &schedule.declaration.cadence.when else {
        return Ok(());
    };
    Calendar::parse(calendar.text(), calendar.zone())
        .map(drop)
        .map_err(|invalid| InvalidSchedule::Calendar(calendar.text().to_owned(), invalid))
}

#[cfg(test)]
mod tests;
