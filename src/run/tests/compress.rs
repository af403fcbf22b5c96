//! Compression at the end of a run: behind everything that was due, for as long as the instance is not due again.

use super::*;
use crate::snapshot::storing::Method;

fn compressing(host: &Host, id: &str) -> InstanceId {
    let id = host.due(id, Behaviour::Works(State::Running), keep(9));
    host.change(&id, |schedule| {
        schedule.declaration.storing.compress = Some(Method::Zstd(1));
    });
    id
}

fn compressed(host: &Host) -> Vec<(String, usize, Duration)> {
    host.fake.world.lock().unwrap().compressed.clone()
}

#[test]
fn memory_is_compressed_when_all_is_taken_and_until_the_next_run() {
    let host = Host::new();
    let a = compressing(&host, "a");
    compressing(&host, "b");
    host.due("c", Behaviour::Works(State::Running), keep(9));
    let report = host.run();
    assert_eq!(report.results.len(), 3, "{report:?}");
    assert!(!report.has_failures(), "{report:?}");
    let done = compressed(&host);
    assert_eq!(done.len(), 2, "{done:?}");
    for (id, made, time) in done {
        assert_eq!(made, 3, "{id}: all that was due is taken");
        assert!(time <= HOUR && time > HOUR / 2, "{time:?}");
    }
    let of_a = report
        .results
        .iter()
        .find(|it| it.instance_id == a)
        .unwrap();
    assert_eq!(of_a.outcome, Outcome::Snapshotted);
    assert_eq!(of_a.compressed.len(), 1, "{of_a:?}");
    // When nothing is due nothing is compressed, and a dry run does not either.
    host.run();
    assert_eq!(compressed(&host).len(), 2);
    let mut dry = Host::new();
    compressing(&dry, "a");
    dry.options.dry_run = true;
    dry.run();
    assert_eq!(compressed(&dry).len(), 0);
}

#[test]
fn a_server_compresses_by_itself_and_is_asked_for_nothing_more() {
    let host = Host::new();
    compressing(&host, "a");
    host.fake.world.lock().unwrap().is_elsewhere = true;
    host.run();
    assert_eq!(compressed(&host).len(), 0);
    assert_eq!(host.fake.listings.load(Ordering::SeqCst), 1);
}

#[test]
fn what_could_not_be_compressed_is_said_and_only_an_error_fails_the_run() {
    for (end, says, fails) in [
        (Ok(Compressed::Nothing), "", false),
        (
            Ok(Compressed::Later("it is read".to_owned())),
            "it is read; the next run",
            false,
        ),
        (
            Ok(Compressed::Never("too slow".to_owned())),
            "uncompressed: too slow",
            false,
        ),
        (
            Ok(Compressed::Interrupted),
            "was interrupted by a signal",
            false,
        ),
        (Err(EngineError::instance("no disk")), "", true),
    ] {
        let host = Host::new();
        let id = compressing(&host, "a");
        let is_interruption = matches!(end, Ok(Compressed::Interrupted));
        host.fake.world.lock().unwrap().compressions.push(end);
        let report = host.run();
        assert_eq!(report.has_failures(), fails, "{report:?}");
        assert_eq!(!report.interrupted().is_empty(), is_interruption);
        let taken = &report.results[0];
        assert_eq!(taken.outcome, Outcome::Snapshotted, "{report:?}");
        assert!(taken.notes.join(" ").contains(says), "{report:?}");
        assert!(taken.compressed.is_empty());
        if fails {
            let error = report.results[1].error.as_deref();
            assert!(error.is_some_and(|it| it.contains("no disk")), "{report:?}");
        }
        // The snapshot is recorded whatever becomes of its memory.
        let record = host.schedule(&id).record;
        assert!(record.last_snapshot_id.is_some() && record.last_error.is_none());
    }
}
