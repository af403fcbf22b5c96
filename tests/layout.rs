//! The layout of `src/`: which module may import which, and what every file owes its reader. The lists below are the
//! architecture; a change here is a decision, not a repair.

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Types and rules without I/O and without a clock.
const PURE: [&str; 7] = [
    "instance",
    "snapshot",
    "schedule",
    "cadence",
    "retention",
    "plan",
    "monitoring::health",
];

/// Files that grow past this, unit tests apart, are split by job.
const MAX_LINES: usize = 450;

/// What each top-level module may import, besides itself. A path such as `engine::local::registration` allows that
/// part only, and `engine` alone does not allow the adapters below it.
fn allowed(module: &str) -> Vec<&'static str> {
    let mut allowed = match module {
        "instance" | "snapshot" | "schedule" | "cadence" | "retention" | "plan" | "cli" => {
            PURE.to_vec()
        }
        "clock" | "error" | "exit" | "http" | "interrupt" | "progress" | "finding" | "queue"
        | "syscalls" => {
            vec![]
        }
        "fs" => vec!["interrupt", "syscalls"],
        "store" => vec![
            "instance",
            "schedule",
            "cadence",
            "snapshot",
            "fs",
            "interrupt",
        ],
        "vmm" => vec![
            "instance",
            "snapshot::manifest",
            "fs",
            "interrupt",
            "error",
            "syscalls",
        ],
        "host" => vec!["fs", "finding", "syscalls"],
        "engine" => vec![
            "instance",
            "snapshot",
            "vmm",
            "fs",
            "http",
            "interrupt",
            "progress",
            "queue",
            "host",
            "finding",
            "error",
        ],
        // The pure modules, and what a command has to say.
        "report" => vec!["exit", "finding"],
        // A run that is told to stop and hangs ends the process itself.
        "run" => vec![
            "store",
            "engine",
            "report",
            "clock",
            "interrupt",
            "queue",
            "error",
            "exit",
            // Whether a hook is what root was told to run.
            "fs::trust",
        ],
        "monitoring" => vec!["fs", "http", "interrupt"],
        // Who could have written the host's settings file.
        "settings" => vec![
            "cli",
            "monitoring::heartbeat::Target",
            "fs::trust",
            "fs::bounded",
        ],
        // The flags of a command are what it is asked to do; what it answers is data for `output`.
        "commands" => vec![
            "cli",
            "settings",
            "exit",
            "store",
            "engine",
            "run",
            "report",
            "monitoring",
            "clock",
            "interrupt",
            "error",
            "host",
            "finding",
            // `verify` looks at several snapshots at once.
            "queue",
        ],
        "output" => vec!["report", "finding", "exit"],
        "logging" => vec!["output::text"],
        "main" => return vec!["*"],
        other => panic!("the layout says nothing of the module {other}"),
    };
    if [
        "report",
        "run",
        "monitoring",
        "settings",
        "commands",
        "output",
    ]
    .contains(&module)
    {
        allowed.extend(PURE);
    }
    allowed
}

/// Files that may see more of a module than others do.
fn allowed_for_file(file: &str) -> &'static [&'static str] {
    match file {
        // Its tests write the pages and the scripts in one go.
        "cli/tests/man.rs" => &["commands::completions"],
        _ => &[],
    }
}

/// Modules of a crate that only the named files may use.
const CONFINED: [(&str, &[&str]); 12] = [
    // What is unsafe stands in one place.
    ("libc", &["syscalls.rs"]),
    ("tabled", &["output/table.rs"]),
    // hypeman has places of its own in the home directory.
    ("directories", &["settings.rs", "engine/hypeman/config.rs"]),
    ("env_logger", &["logging.rs"]),
    ("indicatif", &["progress.rs"]),
    ("shell_words", &["schedule/hooks.rs", "vmm/launch/qemu.rs"]),
    ("croner", &["cadence/calendar.rs"]),
    ("iana_time_zone", &["commands/declared.rs"]),
    (
        "hyper",
        &[
            "vmm/http.rs",
            "vmm/firecracker.rs",
            "vmm/cloud_hypervisor.rs",
            "vmm/cloud_hypervisor/migration.rs",
        ],
    ),
    ("hyper_util", &["vmm/http.rs"]),
    ("http_body_util", &["vmm/http.rs"]),
    (
        "clap_complete",
        &[
            "main.rs",
            "cli.rs",
            "cli/tests/man.rs",
            "commands/completions.rs",
        ],
    ),
];

struct Source {
    /// Relative to `src/`, such as `store/lock.rs`.
    file: String,
    /// Without comments.
    code: String,
    text: String,
}

impl Source {
    /// The names of the modules from the crate's root down to this file.
    fn module_path(&self) -> Vec<&str> {
        self.file
            .trim_end_matches(".rs")
            .split('/')
            .filter(|part| *part != "mod")
            .collect()
    }

    /// Whether the file holds nothing but unit tests.
    fn is_unit_test(&self) -> bool {
        self.file.ends_with("/tests.rs") || self.file.contains("/tests/")
    }

    fn module(&self) -> &str {
        self.module_path()[0]
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files: Vec<PathBuf> = Vec::new();
    let mut dirs = vec![root.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            Source {
                file: path
                    .strip_prefix(&root)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned(),
                code: without_comments(&text),
                text,
            }
        })
        .collect()
}

fn without_comments(text: &str) -> String {
    text.lines()
        .map(|line| {
            let code = line.find("//").map_or(line, |at| &line[..at]);
            format!("{code}\n")
        })
        .collect()
}

/// Every path that `code` takes from the crate's root, `use` groups spelled out: `store::LockError`.
fn imports(source: &Source) -> BTreeSet<String> {
    let compact: String = without_strings(&source.code)
        .chars()
        .map(|c| if c.is_whitespace() { ' ' } else { c })
        .collect();
    let mut found = BTreeSet::new();
    for (at, _) in compact.match_indices("crate::") {
        collect(&compact[at + "crate::".len()..], "", &mut found);
    }
    // `super` climbs; from a file that is a module of the root it ends up in the crate's root.
    let to_the_root = "super::".repeat(source.module_path().len());
    for (at, _) in compact.match_indices(&to_the_root) {
        let is_longer = compact[..at].ends_with("super::");
        if source.file != "main.rs" && !is_longer && !is_in_inner_module(&compact[..at]) {
            collect(&compact[at + to_the_root.len()..], "", &mut found);
        }
    }
    found
}

/// Unit tests stand in a module of their own, so their `super` is the file itself.
fn is_in_inner_module(before: &str) -> bool {
    before.contains("mod tests {")
}

fn without_strings(code: &str) -> String {
    code.split('"').step_by(2).collect::<Vec<_>>().join(" ")
}

/// Adds the path or the group of paths that `rest` begins with.
fn collect(rest: &str, prefix: &str, found: &mut BTreeSet<String>) {
    let rest = rest.trim_start();
    if let Some(group) = rest.strip_prefix('{') {
        for item in items_of(group) {
            collect(item, prefix, found);
        }
        return;
    }
    let end = rest
        .find(|c: char| !c.is_alphanumeric() && c != '_' && c != '*')
        .unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    if name.is_empty() {
        return;
    }
    let path = if prefix.is_empty() || name == "self" {
        format!("{prefix}{name}")
    } else {
        format!("{prefix}::{name}")
    };
    let path = path
        .trim_end_matches("self")
        .trim_end_matches("::")
        .to_owned();
    match rest.strip_prefix("::") {
        Some(rest) => collect(rest, &path, found),
        None => {
            found.insert(path);
        }
    }
}

/// The items of a group, up to its closing brace.
fn items_of(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut items) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(&group[start..at]);
                return items;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    items
}

/// Whether `import` may be used where `allowed` may.
fn is_allowed(import: &str, allowed: &[&str]) -> bool {
    allowed.iter().any(|allowed| {
        let is_within = import == *allowed || import.starts_with(&format!("{allowed}::"));
        // The port is for everyone above it, its adapters are for `main`.
        let is_adapter = *allowed == "engine"
            && ["engine::local", "engine::hypeman"]
                .iter()
                .any(|adapter| import.starts_with(adapter));
        *allowed == "*" || is_within && !is_adapter
    })
}

#[test]
fn modules_import_only_what_the_layout_allows() {
    let mut violations = Vec::new();
    let mut checked = 0;
    for source in sources() {
        let mut allowed = allowed(source.module());
        allowed.extend(allowed_for_file(&source.file));
        if source.is_unit_test() {
            // Tests stand where a caller would, and callers know what time it is.
            allowed.extend(["clock", "finding"]);
        }
        for import in imports(&source) {
            let module = import.split("::").next().unwrap();
            // A name that begins with a capital is an item of the root; `main` has none to import.
            if module == source.module() {
                continue;
            }
            checked += 1;
            if !is_allowed(&import, &allowed) {
                violations.push(format!("src/{} imports {import}", source.file));
            }
        }
    }
    assert_eq!(violations, Vec::<String>::new());
    assert!(checked > 100, "only {checked} imports were seen");
}

#[test]
fn crates_are_used_where_they_belong() {
    for source in sources() {
        for (name, files) in CONFINED {
            assert!(
                files.contains(&source.file.as_str())
                    || !source.code.contains(&format!("{name}::")),
                "src/{} uses {name}, which belongs to {files:?}",
                source.file
            );
        }
    }
}

#[test]
fn every_file_says_what_it_owns_and_stays_readable() {
    for source in sources() {
        assert!(
            source.text.starts_with("//! "),
            "src/{} has no header",
            source.file
        );
        let code = source
            .text
            .lines()
            .take_while(|line| *line != "#[cfg(test)]");
        let lines = code.count();
        assert!(
            lines <= MAX_LINES || source.is_unit_test(),
            "src/{} has {lines} lines; split it by job",
            source.file
        );
    }
}

#[test]
fn lints_are_expected_with_a_reason_and_never_allowed() {
    for source in sources() {
        for attribute in ["#[allow", "#![allow"] {
            assert!(
                !source.code.contains(attribute),
                "src/{}: {attribute}",
                source.file
            );
        }
    }
}

#[test]
fn the_reading_of_imports_is_right() {
    let source = |file: &str, code: &str| Source {
        file: file.to_owned(),
        code: without_comments(code),
        text: code.to_owned(),
    };
    let imports = |file: &str, code: &str| -> Vec<String> {
        imports(&source(file, code)).into_iter().collect()
    };
    assert_eq!(
        imports(
            "run/pick.rs",
            "use crate::store::{self, Lock, file::{A, B}};\nuse crate::{clock,\n    engine::Engine};\nlet x = \
             crate::fs::durable::write(); // crate::cli\n\"crate::output\"; use super::report;"
        ),
        [
            "clock",
            "engine::Engine",
            "fs::durable::write",
            "store",
            "store::Lock",
            "store::file::A",
            "store::file::B",
        ]
    );
    assert_eq!(imports("clock.rs", "use super::cli::Cli;"), ["cli::Cli"]);
    assert_eq!(
        imports("run/pick.rs", "use super::super::cli::Cli;"),
        ["cli::Cli"]
    );
    assert_eq!(
        imports("store/mod.rs", "use super::cli::Cli;"),
        ["cli::Cli"]
    );
    assert!(is_allowed("engine::Engine", &["engine"]));
    assert!(!is_allowed("engine::local::Local", &["engine"]));
    assert!(!is_allowed("engineering", &["engine"]));
    assert!(!is_allowed("run::Options", &["run::report"]));
}

/// The other files that a file uses by its `use` items, as module paths; those above it and below it are its own.
fn uses(source: &Source, modules: &BTreeSet<String>) -> BTreeSet<String> {
    let own = source.module_path().join("::");
    // Unit tests at the end of a file are no part of the house.
    let code = source.code.split("#[cfg(test)]\nmod tests").next().unwrap();
    let code = without_strings(code).replace('\n', " ");
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("use ") {
        let mut rest = &code[at + "use ".len()..];
        let mut base: Vec<&str> = source.module_path();
        if let Some(from_root) = rest.strip_prefix("crate::") {
            (rest, base) = (from_root, Vec::new());
        } else if rest.starts_with("super::") {
            while let Some(above) = rest.strip_prefix("super::") {
                rest = above;
                base.pop();
            }
        } else if let Some(here) = rest.strip_prefix("self::") {
            rest = here;
        } else {
            continue;
        }
        collect(rest, &base.join("::"), &mut found);
    }
    found
        .into_iter()
        .filter_map(|path| {
            // The file is the longest part of the path that is a module.
            let mut module = path.as_str();
            while !modules.contains(module) {
                module = module.rsplit_once("::")?.0;
            }
            Some(module.to_owned())
        })
        .filter(|module| {
            let is_above = own.starts_with(&format!("{module}::"));
            *module != own && !is_above
        })
        .collect()
}

#[test]
fn no_two_files_use_each_other() {
    let sources: Vec<Source> = sources()
        .into_iter()
        .filter(|it| !it.is_unit_test())
        .collect();
    let modules: BTreeSet<String> = sources
        .iter()
        .map(|it| it.module_path().join("::"))
        .collect();
    let graph: BTreeMap<String, BTreeSet<String>> = sources
        .iter()
        .map(|it| (it.module_path().join("::"), uses(it, &modules)))
        .collect();
    let count: usize = graph.values().map(BTreeSet::len).sum();
    assert!(count > 300, "{count} uses were read");
    // What is left when files that use no others are taken away, again and again, goes round in circles.
    let mut left = graph;
    loop {
        let done: Vec<String> = left
            .iter()
            .filter(|(_, uses)| uses.iter().all(|it| !left.contains_key(it)))
            .map(|(module, _)| module.clone())
            .collect();
        if done.is_empty() {
            break;
        }
        left.retain(|module, _| !done.contains(module));
    }
    assert!(
        left.is_empty(),
        "these go round in circles, or use those that do: {left:#?}"
    );
}
