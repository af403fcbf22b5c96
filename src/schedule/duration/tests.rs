//! Facts about durations: Go's own forms, humantime's, and what is refused.

use proptest::prelude::*;

use super::*;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

fn nanos(nanos: u64) -> Duration {
    Duration::from_nanos(nanos)
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn go_form_is_what_go_writes() {
    for (duration, text) in [
        (Duration::ZERO, "0s"),
        (nanos(1), "1ns"),
        (nanos(999), "999ns"),
        (nanos(1_100), "1.1µs"),
        (nanos(2_000), "2µs"),
        (nanos(2_200_000), "2.2ms"),
        (nanos(999_999_999), "999.999999ms"),
        (nanos(1_500_000_000), "1.5s"),
        (nanos(3_300_000_000), "3.3s"),
        (nanos(1_000_000_001), "1.000000001s"),
        (secs(10), "10s"),
        (secs(59), "59s"),
        (secs(60), "1m0s"),
        (secs(245), "4m5s"),
        (Duration::from_millis(245_001), "4m5.001s"),
        (secs(HOUR), "1h0m0s"),
        (Duration::from_millis(18_367_001), "5h6m7.001s"),
        (nanos(480_000_000_001), "8m0.000000001s"),
        (secs(90 * 60), "1h30m0s"),
        (secs(DAY), "24h0m0s"),
        (secs(7 * DAY), "168h0m0s"),
        (nanos(i64::MAX.unsigned_abs()), "2562047h47m16.854775807s"),
        (Duration::MAX, "5124095576030431h0m15.999999999s"),
    ] {
        assert_eq!(format_go(duration), text);
    }
}

#[test]
fn go_and_humantime_styles_are_read() {
    for (text, duration) in [
        ("0", Duration::ZERO),
        ("0s", Duration::ZERO),
        ("+0", Duration::ZERO),
        ("+5s", secs(5)),
        ("90m", secs(90 * 60)),
        ("1h30m", secs(90 * 60)),
        ("1h 30m", secs(90 * 60)),
        (" 1 h\t30 m ", secs(90 * 60)),
        ("1h0m0s", secs(HOUR)),
        ("168h0m0s", secs(7 * DAY)),
        ("1.5h", secs(90 * 60)),
        (".5m", secs(30)),
        ("1.s", secs(1)),
        ("0.100000000000000000000h", secs(360)),
        ("0.3333333333333333333h", secs(20 * 60)),
        ("1.5s", nanos(1_500_000_000)),
        ("1.000000001s", nanos(1_000_000_001)),
        ("2.5ms", nanos(2_500_000)),
        ("1us", nanos(1_000)),
        ("1\u{b5}s", nanos(1_000)),
        ("1\u{3bc}s", nanos(1_000)),
        ("1ns", nanos(1)),
        ("7d", secs(7 * DAY)),
        ("1.5d", secs(36 * HOUR)),
        ("2weeks", secs(14 * DAY)),
        ("1day 12h", secs(36 * HOUR)),
        ("2 hours 37 min", secs(2 * HOUR + 37 * 60)),
        ("1y", secs(31_557_600)),
        ("00000000000000000000000000000000000000000000001m", secs(60)),
        ("9223372036854775807ns", nanos(i64::MAX.unsigned_abs())),
        ("2562047h47m16.854775807s", nanos(i64::MAX.unsigned_abs())),
    ] {
        assert_eq!(parse(text), Ok(duration), "{text:?}");
    }
}

#[test]
fn everything_else_is_refused_with_its_reason() {
    let digits = "9".repeat(400);
    for (text, reason) in [
        ("", "is empty"),
        (" \t", "is empty"),
        ("-1m", "negative"),
        ("-0", "negative"),
        ("1", "lacks a unit"),
        ("1h30", "lacks a unit"),
        ("1.5", "lacks a unit"),
        ("m", "no number"),
        (".s", "no number"),
        ("+", "no number"),
        ("1h-30m", "no number where \"-30m\" begins"),
        ("1h,30m", "no number"),
        ("infs", "no number"),
        ("\u{661}m", "no number"),
        ("1\0m", "lacks a unit"),
        ("1x", "unknown unit \"x\""),
        ("1e3s", "unknown unit \"e\""),
        ("1H", "unknown unit \"H\""),
        ("1mm", "unknown unit \"mm\""),
        ("1M", "minutes as 1m and months as 30d"),
        ("1mo", "minutes as 1m and months as 30d"),
        ("9223372036854775808ns", "292 years"),
        ("293y", "292 years"),
        ("18446744073709551615s 1000000000ns", "292 years"),
        (&format!("{digits}s"), "292 years"),
    ] {
        let error = parse(text).expect_err(text);
        assert!(error.rule.to_string().contains(reason), "{text:?}: {error}");
        assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
    }
}

#[test]
fn people_see_two_units_and_no_months() {
    for (duration, text) in [
        (Duration::ZERO, "0s"),
        (nanos(4_200_000), "4ms 200us"),
        (secs(59), "59s"),
        (secs(90 * 60), "1h 30m"),
        (secs(90 * 60 + 59), "1h 30m"),
        (secs(DAY), "1d"),
        (secs(26 * HOUR + 5), "1d 2h"),
        (secs(31 * DAY), "31d"),
        (secs(400 * DAY + 60), "400d 1m"),
    ] {
        assert_eq!(format_human(duration), text);
    }
}

proptest! {
    #[test]
    fn reading_undoes_writing(n in 0..=i64::MAX.unsigned_abs()) {
        prop_assert_eq!(parse(&format_go(nanos(n))), Ok(nanos(n)));
    }

    #[test]
    fn reading_undoes_writing_of_short_ones(digits in 0u64..1_000, zeros in 0u32..16) {
        let d = nanos(digits * 10u64.pow(zeros));
        prop_assert_eq!(parse(&format_go(d)), Ok(d));
    }

    #[test]
    fn humantime_form_is_read(n in 0..=i64::MAX.unsigned_abs()) {
        let text = humantime::format_duration(nanos(n)).to_string();
        prop_assert_eq!(parse(&text), Ok(nanos(n)));
    }

    #[test]
    fn sums_are_read(h in 0u64..2_000_000, m in 0u64..100_000, s in 0u64..100_000) {
        prop_assert_eq!(parse(&format!("{s}s{h}h {m}m")), Ok(secs(h * HOUR + m * 60 + s)));
    }

    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = parse(&text);
    }

    #[test]
    fn nothing_like_a_duration_panics(text in "([0-9]{0,22}\\.?[0-9]{0,30} ?(ns|us|s|m|h|d|y|x)? ?){0,4}") {
        if let Ok(d) = parse(&text) {
            prop_assert!(d.as_nanos() <= GO_MAX_NANOS);
        }
    }

    #[test]
    fn human_form_is_never_more_than_two_units(seconds: u64, subsec in 0u32..1_000_000_000) {
        let text = format_human(Duration::new(seconds, subsec));
        prop_assert!((1..=2).contains(&text.split(' ').count()), "{}", text);
    }
}
