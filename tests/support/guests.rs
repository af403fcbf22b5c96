//! Guest directories of a hypeman data directory, made by hand: metadata and one small disk, no VMM.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// Makes `guests/ID/` below `data_dir` for a VM that is stopped: its metadata as hypeman writes it, and a disk of 1 MiB that
/// starts with its id.
///
/// # Panics
/// When it can't be written.
pub fn write_stopped(data_dir: &Path, id: &str, name: &str) -> PathBuf {
    let dir = data_dir.join("guests").join(id);
    fs::create_dir_all(&dir).expect("a guest directory");
    let metadata = serde_json::to_string_pretty(&metadata(&dir, id, name)).expect("JSON");
    fs::write(dir.join("metadata.json"), metadata).expect("metadata");
    let disk = fs::File::create(dir.join("overlay.raw")).expect("a disk");
    std::io::Write::write_all(&mut &disk, id.as_bytes()).expect("a disk");
    disk.set_len(1 << 20).expect("a disk");
    dir
}

/// Makes each snapshot of the instance fail, whose disk is lost: a snapshot would hold nothing.
///
/// # Panics
/// When the disk is not there.
pub fn spoil(guest_dir: &Path) {
    // Logs belong to no snapshot.
    let logs = guest_dir.join("logs");
    fs::create_dir_all(&logs).expect("a directory");
    fs::rename(guest_dir.join("overlay.raw"), logs.join("lost")).expect("a disk");
}

/// Undoes [`spoil`].
///
/// # Panics
/// When the disk is not there.
pub fn mend(guest_dir: &Path) {
    fs::rename(guest_dir.join("logs/lost"), guest_dir.join("overlay.raw")).expect("a disk");
}

fn metadata(dir: &Path, id: &str, name: &str) -> Value {
    json!({
        "Id": id, "Name": name, "Image": "docker.io/library/alpine:latest", "ResolvedImage": "",
        "Size": 1_073_741_824, "OverlaySize": 1_048_576, "HotplugSize": 0, "Vcpus": 1, "Env": null, "Tags": null,
        "NetworkEnabled": false, "IP": "", "MAC": "", "CreatedAt": "2026-09-01T08:00:00Z", "StartedAt": null,
        "StoppedAt": "2026-09-01T09:00:00Z", "ExpiresAt": null, "KernelVersion": "", "Volumes": null,
        "HypervisorType": "qemu", "HypervisorVersion": "", "HypervisorPID": null,
        "SocketPath": dir.join("qemu.sock"), "DataDir": dir, "VsockCID": 0, "VsockSocket": dir.join("vsock.sock"),
        "Devices": null, "GPUProfile": "", "GPUMdevUUID": "", "SkipGuestAgent": true,
        "ProgramStartedAt": null, "GuestAgentReadyAt": null
    })
}
