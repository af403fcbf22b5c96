//! The forecast beside what runs do, minute by minute, with the same clock.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::cadence::{Cadence, Calendar, Due, When};
use crate::instance::InstanceId;
use crate::plan::afterwards;
use crate::retention::Protected;
use crate::schedule::hooks::Hooks;
use crate::schedule::{Declaration, Keep, Retention};

const HOUR: Duration = Duration::from_secs(3600);

fn start() -> DateTime<Utc> {
    "2026-03-20T12:00:30Z".parse().unwrap()
}

fn schedule(interval: Duration, retention: Retention) -> Schedule {
    let id: InstanceId = "vm-1".parse().unwrap();
    let declaration = Declaration {
        cadence: Cadence::every(interval),
        retention,
        timezone: Some(chrono_tz::Tz::Europe__Berlin),
        name_prefix: None,
        metadata: BTreeMap::new(),
        max_pause: None,
        expect: None,
        hooks: Hooks::default(),
        storing: crate::snapshot::storing::Storing::default(),
    };
    Schedule::new(id, declaration, start())
}

fn terms() -> Terms {
    Terms {
        is_gone: false,
        is_uncapped: false,
        missing_grace: HOUR,
        protected: Protected::new(),
    }
}

/// When what was taken when was removed.
type Removals = BTreeMap<DateTime<Utc>, DateTime<Utc>>;

/// What runs do that are started at each second at which the schedule is due: when each one ran, and when what was removed.
fn simulated(
    mut schedule: Schedule,
    mut there: Vec<Snapshot>,
    until: DateTime<Utc>,
) -> (Vec<DateTime<Utc>>, Removals) {
    let id = schedule.instance_id.clone();
    let here: Presence<Instance, ()> = Presence::Here(Instance {
        id: id.clone(),
        name: String::new(),
        state: State::Running,
        state_note: None,
    });
    let (mut runs, mut removed) = (Vec::new(), BTreeMap::new());
    loop {
        let now = schedule.record.next_run_at;
        if now > until {
            return (runs, removed);
        }
        assert_eq!(schedule.times().due(&id, now), Due::Now);
        let observed = Observed {
            presence: &here,
            snapshots: Ok(&there),
        };
        let plan = decide(&schedule, observed, now);
        let Action::Take { expected, .. } = &plan.action else {
            panic!("it is there");
        };
        let taken = Snapshot {
            id: SnapshotId::planned(runs.len()),
            ..expected.clone()
        };
        runs.push(now);
        schedule.record = plan.begun.clone();
        schedule.record.succeed(taken.id.as_str(), now, now);
        let after = afterwards(&schedule, &there, Some(&taken), &terms(), now);
        there.push(taken);
        for gone in there.iter().filter(|it| after.removals.contains(&it.id)) {
            removed.insert(gone.created_at, now);
        }
        there.retain(|it| !after.removals.contains(&it.id));
    }
}

fn any_retention() -> impl Strategy<Value = Retention> {
    let count = || prop_oneof![2 => Just(0), 1 => 1u64..5];
    let rules = (
        count(),
        count(),
        count(),
        count(),
        count(),
        0u64..20,
        proptest::option::of(1u32..200),
    );
    rules.prop_map(
        |(last, hourly, daily, weekly, monthly, max_count, hours)| Retention {
            max_count: max_count + u64::from(hours.is_none()),
            max_age: hours.map(|hours| HOUR * hours),
            keep: Keep {
                last,
                hourly,
                daily,
                weekly,
                monthly,
                ..Keep::default()
            },
            min_keep: None,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_forecast_is_what_runs_do(
        retention in any_retention(), minutes in 20u64..3000, has_before: bool,
    ) {
        let schedule = schedule(Duration::from_secs(minutes * 60), retention);
        let (first, _) = simulated(schedule.clone(), Vec::new(), schedule.record.next_run_at);
        prop_assert_eq!(first.len(), 1);
        let before: Vec<Snapshot> = if has_before {
            (0..40).map(|n| listed(&format!("s{n}"), n)).collect()
        } else {
            Vec::new()
        };
        let until = start() + chrono::TimeDelta::days(20);
        let forecast = forecast(&schedule, &before, &terms(), start(), until).unwrap();
        let (runs, removed) = simulated(schedule, before, until);
        prop_assert_eq!(&forecast.runs, &runs);
        let foreseen: BTreeMap<DateTime<Utc>, DateTime<Utc>> = forecast
            .fates
            .iter()
            .filter_map(|fate| Some((fate.created_at, fate.removed_at?)))
            .collect();
        prop_assert_eq!(foreseen, removed);
        for fate in &forecast.fates {
            prop_assert!(fate.removed_at.is_none() || !fate.decision.keeps());
        }
        prop_assert!(forecast.kept_at_end() <= forecast.most_at_once);
    }
}

/// A snapshot that is so many hours old.
fn listed(id: &str, hours: i64) -> Snapshot {
    Snapshot {
        id: id.parse().unwrap(),
        name: id.to_owned(),
        kind: crate::snapshot::Kind::Standby,
        consistency: crate::snapshot::Consistency::Memory,
        tags: crate::snapshot::scheduled_tags(&BTreeMap::new(), &"vm-1".parse().unwrap()),
        source_instance_id: "vm-1".to_owned(),
        source_instance_name: "web".to_owned(),
        source_hypervisor: "qemu".to_owned(),
        created_at: start() - chrono::TimeDelta::hours(hours),
        size_bytes: 1000,
        disk_bytes: Some(100),
        unusable: None,
        verified_at: None,
        rehearsed: None,
    }
}

#[test]
fn room_is_what_the_greatest_took_and_nothing_where_none_is_known() {
    let schedule = schedule(
        HOUR,
        Retention {
            max_count: 3,
            ..Retention::default()
        },
    );
    let until = start() + chrono::TimeDelta::days(1);
    let none = forecast(&schedule, &[], &terms(), start(), until).unwrap();
    assert_eq!(
        (none.most_at_once, none.kept_at_end(), none.bytes_at_most),
        (4, 3, None)
    );
    let mut great = listed("great", 1);
    great.disk_bytes = Some(500);
    let some = forecast(
        &schedule,
        &[great, listed("s", 2)],
        &terms(),
        start(),
        until,
    )
    .unwrap();
    assert_eq!(some.bytes_at_most, Some(2000));
    // Those that are there come first, the new ones have no id.
    assert_eq!(some.fates[0].id.as_ref().unwrap().as_str(), "s");
    assert_eq!(some.fates[2].id, None);
}

#[test]
fn an_overdue_run_comes_with_the_next_minute_and_a_failed_one_by_the_cadence() {
    let mut schedule = schedule(
        HOUR,
        Retention {
            max_count: 3,
            ..Retention::default()
        },
    );
    schedule.record.next_run_at = start() - chrono::TimeDelta::days(3);
    schedule.record.retry_at = Some(start() + chrono::TimeDelta::seconds(90));
    let until = start() + chrono::TimeDelta::hours(2);
    let forecast = forecast(&schedule, &[], &terms(), start(), until).unwrap();
    let minutes: Vec<i64> = forecast
        .runs
        .iter()
        .map(|at| (*at - start()).num_minutes())
        .collect();
    assert_eq!(minutes, [0, 60, 120]);
    assert_eq!(
        forecast.runs[0],
        "2026-03-20T12:01:00Z".parse::<DateTime<Utc>>().unwrap()
    );
}

#[test]
fn more_runs_than_anybody_reads_are_an_error() {
    let schedule = schedule(
        Duration::from_secs(60),
        Retention {
            max_count: 1,
            ..Retention::default()
        },
    );
    let until = start() + chrono::TimeDelta::days(366 * 2);
    assert_eq!(
        forecast(&schedule, &[], &terms(), start(), until),
        Err(TooManyRuns)
    );
}

/// A year with both changes of the clock, in six zones, hourly, daily and by calendars, whose keep rules go by it.
#[test]
fn a_year_with_summer_time_is_what_runs_do() {
    let zones = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "America/St_Johns",
        "Australia/Lord_Howe",
        "Asia/Kolkata",
    ];
    let every = |hours: u32| When::Every(HOUR * hours);
    for zone in zones {
        let zone: chrono_tz::Tz = zone.parse().unwrap();
        let calendar = |text| When::Calendar(Box::new(Calendar::parse(text, zone).unwrap()));
        for when in [
            every(5),
            every(24),
            calendar("30 2 * * *"),
            calendar("15 */6 * * mon-fri"),
        ] {
            let mut schedule = schedule(
                HOUR,
                Retention {
                    keep: Keep {
                        hourly: 6,
                        daily: 4,
                        weekly: 3,
                        monthly: 2,
                        ..Keep::default()
                    },
                    ..Retention::default()
                },
            );
            schedule.declaration.timezone = Some(zone);
            schedule.declaration.cadence.when = when;
            let cadence = &schedule.declaration.cadence;
            schedule.record.next_run_at = cadence.first(&schedule.instance_id, start());
            let until = start() + chrono::TimeDelta::days(365);
            let forecast = forecast(&schedule, &[], &terms(), start(), until).unwrap();
            let (runs, removed) = simulated(schedule, Vec::new(), until);
            assert_eq!(forecast.runs, runs, "{zone}");
            let foreseen: Removals = forecast
                .fates
                .iter()
                .filter_map(|fate| Some((fate.created_at, fate.removed_at?)))
                .collect();
            assert_eq!(foreseen, removed, "{zone}");
            assert!((8..=16).contains(&forecast.most_at_once), "{zone}");
        }
    }
}
