//! Limits, keep rules and floors as they were typed.

use super::{Input, InvalidSetting, parse_duration};
use crate::schedule::{Keep, Retention};

/// What was typed about retention.
///
/// # Errors
/// The first value that breaks a rule.
pub(super) fn typed(input: &Input) -> Result<Retention, InvalidSetting> {
    let age = |flag, typed: &Option<String>| {
        let age = typed.as_deref().map(|text| parse_duration(flag, text));
        Ok(age.transpose()?.filter(|age| !age.is_zero()))
    };
    let retention = Retention {
        max_count: count("--max-count", input.max_count)?,
        max_age: age("--max-age", &input.max_age)?,
        keep: Keep {
            last: count("--keep-last", input.keep_last)?,
            hourly: count("--keep-hourly", input.keep_hourly)?,
            daily: count("--keep-daily", input.keep_daily)?,
            weekly: count("--keep-weekly", input.keep_weekly)?,
            monthly: count("--keep-monthly", input.keep_monthly)?,
            yearly: count("--keep-yearly", input.keep_yearly)?,
            within: age("--keep-within", &input.keep_within)?,
        },
        min_keep: min_keep(input.min_keep)?,
    };
    if !retention.limits_anything() {
        let given = [
            ("--max-count", input.max_count.is_some()),
            ("--max-age", input.max_age.is_some()),
        ];
        let given: Vec<&str> = given
            .into_iter()
            .filter_map(|(flag, is_given)| is_given.then_some(flag))
            .collect();
        return Err(InvalidSetting {
            flag: match given.as_slice() {
                [] => "--max-count, --max-age or --keep-… is missing",
                [flag] => flag,
                _ => "--max-count and --max-age",
            },
            value: match given.as_slice() {
                [] => None,
                ["--max-age"] => input.max_age.clone(),
                _ => Some("0".to_owned()),
            },
            rule: "retention needs a limit or a keep rule: give --max-count, --max-age or one of --keep-… above 0"
                .to_owned(),
        });
    }
    Ok(retention)
}

fn count(flag: &'static str, typed: Option<i64>) -> Result<u64, InvalidSetting> {
    let typed = typed.unwrap_or_default();
    u64::try_from(typed)
        .map_err(|_| InvalidSetting::new(flag, typed.to_string(), "must not be negative"))
}

/// The default is not kept, so that it reads as not given.
fn min_keep(typed: Option<i64>) -> Result<Option<u64>, InvalidSetting> {
    const FLAG: &str = "--min-keep";
    let Some(typed) = typed else {
        return Ok(None);
    };
    match count(FLAG, Some(typed))? {
        0 => Err(InvalidSetting::new(
            FLAG,
            "0",
            "must be at least 1: the newest snapshot of each kind always stays",
        )),
        min_keep => Ok(Some(min_keep).filter(|it| *it != 1)),
    }
}
