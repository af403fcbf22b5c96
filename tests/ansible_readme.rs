//! The playbooks of `contrib/ansible/README.md`, run as they are printed: on a host with a real QEMU of its own, and on one with
//! a hypeman server.

#![cfg(test)]

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::ansible::{collection, plays, role_machine};
use support::fake_hypeman::{FakeHypeman, KEY};
use support::throwaway::{Throwaway, text};

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");
const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");

/// Writes the playbook of the README for these hosts to `$SHARED/site.yml`, beside `target/`, and an inventory.
fn write_playbook(machine: &Throwaway, hosts: &str) {
    let readme = fs::read_to_string(collection().join("README.md")).unwrap();
    let playbook = readme
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .find(|playbook| playbook.contains(&format!("hosts: {hosts}\n")))
        .unwrap_or_else(|| panic!("no playbook for {hosts}"));
    let shared = machine.shared();
    fs::write(shared.join("site.yml"), format!("---\n{playbook}")).unwrap();
    let inventory = format!("[{hosts}]\nlocalhost ansible_connection=local\n");
    fs::write(shared.join("inventory"), inventory).unwrap();
    let release = shared.join("target/release");
    fs::create_dir_all(&release).unwrap();
    fs::copy(TOOL, release.join("hypeman-snap")).unwrap();
}

#[test]
fn playbook_for_a_host_with_qemus_takes_their_snapshots() {
    let Some((machine, setup)) = role_machine(TOOL) else {
        return;
    };
    write_playbook(&machine, "vm_hosts");
    let built = Command::new(Path::new(PROJECT).join("tests/support/guest/build.sh"))
        .arg(machine.shared().join("counter.elf"))
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", text(&built));
    let Some(output) = machine.boot(&format!(
        r#"{setup}
        mkdir -p /srv/vms
        truncate --size=8M /srv/vms/web-1.raw
        qemu-system-x86_64 -nodefaults -display none -machine pc -accel tcg -m 64 -kernel "$SHARED/counter.elf" \
          -blockdev file,node-name=file,filename=/srv/vms/web-1.raw -blockdev raw,node-name=disk,file=file \
          -device ide-hd,drive=disk -qmp unix:/run/web-1.qmp,server=on,wait=off >&2 &
        for _ in $(seq 300); do [ ! -S /run/web-1.qmp ] || break; sleep 0.1; done
        play first --inventory "$SHARED/inventory"
        play second --inventory "$SHARED/inventory"
        systemctl is-active hypeman-snap.timer
        hypeman-snap run-due --force >&2
        hypeman-snap --output json snapshots >"$SHARED/snapshots"
        kill %1
        "#
    )) else {
        return;
    };
    assert!(output.status.success(), "{}", text(&output));
    plays(&machine, &["first"], &["second"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "active\n");
    let snapshots: Value = serde_json::from_str(&machine.read("snapshots")).unwrap();
    assert_eq!(snapshots[0]["kind"], "Standby", "{snapshots}");
    assert_eq!(snapshots[0]["source_instance_id"], "web-1");
}

#[test]
fn playbook_for_a_host_with_a_hypeman_server_takes_its_snapshots() {
    let Some((machine, setup)) = role_machine(TOOL) else {
        return;
    };
    let machine = machine.with_network();
    let server = FakeHypeman::start();
    for (id, name) in [("web0", "web"), ("db0", "db")] {
        let state = (name.to_owned(), "Running".to_owned());
        server.world().instances.insert(id.to_owned(), state);
    }
    write_playbook(&machine, "hypeman_hosts");
    // What the README leaves to the inventory and to a vault.
    let variables = serde_json::json!({"hypeman_url": server.url(), "vault_hypeman_api_key": KEY});
    fs::write(
        machine.shared().join("variables.json"),
        variables.to_string(),
    )
    .unwrap();
    let Some(output) = machine.boot(&format!(
        r#"{setup}
        play first --inventory "$SHARED/inventory" --extra-vars "@$SHARED/variables.json"
        sed -i 's/"next_run_at": "[^"]*"/"next_run_at": "2026-01-01T00:00:00Z"/' /var/lib/hypeman-snap/snapshot-schedules/*.json
        systemctl start hypeman-snap.service || {{ journalctl --unit=hypeman-snap.service >&2; exit 1; }}
        "#
    )) else {
        return;
    };
    assert!(output.status.success(), "{}", text(&output));
    plays(&machine, &["first"], &[]);
    let names: Vec<String> = server
        .world()
        .snapshots
        .iter()
        .map(|snapshot| snapshot["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(
        names.iter().any(|name| name.starts_with("nightly-")),
        "{names:?}"
    );
}
