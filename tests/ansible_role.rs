//! The role of `contrib/ansible` under ansible-core itself, installed as `ansible-galaxy` does it, in a throw-away copy of
//! this machine: what it sets up works, and a second run changes nothing.

#![cfg(test)]

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use support::ansible::{Controller, play, plays, role_machine};
use support::skip::skipped;
use support::throwaway::text;

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");
const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");

fn site(variables: &Value) -> String {
    let play = json!([{
        "hosts": "localhost", "connection": "local", "gather_facts": false,
        "roles": [{"role": "hypeman.snap.hypeman_snap", "vars": variables}],
    }]);
    serde_json::to_string_pretty(&play).unwrap()
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

/// With what to set, before anything is done.
#[test]
fn role_without_a_source_says_what_to_set() {
    let Some(controller) = Controller::create() else {
        return;
    };
    for (install, words) in [
        ("binary", "target/release/hypeman-snap after cargo build"),
        ("deb", ".deb file that contrib/package.sh makes"),
    ] {
        let playbook = controller.path("site.yml");
        fs::write(&playbook, site(&json!({"hypeman_snap_install": install}))).unwrap();
        let output = controller
            .command("ansible-playbook")
            .arg("--check")
            .arg(&playbook)
            .output()
            .unwrap();
        assert!(!output.status.success());
        let shown = text(&output);
        for words in ["hypeman_snap_source is not set", words, "changed=0"] {
            assert!(shown.contains(words), "{shown}");
        }
    }
}

#[test]
fn role_sets_a_systemd_host_up_once() {
    let Some((machine, setup)) = role_machine(TOOL) else {
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
        systemctl start hypeman-snap.service || {{ journalctl --unit=hypeman-snap.service >&2; exit 1; }}
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
    let Some((machine, setup)) = role_machine(TOOL) else {
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

/// A package with what the role needs of one; the real one is built and looked at by `package.rs`.
const PACKAGE: &str = r#"
tree=$(mktemp -d)
mkdir -p "$tree"/{DEBIAN,usr/bin,usr/lib/systemd/system,etc/default}
chmod 0755 "$tree"
cp "$SHARED/hypeman-snap" "$tree/usr/bin/"
cp "$PROJECT"/contrib/systemd/* "$tree/usr/lib/systemd/system/"
cp "$PROJECT/contrib/default/hypeman-snap" "$tree/etc/default/"
echo /etc/default/hypeman-snap >"$tree/DEBIAN/conffiles"
printf '%s\n' 'Package: hypeman-snap' 'Version: 1.0' 'Architecture: all' 'Description: test' \
  'Maintainer: test <root@localhost>' >"$tree/DEBIAN/control"
dpkg-deb --build --root-owner-group -Znone "$tree" "$SHARED/hypeman-snap_1.0_all.deb" >&2
"#;

#[test]
fn role_installs_a_package_once_and_changes_what_runs_it() {
    let has_apt = Command::new("/usr/bin/python3")
        .args(["-c", "import apt"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !has_apt {
        skipped("the role with a Debian package: install python3-apt");
        return;
    }
    let Some((machine, setup)) = role_machine(TOOL) else {
        return;
    };
    let site_with = |scheduler: &str| {
        let variables = json!({
            "hypeman_snap_install": "deb",
            "hypeman_snap_source": machine.shared().join("hypeman-snap_1.0_all.deb"),
            "hypeman_snap_scheduler": scheduler,
            "hypeman_snap_data_dir": machine.shared().join("vms"),
            "hypeman_snap_schedules": [{"instance": "web", "interval": "1h", "max_count": 24}],
        });
        let path = machine.shared().join(format!("{scheduler}.yml"));
        fs::write(path, site(&variables)).unwrap();
    };
    site_with("systemd");
    site_with("cron");
    let Some(output) = machine.boot(&format!(
        r#"{setup}{PACKAGE}
        state() {{
          systemctl is-enabled hypeman-snap.timer || true
          systemctl is-active hypeman-snap.timer || true
          [ ! -e /etc/cron.d/hypeman-snap ] || echo cron
        }}
        ln -s systemd.yml "$SHARED/site.yml"
        play check --check
        [ ! -e /usr/bin/hypeman-snap ]
        play first
        play second
        [ ! -e /usr/local/bin/hypeman-snap ] && [ ! -e /etc/systemd/system/hypeman-snap.service ]
        state
        ln -sf cron.yml "$SHARED/site.yml"
        play to-cron
        play to-cron-again
        state
        ln -sf systemd.yml "$SHARED/site.yml"
        play back
        state
        "#
    )) else {
        return;
    };
    assert!(output.status.success(), "{}", text(&output));
    plays(
        &machine,
        &["check", "first", "to-cron", "back"],
        &["second", "to-cron-again"],
    );
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        said,
        "enabled\nactive\ndisabled\ninactive\ncron\nenabled\nactive\n"
    );
}
