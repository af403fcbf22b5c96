//! Whatever a server, a proxy or a login page answers: each fault has its own words, and none means "gone".

use support::fake_hypeman::{Answer, Fault, World};

use super::*;

/// What each call says about `fault`, which the server shows as often as it is asked.
fn messages(fault: impl Fn() -> Fault) -> Vec<String> {
    let server = server();
    let engine = engine(&server);
    let snapshot = "snap001".parse().unwrap();
    let spoil = |world: &mut World, request: &str| {
        for _ in 0..4 {
            world.fail(request, fault());
        }
    };
    spoil(&mut server.world(), "GET /instances/*");
    let found = engine.find(&id(ID)).found().unwrap_err();
    spoil(&mut server.world(), "GET /instances");
    let instances = engine.instances().unwrap_err();
    spoil(&mut server.world(), "GET /snapshots");
    let list = engine.list().unwrap_err();
    spoil(&mut server.world(), "DELETE /snapshots/*");
    let delete = engine.delete(&snapshot).unwrap_err();
    for whole in [&instances, &list] {
        assert!(matches!(whole, EngineError::Unavailable { .. }), "{whole}");
    }
    let base = server.url();
    [found, instances, list, delete]
        .into_iter()
        .map(|error| {
            let message = error.to_string();
            assert!(message.contains(&base), "{message}");
            assert!(!format!("{error:?}").contains(KEY), "{message}");
            message
        })
        .collect()
}

#[test]
fn every_fault_has_its_own_words_and_a_remedy() {
    type Case = (fn() -> Fault, &'static [&'static str]);
    let cases: &[Case] = &[
        (
            || Answer::error(401, "Unauthorized", "token expired").into(),
            &["401 Unauthorized", "token expired", "wrong or has expired"],
        ),
        (
            || Answer::error(403, "Forbidden", "scope needed").into(),
            &["403 Forbidden", "scope needed", "snapshot:write"],
        ),
        (
            || Answer::error(500, "internal_error", "operation failed").into(),
            &["500", "internal_error: operation failed", "server's log"],
        ),
        (
            || Answer::text(502, "text/html", "<html>bad gateway</html>").into(),
            &["502 Bad Gateway", "an HTML page", "healthy?"],
        ),
        (
            || Answer::text(504, "", "").into(),
            &["504", "empty body", "healthy?"],
        ),
        (
            || Answer::error(429, "rate", "slow down").into(),
            &["429", "slow down", "fewer jobs"],
        ),
        (
            || Answer::text(404, "text/plain", "404 page not found\n").into(),
            &["404", "page not found", "is the base URL right"],
        ),
        (
            || Answer::error(404, "route_not_found", "no route").into(),
            &["404", "route_not_found"],
        ),
        (
            || Answer::text(200, "text/html; charset=utf-8", "please log in").into(),
            &["HTML page", "login page?"],
        ),
        (
            || Answer::text(200, "application/json", "\n <!doctype html>").into(),
            &["HTML page", "login page?"],
        ),
        (
            || {
                Answer::text(302, "text/html", "")
                    .with("Location", "https://sso.example:8443/login?token=abc")
                    .into()
            },
            &["302 Found", "sso.example", "not followed"],
        ),
        (
            || Answer::text(307, "", "").with("Location", "/login").into(),
            &["307", "127.0.0.1", "not followed"],
        ),
        (
            || Answer::text(304, "", "").into(),
            &["304", "nowhere", "not followed"],
        ),
        (|| Fault::Drop, &["broke before its answer was whole"]),
    ];
    let mut seen = Vec::new();
    for (fault, words) in cases {
        for message in messages(fault) {
            for word in *words {
                assert!(message.contains(word), "{word:?} is missing: {message}");
            }
            assert!(!message.contains("token=abc"), "{message}");
            seen.push(message);
        }
    }
    let all = seen.len();
    seen.sort();
    seen.dedup();
    // Only the server's address differs otherwise, and each has its own.
    assert_eq!(seen.len(), all);
}

#[test]
fn an_answer_of_another_form_is_refused() {
    let server = server();
    let engine = engine(&server);
    for body in ["{\"items\": []}", "[", "", "\"ok\"", "\u{1}"] {
        let answer = || Answer::text(200, "application/json", body);
        server.world().fail("GET /instances/*", answer());
        server.world().fail("GET /instances", answer());
        server.world().fail("GET /snapshots", answer());
        for error in [
            engine.find(&id(ID)).found().unwrap_err(),
            engine.instances().unwrap_err(),
            engine.list().unwrap_err(),
        ] {
            let message = error.to_string();
            assert!(message.contains("not the hypeman API's"), "{message}");
        }
    }
}

#[test]
fn an_answer_that_breaks_off_is_asked_for_again_and_never_believed() {
    let server = server();
    server
        .world()
        .make_snapshot(ID, "Standby", "a", &serde_json::json!({}));
    server.world().fail("GET /snapshots", Fault::CutAnswer);
    let engine = engine(&server);
    assert_eq!(engine.list().unwrap().snapshots.len(), 1);
    for _ in 0..4 {
        server.world().fail("GET /snapshots", Fault::CutAnswer);
    }
    let message = engine.list().unwrap_err().to_string();
    assert!(message.contains("broke before"), "{message}");
}

#[test]
fn a_redirect_is_not_followed_and_the_key_stays_here() {
    let elsewhere = FakeHypeman::start();
    let server = server();
    let answer = Answer::text(302, "", "").with("Location", &elsewhere.url());
    server.world().fail("GET /snapshots", answer);
    engine(&server).list().unwrap_err();
    assert_eq!(elsewhere.world().lines("").len(), 0);
}

#[test]
fn a_server_that_nobody_runs_is_unreachable() {
    // The port was free a moment ago, and is closed again.
    let address = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap();
    let engine = engine_with(settings(&format!("http://{address}")));
    let error = engine.find(&id(ID)).found().unwrap_err();
    assert!(matches!(error, EngineError::Unavailable { .. }), "{error}");
    let message = error.to_string();
    assert!(
        message.contains("can't be reached") && message.contains("refused"),
        "{message}"
    );
}

#[test]
fn a_host_that_does_not_exist_is_unreachable() {
    let engine = engine_with(settings("https://hypeman.invalid"));
    let message = engine.list().unwrap_err().to_string();
    assert!(
        message.contains("can't be reached") && message.contains("hypeman.invalid"),
        "{message}"
    );
}

#[test]
fn a_server_that_says_nothing_costs_its_time_out() {
    let server = server();
    server.world().fail("GET /instances/*", Fault::Hang);
    let mut settings = settings(&server.url());
    settings.request_timeout = Duration::from_millis(200);
    let began = Instant::now();
    let message = engine_with(settings)
        .find(&id(ID))
        .found()
        .unwrap_err()
        .to_string();
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(message.contains("no answer within 0.2 s"), "{message}");
}

#[test]
fn an_answer_that_trickles_in_costs_its_time_out() {
    let server = server();
    let trickle = |stream: &mut dyn std::io::Write| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n[")?;
        loop {
            stream.write_all(b" ")?;
            stream.flush()?;
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    server
        .world()
        .fail("GET /snapshots", Fault::Write(Box::new(trickle)));
    let mut settings = settings(&server.url());
    settings.request_timeout = Duration::from_millis(200);
    let began = Instant::now();
    let message = engine_with(settings).list().unwrap_err().to_string();
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(message.contains("no answer within 0.2 s"), "{message}");
}

#[test]
fn a_missing_key_is_told_with_the_places_to_put_it() {
    let server = server();
    let mut settings = settings(&server.url());
    settings.key = KeySource::default();
    let message = engine_with(settings).list().unwrap_err().to_string();
    assert!(
        message.contains("no API key was found") && message.contains("HYPEMAN_API_KEY_FILE"),
        "{message}"
    );
    assert_eq!(server.world().requests[0].authorization, None);
}

#[test]
fn a_server_that_quotes_the_key_does_not_get_it_into_an_error() {
    let server = server();
    for answer in [
        Answer::error(401, "Unauthorized", &format!("bad token {KEY}")),
        Answer::error(401, KEY, "bad token"),
        // Middleware that does not escape: no valid JSON.
        Answer::text(
            401,
            "application/json",
            &format!("{{\"message\": \"bad token \"{KEY}\"\"}}"),
        ),
    ] {
        server.world().fail("GET /snapshots", answer);
        let error = engine(&server).list().unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(
            shown.contains("[redacted]") && !shown.contains(KEY),
            "{shown}"
        );
    }
}

#[test]
fn a_server_that_puts_the_key_into_what_is_not_understood_does_not_get_it_out() {
    let server = server();
    let record = serde_json::json!({"id": format!("x {KEY}"), "kind": KEY, "state": 1});
    let engine = engine(&server);
    let list = Answer::json(200, &serde_json::json!([record]));
    server.world().fail("GET /snapshots", list);
    let listing = engine.list().unwrap();
    assert_eq!(listing.problems.len(), 1);
    server.world().fail(
        "GET /instances/*",
        Answer::json(200, &serde_json::json!(KEY)),
    );
    let found = engine.find(&id(ID)).found().unwrap_err();
    let shown = format!("{:?} {found} {found:?}", listing.problems);
    assert!(
        shown.contains("[redacted]") && !shown.contains(KEY),
        "{shown}"
    );
}

#[test]
fn an_error_body_that_is_no_json_is_shown_without_control_characters() {
    let server = server();
    let body = "{\"code\":\"Bad Request\",\"message\":\"value \"\u{1b}[31m\r\nX\" is bad\"}";
    server.world().fail(
        "GET /snapshots",
        Answer::text(400, "application/json", body),
    );
    let message = engine(&server).list().unwrap_err().to_string();
    assert!(message.contains("400 Bad Request"), "{message}");
    assert!(message.contains("is bad"), "{message}");
    assert!(!message.chars().any(char::is_control), "{message:?}");
}

#[test]
fn only_a_refusal_of_this_request_is_the_instances_own() {
    let server = server();
    let engine = engine(&server);
    for (answer, is_own) in [
        (Answer::error(403, "Forbidden", ""), true),
        (Answer::error(501, "not_supported", ""), true),
        (Answer::error(401, "Unauthorized", ""), false),
        (Answer::text(404, "text/plain", "nothing here"), false),
        (Answer::text(501, "text/html", "<p>"), false),
    ] {
        let status = answer.status;
        server.world().fail("GET /instances/*", answer);
        let error = engine.find(&id(ID)).found().unwrap_err();
        assert_eq!(
            matches!(error, EngineError::Instance { .. }),
            is_own,
            "{status}"
        );
    }
}

#[test]
fn no_debug_print_shows_the_key() {
    let server = server();
    let engine = engine(&server);
    engine.instances().unwrap();
    let shown = format!(
        "{engine:?} {:?} {}",
        settings("x"),
        Secret::new(KEY).unwrap()
    );
    assert!(
        shown.contains("[redacted]") && !shown.contains(KEY),
        "{shown}"
    );
    let sent = server.world().requests[0].authorization.clone();
    assert_eq!(sent, Some(format!("Bearer {KEY}")));
}
