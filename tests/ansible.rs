//! `contrib/ansible` under ansible-core itself: the module against directories of a test's own, and the whole
//! collection against ansible-lint and ansible-doc. The role is in `ansible_role.rs`.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use support::ansible::{Controller, Ran, collection};
use support::guests::write_stopped;
use support::throwaway::text;

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");

/// A host with one stopped VM, `web`, and the directories that the module is given.
struct Host(Controller);

impl Host {
    fn create() -> Option<Self> {
        let controller = Controller::create()?;
        write_stopped(&controller.path("data"), "web0", "web");
        Some(Self(controller))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    /// Runs the module once with these options on top of the directories, and flags such as `--check`.
    fn module(&self, options: &Value, flags: &[&str]) -> Ran {
        let mut all = json!({
            "instance": "web", "executable": TOOL, "engine": "local",
            "state_dir": self.path("state"), "data_dir": self.path("data"),
        });
        for (name, value) in options.as_object().unwrap() {
            all[name] = value.clone();
        }
        self.0.module("hypeman_snap_schedule", &all, flags)
    }

    /// The schedule of the one VM as its file has it.
    fn schedule(&self) -> Option<Value> {
        let file = self.path("state/snapshot-schedules/web0.json");
        let schedule = fs::read(file).ok()?;
        Some(serde_json::from_slice(&schedule).unwrap())
    }
}

#[test]
fn module_changes_at_first_and_not_when_the_values_mean_the_same() {
    let Some(host) = Host::create() else {
        return;
    };
    let first = json!({
        "interval": "1h", "max_count": 3, "max_age": "7d", "name_prefix": "hourly",
        "metadata": {"team": "infra", "level": 2},
        "pre_hook": "/bin/true --pre", "failure_hook": "/bin/true --failure", "hook_timeout": "2m",
        "no_memory": true, "min_free": "5%",
    });
    let ran = host.module(&first, &[]);
    assert!(ran.changed());
    assert_eq!(ran.answer["schedule"]["instance_id"], "web0");
    let written = host.schedule().unwrap();
    assert_eq!(written["interval"], "1h0m0s");
    assert_eq!(written["metadata"], json!({"team": "infra", "level": "2"}));

    assert!(written["hooks"].to_string().contains("--pre"), "{written}");

    let same = json!({
        "interval": "60m", "max_count": 3, "max_age": "168h", "name_prefix": "hourly",
        "metadata": {"level": "2", "team": "infra"},
        "pre_hook": "/bin/true --pre", "failure_hook": "/bin/true --failure", "hook_timeout": "120s",
        "no_memory": true, "min_free": "5%",
    });
    let ran = host.module(&same, &[]);
    assert!(!ran.changed());
    assert_eq!(ran.answer["schedule"]["interval"], "1h0m0s");
    assert_eq!(host.schedule().unwrap(), written);

    // The whole schedule is declared: what is left out goes.
    assert!(
        host.module(&json!({"interval": "1h", "max_count": 3}), &[])
            .changed()
    );
    let reduced = host.schedule().unwrap();
    assert_eq!(reduced.get("metadata"), None);
    assert_eq!(reduced.get("hooks"), None);
    assert_eq!(reduced["retention"], json!({"max_count": 3}));
    assert_eq!(reduced["next_run_at"], written["next_run_at"]);
}

#[test]
fn module_changes_nothing_in_check_mode_and_shows_the_difference() {
    let Some(host) = Host::create() else {
        return;
    };
    let hourly = json!({"interval": "1h", "max_count": 3});
    let daily = json!({"interval": "24h", "max_count": 3});
    let gone = json!({"state": "absent"});

    let ran = host.module(&hourly, &["--check", "--diff"]);
    assert!(ran.changed());
    assert_eq!(ran.answer["schedule"]["interval"], "1h0m0s");
    assert!(
        ran.shown.contains(r#"+    "interval": "1h0m0s""#),
        "{}",
        ran.shown
    );
    assert!(!host.path("state").exists());

    assert!(host.module(&hourly, &[]).changed());
    let written = host.schedule().unwrap();
    assert!(!host.module(&hourly, &["--check"]).changed());
    let ran = host.module(&daily, &["--check", "--diff"]);
    assert!(ran.changed());
    assert!(
        ran.shown.contains(r#"-    "interval": "1h0m0s""#),
        "{}",
        ran.shown
    );
    assert!(
        ran.shown.contains(r#"+    "interval": "24h0m0s""#),
        "{}",
        ran.shown
    );
    let ran = host.module(&gone, &["--check", "--diff"]);
    assert!(ran.changed());
    assert!(
        ran.shown.contains(r#"-    "interval": "1h0m0s""#),
        "{}",
        ran.shown
    );
    assert_eq!(host.schedule().unwrap(), written);

    let missing = json!({"interval": "1h", "max_count": 3, "executable": "/nowhere/hypeman-snap"});
    assert!(host.module(&missing, &["--check"]).changed());
}

#[test]
fn module_removes_a_schedule_once() {
    let Some(host) = Host::create() else {
        return;
    };
    let hourly = json!({"interval": "1h", "max_count": 3});
    let gone = json!({"state": "absent"});
    assert!(!host.module(&gone, &[]).changed());
    assert!(host.module(&hourly, &[]).changed());

    // The VM is gone by now: its schedule goes by its id all the same.
    fs::remove_dir_all(host.path("data/guests/web0")).unwrap();
    write_stopped(&host.path("data"), "other0", "other");
    let by_id = json!({"state": "absent", "instance": "web0"});
    let ran = host.module(&by_id, &[]);
    assert!(ran.changed());
    assert_eq!(ran.answer["schedule"]["instance_id"], "web0");
    assert_eq!(host.schedule(), None);
    assert!(!host.module(&by_id, &[]).changed());
}

#[test]
fn module_fails_with_what_the_tool_said() {
    let Some(host) = Host::create() else {
        return;
    };
    let failure = |options: &Value| {
        let ran = host.module(options, &[]);
        assert!(ran.has_failed, "{}", ran.shown);
        (ran.answer["msg"].as_str().unwrap().to_owned(), ran.answer)
    };
    let (message, answer) = failure(&json!({"interval": "30s", "max_count": 3}));
    assert_eq!(answer["rc"], 2);
    assert!(
        answer["stderr"].as_str().unwrap().contains("30s"),
        "{answer}"
    );
    assert!(
        message.contains("exit code 2") && message.contains("30s"),
        "{message}"
    );

    let (message, answer) =
        failure(&json!({"instance": "nobody", "interval": "1h", "max_count": 3}));
    assert_eq!(answer["rc"], 3);
    assert!(message.contains("nobody"), "{message}");

    // An instance that looks like a flag is an instance.
    let (_, answer) = failure(&json!({"instance": "--help", "interval": "1h", "max_count": 3}));
    assert_ne!(answer["rc"], 0);

    let (message, _) = failure(&json!({"interval": "1h"}));
    assert!(message.contains("max_count, max_age"), "{message}");
    let (message, _) =
        failure(&json!({"interval": "1h", "max_count": 3, "metadata": {"prod": true}}));
    assert!(
        message.contains("prod") && message.contains("quotes"),
        "{message}"
    );
    let (message, _) =
        failure(&json!({"interval": "1h", "max_count": 3, "executable": "/nowhere/snap"}));
    assert!(message.contains("/nowhere/snap"), "{message}");
    assert_eq!(host.schedule(), None);
}

#[test]
fn module_hands_the_key_over_by_the_environment_only() {
    let Some(host) = Host::create() else {
        return;
    };
    let spy = host.path("spy");
    let script = format!(
        "#!/bin/sh\necho \"$HYPEMAN_API_KEY\" >>{0}/keys\ncat /proc/$$/cmdline >>{0}/arguments\nexec {TOOL} \"$@\"\n",
        host.path("").display()
    );
    fs::write(&spy, script).unwrap();
    fs::set_permissions(&spy, fs::Permissions::from_mode(0o755)).unwrap();
    let options = json!({
        "interval": "1h", "max_count": 3, "executable": spy, "api_key": "hush-hush-hush",
    });
    let ran = host.module(&options, &["-vvvv"]);
    assert!(ran.changed());
    assert!(!ran.shown.contains("hush-hush"), "{}", ran.shown);
    let keys = fs::read_to_string(host.path("keys")).unwrap();
    assert!(
        keys.lines().count() >= 2 && keys.lines().all(|key| key == "hush-hush-hush"),
        "{keys}"
    );
    let arguments = fs::read_to_string(host.path("arguments")).unwrap();
    assert!(
        arguments.contains("--interval=1h") && !arguments.contains("hush"),
        "{arguments}"
    );
}

#[test]
fn collection_passes_ansible_lint_at_its_production_profile() {
    let Some(controller) = Controller::create() else {
        return;
    };
    let copy = controller.path("lint");
    let copied = Command::new("cp")
        .args(["-rL", "--"])
        .arg(collection())
        .arg(&copy)
        .output()
        .unwrap();
    assert!(copied.status.success(), "{}", text(&copied));
    let output = controller
        .command("ansible-lint")
        .args(["--nocolor", "--profile=production"])
        .env_remove("ANSIBLE_COLLECTIONS_PATH")
        .current_dir(&copy)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let shown = text(&output);
    assert!(
        shown.contains("'production' was required, and it passed"),
        "{shown}"
    );
}

/// The collection comes with the tool, and has its version.
#[test]
fn collection_has_the_version_of_the_tool() {
    let version = env!("CARGO_PKG_VERSION");
    let galaxy = fs::read_to_string(collection().join("galaxy.yml")).unwrap();
    assert!(
        galaxy.contains(&format!("\nversion: {version}\n")),
        "contrib/ansible/galaxy.yml is not of {version}"
    );
    let log = fs::read_to_string(collection().join("CHANGELOG.md")).unwrap();
    assert!(
        log.contains(&format!("\n## {version}\n")),
        "contrib/ansible/CHANGELOG.md does not know {version}"
    );
}

#[test]
fn documentation_renders_with_every_option_and_return_value() {
    let Some(controller) = Controller::create() else {
        return;
    };
    for (name, answer) in [
        ("hypeman_snap_register", "registration"),
        ("hypeman_snap_schedule", "schedule"),
    ] {
        let full_name = format!("hypeman.snap.{name}");
        let output = controller
            .command("ansible-doc")
            .args(["--json", "-t", "module", &full_name])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        let all: Value = serde_json::from_slice(&output.stdout).unwrap();
        let module = &all[&full_name];
        let documented = module["doc"]["options"].as_object().unwrap();
        let source =
            fs::read_to_string(collection().join(format!("plugins/modules/{name}.py"))).unwrap();
        let (_, spec) = source.split_once("argument_spec={").unwrap();
        let (spec, _) = spec.split_once("required_if").unwrap();
        let mut accepted: Vec<&str> = spec
            .lines()
            .filter_map(|line| line.trim().strip_prefix('"')?.split_once("\": {"))
            .map(|(name, _)| name)
            .collect();
        let mut names: Vec<&str> = documented.keys().map(String::as_str).collect();
        names.sort_unstable();
        accepted.sort_unstable();
        assert_eq!(names, accepted);
        assert!(module["return"][answer].is_object(), "{module}");
        let examples = module["examples"].as_str().unwrap();
        assert!(examples.contains("state: absent"), "{examples}");
    }

    let role = controller
        .command("ansible-doc")
        .args(["-t", "role", "hypeman.snap.hypeman_snap"])
        .output()
        .unwrap();
    assert!(role.status.success(), "{}", text(&role));
    let shown = String::from_utf8_lossy(&role.stdout);
    let defaults =
        fs::read_to_string(collection().join("roles/hypeman_snap/defaults/main.yml")).unwrap();
    let readme = fs::read_to_string(collection().join("roles/hypeman_snap/README.md")).unwrap();
    for variable in defaults.lines().filter(|line| line.starts_with("hypeman_")) {
        let name = variable.split(':').next().unwrap();
        assert!(
            shown.contains(name),
            "{name} is not in the role's documentation"
        );
        assert!(readme.contains(name), "{name} is not in the role's README");
    }
}
