//! What a person sees on a terminal, and what a program gets instead: colours, relative times and progress are for
//! terminals only, and what is not for a terminal is plain and complete.

#![cfg(test)]

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use support::cli::Host;
use support::fake_vmm::{Dialect, FakeVmm, Fault, Request};
use support::terminal::Terminal;

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";
const ESCAPE: char = '\u{1b}';

/// A host with a failed schedule, and snapshots of which one is about to go.
fn host() -> Host {
    let host = Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"));
    let schedule = json!({
        "instance_id": ID,
        "interval": "24h0m0s",
        "retention": {"max_count": 1},
        "next_run_at": "2126-09-03T03:15:20Z",
        "last_run_at": "2026-09-02T03:15:20Z",
        "last_error": "no space left on device",
        "created_at": "2026-08-20T03:11:05Z",
        "updated_at": "2026-09-02T03:15:20Z",
    });
    host.write_schedule(ID, schedule.to_string());
    for (id, hours) in [("s1", 1), ("s2", 2)] {
        let age = Duration::from_secs(hours * 3600 + 30);
        host.add_snapshot(id, (ID, "web-a"), age, true);
    }
    host
}

#[test]
fn a_row_is_one_line_and_wide_shows_all_columns() {
    let host = host();
    for arguments in [&["list"][..], &["ls"]] {
        let shown = on_a_terminal(&host, arguments, &[("NO_COLOR", "1")]);
        let lines: Vec<&str> = shown.lines().map(str::trim_end).collect();
        assert_eq!(lines.len(), 2, "{shown}");
        assert!(
            lines.iter().all(|line| line.chars().count() <= 100),
            "{shown}"
        );
        // The name tells which instance it is.
        assert!(
            lines[0].starts_with("NAME") && lines[0].ends_with("LAST RUN"),
            "{shown}"
        );
        assert!(lines[1].contains("failed"), "{shown}");
    }
    let wide = on_a_terminal(&host, &["list", "-o", "wide"], &[("NO_COLOR", "1")]);
    assert!(
        wide.contains("INSTANCE") && wide.contains("FAILURES"),
        "{wide}"
    );
}

fn command(host: &Host, arguments: &[&str]) -> Command {
    let mut command = host.std_command();
    command
        .args(arguments)
        .env("TERM", "xterm")
        .env("TZ", "EAT-3")
        .stdin(Stdio::null());
    command
}

/// What the command shows on a terminal that its stdout is.
fn on_a_terminal(host: &Host, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let terminal = Terminal::open();
    let mut command = command(host, arguments);
    command
        .envs(variables.iter().copied())
        .stdout(terminal.stream())
        .stderr(Stdio::null());
    command.status().unwrap();
    drop(command);
    terminal.shown()
}

/// What a program reads from the command.
fn piped(host: &Host, arguments: &[&str]) -> String {
    String::from_utf8(command(host, arguments).output().unwrap().stdout).unwrap()
}

#[test]
fn tables_have_colours_and_relative_times_on_a_terminal_only() {
    let host = host();
    for (arguments, on_terminal, in_pipe) in [
        (
            &["list"][..],
            &["\u{1b}[31mfailed ", " ago: no space", "1h old"][..],
            &["failed 2026-09-02 06:15:20 +03:00: no space"][..],
        ),
        (
            &["snapshots"],
            &["AGE", "\u{1b}[33mgoes: ", "  1h", "  2h"],
            &["CREATED", "goes: ", " +03:00  "],
        ),
        (
            &["get", "web-a"],
            &[
                "2026-09-02 06:15:20 +03:00 (",
                " ago)",
                "\u{1b}[31mno space",
            ],
            &["last run     2026-09-02 06:15:20 +03:00\n", "no space left"],
        ),
        (
            &["prune", "--dry-run"],
            &["\u{1b}[33mwould prune 1: s2\u{1b}[39m"],
            &["would prune 1: s2\n"],
        ),
        (
            &["run-due", "--force", "--dry-run"],
            &["would snapshot", "\u{1b}[33mwould prune 2"],
            &["would snapshot", ", would prune 2: s2 s1\n"],
        ),
    ] {
        let shown = on_a_terminal(&host, arguments, &[]);
        for part in on_terminal {
            assert!(shown.contains(part), "{part:?} in {shown}");
        }
        let read = piped(&host, arguments);
        for part in in_pipe {
            assert!(read.contains(part), "{part:?} in {read}");
        }
        for gone in [" ago", "1h old", "\u{1b}"] {
            assert!(!read.contains(gone), "{gone:?} in {read}");
        }
    }
}

#[test]
fn no_color_and_dumb_terminals_get_none() {
    let host = host();
    for arguments in [
        &["list"][..],
        &["snapshots"],
        &["get", "web-a"],
        &["prune", "--dry-run"],
    ] {
        for variable in [("NO_COLOR", "1"), ("TERM", "dumb"), ("TERM", "")] {
            let shown = on_a_terminal(&host, arguments, &[variable]);
            let is_dumb_enough = variable.1.is_empty() || !shown.contains(ESCAPE);
            assert!(is_dumb_enough && !shown.is_empty(), "{variable:?}: {shown}");
        }
        let shown = on_a_terminal(&host, arguments, &[("NO_COLOR", "")]);
        assert!(shown.contains(ESCAPE), "empty counts as unset: {shown}");
    }
}

#[test]
fn json_is_the_same_everywhere_and_in_utc() {
    let host = host();
    for arguments in [&["-o", "json", "list"][..], &["-o", "json", "get", "web-a"]] {
        let shown = on_a_terminal(&host, arguments, &[]);
        assert_eq!(shown, piped(&host, arguments));
        assert!(shown.contains("\"2026-09-02T03:15:20Z\""), "{shown}");
    }
}

/// A registered guest whose VMM takes its time to save.
fn slow_guest(host: &Host, save: Duration) -> FakeVmm {
    let dir = host.dir().join("slow");
    fs::create_dir(&dir).unwrap();
    let socket = dir.join("vmm.sock");
    let fake = FakeVmm::start(Dialect::CloudHypervisor, &socket, &[]);
    if !save.is_zero() {
        fake.on(Request::Save, Fault::Slow(save));
    }
    let socket = socket.to_str().unwrap();
    let register = ["register", "slow", "--hypervisor", "cloud-hypervisor"];
    host.run(&[&register[..], &["--socket", socket]].concat())
        .exits(0);
    host.run(&["set", "slow", "--interval", "1h", "--max-count", "3"])
        .exits(0);
    fake
}

/// What `run-due` shows on a terminal that its stderr is, while its stdout is read by a program.
fn progress(save: Duration, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let host = Host::new(env!("CARGO_BIN_EXE_hypeman-snap"));
    let fake = slow_guest(&host, save);
    let terminal = Terminal::open();
    let mut command = command(&host, &[&["run-due", "--force"], arguments].concat());
    command
        .envs(variables.iter().copied())
        .stderr(terminal.stream());
    let output = command.output().unwrap();
    drop(command);
    let shown = terminal.shown();
    assert!(output.status.success(), "{shown}");
    assert_eq!(fake.saves(), 1);
    assert!(!output.stdout.contains(&0x1b), "{output:?}");
    shown
}

/// So long that progress is shown, which takes a second.
const LONG: Duration = Duration::from_secs(3);

#[test]
fn work_that_takes_long_shows_its_progress_and_leaves_nothing_behind() {
    let shown = progress(LONG, &[], &[]);
    assert!(shown.contains("slow: saving memory and disks"), "{shown:?}");
    // The last thing is to clear the line.
    assert!(
        shown.ends_with("\u{1b}[2K") || shown.ends_with("\u{1b}[0J"),
        "{shown:?}"
    );
}

#[test]
fn progress_is_for_a_person_at_a_terminal() {
    for (arguments, variables) in [
        (&["-q"][..], &[][..]),
        (&["-o", "json"], &[]),
        (&[], &[("TERM", "dumb")]),
    ] {
        assert_eq!(progress(LONG, arguments, variables), "", "{arguments:?}");
    }
    let host = Host::new(env!("CARGO_BIN_EXE_hypeman-snap"));
    let _fake = slow_guest(&host, LONG);
    host.run(&["run-due", "--force"]).exits(0).is_content();
}

#[test]
fn work_that_is_done_soon_shows_nothing() {
    assert_eq!(progress(Duration::ZERO, &[], &[]), "");
}
