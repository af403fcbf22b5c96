//! The guest of `guest/micro.S` in a real Cloud Hypervisor or Firecracker, booted or restored from a snapshot. Their
//! binaries are not Debian's: environment variables name them, and without them the tests that want them say that they
//! were skipped.

mod jail;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::fake_vmm::Dialect;
use super::wait::{DEADLINE, wait_for};

/// RAM in MiB; the guest needs less than one.
const RAM_MIB: u64 = 64;

/// A real VMM with the guest that counts. It ends when it is dropped.
#[derive(Debug)]
pub struct MicroVm {
    dialect: Dialect,
    child: Child,
    /// Where the VMM runs: its socket, its log, the guest's serial line.
    dir: TempDir,
    serial: PathBuf,
    socket: PathBuf,
}

/// The binary of the VMM, or nothing, said aloud.
///
/// # Panics
/// When the variable names no file.
pub fn binary(dialect: Dialect) -> Option<PathBuf> {
    let variable = match dialect {
        Dialect::CloudHypervisor => "HYPEMAN_SNAP_TEST_CLOUD_HYPERVISOR",
        Dialect::Firecracker => "HYPEMAN_SNAP_TEST_FIRECRACKER",
    };
    let named = std::env::var_os(variable).filter(|value| !value.is_empty());
    let Some(binary) = named.map(PathBuf::from) else {
        skipped(&format!("a real {dialect:?}: set {variable} to its binary"));
        return None;
    };
    // The VMM runs in another directory.
    let binary = fs::canonicalize(&binary)
        .unwrap_or_else(|error| panic!("{variable}={}: {error}", binary.display()));
    if !Path::new("/dev/kvm").exists() {
        skipped(&format!("a real {dialect:?}: there is no /dev/kvm"));
        return None;
    }
    Some(binary)
}

fn skipped(what: &str) {
    // Straight to stderr: the test harness captures only what the print macros write, and a skip must be seen.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}");
}

/// The built guest, once for all tests of a process.
fn guest() -> &'static Path {
    static GUEST: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = GUEST.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a directory for the guest");
        let path = dir.path().join("micro");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/guest/micro.S");
        let built = Command::new("cc")
            .args([
                "-nostdlib",
                "-static",
                "-no-pie",
                "-Wl,-N,-Ttext=0x100000,-e,start64,--build-id=none",
            ])
            .args(["-Wl,--no-warn-rwx-segments", "-o"])
            .arg(&path)
            .arg(source)
            .status();
        assert!(
            built.expect("cc, the C compiler").success(),
            "building {source}"
        );
        (dir, path)
    });
    path
}

/// The numbers that the guest has printed to `serial`, in their order.
pub fn ticks(serial: &Path) -> Vec<u64> {
    let text = words(serial);
    // The last line may still grow.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .filter_map(|line| line.trim().strip_prefix("tick ")?.parse().ok())
        .collect()
}

/// What the guest has printed to `serial`, without the lines of Firecracker's log, which go to the same file, in the
/// middle of others.
pub fn words(serial: &Path) -> String {
    const MARK: &str = " [anonymous-instance:";
    const TIME: &str = "2026-11-27T01:09:36.451615971";
    let text = fs::read(serial).unwrap_or_default();
    let mut text = String::from_utf8_lossy(&text).into_owned();
    while let Some(mark) = text.find(MARK) {
        let begin = mark.saturating_sub(TIME.len());
        let end = text[mark..]
            .find('\n')
            .map_or(text.len(), |end| mark + end + 1);
        text.replace_range(begin..end, "");
    }
    text
}

/// Holds what a restored guest printed to `serial` against its promise: it went on from a number in `first..=last`, left
/// none out, and did not begin again.
///
/// # Panics
/// When it broke it.
pub fn assert_went_on_between(serial: &Path, first: u64, last: u64) {
    let ticks = ticks(serial);
    assert!(
        first <= ticks[0] && ticks[0] <= last + 1,
        "{first}..={last}: {ticks:?}"
    );
    assert!(
        ticks.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{ticks:?}"
    );
    let text = words(serial);
    assert!(!text.contains("boot\r"), "{text}");
}

impl MicroVm {
    /// Boots the guest with the raw disks `writable` and `read_only`.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn boot(dialect: Dialect, binary: &Path, writable: &Path, read_only: &Path) -> Self {
        let disks = [(writable, false), (read_only, true)];
        match dialect {
            Dialect::CloudHypervisor => Self::start(dialect, |dir| {
                let mut command = Command::new(binary);
                command
                    .args([
                        "--api-socket",
                        "path=vmm.sock",
                        "--console",
                        "off",
                        "--serial",
                    ])
                    .arg(format!("file={}", dir.join("serial").display()))
                    .args([
                        "--cpus",
                        "boot=1,nested=off",
                        "--memory",
                        &format!("size={RAM_MIB}M"),
                    ])
                    .args([
                        "--kernel",
                        guest().to_str().expect("a path in UTF-8"),
                        "--disk",
                    ]);
                for (disk, is_read_only) in disks {
                    let mode = if is_read_only { "on" } else { "off" };
                    command.arg(format!(
                        "path={},readonly={mode},image_type=raw",
                        disk.display()
                    ));
                }
                command
            }),
            Dialect::Firecracker => Self::start(dialect, |dir| {
                write_firecracker_config(&dir.join("config"), guest(), &disks);
                let mut command = Command::new(binary);
                command.args([
                    "--no-seccomp",
                    "--api-sock",
                    "vmm.sock",
                    "--config-file",
                    "config",
                ]);
                command
            }),
        }
        .booted()
    }

    /// Boots the guest with one disk in a Firecracker that tracks which pages the guest writes, as hypeman does it.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn boot_tracking(binary: &Path, disk: &Path) -> Self {
        Self::start(Dialect::Firecracker, |dir| {
            let path = dir.join("config");
            write_firecracker_config(&path, guest(), &[(disk, false)]);
            let config = fs::read(&path).expect("Firecracker's configuration");
            let mut config: Value =
                serde_json::from_slice(&config).expect("a configuration in JSON");
            config["machine-config"]["track_dirty_pages"] = Value::Bool(true);
            fs::write(&path, config.to_string()).expect("Firecracker's configuration");
            let mut command = Command::new(binary);
            command.args(["--no-seccomp", "--api-sock", "vmm.sock"]);
            command.args(["--config-file", "config"]);
            command
        })
        .booted()
    }

    /// Starts the VMM from a saved state; its disks must be where the saved state knows them, and the VM that was saved
    /// must have been stopped.
    ///
    /// # Panics
    /// When it refuses.
    pub fn restore(dialect: Dialect, binary: &Path, state_dir: &Path) -> Self {
        match dialect {
            Dialect::CloudHypervisor => {
                // The saved configuration names the serial line's file of the first VM.
                let config = fs::read_to_string(state_dir.join("config.json"))
                    .expect("a saved configuration");
                let config: Value =
                    serde_json::from_str(&config).expect("a saved configuration in JSON");
                let serial =
                    PathBuf::from(config["serial"]["file"].as_str().expect("a serial line"));
                fs::remove_file(&serial).expect("the first VM's serial line");
                let mut vm = Self::start(dialect, |_| {
                    let mut command = Command::new(binary);
                    command.args(["--api-socket", "path=vmm.sock", "--restore"]);
                    command.arg(format!("source_url=file://{}", state_dir.display()));
                    command
                });
                vm.serial = serial;
                vm.wait("restored guest", || {
                    let info = vm.answer("GET", "/api/v1/vm.info", &Value::Null);
                    info.contains(r#""state":"Paused""#).then_some(())
                });
                vm.ask("PUT", "/api/v1/vm.resume", &Value::Null);
                vm
            }
            Dialect::Firecracker => {
                let vm = Self::start(dialect, |_| {
                    let mut command = Command::new(binary);
                    command.args(["--no-seccomp", "--api-sock", "vmm.sock"]);
                    command
                });
                vm.load(state_dir);
                vm
            }
        }
    }

    /// Boots a Firecracker in a directory that is its root, as another user, with a copy of `disk` at `/disk.raw` in
    /// there. Needs root; nothing, said aloud, without it.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn boot_jailed(binary: &Path, disk: &Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skipped("a jailed Firecracker: that needs root");
            return None;
        }
        let vm = Self::start(Dialect::Firecracker, |dir| {
            let config = dir.join("config");
            write_firecracker_config(
                &config,
                Path::new("/micro"),
                &[(Path::new("/disk.raw"), false)],
            );
            let files = [(guest(), "micro"), (disk, "disk.raw")];
            jail::enter(dir, binary, &files, &["--config-file", "/config"])
        });
        Some(vm.booted())
    }

    /// Starts a jailed Firecracker from a state that was saved in another jail, with the disk's copy.
    ///
    /// # Panics
    /// When it refuses.
    pub fn restore_jailed(binary: &Path, disk: &Path, state_dir: &Path) -> Self {
        let (state, memory) = (state_dir.join("state"), state_dir.join("memory"));
        let vm = Self::start(Dialect::Firecracker, |dir| {
            let files = [(disk, "disk.raw"), (&state, "state"), (&memory, "memory")];
            jail::enter(dir, binary, &files, &[])
        });
        vm.load(Path::new("/"));
        vm
    }

    fn start(dialect: Dialect, command: impl FnOnce(&Path) -> Command) -> Self {
        // A socket's path is short, so not below a test's own directory.
        let dir = tempfile::Builder::new()
            .prefix("micro-")
            .tempdir_in("/tmp")
            .expect("a directory for the VMM");
        let mut command = command(dir.path());
        let serial = dir.path().join("serial");
        let log = File::create(dir.path().join("log")).expect("a log");
        command
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stderr(log);
        if dialect == Dialect::Firecracker {
            // Its serial line is its standard output.
            command.stdout(File::create(&serial).expect("a serial line"));
        } else {
            command.stdout(Stdio::null());
        }
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let vm = Self {
            dialect,
            child,
            serial,
            socket: dir.path().join("vmm.sock"),
            dir,
        };
        vm.wait("the VMM's socket", || UnixStream::connect(&vm.socket).ok());
        vm
    }

    fn booted(self) -> Self {
        self.wait_ticks_beyond(0);
        self
    }

    /// The file that this VMM's guest prints to.
    pub fn serial(&self) -> &Path {
        &self.serial
    }

    /// Ends the VMM; its directory stays until this is dropped, for a restored VM whose serial line goes there.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The VMM's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The control socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The directory in which the VMM runs; a jailed one's root.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The numbers that this VMM's guest has printed, in their order.
    pub fn ticks(&self) -> Vec<u64> {
        ticks(&self.serial)
    }

    /// Waits until the guest has counted beyond `tick`, and returns where it is.
    ///
    /// # Panics
    /// When it does not go on.
    pub fn wait_ticks_beyond(&self, tick: u64) -> u64 {
        self.wait(&format!("a tick beyond {tick}"), || {
            self.ticks().last().copied().filter(|last| *last > tick)
        })
    }

    /// Holds a restored guest against its promise: it goes on from a number in `first..=last`, leaves none out, and does
    /// not begin again.
    ///
    /// # Panics
    /// When it breaks it.
    pub fn assert_goes_on_between(&self, first: u64, last: u64) {
        let seen = self.wait_ticks_beyond(0);
        self.wait_ticks_beyond(seen + 5);
        assert_went_on_between(&self.serial, first, last);
    }

    fn wait<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        wait_for(what, look, || {
            let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
            format!(
                "{}{}",
                read(&self.dir.path().join("log")),
                read(&self.serial)
            )
        })
    }

    /// Loads what was saved to `state_dir`, as the VMM sees it, and lets it run.
    fn load(&self, state_dir: &Path) {
        let load = json!({
            "snapshot_path": state_dir.join("state"),
            "mem_backend": {"backend_type": "File", "backend_path": state_dir.join("memory")},
            "resume_vm": true,
        });
        self.ask("PUT", "/snapshot/load", &load);
    }

    /// Sends one request and gives the answer, which must be a success.
    fn ask(&self, method: &str, path: &str, body: &Value) {
        let answer = self.answer(method, path, body);
        assert!(
            answer.starts_with("HTTP/1.1 20"),
            "{method} {path}: {answer}"
        );
    }

    /// Sends one request and gives the answer, whatever it is.
    fn answer(&self, method: &str, path: &str, body: &Value) -> String {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let mut connection = UnixStream::connect(&self.socket).expect("a connection to the VMM");
        connection
            .set_read_timeout(Some(DEADLINE))
            .expect("a deadline");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        connection
            .write_all((head + &body).as_bytes())
            .expect("a request");
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        // The VMM keeps the connection open, so only the length says where the answer ends.
        let is_whole = |answer: &[u8]| {
            let text = String::from_utf8_lossy(answer);
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                return false;
            };
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok());
            body.len() >= length.unwrap_or(0)
        };
        while !is_whole(&answer) {
            let read = connection.read(&mut buffer).expect("an answer");
            assert_ne!(read, 0, "{:?} closed the connection", self.dialect);
            answer.extend_from_slice(&buffer[..read]);
        }
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for MicroVm {
    fn drop(&mut self) {
        self.stop();
    }
}

fn write_firecracker_config(path: &Path, kernel: &Path, disks: &[(&Path, bool)]) {
    let drives = disks
        .iter()
        .enumerate()
        .map(|(number, (disk, is_read_only))| {
            json!({
                "drive_id": format!("disk{number}"), "path_on_host": disk, "is_root_device": false,
                "is_read_only": is_read_only,
            })
        });
    let config = json!({
        "boot-source": {"kernel_image_path": kernel},
        "machine-config": {"vcpu_count": 1, "mem_size_mib": RAM_MIB},
        "drives": drives.collect::<Vec<_>>(),
    });
    fs::write(path, config.to_string()).expect("Firecracker's configuration");
}
