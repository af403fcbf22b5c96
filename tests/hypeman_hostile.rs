//! A hypeman server that is not what it should be: whatever it answers, this tool keeps within its memory and its time,
//! prints nothing that a terminal obeys, and removes nothing that it should keep.

#![cfg(test)]

use std::io::{self, Write};

use chrono::TimeDelta;
use serde_json::{Value, json};
use support::cli::{Host, Said, now, said};
use support::fake_hypeman::{FakeHypeman, Fault, KEY};
use support::memory;

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";
const MIB: usize = 1024 * 1024;

struct Api {
    host: Host,
    server: FakeHypeman,
}

impl Api {
    /// A host whose engine is a server with one running instance, on a schedule that keeps one snapshot.
    fn new() -> Self {
        let api = Self {
            host: Host::new(env!("CARGO_BIN_EXE_hypeman-snap")),
            server: FakeHypeman::start(),
        };
        api.server.world().set_state(ID, "Running");
        let at = now().to_rfc3339();
        let schedule = json!({
            "instance_id": ID, "interval": "1h0m0s", "retention": {"max_count": 1},
            "next_run_at": at, "created_at": at, "updated_at": at,
        });
        api.host.write_schedule(ID, schedule.to_string());
        api
    }

    fn run(&self, args: &[&str]) -> Said {
        let mut command = self.host.command();
        command
            .env("HYPEMAN_BASE_URL", self.server.url())
            .env("HYPEMAN_API_KEY", KEY)
            .args(args);
        said(&mut command)
    }
}

/// A long body.
struct Big {
    status: u16,
    /// Its length, nearly.
    bytes: usize,
    first: &'static str,
    /// What stands between its ends, as often as it fits.
    piece: String,
    last: &'static str,
}

/// The answer with such a body.
fn big(body: &Big) -> Fault {
    let (status, bytes, first, last) = (body.status, body.bytes, body.first, body.last);
    let piece = body.piece.clone();
    Fault::Write(Box::new(move |stream: &mut dyn Write| -> io::Result<()> {
        let times = (bytes - first.len() - last.len()) / piece.len();
        let length = first.len() + times * piece.len() + last.len();
        write!(
            stream,
            "HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{first}"
        )?;
        let many = piece.repeat(1 + 65536 / piece.len());
        let mut left = times * piece.len();
        while left > 0 {
            let some = left.min(many.len());
            stream.write_all(&many.as_bytes()[..some])?;
            left -= some;
        }
        stream.write_all(last.as_bytes())
    }))
}

fn record(id: &str, tags: &Value) -> Value {
    json!({
        "id": id, "name": "nightly-20260901-031520", "kind": "Standby", "tags": tags,
        "source_instance_id": ID, "source_instance_name": "web-a", "source_hypervisor": "qemu",
        "created_at": "2026-09-01T03:15:20.123456789Z", "size_bytes": 12_884_901_888_u64,
        "compression_state": "none", "compression": null, "compressed_size_bytes": 0, "uncompressed_size_bytes": 0,
    })
}

fn markers(id: &str) -> Value {
    json!({"hypeman.scheduled": "true", "hypeman.schedule_instance_id": id})
}

/// The most memory that `prune` takes when the server's list of snapshots is `body`, in MiB.
fn peak_mib(body: &Big) -> u64 {
    let api = Api::new();
    for _ in 0..4 {
        api.server.world().fail("GET /snapshots", big(body));
    }
    let mut command = api.host.std_command();
    command
        .env("HYPEMAN_BASE_URL", api.server.url())
        .env("HYPEMAN_API_KEY", KEY)
        .arg("prune");
    let (output, peak_kib) = memory::run(&mut command);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code().is_some(), "{stderr}");
    assert!(stderr.len() < 64 * 1024, "{} bytes", stderr.len());
    peak_kib / 1024
}

#[test]
fn a_list_of_sixty_mebibytes_takes_what_is_kept_of_it() {
    let snapshot = record("s8p1n4f6y0u3e2j7g9l5o1xv", &markers(ID));
    let peak = peak_mib(&Big {
        status: 200,
        bytes: 60 * MIB,
        first: "[",
        piece: format!("{snapshot},"),
        last: "null]",
    });
    assert!(peak < 250, "{peak} MiB");
}

#[test]
fn a_list_that_holds_nothing_of_use_takes_next_to_nothing() {
    let tags: serde_json::Map<String, Value> =
        (0..50).map(|n| (n.to_string(), json!(""))).collect();
    let smallest = json!({
        "id": "a", "kind": "Stopped", "source_instance_id": "", "created_at": "2026-09-01T03:15:20Z", "size_bytes": 0,
        "tags": tags,
    });
    let smallest = format!("{smallest},");
    for (name, status, first, piece, last) in [
        ("tags", 200, "[", &*smallest, "null]"),
        ("empty records", 200, "[", "{},", "null]"),
        ("numbers", 200, "[", "1,", "1]"),
        ("one text", 200, "[{\"id\":\"", "x", "\"}]"),
        (
            "a field that is not known",
            200,
            "[{\"f\":\"",
            "\\u00e4",
            "\"}]",
        ),
        ("lists within lists", 200, "", "[", ""),
        (
            "tags of one record",
            200,
            "[{\"tags\":{\"a\":\"\"",
            ",\"\":\"\"",
            "}}]",
        ),
        ("blanks", 200, "[", " ", "]"),
        ("a refusal", 500, "{\"code\":\"", "x", "\"}"),
        ("a page", 200, "<html>", "x", ""),
    ] {
        let peak = peak_mib(&Big {
            status,
            bytes: MIB,
            first,
            piece: piece.to_owned(),
            last,
        });
        assert!(peak < 50, "{name}: {peak} MiB");
    }
}

/// No line of `text` holds what a terminal obeys, or is longer than a person reads.
fn assert_harmless(text: &str) {
    for line in text.lines() {
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(line.chars().count() < 2000, "{line:?}");
    }
}

#[test]
fn hostile_values_in_lists_are_told_without_harm_and_cost_no_good_snapshot() {
    let api = Api::new();
    let evil = "\u{1b}]0;owned\u{7}\u{1b}[2J\r\n\u{9b}31m\u{202e}";
    let age = |hours| (now() - TimeDelta::hours(hours)).to_rfc3339();
    let good = |id: &str, hours: i64| {
        let mut good = record(id, &markers(ID));
        good["created_at"] = json!(age(hours));
        good
    };
    let with = |id: &str, field: &str, value: Value| {
        let mut record = good(id, 9);
        record[field] = value;
        record
    };
    let mut evil_one = with("evil", "size_bytes", json!(i64::MAX));
    for field in ["name", "source_instance_name", "source_hypervisor"] {
        evil_one[field] = json!(evil);
    }
    let records = json!([
        good("newest", 1),
        good("old", 5),
        // These don't count, whatever they say of themselves.
        with("future", "created_at", json!("9999-12-31T23:59:59Z")),
        with("far-future", "created_at", json!("+262142-12-31T23:59:59Z")),
        with("twice", "created_at", json!(age(0))),
        with("twice", "created_at", json!(age(3))),
        with("other-source", "source_instance_id", json!("vm-b")),
        with("other-tag", "tags", markers("vm-b")),
        with("no-tags", "tags", json!({})),
        with("../../snapshots/newest", "name", json!("x")),
        with("a/b", "name", json!("x")),
        with("", "name", json!("x")),
        with(evil, "name", json!("x")),
        with("too-big", "size_bytes", json!(1e30)),
        with("negative", "size_bytes", json!(-1)),
        with("long-name", "name", json!("x".repeat(100_000))),
        with("kind", "kind", json!(evil)),
        with(
            "many-tags",
            "tags",
            (0..500)
                .map(|n| (n.to_string(), json!("")))
                .collect::<serde_json::Map<_, _>>()
                .into()
        ),
        // These do.
        evil_one,
        with("biggest", "size_bytes", json!(u64::MAX)),
        with("ancient", "created_at", json!("0001-01-01T00:00:00Z")),
        with(
            "before-christ",
            "created_at",
            json!("-262142-01-01T00:00:00Z")
        ),
    ]);
    let records = records.as_array().unwrap().clone();
    api.server.world().snapshots = records;
    let evil_name = format!("name {evil}");
    api.server
        .world()
        .instances
        .insert(ID.to_owned(), (evil_name, "Running".to_owned()));
    for args in [
        &["snapshots"][..],
        &["snapshots", "-o", "json"],
        &["list"],
        &["list", "-o", "json"],
        &["get", ID],
        &["check"],
        &["doctor"],
        &["prune", "--dry-run"],
        &["run-due", "--dry-run", "--force"],
    ] {
        let said = api.run(args);
        assert_harmless(&said.stdout);
        assert_harmless(&said.stderr);
    }
    api.run(&["run-due", "--dry-run", "--force"]).exits(0);
    let told = api.run(&["prune"]).exits(0).stderr;
    for id in [
        "../../snapshots/newest",
        "twice",
        "long-name",
        "many-tags",
        "negative",
    ] {
        assert!(told.contains(id), "{id}: {told}");
    }
    let mut deleted = api.server.world().lines("DELETE ");
    deleted.sort();
    let expected = ["ancient", "before-christ", "biggest", "evil", "old"];
    assert_eq!(
        deleted,
        expected.map(|id| format!("DELETE /snapshots/{id}"))
    );
}
