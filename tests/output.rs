//! What goes where: data to stdout, everything else to stderr, and the exit code tells the shell how it went.

#![cfg(test)]

use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use serde_json::json;
use support::cli::{Host, Said, said};

const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";
/// A user and a group that own nothing.
const NOBODY: u32 = 65534;

fn host() -> Host {
    Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"))
}

/// A host whose `web-a` has a schedule that is not due.
fn scheduled_host() -> Host {
    let host = host();
    host.run(&["set", ID, "--interval", "1h", "--max-count", "2"])
        .exits(0);
    host
}

#[test]
fn reader_that_goes_away_is_no_error_and_hides_none() {
    let host = scheduled_host();
    let into_the_void = |arguments: &[&str]| {
        let (reader, writer) = UnixStream::pair().unwrap();
        drop(reader);
        let output = host
            .std_command()
            .args(arguments)
            .stdout(Stdio::from(OwnedFd::from(writer)))
            .output()
            .unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    for arguments in [&["list"][..], &["completions", "bash"], &["--help"]] {
        assert_eq!(
            into_the_void(arguments),
            (0, String::new()),
            "{arguments:?}"
        );
    }
    host.write_schedule("broken", "{");
    assert_eq!(into_the_void(&["list"]), (1, String::new()));
}

#[test]
fn output_that_can_not_be_written_is_an_error() {
    let host = scheduled_host();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = host
        .std_command()
        .arg("list")
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.starts_with("hypeman-snap: error: can't write to standard output: "),
        "{stderr}"
    );
}

#[test]
fn journal_gets_priorities_and_no_program_name() {
    let host = scheduled_host();
    host.write_schedule("broken", "{");
    let log = host.dir().join("journal");
    let run = |stream: &str| {
        let stderr = File::create(&log).unwrap();
        let status = host
            .std_command()
            .args(["prune"])
            .env("JOURNAL_STREAM", stream)
            .stderr(stderr)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(1));
        fs::read_to_string(&log).unwrap()
    };
    File::create(&log).unwrap();
    let metadata = fs::metadata(&log).unwrap();
    let text = run(&format!("{}:{}", metadata.dev(), metadata.ino()));
    assert!(text.starts_with("<3>broken: "), "{text}");
    // Another process of the unit may have redirected stderr to elsewhere.
    let text = run(&format!("{}:{}", metadata.dev(), metadata.ino() + 1));
    assert!(text.starts_with("hypeman-snap: error: broken: "), "{text}");
}

#[test]
fn terminal_gets_relative_times_and_colours_unless_told_otherwise() {
    if !std::process::Command::new("script")
        .arg("--version")
        .output()
        .is_ok_and(|it| it.status.success())
    {
        eprintln!("skipped: script(1) is not there");
        return;
    }
    let host = host();
    let schedule = json!({
        "instance_id": ID,
        "interval": "24h0m0s",
        "retention": {"max_count": 7},
        "next_run_at": "2026-09-03T03:15:20Z",
        "last_run_at": "2026-09-02T03:15:20Z",
        "last_error": "no space left on device",
        "created_at": "2026-08-20T03:11:05Z",
        "updated_at": "2026-09-02T03:15:20Z",
    });
    host.write_schedule(ID, schedule.to_string());
    let on_a_terminal = |variables: &[(&str, &str)]| -> Said {
        let mut command = host.command();
        let tool = command.get_program().to_owned();
        let mut script = std::process::Command::new("script");
        script
            .args([
                "-qec",
                &format!("{} list", tool.to_str().unwrap()),
                "/dev/null",
            ])
            .envs(
                command
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .env("TERM", "xterm")
            .envs(variables.iter().copied())
            .stdin(Stdio::null());
        command = assert_cmd::Command::from_std(script);
        said(&mut command)
    };
    let said = on_a_terminal(&[]).exits(0);
    assert!(
        said.stdout.contains("\u{1b}[31mfailed ") && said.stdout.contains(" ago"),
        "{said:?}"
    );
    for variable in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let said = on_a_terminal(&[variable]).exits(0);
        assert!(
            !said.stdout.contains('\u{1b}') && said.stdout.contains(" ago"),
            "{said:?}"
        );
    }
    let said = on_a_terminal(&[("NO_COLOR", "")]).exits(0);
    assert!(
        said.stdout.contains('\u{1b}'),
        "empty counts as unset: {said:?}"
    );
    let piped = host.run(&["list"]).exits(0);
    assert!(
        !piped.stdout.contains('\u{1b}') && !piped.stdout.contains(" ago"),
        "{piped:?}"
    );
}

#[test]
fn help_goes_to_stdout_and_usage_errors_to_stderr() {
    let host = host();
    for arguments in [
        &["--help"][..],
        &["help"],
        &["set", "--help"],
        &["--version"],
    ] {
        let said = host.run(arguments).exits(0).is_content();
        assert!(said.stdout.contains("hypeman-snap"), "{said:?}");
    }
    for arguments in [
        &[][..],
        &["frobnicate"],
        &["list", "--frobnicate"],
        &["list", "extra"],
        &["get"],
        &["-o", "yaml", "list"],
        &["--engine", "docker", "list"],
        &["--lock-timeout", "soon", "list"],
        &["--lock-timeout", "-1s", "list"],
        &["--state-dir", "", "list"],
        &["-q", "-v", "list"],
        &["run-due", "--jobs", "0"],
        &["run-due", "--pause-timeout", "0s"],
        &["run-due", "--create-timeout", "0s"],
        &["run-due", "--missing-grace", "x"],
    ] {
        let said = host.run(arguments).exits(2);
        assert_eq!(said.stdout, "", "{said:?}");
        assert!(
            said.stderr.contains("error: ") || arguments.is_empty(),
            "{said:?}"
        );
    }
    assert!(!host.state_dir().exists());
}

#[test]
fn variables_that_are_empty_count_as_unset_and_bad_ones_are_named() {
    let host = scheduled_host();
    let run = |name: &str, value: &str| {
        let mut command = host.command();
        command.env(name, value).arg("list");
        said(&mut command)
    };
    for name in [
        "HYPEMAN_SNAP_ENGINE",
        "HYPEMAN_BASE_URL",
        "HYPEMAN_SNAP_CA_FILE",
    ] {
        run(name, "").exits(0).is_content();
    }
    run("HYPEMAN_SNAP_ENGINE", "docker")
        .exits(2)
        .complains(&["HYPEMAN_SNAP_ENGINE \"docker\"", "local or hypeman"]);
}

#[test]
fn directories_default_to_the_xdg_places_of_the_user() {
    let host = host();
    let home = host.dir().join("home");
    fs::create_dir_all(home.join(".local/share")).unwrap();
    fs::rename(host.data_dir(), home.join(".local/share/hypeman")).unwrap();
    let mut set = host.std_command();
    if rustix::process::geteuid().is_root() {
        // Root has other places, so the tool is run as somebody else, from where that one can start it.
        let tool = host.dir().join("hypeman-snap");
        // Copied by another process: while this one holds the copy open for writing, a child of another test's may do
        // so as well, and then nobody can start it.
        let copied = std::process::Command::new("cp")
            .arg(set.get_program())
            .arg(&tool)
            .status();
        assert!(copied.unwrap().success());
        let variables: Vec<_> = set
            .get_envs()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
            .collect();
        set = std::process::Command::new(tool);
        set.env_clear().envs(variables).uid(NOBODY).gid(NOBODY);
        let everything = std::process::Command::new("chown")
            .args(["-R", &format!("{NOBODY}:{NOBODY}")])
            .arg(host.dir())
            .status();
        assert!(everything.unwrap().success());
    }
    set.env("HOME", &home)
        .env_remove("HYPEMAN_SNAP_STATE_DIR")
        .env("HYPEMAN_SNAP_DATA_DIR", "")
        .args(["set", ID, "--interval", "1h", "--max-count", "1"]);
    said(&mut assert_cmd::Command::from_std(set)).exits(0);
    let schedule = format!(".local/state/hypeman-snap/snapshot-schedules/{ID}.json");
    assert!(home.join(schedule).exists());
}

#[test]
fn completions_are_there_for_known_shells() {
    let host = host();
    for shell in ["bash", "zsh", "fish"] {
        let said = host.run(&["completions", shell]).exits(0).is_content();
        assert!(said.stdout.contains("HYPEMAN_SNAP_COMPLETE"), "{shell}");
    }
    host.run(&["completions", "cmd.exe"]).exits(2);
}

#[test]
fn who_asks_for_json_gets_errors_as_json_too() {
    let host = scheduled_host();
    assert_eq!(
        host.run(&["get", "--json", ID]).exits(0).json(),
        host.run(&["get", ID, "-o", "json"]).exits(0).json()
    );
    let said = host.run(&["get", "web-b", "--json"]).exits(3);
    let error = said.json();
    assert_eq!(error["exit_code"], 3);
    assert!(
        said.stderr.contains(error["error"].as_str().unwrap()),
        "{said:?}"
    );
    for arguments in [
        &["set", ID, "--json"][..],
        &["-o", "json", "set", ID, "--interval", "1h", "--nonsense"],
    ] {
        let said = host.run(arguments).exits(2);
        assert_eq!(said.json()["exit_code"], 2, "{said:?}");
    }
    host.run(&["check", "--json", "--nonsense"]).exits(3).json();
    for arguments in [&["get", "web-b"][..], &["set", ID]] {
        assert_eq!(host.run(arguments).stdout, "", "{arguments:?}");
    }
}
