//! The rules for what a user declares, and for what a schedule file holds. Pure: parsing of values is part of it, the
//! command line is not.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::hooks::{self, Hooks, InvalidHooks, Stage};
use super::{Declaration, Retention, Schedule, duration};
use crate::cadence::Cadence;
use crate::snapshot::{TAG_INSTANCE, TAG_SCHEDULED};

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
    /// `--interval`.
    pub interval: String,
    /// `--max-count`.
    pub max_count: Option<i64>,
    /// `--max-age`.
    pub max_age: Option<String>,
    /// `--name-prefix`.
    pub name_prefix: Option<String>,
    /// `--metadata`, each `KEY=VALUE`.
    pub metadata: Vec<String>,
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
    /// Snapshots would pile up.
    #[error("retention limits nothing: max_count or max_age must be above 0")]
    NoLimit,
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
    Ok(Declaration {
        cadence: Cadence::Every(interval(&input.interval)?),
        retention: retention(input.max_count, input.max_age.as_deref())?,
        name_prefix: input.name_prefix.map(name_prefix).transpose()?,
        metadata: metadata(&input.metadata)?,
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

fn retention(max_count: Option<i64>, max_age: Option<&str>) -> Result<Retention, InvalidSetting> {
    const ONE_OF_TWO: &str =
        "retention needs a limit: give --max-count above 0, --max-age above 0, or both";
    let count = u64::try_from(max_count.unwrap_or_default()).map_err(|_| {
        InvalidSetting::new(
            "--max-count",
            max_count.unwrap_or_default().to_string(),
            "must not be negative",
        )
    })?;
    let age = max_age
        .map(|text| parse_duration("--max-age", text))
        .transpose()?
        .filter(|age| !age.is_zero());
    if count == 0 && age.is_none() {
        let (flag, value) = match (max_count, max_age) {
            (Some(_), Some(_)) => ("--max-count and --max-age", Some("0".to_owned())),
            (Some(_), None) => ("--max-count", Some("0".to_owned())),
            (None, Some(age)) => ("--max-age", Some(age.to_owned())),
            (None, None) => ("--max-count or --max-age is missing", None),
        };
        return Err(InvalidSetting {
            flag,
            value,
            rule: ONE_OF_TWO.to_owned(),
        });
    }
    Ok(Retention {
        max_count: count,
        max_age: age,
    })
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
    (1..=MAX_PREFIX_CHARS).contains(&prefix.len())
        && prefix
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !prefix.starts_with('-')
        && !prefix.ends_with('-')
}

fn metadata(entries: &[String]) -> Result<BTreeMap<String, String>, InvalidSetting> {
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
    if cadence.gap() < MIN_INTERVAL {
        return Err(InvalidSchedule::Interval(cadence.gap()));
    }
    if retention.max_count == 0 && retention.max_age.is_none_or(|age| age.is_zero()) {
        return Err(InvalidSchedule::NoLimit);
    }
    match name_prefix {
        Some(prefix) if !is_prefix(prefix) => {
            return Err(InvalidSchedule::Prefix(prefix.clone()));
        }
        _ => {}
    }
    Ok(hooks.check()?)
}

#[cfg(test)]
mod tests;
