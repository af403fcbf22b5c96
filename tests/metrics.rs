//! `run-due --metrics-file`: what a real parser reads from it, in busy minutes and in idle ones.

#![cfg(test)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use fs2::FileExt;
use support::cli::{Host, Said, now, said};
use support::guests;
use support::skip::skipped;

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";
const OTHER_ID: &str = "mk3w0000000000000000000b";
/// A name with all that a label has to escape.
const HOSTILE_NAME: &str = "we\"b\\ b\n\u{202e}ä";

/// Prints `name{sorted labels} value` for each sample, read by Prometheus' own Python client.
const PARSE: &str = r#"
import json, sys
from prometheus_client.parser import text_string_to_metric_families
samples = []
for family in text_string_to_metric_families(sys.stdin.buffer.read().decode()):
    assert family.documentation, family.name
    assert family.type in ("gauge", "counter"), family.name
    for sample in family.samples:
        samples.append([family.type, sample.name, sample.labels, sample.value])
print(json.dumps(samples))
"#;

fn host() -> Host {
    let host = Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"));
    fs::create_dir(host.dir().join("textfile")).unwrap();
    host
}

fn file(host: &Host) -> PathBuf {
    host.dir().join("textfile/hypeman_snap.prom")
}

fn run_due(host: &Host, args: &[&str]) -> Said {
    let mut command = host.command();
    command
        .args(["run-due", "--metrics-file"])
        .arg(file(host))
        .args(args);
    said(&mut command)
}

fn text(host: &Host) -> String {
    fs::read_to_string(file(host)).unwrap()
}

fn set(host: &Host, id: &str) {
    host.run(&["set", id, "--interval", "1h", "--max-count", "2"])
        .exits(0);
}

/// The value of the sample that begins with `start`.
#[track_caller]
fn value(text: &str, start: &str) -> f64 {
    let start = format!("hypeman_snap_{start}");
    let line = text
        .lines()
        .find(|line| line.starts_with(&start))
        .unwrap_or_else(|| panic!("no {start} in {text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Makes each snapshot of the instance fail.
fn break_instance(host: &Host, id: &str) {
    guests::spoil(&host.data_dir().join("guests").join(id));
}

fn has(program: &str, args: &[&str]) -> bool {
    Command::new(program)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn fed(program: &str, args: &[&str], input: &str) -> (bool, String) {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[test]
fn real_parsers_take_it() {
    let host = host();
    host.add_instance(OTHER_ID, HOSTILE_NAME);
    set(&host, ID);
    set(&host, OTHER_ID);
    host.write_schedule("broken", "{");
    run_due(&host, &["--force"]).exits(1);
    break_instance(&host, OTHER_ID);
    run_due(&host, &["--force", "--instance", OTHER_ID]).exits(1);
    let text = text(&host);

    let mut parsers = 0;
    if has("promtool", &["--version"]) {
        parsers += 1;
        let (is_clean, said) = fed("promtool", &["check", "metrics"], &text);
        assert!(is_clean && said.is_empty(), "{said}\n{text}");
    }
    // Debian's module belongs to Debian's interpreter, which need not be the first on the path.
    let python = ["python3", "/usr/bin/python3"]
        .into_iter()
        .find(|python| has(python, &["-c", "import prometheus_client"]));
    if let Some(python) = python {
        parsers += 1;
        let (is_clean, said) = fed(python, &["-c", PARSE], &text);
        assert!(is_clean, "{said}\n{text}");
        let samples: Vec<serde_json::Value> = serde_json::from_str(&said).unwrap();
        let other: Vec<_> = samples
            .iter()
            .filter(|sample| sample[2]["instance_id"] == OTHER_ID)
            .collect();
        assert_eq!(other.len(), 13, "{other:?}");
        for sample in other {
            assert_eq!(sample[2]["name"], HOSTILE_NAME);
            let is_total = sample[1].as_str().unwrap().ends_with("_total");
            assert_eq!(sample[0] == "counter", is_total, "{sample}");
        }
    }
    if parsers == 0 {
        skipped(
            "metrics were read by no real parser: install python3-prometheus-client, or prometheus for its promtool",
        );
    }
}

#[test]
fn it_says_what_happened_to_each_instance() {
    let host = host();
    set(&host, ID);
    set(&host, OTHER_ID);
    break_instance(&host, OTHER_ID);
    let before = now().timestamp();
    for _ in 0..2 {
        run_due(&host, &["--force"]).exits(1);
    }
    let text = text(&host);
    let web_a = format!("{{instance_id=\"{ID}\",name=\"web-a\"}}");
    let web_b = format!("{{instance_id=\"{OTHER_ID}\",name=\"web-b\"}}");
    for (start, expected) in [
        ("last_run_success".to_owned(), 0.0),
        ("engine_up".to_owned(), 1.0),
        ("schedules ".to_owned(), 2.0),
        ("unreadable_schedules".to_owned(), 0.0),
        (format!("runs_total{web_a}"), 2.0),
        (format!("failures_total{web_a}"), 0.0),
        (format!("snapshots{web_a}"), 2.0),
        (format!("runs_total{web_b}"), 2.0),
        (format!("failures_total{web_b}"), 2.0),
        (format!("consecutive_failures{web_b}"), 2.0),
        (format!("snapshots{web_b}"), 0.0),
    ] {
        assert_eq!(value(&text, &start), expected, "{start}");
    }
    assert!(value(&text, &format!("snapshots_size_bytes{web_a}")) > 0.0);
    let success = value(&text, &format!("last_success_timestamp_seconds{web_a}"));
    assert!(success >= before as f64, "{success}");
    assert!(!text.contains(&format!("last_success_timestamp_seconds{web_b}")));
    assert!(!text.contains(&format!("last_pause_seconds{web_a}")));
    assert_eq!(
        value(&text, &format!("newest_snapshot_timestamp_seconds{web_a}")),
        success
    );
    let metadata = file(&host).metadata().unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o644);
    let names: Vec<_> = fs::read_dir(host.dir().join("textfile")).unwrap().collect();
    assert_eq!(names.len(), 1);
}

#[test]
fn retention_that_fails_has_a_metric_until_it_succeeds() {
    let host = host();
    set(&host, ID);
    let web_a = format!("retention_failing{{instance_id=\"{ID}\",name=\"web-a\"}}");
    host.add_snapshot("old", (ID, "web-a"), Duration::from_secs(7200), true);
    run_due(&host, &["--force"]).exits(0);
    assert_eq!(value(&text(&host), &web_a), 0.0);
    let held = host.obstruct_deletion("old");
    run_due(&host, &["--force"]).exits(1);
    assert_eq!(value(&text(&host), &web_a), 1.0);
    run_due(&host, &[]).exits(0);
    assert_eq!(value(&text(&host), &web_a), 1.0);
    drop(held);
    host.run(&["prune"]).exits(0);
    run_due(&host, &[]).exits(0);
    assert_eq!(value(&text(&host), &web_a), 0.0);
}

#[test]
fn idle_minute_writes_its_time_and_looks_at_nothing() {
    let host = host();
    set(&host, ID);
    run_due(&host, &["--force"]).exits(0);
    let first = text(&host);
    // With the data directory away, a look at the snapshots would show.
    let elsewhere = host.dir().join("elsewhere");
    fs::rename(host.data_dir().join("snapshots"), &elsewhere).unwrap();
    let inode = file(&host).metadata().unwrap().ino();
    run_due(&host, &[]).exits(0).is_content();
    let second = text(&host);
    assert_ne!(file(&host).metadata().unwrap().ino(), inode);
    let time = "last_run_timestamp_seconds";
    assert!(value(&second, time) > value(&first, time));
    let stock = |text: &str| text[text.find("# hypeman-snap: ").unwrap()..].to_owned();
    assert_eq!(stock(&second), stock(&first));

    // A schedule that was set since is there in the next idle minute.
    fs::rename(elsewhere, host.data_dir().join("snapshots")).unwrap();
    set(&host, OTHER_ID);
    run_due(&host, &[]).exits(0).is_content();
    assert_eq!(value(&text(&host), "schedules "), 2.0);
    host.run(&["delete", "web-a"]).exits(0);
    run_due(&host, &[]).exits(0).is_content();
    assert_eq!(value(&text(&host), "schedules "), 1.0);
    assert!(!text(&host).contains(ID));
}

#[test]
fn names_stay_while_the_engine_cannot_be_asked() {
    let host = host();
    set(&host, ID);
    run_due(&host, &["--force"]).exits(0);
    fs::rename(host.data_dir(), host.dir().join("elsewhere")).unwrap();
    run_due(&host, &["--force"]).exits(1);
    let text = text(&host);
    assert_eq!(value(&text, "engine_up"), 0.0);
    let web_a = format!("{{instance_id=\"{ID}\",name=\"web-a\"}}");
    assert_eq!(value(&text, &format!("failures_total{web_a}")), 1.0);
    assert!(!text.contains("hypeman_snap_snapshots{"), "{text}");
}

#[test]
fn without_the_flag_and_in_dry_runs_nothing_is_written() {
    let host = host();
    set(&host, ID);
    run_due(&host, &["--dry-run", "--force"]).exits(0);
    run_due(&host, &["--recover-only"]).exits(0);
    host.run(&["run-due", "--force"]).exits(0);
    assert!(!file(&host).exists());
    let mut command = host.command();
    command
        .env("HYPEMAN_SNAP_METRICS_FILE", file(&host))
        .args(["run-due", "--force"]);
    said(&mut command).exits(0);
    assert_eq!(value(&text(&host), "last_run_success"), 1.0);
}

#[test]
fn file_that_cannot_be_written_is_a_warning() {
    let host = host();
    set(&host, ID);
    fs::remove_dir(host.dir().join("textfile")).unwrap();
    run_due(&host, &["--force"])
        .exits(0)
        .complains(&["warning: can't write the metrics file", "hypeman_snap.prom"]);
    assert_eq!(host.snapshots().len(), 1);
}

#[test]
fn neighbour_who_locks_the_directory_holds_nothing_up() {
    let host = host();
    set(&host, ID);
    let directory = fs::File::open(host.dir().join("textfile")).unwrap();
    FileExt::try_lock_exclusive(&directory).unwrap();
    run_due(&host, &["--force"]).exits(0).is_content();
    assert_eq!(value(&text(&host), "last_run_success"), 1.0);
    let lock = host.state_dir().join("locks/.metrics.lock");
    let metadata = lock.metadata().unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
    // What is in the way of ours is said.
    let lock = fs::File::open(lock).unwrap();
    FileExt::try_lock_exclusive(&lock).unwrap();
    run_due(&host, &[]).complains(&["can't write the metrics file", ".metrics.lock"]);
}

#[test]
fn file_must_end_in_prom() {
    let host = host();
    for bad in ["metrics.txt", "metrics", ".prom", "x.prom.tmp"] {
        host.run(&["run-due", "--metrics-file", bad])
            .exits(2)
            .complains(&["--metrics-file", bad, "must end in .prom"]);
    }
    let mut command = host.command();
    command
        .env("HYPEMAN_SNAP_METRICS_FILE", "/x")
        .arg("run-due");
    said(&mut command)
        .exits(2)
        .complains(&["HYPEMAN_SNAP_METRICS_FILE \"/x\""]);
}
