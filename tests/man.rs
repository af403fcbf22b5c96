//! The manual keeps its word: what a user can set or meet is in it, its examples work, and its checkers are content. That
//! the pages have every flag is a test beside the definitions (`src/cli/tests/man.rs`), which also writes them.

#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::cli::Host;
use support::fake_hypeman::{FakeHypeman, KEY};
use support::manual::{Example, examples, is_like, plain};
use support::skip::skipped;

/// Why an example need not run here. Anything else in an `example: not run:` is a mistake.
const NOT_RUN: [&str; 1] = ["changes the host"];

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    fs::read_to_string(top().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The manual pages, by name, sorted.
fn pages() -> Vec<(String, PathBuf)> {
    let mut pages: Vec<(String, PathBuf)> = fs::read_dir(top().join("man"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_file())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
        .collect();
    pages.sort();
    assert!(pages.len() > 10, "{pages:?}");
    pages
}

/// Everything below `src/` that is in the program, unit tests left out.
fn source() -> String {
    let mut text = String::new();
    let mut dirs = vec![top().join("src")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("tests") {
                dirs.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") && !path.ends_with("tests.rs") {
                let file = fs::read_to_string(path).unwrap();
                text.push_str(file.split("#[cfg(test)]\nmod tests {").next().unwrap());
            }
        }
    }
    text
}

/// The text of one section.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let start = page
        .find(&format!("\n.SH {heading}\n"))
        .unwrap_or_else(|| panic!("no section {heading}"));
    let rest = &page[start + 1..];
    rest.find("\n.SH ").map_or(rest, |end| &rest[..end])
}

/// What is set in bold as the subject of a paragraph or in running text.
fn names_bold(page: &str) -> BTreeSet<&str> {
    page.lines()
        .filter(|line| line.starts_with(".B"))
        .flat_map(|line| line.split([' ', '"', ',']).skip(1))
        .collect()
}

/// The environment variables that the program looks at or sets, and why it is taken for one.
fn variables(source: &str) -> BTreeSet<&str> {
    let is_name = |text: &str| {
        text.len() > 3
            && text.starts_with(|c: char| c.is_ascii_uppercase())
            && text
                .chars()
                .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    };
    source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| {
            let is_lookup = ["var_os(", "variable(", "is_set(", ".env("]
                .iter()
                .any(|call| line.contains(call));
            line.split('"')
                .skip(1)
                .step_by(2)
                .filter(move |text| is_name(text) && (is_lookup || text.starts_with("HYPEMAN_")))
        })
        .collect()
}

#[test]
fn every_environment_variable_is_in_the_manual() {
    let source = source();
    let variables = variables(&source);
    for known in ["HYPEMAN_API_KEY_FILE", "HYPEMAN_SNAP_ENGINE", "NO_COLOR"] {
        assert!(
            variables.contains(known),
            "{known} was not found in the source"
        );
    }
    let documented: String = pages()
        .iter()
        .map(|(_, path)| plain(&fs::read_to_string(path).unwrap()))
        .filter(|page| page.contains("\n.SH ENVIRONMENT\n"))
        .map(|page| section(&page, "ENVIRONMENT").to_owned())
        .collect();
    let documented = names_bold(&documented);
    for variable in variables {
        assert!(documented.contains(variable), "{variable} is in no manual");
    }
}

#[test]
fn every_exit_code_is_in_the_manual() {
    let source = read("src/exit.rs");
    let codes: Vec<&str> = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Self::")?.split_once(" => "))
        .map(|(_, code)| code.trim_end_matches(','))
        .collect();
    assert!(codes.len() >= 5, "{codes:?}");
    let page = plain(&read("man/hypeman-snap.1"));
    let documented = names_bold(section(&page, "EXIT STATUS"));
    for code in codes {
        assert!(documented.contains(code), "exit code {code} is not there");
    }
}

/// The names in JSON of the fields of `structure` in `file`.
fn fields(file: &str, structure: &str) -> Vec<String> {
    let source = read(file);
    let start = source
        .find(&format!("struct {structure} {{"))
        .or_else(|| source.find(&format!("struct {structure}<'a> {{")))
        .unwrap_or_else(|| panic!("{file} has no struct {structure}"));
    let body = &source[start..];
    let body = &body[..body.find("\n}").unwrap()];
    let (mut names, mut renamed, mut is_flat) = (Vec::new(), None, false);
    for line in body.lines().skip(1).map(str::trim) {
        if let Some((_, rest)) = line.split_once("rename = \"") {
            renamed = rest.split('"').next().map(str::to_owned);
        }
        is_flat |= line.contains("flatten");
        if line.starts_with("//") || line.starts_with('#') {
            continue;
        }
        let Some((name, _)) = line.split_once(": ") else {
            continue;
        };
        let name = name.rsplit(' ').next().unwrap();
        if name.starts_with(|c: char| c.is_ascii_lowercase()) && line.ends_with(',') {
            let name = renamed.take().unwrap_or_else(|| name.to_owned());
            if !std::mem::take(&mut is_flat) {
                names.push(name);
            }
        }
    }
    assert!(!names.is_empty(), "{file}: {structure}");
    names
}

#[test]
fn every_field_of_every_file_is_in_the_manual() {
    let page = plain(&read("man/hypeman-snap.5"));
    let documented = |heading: &str| names_bold(section(&page, heading));
    for (heading, file, structure) in [
        ("SCHEDULE FILE", "src/store/format.rs", "Form"),
        ("SCHEDULE FILE", "src/store/format.rs", "RetentionForm"),
        ("SCHEDULE FILE", "src/store/format.rs", "AttemptForm"),
        ("SCHEDULE FILE", "src/store/format.rs", "HooksForm"),
        ("PROTECTION", "src/snapshot/mod.rs", "Protection"),
        ("JOURNAL", "src/engine/local/journal.rs", "Entry"),
        ("JOURNAL", "src/vmm/process.rs", "Process"),
        ("JOURNAL", "src/vmm/mod.rs", "Tuning"),
        ("SNAPSHOT STORE", "src/engine/local/record.rs", "Written"),
        (
            "SNAPSHOT STORE",
            "src/engine/local/record.rs",
            "WrittenSnapshot",
        ),
        ("SNAPSHOT STORE", "src/snapshot/manifest.rs", "Manifest"),
        ("SNAPSHOT STORE", "src/snapshot/manifest.rs", "Vmm"),
        ("SNAPSHOT STORE", "src/snapshot/manifest.rs", "Devices"),
        ("SNAPSHOT STORE", "src/snapshot/manifest.rs", "Vsock"),
        ("SNAPSHOT STORE", "src/snapshot/manifest.rs", "Host"),
        ("SNAPSHOT STORE", "src/snapshot/manifest.rs", "ReadOnlyDisk"),
        ("SNAPSHOT STORE", "src/snapshot/manifest.rs", "Identity"),
        ("SNAPSHOT STORE", "src/snapshot/manifest.rs", "Stamp"),
        ("SNAPSHOT STORE", "src/snapshot/manifest.rs", "DiskEntry"),
    ] {
        let names = documented(heading);
        for field in fields(file, structure) {
            assert!(
                names.contains(field.as_str()),
                "{structure}.{field} of {file} is not in {heading} of hypeman-snap(5)"
            );
        }
    }
}

#[test]
fn every_metric_is_in_the_manual() {
    let host = Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"));
    host.run(&["set", "web-a", "--interval", "1h", "--max-count", "2"])
        .exits(0);
    let file = host.dir().join("it.prom");
    host.run(&[
        "run-due",
        "--force",
        "--metrics-file",
        file.to_str().unwrap(),
    ])
    .exits(0);
    let written = fs::read_to_string(file).unwrap();
    let page = plain(&read("man/hypeman-snap-run-due.1"));
    let documented = names_bold(section(&page, "METRICS"));
    let metrics: Vec<&str> = written
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    assert!(metrics.len() > 10, "{written}");
    for metric in metrics {
        assert!(documented.contains(metric), "{metric} is in no manual");
    }
}

#[test]
fn version_and_date_are_those_of_the_change_log() {
    let log = read("contrib/CHANGELOG.md");
    let heading = log
        .lines()
        .find(|line| line.starts_with("## ") && *line != "## Unreleased")
        .unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let date = heading
        .strip_prefix(&format!("## {version} ("))
        .unwrap_or_else(|| panic!("{heading:?} is not about {version}"))
        .trim_end_matches(')');
    for (name, path) in pages() {
        let page = fs::read_to_string(path).unwrap();
        let title = page.lines().find(|line| line.starts_with(".TH ")).unwrap();
        let expected = format!("{date} \"hypeman-snap {version}\" \"hypeman-snap manual\"");
        assert!(title.ends_with(&expected), "{name}: {title}");
    }
}

#[test]
fn checkers_of_manual_pages_are_content() {
    for (checker, args) in [
        ("mandoc", &["-T", "lint", "-W", "warning"][..]),
        ("man", &["--warnings", "-l", "-E", "UTF-8", "-Tutf8", "-Z"]),
    ] {
        if Command::new(checker).arg("-h").output().is_err() {
            skipped(&format!(
                "no {checker} to check the manual pages: install the Debian package {}",
                if checker == "man" { "man-db" } else { checker }
            ));
            continue;
        }
        for (name, path) in pages() {
            let output = Command::new(checker).args(args).arg(path).output().unwrap();
            let mut complaints = output.stderr.clone();
            if checker == "mandoc" {
                complaints.extend(&output.stdout);
            }
            let complaints = String::from_utf8_lossy(&complaints);
            assert!(
                output.status.success() && complaints.is_empty(),
                "{checker} on {name}: {complaints}"
            );
        }
    }
}

/// Whether what the example needs is there, or what is missing was said.
fn has_what_it_needs(page: &str, example: &Example) -> bool {
    match example.needs.as_deref() {
        // `tests/restore.rs` does the same.
        Some("a snapshot of a running VM and a restore") => false,
        // `tests/hand_restore.rs`, `tests/offsite.rs` and `tests/libvirt.rs` run them.
        Some("a snapshot of a running VM" | "another host" | "libvirt") => false,
        Some(program @ "jq") => {
            let is_there = Command::new(program).arg("--version").output().is_ok();
            if !is_there {
                skipped(&format!(
                    "an example of {page}: install the Debian package {program}"
                ));
            }
            is_there
        }
        Some("a hypeman server" | "a monitor") | None => true,
        Some(other) => panic!("{page}: {other:?} is not known"),
    }
}

fn run(page: &str, example: &Example) {
    let program = Path::new(env!("CARGO_BIN_EXE_hypeman-snap"));
    let host = Host::with_two_instances(program.to_str().unwrap());
    let server = FakeHypeman::start();
    fs::write(host.dir().join("hypeman-api-key"), KEY).unwrap();
    // The page names root's directories, a user's files and servers somewhere; here they are those of the test.
    let localised = |text: &str| {
        text.replace("/var/lib/hypeman-snap", host.state_dir().to_str().unwrap())
            .replace("/var/lib/hypeman", host.data_dir().to_str().unwrap())
            .replace(
                "/var/lib/prometheus/node-exporter",
                host.dir().to_str().unwrap(),
            )
            .replace("/srv/vms", host.dir().to_str().unwrap())
            .replace("/etc/credstore", host.dir().to_str().unwrap())
            .replace(
                "/usr/local/share/zsh/site-functions",
                host.dir().to_str().unwrap(),
            )
            .replace("https://vms.example.com", &server.url())
            .replace("https://hc.example.com", &server.url())
    };
    if let Some(disk) = &example.disk {
        fs::write(localised(disk), "a disk").unwrap();
    }
    for command in &example.after {
        let command = localised(command);
        let args: Vec<&str> = command.split(' ').collect();
        host.run(&args).exits(0);
    }
    let known = host.std_command();
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", &localised(&example.script)])
        .env_clear()
        .envs(
            known
                .get_envs()
                .filter_map(|(key, value)| Some((key, value?))),
        )
        .env(
            "PATH",
            format!("{}:/usr/bin:/bin", program.parent().unwrap().display()),
        );
    let output = bash.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(example.exits),
        "{page}: {example:?}\n{said}{told}"
    );
    let asked = server.world().requests.len();
    let is_remote = matches!(
        example.needs.as_deref(),
        Some("a hypeman server" | "a monitor")
    );
    assert_eq!(
        asked > 0,
        is_remote,
        "{page}: {example:?} asked {asked} times"
    );
    if example.shown.is_empty() {
        return;
    }
    let lines: Vec<&str> = said.lines().collect();
    let is_as_shown = lines.len() == example.shown.len()
        && lines
            .iter()
            .zip(&example.shown)
            .all(|(line, shown)| is_like(line, &localised(shown)));
    assert!(is_as_shown, "{page}: {example:?} printed\n{said}");
}

#[test]
fn examples_work_as_they_are_shown() {
    let mut runs = 0;
    for (name, path) in pages() {
        let page = fs::read_to_string(path).unwrap();
        let examples = examples(&page);
        let (mut page_runs, mut others) = (0, 0);
        for example in examples {
            match &example.not_run {
                Some(reason) => assert!(NOT_RUN.contains(&reason.as_str()), "{name}: {reason}"),
                None if has_what_it_needs(&name, &example) => {
                    run(&name, &example);
                    page_runs += 1;
                }
                None => others += 1,
            }
        }
        assert!(
            page_runs + others > 0,
            "{name} has no example that can be run"
        );
        runs += page_runs;
    }
    assert!(runs >= 20, "only {runs} examples were found");
}
