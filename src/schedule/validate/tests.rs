//! Facts about the rules: what `set` takes, what it refuses and how it says so, and what a file may hold.

use chrono::DateTime;
use proptest::prelude::*;

use super::*;
use crate::instance::InstanceId;
use crate::snapshot;

fn input() -> Input {
    Input {
        interval: Some("1h".to_owned()),
        max_count: Some(7),
        ..Input::default()
    }
}

fn refusal(input: Input) -> String {
    declaration(input).expect_err("not refused").to_string()
}

#[test]
fn a_whole_declaration_is_taken() {
    let declared = declaration(Input {
        interval: Some("60m".to_owned()),
        max_count: Some(7),
        max_age: Some("7d".to_owned()),
        name_prefix: Some("nightly".to_owned()),
        metadata: vec![
            "team=infra".to_owned(),
            "note=a=b c".to_owned(),
            "empty=".to_owned(),
        ],
        pre_hook: Some("fsfreeze -f '/srv/a b'".to_owned()),
        hook_timeout: Some("30s".to_owned()),
        ..Input::default()
    })
    .unwrap();
    assert_eq!(declared.cadence, Cadence::every(Duration::from_secs(3600)));
    assert_eq!(declared.retention.max_count, 7);
    assert_eq!(
        declared.retention.max_age,
        Some(Duration::from_secs(7 * 24 * 3600))
    );
    assert_eq!(declared.name_prefix.as_deref(), Some("nightly"));
    let metadata: Vec<_> = declared
        .metadata
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    assert_eq!(
        metadata,
        [("empty", ""), ("note", "a=b c"), ("team", "infra")]
    );
    assert_eq!(declared.hooks.pre, ["fsfreeze", "-f", "/srv/a b"]);
    assert_eq!(declared.hooks.post, Vec::<String>::new());
    assert_eq!(declared.hooks.timeout, Some(Duration::from_secs(30)));
}

#[test]
fn a_minute_is_the_shortest_interval() {
    for (interval, refused) in [
        ("1m", None),
        ("60s", None),
        ("59.999999999s", Some("must be at least 1m")),
        ("30s", Some("must be at least 1m")),
        ("0", Some("must be at least 1m")),
        ("-5m", Some("must not be negative")),
        ("", Some("is empty")),
        ("5", Some("lacks a unit")),
        ("300y", Some("292 years")),
    ] {
        let input = Input {
            interval: Some(interval.to_owned()),
            ..input()
        };
        match refused {
            None => assert!(declaration(input).is_ok(), "{interval}"),
            Some(rule) => {
                let error = refusal(input);
                assert!(
                    error.starts_with(&format!("--interval {interval:?}: ")),
                    "{error}"
                );
                assert!(error.contains(rule), "{error}");
            }
        }
    }
}

#[test]
fn retention_needs_one_limit_above_zero() {
    let limits = |max_count: Option<i64>, max_age: Option<&str>| {
        declaration(Input {
            max_count,
            max_age: max_age.map(str::to_owned),
            ..input()
        })
        .map(|declared| (declared.retention.max_count, declared.retention.max_age))
        .map_err(|error| error.to_string())
    };
    let day = Some(Duration::from_secs(24 * 3600));
    assert_eq!(limits(Some(1), None), Ok((1, None)));
    assert_eq!(limits(Some(1), Some("0s")), Ok((1, None)));
    assert_eq!(limits(None, Some("24h")), Ok((0, day)));
    assert_eq!(limits(Some(0), Some("24h")), Ok((0, day)));
    assert_eq!(
        limits(Some(i64::MAX), None),
        Ok((i64::MAX.unsigned_abs(), None))
    );
    for (count, age, begin) in [
        (
            None,
            None,
            "--max-count, --max-age or --keep-… is missing: retention",
        ),
        (Some(0), None, "--max-count \"0\": retention needs a limit"),
        (
            None,
            Some("0s"),
            "--max-age \"0s\": retention needs a limit",
        ),
        (Some(0), Some("0"), "--max-count and --max-age \"0\": reten"),
        (Some(-1), None, "--max-count \"-1\": must not be negative"),
        (Some(-1), Some("7d"), "--max-count \"-1\": must not be neg"),
        (Some(7), Some("-1h"), "--max-age \"-1h\": must not be neg"),
        (Some(7), Some("week"), "--max-age \"week\": has no number"),
    ] {
        let error = limits(count, age).unwrap_err();
        assert!(error.starts_with(begin), "{error}");
    }
}

#[test]
fn keep_rules_are_counts_and_ages_and_go_by_a_time_zone() {
    let none = Input {
        interval: Some("1h".to_owned()),
        host_timezone: Some("Asia/Kolkata".to_owned()),
        ..Input::default()
    };
    let declared = declaration(Input {
        keep_daily: Some(7),
        keep_within: Some("2h".to_owned()),
        min_keep: Some(1),
        ..none.clone()
    })
    .unwrap();
    assert_eq!(declared.retention.keep.daily, 7);
    assert_eq!(
        declared.retention.keep.within,
        Some(Duration::from_secs(7200))
    );
    assert_eq!(declared.retention.min_keep, None, "it is the default");
    assert_eq!(declared.timezone, Some(Tz::Asia__Kolkata));
    let zone = |given: Option<&str>, host: Option<&str>| {
        let input = Input {
            keep_hourly: Some(1),
            timezone: given.map(str::to_owned),
            host_timezone: host.map(str::to_owned),
            ..none.clone()
        };
        declaration(input).unwrap().timezone
    };
    assert_eq!(zone(Some("Europe/Berlin"), None), Some(Tz::Europe__Berlin));
    for host in [None, Some("Etc/Unknown")] {
        assert_eq!(zone(None, host), Some(Tz::UTC));
    }
    // What goes by no calendar is in no time zone.
    let last = declaration(Input {
        keep_last: Some(7),
        ..none.clone()
    });
    assert_eq!(last.unwrap().timezone, None);
    for (input, begin) in [
        (
            Input {
                keep_yearly: Some(-1),
                ..none.clone()
            },
            "--keep-yearly \"-1\": must not be negative",
        ),
        (
            Input {
                keep_within: Some("x".to_owned()),
                ..none.clone()
            },
            "--keep-within \"x\": has no number",
        ),
        (
            Input {
                keep_last: Some(0),
                ..none.clone()
            },
            "--max-count, --max-age or --keep-… is missing: retention",
        ),
        (
            Input {
                min_keep: Some(0),
                ..input()
            },
            "--min-keep \"0\": must be at least 1",
        ),
        (
            Input {
                keep_daily: Some(1),
                timezone: Some("Mars/Olympus".to_owned()),
                ..none.clone()
            },
            "--timezone \"Mars/Olympus\": must be a time zone",
        ),
        (
            Input {
                timezone: Some("UTC".to_owned()),
                ..input()
            },
            "--timezone \"UTC\": changes nothing",
        ),
    ] {
        let error = refusal(input);
        assert!(error.starts_with(begin), "{error}");
    }
}

#[test]
fn prefixes_are_lower_case_names_of_at_most_47_characters() {
    let longest = "x".repeat(47);
    for good in ["a", "0", "nightly", "a-b--c", "0-9", &longest] {
        let input = Input {
            name_prefix: Some(good.to_owned()),
            ..input()
        };
        assert!(declaration(input).is_ok(), "{good}");
    }
    let too_long = "x".repeat(48);
    for bad in [
        "", "-", "-a", "a-", "A", "a_b", "a b", "ä", "a/b", "..", "a\n", "a\0", &too_long,
    ] {
        let input = Input {
            name_prefix: Some(bad.to_owned()),
            ..input()
        };
        let error = refusal(input);
        assert_eq!(error, format!("--name-prefix {bad:?}: {PREFIX_RULE}"));
    }
}

#[test]
fn metadata_follows_the_rules_of_tags() {
    let key = |n: usize| format!("{}=v", "k".repeat(n));
    let value = |n: usize| format!("k={}", "v".repeat(n));
    for (entries, refused) in [
        (vec![key(128)], None),
        (vec![value(256)], None),
        (vec!["a Z0_.:/+@-=a Z0_.:/=+@-".to_owned()], None),
        (vec![key(129)], Some("1 to 128")),
        (vec![value(257)], Some("at most 256")),
        (vec!["=v".to_owned()], Some("1 to 128")),
        (vec!["novalue".to_owned()], Some("KEY=VALUE")),
        (vec![String::new()], Some("KEY=VALUE")),
        (vec!["k=\u{e4}".to_owned()], Some("ASCII")),
        (vec!["k\n=v".to_owned()], Some("ASCII")),
        (vec!["k=v\0".to_owned()], Some("ASCII")),
        (vec!["k=\"v\"".to_owned()], Some("ASCII")),
        (
            vec!["k=1".to_owned(), "k=1".to_owned()],
            Some("given twice"),
        ),
        (
            vec!["hypeman.scheduled=false".to_owned()],
            Some("set by this tool"),
        ),
        (
            vec!["hypeman.schedule_instance_id=x".to_owned()],
            Some("set by this tool"),
        ),
    ] {
        let input = Input {
            metadata: entries.clone(),
            ..input()
        };
        match refused {
            None => assert!(declaration(input).is_ok(), "{entries:?}"),
            Some(rule) => {
                let error = refusal(input);
                assert!(error.contains(rule), "{error}");
                let last = entries.last().unwrap();
                assert!(
                    error.starts_with(&format!("--metadata {last:?}: ")),
                    "{error}"
                );
            }
        }
    }
}

#[test]
fn metadata_leaves_room_for_the_two_markers() {
    let entries = |n: usize| (0..n).map(|i| format!("k{i}=v")).collect::<Vec<_>>();
    let with = |n| {
        declaration(Input {
            metadata: entries(n),
            ..input()
        })
    };
    let metadata = with(48).unwrap().metadata;
    let id = "vm-1".parse().unwrap();
    assert_eq!(snapshot::scheduled_tags(&metadata, &id).len(), 50);
    let error = with(49).unwrap_err().to_string();
    assert!(
        error.contains("49 entries") && error.contains("50 tags"),
        "{error}"
    );
}

#[test]
fn a_file_must_hold_a_schedule_that_can_be_carried_out() {
    let id: InstanceId = "vm-1".parse().unwrap();
    let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
    let good = Schedule::new(id.clone(), declaration(input()).unwrap(), now);
    assert_eq!(loaded(&good), Ok(()));
    let with = |change: fn(&mut Schedule)| {
        let mut schedule = good.clone();
        change(&mut schedule);
        loaded(&schedule).unwrap_err().to_string()
    };
    assert_eq!(
        with(|s| s.declaration.cadence = Cadence::every(Duration::from_secs(59))),
        "interval \"59s\" must be at least 1m"
    );
    assert!(
        with(|s| s.declaration.cadence = Cadence::every(Duration::ZERO)).contains("at least 1m")
    );
    assert!(with(|s| s.declaration.retention.max_count = 0).contains("limits nothing"));
    assert!(
        with(|s| s.declaration.name_prefix = Some("../x".to_owned()))
            .contains("name_prefix \"../x\" must")
    );
}

proptest! {
    #[test]
    fn no_input_panics(
        interval in any::<String>(),
        max_count in any::<Option<i64>>(),
        max_age in any::<Option<String>>(),
        name_prefix in any::<Option<String>>(),
        metadata in any::<Vec<String>>(),
        pre_hook in any::<Option<String>>(),
    ) {
        let typed = pre_hook.clone();
        let hooks = hooks(|stage| typed.as_deref().filter(|_| stage == Stage::Pre), None);
        // What is taken can be typed again.
        if let Some(text) = hooks.ok().map(|hooks| hooks::command_line(&hooks.pre)).filter(|text| !text.is_empty()) {
            prop_assert!(hooks::parse(&text).is_ok());
        }
        let _ = declaration(Input { interval: Some(interval), max_count, max_age, name_prefix, metadata, pre_hook, ..Input::default() });
    }

    #[test]
    fn valid_prefixes_make_valid_snapshot_names(
        prefix in "[a-z0-9]([a-z0-9-]{0,45}[a-z0-9])?",
        seconds in 0i64..=253_402_300_799,
    ) {
        prop_assert!(is_prefix(&prefix));
        let run_at = DateTime::from_timestamp(seconds, 0).unwrap();
        let name = snapshot::scheduled_name(Some(&prefix), run_at);
        prop_assert!(name.len() <= 63);
        prop_assert!(name.strip_prefix(&prefix).unwrap().starts_with('-'));
        prop_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
        prop_assert!(!name.starts_with('-') && !name.ends_with('-'));
    }

    #[test]
    fn names_of_one_schedule_sort_by_time(a in 0i64..=253_402_300_799, b in 0i64..=253_402_300_799) {
        let name = |seconds| snapshot::scheduled_name(None, DateTime::from_timestamp(seconds, 0).unwrap());
        prop_assert_eq!(name(a).cmp(&name(b)), a.cmp(&b));
    }
}

#[test]
fn a_hook_names_its_flag_its_value_and_the_rule_when_it_is_refused() {
    let refused = |pre: Option<&str>, post: Option<&str>, timeout: Option<&str>| {
        refusal(Input {
            pre_hook: pre.map(str::to_owned),
            post_hook: post.map(str::to_owned),
            hook_timeout: timeout.map(str::to_owned),
            ..input()
        })
    };
    assert_eq!(
        refused(Some(""), None, None),
        "--pre-hook \"\": must name a program; leave the flag out for no hook"
    );
    assert!(
        refused(None, Some("a && b"), None)
            .starts_with("--post-hook \"a && b\": has an unquoted '&', which only a shell")
    );
    assert_eq!(
        refused(Some("a"), None, Some("0s")),
        "--hook-timeout \"0s\": must be above 0"
    );
    assert_eq!(
        refused(None, None, Some("5s")),
        "--hook-timeout \"5s\": limits nothing: give --pre-hook, --post-hook or --failure-hook as well"
    );
    assert!(refused(Some("a"), None, Some("soon")).starts_with("--hook-timeout \"soon\": "));
}

#[test]
fn the_default_hook_timeout_is_the_same_as_none() {
    let hooks = |timeout: Option<&str>| {
        declaration(Input {
            failure_hook: Some("notify".to_owned()),
            hook_timeout: timeout.map(str::to_owned),
            ..input()
        })
        .unwrap()
        .hooks
    };
    assert_eq!(hooks(Some("1m")), hooks(None));
    assert_eq!(hooks(Some("1m")).timeout(), hooks::DEFAULT_TIMEOUT);
    assert_ne!(hooks(Some("2m")), hooks(None));
}

#[test]
fn a_file_may_hold_only_hooks_that_can_be_run() {
    let id: InstanceId = "vm".parse().unwrap();
    let checked = |hooks: Hooks| {
        let mut schedule = Schedule::new(
            id.clone(),
            declaration(input()).unwrap(),
            DateTime::UNIX_EPOCH,
        );
        schedule.declaration.hooks = hooks;
        loaded(&schedule)
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let none = Hooks::default();
    assert_eq!(checked(none.clone()), Ok(()));
    let good = Hooks {
        post: words(&["/bin/a", ""]),
        timeout: Some(Duration::from_secs(300)),
        ..none.clone()
    };
    assert_eq!(checked(good), Ok(()));
    for (bad, part) in [
        (
            Hooks {
                pre: words(&[""]),
                ..none.clone()
            },
            "hooks.pre",
        ),
        (
            Hooks {
                post: words(&["./a"]),
                ..none.clone()
            },
            "hooks.post",
        ),
        (
            Hooks {
                failure: words(&["a", "b\0"]),
                ..none.clone()
            },
            "hooks.failure",
        ),
        (
            Hooks {
                timeout: Some(Duration::ZERO),
                ..none.clone()
            },
            "hooks.timeout",
        ),
    ] {
        assert!(checked(bad).unwrap_err().to_string().starts_with(part));
    }
}
