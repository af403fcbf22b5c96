//! Facts about one schedule file: hypeman's own are read and kept, hostile ones are refused.

use std::cell::Cell;
use std::fs;
use std::time::SystemTime;

use proptest::prelude::*;

use super::*;

/// As hypeman's Go code writes it: two spaces, no line end.
const HYPEMANS: &str = r#"{
  "instance_id": "mk3v9t0xq2r7w5d8h1c6b4za",
  "interval": "24h0m0s",
  "name_prefix": "nightly",
  "metadata": {
    "team": "infra"
  },
  "retention": {
    "max_count": 7,
    "max_age": "168h0m0s"
  },
  "next_run_at": "2026-09-03T03:15:20Z",
  "last_run_at": "2026-09-02T03:15:20Z",
  "last_snapshot_id": "s8p1n4f6y0u3e2j7g9l5o1xv",
  "created_at": "2026-08-20T03:11:05Z",
  "updated_at": "2026-09-02T03:15:20Z"
}"#;

/// With all that this tool adds, and with what neither knows.
const FULL: &str = r#"{
  "instance_id": "mk3v9t0xq2r7w5d8h1c6b4za",
  "interval": "1h30m0s",
  "retention": {
    "max_count": 7,
    "keep_weekly": {
      "count": 4,
      "on": [
        "sun"
      ]
    }
  },
  "next_run_at": "2026-09-03T03:15:20.500Z",
  "last_run_at": "2026-09-02T03:15:20Z",
  "last_error": "disk \"a\" is full: <no space>",
  "created_at": "2026-08-20T03:11:05Z",
  "updated_at": "2026-09-02T03:15:20Z",
  "retry_at": "2026-09-02T03:17:20Z",
  "consecutive_failures": 2,
  "attempt": {
    "run_at": "2026-09-02T03:15:20Z",
    "snapshot_name": "scheduled-20260902-031520",
    "tries": 3,
    "started_at": "2026-09-02T03:15:21Z"
  },
  "last_success_at": "2026-09-01T03:15:20Z",
  "last_pause_ms": 4.25,
  "last_duration_ms": 1234,
  "missing_since": "2026-09-02T00:00:00Z",
  "hooks": {
    "pre": [
      "fsfreeze",
      "-f",
      "/srv/a b"
    ],
    "failure": [
      "/usr/local/bin/notify"
    ],
    "timeout": "30s",
    "on_sundays": true
  },
  "paused": false,
  "windows": [
    {
      "from": null,
      "weight": -1.5,
      "big": 18446744073709551615
    }
  ]
}
"#;

fn id() -> InstanceId {
    "mk3v9t0xq2r7w5d8h1c6b4za".parse().unwrap()
}

fn decoded(text: &str) -> Result<Schedule, String> {
    decode(text.as_bytes(), &id()).map_err(describe)
}

fn describe(refusal: Refusal) -> String {
    match refusal {
        Refusal::Malformed(error) => format!("malformed: {error}"),
        Refusal::Invalid(rule) => format!("invalid: {rule}"),
    }
}

fn encoded(schedule: &Schedule) -> String {
    String::from_utf8(encode(schedule).unwrap()).unwrap()
}

/// Writes `bytes` as a file that nobody is writing any more.
fn settled(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000))
        .unwrap();
}

#[test]
fn a_file_of_hypeman_is_written_back_as_it_was() {
    let schedule = decoded(HYPEMANS).unwrap();
    assert_eq!(schedule.interval, Duration::from_secs(24 * 3600));
    assert_eq!(schedule.name_prefix.as_deref(), Some("nightly"));
    assert_eq!(encoded(&schedule), format!("{HYPEMANS}\n"));
}

#[test]
fn unknown_fields_survive_at_every_level() {
    assert_eq!(encoded(&decoded(FULL).unwrap()), FULL);
}

#[test]
fn unknown_fields_anywhere_end_up_behind_the_known_ones() {
    let text = HYPEMANS.replacen('{', "{\n  \"zone\": {\"a\": [1, {\"b\": null}]},", 1);
    let written = encoded(&decoded(&text).unwrap());
    assert!(written.starts_with("{\n  \"instance_id\""), "{written}");
    let value: serde_json::Value = serde_json::from_str(&written).unwrap();
    assert_eq!(value["zone"], serde_json::json!({"a": [1, {"b": null}]}));
}

#[test]
fn peek_sees_the_times() {
    let times = |text: &str| peek(text.as_bytes(), &id()).map_err(describe).unwrap();
    for text in [HYPEMANS, FULL] {
        assert_eq!(times(text), decoded(text).unwrap().times());
    }
    assert_eq!(
        times(FULL).attempt,
        Some(("2026-09-02T03:15:21Z".parse().unwrap(), 3))
    );
}

#[test]
fn a_cut_file_is_refused_wherever_it_is_cut() {
    for end in 0..HYPEMANS.len() {
        let bytes = &HYPEMANS.as_bytes()[..end];
        assert!(
            matches!(decode(bytes, &id()), Err(Refusal::Malformed(_))),
            "{end}"
        );
        assert!(
            matches!(peek(bytes, &id()), Err(Refusal::Malformed(_))),
            "{end}"
        );
    }
}

#[test]
fn hostile_content_is_refused_by_load_and_by_peek() {
    let with = |old: &str, new: &str| {
        assert!(HYPEMANS.contains(old), "{old}");
        HYPEMANS.replacen(old, new, 1)
    };
    let interval = |text: &str| with(r#""24h0m0s""#, text);
    let count = |text: &str| with(": 7", text);
    for (text, kind) in [
        (String::new(), "malformed"),
        ("null".to_owned(), "malformed"),
        ("[]".to_owned(), "malformed"),
        ("{}".to_owned(), "malformed"),
        ("\0".repeat(4096), "malformed"),
        (format!("{HYPEMANS}\0"), "malformed"),
        (format!("{HYPEMANS}{HYPEMANS}"), "malformed"),
        (format!("\u{feff}{HYPEMANS}"), "malformed"),
        (with("24h0m0s", "24h0m0s\0"), "malformed"),
        (with("{", "{\"interval\": \"1h0m0s\","), "malformed"),
        (with("\"next_run_at\"", "\"next_run\""), "malformed"),
        (with("\"retention\"", "\"retain\""), "malformed"),
        (with("2026-09-03T03:15:20Z", "tomorrow"), "malformed"),
        (
            with("2026-09-03T03:15:20Z", "2026-13-03T03:15:20Z"),
            "malformed",
        ),
        (
            with("2026-09-03T03:15:20Z", "99999999-01-01T00:00:00Z"),
            "malformed",
        ),
        (with("\"2026-09-03T03:15:20Z\"", "1788405320"), "malformed"),
        (interval("86400"), "malformed"),
        (interval("null"), "malformed"),
        (interval("\"-24h0m0s\""), "malformed"),
        (interval("\"99999999999999999999h\""), "malformed"),
        (interval("\"2562048h0m0s\""), "malformed"),
        (interval("[\"24h\"]"), "malformed"),
        (interval("\"0s\""), "invalid"),
        (interval("\"59s\""), "invalid"),
        (count(": -1"), "malformed"),
        (count(": 7.5"), "malformed"),
        (count(": \"7\""), "malformed"),
        (count(": null"), "malformed"),
        (count(": 1e400"), "malformed"),
        (count(": 99999999999999999999999999"), "malformed"),
        (with("7,\n    \"max_age\": \"168h0m0s\"", "0"), "invalid"),
        (with("168h0m0s", "168"), "malformed"),
        (
            with("mk3v9t0xq2r7w5d8h1c6b4za", "mk3v9t0xq2r7w5d8h1c6b4zb"),
            "invalid",
        ),
        (with("\"mk3v9t0xq2r7w5d8h1c6b4za\"", "7"), "malformed"),
    ] {
        let load = decoded(&text).expect_err(&text);
        assert!(load.starts_with(kind), "{text}: {load}");
        let peek = peek(text.as_bytes(), &id())
            .map_err(describe)
            .expect_err(&text);
        assert!(peek.starts_with(kind), "{text}: {peek}");
    }
}

#[test]
fn hostile_content_that_no_run_time_hangs_on_is_refused_by_load() {
    let with = |old: &str, new: &str| HYPEMANS.replacen(old, new, 1);
    let nested = format!(
        "{{\"deep\": {}{},",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    for text in [
        with("\"nightly\"", "\"../../etc\""),
        with("\"nightly\"", "5"),
        with("\"infra\"", "5"),
        with("\"infra\"", "null"),
        with("{\n    \"team\": \"infra\"\n  }", "[]"),
        with("\"s8p1n4f6y0u3e2j7g9l5o1xv\"", "{}"),
        with("\"2026-08-20T03:11:05Z\"", "0"),
        with("{", "{\"consecutive_failures\": 4294967296,"),
        with("{", "{\"attempt\": {},"),
        with("{", &nested),
        with("{", "{\"huge\": 1e999,"),
    ] {
        assert!(decoded(&text).is_err(), "{}", &text[..200]);
    }
    let bytes = [HYPEMANS.as_bytes(), b"\xff"].concat();
    assert!(decode(&bytes, &id()).is_err());
}

#[test]
fn what_is_no_regular_file_is_refused_unread() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    settled(&path("target"), HYPEMANS.as_bytes());
    std::os::unix::fs::symlink(path("target"), path("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", path("dangling")).unwrap();
    fs::create_dir(path("directory")).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path("fifo"),
        fifo,
        Mode::RUSR | Mode::WUSR,
        0,
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    for (name, found) in [
        ("link", "a symbolic link"),
        ("dangling", "a symbolic link"),
        ("directory", "a directory"),
        ("fifo", "a FIFO"),
        ("socket", "a socket"),
    ] {
        let error = read(&path(name), |_| Ok(())).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "{} is {found} and no regular file; remove it, then set the schedule again",
                path(name).display()
            )
        );
    }
    let device = read(Path::new("/dev/zero"), |_| Ok(())).unwrap_err();
    assert!(device.to_string().contains("a device"), "{device}");
}

#[test]
fn a_fifo_that_somebody_writes_to_is_refused_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &path, fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    // Read and write: opening it this way waits for nobody.
    let _writer = File::options().read(true).write(true).open(&path).unwrap();
    let error = read(&path, |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("a FIFO"), "{error}");
}

#[test]
fn a_file_over_a_mebibyte_is_refused_unread() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.json");
    let padded = |size: usize| {
        let mut bytes = HYPEMANS.as_bytes().to_vec();
        bytes.resize(size, b' ');
        settled(&path, &bytes);
        read(&path, |bytes| decode(bytes, &id()))
    };
    assert!(padded(1 << 20).unwrap().is_some());
    let error = padded((1 << 20) + 1).unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::TooLarge {
                size_bytes: 1_048_577,
                ..
            }
        ),
        "{error}"
    );
    // A sparse file costs nothing to make; reading it would cost everything.
    File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let error = read(&path, |bytes| decode(bytes, &id())).unwrap_err();
    assert!(
        error.to_string().contains("has 1099511627776 bytes"),
        "{error}"
    );
}

#[test]
fn a_file_that_is_being_overwritten_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.json");
    fs::write(&path, "").unwrap();
    let waits = Cell::new(0);
    let schedule = read_patiently(
        &path,
        |bytes| decode(bytes, &id()),
        |_| {
            waits.set(waits.get() + 1);
            let end = if waits.get() < 3 { 100 } else { HYPEMANS.len() };
            fs::write(&path, &HYPEMANS[..end]).unwrap();
        },
    );
    assert_eq!(
        schedule.unwrap().map(|(schedule, _)| schedule),
        Some(decoded(HYPEMANS).unwrap())
    );
    assert_eq!(waits.get(), 3);
}

#[test]
fn a_file_that_vanishes_meanwhile_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.json");
    fs::write(&path, "").unwrap();
    let schedule = read_patiently(
        &path,
        |bytes| decode(bytes, &id()),
        |_| fs::remove_file(&path).unwrap(),
    );
    assert!(schedule.unwrap().is_none());
}

#[test]
fn patience_ends_soon_and_is_for_fresh_files_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.json");
    let waited = |bytes: &[u8], write: fn(&Path, &[u8])| {
        write(&path, bytes);
        let waited = Cell::new(Duration::ZERO);
        let result = read_patiently(
            &path,
            |bytes| decode(bytes, &id()),
            |pause| waited.set(waited.get() + pause),
        );
        let error = result.unwrap_err();
        assert!(
            error.to_string().starts_with(&path.display().to_string()),
            "{error}"
        );
        waited.get()
    };
    let fresh: fn(&Path, &[u8]) = |path, bytes| fs::write(path, bytes).unwrap();
    assert_eq!(waited(b"{", fresh), Duration::from_millis(75));
    assert_eq!(waited(b"{", settled), Duration::ZERO);
    // A broken rule does not mend itself.
    let invalid = HYPEMANS.replacen("24h0m0s", "1s", 1);
    assert_eq!(waited(invalid.as_bytes(), fresh), Duration::ZERO);
}

#[test]
fn numbers_that_nobody_here_knows_stay_what_they_are() {
    for number in [
        "-118446744073709551615",
        "1e23",
        "0.1",
        "18446744073709551615",
        "5e-324",
    ] {
        let text = HYPEMANS.replacen('{', &format!("{{ \"weight\": {number},"), 1);
        let schedule = decoded(&text).unwrap();
        assert_eq!(
            decoded(&encoded(&schedule)).as_ref(),
            Ok(&schedule),
            "{number}"
        );
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        let _ = decode(&bytes, &id());
        let _ = peek(&bytes, &id());
    }

    #[test]
    fn peek_agrees_with_load_on_damaged_files(
        damage in proptest::collection::vec((0..FULL.len(), any::<u8>()), 0..4),
        cut in proptest::option::of((0..FULL.len(), 0usize..40)),
    ) {
        let mut bytes = FULL.as_bytes().to_vec();
        for (at, byte) in damage {
            bytes[at] = byte;
        }
        if let Some((start, length)) = cut {
            bytes.drain(start..(start + length).min(FULL.len()));
        }
        if let Ok(schedule) = decode(&bytes, &id()) {
            let times = peek(&bytes, &id()).map_err(describe);
            prop_assert_eq!(times, Ok(schedule.times()));
            let again = encoded(&schedule);
            prop_assert_eq!(decoded(&again), Ok(schedule));
        }
    }
}
