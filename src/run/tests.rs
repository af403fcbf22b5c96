//! The promises of a run, with an engine in memory that can fail in ways that a real one can't be made to.

mod compress;
mod order;
mod unclear;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tempfile::TempDir;

use super::{Options, prune, run_due};
use crate::cadence::Cadence;
use crate::clock;
use crate::engine::restorer::{Launch, Preflight, Restorer, Wanted};
use crate::engine::{
    Compress, Compressed, CreateRequest, Created, Diagnose, Engine, EngineError, Listing, Ports,
    Presence, Recovery,
};
use crate::finding::Finding;
use crate::instance::{Instance, InstanceId, InstanceRef, State};
use crate::report::run::{InstanceResult, Outcome, Report};
use crate::schedule::hooks::Hooks;
use crate::schedule::{Attempt, Declaration, Retention, Schedule};
use crate::snapshot::{self, Kind, Snapshot, SnapshotId};
use crate::store::Store;

const HOUR: Duration = Duration::from_secs(3600);

/// What the engine does with one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    Works(State),
    CreateFails,
    CreateInterrupted,
    CreateUnclear,
    CreatePanics,
    Unreachable,
    Gone,
}

#[derive(Debug, Default)]
struct World {
    behaviours: BTreeMap<InstanceId, Behaviour>,
    snapshots: Vec<Snapshot>,
    unfinished: Vec<InstanceId>,
    is_unlisted: bool,
    is_unswept: bool,
    is_elsewhere: bool,
    /// What was compressed, after so many snapshots had been made, and how long it could have taken.
    compressed: Vec<(String, usize, Duration)>,
    /// What comes of the next compressions; done when there is none left.
    compressions: Vec<Result<Compressed, EngineError>>,
}

#[derive(Debug, Default)]
struct Fake {
    world: Mutex<World>,
    listings: AtomicUsize,
    calls: AtomicUsize,
    sweeps: AtomicUsize,
}

impl Fake {
    fn behaviour(&self, id: &InstanceId) -> Behaviour {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let world = self.world.lock().unwrap();
        world.behaviours.get(id).copied().unwrap_or(Behaviour::Gone)
    }

    fn names(&self) -> Vec<String> {
        let world = self.world.lock().unwrap();
        world.snapshots.iter().map(|s| s.name.clone()).collect()
    }
}

impl Engine for &'static Fake {
    fn instances(&self) -> Result<Vec<InstanceRef>, EngineError> {
        let world = self.world.lock().unwrap();
        Ok(world
            .behaviours
            .iter()
            .filter(|(_, behaviour)| **behaviour != Behaviour::Gone)
            .map(|(id, _)| InstanceRef {
                id: id.clone(),
                name: String::new(),
            })
            .collect())
    }

    fn find(&self, id: &InstanceId) -> Presence {
        let state = match self.behaviour(id) {
            Behaviour::Gone => return Presence::Gone,
            Behaviour::Unreachable => {
                return Presence::Unknown(EngineError::unavailable("nobody home"));
            }
            Behaviour::CreateFails
            | Behaviour::CreateInterrupted
            | Behaviour::CreateUnclear
            | Behaviour::CreatePanics => State::Running,
            Behaviour::Works(state) => state,
        };
        Presence::Here(Instance {
            id: id.clone(),
            name: "name".to_owned(),
            state,
            state_note: None,
        })
    }

    fn create(&self, request: &CreateRequest<'_>) -> Result<Created, EngineError> {
        match self.behaviour(&request.instance.id) {
            Behaviour::CreateInterrupted => return Err(EngineError::Interrupted),
            Behaviour::CreateFails => return Err(EngineError::instance("the disk is full")),
            Behaviour::CreateUnclear => {
                return Err(EngineError::Unclear {
                    message: "the answer was lost".to_owned(),
                });
            }
            Behaviour::CreatePanics => panic!("this panic is part of the test"),
            Behaviour::Works(_) | Behaviour::Unreachable | Behaviour::Gone => {}
        }
        let mut world = self.world.lock().unwrap();
        let snapshot = Snapshot {
            id: format!("made{}", world.snapshots.len()).parse().unwrap(),
            name: request.name.to_owned(),
            kind: request.kind,
            tags: request.tags.clone(),
            source_instance_id: request.instance.id.to_string(),
            ..a_snapshot("x", request.instance.id.as_str(), request.now)
        };
        world.snapshots.push(snapshot.clone());
        Ok(Created {
            snapshot,
            pause: Some(Duration::from_millis(5)),
            warnings: vec!["the same warning for all".to_owned()],
        })
    }

    fn stores_on_this_host(&self) -> bool {
        !self.world.lock().unwrap().is_elsewhere
    }

    fn compress(&self, wanted: &Compress<'_>) -> Result<Compressed, EngineError> {
        let mut world = self.world.lock().unwrap();
        let made = world.snapshots.len();
        let time = wanted.watch.limit().unwrap();
        world.compressed.push((wanted.id.to_string(), made, time));
        let done = Compressed::Done {
            raw_bytes: 100,
            packed_bytes: 10,
        };
        world.compressions.pop().unwrap_or(Ok(done))
    }

    fn list(&self) -> Result<Listing, EngineError> {
        self.listings.fetch_add(1, Ordering::SeqCst);
        let world = self.world.lock().unwrap();
        if world.is_unlisted {
            return Err(EngineError::unavailable("the store can't be read"));
        }
        Ok(Listing {
            snapshots: world.snapshots.clone(),
            problems: vec!["a directory without a record".to_owned()],
        })
    }

    fn delete(&self, id: &SnapshotId) -> Result<(), EngineError> {
        let mut world = self.world.lock().unwrap();
        world.snapshots.retain(|snapshot| snapshot.id != *id);
        Ok(())
    }
}

impl Recovery for &'static Fake {
    fn unfinished(&self) -> Result<Vec<InstanceId>, EngineError> {
        Ok(self.world.lock().unwrap().unfinished.clone())
    }

    fn sweep(&self) -> Result<Vec<String>, EngineError> {
        self.sweeps.fetch_add(1, Ordering::SeqCst);
        if self.world.lock().unwrap().is_unswept {
            return Err(EngineError::instance("can't remove .trash-x"));
        }
        Ok(Vec::new())
    }
}

impl Restorer for &'static Fake {
    fn preflight(&self, _: &Wanted<'_>) -> Result<Preflight, EngineError> {
        unreachable!("a run restores nothing")
    }

    fn lay_down(&self, _: &Wanted<'_>, _: &Preflight) -> Result<Option<Snapshot>, EngineError> {
        unreachable!("a run restores nothing")
    }

    fn start(&self, _: &Wanted<'_>, _: &Launch, _: bool) -> Result<u32, EngineError> {
        unreachable!("a run restores nothing")
    }
}

impl Diagnose for &'static Fake {
    fn examine(&self, _: &(dyn Fn(&InstanceId) -> bool + Sync)) -> Vec<Finding> {
        Vec::new()
    }

    fn second_scheduler(&self, _: &InstanceId) -> Result<Option<String>, EngineError> {
        Ok(None)
    }
}

fn a_snapshot(id: &str, instance: &str, created_at: DateTime<Utc>) -> Snapshot {
    let instance: InstanceId = instance.parse().unwrap();
    Snapshot {
        id: id.parse().unwrap(),
        name: id.to_owned(),
        kind: Kind::Standby,
        consistency: crate::snapshot::Consistency::Memory,
        tags: snapshot::scheduled_tags(&BTreeMap::new(), &instance),
        source_instance_id: instance.to_string(),
        source_instance_name: "name".to_owned(),
        source_hypervisor: "qemu".to_owned(),
        created_at,
        size_bytes: 1,
        disk_bytes: None,
        unusable: None,
        verified_at: None,
        rehearsed: None,
    }
}

struct Host {
    _state: TempDir,
    path: PathBuf,
    store: Store,
    fake: &'static Fake,
    options: Options,
}

impl Host {
    fn new() -> Self {
        let state = tempfile::tempdir().unwrap();
        Self {
            path: state.path().to_owned(),
            store: Store::new(state.path().to_owned()),
            _state: state,
            // Leaked: the engine is asked for as a box that borrows nothing.
            fake: Box::leak(Box::default()),
            options: Options {
                jobs: 2,
                dry_run: false,
                force: false,
                only: None,
                is_uncapped: false,
                protects: false,
                missing_grace: 24 * HOUR,
                lock_timeout: Duration::ZERO,
            },
        }
    }

    /// An hourly schedule, due since five minutes.
    fn due(&self, id: &str, behaviour: Behaviour, retention: Retention) -> InstanceId {
        let id: InstanceId = id.parse().unwrap();
        let declaration = Declaration {
            cadence: Cadence::every(HOUR),
            retention,
            timezone: None,
            name_prefix: None,
            metadata: BTreeMap::new(),
            max_pause: None,
            expect: None,
            hooks: Hooks::default(),
            storing: crate::snapshot::storing::Storing::default(),
        };
        let now = clock::now();
        let mut schedule = Schedule::new(id.clone(), declaration, now - TimeDelta::hours(3));
        schedule.record.next_run_at = now - TimeDelta::minutes(5);
        self.store.save(&schedule).unwrap();
        self.behave(&id, behaviour);
        id
    }

    fn behave(&self, id: &InstanceId, behaviour: Behaviour) {
        let mut world = self.fake.world.lock().unwrap();
        world.behaviours.insert(id.clone(), behaviour);
    }

    fn has(&self, snapshot: Snapshot) {
        self.fake.world.lock().unwrap().snapshots.push(snapshot);
    }

    fn change(&self, id: &InstanceId, change: impl FnOnce(&mut Schedule)) {
        let mut schedule = self.schedule(id);
        change(&mut schedule);
        self.store.save(&schedule).unwrap();
    }

    fn schedule(&self, id: &InstanceId) -> Schedule {
        self.store.load(id).unwrap().unwrap()
    }

    fn run(&self) -> Report {
        run_due(
            &self.store,
            &|| Ok(Ports::of(self.fake)),
            &self.options,
            &|_| {},
        )
        .unwrap()
    }

    fn prune(&self) -> Report {
        prune(&self.store, &|| Ok(Ports::of(self.fake)), &self.options).unwrap()
    }
}

fn keep(max_count: u64) -> Retention {
    Retention {
        max_count,
        ..Retention::default()
    }
}

fn keep_for(max_age: Duration) -> Retention {
    Retention {
        max_age: Some(max_age),
        ..Retention::default()
    }
}

fn ago(age: Duration) -> DateTime<Utc> {
    clock::now() - age
}

#[test]
fn a_due_instance_is_snapshotted_recorded_and_pruned() {
    let host = Host::new();
    let id = host.due("vm", Behaviour::Works(State::Running), keep(2));
    let due_at = host.schedule(&id).record.next_run_at;
    host.has(a_snapshot("old1", "vm", ago(3 * HOUR)));
    host.has(a_snapshot("old2", "vm", ago(2 * HOUR)));

    let report = host.run();

    let [result] = report.results.as_slice() else {
        panic!("{report:?}")
    };
    assert_eq!(result.outcome, Outcome::Snapshotted);
    assert_eq!(result.kind, Some(Kind::Standby));
    assert_eq!(result.pruned, ["old1".parse().unwrap()]);
    assert_eq!(result.pause, Some(Duration::from_millis(5)));
    assert!(!report.has_failures());
    let schedule = host.schedule(&id);
    assert_eq!(schedule.record.next_run_at, due_at + TimeDelta::hours(1));
    assert_eq!(schedule.record.last_snapshot_id.as_deref(), Some("made2"));
    assert_eq!(schedule.record.last_pause_ms, Some(5.0));
    assert_eq!(
        (schedule.record.attempt, schedule.record.last_error),
        (None, None)
    );
    assert_eq!(host.fake.names().len(), 2);
    assert!(host.run().results.is_empty(), "it is not due any more");
}

#[test]
fn what_others_left_is_swept_once_in_a_run_that_works_and_a_failure_shows() {
    let host = Host::new();
    host.due("vm", Behaviour::Works(State::Running), keep(2));
    host.due("vm2", Behaviour::Works(State::Running), keep(2));
    host.fake.world.lock().unwrap().is_unswept = true;

    let report = host.run();

    assert_eq!(host.fake.sweeps.load(Ordering::SeqCst), 1);
    assert_eq!(report.problems, ["can't remove .trash-x"]);
    assert!(report.has_failures());
    // It keeps nobody from a snapshot.
    let outcomes: Vec<Outcome> = report.results.iter().map(|it| it.outcome).collect();
    assert_eq!(outcomes, [Outcome::Snapshotted; 2]);
    assert!(host.run().problems.is_empty(), "nothing is due");
    assert_eq!(host.fake.sweeps.load(Ordering::SeqCst), 1);
}

#[test]
fn an_idle_run_asks_the_engine_for_nothing() {
    let host = Host::new();
    let id = host.due("vm", Behaviour::Works(State::Running), keep(2));
    host.change(&id, |schedule| {
        schedule.record.next_run_at = clock::now() + TimeDelta::minutes(5);
    });
    let report = host.run();
    assert!(report.results.is_empty() && report.warnings.is_empty());
    assert_eq!(host.fake.calls.load(Ordering::SeqCst), 0);
    assert_eq!(host.fake.listings.load(Ordering::SeqCst), 0);
    assert!(!host.path.join("locks").exists());
}

#[test]
fn the_store_is_listed_once_however_many_instances_are_due() {
    let host = Host::new();
    for n in 0..10 {
        host.due(&format!("vm{n}"), Behaviour::Works(State::Stopped), keep(1));
    }
    let report = host.run();
    assert_eq!(report.results.len(), 10);
    assert_eq!(host.fake.listings.load(Ordering::SeqCst), 1);
    assert_eq!(
        report.warnings,
        ["a directory without a record", "the same warning for all"],
        "each warning is told once"
    );
}

#[test]
fn a_failed_run_keeps_the_cadence_retries_sooner_and_still_prunes() {
    let host = Host::new();
    let id = host.due("vm", Behaviour::CreateFails, keep(1));
    let due_at = host.schedule(&id).record.next_run_at;
    host.has(a_snapshot("old1", "vm", ago(3 * HOUR)));
    host.has(a_snapshot("old2", "vm", ago(2 * HOUR)));

    let report = host.run();

    assert!(report.has_failures());
    let result = &report.results[0];
    assert_eq!(result.outcome, Outcome::Failed);
    assert_eq!(result.error.as_deref(), Some("the disk is full"));
    assert_eq!(result.pruned, ["old1".parse().unwrap()]);
    let schedule = host.schedule(&id);
    assert_eq!(schedule.record.next_run_at, due_at + TimeDelta::hours(1));
    assert_eq!(schedule.record.consecutive_failures, 1);
    assert!(schedule.record.retry_at.unwrap() <= clock::now() + TimeDelta::minutes(1));
    assert_eq!(
        schedule.record.last_error.as_deref(),
        Some("the disk is full")
    );
    assert!(host.run().results.is_empty(), "the retry is not due yet");

    host.behave(&id, Behaviour::Works(State::Running));
    host.change(&id, |schedule| {
        schedule.record.retry_at = Some(clock::now());
    });
    assert_eq!(host.run().results[0].outcome, Outcome::Snapshotted);
    let schedule = host.schedule(&id);
    assert_eq!(
        (
            schedule.record.retry_at,
            schedule.record.consecutive_failures
        ),
        (None, 0)
    );
    assert_eq!(schedule.record.next_run_at, due_at + TimeDelta::hours(1));
}

#[test]
fn an_interrupted_run_is_no_failure_removes_nothing_and_is_taken_up() {
    let host = Host::new();
    let id = host.due("vm", Behaviour::CreateInterrupted, keep(1));
    host.change(&id, |schedule| schedule.record.consecutive_failures = 2);
    host.has(a_snapshot("old1", "vm", ago(3 * HOUR)));
    host.has(a_snapshot("old2", "vm", ago(2 * HOUR)));

    let report = host.run();

    assert!(!report.has_failures());
    assert_eq!(report.interrupted(), [&id]);
    assert_eq!(report.results[0].outcome, Outcome::Interrupted);
    assert_eq!(host.fake.names(), ["old1", "old2"]);
    let schedule = host.schedule(&id);
    assert_eq!(
        (schedule.record.retry_at, schedule.record.last_error),
        (None, None)
    );
    assert_eq!(
        schedule.record.consecutive_failures, 2,
        "neither more nor less"
    );
    let name = schedule.record.attempt.unwrap().snapshot_name;

    host.behave(&id, Behaviour::Works(State::Running));
    assert_eq!(host.run().results[0].outcome, Outcome::Snapshotted);
    assert_eq!(host.fake.names(), ["old1", "old2", name.as_str()][2..]);
}

#[test]
fn an_engine_that_can_t_be_reached_never_makes_an_instance_gone() {
    let host = Host::new();
    let id = host.due("vm", Behaviour::Unreachable, keep(1));
    host.change(&id, |schedule| {
        schedule.record.missing_since = Some(ago(1000 * HOUR));
    });
    let report = host.run();
    assert_eq!(report.results[0].outcome, Outcome::Failed);
    assert_eq!(report.results[0].error.as_deref(), Some("nobody home"));
    assert!(host.store.load(&id).unwrap().is_some());
}

#[test]
fn a_gone_instance_is_pruned_by_age_and_retired_after_the_grace() {
    let host = Host::new();
    let id = host.due("vm", Behaviour::Gone, keep_for(2 * HOUR));
    host.has(a_snapshot("old", "vm", ago(3 * HOUR)));
    host.has(a_snapshot("young", "vm", ago(HOUR)));
    let run_again = |since| {
        host.change(&id, |schedule| {
            schedule.record.next_run_at = ago(Duration::from_secs(1));
            schedule.record.missing_since = since;
        });
        host.run().results.remove(0)
    };

    let first = run_again(None);
    assert_eq!(first.outcome, Outcome::Pruned);
    assert_eq!(first.pruned, ["old".parse().unwrap()]);
    assert!(host.schedule(&id).record.missing_since.is_some());

    let waiting = run_again(Some(ago(25 * HOUR)));
    assert_eq!(waiting.outcome, Outcome::Pruned, "one may still go by age");

    host.fake.world.lock().unwrap().snapshots.clear();
    let early = run_again(Some(ago(23 * HOUR)));
    assert_eq!(early.outcome, Outcome::Pruned);
    let last = run_again(Some(ago(25 * HOUR)));
    assert_eq!(last.outcome, Outcome::Retired);
    assert_eq!(host.store.load(&id).unwrap(), None);
}

#[test]
fn the_last_ones_of_a_gone_instance_stay_until_the_grace_has_passed() {
    let host = Host::new();
    let id = host.due("vm", Behaviour::Gone, keep_for(2 * HOUR));
    let stopped = Snapshot {
        kind: Kind::Stopped,
        ..a_snapshot("disks", "vm", ago(3 * HOUR))
    };
    let cut = Snapshot {
        unusable: Some("memory is cut".to_owned()),
        verified_at: None,
        rehearsed: None,
        ..a_snapshot("cut", "vm", ago(3 * HOUR))
    };
    for snapshot in [
        a_snapshot("older", "vm", ago(5 * HOUR)),
        a_snapshot("memory", "vm", ago(4 * HOUR)),
        stopped,
        cut,
    ] {
        host.has(snapshot);
    }
    let prune = |since| {
        host.change(&id, |schedule| {
            schedule.record.next_run_at = ago(Duration::from_secs(1));
            schedule.record.missing_since = since;
        });
        let mut ids: Vec<String> = prune(
            &host.store,
            &|| Ok(Ports::of(host.fake)),
            &Options {
                dry_run: true,
                ..host.options.clone()
            },
        )
        .unwrap()
        .results
        .remove(0)
        .pruned
        .iter()
        .map(ToString::to_string)
        .collect();
        let run: Vec<String> = {
            let result = host.run().results.remove(0);
            assert_eq!(result.error, None);
            result.pruned.iter().map(ToString::to_string).collect()
        };
        assert_eq!(ids, run, "`prune` and `run-due` agree");
        ids.sort();
        ids
    };
    assert_eq!(prune(None), ["older"]);
    assert_eq!(prune(Some(ago(23 * HOUR))), [""; 0]);
    assert_eq!(prune(Some(ago(25 * HOUR))), ["cut", "disks", "memory"]);
    assert_eq!(host.store.load(&id).unwrap(), None, "it is retired");
}

#[test]
fn an_instance_that_comes_back_is_not_missing_any_more() {
    let host = Host::new();
    let id = host.due("vm", Behaviour::Works(State::Stopped), keep(1));
    host.change(&id, |schedule| {
        schedule.record.missing_since = Some(ago(HOUR));
    });
    host.run();
    assert_eq!(host.schedule(&id).record.missing_since, None);

    let id = host.due("failing", Behaviour::CreateFails, keep(1));
    host.change(&id, |schedule| {
        schedule.record.missing_since = Some(ago(HOUR));
    });
    host.run();
    assert_eq!(host.schedule(&id).record.missing_since, None);
}

fn died_at(host: &Host, id: &InstanceId) -> Attempt {
    let run_at = ago(Duration::from_secs(90));
    let attempt = Attempt {
        run_at,
        snapshot_name: snapshot::scheduled_name(None, run_at),
        tries: 1,
        started_at: run_at,
    };
    host.change(id, |schedule| {
        schedule.record.next_run_at = clock::now() + TimeDelta::minutes(50);
        schedule.record.attempt = Some(attempt.clone());
    });
    attempt
}

#[test]
fn a_snapshot_that_a_dead_run_had_finished_is_found_and_not_taken_twice() {
    let host = Host::new();
    let id = host.due("vm", Behaviour::Works(State::Running), keep(9));
    let attempt = died_at(&host, &id);
    host.has(Snapshot {
        name: attempt.snapshot_name.clone(),
        ..a_snapshot("finished", "vm", attempt.run_at)
    });
    let report = host.run();
    assert_eq!(report.results[0].outcome, Outcome::Snapshotted);
    assert_eq!(host.fake.names(), [attempt.snapshot_name]);
    let schedule = host.schedule(&id);
    assert_eq!(
        schedule.record.last_snapshot_id.as_deref(),
        Some("finished")
    );
    assert_eq!(schedule.record.attempt, None);
}

#[test]
fn a_snapshot_of_a_dead_run_that_lost_something_is_taken_anew_and_replaced() {
    let host = Host::new();
    let id = host.due("vm", Behaviour::Works(State::Running), keep(9));
    let attempt = died_at(&host, &id);
    host.has(Snapshot {
        name: attempt.snapshot_name.clone(),
        unusable: Some("memory is cut".to_owned()),
        verified_at: None,
        rehearsed: None,
        ..a_snapshot("cut", "vm", attempt.run_at)
    });
    let report = host.run();
    assert_eq!(report.results[0].outcome, Outcome::Snapshotted);
    assert_eq!(report.results[0].pruned, ["cut".parse().unwrap()]);
    assert_eq!(host.fake.names(), [attempt.snapshot_name]);
    let schedule = host.schedule(&id);
    assert_ne!(schedule.record.last_snapshot_id.as_deref(), Some("cut"));
}

#[test]
fn a_snapshot_that_a_dead_run_had_not_finished_is_taken_under_its_name() {
    let host = Host::new();
    let id = host.due("vm", Behaviour::Works(State::Running), keep(9));
    let attempt = died_at(&host, &id);
    // A manual snapshot of that name is not the dead run's.
    host.has(Snapshot {
        name: attempt.snapshot_name.clone(),
        tags: BTreeMap::new(),
        ..a_snapshot("manual", "vm", attempt.run_at)
    });
    host.run();
    assert_eq!(
        host.fake.names(),
        [attempt.snapshot_name.clone(), attempt.snapshot_name]
    );
    assert_eq!(host.schedule(&id).record.attempt, None);
}

#[test]
fn a_dry_run_tells_the_plan_and_changes_nothing() {
    let mut host = Host::new();
    host.due("vm", Behaviour::Works(State::Running), keep(2));
    host.due("gone", Behaviour::Gone, keep(1));
    host.has(a_snapshot("old1", "vm", ago(3 * HOUR)));
    host.has(a_snapshot("old2", "vm", ago(2 * HOUR)));
    let before = files_of(&host);
    host.options.dry_run = true;
    let plan = host.run();
    host.options.dry_run = false;
    assert_eq!(files_of(&host), before, "a dry run writes no schedule");
    assert!(!host.path.join("locks").exists());
    assert_eq!(host.fake.names(), ["old1", "old2"]);

    let carried_out = host.run();
    assert!(plan.is_dry_run && !carried_out.is_dry_run);
    for (planned, done) in plan.results.iter().zip(&carried_out.results) {
        assert_eq!(planned.instance_id, done.instance_id);
        assert_eq!(planned.outcome, done.outcome);
        assert_eq!(planned.kind, done.kind);
        assert_eq!(planned.pruned, done.pruned);
    }
    assert_eq!(plan.results.len(), carried_out.results.len());
}

#[test]
fn a_schedule_does_not_retire_while_nobody_knows_what_is_left_and_no_dry_run_says_so() {
    let mut host = Host::new();
    let id = host.due("gone", Behaviour::Gone, keep(1));
    host.change(&id, |schedule| {
        schedule.record.missing_since = Some(ago(1000 * HOUR));
    });
    host.fake.world.lock().unwrap().is_unlisted = true;
    for is_dry_run in [true, false] {
        host.options.dry_run = is_dry_run;
        let result = &host.run().results[0];
        assert_eq!(result.outcome, Outcome::Pruned, "dry run: {is_dry_run}");
        let error = result.error.as_deref().unwrap();
        assert_eq!(
            error,
            "retention could not be applied: the store can't be read"
        );
    }
    assert!(host.store.load(&id).unwrap().is_some());
}

fn files_of(host: &Host) -> [Vec<u8>; 2] {
    ["vm", "gone"].map(|id| std::fs::read(host.store.path(&id.parse().unwrap())).unwrap())
}

#[test]
fn an_instance_that_another_run_holds_is_skipped_and_no_failure() {
    let host = Host::new();
    let id = host.due("vm", Behaviour::Works(State::Running), keep(2));
    let lock = host.store.try_lock(&id).unwrap().unwrap();
    let report = host.run();
    assert_eq!(report.results[0].outcome, Outcome::Skipped);
    assert!(report.results[0].is_locked && !report.has_failures());
    assert!(host.fake.names().is_empty());

    let pruned = host.prune();
    assert!(pruned.results[0].is_locked && pruned.has_failures());
    drop(lock);
    assert_eq!(host.run().results[0].outcome, Outcome::Snapshotted);
}

#[test]
fn failure_and_panic_of_one_instance_leave_the_others_alone() {
    let host = Host::new();
    host.due("a", Behaviour::CreateFails, keep(1));
    host.due("b", Behaviour::CreatePanics, keep(1));
    host.due("c", Behaviour::Works(State::Stopped), keep(1));
    std::fs::write(host.store.path(&"d".parse().unwrap()), "{").unwrap();
    let report = host.run();
    let outcomes: Vec<_> = report
        .results
        .iter()
        .map(|result| (result.instance_id.as_str(), result.outcome))
        .collect();
    assert_eq!(
        outcomes,
        [
            ("a", Outcome::Failed),
            ("b", Outcome::Failed),
            ("c", Outcome::Snapshotted),
            ("d", Outcome::Failed)
        ]
    );
    assert!(
        report.results[1]
            .error
            .as_ref()
            .unwrap()
            .contains("panicked")
    );
}

#[test]
fn force_takes_a_snapshot_and_leaves_the_cadence_alone() {
    let mut host = Host::new();
    let id = host.due("vm", Behaviour::Works(State::Stopped), keep(9));
    let next = clock::now() + TimeDelta::minutes(50);
    host.change(&id, |schedule| schedule.record.next_run_at = next);
    host.options.force = true;
    host.run();
    host.run();
    assert_eq!(host.schedule(&id).record.next_run_at, next);
    let names = host.fake.names();
    assert_eq!(names.len(), 2);
    assert_ne!(names[0], names[1], "two in the same second have two names");
}

#[test]
fn a_state_that_allows_no_snapshot_is_named() {
    for state in [
        State::Created,
        State::Initializing,
        State::Paused,
        State::Shutdown,
        State::Unknown,
    ] {
        let host = Host::new();
        host.due("vm", Behaviour::Works(state), keep(1));
        let report = host.run();
        let error = report.results[0].error.clone().unwrap();
        assert!(error.contains(&state.to_string()), "{error}");
        assert!(host.fake.names().is_empty());
    }
}

#[test]
fn a_next_run_that_lies_impossibly_far_ahead_is_brought_back_and_said() {
    let host = Host::new();
    let id = host.due("vm", Behaviour::Works(State::Stopped), keep(1));
    host.change(&id, |schedule| {
        schedule.record.next_run_at = clock::now() + TimeDelta::days(400);
    });
    let report = host.run();
    assert_eq!(report.results[0].notes.len(), 1, "{report:?}");
    let next = host.schedule(&id).record.next_run_at;
    assert!(next > clock::now() && next <= clock::now() + TimeDelta::hours(1));
}

#[test]
fn retention_touches_only_what_the_schedule_made() {
    let host = Host::new();
    host.due("vm", Behaviour::Works(State::Running), keep(1));
    let old = ago(1000 * HOUR);
    host.has(a_snapshot("other", "vm2", old));
    let mut manual = a_snapshot("manual", "vm", old);
    manual.tags.clear();
    host.has(manual);
    let mut forged = a_snapshot("forged", "vm2", old);
    forged.tags = a_snapshot("x", "vm", old).tags;
    host.has(forged);
    host.has(a_snapshot("mine", "vm", old));
    let report = host.run();
    assert_eq!(report.results[0].pruned, ["mine".parse().unwrap()]);
    assert_eq!(host.fake.names()[..3], ["other", "manual", "forged"]);
}

#[test]
fn prune_applies_retention_without_a_run() {
    let host = Host::new();
    let id = host.due("vm", Behaviour::Unreachable, keep(1));
    host.has(a_snapshot("old", "vm", ago(3 * HOUR)));
    host.has(a_snapshot("new", "vm", ago(2 * HOUR)));
    let before = host.schedule(&id);
    let report = host.prune();
    assert_eq!(report.results[0].outcome, Outcome::Pruned);
    assert_eq!(report.results[0].pruned, ["old".parse().unwrap()]);
    assert_eq!(host.schedule(&id), before);
}

#[test]
fn a_panic_in_the_engine_lets_the_post_hook_undo_what_the_pre_hook_did() {
    let host = Host::new();
    let log = host.path.join("log");
    let id = host.due("a", Behaviour::CreatePanics, keep(1));
    let mut schedule = host.store.load(&id).unwrap().unwrap();
    let hook = |text: &str| {
        let script = format!("echo {text} >> '{}'", log.display());
        ["/bin/sh", "-c", &script].map(str::to_owned).to_vec()
    };
    schedule.declaration.hooks.pre = hook("pre");
    schedule.declaration.hooks.post = hook("post $HYPEMAN_SNAP_OUTCOME");
    schedule.declaration.hooks.failure = hook("failure");
    host.store.save(&schedule).unwrap();
    assert!(host.run().has_failures());
    let logged = std::fs::read_to_string(&log).unwrap();
    assert_eq!(logged, "pre\npost failed\nfailure\n");
}
