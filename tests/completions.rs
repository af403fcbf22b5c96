//! The completion scripts in `contrib/completions`: their shells take them, and bash completes with them what there is. That
//! they are what `completions` prints is a test beside the definitions (`src/cli/tests/man.rs`), which also writes them.

#![cfg(test)]

use std::path::{Path, PathBuf};
use std::process::Command;

use support::cli::Host;
use support::skip::skipped;

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("contrib/completions")
        .join(name)
}

fn is_there(shell: &str) -> bool {
    let is_there = Command::new(shell).args(["-c", "true"]).output().is_ok();
    if !is_there {
        skipped(&format!(
            "no {shell} to check its completions: install the Debian package {shell}"
        ));
    }
    is_there
}

/// Runs a program to its end and gives what it printed.
#[track_caller]
fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .env("HOME", "/nonexistent")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.is_empty(), "{told}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_committed_scripts_are_what_the_command_prints() {
    for (shell, name) in [
        ("bash", "hypeman-snap.bash"),
        ("zsh", "_hypeman-snap"),
        ("fish", "hypeman-snap.fish"),
    ] {
        let program = env!("CARGO_BIN_EXE_hypeman-snap");
        let printed = output(
            program,
            &[
                "--state-dir=/nonexistent/state",
                "--data-dir=/nonexistent/data",
                "completions",
                shell,
            ],
        );
        let committed = std::fs::read_to_string(script(name)).unwrap();
        assert!(printed == committed, "{name} is out of date");
    }
}

#[test]
fn each_shell_takes_its_script() {
    for (shell, name) in [
        ("bash", "hypeman-snap.bash"),
        ("zsh", "_hypeman-snap"),
        ("fish", "hypeman-snap.fish"),
    ] {
        if is_there(shell) {
            output(shell, &["-n", script(name).to_str().unwrap()]);
        }
    }
}

/// What bash offers for the last of `words` on `host`.
fn bash_offers(host: &Host, words: &[&str]) -> Vec<String> {
    let program = Path::new(env!("CARGO_BIN_EXE_hypeman-snap"));
    let line = words.join(" ");
    let body = format!(
        r#"PATH='{}':$PATH
source '{}'
COMP_WORDS=({line}{})
COMP_CWORD={}
COMP_TYPE=9
compopt() {{ :; }}
$(complete -p hypeman-snap | sed 's/.*-F \([^ ]*\).*/\1/') hypeman-snap "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
printf '%s\n' "${{COMPREPLY[@]}}""#,
        program.parent().unwrap().display(),
        script("hypeman-snap.bash").display(),
        if words.last() == Some(&"") { " ''" } else { "" },
        words.len() - 1,
    );
    let plain = host.std_command();
    let mut bash = Command::new("bash");
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => bash.env(name, value),
            None => bash.env_remove(name),
        };
    }
    let output = bash.args(["--norc", "-c", &body]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.is_empty(), "{told}");
    let offered = String::from_utf8(output.stdout).unwrap();
    offered.lines().map(|it| it.trim_end().to_owned()).collect()
}

#[test]
fn bash_completes_commands_flags_and_values() {
    let host = Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"));
    let offers = |words: &[&str]| bash_offers(&host, words);
    assert_eq!(offers(&["hypeman-snap", "run"]), ["run-due"]);
    let all = offers(&["hypeman-snap", ""]);
    for command in ["set", "list", "snapshots", "unregister"] {
        assert!(all.iter().any(|it| it == command), "{command}: {all:?}");
    }
    assert_eq!(
        offers(&["hypeman-snap", "set", "--max-"]),
        ["--max-pause", "--max-count", "--max-age"]
    );
    assert_eq!(
        offers(&["hypeman-snap", "list", "--engine", "l"]),
        ["local"]
    );
    assert_eq!(
        offers(&["hypeman-snap", "register", "x", "--hypervisor", "fire"]),
        ["firecracker"]
    );
}

/// What is there now is offered; nothing is written, nobody is waited for, and what is broken is no reason to say anything.
#[test]
fn bash_completes_instances_and_snapshots() {
    let host = Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"));
    let id = "mk3v9t0xq2r7w5d8h1c6b4za";
    let hour = std::time::Duration::from_secs(3600);
    host.add_snapshot("s1", (id, "web-a"), hour, true);
    let offers = |words: &[&str]| bash_offers(&host, words);
    assert_eq!(offers(&["hypeman-snap", "get", "web-"]), ["web-a", "web-b"]);
    assert_eq!(
        offers(&["hypeman-snap", "restore", "web-a", "name"]),
        ["name-of-s1"]
    );
    assert_eq!(offers(&["hypeman-snap", "verify", "name"]), ["name-of-s1"]);
    assert!(!host.state_dir().exists());
    // With a server, whose answer could take long, only what has a schedule here is offered.
    host.run(&["set", "web-a", "--interval", "1h", "--max-count", "1"])
        .exits(0);
    std::fs::remove_dir_all(host.data_dir()).unwrap();
    assert_eq!(offers(&["hypeman-snap", "get", "mk"]), [id]);
    assert_eq!(offers(&["hypeman-snap", "restore", "web-a", "name"]), [""]);
}
