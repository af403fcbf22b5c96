//! VMMs that their guests have taken over: whatever they answer, the tool ends in time, keeps within its bounds, and
//! what it keeps is worth something.

#![cfg(test)]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::cli::{Host, Said};
use support::hostile::{Act, Hostile, Place, Program, Script, command};
use support::wait::wait_for;

const TOOL: &str = env!("CARGO_BIN_EXE_hypeman-snap");
const ID: &str = "vm-a";
/// In which a run ends after a signal, whatever a VMM does.
const AFTER_SIGNAL: Duration = Duration::from_secs(10);
/// More than the tool ever takes, in KiB: an answer is read up to a few MiB.
const MEMORY_MAX_KIB: u64 = 100 << 10;

/// A host with one registered and scheduled guest, whose VMM is hostile.
struct Scene {
    host: Host,
    vmm: Hostile,
}

impl Scene {
    /// A VMM with one disk that does everything right but for what `change` makes of its script; nothing where that can't
    /// be had.
    fn new(program: Program, change: impl FnOnce(Script) -> Script) -> Option<Self> {
        let place = Place::new("a hostile VMM")?;
        let disk: PathBuf = place.disk("disk.raw", "the disk");
        let script = change(Script::well_behaved(program, &[disk]));
        Some(Self::of(Hostile::start(place, &script), program))
    }

    fn of(vmm: Hostile, program: Program) -> Self {
        let scene = Self {
            host: Host::new(TOOL),
            vmm,
        };
        scene.add(ID, &scene.vmm, program);
        scene
    }

    /// Registers and schedules a guest.
    fn add(&self, id: &str, vmm: &Hostile, program: Program) {
        let socket = vmm.socket();
        let socket = socket.to_str().unwrap();
        let hypervisor = program.hypervisor();
        self.host
            .run(&[
                "register",
                id,
                "--hypervisor",
                hypervisor,
                "--socket",
                socket,
            ])
            .exits(0);
        self.host
            .run(&["set", id, "--interval", "1h", "--max-count", "3"])
            .exits(0);
    }

    /// Runs `run-due --force` and gives the instance's result.
    fn force(&self) -> (Said, Value) {
        let said = self.host.run(&["-o", "json", "run-due", "--force"]);
        let result = said.json()["results"][0].clone();
        (said, result)
    }

    /// Starts `run-due --force` with `more` arguments.
    fn start(&self, more: &[&str]) -> Child {
        let mut command = self.host.std_command();
        command
            .args(["run-due", "--force"])
            .args(more)
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.host.dir().join("stderr")).unwrap());
        command.spawn().unwrap()
    }

    /// What the tool of [`Scene::start`] complained of.
    fn stderr(&self) -> String {
        fs::read_to_string(self.host.dir().join("stderr")).unwrap()
    }

    fn journals(&self) -> usize {
        fs::read_dir(self.host.state_dir().join("journal")).map_or(0, Iterator::count)
    }
}

/// Waits for the end of `tool`; gives its exit code and the most memory that it had, in KiB.
fn watch(tool: &mut Child) -> (i32, u64) {
    let mut peak_kib = 0;
    let status = wait_for(
        "the end of the tool",
        || {
            let status = fs::read_to_string(format!("/proc/{}/status", tool.id())).ok();
            let peak = status.as_deref().and_then(|status| {
                let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
                line.split_ascii_whitespace().nth(1)?.parse().ok()
            });
            peak_kib = peak_kib.max(peak.unwrap_or(0));
            tool.try_wait().unwrap()
        },
        String::new,
    );
    (status.code().unwrap(), peak_kib)
}

/// Asks `tool` to stop; gives its exit code once it has, which must be soon.
fn stop(tool: &mut Child) -> i32 {
    let pid = Pid::from_raw(tool.id().try_into().unwrap()).unwrap();
    let start = Instant::now();
    kill_process(pid, Signal::TERM).unwrap();
    let (code, _) = watch(tool);
    assert!(start.elapsed() < AFTER_SIGNAL, "{:?}", start.elapsed());
    code
}

/// The request by which a VMM saves its guest.
fn save_of(program: Program) -> String {
    match program {
        Program::Qemu => "\"execute\":\"migrate\"".to_owned(),
        Program::Firecracker => "mem_file_path".to_owned(),
        Program::CloudHypervisor => "PUT /api/v1/vm.snapshot ".to_owned(),
    }
}

/// A QEMU whose save goes on for ever, with figures that are others each time.
fn never_comes_to_rest(script: Script) -> Script {
    let active = "{\"return\": {\"status\": \"active\", \"ram\": {\"normal\": %{n}, \"remaining\": %{n}}}, \"id\": %{id}}\r\n";
    script
        .on(
            &["\"execute\":\"migrate\""],
            &[
                Act::Set("migration".to_owned(), "active".to_owned()),
                Act::Return(json!({})),
            ],
        )
        .on_while(
            ("migration", "active"),
            &[&command("query-migrate") as &str],
            &[Act::Send(active.to_owned())],
        )
}

#[test]
fn one_that_behaves_well_is_served() {
    for program in Program::ALL {
        let Some(scene) = Scene::new(program, |script| script) else {
            return;
        };
        let (said, result) = scene.force();
        assert_eq!(
            result["outcome"],
            "snapshotted",
            "{program:?}: {said:?}\n{:#?}",
            scene.vmm.told()
        );
        let snapshots = scene.host.snapshots();
        let guest = scene
            .host
            .data_dir()
            .join("snapshots")
            .join(&snapshots[0])
            .join("guest");
        let disk = fs::read(guest.join("disks/0-disk.raw"));
        // What a QEMU copies by itself, this one doesn't.
        if program != Program::Qemu {
            assert!(disk.unwrap().starts_with(b"the disk"), "{program:?}");
        }
    }
}

#[test]
fn one_that_dies_in_the_middle_costs_its_own_snapshot() {
    let Some(scene) = Scene::new(Program::Firecracker, |script| {
        script.once(&["mem_file_path"], &[Act::Exit])
    }) else {
        return;
    };
    let (said, result) = scene.force();
    assert_eq!(result["outcome"], "failed", "{said:?}");
    assert!(scene.host.snapshots().is_empty());
}

/// Runs a QEMU that answers `command` so, and asserts that its snapshot is refused by naming `parts`.
fn assert_qemu_is_refused(command_name: &str, answer: &Value, parts: &[&str]) {
    let Some(scene) = Scene::new(Program::Qemu, |script| {
        script.on(&[&command(command_name)], &[Act::Return(answer.clone())])
    }) else {
        return;
    };
    let (said, result) = scene.force();
    assert_eq!(result["outcome"], "failed", "{said:?}");
    said.exits(1).complains(parts);
    assert_eq!(scene.vmm.count(&command("stop")), 0);
    assert!(scene.host.snapshots().is_empty());
}

#[test]
fn devices_that_another_process_serves_are_refused_by_name() {
    assert_qemu_is_refused(
        "qom-list",
        &json!([{"name": "rng0", "type": "child<vhost-user-rng-pci>"}]),
        &["rng0", "vhost-user-rng-pci"],
    );
    let network = "net0: index=0,type=nic,model=virtio-net-pci\r\n \\ n0: index=0,type=vhost-user,vhost-user0 to c0\r\n";
    assert_qemu_is_refused(
        "human-monitor-command",
        &json!(network),
        &["n0", "vhost-user"],
    );
}

#[test]
fn capabilities_that_qemu_leaves_on_are_refused_by_name() {
    assert_qemu_is_refused(
        "query-migrate-capabilities",
        &json!([
            {"capability": "background-snapshot", "state": false},
            {"capability": "x-colo", "state": true},
        ]),
        &["x-colo", "migrate-set-capabilities"],
    );
}

#[test]
fn a_vmm_that_falls_silent_does_not_keep_a_run_from_being_stopped() {
    for program in Program::ALL {
        let save = save_of(program);
        let Some(scene) = Scene::new(program, |script| {
            script.on_while(("silent", "1"), &[], &[Act::Hang]).once(
                &[&save],
                &[Act::Set("silent".to_owned(), "1".to_owned()), Act::Hang],
            )
        }) else {
            return;
        };
        let mut tool = scene.start(&[]);
        scene.vmm.wait_told(&save);
        stop(&mut tool);
        let stderr = scene.stderr();
        assert!(stderr.contains("next run"), "{program:?}: {stderr}");
        // The guest may be paused, so that is not forgotten.
        assert_eq!(scene.journals(), 1, "{program:?}: {stderr}");
    }
}

#[test]
fn a_vmm_that_drips_does_not_keep_a_run_from_being_stopped() {
    let second = Duration::from_secs(1);
    for program in Program::ALL {
        let save = save_of(program);
        let drip = match program {
            Program::Qemu => " ".repeat(100),
            Program::Firecracker | Program::CloudHypervisor => {
                format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(100))
            }
        };
        let Some(scene) = Scene::new(program, |script| {
            script.on(&[&save], &[Act::Drip(second, drip.clone())])
        }) else {
            return;
        };
        let mut tool = scene.start(&[]);
        scene.vmm.wait_told(&save);
        stop(&mut tool);
        assert_eq!(scene.journals(), 0, "{program:?}: {}", scene.stderr());
    }
}

#[test]
fn a_save_whose_figures_never_come_to_rest_ends_with_the_time_of_the_instance() {
    let Some(scene) = Scene::new(Program::Qemu, never_comes_to_rest) else {
        return;
    };
    let mut tool = scene.start(&["--instance-timeout", "2s"]);
    let (code, _) = watch(&mut tool);
    let stderr = scene.stderr();
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("--instance-timeout"), "{stderr}");
    assert!(scene.host.snapshots().is_empty());
}

#[test]
fn an_old_qemus_save_is_never_cancelled_and_left_to_the_next_run() {
    let Some(mut scene) = Scene::new(Program::Qemu, |script| {
        never_comes_to_rest(script).greets_as(7, 2).on_while(
            ("ended", "1"),
            &[&command("query-migrate") as &str],
            &[Act::Return(json!({"status": "completed"}))],
        )
    }) else {
        return;
    };
    let mut tool = scene.start(&[]);
    scene.vmm.wait_told(&command("cont"));
    stop(&mut tool);
    let stderr = scene.stderr();
    assert!(stderr.contains("the guest runs"), "{stderr}");
    assert_eq!(scene.journals(), 1, "{stderr}");
    scene.vmm.tell("ended");
    scene.host.run(&["run-due", "--recover-only"]).exits(0);
    assert_eq!(scene.journals(), 0);
    assert_eq!(scene.vmm.count(&command("migrate_cancel")), 0);
}

/// Runs a VMM that answers requests that hold `needle` so, and asserts that its snapshot fails for one of `reasons`, in
/// little memory and with the guest never paused.
fn assert_costs_little(program: Program, needle: &str, acts: &[Act], reason: &str) {
    let Some(scene) = Scene::new(program, |script| script.on(&[needle], acts)) else {
        return;
    };
    let mut tool = scene.start(&[]);
    let (code, peak_kib) = watch(&mut tool);
    let stderr = scene.stderr();
    assert_eq!(code, 1, "{program:?} {needle}: {stderr}");
    assert!(stderr.contains(reason), "{program:?} {needle}: {stderr}");
    assert!(stderr.len() < 4096, "{} bytes", stderr.len());
    assert!(
        peak_kib < MEMORY_MAX_KIB,
        "{program:?} {needle}: {peak_kib} KiB"
    );
    assert!(scene.host.snapshots().is_empty());
    assert_eq!(scene.journals(), 0);
}

#[test]
fn answers_without_end_cost_little_memory() {
    let long = |start: &str, piece: &str| {
        [
            Act::Send(start.to_owned()),
            Act::Repeat((64 << 20) / piece.len() as u64, piece.to_owned()),
        ]
    };
    let block = command("query-block");
    let start = "{\"return\": [";
    assert_costs_little(Program::Qemu, &block, &long(start, "{},"), "longer than");
    let http = "HTTP/1.1 200 OK\r\n\r\n{\"drives\": [";
    for (program, needle) in [
        (Program::Firecracker, "GET /vm/config "),
        (Program::CloudHypervisor, "GET /api/v1/vmm.ping "),
    ] {
        assert_costs_little(program, needle, &long(http, "{},"), "longer than");
    }
}

#[test]
fn more_disks_than_anybody_has_are_refused() {
    let qemu = json!({"device": "d", "inserted": null});
    let many = Value::from(vec![qemu; 2000]);
    let block = command("query-block");
    assert_costs_little(Program::Qemu, &block, &[Act::Return(many)], "256 entries");
    let drive = json!({"drive_id": "d", "path_on_host": "/d", "is_read_only": false});
    let config = json!({"drives": vec![drive; 2000], "machine-config": {"mem_size_mib": 1}});
    let config = [Act::Http(200, config.to_string())];
    assert_costs_little(
        Program::Firecracker,
        "GET /vm/config ",
        &config,
        "256 entries",
    );
}

#[test]
fn sizes_that_nothing_can_have_are_refused() {
    let config = json!({"drives": [], "machine-config": {"mem_size_mib": 1_u64 << 44}});
    let config = [Act::Http(200, config.to_string())];
    assert_costs_little(
        Program::Firecracker,
        "GET /vm/config ",
        &config,
        "MiB of memory",
    );

    let Some(place) = Place::new("a disk of any size") else {
        return;
    };
    let disk = place.disk("disk.raw", "the disk");
    let mut drive = support::hostile::drive((0, &disk));
    drive["inserted"]["image"]["virtual-size"] = json!(i64::MAX);
    let script = Script::qemu(std::slice::from_ref(&disk))
        .on(&[&command("query-block")], &[Act::Return(json!([drive]))]);
    let scene = Scene::of(Hostile::start(place, &script), Program::Qemu);
    let mut tool = scene.start(&[]);
    let (code, peak_kib) = watch(&mut tool);
    let stderr = scene.stderr();
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("9223372036854775807 bytes"), "{stderr}");
    assert!(peak_kib < MEMORY_MAX_KIB, "{peak_kib} KiB");
}

#[test]
fn a_good_vm_beside_hostile_ones_is_served_in_the_same_run() {
    let Some(scene) = Scene::new(Program::Qemu, |script| script) else {
        return;
    };
    let mut others = Vec::new();
    for (number, program) in Program::ALL.into_iter().enumerate() {
        let Some(place) = Place::new("VMMs that hang") else {
            return;
        };
        let disk = place.disk("disk.raw", "a disk");
        let script =
            Script::well_behaved(program, &[disk]).once(&[&save_of(program)], &[Act::Hang]);
        let vmm = Hostile::start(place, &script);
        // Before the good one in every order.
        scene.add(&format!("a-vm-{number}"), &vmm, program);
        others.push(vmm);
    }
    let mut tool = scene.start(&["--jobs", "1", "--pause-timeout", "1s"]);
    let (code, _) = watch(&mut tool);
    assert_eq!(code, 1);
    assert_eq!(scene.host.snapshots().len(), 1, "{}", scene.stderr());
}

#[test]
fn what_a_vmm_writes_after_the_save_is_in_no_published_snapshot() {
    const SAVED: &str = "the guest's memory";
    let later = [
        Act::Later,
        Act::Await("published"),
        Act::Write("memory", 0, "EVIL".to_owned()),
        Act::Say("wrote"),
    ];
    for (program, save) in [
        (
            Program::Qemu,
            vec![
                Act::Write("memory", 0, SAVED.to_owned()),
                Act::Set("migration".to_owned(), "completed".to_owned()),
                Act::Return(json!({})),
            ],
        ),
        (
            Program::Firecracker,
            vec![
                Act::Open("state", "snapshot_path", ""),
                Act::Write("state", 0, "the devices' state".to_owned()),
                Act::Open("memory", "mem_file_path", ""),
                Act::Write("memory", 0, SAVED.to_owned()),
                Act::Http(204, String::new()),
            ],
        ),
    ] {
        let acts = [save.as_slice(), &later].concat();
        let Some(mut scene) = Scene::new(program, |script| script.on(&[&save_of(program)], &acts))
        else {
            return;
        };
        let (said, result) = scene.force();
        assert_eq!(result["outcome"], "snapshotted", "{said:?}");
        said.complains(&["memory open for writing"]);
        scene.vmm.tell("published");
        scene.vmm.wait_told("said\twrote");
        let snapshot = scene
            .host
            .data_dir()
            .join("snapshots")
            .join(&scene.host.snapshots()[0]);
        let memory = snapshot.join("guest/snapshots/snapshot-latest/memory");
        assert_eq!(fs::read_to_string(memory).unwrap(), SAVED, "{program:?}");
    }
}
