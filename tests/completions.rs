//! The completion scripts in `contrib/completions`: their shells take them, and bash completes with them. That they are
//! what `completions` prints is a test beside the definitions (`src/cli/tests/man.rs`), which also writes them.

#![cfg(test)]

use std::path::{Path, PathBuf};
use std::process::Command;

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

/// What bash offers for the last of `words`.
fn bash_offers(words: &[&str]) -> Vec<String> {
    let source = script("hypeman-snap.bash");
    let line = words.join(" ");
    let body = format!(
        r#"source '{}'
COMP_WORDS=({line}{})
COMP_CWORD={}
COMP_LINE='{line}'
COMP_POINT=${{#COMP_LINE}}
COMPREPLY=()
compopt() {{ :; }}
$(complete -p hypeman-snap | sed 's/.*-F \([^ ]*\).*/\1/') hypeman-snap "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
printf '%s\n' "${{COMPREPLY[@]}}""#,
        source.display(),
        if words.last() == Some(&"") { " ''" } else { "" },
        words.len() - 1,
    );
    output("bash", &["--norc", "-c", &body])
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn bash_completes_commands_flags_and_values() {
    assert_eq!(bash_offers(&["hypeman-snap", "run"]), ["run-due"]);
    let all = bash_offers(&["hypeman-snap", ""]);
    for command in ["set", "list", "snapshots", "unregister"] {
        assert!(all.iter().any(|it| it == command), "{command}: {all:?}");
    }
    assert_eq!(
        bash_offers(&["hypeman-snap", "set", "--max-"]),
        ["--max-count", "--max-age"]
    );
    assert_eq!(
        bash_offers(&["hypeman-snap", "list", "--engine", "l"]),
        ["local"]
    );
}
