//! The README keeps its word: its first schedule is typed as printed, by root on a machine of its own with a real VM; the
//! quickstart runs; and no flag in it is made up.

#![cfg(test)]

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::cli::Host;
use support::qemu::VmOptions;
use support::throwaway::{Throwaway, text};

const PROGRAM: &str = env!("CARGO_BIN_EXE_hypeman-snap");

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    fs::read_to_string(top().join("README.md")).unwrap()
}

/// The lines that are typed in the section with this heading.
fn typed_in(readme: &str, heading: &str) -> String {
    let section = readme
        .split("\n## ")
        .find(|section| section.starts_with(heading))
        .unwrap_or_else(|| panic!("no section {heading}"));
    let typed: Vec<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .collect();
    assert!(typed.len() > 1, "{section}");
    typed.join("\n")
}

/// The machine of the README's reader: the tool is installed, and the VM that it speaks of runs.
const MACHINE: &str = r#"
install -m 0755 "$SHARED/hypeman-snap" /usr/local/bin/hypeman-snap
truncate --size 64M /srv/web-1.raw
qemu-system-x86_64 OTHERS -drive file=/srv/web-1.raw,format=raw -chardev "file,id=serial,path=$SHARED/serial" \
  -chardev null,id=commands -qmp unix:/run/web-1.qmp,server=on,wait=off &
vm=$!
sleep 0.5
# A QEMU that was only unpacked finds its libraries by its wrapper, which the tool does not start.
libraries=$(tr '\0' '\n' <"/proc/$vm/environ" | sed -n 's/^LD_LIBRARY_PATH=//p')
[ -z "$libraries" ] || export LD_LIBRARY_PATH=$libraries
for _ in $(seq 600); do
  grep --quiet 'tick 20' "$SHARED/serial" && break
  sleep 0.1
done
cd "$PROJECT"
"#;

/// The VM is lost.
const LOST: &str = r#"
hypeman-snap -o json snapshots web-1 >"$SHARED/first.json"
cmp contrib/cron.d/hypeman-snap /etc/cron.d/hypeman-snap
kill "$vm"
wait "$vm" || true
rm "$SHARED/serial"
"#;

/// It is back, and the day after the schedule goes on with the disk that was there.
const DAY_AFTER: &str = r#"
for _ in $(seq 600); do
  grep --quiet 'tick' "$SHARED/serial" && break
  sleep 0.1
done
grep --quiet 'tick' "$SHARED/serial"
grep --quiet TORN "$SHARED/serial" && exit 1
for process in /proc/[0-9]*; do
  case $(readlink "$process/exe" || true) in *qemu-system*) ;; *) continue ;; esac
  if grep --quiet /srv/web-1.raw "$process/cmdline"; then back=${process#/proc/}; fi
done
test -e /srv/web-1.back/disks/0-web-1.raw
kill "$back"
while kill -0 "$back" 2>/dev/null; do sleep 0.1; done
hypeman-snap run-due --force --instance web-1 >&2
hypeman-snap -o json snapshots web-1 >"$SHARED/second.json"
"#;

fn kinds(machine: &Throwaway, file: &str) -> Vec<String> {
    let snapshots: Value = serde_json::from_str(&machine.read(file)).unwrap();
    let mut kinds: Vec<String> = snapshots
        .as_array()
        .unwrap()
        .iter()
        .map(|snapshot| snapshot["kind"].as_str().unwrap().to_owned())
        .collect();
    kinds.sort();
    kinds
}

#[test]
fn first_schedule_works_as_printed() {
    let machine = Throwaway::create();
    machine.share(Path::new(PROGRAM), "hypeman-snap");
    let others: Vec<String> = VmOptions::new(machine.shared())
        .command_line()
        .iter()
        .map(|word| format!("'{word}'"))
        .collect();
    let script = [
        &MACHINE.replace("OTHERS", &others.join(" ")),
        &typed_in(&readme(), "A first schedule\n"),
        LOST,
        &typed_in(&readme(), "The way back\n"),
        DAY_AFTER,
    ]
    .concat();
    let Some(output) = machine.run(&script) else {
        return;
    };
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(kinds(&machine, "first.json"), ["Standby"]);
    // What was lost, and the restored VM at rest.
    assert_eq!(
        kinds(&machine, "second.json"),
        ["Standby", "Stopped", "Stopped"]
    );
    let snapshots: Value = serde_json::from_str(&machine.read("second.json")).unwrap();
    for snapshot in snapshots.as_array().unwrap() {
        let size = snapshot["size_bytes"].as_u64().unwrap();
        assert!(size > 64 << 20, "its disk is not in it: {snapshot}");
    }
}

#[test]
fn quickstart_shows_all_of_it() {
    let build = tempfile::tempdir().unwrap();
    let release = build.path().join("release");
    fs::create_dir(&release).unwrap();
    fs::copy(PROGRAM, release.join("hypeman-snap")).unwrap();
    // The program under test, so that nothing has to be built.
    let output = Command::new(top().join("contrib/quickstart.sh"))
        .arg("--no-build")
        .env("CARGO_TARGET_DIR", build.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("All of it works here"), "{said}");
}

/// What stands between backquotes.
fn code_spans(readme: &str) -> Vec<&str> {
    readme.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_flag_of_the_readme_is_there() {
    let host = Host::new(PROGRAM);
    let help = host.run(&["--help"]).exits(0).stdout;
    let subcommands: Vec<&str> = help
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
        .filter(|word| !["", "help"].contains(word) && !word.starts_with('-'))
        .collect();
    assert!(subcommands.contains(&"run-due"), "{subcommands:?}");
    let readme = readme();
    let typed = typed_in(&readme, "A first schedule\n");
    let mut looked_at = 0;
    for command in code_spans(&readme).into_iter().chain(typed.lines()) {
        let command = command.strip_prefix("hypeman-snap ").unwrap_or(command);
        let mut words = command.split([' ', '[', ']']);
        let Some(subcommand) = words.next().filter(|it| subcommands.contains(it)) else {
            continue;
        };
        let help = host.run(&[subcommand, "--help"]).exits(0).stdout;
        for flag in words.filter(|word| word.starts_with("--")) {
            let is_there = help.split([' ', '\n', ',', '[', '=']).any(|it| it == flag);
            assert!(is_there, "{subcommand} has no {flag}, as in {command:?}");
            looked_at += 1;
        }
    }
    assert!(looked_at >= 8, "only {looked_at} flags were found");
}
