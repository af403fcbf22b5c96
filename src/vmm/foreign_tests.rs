//! The drivers against VMMs that may say anything: real answers with values changed, left out, repeated, or their bytes
//! damaged. Whatever comes, a whole capture ends in time, with a result, and touches nothing but its own directory.
//! `contrib/fuzz.sh` runs these with more cases.

use std::cell::Cell;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};
use support::foreign::{altered, damaged};
use tempfile::TempDir;

use crate::fs::beneath::Beneath;
use crate::instance::Hypervisor;
use crate::interrupt::Watch;
use crate::vmm::stages::{Resumed, Secured};
use crate::vmm::{self, Deadline, DiskCopy, SavePlan, Timeouts, Vmm};

/// How long a VMM may take for an answer here.
const REQUEST: Duration = Duration::from_millis(60);
/// After so long the process is asked to stop, so that no wait goes on for ever.
const UNTIL_SIGNAL: Duration = Duration::from_millis(250);
/// By then the whole capture has to be over, also on a busy machine.
const END: Duration = Duration::from_secs(8);

thread_local! {
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// A signal some time after the case began, so long ago that cleaning up has no time left either.
fn signal() -> Option<Instant> {
    let began = BEGAN.get()?;
    (began.elapsed() > UNTIL_SIGNAL)
        .then(|| began.checked_sub(Duration::from_secs(60)))
        .flatten()
}

/// What a stranger does to each of its answers.
#[derive(Debug, Clone, Copy)]
struct Manner {
    /// One value in so many is another.
    rarity: u32,
    /// One answer in so many has damaged bytes; 0 is none.
    damage: u64,
    seed: u64,
}

impl Manner {
    fn say(&mut self, answer: &Value) -> Vec<u8> {
        self.seed = self
            .seed
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(1);
        let bytes = altered(answer, self.rarity, self.seed)
            .to_string()
            .into_bytes();
        if self.damage > 0 && (self.seed >> 32) % self.damage == 0 {
            damaged(&bytes, self.seed)
        } else {
            bytes
        }
    }
}

fn manner() -> impl Strategy<Value = Manner> {
    (5_u32..200, prop_oneof![Just(0), 2_u64..40], any::<u64>()).prop_map(
        |(rarity, damage, seed)| Manner {
            rarity,
            damage,
            seed,
        },
    )
}

/// What QEMU 7.2 answers, but for the fields that nobody reads.
fn qemus_answer(command: &str, disk: &Path) -> Value {
    let image = json!({
        "virtual-size": 1 << 20, "filename": disk, "format": "raw", "actual-size": 0, "dirty-flag": false,
        "cluster-size": 65_536, "snapshots": [{"id": "1", "name": "s", "vm-state-size": 0}],
        "format-specific": {"type": "qcow2", "data": {
            "compat": "1.1", "compression-type": "zlib", "lazy-refcounts": false, "extended-l2": false,
            "refcount-bits": 16, "bitmaps": [{"name": "b", "granularity": 65_536, "flags": ["auto"]}],
        }},
        "backing-filename": "/srv/base.raw", "full-backing-filename": "/srv/base.raw",
        "backing-image": {"virtual-size": 1 << 20, "filename": "/srv/base.raw", "format": "raw", "actual-size": 4096},
    });
    let inserted = json!({
        "image": image, "ro": false, "node-name": "#block165", "backing_file_depth": 0, "drv": "raw", "file": disk,
        "dirty-bitmaps": [{"name": "b", "persistent": true, "count": 0, "granularity": 65_536}],
        "encrypted": false, "cache": {"no-flush": false, "direct": false, "writeback": true},
    });
    match command {
        "query-status" => json!({"status": "running", "singlestep": false, "running": true}),
        "query-block" => json!([
            {"device": "ide0-hd0", "qdev": "/machine/unattached/device[18]", "type": "unknown", "locked": false,
             "removable": false, "io-status": "ok", "inserted": inserted},
            {"device": "floppy0", "locked": false, "removable": true, "type": "unknown"},
        ]),
        "query-named-block-nodes" => json!([inserted, inserted]),
        "query-migrate" => json!({
            "status": "completed", "total-time": 12, "downtime": 3, "blocked-reasons": [],
            "ram": {"total": 1 << 26, "transferred": 4096, "remaining": 0, "duplicate": 7, "normal": 9},
        }),
        "query-migrate-capabilities" => json!([
            {"capability": "xbzrle", "state": false}, {"capability": "events", "state": true},
            {"capability": "background-snapshot", "state": false}, {"capability": "x-colo", "state": false},
        ]),
        "query-migrate-parameters" => {
            json!({"max-bandwidth": 134_217_728, "downtime-limit": 300, "tls-authz": ""})
        }
        "query-jobs" => {
            json!([{"id": "hypeman-snap-0", "type": "backup", "status": "concluded", "current-progress": 1,
            "total-progress": 1}])
        }
        "query-fdsets" => json!([{"fdset-id": 1, "fds": [{"fd": 30, "opaque": "hypeman-snap"}]}]),
        "query-memory-size-summary" => json!({"base-memory": 1 << 26, "plugged-memory": 0}),
        "qom-list" => {
            json!([{"name": "type", "type": "string"}, {"name": "device[0]", "type": "child<virtio-blk-pci>"}])
        }
        "add-fd" => json!({"fdset-id": 1, "fd": 30}),
        "human-monitor-command" => json!(""),
        _ => json!({}),
    }
}

/// Serves one connection after the other as QEMU's monitor.
fn monitor(listener: &UnixListener, disk: &Path, mut manner: Manner) {
    for stream in listener.incoming().map_while(Result::ok) {
        let mut lines = BufReader::new(stream.try_clone().unwrap());
        let mut stream = stream;
        let greeting = json!({"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""},
            "capabilities": ["oob"]}});
        let mut say = |mut line: Vec<u8>| {
            line.push(b'\n');
            stream.write_all(&line).is_ok()
        };
        // Mostly as it should be, or nothing further would be reached.
        if !say(greeting.to_string().into_bytes()) {
            continue;
        }
        let mut line = Vec::new();
        while lines
            .read_until(b'\n', &mut line)
            .is_ok_and(|length| length > 0)
        {
            let request: Value = serde_json::from_slice(&line).unwrap_or_default();
            line.clear();
            let command = request["execute"].as_str().unwrap_or_default();
            let event = match command {
                "stop" => Some("STOP"),
                "cont" => Some("RESUME"),
                _ => None,
            };
            if let Some(event) = event {
                let event = json!({"event": event, "timestamp": {"seconds": 1_795_659_196, "microseconds": 838_465}});
                say(manner.say(&event));
            }
            let answer = json!({"return": qemus_answer(command, disk), "id": request["id"]});
            if !say(manner.say(&answer)) {
                break;
            }
        }
    }
}

/// What Cloud Hypervisor and Firecracker answer to a request for `path`.
fn api_answer(path: &str, disk: &Path) -> Value {
    match path {
        "/api/v1/vmm.ping" => json!({"version": "54.0.0", "build_version": "v54.0.0", "pid": 7}),
        "/api/v1/vm.info" => json!({"state": "Running", "memory_actual_size": 1 << 26, "config": {
            "memory": {"size": 1 << 26, "shared": false, "zones": [{"id": "a", "size": 1 << 20}]},
            "disks": [{"path": disk, "readonly": false, "id": "_disk0"}, {"path": "/x", "readonly": true}],
        }}),
        "/" => {
            json!({"id": "x", "state": "Running", "vmm_version": "1.17.0", "app_name": "Firecracker"})
        }
        "/version" => json!({"firecracker_version": "1.17.0"}),
        "/vm/config" => json!({
            "drives": [{"drive_id": "root", "path_on_host": disk, "is_read_only": false, "is_root_device": true}],
            "machine-config": {"vcpu_count": 1, "mem_size_mib": 64, "track_dirty_pages": false, "huge_pages": "None"},
        }),
        _ => json!({}),
    }
}

/// Serves one request after the other as an API socket.
fn api(listener: &UnixListener, disk: &Path, mut manner: Manner) {
    for stream in listener.incoming().map_while(Result::ok) {
        let Some(path) = read_request(&stream) else {
            continue;
        };
        let body = manner.say(&api_answer(&path, disk));
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        let head = match manner.seed >> 60 {
            0 => damaged(&head, manner.seed),
            _ => head,
        };
        let mut stream = stream;
        let _ = stream
            .write_all(&head)
            .and_then(|()| stream.write_all(&body));
    }
}

/// The path of the request; its body is read too.
fn read_request(stream: &UnixStream) -> Option<String> {
    let mut lines = BufReader::new(stream);
    let (mut first, mut line, mut length) = (String::new(), String::new(), 0);
    lines.read_line(&mut first).ok()?;
    while lines.read_line(&mut line).is_ok_and(|count| count > 2) {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        line.clear();
    }
    lines.take(length).read_to_end(&mut Vec::new()).ok()?;
    first.split(' ').nth(1).map(str::to_owned)
}

/// A whole capture of what listens there; errors are as good as anything.
fn capture(hypervisor: Hypervisor, socket: &Path, state_dir: &Path, source: &Arc<fs::File>) {
    let timeouts = Timeouts {
        request: REQUEST,
        watch: Watch::unlimited().with_signal(signal),
    };
    let Ok(mut vmm) = vmm::open(hypervisor, socket, timeouts) else {
        return;
    };
    let vmm: &mut dyn Vmm = vmm.as_mut();
    let _ = vmm.state();
    let _ = vmm.version();
    let _ = vmm.tracks_writes();
    let _ = vmm.outlook().map(|it| (it.pause(u64::MAX), it.to_string()));
    let _ = vmm.settings();
    let disks = vmm.disks().unwrap_or_default();
    let directory = Beneath::open(state_dir).unwrap();
    let copied = disks.into_iter().filter(|disk| !disk.is_read_only).take(3);
    let plan = SavePlan {
        base: None,
        socket_dir: None,
        disks: copied
            .enumerate()
            .map(|(index, disk)| DiskCopy {
                disk,
                source: Arc::clone(source),
                target: Arc::new(
                    directory
                        .create_file(Path::new(&format!("disk{index}")))
                        .unwrap(),
                ),
                target_path: state_dir.join(format!("disk{index}")),
            })
            .collect(),
        state_dir: Some(directory),
    };
    let taken = vmm
        .prepare(&plan)
        .and_then(|mut prepared| {
            prepared.write_out()?;
            prepared.pause()
        })
        .and_then(|paused| paused.save(Deadline::after(UNTIL_SIGNAL)))
        .and_then(Secured::resume)
        .and_then(Resumed::finish);
    if taken.is_err() {
        let _ = vmm.resume();
    }
    let _ = vmm.discard(true);
}

/// Everything below `dir`, sorted.
fn names(dir: &Path) -> Vec<String> {
    let (mut names, mut dirs) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            names.push(path.display().to_string());
            if path.is_dir() && !path.is_symlink() {
                dirs.push(path);
            }
        }
    }
    names.sort();
    names
}

/// Lets a stranger of this manner be captured, and holds the tool against its bounds.
fn assert_is_survived(hypervisor: Hypervisor, manner: Manner) {
    let dir = TempDir::new_in("/tmp").unwrap();
    let (socket, state) = (dir.path().join("s"), dir.path().join("state"));
    let disk = dir.path().join("disk.raw");
    fs::File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    let source = Arc::new(fs::File::open(&disk).unwrap());
    fs::create_dir(&state).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let stop = listener.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| match hypervisor {
            Hypervisor::Qemu | Hypervisor::QemuMicrovm => monitor(&listener, &disk, manner),
            Hypervisor::CloudHypervisor | Hypervisor::Firecracker => {
                api(&listener, &disk, manner);
            }
        });
        let outside = |name: &String| !Path::new(name).starts_with(&state);
        let before: Vec<String> = names(dir.path()).into_iter().filter(outside).collect();
        let began = Instant::now();
        BEGAN.set(Some(began));
        capture(hypervisor, &socket, &state, &source);
        let took = began.elapsed();
        let after: Vec<String> = names(dir.path()).into_iter().filter(outside).collect();
        // Ends the thread that serves: accept fails from now on.
        rustix::net::shutdown(&stop, rustix::net::Shutdown::Both).unwrap();
        assert!(took < END, "{hypervisor:?} {manner:?} took {took:?}");
        assert_eq!(before, after, "{hypervisor:?} {manner:?}");
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn foreign_words_of_qemu_are_survived(manner in manner()) {
        assert_is_survived(Hypervisor::Qemu, manner);
    }

    #[test]
    fn foreign_words_of_cloud_hypervisor_are_survived(manner in manner()) {
        assert_is_survived(Hypervisor::CloudHypervisor, manner);
    }

    #[test]
    fn foreign_words_of_firecracker_are_survived(manner in manner()) {
        assert_is_survived(Hypervisor::Firecracker, manner);
    }
}

#[test]
fn words_that_are_as_they_should_be_are_understood() {
    let manner = Manner {
        rarity: 0,
        damage: 0,
        seed: 1,
    };
    for hypervisor in [
        Hypervisor::Qemu,
        Hypervisor::CloudHypervisor,
        Hypervisor::Firecracker,
    ] {
        let dir = TempDir::new_in("/tmp").unwrap();
        let (socket, disk) = (dir.path().join("s"), dir.path().join("disk.raw"));
        fs::File::create(&disk).unwrap().set_len(1 << 20).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let stop = listener.try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| match hypervisor {
                Hypervisor::Qemu | Hypervisor::QemuMicrovm => monitor(&listener, &disk, manner),
                Hypervisor::CloudHypervisor | Hypervisor::Firecracker => {
                    api(&listener, &disk, manner);
                }
            });
            let timeouts = Timeouts {
                request: Duration::from_secs(30),
                watch: Watch::unlimited(),
            };
            let said = vmm::open(hypervisor, &socket, timeouts)
                .and_then(|mut vmm| Ok((vmm.state()?, vmm.disks()?)));
            // First, or a failure would wait for the thread that serves.
            rustix::net::shutdown(&stop, rustix::net::Shutdown::Both).unwrap();
            let (state, disks) = said.unwrap();
            assert_eq!(state, vmm::VmmState::Running);
            assert_eq!(disks[0].path, disk);
        });
    }
}
