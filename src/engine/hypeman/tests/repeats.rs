//! When a request is repeated, how long that may take, and when it is not even tried.

use support::fake_hypeman::{Answer, Fault};

use super::*;

fn unavailable() -> Answer {
    Answer::text(503, "text/plain", "upstream is starting")
}

#[test]
fn reading_is_repeated_until_the_server_is_back() {
    let server = server();
    for fault in [
        Fault::from(unavailable()),
        Fault::Drop,
        Answer::error(429, "rate", "slow").into(),
    ] {
        server.world().fail("GET /instances/*", fault);
    }
    assert!(engine(&server).find(&id(ID)).found().unwrap().is_some());
    assert_eq!(server.world().lines("GET ").len(), 4);
}

#[test]
fn repeats_end() {
    let server = server();
    for _ in 0..10 {
        server.world().fail("GET /snapshots", unavailable());
    }
    engine(&server).list().unwrap_err();
    assert_eq!(server.world().lines("GET ").len(), 4);
}

#[test]
fn deleting_is_repeated_and_a_lost_answer_is_no_error() {
    let server = server();
    server
        .world()
        .make_snapshot(ID, "Standby", "a", &serde_json::json!({}));
    server.world().fail("DELETE /snapshots/*", unavailable());
    server
        .world()
        .fail("DELETE /snapshots/*", Fault::LoseAnswer);
    engine(&server).delete(&"snap001".parse().unwrap()).unwrap();
    assert!(server.world().snapshots.is_empty());
    assert_eq!(server.world().lines("DELETE ").len(), 3);
}

#[test]
fn refusals_are_not_repeated() {
    let server = server();
    let engine = engine(&server);
    for status in [400, 401, 403, 404, 409, 501] {
        let before = server.world().requests.len();
        let answer = Answer::error(status, "some_code", "no");
        server.world().fail("GET /snapshots", answer);
        engine.list().unwrap_err();
        assert_eq!(server.world().requests.len(), before + 1, "{status}");
    }
}

#[test]
fn the_wait_that_the_server_asks_for_is_kept() {
    let server = server();
    let answer = unavailable().with("Retry-After", "1");
    server.world().fail("GET /snapshots", answer);
    let began = Instant::now();
    engine(&server).list().unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[test]
fn a_wait_that_is_too_long_is_not_begun() {
    let server = server();
    let answer = unavailable().with("Retry-After", "3600");
    server.world().fail("GET /snapshots", answer);
    let began = Instant::now();
    engine(&server).list().unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(3));
    assert_eq!(server.world().lines("GET ").len(), 1);
}

#[test]
fn a_silent_server_is_not_waited_for_once_per_instance() {
    let server = server();
    let mut settings = settings(&server.url());
    settings.request_timeout = Duration::from_millis(100);
    let mut engine = engine_with(settings);
    engine.pace.silence = Duration::from_secs(60);
    server.world().fail("GET /instances/*", Fault::Hang);
    engine.find(&id(ID)).found().unwrap_err();
    let error = engine.find(&id("another")).found().unwrap_err();
    assert!(matches!(error, EngineError::Unavailable { .. }), "{error}");
    let message = error.to_string();
    assert!(
        message.contains("no answer within") && message.contains("not asked again"),
        "{message}"
    );
    assert_eq!(server.world().lines("GET ").len(), 1);
}

#[test]
fn a_server_that_was_silent_is_asked_again_after_a_while() {
    let server = server();
    let mut settings = settings(&server.url());
    settings.request_timeout = Duration::from_millis(100);
    let engine = engine_with(settings);
    server.world().fail("GET /instances/*", Fault::Hang);
    engine.find(&id(ID)).found().unwrap_err();
    // This engine's pace forgets at once.
    assert!(engine.find(&id(ID)).found().unwrap().is_some());
}
