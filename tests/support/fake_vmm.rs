//! A VMM without a guest: Cloud Hypervisor's and Firecracker's API on a real unix socket, in their real wire format, with
//! faults on demand. Like the real ones it answers one request at a time, and forgets a request whose sender hung up
//! before its turn came.

pub mod fresh;
mod wire;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::{Shutdown, shutdown};
use serde_json::{Value, json};

use self::wire::{has_hung_up, read_request, reply, send};

/// Whose API it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Cloud Hypervisor 54.
    CloudHypervisor,
    /// Firecracker 1.17.
    Firecracker,
}

/// What a client wants, the same for both dialects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The guest's state; for Cloud Hypervisor also its configuration.
    State,
    /// The guest's configuration (Firecracker).
    Config,
    /// The VMM's version.
    Version,
    /// Stop the guest.
    Pause,
    /// Save its state.
    Save,
    /// Let it go on.
    Resume,
}

/// What goes wrong, once.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The request is not carried out and gets this status and body.
    Refuse(u16, String),
    /// It is carried out after this time.
    Slow(Duration),
    /// It is not answered until [`FakeVmm::release`], and then carried out.
    Hang,
    /// It is carried out, and the connection closed in the middle of the answer.
    CloseMidReply,
    /// The VMM dies instead: no answer, nobody listens any more, the socket stays behind.
    Die,
    /// It is carried out and answered by something that is no HTTP.
    Garbage,
}

/// The guest's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// Not started yet.
    Created,
    /// Runs.
    Running,
    /// Paused.
    Paused,
}

/// A disk of the guest.
#[derive(Clone, Debug)]
pub struct FakeDisk {
    /// As the VMM names the file; nothing for one that another process serves.
    pub path: Option<PathBuf>,
    /// Whether the guest can't write to it.
    pub is_read_only: bool,
}

/// A running fake; dropping it ends it.
#[derive(Debug)]
pub struct FakeVmm {
    listener: UnixListener,
    shared: Arc<Shared>,
    server: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    dialect: Dialect,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug)]
struct Inner {
    guest: Guest,
    disks: Vec<FakeDisk>,
    extra_config: Value,
    faults: Vec<(Request, Fault)>,
    requests: Vec<Request>,
    saves: usize,
    late_write: Option<Vec<u8>>,
    leaves_sync: bool,
    last_save: Value,
    /// The disks, open as they are in a VMM.
    _open: Vec<File>,
    is_released: bool,
    is_ending: bool,
}

/// Whether the server goes on after a connection.
enum Next {
    Serve,
    End,
}

impl FakeVmm {
    /// Starts a VMM that listens at `socket` and has a running guest with `disks`, whose files it opens.
    ///
    /// # Panics
    /// When it can't listen there.
    pub fn start(dialect: Dialect, socket: &Path, disks: &[FakeDisk]) -> Self {
        let listener = UnixListener::bind(socket).expect("the fake VMM's socket");
        let shared = Arc::new(Shared {
            dialect,
            inner: Mutex::new(Inner {
                guest: Guest::Running,
                disks: disks.to_vec(),
                extra_config: json!({}),
                faults: Vec::new(),
                requests: Vec::new(),
                saves: 0,
                late_write: None,
                leaves_sync: false,
                last_save: Value::Null,
                _open: open(disks),
                is_released: false,
                is_ending: false,
            }),
            changed: Condvar::new(),
        });
        let server = std::thread::spawn({
            let shared = Arc::clone(&shared);
            let listener = listener.try_clone().expect("the fake VMM's listener");
            move || shared.serve(&listener)
        });
        Self {
            listener,
            shared,
            server: Some(server),
        }
    }

    /// The next `request` runs into `fault`. Faults for the same request happen one after the other.
    pub fn on(&self, request: Request, fault: Fault) {
        self.shared.lock().faults.push((request, fault));
    }

    /// The next save first carries out a write that the guest had asked for before the pause: the first disk's file
    /// becomes `bytes`. The saved state counts it as done.
    pub fn write_in_save(&self, bytes: &[u8]) {
        self.shared.lock().late_write = Some(bytes.to_vec());
    }

    /// Lets a [`Fault::Hang`] go on.
    pub fn release(&self) {
        self.shared.lock().is_released = true;
        self.shared.changed.notify_all();
    }

    /// Brings the guest into a state, as somebody else would.
    pub fn set_guest(&self, guest: Guest) {
        self.shared.lock().guest = guest;
    }

    /// What the guest does.
    pub fn guest(&self) -> Guest {
        self.shared.lock().guest
    }

    /// Adds the members of the object `extra` to the configuration that the VMM tells.
    pub fn add_config(&self, extra: Value) {
        self.shared.lock().extra_config = extra;
    }

    /// A Firecracker that can leave the files of a save unsynced, as later ones can.
    pub fn know_sync_snapshot_files(&self) {
        self.shared.lock().leaves_sync = true;
    }

    /// What the last save was asked for with.
    pub fn last_save(&self) -> Value {
        self.shared.lock().last_save.clone()
    }

    /// How many saves were carried out, with or without success.
    pub fn saves(&self) -> usize {
        self.shared.lock().saves
    }

    /// All requests so far, in their order.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().requests.clone()
    }
}

impl Drop for FakeVmm {
    fn drop(&mut self) {
        self.shared.lock().is_ending = true;
        self.shared.changed.notify_all();
        // Wakes the server if it waits for a connection.
        let _ = shutdown(&self.listener, Shutdown::Both);
        if let Some(server) = self.server.take() {
            let ended = server.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "the fake VMM panicked"
            );
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, listener: &UnixListener) {
        for connection in listener.incoming() {
            if self.lock().is_ending {
                return;
            }
            let mut connection = connection.expect("a connection to the fake VMM");
            if matches!(self.answer(&mut connection), Next::End) {
                shutdown(listener, Shutdown::Both).expect("an end to listening");
                return;
            }
        }
    }

    fn answer(&self, connection: &mut UnixStream) -> Next {
        // Somebody who only looks who listens sends nothing.
        let Some((line, body)) = read_request(connection) else {
            return Next::Serve;
        };
        if has_hung_up(connection) {
            return Next::Serve;
        }
        if let Some(refusal) = self.refuse_by_reading(&line, &body) {
            send(connection, self.dialect, &refusal);
            return Next::Serve;
        }
        let Some(request) = self.understand(&line, &body) else {
            send(
                connection,
                self.dialect,
                &self.error(404, "no such request"),
            );
            return Next::Serve;
        };
        let fault = {
            let mut inner = self.lock();
            inner.requests.push(request);
            let position = inner.faults.iter().position(|(on, _)| *on == request);
            position.map(|position| inner.faults.remove(position).1)
        };
        match fault {
            Some(Fault::Refuse(status, body)) => send(connection, self.dialect, &(status, body)),
            Some(Fault::Die) => return Next::End,
            Some(Fault::CloseMidReply) => {
                let reply = reply(self.dialect, &self.carry_out(request, &body));
                let _ = connection.write_all(&reply.as_bytes()[..reply.len() / 2]);
            }
            Some(Fault::Garbage) => {
                self.carry_out(request, &body);
                let _ = connection.write_all(b"{\"QMP\": {}}\r\n\r\n");
            }
            Some(Fault::Slow(time)) => {
                std::thread::sleep(time);
                send(connection, self.dialect, &self.carry_out(request, &body));
            }
            Some(Fault::Hang) => {
                let inner = self.lock();
                let held = |inner: &mut Inner| !inner.is_released && !inner.is_ending;
                let mut inner = self
                    .changed
                    .wait_while(inner, held)
                    .unwrap_or_else(PoisonError::into_inner);
                inner.is_released = false;
                drop(inner);
                send(connection, self.dialect, &self.carry_out(request, &body));
            }
            None => send(connection, self.dialect, &self.carry_out(request, &body)),
        }
        Next::Serve
    }

    /// What Firecracker refuses before it looks at its guest: a save with fields that it doesn't know, or without some
    /// that it needs.
    fn refuse_by_reading(&self, line: &str, body: &Value) -> Option<(u16, String)> {
        if (self.dialect, line) != (Dialect::Firecracker, "PUT /snapshot/create") {
            return None;
        }
        let wrong = if !self.lock().leaves_sync && !body["sync_snapshot_files"].is_null() {
            "unknown field `sync_snapshot_files`, expected one of `snapshot_type`, `snapshot_path`, `mem_file_path`"
        } else if body["snapshot_path"].is_null() {
            "missing field `snapshot_path`"
        } else {
            return None;
        };
        let said =
            format!("An error occurred when deserializing the json body of a request: {wrong}.");
        Some(self.error(400, &said))
    }

    fn understand(&self, line: &str, body: &Value) -> Option<Request> {
        Some(match (self.dialect, line) {
            (Dialect::CloudHypervisor, "GET /api/v1/vm.info") | (Dialect::Firecracker, "GET /") => {
                Request::State
            }
            (Dialect::Firecracker, "GET /vm/config") => Request::Config,
            (Dialect::CloudHypervisor, "GET /api/v1/vmm.ping")
            | (Dialect::Firecracker, "GET /version") => Request::Version,
            (Dialect::CloudHypervisor, "PUT /api/v1/vm.pause") => Request::Pause,
            (Dialect::CloudHypervisor, "PUT /api/v1/vm.resume") => Request::Resume,
            (Dialect::CloudHypervisor, "PUT /api/v1/vm.snapshot")
            | (Dialect::Firecracker, "PUT /snapshot/create") => Request::Save,
            (Dialect::Firecracker, "PATCH /vm") => match body["state"].as_str()? {
                "Paused" => Request::Pause,
                "Resumed" => Request::Resume,
                _ => return None,
            },
            _ => return None,
        })
    }

    /// Status and body of the answer to a request that meets no fault.
    fn carry_out(&self, request: Request, body: &Value) -> (u16, String) {
        let guest = self.lock().guest;
        match (request, self.dialect) {
            (Request::State, Dialect::CloudHypervisor) => (200, self.cloud_hypervisor_info()),
            (Request::State, Dialect::Firecracker) => {
                let state = if guest == Guest::Created { "Not started".to_owned() } else { format!("{guest:?}") };
                let info = json!({"id": "anonymous-instance", "state": state, "vmm_version": "1.17.0", "app_name": "Firecracker"});
                (200, info.to_string())
            }
            (Request::Config, _) => (200, self.firecracker_config()),
            (Request::Version, Dialect::CloudHypervisor) => {
                (200, r#"{"build_version":"v54.0.0","version":"54.0.0","pid":1,"features":["io_uring","kvm"]}"#.to_owned())
            }
            (Request::Version, Dialect::Firecracker) => (200, r#"{"firecracker_version":"1.17.0"}"#.to_owned()),
            (_, Dialect::Firecracker) if guest == Guest::Created => {
                self.error(400, "The requested operation is not supported before starting the microVM.")
            }
            (_, Dialect::CloudHypervisor) if guest == Guest::Created => self.error(500, "VM is not running"),
            (Request::Pause, Dialect::CloudHypervisor) if guest == Guest::Paused => {
                self.error(500, "Invalid transition: InvalidStateTransition(Paused, Paused)")
            }
            (Request::Resume, Dialect::CloudHypervisor) if guest == Guest::Running => {
                self.error(500, "Invalid transition: InvalidStateTransition(Running, Running)")
            }
            (Request::Pause, _) => {
                self.lock().guest = Guest::Paused;
                (204, String::new())
            }
            (Request::Resume, _) => {
                self.lock().guest = Guest::Running;
                (204, String::new())
            }
            (Request::Save, Dialect::CloudHypervisor) if guest == Guest::Running => {
                self.error(500, "Trying to snapshot while VM is running")
            }
            (Request::Save, Dialect::Firecracker) if guest == Guest::Running => {
                self.error(400, "Create snapshot error: save/restore unavailable while running")
            }
            (Request::Save, dialect) => {
                self.drain();
                let answer = match dialect {
                    Dialect::CloudHypervisor => self.save_cloud_hypervisor(body),
                    Dialect::Firecracker => self.save_firecracker(body),
                };
                let mut inner = self.lock();
                inner.saves += 1;
                inner.last_save = body.clone();
                answer
            }
        }
    }

    fn drain(&self) {
        let mut inner = self.lock();
        if let Some(bytes) = inner.late_write.take() {
            let disk = inner.disks[0].path.as_ref().expect("a disk to write to");
            fs::write(disk, bytes).expect("a late write");
        }
    }

    fn error(&self, status: u16, message: &str) -> (u16, String) {
        let body = match self.dialect {
            Dialect::CloudHypervisor => json!(["Error from API", message]),
            Dialect::Firecracker => json!({ "fault_message": message }),
        };
        (status, body.to_string())
    }

    fn cloud_hypervisor_info(&self) -> String {
        let inner = self.lock();
        let disks = inner.disks.iter().enumerate().map(|(number, disk)| {
            json!({
                "id": format!("_disk{number}"), "pci_segment": 0, "path": disk.path, "readonly": disk.is_read_only,
                "direct": false, "vhost_user": disk.path.is_none(), "image_type": "Raw",
            })
        });
        let mut config = json!({
            "cpus": {"boot_vcpus": 1, "max_vcpus": 1}, "memory": {"size": 1 << 20, "shared": false},
            "disks": disks.collect::<Vec<_>>(), "console": {"mode": "Off"},
        });
        merge(&mut config, &inner.extra_config);
        let state = format!("{:?}", inner.guest);
        json!({"config": config, "state": state, "memory_actual_size": 1 << 20}).to_string()
    }

    fn firecracker_config(&self) -> String {
        let inner = self.lock();
        let drives = inner.disks.iter().enumerate().map(|(number, disk)| {
            let socket = disk.path.is_none().then_some("/run/vhost.sock");
            let is_read_only = disk.path.as_ref().map(|_| disk.is_read_only);
            json!({
                "drive_id": format!("drive{number}"), "is_root_device": false, "cache_type": "Unsafe",
                "is_read_only": is_read_only, "path_on_host": disk.path, "io_engine": "Sync", "socket": socket,
            })
        });
        let mut config = json!({
            "balloon": null, "drives": drives.collect::<Vec<_>>(),
            "machine-config": {"vcpu_count": 1, "mem_size_mib": 1, "smt": false}, "pmem": [],
        });
        merge(&mut config, &inner.extra_config);
        config.to_string()
    }

    fn save_cloud_hypervisor(&self, body: &Value) -> (u16, String) {
        let url = body["destination_url"].as_str().unwrap_or_default();
        let Some(directory) = url
            .strip_prefix("file://")
            .map(Path::new)
            .filter(|path| path.is_dir())
        else {
            return self.error(500, &format!("Destination is not a directory: {url:?}"));
        };
        let info: Value =
            serde_json::from_str(&self.cloud_hypervisor_info()).expect("its own words");
        for name in ["config.json", "state.json", "memory-ranges"] {
            let text = match name {
                "config.json" => info["config"].to_string(),
                _ => name.to_owned(),
            };
            let created = OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(directory.join(name));
            if let Err(error) = created.and_then(|mut file| file.write_all(text.as_bytes())) {
                return self.error(
                    500,
                    &format!("Error creating VM {name} snapshot file: {error}"),
                );
            }
        }
        (204, String::new())
    }

    fn save_firecracker(&self, body: &Value) -> (u16, String) {
        for name in ["snapshot_path", "mem_file_path"] {
            let path = body[name].as_str().unwrap_or_default();
            if let Err(error) = fs::write(path, name) {
                return self.error(
                    400,
                    &format!("Create snapshot error: Cannot perform open on {path}: {error}"),
                );
            }
        }
        (204, String::new())
    }
}

/// The files of `disks` that are there.
fn open(disks: &[FakeDisk]) -> Vec<File> {
    let paths = disks.iter().filter_map(|disk| disk.path.as_ref());
    paths.filter_map(|path| File::open(path).ok()).collect()
}

fn merge(config: &mut Value, extra: &Value) {
    for (key, value) in extra.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
}
