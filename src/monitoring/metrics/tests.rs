//! What the text says, and when its second part is kept.

use proptest::prelude::*;

use super::*;
use crate::cadence::Cadence;
use crate::schedule::hooks::Hooks;
use crate::schedule::{Declaration, Retention};

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn run_at(seconds: i64) -> Run {
    Run {
        ended_at: at(seconds),
        duration: Duration::from_millis(1500),
        is_success: true,
    }
}

fn instance(id: &str, name: &str) -> Instance {
    let declaration = Declaration {
        cadence: Cadence::every(Duration::from_secs(3600)),
        retention: Retention {
            max_count: 3,
            max_age: None,
            ..Retention::default()
        },
        timezone: None,
        name_prefix: None,
        metadata: BTreeMap::new(),
        max_pause: None,
        expect: None,
        hooks: Hooks::default(),
        storing: crate::snapshot::storing::Storing::default(),
    };
    Instance {
        schedule: Schedule::new(id.parse().unwrap(), declaration, at(0)),
        name: name.to_owned(),
        snapshots: Some(Snapshots::default()),
    }
}

fn stock(instances: Vec<Instance>) -> Stock {
    Stock {
        instances,
        unreadable: 0,
        is_engine_up: true,
    }
}

fn stamp() -> Stamp {
    Stamp {
        read_at: at(0),
        schedules_changed_at: Some(at(-5)),
    }
}

#[test]
fn values_are_in_base_units_and_absent_where_there_are_none() {
    let mut web = instance("vm-1", "web");
    let text = render(&run_at(0), &stamp(), &stock(vec![instance("vm-1", "web")]));
    for absent in ["last_success", "last_pause", "last_duration", "newest_snap"] {
        assert!(!text.contains(&format!("{PREFIX}{absent}")), "{text}");
    }
    web.schedule.begin(at(3700), |_| false);
    web.schedule.record.succeed("s1", at(3700), at(3701));
    web.schedule.record.last_pause_ms = Some(12.5);
    web.schedule.record.last_duration_ms = Some(1250);
    web.snapshots = Some(Snapshots {
        count: 2,
        unusable: 1,
        size_bytes: 3 << 40,
        newest_at: Some(at(3700)),
        verified_at: Some(at(3800)),
        rehearsed: Some((at(3900), true)),
    });
    let text = render(&run_at(0), &stamp(), &stock(vec![web]));
    let labels = "{instance_id=\"vm-1\",name=\"web\"}";
    for line in [
        "hypeman_snap_last_run_timestamp_seconds 1800000000".to_owned(),
        "hypeman_snap_last_run_duration_seconds 1.5".to_owned(),
        "hypeman_snap_last_run_success 1".to_owned(),
        format!("hypeman_snap_schedule_interval_seconds{labels} 3600"),
        format!("hypeman_snap_last_success_timestamp_seconds{labels} 1800003700"),
        format!("hypeman_snap_runs_total{labels} 1"),
        format!("hypeman_snap_failures_total{labels} 0"),
        format!("hypeman_snap_last_pause_seconds{labels} 0.0125"),
        format!("hypeman_snap_last_duration_seconds{labels} 1.25"),
        format!("hypeman_snap_snapshots{labels} 2"),
        format!("hypeman_snap_unusable_snapshots{labels} 1"),
        format!("hypeman_snap_snapshot_rehearsed_timestamp_seconds{labels} 1800003900"),
        format!("hypeman_snap_snapshot_rehearsed_alive{labels} 1"),
        format!("hypeman_snap_snapshots_size_bytes{labels} 3298534883328"),
    ] {
        assert!(text.lines().any(|it| it == line), "{line} in {text}");
    }
}

#[test]
fn idle_minute_keeps_the_second_part_until_it_is_out_of_date() {
    let text = render(&run_at(0), &stamp(), &stock(vec![instance("vm-1", "web")]));
    let changed = stamp().schedules_changed_at;
    let later = refresh(&text, &run_at(60), changed).unwrap();
    assert!(later.contains("hypeman_snap_last_run_timestamp_seconds 1800000060\n"));
    assert_eq!(later.replace("1800000060", "1800000000"), text);
    // The age counts from when it was read, however often it was kept.
    assert!(refresh(&later, &run_at(15 * 60 - 1), changed).is_some());
    assert!(refresh(&later, &run_at(15 * 60), changed).is_none());
    assert!(refresh(&text, &run_at(-1), changed).is_none());
    assert!(refresh(&text, &run_at(60), Some(at(-4))).is_none());
    assert!(refresh(&text, &run_at(60), None).is_none());
    for foreign in [
        "",
        "up 1\n",
        BOUNDARY,
        "# hypeman-snap: what follows was read at x\n",
    ] {
        assert!(refresh(foreign, &run_at(60), changed).is_none());
    }
}

proptest! {
    #[test]
    fn names_are_read_back_as_they_were_written(name in "[^\\p{Cc}\u{2028}\u{2029}]*|[a\"\\\\\n]*") {
        let text = render(&run_at(0), &stamp(), &stock(vec![instance("vm-1", &name), instance("b", "")]));
        let names = names_in(&text);
        prop_assert_eq!(names.get("vm-1"), Some(&name));
        prop_assert_eq!(names.len(), 2);
    }
}
