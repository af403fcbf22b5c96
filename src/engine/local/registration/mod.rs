//! VMs that hypeman does not run: what the admin said of one, and what was learnt of it since.

mod old;
mod register;
mod registry;

use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::engine::local::resting::RestingFile;
use crate::engine::registrar::Declared;
use crate::fs::open_files::FileId;
use crate::snapshot::SnapshotId;
use crate::snapshot::manifest::Manifest;

pub(super) use old::{Old, adopt, find as find_old};
pub(super) use register::socket_warning;
pub(super) use register::{is_registered, register, unregister};
pub use registry::Registry;

/// A registered VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    /// What the admin said.
    #[serde(flatten)]
    pub declared: Declared,
    /// When it was first registered.
    pub registered_at: DateTime<Utc>,
    /// What was learnt from the VM itself.
    #[serde(default)]
    pub learnt: Learnt,
}

/// What was learnt from the VM itself. None of it is the admin's word.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Learnt {
    /// Its VMM's process when it last answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vmm: Option<Seen>,
    /// The disks that its VMM had open for writing then.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<LearntDisk>,
    /// The data directory that a snapshot of this VM was last written to: when its store is not there any more, it is not
    /// mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshots_in: Option<PathBuf>,
    /// The memory that a restore laid down and that the VM was not started from yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restored: Option<RestoredMemory>,
}

/// Memory that goes with disks as they were at one moment, and with no other ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RestoredMemory {
    /// The directory that it lies in, as in a snapshot's `guest/`.
    pub directory: PathBuf,
    /// The snapshot that it is from.
    pub snapshot_id: SnapshotId,
    /// The disks.
    pub disks: Vec<RestingFile>,
    /// How it was made: the snapshot's manifest. What lies beside the memory is the VM's user's to change.
    pub manifest: Manifest,
}

/// A VMM's process as it was met: the same one if all of it is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The process id.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start_ticks: u64,
    /// The kernel's boot id.
    pub boot_id: String,
    /// The user that it reaches files as.
    pub uid: u32,
}

/// A disk that a VMM had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearntDisk {
    /// Where it was, without symlinks.
    pub path: PathBuf,
    /// Which file that was.
    #[serde(flatten)]
    pub file: FileId,
}

/// A disk of a VM that is off, by whose word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskAtRest<'a> {
    /// The admin's: whatever it leads to.
    Named(&'a Path),
    /// A VMM's: that very file, or an error.
    Learnt(&'a LearntDisk),
}

impl Registration {
    /// The disks that a snapshot of the VM at rest has: those that the admin named, and those that were learnt and are
    /// none of them.
    pub fn disks_at_rest(&self) -> Vec<DiskAtRest<'_>> {
        let named: Vec<FileId> = self
            .declared
            .disks
            .iter()
            .filter_map(|disk| FileId::at(disk).ok())
            .collect();
        let learnt = self.learnt.disks.iter().filter(|disk| {
            !named.contains(&disk.file) && !self.declared.disks.contains(&disk.path)
        });
        self.declared
            .disks
            .iter()
            .map(|path| DiskAtRest::Named(path))
            .chain(learnt.map(DiskAtRest::Learnt))
            .collect()
    }

    /// The VM as hypeman's `metadata.json` would describe it, with every key that its server expects in a snapshot's
    /// record. `guest_dir` is where hypeman would keep it.
    pub fn as_metadata(&self, guest_dir: &Path) -> Map<String, Value> {
        let registered_at = self
            .registered_at
            .to_rfc3339_opts(SecondsFormat::AutoSi, true);
        let Declared {
            id,
            name,
            hypervisor,
            socket,
            ..
        } = &self.declared;
        let value = json!({
            "Id": id,
            "Name": name,
            "Image": "",
            "ResolvedImage": "",
            "Size": 0,
            "HotplugSize": 0,
            "OverlaySize": 0,
            "Vcpus": 0,
            "Env": null,
            "Tags": null,
            "NetworkEnabled": false,
            "IP": "",
            "MAC": "",
            "Volumes": null,
            "CreatedAt": registered_at,
            "ExpiresAt": null,
            "StartedAt": null,
            "StoppedAt": null,
            "ProgramStartedAt": registered_at,
            "GuestAgentReadyAt": registered_at,
            "KernelVersion": "",
            "HypervisorType": hypervisor.as_str(),
            "HypervisorVersion": "",
            "HypervisorPID": null,
            "FirecrackerSnapshotCacheKey": "",
            "FirecrackerUFFDSessionID": "",
            // Both are valid UTF-8 wherever they could be registered.
            "SocketPath": socket.to_string_lossy(),
            "DataDir": guest_dir.to_string_lossy(),
            "VsockCID": 0,
            "VsockSocket": "",
            "Devices": null,
            "GPUProfile": "",
            "GPUMdevUUID": "",
            // There are no boot markers to wait for.
            "SkipGuestAgent": true,
            "PendingStandbyCompression": null,
        });
        match value {
            Value::Object(map) => map,
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => Map::new(),
        }
    }
}

#[cfg(test)]
mod tests;
