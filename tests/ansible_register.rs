//! `hypeman_snap_register` of `contrib/ansible` under ansible-core itself, against directories of a test's own.

#![cfg(test)]

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use support::ansible::{Controller, Ran};

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");

struct Host(Controller);

impl Host {
    fn create() -> Option<Self> {
        let controller = Controller::create()?;
        fs::create_dir(controller.path("data")).unwrap();
        for disk in ["a.raw", "b.raw"] {
            fs::write(controller.path(disk), "a disk").unwrap();
        }
        Some(Self(controller))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    fn module(&self, options: &Value, flags: &[&str]) -> Ran {
        let mut all = json!({
            "instance": "db", "executable": TOOL,
            "state_dir": self.path("state"), "data_dir": self.path("data"),
        });
        for (name, value) in options.as_object().unwrap() {
            all[name] = value.clone();
        }
        self.0.module("hypeman_snap_register", &all, flags)
    }

    fn registration(&self) -> Option<Value> {
        let file = fs::read(self.path("state/instances/db.json")).ok()?;
        Some(serde_json::from_slice(&file).unwrap())
    }
}

#[test]
fn module_registers_once_and_forgets_once() {
    let Some(host) = Host::create() else { return };
    let one = json!({"hypervisor": "qemu", "socket": "/run/db.qmp", "disks": [host.path("a.raw")]});
    let ran = host.module(&one, &[]);
    assert!(ran.changed());
    assert_eq!(ran.answer["registration"]["name"], "db");
    let written = host.registration().unwrap();
    assert_eq!(written["socket"], "/run/db.qmp");
    assert_eq!(written["disks"], json!([host.path("a.raw")]));
    assert!(!host.module(&one, &[]).changed());
    assert_eq!(host.registration().unwrap(), written);

    // The whole VM is declared.
    let other = json!({
        "hypervisor": "qemu", "socket": "/run/db.qmp", "name": "database",
        "disks": [host.path("a.raw"), host.path("b.raw")],
    });
    assert!(host.module(&other, &[]).changed());
    assert_eq!(host.registration().unwrap()["name"], "database");
    assert!(host.module(&one, &[]).changed());
    assert_eq!(host.registration().unwrap()["name"], "db");

    let gone = json!({"state": "absent"});
    let ran = host.module(&gone, &[]);
    assert!(ran.changed());
    assert_eq!(ran.answer["registration"]["socket"], "/run/db.qmp");
    assert_eq!(host.registration(), None);
    assert!(!host.module(&gone, &[]).changed());
}

#[test]
fn module_changes_nothing_in_check_mode_and_shows_the_difference() {
    let Some(host) = Host::create() else { return };
    let disks = json!([host.path("a.raw")]);
    let one = json!({"hypervisor": "qemu", "socket": "/run/db.qmp", "disks": disks});
    let other = json!({"hypervisor": "qemu", "socket": "/run/other.qmp", "disks": disks});
    let gone = json!({"state": "absent"});
    let ran = host.module(&one, &["--check", "--diff"]);
    assert!(ran.changed());
    assert!(
        ran.shown.contains(r#"+    "socket": "/run/db.qmp""#),
        "{}",
        ran.shown
    );
    assert!(!host.path("state").exists());
    assert!(!host.module(&gone, &["--check"]).changed());

    assert!(host.module(&one, &[]).changed());
    let written = host.registration().unwrap();
    assert!(!host.module(&one, &["--check"]).changed());
    let ran = host.module(&other, &["--check", "--diff"]);
    assert!(ran.changed());
    for line in [
        r#"-    "socket": "/run/db.qmp""#,
        r#"+    "socket": "/run/other.qmp""#,
    ] {
        assert!(ran.shown.contains(line), "{}", ran.shown);
    }
    let ran = host.module(&gone, &["--check", "--diff"]);
    assert!(ran.changed());
    assert!(
        ran.shown.contains(r#"-    "hypervisor": "qemu""#),
        "{}",
        ran.shown
    );
    assert_eq!(host.registration().unwrap(), written);
    let missing = json!({"hypervisor": "qemu", "socket": "/run/db.qmp", "executable": "/nowhere/hypeman-snap"});
    assert!(host.module(&missing, &["--check"]).changed());
}

#[test]
fn module_fails_with_what_the_tool_said() {
    let Some(host) = Host::create() else { return };
    let failure = |options: &Value| {
        let ran = host.module(options, &[]);
        assert!(ran.has_failed, "{}", ran.shown);
        (ran.answer["msg"].as_str().unwrap().to_owned(), ran.answer)
    };
    let (message, answer) = failure(&json!({
        "hypervisor": "qemu", "socket": "/run/db.qmp", "disks": [host.path("nowhere.raw")],
    }));
    assert_eq!(answer["rc"], 2, "{answer}");
    assert!(
        message.contains("register db failed with exit code 2"),
        "{message}"
    );
    assert!(message.contains("nowhere.raw"), "{message}");
    let (message, _) = failure(&json!({"hypervisor": "qemu"}));
    assert!(message.contains("socket"), "{message}");
    assert_eq!(host.registration(), None);
}

#[test]
fn module_knows_where_disks_live_and_registers_what_nobody_serves_where_that_is_meant() {
    let Some(host) = Host::create() else { return };
    let unknown = json!({"hypervisor": "qemu", "socket": "/run/db.qmp"});
    assert_eq!(host.module(&unknown, &[]).answer["rc"], 2);
    let forced = json!({
        "hypervisor": "qemu", "socket": "/run/db.qmp", "force": true,
        "disk_roots": [host.path("data")],
    });
    assert!(host.module(&forced, &[]).changed());
    let written = host.registration().unwrap();
    assert_eq!(written["disk_roots"], json!([host.path("data")]));
    assert!(!host.module(&forced, &[]).changed());
    let ran = host.module(&forced, &["--check"]);
    assert!(!ran.changed());
}
