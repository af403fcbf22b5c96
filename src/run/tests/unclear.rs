//! A creation without a clear end: the next run looks for that very snapshot, and there are never two.

use super::*;

/// A host whose only run so far ended unclearly, and the name of the snapshot that it tried.
fn unclear() -> (Host, InstanceId, String) {
    let host = Host::new();
    let id = host.due("vm", Behaviour::CreateUnclear, keep(5));
    let report = host.run();
    assert!(report.has_failures());
    assert_eq!(report.results[0].outcome, Outcome::Failed);
    let schedule = host.schedule(&id);
    assert_eq!(
        schedule.record.last_error.as_deref(),
        Some("the answer was lost")
    );
    assert_eq!(schedule.record.consecutive_failures, 1);
    let name = schedule.record.attempt.unwrap().snapshot_name;
    (host, id, name)
}

#[test]
fn a_snapshot_that_turns_up_late_is_taken_for_what_it_is() {
    let (host, id, name) = unclear();
    host.has(Snapshot {
        name: name.clone(),
        ..a_snapshot("late", "vm", clock::now())
    });
    host.behave(&id, Behaviour::Works(State::Running));
    let report = host.run();
    assert!(!report.has_failures(), "{report:?}");
    assert_eq!(report.results[0].snapshot_id, Some("late".parse().unwrap()));
    assert_eq!(host.fake.names(), [name]);
    let schedule = host.schedule(&id);
    assert_eq!(schedule.record.last_snapshot_id.as_deref(), Some("late"));
    assert_eq!(
        (
            schedule.record.attempt,
            schedule.record.consecutive_failures
        ),
        (None, 0)
    );
}

#[test]
fn a_snapshot_that_does_not_turn_up_is_taken_under_the_same_name() {
    let (host, id, name) = unclear();
    host.behave(&id, Behaviour::Works(State::Running));
    assert_eq!(host.run().results[0].outcome, Outcome::Snapshotted);
    assert_eq!(host.fake.names(), [name]);
    assert_eq!(host.schedule(&id).record.attempt, None);
}

#[test]
fn an_end_stays_open_while_nobody_can_be_asked() {
    let (host, id, name) = unclear();
    host.behave(&id, Behaviour::Unreachable);
    assert!(host.run().has_failures());
    let attempt = host.schedule(&id).record.attempt.unwrap();
    assert_eq!(
        (attempt.snapshot_name.as_str(), attempt.tries),
        (name.as_str(), 2)
    );
    host.behave(&id, Behaviour::Works(State::Running));
    host.change(&id, |schedule| {
        schedule.record.retry_at = Some(clock::now());
    });
    assert_eq!(host.run().results[0].outcome, Outcome::Snapshotted);
    assert_eq!(host.fake.names(), [name]);
}
