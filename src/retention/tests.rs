//! Facts about retention: a table of verdicts, and the properties that make deleting safe.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use proptest::prelude::*;

use super::*;
use crate::schedule::{Keep, Retention, Schedule};
use crate::snapshot::{Kind, scheduled_tags};

const HOUR: Duration = Duration::from_secs(3600);

fn instance() -> InstanceId {
    "vm-1".parse().unwrap()
}

fn now() -> DateTime<Utc> {
    "2026-09-02T12:00:00Z".parse().unwrap()
}

/// A scheduled snapshot of `vm-1`, so many minutes old.
fn scheduled(id: &str, age_minutes: i64) -> Snapshot {
    Snapshot {
        id: id.parse().unwrap(),
        name: format!("scheduled-{id}"),
        kind: Kind::Standby,
        consistency: crate::snapshot::Consistency::Memory,
        tags: scheduled_tags(&BTreeMap::new(), &instance()),
        source_instance_id: "vm-1".to_owned(),
        source_instance_name: "web-a".to_owned(),
        source_hypervisor: "qemu".to_owned(),
        created_at: now() - TimeDelta::minutes(age_minutes),
        size_bytes: 1,
        disk_bytes: None,
        unusable: None,
        verified_at: None,
        rehearsed: None,
    }
}

fn policy(max_count: u64, max_age: Option<Duration>) -> Policy {
    Policy {
        retention: Retention {
            max_count,
            max_age,
            ..Retention::default()
        },
        floors_hold: true,
        unmade: None,
        zone: Tz::UTC,
        protected: Protected::new(),
    }
}

fn removed(snapshots: &[Snapshot], policy: &Policy) -> Vec<String> {
    removals(&verdicts(&instance(), snapshots, policy, now()))
        .iter()
        .map(|snapshot| snapshot.id.to_string())
        .collect()
}

/// The ids and reasons of a plan, as a list shows them.
fn reasons(snapshots: &[Snapshot], policy: &Policy) -> Vec<String> {
    verdicts(&instance(), snapshots, policy, now())
        .iter()
        .map(|verdict| {
            let reason = verdict.decision.words(|at| at.format("%H:%M").to_string());
            let word = if verdict.decision.keeps() {
                "keep"
            } else {
                "remove"
            };
            format!("{} {word}: {reason}", verdict.snapshot.id)
        })
        .collect()
}

#[test]
fn beyond_the_count_the_oldest_go_first() {
    let snapshots = [
        scheduled("c", 30),
        scheduled("a", 10),
        scheduled("e", 50),
        scheduled("b", 20),
        scheduled("d", 40),
    ];
    assert_eq!(removed(&snapshots, &policy(3, None)), ["e", "d"]);
    assert_eq!(
        reasons(&snapshots, &policy(3, None)),
        [
            "c keep: 3 of 3",
            "a keep: newest",
            "e remove: number 5, 3 stay",
            "b keep: 2 of 3",
            "d remove: number 4, 3 stay",
        ]
    );
}

#[test]
fn older_than_the_limit_goes_and_exactly_as_old_stays() {
    let mut snapshots = [
        scheduled("a", 30),
        scheduled("b", 60),
        scheduled("c", 60),
        scheduled("d", 600),
    ];
    snapshots[2].created_at -= TimeDelta::nanoseconds(1);
    assert_eq!(removed(&snapshots, &policy(0, Some(HOUR))), ["d", "c"]);
    assert_eq!(
        reasons(&snapshots, &policy(0, Some(HOUR))),
        [
            "a keep: newest",
            "b keep: until 12:00",
            "c remove: 1h old, 1h allowed",
            "d remove: 10h old, 1h allowed",
        ]
    );
}

#[test]
fn either_limit_removes() {
    let snapshots = [
        scheduled("a", 10),
        scheduled("b", 20),
        scheduled("c", 30),
        scheduled("d", 600),
    ];
    assert_eq!(
        reasons(&snapshots, &policy(2, Some(HOUR))),
        [
            "a keep: newest",
            "b keep: 2 of 2, until 12:40",
            "c remove: number 3, 2 stay",
            "d remove: number 4, 2 stay",
        ]
    );
    assert_eq!(removed(&snapshots, &policy(9, Some(HOUR))), ["d"]);
}

#[test]
fn every_reason_is_kept_and_the_strongest_comes_first() {
    let snapshots = [scheduled("a", 600), scheduled("b", 700), scheduled("c", 10)];
    let verdicts = verdicts(&instance(), &snapshots, &policy(1, Some(HOUR)), now());
    let all: Vec<&[Reason]> = verdicts.iter().map(|it| it.decision.reasons()).collect();
    let too_old = |minutes: u64| Reason::TooOld {
        age: Duration::from_secs(minutes * 60),
        max_age: HOUR,
    };
    let beyond = |rank| Reason::BeyondCount { rank, max_count: 1 };
    assert_eq!(all[0], [beyond(2), too_old(600)]);
    assert_eq!(all[1], [beyond(3), too_old(700)]);
    let until = now() + TimeDelta::minutes(50);
    let (rank, max_count) = (1, 1);
    let within = Reason::WithinCount { rank, max_count };
    assert_eq!(all[2], [Reason::Newest, within, Reason::Until(until)]);
}

#[test]
fn without_a_limit_everything_stays() {
    let snapshots = [scheduled("a", 10), scheduled("b", 1_000_000)];
    assert_eq!(
        reasons(&snapshots, &policy(0, None)),
        ["a keep: newest", "b keep: no limit"]
    );
}

#[test]
fn the_newest_stays_while_the_instance_exists_and_goes_by_age_after() {
    let snapshots = [scheduled("a", 600), scheduled("b", 700)];
    let mut policy = policy(0, Some(HOUR));
    assert_eq!(removed(&snapshots, &policy), ["b"]);
    policy.floors_hold = false;
    assert_eq!(removed(&snapshots, &policy), ["b", "a"]);
}

fn stopped(id: &str, age_minutes: i64) -> Snapshot {
    Snapshot {
        kind: Kind::Stopped,
        ..scheduled(id, age_minutes)
    }
}

fn unusable(snapshot: Snapshot) -> Snapshot {
    Snapshot {
        unusable: Some("overlay.raw is missing".to_owned()),
        verified_at: None,
        rehearsed: None,
        ..snapshot
    }
}

#[test]
fn disks_alone_never_push_out_the_last_one_with_memory() {
    let snapshots = [
        stopped("a", 10),
        stopped("b", 20),
        stopped("c", 30),
        scheduled("d", 40),
        scheduled("e", 50),
    ];
    assert_eq!(
        reasons(&snapshots, &policy(2, Some(HOUR / 4))),
        [
            "a keep: newest",
            "b remove: 20m old, 15m allowed",
            "c remove: number 3, 2 stay",
            "d keep: newest Standby",
            "e remove: number 5, 2 stay",
        ]
    );
    let gone_for_good = Policy {
        floors_hold: false,
        ..policy(1, None)
    };
    assert_eq!(removed(&snapshots, &gone_for_good), ["e", "d", "c", "b"]);
}

#[test]
fn a_kind_that_is_taken_no_more_has_a_floor_until_another_kind_replaces_it() {
    let disks_alone = Policy {
        unmade: Some(Kind::Standby),
        ..policy(0, Some(HOUR / 4))
    };
    // Nothing has been taken since.
    let before = [
        scheduled("d", 40),
        unusable(scheduled("e", 45)),
        scheduled("f", 50),
    ];
    assert_eq!(
        reasons(&before, &disks_alone),
        [
            "d keep: newest",
            "e remove: a usable one replaces it",
            "f remove: 50m old, 15m allowed",
        ]
    );
    let of_two = Policy {
        retention: Retention {
            min_keep: Some(2),
            ..disks_alone.retention.clone()
        },
        ..disks_alone.clone()
    };
    let mut since = vec![stopped("a", 20)];
    since.extend(before);
    assert_eq!(removed(&since, &disks_alone), ["f", "e", "d"]);
    assert_eq!(removed(&since, &of_two), ["f", "e"]);
    // Had it been unusable, it would replace nothing.
    since[0] = unusable(stopped("a", 20));
    assert_eq!(removed(&since, &disks_alone), ["f", "e"]);
}

#[test]
fn an_unusable_one_takes_no_place_and_goes_when_it_is_replaced() {
    let snapshots = [
        unusable(scheduled("a", 10)),
        stopped("b", 20),
        scheduled("c", 30),
        unusable(scheduled("d", 40)),
        scheduled("e", 50),
        unusable(stopped("f", 60)),
        scheduled("g", 70),
    ];
    assert_eq!(
        reasons(&snapshots, &policy(3, None)),
        [
            "a keep: until a usable one replaces it",
            "b keep: newest",
            "c keep: newest Standby",
            "d remove: a usable one replaces it",
            "e keep: 3 of 3",
            "f remove: a usable one replaces it",
            "g remove: number 4, 3 stay",
        ]
    );
}

#[test]
fn unusable_ones_alone_stay_until_the_instance_is_given_up_and_then_go_by_age() {
    let snapshots = [
        unusable(scheduled("a", 10)),
        unusable(scheduled("b", 600)),
        unusable(stopped("c", 700)),
    ];
    let mut policy = policy(1, Some(HOUR));
    assert_eq!(removed(&snapshots, &policy), [""; 0]);
    policy.floors_hold = false;
    assert_eq!(removed(&snapshots, &policy), ["c", "b"]);
}

#[test]
fn one_from_the_future_replaces_no_unusable_one() {
    let snapshots = [
        scheduled("future", -60 * 24),
        unusable(scheduled("future-too", -60 * 24)),
        unusable(scheduled("a", 10)),
        scheduled("b", 20),
    ];
    assert_eq!(removed(&snapshots, &policy(1, None)), [""; 0]);
}

#[test]
fn floors_hold_until_the_instance_has_been_gone_for_the_grace() {
    let declaration = crate::schedule::Declaration {
        cadence: crate::cadence::Cadence::every(HOUR),
        retention: Retention {
            max_count: 0,
            max_age: Some(HOUR),
            ..Retention::default()
        },
        timezone: None,
        name_prefix: None,
        metadata: BTreeMap::new(),
        max_pause: None,
        expect: None,
        hooks: crate::schedule::hooks::Hooks::default(),
        storing: crate::snapshot::storing::Storing::default(),
    };
    let mut schedule = Schedule::new(instance(), declaration, now());
    let holds = |schedule: &Schedule, exists, minutes| {
        let at = now() + TimeDelta::minutes(minutes);
        let Schedule {
            declaration,
            record,
            ..
        } = schedule;
        Policy::of(declaration, record, exists, HOUR, Protected::new(), at).floors_hold
    };
    assert!(holds(&schedule, true, 0));
    // Seen to be gone for the first time, and not written down yet.
    assert!(holds(&schedule, false, 10_000));
    schedule.record.note_missing(now());
    assert!(holds(&schedule, false, 59));
    assert!(!holds(&schedule, false, 60));
    assert!(holds(&schedule, true, 60));
}

#[test]
fn what_this_schedule_did_not_make_is_never_removed_and_takes_no_place() {
    let mut manual = scheduled("manual", 1);
    manual.tags.clear();
    let mut unmarked = scheduled("unmarked", 1);
    unmarked.tags.remove(crate::snapshot::TAG_SCHEDULED);
    let mut untrue = scheduled("untrue", 1);
    untrue
        .tags
        .insert("hypeman.scheduled".to_owned(), "false".to_owned());
    let mut others_tag = scheduled("others-tag", 1);
    others_tag.tags = scheduled_tags(&BTreeMap::new(), &"vm-2".parse().unwrap());
    let mut others_source = scheduled("others-source", 1);
    others_source.source_instance_id = "vm-2".to_owned();
    let mut others = others_tag.clone();
    others.id = "others".parse().unwrap();
    others.source_instance_id = "vm-2".to_owned();
    let mut snapshots = vec![manual, unmarked, untrue, others_tag, others_source, others];
    for foreign in &mut snapshots {
        foreign.created_at -= TimeDelta::days(1000);
    }
    snapshots.extend([scheduled("a", 10), scheduled("b", 20)]);
    let mut policy = policy(1, Some(HOUR));
    policy.floors_hold = false;
    assert_eq!(removed(&snapshots, &policy), ["b"]);
    for reason in &reasons(&snapshots, &policy)[..6] {
        assert!(
            reason.ends_with(" keep: not made by this schedule"),
            "{reason}"
        );
    }
}

#[test]
fn of_the_same_time_the_greater_id_counts_as_newer() {
    let snapshots = [scheduled("b", 10), scheduled("c", 10), scheduled("a", 10)];
    assert_eq!(removed(&snapshots, &policy(1, None)), ["a", "b"]);
}

#[test]
fn a_date_in_the_future_does_not_push_out_what_was_taken_since() {
    let snapshots = [
        scheduled("future-1", -60 * 24 * 365),
        scheduled("future-2", -60 * 24 * 366),
        scheduled("a", 10),
        scheduled("b", 20),
        scheduled("c", 30),
    ];
    assert_eq!(
        reasons(&snapshots, &policy(2, Some(HOUR))),
        [
            "future-1 keep: dated in the future",
            "future-2 keep: dated in the future",
            "a keep: newest",
            "b keep: 2 of 2, until 12:40",
            "c remove: number 3, 2 stay",
        ]
    );
}

#[test]
fn a_clock_that_is_minutes_ahead_is_taken_for_true() {
    let snapshots = [
        scheduled("ahead", -9),
        scheduled("a", 10),
        scheduled("b", 20),
    ];
    let policy = Policy {
        floors_hold: false,
        ..policy(2, Some(Duration::from_secs(1)))
    };
    assert_eq!(removed(&snapshots, &policy), ["b", "a"]);
}

#[test]
fn the_first_and_the_last_moment_of_the_calendar_do_no_harm() {
    let mut first = scheduled("first", 0);
    first.created_at = DateTime::<Utc>::MIN_UTC;
    let mut last = scheduled("last", 0);
    last.created_at = DateTime::<Utc>::MAX_UTC;
    let snapshots = [first, last, scheduled("a", 10)];
    assert_eq!(
        removed(&snapshots, &policy(0, Some(Duration::MAX))),
        [""; 0]
    );
    assert_eq!(removed(&snapshots, &policy(0, Some(HOUR))), ["first"]);
}

/// Hourly snapshots of the last so many hours, as their reasons.
fn of_hours(count: i64, keep: Keep, zone: Tz) -> Vec<String> {
    let snapshots: Vec<Snapshot> = (0..count)
        .map(|hour| scheduled(&format!("h{hour:03}"), hour * 60))
        .collect();
    let policy = Policy {
        retention: Retention {
            keep,
            ..Retention::default()
        },
        zone,
        ..policy(0, None)
    };
    reasons(&snapshots, &policy)
        .into_iter()
        .filter(|line| line.contains(" keep: "))
        .collect()
}

#[test]
fn keep_rules_want_the_newest_of_each_period_and_the_oldest_while_counts_are_left() {
    let keep = Keep {
        last: 1,
        daily: 2,
        ..Keep::default()
    };
    // It is noon: the days end at 23:00, which is 13 and 37 hours ago.
    assert_eq!(
        of_hours(100, keep.clone(), Tz::UTC),
        ["h000 keep: newest", "h013 keep: daily"]
    );
    // In Tokyo it is 21:00.
    assert_eq!(
        of_hours(100, keep, Tz::Asia__Tokyo),
        ["h000 keep: newest", "h022 keep: daily"]
    );
    let young = Keep {
        daily: 7,
        weekly: 4,
        ..Keep::default()
    };
    assert_eq!(
        of_hours(30, young, Tz::UTC),
        [
            "h000 keep: newest",
            "h013 keep: daily",
            "h029 keep: oldest daily, oldest weekly",
        ]
    );
}

#[test]
fn an_age_is_counted_back_from_the_newest_one() {
    let keep = Keep {
        within: Some(2 * HOUR),
        ..Keep::default()
    };
    let policy = Policy {
        retention: Retention {
            keep,
            ..Retention::default()
        },
        ..policy(0, None)
    };
    // Nothing was taken for a day.
    let snapshots: Vec<Snapshot> = (0..4)
        .map(|hour| scheduled(&format!("h{hour}"), 24 * 60 + hour * 60))
        .collect();
    assert_eq!(
        reasons(&snapshots, &policy),
        [
            "h0 keep: newest",
            "h1 keep: within 2h",
            "h2 remove: no keep rule wants it",
            "h3 remove: no keep rule wants it",
        ]
    );
}

#[test]
fn limits_count_what_the_keep_rules_want_and_floors_stand_above_both() {
    let mut stopped = scheduled("stopped", 10_000);
    stopped.kind = Kind::Stopped;
    let mut snapshots: Vec<Snapshot> = (0..6)
        .map(|day| scheduled(&format!("d{day}"), day * 24 * 60))
        .collect();
    snapshots.insert(1, scheduled("same-day", 60));
    snapshots.push(stopped);
    let policy = Policy {
        retention: Retention {
            max_count: 3,
            max_age: None,
            keep: Keep {
                daily: 5,
                ..Keep::default()
            },
            min_keep: Some(2),
        },
        ..policy(0, None)
    };
    assert_eq!(
        reasons(&snapshots, &policy),
        [
            "d0 keep: 1 of the newest 2 Standby",
            "same-day keep: 2 of the newest 2 Standby",
            "d1 keep: daily, 2 of 3",
            "d2 keep: daily, 3 of 3",
            "d3 remove: number 4, 3 stay",
            "d4 remove: number 5, 3 stay",
            "d5 remove: no keep rule wants it",
            "stopped keep: 1 of the newest 2 Stopped",
        ]
    );
}

#[test]
fn an_unusable_one_fills_no_period_and_goes_once_enough_good_ones_are_there() {
    let mut cut = scheduled("cut", 0);
    cut.unusable = Some("cut".to_owned());
    let mut old_cut = scheduled("old-cut", 5 * 24 * 60);
    old_cut.unusable = Some("cut".to_owned());
    let snapshots = [cut, scheduled("a", 60), scheduled("b", 120), old_cut];
    let policy = Policy {
        retention: Retention {
            keep: Keep {
                daily: 1,
                ..Keep::default()
            },
            min_keep: Some(2),
            ..Retention::default()
        },
        ..policy(0, None)
    };
    assert_eq!(
        reasons(&snapshots, &policy),
        [
            "cut keep: until a usable one replaces it",
            "a keep: 1 of the newest 2 Standby",
            "b keep: 2 of the newest 2 Standby",
            "old-cut remove: a usable one replaces it",
        ]
    );
}

/// Snapshots of which most are ours, many have equal times, and some lie in the future.
fn any_snapshots() -> impl Strategy<Value = Vec<Snapshot>> {
    let one = (
        -100i64..1_000,
        prop_oneof![4 => Just("vm-1"), 1 => Just("vm-2")],
        prop_oneof![4 => Just("vm-1"), 1 => Just("vm-2"), 1 => Just("")],
        prop_oneof![4 => Just("true"), 1 => Just("false"), 1 => Just("")],
        prop_oneof![2 => Just(Kind::Standby), 1 => Just(Kind::Stopped)],
        prop_oneof![3 => Just(None), 1 => Just(Some("cut".to_owned()))],
    );
    // Over two days, or over half a year.
    let spread = prop_oneof![Just(3), Just(300)];
    (spread, proptest::collection::vec(one, 0..40)).prop_map(|(spread, all)| {
        all.into_iter()
            .enumerate()
            .map(|(n, (age, source, marker, flag, kind, unusable))| {
                let mut snapshot = scheduled(&format!("s{n}"), age * spread);
                snapshot.kind = kind;
                snapshot.unusable = unusable;
                snapshot.source_instance_id = source.to_owned();
                let tags = [
                    ("hypeman.schedule_instance_id", marker),
                    ("hypeman.scheduled", flag),
                ];
                snapshot.tags = tags
                    .into_iter()
                    .filter(|(_, value)| !value.is_empty())
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .collect();
                snapshot
            })
            .collect()
    })
}

fn any_keep() -> impl Strategy<Value = Keep> {
    let count = || prop_oneof![2 => Just(0), 1 => 1u64..6];
    let within = proptest::option::of((1u64..200_000).prop_map(Duration::from_secs));
    let rules = (count(), count(), count(), count(), count(), count(), within);
    let rules = rules.prop_map(
        |(last, hourly, daily, weekly, monthly, yearly, within)| Keep {
            last,
            hourly,
            daily,
            weekly,
            monthly,
            yearly,
            within,
        },
    );
    prop_oneof![1 => Just(Keep::default()), 2 => rules]
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let zone = prop_oneof![
        Just(Tz::UTC),
        Just(Tz::Europe__Berlin),
        Just(Tz::Australia__Lord_Howe),
    ];
    let max_age = proptest::option::of((0u64..200_000).prop_map(Duration::from_secs));
    let min_keep = proptest::option::of(2u64..5);
    (0u64..20, max_age, any_keep(), min_keep, any::<bool>(), zone).prop_map(
        |(max_count, max_age, keep, min_keep, floors_hold, zone)| Policy {
            retention: Retention {
                max_count,
                max_age,
                keep,
                min_keep,
            },
            floors_hold,
            unmade: None,
            zone,
            protected: Protected::new(),
        },
    )
}

fn is_plausible(snapshot: &Snapshot) -> bool {
    snapshot.created_at <= now() + TimeDelta::minutes(10)
}

fn is_newer(a: &Snapshot, b: &Snapshot) -> bool {
    (a.created_at, &a.id) > (b.created_at, &b.id)
}

proptest! {
    #[test]
    fn verdicts_partition_the_input(snapshots in any_snapshots(), policy in any_policy()) {
        let verdicts = verdicts(&instance(), &snapshots, &policy, now());
        let judged: Vec<&Snapshot> = verdicts.iter().map(|verdict| verdict.snapshot).collect();
        prop_assert_eq!(judged, snapshots.iter().collect::<Vec<_>>());
        let kept = verdicts.iter().filter(|v| v.decision.keeps()).count();
        prop_assert_eq!(kept + removals(&verdicts).len(), snapshots.len());
    }

    #[test]
    fn judging_the_survivors_removes_nothing_more(snapshots in any_snapshots(), policy in any_policy()) {
        let gone: BTreeSet<String> = removed(&snapshots, &policy).into_iter().collect();
        let survivors: Vec<Snapshot> = snapshots
            .into_iter()
            .filter(|snapshot| !gone.contains(snapshot.id.as_str()))
            .collect();
        prop_assert_eq!(removed(&survivors, &policy), Vec::<String>::new());
    }

    #[test]
    fn only_our_own_are_removed_oldest_first(snapshots in any_snapshots(), policy in any_policy()) {
        let verdicts = verdicts(&instance(), &snapshots, &policy, now());
        let removals = removals(&verdicts);
        prop_assert!(removals.iter().all(|snapshot| snapshot.is_scheduled_for(&instance())));
        prop_assert!(removals.is_sorted_by_key(|snapshot| snapshot.created_at));
    }

    #[test]
    fn every_removal_breaks_a_limit_and_every_kept_one_none(
        snapshots in any_snapshots(), mut policy in any_policy(),
    ) {
        policy.retention.keep = Keep::default();
        policy.retention.min_keep = None;
        for verdict in verdicts(&instance(), &snapshots, &policy, now()) {
            let created_at = verdict.snapshot.created_at;
            let newer = snapshots
                .iter()
                .filter(|other| other.is_scheduled_for(&instance()))
                .filter(|other| other.is_usable() && is_plausible(other))
                .filter(|other| is_newer(other, verdict.snapshot))
                .count() as u64;
            let is_beyond = policy.retention.max_count > 0 && newer >= policy.retention.max_count;
            let is_old = policy.retention.max_age.is_some_and(|max_age| created_at + max_age < now());
            let keeps = verdict.decision.keeps();
            for reason in verdict.decision.deciding() {
                prop_assert_eq!(reason.keeps(), keeps);
                match reason {
                    Reason::Replaced => prop_assert!(!verdict.snapshot.is_usable() && newer > 0),
                    Reason::TooOld { .. } => prop_assert!(is_old),
                    Reason::BeyondCount { .. } => prop_assert!(is_beyond),
                    Reason::WithinCount { rank, .. } => {
                        prop_assert_eq!(*rank, newer + 1);
                        prop_assert!(!is_beyond && !is_old);
                    }
                    Reason::Until(_) | Reason::NoLimit => prop_assert!(!is_beyond && !is_old),
                    Reason::Newest => prop_assert_eq!(newer, 0),
                    Reason::NewestOfKind(kind) => {
                        prop_assert!(newer > 0 && verdict.snapshot.kind == *kind);
                    }
                    Reason::Protected(_)
                    | Reason::AmongNewest { .. }
                    | Reason::Kept { .. }
                    | Reason::Within(_)
                    | Reason::Unwanted => prop_assert!(false, "there is no such rule"),
                    Reason::Unreplaced => prop_assert!(!verdict.snapshot.is_usable()),
                    Reason::FromTheFuture => {
                        prop_assert!(created_at > now() + TimeDelta::minutes(10));
                    }
                    Reason::NotOurs => {
                        prop_assert!(!verdict.snapshot.is_scheduled_for(&instance()));
                    }
                }
            }
        }
    }

    #[test]
    fn while_floors_hold_the_last_usable_ones_of_a_kind_never_go(
        snapshots in any_snapshots(), mut policy in any_policy(),
    ) {
        policy.floors_hold = true;
        let gone = removed(&snapshots, &policy);
        for kind in [Kind::Standby, Kind::Stopped] {
            let mut usable: Vec<&Snapshot> = snapshots
                .iter()
                .filter(|s| s.is_scheduled_for(&instance()) && s.kind == kind)
                .filter(|s| s.is_usable() && is_plausible(s))
                .collect();
            usable.sort_by_key(|s| std::cmp::Reverse((s.created_at, s.id.clone())));
            let min_keep = usize::try_from(policy.retention.min_keep()).unwrap();
            for newest in usable.into_iter().take(min_keep) {
                prop_assert!(!gone.contains(&newest.id.to_string()));
            }
        }
    }

    #[test]
    fn an_unusable_one_goes_only_when_a_newer_usable_one_of_its_kind_stays(
        snapshots in any_snapshots(), mut policy in any_policy(),
    ) {
        policy.floors_hold = true;
        let verdicts = verdicts(&instance(), &snapshots, &policy, now());
        for verdict in verdicts.iter().filter(|it| !it.snapshot.is_usable()) {
            if !verdict.decision.keeps() {
                let deciding: Vec<&Reason> = verdict.decision.deciding().collect();
                prop_assert_eq!(deciding, [&Reason::Replaced]);
                let stays = verdicts.iter().any(|other| {
                    other.decision.keeps()
                        && other.snapshot.is_usable()
                        && other.snapshot.is_scheduled_for(&instance())
                        && other.snapshot.kind == verdict.snapshot.kind
                        && is_newer(other.snapshot, verdict.snapshot)
                });
                prop_assert!(stays);
            }
        }
    }

    #[test]
    fn unusable_ones_change_nothing_for_the_others(snapshots in any_snapshots(), policy in any_policy()) {
        let usable: Vec<Snapshot> = snapshots.iter().filter(|s| s.is_usable()).cloned().collect();
        let with: Vec<Decision> = verdicts(&instance(), &snapshots, &policy, now())
            .into_iter()
            .filter(|verdict| verdict.snapshot.is_usable())
            .map(|verdict| verdict.decision)
            .collect();
        let without: Vec<Decision> = verdicts(&instance(), &usable, &policy, now())
            .into_iter()
            .map(|verdict| verdict.decision)
            .collect();
        prop_assert_eq!(with, without);
    }

    #[test]
    fn a_keep_rule_more_never_removes_more(
        snapshots in any_snapshots(), mut policy in any_policy(), more in any_keep(),
    ) {
        // What a rule more wants takes a place by count; and without any rule, everything is wanted.
        policy.retention.max_count = 0;
        if policy.retention.keep.is_empty() {
            policy.retention.keep.last = 1;
        }
        let before: BTreeSet<String> = removed(&snapshots, &policy).into_iter().collect();
        let keep = &mut policy.retention.keep;
        keep.last = keep.last.max(more.last);
        keep.hourly = keep.hourly.max(more.hourly);
        keep.daily = keep.daily.max(more.daily);
        keep.weekly = keep.weekly.max(more.weekly);
        keep.monthly = keep.monthly.max(more.monthly);
        keep.yearly = keep.yearly.max(more.yearly);
        keep.within = keep.within.max(more.within);
        let after: BTreeSet<String> = removed(&snapshots, &policy).into_iter().collect();
        prop_assert!(after.is_subset(&before), "{after:?} {before:?}");
    }

    #[test]
    fn a_protected_one_never_goes_and_takes_its_place_like_any_other(
        snapshots in any_snapshots(), mut policy in any_policy(), which in any::<prop::sample::Index>(),
    ) {
        if snapshots.is_empty() {
            return Ok(());
        }
        let pinned = &snapshots[which.index(snapshots.len())].id;
        let mut before = removed(&snapshots, &policy);
        policy.protected = Protected::from([(pinned.clone(), None)]);
        before.retain(|id| id != pinned.as_str());
        prop_assert_eq!(removed(&snapshots, &policy), before.clone());
        // One that has ended protects nothing.
        policy.protected = Protected::from([(pinned.clone(), Some(now()))]);
        let ended = removed(&snapshots, &policy);
        policy.protected.clear();
        prop_assert_eq!(ended, removed(&snapshots, &policy));
    }

    #[test]
    fn the_order_of_the_input_does_not_matter(snapshots in any_snapshots(), policy in any_policy()) {
        let reversed: Vec<Snapshot> = snapshots.iter().rev().cloned().collect();
        prop_assert_eq!(removed(&snapshots, &policy), removed(&reversed, &policy));
    }

    #[test]
    fn time_alone_never_brings_a_removed_one_back(
        snapshots in any_snapshots(), mut policy in any_policy(), minutes in 0i64..1_000,
    ) {
        // One that is not from the future any more can take the place of another that a keep rule wanted, and then an older
        // one is within the count.
        if !policy.retention.keep.is_empty() {
            policy.retention.max_count = 0;
        }
        let later = now() + TimeDelta::minutes(minutes);
        let ids = |at| -> BTreeSet<String> {
            removals(&verdicts(&instance(), &snapshots, &policy, at))
                .iter()
                .map(|snapshot| snapshot.id.to_string())
                .collect()
        };
        prop_assert!(ids(now()).is_subset(&ids(later)));
    }
}
