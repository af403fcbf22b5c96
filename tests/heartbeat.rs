//! `run-due --heartbeat-url`: what a monitor hears, and that a monitor that is away changes nothing.

#![cfg(test)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use support::cli::{Host, Said, said};
use support::guests;

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";

/// A server that records `METHOD path body` and gives scripted answers, then 200s.
struct Monitor {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
    is_stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    /// Each answer is a status line's end and a body; one without a status is no answer at all.
    fn start(answers: &'static [(&'static str, &'static str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let is_stopping = Arc::new(AtomicBool::new(false));
        let (hears, stops) = (Arc::clone(&heard), Arc::clone(&is_stopping));
        let mut answers = answers.iter();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stops.load(Ordering::SeqCst) {
                    return;
                }
                let mut stream = BufReader::new(stream.unwrap());
                hears.lock().unwrap().push(read_request(&mut stream));
                let (status, body) = answers.next().unwrap_or(&("200 OK", "OK"));
                if !status.is_empty() {
                    let answer = format!(
                        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    stream.get_mut().write_all(answer.as_bytes()).unwrap();
                }
            }
        });
        Self {
            address,
            heard,
            is_stopping,
            thread: Some(thread),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What was heard since the last call.
    fn heard(&self) -> Vec<String> {
        std::mem::take(&mut *self.heard.lock().unwrap())
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read_request(stream: &mut impl BufRead) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    let mut length = 0;
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).unwrap();
        let Some((name, value)) = header.trim_end().split_once(':') else {
            break;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    let request = line.trim_end().trim_end_matches(" HTTP/1.1");
    format!("{request} {}", String::from_utf8(body).unwrap())
        .trim_end()
        .to_owned()
}

/// A host whose `web-a` has a schedule.
fn host() -> Host {
    let host = Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"));
    host.run(&["set", "web-a", "--interval", "1h", "--max-count", "2"])
        .exits(0);
    host
}

/// `run-due` with the URL in its environment, as the manual advises, and with everything said.
fn run_due(host: &Host, url: &str, args: &[&str]) -> Said {
    let mut command = host.command();
    command
        .env("HYPEMAN_SNAP_HEARTBEAT_URL", url)
        .args(["run-due", "-vvv"])
        .args(args);
    let said = said(&mut command);
    for secret in ["s3cret", "t0ken"] {
        assert!(!format!("{said:?}").contains(secret), "{said:?}");
    }
    said
}

/// Makes each snapshot of the instance fail.
fn break_instance(host: &Host) {
    guests::spoil(&host.data_dir().join("guests").join(ID));
}

fn repair_instance(host: &Host) {
    guests::mend(&host.data_dir().join("guests").join(ID));
}

#[test]
fn healthchecks_hears_success_failure_and_idle_minutes() {
    let host = host();
    let monitor = Monitor::start(&[]);
    let url = monitor.url("/ping/s3cret");
    run_due(&host, &url, &[]).exits(0);
    assert_eq!(monitor.heard(), ["GET /ping/s3cret"]);
    run_due(&host, &url, &["--force"]).exits(0);
    assert_eq!(monitor.heard(), ["GET /ping/s3cret"]);

    break_instance(&host);
    run_due(&host, &url, &["--force"]).exits(1);
    let failure = format!("POST /ping/s3cret/fail 1 of 1 schedules fail: {ID}");
    assert_eq!(monitor.heard(), std::slice::from_ref(&failure));
    // An idle minute does not take the failure back; only a good snapshot does.
    run_due(&host, &url, &[]).exits(0);
    assert_eq!(monitor.heard(), [failure]);
    repair_instance(&host);
    run_due(&host, &url, &["--force"]).exits(0);
    assert_eq!(monitor.heard(), ["GET /ping/s3cret"]);
}

#[test]
fn retention_that_fails_is_a_failure_until_it_succeeds() {
    let host = host();
    for id in ["old", "older", "oldest"] {
        host.add_snapshot(id, (ID, "web-a"), Duration::from_secs(7200), true);
    }
    let held = host.obstruct_deletion("old");
    let monitor = Monitor::start(&[]);
    let url = monitor.url("/s3cret");
    let failure = format!("POST /s3cret/fail 1 of 1 schedules fail: {ID}");
    for _ in 0..2 {
        host.run(&["prune"]).exits(1);
        run_due(&host, &url, &[]).exits(0);
        assert_eq!(monitor.heard(), std::slice::from_ref(&failure));
    }
    drop(held);
    host.run(&["prune"]).exits(0);
    run_due(&host, &url, &[]).exits(0);
    assert_eq!(monitor.heard(), ["GET /s3cret"]);
}

#[test]
fn uptime_kuma_hears_status_and_message() {
    let host = host();
    let monitor = Monitor::start(&[]);
    let url = monitor.url("/api/push/t0ken?status=up&msg=OK&ping=");
    run_due(&host, &url, &[]).exits(0);
    break_instance(&host);
    run_due(&host, &url, &["--force"]).exits(1);
    assert_eq!(
        monitor.heard(),
        [
            "GET /api/push/t0ken?status=up&msg=OK%3A+1+schedules&ping=".to_owned(),
            format!("GET /api/push/t0ken?status=down&msg=1+of+1+schedules+fail%3A+{ID}&ping="),
        ]
    );
}

#[test]
fn run_that_cannot_begin_is_a_failure() {
    let host = host();
    let monitor = Monitor::start(&[]);
    fs::remove_dir_all(host.state_dir()).unwrap();
    fs::write(host.state_dir(), "a file").unwrap();
    run_due(&host, &monitor.url("/s3cret"), &[]).exits(1);
    let heard = monitor.heard();
    assert!(heard[0].starts_with("POST /s3cret/fail run-due could not run"));
}

#[test]
fn dry_runs_and_recoveries_are_silent_and_so_is_a_run_without_the_flag() {
    let host = host();
    let monitor = Monitor::start(&[]);
    let url = monitor.url("/s3cret");
    run_due(&host, &url, &["--dry-run", "--force"]).exits(0);
    run_due(&host, &url, &["--recover-only"]).exits(0);
    run_due(&host, "", &["--force"]).exits(0);
    assert_eq!(monitor.heard(), [""; 0]);
    host.run(&["run-due", "--heartbeat-url", &url]).exits(0);
    assert_eq!(monitor.heard(), ["GET /s3cret"]);
}

#[test]
fn passing_faults_are_tried_again_and_others_are_not() {
    for (answers, attempts, complaint) in [
        (&[("503 Busy", ""), ("", "")][..], 3, None),
        (&[("", ""); 3], 3, Some("was not taken")),
        (&[("500 Oops", "s3cret"); 3], 3, Some("HTTP status 500")),
        (&[("404 Not Found", "")], 1, Some("HTTP status 404")),
        (&[("302 Found", "")], 1, Some("points elsewhere")),
        (&[("200 OK", "OK (not found)")], 1, Some("OK (not found)")),
    ] {
        let host = host();
        let monitor = Monitor::start(answers);
        let said = run_due(&host, &monitor.url("/s3cret"), &["--force"]).exits(0);
        assert_eq!(monitor.heard().len(), attempts, "{answers:?}");
        assert_eq!(host.snapshots().len(), 1);
        match complaint {
            Some(part) => {
                said.complains(&["warning: the heartbeat to http://127.0.0.1/… ", part]);
            }
            None => assert!(!said.stderr.contains("heartbeat"), "{said:?}"),
        }
    }
}

#[test]
fn monitor_that_is_away_is_a_warning() {
    let host = host();
    // A port that nobody listens on: it was ours a moment ago.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("http://{address}/s3cret");
    run_due(&host, &url, &["--force"])
        .exits(0)
        .complains(&["warning: the heartbeat to http://127.0.0.1/… was not taken"]);
    assert_eq!(host.snapshots().len(), 1);
}

#[test]
fn invalid_url_is_refused_without_being_shown() {
    let host = host();
    for bad in ["s3cret", "ftp://host/s3cret", "file:///s3cret"] {
        run_due(&host, bad, &[])
            .exits(2)
            .complains(&["HYPEMAN_SNAP_HEARTBEAT_URL must b"]);
        let said = host.run(&["run-due", "--heartbeat-url", bad]).exits(2);
        assert!(said.stderr.contains("--heartbeat-url must b"), "{said:?}");
        assert!(!said.stderr.contains("s3cret"), "{said:?}");
    }
}
