//! Facts about run times: the contract's vectors, a table of what is due, and properties of the grid.

use proptest::prelude::*;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn id() -> InstanceId {
    "mk3v9t0xq2r7w5d8h1c6b4za".parse().unwrap()
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn times(next_run_at: DateTime<Utc>, interval: Duration) -> Times {
    Times {
        cadence: Cadence::every(interval),
        next_run_at,
        retry_at: None,
        attempt: None,
        failures: 0,
        written: (next_run_at, interval),
    }
}

/// Until when it is not due; `None` when it is.
fn waits_until(times: &Times, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    match times.due(&id(), now) {
        Due::No => Some(times.begins_at(now)),
        Due::Now => None,
        Due::Misplaced { .. } => panic!("{times:?} is misplaced at {now}"),
    }
}

#[test]
fn jitter_is_hypemans() {
    assert_eq!(fnv1a_64(b"mk3v9t0xq2r7w5d8h1c6b4za"), 0xbc46_0071_ce52_db88);
    for (interval, nanos) in [
        (MINUTE, 2_293_038_984),
        (MINUTE * 30, 176_293_038_984),
        (DAY, 116_293_038_984),
    ] {
        assert_eq!(
            Cadence::every(interval).jitter(&id(), interval),
            Duration::from_nanos(nanos),
            "{interval:?}"
        );
    }
}

#[test]
fn a_new_schedule_waits_an_interval_and_its_jitter() {
    assert_eq!(
        Cadence::every(MINUTE * 30).first(&id(), at("2026-08-20T03:11:05Z")),
        at("2026-08-20T03:44:01.293038984Z")
    );
}

#[test]
fn missed_grid_points_are_skipped() {
    let previous = at("2026-09-02T03:15:20.5Z");
    for (now, next) in [
        // On the dot: the point itself is this run, the next one follows.
        ("2026-09-02T03:15:20.5Z", "2026-09-02T04:15:20.5Z"),
        ("2026-09-02T03:15:21Z", "2026-09-02T04:15:20.5Z"),
        ("2026-09-02T04:15:20.499999999Z", "2026-09-02T04:15:20.5Z"),
        ("2026-09-02T04:15:20.5Z", "2026-09-02T05:15:20.5Z"),
        ("2027-09-02T04:00:00Z", "2027-09-02T04:15:20.5Z"),
        // Before it: backwards on the same grid.
        ("2026-09-01T00:00:00Z", "2026-09-01T00:15:20.5Z"),
    ] {
        assert_eq!(
            Cadence::every(HOUR).next(&id(), previous, at(now)),
            at(next),
            "{now}"
        );
    }
}

#[test]
fn retries_wait_twice_as_long_each_time_up_to_the_interval() {
    let minutes: Vec<u64> = (0..9)
        .map(|failures| retry_delay(failures, HOUR).as_secs() / 60)
        .collect();
    assert_eq!(minutes, [1, 1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(retry_delay(u32::MAX, HOUR), HOUR);
    assert_eq!(retry_delay(u32::MAX, Duration::MAX), Duration::MAX);
    assert_eq!(retry_delay(1, Duration::from_secs(1)).as_secs(), 1);
}

#[test]
fn a_run_time_in_the_past_is_due_once() {
    let now = at("2026-09-02T12:00:00Z");
    for next_run_at in [
        "2026-09-02T12:00:00Z",
        "2026-09-02T11:59:59Z",
        "2020-01-01T00:00:00Z",
        "0001-01-01T00:00:00Z",
    ] {
        let mut times = times(at(next_run_at), HOUR);
        assert_eq!(times.due(&id(), now), Due::Now);
        times.next_run_at = times.cadence.next(&id(), times.next_run_at, now);
        let at = waits_until(&times, now).expect(next_run_at);
        assert!(at > now && at <= now + HOUR, "{next_run_at}: {at}");
    }
}

#[test]
fn a_run_time_too_far_ahead_is_brought_back_onto_its_grid() {
    let now = at("2026-09-02T12:00:00Z");
    let far = at("2031-05-05T07:20:11.25Z");
    let Due::Misplaced { next_run_at } = times(far, HOUR).due(&id(), now) else {
        panic!("not misplaced");
    };
    assert_eq!(next_run_at, at("2026-09-02T12:20:11.25Z"));
    assert_eq!(
        waits_until(&times(next_run_at, HOUR), now),
        Some(next_run_at)
    );
}

#[test]
fn a_first_run_is_not_too_far_ahead() {
    let now = at("2026-09-02T12:00:00Z");
    let first = Cadence::every(HOUR).first(&id(), now);
    assert_eq!(waits_until(&times(first, HOUR), now), Some(first));
    let later = first + Duration::from_nanos(1);
    assert!(matches!(
        times(later, HOUR).due(&id(), now),
        Due::Misplaced { .. }
    ));
}

#[test]
fn a_failed_run_is_due_when_its_delay_is_over() {
    let now = at("2026-09-02T12:00:00Z");
    let next = at("2026-09-02T12:30:00Z");
    for (retry_at, expected) in [
        ("2026-09-02T11:59:00Z", None),
        ("2026-09-02T12:00:00Z", None),
        ("2026-09-02T12:04:00Z", Some(at("2026-09-02T12:04:00Z"))),
        ("2026-09-02T12:45:00Z", Some(next)),
        // Further ahead than any delay: the clock went backwards.
        ("2026-09-02T13:00:01Z", None),
        ("2126-09-02T12:00:00Z", None),
        ("0001-01-01T00:00:00Z", None),
    ] {
        let mut times = times(next, HOUR);
        times.retry_at = Some(at(retry_at));
        assert_eq!(waits_until(&times, now), expected, "{retry_at}");
    }
}

#[test]
fn a_run_that_died_is_taken_up_again() {
    let now = at("2026-09-02T12:00:00Z");
    let next = at("2026-09-02T12:30:00Z");
    let interrupted = None;
    for (started_at, tries, expected) in [
        ("2026-09-02T11:59:59Z", 1, interrupted),
        ("2026-09-02T11:59:59Z", 0, interrupted),
        ("2026-09-02T11:59:30Z", 2, Some(at("2026-09-02T12:00:30Z"))),
        ("2026-09-02T11:59:00Z", 2, interrupted),
        ("2026-09-02T11:57:00Z", 4, Some(at("2026-09-02T12:01:00Z"))),
        ("2026-09-02T11:55:00Z", u32::MAX, Some(next)),
        // Begun in the future: the clock went backwards.
        ("2026-09-02T12:00:01Z", 9, interrupted),
        ("2126-09-02T12:00:00Z", 9, interrupted),
    ] {
        let mut times = times(next, HOUR);
        times.attempt = Some((at(started_at), tries));
        assert_eq!(
            waits_until(&times, now),
            expected,
            "{started_at}, try {tries}"
        );
    }
}

#[test]
fn a_minute_of_cron_ticks_never_floods_after_the_clock_jumped() {
    // Ten hours of ticks; in the middle the clock goes a year ahead for an hour, and then back.
    let start = at("2026-09-02T12:00:00Z");
    let mut times = times(Cadence::every(HOUR).first(&id(), start), HOUR);
    let mut runs = 0;
    for tick in 0..600u32 {
        let mut now = start + MINUTE * tick;
        if (240..300).contains(&tick) {
            now += DAY * 365;
        }
        match times.due(&id(), now) {
            Due::Now => {
                runs += 1;
                times.next_run_at = times.cadence.next(&id(), times.next_run_at, now);
            }
            Due::Misplaced { next_run_at } => times.next_run_at = next_run_at,
            Due::No => {}
        }
    }
    // Nine regular ones, of which the jump forth or back may cost or add one.
    assert!((8..=11).contains(&runs), "{runs}");
}

/// Every time that the calendar holds.
fn any_time() -> impl Strategy<Value = DateTime<Utc>> {
    let (min, max) = (
        DateTime::<Utc>::MIN_UTC.timestamp(),
        DateTime::<Utc>::MAX_UTC.timestamp(),
    );
    prop_oneof![
        (min..=max, 0u32..1_000_000_000),
        (-62_135_596_800i64..=253_402_300_799, 0u32..1_000_000_000),
        (1_700_000_000i64..1_900_000_000, 0u32..1_000_000_000),
    ]
    .prop_map(|(seconds, nanos)| DateTime::from_timestamp(seconds, nanos).unwrap())
}

/// Times within years from today.
fn usual_time() -> impl Strategy<Value = DateTime<Utc>> {
    (1_700_000_000i64..1_900_000_000, 0u32..1_000_000_000)
        .prop_map(|(seconds, nanos)| DateTime::from_timestamp(seconds, nanos).unwrap())
}

fn valid_interval() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (60u64..100_000).prop_map(Duration::from_secs),
        (60_000_000_000..=i64::MAX.unsigned_abs()).prop_map(Duration::from_nanos),
    ]
}

fn any_interval() -> impl Strategy<Value = Duration> {
    prop_oneof![
        valid_interval(),
        Just(Duration::ZERO),
        Just(Duration::MAX),
        (any::<u64>(), 0u32..1_000_000_000).prop_map(|(s, n)| Duration::new(s, n)),
    ]
}

fn any_times() -> impl Strategy<Value = Times> {
    (
        any_time(),
        proptest::option::of(any_time()),
        proptest::option::of((any_time(), any::<u32>())),
        any_interval(),
    )
        .prop_map(|(next_run_at, retry_at, attempt, interval)| Times {
            retry_at,
            attempt,
            ..times(next_run_at, interval)
        })
}

/// Times as this tool itself writes them, some hours around `now`.
fn usual_times() -> impl Strategy<Value = (Times, DateTime<Utc>)> {
    let near = || -7_200i64..7_200;
    (
        usual_time(),
        near(),
        proptest::option::of(near()),
        proptest::option::of((near(), 0u32..20)),
        (60u64..20_000).prop_map(Duration::from_secs),
    )
        .prop_map(|(now, next, retry, attempt, interval)| {
            let at = |seconds| now + chrono::TimeDelta::seconds(seconds);
            let times = Times {
                retry_at: retry.map(at),
                attempt: attempt.map(|(seconds, tries)| (at(seconds), tries)),
                ..times(at(next), interval)
            };
            (times, now)
        })
}

proptest! {
    #[test]
    fn jitter_is_below_a_tenth_and_five_minutes(id in "[a-z0-9]{1,40}", interval in valid_interval()) {
        let jitter = Cadence::every(interval).jitter(&id.parse().unwrap(), interval);
        prop_assert!(jitter < interval / 10 && jitter < MAX_JITTER);
    }

    #[test]
    fn the_next_run_is_on_the_grid_and_within_an_interval(
        previous in any_time(), interval in valid_interval(), now in usual_time(),
    ) {
        let next = Cadence::every(interval).next(&id(), previous, now);
        prop_assert!(next > now);
        prop_assert!(next <= later(now, interval));
        prop_assert_eq!((nanos(next) - nanos(previous)).rem_euclid(duration_nanos(interval)), 0);
    }

    #[test]
    fn no_input_panics(previous in any_time(), interval in any_interval(), now in any_time(), failures: u32) {
        let next = Cadence::every(interval).next(&id(), previous, now);
        prop_assert!(next > now || next == DateTime::<Utc>::MAX_UTC);
        prop_assert!(Cadence::every(interval).first(&id(), now) >= now);
        prop_assert!(retry_delay(failures, interval) <= interval);
    }

    #[test]
    fn what_is_not_due_becomes_due_later(times in any_times(), now in any_time()) {
        if let (Due::No, at) = (times.due(&id(), now), times.begins_at(now)) {
            prop_assert!(at > now);
            prop_assert!(matches!(times.due(&id(), at), Due::Now));
        }
    }

    #[test]
    fn what_is_not_due_becomes_due_when_it_says_and_not_before(
        (times, now) in usual_times(), part in 0.0..1.0f64,
    ) {
        if let (Due::No, at) = (times.due(&id(), now), times.begins_at(now)) {
            prop_assert!(at > now && at <= times.cadence.first(&id(), now));
            prop_assert!(matches!(times.due(&id(), at), Due::Now));
            let before = now + (at - now).to_std().unwrap().mul_f64(part);
            if before < at {
                prop_assert_eq!(waits_until(&times, before), Some(at));
            }
        }
    }

    #[test]
    fn a_misplaced_run_is_put_right_once_and_stays_on_the_grid(
        next_run_at in any_time(), interval in valid_interval(), now in usual_time(),
    ) {
        let mut times = times(next_run_at, interval);
        if let Due::Misplaced { next_run_at: right } = times.due(&id(), now) {
            prop_assert!(right > now && right <= later(now, interval) && right < next_run_at);
            prop_assert_eq!((nanos(next_run_at) - nanos(right)).rem_euclid(duration_nanos(interval)), 0);
            times.next_run_at = right;
            prop_assert_eq!(waits_until(&times, now), Some(right));
        }
    }

    #[test]
    fn a_run_by_cadence_is_never_followed_by_another_at_once(
        mut times in any_times(), now in usual_time(),
    ) {
        times.cadence = Cadence::every(times.gap().max(MINUTE));
        times.retry_at = None;
        times.attempt = None;
        if times.due(&id(), now) == Due::Now {
            times.next_run_at = times.cadence.next(&id(), times.next_run_at, now);
            let is_quiet = matches!(times.due(&id(), now), Due::No);
            prop_assert!(is_quiet);
        }
    }
}
