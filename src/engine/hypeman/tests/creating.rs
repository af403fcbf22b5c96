//! One creation, whatever becomes of its answer: never two snapshots, never a guest left suspended.

use serde_json::json;
use support::fake_hypeman::{Answer, Fault, World};

use super::*;

const POST: &str = "POST /instances/mk3v9t0xq2r7w5d8h1c6b4za/snapshots";
const WAKE: &str = "POST /instances/mk3v9t0xq2r7w5d8h1c6b4za/restore";

fn internal_error() -> Answer {
    Answer::error(500, "internal_error", "operation failed")
}

/// What the server does for a creation before its answer is lost or spoilt.
fn make(world: &mut World) {
    let tags =
        json!({"hypeman.scheduled": "true", "hypeman.schedule_instance_id": ID, "team": "infra"});
    world.make_snapshot(ID, "Standby", "nightly-1", &tags);
}

fn suspend(world: &mut World) {
    world.set_state(ID, "Standby");
}

/// What any outcome must show: one creation was sent, and this many snapshots came of it.
fn assert_created(server: &FakeHypeman, snapshots: usize) {
    let world = server.world();
    assert_eq!(world.lines(POST).len(), 1, "{:?}", world.lines(""));
    assert_eq!(world.snapshots.len(), snapshots);
}

fn state(server: &FakeHypeman) -> String {
    server.world().instances[ID].1.clone()
}

#[test]
fn a_creation_sends_kind_name_and_tags() {
    let server = server();
    let created = create(&engine(&server), State::Running).unwrap();
    assert!(created.warnings.is_empty(), "{:?}", created.warnings);
    assert_eq!(created.pause, None);
    assert_eq!(created.snapshot.name, "nightly-1");
    assert!(created.snapshot.is_scheduled_for(&id(ID)));
    assert_created(&server, 1);
    let world = server.world();
    // Nothing was unclear, so nothing was asked besides.
    assert_eq!(world.requests.len(), 1);
    let body: serde_json::Value = serde_json::from_str(&world.requests[0].body).unwrap();
    assert_eq!(
        body,
        json!({
            "kind": "Standby", "name": "nightly-1",
            "tags": {"team": "infra", "hypeman.scheduled": "true", "hypeman.schedule_instance_id": ID},
        })
    );
}

#[test]
fn a_lost_answer_makes_one_snapshot() {
    for fault in [Fault::LoseAnswer, Fault::CutAnswer] {
        let server = server();
        server.world().fail(POST, fault);
        let created = create(&engine(&server), State::Running).unwrap();
        assert_eq!(created.snapshot.id.as_str(), "snap001");
        assert!(
            created.warnings[0].contains("broke before"),
            "{:?}",
            created.warnings
        );
        assert_created(&server, 1);
        assert!(server.world().lines(WAKE).is_empty());
    }
}

#[test]
fn an_answer_that_makes_no_sense_is_checked_by_the_name() {
    let server = server();
    let nonsense = Answer::json(201, &json!({"ok": true}));
    server.world().fail(POST, Fault::after(make, nonsense));
    let created = create(&engine(&server), State::Running).unwrap();
    assert_eq!(created.snapshot.name, "nightly-1");
    assert_created(&server, 1);
}

#[test]
fn an_answer_that_is_not_the_servers_own_is_checked_by_the_name() {
    for answer in [
        Answer::text(201, "text/html", "<html>your session has ended</html>"),
        Answer::text(200, "text/plain", "OK"),
        Answer::text(408, "text/plain", "request timeout"),
        Answer::text(502, "text/html", "<html>bad gateway</html>"),
        Answer::text(504, "", ""),
    ] {
        let shown = format!("{answer:?}");
        let server = server();
        server
            .world()
            .fail(POST, Fault::after(make, answer.clone()));
        let created = create(&engine(&server), State::Running)
            .unwrap_or_else(|error| panic!("{shown}: {error}"));
        assert_eq!(created.snapshot.name, "nightly-1", "{shown}");
        assert_created(&server, 1);

        // And where it was not made, that is not certain: the next attempt has to look for it.
        let server = self::server();
        server.world().fail(POST, answer);
        let error = create(&engine(&server), State::Running).unwrap_err();
        assert!(
            matches!(error, EngineError::Unclear { .. }),
            "{shown}: {error}"
        );
        assert_created(&server, 0);
    }
}

#[test]
fn a_creation_that_takes_too_long_is_looked_for() {
    let server = server();
    server.world().fail(POST, Fault::after(make, Fault::Hang));
    let mut settings = settings(&server.url());
    settings.create_timeout = Duration::from_millis(100);
    let created = create(&engine_with(settings), State::Running).unwrap();
    assert!(created.warnings[0].contains("no answer within 0.1 s"));
    assert_created(&server, 1);
}

#[test]
fn a_lost_request_is_not_sent_again_and_its_end_stays_open() {
    let server = server();
    server.world().fail(POST, Fault::Drop);
    let error = create(&engine(&server), State::Running).unwrap_err();
    assert!(matches!(error, EngineError::Unclear { .. }), "{error:?}");
    let message = error.to_string();
    assert!(
        message.contains("nightly-1") && message.contains("looks for it first"),
        "{message}"
    );
    assert_created(&server, 0);
}

#[test]
fn no_creation_is_ever_sent_twice() {
    for status in [429, 500, 502, 503, 504] {
        let server = server();
        for _ in 0..5 {
            let answer = Answer::text(status, "text/plain", "no").with("Retry-After", "0");
            server.world().fail(POST, answer);
        }
        create(&engine(&server), State::Running).unwrap_err();
        assert_created(&server, 0);
    }
}

#[test]
fn a_guest_that_a_failed_creation_left_suspended_is_woken() {
    let server = server();
    server
        .world()
        .fail(POST, Fault::after(suspend, internal_error()));
    let error = create(&engine(&server), State::Running).unwrap_err();
    assert!(matches!(error, EngineError::Instance { .. }), "{error:?}");
    let message = error.to_string();
    assert!(
        message.contains("was not made")
            && message.contains("operation failed")
            && message.contains("woken again"),
        "{message}"
    );
    assert_created(&server, 0);
    assert_eq!(state(&server), "Running");
}

#[test]
fn a_snapshot_that_was_made_before_the_failure_counts_and_the_guest_is_woken() {
    let server = server();
    let change = |world: &mut World| {
        make(world);
        suspend(world);
    };
    server
        .world()
        .fail(POST, Fault::after(change, internal_error()));
    let created = create(&engine(&server), State::Running).unwrap();
    assert_eq!(created.snapshot.name, "nightly-1");
    let warnings = created.warnings.join("\n");
    assert!(
        warnings.contains("operation failed") && warnings.contains("woken again"),
        "{warnings}"
    );
    assert_created(&server, 1);
    assert_eq!(state(&server), "Running");
}

#[test]
fn a_guest_that_cannot_be_woken_is_told_with_the_way_to_do_it() {
    for (is_made, words) in [(false, "was not made"), (true, "was made, but")] {
        let server = server();
        let change = move |world: &mut World| {
            if is_made {
                make(world);
            }
            suspend(world);
        };
        server
            .world()
            .fail(POST, Fault::after(change, internal_error()));
        let refusal = Answer::error(403, "Forbidden", "scope instance:write needed");
        server.world().fail(WAKE, refusal);
        let message = create(&engine(&server), State::Running)
            .unwrap_err()
            .to_string();
        for word in [
            words,
            "left the instance in Standby",
            "instance:write",
            &format!("wake it with POST {}/instances/{ID}/restore", server.url()),
        ] {
            assert!(message.contains(word), "{word:?} is missing: {message}");
        }
        assert_eq!(server.world().lines(WAKE).len(), 1);
    }
}

#[test]
fn a_guest_that_the_server_has_woken_meanwhile_is_not_a_failure() {
    let server = server();
    server
        .world()
        .fail(POST, Fault::after(suspend, internal_error()));
    let late = Answer::error(409, "invalid_state", "instance is not in Standby");
    let wake = |world: &mut World| world.set_state(ID, "Running");
    server.world().fail(WAKE, Fault::after(wake, late));
    let message = create(&engine(&server), State::Running)
        .unwrap_err()
        .to_string();
    assert!(!message.contains("wake it with"), "{message}");
}

#[test]
fn a_guest_that_was_suspended_before_stays_suspended() {
    let server = server();
    suspend(&mut server.world());
    server.world().fail(POST, internal_error());
    create(&engine(&server), State::Standby).unwrap_err();
    assert!(server.world().lines(WAKE).is_empty());
    assert_eq!(state(&server), "Standby");
}

#[test]
fn a_guest_that_is_neither_running_nor_suspended_is_told() {
    let server = server();
    let pause = |world: &mut World| world.set_state(ID, "Paused");
    server
        .world()
        .fail(POST, Fault::after(pause, internal_error()));
    let message = create(&engine(&server), State::Running)
        .unwrap_err()
        .to_string();
    assert!(message.contains("is Paused now"), "{message}");
    assert!(server.world().lines(WAKE).is_empty());
}

#[test]
fn a_server_that_still_copies_behind_a_proxy_is_waited_for_and_not_disturbed() {
    let server = server();
    let page = Answer::text(504, "text/html", "<html>gateway time-out</html>");
    server.world().fail(POST, Fault::after(suspend, page));
    let engine = engine(&server);
    std::thread::scope(|scope| {
        let creation = scope.spawn(|| create(&engine, State::Running));
        // Longer than the time that ends the wait for an instance that looks untouched.
        let looks = || server.world().lines("GET /snapshots").len();
        wait_until(|| looks() > 15);
        make(&mut server.world());
        server.world().set_state(ID, "Running");
        let created = creation.join().unwrap().unwrap();
        assert_eq!(created.snapshot.name, "nightly-1");
    });
    assert_created(&server, 1);
    assert!(server.world().lines(WAKE).is_empty());
}

#[test]
fn a_guest_that_the_server_is_about_to_wake_is_left_to_it() {
    let server = server();
    let change = |world: &mut World| {
        make(world);
        suspend(world);
    };
    server.world().fail(POST, Fault::after(change, Fault::Drop));
    let mut engine = engine(&server);
    engine.pace.untouched_for = Duration::from_secs(60);
    std::thread::scope(|scope| {
        let creation = scope.spawn(|| create(&engine, State::Running));
        let looks = || server.world().lines("GET /instances/").len();
        wait_until(|| looks() > 5);
        server.world().set_state(ID, "Running");
        let created = creation.join().unwrap().unwrap();
        assert!(!created.warnings.concat().contains("woken"));
    });
    assert_created(&server, 1);
    assert!(server.world().lines(WAKE).is_empty());
}

#[test]
fn a_guest_that_stays_suspended_after_its_snapshot_is_listed_is_woken() {
    let server = server();
    let change = |world: &mut World| {
        make(world);
        suspend(world);
    };
    server.world().fail(POST, Fault::after(change, Fault::Drop));
    let created = create(&engine(&server), State::Running).unwrap();
    assert!(created.warnings.concat().contains("woken again"));
    assert_created(&server, 1);
    assert_eq!(state(&server), "Running");
}

#[test]
fn a_guest_that_a_dead_server_left_suspended_is_woken_when_the_time_is_up() {
    let server = server();
    server
        .world()
        .fail(POST, Fault::after(suspend, Fault::Drop));
    let mut settings = settings(&server.url());
    settings.create_timeout = Duration::from_millis(400);
    let began = Instant::now();
    let error = create(&engine_with(settings), State::Running).unwrap_err();
    assert!(began.elapsed() >= Duration::from_millis(400));
    assert!(matches!(error, EngineError::Unclear { .. }), "{error:?}");
    assert!(error.to_string().contains("woken again"), "{error}");
    assert_eq!(state(&server), "Running");
}

#[test]
fn a_server_that_is_gone_altogether_leaves_the_end_open() {
    let server = server();
    let engine = engine_with(HypemanSetup {
        create_timeout: Duration::from_millis(100),
        ..settings(&server.url())
    });
    let failing = |world: &mut World| {
        for _ in 0..1000 {
            world.fail("GET /*", Answer::text(502, "text/html", "<p>"));
        }
    };
    server
        .world()
        .fail(POST, Fault::after(failing, Fault::Drop));
    let error = create(&engine, State::Running).unwrap_err();
    assert!(matches!(error, EngineError::Unclear { .. }), "{error:?}");
    let message = error.to_string();
    assert!(
        message.contains("may or may not") && message.contains("if it is in Standby, wake it with"),
        "{message}"
    );
}

#[test]
fn looks_that_keep_failing_are_given_up_long_before_the_creations_own_limit() {
    let server = server();
    let failing = |world: &mut World| {
        for _ in 0..1000 {
            // One record that can't be read spoils the server's whole list.
            world.fail("GET /snapshots", internal_error());
        }
    };
    server
        .world()
        .fail(POST, Fault::after(failing, Fault::Drop));
    let engine = engine_with(HypemanSetup {
        create_timeout: Duration::from_secs(600),
        ..settings(&server.url())
    });
    let began = Instant::now();
    let error = create(&engine, State::Running).unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(30));
    assert!(matches!(error, EngineError::Unclear { .. }), "{error:?}");
    assert!(error.to_string().contains("may or may not"), "{error}");
}

#[test]
fn an_instance_in_the_wrong_state_is_told_and_nothing_is_looked_for() {
    let server = server();
    server.world().set_state(ID, "Initializing");
    let error = create(&engine(&server), State::Running).unwrap_err();
    assert!(matches!(error, EngineError::Instance { .. }), "{error:?}");
    assert!(
        error.to_string().contains("invalid state transition"),
        "{error}"
    );
    assert_eq!(server.world().requests.len(), 1);
}

#[test]
fn a_name_that_an_earlier_attempt_took_is_that_attempts_snapshot() {
    for state in [State::Running, State::Standby] {
        let server = server();
        make(&mut server.world());
        let created = create(&engine(&server), state).unwrap();
        assert_eq!(created.snapshot.id.as_str(), "snap001");
        assert!(created.warnings[0].contains("was there already"));
        assert_eq!(
            created.warnings[0].contains("wake it with"),
            state == State::Standby,
            "{:?}",
            created.warnings
        );
        assert_created(&server, 1);
    }
}

#[test]
fn a_name_that_somebody_else_took_is_a_conflict() {
    let server = server();
    server
        .world()
        .make_snapshot(ID, "Standby", "nightly-1", &json!({"team": "infra"}));
    let message = create(&engine(&server), State::Running)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("snapshot name already exists"),
        "{message}"
    );
    assert_created(&server, 1);
}

#[test]
fn an_instance_that_is_gone_fails_its_own_run_only() {
    let server = FakeHypeman::start();
    let error = create(&engine(&server), State::Running).unwrap_err();
    assert!(matches!(error, EngineError::Instance { .. }), "{error:?}");
    assert!(error.to_string().contains("not_found"), "{error}");
}

#[test]
fn a_snapshot_of_another_instance_is_undone() {
    let server = FakeHypeman::start();
    // The instance was deleted, and the server takes its id for the beginning of another one's.
    let other = format!("{ID}-2");
    server.world().set_state(&other, "Running");
    let error = create(&engine(&server), State::Running).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains(&other) && message.contains("deleted again"),
        "{message}"
    );
    assert_created(&server, 0);
}

#[test]
fn an_answer_about_another_snapshot_is_not_believed() {
    let server = server();
    let other = server
        .world()
        .make_snapshot(ID, "Standby", "nightly-0", &json!({}));
    server
        .world()
        .fail(POST, Fault::after(make, Answer::json(201, &other)));
    let created = create(&engine(&server), State::Running).unwrap();
    assert_eq!(created.snapshot.id.as_str(), "snap002");
    assert_created(&server, 2);
}

#[test]
fn a_snapshot_of_another_instance_that_is_not_this_calls_own_is_left() {
    let server = server();
    server.world().set_state("vm-b", "Running");
    let other =
        server
            .world()
            .make_snapshot("vm-b", "Standby", "nightly-1", &json!({"team": "infra"}));
    server.world().fail(POST, Answer::json(201, &other));
    let message = create(&engine(&server), State::Running)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("vm-b") && message.contains("is left"),
        "{message}"
    );
    assert_created(&server, 1);
    assert!(server.world().lines("DELETE ").is_empty());
}

#[test]
fn tags_that_the_server_dropped_are_told() {
    let server = server();
    let mut bare = server
        .world()
        .make_snapshot(ID, "Standby", "nightly-1", &json!({}));
    bare.as_object_mut().unwrap().remove("tags");
    server.world().fail(POST, Answer::json(201, &bare));
    let created = create(&engine(&server), State::Running).unwrap();
    assert!(
        created.warnings[0].contains("marker tags"),
        "{:?}",
        created.warnings
    );
}

#[test]
fn a_writable_volume_is_told_in_the_servers_words() {
    let server = server();
    let refusal = Answer::error(501, "not_supported", "read-only volumes required");
    server.world().fail(POST, refusal);
    let message = create(&engine(&server), State::Running)
        .unwrap_err()
        .to_string();
    assert!(message.contains("read-only volumes required"), "{message}");
    assert_eq!(server.world().requests.len(), 1);
}
