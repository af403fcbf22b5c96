//! Durations as users and Go write them. Knows no limits but Go's own: callers apply their rules.

use std::fmt::Write as _;
use std::time::Duration;

/// The longest duration that Go can hold, in nanoseconds: some 292 years. A longer one could not be read back by
/// hypeman, so it is refused at the door.
const GO_MAX_NANOS: u128 = 9_223_372_036_854_775_807;

/// Digits behind the decimal point that count; a year's worth of nanoseconds needs no more.
const FRACTION_DIGITS: usize = 18;

/// Why a string is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("duration {text:?} {rule}")]
pub struct InvalidDuration {
    text: String,
    /// What is wrong with it, without the duration itself.
    pub rule: Rule,
}

/// What a duration must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    /// There is nothing.
    #[error("is empty; write it as 90m, 1h30m or 7d")]
    Empty,
    /// It is below zero.
    #[error("must not be negative")]
    Negative,
    /// A unit without a number before it.
    #[error("has no number where {0:?} begins; write it as 90m, 1h30m or 7d")]
    NoNumber(String),
    /// A number without a unit behind it.
    #[error("lacks a unit; write it as 90s, 15m, 1h30m or 7d")]
    NoUnit,
    /// Months have no one length, and who writes `1M` may mean minutes.
    #[error(
        "has the unit {0:?}, which could be minutes or months; write minutes as 1m and months as 30d"
    )]
    AmbiguousUnit(String),
    /// No unit has this name.
    #[error("has the unknown unit {0:?}; write it as 90s, 15m, 1h30m or 7d")]
    UnknownUnit(String),
    /// Longer than [`GO_MAX_NANOS`].
    #[error("is longer than the 292 years that a schedule file can hold")]
    TooLong,
}

/// Reads a duration in humantime's or Go's style: `90m`, `1h30m`, `1h 30m`, `7d`, `1h0m0s`, `1.5h`, `0`.
///
/// A fraction finer than a nanosecond is rounded.
///
/// # Errors
/// When it is empty, negative, has no unit or an unknown one, or is longer than Go can hold (some 292 years).
pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    parse_nanos(text)
        .map(from_nanos)
        .map_err(|rule| InvalidDuration {
            text: text.to_owned(),
            rule,
        })
}

fn parse_nanos(text: &str) -> Result<u128, Rule> {
    let text = text.trim();
    if text.is_empty() {
        return Err(Rule::Empty);
    }
    if text.starts_with('-') {
        return Err(Rule::Negative);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(0);
    }
    let mut total: u128 = 0;
    loop {
        let (nanos, behind) = parse_term(rest)?;
        total = total
            .checked_add(nanos)
            .filter(|total| *total <= GO_MAX_NANOS)
            .ok_or(Rule::TooLong)?;
        rest = behind.trim_start();
        if rest.is_empty() {
            return Ok(total);
        }
    }
}

/// Reads one number with its unit, and returns its nanoseconds and what stands behind it.
fn parse_term(text: &str) -> Result<(u128, &str), Rule> {
    let (whole, behind) = split_digits(text);
    let (fraction, behind) = behind.strip_prefix('.').map_or(("", behind), split_digits);
    if whole.is_empty() && fraction.is_empty() {
        return Err(Rule::NoNumber(text.to_owned()));
    }
    let behind = behind.trim_start();
    let (unit, behind) = split_while(behind, char::is_alphabetic);
    let unit_nanos = unit_nanos(unit)?;
    let whole: u128 = match whole {
        "" => 0,
        digits => digits.parse().map_err(|_| Rule::TooLong)?,
    };
    let nanos = whole
        .checked_mul(unit_nanos)
        .and_then(|nanos| nanos.checked_add(fraction_nanos(fraction, unit_nanos)))
        .ok_or(Rule::TooLong)?;
    Ok((nanos, behind))
}

/// The part behind the decimal point, in nanoseconds, rounded.
fn fraction_nanos(digits: &str, unit_nanos: u128) -> u128 {
    let digits = &digits[..digits.len().min(FRACTION_DIGITS)];
    let (numerator, denominator) =
        digits
            .bytes()
            .fold((0u128, 1u128), |(numerator, denominator), digit| {
                (
                    numerator * 10 + u128::from(digit.saturating_sub(b'0')),
                    denominator * 10,
                )
            });
    // At most 10^18 · 32·10^15 (a year): far from overflow.
    (numerator * unit_nanos + denominator / 2) / denominator
}

/// A unit's length in nanoseconds. Go's units are matched first, because files hold nothing else.
fn unit_nanos(unit: &str) -> Result<u128, Rule> {
    Ok(match unit {
        "" => return Err(Rule::NoUnit),
        "ns" => 1,
        // Go takes both the micro sign and the Greek letter.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "M" | "mo" => return Err(Rule::AmbiguousUnit(unit.to_owned())),
        // One unit at a time: sums of extreme terms overflow inside humantime.
        word => humantime::parse_duration(&format!("1{word}"))
            .map_err(|_| Rule::UnknownUnit(word.to_owned()))?
            .as_nanos(),
    })
}

fn split_digits(text: &str) -> (&str, &str) {
    split_while(text, |c| c.is_ascii_digit())
}

fn split_while(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

/// The duration of so many nanoseconds; saturates at the longest one.
fn from_nanos(nanos: u128) -> Duration {
    const PER_SECOND: u128 = 1_000_000_000;
    let subsec = u32::try_from(nanos % PER_SECOND).unwrap_or_default();
    u64::try_from(nanos / PER_SECOND)
        .map_or(Duration::MAX, |seconds| Duration::new(seconds, subsec))
}

/// The duration in Go's canonical form, exactly as its `time.Duration.String()` writes it: `168h0m0s`, `1.5s`, `0s`.
pub fn format_go(d: Duration) -> String {
    let nanos = u128::from(d.subsec_nanos());
    let seconds = d.as_secs();
    if seconds == 0 {
        return match nanos {
            0 => "0s".to_owned(),
            1..1_000 => format!("{nanos}ns"),
            1_000..1_000_000 => format!("{}\u{b5}s", decimal(nanos, 1_000)),
            _ => format!("{}ms", decimal(nanos, 1_000_000)),
        };
    }
    let mut text = String::new();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    // Writing to a String can't fail.
    if hours > 0 {
        let _ = write!(text, "{hours}h");
    }
    if seconds >= 60 {
        let _ = write!(text, "{minutes}m");
    }
    let nanos = u128::from(seconds % 60) * 1_000_000_000 + nanos;
    let _ = write!(text, "{}s", decimal(nanos, 1_000_000_000));
    text
}

/// `value / unit` as a decimal number without trailing zeros; `unit` is a power of ten.
fn decimal(value: u128, unit: u128) -> String {
    let (whole, part) = (value / unit, value % unit);
    if part == 0 {
        return whole.to_string();
    }
    let width = usize::try_from(unit.ilog10()).unwrap_or_default();
    let text = format!("{whole}.{part:0width$}");
    text.trim_end_matches('0').to_owned()
}

/// The duration for people: its two largest units, the rest cut off, such as `1h 30m` or `31d 2h`.
///
/// Days are the largest unit: months and years have no one length.
pub fn format_human(d: Duration) -> String {
    const DAY_SECONDS: u64 = 24 * 60 * 60;
    let days = d.as_secs() / DAY_SECONDS;
    let below = Duration::new(d.as_secs() % DAY_SECONDS, d.subsec_nanos());
    let mut parts = Vec::new();
    if days > 0 {
        parts.push(format!("{days}d"));
    }
    if days == 0 || !below.is_zero() {
        let below = humantime::format_duration(below).to_string();
        parts.extend(below.split(' ').map(str::to_owned));
    }
    parts.truncate(2);
    parts.join(" ")
}

#[cfg(test)]
mod tests;
