//! `register` and `unregister`: VMs that hypeman does not run.

#![cfg(test)]

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use support::cli::{Host, said};

fn host() -> Host {
    Host::new(env!("CARGO_BIN_EXE_hypeman-snap"))
}

/// A host that hypeman has never been on: no data directory.
fn bare_host() -> (Host, PathBuf) {
    let (host, disk) = host_with_disk();
    fs::remove_dir_all(host.data_dir()).unwrap();
    (host, disk)
}

/// A host with a disk, and the disk's path.
fn host_with_disk() -> (Host, PathBuf) {
    let host = host();
    let disk = host.dir().join("disk.raw");
    fs::write(&disk, b"a disk").unwrap();
    (host, disk)
}

fn registration_path(host: &Host, id: &str) -> PathBuf {
    host.state_dir()
        .join("instances")
        .join(format!("{id}.json"))
}

fn registration(host: &Host, id: &str) -> Value {
    serde_json::from_slice(&fs::read(registration_path(host, id)).unwrap()).unwrap()
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
    let said = host.run(&arguments).exits(0).complains(&[
        "nobody serves the socket",
        "below /tmp",
        "PrivateTmp",
    ]);
    assert_eq!(said.stdout, "registered vm-1\n");
    let found = registration(&host, "vm-1");
    assert_eq!(found["name"], "database");
    assert_eq!(found["hypervisor"], "qemu");
    assert_eq!(found["socket"], json!(socket));
    assert_eq!(found["disks"], json!([disk]));

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
    assert!(!registration_path(&host, "vm-1").exists());
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
                        "--force",
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
        registration(&host, "vm-1")["name"],
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
    let found = registration(&host, "vm-1");
    assert_eq!(found["socket"], json!(host.dir().join("qmp.sock")));
    assert_eq!(found["disks"], json!([disk]));
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
    let metadata = host.data_dir().join("guests/vm-1/metadata.json");
    let before = fs::read(&metadata).unwrap();
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
    assert_eq!(fs::read(metadata).unwrap(), before);
    assert!(!registration_path(&host, "vm-1").exists());
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
        "--force",
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

fn register(host: &Host, id: &str, disk: &std::path::Path) {
    let socket = host.dir().join("qmp.sock");
    let arguments = ["register", id, "--hypervisor", "qemu", "--socket"];
    let more = [socket.to_str().unwrap(), "--disk", disk.to_str().unwrap()];
    host.run(&[&arguments[..], &more].concat()).exits(0);
}

#[test]
fn host_with_registered_vms_alone_needs_no_data_directory_of_hypemans() {
    let (host, disk) = bare_host();
    register(&host, "vm-1", &disk);
    let set = ["set", "vm-1", "--interval", "1h", "--max-count", "3"];
    host.run(&set).exits(0).is_content();
    for command in ["list", "snapshots", "check", "doctor"] {
        host.run(&[command]).exits(0);
    }
    assert_eq!(fs::read_dir(host.data_dir()).unwrap().count(), 0);
    host.run(&["run-due", "--force"]).exits(0).is_content();
    assert_eq!(host.snapshots().len(), 1);
    assert!(!host.data_dir().join("guests").exists());
    host.run(&["snapshots", "vm-1"]).exits(0).is_content();
    host.run(&["prune"]).exits(0).is_content();
}

#[test]
fn unregistered_vm_is_gone_for_its_schedule() {
    let (host, disk) = bare_host();
    register(&host, "vm-1", &disk);
    host.run(&["set", "vm-1", "--interval", "1h", "--max-age", "1h"])
        .exits(0);
    host.run(&["run-due", "--force"]).exits(0);
    host.run(&["unregister", "vm-1"]).exits(0);
    host.run(&["run-due", "--force"]).exits(0);
    assert_eq!(host.snapshots().len(), 1);
    assert!(
        host.schedule("vm-1")["missing_since"].is_string(),
        "{}",
        host.schedule("vm-1")
    );
    // It comes back as it was.
    register(&host, "vm-1", &disk);
    let json = host
        .run(&["run-due", "--force", "-o", "json"])
        .exits(0)
        .json();
    assert_eq!(json["results"][0]["outcome"], "snapshotted", "{json}");
}

#[test]
fn store_that_is_not_mounted_is_not_made_anew_below_its_mount_point() {
    let (host, disk) = bare_host();
    register(&host, "vm-1", &disk);
    host.run(&["set", "vm-1", "--interval", "1h", "--max-count", "3"])
        .exits(0);
    host.run(&["run-due", "--force"]).exits(0);
    let away = host.dir().join("unmounted");
    fs::rename(host.data_dir(), &away).unwrap();
    fs::create_dir(host.data_dir()).unwrap();
    host.run(&["run-due", "--force"])
        .exits(1)
        .complains(&["not mounted"]);
    host.run(&["doctor"]).exits(1);
    assert_eq!(fs::read_dir(host.data_dir()).unwrap().count(), 0);
    fs::remove_dir(host.data_dir()).unwrap();
    fs::rename(&away, host.data_dir()).unwrap();
    host.run(&["run-due", "--force"]).exits(0);
    assert_eq!(host.snapshots().len(), 2);
}

/// What version 0.1 wrote for `register vm-1`.
fn register_as_of_old(host: &Host, disk: &std::path::Path) -> PathBuf {
    let dir = host.data_dir().join("guests/vm-1");
    host.add_instance("vm-1", "database");
    fs::remove_file(dir.join("overlay.raw")).unwrap();
    let path = dir.join("metadata.json");
    let mut metadata: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    metadata["HypemanSnapRegistered"] = true.into();
    metadata["HypemanSnapDisks"] = json!([disk]);
    fs::write(path, metadata.to_string()).unwrap();
    dir
}

#[test]
fn registration_of_an_older_version_is_moved_by_the_first_command_that_writes() {
    let (host, disk) = host_with_disk();
    let old = register_as_of_old(&host, &disk);
    host.run(&["snapshots"]).exits(0).is_content();
    assert!(old.exists(), "who only looks changes nothing");
    host.run(&["set", "database", "--interval", "1h", "--max-count", "3"])
        .exits(0)
        .is_content();
    assert!(!old.exists());
    assert_eq!(registration(&host, "vm-1")["disks"], json!([disk]));
    host.run(&["run-due", "--force"]).exits(0).is_content();
    assert_eq!(host.snapshots().len(), 1);
}

#[test]
fn registration_that_a_guest_could_have_planted_is_not_believed() {
    let host = host();
    let secret = host.dir().join("secret");
    fs::write(&secret, "root's alone").unwrap();
    let old = register_as_of_old(&host, &secret);
    fs::set_permissions(&old, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    host.write_schedule(
        "vm-1",
        json!({
            "instance_id": "vm-1", "interval": "1h0m0s", "retention": {"max_count": 3},
            "next_run_at": "2026-01-01T00:00:00Z", "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z",
        })
        .to_string(),
    );
    host.run(&["run-due"])
        .exits(1)
        .complains(&["vm-1", "0777", "register vm-1 again"]);
    assert_eq!(host.snapshots(), Vec::<String>::new());
    let said = host.run(&["doctor"]).exits(1);
    assert!(said.stdout.contains("0777"), "{said:?}");
    register(&host, "vm-1", &secret);
    host.run(&["run-due", "--force"]).exits(0);
    assert_eq!(host.snapshots().len(), 1);
}

#[test]
fn disks_that_hypemans_metadata_names_for_us_are_not_copied() {
    let host = host();
    let secret = host.dir().join("secret");
    fs::write(&secret, "root's alone").unwrap();
    host.add_instance("vm-1", "database");
    let path = host.data_dir().join("guests/vm-1/metadata.json");
    let mut metadata: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    metadata["HypemanSnapDisks"] = json!([secret]);
    fs::write(path, metadata.to_string()).unwrap();
    host.run(&["set", "vm-1", "--interval", "1h", "--max-count", "3"])
        .exits(0);
    host.run(&["run-due", "--force"]).exits(0);
    let [id] = host.snapshots().try_into().unwrap();
    let copied = host.data_dir().join("snapshots").join(id).join("guest");
    assert!(!copied.join("disks").exists());
}

#[test]
fn vm_whose_disks_nobody_knows_is_registered_only_by_force() {
    let (host, disk) = host_with_disk();
    let arguments = [
        "register",
        "vm-1",
        "--hypervisor",
        "qemu",
        "--socket",
        "/run/no.sock",
    ];
    host.run(&arguments).exits(2).complains(&[
        "nobody serves the socket /run/no.sock",
        "--disk",
        "--force",
    ]);
    assert!(!registration_path(&host, "vm-1").exists());
    let named = [&arguments[..], &["--disk", disk.to_str().unwrap()]].concat();
    for sure in [&[&arguments[..], &["--force"]].concat(), &named] {
        host.run(sure)
            .exits(0)
            .complains(&["nobody serves the socket"]);
        // The same again, as Ansible does it while the VM is off, is no news.
        host.run(sure).exits(0).is_content();
    }
}

/// libvirt's own monitor serves libvirt alone, and a directory that others can write to lets them take a VM's place.
#[test]
fn sockets_that_are_libvirts_or_open_to_others_are_told() {
    let host = Host::with_two_instances(env!("CARGO_BIN_EXE_hypeman-snap"));
    let own = "/var/lib/libvirt/qemu/domain-3-web-1/monitor.sock";
    host.run(&[
        "register",
        "vm-1",
        "--hypervisor",
        "qemu",
        "--socket",
        own,
        "--force",
    ])
    .exits(2)
    .complains(&["libvirt's own monitor", "register --libvirt DOMAIN"]);
    // Who registered it with an older version is told by doctor.
    let fine = "/run/vms/vm-1.qmp";
    host.run(&[
        "register",
        "vm-1",
        "--hypervisor",
        "qemu",
        "--socket",
        fine,
        "--force",
    ])
    .exits(0);
    let file = host.state_dir().join("instances/vm-1.json");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(fine, own)).unwrap();
    let said = host.run(&["doctor"]);
    assert!(
        said.stdout.contains("its socket is libvirt's own monitor"),
        "{}",
        said.stdout
    );
}
