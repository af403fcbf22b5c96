//! A hypeman server that is not what it should be: whatever it answers, this tool keeps within its memory and its time,
//! prints nothing that a terminal obeys, and removes nothing that it should keep.

#![cfg(test)]

use std::io::{self, Write};

use serde_json::{Value, json};
use support::cli::{Host, now};
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
            bytes: 2 * MIB,
            first,
            piece: piece.to_owned(),
            last,
        });
        assert!(peak < 60, "{name}: {peak} MiB");
    }
}
