//! Guests that hypeman runs, on the local engine: what would harm them is refused before their VMM is told anything, with
//! the remedy, and everything else on the host is served.

#![cfg(test)]

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::cli::{Host, Said, said};
use support::fake_hypeman::{Answer, FakeHypeman};
use support::fake_vmm::{Dialect, FakeDisk, FakeVmm, Fault, Guest, Request};
use support::qemu::{TestVm, VmOptions};
use support::wait::wait_until;

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");
const ID: &str = "mk3v9t0xq2r7w5d8h1c6b4za";
const REGISTERED: &str = "vm-of-ours";

fn vmm(host: &Host, id: &str, dialect: Dialect, socket: &Path) -> FakeVmm {
    let disk = host.dir().join(format!("{id}.raw"));
    fs::write(&disk, id).unwrap();
    let disk = FakeDisk {
        path: Some(disk),
        is_read_only: false,
    };
    FakeVmm::start(dialect, socket, &[disk])
}

fn schedule(host: &Host, id: &str) {
    host.run(&["set", id, "--interval", "1h", "--max-count", "3"])
        .exits(0);
}

fn name(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::CloudHypervisor => "cloud-hypervisor",
        Dialect::Firecracker => "firecracker",
    }
}

/// Adds a scheduled guest that hypeman runs in `dialect`'s VMM.
fn add_hypemans(host: &Host, dialect: Dialect) -> FakeVmm {
    let socket = write_hypemans(host, name(dialect));
    vmm(host, ID, dialect, &socket)
}

/// Adds a guest as one that hypeman runs, with a schedule. Gives the path of its socket.
fn write_hypemans(host: &Host, hypervisor: &str) -> PathBuf {
    host.add_instance(ID, "web-a");
    let dir = host.data_dir().join("guests").join(ID);
    let socket = dir.join("vmm.sock");
    let path = dir.join("metadata.json");
    let mut metadata: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    metadata["SocketPath"] = json!(socket);
    metadata["HypervisorType"] = json!(hypervisor);
    metadata["ProgramStartedAt"] = json!("2026-09-01T08:00:04Z");
    fs::write(path, metadata.to_string()).unwrap();
    schedule(host, ID);
    socket
}

/// Adds a scheduled guest that hypeman does not run.
fn add_registered(host: &Host, dialect: Dialect) -> FakeVmm {
    let socket = host.dir().join("registered.s");
    let vmm = vmm(host, REGISTERED, dialect, &socket);
    let socket = socket.to_str().unwrap();
    host.run(&[
        "register",
        REGISTERED,
        "--hypervisor",
        name(dialect),
        "--socket",
        socket,
    ])
    .exits(0);
    schedule(host, REGISTERED);
    vmm
}

fn track_dirty_pages(vmm: &FakeVmm) {
    vmm.add_config(json!({
        "machine-config": {
            "vcpu_count": 1, "mem_size_mib": 1, "smt": false, "track_dirty_pages": true, "huge_pages": "None",
        },
    }));
}

fn result(said: &Said, id: &str) -> Value {
    let report = said.json();
    let results = report["results"].as_array().unwrap();
    let mut of_id = results.iter().filter(|it| it["instance_id"] == id);
    of_id.next().unwrap_or_else(|| panic!("{report}")).clone()
}

fn finding(said: &Said, subject: &str) -> Value {
    let all = said.json();
    let mut found = all.as_array().unwrap().iter();
    let found = found.find(|it| it["check"] == "instance" && it["subject"] == subject);
    found.unwrap_or_else(|| panic!("{all}")).clone()
}

/// The guest ran all the time, and its VMM was asked for nothing that changes anything.
fn assert_untouched(vmm: &FakeVmm) {
    assert_eq!(vmm.guest(), Guest::Running);
    let asked = vmm.requests();
    let changes = [Request::Pause, Request::Save, Request::Resume];
    assert!(
        !asked.iter().any(|request| changes.contains(request)),
        "{asked:?}"
    );
}

fn assert_says(value: &Value, parts: &[&str]) {
    for part in parts {
        assert!(value.to_string().contains(part), "no {part:?} in {value}");
    }
}

#[test]
fn a_guest_whose_memory_hypeman_saves_by_its_changes_is_left_to_hypeman() {
    type Mark = fn(&Host, &FakeVmm);
    let signs: [(Dialect, Mark, &str); 3] = [
        (
            Dialect::Firecracker,
            |_, vmm| track_dirty_pages(vmm),
            "tracks dirty pages",
        ),
        (
            Dialect::Firecracker,
            |host, _| add_base(host),
            "snapshot-base is there",
        ),
        (
            Dialect::CloudHypervisor,
            |host, _| add_base(host),
            "snapshot-base is there",
        ),
    ];
    for (dialect, mark, sign) in signs {
        let host = Host::new(TOOL);
        let guest = add_hypemans(&host, dialect);
        let other = add_registered(&host, dialect);
        track_dirty_pages(&other);
        mark(&host, &guest);

        let doctor = host.run(&["-o", "json", "doctor"]);
        let foreseen = finding(&doctor, ID);
        assert_eq!(foreseen["status"], "warning", "{foreseen}");
        assert_says(&foreseen, &[sign, "--engine hypeman"]);
        let registered = finding(&doctor, REGISTERED).to_string();
        assert!(!registered.contains("--engine hypeman"), "{registered}");

        let run = host.run(&["-o", "json", "run-due", "--force"]).exits(1);
        let refused = result(&run, ID);
        assert_eq!(refused["outcome"], "failed");
        assert_says(&refused, &[sign, "--engine hypeman"]);
        assert_untouched(&guest);
        // Nobody else counts on the account of a registered guest's memory.
        assert_eq!(result(&run, REGISTERED)["outcome"], "snapshotted");
        assert_eq!(host.snapshots().len(), 1);
        assert!(
            fs::read_dir(host.state_dir().join("journal"))
                .map_or(true, |mut all| all.next().is_none())
        );
    }
}

fn add_base(host: &Host) {
    let base = host
        .data_dir()
        .join("guests")
        .join(ID)
        .join("snapshots/snapshot-base");
    fs::create_dir_all(base).unwrap();
}

#[test]
fn a_guest_of_hypemans_whose_memory_is_saved_whole_is_snapshotted() {
    for dialect in [Dialect::Firecracker, Dialect::CloudHypervisor] {
        let host = Host::new(TOOL);
        let guest = add_hypemans(&host, dialect);
        let run = host.run(&["-o", "json", "run-due", "--force"]).exits(0);
        assert_eq!(result(&run, ID)["outcome"], "snapshotted");
        assert_eq!((guest.guest(), guest.saves()), (Guest::Running, 1));
    }
}

/// A hypeman server on this host, as its own configuration tells, which needs no root here.
fn start_server(host: &Host) -> FakeHypeman {
    let server = FakeHypeman::start();
    name_server(host, &server);
    server
}

fn name_server(host: &Host, server: &FakeHypeman) {
    let url = server.url();
    let (_, port) = url.rsplit_once(':').unwrap();
    fs::write(host.dir().join("config.yaml"), format!("port: {port}\n")).unwrap();
}

/// Runs the tool where `start_server` says where the server is.
fn run(host: &Host, args: &[&str]) -> Said {
    let mut command = host.command();
    command
        .env("CONFIG_PATH", host.dir().join("config.yaml"))
        .args(["-o", "json"])
        .args(args);
    said(&mut command)
}

#[test]
fn while_a_hypeman_server_answers_its_running_guests_are_left_to_it() {
    for dialect in [Dialect::Firecracker, Dialect::CloudHypervisor] {
        let host = Host::new(TOOL);
        let guest = add_hypemans(&host, dialect);
        let ours = add_registered(&host, dialect);
        let at_rest = ["stopped", "standby"];
        for id in at_rest {
            host.add_instance(id, id);
            schedule(&host, id);
        }
        let saved = host
            .data_dir()
            .join("guests/standby/snapshots/snapshot-latest");
        fs::create_dir_all(&saved).unwrap();
        fs::write(saved.join("memory"), b"memory").unwrap();
        let server = start_server(&host);

        let foreseen = finding(&run(&host, &["doctor"]), ID);
        assert_eq!(foreseen["status"], "warning", "{foreseen}");
        let says = [
            &*server.url().replace("127.0.0.1", "localhost"),
            "--engine hypeman",
        ];
        assert_says(&foreseen, &says);

        for mode in [&["--dry-run"][..], &[]] {
            let run = run(&host, &[&["run-due", "--force"], mode].concat()).exits(1);
            let refused = result(&run, ID);
            assert_eq!(refused["outcome"], "failed", "{refused}");
            assert_says(&refused, &says);
            assert_says(&refused, &["--base-url"]);
            for id in at_rest {
                assert_eq!(result(&run, id)["outcome"], "snapshotted");
            }
            assert_eq!(result(&run, REGISTERED)["outcome"], "snapshotted");
        }
        // Its VMM has one ear only, which is the server's.
        assert_eq!(guest.requests(), []);
        assert_eq!(ours.saves(), 1);
        assert_eq!(server.world().lines("").len(), 3, "once a run");
        assert_eq!(host.snapshots().len(), 3);
    }
}

#[test]
fn a_guest_that_a_killed_run_left_paused_goes_on_whoever_answers() {
    let host = Host::new(TOOL);
    let guest = add_hypemans(&host, Dialect::CloudHypervisor);
    guest.on(Request::Save, Fault::Hang);
    let mut killed = host
        .std_command()
        .args(["run-due", "--force"])
        .env("CONFIG_PATH", host.dir().join("config.yaml"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the save", || guest.requests().contains(&Request::Save));
    killed.kill().unwrap();
    killed.wait().unwrap();
    guest.release();
    assert_eq!(guest.guest(), Guest::Paused);

    let _server = start_server(&host);
    run(&host, &["run-due", "--recover-only"]).exits(0);
    assert_eq!(guest.guest(), Guest::Running);
}

#[test]
fn a_qemu_whose_only_monitor_the_server_holds_is_not_waited_for() {
    let host = Host::new(TOOL);
    let disks = host.dir().join("disks");
    fs::create_dir(&disks).unwrap();
    let vm = TestVm::boot(&VmOptions::new(&disks));
    fs::hard_link(vm.socket(), write_hypemans(&host, "qemu")).unwrap();
    let _held = UnixStream::connect(vm.socket()).unwrap();
    let _server = start_server(&host);
    let began = Instant::now();
    let run = run(&host, &["run-due", "--force"]).exits(1);
    assert_says(&result(&run, ID), &["--engine hypeman"]);
    // A VMM that does not answer costs ten seconds.
    assert!(began.elapsed() < Duration::from_secs(9));
    vm.wait_ticks_beyond(vm.wait_ticks_beyond(0));
}

#[test]
fn another_service_at_hypemans_port_stops_no_snapshot() {
    let host = Host::new(TOOL);
    let guest = add_hypemans(&host, Dialect::CloudHypervisor);
    let server = start_server(&host);
    server
        .world()
        .fail("GET /health", Answer::text(200, "text/html", "<p>ok</p>"));
    let run = run(&host, &["run-due", "--force"]).exits(0);
    assert_eq!(result(&run, ID)["outcome"], "snapshotted");
    assert_eq!(guest.saves(), 1);
    assert_eq!(server.world().lines(""), ["GET /health"]);
}

#[test]
fn who_claims_to_be_hypeman_is_overruled_by_the_named_address() {
    let host = Host::new(TOOL);
    let guest = add_hypemans(&host, Dialect::CloudHypervisor);
    let _impostor = start_server(&host);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let args = [
        "--engine",
        "local",
        "--base-url",
        &address,
        "run-due",
        "--force",
    ];
    let run = run(&host, &args).exits(0);
    assert_eq!(result(&run, ID)["outcome"], "snapshotted");
    assert_eq!(guest.saves(), 1);
}

#[test]
fn nobody_is_asked_for_a_server_unless_a_running_guest_of_hypemans_is_due() {
    let host = Host::new(TOOL);
    let _guest = add_hypemans(&host, Dialect::CloudHypervisor);
    let _ours = add_registered(&host, Dialect::CloudHypervisor);
    let server = start_server(&host);
    run(&host, &["run-due"]).exits(0);
    run(&host, &["run-due", "--force", "--instance", REGISTERED]).exits(0);
    run(&host, &["list"]).exits(0);
    run(&host, &["prune"]).exits(0);
    assert!(server.world().requests.is_empty());
}
