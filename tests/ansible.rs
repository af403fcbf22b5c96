//! `contrib/ansible` under ansible-core itself: the module against directories of a test's own, the role in a throw-away
//! copy of this machine, the whole collection against ansible-lint and ansible-galaxy.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use support::guests::write_stopped;
use support::skip::skipped;
use support::throwaway::{Throwaway, text};
use tempfile::TempDir;

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");
const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");

/// Where `contrib/test.sh` puts ansible-core and ansible-lint; else they may be on the path.
fn ansible_bin() -> Option<PathBuf> {
    let own = Path::new(PROJECT).join("target/ansible/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A virtual environment dies with its Python.
    let own = Some(own).filter(|directory| directory.join("python3").exists());
    let found = own
        .into_iter()
        .chain(std::env::split_paths(&path))
        .find(|directory| {
            ["ansible-playbook", "ansible-lint"]
                .iter()
                .all(|program| directory.join(program).exists())
        });
    if found.is_none() {
        skipped(
            "Ansible: run python3 -m venv target/ansible && target/ansible/bin/pip install ansible-core ansible-lint",
        );
    }
    found
}

/// A controller that is also the host: Ansible with this collection and nothing of the machine's own settings.
struct Controller {
    bin: PathBuf,
    dir: TempDir,
}

impl Controller {
    fn create() -> Option<Self> {
        let bin = ansible_bin()?;
        let dir = tempfile::tempdir().unwrap();
        let collections = dir.path().join("ansible_collections/hypeman");
        fs::create_dir_all(&collections).unwrap();
        symlink(
            Path::new(PROJECT).join("contrib/ansible"),
            collections.join("snap"),
        )
        .unwrap();
        write_stopped(&dir.path().join("data"), "web0", "web");
        Some(Self { bin, dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, program: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(self.bin.join(program));
        command
            .env("PATH", format!("{}:{path}", self.bin.display()))
            .env("HOME", self.path("home"))
            .env("LC_ALL", "C.UTF-8")
            .env("ANSIBLE_COLLECTIONS_PATH", self.dir.path())
            .env("ANSIBLE_LOCALHOST_WARNING", "false")
            .env("ANSIBLE_PIPELINING", "true")
            .env("ANSIBLE_NOCOLOR", "1")
            .env("NO_COLOR", "1")
            .env_remove("ANSIBLE_CONFIG")
            .current_dir(self.dir.path());
        command
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
        let output = self
            .command("ansible")
            .args(["localhost", "-m"])
            .arg("hypeman.snap.hypeman_snap_schedule")
            .args(["-a", &all.to_string()])
            .args(flags)
            .output()
            .unwrap();
        Ran::of(&output)
    }

    /// The schedule of the one VM as its file has it.
    fn schedule(&self) -> Option<Value> {
        let file = self.path("state/snapshot-schedules/web0.json");
        let schedule = fs::read(file).ok()?;
        Some(serde_json::from_slice(&schedule).unwrap())
    }
}

/// What the module answered, and all that Ansible showed.
#[derive(Debug)]
struct Ran {
    has_failed: bool,
    answer: Value,
    shown: String,
}

impl Ran {
    fn of(output: &Output) -> Self {
        let shown = text(output);
        let stdout = String::from_utf8_lossy(&output.stdout);
        // `localhost | CHANGED => {…}`, with a difference or a warning above it.
        let (_, answer) = stdout
            .split_once("localhost | ")
            .unwrap_or_else(|| panic!("no answer in {shown}"));
        let (status, answer) = answer.split_once(" => ").unwrap();
        Self {
            has_failed: status == "FAILED!",
            answer: serde_json::from_str(answer).unwrap(),
            shown,
        }
    }

    fn changed(&self) -> bool {
        assert!(!self.has_failed, "{}", self.shown);
        self.answer["changed"].as_bool().unwrap()
    }
}

#[test]
fn module_changes_at_first_and_not_when_the_values_mean_the_same() {
    let Some(host) = Controller::create() else {
        return;
    };
    let first = json!({
        "interval": "1h", "max_count": 3, "max_age": "7d", "name_prefix": "hourly",
        "metadata": {"team": "infra", "level": 2},
        "pre_hook": "/bin/true --pre", "failure_hook": "/bin/true --failure", "hook_timeout": "2m",
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
    let Some(host) = Controller::create() else {
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
    let Some(host) = Controller::create() else {
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
    let Some(host) = Controller::create() else {
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
    let Some(host) = Controller::create() else {
        return;
    };
    let spy = host.path("spy");
    let script = format!(
        "#!/bin/sh\necho \"$HYPEMAN_API_KEY\" >>{0}/keys\ncat /proc/$$/cmdline >>{0}/arguments\nexec {TOOL} \"$@\"\n",
        host.dir.path().display()
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

/// Sets the host up from nothing and again, each time with what Ansible says about it in `$SHARED/NAME`.
const ROLE: &str = r#"
export PATH="$BIN:$PATH" HOME=/root LC_ALL=C.UTF-8 ANSIBLE_COLLECTIONS_PATH="$SHARED/collections" ANSIBLE_NOCOLOR=1
export ANSIBLE_LOCALHOST_WARNING=false ANSIBLE_PIPELINING=true
rm -rf /etc/cron.d/hypeman-snap /etc/default/hypeman-snap /etc/credstore
play() {
  local name=$1
  shift
  ansible-playbook --diff "$@" "$SHARED/site.yml" >"$SHARED/$name" 2>&1 || { cat "$SHARED/$name" >&2; exit 1; }
}
"#;

fn site(variables: &Value) -> String {
    let play = json!([{
        "hosts": "localhost", "connection": "local", "gather_facts": false,
        "roles": [{"role": "hypeman.snap.hypeman_snap", "vars": variables}],
    }]);
    serde_json::to_string_pretty(&play).unwrap()
}

/// A machine with the collection as `ansible-galaxy` installs it from the repository, the tool, and one VM.
fn role_machine() -> Option<(Throwaway, String)> {
    let controller = Controller::create()?;
    let machine = Throwaway::create();
    machine.share(Path::new(TOOL), "hypeman-snap");
    let installed = controller
        .command("ansible-galaxy")
        .env_remove("ANSIBLE_COLLECTIONS_PATH")
        .args(["collection", "install", "--offline", "--collections-path"])
        .arg(machine.shared().join("collections"))
        .arg(Path::new(PROJECT).join("contrib/ansible"))
        .output()
        .unwrap();
    assert!(installed.status.success(), "{}", text(&installed));
    write_stopped(&machine.shared().join("vms"), "web0", "web");
    let script = format!(
        "BIN='{}'
{ROLE}",
        controller.bin.display()
    );
    Some((machine, script))
}

/// What a play showed, which must not have failed, and how many tasks changed something.
fn play(machine: &Throwaway, name: &str) -> (String, u32) {
    let shown = machine.read(name);
    let recap = shown
        .lines()
        .find(|line| line.starts_with("localhost") && line.contains("changed="))
        .unwrap_or_else(|| panic!("no recap in {shown}"));
    let number = |key: &str| -> u32 {
        let behind = recap.split_once(key).unwrap().1;
        behind.split(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(number("failed="), 0, "{shown}");
    let changed = number("changed=");
    (shown, changed)
}

/// A collection that is installed knows only what is in its own folder, and `ansible-galaxy` does not resolve links out of it.
#[test]
fn role_has_the_very_units_and_crontab_of_the_project() {
    let contrib = Path::new(PROJECT).join("contrib");
    let files = contrib.join("ansible/roles/hypeman_snap/files");
    for (original, copy) in [
        ("systemd/hypeman-snap.service", "hypeman-snap.service"),
        ("systemd/hypeman-snap.timer", "hypeman-snap.timer"),
        ("cron.d/hypeman-snap", "hypeman-snap.cron"),
    ] {
        let original = contrib.join(original);
        let copy = files.join(copy);
        assert!(
            fs::read(&original).unwrap() == fs::read(&copy).unwrap(),
            "{0} is not {1} any more: cp {1} {0}",
            copy.display(),
            original.display()
        );
    }
}

#[test]
fn role_sets_a_systemd_host_up_once() {
    let Some((machine, setup)) = role_machine() else {
        return;
    };
    let variables = json!({
        "hypeman_snap_source": machine.shared().join("hypeman-snap"),
        "hypeman_snap_data_dir": machine.shared().join("vms"),
        "hypeman_snap_api_key": "hush-hush-hush",
        "hypeman_snap_engine": "local",
        "hypeman_snap_heartbeat_url": "http://127.0.0.1:9/hush-hush-hush",
        "hypeman_snap_on_failure": "notify-admin@%n.service",
        "hypeman_snap_schedules": [
            {"instance": "web", "interval": "1h", "max_count": 24, "metadata": {"team": "infra"}},
        ],
    });
    fs::write(machine.shared().join("site.yml"), site(&variables)).unwrap();
    let Some(output) = machine.boot(&format!(
        r#"{setup}
        play check --check
        [ ! -e /usr/local/bin/hypeman-snap ] && [ ! -e /etc/systemd/system/hypeman-snap.timer ]
        [ ! -e /etc/credstore ] && [ ! -e /var/lib/hypeman-snap ] && [ ! -e /etc/default/hypeman-snap ]
        play first
        play second
        systemctl is-enabled hypeman-snap.timer
        systemctl is-active hypeman-snap.timer
        systemctl show --property=OnFailure,ReadWritePaths hypeman-snap.service
        stat --format='%a %U' /etc/default/hypeman-snap /etc/credstore /etc/credstore/hypeman-api-key
        # The timer may be at it just now.
        sed -i 's/"next_run_at": "[^"]*"/"next_run_at": "2026-01-01T00:00:00Z"/' /var/lib/hypeman-snap/snapshot-schedules/web0.json
        systemctl start hypeman-snap.service
        hypeman-snap --data-dir "$SHARED/vms" --output json snapshots >"$SHARED/snapshots"
        "#
    )) else {
        return;
    };
    assert!(output.status.success(), "{}", text(&output));
    let (shown, changed) = play(&machine, "check");
    assert!(changed > 0, "{shown}");
    let (shown, changed) = play(&machine, "first");
    assert!(changed > 0, "{shown}");
    assert!(shown.contains(r#"+    "interval": "1h0m0s""#), "{shown}");
    assert!(!shown.contains("hush"), "{shown}");
    let (shown, changed) = play(&machine, "second");
    assert_eq!(changed, 0, "{shown}");
    let said = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..2], ["enabled", "active"], "{said}");
    assert!(
        said.contains("notify-admin@hypeman-snap.service.service"),
        "{said}"
    );
    let vms = machine.shared().join("vms");
    assert!(said.contains(&format!("-{}", vms.display())), "{said}");
    assert!(said.ends_with("600 root\n700 root\n600 root\n"), "{said}");
    let snapshots: Value = serde_json::from_str(&machine.read("snapshots")).unwrap();
    assert_eq!(snapshots.as_array().unwrap().len(), 1, "{snapshots}");
    assert_eq!(snapshots[0]["tags"]["team"], "infra");
}

#[test]
fn role_sets_a_cron_host_up_once() {
    let Some((machine, setup)) = role_machine() else {
        return;
    };
    let variables = json!({
        "hypeman_snap_source": machine.shared().join("hypeman-snap"),
        "hypeman_snap_scheduler": "cron",
        "hypeman_snap_mailto": "vm-admins",
        "hypeman_snap_data_dir": machine.shared().join("vms"),
        "hypeman_snap_state_dir": "/srv/schedules",
        "hypeman_snap_schedules": [
            {"instance": "web", "interval": "1h", "max_count": 24},
            {"instance": "gone0", "state": "absent"},
        ],
    });
    fs::write(machine.shared().join("site.yml"), site(&variables)).unwrap();
    let Some(output) = machine.run(&format!(
        r#"{setup}
        play check --check
        [ ! -e /usr/local/bin/hypeman-snap ] && [ ! -e /etc/cron.d/hypeman-snap ]
        play first
        play second
        cat /etc/cron.d/hypeman-snap
        cp /etc/default/hypeman-snap "$SHARED/default"
        ls /srv/schedules/snapshot-schedules
        "#
    )) else {
        return;
    };
    assert!(output.status.success(), "{}", text(&output));
    assert!(play(&machine, "check").1 > 0);
    assert!(play(&machine, "first").1 > 0);
    let (shown, changed) = play(&machine, "second");
    assert_eq!(changed, 0, "{shown}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("\nMAILTO=vm-admins\n"), "{said}");
    assert!(
        said.ends_with("* * * * * root hypeman-snap --quiet run-due\nweb0.json\n"),
        "{said}"
    );
    let settings = machine.read("default");
    let settings: Vec<&str> = settings
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    let vms = machine.shared().join("vms");
    assert_eq!(
        settings,
        [
            r#"HYPEMAN_SNAP_STATE_DIR="/srv/schedules""#,
            &format!("HYPEMAN_SNAP_DATA_DIR=\"{}\"", vms.display())
        ]
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
        .arg(Path::new(PROJECT).join("contrib/ansible"))
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

#[test]
fn documentation_renders_with_every_option_and_return_value() {
    let Some(controller) = Controller::create() else {
        return;
    };
    let output = controller
        .command("ansible-doc")
        .args([
            "--json",
            "-t",
            "module",
            "hypeman.snap.hypeman_snap_schedule",
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    let module = &all["hypeman.snap.hypeman_snap_schedule"];
    let documented = module["doc"]["options"].as_object().unwrap();
    let source = fs::read_to_string(
        Path::new(PROJECT).join("contrib/ansible/plugins/modules/hypeman_snap_schedule.py"),
    )
    .unwrap();
    let (_, spec) = source.split_once("argument_spec={").unwrap();
    let (spec, _) = spec.split_once("required_if").unwrap();
    let accepted: Vec<&str> = spec
        .lines()
        .filter_map(|line| line.trim().strip_prefix('"')?.split_once("\": {"))
        .map(|(name, _)| name)
        .collect();
    let mut names: Vec<&str> = documented.keys().map(String::as_str).collect();
    names.sort_unstable();
    let mut sorted = accepted.clone();
    sorted.sort_unstable();
    assert_eq!(names, sorted);
    assert!(
        module["return"]["schedule"]["description"].is_array(),
        "{module}"
    );
    assert!(
        module["examples"]
            .as_str()
            .unwrap()
            .contains("state: absent")
    );

    let role = controller
        .command("ansible-doc")
        .args(["-t", "role", "hypeman.snap.hypeman_snap"])
        .output()
        .unwrap();
    assert!(role.status.success(), "{}", text(&role));
    let shown = String::from_utf8_lossy(&role.stdout);
    let defaults = fs::read_to_string(
        Path::new(PROJECT).join("contrib/ansible/roles/hypeman_snap/defaults/main.yml"),
    )
    .unwrap();
    let readme =
        fs::read_to_string(Path::new(PROJECT).join("contrib/ansible/roles/hypeman_snap/README.md"))
            .unwrap();
    for variable in defaults.lines().filter(|line| line.starts_with("hypeman_")) {
        let name = variable.split(':').next().unwrap();
        assert!(
            shown.contains(name),
            "{name} is not in the role's documentation"
        );
        assert!(readme.contains(name), "{name} is not in the role's README");
    }
}
