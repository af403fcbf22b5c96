//! One instance's `metadata.json` (contract, section 4): the fields that matter here, and the whole as it stands. Knows
//! nothing of the VMM's answer.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Local, SecondsFormat, Utc};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::json::{self, ReadError};
use super::registration::{DiskAtRest, Registration, RestoredMemory};
use crate::fs::absence::is_there;
use crate::instance::{Hypervisor, InstanceId, State, UnknownHypervisor};
use crate::snapshot::Consistency;

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
    /// Its registration; `None` for an instance of hypeman's.
    pub registration: Option<Registration>,
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
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Volume {
    #[serde(rename = "VolumeID", default)]
    id: String,
    #[serde(rename = "Readonly", default)]
    is_read_only: bool,
}

impl Metadata {
    /// Reads the metadata of the instance `id` in its directory, symlinks not followed: others may write there.
    ///
    /// # Errors
    /// When the file is not there, can't be read or parsed, or is another instance's.
    pub fn read(guest_dir: BorrowedFd<'_>, id: &InstanceId) -> Result<Self, MetadataError> {
        Self::parse(json::read_in(guest_dir, "metadata.json")?, id)
    }

    /// The metadata of a registered VM. `guest_dir` is where hypeman would keep it.
    ///
    /// # Errors
    /// Never in practice: what is made of a registration can be parsed.
    pub fn of_registered(
        registration: Registration,
        guest_dir: &Path,
    ) -> Result<Self, MetadataError> {
        let whole = registration.as_metadata(guest_dir);
        let id = registration.declared.id.clone();
        Ok(Self {
            registration: Some(registration),
            ..Self::parse(whole, &id)?
        })
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
            registration: None,
            has_program_started: has_marker("ProgramStartedAt"),
            is_agent_ready: wire.skip_guest_agent || has_marker("GuestAgentReadyAt"),
            volumes: wire.volumes.unwrap_or_default(),
            devices: wire.devices.unwrap_or_default(),
            has_vgpu: is_set(wire.gpu_profile) || is_set(wire.gpu_mdev_uuid),
            whole,
        })
    }

    /// Whether `register` made this instance; else hypeman did, and runs it.
    pub fn is_registered(&self) -> bool {
        self.registration.is_some()
    }

    /// The disks that the admin named at `register`.
    pub fn named_disks(&self) -> &[PathBuf] {
        self.registration
            .as_ref()
            .map_or(&[], |registration| &registration.declared.disks)
    }

    /// The disks of a registered VM at rest: those that the admin named, and those that were learnt.
    pub fn disks_at_rest(&self) -> Vec<DiskAtRest<'_>> {
        self.registration
            .as_ref()
            .map(Registration::disks_at_rest)
            .unwrap_or_default()
    }

    /// The memory that a restore laid down for a registered VM.
    pub fn restored_memory(&self) -> Option<&RestoredMemory> {
        self.registration.as_ref()?.learnt.restored.as_ref()
    }

    /// The same without memory that a restore laid down, and without disks that are gone.
    pub fn what_is_left(&self) -> Self {
        let mut left = self.clone();
        if let Some(registration) = &mut left.registration {
            registration.learnt.restored = None;
            let is_left = |path: &Path| !matches!(is_there(path), Ok(false));
            registration.declared.disks.retain(|it| is_left(it));
            registration.learnt.disks.retain(|it| is_left(&it.path));
        }
        left
    }

    /// Whether a snapshot of this VM at rest would hold nothing; of hypeman's instances that is not known from here.
    pub fn has_no_known_disk(&self) -> bool {
        self.is_registered() && self.disks_at_rest().is_empty()
    }

    /// The directories in which its disks live, if the admin said so.
    pub fn disk_roots(&self) -> &[PathBuf] {
        self.registration
            .as_ref()
            .map_or(&[], |registration| &registration.declared.disk_roots)
    }

    /// Whether a version before 0.2 of this tool registered it; what else stands there may be anybody's word.
    pub fn is_old_registration(&self) -> bool {
        self.whole.get("HypemanSnapRegistered") == Some(&Value::Bool(true))
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

    /// Why this instance can't be snapshotted in `state`, if so (contract, section 3).
    pub fn refusal(&self, consistency: Consistency, state: State) -> Option<String> {
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
        // The state of devices matters to a saved memory alone.
        if state != State::Running || consistency != Consistency::Memory {
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
            ("FirecrackerUFFDSessionID", Value::from("")),
            ("FirecrackerUFFDPagerVersion", Value::from("")),
        ] {
            replace(&mut stored, key, cleared);
        }
        if state == State::Running {
            stored.insert("StoppedAt".to_owned(), Value::from(local_time(now)));
            // Computed anew where it is empty. With an old one, forks of two snapshots would share cached pages.
            replace(&mut stored, "FirecrackerSnapshotCacheKey", Value::from(""));
            // They speak of the saved state from which the guest was started, which is not this one.
            replace(&mut stored, "FirecrackerUseUFFDOnNextRestore", false.into());
            replace(
                &mut stored,
                "FirecrackerDeferredSnapshotMemoryPath",
                Value::from(""),
            );
            // Else the time from here to a restore would count as time in which the guest ran.
            if let Some(Value::Object(phases)) = stored.get_mut("phases") {
                replace(phases, "current", Value::from("standby"));
                replace(phases, "since", Value::from(local_time(now)));
            }
        }
        stored
    }
}

/// Makes what is stored with a snapshot say that there is no saved memory.
pub(super) fn without_memory(stored: &mut Map<String, Value>) {
    replace(stored, "FirecrackerUseUFFDOnNextRestore", false.into());
    replace(
        stored,
        "FirecrackerDeferredSnapshotMemoryPath",
        Value::from(""),
    );
    if let Some(Value::Object(phases)) = stored.get_mut("phases") {
        replace(phases, "current", Value::from("stopped"));
    }
}

/// Gives `key` another value, where it is there.
fn replace(map: &mut Map<String, Value>, key: &str, value: Value) {
    if let Some(old) = map.get_mut(key) {
        *old = value;
    }
}

/// A moment as hypeman writes it: in the host's time zone, with its offset (contract, section 4).
pub(super) fn local_time(moment: DateTime<Utc>) -> String {
    moment
        .with_timezone(&Local)
        .to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: Value) -> Metadata {
        try_parse(value).unwrap()
    }

    fn try_parse(value: Value) -> Result<Metadata, MetadataError> {
        let Value::Object(whole) = value else {
            panic!("not an object: {value}");
        };
        Metadata::parse(whole, &"vm1".parse().unwrap())
    }

    /// The contract's example, abridged, with nulls as Go writes them.
    fn example() -> Value {
        json!({
            "Id": "vm1", "Name": "web-a", "Zebra": [1, {"b": 1, "a": 2}], "Env": {"TOKEN": "x"},
            "Volumes": null, "HypervisorType": "cloud-hypervisor", "HypervisorPID": 4242,
            "SocketPath": "/data/guests/vm1/ch.sock", "DataDir": "/data/guests/vm1",
            "Devices": null, "GPUProfile": "", "GPUMdevUUID": "", "SkipGuestAgent": false,
            "ProgramStartedAt": "2026-09-01T08:00:04Z", "GuestAgentReadyAt": "2026-09-01T08:00:05Z",
            "StoppedAt": null, "PendingStandbyCompression": {"x": 1},
            "auto_standby_runtime": {}, "Aardvark": 1, "health_check_runtime": null
        })
    }

    fn with(mut value: Value, key: &str, to: Value) -> Value {
        value[key] = to;
        value
    }

    #[test]
    fn the_fields_that_matter_are_read() {
        let metadata = parse(example());
        assert_eq!(metadata.name, "web-a");
        assert_eq!(metadata.hypervisor().unwrap(), Hypervisor::CloudHypervisor);
        assert_eq!(metadata.socket, Path::new("/data/guests/vm1/ch.sock"));
        assert_eq!(metadata.data_dir, Path::new("/data/guests/vm1"));
        assert!(!metadata.is_registered());
        assert_eq!(metadata.process.unwrap().pid, 4242);
        assert!(metadata.has_program_started && metadata.is_agent_ready);
    }

    #[test]
    fn a_null_marker_is_a_guest_that_boots_and_a_missing_one_an_older_server() {
        let booting = parse(with(example(), "ProgramStartedAt", Value::Null));
        assert!(!booting.has_program_started);
        let booting = parse(with(example(), "GuestAgentReadyAt", Value::Null));
        assert!(booting.has_program_started && !booting.is_agent_ready);
        let without_agent = with(example(), "GuestAgentReadyAt", Value::Null);
        assert!(parse(with(without_agent, "SkipGuestAgent", json!(true))).is_agent_ready);
        let old = parse(json!({"Id": "vm1"}));
        assert!(old.has_program_started && old.is_agent_ready);
    }

    #[test]
    fn another_instances_file_is_refused() {
        let error = try_parse(with(example(), "Id", json!("vm2"))).unwrap_err();
        assert!(matches!(error, MetadataError::WrongId(ref id) if id == "vm2"));
        assert!(try_parse(json!({"Name": "no id"})).is_err());
        assert!(try_parse(with(example(), "SocketPath", json!(7))).is_err());
    }

    #[test]
    fn hypervisors_are_known_or_said_to_be_unknown() {
        let none = parse(with(example(), "HypervisorType", json!("")));
        assert_eq!(none.hypervisor().unwrap(), Hypervisor::CloudHypervisor);
        let new = parse(with(example(), "HypervisorType", json!("crosvm")));
        assert!(new.hypervisor().unwrap_err().to_string().contains("crosvm"));
    }

    #[test]
    fn a_writable_volume_refuses_every_snapshot() {
        let volume =
            |read_only| json!([{"VolumeID": "vol-1", "Readonly": read_only, "Overlay": true}]);
        let writable = parse(with(example(), "Volumes", volume(false)));
        for state in [State::Running, State::Standby, State::Stopped] {
            let refusal = writable.refusal(Consistency::Memory, state).unwrap();
            assert!(refusal.contains("vol-1"), "{refusal}");
        }
        let unsaid = parse(with(example(), "Volumes", json!([{"VolumeID": "vol-1"}])));
        assert!(
            unsaid
                .refusal(Consistency::Memory, State::Stopped)
                .is_some()
        );
        let read_only = parse(with(example(), "Volumes", volume(true)));
        assert_eq!(read_only.refusal(Consistency::Memory, State::Running), None);
    }

    #[test]
    fn devices_refuse_only_while_the_guest_runs() {
        for (key, value, word) in [
            ("GPUProfile", json!("L40S-1Q"), "vGPU"),
            ("GPUMdevUUID", json!("0000-11"), "vGPU"),
            ("Devices", json!(["nic-7"]), "nic-7"),
        ] {
            let metadata = parse(with(example(), key, value));
            let refusal = metadata
                .refusal(Consistency::Memory, State::Running)
                .unwrap();
            assert!(refusal.contains(word), "{refusal}");
            assert_eq!(
                metadata.refusal(Consistency::Memory, State::Stopped),
                None,
                "{key}"
            );
        }
        assert_eq!(
            parse(example()).refusal(Consistency::Memory, State::Running),
            None
        );
    }

    #[test]
    fn what_a_snapshot_stores_is_the_file_without_its_runtime() {
        let metadata = parse(example());
        let now = "2026-09-02T03:15:20.5Z".parse().unwrap();
        let stored = metadata.for_snapshot(State::Running, now);
        let expected: Vec<&str> = metadata
            .whole
            .keys()
            .map(String::as_str)
            .filter(|key| !key.ends_with("_runtime"))
            .collect();
        assert_eq!(stored.keys().collect::<Vec<_>>(), expected);
        assert_eq!(stored["HypervisorPID"], Value::Null);
        assert_eq!(stored["PendingStandbyCompression"], Value::Null);
        assert_eq!(stored["Zebra"], json!([1, {"b": 1, "a": 2}]));
        let stopped: DateTime<Utc> = stored["StoppedAt"].as_str().unwrap().parse().unwrap();
        assert_eq!(stopped, now);
        assert_eq!(
            metadata.for_snapshot(State::Standby, now)["StoppedAt"],
            Value::Null
        );
    }

    #[test]
    fn a_snapshot_keeps_no_word_of_the_process_that_ran() {
        let mut value = example();
        value["HypervisorStartTime"] = json!(123_456);
        value["HypervisorBootID"] = json!("b-1");
        let metadata = parse(value);
        assert_eq!(
            metadata.process,
            Some(RecordedProcess {
                pid: 4242,
                start_ticks: Some(123_456),
                boot_id: Some("b-1".to_owned()),
            })
        );
        let stored = metadata.for_snapshot(State::Stopped, DateTime::UNIX_EPOCH);
        assert_eq!(stored["HypervisorPID"], Value::Null);
        assert_eq!(stored["HypervisorStartTime"], 0);
        assert_eq!(stored["HypervisorBootID"], "");
    }

    #[test]
    fn the_snapshot_of_a_running_guest_shares_no_cached_pages_and_does_not_count_as_running() {
        let mut value = example();
        value["FirecrackerSnapshotCacheKey"] = json!("key");
        value["FirecrackerUFFDSessionID"] = json!("session");
        value["FirecrackerUFFDPagerVersion"] = json!("v1");
        value["FirecrackerUseUFFDOnNextRestore"] = json!(true);
        value["FirecrackerDeferredSnapshotMemoryPath"] = json!("/elsewhere/memory");
        value["phases"] = json!({
            "current": "running", "since": "2026-09-01T08:00:05Z", "cumulative": {"running": 5}
        });
        let metadata = parse(value.clone());
        let now = "2026-09-02T03:15:20.5Z".parse().unwrap();
        let running = metadata.for_snapshot(State::Running, now);
        assert_eq!(running["FirecrackerSnapshotCacheKey"], "");
        assert_eq!(running["FirecrackerUFFDSessionID"], "");
        assert_eq!(running["FirecrackerUFFDPagerVersion"], "");
        assert_eq!(running["FirecrackerUseUFFDOnNextRestore"], false);
        assert_eq!(running["FirecrackerDeferredSnapshotMemoryPath"], "");
        assert_eq!(running["phases"]["current"], "standby");
        let since: DateTime<Utc> = running["phases"]["since"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(since, now);
        assert_eq!(running["phases"]["cumulative"], json!({"running": 5}));

        // What hypeman wrote when it saved the guest itself is true of a copy.
        let standby = metadata.for_snapshot(State::Standby, now);
        assert_eq!(standby["FirecrackerSnapshotCacheKey"], "key");
        assert_eq!(standby["FirecrackerUFFDSessionID"], "");
        assert_eq!(standby["FirecrackerUseUFFDOnNextRestore"], true);
        assert_eq!(standby["phases"], value["phases"]);

        // An older server has no such keys, and gets none.
        let stored = parse(example()).for_snapshot(State::Running, now);
        assert!(!stored.contains_key("FirecrackerSnapshotCacheKey"));
        assert!(!stored.contains_key("phases"));
    }

    #[test]
    fn large_numbers_survive_to_the_last_digit() {
        let text =
            r#"{"Id":"vm1","VsockCID":9223372036854775807,"Big":18446744073709551615,"F":0.1}"#;
        let whole = serde_json::from_str(text).unwrap();
        let metadata = Metadata::parse(whole, &"vm1".parse().unwrap()).unwrap();
        assert_eq!(serde_json::to_string(&metadata.whole).unwrap(), text);
    }
}
