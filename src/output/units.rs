//! Sizes, times and durations for people.

use std::time::Duration;

use chrono::{DateTime, Local, Utc};

use super::View;
use crate::schedule::duration::format_human;

/// A size in binary units with three or four digits, such as `1.5 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    let mut divisor: u128 = 1024;
    // One decimal is rounded up to the next unit where it would read 1024.0.
    while unit + 1 < UNITS.len() && u128::from(bytes) * 20 >= divisor * 1024 * 20 - divisor {
        divisor *= 1024;
        unit += 1;
    }
    let tenths = (u128::from(bytes) * 10 + divisor / 2) / divisor;
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// How long something took: `8.2 ms`, `1.3 s`, `2m 5s`.
pub fn took(duration: Duration) -> String {
    if duration < Duration::from_millis(1000) {
        format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
    } else if duration < Duration::from_secs(60) {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format_human(Duration::from_secs(duration.as_secs()))
    }
}

/// How old something is; what lies in the future has no age.
pub fn age(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    rough((now - at).to_std().unwrap_or_default())
}

/// A duration in two neighbouring units, without what does not matter beside the greater one.
pub fn rough(duration: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let seconds = duration.as_secs();
    let unit = match seconds {
        DAY.. => HOUR,
        HOUR.. => MINUTE,
        _ => 1,
    };
    format_human(Duration::from_secs(seconds / unit * unit))
}

/// How old something is on a terminal, else when it was made.
pub fn age_or_time(at: DateTime<Utc>, view: &View) -> String {
    if view.is_terminal {
        age(at, view.now)
    } else {
        time(at, view)
    }
}

/// A point in time where there is room for it: local, with its offset, and on a terminal also relative.
pub fn time_in_full(at: DateTime<Utc>, view: &View) -> String {
    let local = local(at);
    if view.is_terminal {
        format!("{local} ({})", time(at, view))
    } else {
        local
    }
}

fn local(at: DateTime<Utc>) -> String {
    at.with_timezone(&Local)
        .format("%Y-%m-%d %H:%M:%S %:z")
        .to_string()
}

/// A point in time: relative on a terminal, else local time with its offset.
pub fn time(at: DateTime<Utc>, view: &View) -> String {
    if !view.is_terminal {
        return local(at);
    }
    match (at - view.now).to_std() {
        Ok(ahead) if ahead < Duration::from_secs(1) => "now".to_owned(),
        Ok(ahead) => format!("in {}", rough(ahead)),
        Err(_) if view.now - at < chrono::TimeDelta::seconds(1) => "now".to_owned(),
        Err(_) => format!("{} ago", age(at, view.now)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;

    #[test]
    fn sizes_have_one_decimal_and_never_read_1024() {
        for (bytes, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (1024 * 1024, "1.0 MiB"),
            (5 * 1024 * 1024 * 1024, "5.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), expected, "{bytes}");
        }
    }

    #[test]
    fn durations_are_rounded_to_what_matters() {
        for (micros, expected) in [
            (0, "0.0 ms"),
            (8_240, "8.2 ms"),
            (1_340_000, "1.3 s"),
            (125_900_000, "2m 5s"),
        ] {
            assert_eq!(took(Duration::from_micros(micros)), expected);
        }
    }

    #[test]
    fn times_on_a_terminal_are_relative() {
        let now: DateTime<Utc> = "2026-11-23T14:00:00Z".parse().unwrap();
        let view = View {
            format: Format::Table,
            now,
            is_terminal: true,
            has_colours: false,
            width: None,
            is_quiet: false,
            is_verbose: false,
        };
        for (at, expected) in [
            ("2026-11-23T14:05:00Z", "in 5m"),
            ("2026-11-23T12:29:50Z", "1h 30m ago"),
            ("2026-11-21T12:29:50Z", "2d 1h ago"),
            ("2026-11-23T14:00:00Z", "now"),
            ("2026-11-23T13:59:59.5Z", "now"),
        ] {
            assert_eq!(time(at.parse().unwrap(), &view), expected);
        }
    }
}
