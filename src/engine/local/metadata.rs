//! One instance's `metadata.json` (contract, section 4): the fields that matter here, and the whole as it stands. Knows
//! nothing of the VMM's answer.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Local, SecondsFormat, Utc};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::json::{self, ReadError};
use crate::instance::{Hypervisor, InstanceId, State, UnknownHypervisor};

/// Keys that hypeman keeps in `metadata.json` only, not in a snapshot's record (contract, section 4).
const RUNTIME_KEYS: [&str; 2] = ["auto_standby_runtime", "health_check_runtime"];

/// The metadata of one instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Metadata {
    /// The instance's id; the name of its directory.
    pub id: InstanceId,
    /// Its name; may be empty.
    pub name: String,
    /// Its hypervisor as it is spelled in the file.
    pub hypervisor: String,
    /// The VMM's process when the file was written; it may be another process by now.
    pub process: Option<RecordedProcess>,
    /// The VMM's control socket; empty when there is none.
    pub socket: PathBuf,
    /// The instance's directory as hypeman knows it; empty when the file has none.
    pub data_dir: PathBuf,
    /// The disks outside the guest directory, for an instance that `register` made; else `None`.
    pub registered_disks: Option<Vec<PathBuf>>,
    /// Whether the guest's programs had started, as far as the file knows.
    pub has_program_started: bool,
    /// Whether the guest agent was ready or is not waited for, as far as the file knows.
    pub is_agent_ready: bool,
    volumes: Vec<Volume>,
    devices: Vec<String>,
    has_vgpu: bool,
    whole: Map<String, Value>,
}

/// A VMM process as hypeman wrote it down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedProcess {
    /// The process id.
    pub pid: i32,
    /// When it started, in clock ticks since boot; `None` where the server did not write it.
    pub start_ticks: Option<u64>,
    /// The kernel's boot id at that time; `None` where the server did not write it.
    pub boot_id: Option<String>,
}

/// Why an instance's metadata could not be had.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// The file could not be read or parsed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The file is another instance's.
    #[error("its Id is {0:?}, which is not the name of its directory")]
    WrongId(String),
}

impl MetadataError {
    /// Whether there is no such file.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Read(error) if error.is_not_found())
    }
}

/// The keys that matter. Every list, map and pointer may be `null`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Wire {
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    hypervisor_type: String,
    #[serde(rename = "HypervisorPID", default)]
    hypervisor_pid: Option<i32>,
    #[serde(default)]
    hypervisor_start_time: Option<u64>,
    #[serde(rename = "HypervisorBootID", default)]
    hypervisor_boot_id: Option<String>,
    #[serde(default)]
    socket_path: PathBuf,
    #[serde(default)]
    data_dir: PathBuf,
    #[serde(default)]
    volumes: Option<Vec<Volume>>,
    #[serde(default)]
    devices: Option<Vec<String>>,
    #[serde(rename = "GPUProfile", default)]
    gpu_profile: Option<String>,
    #[serde(rename = "GPUMdevUUID", default)]
    gpu_mdev_uuid: Option<String>,
    #[serde(default)]
    skip_guest_agent: bool,
    #[serde(default)]
    hypeman_snap_registered: bool,
    #[serde(default)]
    hypeman_snap_disks: Option<Vec<PathBuf>>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Volume {
    #[serde(rename = "VolumeID", default)]
    id: String,
    #[serde(rename = "Readonly", default)]
    is_read_only: bool,
}

impl Metadata {
    /// Reads the metadata of the instance `id` in `guest_dir`.
    ///
    /// # Errors
    /// When the file is not there, can't be read or parsed, or is another instance's.
    pub fn read(guest_dir: &Path, id: &InstanceId) -> Result<Self, MetadataError> {
        Self::parse(json::read(&guest_dir.join("metadata.json"))?, id)
    }

    /// Takes the metadata of the instance `id` from the content of its file.
    ///
    /// # Errors
    /// When a key that matters has the wrong type, or the instance is another one.
    pub fn parse(whole: Map<String, Value>, id: &InstanceId) -> Result<Self, MetadataError> {
        let wire: Wire =
            Wire::deserialize(Value::Object(whole.clone())).map_err(ReadError::Parse)?;
        if wire.id != id.as_str() {
            return Err(MetadataError::WrongId(wire.id));
        }
        // A server from before these markers does not have the keys: there is nothing to wait for. `null` is a guest
        // that has not reported yet.
        let has_marker = |key: &str| whole.get(key).is_none_or(|value| !value.is_null());
        let is_set = |text: Option<String>| text.is_some_and(|text| !text.is_empty());
        Ok(Self {
            id: id.clone(),
            name: wire.name,
            hypervisor: wire.hypervisor_type,
            process: wire.hypervisor_pid.map(|pid| RecordedProcess {
                pid,
                start_ticks: wire.hypervisor_start_time.filter(|ticks| *ticks != 0),
                boot_id: wire.hypervisor_boot_id.filter(|id| !id.is_empty()),
            }),
            socket: wire.socket_path,
            data_dir: wire.data_dir,
            registered_disks: wire
                .hypeman_snap_registered
                .then(|| wire.hypeman_snap_disks.unwrap_or_default()),
            has_program_started: has_marker("ProgramStartedAt"),
            is_agent_ready: wire.skip_guest_agent || has_marker("GuestAgentReadyAt"),
            volumes: wire.volumes.unwrap_or_default(),
            devices: wire.devices.unwrap_or_default(),
            has_vgpu: is_set(wire.gpu_profile) || is_set(wire.gpu_mdev_uuid),
            whole,
        })
    }

    /// The hypervisor.
    ///
    /// # Errors
    /// When this tool does not know it.
    pub fn hypervisor(&self) -> Result<Hypervisor, UnknownHypervisor> {
        match self.hypervisor.as_str() {
            // A file from before there was a choice.
            "" => Ok(Hypervisor::CloudHypervisor),
            named => named.parse(),
        }
    }

    /// The file's content, keys in its order.
    pub fn whole(&self) -> &Map<String, Value> {
        &self.whole
    }

    /// Why this instance can't be snapshotted in `state`, if so (contract, section 3).
    pub fn refusal(&self, state: State) -> Option<String> {
        let writable: Vec<&str> = self
            .volumes
            .iter()
            .filter(|volume| !volume.is_read_only)
            .map(|volume| volume.id.as_str())
            .collect();
        if !writable.is_empty() {
            return Some(format!(
                "instance {} has writable volumes ({}), and a volume is not part of a snapshot; attach them read-only, \
                 with an overlay if the guest must write",
                self.id,
                writable.join(", ")
            ));
        }
        if state != State::Running {
            return None;
        }
        if self.has_vgpu {
            return Some(format!(
                "instance {} runs with a vGPU, whose state can't be saved; stop it first",
                self.id
            ));
        }
        if !self.devices.is_empty() {
            return Some(format!(
                "instance {} runs with passed-through devices ({}), whose state can't be saved; stop it first",
                self.id,
                self.devices.join(", ")
            ));
        }
        None
    }

    /// The `stored_metadata` of a snapshot that is taken at `now` from `state` (contract, section 4): what hypeman
    /// would store, that is this file without what describes the running process or the server's own work. Of a
    /// running instance it says what hypeman's standby says, stopped at `now`.
    pub fn for_snapshot(&self, state: State, now: DateTime<Utc>) -> Map<String, Value> {
        let mut stored = self.whole.clone();
        for key in RUNTIME_KEYS {
            stored.shift_remove(key);
        }
        stored.insert("HypervisorPID".to_owned(), Value::Null);
        for (key, cleared) in [
            ("HypervisorStartTime", Value::from(0)),
            ("HypervisorBootID", Value::from("")),
            ("PendingStandbyCompression", Value::Null),
        ] {
            if let Some(value) = stored.get_mut(key) {
                *value = cleared;
            }
        }
        if state == State::Running {
            stored.insert("StoppedAt".to_owned(), Value::from(local_time(now)));
        }
        stored
    }
}

/// A moment as hypeman writes it: in the host's time zone, with its offset (contract, section 4).
pub(super) fn local_time(moment: DateTime<Utc>) -> String {
    moment
        .with_timezone(&Local)
        .to_rfc3339_opts(SecondsFormat::AutoSi, true)
}
