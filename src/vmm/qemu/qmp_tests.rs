//! The connection against a monitor that misbehaves on a real socket.

use std::io::{BufRead, BufReader, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use tempfile::TempDir;

use super::*;

const LIMIT: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(100);
const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "x"}, "capabilities": ["oob"]}}"#;

fn within(request: Duration) -> Timeouts {
    Timeouts {
        request,
        watch: Watch::unlimited(),
    }
}

/// The monitor's side of a connection, in the hands of a script.
struct Side {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Side {
    fn say(&mut self, line: &str) {
        self.stream.write_all(line.as_bytes()).unwrap();
        self.stream.write_all(b"\r\n").unwrap();
    }

    /// The next request.
    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// Stays there, silent, until the client goes away.
    fn wait_for_the_end(&mut self) {
        while self
            .lines
            .read_line(&mut String::new())
            .is_ok_and(|length| length > 0)
        {}
    }

    fn answer(&mut self, result: &Value) {
        let request = self.hear();
        self.say(&json!({"return": result, "id": request["id"]}).to_string());
    }
}

/// Starts a monitor that takes one client and plays `script`.
fn monitor(script: impl FnOnce(&mut Side) + Send + 'static) -> (TempDir, PathBuf, JoinHandle<()>) {
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    let path = directory.path().join("qmp");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap());
        script(&mut Side { stream, lines });
    });
    (directory, path, thread)
}

/// As [`monitor`], after the greeting and the negotiation.
fn negotiated(
    script: impl FnOnce(&mut Side) + Send + 'static,
) -> (TempDir, PathBuf, JoinHandle<()>) {
    monitor(|side| {
        side.say(GREETING);
        side.answer(&json!({}));
        script(side);
    })
}

#[test]
fn answers_are_told_from_events_and_from_late_answers() {
    let (_directory, path, thread) = negotiated(|side| {
        let first = side.hear();
        assert_eq!(first["execute"], "slow");
        let second = side.hear();
        side.say(&json!({"return": "late", "id": first["id"]}).to_string());
        side.say(r#"{"timestamp": {"seconds": 5, "microseconds": 7}, "event": "STOP"}"#);
        side.say(r#"{"timestamp": {"seconds": 5, "microseconds": 9}, "event": "NIC_RX"}"#);
        side.say(&json!({"return": second["arguments"], "id": second["id"]}).to_string());
        side.say(r#"{"timestamp": {"seconds": -1, "microseconds": -1}, "event": "RESUME"}"#);
    });
    let mut qmp = Qmp::connect(&path, within(LIMIT)).unwrap();
    assert_eq!(
        *qmp.version(),
        Version {
            major: 7,
            minor: 2,
            micro: 22
        }
    );
    let slow = qmp.query_by::<Value>("slow", &json!({}), Deadline::after(SHORT));
    assert!(matches!(slow, Err(VmmError::PauseTooLong { .. })));
    let answer: Value = qmp.query("fast", &json!({"x": 1})).unwrap();
    assert_eq!(answer, json!({"x": 1}));
    thread.join().unwrap();
    qmp.listen(LIMIT).unwrap();
    let stop = RunChange {
        runs: false,
        at: Some(Duration::new(5, 7000)),
    };
    let resume = RunChange {
        runs: true,
        at: None,
    };
    assert_eq!(qmp.changes(), [stop, resume]);
}

#[test]
fn a_refusal_carries_the_vmms_own_words() {
    let (_directory, path, _thread) = negotiated(|side| {
        let request = side.hear();
        let error = json!({"class": "GenericError", "desc": "Node 'x' is busy"});
        side.say(&json!({"error": error, "id": request["id"]}).to_string());
        side.hear();
        side.say(r#"{"error": {"class": "GenericError", "desc": "Invalid JSON syntax"}}"#);
    });
    let mut qmp = Qmp::connect(&path, within(LIMIT)).unwrap();
    let refused = qmp.execute("transaction", &json!({})).unwrap_err();
    let text = "the VMM refused transaction: Node 'x' is busy";
    assert_eq!(refused.to_string(), text);
    let refused = qmp.execute("stop", &json!({})).unwrap_err().to_string();
    assert!(refused.contains("Invalid JSON syntax"), "{refused}");
}

#[test]
fn a_descriptor_arrives_with_its_command() {
    // The kernel drops descriptors that a plain read does not ask for, so the read itself is looked at.
    let (_directory, path, thread) = negotiated(|side| {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = rustix::net::RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 4096];
        let message = rustix::net::recvmsg(
            &side.stream,
            &mut [std::io::IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            rustix::net::RecvFlags::empty(),
        )
        .unwrap();
        let request: Value = serde_json::from_slice(&bytes[..message.bytes]).unwrap();
        assert_eq!(request["execute"], "getfd");
        let fds: Vec<_> = ancillary
            .drain()
            .flat_map(|message| {
                if let rustix::net::RecvAncillaryMessage::ScmRights(fds) = message {
                    fds.collect()
                } else {
                    Vec::new()
                }
            })
            .collect();
        assert_eq!(fds.len(), 1);
        side.say(&json!({"return": {}, "id": request["id"]}).to_string());
    });
    let mut qmp = Qmp::connect(&path, within(LIMIT)).unwrap();
    let file = tempfile::tempfile().unwrap();
    qmp.query_with_fd::<Value>("getfd", &json!({"fdname": "x"}), file.as_fd())
        .unwrap();
    thread.join().unwrap();
}

#[test]
fn silence_is_over_at_the_limit() {
    let (_directory, path, _thread) = negotiated(|side| {
        side.hear();
        side.wait_for_the_end();
    });
    let mut qmp = Qmp::connect(&path, within(SHORT)).unwrap();
    let start = Instant::now();
    let error = qmp.execute("query-status", &json!({})).unwrap_err();
    assert!(matches!(error, VmmError::TimedOut { hint: None, .. }));
    assert!(error.to_string().contains("query-status"), "{error}");
    assert!(start.elapsed() >= SHORT && start.elapsed() < LIMIT);
}

#[test]
fn a_signal_is_heeded_within_a_wait_unless_it_is_to_be_ignored() {
    static SIGNAL: AtomicBool = AtomicBool::new(false);
    let (_directory, path, _thread) = negotiated(|side| {
        side.hear();
        SIGNAL.store(true, Ordering::SeqCst);
        side.answer(&json!("answered"));
        side.wait_for_the_end();
    });
    let signal = || SIGNAL.load(Ordering::SeqCst).then(Instant::now);
    let timeouts = Timeouts {
        watch: Watch::unlimited().with_signal(signal),
        ..within(LIMIT)
    };
    let mut qmp = Qmp::connect(&path, timeouts).unwrap();
    let error = qmp.execute("never", &json!({})).unwrap_err();
    assert!(matches!(error, VmmError::Over(_)), "{error}");
    qmp.ignore_interrupts();
    let answer: Value = qmp.query("cont", &json!({})).unwrap();
    assert_eq!(answer, "answered");
    qmp.heed_interrupts();
    let error = qmp.execute("never", &json!({})).unwrap_err();
    assert!(matches!(error, VmmError::Over(_)), "{error}");
}

#[test]
fn a_monitor_that_goes_away_is_closed() {
    let (_directory, path, thread) = negotiated(|side| {
        side.hear();
    });
    let mut qmp = Qmp::connect(&path, within(LIMIT)).unwrap();
    for _ in 0..2 {
        let error = qmp.execute("stop", &json!({})).unwrap_err();
        assert!(matches!(error, VmmError::Closed { .. }), "{error}");
    }
    thread.join().unwrap();
}

#[test]
fn half_an_answer_is_no_answer() {
    let (_directory, path, _thread) = negotiated(|side| {
        let request = side.hear();
        let answer = json!({"return": {}, "id": request["id"]}).to_string();
        side.stream
            .write_all(&answer.as_bytes()[..answer.len() - 1])
            .unwrap();
    });
    let mut qmp = Qmp::connect(&path, within(LIMIT)).unwrap();
    let error = qmp.execute("stop", &json!({})).unwrap_err();
    assert!(matches!(error, VmmError::Closed { .. }), "{error}");
}

#[test]
fn what_greets_otherwise_is_no_qmp_monitor() {
    for greeting in [
        "QEMU 7.2.22 monitor - type 'help'",
        "{}",
        "[1]",
        "HTTP/1.1 400",
    ] {
        let (_directory, path, _thread) = monitor(move |side| {
            side.say(greeting);
            side.wait_for_the_end();
        });
        let error = Qmp::connect(&path, within(LIMIT)).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, VmmError::Protocol { .. }), "{text}");
        assert!(text.contains("no QMP monitor"), "{text}");
    }
}

#[test]
fn nobody_behind_the_socket_is_unreachable() {
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    let path = directory.path().join("qmp");
    let missing = Qmp::connect(&path, within(LIMIT)).unwrap_err();
    drop(UnixListener::bind(&path).unwrap());
    let stale = Qmp::connect(&path, within(LIMIT)).unwrap_err();
    let long = Qmp::connect(&directory.path().join("x".repeat(200)), within(LIMIT)).unwrap_err();
    for error in [missing, stale, long] {
        assert!(matches!(error, VmmError::Unreachable { .. }), "{error}");
    }
}

#[test]
fn a_flood_of_stops_and_resumes_takes_bounded_memory() {
    let (_directory, path, _thread) = negotiated(|side| {
        let request = side.hear();
        for second in 0..3 * MAX_CHANGES {
            side.say(
                &json!({"event": "STOP", "timestamp": {"seconds": second, "microseconds": 0}})
                    .to_string(),
            );
        }
        side.say(&json!({"return": {}, "id": request["id"]}).to_string());
    });
    let mut qmp = Qmp::connect(&path, within(LIMIT)).unwrap();
    qmp.execute("query-status", &json!({})).unwrap();
    assert_eq!(qmp.changes().len(), MAX_CHANGES);
    let newest = qmp.changes().last().and_then(|change| change.at);
    assert_eq!(
        newest,
        Some(Duration::from_secs(3 * MAX_CHANGES as u64 - 1))
    );
}

#[test]
fn an_answer_that_drips_is_over_at_the_limit_all_the_same() {
    let (_directory, path, _thread) = negotiated(|side| {
        side.hear();
        // A byte well within each wait, and never the end of a line.
        while side.stream.write_all(b" ").is_ok() {
            std::thread::sleep(SHORT / 10);
        }
    });
    let mut qmp = Qmp::connect(&path, within(SHORT)).unwrap();
    let start = Instant::now();
    let error = qmp.execute("query-status", &json!({})).unwrap_err();
    assert!(matches!(error, VmmError::TimedOut { .. }), "{error}");
    assert!(start.elapsed() < LIMIT);
}

#[test]
fn events_without_end_are_no_answer() {
    let (_directory, path, _thread) = negotiated(|side| {
        side.hear();
        while side
            .stream
            .write_all(b"{\"event\": \"NIC_RX_FILTER_CHANGED\"}\r\n")
            .is_ok()
        {}
    });
    let mut qmp = Qmp::connect(&path, within(SHORT)).unwrap();
    let start = Instant::now();
    let error = qmp.execute("query-status", &json!({})).unwrap_err();
    assert!(matches!(error, VmmError::TimedOut { .. }), "{error}");
    assert!(start.elapsed() < LIMIT);
}
