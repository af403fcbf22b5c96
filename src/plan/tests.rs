//! Facts about plans: a table of what is done, and the properties that make a run safe.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use proptest::prelude::*;

use super::*;
use crate::cadence::Cadence;
use crate::schedule::hooks::Hooks;
use crate::schedule::{Declaration, Retention};

const HOUR: Duration = Duration::from_secs(3600);

fn now() -> DateTime<Utc> {
    "2026-09-02T12:00:00Z".parse().unwrap()
}

fn id() -> InstanceId {
    "vm-1".parse().unwrap()
}

/// An hourly schedule that is due.
fn schedule(max_count: u64, max_age: Option<Duration>) -> Schedule {
    let declaration = Declaration {
        cadence: Cadence::every(HOUR),
        retention: Retention {
            max_count,
            max_age,
            ..Retention::default()
        },
        timezone: None,
        name_prefix: None,
        metadata: BTreeMap::from([("team".to_owned(), "infra".to_owned())]),
        max_pause: None,
        expect: None,
        hooks: Hooks::default(),
        storing: crate::snapshot::storing::Storing::default(),
    };
    let mut schedule = Schedule::new(id(), declaration, now() - TimeDelta::hours(9));
    schedule.record.next_run_at = now() - TimeDelta::minutes(1);
    schedule
}

/// One whose last run died so many minutes ago.
fn died(minutes: i64) -> Schedule {
    let mut schedule = schedule(3, None);
    schedule.begin(now() - TimeDelta::minutes(minutes), |_| false);
    schedule
}

fn instance(state: State) -> Instance {
    Instance {
        id: id(),
        name: "web-a".to_owned(),
        state,
        state_note: None,
    }
}

fn snapshot(name: &str, age_minutes: i64) -> Snapshot {
    Snapshot {
        id: name.parse().unwrap(),
        created_at: now() - TimeDelta::minutes(age_minutes),
        ..expected(
            &schedule(3, None),
            &instance(State::Running),
            Kind::Standby,
            &Attempt {
                run_at: now(),
                snapshot_name: name.to_owned(),
                tries: 1,
                started_at: now(),
            },
        )
    }
}

type Here = Presence<Instance, &'static str>;

fn plan<'a>(
    schedule: &Schedule,
    presence: &'a Here,
    snapshots: Result<&'a [Snapshot], &'a &'static str>,
) -> Plan<'a, &'static str> {
    let observed = Observed {
        presence,
        snapshots,
    };
    decide(schedule, observed, now())
}

fn terms(is_gone: bool) -> Terms {
    Terms {
        is_gone,
        is_uncapped: false,
        missing_grace: HOUR,
        protected: Protected::new(),
    }
}

#[test]
fn the_state_decides_the_kind() {
    for (state, kind) in [
        (State::Running, Some(Kind::Standby)),
        (State::Standby, Some(Kind::Standby)),
        (State::Stopped, Some(Kind::Stopped)),
        (State::Created, None),
        (State::Initializing, None),
        (State::Paused, None),
        (State::Shutdown, None),
        (State::Unknown, None),
    ] {
        let here = Presence::Here(instance(state));
        let plan = plan(&schedule(3, None), &here, Ok(&[]));
        assert_eq!(plan.snapshot().map(|it| it.kind), kind, "{state}");
        if kind.is_none() {
            let refused = Action::Refuse(Refusal::State(&instance(state))) == plan.action;
            assert!(refused, "{state}");
        }
    }
}

#[test]
fn the_run_time_is_advanced_and_the_snapshot_named_after_the_run() {
    let schedule = schedule(3, None);
    let here = Presence::Here(instance(State::Running));
    let taken = [snapshot("scheduled-20260902-120000", 60)];
    let plan = plan(&schedule, &here, Ok(&taken));
    assert_eq!(plan.begun.next_run_at, schedule.record.next_run_at + HOUR);
    assert_eq!(plan.begun.attempt.as_ref(), Some(&plan.attempt));
    let expected = plan.snapshot().unwrap();
    assert_eq!(expected.name, "scheduled-20260902-120001", "12:00 is taken");
    assert_eq!(expected.tags.get("team").unwrap(), "infra");
    assert!(expected.is_scheduled_for(&id()));
}

#[test]
fn one_that_is_gone_gets_none_and_one_that_may_be_there_is_an_error() {
    let gone = plan(&schedule(3, None), &Presence::Gone, Ok(&[]));
    assert_eq!(gone.action, Action::OnlyRetain);
    let unknown = Presence::Unknown("nobody home");
    let unknown = plan(&schedule(3, None), &unknown, Ok(&[]));
    assert_eq!(
        unknown.action,
        Action::Refuse(Refusal::Unknown(&"nobody home"))
    );
}

#[test]
fn a_snapshot_that_a_dead_run_finished_is_adopted_and_any_other_taken_anew() {
    let died = died(5);
    let name = died.record.attempt.as_ref().unwrap().snapshot_name.clone();
    let here = Presence::Here(instance(State::Running));
    let finished = [snapshot("other", 60), snapshot(&name, 4)];
    for presence in [&here, &Presence::Gone, &Presence::Unknown("nobody home")] {
        let plan = plan(&died, presence, Ok(&finished));
        assert_eq!(plan.action, Action::Adopt(&finished[1]));
        assert!(plan.takes_up && plan.attempt.tries == 2);
    }
    let mut cut = finished.clone();
    cut[1].unusable = Some("overlay.raw is cut".to_owned());
    let again = plan(&died, &here, Ok(&cut));
    assert_eq!(again.snapshot().unwrap().name, name);
    assert!(matches!(again.action, Action::Take { .. }));
    // Where nobody can say whether it is there, a second one must not be taken.
    let blind = plan(&died, &here, Err(&"no store"));
    assert_eq!(blind.action, Action::Refuse(Refusal::Unknown(&"no store")));
}

#[test]
fn one_that_did_not_die_is_taken_though_the_store_can_not_be_listed() {
    let here = Presence::Here(instance(State::Running));
    let plan = plan(&schedule(3, None), &here, Err(&"no store"));
    assert!(matches!(plan.action, Action::Take { .. }));
}

#[test]
fn retention_counts_the_expected_snapshot() {
    let here = Presence::Here(instance(State::Running));
    let snapshots = [snapshot("a", 60), snapshot("b", 120), snapshot("c", 180)];
    let schedule = schedule(3, None);
    let plan = plan(&schedule, &here, Ok(&snapshots));
    let foreseen = plan.foreseen(&schedule, now());
    let after = |taken| afterwards(&foreseen, &snapshots, taken, &terms(false), now());
    assert_eq!(after(plan.snapshot()).removals, ["c".parse().unwrap()]);
    assert_eq!(after(None).removals, []);
}

#[test]
fn a_schedule_retires_when_its_grace_is_over_and_nothing_is_left_to_go_by_age() {
    let snapshots = [snapshot("a", 30), snapshot("b", 90)];
    for (max_age, gone_for, removals, retires) in [
        (None, 59, 0, false),
        (None, 60, 0, true),
        (Some(HOUR), 59, 1, false),
        (Some(HOUR), 60, 1, false),
        (Some(HOUR / 4), 60, 2, true),
    ] {
        let mut schedule = schedule(9, max_age);
        let since = now() - TimeDelta::minutes(gone_for);
        schedule.record.note_missing(since);
        let after = afterwards(&schedule, &snapshots, None, &terms(true), now());
        assert_eq!(
            (after.removals.len(), after.retires),
            (removals, retires),
            "{max_age:?}, gone for {gone_for} minutes"
        );
        let there = afterwards(&schedule, &snapshots, None, &terms(false), now());
        assert!(!there.retires);
    }
}

fn any_presence() -> impl Strategy<Value = Here> {
    prop_oneof![
        Just(Presence::Gone),
        Just(Presence::Unknown("nobody home")),
        Just(Presence::Here(instance(State::Running))),
        Just(Presence::Here(instance(State::Stopped))),
        Just(Presence::Here(instance(State::Paused))),
    ]
}

fn any_snapshots() -> impl Strategy<Value = Vec<Snapshot>> {
    let one = (-20i64..600, any::<bool>(), any::<bool>(), any::<bool>());
    proptest::collection::vec(one, 0..12).prop_map(|all| {
        let all = all.into_iter().enumerate();
        all.map(|(n, (age, is_ours, is_usable, has_memory))| {
            let mut snapshot = snapshot(&format!("s{n}"), age);
            if !is_ours {
                snapshot.tags.clear();
            }
            if !is_usable {
                snapshot.unusable = Some("cut".to_owned());
            }
            if !has_memory {
                snapshot.kind = Kind::Stopped;
            }
            snapshot
        })
        .collect()
    })
}

#[test]
fn a_run_removes_at_most_half_unless_it_is_told_otherwise_and_the_next_ones_the_rest() {
    let schedule = schedule(2, None);
    let mut snapshots: Vec<Snapshot> = (0..30)
        .map(|n| snapshot(&format!("s{n:02}"), n * 60))
        .collect();
    let mut removed = Vec::new();
    loop {
        let after = afterwards(&schedule, &snapshots, None, &terms(false), now());
        assert_eq!(after.judged.len(), snapshots.len());
        let goes = after.judged.iter().filter(|(_, it)| !it.keeps()).count();
        assert_eq!(after.removals.len() + after.held_back.len(), goes);
        // The oldest ones first.
        assert!(
            after
                .removals
                .iter()
                .chain(&after.held_back)
                .is_sorted_by(|a, b| a > b)
        );
        if goes == 0 {
            break;
        }
        removed.push(after.removals.len());
        snapshots.retain(|snapshot| !after.removals.contains(&snapshot.id));
    }
    assert_eq!(removed, [15, 7, 5, 1]);
    let snapshots: Vec<Snapshot> = (0..30)
        .map(|n| snapshot(&format!("s{n:02}"), n * 60))
        .collect();
    let uncapped = Terms {
        is_uncapped: true,
        ..terms(false)
    };
    let after = afterwards(&schedule, &snapshots, None, &uncapped, now());
    assert_eq!((after.removals.len(), after.held_back.len()), (28, 0));
}

proptest! {
    #[test]
    fn a_run_time_is_never_served_twice_and_the_next_one_is_ahead(
        presence in any_presence(), snapshots in any_snapshots(), late in 0i64..100_000,
    ) {
        let mut schedule = schedule(3, None);
        schedule.record.next_run_at = now() - TimeDelta::seconds(late);
        let plan = plan(&schedule, &presence, Ok(&snapshots));
        prop_assert!(plan.begun.next_run_at > now());
        prop_assert!(plan.begun.next_run_at <= now() + HOUR);
        prop_assert_eq!(plan.begun.total_runs, schedule.record.total_runs + 1);
    }

    #[test]
    fn a_snapshot_is_only_taken_of_one_that_is_there_and_under_a_name_of_its_own(
        presence in any_presence(), snapshots in any_snapshots(), minutes in proptest::option::of(1i64..90),
    ) {
        let schedule = minutes.map_or_else(|| schedule(3, None), died);
        let plan = plan(&schedule, &presence, Ok(&snapshots));
        if let Action::Take { instance, expected } = &plan.action {
            prop_assert_eq!(&Presence::Here((*instance).clone()), &presence);
            prop_assert_eq!(Kind::for_state(instance.state), Some(expected.kind));
            prop_assert!(snapshots.iter().all(|it| it.name != expected.name));
        }
    }

    #[test]
    fn what_goes_afterwards_is_ours_and_a_usable_one_of_each_kind_stays(
        snapshots in any_snapshots(), max_count in 1u64..4, max_age in proptest::option::of(1u64..20_000),
    ) {
        let schedule = schedule(max_count, max_age.map(Duration::from_secs));
        let after = afterwards(&schedule, &snapshots, None, &terms(false), now());
        let goes = |it: &Snapshot| after.removals.contains(&it.id);
        prop_assert!(snapshots.iter().filter(|it| goes(it)).all(|it| it.is_scheduled_for(&id())));
        for kind in [Kind::Standby, Kind::Stopped] {
            let ours = |it: &&Snapshot| it.is_scheduled_for(&id()) && it.kind == kind && it.is_usable();
            let had = snapshots.iter().any(|it| ours(&it));
            prop_assert_eq!(had, snapshots.iter().filter(ours).any(|it| !goes(it)));
        }
        prop_assert!(!after.retires);
    }

    #[test]
    fn doing_it_again_afterwards_removes_nothing_more(
        snapshots in any_snapshots(), max_count in 1u64..4, is_gone: bool,
    ) {
        let schedule = schedule(max_count, Some(HOUR * 3));
        let terms = Terms { is_uncapped: true, ..terms(is_gone) };
        let after = |snapshots: &[Snapshot]| afterwards(&schedule, snapshots, None, &terms, now());
        let gone = after(&snapshots).removals;
        let left: Vec<Snapshot> = snapshots.into_iter().filter(|it| !gone.contains(&it.id)).collect();
        prop_assert_eq!(after(&left).removals, Vec::<SnapshotId>::new());
    }
}

#[test]
fn the_three_newest_with_memory_are_compressed_if_that_is_asked_for() {
    let mut schedule = schedule(9, None);
    let disks = Snapshot {
        kind: Kind::Stopped,
        ..snapshot("disks", 1)
    };
    let lost = Snapshot {
        unusable: Some("its memory is missing".to_owned()),
        ..snapshot("lost", 2)
    };
    let by_hand = Snapshot {
        tags: BTreeMap::new(),
        ..snapshot("by-hand", 3)
    };
    let all = [
        snapshot("c", 30),
        snapshot("a", 10),
        disks,
        lost,
        by_hand,
        snapshot("d", 40),
        snapshot("b", 20),
    ];
    assert!(to_compress(&schedule, &all).is_empty());
    schedule.declaration.storing.compress = Some(crate::snapshot::storing::Method::Lz4(0));
    let ids = to_compress(&schedule, &all);
    let ids: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
    assert_eq!(ids, ["a", "b", "c"]);
}
