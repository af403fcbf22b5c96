//! The test VM: the guest of `guest/counter.c` in a real QEMU by software emulation, booted or restored from a
//! snapshot, and looked at over a monitor of the test's own. It ends its QEMU by process id, and never touches another.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::linux_guest::LinuxGuest;
use super::qmp::Qmp;
use super::vm_options::arguments;
pub use super::vm_options::{DiskStyle, GuestOptions, VmOptions, qemu_binary};
use super::wait::wait_for;

/// What a snapshot may leave in a VM, and must not: equal before and after.
#[derive(Debug, PartialEq, Eq)]
pub struct Traces {
    /// QEMU's run state.
    pub status: String,
    /// Ids of all background jobs.
    pub jobs: Vec<String>,
    /// Names of all block nodes, sorted.
    pub block_nodes: Vec<String>,
    /// Numbers of all fd sets.
    pub fdsets: Vec<i64>,
    /// Migration capabilities that are on, sorted.
    pub capabilities: Vec<String>,
}

/// A running QEMU with the test guest. Dropping it kills that QEMU and removes its sockets and logs; the disks stay.
#[derive(Debug)]
pub struct TestVm {
    child: Mutex<Child>,
    pid: u32,
    runtime: TempDir,
    socket: PathBuf,
    disks: Vec<PathBuf>,
    options: VmOptions,
    qmp: Mutex<Qmp>,
    commands: Mutex<Option<UnixStream>>,
}

impl TestVm {
    /// Makes the disks, starts QEMU and returns once the guest counts.
    ///
    /// # Panics
    /// When the VM does not come up, with the serial output and QEMU's messages.
    pub fn boot(options: &VmOptions) -> Self {
        let disks: Vec<PathBuf> = (0..options.disks)
            .map(|index| options.disk_path(index))
            .collect();
        for disk in &disks {
            match &options.linux {
                Some(_) => LinuxGuest::create_disk(disk, options.disk_format, options.disk_mib),
                None => options.disk_format.create(disk, options.disk_mib),
            }
        }
        Self::boot_from(options, &disks)
    }

    /// Starts QEMU from disks that exist already, without saved memory, and returns once the guest counts.
    ///
    /// # Panics
    /// When the VM does not come up, with the serial output and QEMU's messages.
    pub fn boot_from(options: &VmOptions, disks: &[PathBuf]) -> Self {
        let vm = Self::start(options, disks, None);
        vm.wait_for("first tick", || vm.last_tick());
        vm
    }

    /// Starts QEMU on copied disks with the saved memory, as `-incoming` does, lets it load and run.
    ///
    /// # Panics
    /// When QEMU refuses the saved state, with the serial output and QEMU's messages.
    pub fn restore(options: &VmOptions, memory: &Path, disks: &[PathBuf]) -> Self {
        let memory = File::open(memory)
            .unwrap_or_else(|error| panic!("saved memory {}: {error}", memory.display()));
        let vm = Self::start(options, disks, Some(memory));
        vm.wait_for("load of the saved state", || {
            (vm.status() != "inmigrate").then_some(())
        });
        vm.qmp("cont", &json!({}));
        vm
    }

    fn start(options: &VmOptions, disks: &[PathBuf], incoming: Option<File>) -> Self {
        // Directly under /tmp: socket paths end at 107 bytes.
        let runtime = tempfile::Builder::new()
            .prefix("vm-")
            .tempdir_in("/tmp")
            .expect("a directory for the VM's sockets");
        let socket = options
            .socket
            .clone()
            .unwrap_or_else(|| runtime.path().join("qmp.sock"));
        let observer = runtime.path().join("observer.sock");
        let stderr =
            File::create(runtime.path().join("stderr")).expect("a file for QEMU's messages");
        let mut command = if options.own_network {
            let mut command = Command::new("unshare");
            command.args(["--net", "--"]).arg(qemu_binary());
            command
        } else {
            Command::new(qemu_binary())
        };
        command
            .args(arguments(options, disks))
            .args([
                "-chardev",
                &format!(
                    "file,id=serial,path={}",
                    runtime.path().join("serial").display()
                ),
            ])
            .args([
                "-chardev",
                &format!(
                    "socket,id=commands,path={},server=on,wait=off",
                    runtime.path().join("commands").display()
                ),
            ])
            .args([
                "-qmp",
                &format!("unix:{},server=on,wait=off", socket.display()),
            ])
            .args([
                "-qmp",
                &format!("unix:{},server=on,wait=off", observer.display()),
            ])
            .stdout(Stdio::null())
            .stderr(stderr);
        match incoming {
            // The saved memory is QEMU's standard input, so that no path and no shell is involved.
            Some(memory) => command.args(["-S", "-incoming", "fd:0"]).stdin(memory),
            None => command.stdin(Stdio::null()),
        };
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", qemu_binary().display()));
        let pid = child.id();
        let report = || format!("stderr:\n{}", read_text(&runtime.path().join("stderr")));
        let qmp = wait_for(
            "QEMU's monitor",
            || {
                let ended = child.try_wait().expect("state of QEMU");
                assert!(
                    ended.is_none(),
                    "QEMU ended at once: {ended:?}\n{}",
                    report()
                );
                Qmp::connect(&observer).ok()
            },
            report,
        );
        Self {
            child: Mutex::new(child),
            pid,
            socket,
            disks: disks.to_vec(),
            options: options.clone(),
            qmp: Mutex::new(qmp),
            commands: Mutex::new(None),
            runtime,
        }
    }

    /// Process id of QEMU.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The monitor that belongs to the tool.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The disks, in the order in which the guest sees them.
    pub fn disks(&self) -> &[PathBuf] {
        &self.disks
    }

    /// How it was made.
    pub fn options(&self) -> &VmOptions {
        &self.options
    }

    /// Ends QEMU at once, as a crash of the host's VMM would.
    pub fn kill(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have ended by itself already.
        let _ = child.kill();
        let _ = child.wait();
        // Another QEMU may listen there later.
        let mut port = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        *port = None;
    }

    /// Runs a QMP command on the test's own monitor.
    ///
    /// # Panics
    /// When QEMU refuses it or is gone.
    pub fn qmp(&self, command: &str, arguments: &Value) -> Value {
        self.try_qmp(command, arguments)
            .unwrap_or_else(|error| panic!("{error}\n{}", self.report()))
    }

    /// Runs a QMP command on the test's own monitor.
    ///
    /// # Errors
    /// QEMU's own description, when it refuses it or is gone.
    pub fn try_qmp(&self, command: &str, arguments: &Value) -> Result<Value, String> {
        let mut qmp = self.qmp.lock().unwrap_or_else(PoisonError::into_inner);
        qmp.command(command, arguments)
            .unwrap_or_else(|error| Err(format!("{command}: {error}")))
    }

    /// QEMU's run state: `running`, `paused`, `postmigrate`, ….
    pub fn status(&self) -> String {
        text(&self.qmp("query-status", &json!({})), "status")
    }

    /// Whether the guest runs.
    pub fn is_running(&self) -> bool {
        self.status() == "running"
    }

    /// Everything the guest printed so far.
    pub fn serial(&self) -> String {
        read_text(&self.serial_path())
    }

    /// A variable of QEMU's environment.
    pub fn variable(&self, name: &str) -> Option<OsString> {
        let environment = std::fs::read(format!("/proc/{}/environ", self.pid)).ok()?;
        environment.split(|byte| *byte == 0).find_map(|variable| {
            let value = variable.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
            Some(OsStr::from_bytes(value).to_owned())
        })
    }

    /// The file that the first serial port is written to.
    pub fn serial_path(&self) -> PathBuf {
        self.runtime.path().join("serial")
    }

    /// Types a line on the second serial port, where the real Linux guest listens.
    ///
    /// # Panics
    /// When it can't be reached.
    pub fn type_line(&self, line: &str) {
        let mut port = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        // Stays connected: what QEMU has not read yet is lost with the connection.
        let typed = match &mut *port {
            Some(port) => port.write_all(format!("{line}\n").as_bytes()),
            None => UnixStream::connect(self.runtime.path().join("commands"))
                .and_then(|new| port.insert(new).write_all(format!("{line}\n").as_bytes())),
        };
        typed.unwrap_or_else(|error| panic!("typing {line}: {error}"));
    }

    /// Waits until this QEMU has ended by itself, as it does when its guest switches the machine off.
    ///
    /// # Panics
    /// When it does not, with the serial output and QEMU's messages.
    pub fn wait_for_end(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        self.wait_for("end of QEMU", || child.try_wait().expect("state of QEMU"));
    }

    /// The newest counter that the guest printed since this QEMU started.
    pub fn last_tick(&self) -> Option<u64> {
        self.ticks().last().copied()
    }

    /// All counters that the guest printed since this QEMU started.
    pub fn ticks(&self) -> Vec<u64> {
        let serial = self.serial();
        // A line without its end is still being printed.
        let whole = serial.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .filter_map(|line| line.strip_prefix("tick ")?.trim_end().parse().ok())
            .collect()
    }

    /// Lines in which the guest reports a snapshot whose parts belong to different instants.
    pub fn torn_lines(&self) -> Vec<String> {
        self.serial()
            .lines()
            .filter(|line| line.starts_with("TORN"))
            .map(str::to_owned)
            .collect()
    }

    /// Waits until the guest has printed a counter above `counter`, and returns it.
    ///
    /// # Panics
    /// When it does not get there in time, with the serial output and QEMU's messages.
    pub fn wait_ticks_beyond(&self, counter: u64) -> u64 {
        let what = format!("guest beyond {counter}");
        self.wait_for(&what, || self.last_tick().filter(|tick| *tick > counter))
    }

    /// Waits until the guest has printed another counter than the newest one so far, and returns it.
    ///
    /// # Panics
    /// When the guest does not run, with the serial output and QEMU's messages.
    pub fn wait_next_tick(&self) -> u64 {
        self.wait_ticks_beyond(self.last_tick().unwrap_or(0))
    }

    /// Polls `look` until it gives a value.
    ///
    /// # Panics
    /// When it does not in time or the guest halted, with the serial output and QEMU's messages.
    pub fn wait_for<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let watch = || {
            let value = look();
            let halted = value.is_none() && self.serial().contains("FATAL");
            assert!(
                !halted,
                "guest halted, waiting for {what}\n{}",
                self.report()
            );
            value
        };
        wait_for(what, watch, || self.report())
    }

    /// Ids of all background jobs, also of concluded ones.
    pub fn jobs(&self) -> Vec<String> {
        texts(&self.qmp("query-jobs", &json!({})), "id")
    }

    /// Names of all block nodes, sorted.
    pub fn block_nodes(&self) -> Vec<String> {
        texts(
            &self.qmp("query-named-block-nodes", &json!({"flat": true})),
            "node-name",
        )
    }

    /// Numbers of all fd sets.
    pub fn fdsets(&self) -> Vec<i64> {
        let sets = self.qmp("query-fdsets", &json!({}));
        sets.as_array()
            .into_iter()
            .flatten()
            .filter_map(|set| set["fdset-id"].as_i64())
            .collect()
    }

    /// Migration capabilities that are on, sorted.
    pub fn migration_capabilities(&self) -> Vec<String> {
        let all = self.qmp("query-migrate-capabilities", &json!({}));
        let on = all
            .as_array()
            .into_iter()
            .flatten()
            .filter(|one| one["state"] == json!(true));
        texts(&on.cloned().collect(), "capability")
    }

    /// All that a snapshot may leave in the VM, to compare before and after.
    pub fn traces(&self) -> Traces {
        Traces {
            status: self.status(),
            jobs: self.jobs(),
            block_nodes: self.block_nodes(),
            fdsets: self.fdsets(),
            capabilities: self.migration_capabilities(),
        }
    }

    /// How long each pause since the start took, in milliseconds, by QEMU's own STOP and RESUME events. A pause that
    /// has not ended is not in it.
    pub fn pauses_ms(&self) -> Vec<f64> {
        let mut qmp = self.qmp.lock().unwrap_or_else(PoisonError::into_inner);
        let events = qmp
            .events()
            .unwrap_or_else(|error| panic!("events of QEMU: {error}"));
        let mut stopped = None;
        let mut pauses = Vec::new();
        for event in events {
            let at = event["timestamp"]["seconds"].as_f64().unwrap_or(0.0) * 1e3
                + event["timestamp"]["microseconds"].as_f64().unwrap_or(0.0) / 1e3;
            match event["event"].as_str() {
                Some("STOP") => stopped = Some(at),
                Some("RESUME") => pauses.extend(stopped.take().map(|from| at - from)),
                _ => {}
            }
        }
        pauses
    }

    fn report(&self) -> String {
        let stderr = read_text(&self.runtime.path().join("stderr"));
        let serial = self.serial();
        let start = serial.len().saturating_sub(4000);
        format!(
            "--- serial (end of it):\n{}\n--- QEMU's messages:\n{stderr}",
            serial.get(start..).unwrap_or(&serial)
        )
    }
}

impl Drop for TestVm {
    fn drop(&mut self) {
        self.kill();
    }
}

fn read_text(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(path) {
        // What could be read is shown; a report must not fail.
        let _ = file.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

/// One field of each object in an array, sorted.
fn texts(values: &Value, field: &str) -> Vec<String> {
    let mut all: Vec<String> = values
        .as_array()
        .into_iter()
        .flatten()
        .map(|value| text(value, field))
        .collect();
    all.sort();
    all
}
