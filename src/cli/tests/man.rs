//! The manual pages of section 1 and the completion scripts: made from the definitions of the command line and compared
//! with those in the repository, so that neither can fall behind.
//!
//! What the definitions can't say (examples, environment, files) stands in `man/parts/PAGE.roff` and goes behind it.
//! After a change of either, this command writes the pages and the scripts anew:
//!
//!     UPDATE_MAN=1 cargo test --bin hypeman-snap cli::tests::man

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use clap::{Arg, ArgAction, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli::Cli;
use crate::commands::completions;

const REGENERATE: &str = "UPDATE_MAN=1 cargo test --bin hypeman-snap cli::tests::man";

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    fs::read_to_string(top().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The command line as it is parsed, with the global flags at each command.
fn command_line() -> Command {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    command
}

/// The name of a command's page, without section.
fn page(command: &Command) -> &str {
    command.get_display_name().unwrap_or(command.get_name())
}

fn file_of_page(page: &str) -> String {
    format!("man/{page}.1")
}

/// The day of the newest release: the first heading of the change log, `## 0.1.0 (2026-01-31)`, behind what is not
/// released yet.
fn date() -> String {
    let log = read("contrib/CHANGELOG.md");
    let heading = log
        .lines()
        .find(|line| line.starts_with("## ") && *line != "## Unreleased")
        .unwrap();
    let (_, date) = heading.split_once('(').expect("a date in the heading");
    date.trim_end_matches(')').to_owned()
}

/// Whether the flag is described where it belongs once: in the page of the whole tool.
fn is_described_above(arg: &Arg) -> bool {
    arg.is_global_set() || matches!(arg.get_id().as_str(), "help" | "version")
}

/// One word of a synopsis, such as `[--interval <DURATION>]`.
fn usage_of(arg: &Arg) -> String {
    let value = arg.get_value_names().map_or_else(String::new, |names| {
        names
            .iter()
            .map(|name| format!("<{name}>"))
            .collect::<Vec<_>>()
            .join(" ")
    });
    let takes_value = arg.get_action().takes_values();
    let word = match arg.get_long() {
        Some(long) if takes_value => format!("--{long} {value}"),
        Some(long) => format!("--{long}"),
        None => value,
    };
    let many = if matches!(arg.get_action(), ArgAction::Append) {
        "..."
    } else {
        ""
    };
    if arg.is_required_set() {
        format!("{word}{many}")
    } else {
        format!("[{word}]{many}")
    }
}

fn synopsis(command: &Command) -> String {
    let mut words = vec![
        command
            .get_bin_name()
            .unwrap_or(command.get_name())
            .to_owned(),
    ];
    if command.has_subcommands() {
        words.extend(["[<GLOBAL OPTIONS>]", "<COMMAND>", "[<OPTIONS>]"].map(str::to_owned));
        return words.join(" ");
    }
    let (positional, flags): (Vec<&Arg>, Vec<&Arg>) = command
        .get_arguments()
        .filter(|arg| !is_described_above(arg) && !arg.is_hide_set())
        .partition(|arg| arg.is_positional());
    words.extend(flags.into_iter().map(usage_of));
    words.push("[<GLOBAL OPTIONS>]".to_owned());
    words.extend(positional.into_iter().map(usage_of));
    words.join(" ")
}

/// One page: what the definitions say, then what `man/parts` says.
fn render(command: &Command) -> String {
    let is_whole_tool = command.has_subcommands();
    let usage = synopsis(command);
    let aliases: Vec<&str> = command.get_visible_aliases().collect();
    let shown = command.clone().override_usage(usage).mut_args(|arg| {
        let hidden = arg.is_hide_set() || !is_whole_tool && is_described_above(&arg);
        arg.hide(hidden)
    });
    let has_options = shown.get_arguments().any(|arg| !arg.is_hide_set());
    let man = Man::new(shown)
        .title(page(command).to_uppercase())
        .section("1")
        .date(date())
        .source(format!("hypeman-snap {}", env!("CARGO_PKG_VERSION")))
        .manual("hypeman-snap manual");

    let part = format!("man/parts/{}.roff", page(command));
    assert!(
        top().join(&part).exists(),
        "{part} is missing: write its EXAMPLES, EXIT STATUS and SEE ALSO like those of its neighbours, then {REGENERATE}"
    );
    // What stands before the first heading of the part goes on with the description.
    let part_text = read(&part);
    let sections = part_text.find(".SH ").unwrap();
    let (description, sections) = part_text.split_at(sections);

    let mut bytes = Vec::new();
    man.render_title(&mut bytes).unwrap();
    man.render_name_section(&mut bytes).unwrap();
    man.render_synopsis_section(&mut bytes).unwrap();
    man.render_description_section(&mut bytes).unwrap();
    bytes.extend_from_slice(description.as_bytes());
    if has_options {
        man.render_options_section(&mut bytes).unwrap();
    }
    if is_whole_tool {
        man.render_subcommands_section(&mut bytes).unwrap();
    }
    let mut text = tidy(&String::from_utf8(bytes).unwrap());
    for alias in aliases {
        let _ = write!(text, ".SH ALIAS\n.B hypeman\\-snap {alias}\n");
    }
    text.push_str(sections);
    format!(
        ".\\\" Made from src/cli.rs and {part}; after a change of either:\n.\\\"   {REGENERATE}\n{text}"
    )
}

/// With one preamble instead of one for each section, and with line breaks that checkers don't frown upon.
fn tidy(roff: &str) -> String {
    let mut text = String::from(".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n");
    for line in roff.lines() {
        if !line.starts_with(".ie ") && !line.starts_with(".el ") {
            text.push_str(line);
            text.push('\n');
        }
    }
    text.replace("\n.br\n\n.br\n", "\n.sp\n")
}

fn commands(command: &Command) -> Vec<&Command> {
    let mut all = vec![command];
    all.extend(
        command
            .get_subcommands()
            .filter(|it| !it.is_hide_set())
            .flat_map(commands),
    );
    all
}

/// Every file that is made from the definitions, by its path in the repository.
fn generated() -> BTreeMap<PathBuf, String> {
    let command = command_line();
    let mut files: BTreeMap<PathBuf, String> = commands(&command)
        .into_iter()
        .map(|it| (file_of_page(page(it)).into(), render(it)))
        .collect();
    for (shell, name) in [
        (Shell::Bash, "hypeman-snap.bash"),
        (Shell::Zsh, "_hypeman-snap"),
        (Shell::Fish, "hypeman-snap.fish"),
    ] {
        files.insert(
            Path::new("contrib/completions").join(name),
            completions::script(shell).unwrap(),
        );
    }
    files
}

fn names_in(directory: &str, suffix: &str) -> BTreeSet<String> {
    fs::read_dir(top().join(directory))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(suffix).map(str::to_owned))
        .collect()
}

/// Every generated file; written to the repository first, once, if that is asked for.
fn files() -> &'static BTreeMap<PathBuf, String> {
    static FILES: LazyLock<BTreeMap<PathBuf, String>> = LazyLock::new(|| {
        let files = generated();
        if std::env::var_os("UPDATE_MAN").is_some() {
            for (file, text) in &files {
                fs::write(top().join(file), text).unwrap();
            }
        }
        files
    });
    &FILES
}

#[test]
fn pages_and_completions_are_those_of_the_command_line() {
    for (file, text) in files() {
        let committed = fs::read_to_string(top().join(file)).unwrap_or_default();
        let is_same = committed == *text;
        assert!(is_same, "{} is out of date: {REGENERATE}", file.display());
    }
}

#[test]
fn each_page_and_each_part_belongs_to_a_command() {
    files();
    let command = command_line();
    let expected: BTreeSet<String> = commands(&command)
        .into_iter()
        .map(|it| page(it).to_owned())
        .collect();
    assert_eq!(names_in("man", ".1"), expected);
    assert_eq!(names_in("man/parts", ".roff"), expected);
}

#[test]
fn every_flag_and_argument_is_in_the_page_of_its_command() {
    files();
    let command = command_line();
    let whole = read("man/hypeman-snap.1");
    for command in commands(&command) {
        let own = read(&file_of_page(page(command)));
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            let text = if is_described_above(arg) {
                &whole
            } else {
                &own
            };
            let name = match arg.get_long() {
                Some(long) => format!("\\fB\\-\\-{}\\fR", long.replace('-', "\\-")),
                None => arg.get_value_names().unwrap()[0].to_string(),
            };
            let options = text.find("\n.SH OPTIONS").map(|at| &text[at..]);
            assert!(
                options.is_some_and(|options| options.contains(&name)),
                "{}: {name} is not in its manual page",
                page(command)
            );
        }
        for alias in command.get_visible_aliases() {
            assert!(own.contains(&format!("hypeman\\-snap {alias}")), "{alias}");
        }
    }
}
