//! `register` and `unregister`: VMs that hypeman does not run.

#![cfg(test)]

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use support::cli::{Host, said};

fn host() -> Host {
    Host::new(env!("CARGO_BIN_EXE_hypeman-snap"))
}

/// A host with a disk, and the disk's path.
fn host_with_disk() -> (Host, PathBuf) {
    let host = host();
    let disk = host.dir().join("disk.raw");
    fs::write(&disk, b"a disk").unwrap();
    (host, disk)
}

fn metadata(host: &Host, id: &str) -> Value {
    let path = host
        .data_dir()
        .join("guests")
        .join(id)
        .join("metadata.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn registered_vm_is_an_instance_like_any_other() {
    let (host, disk) = host_with_disk();
    let socket = host.dir().join("qmp.sock");
    let arguments = [
        "register",
        "vm-1",
        "--hypervisor",
        "qemu",
        "--socket",
        socket.to_str().unwrap(),
        "--name",
        "database",
        "--disk",
        disk.to_str().unwrap(),
    ];
    let said = host.run(&arguments).exits(0).is_content();
    assert_eq!(said.stdout, "registered vm-1\n");
    let found = metadata(&host, "vm-1");
    assert_eq!(found["Name"], "database");
    assert_eq!(found["HypervisorType"], "qemu");
    assert_eq!(found["SocketPath"], json!(socket));

    let said = host
        .run(&["set", "database", "--interval", "1h", "--max-count", "1"])
        .exits(0)
        .is_content();
    assert!(
        said.stdout
            .starts_with("created schedule of database (vm-1)"),
        "{said:?}"
    );
    host.run(&["run-due", "--force"]).exits(0);
    let json = host
        .run(&["snapshots", "database", "-o", "json"])
        .exits(0)
        .json();
    let [snapshot] = json.as_array().unwrap().as_slice() else {
        panic!("{json}");
    };
    assert_eq!(snapshot["kind"], "Stopped");
    assert_eq!(snapshot["source_hypervisor"], "qemu");

    let said = host.run(&["unregister", "vm-1"]).exits(0).is_content();
    assert!(said.stdout.starts_with("unregistered vm-1"), "{said:?}");
    assert!(!host.data_dir().join("guests/vm-1").exists());
    assert_eq!(host.snapshots().len(), 1, "its snapshots stay");
    assert!(
        host.schedule_path("vm-1").exists(),
        "and so does its schedule"
    );
    assert!(disk.exists(), "its disk is none of our business");
}

#[test]
fn registering_is_declarative() {
    let host = host();
    let register = |more: &[&str]| {
        let json = host
            .run(
                &[
                    &[
                        "register",
                        "vm-1",
                        "--hypervisor",
                        "firecracker",
                        "--socket",
                        "/run/a.sock",
                    ],
                    more,
                    &["-o", "json"],
                ]
                .concat(),
            )
            .exits(0)
            .json();
        assert_eq!(json["instance_id"], "vm-1");
        json["changed"].as_bool().unwrap()
    };
    assert!(register(&[]));
    assert_eq!(
        metadata(&host, "vm-1")["Name"],
        "vm-1",
        "the id, if no name is given"
    );
    assert!(!register(&[]));
    assert!(register(&["--name", "database"]));
    assert!(!register(&["--name", "database"]));
    assert!(register(&[]), "what is not given is not set");
    let json = host
        .run(&["unregister", "vm-1", "-o", "json"])
        .exits(0)
        .json();
    assert_eq!(json, json!({"changed": true, "instance_id": "vm-1"}));
}

#[test]
fn paths_are_stored_as_every_directory_sees_them() {
    let (host, disk) = host_with_disk();
    let mut command = host.command();
    command
        .current_dir(host.dir())
        .args([
            "register",
            "vm-1",
            "--hypervisor",
            "qemu",
            "--socket",
            "qmp.sock",
        ])
        .args(["--disk", "disk.raw"]);
    said(&mut command).exits(0);
    let found = metadata(&host, "vm-1");
    assert_eq!(found["SocketPath"], json!(host.dir().join("qmp.sock")));
    assert!(
        found.to_string().contains(disk.to_str().unwrap()),
        "{found}"
    );
}

#[test]
fn values_that_break_a_rule_are_refused() {
    let host = host();
    for (id, hypervisor, more, expected) in [
        ("../x", "qemu", &[][..], "\"../x\""),
        (".x", "qemu", &[], "\".x\""),
        ("", "qemu", &[], "\"\""),
        ("a b", "qemu", &[], "\"a b\""),
        ("vm-1", "xen", &[], "xen"),
        ("vm-1", "vz", &[], "vz"),
        ("vm-1", "qemu", &["--name", ""], "name"),
        ("vm-1", "qemu", &["--name", "a/b"], "a/b"),
        (
            "vm-1",
            "qemu",
            &["--disk", "/nonexistent/disk"],
            "/nonexistent/disk",
        ),
        ("vm-1", "qemu", &["--disk", "/"], "disk"),
    ] {
        let arguments = [
            "register",
            id,
            "--hypervisor",
            hypervisor,
            "--socket",
            "/run/x.sock",
        ];
        host.run(&[&arguments[..], more].concat())
            .exits(2)
            .complains(&[expected]);
    }
    assert!(!host.state_dir().exists());
    host.run(&["register", "vm-1", "--hypervisor", "qemu"])
        .exits(2)
        .complains(&["--socket"]);
    assert_eq!(
        fs::read_dir(host.data_dir().join("guests"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn hypemans_own_instances_are_left_alone() {
    let host = host();
    host.add_instance("vm-1", "web-a");
    let before = metadata(&host, "vm-1");
    host.run(&[
        "register",
        "vm-1",
        "--hypervisor",
        "qemu",
        "--socket",
        "/run/x.sock",
    ])
    .exits(2)
    .complains(&["vm-1"]);
    host.run(&["unregister", "vm-1"])
        .exits(2)
        .complains(&["vm-1"]);
    assert_eq!(metadata(&host, "vm-1"), before);
}

#[test]
fn unknown_instance_is_not_found() {
    let host = host();
    host.add_instance("vm-1", "web-a");
    host.run(&["unregister", "vm-2"])
        .exits(3)
        .complains(&["vm-2"]);
    assert!(!host.state_dir().exists());
}

#[test]
fn server_knows_its_own_instances() {
    let host = host();
    for arguments in [
        &[
            "register",
            "vm-1",
            "--hypervisor",
            "qemu",
            "--socket",
            "/run/x.sock",
        ][..],
        &["unregister", "vm-1"],
    ] {
        let mut command = host.command();
        command
            .env("HYPEMAN_BASE_URL", "http://127.0.0.1:1")
            .args(arguments);
        said(&mut command)
            .exits(2)
            .complains(&[arguments[0], "--engine local"]);
    }
    assert!(!host.state_dir().exists());
}

#[test]
fn instance_that_a_run_works_on_is_waited_for() {
    let host = host();
    let register = [
        "register",
        "vm-1",
        "--hypervisor",
        "qemu",
        "--socket",
        "/run/x.sock",
    ];
    host.run(&register).exits(0);
    let held = host.lock("vm-1");
    for arguments in [&register[..], &["unregister", "vm-1"]] {
        host.run(&[arguments, &["--lock-timeout", "0s"]].concat())
            .exits(4)
            .complains(&["vm-1"]);
    }
    drop(held);
    host.run(&["unregister", "vm-1", "--lock-timeout", "0s"])
        .exits(0);
}
