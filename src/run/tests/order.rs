//! Who is served first, and that those that hang keep nobody from being served.

use super::*;
use crate::run::failure::{Failure, HookFailed};
use crate::run::pick::{self, Job};
use crate::run::result;

fn picked(host: &Host) -> Vec<String> {
    let picked = pick::pick(&host.store, &host.options, clock::now()).unwrap();
    picked.jobs.iter().map(|job| job.id.to_string()).collect()
}

#[test]
fn those_whose_last_run_went_well_come_first_and_then_who_has_waited_longest() {
    let host = Host::new();
    for (id, minutes, failures, tries) in [
        ("a", 1, 3, 0),
        ("b", 1, 0, 0),
        ("c", 9, 1, 0),
        ("d", 5, 0, 0),
        ("e", 7, 0, 2),
        ("f", 8, 0, 0),
    ] {
        let id = host.due(id, Behaviour::Works(State::Stopped), keep(1));
        host.change(&id, |schedule| {
            schedule.record.next_run_at = clock::now() - TimeDelta::minutes(minutes);
            schedule.record.consecutive_failures = failures;
            schedule.record.attempt = (tries > 0).then(|| Attempt {
                run_at: ago(HOUR),
                snapshot_name: "x".to_owned(),
                tries,
                started_at: ago(HOUR),
            });
        });
    }
    assert_eq!(picked(&host), ["f", "d", "b", "c", "e", "a"]);
}

#[test]
fn a_forced_run_has_the_same_order() {
    let mut host = Host::new();
    let id = host.due("a", Behaviour::Works(State::Stopped), keep(1));
    host.change(&id, |schedule| schedule.record.consecutive_failures = 1);
    host.due("b", Behaviour::Works(State::Stopped), keep(1));
    host.options.force = true;
    assert_eq!(picked(&host), ["b", "a"]);
}

#[test]
fn guests_that_a_dead_run_left_come_first_of_all() {
    let host = Host::new();
    let id = host.due("b", Behaviour::Works(State::Stopped), keep(1));
    host.due("a", Behaviour::Works(State::Stopped), keep(1));
    let jobs = pick::pick(&host.store, &host.options, clock::now())
        .unwrap()
        .jobs;
    host.fake.world.lock().unwrap().unfinished = vec![id];
    let (jobs, _) = pick::with_unfinished(jobs, &host.fake, &host.options);
    let order: Vec<(&str, bool)> = jobs
        .iter()
        .map(|job: &Job| (job.id.as_str(), job.is_due))
        .collect();
    assert_eq!(order[0], ("b", false));
    assert_eq!(order.len(), 3, "its snapshot has its own place");
    // Its two results are one in the report.
    let report = host.run();
    let outcomes: Vec<_> = report.results.iter().map(|it| it.outcome).collect();
    assert_eq!(outcomes, [Outcome::Snapshotted; 2]);
}

#[test]
fn what_one_instance_came_to_is_said_once() {
    let id: InstanceId = "vm".parse().unwrap();
    let failed = |error: &str| result::failed(&id, &Failure::Hook(HookFailed(error.to_owned())));
    let skipped = |note: &str| InstanceResult::new(&id, Outcome::Skipped).noting(note);
    let done = InstanceResult::new(&id, Outcome::Snapshotted);
    let merged = |results| -> Vec<(Outcome, Vec<String>)> {
        result::merged(results)
            .into_iter()
            .map(|it| (it.outcome, it.notes))
            .collect()
    };
    let resumed = vec!["resumed".to_owned()];
    assert_eq!(
        merged(vec![skipped("resumed"), done.clone()]),
        [(Outcome::Snapshotted, resumed.clone())]
    );
    assert_eq!(
        merged(vec![done.clone(), skipped("resumed")]),
        [(Outcome::Snapshotted, resumed)]
    );
    assert_eq!(merged(vec![failed("x"), failed("x")]).len(), 1);
    assert_eq!(merged(vec![failed("x"), done.clone()]).len(), 2);
    assert_eq!(merged(vec![done.clone(), done]).len(), 2);
}
